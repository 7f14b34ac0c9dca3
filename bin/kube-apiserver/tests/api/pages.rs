//! Lists in pages.

use std::time::Duration;

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
