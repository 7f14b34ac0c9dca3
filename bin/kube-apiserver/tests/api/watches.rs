//! Watches: ordered, gapless, resumable, and narrow.

use futures::StreamExt;
use http::Method;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::server::{Events, Server, text};

fn map(name: &str, label: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"l": label}}})
}

fn revision(v: &Value, pointer: &str) -> i64 {
    text(v, pointer).parse().unwrap()
}

const MAPS: &str = "/api/v1/namespaces/w/configmaps";

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_seen_once_and_in_order() {
    let server = Server::start().await;
    let mut c = server.with_namespace("w").await;
    let start = c.get(MAPS).await.expect(200);
    let start = text(&start, "/metadata/resourceVersion");
    let mut live = Events::open(&server, &format!("{MAPS}?watch=1&resourceVersion={start}")).await;
    let mut wanted = Vec::new();
    for i in 0..30 {
        let name = format!("m{i}");
        c.post(MAPS, &map(&name, "a")).await.expect(201);
        wanted.push(("ADDED".to_owned(), name.clone()));
        let path = format!("{MAPS}/{name}");
        c.merge(&path, &json!({"data": {"k": "v"}}))
            .await
            .expect(200);
        wanted.push(("MODIFIED".to_owned(), name.clone()));
        // Nothing changes, so nothing is sent.
        c.merge(&path, &json!({"data": {"k": "v"}}))
            .await
            .expect(200);
        if i % 2 == 0 {
            c.delete(&path).await.expect(200);
            wanted.push(("DELETED".to_owned(), name));
        }
    }
    let mut last = 0;
    let mut middle = String::new();
    for (i, w) in wanted.iter().enumerate() {
        let e = live.next().await.unwrap();
        assert_eq!(&(text(&e, "/type"), text(&e, "/object/metadata/name")), w);
        let r = revision(&e, "/object/metadata/resourceVersion");
        assert!(r > last, "revisions grow: {r} after {last}");
        last = r;
        if i == 40 {
            middle = r.to_string();
        }
    }
    // A watch from the middle gets exactly the rest.
    let mut resumed =
        Events::open(&server, &format!("{MAPS}?watch=1&resourceVersion={middle}")).await;
    for w in &wanted[41..] {
        assert_eq!(&resumed.brief().await, w);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn selectors_turn_changes_into_comings_and_goings() {
    let server = Server::start().await;
    let mut c = server.with_namespace("w").await;
    let mut a = Events::open(&server, &format!("{MAPS}?watch=1&labelSelector=l%3Da")).await;
    c.post(MAPS, &map("x", "b")).await.expect(201);
    c.post(MAPS, &map("y", "a")).await.expect(201);
    assert_eq!(a.brief().await, ("ADDED".into(), "y".into()));
    c.merge(
        &format!("{MAPS}/x"),
        &json!({"metadata": {"labels": {"l": "a"}}}),
    )
    .await
    .expect(200);
    assert_eq!(a.brief().await, ("ADDED".into(), "x".into()));
    let left = c
        .merge(
            &format!("{MAPS}/y"),
            &json!({"metadata": {"labels": {"l": "b"}}}),
        )
        .await
        .expect(200);
    let e = a.next().await.unwrap();
    assert_eq!(
        (text(&e, "/type"), text(&e, "/object/metadata/name")),
        ("DELETED".into(), "y".into())
    );
    // The object as it was when it matched, with the revision of the change.
    assert_eq!(text(&e, "/object/metadata/labels/l"), "a");
    let pointer = "/metadata/resourceVersion";
    assert_eq!(
        revision(&e, "/object/metadata/resourceVersion"),
        revision(&left, pointer)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nodes_watch_sees_its_pods_come_and_go() {
    let server = Server::start().await;
    let mut c = server.with_namespace("w").await;
    let selector = "fieldSelector=spec.nodeName%3Dn1";
    let mut n1 = Events::open(&server, &format!("/api/v1/pods?watch=1&{selector}")).await;
    for (pod, node) in [("p1", "n2"), ("p2", "n1")] {
        let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod},
            "spec": {"containers": [{"name": "c", "image": "i"}]}});
        c.post("/api/v1/namespaces/w/pods", &body).await.expect(201);
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod},
            "target": {"kind": "Node", "name": node}});
        c.post(
            &format!("/api/v1/namespaces/w/pods/{pod}/binding"),
            &binding,
        )
        .await
        .expect(201);
    }
    assert_eq!(n1.brief().await, ("ADDED".into(), "p2".into()));
    let listed = c.get(&format!("/api/v1/pods?{selector}")).await.expect(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    let now = "/api/v1/namespaces/w/pods/p2?gracePeriodSeconds=0";
    c.delete(now).await.expect(200);
    // The deletion is marked before it happens.
    assert_eq!(n1.brief().await, ("MODIFIED".into(), "p2".into()));
    assert_eq!(n1.brief().await, ("DELETED".into(), "p2".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_list_ends_its_beginning_with_a_bookmark() {
    let server = Server::start().await;
    let mut c = server.with_namespace("w").await;
    for n in ["a", "b"] {
        c.post(MAPS, &map(n, "x")).await.expect(201);
    }
    let path = format!(
        "{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let mut w = Events::open(&server, &path).await;
    assert_eq!(w.brief().await, ("ADDED".into(), "a".into()));
    assert_eq!(w.brief().await, ("ADDED".into(), "b".into()));
    let mark = w.next().await.unwrap();
    assert_eq!(text(&mark, "/type"), "BOOKMARK");
    assert_eq!(
        mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    assert_eq!(text(&mark, "/object/kind"), "ConfigMap");
    let newest = c.get(MAPS).await.expect(200);
    assert_eq!(
        revision(&mark, "/object/metadata/resourceVersion"),
        revision(&newest, "/metadata/resourceVersion")
    );
    c.post(MAPS, &map("c", "x")).await.expect(201);
    assert_eq!(w.brief().await, ("ADDED".into(), "c".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_when_its_time_is_over() {
    let server = Server::start().await;
    let mut c = server.with_namespace("w").await;
    let mut short = Events::open(&server, &format!("{MAPS}?watch=1&timeoutSeconds=2")).await;
    let mut long = Events::open(&server, &format!("{MAPS}?watch=1&timeoutSeconds=600")).await;
    // Until then both tell what happens; afterwards the other still does.
    c.post(MAPS, &map("a", "x")).await.expect(201);
    for w in [&mut short, &mut long] {
        assert_eq!(w.brief().await, ("ADDED".into(), "a".into()));
    }
    assert_eq!(short.next().await, None);
    c.post(MAPS, &map("b", "x")).await.expect(201);
    assert_eq!(long.brief().await, ("ADDED".into(), "b".into()));
}

/// A watch over a WebSocket: a message for each event, text for JSON, bytes for protobuf.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_over_a_websocket_has_a_message_for_each_event() {
    let server = Server::start().await;
    let mut c = server.with_namespace("w").await;
    for name in ["a", "b"] {
        c.post(MAPS, &map(name, "l")).await.expect(201);
    }
    for (accept, path) in [
        (
            "application/json",
            format!("{MAPS}?watch=1&labelSelector=l%3Dl"),
        ),
        (
            "application/vnd.kubernetes.protobuf",
            "/api/v1/watch/namespaces/w/configmaps?labelSelector=l%3Dl".to_owned(),
        ),
    ] {
        let mut watching = server.connect().await;
        let headers = [
            ("accept", accept),
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let response = watching.open(Method::GET, &path, &headers, "").await;
        assert_eq!(response.status(), 101);
        assert_eq!(
            response.headers()["sec-websocket-accept"],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        let io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        let mut ws = WebSocketStream::from_raw_socket(io, Role::Client, None).await;
        let mut seen = Vec::new();
        while seen.len() < 2 {
            match ws.next().await.unwrap().unwrap() {
                Message::Text(t) if accept == "application/json" => {
                    let event: Value = serde_json::from_str(&t).unwrap();
                    seen.push((text(&event, "/type"), text(&event, "/object/metadata/name")));
                }
                Message::Binary(b) if accept != "application/json" => {
                    // A WatchEvent: its type, and the object in its envelope.
                    let rest = b.strip_prefix(b"\x0a\x05ADDED\x12").unwrap();
                    let start = rest.windows(4).position(|w| w == b"k8s\0").unwrap();
                    let envelope = wire::envelope::unwrap(&rest[start..]).unwrap();
                    assert_eq!(envelope.kind, "ConfigMap");
                    let map = api::schema::message("v1", "ConfigMap").unwrap();
                    let map: Value = wire::proto::from_slice(envelope.raw, map).unwrap();
                    seen.push(("ADDED".into(), text(&map, "/metadata/name")));
                }
                other => panic!("{other:?}"),
            }
        }
        let added = |name: &str| ("ADDED".to_owned(), name.to_owned());
        assert_eq!(seen, [added("a"), added("b")]);
    }
}
