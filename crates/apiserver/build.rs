//! Writes the descriptions of types and fields, which OpenAPI documents show, as one compressed table: records of
//! `type NUL field NUL description NUL`, the field empty for the type itself.

#![allow(
    clippy::panic,
    clippy::expect_used,
    reason = "a table that cannot be written stops the build"
)]

use std::io::Write as _;

use schemars::generate::SchemaSettings;

macro_rules! schemas {
    ($($($module:ident)::+ { $($kind:ident)+ })+) => {{
        let mut generator = SchemaSettings::draft2019_09().into_generator();
        $({
            use k8s_openapi::$($module)::+ as module;
            $(generator.subschema_for::<module::$kind>();)+
        })+
        generator.take_definitions(false)
    }};
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let schemas = schemas! {
        api::admissionregistration::v1 {
            MutatingAdmissionPolicy MutatingAdmissionPolicyBinding MutatingWebhookConfiguration
            ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration
        }
        api::apps::v1 { ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet }
        api::authentication::v1 { SelfSubjectReview TokenRequest TokenReview }
        api::authorization::v1 {
            LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview
        }
        api::autoscaling::v1 { HorizontalPodAutoscaler Scale }
        api::autoscaling::v2 { HorizontalPodAutoscaler }
        api::batch::v1 { CronJob Job }
        api::certificates::v1 { CertificateSigningRequest }
        api::coordination::v1 { Lease }
        api::core::v1 {
            Binding ComponentStatus ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume
            PersistentVolumeClaim Pod PodTemplate ReplicationController ResourceQuota Secret Service ServiceAccount
        }
        api::discovery::v1 { EndpointSlice }
        api::events::v1 { Event }
        api::flowcontrol::v1 { FlowSchema PriorityLevelConfiguration }
        api::networking::v1 { IPAddress Ingress IngressClass NetworkPolicy ServiceCIDR }
        api::node::v1 { RuntimeClass }
        api::policy::v1 { Eviction PodDisruptionBudget }
        api::rbac::v1 { ClusterRole ClusterRoleBinding Role RoleBinding }
        api::resource::v1 { DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice }
        api::scheduling::v1 { PriorityClass }
        api::storage::v1 {
            CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment VolumeAttributesClass
        }
        apiextensions_apiserver::pkg::apis::apiextensions::v1 { CustomResourceDefinition }
        kube_aggregator::pkg::apis::apiregistration::v1 { APIService }
        apimachinery::pkg::apis::meta::v1 { APIGroupList APIResourceList APIVersions DeleteOptions ListMeta Status }
    };
    let mut table = String::new();
    let mut record = |of: &str, field: &str, schema: &serde_json::Value| {
        if let Some(text) = schema
            .get("description")
            .and_then(serde_json::Value::as_str)
        {
            for part in [of, field, text] {
                table.push_str(part);
                table.push('\0');
            }
        }
    };
    for (name, schema) in &schemas {
        record(name, "", schema);
        let properties = schema
            .get("properties")
            .and_then(serde_json::Value::as_object);
        for (field, schema) in properties.into_iter().flatten() {
            record(name, field, schema);
        }
    }
    let file = std::path::Path::new(&std::env::var_os("OUT_DIR").expect("set by cargo"))
        .join("descriptions");
    let file = std::fs::File::create(file).expect("a file to write");
    let mut out = flate2::write::DeflateEncoder::new(file, flate2::Compression::best());
    out.write_all(table.as_bytes()).expect("written");
    out.finish().expect("written");
}
