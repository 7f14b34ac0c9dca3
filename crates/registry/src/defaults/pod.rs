//! Defaults of pods and pod templates.

use serde_json::{Map, Value, json};

use crate::quant;
use crate::validate::pod_spec::aggregate;
use crate::validate::resources::{is_huge_page, overcommit_allowed, pod_level};
use crate::value::Tree;

/// The tag that decides about the pull policy: `latest` if there is neither tag nor digest; empty for what cannot be
/// parsed.
fn tag(image: &str) -> &str {
    let (name, digest) = match image.split_once('@') {
        Some((n, d)) => (n, Some(d)),
        None => (image, None),
    };
    let last = name.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        Some((_, t)) => t,
        None if digest.is_some()
            || name.is_empty()
            || !name.bytes().all(|b| b.is_ascii_graphic()) =>
        {
            ""
        }
        None if name.bytes().any(|b| b.is_ascii_uppercase()) && !name.contains('/') => "",
        None => "latest",
    }
}

fn pull_policy(image: &str) -> &'static str {
    if tag(image) == "latest" {
        "Always"
    } else {
        "IfNotPresent"
    }
}

/// A pod: its spec and what only pods get.
pub fn pod(p: &mut Value) {
    if !p.at("spec").is_object() {
        p.put("spec", json!({}));
    }
    if let Some(spec) = p.at_mut("spec") {
        spec_defaults(spec);
        pod_only(spec);
    }
    sync_ips(p);
}

/// A template inside a controller.
pub fn template(t: &mut Value) {
    if t.is_null() {
        return;
    }
    if !t.at("spec").is_object() {
        t.put("spec", json!({}));
    }
    if let Some(spec) = t.at_mut("spec") {
        spec_defaults(spec);
    }
}

fn spec_defaults(spec: &mut Value) {
    service_account(spec);
    spec.put_if_zero("dnsPolicy", "ClusterFirst");
    spec.put_if_zero("restartPolicy", "Always");
    spec.put_if_absent("securityContext", json!({}));
    spec.put_if_absent("terminationGracePeriodSeconds", 30);
    if spec.int("terminationGracePeriodSeconds") < 0 {
        spec.put("terminationGracePeriodSeconds", 1);
    }
    spec.put_if_zero("schedulerName", "default-scheduler");
    for v in spec.list_mut("volumes") {
        volume(v);
    }
    for key in ["initContainers", "containers", "ephemeralContainers"] {
        for c in spec.list_mut(key) {
            container(c);
        }
    }
    if spec.has("overhead") {
        round_up(spec, "overhead");
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are shown.
fn service_account(spec: &mut Value) {
    let name = match spec.text("serviceAccountName") {
        "" => spec.text("serviceAccount"),
        n => n,
    }
    .to_owned();
    if !name.is_empty() {
        spec.put("serviceAccountName", name.as_str());
        spec.put("serviceAccount", name);
    }
}

fn pod_only(spec: &mut Value) {
    for key in ["containers", "initContainers"] {
        for c in spec.list_mut(key) {
            requests_from_limits(c);
        }
    }
    pod_level_resources(spec);
    spec.put_if_absent("enableServiceLinks", true);
    if spec.flag("hostNetwork") {
        host_ports(spec);
    }
}

fn requests_from_limits(c: &mut Value) {
    let limits = c.map("resources.limits").clone();
    for (name, q) in limits {
        let requests = c.slot("resources.requests");
        if !requests.is_object() {
            *requests = Value::Object(Map::new());
        }
        if let Some(map) = requests.as_object_mut() {
            map.entry(name).or_insert(q);
        }
    }
}

fn pod_level_resources(spec: &mut Value) {
    if !spec.has("resources") {
        return;
    }
    let (requests, limits) = (
        spec.map("resources.requests").clone(),
        spec.map("resources.limits").clone(),
    );
    if requests.is_empty() && limits.is_empty() {
        return;
    }
    let mut new_limits = limits.clone();
    for (name, q) in aggregate(spec, "limits") {
        if is_huge_page(&name) && !requests.contains_key(&name) {
            new_limits
                .entry(name)
                .or_insert_with(|| q.to_string().into());
        }
    }
    let mut new_requests = requests;
    if !new_limits.is_empty() {
        for (name, q) in aggregate(spec, "requests") {
            if pod_level(&name) && overcommit_allowed(&name) {
                new_requests
                    .entry(name)
                    .or_insert_with(|| q.to_string().into());
            }
        }
        for (name, q) in &new_limits {
            if pod_level(name) {
                new_requests
                    .entry(name.clone())
                    .or_insert_with(|| q.clone());
            }
        }
        spec.put("resources.limits", new_limits);
    }
    if !new_requests.is_empty() {
        spec.put("resources.requests", new_requests);
    }
}

fn host_ports(spec: &mut Value) {
    for key in ["containers", "initContainers"] {
        for c in spec.list_mut(key) {
            for p in c.list_mut("ports") {
                let port = p.int("containerPort");
                if p.int("hostPort") == 0 && port != 0 {
                    p.put("hostPort", port);
                }
            }
        }
    }
}

fn container(c: &mut Value) {
    let policy = pull_policy(c.text("image"));
    c.put_if_zero("imagePullPolicy", policy);
    c.put_if_zero("terminationMessagePath", "/dev/termination-log");
    c.put_if_zero("terminationMessagePolicy", "File");
    c.put_if_absent("resources", json!({}));
    for list in ["resources.limits", "resources.requests"] {
        if c.has(list) {
            round_up(c, list);
        }
    }
    for p in c.list_mut("ports") {
        p.put_if_zero("protocol", "TCP");
    }
    for v in c.list_mut("env") {
        if let Some(f) = v.at_mut("valueFrom.fieldRef") {
            f.put_if_zero("apiVersion", "v1");
        }
        if v.has("valueFrom.resourceFieldRef") {
            v.put_if_absent("valueFrom.resourceFieldRef.divisor", "0");
        }
        if let Some(f) = v.at_mut("valueFrom.fileKeyRef") {
            f.put_if_absent("optional", false);
        }
    }
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(p) = c.at_mut(key) {
            probe(p);
        }
    }
    for key in ["lifecycle.postStart", "lifecycle.preStop"] {
        if let Some(h) = c.at_mut(key) {
            http_get(h);
        }
    }
}

fn probe(p: &mut Value) {
    p.put_if_zero("timeoutSeconds", 1);
    p.put_if_zero("periodSeconds", 10);
    p.put_if_zero("successThreshold", 1);
    p.put_if_zero("failureThreshold", 3);
    http_get(p);
    if let Some(g) = p.at_mut("grpc") {
        g.put_if_absent("service", "");
    }
}

fn http_get(handler: &mut Value) {
    if let Some(h) = handler.at_mut("httpGet") {
        h.put_if_zero("path", "/");
        h.put_if_zero("scheme", "HTTP");
    }
}

/// Quantities of resources are kept in thousandths at the finest.
fn round_up(v: &mut Value, path: &str) {
    let Some(map) = v.at_mut(path).and_then(Value::as_object_mut) else {
        return;
    };
    for q in map.values_mut() {
        let exact = quant::of(q);
        let milli = exact.milli();
        if quant::parse(&format!("{milli}m")).is_some_and(|rounded| rounded != exact) {
            *q = format!("{milli}m").into();
        }
    }
}

const SOURCES: [&str; 30] = [
    "hostPath",
    "emptyDir",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "persistentVolumeClaim",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "downwardAPI",
    "fc",
    "azureFile",
    "configMap",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "projected",
    "portworxVolume",
    "scaleIO",
    "storageos",
    "csi",
    "ephemeral",
    "image",
];

fn volume(v: &mut Value) {
    if SOURCES.iter().all(|s| !v.has(s)) {
        v.put("emptyDir", json!({}));
    }
    for key in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(s) = v.at_mut(key) {
            s.put_if_absent("defaultMode", 0o644);
        }
    }
    if let Some(h) = v.at_mut("hostPath") {
        h.put_if_absent("type", "");
    }
    for f in v.list_mut("downwardAPI.items") {
        downward_file(f);
    }
    for s in v.list_mut("projected.sources") {
        if let Some(t) = s.at_mut("serviceAccountToken") {
            t.put_if_absent("expirationSeconds", 3600);
        }
        for f in s.list_mut("downwardAPI.items") {
            downward_file(f);
        }
    }
    if let Some(i) = v.at_mut("iscsi") {
        i.put_if_zero("iscsiInterface", "default");
    }
    if let Some(r) = v.at_mut("rbd") {
        r.put_if_zero("pool", "rbd");
        r.put_if_zero("user", "admin");
        r.put_if_zero("keyring", "/etc/ceph/keyring");
    }
    if let Some(a) = v.at_mut("azureDisk") {
        a.put_if_absent("cachingMode", "ReadWrite");
        a.put_if_absent("kind", "Shared");
        a.put_if_absent("fsType", "ext4");
        a.put_if_absent("readOnly", false);
    }
    if let Some(s) = v.at_mut("scaleIO") {
        s.put_if_zero("storageMode", "ThinProvisioned");
        s.put_if_zero("fsType", "xfs");
    }
    if let Some(spec) = v.at_mut("ephemeral.volumeClaimTemplate.spec") {
        spec.put_if_absent("volumeMode", "Filesystem");
    }
    let policy = pull_policy(v.text("image.reference"));
    if let Some(i) = v.at_mut("image") {
        i.put_if_zero("pullPolicy", policy);
    }
}

fn downward_file(f: &mut Value) {
    if let Some(r) = f.at_mut("fieldRef") {
        r.put_if_zero("apiVersion", "v1");
    }
    if f.has("resourceFieldRef") {
        f.put_if_absent("resourceFieldRef.divisor", "0");
    }
}

/// `podIP` is the first of `podIPs`; clients may write either.
fn sync_ips(p: &mut Value) {
    let (one, first) = (
        p.text("status.podIP").to_owned(),
        p.list("status.podIPs")
            .first()
            .map(|i| i.text("ip").to_owned()),
    );
    match (one.is_empty(), first) {
        (false, None) => p.put("status.podIPs", json!([{ "ip": one }])),
        (false, Some(f)) if f != one => p.put("status.podIPs", json!([{ "ip": one }])),
        (true, Some(f)) if !f.is_empty() => p.put("status.podIP", f),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policies() {
        for (image, policy) in [
            ("busybox", "Always"),
            ("busybox:latest", "Always"),
            ("busybox:1.36", "IfNotPresent"),
            ("registry.example:5000/a/b", "Always"),
            ("registry.example:5000/a/b:2", "IfNotPresent"),
            ("a@sha256:0123", "IfNotPresent"),
            ("a:latest@sha256:0123", "Always"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn a_minimal_pod() {
        let mut p = json!({"spec": {"containers": [{"name": "c", "image": "busybox"}]}});
        pod(&mut p);
        let want = json!({"spec": {
            "containers": [{
                "name": "c", "image": "busybox", "imagePullPolicy": "Always", "resources": {},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            }],
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {}, "enableServiceLinks": true,
            "terminationGracePeriodSeconds": 30, "schedulerName": "default-scheduler",
        }});
        assert_eq!(p, want);
        let again = p.clone();
        pod(&mut p);
        assert_eq!(p, again);
    }

    #[test]
    fn requests_follow_limits_and_round_up() {
        let mut p = json!({"spec": {"containers": [
            {"resources": {"limits": {"cpu": "0.0001", "memory": "1Gi"}, "requests": {"memory": "1"}}}
        ]}});
        pod(&mut p);
        let r = p
            .at("spec.containers")
            .get(0)
            .map(|c| c.at("resources").clone())
            .unwrap();
        assert_eq!(
            r,
            json!({"limits": {"cpu": "1m", "memory": "1Gi"}, "requests": {"cpu": "1m", "memory": "1"}})
        );
    }
}
