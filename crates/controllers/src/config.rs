//! What the flags say.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::certificates::signing::Files;
use crate::service_account_tokens::Key;

/// Configuration of the controllers. The default is upstream's.
#[derive(Clone, Debug)]
pub struct Config {
    /// `--controllers`: `*`, `foo`, `-foo`.
    pub controllers: Vec<String>,
    /// `--concurrent-NAME-syncs`, by controller.
    pub concurrency: BTreeMap<&'static str, usize>,
    /// `--allocate-node-cidrs`
    pub allocate_node_cidrs: bool,
    /// `--cluster-cidr`, one per IP family.
    pub cluster_cidrs: Vec<String>,
    /// `--service-cluster-ip-range`, one per IP family.
    pub service_cidrs: Vec<String>,
    /// `--node-cidr-mask-size`, `-ipv4`
    pub node_mask_v4: u8,
    /// `--node-cidr-mask-size-ipv6`
    pub node_mask_v6: u8,
    /// `--node-monitor-period`
    pub node_monitor_period: Duration,
    /// `--node-monitor-grace-period`
    pub node_monitor_grace: Duration,
    /// `--node-startup-grace-period`
    pub node_startup_grace: Duration,
    /// `--node-eviction-rate`, nodes a second.
    pub eviction_rate: f64,
    /// `--secondary-node-eviction-rate`
    pub secondary_eviction_rate: f64,
    /// `--unhealthy-zone-threshold`
    pub unhealthy_zone_threshold: f64,
    /// `--large-cluster-size-threshold`
    pub large_cluster_size: usize,
    /// `--terminated-pod-gc-threshold`
    pub terminated_pod_threshold: usize,
    /// `--max-endpoints-per-slice`
    pub max_endpoints_per_slice: usize,
    /// `--endpoint-updates-batch-period`
    pub endpoint_batch: Duration,
    /// `--endpointslice-updates-batch-period`
    pub endpoint_slice_batch: Duration,
    /// `--mirroring-max-endpoints-per-subset`
    pub mirrored_per_subset: usize,
    /// `--mirroring-endpointslice-updates-batch-period`
    pub mirroring_batch: Duration,
    /// `--resource-quota-sync-period`; zero to count only what changed.
    pub resource_quota_sync: Duration,
    /// Whether volumes are taken from nodes that are not ready: not `--disable-force-detach-on-timeout`.
    pub force_detach: bool,
    /// Whether attachments that went are noticed: not `--disable-attach-detach-reconcile-sync`.
    pub compare_attachments: bool,
    /// `--horizontal-pod-autoscaler-sync-period`
    pub autoscaler_sync: Duration,
    /// `--horizontal-pod-autoscaler-downscale-stabilization`
    pub autoscaler_stabilization: Duration,
    /// `--horizontal-pod-autoscaler-tolerance`
    pub autoscaler_tolerance: f64,
    /// `--horizontal-pod-autoscaler-cpu-initialization-period`
    pub autoscaler_cpu_initialization: Duration,
    /// `--horizontal-pod-autoscaler-initial-readiness-delay`
    pub autoscaler_initial_readiness: Duration,
    /// PEM of `--root-ca-file`; empty to leave the publisher out.
    pub root_ca: String,
    /// The key of `--service-account-private-key-file`.
    pub service_account_key: Option<Key>,
    /// `--legacy-service-account-token-clean-up-period`
    pub legacy_token_period: Duration,
    /// `--feature-gates`
    pub features: component::features::Features,
    /// `--cluster-signing-*-file`, by signer.
    pub signing: Vec<Files>,
    /// `--cluster-signing-duration`
    pub signing_duration: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            controllers: vec!["*".into()],
            concurrency: BTreeMap::new(),
            allocate_node_cidrs: false,
            cluster_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            node_mask_v4: 24,
            node_mask_v6: 64,
            node_monitor_period: Duration::from_secs(5),
            node_monitor_grace: Duration::from_secs(50),
            node_startup_grace: Duration::from_secs(60),
            eviction_rate: 0.1,
            secondary_eviction_rate: 0.01,
            unhealthy_zone_threshold: 0.55,
            large_cluster_size: 50,
            terminated_pod_threshold: 12500,
            max_endpoints_per_slice: 100,
            endpoint_batch: Duration::ZERO,
            endpoint_slice_batch: Duration::ZERO,
            mirrored_per_subset: 1000,
            mirroring_batch: Duration::ZERO,
            resource_quota_sync: Duration::from_secs(300),
            force_detach: true,
            compare_attachments: true,
            autoscaler_sync: Duration::from_secs(15),
            autoscaler_stabilization: Duration::from_secs(300),
            autoscaler_tolerance: 0.1,
            autoscaler_cpu_initialization: Duration::from_secs(300),
            autoscaler_initial_readiness: Duration::from_secs(30),
            root_ca: String::new(),
            service_account_key: None,
            legacy_token_period: Duration::from_secs(365 * 24 * 3600),
            features: component::features::Features::default(),
            signing: Vec::new(),
            signing_duration: Duration::from_secs(365 * 24 * 3600),
        }
    }
}

impl Config {
    /// How many keys a controller works on at once.
    pub fn concurrent(&self, controller: &str, default: usize) -> usize {
        self.concurrency
            .get(controller)
            .copied()
            .unwrap_or(default)
            .max(1)
    }
}
