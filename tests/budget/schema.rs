//! From the schema tables: for each list and map that a body can hold, one body in which it is long.

use std::collections::HashSet;

use apiserver::core::Table;
use http::Method;
use serde_json::{Map, Value, json};
use wire::schema::{Field, Message, Type, flag};

use super::cases::{Case, json_kind};

/// How long a body is: lists have thousands of elements, and what is quadratic in them costs billions of steps.
const BYTES: usize = 300_000;

/// How deep fields are looked for.
const DEPTH: usize = 9;

/// A value of a type, the `i`-th of many that differ.
fn value(ty: &Type, i: usize, depth: usize) -> Value {
    match ty {
        Type::Bool => json!(true),
        Type::I32 | Type::I64 | Type::U32 | Type::U64 | Type::F64 => json!(i + 1),
        Type::String => json!(format!("n{i}")),
        Type::Bytes => json!("AAAA"),
        Type::Message(m) => Value::Object(structure(m, i, depth)),
        Type::List(t) | Type::WrappedList(t) => json!([value(t, i, depth + 1)]),
        Type::Map(t) => json!({format!("k{i}"): value(t, i, depth + 1)}),
        Type::Time => json!("2026-01-01T00:00:00Z"),
        Type::MicroTime => json!("2026-01-01T00:00:00.000000Z"),
        Type::Quantity => json!(format!("{i}")),
        Type::IntOrString => json!(i),
        Type::Duration => json!("1s"),
        _ => json!({format!("k{i}"): i}),
    }
}

/// A struct with what identifies it, and what it must have.
fn structure(msg: &'static Message, i: usize, depth: usize) -> Map<String, Value> {
    let mut out = Map::new();
    if depth > 3 {
        return out;
    }
    for field in msg.fields {
        if field.is(flag::INLINE) {
            if let Type::Message(m) = field.ty {
                out.extend(structure(m, i, depth));
            }
            continue;
        }
        let scalar = matches!(field.ty, Type::String | Type::I32 | Type::I64);
        let identity = [
            "name",
            "key",
            "ip",
            "path",
            "uid",
            "type",
            "kind",
            "apiVersion",
            "mountPath",
        ];
        if field.is(flag::REQUIRED)
            || (scalar && !field.is(flag::POINTER | flag::OMITEMPTY))
            || (scalar && identity.contains(&field.json))
        {
            let value = match (field.values.first(), field.ty) {
                (Some(first), Type::String) => json!(first),
                (_, ty) => value(&ty, i, depth + 1),
            };
            out.insert(field.json.to_owned(), value);
        }
    }
    out
}

/// Long lists and maps of a field.
fn long(ty: &Type) -> Option<Value> {
    let (element, map) = match ty {
        Type::List(t) | Type::WrappedList(t) => (*t, false),
        Type::Map(t) => (*t, true),
        _ => return None,
    };
    let one = value(element, 100_000, 1).to_string().len() + if map { 12 } else { 1 };
    let count = BYTES / one;
    Some(if map {
        let members = (0..count).map(|i| (format!("k{i}"), value(element, i, 1)));
        Value::Object(members.collect())
    } else {
        Value::Array((0..count).map(|i| value(element, i, 1)).collect())
    })
}

/// Where a field is: the fields on the way to it, each an object or the first element of a list.
struct Place {
    way: Vec<&'static Field>,
    field: &'static Field,
}

/// The struct that a field holds.
fn inner(ty: &Type) -> Option<&'static Message> {
    match ty {
        Type::Message(m) => Some(m),
        Type::List(t) | Type::WrappedList(t) | Type::Map(t) => match t {
            Type::Message(m) => Some(m),
            _ => None,
        },
        _ => None,
    }
}

fn places(
    msg: &'static Message,
    way: &mut Vec<&'static Field>,
    seen: &mut HashSet<(usize, &'static str)>,
    out: &mut Vec<Place>,
) {
    for field in msg.fields {
        if field.is(flag::INLINE) {
            if let Type::Message(m) = field.ty {
                places(m, way, seen, out);
            }
            continue;
        }
        if !seen.insert((std::ptr::from_ref(msg) as usize, field.json)) {
            continue;
        }
        if matches!(
            field.ty,
            Type::List(_) | Type::WrappedList(_) | Type::Map(_)
        ) {
            out.push(Place {
                way: way.clone(),
                field,
            });
        }
        let Some(inner) = inner(&field.ty) else {
            continue;
        };
        if way.len() < DEPTH {
            way.push(field);
            places(inner, way, seen, out);
            way.pop();
        }
    }
}

impl Place {
    /// An object in which the field is long.
    fn object(&self, msg: &'static Message) -> Value {
        let mut root = Value::Object(structure(msg, 0, 1));
        let mut at = &mut root;
        for step in &self.way {
            let element = |m: &'static Message| Value::Object(structure(m, 0, 1));
            let slot = at
                .as_object_mut()
                .unwrap()
                .entry(step.json)
                .or_insert(Value::Null);
            let Some(m) = inner(&step.ty) else {
                unreachable!("only structs are on the way");
            };
            at = match step.ty {
                Type::Map(_) => {
                    *slot = json!({"k": element(m)});
                    &mut slot["k"]
                }
                Type::Message(_) => {
                    if !slot.is_object() {
                        *slot = element(m);
                    }
                    slot
                }
                _ => {
                    *slot = json!([element(m)]);
                    &mut slot[0]
                }
            };
        }
        let long = long(&self.field.ty).unwrap();
        at.as_object_mut()
            .unwrap()
            .insert(self.field.json.to_owned(), long);
        root
    }

    fn name(&self) -> String {
        let mut all: Vec<&str> = self.way.iter().map(|f| f.json).collect();
        all.push(self.field.json);
        all.join(".")
    }
}

/// Turns all lists round.
fn turn(value: &mut Value) {
    match value {
        Value::Array(all) => {
            all.reverse();
            all.iter_mut().for_each(turn);
        }
        Value::Object(map) => map.values_mut().for_each(turn),
        _ => {}
    }
}

/// One case for each list and map of each struct, in the first body that has it.
pub fn cases(table: &Table) -> Vec<Case> {
    let mut seen = HashSet::new();
    let mut out = Vec::new();
    for served in &table.all {
        let def = &served.def;
        if !def.verbs.iter().any(|v| v == "create") && def.review.is_none() {
            continue;
        }
        let api_version = if def.group.is_empty() {
            def.version.clone()
        } else {
            format!("{}/{}", def.group, def.version)
        };
        let prefix = if def.group.is_empty() { "api" } else { "apis" };
        let space = if def.namespaced {
            "/namespaces/default"
        } else {
            ""
        };
        let path = format!("/{prefix}/{api_version}{space}/{}", def.resource);
        let mut found = Vec::new();
        places(def.schema, &mut Vec::new(), &mut seen, &mut found);
        for place in found {
            let name = format!("{} {}", def.resource, place.name());
            let mut object = place.object(def.schema);
            object["apiVersion"] = json!(api_version);
            object["kind"] = json!(def.kind);
            if !object["metadata"].is_object() {
                object["metadata"] = json!({});
            }
            object["metadata"]["name"] = json!(format!("long{}", out.len()));
            object["metadata"]
                .as_object_mut()
                .unwrap()
                .remove("resourceVersion");
            out.push(Case {
                name,
                method: Method::POST,
                path: path.clone(),
                headers: vec![json_kind()],
                body: object.to_string().into(),
                then: Some({
                    turn(&mut object);
                    object.to_string().into()
                }),
            });
        }
    }
    out
}
