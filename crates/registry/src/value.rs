//! Reading and editing object trees: dotted paths, absent and `null` alike, no panics.
//!
//! Paths are split at dots, so keys that hold dots (labels, annotations) are read from [`Tree::map`]. A field that holds
//! another type than asked for reads as absent: the schema decoder has refused wrong types before.

use serde_json::{Map, Value};

static NULL: Value = Value::Null;

/// Typed access by path.
pub trait Tree {
    /// What lies at a path; `Null` where nothing does. The empty path is the value itself.
    fn at(&self, path: &str) -> &Value;
    /// The string at a path; empty where there is none.
    fn text(&self, path: &str) -> &str;
    /// The integer at a path; 0 where there is none.
    fn int(&self, path: &str) -> i64;
    /// The integer at a path, if any.
    fn int_opt(&self, path: &str) -> Option<i64>;
    /// The string at a path, if any.
    fn text_opt(&self, path: &str) -> Option<&str>;
    /// The boolean at a path; false where there is none.
    fn flag(&self, path: &str) -> bool;
    /// The boolean at a path, if any.
    fn flag_opt(&self, path: &str) -> Option<bool>;
    /// The elements of the list at a path; none where there is no list.
    fn list(&self, path: &str) -> &[Value];
    /// The map at a path; empty where there is none.
    fn map(&self, path: &str) -> &Map<String, Value>;
    /// Whether something other than `null` lies at a path.
    fn has(&self, path: &str) -> bool;
    /// Whether this is `null`, `""`, `[]` or `{}`.
    fn is_blank(&self) -> bool;
    /// The strings of the list at a path.
    fn texts(&self, path: &str) -> Vec<&str>;
    /// The name in metadata.
    fn name(&self) -> &str {
        self.text("metadata.name")
    }
    /// The namespace in metadata.
    fn namespace(&self) -> &str {
        self.text("metadata.namespace")
    }
    /// The value of an annotation.
    fn annotation(&self, key: &str) -> Option<&str>;
    /// The value of a label.
    fn label(&self, key: &str) -> Option<&str>;

    /// The place at a path, with objects made on the way.
    fn slot(&mut self, path: &str) -> &mut Value;
    /// The place at a path, if it exists and is not `null`.
    fn at_mut(&mut self, path: &str) -> Option<&mut Value>;
    /// Writes a value at a path.
    fn put(&mut self, path: &str, value: impl Into<Value>);
    /// Writes a value where nothing or `null` is: defaults of pointer fields.
    fn put_if_absent(&mut self, path: &str, value: impl Into<Value>);
    /// Writes a value where nothing, `null`, `""`, `0`, `[]` or `{}` is: defaults of value fields.
    fn put_if_zero(&mut self, path: &str, value: impl Into<Value>);
    /// Removes and returns what lies at a path.
    fn remove_at(&mut self, path: &str) -> Option<Value>;
    /// The elements of the list at a path, to edit.
    fn list_mut(&mut self, path: &str) -> &mut [Value];
    /// Copies what lies at a path in `other` to here, removing it where `other` has nothing.
    fn copy_at(&mut self, path: &str, other: &Value);
}

fn split(path: &str) -> impl Iterator<Item = &str> {
    path.split('.').filter(|s| !s.is_empty())
}

impl Tree for Value {
    fn at(&self, path: &str) -> &Value {
        let mut v = self;
        for key in split(path) {
            match v.get(key) {
                Some(next) => v = next,
                None => return &NULL,
            }
        }
        v
    }

    fn text(&self, path: &str) -> &str {
        self.at(path).as_str().unwrap_or_default()
    }

    fn int(&self, path: &str) -> i64 {
        self.int_opt(path).unwrap_or_default()
    }

    fn int_opt(&self, path: &str) -> Option<i64> {
        self.at(path).as_i64()
    }

    fn text_opt(&self, path: &str) -> Option<&str> {
        self.at(path).as_str()
    }

    fn flag(&self, path: &str) -> bool {
        self.flag_opt(path).unwrap_or_default()
    }

    fn flag_opt(&self, path: &str) -> Option<bool> {
        self.at(path).as_bool()
    }

    fn list(&self, path: &str) -> &[Value] {
        self.at(path)
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    fn map(&self, path: &str) -> &Map<String, Value> {
        static EMPTY: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
        self.at(path).as_object().unwrap_or(&EMPTY)
    }

    fn has(&self, path: &str) -> bool {
        !self.at(path).is_null()
    }

    fn is_blank(&self) -> bool {
        match self {
            Value::Null => true,
            Value::String(s) => s.is_empty(),
            Value::Array(a) => a.is_empty(),
            Value::Object(o) => o.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        }
    }

    fn texts(&self, path: &str) -> Vec<&str> {
        self.list(path).iter().filter_map(Value::as_str).collect()
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.map("metadata.annotations")
            .get(key)
            .and_then(Value::as_str)
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.map("metadata.labels").get(key).and_then(Value::as_str)
    }

    fn slot(&mut self, path: &str) -> &mut Value {
        let mut v = self;
        for key in split(path) {
            if !v.is_object() {
                *v = Value::Object(Map::new());
            }
            #[expect(clippy::expect_used, reason = "made an object just above")]
            let map = v.as_object_mut().expect("an object");
            v = map.entry(key).or_insert(Value::Null);
        }
        v
    }

    fn at_mut(&mut self, path: &str) -> Option<&mut Value> {
        let mut v = self;
        for key in split(path) {
            v = v.get_mut(key)?;
        }
        if v.is_null() { None } else { Some(v) }
    }

    fn put(&mut self, path: &str, value: impl Into<Value>) {
        *self.slot(path) = value.into();
    }

    fn put_if_absent(&mut self, path: &str, value: impl Into<Value>) {
        if !self.has(path) {
            self.put(path, value);
        }
    }

    fn put_if_zero(&mut self, path: &str, value: impl Into<Value>) {
        let now = self.at(path);
        if now.is_blank() || now.as_i64() == Some(0) {
            self.put(path, value);
        }
    }

    fn remove_at(&mut self, path: &str) -> Option<Value> {
        let (parent, key) = path.rsplit_once('.').unwrap_or(("", path));
        self.at_mut(parent)?.as_object_mut()?.remove(key)
    }

    fn list_mut(&mut self, path: &str) -> &mut [Value] {
        self.at_mut(path)
            .and_then(Value::as_array_mut)
            .map(Vec::as_mut_slice)
            .unwrap_or_default()
    }

    fn copy_at(&mut self, path: &str, other: &Value) {
        let v = other.at(path);
        if v.is_null() {
            self.remove_at(path);
        } else {
            self.put(path, v.clone());
        }
    }
}

/// Whether two trees mean the same: `null`, absent, `{}` and `[]` are alike, and so are zero scalars and absence where
/// upstream's types cannot tell them apart (`""`, `0`, `false` under a key).
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            x.iter().all(|(k, v)| same(v, y.get(k).unwrap_or(&NULL)))
                && y.iter().all(|(k, v)| x.contains_key(k) || same(&NULL, v))
        }
        (Value::Array(x), Value::Array(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|(a, b)| same(a, b))
        }
        (a, b) if a == b => true,
        (Value::Null, b) => zero(b),
        (a, Value::Null) => zero(a),
        _ => false,
    }
}

fn zero(v: &Value) -> bool {
    match v {
        Value::Object(m) => m.values().all(zero),
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_i64() == Some(0),
        other => other.is_blank(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_and_writes_by_path() {
        let mut v = json!({"spec": {"replicas": 2, "list": ["a"], "none": null}});
        assert_eq!(v.int("spec.replicas"), 2);
        assert_eq!(v.texts("spec.list"), ["a"]);
        assert!(!v.has("spec.none"));
        assert!(v.at("spec.replicas.deeper").is_null());
        v.put_if_absent("spec.none", 5);
        v.put_if_absent("spec.replicas", 5);
        v.put("status.phase", "x");
        assert_eq!(
            v,
            json!({"spec": {"replicas": 2, "list": ["a"], "none": 5}, "status": {"phase": "x"}})
        );
        assert_eq!(v.remove_at("status.phase"), Some(json!("x")));
        assert_eq!(v.remove_at("a.b"), None);
    }

    #[test]
    fn same_ignores_what_types_cannot_tell() {
        assert!(same(&json!({"a": []}), &json!({})));
        assert!(same(
            &json!({"a": false, "b": {"c": ""}}),
            &json!({"b": null})
        ));
        assert!(!same(&json!({"a": 1}), &json!({})));
        assert!(!same(&json!([1]), &json!([1, 2])));
    }
}
