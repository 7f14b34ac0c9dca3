//! Services, and what keeps services' and accounts' identities: ranges of addresses, node ports, tokens in Secrets.

use std::time::Duration;

use auth::jwt::Signer;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::server::{Server, text};

#[tokio::test]
async fn a_dry_run_finds_node_ports_as_a_real_one_would() {
    let server = Server::start().await;
    let mut c = server.with_namespace("s").await;
    let services = "/api/v1/namespaces/s/services";
    let dry = format!("{services}?dryRun=All");
    let service = |name: &str, ports: &[(u16, u16)]| {
        let ports = ports
            .iter()
            .map(|(p, n)| json!({"name": format!("p{p}"), "port": p, "nodePort": n}));
        let ports: Vec<Value> = ports.collect();
        json!({"metadata": {"name": name}, "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": ports}})
    };
    let made = c
        .post(&dry, &service("a", &[(80, 0), (81, 0), (82, 30_000)]))
        .await
        .expect(201);
    let mut numbers: Vec<i64> = made["spec"]["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["nodePort"].as_i64().unwrap())
        .collect();
    numbers.push(made["spec"]["healthCheckNodePort"].as_i64().unwrap());
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 4, "{made}");
    assert!(numbers.iter().all(|n| (30_000..=32_767).contains(n)) && numbers.contains(&30_000));
    // Nothing was taken, and what is taken is refused.
    c.post(services, &service("b", &[(80, 30_000)]))
        .await
        .expect(201);
    let refused = c
        .post(&dry, &service("a", &[(80, 30_000)]))
        .await
        .expect(422);
    let message = text(&refused, "/message");
    assert!(
        message.contains("provided port is already allocated"),
        "{message}"
    );
    c.post(&dry, &service("a", &[(80, 30_001)]))
        .await
        .expect(201);
}

#[tokio::test]
async fn the_use_of_a_legacy_token_is_noted_in_its_secret() {
    let server = Server::start().await;
    let mut c = server.with_namespace("t").await;
    let map = "/api/v1/namespaces/kube-system/configmaps/kube-apiserver-legacy-service-account-token-tracking";
    let since = text(&c.get(map).await.expect(200), "/data/since");
    assert_eq!(since.len(), "2006-01-02".len(), "{since}");
    let account = c
        .get("/api/v1/namespaces/t/serviceaccounts/default")
        .await
        .expect(200);
    let claim = |name: &str| format!("kubernetes.io/serviceaccount/{name}");
    let key = std::fs::read_to_string(server.pki("sa.key")).unwrap();
    let token = Signer::from_pem(&key).unwrap().sign(&json!({
        "iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:t:default", claim("namespace"): "t",
        claim("secret.name"): "s", claim("service-account.name"): "default",
        claim("service-account.uid"): text(&account, "/metadata/uid"),
    })).unwrap();
    let secrets = "/api/v1/namespaces/t/secrets";
    let secret = json!({
        "metadata": {"name": "s", "annotations": {"kubernetes.io/service-account.name": "default"}},
        "type": "kubernetes.io/service-account-token", "data": {"token": STANDARD.encode(&token)},
    });
    c.post(secrets, &secret).await.expect(201);
    let review = json!({"spec": {"token": token}});
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let answer = c.post(reviews, &review).await.expect(201);
    assert_eq!(answer["status"]["authenticated"], true, "{answer}");
    let path = format!("{secrets}/s");
    let mut other = server.connect().await;
    let day = testkit::wait_until("the use is noted", Duration::from_secs(10), async || {
        let s = other.get(&path).await.expect(200);
        let day = text(&s, "/metadata/labels/kubernetes.io~1legacy-token-last-used");
        if day.is_empty() {
            Err(s.to_string())
        } else {
            Ok(day)
        }
    })
    .await;
    assert!(day >= since, "{day}");
}
