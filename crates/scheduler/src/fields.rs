//! `KubeSchedulerConfiguration` and the arguments of plugins: their fields, and how far each is there.

use component::config::{Field, Kind};
use component::support::{refused, warned};

/// The kind.
pub static KIND: Kind = Kind {
    kind: "KubeSchedulerConfiguration",
    versions: &["kubescheduler.config.k8s.io/v1"],
    fields: FIELDS,
};

const fn full(path: &'static str) -> Field {
    Field::full(path)
}

const fn none(path: &'static str, default: &'static str, why: &'static str) -> Field {
    Field::new(path, warned(why)).default(default)
}

const fn never(path: &'static str, default: &'static str, why: &'static str) -> Field {
    Field::new(path, refused(why)).default(default)
}

const ALL_NODES: &str = "all nodes that fit are scored";
const NO_PROFILES: &str = "no daemon serves profiles";
const PROTOBUF: &str = "protobuf is spoken where the apiserver does";

/// Every field.
#[rustfmt::skip]
pub static FIELDS: &[Field] = &[
    none("clientConnection.acceptContentTypes", "", PROTOBUF),
    full("clientConnection.burst"),
    none("clientConnection.contentType", "\"application/vnd.kubernetes.protobuf\"", PROTOBUF),
    full("clientConnection.kubeconfig"),
    full("clientConnection.qps"),
    none("delayCacheUntilActive", "", "caches are filled once the lease is held"),
    none("enableContentionProfiling", "true", NO_PROFILES),
    none("enableProfiling", "true", NO_PROFILES),
    never("extenders", "", "there are no extenders"),
    full("leaderElection.leaderElect"),
    full("leaderElection.leaseDuration"),
    full("leaderElection.renewDeadline"),
    full("leaderElection.resourceLock"),
    full("leaderElection.resourceName"),
    full("leaderElection.resourceNamespace"),
    full("leaderElection.retryPeriod"),
    none("parallelism", "16", "one thread decides"),
    none("percentageOfNodesToScore", "", ALL_NODES),
    full("podInitialBackoffSeconds"),
    full("podMaxBackoffSeconds"),
    none("profiles[].percentageOfNodesToScore", "", ALL_NODES),
    full("profiles[].pluginConfig"),
    full("profiles[].plugins.bind"),
    full("profiles[].plugins.filter"),
    full("profiles[].plugins.multiPoint"),
    full("profiles[].plugins.permit"),
    full("profiles[].plugins.postBind"),
    full("profiles[].plugins.postFilter"),
    full("profiles[].plugins.preBind"),
    full("profiles[].plugins.preEnqueue"),
    full("profiles[].plugins.preFilter"),
    full("profiles[].plugins.preScore"),
    full("profiles[].plugins.queueSort"),
    full("profiles[].plugins.reserve"),
    full("profiles[].plugins.score"),
    full("profiles[].schedulerName"),
];

/// The arguments of each plugin that takes some.
#[rustfmt::skip]
pub static ARGS: &[(&str, &[Field])] = &[
    ("DefaultPreemption", &[
        full("minCandidateNodesAbsolute"),
        full("minCandidateNodesPercentage"),
    ]),
    ("DynamicResources", &[
        none("bindingTimeout", "\"10m0s\"", "no plugin allocates devices"),
        none("filterTimeout", "\"10s\"", "no plugin allocates devices"),
    ]),
    ("InterPodAffinity", &[
        never("hardPodAffinityWeight", "1", "the weight is 1"),
        never("ignorePreferredTermsOfExistingPods", "", "all terms count"),
    ]),
    ("NodeAffinity", &[
        never("addedAffinity", "", "pods' own affinity counts"),
    ]),
    ("NodeResourcesBalancedAllocation", &[
        never("resources", "[{\"name\":\"cpu\",\"weight\":1},{\"name\":\"memory\",\"weight\":1}]", "cpu and memory are balanced"),
    ]),
    ("NodeResourcesFit", &[
        never("ignoredResourceGroups", "", "all resources count"),
        never("ignoredResources", "", "all resources count"),
        full("scoringStrategy"),
    ]),
    ("PodTopologySpread", &[
        never("defaultConstraints", "", "the defaults are the system's"),
        never("defaultingType", "\"System\"", "the defaults are the system's"),
    ]),
    ("VolumeBinding", &[
        full("bindTimeoutSeconds"),
        never("shape", "", "the gate StorageCapacityScoring is off"),
    ]),
];
