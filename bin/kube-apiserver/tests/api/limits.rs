//! What one request may cost, and numbers at their ends.

use std::time::{SystemTime, UNIX_EPOCH};

use http::Method;
use serde_json::{Value, json};

use crate::server::{Server, text};

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

/// JSON of so many arrays in one another.
fn nested(levels: usize) -> String {
    format!("{}{}", "[".repeat(levels), "]".repeat(levels))
}

#[tokio::test(flavor = "multi_thread")]
async fn reviews_and_actions_have_no_use_for_managed_fields() {
    let server = Server::start().await;
    let mut c = server.with_namespace("bad").await;
    let fields = format!(
        "{}{}",
        "{\"f:a\":".repeat(9_900),
        "{}".to_owned() + &"}".repeat(9_900)
    );
    let managed = format!(
        r#"[{{"manager":"m","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{fields}}}]"#
    );
    let review = format!(
        r#"{{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","metadata":{{"managedFields":{managed}}},
            "spec":{{"resourceAttributes":{{"verb":"get","resource":"pods"}}}}}}"#
    );
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let got = c.call(Method::POST, path, &JSON, review).await.expect(201);
    assert_eq!(got["status"]["allowed"], true);
    assert_eq!(got["metadata"].get("managedFields"), None);
    let request = format!(
        r#"{{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","metadata":{{"managedFields":{managed}}},"spec":{{}}}}"#
    );
    let path = "/api/v1/namespaces/bad/serviceaccounts/default/token";
    let got = c.call(Method::POST, path, &JSON, request).await.expect(201);
    assert_eq!(got["metadata"].get("managedFields"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_accepted_can_be_read_changed_and_deleted() {
    let server = Server::start().await;
    let mut c = server.with_namespace("bad").await;
    let all = "/apis/apps/v1/namespaces/bad/controllerrevisions";
    let path = format!("{all}/deep");
    let deep = format!(
        r#"{{"apiVersion":"apps/v1","kind":"ControllerRevision","metadata":{{"name":"deep"}},"revision":1,"data":{{"a":{}}}}}"#,
        nested(9_900)
    );
    let a = c.call(Method::POST, all, &JSON, deep).await;
    assert_eq!(a.code, 201, "{:.200}", a.text());
    for accept in [
        "application/json",
        "application/yaml",
        "application/vnd.kubernetes.protobuf",
        "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
        "application/json;as=Table;g=meta.k8s.io;v=v1",
    ] {
        for path in [path.as_str(), all] {
            let a = c.call(Method::GET, path, &[("accept", accept)], "").await;
            assert_eq!(a.code, 200, "{accept} {path}: {:.200}", a.text());
            assert!(a.body.len() < 200_000, "{accept}: {}", a.body.len());
        }
    }
    let a = c.merge(&path, &json!({"revision": 2})).await;
    assert_eq!(a.code, 200, "{:.200}", a.text());
    assert_eq!(c.delete(&path).await.code, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_at_their_ends() {
    let server = Server::start().await;
    let mut c = server.with_namespace("bad").await;
    let pods = "/api/v1/namespaces/bad/pods";
    let most = i64::MAX;
    // The watch begins; it ends with its connection.
    let mut watching = server.connect().await;
    let path = format!("{pods}?watch=true&timeoutSeconds={most}");
    let watch = watching.open(Method::GET, &path, &[], "").await;
    assert_eq!(watch.status(), 200);
    let a = c.get(&format!("{pods}?watch=true&timeoutSeconds=-1")).await;
    assert_eq!((a.code, a.body.len()), (200, 0));
    for (query, code) in [
        (format!("limit={most}"), 200),
        ("limit=-1".to_owned(), 200),
        (format!("limit={most}0"), 400),
        (format!("timeoutSeconds={most}"), 200),
        (format!("timeout={most}h"), 400),
        (format!("resourceVersion={most}"), 504),
        (format!("resourceVersion={most}0"), 400),
    ] {
        let a = c.get(&format!("{pods}?{query}")).await;
        assert_eq!(a.code, code, "{query}: {}", a.text());
    }
    // A grace period that no clock can hold.
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"nodeName": "n",
        "terminationGracePeriodSeconds": most, "activeDeadlineSeconds": i32::MAX,
        "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": most}],
        "containers": [{"name": "c", "image": "i"}]}});
    c.post(pods, &pod).await.expect(201);
    let got = c.delete(&format!("{pods}/p")).await.expect(200);
    let until = text(&got, "/metadata/deletionTimestamp");
    let year: u64 = until.get(..4).and_then(|y| y.parse().ok()).unwrap();
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let now = 1970 + seconds / (365 * 24 * 3600);
    assert!((now..now + 70).contains(&year), "{until}");
    let got = c
        .delete(&format!("{pods}/p?gracePeriodSeconds={most}"))
        .await
        .expect(200);
    assert_eq!(text(&got, "/metadata/deletionTimestamp"), until);
    let got = c
        .delete(&format!("{pods}/p?gracePeriodSeconds=0"))
        .await
        .expect(200);
    assert_eq!(got["metadata"]["name"], "p");
    assert_eq!(c.get(&format!("{pods}/p")).await.code, 404);
    assert_eq!(c.get("/readyz").await.code, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn times_at_their_ends() {
    let server = Server::start().await;
    let mut c = server.with_namespace("bad").await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/bad/leases";
    let events = "/api/v1/namespaces/bad/events";
    for (i, (given, told)) in [
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
        ("0000-01-01T00:00:00.000000Z", "0000-01-01T00:00:00.000000Z"),
        (
            "9999-12-31T23:59:59.000000+24:00",
            "9999-12-30T23:59:59.000000Z",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("l{i}");
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name}, "spec": {"renewTime": given}});
        c.post(leases, &lease).await.expect(201);
        let got = c.get(&format!("{leases}/{name}")).await.expect(200);
        assert_eq!(text(&got, "/spec/renewTime"), told);
        let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name},
            "involvedObject": {"kind": "Pod", "name": "p", "namespace": "bad"},
            "lastTimestamp": given, "firstTimestamp": given});
        c.post(events, &event).await.expect(201);
    }
    // A year that could not be read again.
    for given in ["9999-12-31T23:59:59-00:01", "0000-01-01T00:00:00+00:01"] {
        let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "x"},
            "involvedObject": {"kind": "Pod", "name": "p", "namespace": "bad"}, "lastTimestamp": given});
        let a = c.post(events, &event).await;
        assert_eq!(a.code, 400, "{}", a.text());
        assert!(a.text().contains("out of range"), "{}", a.text());
    }
    for path in [leases, events] {
        for accept in [
            "application/json",
            "application/yaml",
            "application/vnd.kubernetes.protobuf",
            "application/json;as=Table;g=meta.k8s.io;v=v1",
        ] {
            let a = c.call(Method::GET, path, &[("accept", accept)], "").await;
            assert_eq!(a.code, 200, "{accept} {path}: {}", a.text());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn warnings_are_cut() {
    let server = Server::start().await;
    let mut c = server.with_namespace("bad").await;
    let maps = "/api/v1/namespaces/bad/configmaps";
    let headers = |a: &crate::server::Answer| -> usize {
        let all = a.headers.get_all("warning").iter();
        all.map(|h| h.as_bytes().len()).sum()
    };
    let owner = |i: usize| json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": format!("{i:040}")});
    let owners: Vec<Value> = (0..20_000).map(|i| owner(i / 2)).collect();
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "ownerReferences": owners}});
    let a = c.post(maps, &map).await;
    assert_eq!(a.code, 201, "{:.300}", a.text());
    assert!(
        a.headers["warning"]
            .to_str()
            .unwrap()
            .contains("ownerReferences contains duplicate entries; API server dedups")
    );
    assert!(headers(&a) < 1_000, "{}", headers(&a));
    assert_eq!(
        a.json()["metadata"]["ownerReferences"]
            .as_array()
            .unwrap()
            .len(),
        10_000
    );
    let members: Vec<String> = (0..5_000).map(|i| format!("\"x{i:0300}\":1")).collect();
    let patch = format!("{{{}}}", members.join(","));
    let kind = [("content-type", "application/merge-patch+json")];
    let a = c
        .call(Method::PATCH, &format!("{maps}/m"), &kind, patch)
        .await;
    assert_eq!(a.code, 200, "{:.300}", a.text());
    assert!((1_000..10_000).contains(&headers(&a)), "{}", headers(&a));
}
