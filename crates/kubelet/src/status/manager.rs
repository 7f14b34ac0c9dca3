//! Sends pod statuses to the apiserver: only what changed, latest state only, retried until it is there.
//!
//! One queue for all pods; a pod's patch carries its UID, so that a pod recreated under the same name is never touched.
//! A pod whose work on the node has ended and whose deletion was asked for is deleted with grace 0 after its last status.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use client::{Client, DeleteOptions, Patch, WorkQueue};
use serde_json::{Value, json};

use crate::pod::{Pod, PodStatus};

struct Entry {
    pod: Arc<Pod>,
    status: PodStatus,
    version: u64,
    sent: u64,
    /// The worker is done with the pod.
    finished: bool,
    /// The status as the apiserver has it, as JSON.
    remote: Value,
    /// UID and status JSON of the mirror pod, for static pods.
    mirror: Option<(String, Value)>,
}

/// The statuses of this node's pods.
pub struct StatusManager {
    client: Option<Client>,
    pods: Mutex<HashMap<String, Entry>>,
    queue: WorkQueue<String>,
}

impl StatusManager {
    /// Without a client nothing is sent.
    pub fn new(client: Option<Client>) -> StatusManager {
        StatusManager {
            client,
            pods: Mutex::default(),
            queue: WorkQueue::with_limits(
                "pod-status",
                Duration::from_millis(200),
                Duration::from_secs(10),
            ),
        }
    }

    fn pods(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The latest status made here.
    pub fn get(&self, uid: &str) -> Option<PodStatus> {
        self.pods().get(uid).map(|e| e.status.clone())
    }

    /// Takes a new status; sends it when it differs from what the apiserver has.
    pub fn set(&self, pod: &Arc<Pod>, status: PodStatus) {
        let mut pods = self.pods();
        let e = entry(&mut pods, pod);
        if e.status == status && e.version > 0 {
            return;
        }
        e.status = status;
        e.version += 1;
        self.queue.add(pod.metadata.uid.clone());
    }

    /// Tells what the apiserver has; something else's change of our fields is put right.
    pub fn observe(&self, pod: &Arc<Pod>) {
        if let Some(e) = self.pods().get_mut(&pod.metadata.uid) {
            e.pod = pod.clone();
            e.remote = to_json(&pod.status);
            self.queue.add(pod.metadata.uid.clone());
        }
    }

    /// Tells of a static pod's mirror: its UID and status.
    pub fn observe_mirror(&self, static_uid: &str, mirror: &Pod) {
        if let Some(e) = self.pods().get_mut(static_uid) {
            e.mirror = Some((mirror.metadata.uid.clone(), to_json(&mirror.status)));
            self.queue.add(static_uid.to_string());
        }
    }

    /// The worker has ended: nothing of the pod is left on the node but its record.
    ///
    /// After a restart this may be the first word about the pod: then the apiserver has its last status already.
    pub fn finish(&self, pod: &Arc<Pod>) {
        entry(&mut self.pods(), pod).finished = true;
        self.queue.add(pod.metadata.uid.clone());
    }

    /// Forgets a pod that is gone from its source.
    pub fn remove(&self, uid: &str) {
        self.pods().remove(uid);
    }

    /// Sends until the queue is shut down.
    pub async fn run(&self, stop: tokio_util::sync::CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => self.queue.shut_down(),
            () = self.queue.work(4, |uid: String| async move { self.send(&uid).await.map(|()| None) }) => {}
        }
    }

    async fn send(&self, uid: &str) -> Result<(), client::Error> {
        let Some(client) = &self.client else {
            return Ok(());
        };
        let (pod, status, version, finished, remote, mirror) = {
            let pods = self.pods();
            let Some(e) = pods.get(uid) else {
                return Ok(());
            };
            (
                e.pod.clone(),
                e.status.clone(),
                e.version,
                e.finished,
                e.remote.clone(),
                e.mirror.clone(),
            )
        };
        let m = &pod.metadata;
        let api = client.namespaced(&client::resource::PODS, &m.namespace);
        let (target_uid, remote) = match (&mirror, pod.is_static()) {
            (Some((uid, remote)), true) => (uid.clone(), remote.clone()),
            (None, true) => return Ok(()),
            (_, false) => (m.uid.clone(), remote),
        };
        if version > 0
            && let Some(patch) = diff(&remote, &to_json(&status))
        {
            let body = json!({"metadata": {"uid": target_uid}, "status": patch});
            match api
                .patch_status::<Pod>(&m.name, &Patch::Strategic(body))
                .await
            {
                Ok(p) => {
                    let mut pods = self.pods();
                    if let Some(e) = pods.get_mut(uid) {
                        e.sent = e.sent.max(version);
                        let now = to_json(&p.status);
                        match &mut e.mirror {
                            Some((_, r)) if pod.is_static() => *r = now,
                            _ => e.remote = now,
                        }
                    }
                }
                Err(e) if e.is_not_found() => {
                    tracing::debug!(pod = %pod.key(), "the pod is gone from the apiserver");
                    return Ok(());
                }
                Err(e) if e.is_conflict() => {
                    // Another pod has the name now.
                    tracing::debug!(pod = %pod.key(), error = %e, "status not sent");
                    return Ok(());
                }
                // A status that is refused for what it says (the runtime said it) must not keep the pod from being deleted.
                Err(e) if e.is_invalid() && finished => {
                    tracing::warn!(pod = %pod.key(), error = %e, "the pod's last status was refused");
                }
                Err(e) => {
                    tracing::warn!(pod = %pod.key(), error = %e, "sending the pod's status failed");
                    return Err(e);
                }
            }
        }
        if finished && !pod.is_static() && m.deletion_timestamp.is_some() {
            let options = DeleteOptions {
                grace_period_seconds: Some(0),
                uid: Some(m.uid.clone()),
                ..DeleteOptions::default()
            };
            match api.delete(&m.name, &options).await {
                Ok(()) => {
                    tracing::info!(pod = %pod.key(), uid = %m.uid, "pod fully terminated and removed from the apiserver")
                }
                Err(e) if e.is_not_found() || e.is_conflict() => {}
                Err(e) => {
                    tracing::warn!(pod = %pod.key(), error = %e, "deleting the terminated pod failed");
                    return Err(e);
                }
            }
        }
        Ok(())
    }
}

fn entry<'a>(pods: &'a mut HashMap<String, Entry>, pod: &Arc<Pod>) -> &'a mut Entry {
    let e = pods
        .entry(pod.metadata.uid.clone())
        .or_insert_with(|| Entry {
            pod: pod.clone(),
            status: PodStatus::default(),
            version: 0,
            sent: 0,
            finished: false,
            remote: if pod.is_static() {
                Value::Null
            } else {
                to_json(&pod.status)
            },
            mirror: None,
        });
    e.pod = pod.clone();
    e
}

fn to_json(s: &PodStatus) -> Value {
    serde_json::to_value(s).unwrap_or_default()
}

/// The strategic merge patch from `old` to `new`; `None` when nothing differs.
///
/// Conditions merge by type and are sent one by one, so conditions of others are never touched; lists of addresses are
/// replaced; everything else is atomic.
fn diff(old: &Value, new: &Value) -> Option<Value> {
    let empty = serde_json::Map::new();
    let old = old.as_object().unwrap_or(&empty);
    let new = new.as_object().unwrap_or(&empty);
    let mut patch = serde_json::Map::new();
    for (k, v) in new {
        let before = old.get(k);
        if before == Some(v) {
            continue;
        }
        match k.as_str() {
            "conditions" => {
                let old: Vec<&Value> = before
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .collect();
                let kind = |c: &Value| c.get("type").cloned();
                let changed: Vec<Value> = v
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter(|c| !old.contains(c))
                    .map(|c| {
                        let mut c = c.clone();
                        // What the condition no longer says must be unsaid.
                        let before = old
                            .iter()
                            .find(|o| kind(o) == kind(&c))
                            .and_then(|o| o.as_object());
                        if let (Some(before), Some(now)) = (before, c.as_object_mut()) {
                            for k in before.keys() {
                                now.entry(k.clone()).or_insert(Value::Null);
                            }
                        }
                        c
                    })
                    .collect();
                if !changed.is_empty() {
                    patch.insert(k.clone(), Value::Array(changed));
                }
            }
            "podIPs" | "hostIPs" => {
                let mut list = vec![json!({"$patch": "replace"})];
                list.extend(v.as_array().into_iter().flatten().cloned());
                patch.insert(
                    k.clone(),
                    if k == "hostIPs" {
                        v.clone()
                    } else {
                        Value::Array(list)
                    },
                );
            }
            _ => {
                patch.insert(k.clone(), v.clone());
            }
        }
    }
    for k in old.keys() {
        if !new.contains_key(k) && k != "conditions" {
            patch.insert(k.clone(), Value::Null);
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_first_seen_after_its_end_is_still_let_go() {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "uid": "u"}, "status": {"phase": "Failed"}}),
        )
        .unwrap();
        let m = StatusManager::new(None);
        m.finish(&Arc::new(pod));
        let pods = m.pods();
        let e = pods.get("u").unwrap();
        assert!(e.finished && e.version == 0, "deleted, with no status sent");
    }

    #[test]
    fn only_changes_are_sent() {
        let old = json!({"phase": "Pending", "reason": "x", "conditions": [{"type": "a", "status": "True", "reason": "r"}, {"type": "foreign", "status": "True"}]});
        assert_eq!(diff(&old, &old), None);
        let new = json!({"phase": "Running", "conditions": [{"type": "foreign", "status": "True"}, {"type": "a", "status": "False"}], "podIPs": [{"ip": "1.2.3.4"}]});
        assert_eq!(
            diff(&old, &new),
            Some(
                json!({"phase": "Running", "reason": null, "conditions": [{"type": "a", "status": "False", "reason": null}], "podIPs": [{"$patch": "replace"}, {"ip": "1.2.3.4"}]})
            )
        );
        let gone = json!({"phase": "Pending", "reason": "x", "conditions": [{"type": "a", "status": "True", "reason": "r"}]});
        assert_eq!(diff(&old, &gone), None);
    }
}
