//! TaintToleration: NoSchedule and NoExecute taints keep pods away, PreferNoSchedule taints cost score.

use crate::bits::BitSet;
use crate::framework::{ClusterEvent, Filter, Normalize, Plugin, Reason, Scope, Score};
use crate::nodes::NodeTable;
use crate::pod::Pod;
use crate::selector::{tolerates, untolerated};

const HARD: [&str; 2] = ["NoSchedule", "NoExecute"];

struct TaintToleration;

impl Filter for TaintToleration {
    fn relevant(&self, _: &Pod) -> bool {
        true
    }

    fn explain(&self, pod: &Pod, nodes: &NodeTable, row: usize) -> Vec<Reason> {
        match nodes
            .row(row)
            .and_then(|r| untolerated(&r.taints, &pod.class.tolerations, &HARD))
        {
            Some(_) => vec![Reason::fixed("node(s) had untolerated taint(s)")],
            None => Vec::new(),
        }
    }
}

impl Score for TaintToleration {
    fn relevant(&self, _: &Pod, _: &NodeTable) -> bool {
        true
    }

    fn score(&self, pod: &Pod, nodes: &NodeTable, rows: &BitSet, out: &mut [i64]) {
        let tolerations: Vec<_> = pod
            .class
            .tolerations
            .iter()
            .filter(|t| t.effect.is_empty() || t.effect == "PreferNoSchedule")
            .collect();
        for row in rows.iter() {
            let (Some(r), Some(o)) = (nodes.row(row), out.get_mut(row)) else {
                continue;
            };
            *o = r
                .taints
                .iter()
                .filter(|t| t.effect == "PreferNoSchedule")
                .filter(|taint| !tolerations.iter().any(|t| tolerates(t, taint)))
                .count() as i64;
        }
    }

    fn normalize(&self) -> Normalize {
        Normalize::Inverse
    }
}

/// The plugin.
pub fn plugin() -> Plugin {
    Plugin {
        weight: 3,
        filter: Some(Scope::Static(Box::new(TaintToleration))),
        score: Some(Scope::Static(Box::new(TaintToleration))),
        hint: |event, pod, nodes| match event {
            ClusterEvent::Node { row, change } => {
                (change.added || change.taints)
                    && nodes.row(*row).is_some_and(|r| {
                        untolerated(&r.taints, &pod.class.tolerations, &HARD).is_none()
                    })
            }
            _ => false,
        },
        ..Plugin::new("TaintToleration")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::tests::{node, view};
    use crate::pod::Classes;
    use crate::view::{Taint, Toleration};
    use std::sync::Arc;

    #[test]
    fn hard_taints_keep_away_and_soft_ones_count() {
        let mut t = NodeTable::default();
        for (name, taints) in [
            ("none", &[][..]),
            (
                "tolerated",
                &[("a", "PreferNoSchedule"), ("c", "PreferNoSchedule")],
            ),
            ("one", &[("b", "PreferNoSchedule")]),
            (
                "two",
                &[("b", "PreferNoSchedule"), ("d", "PreferNoSchedule")],
            ),
            ("hard", &[("d", "NoSchedule")]),
            ("hard-tolerated", &[("b", "NoSchedule")]),
            ("worse", &[("d", "NoExecute")]),
        ] {
            let mut n = node(name, "4", "8Gi");
            n.spec.taints = taints
                .iter()
                .map(|(key, effect)| Taint {
                    key: (*key).into(),
                    value: String::new(),
                    effect: (*effect).into(),
                })
                .collect();
            t.upsert_node(&n);
        }
        let mut v = view("p", "1", "");
        v.spec.tolerations = [("a", "PreferNoSchedule"), ("b", "NoSchedule"), ("c", "")]
            .map(|(key, effect)| Toleration {
                key: key.into(),
                operator: "Exists".into(),
                value: String::new(),
                effect: effect.into(),
            })
            .into();
        let p = Classes::default().pod(Arc::new(v));
        let mut out = vec![0; t.width()];
        TaintToleration.score(&p, &t, t.live(), &mut out);
        assert_eq!(out, [0, 0, 1, 2, 0, 0, 0]);
        let mut rows = t.live().clone();
        TaintToleration.apply(&p, &t, &mut rows);
        assert_eq!(rows.iter().collect::<Vec<_>>(), [0, 1, 2, 3, 5]);
    }
}
