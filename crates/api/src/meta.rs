//! Object metadata on trees: access, and validation as upstream's `apimachinery/pkg/api/validation/objectmeta.go`.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::field::{ErrorList, Path};
use crate::selector::validate_label;
use crate::validate::{self, NameFn};

/// Most bytes of annotations, keys and values together: 256 KiB.
pub const ANNOTATIONS_MAX: usize = 256 * 1024;

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object
        .get("metadata")
        .and_then(|m| m.get(key))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// `metadata.name`, empty if absent.
pub fn name(object: &Value) -> &str {
    text(object, "name")
}

/// `metadata.namespace`, empty if absent.
pub fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

/// `metadata.uid`, empty if absent.
pub fn uid(object: &Value) -> &str {
    text(object, "uid")
}

/// `metadata.resourceVersion`, empty if absent.
pub fn resource_version(object: &Value) -> &str {
    text(object, "resourceVersion")
}

/// `metadata.generateName`, empty if absent.
pub fn generate_name(object: &Value) -> &str {
    text(object, "generateName")
}

/// `metadata.deletionTimestamp`
pub fn deletion_timestamp(object: &Value) -> Option<&str> {
    Some(text(object, "deletionTimestamp")).filter(|s| !s.is_empty())
}

/// `metadata.generation`, 0 if absent.
pub fn generation(object: &Value) -> i64 {
    object
        .get("metadata")
        .and_then(|m| m.get("generation"))
        .and_then(Value::as_i64)
        .unwrap_or(0)
}

/// One label.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get("metadata")?.get("labels")?.get(key)?.as_str()
}

/// One annotation.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object
        .get("metadata")?
        .get("annotations")?
        .get(key)?
        .as_str()
}

/// `metadata.labels`
pub fn labels(object: &Value) -> Option<&Map<String, Value>> {
    object.get("metadata")?.get("labels")?.as_object()
}

/// `metadata.finalizers`
pub fn finalizers(object: &Value) -> Vec<&str> {
    strings(object.get("metadata").and_then(|m| m.get("finalizers")))
}

/// `metadata.ownerReferences`
pub fn owner_references(object: &Value) -> &[Value] {
    object
        .get("metadata")
        .and_then(|m| m.get("ownerReferences"))
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The owner reference whose `controller` is true.
pub fn controller(object: &Value) -> Option<&Value> {
    owner_references(object)
        .iter()
        .find(|r| r.get("controller").and_then(Value::as_bool) == Some(true))
}

/// `metadata`, made if absent. `None` only if the object is no object or its metadata is something else.
pub fn metadata_mut(object: &mut Value) -> Option<&mut Map<String, Value>> {
    object
        .as_object_mut()?
        .entry("metadata")
        .or_insert_with(|| Value::Object(Map::new()))
        .as_object_mut()
}

/// Sets a text field of the metadata; an empty text removes it.
pub fn set(object: &mut Value, key: &str, value: &str) {
    if let Some(m) = metadata_mut(object) {
        if value.is_empty() {
            m.remove(key);
        } else {
            m.insert(key.to_owned(), Value::String(value.to_owned()));
        }
    }
}

/// The strings of a list.
fn strings(value: Option<&Value>) -> Vec<&str> {
    value
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// The group and version of an `apiVersion`: `("apps", "v1")`, `("", "v1")`.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

fn validate_labels(meta: &Value, path: &Path, errors: &mut ErrorList) {
    for (k, v) in meta
        .get("labels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        validate_label(k, v.as_str().unwrap_or_default(), path, errors);
    }
}

/// The checks of annotations, which other places than metadata have too (pod templates).
pub fn validate_annotations(annotations: Option<&Value>, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut size = 0;
    for (k, v) in annotations.and_then(Value::as_object).into_iter().flatten() {
        for message in validate::qualified_name(&k.to_lowercase()) {
            errors.invalid(path, k.as_str(), &message);
        }
        size += k.len() + v.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_MAX {
        errors.too_long(path, ANNOTATIONS_MAX);
    }
    errors
}

/// An owner reference in the order of its fields.
fn shown_owner(r: &Value) -> String {
    let parts: Vec<String> = [
        "apiVersion",
        "kind",
        "name",
        "uid",
        "controller",
        "blockOwnerDeletion",
    ]
    .iter()
    .filter_map(|k| Some(format!("\"{k}\":{}", r.get(k)?)))
    .collect();
    format!("{{{}}}", parts.join(","))
}

fn shown_owners(all: Option<&Value>) -> String {
    let list = all.and_then(Value::as_array);
    let shown: Vec<String> = list.into_iter().flatten().map(shown_owner).collect();
    format!("[{}]", shown.join(","))
}

fn validate_owner_references(meta: &Value, path: &Path, errors: &mut ErrorList) {
    let mut controller: Option<String> = None;
    let all = meta.get("ownerReferences");
    for r in all.and_then(Value::as_array).into_iter().flatten() {
        if errors.full() {
            return;
        }
        let get = |key: &str| r.get(key).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind, name) = (get("apiVersion"), get("kind"), get("name"));
        let (group, version) = split_api_version(api_version);
        // Upstream reads a text of several slashes as no version at all.
        if version.is_empty() || version.contains('/') {
            errors.invalid(
                &path.child("apiVersion"),
                api_version,
                "version must not be empty",
            );
        }
        for (key, value) in [("kind", kind), ("name", name), ("uid", get("uid"))] {
            if value.is_empty() {
                errors.invalid(&path.child(key), value, "must not be empty");
            }
        }
        if (group, version, kind) == ("", "v1", "Event") {
            errors.invalid_shown(
                path,
                &shown_owner(r),
                "/v1, Kind=Event is disallowed from being an owner",
            );
        }
        if r.get("controller").and_then(Value::as_bool) == Some(true) {
            let this = format!("{kind}/{name}");
            match &controller {
                Some(first) => errors.invalid_shown(
                    path,
                    &shown_owners(all),
                    &format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                    ),
                ),
                None => controller = Some(this),
            }
        }
    }
}

fn validate_finalizers(meta: &Value, path: &Path, errors: &mut ErrorList) {
    let all = strings(meta.get("finalizers"));
    for f in &all {
        for message in validate::qualified_name(f) {
            errors.invalid(path, *f, &message);
        }
    }
    if all.contains(&"orphan") && all.contains(&"foregroundDeletion") {
        errors.invalid(
            path,
            Value::from(all),
            "finalizer orphan and foregroundDeletion cannot be both set",
        );
    }
}

fn validate_managed_fields(meta: &Value, path: &Path, errors: &mut ErrorList) {
    for (i, entry) in meta
        .get("managedFields")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .enumerate()
    {
        let at = path.index(i);
        let get = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
        let operation = get("operation");
        if operation != "Apply" && operation != "Update" {
            errors.invalid(
                &at.child("operation"),
                operation,
                "must be `Apply` or `Update`",
            );
        }
        let fields_type = get("fieldsType");
        if !fields_type.is_empty() && fields_type != "FieldsV1" {
            errors.invalid(&at.child("fieldsType"), fields_type, "must be `FieldsV1`");
        }
        errors.extend(validate_field_manager(get("manager"), &at.child("manager")));
        if get("subresource").len() > 256 {
            errors.too_long(&at.child("subresource"), 256);
        }
    }
}

/// Bytes of a field manager's name, at most.
pub const FIELD_MANAGER_MAX: usize = 128;

/// The checks of a field manager's name; empty is valid.
pub fn validate_field_manager(manager: &str, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if manager.len() > FIELD_MANAGER_MAX {
        errors.too_long(path, FIELD_MANAGER_MAX);
    }
    for (i, c) in manager.char_indices() {
        if errors.full() {
            break;
        }
        if c.is_control() || (c.is_whitespace() && c != ' ') {
            errors.invalid(
                path,
                manager,
                &format!("invalid character U+{:04X} (at position {i})", c as u32),
            );
        }
    }
    errors
}

/// Everything wrong with an object's metadata (`object.metadata`) as a new object has it. `path` is usually `metadata`.
pub fn validate_object_meta(
    object: &Value,
    namespaced: bool,
    name_fn: NameFn,
    path: &Path,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let null = Value::Null;
    let meta = object.get("metadata").unwrap_or(&null);
    let get = |key: &str| meta.get(key).and_then(Value::as_str).unwrap_or_default();
    let generate = get("generateName");
    if !generate.is_empty() {
        for message in name_fn(generate, true) {
            errors.invalid(&path.child("generateName"), generate, &message);
        }
    }
    let name = get("name");
    if name.is_empty() {
        errors.required(&path.child("name"), "name or generateName is required");
    } else {
        for message in name_fn(name, false) {
            errors.invalid(&path.child("name"), name, &message);
        }
    }
    let namespace = get("namespace");
    if namespaced {
        if namespace.is_empty() {
            errors.required(&path.child("namespace"), "");
        } else {
            for message in validate::dns1123_label(namespace) {
                errors.invalid(&path.child("namespace"), namespace, &message);
            }
        }
    } else if !namespace.is_empty() {
        errors.forbidden(&path.child("namespace"), "not allowed on this type");
    }
    if generation(object) < 0 {
        errors.invalid(
            &path.child("generation"),
            generation(object),
            "must be greater than or equal to 0",
        );
    }
    validate_labels(meta, &path.child("labels"), &mut errors);
    errors.extend(validate_annotations(
        meta.get("annotations"),
        &path.child("annotations"),
    ));
    validate_owner_references(meta, &path.child("ownerReferences"), &mut errors);
    validate_finalizers(meta, &path.child("finalizers"), &mut errors);
    validate_managed_fields(meta, &path.child("managedFields"), &mut errors);
    errors
}

/// Everything wrong with a change of metadata.
pub fn validate_object_meta_update(object: &Value, old: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let null = Value::Null;
    let meta = object.get("metadata").unwrap_or(&null);
    let old_meta = old.get("metadata").unwrap_or(&null);
    if deletion_timestamp(old).is_some() {
        let before: BTreeSet<&str> = strings(old_meta.get("finalizers")).into_iter().collect();
        let after: BTreeSet<&str> = strings(meta.get("finalizers")).into_iter().collect();
        let extra: Vec<String> = after
            .difference(&before)
            .map(|f| crate::text::go_quote(f))
            .collect();
        if !extra.is_empty() {
            errors.forbidden(
                &path.child("finalizers"),
                &format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    extra.join(", ")
                ),
            );
        }
    }
    if resource_version(object).is_empty() {
        errors.invalid(
            &path.child("resourceVersion"),
            "",
            "must be specified for an update",
        );
    }
    if generation(object) < generation(old) {
        errors.invalid(
            &path.child("generation"),
            generation(object),
            "must not be decremented",
        );
    }
    for key in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        let clean = |m: &Value| {
            m.get(key)
                .filter(|v| !v.is_null() && v.as_str() != Some(""))
                .cloned()
        };
        let (new, was) = (clean(meta), clean(old_meta));
        if new != was {
            let text_field = !matches!(key, "deletionGracePeriodSeconds");
            let shown = new.unwrap_or(if text_field {
                Value::String(String::new())
            } else {
                Value::Null
            });
            errors.invalid(&path.child(key), shown, "field is immutable");
        }
    }
    validate_labels(meta, &path.child("labels"), &mut errors);
    errors.extend(validate_annotations(
        meta.get("annotations"),
        &path.child("annotations"),
    ));
    validate_owner_references(meta, &path.child("ownerReferences"), &mut errors);
    validate_managed_fields(meta, &path.child("managedFields"), &mut errors);
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn new_objects() {
        let path = Path::new("metadata");
        let check = |v: Value, namespaced| {
            validate_object_meta(&v, namespaced, validate::name_is_dns_subdomain, &path).aggregate()
        };
        assert_eq!(
            check(json!({"metadata": {"name": "a", "namespace": "b"}}), true),
            "[]"
        );
        assert_eq!(
            check(json!({}), false),
            "metadata.name: Required value: name or generateName is required"
        );
        assert_eq!(
            check(json!({"metadata": {"name": "a", "namespace": "b"}}), false),
            "metadata.namespace: Forbidden: not allowed on this type"
        );
        assert_eq!(
            check(
                json!({"metadata": {"name": "a", "annotations": {"k": "v".repeat(256 * 1024)}}}),
                false
            ),
            "metadata.annotations: Too long: may not be more than 262144 bytes"
        );
        assert_eq!(
            check(
                json!({"metadata": {"name": "a", "finalizers": ["orphan", "foregroundDeletion"]}}),
                false
            ),
            "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and foregroundDeletion cannot be both set"
        );
        assert_eq!(
            check(
                json!({"metadata": {"name": "a", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]}}),
                false
            ),
            "metadata.ownerReferences.uid: Invalid value: \"\": must not be empty"
        );
    }

    #[test]
    fn changes() {
        let path = Path::new("metadata");
        let old = json!({"metadata": {"name": "a", "uid": "1", "generation": 2, "deletionTimestamp": "2020-01-01T00:00:00Z"}});
        let mut new = old.clone();
        new["metadata"]["resourceVersion"] = json!("5");
        assert!(validate_object_meta_update(&new, &old, &path).is_empty());
        new["metadata"]["uid"] = json!("2");
        new["metadata"]["generation"] = json!(1);
        new["metadata"]["finalizers"] = json!(["x/y"]);
        assert_eq!(
            validate_object_meta_update(&new, &old, &path).aggregate(),
            "[metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"x/y\"}, metadata.generation: Invalid value: 1: must not be decremented, metadata.uid: Invalid value: \"2\": field is immutable]"
        );
    }
}
