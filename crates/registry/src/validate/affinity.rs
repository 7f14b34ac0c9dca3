//! Where pods may run: node and pod affinity, tolerations, topology spread.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Errors, Path, meta};
use crate::check::{dns1123_label, dns1123_subdomain, each, label_value, positive};
use crate::value::Tree;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// `spec.affinity`.
pub fn affinity(e: &mut Errors, path: &Path, a: &Value) {
    let node = a.at("nodeAffinity");
    if !node.is_null() {
        let p = path.child("nodeAffinity");
        if node.has(REQUIRED) {
            node_selector(e, &p.child(REQUIRED), node.at(REQUIRED));
        }
        for (i, t) in node.list(PREFERRED).iter().enumerate() {
            let p = p.child(PREFERRED).index(i);
            weight(e, &p, t);
            node_term(e, &p.child("preference"), t.at("preference"), false);
        }
    }
    for key in ["podAffinity", "podAntiAffinity"] {
        let (p, v) = (path.child(key), a.at(key));
        for (i, t) in v.list(REQUIRED).iter().enumerate() {
            pod_term(e, &p.child(REQUIRED).index(i), t);
        }
        for (i, t) in v.list(PREFERRED).iter().enumerate() {
            let p = p.child(PREFERRED).index(i);
            weight(e, &p, t);
            pod_term(e, &p.child("podAffinityTerm"), t.at("podAffinityTerm"));
        }
    }
}

fn weight(e: &mut Errors, path: &Path, t: &Value) {
    let w = t.int("weight");
    if !(1..=100).contains(&w) {
        e.invalid(&path.child("weight"), w, "must be in the range 1-100");
    }
}

/// A `NodeSelector`.
pub fn node_selector(e: &mut Errors, path: &Path, s: &Value) {
    let p = path.child("nodeSelectorTerms");
    let terms = s.list("nodeSelectorTerms");
    if terms.is_empty() {
        e.required(&p, "must have at least one node selector term");
    }
    for (i, t) in terms.iter().enumerate() {
        node_term(e, &p.index(i), t, true);
    }
}

fn node_term(e: &mut Errors, path: &Path, t: &Value, check_values: bool) {
    for (i, r) in t.list("matchExpressions").iter().enumerate() {
        node_requirement(e, &path.child("matchExpressions").index(i), r, check_values);
    }
    for (i, r) in t.list("matchFields").iter().enumerate() {
        node_field(e, &path.child("matchFields").index(i), r);
    }
}

fn node_requirement(e: &mut Errors, path: &Path, r: &Value, check_values: bool) {
    let values = r.texts("values");
    let p = path.child("values");
    match r.text("operator") {
        "In" | "NotIn" => {
            if values.is_empty() {
                e.required(&p, "must be specified when `operator` is 'In' or 'NotIn'");
            }
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                e.forbidden(
                    &p,
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                );
            }
        }
        "Gt" | "Lt" => {
            if values.len() != 1 {
                e.required(
                    &p,
                    "must be specified single value when `operator` is 'Lt' or 'Gt'",
                );
            }
        }
        other => e.invalid(
            &path.child("operator"),
            other,
            "not a valid selector operator",
        ),
    }
    meta::label_name(e, &path.child("key"), r.text("key"));
    if check_values {
        for (i, v) in values.iter().enumerate() {
            each(e, &p.index(i), v, label_value(v));
        }
    }
}

fn node_field(e: &mut Errors, path: &Path, r: &Value) {
    let values = r.texts("values");
    match r.text("operator") {
        "In" | "NotIn" => {
            if values.len() != 1 {
                e.required(
                    &path.child("values"),
                    "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
                );
            }
        }
        other => e.invalid(
            &path.child("operator"),
            other,
            "not a valid selector operator",
        ),
    }
    if r.text("key") != "metadata.name" {
        e.invalid(
            &path.child("key"),
            r.text("key"),
            "not a valid field selector key",
        );
        return;
    }
    for (i, v) in values.iter().enumerate() {
        each(e, &path.child("values").index(i), v, dns1123_subdomain(v));
    }
}

fn pod_term(e: &mut Errors, path: &Path, t: &Value) {
    meta::selector(e, &path.child("labelSelector"), t.at("labelSelector"));
    meta::selector(
        e,
        &path.child("namespaceSelector"),
        t.at("namespaceSelector"),
    );
    for ns in t.texts("namespaces") {
        each(e, &path.child("namespace"), ns, dns1123_label(ns));
    }
    label_keys(e, path, t);
    let key = t.text("topologyKey");
    let p = path.child("topologyKey");
    if key.is_empty() {
        e.required(&p, "can not be empty");
    }
    meta::label_name(e, &p, key);
}

/// `matchLabelKeys` and `mismatchLabelKeys` beside a label selector.
fn label_keys(e: &mut Errors, path: &Path, t: &Value) {
    let selector = t.at("labelSelector");
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        let keys = t.texts(field);
        let p = path.child(field);
        if keys.is_empty() {
            continue;
        }
        if selector.is_null() {
            e.forbidden(&p, "must not be specified when labelSelector is not set");
            continue;
        }
        for (i, k) in keys.iter().enumerate() {
            meta::label_name(e, &p.index(i), k);
        }
    }
    let matching = t.texts("matchLabelKeys");
    if !selector.is_null() {
        let mut seen: BTreeSet<&str> = selector
            .map("matchLabels")
            .keys()
            .map(String::as_str)
            .collect();
        let places: BTreeMap<&str, usize> = matching.iter().copied().zip(0..).collect();
        for r in selector.list("matchExpressions") {
            let key = r.text("key");
            if let (Some(i), true) = (places.get(key).copied(), seen.contains(key)) {
                e.invalid(
                    &path.index(i),
                    key,
                    "exists in both matchLabelKeys and labelSelector",
                );
            }
            seen.insert(key);
        }
    }
    let mismatching: BTreeSet<&str> = t.texts("mismatchLabelKeys").into_iter().collect();
    for (i, k) in matching
        .iter()
        .enumerate()
        .filter(|(_, k)| mismatching.contains(*k))
    {
        e.invalid(
            &path.child("matchLabelKeys").index(i),
            *k,
            "exists in both matchLabelKeys and mismatchLabelKeys",
        );
    }
}

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

fn effect(e: &mut Errors, path: &Path, value: &str) {
    if !EFFECTS.contains(&value) {
        e.not_supported(path, value, &EFFECTS);
    }
}

/// `spec.tolerations`.
pub fn tolerations(e: &mut Errors, path: &Path, list: &[Value]) {
    for (i, t) in list.iter().enumerate() {
        let p = path.index(i);
        let (key, op, value) = (t.text("key"), t.text("operator"), t.text("value"));
        if !key.is_empty() {
            meta::label_name(e, &p.child("key"), key);
        }
        if key.is_empty() && op != "Exists" {
            e.invalid(
                &p.child("operator"),
                op,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if t.has("tolerationSeconds") && t.text("effect") != "NoExecute" {
            e.invalid(
                &p.child("effect"),
                t.text("effect"),
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            );
        }
        match op {
            "Equal" | "" => {
                let messages = label_value(value);
                if !messages.is_empty() {
                    e.invalid(&p.child("operator"), value, &messages.join(";"));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    e.invalid(
                        &p.child("operator"),
                        value,
                        "value must be empty when `operator` is 'Exists'",
                    );
                }
            }
            "Lt" | "Gt" => {
                e.not_supported(&p.child("operator"), op, &["Equal", "Exists", "Lt", "Gt"])
            }
            other => e.not_supported(&p.child("operator"), other, &["Equal", "Exists"]),
        }
        if !t.text("effect").is_empty() {
            effect(e, &p.child("effect"), t.text("effect"));
        }
    }
}

/// `spec.taints` of a node.
pub fn taints(e: &mut Errors, path: &Path, list: &[Value]) {
    let mut seen = BTreeSet::new();
    for (i, t) in list.iter().enumerate() {
        let p = path.index(i);
        meta::label_name(e, &p.child("key"), t.text("key"));
        let messages = label_value(t.text("value"));
        if !messages.is_empty() {
            e.invalid(&p.child("value"), t.text("value"), &messages.join(";"));
        }
        if t.text("effect").is_empty() {
            e.required(&p.child("effect"), "");
        } else {
            effect(e, &p.child("effect"), t.text("effect"));
        }
        if !seen.insert((t.text("effect"), t.text("key"))) {
            e.duplicate_shown(
                &p,
                &super::shown::internal("v1", "Taint", t),
                "taints must be unique by key and effect pair",
            );
        }
    }
}

/// `spec.topologySpreadConstraints`.
pub fn topology_spread(e: &mut Errors, path: &Path, list: &[Value]) {
    const ACTIONS: [&str; 2] = ["DoNotSchedule", "ScheduleAnyway"];
    const POLICIES: [&str; 2] = ["Honor", "Ignore"];
    let pair = |c: &'_ Value| {
        (
            c.text("topologyKey").to_owned(),
            c.text("whenUnsatisfiable").to_owned(),
        )
    };
    let last: BTreeMap<_, usize> = list.iter().map(pair).zip(0..).collect();
    for (i, c) in list.iter().enumerate() {
        let p = path.index(i);
        positive(e, &p.child("maxSkew"), c.int("maxSkew"));
        let (key, action) = (c.text("topologyKey"), c.text("whenUnsatisfiable"));
        if key.is_empty() {
            e.required(&p.child("topologyKey"), "can not be empty");
        }
        if !ACTIONS.contains(&action) {
            e.not_supported(&p.child("whenUnsatisfiable"), action, &ACTIONS);
        }
        if last.get(&pair(c)).is_some_and(|last| *last > i) {
            e.duplicate(
                &p.child("{topologyKey, whenUnsatisfiable}"),
                format!("{{{key}, {action}}}"),
            );
        }
        if let Some(n) = c.int_opt("minDomains") {
            positive(e, &p.child("minDomains"), n);
            if action != "DoNotSchedule" {
                e.invalid(
                    &p.child("minDomains"),
                    n,
                    &format!(
                        "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"
                    ),
                );
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if let Some(v) = c.text_opt(field)
                && !POLICIES.contains(&v)
            {
                e.not_supported(&p.child(field), v, &POLICIES);
            }
        }
        label_keys(e, &p, c);
        meta::selector(e, &p.child("labelSelector"), c.at("labelSelector"));
    }
}
