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
pub mod node_volume_limits;
pub mod pod_topology_spread;
pub mod scheduling_gates;
pub mod taint_toleration;
pub mod volume_binding;
pub mod volume_restrictions;
pub mod volume_zone;

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

const fn partly(name: &'static str, make: Make, without: &'static str) -> Descriptor {
    Descriptor {
        name,
        support: Support::Partial(without),
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
    plugin("VolumeRestrictions", |_| volume_restrictions::plugin()),
    plugin("NodeVolumeLimits", |_| node_volume_limits::plugin()),
    partly("VolumeBinding", volume_binding::plugin, "in-tree volumes' affinity is taken as it is written; nothing is scored"),
    plugin("VolumeZone", |_| volume_zone::plugin()),
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
                plugin.pre_filter = None;
                plugin.filter = None;
                plugin.hold = None;
            }
            plugin
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::framework::ClusterEvent;
    use crate::nodes::tests::{node, view};
    use crate::nodes::{NodeChange, NodeTable};
    use crate::pod::{Classes, Pod};
    use crate::view::{Port, Taint};

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

    /// Source: upstream's default profile. A weight of 0 is that of a plugin without a score.
    #[test]
    fn what_each_does_and_how_much_it_counts() {
        let found: Vec<_> = all(&Profile::default())
            .iter()
            .map(|p| {
                (
                    p.name,
                    p.pre_enqueue.is_some(),
                    p.filter.is_some(),
                    p.weight,
                )
            })
            .collect();
        let want = [
            ("SchedulingGates", true, false, 0),
            ("NodeUnschedulable", false, true, 0),
            ("NodeName", false, true, 0),
            ("TaintToleration", false, true, 3),
            ("NodeAffinity", false, true, 2),
            ("NodePorts", false, true, 0),
            ("NodeResourcesFit", false, true, 1),
            ("VolumeRestrictions", false, true, 0),
            ("NodeVolumeLimits", false, true, 0),
            ("VolumeBinding", false, true, 0),
            ("VolumeZone", false, true, 0),
            ("PodTopologySpread", false, true, 2),
            ("InterPodAffinity", false, true, 2),
            ("NodeResourcesBalancedAllocation", false, false, 1),
            ("ImageLocality", false, false, 1),
        ];
        assert_eq!(found, want);
        for p in all(&Profile::default()) {
            assert_eq!(p.score.is_some(), p.weight > 0, "{}", p.name);
        }
    }

    /// What may have helped a pod that a filter refused wakes it, and nothing else does.
    #[test]
    fn what_each_filter_waits_for() {
        let mut t = NodeTable::default();
        t.upsert_node(&node("good", "4", "8Gi"));
        let mut bad = node("bad", "1", "8Gi");
        bad.spec.unschedulable = true;
        bad.spec.taints.push(Taint {
            key: "k".into(),
            value: String::new(),
            effect: "NoSchedule".into(),
        });
        t.upsert_node(&bad);
        let with_port = |uid: &str, port: i32| -> Pod {
            let mut v = view(uid, "2", "");
            v.spec.containers[0].ports.push(Port {
                host_port: port,
                ..Port::default()
            });
            Classes::default().pod(Arc::new(v))
        };
        let (waits, same, other) = (
            with_port("waits", 80),
            with_port("same", 80),
            with_port("other", 81),
        );
        let row = |name: &str| t.find(name).unwrap();
        let of = |name: &str, change: NodeChange| ClusterEvent::Node {
            row: row(name),
            change,
        };
        let none = NodeChange::default();
        let added = NodeChange {
            added: true,
            ..none
        };
        let labels = NodeChange {
            labels: true,
            ..none
        };
        let taints = NodeChange {
            taints: true,
            ..none
        };
        let allocatable = NodeChange {
            allocatable: true,
            ..none
        };
        let [
            unschedulable,
            name,
            taint,
            affinity,
            ports,
            fit,
            shared,
            volumes,
            zone,
            spread,
            pods,
        ] = [
            "NodeUnschedulable",
            "NodeName",
            "TaintToleration",
            "NodeAffinity",
            "NodePorts",
            "NodeResourcesFit",
            "VolumeRestrictions",
            "VolumeBinding",
            "VolumeZone",
            "PodTopologySpread",
            "InterPodAffinity",
        ];
        for (event, want) in [
            (
                of("good", added),
                &[
                    unschedulable,
                    name,
                    taint,
                    affinity,
                    ports,
                    fit,
                    shared,
                    volumes,
                    zone,
                    spread,
                    pods,
                ][..],
            ),
            (
                of("bad", added),
                &[name, affinity, ports, shared, volumes, zone, spread, pods],
            ),
            (of("good", labels), &[affinity, volumes, zone, spread, pods]),
            (of("good", taints), &[unschedulable, taint, spread]),
            (of("bad", taints), &[spread]),
            (of("good", allocatable), &[fit]),
            (of("bad", allocatable), &[]),
            (of("good", none), &[]),
            (ClusterEvent::PodGone(&same), &[ports, fit, spread, pods]),
            (ClusterEvent::PodGone(&other), &[fit, spread, pods]),
            (ClusterEvent::PodPlaced(&same), &[spread, pods]),
        ] {
            let woken: Vec<_> = all(&Profile::default())
                .iter()
                .filter(|p| p.filter.is_some() && (p.hint)(&event, &waits, &t))
                .map(|p| p.name)
                .collect();
            assert_eq!(woken, want, "{event:?}");
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
