//! What the controllers of StatefulSets and DaemonSets ask of the apiserver, and in which order: revisions, claims, pods,
//! owners, statuses and events.

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

fn object(name: &str, more: Value) -> Value {
    let mut object = json!({"metadata": {
        "name": name, "namespace": "n", "uid": format!("uid-{name}"), "resourceVersion": "1", "generation": 1,
    }});
    merge(&mut object, more);
    object
}

fn owned(kind: &str, owner: &str) -> Value {
    json!([{
        "apiVersion": "apps/v1", "kind": kind, "name": owner, "uid": format!("uid-{owner}"),
        "controller": true, "blockOwnerDeletion": true,
    }])
}

fn template(name: &str) -> Value {
    json!({"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

/// The data of a revision of [`template`].
fn data(name: &str) -> Value {
    let mut template = template(name);
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

fn set(name: &str, more: Value) -> Value {
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}});
    let mut set = object(
        name,
        json!({"spec": {
            "replicas": 1, "serviceName": "svc", "selector": {"matchLabels": {"app": name}},
            "template": template(name), "volumeClaimTemplates": [claim],
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
        }}),
    );
    merge(&mut set, more);
    set
}

fn daemon(name: &str) -> Value {
    let mut template = template(name);
    template["spec"]["nodeSelector"] = json!({"no": "node"});
    object(
        name,
        json!({"spec": {
            "selector": {"matchLabels": {"app": name}}, "template": template,
            "updateStrategy": {"type": "RollingUpdate"},
        }}),
    )
}

fn daemon_data(name: &str) -> Value {
    let mut data = data(name);
    data["spec"]["template"]["spec"]["nodeSelector"] = json!({"no": "node"});
    data
}

fn pod(name: &str, app: &str, more: Value) -> Value {
    let mut pod = object(
        name,
        json!({
            "metadata": {"labels": {"app": app, "statefulset.kubernetes.io/pod-name": name}},
            "spec": {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": format!("data-{name}")}}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        }),
    );
    merge(&mut pod, more);
    pod
}

fn revision(name: &str, app: &str, number: i64, data: Value, more: Value) -> Value {
    let mut revision = object(
        name,
        json!({"metadata": {"labels": {"app": app}}, "revision": number, "data": data}),
    );
    merge(&mut revision, more);
    revision
}

/// What there is, by the path that lists it.
fn listed(path: &str) -> Vec<Value> {
    match path {
        "/apis/apps/v1/statefulsets" => {
            let delete = json!({"whenDeleted": "Delete", "whenScaled": "Retain"});
            vec![
                set("new", json!({"spec": {"replicas": 2}})),
                set(
                    "burst",
                    json!({"spec": {"replicas": 3, "podManagementPolicy": "Parallel"}}),
                ),
                set("adopts", json!({})),
                set("taken", json!({"spec": {"replicas": 0}})),
                set("refused", json!({})),
                set(
                    "owns",
                    json!({"spec": {"persistentVolumeClaimRetentionPolicy": delete}}),
                ),
                set("shrinks", json!({"spec": {"replicas": 0}})),
            ]
        }
        "/apis/apps/v1/daemonsets" => {
            vec![daemon("doubled"), daemon("clashes"), daemon("orphaned")]
        }
        "/api/v1/pods" => {
            let of = |kind: &str, owner: &str| json!({"metadata": {"ownerReferences": owned(kind, owner)}});
            let mut doubled = pod("doubled-pod", "doubled", of("DaemonSet", "doubled"));
            doubled["metadata"]["labels"]["controller-revision-hash"] = "double-1".into();
            vec![
                pod("adopts-0", "adopts", json!({})),
                pod("other-0", "adopts", json!({})),
                pod("owns-0", "owns", of("StatefulSet", "owns")),
                pod("shrinks-0", "shrinks", of("StatefulSet", "shrinks")),
                pod("shrinks-1", "shrinks", of("StatefulSet", "shrinks")),
                pod("shrinks-x", "shrinks", of("StatefulSet", "shrinks")),
                doubled,
                pod("orphaned-pod", "orphaned", json!({})),
            ]
        }
        "/api/v1/persistentvolumeclaims" => {
            vec![
                object("data-owns-0", json!({})),
                object("data-adopts-0", json!({})),
            ]
        }
        "/apis/apps/v1/controllerrevisions" => {
            let of = |owner: &str, hash: &str| {
                let labels = json!({"controller-revision-hash": hash});
                json!({"metadata": {"ownerReferences": owned("DaemonSet", owner), "labels": labels}})
            };
            let doubled = daemon_data("doubled");
            vec![
                revision("adopts-old", "adopts", 4, data("adopts"), json!({})),
                revision(
                    "double-1",
                    "doubled",
                    1,
                    doubled.clone(),
                    of("doubled", "double-1"),
                ),
                revision(
                    "double-2",
                    "doubled",
                    2,
                    json!({"spec": {}}),
                    of("doubled", "double-2"),
                ),
                revision("double-3", "doubled", 3, doubled, of("doubled", "double-3")),
                revision(
                    "orphaned-1",
                    "orphaned",
                    1,
                    daemon_data("orphaned"),
                    json!({}),
                ),
            ]
        }
        _ => Vec::new(),
    }
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

async fn answer(
    asked: Asked,
    client: Answer,
    first: &watch::Sender<Vec<String>>,
) -> std::io::Result<()> {
    let (path, query) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
    let failure = |code: u16, reason: &str| {
        json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code, "message": "no",
        })
    };
    match (asked.method.as_str(), path) {
        ("GET", _) if query.contains("watch=1") => client.watch(&listed(path)).await?.stay().await,
        ("GET", _) => {
            let (group, rest) = path.split_once("/namespaces/n/").unwrap_or((path, ""));
            let (plural, wanted) = rest.split_once('/').unwrap_or((rest, ""));
            if plural == "controllerrevisions"
                && !wanted.starts_with("adopts")
                && !wanted.starts_with("double")
            {
                // Whatever has a name that is taken.
                let other = revision(wanted, "x", 1, json!({"other": true}), json!({}));
                return client.send(200, &other).await;
            }
            let mut all = listed(&format!("{group}/{plural}")).into_iter();
            match all.find(|o| name(o) == wanted) {
                Some(object) => client.send(200, &object).await,
                None => client.refuse(404).await,
            }
        }
        ("POST", "/apis/apps/v1/namespaces/n/controllerrevisions") => {
            let name = name(&asked.body).to_owned();
            let set = name.split('-').next().unwrap_or_default().to_owned();
            let is_first = !first.borrow().contains(&set);
            first.send_modify(|all| all.push(set.clone()));
            if set == "clashes" || set == "taken" && is_first {
                return client.send(409, &failure(409, "AlreadyExists")).await;
            }
            client.send(201, &asked.body).await
        }
        ("POST", "/api/v1/namespaces/n/pods") if name(&asked.body) == "refused-0" => {
            client.send(403, &failure(403, "Forbidden")).await
        }
        ("POST", _) => {
            let mut body = asked.body;
            merge(
                &mut body,
                json!({"metadata": {"uid": "made", "resourceVersion": "2"}}),
            );
            client.send(201, &body).await
        }
        _ => client.send(200, &asked.body).await,
    }
}

/// A write: method, path below the namespace, body.
type Write = (String, String, Value);

async fn writes(until: impl Fn(&[Write]) -> Result<(), String>, controllers: &str) -> Vec<Write> {
    let (log, written) = watch::channel(Vec::<Write>::new());
    let (first, _) = watch::channel(Vec::new());
    let first = std::sync::Arc::new(first);
    let apiserver = testkit::apiserver::serve(move |asked, client| {
        if asked.method != "GET" {
            let path = asked.target.split('?').next().unwrap_or_default();
            let path = path
                .split_once("/namespaces/n/")
                .map_or(path, |(_, p)| p)
                .to_owned();
            log.send_modify(|all| all.push((asked.method.clone(), path, asked.body.clone())));
        }
        let first = first.clone();
        async move { answer(asked, client, &first).await }
    });
    let config = testkit::apiserver::kubeconfig(apiserver.await);
    let controllers = format!("--controllers={controllers}");
    let (_, shutdown) = suite::run(config, &["--leader-elect=false", &controllers]);
    wait_until("everything was written", LIMIT, async || {
        until(&written.borrow())
    })
    .await;
    assert!(shutdown.drain(LIMIT).await);
    written.borrow().clone()
}

/// What was written, one line each, of what a name in it begins with.
fn lines(all: &[Write], of: &str) -> Vec<String> {
    let line = |(method, path, body): &Write| match (method.as_str(), path.as_str()) {
        ("POST", "events") => {
            let about = body["involvedObject"]["name"].as_str()?;
            let (reason, message) = (body["reason"].as_str()?, body["message"].as_str()?);
            (about == of).then(|| format!("event {reason}: {message}"))
        }
        ("POST", _) => {
            let name = name(body);
            let mine =
                name.starts_with(&format!("{of}-")) || name.starts_with(&format!("data-{of}-"));
            mine.then(|| {
                format!(
                    "create {path} {}",
                    if path == "controllerrevisions" {
                        ""
                    } else {
                        name
                    }
                )
                .trim_end()
                .to_owned()
            })
        }
        _ => path
            .split('/')
            .nth(1)
            .filter(|n| {
                *n == of
                    || n.starts_with(&format!("{of}-"))
                    || n.starts_with(&format!("data-{of}-"))
            })
            .map(|_| format!("{} {path}", method.to_lowercase())),
    };
    all.iter().filter_map(line).collect()
}

fn has(all: &[Write], of: &str, wanted: &[&str]) -> Result<(), String> {
    let lines = lines(all, of);
    match wanted.iter().find(|w| !lines.iter().any(|l| l == *w)) {
        Some(missing) => Err(format!("{of}: no {missing:?} in {lines:#?}")),
        None => Ok(()),
    }
}

fn body<'a>(all: &'a [Write], method: &str, path: &str, of: &str) -> &'a Value {
    let mut found = all
        .iter()
        .filter(|(m, p, b)| m == method && p == path && (of.is_empty() || name(b).starts_with(of)));
    &found
        .next_back()
        .unwrap_or_else(|| panic!("no {method} {path} {of}"))
        .2
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stateful_sets_ask_in_order() {
    let created = |set: &str, n: u32| {
        [
            format!(
                "event SuccessfulCreate: Create Claim data-{set}-{n} Pod {set}-{n} in StatefulSet {set} success"
            ),
            format!("event SuccessfulCreate: Create Pod {set}-{n} in StatefulSet {set} successful"),
        ]
    };
    let new = created("new", 0);
    let burst: Vec<String> = (0..3).flat_map(|n| created("burst", n)).collect();
    let all = writes(
        |all| {
            has(all, "new", &[&new[0], &new[1], "put statefulsets/new/status"])?;
            let burst: Vec<&str> = burst.iter().map(String::as_str).collect();
            has(all, "burst", &burst)?;
            has(all, "adopts", &["patch pods/adopts-0", "patch controllerrevisions/adopts-old", "put statefulsets/adopts/status"])?;
            has(all, "taken", &["put statefulsets/taken/status"])?;
            has(all, "refused", &[
                "event FailedCreate: Create Pod refused-0 in StatefulSet refused failed error: no",
                "put statefulsets/refused/status",
            ])?;
            has(all, "owns", &[
                "put persistentvolumeclaims/data-owns-0",
                "event SuccessfulUpdate: Update Pod owns-0 in StatefulSet owns successful",
            ])?;
            has(all, "shrinks", &["delete pods/shrinks-1", "event SuccessfulDelete: Delete Pod shrinks-1 in StatefulSet shrinks successful"])
        },
        "statefulset-controller",
    )
    .await;
    let mut order = lines(&all, "new");
    order.retain(|l| !l.starts_with("event"));
    let first = [
        "create controllerrevisions",
        "create persistentvolumeclaims data-new-0",
        "create pods new-0",
        "put statefulsets/new/status",
    ];
    assert_eq!(order[..4], first, "the second pod waits for the first");
    assert!(!order.iter().any(|l| l.ends_with("new-1")), "{order:#?}");
    let revision = body(&all, "POST", "controllerrevisions", "new-");
    assert_eq!(
        (&revision["data"], &revision["revision"]),
        (&data("new"), &json!(1))
    );
    assert_eq!(
        revision["metadata"]["ownerReferences"],
        owned("StatefulSet", "new")
    );
    let hash = name(revision).strip_prefix("new-").unwrap();
    let labels = json!({"app": "new", "controller.kubernetes.io/hash": hash});
    assert_eq!(revision["metadata"]["labels"], labels);
    let made = body(&all, "POST", "pods", "new-0");
    assert_eq!(
        made["metadata"]["labels"]["controller-revision-hash"],
        name(revision)
    );
    let status = &body(&all, "PUT", "statefulsets/new/status", "")["status"];
    assert_eq!(status["updateRevision"], name(revision));
    assert_eq!(
        (&status["observedGeneration"], &status["collisionCount"]),
        (&json!(1), &json!(0))
    );

    let adopted = &body(&all, "PATCH", "pods/adopts-0", "")["metadata"]["ownerReferences"];
    assert_eq!(*adopted, owned("StatefulSet", "adopts"));
    assert!(
        !all.iter().any(|(_, path, _)| path == "pods/other-0"),
        "it has another's name"
    );
    let status = &body(&all, "PUT", "statefulsets/adopts/status", "")["status"];
    assert_eq!(
        status["updateRevision"], "adopts-old",
        "an orphan with the same data is the revision"
    );
    assert_eq!(status["replicas"], 1);

    let tried: Vec<&Value> = all
        .iter()
        .filter(|(_, p, b)| p == "controllerrevisions" && name(b).starts_with("taken-"))
        .map(|w| &w.2)
        .collect();
    assert_eq!(tried.len(), 2);
    assert_ne!(name(tried[0]), name(tried[1]));
    assert_eq!(tried[0]["data"], tried[1]["data"]);
    let status = &body(&all, "PUT", "statefulsets/taken/status", "")["status"];
    assert_eq!(
        (&status["collisionCount"], &status["currentRevision"]),
        (&json!(1), &tried[1]["metadata"]["name"])
    );

    let claim = body(&all, "PUT", "persistentvolumeclaims/data-owns-0", "");
    assert_eq!(
        claim["metadata"]["ownerReferences"],
        owned("StatefulSet", "owns")
    );
    let gone = lines(&all, "shrinks");
    assert!(
        !gone.iter().any(|l| l == "delete pods/shrinks-0"),
        "one after the other: {gone:#?}"
    );
    assert!(
        gone.contains(&"patch pods/shrinks-x".to_owned()),
        "a pod without an ordinal is let go: {gone:#?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemon_sets_keep_one_revision_for_each_template() {
    let all = writes(
        |all| {
            has(all, "doubled", &["patch pods/doubled-pod"])?;
            has(all, "double", &["delete controllerrevisions/double-1"])?;
            has(all, "clashes", &["put daemonsets/clashes/status"])?;
            has(all, "orphaned", &["patch pods/orphaned-pod"])?;
            let of = |(_, path, _): &&Write| path == "controllerrevisions/orphaned-1";
            match all.iter().filter(of).count() {
                0 | 1 => Err("the orphan is not adopted and labelled".into()),
                _ => Ok(()),
            }
        },
        "daemonset-controller",
    )
    .await;
    let relabelled = body(&all, "PATCH", "pods/doubled-pod", "");
    assert_eq!(
        relabelled["metadata"]["labels"],
        json!({"controller-revision-hash": "double-3"})
    );
    let kept = |name: &str| {
        !all.iter()
            .any(|(m, p, _)| m == "DELETE" && p.ends_with(name))
    };
    assert!(kept("double-2") && kept("double-3"));
    let status = &body(&all, "PUT", "daemonsets/clashes/status", "")["status"];
    assert_eq!(status["collisionCount"], 1);
    let patches = all
        .iter()
        .filter(|(_, path, _)| path == "controllerrevisions/orphaned-1");
    let patches: Vec<&Value> = patches.map(|(_, _, body)| &body["metadata"]).collect();
    let adopted = owned("DaemonSet", "orphaned");
    assert!(patches.iter().any(|m| m["ownerReferences"] == adopted));
    let label = json!({"controller-revision-hash": "orphaned-1"});
    assert!(
        patches.iter().any(|m| m["labels"] == label),
        "a revision without a hash has its name for it"
    );
    assert!(
        !lines(&all, "orphaned")
            .iter()
            .any(|l| l == "create controllerrevisions"),
        "the orphan is the revision"
    );
}
