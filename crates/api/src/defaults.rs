//! Structural defaults: the `default` markers of the schema, applied to absent fields.

use serde_json::{Map, Value};
use wire::schema::{Message, Type, flag};

/// Fills absent fields that have a default, in every struct that is present. Idempotent. A default within an absent
/// struct without a pointer makes the struct; one behind a pointer does not.
pub fn apply(object: &mut Value, msg: &'static Message) {
    if let Value::Object(map) = object {
        fields(map, msg, 0);
    }
}

fn fields(map: &mut Map<String, Value>, msg: &'static Message, depth: u32) {
    if depth > 200 {
        return;
    }
    own(map, msg);
    for (key, value) in map.iter_mut() {
        if (value.is_object() || value.is_array())
            && let Some(field) = msg.field(key)
        {
            nested(value, &field.ty, depth);
        }
    }
}

/// The defaults of a struct's own fields and of those of inlined structs.
fn own(map: &mut Map<String, Value>, msg: &'static Message) {
    for field in msg.fields {
        if field.is(flag::INLINE) {
            if let Type::Message(m) = field.ty {
                own(map, m);
            }
            continue;
        }
        if field.default.is_empty() {
            continue;
        }
        let absent = map
            .get(field.json)
            .is_none_or(|v| v.is_null() || unset(v, field));
        if absent && let Some(value) = parse(field.default) {
            map.insert(field.json.to_owned(), value);
        }
    }
}

/// Zero in a field without a pointer means absent.
fn unset(value: &Value, field: &wire::schema::Field) -> bool {
    if field.is(flag::POINTER) {
        return false;
    }
    match value {
        Value::String(s) => s.is_empty(),
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::Bool(b) => !b,
        _ => false,
    }
}

/// Defaults are JSON; a few are bare words.
fn parse(text: &str) -> Option<Value> {
    if let Some(name) = text.strip_prefix("ref(") {
        // A reference to a Go constant: its last part is the value of most string constants.
        let name = name.trim_end_matches(')').rsplit('.').next()?;
        return REFERENCES
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, v)| Value::String((*v).to_owned()));
    }
    serde_json::from_str(text).ok()
}

/// Go constants that defaults refer to.
const REFERENCES: &[(&str, &str)] = &[
    ("DefaultPathType", "ImplementationSpecific"),
    ("ProtocolTCP", "TCP"),
    ("URISchemeHTTP", "HTTP"),
    ("AzureDataDiskCachingReadWrite", "ReadWrite"),
    ("AzureSharedBlobDisk", "Shared"),
];

fn nested(value: &mut Value, ty: &Type, depth: u32) {
    match (ty, value) {
        (
            Type::Message(m)
            | Type::SchemaOrArray(m)
            | Type::SchemaOrBool(m)
            | Type::SchemaOrStrings(m),
            Value::Object(map),
        ) => fields(map, m, depth + 1),
        (Type::List(t) | Type::WrappedList(t), Value::Array(items)) => {
            for item in items {
                nested(item, t, depth + 1);
            }
        }
        (Type::Map(t), Value::Object(map)) => {
            for value in map.values_mut() {
                nested(value, t, depth + 1);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_default_is_readable() {
        for (_, name, msg) in crate::schema::all() {
            for field in msg.fields.iter().filter(|f| !f.default.is_empty()) {
                assert!(
                    parse(field.default).is_some(),
                    "{name}.{}: {}",
                    field.json,
                    field.default
                );
            }
        }
    }

    #[test]
    fn container_ports_are_tcp() {
        let mut pod =
            json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 1}]}]}});
        apply(&mut pod, crate::schema::message("v1", "Pod").unwrap());
        assert_eq!(pod["spec"]["containers"][0]["ports"][0]["protocol"], "TCP");
        let once = pod.clone();
        apply(&mut pod, crate::schema::message("v1", "Pod").unwrap());
        assert_eq!(pod, once);
    }
}
