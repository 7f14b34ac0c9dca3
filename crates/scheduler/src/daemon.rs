//! kube-scheduler as a process: flags to configuration, secure port, leader election.

use std::net::SocketAddr;
use std::sync::Arc;

use client::events::{Format, Recorder};
use client::leader::{LeaderConfig, lead};
use client::{Client, Options};
use component::flags::{CommandLine, Flags};
use component::health::Checks;
use component::metrics::Registry;
use component::serve::{Standard, serve};
use component::{Shutdown, tls};

use crate::config::{Config, ConfigError};
use crate::metrics::Metrics;
use crate::shell;

/// Why the scheduler could not start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration file cannot be read.
    #[error("failed to read config file {path:?}: {source}")]
    Read {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration file is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The apiserver's address or credentials cannot be used.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// The secure port's certificate.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// The secure port cannot be opened.
    #[error("failed to listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Another instance took over.
    #[error(transparent)]
    Lost(#[from] client::leader::Lost),
}

/// The command line.
pub fn command_line() -> CommandLine {
    CommandLine::new(
        "kube-scheduler",
        "The Kubernetes scheduler assigns Pods to Nodes: for each Pod it finds the Nodes that satisfy its constraints, ranks them and binds the Pod to the best.",
    )
    .honour(&[
        "authentication-kubeconfig",
        "authorization-kubeconfig",
        "bind-address",
        "cert-dir",
        "client-ca-file",
        "config",
        "kube-api-burst",
        "kube-api-qps",
        "kubeconfig",
        "leader-elect",
        "leader-elect-lease-duration",
        "leader-elect-renew-deadline",
        "leader-elect-resource-name",
        "leader-elect-resource-namespace",
        "leader-elect-retry-period",
        "master",
        "pod-max-in-unschedulable-pods-duration",
        "secure-port",
        "tls-cert-file",
        "tls-cipher-suites",
        "tls-min-version",
        "tls-private-key-file",
    ])
    .ignore(&[
        "authentication-skip-lookup",
        "authentication-token-webhook-cache-ttl",
        "authentication-tolerate-lookup-failure",
        "authorization-always-allow-paths",
        "authorization-webhook-cache-authorized-ttl",
        "authorization-webhook-cache-unauthorized-ttl",
        "disable-http2-serving",
        "http2-max-streams-per-connection",
        "kube-api-content-type",
        "leader-elect-resource-lock",
        "requestheader-allowed-names",
        "requestheader-client-ca-file",
        "requestheader-extra-headers-prefix",
        "requestheader-group-headers",
        "requestheader-uid-headers",
        "requestheader-username-headers",
    ])
}

fn config(flags: &Flags) -> Result<Config, Error> {
    let mut config = match flags.path("config") {
        None => Config::default(),
        Some(path) => {
            let text =
                std::fs::read_to_string(&path).map_err(|source| Error::Read { path, source })?;
            Config::parse(&text)?
        }
    };
    if flags.is_set("pod-max-in-unschedulable-pods-duration") {
        config.times.max_unschedulable = flags.duration("pod-max-in-unschedulable-pods-duration");
    }
    Ok(config)
}

/// Runs until `shutdown`, or until the lease is lost.
pub async fn run(flags: &Flags, shutdown: Shutdown) -> Result<(), Error> {
    let config = config(flags)?;
    let options = Options {
        user_agent: component::version::user_agent("kube-scheduler"),
        qps: flags.float("kube-api-qps") as f32,
        burst: u32::try_from(flags.int("kube-api-burst")).unwrap_or(100),
        ..Options::default()
    };
    let client = Client::from_flags(
        flags.string("kubeconfig"),
        flags.string("master"),
        options.clone(),
    )
    .await?;

    let registry = Registry::new();
    let metrics = Arc::new(Metrics::new(&registry));
    let port = flags.port("secure-port");
    if port != 0 {
        let address = SocketAddr::new(
            flags
                .ip("bind-address")
                .unwrap_or_else(|| [0, 0, 0, 0].into()),
            port,
        );
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .map_err(|source| Error::Listen { address, source })?;
        let tls = tls::Tls::new(&tls::Options {
            cert_file: flags.path("tls-cert-file"),
            key_file: flags.path("tls-private-key-file"),
            cert_dir: flags.path("cert-dir"),
            pair_name: "kube-scheduler".into(),
            client_ca_files: flags.path("client-ca-file").into_iter().collect(),
            min_version: flags.string("tls-min-version").to_owned(),
            cipher_suites: flags.strings("tls-cipher-suites").to_vec(),
            http2: true,
            ..tls::Options::default()
        })?;
        tls.register(&registry);
        let handler = Standard {
            checks: vec![
                Checks::new("healthz").ok("ping"),
                Checks::new("livez").ok("ping"),
                Checks::new("readyz").ok("ping"),
            ],
            metrics: registry.clone(),
            rest: None,
        };
        let gate = client::gate::Delegated::new(client.clone());
        shutdown.spawn(serve(
            listener,
            Some(tls),
            Arc::new(gate),
            Arc::new(handler),
            shutdown.clone(),
        ));
    }

    // Calls for leases and events must not wait behind bindings.
    let own = client.with_options(Options {
        qps: 0.0,
        ..options
    })?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    let identity = format!(
        "{host}_{:016x}{:016x}",
        rand::random::<u64>(),
        rand::random::<u64>()
    );
    let (recorder, events) = Recorder::new(
        own.clone(),
        Format::Events,
        "default-scheduler",
        format!("default-scheduler-{host}"),
        shutdown.token.clone(),
    );
    shutdown.spawn(events);
    // `events.k8s.io` wants an action, which elections have none of.
    let (election_recorder, events) = Recorder::new(
        own.clone(),
        Format::Core,
        "default-scheduler",
        "",
        shutdown.token.clone(),
    );
    shutdown.spawn(events);

    let deps = shell::Dependencies {
        client,
        recorder,
        metrics,
        random: Box::new(rand::random),
    };
    if !flags.bool("leader-elect") {
        shell::run(config, deps, shutdown.token.clone()).await;
        return Ok(());
    }
    let election = LeaderConfig {
        lease_duration: flags.duration("leader-elect-lease-duration"),
        renew_deadline: flags.duration("leader-elect-renew-deadline"),
        retry_period: flags.duration("leader-elect-retry-period"),
        ..LeaderConfig::new(
            flags.string("leader-elect-resource-namespace"),
            flags.string("leader-elect-resource-name"),
            identity,
        )
    };
    lead(
        own,
        election,
        election_recorder,
        shutdown.token.clone(),
        |stop| shell::run(config, deps, stop),
    )
    .await?;
    Ok(())
}
