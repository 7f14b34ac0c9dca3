//! What a HorizontalPodAutoscaler points at is scaled to what its metrics ask for, and the status says so.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod suite;

use std::time::Duration;

use serde_json::{Value, json};
use testkit::apiserver::{Answer, Asked};
use testkit::wait_until;
use tokio::sync::watch;

const LIMIT: Duration = Duration::from_secs(60);

fn autoscaler(name: &str, target: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "n", "uid": name, "resourceVersion": "1"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": target},
            "minReplicas": 1, "maxReplicas": 10,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}],
        },
    })
}

fn pod(name: &str) -> Value {
    let long_ago = "2020-01-01T00:00:00Z";
    json!({
        "metadata": {"name": name, "namespace": "n", "uid": name, "resourceVersion": "1", "labels": {"app": "d"}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]},
        "status": {"phase": "Running", "startTime": long_ago,
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": long_ago}]},
    })
}

fn discovery(path: &str) -> Option<Value> {
    let verbs = ["create", "get", "list", "watch", "delete", "patch"];
    let deployments = json!({"resource": "deployments", "responseKind": {"kind": "Deployment"}, "scope": "Namespaced", "verbs": verbs});
    let items = match path {
        "/api" => json!([]),
        "/apis" => {
            json!([{"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": [deployments]}]}])
        }
        _ => return None,
    };
    Some(json!({"kind": "APIGroupDiscoveryList", "items": items}))
}

async fn answer(
    asked: Asked,
    client: Answer,
    log: watch::Sender<Vec<Asked>>,
) -> std::io::Result<()> {
    let path = asked.target.split('?').next().unwrap_or_default();
    if let Some(resources) = discovery(path) {
        return client.send(200, &resources).await;
    }
    let scale = json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {"name": "d", "namespace": "n", "resourceVersion": "5"},
        "spec": {"replicas": 2}, "status": {"replicas": 2, "selector": "app=d"}});
    if asked.method != "GET" {
        log.send_modify(|l| l.push(asked.clone()));
        return client.send(200, &asked.body).await;
    }
    let named = path.rsplit('/').next().unwrap_or_default();
    match path {
        "/apis/autoscaling/v2/horizontalpodautoscalers" => {
            let both = [autoscaler("lost", "nowhere"), autoscaler("h", "d")];
            client.watch(&both).await?.stay().await
        }
        "/api/v1/pods" => client.watch(&[pod("a"), pod("b")]).await?.stay().await,
        "/apis/apps/v1/namespaces/n/deployments/d/scale" => client.send(200, &scale).await,
        "/apis/metrics.k8s.io/v1beta1/namespaces/n/pods" => {
            assert!(
                asked.target.contains("labelSelector=app%3Dd"),
                "{}",
                asked.target
            );
            let one = |name: &str| {
                json!({"metadata": {"name": name}, "timestamp": "2026-01-01T00:00:00Z", "window": "30s",
                "containers": [{"name": "c", "usage": {"cpu": "90m"}}]})
            };
            client
                .send(200, &json!({"items": [one("a"), one("b")]}))
                .await
        }
        _ if path.starts_with("/apis/autoscaling/v2/namespaces/n/") => {
            let target = if named == "h" { "d" } else { "nowhere" };
            client.send(200, &autoscaler(named, target)).await
        }
        _ => client.refuse(404).await,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_is_scaled_and_one_that_is_not_there_keeps_no_other() {
    let (log, seen) = watch::channel(Vec::new());
    let apiserver =
        testkit::apiserver::serve(move |asked, client| answer(asked, client, log.clone()));
    let config = testkit::apiserver::kubeconfig(apiserver.await);
    let flags = [
        "--leader-elect=false",
        "--controllers=horizontal-pod-autoscaler-controller",
        "--horizontal-pod-autoscaler-sync-period=100ms",
    ];
    let (_, shutdown) = suite::run(config, &flags);
    let written = |end: &str| {
        let asked = seen.borrow();
        asked
            .iter()
            .find(|a| {
                a.target
                    .split('?')
                    .next()
                    .unwrap_or_default()
                    .ends_with(end)
            })
            .map(|a| a.body.clone())
    };
    wait_until("all is written", LIMIT, async || {
        let ends = ["/d/scale", "/h/status", "/lost/status"];
        match ends.iter().find(|e| written(e).is_none()) {
            None => Ok(()),
            Some(end) => Err(format!("not {end}")),
        }
    })
    .await;
    let scale = written("/d/scale").unwrap();
    // 90% of what is requested, to 50%: for two pods, nearly four.
    assert_eq!(scale["spec"], json!({"replicas": 4}));
    assert_eq!(scale["metadata"]["resourceVersion"], "5");
    let status = written("/h/status").unwrap()["status"].clone();
    assert_eq!(status["currentReplicas"], 2);
    assert_eq!(status["desiredReplicas"], 4);
    assert_eq!(
        status["currentMetrics"],
        json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 90, "averageValue": "90m"}}}])
    );
    let conditions = |status: &Value| -> Vec<String> {
        let all = status["conditions"].as_array().unwrap();
        let text = |c: &Value, k: &str| c[k].as_str().unwrap().to_owned();
        all.iter()
            .map(|c| {
                format!(
                    "{} {} {}",
                    text(c, "type"),
                    text(c, "status"),
                    text(c, "reason")
                )
            })
            .collect()
    };
    assert_eq!(
        conditions(&status),
        [
            "AbleToScale True SucceededRescale",
            "ScalingActive True ValidMetricFound",
            "ScalingLimited False DesiredWithinRange"
        ]
    );
    let lost = written("/lost/status").unwrap()["status"].clone();
    assert_eq!(conditions(&lost), ["AbleToScale False FailedGetScale"]);
    assert!(shutdown.drain(LIMIT).await);
}
