//! Everything that is neither a pod nor a workload.

use std::collections::BTreeSet;

use serde_json::Value;

use super::text::{condition, containers, host_port, labels, or, selector, some};
use super::{Cells, age};
use crate::value::Tree;

/// The printer of a resource of the core group.
pub fn core(resource: &str) -> Option<Cells> {
    let f: Cells = match resource {
        "componentstatuses" => component_status,
        "configmaps" => config_map,
        "endpoints" => endpoints,
        "events" => event,
        "namespaces" => namespace,
        "nodes" => node,
        "persistentvolumeclaims" => claim,
        "persistentvolumes" => volume,
        "podtemplates" => pod_template,
        "replicationcontrollers" => replication_controller,
        "resourcequotas" => quota,
        "secrets" => secret,
        "services" => service,
        _ => return None,
    };
    Some(f)
}

/// The printer of a resource of the other groups.
pub fn cells(group: &str, resource: &str) -> Option<Cells> {
    let f: Cells = match (group, resource) {
        ("events.k8s.io", "events") => event,
        ("apiregistration.k8s.io", "apiservices") => api_service,
        ("certificates.k8s.io", "certificatesigningrequests") => csr,
        ("coordination.k8s.io", "leases") => lease,
        ("discovery.k8s.io", "endpointslices") => endpoint_slice,
        ("networking.k8s.io", "ingressclasses") => ingress_class,
        ("networking.k8s.io", "ingresses") => ingress,
        ("networking.k8s.io", "ipaddresses") => ip_address,
        ("networking.k8s.io", "networkpolicies") => network_policy,
        ("networking.k8s.io", "servicecidrs") => service_cidr,
        ("node.k8s.io", "runtimeclasses") => |o, now| named(o, &["handler"], now),
        ("rbac.authorization.k8s.io", "clusterrolebindings" | "rolebindings") => binding,
        ("scheduling.k8s.io", "priorityclasses") => priority_class,
        ("storage.k8s.io", "csidrivers") => csi_driver,
        ("storage.k8s.io", "csinodes") => csi_node,
        ("storage.k8s.io", "storageclasses") => storage_class,
        ("storage.k8s.io", "volumeattachments") => volume_attachment,
        ("storage.k8s.io", "volumeattributesclasses") => |o, now| named(o, &["driverName"], now),
        (
            "admissionregistration.k8s.io",
            "mutatingwebhookconfigurations" | "validatingwebhookconfigurations",
        ) => webhooks,
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies") => {
            |o, now| policy(o, "spec.mutations", now)
        }
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => {
            |o, now| policy(o, "spec.validations", now)
        }
        ("admissionregistration.k8s.io", _) => policy_binding,
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => flow_schema,
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => priority_level,
        ("resource.k8s.io", "resourceclaims") => resource_claim,
        ("resource.k8s.io", "resourceslices") => resource_slice,
        _ => return None,
    };
    Some(f)
}

/// Name, some text fields, age.
fn named(o: &Value, fields: &[&str], now: i64) -> Vec<Value> {
    let mut cells = vec![o.name().into()];
    cells.extend(fields.iter().map(|f| Value::from(o.text(f))));
    cells.push(age::of(o, now));
    cells
}

fn component_status(o: &Value, _: i64) -> Vec<Value> {
    let healthy = o
        .list("conditions")
        .iter()
        .find(|c| c.text("type") == "Healthy");
    let (status, message, error) = healthy.map_or(("Unknown", "", ""), |c| {
        (
            if c.text("status") == "True" {
                "Healthy"
            } else {
                "Unhealthy"
            },
            c.text("message"),
            c.text("error"),
        )
    });
    vec![o.name().into(), status.into(), message.into(), error.into()]
}

fn config_map(o: &Value, now: i64) -> Vec<Value> {
    vec![
        o.name().into(),
        (o.map("data").len() + o.map("binaryData").len()).into(),
        age::of(o, now),
    ]
}

fn secret(o: &Value, now: i64) -> Vec<Value> {
    vec![
        o.name().into(),
        o.text("type").into(),
        o.map("data").len().into(),
        age::of(o, now),
    ]
}

fn namespace(o: &Value, now: i64) -> Vec<Value> {
    named(o, &["status.phase"], now)
}

fn endpoints(o: &Value, now: i64) -> Vec<Value> {
    let mut all = vec![];
    for s in o.list("subsets") {
        let addresses = s.list("addresses");
        if s.list("ports").is_empty() {
            all.extend(addresses.iter().map(|a| a.text("ip").to_owned()));
        }
        for p in s.list("ports") {
            all.extend(
                addresses
                    .iter()
                    .map(|a| host_port(a.text("ip"), p.int("port"))),
            );
        }
    }
    let shown = if o.list("subsets").is_empty() {
        "<none>".to_owned()
    } else {
        some(&all, 3)
    };
    vec![o.name().into(), shown.into(), age::of(o, now)]
}

fn endpoint_slice(o: &Value, now: i64) -> Vec<Value> {
    let unset = |s: String| {
        if s.is_empty() {
            "<unset>".to_owned()
        } else {
            s
        }
    };
    let ports: Vec<String> = o
        .list("ports")
        .iter()
        .map(|p| match (p.int_opt("port"), p.text_opt("name")) {
            (Some(n), _) => n.to_string(),
            (None, Some(name)) => name.to_owned(),
            (None, None) => "*".to_owned(),
        })
        .collect();
    let addresses: Vec<String> = o
        .list("endpoints")
        .iter()
        .flat_map(|e| e.texts("addresses"))
        .map(str::to_owned)
        .collect();
    vec![
        o.name().into(),
        o.text("addressType").into(),
        unset(some(&ports, 3)).into(),
        unset(some(&addresses, 3)).into(),
        age::of(o, now),
    ]
}

fn first<'a>(a: &'a str, b: &'a str) -> &'a str {
    or(a, b)
}

/// Events as core/v1 and as events.k8s.io/v1 have them.
fn event(o: &Value, now: i64) -> Vec<Value> {
    let either = |a: &str, b: &str| {
        let v = o.at(a);
        if v.is_null() {
            o.at(b).clone()
        } else {
            v.clone()
        }
    };
    let mut first_seen = age::since(&either("firstTimestamp", "deprecatedFirstTimestamp"), now);
    if first_seen == "<unknown>" {
        first_seen = age::since(o.at("eventTime"), now);
    }
    let mut last_seen = age::since(&either("lastTimestamp", "deprecatedLastTimestamp"), now);
    if last_seen == "<unknown>" {
        last_seen.clone_from(&first_seen);
    }
    let mut count = either("count", "deprecatedCount")
        .as_i64()
        .unwrap_or_default();
    if o.has("series") {
        last_seen = age::since(o.at("series.lastObservedTime"), now);
        count = o.int("series.count");
    } else if count == 0 {
        count = 1;
    }
    let object = either("involvedObject", "regarding");
    let kind = object.text("kind").to_lowercase();
    let target = match object.text("name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let source = either("source", "deprecatedSource");
    let component = first(
        source.text("component"),
        first(o.text("reportingComponent"), o.text("reportingController")),
    );
    let host = first(source.text("host"), o.text("reportingInstance"));
    let source = if host.is_empty() {
        component.to_owned()
    } else {
        format!("{component}, {host}")
    };
    let message = first(o.text("message"), o.text("note"));
    vec![
        last_seen.into(),
        o.text("type").into(),
        o.text("reason").into(),
        target.into(),
        object.text("fieldPath").into(),
        source.into(),
        message.trim().into(),
        first_seen.into(),
        count.into(),
        o.name().into(),
    ]
}

fn node(o: &Value, now: i64) -> Vec<Value> {
    let mut status = match condition(o.list("status.conditions"), "Ready") {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if o.flag("spec.unschedulable") {
        status.push_str(",SchedulingDisabled");
    }
    let mut roles = BTreeSet::new();
    for (k, v) in o.map("metadata.labels") {
        let role = match k.strip_prefix("node-role.kubernetes.io/") {
            Some(r) => r,
            None if k == "kubernetes.io/role" => v.as_str().unwrap_or_default(),
            None => "",
        };
        if !role.is_empty() {
            roles.insert(role);
        }
    }
    let roles = roles.into_iter().collect::<Vec<_>>().join(",");
    let address = |kind: &str| {
        let found = o
            .list("status.addresses")
            .iter()
            .find(|a| a.text("type") == kind);
        Value::from(found.map_or("<none>", |a| a.text("address")))
    };
    let info = o.at("status.nodeInfo");
    let mut kernel = or(info.text("kernelVersion"), "<unknown>").to_owned();
    if !info.text("architecture").is_empty() {
        kernel.push_str(&format!(" ({})", info.text("architecture")));
    }
    vec![
        o.name().into(),
        status.into(),
        or(&roles, "<none>").into(),
        age::of(o, now),
        info.text("kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        or(info.text("osImage"), "<unknown>").into(),
        kernel.into(),
        or(info.text("containerRuntimeVersion"), "<unknown>").into(),
    ]
}

fn access_modes(v: &Value, path: &str) -> String {
    let modes = v.texts(path);
    [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ]
    .iter()
    .filter(|(long, _)| modes.contains(long))
    .map(|(_, short)| *short)
    .collect::<Vec<_>>()
    .join(",")
}

fn phase(o: &Value) -> &str {
    if o.has("metadata.deletionTimestamp") {
        "Terminating"
    } else {
        o.text("status.phase")
    }
}

fn class<'a>(o: &'a Value, key: &str) -> &'a str {
    o.annotation("volume.beta.kubernetes.io/storage-class")
        .unwrap_or_else(|| o.text(key))
}

fn unset<'a>(o: &'a Value, key: &str) -> &'a str {
    o.text_opt(key).unwrap_or("<unset>")
}

fn quantity(o: &Value, path: &str) -> String {
    o.map(path)
        .get("storage")
        .and_then(Value::as_str)
        .unwrap_or("0")
        .to_owned()
}

fn claim(o: &Value, now: i64) -> Vec<Value> {
    let bound = !o.text("spec.volumeName").is_empty();
    let (capacity, modes) = if bound {
        (
            quantity(o, "status.capacity"),
            access_modes(o, "status.accessModes"),
        )
    } else {
        (String::new(), String::new())
    };
    vec![
        o.name().into(),
        phase(o).into(),
        o.text("spec.volumeName").into(),
        capacity.into(),
        modes.into(),
        class(o, "spec.storageClassName").into(),
        unset(o, "spec.volumeAttributesClassName").into(),
        age::of(o, now),
        unset(o, "spec.volumeMode").into(),
    ]
}

fn volume(o: &Value, now: i64) -> Vec<Value> {
    let claim = if o.has("spec.claimRef") {
        format!(
            "{}/{}",
            o.text("spec.claimRef.namespace"),
            o.text("spec.claimRef.name")
        )
    } else {
        String::new()
    };
    vec![
        o.name().into(),
        quantity(o, "spec.capacity").into(),
        access_modes(o, "spec.accessModes").into(),
        o.text("spec.persistentVolumeReclaimPolicy").into(),
        phase(o).into(),
        claim.into(),
        class(o, "spec.storageClassName").into(),
        unset(o, "spec.volumeAttributesClassName").into(),
        o.text("status.reason").into(),
        age::of(o, now),
        unset(o, "spec.volumeMode").into(),
    ]
}

fn pod_template(o: &Value, _: i64) -> Vec<Value> {
    let [names, images] = containers(o.list("template.spec.containers"));
    vec![
        o.name().into(),
        names,
        images,
        labels(o.at("template.metadata.labels")).into(),
    ]
}

fn replication_controller(o: &Value, now: i64) -> Vec<Value> {
    let mut cells = super::workloads::replicas(o, now);
    cells.push(labels(o.at("spec.selector")).into());
    cells
}

fn quota(o: &Value, now: i64) -> Vec<Value> {
    let (mut requests, mut limits) = (vec![], vec![]);
    let used = o.map("status.used");
    for (name, hard) in o.map("status.hard") {
        let used = used.get(name).and_then(Value::as_str).unwrap_or("0");
        let text = format!("{name}: {used}/{}", hard.as_str().unwrap_or("0"));
        if name.starts_with("limits.") {
            limits.push(text)
        } else {
            requests.push(text)
        }
    }
    vec![
        o.name().into(),
        requests.join(", ").into(),
        limits.join(", ").into(),
        age::of(o, now),
    ]
}

fn load_balancer(o: &Value) -> String {
    let all: BTreeSet<&str> = o
        .list("status.loadBalancer.ingress")
        .iter()
        .map(|i| or(i.text("ip"), i.text("hostname")))
        .filter(|a| !a.is_empty())
        .collect();
    all.into_iter().collect::<Vec<_>>().join(",")
}

fn external_ip(o: &Value) -> String {
    let own = o.texts("spec.externalIPs").join(",");
    match o.text("spec.type") {
        "ClusterIP" | "NodePort" => or(&own, "<none>").to_owned(),
        "LoadBalancer" => {
            let lb = load_balancer(o);
            match (lb.is_empty(), own.is_empty()) {
                (true, true) => "<pending>".into(),
                (true, false) => own,
                (false, true) => lb,
                (false, false) => format!("{lb},{own}"),
            }
        }
        "ExternalName" => o.text("spec.externalName").to_owned(),
        _ => "<unknown>".into(),
    }
}

fn service(o: &Value, now: i64) -> Vec<Value> {
    let ports: Vec<String> = o
        .list("spec.ports")
        .iter()
        .map(|p| {
            let node = p.int("nodePort");
            let node = if node > 0 {
                format!(":{node}")
            } else {
                String::new()
            };
            format!("{}{node}/{}", p.int("port"), p.text("protocol"))
        })
        .collect();
    let ip = o.texts("spec.clusterIPs").first().copied().unwrap_or("");
    vec![
        o.name().into(),
        o.text("spec.type").into(),
        or(ip, "<none>").into(),
        external_ip(o).into(),
        or(&ports.join(","), "<none>").into(),
        age::of(o, now),
        labels(o.at("spec.selector")).into(),
    ]
}

fn api_service(o: &Value, now: i64) -> Vec<Value> {
    let service = if o.has("spec.service") {
        format!(
            "{}/{}",
            o.text("spec.service.namespace"),
            o.text("spec.service.name")
        )
    } else {
        "Local".to_owned()
    };
    let available = o
        .list("status.conditions")
        .iter()
        .find(|c| c.text("type") == "Available");
    let status = available.map_or("Unknown".to_owned(), |c| {
        match (c.text("status"), c.text("reason")) {
            ("True", _) => "True".to_owned(),
            (s, "") => s.to_owned(),
            (s, r) => format!("{s} ({r})"),
        }
    });
    vec![
        o.name().into(),
        service.into(),
        status.into(),
        age::of(o, now),
    ]
}

fn csr(o: &Value, now: i64) -> Vec<Value> {
    let has = |kind: &str| {
        o.list("status.conditions")
            .iter()
            .any(|c| c.text("type") == kind)
    };
    let mut status = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        status.push_str(",Failed");
    }
    if !o.text("status.certificate").is_empty() {
        status.push_str(",Issued");
    }
    let duration = o
        .int_opt("spec.expirationSeconds")
        .map_or("<none>".to_owned(), age::human);
    vec![
        o.name().into(),
        age::of(o, now),
        or(o.text("spec.signerName"), "<none>").into(),
        o.text("spec.username").into(),
        duration.into(),
        status.into(),
    ]
}

fn lease(o: &Value, now: i64) -> Vec<Value> {
    named(o, &["spec.holderIdentity"], now)
}

fn default_mark(o: &Value, key: &str) -> String {
    let mark = if o.annotation(key) == Some("true") {
        " (default)"
    } else {
        ""
    };
    format!("{}{mark}", o.name())
}

fn ingress_class(o: &Value, now: i64) -> Vec<Value> {
    let p = o.at("spec.parameters");
    let parameters = if p.is_null() {
        "<none>".to_owned()
    } else {
        let group = p
            .text_opt("apiGroup")
            .map_or(String::new(), |g| format!(".{g}"));
        format!("{}{group}/{}", p.text("kind"), p.text("name"))
    };
    vec![
        default_mark(o, "ingressclass.kubernetes.io/is-default-class").into(),
        o.text("spec.controller").into(),
        parameters.into(),
        age::of(o, now),
    ]
}

fn ingress(o: &Value, now: i64) -> Vec<Value> {
    let rules = o.list("spec.rules");
    let mut hosts = vec![];
    let mut more = false;
    for r in rules {
        more |= hosts.len() == 3;
        if !more && !r.text("host").is_empty() {
            hosts.push(r.text("host"));
        }
    }
    let mut shown = if hosts.is_empty() {
        "*".to_owned()
    } else {
        hosts.join(",")
    };
    if more {
        shown.push_str(&format!(" + {} more...", rules.len() - 3));
    }
    vec![
        o.name().into(),
        o.text_opt("spec.ingressClassName")
            .unwrap_or("<none>")
            .into(),
        shown.into(),
        load_balancer(o).into(),
        if o.list("spec.tls").is_empty() {
            "80"
        } else {
            "80, 443"
        }
        .into(),
        age::of(o, now),
    ]
}

fn ip_address(o: &Value, now: i64) -> Vec<Value> {
    let p = o.at("spec.parentRef");
    let parent = if p.is_null() {
        "<none>".to_owned()
    } else {
        let mut s = api::status::qualified(p.text("group"), p.text("resource")).to_lowercase();
        for key in ["namespace", "name"] {
            if !p.text(key).is_empty() || key == "name" {
                s.push_str(&format!("/{}", p.text(key)));
            }
        }
        s
    };
    vec![o.name().into(), parent.into(), age::of(o, now)]
}

fn network_policy(o: &Value, now: i64) -> Vec<Value> {
    vec![
        o.name().into(),
        selector(o.at("spec.podSelector")).into(),
        age::of(o, now),
    ]
}

fn service_cidr(o: &Value, now: i64) -> Vec<Value> {
    vec![
        o.name().into(),
        o.texts("spec.cidrs").join(",").into(),
        age::of(o, now),
    ]
}

fn binding(o: &Value, now: i64) -> Vec<Value> {
    let names = |kind: &str| {
        let all: Vec<String> = o
            .list("subjects")
            .iter()
            .filter(|s| s.text("kind") == kind)
            .map(|s| match kind {
                "ServiceAccount" => format!("{}/{}", s.text("namespace"), s.text("name")),
                _ => s.text("name").to_owned(),
            })
            .collect();
        Value::from(all.join(", "))
    };
    vec![
        o.name().into(),
        format!("{}/{}", o.text("roleRef.kind"), o.text("roleRef.name")).into(),
        age::of(o, now),
        names("User"),
        names("Group"),
        names("ServiceAccount"),
    ]
}

fn priority_class(o: &Value, now: i64) -> Vec<Value> {
    vec![
        o.name().into(),
        o.int("value").into(),
        o.flag("globalDefault").into(),
        age::of(o, now),
        o.text("preemptionPolicy").into(),
    ]
}

fn csi_driver(o: &Value, now: i64) -> Vec<Value> {
    let modes = o.texts("spec.volumeLifecycleModes").join(",");
    let tokens = match o.at("spec.tokenRequests") {
        Value::Null => "<unset>".to_owned(),
        v => v
            .list("")
            .iter()
            .map(|t| t.text("audience"))
            .collect::<Vec<_>>()
            .join(","),
    };
    vec![
        o.name().into(),
        o.flag_opt("spec.attachRequired").unwrap_or(true).into(),
        o.flag("spec.podInfoOnMount").into(),
        o.flag("spec.storageCapacity").into(),
        tokens.into(),
        o.flag("spec.requiresRepublish").into(),
        or(&modes, "<none>").into(),
        age::of(o, now),
    ]
}

fn csi_node(o: &Value, now: i64) -> Vec<Value> {
    vec![
        o.name().into(),
        o.list("spec.drivers").len().into(),
        age::of(o, now),
    ]
}

fn storage_class(o: &Value, now: i64) -> Vec<Value> {
    let default = [
        "storageclass.kubernetes.io/is-default-class",
        "storageclass.beta.kubernetes.io/is-default-class",
    ];
    let key = default
        .into_iter()
        .find(|k| o.annotation(k) == Some("true"))
        .unwrap_or("");
    vec![
        default_mark(o, key).into(),
        o.text("provisioner").into(),
        o.text_opt("reclaimPolicy").unwrap_or("Delete").into(),
        o.text_opt("volumeBindingMode")
            .unwrap_or("Immediate")
            .into(),
        o.flag("allowVolumeExpansion").into(),
        age::of(o, now),
    ]
}

fn volume_attachment(o: &Value, now: i64) -> Vec<Value> {
    vec![
        o.name().into(),
        o.text("spec.attacher").into(),
        o.text("spec.source.persistentVolumeName").into(),
        o.text("spec.nodeName").into(),
        o.flag("status.attached").into(),
        age::of(o, now),
    ]
}

fn webhooks(o: &Value, now: i64) -> Vec<Value> {
    vec![
        o.name().into(),
        o.list("webhooks").len().into(),
        age::of(o, now),
    ]
}

fn policy(o: &Value, rules: &str, now: i64) -> Vec<Value> {
    let kind = if o.has("spec.paramKind") {
        format!(
            "{}/{}",
            o.text("spec.paramKind.apiVersion"),
            o.text("spec.paramKind.kind")
        )
    } else {
        "<unset>".to_owned()
    };
    vec![
        o.name().into(),
        o.list(rules).len().into(),
        kind.into(),
        age::of(o, now),
    ]
}

fn policy_binding(o: &Value, now: i64) -> Vec<Value> {
    let p = o.at("spec.paramRef");
    let parameter = match (p.text("namespace"), p.text("name")) {
        (_, "") if p.has("selector") => selector(p.at("selector")),
        (_, "") => "<unset>".to_owned(),
        ("", name) => format!("*/{name}"),
        (ns, name) => format!("{ns}/{name}"),
    };
    vec![
        o.name().into(),
        o.text("spec.policyName").into(),
        parameter.into(),
        age::of(o, now),
    ]
}

fn flow_schema(o: &Value, now: i64) -> Vec<Value> {
    vec![
        o.name().into(),
        o.text("spec.priorityLevelConfiguration.name").into(),
        o.int("spec.matchingPrecedence").into(),
        o.text_opt("spec.distinguisherMethod.type")
            .unwrap_or("<none>")
            .into(),
        age::of(o, now),
        condition(o.list("status.conditions"), "Dangling")
            .unwrap_or("?")
            .into(),
    ]
}

fn priority_level(o: &Value, now: i64) -> Vec<Value> {
    let or_none = |path: &str| o.int_opt(path).map_or(Value::from("<none>"), Value::from);
    vec![
        o.name().into(),
        o.text("spec.type").into(),
        or_none("spec.limited.nominalConcurrencyShares"),
        or_none("spec.limited.limitResponse.queuing.queues"),
        or_none("spec.limited.limitResponse.queuing.handSize"),
        or_none("spec.limited.limitResponse.queuing.queueLengthLimit"),
        age::of(o, now),
    ]
}

fn resource_claim(o: &Value, now: i64) -> Vec<Value> {
    let mut states = vec![];
    let deleted = o.has("metadata.deletionTimestamp");
    if deleted {
        states.push("deleted");
    }
    if o.has("status.allocation") {
        states.push("allocated");
        if !o.list("status.reservedFor").is_empty() {
            states.push("reserved");
        }
    } else if !deleted {
        states.push("pending");
    }
    vec![o.name().into(), states.join(",").into(), age::of(o, now)]
}

fn resource_slice(o: &Value, now: i64) -> Vec<Value> {
    named(o, &["spec.nodeName", "spec.driver", "spec.pool.name"], now)
}
