//! kube-proxy as a process: flags and file to configuration, health and metrics ports, watches.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use client::events::{EventType, Format, ObjectReference, Recorder};
use client::resource::{ENDPOINT_SLICES, NODES, SERVICES};
use client::{Change, Client, Informers, Options as ClientOptions, Selector};
use component::Shutdown;
use component::features::Features;
use component::flags::{CommandLine, Flags};
use component::logging::Logging;
use component::metrics::Registry;
use component::serve::{self, Handler, Open, Peer};
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::address::{self, Range};
use crate::apply::Writer;
use crate::backends::iptables::Iptables;
use crate::backends::nftables::Nftables;
use crate::backends::{Backend, Options};
use crate::claims::Kind;
use crate::config::{Config, File, Invalid, Mode};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::model::{Family as IpFamily, Model};
use crate::runner::{Input, Notice, OwnProcesses, Runner, Times, apply};
use crate::view::{NodeView, ServiceView, SliceView};

client::views!(ServiceView, SliceView, NodeView);

/// Why kube-proxy could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration file.
    #[error(transparent)]
    File(#[from] component::config::ConfigError),
    /// A setting.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// A feature gate.
    #[error("{0}")]
    Features(String),
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
    .ignore(
        "both address families that the kernel has are served; a port that is taken ends the process",
        &["bind-address", "bind-address-hard-fail"],
    )
    .ignore("nothing is polled", &["config-sync-period"])
    .ignore(
        "the kernel's own limits of connection tracking stay",
        &[
            "conntrack-max-per-core",
            "conntrack-min",
            "conntrack-tcp-be-liberal",
            "conntrack-tcp-timeout-close-wait",
            "conntrack-tcp-timeout-established",
            "conntrack-udp-timeout",
            "conntrack-udp-timeout-stream",
        ],
    )
    .ignore(
        "node ports are not served on loopback",
        &["iptables-localhost-nodeports"],
    )
    .ignore(
        "protobuf is spoken where the apiserver does",
        &["kube-api-content-type"],
    )
    .ignore(
        "nothing that is reported names the machine",
        &["boot-id-file", "machine-id-file"],
    )
    .ignore(
        "the process keeps the score it was started with",
        &["oom-score-adj"],
    )
    .ignore(
        "there is no ipvs mode, which alone reads it",
        &[
            "ipvs-exclude-cidrs",
            "ipvs-min-sync-period",
            "ipvs-scheduler",
            "ipvs-strict-arp",
            "ipvs-sync-period",
            "ipvs-tcp-timeout",
            "ipvs-tcpfin-timeout",
            "ipvs-udp-timeout",
        ],
    )
    .refuse("the process needs its rights all the time", &["init-only"])
    .refuse(
        "local traffic is told by --cluster-cidr only",
        &["pod-bridge-interface", "pod-interface-name-prefix"],
    )
    .refuse("no file is written", &["write-config-to"])
}

fn file(flags: &Flags) -> Result<File, Error> {
    if let Some(path) = flags.path("config") {
        let loaded = crate::fields::KIND.load::<File>(&path)?;
        for warning in loaded.warnings {
            tracing::warn!("{warning}");
        }
        let mut file = loaded.value;
        // As upstream: with a file only this flag and the gates still count.
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

/// What is logged and how: as the file says, if it can be read, and above it the flags.
pub fn logging(flags: &Flags) -> Logging {
    let file = flags.path("config").map(|path| {
        let loaded = crate::fields::KIND.load::<File>(&path);
        loaded.map_or_else(|_| Logging::default(), |l| l.value.logging)
    });
    flags.logging_over(file.unwrap_or_default())
}

/// The gates: the file's, and above them the flag's.
fn features(flags: &Flags, file: &File) -> Result<Features, String> {
    let mut features = Features::default();
    for (name, on) in &file.feature_gates {
        features.set(name, *on)?;
    }
    flags.set_features(&mut features)?;
    Ok(features)
}

fn options(config: &Config, family: IpFamily) -> Options {
    let of = |list: &[String]| -> Vec<String> {
        let ranges = list.iter().filter_map(|c| Range::parse(c));
        let ours = ranges.filter(|r| IpFamily::of(r.first) == family);
        let disjoint = address::disjoint(ours.collect());
        disjoint.iter().map(ToString::to_string).collect()
    };
    let all = |list: &Vec<String>| list.iter().any(|r| r.ends_with("/0"));
    Options {
        family,
        cluster_cidrs: of(&config.cluster_cidrs),
        masquerade_all: config.masquerade_all,
        masquerade_bit: config.masquerade_bit,
        // A range of everything is no restriction.
        node_port_addresses: Some(of(&config.node_port_addresses))
            .filter(|ranges| !all(ranges))
            .unwrap_or_default(),
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

/// The port for load balancers and probes, open to all: health and nothing else (CVE-2019-11248).
struct HealthPort {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

/// The port for the node itself, on loopback by default.
struct MetricsPort {
    registry: Registry,
    mode: Mode,
    config: String,
}

fn json(code: u16, text: String) -> Response<serve::Body> {
    let mut r = serve::text(code, text);
    r.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    r
}

impl HealthPort {
    fn answer(&self, path: &str) -> Response<serve::Body> {
        let live = match path {
            "/healthz" => false,
            "/livez" => true,
            _ => return serve::text(404, "404 page not found\n"),
        };
        let (well, body) = self.health.report(!live, client::Time::now());
        let code = if well { 200 } else { 503 };
        self.metrics.answered(live, code);
        json(code, body.to_string())
    }
}

#[async_trait]
impl Handler for HealthPort {
    async fn handle(&self, _: &Peer, request: Request<Incoming>) -> Response<serve::Body> {
        self.answer(request.uri().path())
    }
}

#[async_trait]
impl Handler for MetricsPort {
    async fn handle(&self, _: &Peer, request: Request<Incoming>) -> Response<serve::Body> {
        self.answer(request.uri().path())
    }
}

impl MetricsPort {
    fn answer(&self, path: &str) -> Response<serve::Body> {
        match path {
            "/healthz" => serve::text(200, "ok"),
            "/metrics" => {
                let mut r = serve::text(200, self.registry.render());
                r.headers_mut().insert(
                    http::header::CONTENT_TYPE,
                    http::HeaderValue::from_static(component::metrics::CONTENT_TYPE),
                );
                r
            }
            "/proxyMode" => serve::text(
                200,
                match self.mode {
                    Mode::Iptables => "iptables",
                    Mode::Nftables => "nftables",
                },
            ),
            "/configz" => json(200, self.config.clone()),
            _ => serve::text(404, "404 page not found\n"),
        }
    }
}

async fn listen(address: &str, handler: impl Handler, shutdown: &Shutdown) -> Result<(), Error> {
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
    shutdown.spawn(serve::serve(
        listener,
        None,
        Arc::new(Open),
        Arc::new(handler),
        shutdown.clone(),
    ));
    Ok(())
}

/// Tells a service's owner in the log and in an event.
fn tell(recorder: &Recorder, notice: Notice) {
    let (service, reason, note) = match notice {
        Notice::Conflict(c) => {
            let reason = match c.kind {
                Kind::ClusterIp => "ClusterIPAlreadyAllocated",
                Kind::LoadBalancer => "LoadBalancerIPAlreadyAllocated",
                Kind::ExternalIp => "ExternalIPAlreadyAllocated",
                Kind::NodePort => "PortAlreadyAllocated",
            };
            let note = format!(
                "{} of {} is already in use by {}; traffic to it does not reach this service",
                c.claim, c.port, c.owner
            );
            (c.service, reason, note)
        }
        Notice::Refused {
            service,
            port,
            reason,
        } => {
            let note = format!("{port} has no rules because the kernel refuses them: {reason}");
            (service, "FailedToSyncProxyRules", note)
        }
    };
    let m = &service.metadata;
    tracing::warn!(service = %format!("{}/{}", m.namespace, m.name), reason, "{note}");
    recorder.action(
        ObjectReference::of(&SERVICES, &*service),
        None,
        EventType::Warning,
        reason,
        "SyncProxyRules",
        note.chars().take(1024).collect::<String>(),
    );
}

/// Runs until `shutdown`; the rules stay.
pub async fn run(flags: &Flags, shutdown: Shutdown) -> Result<(), Error> {
    let file = file(flags)?;
    let config = Config::new(&file)?;
    let features = features(flags, &file).map_err(Error::Features)?;
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
    registry.features(&features);
    let metrics = Arc::new(Metrics::new(&registry, config.mode));
    let health = Arc::new(Health::default());
    let health_port = HealthPort {
        health: health.clone(),
        metrics: metrics.clone(),
    };
    listen(
        &or(&file.healthz_bind_address, "0.0.0.0:10256"),
        health_port,
        &shutdown,
    )
    .await?;
    let metrics_port = MetricsPort {
        registry: registry.clone(),
        mode: config.mode,
        config: serde_json::json!({"kubeproxy.config.k8s.io": file}).to_string(),
    };
    listen(
        &or(&file.metrics_bind_address, "127.0.0.1:10249"),
        metrics_port,
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
    let node_health = health.clone();
    // Rules do not wait for it, nor for the right to read it.
    informers
        .scope()
        .get::<NodeView>(&NODES, Selector::fields(format!("metadata.name={node}")))
        .on_change(move |c| match c {
            Change::Deleted(_) => node_health.node(None),
            other => node_health.node(Some(other.object())),
        });
    for (name, help, read) in [
        (
            "informer_unreadable_objects_total",
            "[ALPHA] Objects that came and could not be read; they were passed over.",
            Informers::unreadable as fn(&Informers) -> u64,
        ),
        (
            "informer_recovered_panics_total",
            "[ALPHA] Panics over single objects that were recovered from.",
            Informers::panics,
        ),
    ] {
        let informers = informers.clone();
        registry.gauge_fn(name, help, move || read(&informers) as f64);
    }
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
        .map(|f| {
            let backend = backend(config.mode, options(&config, f));
            Writer::new(Model::new(&node, f), backend)
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
        health,
        tell: Box::new(move |notice| tell(&recorder, notice)),
    }
    .run(rx, shutdown.token.clone())
    .await;
    informers.ended().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cve_2019_11248_the_port_that_is_open_to_all_tells_health_and_nothing_else() {
        let registry = Registry::new();
        let metrics = Arc::new(Metrics::new(&registry, Mode::Nftables));
        let health = HealthPort {
            health: Arc::default(),
            metrics,
        };
        let code = |path| health.answer(path).status().as_u16();
        assert_eq!(
            (code("/livez"), code("/healthz")),
            (200, 503),
            "no node is known"
        );
        let own = MetricsPort {
            registry,
            mode: Mode::Nftables,
            config: "{}".into(),
        };
        for path in ["/metrics", "/proxyMode", "/configz"] {
            assert_eq!(code(path), 404, "{path}");
            assert_eq!(own.answer(path).status(), 200, "{path}");
        }
        for path in [
            "/",
            "/debug/pprof/",
            "/debug/flags/v",
            "/healthz/",
            "//metrics",
            "/flagz",
        ] {
            assert_eq!(code(path), 404, "{path}");
        }
    }

    #[test]
    fn ranges_of_the_configuration_cannot_overlap_in_a_rule() {
        let file = File {
            cluster_cidr: "10.1.0.0/16,10.1.2.0/24,fd00::/48".into(),
            node_port_addresses: vec!["192.0.2.0/24".into(), "::/0".into()],
            ..File::default()
        };
        let config = Config::new(&file).unwrap();
        let v4 = options(&config, IpFamily::V4);
        assert_eq!(v4.cluster_cidrs, ["10.1.0.0/16"]);
        assert_eq!(v4.node_port_addresses, ["192.0.2.0/24"]);
        let v6 = options(&config, IpFamily::V6);
        assert!(
            v6.node_port_addresses.is_empty(),
            "all are none in particular"
        );
    }
}
