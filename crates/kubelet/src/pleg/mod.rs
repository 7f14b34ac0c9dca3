//! What changed in the runtime: a relist on events, on a timer as the fallback, and workers woken for their pods.
//!
//! While an event stream is open the timer is slow (30 s); without one it is 1 s, as upstream's. Pods in the runtime that
//! no source knows are handed to the collector once all sources have been read.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::cri::proto::{ContainerFilter, PodSandboxFilter};
use crate::runtime::state::{POD_UID, Phase};
use crate::shared::Shared;

/// Relist period without events.
const FAST: Duration = Duration::from_secs(1);
/// Relist period with events.
const SLOW: Duration = Duration::from_secs(30);
/// Shortest time between two relists.
const PAUSE: Duration = Duration::from_millis(20);
/// Relists after an event, besides the one at once: the runtime tells of an end before its own records show it.
const AGAIN: [Duration; 3] = [
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_millis(1000),
];
/// Relists that fail for longer make the node not ready.
const UNHEALTHY_AFTER: i64 = 180;

/// State of a container or sandbox by id.
type Seen = HashMap<String, (String, u8)>;

/// The generator.
pub struct Pleg {
    shared: Arc<Shared>,
    /// Woken for an early relist.
    pub wake: Arc<Notify>,
    last_ok: AtomicI64,
    uids: Mutex<BTreeSet<String>>,
    durations: Arc<component::metrics::Histogram>,
}

impl Pleg {
    /// For this runtime.
    pub fn new(shared: Arc<Shared>) -> Arc<Pleg> {
        let durations = shared
            .metrics
            .histogram(
                "kubelet_pleg_relist_duration_seconds",
                "[ALPHA] Duration in seconds for relisting pods in PLEG.",
                &[],
                &[
                    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
                ],
            )
            .get();
        Arc::new(Pleg {
            shared,
            wake: Arc::default(),
            last_ok: AtomicI64::new(jiff::Timestamp::now().as_second()),
            uids: Mutex::default(),
            durations,
        })
    }

    /// Whether the last good relist is recent.
    pub fn healthy(&self) -> Result<(), String> {
        let age = jiff::Timestamp::now().as_second() - self.last_ok.load(Ordering::Relaxed);
        if age > UNHEALTHY_AFTER {
            let shown = component::duration::format(Duration::from_secs(age.unsigned_abs()));
            return Err(format!(
                "PLEG is not healthy: pleg was last seen active {shown} ago; threshold is 3m0s"
            ));
        }
        Ok(())
    }

    /// UIDs the runtime knew at the last relist.
    pub fn uids(&self) -> BTreeSet<String> {
        self.uids
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Runs until dropped; `changed` is told the UID of each pod with a change, `relisted` when a relist is over.
    pub async fn run(
        &self,
        connected: watch::Receiver<bool>,
        changed: impl Fn(&str),
        relisted: impl Fn(),
    ) {
        let mut seen: Seen = HashMap::new();
        let mut first = true;
        let mut again = AGAIN.iter();
        loop {
            let begun = Instant::now();
            match self.list().await {
                Ok(now) => {
                    self.durations.observe(begun.elapsed().as_secs_f64());
                    self.last_ok
                        .store(jiff::Timestamp::now().as_second(), Ordering::Relaxed);
                    let mut pods: BTreeSet<&str> = BTreeSet::new();
                    for (id, state) in &now {
                        if seen.get(id) != Some(state) {
                            pods.insert(&state.0);
                        }
                    }
                    for (id, state) in &seen {
                        if !now.contains_key(id) {
                            pods.insert(&state.0);
                        }
                    }
                    if !first {
                        pods.iter().for_each(|p| changed(p));
                    }
                    *self.uids.lock().unwrap_or_else(PoisonError::into_inner) =
                        now.values().map(|(u, _)| u.clone()).collect();
                    seen = now;
                    first = false;
                    relisted();
                }
                Err(e) => tracing::warn!(error = %e, "relisting the runtime failed"),
            }
            tokio::time::sleep(PAUSE).await;
            let period = match again.next() {
                Some(soon) => *soon,
                None if *connected.borrow() => SLOW,
                None => FAST,
            };
            tokio::select! {
                () = self.wake.notified() => again = AGAIN.iter(),
                () = tokio::time::sleep(period) => {}
            }
        }
    }

    async fn list(&self) -> crate::cri::Result<Seen> {
        let rt = &self.shared.rt;
        let (sandboxes, containers) = futures::try_join!(
            rt.list_pod_sandbox(PodSandboxFilter::default()),
            rt.list_containers(ContainerFilter::default())
        )?;
        let mut out = HashMap::with_capacity(sandboxes.len() + containers.len());
        for s in sandboxes {
            if let Some(uid) = s.labels.get(POD_UID) {
                out.insert(s.id, (uid.clone(), 10 + u8::try_from(s.state).unwrap_or(9)));
            }
        }
        for c in containers {
            if let Some(uid) = c.labels.get(POD_UID) {
                let phase = match Phase::from_cri(c.state) {
                    Phase::Created => 0,
                    Phase::Running => 1,
                    Phase::Exited => 2,
                    Phase::Unknown => 3,
                };
                out.insert(c.id, (uid.clone(), phase));
            }
        }
        Ok(out)
    }
}
