//! The plugins, one file each, in upstream's order. To add one: a file, a `mod` line, and its `make` in [`ALL`].
//!
//! Absent so far, though upstream runs them by default: PodSecurity, PodGroupProtection, ClusterTrustBundleAttest,
//! PodTopologyLabels, ResourceQuota; webhooks and policies live elsewhere.

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
mod runtime_class;
mod service_account;
mod storage_protection;

use std::sync::Arc;

use crate::chain::{Descriptor, Make};

const fn on(name: &'static str, make: Make) -> Descriptor {
    Descriptor {
        name,
        default_on: true,
        make: Some(make),
    }
}

const fn off(name: &'static str, make: Make) -> Descriptor {
    Descriptor {
        name,
        default_on: false,
        make: Some(make),
    }
}

const fn absent(name: &'static str, default_on: bool) -> Descriptor {
    Descriptor {
        name,
        default_on,
        make: None,
    }
}

/// Every plugin upstream knows, in its order.
pub const ALL: &[Descriptor] = &[
    absent("AlwaysAdmit", false),
    absent("NamespaceAutoProvision", false),
    on("NamespaceLifecycle", |_| {
        Arc::new(namespace_lifecycle::NamespaceLifecycle)
    }),
    absent("NamespaceExists", false),
    absent("LimitPodHardAntiAffinityTopology", false),
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
    absent("ImagePolicyWebhook", false),
    absent("PodSecurity", true),
    absent("PodNodeSelector", false),
    on("Priority", |_| Arc::new(priority::Priority)),
    on("DefaultTolerationSeconds", |_| {
        Arc::new(default_toleration_seconds::DefaultTolerationSeconds)
    }),
    absent("PodTolerationRestriction", false),
    absent("EventRateLimit", false),
    absent("ExtendedResourceToleration", false),
    on("DefaultStorageClass", |_| {
        Arc::new(default_storage_class::DefaultStorageClass)
    }),
    on("StorageObjectInUseProtection", |_| {
        Arc::new(storage_protection::StorageObjectInUseProtection)
    }),
    absent("PodGroupProtection", true),
    absent("OwnerReferencesPermissionEnforcement", false),
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
    absent("ClusterTrustBundleAttest", true),
    on("CertificateSubjectRestriction", |_| {
        Arc::new(certificates::SubjectRestriction)
    }),
    on("DefaultIngressClass", |_| {
        Arc::new(default_ingress_class::DefaultIngressClass)
    }),
    off("DenyServiceExternalIPs", |_| {
        Arc::new(deny_external_ips::DenyServiceExternalIPs)
    }),
    absent("PodTopologyLabels", true),
    absent("PodGroupWorkloadExists", false),
    absent("NodeDeclaredFeatureValidator", true),
    absent("JobValidation", true),
    absent("PodResizeValidator", true),
    absent("MutatingAdmissionPolicy", true),
    absent("MutatingAdmissionWebhook", true),
    absent("ValidatingAdmissionPolicy", true),
    absent("ValidatingAdmissionWebhook", true),
    absent("ResourceQuota", true),
    absent("AlwaysDeny", false),
];
