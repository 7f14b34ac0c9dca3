//! One object must not spoil all: one that names tens of thousands of owners holds up the collection of no other, and costs
//! no request for each.

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
const MANY: usize = 20_000;

fn owners(names: impl Iterator<Item = String>) -> Vec<Value> {
    let owner = |name| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": format!("uid-{name}")});
    names.map(owner).collect()
}

fn object(name: &str, owners: &[Value]) -> Value {
    json!({"metadata": {
        "name": name, "namespace": "n", "uid": format!("uid-{name}"), "resourceVersion": "1", "ownerReferences": owners,
    }})
}

fn absent(of: &str, count: usize) -> Vec<Value> {
    owners((0..count).map(|n| format!("{of}-absent-{n}")))
}

/// `kept` names many that do not exist and, last, one that does; `late` is listed on the last page.
fn objects() -> Vec<Value> {
    let there = || owners(["late".to_owned()].into_iter());
    vec![
        object("doomed", &absent("doomed", MANY)),
        object("kept", &[absent("kept", MANY), there()].concat()),
        object("lone", &absent("lone", 1)),
        object("held", &there()),
        object("late", &[]),
    ]
}

const BASE: &str = "/api/v1/namespaces/n/configmaps";

async fn answer(asked: Asked, client: Answer) -> std::io::Result<()> {
    let (path, query) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
    if let Some(resources) = discovery(path) {
        return client.send(200, &resources).await;
    }
    match (asked.method.as_str(), path) {
        ("GET", "/api/v1/configmaps") => {
            // What exists was not seen yet when it is asked for.
            let mut seen = objects();
            seen.pop();
            client.watch(&seen).await?.stay().await
        }
        ("GET", BASE) => {
            let all = objects();
            let (last, first) = all.split_last().unwrap();
            let (items, more) = match query.contains("continue=") {
                true => (vec![last.clone()], ""),
                false => (first.to_vec(), "more"),
            };
            let list = json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": {"resourceVersion": "1", "continue": more}, "items": items,
            });
            client.send(200, &list).await
        }
        ("GET", _) => {
            let name = path.rsplit('/').next().unwrap_or_default();
            let mut all = objects().into_iter();
            match all.find(|o| o["metadata"]["name"] == name) {
                Some(object) => client.send(200, &object).await,
                None => client.refuse(404).await,
            }
        }
        _ => client.send(200, &asked.body).await,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_with_many_owners_holds_up_no_other() {
    let (log, asked) = watch::channel(Vec::new());
    let apiserver = testkit::apiserver::serve(move |asked, client| {
        if asked.target.starts_with(BASE) {
            log.send_modify(|all| all.push(asked.clone()));
        }
        answer(asked, client)
    });
    let config = testkit::apiserver::kubeconfig(apiserver.await);
    let flags = [
        "--leader-elect=false",
        "--controllers=garbage-collector-controller",
    ];
    let (_, shutdown) = suite::run(config, &flags);
    let written = || -> Vec<(String, Value)> {
        let asked = asked.borrow();
        let writes = asked.iter().filter(|a| a.method != "GET");
        let mut all: Vec<(String, Value)> = writes
            .map(|a| {
                let path = a.target.split('?').next().unwrap_or_default();
                let owners = a.body["metadata"]["ownerReferences"].clone();
                (format!("{} {}", a.method, &path[BASE.len()..]), owners)
            })
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all.dedup();
        all
    };
    let wanted = [
        ("DELETE /doomed".to_owned(), Value::Null),
        ("DELETE /lone".to_owned(), Value::Null),
        (
            "PATCH /kept".to_owned(),
            json!(owners(["late".to_owned()].into_iter())),
        ),
    ];
    wait_until("what has no owner is deleted", LIMIT, async || {
        let written = written();
        let missing: Vec<&str> = (wanted.iter().filter(|w| !written.contains(w)))
            .map(|w| w.0.as_str())
            .collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("not yet: {missing:?}"))
        }
    })
    .await;
    assert_eq!(written(), wanted, "nothing else is touched");
    let asked = asked.borrow().len();
    assert!(asked < 50, "{asked} requests");
    assert!(shutdown.drain(LIMIT).await);
}
