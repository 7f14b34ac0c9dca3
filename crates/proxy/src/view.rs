//! What kube-proxy reads of Services, EndpointSlices and its Node.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// A port; what cannot be one reads as 0, so that it costs the object nothing but that port.
fn port<'de, D: Deserializer<'de>>(d: D) -> Result<u16, D::Error> {
    Ok(u16::try_from(i64::deserialize(d)?).unwrap_or(0))
}

fn optional_port<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u16>, D::Error> {
    Ok(Option::<i64>::deserialize(d)?.map(|p| u16::try_from(p).unwrap_or(0)))
}

/// `ObjectMeta` as far as the proxy reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// The name.
    pub name: String,
    /// The namespace.
    pub namespace: String,
    /// Identity.
    pub uid: String,
    /// For resuming watches.
    pub resource_version: String,
    /// When it was made.
    pub creation_timestamp: Option<client::Time>,
    /// Set while it is being deleted.
    pub deletion_timestamp: Option<client::Time>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ServiceView {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    pub spec: ServiceSpec,
    /// Status.
    pub status: ServiceStatus,
}

/// `ServiceSpec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// ClusterIP, NodePort, LoadBalancer, ExternalName.
    #[serde(rename = "type")]
    pub type_: String,
    /// `None` for headless.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    /// One per family.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    /// Addresses that nodes accept for the service.
    #[serde(rename = "externalIPs")]
    pub external_ips: Vec<String>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// `None` or `ClientIP`.
    pub session_affinity: String,
    /// How long affinity lasts.
    pub session_affinity_config: Option<AffinityConfig>,
    /// `Cluster` or `Local`.
    pub external_traffic_policy: String,
    /// `Cluster` or `Local`.
    pub internal_traffic_policy: Option<String>,
    /// Who may reach the load balancer.
    pub load_balancer_source_ranges: Vec<String>,
}

/// A port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// May be empty with one port.
    pub name: String,
    /// TCP, UDP, SCTP.
    pub protocol: String,
    /// The service's port.
    #[serde(deserialize_with = "port")]
    pub port: u16,
    /// 0 for none.
    #[serde(deserialize_with = "port")]
    pub node_port: u16,
}

/// `SessionAffinityConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AffinityConfig {
    /// By client address.
    #[serde(rename = "clientIP")]
    pub client_ip: Option<ClientIp>,
}

/// `ClientIPConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientIp {
    /// Defaults to 10800.
    pub timeout_seconds: Option<i64>,
}

/// `ServiceStatus`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// The load balancer.
    pub load_balancer: LoadBalancer,
}

/// `LoadBalancerStatus`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LoadBalancer {
    /// Its addresses.
    pub ingress: Vec<Ingress>,
}

/// `LoadBalancerIngress`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ingress {
    /// The address.
    pub ip: String,
    /// `VIP` (default) or `Proxy`; Proxy addresses are not short-circuited.
    pub ip_mode: Option<String>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SliceView {
    /// Metadata.
    pub metadata: Meta,
    /// IPv4, IPv6, FQDN.
    pub address_type: String,
    /// Endpoints.
    pub endpoints: Vec<SliceEndpoint>,
    /// Ports of all of them.
    pub ports: Vec<SlicePort>,
}

/// An endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SliceEndpoint {
    /// The first counts.
    pub addresses: Vec<String>,
    /// Readiness.
    pub conditions: Conditions,
    /// Where it runs.
    pub node_name: Option<String>,
}

/// `EndpointConditions`; `None` reads as true for ready and serving.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Conditions {
    /// Takes new connections.
    pub ready: Option<bool>,
    /// Like ready, but also while terminating.
    pub serving: Option<bool>,
    /// Being deleted.
    pub terminating: Option<bool>,
}

/// A port of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SlicePort {
    /// Matches the service port's name.
    pub name: Option<String>,
    /// TCP when absent.
    pub protocol: Option<String>,
    /// The target.
    #[serde(deserialize_with = "optional_port")]
    pub port: Option<u16>,
}

/// The proxy's own Node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NodeView {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    pub spec: NodeSpec,
}

/// `NodeSpec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    /// Taints.
    pub taints: Vec<Taint>,
}

/// `Taint`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Taint {
    /// The key.
    pub key: String,
}
