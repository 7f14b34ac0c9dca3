//! One object must not spoil all: what the apiserver refuses to write keeps nothing beside it from its turn.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod suite;

use std::time::Duration;

use serde_json::{Value, json};
use testkit::apiserver::{Answer, Asked, discovery};
use testkit::wait_until;
use tokio::sync::watch;

const LIMIT: Duration = Duration::from_secs(60);

/// Of the three of each kind, the one in the middle is refused.
const THREE: [&str; 3] = ["a", "bad", "z"];

fn object(name: &str, more: Value) -> Value {
    let mut object = json!({
        "metadata": {"name": name, "namespace": "n", "uid": format!("uid-{name}"), "resourceVersion": "1", "generation": 1},
    });
    merge(&mut object, more);
    object
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn owned(kind: &str, version: &str, owner: &str) -> Value {
    json!([{
        "apiVersion": version, "kind": kind, "name": owner, "uid": format!("uid-{owner}"),
        "controller": true, "blockOwnerDeletion": true,
    }])
}

fn pod(name: &str, node: &str, more: Value) -> Value {
    let mut pod = object(
        name,
        json!({"spec": {"nodeName": node, "containers": [{"name": "c"}]}, "status": {"phase": "Running"}}),
    );
    merge(&mut pod, more);
    pod
}

fn node(name: &str, ready: &str) -> Value {
    let condition = json!({
        "type": "Ready", "status": ready, "lastHeartbeatTime": "2026-01-01T00:00:00Z",
        "lastTransitionTime": "2026-01-01T00:00:00Z", "reason": "KubeletReady", "message": "m",
    });
    json!({"metadata": {"name": name, "uid": name, "resourceVersion": "1"}, "status": {"conditions": [condition]}})
}

fn set(name: &str, more: Value) -> Value {
    let mut set = object(
        name,
        json!({"spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"nodeSelector": {"no": "node"}, "containers": [{"name": "c", "image": "i"}]},
            },
            "updateStrategy": {"type": "RollingUpdate"},
        }}),
    );
    merge(&mut set, more);
    set
}

/// What there is, by the path that lists it.
fn listed(path: &str) -> Vec<Value> {
    let three =
        |of: &str, make: &dyn Fn(&str) -> Value| THREE.map(|n| make(&format!("{of}-{n}"))).to_vec();
    match path {
        "/api/v1/nodes" => vec![node("ready", "True"), node("lost-bad", "Unknown")],
        "/api/v1/pods" => [
            three("adopted", &|n| {
                pod(n, "ready", json!({"metadata": {"labels": {"app": "adopts"}}}))
            }),
            three("surplus", &|n| {
                pod(
                    n,
                    "ready",
                    json!({"metadata": {
                        "labels": {"app": "shrinks"}, "ownerReferences": owned("DaemonSet", "apps/v1", "shrinks"),
                    }}),
                )
            }),
            three("stranded", &|n| {
                pod(
                    n,
                    "lost-bad",
                    json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
                )
            }),
        ]
        .concat(),
        "/apis/apps/v1/replicasets" => vec![set("adopts", json!({"spec": {"replicas": 3}}))],
        "/apis/apps/v1/daemonsets" => vec![
            set("shrinks", json!({})),
            set("forgets", json!({"spec": {"revisionHistoryLimit": 0}})),
        ],
        "/apis/apps/v1/controllerrevisions" => three("revision", &|n| {
            object(
                n,
                json!({
                    "metadata": {
                        "labels": {"app": "forgets", "controller-revision-hash": n},
                        "ownerReferences": owned("DaemonSet", "apps/v1", "forgets"),
                    },
                    "revision": 1, "data": {"spec": {"template": {"was": n}}},
                }),
            )
        }),
        "/api/v1/services" => vec![object(
            "service",
            json!({"spec": {
                "selector": {"app": "none"}, "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
                "ipFamilies": ["IPv4"], "type": "ClusterIP", "ports": [{"port": 80, "protocol": "TCP"}],
            }}),
        )],
        "/apis/discovery.k8s.io/v1/endpointslices" => three("slice", &|n| {
            object(
                n,
                json!({
                    "metadata": {
                        "labels": {
                            "kubernetes.io/service-name": "service",
                            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                        },
                        "ownerReferences": owned("Service", "v1", "service"),
                    },
                    "addressType": "IPv6", "endpoints": [], "ports": [],
                }),
            )
        }),
        "/api/v1/configmaps" => {
            let going = json!({"metadata": {
                "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["orphan"],
            }});
            let mut all = three("orphaned", &|n| {
                object(n, json!({"metadata": {"ownerReferences": owned("ConfigMap", "v1", "going")}}))
            });
            all.push(object("going", going));
            all
        }
        _ => Vec::new(),
    }
}

async fn answer(asked: Asked, client: Answer) -> std::io::Result<()> {
    let (path, query) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
    if let Some(resources) = discovery(path) {
        return client.send(200, &resources).await;
    }
    match (asked.method.as_str(), path) {
        ("GET", _) if query.contains("watch=1") => client.watch(&listed(path)).await?.stay().await,
        ("GET", _) => {
            let named = path.split_once("/namespaces/n/").and_then(|(group, rest)| {
                let (plural, name) = rest.split_once('/')?;
                let mut all = listed(&format!("{group}/{plural}")).into_iter();
                all.find(|o| o["metadata"]["name"] == name)
            });
            match named {
                Some(object) => client.send(200, &object).await,
                None => client.refuse(404).await,
            }
        }
        _ if path.contains("-bad") => client.refuse(403).await,
        ("POST", _) => client.send(201, &asked.body).await,
        _ => client.send(200, &asked.body).await,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_keeps_nothing_else_from_its_turn() {
    let (log, written) = watch::channel(Vec::new());
    let apiserver = testkit::apiserver::serve(move |asked, client| {
        if asked.method != "GET" {
            let path = asked.target.split('?').next().unwrap_or_default();
            log.send_modify(|all| all.push(format!("{} {path}", asked.method)));
        }
        answer(asked, client)
    });
    let config = testkit::apiserver::kubeconfig(apiserver.await);
    let controllers = [
        "replicaset-controller",
        "daemonset-controller",
        "endpointslice-controller",
        "node-lifecycle-controller",
        "garbage-collector-controller",
    ];
    let controllers = format!("--controllers={}", controllers.join(","));
    let (_, shutdown) = suite::run(config, &["--leader-elect=false", &controllers]);
    let missing = || {
        let written = written.borrow();
        let kinds = [
            ("PATCH /api/v1/namespaces/n/pods/adopted", ""),
            ("DELETE /api/v1/namespaces/n/pods/surplus", ""),
            ("PATCH /api/v1/namespaces/n/pods/stranded", "/status"),
            (
                "DELETE /apis/apps/v1/namespaces/n/controllerrevisions/revision",
                "",
            ),
            (
                "DELETE /apis/discovery.k8s.io/v1/namespaces/n/endpointslices/slice",
                "",
            ),
            ("PATCH /api/v1/namespaces/n/configmaps/orphaned", ""),
        ];
        let wanted = kinds
            .iter()
            .flat_map(|(kind, end)| THREE.map(|n| format!("{kind}-{n}{end}")));
        let missing: Vec<String> = wanted.filter(|w| !written.contains(w)).collect();
        (missing, written.len())
    };
    wait_until("every write was tried", LIMIT, async || match missing() {
        (missing, _) if missing.is_empty() => Ok(()),
        (missing, of) => Err(format!("not tried, of {of} writes: {missing:#?}")),
    })
    .await;
    let going = "PATCH /api/v1/namespaces/n/configmaps/going".to_owned();
    assert!(
        !written.borrow().contains(&going),
        "an owner is let go only when all it owned was orphaned"
    );
    assert!(shutdown.drain(LIMIT).await);
}
