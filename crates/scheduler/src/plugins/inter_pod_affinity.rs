//! InterPodAffinity: required terms of the pod and of placed pods decide, preferred terms score.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::bits::BitSet;
use crate::framework::{Check, ClusterEvent, Filter, Normalize, Plugin, Reason, Scope, Score};
use crate::nodes::NodeTable;
use crate::pod::Pod;
use crate::selector::labels_match;
use crate::view::{PodAffinity, PodAffinityTerm, PodView};

/// What a placed pod's required affinity counts towards a pod that it wants (upstream's hardPodAffinityWeight).
const HARD_WEIGHT: i64 = 1;

struct InterPodAffinity;

fn affinity(pod: &PodView) -> Option<&PodAffinity> {
    pod.spec.affinity.as_ref()?.pod_affinity.as_ref()
}

fn anti_affinity(pod: &PodView) -> Option<&PodAffinity> {
    pod.spec.affinity.as_ref()?.pod_anti_affinity.as_ref()
}

/// Whether `term`, a term of `owner`, is about `other`.
fn about(term: &PodAffinityTerm, owner: &PodView, other: &PodView, nodes: &NodeTable) -> bool {
    let ns = &other.metadata.namespace;
    let own = term.namespaces.is_empty() && term.namespace_selector.is_none();
    let in_scope = (own && *ns == owner.metadata.namespace)
        || term.namespaces.contains(ns)
        || term.namespace_selector.as_ref().is_some_and(|s| {
            (s.match_labels.is_empty() && s.match_expressions.is_empty())
                || nodes
                    .namespace(ns)
                    .is_some_and(|labels| labels_match(Some(s), labels))
        });
    let labels = &other.metadata.labels;
    let same = |key: &String| {
        owner
            .metadata
            .labels
            .get(key)
            .map(|v| labels.get(key) == Some(v))
    };
    in_scope
        && labels_match(term.label_selector.as_ref(), labels)
        && term.match_label_keys.iter().all(|k| same(k) != Some(false))
        && term
            .mismatch_label_keys
            .iter()
            .all(|k| same(k) != Some(true))
}

/// Pods per value of a topology label.
type Domains = HashMap<String, i64>;

fn domain<'a>(nodes: &'a NodeTable, row: usize, key: &str) -> Option<&'a String> {
    nodes.row(row)?.labels.get(key)
}

/// Counts the placed pods a term is about, per domain.
fn count(term: &PodAffinityTerm, pod: &PodView, nodes: &NodeTable) -> Domains {
    let mut out = Domains::new();
    for row in nodes.live().iter() {
        let Some(value) = domain(nodes, row, &term.topology_key) else {
            continue;
        };
        let Some(r) = nodes.row(row) else { continue };
        let n = r
            .pods
            .values()
            .filter(|p| about(term, pod, &p.view, nodes))
            .count() as i64;
        if n > 0 {
            *out.entry(value.clone()).or_default() += n;
        }
    }
    out
}

impl Filter for InterPodAffinity {
    /// Every pod may be kept away by the anti-affinity of a placed one.
    fn relevant(&self, _: &Pod) -> bool {
        true
    }

    fn apply(&self, pod: &Pod, nodes: &NodeTable, feasible: &mut BitSet) {
        let own = pod
            .view
            .spec
            .affinity
            .as_ref()
            .is_some_and(|a| a.pod_affinity.is_some() || a.pod_anti_affinity.is_some());
        if own || nodes.has_pods_with_affinity() {
            let check = self.check(pod, nodes);
            feasible.retain(|row| check(row).is_empty());
        }
    }

    fn check<'a>(&'a self, pod: &'a Pod, nodes: &'a NodeTable) -> Check<'a> {
        let view = &pod.view;
        // Domains that placed pods' required anti-affinity closes to this pod.
        let mut closed: BTreeMap<&str, HashSet<&str>> = BTreeMap::new();
        if nodes.has_pods_with_affinity() {
            for row in nodes.live().iter() {
                let Some(r) = nodes.row(row) else { continue };
                for placed in r.pods.values() {
                    for term in anti_affinity(&placed.view).map_or(&[][..], |a| &a.required) {
                        if let Some(value) = r.labels.get(&term.topology_key)
                            && about(term, &placed.view, view, nodes)
                        {
                            closed.entry(&term.topology_key).or_default().insert(value);
                        }
                    }
                }
            }
        }
        let wanted: Vec<(&PodAffinityTerm, Domains)> = affinity(view)
            .map_or(&[][..], |a| &a.required)
            .iter()
            .map(|t| (t, count(t, view, nodes)))
            .collect();
        // The first pod of a group that wants its own kind may go anywhere that has the topology.
        let first = !wanted.is_empty()
            && wanted
                .iter()
                .all(|(t, d)| d.is_empty() && about(t, view, view, nodes));
        let unwanted: Vec<(&PodAffinityTerm, Domains)> = anti_affinity(view)
            .map_or(&[][..], |a| &a.required)
            .iter()
            .map(|t| (t, count(t, view, nodes)))
            .collect();
        Box::new(move |row| {
            let Some(r) = nodes.row(row) else {
                return Vec::new();
            };
            let missing = |(t, d): &(&PodAffinityTerm, Domains)| match r.labels.get(&t.topology_key)
            {
                None => true,
                Some(v) => !first && !d.contains_key(v),
            };
            if wanted.iter().any(missing) {
                return vec![Reason::fixed("node(s) didn't match pod affinity rules")];
            }
            if unwanted.iter().any(|(t, d)| {
                r.labels
                    .get(&t.topology_key)
                    .is_some_and(|v| d.contains_key(v))
            }) {
                return vec![Reason::resolvable(
                    "node(s) didn't match pod anti-affinity rules",
                )];
            }
            if closed.iter().any(|(k, values)| {
                r.labels
                    .get(*k)
                    .is_some_and(|v| values.contains(&v.as_str()))
            }) {
                return vec![Reason::resolvable(
                    "node(s) didn't satisfy existing pods anti-affinity rules",
                )];
            }
            Vec::new()
        })
    }
}

impl Score for InterPodAffinity {
    fn relevant(&self, pod: &Pod, nodes: &NodeTable) -> bool {
        let preferred = |a: Option<&PodAffinity>| a.is_some_and(|a| !a.preferred.is_empty());
        nodes.has_pods_with_affinity()
            || preferred(affinity(&pod.view))
            || preferred(anti_affinity(&pod.view))
    }

    fn score(&self, pod: &Pod, nodes: &NodeTable, rows: &BitSet, out: &mut [i64]) {
        let view = &pod.view;
        // By key and value: looked up once per key, however many nodes have a value of their own.
        let mut weights: HashMap<&str, HashMap<&str, i64>> = HashMap::new();
        for row in nodes.live().iter() {
            let Some(r) = nodes.row(row) else { continue };
            for placed in r.pods.values() {
                let other = &placed.view;
                let mut add = |term, owner, target, weight: i64| {
                    let term: &PodAffinityTerm = term;
                    if let Some((key, value)) = r.labels.get_key_value(&term.topology_key)
                        && about(term, owner, target, nodes)
                    {
                        *weights.entry(key).or_default().entry(value).or_default() += weight;
                    }
                };
                for (list, sign) in [(affinity(view), 1), (anti_affinity(view), -1)] {
                    for t in list.map_or(&[][..], |a| &a.preferred) {
                        add(&t.pod_affinity_term, view, other, sign * t.weight);
                    }
                }
                for (list, sign) in [(affinity(other), 1), (anti_affinity(other), -1)] {
                    for t in list.map_or(&[][..], |a| &a.preferred) {
                        add(&t.pod_affinity_term, other, view, sign * t.weight);
                    }
                }
                for t in affinity(other).map_or(&[][..], |a| &a.required) {
                    add(t, other, view, HARD_WEIGHT);
                }
            }
        }
        for row in rows.iter() {
            let (Some(r), Some(o)) = (nodes.row(row), out.get_mut(row)) else {
                continue;
            };
            *o = weights
                .iter()
                .filter_map(|(key, of)| of.get(r.labels.get(*key)?.as_str()))
                .sum();
        }
    }

    fn normalize(&self) -> Normalize {
        Normalize::MinMax
    }
}

/// The plugin.
pub fn plugin() -> Plugin {
    Plugin {
        weight: 2,
        filter: Some(Scope::Dynamic(Box::new(InterPodAffinity))),
        score: Some(Scope::Dynamic(Box::new(InterPodAffinity))),
        hint: |event, _, _| match event {
            ClusterEvent::Node { change, .. } => change.added || change.labels,
            ClusterEvent::PodGone(_) | ClusterEvent::PodPlaced(_) => true,
            ClusterEvent::Storage(_) => false,
        },
        ..Plugin::new("InterPodAffinity")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::tests::{node, view};
    use crate::pod::Classes;
    use crate::view::{Affinity, LabelSelector, WeightedPodAffinityTerm};
    use std::sync::Arc;

    fn anti(uid: &str, app: &str) -> Pod {
        let mut v = view(uid, "1", "");
        v.metadata.labels.insert("app".into(), app.into());
        v.spec.affinity = Some(Affinity {
            pod_anti_affinity: Some(PodAffinity {
                required: vec![PodAffinityTerm {
                    label_selector: Some(LabelSelector {
                        match_labels: [("app".to_owned(), app.to_owned())].into(),
                        ..LabelSelector::default()
                    }),
                    topology_key: "kubernetes.io/hostname".into(),
                    ..PodAffinityTerm::default()
                }],
                preferred: vec![],
            }),
            ..Affinity::default()
        });
        Classes::default().pod(Arc::new(v))
    }

    /// Quadratic work: with a value per node, each node would look through those of all others.
    #[test]
    fn a_preference_by_host_is_looked_up_once_per_node() {
        const NODES: usize = 20_000;
        let mut t = NodeTable::default();
        for n in 0..NODES {
            let name = format!("n{n}");
            let mut own = node(&name, "8", "8Gi");
            let label = "kubernetes.io/hostname".to_owned();
            own.metadata.labels.insert(label, name.clone());
            t.upsert_node(&own);
            t.place(&anti(&format!("p{n}"), "web"), &name);
        }
        let mut v = view("new", "1", "");
        let term = anti("new", "web").view.spec.affinity.clone().unwrap();
        let term = term.pod_anti_affinity.unwrap().required.remove(0);
        v.spec.affinity = Some(Affinity {
            pod_affinity: Some(PodAffinity {
                required: vec![],
                preferred: vec![WeightedPodAffinityTerm {
                    weight: 7,
                    pod_affinity_term: term,
                }],
            }),
            ..Affinity::default()
        });
        let new = Classes::default().pod(Arc::new(v));
        let mut out = vec![0; NODES];
        InterPodAffinity.score(&new, &t, &t.live().clone(), &mut out);
        assert!(out.iter().all(|score| *score == 7));
        let mut rows = t.live().clone();
        InterPodAffinity.apply(&anti("other", "web"), &t, &mut rows);
        assert!(rows.is_empty());
    }

    #[test]
    fn one_replica_per_host_and_symmetry() {
        let mut t = NodeTable::default();
        for name in ["a", "b"] {
            let mut n = node(name, "8", "8Gi");
            n.metadata
                .labels
                .insert("kubernetes.io/hostname".into(), name.into());
            t.upsert_node(&n);
        }
        t.place(&anti("1", "web"), "a");
        let mut rows = t.live().clone();
        InterPodAffinity.apply(&anti("2", "web"), &t, &mut rows);
        assert_eq!(rows.iter().collect::<Vec<_>>(), [1]);

        // A plain pod with the label is kept off by the placed pod's own term.
        let mut plain = view("3", "1", "");
        plain.metadata.labels.insert("app".into(), "web".into());
        let plain = Classes::default().pod(Arc::new(plain));
        let reasons = InterPodAffinity.explain(&plain, &t, 0);
        assert_eq!(
            reasons[0].text,
            "node(s) didn't satisfy existing pods anti-affinity rules"
        );
        assert!(InterPodAffinity.explain(&plain, &t, 1).is_empty());
    }
}
