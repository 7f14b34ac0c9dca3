//! What the scheduler reads of pods and nodes: everything else is skipped while decoding.

use std::collections::BTreeMap;

pub use api::volumes::{NodeSelector, NodeSelectorTerm, Requirement};
use serde::Deserialize;

use crate::storage::view::PodVolume;

/// `ObjectMeta` as far as the scheduler reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// The name.
    pub name: String,
    /// Empty for nodes.
    pub namespace: String,
    /// Identity across deletion and creation anew.
    pub uid: String,
    /// For optimistic writes and event references.
    pub resource_version: String,
    /// Node labels, or what spreading and affinity match in pods.
    pub labels: BTreeMap<String, String>,
    /// RFC 3339.
    pub creation_timestamp: Option<String>,
    /// Set while the object is being deleted.
    pub deletion_timestamp: Option<String>,
    /// For the condition's observedGeneration.
    pub generation: i64,
    /// Who made a pod.
    pub owner_references: Vec<Owner>,
}

/// An owner reference.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Owner {
    /// `ReplicaSet`, ….
    pub kind: String,
    /// Its identity.
    pub uid: String,
    /// Whether it is the one that manages the object.
    pub controller: Option<bool>,
}

impl PodView {
    /// The uid of the controller whose pods are replicas of each other; none for a pod that is one of its kind.
    pub fn replica_of(&self) -> Option<&str> {
        let owners = &self.metadata.owner_references;
        let owner = owners.iter().find(|o| o.controller == Some(true))?;
        matches!(
            owner.kind.as_str(),
            "ReplicaSet" | "StatefulSet" | "ReplicationController"
        )
        .then_some(owner.uid.as_str())
    }
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodView {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    pub spec: PodSpec,
    /// Status.
    pub status: PodStatus,
}

/// `PodSpec`, the scheduling part.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// Empty until bound.
    pub node_name: String,
    /// Which scheduler is responsible.
    pub scheduler_name: String,
    /// Labels a node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Affinity.
    pub affinity: Option<Affinity>,
    /// Tolerations.
    pub tolerations: Vec<Toleration>,
    /// Containers.
    pub containers: Vec<Container>,
    /// Init containers, sidecars among them.
    pub init_containers: Vec<Container>,
    /// Pod overhead of the runtime class.
    pub overhead: BTreeMap<String, String>,
    /// Pod-level resources (KEP-2837).
    pub resources: Option<Resources>,
    /// The resolved priority.
    pub priority: i32,
    /// `Never` or `PreemptLowerPriority`.
    pub preemption_policy: Option<String>,
    /// Gates that hold the pod back.
    pub scheduling_gates: Vec<Gate>,
    /// Spreading.
    pub topology_spread_constraints: Vec<SpreadConstraint>,
    /// Whether container ports are host ports.
    pub host_network: bool,
    /// Volumes that matter to placing; most do not, and are not kept.
    #[serde(deserialize_with = "crate::storage::view::kept")]
    pub volumes: Vec<PodVolume>,
}

/// `PodStatus`, the scheduling part.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `Succeeded` and `Failed` pods hold no resources.
    pub phase: String,
    /// Where preemption made room.
    pub nominated_node_name: String,
    /// The generation the kubelet speaks of.
    pub observed_generation: i64,
    /// To tell whether the PodScheduled condition must change.
    pub conditions: Vec<Condition>,
}

/// A pod or node condition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// `PodScheduled`, `Ready`, ….
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False`, `Unknown`.
    pub status: String,
    /// For machines.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// A scheduling gate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Gate {
    /// Its name.
    pub name: String,
}

/// A container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// The image reference.
    pub image: String,
    /// Requests and limits.
    pub resources: Option<Resources>,
    /// Ports.
    pub ports: Vec<Port>,
    /// `Always` on an init container makes it a sidecar.
    pub restart_policy: Option<String>,
}

/// `ResourceRequirements`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// What scheduling counts.
    pub requests: BTreeMap<String, String>,
}

/// A container port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Port {
    /// 0 for none.
    pub host_port: i32,
    /// Empty means all addresses.
    #[serde(rename = "hostIP")]
    pub host_ip: String,
    /// `TCP` when empty.
    pub protocol: String,
}

/// Node and pod affinity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Affinity {
    /// Node affinity.
    pub node_affinity: Option<NodeAffinity>,
    /// Pod affinity.
    pub pod_affinity: Option<PodAffinity>,
    /// Pod anti-affinity.
    pub pod_anti_affinity: Option<PodAffinity>,
}

/// `NodeAffinity`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeAffinity {
    /// Must match.
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    pub required: Option<NodeSelector>,
    /// Should match.
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution")]
    pub preferred: Vec<PreferredTerm>,
}

/// A weighted term.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
pub struct PreferredTerm {
    /// 1 to 100.
    pub weight: i64,
    /// The term.
    pub preference: NodeSelectorTerm,
}

/// `PodAffinity` and `PodAntiAffinity`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PodAffinity {
    /// Must hold.
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    pub required: Vec<PodAffinityTerm>,
    /// Should hold.
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution")]
    pub preferred: Vec<WeightedPodAffinityTerm>,
}

/// A weighted term.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WeightedPodAffinityTerm {
    /// 1 to 100.
    pub weight: i64,
    /// The term.
    pub pod_affinity_term: PodAffinityTerm,
}

/// Which pods, counted over which topology.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodAffinityTerm {
    /// Nothing matches when absent.
    pub label_selector: Option<LabelSelector>,
    /// Namespaces; empty with no selector means the pod's own.
    pub namespaces: Vec<String>,
    /// Namespaces by label; empty matches all.
    pub namespace_selector: Option<LabelSelector>,
    /// A node label.
    pub topology_key: String,
    /// Label keys whose values are taken from the incoming pod.
    pub match_label_keys: Vec<String>,
    /// Label keys whose values must differ from the incoming pod's.
    pub mismatch_label_keys: Vec<String>,
}

/// `metav1.LabelSelector`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// Equalities.
    pub match_labels: BTreeMap<String, String>,
    /// Requirements.
    pub match_expressions: Vec<Requirement>,
}

/// A toleration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
pub struct Toleration {
    /// Empty with `Exists` tolerates everything.
    pub key: String,
    /// `Equal` when empty, `Exists`, `Lt`, `Gt`.
    pub operator: String,
    /// The value.
    pub value: String,
    /// Empty matches all effects.
    pub effect: String,
}

/// A topology spread constraint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SpreadConstraint {
    /// At least 1.
    pub max_skew: i64,
    /// A node label.
    pub topology_key: String,
    /// `DoNotSchedule` or `ScheduleAnyway`.
    pub when_unsatisfiable: String,
    /// Which pods count.
    pub label_selector: Option<LabelSelector>,
    /// The least number of domains.
    pub min_domains: Option<i64>,
    /// `Honor` (default) or `Ignore`.
    pub node_affinity_policy: Option<String>,
    /// `Honor` or `Ignore` (default).
    pub node_taints_policy: Option<String>,
    /// Label keys whose values are taken from the incoming pod.
    pub match_label_keys: Vec<String>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeView {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    pub spec: NodeSpec,
    /// Status.
    pub status: NodeStatus,
}

/// `NodeSpec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    /// Cordoned.
    pub unschedulable: bool,
    /// Taints.
    pub taints: Vec<Taint>,
}

/// A taint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Taint {
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
    /// NoSchedule, PreferNoSchedule, NoExecute.
    pub effect: String,
}

/// `NodeStatus`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// What pods may request in all.
    pub allocatable: BTreeMap<String, String>,
    /// Images on the node.
    pub images: Vec<Image>,
}

/// An image on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Image {
    /// Tags and digests.
    pub names: Vec<String>,
    /// Bytes.
    pub size_bytes: i64,
}
