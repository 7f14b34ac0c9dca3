//! Strategic merge patch: lists merge by the merge keys of the schema.
//!
//! Source: upstream's `apimachinery/pkg/util/strategicpatch`. Keys are visited in sorted order, so of several errors the
//! one reported is always the same.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;

use serde_json::{Map, Value};
use wire::json::extent;
use wire::schema::{Field, Message, Type, flag};

use crate::PatchError;

const DIRECTIVE: &str = "$patch";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList";
const SET_ORDER: &str = "$setElementOrder";
const RETAIN_KEYS: &str = "$retainKeys";

const BAD_PRIMITIVE_LIST: &str = "invalid patch format of primitive list";
const BAD_RETAIN_KEYS: &str = "invalid patch format of retainKeys";
const BAD_SET_ORDER: &str = "invalid patch format of setElementOrder list";

/// Deepest nesting of a patch; the parser's limit is lower.
const MAX_DEPTH: u32 = 1000;

/// How much may be looked at and copied of the lists that a patch goes through, in units of an element and of 16 bytes. A
/// patch may name one element, and with it the lists below, over and over. Upstream has no such limit.
const MAX_WORK: usize = 3_000_000;

type Object = Map<String, Value>;

/// What of [`MAX_WORK`] is left.
struct Work(usize);

impl Work {
    fn spend(&mut self, units: usize) -> Result<(), PatchError> {
        match self.0.checked_sub(units) {
            Some(left) => {
                self.0 = left;
                Ok(())
            }
            None => Err(PatchError::TooLarge(
                "the lists that the patch merges cost too much".to_owned(),
            )),
        }
    }

    fn spend_on(&mut self, list: &[Value]) -> Result<(), PatchError> {
        for element in list {
            self.spend(1 + extent(element).0 / 16)?;
        }
        Ok(())
    }
}

pub(crate) fn apply(doc: &Value, patch: &[u8], msg: &'static Message) -> Result<Value, PatchError> {
    let patch = wire::json::parse(patch).map_err(|e| PatchError::BadRequest(e.to_string()))?;
    if patch.is_null() {
        return Ok(doc.clone());
    }
    let Value::Object(patch) = patch else {
        return Err(PatchError::BadRequest(format!(
            "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            crate::kind(&patch)
        )));
    };
    let Value::Object(doc) = doc else {
        return Err(PatchError::BadRequest("invalid JSON document".to_owned()));
    };
    let mut work = Work(MAX_WORK);
    merge_map(doc.clone(), patch, Schema::Message(msg), 0, &mut work).map(Value::Object)
}

fn bad(text: &str) -> PatchError {
    PatchError::BadRequest(text.to_owned())
}

fn internal<T>(text: String) -> Result<T, PatchError> {
    Err(PatchError::Internal(text))
}

/// A value as Go's `%s` prints it.
fn show_string(value: &Value) -> String {
    let what = match value {
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::Null => return "%!s(<nil>)".to_owned(),
        other => return show(other),
    };
    format!("%!s({what}={})", show(value))
}

/// A value as Go's `%v` prints it.
pub(crate) fn show(value: &Value) -> String {
    fn write(value: &Value, out: &mut String) {
        match value {
            Value::Null => out.push_str("<nil>"),
            Value::Bool(b) => {
                let _ = write!(out, "{b}");
            }
            Value::Number(n) => {
                let _ = write!(out, "{n}");
            }
            Value::String(s) => out.push_str(s),
            Value::Array(items) => {
                out.push('[');
                for (i, v) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(' ');
                    }
                    write(v, out);
                }
                out.push(']');
            }
            Value::Object(map) => {
                out.push_str("map[");
                for (i, (k, v)) in map.iter().enumerate() {
                    if i > 0 {
                        out.push(' ');
                    }
                    out.push_str(k);
                    out.push(':');
                    write(v, out);
                }
                out.push(']');
            }
        }
    }
    let mut out = String::new();
    write(value, &mut out);
    out
}

fn no_merge_key<T>(element: &Value, key: &str) -> Result<T, PatchError> {
    internal(format!(
        "map: {} does not contain declared merge key: {key}",
        show(element)
    ))
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn bad_type<T>(expected: &str, actual: &Value) -> Result<T, PatchError> {
    internal(format!(
        "expected a {expected}, but received a {}",
        go_type(actual)
    ))
}

/// What is known of the fields of a map.
#[derive(Clone, Copy)]
enum Schema {
    Message(&'static Message),
    /// A map with values of one type.
    Map(Type),
    /// Nothing: maps merge, lists are replaced.
    Free,
}

/// What is known of one field.
#[derive(Clone, Copy)]
struct Meta {
    inner: Schema,
    merge: bool,
    replace: bool,
    key: &'static str,
}

fn inner(ty: &Type) -> Schema {
    match ty {
        Type::Message(m)
        | Type::SchemaOrArray(m)
        | Type::SchemaOrBool(m)
        | Type::SchemaOrStrings(m) => Schema::Message(m),
        Type::List(t) | Type::WrappedList(t) => inner(t),
        Type::Map(t) => Schema::Map(**t),
        _ => Schema::Free,
    }
}

fn of_field(field: &Field) -> Meta {
    Meta {
        inner: inner(&field.ty),
        merge: field.is(flag::PATCH_MERGE),
        replace: field.is(flag::PATCH_REPLACE),
        key: field.merge_key,
    }
}

impl Schema {
    fn field(self, key: &str) -> Result<Meta, PatchError> {
        match self {
            Schema::Message(m) => match m.field(key) {
                Some(f) => Ok(of_field(f)),
                None => internal(format!(
                    "unable to find api field in struct {} for the json field {key:?}",
                    m.name
                )),
            },
            Schema::Map(ty) => Ok(Meta {
                inner: inner(&ty),
                merge: false,
                replace: false,
                key: "",
            }),
            Schema::Free => Ok(Meta {
                inner: Schema::Free,
                merge: false,
                replace: false,
                key: "",
            }),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Schema::Message(m) => m.name,
            _ => "",
        }
    }
}

fn merge_map(
    mut original: Object,
    mut patch: Object,
    schema: Schema,
    depth: u32,
    work: &mut Work,
) -> Result<Object, PatchError> {
    if depth > MAX_DEPTH {
        return Err(bad("exceeded max depth"));
    }
    if let Some(directive) = patch.get(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => {
                patch.remove(DIRECTIVE);
                Ok(patch)
            }
            Some("delete") => Ok(Object::new()),
            _ => {
                let directive = show_string(directive);
                internal(format!(
                    "unknown patch type: {directive} in map: {}",
                    show(&Value::Object(patch))
                ))
            }
        };
    }
    retain_keys(&mut original, &mut patch, work)?;
    merge_ordered(&mut original, &mut patch, schema, depth, work)?;
    for (key, value) in patch {
        let (key, deletes) = if key.starts_with(DELETE_PRIMITIVES) {
            (
                strip(&key, DELETE_PRIMITIVES)
                    .ok_or_else(|| bad(BAD_PRIMITIVE_LIST))?
                    .to_owned(),
                true,
            )
        } else {
            (key, false)
        };
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let merged = match original.remove(&key) {
            None if deletes => None,
            None => take(value),
            Some(Value::Object(was)) => match value {
                Value::Object(new) => {
                    let meta = schema.field(&key)?;
                    Some(Value::Object(if meta.replace {
                        new
                    } else {
                        merge_map(was, new, meta.inner, depth + 1, work)?
                    }))
                }
                _ if deletes => Some(Value::Object(was)),
                other => take(other),
            },
            Some(Value::Array(was)) => match value {
                Value::Array(new) => {
                    let meta = schema.field(&key)?;
                    Some(Value::Array(merge_list_field(
                        was, new, meta, deletes, depth, work,
                    )?))
                }
                _ if deletes => Some(Value::Array(was)),
                other => take(other),
            },
            Some(was) if deletes && go_type(&was) != go_type(&value) => Some(was),
            Some(_) => take(value),
        };
        if let Some(merged) = merged {
            original.insert(key, merged);
        }
    }
    Ok(original)
}

/// What follows `prefix/`.
fn strip<'a>(key: &'a str, prefix: &str) -> Option<&'a str> {
    key.strip_prefix(prefix)?.strip_prefix('/')
}

/// A value of the patch that is new: without nulls and without what carries a directive.
fn take(mut value: Value) -> Option<Value> {
    discard_nulls(&mut value);
    remove_directives(value)
}

fn discard_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(discard_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(discard_nulls),
        _ => {}
    }
}

fn remove_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) => {
            if map.contains_key(DIRECTIVE) {
                return None;
            }
            Some(Value::Object(
                map.into_iter()
                    .filter_map(|(k, v)| remove_directives(v).map(|v| (k, v)))
                    .collect(),
            ))
        }
        Value::Array(items) => Some(Value::Array(
            items.into_iter().filter_map(remove_directives).collect(),
        )),
        other => Some(other),
    }
}

fn retain_keys(
    original: &mut Object,
    patch: &mut Object,
    work: &mut Work,
) -> Result<(), PatchError> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    work.spend(original.len())?;
    let Value::Array(keys) = keys else {
        return Err(bad(BAD_RETAIN_KEYS));
    };
    let keys: HashSet<&str> = keys.iter().filter_map(Value::as_str).collect();
    let retained = |k: &str| keys.contains(k);
    for (k, v) in patch.iter() {
        if !v.is_null()
            && !k.starts_with(DELETE_PRIMITIVES)
            && !k.starts_with(SET_ORDER)
            && !retained(k)
        {
            return Err(bad(BAD_RETAIN_KEYS));
        }
    }
    original.retain(|k, _| retained(k));
    Ok(())
}

/// Lists that come with an order: they are merged here and leave the patch.
fn merge_ordered(
    original: &mut Object,
    patch: &mut Object,
    schema: Schema,
    depth: u32,
    work: &mut Work,
) -> Result<(), PatchError> {
    let ordered: Vec<String> = patch
        .keys()
        .filter(|k| k.starts_with(SET_ORDER))
        .cloned()
        .collect();
    for key in ordered {
        let Some(order) = patch.remove(&key) else {
            continue;
        };
        let Value::Array(order) = order else {
            return bad_type("[]interface {}", &order);
        };
        let name = strip(&key, SET_ORDER).ok_or_else(|| bad(BAD_SET_ORDER))?;
        let list = |v: Option<&Value>| -> Result<Option<Vec<Value>>, PatchError> {
            match v {
                None => Ok(None),
                Some(Value::Array(items)) => Ok(Some(items.clone())),
                Some(other) => bad_type("[]interface {}", other),
            }
        };
        let was = list(original.get(name))?;
        let new = list(patch.get(name))?;
        for list in [was.as_deref(), new.as_deref(), Some(&order)] {
            work.spend_on(list.unwrap_or_default())?;
        }
        let meta = schema.field(name)?;
        check_order(new.as_deref().unwrap_or_default(), &order, meta.key)?;
        let merged = match (&was, &new) {
            (None, None) => continue,
            (Some(was), None) => was.clone(),
            (None, Some(new)) => new.iter().cloned().filter_map(remove_directives).collect(),
            (Some(was), Some(new)) => {
                merge_list_field(was.clone(), new.clone(), meta, false, depth, work)?
            }
        };
        let was = was.unwrap_or_default();
        let (in_patch, server_only) = partition(merged, &order, meta.key)?;
        let maps = element_type(&[&was, new.as_deref().unwrap_or_default()])? == Elements::Maps;
        let both = normalize(in_patch, server_only, &order, &was, meta.key, maps)?;
        original.insert(name.to_owned(), Value::Array(both));
        patch.remove(name);
    }
    Ok(())
}

fn is_directive(value: &Value) -> bool {
    value.as_object().is_some_and(|m| m.contains_key(DIRECTIVE))
}

/// Whether two elements are the same by merge key, or by value without one.
fn same(a: &Value, b: &Value, key: &str) -> Result<bool, PatchError> {
    if key.is_empty() {
        return Ok(a == b);
    }
    for v in [a, b] {
        match v {
            Value::Object(m) if m.contains_key(key) => {}
            Value::Object(_) => return no_merge_key(v, key),
            _ => return bad_type("map[string]interface {}", v),
        }
    }
    Ok(a.get(key) == b.get(key))
}

/// The elements of a patch list must stand in the order given.
fn check_order(patch: &[Value], order: &[Value], key: &str) -> Result<(), PatchError> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let kept: Vec<&Value> = patch
        .iter()
        .filter(|v| key.is_empty() || v.get(DIRECTIVE).and_then(Value::as_str) != Some("delete"))
        .collect();
    let (mut i, mut j) = (0, 0);
    while let (Some(p), Some(o)) = (kept.get(i), order.get(j)) {
        if is_directive(p) {
            i += 1;
            continue;
        }
        if same(p, o, key)? {
            i += 1;
        }
        j += 1;
    }
    if i < kept.len() && j >= order.len() {
        return internal(format!(
            "The order in patch list:\n{}\n doesn't match {SET_ORDER} list:\n{}\n",
            show(&Value::Array(patch.to_vec())),
            show(&Value::Array(order.to_vec()))
        ));
    }
    Ok(())
}

fn merge_list_field(
    was: Vec<Value>,
    new: Vec<Value>,
    meta: Meta,
    deletes: bool,
    depth: u32,
    work: &mut Work,
) -> Result<Vec<Value>, PatchError> {
    if meta.merge || deletes {
        merge_list(was, new, meta, deletes, depth, work)
    } else {
        Ok(new)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Elements {
    Maps,
    Scalars,
}

fn element_type(lists: &[&[Value]]) -> Result<Elements, PatchError> {
    let mut first: Option<&Value> = None;
    for v in lists.iter().flat_map(|l| l.iter()) {
        match first {
            None if v.is_array() => {
                return Err(PatchError::Unprocessable(
                    "lists of lists are not supported".to_owned(),
                ));
            }
            None => first = Some(v),
            Some(f) if go_type(f) == go_type(v) => {}
            Some(_) => {
                let all = lists.iter().map(|l| Value::Array(l.to_vec())).collect();
                return internal(format!(
                    "list element types are not identical: {}",
                    show(&Value::Array(all))
                ));
            }
        }
    }
    match first {
        Some(Value::Object(_)) => Ok(Elements::Maps),
        Some(_) => Ok(Elements::Scalars),
        None => internal("no elements in any of the given slices".to_owned()),
    }
}

fn merge_list(
    was: Vec<Value>,
    new: Vec<Value>,
    meta: Meta,
    deletes: bool,
    depth: u32,
    work: &mut Work,
) -> Result<Vec<Value>, PatchError> {
    if was.is_empty() && new.is_empty() {
        return Ok(was);
    }
    work.spend_on(&was)?;
    work.spend_on(&new)?;
    if element_type(&[&was, &new])? == Elements::Scalars {
        if deletes {
            let gone: HashSet<String> = new.iter().map(id).collect();
            return Ok(was.into_iter().filter(|v| !gone.contains(&id(v))).collect());
        }
        let mut merged: Vec<Value> = Vec::with_capacity(was.len() + new.len());
        let mut seen = HashSet::new();
        for v in was.iter().chain(&new) {
            if seen.insert(id(v)) {
                merged.push(v.clone());
            }
        }
        let (in_patch, server_only) = partition(merged, &new, "")?;
        return normalize(in_patch, server_only, &new, &was, "", false);
    }
    if meta.key.is_empty() {
        return internal(format!(
            "cannot merge lists without merge key for {}",
            meta.inner.name()
        ));
    }
    let (was, new) = special_elements(was, new, meta.key)?;
    let mut merged = was.clone();
    let mut places = Places::of(&merged, meta.key, true);
    for element in &new {
        let Some(wanted) = element.get(meta.key) else {
            return no_merge_key(element, meta.key);
        };
        let at = *places.0.entry(id(wanted)).or_insert(merged.len());
        match (merged.get_mut(at), element) {
            (Some(slot), Value::Object(element)) => {
                if let Value::Object(was) = slot.take() {
                    *slot = Value::Object(merge_map(
                        was,
                        element.clone(),
                        meta.inner,
                        depth + 1,
                        work,
                    )?);
                }
            }
            (None, element) => merged.push(element.clone()),
            (Some(_), other) => return bad_type("map[string]interface {}", other),
        }
    }
    let (in_patch, server_only) = partition(merged, &new, meta.key)?;
    normalize(in_patch, server_only, &new, &was, meta.key, true)
}

/// Carries out the directives among the elements of a patch list.
fn special_elements(
    mut was: Vec<Value>,
    new: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut plain = Vec::with_capacity(new.len());
    let mut replace = false;
    let mut gone = HashSet::new();
    for element in new {
        let Some(directive) = element.get(DIRECTIVE) else {
            plain.push(element);
            continue;
        };
        match directive.as_str() {
            Some("delete") => match element.get(key) {
                Some(wanted) => {
                    gone.insert(id(wanted));
                }
                None => return no_merge_key(&element, key),
            },
            Some("replace") => replace = true,
            Some("merge") => {
                return internal("merging lists cannot yet be specified in the patch".to_owned());
            }
            _ => {
                return internal(format!(
                    "unknown patch type: {} in map: {}",
                    show_string(directive),
                    show(&element)
                ));
            }
        }
    }
    if !gone.is_empty() {
        was.retain(|v| v.get(key).is_none_or(|k| !gone.contains(&id(k))));
    }
    Ok(if replace {
        (plain, Vec::new())
    } else {
        (was, plain)
    })
}

/// Splits into what `by` has and what it has not.
fn partition(
    items: Vec<Value>,
    by: &[Value],
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    let places = Places::of(by, key, !key.is_empty());
    let no_map = by.iter().position(|v| !v.is_object());
    for item in items {
        let found = if key.is_empty() {
            places.find(&item, key, false).is_some()
        } else {
            match &item {
                Value::Object(m) if m.contains_key(key) => {}
                Value::Object(_) => return no_merge_key(&item, key),
                _ => return bad_type("map[string]interface {}", &item),
            }
            let at = places.find(&item, key, true);
            // Upstream looks at one element after the other, and each must be a map.
            if let Some(i) = no_map.filter(|i| at.is_none_or(|at| at > *i)) {
                return internal(format!("value for key {i} is not a map"));
            }
            at.is_some()
        };
        if found {
            inside.push(item)
        } else {
            outside.push(item)
        }
    }
    Ok((inside, outside))
}

/// A value as text: equal values have equal texts.
fn id(value: &Value) -> String {
    value.to_string()
}

/// Where the first element of each merge key is, or of each value where the elements are no maps.
struct Places(HashMap<String, usize>);

impl Places {
    fn of(list: &[Value], key: &str, maps: bool) -> Places {
        let mut places = HashMap::with_capacity(list.len());
        for (i, v) in list.iter().enumerate() {
            if let Some(v) = if maps { v.get(key) } else { Some(v) } {
                places.entry(id(v)).or_insert(i);
            }
        }
        Places(places)
    }

    fn find(&self, item: &Value, key: &str, maps: bool) -> Option<usize> {
        let wanted = if maps { item.get(key)? } else { item };
        self.0.get(&id(wanted)).copied()
    }
}

/// The elements of the patch in the patch's order and those of the server in the server's, merged so that the server's
/// order decides where both know the elements.
fn normalize(
    patch: Vec<Value>,
    server: Vec<Value>,
    patch_order: &[Value],
    server_order: &[Value],
    key: &str,
    maps: bool,
) -> Result<Vec<Value>, PatchError> {
    let sort = |mut items: Vec<Value>, order: &[Value]| -> Result<Vec<Value>, PatchError> {
        if maps {
            for v in items.iter().chain(order) {
                match v {
                    Value::Object(m) if m.contains_key(key) => {}
                    Value::Object(_) => {
                        return internal(format!(
                            "cannot find merge key `{key}` in merging list element:{}",
                            show(v)
                        ));
                    }
                    _ => {
                        return internal(format!(
                            "invalid element type in merging list:{}",
                            show(v)
                        ));
                    }
                }
            }
        }
        let places = Places::of(order, key, maps);
        items.sort_by_cached_key(|v| {
            let deleted = maps && v.get(DIRECTIVE).and_then(Value::as_str) == Some("delete");
            (deleted, places.find(v, key, maps).unwrap_or(usize::MAX))
        });
        Ok(items)
    };
    let patch = sort(patch, patch_order)?;
    let server = sort(server, server_order)?;
    let mut out = Vec::with_capacity(patch.len() + server.len());
    let places = Places::of(server_order, key, maps);
    let mut left = server.into_iter().peekable();
    let mut right = patch.into_iter().peekable();
    while let (Some(l), Some(r)) = (left.peek(), right.peek()) {
        let first = match (places.find(l, key, maps), places.find(r, key, maps)) {
            (Some(li), Some(ri)) => li < ri,
            _ => false,
        };
        out.extend(if first { left.next() } else { right.next() });
    }
    out.extend(left);
    out.extend(right);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> &'static Message {
        api::schema::message("v1", "Pod").unwrap()
    }

    fn run(doc: Value, patch: Value) -> Result<Value, PatchError> {
        apply(&doc, patch.to_string().as_bytes(), pod())
    }

    #[test]
    fn elements_without_their_key_are_refused_wherever_they_stand() {
        let named = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        let nameless = json!({"spec": {"containers": [{"image": "i"}]}});
        let patch = |order: Value, list: Value| json!({"spec": {"$setElementOrder/containers": order, "containers": list}});
        let a = json!([{"name": "a"}]);
        for (doc, patch) in [
            (&named, patch(json!([{"x": 1}]), json!([]))),
            (&named, patch(a.clone(), json!([{"image": "i"}]))),
            (&nameless, patch(a.clone(), a.clone())),
            (&nameless, patch(a.clone(), json!([]))),
        ] {
            let told = run(doc.clone(), patch.clone()).unwrap_err().to_string();
            assert!(told.contains("merge key"), "{patch}: {told}");
        }
    }

    fn names(v: &Value, path: &str) -> Vec<String> {
        v.pointer(path)
            .unwrap()
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn lists_merge_by_key() {
        let doc = json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]}});
        let got = run(
            doc.clone(),
            json!({"spec": {"containers": [{"name": "b", "image": "3"}, {"name": "c"}]}}),
        )
        .unwrap();
        assert_eq!(
            got,
            json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "3"}, {"name": "c"}]}})
        );
        let got = run(
            doc.clone(),
            json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}),
        )
        .unwrap();
        assert_eq!(
            got,
            json!({"spec": {"containers": [{"name": "b", "image": "2"}]}})
        );
        let got = run(
            doc.clone(),
            json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "z", "image": "9"}]}}),
        )
        .unwrap();
        assert_eq!(
            got,
            json!({"spec": {"containers": [{"name": "z", "image": "9"}]}})
        );
    }

    #[test]
    fn maps_and_nulls() {
        let doc = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"nodeName": "n"}});
        let got = run(
            doc.clone(),
            json!({"metadata": {"labels": {"a": null, "c": "3", "d": null}}, "spec": {"nodeName": null}}),
        );
        assert_eq!(
            got.unwrap(),
            json!({"metadata": {"labels": {"b": "2", "c": "3"}}, "spec": {}})
        );
        let got = run(
            doc.clone(),
            json!({"metadata": {"labels": {"$patch": "replace", "z": "1"}}}),
        )
        .unwrap();
        assert_eq!(got["metadata"]["labels"], json!({"z": "1"}));
        let got = run(doc, json!({"metadata": {"labels": {"$patch": "delete"}}})).unwrap();
        assert_eq!(got["metadata"]["labels"], json!({}));
    }

    #[test]
    fn primitive_lists() {
        let doc = json!({"metadata": {"finalizers": ["a/1", "a/2", "a/3"]}});
        let got = run(
            doc.clone(),
            json!({"metadata": {"finalizers": ["a/4", "a/1"]}}),
        )
        .unwrap();
        assert_eq!(
            got["metadata"]["finalizers"],
            json!(["a/4", "a/1", "a/2", "a/3"])
        );
        let got = run(
            doc.clone(),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a/2"]}}),
        )
        .unwrap();
        assert_eq!(got["metadata"]["finalizers"], json!(["a/1", "a/3"]));
        let got = run(
            doc,
            json!({"metadata": {"$setElementOrder/finalizers": ["a/3", "a/5", "a/1"], "finalizers": ["a/5"]}}),
        )
        .unwrap();
        assert_eq!(
            got["metadata"]["finalizers"],
            json!(["a/2", "a/3", "a/5", "a/1"])
        );
    }

    #[test]
    fn element_order() {
        let doc = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}});
        let patch = json!({"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}], "containers": [{"name": "a", "image": "x"}]}});
        let got = run(doc.clone(), patch).unwrap();
        assert_eq!(names(&got, "/spec/containers"), ["b", "c", "a"]);
        assert_eq!(got.pointer("/spec/containers/2/image"), Some(&json!("x")));
        let bad = json!({"spec": {"$setElementOrder/containers": [{"name": "c"}], "containers": [{"name": "a"}]}});
        assert_eq!(
            run(doc, bad).unwrap_err().to_string(),
            "The order in patch list:\n[map[name:a]]\n doesn't match $setElementOrder list:\n[map[name:c]]\n"
        );
    }

    #[test]
    fn retained_keys() {
        let doc = json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
        let patch = json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]}});
        assert_eq!(
            run(doc.clone(), patch).unwrap(),
            json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}})
        );
        let patch = json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name"], "hostPath": {"path": "/"}}]}});
        assert_eq!(
            run(doc, patch).unwrap_err(),
            PatchError::BadRequest(BAD_RETAIN_KEYS.into())
        );
    }

    #[test]
    fn lists_without_strategy_are_replaced() {
        let doc = json!({"spec": {"containers": [{"name": "a", "args": ["1", "2"]}]}});
        let got = run(
            doc,
            json!({"spec": {"containers": [{"name": "a", "args": ["3"]}]}}),
        )
        .unwrap();
        assert_eq!(got.pointer("/spec/containers/0/args"), Some(&json!(["3"])));
    }

    #[test]
    fn errors_as_upstream() {
        for (patch, error) in [
            (
                json!({"metadata": {"$patch": "bogus"}}),
                "unknown patch type: bogus in map: map[$patch:bogus]",
            ),
            (
                json!({"spec": {"containers": [{"image": "x"}]}}),
                "map: map[image:x] does not contain declared merge key: name",
            ),
            (
                json!({"spec": {"containers": ["x"]}}),
                "list element types are not identical: [[map[name:a]] [x]]",
            ),
        ] {
            let doc = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}});
            assert_eq!(
                run(doc, patch).unwrap_err(),
                PatchError::Internal(error.into())
            );
        }
    }

    /// Nothing quadratic: a patch that names one element over and over merges the lists below it each time.
    #[test]
    fn an_element_named_over_and_over_costs_too_much() {
        let doc = json!({"spec": {"containers": [{"name": "a", "args": ["x".repeat(100_000)]}]}});
        let many = |n: usize, element: &dyn Fn(usize) -> Value| {
            let elements: Vec<Value> = (0..n).map(element).collect();
            run(doc.clone(), json!({"spec": {"containers": elements}}))
        };
        let env = |i: usize| json!({"name": format!("e{i}"), "value": "x".repeat(2_000)});
        let growing = |i: usize| json!({"name": "a", "env": [env(i)]});
        let ordered = |i: usize| json!({"name": "a", "env": [env(i)], "$setElementOrder/env": [{"name": format!("e{i}")}]});
        let taken = |_| json!({"name": "a", "$deleteFromPrimitiveList/args": ["y"]});
        for element in [&growing as &dyn Fn(usize) -> Value, &ordered, &taken] {
            assert!(many(20, element).is_ok());
            let error = many(600, element).unwrap_err();
            assert!(matches!(error, PatchError::TooLarge(_)), "{error}");
        }
    }
}
