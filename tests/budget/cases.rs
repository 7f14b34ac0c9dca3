//! Requests that cost as much as can be: what is deepest, longest, widest, most repeated and most aliased of each kind.

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use super::server::{ROOT, Server};

/// One request.
pub struct Case {
    pub name: String,
    pub method: Method,
    pub path: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
    /// What is put in the place of the object that was created, if it was.
    pub then: Option<Bytes>,
}

type Header = (&'static str, String);

pub fn json_kind() -> Header {
    content("application/json")
}

/// A body of the greatest length, or nearly.
pub const MOST: usize = 3 * 1024 * 1024 - 10_000;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const REVISIONS: &str = "/apis/apps/v1/namespaces/default/controllerrevisions";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

fn content(kind: &str) -> Header {
    ("content-type", kind.to_owned())
}

fn case(name: &str, method: Method, path: &str, kind: &str, body: impl Into<Bytes>) -> Case {
    Case {
        name: name.to_owned(),
        method,
        path: path.to_owned(),
        headers: vec![content(kind)],
        body: body.into(),
        then: None,
    }
}

/// As many of a text as fit into a body.
pub fn fill(unit: &str) -> String {
    unit.repeat(MOST / unit.len())
}

/// Half of the greatest length.
const HALF: usize = MOST / 2;

/// As many numbered texts as fit into a body, with what stands between them.
pub fn many(between: &str, unit: impl Fn(usize) -> String) -> String {
    let mut out = String::with_capacity(MOST);
    for i in 0.. {
        let next = unit(i);
        if out.len() + next.len() + between.len() > MOST {
            break;
        }
        if i > 0 {
            out.push_str(between);
        }
        out.push_str(&next);
    }
    out
}

pub fn nested(open: &str, inner: &str, close: &str, levels: usize) -> String {
    format!("{}{inner}{}", open.repeat(levels), close.repeat(levels))
}

fn object(api_version: &str, kind: &str, metadata: &str, rest: &str) -> String {
    let comma = if rest.is_empty() { "" } else { "," };
    format!(
        r#"{{"apiVersion":"{api_version}","kind":"{kind}","metadata":{{"name":"x"{metadata}}}{comma}{rest}}}"#
    )
}

fn map(metadata: &str, rest: &str) -> String {
    object("v1", "ConfigMap", metadata, rest)
}

fn managed(fields: &str) -> String {
    format!(
        r#","managedFields":[{{"manager":"m","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{fields}}}]"#
    )
}

/// What metadata can be made of, by name.
fn metadata() -> Vec<(&'static str, String)> {
    let deep = nested("{\"f:a\":", "{}", "}", 9_980);
    let entry = |i: usize| {
        format!(
            r#"{{"manager":"m{i}","operation":"Apply","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{{"f:a":{{}}}}}}"#
        )
    };
    let owner = |i: usize| {
        format!(r#"{{"apiVersion":"v1","kind":"K","name":"n","uid":"{i}","controller":true}}"#)
    };
    let pairs = |key: &str| format!(",\"{key}\":{{{}}}", many(",", |i| format!("\"k{i}\":\"\"")));
    vec![
        ("managed fields, deep", managed(&deep)),
        (
            "managed fields, deep and many",
            managed(&format!(
                "{{{}}}",
                many(",", |i| format!("\"f:b{i}\":{deep}"))
            )),
        ),
        (
            "managed fields, wide",
            managed(&format!("{{{}}}", many(",", |i| format!("\"f:{i}\":{{}}")))),
        ),
        (
            "managed fields, many small sets",
            managed(&format!(
                "{{{}}}",
                many(",", |i| format!("\"f:{i}\":{{\"f:a\":{{}}}}"))
            )),
        ),
        (
            "managed fields, long keys",
            managed(&format!(
                "{{{}}}",
                many(",", |i| format!("\"k:{{\\\"a\\\":[[{i}]]}}\":{{}}"))
            )),
        ),
        (
            "managed fields, many managers",
            format!(",\"managedFields\":[{}]", many(",", entry)),
        ),
        (
            "owner references",
            format!(",\"ownerReferences\":[{}]", many(",", owner)),
        ),
        (
            "owner references, all the same",
            format!(",\"ownerReferences\":[{}]", many(",", |_| owner(1))),
        ),
        (
            "finalizers",
            format!(",\"finalizers\":[{}]", many(",", |i| format!("\"a/{i}\""))),
        ),
        ("labels", pairs("labels")),
        ("annotations", pairs("annotations")),
        (
            "a long name",
            format!(",\"generateName\":\"{}\"", fill("a")),
        ),
        (
            "a field manager of control characters",
            format!(
                r#","managedFields":[{{"manager":"{}","operation":"Update"}}]"#,
                fill("\\u0001")
            ),
        ),
        (
            "unknown fields of metadata",
            format!(",{}", many(",", |i| format!("\"x{i}\":0"))),
        ),
    ]
}

fn json_bodies(out: &mut Vec<Case>) {
    let revision = |data: &str| {
        object(
            "apps/v1",
            "ControllerRevision",
            "",
            &format!("\"revision\":1,\"data\":{data}"),
        )
    };
    let deep = nested("[", "", "]", 9_980);
    let pod = |spec: &str| object("v1", "Pod", "", &format!("\"spec\":{{{spec}}}"));
    let rows = [
        ("JSON, deep", MAPS, map("", &format!("\"data\":{deep}"))),
        (
            "JSON, deep, stored",
            REVISIONS,
            revision(&format!("{{\"a\":{deep}}}")),
        ),
        (
            "JSON, deep and many",
            REVISIONS,
            revision(&format!("[{}]", many(",", |_| deep.clone()))),
        ),
        (
            "JSON, small objects",
            REVISIONS,
            revision(&format!("[{}]", fill("{\"\":0},").trim_end_matches(','))),
        ),
        (
            "JSON, small arrays",
            REVISIONS,
            revision(&format!("[{}]", fill("[0],").trim_end_matches(','))),
        ),
        ("JSON, unclosed", MAPS, fill("[")),
        ("JSON, unclosed objects", MAPS, fill("{\"a\":")),
        (
            "JSON, a long text",
            MAPS,
            map("", &format!("\"data\":{{\"a\":\"{}\"}}", fill("x"))),
        ),
        (
            "JSON, escapes",
            MAPS,
            map("", &format!("\"data\":{{\"a\":\"{}\"}}", fill("\\u0001"))),
        ),
        (
            "JSON, wide",
            MAPS,
            map(
                "",
                &format!("\"data\":{{{}}}", many(",", |i| format!("\"{i}\":\"\""))),
            ),
        ),
        (
            "JSON, keys with a long beginning in common",
            MAPS,
            map(
                "",
                &format!(
                    "\"data\":{{{}}}",
                    many(",", |i| format!("\"{}{i}\":\"\"", "k".repeat(1000)))
                ),
            ),
        ),
        (
            "JSON, one key again and again",
            MAPS,
            map(
                "",
                &format!("\"data\":{{{}}}", fill("\"a\":\"\",").trim_end_matches(',')),
            ),
        ),
        (
            "JSON, one field again and again",
            MAPS,
            map("", fill("\"data\":{\"a\":\"\"},").trim_end_matches(',')),
        ),
        (
            "JSON, unknown fields",
            MAPS,
            map("", &many(",", |i| format!("\"x{i}\":0"))),
        ),
        (
            "JSON, unknown fields below a long key",
            MAPS,
            map(
                "",
                &format!(
                    "\"immutable\":{{\"{}\":{{{}}}}}",
                    "k".repeat(1 << 20),
                    "\"x\":0,".repeat(200_000).trim_end_matches(',')
                ),
            ),
        ),
        (
            "JSON, a long number",
            MAPS,
            map("", &format!("\"immutable\":{}", fill("1"))),
        ),
        (
            "JSON, a long kind",
            MAPS,
            format!("{{\"kind\":\"{}\",\"apiVersion\":\"v1\"}}", fill("k")),
        ),
        (
            "JSON, a kind that is no text",
            MAPS,
            format!("{{\"kind\":{deep},\"apiVersion\":{deep}}}"),
        ),
        (
            "containers, empty",
            PODS,
            pod(&format!(
                "\"containers\":[{}]",
                fill("{},").trim_end_matches(',')
            )),
        ),
        (
            "containers, null",
            PODS,
            pod(&format!(
                "\"containers\":[{}]",
                fill("null,").trim_end_matches(',')
            )),
        ),
        (
            "containers, as many as objects may be",
            PODS,
            pod(&format!(
                "\"containers\":[{}]",
                "{},".repeat(120_000).trim_end_matches(',')
            )),
        ),
        (
            "quantities, long",
            PODS,
            pod(&format!(
                "\"containers\":[{{\"name\":\"c\",\"resources\":{{\"requests\":{{\"cpu\":\"{}\"}}}}}}]",
                fill("9")
            )),
        ),
        (
            "quantities, many",
            PODS,
            pod(&format!(
                "\"overhead\":{{{}}}",
                many(",", |i| format!("\"e.x/{i}\":\"9e{i}\""))
            )),
        ),
        (
            "commands",
            PODS,
            pod(&format!(
                "\"containers\":[{{\"name\":\"c\",\"command\":[{}]}}]",
                fill("\"\",").trim_end_matches(',')
            )),
        ),
        (
            "claim templates, empty",
            "/apis/apps/v1/namespaces/default/statefulsets",
            object(
                "apps/v1",
                "StatefulSet",
                "",
                &format!(
                    "\"spec\":{{\"volumeClaimTemplates\":[{}]}}",
                    fill("{},").trim_end_matches(',')
                ),
            ),
        ),
        (
            "files of projected volumes",
            PODS,
            pod(&format!(
                "\"containers\":[{{\"name\":\"c\",\"image\":\"i\"}}],\"volumes\":[{{\"name\":\"v\",\"configMap\":{{\"name\":\"c\",\"items\":[{}]}}}}]",
                many(",", |i| format!("{{\"key\":\"k\",\"path\":\"a{i}\"}}"))
            )),
        ),
        ("a role of many verbs, groups and resources", ROLES, {
            let list = |n: &str| many_of(50_000, |i| format!("\"{n}{i}\""));
            object(
                "rbac.authorization.k8s.io/v1",
                "ClusterRole",
                "",
                &format!(
                    "\"rules\":[{{\"verbs\":[{}],\"apiGroups\":[{}],\"resources\":[{}],\"resourceNames\":[{}]}}]",
                    list("v"),
                    list("g"),
                    list("r"),
                    list("n")
                ),
            )
        }),
        (
            "a token",
            "/apis/authentication.k8s.io/v1/tokenreviews",
            object(
                "authentication.k8s.io/v1",
                "TokenReview",
                "",
                &format!("\"spec\":{{\"token\":\"{}\"}}", fill("a.")),
            ),
        ),
        (
            "a review of many groups",
            "/apis/authorization.k8s.io/v1/subjectaccessreviews",
            object(
                "authorization.k8s.io/v1",
                "SubjectAccessReview",
                "",
                &format!(
                    "\"spec\":{{\"user\":\"u\",\"groups\":[{}],\"resourceAttributes\":{{\"verb\":\"get\"}}}}",
                    many(",", |i| format!("\"{i}\""))
                ),
            ),
        ),
        (
            "a review with a field selector",
            REVIEWS,
            object(
                "authorization.k8s.io/v1",
                "SelfSubjectAccessReview",
                "",
                &format!(
                    "\"spec\":{{\"resourceAttributes\":{{\"verb\":\"list\",\"resource\":\"pods\",\"labelSelector\":{{\"rawSelector\":\"{}\"}},\"fieldSelector\":{{\"rawSelector\":\"{}\"}}}}}}",
                    "a in (b,c),".repeat(100_000),
                    "a=b,".repeat(200_000)
                ),
            ),
        ),
    ];
    for (name, path, body) in rows {
        out.push(case(
            name,
            Method::POST,
            path,
            "application/json",
            body.clone(),
        ));
        if body.contains("\"x0\":0") || body.contains("again and again") {
            let strict = format!("{path}?fieldValidation=Strict");
            out.push(case(
                &format!("{name}, strict"),
                Method::POST,
                &strict,
                "application/json",
                body,
            ));
        }
    }
    for (name, metadata) in metadata() {
        out.push(case(
            &format!("metadata: {name}"),
            Method::POST,
            MAPS,
            "application/json",
            map(&metadata, ""),
        ));
    }
}

/// So many bytes of numbered texts.
fn many_of(bytes: usize, unit: impl Fn(usize) -> String) -> String {
    let mut out = String::new();
    for i in 0.. {
        if out.len() > bytes {
            break;
        }
        if i > 0 {
            out.push(',');
        }
        out.push_str(&unit(i));
    }
    out
}

/// Bodies of YAML, by name.
pub fn yaml_texts() -> Vec<(&'static str, String)> {
    let head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n";
    let mut bomb = format!("{head}a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for i in 1..60 {
        let before = format!("*a{}", i - 1);
        bomb.push_str(&format!("a{i}: &a{i} [{}]\n", vec![before; 10].join(",")));
    }
    let long = "x".repeat(1 << 20);
    let mut stairs = String::new();
    for i in 0..1_700 {
        stairs.push_str(&format!("{}a:\n", " ".repeat(i)));
    }
    vec![
        ("flow, deep", nested("[", "", "]", 9_980)),
        (
            "flow, deep and wide",
            format!("{}{}", "[".repeat(9_980), fill("a,")),
        ),
        ("flow, unclosed", fill("[")),
        ("flow, unclosed maps", fill("{a: ")),
        ("flow, wide", format!("[{}", fill("a,"))),
        ("flow, small maps", format!("[{}", fill("{a: b},"))),
        ("flow, empty keys", format!("{{{}", fill("? ,"))),
        ("block, deep", format!("{}a", fill("- "))),
        ("block, stairs", stairs),
        ("block, wide", fill("- a\n")),
        ("block, keys", many("\n", |i| format!("k{i}: v"))),
        ("block, one key again and again", fill("a: b\n")),
        ("block, keys that are questions", fill("? a\n")),
        (
            "JSON",
            map(
                "",
                &format!("\"data\":{{{}}}", many(",", |i| format!("\"{i}\":\"\""))),
            ),
        ),
        ("aliases of aliases", bomb),
        (
            "aliases of a long text",
            format!("a: &a {long}\nb: [{}]\n", "*a,".repeat(600_000)),
        ),
        (
            "aliases of a map, as keys",
            format!("a: &a {long}\n{}", "*a : b\n".repeat(200_000)),
        ),
        (
            "anchors",
            format!("[{}]", many(",", |i| format!("&a{i} b"))),
        ),
        (
            "merges of a large map",
            format!(
                "a: &a {{{}}}\nb:\n{}",
                (0..50_000)
                    .map(|i| format!("k{i}: v"))
                    .collect::<Vec<_>>()
                    .join(", "),
                "  <<: *a\n".repeat(100_000)
            ),
        ),
        (
            "merges of many maps",
            format!("a: &a {{k: v}}\nb: {{<<: [{}]}}\n", "*a,".repeat(900_000)),
        ),
        (
            "directives",
            format!(
                "{}---\na: b\n",
                many("\n", |i| format!("%TAG !a{i}! tag:b,2000:"))
            ),
        ),
        ("comments", fill("# c\n")),
        ("documents", fill("---\na\n")),
        ("tags", format!("[{}]", fill("!!str a,"))),
        ("a plain text of many lines", fill("a\n")),
        (
            "a quoted text of many lines",
            format!("\"{}\"", fill("a\n")),
        ),
        ("a literal text", format!("a: |\n{}", fill("  a\n"))),
        ("a number", fill("1")),
        ("a number with underscores", format!("1{}", fill("_"))),
        ("a number in sixties", fill("1:")),
        ("spaces", fill(" ")),
        ("tabs", fill("\t")),
        ("empty lines", fill("\n")),
        ("not UTF-8's", fill("\u{feff}")),
    ]
}

/// A field of protobuf with a length.
fn field(tag: u8, inner: &[u8]) -> Vec<u8> {
    let mut out = vec![tag << 3 | 2];
    let mut n = inner.len();
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out.extend_from_slice(inner);
    out
}

fn protobuf(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    wire::envelope::wrap(api_version, kind, raw)
}

fn protobuf_bodies(out: &mut Vec<Case>) {
    // A Pod's spec is field 2, its containers are field 2, of which 1 is the name.
    let pod = |spec: &[u8]| protobuf("v1", "Pod", &field(2, spec));
    let fill = |unit: &[u8]| unit.repeat(MOST / unit.len());
    let mut nested = Vec::new();
    for _ in 0..200 {
        nested = field(1, &nested);
    }
    let mut singular = Vec::new();
    while singular.len() < MOST {
        singular.extend(field(2, &field(2, &field(1, b"c"))));
    }
    let revision = |json: &str| {
        // `data` is field 2, a RawExtension with the text in field 1.
        protobuf(
            "apps/v1",
            "ControllerRevision",
            &field(2, &field(1, json.as_bytes())),
        )
    };
    let rows = [
        ("containers, empty", PODS, pod(&fill(&field(2, b"")))),
        (
            "containers, small",
            PODS,
            pod(&fill(&field(2, &field(1, b"c")))),
        ),
        ("unknown fields", PODS, pod(&fill(&[0xf8, 0x07, 1]))),
        (
            "fields out of order",
            PODS,
            pod(&fill(&[&field(7, b"a")[..], &field(2, b"")].concat())),
        ),
        (
            "a struct again and again",
            PODS,
            protobuf("v1", "Pod", &singular),
        ),
        ("nested messages", PODS, protobuf("v1", "Pod", &nested)),
        ("nested groups", PODS, protobuf("v1", "Pod", &fill(&[0x0b]))),
        ("labels", PODS, {
            let mut meta = Vec::new();
            for i in 0..200_000 {
                let key = format!("k{i}");
                meta.extend(field(
                    11,
                    &[field(1, key.as_bytes()), field(2, b"")].concat(),
                ));
            }
            protobuf("v1", "Pod", &field(1, &meta))
        }),
        ("deep JSON within", REVISIONS, revision(&nested_json(9_980))),
        (
            "too deep JSON within",
            REVISIONS,
            revision(&"[".repeat(MOST)),
        ),
        (
            "wide JSON within",
            REVISIONS,
            revision(&format!("[{}0]", "{\"\":0},".repeat(400_000))),
        ),
        (
            "a length beyond the end",
            PODS,
            b"k8s\0\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f".to_vec(),
        ),
    ];
    for (name, path, body) in rows {
        let kind = "application/vnd.kubernetes.protobuf";
        out.push(case(
            &format!("protobuf: {name}"),
            Method::POST,
            path,
            kind,
            body,
        ));
    }
}

fn nested_json(levels: usize) -> String {
    nested("[", "", "]", levels)
}

fn patches(out: &mut Vec<Case>) {
    let json_patch = |name: &str, path: &str, ops: String| {
        let kind = "application/json-patch+json";
        case(
            &format!("JSON patch: {name}"),
            Method::PATCH,
            path,
            kind,
            format!("[{ops}]"),
        )
    };
    let target = format!("{MAPS}/target");
    let copy = |from: &str, to: &str| format!(r#"{{"op":"copy","from":"{from}","path":"{to}"}}"#);
    let step = |from: &str, to: &str| format!(r#"{{"op":"move","from":"{from}","path":"{to}"}}"#);
    let add = |to: &str, value: &str| format!(r#"{{"op":"add","path":"{to}","value":{value}}}"#);
    let ops = |first: String, then: &dyn Fn(usize) -> String, n: usize| {
        let mut all = vec![first];
        all.extend((1..n).map(then));
        all.join(",")
    };
    let deep = nested_json(9_000);
    let zeros = format!("[{}0]", "0,".repeat(1_200_000));
    let rows = [
        (
            "copies into itself",
            ops(
                add("/data/a", "{\"a\":{}}"),
                &|_| copy("/data", "/data/a"),
                10_000,
            ),
        ),
        ("moves one level down", {
            let three = |i: usize| match i % 3 {
                1 => add("/b", "{}"),
                2 => step("/a", "/b/a"),
                _ => step("/b", "/a"),
            };
            ops(add("/a", "{}"), &three, 10_000)
        }),
        ("moves of a deep value", {
            let shift = |i: usize| {
                if i % 2 == 1 {
                    step("/a", "/b")
                } else {
                    step("/b", "/a")
                }
            };
            ops(add("/a", &deep), &shift, 10_000)
        }),
        ("moves of a wide value far down", {
            let far = "/a".repeat(1_010);
            let shift = |i: usize| {
                if i % 2 == 1 {
                    step("/w", &format!("{far}/w"))
                } else {
                    step(&format!("{far}/w"), "/w")
                }
            };
            let wide = format!("[{}0]", "[[]],".repeat(100_000));
            let first = format!(
                "{},{},{}",
                add("/w", &wide),
                add("/a", &nested("{\"a\":", "{}", "}", 1_010)),
                add("/d", &deep)
            );
            ops(first, &shift, 600)
        }),
        (
            "additions in front of a long list",
            ops(add("/a", &zeros), &|_| add("/a/0", "0"), 9_000),
        ),
        (
            "removals from the front of a long list",
            ops(
                add("/a", &zeros),
                &|_| r#"{"op":"remove","path":"/a/0"}"#.to_owned(),
                9_000,
            ),
        ),
        (
            "a long path again and again",
            ops(
                add("/a", "{}"),
                &|_| {
                    format!(
                        r#"{{"op":"test","path":"/a{}","value":null}}"#,
                        "/a".repeat(140)
                    )
                },
                9_000,
            ),
        ),
        (
            "long numbers of elements",
            ops(
                add("/a", "[]"),
                &|_| {
                    format!(
                        r#"{{"op":"add","path":"/a/{}","value":0}}"#,
                        "0".repeat(200)
                    )
                },
                9_000,
            ),
        ),
        ("too many operations", many(",", |_| add("/a", "0"))),
        (
            "too many operations of nothing",
            "null,".repeat(600_000).trim_end_matches(',').to_owned(),
        ),
        (
            "unknown members",
            format!(
                r#"{{"op":"add","path":"/data/a","value":"",{}}}"#,
                many(",", |i| format!("\"x{i}\":0"))
            ),
        ),
        (
            "a result that is wrong",
            add(
                "/data",
                &format!("[{}]", "{\"a\":0},".repeat(200_000).trim_end_matches(',')),
            ),
        ),
    ];
    for (name, ops) in rows {
        out.push(json_patch(name, &target, ops));
    }
    let texts = [
        (
            "deep",
            format!("{{\"data\":{}}}", nested("{\"a\":", "1", "}", 9_980)),
        ),
        (
            "wide",
            format!(
                "{{\"data\":{{{}}}}}",
                many(",", |i| format!("\"{i}\":\"\""))
            ),
        ),
        (
            "unknown members",
            format!("{{{}}}", many(",", |i| format!("\"x{i}\":0"))),
        ),
        (
            "one member again and again",
            format!("{{{}}}", fill("\"a\":0,").trim_end_matches(',')),
        ),
        ("unclosed", fill("{\"a\":")),
        (
            "owner references",
            format!(
                "{{\"metadata\":{{\"name\":\"target\"{}}}}}",
                metadata()[6].1
            ),
        ),
        (
            "managed fields, deep and many",
            format!(
                "{{\"metadata\":{{\"name\":\"target\"{}}}}}",
                metadata()[1].1
            ),
        ),
        (
            "wrong",
            format!("{{\"data\":[{}]}}", fill("{},").trim_end_matches(',')),
        ),
    ];
    for (name, text) in &texts {
        for kind in ["merge-patch", "strategic-merge-patch"] {
            for path in [target.clone(), format!("{target}?fieldValidation=Strict")] {
                let strict = if path.contains('?') { ", strict" } else { "" };
                out.push(case(
                    &format!("{kind}: {name}{strict}"),
                    Method::PATCH,
                    &path,
                    &format!("application/{kind}+json"),
                    text.clone(),
                ));
            }
        }
    }
    let pod = format!("{PODS}/target");
    let finalizers = |i: usize| format!("\"a/{i}\"");
    let half = MOST / 2 - 1000;
    let strategic = [
        (
            "finalizers",
            format!(
                "{{\"metadata\":{{\"finalizers\":[{}]}}}}",
                many(",", finalizers)
            ),
        ),
        (
            "finalizers, deleted",
            format!(
                "{{\"metadata\":{{\"$deleteFromPrimitiveList/finalizers\":[{}]}}}}",
                many(",", finalizers)
            ),
        ),
        (
            "finalizers, in order",
            format!(
                "{{\"metadata\":{{\"$setElementOrder/finalizers\":[{0}],\"finalizers\":[{0}]}}}}",
                many_of(half, finalizers)
            ),
        ),
        (
            "containers",
            format!(
                "{{\"spec\":{{\"containers\":[{}]}}}}",
                many(",", |i| format!("{{\"name\":\"c{i}\"}}"))
            ),
        ),
        (
            "containers, in order",
            format!(
                "{{\"spec\":{{\"$setElementOrder/containers\":[{0}],\"containers\":[{0}]}}}}",
                many_of(half, |i| format!("{{\"name\":\"c{i}\"}}"))
            ),
        ),
        (
            "containers, deleted",
            format!(
                "{{\"spec\":{{\"containers\":[{}]}}}}",
                many(",", |i| format!(
                    "{{\"name\":\"c{i}\",\"$patch\":\"delete\"}}"
                ))
            ),
        ),
        (
            "variables",
            format!(
                "{{\"spec\":{{\"containers\":[{{\"name\":\"c0\",\"env\":[{}]}}]}}}}",
                many(",", |i| format!("{{\"name\":\"E{i}\"}}"))
            ),
        ),
        (
            "keys to retain",
            format!(
                "{{\"spec\":{{\"$retainKeys\":[{}],{}}}}}",
                many_of(half, |i| format!("\"k{i}\"")),
                many_of(half, |i| format!("\"k{i}\":0"))
            ),
        ),
    ];
    for (name, text) in strategic {
        out.push(case(
            &format!("strategic-merge-patch: {name}"),
            Method::PATCH,
            &pod,
            "application/strategic-merge-patch+json",
            text,
        ));
    }
}

fn applies(out: &mut Vec<Case>) {
    let apply = |name: &str, path: &str, text: String| {
        let mark = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{mark}fieldManager=budget{}", out_name(name));
        case(
            &format!("apply: {name}"),
            Method::PATCH,
            &path,
            "application/apply-patch+yaml",
            text,
        )
    };
    fn out_name(name: &str) -> String {
        name.chars().filter(char::is_ascii_alphanumeric).collect()
    }
    for (name, text) in yaml_texts() {
        out.push(case(
            &format!("YAML: {name}"),
            Method::POST,
            MAPS,
            "application/yaml",
            text.clone(),
        ));
        out.push(apply(&format!("YAML: {name}"), &format!("{MAPS}/x"), text));
    }
    let named = |rest: &str| {
        format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"applied\"}}{rest}}}"
        )
    };
    let data = |v: &str| {
        named(&format!(
            ",\"data\":{{{}}}",
            many_of(1_400_000, |i| format!("\"{i}\":\"{v}\""))
        ))
    };
    let at = format!("{MAPS}/applied");
    let pod = |rest: &str| {
        format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{{\"name\":\"target\"}},\"spec\":{{{rest}}}}}"
        )
    };
    let at_pod = format!("{PODS}/target");
    out.push(apply("wide", &at, data("1")));
    out.push(apply("wide, again", &at, data("1")));
    out.push(apply("conflicts", &at, data("2")));
    out.push(apply(
        "conflicts, forced",
        &format!("{at}?force=true"),
        data("3"),
    ));
    out.push(apply("everything left out", &at, named("")));
    out.push(apply(
        "containers",
        &at_pod,
        pod(&format!(
            "\"containers\":[{}]",
            many_of(1_500_000, |i| format!(
                "{{\"name\":\"c{i}\",\"image\":\"i\"}}"
            ))
        )),
    ));
    out.push(apply(
        "containers, the same",
        &at_pod,
        pod(&format!(
            "\"containers\":[{}]",
            fill("{\"name\":\"c\"},").trim_end_matches(',')
        )),
    ));
    out.push(apply(
        "unknown fields",
        &at,
        named(&format!(",{}", many(",", |i| format!("\"x{i}\":0")))),
    ));
    out.push(apply(
        "wrong types",
        &at,
        named(&format!(
            ",\"data\":{{{}}}",
            many(",", |i| format!("\"{i}\":0"))
        )),
    ));
    out.push(apply(
        "finalizers",
        &at,
        format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"applied\",\"finalizers\":[{}]}}}}",
            many_of(1_000_000, |i| format!("\"a/{i}\""))
        ),
    ));
}

/// Every endpoint that takes a body, with metadata that is dear where it is looked at.
fn endpoints(out: &mut Vec<Case>) {
    let deep = nested("{\"f:a\":", "{}", "}", 9_980);
    let meta = managed(&deep);
    let options = format!(
        "{{\"kind\":\"DeleteOptions\",\"apiVersion\":\"v1\",\"dryRun\":[{}]}}",
        fill("\"All\",").trim_end_matches(',')
    );
    let rows = [
        (
            REVIEWS,
            "authorization.k8s.io/v1",
            "SelfSubjectAccessReview",
        ),
        (
            "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
            "authorization.k8s.io/v1",
            "SelfSubjectRulesReview",
        ),
        (
            "/apis/authorization.k8s.io/v1/subjectaccessreviews",
            "authorization.k8s.io/v1",
            "SubjectAccessReview",
        ),
        (
            "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews",
            "authorization.k8s.io/v1",
            "LocalSubjectAccessReview",
        ),
        (
            "/apis/authentication.k8s.io/v1/tokenreviews",
            "authentication.k8s.io/v1",
            "TokenReview",
        ),
        (
            "/apis/authentication.k8s.io/v1/selfsubjectreviews",
            "authentication.k8s.io/v1",
            "SelfSubjectReview",
        ),
        (
            "/api/v1/namespaces/default/serviceaccounts/x/token",
            "authentication.k8s.io/v1",
            "TokenRequest",
        ),
        (
            "/api/v1/namespaces/default/pods/target/binding",
            "v1",
            "Binding",
        ),
        ("/api/v1/namespaces/default/bindings", "v1", "Binding"),
        (
            "/api/v1/namespaces/default/pods/target/eviction",
            "policy/v1",
            "Eviction",
        ),
    ];
    for (path, api_version, kind) in rows {
        let short = path.rsplit('/').next().unwrap_or_default();
        out.push(case(
            &format!("{short}: managed fields, deep"),
            Method::POST,
            path,
            "application/json",
            object(api_version, kind, &meta, "\"spec\":{}"),
        ));
    }
    for sub in ["", "/status", "/ephemeralcontainers", "/resize"] {
        let body = object("v1", "Pod", &metadata()[1].1, "").replace("\"x\"", "\"target\"");
        out.push(case(
            &format!("pods{sub}: managed fields, deep and many"),
            Method::PUT,
            &format!("{PODS}/target{sub}"),
            "application/json",
            body,
        ));
    }
    let scale = "/apis/apps/v1/namespaces/default/deployments/target/scale";
    out.push(case(
        "scale: managed fields, deep and many",
        Method::PUT,
        scale,
        "application/json",
        object(
            "autoscaling/v1",
            "Scale",
            &metadata()[1].1,
            "\"spec\":{\"replicas\":1}",
        )
        .replace("\"x\"", "\"target\""),
    ));
    for (name, kind, body) in [
        ("wide", "application/json", Bytes::from(options)),
        (
            "deep",
            "application/json",
            nested("{\"a\":", "1", "}", 9_990).into(),
        ),
        (
            "YAML, nested",
            "application/yaml",
            format!("{}{}", "[".repeat(9_980), fill("a,")).into(),
        ),
        (
            "protobuf",
            "application/vnd.kubernetes.protobuf",
            protobuf("v1", "DeleteOptions", &[0x08; 2].repeat(1_000_000)).into(),
        ),
    ] {
        for path in [
            format!("{MAPS}/none"),
            MAPS.to_owned() + "?labelSelector=none%3Dnone",
        ] {
            out.push(case(
                &format!("delete options: {name}"),
                Method::DELETE,
                &path,
                kind,
                body.clone(),
            ));
        }
    }
}

fn queries(out: &mut Vec<Case>) {
    let long = 60_000;
    let get = |name: &str, query: String| {
        case(
            &format!("query: {name}"),
            Method::GET,
            &format!("{MAPS}?{query}"),
            "",
            "",
        )
    };
    let list = many_of(long - 5_000, |i| format!("v{i}"));
    let rows = [
        (
            "a label selector of many values",
            format!("labelSelector=a+in+({list})"),
        ),
        (
            "a label selector of many terms",
            format!("labelSelector={}", many_of(long, |i| format!("a{i}"))),
        ),
        (
            "a label selector of parentheses",
            format!("labelSelector={}", "(".repeat(long)),
        ),
        (
            "a label selector of exclamation marks",
            format!("labelSelector={}", "!".repeat(long)),
        ),
        (
            "a field selector of many terms",
            format!("fieldSelector={}", "metadata.name!=a,".repeat(3_500)),
        ),
        (
            "a field selector of escapes",
            format!("fieldSelector=metadata.name%3D{}", "%5C%5C".repeat(9_000)),
        ),
        ("many parameters", "a=b&".repeat(14_000)),
        ("many limits", "limit=9223372036854775807&".repeat(2_000)),
        ("a long limit", format!("limit={}", "9".repeat(long))),
        ("a long continue", format!("continue={}", "A".repeat(long))),
        (
            "a deep continue",
            format!("continue={}", {
                use base64::Engine as _;
                base64::engine::general_purpose::URL_SAFE_NO_PAD.encode("[".repeat(40_000))
            }),
        ),
        (
            "a long resource version",
            format!("resourceVersion={}", "9".repeat(long)),
        ),
        (
            "a long timeout",
            format!("timeout={}", "1h".repeat(long / 2)),
        ),
        ("escapes", format!("a={}", "%41".repeat(long / 3))),
    ];
    for (name, query) in rows {
        out.push(get(name, query));
    }
    for (name, query) in [
        (
            "a field manager of control characters",
            format!("fieldManager={}", "%01".repeat(20_000)),
        ),
        ("many dry runs", "dryRun=x&".repeat(6_500)),
    ] {
        let path = format!("{MAPS}?{query}");
        out.push(case(
            &format!("query: {name}"),
            Method::POST,
            &path,
            "application/json",
            map("", ""),
        ));
    }
    let header = |name: &str, headers: Vec<Header>| Case {
        name: format!("header: {name}"),
        method: Method::GET,
        path: MAPS.to_owned(),
        headers,
        body: Bytes::new(),
        then: None,
    };
    let extra: Vec<Header> = (0..90)
        .map(|_| ("impersonate-group", "g".repeat(3_000)))
        .collect();
    out.push(header(
        "accept",
        vec![("accept", "application/json;a=b,".repeat(15_000))],
    ));
    out.push(header(
        "accept, of parameters",
        vec![(
            "accept",
            format!("application/json{}", ";as=Table".repeat(30_000)),
        )],
    ));
    out.push(header(
        "accept-encoding",
        vec![("accept-encoding", "gzip;q=0,".repeat(30_000))],
    ));
    out.push(header(
        "user-agent",
        vec![("user-agent", "a".repeat(300_000))],
    ));
    out.push(header("audit-id", vec![("audit-id", "a".repeat(300_000))]));
    out.push(header(
        "authorization",
        vec![("authorization", format!("Bearer {}", "a.".repeat(150_000)))],
    ));
    out.push(header(
        "impersonation",
        [vec![("impersonate-user", "u".to_owned())], extra].concat(),
    ));
    out.push(header(
        "impersonation of what is escaped",
        vec![
            ("impersonate-user", "u".to_owned()),
            ("impersonate-extra-a%2fb", "%".repeat(300_000)),
        ],
    ));
    out.push(Case {
        headers: vec![content(&format!(
            "application/json{}",
            ";a=b".repeat(60_000)
        ))],
        ..case("header: content-type", Method::POST, MAPS, "", map("", ""))
    });
}

/// What is stored, in each form in which it can be read.
fn reads(out: &mut Vec<Case>) {
    for accept in [
        "application/json",
        "application/yaml",
        "application/vnd.kubernetes.protobuf",
        "application/json;as=Table;g=meta.k8s.io;v=v1",
        "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
    ] {
        for path in [
            format!("{REVISIONS}/deep"),
            format!("{MAPS}/large"),
            format!("{PODS}/large"),
        ] {
            out.push(Case {
                headers: vec![("accept", accept.to_owned())],
                ..case(
                    &format!("read: {path} as {accept}"),
                    Method::GET,
                    &path,
                    "",
                    "",
                )
            });
        }
    }
}

/// Two lists of which one refers to the other: all pairs are far too many.
fn pairs(out: &mut Vec<Case>) {
    let list = |unit: &dyn Fn(usize) -> String| format!("[{}]", many_of(HALF, unit));
    let named = |i: usize| format!("{{\"name\":\"n{i}\"}}");
    let pod = |spec: String| object("v1", "Pod", "", &format!("\"spec\":{{{spec}}}"));
    let container =
        |rest: String| format!("\"containers\":[{{\"name\":\"c\",\"image\":\"i\",{rest}}}]");
    let claim = |rest: String| {
        object(
            "resource.k8s.io/v1",
            "ResourceClaim",
            "",
            &format!(
                "\"spec\":{{\"devices\":{{\"requests\":{},{rest}}}}}",
                list(&named)
            ),
        )
    };
    let claims = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
    let job = "/apis/batch/v1/namespaces/default/jobs";
    let texts = |i: usize| format!("\"n{i}\"");
    let rows = [
        (
            "volumes and mounts",
            PODS,
            pod(format!(
                "\"volumes\":{},{}",
                list(&named),
                container(format!(
                    "\"volumeMounts\":{}",
                    list(&|i| format!("{{\"name\":\"n{i}\",\"mountPath\":\"/{i}\"}}"))
                ))
            )),
        ),
        (
            "volumes and devices",
            PODS,
            pod(format!(
                "\"volumes\":{},{}",
                list(&named),
                container(format!(
                    "\"volumeDevices\":{}",
                    list(&|i| format!("{{\"name\":\"n{i}\",\"devicePath\":\"/{i}\"}}"))
                ))
            )),
        ),
        (
            "claims and what uses them",
            PODS,
            pod(format!(
                "\"resourceClaims\":{},{}",
                list(&named),
                container(format!("\"resources\":{{\"claims\":{}}}", list(&named)))
            )),
        ),
        (
            "claims for devices and configurations",
            claims,
            claim(format!("\"config\":[{{\"requests\":{}}}]", list(&texts))),
        ),
        (
            "claims for devices and constraints",
            claims,
            claim(format!(
                "\"constraints\":[{{\"requests\":{}}}]",
                list(&texts)
            )),
        ),
        (
            "claims for devices and many constraints",
            claims,
            claim(format!(
                "\"constraints\":{}",
                list(&|_| format!("{{\"requests\":[{}]}}", many_of(300, texts)))
            )),
        ),
        (
            "containers and rules of failures",
            job,
            object(
                "batch/v1",
                "Job",
                "",
                &format!(
                    "\"spec\":{{\"podFailurePolicy\":{{\"rules\":{}}},\"template\":{{\"spec\":{{\"containers\":{}}}}}}}",
                    list(&|i| format!(
                        "{{\"action\":\"Count\",\"onExitCodes\":{{\"containerName\":\"n{i}\"}}}}"
                    )),
                    list(&named)
                ),
            ),
        ),
        (
            "addresses and ports",
            "/api/v1/namespaces/default/endpoints",
            object(
                "v1",
                "Endpoints",
                "",
                &format!(
                    "\"subsets\":[{{\"addresses\":{},\"ports\":{}}}]",
                    list(&|i| format!(
                        "{{\"ip\":\"10.{}.{}.{}\"}}",
                        i >> 16,
                        i >> 8 & 255,
                        i & 255
                    )),
                    list(&|i| format!("{{\"name\":\"n{i}\",\"port\":80}}"))
                ),
            ),
        ),
        (
            "claim templates and mounts",
            "/apis/apps/v1/namespaces/default/statefulsets",
            object(
                "apps/v1",
                "StatefulSet",
                "",
                &format!(
                    "\"spec\":{{\"volumeClaimTemplates\":{},\"template\":{{\"spec\":{{{}}}}}}}",
                    list(&|i| format!("{{\"metadata\":{{\"name\":\"n{i}\"}}}}")),
                    container(format!("\"volumeMounts\":{}", list(&named)))
                ),
            ),
        ),
        (
            "labels and a selector",
            "/apis/apps/v1/namespaces/default/deployments",
            object(
                "apps/v1",
                "Deployment",
                "",
                &format!(
                    "\"spec\":{{\"selector\":{{\"matchExpressions\":{}}},\"template\":{{\"metadata\":{{\"labels\":{{{}}}}}}}}}",
                    list(&|i| format!(
                        "{{\"key\":\"n{i}\",\"operator\":\"In\",\"values\":[\"v\"]}}"
                    )),
                    many_of(HALF, |i| format!("\"n{i}\":\"v\""))
                ),
            ),
        ),
    ];
    for (name, path, body) in rows {
        out.push(case(
            &format!("pairs: {name}"),
            Method::POST,
            path,
            "application/json",
            body,
        ));
    }
}

/// An object in the place of one with as much in it, the other way round.
fn updates(out: &mut Vec<Case>) {
    let turned = |unit: &dyn Fn(usize) -> String| {
        let all: Vec<String> = (0..9_000).map(unit).collect();
        let back: Vec<String> = all.iter().rev().cloned().collect();
        (all.join(","), back.join(","))
    };
    let pod = |name: &str, rest: &str| {
        format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{{\"name\":\"{name}\"}},\"spec\":{{\"containers\":[{{\"name\":\"c\",\"image\":\"i\"}}],{rest}}}}}"
        )
    };
    let fields: [(&str, &dyn Fn(usize) -> String); 4] = [
        ("tolerations", &|i| {
            format!("{{\"key\":\"n{i}\",\"operator\":\"Exists\"}}")
        }),
        ("schedulingGates", &|i| format!("{{\"name\":\"n{i}\"}}")),
        ("volumes", &|i| {
            format!("{{\"name\":\"n{i}\",\"emptyDir\":{{}}}}")
        }),
        ("imagePullSecrets", &|i| format!("{{\"name\":\"n{i}\"}}")),
    ];
    for (i, (field, unit)) in fields.into_iter().enumerate() {
        let (there, back) = turned(unit);
        let name = format!("update{i}");
        out.push(Case {
            then: Some(pod(&name, &format!("\"{field}\":[{back}]")).into()),
            ..case(
                &format!("update: {field}"),
                Method::POST,
                PODS,
                "application/json",
                pod(&name, &format!("\"{field}\":[{there}]")),
            )
        });
    }
    let long = |unit: &dyn Fn(usize) -> String| format!("[{}]", many_of(MOST - 1_000, unit));
    let status = [
        (
            "pods",
            "containerStatuses",
            long(&|i| {
                format!(
                    "{{\"name\":\"n{i}\",\"image\":\"i\",\"imageID\":\"\",\"ready\":true,\"restartCount\":0}}"
                )
            }),
        ),
        (
            "pods",
            "conditions",
            long(&|i| format!("{{\"type\":\"n{i}\",\"status\":\"True\"}}")),
        ),
        (
            "pods",
            "podIPs",
            long(&|i| format!("{{\"ip\":\"fd00::{}:{}\"}}", i >> 12, i & 0xfff)),
        ),
        (
            "deployments",
            "conditions",
            long(&|i| format!("{{\"type\":\"n{i}\",\"status\":\"True\"}}")),
        ),
    ];
    for (resource, field, list) in status {
        let (group, version, kind) = match resource {
            "pods" => ("/api/v1", "v1", "Pod"),
            _ => ("/apis/apps/v1", "apps/v1", "Deployment"),
        };
        let body = object(
            version,
            kind,
            "",
            &format!("\"status\":{{\"{field}\":{list}}}"),
        )
        .replacen("\"x\"", "\"target\"", 1);
        out.push(case(
            &format!("update: {resource} status.{field}"),
            Method::PUT,
            &format!("{group}/namespaces/default/{resource}/target/status"),
            "application/json",
            body,
        ));
    }
}

pub fn cases() -> Vec<Case> {
    let mut out = Vec::new();
    json_bodies(&mut out);
    pairs(&mut out);
    updates(&mut out);
    protobuf_bodies(&mut out);
    patches(&mut out);
    applies(&mut out);
    endpoints(&mut out);
    queries(&mut out);
    reads(&mut out);
    out
}

/// Makes the objects that cases are about.
pub async fn prepare(server: &Server) {
    let deep = format!("{{\"a\":[{}]}}", vec![nested_json(9_900); 60].join(","));
    let large: serde_json::Map<String, Value> =
        (0..50_000).map(|i| (format!("k{i}"), json!("v"))).collect();
    let containers: Vec<Value> = (0..8_000)
        .map(|i| json!({"name": format!("c{i}"), "image": "i"}))
        .collect();
    let pod = |name: &str, containers: &[Value]| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": containers}});
    let rule = |verbs: &[&str], resources: &[String]| json!({"verbs": verbs, "apiGroups": ["*"], "resources": resources});
    let mut rules: Vec<Value> = (0..50)
        .map(|i| rule(&["get", "list"], &[format!("r{i}")]))
        .collect();
    // Everything but `escalate`, `bind` and `impersonate`.
    let verbs = [
        "get",
        "list",
        "watch",
        "create",
        "update",
        "patch",
        "delete",
        "deletecollection",
    ];
    rules.push(rule(&verbs, &["*".to_owned()]));
    rules.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    let rbac = |kind: &str, name: &str, rest: Value| {
        let mut object = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}});
        object
            .as_object_mut()
            .unwrap()
            .extend(rest.as_object().unwrap().clone());
        object.to_string()
    };
    let bind = |name: &str, group: &str| {
        rbac(
            "ClusterRoleBinding",
            name,
            json!({
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "tester"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}]}),
        )
    };
    let mut objects = vec![
        (
            ROLES,
            rbac("ClusterRole", "tester", json!({"rules": rules})),
        ),
        (BINDINGS, bind("tester", "testers")),
    ];
    // Groups that a review names have bindings, too.
    objects.extend((0..200).map(|i| (BINDINGS, bind(&format!("b{i}"), &i.to_string()))));
    objects.extend([
        ("/api/v1/namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}).to_string()),
        (
            "/api/v1/namespaces/default/serviceaccounts",
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}).to_string(),
        ),
        (MAPS, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "target"}, "data": {"a": "b"}}).to_string()),
        (MAPS, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "large"}, "data": large}).to_string()),
        (PODS, pod("target", &containers[..1]).to_string()),
        (PODS, pod("large", &containers).to_string()),
        (
            "/apis/apps/v1/namespaces/default/deployments",
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "target"}, "spec": {
                "selector": {"matchLabels": {"a": "b"}},
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
            .to_string(),
        ),
        (
            REVISIONS,
            object("apps/v1", "ControllerRevision", "", &format!("\"revision\":1,\"data\":{deep}")).replace("\"x\"", "\"deep\""),
        ),
    ]);
    for (path, body) in objects {
        let headers = [("content-type", "application/json"), ROOT];
        let a = server
            .call(Method::POST, path, &headers, body.into())
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&a.body);
        assert!(
            matches!(a.code, 201 | 409),
            "{path}: {} {:.500}",
            a.code,
            text
        );
    }
}
