//! The service model: Services joined with EndpointSlices, one entry per service port (pure).
//!
//! Invariant: after [`Model::take_changes`], replaying the changes on the entries taken before gives the entries of now.
//! Work is in proportion to the services that changed.
//!
//! Absent: topology hints and `trafficDistribution`; every usable endpoint is used.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::view::{ServiceView, SliceView};

/// An IP family: each has its own rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address; `None` if it does not parse.
    pub fn of(ip: &str) -> Option<Family> {
        match ip.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => Some(Family::V4),
            Ok(IpAddr::V6(_)) => Some(Family::V6),
            Err(_) => None,
        }
    }
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// From the API's spelling; empty is TCP.
    pub fn parse(s: &str) -> Option<Protocol> {
        match s {
            "" | "TCP" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            _ => None,
        }
    }

    /// Lower case, as the rule languages have it.
    pub fn lower(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

/// Which port of which service: `ns/name:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortName {
    /// The namespace.
    pub namespace: String,
    /// The service.
    pub name: String,
    /// The port's name, possibly empty.
    pub port: String,
    /// Two ports may share a name-less service with different protocols.
    pub protocol: Protocol,
}

impl std::fmt::Display for PortName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        if self.port.is_empty() {
            Ok(())
        } else {
            write!(f, ":{}", self.port)
        }
    }
}

/// Where connections go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The address.
    pub ip: String,
    /// The port.
    pub port: u16,
    /// Whether it runs on this node.
    pub local: bool,
}

impl Endpoint {
    /// `1.2.3.4:80`, `[fd00::1]:80`.
    pub fn address(&self) -> String {
        if self.ip.contains(':') {
            format!("[{}]:{}", self.ip, self.port)
        } else {
            format!("{}:{}", self.ip, self.port)
        }
    }
}

/// One service port with what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The cluster IP of the family.
    pub cluster_ip: String,
    /// The port.
    pub port: u16,
    /// 0 for none.
    pub node_port: u16,
    /// External addresses of the family.
    pub external_ips: Vec<String>,
    /// Load balancer addresses of the family.
    pub load_balancer_ips: Vec<String>,
    /// Who may use those; empty for everybody.
    pub source_ranges: Vec<String>,
    /// Affinity by client address, in seconds.
    pub affinity: Option<u32>,
    /// Traffic from outside stays on the node.
    pub external_local: bool,
    /// Traffic from inside stays on the node.
    pub internal_local: bool,
    /// For cluster-wide traffic, sorted.
    pub endpoints: Vec<Endpoint>,
    /// For Local traffic, sorted.
    pub local_endpoints: Vec<Endpoint>,
}

impl Entry {
    /// Whether anything but the cluster IP leads here.
    pub fn is_external(&self) -> bool {
        self.node_port != 0 || !self.external_ips.is_empty() || !self.load_balancer_ips.is_empty()
    }

    /// The endpoints of traffic from inside.
    pub fn internal(&self) -> &[Endpoint] {
        if self.internal_local {
            &self.local_endpoints
        } else {
            &self.endpoints
        }
    }

    /// The endpoints of traffic from outside.
    pub fn external(&self) -> &[Endpoint] {
        if self.external_local {
            &self.local_endpoints
        } else {
            &self.endpoints
        }
    }
}

/// All service ports of a family, in order.
pub type Entries = BTreeMap<PortName, Arc<Entry>>;

/// What changed since the last time: the new entry, or `None` where it went.
pub type Changes = BTreeMap<PortName, Option<Arc<Entry>>>;

type ServiceKey = (String, String);

/// Services and slices as watched, entries as derived.
pub struct Model {
    node: String,
    family: Family,
    services: HashMap<ServiceKey, Arc<ServiceView>>,
    slices: HashMap<ServiceKey, BTreeMap<String, Arc<SliceView>>>,
    entries: Entries,
    dirty: BTreeSet<ServiceKey>,
}

const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS: &str = "service.kubernetes.io/headless";

impl Model {
    /// For one family, on a node.
    pub fn new(node: &str, family: Family) -> Model {
        Model {
            node: node.to_owned(),
            family,
            services: HashMap::new(),
            slices: HashMap::new(),
            entries: Entries::new(),
            dirty: BTreeSet::new(),
        }
    }

    /// All entries as of the last [`Model::take_changes`].
    pub fn entries(&self) -> &Entries {
        &self.entries
    }

    /// Whether something waits in [`Model::take_changes`].
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// A Service came or changed.
    pub fn service(&mut self, view: Arc<ServiceView>) {
        let key = (view.metadata.namespace.clone(), view.metadata.name.clone());
        self.dirty.insert(key.clone());
        self.services.insert(key, view);
    }

    /// A Service is gone.
    pub fn service_gone(&mut self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        self.services.remove(&key);
        self.dirty.insert(key);
    }

    /// An EndpointSlice came, changed or (`gone`) went. Slices that belong to no service or another family are ignored.
    pub fn slice(&mut self, view: Arc<SliceView>, gone: bool) {
        let family = match view.address_type.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            _ => return,
        };
        let Some(service) = view.metadata.labels.get("kubernetes.io/service-name") else {
            return;
        };
        if family != self.family {
            return;
        }
        let key = (view.metadata.namespace.clone(), service.clone());
        self.dirty.insert(key.clone());
        if gone {
            if let Some(slices) = self.slices.get_mut(&key) {
                slices.remove(&view.metadata.name);
                if slices.is_empty() {
                    self.slices.remove(&key);
                }
            }
        } else {
            self.slices
                .entry(key)
                .or_default()
                .insert(view.metadata.name.clone(), view);
        }
    }

    /// Derives the entries of the services that changed and tells which differ.
    pub fn take_changes(&mut self) -> Changes {
        let mut changes = Changes::new();
        for key in std::mem::take(&mut self.dirty) {
            let mut now = self.derive(&key);
            let lowest = PortName {
                namespace: key.0.clone(),
                name: key.1.clone(),
                port: String::new(),
                protocol: Protocol::Tcp,
            };
            let before: Vec<PortName> = self
                .entries
                .range(lowest..)
                .map(|(k, _)| k)
                .take_while(|k| k.namespace == key.0 && k.name == key.1)
                .cloned()
                .collect();
            for name in before {
                match now.remove(&name) {
                    None => {
                        self.entries.remove(&name);
                        changes.insert(name, None);
                    }
                    Some(entry) if self.entries.get(&name).is_some_and(|old| **old == entry) => {}
                    Some(entry) => {
                        let entry = Arc::new(entry);
                        self.entries.insert(name.clone(), entry.clone());
                        changes.insert(name, Some(entry));
                    }
                }
            }
            for (name, entry) in now {
                let entry = Arc::new(entry);
                self.entries.insert(name.clone(), entry.clone());
                changes.insert(name, Some(entry));
            }
        }
        changes
    }

    fn derive(&self, key: &ServiceKey) -> BTreeMap<PortName, Entry> {
        let mut out = BTreeMap::new();
        let Some(service) = self.services.get(key) else {
            return out;
        };
        let spec = &service.spec;
        let labels = &service.metadata.labels;
        if spec.type_ == "ExternalName"
            || labels.contains_key(PROXY_NAME)
            || labels.contains_key(HEADLESS)
        {
            return out;
        }
        let of_family = |ip: &&String| Family::of(ip) == Some(self.family);
        let ips = if spec.cluster_ips.is_empty() {
            std::slice::from_ref(&spec.cluster_ip)
        } else {
            &spec.cluster_ips
        };
        let Some(cluster_ip) = ips.iter().find(of_family) else {
            return out;
        };
        let affinity = (spec.session_affinity == "ClientIP").then(|| {
            spec.session_affinity_config
                .as_ref()
                .and_then(|c| c.client_ip.as_ref())
                .and_then(|c| c.timeout_seconds)
                .unwrap_or(10_800)
        });
        let load_balancer_ips: Vec<String> = service
            .status
            .load_balancer
            .ingress
            .iter()
            .filter(|i| i.ip_mode.as_deref() != Some("Proxy"))
            .map(|i| &i.ip)
            .filter(of_family)
            .cloned()
            .collect();
        let source_ranges = spec
            .load_balancer_source_ranges
            .iter()
            .map(|r| r.trim())
            .filter(|r| r.split('/').next().and_then(Family::of) == Some(self.family))
            .map(str::to_owned)
            .collect::<Vec<_>>();
        for port in &spec.ports {
            let Some(protocol) = Protocol::parse(&port.protocol) else {
                continue;
            };
            let name = PortName {
                namespace: key.0.clone(),
                name: key.1.clone(),
                port: port.name.clone(),
                protocol,
            };
            let (endpoints, local_endpoints) = self.endpoints(key, &port.name, protocol);
            let entry = Entry {
                cluster_ip: cluster_ip.clone(),
                port: port.port,
                node_port: port.node_port,
                external_ips: spec
                    .external_ips
                    .iter()
                    .filter(of_family)
                    .cloned()
                    .collect(),
                load_balancer_ips: load_balancer_ips.clone(),
                source_ranges: source_ranges.clone(),
                affinity,
                external_local: spec.external_traffic_policy == "Local",
                internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
                endpoints,
                local_endpoints,
            };
            out.insert(name, entry);
        }
        out
    }

    /// Ready endpoints; where there is none, those that still serve while terminating (KEP-1669). First for the cluster,
    /// then for this node alone.
    fn endpoints(
        &self,
        key: &ServiceKey,
        port: &str,
        protocol: Protocol,
    ) -> (Vec<Endpoint>, Vec<Endpoint>) {
        let mut ready = BTreeSet::new();
        let mut serving = BTreeSet::new();
        for slice in self.slices.get(key).into_iter().flat_map(BTreeMap::values) {
            for p in &slice.ports {
                if p.name.as_deref().unwrap_or("") != port
                    || Protocol::parse(p.protocol.as_deref().unwrap_or("")) != Some(protocol)
                {
                    continue;
                }
                let Some(target) = p.port else { continue };
                for e in &slice.endpoints {
                    let Some(ip) = e
                        .addresses
                        .first()
                        .filter(|ip| Family::of(ip) == Some(self.family))
                    else {
                        continue;
                    };
                    let endpoint = Endpoint {
                        ip: ip.clone(),
                        port: target,
                        local: e.node_name.as_deref() == Some(self.node.as_str()),
                    };
                    if e.conditions.ready.unwrap_or(true) {
                        ready.insert(endpoint);
                    } else if e.conditions.serving.unwrap_or(true)
                        && e.conditions.terminating.unwrap_or(false)
                    {
                        serving.insert(endpoint);
                    }
                }
            }
        }
        let local =
            |set: &BTreeSet<Endpoint>| set.iter().filter(|e| e.local).cloned().collect::<Vec<_>>();
        let mut here = local(&ready);
        if here.is_empty() {
            here = local(&serving);
        }
        let all = if ready.is_empty() { serving } else { ready };
        (all.into_iter().collect(), here)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::view::{Conditions, Meta, ServicePort, ServiceSpec, SliceEndpoint, SlicePort};

    pub(crate) fn service(name: &str, ip: &str) -> ServiceView {
        ServiceView {
            metadata: Meta {
                name: name.into(),
                namespace: "ns".into(),
                ..Meta::default()
            },
            spec: ServiceSpec {
                type_: "ClusterIP".into(),
                cluster_ip: ip.into(),
                cluster_ips: vec![ip.into()],
                ports: vec![ServicePort {
                    name: "http".into(),
                    protocol: "TCP".into(),
                    port: 80,
                    node_port: 0,
                }],
                ..ServiceSpec::default()
            },
            ..ServiceView::default()
        }
    }

    pub(crate) fn slice(
        service: &str,
        name: &str,
        endpoints: &[(&str, &str, Conditions)],
    ) -> SliceView {
        SliceView {
            metadata: Meta {
                name: name.into(),
                namespace: "ns".into(),
                labels: [("kubernetes.io/service-name".to_owned(), service.to_owned())].into(),
                ..Meta::default()
            },
            address_type: "IPv4".into(),
            endpoints: endpoints
                .iter()
                .map(|(ip, node, conditions)| SliceEndpoint {
                    addresses: vec![(*ip).to_owned()],
                    node_name: Some((*node).to_owned()),
                    conditions: conditions.clone(),
                })
                .collect(),
            ports: vec![SlicePort {
                name: Some("http".into()),
                protocol: Some("TCP".into()),
                port: Some(8080),
            }],
        }
    }

    pub(crate) fn ready() -> Conditions {
        Conditions {
            ready: Some(true),
            ..Conditions::default()
        }
    }

    fn terminating() -> Conditions {
        Conditions {
            ready: Some(false),
            serving: Some(true),
            terminating: Some(true),
        }
    }

    fn ips(list: &[Endpoint]) -> Vec<&str> {
        list.iter().map(|e| e.ip.as_str()).collect()
    }

    #[test]
    fn only_what_changed_is_told() {
        let mut m = Model::new("n1", Family::V4);
        m.service(Arc::new(service("a", "10.0.0.1")));
        m.service(Arc::new(service("b", "10.0.0.2")));
        assert_eq!(m.take_changes().len(), 2);
        m.service(Arc::new(service("a", "10.0.0.1")));
        assert!(m.take_changes().is_empty());
        m.slice(
            Arc::new(slice("b", "b-1", &[("10.1.0.1", "n1", ready())])),
            false,
        );
        let changes = m.take_changes();
        assert_eq!(
            changes.keys().map(ToString::to_string).collect::<Vec<_>>(),
            ["ns/b:http"]
        );
        m.service_gone("ns", "b");
        assert!(m.take_changes().values().all(Option::is_none));
        assert_eq!(m.entries().len(), 1);
    }

    #[test]
    fn terminating_endpoints_serve_when_nothing_is_ready() {
        let mut m = Model::new("n1", Family::V4);
        m.service(Arc::new(service("a", "10.0.0.1")));
        let mixed = [
            ("10.1.0.1", "n1", terminating()),
            ("10.1.0.2", "n2", ready()),
        ];
        m.slice(Arc::new(slice("a", "a-1", &mixed)), false);
        m.take_changes();
        let e = m.entries().values().next().unwrap();
        assert_eq!(
            (ips(&e.endpoints), ips(&e.local_endpoints)),
            (vec!["10.1.0.2"], vec!["10.1.0.1"])
        );
        m.slice(Arc::new(slice("a", "a-1", &mixed[..1])), false);
        m.take_changes();
        assert_eq!(
            ips(&m.entries().values().next().unwrap().endpoints),
            ["10.1.0.1"]
        );
    }

    #[test]
    fn headless_external_and_foreign_services_have_no_rules() {
        let mut m = Model::new("n1", Family::V4);
        m.service(Arc::new(service("headless", "None")));
        let mut external = service("external", "");
        external.spec.type_ = "ExternalName".into();
        m.service(Arc::new(external));
        let mut other = service("other", "10.0.0.3");
        other
            .metadata
            .labels
            .insert(PROXY_NAME.into(), "mesh".into());
        m.service(Arc::new(other));
        assert!(m.take_changes().is_empty());
    }

    #[test]
    fn an_endpoint_in_two_slices_counts_once() {
        let mut m = Model::new("n1", Family::V4);
        m.service(Arc::new(service("a", "10.0.0.1")));
        for name in ["a-1", "a-2"] {
            m.slice(
                Arc::new(slice("a", name, &[("10.1.0.1", "n1", ready())])),
                false,
            );
        }
        m.take_changes();
        assert_eq!(m.entries().values().next().unwrap().endpoints.len(), 1);
    }
}
