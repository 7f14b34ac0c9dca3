//! PodTopologySpread: keeps matching pods even over the domains of a topology.
//!
//! Absent on purpose: upstream's default constraints (zone and hostname, from the pod's Services and ReplicaSets); only
//! constraints in the pod count.

use std::collections::{BTreeMap, HashMap};

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

impl Score for PodTopologySpread {
    fn relevant(&self, pod: &Pod, _: &NodeTable) -> bool {
        !constraints(pod, false).is_empty()
    }

    /// Normalised here: nodes without a key score 0, the emptiest domain 100.
    fn score(&self, pod: &Pod, nodes: &NodeTable, rows: &BitSet, out: &mut [i64]) {
        let soft = constraints(pod, false);
        let state: Vec<_> = soft
            .iter()
            .map(|c| {
                let d = domains(c, &soft, pod, nodes);
                let weight = (d.len() as f64 + 2.0).ln();
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
        },
        ..Plugin::new("PodTopologySpread")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::tests::{node, view};
    use crate::pod::Classes;
    use crate::view::LabelSelector;
    use std::sync::Arc;

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
