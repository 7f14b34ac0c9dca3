//! `/openapi/v2`: all that the documents of version 3 hold in one, in version 2's words, as JSON and as protobuf.
//!
//! Paths are turned one by one, so that no tree of the whole is ever held. Parameters stand where they are used; upstream
//! gathers those that many share.

use serde_json::{Map, Value, json};

use super::gnostic::{self, Kind};
use super::{Part, Schemas, inflate, names};
use crate::core::Table;

/// How the document is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Form {
    Json,
    Protobuf,
}

impl Form {
    /// Media types by which it is asked for; the first is told.
    pub(super) const ALL: [(Form, &[&str]); 2] = [
        (Form::Json, &["application/json"]),
        (
            Form::Protobuf,
            &[
                "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
                "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
            ],
        ),
    ];

    /// Adds a member of the map that `tag` is of in protobuf.
    fn member(
        self,
        out: &mut Vec<u8>,
        name: &str,
        value: &Value,
        tag: u32,
        kind: &Kind,
    ) -> serde_json::Result<()> {
        match self {
            Form::Json => {
                if !out.is_empty() {
                    out.push(b',');
                }
                serde_json::to_writer(&mut *out, name)?;
                out.push(b':');
                serde_json::to_writer(out, value)
            }
            Form::Protobuf => {
                gnostic::named(tag, name, value, kind, out);
                Ok(())
            }
        }
    }
}

/// The bytes of the document.
pub(super) fn document(table: &Table, form: Form) -> serde_json::Result<Vec<u8>> {
    let text = inflate();
    let mut schemas = Schemas::new(&text);
    let (mut paths, mut definitions) = (Vec::new(), Vec::new());
    for name in names(table) {
        let Some(part) = Part::find(table, &name) else {
            continue;
        };
        for (path, mut item) in part.paths(table, &mut schemas) {
            turn_path(&mut item);
            form.member(&mut paths, &path, &item, 2, &gnostic::PATH)?;
        }
    }
    for (name, mut schema) in schemas.out {
        turn_schema(&mut schema);
        form.member(&mut definitions, &name, &schema, 1, &gnostic::SCHEMA)?;
    }
    let rest = json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": component::version::GIT_VERSION},
        "security": [{"BearerToken": []}],
        "securityDefinitions": {"BearerToken": {
            "type": "apiKey",
            "name": "authorization",
            "in": "header",
            "description": "Bearer Token authentication",
        }},
    });
    Ok(match form {
        Form::Json => {
            let mut out = serde_json::to_vec(&rest)?;
            out.pop();
            for (name, members) in [("paths", paths), ("definitions", definitions)] {
                out.extend_from_slice(format!(",\"{name}\":{{").as_bytes());
                out.extend_from_slice(&members);
                out.push(b'}');
            }
            out.push(b'}');
            out
        }
        Form::Protobuf => {
            let mut out = Vec::with_capacity(paths.len() + definitions.len() + 256);
            gnostic::document(&rest, &paths, &definitions, &mut out);
            out
        }
    })
}

/// A schema of version 3 as version 2 has it: without defaults and alternatives, references beside what describes them.
fn turn_schema(schema: &mut Value) {
    let Some(m) = schema.as_object_mut() else {
        return;
    };
    m.remove("default");
    if let Some(Value::Array(all)) = m.remove("allOf")
        && let Some(Value::Object(inner)) = all.into_iter().next()
    {
        m.extend(inner);
    }
    if m.remove("oneOf").is_some() {
        m.insert("type".into(), "string".into());
    }
    if let Some(Value::String(to)) = m.get_mut("$ref") {
        *to = to.replacen("#/components/schemas/", "#/definitions/", 1);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = m.get_mut(key) {
            turn_schema(inner);
        }
    }
    let properties = m.get_mut("properties").and_then(Value::as_object_mut);
    for inner in properties.into_iter().flat_map(Map::values_mut) {
        turn_schema(inner);
    }
}

/// A path with its operations.
fn turn_path(item: &mut Value) {
    let Some(m) = item.as_object_mut() else {
        return;
    };
    for (key, value) in m {
        if key == "parameters" {
            turn_parameters(value);
        } else {
            turn_operation(value);
        }
    }
}

/// What a parameter's schema says stands beside its name.
fn turn_parameters(list: &mut Value) {
    for parameter in list.as_array_mut().into_iter().flatten() {
        let Some(p) = parameter.as_object_mut() else {
            continue;
        };
        if let Some(Value::Object(schema)) = p.remove("schema") {
            p.extend(schema);
        }
    }
}

/// The media types of a body or an answer.
fn media(content: Option<&Value>) -> Vec<Value> {
    let content = content.and_then(Value::as_object);
    let names = content.into_iter().flat_map(Map::keys);
    names.map(|k| k.as_str().into()).collect()
}

fn schema_of(content: Option<Value>) -> Option<Value> {
    let Some(Value::Object(content)) = content else {
        return None;
    };
    let (_, first) = content.into_iter().next()?;
    let mut schema = first.get("schema").cloned()?;
    turn_schema(&mut schema);
    Some(schema)
}

fn turn_operation(operation: &mut Value) {
    let Some(m) = operation.as_object_mut() else {
        return;
    };
    if let Some(list) = m.get_mut("parameters") {
        turn_parameters(list);
    }
    let about_a_kind = m.contains_key("x-kubernetes-action");
    let mut produces = Vec::new();
    let responses = m.get_mut("responses").and_then(Value::as_object_mut);
    for response in responses.into_iter().flat_map(Map::values_mut) {
        let Some(r) = response.as_object_mut() else {
            continue;
        };
        if let Some(content) = r.remove("content") {
            produces = media(Some(&content));
            if let Some(schema) = schema_of(Some(content)) {
                r.insert("schema".into(), schema);
            }
        }
    }
    let mut consumes = vec!["*/*".into()];
    if let Some(Value::Object(mut body)) = m.remove("requestBody") {
        consumes = media(body.get("content"));
        let mut parameter = json!({"name": "body", "in": "body"});
        if let Some(p) = parameter.as_object_mut() {
            if let Some(required) = body.remove("required") {
                p.insert("required".into(), required);
            }
            if let Some(schema) = schema_of(body.remove("content")) {
                p.insert("schema".into(), schema);
            }
        }
        let list = m.entry("parameters").or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.insert(0, parameter);
        }
    } else if !about_a_kind {
        consumes.clone_from(&produces);
    }
    m.insert("consumes".into(), consumes.into());
    m.insert("produces".into(), produces.into());
    m.insert("schemes".into(), json!(["https"]));
    if m.get("parameters").is_some_and(|l| l == &json!([])) {
        m.remove("parameters");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_lose_what_version_2_does_not_know() {
        let mut s = json!({
            "properties": {
                "a": {"allOf": [{"$ref": "#/components/schemas/x.Y"}], "default": {}, "description": "text"},
                "b": {"type": "array", "items": {"$ref": "#/components/schemas/x.Y"}, "x-kubernetes-list-type": "atomic"},
                "c": {"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"},
                // Named as what is removed elsewhere.
                "default": {"type": "string", "default": ""},
            },
            "additionalProperties": {"allOf": [{"$ref": "#/components/schemas/x.Y"}], "default": {}},
        });
        turn_schema(&mut s);
        assert_eq!(
            s,
            json!({
                "properties": {
                    "a": {"$ref": "#/definitions/x.Y", "description": "text"},
                    "b": {"type": "array", "items": {"$ref": "#/definitions/x.Y"}, "x-kubernetes-list-type": "atomic"},
                    "c": {"type": "string", "format": "int-or-string"},
                    "default": {"type": "string"},
                },
                "additionalProperties": {"$ref": "#/definitions/x.Y"},
            })
        );
    }

    #[test]
    fn bodies_are_parameters() {
        let schema = json!({"$ref": "#/components/schemas/x.Y"});
        let mut item = json!({
            "parameters": [
                {"name": "name", "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}},
            ],
            "put": {
                "x-kubernetes-action": "put",
                "parameters": [{"name": "dryRun", "in": "query", "schema": {"type": "string", "uniqueItems": true}}],
                "requestBody": {"content": {"*/*": {"schema": schema}}, "required": true},
                "responses": {
                    "200": {"description": "OK", "content": {"application/json": {"schema": schema}}},
                    "401": {"description": "Unauthorized"},
                },
            },
        });
        turn_path(&mut item);
        let schema = json!({"$ref": "#/definitions/x.Y"});
        assert_eq!(
            item,
            json!({
                "parameters": [
                    {"name": "name", "in": "path", "required": true, "type": "string", "uniqueItems": true},
                ],
                "put": {
                    "x-kubernetes-action": "put",
                    "consumes": ["*/*"],
                    "produces": ["application/json"],
                    "schemes": ["https"],
                    "parameters": [
                        {"name": "body", "in": "body", "required": true, "schema": schema},
                        {"name": "dryRun", "in": "query", "type": "string", "uniqueItems": true},
                    ],
                    "responses": {
                        "200": {"description": "OK", "schema": schema},
                        "401": {"description": "Unauthorized"},
                    },
                },
            })
        );
    }
}
