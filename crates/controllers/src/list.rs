//! The list of controllers. A controller is added by one line here.

use component::support::{Support, warned};

use crate::Context;

/// A controller.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// Canonical name, as `--controllers` takes it.
    pub name: &'static str,
    /// Older names that `--controllers` takes as well.
    pub aliases: &'static [&'static str],
    /// Service account in kube-system that it acts as; the bootstrap role `system:controller:NAME` grants what it needs.
    /// Empty for one that acts as the controller manager itself.
    pub service_account: &'static str,
    /// Whether `*` includes it.
    pub default: bool,
    /// How far it is there. An absent one may be named, with a warning: installers name controllers without need.
    pub support: Support,
    /// Starts its tasks; returns at once. `None` for absent ones.
    pub start: Option<fn(Context)>,
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
        support: Support::Full,
        start: Some(start),
    }
}

/// There, with something missing.
const fn partial(
    name: &'static str,
    aliases: &'static [&'static str],
    service_account: &'static str,
    start: fn(Context),
    what: &'static str,
) -> Descriptor {
    Descriptor {
        support: Support::Partial(what),
        ..controller(name, aliases, service_account, start)
    }
}

/// There, and off by default, as upstream.
const fn off(
    name: &'static str,
    aliases: &'static [&'static str],
    service_account: &'static str,
    start: fn(Context),
) -> Descriptor {
    Descriptor {
        default: false,
        ..controller(name, aliases, service_account, start)
    }
}

/// There, with something missing, and off by default, as upstream.
const fn partial_and_off(
    name: &'static str,
    aliases: &'static [&'static str],
    service_account: &'static str,
    start: fn(Context),
    what: &'static str,
) -> Descriptor {
    Descriptor {
        default: false,
        ..partial(name, aliases, service_account, start, what)
    }
}

const fn absent(
    name: &'static str,
    aliases: &'static [&'static str],
    what: &'static str,
) -> Descriptor {
    Descriptor {
        name,
        aliases,
        service_account: "",
        default: true,
        support: warned(what),
        start: None,
    }
}

/// Every controller upstream knows, in the order of their start.
#[rustfmt::skip]
pub const CONTROLLERS: &[Descriptor] = &[
    controller("serviceaccount-token-controller", &["serviceaccount-token"], "", crate::service_account_tokens::start),
    controller("serviceaccount-controller", &["serviceaccount"], "service-account-controller", crate::service_account::start),
    controller("root-ca-certificate-publisher-controller", &["root-ca-cert-publisher"], "root-ca-cert-publisher", crate::root_ca::start),
    controller("namespace-controller", &["namespace"], "namespace-controller", crate::namespace::start),
    controller("garbage-collector-controller", &["garbagecollector"], "generic-garbage-collector", crate::garbage::start),
    controller("deployment-controller", &["deployment"], "deployment-controller", crate::deployment::start),
    controller("replicaset-controller", &["replicaset"], "replicaset-controller", crate::replicaset::start),
    controller("replicationcontroller-controller", &["replicationcontroller"], "replication-controller", crate::replication::start),
    partial("job-controller", &["job"], "job-controller", crate::job::start, "its metrics are not there"),
    partial("daemonset-controller", &["daemonset"], "daemon-set-controller", crate::daemonset::start, "failed pods are replaced without a growing delay"),
    partial("statefulset-controller", &["statefulset"], "statefulset-controller", crate::statefulset::start, "the metrics of MaxUnavailableStatefulSet are not there"),
    partial("resourcequota-controller", &["resourcequota"], "resourcequota-controller", crate::resourcequota::start, "resource claims do not count as the extended resources of their device classes"),
    partial("endpointslice-controller", &["endpointslice"], "endpointslice-controller", crate::endpointslice::start, "its metrics are not there"),
    controller("endpoints-controller", &["endpoint"], "endpoint-controller", crate::endpoints::start),
    partial("endpointslice-mirroring-controller", &["endpointslicemirroring"], "endpointslicemirroring-controller", crate::endpointslice_mirroring::start, "its metrics are not there"),
    controller("pod-garbage-collector-controller", &["podgc"], "pod-garbage-collector", crate::pod_gc::start),
    controller("node-ipam-controller", &["nodeipam"], "node-controller", crate::node_ipam::start),
    controller("node-lifecycle-controller", &["nodelifecycle"], "node-controller", crate::node_lifecycle::start),
    controller("taint-eviction-controller", &[], "node-controller", crate::taint_eviction::start),
    off("bootstrap-signer-controller", &["bootstrapsigner"], "bootstrap-signer", crate::bootstrap::start_signer),
    off("token-cleaner-controller", &["tokencleaner"], "token-cleaner", crate::bootstrap::start_cleaner),
    controller("certificatesigningrequest-signing-controller", &["csrsigning"], "certificate-controller", crate::certificates::signing::start),
    controller("certificatesigningrequest-approving-controller", &["csrapproving"], "certificate-controller", crate::certificates::approving::start),
    controller("certificatesigningrequest-cleaner-controller", &["csrcleaner"], "certificate-controller", crate::certificates::cleaning::start),
    controller("cronjob-controller", &["cronjob"], "cronjob-controller", crate::cronjob::start),
    controller("ttl-after-finished-controller", &["ttl-after-finished"], "ttl-after-finished-controller", crate::ttl_after_finished::start),
    controller("ttl-controller", &["ttl"], "ttl-controller", crate::ttl::start),
    partial("horizontal-pod-autoscaler-controller", &["horizontalpodautoscaling"], "horizontal-pod-autoscaler", crate::hpa::start, "nothing is scaled to or from zero"),
    controller("disruption-controller", &["disruption"], "disruption-controller", crate::disruption::start),
    controller("persistentvolumeclaim-protection-controller", &["pvc-protection"], "pvc-protection-controller", crate::storage_protection::start_claims),
    controller("persistentvolume-protection-controller", &["pv-protection"], "pv-protection-controller", crate::storage_protection::start_volumes),
    partial("persistentvolume-binder-controller", &["persistentvolume-binder"], "persistent-volume-binder", crate::volumes::start, "claims that wait for a consumer get what is reserved for them; hostPath and nfs volumes are not recycled"),
    partial("ephemeral-volume-controller", &["ephemeral-volume"], "ephemeral-volume-controller", crate::ephemeral_volume::start, "its metrics are not there"),
    partial("persistentvolume-attach-detach-controller", &["attachdetach"], "attachdetach-controller", crate::attach::start, "volumes of drivers; those of kinds fc and iscsi, and of former plugins, are not reported as attached; the metrics are not there"),
    partial("persistentvolume-expander-controller", &["persistentvolume-expander"], "expand-controller", crate::expand::start, "the new size of flexVolumes is not written"),
    controller("volumeattributesclass-protection-controller", &[], "volumeattributesclass-protection-controller", crate::attributes_class::start),
    partial_and_off("selinux-warning-controller", &[], "selinux-warning-controller", crate::selinux::start, "volumes of drivers only; its metric is not there"),
    controller("clusterrole-aggregation-controller", &["clusterrole-aggregation"], "clusterrole-aggregation-controller", crate::clusterrole_aggregation::start),
    controller("legacy-serviceaccount-token-cleaner-controller", &["legacy-service-account-token-cleaner"], "legacy-service-account-token-cleaner", crate::legacy_tokens::start),
    controller("service-cidr-controller", &[], "service-cidrs-controller", crate::service_cidrs::start),
    partial("resourceclaim-controller", &["resource-claim-controller"], "resource-claim-controller", crate::resource_claims::start, "claims of pod groups are not made; no scheduler of this release allocates any"),
    absent("cloud-node-lifecycle-controller", &["cloud-node-lifecycle"], "no controller talks to a cloud"),
    absent("device-taint-eviction-controller", &[], "tainted devices evict nobody; no pod of this release has devices"),
    absent("kube-apiserver-serving-clustertrustbundle-publisher-controller", &[], "no trust bundle is published, as upstream without the gate ClusterTrustBundle, which is off by default"),
    absent("node-route-controller", &["route"], "no controller talks to a cloud"),
    absent("podcertificaterequest-cleaner-controller", &[], "requests stay until they are deleted, as upstream without the gate PodCertificateRequest, which is off by default"),
    absent("podgroup-protection-controller", &[], "there are no pod groups"),
    absent("resourcepoolstatusrequest-controller", &[], "there are no requests for the status of resource pools, which are alpha upstream"),
    absent("service-ca-certificate-publisher-controller", &["service-ca-cert-publisher"], "no service CA is published"),
    absent("service-lb-controller", &["service"], "no controller talks to a cloud"),
    absent("storage-version-migrator-controller", &[], "objects are stored anew by who writes them, as upstream without the gate StorageVersionMigrator, which is off by default"),
    absent("storageversion-garbage-collector-controller", &["storage-version-gc"], "there are no storage versions, which are alpha upstream"),
    absent("validatingadmissionpolicy-status-controller", &[], "policies are not type-checked"),
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

/// The controller that an item of `--controllers` names, with or without a minus.
fn named(item: &str) -> Option<&'static Descriptor> {
    let name = item.strip_prefix('-').unwrap_or(item);
    CONTROLLERS
        .iter()
        .find(|c| c.name == name || c.aliases.contains(&name))
}

/// Whether `--controllers` asks for the controller of a name.
pub fn is_enabled(name: &str, flag: &[String]) -> bool {
    named(name).is_some_and(|c| c.is_enabled(flag))
}

/// Refuses what upstream does not know either.
///
/// # Errors
/// Upstream's message.
pub fn check(flag: &[String]) -> Result<(), String> {
    match flag.iter().find(|i| *i != "*" && named(i).is_none()) {
        Some(i) => {
            let name = i.strip_prefix('-').unwrap_or(i);
            Err(format!(
                "\"{name}\" is not in the list of known controllers"
            ))
        }
        None => Ok(()),
    }
}

/// The enabled controllers that are not there.
pub fn missing(flag: &[String]) -> impl Iterator<Item = &'static Descriptor> + use<'_> {
    CONTROLLERS
        .iter()
        .filter(|c| !c.support.is_there() && c.is_enabled(flag))
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

    #[test]
    fn what_is_there_starts_and_the_rest_is_told() {
        for c in CONTROLLERS {
            assert_eq!(c.support.is_there(), c.start.is_some(), "{}", c.name);
        }
        let flag = |f: &[&str]| f.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let missing = |f: &[&str]| missing(&flag(f)).map(|c| c.name).collect::<Vec<_>>();
        assert!(missing(&["*"]).contains(&"service-lb-controller"));
        let off = "selinux-warning-controller";
        assert!(!is_enabled(off, &flag(&["*"])) && is_enabled(off, &flag(&["*", off])));
        assert!(!missing(&["*", "-service"]).contains(&"service-lb-controller"));
        assert_eq!(
            check(&flag(&["*", "-nope"])),
            Err("\"nope\" is not in the list of known controllers".into())
        );
        assert_eq!(check(&flag(&["*", "-service", "bootstrapsigner"])), Ok(()));
    }
}
