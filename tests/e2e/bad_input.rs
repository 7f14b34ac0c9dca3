//! Bad bodies sent to the apiserver of a running cluster: each gets its Status, and the cluster goes on.

use crate::cluster::{Cluster, seconds};
use serde_json::Value;

/// What it is, method, content type, body, the code, and words of the message.
struct Case {
    what: &'static str,
    patch: bool,
    content: &'static str,
    body: Vec<u8>,
    code: u64,
    says: &'static str,
}

fn cases() -> Vec<Case> {
    let json = "application/json";
    let case = |what, content, body: Vec<u8>, code, says| Case {
        what,
        patch: false,
        content,
        body,
        code,
        says,
    };
    let map = |rest: &str| {
        format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"bad"}},"data":{rest}"#
        )
        .into_bytes()
    };
    let deep = format!("{}{}}}", "[".repeat(20_000), "]".repeat(20_000));
    let mut aliases = String::from(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bad}\na0: &a0 [x,x,x,x,x,x,x,x,x,x]\n",
    );
    for i in 1..10 {
        let refs = vec![format!("*a{}", i - 1); 10].join(",");
        aliases.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
    }
    let mut not_utf8 = map(r#"{"a":""#);
    not_utf8.extend(b"\xff\xfe\"}}");
    let large = map(&format!(r#"{{"a":"{}"}}}}"#, "x".repeat(3 * 1024 * 1024)));
    let one = r#"{"op":"add","path":"/data/a","value":"1"}"#;
    let patch = format!("[{}]", vec![one; 10_001].join(","));
    let mut patches = case(
        "10,001 patch operations",
        "application/json-patch+json",
        patch.into_bytes(),
        413,
        "The allowed maximum operations in a JSON patch is 10000, got 10001",
    );
    patches.patch = true;
    vec![
        case("truncated", json, map("{"), 400, "unexpected"),
        case("over 3 MB", json, large, 413, "limit is 3145728"),
        case(
            "nested too deep",
            json,
            map(&deep),
            400,
            "invalid character '[' exceeded max depth",
        ),
        case(
            "YAML aliases",
            "application/yaml",
            aliases.into_bytes(),
            400,
            "yaml: document contains excessive aliasing",
        ),
        case(
            "a number for a string",
            json,
            map(r#"{"a":1}}"#),
            400,
            "cannot unmarshal number",
        ),
        case(
            "wrong content type",
            "text/html",
            map("{}}"),
            415,
            "the body of the request was in an unknown format",
        ),
        // Go's decoder replaces what is not UTF-8.
        case("invalid UTF-8", json, not_utf8, 201, ""),
        patches,
    ]
}

pub fn gets_a_status(cluster: &Cluster) {
    let space = cluster.namespace("bad-input");
    space.kubectl(&["create", "configmap", "good", "--from-literal=a=b"]);
    let before = cluster.daemon("node-1", "kube-apiserver");
    let file = std::env::temp_dir().join(format!("keelson-e2e-bad-input-{}", std::process::id()));
    for case in cases() {
        std::fs::write(&file, &case.body).unwrap();
        let answer = send(cluster, &case, &file.display().to_string());
        let what = case.what;
        let answer: Value =
            serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{what}: {e}: {answer}"));
        if case.code == 201 {
            assert_eq!(answer["data"]["a"], "\u{fffd}\u{fffd}", "{what}");
            continue;
        }
        assert_eq!(answer["kind"], "Status", "{what}: {answer}");
        assert_eq!(answer["code"].as_u64(), Some(case.code), "{what}: {answer}");
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(message.contains(case.says), "{what}: {message}");
    }
    std::fs::remove_file(&file).unwrap();
    assert_eq!(
        before,
        cluster.daemon("node-1", "kube-apiserver"),
        "the apiserver was restarted"
    );
    let good = space.json(&["get", "configmap", "good"]);
    assert_eq!(good["data"]["a"], "b");
    space.hello(1);
    space.wait_pods(1, seconds(30));
}

/// Sends a body from the first node, as the apiserver's own client of kubelets, which may do anything.
fn send(cluster: &Cluster, case: &Case, file: &str) -> String {
    let maps = "https://127.0.0.1:6443/api/v1/namespaces/bad-input/configmaps";
    let url = if case.patch {
        format!("{maps}/good")
    } else {
        maps.to_string()
    };
    cluster.exec(
        "node-1",
        &[
            "curl",
            "-sS",
            "--max-time",
            "20",
            "--cacert",
            "/etc/kubernetes/pki/ca.crt",
            "--cert",
            "/etc/kubernetes/pki/apiserver-kubelet-client.crt",
            "--key",
            "/etc/kubernetes/pki/apiserver-kubelet-client.key",
            "-X",
            if case.patch { "PATCH" } else { "POST" },
            "-H",
            &format!("Content-Type: {}", case.content),
            "-H",
            "Expect:",
            "--data-binary",
            &format!("@{file}"),
            &url,
        ],
    )
}
