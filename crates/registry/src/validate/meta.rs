//! Labels, annotations and selectors.

use serde_json::Value;

use super::{Errors, Path};
use crate::check::{each, label_value, qualified_name};
use crate::value::Tree;

/// A label key, condition type, taint key or topology key.
pub fn label_name(e: &mut Errors, path: &Path, value: &str) {
    each(e, path, value, qualified_name(value));
}

/// A map of labels.
pub fn labels(e: &mut Errors, path: &Path, labels: &Value) {
    for (k, v) in labels.map("") {
        label_name(e, path, k);
        let v = v.as_str().unwrap_or_default();
        each(e, path, v, label_value(v));
    }
}

/// The largest sum of annotation keys and values, in bytes.
pub const ANNOTATIONS_LIMIT: usize = 256 * 1024;

/// A map of annotations: keys are qualified names without regard to case, all together at most 256 KiB.
pub fn annotations(e: &mut Errors, path: &Path, annotations: &Value) {
    let mut size = 0;
    for (k, v) in annotations.map("") {
        for m in qualified_name(&k.to_lowercase()) {
            e.invalid(path, k.as_str(), &m);
        }
        size += k.len() + v.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_LIMIT {
        e.too_long(path, ANNOTATIONS_LIMIT);
    }
}

/// A `metav1.LabelSelector`; absent is fine.
pub fn selector(e: &mut Errors, path: &Path, selector: &Value) {
    if selector.is_null() {
        return;
    }
    labels(e, &path.child("matchLabels"), selector.at("matchLabels"));
    for (i, r) in selector.list("matchExpressions").iter().enumerate() {
        requirement(e, &path.child("matchExpressions").index(i), r);
    }
}

fn requirement(e: &mut Errors, path: &Path, r: &Value) {
    let values = r.texts("values");
    match r.text("operator") {
        "In" | "NotIn" => {
            if values.is_empty() {
                e.required(
                    &path.child("values"),
                    "must be specified when `operator` is 'In' or 'NotIn'",
                );
            }
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                e.forbidden(
                    &path.child("values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                );
            }
        }
        other => e.invalid(
            &path.child("operator"),
            other,
            "not a valid selector operator",
        ),
    }
    label_name(e, &path.child("key"), r.text("key"));
    for (i, v) in values.iter().enumerate() {
        each(e, &path.child("values").index(i), v, label_value(v));
    }
}

/// Whether a selector has neither labels nor expressions.
pub fn selector_is_empty(selector: &Value) -> bool {
    selector.map("matchLabels").is_empty() && selector.list("matchExpressions").is_empty()
}

/// Whether a label selector matches a map of labels. An absent selector matches nothing, an empty one everything.
pub fn selector_matches(selector: &Value, labels: &Value) -> bool {
    if selector.is_null() {
        return false;
    }
    let labels = labels.map("");
    let get = |k: &str| labels.get(k).and_then(Value::as_str);
    selector
        .map("matchLabels")
        .iter()
        .all(|(k, v)| get(k) == v.as_str())
        && selector.list("matchExpressions").iter().all(|r| {
            let has = get(r.text("key"));
            let listed = || has.is_some_and(|v| r.texts("values").contains(&v));
            match r.text("operator") {
                "In" => listed(),
                "NotIn" => !listed(),
                "Exists" => has.is_some(),
                "DoesNotExist" => has.is_none(),
                _ => false,
            }
        })
}

/// The metadata of a pod or volume claim template: labels and annotations, nothing else that the kind forbids.
pub fn template_meta(e: &mut Errors, path: &Path, meta: &Value) {
    annotations(e, &path.child("annotations"), meta.at("annotations"));
    labels(e, &path.child("labels"), meta.at("labels"));
    for key in [
        "name",
        "generateName",
        "namespace",
        "selfLink",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "ownerReferences",
        "finalizers",
        "managedFields",
    ] {
        let v = meta.at(key);
        if !v.is_blank() && v.as_i64() != Some(0) {
            let shown = if key == "uid" { "uID" } else { key };
            e.forbidden(&path.child(shown), "cannot be set");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors() {
        let l = json!({"a": "b", "c": "d"});
        assert!(selector_matches(&json!({}), &l));
        assert!(!selector_matches(&Value::Null, &l));
        assert!(selector_matches(&json!({"matchLabels": {"a": "b"}}), &l));
        assert!(!selector_matches(&json!({"matchLabels": {"a": "x"}}), &l));
        let m = |op: &str, key: &str, values: &[&str]| {
            selector_matches(
                &json!({"matchExpressions": [{"key": key, "operator": op, "values": values}]}),
                &l,
            )
        };
        assert!(m("In", "a", &["x", "b"]) && !m("In", "z", &["x"]));
        assert!(m("NotIn", "z", &["x"]) && !m("NotIn", "a", &["b"]));
        assert!(
            m("Exists", "a", &[]) && m("DoesNotExist", "z", &[]) && !m("DoesNotExist", "a", &[])
        );
    }
}
