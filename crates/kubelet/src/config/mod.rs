//! The kubelet's configuration: `KubeletConfiguration` (kubelet.config.k8s.io/v1beta1) and the flags above it.
//!
//! Every field of the kind is in the list of [`fields`], so that a file made for upstream is understood: those without a
//! counterpart here are warned of or refused when they ask for something, the others are what [`KubeletConfiguration`]
//! holds. Flags set on the command line override the file, as upstream's do.

pub mod fields;
pub mod flags;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

mod duration {
    //! Zero, null and absent all mean the default, as in the Go type.
    use serde::{Deserialize as _, Deserializer};
    use std::time::Duration;

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
        let Some(text) = Option::<String>::deserialize(d)? else {
            return Ok(None);
        };
        let v = component::duration::parse(&text).map_err(serde::de::Error::custom)?;
        Ok((!v.is_zero()).then_some(v))
    }
}

/// `KubeletConfiguration` as far as it is read; unset fields are `None` or empty and get their defaults in [`Settings`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the fields are those of upstream's kind")]
pub struct KubeletConfiguration {
    pub enable_server: Option<bool>,
    pub static_pod_path: String,
    pub pod_logs_dir: String,
    #[serde(deserialize_with = "duration::deserialize")]
    pub file_check_frequency: Option<Duration>,
    pub address: String,
    pub port: i32,
    pub read_only_port: i32,
    pub tls_cert_file: String,
    pub tls_private_key_file: String,
    pub tls_cipher_suites: Vec<String>,
    pub tls_min_version: String,
    pub authentication: Authentication,
    pub authorization: Authorization,
    pub healthz_port: Option<i32>,
    pub healthz_bind_address: String,
    pub cluster_domain: String,
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: Vec<String>,
    #[serde(deserialize_with = "duration::deserialize")]
    pub streaming_connection_idle_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration::deserialize")]
    pub sync_frequency: Option<Duration>,
    #[serde(deserialize_with = "duration::deserialize")]
    pub node_status_update_frequency: Option<Duration>,
    #[serde(deserialize_with = "duration::deserialize")]
    pub node_status_report_frequency: Option<Duration>,
    pub node_lease_duration_seconds: i32,
    #[serde(
        rename = "imageMinimumGCAge",
        deserialize_with = "duration::deserialize"
    )]
    pub image_minimum_gc_age: Option<Duration>,
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: Option<i32>,
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub image_gc_low_threshold_percent: Option<i32>,
    pub cgroup_root: String,
    #[serde(rename = "cgroupsPerQOS")]
    pub cgroups_per_qos: Option<bool>,
    pub cgroup_driver: String,
    #[serde(deserialize_with = "duration::deserialize")]
    pub runtime_request_timeout: Option<Duration>,
    pub max_pods: i32,
    #[serde(rename = "podCIDR")]
    pub pod_cidr: String,
    pub pod_pids_limit: Option<i64>,
    pub resolv_conf: Option<String>,
    #[serde(rename = "cpuCFSQuota")]
    pub cpu_cfs_quota: Option<bool>,
    #[serde(
        rename = "cpuCFSQuotaPeriod",
        deserialize_with = "duration::deserialize"
    )]
    pub cpu_cfs_quota_period: Option<Duration>,
    pub node_status_max_images: Option<i32>,
    pub serialize_image_pulls: Option<bool>,
    pub max_parallel_image_pulls: Option<i32>,
    pub eviction_hard: BTreeMap<String, String>,
    #[serde(deserialize_with = "duration::deserialize")]
    pub eviction_pressure_transition_period: Option<Duration>,
    pub pods_per_core: i32,
    pub feature_gates: BTreeMap<String, bool>,
    pub container_log_max_size: String,
    pub container_log_max_files: Option<i32>,
    pub system_reserved: BTreeMap<String, String>,
    pub kube_reserved: BTreeMap<String, String>,
    pub enforce_node_allocatable: Option<Vec<String>>,
    pub allowed_unsafe_sysctls: Vec<String>,
    #[serde(rename = "providerID")]
    pub provider_id: String,
    pub crash_loop_back_off: CrashLoopBackOff,
    pub seccomp_default: Option<bool>,
    pub register_with_taints: Vec<Taint>,
    pub register_node: Option<bool>,
    pub container_runtime_endpoint: String,
    pub image_service_endpoint: String,
    #[serde(rename = "failCgroupV1")]
    pub fail_cgroup_v1: Option<bool>,
    #[serde(rename = "kubeAPIQPS")]
    pub kube_api_qps: Option<f32>,
    #[serde(rename = "kubeAPIBurst")]
    pub kube_api_burst: Option<u32>,
    pub fail_swap_on: Option<bool>,
    pub enable_debugging_handlers: Option<bool>,
    pub logging: component::logging::Logging,
}

/// Who may ask the kubelet.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the fields are those of upstream's kind")]
pub struct Authentication {
    pub x509: X509,
    pub webhook: Enabled,
    pub anonymous: Enabled,
}

/// Client certificates.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct X509 {
    /// Authorities that sign clients; empty turns certificates off.
    #[serde(rename = "clientCAFile")]
    pub client_ca_file: String,
}

/// Something that can be on or off.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Enabled {
    /// On or off; the default depends on where it stands.
    pub enabled: Option<bool>,
    /// How long an answer is kept.
    #[serde(rename = "cacheTTL", deserialize_with = "duration::deserialize")]
    pub cache_ttl: Option<Duration>,
}

/// What they may ask.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Authorization {
    /// `Webhook` or `AlwaysAllow`.
    pub mode: String,
    /// Cache of the webhook.
    pub webhook: AuthorizationWebhook,
}

/// Cache times of authorization answers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the fields are those of upstream's kind")]
pub struct AuthorizationWebhook {
    #[serde(
        rename = "cacheAuthorizedTTL",
        deserialize_with = "duration::deserialize"
    )]
    pub cache_authorized_ttl: Option<Duration>,
    #[serde(
        rename = "cacheUnauthorizedTTL",
        deserialize_with = "duration::deserialize"
    )]
    pub cache_unauthorized_ttl: Option<Duration>,
}

/// Back-off of crashing containers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CrashLoopBackOff {
    /// Longest wait.
    #[serde(deserialize_with = "duration::deserialize")]
    pub max_container_restart_period: Option<Duration>,
}

/// A taint to register with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the fields are those of core/v1 Taint")]
pub struct Taint {
    pub key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    pub effect: String,
}

/// How pods' cgroups are named and made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupDriver {
    /// The kubelet makes directories.
    #[default]
    Cgroupfs,
    /// systemd slices.
    Systemd,
}

/// A threshold of an eviction signal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// Bytes (or a count) available.
    Absolute(i64),
    /// Share of the capacity, 0 to 1.
    Share(f64),
}

impl Threshold {
    /// `100Mi` or `10%`.
    pub fn parse(text: &str) -> Option<Threshold> {
        if let Some(p) = text.strip_suffix('%') {
            // In single precision, as upstream: the bytes it comes to show in the node's status.
            let v: f32 = p.trim().parse().ok()?;
            return (0.0..=100.0)
                .contains(&v)
                .then_some(Threshold::Share(f64::from(v / 100.0)));
        }
        crate::pod::quantity::Quantity::parse(text).map(|q| Threshold::Absolute(q.value()))
    }

    /// The threshold in units of a capacity.
    pub fn of(self, capacity: i64) -> i64 {
        match self {
            Threshold::Absolute(v) => v,
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_precision_loss,
                reason = "a share of a capacity, rounded"
            )]
            Threshold::Share(s) => (capacity as f64 * s) as i64,
        }
    }
}

/// The least time between two rounds of what the kubelet does again and again: shorter ones would keep it busy with
/// nothing else. Upstream too looks once a second at which pods are due.
const LEAST: Duration = Duration::from_secs(1);

/// Everything the kubelet runs with, defaults applied.
#[derive(Clone, Debug)]
#[expect(
    missing_docs,
    reason = "named as the configuration fields and flags they come from"
)]
pub struct Settings {
    pub node_name: String,
    pub node_ips: Vec<std::net::IpAddr>,
    pub node_labels: BTreeMap<String, String>,
    pub register_node: bool,
    pub register_with_taints: Vec<Taint>,
    pub provider_id: String,
    pub root_dir: PathBuf,
    pub cert_dir: PathBuf,
    pub pod_logs_dir: PathBuf,
    pub kubeconfig: Option<PathBuf>,
    pub bootstrap_kubeconfig: Option<PathBuf>,
    pub static_pod_path: Option<PathBuf>,
    /// At least a second.
    pub file_check_frequency: Duration,
    pub enable_server: bool,
    pub address: std::net::IpAddr,
    pub port: u16,
    pub read_only_port: u16,
    pub healthz_address: std::net::IpAddr,
    pub healthz_port: u16,
    pub tls: component::tls::Options,
    pub client_ca_file: Option<PathBuf>,
    pub webhook_authentication: bool,
    pub anonymous: bool,
    pub webhook_authorization: bool,
    pub token_cache: Duration,
    pub allow_cache: Duration,
    pub deny_cache: Duration,
    /// How long nothing may move in a stream; `None`: for ever.
    pub stream_idle: Option<Duration>,
    pub cluster: crate::runtime::dns::ClusterDns,
    pub resolv_conf: Option<PathBuf>,
    /// The longest time between two looks at a pod, at least a second; up to half as much is added at random.
    pub sync_frequency: Duration,
    /// At least a second.
    pub status_frequency: Duration,
    pub report_frequency: Duration,
    pub lease_seconds: i32,
    pub runtime_endpoint: String,
    pub image_endpoint: String,
    pub runtime_timeout: Duration,
    pub max_pods: i64,
    pub pods_per_core: i64,
    pub pod_cidr: String,
    pub cgroups_per_qos: bool,
    pub cgroup_driver: CgroupDriver,
    pub cgroup_root: String,
    pub pod_pids_limit: i64,
    pub cfs_quota: bool,
    pub cfs_period: Duration,
    pub status_max_images: i64,
    pub parallel_pulls: usize,
    pub image_min_age: Duration,
    pub image_high: i64,
    pub image_low: i64,
    pub eviction_hard: BTreeMap<String, Threshold>,
    pub pressure_transition: Duration,
    pub log_max_size: i64,
    pub log_max_files: usize,
    pub system_reserved: BTreeMap<String, String>,
    pub kube_reserved: BTreeMap<String, String>,
    pub enforce_pods: bool,
    pub allowed_unsafe_sysctls: Vec<String>,
    pub crash_backoff_max: Duration,
    pub seccomp_default: bool,
    pub debugging_handlers: bool,
    pub fail_swap_on: bool,
    pub api_qps: f32,
    pub api_burst: u32,
    pub features: component::features::Features,
    pub logging: component::logging::Logging,
    /// What the configuration asks for and does not get; logged once.
    pub warnings: Vec<String>,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file.
    #[error(transparent)]
    File(#[from] component::config::ConfigError),
    /// The section `logging`.
    #[error(transparent)]
    Logging(#[from] component::logging::Invalid),
    /// A value.
    #[error("{field}: {message}")]
    Value {
        /// Field or flag.
        field: &'static str,
        /// What is wrong.
        message: String,
    },
}

fn bad(field: &'static str, message: impl Into<String>) -> SettingsError {
    SettingsError::Value {
        field,
        message: message.into(),
    }
}

/// What only flags say.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "named as the flags they come from")]
pub struct FlagValues {
    pub hostname_override: String,
    pub node_ip: String,
    pub node_labels: BTreeMap<String, String>,
    pub root_dir: PathBuf,
    pub cert_dir: PathBuf,
    pub kubeconfig: Option<PathBuf>,
    pub bootstrap_kubeconfig: Option<PathBuf>,
}

fn set_or(text: &str, default: &str) -> String {
    if text.is_empty() {
        default.to_string()
    } else {
        text.to_string()
    }
}

impl Settings {
    /// Applies defaults and checks values.
    pub fn new(c: KubeletConfiguration, f: FlagValues) -> Result<Settings, SettingsError> {
        let host = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        let node_name = set_or(f.hostname_override.trim(), host.trim()).to_lowercase();
        if node_name.is_empty() {
            return Err(bad("--hostname-override", "the machine has no host name"));
        }
        let node_ips = f
            .node_ip
            .split(',')
            .map(str::trim)
            .filter(|s| !s.is_empty())
            .map(|s| {
                s.parse()
                    .map_err(|_| bad("--node-ip", format!("{s:?} is not an IP address")))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let ip = |field, text: &str, default: &str| {
            set_or(text, default)
                .parse()
                .map_err(|_| bad(field, format!("{text:?} is not an IP address")))
        };
        let port = |field, v: i32, default: u16| match v {
            0 => Ok(default),
            v => u16::try_from(v).map_err(|_| bad(field, format!("{v} is not a port"))),
        };
        let cgroup_driver = match c.cgroup_driver.as_str() {
            "" | "cgroupfs" => CgroupDriver::Cgroupfs,
            "systemd" => CgroupDriver::Systemd,
            other => {
                return Err(bad(
                    "cgroupDriver",
                    format!("{other:?} is neither cgroupfs nor systemd"),
                ));
            }
        };
        let webhook_authorization = match c.authorization.mode.as_str() {
            "" | "Webhook" => true,
            "AlwaysAllow" => false,
            other => {
                return Err(bad(
                    "authorization.mode",
                    format!("{other:?} is neither Webhook nor AlwaysAllow"),
                ));
            }
        };
        if c.fail_cgroup_v1 == Some(true) && !crate::cgroups::is_v2() {
            return Err(bad(
                "failCgroupV1",
                "this node uses cgroup v1 and failCgroupV1 is set",
            ));
        }
        for what in c.enforce_node_allocatable.iter().flatten() {
            if !matches!(what.as_str(), "" | "none" | "pods") {
                return Err(bad(
                    "enforceNodeAllocatable",
                    format!("{what:?} is not supported; only \"pods\" and \"none\" are"),
                ));
            }
        }
        c.logging.check()?;
        let mut features = component::features::Features::default();
        for (name, on) in &c.feature_gates {
            features
                .set(name, *on)
                .map_err(|e| bad("featureGates", e))?;
        }
        let mut hard: BTreeMap<String, String> = BTreeMap::from(
            [
                ("memory.available", "100Mi"),
                ("nodefs.available", "10%"),
                ("nodefs.inodesFree", "5%"),
                ("imagefs.available", "15%"),
                ("imagefs.inodesFree", "5%"),
            ]
            .map(|(k, v)| (k.to_string(), v.to_string())),
        );
        if !c.eviction_hard.is_empty() {
            hard = c.eviction_hard.clone();
        }
        let eviction_hard = hard
            .into_iter()
            .map(|(k, v)| {
                Threshold::parse(&v)
                    .map(|t| (k, t))
                    .ok_or_else(|| bad("evictionHard", format!("{v:?} is no threshold")))
            })
            .collect::<Result<_, _>>()?;
        let parallel_pulls = match (
            c.serialize_image_pulls.unwrap_or(true),
            c.max_parallel_image_pulls,
        ) {
            (true, _) => 1,
            (false, Some(n)) if n > 0 => usize::try_from(n).unwrap_or(1),
            (false, _) => 64,
        };
        let opt = |s: &str| (!s.is_empty()).then(|| PathBuf::from(s));
        let cert_dir = f.cert_dir;
        let mut sans = vec![node_name.clone()];
        sans.extend(node_ips.iter().map(ToString::to_string));
        sans.push("127.0.0.1".into());
        let log_max = set_or(&c.container_log_max_size, "10Mi");
        let anonymous = c.authentication.anonymous.enabled.unwrap_or(false);
        Ok(Settings {
            node_name,
            node_ips,
            node_labels: f.node_labels,
            register_node: c.register_node.unwrap_or(true),
            register_with_taints: c.register_with_taints,
            provider_id: c.provider_id,
            root_dir: f.root_dir,
            pod_logs_dir: PathBuf::from(set_or(&c.pod_logs_dir, "/var/log/pods")),
            kubeconfig: f.kubeconfig,
            bootstrap_kubeconfig: f.bootstrap_kubeconfig,
            static_pod_path: opt(&c.static_pod_path),
            file_check_frequency: c
                .file_check_frequency
                .unwrap_or(Duration::from_secs(20))
                .max(LEAST),
            enable_server: c.enable_server.unwrap_or(true),
            address: ip("address", &c.address, "0.0.0.0")?,
            port: port("port", c.port, 10250)?,
            read_only_port: port("readOnlyPort", c.read_only_port, 0)?,
            healthz_address: ip("healthzBindAddress", &c.healthz_bind_address, "127.0.0.1")?,
            healthz_port: match c.healthz_port {
                None => 10248,
                Some(v) => u16::try_from(v)
                    .map_err(|_| bad("healthzPort", format!("{v} is not a port")))?,
            },
            tls: component::tls::Options {
                cert_file: opt(&c.tls_cert_file),
                key_file: opt(&c.tls_private_key_file),
                cert_dir: Some(cert_dir.clone()),
                pair_name: "kubelet".into(),
                self_signed_sans: sans,
                client_ca_files: opt(&c.authentication.x509.client_ca_file)
                    .into_iter()
                    .collect(),
                min_version: c.tls_min_version,
                cipher_suites: c.tls_cipher_suites,
                http2: true,
                ..Default::default()
            },
            cert_dir,
            client_ca_file: opt(&c.authentication.x509.client_ca_file),
            webhook_authentication: c.authentication.webhook.enabled.unwrap_or(true),
            anonymous,
            webhook_authorization,
            token_cache: c
                .authentication
                .webhook
                .cache_ttl
                .unwrap_or(Duration::from_secs(120)),
            allow_cache: c
                .authorization
                .webhook
                .cache_authorized_ttl
                .unwrap_or(Duration::from_secs(300)),
            deny_cache: c
                .authorization
                .webhook
                .cache_unauthorized_ttl
                .unwrap_or(Duration::from_secs(30)),
            stream_idle: Some(
                c.streaming_connection_idle_timeout
                    .unwrap_or(Duration::from_secs(4 * 3600)),
            ),
            cluster: crate::runtime::dns::ClusterDns {
                servers: c.cluster_dns,
                domain: c.cluster_domain,
            },
            resolv_conf: opt(c.resolv_conf.as_deref().unwrap_or("/etc/resolv.conf")),
            sync_frequency: c
                .sync_frequency
                .unwrap_or(Duration::from_secs(60))
                .max(LEAST),
            status_frequency: c
                .node_status_update_frequency
                .unwrap_or(Duration::from_secs(10))
                .max(LEAST),
            report_frequency: c
                .node_status_report_frequency
                .unwrap_or(Duration::from_secs(300)),
            lease_seconds: if c.node_lease_duration_seconds > 0 {
                c.node_lease_duration_seconds
            } else {
                40
            },
            image_endpoint: set_or(
                &c.image_service_endpoint,
                &set_or(
                    &c.container_runtime_endpoint,
                    "unix:///run/containerd/containerd.sock",
                ),
            ),
            runtime_endpoint: set_or(
                &c.container_runtime_endpoint,
                "unix:///run/containerd/containerd.sock",
            ),
            runtime_timeout: c
                .runtime_request_timeout
                .unwrap_or(Duration::from_secs(120)),
            max_pods: if c.max_pods > 0 {
                i64::from(c.max_pods)
            } else {
                110
            },
            pods_per_core: i64::from(c.pods_per_core),
            pod_cidr: c.pod_cidr,
            cgroups_per_qos: c.cgroups_per_qos.unwrap_or(true),
            cgroup_driver,
            cgroup_root: set_or(&c.cgroup_root, "/"),
            pod_pids_limit: c.pod_pids_limit.unwrap_or(-1),
            cfs_quota: c.cpu_cfs_quota.unwrap_or(true),
            cfs_period: c.cpu_cfs_quota_period.unwrap_or(Duration::from_millis(100)),
            status_max_images: i64::from(c.node_status_max_images.unwrap_or(50)),
            parallel_pulls,
            image_min_age: c.image_minimum_gc_age.unwrap_or(Duration::from_secs(120)),
            image_high: i64::from(c.image_gc_high_threshold_percent.unwrap_or(85)),
            image_low: i64::from(c.image_gc_low_threshold_percent.unwrap_or(80)),
            eviction_hard,
            pressure_transition: c
                .eviction_pressure_transition_period
                .unwrap_or(Duration::from_secs(300)),
            log_max_size: crate::pod::quantity::Quantity::parse(&log_max)
                .ok_or_else(|| bad("containerLogMaxSize", format!("{log_max:?} is no quantity")))?
                .value(),
            log_max_files: usize::try_from(c.container_log_max_files.unwrap_or(5))
                .unwrap_or(5)
                .max(2),
            system_reserved: c.system_reserved,
            kube_reserved: c.kube_reserved,
            enforce_pods: c
                .enforce_node_allocatable
                .is_none_or(|e| e.iter().any(|x| x == "pods")),
            allowed_unsafe_sysctls: c.allowed_unsafe_sysctls,
            crash_backoff_max: c
                .crash_loop_back_off
                .max_container_restart_period
                .unwrap_or(Duration::from_secs(300)),
            seccomp_default: c.seccomp_default.unwrap_or(false),
            debugging_handlers: c.enable_debugging_handlers.unwrap_or(true),
            fail_swap_on: c.fail_swap_on.unwrap_or(true),
            api_qps: c.kube_api_qps.unwrap_or(50.0),
            api_burst: c.kube_api_burst.unwrap_or(100),
            features,
            logging: c.logging,
            warnings: Vec::new(),
        })
    }

    /// Refuses a machine that the settings do not want.
    ///
    /// # Errors
    /// Swap is on though `failSwapOn` is.
    pub fn check_machine(&self, swaps: &str) -> Result<(), SettingsError> {
        // The first line is a heading.
        if self.fail_swap_on && swaps.lines().skip(1).any(|l| !l.trim().is_empty()) {
            return Err(bad(
                "failSwapOn",
                "running with swap on is not supported, please disable swap or set --fail-swap-on flag to false",
            ));
        }
        Ok(())
    }

    /// The directory of a pod's data.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root_dir.join("pods").join(uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(yaml: &str) -> Result<Settings, SettingsError> {
        let text = format!(
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n{yaml}"
        );
        let c = fields::KIND.parse::<KubeletConfiguration>("x", &text)?;
        let mut s = Settings::new(
            c.value,
            FlagValues {
                hostname_override: "N1".into(),
                node_ip: "10.0.0.1".into(),
                ..Default::default()
            },
        )?;
        s.warnings = c.warnings;
        Ok(s)
    }

    #[test]
    fn every_field_that_is_there_is_read() {
        assert_eq!(
            component::config::not_decoded::<KubeletConfiguration>(fields::FIELDS),
            [] as [&str; 0]
        );
    }

    #[test]
    fn what_is_absent_is_refused_or_told_once() {
        for (yaml, part) in [
            (
                "cpuManagerPolicy: static\n",
                "cpuManagerPolicy: \"static\" is not supported",
            ),
            ("memoryManagerPolicy: Static\n", "NUMA"),
            ("topologyManagerPolicy: restricted\n", "NUMA"),
            ("protectKernelDefaults: true\n", "protectKernelDefaults"),
            ("memorySwap: {swapBehavior: LimitedSwap}\n", "swap"),
            ("qosReserved: {memory: 50%}\n", "qosReserved"),
            ("reservedSystemCPUs: 0-1\n", "reservedSystemCPUs"),
            ("systemReservedCgroup: /s\n", "systemReservedCgroup"),
            (
                "enforceNodeAllocatable: [pods, system-reserved]\n",
                "system-reserved",
            ),
            ("staticPodURL: http://x\n", "staticPodURL"),
            ("serverTLSBootstrap: true\n", "tlsCertFile"),
            (
                "imagePullCredentialsVerificationPolicy: AlwaysVerify\n",
                "imagePullPolicy",
            ),
            (
                "logging: {format: xml}\n",
                "logging.format: Invalid value: \"xml\": Unsupported log format",
            ),
            (
                "featureGates: {Nope: true}\n",
                "unrecognized feature gate: Nope",
            ),
        ] {
            let e = settings(yaml).unwrap_err().to_string();
            assert!(e.contains(part), "{yaml}: {e}");
        }
        for yaml in [
            "cpuManagerPolicy: none\n",
            "memorySwap: {swapBehavior: NoSwap}\n",
            "tracing: null\n",
            "maxPods: null\nevictionHard: null\n",
            "imagePullCredentialsVerificationPolicy: NeverVerifyPreloadedImages\n",
        ] {
            assert!(settings(yaml).unwrap().warnings.is_empty(), "{yaml}");
        }
        let s = settings(
            "evictionSoft: {memory.available: 1Gi}\nshutdownGracePeriod: 30s\noomScoreAdj: -5\n",
        )
        .unwrap();
        assert_eq!(s.warnings.len(), 3, "{:?}", s.warnings);
    }

    #[test]
    fn swap_is_refused_unless_it_is_wanted() {
        let on = "Filename Type Size Used Priority\n/swap file 1024 0 -2\n";
        let none = "Filename Type Size Used Priority\n";
        let strict = settings("").unwrap();
        let why = strict.check_machine(on).unwrap_err().to_string();
        assert!(why.starts_with("failSwapOn: running with swap on"), "{why}");
        strict.check_machine(none).unwrap();
        let lax = settings("failSwapOn: false\n").unwrap();
        lax.check_machine(on).unwrap();
    }

    #[test]
    fn defaults_are_upstreams() {
        let s = settings("").unwrap();
        assert_eq!(s.node_name, "n1");
        assert_eq!(
            (s.port, s.read_only_port, s.healthz_port, s.max_pods),
            (10250, 0, 10248, 110)
        );
        assert!(s.webhook_authorization && s.webhook_authentication && !s.anonymous);
        assert_eq!(s.status_frequency, Duration::from_secs(10));
        assert_eq!(s.stream_idle, Some(Duration::from_secs(14_400)));
        assert_eq!(
            s.eviction_hard["memory.available"],
            Threshold::Absolute(100 << 20)
        );
        assert_eq!(s.log_max_size, 10 << 20);
    }

    #[test]
    fn kubeadms_file_decodes() {
        let s = settings(
            "authentication:\n  anonymous:\n    enabled: false\n  webhook:\n    cacheTTL: 0s\n    enabled: true\n  x509:\n    clientCAFile: /etc/kubernetes/pki/ca.crt\n\
             authorization:\n  mode: Webhook\n  webhook:\n    cacheAuthorizedTTL: 0s\n    cacheUnauthorizedTTL: 0s\ncgroupDriver: systemd\nclusterDNS:\n- 10.96.0.10\nclusterDomain: cluster.local\n\
             containerRuntimeEndpoint: \"\"\ncpuManagerReconcilePeriod: 0s\nevictionPressureTransitionPeriod: 0s\nfileCheckFrequency: 0s\nhealthzBindAddress: 127.0.0.1\nhealthzPort: 10248\n\
             httpCheckFrequency: 0s\nimageMaximumGCAge: 0s\nimageMinimumGCAge: 0s\nlogging:\n  flushFrequency: 0\nmemorySwap: {}\nnodeStatusReportFrequency: 0s\nnodeStatusUpdateFrequency: 0s\n\
             rotateCertificates: true\nruntimeRequestTimeout: 0s\nshutdownGracePeriod: 0s\nstaticPodPath: /etc/kubernetes/manifests\nstreamingConnectionIdleTimeout: 0s\nsyncFrequency: 0s\nvolumeStatsAggPeriod: 0s\ncrashLoopBackOff: {}\n",
        )
        .unwrap();
        assert_eq!(s.cgroup_driver, CgroupDriver::Systemd);
        assert_eq!(s.token_cache, Duration::from_secs(120));
        assert_eq!(s.sync_frequency, Duration::from_secs(60));
        let often = settings(
            "syncFrequency: 1ns\nfileCheckFrequency: 1ns\nnodeStatusUpdateFrequency: 1ns\n",
        )
        .unwrap();
        for least in [
            often.sync_frequency,
            often.file_check_frequency,
            often.status_frequency,
        ] {
            assert_eq!(least, Duration::from_secs(1));
        }
        assert_eq!(s.static_pod_path, Some("/etc/kubernetes/manifests".into()));
        assert_eq!(s.runtime_endpoint, "unix:///run/containerd/containerd.sock");
    }

    #[test]
    fn mistakes_are_named() {
        assert!(
            settings("maxPodz: 3\n")
                .unwrap_err()
                .to_string()
                .contains("maxPodz")
        );
        assert!(
            settings("cgroupDriver: x\n")
                .unwrap_err()
                .to_string()
                .contains("cgroupDriver")
        );
        assert_eq!(
            settings("evictionHard: {memory.available: lots}\n")
                .unwrap_err()
                .to_string(),
            "evictionHard: \"lots\" is no threshold"
        );
    }
}
