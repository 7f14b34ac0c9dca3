//! NodeAffinity: `nodeSelector` and required node affinity decide, preferred node affinity scores.

use crate::bits::BitSet;
use crate::framework::{ClusterEvent, Filter, Normalize, Plugin, Reason, Scope, Score};
use crate::nodes::{NodeTable, Row};
use crate::pod::{Class, Pod};
use crate::selector::{selector_matches, term_matches};

struct NodeAffinity;

/// Whether a row satisfies the class's nodeSelector and required node affinity.
pub fn suits(class: &Class, row: &Row) -> bool {
    class
        .node_selector
        .iter()
        .all(|(k, v)| row.labels.get(k) == Some(v))
        && class
            .node_affinity
            .as_ref()
            .and_then(|a| a.required.as_ref())
            .is_none_or(|s| selector_matches(s, &row.name, &row.labels))
}

impl Filter for NodeAffinity {
    fn relevant(&self, pod: &Pod) -> bool {
        !pod.class.node_selector.is_empty()
            || pod
                .class
                .node_affinity
                .as_ref()
                .is_some_and(|a| a.required.is_some())
    }

    fn explain(&self, pod: &Pod, nodes: &NodeTable, row: usize) -> Vec<Reason> {
        match nodes.row(row) {
            Some(r) if suits(&pod.class, r) => Vec::new(),
            _ => vec![Reason::fixed(
                "node(s) didn't match Pod's node affinity/selector",
            )],
        }
    }
}

impl Score for NodeAffinity {
    fn relevant(&self, pod: &Pod, _: &NodeTable) -> bool {
        pod.class
            .node_affinity
            .as_ref()
            .is_some_and(|a| !a.preferred.is_empty())
    }

    fn score(&self, pod: &Pod, nodes: &NodeTable, rows: &BitSet, out: &mut [i64]) {
        let Some(affinity) = &pod.class.node_affinity else {
            return;
        };
        for row in rows.iter() {
            let (Some(r), Some(o)) = (nodes.row(row), out.get_mut(row)) else {
                continue;
            };
            *o = affinity
                .preferred
                .iter()
                .filter(|p| term_matches(&p.preference, &r.name, &r.labels))
                .map(|p| p.weight)
                .sum();
        }
    }

    fn normalize(&self) -> Normalize {
        Normalize::Proportional
    }
}

/// The plugin.
pub fn plugin() -> Plugin {
    Plugin {
        weight: 2,
        filter: Some(Scope::Static(Box::new(NodeAffinity))),
        score: Some(Scope::Static(Box::new(NodeAffinity))),
        hint: |event, pod, nodes| match event {
            ClusterEvent::Node { row, change } => {
                (change.added || change.labels)
                    && nodes.row(*row).is_some_and(|r| suits(&pod.class, r))
            }
            _ => false,
        },
        ..Plugin::new("NodeAffinity")
    }
}
