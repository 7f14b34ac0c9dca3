//! What makes and holds volumes: classes, CSI drivers, attachments and capacities.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::plain::{Simple, immutable, immutable_shown};
use super::volume::volume_spec;
use crate::builtin::{Config, Parts};
use crate::check::{dns1123_subdomain, each, non_negative, qualified_name, range_message};
use crate::quant;
use crate::validate::volumes::csi_driver_name;
use crate::validate::{Errors, Path, meta, shown};
use crate::value::{Tree, same};
use crate::warn;

fn driver_defaults(o: &mut Value) {
    if !o.has("spec") {
        o.put("spec", json!({}));
    }
    for (key, value) in [
        ("attachRequired", true),
        ("podInfoOnMount", false),
        ("storageCapacity", false),
        ("requiresRepublish", false),
        ("seLinuxMount", false),
    ] {
        o.slot("spec").put_if_absent(key, value);
    }
    o.put_if_absent("spec.fsGroupPolicy", "ReadWriteOnceWithFSType");
    if o.list("spec.volumeLifecycleModes").is_empty() {
        o.put("spec.volumeLifecycleModes", json!(["Persistent"]));
    }
}

/// Tokens that kubelets shall pass to a driver: each audience once, neither too short nor too long.
fn token_requests(e: &mut Errors, path: &Path, list: &[Value]) {
    let mut seen = BTreeSet::new();
    for (i, r) in list.iter().enumerate() {
        let p = path.index(i);
        if !seen.insert(r.text("audience")) {
            e.duplicate(&p.child("audience"), r.text("audience"));
            continue;
        }
        let Some(s) = r.int_opt("expirationSeconds") else {
            continue;
        };
        let p = p.child("expirationSeconds");
        if s < 600 {
            e.invalid(&p, s, "may not specify a duration less than 10 minutes");
        }
        if s > 1 << 32 {
            e.invalid(&p, s, "may not specify a duration larger than 2^32 seconds");
        }
    }
}

fn validate_driver(e: &mut Errors, o: &Value) {
    const POLICIES: [&str; 3] = ["File", "None", "ReadWriteOnceWithFSType"];
    let (spec, path) = (o.at("spec"), Path::new("spec"));
    let policy = spec.text("fsGroupPolicy");
    if !POLICIES.contains(&policy) {
        e.not_supported(&path.child("fsGroupPolicy"), policy, &POLICIES);
    }
    let requests = spec.list("tokenRequests");
    token_requests(e, &path.child("tokenRequests"), requests);
    for mode in spec.texts("volumeLifecycleModes") {
        if !["Persistent", "Ephemeral"].contains(&mode) {
            e.not_supported(
                &path.child("volumeLifecycleModes"),
                mode,
                &["Persistent", "Ephemeral"],
            );
        }
    }
    if let Some(n) = spec.int_opt("nodeAllocatableUpdatePeriodSeconds")
        && n < 10
    {
        e.invalid(
            &path.child("nodeAllocatableUpdatePeriodSeconds"),
            n,
            "must be greater than or equal to 10 seconds",
        );
    }
    if spec.has("serviceAccountTokenInSecrets") && requests.is_empty() {
        e.invalid(
            &path.child("serviceAccountTokenInSecrets"),
            spec.at("serviceAccountTokenInSecrets").clone(),
            "serviceAccountTokenInSecrets is set but no tokenRequests are specified",
        );
    }
}

fn change_driver(e: &mut Errors, o: &Value, old: &Value) {
    for (key, shown) in [
        ("attachRequired", "attachedRequired"),
        ("volumeLifecycleModes", "volumeLifecycleModes"),
    ] {
        immutable(
            e,
            &Path::new("spec").child(shown),
            o.at("spec").at(key),
            old.at("spec").at(key),
        );
    }
}

/// CSI drivers.
pub fn driver(_: &Config) -> Parts {
    Parts::new(Simple {
        generation: true,
        late_generation: true,
        returns_deleted: true,
        unconditional: false,
        validate: validate_driver,
        change: change_driver,
        warn: |o, old| {
            let requests = o.at("spec.tokenRequests");
            let changed = old.is_none_or(|old| !same(old.at("spec.tokenRequests"), requests));
            if requests.is_blank() || o.has("spec.serviceAccountTokenInSecrets") || !changed {
                return vec![];
            }
            vec!["spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes".into()]
        },
        ..Simple::new(driver_defaults)
    })
}

/// The longest id of a node, as a CSI driver knows it.
const MAX_NODE_ID: usize = 256;

fn validate_node(e: &mut Errors, o: &Value) {
    let mut seen = BTreeSet::new();
    for (i, d) in o.list("spec.drivers").iter().enumerate() {
        let p = Path::new("spec").child("drivers").index(i);
        csi_driver_name(e, &p.child("name"), d.text("name"));
        let id = d.text("nodeID");
        if id.is_empty() {
            e.required(&p.child("nodeID"), "");
        }
        if id.len() > MAX_NODE_ID {
            e.invalid(&p.child("nodeID"), id, "must be 256 characters or less");
        }
        if let Some(n) = d.int_opt("allocatable.count") {
            non_negative(e, &p.child("allocatable").child("count"), n);
        }
        if !seen.insert(d.text("name")) {
            e.duplicate(&p.child("name"), d.text("name"));
        }
        let mut keys = BTreeSet::new();
        for key in d.texts("topologyKeys") {
            if key.is_empty() {
                e.required(&p, "");
            }
            if !keys.insert(key) {
                e.duplicate(&p, key);
            }
            each(e, &p, key, qualified_name(key));
        }
    }
}

/// What a driver said of a node stays, but for how many volumes it can hold.
fn change_node(e: &mut Errors, o: &Value, old: &Value) {
    for was in old.list("spec.drivers") {
        for now in o.list("spec.drivers") {
            if was.text("name") != now.text("name") {
                continue;
            }
            let (mut n, mut o) = (now.clone(), was.clone());
            n.remove_at("allocatable");
            o.remove_at("allocatable");
            let shown = shown::internal("storage.k8s.io/v1", "CSINodeDriver", &n);
            immutable_shown(e, &Path::new("spec").child("drivers"), &shown, &n, &o);
        }
    }
}

/// What CSI drivers say of nodes.
pub fn node(_: &Config) -> Parts {
    Parts::new(Simple {
        returns_deleted: true,
        unconditional: false,
        validate: validate_node,
        change: change_node,
        ..Simple::new(|_| {})
    })
}

/// The most parameters a class may have, and their size in bytes.
const MAX_PARAMETERS: usize = 512;
const MAX_PARAMETERS_SIZE: usize = 256 * 1024;

fn provisioner(e: &mut Errors, path: &Path, name: &str) {
    if name.is_empty() {
        e.required(path, "");
    } else {
        let name = name.to_lowercase();
        each(e, path, &name, qualified_name(&name));
    }
}

fn parameters(e: &mut Errors, path: &Path, o: &Value, needed: bool) {
    let all = o.map("parameters");
    if all.len() > MAX_PARAMETERS {
        e.too_long(path, MAX_PARAMETERS);
        return;
    }
    let mut size = 0;
    for (k, v) in all {
        if k.is_empty() {
            e.invalid(path, "", "field can not be empty.");
        }
        size += k.len() + v.as_str().map_or(0, str::len);
    }
    if size > MAX_PARAMETERS_SIZE {
        e.too_long(path, MAX_PARAMETERS_SIZE);
    }
    if needed && all.is_empty() {
        e.required(path, "must contain at least one key/value pair");
    }
}

/// Topologies: keys once in each term, values once for each key, no term twice.
fn topologies(e: &mut Errors, path: &Path, list: &[Value]) {
    // How often each term stands there; upstream counts as many empty ones as there are terms.
    let mut seen: BTreeMap<BTreeMap<&str, BTreeSet<&str>>, usize> =
        BTreeMap::from([(BTreeMap::new(), list.len())]);
    for (i, t) in list.iter().enumerate() {
        let p = path.index(i).child("matchLabelExpressions");
        let mut term: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (j, x) in t.list("matchLabelExpressions").iter().enumerate() {
            let p = p.index(j);
            let mut values = BTreeSet::new();
            if x.list("values").is_empty() {
                e.required(&p.child("values"), "");
            }
            for (k, v) in x.texts("values").iter().enumerate() {
                if !values.insert(*v) {
                    e.duplicate(&p.child("values").index(k), *v);
                }
            }
            let key = x.text("key");
            meta::label_name(e, &p.child("key"), key);
            if term.insert(key, values).is_some() {
                e.duplicate(&p.child("key"), key);
            }
        }
        let before = seen.entry(term).or_default();
        for _ in 0..*before {
            if e.full() {
                return;
            }
            e.duplicate(&p, "");
        }
        *before += 1;
    }
}

fn validate_class(e: &mut Errors, o: &Value) {
    provisioner(e, &Path::new("provisioner"), o.text("provisioner"));
    parameters(e, &Path::new("parameters"), o, false);
    for (key, known) in [
        ("reclaimPolicy", ["Delete", "Retain"]),
        ("volumeBindingMode", ["Immediate", "WaitForFirstConsumer"]),
    ] {
        if let Some(v) = o.text_opt(key)
            && !known.contains(&v)
            && !(v.is_empty() && key == "reclaimPolicy")
        {
            e.not_supported(&Path::new(key), v, &known);
        }
    }
    topologies(
        e,
        &Path::new("allowedTopologies"),
        o.list("allowedTopologies"),
    );
}

fn change_class(e: &mut Errors, o: &Value, old: &Value) {
    for key in [
        "provisioner",
        "parameters",
        "reclaimPolicy",
        "volumeBindingMode",
    ] {
        immutable(e, &Path::new(key), o.at(key), old.at(key));
    }
}

/// Storage classes.
pub fn class(_: &Config) -> Parts {
    Parts::new(Simple {
        validate: validate_class,
        change: change_class,
        warn: |o, _| {
            let mut out = vec![];
            for (i, t) in o.list("allowedTopologies").iter().enumerate() {
                for (j, x) in t.list("matchLabelExpressions").iter().enumerate() {
                    if let Some(why) = warn::node_label(x.text("key")) {
                        out.push(format!(
                            "allowedTopologies[{i}].matchLabelExpressions[{j}].key: {why}"
                        ));
                    }
                }
            }
            out
        },
        returns_deleted: true,
        ..Simple::new(|o| {
            o.put_if_absent("reclaimPolicy", "Delete");
            o.put_if_absent("volumeBindingMode", "Immediate");
        })
    })
}

fn validate_attributes(e: &mut Errors, o: &Value) {
    provisioner(e, &Path::new("driverName"), o.text("driverName"));
    parameters(e, &Path::new("parameters"), o, true);
}

fn update_attributes(e: &mut Errors, o: &Value, old: &Value) {
    for key in ["driverName", "parameters"] {
        if !same(o.at(key), old.at(key)) {
            e.forbidden(&Path::new(key), &format!("updates to {key} are forbidden."));
        }
    }
    validate_attributes(e, o);
}

/// Classes of volume attributes.
pub fn attributes_class(_: &Config) -> Parts {
    Parts::new(Simple {
        returns_deleted: true,
        validate: validate_attributes,
        update: Some(update_attributes),
        ..Simple::new(|_| {})
    })
}

const MAX_METADATA: usize = 256 * 1024;
const MAX_MESSAGE: usize = 1024;

fn volume_error(e: &mut Errors, path: &Path, v: &Value) {
    if v.text("message").len() > MAX_MESSAGE {
        e.too_long(&path.child("message"), MAX_METADATA);
    }
    if let Some(n) = v.int_opt("errorCode")
        && n < 0
    {
        e.invalid(
            &path.child("errorCode"),
            n,
            &range_message(0, i64::from(i32::MAX)),
        );
    }
}

fn validate_attachment(e: &mut Errors, o: &Value) {
    let (spec, path) = (o.at("spec"), Path::new("spec"));
    csi_driver_name(e, &path.child("attacher"), spec.text("attacher"));
    const ONE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    let p = path.child("source");
    let source = spec.at("source");
    match (
        source.has("inlineVolumeSpec"),
        source.text_opt("persistentVolumeName"),
    ) {
        (false, None) => e.required(&p, ONE),
        (true, Some(_)) => e.forbidden(&p, ONE),
        (false, Some("")) => e.required(
            &p.child("persistentVolumeName"),
            "must specify non empty persistentVolumeName",
        ),
        (false, Some(_)) => {}
        (true, None) => volume_spec(
            e,
            &p.child("inlineVolumeSpec"),
            source.at("inlineVolumeSpec"),
            "",
            true,
        ),
    }
    let node = spec.text("nodeName");
    each(e, &path.child("nodeName"), node, dns1123_subdomain(node));
    attachment_status(e, o);
    if let Some(name) = source.text_opt("persistentVolumeName") {
        each(
            e,
            &p.child("persistentVolumeName"),
            name,
            dns1123_subdomain(name),
        );
    }
}

fn attachment_status(e: &mut Errors, o: &Value) {
    let (status, path) = (o.at("status"), Path::new("status"));
    let all = status.map("attachmentMetadata");
    let size: usize = all
        .iter()
        .map(|(k, v)| k.len() + v.as_str().map_or(0, str::len))
        .sum();
    if size > MAX_METADATA {
        e.too_long(&path.child("attachmentMetadata"), MAX_METADATA);
    }
    for key in ["attachError", "detachError"] {
        volume_error(e, &path.child(key), status.at(key));
    }
}

fn change_attachment(e: &mut Errors, o: &Value, old: &Value) {
    let spec = o.at("spec");
    let shown = shown::internal("storage.k8s.io/v1", "VolumeAttachmentSpec", spec);
    immutable_shown(e, &Path::new("spec"), &shown, spec, old.at("spec"));
}

/// Volumes attached to nodes.
pub fn attachment(_: &Config) -> Parts {
    Parts::new(Simple {
        returns_deleted: true,
        status: true,
        status_keeps_meta: true,
        unconditional: false,
        validate: validate_attachment,
        change: change_attachment,
        status_change: |e, o, old| {
            validate_attachment(e, o);
            change_attachment(e, o, old);
        },
        ..Simple::new(|_| {})
    })
}

fn validate_capacity(e: &mut Errors, o: &Value) {
    meta::selector(e, &Path::new("nodeTopology"), o.at("nodeTopology"));
    let class = o.text("storageClassName");
    each(
        e,
        &Path::new("storageClassName"),
        class,
        dns1123_subdomain(class),
    );
    if o.has("capacity") {
        let q = quant::of(o.at("capacity"));
        if q.is_negative() {
            e.invalid(
                &Path::new("capacity"),
                q.to_string(),
                "must be greater than or equal to 0",
            );
        }
    }
}

fn change_capacity(e: &mut Errors, o: &Value, old: &Value) {
    let topology = o.at("nodeTopology");
    immutable_shown(
        e,
        &Path::new("nodeTopology"),
        &shown::served("v1", "LabelSelector", topology),
        topology,
        old.at("nodeTopology"),
    );
    immutable(
        e,
        &Path::new("storageClassName"),
        &o.text("storageClassName").into(),
        &old.text("storageClassName").into(),
    );
}

fn capacity_warnings(o: &Value, _: Option<&Value>) -> Vec<String> {
    let mut out = vec![];
    let topology = o.at("nodeTopology");
    for (i, x) in topology.list("matchExpressions").iter().enumerate() {
        let key = x.text("key");
        if let Some(why) = warn::node_label(key) {
            out.push(format!(
                "nodeTopology.matchExpressions[{i}].key: {key} is {why}"
            ));
        }
    }
    for key in topology.map("matchLabels").keys() {
        if let Some(why) = warn::node_label(key) {
            out.push(format!("nodeTopology.matchLabels.{key}: {why}"));
        }
    }
    out
}

/// What is left for new volumes.
pub fn capacity(_: &Config) -> Parts {
    Parts::new(Simple {
        unconditional: false,
        validate: validate_capacity,
        change: change_capacity,
        warn: capacity_warnings,
        ..Simple::new(|_| {})
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(check: fn(&mut Errors, &Value), o: Value) -> String {
        let mut e = Errors::new();
        check(&mut e, &o);
        e.aggregate()
    }

    #[test]
    fn classes() {
        assert_eq!(
            errors(
                validate_class,
                json!({"provisioner": "a b", "volumeBindingMode": "x", "allowedTopologies": [
                    {"matchLabelExpressions": [{"key": "k", "values": ["a", "a"]}, {"key": "k", "values": []}]}]})
            )
            .matches("allowedTopologies[0].matchLabelExpressions[")
            .count(),
            3
        );
    }

    #[test]
    fn attachments_have_one_source() {
        let of = |source: Value| {
            errors(
                validate_attachment,
                json!({"spec": {"attacher": "a", "nodeName": "n", "source": source}}),
            )
        };
        assert_eq!(of(json!({"persistentVolumeName": "v"})), "[]");
        assert_eq!(
            of(json!({})),
            "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"
        );
        assert!(of(json!({"inlineVolumeSpec": {}})).contains("spec.source.inlineVolumeSpec.csi"));
    }

    #[test]
    fn drivers_ask_for_each_audience_once() {
        let mut o = json!({"spec": {"tokenRequests": [{"audience": "a"}, {"audience": "a"}]}});
        driver_defaults(&mut o);
        assert_eq!(
            errors(validate_driver, o),
            "spec.tokenRequests[1].audience: Duplicate value: \"a\""
        );
    }
}
