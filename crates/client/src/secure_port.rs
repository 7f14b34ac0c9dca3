//! The secure port of kube-controller-manager and kube-scheduler, by their flags: certificates, who may ask, bounds.

use std::net::SocketAddr;
use std::sync::Arc;

use component::metrics::Registry;
use component::serve::{Handler, Settings, guarded};
use component::tls::{self, Tls};
use component::{Flags, Shutdown};

use crate::gate::Delegated;
use crate::rest::Options;

/// Flags that are honoured here.
pub const FLAGS: &[&str] = &[
    "authentication-kubeconfig",
    "authentication-skip-lookup",
    "authentication-token-webhook-cache-ttl",
    "authentication-tolerate-lookup-failure",
    "authorization-always-allow-paths",
    "authorization-kubeconfig",
    "authorization-webhook-cache-authorized-ttl",
    "authorization-webhook-cache-unauthorized-ttl",
    "bind-address",
    "cert-dir",
    "client-ca-file",
    "disable-http2-serving",
    "http2-max-streams-per-connection",
    "requestheader-allowed-names",
    "requestheader-client-ca-file",
    "requestheader-extra-headers-prefix",
    "requestheader-group-headers",
    "requestheader-uid-headers",
    "requestheader-username-headers",
    "secure-port",
    "tls-cert-file",
    "tls-cipher-suites",
    "tls-min-version",
    "tls-private-key-file",
    "tls-sni-cert-key",
];

/// Why the port is not served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be opened.
    #[error("failed to listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// Its certificates.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// Authentication or authorization.
    #[error("{0}")]
    Auth(String),
}

/// Opens and serves it until `shutdown`; `--secure-port=0` serves nothing. `name` is that of a self-signed pair in
/// `--cert-dir`, `options` name the client that asks the apiserver.
///
/// # Errors
/// [`Error`].
pub async fn serve(
    flags: &Flags,
    name: &str,
    options: &Options,
    handler: Arc<dyn Handler>,
    registry: &Registry,
    shutdown: &Shutdown,
) -> Result<(), Error> {
    let port = flags.port("secure-port");
    if port == 0 {
        return Ok(());
    }
    let any = || [0, 0, 0, 0].into();
    let address = SocketAddr::new(flags.ip("bind-address").unwrap_or_else(any), port);
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|e| Error::Listen(address, e))?;
    let authorities = ["client-ca-file", "requestheader-client-ca-file"];
    let tls = Tls::new(&tls::Options {
        cert_file: flags.path("tls-cert-file"),
        key_file: flags.path("tls-private-key-file"),
        cert_dir: flags.path("cert-dir"),
        pair_name: name.to_owned(),
        sni: flags.strings("tls-sni-cert-key").to_vec(),
        client_ca_files: authorities.iter().filter_map(|f| flags.path(f)).collect(),
        min_version: flags.string("tls-min-version").to_owned(),
        cipher_suites: flags.strings("tls-cipher-suites").to_vec(),
        http2: !flags.bool("disable-http2-serving"),
        ..tls::Options::default()
    })?;
    tls.register(registry);
    let gate = Delegated::from_flags(flags, options, &tls, shutdown)
        .await
        .map_err(Error::Auth)?;
    let settings = Settings::SMALL.with_streams(flags.int("http2-max-streams-per-connection"));
    let (gate, stop) = (Arc::new(gate), shutdown.clone());
    shutdown.spawn(guarded(listener, Some(tls), settings, gate, handler, stop));
    Ok(())
}
