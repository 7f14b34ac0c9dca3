//! NodePorts: host ports are exclusive per node, address and protocol.

use crate::framework::{ClusterEvent, Filter, Plugin, Reason, Scope};
use crate::nodes::NodeTable;
use crate::pod::{HostPorts, Pod};

struct NodePorts;

impl Filter for NodePorts {
    fn relevant(&self, pod: &Pod) -> bool {
        !pod.usage.ports.is_empty()
    }

    fn explain(&self, pod: &Pod, nodes: &NodeTable, row: usize) -> Vec<Reason> {
        let taken = nodes
            .row(row)
            .is_some_and(|r| pod.usage.ports.iter().any(|p| r.ports.conflicts(p)));
        if taken {
            vec![Reason::resolvable(
                "node(s) didn't have free ports for the requested pod ports",
            )]
        } else {
            Vec::new()
        }
    }
}

/// The plugin.
pub fn plugin() -> Plugin {
    Plugin {
        filter: Some(Scope::Dynamic(Box::new(NodePorts))),
        hint: |event, pod, _| match event {
            ClusterEvent::Node { change, .. } => change.added,
            ClusterEvent::PodGone(gone) => {
                let gone = HostPorts::of(&gone.usage);
                pod.usage.ports.iter().any(|p| gone.conflicts(p))
            }
            ClusterEvent::PodPlaced(_) | ClusterEvent::Storage(_) => false,
        },
        ..Plugin::new("NodePorts")
    }
}
