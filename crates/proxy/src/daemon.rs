//! kube-proxy as a process: flags and file to configuration, health and metrics ports, watches.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use client::events::{EventType, Format, ObjectReference, Recorder};
use client::resource::{ENDPOINT_SLICES, SERVICES};
use client::{Change, Client, Informers, Options as ClientOptions, Selector};
use component::Shutdown;
use component::flags::{CommandLine, Flags};
use component::metrics::Registry;
use component::serve::{self, Handler, Open, Peer};
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::backends::iptables::Iptables;
use crate::backends::nftables::Nftables;
use crate::backends::{Backend, Options};
use crate::config::{Config, File, Invalid, Mode};
use crate::metrics::Metrics;
use crate::model::{Family as IpFamily, Model};
use crate::runner::{Family, Input, OwnProcesses, Runner, Times, apply};
use crate::view::{ServiceView, SliceView};

client::views!(ServiceView, SliceView);

/// Why kube-proxy could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration file.
    #[error(transparent)]
    File(#[from] component::config::ConfigError),
    /// A setting.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The apiserver's address or credentials.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// A port cannot be opened.
    #[error("failed to listen on {address}: {source}")]
    Listen {
        /// As configured.
        address: String,
        /// Why.
        source: std::io::Error,
    },
}

/// The command line.
pub fn command_line() -> CommandLine {
    CommandLine::new(
        "kube-proxy",
        "The Kubernetes network proxy runs on each node and turns Services into the kernel's packet rules.",
    )
    .honour(&[
        "cleanup",
        "cluster-cidr",
        "config",
        "detect-local-mode",
        "healthz-bind-address",
        "hostname-override",
        "iptables-masquerade-bit",
        "iptables-min-sync-period",
        "iptables-sync-period",
        "kube-api-burst",
        "kube-api-qps",
        "kubeconfig",
        "masquerade-all",
        "master",
        "metrics-bind-address",
        "nodeport-addresses",
        "proxy-mode",
    ])
    .ignore(&[
        "bind-address",
        "bind-address-hard-fail",
        "boot-id-file",
        "config-sync-period",
        "conntrack-max-per-core",
        "conntrack-min",
        "conntrack-tcp-be-liberal",
        "conntrack-tcp-timeout-close-wait",
        "conntrack-tcp-timeout-established",
        "conntrack-udp-timeout",
        "conntrack-udp-timeout-stream",
        "iptables-localhost-nodeports",
        "kube-api-content-type",
        "machine-id-file",
        "oom-score-adj",
    ])
}

fn file(flags: &Flags) -> Result<File, Error> {
    if let Some(path) = flags.path("config") {
        let mut file: File = component::config::load(
            &path,
            &[("kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration")],
        )?;
        // As upstream: with a file only this flag still counts.
        if flags.is_set("hostname-override") {
            file.hostname_override = flags.string("hostname-override").to_owned();
        }
        return Ok(file);
    }
    let rules = crate::config::Rules {
        masquerade_bit: u8::try_from(flags.int("iptables-masquerade-bit")).ok(),
        masquerade_all: flags.bool("masquerade-all"),
        min_sync_period: if flags.is_set("iptables-min-sync-period") {
            component::duration::format(flags.duration("iptables-min-sync-period"))
        } else {
            String::new()
        },
        sync_period: component::duration::format(flags.duration("iptables-sync-period")),
        ..Default::default()
    };
    Ok(File {
        client_connection: crate::config::ClientConnection {
            kubeconfig: flags.string("kubeconfig").to_owned(),
            qps: flags.float("kube-api-qps") as f32,
            burst: u32::try_from(flags.int("kube-api-burst")).unwrap_or(10),
            ..Default::default()
        },
        hostname_override: flags.string("hostname-override").to_owned(),
        healthz_bind_address: flags.string("healthz-bind-address").to_owned(),
        metrics_bind_address: flags.string("metrics-bind-address").to_owned(),
        mode: flags.string("proxy-mode").to_owned(),
        iptables: rules.clone(),
        nftables: rules,
        detect_local_mode: flags.string("detect-local-mode").to_owned(),
        cluster_cidr: flags.string("cluster-cidr").to_owned(),
        node_port_addresses: flags.strings("nodeport-addresses").to_vec(),
        ..File::default()
    })
}

fn options(config: &Config, family: IpFamily) -> Options {
    let of = |list: &[String]| -> Vec<String> {
        list.iter()
            .filter(|c| c.split('/').next().and_then(IpFamily::of) == Some(family))
            .cloned()
            .collect()
    };
    Options {
        family,
        cluster_cidrs: of(&config.cluster_cidrs),
        masquerade_all: config.masquerade_all,
        masquerade_bit: config.masquerade_bit,
        node_port_addresses: of(&config.node_port_addresses),
    }
}

fn backend(mode: Mode, options: Options) -> Box<dyn Backend> {
    match mode {
        Mode::Iptables => Box::new(Iptables::new(options)),
        Mode::Nftables => Box::new(Nftables::new(options)),
    }
}

/// The families the kernel can do.
fn kernel_families() -> Vec<IpFamily> {
    let mut out = vec![IpFamily::V4];
    if std::path::Path::new("/proc/net/if_inet6").exists() {
        out.push(IpFamily::V6);
    }
    out
}

async fn clean(config: &Config, modes: &[Mode]) {
    let own = OwnProcesses::default();
    for family in kernel_families() {
        for mode in modes {
            for script in backend(*mode, options(config, family)).cleanup() {
                if let Err(error) = apply(&script, &own).await {
                    tracing::debug!(%error, "Nothing to clean up, or no such backend");
                }
            }
        }
    }
}

struct Ports {
    metrics: Arc<Metrics>,
    registry: Registry,
    mode: Mode,
}

fn json(code: u16, text: String) -> Response<serve::Body> {
    let mut r = serve::text(code, text);
    r.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    r
}

fn print(millis: i64) -> String {
    if millis == 0 {
        return "0001-01-01T00:00:00Z".into();
    }
    client::Time::from_millisecond(millis)
        .map(|t| t.to_string())
        .unwrap_or_default()
}

#[async_trait]
impl Handler for Ports {
    async fn handle(&self, _: &Peer, request: Request<Incoming>) -> Response<serve::Body> {
        match request.uri().path() {
            "/healthz" | "/livez" => {
                let code = if self.metrics.healthy() { 200 } else { 503 };
                let last = print(self.metrics.last_synced());
                let now = client::Time::now();
                json(
                    code,
                    format!(
                        "{{\"lastUpdated\": {last:?},\"currentTime\": \"{now}\", \"nodeEligible\": true}}"
                    ),
                )
            }
            "/metrics" => serve::text(200, self.registry.render()),
            "/proxyMode" => serve::text(
                200,
                match self.mode {
                    Mode::Iptables => "iptables",
                    Mode::Nftables => "nftables",
                },
            ),
            _ => serve::text(404, "404 page not found\n"),
        }
    }
}

async fn listen(address: &str, handler: &Arc<Ports>, shutdown: &Shutdown) -> Result<(), Error> {
    if address.is_empty() || address.ends_with(":0") {
        return Ok(());
    }
    let failed = |source| Error::Listen {
        address: address.to_owned(),
        source,
    };
    let socket: SocketAddr = address
        .parse()
        .map_err(|e| failed(std::io::Error::new(std::io::ErrorKind::InvalidInput, e)))?;
    let listener = TcpListener::bind(socket).await.map_err(failed)?;
    let handler: Arc<dyn Handler> = handler.clone();
    shutdown.spawn(serve::serve(
        listener,
        None,
        Arc::new(Open),
        handler,
        shutdown.clone(),
    ));
    Ok(())
}

/// Runs until `shutdown`; the rules stay.
pub async fn run(flags: &Flags, shutdown: Shutdown) -> Result<(), Error> {
    let file = file(flags)?;
    let config = Config::new(&file)?;
    if flags.bool("cleanup") {
        clean(&config, &[Mode::Iptables, Mode::Nftables]).await;
        return Ok(());
    }
    let or = |value: &str, default: &str| {
        if value.is_empty() {
            default.to_owned()
        } else {
            value.to_owned()
        }
    };
    let node = or(
        &file.hostname_override,
        std::fs::read_to_string("/proc/sys/kernel/hostname")
            .unwrap_or_default()
            .trim(),
    )
    .to_lowercase();
    let connection = &file.client_connection;
    let client = Client::from_flags(
        &connection.kubeconfig,
        flags.string("master"),
        ClientOptions {
            user_agent: component::version::user_agent("kube-proxy"),
            qps: if connection.qps > 0.0 {
                connection.qps
            } else {
                5.0
            },
            burst: if connection.burst > 0 {
                connection.burst
            } else {
                10
            },
            ..ClientOptions::default()
        },
    )
    .await?;

    let registry = Registry::new();
    let metrics = Arc::new(Metrics::new(&registry));
    let ports = Arc::new(Ports {
        metrics: metrics.clone(),
        registry,
        mode: config.mode,
    });
    listen(
        &or(&file.healthz_bind_address, "0.0.0.0:10256"),
        &ports,
        &shutdown,
    )
    .await?;
    listen(
        &or(&file.metrics_bind_address, "127.0.0.1:10249"),
        &ports,
        &shutdown,
    )
    .await?;

    // What the other mode left would still translate.
    let other = match config.mode {
        Mode::Iptables => Mode::Nftables,
        Mode::Nftables => Mode::Iptables,
    };
    clean(&config, &[other]).await;

    let (recorder, events) = Recorder::new(
        client.clone(),
        Format::Events,
        "kube-proxy",
        format!("kube-proxy-{node}"),
        shutdown.token.clone(),
    );
    shutdown.spawn(events);
    let own_node = ObjectReference {
        kind: "Node".into(),
        name: node.clone(),
        ..ObjectReference::default()
    };
    recorder.action(
        own_node,
        None,
        EventType::Normal,
        "Starting",
        "StartKubeProxy",
        "",
    );

    let informers = Informers::new(client, shutdown.token.clone());
    let (tx, rx) = mpsc::unbounded_channel();
    let ours = Selector::labels(
        "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name",
    );
    let inputs = tx.clone();
    informers
        .get::<ServiceView>(&SERVICES, ours.clone())
        .on_change(move |c| {
            let _ = inputs.send(match c {
                Change::Deleted(s) => Input::ServiceGone(s.clone()),
                other => Input::Service(other.object().clone()),
            });
        });
    informers
        .get::<SliceView>(&ENDPOINT_SLICES, ours)
        .on_change(move |c| {
            let _ = tx.send(match c {
                Change::Deleted(s) => Input::SliceGone(s.clone()),
                other => Input::Slice(other.object().clone()),
            });
        });
    tokio::select! {
        // Rules from half the services would cut connections to the rest.
        () = informers.synced() => {}
        () = shutdown.cancelled() => return Ok(()),
    }
    let families = kernel_families()
        .into_iter()
        .map(|f| Family {
            model: Model::new(&node, f),
            backend: backend(config.mode, options(&config, f)),
        })
        .collect();
    let times = Times {
        min_sync: config.min_sync,
        full_period: config.full_period,
    };
    Runner {
        families,
        times,
        metrics,
    }
    .run(rx, shutdown.token.clone())
    .await;
    informers.ended().await;
    Ok(())
}
