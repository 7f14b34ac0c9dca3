//! `KubeletConfiguration`: its fields, and how far each is there.

use component::config::{Field, Kind};
use component::support::{Support, refused, warned};

/// The kind.
pub static KIND: Kind = Kind {
    kind: "KubeletConfiguration",
    versions: &["kubelet.config.k8s.io/v1beta1"],
    fields: FIELDS,
};

const fn full(path: &'static str) -> Field {
    Field::full(path)
}

const fn partial(path: &'static str, missing: &'static str) -> Field {
    Field::new(path, Support::Partial(missing))
}

/// Harmless: something else is there in its place.
const fn none(path: &'static str, default: &'static str, why: &'static str) -> Field {
    Field::new(path, warned(why)).default(default)
}

/// Pods or the node would get other than what is asked for.
const fn never(path: &'static str, default: &'static str, why: &'static str) -> Field {
    Field::new(path, refused(why)).default(default)
}

const NO_CADVISOR: &str = "the kubelet reads control groups when it is asked";
const NO_EVENT_LIMIT: &str = "events are limited per object";
const NO_PLACEMENT: &str = "containers share the CPUs and the memory of all NUMA nodes";
const NO_SHUTDOWN: &str = "pods are not ended when the machine shuts down";
const NO_SOFT: &str = "no pod is evicted, and conditions follow the hard thresholds";
const NO_SYSTEM_CGROUPS: &str =
    "processes of the system are left in the control groups they are in";
const NO_TRACES: &str = "no traces are written";
const ONE_LOG: &str = "each line is written to stderr at once";

/// Every field.
#[rustfmt::skip]
pub static FIELDS: &[Field] = &[
    full("address"),
    partial("allowedUnsafeSysctls", "names and prefixes are not checked"),
    full("authentication.anonymous.enabled"),
    full("authentication.webhook.cacheTTL"),
    full("authentication.webhook.enabled"),
    full("authentication.x509.clientCAFile"),
    full("authorization.mode"),
    full("authorization.webhook.cacheAuthorizedTTL"),
    full("authorization.webhook.cacheUnauthorizedTTL"),
    full("cgroupDriver"),
    full("cgroupRoot"),
    full("cgroupsPerQOS"),
    full("clusterDNS"),
    full("clusterDomain"),
    none("configMapAndSecretChangeDetectionStrategy", "\"Watch\"", "objects are watched"),
    full("containerLogMaxFiles"),
    full("containerLogMaxSize"),
    none("containerLogMaxWorkers", "1", "one worker rotates logs"),
    none("containerLogMonitorInterval", "\"10s\"", "the kubelet looks every ten seconds"),
    full("containerRuntimeEndpoint"),
    none("contentType", "\"application/vnd.kubernetes.protobuf\"", "protobuf is spoken where the apiserver does"),
    full("cpuCFSQuota"),
    full("cpuCFSQuotaPeriod"),
    never("cpuManagerPolicy", "\"none\"", NO_PLACEMENT),
    never("cpuManagerPolicyOptions", "", NO_PLACEMENT),
    none("cpuManagerReconcilePeriod", "\"10s\"", NO_PLACEMENT),
    full("crashLoopBackOff.maxContainerRestartPeriod"),
    none("enableContentionProfiling", "", "no daemon serves profiles"),
    none("enableControllerAttachDetach", "true", "no volume is attached"),
    never("enableDebugFlagsHandler", "true", "there is no way to change the verbosity while running"),
    full("enableDebuggingHandlers"),
    none("enableProfilingHandler", "true", "no daemon serves profiles"),
    full("enableServer"),
    none("enableSystemLogHandler", "true", "no logs of the system are served"),
    never("enableSystemLogQuery", "", "no logs of the system are served"),
    partial("enforceNodeAllocatable", "only pods and none can be enforced").default("[\"pods\"]"),
    none("eventBurst", "100", NO_EVENT_LIMIT),
    none("eventRecordQPS", "50", NO_EVENT_LIMIT),
    partial("evictionHard", "sets what is allocatable and the node's conditions; no pod is evicted"),
    none("evictionMaxPodGracePeriod", "0", NO_SOFT),
    none("evictionMinimumReclaim", "", NO_SOFT),
    full("evictionPressureTransitionPeriod"),
    none("evictionSoft", "", NO_SOFT),
    none("evictionSoftGracePeriod", "", NO_SOFT),
    full("failCgroupV1"),
    full("failSwapOn"),
    full("featureGates"),
    full("fileCheckFrequency"),
    none("hairpinMode", "\"promiscuous-bridge\"", "networks are made by CNI plugins"),
    full("healthzBindAddress"),
    full("healthzPort"),
    none("httpCheckFrequency", "\"20s\"", "there is no source of pods by HTTP"),
    full("imageGCHighThresholdPercent"),
    full("imageGCLowThresholdPercent"),
    none("imageMaximumGCAge", "\"0s\"", "images that nobody uses go when the disk fills"),
    full("imageMinimumGCAge"),
    never("imagePullCredentialsVerificationPolicy", "\"NeverVerifyPreloadedImages\"", "whoever may run a pod may use the images of its node; use imagePullPolicy: Always"),
    full("imageServiceEndpoint"),
    none("iptablesDropBit", "15", "no rules are made by the kubelet"),
    none("iptablesMasqueradeBit", "14", "no rules are made by the kubelet"),
    none("kernelMemcgNotification", "", "memory is looked at with each status"),
    full("kubeAPIBurst"),
    full("kubeAPIQPS"),
    full("kubeReserved"),
    never("kubeReservedCgroup", "", NO_SYSTEM_CGROUPS),
    none("kubeletCgroups", "", NO_SYSTEM_CGROUPS),
    none("localStorageCapacityIsolation", "true", "ephemeral storage is counted by the scheduler; no pod is evicted for it"),
    none("logging.flushFrequency", "\"5s\"", ONE_LOG),
    full("logging.format"),
    none("logging.options", "", ONE_LOG),
    full("logging.verbosity"),
    full("logging.vmodule[].filePattern"),
    full("logging.vmodule[].verbosity"),
    none("makeIPTablesUtilChains", "true", "no rules are made by the kubelet"),
    none("maxOpenFiles", "1000000", "the limit is the one the kubelet was started with"),
    full("maxParallelImagePulls"),
    full("maxPods"),
    never("memoryManagerPolicy", "\"None\"", NO_PLACEMENT),
    never("memoryReservationPolicy", "\"None\"", "memory.min and memory.high are not set"),
    never("memorySwap", "{\"swapBehavior\":\"NoSwap\"}", "swap is left to the kernel's own settings"),
    never("memoryThrottlingFactor", "0.9", "memory.min and memory.high are not set"),
    none("mergeDefaultEvictionSettings", "", "thresholds that are not named are off"),
    full("nodeLeaseDurationSeconds"),
    full("nodeStatusMaxImages"),
    full("nodeStatusReportFrequency"),
    full("nodeStatusUpdateFrequency"),
    none("oomScoreAdj", "-999", "the kubelet keeps the score it was started with"),
    full("podCIDR"),
    full("podLogsDir"),
    full("podPidsLimit"),
    full("podsPerCore"),
    full("port"),
    never("preloadedImagesVerificationAllowlist", "", "whoever may run a pod may use the images of its node; use imagePullPolicy: Always"),
    never("protectKernelDefaults", "", "the kernel's settings are neither checked nor changed"),
    full("providerID"),
    never("qosReserved", "", "no memory is kept for other classes of service"),
    full("readOnlyPort"),
    full("registerNode"),
    full("registerWithTaints"),
    none("registryBurst", "10", "pulls are limited by maxParallelImagePulls"),
    none("registryPullQPS", "5", "pulls are limited by maxParallelImagePulls"),
    never("reservedMemory", "", NO_PLACEMENT),
    never("reservedSystemCPUs", "", NO_PLACEMENT),
    full("resolvConf"),
    none("rotateCertificates", "", "no new certificate is asked for; the client's is read again when its file changes"),
    never("runOnce", "", "the kubelet runs until it is stopped"),
    full("runtimeRequestTimeout"),
    full("seccompDefault"),
    full("serializeImagePulls"),
    never("serverTLSBootstrap", "", "serving certificates from the cluster are not supported; use tlsCertFile"),
    none("showHiddenMetricsForVersion", "", "every metric is served"),
    none("shutdownGracePeriod", "", NO_SHUTDOWN),
    none("shutdownGracePeriodByPodPriority", "", NO_SHUTDOWN),
    none("shutdownGracePeriodCriticalPods", "", NO_SHUTDOWN),
    never("singleProcessOOMKill", "", "the kernel's default for control groups stays"),
    full("staticPodPath"),
    never("staticPodURL", "", "pods from a URL are not supported; use staticPodPath"),
    never("staticPodURLHeader", "", "pods from a URL are not supported; use staticPodPath"),
    full("streamingConnectionIdleTimeout"),
    full("syncFrequency"),
    never("systemCgroups", "", NO_SYSTEM_CGROUPS),
    full("systemReserved"),
    never("systemReservedCgroup", "", NO_SYSTEM_CGROUPS),
    full("tlsCertFile"),
    full("tlsCipherSuites"),
    never("tlsCurvePreferences", "", "the TLS library's own order is used"),
    full("tlsMinVersion"),
    full("tlsPrivateKeyFile"),
    never("topologyManagerPolicy", "\"none\"", NO_PLACEMENT),
    never("topologyManagerPolicyOptions", "", NO_PLACEMENT),
    none("topologyManagerScope", "\"container\"", NO_PLACEMENT),
    none("tracing", "", NO_TRACES),
    never("userNamespaces", "{\"idsPerPod\":65536}", "pods have no user namespaces"),
    none("volumePluginDir", "\"/usr/libexec/kubernetes/kubelet-plugins/volume/exec/\"", "there are no flex volumes"),
    none("volumeStatsAggPeriod", "\"1m0s\"", NO_CADVISOR),
];

/// How far a field is there.
pub fn support(path: &str) -> Option<Support> {
    FIELDS.iter().find(|f| f.path == path).map(|f| f.support)
}
