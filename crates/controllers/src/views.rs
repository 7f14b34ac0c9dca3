//! What the controllers read of each resource. One view per resource, shared by all controllers of the process, so that
//! there is one watch and one copy.

use std::collections::BTreeMap;

use client::{ObjectMeta, Time, views};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::selector::LabelSelector;

macro_rules! view {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident : $t:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        #[expect(missing_docs, reason = "fields are the API's")]
        pub struct $name { $($(#[$fdoc])* pub $field: $t),* }
    };
}
pub(crate) use view;

view!(
    /// `v1.Pod`
    Pod { metadata: ObjectMeta, spec: PodSpec, status: PodStatus }
);
view!(
    /// `v1.PodSpec`
    PodSpec {
        node_name: String,
        host_network: bool,
        hostname: String,
        subdomain: String,
        tolerations: Vec<Toleration>,
        containers: Vec<Container>,
        init_containers: Vec<Container>,
        readiness_gates: Vec<Value>,
        scheduling_gates: Vec<Value>,
        affinity: Value,
        /// Only those that name a claim, or have one made for them.
        #[serde(rename = "volumes", deserialize_with = "with_claims")]
        claims: Vec<ClaimVolume>,
        resource_claims: Vec<PodClaim>,
    }
);
view!(
    /// `v1.PodResourceClaim`
    PodClaim {
        name: String,
        resource_claim_name: Option<String>,
        resource_claim_template_name: Option<String>,
    }
);
view!(
    /// `v1.PodResourceClaimStatus`
    PodClaimStatus { name: String, resource_claim_name: Option<String> }
);
view!(
    /// `v1.PodExtendedResourceClaimStatus`
    ExtendedClaimStatus { resource_claim_name: String }
);
view!(
    /// `v1.Volume`, as far as claims go
    ClaimVolume {
        name: String,
        persistent_volume_claim: Option<ClaimSource>,
        ephemeral: Option<Value>,
    }
);
view!(
    /// `v1.PersistentVolumeClaimVolumeSource`
    ClaimSource { claim_name: String }
);
view!(
    /// `v1.PersistentVolumeClaim`
    PersistentVolumeClaim { metadata: ObjectMeta, spec: ClaimSpec, status: ClaimStatus }
);
view!(
    /// `v1.PersistentVolumeClaimSpec`
    ClaimSpec {
        access_modes: Vec<String>,
        selector: Option<LabelSelector>,
        resources: ClaimResources,
        volume_name: String,
        storage_class_name: Option<String>,
        volume_mode: Option<String>,
        volume_attributes_class_name: Option<String>,
    }
);
view!(
    /// `v1.VolumeResourceRequirements`
    ClaimResources { requests: BTreeMap<String, String> }
);
view!(
    /// `v1.PersistentVolumeClaimStatus`
    ClaimStatus {
        phase: String,
        access_modes: Vec<String>,
        capacity: BTreeMap<String, String>,
        current_volume_attributes_class_name: Option<String>,
        modify_volume_status: Option<ModifyVolumeStatus>,
    }
);
view!(
    /// `v1.ModifyVolumeStatus`
    ModifyVolumeStatus { target_volume_attributes_class_name: String }
);
view!(
    /// `v1.PersistentVolumeSpec`
    VolumeSpec {
        capacity: BTreeMap<String, String>,
        access_modes: Vec<String>,
        claim_ref: Option<ClaimReference>,
        persistent_volume_reclaim_policy: String,
        storage_class_name: String,
        volume_mode: Option<String>,
        volume_attributes_class_name: Option<String>,
        csi: Option<CsiSource>,
        aws_elastic_block_store: Option<Empty>,
        azure_disk: Option<Empty>,
        azure_file: Option<Empty>,
        cinder: Option<Empty>,
        gce_persistent_disk: Option<Empty>,
        portworx_volume: Option<Empty>,
        vsphere_volume: Option<Empty>,
    }
);
view!(
    /// `v1.CSIPersistentVolumeSource`
    CsiSource { driver: String, volume_handle: String }
);
view!(
    /// `v1.ObjectReference` of a claim
    ClaimReference { namespace: String, name: String, uid: String }
);
/// Something of which only matters whether it is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Empty {}

view!(
    /// `storage.k8s.io/v1.StorageClass`
    StorageClass { metadata: ObjectMeta, provisioner: String, volume_binding_mode: String }
);
view!(
    /// `v1.PersistentVolume`
    PersistentVolume { metadata: ObjectMeta, spec: VolumeSpec, status: PersistentVolumeStatus }
);
view!(
    /// `v1.PersistentVolumeStatus`
    PersistentVolumeStatus { phase: String, message: String }
);
view!(
    /// `policy/v1.PodDisruptionBudget`
    PodDisruptionBudget { metadata: ObjectMeta, spec: BudgetSpec, status: BudgetStatus }
);
view!(
    /// `policy/v1.PodDisruptionBudgetSpec`
    BudgetSpec {
        min_available: Option<Value>,
        max_unavailable: Option<Value>,
        /// None matches nothing.
        selector: Option<LabelSelector>,
    }
);
view!(
    /// `policy/v1.PodDisruptionBudgetStatus`
    BudgetStatus {
        observed_generation: i64,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        disrupted_pods: BTreeMap<String, Time>,
        disruptions_allowed: i32,
        current_healthy: i32,
        desired_healthy: i32,
        expected_pods: i32,
        conditions: Vec<BudgetCondition>,
    }
);
view!(
    /// `metav1.Condition`
    BudgetCondition {
        #[serde(rename = "type")]
        kind: String,
        status: String,
        observed_generation: i64,
        last_transition_time: Option<Time>,
        reason: String,
        message: String,
    }
);

/// Most volumes have to do with no claim; they are not kept.
fn with_claims<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<ClaimVolume>, D::Error> {
    let mut all: Vec<ClaimVolume> = client::view::nullable(d)?;
    all.retain(|v| v.persistent_volume_claim.is_some() || v.ephemeral.is_some());
    all.shrink_to_fit();
    Ok(all)
}
view!(
    /// `v1.Container`
    Container { name: String, ports: Vec<ContainerPort>, restart_policy: String }
);
view!(
    /// `v1.ContainerPort`
    ContainerPort { name: String, container_port: i32, protocol: String }
);
view!(
    /// `v1.Toleration`
    Toleration { key: String, operator: String, value: String, effect: String, toleration_seconds: Option<i64> }
);
view!(
    /// `v1.Taint`
    Taint {
        key: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        value: String,
        effect: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        time_added: Option<Time>,
    }
);
view!(
    /// `v1.PodStatus`
    PodStatus {
        observed_generation: i64,
        phase: String,
        reason: String,
        conditions: Vec<Condition>,
        #[serde(rename = "podIP")]
        pod_ip: String,
        #[serde(rename = "podIPs")]
        pod_ips: Vec<PodIp>,
        start_time: Option<Time>,
        container_statuses: Vec<ContainerStatus>,
        init_container_statuses: Vec<ContainerStatus>,
        ephemeral_container_statuses: Vec<ContainerStatus>,
        resource_claim_statuses: Vec<PodClaimStatus>,
        extended_resource_claim_status: Option<ExtendedClaimStatus>,
    }
);
view!(
    /// `v1.PodIP`
    PodIp { ip: String }
);
view!(
    /// `v1.ContainerStatus`
    ContainerStatus { name: String, restart_count: i32, state: ContainerState }
);
view!(
    /// `v1.ContainerState`, as far as ends go
    ContainerState { waiting: Option<Empty>, terminated: Option<Terminated> }
);
view!(
    /// `v1.ContainerStateTerminated`
    Terminated { exit_code: i32, finished_at: Option<Time> }
);
view!(
    /// A condition of any resource.
    Condition {
        #[serde(rename = "type")]
        kind: String,
        status: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        last_heartbeat_time: Option<Time>,
        #[serde(skip_serializing_if = "Option::is_none")]
        last_update_time: Option<Time>,
        #[serde(skip_serializing_if = "Option::is_none")]
        last_transition_time: Option<Time>,
        #[serde(skip_serializing_if = "String::is_empty")]
        reason: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        message: String,
    }
);
view!(
    /// `apps/v1.ReplicaSet`
    ReplicaSet { metadata: ObjectMeta, spec: ReplicaSetSpec, status: ReplicaSetStatus }
);
view!(
    /// `apps/v1.ReplicaSetSpec`
    ReplicaSetSpec { replicas: Option<i32>, min_ready_seconds: i32, selector: LabelSelector, template: Value }
);
view!(
    /// `apps/v1.ReplicaSetStatus`
    ReplicaSetStatus {
        replicas: i32,
        fully_labeled_replicas: i32,
        ready_replicas: i32,
        available_replicas: i32,
        terminating_replicas: Option<i32>,
        observed_generation: i64,
        conditions: Vec<Condition>,
    }
);
view!(
    /// `batch/v1.Job`
    Job { metadata: ObjectMeta, spec: JobSpec, status: JobStatus }
);
view!(
    /// `batch/v1.JobSpec`
    JobSpec {
        parallelism: Option<i32>,
        completions: Option<i32>,
        active_deadline_seconds: Option<i64>,
        pod_failure_policy: Option<PodFailurePolicy>,
        success_policy: Option<SuccessPolicy>,
        backoff_limit: Option<i32>,
        backoff_limit_per_index: Option<i32>,
        max_failed_indexes: Option<i32>,
        /// None matches nothing.
        selector: Option<LabelSelector>,
        template: Value,
        ttl_seconds_after_finished: Option<i32>,
        completion_mode: Option<String>,
        suspend: Option<bool>,
        pod_replacement_policy: Option<String>,
        managed_by: Option<String>,
    }
);
view!(
    /// `batch/v1.PodFailurePolicy`
    PodFailurePolicy { rules: Vec<PodFailureRule> }
);
view!(
    /// `batch/v1.PodFailurePolicyRule`
    PodFailureRule {
        action: String,
        on_exit_codes: Option<ExitCodes>,
        on_pod_conditions: Vec<ConditionPattern>,
    }
);
view!(
    /// `batch/v1.PodFailurePolicyOnExitCodesRequirement`
    ExitCodes { container_name: Option<String>, operator: String, values: Vec<i32> }
);
view!(
    /// `batch/v1.PodFailurePolicyOnPodConditionsPattern`
    ConditionPattern {
        #[serde(rename = "type")]
        kind: String,
        status: String,
    }
);
view!(
    /// `batch/v1.SuccessPolicy`
    SuccessPolicy { rules: Vec<SuccessRule> }
);
view!(
    /// `batch/v1.SuccessPolicyRule`
    SuccessRule { succeeded_indexes: Option<String>, succeeded_count: Option<i32> }
);
view!(
    /// `batch/v1.JobStatus`
    JobStatus {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        conditions: Vec<JobCondition>,
        #[serde(skip_serializing_if = "Option::is_none")]
        start_time: Option<Time>,
        #[serde(skip_serializing_if = "Option::is_none")]
        completion_time: Option<Time>,
        #[serde(skip_serializing_if = "is_zero")]
        active: i32,
        #[serde(skip_serializing_if = "is_zero")]
        succeeded: i32,
        #[serde(skip_serializing_if = "is_zero")]
        failed: i32,
        #[serde(skip_serializing_if = "Option::is_none")]
        terminating: Option<i32>,
        #[serde(skip_serializing_if = "String::is_empty")]
        completed_indexes: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        failed_indexes: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        uncounted_terminated_pods: Option<UncountedPods>,
        #[serde(skip_serializing_if = "Option::is_none")]
        ready: Option<i32>,
    }
);
view!(
    /// `batch/v1.JobCondition`
    JobCondition {
        #[serde(rename = "type")]
        kind: String,
        status: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        last_probe_time: Option<Time>,
        #[serde(skip_serializing_if = "Option::is_none")]
        last_transition_time: Option<Time>,
        #[serde(skip_serializing_if = "String::is_empty")]
        reason: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        message: String,
    }
);
view!(
    /// `batch/v1.UncountedTerminatedPods`: UIDs
    UncountedPods {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        succeeded: Vec<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        failed: Vec<String>,
    }
);
view!(
    /// `apps/v1.Deployment`
    Deployment { metadata: ObjectMeta, spec: DeploymentSpec, status: DeploymentStatus }
);
view!(
    /// `apps/v1.DeploymentSpec`
    DeploymentSpec {
        replicas: Option<i32>,
        selector: LabelSelector,
        template: Value,
        strategy: DeploymentStrategy,
        min_ready_seconds: i32,
        revision_history_limit: Option<i32>,
        paused: bool,
        progress_deadline_seconds: Option<i32>,
    }
);
view!(
    /// `apps/v1.DeploymentStrategy`
    DeploymentStrategy {
        #[serde(rename = "type")]
        kind: String,
        rolling_update: RollingUpdate,
    }
);
view!(
    /// `apps/v1.RollingUpdateDeployment`
    RollingUpdate { max_unavailable: Value, max_surge: Value }
);
view!(
    /// `apps/v1.DeploymentStatus`
    DeploymentStatus {
        observed_generation: i64,
        replicas: i32,
        updated_replicas: i32,
        ready_replicas: i32,
        available_replicas: i32,
        unavailable_replicas: i32,
        terminating_replicas: Option<i32>,
        collision_count: Option<i32>,
        conditions: Vec<Condition>,
    }
);
view!(
    /// `apps/v1.StatefulSet`
    StatefulSet { metadata: ObjectMeta, spec: StatefulSetSpec, status: StatefulSetStatus }
);
view!(
    /// `apps/v1.StatefulSetSpec`
    StatefulSetSpec {
        replicas: Option<i32>,
        selector: LabelSelector,
        template: Value,
        volume_claim_templates: Vec<Value>,
        service_name: String,
        pod_management_policy: String,
        update_strategy: StatefulSetStrategy,
        revision_history_limit: Option<i32>,
        min_ready_seconds: i32,
        persistent_volume_claim_retention_policy: Option<ClaimRetention>,
        ordinals: Ordinals,
    }
);
view!(
    /// `apps/v1.StatefulSetUpdateStrategy`
    StatefulSetStrategy {
        #[serde(rename = "type")]
        kind: String,
        rolling_update: Option<StatefulSetRolling>,
    }
);
view!(
    /// `apps/v1.RollingUpdateStatefulSetStrategy`
    StatefulSetRolling { partition: i32, max_unavailable: Option<Value> }
);
view!(
    /// `apps/v1.StatefulSetPersistentVolumeClaimRetentionPolicy`
    ClaimRetention { when_deleted: String, when_scaled: String }
);
view!(
    /// `apps/v1.StatefulSetOrdinals`
    Ordinals { start: i32 }
);
view!(
    /// `apps/v1.StatefulSetStatus`
    StatefulSetStatus {
        observed_generation: i64,
        replicas: i32,
        ready_replicas: i32,
        current_replicas: i32,
        updated_replicas: i32,
        available_replicas: i32,
        #[serde(skip_serializing_if = "String::is_empty")]
        current_revision: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        update_revision: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        collision_count: Option<i32>,
    }
);
view!(
    /// `apps/v1.ControllerRevision`
    ControllerRevision {
        metadata: ObjectMeta,
        /// As [`crate::history::text`] prints it; empty when there is none.
        #[serde(deserialize_with = "crate::history::printed")]
        data: String,
        revision: i64,
    }
);
view!(
    /// `v1.Node`
    Node { metadata: ObjectMeta, spec: NodeSpec, status: NodeStatus }
);
view!(
    /// `v1.NodeSpec`
    NodeSpec {
        #[serde(rename = "podCIDR")]
        pod_cidr: String,
        #[serde(rename = "podCIDRs")]
        pod_cidrs: Vec<String>,
        unschedulable: bool,
        taints: Vec<Taint>,
    }
);
view!(
    /// `v1.NodeStatus`
    NodeStatus {
        conditions: Vec<Condition>,
        allocatable: BTreeMap<String, String>,
        volumes_in_use: Vec<String>,
        volumes_attached: Vec<AttachedVolume>,
    }
);
view!(
    /// `v1.AttachedVolume`
    AttachedVolume { name: String, device_path: String }
);
view!(
    /// `coordination.k8s.io/v1.Lease`
    Lease { metadata: ObjectMeta, spec: LeaseSpec }
);
view!(
    /// `coordination.k8s.io/v1.LeaseSpec`
    LeaseSpec { holder_identity: String, renew_time: Option<Time> }
);
view!(
    /// `v1.Namespace`
    Namespace { metadata: ObjectMeta, spec: NamespaceSpec, status: NamespaceStatus }
);
view!(
    /// `v1.NamespaceSpec`
    NamespaceSpec { finalizers: Vec<String> }
);
view!(
    /// `v1.NamespaceStatus`
    NamespaceStatus { phase: String, conditions: Vec<Condition> }
);
view!(
    /// `v1.ServiceAccount`
    ServiceAccount { metadata: ObjectMeta, secrets: Vec<Named> }
);
view!(
    /// `v1.ConfigMap`, for the ones that carry the root certificate.
    ConfigMap { metadata: ObjectMeta, data: BTreeMap<String, String> }
);
view!(
    /// `v1.Service`
    Service { metadata: ObjectMeta, spec: ServiceSpec }
);
view!(
    /// `v1.ServiceSpec`
    ServiceSpec {
        #[serde(rename = "type")]
        kind: String,
        selector: BTreeMap<String, String>,
        ports: Vec<ServicePort>,
        #[serde(rename = "clusterIP")]
        cluster_ip: String,
        #[serde(rename = "clusterIPs")]
        cluster_ips: Vec<String>,
        ip_families: Vec<String>,
        publish_not_ready_addresses: bool,
        traffic_distribution: String,
    }
);
view!(
    /// `v1.ServicePort`
    ServicePort { name: String, protocol: String, port: i32, target_port: Value, app_protocol: Option<String> }
);
view!(
    /// `discovery.k8s.io/v1.EndpointSlice`
    EndpointSlice {
        metadata: ObjectMeta,
        address_type: String,
        endpoints: Vec<Endpoint>,
        ports: Vec<EndpointPort>,
    }
);
view!(
    /// `discovery.k8s.io/v1.Endpoint`
    #[derive(Eq)]
    Endpoint {
        addresses: Vec<String>,
        conditions: EndpointConditions,
        #[serde(skip_serializing_if = "Option::is_none")]
        hostname: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        node_name: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        target_ref: Option<TargetRef>,
        #[serde(skip_serializing_if = "Option::is_none")]
        zone: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        hints: Option<EndpointHints>,
    }
);
view!(
    /// `discovery.k8s.io/v1.EndpointHints`
    #[derive(Eq)]
    EndpointHints {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        for_zones: Vec<Named>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        for_nodes: Vec<Named>,
    }
);
view!(
    /// Something of which only the name is read
    #[derive(Eq)]
    Named { name: String }
);
view!(
    /// `discovery.k8s.io/v1.EndpointConditions`
    #[derive(Eq)]
    EndpointConditions {
        ready: Option<bool>,
        #[serde(skip_serializing_if = "Option::is_none")]
        serving: Option<bool>,
        #[serde(skip_serializing_if = "Option::is_none")]
        terminating: Option<bool>,
    }
);
view!(
    /// `v1.ObjectReference` of an endpoint
    #[derive(Eq)]
    TargetRef { kind: String, namespace: String, name: String, uid: String }
);
view!(
    /// `discovery.k8s.io/v1.EndpointPort`
    #[derive(Eq, Hash, PartialOrd, Ord)]
    EndpointPort {
        name: String,
        protocol: String,
        port: Option<i32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        app_protocol: Option<String>,
    }
);

views!(
    Pod,
    ReplicaSet,
    Deployment,
    Job,
    Node,
    Lease,
    Namespace,
    ServiceAccount,
    ConfigMap,
    Service,
    EndpointSlice,
    PersistentVolumeClaim,
    PersistentVolume,
    StatefulSet,
    ControllerRevision,
    StorageClass,
    PodDisruptionBudget
);

fn is_zero(n: &i32) -> bool {
    *n == 0
}

impl Job {
    /// The condition that says that the job is over: `Complete` or `Failed`.
    pub fn finished(&self) -> Option<&JobCondition> {
        let over = |c: &&JobCondition| {
            c.status == "True" && matches!(c.kind.as_str(), "Complete" | "Failed")
        };
        self.status.conditions.iter().find(over)
    }

    /// Whether it ended well.
    pub fn is_succeeded(&self) -> bool {
        self.finished().is_some_and(|c| c.kind == "Complete")
    }

    /// Whether no pods may run for now.
    pub fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    /// Whether each completion has a number of its own.
    pub fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }
}

/// Bytes: base64 in JSON, plain in protobuf.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Blob(pub Vec<u8>);

impl std::fmt::Debug for Blob {
    /// It may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Blob, D::Error> {
        struct Bytes;
        impl serde::de::Visitor<'_> for Bytes {
            type Value = Blob;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("base64")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Blob, E> {
                use base64::Engine as _;
                let decoded = base64::engine::general_purpose::STANDARD.decode(text);
                decoded.map(Blob).map_err(E::custom)
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.to_vec()))
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<Blob, E> {
                Ok(Blob::default())
            }
        }
        d.deserialize_str(Bytes)
    }
}

/// The condition of a type.
pub fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.kind == kind)
}

impl PodSpec {
    /// The node that the pod's required affinity names, as daemon pods have it.
    pub fn target_node(&self) -> Option<String> {
        let terms = self
            .affinity
            .pointer(
                "/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms",
            )?
            .as_array()?;
        let fields = terms
            .iter()
            .filter_map(|t| t.get("matchFields")?.as_array())
            .flatten();
        let mut named =
            fields.filter(|f| f.get("key").and_then(Value::as_str) == Some("metadata.name"));
        named.find_map(|f| {
            f.pointer("/values/0")
                .and_then(Value::as_str)
                .map(str::to_owned)
        })
    }
}

impl Pod {
    /// Whether the pod may still run: not ended and not being deleted.
    pub fn is_active(&self) -> bool {
        !self.is_ended() && !self.metadata.is_deleting()
    }

    /// The condition that says why the pod is made to end.
    pub fn disruption(&self, reason: &str, message: &str, now: Time) -> Value {
        let mut condition = serde_json::json!({
            "type": "DisruptionTarget",
            "status": "True",
            "reason": reason,
            "message": message,
            "lastTransitionTime": client::view::print_time(now),
        });
        // Only where the kubelet says which generation it speaks of, others do.
        if self.status.observed_generation != 0
            && let Some(c) = condition.as_object_mut()
        {
            c.insert("observedGeneration".into(), self.metadata.generation.into());
        }
        condition
    }

    /// Whether all containers have ended for good.
    pub fn is_ended(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Whether the `Ready` condition holds.
    pub fn is_ready(&self) -> bool {
        condition(&self.status.conditions, "Ready").is_some_and(|c| c.status == "True")
    }

    /// Since when the pod is ready, if it is.
    pub fn ready_since(&self) -> Option<Time> {
        let c = condition(&self.status.conditions, "Ready").filter(|c| c.status == "True")?;
        Some(c.last_transition_time.unwrap_or(Time::UNIX_EPOCH))
    }

    /// Whether the pod has been ready for at least `min_ready` seconds.
    pub fn is_available(&self, min_ready: i32, now: Time) -> bool {
        self.ready_since().is_some_and(|t| {
            min_ready == 0 || now.duration_since(t).as_secs() >= i64::from(min_ready)
        })
    }
}
