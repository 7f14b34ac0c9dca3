//! Content negotiation: which encoding and form a client wants, and which one it sent.
//!
//! Source: upstream's `endpoints/handlers/negotiation`. The 406 of a client that accepts nothing we have is the router's;
//! the one for a form that an encoding lacks is the negotiator's.

use api::Status;
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, USER_AGENT};

use crate::query::Query;

/// An encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Media {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

/// `application/vnd.kubernetes.protobuf`
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

impl Media {
    /// The media type.
    pub fn name(self) -> &'static str {
        match self {
            Media::Json => "application/json",
            Media::Yaml => "application/yaml",
            Media::Protobuf => PROTOBUF,
        }
    }

    /// The content type of a watch in this encoding.
    pub fn stream_name(self) -> &'static str {
        match self {
            Media::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            other => other.name(),
        }
    }
}

/// What the rows of a Table carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    /// PartialObjectMetadata.
    Metadata,
    /// Nothing.
    None,
    /// The whole object.
    Object,
}

/// What is sent of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The object.
    Object,
    /// PartialObjectMetadata and its list; whether in v1beta1.
    Partial(bool),
    /// Table; whether in v1beta1.
    Table(bool, Include),
}

/// The answer's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// The encoding.
    pub media: Media,
    /// The form.
    pub form: Form,
    /// Indented JSON.
    pub pretty: bool,
}

impl Output {
    /// Plain JSON.
    pub const JSON: Output = Output {
        media: Media::Json,
        form: Form::Object,
        pretty: false,
    };
}

struct Clause<'a> {
    kind: &'a str,
    sub: &'a str,
    params: Vec<(&'a str, &'a str)>,
    q: f32,
}

/// Clauses of an Accept header that are looked at: whoever sends more, authenticated or not, is not read to the end.
const MOST: usize = 64;

fn clauses(header: &str) -> Vec<Clause<'_>> {
    let mut out = Vec::new();
    for part in header.split(',').take(MOST) {
        let mut pieces = part.split(';').take(MOST).map(str::trim);
        let Some(media) = pieces.next() else { continue };
        let (kind, sub) = match media.split_once('/') {
            Some((k, s)) => (k.trim(), s.trim()),
            None if media == "*" => ("*", "*"),
            None => continue,
        };
        let mut clause = Clause {
            kind,
            sub,
            params: Vec::new(),
            q: 1.0,
        };
        for p in pieces {
            let Some((k, v)) = p.split_once('=') else {
                continue;
            };
            let (k, v) = (k.trim(), v.trim().trim_matches('"'));
            if k == "q" {
                clause.q = v.parse().unwrap_or(1.0);
            } else {
                clause.params.push((k, v));
            }
        }
        out.push(clause);
    }
    // Higher weights first; among equals the more specific, then the earlier.
    out.sort_by(|a, b| b.q.total_cmp(&a.q).then_with(|| wild(a).cmp(&wild(b))));
    out
}

fn wild(c: &Clause<'_>) -> u8 {
    u8::from(c.kind == "*") + u8::from(c.sub == "*")
}

const ALL: [(Media, &str, &str); 3] = [
    (Media::Json, "application", "json"),
    (Media::Yaml, "application", "yaml"),
    (Media::Protobuf, "application", "vnd.kubernetes.protobuf"),
];

fn covers(c: &Clause<'_>, kind: &str, sub: &str) -> bool {
    match (c.kind, c.sub) {
        ("*", "*") => true,
        (k, "*") => k == kind,
        (k, s) => k == kind && s == sub,
    }
}

fn want_pretty(headers: &HeaderMap, query: &Query) -> bool {
    if let Some(p) = query.get("pretty").filter(|p| !p.is_empty()) {
        return matches!(p, "1" | "t" | "T" | "true" | "TRUE" | "True");
    }
    let agent = headers
        .get(USER_AGENT)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    agent.starts_with("curl") || agent.starts_with("Wget") || agent.starts_with("Mozilla/5.0")
}

/// The Accept header, joined if sent more than once.
pub fn accept(headers: &HeaderMap) -> String {
    let all: Vec<&str> = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .collect();
    all.join(",")
}

/// The router's check: one of the media types that a route produces must be named, or all. Weights do not count, and
/// neither does a subtype left open.
pub fn routed(headers: &HeaderMap, produces: &[&str]) -> Result<(), Status> {
    let header = accept(headers);
    let mut named = header
        .split(',')
        .map(|c| c.split(';').next().unwrap_or_default().trim());
    if header.is_empty()
        || named.any(|m| {
            m == "*/*"
                || produces
                    .iter()
                    .any(|p| p.split(';').next().unwrap_or_default() == m)
        })
    {
        return Ok(());
    }
    let mut s = Status::failure(
        406,
        "NotAcceptable",
        format!(
            "406: Not Acceptable\n\nAvailable representations: {}",
            produces.join(", ")
        ),
    );
    s.details = Some(Box::default());
    Err(s)
}

/// What routes of objects produce.
pub const OBJECTS: &[&str] = &["application/json", "application/yaml", PROTOBUF];
/// What routes that also offer watches produce.
pub const STREAMS: &[&str] = &[
    "application/json",
    "application/yaml",
    PROTOBUF,
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];

/// What the client wants of an object, where a route has let it in. `transforms` says whether Table and
/// PartialObjectMetadata exist here.
pub fn output(headers: &HeaderMap, query: &Query, transforms: bool) -> Result<Output, Status> {
    let pretty = want_pretty(headers, query);
    let header = accept(headers);
    if header.is_empty() {
        return Ok(Output {
            media: Media::Json,
            form: Form::Object,
            pretty,
        });
    }
    for c in &clauses(&header) {
        for (media, kind, sub) in ALL {
            if !covers(c, kind, sub) {
                continue;
            }
            if let Some(o) = accepted(c, media, query, transforms) {
                return Ok(Output {
                    pretty: pretty || o.pretty,
                    ..o
                });
            }
        }
    }
    Err(Status::failure(
        406,
        "NotAcceptable",
        "only the following media types are accepted: application/json, application/yaml, \
         application/vnd.kubernetes.protobuf",
    ))
}

fn accepted(c: &Clause<'_>, media: Media, query: &Query, transforms: bool) -> Option<Output> {
    let param = |k: &str| {
        c.params
            .iter()
            .find(|(n, _)| *n == k)
            .map_or("", |(_, v)| *v)
    };
    let pretty = param("pretty") == "1";
    match param("stream") {
        "" => {}
        "watch" if media != Media::Yaml => {}
        _ => return None,
    }
    if !param("sv").is_empty() {
        return None;
    }
    let (kind, group, version) = (param("as"), param("g"), param("v"));
    if kind.is_empty() && group.is_empty() && version.is_empty() {
        return Some(Output {
            media,
            form: Form::Object,
            pretty,
        });
    }
    if !transforms || group != "meta.k8s.io" || !matches!(version, "v1" | "v1beta1") {
        return None;
    }
    let beta = version == "v1beta1";
    let form = match kind {
        "Table" if media != Media::Protobuf => {
            let include = match query.str("includeObject") {
                "None" => Include::None,
                "Object" => Include::Object,
                _ => Include::Metadata,
            };
            Form::Table(beta, include)
        }
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Form::Partial(beta),
        _ => return None,
    };
    Some(Output {
        media,
        form,
        pretty,
    })
}

/// What a watcher wants; YAML has no stream.
pub fn stream(headers: &HeaderMap, query: &Query) -> Result<Output, Status> {
    let out = output(headers, query, true)?;
    if out.media == Media::Yaml {
        return Err(Status::failure(
            406,
            "NotAcceptable",
            "only the following media types are accepted: application/json;stream=watch, \
             application/vnd.kubernetes.protobuf;stream=watch",
        ));
    }
    Ok(out)
}

/// The first of what is offered (media types with a value each) in the order in which the client prefers; `None` if it
/// takes none.
pub fn preferred<T: Copy>(
    headers: &HeaderMap,
    offered: impl Iterator<Item = (&'static str, T)> + Clone,
) -> Option<T> {
    let header = accept(headers);
    let all = if header.is_empty() { "*/*" } else { &header };
    clauses(all).iter().find_map(|c| {
        offered.clone().find_map(|(media, value)| {
            let (kind, sub) = media.split_once('/')?;
            covers(c, kind, sub).then_some(value)
        })
    })
}

/// Whether JSON is among what the client takes.
pub fn takes_json(headers: &HeaderMap) -> bool {
    let header = accept(headers);
    header.is_empty()
        || clauses(&header)
            .iter()
            .any(|c| covers(c, "application", "json"))
}

/// The encoding of a plain error: what is accepted, indented JSON otherwise.
pub fn for_errors(headers: &HeaderMap, query: &Query) -> Output {
    output(headers, query, false).unwrap_or(Output {
        pretty: true,
        ..Output::JSON
    })
}

/// The media type of a request's body without parameters, lower case; empty if not given.
pub fn content_type(headers: &HeaderMap) -> String {
    headers
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.split(';').next())
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

/// How the body is encoded; 415 for what we cannot read.
pub fn input(headers: &HeaderMap) -> Result<Media, Status> {
    match content_type(headers).as_str() {
        "" if headers.get(CONTENT_TYPE).is_none_or(HeaderValue::is_empty) => Ok(Media::Json),
        "application/json" => Ok(Media::Json),
        "application/yaml" => Ok(Media::Yaml),
        PROTOBUF => Ok(Media::Protobuf),
        _ => Err(Status::failure(
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: application/json, \
             application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

/// The 415 of the router, for content types no route takes.
pub fn unsupported_by_route() -> Status {
    let mut s = Status::failure(415, "UnsupportedMediaType", "415: Unsupported Media Type");
    s.details = Some(Box::default());
    s
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(accept: &str) -> Result<Output, Status> {
        let mut h = HeaderMap::new();
        h.insert(ACCEPT, accept.parse().expect("a header"));
        routed(&h, STREAMS).and_then(|()| output(&h, &Query::default(), true))
    }

    #[test]
    fn clients_get_what_they_ask_for() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(
            ask(kubectl).expect("table").form,
            Form::Table(false, Include::Metadata)
        );
        let informer = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(ask(informer).expect("protobuf").media, Media::Protobuf);
        let metadata =
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        let o = ask(metadata).expect("partial");
        assert_eq!((o.media, o.form), (Media::Protobuf, Form::Partial(false)));
        assert_eq!(ask("*/*").expect("anything").media, Media::Json);
        assert_eq!(
            ask("application/yaml;q=0.5,application/json;q=0.4")
                .expect("weights")
                .media,
            Media::Yaml
        );
        let both = "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1,application/json;as=Table;g=meta.k8s.io;v=v1";
        assert_eq!(ask(both).expect("fallback").media, Media::Json);
    }

    #[test]
    fn the_client_says_what_it_prefers() {
        let offered = [("application/json", 1), ("application/x.y@v1+protobuf", 2)];
        for (accept, want) in [
            ("", Some(1)),
            ("*/*", Some(1)),
            ("application/x.y@v1+protobuf", Some(2)),
            (
                "application/json;q=0.1, application/x.y@v1+protobuf",
                Some(2),
            ),
            ("text/html", None),
        ] {
            let mut h = HeaderMap::new();
            h.insert(ACCEPT, accept.parse().expect("a header"));
            assert_eq!(preferred(&h, offered.into_iter()), want, "{accept}");
        }
        assert_eq!(clauses(&"a/b;c=d,".repeat(100_000)).len(), MOST);
        assert!(clauses(&"a/b;".repeat(100_000))[0].params.len() < MOST);
    }

    #[test]
    fn refusals_name_what_there_is() {
        let e = ask("application/*").expect_err("no open subtypes");
        assert!(e.message.starts_with("406: Not Acceptable"));
        let e = ask("text/html").expect_err("no HTML");
        assert_eq!(e.code, 406);
        assert!(
            e.message
                .starts_with("406: Not Acceptable\n\nAvailable representations: application/json")
        );
        let e = ask("application/json;as=Bogus;g=meta.k8s.io;v=v1").expect_err("no such form");
        assert!(
            e.message
                .starts_with("only the following media types are accepted:"),
            "{}",
            e.message
        );
        let mut h = HeaderMap::new();
        h.insert(CONTENT_TYPE, "text/plain".parse().expect("a header"));
        assert_eq!(input(&h).expect_err("unknown").code, 415);
    }
}
