//! Limit ranges and resource quotas.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::plain::Simple;
use crate::builtin::{Config, Parts};
use crate::check::{each, qualified_name};
use crate::quant::{self, Quant};
use crate::validate::{Errors, Path, resources, shown};
use crate::value::Tree;

fn fill(item: &mut Value, key: &str, from: &Map<String, Value>) {
    for (k, v) in from {
        let slot = item.slot(key);
        if slot.is_null() {
            *slot = Value::Object(Map::new());
        }
        if let Some(m) = slot.as_object_mut() {
            m.entry(k.as_str()).or_insert_with(|| v.clone());
        }
    }
}

fn range_defaults(o: &mut Value) {
    for item in o.list_mut("spec.limits") {
        if item.text("type") != "Container" {
            continue;
        }
        let max = item.map("max").clone();
        fill(item, "default", &max);
        let limits = item.map("default").clone();
        fill(item, "defaultRequest", &limits);
        let min = item.map("min").clone();
        fill(item, "defaultRequest", &min);
    }
}

/// The type of a range: one of Kubernetes' or a qualified name.
fn range_type(e: &mut Errors, path: &Path, kind: &str) {
    let messages = qualified_name(kind);
    let good = messages.is_empty();
    each(e, path, kind, messages);
    if good && !kind.contains('/') && !["Pod", "Container", "PersistentVolumeClaim"].contains(&kind)
    {
        e.invalid(
            path,
            kind,
            "must be a standard limit type or fully qualified",
        );
    }
}

/// Resources named in one map of a range.
fn range_names(e: &mut Errors, path: &Path, item: &Value, key: &str) {
    for name in item.map(key).keys() {
        let p = path.child(key).key(name);
        if ["Pod", "Container"].contains(&item.text("type")) {
            resources::container_resource_name(e, &p, name);
        } else {
            resources::resource_name(e, &p, name);
        }
    }
}

fn range_item(e: &mut Errors, path: &Path, item: &Value) {
    let kind = item.text("type");
    for key in ["max", "min"] {
        range_names(e, path, item, key);
    }
    for key in ["default", "defaultRequest"] {
        if kind != "Pod" {
            range_names(e, path, item, key);
        } else if !item.map(key).is_empty() {
            e.forbidden(
                &path.child(key),
                "may not be specified when `type` is 'Pod'",
            );
        }
    }
    let has_storage = |key: &str| item.map(key).contains_key("storage");
    if kind == "PersistentVolumeClaim" && !has_storage("min") && !has_storage("max") {
        e.required(
            &path.child("limits"),
            "either minimum or maximum storage value is required, but neither was provided",
        );
    }
    range_names(e, path, item, "maxLimitRequestRatio");
    let keys: std::collections::BTreeSet<&String> = [
        "max",
        "min",
        "default",
        "defaultRequest",
        "maxLimitRequestRatio",
    ]
    .iter()
    .flat_map(|k| item.map(k).keys())
    .collect();
    for name in keys {
        range_of(e, path, item, name);
    }
}

/// The values for one resource fit each other.
fn range_of(e: &mut Errors, path: &Path, item: &Value, name: &str) {
    let pod = item.text("type") == "Pod";
    let get = |field: &str| {
        let known = !pod || !field.starts_with("default");
        let v = item.map(field).get(name).filter(|_| known);
        v.map(quant::of)
    };
    let (min, max, ratio) = (get("min"), get("max"), get("maxLimitRequestRatio"));
    let (limit, request) = (get("default"), get("defaultRequest"));
    let at = |field: &str| path.child(field).key(name);
    let mut above = |field: &str,
                     shown: &Option<Quant>,
                     low: &Option<Quant>,
                     high: &Option<Quant>,
                     names: [&str; 2]| {
        if let (Some(shown), Some(low), Some(high)) = (shown, low, high)
            && low > high
        {
            let [a, b] = names;
            e.invalid(
                &at(field),
                shown.to_string(),
                &format!("{a} value {low} is greater than {b} value {high}"),
            );
        }
    };
    const REQUEST: &str = "default request";
    above("min", &min, &min, &max, ["min", "max"]);
    above("defaultRequest", &request, &min, &request, ["min", REQUEST]);
    above("defaultRequest", &request, &request, &max, [REQUEST, "max"]);
    above(
        "defaultRequest",
        &request,
        &request,
        &limit,
        [REQUEST, "default limit"],
    );
    above("default", &min, &min, &limit, ["min", "default"]);
    above("default", &max, &limit, &max, ["default", "max"]);
    if let Some(ratio) = &ratio {
        let p = at("maxLimitRequestRatio");
        if ratio.milli() < 1000 {
            e.invalid(
                &p,
                ratio.to_string(),
                &format!("ratio {ratio} is less than 1"),
            );
        }
        if let (Some(min), Some(max)) = (&min, &max) {
            let most = max.milli() as f64 / min.milli() as f64;
            if ratio.milli() as f64 / 1000.0 > most {
                e.invalid(
                    &p,
                    ratio.to_string(),
                    &format!("ratio {ratio} is greater than max/min = {most:.6}"),
                );
            }
        }
    }
    if let (Some(limit), Some(request)) = (&limit, &request)
        && !resources::overcommit_allowed(name)
        && limit != request
    {
        e.invalid(
            &at("defaultRequest"),
            request.to_string(),
            &format!(
                "default value {limit} must equal to defaultRequest value {request} in {name}"
            ),
        );
    }
}

fn validate_range(e: &mut Errors, o: &Value) {
    let mut seen = BTreeSet::new();
    for (i, item) in o.list("spec.limits").iter().enumerate() {
        let path = Path::new("spec").child("limits").index(i);
        let kind = item.text("type");
        range_type(e, &path.child("type"), kind);
        if !seen.insert(kind) {
            e.duplicate(&path.child("type"), kind);
        }
        range_item(e, &path, item);
    }
}

/// Limit ranges.
pub fn limit_range(_: &Config) -> Parts {
    Parts::new(Simple {
        validate: validate_range,
        creates: true,
        ..Simple::new(range_defaults)
    })
}

fn hard(e: &mut Errors, path: &Path, list: &Map<String, Value>) {
    for (name, q) in list {
        let p = path.key(name);
        resources::resource_name(e, &p, name);
        if !name.contains('/') && !is_quota_resource(name) {
            e.invalid(&p, name.as_str(), "must be a standard resource for quota");
        }
        resources::counted(e, &p, name, &quant::of(q));
    }
}

const PODS: [&str; 1] = ["pods"];
const COMPUTE: [&str; 6] = [
    "cpu",
    "memory",
    "limits.cpu",
    "limits.memory",
    "requests.cpu",
    "requests.memory",
];
const CLAIMS: [&str; 2] = ["persistentvolumeclaims", "requests.storage"];
const OTHERS: [&str; 10] = [
    "ephemeral-storage",
    "requests.ephemeral-storage",
    "limits.ephemeral-storage",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];

fn is_quota_resource(name: &str) -> bool {
    PODS.contains(&name)
        || COMPUTE.contains(&name)
        || CLAIMS.contains(&name)
        || OTHERS.contains(&name)
        || resources::is_huge_page(name)
        || name.starts_with("requests.hugepages-")
}

/// Scopes that are all about pods and take no values.
const POD_SCOPES: [&str; 5] = [
    "BestEffort",
    "NotBestEffort",
    "Terminating",
    "NotTerminating",
    "CrossNamespacePodAffinity",
];

fn known_scope(scope: &str) -> bool {
    POD_SCOPES.contains(&scope) || ["PriorityClass", "VolumeAttributesClass"].contains(&scope)
}

fn fits_scope(scope: &str, name: &str) -> bool {
    match scope {
        "BestEffort" => PODS.contains(&name),
        "VolumeAttributesClass" => CLAIMS.contains(&name),
        _ if known_scope(scope) => PODS.contains(&name) || COMPUTE.contains(&name),
        _ => true,
    }
}

/// Scopes that contradict each other.
fn conflicts(e: &mut Errors, path: &Path, spec: &Value, seen: &[&str]) {
    for [a, b] in [
        ["BestEffort", "NotBestEffort"],
        ["Terminating", "NotTerminating"],
    ] {
        if seen.contains(&a) && seen.contains(&b) {
            e.invalid(path, spec.at("scopes").clone(), "conflicting scopes");
        }
    }
}

fn scopes(e: &mut Errors, spec: &Value) {
    let path = Path::new("spec").child("scopes");
    let list = spec.texts("scopes");
    let mut counted: BTreeMap<String, usize> = BTreeMap::new();
    let mut limited = |scope: &str| {
        if let Some(count) = counted.get(scope) {
            return *count;
        }
        let odd = |name: &&String| is_quota_resource(name) && !fits_scope(scope, name);
        let count = spec.map("hard").keys().filter(odd).count();
        counted.insert(scope.to_owned(), count);
        count
    };
    for scope in &list {
        if e.full() {
            return;
        }
        if !known_scope(scope) {
            e.invalid(&path, spec.at("scopes").clone(), "unsupported scope");
        }
        for _ in 0..limited(scope) {
            if e.full() {
                return;
            }
            e.invalid(
                &path,
                spec.at("scopes").clone(),
                "unsupported scope applied to resource",
            );
        }
    }
    conflicts(e, &path, spec, &list);
    if !spec.has("scopeSelector") {
        return;
    }
    let path = Path::new("spec")
        .child("scopeSelector")
        .child("matchExpressions");
    let mut seen = vec![];
    for r in spec.list("scopeSelector.matchExpressions") {
        let (scope, operator) = (r.text("scopeName"), r.text("operator"));
        if !known_scope(scope) {
            e.invalid(&path.child("scopeName"), scope, "unsupported scope");
        }
        for _ in 0..limited(scope) {
            if e.full() {
                return;
            }
            e.invalid_shown(
                &path,
                &shown::internal("v1", "ScopeSelector", spec.at("scopeSelector")),
                "unsupported scope applied to resource",
            );
        }
        let p = path.child("operator");
        if POD_SCOPES.contains(&scope) && operator != "Exists" {
            e.invalid(&p, operator, "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity");
        }
        let values = r.list("values");
        match operator {
            "In" | "NotIn" if values.is_empty() => e.required(
                &path.child("values"),
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            ),
            "Exists" | "DoesNotExist" if !values.is_empty() => e.invalid(
                &path.child("values"),
                r.at("values").clone(),
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => e.invalid(&p, operator, "not a valid selector operator"),
        }
        seen.push(scope);
    }
    conflicts(e, &path, spec, &seen);
}

fn validate_quota(e: &mut Errors, o: &Value) {
    hard(e, &Path::new("spec").child("hard"), o.map("spec.hard"));
    scopes(e, o.at("spec"));
}

fn quota_status(e: &mut Errors, o: &Value, _: &Value) {
    for key in ["hard", "used"] {
        hard(e, &Path::new("status").child(key), o.at("status").map(key));
    }
}

fn change_quota(e: &mut Errors, o: &Value, old: &Value) {
    let set = |o: &Value| -> std::collections::BTreeSet<String> {
        let list = o.texts("spec.scopes");
        list.into_iter().map(str::to_owned).collect()
    };
    if set(o) != set(old) {
        e.invalid(
            &Path::new("spec").child("scopes"),
            o.at("spec.scopes").clone(),
            "field is immutable",
        );
    }
}

fn quota_warnings(o: &Value, old: Option<&Value>) -> Vec<String> {
    let hard = o.map("spec.hard");
    let mut out = vec![];
    if old.is_some() {
        return out;
    }
    for name in ["cpu", "memory", "storage", "ephemeral-storage"] {
        let mut key = format!("requests.{name}");
        if !hard.contains_key(&key) && ["cpu", "memory"].contains(&name) {
            key = name.to_owned();
        }
        let other = format!("limits.{name}");
        if let (Some(request), Some(limit)) = (hard.get(&key), hard.get(&other)) {
            let (request, limit) = (quant::of(request), quant::of(limit));
            if request > limit {
                out.push(format!(
                    "ResourceQuota {key} ({request}) should be less than {other} ({limit})"
                ));
            }
        }
    }
    out
}

/// Resource quotas.
pub fn resource_quota(_: &Config) -> Parts {
    Parts::new(Simple {
        status: true,
        returns_deleted: true,
        validate: validate_quota,
        warn: quota_warnings,
        change: change_quota,
        status_change: quota_status,
        ..Simple::new(|_| {})
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ranges() {
        let mut o = json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}}]}});
        range_defaults(&mut o);
        assert_eq!(
            o.list("spec.limits")[0].at("defaultRequest"),
            &json!({"cpu": "2", "memory": "1Mi"})
        );
        let mut e = Errors::new();
        validate_range(&mut e, &o);
        assert!(e.is_empty());
        let bad = json!({"spec": {"limits": [{"type": "Pod", "max": {"cpu": "1"}, "min": {"cpu": "2"}}, {"type": "Pod"}]}});
        validate_range(&mut e, &bad);
        assert_eq!(
            e.aggregate(),
            "[spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1, spec.limits[1].type: Duplicate value: \"Pod\"]"
        );
    }
}
