//! The columns of every resource's table. Written by hack/import-registry-data.py; do not edit.

use apiserver::resource::Column;

const fn column(name: &'static str, type_: &'static str, format: &'static str, priority: i32) -> Column {
    Column { name, type_, format, description: "", priority }
}

static V1_COMPONENTSTATUSES: [Column; 4] = [
    column("Name", "string", "name", 0),
    column("Status", "string", "", 0),
    column("Message", "string", "", 0),
    column("Error", "string", "", 0),
];

static V1_CONFIGMAPS: [Column; 3] = [
    column("Name", "string", "name", 0),
    column("Data", "string", "", 0),
    column("Age", "string", "", 0),
];

static V1_ENDPOINTS: [Column; 3] = [
    column("Name", "string", "name", 0),
    column("Endpoints", "string", "", 0),
    column("Age", "string", "", 0),
];

static V1_EVENTS: [Column; 10] = [
    column("Last Seen", "string", "", 0),
    column("Type", "string", "", 0),
    column("Reason", "string", "", 0),
    column("Object", "string", "", 0),
    column("Subobject", "string", "", 1),
    column("Source", "string", "", 1),
    column("Message", "string", "", 0),
    column("First Seen", "string", "", 1),
    column("Count", "string", "", 1),
    column("Name", "string", "name", 1),
];

static V1_LIMITRANGES: [Column; 2] = [
    column("Name", "string", "name", 0),
    column("Created At", "date", "", 0),
];

static V1_NAMESPACES: [Column; 3] = [
    column("Name", "string", "name", 0),
    column("Status", "string", "", 0),
    column("Age", "string", "", 0),
];

static V1_NODES: [Column; 10] = [
    column("Name", "string", "name", 0),
    column("Status", "string", "", 0),
    column("Roles", "string", "", 0),
    column("Age", "string", "", 0),
    column("Version", "string", "", 0),
    column("Internal-IP", "string", "", 1),
    column("External-IP", "string", "", 1),
    column("OS-Image", "string", "", 1),
    column("Kernel-Version", "string", "", 1),
    column("Container-Runtime", "string", "", 1),
];

static V1_PERSISTENTVOLUMECLAIMS: [Column; 9] = [
    column("Name", "string", "name", 0),
    column("Status", "string", "", 0),
    column("Volume", "string", "", 0),
    column("Capacity", "string", "", 0),
    column("Access Modes", "string", "", 0),
    column("StorageClass", "string", "", 0),
    column("VolumeAttributesClass", "string", "", 0),
    column("Age", "string", "", 0),
    column("VolumeMode", "string", "", 1),
];

static V1_PERSISTENTVOLUMES: [Column; 11] = [
    column("Name", "string", "name", 0),
    column("Capacity", "string", "", 0),
    column("Access Modes", "string", "", 0),
    column("Reclaim Policy", "string", "", 0),
    column("Status", "string", "", 0),
    column("Claim", "string", "", 0),
    column("StorageClass", "string", "", 0),
    column("VolumeAttributesClass", "string", "", 0),
    column("Reason", "string", "", 0),
    column("Age", "string", "", 0),
    column("VolumeMode", "string", "", 1),
];

static V1_PODS: [Column; 9] = [
    column("Name", "string", "name", 0),
    column("Ready", "string", "", 0),
    column("Status", "string", "", 0),
    column("Restarts", "string", "", 0),
    column("Age", "string", "", 0),
    column("IP", "string", "", 1),
    column("Node", "string", "", 1),
    column("Nominated Node", "string", "", 1),
    column("Readiness Gates", "string", "", 1),
];

static V1_PODTEMPLATES: [Column; 4] = [
    column("Name", "string", "name", 0),
    column("Containers", "string", "", 0),
    column("Images", "string", "", 0),
    column("Pod Labels", "string", "", 0),
];

static V1_REPLICATIONCONTROLLERS: [Column; 8] = [
    column("Name", "string", "name", 0),
    column("Desired", "integer", "", 0),
    column("Current", "integer", "", 0),
    column("Ready", "integer", "", 0),
    column("Age", "string", "", 0),
    column("Containers", "string", "", 1),
    column("Images", "string", "", 1),
    column("Selector", "string", "", 1),
];

static V1_RESOURCEQUOTAS: [Column; 4] = [
    column("Name", "string", "name", 0),
    column("Request", "string", "", 0),
    column("Limit", "string", "", 0),
    column("Age", "string", "", 0),
];

static V1_SECRETS: [Column; 4] = [
    column("Name", "string", "name", 0),
    column("Type", "string", "", 0),
    column("Data", "string", "", 0),
    column("Age", "string", "", 0),
];

static V1_SERVICEACCOUNTS: [Column; 2] = [
    column("Name", "string", "name", 0),
    column("Age", "string", "", 0),
];

static V1_SERVICES: [Column; 7] = [
    column("Name", "string", "name", 0),
    column("Type", "string", "", 0),
    column("Cluster-IP", "string", "", 0),
    column("External-IP", "string", "", 0),
    column("Port(s)", "string", "", 0),
    column("Age", "string", "", 0),
    column("Selector", "string", "", 1),
];

static ADMISSIONREGISTRATION_V1_MUTATINGADMISSIONPOLICIES: [Column; 4] = [
    column("Name", "string", "name", 0),
    column("Mutations", "integer", "", 0),
    column("ParamKind", "string", "", 0),
    column("Age", "string", "", 0),
];

static ADMISSIONREGISTRATION_V1_MUTATINGADMISSIONPOLICYBINDINGS: [Column; 4] = [
    column("Name", "string", "name", 0),
    column("PolicyName", "string", "", 0),
    column("ParamRef", "string", "", 0),
    column("Age", "string", "", 0),
];

static ADMISSIONREGISTRATION_V1_MUTATINGWEBHOOKCONFIGURATIONS: [Column; 3] = [
    column("Name", "string", "name", 0),
    column("Webhooks", "integer", "", 0),
    column("Age", "string", "", 0),
];

static ADMISSIONREGISTRATION_V1_VALIDATINGADMISSIONPOLICIES: [Column; 4] = [
    column("Name", "string", "name", 0),
    column("Validations", "integer", "", 0),
    column("ParamKind", "string", "", 0),
    column("Age", "string", "", 0),
];

static ADMISSIONREGISTRATION_V1_VALIDATINGADMISSIONPOLICYBINDINGS: [Column; 4] = [
    column("Name", "string", "name", 0),
    column("PolicyName", "string", "", 0),
    column("ParamRef", "string", "", 0),
    column("Age", "string", "", 0),
];

static ADMISSIONREGISTRATION_V1_VALIDATINGWEBHOOKCONFIGURATIONS: [Column; 3] = [
    column("Name", "string", "name", 0),
    column("Webhooks", "integer", "", 0),
    column("Age", "string", "", 0),
];

static APIEXTENSIONS_V1_CUSTOMRESOURCEDEFINITIONS: [Column; 2] = [
    column("Name", "string", "name", 0),
    column("Created At", "date", "", 0),
];

static APIREGISTRATION_V1_APISERVICES: [Column; 4] = [
    column("Name", "string", "name", 0),
    column("Service", "string", "", 0),
    column("Available", "string", "", 0),
    column("Age", "string", "", 0),
];

static APPS_V1_CONTROLLERREVISIONS: [Column; 4] = [
    column("Name", "string", "name", 0),
    column("Controller", "string", "", 0),
    column("Revision", "string", "", 0),
    column("Age", "string", "", 0),
];

static APPS_V1_DAEMONSETS: [Column; 11] = [
    column("Name", "string", "name", 0),
    column("Desired", "integer", "", 0),
    column("Current", "integer", "", 0),
    column("Ready", "integer", "", 0),
    column("Up-to-date", "integer", "", 0),
    column("Available", "integer", "", 0),
    column("Node Selector", "string", "", 0),
    column("Age", "string", "", 0),
    column("Containers", "string", "", 1),
    column("Images", "string", "", 1),
    column("Selector", "string", "", 1),
];

static APPS_V1_DEPLOYMENTS: [Column; 8] = [
    column("Name", "string", "name", 0),
    column("Ready", "string", "", 0),
    column("Up-to-date", "string", "", 0),
    column("Available", "string", "", 0),
    column("Age", "string", "", 0),
    column("Containers", "string", "", 1),
    column("Images", "string", "", 1),
    column("Selector", "string", "", 1),
];

static APPS_V1_REPLICASETS: [Column; 8] = [
    column("Name", "string", "name", 0),
    column("Desired", "integer", "", 0),
    column("Current", "integer", "", 0),
    column("Ready", "integer", "", 0),
    column("Age", "string", "", 0),
    column("Containers", "string", "", 1),
    column("Images", "string", "", 1),
    column("Selector", "string", "", 1),
];

static APPS_V1_STATEFULSETS: [Column; 5] = [
    column("Name", "string", "name", 0),
    column("Ready", "string", "", 0),
    column("Age", "string", "", 0),
    column("Containers", "string", "", 1),
    column("Images", "string", "", 1),
];

static AUTOSCALING_V1_HORIZONTALPODAUTOSCALERS: [Column; 7] = [
    column("Name", "string", "name", 0),
    column("Reference", "string", "", 0),
    column("Targets", "string", "", 0),
    column("MinPods", "string", "", 0),
    column("MaxPods", "string", "", 0),
    column("Replicas", "string", "", 0),
    column("Age", "string", "", 0),
];

static AUTOSCALING_V2_HORIZONTALPODAUTOSCALERS: [Column; 7] = [
    column("Name", "string", "name", 0),
    column("Reference", "string", "", 0),
    column("Targets", "string", "", 0),
    column("MinPods", "string", "", 0),
    column("MaxPods", "string", "", 0),
    column("Replicas", "string", "", 0),
    column("Age", "string", "", 0),
];

static BATCH_V1_CRONJOBS: [Column; 10] = [
    column("Name", "string", "name", 0),
    column("Schedule", "string", "", 0),
    column("Timezone", "string", "", 0),
    column("Suspend", "boolean", "", 0),
    column("Active", "integer", "", 0),
    column("Last Schedule", "string", "", 0),
    column("Age", "string", "", 0),
    column("Containers", "string", "", 1),
    column("Images", "string", "", 1),
    column("Selector", "string", "", 1),
];

static BATCH_V1_JOBS: [Column; 8] = [
    column("Name", "string", "name", 0),
    column("Status", "string", "", 0),
    column("Completions", "string", "", 0),
    column("Duration", "string", "", 0),
    column("Age", "string", "", 0),
    column("Containers", "string", "", 1),
    column("Images", "string", "", 1),
    column("Selector", "string", "", 1),
];

static CERTIFICATES_V1_CERTIFICATESIGNINGREQUESTS: [Column; 6] = [
    column("Name", "string", "name", 0),
    column("Age", "string", "", 0),
    column("SignerName", "string", "", 0),
    column("Requestor", "string", "", 0),
    column("RequestedDuration", "string", "", 0),
    column("Condition", "string", "", 0),
];

static COORDINATION_V1_LEASES: [Column; 3] = [
    column("Name", "string", "name", 0),
    column("Holder", "string", "", 0),
    column("Age", "string", "", 0),
];

static DISCOVERY_V1_ENDPOINTSLICES: [Column; 5] = [
    column("Name", "string", "name", 0),
    column("AddressType", "string", "", 0),
    column("Ports", "string", "", 0),
    column("Endpoints", "string", "", 0),
    column("Age", "string", "", 0),
];

static EVENTS_V1_EVENTS: [Column; 10] = [
    column("Last Seen", "string", "", 0),
    column("Type", "string", "", 0),
    column("Reason", "string", "", 0),
    column("Object", "string", "", 0),
    column("Subobject", "string", "", 1),
    column("Source", "string", "", 1),
    column("Message", "string", "", 0),
    column("First Seen", "string", "", 1),
    column("Count", "string", "", 1),
    column("Name", "string", "name", 1),
];

static FLOWCONTROL_V1_FLOWSCHEMAS: [Column; 6] = [
    column("Name", "string", "name", 0),
    column("PriorityLevel", "string", "", 0),
    column("MatchingPrecedence", "string", "", 0),
    column("DistinguisherMethod", "string", "", 0),
    column("Age", "string", "", 0),
    column("MissingPL", "string", "", 0),
];

static FLOWCONTROL_V1_PRIORITYLEVELCONFIGURATIONS: [Column; 7] = [
    column("Name", "string", "name", 0),
    column("Type", "string", "", 0),
    column("NominalConcurrencyShares", "string", "", 0),
    column("Queues", "string", "", 0),
    column("HandSize", "string", "", 0),
    column("QueueLengthLimit", "string", "", 0),
    column("Age", "string", "", 0),
];

static NETWORKING_V1_INGRESSCLASSES: [Column; 4] = [
    column("Name", "string", "name", 0),
    column("Controller", "string", "", 0),
    column("Parameters", "string", "", 0),
    column("Age", "string", "", 0),
];

static NETWORKING_V1_INGRESSES: [Column; 6] = [
    column("Name", "string", "name", 0),
    column("Class", "string", "", 0),
    column("Hosts", "string", "", 0),
    column("Address", "string", "", 0),
    column("Ports", "string", "", 0),
    column("Age", "string", "", 0),
];

static NETWORKING_V1_IPADDRESSES: [Column; 2] = [
    column("Name", "string", "name", 0),
    column("ParentRef", "string", "", 0),
];

static NETWORKING_V1_NETWORKPOLICIES: [Column; 3] = [
    column("Name", "string", "name", 0),
    column("Pod-Selector", "string", "", 0),
    column("Age", "string", "", 0),
];

static NETWORKING_V1_SERVICECIDRS: [Column; 3] = [
    column("Name", "string", "name", 0),
    column("CIDRs", "string", "", 0),
    column("Age", "string", "", 0),
];

static NODE_V1_RUNTIMECLASSES: [Column; 3] = [
    column("Name", "string", "name", 0),
    column("Handler", "string", "", 0),
    column("Age", "string", "", 0),
];

static POLICY_V1_PODDISRUPTIONBUDGETS: [Column; 5] = [
    column("Name", "string", "name", 0),
    column("Min Available", "string", "", 0),
    column("Max Unavailable", "string", "", 0),
    column("Allowed Disruptions", "integer", "", 0),
    column("Age", "string", "", 0),
];

static RBAC_V1_CLUSTERROLEBINDINGS: [Column; 6] = [
    column("Name", "string", "name", 0),
    column("Role", "string", "", 0),
    column("Age", "string", "", 0),
    column("Users", "string", "", 1),
    column("Groups", "string", "", 1),
    column("ServiceAccounts", "string", "", 1),
];

static RBAC_V1_CLUSTERROLES: [Column; 2] = [
    column("Name", "string", "name", 0),
    column("Created At", "date", "", 0),
];

static RBAC_V1_ROLEBINDINGS: [Column; 6] = [
    column("Name", "string", "name", 0),
    column("Role", "string", "", 0),
    column("Age", "string", "", 0),
    column("Users", "string", "", 1),
    column("Groups", "string", "", 1),
    column("ServiceAccounts", "string", "", 1),
];

static RBAC_V1_ROLES: [Column; 2] = [
    column("Name", "string", "name", 0),
    column("Created At", "date", "", 0),
];

static RESOURCE_V1_DEVICECLASSES: [Column; 2] = [
    column("Name", "string", "name", 0),
    column("Age", "string", "", 0),
];

static RESOURCE_V1_RESOURCECLAIMS: [Column; 3] = [
    column("Name", "string", "name", 0),
    column("State", "string", "", 0),
    column("Age", "string", "", 0),
];

static RESOURCE_V1_RESOURCECLAIMTEMPLATES: [Column; 2] = [
    column("Name", "string", "name", 0),
    column("Age", "string", "", 0),
];

static RESOURCE_V1_RESOURCESLICES: [Column; 5] = [
    column("Name", "string", "name", 0),
    column("Node", "string", "", 0),
    column("Driver", "string", "", 0),
    column("Pool", "string", "", 0),
    column("Age", "string", "", 0),
];

static SCHEDULING_V1_PRIORITYCLASSES: [Column; 5] = [
    column("Name", "string", "name", 0),
    column("Value", "integer", "", 0),
    column("Global-Default", "boolean", "", 0),
    column("Age", "string", "", 0),
    column("PreemptionPolicy", "string", "", 0),
];

static STORAGE_V1_CSIDRIVERS: [Column; 8] = [
    column("Name", "string", "name", 0),
    column("AttachRequired", "boolean", "", 0),
    column("PodInfoOnMount", "boolean", "", 0),
    column("StorageCapacity", "boolean", "", 0),
    column("TokenRequests", "string", "", 0),
    column("RequiresRepublish", "boolean", "", 0),
    column("Modes", "string", "", 0),
    column("Age", "string", "", 0),
];

static STORAGE_V1_CSINODES: [Column; 3] = [
    column("Name", "string", "name", 0),
    column("Drivers", "integer", "", 0),
    column("Age", "string", "", 0),
];

static STORAGE_V1_CSISTORAGECAPACITIES: [Column; 2] = [
    column("Name", "string", "name", 0),
    column("Created At", "date", "", 0),
];

static STORAGE_V1_STORAGECLASSES: [Column; 6] = [
    column("Name", "string", "name", 0),
    column("Provisioner", "string", "", 0),
    column("ReclaimPolicy", "string", "", 0),
    column("VolumeBindingMode", "string", "", 0),
    column("AllowVolumeExpansion", "string", "", 0),
    column("Age", "string", "", 0),
];

static STORAGE_V1_VOLUMEATTACHMENTS: [Column; 6] = [
    column("Name", "string", "name", 0),
    column("Attacher", "string", "name", 0),
    column("PV", "string", "", 0),
    column("Node", "string", "", 0),
    column("Attached", "boolean", "", 0),
    column("Age", "string", "", 0),
];

static STORAGE_V1_VOLUMEATTRIBUTESCLASSES: [Column; 3] = [
    column("Name", "string", "name", 0),
    column("DriverName", "string", "", 0),
    column("Age", "string", "", 0),
];

/// The columns of a resource; `None` for resources without a table.
pub fn columns(group: &str, version: &str, resource: &str) -> Option<&'static [Column]> {
    let found: &'static [Column] = match (group, version, resource) {
        ("", "v1", "componentstatuses") => &V1_COMPONENTSTATUSES,
        ("", "v1", "configmaps") => &V1_CONFIGMAPS,
        ("", "v1", "endpoints") => &V1_ENDPOINTS,
        ("", "v1", "events") => &V1_EVENTS,
        ("", "v1", "limitranges") => &V1_LIMITRANGES,
        ("", "v1", "namespaces") => &V1_NAMESPACES,
        ("", "v1", "nodes") => &V1_NODES,
        ("", "v1", "persistentvolumeclaims") => &V1_PERSISTENTVOLUMECLAIMS,
        ("", "v1", "persistentvolumes") => &V1_PERSISTENTVOLUMES,
        ("", "v1", "pods") => &V1_PODS,
        ("", "v1", "podtemplates") => &V1_PODTEMPLATES,
        ("", "v1", "replicationcontrollers") => &V1_REPLICATIONCONTROLLERS,
        ("", "v1", "resourcequotas") => &V1_RESOURCEQUOTAS,
        ("", "v1", "secrets") => &V1_SECRETS,
        ("", "v1", "serviceaccounts") => &V1_SERVICEACCOUNTS,
        ("", "v1", "services") => &V1_SERVICES,
        ("admissionregistration.k8s.io", "v1", "mutatingadmissionpolicies") => &ADMISSIONREGISTRATION_V1_MUTATINGADMISSIONPOLICIES,
        ("admissionregistration.k8s.io", "v1", "mutatingadmissionpolicybindings") => &ADMISSIONREGISTRATION_V1_MUTATINGADMISSIONPOLICYBINDINGS,
        ("admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations") => &ADMISSIONREGISTRATION_V1_MUTATINGWEBHOOKCONFIGURATIONS,
        ("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies") => &ADMISSIONREGISTRATION_V1_VALIDATINGADMISSIONPOLICIES,
        ("admissionregistration.k8s.io", "v1", "validatingadmissionpolicybindings") => &ADMISSIONREGISTRATION_V1_VALIDATINGADMISSIONPOLICYBINDINGS,
        ("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations") => &ADMISSIONREGISTRATION_V1_VALIDATINGWEBHOOKCONFIGURATIONS,
        ("apiextensions.k8s.io", "v1", "customresourcedefinitions") => &APIEXTENSIONS_V1_CUSTOMRESOURCEDEFINITIONS,
        ("apiregistration.k8s.io", "v1", "apiservices") => &APIREGISTRATION_V1_APISERVICES,
        ("apps", "v1", "controllerrevisions") => &APPS_V1_CONTROLLERREVISIONS,
        ("apps", "v1", "daemonsets") => &APPS_V1_DAEMONSETS,
        ("apps", "v1", "deployments") => &APPS_V1_DEPLOYMENTS,
        ("apps", "v1", "replicasets") => &APPS_V1_REPLICASETS,
        ("apps", "v1", "statefulsets") => &APPS_V1_STATEFULSETS,
        ("autoscaling", "v1", "horizontalpodautoscalers") => &AUTOSCALING_V1_HORIZONTALPODAUTOSCALERS,
        ("autoscaling", "v2", "horizontalpodautoscalers") => &AUTOSCALING_V2_HORIZONTALPODAUTOSCALERS,
        ("batch", "v1", "cronjobs") => &BATCH_V1_CRONJOBS,
        ("batch", "v1", "jobs") => &BATCH_V1_JOBS,
        ("certificates.k8s.io", "v1", "certificatesigningrequests") => &CERTIFICATES_V1_CERTIFICATESIGNINGREQUESTS,
        ("coordination.k8s.io", "v1", "leases") => &COORDINATION_V1_LEASES,
        ("discovery.k8s.io", "v1", "endpointslices") => &DISCOVERY_V1_ENDPOINTSLICES,
        ("events.k8s.io", "v1", "events") => &EVENTS_V1_EVENTS,
        ("flowcontrol.apiserver.k8s.io", "v1", "flowschemas") => &FLOWCONTROL_V1_FLOWSCHEMAS,
        ("flowcontrol.apiserver.k8s.io", "v1", "prioritylevelconfigurations") => &FLOWCONTROL_V1_PRIORITYLEVELCONFIGURATIONS,
        ("networking.k8s.io", "v1", "ingressclasses") => &NETWORKING_V1_INGRESSCLASSES,
        ("networking.k8s.io", "v1", "ingresses") => &NETWORKING_V1_INGRESSES,
        ("networking.k8s.io", "v1", "ipaddresses") => &NETWORKING_V1_IPADDRESSES,
        ("networking.k8s.io", "v1", "networkpolicies") => &NETWORKING_V1_NETWORKPOLICIES,
        ("networking.k8s.io", "v1", "servicecidrs") => &NETWORKING_V1_SERVICECIDRS,
        ("node.k8s.io", "v1", "runtimeclasses") => &NODE_V1_RUNTIMECLASSES,
        ("policy", "v1", "poddisruptionbudgets") => &POLICY_V1_PODDISRUPTIONBUDGETS,
        ("rbac.authorization.k8s.io", "v1", "clusterrolebindings") => &RBAC_V1_CLUSTERROLEBINDINGS,
        ("rbac.authorization.k8s.io", "v1", "clusterroles") => &RBAC_V1_CLUSTERROLES,
        ("rbac.authorization.k8s.io", "v1", "rolebindings") => &RBAC_V1_ROLEBINDINGS,
        ("rbac.authorization.k8s.io", "v1", "roles") => &RBAC_V1_ROLES,
        ("resource.k8s.io", "v1", "deviceclasses") => &RESOURCE_V1_DEVICECLASSES,
        ("resource.k8s.io", "v1", "resourceclaims") => &RESOURCE_V1_RESOURCECLAIMS,
        ("resource.k8s.io", "v1", "resourceclaimtemplates") => &RESOURCE_V1_RESOURCECLAIMTEMPLATES,
        ("resource.k8s.io", "v1", "resourceslices") => &RESOURCE_V1_RESOURCESLICES,
        ("scheduling.k8s.io", "v1", "priorityclasses") => &SCHEDULING_V1_PRIORITYCLASSES,
        ("storage.k8s.io", "v1", "csidrivers") => &STORAGE_V1_CSIDRIVERS,
        ("storage.k8s.io", "v1", "csinodes") => &STORAGE_V1_CSINODES,
        ("storage.k8s.io", "v1", "csistoragecapacities") => &STORAGE_V1_CSISTORAGECAPACITIES,
        ("storage.k8s.io", "v1", "storageclasses") => &STORAGE_V1_STORAGECLASSES,
        ("storage.k8s.io", "v1", "volumeattachments") => &STORAGE_V1_VOLUMEATTACHMENTS,
        ("storage.k8s.io", "v1", "volumeattributesclasses") => &STORAGE_V1_VOLUMEATTRIBUTESCLASSES,
        _ => return None,
    };
    Some(found)
}
