//! pod-garbage-collector-controller: removes pods that nobody else will: those of nodes that are gone, those that were
//! deleted before they had a node, those of nodes out of service, and the oldest ended ones beyond a number.
//!
//! It looks when something happened that may concern it, at most every 20 s, and not otherwise. A node counts as gone when
//! it has been for 40 s and the apiserver confirms it, since a new node may be known to the pod's cache first.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use client::resource::{NODES, PODS};
use client::{Change, DeleteOptions, ObjectKey, Patch, Store, Time};
use serde_json::json;
use tokio::time::Instant;

use crate::Context;
use crate::context::Failures;
use crate::views::{Node, Pod, condition};

const PERIOD: Duration = Duration::from_secs(20);
const QUARANTINE: Duration = Duration::from_secs(40);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Why a pod goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Beyond the number of ended pods.
    Terminated,
    /// Its node does not exist.
    Orphaned,
    /// Deleted without ever having had a node.
    Unscheduled,
    /// Deleted on a node that was declared out of service.
    OutOfService,
}

/// The pods to remove. `gone` are nodes that are surely gone.
pub fn decide(
    pods: &[Arc<Pod>],
    nodes: &Store<Node>,
    gone: &HashSet<String>,
    threshold: usize,
) -> Vec<(Arc<Pod>, Why)> {
    let mut out = Vec::new();
    let mut ended: Vec<&Arc<Pod>> = Vec::new();
    for pod in pods {
        let node = &pod.spec.node_name;
        let deleting = pod.metadata.is_deleting();
        if pod.is_ended() && !deleting {
            ended.push(pod);
        }
        if !node.is_empty() && gone.contains(node) {
            out.push((pod.clone(), Why::Orphaned));
        } else if deleting && node.is_empty() {
            out.push((pod.clone(), Why::Unscheduled));
        } else if deleting
            && nodes.get("", node).is_some_and(|n| {
                n.spec.taints.iter().any(|t| t.key == OUT_OF_SERVICE)
                    && condition(&n.status.conditions, "Ready").is_none_or(|c| c.status != "True")
            })
        {
            out.push((pod.clone(), Why::OutOfService));
        }
    }
    if threshold > 0 && ended.len() > threshold {
        ended.sort_by_key(|p| (p.metadata.creation_timestamp, p.metadata.name.as_str()));
        let surplus = ended.len() - threshold;
        out.extend(
            ended
                .into_iter()
                .take(surplus)
                .map(|p| (p.clone(), Why::Terminated)),
        );
    }
    out
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let pods = ctx.informer::<Pod>(&PODS);
    let nodes = ctx.informer::<Node>(&NODES);
    pods.store()
        .add_index("node", |p: &Pod| vec![p.spec.node_name.clone()]);
    let queue = ctx.queue("orphaned_pods_nodes");
    let sweep = ObjectKey::new("", "sweep");
    let (q, key, store) = (queue.clone(), sweep.clone(), nodes.store());
    pods.on_change(move |change| {
        let pod = change.object();
        let homeless =
            !pod.spec.node_name.is_empty() && store.get("", &pod.spec.node_name).is_none();
        if !matches!(change, Change::Deleted(_))
            && (homeless || pod.metadata.is_deleting() || pod.is_ended())
        {
            q.add_after(key.clone(), PERIOD);
        }
    });
    let (q, key) = (queue.clone(), sweep.clone());
    nodes.on_change(move |change| {
        let tainted = |n: &Node| n.spec.taints.iter().any(|t| t.key == OUT_OF_SERVICE);
        if matches!(change, Change::Deleted(_)) || tainted(change.object()) {
            q.add_after(key.clone(), PERIOD);
        }
    });
    let (pods, nodes, client, config) = (
        pods.store(),
        nodes.store(),
        ctx.client.clone(),
        ctx.config.clone(),
    );
    let missing: Arc<Mutex<HashMap<String, Instant>>> = Arc::default();
    ctx.run(queue, 1, move |_| {
        let (pods, nodes, client, config, missing) = (
            pods.clone(),
            nodes.clone(),
            client.clone(),
            config.clone(),
            missing.clone(),
        );
        async move {
            let all = pods.list();
            let absent: HashSet<String> = all
                .iter()
                .map(|p| p.spec.node_name.clone())
                .filter(|n| !n.is_empty() && nodes.get("", n).is_none())
                .collect();
            let due: Vec<String> = {
                let mut missing = missing.lock().unwrap_or_else(PoisonError::into_inner);
                missing.retain(|n, _| absent.contains(n));
                absent
                    .iter()
                    .filter(|n| {
                        missing
                            .entry((*n).clone())
                            .or_insert_with(Instant::now)
                            .elapsed()
                            >= QUARANTINE
                    })
                    .cloned()
                    .collect()
            };
            let mut failures = Failures::default();
            let mut gone = HashSet::new();
            for node in due {
                match client
                    .api(&NODES)
                    .get::<client::view::MetaView>(&node)
                    .await
                {
                    Err(e) if e.is_not_found() => {
                        gone.insert(node);
                    }
                    Err(e) => failures.note(Err(e)),
                    Ok(_) => {}
                }
            }
            let again = (absent.len() > gone.len()).then_some(PERIOD);
            let due = decide(&all, &nodes, &gone, config.terminated_pod_threshold);
            failures.note(remove_all(&client, due).await);
            failures.end().map(|()| again)
        }
    });
}

async fn remove_all(
    client: &client::Client,
    due: Vec<(Arc<Pod>, Why)>,
) -> Result<(), client::Error> {
    let mut failures = Failures::default();
    for (pod, why) in due {
        failures.note(remove(client, &pod, why).await);
    }
    failures.end()
}

async fn remove(client: &client::Client, pod: &Pod, why: Why) -> Result<(), client::Error> {
    let api = client.namespaced(&PODS, &pod.metadata.namespace);
    let name = &pod.metadata.name;
    tracing::info!(pod = %ObjectKey::of(pod), reason = ?why, "PodGC is force deleting Pod");
    if !pod.is_ended() {
        let mut status = json!({"phase": "Failed"});
        if why == Why::Orphaned
            && let Some(s) = status.as_object_mut()
        {
            let condition = pod.disruption(
                "DeletionByPodGC",
                "PodGC: node no longer exists",
                Time::now(),
            );
            s.insert("conditions".into(), json!([condition]));
        }
        let patch =
            Patch::Strategic(json!({"metadata": {"uid": pod.metadata.uid}, "status": status}));
        match api
            .patch_status::<serde::de::IgnoredAny>(name, &patch)
            .await
        {
            Ok(_) => {}
            Err(e) if e.is_not_found() || e.is_conflict() => return Ok(()),
            Err(e) => return Err(e),
        }
    }
    let options = DeleteOptions {
        grace_period_seconds: Some(0),
        ..DeleteOptions::uid(pod.metadata.uid.as_str())
    };
    match api.delete(name, &options).await {
        Ok(()) => Ok(()),
        Err(e) if e.is_not_found() || e.is_conflict() => Ok(()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One object must not spoil all: a pod that cannot be removed keeps no other.
    #[tokio::test]
    async fn a_pod_that_is_refused_keeps_no_other() {
        let deleted: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = deleted.clone();
        let apiserver = testkit::apiserver::serve(move |asked, client| {
            let log = log.clone();
            async move {
                if asked.target.contains("/bad") {
                    return client.refuse(422).await;
                }
                if asked.method == "DELETE" {
                    log.lock().unwrap().push(asked.target);
                }
                client.send(200, &json!({"metadata": {}})).await
            }
        });
        let config = testkit::apiserver::kubeconfig(apiserver.await);
        let client = client::Client::from_kubeconfig(config.path(), client::Options::default());
        let due = ["bad", "good"].map(|name| {
            let mut pod = Pod::default();
            pod.metadata.name = name.into();
            pod.metadata.namespace = "n".into();
            (Arc::new(pod), Why::Orphaned)
        });
        let ended = remove_all(&client.await.unwrap(), due.into()).await;
        assert_eq!(ended.unwrap_err().code(), 422);
        let deleted = deleted.lock().unwrap();
        assert_eq!(deleted.len(), 1);
        assert!(deleted[0].contains("/pods/good"), "{deleted:?}");
    }

    fn pod(name: &str, node: &str, phase: &str, deleting: bool, age: i64) -> Arc<Pod> {
        let mut p = Pod::default();
        p.metadata.name = name.into();
        p.metadata.creation_timestamp = Some(Time::from_second(1000 - age).unwrap());
        p.metadata.deletion_timestamp = deleting.then_some(Time::UNIX_EPOCH);
        p.spec.node_name = node.into();
        p.status.phase = phase.into();
        Arc::new(p)
    }

    #[test]
    fn each_reason() {
        let nodes = Store::default();
        for (name, tainted, ready) in [
            ("ok", false, "True"),
            ("out", true, "False"),
            ("out-but-ready", true, "True"),
        ] {
            let mut n = Node::default();
            n.metadata.name = name.into();
            if tainted {
                n.spec.taints.push(crate::views::Taint {
                    key: OUT_OF_SERVICE.into(),
                    ..Default::default()
                });
            }
            n.status.conditions.push(crate::views::Condition {
                kind: "Ready".into(),
                status: ready.into(),
                ..Default::default()
            });
            nodes.insert(Arc::new(n));
        }
        let pods = [
            pod("runs", "ok", "Running", false, 1),
            pod("ends", "ok", "Running", true, 1),
            pod("orphan", "gone", "Running", false, 1),
            pod("maybe", "absent-lately", "Running", false, 1),
            pod("never", "", "Pending", true, 1),
            pod("waits", "", "Pending", false, 1),
            pod("stuck", "out", "Running", true, 1),
            pod("fine", "out-but-ready", "Running", true, 1),
            pod("done-old", "ok", "Succeeded", false, 9),
            pod("done-new", "ok", "Failed", false, 5),
        ];
        let gone = HashSet::from(["gone".to_owned()]);
        let mut out: Vec<_> = decide(&pods, &nodes, &gone, 1)
            .iter()
            .map(|(p, w)| (p.metadata.name.clone(), *w))
            .collect();
        out.sort_by(|a, b| a.0.cmp(&b.0));
        let expected = [
            ("done-old", Why::Terminated),
            ("never", Why::Unscheduled),
            ("orphan", Why::Orphaned),
            ("stuck", Why::OutOfService),
        ];
        assert_eq!(out, expected.map(|(n, w)| (n.to_owned(), w)));
    }
}
