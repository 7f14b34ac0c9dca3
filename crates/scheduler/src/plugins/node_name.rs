//! NodeName: a pod that names its node runs there only.

use crate::framework::{ClusterEvent, Filter, Plugin, Reason, Scope};
use crate::nodes::NodeTable;
use crate::pod::Pod;

struct NodeName;

impl Filter for NodeName {
    fn relevant(&self, pod: &Pod) -> bool {
        !pod.class.node_name.is_empty()
    }

    fn explain(&self, pod: &Pod, nodes: &NodeTable, row: usize) -> Vec<Reason> {
        match nodes.row(row) {
            Some(r) if r.name == pod.class.node_name => Vec::new(),
            _ => vec![Reason::fixed(
                "node(s) didn't match the requested node name",
            )],
        }
    }
}

/// The plugin.
pub fn plugin() -> Plugin {
    Plugin {
        filter: Some(Scope::Static(Box::new(NodeName))),
        hint: |event, _, _| matches!(event, ClusterEvent::Node { change, .. } if change.added),
        ..Plugin::new("NodeName")
    }
}
