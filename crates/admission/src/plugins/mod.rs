//! The plugins, one file each, in upstream's order. To add one: a file, a `mod` line, and its `make` in [`ALL`], which also
//! says what is absent.

mod always_pull_images;
mod certificates;
mod claim_resize;
mod default_ingress_class;
mod default_storage_class;
mod default_toleration_seconds;
mod deny_external_ips;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod node_taint;
mod priority;
mod resource_quota;
mod runtime_class;
mod service_account;
mod storage_protection;

use std::sync::Arc;

use component::support::{Support, refused, warned};

use crate::chain::{Descriptor, Make};

const fn on(name: &'static str, make: Make) -> Descriptor {
    Descriptor {
        name,
        default_on: true,
        support: Support::Full,
        make: Some(make),
    }
}

const fn off(name: &'static str, make: Make) -> Descriptor {
    Descriptor {
        name,
        default_on: false,
        support: Support::Full,
        make: Some(make),
    }
}

/// Not there, and off by default upstream too.
const fn absent(name: &'static str, why: &'static str) -> Descriptor {
    Descriptor {
        name,
        default_on: false,
        support: refused(why),
        make: None,
    }
}

/// Not there, though upstream runs it by default.
const fn missing(name: &'static str, support: Support) -> Descriptor {
    Descriptor {
        name,
        default_on: true,
        support,
        make: None,
    }
}

/// Upstream runs it, but it does nothing while its gate is off, as it is by default.
const GATED: Support = warned("its gate is off by default, and what it guards is not there");

/// Every plugin upstream knows, in its order.
pub const ALL: &[Descriptor] = &[
    absent("AlwaysAdmit", "it does nothing"),
    absent(
        "NamespaceAutoProvision",
        "namespaces are made by who needs them",
    ),
    on("NamespaceLifecycle", |_| {
        Arc::new(namespace_lifecycle::NamespaceLifecycle)
    }),
    absent(
        "NamespaceExists",
        "NamespaceLifecycle refuses unknown namespaces",
    ),
    absent(
        "LimitPodHardAntiAffinityTopology",
        "anti-affinity is not limited",
    ),
    on("LimitRanger", |_| Arc::new(limit_ranger::LimitRanger)),
    on("ServiceAccount", |_| {
        Arc::new(service_account::ServiceAccount)
    }),
    off("NodeRestriction", |d| {
        Arc::new(node_restriction::NodeRestriction(Arc::clone(&d.authorizer)))
    }),
    on("TaintNodesByCondition", |_| {
        Arc::new(node_taint::TaintNodesByCondition)
    }),
    off("AlwaysPullImages", |_| {
        Arc::new(always_pull_images::AlwaysPullImages)
    }),
    absent("ImagePolicyWebhook", "no webhook is called"),
    missing(
        "PodSecurity",
        refused("the labels of pod security levels are stored and nothing enforces them"),
    ),
    absent("PodNodeSelector", "namespaces have no node selectors"),
    on("Priority", |_| Arc::new(priority::Priority)),
    on("DefaultTolerationSeconds", |d| {
        Arc::new(default_toleration_seconds::DefaultTolerationSeconds {
            not_ready: d.not_ready_seconds,
            unreachable: d.unreachable_seconds,
        })
    }),
    absent("PodTolerationRestriction", "namespaces have no tolerations"),
    absent("EventRateLimit", "events are not limited"),
    absent(
        "ExtendedResourceToleration",
        "no tolerations are added for extended resources",
    ),
    on("DefaultStorageClass", |_| {
        Arc::new(default_storage_class::DefaultStorageClass)
    }),
    on("StorageObjectInUseProtection", |_| {
        Arc::new(storage_protection::StorageObjectInUseProtection)
    }),
    missing("PodGroupProtection", GATED),
    absent(
        "OwnerReferencesPermissionEnforcement",
        "owner references are not guarded",
    ),
    on("PersistentVolumeClaimResize", |_| {
        Arc::new(claim_resize::PersistentVolumeClaimResize)
    }),
    on("RuntimeClass", |_| Arc::new(runtime_class::RuntimeClass)),
    on("CertificateApproval", |d| {
        Arc::new(certificates::Approval(Arc::clone(&d.authorizer)))
    }),
    on("CertificateSigning", |d| {
        Arc::new(certificates::Signing(Arc::clone(&d.authorizer)))
    }),
    missing(
        "ClusterTrustBundleAttest",
        refused("bundles of a signer need no right to attest"),
    ),
    on("CertificateSubjectRestriction", |_| {
        Arc::new(certificates::SubjectRestriction)
    }),
    on("DefaultIngressClass", |_| {
        Arc::new(default_ingress_class::DefaultIngressClass)
    }),
    off("DenyServiceExternalIPs", |_| {
        Arc::new(deny_external_ips::DenyServiceExternalIPs)
    }),
    missing(
        "PodTopologyLabels",
        refused("bound pods do not get the topology labels of their node"),
    ),
    missing("PodGroupWorkloadExists", GATED),
    missing(
        "NodeDeclaredFeatureValidator",
        warned("nodes declare no features"),
    ),
    missing("JobValidation", GATED),
    missing(
        "PodResizeValidator",
        refused("whether a node can resize a pod is not checked"),
    ),
    missing("MutatingAdmissionPolicy", refused("no policy is evaluated")),
    missing("MutatingAdmissionWebhook", refused("no webhook is called")),
    missing(
        "ValidatingAdmissionPolicy",
        refused("no policy is evaluated"),
    ),
    missing(
        "ValidatingAdmissionWebhook",
        refused("no webhook is called"),
    ),
    Descriptor {
        support: Support::Partial(
            "resource claims do not count as the extended resources of their device classes",
        ),
        ..on("ResourceQuota", |d| {
            Arc::new(resource_quota::ResourceQuota::new(
                d.quotas.clone(),
                d.limited.clone(),
            ))
        })
    },
    absent("AlwaysDeny", "it is for tests"),
];

/// How far a plugin is there.
pub fn support(name: &str) -> Option<Support> {
    ALL.iter().find(|d| d.name == name).map(|d| d.support)
}
