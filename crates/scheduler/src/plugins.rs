//! The list of plugins. Order is the order of filtering, as in upstream's default profile.

use component::support::{Support, refused, warned};

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

/// Makes a plugin for a profile.
pub type Make = fn(&Profile) -> Plugin;

/// A line of the list.
pub struct Descriptor {
    /// As the configuration names it.
    pub name: &'static str,
    /// How far it is there.
    pub support: Support,
    /// `None` for what is absent, and for what the scheduler does outside of plugins.
    pub make: Option<Make>,
}

const fn plugin(name: &'static str, make: Make) -> Descriptor {
    Descriptor {
        name,
        support: Support::Full,
        make: Some(make),
    }
}

/// Part of the scheduler itself.
const fn inside(name: &'static str, support: Support) -> Descriptor {
    Descriptor {
        name,
        support,
        make: None,
    }
}

const NO_VOLUMES: Support = warned("pods are placed without a look at their volumes");

/// Every plugin upstream knows.
#[rustfmt::skip]
pub static PLUGINS: &[Descriptor] = &[
    plugin("SchedulingGates", |_| scheduling_gates::plugin()),
    inside("PrioritySort", Support::Full),
    plugin("NodeUnschedulable", |_| node_unschedulable::plugin()),
    plugin("NodeName", |_| node_name::plugin()),
    plugin("TaintToleration", |_| taint_toleration::plugin()),
    plugin("NodeAffinity", |_| node_affinity::plugin()),
    plugin("NodePorts", |_| node_ports::plugin()),
    plugin("NodeResourcesFit", node_resources_fit::plugin),
    inside("VolumeRestrictions", NO_VOLUMES),
    inside("NodeVolumeLimits", NO_VOLUMES),
    inside("VolumeBinding", NO_VOLUMES),
    inside("VolumeZone", NO_VOLUMES),
    plugin("PodTopologySpread", |_| pod_topology_spread::plugin()),
    plugin("InterPodAffinity", |_| inter_pod_affinity::plugin()),
    inside("DynamicResources", warned("pods are placed without a look at their resource claims")),
    inside("NodeDeclaredFeatures", warned("nodes declare no features")),
    inside("DefaultPreemption", Support::Full),
    plugin("NodeResourcesBalancedAllocation", |_| balanced_allocation::plugin()),
    plugin("ImageLocality", |_| image_locality::plugin()),
    inside("DefaultBinder", Support::Full),
    inside("GangScheduling", refused("pods are placed one by one")),
    inside("PodGroupPodsCount", refused("pods are placed one by one")),
    inside("TopologyPlacementGenerator", refused("pods are placed one by one")),
];

/// Every plugin that is there and not switched off, made for a profile.
pub fn all(profile: &Profile) -> Vec<Plugin> {
    PLUGINS
        .iter()
        .filter(|d| !profile.disabled.contains(d.name))
        .filter_map(|d| d.make)
        .map(|make| {
            let mut plugin = make(profile);
            if profile.unfiltered.contains(plugin.name) {
                plugin.filter = None;
            }
            plugin
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_those_of_the_plugins() {
        let profile = Profile::default();
        for (i, d) in PLUGINS.iter().enumerate() {
            assert!(
                PLUGINS.iter().skip(i + 1).all(|o| o.name != d.name),
                "{}",
                d.name
            );
            if let Some(make) = d.make {
                assert_eq!(make(&profile).name, d.name);
                assert!(d.support.is_there(), "{}", d.name);
            }
        }
    }

    #[test]
    fn a_plugin_without_its_filter_still_scores() {
        let profile = Profile {
            unfiltered: ["NodeResourcesFit".to_owned()].into(),
            disabled: ["NodePorts".to_owned()].into(),
            ..Profile::default()
        };
        let plugins = all(&profile);
        assert!(plugins.iter().all(|p| p.name != "NodePorts"));
        let fit = plugins
            .iter()
            .find(|p| p.name == "NodeResourcesFit")
            .unwrap();
        assert!(fit.filter.is_none() && fit.score.is_some());
    }
}
