//! The list of built-in resources and how a definition is made from a line of it.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use apiserver::resource::{
    ActionSubresource, Computed, Conversion, MetaChecks, Printer, ResourceDef, StorageDef,
    Strategy, Subresource, SubresourceKind,
};
use component::support::{Support, warned};
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
    /// How far it is there. What is absent is stored all the same, since clients and installers do not get by without,
    /// but a new object is answered with a warning.
    pub support: Support,
}

const fn b(
    group: &'static str,
    resource: &'static str,
    prefix: &'static str,
    stored: &'static str,
    parts: fn(&Config) -> Parts,
    support: Support,
) -> Builtin {
    Builtin {
        group,
        resource,
        prefix,
        stored,
        parts,
        support,
    }
}

const ADMISSION: &str = "admissionregistration.k8s.io/v1";
const CERTIFICATES: &str = "certificates.k8s.io/v1";
const FLOWCONTROL: &str = "flowcontrol.apiserver.k8s.io/v1";
const NETWORKING: &str = "networking.k8s.io/v1";
const RBAC: &str = "rbac.authorization.k8s.io/v1";
const RESOURCE: &str = "resource.k8s.io/v1";
const STORAGE: &str = "storage.k8s.io/v1";

const FULL: Support = Support::Full;
const VOLUMES: Support =
    Support::Partial("volumes are deleted by the drivers that made them; none is recycled");
const NO_CONTROLLER: Support = warned("no controller of this release acts on it");
const NO_CSI: Support = warned("no volume of this release is mounted by a driver");
const DRIVERS: Support = Support::Partial(
    "volumes are attached and detached by their drivers; the kubelet of this release mounts none",
);
const NO_DEVICES: Support = warned("no scheduler or kubelet of this release gives devices to pods");
const NO_FAIRNESS: Support = warned("requests share the server by its own fixed shares");
const NO_POLICIES: Support = warned("no policy is evaluated by this release");
const NO_WEBHOOKS: Support = warned("no webhook is called by this release");

/// What acts on objects of a resource upstream, by the names of the controller manager's list: as long as none of them is
/// there, the resource is not either. A test of the repository compares the two. Claims of devices are not among them: what
/// gives devices to pods are schedulers and kubelets.
pub static ACTORS: &[(&str, &str, &[&str])] = &[
    (
        "",
        "persistentvolumeclaims",
        &["persistentvolume-binder-controller"],
    ),
    (
        "",
        "persistentvolumes",
        &["persistentvolume-binder-controller"],
    ),
    (
        "",
        "replicationcontrollers",
        &["replicationcontroller-controller"],
    ),
    ("", "resourcequotas", &["resourcequota-controller"]),
    ("apps", "daemonsets", &["daemonset-controller"]),
    ("apps", "deployments", &["deployment-controller"]),
    ("apps", "replicasets", &["replicaset-controller"]),
    ("apps", "statefulsets", &["statefulset-controller"]),
    (
        "autoscaling",
        "horizontalpodautoscalers",
        &["horizontal-pod-autoscaler-controller"],
    ),
    ("batch", "cronjobs", &["cronjob-controller"]),
    ("batch", "jobs", &["job-controller"]),
    (
        "certificates.k8s.io",
        "certificatesigningrequests",
        &["certificatesigningrequest-signing-controller"],
    ),
    (
        "networking.k8s.io",
        "servicecidrs",
        &["service-cidr-controller"],
    ),
    ("policy", "poddisruptionbudgets", &["disruption-controller"]),
    (
        "resource.k8s.io",
        "devicetaintrules",
        &["device-taint-eviction-controller"],
    ),
    (
        "storage.k8s.io",
        "csidrivers",
        &["persistentvolume-attach-detach-controller"],
    ),
    (
        "storage.k8s.io",
        "volumeattachments",
        &["persistentvolume-attach-detach-controller"],
    ),
    (
        "storage.k8s.io",
        "volumeattributesclasses",
        &["volumeattributesclass-protection-controller"],
    ),
    (
        "storagemigration.k8s.io",
        "storageversionmigrations",
        &["storage-version-migrator-controller"],
    ),
];

/// How far subresources are there; `status` goes with its resource.
#[rustfmt::skip]
pub static SUBRESOURCES: &[(&str, &str, Support)] = &[
    ("certificatesigningrequests", "approval", FULL),
    ("deployments", "scale", FULL),
    ("namespaces", "finalize", FULL),
    ("nodes", "proxy", FULL),
    ("pods", "attach", FULL),
    ("pods", "binding", FULL),
    ("pods", "ephemeralcontainers", FULL),
    ("pods", "eviction", FULL),
    ("pods", "exec", FULL),
    ("pods", "log", FULL),
    ("pods", "portforward", FULL),
    ("pods", "proxy", FULL),
    ("pods", "resize", Support::Partial("what is asked for is stored and checked; no kubelet of this release resizes a running pod")),
    ("replicasets", "scale", FULL),
    ("replicationcontrollers", "scale", FULL),
    ("serviceaccounts", "token", FULL),
    ("services", "proxy", FULL),
    ("statefulsets", "scale", FULL),
];

/// Every built-in resource.
#[rustfmt::skip]
pub static BUILTINS: &[Builtin] = &[
    b("", "bindings", "", "v1", r::pod::bindings, FULL),
    b("", "componentstatuses", "", "v1", r::componentstatus::parts, FULL),
    b("", "configmaps", "/registry/configmaps", "v1", r::configmap::parts, FULL),
    b("", "endpoints", "/registry/services/endpoints", "v1", r::endpoints::parts, FULL),
    b("", "events", "/registry/events", "v1", r::event::parts, FULL),
    b("", "limitranges", "/registry/limitranges", "v1", r::quota::limit_range, FULL),
    b("", "namespaces", "/registry/namespaces", "v1", r::namespace::parts, FULL),
    b("", "nodes", "/registry/minions", "v1", r::node::parts, FULL),
    b("", "persistentvolumeclaims", "/registry/persistentvolumeclaims", "v1", r::volume::claim, Support::Partial("no provisioner and no resizer comes with this release")),
    b("", "persistentvolumes", "/registry/persistentvolumes", "v1", r::volume::volume, VOLUMES),
    b("", "pods", "/registry/pods", "v1", r::pod::parts, Support::Partial("of volumes and security settings what the kubelet has; the rest keeps the pod from starting")),
    b("", "podtemplates", "/registry/podtemplates", "v1", r::workload::pod_template, FULL),
    b("", "replicationcontrollers", "/registry/controllers", "v1", r::workload::replication_controller, FULL),
    b("", "resourcequotas", "/registry/resourcequotas", "v1", r::quota::resource_quota, FULL),
    b("", "secrets", "/registry/secrets", "v1", r::secret::parts, FULL),
    b("", "serviceaccounts", "/registry/serviceaccounts", "v1", r::serviceaccount::parts, FULL),
    b("", "services", "/registry/services/specs", "v1", r::service::parts, Support::Partial("no load balancer is made; a cloud's own program may")),
    b("admissionregistration.k8s.io", "mutatingadmissionpolicies", "/registry/mutatingadmissionpolicies", ADMISSION, r::webhook::policy, NO_POLICIES),
    b("admissionregistration.k8s.io", "mutatingadmissionpolicybindings", "/registry/mutatingadmissionpolicybindings", ADMISSION, r::webhook::policy_binding, NO_POLICIES),
    b("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "/registry/mutatingwebhookconfigurations", ADMISSION, r::webhook::webhooks, NO_WEBHOOKS),
    b("admissionregistration.k8s.io", "validatingadmissionpolicies", "/registry/validatingadmissionpolicies", ADMISSION, r::webhook::policy, NO_POLICIES),
    b("admissionregistration.k8s.io", "validatingadmissionpolicybindings", "/registry/validatingadmissionpolicybindings", ADMISSION, r::webhook::policy_binding, NO_POLICIES),
    b("admissionregistration.k8s.io", "validatingwebhookconfigurations", "/registry/validatingwebhookconfigurations", ADMISSION, r::webhook::webhooks, NO_WEBHOOKS),
    b("apiextensions.k8s.io", "customresourcedefinitions", "/registry/apiextensions.k8s.io/customresourcedefinitions", "apiextensions.k8s.io/v1", r::plain::spec_status, warned("its custom resources are not served")),
    b("apiregistration.k8s.io", "apiservices", "/registry/apiregistration.k8s.io/apiservices", "apiregistration.k8s.io/v1", r::plain::api_service, warned("requests are not passed on to other servers")),
    b("apps", "controllerrevisions", "/registry/controllerrevisions", "apps/v1", r::workload::controller_revision, FULL),
    b("apps", "daemonsets", "/registry/daemonsets", "apps/v1", r::workload::daemon_set, FULL),
    b("apps", "deployments", "/registry/deployments", "apps/v1", r::workload::deployment, FULL),
    b("apps", "replicasets", "/registry/replicasets", "apps/v1", r::workload::replica_set, FULL),
    b("apps", "statefulsets", "/registry/statefulsets", "apps/v1", r::workload::stateful_set, FULL),
    b("authentication.k8s.io", "selfsubjectreviews", "", "authentication.k8s.io/v1", r::review::self_subject, FULL),
    b("authentication.k8s.io", "tokenreviews", "", "authentication.k8s.io/v1", r::review::token, FULL),
    b("authorization.k8s.io", "localsubjectaccessreviews", "", "authorization.k8s.io/v1", r::review::local_subject_access, FULL),
    b("authorization.k8s.io", "selfsubjectaccessreviews", "", "authorization.k8s.io/v1", r::review::self_subject_access, FULL),
    b("authorization.k8s.io", "selfsubjectrulesreviews", "", "authorization.k8s.io/v1", r::review::self_subject_rules, FULL),
    b("authorization.k8s.io", "subjectaccessreviews", "", "authorization.k8s.io/v1", r::review::subject_access, FULL),
    b("autoscaling", "horizontalpodautoscalers", "/registry/horizontalpodautoscalers", "autoscaling/v2", r::autoscaler::parts, FULL),
    b("batch", "cronjobs", "/registry/cronjobs", "batch/v1", r::job::cron_job, FULL),
    b("batch", "jobs", "/registry/jobs", "batch/v1", r::job::job, FULL),
    b("certificates.k8s.io", "certificatesigningrequests", "/registry/certificatesigningrequests", CERTIFICATES, r::csr::parts, FULL),
    b("certificates.k8s.io", "clustertrustbundles", "/registry/clustertrustbundles", CERTIFICATES, r::plain::plain, warned("no kubelet of this release mounts it")),
    b("certificates.k8s.io", "podcertificaterequests", "/registry/podcertificaterequests", CERTIFICATES, r::plain::spec_status, warned("no controller of this release signs it")),
    b("coordination.k8s.io", "leases", "/registry/leases", "coordination.k8s.io/v1", r::lease::parts, FULL),
    b("discovery.k8s.io", "endpointslices", "/registry/endpointslices", "discovery.k8s.io/v1", r::endpointslice::parts, FULL),
    b("events.k8s.io", "events", "/registry/events", "v1", r::event::parts, FULL),
    b("flowcontrol.apiserver.k8s.io", "flowschemas", "/registry/flowschemas", FLOWCONTROL, r::flowcontrol::schema, NO_FAIRNESS),
    b("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations", "/registry/prioritylevelconfigurations", FLOWCONTROL, r::flowcontrol::level, NO_FAIRNESS),
    b("networking.k8s.io", "ingressclasses", "/registry/ingressclasses", NETWORKING, r::network::ingress_class, FULL),
    b("networking.k8s.io", "ingresses", "/registry/ingress", NETWORKING, r::network::ingress, FULL),
    b("networking.k8s.io", "ipaddresses", "/registry/ipaddresses", NETWORKING, r::network::ip_address, FULL),
    b("networking.k8s.io", "networkpolicies", "/registry/networkpolicies", NETWORKING, r::network::policy, FULL),
    b("networking.k8s.io", "servicecidrs", "/registry/servicecidrs", NETWORKING, r::network::service_cidr, FULL),
    b("node.k8s.io", "runtimeclasses", "/registry/runtimeclasses", "node.k8s.io/v1", r::plain::runtime_class, FULL),
    b("policy", "poddisruptionbudgets", "/registry/poddisruptionbudgets", "policy/v1", r::disruption::parts, FULL),
    b("rbac.authorization.k8s.io", "clusterrolebindings", "/registry/clusterrolebindings", RBAC, r::rbac::cluster_role_binding, FULL),
    b("rbac.authorization.k8s.io", "clusterroles", "/registry/clusterroles", RBAC, r::rbac::cluster_role, FULL),
    b("rbac.authorization.k8s.io", "rolebindings", "/registry/rolebindings", RBAC, r::rbac::role_binding, FULL),
    b("rbac.authorization.k8s.io", "roles", "/registry/roles", RBAC, r::rbac::role, FULL),
    b("resource.k8s.io", "deviceclasses", "/registry/deviceclasses", RESOURCE, r::device::class, NO_DEVICES),
    b("resource.k8s.io", "resourceclaims", "/registry/resourceclaims", RESOURCE, r::device::claim, NO_DEVICES),
    b("resource.k8s.io", "resourceclaimtemplates", "/registry/resourceclaimtemplates", RESOURCE, r::device::template, NO_DEVICES),
    b("resource.k8s.io", "resourceslices", "/registry/resourceslices", RESOURCE, r::device::slice, NO_DEVICES),
    b("resource.k8s.io", "devicetaintrules", "/registry/devicetaintrules", RESOURCE, r::plain::spec_status, NO_DEVICES),
    b("scheduling.k8s.io", "priorityclasses", "/registry/priorityclasses", "scheduling.k8s.io/v1", r::priorityclass::parts, FULL),
    b("storage.k8s.io", "csidrivers", "/registry/csidrivers", STORAGE, r::storage::driver, DRIVERS),
    b("storage.k8s.io", "csinodes", "/registry/csinodes", STORAGE, r::storage::node, NO_CSI),
    b("storage.k8s.io", "csistoragecapacities", "/registry/csistoragecapacities", STORAGE, r::storage::capacity, NO_CSI),
    b("storage.k8s.io", "storageclasses", "/registry/storageclasses", STORAGE, r::storage::class, Support::Partial("no provisioner comes with this release; the one that it names is asked")),
    b("storage.k8s.io", "volumeattachments", "/registry/volumeattachments", STORAGE, r::storage::attachment, DRIVERS),
    b("storage.k8s.io", "volumeattributesclasses", "/registry/volumeattributesclasses", STORAGE, r::storage::attributes_class, Support::Partial("classes in use are kept; no program that changes volumes comes with this release")),
    b("storagemigration.k8s.io", "storageversionmigrations", "/registry/storageversionmigrations", "storagemigration.k8s.io/v1", r::plain::spec_status, NO_CONTROLLER),
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
        support: line.support,
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

    #[test]
    fn every_subresource_says_how_far_it_is_there() {
        let mut said: Vec<_> = SUBRESOURCES.iter().map(|(r, s, _)| (*r, *s)).collect();
        for found in api::resources::ALL {
            for s in found.subresources.iter().filter(|s| s.name != "status") {
                let at = (found.resource, s.name);
                assert!(
                    SUBRESOURCES.iter().any(|(r, s, _)| (*r, *s) == at),
                    "{at:?}"
                );
                said.retain(|a| *a != at);
            }
        }
        assert!(said.is_empty(), "{said:?} is not served");
    }

    #[test]
    fn plugins_that_are_there_leave_no_resource_absent() {
        // What admission plugins act on; when one comes, its resources are no longer absent.
        for (plugin, resource) in [
            ("MutatingAdmissionPolicy", "mutatingadmissionpolicies"),
            ("MutatingAdmissionWebhook", "mutatingwebhookconfigurations"),
            ("ResourceQuota", "resourcequotas"),
            ("ValidatingAdmissionPolicy", "validatingadmissionpolicies"),
            (
                "ValidatingAdmissionWebhook",
                "validatingwebhookconfigurations",
            ),
            ("LimitRanger", "limitranges"),
            ("Priority", "priorityclasses"),
        ] {
            let line = BUILTINS.iter().find(|l| l.resource == resource).unwrap();
            let plugin_is_there = admission::plugins::support(plugin).unwrap().is_there();
            assert_eq!(line.support.is_there(), plugin_is_there, "{plugin}");
        }
    }
}
