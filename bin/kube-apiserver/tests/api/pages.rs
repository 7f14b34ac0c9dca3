//! Lists in pages.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::server::Server;

/// Names of a page, what is said to follow, and the token to go on with.
fn page(list: &Value) -> (Vec<String>, i64, String) {
    let items = list["items"].as_array().unwrap();
    let name = |i: &Value| i["metadata"]["name"].as_str().unwrap().to_owned();
    let meta = &list["metadata"];
    (
        items.iter().map(name).collect(),
        meta["remainingItemCount"].as_i64().unwrap_or(0),
        meta["continue"].as_str().unwrap_or_default().to_owned(),
    )
}

#[tokio::test]
async fn a_list_whose_revision_was_compacted_goes_on_from_the_tokens_key() {
    let server = Server::start_with(&["--etcd-compaction-interval=1s"]).await;
    let mut c = server.with_namespace("a").await;
    let all = "/api/v1/namespaces/a/configmaps";
    for n in 0..25 {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("n{n:02}")}});
        c.post(all, &map).await.expect(201);
    }
    let first = c.get(&format!("{all}?limit=5")).await.expect(200);
    let (names, remaining, token) = page(&first);
    assert_eq!((names.len(), remaining), (5, 20));
    // Writes move the history on, and lists push out the snapshots that the server keeps for pages.
    let mut turn = 0;
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    let expired = loop {
        turn += 1;
        let change = json!({"data": {"turn": turn.to_string()}});
        c.merge(&format!("{all}/n00"), &change).await.expect(200);
        c.get(&format!("{all}?limit=1")).await.expect(200);
        let answer = c.get(&format!("{all}?limit=5&continue={token}")).await;
        if answer.code != 200 {
            break answer.expect(410);
        }
        let (names, remaining, _) = page(&answer.json());
        assert_eq!((names[0].as_str(), names.len(), remaining), ("n05", 5, 15));
        assert!(
            std::time::Instant::now() < deadline,
            "the token never expires"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(expired["reason"], "Expired");
    let mut token = expired["metadata"]["continue"].as_str().unwrap().to_owned();
    assert!(!token.is_empty());
    let mut seen = 5;
    while !token.is_empty() {
        let list = c
            .get(&format!("{all}?limit=5&continue={token}"))
            .await
            .expect(200);
        let (names, remaining, next) = page(&list);
        assert_eq!(names[0], format!("n{seen:02}"));
        seen += names.len();
        assert_eq!(seen + usize::try_from(remaining).unwrap(), 25);
        token = next;
    }
    assert_eq!(seen, 25);
    // At a revision that is gone there is no page to go on from.
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let exact = format!("{all}?resourceVersion={version}&resourceVersionMatch=Exact");
    let gone = c.get(&exact).await.expect(410);
    assert_eq!(
        gone["message"],
        "The resourceVersion for the provided list is too old."
    );
}

/// Lists and Tables are written piece by piece: in whatever dress, they say the same, in the same order.
#[tokio::test(flavor = "multi_thread")]
async fn lists_say_the_same_in_every_dress() {
    let server = Server::start().await;
    let mut c = server.with_namespace("many").await;
    let maps = "/api/v1/namespaces/many/configmaps";
    let table = "as=Table;v=v1;g=meta.k8s.io";
    let partial = "as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let mut made = 0;
    // None, one, and more than a piece holds.
    for count in [0, 1, 40] {
        while made < count {
            let data = format!("line one\n  {}: \"x\"\n", "y".repeat(5000));
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m{made:03}")},
                "data": {"text": data, "empty": "", "yes": "yes"}});
            c.post(maps, &map).await.expect(201);
            made += 1;
        }
        for (form, query) in [
            ("", ""),
            (table, "?includeObject=Object"),
            (table, "?includeObject=None"),
            (table, ""),
            (partial, ""),
        ] {
            let path = format!("{maps}{query}");
            let accept = |media: &str| format!("{media};{form}");
            let (json, yaml) = (accept("application/json"), accept("application/yaml"));
            let compact = c.call(Method::GET, &path, &[("accept", &json)], "").await;
            let mut want = compact.json();
            let items = if form == table { "rows" } else { "items" };
            assert_eq!(want[items].as_array().map_or(0, Vec::len), count, "{form}");
            assert!(compact.body.ends_with(b"}\n"));
            let pretty = [("accept", &*json), ("user-agent", "curl/8")];
            let pretty = c.call(Method::GET, &path, &pretty, "").await;
            let text = pretty.text();
            assert!(
                text.starts_with("{\n  \"kind\": ") && text.ends_with("\n}"),
                "{form}: {text:.100}"
            );
            let mut pretty = pretty.json();
            let yaml = c.call(Method::GET, &path, &[("accept", &yaml)], "").await;
            assert_eq!(yaml.headers["content-type"], "application/yaml");
            let mut yaml: Value = serde_yaml::from_slice(&yaml.body).unwrap();
            for v in [&mut want, &mut pretty, &mut yaml] {
                if let Some(rows) = v.get_mut("rows").and_then(Value::as_array_mut) {
                    for row in rows {
                        // The age.
                        row["cells"].as_array_mut().unwrap().pop();
                        if row.get("object").is_some_and(Value::is_null) {
                            row.as_object_mut().unwrap().remove("object");
                        }
                    }
                }
            }
            assert_eq!(pretty, want, "{form}");
            if form != table {
                assert_eq!(yaml, want, "{form}");
            } else {
                assert_eq!(yaml["rows"].as_array().unwrap().len(), count);
                assert_eq!(yaml["columnDefinitions"], want["columnDefinitions"]);
            }
        }
    }
}

/// What is read from the store for one list is counted as a body is, until it is sent.
#[tokio::test(flavor = "multi_thread")]
async fn old_lists_that_nobody_reads_do_not_pile_up() {
    let server = Server::start().await;
    let mut c = server.with_namespace("many").await;
    let group = "rbac.authorization.k8s.io";
    let binding = json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": "readers"},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": group, "kind": "Group", "name": "readers"}]});
    c.post(&format!("/apis/{group}/v1/clusterrolebindings"), &binding)
        .await
        .expect(201);
    let maps = "/api/v1/namespaces/many/configmaps";
    let mut revision = String::new();
    for n in 0..16 {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m{n}")},
            "data": {"a": "x".repeat(900_000)}});
        let made = c.post(maps, &map).await.expect(201);
        revision = made["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .to_owned();
    }
    // A later change, so that the revision is the store's alone.
    c.delete(&format!("{maps}/m0")).await.expect(200);
    let path = format!("{maps}?resourceVersion={revision}&resourceVersionMatch=Exact");
    let headers = [
        ("impersonate-user", "jane"),
        ("impersonate-group", "readers"),
    ];
    let list = async || {
        let mut c = server.connect().await;
        let answer = c.open(Method::GET, &path, &headers, "").await;
        (answer.status().as_u16(), c, answer)
    };
    testkit::wait_until("jane may read", Duration::from_secs(30), async || {
        let mut c = server.connect().await;
        let path = format!("{maps}/m1");
        match c.call(Method::GET, &path, &headers, "").await.code {
            200 => Ok(()),
            code => Err(code.to_string()),
        }
    })
    .await;
    let first = list().await;
    assert_eq!(first.0, 200);
    let mut held = vec![first];
    loop {
        let more = list().await;
        if more.0 == 429 {
            break;
        }
        assert_eq!(more.0, 200);
        held.push(more);
        assert!(held.len() < 16, "no end");
    }
    held.clear();
    testkit::wait_until("there is room again", Duration::from_secs(30), async || {
        let (code, _c, answer) = list().await;
        if code != 200 {
            return Err(code.to_string());
        }
        let body = http_body_util::BodyExt::collect(answer.into_body()).await;
        let body = body.map_err(|e| e.to_string())?.to_bytes();
        let list: Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
        assert_eq!(list["items"].as_array().unwrap().len(), 16);
        Ok(())
    })
    .await;
}
