//! The command line of the kubelet and how it overrides the configuration file.

use component::{CommandLine, Flags};
use serde_json::{Map, Value, json};

use super::{ACCEPTED, FlagValues, KubeletConfiguration, Settings, SettingsError};

/// Flags that set a field of the configuration: flag, path in the file, and how the value is read.
const OVERRIDES: &[(&str, &str, Kind)] = &[
    ("address", "address", Kind::Text),
    ("allowed-unsafe-sysctls", "allowedUnsafeSysctls", Kind::List),
    (
        "anonymous-auth",
        "authentication.anonymous.enabled",
        Kind::Bool,
    ),
    (
        "authentication-token-webhook",
        "authentication.webhook.enabled",
        Kind::Bool,
    ),
    (
        "authentication-token-webhook-cache-ttl",
        "authentication.webhook.cacheTTL",
        Kind::Text,
    ),
    ("authorization-mode", "authorization.mode", Kind::Text),
    (
        "authorization-webhook-cache-authorized-ttl",
        "authorization.webhook.cacheAuthorizedTTL",
        Kind::Text,
    ),
    (
        "authorization-webhook-cache-unauthorized-ttl",
        "authorization.webhook.cacheUnauthorizedTTL",
        Kind::Text,
    ),
    ("cgroup-driver", "cgroupDriver", Kind::Text),
    ("cgroup-root", "cgroupRoot", Kind::Text),
    ("cgroups-per-qos", "cgroupsPerQOS", Kind::Bool),
    (
        "client-ca-file",
        "authentication.x509.clientCAFile",
        Kind::Text,
    ),
    ("cluster-dns", "clusterDNS", Kind::List),
    ("cluster-domain", "clusterDomain", Kind::Text),
    ("container-log-max-files", "containerLogMaxFiles", Kind::Int),
    ("container-log-max-size", "containerLogMaxSize", Kind::Text),
    (
        "container-runtime-endpoint",
        "containerRuntimeEndpoint",
        Kind::Text,
    ),
    ("cpu-cfs-quota", "cpuCFSQuota", Kind::Bool),
    ("cpu-cfs-quota-period", "cpuCFSQuotaPeriod", Kind::Text),
    (
        "enable-debugging-handlers",
        "enableDebuggingHandlers",
        Kind::Bool,
    ),
    ("enable-server", "enableServer", Kind::Bool),
    (
        "enforce-node-allocatable",
        "enforceNodeAllocatable",
        Kind::List,
    ),
    ("eviction-hard", "evictionHard", Kind::Thresholds),
    (
        "eviction-pressure-transition-period",
        "evictionPressureTransitionPeriod",
        Kind::Text,
    ),
    ("fail-cgroupv1", "failCgroupV1", Kind::Bool),
    ("file-check-frequency", "fileCheckFrequency", Kind::Text),
    ("healthz-bind-address", "healthzBindAddress", Kind::Text),
    ("healthz-port", "healthzPort", Kind::Int),
    (
        "image-gc-high-threshold",
        "imageGCHighThresholdPercent",
        Kind::Int,
    ),
    (
        "image-gc-low-threshold",
        "imageGCLowThresholdPercent",
        Kind::Int,
    ),
    ("image-service-endpoint", "imageServiceEndpoint", Kind::Text),
    ("kube-reserved", "kubeReserved", Kind::Pairs),
    ("max-pods", "maxPods", Kind::Int),
    (
        "minimum-image-ttl-duration",
        "imageMinimumGCAge",
        Kind::Text,
    ),
    ("node-status-max-images", "nodeStatusMaxImages", Kind::Int),
    (
        "node-status-update-frequency",
        "nodeStatusUpdateFrequency",
        Kind::Text,
    ),
    ("pod-cidr", "podCIDR", Kind::Text),
    ("pod-manifest-path", "staticPodPath", Kind::Text),
    ("pod-max-pids", "podPidsLimit", Kind::Int),
    ("pods-per-core", "podsPerCore", Kind::Int),
    ("port", "port", Kind::Int),
    ("provider-id", "providerID", Kind::Text),
    ("read-only-port", "readOnlyPort", Kind::Int),
    ("register-node", "registerNode", Kind::Bool),
    ("register-with-taints", "registerWithTaints", Kind::Taints),
    ("resolv-conf", "resolvConf", Kind::Text),
    ("rotate-certificates", "rotateCertificates", Kind::Bool),
    (
        "runtime-request-timeout",
        "runtimeRequestTimeout",
        Kind::Text,
    ),
    ("seccomp-default", "seccompDefault", Kind::Bool),
    ("serialize-image-pulls", "serializeImagePulls", Kind::Bool),
    (
        "streaming-connection-idle-timeout",
        "streamingConnectionIdleTimeout",
        Kind::Text,
    ),
    ("system-reserved", "systemReserved", Kind::Pairs),
    ("tls-cert-file", "tlsCertFile", Kind::Text),
    ("tls-cipher-suites", "tlsCipherSuites", Kind::List),
    ("tls-min-version", "tlsMinVersion", Kind::Text),
    ("tls-private-key-file", "tlsPrivateKeyFile", Kind::Text),
];

#[derive(Clone, Copy)]
enum Kind {
    Text,
    Bool,
    Int,
    List,
    Pairs,
    Thresholds,
    Taints,
}

/// Flags that have no counterpart in the file.
const OWN: &[&str] = &[
    "bootstrap-kubeconfig",
    "cert-dir",
    "config",
    "hostname-override",
    "kubeconfig",
    "node-ip",
    "node-labels",
    "root-dir",
];

/// Flags that tune what has no counterpart here.
const IGNORED: &[&str] = &[
    "application-metrics-count-limit",
    "boot-id-file",
    "container-hints",
    "containerd",
    "containerd-namespace",
    "cpu-manager-policy",
    "cpu-manager-policy-options",
    "cpu-manager-reconcile-period",
    "enable-controller-attach-detach",
    "enable-load-reader",
    "event-burst",
    "event-qps",
    "event-storage-age-limit",
    "event-storage-event-limit",
    "eviction-max-pod-grace-period",
    "eviction-minimum-reclaim",
    "eviction-soft",
    "eviction-soft-grace-period",
    "experimental-allocatable-ignore-eviction",
    "fail-swap-on",
    "global-housekeeping-interval",
    "hairpin-mode",
    "housekeeping-interval",
    "http-check-frequency",
    "kernel-memcg-notification",
    "kube-api-burst",
    "kube-api-content-type",
    "kube-api-qps",
    "kubelet-cgroups",
    "local-storage-capacity-isolation",
    "log-cadvisor-usage",
    "machine-id-file",
    "make-iptables-util-chains",
    "max-housekeeping-interval",
    "max-open-files",
    "maximum-dead-containers",
    "maximum-dead-containers-per-container",
    "memory-manager-policy",
    "minimum-container-ttl-duration",
    "oom-score-adj",
    "protect-kernel-defaults",
    "qos-reserved",
    "registry-burst",
    "registry-qps",
    "runtime-cgroups",
    "storage-driver-buffer-duration",
    "storage-driver-db",
    "storage-driver-host",
    "storage-driver-password",
    "storage-driver-secure",
    "storage-driver-table",
    "storage-driver-user",
    "sync-frequency",
    "system-cgroups",
    "topology-manager-policy",
    "topology-manager-policy-options",
    "topology-manager-scope",
    "volume-plugin-dir",
    "volume-stats-agg-period",
];

/// The kubelet's command line.
pub fn command_line() -> CommandLine {
    let honoured: Vec<&str> = OVERRIDES
        .iter()
        .map(|o| o.0)
        .chain(OWN.iter().copied())
        .collect();
    CommandLine::new(
        "kubelet",
        "The kubelet runs the pods of one node in its container runtime and reports on both.",
    )
    .honour(&honoured)
    .ignore(IGNORED)
    .refuse(
        "config-dir",
        "drop-in configuration directories are not supported; use --config",
    )
    .refuse(
        "manifest-url",
        "pods from a URL are not supported; use --pod-manifest-path",
    )
    .refuse(
        "rotate-server-certificates",
        "serving certificates from the cluster are not supported; use --tls-cert-file",
    )
    .refuse(
        "image-credential-provider-config",
        "credential provider plugins are not supported; use imagePullSecrets",
    )
}

/// Reads the file that `--config` names and applies the flags.
pub fn settings(flags: &Flags) -> Result<Settings, SettingsError> {
    let mut doc = match flags.path("config") {
        Some(path) => {
            // Decoded strictly first, so that mistakes in the file are told as the file's.
            let _: KubeletConfiguration = component::config::load(&path, &ACCEPTED)?;
            component::config::load::<Value>(&path, &ACCEPTED)?
        }
        None => {
            // Without a file the insecure defaults of the flags apply, as upstream's do.
            json!({"authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}}, "authorization": {"mode": "AlwaysAllow"}})
        }
    };
    for (flag, path, kind) in OVERRIDES {
        if !flags.is_set(flag) {
            continue;
        }
        let value = match kind {
            Kind::Text => Value::from(flags.string(flag)),
            Kind::Bool => Value::from(flags.bool(flag)),
            Kind::Int => Value::from(flags.int(flag)),
            Kind::List => Value::from(flags.strings(flag).to_vec()),
            Kind::Pairs => json!(flags.map(flag)),
            Kind::Thresholds => flags
                .strings(flag)
                .iter()
                .filter_map(|s| s.split_once('<'))
                .map(|(k, v)| (k.to_string(), Value::from(v)))
                .collect::<Map<_, _>>()
                .into(),
            Kind::Taints => flags
                .strings(flag)
                .iter()
                .flat_map(|s| s.split(','))
                .filter_map(taint)
                .collect(),
        };
        set(&mut doc, path, value);
    }
    let config: KubeletConfiguration =
        serde_json::from_value(doc).map_err(|e| super::bad("configuration", e.to_string()))?;
    let values = FlagValues {
        hostname_override: flags.string("hostname-override").to_string(),
        node_ip: flags.string("node-ip").to_string(),
        node_labels: flags.map("node-labels"),
        root_dir: flags
            .path("root-dir")
            .unwrap_or_else(|| "/var/lib/kubelet".into()),
        cert_dir: flags
            .path("cert-dir")
            .unwrap_or_else(|| "/var/lib/kubelet/pki".into()),
        kubeconfig: flags.path("kubeconfig"),
        bootstrap_kubeconfig: flags.path("bootstrap-kubeconfig"),
    };
    Settings::new(config, values)
}

fn taint(text: &str) -> Option<Value> {
    let (rest, effect) = text.rsplit_once(':')?;
    let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
    Some(json!({"key": key, "value": value, "effect": effect}))
}

fn set(doc: &mut Value, path: &str, value: Value) {
    let mut at = doc;
    for key in path.split('.') {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        let Some(map) = at.as_object_mut() else {
            return;
        };
        at = map.entry(key.to_string()).or_insert(Value::Null);
    }
    *at = value;
}

#[cfg(test)]
mod tests {
    use super::*;
    use component::flags::Outcome;

    fn of(args: &[&str]) -> Settings {
        match command_line()
            .parse(args.iter().map(|a| a.to_string()))
            .unwrap()
        {
            Outcome::Run(f) => settings(&f).unwrap(),
            Outcome::Print(t) => panic!("{t}"),
        }
    }

    #[test]
    fn flags_override_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.yaml");
        std::fs::write(&file, "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: 5\nport: 26001\n").unwrap();
        let config = format!("--config={}", file.display());
        let s = of(&[
            &config,
            "--max-pods=7",
            "--register-with-taints=a=b:NoSchedule,c:NoExecute",
            "--eviction-hard=memory.available<1Gi",
            "--hostname-override=x",
        ]);
        assert_eq!((s.max_pods, s.port), (7, 26001));
        assert_eq!(s.register_with_taints.len(), 2);
        assert_eq!(s.register_with_taints[1].key, "c");
        assert_eq!(s.eviction_hard.len(), 1);
        assert!(s.webhook_authorization);
    }

    #[test]
    fn without_a_file_the_flag_defaults_apply() {
        let s = of(&["--hostname-override=x"]);
        assert!(s.anonymous && !s.webhook_authorization);
    }
}
