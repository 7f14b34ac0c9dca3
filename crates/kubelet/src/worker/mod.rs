//! Pod workers: one task per pod, from the first sight of it to the last trace.
//!
//! Invariants:
//! - A pod's containers are started and stopped by its worker alone, one thing at a time.
//! - Once termination has begun nothing of the pod is started again.
//! - A pod is deleted at the apiserver only when nothing of it runs and its volumes are gone.
//! - A worker of a static pod waits for the one before it of the same name.

pub mod kill;
pub mod start;
pub mod sync;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::pod::{Pod, PodStatus, Terminated};
use crate::runtime::state;
use crate::shared::Shared;
use crate::status::generate::StartFailure;

/// Wait after a failed sync.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// Longest grace, in seconds, of a pod that its source no longer has.
pub const GONE_GRACE: i64 = 3600;
/// Wait between tries to clean up a terminated pod.
const CLEANUP_RETRY: Duration = Duration::from_secs(1);

/// What a worker is to do, the latest word.
#[derive(Clone, Debug)]
pub struct Target {
    /// The pod as its source has it.
    pub pod: Arc<Pod>,
    /// Gone from its source.
    pub removed: bool,
    /// Must end for a reason of the node: status reason, message and grace in seconds.
    pub evict: Option<Eviction>,
}

/// An order to end a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// Reason of the Failed phase.
    pub reason: String,
    /// Message.
    pub message: String,
    /// Grace in seconds; `None` for the pod's own.
    pub grace: Option<i64>,
    /// Refused before anything was started.
    pub rejected: bool,
}

impl Target {
    fn ends(&self) -> bool {
        self.removed
            || self.evict.is_some()
            || self.pod.metadata.deletion_timestamp.is_some()
            || self.pod.is_finished()
    }

    /// Seconds the pod may take to end: the eviction's, else the pod's own.
    ///
    /// What is gone from its source can be given no shorter grace any more, so it has [`GONE_GRACE`] at most.
    fn grace(&self) -> i64 {
        let own = match self.evict.as_ref().and_then(|e| e.grace) {
            Some(g) => crate::pod::grace(g),
            None => self.pod.grace_seconds(),
        };
        if self.removed {
            own.min(GONE_GRACE)
        } else {
            own
        }
    }
}

struct Handle {
    tx: watch::Sender<Target>,
    wake: Arc<Notify>,
    /// Set when nothing of the pod can run any more.
    terminated: bool,
    /// When the pod was first seen, for ordering.
    seen: Instant,
}

/// All workers.
pub struct Workers {
    shared: Arc<Shared>,
    workers: Mutex<HashMap<String, Handle>>,
    /// Told whenever a worker ends or terminates.
    changed: watch::Sender<u64>,
}

impl Workers {
    /// None yet.
    pub fn new(shared: Arc<Shared>) -> Arc<Workers> {
        Arc::new(Workers {
            shared,
            workers: Mutex::default(),
            changed: watch::Sender::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Handle>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands the pod to its worker, starting one when there is none.
    pub fn update(self: &Arc<Self>, pod: Arc<Pod>, evict: Option<Eviction>) {
        let uid = pod.metadata.uid.clone();
        let mut workers = self.lock();
        if let Some(h) = workers.get(&uid) {
            h.tx.send_modify(|t| {
                t.pod = pod;
                if t.evict.is_none() {
                    t.evict = evict;
                }
            });
            return;
        }
        let (tx, rx) = watch::channel(Target {
            pod,
            removed: false,
            evict,
        });
        let wake = Arc::new(Notify::new());
        workers.insert(
            uid.clone(),
            Handle {
                tx,
                wake: wake.clone(),
                terminated: false,
                seen: Instant::now(),
            },
        );
        drop(workers);
        let me = self.clone();
        tokio::spawn(async move {
            let stop = me.shared.stop.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                () = without_panics(&uid, || run(&me, rx.clone(), wake.clone())) => {
                    me.lock().remove(&uid);
                    me.changed.send_modify(|v| *v += 1);
                }
            }
        });
    }

    /// The pod is gone from its source: its worker ends it and itself.
    pub fn remove(&self, uid: &str) {
        if let Some(h) = self.lock().get(uid) {
            h.tx.send_modify(|t| t.removed = true);
        }
    }

    /// Orders a pod to end.
    pub fn evict(&self, uid: &str, e: Eviction) {
        if let Some(h) = self.lock().get(uid) {
            h.tx.send_modify(|t| {
                t.evict.get_or_insert(e);
            });
        }
    }

    /// Makes a worker look at its pod.
    pub fn wake(&self, uid: &str) {
        if let Some(h) = self.lock().get(uid) {
            h.wake.notify_one();
        }
    }

    /// Whether the pod has a worker.
    pub fn contains(&self, uid: &str) -> bool {
        self.lock().contains_key(uid)
    }

    /// The pods, those whose resources are in use only, if asked; oldest first.
    pub fn pods(&self, active_only: bool) -> Vec<Arc<Pod>> {
        let workers = self.lock();
        let mut list: Vec<_> = workers
            .values()
            .filter(|h| {
                !active_only
                    || !(h.terminated || h.tx.borrow().evict.as_ref().is_some_and(|e| e.rejected))
            })
            .map(|h| (h.seen, h.tx.borrow().pod.clone()))
            .collect();
        list.sort_by_key(|(seen, _)| *seen);
        list.into_iter().map(|(_, p)| p).collect()
    }

    /// The pod of that UID.
    pub fn pod(&self, uid: &str) -> Option<Arc<Pod>> {
        self.lock().get(uid).map(|h| h.tx.borrow().pod.clone())
    }

    /// The newest pod of that name.
    pub fn by_name(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.pods(false)
            .into_iter()
            .rfind(|p| p.metadata.name == name && p.metadata.namespace == namespace)
    }

    fn older_of_same_name(&self, pod: &Pod) -> bool {
        let workers = self.lock();
        let own = workers.get(&pod.metadata.uid).map(|h| h.seen);
        workers.values().any(|h| {
            let other = h.tx.borrow().pod.clone();
            !h.terminated
                && other.metadata.uid != pod.metadata.uid
                && other.metadata.name == pod.metadata.name
                && other.metadata.namespace == pod.metadata.namespace
                && own.is_some_and(|o| h.seen < o)
        })
    }

    fn set_terminated(&self, uid: &str) {
        if let Some(h) = self.lock().get_mut(uid) {
            h.terminated = true;
        }
        self.changed.send_modify(|v| *v += 1);
    }

    /// Told whenever a worker ends or terminates.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// What a worker remembers of its pod between syncs.
#[derive(Default)]
pub struct Memory {
    /// Why containers could not be started, by name.
    pub failures: HashMap<String, StartFailure>,
    /// Crash back-off by container name.
    pub backoff: HashMap<String, sync::Backoff>,
    /// Containers whose preStop hook was run.
    pub hooked: std::collections::HashSet<String>,
    /// The pod was seen running before this kubelet touched it.
    pub started: bool,
    /// Volumes of the last sync.
    pub last_mount_error: Option<String>,
}

/// Runs `work` to its end. What panics begins again after a while: a pod without a worker would never be deleted, a kubelet
/// without a loop would look alive, and no pod may end the others.
pub async fn without_panics<F: Future<Output = ()>>(what: &str, work: impl Fn() -> F) {
    use futures::FutureExt as _;
    let mut wait = RETRY_FIRST;
    while std::panic::AssertUnwindSafe(work())
        .catch_unwind()
        .await
        .is_err()
    {
        tracing::error!(what, "panicked and begins again");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}

async fn run(workers: &Arc<Workers>, mut rx: watch::Receiver<Target>, wake: Arc<Notify>) {
    let shared = workers.shared.clone();
    let mut memory = Memory::default();
    let uid = rx.borrow().pod.metadata.uid.clone();

    // A static pod that was changed waits until the one before it is gone.
    let mut changes = workers.changes();
    loop {
        let target = rx.borrow_and_update().clone();
        if !target.pod.is_static() || target.ends() || !workers.older_of_same_name(&target.pod) {
            break;
        }
        tokio::select! {
            _ = changes.changed() => {}
            r = rx.changed() => if r.is_err() { return },
        }
    }
    let first = rx.borrow().pod.clone();
    if let Some(o) = &shared.objects
        && !first.is_static()
    {
        o.register(&first);
    }

    let mut retry = RETRY_FIRST;
    let mut finished = false;
    while !finished {
        let target = rx.borrow_and_update().clone();
        if target.ends() {
            break;
        }
        let next = {
            let work = sync::sync(&shared, &target.pod, &mut memory);
            tokio::pin!(work);
            loop {
                tokio::select! {
                    r = &mut work => break r,
                    r = rx.changed() => {
                        if r.is_err() {
                            return;
                        }
                        if rx.borrow().ends() {
                            // Starting is given up; what was started is found in the runtime and stopped below.
                            break Ok(sync::Next::Wait(None));
                        }
                        // Looked at again after this sync.
                        wake.notify_one();
                    }
                }
            }
        };
        if rx.borrow().ends() {
            break;
        }
        let wait = match next {
            Ok(sync::Next::Finished) => {
                finished = true;
                continue;
            }
            Ok(sync::Next::Evict(e)) => {
                workers.evict(&uid, e);
                continue;
            }
            Ok(sync::Next::Wait(at)) => {
                retry = RETRY_FIRST;
                at
            }
            Err(e) => {
                tracing::warn!(pod = %target.pod.key(), %uid, error = %e, "syncing the pod failed");
                let at = Instant::now() + retry;
                retry = (retry * 2).min(RETRY_MAX);
                Some(at)
            }
        };
        // Whatever was missed is seen then; pods that began together are not looked at together.
        let again = shared
            .settings
            .sync_frequency
            .mul_f64(rand::random_range(1.0..1.5));
        let again = wait.map_or(again, |at| {
            at.saturating_duration_since(Instant::now()).min(again)
        });
        tokio::select! {
            r = rx.changed() => if r.is_err() { return },
            () = wake.notified() => {}
            () = tokio::time::sleep(again) => {}
        }
        if let Some(o) = &shared.objects
            && !target.pod.is_static()
        {
            let pod = rx.borrow().pod.clone();
            if pod.spec.ephemeral_containers.len() != target.pod.spec.ephemeral_containers.len() {
                o.register(&pod);
            }
        }
    }

    terminate(workers, &mut rx, &wake, &mut memory).await;
    workers.set_terminated(&uid);
    let last = rx.borrow().pod.clone();
    clean_up(&shared, &last).await;
    shared.status.finish(&last);

    // The record stays until the source drops the pod, so that its containers' logs can be read.
    loop {
        let target = rx.borrow_and_update().clone();
        if target.removed {
            break;
        }
        if target.pod.metadata.deletion_timestamp.is_some() {
            shared.status.observe(&target.pod);
            shared.status.finish(&target.pod);
        }
        if rx.changed().await.is_err() {
            return;
        }
    }
    let last = rx.borrow().pod.clone();
    remove_traces(&shared, &last).await;
    shared.status.remove(&uid);
}

/// Stops everything of the pod; returns when nothing runs.
async fn terminate(
    workers: &Arc<Workers>,
    rx: &mut watch::Receiver<Target>,
    wake: &Notify,
    memory: &mut Memory,
) {
    let shared = &workers.shared;
    let uid = rx.borrow().pod.metadata.uid.clone();
    shared.prober.stop_killing(&uid);
    let mut deadline: Option<Instant> = None;
    loop {
        let target = rx.borrow_and_update().clone();
        if let Some(e) = target.evict.as_ref().filter(|e| e.rejected) {
            shared
                .status
                .set(&target.pod, rejected_status(&target.pod, e));
            return;
        }
        let grace = target.grace();
        let by = Instant::now() + component::duration::seconds(grace);
        let by = deadline.map_or(by, |d| d.min(by));
        deadline = Some(by);
        let failed = target
            .evict
            .as_ref()
            .map(|e| (e.reason.clone(), e.message.clone()));
        let Ok(rt) = state::read(&*shared.rt, &uid).await else {
            tokio::time::sleep(CLEANUP_RETRY).await;
            continue;
        };
        let idle = !rt
            .containers
            .iter()
            .any(|c| c.phase != state::Phase::Exited)
            && !rt.sandboxes.iter().any(|s| s.ready);
        if target.pod.is_finished() && idle {
            // Over before this kubelet saw it: the apiserver has the last word on its status.
            shared.prober.forget(&uid);
            return;
        }
        sync::publish(
            shared,
            &target.pod,
            &rt,
            memory,
            sync::Stage::Terminating,
            failed.clone(),
        );
        let killed = {
            let work = kill::pod(shared, &target.pod, &rt, by, memory);
            tokio::pin!(work);
            loop {
                tokio::select! {
                    r = &mut work => break Some(r),
                    r = rx.changed() => {
                        if r.is_err() {
                            return;
                        }
                        let now = rx.borrow().grace();
                        if now < grace {
                            break None;
                        }
                    }
                    () = wake.notified() => {
                        if let Ok(rt) = state::read(&*shared.rt, &uid).await {
                            let pod = rx.borrow().pod.clone();
                            sync::publish_status(shared, &pod, &rt, &HashMap::new(), sync::Stage::Terminating, failed.clone());
                        }
                    }
                }
            }
        };
        match killed {
            None => continue,
            Some(Err(e)) => {
                tracing::warn!(pod = %target.pod.key(), error = %e, "stopping the pod failed");
                shared.event(
                    &target.pod,
                    true,
                    "FailedKillPod",
                    format!("error killing pod: {e}"),
                );
                tokio::time::sleep(CLEANUP_RETRY).await;
                continue;
            }
            Some(Ok(())) => {}
        }
        let Ok(rt) = state::read(&*shared.rt, &uid).await else {
            tokio::time::sleep(CLEANUP_RETRY).await;
            continue;
        };
        if rt.running().any(|c| c.phase == state::Phase::Running)
            || rt.sandboxes.iter().any(|s| s.ready)
        {
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        }
        let pod = rx.borrow().pod.clone();
        sync::publish_status(
            shared,
            &pod,
            &rt,
            &HashMap::new(),
            sync::Stage::Terminated,
            failed,
        );
        if let Some(mut s) = shared.status.get(&uid) {
            settle(&pod, &mut s);
            shared.status.set(&pod, s);
        }
        shared.prober.forget(&uid);
        return;
    }
}

/// The status of a pod the node did not admit.
fn rejected_status(pod: &Pod, e: &Eviction) -> PodStatus {
    PodStatus {
        observed_generation: pod.metadata.generation,
        qos_class: pod.qos().as_str().into(),
        phase: "Failed".into(),
        reason: e.reason.clone(),
        message: format!("Pod was rejected: {}", e.message),
        start_time: pod
            .status
            .start_time
            .clone()
            .or_else(|| Some(client::view::print_time(jiff::Timestamp::now()))),
        conditions: pod.status.conditions.clone(),
        ..PodStatus::default()
    }
}

/// A pod that has ended leaves no container without an end, and has a final phase.
fn settle(pod: &Pod, s: &mut PodStatus) {
    let unknown = || Terminated {
        reason: "ContainerStatusUnknown".into(),
        message: "The container could not be located when the pod was terminated".into(),
        exit_code: 137,
        ..Default::default()
    };
    let initialized = pod.spec.init_containers.is_empty()
        || s.container_statuses
            .iter()
            .any(|c| c.last_state.terminated.is_some() || c.state.waiting.is_none());
    let rejected = s.container_statuses.is_empty();
    if initialized && !rejected {
        for c in s
            .container_statuses
            .iter_mut()
            .filter(|c| c.state.terminated.is_none())
        {
            c.state = crate::pod::State {
                terminated: Some(unknown()),
                ..Default::default()
            };
            c.ready = false;
            c.started = Some(false);
        }
    }
    if !pod.is_static() && !matches!(s.phase.as_str(), "Succeeded" | "Failed") {
        s.phase = "Failed".into();
    }
}

/// Removes volumes and cgroups, until it is done.
async fn clean_up(shared: &Arc<Shared>, pod: &Pod) {
    let uid = &pod.metadata.uid;
    loop {
        let dir = shared.settings.pod_dir(uid);
        let volumes = tokio::task::spawn_blocking(move || crate::volumes::tear_down(&dir))
            .await
            .unwrap_or_else(|e| Err(std::io::Error::other(e)));
        let cgroup = shared.cgroups.remove_pod(uid);
        match (volumes, cgroup) {
            (Ok(()), Ok(true)) => break,
            (v, c) => {
                let error = v
                    .err()
                    .or(c.err())
                    .map_or("processes are left in its cgroup".to_string(), |e| {
                        e.to_string()
                    });
                tracing::warn!(pod = %pod.key(), error, "cleaning up the pod failed; trying again");
                tokio::time::sleep(CLEANUP_RETRY).await;
            }
        }
    }
    shared.images.forget(uid);
    if let Some(o) = &shared.objects {
        o.unregister(uid);
    }
    if let Some(t) = &shared.tokens {
        t.forget(uid);
    }
    if let Some(c) = &shared.claims {
        c.forget(uid);
    }
}

/// Removes containers, sandboxes, logs and directories of a pod that is gone.
async fn remove_traces(shared: &Arc<Shared>, pod: &Pod) {
    let m = &pod.metadata;
    crate::gc::remove_runtime(shared, &m.uid).await;
    let dir = shared.settings.pod_dir(&m.uid);
    let logs = shared
        .settings
        .pod_logs_dir
        .join(format!("{}_{}_{}", m.namespace, m.name, m.uid));
    let _ = tokio::task::spawn_blocking(move || {
        if crate::volumes::mounts_below(&dir).is_empty() {
            let _ = std::fs::remove_dir_all(&dir);
        }
        let _ = std::fs::remove_dir_all(&logs);
    })
    .await;
}
