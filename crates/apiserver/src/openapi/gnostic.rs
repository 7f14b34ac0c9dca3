//! The protobuf form of a version 2 document: `openapi.v2.Document` of github.com/google/gnostic-models, as far as our
//! documents use it. The tables give tags; what they do not name is left out.

use serde_json::{Map, Value};
use wire::proto::put_bytes;

/// How a value is written as a field.
pub(super) enum Kind {
    Text,
    /// Written only if true.
    Flag,
    /// Any value, as YAML text in a message.
    Any,
    Message(&'static Shape),
    /// A list, each as a field of its own.
    Many(&'static Kind),
    /// In a message that has it alone, under this tag.
    Within(u32, &'static Kind),
    /// A message of names and values, repeated under this tag.
    Map(u32, &'static Kind),
    /// Of a body, a query or a path, by its member `in`.
    Parameter,
}

/// A message: JSON names with their tags and kinds, by tag; the tag of extensions (`x-…`), 0 for none.
pub(super) struct Shape {
    fields: &'static [(&'static str, u32, Kind)],
    extensions: u32,
}

const TEXTS: Kind = Kind::Many(&Kind::Text);

pub(super) static SCHEMA: Kind = Kind::Message(&SCHEMA_SHAPE);
static SCHEMA_SHAPE: Shape = Shape {
    fields: &[
        ("$ref", 1, Kind::Text),
        ("format", 2, Kind::Text),
        ("description", 4, Kind::Text),
        ("required", 19, TEXTS),
        ("enum", 20, Kind::Many(&Kind::Any)),
        ("additionalProperties", 21, Kind::Within(1, &SCHEMA)),
        ("type", 22, Kind::Within(1, &Kind::Text)),
        ("items", 23, Kind::Within(1, &SCHEMA)),
        ("properties", 25, Kind::Map(1, &SCHEMA)),
    ],
    extensions: 31,
};

pub(super) static PATH: Kind = Kind::Message(&Shape {
    fields: &[
        ("get", 2, OPERATION),
        ("put", 3, OPERATION),
        ("post", 4, OPERATION),
        ("delete", 5, OPERATION),
        ("options", 6, OPERATION),
        ("head", 7, OPERATION),
        ("patch", 8, OPERATION),
        ("parameters", 9, PARAMETERS),
    ],
    extensions: 10,
});

const PARAMETERS: Kind = Kind::Many(&Kind::Within(1, &Kind::Parameter));

const OPERATION: Kind = Kind::Message(&Shape {
    fields: &[
        ("tags", 1, TEXTS),
        ("description", 3, Kind::Text),
        ("operationId", 5, Kind::Text),
        ("produces", 6, TEXTS),
        ("consumes", 7, TEXTS),
        ("parameters", 8, PARAMETERS),
        (
            "responses",
            9,
            Kind::Map(1, &Kind::Within(1, &Kind::Message(&RESPONSE))),
        ),
        ("schemes", 10, TEXTS),
    ],
    extensions: 13,
});

static RESPONSE: Shape = Shape {
    fields: &[
        ("description", 1, Kind::Text),
        ("schema", 2, Kind::Within(1, &SCHEMA)),
    ],
    extensions: 5,
};

static IN_QUERY: Kind = Kind::Within(3, &Kind::Message(&QUERY));
static IN_PATH: Kind = Kind::Within(4, &Kind::Message(&PLACE));

static BODY: Shape = Shape {
    fields: &[
        ("description", 1, Kind::Text),
        ("name", 2, Kind::Text),
        ("in", 3, Kind::Text),
        ("required", 4, Kind::Flag),
        ("schema", 5, Kind::Message(&SCHEMA_SHAPE)),
    ],
    extensions: 6,
};

static QUERY: Shape = Shape {
    fields: &[
        ("required", 1, Kind::Flag),
        ("in", 2, Kind::Text),
        ("description", 3, Kind::Text),
        ("name", 4, Kind::Text),
        ("type", 6, Kind::Text),
        ("uniqueItems", 20, Kind::Flag),
    ],
    extensions: 23,
};

static PLACE: Shape = Shape {
    fields: &[
        ("required", 1, Kind::Flag),
        ("in", 2, Kind::Text),
        ("description", 3, Kind::Text),
        ("name", 4, Kind::Text),
        ("type", 5, Kind::Text),
        ("uniqueItems", 19, Kind::Flag),
    ],
    extensions: 22,
};

/// What a document has beside paths and definitions: in tags below theirs, and above.
static HEAD: Shape = Shape {
    fields: &[
        ("swagger", 1, Kind::Text),
        (
            "info",
            2,
            Kind::Message(&Shape {
                fields: &[("title", 1, Kind::Text), ("version", 2, Kind::Text)],
                extensions: 0,
            }),
        ),
    ],
    extensions: 0,
};
static TAIL: Shape = Shape {
    fields: &[
        (
            "security",
            12,
            // A requirement is the map itself; its values are messages of texts.
            Kind::Many(&Kind::Map(1, &Kind::Within(1, &TEXTS))),
        ),
        (
            "securityDefinitions",
            13,
            Kind::Map(
                1,
                &Kind::Within(
                    2,
                    &Kind::Message(&Shape {
                        fields: &[
                            ("type", 1, Kind::Text),
                            ("name", 2, Kind::Text),
                            ("in", 3, Kind::Text),
                            ("description", 4, Kind::Text),
                        ],
                        extensions: 5,
                    }),
                ),
            ),
        ),
    ],
    extensions: 0,
};

/// The whole document; paths and definitions are the bytes of their messages.
pub(super) fn document(rest: &Value, paths: &[u8], definitions: &[u8], out: &mut Vec<u8>) {
    message(rest, &HEAD, out);
    put_bytes(8, paths, out);
    put_bytes(9, definitions, out);
    message(rest, &TAIL, out);
}

/// A name with its value, as a member of a map.
pub(super) fn named(tag: u32, name: &str, value: &Value, kind: &Kind, out: &mut Vec<u8>) {
    let mut inner = Vec::new();
    put_bytes(1, name.as_bytes(), &mut inner);
    put(2, value, kind, &mut inner);
    put_bytes(tag, &inner, out);
}

fn message(value: &Value, shape: &Shape, out: &mut Vec<u8>) {
    for (name, tag, kind) in shape.fields {
        if let Some(v) = value.get(name) {
            put(*tag, v, kind, out);
        }
    }
    if shape.extensions == 0 {
        return;
    }
    for (name, v) in value.as_object().into_iter().flatten() {
        if name.starts_with("x-") {
            named(shape.extensions, name, v, &Kind::Any, out);
        }
    }
}

fn nested(tag: u32, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    body(&mut inner);
    put_bytes(tag, &inner, out);
}

/// Writes a value as a field.
fn put(tag: u32, value: &Value, kind: &Kind, out: &mut Vec<u8>) {
    match kind {
        Kind::Text => {
            if let Some(text) = value.as_str().filter(|t| !t.is_empty()) {
                put_bytes(tag, text.as_bytes(), out);
            }
        }
        Kind::Flag => {
            if value == &Value::Bool(true) {
                wire::proto::put_uint(tag, 1, out);
            }
        }
        Kind::Any => nested(tag, out, |inner| {
            let mut yaml = Vec::new();
            wire::yaml::encode_any(value, &mut yaml);
            put_bytes(2, &yaml, inner);
        }),
        Kind::Message(shape) => nested(tag, out, |inner| message(value, shape, inner)),
        Kind::Many(kind) => {
            for v in value.as_array().into_iter().flatten() {
                put(tag, v, kind, out);
            }
        }
        Kind::Within(at, kind) => nested(tag, out, |inner| put(*at, value, kind, inner)),
        Kind::Map(at, kind) => nested(tag, out, |inner| {
            for (name, v) in value.as_object().unwrap_or(&Map::new()) {
                named(*at, name, v, kind, inner);
            }
        }),
        Kind::Parameter => nested(tag, out, |inner| {
            match value.get("in").and_then(Value::as_str) {
                Some("body") => put(1, value, &Kind::Message(&BODY), inner),
                Some("path") => put(2, value, &IN_PATH, inner),
                _ => put(2, value, &IN_QUERY, inner),
            }
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Bytes as Go's `proto.Marshal` gives them for what gnostic reads from the same JSON.
    #[test]
    fn bytes_as_gnostic_writes_them() {
        let schema = json!({
            "type": "object",
            "required": ["a"],
            "properties": {"a": {"$ref": "#/definitions/x"}},
            "x-kubernetes-map-type": "atomic",
        });
        let mut out = Vec::new();
        put(1, &schema, &SCHEMA, &mut out);
        let mut want = Vec::new();
        want.extend_from_slice(b"\x0a\x4f");
        want.extend_from_slice(b"\x9a\x01\x01a");
        want.extend_from_slice(b"\xb2\x01\x08\x0a\x06object");
        want.extend_from_slice(b"\xca\x01\x18\x0a\x16\x0a\x01a\x12\x11\x0a\x0f#/definitions/x");
        want.extend_from_slice(
            b"\xfa\x01\x22\x0a\x15x-kubernetes-map-type\x12\x09\x12\x07atomic\n",
        );
        assert_eq!(out, want);

        let place = json!({"name": "n", "in": "path", "required": true, "type": "string", "uniqueItems": true});
        let mut out = Vec::new();
        put(8, &json!([place]), &PARAMETERS, &mut out);
        let inner = b"\x08\x01\x12\x04path\x22\x01n\x2a\x06string\x98\x01\x01";
        let n = inner.len() as u8;
        let mut want = vec![0x42, n + 6, 0x0a, n + 4, 0x12, n + 2, 0x22, n];
        want.extend_from_slice(inner);
        assert_eq!(out, want);
    }
}
