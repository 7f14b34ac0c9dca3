//! Collecting what nobody needs: dead containers and sandboxes, orphaned pods, images when the disk fills.
//!
//! Per container one dead instance is kept for its logs and last state; a dead sandbox is kept while it is the pod's
//! newest. Pods no source knows are stopped and removed with their directories and cgroups.

pub mod images;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::runtime::state::{self, ContainerRecord, Phase, RuntimePod};
use crate::shared::Shared;
use crate::worker::GONE_GRACE;

/// Removes every container and sandbox of a pod that is gone.
pub async fn remove_runtime(shared: &Arc<Shared>, uid: &str) {
    let Ok(rt) = state::read(&*shared.rt, uid).await else {
        return;
    };
    for c in &rt.containers {
        if let Err(e) = shared.rt.remove_container(&c.id).await {
            tracing::debug!(container = %c.id, error = %e, "removing a container failed");
        }
        remove_log_link(shared, &c.id);
    }
    for s in &rt.sandboxes {
        let _ = shared.rt.stop_pod_sandbox(&s.id).await;
        if let Err(e) = shared.rt.remove_pod_sandbox(&s.id).await {
            tracing::debug!(sandbox = %s.id, error = %e, "removing a sandbox failed");
        }
    }
}

/// Seconds that a container is given which nobody speaks for any more: those it was made with, within bounds.
fn own_grace(c: &ContainerRecord) -> i64 {
    crate::pod::grace(c.grace.unwrap_or(30)).min(GONE_GRACE)
}

/// Stops and removes a pod that only the runtime knows, with the grace its containers were made with.
pub async fn orphan(shared: &Arc<Shared>, uid: &str) {
    let Ok(rt) = state::read(&*shared.rt, uid).await else {
        return;
    };
    tracing::info!(pod = %format!("{}/{}", rt.namespace, rt.name), uid, "removing a pod that no source knows");
    let stops = rt
        .running()
        .map(|c| shared.rt.stop_container(&c.id, own_grace(c)));
    futures::future::join_all(stops).await;
    remove_runtime(shared, uid).await;
}

/// Ids of dead containers and sandboxes of a living pod that are no longer needed. Pure.
pub fn surplus(rt: &RuntimePod) -> (Vec<String>, Vec<String>) {
    let mut kept: BTreeSet<&str> = BTreeSet::new();
    let mut containers = Vec::new();
    for c in &rt.containers {
        match c.phase {
            Phase::Running | Phase::Created => {}
            Phase::Exited | Phase::Unknown => {
                if !kept.insert(&c.name) {
                    containers.push(c.id.clone());
                }
            }
        }
    }
    let sandboxes = rt
        .sandboxes
        .iter()
        .skip(1)
        .filter(|s| {
            !s.ready
                && !rt
                    .containers
                    .iter()
                    .any(|c| c.sandbox == s.id && !containers.contains(&c.id))
        })
        .map(|s| s.id.clone())
        .collect();
    (containers, sandboxes)
}

/// The pods that are being swept, and whether each changed meanwhile: one sweep at a time, for it may wait for a container's
/// grace.
#[derive(Default)]
pub struct Sweeps(Mutex<BTreeMap<String, bool>>);

impl Sweeps {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the caller is to sweep; otherwise whoever sweeps that pod does so once more.
    pub fn begin(&self, uid: &str) -> bool {
        match self.lock().entry(uid.to_owned()) {
            Entry::Occupied(mut changed) => {
                changed.insert(true);
                false
            }
            Entry::Vacant(free) => {
                free.insert(false);
                true
            }
        }
    }

    /// Whether the one that has swept is to sweep once more.
    pub fn again(&self, uid: &str) -> bool {
        let mut all = self.lock();
        let changed = all.insert(uid.to_owned(), false) == Some(true);
        if !changed {
            all.remove(uid);
        }
        changed
    }
}

/// Removes the surplus of one pod; tells whether something of it may have run.
pub async fn sweep(shared: &Arc<Shared>, uid: &str) -> bool {
    let Ok(rt) = state::read(&*shared.rt, uid).await else {
        return false;
    };
    let (containers, sandboxes) = surplus(&rt);
    let mut ran = false;
    for c in rt.containers.iter().filter(|c| containers.contains(&c.id)) {
        if c.phase == Phase::Unknown {
            if let Err(e) = shared.rt.stop_container(&c.id, own_grace(c)).await {
                tracing::debug!(container = %c.id, error = %e, "stopping a container in an unknown state failed");
                continue;
            }
            ran = true;
        }
        if shared.rt.remove_container(&c.id).await.is_ok() {
            remove_log_link(shared, &c.id);
            if !c.log_path.is_empty() {
                let _ = std::fs::remove_file(&c.log_path);
            }
        }
    }
    for id in sandboxes {
        let _ = shared.rt.remove_pod_sandbox(&id).await;
    }
    ran
}

fn remove_log_link(shared: &Shared, id: &str) {
    let Some(dir) = shared
        .settings
        .pod_logs_dir
        .parent()
        .map(|p| p.join("containers"))
    else {
        return;
    };
    let suffix = format!("-{id}.log");
    for e in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if e.file_name().to_string_lossy().ends_with(&suffix) {
            let _ = std::fs::remove_file(e.path());
        }
    }
}

/// Removes directories, cgroups and logs of pods that neither a source nor the runtime knows.
///
/// Only pods with a directory of this kubelet are looked at: cgroups and logs may be shared with other nodes of the
/// same machine, and those of pods that were never ours are not touched.
pub fn leftovers(shared: &Shared, known: &dyn Fn(&str) -> bool) {
    let pods = shared.settings.root_dir.join("pods");
    for e in std::fs::read_dir(&pods).into_iter().flatten().flatten() {
        let uid = e.file_name().to_string_lossy().into_owned();
        if known(&uid) {
            continue;
        }
        if let Err(error) = crate::volumes::tear_down(&e.path()) {
            tracing::warn!(uid, %error, "orphaned pod found, but its volumes are not cleaned up");
            continue;
        }
        if !matches!(shared.cgroups.remove_pod(&uid), Ok(true)) {
            continue;
        }
        tracing::info!(uid, "removing the directory of an orphaned pod");
        let suffix = format!("_{uid}");
        for l in std::fs::read_dir(&shared.settings.pod_logs_dir)
            .into_iter()
            .flatten()
            .flatten()
        {
            if l.file_name().to_string_lossy().ends_with(&suffix) {
                let _ = std::fs::remove_dir_all(l.path());
            }
        }
        let _ = std::fs::remove_dir_all(e.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::state::{ContainerRecord, SandboxRecord};

    #[test]
    fn a_pod_is_swept_by_one_at_a_time() {
        let sweeps = Sweeps::default();
        assert!(sweeps.begin("a") && sweeps.begin("b"));
        assert!(!sweeps.begin("a") && !sweeps.begin("a"));
        assert!(sweeps.again("a"), "it changed while it was swept");
        assert!(!sweeps.begin("a"), "the second sweep is running");
        assert!(sweeps.again("a") && !sweeps.again("a"));
        assert!(!sweeps.again("b"));
        assert!(sweeps.begin("a") && sweeps.begin("b"), "nobody sweeps");
    }

    #[test]
    fn one_dead_instance_per_container_is_kept() {
        let c = |id: &str, name: &str, phase, sandbox: &str| ContainerRecord {
            id: id.into(),
            name: name.into(),
            phase,
            sandbox: sandbox.into(),
            ..Default::default()
        };
        let rt = RuntimePod {
            containers: vec![
                c("4", "a", Phase::Running, "s2"),
                c("3", "a", Phase::Exited, "s2"),
                c("2", "a", Phase::Exited, "s1"),
                c("1", "b", Phase::Exited, "s1"),
            ],
            sandboxes: vec![
                SandboxRecord {
                    id: "s2".into(),
                    ready: true,
                    ..Default::default()
                },
                SandboxRecord {
                    id: "s1".into(),
                    ..Default::default()
                },
                SandboxRecord {
                    id: "s0".into(),
                    ..Default::default()
                },
            ],
            ..Default::default()
        };
        assert_eq!(
            surplus(&rt),
            (vec!["2".to_string()], vec!["s0".to_string()])
        );
    }
}
