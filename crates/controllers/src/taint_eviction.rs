//! taint-eviction-controller: deletes pods from nodes with NoExecute taints that they do not tolerate, or no longer.
//!
//! The time of a toleration runs from the taint's `timeAdded` (or the pod's start, if later), so that it does not begin
//! anew when this process restarts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use client::events::Format;
use client::resource::{NODES, PODS};
use client::{Change, DeleteOptions, EventType, ObjectKey, ObjectReference, Patch, Recorder, Time};
use serde_json::json;

use crate::Context;
use crate::views::{Node, Pod, Taint, Toleration};

/// When a pod has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Never, as things are.
    Stays,
    /// Then, or at once if that is past.
    Until(Time),
}

/// Whether a toleration covers a taint.
pub fn tolerates(t: &Toleration, taint: &Taint) -> bool {
    let value = match t.operator.as_str() {
        "" | "Equal" => t.value == taint.value,
        "Exists" => true,
        _ => false,
    };
    (t.effect.is_empty() || t.effect == taint.effect)
        && (t.key == taint.key || (t.key.is_empty() && t.operator == "Exists"))
        && value
}

/// Judges a pod by the NoExecute taints of its node. `first_seen` stands in for a taint without a time.
pub fn judge(pod: &Pod, taints: &[Taint], first_seen: Time) -> Verdict {
    let mut until: Option<Time> = None;
    let started = pod
        .status
        .start_time
        .or(pod.metadata.creation_timestamp)
        .unwrap_or(Time::UNIX_EPOCH);
    for taint in taints.iter().filter(|t| t.effect == "NoExecute") {
        let since = taint.time_added.unwrap_or(first_seen).max(started);
        // The first toleration that matches counts, as upstream.
        let Some(t) = pod.spec.tolerations.iter().find(|t| tolerates(t, taint)) else {
            return Verdict::Until(Time::UNIX_EPOCH);
        };
        if let Some(seconds) = t.toleration_seconds {
            let end = since
                .checked_add(jiff::SignedDuration::from_secs(seconds.max(0)))
                .unwrap_or(Time::MAX);
            until = Some(until.map_or(end, |u| u.min(end)));
        }
    }
    until.map_or(Verdict::Stays, Verdict::Until)
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let pods = ctx.informer::<Pod>(&PODS);
    let nodes = ctx.informer::<Node>(&NODES);
    pods.store()
        .add_index("node", |p: &Pod| vec![p.spec.node_name.clone()]);
    let queue = ctx.queue("noexec_taint_pod");
    let (recorder, writing) = Recorder::new(
        ctx.client.clone(),
        Format::Core,
        "taint-eviction-controller",
        "",
        ctx.shutdown.clone(),
    );
    ctx.tasks.spawn(writing);
    let ctx = Context { recorder, ..ctx };
    // Pods that are waiting to be evicted, and since when.
    let waiting: Arc<Mutex<HashMap<String, Time>>> = Arc::default();
    let (q, store, w) = (queue.clone(), nodes.store(), waiting.clone());
    pods.on_change(move |change| {
        let pod = change.object();
        if matches!(change, Change::Deleted(_)) {
            w.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&pod.metadata.uid);
            return;
        }
        let moved = change.old().is_none_or(|o| {
            o.spec.node_name != pod.spec.node_name || o.spec.tolerations != pod.spec.tolerations
        });
        let tainted = |n: Arc<Node>| n.spec.taints.iter().any(|t| t.effect == "NoExecute");
        if moved
            && !pod.spec.node_name.is_empty()
            && store.get("", &pod.spec.node_name).is_some_and(tainted)
        {
            q.add(ObjectKey::of(&**pod));
        }
    });
    let (q, store) = (queue.clone(), pods.store());
    nodes.on_change(move |change| {
        let no_execute = |n: &Node| {
            n.spec
                .taints
                .iter()
                .filter(|t| t.effect == "NoExecute")
                .cloned()
                .collect::<Vec<_>>()
        };
        let now = no_execute(change.object());
        let changed = match change {
            Change::Added(_) => !now.is_empty(),
            Change::Updated { old, .. } => no_execute(old) != now,
            Change::Deleted(_) => false,
        };
        if changed {
            for pod in store.by_index("node", &change.object().metadata.name) {
                q.add(ObjectKey::of(&*pod));
            }
        }
    });
    let (pods, nodes) = (pods.store(), nodes.store());
    let it = ctx.clone();
    ctx.run(queue, 8, move |key| {
        let (pods, nodes, waiting, ctx) =
            (pods.clone(), nodes.clone(), waiting.clone(), it.clone());
        async move {
            let Some(pod) = pods.get_key(&key).filter(|p| !p.metadata.is_deleting()) else {
                return Ok(None);
            };
            let Some(node) = nodes.get("", &pod.spec.node_name) else {
                return Ok(None);
            };
            let now = Time::now();
            let first = {
                let waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                waiting.get(&pod.metadata.uid).copied().unwrap_or(now)
            };
            let tainted = node.spec.taints.iter().any(|t| t.effect == "NoExecute");
            let reference = ObjectReference {
                resource_version: String::new(),
                ..ObjectReference::of(&PODS, &*pod)
            };
            match judge(&pod, &node.spec.taints, first) {
                Verdict::Until(end) if tainted => {
                    waiting
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(pod.metadata.uid.clone(), first);
                    let left = end.duration_since(now);
                    if let Ok(wait) = Duration::try_from(left)
                        && !wait.is_zero()
                    {
                        return Ok(Some(wait));
                    }
                    let message = format!("Marking for deletion Pod {key}");
                    ctx.recorder.event(
                        reference,
                        EventType::Normal,
                        "TaintManagerEviction",
                        message,
                    );
                    evict(&ctx.client, &pod).await?;
                }
                _ => {
                    if waiting
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .remove(&pod.metadata.uid)
                        .is_some()
                    {
                        let message = format!("Cancelling deletion of Pod {key}");
                        ctx.recorder.event(
                            reference,
                            EventType::Normal,
                            "TaintManagerEviction",
                            message,
                        );
                    }
                }
            }
            Ok::<_, client::Error>(None)
        }
    });
}

async fn evict(client: &client::Client, pod: &Pod) -> Result<(), client::Error> {
    let api = client.namespaced(&PODS, &pod.metadata.namespace);
    let condition = pod.disruption(
        "DeletionByTaintManager",
        "Taint manager: deleting due to NoExecute taint",
        Time::now(),
    );
    let patch = Patch::Strategic(json!({
        "metadata": {"uid": pod.metadata.uid},
        "status": {"conditions": [condition]},
    }));
    match api
        .patch_status::<serde::de::IgnoredAny>(&pod.metadata.name, &patch)
        .await
    {
        Ok(_) => {}
        Err(e) if e.is_not_found() || e.is_conflict() => return Ok(()),
        Err(e) => return Err(e),
    }
    match api
        .delete(
            &pod.metadata.name,
            &DeleteOptions::uid(pod.metadata.uid.as_str()),
        )
        .await
    {
        Ok(()) => Ok(()),
        Err(e) if e.is_not_found() || e.is_conflict() => Ok(()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> Time {
        Time::from_second(s).unwrap()
    }

    fn taint(key: &str, added: Option<i64>) -> Taint {
        Taint {
            key: key.into(),
            effect: "NoExecute".into(),
            time_added: added.map(at),
            ..Taint::default()
        }
    }

    fn toleration(key: &str, seconds: Option<i64>) -> Toleration {
        Toleration {
            key: key.into(),
            operator: "Exists".into(),
            toleration_seconds: seconds,
            ..Toleration::default()
        }
    }

    fn pod(tolerations: Vec<Toleration>) -> Pod {
        let mut p = Pod::default();
        p.spec.tolerations = tolerations;
        p.metadata.creation_timestamp = Some(at(100));
        p
    }

    #[test]
    fn verdicts() {
        let now = at(5000);
        let gone = Verdict::Until(Time::UNIX_EPOCH);
        assert_eq!(judge(&pod(vec![]), &[], now), Verdict::Stays);
        assert_eq!(judge(&pod(vec![]), &[taint("a", None)], now), gone);
        assert_eq!(
            judge(&pod(vec![toleration("", None)]), &[taint("a", None)], now),
            Verdict::Stays
        );
        let first = pod(vec![toleration("", None), toleration("a", Some(30))]);
        assert_eq!(
            judge(&first, &[taint("a", Some(1000))], now),
            Verdict::Stays
        );
        let both = pod(vec![toleration("a", Some(300)), toleration("b", Some(30))]);
        assert_eq!(
            judge(&both, &[taint("a", Some(1000))], now),
            Verdict::Until(at(1300))
        );
        assert_eq!(
            judge(
                &both,
                &[taint("a", Some(1000)), taint("b", Some(1100))],
                now
            ),
            Verdict::Until(at(1130))
        );
        assert_eq!(
            judge(
                &both,
                &[taint("a", Some(1000)), taint("c", Some(1100))],
                now
            ),
            gone
        );
        assert_eq!(
            judge(&both, &[taint("a", None)], now),
            Verdict::Until(at(5300)),
            "no time: from when it was first seen"
        );
        assert_eq!(
            judge(&both, &[taint("a", Some(10))], now),
            Verdict::Until(at(400)),
            "not before the pod was there"
        );
        let other = Taint {
            effect: "NoSchedule".into(),
            ..taint("c", None)
        };
        assert_eq!(judge(&pod(vec![]), &[other], now), Verdict::Stays);
    }
}
