//! Pods and their templates.

use std::collections::{BTreeMap, BTreeSet};

use api::text::go_quote;
use serde_json::Value;

use super::{claim_spec, fraction, ip, node_label, node_selector_term};
use crate::validate::pod_spec::visit_containers;
use crate::validate::{Path, security};
use crate::value::Tree;

/// Annotations that say nothing any more.
const ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];

/// Volume plugins that are gone or will be.
const VOLUMES: [(&str, &str); 7] = [
    (
        "photonPersistentDisk",
        "deprecated in v1.11, non-functional in v1.16+",
    ),
    (
        "gitRepo",
        "deprecated in v1.11, and disabled by default in v1.33+",
    ),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
];
const LATER_VOLUMES: [(&str, &str); 2] = [
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// A pod (at the root path) or the template at `path`.
pub fn pod(path: &Path, o: &Value) -> Vec<String> {
    let mut out = vec![];
    let (spec, at) = (o.at("spec"), path.child("spec"));
    let annotations = o.map("metadata.annotations");
    let annotation = |key: &str| path.child("metadata").child("annotations").key(key);
    placement(&mut out, &at, spec);
    for (key, why) in ANNOTATIONS {
        if annotations.contains_key(key) {
            out.push(format!("{}: {why}", annotation(key)));
        }
    }
    volumes(&mut out, &at.child("volumes"), spec.list("volumes"));
    duplicates(&mut out, &at, spec);
    for key in ["memory", "ephemeral-storage"] {
        fraction(&mut out, &at.child("overhead"), spec.at("overhead"), key);
    }
    const SECCOMP: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
    const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    if !spec.has("securityContext.seccompProfile") && annotations.contains_key(SECCOMP_POD) {
        out.push(format!("{}: {SECCOMP}", annotation(SECCOMP_POD)));
    }
    let template = *path != Path::root();
    visit_containers(spec, &at, |c, p| {
        let key = format!(
            "container.seccomp.security.alpha.kubernetes.io/{}",
            c.text("name")
        );
        if !c.has("securityContext.seccompProfile") && annotations.contains_key(&key) {
            out.push(format!("{}: {SECCOMP}", annotation(&key)));
        }
        let key = format!("{}{}", security::APP_ARMOR, c.text("name"));
        if template
            && !c.has("securityContext.appArmorProfile")
            && let Some(v) = annotations.get(&key).and_then(Value::as_str)
        {
            let own = spec.at("securityContext.appArmorProfile");
            if own.is_null() || security::app_armor_field(v).as_ref() != Some(own) {
                out.push(format!(
                    "{}: deprecated since v1.30; use the \"appArmorProfile\" field instead",
                    annotation(&key)
                ));
            }
        }
        for resource in ["memory", "ephemeral-storage"] {
            for key in ["limits", "requests"] {
                let p = p.child("resources").child(key);
                fraction(&mut out, &p, c.at("resources").at(key), resource);
            }
        }
        hidden_env(&mut out, p, c);
    });
    ports(&mut out, &at, spec);
    if spec.int("terminationGracePeriodSeconds") < 0 {
        out.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            at.child("terminationGracePeriodSeconds")
        ));
    }
    affinity(&mut out, &at.child("affinity"), spec);
    let servers = at.child("dnsConfig").child("nameservers");
    for (i, s) in spec.texts("dnsConfig.nameservers").iter().enumerate() {
        ip(&mut out, &servers.index(i), s);
    }
    for (i, a) in spec.list("hostAliases").iter().enumerate() {
        ip(
            &mut out,
            &at.child("hostAliases").index(i).child("ip"),
            a.text("ip"),
        );
    }
    out
}

const NO_SELECTOR: &str = "a null labelSelector results in matching no pod";

fn placement(out: &mut Vec<String>, at: &Path, spec: &Value) {
    for k in spec.map("nodeSelector").keys() {
        if let Some(why) = node_label(k) {
            out.push(format!("{}: {why}", at.child("nodeSelector").key(k)));
        }
    }
    let p = at.child("affinity").child("nodeAffinity");
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let affinity = spec.at("affinity.nodeAffinity");
    let terms = affinity.at(REQUIRED).list("nodeSelectorTerms");
    for (i, t) in terms.iter().enumerate() {
        let p = p.child(REQUIRED).child("nodeSelectorTerms").index(i);
        node_selector_term(out, &p, t, false);
    }
    for (i, t) in affinity.list(PREFERRED).iter().enumerate() {
        let p = p.child(PREFERRED).index(i).child("preference");
        node_selector_term(out, &p, t.at("preference"), true);
    }
    for (i, t) in spec.list("topologySpreadConstraints").iter().enumerate() {
        let p = at.child("topologySpreadConstraints").index(i);
        let key = t.text("topologyKey");
        if let Some(why) = node_label(key) {
            out.push(format!("{}: {key} is {why}", p.child("topologyKey")));
        }
        if !t.has("labelSelector") {
            out.push(format!("{}: {NO_SELECTOR}", p.child("labelSelector")));
        }
    }
}

fn affinity(out: &mut Vec<String>, at: &Path, spec: &Value) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        let a = spec.at("affinity").at(kind);
        for (key, inner) in [
            ("requiredDuringSchedulingIgnoredDuringExecution", ""),
            (
                "preferredDuringSchedulingIgnoredDuringExecution",
                "podAffinityTerm",
            ),
        ] {
            for (i, t) in a.list(key).iter().enumerate() {
                if t.at(inner).has("labelSelector") {
                    continue;
                }
                let mut p = at.child(kind).child(key).index(i);
                if !inner.is_empty() {
                    p = p.child(inner);
                }
                out.push(format!("{}: {NO_SELECTOR}", p.child("labelSelector")));
            }
        }
    }
}

fn volumes(out: &mut Vec<String>, path: &Path, list: &[Value]) {
    for (i, v) in list.iter().enumerate() {
        let p = path.index(i);
        let say = |out: &mut Vec<String>, all: &[(&str, &str)]| {
            for (key, why) in all.iter().filter(|(key, _)| v.has(key)) {
                let shown = if *key == "storageos" {
                    "storageOS"
                } else {
                    key
                };
                out.push(format!("{}: {why}", p.child(shown)));
            }
        };
        say(out, &VOLUMES);
        let spec = v.at("ephemeral.volumeClaimTemplate.spec");
        if !spec.is_null() {
            let p = p
                .child("ephemeral")
                .child("volumeClaimTemplate")
                .child("spec");
            claim_spec(out, &p, spec);
        }
        say(out, &LATER_VOLUMES);
    }
    for v in list {
        overlaps(out, v);
    }
}

/// More warnings than an answer has room for.
const ENOUGH: usize = 256;

/// With how many others a file or a port is compared. Few have as many, and a warning is all that they miss.
const COMPARED: usize = 64;

/// A file of a volume and what writes it.
#[derive(Clone, PartialEq)]
struct File {
    path: String,
    source: String,
}

impl File {
    fn new(path: &str, source: &str) -> File {
        File {
            path: path.trim_end_matches('/').to_owned(),
            source: source.to_owned(),
        }
    }

    fn show(&self) -> String {
        let path = go_quote(&self.path);
        if self.source.is_empty() {
            path
        } else {
            format!("{path} ({})", self.source)
        }
    }

    fn overlaps(&self, other: &File) -> bool {
        let below = |a: &str, b: &str| {
            a.strip_prefix(b)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let (a, b) = (self.path.as_str(), other.path.as_str());
        !a.is_empty() && !b.is_empty() && (below(a, b) || below(b, a))
    }
}

fn files(items: &[Value], source: &str) -> Vec<File> {
    items
        .iter()
        .map(|i| File::new(i.text("path"), source))
        .collect()
}

/// Files of one volume that would take each other's place.
fn overlaps(out: &mut Vec<String>, v: &Value) {
    let name = go_quote(v.text("name"));
    let mut say = |shown: &str, files: Vec<File>, seen: &mut Vec<File>| {
        for f in files {
            for other in seen.iter().filter(|o| f.overlaps(o)) {
                if out.len() >= ENOUGH {
                    return;
                }
                out.push(format!(
                    "volume {name} ({shown}): overlapping paths: {} with {}",
                    f.show(),
                    other.show()
                ));
            }
            if seen.len() < COMPARED {
                seen.push(f);
            }
        }
    };
    let quoted = |what: &str, name: &str| format!("{what} {}", go_quote(name));
    for (key, shown) in [
        ("configMap", quoted("ConfigMap", v.text("configMap.name"))),
        ("secret", quoted("Secret", v.text("secret.secretName"))),
        ("downwardAPI", "DownwardAPI".to_owned()),
    ] {
        say(&shown, files(v.at(key).list("items"), ""), &mut vec![]);
    }
    let mut seen = vec![];
    let mut empty = vec![];
    for s in v.list("projected.sources") {
        let more = if s.map("").values().all(Value::is_null) {
            empty.push(format!("volume {name} (Projected) has no sources provided"));
            continue;
        } else if s.has("configMap.items") {
            let source = quoted("ConfigMap", s.text("configMap.name"));
            files(s.list("configMap.items"), &source)
        } else if s.has("secret.items") {
            let source = quoted("Secret", s.text("secret.name"));
            files(s.list("secret.items"), &source)
        } else if s.has("downwardAPI.items") {
            files(s.list("downwardAPI.items"), "DownwardAPI")
        } else if s.has("serviceAccountToken") {
            let path = s.text("serviceAccountToken.path");
            vec![File::new(path, "ServiceAccountToken")]
        } else if s.has("clusterTrustBundle") {
            let b = s.at("clusterTrustBundle");
            let source = b.text_opt("name").unwrap_or(b.text("signerName"));
            vec![File::new(
                b.text("path"),
                &quoted("ClusterTrustBundle", source),
            )]
        } else {
            [
                ("certificateChainPath", "PodCertificate chain"),
                ("keyPath", "PodCertificate key"),
                ("credentialBundlePath", "PodCertificate credential bundle"),
            ]
            .iter()
            .map(|(key, source)| File::new(s.at("podCertificate").text(key), source))
            .filter(|f| !f.path.is_empty())
            .collect()
        };
        say("Projected", more, &mut seen);
    }
    out.extend(empty);
}

fn duplicates(out: &mut Vec<String>, at: &Path, spec: &Value) {
    let aliases = spec.list("hostAliases");
    let mut seen = BTreeSet::new();
    for (i, a) in aliases.iter().enumerate() {
        let address = a.text("ip");
        if !seen.insert(address) {
            out.push(format!(
                "{}: duplicate ip {}",
                at.child("hostAliases").index(i).child("ip"),
                go_quote(address)
            ));
        }
    }
    let secrets = spec.list("imagePullSecrets");
    let p = at.child("imagePullSecrets");
    let mut seen = BTreeSet::new();
    for (i, s) in secrets.iter().enumerate() {
        let name = s.text("name");
        if !seen.insert(name) {
            out.push(format!(
                "{}: duplicate name {}",
                p.index(i).child("name"),
                go_quote(name)
            ));
        }
    }
    for (i, _) in secrets
        .iter()
        .enumerate()
        .filter(|(_, s)| s.text("name").is_empty())
    {
        out.push(format!(
            "{}: invalid empty name \"\"",
            p.index(i).child("name")
        ));
    }
}

/// Variables that are set twice, unless the second one builds on the first.
fn hidden_env(out: &mut Vec<String>, path: &Path, c: &Value) {
    let mut seen = BTreeSet::new();
    for (i, e) in c.list("env").iter().enumerate() {
        let name = e.text("name");
        if seen.insert(name) {
            continue;
        }
        let reference = format!("$({name})");
        let value = e.text("value");
        if e.has("valueFrom") || value == reference || !value.contains(&reference) {
            out.push(format!(
                "{}: hides previous definition of {}, which may be dropped when using apply",
                path.child("env").index(i),
                go_quote(name)
            ));
        }
    }
}

fn ports(out: &mut Vec<String>, at: &Path, spec: &Value) {
    let mut all = BTreeMap::<(i64, &str), Vec<(Path, &Value)>>::new();
    let mut names = BTreeMap::<&str, Path>::new();
    let mut later = vec![];
    visit_containers(spec, at, |c, p| {
        for (i, port) in c.list("ports").iter().enumerate() {
            let here = p.child("ports").index(i);
            let (host, address) = (port.int("hostPort"), port.text("hostIP"));
            let (number, protocol) = (port.int("containerPort"), port.text("protocol"));
            if !address.is_empty() && host == 0 {
                out.push(format!(
                    "{here}: hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{number} Protocol:{protocol} HostIP:{address}}}",
                    port.text("name"),
                ));
            }
            let others = all.entry((number, protocol)).or_default();
            for (there, other) in others.iter() {
                if out.len() >= ENOUGH {
                    break;
                }
                let (other_host, other_address) = (other.int("hostPort"), other.text("hostIP"));
                let how = if address == other_address && host == other_host {
                    "duplicate"
                } else if host == 0 || other_host == 0 {
                    "overlapping"
                } else if host == other_host && address.is_empty() != other_address.is_empty() {
                    "dangerously ambiguous"
                } else {
                    continue;
                };
                out.push(format!("{here}: {how} port definition with {there}"));
            }
            if others.len() < COMPARED {
                others.push((here.clone(), port));
            }
            let name = port.text("name");
            if name.is_empty() {
                continue;
            }
            match names.get(name) {
                Some(first) => later.push(format!(
                    "{here}: duplicate port name {} with {first}, services and probes that select ports by name will use {first}",
                    go_quote(name)
                )),
                None => {
                    names.insert(name, here);
                }
            }
        }
    });
    out.extend(later);
}

/// A Job's spec, with its template.
pub fn job(path: &Path, spec: &Value) -> Vec<String> {
    let mut out = vec![];
    if spec.text("completionMode") == "Indexed"
        && spec.int("completions") > 100_000
        && spec.int("parallelism") > 10_000
    {
        out.push(format!(
            "{path}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
        ));
    }
    out.extend(pod(&path.child("template"), spec.at("template")));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn warnings(spec: Value) -> Vec<String> {
        pod(&Path::root(), &json!({ "spec": spec }))
    }

    #[test]
    fn volumes_overlap() {
        let spec = json!({"volumes": [{"name": "v", "projected": {"sources": [
            {"configMap": {"name": "a", "items": [{"key": "k", "path": "x"}]}},
            {"secret": {"name": "b", "items": [{"key": "k", "path": "x/y"}]}},
            {"serviceAccountToken": {"path": "xy"}},
        ]}}]});
        assert_eq!(
            warnings(spec),
            [
                "volume \"v\" (Projected): overlapping paths: \"x/y\" (Secret \"b\") with \"x\" (ConfigMap \"a\")"
            ]
        );
    }

    #[test]
    fn ports_collide() {
        let spec = json!({"containers": [
            {"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP", "name": "p"}]},
            {"name": "b", "ports": [{"containerPort": 80, "protocol": "TCP", "hostPort": 8080, "name": "p"}]},
        ]});
        assert_eq!(
            warnings(spec),
            [
                "spec.containers[1].ports[0]: overlapping port definition with spec.containers[0].ports[0]",
                "spec.containers[1].ports[0]: duplicate port name \"p\" with spec.containers[0].ports[0], services and probes that select ports by name will use spec.containers[0].ports[0]",
            ]
        );
    }

    #[test]
    fn variables_hide_others() {
        let env = |second: Value| {
            warnings(
                json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}, second]}]}),
            )
        };
        assert!(env(json!({"name": "X", "value": "$(X)2"})).is_empty());
        assert_eq!(
            env(json!({"name": "X", "value": "2"})),
            [
                "spec.containers[0].env[1]: hides previous definition of \"X\", which may be dropped when using apply"
            ]
        );
    }
}
