//! NodeUnschedulable: cordoned nodes take pods only with a toleration for their taint.

use crate::framework::{ClusterEvent, Filter, Plugin, Reason, Scope};
use crate::nodes::NodeTable;
use crate::pod::Pod;
use crate::selector::tolerates;
use crate::view::Taint;

struct NodeUnschedulable(Taint);

impl Filter for NodeUnschedulable {
    fn relevant(&self, _: &Pod) -> bool {
        true
    }

    fn explain(&self, pod: &Pod, nodes: &NodeTable, row: usize) -> Vec<Reason> {
        match nodes.row(row) {
            Some(r)
                if r.unschedulable
                    && !pod.class.tolerations.iter().any(|t| tolerates(t, &self.0)) =>
            {
                vec![Reason::fixed("node(s) were unschedulable")]
            }
            _ => Vec::new(),
        }
    }
}

/// The plugin.
pub fn plugin() -> Plugin {
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        value: String::new(),
        effect: "NoSchedule".into(),
    };
    Plugin {
        filter: Some(Scope::Static(Box::new(NodeUnschedulable(taint)))),
        hint: |event, _, nodes| match event {
            ClusterEvent::Node { row, change } => {
                (change.added || change.taints) && nodes.row(*row).is_some_and(|r| !r.unschedulable)
            }
            _ => false,
        },
        ..Plugin::new("NodeUnschedulable")
    }
}
