//! `PodSpec`, of pods and of templates.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::container::{self, Pod};
use super::{Errors, Path, affinity, meta, resources, security, volumes};
use crate::check::{
    dns1123_label, dns1123_subdomain, dns1123_subdomain_underscore, each, legacy_ip,
    qualified_name, range_message,
};
use crate::quant::{self, Quant};
use crate::value::Tree;

/// Calls `f` with every container and its path: init, regular, ephemeral.
pub fn visit_containers<'a>(spec: &'a Value, path: &Path, mut f: impl FnMut(&'a Value, &Path)) {
    for key in ["initContainers", "containers", "ephemeralContainers"] {
        let p = path.child(key);
        for (i, c) in spec.list(key).iter().enumerate() {
            f(c, &p.index(i));
        }
    }
}

/// Checks a spec. `meta` is the pod's metadata, `None` in a template.
pub fn pod_spec(e: &mut Errors, path: &Path, spec: &Value, pod_meta: Option<&Value>, is_pod: bool) {
    let grace = spec.int_opt("terminationGracePeriodSeconds");
    if grace.is_none() {
        e.required(&path.child("terminationGracePeriodSeconds"), "");
    }
    let pod_name = pod_meta.map_or("", |m| m.text("name"));
    let good = volumes::volumes(
        e,
        &path.child("volumes"),
        spec.list("volumes"),
        pod_name,
        is_pod,
    );
    let claims: BTreeSet<&str> = spec
        .list("resourceClaims")
        .iter()
        .map(|c| c.text("name"))
        .filter(|n| !n.is_empty())
        .collect();
    resource_claims(
        e,
        &path.child("resourceClaims"),
        spec.list("resourceClaims"),
        pod_meta,
    );
    let pod = Pod {
        volumes: &good,
        claims,
        restart_policy: spec.text("restartPolicy"),
        os: spec.has("os").then(|| spec.text("os.name")),
        grace,
        host_users: spec.flag_opt("hostUsers") != Some(false),
    };
    let (regular, init) = (spec.list("containers"), spec.list("initContainers"));
    container::containers(e, &path.child("containers"), regular, &pod);
    container::init_containers(e, &path.child("initContainers"), init, regular, &pod);
    container::ephemeral_containers(
        e,
        &path.child("ephemeralContainers"),
        spec.list("ephemeralContainers"),
        regular,
        init,
        &pod,
    );
    pod_resources(e, &path.child("resources"), spec, &pod.claims);
    host_network_ports(e, path, spec, is_pod);
    enumeration(
        e,
        &path.child("restartPolicy"),
        spec.text("restartPolicy"),
        &["Always", "OnFailure", "Never"],
    );
    enumeration(
        e,
        &path.child("dnsPolicy"),
        spec.text("dnsPolicy"),
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    meta::labels(e, &path.child("nodeSelector"), spec.at("nodeSelector"));
    security::pod(e, &path.child("securityContext"), spec);
    affinity::affinity(e, &path.child("affinity"), spec.at("affinity"));
    dns_config(e, &path.child("dnsConfig"), spec);
    for (i, g) in spec.list("readinessGates").iter().enumerate() {
        let p = path.child("readinessGates").index(i).child("conditionType");
        each(
            e,
            &p,
            g.text("conditionType"),
            qualified_name(g.text("conditionType")),
        );
    }
    scheduling_gates(
        e,
        &path.child("schedulingGates"),
        spec.list("schedulingGates"),
    );
    affinity::topology_spread(
        e,
        &path.child("topologySpreadConstraints"),
        spec.list("topologySpreadConstraints"),
    );
    security::host_process(e, path, spec);
    host_users(e, path, spec);
    hostname_override(e, path, spec);
    names(e, path, spec);
    os(e, path, spec);
    if spec.has("schedulingGroup") {
        let p = path.child("schedulingGroup").child("podGroupName");
        match spec.text_opt("schedulingGroup.podGroupName") {
            None => e.invalid(&p, Value::Null, "must specify one of: `podGroupName`"),
            Some(n) => each(e, &p, n, dns1123_subdomain(n)),
        }
    }
    file_key_volumes(e, path, spec);
}

fn enumeration(e: &mut Errors, path: &Path, value: &str, allowed: &[&str]) {
    if value.is_empty() {
        e.required(path, "");
    } else if !allowed.contains(&value) {
        e.not_supported(path, value, allowed);
    }
}

fn names(e: &mut Errors, path: &Path, spec: &Value) {
    let name = |e: &mut Errors, key: &str, check: fn(&str) -> Vec<String>| {
        let v = spec.text(key);
        if !v.is_empty() {
            each(e, &path.child(key), v, check(v));
        }
    };
    name(e, "serviceAccountName", dns1123_subdomain);
    name(e, "nodeName", dns1123_subdomain);
    if let Some(s) = spec.int_opt("activeDeadlineSeconds")
        && !(1..=i64::from(i32::MAX)).contains(&s)
    {
        e.invalid(
            &path.child("activeDeadlineSeconds"),
            s,
            &range_message(1, i64::from(i32::MAX)),
        );
    }
    name(e, "hostname", dns1123_label);
    name(e, "subdomain", dns1123_label);
    affinity::tolerations(e, &path.child("tolerations"), spec.list("tolerations"));
    host_aliases(e, &path.child("hostAliases"), spec.list("hostAliases"));
    name(e, "priorityClassName", dns1123_subdomain);
    if let Some(r) = spec.text_opt("runtimeClassName") {
        each(e, &path.child("runtimeClassName"), r, dns1123_subdomain(r));
    }
    if spec.has("preemptionPolicy") {
        enumeration(
            e,
            &path.child("preemptionPolicy"),
            spec.text("preemptionPolicy"),
            &["PreemptLowerPriority", "Never"],
        );
    }
    if spec.has("overhead") {
        let wrapped = serde_json::json!({ "limits": spec.at("overhead") });
        resources::container(e, &path.child("overhead"), &wrapped, &BTreeSet::new());
    }
}

fn os(e: &mut Errors, path: &Path, spec: &Value) {
    if !spec.has("os") {
        return;
    }
    let p = path.child("os");
    match spec.text("os.name") {
        "" => e.required(&p.child("name"), ""),
        "linux" => security::linux(e, path, spec),
        "windows" => security::windows(e, path, spec),
        other => e.not_supported(&p, other, &["linux", "windows"]),
    }
}

fn resource_claims(e: &mut Errors, path: &Path, claims: &[Value], pod_meta: Option<&Value>) {
    let mirror = pod_meta.is_some_and(|m| m.map("annotations").contains_key(super::pod::MIRROR));
    let mut names = BTreeSet::new();
    for (i, c) in claims.iter().enumerate() {
        if mirror {
            e.forbidden(&Path::new(""), "static pods do not support resource claims");
            continue;
        }
        let p = path.index(i);
        let name = c.text("name");
        if name.is_empty() {
            e.required(&p.child("name"), "");
        } else if names.contains(name) {
            e.duplicate(&p.child("name"), name);
        } else {
            each(e, &p.child("name"), name, dns1123_label(name));
            names.insert(name);
        }
        match (c.has("resourceClaimName"), c.has("resourceClaimTemplateName")) {
            (true, true) => e.invalid_shown(
                &p,
                &container::shown_claim(c),
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            ),
            (false, false) => e.invalid_shown(
                &p,
                &container::shown_claim(c),
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            ),
            _ => {}
        }
        for key in ["resourceClaimName", "resourceClaimTemplateName"] {
            if let Some(n) = c.text_opt(key) {
                each(e, &p.child(key), n, dns1123_subdomain(n));
            }
        }
    }
}

/// The sum over containers of `requests` or `limits`, as the scheduler counts it: regular containers and sidecars
/// together, or the largest init container with the sidecars started before it.
pub fn aggregate(spec: &Value, key: &str) -> std::collections::BTreeMap<String, Quant> {
    let mut sum = std::collections::BTreeMap::<String, Quant>::new();
    let plus = |sum: &mut std::collections::BTreeMap<String, Quant>, c: &Value| {
        for (name, v) in c.at("resources").map(key) {
            let q = quant::of(v);
            sum.entry(name.clone())
                .and_modify(|s| *s = s.add(&q))
                .or_insert(q);
        }
    };
    for c in spec.list("containers") {
        plus(&mut sum, c);
    }
    let mut sidecars = std::collections::BTreeMap::new();
    let mut init = std::collections::BTreeMap::<String, Quant>::new();
    for c in spec.list("initContainers") {
        let mut here = sidecars.clone();
        plus(&mut here, c);
        if c.text("restartPolicy") == "Always" {
            plus(&mut sum, c);
            sidecars = here.clone();
        }
        for (k, q) in here {
            let larger = init.get(&k).is_none_or(|old| *old < q);
            if larger {
                init.insert(k, q);
            }
        }
    }
    for (k, q) in init {
        if sum.get(&k).is_none_or(|old| *old < q) {
            sum.insert(k, q);
        }
    }
    sum
}

fn pod_resources(e: &mut Errors, path: &Path, spec: &Value, claims: &BTreeSet<&str>) {
    let r = spec.at("resources");
    if r.is_null() {
        return;
    }
    if spec.text("os.name") == "windows" {
        e.forbidden(path, "may not be set for a windows pod");
        return;
    }
    if r.has("claims") {
        e.forbidden(
            &path.child("claims"),
            "claims may not be set for Resources at pod-level",
        );
    }
    resources::pod(e, path, r, claims);
    for (name, sum) in aggregate(spec, "requests") {
        if let Some(own) = r.map("requests").get(&name).map(quant::of)
            && sum > own
        {
            e.invalid(
                &path.child("requests").key(&name),
                own.to_string(),
                &format!("must be greater than or equal to aggregate container requests of {sum}"),
            );
        }
    }
    for (name, sum) in aggregate(spec, "limits") {
        if let Some(own) = r.map("limits").get(&name).map(quant::of)
            && resources::is_huge_page(&name)
            && sum > own
        {
            e.invalid(
                &path.child("limits").key(&name),
                own.to_string(),
                &format!("must be greater than or equal to aggregate container limits of {sum}"),
            );
        }
    }
    for (i, c) in spec.list("containers").iter().enumerate() {
        for (name, v) in c.map("resources.limits") {
            let limit = quant::of(v);
            if let Some(own) = r.map("limits").get(name).map(quant::of)
                && limit > own
            {
                e.invalid(
                    &path.child("containers").index(i).key(name).child("limits"),
                    limit.to_string(),
                    &format!("must be less than or equal to pod limits of {own}"),
                );
            }
        }
    }
}

fn host_network_ports(e: &mut Errors, path: &Path, spec: &Value, is_pod: bool) {
    if !spec.flag("hostNetwork") {
        return;
    }
    for (i, c) in spec.list("containers").iter().enumerate() {
        for (j, p) in c.list("ports").iter().enumerate() {
            let host = p.int("hostPort");
            if (is_pod || host != 0) && host != p.int("containerPort") {
                e.invalid(
                    &path
                        .child("containers")
                        .index(i)
                        .child("ports")
                        .index(j)
                        .child("hostPort"),
                    host,
                    "must match `containerPort` when `hostNetwork` is true",
                );
            }
        }
    }
}

fn dns_config(e: &mut Errors, path: &Path, spec: &Value) {
    let c = spec.at("dnsConfig");
    if spec.text("dnsPolicy") == "None" {
        if c.is_null() {
            e.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        }
        if c.list("nameservers").is_empty() {
            e.required(
                &path.child("nameservers"),
                "must provide at least one DNS nameserver when `dnsPolicy` is None",
            );
            return;
        }
    }
    let servers = c.texts("nameservers");
    let p = path.child("nameservers");
    if servers.len() > 3 {
        e.invalid(
            &p,
            c.at("nameservers").clone(),
            "must not have more than 3 nameservers",
        );
    }
    for (i, s) in servers.iter().enumerate() {
        legacy_ip(e, &p.index(i), s);
    }
    let searches = c.texts("searches");
    let p = path.child("searches");
    if searches.len() > 32 {
        e.invalid(
            &p,
            c.at("searches").clone(),
            "must not have more than 32 search paths",
        );
    }
    if searches.join(" ").len() > 2048 {
        e.invalid(
            &p,
            c.at("searches").clone(),
            "must not have more than 2048 characters (including spaces) in the search list",
        );
    }
    for (i, s) in searches.iter().enumerate().filter(|(_, s)| **s != ".") {
        let s = s.strip_suffix('.').unwrap_or(s);
        each(e, &p.index(i), s, dns1123_subdomain_underscore(s));
    }
    for (i, o) in c.list("options").iter().enumerate() {
        if o.text("name").is_empty() {
            e.required(&path.child("options").index(i), "must not be empty");
        }
    }
}

fn scheduling_gates(e: &mut Errors, path: &Path, gates: &[Value]) {
    let mut seen = BTreeSet::new();
    for (i, g) in gates.iter().enumerate() {
        let name = g.text("name");
        each(e, &path.index(i), name, qualified_name(name));
        if !seen.insert(name) {
            e.duplicate(&path.index(i), name);
        }
    }
}

fn host_users(e: &mut Errors, path: &Path, spec: &Value) {
    const WHY: &str = "when `hostUsers` is false";
    if spec.flag_opt("hostUsers") != Some(false) {
        return;
    }
    for (key, shown) in [
        ("hostNetwork", "hostNetwork"),
        ("hostPID", "HostPID"),
        ("hostIPC", "HostIPC"),
    ] {
        if spec.flag(key) {
            e.forbidden(&path.child(shown), WHY);
        }
    }
    visit_containers(spec, path, |c, p| {
        if !c.list("volumeDevices").is_empty() {
            e.forbidden(&p.child("volumeDevices"), WHY);
        }
    });
}

fn hostname_override(e: &mut Errors, path: &Path, spec: &Value) {
    let Some(name) = spec.text_opt("hostnameOverride") else {
        return;
    };
    let p = path.child("hostnameOverride");
    if spec.flag("setHostnameAsFQDN") {
        e.forbidden(&p, "may not be specified when setHostnameAsFQDN is true");
    }
    if spec.flag("hostNetwork") {
        e.forbidden(&p, "may not be specified when hostNetwork is true");
    }
    if name.len() > 64 {
        e.too_long(&p, 64);
    }
    each(e, &p, name, dns1123_subdomain(name));
}

fn host_aliases(e: &mut Errors, path: &Path, list: &[Value]) {
    for (i, a) in list.iter().enumerate() {
        let p = path.index(i);
        legacy_ip(e, &p.child("ip"), a.text("ip"));
        for (j, h) in a.texts("hostnames").iter().enumerate() {
            each(e, &p.child("hostnames").index(j), h, dns1123_subdomain(h));
        }
    }
}

fn file_key_volumes(e: &mut Errors, path: &Path, spec: &Value) {
    let named = spec.list("volumes").iter().rev();
    let volumes: BTreeMap<&str, &Value> = named.map(|v| (v.text("name"), v)).collect();
    visit_containers(spec, path, |c, p| {
        for (i, var) in c.list("env").iter().enumerate() {
            let r = var.at("valueFrom.fileKeyRef");
            if r.is_null() {
                continue;
            }
            let p = p
                .child("env")
                .index(i)
                .child("valueFrom")
                .child("fileKeyRef")
                .child("volumeName");
            let name = r.text("volumeName");
            match volumes.get(name) {
                None => e.not_found(&p, name),
                Some(v) if !v.has("emptyDir") => {
                    e.invalid(&p, name, "referenced volume must be of type emptyDir");
                }
                Some(_) => {}
            }
        }
    });
}

/// A `PodTemplateSpec`.
pub fn template(e: &mut Errors, path: &Path, t: &Value) {
    let m = t.at("metadata");
    meta::labels(e, &path.child("labels"), m.at("labels"));
    meta::annotations(e, &path.child("annotations"), m.at("annotations"));
    super::pod::specific_annotations(
        e,
        &path.child("annotations"),
        m.map("annotations"),
        t.at("spec"),
    );
    pod_spec(e, &path.child("spec"), t.at("spec"), None, false);
    security::annotations_match_fields(e, &path.child("spec"), m.map("annotations"), t.at("spec"));
    if !t.list("spec.ephemeralContainers").is_empty() {
        e.forbidden(
            &path.child("spec").child("ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        );
    }
}
