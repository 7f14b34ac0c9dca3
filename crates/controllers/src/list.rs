//! The list of controllers. A controller is added by one line here.

use crate::Context;

/// A controller.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// Canonical name, as `--controllers` takes it.
    pub name: &'static str,
    /// Older names that `--controllers` takes as well.
    pub aliases: &'static [&'static str],
    /// Service account in kube-system that it acts as; the bootstrap role `system:controller:NAME` grants what it needs.
    pub service_account: &'static str,
    /// Whether `*` includes it.
    pub default: bool,
    /// Starts its tasks; returns at once.
    pub start: fn(Context),
}

const fn controller(
    name: &'static str,
    aliases: &'static [&'static str],
    service_account: &'static str,
    start: fn(Context),
) -> Descriptor {
    Descriptor {
        name,
        aliases,
        service_account,
        default: true,
        start,
    }
}

/// Every controller, in the order of their start.
#[rustfmt::skip]
pub const CONTROLLERS: &[Descriptor] = &[
    controller("serviceaccount-controller", &["serviceaccount"], "service-account-controller", crate::service_account::start),
    controller("root-ca-certificate-publisher-controller", &["root-ca-cert-publisher"], "root-ca-cert-publisher", crate::root_ca::start),
    controller("namespace-controller", &["namespace"], "namespace-controller", crate::namespace::start),
    controller("garbage-collector-controller", &["garbagecollector"], "generic-garbage-collector", crate::garbage::start),
    controller("deployment-controller", &["deployment"], "deployment-controller", crate::deployment::start),
    controller("replicaset-controller", &["replicaset"], "replicaset-controller", crate::replicaset::start),
    controller("daemonset-controller", &["daemonset"], "daemon-set-controller", crate::daemonset::start),
    controller("endpointslice-controller", &["endpointslice"], "endpointslice-controller", crate::endpointslice::start),
    controller("endpoints-controller", &["endpoint"], "endpoint-controller", crate::endpoints::start),
    controller("pod-garbage-collector-controller", &["podgc"], "pod-garbage-collector", crate::pod_gc::start),
    controller("node-ipam-controller", &["nodeipam"], "node-controller", crate::node_ipam::start),
    controller("node-lifecycle-controller", &["nodelifecycle"], "node-controller", crate::node_lifecycle::start),
    controller("taint-eviction-controller", &[], "node-controller", crate::taint_eviction::start),
    controller("ttl-controller", &["ttl"], "ttl-controller", crate::ttl::start),
    controller("disruption-controller", &["disruption"], "disruption-controller", crate::disruption::start),
    controller("persistentvolumeclaim-protection-controller", &["pvc-protection"], "pvc-protection-controller", crate::storage_protection::start_claims),
    controller("persistentvolume-protection-controller", &["pv-protection"], "pv-protection-controller", crate::storage_protection::start_volumes),
    controller("clusterrole-aggregation-controller", &["clusterrole-aggregation"], "clusterrole-aggregation-controller", crate::clusterrole_aggregation::start),
];

impl Descriptor {
    /// Whether `--controllers` asks for it: an explicit name, then an explicit `-name`, then `*`.
    pub fn is_enabled(&self, flag: &[String]) -> bool {
        let is = |s: &str| s == self.name || self.aliases.contains(&s);
        let mut star = false;
        for item in flag {
            if is(item) {
                return true;
            }
            if item.strip_prefix('-').is_some_and(is) {
                return false;
            }
            star |= item == "*";
        }
        star && self.default
    }
}

/// The items of `--controllers` that name nothing.
pub fn unknown(flag: &[String]) -> Vec<&str> {
    flag.iter()
        .map(String::as_str)
        .filter(|i| *i != "*")
        .filter(|i| {
            let name = i.strip_prefix('-').unwrap_or(i);
            !CONTROLLERS
                .iter()
                .any(|c| c.name == name || c.aliases.contains(&name))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique() {
        let mut seen = HashSet::new();
        for c in CONTROLLERS {
            for n in c.aliases.iter().chain([&c.name]) {
                assert!(seen.insert(*n), "{n} twice");
            }
        }
    }

    #[test]
    fn the_flag_selects() {
        let c = *CONTROLLERS
            .iter()
            .find(|c| c.aliases == ["deployment"])
            .unwrap();
        let on = |f: &[&str]| c.is_enabled(&f.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert!(on(&["*"]) && on(&[c.name]) && on(&[c.aliases[0]]));
        assert!(
            !on(&["*", "-deployment"])
                && !on(&["-deployment-controller", "*"])
                && !on(&["replicaset"])
                && !on(&[])
        );
    }
}
