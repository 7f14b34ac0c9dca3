//! Values of struct types as upstream prints them in errors: JSON in the order of the Go struct, either with the JSON
//! names of the served type or, for types without JSON tags (upstream's internal ones), with the Go field names and
//! every field present.

use std::fmt::Write;

use serde_json::Value;
use wire::schema::{Field, Message, Type, flag};

/// The JSON of a value of a served type, in field order.
pub fn served(api_version: &str, kind: &str, value: &Value) -> String {
    let mut out = String::new();
    match api::schema::message(api_version, kind) {
        Some(m) => served_message(&mut out, m, value),
        None => out = value.to_string(),
    }
    out
}

fn served_message(out: &mut String, m: &Message, value: &Value) {
    out.push('{');
    let mut first = true;
    served_fields(out, m, value, &mut first);
    out.push('}');
}

fn served_fields(out: &mut String, m: &Message, value: &Value, first: &mut bool) {
    for f in m.fields {
        if let (true, Type::Message(inner)) = (f.is(flag::INLINE), f.ty) {
            served_fields(out, inner, value, first);
            continue;
        }
        let Some(v) = value.get(f.json) else { continue };
        if !std::mem::take(first) {
            out.push(',');
        }
        let _ = write!(out, "\"{}\":", f.json);
        served_value(out, f.ty, v);
    }
}

fn served_value(out: &mut String, ty: Type, v: &Value) {
    match (ty, v) {
        (Type::Message(m), Value::Object(_)) => served_message(out, m, v),
        (Type::List(t), Value::Array(items)) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                served_value(out, *t, item);
            }
            out.push(']');
        }
        _ => {
            let _ = write!(out, "{v}");
        }
    }
}

/// The JSON of a value as upstream's internal type of the same fields prints: Go names, all fields, `null` for absent
/// pointers, lists and maps.
pub fn internal(api_version: &str, kind: &str, value: &Value) -> String {
    match api::schema::message(api_version, kind) {
        Some(m) => internal_value(Type::Message(m), 0, value).to_json(None, 0),
        None => value.to_string(),
    }
}

/// An ordered JSON tree, since the printed order is that of Go's structs.
#[derive(Clone, Debug, PartialEq)]
pub enum Ordered {
    /// A scalar or anything printed as it is.
    Leaf(Value),
    /// A list.
    List(Vec<Ordered>),
    /// A struct or map.
    Object(Vec<(String, Ordered)>),
}

impl Ordered {
    /// JSON text; with an indent, one element a line as Go's `MarshalIndent` does.
    pub fn to_json(&self, indent: Option<&str>, depth: usize) -> String {
        let (open, close) = match self {
            Ordered::Leaf(v) => return v.to_string(),
            Ordered::List(_) => ('[', ']'),
            Ordered::Object(_) => ('{', '}'),
        };
        let parts: Vec<String> = match self {
            Ordered::List(items) => items.iter().map(|v| v.to_json(indent, depth + 1)).collect(),
            Ordered::Object(fields) => fields
                .iter()
                .map(|(k, v)| {
                    let sep = if indent.is_some() { ": " } else { ":" };
                    format!(
                        "{}{sep}{}",
                        Value::from(k.as_str()),
                        v.to_json(indent, depth + 1)
                    )
                })
                .collect(),
            Ordered::Leaf(_) => vec![],
        };
        match indent {
            Some(one) if !parts.is_empty() => {
                let pad = one.repeat(depth + 1);
                let end = one.repeat(depth);
                let inner: Vec<String> = parts.iter().map(|p| format!("{pad}{p}")).collect();
                format!("{open}\n{}\n{end}{close}", inner.join(",\n"))
            }
            _ => format!("{open}{}{close}", parts.join(",")),
        }
    }
}

/// The internal form of a value of a schema type.
pub fn internal_value(ty: Type, flags: u16, v: &Value) -> Ordered {
    let pointer = flags & flag::POINTER != 0;
    match ty {
        Type::Message(_) | Type::Time | Type::MicroTime if pointer && v.is_null() => {
            Ordered::Leaf(Value::Null)
        }
        Type::Message(m) => {
            Ordered::Object(m.fields.iter().flat_map(|f| internal_field(f, v)).collect())
        }
        Type::List(t) | Type::WrappedList(t) => match v.as_array() {
            Some(items) => Ordered::List(items.iter().map(|i| internal_value(*t, 0, i)).collect()),
            None => Ordered::Leaf(Value::Null),
        },
        Type::Map(t) => match v.as_object() {
            Some(map) => Ordered::Object(
                map.iter()
                    .map(|(k, x)| (k.clone(), internal_value(*t, 0, x)))
                    .collect(),
            ),
            None => Ordered::Leaf(Value::Null),
        },
        _ if !v.is_null() => Ordered::Leaf(v.clone()),
        _ if pointer => Ordered::Leaf(Value::Null),
        Type::Bool => Ordered::Leaf(Value::Bool(false)),
        Type::String => Ordered::Leaf("".into()),
        Type::I32 | Type::I64 | Type::U32 | Type::U64 | Type::F64 | Type::IntOrString => {
            Ordered::Leaf(0.into())
        }
        Type::Quantity => Ordered::Leaf("0".into()),
        _ => Ordered::Leaf(Value::Null),
    }
}

fn internal_field(f: &Field, object: &Value) -> Vec<(String, Ordered)> {
    if let (true, Type::Message(inner)) = (f.is(flag::INLINE), f.ty) {
        return inner
            .fields
            .iter()
            .flat_map(|g| internal_field(g, object))
            .collect();
    }
    let v = object.get(f.json).unwrap_or(&Value::Null);
    vec![(f.go.to_owned(), internal_value(f.ty, f.flags, v))]
}
