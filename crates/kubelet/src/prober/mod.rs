//! Probes: one task per container and probe, results by container id.
//!
//! A result changes only after the threshold of equal outcomes; each change wakes the pod's worker. Liveness and
//! readiness wait for the startup probe. A container that is replaced gets new tasks; results of old ids are dropped.

pub mod action;
pub mod http;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::cri::Runtime;
use crate::pod::{Container, ContainerStatus, Pod, Probe};
use crate::runtime::ID_PREFIX;
use crate::runtime::actions::Probes;
use crate::runtime::state::{Phase, RuntimePod};
use crate::status::generate::Readiness;
use action::Outcome;

/// The three sorts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Kills the container when it fails.
    Liveness,
    /// Takes the pod out of services when it fails.
    Readiness,
    /// Holds the other two back until it succeeds; kills when it fails.
    Startup,
}

impl Kind {
    /// As in event messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
            Kind::Startup => "Startup",
        }
    }

    /// The container's probe of this sort.
    pub fn of(self, c: &Container) -> Option<&Probe> {
        match self {
            Kind::Liveness => c.liveness_probe.as_ref(),
            Kind::Readiness => c.readiness_probe.as_ref(),
            Kind::Startup => c.startup_probe.as_ref(),
        }
    }
}

/// Results by container id and sort.
#[derive(Default)]
pub struct Results(Mutex<HashMap<(String, Kind), bool>>);

impl Results {
    fn lock(&self) -> MutexGuard<'_, HashMap<(String, Kind), bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, id: &str, kind: Kind) -> Option<bool> {
        self.lock().get(&(id.to_string(), kind)).copied()
    }

    /// Stores a result; gives whether it is new.
    fn set(&self, id: &str, kind: Kind, ok: bool) -> bool {
        self.lock().insert((id.to_string(), kind), ok) != Some(ok)
    }
}

impl Probes for Results {
    fn liveness(&self, id: &str) -> Option<bool> {
        self.get(id, Kind::Liveness)
    }
    fn startup(&self, id: &str) -> Option<bool> {
        self.get(id, Kind::Startup)
    }
}

impl Readiness for Results {
    fn started(&self, id: &str) -> Option<bool> {
        self.get(id, Kind::Startup)
    }
    fn ready(&self, id: &str) -> Option<bool> {
        self.get(id, Kind::Readiness)
    }
}

struct Task {
    id: String,
    abort: AbortHandle,
}

/// Receives what probes find: pod, container name, warning, reason, message.
pub type Emit = Arc<dyn Fn(&Pod, &str, bool, &'static str, String) + Send + Sync>;
/// Wakes the worker of a pod.
pub type Wake = Arc<dyn Fn(&str) + Send + Sync>;

/// Runs the probes of this node.
pub struct Prober {
    rt: Arc<dyn Runtime>,
    /// The results.
    pub results: Arc<Results>,
    tasks: Mutex<HashMap<(String, String, Kind), Task>>,
    emit: Emit,
    wake: Wake,
}

impl Prober {
    /// With no probe running.
    pub fn new(rt: Arc<dyn Runtime>, emit: Emit, wake: Wake) -> Prober {
        Prober {
            rt,
            results: Arc::default(),
            tasks: Mutex::default(),
            emit,
            wake,
        }
    }

    fn tasks(&self) -> MutexGuard<'_, HashMap<(String, String, Kind), Task>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the tasks of a pod in line with its running containers.
    ///
    /// `host_ip` is where pods in the node's network are reached. `old` is the status before, so that a restarted kubelet starts from the readiness its containers had.
    pub fn sync(&self, pod: &Arc<Pod>, rt: &RuntimePod, old: &[ContainerStatus], host_ip: &str) {
        let uid = &pod.metadata.uid;
        let ip = rt.ips().first().cloned().unwrap_or_default();
        for c in pod
            .spec
            .init_containers
            .iter()
            .filter(|c| c.is_sidecar())
            .chain(&pod.spec.containers)
        {
            for kind in [Kind::Startup, Kind::Liveness, Kind::Readiness] {
                let key = (uid.clone(), c.name.clone(), kind);
                let Some(probe) = kind.of(c) else { continue };
                let Some(record) = rt.find(&c.name).filter(|r| r.phase == Phase::Running) else {
                    self.stop(&key);
                    continue;
                };
                let mut tasks = self.tasks();
                // A task that has ended has said its last word about this id.
                if tasks.get(&key).is_some_and(|t| t.id == record.id) {
                    continue;
                }
                if let Some(t) = tasks.remove(&key) {
                    t.abort.abort();
                    self.results.lock().remove(&(t.id, kind));
                }
                let before = old
                    .iter()
                    .find(|o| o.container_id.strip_prefix(ID_PREFIX) == Some(&record.id));
                match kind {
                    Kind::Startup if before.is_some_and(|b| b.started == Some(true)) => {
                        self.results.set(&record.id, kind, true);
                        continue;
                    }
                    Kind::Startup => {}
                    Kind::Liveness => {
                        self.results.set(&record.id, kind, true);
                    }
                    Kind::Readiness => {
                        self.results
                            .set(&record.id, kind, before.is_some_and(|b| b.ready));
                    }
                }
                let started = jiff::Timestamp::from_nanosecond(i128::from(record.started_at))
                    .unwrap_or(jiff::Timestamp::UNIX_EPOCH);
                let age = jiff::Timestamp::now()
                    .duration_since(started)
                    .unsigned_abs();
                let run = Run {
                    rt: self.rt.clone(),
                    results: self.results.clone(),
                    pod: pod.clone(),
                    container: c.clone(),
                    id: record.id.clone(),
                    ip: if pod.spec.host_network {
                        host_ip.to_string()
                    } else {
                        ip.clone()
                    },
                    kind,
                    probe: probe.clone(),
                    emit: self.emit.clone(),
                    wake: self.wake.clone(),
                };
                let task = tokio::spawn(run.run(age));
                tasks.insert(
                    key,
                    Task {
                        id: record.id.clone(),
                        abort: task.abort_handle(),
                    },
                );
            }
        }
    }

    fn stop(&self, key: &(String, String, Kind)) {
        if let Some(t) = self.tasks().remove(key) {
            t.abort.abort();
            self.results.lock().remove(&(t.id, key.2));
        }
    }

    /// Ends what could kill containers of a pod that is being terminated.
    pub fn stop_killing(&self, uid: &str) {
        self.tasks().retain(|(u, _, kind), t| {
            let stop = u == uid && *kind != Kind::Readiness;
            if stop {
                t.abort.abort();
            }
            !stop
        });
    }

    /// Ends the probes of a container that has been stopped.
    pub fn stop_container(&self, uid: &str, id: &str) {
        let tasks = self.tasks();
        for (_, t) in tasks.iter().filter(|((u, ..), t)| u == uid && t.id == id) {
            t.abort.abort();
        }
    }

    /// Ends all probes of a pod and forgets their results.
    pub fn forget(&self, uid: &str) {
        // The same order of locks as in `sync`.
        let mut tasks = self.tasks();
        let mut results = self.results.lock();
        tasks.retain(|(u, _, kind), t| {
            if u == uid {
                t.abort.abort();
                results.remove(&(t.id.clone(), *kind));
            }
            u != uid
        });
    }
}

struct Run {
    rt: Arc<dyn Runtime>,
    results: Arc<Results>,
    pod: Arc<Pod>,
    container: Container,
    id: String,
    ip: String,
    kind: Kind,
    probe: Probe,
    emit: Emit,
    wake: Wake,
}

fn seconds(s: i32, least: u64) -> Duration {
    Duration::from_secs(u64::try_from(s).unwrap_or(0).max(least))
}

impl Run {
    async fn run(self, age: Duration) {
        let period = seconds(self.probe.period_seconds, 1);
        let delay = seconds(self.probe.initial_delay_seconds, 0).saturating_sub(age);
        tokio::time::sleep(delay).await;
        let mut streak = (true, 0);
        let mut next = Instant::now();
        loop {
            tokio::time::sleep_until(next).await;
            next = Instant::now() + period;
            if self.kind != Kind::Startup
                && self.container.startup_probe.is_some()
                && self.results.startup(&self.id) != Some(true)
            {
                // Held back; look again soon after the startup probe may have passed.
                next = Instant::now() + Duration::from_millis(200);
                continue;
            }
            // A probe that could not be made says nothing about the container.
            let Some(ok) = self.once().await else {
                continue;
            };
            streak = if streak.0 == ok {
                (ok, streak.1 + 1)
            } else {
                (ok, 1)
            };
            let threshold = if ok {
                self.probe.success_threshold
            } else {
                self.probe.failure_threshold
            };
            if streak.1 < threshold.max(1) {
                continue;
            }
            if self.results.set(&self.id, self.kind, ok) {
                (self.wake)(&self.pod.metadata.uid);
            }
            match (self.kind, ok) {
                // The container is going to be replaced, or has started: nothing more to find out about this id.
                (Kind::Liveness | Kind::Startup, false) | (Kind::Startup, true) => return,
                _ => {}
            }
        }
    }

    /// One round of attempts; `None` when the probe could not be made.
    async fn once(&self) -> Option<bool> {
        let timeout = seconds(self.probe.timeout_seconds, 1);
        let mut outcome = Outcome::Error(String::new());
        for _ in 0..3 {
            outcome = action::probe(
                &*self.rt,
                &self.probe,
                &self.container,
                &self.id,
                &self.ip,
                timeout,
            )
            .await;
            if !matches!(outcome, Outcome::Error(_)) {
                break;
            }
        }
        let kind = self.kind.as_str();
        match outcome {
            Outcome::Success => Some(true),
            Outcome::Warning(text) => {
                (self.emit)(
                    &self.pod,
                    &self.container.name,
                    true,
                    "ProbeWarning",
                    format!("{kind} probe warning: {text}"),
                );
                Some(true)
            }
            Outcome::Failure(text) => {
                (self.emit)(
                    &self.pod,
                    &self.container.name,
                    true,
                    "Unhealthy",
                    format!("{kind} probe failed: {text}"),
                );
                Some(false)
            }
            Outcome::Error(text) => {
                let message = format!("{kind} probe errored and resulted in unknown state: {text}");
                (self.emit)(&self.pod, &self.container.name, true, "Unhealthy", message);
                None
            }
        }
    }
}
