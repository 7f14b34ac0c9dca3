//! Connections: TLS, HTTP/1.1 and HTTP/2, and the life of the process's server.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use auth::Peer;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{
    self, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::chain::{Config, Dependencies, HookContext, Server};
use crate::engine::Engine;
use crate::health::Health;
use crate::metrics::Metrics;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may take to send the head of its next request, idling included. Source: upstream idles for 90 s.
const HEAD: Duration = Duration::from_secs(90);
/// Streams at once on an HTTP/2 connection.
const STREAMS: u32 = 100;
/// How long requests in flight may go on after the stop.
const GRACE: Duration = Duration::from_secs(10);

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on {0}: {1}")]
    Bind(std::net::SocketAddr, io::Error),
    /// A certificate or key cannot be read.
    #[error("{0}: {1}")]
    Pem(PathBuf, String),
    /// TLS refuses the configuration.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// The serving certificate and its key, PEM. Changes of the files are taken up by the next connection.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

fn load(files: &TlsFiles, provider: &CryptoProvider) -> Result<CertifiedKey, Error> {
    let bad = |p: &PathBuf| {
        let p = p.clone();
        move |e: rustls_pki_types::pem::Error| Error::Pem(p, e.to_string())
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.certificate)
        .map_err(bad(&files.certificate))?
        .collect::<Result<_, _>>()
        .map_err(bad(&files.certificate))?;
    if chain.is_empty() {
        return Err(Error::Pem(
            files.certificate.clone(),
            "no certificate in it".into(),
        ));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(bad(&files.key))?;
    Ok(CertifiedKey::from_der(chain, key, provider)?)
}

type Stamp = (Option<SystemTime>, Option<SystemTime>);

struct Reloading {
    files: TlsFiles,
    provider: Arc<CryptoProvider>,
    current: RwLock<(Arc<CertifiedKey>, Stamp, std::time::Instant)>,
}

impl std::fmt::Debug for Reloading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reloading")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

fn stamp(files: &TlsFiles) -> Stamp {
    let at = |p: &PathBuf| std::fs::metadata(p).and_then(|m| m.modified()).ok();
    (at(&files.certificate), at(&files.key))
}

impl ResolvesServerCert for Reloading {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let (key, old, looked) = self
            .current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if looked.elapsed() < Duration::from_secs(1) {
            return Some(key);
        }
        let new = stamp(&self.files);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        current.2 = std::time::Instant::now();
        if new == old {
            return Some(key);
        }
        match load(&self.files, &self.provider) {
            Ok(k) => {
                tracing::info!(file = %self.files.certificate.display(), "serving certificate reloaded");
                *current = (Arc::new(k), new, std::time::Instant::now());
                Some(current.0.clone())
            }
            Err(e) => {
                tracing::warn!(error = %e, "serving certificate could not be reloaded; the old one stays");
                Some(key)
            }
        }
    }
}

/// Takes any client certificate whose key the client proves to hold; whether it is trusted is the authenticator's
/// business, so that a CA can be replaced while connections live.
#[derive(Debug)]
struct AnyClient(Arc<CryptoProvider>);

impl ClientCertVerifier for AnyClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn tls(files: TlsFiles) -> Result<Arc<ServerConfig>, Error> {
    let provider = Arc::new(ring::default_provider());
    let key = Arc::new(load(&files, &provider)?);
    let first = stamp(&files);
    let resolver = Reloading {
        files,
        provider: provider.clone(),
        current: RwLock::new((key, first, std::time::Instant::now())),
    };
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(AnyClient(provider)))
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Resumed sessions would keep certificates in memory for clients that may never return.
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// Runs the server until `stop` is cancelled and its requests have ended.
pub async fn run(
    config: Config,
    dependencies: Dependencies,
    files: TlsFiles,
    stop: CancellationToken,
) -> Result<(), Error> {
    let listener = TcpListener::bind(config.bind)
        .await
        .map_err(|e| Error::Bind(config.bind, e))?;
    run_on(listener, config, dependencies, files, stop).await
}

/// As [`run`], on a listener that is bound already.
pub async fn run_on(
    listener: TcpListener,
    config: Config,
    dependencies: Dependencies,
    files: TlsFiles,
    stop: CancellationToken,
) -> Result<(), Error> {
    let acceptor = TlsAcceptor::from(tls(files)?);
    let reader = dependencies.core.reader();
    let engine = Arc::new(Engine {
        core: dependencies.core,
        admission: dependencies.admission,
        authorizer: dependencies.authorizer,
        reader,
        gates: Default::default(),
    });
    let server = Arc::new(Server {
        permits: tokio::sync::Semaphore::new(config.max_in_flight.max(1)),
        health: Health::new(dependencies.hooks.iter().map(|h| h.name)),
        metrics: Metrics::new(&config.features),
        documents: Default::default(),
        authenticator: dependencies.authenticator,
        kubelet_tls: dependencies.kubelet_tls,
        extra_paths: dependencies.extra_paths,
        extra_metrics: dependencies.extra_metrics,
        engine: engine.clone(),
        stop: stop.clone(),
        config,
    });
    let tasks = TaskTracker::new();
    let hooks = dependencies.hooks;
    let (for_hooks, hook_stop) = (server.clone(), stop.clone());
    tasks.spawn(async move {
        let core = for_hooks.engine.core.clone();
        tokio::select! {
            () = hook_stop.cancelled() => return,
            () = core.wait_ready() => {}
        }
        for_hooks.health.caches_ready();
        let context = HookContext {
            engine: for_hooks.engine.clone(),
            user: auth::UserInfo {
                name: "system:apiserver".into(),
                groups: vec![auth::GROUP_MASTERS.into(), auth::GROUP_AUTHENTICATED.into()],
                ..auth::UserInfo::default()
            },
            stop: hook_stop.clone(),
        };
        for hook in hooks {
            let run = (hook.run)(context.clone());
            tokio::select! {
                () = hook_stop.cancelled() => return,
                result = run => match result {
                    Ok(()) => for_hooks.health.hook_done(hook.name),
                    Err(e) => {
                        tracing::error!(hook = hook.name, error = %e, "post-start hook failed");
                        for_hooks.health.hook_failed(hook.name, e);
                    }
                },
            }
        }
        tracing::info!("ready");
    });
    tracing::info!(address = %server.config.bind, "serving");
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            a = listener.accept() => a,
        };
        let (stream, address) = match accepted {
            Ok(a) => a,
            Err(e) => {
                // Out of descriptors: wait for some to be given back.
                tracing::warn!(error = %e, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        tasks.spawn(connection(
            server.clone(),
            acceptor.clone(),
            stream,
            address,
        ));
    }
    server.health.shutting_down();
    drop(listener);
    tasks.close();
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        tracing::warn!("requests were still running at the end of the grace period");
    }
    engine.core.closed().await;
    Ok(())
}

async fn connection(
    server: Arc<Server>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    address: std::net::SocketAddr,
) {
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(s)) => s,
        Ok(Err(e)) => {
            tracing::debug!(%address, error = %e, "TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let (h2, certificates) = {
        let (_, session) = stream.get_ref();
        let certificates = session
            .peer_certificates()
            .map(|c| c.iter().map(|c| c.to_vec()).collect())
            .unwrap_or_default();
        (session.alpn_protocol() == Some(b"h2"), certificates)
    };
    let peer = Arc::new(Peer {
        address: Some(address),
        certificates,
    });
    let stop = server.stop.clone();
    let service = service_fn(move |request| {
        let (server, peer) = (server.clone(), peer.clone());
        async move { Ok::<_, std::convert::Infallible>(server.handle(peer, request).await) }
    });
    let io = TokioIo::new(stream);
    let result = if h2 {
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_pending_accept_reset_streams(20)
            .max_local_error_reset_streams(1024)
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .max_send_buf_size(256 * 1024)
            .max_header_list_size(1024 * 1024)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(15));
        let mut c = std::pin::pin!(builder.serve_connection(io, service));
        tokio::select! {
            r = c.as_mut() => r,
            () = stop.cancelled() => {
                c.as_mut().graceful_shutdown();
                c.await
            }
        }
    } else {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(1024 * 1024);
        let mut c = std::pin::pin!(builder.serve_connection(io, service).with_upgrades());
        tokio::select! {
            r = c.as_mut() => r,
            () = stop.cancelled() => {
                c.as_mut().graceful_shutdown();
                c.await
            }
        }
    };
    if let Err(e) = result {
        tracing::debug!(%address, error = %e, "connection ended");
    }
}
