//! `/openapi/v3`: the index, and one document per group and version, made from the schema tables when asked for.
//!
//! Good enough for `kubectl explain`, for clients that look whether a verb takes `fieldValidation` or `dryRun`, and for
//! generators. Absent on purpose: descriptions, `/openapi/v2`, and the protobuf form of the documents.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde_json::{Map, Value, json};
use wire::schema::{Field, ListKind, Message, Type, flag};

use crate::Response;
use crate::body::Body;
use crate::chain::Server;
use crate::codec::group_version;
use crate::core::{Served, Table};

/// Answers a path under `/openapi`; `None` for those that do not exist.
pub fn serve(server: &Arc<Server>, path: &str, _headers: &HeaderMap) -> Option<Response> {
    let table = server.engine.core.table();
    let rest = path.strip_prefix("/openapi/v3")?;
    let document = match rest {
        "" => index(&table),
        _ => {
            let gv = rest
                .strip_prefix("/api/")
                .or_else(|| rest.strip_prefix("/apis/"))?;
            let (group, version) = gv.split_once('/').unwrap_or(("", gv));
            if !table.has(group, version) {
                return None;
            }
            document(&table, group, version)
        }
    };
    let bytes = serde_json::to_vec(&document).ok()?;
    let mut r = Response::new(Body::from(bytes));
    r.headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Some(r)
}

fn root(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

fn of<'a>(
    table: &'a Table,
    group: &'a str,
    version: &'a str,
) -> impl Iterator<Item = &'a Arc<Served>> {
    table
        .all
        .iter()
        .filter(move |s| s.def.group == group && s.def.version == version)
}

/// Changes whenever the document would.
fn hash(table: &Table, group: &str, version: &str) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    context.update(component::version::GIT_VERSION.as_bytes());
    for s in of(table, group, version) {
        context.update(s.def.resource.as_bytes());
        for sub in &s.def.subresources {
            context.update(sub.name.as_bytes());
        }
    }
    let digest = context.finish();
    let mut out = String::new();
    for b in digest.as_ref().iter().take(16) {
        let _ = std::fmt::Write::write_fmt(&mut out, format_args!("{b:02X}"));
    }
    out
}

fn index(table: &Table) -> Value {
    let mut paths = Map::new();
    for s in &table.all {
        let at = root(&s.def.group, &s.def.version);
        if !paths.contains_key(&at) {
            let url = format!(
                "/openapi/v3/{at}?hash={}",
                hash(table, &s.def.group, &s.def.version)
            );
            paths.insert(at, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths})
}

/// Names of types in documents, as upstream's Go packages give them.
struct Names(BTreeMap<usize, String>);

fn address(m: &'static Message) -> usize {
    std::ptr::from_ref(m) as usize
}

impl Names {
    fn new() -> Names {
        let mut out = BTreeMap::new();
        for (gv, kind, m) in api::schema::all() {
            let (group, version) = gv.split_once('/').unwrap_or(("", gv));
            let name = if group == "meta.k8s.io" {
                format!("io.k8s.apimachinery.pkg.apis.meta.{version}.{kind}")
            } else {
                let short = match group {
                    "" => "core",
                    "rbac.authorization.k8s.io" => "rbac",
                    "flowcontrol.apiserver.k8s.io" => "flowcontrol",
                    "admissionregistration.k8s.io" => "admissionregistration",
                    g => g.split('.').next().unwrap_or(g),
                };
                format!("io.k8s.api.{short}.{version}.{kind}")
            };
            out.entry(address(m)).or_insert(name);
        }
        Names(out)
    }

    fn of(&self, m: &'static Message) -> String {
        match self.0.get(&address(m)) {
            Some(n) => n.clone(),
            None => format!("io.k8s.{}.{}", m.package, m.name),
        }
    }
}

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

struct Schemas {
    names: Names,
    done: BTreeSet<usize>,
    out: Map<String, Value>,
}

impl Schemas {
    fn new() -> Schemas {
        let mut out = Map::new();
        out.insert(QUANTITY.into(), json!({"type": "string"}));
        out.insert(
            INT_OR_STRING.into(),
            json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"}),
        );
        out.insert(
            TIME.into(),
            json!({"type": "string", "format": "date-time"}),
        );
        out.insert(
            MICRO_TIME.into(),
            json!({"type": "string", "format": "date-time"}),
        );
        Schemas {
            names: Names::new(),
            done: BTreeSet::new(),
            out,
        }
    }

    fn of(&mut self, ty: &Type) -> Value {
        match ty {
            Type::Bool => json!({"type": "boolean"}),
            Type::I32 | Type::U32 => json!({"type": "integer", "format": "int32"}),
            Type::I64 | Type::U64 => json!({"type": "integer", "format": "int64"}),
            Type::F64 => json!({"type": "number", "format": "double"}),
            Type::String | Type::Duration => json!({"type": "string"}),
            Type::Bytes => json!({"type": "string", "format": "byte"}),
            Type::Message(m) => self.message(m),
            Type::List(t) | Type::WrappedList(t) => json!({"type": "array", "items": self.of(t)}),
            Type::Map(t) => json!({"type": "object", "additionalProperties": self.of(t)}),
            Type::Time => reference(TIME),
            Type::MicroTime => reference(MICRO_TIME),
            Type::Quantity => reference(QUANTITY),
            Type::IntOrString => reference(INT_OR_STRING),
            Type::RawExtension | Type::FieldsV1 => json!({"type": "object"}),
            _ => json!({}),
        }
    }

    /// A reference to a type, whose schema is added if need be.
    fn message(&mut self, m: &'static Message) -> Value {
        let name = self.names.of(m);
        if self.done.insert(address(m)) {
            let mut properties = Map::new();
            let mut required = Vec::new();
            if m.type_meta {
                properties.insert("apiVersion".into(), json!({"type": "string"}));
                properties.insert("kind".into(), json!({"type": "string"}));
            }
            self.fields(m, &mut properties, &mut required);
            let mut schema = Map::new();
            schema.insert("type".into(), "object".into());
            if !required.is_empty() {
                schema.insert("required".into(), required.into());
            }
            if !properties.is_empty() {
                schema.insert("properties".into(), properties.into());
            }
            if m.atomic {
                schema.insert("x-kubernetes-map-type".into(), "atomic".into());
            }
            self.out.insert(name.clone(), schema.into());
        }
        reference(&name)
    }

    fn fields(
        &mut self,
        m: &'static Message,
        properties: &mut Map<String, Value>,
        required: &mut Vec<Value>,
    ) {
        for f in m.fields {
            if f.is(flag::INLINE) {
                if let Type::Message(inner) = f.ty {
                    self.fields(inner, properties, required);
                }
                continue;
            }
            if f.json.is_empty() || f.json == "-" {
                continue;
            }
            let schema = self.field(f);
            properties.insert(f.json.to_owned(), schema);
            let optional = f.is(flag::OPTIONAL | flag::OMITEMPTY | flag::OMITZERO | flag::POINTER);
            if !optional || f.is(flag::REQUIRED) {
                required.push(f.json.into());
            }
        }
    }

    fn field(&mut self, f: &Field) -> Value {
        let mut schema = self.of(&f.ty);
        let default: Option<Value> = serde_json::from_str(f.default).ok();
        if schema.get("$ref").is_some() && default.is_some() {
            schema = json!({"allOf": [schema]});
        }
        let Some(m) = schema.as_object_mut() else {
            return schema;
        };
        if let Some(d) = default {
            m.insert("default".into(), d);
        }
        if !f.values.is_empty() {
            m.insert("enum".into(), f.values.to_vec().into());
        }
        if matches!(f.ty, Type::List(_) | Type::WrappedList(_)) {
            let kind = match f.list {
                ListKind::None => "",
                ListKind::Atomic => "atomic",
                ListKind::Set => "set",
                ListKind::Map => "map",
            };
            if !kind.is_empty() {
                m.insert("x-kubernetes-list-type".into(), kind.into());
            }
            if !f.keys.is_empty() {
                m.insert("x-kubernetes-list-map-keys".into(), f.keys.to_vec().into());
            }
        }
        if f.is(flag::PATCH_MERGE) {
            m.insert("x-kubernetes-patch-strategy".into(), "merge".into());
            if !f.merge_key.is_empty() {
                m.insert("x-kubernetes-patch-merge-key".into(), f.merge_key.into());
            }
        }
        schema
    }
}

fn parameter(name: &str, kind: &str) -> Value {
    json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}})
}

fn parameters(names: &[(&str, &str)]) -> Vec<Value> {
    names.iter().map(|(n, k)| parameter(n, k)).collect()
}

const WRITE: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("fieldManager", "string"),
    ("fieldValidation", "string"),
];
const LIST: &[(&str, &str)] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const DELETE: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];

struct Operation<'a> {
    method: &'a str,
    action: &'a str,
    gvk: (&'a str, &'a str, &'a str),
    body: &'a Value,
    id: String,
}

fn operation(o: &Operation<'_>) -> Value {
    let (group, version, kind) = o.gvk;
    let content = |media: &[&str]| {
        let all: Map<String, Value> = media
            .iter()
            .map(|m| ((*m).to_owned(), json!({"schema": o.body})))
            .collect();
        json!({"content": all})
    };
    let encodings = [
        "application/json",
        "application/yaml",
        "application/vnd.kubernetes.protobuf",
    ];
    let query = match o.action {
        "post" | "put" => parameters(WRITE),
        "patch" => {
            let mut p = parameters(WRITE);
            p.push(parameter("force", "boolean"));
            p
        }
        "list" => parameters(LIST),
        "delete" => parameters(DELETE),
        "deletecollection" => {
            let mut p = parameters(LIST);
            p.extend(parameters(DELETE));
            p
        }
        _ => Vec::new(),
    };
    let mut response = content(&encodings);
    if let Some(m) = response.as_object_mut() {
        m.insert("description".into(), "OK".into());
    }
    let mut out = json!({
        "operationId": o.id,
        "parameters": query,
        "responses": {"200": response, "401": {"description": "Unauthorized"}},
        "x-kubernetes-action": o.action,
        "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
    });
    let request = match o.method {
        "post" | "put" => Some(content(&["*/*"])),
        "patch" => Some(content(&[
            "application/apply-patch+yaml",
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
        ])),
        _ => None,
    };
    if let (Some(r), Some(m)) = (request, out.as_object_mut()) {
        m.insert("requestBody".into(), r);
    }
    out
}

fn path_parameter(name: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}})
}

fn document(table: &Table, group: &str, version: &str) -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    let gv = group_version(group, version);
    for s in of(table, group, version) {
        let d = &s.def;
        let gvk = (group, version, d.kind.as_str());
        let body = schemas.message(d.schema);
        mark(&mut schemas, d.schema, gvk);
        let mut list_body = body.clone();
        if let Some(m) = api::schema::message(&gv, &d.list_kind).filter(|_| d.storage.is_some()) {
            list_body = schemas.message(m);
            mark(&mut schemas, m, (group, version, d.list_kind.as_str()));
        }
        let base = if d.namespaced {
            format!(
                "/{}/namespaces/{{namespace}}/{}",
                root(group, version),
                d.resource
            )
        } else {
            format!("/{}/{}", root(group, version), d.resource)
        };
        let has = |v: &str| d.verbs.iter().any(|x| x == v) || (v == "create" && d.review.is_some());
        let ns = || {
            if d.namespaced {
                vec![path_parameter("namespace")]
            } else {
                Vec::new()
            }
        };
        let mut collection = Map::new();
        let mut item = Map::new();
        let add =
            |on: &mut Map<String, Value>, verb: &str, method: &str, action: &str, body: &Value| {
                if has(verb) {
                    let id = format!(
                        "{action}{}{}",
                        if d.namespaced { "Namespaced" } else { "" },
                        d.kind
                    );
                    on.insert(
                        method.into(),
                        operation(&Operation {
                            method,
                            action,
                            gvk,
                            body,
                            id,
                        }),
                    );
                }
            };
        add(&mut collection, "list", "get", "list", &list_body);
        add(&mut collection, "create", "post", "post", &body);
        add(
            &mut collection,
            "deletecollection",
            "delete",
            "deletecollection",
            &body,
        );
        add(&mut item, "get", "get", "get", &body);
        add(&mut item, "update", "put", "put", &body);
        add(&mut item, "patch", "patch", "patch", &body);
        add(&mut item, "delete", "delete", "delete", &body);
        if d.namespaced && has("list") {
            let id = format!("list{}ForAllNamespaces", d.kind);
            let o = Operation {
                method: "get",
                action: "list",
                gvk,
                body: &list_body,
                id,
            };
            paths.insert(
                format!("/{}/{}", root(group, version), d.resource),
                json!({"get": operation(&o)}),
            );
        }
        if !collection.is_empty() {
            collection.insert("parameters".into(), ns().into());
            paths.insert(base.clone(), collection.into());
        }
        if !item.is_empty() {
            let mut p = ns();
            p.push(path_parameter("name"));
            item.insert("parameters".into(), p.into());
            paths.insert(format!("{base}/{{name}}"), item.into());
        }
        for sub in &d.subresources {
            let body = schemas.message(sub.schema);
            mark(&mut schemas, sub.schema, sub.gvk);
            let mut on = Map::new();
            for verb in sub.verbs {
                let (method, action) = match *verb {
                    "create" => ("post", "post"),
                    "update" => ("put", "put"),
                    "patch" => ("patch", "patch"),
                    "delete" => ("delete", "delete"),
                    _ => ("get", "get"),
                };
                let id = format!("{action}{}{}", d.kind, sub.name);
                on.insert(
                    method.into(),
                    operation(&Operation {
                        method,
                        action,
                        gvk: sub.gvk,
                        body: &body,
                        id,
                    }),
                );
            }
            let mut p = ns();
            p.push(path_parameter("name"));
            on.insert("parameters".into(), p.into());
            paths.insert(format!("{base}/{{name}}/{}", sub.name), on.into());
        }
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": component::version::GIT_VERSION},
        "paths": paths,
        "components": {"schemas": schemas.out},
    })
}

/// Notes the kind that a schema belongs to.
fn mark(schemas: &mut Schemas, m: &'static Message, gvk: (&str, &str, &str)) {
    let name = schemas.names.of(m);
    let (group, version, kind) = gvk;
    let entry = json!({"group": group, "version": version, "kind": kind});
    if let Some(s) = schemas.out.get_mut(&name).and_then(Value::as_object_mut) {
        let list = s
            .entry("x-kubernetes-group-version-kind")
            .or_insert_with(|| json!([]));
        if let Some(l) = list.as_array_mut()
            && !l.contains(&entry)
        {
            l.push(entry);
        }
    }
}
