//! job-controller: runs pods until enough of them have succeeded.
//!
//! Invariants: each ended pod is counted once, however often the controller or the apiserver fails between two calls: a pod
//! keeps a finalizer until its UID (or its index) stands in the status, and the status counts it when the finalizer is gone;
//! a status is written over the very version that it was made from; never more pods are made than are missing, however
//! stale the cache; a job is over only when all its pods have ended and are counted.
//!
//! Absent on purpose: pods of a job as a group of the scheduler (`WorkloadWithJob`, alpha and off upstream); the metrics
//! `job_*`.

pub mod backoff;
pub mod decide;
pub mod indexes;
pub mod policy;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use client::resource::{JOBS, PODS};
use client::{Change, EventType, ObjectKey, ObjectMeta, Patch, Store, Time, WorkQueue};
use serde_json::{Value, json};

use crate::children::{Family, each, observe, set_status, wanted_by};
use crate::context::{BY_CONTROLLER, Context, controller_index};
use crate::expectations::{Expectations, Written};
use crate::job::backoff::Backoff;
use crate::job::decide::{Action, Outcome, Pass, World};
use crate::views::{Job, JobStatus, Pod};

/// On pods that no status has counted yet.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Annotation and label with the pod's completion index.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Annotation with the failures of the index before this pod.
pub const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// Annotation with those failures of the index that a policy ignored.
pub const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// The value of `spec.managedBy` that means this controller.
const MANAGER: &str = "kubernetes.io/job-controller";
/// Changes of pods are looked at together.
const BATCH: Duration = Duration::from_secs(1);

/// The pod's completion index.
pub fn index_of(pod: &Pod) -> Option<u32> {
    pod.metadata.annotations.get(INDEX)?.parse().ok()
}

/// A count that users can write anything into: zero where it is none.
fn annotated(pod: &Pod, name: &str) -> i32 {
    let text = pod.metadata.annotations.get(name);
    text.and_then(|t| t.parse().ok())
        .filter(|n: &i32| *n >= 0)
        .unwrap_or(0)
}

/// Failures of the pod's index before it.
pub fn failures_of_index(pod: &Pod) -> i32 {
    annotated(pod, INDEX_FAILURES)
}

/// Those that a policy ignored.
pub fn ignored_failures_of_index(pod: &Pod) -> i32 {
    annotated(pod, IGNORED_FAILURES)
}

/// Whether the pod waits for being counted.
pub fn has_finalizer(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().any(|f| f == FINALIZER)
}

fn is_managed_elsewhere(job: &Job) -> bool {
    job.spec.managed_by.as_deref().is_some_and(|m| m != MANAGER)
}

/// What the controller remembers of a job from one pass to the next.
#[derive(Default)]
struct Memory {
    backoff: Backoff,
    /// UIDs whose finalizer was removed and whose cache does not show it yet.
    released: HashSet<String>,
    /// Of the job.
    uid: String,
}

struct Jobs {
    ctx: Context,
    jobs: Store<Job>,
    pods: Store<Pod>,
    queue: WorkQueue<ObjectKey>,
    /// Pods whose job will not remove their finalizers.
    orphans: WorkQueue<ObjectKey>,
    expectations: Expectations,
    written: Written,
    memory: Mutex<HashMap<ObjectKey, Memory>>,
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let jobs = ctx.informer::<Job>(&JOBS);
    let pods = ctx.informer::<Pod>(&PODS);
    pods.store()
        .add_index(BY_CONTROLLER, |p: &Pod| controller_index(&p.metadata));
    let (base, max) = (Duration::from_secs(1), Duration::from_secs(60));
    let queue = ctx.queue_with_limits("job", base, max);
    let orphans = ctx.queue_with_limits("job_orphan_pod", base, max);
    let c = Arc::new(Jobs {
        jobs: jobs.store(),
        pods: pods.store(),
        queue: queue.clone(),
        orphans: orphans.clone(),
        expectations: Expectations::default(),
        written: Written::default(),
        memory: Mutex::default(),
        ctx: ctx.clone(),
    });
    let it = c.clone();
    jobs.on_change(move |change| it.job_changed(change));
    let it = c.clone();
    pods.on_change(move |change| it.pod_changed(change));
    let workers = ctx.config.concurrent("job", 5);
    let it = c.clone();
    ctx.run(queue, workers, move |key| {
        let it = it.clone();
        async move { it.sync(&key).await }
    });
    ctx.run(orphans, workers, move |key| {
        let c = c.clone();
        async move { c.let_go(&key).await }
    });
}

impl Jobs {
    fn remember<T>(&self, key: &ObjectKey, f: impl FnOnce(&mut Memory) -> T) -> T {
        let mut all = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        f(all.entry(key.clone()).or_default())
    }

    fn forget(&self, key: &ObjectKey) {
        self.expectations.forget(key);
        self.written.forget(key);
        let mut all = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(key);
    }

    /// The job that controls an object, if it is the one in the cache.
    fn owner(&self, meta: &ObjectMeta) -> Option<Arc<Job>> {
        let owner = meta.controller().filter(|o| o.kind == "Job")?;
        self.jobs
            .get(&meta.namespace, &owner.name)
            .filter(|j| j.metadata.uid == owner.uid)
    }

    fn job_changed(&self, change: Change<'_, Job>) {
        let job = change.object();
        let key = ObjectKey::of(&**job);
        let gone = matches!(change, Change::Deleted(_));
        if gone || job.finished().is_some() {
            for pod in self.pods.by_index(BY_CONTROLLER, &job.metadata.uid) {
                if has_finalizer(&pod) {
                    self.orphans.add(ObjectKey::of(&*pod));
                }
            }
        }
        let same = change
            .old()
            .is_some_and(|old| old.metadata.generation == job.metadata.generation);
        if same && !gone {
            self.queue.add_after(key, BATCH);
        } else {
            self.queue.add(key);
        }
    }

    fn pod_changed(&self, change: Change<'_, Pod>) {
        let pod = change.object();
        let gone = matches!(change, Change::Deleted(_));
        let released = gone || !has_finalizer(pod);
        let owner = self.owner(&pod.metadata);
        let key_of = |meta: &ObjectMeta| self.owner(meta).map(|j| ObjectKey::of(&*j));
        let (lost, key) = observe(&self.expectations, key_of, change);
        for key in lost.iter().chain(&key) {
            if released {
                self.remember(key, |m| m.released.remove(&pod.metadata.uid));
            }
            self.queue.add_after(key.clone(), BATCH);
        }
        let by_job = pod.metadata.controller().is_none_or(|o| o.kind == "Job");
        if !released && by_job && owner.is_none_or(|j| j.finished().is_some()) {
            self.orphans.add(ObjectKey::of(&**pod));
        }
        let wanting = wanted_by(&self.jobs, change, |job, labels| {
            let selector = job.spec.selector.as_ref();
            selector.is_some_and(|s| s.matches(labels))
        });
        for key in wanting {
            self.queue.add_after(key, BATCH);
        }
    }

    /// Removes the finalizer of a pod whose job is gone or over.
    async fn let_go(&self, key: &ObjectKey) -> Result<Option<Duration>, client::Error> {
        let Some(pod) = self.pods.get_key(key).filter(|p| has_finalizer(p)) else {
            return Ok(None);
        };
        if let Some(owner) = pod.metadata.controller() {
            if owner.kind != "Job" || owner.api_version != JOBS.api_version() {
                return Ok(None);
            }
            let job = self.owner(&pod.metadata);
            if job.is_some_and(|j| is_managed_elsewhere(&j) || j.finished().is_none()) {
                return Ok(None);
            }
        }
        self.release(&pod).await?;
        Ok(None)
    }

    /// A pod that is gone is released.
    async fn release(&self, pod: &Pod) -> Result<(), client::Error> {
        let api = self.ctx.client.namespaced(&PODS, &pod.metadata.namespace);
        let patch = Patch::Strategic(json!({"metadata": {
            "uid": pod.metadata.uid,
            "$deleteFromPrimitiveList/finalizers": [FINALIZER],
        }}));
        match api
            .patch::<serde::de::IgnoredAny>(&pod.metadata.name, &patch)
            .await
        {
            Ok(_) => Ok(()),
            // Another pod of this name, too.
            Err(e) if e.is_not_found() || e.is_conflict() && !self.is_there(pod) => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn is_there(&self, pod: &Pod) -> bool {
        let now = self.pods.get(&pod.metadata.namespace, &pod.metadata.name);
        now.is_some_and(|p| p.metadata.uid == pod.metadata.uid)
    }

    async fn sync(&self, key: &ObjectKey) -> Result<Option<Duration>, client::Error> {
        let Some(job) = self.jobs.get_key(key) else {
            self.forget(key);
            return Ok(None);
        };
        if is_managed_elsewhere(&job) {
            return Ok(None);
        }
        if job.finished().is_some() {
            self.forget(key);
            return Ok(None);
        }
        let (released, backoff) = self.remember(key, |m| {
            if m.uid != job.metadata.uid {
                *m = Memory {
                    uid: job.metadata.uid.clone(),
                    ..Memory::default()
                };
            }
            (m.released.clone(), m.backoff)
        });
        // What this controller wrote is on its way into the cache, and brings the job back sooner.
        let shown = |_: &str| Some(job.metadata.resource_version.clone());
        if let Some(wait) = self.written.lag(key, shown) {
            return Ok(Some(wait));
        }
        let family = Family {
            ctx: &self.ctx,
            resource: &JOBS,
            owner: &job.metadata,
            finalizer: Some(FINALIZER),
        };
        let mode = job.spec.completion_mode.as_deref();
        if mode.is_some_and(|m| m != "NonIndexed" && m != "Indexed") {
            let message = "Skipped Job sync because completion mode is unknown";
            family.event(EventType::Warning, "UnknownCompletionMode", message.into());
            return Ok(None);
        }
        let settled = self.expectations.satisfied(key);
        let selector = job.spec.selector.as_ref();
        let matches = |p: &Pod| selector.is_some_and(|s| s.matches(&p.metadata.labels));
        let mut pods = family.claim(&PODS, &self.pods, matches, |_| true).await?;
        for pod in &mut pods {
            let adopted = pod.metadata.controller().is_none();
            if adopted && !has_finalizer(pod) {
                let mut now = (**pod).clone();
                now.metadata.finalizers.push(FINALIZER.into());
                *pod = Arc::new(now);
            }
        }
        let (mut pass, action) = Pass::begin(World {
            job: &job,
            pods,
            released,
            backoff,
            settled,
            now: Time::now(),
        });
        let (outcome, mut failed) = self.act(&family, key, &pass, &action).await;
        pass.acted(&action, outcome);
        let mut writer = Writer {
            jobs: self,
            key,
            job: &job,
            object: None,
        };
        let (release, flush) = pass.track();
        if flush {
            writer.write(&pass.status).await?;
            self.remember(key, |m| m.backoff = pass.backoff);
        }
        let (gone, stopped) = self.release_all(key, &release).await;
        let counted = pass.released(&gone);
        if let Some(e) = stopped {
            if counted {
                writer.write(&pass.status).await?;
            }
            return Err(e);
        }
        if pass.finish() {
            writer.write(&pass.status).await?;
        }
        for (kind, reason, message) in std::mem::take(&mut pass.events) {
            family.event(kind, &reason, message);
        }
        match failed.take() {
            Some(e) => Err(e),
            None => Ok(pass.again.map(|again| again.max(BATCH))),
        }
    }

    async fn act(
        &self,
        family: &Family<'_>,
        key: &ObjectKey,
        pass: &Pass<'_>,
        action: &Action,
    ) -> (Outcome, Option<client::Error>) {
        let (pods, expected) = match action {
            Action::None => return (Outcome::default(), None),
            Action::Create(indexes) => {
                let make = |n| pass.pod(indexes.get(n).copied().flatten());
                let made = family.create_pods(&self.expectations, key, indexes.len(), make);
                let (done, result) = made.await;
                return (Outcome { done, ready: 0 }, result.err());
            }
            Action::Delete(pods) => (pods, true),
            Action::End(pods) => (pods, false),
        };
        if expected {
            let uids = pods.iter().map(|p| p.metadata.uid.clone());
            self.expectations.expect_deletions(key, uids);
        }
        let deletions = pods.iter().map(|pod| async move {
            let result = async {
                if expected && has_finalizer(pod) {
                    self.release(pod).await?;
                }
                family
                    .delete_pod(&pod.metadata.name, &pod.metadata.uid)
                    .await
            };
            let result = result.await;
            if !matches!(result, Ok(true)) && expected {
                self.expectations.deleted(key, &pod.metadata.uid);
            }
            (pod.is_ready(), result)
        });
        let (mut outcome, mut failed) = (Outcome::default(), None);
        for (ready, result) in each(deletions).await {
            match result {
                Ok(_) => {
                    outcome.done += 1;
                    outcome.ready += usize::from(ready);
                }
                Err(e) => failed = failed.or(Some(e)),
            }
        }
        (outcome, failed)
    }

    /// Removes finalizers. The UIDs of the pods that have none now, and the first refusal.
    async fn release_all(
        &self,
        key: &ObjectKey,
        pods: &[Arc<Pod>],
    ) -> (HashSet<String>, Option<client::Error>) {
        let uids = || pods.iter().map(|p| p.metadata.uid.clone());
        self.remember(key, |m| m.released.extend(uids()));
        let released = pods.iter().map(|pod| self.release(pod));
        let results = each(released).await;
        let (mut gone, mut failed) = (HashSet::new(), None);
        for (uid, result) in uids().zip(results) {
            match result {
                Ok(()) => {
                    gone.insert(uid);
                }
                Err(e) => {
                    self.remember(key, |m| m.released.remove(&uid));
                    failed = failed.or(Some(e));
                }
            }
        }
        (gone, failed)
    }
}

/// Writes the status of a job, each time over the version that the pass was made from or wrote before.
struct Writer<'a> {
    jobs: &'a Jobs,
    key: &'a ObjectKey,
    job: &'a Job,
    object: Option<Value>,
}

impl Writer<'_> {
    async fn write(&mut self, status: &JobStatus) -> Result<(), client::Error> {
        let api = self.jobs.ctx.client.namespaced(&JOBS, &self.key.namespace);
        let text = |o: &Value, at: &str| {
            let text = o.pointer(at).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        let mut object = match self.object.take() {
            Some(object) => object,
            None => {
                let mut object = api.get_value(&self.key.name).await?;
                // A newer version than the pass was made from is refused by the apiserver.
                if let Some(m) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                    let meta = &self.job.metadata;
                    m.insert(
                        "resourceVersion".into(),
                        meta.resource_version.as_str().into(),
                    );
                    m.insert("uid".into(), meta.uid.as_str().into());
                }
                object
            }
        };
        let status = serde_json::to_value(status).unwrap_or_default();
        if !set_status(&mut object, &status) {
            self.object = Some(object);
            return Ok(());
        }
        let written: Value = api
            .update_subresource(&self.key.name, "status", &object)
            .await?;
        let version = text(&written, "/metadata/resourceVersion");
        self.jobs.written.wrote(self.key, &self.key.name, &version);
        self.object = Some(written);
        Ok(())
    }
}
