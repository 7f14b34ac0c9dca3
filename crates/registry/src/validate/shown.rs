//! Values of struct types as upstream prints them in errors: JSON in the order of the Go struct, either with the JSON
//! names of the served type or, for types without JSON tags (upstream's internal ones), with the Go field names and
//! every field present.

use serde_json::Value;
use wire::schema::{Field, Message, Type, flag};

/// The JSON of a value of a served type, in field order.
pub fn served(api_version: &str, kind: &str, value: &Value) -> String {
    match api::schema::message(api_version, kind).filter(|_| !value.is_null()) {
        Some(m) => Ordered::Object(served_tree(m, value)).to_json(None, 0),
        None => value.to_string(),
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
        Type::Message(m) if m.name == "PodSpec" => super::pod_update::internal_spec(v),
        Type::Message(m) if SHARED.contains(&m.name) => Ordered::Object(served_tree(m, v)),
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

/// Types that the internal ones share with the served ones, JSON names included.
const SHARED: [&str; 5] = [
    "LabelSelector",
    "LabelSelectorRequirement",
    "ObjectMeta",
    "OwnerReference",
    "Condition",
];

/// The served form of a struct as a tree: fields that are there, in the order of the Go struct.
fn served_tree(m: &Message, v: &Value) -> Vec<(String, Ordered)> {
    let mut out = vec![];
    for f in m.fields {
        if let (true, Type::Message(inner)) = (f.is(flag::INLINE), f.ty) {
            out.extend(served_tree(inner, v));
        } else if let Some(x) = v.get(f.json) {
            out.push((f.json.to_owned(), served_ordered(f.ty, x)));
        }
    }
    out
}

fn served_ordered(ty: Type, v: &Value) -> Ordered {
    match (ty, v) {
        (Type::Message(m), Value::Object(_)) => Ordered::Object(served_tree(m, v)),
        (Type::List(t), Value::Array(items)) => {
            Ordered::List(items.iter().map(|i| served_ordered(*t, i)).collect())
        }
        (Type::Map(t), Value::Object(map)) => Ordered::Object(
            map.iter()
                .map(|(k, x)| (k.clone(), served_ordered(*t, x)))
                .collect(),
        ),
        _ => Ordered::Leaf(v.clone()),
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
    // Metadata is embedded without a name of its own.
    if let (Type::Message(m), "metadata") = (f.ty, f.json)
        && m.name == "ObjectMeta"
    {
        return served_tree(m, v);
    }
    vec![(f.go.to_owned(), internal_value(f.ty, f.flags, v))]
}
