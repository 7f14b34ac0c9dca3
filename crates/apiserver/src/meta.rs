//! What every object has in common: defaults of its schema, validation of its metadata, and its field managers.

use api::field::{ErrorList, Path};
use api::meta::{validate_object_meta, validate_object_meta_update};
use api::validate::{NameFn, name_is_dns_subdomain};
use patch::ssa::Actor;
use serde_json::{Map, Value};
use wire::schema::Message;

use crate::core::Served;
use crate::resource::Strategy;

/// Applies the schema's default markers.
pub fn apply_defaults(schema: &'static Message, object: &mut Value) {
    api::defaults::apply(object, schema);
}

/// Finalizers without a domain. Source: upstream's `pkg/apis/core/helper`.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

fn any_name(_: &str, _: bool) -> Vec<String> {
    Vec::new()
}

fn check(strategy: &dyn Strategy, namespaced: bool, object: &Value) -> ErrorList {
    let path = Path::new("metadata");
    let mut errors = ErrorList::new();
    let own = strategy.validate_name("x", false).is_some();
    if own {
        for (key, prefix) in [("generateName", true), ("name", false)] {
            let value = object
                .get("metadata")
                .and_then(|m| m.get(key))
                .and_then(Value::as_str)
                .unwrap_or_default();
            if value.is_empty() {
                continue;
            }
            for why in strategy.validate_name(value, prefix).unwrap_or_default() {
                errors.invalid(&path.child(key), value, &why);
            }
        }
    }
    let rule: NameFn = if own { any_name } else { name_is_dns_subdomain };
    errors.extend(validate_object_meta(object, namespaced, rule, &path));
    let finalizers = object
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array);
    for (i, f) in finalizers
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .enumerate()
    {
        if !f.contains('/') && !STANDARD_FINALIZERS.contains(&f) {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(&path.child("finalizers").index(i), f, why);
        }
    }
    errors
}

/// What is wrong with a new object's metadata.
pub fn validate(strategy: &dyn Strategy, namespaced: bool, object: &Value) -> ErrorList {
    check(strategy, namespaced, object)
}

/// What is wrong with a changed object's metadata.
pub fn validate_update(
    strategy: &dyn Strategy,
    namespaced: bool,
    object: &Value,
    old: &Value,
) -> ErrorList {
    // Upstream checks the change once for all resources and once more in each of them; both show in the causes.
    let changed = || validate_object_meta_update(object, old, &Path::new("metadata"));
    let mut errors = changed();
    errors.extend(check(strategy, namespaced, object));
    errors.extend(changed());
    errors
}

/// Records who owns which fields. Without a manager managedFields stay as they are.
pub fn manage(
    served: &Served,
    old: Option<&Value>,
    object: &mut Value,
    manager: &str,
    subresource: &str,
    now: &str,
) {
    if manager.is_empty() {
        return;
    }
    let actor = actor(served, manager, subresource, now);
    patch::ssa::update(old, object, served.def.schema, &actor);
}

/// Who writes, as field ownership sees it.
pub fn actor<'a>(
    served: &'a Served,
    manager: &'a str,
    subresource: &'a str,
    now: &'a str,
) -> Actor<'a> {
    let has_status = served.def.subresources.iter().any(|s| s.name == "status");
    let reset: &[&[&str]] = match subresource {
        "" if has_status => &[&["status"]],
        "status" => &[&["spec"]],
        _ => &[],
    };
    Actor {
        manager,
        api_version: &served.api_version,
        kind: &served.def.kind,
        subresource,
        now,
        reset,
    }
}

/// Keeps the old managedFields where only their times differ, so that a write that changes nothing is seen as such.
pub fn keep_times(object: &mut Value, old: &Value) {
    fn entries(v: &Value) -> Option<&Vec<Value>> {
        v.pointer("/metadata/managedFields")?.as_array()
    }
    let same = |a: &Value, b: &Value| match (a.as_object(), b.as_object()) {
        (Some(a), Some(b)) => {
            let timeless =
                |m: &'_ Map<String, Value>| m.len() - usize::from(m.contains_key("time"));
            timeless(a) == timeless(b)
                && a.iter()
                    .filter(|(k, _)| *k != "time")
                    .all(|(k, v)| b.get(k) == Some(v))
        }
        _ => a == b,
    };
    let (Some(new), Some(was)) = (entries(object), entries(old)) else {
        return;
    };
    if new.len() == was.len() && new.iter().zip(was).all(|(a, b)| same(a, b)) {
        let was = Value::Array(was.clone());
        if let Some(m) = crate::codec::meta_mut(object) {
            m.insert("managedFields".into(), was);
        }
    }
}
