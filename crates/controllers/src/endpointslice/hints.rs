//! For whom endpoints are meant: hints by `spec.trafficDistribution`, and by the annotation
//! `service.kubernetes.io/topology-mode: Auto`.
//!
//! Auto gives each zone a share of the endpoints after the share of CPUs that its nodes have, or no hints at all when that
//! would load an endpoint with more than 20% beyond its due.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::quantity::Quantity;
use client::{EventType, ObjectKey};

use super::decide::Draft;
use crate::views::{Endpoint, EndpointHints, Named, Node, Service, condition};

/// The label of a node's zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
const MODE: &str = "service.kubernetes.io/topology-mode";
const OLD_MODE: &str = "service.kubernetes.io/topology-aware-hints";
const OVERLOAD: f64 = 0.2;

const ENABLED: &str = "TopologyAwareHintsEnabled";
const DISABLED: &str = "TopologyAwareHintsDisabled";

/// An event about a Service.
pub type Event = (EventType, &'static str, String);
/// Endpoints by the zone that they are meant for.
pub type Shares = BTreeMap<String, usize>;
/// Parts of all CPUs by zone.
pub type Ratios = BTreeMap<String, f64>;

/// Whether the Service asks for hints by zones' CPUs.
pub fn is_auto(s: &Service) -> bool {
    let a = &s.metadata.annotations;
    let mode = a.get(OLD_MODE).or_else(|| a.get(MODE));
    mode.is_some_and(|m| m == "Auto" || m == "auto")
}

/// How `trafficDistribution` gives hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Near {
    /// For the endpoint's zone.
    Zone,
    /// For its zone and its node.
    Node,
}

impl Near {
    /// What the Service asks for. The annotation goes first.
    pub fn of(s: &Service) -> Option<Near> {
        match s.spec.traffic_distribution.as_str() {
            _ if is_auto(s) => None,
            "PreferClose" | "PreferSameZone" => Some(Near::Zone),
            "PreferSameNode" => Some(Near::Node),
            _ => None,
        }
    }

    fn hints(self, e: &Endpoint) -> Option<EndpointHints> {
        let named = |n: &String| Named { name: n.clone() };
        let node = e.node_name.iter().filter(|_| self == Near::Node);
        let hints = EndpointHints {
            for_zones: e.zone.iter().map(named).collect(),
            for_nodes: node.map(named).collect(),
        };
        (hints != EndpointHints::default()).then_some(hints)
    }

    /// Gives the endpoints that are ready their hints; those of the others are left as they are.
    pub fn apply(self, slices: &mut [Draft]) {
        for slice in slices {
            let none = EndpointHints::default();
            let is_right = |e: &Endpoint| {
                let want = self.hints(e);
                e.hints.as_ref().unwrap_or(&none) == want.as_ref().unwrap_or(&none)
            };
            if !slice.changed && slice.endpoints.iter().filter(|e| is_ready(e)).all(is_right) {
                continue;
            }
            slice.changed = true;
            for e in slice.endpoints.iter_mut().filter(|e| is_ready(e)) {
                e.hints = self.hints(e);
            }
        }
    }
}

fn is_ready(e: &Endpoint) -> bool {
    e.conditions.ready == Some(true)
}

/// Takes all hints away.
pub fn remove(slices: &mut [Draft]) {
    for slice in slices {
        for e in &mut slice.endpoints {
            slice.changed |= e.hints.take().is_some();
        }
    }
}

/// What a zone may have.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Allocation {
    minimum: usize,
    maximum: usize,
    desired: f64,
}

#[expect(clippy::cast_precision_loss, reason = "numbers of endpoints")]
fn float(n: usize) -> f64 {
    n as f64
}

/// The fewest endpoints that a part of `total` takes without too much load on each.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between nothing and a number of endpoints"
)]
fn fewest(total: usize, ratio: f64) -> usize {
    (float(total) * ratio * (1.0 / (1.0 + OVERLOAD)))
        .ceil()
        .max(0.0) as usize
}

fn allocations(
    total: usize,
    ratios: Option<&Ratios>,
) -> Result<BTreeMap<String, Allocation>, String> {
    let Some(ratios) = ratios else {
        return Err("Insufficient Node information: allocatable CPU or zone not specified on one or more nodes".into());
    };
    let zones = ratios.len();
    if zones < 2 {
        return Err("Nodes only ready in one zone".into());
    }
    let counts = format!("({total} endpoints, {zones} zones)");
    if zones > total {
        return Err(format!("Insufficient number of endpoints {counts}"));
    }
    let minima: Vec<usize> = ratios.values().map(|r| fewest(total, *r)).collect();
    let sum: usize = minima.iter().sum();
    if sum > total {
        return Err(format!(
            "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold {counts}"
        ));
    }
    let allocation = |((zone, ratio), minimum): ((&String, &f64), usize)| {
        let desired = (ratio * float(total)).max(float(minimum));
        let maximum = minimum + (total - sum);
        (
            zone.clone(),
            Allocation {
                minimum,
                maximum,
                desired,
            },
        )
    };
    Ok(ratios.iter().zip(minima).map(allocation).collect())
}

/// The zones that a slice's hints are for; none when they have to be given anew.
fn shares_of(
    slice: &Draft,
    already: &Shares,
    allocations: &BTreeMap<String, Allocation>,
) -> Option<Shares> {
    let mut out = Shares::new();
    for e in slice.endpoints.iter().filter(|e| is_ready(e)) {
        let hints = e.hints.as_ref().filter(|h| !h.for_zones.is_empty())?;
        for zone in &hints.for_zones {
            allocations.get(&zone.name)?;
            *out.entry(zone.name.clone()).or_default() += 1;
        }
    }
    let fits = |(zone, n): (&String, &usize)| {
        let before = already.get(zone).copied().unwrap_or_default();
        allocations
            .get(zone)
            .is_some_and(|a| n + before <= a.maximum)
    };
    out.iter().all(fits).then_some(out)
}

/// Whole endpoints that zones give and take, of the parts that they have too many or too few.
fn exchange(allocations: &BTreeMap<String, Allocation>, shares: &Shares) -> (Shares, Shares) {
    let mut giving = Ratios::new();
    let mut receiving = Ratios::new();
    for (zone, a) in allocations {
        let more = float(shares.get(zone).copied().unwrap_or_default()) - a.desired;
        if more > 0.0 {
            giving.insert(zone.clone(), more);
        } else if more < 0.0 {
            receiving.insert(zone.clone(), -more);
        }
    }
    let most = |zones: &Ratios| {
        let most = zones
            .iter()
            .max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(a.0)));
        most.map(|(zone, n)| (zone.clone(), *n))
    };
    let (mut gives, mut takes) = (Shares::new(), Shares::new());
    while let (Some((from, give)), Some((to, take))) = (most(&giving), most(&receiving)) {
        if give < 0.5 || take < 0.5 || give < 1.0 && take < 1.0 {
            break;
        }
        *gives.entry(from.clone()).or_default() += 1;
        *takes.entry(to.clone()).or_default() += 1;
        giving.insert(from, give - 1.0);
        receiving.insert(to, take - 1.0);
    }
    (gives, takes)
}

/// Takes one of the zone's endpoints, if there are any left.
fn pop(shares: &mut Shares, zone: &str) -> bool {
    let Some(n) = shares.get_mut(zone) else {
        return false;
    };
    *n = n.saturating_sub(1);
    if *n == 0 {
        shares.remove(zone);
    }
    true
}

/// Gives all slices of an address family hints by zones' CPUs. What results by zone; `None`, with the reason, when there
/// are to be no hints.
pub fn auto(slices: &mut [Draft], ratios: Option<&Ratios>) -> Result<Shares, String> {
    let result = give(slices, ratios);
    if result.is_err() {
        remove(slices);
    }
    result
}

fn give(slices: &mut [Draft], ratios: Option<&Ratios>) -> Result<Shares, String> {
    let ready = slices
        .iter()
        .flat_map(|s| &s.endpoints)
        .filter(|e| is_ready(e));
    let allocations = allocations(ready.count(), ratios)?;
    let mut shares = Shares::new();
    for slice in slices.iter_mut().filter(|s| !s.changed) {
        match shares_of(slice, &shares, &allocations) {
            Some(more) => {
                for (zone, n) in more {
                    *shares.entry(zone).or_default() += n;
                }
            }
            None => slice.changed = true,
        }
    }
    let to = |zone: &str| {
        let for_zones = vec![Named {
            name: zone.to_owned(),
        }];
        Some(EndpointHints {
            for_zones,
            ..EndpointHints::default()
        })
    };
    let free = slices.iter_mut().filter(|s| s.changed);
    let free = free.flat_map(|s| &mut s.endpoints);
    let mut free: Vec<&mut Endpoint> = free.filter(|e| is_ready(e)).collect();
    for e in &mut free {
        let zone = e.zone.clone().filter(|z| !z.is_empty());
        let zone = zone.ok_or("One or more endpoints do not have a zone specified")?;
        e.hints = to(&zone);
        *shares.entry(zone).or_default() += 1;
    }
    let (mut gives, mut takes) = exchange(&allocations, &shares);
    for e in free {
        let (Some(zone), Some((taker, _))) = (&e.zone, takes.first_key_value()) else {
            break;
        };
        if pop(&mut gives, zone) {
            let taker = taker.clone();
            e.hints = to(&taker);
            pop(&mut takes, &taker);
            pop(&mut shares, zone);
            *shares.entry(taker).or_default() += 1;
        }
    }
    if shares.is_empty() {
        return Err("No hints allocated for zones".into());
    }
    Ok(shares)
}

/// Whether some zone has too few endpoints for its CPUs.
fn is_overloaded(shares: &Shares, ratios: Option<&Ratios>) -> bool {
    if shares.is_empty() {
        return false;
    }
    let total = shares.values().sum();
    let short = |(zone, ratio): (&String, &f64)| {
        shares.get(zone).is_none_or(|n| *n < fewest(total, *ratio))
    };
    ratios.is_none_or(|r| r.iter().any(short))
}

/// The parts of all CPUs by zone; `None` unless every node that counts has a zone and CPUs, and there are two zones.
pub fn ratios(nodes: &[Arc<Node>]) -> Option<Ratios> {
    let mut zones: BTreeMap<String, i64> = BTreeMap::new();
    for node in nodes {
        let labels = &node.metadata.labels;
        let role = |r: &str| labels.contains_key(&format!("node-role.kubernetes.io/{r}"));
        if role("control-plane") || role("master") || !is_node_ready(node) {
            continue;
        }
        let zone = labels.get(ZONE).filter(|z| !z.is_empty())?;
        let cpu = Quantity::parse(node.status.allocatable.get("cpu")?).ok()?;
        let cpu = cpu.milli_value();
        if cpu <= 0 {
            return None;
        }
        let sum = zones.entry(zone.clone()).or_default();
        *sum = sum.saturating_add(cpu);
    }
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    let float = |n: i64| n as f64;
    let total: f64 = zones.values().map(|n| float(*n)).sum();
    (zones.len() > 1).then(|| {
        zones
            .into_iter()
            .map(|(z, n)| (z, float(n) / total))
            .collect()
    })
}

fn is_node_ready(node: &Node) -> bool {
    condition(&node.status.conditions, "Ready").is_some_and(|c| c.status == "True")
}

/// Whether the change of a node may change [`ratios`] enough to matter.
pub fn node_matters(old: &Node, new: &Node) -> bool {
    is_node_ready(old) != is_node_ready(new)
        || old.metadata.labels.get(ZONE) != new.metadata.labels.get(ZONE)
}

/// What is known of zones and of the Services with hints by zones' CPUs.
#[derive(Debug, Default)]
pub struct Topology(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    ratios: Option<Ratios>,
    /// By address family.
    shares: HashMap<ObjectKey, BTreeMap<bool, Shares>>,
    populated: HashSet<ObjectKey>,
}

impl Topology {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The zones' parts, and whether the Service has hints.
    pub fn of(&self, service: &ObjectKey) -> (Option<Ratios>, bool) {
        let known = self.lock();
        (known.ratios.clone(), known.populated.contains(service))
    }

    /// What the Service's endpoints of a family are now; `None` for no hints.
    pub fn note(&self, service: &ObjectKey, v6: bool, shares: Option<Shares>) {
        let mut known = self.lock();
        match shares {
            Some(shares) => {
                known.populated.insert(service.clone());
                let families = known.shares.entry(service.clone()).or_default();
                families.insert(v6, shares);
            }
            None => {
                known.populated.remove(service);
                if let Some(families) = known.shares.get_mut(service) {
                    families.remove(&v6);
                    if families.is_empty() {
                        known.shares.remove(service);
                    }
                }
            }
        }
    }

    /// The Service is gone.
    pub fn forget(&self, service: &ObjectKey) {
        let mut known = self.lock();
        known.shares.remove(service);
        known.populated.remove(service);
    }

    /// The nodes changed: the Services some zone of which has too few endpoints now.
    pub fn nodes(&self, nodes: &[Arc<Node>]) -> Vec<ObjectKey> {
        let mut known = self.lock();
        known.ratios = ratios(nodes);
        let over = |(key, families): (&ObjectKey, &BTreeMap<bool, Shares>)| {
            let mut families = families.values();
            let over = families.any(|s| is_overloaded(s, known.ratios.as_ref()));
            over.then(|| key.clone())
        };
        known.shares.iter().filter_map(over).collect()
    }
}

/// The events of hints that are given or taken away.
pub fn event(result: &Result<Shares, String>, had: bool, family: &str) -> Option<Event> {
    match result {
        Ok(_) if had => None,
        Ok(_) => Some((
            EventType::Normal,
            ENABLED,
            format!("Topology Aware Hints has been enabled, addressType: {family}"),
        )),
        Err(why) => Some((
            EventType::Warning,
            DISABLED,
            format!("{why}, addressType: {family}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(zone: &str, cpu: &str, ready: &str, role: &str) -> Arc<Node> {
        let mut labels = json!({});
        if !zone.is_empty() {
            labels[ZONE] = zone.into();
        }
        if !role.is_empty() {
            labels[format!("node-role.kubernetes.io/{role}")] = "".into();
        }
        let node = json!({"metadata": {"labels": labels}, "status": {
            "allocatable": {"cpu": cpu}, "conditions": [{"type": "Ready", "status": ready}]}});
        Arc::new(serde_json::from_value(node).unwrap())
    }

    fn endpoint(zone: &str, ready: bool, hint: &str) -> Endpoint {
        let text = |s: &str| (!s.is_empty()).then(|| s.to_owned());
        let named = |n: &str| Named { name: n.into() };
        Endpoint {
            conditions: crate::views::EndpointConditions {
                ready: Some(ready),
                ..Default::default()
            },
            zone: text(zone),
            node_name: text(zone).map(|z| format!("node-{z}")),
            hints: (!hint.is_empty()).then(|| EndpointHints {
                for_zones: hint.split(',').map(named).collect(),
                for_nodes: vec![],
            }),
            ..Endpoint::default()
        }
    }

    fn draft(changed: bool, endpoints: Vec<Endpoint>) -> Draft {
        Draft {
            changed,
            endpoints,
            ..Draft::default()
        }
    }

    fn zones(text: &str) -> Ratios {
        text.split(' ')
            .map(|z| z.split_once('=').unwrap())
            .map(|(z, r)| (z.into(), r.parse().unwrap()))
            .collect()
    }

    fn shares(text: &str) -> Shares {
        let one = |z: &str| {
            z.split_once('=')
                .map(|(z, n)| (z.to_owned(), n.parse().unwrap()))
        };
        text.split(' ').filter_map(one).collect()
    }

    #[test]
    fn zones_have_the_cpus_of_their_nodes() {
        let near = |a: &Option<Ratios>, b: &str| match a {
            None => b.is_empty(),
            Some(a) => {
                !b.is_empty()
                    && a.len() == zones(b).len()
                    && zones(b).iter().all(|(z, r)| (a[z] - r).abs() < 0.01)
            }
        };
        for (nodes, want) in [
            (vec![], ""),
            (
                vec![node("a", "1", "True", ""), node("b", "1", "True", "")],
                "a=0.5 b=0.5",
            ),
            (
                vec![node("a", "1", "True", ""), node("a", "1", "True", "")],
                "",
            ),
            (
                vec![node("a", "1000m", "True", ""), node("b", "3", "True", "")],
                "a=0.25 b=0.75",
            ),
            (
                vec![
                    node("a", "1", "True", ""),
                    node("b", "1", "True", ""),
                    node("a", "2", "True", ""),
                ],
                "a=0.75 b=0.25",
            ),
            (
                vec![
                    node("a", "1", "True", ""),
                    node("b", "1", "True", ""),
                    node("", "1", "True", ""),
                ],
                "",
            ),
            (
                vec![
                    node("a", "1", "True", ""),
                    node("b", "1", "True", ""),
                    node("c", "0", "True", ""),
                ],
                "",
            ),
            (
                vec![
                    node("a", "1", "True", ""),
                    node("b", "1", "True", ""),
                    node("", "1", "False", ""),
                ],
                "a=0.5 b=0.5",
            ),
            (
                vec![node("a", "1", "True", ""), node("b", "1", "False", "")],
                "",
            ),
            (
                vec![
                    node("a", "1", "True", ""),
                    node("b", "1", "True", ""),
                    node("c", "8", "True", "control-plane"),
                ],
                "a=0.5 b=0.5",
            ),
            (
                vec![
                    node("a", "1", "True", ""),
                    node("b", "1", "True", "master"),
                    node("c", "1", "True", ""),
                ],
                "a=0.5 c=0.5",
            ),
        ] {
            let got = ratios(&nodes);
            assert!(near(&got, want), "{got:?} is not {want}");
        }
        let (a, b) = (node("a", "1", "True", ""), node("b", "1", "True", ""));
        assert!(
            node_matters(&a, &b)
                && node_matters(&a, &node("a", "1", "False", ""))
                && !node_matters(&a, &node("a", "2", "True", ""))
        );
    }

    #[test]
    fn endpoints_follow_the_cpus() {
        let even = "a=0.33 b=0.33 c=0.34";
        let e = endpoint;
        for (name, ratios, slices, want) in [
            (
                "no nodes",
                "",
                vec![draft(true, vec![e("a", true, ""), e("b", true, "")])],
                Err(
                    "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes",
                ),
            ),
            (
                "one zone",
                "a=1",
                vec![draft(true, vec![e("a", true, "")])],
                Err("Nodes only ready in one zone"),
            ),
            (
                "few",
                even,
                vec![draft(
                    true,
                    vec![e("a", true, ""), e("b", true, ""), e("c", false, "")],
                )],
                Err("Insufficient number of endpoints (2 endpoints, 3 zones)"),
            ),
            (
                "overload",
                "a=0.5 b=0.5",
                vec![draft(
                    true,
                    vec![e("a", true, ""), e("b", true, ""), e("b", true, "")],
                )],
                Err(
                    "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold (3 endpoints, 2 zones)",
                ),
            ),
            (
                "a zone is missing",
                "a=0.5 b=0.5",
                vec![draft(true, vec![e("a", true, ""), e("", true, "")])],
                Err("One or more endpoints do not have a zone specified"),
            ),
            (
                "at home",
                even,
                vec![
                    draft(true, vec![e("a", true, ""), e("b", true, "")]),
                    draft(true, vec![e("c", true, "")]),
                ],
                Ok("a b|c"),
            ),
            (
                "one zone gives",
                "a=0.5 b=0.5",
                vec![draft(true, vec![e("a", true, ""), e("a", true, "")])],
                Ok("b a"),
            ),
            (
                "what is not ready counts for nothing",
                "a=0.5 b=0.5",
                vec![draft(
                    true,
                    vec![e("a", true, ""), e("b", true, ""), e("b", false, "")],
                )],
                Ok("a b -"),
            ),
            (
                "unchanged slices stay",
                "a=0.5 b=0.5",
                vec![draft(false, vec![e("a", true, "a"), e("b", true, "b")])],
                Ok("a b"),
            ),
            (
                "unchanged ones with a stale zone do not",
                "a=0.5 b=0.5",
                vec![draft(false, vec![e("a", true, "z"), e("b", true, "b")])],
                Ok("a b"),
            ),
            (
                "nor do those without hints",
                "a=0.5 b=0.5",
                vec![draft(false, vec![e("a", true, ""), e("b", true, "b")])],
                Ok("a b"),
            ),
            (
                "nor those with too many",
                "a=0.5 b=0.5",
                vec![draft(false, vec![e("a", true, "a"), e("b", true, "a")])],
                Ok("a b"),
            ),
        ] {
            let mut slices = slices;
            let ratios = (!ratios.is_empty()).then(|| zones(ratios));
            let got = auto(&mut slices, ratios.as_ref());
            let shown = |e: &Endpoint| {
                e.hints.as_ref().map_or("-".to_owned(), |h| {
                    h.for_zones
                        .iter()
                        .map(|z| z.name.as_str())
                        .collect::<Vec<_>>()
                        .join(",")
                })
            };
            let line = |d: &Draft| d.endpoints.iter().map(shown).collect::<Vec<_>>().join(" ");
            let hints = slices.iter().map(line).collect::<Vec<_>>().join("|");
            match want {
                Ok(want) => {
                    assert_eq!(hints, want, "{name}");
                    let mut count = Shares::new();
                    want.split([' ', '|'])
                        .filter(|z| *z != "-")
                        .for_each(|z| *count.entry(z.into()).or_default() += 1);
                    assert_eq!(got, Ok(count), "{name}");
                }
                Err(want) => {
                    assert_eq!(got, Err(want.to_owned()), "{name}");
                    assert!(hints.chars().all(|c| "- |".contains(c)), "{name}: {hints}");
                }
            }
        }
    }

    #[test]
    fn hints_are_exchanged_in_whole_endpoints() {
        let a = |n: usize, ratios: &str| allocations(n, Some(&zones(ratios))).unwrap();
        for (n, ratios, have, gives, takes) in [
            (4, "a=0.5 b=0.5", "a=2 b=2", "", ""),
            (4, "a=0.5 b=0.5", "a=4", "a=2", "b=2"),
            (4, "a=0.5 b=0.5", "a=3 b=1", "a=1", "b=1"),
            (8, "a=0.5 b=0.25 c=0.25", "a=8", "a=4", "b=2 c=2"),
        ] {
            assert_eq!(
                exchange(&a(n, ratios), &shares(have)),
                (shares(gives), shares(takes)),
                "{ratios} {have}"
            );
        }
        let three = a(10, "a=0.4 b=0.4 c=0.2");
        assert_eq!(
            (three["a"].minimum, three["c"].minimum, three["a"].maximum),
            (4, 2, 4)
        );
        // However many slices there are, a zone's most is for all of them.
        let two = draft(
            false,
            vec![endpoint("a", true, "a"), endpoint("a", true, "a")],
        );
        assert_eq!(shares_of(&two, &Shares::new(), &three), Some(shares("a=2")));
        assert_eq!(shares_of(&two, &shares("a=3"), &three), None);
    }

    #[test]
    fn services_that_lack_endpoints_in_a_zone_are_told() {
        let (key, topology) = (ObjectKey::new("ns", "s"), Topology::default());
        let even = [node("a", "1", "True", ""), node("b", "1", "True", "")];
        let uneven = [node("a", "1", "True", ""), node("b", "9", "True", "")];
        assert!(topology.nodes(&even).is_empty());
        topology.note(&key, false, Some(shares("a=5 b=5")));
        assert!(topology.of(&key).1 && topology.nodes(&even).is_empty());
        assert_eq!(topology.nodes(&uneven), std::slice::from_ref(&key));
        assert_eq!(
            topology.nodes(&[]),
            std::slice::from_ref(&key),
            "nothing is known any more"
        );
        topology.note(&key, true, Some(shares("a=5 b=5")));
        topology.note(&key, false, None);
        assert!(!topology.of(&key).1);
        assert_eq!(topology.nodes(&uneven).len(), 1, "the other family is left");
        topology.forget(&key);
        assert!(topology.nodes(&uneven).is_empty() && topology.lock().shares.is_empty());
    }

    #[test]
    fn near_endpoints_are_hinted_at() {
        let service = |distribution: &str, annotations: serde_json::Value| -> Service {
            serde_json::from_value(json!({"metadata": {"annotations": annotations}, "spec": {"trafficDistribution": distribution}})).unwrap()
        };
        for (distribution, annotations, want) in [
            ("", json!({}), None),
            ("PreferClose", json!({}), Some(Near::Zone)),
            (
                "PreferSameZone",
                json!({MODE: "Disabled"}),
                Some(Near::Zone),
            ),
            ("PreferSameNode", json!({}), Some(Near::Node)),
            ("Other", json!({}), None),
            ("PreferClose", json!({MODE: "auto"}), None),
            (
                "PreferClose",
                json!({OLD_MODE: "Disabled", MODE: "Auto"}),
                Some(Near::Zone),
            ),
            ("PreferClose", json!({OLD_MODE: "Auto"}), None),
        ] {
            assert_eq!(
                Near::of(&service(distribution, annotations.clone())),
                want,
                "{distribution} {annotations}"
            );
        }
        let both = |e: &Endpoint| {
            let names = |l: &[Named]| l.iter().map(|n| n.name.clone()).collect::<Vec<_>>();
            e.hints
                .as_ref()
                .map(|h| (names(&h.for_zones), names(&h.for_nodes)))
        };
        for (near, e, want, written) in [
            (
                Near::Zone,
                endpoint("a", true, ""),
                Some((vec!["a"], vec![])),
                true,
            ),
            (
                Near::Zone,
                endpoint("a", true, "a"),
                Some((vec!["a"], vec![])),
                false,
            ),
            (
                Near::Zone,
                endpoint("a", true, "b"),
                Some((vec!["a"], vec![])),
                true,
            ),
            (
                Near::Zone,
                endpoint("a", true, "a,b"),
                Some((vec!["a"], vec![])),
                true,
            ),
            (Near::Zone, endpoint("", true, ""), None, false),
            (Near::Zone, endpoint("", true, "b"), None, true),
            (Near::Zone, endpoint("a", false, ""), None, false),
            (
                Near::Zone,
                endpoint("a", false, "b"),
                Some((vec!["b"], vec![])),
                false,
            ),
            (
                Near::Node,
                endpoint("a", true, "a"),
                Some((vec!["a"], vec!["node-a"])),
                true,
            ),
        ] {
            let mut slices = [draft(false, vec![e])];
            near.apply(&mut slices);
            let want = want.map(|(z, n)| {
                (
                    z.into_iter().map(str::to_owned).collect(),
                    n.into_iter().map(str::to_owned).collect(),
                )
            });
            assert_eq!(
                (both(&slices[0].endpoints[0]), slices[0].changed),
                (want, written),
                "{near:?} {slices:?}"
            );
        }
        // Of a node, but of no zone.
        let mut slices = [draft(
            true,
            vec![Endpoint {
                node_name: Some("n".into()),
                ..endpoint("", true, "")
            }],
        )];
        Near::Node.apply(&mut slices);
        assert_eq!(
            both(&slices[0].endpoints[0]),
            Some((vec![], vec!["n".into()]))
        );
        Near::Zone.apply(&mut slices);
        assert_eq!(both(&slices[0].endpoints[0]), None);
    }
}
