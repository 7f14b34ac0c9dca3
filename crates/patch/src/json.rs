//! RFC 6902 with upstream's limits. As upstream's library: negative array indices count from the end, a `test` of a
//! missing member against null passes, and the root itself cannot be the target.

use serde_json::Value;
use wire::json::{MAX_DEPTH, MAX_STRICT, extent};

use crate::{PatchError, kind};

/// Most operations in one patch.
pub const MAX_OPERATIONS: usize = 10_000;

/// Most bytes that `copy` operations of one patch may add.
const MAX_COPY: usize = 3 * 1024 * 1024;

/// Most elements that the operations of one patch may shift within lists, and values they may look at again in what they
/// move. Upstream has no such limit.
const MAX_WORK: usize = 50_000_000;

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
    let operations = value.as_array().into_iter().flatten().enumerate();
    let members = operations.flat_map(|(i, op)| {
        let keys = op.as_object().into_iter().flat_map(|m| m.keys());
        keys.map(move |key| (i, key))
    });
    let unknown = members
        .filter(|(_, key)| !matches!(key.as_str(), "op" | "path" | "from" | "value"))
        .map(|(i, key)| format!("json patch unknown field \"[{i}].{key}\""));
    out.extend(unknown.take(MAX_STRICT));
    // In the order of the operations.
    out.sort_by_key(|text| {
        text.split_once('[')
            .and_then(|(_, rest)| rest.split_once(']'))
            .and_then(|(i, _)| i.parse::<usize>().ok())
    });
    out.truncate(MAX_STRICT);
    out
}

/// A document that operations change, within the limits of a body: what they make of it nests no deeper than
/// [`MAX_DEPTH`], so that it can be printed, compared and dropped like any other.
struct Document {
    root: Value,
    /// No less than how deep the root nests.
    depth: u32,
    copied: usize,
    worked: usize,
}

pub(crate) fn apply(doc: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let mut doc = Document {
        root: doc.clone(),
        depth: extent(doc).1,
        copied: 0,
        worked: 0,
    };
    for op in operations(patch)? {
        doc.run(op)?;
    }
    Ok(doc.root)
}

impl Document {
    fn run(&mut self, mut op: Value) -> Result<(), PatchError> {
        let value = op.get_mut("value").map(Value::take);
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
        match name {
            "add" => {
                let value = value.unwrap_or(Value::Null);
                let depth = extent(&value).1;
                self.add(path("path")?, value, depth)?;
            }
            "remove" => {
                self.remove(path("path")?, name)?;
            }
            "replace" => {
                let path = path("path")?;
                let new = value.unwrap_or(Value::Null);
                let depth = extent(&new).1;
                if path.is_empty() && (new.is_object() || new.is_array()) {
                    self.depth = depth;
                    self.root = new;
                    return Ok(());
                }
                self.admit(path, depth)?;
                match slot(&mut self.root, path) {
                    Some(slot) => *slot = new,
                    None => {
                        return refuse(format!(
                            "replace operation does not apply: doc is missing key: {path}: missing value"
                        ));
                    }
                }
            }
            "move" => {
                let (from, to) = (path("from")?, path("path")?);
                let taken = self.remove(from, name)?;
                let mut depth = self.depth.saturating_sub(levels(from));
                if levels(to) + depth > MAX_DEPTH {
                    let (bytes, exact) = extent(&taken);
                    self.work(bytes)?;
                    depth = exact;
                }
                self.add(to, taken, depth)?;
            }
            "copy" => {
                let from = path("from")?;
                let missing = Value::Null;
                let root = &self.root;
                let Some(found) =
                    find(root, from).or_else(|| member(root, from).map(|()| &missing))
                else {
                    return refuse(format!(
                        "copy operation does not apply: doc is missing from path: {from}: missing value"
                    ));
                };
                let (bytes, depth) = extent(found);
                self.copied += bytes;
                if self.copied > MAX_COPY {
                    return refuse(format!(
                        "Unable to complete the copy, the accumulated size increase of copy is {}, exceeding the limit {MAX_COPY}",
                        self.copied
                    ));
                }
                let value = found.clone();
                self.add(path("path")?, value, depth)?;
            }
            "test" => {
                let path = path("path")?;
                let wanted = value.unwrap_or(Value::Null);
                let ok = match find(&self.root, path) {
                    Some(found) => equal(found, &wanted),
                    None => wanted.is_null(),
                };
                if !ok {
                    return refuse(format!("testing value {path} failed: test failed"));
                }
            }
            other => return refuse(format!("Unexpected kind: {other}")),
        }
        Ok(())
    }

    /// Refuses a value that would nest too deep at a place.
    fn admit(&mut self, path: &str, depth: u32) -> Result<(), PatchError> {
        let depth = levels(path).saturating_add(depth);
        if depth > MAX_DEPTH {
            return refuse("exceeded max depth".to_owned());
        }
        self.depth = self.depth.max(depth);
        Ok(())
    }

    fn work(&mut self, units: usize) -> Result<(), PatchError> {
        self.worked += units;
        if self.worked > MAX_WORK {
            return Err(PatchError::TooLarge(
                "The operations of the JSON patch cost too much".to_owned(),
            ));
        }
        Ok(())
    }

    /// `depth` is no less than how deep the value nests.
    fn add(&mut self, path: &str, value: Value, depth: u32) -> Result<(), PatchError> {
        self.admit(path, depth)?;
        let shifted = add(&mut self.root, path, value)?;
        self.work(shifted)
    }

    fn remove(&mut self, path: &str, operation: &str) -> Result<Value, PatchError> {
        let (taken, shifted) = remove(&mut self.root, path, operation)?;
        self.work(shifted)?;
        Ok(taken)
    }
}

/// How many levels lie above the place a pointer leads to.
fn levels(path: &str) -> u32 {
    let slashes = path.bytes().filter(|b| *b == b'/').count();
    u32::try_from(slashes).unwrap_or(u32::MAX)
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

/// Returns how many elements of a list moved.
fn add(doc: &mut Value, path: &str, value: Value) -> Result<usize, PatchError> {
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
            Ok(0)
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
                    Ok(items.len() - at)
                }
                None => refuse(format!(
                    "add operation does not apply: Unable to access invalid index: {last}: invalid index referenced"
                )),
            }
        }
        _ => refuse(missing()),
    }
}

/// Returns what was there, and how many elements of a list moved.
fn remove(doc: &mut Value, path: &str, operation: &str) -> Result<(Value, usize), PatchError> {
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
        Value::Object(map) => map.remove(&last).map(|taken| (taken, 0)),
        Value::Array(items) => {
            position(&last, items.len()).map(|at| (items.remove(at), items.len() - at))
        }
        _ => None,
    };
    match taken {
        Some(taken) => Ok(taken),
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

    /// Runs on a thread whose stack is enough for [`MAX_DEPTH`] levels.
    fn with_stack<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
        let thread = std::thread::Builder::new().stack_size(64 << 20);
        thread.spawn(f).unwrap().join().unwrap()
    }

    #[test]
    fn results_nest_no_deeper_than_bodies() {
        with_stack(|| {
            let deep = format!("{}{{}}{}", "{\"a\":".repeat(6_000), "}".repeat(6_000));
            let copies = format!(
                r#"[{{"op":"add","path":"/a","value":{deep}}},{{"op":"copy","from":"/a","path":"/a{}"}}]"#,
                "/a".repeat(6_000)
            );
            // Three levels more around the whole, again and again.
            let mut moves = vec![json!({"op": "add", "path": "/a", "value": {}})];
            while moves.len() + 3 <= MAX_OPERATIONS {
                moves.push(json!({"op": "add", "path": "/b", "value": {"c": {"c": {"c": {}}}}}));
                moves.push(json!({"op": "move", "from": "/a", "path": "/b/c/c/c/a"}));
                moves.push(json!({"op": "move", "from": "/b", "path": "/a"}));
            }
            for patch in [copies, Value::Array(moves).to_string()] {
                assert_eq!(
                    apply(&json!({}), patch.as_bytes()),
                    Err(PatchError::Unprocessable("exceeded max depth".into()))
                );
            }
            // Up to the limit they apply.
            let inner = format!("{}{}", "[".repeat(9_990), "]".repeat(9_990));
            let patch = |path: &str| {
                format!(
                    r#"[{{"op":"add","path":"/a","value":{{"b":{{"c":{{}}}}}}}},{{"op":"add","path":"/x","value":{inner}}},{{"op":"move","from":"/x","path":"{path}"}}]"#
                )
            };
            assert!(apply(&json!({}), patch("/a/b/c/d").as_bytes()).is_ok());
            let far =
                json!({"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"i": {"j": {}}}}}}}}}}});
            let patch = format!(
                r#"[{{"op":"add","path":"/x","value":{inner}}},{{"op":"move","from":"/x","path":"/a/b/c/d/e/f/g/h/i/j/k"}}]"#
            );
            assert!(apply(&far, patch.as_bytes()).is_err());
        });
    }

    #[test]
    fn shifting_long_lists_again_and_again_is_refused() {
        let zeros = format!("[{}0]", "0,".repeat(99_999));
        let mut patch = format!(r#"[{{"op":"add","path":"/a","value":{zeros}}}"#);
        for _ in 0..1000 {
            patch.push_str(r#",{"op":"add","path":"/a/0","value":0}"#);
        }
        patch.push(']');
        assert!(matches!(
            apply(&json!({}), patch.as_bytes()),
            Err(PatchError::TooLarge(_))
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
        let many: Vec<String> = (0..1000).map(|i| format!("\"x{i}\":1")).collect();
        let patch = format!(r#"[{{"op":"add","path":"/a",{}}}]"#, many.join(","));
        assert_eq!(strict_errors(patch.as_bytes()).len(), MAX_STRICT);
    }
}
