//! Reading and changing trees, and refusing.

use api::Status;
use serde_json::{Map, Value};

use crate::Attributes;

/// The text at a pointer, or nothing.
pub(crate) fn at<'a>(v: &'a Value, pointer: &str) -> &'a str {
    v.pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The list at a pointer, or an empty one.
pub(crate) fn list<'a>(v: &'a Value, pointer: &str) -> &'a [Value] {
    v.pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// What is at a pointer, unless it is absent, null, an empty list or an empty object: Go's zero values.
pub(crate) fn some<'a>(v: &'a Value, pointer: &str) -> Option<&'a Value> {
    v.pointer(pointer).filter(|v| match v {
        Value::Null => false,
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
        _ => true,
    })
}

/// Equal, where absent, null and empty are the same.
pub(crate) fn same(a: &Value, b: &Value, pointer: &str) -> bool {
    some(a, pointer) == some(b, pointer)
}

/// The object at a path of keys, made where it is missing. `None` where something else is in the way: the decoder refuses
/// such objects before admission.
pub(crate) fn object<'a>(v: &'a mut Value, keys: &[&str]) -> Option<&'a mut Map<String, Value>> {
    let mut cur = v;
    for k in keys {
        let next = cur.as_object_mut()?.entry(*k).or_insert(Value::Null);
        if next.is_null() {
            *next = Value::Object(Map::new());
        }
        cur = next;
    }
    cur.as_object_mut()
}

/// The list `key` of an object, made where it is missing.
pub(crate) fn array<'a>(o: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Vec<Value>> {
    let v = o.entry(key).or_insert(Value::Null);
    if v.is_null() {
        *v = Value::Array(Vec::new());
    }
    v.as_array_mut()
}

/// What a refusal names: the request's name, the object's name or its generateName.
pub(crate) fn name_of<'a>(a: &Attributes<'a>, object: Option<&'a Value>) -> &'a str {
    let Some(o) = object.filter(|_| a.name.is_empty()) else {
        return a.name;
    };
    match (at(o, "/metadata/name"), at(o, "/metadata/generateName")) {
        ("", "") => "Unknown",
        ("", base) => base,
        (name, _) => name,
    }
}

/// A 403 about the request's object, named as upstream names it.
pub(crate) fn forbidden(a: &Attributes<'_>, object: Option<&Value>, why: &str) -> Status {
    Status::forbidden(a.group, a.resource, name_of(a, object), why)
}

/// Whether the request is about this resource itself, not a subresource.
pub(crate) fn is(a: &Attributes<'_>, group: &str, resource: &str) -> bool {
    a.group == group && a.resource == resource && a.subresource.is_empty()
}

/// All containers of a pod with the words upstream uses for their kind (CVE-2023-2728: every kind is looked at).
pub(crate) fn containers(pod: &Value) -> impl Iterator<Item = (&'static str, &Value)> {
    [
        ("init container", "/spec/initContainers"),
        ("container", "/spec/containers"),
        ("ephemeral container", "/spec/ephemeralContainers"),
    ]
    .into_iter()
    .flat_map(move |(kind, p)| list(pod, p).iter().map(move |c| (kind, c)))
}

/// Whether a pod says it is a static pod's mirror.
pub(crate) fn is_mirror(pod: &Value) -> bool {
    pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror")
        .is_some()
}

/// The objects of a list whose annotation is `true`, the default one first: the newest, then by name.
pub(crate) fn default_of(classes: &[std::sync::Arc<Value>], annotation: &str) -> Option<String> {
    let pointer = format!("/metadata/annotations/{}", annotation.replace('/', "~1"));
    let mut all: Vec<_> = classes
        .iter()
        .filter(|c| at(c, &pointer) == "true")
        .map(|c| {
            (
                at(c, "/metadata/creationTimestamp").to_owned(),
                at(c, "/metadata/name").to_owned(),
            )
        })
        .collect();
    all.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    all.into_iter().next().map(|(_, n)| n)
}
