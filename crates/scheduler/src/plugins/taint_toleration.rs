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
