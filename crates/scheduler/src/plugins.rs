//! The list of plugins. Order is the order of filtering, as in upstream's default profile.

use crate::config::Profile;
use crate::framework::Plugin;

pub mod balanced_allocation;
pub mod image_locality;
pub mod inter_pod_affinity;
pub mod node_affinity;
pub mod node_name;
pub mod node_ports;
pub mod node_resources_fit;
pub mod node_unschedulable;
pub mod pod_topology_spread;
pub mod scheduling_gates;
pub mod taint_toleration;

/// Every plugin, made for a profile.
pub fn all(profile: &Profile) -> Vec<Plugin> {
    vec![
        scheduling_gates::plugin(),
        node_unschedulable::plugin(),
        node_name::plugin(),
        taint_toleration::plugin(),
        node_affinity::plugin(),
        node_ports::plugin(),
        node_resources_fit::plugin(profile),
        pod_topology_spread::plugin(),
        inter_pod_affinity::plugin(),
        balanced_allocation::plugin(),
        image_locality::plugin(),
    ]
}
