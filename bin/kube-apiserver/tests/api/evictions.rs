//! Evictions: what budgets allow is given out once, and a dry run gives out nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::server::{Connection, Server, text};

const PODS: &str = "/api/v1/namespaces/e/pods";
const BUDGET: &str = "/apis/policy/v1/namespaces/e/poddisruptionbudgets/b";

fn eviction(name: &str, options: &Value) -> Value {
    json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}, "deleteOptions": options})
}

async fn pod(c: &mut Connection, name: &str, phase: &str) {
    let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "a"}},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    c.post(PODS, &body).await.expect(201);
    let ready = if phase == "Running" { "True" } else { "False" };
    let status =
        json!({"status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}});
    c.merge(&format!("{PODS}/{name}/status"), &status)
        .await
        .expect(200);
}

/// Pods that are ready, and a budget whose controller, which is not there, allows some of them to go.
async fn pods(server: &Server, count: usize, allowed: usize) -> Connection {
    let mut c = server.with_namespace("e").await;
    for i in 0..count {
        pod(&mut c, &format!("p{i}"), "Running").await;
    }
    let body = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"minAvailable": count - allowed, "selector": {"matchLabels": {"app": "a"}}}});
    c.post("/apis/policy/v1/namespaces/e/poddisruptionbudgets", &body)
        .await
        .expect(201);
    let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": count,
        "desiredHealthy": count - allowed, "expectedPods": count}});
    c.merge(&format!("{BUDGET}/status"), &status)
        .await
        .expect(200);
    c
}

async fn going(c: &mut Connection) -> Vec<String> {
    let list = c.get(PODS).await.expect(200);
    let pods = list["items"].as_array().unwrap();
    pods.iter()
        .filter(|p| !p["metadata"]["deletionTimestamp"].is_null())
        .map(|p| text(p, "/metadata/name"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_takes_nothing_from_a_budget() {
    let server = Server::start().await;
    let mut c = pods(&server, 2, 1).await;
    let before = c.get(BUDGET).await.expect(200);
    let path = |name: &str| format!("{PODS}/{name}/eviction");
    let asked = format!("{}?dryRun=All", path("p0"));
    for _ in 0..2 {
        c.post(&asked, &eviction("p0", &Value::Null))
            .await
            .expect(201);
        let options = json!({"dryRun": ["All"]});
        c.post(&path("p1"), &eviction("p1", &options))
            .await
            .expect(201);
    }
    assert_eq!(c.get(BUDGET).await.expect(200), before);
    assert!(going(&mut c).await.is_empty());
    let p0 = c.get(&format!("{PODS}/p0")).await.expect(200);
    assert_eq!(p0["status"]["conditions"].as_array().unwrap().len(), 1);

    // Neither does one that is refused for itself.
    for (name, options, code) in [
        ("other", json!({}), 400),
        ("p0", json!({"preconditions": {"uid": "x"}}), 409),
        (
            "p0",
            json!({"preconditions": {"resourceVersion": "1"}}),
            409,
        ),
    ] {
        let answer = c.post(&asked, &eviction(name, &options)).await;
        assert_eq!(answer.code, code, "{name} {options}: {}", answer.text());
    }
    assert_eq!(c.get(BUDGET).await.expect(200), before);

    c.post(&path("p0"), &eviction("p0", &Value::Null))
        .await
        .expect(201);
    let after = c.get(BUDGET).await.expect(200);
    assert_eq!(after["status"]["disruptionsAllowed"], 0);
    assert!(after["status"]["disruptedPods"]["p0"].is_string());
    assert_eq!(going(&mut c).await, ["p0"]);
    // What is used up is used up for dry runs too.
    let asked = format!("{}?dryRun=All", path("p1"));
    let refused = c
        .post(&asked, &eviction("p1", &Value::Null))
        .await
        .expect(429);
    let cause = &refused["details"]["causes"][0];
    assert_eq!(cause["reason"], "DisruptionBudget");
    assert_eq!(going(&mut c).await, ["p0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn evictions_beside_each_other_take_what_is_allowed_and_no_more() {
    const COUNT: usize = 12;
    const ALLOWED: usize = 5;
    let server = Arc::new(Server::start().await);
    let mut c = pods(&server, COUNT, ALLOWED).await;
    let tasks: Vec<_> = (0..COUNT)
        .map(|i| {
            let server = server.clone();
            tokio::spawn(async move {
                let (name, mut c) = (format!("p{i}"), server.connect().await);
                let path = format!("{PODS}/{name}/eviction");
                c.post(&path, &eviction(&name, &Value::Null)).await.code
            })
        })
        .collect();
    let mut codes = BTreeMap::<u16, usize>::new();
    for t in tasks {
        *codes.entry(t.await.unwrap()).or_default() += 1;
    }
    // A conflict over the budget is tried again for the caller, and never comes to him.
    assert_eq!(codes, [(201, ALLOWED), (429, COUNT - ALLOWED)].into());
    let budget = c.get(BUDGET).await.expect(200);
    assert_eq!(budget["status"]["disruptionsAllowed"], 0);
    let disrupted = budget["status"]["disruptedPods"].as_object().unwrap();
    let names: Vec<_> = disrupted.keys().cloned().collect();
    let mut gone = going(&mut c).await;
    gone.sort();
    assert_eq!((gone.len(), gone), (ALLOWED, names));
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_do_not_count_go_without_a_budget() {
    let server = Server::start().await;
    let mut c = pods(&server, 1, 0).await;
    for (name, phase) in [
        ("done", "Succeeded"),
        ("failed", "Failed"),
        ("new", "Pending"),
    ] {
        pod(&mut c, name, phase).await;
        let path = format!("{PODS}/{name}/eviction");
        c.post(&path, &eviction(name, &Value::Null))
            .await
            .expect(201);
    }
    let path = format!("{PODS}/p0/eviction");
    c.post(&path, &eviction("p0", &Value::Null))
        .await
        .expect(429);
    let budget = c.get(BUDGET).await.expect(200);
    assert!(budget["status"]["disruptedPods"].is_null());
    let gone = going(&mut c).await;
    assert!(!gone.contains(&"p0".to_owned()), "{gone:?}");
    let left = c.get(PODS).await.expect(200);
    let still = left["items"].as_array().unwrap().len() - gone.len();
    assert_eq!(still, 1, "{left}");
}
