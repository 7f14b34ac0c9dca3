//! What really happened, from every change of pods and Jobs in the order of the store, and what must never be seen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use apiserver::cache::{Observer, Seen};
use serde_json::Value;

/// The namespace with a quota, and how many pods it allows.
pub const QUOTA: (&str, usize) = ("q", 6);

type Key = (String, String);

/// How the pods of a Job ended, by UID.
#[derive(Debug, Default)]
pub struct Ends {
    pub succeeded: BTreeSet<String>,
    pub failed: BTreeSet<String>,
    /// Deleted before they ended.
    pub gone: BTreeSet<String>,
    /// Given up by the Job while they ran, for it was suspended or wanted fewer at once: these count for nothing.
    pub given_up: BTreeSet<String>,
}

/// See the module.
#[derive(Default)]
pub struct Truth {
    pub pods: BTreeMap<Key, Value>,
    /// By the Job's UID.
    pub ends: BTreeMap<String, Ends>,
    /// What runs on some machine, by UID.
    pub running: BTreeMap<String, Key>,
    /// Taken away by a user who knows what that means.
    pub forced: BTreeSet<String>,
    counts: BTreeMap<String, (u64, u64)>,
    pub violations: Vec<String>,
}

pub type Shared = Arc<Mutex<Truth>>;

pub fn lock(truth: &Shared) -> MutexGuard<'_, Truth> {
    truth.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A text of an object; empty where there is none.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

pub fn number(object: &Value, pointer: &str) -> u64 {
    object.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

/// Kind and UID of the controller.
pub fn controller(object: &Value) -> Option<(&str, &str)> {
    let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
    let owner = owners.iter().find(|o| o["controller"] == true)?;
    Some((owner["kind"].as_str()?, owner["uid"].as_str()?))
}

pub fn is_terminal(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

pub fn is_leaving(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some()
}

fn is_tracked(pod: &Value) -> bool {
    let finalizers = pod
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array);
    finalizers.is_some_and(|f| f.iter().any(|f| f == "batch.kubernetes.io/job-tracking"))
}

pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions.is_some_and(|c| {
        c.iter()
            .any(|c| c["type"] == "Ready" && c["status"] == "True")
    })
}

/// What has to be told to [`Truth`].
pub fn observers(truth: &Shared) -> Vec<(&'static str, &'static str, Observer)> {
    let observer = |see: fn(&mut Truth, Key, Option<Value>)| -> Observer {
        let truth = truth.clone();
        Arc::new(
            move |namespace: &str, name: &str, seen: Option<&Seen<'_>>| {
                let object = seen.and_then(|s| s.value().ok());
                let key = (namespace.to_owned(), name.to_owned());
                see(&mut lock(&truth), key, object);
            },
        )
    };
    vec![
        ("", "pods", observer(Truth::pod)),
        ("batch", "jobs", observer(Truth::job)),
    ]
}

impl Truth {
    fn wrong(&mut self, what: String) {
        self.violations
            .push(format!("at {:.1} s: {what}", crate::fate::elapsed()));
    }

    fn pod(&mut self, key: Key, pod: Option<Value>) {
        let old = self.pods.get(&key);
        let replaced = old.filter(|o| {
            pod.as_ref()
                .is_none_or(|p| text(p, "/metadata/uid") != text(o, "/metadata/uid"))
        });
        if let Some(old) = replaced.cloned() {
            self.removed(&key, &old);
        }
        let Some(pod) = pod else {
            self.pods.remove(&key);
            return;
        };
        if let Some(("Job", job)) = controller(&pod) {
            let uid = text(&pod, "/metadata/uid").to_owned();
            let ends = self.ends.entry(job.to_owned()).or_default();
            if !is_terminal(&pod) && !is_leaving(&pod) && !is_tracked(&pod) {
                ends.given_up.insert(uid.clone());
            }
            match text(&pod, "/status/phase") {
                "Succeeded" => ends.succeeded.insert(uid),
                "Failed" => ends.failed.insert(uid),
                _ => is_leaving(&pod) && ends.gone.insert(uid),
            };
        }
        self.pods.insert(key.clone(), pod);
        if key.0 == QUOTA.0 {
            let charged = self.charged();
            if charged > QUOTA.1 {
                self.wrong(format!(
                    "{charged} pods count against a quota of {}",
                    QUOTA.1
                ));
            }
        }
    }

    /// Pods that count against the quota: not those that should be gone by now, as upstream has it.
    pub fn charged(&self) -> usize {
        let of = self.pods.iter().filter(|(k, _)| k.0 == QUOTA.0);
        let now = client::Time::now().to_string();
        let overdue = |p: &Value| is_leaving(p) && *text(p, "/metadata/deletionTimestamp") < *now;
        of.filter(|(_, p)| !is_terminal(p) && !overdue(p)).count()
    }

    fn removed(&mut self, key: &Key, old: &Value) {
        let uid = text(old, "/metadata/uid").to_owned();
        if let Some(("Job", job)) = controller(old) {
            let ends = self.ends.entry(job.to_owned()).or_default();
            if !is_terminal(old) {
                ends.gone.insert(uid.clone());
            }
        }
        if self.running.remove(&uid).is_some() && !self.forced.contains(&uid) {
            self.wrong(format!(
                "pod {key:?} is gone and its machine still runs it: its name can be given to another"
            ));
        }
    }

    fn job(&mut self, key: Key, job: Option<Value>) {
        let Some(job) = job else {
            return;
        };
        let uid = text(&job, "/metadata/uid").to_owned();
        let succeeded = number(&job, "/status/succeeded");
        let failed = number(&job, "/status/failed");
        let ends = self.ends.entry(uid.clone()).or_default();
        let good = ends.succeeded.len() as u64;
        let bad = ends.failed.union(&ends.gone).count() as u64;
        if succeeded > good || failed > bad {
            self.wrong(format!(
                "Job {key:?} says {succeeded} succeeded and {failed} failed; {good} and {bad} did"
            ));
        }
        let before = self.counts.insert(uid, (succeeded, failed));
        if before.is_some_and(|b| b.0 > succeeded || b.1 > failed) {
            self.wrong(format!(
                "Job {key:?} counts backwards: {before:?}, then {succeeded} and {failed}"
            ));
        }
    }
}
