//! Documents about the API: discovery and OpenAPI.

use std::io::Read;

use http::Method;
use serde_json::Value;

use crate::server::{Connection, Server, text};

const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The fields of a message with the bytes of those that have a length.
fn fields(mut b: &[u8]) -> Vec<(u64, &[u8])> {
    fn varint(b: &mut &[u8]) -> u64 {
        let mut v = 0;
        for i in 0.. {
            let byte = b[0];
            *b = &b[1..];
            v |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                break;
            }
        }
        v
    }
    let mut out = Vec::new();
    while !b.is_empty() {
        let key = varint(&mut b);
        let n = varint(&mut b);
        if key & 7 == 2 {
            let (field, rest) = b.split_at(usize::try_from(n).unwrap());
            out.push((key >> 3, field));
            b = rest;
        }
    }
    out
}

fn one(b: &[u8], tag: u64) -> &[u8] {
    let all = fields(b);
    all.iter().find(|(t, _)| *t == tag).expect("a field").1
}

/// Every reference in a document.
fn references<'a>(v: &'a Value, out: &mut Vec<&'a str>) {
    match v {
        Value::Object(m) => {
            for (k, v) in m {
                match v.as_str() {
                    Some(to) if k == "$ref" => out.push(to),
                    _ => references(v, out),
                }
            }
        }
        Value::Array(l) => l.iter().for_each(|v| references(v, out)),
        _ => {}
    }
}

async fn fetch(c: &mut Connection, accept: &str) -> (String, String, Vec<u8>) {
    let headers = [("accept", accept)];
    let a = c.call(Method::GET, "/openapi/v2", &headers, "").await;
    assert_eq!(a.code, 200, "{}", a.text());
    let header = |name: &str| a.headers[name].to_str().unwrap().to_owned();
    (header("content-type"), header("etag"), a.body.to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_version_of_openapi_has_definitions_and_paths() {
    let server = Server::start().await;
    let mut c = server.connect().await;
    let (media, etag, bytes) = fetch(&mut c, "").await;
    assert_eq!(media, "application/json");
    let document: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(text(&document, "/swagger"), "2.0");
    let definitions = document["definitions"].as_object().unwrap();
    let paths = document["paths"].as_object().unwrap();

    // What is referred to is there.
    let mut all = Vec::new();
    references(&document, &mut all);
    assert!(all.len() > 2000, "{}", all.len());
    for r in all {
        let name = r.strip_prefix("#/definitions/").expect(r);
        assert!(definitions.contains_key(name), "{r}");
    }
    // The paths of version 3 are those of version 2.
    let v3 = c.get("/openapi/v3/apis/apps/v1").await.expect(200);
    for (path, item) in v3["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if method != "parameters" {
                let at = |name: &str| paths[path][method].get(name).cloned();
                assert_eq!(at("operationId"), operation.get("operationId").cloned());
            }
        }
    }
    let pod = &definitions["io.k8s.api.core.v1.Pod"];
    assert_eq!(
        text(pod, "/properties/spec/$ref"),
        "#/definitions/io.k8s.api.core.v1.PodSpec"
    );
    assert!(pod.pointer("/properties/spec/description").is_some());
    assert_eq!(text(pod, "/x-kubernetes-group-version-kind/0/kind"), "Pod");
    for kind in ["PodList", "ComponentStatusList"] {
        let name = format!("io.k8s.api.core.v1.{kind}");
        assert!(definitions.contains_key(&name), "{name}");
    }
    let port = &definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"];
    assert_eq!(
        (text(port, "/type"), text(port, "/format")),
        ("string".into(), "int-or-string".into())
    );
    let patch = &paths["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
    let parameters = patch["parameters"].as_array().unwrap();
    // By this clients know that a dry run is possible.
    assert!(
        parameters
            .iter()
            .any(|p| p["name"] == "dryRun" && p["in"] == "query")
    );
    assert!(
        parameters
            .iter()
            .any(|p| p["name"] == "body" && p["required"] == true)
    );
    assert!(
        patch["consumes"]
            .as_array()
            .unwrap()
            .contains(&"application/apply-patch+yaml".into())
    );

    // The same in protobuf, by both names, in the client's order.
    let old = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let (media, tag, proto) = fetch(&mut c, &format!("application/json;q=0.5, {old}")).await;
    assert_eq!(media, PROTOBUF);
    assert_ne!(tag, etag);
    assert_eq!(fetch(&mut c, PROTOBUF).await.2, proto);
    assert_eq!(one(&proto, 1), b"2.0");
    let members = |tag: u64, inner: u64| -> Vec<(String, Vec<u8>)> {
        fields(one(&proto, tag))
            .into_iter()
            .filter(|(t, _)| *t == inner)
            .map(|(_, m)| {
                let name = String::from_utf8(one(m, 1).to_vec()).unwrap();
                (name, one(m, 2).to_vec())
            })
            .collect()
    };
    let names = |list: &[(String, Vec<u8>)]| -> Vec<String> {
        list.iter().map(|(n, _)| n.clone()).collect()
    };
    let (in_paths, in_definitions) = (members(8, 2), members(9, 1));
    assert_eq!(
        names(&in_definitions),
        definitions.keys().cloned().collect::<Vec<_>>()
    );
    let mut sorted = names(&in_paths);
    sorted.sort();
    assert_eq!(sorted, paths.keys().cloned().collect::<Vec<_>>());
    let (_, pod) = in_definitions
        .iter()
        .find(|(n, _)| n == "io.k8s.api.core.v1.Pod")
        .unwrap();
    let kinds = fields(pod)
        .into_iter()
        .find(|(t, m)| *t == 31 && one(m, 1) == b"x-kubernetes-group-version-kind")
        .unwrap();
    assert_eq!(
        one(one(kinds.1, 2), 2),
        b"- group: \"\"\n  kind: Pod\n  version: v1\n"
    );

    // Who has it gets no bytes; compressed it is the same.
    let headers = [("if-none-match", &*format!("W/{etag}, \"x\""))];
    let known = c.call(Method::GET, "/openapi/v2", &headers, "").await;
    assert_eq!((known.code, known.body.len()), (304, 0));
    let headers = [("accept-encoding", "gzip")];
    let packed = c.call(Method::GET, "/openapi/v2", &headers, "").await;
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&packed.body[..])
        .read_to_end(&mut plain)
        .unwrap();
    assert_eq!(plain, bytes);
    let headers = [("accept", "text/html")];
    assert_eq!(
        c.call(Method::GET, "/openapi/v2", &headers, "").await.code,
        406
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn aggregated_discovery_is_sent_once() {
    let server = Server::start().await;
    let mut c = server.connect().await;
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    for path in ["/api", "/apis"] {
        let headers = [("accept", aggregated)];
        let first = c.call(Method::GET, path, &headers, "").await;
        assert_eq!(
            (first.code, &first.headers["content-type"]),
            (200, &aggregated.parse().unwrap())
        );
        let etag = first.headers["etag"].to_str().unwrap();
        let headers = [("accept", aggregated), ("if-none-match", etag)];
        let second = c.call(Method::GET, path, &headers, "").await;
        assert_eq!((second.code, second.body.len()), (304, 0));
        assert_eq!(second.headers["etag"], etag);
        // The old form of the same path is another document.
        let old = text(&c.get(path).await.expect(200), "/kind");
        assert!(!old.contains("Discovery"), "{old}");
    }
    for (path, kind) in [
        ("/api", "APIVersions"),
        ("/apis", "APIGroupList"),
        ("/apis/apps", "APIGroup"),
        ("/apis/apps/v1", "APIResourceList"),
        ("/api/v1", "APIResourceList"),
    ] {
        for _ in 0..2 {
            assert_eq!(
                text(&c.get(path).await.expect(200), "/kind"),
                kind,
                "{path}"
            );
        }
        let yaml = [("accept", "application/yaml")];
        let yaml = c.call(Method::GET, path, &yaml, "").await;
        assert!(
            yaml.text().contains(&format!("kind: {kind}\n")),
            "{}",
            yaml.text()
        );
    }
    assert_eq!(c.get("/apis/none.example").await.code, 404);
}
