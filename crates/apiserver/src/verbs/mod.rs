//! The verbs of the REST API: from a routed request to a response.

pub mod connect;
mod read;
mod subresource;
mod watch;
mod websocket;
mod write;

use std::sync::Arc;

use api::Status;
use auth::UserInfo;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, WARNING};
use http::{Method, StatusCode};
use serde_json::Value;
use wire::json::{Decoded, Strictness};
use wire::schema::Message;

use crate::Response;
use crate::body::{Body, Input};
use crate::chain::Server;
use crate::core::Served;
use crate::encode::{self, Kind, Source};
use crate::engine::{self, Request};
use crate::negotiate::{self, Media, Output};
use crate::options::FieldValidation;
use crate::query::Query;
use crate::request_info::RequestInfo;
use crate::resource::SubresourceKind;
use crate::warnings::Warnings;

/// A routed request on a resource.
pub struct Call {
    /// The server.
    pub server: Arc<Server>,
    /// What it is about.
    pub info: RequestInfo,
    /// Who asks, after impersonation.
    pub user: UserInfo,
    /// The query.
    pub query: Query,
    /// The raw query.
    pub raw_query: String,
    /// The method.
    pub method: Method,
    /// The headers.
    pub headers: HeaderMap,
    /// The resource.
    pub served: Arc<Served>,
    /// RFC 3339 in seconds.
    pub now: String,
    /// The first part of the user agent; see [`agent`].
    pub agent: String,
    /// `Warning:` headers of the answer.
    pub warnings: Warnings,
}

/// The first part of the user agent as far as a field manager's name can hold it, without what cannot be printed; `unknown`
/// for none. Source: upstream's `prefixFromUserAgent`.
pub fn agent(headers: &HeaderMap) -> String {
    let value = headers.get(http::header::USER_AGENT);
    let first = value.and_then(|v| v.as_bytes().split(|b| *b == b'/').next());
    let first = first.unwrap_or_default();
    // No character takes more than four bytes, and the rest is not looked at.
    let head = first
        .get(..4 * api::meta::FIELD_MANAGER_MAX)
        .unwrap_or(first);
    let mut out = String::new();
    for c in String::from_utf8_lossy(head).chars() {
        if c.is_control() {
            continue;
        }
        if out.len() + c.len_utf8() > api::meta::FIELD_MANAGER_MAX {
            break;
        }
        out.push(c);
    }
    if out.is_empty() {
        out.push_str("unknown");
    }
    out
}

impl Call {
    /// Serves the request. Warnings go with errors too.
    pub async fn serve(&self, request: http::Request<Input>) -> Response {
        match self.dispatch(request).await {
            Ok(response) => response,
            Err(status) => {
                let errors = negotiate::for_errors(&self.headers, &self.query);
                let mut response = encode::status_response(&errors, &status);
                self.add_warnings(&mut response);
                response
            }
        }
    }

    async fn dispatch(&self, request: http::Request<Input>) -> Result<Response, Status> {
        self.route()?;
        if self.info.subresource.is_empty() {
            self.warn(self.served.def.strategy.deprecated().map(str::to_owned));
        }
        if !self.info.subresource.is_empty() {
            return self.subresource(request).await;
        }
        let verb = self.info.verb.as_str();
        if verb == "watch" {
            return self.watch(request).await;
        }
        let body = request.into_body();
        match verb {
            "get" => self.get().await,
            "list" => self.list().await,
            "create" => self.create(body.whole()).await,
            "update" => self.update(body.whole()).await,
            "patch" => self.patch(body.whole()).await,
            "delete" => self.delete(body.whole()).await,
            "deletecollection" => self.delete_collection(body.whole()).await,
            _ => Err(Status::method_not_allowed()),
        }
    }

    /// What upstream's router does with the path (404), the method (405) and the media types (415, 406), in this order.
    fn route(&self) -> Result<(), Status> {
        let def = &self.served.def;
        let named = !self.info.name.is_empty();
        let everywhere = def.namespaced && self.info.namespace.is_empty();
        // What belongs to the cluster is not found below a namespace, whose rights were asked for.
        if (self.info.within && !def.namespaced) || self.info.verb == "proxy" {
            return Err(Status::no_such_path());
        }
        let posted = def.review.is_some() || def.verbs.iter().all(|v| v == "create");
        let has = |v: &str| def.verbs.iter().any(|o| o == v) || (v == "create" && posted);
        let verb = self.info.verb.as_str();
        let mut produces = negotiate::OBJECTS;
        let offered: Vec<&str> = if self.info.legacy_watch {
            if !has("watch") || !self.info.subresource.is_empty() || (named && everywhere) {
                return Err(Status::no_such_path());
            }
            produces = negotiate::STREAMS;
            vec!["watch"]
        } else if !self.info.subresource.is_empty() {
            let sub = def
                .subresources
                .iter()
                .find(|s| s.name == self.info.subresource)
                .filter(|s| !everywhere && (self.info.rest.is_empty() || s.name == "proxy"))
                .ok_or_else(Status::no_such_path)?;
            match (&sub.kind, sub.name) {
                (_, "log") => {
                    produces = &[
                        "text/plain",
                        "application/json",
                        "application/yaml",
                        negotiate::PROTOBUF,
                    ];
                }
                (SubresourceKind::Connect(_), _) => produces = &["*/*"],
                _ => {}
            }
            sub.verbs.to_vec()
        } else {
            let all: &[&str] = match (named, everywhere) {
                (true, true) => &[],
                (true, false) => &["get", "update", "patch", "delete"],
                (false, true) if posted => &[],
                (false, true) => &["list", "watch"],
                (false, false) => &["list", "watch", "create", "deletecollection"],
            };
            if self.method == Method::GET && !named {
                produces = negotiate::STREAMS;
            }
            all.iter().copied().filter(|v| has(v)).collect()
        };
        if offered.is_empty() {
            return Err(Status::no_such_path());
        }
        let proxied = produces == ["*/*"];
        if !offered.contains(&verb) || (self.method == Method::HEAD && !proxied) {
            return Err(Status::method_not_allowed());
        }
        if verb == "patch" && !proxied {
            write::patch_kind(&self.headers)?;
        }
        if !proxied {
            negotiate::routed(&self.headers, produces)?;
        }
        if !named && !self.info.subresource.is_empty() {
            return Err(Status::bad_request("name must be provided"));
        }
        segment("Name parameter", &self.info.name)
    }

    fn group(&self) -> &str {
        &self.served.def.group
    }

    fn resource(&self) -> &str {
        &self.served.def.resource
    }

    /// The namespace of objects: empty for cluster-scoped resources.
    fn namespace(&self) -> &str {
        if self.served.def.namespaced {
            &self.info.namespace
        } else {
            ""
        }
    }

    fn write_request<'a>(&'a self, dry_run: bool, manager: &'a str) -> Request<'a> {
        Request {
            served: &self.served,
            user: &self.user,
            namespace: if self.resource() == "namespaces" && self.group().is_empty() {
                &self.info.name
            } else {
                self.namespace()
            },
            name: &self.info.name,
            subresource: &self.info.subresource,
            dry_run,
            now: &self.now,
            warnings: &self.warnings,
            manager,
        }
    }

    /// The name that managedFields gets: the parameter, or the user agent's first part.
    fn manager<'a>(&'a self, field_manager: &'a str) -> &'a str {
        if field_manager.is_empty() {
            &self.agent
        } else {
            field_manager
        }
    }

    fn warn(&self, texts: impl IntoIterator<Item = String>) {
        for text in texts {
            // Several errors of a YAML text are one error, and a warning each.
            match text.strip_prefix("yaml: unmarshal errors:") {
                Some(rest) => self
                    .warnings
                    .extend(rest.lines().map(|line| line.trim().to_owned())),
                None => self.warnings.add(text),
            }
        }
    }

    fn respond(&self, code: u16, media: Media, body: impl Into<Body>) -> Response {
        let mut response = Response::new(body.into());
        *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::OK);
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(media.name()));
        self.add_warnings(&mut response);
        response
    }

    /// Puts the collected warnings into a response.
    pub fn add_warnings(&self, response: &mut Response) {
        for value in self.warnings.headers() {
            response.headers_mut().append(WARNING, value);
        }
    }

    /// An object of the served version, or a Status in its place.
    fn respond_object(
        &self,
        output: &Output,
        code: u16,
        object: &Value,
    ) -> Result<Response, Status> {
        if object.get("kind").and_then(Value::as_str) == Some("Status") {
            let kind =
                encode::status_kind().ok_or_else(|| Status::internal("no schema of Status"))?;
            let bytes = encode::tree(output.media, output.pretty, kind, object)?;
            return Ok(self.respond(code, output.media, bytes));
        }
        let bytes = self.served.encoder().object(output, Source::Tree(object))?;
        Ok(self.respond(code, output.media, bytes))
    }

    /// An object of another kind (reviews, scale).
    fn respond_kind(
        &self,
        output: &Output,
        code: u16,
        gvk: (&str, &str, &str),
        schema: &'static Message,
        object: &Value,
    ) -> Result<Response, Status> {
        let api_version = crate::codec::group_version(gvk.0, gvk.1);
        let (schema, api_version, kind) = match object.get("kind").and_then(Value::as_str) {
            Some("Status") => {
                let k =
                    encode::status_kind().ok_or_else(|| Status::internal("no schema of Status"))?;
                (k.schema, "v1".to_owned(), "Status")
            }
            Some(other) if other != gvk.2 => {
                let v = object
                    .get("apiVersion")
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned();
                let s = api::schema::message(&v, other)
                    .ok_or_else(|| Status::internal(format!("no schema of {v} {other}")))?;
                (s, v, other)
            }
            _ => (schema, api_version, gvk.2),
        };
        let mut object = object.clone();
        crate::codec::set_kind(&mut object, &api_version, kind);
        let kind = Kind {
            schema,
            api_version: &api_version,
            kind,
            dynamic: false,
        };
        let bytes = encode::tree(output.media, output.pretty, kind, &object)?;
        Ok(self.respond(code, output.media, bytes))
    }

    fn output(&self) -> Result<Output, Status> {
        negotiate::output(&self.headers, &self.query, true)
    }

    /// Reads and decodes a body as a kind, with the checks of its type and of `fieldValidation`.
    fn decode_body(
        &self,
        body: Result<Bytes, Status>,
        media: Media,
        validation: FieldValidation,
        gvk: (&str, &str, &str),
        schema: &'static Message,
    ) -> Result<Value, Status> {
        let bytes = body?;
        let decoded = decode(&bytes, media, validation, gvk, schema)?;
        self.strict(decoded, validation, gvk)
    }

    fn strict(
        &self,
        decoded: Decoded,
        validation: FieldValidation,
        gvk: (&str, &str, &str),
    ) -> Result<Value, Status> {
        if !decoded.strict_errors.is_empty() {
            match validation {
                FieldValidation::Strict => {
                    let (_, version, kind) = gvk;
                    return Err(Status::bad_request(format!(
                        "{kind} in version \"{version}\" cannot be handled as a {kind}: strict decoding error: {}",
                        decoded.strict_errors.join(", ")
                    )));
                }
                FieldValidation::Warn => self.warn(decoded.strict_errors),
                FieldValidation::Ignore => {}
            }
        }
        Ok(decoded.value)
    }
}

/// The first bytes of a body for an error message: as they are where it begins like an object, else as hex.
fn excerpt(bytes: &[u8]) -> String {
    const SHOWN: usize = 30;
    if bytes.is_empty() {
        return "<empty>".into();
    }
    let head = bytes.get(..SHOWN).unwrap_or(bytes);
    let mut out = String::new();
    if head.starts_with(b"{") {
        out.push_str(&String::from_utf8_lossy(head));
    } else {
        for b in head {
            let _ = std::fmt::Write::write_fmt(&mut out, format_args!("{b:02x}"));
        }
    }
    if bytes.len() > head.len() {
        out.push_str(" ...");
    }
    out
}

fn unrecognized(kind: &str, why: &str, bytes: &[u8]) -> Status {
    Status::bad_request(format!(
        "the object provided is unrecognized (must be of type {kind}): {why} ({})",
        excerpt(bytes)
    ))
}

/// Refuses names that a path cannot hold.
fn segment(what: &str, name: &str) -> Result<(), Status> {
    let why = match name {
        "." => "may not be '.'",
        ".." => "may not be '..'",
        n if n.contains('%') => "may not contain '%'",
        _ => return Ok(()),
    };
    Err(Status::bad_request(format!(
        "{what} invalid: {}: {why}",
        api::text::go_quote(name)
    )))
}

/// `apiVersion` and `kind` as they stand in a body, read before anything else of it. Keys of other letters count too.
#[derive(Default)]
struct TypeMeta {
    api_version: String,
    kind: String,
    /// What Go's decoder says of the first that is no string.
    wrong: Option<String>,
}

impl TypeMeta {
    fn set(&mut self, key: &str, value: &Value) {
        let api_version = key.eq_ignore_ascii_case("apiVersion");
        if !api_version && !key.eq_ignore_ascii_case("kind") {
            return;
        }
        match value {
            Value::String(s) if api_version => self.api_version.clone_from(s),
            Value::String(s) => self.kind.clone_from(s),
            Value::Null => {}
            other => {
                let field = if api_version { "apiVersion" } else { "kind" };
                let what = wire::json::go_kind(other);
                self.wrong.get_or_insert_with(|| {
                    format!(
                        "json: cannot unmarshal {what} into Go struct field .{field} of type string"
                    )
                });
            }
        }
    }
}

/// Reads the members of an object as they come, and keeps none but the two of [`TypeMeta`].
impl<'de> serde::Deserialize<'de> for TypeMeta {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<TypeMeta, D::Error> {
        struct Members;
        impl<'de> serde::de::Visitor<'de> for Members {
            type Value = TypeMeta;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<TypeMeta, A::Error> {
                let mut out = TypeMeta::default();
                while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                    if key.eq_ignore_ascii_case("apiVersion") || key.eq_ignore_ascii_case("kind") {
                        out.set(&key, &map.next_value()?);
                    } else {
                        map.next_value::<serde::de::IgnoredAny>()?;
                    }
                }
                Ok(out)
            }
        }
        d.deserialize_map(Members)
    }
}

/// Decodes a body as a kind.
pub fn decode(
    bytes: &Bytes,
    media: Media,
    validation: FieldValidation,
    gvk: (&str, &str, &str),
    schema: &'static Message,
) -> Result<Decoded, Status> {
    let (group, version, kind) = gvk;
    let strictness = if validation == FieldValidation::Ignore {
        Strictness::Ignore
    } else {
        Strictness::Collect
    };
    let wrong = |why: &str| {
        Status::bad_request(format!(
            "{kind} in version \"{version}\" cannot be handled as a {kind}: {why}"
        ))
    };
    let mut decoded = match media {
        Media::Protobuf => {
            if bytes.is_empty() {
                return Err(unrecognized(kind, "empty data", bytes));
            }
            let unknown = wire::envelope::unwrap(bytes)
                .map_err(|e| unrecognized(kind, &e.to_string(), bytes))?;
            if bytes.len() == wire::envelope::MAGIC.len() {
                return Err(unrecognized(kind, "empty body", bytes));
            }
            check_type(unknown.api_version, unknown.kind, gvk, bytes)?;
            let value: Value = wire::proto::check_objects(unknown.raw, schema)
                .and_then(|()| wire::proto::tree(unknown.raw, schema))
                .map_err(|e| wrong(&e.to_string()))?;
            Decoded {
                value,
                strict_errors: Vec::new(),
            }
        }
        Media::Json => {
            let not_json = |m: &str| unparsed(kind, m, bytes);
            let found = interpret(bytes).map_err(|m| not_json(&m))?;
            check_type(&found.api_version, &found.kind, gvk, bytes)?;
            wire::json::decode(bytes, schema, strictness).map_err(|e| match e {
                wire::Error::Syntax(m) => not_json(&m),
                e => wrong(&e.to_string()),
            })?
        }
        Media::Yaml => {
            let (value, duplicates) = wire::yaml::to_value_strict(bytes)
                .map_err(|e| unrecognized(kind, &e.to_string(), bytes))?;
            let found = interpret_tree(&value).map_err(|m| unparsed(kind, &m, bytes))?;
            check_type(&found.api_version, &found.kind, gvk, bytes)?;
            let value = if value.is_null() {
                Value::Object(serde_json::Map::new())
            } else {
                value
            };
            wire::yaml::normalize(value, &duplicates, schema, strictness)
                .map_err(|e| wrong(&e.to_string()))?
        }
    };
    crate::codec::set_kind(
        &mut decoded.value,
        &crate::codec::group_version(group, version),
        kind,
    );
    Ok(decoded)
}

fn unparsed(kind: &str, why: &str, bytes: &[u8]) -> Status {
    let why = format!("couldn't get version/kind; json parse error: {why}");
    unrecognized(kind, &why, bytes)
}

/// The words of Go's decoder for what is no object.
fn no_object(what: &str) -> String {
    format!(
        "json: cannot unmarshal {what} into Go value of type struct {{ APIVersion string \
         \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
    )
}

/// The type of JSON text, which must be an object; the error is Go's.
fn interpret(bytes: &[u8]) -> Result<TypeMeta, String> {
    let first = bytes.iter().find(|b| !b.is_ascii_whitespace());
    let what = match first {
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b't' | b'f') => "bool",
        Some(b'0'..=b'9' | b'-') => "number",
        Some(b'{') => {
            // Most bodies are well-formed and shallow; the rest is looked at by the decoder that words its errors.
            let found = match serde_json::from_slice::<TypeMeta>(bytes) {
                Ok(found) => found,
                Err(_) => {
                    let value = wire::json::parse(bytes).map_err(|e| e.to_string())?;
                    return interpret_tree(&value);
                }
            };
            return match found.wrong {
                Some(w) => Err(w),
                None => Ok(found),
            };
        }
        _ => {
            wire::json::valid(bytes).map_err(|e| e.to_string())?;
            return Ok(TypeMeta::default());
        }
    };
    wire::json::valid(bytes).map_err(|e| e.to_string())?;
    Err(no_object(what))
}

/// [`interpret`] for a tree.
fn interpret_tree(value: &Value) -> Result<TypeMeta, String> {
    let mut out = TypeMeta::default();
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                out.set(key, value);
            }
        }
        Value::Null => {}
        other => return Err(no_object(wire::json::go_kind(other))),
    }
    match out.wrong {
        Some(w) => Err(w),
        None => Ok(out),
    }
}

/// Whether a body's type is the one expected; absent parts are filled in.
fn check_type(
    api_version: &str,
    found: &str,
    gvk: (&str, &str, &str),
    bytes: &[u8],
) -> Result<(), Status> {
    let (group, version, kind) = gvk;
    let expected = crate::codec::group_version(group, version);
    if api_version.matches('/').count() > 1 {
        let why = format!("unexpected GroupVersion string: {api_version}");
        return Err(unrecognized(kind, &why, bytes));
    }
    let (mut from_group, mut from_version) =
        api_version.split_once('/').unwrap_or(("", api_version));
    if from_version.is_empty() && (from_group.is_empty() || from_group == group) {
        (from_group, from_version) = (group, version);
    }
    let found = if found.is_empty() { kind } else { found };
    let named = crate::codec::group_version(from_group, from_version);
    if named == expected && found == kind {
        return Ok(());
    }
    let wrong = |why: String| {
        Status::bad_request(format!(
            "{found} in version \"{from_version}\" cannot be handled as a {kind}: {why}"
        ))
    };
    if from_version.is_empty() {
        return Err(wrong(format!(
            "Object 'apiVersion' is missing in '{}'",
            String::from_utf8_lossy(bytes)
        )));
    }
    if found == kind && is_known(&named, found) {
        return Err(Status::bad_request(format!(
            "the API version in the data ({named}) does not match the expected API version ({expected})"
        )));
    }
    Err(wrong(other_type(&named, found, gvk)))
}

/// Whether upstream's scheme has a type.
fn is_known(api_version: &str, kind: &str) -> bool {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    api::resources::find_kind(group, version, kind).is_some()
        || api::schema::all().any(|(v, k, _)| {
            // The types of meta/v1 are registered in every version that is served.
            k == kind
                && (v == api_version
                    || (v == "meta.k8s.io/v1"
                        && api::schema::all().any(|(served, ..)| served == api_version)))
        })
        || (api_version == "v1" && kind == "List")
}

/// What is wrong with a type that is not the one expected.
fn other_type(named: &str, found: &str, gvk: (&str, &str, &str)) -> String {
    if !is_known(named, found) {
        return format!(
            "no kind \"{found}\" is registered for version \"{named}\" in scheme \"pkg/api/legacyscheme/scheme.go:30\""
        );
    }
    let (group, _, kind) = gvk;
    let version = named.split_once('/').map_or(named, |(_, v)| v);
    // Upstream's internal packages have the name of the group's first part.
    let package = match group {
        "" => "core",
        g => g.split('.').next().unwrap_or(g),
    };
    format!("converting ({version}.{found}) to ({package}.{kind}): unknown conversion")
}

/// A client of this process: hooks use it.
pub use engine::Writer;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_agent_is_a_manager_of_a_managers_length() {
        let of = |agent: &[u8]| {
            let mut h = HeaderMap::new();
            let value = HeaderValue::from_bytes(agent).expect("a header");
            h.insert(http::header::USER_AGENT, value);
            super::agent(&h)
        };
        assert_eq!(super::agent(&HeaderMap::new()), "unknown");
        for (agent, want) in [
            ("kubectl/v1.37.0 (linux/amd64)", "kubectl"),
            ("/x", "unknown"),
            ("a\tb/c", "ab"),
            ("jürgen", "jürgen"),
        ] {
            assert_eq!(of(agent.as_bytes()), want);
        }
        assert_eq!(of(&[b'x'; 1 << 20]).len(), api::meta::FIELD_MANAGER_MAX);
        assert_eq!(
            of("ü".repeat(1 << 16).as_bytes()).len(),
            api::meta::FIELD_MANAGER_MAX
        );
        assert!(of(&[0xff; 100]).len() <= api::meta::FIELD_MANAGER_MAX);
    }
}
