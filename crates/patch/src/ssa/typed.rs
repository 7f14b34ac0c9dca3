//! Walks of trees that know how each part merges: field sets, comparison, merging, pruning, validation.
//!
//! Source: structured-merge-diff's `typed`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use wire::schema::{Field, ListKind, Message, Type, flag};

use super::set::{Element, Scalar, Set, show};

/// How a value merges.
#[derive(Clone, Copy)]
pub(crate) enum Node {
    Struct(&'static Message),
    Map(Type),
    /// A list of structs with keys.
    Keyed(&'static Message, &'static [&'static str]),
    /// A set of scalars.
    Set,
    /// One value, whatever is in it.
    Atomic,
    Scalar(Type),
    /// Not in a schema: maps merge, everything else is one value.
    Deduced,
}

fn of_type(ty: &Type) -> Node {
    match ty {
        Type::Message(m) if m.atomic => Node::Atomic,
        Type::Message(m) => Node::Struct(m),
        Type::Map(t) => Node::Map(**t),
        Type::List(_)
        | Type::WrappedList(_)
        | Type::RawExtension
        | Type::FieldsV1
        | Type::Json
        | Type::SchemaOrArray(_)
        | Type::SchemaOrBool(_)
        | Type::SchemaOrStrings(_) => Node::Atomic,
        Type::Any => Node::Deduced,
        scalar => Node::Scalar(*scalar),
    }
}

fn of_field(field: &Field) -> Node {
    if field.is(flag::ATOMIC) || field.list == ListKind::Atomic {
        return match field.ty {
            Type::List(_) | Type::WrappedList(_) | Type::Map(_) | Type::Message(_) => Node::Atomic,
            ty => of_type(&ty),
        };
    }
    match (field.ty, field.list) {
        (Type::List(Type::Message(m)), ListKind::Map) if !field.keys.is_empty() => {
            Node::Keyed(m, field.keys)
        }
        (Type::List(_), ListKind::Set) => Node::Set,
        (ty, _) => of_type(&ty),
    }
}

impl Node {
    /// The node of a key, and whether the schema names it.
    fn child(self, key: &str) -> (Node, bool) {
        match self {
            Node::Struct(m) => match m.field(key) {
                Some(f) => (of_field(f), true),
                None if m.type_meta && (key == "kind" || key == "apiVersion") => {
                    (Node::Scalar(Type::String), true)
                }
                None => (Node::Deduced, false),
            },
            Node::Map(ty) => (of_type(&ty), false),
            _ => (Node::Deduced, false),
        }
    }

    /// The node of a list's elements.
    fn element(self) -> Node {
        match self {
            Node::Keyed(m, _) if m.atomic => Node::Atomic,
            Node::Keyed(m, _) => Node::Struct(m),
            // Those of sets are scalars of some kind: `item_element` takes nothing else.
            _ => Node::Deduced,
        }
    }

    fn is_map(self, value: Option<&Value>) -> bool {
        match self {
            Node::Struct(_) | Node::Map(_) => true,
            Node::Deduced => matches!(value, Some(Value::Object(_))),
            _ => false,
        }
    }

    fn is_list(self) -> bool {
        matches!(self, Node::Keyed(..) | Node::Set)
    }
}

/// The path element of a list's element.
fn item_element(node: Node, item: &Value) -> Result<Element, String> {
    match node {
        Node::Keyed(m, keys) => {
            let Value::Object(map) = item else {
                return Err("associative list with keys may not have non-map elements".to_owned());
            };
            let mut out = Vec::with_capacity(keys.len());
            for key in keys {
                let value = match map.get(*key) {
                    Some(v) => v.clone(),
                    None => match m.field(key).and_then(key_default) {
                        Some(d) => d,
                        None => {
                            return Err(format!(
                                "associative list with keys has an element that omits key field {key:?} (and doesn't have default value)"
                            ));
                        }
                    },
                };
                out.push(((*key).to_owned(), Scalar(value)));
            }
            out.sort_by(|(a, _), (b, _)| a.cmp(b));
            Ok(Element::Key(out))
        }
        _ => match item {
            Value::Array(_) | Value::Object(_) => Err(format!(
                "associative list without keys has an element that's a {} type",
                if item.is_array() { "list" } else { "map" }
            )),
            Value::Null => Err(
                "associative list without keys has an element that's an explicit null".to_owned(),
            ),
            scalar => Ok(Element::Value(Scalar(scalar.clone()))),
        },
    }
}

/// What a key is that an element leaves out: the default, or what Go has for a field that is always printed.
fn key_default(field: &Field) -> Option<Value> {
    if !field.default.is_empty() {
        return Some(serde_json::from_str(field.default).unwrap_or(Value::Null));
    }
    if field.is(flag::OMITEMPTY | flag::OMITZERO | flag::POINTER) {
        return None;
    }
    match field.ty {
        Type::String => Some("".into()),
        Type::Bool => Some(false.into()),
        Type::I32 | Type::I64 | Type::U32 | Type::U64 | Type::F64 => Some(0.into()),
        _ => None,
    }
}

/// Whether Go prints a null for the field where it is not set: such fields were there before they got a value.
fn prints_null(field: &Field) -> bool {
    match field.ty {
        Type::Time | Type::MicroTime => {
            !field.is(flag::POINTER | flag::OMITZERO) || !field.is(flag::OMITEMPTY | flag::OMITZERO)
        }
        Type::List(_) | Type::WrappedList(_) | Type::Map(_) | Type::Bytes => {
            !field.is(flag::OMITEMPTY | flag::OMITZERO)
        }
        _ => field.is(flag::POINTER) && !field.is(flag::OMITEMPTY | flag::OMITZERO),
    }
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(m)) => m.is_empty(),
        Some(Value::Array(a)) => a.is_empty(),
        Some(_) => false,
    }
}

/// The paths that a configuration sets; the flag says that the value itself is one.
fn field_set_at(node: Node, value: &Value) -> (bool, Set) {
    let mut out = Set::default();
    if node.is_map(Some(value)) {
        for (key, value) in value.as_object().into_iter().flatten() {
            let (child, named) = node.child(key);
            let (own, below) = field_set_at(child, value);
            let element = Element::Field(key.clone());
            if own || !named || value.is_null() || value.as_object().is_some_and(Map::is_empty) {
                out.members.insert(element.clone());
            }
            if !below.is_empty() {
                out.children.insert(element, below);
            }
        }
        return (false, out);
    }
    if node.is_list() {
        let mut seen = BTreeSet::new();
        let mut twice = BTreeSet::new();
        for item in list(Some(value)) {
            if let Ok(e) = item_element(node, item)
                && !seen.insert(e.clone())
            {
                twice.insert(e);
            }
        }
        for item in list(Some(value)) {
            let Ok(e) = item_element(node, item) else {
                continue;
            };
            if !twice.contains(&e) {
                let (_, below) = field_set_at(node.element(), item);
                if !below.is_empty() {
                    out.children.insert(e.clone(), below);
                }
            }
            out.members.insert(e);
        }
        return (false, out);
    }
    (true, out)
}

pub(crate) fn field_set(msg: &'static Message, value: &Value) -> Set {
    field_set_at(Node::Struct(msg), value).1
}

/// What differs between two objects.
#[derive(Default)]
pub(crate) struct Comparison {
    pub added: Set,
    pub removed: Set,
    pub modified: Set,
}

impl Comparison {
    pub fn remove_below(&mut self, path: &[&str]) {
        self.added.remove_below(path);
        self.removed.remove_below(path);
        self.modified.remove_below(path);
    }
}

static NULL: Value = Value::Null;

/// What differs at one place: the place itself, and what lies below it.
#[derive(Default)]
struct Difference {
    added: bool,
    removed: bool,
    modified: bool,
    below: Comparison,
}

impl Comparison {
    /// Enters what was found at an element of this place.
    fn enter(&mut self, element: Element, found: Difference) {
        let Difference {
            added,
            removed,
            modified,
            below,
        } = found;
        for (set, own, below) in [
            (&mut self.added, added, below.added),
            (&mut self.removed, removed, below.removed),
            (&mut self.modified, modified, below.modified),
        ] {
            if own {
                set.members.insert(element.clone());
            }
            if !below.is_empty() {
                set.children.insert(element.clone(), below);
            }
        }
    }
}

/// Compares; `metadata.managedFields` is passed over.
pub(crate) fn compare(msg: &'static Message, old: &Value, new: &Value) -> Comparison {
    compare_at(
        Node::Struct(msg),
        Some(old),
        Some(new),
        &["metadata", "managedFields"],
        0,
    )
    .below
}

/// Down to this level what is equal is passed over as a whole. Further down each value is looked at once, lest it be
/// compared again on each level above it.
const WHOLE: u32 = 16;

/// `pass` is the path of a field that is not compared.
fn compare_at(
    node: Node,
    old: Option<&Value>,
    new: Option<&Value>,
    pass: &[&str],
    depth: u32,
) -> Difference {
    let mut out = Difference::default();
    let scalar = |v: Option<&Value>| !v.is_some_and(|v| v.is_object() || v.is_array());
    if (depth <= WHOLE || scalar(old) || scalar(new)) && old == new {
        return out;
    }
    // A value that is a map on one side only counts as one value.
    let both_fit = |f: fn(&Value) -> bool| {
        old.is_none_or(|v| f(v) || v.is_null()) && new.is_none_or(|v| f(v) || v.is_null())
    };
    let map = node.is_map(old.or(new)) && both_fit(Value::is_object);
    let lists = node.is_list() && both_fit(Value::is_array);
    let leaf = !(map || lists) || (empty(old) && empty(new));
    match (old, new) {
        (None, _) => out.added = true,
        (_, None) => out.removed = true,
        _ => out.modified = leaf && old != new,
    }
    if leaf {
        return out;
    }
    if map {
        let none = Map::new();
        let a = old.and_then(Value::as_object).unwrap_or(&none);
        let b = new.and_then(Value::as_object).unwrap_or(&none);
        let nullable = match node {
            Node::Struct(m) if !m.open && !m.tags.is_empty() => m.fields,
            _ => &[],
        };
        // What a present struct lacks but prints as null.
        let null = |side: Option<&Value>, field: Option<&Field>| {
            (side.is_some_and(Value::is_object) && field.is_some_and(prints_null)).then_some(&NULL)
        };
        let named = |key: &str| match node {
            Node::Struct(m) if !nullable.is_empty() => m.field(key),
            _ => None,
        };
        let mut both = |key: &str, left: Option<&Value>, right: Option<&Value>| {
            let pass = match pass {
                [first] if *first == key => return,
                [first, rest @ ..] if *first == key => rest,
                _ => &[],
            };
            let found = compare_at(node.child(key).0, left, right, pass, depth + 1);
            out.below.enter(Element::Field(key.to_owned()), found);
        };
        for (key, left) in a {
            both(
                key,
                Some(left),
                b.get(key).or_else(|| null(new, named(key))),
            );
        }
        for (key, right) in b.iter().filter(|(key, _)| !a.contains_key(*key)) {
            both(key, null(old, named(key)), Some(right));
        }
        for field in nullable {
            if prints_null(field) && !a.contains_key(field.json) && !b.contains_key(field.json) {
                both(field.json, null(old, Some(field)), null(new, Some(field)));
            }
        }
    } else {
        let index = |items: &'_ [Value]| {
            let mut by: BTreeMap<Element, Vec<usize>> = BTreeMap::new();
            for (i, item) in items.iter().enumerate() {
                if let Ok(e) = item_element(node, item) {
                    by.entry(e).or_default().push(i);
                }
            }
            by
        };
        let (a, b) = (list(old), list(new));
        let (by_a, mut by_b) = (index(a), index(b));
        let pairs = by_a
            .into_iter()
            .map(|(e, left)| {
                let right = by_b.remove(&e).unwrap_or_default();
                (e, left, right)
            })
            .collect::<Vec<_>>();
        let more = by_b.into_iter().map(|(e, right)| (e, Vec::new(), right));
        for (element, left, right) in pairs.into_iter().chain(more) {
            let l = left.first().and_then(|i| a.get(*i));
            let r = right.first().and_then(|i| b.get(*i));
            let found = match (left.len(), right.len()) {
                (0 | 1, 0 | 1) => compare_at(node.element(), l, r, &[], depth + 1),
                (2.., 2..) => {
                    let same = left.len() == right.len()
                        && left.iter().zip(&right).all(|(l, r)| a.get(*l) == b.get(*r));
                    Difference {
                        modified: !same,
                        ..Difference::default()
                    }
                }
                (2.., _) => Difference {
                    removed: true,
                    ..r.map_or_else(Difference::default, |r| {
                        compare_at(node.element(), None, Some(r), &[], depth + 1)
                    })
                },
                _ => Difference {
                    added: true,
                    ..l.map_or_else(Difference::default, |l| {
                        compare_at(node.element(), Some(l), None, &[], depth + 1)
                    })
                },
            };
            out.below.enter(element, found);
        }
    }
    out
}

/// The live object with a configuration written over it.
pub(crate) fn merge(msg: &'static Message, live: &Value, config: &Value) -> Value {
    merge_at(Node::Struct(msg), Some(live), Some(config)).unwrap_or(Value::Null)
}

fn merge_at(node: Node, old: Option<&Value>, new: Option<&Value>) -> Option<Value> {
    let (old, new) = match (old, new) {
        (old, None) => return old.cloned(),
        (None, Some(new)) => return Some(new.clone()),
        (Some(old), Some(new)) => (old, new),
    };
    if node.is_map(Some(new)) {
        let (Value::Object(a), Value::Object(b)) = (old, new) else {
            return Some(if new.is_null() {
                old.clone()
            } else {
                new.clone()
            });
        };
        let both = a.iter().map(|(key, value)| (key, Some(value), b.get(key)));
        let new = b.iter().filter(|(key, _)| !a.contains_key(*key));
        let out = both
            .chain(new.map(|(key, value)| (key, None, Some(value))))
            .filter_map(|(key, old, new)| {
                merge_at(node.child(key).0, old, new).map(|v| (key.clone(), v))
            });
        return Some(Value::Object(out.collect()));
    }
    if node.is_list() {
        if new.is_null() || old.is_null() {
            return Some(if new.is_null() {
                old.clone()
            } else {
                new.clone()
            });
        }
        return Some(Value::Array(merge_lists(
            node,
            list(Some(old)),
            list(Some(new)),
        )));
    }
    Some(new.clone())
}

/// The elements of both lists: those of the configuration in its order, the others where they were relative to them.
fn merge_lists(node: Node, old: &[Value], new: &[Value]) -> Vec<Value> {
    let elements = |items: &[Value]| -> Vec<Option<Element>> {
        items.iter().map(|i| item_element(node, i).ok()).collect()
    };
    let (left, right) = (elements(old), elements(new));
    fn places(all: &[Option<Element>]) -> BTreeMap<&Element, usize> {
        let mut places = BTreeMap::new();
        for (i, e) in all.iter().enumerate() {
            if let Some(e) = e {
                places.entry(e).or_insert(i);
            }
        }
        places
    }
    fn find(places: &BTreeMap<&Element, usize>, e: &Option<Element>) -> Option<usize> {
        places.get(e.as_ref()?).copied()
    }
    let (at_left, at_right) = (places(&left), places(&right));
    let mut shared = right.iter().filter(|e| find(&at_left, e).is_some());
    let mut next = shared.next();
    let mut merged: BTreeSet<&Option<Element>> = BTreeSet::new();
    let mut out = Vec::with_capacity(old.len().max(new.len()));
    let both = |l: Option<usize>, r: Option<usize>| {
        merge_at(
            node.element(),
            l.and_then(|i| old.get(i)),
            r.and_then(|i| new.get(i)),
        )
    };
    let (mut i, mut j) = (0, 0);
    while i < left.len() || j < right.len() {
        if let (Some(l), Some(r)) = (left.get(i), right.get(j)) {
            if l.is_some() && l == r {
                merged.insert(r);
                out.extend(both(find(&at_left, l), Some(j)));
                i += 1;
                j += 1;
                next = shared.next();
                continue;
            }
            if find(&at_right, l).is_some() && next.is_some_and(|n| n != l) {
                // In both, but not the one whose turn it is.
                i += 1;
                continue;
            }
        }
        if let Some(l) = left.get(i) {
            if find(&at_right, l).is_none() {
                out.extend(old.get(i).cloned());
                i += 1;
                continue;
            }
            if merged.contains(&l) {
                i += 1;
            }
        }
        if let Some(r) = right.get(j) {
            merged.insert(r);
            out.extend(both(find(&at_left, r), Some(j)));
            j += 1;
            if next.is_some_and(|n| n == r) {
                next = shared.next();
            }
        }
    }
    out
}

/// The object without the fields and elements of a set.
pub(crate) fn remove(msg: &'static Message, value: &Value, set: &Set) -> Value {
    remove_at(Node::Struct(msg), value, set)
}

fn remove_at(node: Node, value: &Value, set: &Set) -> Value {
    match value {
        Value::Object(map) if node.is_map(Some(value)) => {
            let mut out = Map::new();
            for (key, value) in map {
                let element = Element::Field(key.clone());
                if set.members.contains(&element) {
                    continue;
                }
                let value = match set.children.get(&element) {
                    Some(below) => remove_at(node.child(key).0, value, below),
                    None => value.clone(),
                };
                out.insert(key.clone(), value);
            }
            Value::Object(out)
        }
        Value::Array(items) if node.is_list() => {
            let mut out = Vec::with_capacity(items.len());
            for item in items {
                match item_element(node, item) {
                    Ok(e) if set.members.contains(&e) => {}
                    Ok(e) => match set.children.get(&e) {
                        Some(below) => out.push(remove_at(node.element(), item, below)),
                        None => out.push(item.clone()),
                    },
                    Err(_) => out.push(item.clone()),
                }
            }
            Value::Array(out)
        }
        other => other.clone(),
    }
}

/// The set with the named fields above its members made members too.
pub(crate) fn with_named(msg: &'static Message, set: &Set) -> Set {
    with_named_at(Node::Struct(msg), set)
}

fn with_named_at(node: Node, set: &Set) -> Set {
    let mut out = Set {
        members: set.members.clone(),
        children: BTreeMap::new(),
    };
    for (element, below) in &set.children {
        let child = match element {
            Element::Field(name) => {
                let (child, named) = node.child(name);
                if named {
                    out.members.insert(element.clone());
                }
                child
            }
            _ => node.element(),
        };
        out.children
            .insert(element.clone(), with_named_at(child, below));
    }
    out
}

/// What is wrong with an applied configuration; `room` is how many bytes of it are told, beyond which the rest is left
/// out: each fault is told with its whole path.
pub(crate) fn validate(msg: &'static Message, value: &Value, room: usize) -> Vec<String> {
    let mut faults = Faults {
        told: Vec::new(),
        room,
    };
    validate_at(Node::Struct(msg), value, &mut Vec::new(), &mut faults);
    faults.told
}

struct Faults {
    told: Vec<String>,
    room: usize,
}

impl Faults {
    fn add(&mut self, text: &str, path: &[Element]) {
        if self.room == 0 {
            return;
        }
        let fault = if path.is_empty() {
            text.to_owned()
        } else {
            format!("{}: {text}", show(path))
        };
        self.room = self.room.saturating_sub(fault.len());
        self.told.push(fault);
    }
}

fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
        other => crate::kind(other),
    }
}

fn validate_at(node: Node, value: &Value, path: &mut Vec<Element>, out: &mut Faults) {
    let fail = |text: String, path: &[Element], out: &mut Faults| out.add(&text, path);
    if value.is_null() || out.room == 0 {
        return;
    }
    let shown = || format!("&{{{}}}", crate::strategic::show(value));
    match node {
        Node::Struct(_) | Node::Map(_) => {
            let Value::Object(map) = value else {
                return fail(format!("expected map, got {}", shown()), path, out);
            };
            let open = !matches!(node, Node::Struct(m) if !m.open);
            // A field that does not exist is all that is said of a struct.
            if let Some(key) = map.keys().find(|k| !open && !node.child(k).1) {
                path.push(Element::Field(key.clone()));
                fail("field not declared in schema".to_owned(), path, out);
                path.pop();
                return;
            }
            for (key, value) in map {
                path.push(Element::Field(key.clone()));
                validate_at(node.child(key).0, value, path, out);
                path.pop();
            }
        }
        Node::Keyed(..) | Node::Set => {
            let Value::Array(items) = value else {
                return fail(format!("expected list, got {}", shown()), path, out);
            };
            let mut seen = BTreeSet::new();
            for (i, item) in items.iter().enumerate() {
                match item_element(node, item) {
                    Ok(e) => {
                        if !seen.insert(e.clone()) {
                            fail(format!("duplicate entries for key {e}"), path, out);
                        }
                        path.push(e);
                        validate_at(node.element(), item, path, out);
                        path.pop();
                    }
                    Err(text) => fail(format!("element {i}: {text}"), path, out),
                }
            }
        }
        Node::Scalar(ty) => {
            let go = match value {
                Value::String(s) => format!("&value.valueUnstructured{{Value:{s:?}}}"),
                other => format!("&value.valueUnstructured{{Value:{other}}}"),
            };
            match ty {
                Type::Bool if !value.is_boolean() => {
                    fail(format!("expected boolean, got {}", shown()), path, out)
                }
                Type::I32 | Type::I64 | Type::U32 | Type::U64 | Type::F64 if !value.is_number() => {
                    fail(
                        format!("expected numeric (int or float), got {}", go_kind(value)),
                        path,
                        out,
                    );
                }
                Type::String | Type::Bytes | Type::Time | Type::MicroTime | Type::Duration
                    if !value.is_string() =>
                {
                    fail(format!("expected string, got {go}"), path, out);
                }
                Type::Quantity | Type::IntOrString | Type::Any
                    if value.is_object() || value.is_array() =>
                {
                    fail(format!("expected any scalar, got {}", shown()), path, out);
                }
                _ => {}
            }
        }
        Node::Atomic | Node::Deduced => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn paths(set: &Set) -> Vec<String> {
        set.shown(&mut { usize::MAX })
    }

    /// A pod's volumes, where lists are keyed by name and yet one may stand twice.
    fn compare_volumes(old: &Value, new: &Value) -> [Vec<String>; 3] {
        let pod = |volumes: &Value| json!({"spec": {"volumes": volumes}});
        let msg = api::schema::message("v1", "Pod").unwrap();
        let c = compare(msg, &pod(old), &pod(new));
        [paths(&c.added), paths(&c.removed), paths(&c.modified)]
    }

    #[test]
    fn elements_of_a_list_without_elements_are_not_taken_from_it() {
        let list = json!(["a", "b"]);
        let set = Set {
            members: [Element::Value(Scalar(json!("a")))].into(),
            ..Set::default()
        };
        assert_eq!(remove_at(Node::Atomic, &list, &set), list);
        assert_eq!(remove_at(Node::Set, &list, &set), json!(["b"]));
    }

    #[test]
    fn elements_that_stand_twice_are_compared_as_one() {
        let v = |path: &str| json!({"name": "v", "hostPath": {"path": path}});
        let all = ".spec.volumes[name=\"v\"]".to_owned();
        let none: Vec<String> = Vec::new();
        let twice = json!([v("a"), v("b")]);
        assert_eq!(
            compare_volumes(&twice, &twice),
            [none.clone(), none.clone(), none.clone()]
        );
        for changed in [json!([v("a"), v("c")]), json!([v("a"), v("b"), v("b")])] {
            assert_eq!(
                compare_volumes(&twice, &changed),
                [none.clone(), none.clone(), vec![all.clone()]],
                "{changed}"
            );
        }
        // From two to one and back: what was there goes, and what is there comes.
        let one = json!([v("a")]);
        for (old, new) in [(&twice, &one), (&one, &twice)] {
            let [added, removed, modified] = compare_volumes(old, new);
            assert!(added.contains(&all), "{old} to {new}: {added:?}");
            assert!(removed.contains(&all), "{old} to {new}: {removed:?}");
            assert_eq!(modified, none);
        }
    }

    #[test]
    fn one_element_is_compared_field_by_field() {
        let v = |path: &str| json!([{"name": "v", "hostPath": {"path": path}}]);
        let [added, removed, modified] = compare_volumes(&v("a"), &v("b"));
        assert_eq!(modified, [".spec.volumes[name=\"v\"].hostPath.path"]);
        assert_eq!((added.len(), removed.len()), (0, 0));
        let [added, removed, modified] = compare_volumes(&v("a"), &json!([]));
        assert!(
            removed.contains(&".spec.volumes[name=\"v\"]".to_owned()),
            "{removed:?}"
        );
        assert_eq!(
            (added.len(), modified.len()),
            (0, 0),
            "{added:?} {modified:?}"
        );
    }
}
