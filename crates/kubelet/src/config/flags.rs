//! The command line of the kubelet and how it overrides the configuration file.

use component::{CommandLine, Flags, Support};
use serde_json::{Map, Value, json};

use super::{FlagValues, KubeletConfiguration, Settings, SettingsError, fields};

const STREAM_IDLE: &str = "streaming-connection-idle-timeout";

/// Flags that set a field of the configuration: flag, path in the file, and how the value is read. A flag is there as far as
/// its field is.
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
    (
        "contention-profiling",
        "enableContentionProfiling",
        Kind::Bool,
    ),
    ("cpu-cfs-quota", "cpuCFSQuota", Kind::Bool),
    ("cpu-cfs-quota-period", "cpuCFSQuotaPeriod", Kind::Text),
    ("cpu-manager-policy", "cpuManagerPolicy", Kind::Text),
    (
        "cpu-manager-policy-options",
        "cpuManagerPolicyOptions",
        Kind::Pairs,
    ),
    (
        "cpu-manager-reconcile-period",
        "cpuManagerReconcilePeriod",
        Kind::Text,
    ),
    (
        "enable-controller-attach-detach",
        "enableControllerAttachDetach",
        Kind::Bool,
    ),
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
    ("event-burst", "eventBurst", Kind::Int),
    ("event-qps", "eventRecordQPS", Kind::Int),
    ("eviction-hard", "evictionHard", Kind::Thresholds),
    (
        "eviction-max-pod-grace-period",
        "evictionMaxPodGracePeriod",
        Kind::Int,
    ),
    (
        "eviction-minimum-reclaim",
        "evictionMinimumReclaim",
        Kind::Pairs,
    ),
    (
        "eviction-pressure-transition-period",
        "evictionPressureTransitionPeriod",
        Kind::Text,
    ),
    ("eviction-soft", "evictionSoft", Kind::Thresholds),
    (
        "eviction-soft-grace-period",
        "evictionSoftGracePeriod",
        Kind::Pairs,
    ),
    ("fail-cgroupv1", "failCgroupV1", Kind::Bool),
    ("fail-swap-on", "failSwapOn", Kind::Bool),
    ("file-check-frequency", "fileCheckFrequency", Kind::Text),
    ("hairpin-mode", "hairpinMode", Kind::Text),
    ("healthz-bind-address", "healthzBindAddress", Kind::Text),
    ("healthz-port", "healthzPort", Kind::Int),
    ("http-check-frequency", "httpCheckFrequency", Kind::Text),
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
    (
        "kernel-memcg-notification",
        "kernelMemcgNotification",
        Kind::Bool,
    ),
    ("kube-api-burst", "kubeAPIBurst", Kind::Int),
    ("kube-api-content-type", "contentType", Kind::Text),
    ("kube-api-qps", "kubeAPIQPS", Kind::Int),
    ("kube-reserved", "kubeReserved", Kind::Pairs),
    ("kube-reserved-cgroup", "kubeReservedCgroup", Kind::Text),
    ("kubelet-cgroups", "kubeletCgroups", Kind::Text),
    (
        "local-storage-capacity-isolation",
        "localStorageCapacityIsolation",
        Kind::Bool,
    ),
    (
        "make-iptables-util-chains",
        "makeIPTablesUtilChains",
        Kind::Bool,
    ),
    ("manifest-url", "staticPodURL", Kind::Text),
    ("manifest-url-header", "staticPodURLHeader", Kind::Pairs),
    ("max-open-files", "maxOpenFiles", Kind::Int),
    ("max-pods", "maxPods", Kind::Int),
    ("memory-manager-policy", "memoryManagerPolicy", Kind::Text),
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
    ("oom-score-adj", "oomScoreAdj", Kind::Int),
    ("pod-cidr", "podCIDR", Kind::Text),
    ("pod-manifest-path", "staticPodPath", Kind::Text),
    ("pod-max-pids", "podPidsLimit", Kind::Int),
    ("pods-per-core", "podsPerCore", Kind::Int),
    ("port", "port", Kind::Int),
    (
        "protect-kernel-defaults",
        "protectKernelDefaults",
        Kind::Bool,
    ),
    ("provider-id", "providerID", Kind::Text),
    ("qos-reserved", "qosReserved", Kind::Pairs),
    ("read-only-port", "readOnlyPort", Kind::Int),
    ("register-node", "registerNode", Kind::Bool),
    ("register-with-taints", "registerWithTaints", Kind::Taints),
    ("registry-burst", "registryBurst", Kind::Int),
    ("registry-qps", "registryPullQPS", Kind::Int),
    ("reserved-cpus", "reservedSystemCPUs", Kind::Text),
    ("reserved-memory", "reservedMemory", Kind::List),
    ("resolv-conf", "resolvConf", Kind::Text),
    ("rotate-certificates", "rotateCertificates", Kind::Bool),
    (
        "rotate-server-certificates",
        "serverTLSBootstrap",
        Kind::Bool,
    ),
    ("runonce", "runOnce", Kind::Bool),
    (
        "runtime-request-timeout",
        "runtimeRequestTimeout",
        Kind::Text,
    ),
    ("seccomp-default", "seccompDefault", Kind::Bool),
    ("serialize-image-pulls", "serializeImagePulls", Kind::Bool),
    (STREAM_IDLE, "streamingConnectionIdleTimeout", Kind::Text),
    ("sync-frequency", "syncFrequency", Kind::Text),
    ("system-cgroups", "systemCgroups", Kind::Text),
    ("system-reserved", "systemReserved", Kind::Pairs),
    ("system-reserved-cgroup", "systemReservedCgroup", Kind::Text),
    ("tls-cert-file", "tlsCertFile", Kind::Text),
    ("tls-cipher-suites", "tlsCipherSuites", Kind::List),
    ("tls-min-version", "tlsMinVersion", Kind::Text),
    ("tls-private-key-file", "tlsPrivateKeyFile", Kind::Text),
    (
        "topology-manager-policy",
        "topologyManagerPolicy",
        Kind::Text,
    ),
    (
        "topology-manager-policy-options",
        "topologyManagerPolicyOptions",
        Kind::Pairs,
    ),
    ("topology-manager-scope", "topologyManagerScope", Kind::Text),
    ("volume-plugin-dir", "volumePluginDir", Kind::Text),
    (
        "volume-stats-agg-period",
        "volumeStatsAggPeriod",
        Kind::Text,
    ),
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

/// The kubelet's command line.
pub fn command_line() -> CommandLine {
    let line = CommandLine::new(
        "kubelet",
        "The kubelet runs the pods of one node in its container runtime and reports on both.",
    )
    .honour(OWN)
    .ignore(
        "the kubelet counts containers itself; there is no cAdvisor",
        &[
            "application-metrics-count-limit",
            "boot-id-file",
            "container-hints",
            "containerd",
            "containerd-namespace",
            "enable-load-reader",
            "event-storage-age-limit",
            "event-storage-event-limit",
            "global-housekeeping-interval",
            "housekeeping-interval",
            "log-cadvisor-usage",
            "machine-id-file",
            "max-housekeeping-interval",
            "storage-driver-buffer-duration",
            "storage-driver-db",
            "storage-driver-host",
            "storage-driver-password",
            "storage-driver-secure",
            "storage-driver-table",
            "storage-driver-user",
        ],
    )
    .ignore(
        "what is allocatable is always less what hard eviction keeps",
        &["experimental-allocatable-ignore-eviction"],
    )
    .ignore(
        "ended containers are removed once a newer one of their place has ended too",
        &[
            "maximum-dead-containers",
            "maximum-dead-containers-per-container",
            "minimum-container-ttl-duration",
        ],
    )
    .ignore(
        "no summary tells what the runtime itself takes",
        &["runtime-cgroups"],
    )
    .refuse(
        "drop-in configuration directories are not supported; use --config",
        &["config-dir"],
    )
    .refuse(
        "addresses of nodes come from --node-ip; a cloud's are not waited for",
        &["cloud-provider"],
    )
    .refuse(
        "credential provider plugins are not supported; use imagePullSecrets",
        &[
            "image-credential-provider-bin-dir",
            "image-credential-provider-config",
        ],
    )
    .refuse(
        "no file is locked",
        &["exit-on-lock-contention", "lock-file"],
    )
    .refuse(
        "mounts are made by the kubelet itself",
        &["experimental-mounter-path"],
    );
    OVERRIDES.iter().fold(line, |line, (flag, path, _)| {
        line.support(fields::support(path).unwrap_or(Support::Full), &[flag])
    })
}

/// Reads the file that `--config` names and applies the flags.
pub fn settings(flags: &Flags) -> Result<Settings, SettingsError> {
    let mut warnings = Vec::new();
    let mut doc = match flags.path("config") {
        Some(path) => {
            // Decoded strictly first, so that mistakes in the file are told as the file's.
            let _ = fields::KIND.load::<KubeletConfiguration>(&path)?;
            let file = fields::KIND.load::<Value>(&path)?;
            warnings = file.warnings;
            file.value
        }
        None => {
            // Without a file the insecure defaults of the flags apply, as upstream's do.
            json!({"authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}}, "authorization": {"mode": "AlwaysAllow"}})
        }
    };
    for (flag, path, kind) in OVERRIDES {
        if !flags.is_set(flag) || !fields::support(path).is_some_and(Support::is_there) {
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
    let mut settings = Settings::new(config, values)?;
    // In a file zero is the default, on the command line it is no time-out.
    if flags.is_set(STREAM_IDLE) && flags.duration(STREAM_IDLE).is_zero() {
        settings.stream_idle = None;
    }
    settings.warnings = warnings;
    settings.logging = flags.logging_over(settings.logging);
    settings.logging.check()?;
    flags
        .set_features(&mut settings.features)
        .map_err(|e| super::bad("--feature-gates", e))?;
    Ok(settings)
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
    fn every_flag_of_a_field_has_one() {
        for (flag, path, _) in OVERRIDES {
            assert!(fields::support(path).is_some(), "--{flag}: no field {path}");
        }
    }

    #[test]
    fn flags_and_fields_are_refused_alike() {
        for flag in [
            "--cpu-manager-policy=static",
            "--topology-manager-policy=single-numa-node",
            "--protect-kernel-defaults",
            "--qos-reserved=memory=50%",
            "--reserved-cpus=0",
            "--system-reserved-cgroup=/s",
            "--rotate-server-certificates",
            "--config-dir=/d",
            "--cloud-provider=external",
        ] {
            let e = command_line().parse([flag]).unwrap_err().to_string();
            assert!(e.contains("is not supported: "), "{flag}: {e}");
        }
        assert!(!of(&["--fail-swap-on=false", "--hostname-override=x"]).fail_swap_on);
    }

    #[test]
    fn flags_override_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.yaml");
        std::fs::write(&file, "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: 5\nport: 26001\nlogging: {format: json, verbosity: 2}\n").unwrap();
        let config = format!("--config={}", file.display());
        let s = of(&[
            &config,
            "--max-pods=7",
            "--register-with-taints=a=b:NoSchedule,c:NoExecute",
            "--eviction-hard=memory.available<1Gi",
            "--hostname-override=x",
            "-v=5",
        ]);
        assert_eq!((s.max_pods, s.port), (7, 26001));
        assert_eq!(
            (s.logging.format.as_str(), s.logging.verbosity),
            ("json", 5),
            "the file's format, the flag's verbosity"
        );
        assert_eq!(s.register_with_taints.len(), 2);
        assert_eq!(s.register_with_taints[1].key, "c");
        assert_eq!(s.eviction_hard.len(), 1);
        assert!(s.webhook_authorization);
    }

    #[test]
    fn idle_streams_end_when_they_shall() {
        let idle = |arg: &str| of(&["--hostname-override=x", arg]).stream_idle;
        let flag = "--streaming-connection-idle-timeout";
        assert_eq!(
            idle(&format!("{flag}=5m")),
            Some(std::time::Duration::from_secs(300))
        );
        assert_eq!(idle(&format!("{flag}=0")), None);
    }

    #[test]
    fn without_a_file_the_flag_defaults_apply() {
        let s = of(&["--hostname-override=x"]);
        assert!(s.anonymous && !s.webhook_authorization);
    }
}
