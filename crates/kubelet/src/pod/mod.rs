//! The pod as the kubelet reads it: a view with the fields that decide what runs on the node.
//!
//! Defaults of the API are applied while decoding, so pods of static manifests and pods from the apiserver look alike.
//! Fields the kubelet does not act on are dropped. Quantities stay text until they are used ([`quantity`]).

pub mod quantity;
pub mod resources;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// String map, as labels and annotations are.
pub type Map = BTreeMap<String, String>;

/// Annotation that says where a pod comes from: `api`, `file` or `http`.
pub const SOURCE_ANNOTATION: &str = "kubernetes.io/config.source";
/// Annotation of a mirror pod; its value is the static pod's hash.
pub const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
/// Annotation with a static pod's hash.
pub const HASH_ANNOTATION: &str = "kubernetes.io/config.hash";
/// Annotation with the time a static pod was first seen.
pub const SEEN_ANNOTATION: &str = "kubernetes.io/config.seen";

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pod {
    /// Object metadata.
    pub metadata: Meta,
    /// Desired state.
    pub spec: PodSpec,
    /// Status last seen at the apiserver.
    pub status: PodStatus,
}

/// The metadata the kubelet reads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Unique id.
    pub uid: String,
    /// Version, for reference in events.
    pub resource_version: String,
    /// Counts changes of the spec.
    #[serde(skip_serializing_if = "is_zero")]
    pub generation: i64,
    /// Labels.
    #[serde(deserialize_with = "nullable")]
    pub labels: Map,
    /// Annotations.
    #[serde(deserialize_with = "nullable")]
    pub annotations: Map,
    /// Time of creation, RFC 3339.
    pub creation_timestamp: Option<String>,
    /// Set once deletion was asked for, RFC 3339.
    pub deletion_timestamp: Option<String>,
    /// Grace of the deletion in seconds.
    pub deletion_grace_period_seconds: Option<i64>,
    /// Owners; only whether a controller exists matters here.
    #[serde(deserialize_with = "nullable")]
    pub owner_references: Vec<OwnerReference>,
}

/// An owner.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    /// API version of the owner.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Unique id.
    pub uid: String,
    /// Whether the owner is the managing controller.
    pub controller: Option<bool>,
}

fn is_zero(v: &i64) -> bool {
    *v == 0
}

fn nullable<'de, D, T>(d: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// Desired state of a pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the fields are those of core/v1 PodSpec")]
pub struct PodSpec {
    #[serde(deserialize_with = "nullable")]
    pub volumes: Vec<Volume>,
    #[serde(deserialize_with = "nullable")]
    pub init_containers: Vec<Container>,
    #[serde(deserialize_with = "nullable")]
    pub containers: Vec<Container>,
    #[serde(deserialize_with = "nullable")]
    pub ephemeral_containers: Vec<Container>,
    pub restart_policy: String,
    pub termination_grace_period_seconds: i64,
    pub active_deadline_seconds: Option<i64>,
    pub dns_policy: String,
    pub dns_config: Option<DnsConfig>,
    #[serde(deserialize_with = "nullable")]
    pub node_selector: Map,
    pub affinity: Option<Affinity>,
    pub service_account_name: String,
    pub automount_service_account_token: Option<bool>,
    pub node_name: String,
    pub host_network: bool,
    #[serde(rename = "hostPID")]
    pub host_pid: bool,
    #[serde(rename = "hostIPC")]
    pub host_ipc: bool,
    pub host_users: Option<bool>,
    pub share_process_namespace: Option<bool>,
    pub security_context: Option<PodSecurityContext>,
    #[serde(deserialize_with = "nullable")]
    pub image_pull_secrets: Vec<LocalRef>,
    pub hostname: String,
    pub subdomain: String,
    #[serde(rename = "setHostnameAsFQDN")]
    pub set_hostname_as_fqdn: Option<bool>,
    pub hostname_override: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub tolerations: Vec<Toleration>,
    #[serde(deserialize_with = "nullable")]
    pub host_aliases: Vec<HostAlias>,
    pub priority_class_name: String,
    pub priority: Option<i32>,
    #[serde(deserialize_with = "nullable")]
    pub readiness_gates: Vec<ReadinessGate>,
    pub runtime_class_name: Option<String>,
    pub enable_service_links: Option<bool>,
    #[serde(deserialize_with = "nullable")]
    pub overhead: Map,
    pub resources: Option<Resources>,
    pub os: Option<PodOs>,
    #[serde(deserialize_with = "nullable")]
    pub resource_claims: Vec<Opaque>,
}

impl Default for PodSpec {
    fn default() -> Self {
        PodSpec {
            volumes: Vec::new(),
            init_containers: Vec::new(),
            containers: Vec::new(),
            ephemeral_containers: Vec::new(),
            restart_policy: "Always".into(),
            termination_grace_period_seconds: 30,
            active_deadline_seconds: None,
            dns_policy: "ClusterFirst".into(),
            dns_config: None,
            node_selector: Map::new(),
            affinity: None,
            service_account_name: String::new(),
            automount_service_account_token: None,
            node_name: String::new(),
            host_network: false,
            host_pid: false,
            host_ipc: false,
            host_users: None,
            share_process_namespace: None,
            security_context: None,
            image_pull_secrets: Vec::new(),
            hostname: String::new(),
            subdomain: String::new(),
            set_hostname_as_fqdn: None,
            hostname_override: None,
            tolerations: Vec::new(),
            host_aliases: Vec::new(),
            priority_class_name: String::new(),
            priority: None,
            readiness_gates: Vec::new(),
            runtime_class_name: None,
            enable_service_links: None,
            overhead: Map::new(),
            resources: None,
            os: None,
            resource_claims: Vec::new(),
        }
    }
}

macro_rules! views {
    ($($(#[$m:meta])* $name:ident { $($(#[$fm:meta])* $f:ident : $t:ty),* $(,)? })*) => {
        $(
            $(#[$m])*
            #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
            #[serde(rename_all = "camelCase", default)]
            #[expect(missing_docs, reason = "the fields are those of the core/v1 type of the same name")]
            pub struct $name { $($(#[$fm])* pub $f: $t),* }
        )*
    };
}

views! {
    /// Name of an object in the same namespace.
    LocalRef { name: String }
    /// Operating system a pod is made for.
    PodOs { name: String }
    /// A condition others must set before the pod is ready.
    ReadinessGate { condition_type: String }
    /// Extra lines for /etc/hosts.
    HostAlias { ip: String, #[serde(deserialize_with = "nullable")] hostnames: Vec<String> }
    /// Extra resolver settings.
    DnsConfig {
        #[serde(deserialize_with = "nullable")] nameservers: Vec<String>,
        #[serde(deserialize_with = "nullable")] searches: Vec<String>,
        #[serde(deserialize_with = "nullable")] options: Vec<DnsOption>,
    }
    /// One resolver option.
    DnsOption { name: String, value: Option<String> }
    /// A taint a pod bears.
    Toleration { key: String, operator: String, value: String, effect: String, toleration_seconds: Option<i64> }
    /// Affinity; the kubelet reads the required node part only.
    Affinity { node_affinity: Option<NodeAffinity> }
    /// Node affinity.
    NodeAffinity { required_during_scheduling_ignored_during_execution: Option<NodeSelector> }
    /// Terms joined by OR.
    NodeSelector { #[serde(deserialize_with = "nullable")] node_selector_terms: Vec<NodeSelectorTerm> }
    /// Requirements joined by AND.
    NodeSelectorTerm {
        #[serde(deserialize_with = "nullable")] match_expressions: Vec<Requirement>,
        #[serde(deserialize_with = "nullable")] match_fields: Vec<Requirement>,
    }
    /// One requirement on a label or field.
    Requirement { key: String, operator: String, #[serde(deserialize_with = "nullable")] values: Vec<String> }
    /// Pod-wide security settings.
    PodSecurityContext {
        se_linux_options: Option<SeLinuxOptions>,
        run_as_user: Option<i64>,
        run_as_group: Option<i64>,
        run_as_non_root: Option<bool>,
        #[serde(deserialize_with = "nullable")] supplemental_groups: Vec<i64>,
        supplemental_groups_policy: Option<String>,
        fs_group: Option<i64>,
        fs_group_change_policy: Option<String>,
        #[serde(deserialize_with = "nullable")] sysctls: Vec<Sysctl>,
        seccomp_profile: Option<Profile>,
        app_armor_profile: Option<Profile>,
    }
    /// A kernel parameter.
    Sysctl { name: String, value: String }
    /// Seccomp or AppArmor profile.
    Profile { #[serde(rename = "type")] kind: String, localhost_profile: Option<String> }
    /// SELinux label.
    SeLinuxOptions { user: String, role: String, #[serde(rename = "type")] kind: String, level: String }
    /// Security settings of one container.
    SecurityContext {
        capabilities: Option<Capabilities>,
        privileged: Option<bool>,
        se_linux_options: Option<SeLinuxOptions>,
        run_as_user: Option<i64>,
        run_as_group: Option<i64>,
        run_as_non_root: Option<bool>,
        read_only_root_filesystem: Option<bool>,
        allow_privilege_escalation: Option<bool>,
        proc_mount: Option<String>,
        seccomp_profile: Option<Profile>,
        app_armor_profile: Option<Profile>,
    }
    /// Capabilities added and dropped.
    Capabilities {
        #[serde(deserialize_with = "nullable")] add: Vec<String>,
        #[serde(deserialize_with = "nullable")] drop: Vec<String>,
    }
    /// A port a container listens on.
    ContainerPort {
        #[serde(skip_serializing_if = "String::is_empty")] name: String,
        #[serde(skip_serializing_if = "zero_port")] host_port: i32,
        container_port: i32,
        #[serde(skip_serializing_if = "String::is_empty")] protocol: String,
        #[serde(rename = "hostIP", skip_serializing_if = "String::is_empty")] host_ip: String,
    }
    /// Source of many variables.
    EnvFrom { prefix: String, config_map_ref: Option<OptionalRef>, secret_ref: Option<OptionalRef> }
    /// Reference that may be optional.
    OptionalRef { name: String, optional: Option<bool> }
    /// One environment variable.
    EnvVar { name: String, value: String, value_from: Option<EnvSource> }
    /// Where a variable's value comes from.
    EnvSource {
        field_ref: Option<FieldRef>,
        resource_field_ref: Option<ResourceFieldRef>,
        config_map_key_ref: Option<KeyRef>,
        secret_key_ref: Option<KeyRef>,
        file_key_ref: Option<FileKeyRef>,
    }
    /// A key in a file on a volume.
    FileKeyRef { volume_name: String, path: String, key: String, optional: Option<bool> }
    /// A field of the pod.
    FieldRef { api_version: String, field_path: String }
    /// A resource of a container.
    ResourceFieldRef { container_name: String, resource: String, divisor: Option<String> }
    /// A key of a config map or secret.
    KeyRef { name: String, key: String, optional: Option<bool> }
    /// Requests and limits.
    Resources {
        #[serde(deserialize_with = "nullable")] limits: Map,
        #[serde(deserialize_with = "nullable")] requests: Map,
    }
    /// Use of a volume by a container.
    VolumeMount {
        name: String,
        read_only: bool,
        recursive_read_only: Option<String>,
        mount_path: String,
        sub_path: String,
        mount_propagation: Option<String>,
        sub_path_expr: String,
    }
    /// Hooks.
    Lifecycle { post_start: Option<Handler>, pre_stop: Option<Handler>, stop_signal: Option<String> }
    /// What a hook or probe does.
    Handler {
        #[serde(skip_serializing_if = "Option::is_none")] exec: Option<ExecAction>,
        #[serde(skip_serializing_if = "Option::is_none")] http_get: Option<HttpGet>,
        #[serde(skip_serializing_if = "Option::is_none")] tcp_socket: Option<TcpSocket>,
        #[serde(skip_serializing_if = "Option::is_none")] sleep: Option<SleepAction>,
    }
    /// Run a command.
    ExecAction { #[serde(deserialize_with = "nullable")] command: Vec<String> }
    /// Pause.
    SleepAction { seconds: i64 }
    /// Ask over HTTP.
    HttpGet {
        #[serde(skip_serializing_if = "String::is_empty")] path: String,
        port: Port,
        #[serde(skip_serializing_if = "String::is_empty")] host: String,
        #[serde(skip_serializing_if = "String::is_empty")] scheme: String,
        #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")] http_headers: Vec<Header>,
    }
    /// A request header.
    Header { name: String, value: String }
    /// Open a TCP connection.
    TcpSocket { port: Port, host: String }
    /// Ask the gRPC health service.
    GrpcAction { port: i32, service: Option<String> }
    /// A restart rule of a container.
    RestartRule { action: String, exit_codes: Option<RestartExitCodes> }
    /// Exit codes a rule is for.
    RestartExitCodes { operator: String, #[serde(deserialize_with = "nullable")] values: Vec<i32> }
    /// A volume and its one source.
    Volume {
        name: String,
        host_path: Option<HostPath>,
        empty_dir: Option<EmptyDir>,
        secret: Option<SecretSource>,
        config_map: Option<ConfigMapSource>,
        #[serde(rename = "downwardAPI")] downward_api: Option<DownwardApi>,
        projected: Option<Projected>,
        git_repo: Option<Opaque>,
        persistent_volume_claim: Option<ClaimSource>,
        csi: Option<Opaque>,
        nfs: Option<Opaque>,
        ephemeral: Option<Opaque>,
        image: Option<Opaque>,
        iscsi: Option<Opaque>,
        fc: Option<Opaque>,
    }
    /// A claim in the pod's namespace.
    ClaimSource { claim_name: String, read_only: bool }
    /// A path on the node.
    HostPath { path: String, #[serde(rename = "type")] kind: Option<String> }
    /// A fresh directory.
    EmptyDir { medium: String, size_limit: Option<String> }
    /// Files from a secret.
    SecretSource {
        secret_name: String,
        #[serde(deserialize_with = "nullable")] items: Vec<KeyToPath>,
        default_mode: Option<i32>,
        optional: Option<bool>,
    }
    /// Files from a config map.
    ConfigMapSource {
        name: String,
        #[serde(deserialize_with = "nullable")] items: Vec<KeyToPath>,
        default_mode: Option<i32>,
        optional: Option<bool>,
    }
    /// One key as a file.
    KeyToPath { key: String, path: String, mode: Option<i32> }
    /// Files about the pod itself.
    DownwardApi { #[serde(deserialize_with = "nullable")] items: Vec<DownwardFile>, default_mode: Option<i32> }
    /// One such file.
    DownwardFile {
        path: String,
        field_ref: Option<FieldRef>,
        resource_field_ref: Option<ResourceFieldRef>,
        mode: Option<i32>,
    }
    /// Several sources in one directory.
    Projected { #[serde(deserialize_with = "nullable")] sources: Vec<Projection>, default_mode: Option<i32> }
    /// One of them.
    Projection {
        secret: Option<SecretProjection>,
        config_map: Option<SecretProjection>,
        #[serde(rename = "downwardAPI")] downward_api: Option<DownwardApi>,
        service_account_token: Option<TokenProjection>,
        cluster_trust_bundle: Option<Opaque>,
        pod_certificate: Option<Opaque>,
    }
    /// Files from a secret or config map.
    SecretProjection {
        name: String,
        #[serde(deserialize_with = "nullable")] items: Vec<KeyToPath>,
        optional: Option<bool>,
    }
    /// A bound service account token.
    TokenProjection { audience: String, expiration_seconds: Option<i64>, path: String }
}

fn zero_port(p: &i32) -> bool {
    *p == 0
}

/// A value whose content does not matter, only that it is there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Opaque;

impl<'de> Deserialize<'de> for Opaque {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(d).map(|_| Opaque)
    }
}

impl Serialize for Opaque {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        serde::ser::SerializeMap::end(s.serialize_map(Some(0))?)
    }
}

/// A port by number or by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Port {
    /// Number.
    Number(i32),
    /// Name of a container port.
    Name(String),
}

impl Default for Port {
    fn default() -> Self {
        Port::Number(0)
    }
}

impl Port {
    /// The number of this port in `container`; names are looked up in the container's ports.
    pub fn resolve(&self, container: &Container) -> Option<u16> {
        match self {
            Port::Number(n) => u16::try_from(*n).ok().filter(|n| *n > 0),
            Port::Name(name) => container
                .ports
                .iter()
                .find(|p| &p.name == name)
                .and_then(|p| u16::try_from(p.container_port).ok())
                .or_else(|| name.parse().ok()),
        }
    }
}

/// A container of any sort.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the fields are those of core/v1 Container")]
pub struct Container {
    pub name: String,
    pub image: String,
    #[serde(deserialize_with = "nullable")]
    pub command: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub args: Vec<String>,
    pub working_dir: String,
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<ContainerPort>,
    #[serde(deserialize_with = "nullable")]
    pub env_from: Vec<EnvFrom>,
    #[serde(deserialize_with = "nullable")]
    pub env: Vec<EnvVar>,
    #[serde(deserialize_with = "nullable")]
    pub resources: Resources,
    pub restart_policy: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub restart_policy_rules: Vec<RestartRule>,
    #[serde(deserialize_with = "nullable")]
    pub volume_mounts: Vec<VolumeMount>,
    pub liveness_probe: Option<Probe>,
    pub readiness_probe: Option<Probe>,
    pub startup_probe: Option<Probe>,
    pub lifecycle: Option<Lifecycle>,
    pub termination_message_path: String,
    pub termination_message_policy: String,
    pub image_pull_policy: String,
    pub security_context: Option<SecurityContext>,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    pub target_container_name: String,
}

impl Default for Container {
    fn default() -> Self {
        Container {
            name: String::new(),
            image: String::new(),
            command: Vec::new(),
            args: Vec::new(),
            working_dir: String::new(),
            ports: Vec::new(),
            env_from: Vec::new(),
            env: Vec::new(),
            resources: Resources::default(),
            restart_policy: None,
            restart_policy_rules: Vec::new(),
            volume_mounts: Vec::new(),
            liveness_probe: None,
            readiness_probe: None,
            startup_probe: None,
            lifecycle: None,
            termination_message_path: "/dev/termination-log".into(),
            termination_message_policy: "File".into(),
            image_pull_policy: String::new(),
            security_context: None,
            stdin: false,
            stdin_once: false,
            tty: false,
            target_container_name: String::new(),
        }
    }
}

/// A probe with upstream's defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the fields are those of core/v1 Probe")]
pub struct Probe {
    pub exec: Option<ExecAction>,
    pub http_get: Option<HttpGet>,
    pub tcp_socket: Option<TcpSocket>,
    pub grpc: Option<GrpcAction>,
    pub initial_delay_seconds: i32,
    pub timeout_seconds: i32,
    pub period_seconds: i32,
    pub success_threshold: i32,
    pub failure_threshold: i32,
    pub termination_grace_period_seconds: Option<i64>,
}

impl Default for Probe {
    fn default() -> Self {
        Probe {
            exec: None,
            http_get: None,
            tcp_socket: None,
            grpc: None,
            initial_delay_seconds: 0,
            timeout_seconds: 1,
            period_seconds: 10,
            success_threshold: 1,
            failure_threshold: 3,
            termination_grace_period_seconds: None,
        }
    }
}

/// Status of a pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the fields are those of core/v1 PodStatus")]
pub struct PodStatus {
    #[serde(skip_serializing_if = "is_zero")]
    pub observed_generation: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub phase: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(rename = "hostIP", skip_serializing_if = "String::is_empty")]
    pub host_ip: String,
    #[serde(
        rename = "hostIPs",
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub host_ips: Vec<Ip>,
    #[serde(rename = "podIP", skip_serializing_if = "String::is_empty")]
    pub pod_ip: String,
    #[serde(
        rename = "podIPs",
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub pod_ips: Vec<Ip>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub init_container_statuses: Vec<ContainerStatus>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub container_statuses: Vec<ContainerStatus>,
    #[serde(rename = "qosClass", skip_serializing_if = "String::is_empty")]
    pub qos_class: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub ephemeral_container_statuses: Vec<ContainerStatus>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Map::is_empty")]
    pub allocated_resources: Map,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<StatusResources>,
}

/// An address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ip {
    /// The address as text.
    pub ip: String,
}

/// A condition of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the fields are those of core/v1 PodCondition")]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub observed_generation: i64,
    pub status: String,
    pub last_probe_time: Option<String>,
    pub last_transition_time: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Status of one container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(
    missing_docs,
    reason = "the fields are those of core/v1 ContainerStatus"
)]
pub struct ContainerStatus {
    pub name: String,
    #[serde(deserialize_with = "nullable")]
    pub state: State,
    #[serde(deserialize_with = "nullable")]
    pub last_state: State,
    pub ready: bool,
    pub restart_count: i32,
    pub image: String,
    #[serde(rename = "imageID")]
    pub image_id: String,
    #[serde(rename = "containerID", skip_serializing_if = "String::is_empty")]
    pub container_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<bool>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Map::is_empty")]
    pub allocated_resources: Map,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<StatusResources>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub volume_mounts: Vec<VolumeMountStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<ContainerUser>,
}

/// Resources in a status.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(
    missing_docs,
    reason = "the fields are those of core/v1 ResourceRequirements"
)]
pub struct StatusResources {
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Map::is_empty")]
    pub limits: Map,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Map::is_empty")]
    pub requests: Map,
}

/// A mount in a status.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(
    missing_docs,
    reason = "the fields are those of core/v1 VolumeMountStatus"
)]
pub struct VolumeMountStatus {
    pub name: String,
    pub mount_path: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recursive_read_only: Option<String>,
}

/// Who a container runs as.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerUser {
    /// Linux identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linux: Option<LinuxUser>,
}

/// Linux identity.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(
    missing_docs,
    reason = "the fields are those of core/v1 LinuxContainerUser"
)]
pub struct LinuxUser {
    pub uid: i64,
    pub gid: i64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub supplemental_groups: Vec<i64>,
}

/// State of a container: at most one field is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(
    missing_docs,
    reason = "the fields are those of core/v1 ContainerState"
)]
pub struct State {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<Running>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminated: Option<Terminated>,
}

/// Not running yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Waiting {
    /// CamelCase reason.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Details.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Running.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Running {
    /// Since when, RFC 3339.
    pub started_at: Option<String>,
}

/// Ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(
    missing_docs,
    reason = "the fields are those of core/v1 ContainerStateTerminated"
)]
pub struct Terminated {
    pub exit_code: i32,
    #[serde(skip_serializing_if = "signal_unset")]
    pub signal: i32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    pub started_at: Option<String>,
    pub finished_at: Option<String>,
    #[serde(rename = "containerID", skip_serializing_if = "String::is_empty")]
    pub container_id: String,
}

fn signal_unset(s: &i32) -> bool {
    *s == 0
}

impl Container {
    /// True for an init container that runs beside the pod's containers (a sidecar).
    pub fn is_sidecar(&self) -> bool {
        self.restart_policy.as_deref() == Some("Always")
    }

    /// The pull policy, defaulted from the tag.
    pub fn pull_policy(&self) -> &str {
        if !self.image_pull_policy.is_empty() {
            return &self.image_pull_policy;
        }
        let last = self.image.rsplit('/').next().unwrap_or_default();
        if !last.contains('@') && (!last.contains(':') || last.ends_with(":latest")) {
            "Always"
        } else {
            "IfNotPresent"
        }
    }

    /// Hash of what makes a running container obsolete when it changes: name and image.
    ///
    /// Equal to upstream's, so that either kubelet keeps the other's containers: FNV-1a over the decimal dump of the
    /// JSON bytes.
    pub fn hash(&self) -> String {
        let json = serde_json::to_vec(&BTreeMap::from([
            ("image", &self.image),
            ("name", &self.name),
        ]))
        .unwrap_or_default();
        let json = go_escape(&json);
        let mut text = String::from("([]uint8)[");
        for (i, b) in json.iter().enumerate() {
            if i > 0 {
                text.push(' ');
            }
            text.push_str(&b.to_string());
        }
        text.push(']');
        let mut h: u32 = 0x811c_9dc5;
        for b in text.bytes() {
            h = (h ^ u32::from(b)).wrapping_mul(0x0100_0193);
        }
        format!("{h:x}")
    }

    /// Whether a container that ended with `exit_code` is to be started again in a pod with `pod_policy`.
    pub fn restarts_after(&self, pod_policy: &str, exit_code: i32) -> bool {
        for rule in &self.restart_policy_rules {
            let Some(codes) = &rule.exit_codes else {
                continue;
            };
            let hit = codes.values.contains(&exit_code) == (codes.operator == "In");
            if hit && rule.action == "Restart" {
                return true;
            }
        }
        match self.restart_policy.as_deref().unwrap_or(pod_policy) {
            "Never" => false,
            "OnFailure" => exit_code != 0,
            _ => true,
        }
    }
}

/// Go's JSON encoder escapes `<`, `>` and `&`.
fn go_escape(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    for b in json {
        match b {
            b'<' => out.extend_from_slice(b"\\u003c"),
            b'>' => out.extend_from_slice(b"\\u003e"),
            b'&' => out.extend_from_slice(b"\\u0026"),
            _ => out.push(*b),
        }
    }
    out
}

/// A grace in seconds as it is kept: no less than zero, and zero for one that no duration holds.
///
/// Upstream multiplies into a 64-bit count of nanoseconds, where such a grace comes out negative and the pod is ended at
/// once; a pod that nobody could ever see end would be the other choice.
pub fn grace(seconds: i64) -> i64 {
    if seconds > component::duration::LONGEST_SECONDS {
        0
    } else {
        seconds.max(0)
    }
}

impl Pod {
    /// `namespace/name`, for logs.
    pub fn key(&self) -> String {
        format!("{}/{}", self.metadata.namespace, self.metadata.name)
    }

    /// True for a pod from a file rather than the apiserver.
    pub fn is_static(&self) -> bool {
        self.metadata
            .annotations
            .get(SOURCE_ANNOTATION)
            .is_some_and(|s| s != "api")
    }

    /// True for the apiserver's copy of a static pod.
    pub fn is_mirror(&self) -> bool {
        self.metadata.annotations.contains_key(MIRROR_ANNOTATION)
    }

    /// True for pods that may push others aside: static pods and system-critical priorities.
    pub fn is_critical(&self) -> bool {
        self.is_static()
            || self.is_mirror()
            || self.spec.priority.is_some_and(|p| p >= 2_000_000_000)
    }

    /// Init, regular and ephemeral containers, in this order.
    pub fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.spec
            .init_containers
            .iter()
            .chain(&self.spec.containers)
            .chain(&self.spec.ephemeral_containers)
    }

    /// The container of that name.
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.all_containers().find(|c| c.name == name)
    }

    /// True when the phase at the apiserver is final.
    pub fn is_finished(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Grace of a termination in seconds: the deletion's, else the spec's; see [`grace`].
    ///
    /// The apiserver cuts a deletion's grace to what fits 32 bits; where it cut the spec's, the spec's is meant.
    pub fn grace_seconds(&self) -> i64 {
        let own = self.spec.termination_grace_period_seconds;
        match self.metadata.deletion_grace_period_seconds {
            Some(d) if d < i64::from(i32::MAX) || own <= d => grace(d),
            _ => grace(own),
        }
    }

    /// The pod's quality of service class.
    pub fn qos(&self) -> resources::Qos {
        resources::qos(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_apply_while_decoding() {
        let p: Pod = serde_json::from_str(
            r#"{"metadata":{"name":"a","labels":null},"spec":{"containers":[{"name":"c","image":"x:1","livenessProbe":{"httpGet":{"port":"web"}}}]}}"#,
        )
        .unwrap();
        assert_eq!(p.spec.restart_policy, "Always");
        assert_eq!(p.spec.termination_grace_period_seconds, 30);
        let c = &p.spec.containers[0];
        assert_eq!(c.termination_message_path, "/dev/termination-log");
        let probe = c.liveness_probe.as_ref().unwrap();
        assert_eq!(
            (
                probe.period_seconds,
                probe.timeout_seconds,
                probe.failure_threshold
            ),
            (10, 1, 3)
        );
        assert_eq!(
            probe.http_get.as_ref().unwrap().port,
            Port::Name("web".into())
        );
    }

    #[test]
    fn a_grace_that_no_duration_holds_is_none() {
        let cut = i64::from(i32::MAX);
        for (own, deletion, want) in [
            (30, None, 30),
            (30, Some(0), 0),
            (30, Some(600), 600),
            (30, Some(cut), cut),
            (cut, Some(cut), cut),
            (9_000_000_000, Some(cut), 9_000_000_000),
            (i64::MAX, None, 0),
            (i64::MAX, Some(i64::MAX), 0),
            (i64::MAX, Some(cut), 0),
            (i64::MAX, Some(5), 5),
            (i64::MIN, None, 0),
            (30, Some(-1), 0),
        ] {
            let mut p = Pod::default();
            p.spec.termination_grace_period_seconds = own;
            p.metadata.deletion_grace_period_seconds = deletion;
            assert_eq!(p.grace_seconds(), want, "{own} {deletion:?}");
        }
    }

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, want) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.2", "IfNotPresent"),
            ("host:5000/nginx", "Always"),
            ("nginx@sha256:00", "IfNotPresent"),
        ] {
            let c = Container {
                image: image.into(),
                ..Default::default()
            };
            assert_eq!(c.pull_policy(), want, "{image}");
        }
    }

    #[test]
    fn hash_equals_upstreams() {
        let c = Container {
            name: "c".into(),
            image: "busybox:1".into(),
            ..Default::default()
        };
        assert_eq!(c.hash(), "1aaabc84");
    }

    #[test]
    fn restart_rules_win_over_policies() {
        let mut c = Container::default();
        assert!(c.restarts_after("Always", 0));
        assert!(!c.restarts_after("OnFailure", 0));
        assert!(c.restarts_after("OnFailure", 1));
        c.restart_policy = Some("Never".into());
        assert!(!c.restarts_after("Always", 1));
        c.restart_policy_rules = vec![RestartRule {
            action: "Restart".into(),
            exit_codes: Some(RestartExitCodes {
                operator: "In".into(),
                values: vec![42],
            }),
        }];
        assert!(c.restarts_after("Always", 42));
        assert!(!c.restarts_after("Always", 41));
    }
}
