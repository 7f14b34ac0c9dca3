//! Containers: ports, environment, mounts, probes, life cycle, resources.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::volumes::{Volumes, descending_path, no_backsteps};
use super::{Errors, Path, resources, security, shown};
use crate::check::{
    config_key, dns1123_label, dns1123_subdomain, each, each_int, env_name, http_header,
    non_negative, port_name, port_number, qualified_name,
};
use crate::quant;
use crate::value::Tree;

/// What containers need of their pod.
pub struct Pod<'a> {
    /// The good volumes.
    pub volumes: &'a Volumes<'a>,
    /// The names of `resourceClaims`.
    pub claims: BTreeSet<&'a str>,
    /// `restartPolicy`.
    pub restart_policy: &'a str,
    /// `os.name`, if `os` is set.
    pub os: Option<&'a str>,
    /// `terminationGracePeriodSeconds`.
    pub grace: Option<i64>,
    /// Whether the pod uses the node's user namespace.
    pub host_users: bool,
}

/// Container ports and service ports.
pub const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// `spec.containers`.
pub fn containers(e: &mut Errors, path: &Path, list: &[Value], pod: &Pod<'_>) {
    if list.is_empty() {
        e.required(path, "");
        return;
    }
    let mut names = BTreeSet::new();
    for (i, c) in list.iter().enumerate() {
        let p = path.index(i);
        common(e, &p, c, pod);
        if !names.insert(c.text("name")) {
            e.duplicate(&p.child("name"), c.text("name"));
        }
        runtime(e, &p, c, pod);
        restart_rules(e, &p, c);
    }
    host_ports(e, path, list.iter());
}

fn runtime(e: &mut Errors, p: &Path, c: &Value, pod: &Pod<'_>) {
    if c.has("lifecycle") {
        lifecycle(e, &p.child("lifecycle"), c.at("lifecycle"), pod);
    }
    for (key, kind) in [
        ("livenessProbe", 'l'),
        ("readinessProbe", 'r'),
        ("startupProbe", 's'),
    ] {
        if c.has(key) {
            probe(e, &p.child(key), c.at(key), kind, pod.grace);
        }
    }
}

/// `spec.initContainers`.
pub fn init_containers(
    e: &mut Errors,
    path: &Path,
    list: &[Value],
    regular: &[Value],
    pod: &Pod<'_>,
) {
    let mut names: BTreeSet<&str> = regular.iter().map(|c| c.text("name")).collect();
    for (i, c) in list.iter().enumerate() {
        let p = path.index(i);
        common(e, &p, c, pod);
        let always = c.text("restartPolicy") == "Always";
        if c.has("restartPolicy") || !c.list("restartPolicyRules").is_empty() {
            restart_rules(e, &p, c);
        }
        let name = c.text("name");
        if names.contains(name) {
            e.duplicate(&p.child("name"), name);
        } else if !name.is_empty() {
            names.insert(name);
        }
        host_ports(e, path, std::iter::once(c));
        if always {
            runtime(e, &p, c, pod);
        } else {
            for key in [
                "lifecycle",
                "livenessProbe",
                "readinessProbe",
                "startupProbe",
            ] {
                if c.has(key) {
                    e.forbidden(
                        &p.child(key),
                        "may not be set for init containers without restartPolicy=Always",
                    );
                }
            }
            for (j, r) in c.list("resizePolicy").iter().enumerate() {
                if r.text("restartPolicy") == "RestartContainer" {
                    e.invalid(
                        &p.child("resizePolicy").index(j).child("restartPolicy"),
                        "RestartContainer",
                        "must not be set to 'RestartContainer' for non-sidecar initContainers",
                    );
                }
            }
        }
    }
}

/// `spec.ephemeralContainers`.
pub fn ephemeral_containers(
    e: &mut Errors,
    path: &Path,
    list: &[Value],
    regular: &[Value],
    init: &[Value],
    pod: &Pod<'_>,
) {
    const WHY: &str = "cannot be set for an Ephemeral Container";
    let others: BTreeSet<&str> = regular.iter().chain(init).map(|c| c.text("name")).collect();
    let mut names = others.clone();
    for (i, c) in list.iter().enumerate() {
        let p = path.index(i);
        common(e, &p, c, pod);
        image_padding(e, &p, c);
        if !names.insert(c.text("name")) {
            e.duplicate(&p.child("name"), c.text("name"));
        }
        let target = c.text("targetContainerName");
        if !target.is_empty() && !others.contains(target) {
            e.not_found(&p.child("targetContainerName"), target);
        }
        for key in [
            "ports",
            "resources",
            "resizePolicy",
            "restartPolicy",
            "restartPolicyRules",
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
            "lifecycle",
        ] {
            let given = if key == "restartPolicy" {
                c.has(key)
            } else {
                !c.at(key).is_blank()
            };
            if given {
                e.forbidden(&p.child(key), WHY);
            }
        }
        for (j, m) in c.list("volumeMounts").iter().enumerate() {
            for key in ["subPath", "subPathExpr"] {
                if !m.text(key).is_empty() {
                    e.forbidden(&p.child("volumeMounts").index(j).child(key), WHY);
                }
            }
        }
    }
}

/// An image of a pod's container has no space around it.
pub fn image_padding(e: &mut Errors, path: &Path, c: &Value) {
    let image = c.text("image");
    if image.trim() != image {
        e.invalid(
            &path.child("image"),
            image,
            "must not have leading or trailing whitespace",
        );
    }
}

fn common(e: &mut Errors, path: &Path, c: &Value, pod: &Pod<'_>) {
    let name = c.text("name");
    if name.is_empty() {
        e.required(&path.child("name"), "");
    } else {
        each(e, &path.child("name"), name, dns1123_label(name));
    }
    if c.text("image").is_empty() {
        e.required(&path.child("image"), "");
    }
    match c.text("terminationMessagePolicy") {
        "File" | "FallbackToLogsOnError" => {}
        "" => e.required(&path.child("terminationMessagePolicy"), ""),
        other => e.not_supported(
            &path.child("terminationMessagePolicy"),
            other,
            &["File", "FallbackToLogsOnError"],
        ),
    }
    ports(e, &path.child("ports"), c.list("ports"));
    env(e, &path.child("env"), c.list("env"));
    env_from(e, &path.child("envFrom"), c.list("envFrom"));
    mounts(e, &path.child("volumeMounts"), c, pod);
    devices(e, &path.child("volumeDevices"), c, pod);
    pull_policy(e, &path.child("imagePullPolicy"), c.text("imagePullPolicy"));
    resources::container(e, &path.child("resources"), c.at("resources"), &pod.claims);
    resize_policy(
        e,
        &path.child("resizePolicy"),
        c.list("resizePolicy"),
        pod.restart_policy,
    );
    security::container(
        e,
        &path.child("securityContext"),
        c.at("securityContext"),
        pod.host_users,
    );
}

/// `imagePullPolicy`.
pub fn pull_policy(e: &mut Errors, path: &Path, policy: &str) {
    match policy {
        "Always" | "IfNotPresent" | "Never" => {}
        "" => e.required(path, ""),
        other => e.not_supported(path, other, &["Always", "IfNotPresent", "Never"]),
    }
}

fn ports(e: &mut Errors, path: &Path, ports: &[Value]) {
    let mut names = BTreeSet::new();
    for (i, p) in ports.iter().enumerate() {
        let here = path.index(i);
        let name = p.text("name");
        if !name.is_empty() {
            let messages = port_name(name);
            if !messages.is_empty() {
                each(e, &here.child("name"), name, messages);
            } else if !names.insert(name) {
                e.duplicate(&here.child("name"), name);
            }
        }
        let number = p.int("containerPort");
        if number == 0 {
            e.required(&here.child("containerPort"), "");
        } else {
            each_int(e, &here.child("containerPort"), number, port_number(number));
        }
        let host = p.int("hostPort");
        if host != 0 {
            each_int(e, &here.child("hostPort"), host, port_number(host));
        }
        protocol(e, &here.child("protocol"), p.text("protocol"));
    }
}

/// `TCP`, `UDP` or `SCTP`, required.
pub fn protocol(e: &mut Errors, path: &Path, value: &str) {
    if value.is_empty() {
        e.required(path, "");
    } else if !PROTOCOLS.contains(&value) {
        e.not_supported(path, value, &PROTOCOLS);
    }
}

fn host_ports<'a>(e: &mut Errors, path: &Path, containers: impl Iterator<Item = &'a Value>) {
    let mut seen = BTreeSet::new();
    for (i, c) in containers.enumerate() {
        for (j, p) in c.list("ports").iter().enumerate() {
            let port = p.int("hostPort");
            if port == 0 {
                continue;
            }
            let key = format!("{}/{}/{port}", p.text("protocol"), p.text("hostIP"));
            if seen.contains(&key) {
                e.duplicate(
                    &path.index(i).child("ports").index(j).child("hostPort"),
                    key.as_str(),
                );
            }
            seen.insert(key);
        }
    }
}

fn env(e: &mut Errors, path: &Path, vars: &[Value]) {
    for (i, v) in vars.iter().enumerate() {
        let here = path.index(i);
        let name = v.text("name");
        if name.is_empty() {
            e.required(&here.child("name"), "");
        } else {
            each(e, &here.child("name"), name, env_name(name));
        }
        if v.has("valueFrom") {
            env_value_from(e, &here.child("valueFrom"), v);
        }
    }
}

fn env_value_from(e: &mut Errors, path: &Path, var: &Value) {
    const FIELDS: [&str; 9] = [
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    ];
    let from = var.at("valueFrom");
    let mut sources = 0;
    let mut take = |key: &str| {
        let v = from.at(key);
        sources += usize::from(!v.is_null());
        (!v.is_null()).then(|| (path.child(key), v))
    };
    if let Some((p, v)) = take("fieldRef") {
        field_ref(e, &p, v, &FIELDS);
    }
    if let Some((p, v)) = take("resourceFieldRef") {
        resource_field_ref(e, &p, v, false);
    }
    for key in ["configMapKeyRef", "secretKeyRef"] {
        if let Some((p, v)) = take(key) {
            let name = v.text("name");
            each(e, &p.child("name"), name, dns1123_subdomain(name));
            required_key(e, &p, v, config_key);
        }
    }
    if let Some((p, v)) = take("fileKeyRef") {
        required_key(e, &p, v, env_name);
        let volume = v.text("volumeName");
        if volume.is_empty() {
            e.required(&p.child("volumeName"), "");
        } else {
            each(e, &p.child("volumeName"), volume, dns1123_label(volume));
        }
        let file = v.text("path");
        if file.is_empty() {
            e.required(&p.child("path"), "");
        } else {
            no_backsteps(e, &p.child("path"), file);
        }
    }
    if sources == 0 {
        e.invalid(
            path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        );
    } else if !var.text("value").is_empty() {
        e.invalid(path, "", "may not be specified when `value` is not empty");
    } else if sources > 1 {
        e.invalid(
            path,
            "",
            "may not have more than one field specified at a time",
        );
    }
}

fn required_key(e: &mut Errors, path: &Path, v: &Value, check: fn(&str) -> Vec<String>) {
    let key = v.text("key");
    if key.is_empty() {
        e.required(&path.child("key"), "");
    } else {
        each(e, &path.child("key"), key, check(key));
    }
}

/// `metadata.labels['key']` as its path and subscript.
fn subscript(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?
        .split_once("['")
        .filter(|(p, _)| !p.is_empty())
}

/// A reference to a field of the pod.
pub fn field_ref(e: &mut Errors, path: &Path, v: &Value, allowed: &[&str]) {
    const KNOWN: [&str; 14] = [
        "metadata.annotations",
        "metadata.labels",
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.serviceAccountName",
        "spec.schedulerName",
        "status.phase",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    ];
    let version = v.text("apiVersion");
    if version.is_empty() {
        e.required(&path.child("apiVersion"), "");
        return;
    }
    let field = v.text("fieldPath");
    let p = path.child("fieldPath");
    if field.is_empty() {
        e.required(&p, "");
        return;
    }
    let failed = |why: String| format!("error converting fieldPath: {why}");
    if version != "v1" {
        e.invalid(
            &p,
            field,
            &failed(format!("unsupported pod version: {version}")),
        );
        return;
    }
    if let Some((base, key)) = subscript(field) {
        match base {
            "metadata.annotations" => {
                let key = key.to_lowercase();
                each(e, path, &key, qualified_name(&key));
            }
            "metadata.labels" => each(e, path, key, qualified_name(key)),
            _ => e.invalid(
                &p,
                field,
                &failed(format!("field label does not support subscript: {field}")),
            ),
        }
        return;
    }
    let internal = if field == "spec.host" {
        "spec.nodeName"
    } else {
        field
    };
    if !KNOWN.contains(&internal) {
        e.invalid(
            &p,
            field,
            &failed(format!("field label not supported: {field}")),
        );
    } else if !allowed.contains(&internal) {
        e.not_supported(&p, internal, allowed);
    }
}

/// A reference to a resource of a container. In volumes the container must be named.
pub fn resource_field_ref(e: &mut Errors, path: &Path, v: &Value, volume: bool) {
    const NAMES: [&str; 6] = [
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    let name = v.text("resource");
    let huge = name.starts_with("requests.hugepages-") || name.starts_with("limits.hugepages-");
    if volume && v.text("containerName").is_empty() {
        e.required(&path.child("containerName"), "");
    } else if name.is_empty() {
        e.required(&path.child("resource"), "");
    } else if !NAMES.contains(&name) && !huge {
        e.not_supported(&path.child("resource"), name, &NAMES);
    }
    const SIZES: [&str; 13] = [
        "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
    ];
    let divisor = quant::of(v.at("divisor"));
    if divisor.is_zero() {
        return;
    }
    let text = divisor.to_string();
    let p = path.child("divisor");
    let sized = |e: &mut Errors, what: &str| {
        if !SIZES.contains(&text.as_str()) {
            let all = SIZES.join(", ");
            e.invalid(
                &p,
                name,
                &format!("only divisor's values {all} are supported with the {what} resource"),
            );
        }
    };
    match name {
        "limits.cpu" | "requests.cpu" => {
            if text != "1m" && text != "1" {
                e.invalid(
                    &p,
                    name,
                    "only divisor's values 1m and 1 are supported with the cpu resource",
                );
            }
        }
        "limits.memory" | "requests.memory" => sized(e, "memory"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => {
            sized(e, "local ephemeral storage")
        }
        _ if huge => sized(e, "hugepages"),
        _ => {}
    }
}

fn env_from(e: &mut Errors, path: &Path, list: &[Value]) {
    for (i, v) in list.iter().enumerate() {
        let here = path.index(i);
        let prefix = v.text("prefix");
        if !prefix.is_empty() {
            each(e, &here.child("prefix"), prefix, env_name(prefix));
        }
        let mut sources = 0;
        for key in ["configMapRef", "secretRef"] {
            if !v.has(key) {
                continue;
            }
            sources += 1;
            let name = v.at(key).text("name");
            let p = here.child(key).child("name");
            if name.is_empty() {
                e.required(&p, "");
            } else {
                each(e, &p, name, dns1123_subdomain(name));
            }
        }
        if sources == 0 {
            e.invalid(
                path,
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            );
        } else if sources > 1 {
            e.invalid(
                path,
                "",
                "may not have more than one field specified at a time",
            );
        }
    }
}

fn named<'a>(list: &'a [Value], path: &str) -> BTreeMap<&'a str, &'a str> {
    list.iter()
        .map(|v| (v.text("name"), v.text(path)))
        .collect()
}

fn mounts(e: &mut Errors, path: &Path, c: &Value, pod: &Pod<'_>) {
    let devices = named(c.list("volumeDevices"), "devicePath");
    let taken: BTreeSet<&str> = devices.values().copied().collect();
    let mut points = BTreeSet::new();
    for (i, m) in c.list("volumeMounts").iter().enumerate() {
        let here = path.index(i);
        let (name, at) = (m.text("name"), m.text("mountPath"));
        if name.is_empty() {
            e.required(&here.child("name"), "");
        }
        if !pod.volumes.contains_key(name) {
            e.not_found(&here.child("name"), name);
        }
        if at.is_empty() {
            e.required(&here.child("mountPath"), "");
        }
        if !points.insert(at) {
            e.invalid(&here.child("mountPath"), at, "must be unique");
        }
        if devices.contains_key(name) {
            e.invalid(
                &here.child("name"),
                name,
                "must not already exist in volumeDevices",
            );
        }
        if taken.contains(at) {
            e.invalid(
                &here.child("mountPath"),
                at,
                "must not already exist as a path in volumeDevices",
            );
        }
        let (sub, expr) = (m.text("subPath"), m.text("subPathExpr"));
        if !sub.is_empty() {
            descending_path(e, &path.child("subPath"), sub);
        }
        if !expr.is_empty() {
            if !sub.is_empty() {
                e.invalid(
                    &here.child("subPathExpr"),
                    expr,
                    "subPathExpr and subPath are mutually exclusive",
                );
            }
            descending_path(e, &path.child("subPathExpr"), expr);
        }
        propagation(e, path, m, c);
    }
}

fn propagation(e: &mut Errors, path: &Path, m: &Value, c: &Value) {
    const ALL: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];
    let propagation = m.text_opt("mountPropagation");
    if let Some(p) = propagation {
        let here = path.child("mountPropagation");
        if !ALL.contains(&p) {
            e.not_supported(&here, p, &ALL);
        }
        if p == "Bidirectional" && !c.flag("securityContext.privileged") {
            e.forbidden(
                &here,
                "Bidirectional mount propagation is available only to privileged containers",
            );
        }
    }
    let here = path.child("recursiveReadOnly");
    match m.text_opt("recursiveReadOnly") {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if !m.flag("readOnly") {
                e.forbidden(&here, "may only be specified when readOnly is true");
            }
            if propagation.is_some_and(|p| p != "None") {
                e.forbidden(
                    &here,
                    "may only be specified when mountPropagation is None or not specified",
                );
            }
        }
        Some(other) => e.not_supported(&here, other, &["Disabled", "Enabled", "IfPossible"]),
    }
}

fn devices(e: &mut Errors, path: &Path, c: &Value, pod: &Pod<'_>) {
    let mounts = named(c.list("volumeMounts"), "mountPath");
    let taken: BTreeSet<&str> = mounts.values().copied().collect();
    let (mut paths, mut names) = (BTreeSet::new(), BTreeSet::new());
    for (i, d) in c.list("volumeDevices").iter().enumerate() {
        let here = path.index(i);
        let (name, at) = (d.text("name"), d.text("devicePath"));
        if name.is_empty() {
            e.required(&here.child("name"), "");
        }
        if names.contains(name) {
            e.invalid(&here.child("name"), name, "must be unique");
        }
        match pod.volumes.get(name) {
            Some(v) if !v.has("persistentVolumeClaim") && !v.has("ephemeral") => e.invalid(
                &here.child("name"),
                name,
                "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
            ),
            Some(_) => {}
            None => e.not_found(&here.child("name"), name),
        }
        if at.is_empty() {
            e.required(&here.child("devicePath"), "");
        }
        if paths.contains(at) {
            e.invalid(&here.child("devicePath"), at, "must be unique");
        }
        if at.split('/').any(|p| p == "..") {
            e.invalid(
                &here.child("devicePath"),
                at,
                "can not contain backsteps ('..')",
            );
        } else {
            paths.insert(at);
        }
        if mounts.contains_key(name) {
            e.invalid(
                &here.child("name"),
                name,
                "must not already exist in volumeMounts",
            );
        }
        if taken.contains(at) {
            e.invalid(
                &here.child("devicePath"),
                at,
                "must not already exist as a path in volumeMounts",
            );
        }
        if !name.is_empty() {
            names.insert(name);
        }
    }
}

fn probe(e: &mut Errors, path: &Path, p: &Value, kind: char, grace: Option<i64>) {
    handler(e, path, p, &["exec", "httpGet", "tcpSocket", "grpc"], grace);
    for key in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        non_negative(e, &path.child(key), p.int(key));
    }
    let own = p.int_opt("terminationGracePeriodSeconds");
    let grace_path = path.child("terminationGracePeriodSeconds");
    if let Some(s) = own
        && s <= 0
    {
        e.invalid(&grace_path, s, "must be greater than 0");
    }
    if kind == 'r' {
        if let Some(s) = own {
            e.invalid(&grace_path, s, "must not be set for readinessProbes");
        }
    } else if p.int("successThreshold") != 1 {
        e.invalid(
            &path.child("successThreshold"),
            p.int("successThreshold"),
            "must be 1",
        );
    }
}

fn handler(e: &mut Errors, path: &Path, h: &Value, kinds: &[&str], grace: Option<i64>) {
    let mut found = false;
    for kind in kinds {
        let v = h.at(kind);
        if v.is_null() {
            continue;
        }
        let p = path.child(kind);
        if found {
            e.forbidden(&p, "may not specify more than 1 handler type");
            continue;
        }
        found = true;
        match *kind {
            "exec" => {
                if v.list("command").is_empty() {
                    e.required(&p.child("command"), "");
                }
            }
            "httpGet" => http_get(e, &p, v),
            "tcpSocket" => port_or_name(e, &p.child("port"), v.at("port")),
            "grpc" => port_or_name(e, &p.child("port"), v.at("port")),
            _ => {
                if let Some(g) = grace
                    && !(0..=g).contains(&v.int("seconds"))
                {
                    e.invalid(
                        &p,
                        v.int("seconds"),
                        &format!(
                            "must be non-negative and less than terminationGracePeriodSeconds ({g})"
                        ),
                    );
                }
            }
        }
    }
    if !found {
        e.required(path, "must specify a handler type");
    }
}

fn http_get(e: &mut Errors, path: &Path, v: &Value) {
    if v.text("path").is_empty() {
        e.required(&path.child("path"), "");
    }
    port_or_name(e, &path.child("port"), v.at("port"));
    if !["HTTP", "HTTPS"].contains(&v.text("scheme")) {
        e.not_supported(&path.child("scheme"), v.text("scheme"), &["HTTP", "HTTPS"]);
    }
    for h in v.list("httpHeaders") {
        each(
            e,
            &path.child("httpHeaders"),
            h.text("name"),
            http_header(h.text("name")),
        );
    }
}

/// A port as a number or a name.
pub fn port_or_name(e: &mut Errors, path: &Path, v: &Value) {
    match v {
        Value::String(s) => each(e, path, s, port_name(s)),
        other => {
            let n = other.as_i64().unwrap_or_default();
            each_int(e, path, n, port_number(n));
        }
    }
}

const SIGNALS: [&str; 36] = [
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGRTMIN",
    "SIGRTMAX",
];

fn linux_signals() -> Vec<String> {
    let mut all: Vec<String> = SIGNALS.iter().map(|s| (*s).to_owned()).collect();
    all.extend((1..=15).map(|n| format!("SIGRTMIN+{n}")));
    all.extend((1..=14).map(|n| format!("SIGRTMAX-{n}")));
    all.sort();
    all
}

fn lifecycle(e: &mut Errors, path: &Path, v: &Value, pod: &Pod<'_>) {
    for key in ["postStart", "preStop"] {
        if v.has(key) {
            handler(
                e,
                &path.child(key),
                v.at(key),
                &["exec", "httpGet", "tcpSocket", "sleep"],
                pod.grace,
            );
        }
    }
    let Some(signal) = v.text_opt("stopSignal") else {
        return;
    };
    let p = path.child("stopSignal");
    match pod.os {
        None => e.forbidden(
            &p,
            "may not be set for containers with empty `spec.os.name`",
        ),
        Some("windows") if !["SIGKILL", "SIGTERM"].contains(&signal) => {
            e.not_supported(&p, signal, &["SIGKILL", "SIGTERM"]);
        }
        Some("linux") => {
            let all = linux_signals();
            if !all.iter().any(|s| s == signal) {
                let all: Vec<&str> = all.iter().map(String::as_str).collect();
                e.not_supported(&p, signal, &all);
            }
        }
        Some(_) => {}
    }
}

fn resize_policy(e: &mut Errors, path: &Path, list: &[Value], pod_restart: &str) {
    const POLICIES: [&str; 2] = ["NotRequired", "RestartContainer"];
    let mut seen = BTreeSet::new();
    for (i, r) in list.iter().enumerate() {
        let (name, policy) = (r.text("resourceName"), r.text("restartPolicy"));
        if !seen.insert(name) {
            e.duplicate(&path.index(i), name);
        }
        match name {
            "cpu" | "memory" => {}
            "" => e.required(path, ""),
            other => e.not_supported(path, other, &["cpu", "memory"]),
        }
        match policy {
            "" => e.required(path, ""),
            p if POLICIES.contains(&p) => {}
            other => e.not_supported(path, other, &POLICIES),
        }
        if pod_restart == "Never" && policy != "NotRequired" {
            e.invalid(
                path,
                policy,
                "must be 'NotRequired' when pod `restartPolicy` is 'Never'",
            );
        }
    }
}

fn restart_rules(e: &mut Errors, path: &Path, c: &Value) {
    const POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
    const ACTIONS: [&str; 2] = ["Restart", "RestartAllContainers"];
    const OPERATORS: [&str; 2] = ["In", "NotIn"];
    let rules = c.list("restartPolicyRules");
    let policy_path = path.child("restartPolicy");
    match c.text_opt("restartPolicy") {
        None if rules.is_empty() => return,
        None => e.required(
            &policy_path,
            "must specify restartPolicy when restart rules are used",
        ),
        Some(p) if !POLICIES.contains(&p) => e.not_supported(&policy_path, p, &POLICIES),
        Some(_) => {}
    }
    if rules.len() > 20 {
        e.too_many(&path.child("restartPolicyRules"), rules.len(), 20);
    }
    for (i, r) in rules.iter().enumerate() {
        let p = path.child("restartPolicyRules").index(i);
        if !ACTIONS.contains(&r.text("action")) {
            e.not_supported(&p.child("action"), r.text("action"), &ACTIONS);
        }
        let codes = p.child("exitCodes");
        if r.has("exitCodes") {
            let op = r.text("exitCodes.operator");
            if !OPERATORS.contains(&op) {
                e.not_supported(&codes.child("operator"), op, &OPERATORS);
            }
            let n = r.list("exitCodes.values").len();
            if n > 255 {
                e.too_many(&codes.child("values"), n, 255);
            }
        } else {
            e.required(&codes, "must be specified");
        }
    }
}

/// The value of a pod resource claim in an error.
pub fn shown_claim(v: &Value) -> String {
    shown::internal("v1", "PodResourceClaim", v)
}
