//! What every object has in common: defaults of its schema, validation of its metadata, and its field managers.

use api::field::{ErrorList, Path};
use api::meta::{validate_object_meta, validate_object_meta_update};
use api::validate::{NameFn, name_is_dns_subdomain, path_segment_name, path_segment_prefix};
use patch::ssa::Actor;
use serde_json::{Map, Value};
use wire::schema::Message;

use crate::core::Served;
use crate::resource::ResourceDef;

/// Applies the schema's default markers.
pub fn apply_defaults(schema: &'static Message, object: &mut Value) {
    api::defaults::apply(object, schema);
}

/// Finalizers without a domain. Source: upstream's `pkg/apis/core/helper`.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

fn any_name(_: &str, _: bool) -> Vec<String> {
    Vec::new()
}

fn finalizers(errors: &mut ErrorList, object: &Value) {
    let path = Path::new("metadata").child("finalizers");
    let list = object
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array);
    for (i, f) in list
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .enumerate()
    {
        if !f.contains('/') && !STANDARD_FINALIZERS.contains(&f) {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(&path.index(i), f, why);
        }
    }
}

/// What a kind's own validation says about metadata.
fn own(def: &ResourceDef, object: &Value) -> ErrorList {
    let strategy = &*def.strategy;
    let path = Path::new("metadata");
    let mut errors = ErrorList::new();
    let named = strategy.validate_name("x", false).is_some();
    if named {
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
    let rule: NameFn = if named {
        any_name
    } else {
        name_is_dns_subdomain
    };
    errors.extend(validate_object_meta(object, def.namespaced, rule, &path));
    if def.meta.finalizers {
        finalizers(&mut errors, object);
    }
    errors
}

/// What every kind's metadata has to satisfy: a name that can be a segment of a path, and all but the name.
fn common(def: &ResourceDef, object: &Value) -> ErrorList {
    let rule: NameFn = |name, prefix| {
        if prefix {
            path_segment_prefix(name)
        } else {
            path_segment_name(name)
        }
    };
    validate_object_meta(object, def.namespaced, rule, &Path::new("metadata"))
}

/// What is wrong with a new object's metadata.
pub fn validate(def: &ResourceDef, object: &Value) -> ErrorList {
    if def.meta.on_create {
        own(def, object)
    } else {
        common(def, object)
    }
}

/// What is wrong with a changed object's metadata. Each check that upstream makes tells its errors, the same error
/// maybe several times.
pub fn validate_update(def: &ResourceDef, object: &Value, old: &Value) -> ErrorList {
    let path = Path::new("metadata");
    let mut errors = common(def, object);
    errors.extend(validate_object_meta_update(object, old, &path));
    for _ in 0..def.meta.updates {
        errors.extend(validate_object_meta_update(object, old, &path));
        if def.meta.finalizers {
            finalizers(&mut errors, object);
        }
    }
    for _ in 0..def.meta.full {
        errors.extend(own(def, object));
    }
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
