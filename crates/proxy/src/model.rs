//! The service model: Services joined with EndpointSlices, one entry per service port (pure).
//!
//! Invariants: after [`Model::take_changes`], replaying the changes on the entries taken before gives the entries of now; no
//! two entries lead the same address and port, or the same node port, anywhere (see [`crate::claims`]); entries hold
//! canonical addresses and ranges only. Work is in proportion to the services that changed.
//!
//! Absent: topology hints and `trafficDistribution`; every usable endpoint is used.

use std::collections::{BTreeMap, BTreeSet, HashMap, btree_map};
use std::net::IpAddr;
use std::sync::Arc;

use crate::address::{self, Range};
use crate::claims::{Claim, Claims, Kind, Rank};
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
    /// The family of an address.
    pub fn of(ip: IpAddr) -> Family {
        match ip {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
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

    /// As the API spells it.
    pub fn upper(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
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

/// One service port with what it needs. No address stands in two of its lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The cluster IP of the family; `None` if another service has it.
    pub cluster_ip: Option<String>,
    /// The port, at least 1.
    pub port: u16,
    /// 0 for none.
    pub node_port: u16,
    /// External addresses of the family.
    pub external_ips: Vec<String>,
    /// Load balancer addresses of the family.
    pub load_balancer_ips: Vec<String>,
    /// Who may use those, none within another; `None` for everybody.
    pub source_ranges: Option<Vec<String>>,
    /// Affinity by client address, in seconds (1 to 86400).
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

    /// All addresses that lead here.
    pub fn addresses(&self) -> impl Iterator<Item = &String> {
        self.cluster_ip
            .iter()
            .chain(&self.load_balancer_ips)
            .chain(&self.external_ips)
    }

    fn claims(&self, protocol: Protocol) -> Vec<(Kind, Claim)> {
        let address = |ip: &String| Claim::Address(ip.clone(), protocol, self.port);
        let mut out: Vec<(Kind, Claim)> = Vec::new();
        out.extend(
            self.cluster_ip
                .iter()
                .map(|ip| (Kind::ClusterIp, address(ip))),
        );
        out.extend(
            self.load_balancer_ips
                .iter()
                .map(|ip| (Kind::LoadBalancer, address(ip))),
        );
        out.extend(
            self.external_ips
                .iter()
                .map(|ip| (Kind::ExternalIp, address(ip))),
        );
        if self.node_port != 0 {
            out.push((Kind::NodePort, Claim::NodePort(protocol, self.node_port)));
        }
        out
    }

    /// Without some of its claims; `None` if nothing leads here then.
    fn without(&self, protocol: Protocol, lost: &BTreeSet<Claim>) -> Option<Entry> {
        let keeps = |ip: &String| !lost.contains(&Claim::Address(ip.clone(), protocol, self.port));
        let mut out = self.clone();
        out.cluster_ip = out.cluster_ip.filter(|ip| keeps(ip));
        out.load_balancer_ips.retain(keeps);
        out.external_ips.retain(keeps);
        if lost.contains(&Claim::NodePort(protocol, self.node_port)) {
            out.node_port = 0;
        }
        (out.cluster_ip.is_some() || out.is_external()).then_some(out)
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

/// A service port that another one keeps from something it wants.
#[derive(Clone, Debug)]
pub struct Conflict {
    /// The service.
    pub service: Arc<ServiceView>,
    /// Its port.
    pub port: PortName,
    /// What it wants.
    pub claim: Claim,
    /// As what.
    pub kind: Kind,
    /// Who has it.
    pub owner: PortName,
}

type ServiceKey = (String, String);

/// What a service port would have if it were alone.
struct Wanted {
    entry: Arc<Entry>,
    created: i128,
    index: usize,
    /// What others have.
    lost: BTreeSet<Claim>,
}

impl Wanted {
    fn claims(&self, name: &PortName) -> impl Iterator<Item = (Claim, Rank)> {
        let rank = |kind| Rank {
            given: kind != Kind::ClusterIp,
            created: self.created,
            namespace: name.namespace.clone(),
            name: name.name.clone(),
            index: self.index,
        };
        let claims = self.entry.claims(name.protocol).into_iter();
        claims.map(move |(kind, claim)| (claim, rank(kind)))
    }
}

/// Services and slices as watched, entries as derived.
pub struct Model {
    node: String,
    family: Family,
    services: HashMap<ServiceKey, Arc<ServiceView>>,
    slices: HashMap<ServiceKey, BTreeMap<String, Arc<SliceView>>>,
    wanted: BTreeMap<PortName, Wanted>,
    claims: Claims,
    conflicts: Vec<Conflict>,
    lost: usize,
    entries: Entries,
    dirty: BTreeSet<ServiceKey>,
}

const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS: &str = "service.kubernetes.io/headless";
const MAX_AFFINITY: i64 = 86_400;

/// The most endpoints of one service port: rules tell them apart by 16 bits.
const MAX_ENDPOINTS: usize = 65_536;

/// The most elements of rules that one service may come to. Its ports, addresses and endpoints multiply, so that an object of
/// a megabyte could say billions. Upstream has no such limit.
const MAX_ELEMENTS: usize = 500_000;

impl Model {
    /// For one family, on a node.
    pub fn new(node: &str, family: Family) -> Model {
        Model {
            node: node.to_owned(),
            family,
            services: HashMap::new(),
            slices: HashMap::new(),
            wanted: BTreeMap::new(),
            claims: Claims::default(),
            conflicts: Vec::new(),
            lost: 0,
            entries: Entries::new(),
            dirty: BTreeSet::new(),
        }
    }

    /// The family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// All entries as of the last [`Model::take_changes`].
    pub fn entries(&self) -> &Entries {
        &self.entries
    }

    /// The service that a port is of.
    pub fn service_of(&self, name: &PortName) -> Option<&Arc<ServiceView>> {
        self.services
            .get(&(name.namespace.clone(), name.name.clone()))
    }

    /// Whether something waits in [`Model::take_changes`].
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// The conflicts that arose since they were last taken.
    pub fn take_conflicts(&mut self) -> Vec<Conflict> {
        std::mem::take(&mut self.conflicts)
    }

    /// How many claims are not met because another service has what they ask for.
    pub fn unmet(&self) -> usize {
        self.lost
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
        let mut touched: BTreeSet<PortName> = BTreeSet::new();
        // The claims of these services, with their owners of before.
        let mut owners: BTreeMap<Claim, Option<PortName>> = BTreeMap::new();
        for key in std::mem::take(&mut self.dirty) {
            let lowest = PortName {
                namespace: key.0.clone(),
                name: key.1.clone(),
                port: String::new(),
                protocol: Protocol::Tcp,
            };
            let before: Vec<PortName> = self
                .wanted
                .range(lowest..)
                .map(|(k, _)| k)
                .take_while(|k| k.namespace == key.0 && k.name == key.1)
                .cloned()
                .collect();
            let mut lost = BTreeMap::new();
            for name in before {
                if let Some(wanted) = self.wanted.remove(&name) {
                    for (claim, rank) in wanted.claims(&name) {
                        let owner = || self.claims.owner(&claim).cloned();
                        owners.entry(claim.clone()).or_insert_with(owner);
                        self.claims.remove(&claim, rank, name.clone());
                    }
                    lost.insert(name.clone(), wanted.lost);
                }
                touched.insert(name);
            }
            for (name, mut wanted) in self.derive(&key) {
                for (claim, rank) in wanted.claims(&name) {
                    let owner = || self.claims.owner(&claim).cloned();
                    owners.entry(claim.clone()).or_insert_with(owner);
                    self.claims.add(claim, rank, name.clone());
                }
                wanted.lost = lost.remove(&name).unwrap_or_default();
                self.wanted.insert(name.clone(), wanted);
                touched.insert(name);
            }
            self.lost -= lost.values().map(BTreeSet::len).sum::<usize>();
        }
        for (claim, before) in owners {
            let now = self.claims.owner(&claim);
            if now != before.as_ref() {
                touched.extend(now.cloned());
                touched.extend(before);
            }
        }
        let mut changes = Changes::new();
        for name in touched {
            let now = self.settle(&name);
            if self.entries.get(&name) == now.as_ref() {
                continue;
            }
            match &now {
                Some(entry) => self.entries.insert(name.clone(), entry.clone()),
                None => self.entries.remove(&name),
            };
            changes.insert(name, now);
        }
        changes
    }

    /// What is left of a service port's wishes beside the others'.
    fn settle(&mut self, name: &PortName) -> Option<Arc<Entry>> {
        let wanted = self.wanted.get_mut(name)?;
        let mut lost = BTreeSet::new();
        for (kind, claim) in wanted.entry.claims(name.protocol) {
            let Some(owner) = self.claims.owner(&claim).filter(|o| *o != name) else {
                continue;
            };
            let key = (name.namespace.clone(), name.name.clone());
            if !wanted.lost.contains(&claim)
                && let Some(service) = self.services.get(&key)
            {
                self.conflicts.push(Conflict {
                    service: service.clone(),
                    port: name.clone(),
                    claim: claim.clone(),
                    kind,
                    owner: owner.clone(),
                });
            }
            lost.insert(claim);
        }
        self.lost = self.lost + lost.len() - wanted.lost.len();
        wanted.lost = lost;
        if wanted.lost.is_empty() {
            return Some(wanted.entry.clone());
        }
        let entry = wanted.entry.without(name.protocol, &wanted.lost);
        entry.map(Arc::new)
    }

    /// The addresses of this family that may lead to a service, each once.
    fn addresses<'a>(
        &self,
        list: impl Iterator<Item = &'a String>,
        taken: &mut BTreeSet<IpAddr>,
    ) -> Vec<String> {
        list.filter_map(|ip| address::parse(ip))
            .filter(|ip| Family::of(*ip) == self.family && address::is_public(*ip))
            .filter(|ip| taken.insert(*ip))
            .map(|ip| ip.to_string())
            .collect()
    }

    /// Ranges of the other family do not restrict this one; of a list without a usable range nobody is let in.
    fn source_ranges(&self, list: &[String]) -> Option<Vec<String>> {
        let given = list.iter().filter(|r| !r.trim().is_empty()).count();
        let ranges: Vec<Range> = list.iter().filter_map(|r| Range::parse(r)).collect();
        let of_family: Vec<Range> = ranges
            .iter()
            .filter(|r| Family::of(r.first) == self.family)
            .copied()
            .collect();
        if given == 0 || (of_family.is_empty() && !ranges.is_empty()) {
            return None;
        }
        let disjoint = address::disjoint(of_family);
        if disjoint.iter().any(|r| r.bits == 0) {
            return None;
        }
        Some(disjoint.iter().map(ToString::to_string).collect())
    }

    fn derive(&self, key: &ServiceKey) -> BTreeMap<PortName, Wanted> {
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
        let ips = if spec.cluster_ips.is_empty() {
            std::slice::from_ref(&spec.cluster_ip)
        } else {
            &spec.cluster_ips
        };
        let mut taken = BTreeSet::new();
        let Some(cluster_ip) = self.addresses(ips.iter(), &mut taken).into_iter().next() else {
            return out;
        };
        let affinity = (spec.session_affinity == "ClientIP").then(|| {
            let seconds = spec
                .session_affinity_config
                .as_ref()
                .and_then(|c| c.client_ip.as_ref())
                .and_then(|c| c.timeout_seconds)
                .unwrap_or(10_800)
                .clamp(1, MAX_AFFINITY);
            u32::try_from(seconds).unwrap_or(10_800)
        });
        let ingress = service.status.load_balancer.ingress.iter();
        let load_balancer_ips = self.addresses(
            ingress
                .filter(|i| i.ip_mode.as_deref() != Some("Proxy"))
                .map(|i| &i.ip),
            &mut taken,
        );
        let external_ips = self.addresses(spec.external_ips.iter(), &mut taken);
        let source_ranges = self.source_ranges(&spec.load_balancer_source_ranges);
        let created = service
            .metadata
            .creation_timestamp
            .map_or(0, client::Time::as_nanosecond);
        let mut room = MAX_ELEMENTS;
        let mut left_out = 0;
        for (index, port) in spec.ports.iter().enumerate() {
            let (Some(protocol), true) = (Protocol::parse(&port.protocol), port.port != 0) else {
                continue;
            };
            let name = PortName {
                namespace: key.0.clone(),
                name: key.1.clone(),
                port: port.name.clone(),
                protocol,
            };
            if out.contains_key(&name) {
                // Of two ports of one name the first counts, as everywhere.
                continue;
            }
            let (endpoints, local_endpoints) = self.endpoints(key, &port.name, protocol);
            let each = (endpoints.len() + local_endpoints.len()).max(1);
            let outer = external_ips.len() + load_balancer_ips.len();
            let whole = each
                .saturating_mul(outer + 1)
                .saturating_add(source_ranges.as_ref().map_or(0, Vec::len));
            // The cluster IP comes first, and what is left out is closed, not open.
            let with_outer = whole <= room;
            let Some(left) = room.checked_sub(if with_outer { whole } else { each }) else {
                left_out += 1;
                continue;
            };
            room = left;
            left_out += usize::from(!with_outer);
            let outer = |list: &Vec<String>| {
                if with_outer { list.clone() } else { Vec::new() }
            };
            let entry = Arc::new(Entry {
                cluster_ip: Some(cluster_ip.clone()),
                port: port.port,
                node_port: port.node_port,
                external_ips: outer(&external_ips),
                load_balancer_ips: outer(&load_balancer_ips),
                source_ranges: source_ranges.as_ref().map(outer),
                affinity,
                external_local: spec.external_traffic_policy == "Local",
                internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
                endpoints,
                local_endpoints,
            });
            let wanted = Wanted {
                entry,
                created,
                index,
                lost: BTreeSet::new(),
            };
            out.insert(name, wanted);
        }
        if left_out > 0 {
            tracing::warn!(
                namespace = key.0,
                service = key.1,
                ports = left_out,
                "A service has more addresses and endpoints than one may have; some ports have fewer, or no rules"
            );
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
        // By address and port, whether it runs here.
        let mut ready: BTreeMap<(String, u16), bool> = BTreeMap::new();
        let mut serving: BTreeMap<(String, u16), bool> = BTreeMap::new();
        for slice in self.slices.get(key).into_iter().flat_map(BTreeMap::values) {
            for p in &slice.ports {
                if p.name.as_deref().unwrap_or("") != port
                    || Protocol::parse(p.protocol.as_deref().unwrap_or("")) != Some(protocol)
                {
                    continue;
                }
                let Some(target) = p.port.filter(|p| *p != 0) else {
                    continue;
                };
                for e in &slice.endpoints {
                    let first = e.addresses.first().and_then(|ip| address::parse(ip));
                    let Some(ip) = first
                        .filter(|ip| Family::of(*ip) == self.family && address::is_endpoint(*ip))
                    else {
                        continue;
                    };
                    let set = if e.conditions.ready.unwrap_or(true) {
                        &mut ready
                    } else if e.conditions.serving.unwrap_or(true)
                        && e.conditions.terminating.unwrap_or(false)
                    {
                        &mut serving
                    } else {
                        continue;
                    };
                    let full = set.len() >= MAX_ENDPOINTS;
                    let local = e.node_name.as_deref() == Some(self.node.as_str());
                    match set.entry((ip.to_string(), target)) {
                        btree_map::Entry::Occupied(mut known) => *known.get_mut() |= local,
                        btree_map::Entry::Vacant(free) if !full => {
                            free.insert(local);
                        }
                        btree_map::Entry::Vacant(_) => {}
                    }
                }
            }
        }
        let list = |set: BTreeMap<(String, u16), bool>| -> Vec<Endpoint> {
            set.into_iter()
                .map(|((ip, port), local)| Endpoint { ip, port, local })
                .collect()
        };
        let (ready, serving) = (list(ready), list(serving));
        let local = |all: &[Endpoint]| all.iter().filter(|e| e.local).cloned().collect::<Vec<_>>();
        let mut here = local(&ready);
        if here.is_empty() {
            here = local(&serving);
        }
        (if ready.is_empty() { serving } else { ready }, here)
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

    fn at(mut s: ServiceView, seconds: i64) -> Arc<ServiceView> {
        s.metadata.creation_timestamp = client::Time::from_second(seconds).ok();
        Arc::new(s)
    }

    fn external(name: &str, ip: &str, external: &str) -> ServiceView {
        let mut s = service(name, ip);
        s.spec.external_ips = vec![external.into()];
        s
    }

    fn entry<'a>(m: &'a Model, name: &str) -> Option<&'a Entry> {
        m.entries()
            .iter()
            .find(|(k, _)| k.name == name)
            .map(|(_, e)| &**e)
    }

    fn told(m: &mut Model) -> Vec<String> {
        m.take_conflicts()
            .iter()
            .map(|c| format!("{} wants {}, {} has it", c.port, c.claim, c.owner))
            .collect()
    }

    #[test]
    fn an_address_has_one_owner_the_service_made_first() {
        let mut m = Model::new("n1", Family::V4);
        m.service(at(external("young", "10.0.0.1", "192.0.2.1"), 20));
        m.service(at(external("old", "10.0.0.2", "192.0.2.1"), 10));
        m.service(at(external("a-peer", "10.0.0.3", "192.0.2.1"), 20));
        m.take_changes();
        assert_eq!(entry(&m, "old").unwrap().external_ips, ["192.0.2.1"]);
        assert!(entry(&m, "young").unwrap().external_ips.is_empty());
        assert_eq!(
            told(&mut m),
            [
                "ns/a-peer:http wants address 192.0.2.1:80/TCP, ns/old:http has it",
                "ns/young:http wants address 192.0.2.1:80/TCP, ns/old:http has it",
            ]
        );
        assert_eq!(m.unmet(), 2);
        // Told once, however often it is looked at.
        m.service(at(external("young", "10.0.0.1", "192.0.2.1"), 20));
        assert!(m.take_changes().is_empty() && told(&mut m).is_empty());
        // Of two of one age the first by name follows; only its entry changes.
        m.service_gone("ns", "old");
        let changes = m.take_changes();
        let names: Vec<&str> = changes.keys().map(|k| k.name.as_str()).collect();
        assert_eq!(names, ["a-peer", "old"]);
        assert_eq!(entry(&m, "a-peer").unwrap().external_ips, ["192.0.2.1"]);
        m.service_gone("ns", "a-peer");
        m.take_changes();
        assert_eq!(entry(&m, "young").unwrap().external_ips, ["192.0.2.1"]);
        assert_eq!(m.unmet(), 0);
    }

    #[test]
    fn cve_2020_8554_an_external_ip_never_takes_a_cluster_ip() {
        let mut m = Model::new("n1", Family::V4);
        m.service(at(external("thief", "10.0.0.66", "10.0.0.1"), 1));
        m.take_changes();
        assert_eq!(entry(&m, "thief").unwrap().external_ips, ["10.0.0.1"]);
        m.service(at(service("victim", "10.0.0.1"), 2));
        m.take_changes();
        assert_eq!(
            entry(&m, "victim").unwrap().cluster_ip.as_deref(),
            Some("10.0.0.1")
        );
        assert!(entry(&m, "thief").unwrap().external_ips.is_empty());
        assert_eq!(
            told(&mut m),
            ["ns/thief:http wants address 10.0.0.1:80/TCP, ns/victim:http has it"]
        );
        // Another port of the address is nobody's yet.
        let mut s = external("thief", "10.0.0.66", "10.0.0.1");
        s.spec.ports[0].port = 81;
        m.service(at(s, 1));
        m.take_changes();
        assert_eq!(entry(&m, "thief").unwrap().external_ips, ["10.0.0.1"]);
    }

    #[test]
    fn node_ports_and_whole_services_can_be_lost() {
        let mut m = Model::new("n1", Family::V4);
        for (name, ip) in [("a", "10.0.0.1"), ("b", "10.0.0.2")] {
            let mut s = service(name, ip);
            s.spec.ports[0].node_port = 30_080;
            m.service(Arc::new(s));
        }
        m.service(Arc::new(service("c", "10.0.0.1")));
        m.take_changes();
        assert_eq!(entry(&m, "a").unwrap().node_port, 30_080);
        assert_eq!(entry(&m, "b").unwrap().node_port, 0);
        assert_eq!(entry(&m, "c"), None);
        assert_eq!(told(&mut m).len(), 2);
    }

    #[test]
    fn an_address_that_a_service_names_twice_counts_once() {
        let mut m = Model::new("n1", Family::V4);
        let mut s = external("a", "10.0.0.1", "010.0.0.1");
        s.spec.external_ips.extend([
            "192.0.2.1".into(),
            "192.0.2.2".into(),
            "192.0.2.2".into(),
            "127.0.0.1".into(),
        ]);
        s.status.load_balancer.ingress = vec![crate::view::Ingress {
            ip: "192.0.2.1".into(),
            ip_mode: None,
        }];
        m.service(Arc::new(s));
        m.take_changes();
        let e = entry(&m, "a").unwrap();
        assert_eq!(e.load_balancer_ips, ["192.0.2.1"]);
        assert_eq!(e.external_ips, ["192.0.2.2"]);
        assert!(told(&mut m).is_empty());
    }

    #[test]
    fn source_ranges_that_mean_nothing_let_nobody_in() {
        let m = Model::new("n1", Family::V4);
        let ranges = |list: &[&str]| {
            let list: Vec<String> = list.iter().map(|r| (*r).to_owned()).collect();
            m.source_ranges(&list)
        };
        assert_eq!(ranges(&[]), None);
        assert_eq!(ranges(&["10.0.0.0/8", "0.0.0.0/0"]), None);
        assert_eq!(ranges(&["fd00::/8"]), None, "of the other family");
        assert_eq!(ranges(&["10.0.0.0/99"]), Some(vec![]));
        assert_eq!(
            ranges(&["10.1.0.0/16", "10.0.0.1/8"]),
            Some(vec!["10.0.0.0/8".to_owned()])
        );
    }

    /// One object: a service's ports, addresses and endpoints multiply, and none comes to more than its share.
    #[test]
    fn one_service_comes_to_a_bounded_number_of_elements() {
        let mut m = Model::new("n1", Family::V4);
        let mut s = service("a", "10.0.0.1");
        let port = s.spec.ports[0].clone();
        s.spec.ports = (1..=1_000)
            .map(|n| ServicePort {
                name: format!("p{n}"),
                port: n,
                ..port.clone()
            })
            .collect();
        s.spec.external_ips = (0..2_000u32)
            .map(|n| std::net::Ipv4Addr::from(0xc600_0000 + n).to_string())
            .collect();
        m.service(Arc::new(s));
        m.service(Arc::new(external("b", "10.0.0.2", "192.0.2.1")));
        m.take_changes();
        let of = |m: &Model, name: &str| -> Vec<(usize, usize)> {
            let all = m.entries().iter().filter(|(k, _)| k.name == name);
            all.map(|(_, e)| (e.external_ips.len(), e.endpoints.len()))
                .collect()
        };
        let all = of(&m, "a");
        assert_eq!(all.len(), 1_000, "each has its cluster IP");
        let addresses: usize = all.iter().map(|(ips, _)| ips).sum();
        assert!((100_000..=MAX_ELEMENTS).contains(&addresses), "{addresses}");
        assert_eq!(of(&m, "b"), [(1, 0)], "the others have what they ask for");

        let mut m = Model::new("n1", Family::V4);
        m.service(Arc::new(service("a", "10.0.0.1")));
        let ips: Vec<String> = (0..70_000u32)
            .map(|n| std::net::Ipv4Addr::from(0x0b00_0000 + n).to_string())
            .collect();
        for (i, part) in ips.chunks(10_000).enumerate() {
            let endpoints: Vec<_> = part.iter().map(|ip| (ip.as_str(), "n2", ready())).collect();
            m.slice(Arc::new(slice("a", &format!("a-{i}"), &endpoints)), false);
        }
        m.take_changes();
        assert_eq!(of(&m, "a"), [(0, MAX_ENDPOINTS)]);
    }

    #[test]
    fn cve_2021_25737_endpoints_that_are_the_nodes_own_are_left_out() {
        let mut m = Model::new("n1", Family::V4);
        m.service(Arc::new(service("a", "10.0.0.1")));
        let odd = [
            ("127.0.0.1", "n1", ready()),
            ("169.254.169.254", "n1", ready()),
            ("0.0.0.0", "n1", ready()),
            ("10.1.0.1", "n1", ready()),
        ];
        m.slice(Arc::new(slice("a", "a-1", &odd)), false);
        m.take_changes();
        assert_eq!(ips(&entry(&m, "a").unwrap().endpoints), ["10.1.0.1"]);
    }

    proptest::proptest! {
        /// In any order of events no key has two owners, replayed changes give the entries, and what the model holds is
        /// what a fresh one would hold.
        #[test]
        fn one_owner_per_key_in_any_order(
            events in proptest::collection::vec((0usize..5, 1u8..4, 1u8..4, 0u16..3, 0i64..2, proptest::bool::ANY), 1..40)
        ) {
            let mut m = Model::new("n1", Family::V4);
            let mut replayed = Entries::new();
            let mut now: BTreeMap<String, Arc<ServiceView>> = BTreeMap::new();
            for (i, (which, ip, other, node_port, created, gone)) in events.into_iter().enumerate() {
                let name = format!("s{which}");
                if gone {
                    m.service_gone("ns", &name);
                    now.remove(&name);
                } else {
                    let mut s = external(&name, &format!("10.0.0.{ip}"), &format!("10.0.0.{other}"));
                    s.spec.ports[0].node_port = 30_000 * u16::from(node_port != 0) + node_port;
                    let s = at(s, created);
                    m.service(s.clone());
                    now.insert(name, s);
                }
                if i % 3 != 0 {
                    continue;
                }
                for (name, entry) in m.take_changes() {
                    match entry {
                        Some(e) => replayed.insert(name, e),
                        None => replayed.remove(&name),
                    };
                }
                proptest::prop_assert_eq!(&replayed, m.entries());
                let mut fresh = Model::new("n1", Family::V4);
                now.values().for_each(|s| fresh.service(s.clone()));
                fresh.take_changes();
                proptest::prop_assert_eq!(fresh.entries(), m.entries());
                proptest::prop_assert_eq!(fresh.unmet(), m.unmet());
                let mut owned = BTreeSet::new();
                for (name, e) in m.entries() {
                    for (_, claim) in e.claims(name.protocol) {
                        proptest::prop_assert!(owned.insert(claim));
                    }
                }
            }
        }
    }
}
