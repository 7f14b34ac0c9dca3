//! Limit ranges and resource quotas.

use serde_json::{Map, Value};

use super::plain::Simple;
use crate::builtin::{Config, Parts};
use crate::check::{each, qualified_name};
use crate::quant;
use crate::validate::{Errors, Path, resources};
use crate::value::{Tree, same};

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

fn range_item(e: &mut Errors, path: &Path, item: &Value) {
    let kind = item.text("type");
    if kind.is_empty() {
        e.required(&path.child("type"), "");
    } else {
        each(e, &path.child("type"), kind, qualified_name(kind));
    }
    if kind == "Pod" {
        for key in ["default", "defaultRequest"] {
            if !item.map(key).is_empty() {
                e.forbidden(
                    &path.child(key),
                    "may not be specified when `type` is 'Pod'",
                );
            }
        }
    }
    let keys: std::collections::BTreeSet<&String> = ["max", "min", "default", "defaultRequest"]
        .iter()
        .flat_map(|k| item.map(k).keys())
        .collect();
    for name in keys {
        let get = |field: &str| item.map(field).get(name).map(quant::of);
        let above = |e: &mut Errors, a: &str, b: &str, what: &str, than: &str| {
            if let (Some(x), Some(y)) = (get(a), get(b))
                && x > y
            {
                e.invalid(
                    &path.child(a).key(name),
                    x.to_string(),
                    &format!("{what} value {x} is greater than {than} value {y}"),
                );
            }
        };
        above(e, "min", "max", "min", "max");
        if let (Some(x), Some(y)) = (get("defaultRequest"), get("min"))
            && x < y
        {
            e.invalid(
                &path.child("defaultRequest").key(name),
                x.to_string(),
                &format!("min value {y} is greater than default request value {x}"),
            );
        }
        above(e, "defaultRequest", "max", "default request", "max");
        above(
            e,
            "defaultRequest",
            "default",
            "default request",
            "default limit",
        );
        if let (Some(x), Some(y)) = (get("default"), get("min"))
            && x < y
        {
            e.invalid(
                &path.child("default").key(name),
                y.to_string(),
                &format!("min value {y} is greater than default value {x}"),
            );
        }
        above(e, "default", "max", "default", "max");
    }
}

fn validate_range(e: &mut Errors, o: &Value) {
    let mut seen = vec![];
    for (i, item) in o.list("spec.limits").iter().enumerate() {
        let path = Path::new("spec").child("limits").index(i);
        range_item(e, &path, item);
        let kind = item.text("type");
        if seen.contains(&kind) {
            e.duplicate(&path.child("type"), kind);
        }
        seen.push(kind);
    }
}

/// Limit ranges.
pub fn limit_range(_: &Config) -> Parts {
    Parts::new(Simple {
        validate: validate_range,
        ..Simple::new(range_defaults)
    })
}

fn validate_quota(e: &mut Errors, o: &Value) {
    let path = Path::new("spec").child("hard");
    for (name, q) in o.map("spec.hard") {
        let p = path.key(name);
        each(e, &p, name, qualified_name(name));
        let q = quant::of(q);
        if q.is_negative() {
            e.invalid(&p, q.to_string(), "must be greater than or equal to 0");
        } else {
            resources::quantity(e, &p, name, &q);
        }
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
        change: |e, o, old| {
            if !same(o.at("spec.scopes"), old.at("spec.scopes")) {
                e.invalid(
                    &Path::new("spec").child("scopes"),
                    o.at("spec.scopes").clone(),
                    "field is immutable",
                );
            }
        },
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
        assert_eq!(e.len(), 2);
    }
}
