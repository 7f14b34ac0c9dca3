//! kube-controller-manager as a process: flags to configuration, secure port, leader election.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use auth::jwt::Signer;
use client::leader::{Election, Filled, LeaderConfig};
use client::{Client, Options, secure_port};
use component::Shutdown;
use component::flags::{CommandLine, Flags};
use component::health::Latch;
use component::metrics::Registry;
use component::serve::{Body, Handler, Peer, Standard, text};
use http::Request;
use hyper::body::Incoming;

use crate::certificates::signing::{self, Authority};
use crate::config::Config;
use crate::service_account_tokens::Key;
use crate::{Dependencies, list, metrics};

/// Why the controller manager could not start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag's value cannot be used.
    #[error("{0}")]
    Flag(String),
    /// The apiserver's address or credentials cannot be used.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// The secure port.
    #[error(transparent)]
    Port(#[from] secure_port::Error),
    /// Another instance took over.
    #[error(transparent)]
    Lost(#[from] client::leader::Lost),
}

const CONCURRENCY: &[(&str, &str)] = &[
    ("concurrent-cron-job-syncs", "cronjob"),
    ("concurrent-deployment-syncs", "deployment"),
    ("concurrent-endpoint-syncs", "endpoint"),
    ("concurrent-ephemeralvolume-syncs", "ephemeral-volume"),
    ("concurrent-gc-syncs", "gc"),
    (
        "concurrent-horizontal-pod-autoscaler-syncs",
        "horizontal-pod-autoscaler",
    ),
    ("concurrent-job-syncs", "job"),
    ("concurrent-namespace-syncs", "namespace"),
    ("concurrent-rc-syncs", "replicationmanager"),
    ("concurrent-replicaset-syncs", "replicaset"),
    ("concurrent-resource-quota-syncs", "resource-quota"),
    ("concurrent-service-endpoint-syncs", "service-endpoint"),
    ("concurrent-resourceclaim-syncs", "resourceclaim"),
    (
        "concurrent-serviceaccount-token-syncs",
        "serviceaccount-token",
    ),
    ("concurrent-statefulset-syncs", "statefulset"),
    ("concurrent-ttl-after-finished-syncs", "ttl-after-finished"),
    (
        "mirroring-concurrent-service-endpoint-syncs",
        "endpointslice-mirroring",
    ),
];

/// The command line.
pub fn command_line() -> CommandLine {
    let concurrency: Vec<&str> = CONCURRENCY.iter().map(|c| c.0).collect();
    CommandLine::new(
        "kube-controller-manager",
        "The Kubernetes controller manager runs the control loops that bring the cluster from the state it is in to the state its objects ask for.",
    )
    .honour(&concurrency)
    .honour(secure_port::FLAGS)
    .honour(&[
        "allocate-node-cidrs",
        "cluster-cidr",
        "cluster-signing-cert-file",
        "cluster-signing-duration",
        "cluster-signing-key-file",
        "cluster-signing-kube-apiserver-client-cert-file",
        "cluster-signing-kube-apiserver-client-key-file",
        "cluster-signing-kubelet-client-cert-file",
        "cluster-signing-kubelet-client-key-file",
        "cluster-signing-kubelet-serving-cert-file",
        "cluster-signing-kubelet-serving-key-file",
        "cluster-signing-legacy-unknown-cert-file",
        "cluster-signing-legacy-unknown-key-file",
        "controllers",
        "disable-attach-detach-reconcile-sync",
        "disable-force-detach-on-timeout",
        "enable-garbage-collector",
        "endpoint-updates-batch-period",
        "endpointslice-updates-batch-period",
        "horizontal-pod-autoscaler-cpu-initialization-period",
        "horizontal-pod-autoscaler-downscale-stabilization",
        "horizontal-pod-autoscaler-initial-readiness-delay",
        "horizontal-pod-autoscaler-sync-period",
        "horizontal-pod-autoscaler-tolerance",
        "kube-api-burst",
        "kube-api-qps",
        "kubeconfig",
        "large-cluster-size-threshold",
        "leader-elect",
        "leader-elect-lease-duration",
        "leader-elect-renew-deadline",
        "leader-elect-resource-name",
        "leader-elect-resource-namespace",
        "leader-elect-retry-period",
        "legacy-service-account-token-clean-up-period",
        "master",
        "max-endpoints-per-slice",
        "mirroring-endpointslice-updates-batch-period",
        "mirroring-max-endpoints-per-subset",
        "node-cidr-mask-size",
        "node-cidr-mask-size-ipv4",
        "node-cidr-mask-size-ipv6",
        "node-eviction-rate",
        "node-monitor-grace-period",
        "node-monitor-period",
        "node-startup-grace-period",
        "resource-quota-sync-period",
        "root-ca-file",
        "secondary-node-eviction-rate",
        "service-account-private-key-file",
        "service-cluster-ip-range",
        "terminated-pod-gc-threshold",
        "unhealthy-zone-threshold",
        "use-service-account-credentials",
    ])
    .only("cidr-allocator-type", &["RangeAllocator"])
    .only("cloud-provider", &["external"])
    .only("leader-elect-resource-lock", &["leases"])
    .ignore(
        "no controller provisions or recycles volumes, and bindings are not looked at without need",
        &[
            "enable-dynamic-provisioning",
            "flex-volume-plugin-dir",
            "pv-recycler-increment-timeout-nfs",
            "pv-recycler-minimum-timeout-hostpath",
            "pv-recycler-minimum-timeout-nfs",
            "pv-recycler-pod-template-filepath-hostpath",
            "pv-recycler-pod-template-filepath-nfs",
            "pv-recycler-timeout-increment-hostpath",
            "pvclaimbinder-sync-period",
        ],
    )
    .ignore(
        "there is no such controller",
        &[
            "concurrent-device-taint-eviction-syncs",
            "concurrent-service-syncs",
            "concurrent-validating-admission-policy-status-syncs",
        ],
    )
    .ignore(
        "no controller talks to a cloud",
        &[
            "cluster-name",
            "configure-cloud-routes",
            "route-reconciliation-period",
        ],
    )
    .ignore(
        "changes are acted on as they are seen; nothing is polled",
        &[
            "attach-detach-reconcile-sync-period",
            "concurrent-daemonset-syncs",
            "controller-shutdown-timeout",
            "controller-start-interval",
            "min-resync-period",
            "namespace-sync-period",
        ],
    )
    .ignore(
        "protobuf is spoken where the apiserver does",
        &["kube-api-content-type"],
    )
    .ignore(
        "a port that is taken ends the process",
        &["permit-address-sharing", "permit-port-sharing"],
    )
    .refuse(
        "cloud providers are programs of their own",
        &["cloud-config", "external-cloud-volume-plugin"],
    )
    .refuse(
        "there is no such controller",
        &["enable-hostpath-provisioner"],
    )
    .refuse(
        "leases are not migrated",
        &["enable-leader-migration", "leader-migration-config"],
    )
    .refuse(
        "the TLS library's own order is used",
        &["tls-curve-preferences"],
    )
}

fn list_of(text: &str) -> Vec<String> {
    text.split(',')
        .map(str::trim)
        .filter(|s| !s.is_empty())
        .map(str::to_owned)
        .collect()
}

fn config(flags: &Flags) -> Result<Config, Error> {
    let mut config = Config {
        controllers: flags.strings("controllers").to_vec(),
        allocate_node_cidrs: flags.bool("allocate-node-cidrs"),
        cluster_cidrs: list_of(flags.string("cluster-cidr")),
        service_cidrs: list_of(flags.string("service-cluster-ip-range")),
        node_monitor_period: flags.duration("node-monitor-period"),
        node_monitor_grace: flags.duration("node-monitor-grace-period"),
        node_startup_grace: flags.duration("node-startup-grace-period"),
        eviction_rate: flags.float("node-eviction-rate"),
        secondary_eviction_rate: flags.float("secondary-node-eviction-rate"),
        unhealthy_zone_threshold: flags.float("unhealthy-zone-threshold"),
        large_cluster_size: usize::try_from(flags.int("large-cluster-size-threshold")).unwrap_or(0),
        terminated_pod_threshold: usize::try_from(flags.int("terminated-pod-gc-threshold"))
            .unwrap_or(0),
        max_endpoints_per_slice: usize::try_from(flags.int("max-endpoints-per-slice"))
            .unwrap_or(100)
            .clamp(1, 1000),
        endpoint_batch: flags.duration("endpoint-updates-batch-period"),
        endpoint_slice_batch: flags.duration("endpointslice-updates-batch-period"),
        mirrored_per_subset: usize::try_from(flags.int("mirroring-max-endpoints-per-subset"))
            .unwrap_or(1000)
            .clamp(1, 1000),
        mirroring_batch: flags.duration("mirroring-endpointslice-updates-batch-period"),
        features: flags.features().map_err(Error::Flag)?,
        signing_duration: flags.duration("cluster-signing-duration"),
        autoscaler_sync: flags.duration("horizontal-pod-autoscaler-sync-period"),
        autoscaler_stabilization: flags
            .duration("horizontal-pod-autoscaler-downscale-stabilization"),
        autoscaler_tolerance: flags.float("horizontal-pod-autoscaler-tolerance"),
        autoscaler_cpu_initialization: flags
            .duration("horizontal-pod-autoscaler-cpu-initialization-period"),
        autoscaler_initial_readiness: flags
            .duration("horizontal-pod-autoscaler-initial-readiness-delay"),
        resource_quota_sync: flags.duration("resource-quota-sync-period"),
        force_detach: !flags.bool("disable-force-detach-on-timeout"),
        compare_attachments: !flags.bool("disable-attach-detach-reconcile-sync"),
        legacy_token_period: flags.duration("legacy-service-account-token-clean-up-period"),
        ..Config::default()
    };
    list::check(&config.controllers).map_err(Error::Flag)?;
    let missing: Vec<&str> = list::missing(&config.controllers).map(|c| c.name).collect();
    tracing::warn!(controllers = %missing.join(","), "Controllers that are asked for are not there");
    let mask = |name: &str, default: u8| match u8::try_from(flags.int(name)) {
        Ok(0) | Err(_) => default,
        Ok(n) => n,
    };
    let both = mask("node-cidr-mask-size", 0);
    config.node_mask_v4 = mask(
        "node-cidr-mask-size-ipv4",
        if both == 0 { 24 } else { both },
    );
    config.node_mask_v6 = mask(
        "node-cidr-mask-size-ipv6",
        if both == 0 { 64 } else { both },
    );
    if let Some(path) = flags.path("root-ca-file") {
        config.root_ca = std::fs::read_to_string(&path).map_err(|e| {
            Error::Flag(format!(
                "error reading root-ca-file at {}: {e}",
                path.display()
            ))
        })?;
    }
    if let Some(path) = flags.path("service-account-private-key-file") {
        let read = std::fs::read_to_string(&path).map_err(|e| e.to_string());
        let key = read.and_then(|pem| Signer::from_pem(&pem)).map_err(|e| {
            let path = path.display();
            Error::Flag(format!(
                "error reading key for service account token controller: {path}: {e}"
            ))
        })?;
        config.service_account_key = Some(Key(Arc::new(key)));
    }
    let cleaner = "legacy-serviceaccount-token-cleaner-controller";
    if config.legacy_token_period.is_zero() && list::is_enabled(cleaner, &config.controllers) {
        return Err(Error::Flag("invalid CleanUpPeriod: 0s".into()));
    }
    config.signing = signing::files(|flag| flags.string(flag)).map_err(Error::Flag)?;
    if list::is_enabled(
        "certificatesigningrequest-signing-controller",
        &config.controllers,
    ) {
        for files in &config.signing {
            Authority::new(files.clone()).map_err(|why| {
                let signer = files.signer;
                Error::Flag(format!(
                    "failed to init {signer} certificate controller: {why}"
                ))
            })?;
        }
    }
    if !flags.bool("enable-garbage-collector") {
        config
            .controllers
            .insert(0, "-garbage-collector-controller".into());
    }
    config.concurrency = CONCURRENCY
        .iter()
        .map(|(flag, name)| (*name, usize::try_from(flags.int(flag)).unwrap_or(1)))
        .collect::<BTreeMap<_, _>>();
    Ok(config)
}

/// [`Standard`] with the queues' counters among the metrics.
struct Server {
    standard: Standard,
    queues: metrics::Queues,
}

#[async_trait]
impl Handler for Server {
    async fn handle(&self, peer: &Peer, request: Request<Incoming>) -> http::Response<Body> {
        if request.uri().path() != "/metrics" {
            return self.standard.handle(peer, request).await;
        }
        let mut response = text(200, self.standard.metrics.render() + &self.queues.render());
        let kind = http::HeaderValue::from_static(component::metrics::CONTENT_TYPE);
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, kind);
        response
    }
}

/// Runs until `shutdown`, or until the lease is lost.
pub async fn run(flags: &Flags, shutdown: Shutdown) -> Result<(), Error> {
    let config = config(flags)?;
    let options = Options {
        user_agent: component::version::user_agent("kube-controller-manager"),
        #[expect(clippy::cast_possible_truncation, reason = "float32 upstream")]
        qps: flags.float("kube-api-qps") as f32,
        burst: u32::try_from(flags.int("kube-api-burst")).unwrap_or(30),
        ..Options::default()
    };
    let client = Client::from_flags(
        flags.string("kubeconfig"),
        flags.string("master"),
        options.clone(),
    )
    .await?;
    let queues = metrics::Queues::default();
    let (synced, election) = (Latch::default(), Election::default());
    let elects = flags.bool("leader-elect");
    let lease_duration = flags.duration("leader-elect-lease-duration");
    let lease = flags.string("leader-elect-resource-name");
    let filled = Filled {
        name: "informer-sync",
        not_yet: "informers have not synced yet",
    };
    let elected = elects.then_some((lease, lease_duration));
    let registry = Registry::new();
    registry.features(&flags.features().map_err(Error::Flag)?);
    let server = Server {
        standard: Standard {
            checks: election.checks(elected, &synced, filled, &shutdown),
            metrics: registry.clone(),
            rest: None,
        },
        queues: queues.clone(),
    };
    secure_port::serve(
        flags,
        "kube-controller-manager",
        &options,
        Arc::new(server),
        &registry,
        &shutdown,
    )
    .await?;
    let leader = elects.then(|| LeaderConfig {
        namespace: flags.string("leader-elect-resource-namespace").to_owned(),
        name: lease.to_owned(),
        identity: identity(),
        lease_duration,
        election,
        renew_deadline: flags.duration("leader-elect-renew-deadline"),
        retry_period: flags.duration("leader-elect-retry-period"),
    });
    if let Some(leader) = &leader {
        leader
            .check()
            .map_err(|why| Error::Flag(format!("leader election: {why}")))?;
    }
    let deps = Dependencies {
        client,
        service_account_credentials: flags.bool("use-service-account-credentials"),
        leader,
        queues,
        synced,
    };
    crate::run(config, deps, shutdown.token.clone()).await?;
    Ok(())
}

fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!(
        "{}_{:016x}{:016x}",
        host.trim(),
        rand::random::<u64>(),
        rand::random::<u64>()
    )
}
