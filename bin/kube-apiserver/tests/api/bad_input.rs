//! What clients send by mistake or malice gets a Status, and the server goes on.

use http::Method;
use serde_json::{Value, json};

use crate::server::Server;

const PODS: &str = "/api/v1/namespaces/bad/pods";
const MAPS: &str = "/api/v1/namespaces/bad/configmaps";

#[tokio::test(flavor = "multi_thread")]
async fn bad_bodies_get_a_status() {
    let server = Server::start().await;
    let mut c = server.with_namespace("bad").await;
    let json = "application/json";
    let yaml = "application/yaml";
    let proto = "application/vnd.kubernetes.protobuf";
    let map =
        |n: &str| format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{n}"}}"#);
    let deep = format!(
        "{},\"data\":{}{}}}",
        map("deep"),
        "[".repeat(20_000),
        "]".repeat(20_000)
    );
    let mut aliases = String::from(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: al}\na0: &a0 [x,x,x,x,x,x,x,x,x,x]\n",
    );
    for i in 1..10 {
        let refs = vec![format!("*a{}", i - 1); 10].join(",");
        aliases.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
    }
    let utf8: Vec<u8> = [map("u").as_bytes(), b",\"data\":{\"a\":\"\xff\xfe\"}}"].concat();
    // What it is, content type, body, code, message.
    let table: Vec<(&str, &str, Vec<u8>, u16, &str)> = vec![
        (
            "truncated",
            json,
            map("t").into_bytes(),
            400,
            "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: unexpected end of JSON input ({\"apiVersion\":\"v1\",\"kind\":\"Con ...)",
        ),
        (
            "nested too deep",
            json,
            deep.into_bytes(),
            400,
            "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: invalid character '[' exceeded max depth ({\"apiVersion\":\"v1\",\"kind\":\"Con ...)",
        ),
        (
            "YAML aliases",
            yaml,
            aliases.into_bytes(),
            400,
            "the object provided is unrecognized (must be of type ConfigMap): yaml: document contains excessive aliasing (61706956657273696f6e3a2076310a6b696e643a20436f6e6669674d6170 ...)",
        ),
        (
            "a number for a string",
            json,
            format!("{},\"data\":{{\"a\":1}}}}", map("n")).into_bytes(),
            400,
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
        ),
        (
            "a string for an object",
            json,
            format!("{},\"data\":\"x\"}}", map("s")).into_bytes(),
            400,
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal string into Go struct field ConfigMap.data of type map[string]string",
        ),
        (
            "wrong content type",
            "text/html",
            map("c").into_bytes(),
            415,
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf",
        ),
        (
            "no envelope",
            proto,
            b"hello".to_vec(),
            400,
            "the object provided is unrecognized (must be of type ConfigMap): provided data does not appear to be a protobuf message, expected prefix [107 56 115 0] (68656c6c6f)",
        ),
        (
            "truncated envelope",
            proto,
            b"k8s\0\x0a\xff\xff\xff\xff\x0f".to_vec(),
            400,
            "the object provided is unrecognized (must be of type ConfigMap): unexpected EOF (6b3873000affffffff0f)",
        ),
        (
            "truncated protobuf",
            proto,
            [
                b"k8s\0".as_slice(),
                b"\x0a\x0d\x0a\x02v1\x12\x09ConfigMap",
                b"\x12\x03\x0a\x7fx",
            ]
            .concat(),
            400,
            "the object provided is unrecognized (must be of type ConfigMap): unexpected EOF (6b3873000a0d0a0276311209436f6e6669674d617012030a7f78)",
        ),
        (
            "null",
            json,
            b"null".to_vec(),
            422,
            "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required",
        ),
    ];
    let mut wrong = Vec::new();
    for (what, content, body, code, message) in table {
        let a = c
            .call(Method::POST, MAPS, &[("content-type", content)], body)
            .await;
        let s = a.json();
        let got = (
            a.code,
            s["kind"].as_str(),
            s["code"].as_u64(),
            s["message"].as_str(),
        );
        if got != (code, Some("Status"), Some(u64::from(code)), Some(message)) {
            wrong.push(format!("{what}: {}", a.text()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Go's decoder replaces what is not UTF-8.
    let a = c
        .call(Method::POST, MAPS, &[("content-type", json)], utf8)
        .await;
    assert_eq!(a.expect(201)["data"]["a"], "\u{fffd}\u{fffd}");
    let large = format!(
        "{},\"data\":{{\"a\":\"{}\"}}}}",
        map("l"),
        "x".repeat(3 * 1024 * 1024)
    );
    let a = server
        .connect()
        .await
        .call(Method::POST, MAPS, &[("content-type", json)], large)
        .await;
    assert_eq!(a.code, 413, "{}", a.text());
    assert_eq!(a.json()["reason"], "RequestEntityTooLarge");
    let mut c = server.connect().await;
    assert_eq!(c.get("/readyz").await.code, 200);
    let left = c.get(MAPS).await.expect(200);
    let names: Vec<&str> = left["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|i| i["metadata"]["name"].as_str())
        .collect();
    // Nobody runs who would make kube-root-ca.crt.
    assert_eq!(names, ["u"], "nothing bad was stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2019_11253_json_patches_are_bounded() {
    let server = Server::start().await;
    let mut c = server.with_namespace("bad").await;
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "x"}});
    c.post(MAPS, &object).await.expect(201);
    let kind = [("content-type", "application/json-patch+json")];
    let one = json!({"op": "add", "path": "/data/a", "value": "1"});
    let many = Value::Array(vec![one; 10_001]).to_string();
    let path = format!("{MAPS}/m");
    let s = c.call(Method::PATCH, &path, &kind, many).await.expect(413);
    assert_eq!(
        s["message"],
        "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001"
    );
    // Copies double the document: a few kilobytes of patch must not become gigabytes.
    let mut ops = vec![json!({"op": "add", "path": "/data/b", "value": "x".repeat(1024)})];
    for i in 0..40 {
        ops.push(json!({"op": "copy", "from": "/data", "path": format!("/data/c{i}")}));
    }
    let a = c
        .call(Method::PATCH, &path, &kind, Value::Array(ops).to_string())
        .await;
    assert_eq!(a.code, 422, "{}", a.text());
    let left = c.get(&path).await.expect(200);
    assert_eq!(left["data"], json!({"a": "x"}), "nothing of it was stored");
    assert_eq!(c.get("/readyz").await.code, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_climb_are_refused() {
    let server = Server::start().await;
    let mut c = server.with_namespace("bad").await;
    for (path, code) in [
        ("/api/v1/namespaces/bad/pods/%2e%2e", 400),
        ("/api/v1/namespaces/..%2fkube-system/pods", 404),
        ("/api/v1/namespaces/bad/pods/a%2fb", 404),
    ] {
        let a = c.get(path).await;
        assert_eq!(a.code, code, "{path}: {}", a.text());
    }
    assert_eq!(c.get(PODS).await.code, 200);
}
