//! `/openapi/v3`: the index, and one document per group and version, made from the schema tables when first asked for, and
//! again when the resources it is about have changed; `/openapi/v2`: all of them in one. What is kept is compressed: all
//! documents of version 3 together take some 700 KiB, each form of version 2's some 300. One is made at a time, whoever asks.
//!
//! Descriptions come from a compressed table that the build script writes; it is inflated for the one document that is
//! made. Absent on purpose: descriptions of operations and parameters, and the protobuf form of the v3 documents.

mod gnostic;
mod second;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{Read as _, Write as _};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, EXPIRES, HeaderMap, HeaderValue,
    IF_NONE_MATCH, LOCATION, VARY,
};
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use wire::schema::{Field, ListKind, Message, Type, flag};

use crate::Response;
use crate::body::Body;
use crate::chain::Server;
use crate::codec::group_version;
use crate::core::{Served, Table};
use crate::negotiate;
use crate::query::Query;
use crate::resource::{Subresource, SubresourceKind};
use second::Form;

/// One document of those that are kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Name {
    /// `/openapi/v2`
    Second(Form),
    /// Below `/openapi/v3`
    Third(String),
}

impl Name {
    fn bytes(&self, table: &Table) -> Option<Vec<u8>> {
        match self {
            Name::Second(form) => second::document(table, *form).ok(),
            Name::Third(name) => serde_json::to_vec(&Part::find(table, name)?.document(table)).ok(),
        }
    }
}

/// The documents that were asked for.
#[derive(Default)]
pub struct Cache {
    /// Also the turn of who makes one.
    kept: Arc<tokio::sync::Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    /// The resources that the index is of, and it.
    index: Option<(Weak<Table>, Bytes)>,
    /// The hash of what the document is made of, and its bytes, compressed.
    documents: HashMap<Name, (String, Bytes)>,
    /// Documents made so far.
    made: u64,
}

impl Cache {
    async fn index(&self, table: &Arc<Table>) -> Option<Bytes> {
        let of = Arc::downgrade(table);
        let mut kept = self.kept.lock().await;
        if let Some((table, bytes)) = &kept.index
            && table.ptr_eq(&of)
        {
            return Some(bytes.clone());
        }
        // Names come and go with resources.
        let Kept { documents, .. } = &mut *kept;
        documents.retain(|name, _| match name {
            Name::Second(_) => true,
            Name::Third(name) => Part::find(table, name).is_some(),
        });
        let bytes = Bytes::from(serde_json::to_vec(&index(table)).ok()?);
        kept.index = Some((of, bytes.clone()));
        Some(bytes)
    }

    /// The document of a name that exists, compressed.
    async fn document(&self, table: &Arc<Table>, name: Name, tag: &str) -> Option<Bytes> {
        let mut kept = Arc::clone(&self.kept).lock_owned().await;
        if let Some((of, bytes)) = kept.documents.get(&name)
            && of == tag
        {
            return Some(bytes.clone());
        }
        let (table, tag) = (Arc::clone(table), tag.to_owned());
        // The turn is over when the document is made, not when who asked goes away: otherwise the next would begin anew.
        let make = move || {
            let bytes = name.bytes(&table)?;
            let mut out = GzEncoder::new(Vec::new(), Compression::default());
            out.write_all(&bytes).ok()?;
            let bytes = Bytes::from(out.finish().ok()?);
            kept.made += 1;
            kept.documents.insert(name, (tag, bytes.clone()));
            Some(bytes)
        };
        tokio::task::spawn_blocking(make).await.ok()?
    }
}

/// Answers a path under `/openapi`; `None` for those that do not exist.
pub async fn serve(
    server: &Arc<Server>,
    path: &str,
    headers: &HeaderMap,
    query: &Query,
) -> Option<Response> {
    let table = server.engine.core.table();
    if path == "/openapi/v2" {
        return second_version(server, &table, headers).await;
    }
    let rest = path.strip_prefix("/openapi/v3")?;
    if rest.is_empty() {
        // Upstream's aggregator leaves the type of the index to be guessed.
        let bytes = server.documents.openapi.index(&table).await?;
        let mut r = Response::new(Body::from(bytes));
        r.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        return Some(r);
    }
    let name = rest.strip_prefix('/')?;
    let part = Part::find(&table, name);
    let Some(part) = part else {
        let mut r = Response::new(Body::empty());
        *r.status_mut() = StatusCode::NOT_FOUND;
        return Some(r);
    };
    if !negotiate::takes_json(headers) {
        let mut r = Response::new(Body::empty());
        *r.status_mut() = StatusCode::NOT_ACCEPTABLE;
        r.headers_mut()
            .insert(VARY, HeaderValue::from_static("Accept"));
        return Some(r);
    }
    let tag = part.hash(&table);
    let asked = query.str("hash");
    if !asked.is_empty() && asked != tag {
        let to = format!("/openapi/v3/{name}?hash={tag}");
        let mut r = Response::new(Body::empty());
        *r.status_mut() = StatusCode::MOVED_PERMANENTLY;
        let h = r.headers_mut();
        h.insert(LOCATION, HeaderValue::from_str(&to).ok()?);
        h.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        h.insert(VARY, HeaderValue::from_static("Accept"));
        return Some(r);
    }
    let mut r = if known(headers, &tag) {
        not_modified(&tag)
    } else {
        let name = Name::Third(name.to_owned());
        let documents = &server.documents.openapi;
        let bytes = documents.document(&table, name, &tag).await?;
        packed(bytes, &tag, headers)
    };
    vary(&mut r);
    if !asked.is_empty() {
        // The URL names the content, so it never changes.
        let h = r.headers_mut();
        h.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
        let year = jiff::Timestamp::now()
            .to_zoned(jiff::tz::TimeZone::UTC)
            .saturating_add(jiff::Span::new().years(1));
        let text = year.strftime("%a, %d %b %Y %H:%M:%S UTC").to_string();
        h.insert(EXPIRES, HeaderValue::from_str(&text).ok()?);
    }
    Some(r)
}

/// `/openapi/v2`, as protobuf where that is asked for first.
async fn second_version(
    server: &Server,
    table: &Arc<Table>,
    headers: &HeaderMap,
) -> Option<Response> {
    let offered = Form::ALL
        .iter()
        .flat_map(|(form, media)| media.iter().map(move |m| (*m, (*form, media.first()))));
    let Some((form, media)) = negotiate::preferred(headers, offered) else {
        let mut r = Response::new(Body::empty());
        *r.status_mut() = StatusCode::NOT_ACCEPTABLE;
        vary(&mut r);
        return Some(r);
    };
    let tag = tag_of(table, form);
    let mut r = if known(headers, &tag) {
        not_modified(&tag)
    } else {
        let documents = &server.documents.openapi;
        let bytes = documents.document(table, Name::Second(form), &tag).await?;
        packed(bytes, &tag, headers)
    };
    if let Some(media) = media.filter(|_| r.status() == StatusCode::OK) {
        let media = HeaderValue::from_static(media);
        r.headers_mut().insert(CONTENT_TYPE, media);
    }
    vary(&mut r);
    Some(r)
}

/// Changes whenever the document would.
fn tag_of(table: &Table, form: Form) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA512);
    for name in names(table) {
        if let Some(part) = Part::find(table, &name) {
            context.update(part.hash(table).as_bytes());
        }
    }
    context.update(format!("{form:?}").as_bytes());
    hex(context.finish().as_ref())
}

/// An answer of compressed bytes, for a client that may not take them so.
fn packed(bytes: Bytes, tag: &str, headers: &HeaderMap) -> Response {
    let gzip = crate::compress::accepted(headers);
    let body = if gzip {
        Body::from(bytes)
    } else {
        crate::compress::inflated(bytes)
    };
    let mut r = Response::new(body);
    let h = r.headers_mut();
    h.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    h.insert(ETAG, quoted(tag));
    if gzip {
        h.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    r
}

fn vary(r: &mut Response) {
    let h = r.headers_mut();
    let by = if h.contains_key(CONTENT_ENCODING) {
        "Accept, Accept-Encoding"
    } else {
        "Accept"
    };
    h.insert(VARY, HeaderValue::from_static(by));
}

fn quoted(tag: &str) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{tag}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Whether the client has what the tag is of; as `http.ServeContent` reads the header.
fn known(headers: &HeaderMap, tag: &str) -> bool {
    let tag = quoted(tag);
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .flat_map(|v| v.as_bytes().split(|b| *b == b','))
        .map(<[u8]>::trim_ascii)
        .any(|t| t == b"*" || t.strip_prefix(b"W/").unwrap_or(t) == tag.as_bytes())
}

fn not_modified(tag: &str) -> Response {
    let mut r = Response::new(Body::empty());
    *r.status_mut() = StatusCode::NOT_MODIFIED;
    r.headers_mut().insert(ETAG, quoted(tag));
    r
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        let _ = std::fmt::Write::write_fmt(&mut out, format_args!("{b:02X}"));
    }
    out
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

/// Documents of paths that belong to no version: name, path, operation, tag, media type, kind of the answer.
const FIXED: &[(&str, &str, &str, &str, &[&str], &str)] = &[
    (
        ".well-known/openid-configuration",
        "/.well-known/openid-configuration/",
        "getServiceAccountIssuerOpenIDConfiguration",
        "WellKnown",
        &["application/json"],
        "",
    ),
    (
        "api",
        "/api/",
        "getCoreAPIVersions",
        "core",
        ENCODINGS,
        "APIVersions",
    ),
    (
        "apis",
        "/apis/",
        "getAPIVersions",
        "apis",
        ENCODINGS,
        "APIGroupList",
    ),
    (
        "openid/v1/jwks",
        "/openid/v1/jwks/",
        "getServiceAccountIssuerOpenIDKeyset",
        "openid",
        &["application/jwk-set+json"],
        "",
    ),
    (
        "version",
        "/version/",
        "getCodeVersion",
        "version",
        &["application/json"],
        VERSION,
    ),
];

/// What `/version` answers; no table has it.
const VERSION: &str = "Info";

fn version_body(schemas: &mut Schemas<'_>) -> Value {
    let always = [
        "major",
        "minor",
        "gitVersion",
        "gitCommit",
        "gitTreeState",
        "buildDate",
        "goVersion",
        "compiler",
        "platform",
    ];
    let more = [
        "emulationMajor",
        "emulationMinor",
        "minCompatibilityMajor",
        "minCompatibilityMinor",
    ];
    let properties: Map<String, Value> = always
        .iter()
        .map(|name| ((*name).to_owned(), json!({"type": "string", "default": ""})))
        .chain(
            more.iter()
                .map(|name| ((*name).to_owned(), json!({"type": "string"}))),
        )
        .collect();
    schemas.known(
        "io.k8s.apimachinery.pkg.version.Info",
        json!({"type": "object", "required": always, "properties": properties}),
    )
}

/// One document.
enum Part<'a> {
    /// See [`FIXED`].
    Fixed(usize),
    /// `/apis/<group>`
    Group(&'a str),
    /// A group and version.
    Version(&'a str, &'a str),
}

impl<'a> Part<'a> {
    fn find(table: &Table, name: &'a str) -> Option<Part<'a>> {
        if let Some(i) = FIXED.iter().position(|f| f.0 == name) {
            return Some(Part::Fixed(i));
        }
        if let Some(version) = name.strip_prefix("api/") {
            return table.has("", version).then_some(Part::Version("", version));
        }
        let rest = name.strip_prefix("apis/")?;
        match rest.split_once('/') {
            Some((g, v)) => table.has(g, v).then_some(Part::Version(g, v)),
            None => table
                .all
                .iter()
                .any(|s| !rest.is_empty() && s.def.group == rest)
                .then_some(Part::Group(rest)),
        }
    }

    /// Changes whenever the document would.
    fn hash(&self, table: &Table) -> String {
        let mut context = ring::digest::Context::new(&ring::digest::SHA512);
        context.update(component::version::GIT_VERSION.as_bytes());
        let mut add = |text: &str| {
            context.update(text.as_bytes());
            context.update(b"\0");
        };
        match self {
            Part::Fixed(i) => add(FIXED.get(*i).map_or("", |f| f.0)),
            Part::Group(g) => add(g),
            Part::Version(group, version) => {
                add(group);
                add(version);
                for s in of(table, group, version) {
                    add(&s.def.resource);
                    for sub in &s.def.subresources {
                        add(sub.name);
                    }
                }
            }
        }
        hex(context.finish().as_ref())
    }

    /// Its paths; what they refer to is added to the schemas.
    fn paths(&self, table: &Table, schemas: &mut Schemas<'_>) -> Map<String, Value> {
        match self {
            Part::Fixed(i) => {
                let mut paths = Map::new();
                if let Some((_, path, id, tag, media, kind)) = FIXED.get(*i) {
                    let body = match *kind {
                        VERSION => version_body(schemas),
                        kind => meta_body(schemas, kind),
                    };
                    paths.insert((*path).to_owned(), plain(id, tag, media, &body));
                }
                paths
            }
            Part::Group(g) => {
                let body = meta_body(schemas, "APIGroup");
                let (title, tag) = (title(g), short(g));
                let id = format!("get{title}APIGroup");
                let mut paths = Map::new();
                paths.insert(format!("/apis/{g}/"), plain(&id, &tag, ENCODINGS, &body));
                paths
            }
            Part::Version(group, version) => versioned(table, group, version, schemas),
        }
    }

    fn document(&self, table: &Table) -> Value {
        let text = inflate();
        let mut schemas = Schemas::new(&text);
        let paths = self.paths(table, &mut schemas);
        json!({
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": component::version::GIT_VERSION},
            "paths": paths,
            "components": {
                "schemas": schemas.out,
                "securitySchemes": {"BearerToken": {
                    "type": "apiKey",
                    "description": "Bearer Token authentication",
                    "name": "authorization",
                    "in": "header",
                }},
            },
        })
    }
}

/// The names of all documents of version 3.
fn names(table: &Table) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = FIXED.iter().map(|f| f.0.to_owned()).collect();
    for s in &table.all {
        names.insert(root(&s.def.group, &s.def.version));
        if !s.def.group.is_empty() {
            names.insert(format!("apis/{}", s.def.group));
        }
    }
    names
}

fn index(table: &Table) -> Value {
    let mut paths = Map::new();
    for name in names(table) {
        if let Some(part) = Part::find(table, &name) {
            let url = format!("/openapi/v3/{name}?hash={}", part.hash(table));
            paths.insert(name, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths})
}

/// The descriptions of types and fields; see `build.rs`.
fn inflate() -> String {
    let table: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions"));
    let mut text = String::new();
    if let Err(e) = flate2::read::DeflateDecoder::new(table).read_to_string(&mut text) {
        tracing::error!(error = %e, "cannot read the descriptions");
    }
    text
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
            let package = match group {
                "meta.k8s.io" => "io.k8s.apimachinery.pkg.apis.meta".to_owned(),
                "apiextensions.k8s.io" => {
                    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions".to_owned()
                }
                "apiregistration.k8s.io" => {
                    "io.k8s.kube-aggregator.pkg.apis.apiregistration".to_owned()
                }
                "" => "io.k8s.api.core".to_owned(),
                "internal.apiserver.k8s.io" => "io.k8s.api.apiserverinternal".to_owned(),
                g => format!("io.k8s.api.{}", g.split('.').next().unwrap_or(g)),
            };
            out.entry(address(m))
                .or_insert(format!("{package}.{version}.{kind}"));
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

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

struct Schemas<'t> {
    names: Names,
    /// By type and field.
    descriptions: HashMap<(&'t str, &'t str), &'t str>,
    out: Map<String, Value>,
}

impl<'t> Schemas<'t> {
    fn new(text: &'t str) -> Schemas<'t> {
        let mut descriptions = HashMap::new();
        let mut parts = text.split('\0');
        while let (Some(of), Some(field), Some(text)) = (parts.next(), parts.next(), parts.next()) {
            descriptions.insert((of, field), text);
        }
        Schemas {
            names: Names::new(),
            descriptions,
            out: Map::new(),
        }
    }

    fn describe(&self, of: &str, field: &str, schema: &mut Map<String, Value>) {
        if let Some(text) = self.descriptions.get(&(of, field)) {
            schema.insert("description".into(), (*text).into());
        }
    }

    /// A reference to a type whose form is given here rather than by a table.
    fn known(&mut self, name: &str, form: Value) -> Value {
        if !self.out.contains_key(name) {
            let mut form = form;
            if let Some(m) = form.as_object_mut() {
                self.describe(name, "", m);
            }
            self.out.insert(name.to_owned(), form);
        }
        reference(name)
    }

    fn of(&mut self, ty: &Type) -> Value {
        const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
        const EXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1";
        match ty {
            Type::Bool => json!({"type": "boolean"}),
            Type::I32 | Type::U32 => json!({"type": "integer", "format": "int32"}),
            Type::I64 | Type::U64 => json!({"type": "integer", "format": "int64"}),
            Type::F64 => json!({"type": "number", "format": "double"}),
            Type::String => json!({"type": "string"}),
            Type::Bytes => json!({"type": "string", "format": "byte"}),
            Type::Message(m) => self.message(m),
            Type::List(t) | Type::WrappedList(t) => json!({"type": "array", "items": self.of(t)}),
            Type::Map(t) => json!({"type": "object", "additionalProperties": self.of(t)}),
            Type::Time => self.known(
                &format!("{META}.Time"),
                json!({"type": "string", "format": "date-time"}),
            ),
            Type::MicroTime => self.known(
                &format!("{META}.MicroTime"),
                json!({"type": "string", "format": "date-time"}),
            ),
            Type::Duration => {
                self.known(&format!("{META}.Duration"), json!({"type": "string"}))
            }
            Type::FieldsV1 => {
                self.known(&format!("{META}.FieldsV1"), json!({"type": "object"}))
            }
            Type::Quantity => self.known(
                "io.k8s.apimachinery.pkg.api.resource.Quantity",
                json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            ),
            Type::IntOrString => self.known(
                "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
                json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"}),
            ),
            Type::RawExtension => self.known(
                "io.k8s.apimachinery.pkg.runtime.RawExtension",
                json!({"type": "object"}),
            ),
            Type::Json => self.known(&format!("{EXTENSIONS}.JSON"), json!({})),
            Type::SchemaOrArray(_) => {
                self.known(&format!("{EXTENSIONS}.JSONSchemaPropsOrArray"), json!({}))
            }
            Type::SchemaOrBool(_) => {
                self.known(&format!("{EXTENSIONS}.JSONSchemaPropsOrBool"), json!({}))
            }
            Type::SchemaOrStrings(_) => self.known(
                &format!("{EXTENSIONS}.JSONSchemaPropsOrStringArray"),
                json!({}),
            ),
            Type::Any => json!({}),
        }
    }

    /// A reference to a type, whose schema is added if need be.
    fn message(&mut self, m: &'static Message) -> Value {
        let name = self.names.of(m);
        if self.out.contains_key(&name) {
            return reference(&name);
        }
        // Types may contain themselves.
        self.out.insert(name.clone(), Value::Null);
        let mut schema = Map::new();
        self.describe(&name, "", &mut schema);
        schema.insert("type".into(), "object".into());
        let mut properties = Map::new();
        let mut required = Vec::new();
        if m.type_meta {
            for field in ["apiVersion", "kind"] {
                let mut s = Map::new();
                self.describe(&name, field, &mut s);
                s.insert("type".into(), "string".into());
                properties.insert(field.into(), s.into());
            }
        }
        self.fields(&name, m, &mut properties, &mut required);
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
        reference(&name)
    }

    fn fields(
        &mut self,
        of: &str,
        m: &'static Message,
        properties: &mut Map<String, Value>,
        required: &mut Vec<Value>,
    ) {
        for f in m.fields {
            if f.is(flag::INLINE) {
                if let Type::Message(inner) = f.ty {
                    self.fields(of, inner, properties, required);
                }
                continue;
            }
            if f.json.is_empty() || f.json == "-" {
                continue;
            }
            let schema = self.field(of, f);
            properties.insert(f.json.to_owned(), schema);
            let optional = f.is(flag::OPTIONAL | flag::OMITEMPTY | flag::OMITZERO | flag::POINTER);
            if !optional || f.is(flag::REQUIRED) {
                required.push(f.json.into());
            }
        }
    }

    fn field(&mut self, of: &str, f: &Field) -> Value {
        let mut schema = self.of(&f.ty);
        let default = serde_json::from_str(f.default).ok().or_else(|| zero(f));
        if schema.get("$ref").is_some() {
            // What stands beside a reference is ignored, so it is wrapped.
            schema = json!({"allOf": [schema]});
        }
        let bare = schema.pointer("/allOf/0").cloned();
        let Some(m) = schema.as_object_mut() else {
            return schema;
        };
        self.describe(of, f.json, m);
        if let Some(d) = default {
            m.insert("default".into(), d);
        }
        if !f.values.is_empty() {
            let mut values = f.values.to_vec();
            values.sort_unstable();
            // The values of a list are those of its items.
            match m.get_mut("items").and_then(Value::as_object_mut) {
                Some(items) => {
                    items.insert("enum".into(), values.into());
                }
                None => {
                    let text = m
                        .get("description")
                        .and_then(Value::as_str)
                        .unwrap_or_default();
                    let all: Vec<String> = values.iter().map(|v| format!(" - `\"{v}\"`")).collect();
                    let text = format!("{text}\n\nPossible enum values:\n{}", all.join("\n"));
                    m.insert("description".into(), text.into());
                    m.insert("enum".into(), values.into());
                }
            }
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
        } else if f.is(flag::ATOMIC) {
            m.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        let strategies = [
            (flag::PATCH_MERGE, "merge"),
            (flag::PATCH_RETAIN_KEYS, "retainKeys"),
            (flag::PATCH_REPLACE, "replace"),
        ];
        let strategy: Vec<&str> = strategies
            .iter()
            .filter(|(bit, _)| f.is(*bit))
            .map(|(_, name)| *name)
            .collect();
        if !strategy.is_empty() {
            m.insert(
                "x-kubernetes-patch-strategy".into(),
                strategy.join(",").into(),
            );
            if !f.merge_key.is_empty() {
                m.insert("x-kubernetes-patch-merge-key".into(), f.merge_key.into());
            }
        }
        match bare {
            // Nothing stands beside the reference.
            Some(reference) if m.len() == 1 => reference,
            _ => schema,
        }
    }
}

/// The default that a field has because Go has no absent value for it.
fn zero(f: &Field) -> Option<Value> {
    if f.is(flag::POINTER) {
        return None;
    }
    match f.ty {
        Type::Message(_) => Some(json!({})),
        _ if f.is(flag::OMITEMPTY | flag::OMITZERO) => None,
        Type::Bool => Some(false.into()),
        Type::I32 | Type::I64 | Type::U32 | Type::U64 | Type::F64 => Some(0.into()),
        Type::String => Some("".into()),
        _ => None,
    }
}

const ENCODINGS: &[&str] = &[
    "application/json",
    "application/vnd.kubernetes.protobuf",
    "application/yaml",
];
const STREAMS: &[&str] = &[
    "application/json",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf",
    "application/vnd.kubernetes.protobuf;stream=watch",
    "application/yaml",
];
const PATCHES: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

const WRITE: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("fieldManager", "string"),
    ("fieldValidation", "string"),
];
const LIST: &[(&str, &str)] = &[
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("shardSelector", "string"),
    ("timeoutSeconds", "integer"),
];
const WATCH: &[(&str, &str)] = &[("allowWatchBookmarks", "boolean"), ("watch", "boolean")];
const DELETE: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    (
        "ignoreStoreReadErrorWithClusterBreakingPotential",
        "boolean",
    ),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];

fn parameter(name: &str, kind: &str) -> Value {
    json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}})
}

fn path_parameter(name: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}})
}

fn content(media: &[&str], schema: &Value) -> Value {
    let all: Map<String, Value> = media
        .iter()
        .map(|m| ((*m).to_owned(), json!({"schema": schema})))
        .collect();
    all.into()
}

fn responses(codes: &[u16], media: &[&str], schema: &Value) -> Value {
    let mut out = Map::new();
    for code in codes {
        let text = match code {
            201 => "Created",
            202 => "Accepted",
            _ => "OK",
        };
        out.insert(
            code.to_string(),
            json!({"description": text, "content": content(media, schema)}),
        );
    }
    out.insert("401".into(), json!({"description": "Unauthorized"}));
    out.into()
}

/// An operation that is about no kind.
fn plain(id: &str, tag: &str, media: &[&str], body: &Value) -> Value {
    json!({"get": {
        "operationId": id,
        "tags": [tag],
        "responses": responses(&[200], media, body),
    }})
}

fn meta_body(schemas: &mut Schemas<'_>, kind: &str) -> Value {
    match api::schema::message("meta.k8s.io/v1", kind) {
        Some(m) => {
            mark(schemas, m, ("", "v1", kind));
            schemas.message(m)
        }
        None => json!({"type": "string"}),
    }
}

/// `rbacAuthorization`, `core`
fn short(group: &str) -> String {
    let name = group.strip_suffix(".k8s.io").unwrap_or(group);
    if name.is_empty() {
        return "core".into();
    }
    let mut out = String::new();
    for (i, part) in name.split('.').enumerate() {
        out.push_str(&if i == 0 {
            part.to_owned()
        } else {
            capital(part)
        });
    }
    out
}

fn title(group: &str) -> String {
    capital(&short(group))
}

fn capital(s: &str) -> String {
    let mut chars = s.chars();
    chars
        .next()
        .map(|c| c.to_ascii_uppercase())
        .into_iter()
        .chain(chars)
        .collect()
}

/// What operations on one resource have in common.
struct Operations<'a> {
    group: &'a str,
    version: &'a str,
    namespaced: bool,
    status: Value,
    delete_options: Value,
    patch: Value,
}

impl Operations<'_> {
    /// `CoreV1`
    fn title(&self) -> String {
        format!("{}{}", title(self.group), capital(self.version))
    }

    fn operation(
        &self,
        method: &str,
        action: &str,
        id: &str,
        gvk: (&str, &str, &str),
        body: &Value,
    ) -> Value {
        let (group, version, kind) = gvk;
        let mut query: Vec<(&str, &str)> = match action {
            "post" | "put" => WRITE.to_vec(),
            "patch" => [WRITE, &[("force", "boolean")]].concat(),
            "list" | "watch" | "watchlist" => [LIST, WATCH].concat(),
            "delete" => DELETE.to_vec(),
            "deletecollection" => [LIST, DELETE].concat(),
            _ => Vec::new(),
        };
        query.push(("pretty", "string"));
        query.sort_unstable();
        let parameters: Vec<Value> = query.iter().map(|(n, k)| parameter(n, k)).collect();
        let (codes, media): (&[u16], &[&str]) = match action {
            "list" | "watch" | "watchlist" => (&[200], STREAMS),
            "post" => (&[200, 201, 202], ENCODINGS),
            "put" | "patch" => (&[200, 201], ENCODINGS),
            "delete" => (&[200, 202], ENCODINGS),
            _ => (&[200], ENCODINGS),
        };
        let mut out = json!({
            "operationId": id,
            "tags": [format!("{}_{}", short(self.group), self.version)],
            "parameters": parameters,
            "responses": responses(codes, media, body),
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
        });
        let request = match method {
            "post" | "put" => json!({"content": content(&["*/*"], body), "required": true}),
            "patch" => json!({"content": content(PATCHES, &self.patch), "required": true}),
            "delete" => json!({"content": content(&["*/*"], &self.delete_options)}),
            _ => return out,
        };
        if let Some(m) = out.as_object_mut() {
            m.insert("requestBody".into(), request);
        }
        out
    }

    /// Parameters of the path itself.
    fn place(&self, name: bool) -> Vec<Value> {
        let mut out = Vec::new();
        if name {
            out.push(path_parameter("name"));
        }
        if self.namespaced {
            out.push(path_parameter("namespace"));
        }
        out
    }
}

/// The operations of a path. What all of them have as parameter stands beside them.
fn path_item(operations: Vec<(&str, Value)>, mut common: Vec<Value>) -> Value {
    let mut lists: Vec<Vec<Value>> = operations
        .iter()
        .map(|(_, o)| {
            o.get("parameters")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default()
        })
        .collect();
    let shared: Vec<Value> = lists
        .first()
        .into_iter()
        .flatten()
        .filter(|p| lists.iter().all(|l| l.contains(p)))
        .cloned()
        .collect();
    for l in &mut lists {
        l.retain(|p| !shared.contains(p));
    }
    common.extend(shared);
    common.sort_by(|a, b| {
        let name = |v: &Value| {
            v.get("name")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        name(a).cmp(&name(b))
    });
    let mut out = Map::new();
    for ((method, mut o), own) in operations.into_iter().zip(lists) {
        if let Some(m) = o.as_object_mut() {
            if own.is_empty() {
                m.remove("parameters");
            } else {
                m.insert("parameters".into(), own.into());
            }
        }
        out.insert(method.to_owned(), o);
    }
    if !common.is_empty() {
        out.insert("parameters".into(), common.into());
    }
    out.into()
}

fn versioned(
    table: &Table,
    group: &str,
    version: &str,
    schemas: &mut Schemas<'_>,
) -> Map<String, Value> {
    let gv = group_version(group, version);
    let mut paths = Map::new();
    let about = meta_body(schemas, "APIResourceList");
    let base = root(group, version);
    let mut common = Operations {
        group,
        version,
        namespaced: false,
        status: meta_body(schemas, "Status"),
        delete_options: meta_body(schemas, "DeleteOptions"),
        patch: schemas.known(
            "io.k8s.apimachinery.pkg.apis.meta.v1.Patch",
            json!({"type": "object"}),
        ),
    };
    let event = meta_body(schemas, "WatchEvent");
    for kind in ["DeleteOptions", "WatchEvent"] {
        if let Some(m) = api::schema::message("meta.k8s.io/v1", kind) {
            mark(schemas, m, (group, version, kind));
        }
    }
    let id = format!("get{}APIResources", common.title());
    let tag = format!("{}_{version}", short(group));
    paths.insert(format!("/{base}/"), plain(&id, &tag, ENCODINGS, &about));
    for s in of(table, group, version) {
        let d = &s.def;
        common.namespaced = d.namespaced;
        let gvk = (group, version, d.kind.as_str());
        let body = schemas.message(d.schema);
        mark(schemas, d.schema, gvk);
        let mut list_body = body.clone();
        let listed = d.storage.is_some() || d.computed.is_some();
        if let Some(m) = api::schema::message(&gv, &d.list_kind).filter(|_| listed) {
            list_body = schemas.message(m);
            mark(schemas, m, (group, version, d.list_kind.as_str()));
        }
        let within = if d.namespaced {
            format!("namespaces/{{namespace}}/{}", d.resource)
        } else {
            d.resource.clone()
        };
        let has = |v: &str| d.verbs.iter().any(|x| x == v) || (v == "create" && d.review.is_some());
        let scope = if d.namespaced { "Namespaced" } else { "" };
        let title = common.title();
        let deleted = if d.strategy.returns_deleted() {
            body.clone()
        } else {
            common.status.clone()
        };
        let named = [
            ("get", "get", "get", "read", &body),
            ("update", "put", "put", "replace", &body),
            ("patch", "patch", "patch", "patch", &body),
            ("delete", "delete", "delete", "delete", &deleted),
        ];
        let many = [
            ("list", "get", "list", "list", "", &list_body),
            ("create", "post", "post", "create", "", &body),
            (
                "deletecollection",
                "delete",
                "deletecollection",
                "delete",
                "Collection",
                &common.status,
            ),
        ];
        let collection: Vec<(&str, Value)> = many
            .iter()
            .filter(|(verb, ..)| has(verb))
            .map(|(_, method, action, word, what, body)| {
                let id = format!("{word}{title}{what}{scope}{}", d.kind);
                (*method, common.operation(method, action, &id, gvk, body))
            })
            .collect();
        let item: Vec<(&str, Value)> = named
            .iter()
            .filter(|(verb, ..)| has(verb))
            .map(|(_, method, action, word, body)| {
                let id = format!("{word}{title}{scope}{}", d.kind);
                (*method, common.operation(method, action, &id, gvk, body))
            })
            .collect();
        if !collection.is_empty() {
            paths.insert(
                format!("/{base}/{within}"),
                path_item(collection, common.place(false)),
            );
        }
        if !item.is_empty() {
            paths.insert(
                format!("/{base}/{within}/{{name}}"),
                path_item(item, common.place(true)),
            );
        }
        if has("list") && d.namespaced {
            let id = format!("list{title}{}ForAllNamespaces", d.kind);
            let o = common.operation("get", "list", &id, gvk, &list_body);
            paths.insert(
                format!("/{base}/{}", d.resource),
                path_item(vec![("get", o)], Vec::new()),
            );
        }
        if has("watch") {
            let mut watch = |path: String, action: &str, id: String, place: Vec<Value>| {
                let o = common.operation("get", action, &id, gvk, &event);
                paths.insert(path, path_item(vec![("get", o)], place));
            };
            watch(
                format!("/{base}/watch/{within}"),
                "watchlist",
                format!("watch{title}{scope}{}List", d.kind),
                common.place(false),
            );
            watch(
                format!("/{base}/watch/{within}/{{name}}"),
                "watch",
                format!("watch{title}{scope}{}", d.kind),
                common.place(true),
            );
            if d.namespaced {
                watch(
                    format!("/{base}/watch/{}", d.resource),
                    "watchlist",
                    format!("watch{title}{}ListForAllNamespaces", d.kind),
                    Vec::new(),
                );
            }
        }
        for sub in &d.subresources {
            let path = format!("/{base}/{within}/{{name}}/{}", sub.name);
            if matches!(sub.kind, SubresourceKind::Connect(_)) && sub.name != "log" {
                connections(&common, &d.kind, sub, &path, &mut paths);
                continue;
            }
            let log = sub.name == "log";
            let body = if log {
                json!({"type": "string"})
            } else {
                mark(schemas, sub.schema, sub.gvk);
                schemas.message(sub.schema)
            };
            let mut operations = Vec::new();
            for verb in sub.verbs {
                let (method, action, word) = match *verb {
                    "create" => ("post", "post", "create"),
                    "update" => ("put", "put", "replace"),
                    "patch" => ("patch", "patch", "patch"),
                    "delete" => ("delete", "delete", "delete"),
                    _ => ("get", "get", "read"),
                };
                let id = format!("{word}{title}{scope}{}{}", d.kind, capital(sub.name));
                // Log has the kind of what is logged.
                let gvk = if log { gvk } else { sub.gvk };
                let mut o = common.operation(method, action, &id, gvk, &body);
                if log {
                    let media = [ENCODINGS, &["text/plain"]].concat();
                    if let Some(m) = o.as_object_mut() {
                        m.insert("responses".into(), responses(&[200], &media, &body));
                    }
                    add_parameters(&mut o, LOG);
                }
                operations.push((method, o));
            }
            paths.insert(path, path_item(operations, common.place(true)));
        }
    }
    paths
        .into_iter()
        .collect::<BTreeMap<_, _>>()
        .into_iter()
        .collect()
}

const LOG: &[(&str, &str)] = &[
    ("container", "string"),
    ("follow", "boolean"),
    ("insecureSkipTLSVerifyBackend", "boolean"),
    ("limitBytes", "integer"),
    ("previous", "boolean"),
    ("sinceSeconds", "integer"),
    ("stream", "string"),
    ("tailLines", "integer"),
    ("timestamps", "boolean"),
];
const STREAM: &[(&str, &str)] = &[
    ("container", "string"),
    ("stderr", "boolean"),
    ("stdin", "boolean"),
    ("stdout", "boolean"),
    ("tty", "boolean"),
];

fn add_parameters(operation: &mut Value, more: &[(&str, &str)]) {
    if let Some(list) = operation
        .get_mut("parameters")
        .and_then(Value::as_array_mut)
    {
        list.extend(more.iter().map(|(n, k)| parameter(n, k)));
    }
}

/// exec, attach, portforward and proxy.
fn connections(
    common: &Operations<'_>,
    kind: &str,
    sub: &Subresource,
    path: &str,
    paths: &mut Map<String, Value>,
) {
    let proxy = sub.name == "proxy";
    let mut query: Vec<(&str, &str)> = match sub.name {
        "exec" => [STREAM, &[("command", "string")]].concat(),
        "attach" => STREAM.to_vec(),
        "portforward" => vec![("ports", "integer")],
        _ => vec![("path", "string")],
    };
    query.sort_unstable();
    let methods: &[Method] = if proxy {
        &[
            Method::DELETE,
            Method::GET,
            Method::HEAD,
            Method::OPTIONS,
            Method::PATCH,
            Method::POST,
            Method::PUT,
        ]
    } else {
        &[Method::GET, Method::POST]
    };
    let forms: &[(&str, &str)] = if proxy {
        &[("", ""), ("/{path}", "WithPath")]
    } else {
        &[("", "")]
    };
    let scope = if common.namespaced { "Namespaced" } else { "" };
    let (group, version, options) = sub.gvk;
    for (suffix, with) in forms {
        let operations = methods
            .iter()
            .map(|m| {
                let lower = m.as_str().to_ascii_lowercase();
                let id = format!(
                    "connect{}{}{scope}{kind}{}{with}",
                    common.title(),
                    capital(&lower),
                    capital(sub.name)
                );
                let o = json!({
                    "operationId": id,
                    "tags": [format!("{}_{}", short(common.group), common.version)],
                    "responses": responses(&[200], &["*/*"], &json!({"type": "string"})),
                    "x-kubernetes-action": "connect",
                    "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": options},
                });
                (lower, o)
            })
            .collect::<Vec<_>>();
        let mut place = common.place(true);
        if !suffix.is_empty() {
            place.push(path_parameter("path"));
        }
        place.extend(query.iter().map(|(n, k)| parameter(n, k)));
        let operations = operations
            .iter()
            .map(|(m, o)| (m.as_str(), o.clone()))
            .collect();
        paths.insert(format!("{path}{suffix}"), path_item(operations, place));
    }
}

/// Notes the kind that a schema belongs to.
fn mark(schemas: &mut Schemas<'_>, m: &'static Message, gvk: (&str, &str, &str)) {
    schemas.message(m);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_descriptions_defaults_and_lists_their_type() {
        let text = inflate();
        let mut schemas = Schemas::new(&text);
        let pod = api::schema::message("v1", "Pod").expect("a kind");
        schemas.message(pod);
        let at = |pointer: &str| {
            let all = Value::Object(schemas.out.clone());
            all.pointer(pointer).cloned().unwrap_or_default()
        };
        assert!(at("/io.k8s.api.core.v1.Pod/description").is_string());
        assert!(at("/io.k8s.api.core.v1.PodSpec/properties/containers/description").is_string());
        assert!(at("/io.k8s.apimachinery.pkg.api.resource.Quantity/description").is_string());
        assert_eq!(
            at("/io.k8s.api.core.v1.Pod/properties/metadata/default"),
            json!({})
        );
        assert_eq!(
            at("/io.k8s.api.core.v1.ContainerPort/properties/protocol/default"),
            json!("TCP")
        );
        assert_eq!(
            at("/io.k8s.api.core.v1.PodSpec/properties/nodeSelector/x-kubernetes-map-type"),
            json!("atomic")
        );
        assert_eq!(
            at("/io.k8s.api.core.v1.PodSpec/properties/volumes/x-kubernetes-patch-strategy"),
            json!("merge,retainKeys")
        );
    }

    #[tokio::test]
    async fn a_document_is_made_once_for_all_who_ask() {
        let (cache, table) = (Arc::new(Cache::default()), Arc::new(Table::default()));
        let version = || Name::Third("version".into());
        let asking = (0..50).map(|_| {
            let (cache, table) = (cache.clone(), table.clone());
            tokio::spawn(async move { cache.document(&table, version(), "one").await })
        });
        let mut all = Vec::new();
        for a in asking.collect::<Vec<_>>() {
            all.push(a.await.expect("no panic").expect("a document"));
        }
        assert!(all.windows(2).all(|w| w[0].as_ptr() == w[1].as_ptr()));
        let mut text = String::new();
        let mut plain = flate2::read::GzDecoder::new(&*all[0]);
        plain.read_to_string(&mut text).expect("gzip");
        let document: Value = serde_json::from_str(&text).expect("JSON");
        assert!(document["paths"]["/version/"].is_object());
        // Other resources, another document.
        cache
            .document(&table, version(), "two")
            .await
            .expect("a document");
        let first = cache.index(&table).await.expect("an index");
        let same = cache.index(&table).await.expect("an index");
        assert_eq!(first.as_ptr(), same.as_ptr());
        assert_eq!(cache.kept.lock().await.made, 2);
    }

    #[tokio::test]
    async fn who_goes_away_does_not_begin_a_document_again() {
        let (cache, table) = (Cache::default(), Arc::new(Table::default()));
        for _ in 0..20 {
            let asked = cache.document(&table, Name::Second(Form::Json), "one");
            drop(futures::poll!(Box::pin(asked)));
        }
        let asked = cache.document(&table, Name::Second(Form::Json), "one");
        assert!(asked.await.is_some());
        assert_eq!(cache.kept.lock().await.made, 1);
    }

    #[test]
    fn tags_are_compared_as_http_says() {
        for (header, want) in [
            ("\"A\"", true),
            ("W/\"A\"", true),
            ("\"B\", \"A\"", true),
            ("*", true),
            ("A", false),
            ("\"B\"", false),
            ("", false),
        ] {
            let mut h = HeaderMap::new();
            h.insert(IF_NONE_MATCH, header.parse().expect("a header"));
            assert_eq!(known(&h, "A"), want, "{header}");
        }
    }

    #[test]
    fn groups_are_named_as_in_operations() {
        let all = [
            ("", "core", "Core"),
            ("apps", "apps", "Apps"),
            (
                "rbac.authorization.k8s.io",
                "rbacAuthorization",
                "RbacAuthorization",
            ),
            ("storage.k8s.io", "storage", "Storage"),
        ];
        for (group, tag, word) in all {
            assert_eq!(
                (short(group), title(group)),
                (tag.to_owned(), word.to_owned())
            );
        }
    }
}
