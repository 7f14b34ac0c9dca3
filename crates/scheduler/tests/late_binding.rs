//! A pod whose claim waits for it: over HTTP, with an apiserver whose binder is played here.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

use std::sync::Arc;
use std::time::Duration;

use client::events::Recorder;
use client::{Client, Options};
use component::metrics::Registry;
use scheduler::config::Config;
use scheduler::metrics::Metrics;
use scheduler::shell;
use serde_json::{Value, json};
use testkit::apiserver::{Answer, Asked};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(60);

fn node(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "uid": name, "resourceVersion": "1", "labels": {"host": name}},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}},
    })
}

fn volume(name: &str, node: &str) -> Value {
    let term = json!({"matchExpressions": [{"key": "host", "operator": "In", "values": [node]}]});
    json!({
        "metadata": {"name": name, "uid": name, "resourceVersion": "1"},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "local",
            "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
        },
        "status": {"phase": "Available"},
    })
}

/// Everything of a resource, by its name in paths.
fn objects(resource: &str) -> Vec<Value> {
    match resource {
        "nodes" => vec![node("n1"), node("n2")],
        "persistentvolumes" => vec![volume("v1", "n1"), volume("v2", "n2")],
        "storageclasses" => vec![json!({
            "metadata": {"name": "local", "uid": "local", "resourceVersion": "1"},
            "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer",
        })],
        "persistentvolumeclaims" => vec![claim()],
        "pods" => vec![json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "p", "resourceVersion": "1"},
            "spec": {
                "schedulerName": "default-scheduler", "containers": [{"name": "c", "image": "i"}],
                "nodeSelector": {"host": "n2"},
                "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}],
            },
            "status": {"phase": "Pending"},
        })],
        _ => Vec::new(),
    }
}

fn claim() -> Value {
    json!({
        "metadata": {"name": "data", "namespace": "ns", "uid": "c", "resourceVersion": "1"},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "local",
            "resources": {"requests": {"storage": "1Gi"}},
        },
        "status": {"phase": "Pending"},
    })
}

/// What the scheduler did, in order.
type Done = watch::Sender<Vec<(String, Value)>>;

async fn answer(done: Arc<Done>, asked: Asked, client: Answer) -> std::io::Result<()> {
    let path = asked.target.split('?').next().unwrap_or_default();
    let resource = path.rsplit('/').next().unwrap_or_default();
    match asked.method.as_str() {
        "GET" if asked.target.contains("watch=1") => {
            let all = objects(resource);
            let mut watch = client.watch(&all).await?;
            // The binder binds what was reserved.
            let mut seen = done.subscribe();
            let written =
                |all: &Vec<(String, Value)>| all.iter().any(|(w, _)| w.starts_with("PATCH"));
            if matches!(resource, "persistentvolumes" | "persistentvolumeclaims") {
                let all = seen.wait_for(written).await.map(|all| all.clone());
                let patch = all.map_err(std::io::Error::other)?[0].1.clone();
                let changed = if resource == "persistentvolumes" {
                    let mut v = volume("v2", "n2");
                    v["metadata"]["resourceVersion"] = "2".into();
                    v["spec"]["claimRef"] = patch["spec"]["claimRef"].clone();
                    v
                } else {
                    let mut c = claim();
                    c["metadata"]["resourceVersion"] = "3".into();
                    c["metadata"]["annotations"] =
                        json!({"pv.kubernetes.io/bind-completed": "yes"});
                    c["spec"]["volumeName"] = "v2".into();
                    c["status"]["phase"] = "Bound".into();
                    c
                };
                watch.tell("MODIFIED", &changed).await?;
            }
            watch.stay().await
        }
        "GET" => client.refuse(404).await,
        method => {
            done.send_modify(|all| all.push((format!("{method} {path}"), asked.body.clone())));
            let mut v = volume("v2", "n2");
            v["metadata"]["resourceVersion"] = "2".into();
            client
                .send(if method == "POST" { 201 } else { 200 }, &v)
                .await
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_bound_after_the_volume_of_its_node_is() {
    let (done, mut seen) = watch::channel(Vec::new());
    let done = Arc::new(done);
    let address =
        testkit::apiserver::serve(move |asked, client| answer(done.clone(), asked, client)).await;
    let config = testkit::apiserver::kubeconfig(address);
    let client = Client::from_kubeconfig(config.path(), Options::default())
        .await
        .unwrap();
    let stop = CancellationToken::new();
    let deps = shell::Dependencies {
        client,
        recorder: Recorder::none(),
        metrics: Arc::new(Metrics::new(&Registry::new())),
        random: Box::new(|| 0),
        synced: component::health::Latch::default(),
    };
    let running = tokio::spawn(shell::run(Config::default(), deps, stop.clone()));
    let bound = |all: &Vec<(String, Value)>| all.len() > 1;
    let told = tokio::time::timeout(LIMIT, seen.wait_for(bound)).await;
    let all = told.expect("bound in time").unwrap().clone();
    let paths: Vec<&str> = all.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "PATCH /api/v1/persistentvolumes/v2",
            "POST /api/v1/namespaces/ns/pods/p/binding"
        ]
    );
    assert_eq!(all[0].1["metadata"]["resourceVersion"], "1");
    assert_eq!(all[0].1["spec"]["claimRef"]["uid"], "c");
    assert_eq!(all[1].1["target"]["name"], "n2");
    stop.cancel();
    running.await.unwrap();
}
