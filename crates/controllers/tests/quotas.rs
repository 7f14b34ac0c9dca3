//! Quotas are kept current with what there is, one apart from the other, and only what they count is watched.

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

fn quota(name: &str, status: &Value, version: u32) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "n", "uid": name, "resourceVersion": version.to_string(), "labels": {"a": "b"}},
        "spec": {"hard": {"pods": "5", "requests.cpu": "2", "count/configmaps": "9"}},
        "status": status,
    })
}

fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "n", "uid": name, "resourceVersion": "1"},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "250m"}}}]},
        "status": {"phase": "Running"},
    })
}

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "n", "uid": name, "resourceVersion": "1"}})
}

fn discovery(path: &str) -> Option<Value> {
    let verbs = ["create", "get", "list", "watch", "delete", "patch"];
    let resource = |plural: &str, kind: &str| json!({"resource": plural, "responseKind": {"kind": kind}, "scope": "Namespaced", "verbs": verbs});
    let resources = match path {
        "/api" => json!([
            resource("pods", "Pod"),
            resource("configmaps", "ConfigMap"),
            resource("secrets", "Secret")
        ]),
        "/apis" => json!([]),
        _ => return None,
    };
    let versions = json!([{"version": "v1", "resources": resources}]);
    Some(
        json!({"kind": "APIGroupDiscoveryList", "items": [{"metadata": {"name": ""}, "versions": versions}]}),
    )
}

/// What was asked for, and the status of the good quota as it was last written.
#[derive(Clone, Default)]
struct Log {
    asked: Vec<String>,
    written: Vec<Value>,
}

async fn answer(
    asked: Asked,
    client: Answer,
    log: watch::Sender<Log>,
    gone: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let path = asked.target.split('?').next().unwrap_or_default();
    if let Some(resources) = discovery(path) {
        return client.send(200, &resources).await;
    }
    log.send_modify(|l| l.asked.push(format!("{} {path}", asked.method)));
    match (asked.method.as_str(), path) {
        ("GET", "/api/v1/resourcequotas") => {
            let (mut log, none) = (log.subscribe(), json!({}));
            let both = [quota("bad", &none, 1), quota("good", &none, 1)];
            let mut watch = client.watch(&both).await?;
            let mut told = 0;
            loop {
                let written = log.borrow_and_update().written.clone();
                for status in written.iter().skip(told) {
                    told += 1;
                    let version = u32::try_from(told).unwrap() + 1;
                    watch
                        .tell("MODIFIED", &quota("good", status, version))
                        .await?;
                }
                if log.changed().await.is_err() {
                    return watch.stay().await;
                }
            }
        }
        ("GET", "/api/v1/pods") => {
            let mut gone = gone;
            let mut watch = client.watch(&[pod("a"), pod("b")]).await?;
            if gone.wait_for(|g| *g).await.is_ok() {
                watch.tell("DELETED", &pod("a")).await?;
            }
            watch.stay().await
        }
        ("GET", "/api/v1/configmaps") => {
            let all = ["x", "y", "z"].map(map);
            client.watch(&all).await?.stay().await
        }
        // Before less is written, what is there is asked for.
        ("GET", "/api/v1/namespaces/n/pods") => {
            let mut pods = vec![pod("b")];
            pods.extend((!*gone.borrow()).then(|| pod("a")));
            let list =
                json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods});
            client.send(200, &list).await
        }
        ("GET", "/api/v1/namespaces/n/configmaps") => {
            let all = ["x", "y", "z"].map(map);
            let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": all});
            client.send(200, &list).await
        }
        ("PUT", "/api/v1/namespaces/n/resourcequotas/good/status") => {
            assert_eq!(asked.body["metadata"]["labels"], json!({"a": "b"}));
            let status = asked.body["status"].clone();
            log.send_modify(|l| l.written.push(status));
            client.send(200, &asked.body).await
        }
        ("PUT", _) => client.refuse(403).await,
        _ => client.refuse(404).await,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_is_given_back_and_a_quota_that_is_refused_keeps_no_other() {
    let (log, seen) = watch::channel(Log::default());
    let (go, gone) = watch::channel(false);
    let apiserver = testkit::apiserver::serve(move |asked, client| {
        answer(asked, client, log.clone(), gone.clone())
    });
    let config = testkit::apiserver::kubeconfig(apiserver.await);
    let flags = [
        "--leader-elect=false",
        "--controllers=resourcequota-controller",
    ];
    let (_, shutdown) = suite::run(config, &flags);
    let wait = async |wanted: Value| {
        wait_until("the status says it", LIMIT, async || {
            let written = seen.borrow().written.last().cloned();
            if written.as_ref().map(|w| &w["used"]) == Some(&wanted) {
                Ok(())
            } else {
                Err(format!("{written:?}"))
            }
        })
        .await;
    };
    wait(json!({"pods": "2", "requests.cpu": "500m", "count/configmaps": "3"})).await;
    go.send_replace(true);
    wait(json!({"pods": "1", "requests.cpu": "250m", "count/configmaps": "3"})).await;
    let log = seen.borrow().clone();
    assert_eq!(log.written.len(), 2, "nothing is written twice");
    let asked = |what: &str| log.asked.iter().any(|a| a == what);
    assert!(asked("PUT /api/v1/namespaces/n/resourcequotas/bad/status"));
    assert!(!asked("GET /api/v1/secrets"), "nobody counts them");
    assert!(
        asked("GET /api/v1/namespaces/n/pods"),
        "a cache may be late"
    );
    let single = "GET /api/v1/namespaces/n/resourcequotas/good";
    assert!(!asked(single), "its role may list and watch only");
    assert!(shutdown.drain(LIMIT).await);
}
