//! Verbs: consistency of lists and writes.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};

use crate::server::{Server, text};

const MAPS: &str = "/api/v1/namespaces/v/configmaps";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
}

fn names(list: &Value) -> Vec<String> {
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| text(i, "/metadata/name"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_show_one_moment() {
    let server = Server::start().await;
    let mut c = server.with_namespace("v").await;
    for i in 0..5 {
        c.post(MAPS, &map(&format!("m{i}"))).await.expect(201);
    }
    let first = c.get(&format!("{MAPS}?limit=2")).await.expect(200);
    assert_eq!(names(&first), ["m0", "m1"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    c.delete(&format!("{MAPS}/m3")).await.expect(200);
    c.post(MAPS, &map("m9")).await.expect(201);
    let token = text(&first, "/metadata/continue");
    let second = c
        .get(&format!("{MAPS}?limit=2&continue={token}"))
        .await
        .expect(200);
    assert_eq!(names(&second), ["m2", "m3"]);
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    let token = text(&second, "/metadata/continue");
    let third = c
        .get(&format!("{MAPS}?limit=2&continue={token}"))
        .await
        .expect(200);
    assert_eq!(names(&third), ["m4"]);
    assert_eq!(text(&third, "/metadata/continue"), "");
    // And the same by an exact revision.
    let rv = text(&first, "/metadata/resourceVersion");
    let exact = c
        .get(&format!(
            "{MAPS}?resourceVersion={rv}&resourceVersionMatch=Exact"
        ))
        .await
        .expect(200);
    assert_eq!(names(&exact), ["m0", "m1", "m2", "m3", "m4"]);
    assert_eq!(
        names(&c.get(MAPS).await.expect(200)),
        ["m0", "m1", "m2", "m4", "m9"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_listed_at_once() {
    let server = Arc::new(Server::start().await);
    let mut c = server.with_namespace("v").await;
    for i in 0..50 {
        let name = format!("m{i}");
        c.post(MAPS, &map(&name)).await.expect(201);
        assert!(
            names(&c.get(MAPS).await.expect(200)).contains(&name),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_patches_are_all_kept() {
    let server = Arc::new(Server::start().await);
    let mut c = server.with_namespace("v").await;
    c.post(MAPS, &map("m")).await.expect(201);
    let mut tasks = Vec::new();
    for i in 0..16 {
        let server = server.clone();
        tasks.push(tokio::spawn(async move {
            let mut c = server.connect().await;
            for j in 0..8 {
                let body = json!({"data": {format!("k{i}-{j}"): "v"}});
                c.merge(&format!("{MAPS}/m"), &body).await.expect(200);
            }
        }));
    }
    for t in tasks {
        t.await.unwrap();
    }
    let all = c.get(&format!("{MAPS}/m")).await.expect(200);
    assert_eq!(all["data"].as_object().unwrap().len(), 16 * 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_writes_are_refused() {
    let server = Server::start().await;
    let mut c = server.with_namespace("v").await;
    let old = c.post(MAPS, &map("m")).await.expect(201);
    let path = format!("{MAPS}/m");
    c.merge(&path, &json!({"data": {"a": "1"}}))
        .await
        .expect(200);
    let s = c.put(&path, &old).await.expect(409);
    assert_eq!(s["reason"], "Conflict");
    let body = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"resourceVersion": "1"}});
    let kind = [("content-type", "application/json")];
    c.call(Method::DELETE, &path, &kind, body.to_string())
        .await
        .expect(409);
    assert_eq!(c.get(&path).await.expect(200)["data"]["a"], "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn finalizers_keep_an_object_until_the_last_is_gone() {
    let server = Server::start().await;
    let mut c = server.with_namespace("v").await;
    let mut object = map("m");
    object["metadata"]["finalizers"] = json!(["example.com/a"]);
    c.post(MAPS, &object).await.expect(201);
    let path = format!("{MAPS}/m");
    let going = c.delete(&path).await.expect(200);
    assert!(!text(&going, "/metadata/deletionTimestamp").is_empty());
    let s = c
        .merge(
            &path,
            &json!({"metadata": {"finalizers": ["example.com/a", "example.com/b"]}}),
        )
        .await;
    assert_eq!(
        s.code,
        422,
        "no finalizer is added to what goes: {}",
        s.text()
    );
    c.merge(&path, &json!({"metadata": {"finalizers": null}}))
        .await
        .expect(200);
    c.get(&path).await.expect(404);
    // Orphaning and foreground deletion are finalizers for the garbage collector.
    for (policy, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
        let name = policy.to_lowercase();
        c.post(MAPS, &map(&name)).await.expect(201);
        let a = c
            .delete(&format!("{MAPS}/{name}?propagationPolicy={policy}"))
            .await;
        assert_eq!(a.code, 200, "{}", a.text());
        assert_eq!(a.json()["metadata"]["finalizers"], json!([finalizer]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_names_differ() {
    let server = Server::start().await;
    let mut c = server.with_namespace("v").await;
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        let body =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "g-"}});
        let made = c.post(MAPS, &body).await.expect(201);
        let name = text(&made, "/metadata/name");
        assert!(name.starts_with("g-") && name.len() == 7, "{name}");
        assert!(seen.insert(name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn encodings_agree() {
    let server = Server::start().await;
    let mut c = server.with_namespace("v").await;
    for i in 0..3 {
        c.post(MAPS, &map(&format!("m{i}"))).await.expect(201);
    }
    let json = c.get(MAPS).await.expect(200);
    let accept = [("accept", "application/vnd.kubernetes.protobuf")];
    let proto = c.call(Method::GET, MAPS, &accept, "").await;
    assert_eq!(
        proto.headers["content-type"],
        "application/vnd.kubernetes.protobuf"
    );
    let unknown = wire::envelope::unwrap(&proto.body).unwrap();
    assert_eq!((unknown.api_version, unknown.kind), ("v1", "ConfigMapList"));
    let (items, version, _) = wire::envelope::list_parts(unknown.raw).unwrap();
    assert_eq!(version, text(&json, "/metadata/resourceVersion"));
    let schema = api::schema::message("v1", "ConfigMap").unwrap();
    let from_proto: Vec<Value> = items
        .iter()
        .map(|i| wire::proto::from_slice(i, schema).unwrap())
        .collect();
    assert_eq!(json["items"], Value::Array(from_proto));
    let yaml = c
        .call(Method::GET, MAPS, &[("accept", "application/yaml")], "")
        .await;
    let yaml: Value = serde_yaml::from_str(&yaml.text()).unwrap();
    assert_eq!(yaml, json);
}
