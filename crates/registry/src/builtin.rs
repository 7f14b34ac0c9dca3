//! The list of built-in resources and how a definition is made from a line of it.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use apiserver::resource::{
    ActionSubresource, Computed, Conversion, MetaChecks, Printer, ResourceDef, StorageDef,
    Strategy, Subresource, SubresourceKind,
};
use storage::SharedStore;

use crate::print;
use crate::resources as r;
use crate::resources::token::TokenIssuer;

/// What the resources need of the server.
#[derive(Clone)]
pub struct Config {
    /// For allocators (addresses, node ports).
    pub store: SharedStore,
    /// `--service-cluster-ip-range`: the primary range and, dual-stack, the secondary.
    pub service_cidrs: Vec<(IpAddr, u8)>,
    /// `--service-node-port-range`.
    pub node_ports: RangeInclusive<u16>,
    /// `--allow-privileged`.
    pub allow_privileged: bool,
    /// `--event-ttl`, seconds.
    pub event_ttl_seconds: i64,
    /// `--kubelet-preferred-address-types`, best first.
    pub kubelet_address_types: Vec<String>,
    /// Signs service account tokens; without it `serviceaccounts/token` answers 404.
    pub tokens: Option<Arc<dyn TokenIssuer>>,
    /// Answers TokenReview; without it every token is unknown.
    pub authenticator: Option<Arc<dyn auth::TokenAuthenticator>>,
    /// The apiserver's own audiences, which a review without any asks for.
    pub audiences: Vec<String>,
}

/// What a resource's file gives beyond its line in the list.
pub struct Parts {
    /// The behaviour.
    pub strategy: Arc<dyn Strategy>,
    /// Fields beyond the name and namespace that field selectors may name.
    pub fields: &'static [&'static str],
    /// The subresources that are not the object itself.
    pub subresources: Vec<(&'static str, SubresourceKind)>,
    /// The handler of a resource that is only posted.
    pub review: Option<Arc<dyn ActionSubresource>>,
    /// Makes the objects of a resource that is not stored.
    pub computed: Option<Arc<dyn Computed>>,
    /// Seconds until objects end by themselves; 0 for never.
    pub ttl_seconds: i64,
    /// Conversions of served versions that differ from the stored one.
    pub conversions: &'static [(&'static str, Conversion)],
}

impl Parts {
    /// A resource with a strategy and nothing else.
    pub fn new(strategy: impl Strategy) -> Parts {
        Parts {
            strategy: Arc::new(strategy),
            fields: &[],
            subresources: vec![],
            review: None,
            computed: None,
            ttl_seconds: 0,
            conversions: &[],
        }
    }

    /// A resource that is only posted.
    pub fn review(handler: impl ActionSubresource) -> Parts {
        Parts {
            review: Some(Arc::new(handler)),
            ..Parts::new(apiserver::resource::Plain)
        }
    }

    /// With selectable fields.
    #[must_use]
    pub fn fields(self, fields: &'static [&'static str]) -> Parts {
        Parts { fields, ..self }
    }

    /// With a subresource.
    #[must_use]
    pub fn sub(mut self, name: &'static str, kind: SubresourceKind) -> Parts {
        self.subresources.push((name, kind));
        self
    }
}

/// A line of the list.
pub struct Builtin {
    /// Empty for the core group.
    pub group: &'static str,
    /// The plural.
    pub resource: &'static str,
    /// The prefix of its keys; empty for what is not stored.
    pub prefix: &'static str,
    /// `apiVersion` of stored objects.
    pub stored: &'static str,
    /// Makes the rest.
    pub parts: fn(&Config) -> Parts,
}

const fn b(
    group: &'static str,
    resource: &'static str,
    prefix: &'static str,
    stored: &'static str,
    parts: fn(&Config) -> Parts,
) -> Builtin {
    Builtin {
        group,
        resource,
        prefix,
        stored,
        parts,
    }
}

const ADMISSION: &str = "admissionregistration.k8s.io/v1";
const CERTIFICATES: &str = "certificates.k8s.io/v1";
const FLOWCONTROL: &str = "flowcontrol.apiserver.k8s.io/v1";
const NETWORKING: &str = "networking.k8s.io/v1";
const RBAC: &str = "rbac.authorization.k8s.io/v1";
const RESOURCE: &str = "resource.k8s.io/v1";
const STORAGE: &str = "storage.k8s.io/v1";

/// Every built-in resource.
#[rustfmt::skip]
pub static BUILTINS: &[Builtin] = &[
    b("", "bindings", "", "v1", r::pod::bindings),
    b("", "componentstatuses", "", "v1", r::componentstatus::parts),
    b("", "configmaps", "/registry/configmaps", "v1", r::configmap::parts),
    b("", "endpoints", "/registry/services/endpoints", "v1", r::endpoints::parts),
    b("", "events", "/registry/events", "v1", r::event::parts),
    b("", "limitranges", "/registry/limitranges", "v1", r::quota::limit_range),
    b("", "namespaces", "/registry/namespaces", "v1", r::namespace::parts),
    b("", "nodes", "/registry/minions", "v1", r::node::parts),
    b("", "persistentvolumeclaims", "/registry/persistentvolumeclaims", "v1", r::volume::claim),
    b("", "persistentvolumes", "/registry/persistentvolumes", "v1", r::volume::volume),
    b("", "pods", "/registry/pods", "v1", r::pod::parts),
    b("", "podtemplates", "/registry/podtemplates", "v1", r::workload::pod_template),
    b("", "replicationcontrollers", "/registry/controllers", "v1", r::workload::replication_controller),
    b("", "resourcequotas", "/registry/resourcequotas", "v1", r::quota::resource_quota),
    b("", "secrets", "/registry/secrets", "v1", r::secret::parts),
    b("", "serviceaccounts", "/registry/serviceaccounts", "v1", r::serviceaccount::parts),
    b("", "services", "/registry/services/specs", "v1", r::service::parts),
    b("admissionregistration.k8s.io", "mutatingadmissionpolicies", "/registry/mutatingadmissionpolicies", ADMISSION, r::webhook::policy),
    b("admissionregistration.k8s.io", "mutatingadmissionpolicybindings", "/registry/mutatingadmissionpolicybindings", ADMISSION, r::webhook::policy_binding),
    b("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "/registry/mutatingwebhookconfigurations", ADMISSION, r::webhook::webhooks),
    b("admissionregistration.k8s.io", "validatingadmissionpolicies", "/registry/validatingadmissionpolicies", ADMISSION, r::webhook::policy),
    b("admissionregistration.k8s.io", "validatingadmissionpolicybindings", "/registry/validatingadmissionpolicybindings", ADMISSION, r::webhook::policy_binding),
    b("admissionregistration.k8s.io", "validatingwebhookconfigurations", "/registry/validatingwebhookconfigurations", ADMISSION, r::webhook::webhooks),
    b("apiextensions.k8s.io", "customresourcedefinitions", "/registry/apiextensions.k8s.io/customresourcedefinitions", "apiextensions.k8s.io/v1", r::plain::spec_status),
    b("apiregistration.k8s.io", "apiservices", "/registry/apiregistration.k8s.io/apiservices", "apiregistration.k8s.io/v1", r::plain::api_service),
    b("apps", "controllerrevisions", "/registry/controllerrevisions", "apps/v1", r::workload::controller_revision),
    b("apps", "daemonsets", "/registry/daemonsets", "apps/v1", r::workload::daemon_set),
    b("apps", "deployments", "/registry/deployments", "apps/v1", r::workload::deployment),
    b("apps", "replicasets", "/registry/replicasets", "apps/v1", r::workload::replica_set),
    b("apps", "statefulsets", "/registry/statefulsets", "apps/v1", r::workload::stateful_set),
    b("authentication.k8s.io", "selfsubjectreviews", "", "authentication.k8s.io/v1", r::review::self_subject),
    b("authentication.k8s.io", "tokenreviews", "", "authentication.k8s.io/v1", r::review::token),
    b("authorization.k8s.io", "localsubjectaccessreviews", "", "authorization.k8s.io/v1", r::review::local_subject_access),
    b("authorization.k8s.io", "selfsubjectaccessreviews", "", "authorization.k8s.io/v1", r::review::self_subject_access),
    b("authorization.k8s.io", "selfsubjectrulesreviews", "", "authorization.k8s.io/v1", r::review::self_subject_rules),
    b("authorization.k8s.io", "subjectaccessreviews", "", "authorization.k8s.io/v1", r::review::subject_access),
    b("autoscaling", "horizontalpodautoscalers", "/registry/horizontalpodautoscalers", "autoscaling/v2", r::autoscaler::parts),
    b("batch", "cronjobs", "/registry/cronjobs", "batch/v1", r::job::cron_job),
    b("batch", "jobs", "/registry/jobs", "batch/v1", r::job::job),
    b("certificates.k8s.io", "certificatesigningrequests", "/registry/certificatesigningrequests", CERTIFICATES, r::csr::parts),
    b("certificates.k8s.io", "clustertrustbundles", "/registry/clustertrustbundles", CERTIFICATES, r::plain::plain),
    b("certificates.k8s.io", "podcertificaterequests", "/registry/podcertificaterequests", CERTIFICATES, r::plain::spec_status),
    b("coordination.k8s.io", "leases", "/registry/leases", "coordination.k8s.io/v1", r::lease::parts),
    b("discovery.k8s.io", "endpointslices", "/registry/endpointslices", "discovery.k8s.io/v1", r::endpointslice::parts),
    b("events.k8s.io", "events", "/registry/events", "v1", r::event::parts),
    b("flowcontrol.apiserver.k8s.io", "flowschemas", "/registry/flowschemas", FLOWCONTROL, r::flowcontrol::schema),
    b("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations", "/registry/prioritylevelconfigurations", FLOWCONTROL, r::flowcontrol::level),
    b("networking.k8s.io", "ingressclasses", "/registry/ingressclasses", NETWORKING, r::network::ingress_class),
    b("networking.k8s.io", "ingresses", "/registry/ingress", NETWORKING, r::network::ingress),
    b("networking.k8s.io", "ipaddresses", "/registry/ipaddresses", NETWORKING, r::network::ip_address),
    b("networking.k8s.io", "networkpolicies", "/registry/networkpolicies", NETWORKING, r::network::policy),
    b("networking.k8s.io", "servicecidrs", "/registry/servicecidrs", NETWORKING, r::network::service_cidr),
    b("node.k8s.io", "runtimeclasses", "/registry/runtimeclasses", "node.k8s.io/v1", r::plain::runtime_class),
    b("policy", "poddisruptionbudgets", "/registry/poddisruptionbudgets", "policy/v1", r::disruption::parts),
    b("rbac.authorization.k8s.io", "clusterrolebindings", "/registry/clusterrolebindings", RBAC, r::rbac::cluster_role_binding),
    b("rbac.authorization.k8s.io", "clusterroles", "/registry/clusterroles", RBAC, r::rbac::cluster_role),
    b("rbac.authorization.k8s.io", "rolebindings", "/registry/rolebindings", RBAC, r::rbac::role_binding),
    b("rbac.authorization.k8s.io", "roles", "/registry/roles", RBAC, r::rbac::role),
    b("resource.k8s.io", "deviceclasses", "/registry/deviceclasses", RESOURCE, r::device::class),
    b("resource.k8s.io", "resourceclaims", "/registry/resourceclaims", RESOURCE, r::device::claim),
    b("resource.k8s.io", "resourceclaimtemplates", "/registry/resourceclaimtemplates", RESOURCE, r::device::template),
    b("resource.k8s.io", "resourceslices", "/registry/resourceslices", RESOURCE, r::device::slice),
    b("resource.k8s.io", "devicetaintrules", "/registry/devicetaintrules", RESOURCE, r::plain::spec_status),
    b("scheduling.k8s.io", "priorityclasses", "/registry/priorityclasses", "scheduling.k8s.io/v1", r::priorityclass::parts),
    b("storage.k8s.io", "csidrivers", "/registry/csidrivers", STORAGE, r::storage::driver),
    b("storage.k8s.io", "csinodes", "/registry/csinodes", STORAGE, r::storage::node),
    b("storage.k8s.io", "csistoragecapacities", "/registry/csistoragecapacities", STORAGE, r::storage::capacity),
    b("storage.k8s.io", "storageclasses", "/registry/storageclasses", STORAGE, r::storage::class),
    b("storage.k8s.io", "volumeattachments", "/registry/volumeattachments", STORAGE, r::storage::attachment),
    b("storage.k8s.io", "volumeattributesclasses", "/registry/volumeattributesclasses", STORAGE, r::storage::attributes_class),
    b("storagemigration.k8s.io", "storageversionmigrations", "/registry/storageversionmigrations", "storagemigration.k8s.io/v1", r::plain::spec_status),
];

/// The definitions of all built-in resources, in discovery's order. What the discovery table has no schema for is left
/// out with an error in the log.
pub fn resources(config: &Config) -> Vec<ResourceDef> {
    api::resources::ALL
        .iter()
        .filter_map(|found| define(config, found))
        .collect()
}

fn define(config: &Config, found: &'static api::resources::Resource) -> Option<ResourceDef> {
    let Some(line) = BUILTINS
        .iter()
        .find(|l| l.group == found.group && l.resource == found.resource)
    else {
        tracing::error!(
            group = found.group,
            resource = found.resource,
            "no such built-in resource"
        );
        return None;
    };
    let api_version = join(found.group, found.version);
    let schema = schema_of(&join(found.kind_group, found.kind_version), found.kind)?;
    let parts = (line.parts)(config);
    let storage = (!line.prefix.is_empty()).then(|| StorageDef {
        prefix: line.prefix.to_owned(),
        api_version: line.stored.to_owned(),
        kind: found.kind.to_owned(),
        schema: api::schema::message(line.stored, found.kind).unwrap_or(schema),
        json: false,
        ttl_seconds: parts.ttl_seconds,
    });
    let conversion = parts
        .conversions
        .iter()
        .find(|(v, _)| *v == api_version)
        .map(|(_, c)| *c);
    let subresources = found
        .subresources
        .iter()
        .filter_map(|s| subresource(s, &parts))
        .collect();
    let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
    Some(ResourceDef {
        group: found.group.into(),
        version: found.version.into(),
        kind: found.kind.into(),
        list_kind: format!("{}List", found.kind),
        resource: found.resource.into(),
        singular: found.singular.into(),
        short_names: owned(found.short_names),
        categories: owned(found.categories),
        namespaced: found.namespaced,
        verbs: owned(found.verbs),
        schema,
        storage,
        conversion,
        selectable_fields: if found.group == "events.k8s.io" {
            r::event::REGARDING
        } else {
            parts.fields
        },
        strategy: parts.strategy,
        printer: Printer {
            columns: print::columns::columns(found.group, found.version, found.resource)
                .unwrap_or(print::DEFAULT),
            cells: print::cells(found.group, found.resource),
            completed: if found.group.is_empty() && found.resource == "pods" {
                print::pods::completed
            } else {
                |_| None
            },
        },
        subresources,
        review: parts.review,
        computed: parts.computed,
        meta: meta_checks(found.group, found.resource),
    })
}

/// How often each kind's validation looks at metadata.
fn meta_checks(group: &str, resource: &str) -> MetaChecks {
    let plain = |updates, full| MetaChecks {
        finalizers: false,
        ..MetaChecks::new(updates, full)
    };
    match (group, resource) {
        ("policy", "poddisruptionbudgets") => MetaChecks {
            on_create: false,
            ..plain(0, 0)
        },
        ("coordination.k8s.io", _) => plain(1, 0),
        ("node.k8s.io", _) => plain(1, 1),
        ("admissionregistration.k8s.io", _) => plain(0, 1),
        ("apps", "controllerrevisions") => MetaChecks::new(2, 1),
        ("", "services" | "resourcequotas" | "podtemplates" | "replicationcontrollers")
        | ("apps" | "autoscaling" | "scheduling.k8s.io", _)
        | ("batch", "cronjobs")
        | ("networking.k8s.io", "networkpolicies")
        | ("storage.k8s.io", "csidrivers") => MetaChecks::new(1, 0),
        ("", "limitranges" | "persistentvolumes")
        | ("discovery.k8s.io" | "flowcontrol.apiserver.k8s.io", _)
        | ("storage.k8s.io", "csinodes" | "volumeattachments") => MetaChecks::new(
            0,
            if resource == "persistentvolumes" {
                2
            } else {
                1
            },
        ),
        _ => MetaChecks::new(1, 1),
    }
}

fn subresource(found: &'static api::resources::Subresource, parts: &Parts) -> Option<Subresource> {
    let kind = parts
        .subresources
        .iter()
        .find(|(n, _)| *n == found.name)
        .map_or(SubresourceKind::Same, |(_, k)| k.clone());
    Some(Subresource {
        name: found.name,
        gvk: (found.group, found.version, found.kind),
        verbs: found.verbs,
        schema: schema_of(&join(found.group, found.version), found.kind)?,
        kind,
    })
}

fn schema_of(api_version: &str, kind: &str) -> Option<&'static wire::schema::Message> {
    let found = api::schema::message(api_version, kind);
    if found.is_none() {
        tracing::error!(api_version, kind, "no schema");
    }
    found
}

fn join(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_of_discovery_has_a_line_and_no_line_is_idle() {
        for found in api::resources::ALL {
            let lines = BUILTINS
                .iter()
                .filter(|l| l.group == found.group && l.resource == found.resource)
                .count();
            assert_eq!(lines, 1, "{}/{}", found.group, found.resource);
        }
        for line in BUILTINS {
            assert!(
                api::resources::ALL
                    .iter()
                    .any(|f| f.group == line.group && f.resource == line.resource),
                "{}/{} is not in discovery",
                line.group,
                line.resource
            );
        }
    }
}
