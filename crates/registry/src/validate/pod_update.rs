//! What may change in a pod: through the resource itself, its status, ephemeral containers and resize.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use wire::schema::Type;

use super::shown::{Ordered, internal_value};
use super::{Errors, Path, affinity, diff, pod, pod_spec, shown};
use crate::check::{
    dns1123_subdomain, each, each_int, legacy_ip, qualified_name, range_message, unix_id,
};
use crate::qos;
use crate::value::{Tree, same};

const UPDATABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Upstream's internal PodSpec: fields in its order; those of the security context that the served type has at the top
/// are moved there.
pub fn internal_spec(spec: &Value) -> Ordered {
    const FIELDS: [&str; 37] = [
        "volumes",
        "initContainers",
        "containers",
        "ephemeralContainers",
        "restartPolicy",
        "terminationGracePeriodSeconds",
        "activeDeadlineSeconds",
        "dnsPolicy",
        "nodeSelector",
        "serviceAccountName",
        "automountServiceAccountToken",
        "nodeName",
        "securityContext",
        "imagePullSecrets",
        "hostname",
        "subdomain",
        "setHostnameAsFQDN",
        "affinity",
        "schedulerName",
        "tolerations",
        "hostAliases",
        "priorityClassName",
        "priority",
        "preemptionPolicy",
        "dnsConfig",
        "readinessGates",
        "runtimeClassName",
        "overhead",
        "enableServiceLinks",
        "topologySpreadConstraints",
        "os",
        "schedulingGates",
        "resourceClaims",
        "resources",
        "hostnameOverride",
        "schedulingGroup",
        "",
    ];
    const CONTEXT: [&str; 18] = [
        "hostNetwork",
        "hostPID",
        "hostIPC",
        "shareProcessNamespace",
        "hostUsers",
        "seLinuxOptions",
        "windowsOptions",
        "runAsUser",
        "runAsGroup",
        "runAsNonRoot",
        "supplementalGroups",
        "supplementalGroupsPolicy",
        "fsGroup",
        "fsGroupChangePolicy",
        "sysctls",
        "seccompProfile",
        "appArmorProfile",
        "seLinuxChangePolicy",
    ];
    let (Some(message), Some(context)) = (
        api::schema::message("v1", "PodSpec"),
        api::schema::message("v1", "PodSecurityContext"),
    ) else {
        return Ordered::Leaf(spec.clone());
    };
    let mut out = vec![];
    for name in FIELDS {
        let Some(f) = message.field(name) else {
            continue;
        };
        let value = if name == "securityContext" {
            let sc = spec.at("securityContext");
            let inner = CONTEXT
                .iter()
                .filter_map(|n| {
                    let (f, v) = match context.field(n) {
                        Some(f) => (f, sc.at(n)),
                        None => (message.field(n)?, spec.at(n)),
                    };
                    Some((f.go.to_owned(), internal_value(f.ty, f.flags, v)))
                })
                .collect();
            Ordered::Object(inner)
        } else {
            internal_value(f.ty, f.flags, spec.at(name))
        };
        out.push((f.go.to_owned(), value));
    }
    Ordered::Object(out)
}

fn spec_diff(old: &Value, new: &Value) -> String {
    diff::unified(
        &internal_spec(old).to_json(Some(" "), 0),
        &internal_spec(new).to_json(Some(" "), 0),
    )
}

/// An update of the pod itself, metadata excluded.
pub fn update(new: &Value, old: &Value) -> Errors {
    let mut e = Errors::new();
    pod::meta_and_spec(&mut e, new);
    annotation_updates(&mut e, new, old);
    let path = Path::new("spec");
    for key in ["containers", "initContainers"] {
        if !same_containers(
            &mut e,
            &path.child(key),
            new.at("spec").list(key),
            old.at("spec").list(key),
        ) {
            return e;
        }
    }
    if !deadline(&mut e, &path.child("activeDeadlineSeconds"), new, old) {
        return e;
    }
    only_added_tolerations(
        &mut e,
        &path.child("tolerations"),
        new.list("spec.tolerations"),
        old.list("spec.tolerations"),
    );
    only_removed_gates(
        &mut e,
        &path.child("schedulingGates"),
        new.at("spec"),
        old.at("spec"),
    );
    if same(new.at("spec"), old.at("spec")) {
        return e;
    }
    let munged = munge(&mut e, &path, new.at("spec"), old.at("spec"));
    if !same(&munged, old.at("spec")) {
        e.forbidden(
            &path,
            &format!("{UPDATABLE}\n{}", spec_diff(old.at("spec"), &munged)),
        );
    }
    e
}

/// The new spec with everything that may change put back.
fn munge(e: &mut Errors, path: &Path, new: &Value, old: &Value) -> Value {
    let mut munged = new.clone();
    for key in ["containers", "initContainers"] {
        let images = old.list(key);
        for (c, o) in munged.list_mut(key).iter_mut().zip(images) {
            c.copy_at("image", o);
        }
    }
    for key in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        munged.copy_at(key, old);
    }
    if old.int("terminationGracePeriodSeconds") < 0 && new.int("terminationGracePeriodSeconds") == 1
    {
        munged.copy_at("terminationGracePeriodSeconds", old);
    }
    if !old.list("schedulingGates").is_empty() {
        gated(e, path, &mut munged, old);
    }
    munged
}

/// A gated pod may still get more node selectors and node affinity.
fn gated(e: &mut Errors, path: &Path, munged: &mut Value, old: &Value) {
    if !same(munged.at("nodeSelector"), old.at("nodeSelector")) {
        let new = munged.map("nodeSelector");
        if old
            .map("nodeSelector")
            .iter()
            .any(|(k, v)| new.get(k) != Some(v))
        {
            e.invalid(
                &path.child("nodeSelector"),
                munged.at("nodeSelector").clone(),
                "only additions to spec.nodeSelector are allowed (no mutations or deletions)",
            );
        }
        munged.copy_at("nodeSelector", old);
    }
    let (new_affinity, old_affinity) = (
        munged.at("affinity.nodeAffinity").clone(),
        old.at("affinity.nodeAffinity"),
    );
    if same(&new_affinity, old_affinity) {
        return;
    }
    node_affinity_additions(
        e,
        &path.child("affinity").child("nodeAffinity"),
        &new_affinity,
        old_affinity,
    );
    let others = munged.has("affinity.podAffinity") || munged.has("affinity.podAntiAffinity");
    if !old.has("affinity") && !others {
        munged.remove_at("affinity");
    } else {
        munged.copy_at("affinity.nodeAffinity", old);
    }
}

fn node_affinity_additions(e: &mut Errors, path: &Path, new: &Value, old: &Value) {
    const TERMS: &str = "requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let (new_terms, old_terms) = (new.list(TERMS), old.list(TERMS));
    let p = path
        .child("requiredDuringSchedulingIgnoredDuringExecution")
        .child("nodeSelectorTerms");
    let shown_terms = |terms: &[Value]| {
        if terms.is_empty() {
            return "null".to_owned();
        }
        let each: Vec<String> = terms
            .iter()
            .map(|t| shown::internal("v1", "NodeSelectorTerm", t))
            .collect();
        format!("[{}]", each.join(","))
    };
    if !old_terms.is_empty() && old_terms.len() != new_terms.len() {
        e.invalid_shown(
            &p,
            &shown_terms(new_terms),
            "no additions/deletions to non-empty NodeSelectorTerms list are allowed",
        );
        return;
    }
    for (i, (n, o)) in new_terms.iter().zip(old_terms).enumerate() {
        let starts = |key: &str| {
            let (n, o) = (n.list(key), o.list(key));
            n.len() >= o.len() && n.iter().zip(o).all(|(a, b)| same(a, b))
        };
        let was_empty = o.list("matchExpressions").is_empty() && o.list("matchFields").is_empty();
        let grew = !n.list("matchExpressions").is_empty() || !n.list("matchFields").is_empty();
        if was_empty && grew || !starts("matchExpressions") || !starts("matchFields") {
            e.invalid_shown(
                &p.index(i),
                &shown::internal("v1", "NodeSelectorTerm", n),
                "only additions are allowed (no mutations or deletions)",
            );
        }
    }
}

fn annotation_updates(e: &mut Errors, new: &Value, old: &Value) {
    let path = Path::new("metadata").child("annotations");
    let (n, o) = (
        new.map("metadata.annotations"),
        old.map("metadata.annotations"),
    );
    let guarded = |k: &str| k.starts_with(super::security::APP_ARMOR);
    for (k, v) in o {
        if n.get(k) == Some(v) {
            continue;
        }
        if guarded(k) {
            e.forbidden(
                &path.key(k),
                "may not remove or update AppArmor annotations",
            );
        }
        if k == pod::MIRROR {
            e.forbidden(
                &path.key(k),
                "may not remove or update mirror pod annotation",
            );
        }
    }
    for k in n.keys().filter(|k| !o.contains_key(*k)) {
        if guarded(k) {
            e.forbidden(&path.key(k), "may not add AppArmor annotations");
        }
        if k == pod::MIRROR {
            e.forbidden(&path.key(k), "may not add mirror pod annotation");
        }
    }
    pod::specific_annotations(e, &path, n, new.at("spec"));
}

fn same_containers(e: &mut Errors, path: &Path, new: &[Value], old: &[Value]) -> bool {
    if new.len() != old.len() {
        e.forbidden(path, "pod updates may not add or remove containers");
        return false;
    }
    for (i, c) in new.iter().enumerate() {
        if c.text("image").is_empty() {
            e.required(&path.index(i).child("image"), "");
        }
        super::container::image_padding(e, &path.index(i), c);
    }
    true
}

fn deadline(e: &mut Errors, path: &Path, new: &Value, old: &Value) -> bool {
    let max = i64::from(i32::MAX);
    match (
        new.int_opt("spec.activeDeadlineSeconds"),
        old.int_opt("spec.activeDeadlineSeconds"),
    ) {
        (Some(n), _) if !(0..=max).contains(&n) => {
            e.invalid(path, n, &range_message(0, max));
            false
        }
        (Some(n), Some(o)) if o < n => {
            e.invalid(path, n, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            e.invalid(
                path,
                Value::Null,
                "must not update from a positive integer to nil value",
            );
            true
        }
        _ => true,
    }
}

fn only_added_tolerations(e: &mut Errors, path: &Path, new: &[Value], old: &[Value]) {
    let timeless = |t: &Value| ["key", "operator", "value", "effect"].map(|k| t.text(k).to_owned());
    let left: BTreeSet<_> = new.iter().map(timeless).collect();
    if old.iter().all(|o| left.contains(&timeless(o))) {
        affinity::tolerations(e, path, new);
    } else {
        e.forbidden(
            path,
            "existing toleration can not be modified except its tolerationSeconds",
        );
    }
}

fn only_removed_gates(e: &mut Errors, path: &Path, new: &Value, old: &Value) {
    let known: BTreeSet<&str> = old
        .list("schedulingGates")
        .iter()
        .map(|g| g.text("name"))
        .collect();
    for (i, g) in new.list("schedulingGates").iter().enumerate() {
        let name = g.text("name");
        if !known.contains(name) {
            e.forbidden(
                &path.index(i).child("name"),
                &format!("only deletion is allowed, but found new scheduling gate '{name}'"),
            );
        }
    }
}

/// An update of ephemeral containers.
pub fn ephemeral_containers(new: &Value, old: &Value) -> Errors {
    let mut e = Errors::new();
    pod::meta_and_spec(&mut e, new);
    annotation_updates(&mut e, new, old);
    if old.map("metadata.annotations").contains_key(pod::MIRROR) {
        let mut e = Errors::new();
        e.forbidden(
            &Path::new(""),
            "static pods do not support ephemeral containers",
        );
        return e;
    }
    let path = Path::new("spec").child("ephemeralContainers");
    let left = by_name(new.list("spec.ephemeralContainers"));
    for o in old.list("spec.ephemeralContainers") {
        let name = o.text("name");
        match left.get(name).copied() {
            None => e.forbidden(
                &path,
                &format!("existing ephemeral containers {name:?} may not be removed\n"),
            ),
            Some(n) if !same(n, o) => {
                let dump = |v: &Value| match api::schema::message("v1", "EphemeralContainer") {
                    Some(m) => internal_value(Type::Message(m), 0, v).to_json(Some(" "), 0),
                    None => v.to_string(),
                };
                let d = diff::unified(&dump(o), &dump(n));
                e.forbidden(
                    &path,
                    &format!("existing ephemeral containers {name:?} may not be changed\n{d}"),
                );
            }
            Some(_) => {}
        }
    }
    e
}

/// An update of the status.
pub fn status(new: &Value, old: &Value) -> Errors {
    let mut e = Errors::new();
    annotation_updates(&mut e, new, old);
    let path = Path::new("status");
    conditions(
        &mut e,
        &path.child("conditions"),
        new.list("status.conditions"),
    );
    if new.text("spec.nodeName") != old.text("spec.nodeName") {
        e.forbidden(&path.child("nodeName"), "may not be changed directly");
    }
    let (nominated, was) = (
        new.text("status.nominatedNodeName"),
        old.text("status.nominatedNodeName"),
    );
    let p = path.child("nominatedNodeName");
    if nominated != was && !nominated.is_empty() {
        each(&mut e, &p, nominated, dns1123_subdomain(nominated));
        if !old.text("spec.nodeName").is_empty() {
            e.forbidden(
                &p,
                "may not be set on pods that are already bound to a node",
            );
        }
    }
    let generation = new.int("status.observedGeneration");
    if generation < 0 {
        e.invalid(
            &path.child("observedGeneration"),
            generation,
            "must be a non-negative integer",
        );
    }
    if new.text("status.qosClass") != old.text("status.qosClass") {
        e.invalid(
            &path.child("qosClass"),
            new.text("status.qosClass"),
            "field is immutable",
        );
    }
    transitions(&mut e, &path, new, old);
    claim_statuses(&mut e, &path.child("resourceClaimStatuses"), new);
    addresses(
        &mut e,
        &path.child("podIPs"),
        new.at("status.podIPs"),
        old.at("status.podIPs"),
    );
    host_ips(&mut e, &path.child("hostIPs"), new, old);
    for key in [
        "containerStatuses",
        "initContainerStatuses",
        "ephemeralContainerStatuses",
    ] {
        users(
            &mut e,
            &path.child(key),
            new.at("status").list(key),
            new.text("spec.os.name") == "windows",
        );
    }
    e
}

fn conditions(e: &mut Errors, path: &Path, list: &[Value]) {
    for (i, c) in list.iter().enumerate() {
        let g = c.int("observedGeneration");
        if g < 0 {
            e.invalid(
                &path.index(i).child("observedGeneration"),
                g,
                "must be a non-negative integer",
            );
        }
        let kind = c.text("type");
        if !["PodScheduled", "Ready", "Initialized"].contains(&kind) {
            each(e, &path.index(i).child("Type"), kind, qualified_name(kind));
        }
    }
}

fn should_restart(spec: &Value, container: &Value, code: i64) -> bool {
    if let Some(policy) = container.text_opt("restartPolicy") {
        let hit = container.list("restartPolicyRules").iter().any(|r| {
            let codes: Vec<i64> = r
                .list("exitCodes.values")
                .iter()
                .filter_map(Value::as_i64)
                .collect();
            match r.text("exitCodes.operator") {
                "In" => codes.contains(&code),
                "NotIn" => !codes.contains(&code),
                _ => false,
            }
        });
        match policy {
            _ if hit => return true,
            "Always" => return true,
            "OnFailure" => return code != 0,
            "Never" => return false,
            _ => {}
        }
    }
    match spec.text("restartPolicy") {
        "OnFailure" => code != 0,
        "Never" => false,
        _ => true,
    }
}

/// A terminated container stays so unless its restart policy lets it run again.
fn transitions(e: &mut Errors, path: &Path, new: &Value, old: &Value) {
    let spec = old.at("spec");
    let restart_all = ["initContainers", "containers"].iter().any(|k| {
        spec.list(k).iter().any(|c| {
            c.list("restartPolicyRules")
                .iter()
                .any(|r| r.text("action") == "RestartAllContainers")
        })
    });
    for (key, containers) in [
        ("containerStatuses", "containers"),
        ("initContainerStatuses", "initContainers"),
        ("ephemeralContainerStatuses", ""),
    ] {
        if restart_all && !containers.is_empty() {
            continue;
        }
        let revived: BTreeSet<&str> = new
            .at("status")
            .list(key)
            .iter()
            .filter(|n| !n.has("state.terminated"))
            .map(|n| n.text("name"))
            .collect();
        let specs = by_name(if containers.is_empty() {
            &[]
        } else {
            spec.list(containers)
        });
        for (i, o) in old.at("status").list(key).iter().enumerate() {
            let name = o.text("name");
            if !o.has("state.terminated") {
                continue;
            }
            let allowed = specs
                .get(name)
                .is_some_and(|c| should_restart(spec, c, o.int("state.terminated.exitCode")));
            if revived.contains(name) && !allowed {
                e.forbidden(
                    &path.child(key).index(i).child("state"),
                    "may not be transitioned to non-terminated state",
                );
            }
        }
    }
}

/// The first element of each name.
fn by_name(list: &[Value]) -> BTreeMap<&str, &Value> {
    list.iter().rev().map(|c| (c.text("name"), c)).collect()
}

fn claim_statuses(e: &mut Errors, path: &Path, pod: &Value) {
    let claims = by_name(pod.list("spec.resourceClaims"));
    for (i, s) in pod.list("status.resourceClaimStatuses").iter().enumerate() {
        let name = s.text("name");
        let p = path.index(i);
        if !claims.contains_key(name) {
            e.invalid(
                &p.child("name"),
                name,
                "must match the name of an entry in `spec.resourceClaims`",
            );
        }
        if let Some(claim) = s.text_opt("resourceClaimName") {
            each(e, &p.child("name"), claim, dns1123_subdomain(claim));
        }
    }
}

/// At most one address per family; addresses that were there before may keep an old spelling.
fn addresses(e: &mut Errors, path: &Path, new: &Value, old: &Value) {
    let known: BTreeSet<&str> = old.list("").iter().map(|a| a.text("ip")).collect();
    let list = new.list("");
    for (i, a) in list.iter().enumerate() {
        if !known.contains(a.text("ip")) {
            legacy_ip(e, &path.index(i), a.text("ip"));
        }
    }
    if list.len() > 1 {
        let six = list
            .iter()
            .filter(|a| crate::check::is_ipv6(a.text("ip")))
            .count();
        if list.len() > 2 || six != 1 {
            let shown: Vec<String> = list
                .iter()
                .map(|a| format!("{{\"IP\":{}}}", json!(a.text("ip"))))
                .collect();
            e.invalid_shown(
                path,
                &format!("[{}]", shown.join(",")),
                "may specify no more than one IP for each IP family",
            );
        }
    }
}

fn host_ips(e: &mut Errors, path: &Path, new: &Value, old: &Value) {
    let Some(first) = new.list("status.hostIPs").first() else {
        return;
    };
    if first.text("ip") != new.text("status.hostIP") {
        e.invalid(
            &path.index(0).child("ip"),
            first.text("ip"),
            "must be equal to `hostIP`",
        );
    }
    addresses(e, path, new.at("status.hostIPs"), old.at("status.hostIPs"));
}

fn users(e: &mut Errors, path: &Path, statuses: &[Value], windows: bool) {
    for (i, s) in statuses.iter().enumerate() {
        let user = s.at("user.linux");
        let p = path.index(i).child("user").child("linux");
        if user.is_null() {
            continue;
        }
        if windows {
            e.forbidden(&p, "cannot be set for a windows pod");
            continue;
        }
        for key in ["uid", "gid"] {
            each_int(e, &p.child(key), user.int(key), unix_id(user.int(key)));
        }
        for (j, g) in user
            .list("supplementalGroups")
            .iter()
            .filter_map(Value::as_i64)
            .enumerate()
        {
            each_int(e, &p.child("supplementalGroups").index(j), g, unix_id(g));
        }
    }
}

/// A resize: only cpu and memory of containers and of the pod, and the QoS class stays.
pub fn resize(new: &Value, old: &Value) -> Errors {
    let mut e = Errors::new();
    pod::meta_and_spec(&mut e, new);
    let root = Path::new("");
    let alone = |why: &str| {
        let mut e = Errors::new();
        e.forbidden(&root, why);
        e
    };
    if old.map("metadata.annotations").contains_key(pod::MIRROR) {
        return alone("static pods cannot be resized");
    }
    if old.text("spec.os.name") == "windows" {
        return alone("windows pods cannot be resized");
    }
    let path = Path::new("spec");
    let was = match old.text("status.qosClass") {
        "" => qos::class(old),
        class => class,
    };
    if was != qos::class(new) {
        e.invalid(
            &path,
            new.text("status.qosClass"),
            "Pod QOS Class may not change as a result of resizing",
        );
    }
    let supported = old
        .list("status.containerStatuses")
        .iter()
        .find(|c| c.has("state.running"))
        .is_none_or(|c| c.has("resources"));
    if !supported {
        e.forbidden(&path, "Pod running on node without support for resize");
    }
    let mut munged = new.at("spec").clone();
    pod_level_resize(&mut e, &path, &mut munged, old.at("spec"));
    if !old
        .list("status.nodeAllocatableResourceClaimStatuses")
        .is_empty()
    {
        e.forbidden(
            &path,
            "pods with node allocatable resource claims cannot be resized",
        );
    }
    if !same_order(&mut e, &path, new, old) {
        return e;
    }
    for key in ["initContainers", "containers"] {
        for (i, (n, o)) in new
            .at("spec")
            .list(key)
            .iter()
            .zip(old.at("spec").list(key))
            .enumerate()
        {
            not_removed(
                &mut e,
                &path.child(key).index(i).child("resources"),
                "resource",
                n.at("resources"),
                o.at("resources"),
            );
        }
    }
    resize_containers(&mut e, &path, &mut munged, new.at("spec"), old.at("spec"));
    if e.is_empty() && !same(&munged, old.at("spec")) {
        e.forbidden(&path, "only cpu and memory resources are mutable");
    }
    e
}

fn pod_level_resize(e: &mut Errors, path: &Path, munged: &mut Value, old: &Value) {
    let set = |v: &Value| {
        !v.map("resources.requests").is_empty() || !v.map("resources.limits").is_empty()
    };
    if !set(old) && !set(munged) {
        return;
    }
    let p = path.child("resources");
    if old.has("resources") && !munged.has("resources") {
        e.forbidden(&p, "pod-level resources cannot be removed");
        return;
    }
    if old.has("resources") {
        not_removed(
            e,
            &p,
            "pod-level resource",
            munged.at("resources"),
            old.at("resources"),
        );
    }
    put_back(munged, old, "resources");
    if !same(munged.at("resources"), old.at("resources")) {
        e.forbidden(
            path,
            "only cpu and memory resources are mutable at pod-level",
        );
    }
}

fn not_removed(e: &mut Errors, path: &Path, what: &str, new: &Value, old: &Value) {
    for key in ["requests", "limits"] {
        let (n, o) = (new.map(key), old.map(key));
        if o.len() > n.len() || o.keys().any(|k| !n.contains_key(k)) {
            e.forbidden(&path.child(key), &format!("{what} {key} cannot be removed"));
        }
    }
}

/// Puts back the old cpu and memory under `at`.
fn put_back(new: &mut Value, old: &Value, at: &str) {
    for list in ["requests", "limits"] {
        let path = format!("{at}.{list}");
        for name in ["cpu", "memory"] {
            new.copy_at(&format!("{path}.{name}"), old);
        }
    }
}

fn resize_containers(e: &mut Errors, path: &Path, munged: &mut Value, new: &Value, old: &Value) {
    for (c, o) in munged
        .list_mut("containers")
        .iter_mut()
        .zip(old.list("containers"))
    {
        put_back(c, o, "resources");
        if !same(c, o) {
            e.forbidden(path, "only cpu and memory resources are mutable");
        }
    }
    let originals = new.list("initContainers");
    for (i, (c, o)) in munged
        .list_mut("initContainers")
        .iter_mut()
        .zip(old.list("initContainers"))
        .enumerate()
    {
        let p = path.child("initContainers").index(i);
        let modified = originals.get(i).is_some_and(|n| !same(n, o));
        put_back(c, o, "resources");
        if !same(c, o) {
            e.forbidden(
                &p,
                "only cpu and memory resources for init or sidecar containers are mutable",
            );
        }
        if modified && c.text("restartPolicy") != "Always" {
            for _ in c
                .list("resizePolicy")
                .iter()
                .filter(|r| r.text("restartPolicy") == "RestartContainer")
            {
                e.forbidden(
                    &p,
                    "non-sidecar init containers with a resize policy of RestartContainer cannot be resized",
                );
            }
        }
    }
}

fn same_order(e: &mut Errors, path: &Path, new: &Value, old: &Value) -> bool {
    let mut good = true;
    for key in ["containers", "initContainers"] {
        let (n, o) = (new.at("spec").list(key), old.at("spec").list(key));
        if n.len() != o.len() {
            e.forbidden(
                &path.child(key),
                &format!("{key} may not be added or removed on resize"),
            );
            good = false;
            continue;
        }
        for (i, (a, b)) in n.iter().zip(o).enumerate() {
            if a.text("name") != b.text("name") {
                e.forbidden(
                    &path.child(key).index(i).child("name"),
                    &format!("{key} may not be renamed or reordered on resize"),
                );
                good = false;
            }
        }
    }
    good
}

/// A Binding's target.
pub fn binding(b: &Value) -> Errors {
    let mut e = Errors::new();
    let kind = b.text("target.kind");
    if !kind.is_empty() && kind != "Node" {
        e.not_supported(
            &Path::new("target").child("kind"),
            kind,
            &["Node", "<empty>"],
        );
    }
    if b.text("target.name").is_empty() {
        e.required(&Path::new("target").child("name"), "");
    }
    e
}

/// The containers' names, for messages that offer a choice.
pub fn container_names(pod: &Value) -> Vec<&str> {
    let mut names = vec![];
    pod_spec::visit_containers(pod.at("spec"), &Path::root(), |c, _| {
        names.push(c.text("name"))
    });
    names
}
