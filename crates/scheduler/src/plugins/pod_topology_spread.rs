//! PodTopologySpread: keeps matching pods even over the domains of a topology.
//!
//! A pod without constraints of its own is kept even with the pods of its controller, over hosts and zones, as far as
//! scores go. Upstream finds those pods by the selectors of the controller and of the Services before it, which select the
//! same pods; for a pod without a controller that Services alone select, this is absent.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::bits::BitSet;
use crate::framework::{Check, ClusterEvent, Filter, MAX_SCORE, Plugin, Reason, Scope, Score};
use crate::nodes::{NodeTable, Row};
use crate::pod::Pod;
use crate::selector::{labels_match, untolerated};
use crate::view::{PodView, SpreadConstraint};

use super::node_affinity::suits;

struct PodTopologySpread;

fn constraints(pod: &Pod, hard: bool) -> Vec<&SpreadConstraint> {
    let kind = if hard {
        "DoNotSchedule"
    } else {
        "ScheduleAnyway"
    };
    pod.view
        .spec
        .topology_spread_constraints
        .iter()
        .filter(|c| c.when_unsatisfiable == kind)
        .collect()
}

fn counts(c: &SpreadConstraint, pod: &Pod, other: &PodView) -> bool {
    let own = &pod.view.metadata.labels;
    other.metadata.namespace == pod.view.metadata.namespace
        && labels_match(c.label_selector.as_ref(), &other.metadata.labels)
        && c.match_label_keys.iter().all(|k| {
            own.get(k)
                .is_none_or(|v| other.metadata.labels.get(k) == Some(v))
        })
}

fn eligible(c: &SpreadConstraint, pod: &Pod, row: &Row) -> bool {
    (c.node_affinity_policy.as_deref() == Some("Ignore") || suits(&pod.class, row))
        && (c.node_taints_policy.as_deref() != Some("Honor")
            || untolerated(
                &row.taints,
                &pod.class.tolerations,
                &["NoSchedule", "NoExecute"],
            )
            .is_none())
}

/// Matching pods per domain, over the nodes that count and carry every key.
fn domains<'a>(
    c: &SpreadConstraint,
    all: &[&SpreadConstraint],
    pod: &Pod,
    nodes: &'a NodeTable,
) -> HashMap<&'a str, i64> {
    let mut out = HashMap::new();
    for row in nodes.live().iter() {
        let Some(r) = nodes.row(row) else { continue };
        if !all.iter().all(|c| r.labels.contains_key(&c.topology_key)) || !eligible(c, pod, r) {
            continue;
        }
        let Some(value) = r.labels.get(&c.topology_key) else {
            continue;
        };
        let n = r
            .pods
            .values()
            .filter(|p| p.view.metadata.deletion_timestamp.is_none() && counts(c, pod, &p.view))
            .count() as i64;
        *out.entry(value.as_str()).or_default() += n;
    }
    out
}

impl Filter for PodTopologySpread {
    fn relevant(&self, pod: &Pod) -> bool {
        !constraints(pod, true).is_empty()
    }

    fn check<'a>(&'a self, pod: &'a Pod, nodes: &'a NodeTable) -> Check<'a> {
        let hard = constraints(pod, true);
        let state: Vec<_> = hard
            .iter()
            .map(|c| {
                let d = domains(c, &hard, pod, nodes);
                let enough = d.len() as i64 >= c.min_domains.unwrap_or(1);
                let min = if enough {
                    d.values().min().copied().unwrap_or(0)
                } else {
                    0
                };
                (*c, d, min, i64::from(counts(c, pod, &pod.view)))
            })
            .collect();
        Box::new(move |row| {
            let Some(r) = nodes.row(row) else {
                return Vec::new();
            };
            for (c, domains, min, own) in &state {
                let Some(value) = r.labels.get(&c.topology_key) else {
                    return vec![Reason::fixed(
                        "node(s) didn't match pod topology spread constraints (missing required label)",
                    )];
                };
                let here = domains.get(value.as_str()).copied().unwrap_or(0);
                if here + own - min > c.max_skew {
                    return vec![Reason::resolvable(
                        "node(s) didn't match pod topology spread constraints",
                    )];
                }
            }
            Vec::new()
        })
    }
}

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";
/// The skew allowed by default, less one: over hosts, over zones.
const DEFAULT_SKEW: (f64, f64) = (2.0, 4.0);

/// How much more a domain counts where there are more of them.
fn weight(domains: usize) -> f64 {
    (domains as f64 + 2.0).ln()
}

/// Raw scores by row from the pods of the same controller. A node without a label takes no part in that label's spreading.
fn by_default(pod: &Pod, nodes: &NodeTable, rows: &BitSet) -> BTreeMap<usize, i64> {
    let none = HashMap::new();
    let controller = pod.view.replica_of().unwrap_or_default();
    let here = nodes.replicas(controller).unwrap_or(&none);
    let zone = |row: usize| nodes.row(row).and_then(|r| r.labels.get(ZONE));
    let zones: BTreeSet<Option<&String>> = rows.iter().map(zone).collect();
    let mut in_zone: HashMap<&String, i64> = HashMap::new();
    for (row, n) in here {
        if let (Some(z), Some(r)) = (zone(*row), nodes.row(*row))
            && suits(&pod.class, r)
        {
            *in_zone.entry(z).or_default() += n;
        }
    }
    let (of_host, of_zone) = (weight(rows.len()), weight(zones.len()));
    rows.iter()
        .map(|row| {
            let mut sum = 0.0;
            if nodes
                .row(row)
                .is_some_and(|r| r.labels.contains_key(HOSTNAME))
            {
                let n = here.get(&row).copied().unwrap_or(0);
                sum += n as f64 * of_host + DEFAULT_SKEW.0;
            }
            if let Some(z) = zone(row) {
                let n = in_zone.get(z).copied().unwrap_or(0);
                sum += n as f64 * of_zone + DEFAULT_SKEW.1;
            }
            (row, sum.round() as i64)
        })
        .collect()
}

impl Score for PodTopologySpread {
    fn relevant(&self, pod: &Pod, _: &NodeTable) -> bool {
        if pod.view.spec.topology_spread_constraints.is_empty() {
            pod.view.replica_of().is_some()
        } else {
            !constraints(pod, false).is_empty()
        }
    }

    /// Normalised here: nodes without a key score 0, the emptiest domain 100.
    fn score(&self, pod: &Pod, nodes: &NodeTable, rows: &BitSet, out: &mut [i64]) {
        if pod.view.spec.topology_spread_constraints.is_empty() {
            return spread(&by_default(pod, nodes, rows), rows, out);
        }
        let soft = constraints(pod, false);
        let state: Vec<_> = soft
            .iter()
            .map(|c| {
                let d = domains(c, &soft, pod, nodes);
                let weight = weight(d.len());
                (*c, d, weight)
            })
            .collect();
        let mut raw: BTreeMap<usize, i64> = BTreeMap::new();
        for row in rows.iter() {
            let Some(r) = nodes.row(row) else { continue };
            let mut sum = 0.0;
            let mut complete = true;
            for (c, domains, weight) in &state {
                match r.labels.get(&c.topology_key) {
                    Some(v) => {
                        let n = domains.get(v.as_str()).copied().unwrap_or(0);
                        sum += n as f64 * weight + (c.max_skew - 1) as f64;
                    }
                    None => complete = false,
                }
            }
            if complete {
                raw.insert(row, sum.round() as i64);
            }
        }
        spread(&raw, rows, out);
    }
}

/// Turns raw scores, of which fewer is better, into those of the framework.
fn spread(raw: &BTreeMap<usize, i64>, rows: &BitSet, out: &mut [i64]) {
    let max = raw.values().max().copied().unwrap_or(0);
    let min = raw.values().min().copied().unwrap_or(0);
    for row in rows.iter() {
        if let Some(o) = out.get_mut(row) {
            *o = match raw.get(&row) {
                None => 0,
                Some(_) if max == 0 => MAX_SCORE,
                Some(s) => MAX_SCORE * (max + min - s) / max,
            };
        }
    }
}

/// The plugin.
pub fn plugin() -> Plugin {
    Plugin {
        weight: 2,
        filter: Some(Scope::Dynamic(Box::new(PodTopologySpread))),
        score: Some(Scope::Dynamic(Box::new(PodTopologySpread))),
        hint: |event, _, _| match event {
            ClusterEvent::Node { change, .. } => change.added || change.labels || change.taints,
            ClusterEvent::PodGone(_) | ClusterEvent::PodPlaced(_) => true,
            ClusterEvent::Storage(_) => false,
        },
        ..Plugin::new("PodTopologySpread")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::tests::{node, view};
    use crate::pod::Classes;
    use crate::view::{LabelSelector, Owner};
    use std::sync::Arc;

    #[test]
    fn replicas_spread_by_default() {
        let mut t = NodeTable::default();
        for (name, zone) in [("a", "x"), ("b", "x"), ("c", "y")] {
            let mut n = node(name, "8", "8Gi");
            n.metadata.labels.insert(HOSTNAME.into(), name.into());
            n.metadata.labels.insert(ZONE.into(), zone.into());
            t.upsert_node(&n);
        }
        let make = |uid: &str, kind: &str, gone: bool| {
            let mut v = view(uid, "1", "");
            v.metadata.owner_references.push(Owner {
                kind: kind.into(),
                uid: "rs".into(),
                controller: Some(true),
            });
            v.metadata.deletion_timestamp = gone.then(|| "2026-01-01T00:00:00Z".to_owned());
            Classes::default().pod(Arc::new(v))
        };
        let scores = |t: &NodeTable| {
            let mut out = vec![0; t.width()];
            PodTopologySpread.score(&make("new", "ReplicaSet", false), t, t.live(), &mut out);
            out
        };
        let relevant =
            |kind: &str| Score::relevant(&PodTopologySpread, &make("p", kind, false), &t);
        assert!(relevant("ReplicaSet") && !relevant("DaemonSet"));
        assert_eq!(scores(&t), [100, 100, 100]);
        t.place(&make("1", "ReplicaSet", false), "a");
        let s = scores(&t);
        assert!(s[0] < s[1] && s[1] < s[2], "host, then zone: {s:?}");
        // One that goes does not count any more, and neither does one that has gone.
        t.place(&make("1", "ReplicaSet", true), "a");
        assert_eq!(scores(&t), [100, 100, 100]);
        t.place(&make("2", "ReplicaSet", false), "c");
        t.remove_pod("2");
        t.remove_pod("1");
        assert_eq!(scores(&t), [100, 100, 100]);
        assert!(t.replicas("rs").is_none());
    }

    /// Source: upstream's `scoreForCount`: pods times the weight of the topology, and the skew that is allowed.
    #[test]
    fn raw_scores_by_default() {
        let mut t = NodeTable::default();
        for (name, host, zone) in [
            ("a", true, Some("x")),
            ("b", true, None),
            ("c", false, Some("x")),
            ("d", false, None),
        ] {
            let mut n = node(name, "8", "8Gi");
            if host {
                n.metadata.labels.insert(HOSTNAME.into(), name.into());
            }
            if let Some(zone) = zone {
                n.metadata.labels.insert(ZONE.into(), zone.into());
            }
            t.upsert_node(&n);
        }
        let make = |uid: &str| {
            let mut v = view(uid, "1", "");
            v.metadata.owner_references.push(Owner {
                kind: "ReplicaSet".into(),
                uid: "rs".into(),
                controller: Some(true),
            });
            Classes::default().pod(Arc::new(v))
        };
        t.place(&make("1"), "a");
        t.place(&make("2"), "a");
        t.place(&make("3"), "d");
        // Four hosts: ln 6 = 1.79 for each pod, and 2. Zones are x and none: ln 4 = 1.39 for each, and 4.
        let want = [(0, 12), (1, 2), (2, 7), (3, 0)];
        assert_eq!(by_default(&make("new"), &t, t.live()), want.into());
    }

    #[test]
    fn skew_over_zones() {
        let mut t = NodeTable::default();
        for (name, zone) in [("a", "x"), ("b", "x"), ("c", "y")] {
            let mut n = node(name, "8", "8Gi");
            n.metadata.labels.insert("zone".into(), zone.into());
            t.upsert_node(&n);
        }
        t.upsert_node(&node("nozone", "8", "8Gi"));
        let make = |uid: &str| {
            let mut v = view(uid, "1", "");
            v.metadata.labels.insert("app".into(), "web".into());
            v.spec.topology_spread_constraints.push(SpreadConstraint {
                max_skew: 1,
                topology_key: "zone".into(),
                when_unsatisfiable: "DoNotSchedule".into(),
                label_selector: Some(LabelSelector {
                    match_labels: [("app".to_owned(), "web".to_owned())].into(),
                    ..LabelSelector::default()
                }),
                ..SpreadConstraint::default()
            });
            Classes::default().pod(Arc::new(v))
        };
        t.place(&make("1"), "a");
        let mut rows = t.live().clone();
        PodTopologySpread.apply(&make("2"), &t, &mut rows);
        assert_eq!(rows.iter().collect::<Vec<_>>(), [t.find("c").unwrap()]);
        t.place(&make("2"), "c");
        let mut rows = t.live().clone();
        PodTopologySpread.apply(&make("3"), &t, &mut rows);
        assert_eq!(rows.len(), 3);
    }
}
