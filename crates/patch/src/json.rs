//! RFC 6902 with upstream's limits. As upstream's library: negative array indices count from the end, a `test` of a
//! missing member against null passes, and the root itself cannot be the target.

use serde_json::Value;

use crate::{PatchError, kind};

/// Most operations in one patch.
pub const MAX_OPERATIONS: usize = 10_000;

/// Most bytes that `copy` operations of one patch may add.
const MAX_COPY: usize = 3 * 1024 * 1024;

fn refuse<T>(message: String) -> Result<T, PatchError> {
    Err(PatchError::Unprocessable(message))
}

fn operations(patch: &[u8]) -> Result<Vec<Value>, PatchError> {
    let bad = |m: String| PatchError::BadRequest(format!("error decoding patch: {m}"));
    let value = wire::json::parse(patch).map_err(|e| bad(e.to_string()))?;
    if value.is_null() {
        return Ok(Vec::new());
    }
    let Value::Array(operations) = value else {
        return Err(bad(format!(
            "json: cannot unmarshal {} into Go value of type []handlers.jsonPatchOp",
            kind(&value)
        )));
    };
    for op in &operations {
        match op {
            Value::Object(members) => {
                for key in ["op", "path", "from"] {
                    if let Some(v) = members.get(key).filter(|v| !v.is_string() && !v.is_null()) {
                        return Err(bad(format!(
                            "json: cannot unmarshal {} into Go struct field jsonPatchOp.{key} of type string",
                            kind(v)
                        )));
                    }
                }
            }
            Value::Null => {}
            other => {
                return Err(bad(format!(
                    "json: cannot unmarshal {} into Go value of type handlers.jsonPatchOp",
                    kind(other)
                )));
            }
        }
    }
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    Ok(operations)
}

pub(crate) fn strict_errors(patch: &[u8]) -> Vec<String> {
    let Ok((value, duplicates)) = wire::json::parse_strict(patch) else {
        return Vec::new();
    };
    let mut out: Vec<String> = duplicates
        .into_iter()
        .map(|d| format!("json patch {d}"))
        .collect();
    for (i, op) in value.as_array().into_iter().flatten().enumerate() {
        for key in op.as_object().into_iter().flat_map(|m| m.keys()) {
            if !matches!(key.as_str(), "op" | "path" | "from" | "value") {
                out.push(format!("json patch unknown field \"[{i}].{key}\""));
            }
        }
    }
    // In the order of the operations.
    out.sort_by_key(|text| {
        text.split_once('[')
            .and_then(|(_, rest)| rest.split_once(']'))
            .and_then(|(i, _)| i.parse::<usize>().ok())
    });
    out
}

pub(crate) fn apply(doc: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let mut doc = doc.clone();
    let mut copied = 0;
    for op in operations(patch)? {
        let text = |key: &str| op.get(key).and_then(Value::as_str);
        let name = text("op").unwrap_or("unknown");
        let path = |key: &str| -> Result<&str, PatchError> {
            match text(key) {
                Some(p) => Ok(p),
                None => refuse(format!(
                    "{name} operation failed to decode {key}: missing value"
                )),
            }
        };
        let value = || op.get("value").cloned();
        match name {
            "add" => {
                let path = path("path")?;
                add(&mut doc, path, value().unwrap_or(Value::Null))?;
            }
            "remove" => {
                remove(&mut doc, path("path")?, name)?;
            }
            "replace" => {
                let path = path("path")?;
                let new = value().unwrap_or(Value::Null);
                if path.is_empty() && (new.is_object() || new.is_array()) {
                    doc = new;
                    continue;
                }
                match slot(&mut doc, path) {
                    Some(slot) => *slot = new,
                    None => {
                        return refuse(format!(
                            "replace operation does not apply: doc is missing key: {path}: missing value"
                        ));
                    }
                }
            }
            "move" => {
                let taken = remove(&mut doc, path("from")?, name)?;
                add(&mut doc, path("path")?, taken)?;
            }
            "copy" => {
                let from = path("from")?;
                let missing = Value::Null;
                let Some(found) =
                    find(&doc, from).or_else(|| member(&doc, from).map(|()| &missing))
                else {
                    return refuse(format!(
                        "copy operation does not apply: doc is missing from path: {from}: missing value"
                    ));
                };
                copied += size(found);
                if copied > MAX_COPY {
                    return refuse(format!(
                        "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPY}"
                    ));
                }
                let value = found.clone();
                add(&mut doc, path("path")?, value)?;
            }
            "test" => {
                let path = path("path")?;
                let wanted = op.get("value").unwrap_or(&Value::Null);
                let ok = match find(&doc, path) {
                    Some(found) => equal(found, wanted),
                    None => wanted.is_null(),
                };
                if !ok {
                    return refuse(format!("testing value {path} failed: test failed"));
                }
            }
            other => return refuse(format!("Unexpected kind: {other}")),
        }
    }
    Ok(doc)
}

/// Equality of JSON values; numbers by value.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        (Value::Array(x), Value::Array(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|(a, b)| equal(a, b))
        }
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(k, a)| y.get(k).is_some_and(|b| equal(a, b)))
        }
        _ => a == b,
    }
}

/// Roughly the length of the value as JSON.
fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 4,
        Value::Number(_) => 8,
        Value::String(s) => s.len() + 2,
        Value::Array(a) => a.iter().map(|v| size(v) + 1).sum::<usize>() + 2,
        Value::Object(o) => o.iter().map(|(k, v)| k.len() + size(v) + 4).sum::<usize>() + 2,
    }
}

/// The parent's tokens and the last token of a pointer, whose first is whatever stands before the first slash; `None`
/// for the root.
fn split(path: &str) -> Option<(Vec<String>, String)> {
    let mut tokens: Vec<String> = path
        .split('/')
        .skip(1)
        .map(|t| t.replace("~1", "/").replace("~0", "~"))
        .collect();
    let last = tokens.pop()?;
    Some((tokens, last))
}

/// The position a token means in a list of `len` elements that exist.
fn position(token: &str, len: usize) -> Option<usize> {
    let i: i64 = token.parse().ok()?;
    let at = if i < 0 {
        i.checked_add(i64::try_from(len).ok()?)?
    } else {
        i
    };
    usize::try_from(at).ok().filter(|at| *at < len)
}

fn step<'a>(value: &'a Value, token: &str) -> Option<&'a Value> {
    match value {
        Value::Object(map) => map.get(token),
        Value::Array(items) => items.get(position(token, items.len())?),
        _ => None,
    }
}

fn step_mut<'a>(value: &'a mut Value, token: &str) -> Option<&'a mut Value> {
    match value {
        Value::Object(map) => map.get_mut(token),
        Value::Array(items) => {
            let at = position(token, items.len())?;
            items.get_mut(at)
        }
        _ => None,
    }
}

fn find<'a>(doc: &'a Value, path: &str) -> Option<&'a Value> {
    let (parents, last) = split(path)?;
    let parent = parents.iter().try_fold(doc, |v, t| step(v, t))?;
    step(parent, &last)
}

/// Whether the pointer leads into an object, which need not have the member: upstream's library reads it as null.
fn member(doc: &Value, path: &str) -> Option<()> {
    let (parents, _) = split(path)?;
    let parent = parents.iter().try_fold(doc, |v, t| step(v, t))?;
    parent.is_object().then_some(())
}

/// The place of a value that need not be there yet if its parent is an object.
fn slot<'a>(doc: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    let (parents, last) = split(path)?;
    match parents.iter().try_fold(doc, |v, t| step_mut(v, t))? {
        Value::Object(map) => Some(map.entry(last).or_insert(Value::Null)),
        parent => step_mut(parent, &last),
    }
}

fn add(doc: &mut Value, path: &str, value: Value) -> Result<(), PatchError> {
    let missing =
        || format!("add operation does not apply: doc is missing path: {path:?}: missing value");
    let Some((parents, last)) = split(path) else {
        return refuse(missing());
    };
    let Some(parent) = parents.iter().try_fold(doc, |v, t| step_mut(v, t)) else {
        return refuse(missing());
    };
    match parent {
        Value::Object(map) => {
            map.insert(last, value);
            Ok(())
        }
        Value::Array(items) => {
            let at = if last == "-" {
                Some(items.len())
            } else {
                position(&last, items.len() + 1)
            };
            match at {
                Some(at) => {
                    items.insert(at, value);
                    Ok(())
                }
                None => refuse(format!(
                    "add operation does not apply: Unable to access invalid index: {last}: invalid index referenced"
                )),
            }
        }
        _ => refuse(missing()),
    }
}

fn remove(doc: &mut Value, path: &str, operation: &str) -> Result<Value, PatchError> {
    let missing = || {
        format!("{operation} operation does not apply: doc is missing path: {path}: missing value")
    };
    let Some((parents, last)) = split(path) else {
        return refuse(missing());
    };
    let Some(parent) = parents.iter().try_fold(doc, |v, t| step_mut(v, t)) else {
        return refuse(missing());
    };
    let taken = match parent {
        Value::Object(map) => map.remove(&last),
        Value::Array(items) => position(&last, items.len()).map(|at| items.remove(at)),
        _ => None,
    };
    match taken {
        Some(v) => Ok(v),
        None => refuse(format!(
            "{operation} operation does not apply: Unable to remove nonexistent key: {last}: missing value"
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(doc: Value, patch: Value) -> Result<Value, PatchError> {
        apply(&doc, patch.to_string().as_bytes())
    }

    #[test]
    fn operations_apply_in_order() {
        for (doc, patch, want) in [
            (
                json!({"a": 1}),
                json!([{"op": "add", "path": "/b", "value": [1]}]),
                json!({"a": 1, "b": [1]}),
            ),
            (
                json!({"a": [1, 3]}),
                json!([{"op": "add", "path": "/a/1", "value": 2}]),
                json!({"a": [1, 2, 3]}),
            ),
            (
                json!({"a": [1]}),
                json!([{"op": "add", "path": "/a/-", "value": 2}]),
                json!({"a": [1, 2]}),
            ),
            (
                json!({"a": [1, 2]}),
                json!([{"op": "add", "path": "/a/2", "value": 3}]),
                json!({"a": [1, 2, 3]}),
            ),
            (
                json!({"a": [1, 2]}),
                json!([{"op": "add", "path": "/a/-1", "value": 3}]),
                json!({"a": [1, 2, 3]}),
            ),
            (
                json!({"a": [1, 2]}),
                json!([{"op": "remove", "path": "/a/-1"}]),
                json!({"a": [1]}),
            ),
            (
                json!({"a": {"b/c~": 1}}),
                json!([{"op": "replace", "path": "/a/b~1c~0", "value": 2}]),
                json!({"a": {"b/c~": 2}}),
            ),
            (
                json!({"a": 1}),
                json!([{"op": "move", "from": "/a", "path": "/b"}]),
                json!({"b": 1}),
            ),
            (
                json!({"a": {"x": 1}}),
                json!([{"op": "copy", "from": "/a", "path": "/b"}]),
                json!({"a": {"x": 1}, "b": {"x": 1}}),
            ),
            (
                json!({"a": 1}),
                json!([{"op": "test", "path": "/a", "value": 1.0}, {"op": "remove", "path": "/a"}]),
                json!({}),
            ),
            (
                json!({}),
                json!([{"op": "test", "path": "/a", "value": null}]),
                json!({}),
            ),
        ] {
            assert_eq!(
                run(doc.clone(), patch.clone()).unwrap(),
                want,
                "{doc} {patch}"
            );
        }
    }

    #[test]
    fn members_need_not_be_there() {
        // As upstream's library: a member that is missing is null.
        for (patch, want) in [
            (
                json!([{"op": "replace", "path": "/x", "value": 1}]),
                json!({"a": [1], "x": 1}),
            ),
            (
                json!([{"op": "copy", "from": "/x", "path": "/b"}]),
                json!({"a": [1], "b": null}),
            ),
            (
                json!([{"op": "add", "path": "a/x", "value": 1}]),
                json!({"a": [1], "x": 1}),
            ),
            (
                json!([{"op": "replace", "path": "", "value": {}}]),
                json!({}),
            ),
            (json!(null), json!({"a": [1]})),
        ] {
            assert_eq!(run(json!({"a": [1]}), patch.clone()), Ok(want), "{patch}");
        }
    }

    #[test]
    fn what_does_not_apply_is_refused() {
        for patch in [
            json!([{"op": "replace", "path": "/x/y", "value": 1}]),
            json!([{"op": "replace", "path": "/a/9", "value": 1}]),
            json!([{"op": "remove", "path": "/x"}]),
            json!([{"op": "add", "path": "/x/y", "value": 1}]),
            json!([{"op": "add", "path": "/a/9", "value": 1}]),
            json!([{"op": "test", "path": "/a", "value": 2}]),
            json!([{"op": "frob", "path": "/a"}]),
            json!([{"op": "add", "path": "", "value": {}}]),
            json!([{"op": "copy", "from": "/x/y", "path": "/b"}]),
        ] {
            let e = run(json!({"a": [1]}), patch.clone()).unwrap_err();
            assert!(matches!(e, PatchError::Unprocessable(_)), "{patch}: {e}");
        }
    }

    #[test]
    fn limits() {
        let many: Vec<Value> = (0..=MAX_OPERATIONS)
            .map(|_| json!({"op": "add", "path": "/a", "value": 1}))
            .collect();
        assert_eq!(
            run(json!({}), Value::Array(many)).unwrap_err(),
            PatchError::TooLarge(
                "The allowed maximum operations in a JSON patch is 10000, got 10001".into()
            )
        );
        // Doubling a list by copying it into itself.
        let double: Vec<Value> = (0..60)
            .map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"}))
            .collect();
        let e = run(json!({"a": ["0123456789"]}), Value::Array(double)).unwrap_err();
        assert!(
            e.to_string().starts_with("Unable to complete the copy"),
            "{e}"
        );
        assert!(matches!(
            run(json!({}), json!({})),
            Err(PatchError::BadRequest(_))
        ));
    }

    #[test]
    fn strict() {
        assert_eq!(
            strict_errors(br#"[{"op":"add","path":"/a","value":1,"x":1,"op":"add"}]"#),
            [
                "json patch duplicate field \"[0].op\"",
                "json patch unknown field \"[0].x\""
            ]
        );
    }
}
