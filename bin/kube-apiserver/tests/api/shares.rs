//! Nobody keeps others from being served.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::server::Server;

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

#[tokio::test]
async fn slow_bodies_hold_no_place() {
    let places = [
        "--max-requests-inflight=4",
        "--max-mutating-requests-inflight=4",
    ];
    let server = Server::start_with(&places).await;
    let mut root = server.with_namespace("a").await;
    let ask = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let path = "/api/v1/namespaces/a/serviceaccounts/default/token";
    let token = root.post(path, &ask).await.expect(201);
    let bearer = format!("Bearer {}", token["status"]["token"].as_str().unwrap());
    // Many times the places, each with a body that never ends.
    let mut slow = Vec::new();
    for _ in 0..64 {
        let mut s = server.raw(&[b"http/1.1"]).await;
        let head = format!(
            "POST {REVIEWS} HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\nContent-Type: application/json\r\n\
             Content-Length: 1000\r\n\r\n{{"
        );
        s.write_all(head.as_bytes()).await.unwrap();
        s.flush().await.unwrap();
        slow.push(s);
    }
    let body = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}});
    for _ in 0..4 {
        let mut other = server.connect().await;
        // The same account, a node, and the scheduler.
        let json = ("content-type", "application/json");
        let own = [("authorization", bearer.as_str()), json];
        let node = [
            ("impersonate-user", "system:node:n"),
            ("impersonate-group", "system:nodes"),
            json,
        ];
        let scheduler = [("impersonate-user", "system:kube-scheduler"), json];
        for headers in [&own[..], &node, &scheduler] {
            let answer = other
                .call(Method::POST, REVIEWS, headers, body.to_string())
                .await;
            assert_eq!(answer.code, 201, "{}", answer.text());
        }
    }
    drop(slow);
}

/// Watches of one user are a part of all, and those of others go on.
#[tokio::test]
async fn one_users_watches_do_not_keep_others_from_watching() {
    let places = [
        "--max-requests-inflight=1",
        "--max-mutating-requests-inflight=1",
    ];
    let server = Server::start_with(&places).await;
    let mut root = server.with_namespace("a").await;
    let review = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "watchers"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "watchers"}]});
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    root.post(path, &review).await.expect(201);
    let mut held = Vec::new();
    let mut watch = async |user: &str| {
        let mut c = server.connect().await;
        let headers = [
            ("impersonate-user", user),
            ("impersonate-group", "watchers"),
        ];
        let path = "/api/v1/namespaces/a/pods?watch=1";
        let answer = c.open(Method::GET, path, &headers, "").await;
        let code = answer.status().as_u16();
        if code == 429 {
            assert_eq!(answer.headers()["retry-after"], "1");
        }
        held.push((c, answer));
        code
    };
    let mut got = 0;
    while watch("greedy").await == 200 {
        got += 1;
        assert!(got < 128, "no end");
    }
    assert!(got > 8, "{got}");
    assert_eq!(watch("greedy").await, 429);
    assert_eq!(watch("other").await, 200);
    // What has ended makes room.
    held.clear();
    testkit::wait_until("there is room again", Duration::from_secs(30), async || {
        let mut c = server.connect().await;
        let headers = [
            ("impersonate-user", "greedy"),
            ("impersonate-group", "watchers"),
        ];
        let path = "/api/v1/namespaces/a/pods?watch=1&timeoutSeconds=1";
        match c
            .open(Method::GET, path, &headers, "")
            .await
            .status()
            .as_u16()
        {
            200 => Ok(()),
            code => Err(code.to_string()),
        }
    })
    .await;
}

#[tokio::test]
async fn cve_2023_44487_an_http2_connection_of_nobody_ends_after_its_answer() {
    let server = Server::start().await;
    for (token, code) in [(None, 200), (Some("Bearer made-up"), 401)] {
        let stream = server.raw(&[b"h2"]).await;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        let connection = tokio::spawn(connection);
        let mut request = Request::get("https://127.0.0.1/version");
        if let Some(token) = token {
            request = request.header("authorization", token);
        }
        let request = request.body(Full::new(Bytes::new())).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), code);
        answer.into_body().collect().await.unwrap();
        // The sender is kept, so it is the server that ends the connection.
        let end = tokio::time::timeout(Duration::from_secs(60), connection).await;
        end.expect("ended by the server").unwrap().ok();
        drop(sender);
    }
}

#[tokio::test]
async fn versions_and_authorities_of_tls() {
    let server = Server::start_with(&["--tls-min-version=VersionTLS13"]).await;
    let old: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let e = server.handshake(provider.clone(), old).await.unwrap_err();
    assert!(e.to_string().contains("ProtocolVersion"), "{e}");
    let hints = server
        .handshake(provider, rustls::ALL_VERSIONS)
        .await
        .unwrap();
    assert_eq!(hints.len(), 1, "the client CA is named");
}
