//! Sets of field paths, and `FieldsV1`, which writes them as JSON.
//!
//! Source: structured-merge-diff's `fieldpath`. A set holds its members and, by the same elements, sets of what lies
//! below; `FieldsV1` writes a member that also has something below as `"."`.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};

use serde_json::{Map, Value};

/// A scalar in a path.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scalar(pub Value);

impl Eq for Scalar {}

impl Scalar {
    fn rank(&self) -> u8 {
        match &self.0 {
            Value::Number(_) => 0,
            Value::String(_) => 1,
            Value::Bool(_) => 2,
            Value::Null => 5,
            _ => 4,
        }
    }
}

impl Ord for Scalar {
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            (Value::Number(a), Value::Number(b)) => {
                let (a, b) = (a.as_f64().unwrap_or(0.0), b.as_f64().unwrap_or(0.0));
                a.total_cmp(&b)
            }
            (Value::String(a), Value::String(b)) => a.cmp(b),
            (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
            (a, b) => self
                .rank()
                .cmp(&other.rank())
                .then_with(|| a.to_string().cmp(&b.to_string())),
        }
    }
}

impl PartialOrd for Scalar {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Element {
    /// A field of a struct or a key of a map.
    Field(String),
    /// An element of a list by its keys, sorted by name.
    Key(Vec<(String, Scalar)>),
    /// An element of a set.
    Value(Scalar),
    /// A position; only ever read from what others wrote.
    Index(i64),
}

impl Element {
    fn to_json(&self) -> String {
        match self {
            Element::Field(name) => ["f:", name].concat(),
            Element::Key(fields) => {
                let map: Map<String, Value> = fields
                    .iter()
                    .map(|(k, v)| (k.clone(), v.0.clone()))
                    .collect();
                format!("k:{}", Value::Object(map))
            }
            Element::Value(v) => format!("v:{}", v.0),
            Element::Index(i) => format!("i:{i}"),
        }
    }

    fn from_json(text: &str) -> Option<Element> {
        let (kind, rest) = text.split_once(':')?;
        Some(match kind {
            "f" => Element::Field(rest.to_owned()),
            "k" => {
                let Ok(Value::Object(map)) = serde_json::from_str(rest) else {
                    return None;
                };
                Element::Key(map.into_iter().map(|(k, v)| (k, Scalar(v))).collect())
            }
            "v" => Element::Value(Scalar(serde_json::from_str(rest).ok()?)),
            "i" => Element::Index(rest.parse().ok()?),
            _ => return None,
        })
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Field(name) => write!(f, ".{name}"),
            Element::Key(fields) => {
                f.write_str("[")?;
                for (i, (k, v)) in fields.iter().enumerate() {
                    if i > 0 {
                        f.write_str(",")?;
                    }
                    write!(f, "{k}={}", v.0)?;
                }
                f.write_str("]")
            }
            Element::Value(v) => write!(f, "[={}]", v.0),
            Element::Index(i) => write!(f, "[{i}]"),
        }
    }
}

/// A set of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Set {
    pub members: BTreeSet<Element>,
    pub children: BTreeMap<Element, Set>,
}

impl Set {
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.is_empty()
    }

    pub fn insert(&mut self, path: &[Element]) {
        match path {
            [] => {}
            [last] => {
                self.members.insert(last.clone());
            }
            [first, rest @ ..] => self.children.entry(first.clone()).or_default().insert(rest),
        }
    }

    pub fn has(&self, path: &[Element]) -> bool {
        match path {
            [] => false,
            [last] => self.members.contains(last),
            [first, rest @ ..] => self.children.get(first).is_some_and(|c| c.has(rest)),
        }
    }

    pub fn union(mut self, other: Set) -> Set {
        if self.is_empty() {
            return other;
        }
        self.members.extend(other.members);
        for (element, set) in other.children {
            let mine = self.children.entry(element).or_default();
            *mine = std::mem::take(mine).union(set);
        }
        self
    }

    pub fn intersection(&self, other: &Set) -> Set {
        let mut out = Set {
            members: self.members.intersection(&other.members).cloned().collect(),
            ..Set::default()
        };
        for (element, set) in &self.children {
            if let Some(theirs) = other.children.get(element) {
                let both = set.intersection(theirs);
                if !both.is_empty() {
                    out.children.insert(element.clone(), both);
                }
            }
        }
        out
    }

    pub fn difference(mut self, other: &Set) -> Set {
        self.members.retain(|m| !other.members.contains(m));
        self.children = self
            .children
            .into_iter()
            .filter_map(|(element, set)| {
                let rest = match other.children.get(&element) {
                    Some(theirs) => set.difference(theirs),
                    None => set,
                };
                (!rest.is_empty()).then_some((element, rest))
            })
            .collect();
        self
    }

    /// Without a path and everything below it.
    pub fn remove_below(&mut self, path: &[&str]) {
        match path {
            [] => {}
            [last] => {
                let element = Element::Field((*last).to_owned());
                self.members.remove(&element);
                self.children.remove(&element);
            }
            [first, rest @ ..] => {
                let element = Element::Field((*first).to_owned());
                if let Some(child) = self.children.get_mut(&element) {
                    child.remove_below(rest);
                    if child.is_empty() {
                        self.children.remove(&element);
                    }
                }
            }
        }
    }

    /// The paths as errors show them, members before what lies below, each level in order; `room` is how many bytes they
    /// may have, beyond which the rest is left out.
    pub fn shown(&self, room: &mut usize) -> Vec<String> {
        fn walk(set: &Set, prefix: &mut String, room: &mut usize, out: &mut Vec<String>) {
            let len = prefix.len();
            for member in &set.members {
                if *room == 0 {
                    return;
                }
                let path = format!("{prefix}{member}");
                *room = room.saturating_sub(path.len());
                out.push(path);
            }
            for (element, child) in &set.children {
                if *room == 0 {
                    return;
                }
                let _ = write!(prefix, "{element}");
                walk(child, prefix, room, out);
                prefix.truncate(len);
            }
        }
        let mut out = Vec::new();
        walk(self, &mut String::new(), room, &mut out);
        out
    }

    pub fn to_json(&self) -> Value {
        let leaf = || Value::Object(Map::new());
        let members = self
            .members
            .iter()
            .filter(|m| !self.children.contains_key(m))
            .map(|m| (m.to_json(), leaf()));
        let children = self.children.iter().map(|(element, child)| {
            let mut below = child.to_json();
            if self.members.contains(element)
                && let Value::Object(b) = &mut below
            {
                b.insert(".".to_owned(), leaf());
            }
            (element.to_json(), below)
        });
        // Collected at once: the map sorts them in one go.
        Value::Object(members.chain(children).collect())
    }

    /// `None` for what is no `FieldsV1`, or has more sets within sets than `room`, which is lowered by their number. Nesting
    /// is bounded by the parser that made the tree.
    pub fn from_json(value: &Value, room: &mut usize) -> Option<Set> {
        Set::from_map(value.as_object()?, room)
    }

    fn from_map(map: &Map<String, Value>, room: &mut usize) -> Option<Set> {
        *room = room.checked_sub(1)?;
        let mut out = Set::default();
        for (key, below) in map {
            if key == "." {
                continue;
            }
            let element = Element::from_json(key)?;
            let below = below.as_object()?;
            if below.is_empty() || below.contains_key(".") {
                out.members.insert(element.clone());
            }
            if below.keys().any(|k| k != ".") {
                let child = Set::from_map(below, room)?;
                out.children.insert(element, child);
            }
        }
        Some(out)
    }
}

/// A path as errors show it.
pub(crate) fn show(path: &[Element]) -> String {
    path.iter().map(ToString::to_string).collect()
}
