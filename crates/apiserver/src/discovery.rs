//! What is served: `/api`, `/apis`, their groups and versions, in the legacy form and aggregated, and `/version`.
//!
//! Everything is derived from the table of resources. A document is made when first asked for, and its bytes are kept as
//! long as the table is the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use api::Status;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use serde_json::{Map, Value, json};

use crate::Response;
use crate::body::Body;
use crate::chain::{Config, Server};
use crate::core::{Served, Table};
use crate::encode;
use crate::negotiate::{self, Media};
use crate::query::Query;

/// Documents that do not depend on requests.
#[derive(Default)]
pub struct Documents {
    /// Those of `/openapi`.
    pub openapi: crate::openapi::Cache,
    discovery: Mutex<Kept>,
}

/// What a discovery document is of, and how it is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    /// Without slashes at its ends; a path that exists.
    path: String,
    aggregated: bool,
    media: Media,
    pretty: bool,
}

/// Bytes with their type, and their hash where clients may have them already.
#[derive(Clone)]
struct Made {
    media: &'static str,
    tag: Option<HeaderValue>,
    bytes: Bytes,
}

#[derive(Default)]
struct Kept {
    of: Weak<Table>,
    made: HashMap<Key, Made>,
}

impl Documents {
    /// The document of a key for these resources, made now unless it is kept.
    fn discovery(
        &self,
        table: &Arc<Table>,
        key: Key,
        make: impl FnOnce() -> Result<Made, Status>,
    ) -> Result<Made, Status> {
        let lock = || {
            self.discovery
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        let of = Arc::downgrade(table);
        {
            let mut kept = lock();
            if !kept.of.ptr_eq(&of) {
                *kept = Kept {
                    of: of.clone(),
                    made: HashMap::new(),
                };
            }
            if let Some(made) = kept.made.get(&key) {
                return Ok(made.clone());
            }
        }
        let made = make()?;
        let mut kept = lock();
        // Another request may have seen other resources meanwhile.
        if kept.of.ptr_eq(&of) {
            kept.made.insert(key, made.clone());
        }
        Ok(made)
    }

    /// `/version`
    pub fn version(&self, config: &Config) -> Response {
        let mut info = component::version::info();
        if let Some(m) = info.as_object_mut() {
            m.insert("gitVersion".into(), config.git_version.clone().into());
            m.insert("gitCommit".into(), config.git_commit.clone().into());
        }
        // In the order of upstream's struct.
        const ORDER: [&str; 13] = [
            "major",
            "minor",
            "emulationMajor",
            "emulationMinor",
            "minCompatibilityMajor",
            "minCompatibilityMinor",
            "gitVersion",
            "gitCommit",
            "gitTreeState",
            "buildDate",
            "goVersion",
            "compiler",
            "platform",
        ];
        let members: Vec<String> = ORDER
            .iter()
            .filter_map(|k| info.get(k).map(|v| format!("\"{k}\":{v}")))
            .collect();
        let bytes = encode::indent(format!("{{{}}}", members.join(",")).as_bytes());
        let mut r = Response::new(Body::from(bytes));
        r.headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        r
    }
}

/// Answers a discovery path without its trailing slash; `None` for paths that are none.
pub fn serve(
    server: &Arc<Server>,
    path: &str,
    headers: &HeaderMap,
    query: &Query,
) -> Result<Option<Response>, Status> {
    let table = server.engine.core.table();
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let core = |s: &Served| s.def.group.is_empty();
    let exists = match parts.as_slice() {
        [] | ["api" | "apis"] => true,
        ["api", version] => table
            .all
            .iter()
            .any(|s| core(s) && s.def.version == *version),
        ["apis", name] => table.all.iter().any(|s| !core(s) && s.def.group == *name),
        ["apis", name, version] => table.has(name, version),
        _ => false,
    };
    if !exists {
        return Ok(None);
    }
    let aggregated = matches!(parts.as_slice(), ["api" | "apis"]) && wants_aggregated(headers);
    let (media, pretty) = if aggregated {
        (aggregated_media(headers), false)
    } else if parts.is_empty() {
        (Media::Json, true)
    } else {
        // Lists of groups are served outside of the router.
        if !matches!(parts.as_slice(), ["apis"] | ["apis", _]) {
            negotiate::routed(headers, negotiate::OBJECTS)?;
        }
        let output = negotiate::output(headers, query, false)?;
        (output.media, output.pretty)
    };
    let key = Key {
        path: parts.join("/"),
        aggregated,
        media,
        pretty,
    };
    let made = server.documents.discovery(&table, key, || {
        if aggregated {
            return Ok(aggregate(&table, media, parts == ["api"]));
        }
        let document = match parts.as_slice() {
            [] => root(server, &table),
            ["api"] => json!({
                "kind": "APIVersions",
                "versions": ["v1"],
                "serverAddressByClientCIDRs": [
                    {"clientCIDR": "0.0.0.0/0", "serverAddress": server.config.advertise}
                ],
            }),
            ["apis"] => {
                let list: Vec<Value> = groups(&table).iter().map(|g| group(&table, g)).collect();
                json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list})
            }
            ["api", version] => resources(&table, "", version),
            ["apis", name] => {
                let mut g = group(&table, name);
                if let Some(m) = g.as_object_mut() {
                    m.insert("kind".into(), "APIGroup".into());
                    m.insert("apiVersion".into(), "v1".into());
                }
                g
            }
            ["apis", name, version] => resources(&table, name, version),
            _ => return Err(Status::no_such_path()),
        };
        legacy(media, pretty, &document)
    })?;
    Ok(Some(respond(made, headers)))
}

/// A document of the first form.
fn legacy(media: Media, pretty: bool, document: &Value) -> Result<Made, Status> {
    let text = |name: &str| document.get(name).and_then(Value::as_str);
    let schema = text("kind").and_then(|kind| api::schema::message("v1", kind));
    let (media, bytes) = match schema {
        Some(schema) => {
            let kind = encode::Kind {
                schema,
                // The core group's documents are older than their version.
                api_version: text("apiVersion").unwrap_or_default(),
                kind: text("kind").unwrap_or_default(),
                dynamic: false,
            };
            (media, encode::tree(media, pretty, kind, document)?)
        }
        None => {
            let media = match media {
                Media::Protobuf => Media::Json,
                other => other,
            };
            (media, encode::any(media, pretty, document)?)
        }
    };
    Ok(Made {
        media: media.name(),
        tag: None,
        bytes: bytes.into(),
    })
}

fn respond(made: Made, headers: &HeaderMap) -> Response {
    let known = made.tag.is_some() && headers.get(IF_NONE_MATCH) == made.tag.as_ref();
    let mut r = Response::new(if known {
        Body::empty()
    } else {
        Body::from(made.bytes)
    });
    if known {
        *r.status_mut() = http::StatusCode::NOT_MODIFIED;
    }
    let h = r.headers_mut();
    h.insert(CONTENT_TYPE, HeaderValue::from_static(made.media));
    if let Some(tag) = made.tag {
        h.insert(ETAG, tag);
        h.insert(CACHE_CONTROL, HeaderValue::from_static("public"));
        h.insert(VARY, HeaderValue::from_static("Accept"));
    }
    r
}

fn root(server: &Server, table: &Table) -> Value {
    let mut paths: Vec<String> = [
        "/api",
        "/api/v1",
        "/apis",
        "/apis/",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/",
        "/readyz",
        "/version",
    ]
    .iter()
    .map(|s| (*s).to_owned())
    .collect();
    for g in groups(table) {
        paths.push(format!("/apis/{g}"));
        for v in versions(table, &g) {
            paths.push(format!("/apis/{g}/{v}"));
        }
    }
    paths.extend(server.extra_paths.iter().map(|(p, _)| p.clone()));
    paths.sort();
    json!({"paths": paths})
}

/// Named groups in the order of registration.
fn groups(table: &Table) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for s in &table.all {
        if !s.def.group.is_empty() && !out.contains(&s.def.group) {
            out.push(s.def.group.clone());
        }
    }
    out
}

/// The versions of a group, the preferred one first.
fn versions(table: &Table, group: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for s in &table.all {
        if s.def.group == group && !out.contains(&s.def.version) {
            out.push(s.def.version.clone());
        }
    }
    out
}

fn group(table: &Table, name: &str) -> Value {
    let list: Vec<Value> = versions(table, name)
        .iter()
        .map(|v| json!({"groupVersion": format!("{name}/{v}"), "version": v}))
        .collect();
    json!({"name": name, "versions": list, "preferredVersion": list.first()})
}

fn storage_hash(s: &Served) -> Option<String> {
    let storage = s.def.storage.as_ref()?;
    let (group, version) = storage
        .api_version
        .split_once('/')
        .unwrap_or(("", &storage.api_version));
    let text = format!("{group}/{version}/{}", storage.kind);
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    Some(STANDARD.encode(digest.as_ref().get(..8)?))
}

fn put_list(m: &mut Map<String, Value>, key: &str, list: &[String]) {
    if !list.is_empty() {
        m.insert(key.into(), list.into());
    }
}

fn resources(table: &Table, group: &str, version: &str) -> Value {
    let mut list = Vec::new();
    let mut of_version: Vec<&Arc<Served>> = table
        .all
        .iter()
        .filter(|s| s.def.group == group && s.def.version == version)
        .collect();
    of_version.sort_by(|a, b| a.def.resource.cmp(&b.def.resource));
    for s in of_version {
        let d = &s.def;
        let mut m = Map::new();
        m.insert("name".into(), d.resource.clone().into());
        m.insert("singularName".into(), d.singular.clone().into());
        m.insert("namespaced".into(), d.namespaced.into());
        m.insert("kind".into(), d.kind.clone().into());
        m.insert("verbs".into(), d.verbs.clone().into());
        put_list(&mut m, "shortNames", &d.short_names);
        put_list(&mut m, "categories", &d.categories);
        if let Some(h) = storage_hash(s) {
            m.insert("storageVersionHash".into(), h.into());
        }
        list.push(Value::Object(m));
        for sub in &d.subresources {
            let mut m = Map::new();
            m.insert("name".into(), format!("{}/{}", d.resource, sub.name).into());
            m.insert("singularName".into(), "".into());
            m.insert("namespaced".into(), d.namespaced.into());
            if (sub.gvk.0, sub.gvk.1) != (group, version) {
                m.insert("group".into(), sub.gvk.0.into());
                m.insert("version".into(), sub.gvk.1.into());
            }
            m.insert("kind".into(), sub.gvk.2.into());
            m.insert("verbs".into(), sub.verbs.to_vec().into());
            list.push(Value::Object(m));
        }
    }
    let gv = crate::codec::group_version(group, version);
    let mut out = json!({"kind": "APIResourceList", "groupVersion": gv, "resources": list});
    if let Some(m) = out.as_object_mut().filter(|_| !group.is_empty()) {
        m.insert("apiVersion".into(), "v1".into());
    }
    out
}

/// Whether the client asks for the aggregated form (and knows nothing better).
fn wants_aggregated(headers: &HeaderMap) -> bool {
    let accept = negotiate::accept(headers);
    accept.split(',').any(|clause| {
        let mut has = [false; 3];
        for p in clause.split(';').map(str::trim) {
            match p {
                "as=APIGroupDiscoveryList" => has[0] = true,
                "g=apidiscovery.k8s.io" => has[1] = true,
                "v=v2" => has[2] = true,
                _ => {}
            }
        }
        has.iter().all(|h| *h)
    })
}

/// The encoding of the first clause that asks for the aggregated form.
fn aggregated_media(headers: &HeaderMap) -> Media {
    let accept = negotiate::accept(headers);
    let clause = accept
        .split(',')
        .find(|c| c.contains("as=APIGroupDiscoveryList") && c.contains("v=v2"))
        .unwrap_or_default();
    match clause.split(';').next().unwrap_or_default().trim() {
        "application/yaml" => Media::Yaml,
        negotiate::PROTOBUF => Media::Protobuf,
        _ => Media::Json,
    }
}

fn aggregate(table: &Table, media: Media, core: bool) -> Made {
    let names = if core {
        vec![String::new()]
    } else {
        groups(table)
    };
    let items: Vec<Value> = names
        .iter()
        .map(|g| {
            let list: Vec<Value> = versions(table, g)
                .iter()
                .map(|v| {
                    json!({"version": v, "resources": aggregated_resources(table, g, v), "freshness": "Current"})
                })
                .collect();
            let metadata = if g.is_empty() { json!({}) } else { json!({"name": g}) };
            json!({"metadata": metadata, "versions": list})
        })
        .collect();
    let document = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    });
    let kind =
        api::schema::message("apidiscovery.k8s.io/v2", "APIGroupDiscoveryList").map(|schema| {
            encode::Kind {
                schema,
                api_version: "apidiscovery.k8s.io/v2",
                kind: "APIGroupDiscoveryList",
                dynamic: false,
            }
        });
    let bytes = kind
        .and_then(|k| encode::tree(media, false, k, &document).ok())
        .unwrap_or_default();
    let digest = ring::digest::digest(&ring::digest::SHA512, &bytes);
    let mut etag = String::from("\"");
    for b in digest.as_ref() {
        let _ = std::fmt::Write::write_fmt(&mut etag, format_args!("{b:02X}"));
    }
    etag.push('"');
    Made {
        media: match media {
            Media::Json => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            Media::Yaml => "application/yaml;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            Media::Protobuf => {
                "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
            }
        },
        tag: HeaderValue::from_str(&etag).ok(),
        bytes: bytes.into(),
    }
}

fn response_kind(own: (&str, &str), gvk: (&str, &str, &str)) -> Value {
    let (group, version) = if own == (gvk.0, gvk.1) {
        ("", "")
    } else {
        (gvk.0, gvk.1)
    };
    json!({"group": group, "version": version, "kind": gvk.2})
}

fn aggregated_resources(table: &Table, group: &str, version: &str) -> Vec<Value> {
    let mut of_version: Vec<&Arc<Served>> = table
        .all
        .iter()
        .filter(|s| s.def.group == group && s.def.version == version)
        .collect();
    of_version.sort_by(|a, b| a.def.resource.cmp(&b.def.resource));
    of_version
        .into_iter()
        .map(|s| {
            let d = &s.def;
            let own = (group, version);
            let mut m = Map::new();
            m.insert("resource".into(), d.resource.clone().into());
            m.insert(
                "responseKind".into(),
                response_kind(own, (group, version, &d.kind)),
            );
            m.insert(
                "scope".into(),
                if d.namespaced {
                    "Namespaced"
                } else {
                    "Cluster"
                }
                .into(),
            );
            m.insert("singularResource".into(), d.singular.clone().into());
            m.insert("verbs".into(), d.verbs.clone().into());
            put_list(&mut m, "shortNames", &d.short_names);
            put_list(&mut m, "categories", &d.categories);
            let subs: Vec<Value> = d
                .subresources
                .iter()
                .map(|sub| {
                    json!({
                        "subresource": sub.name,
                        "responseKind": response_kind(own, sub.gvk),
                        "verbs": sub.verbs,
                    })
                })
                .collect();
            if !subs.is_empty() {
                m.insert("subresources".into(), subs.into());
            }
            Value::Object(m)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_made_once_as_long_as_the_resources_are_the_same() {
        let documents = Documents::default();
        let key = || Key {
            path: "apis".into(),
            aggregated: true,
            media: Media::Json,
            pretty: false,
        };
        let mut made = 0;
        let mut ask = |table: &Arc<Table>| {
            let make = || {
                made += 1;
                Ok(aggregate(table, Media::Json, false))
            };
            documents.discovery(table, key(), make).expect("a document")
        };
        let (first, second) = (Arc::new(Table::default()), Arc::new(Table::default()));
        let bytes = [&first, &first, &second, &second].map(|t| ask(t).bytes);
        assert_eq!(bytes[0].as_ptr(), bytes[1].as_ptr());
        assert_eq!(bytes[2].as_ptr(), bytes[3].as_ptr());
        assert_eq!(made, 2);
    }

    #[test]
    fn who_has_a_document_gets_no_bytes() {
        let made = aggregate(&Table::default(), Media::Json, false);
        let mut headers = HeaderMap::new();
        assert_eq!(respond(made.clone(), &headers).status(), 200);
        headers.insert(IF_NONE_MATCH, made.tag.clone().expect("a tag"));
        let r = respond(made, &headers);
        assert_eq!(r.status(), 304);
        assert!(matches!(r.into_body(), Body::Full(None)));
    }
}
