//! Where pods come from: the apiserver's watch and a folder of manifests, joined into one set for the workers.
//!
//! Invariants: a pod is removed from the node only when its source has been read at least once since the start; a mirror
//! pod never starts a worker; a static pod runs whether or not the apiserver answers.

pub mod file;
pub mod mirror;

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Change, Informer, Selector};
use tokio::sync::{Notify, watch};

use crate::admission;
use crate::pod::Pod;
use crate::shared::Shared;
use crate::worker::{Eviction, Workers};

client::views!(Pod);

/// Joins the sources.
pub struct Sources {
    shared: Arc<Shared>,
    workers: Arc<Workers>,
    files: Option<Arc<file::FileSource>>,
    api: Option<Informer<Pod>>,
    wake: Arc<Notify>,
    mirrors: mirror::Mirrors,
}

impl Sources {
    /// Starts reading the sources.
    pub fn new(shared: Arc<Shared>, workers: Arc<Workers>) -> Sources {
        let wake = Arc::new(Notify::new());
        let files = shared.settings.static_pod_path.as_ref().map(|path| {
            let source = Arc::new(file::FileSource::new(
                path.clone(),
                shared.settings.node_name.clone(),
            ));
            let (s, w, every) = (
                source.clone(),
                wake.clone(),
                shared.settings.file_check_frequency,
            );
            let stop = shared.stop.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = s.watch(w, every) => {}
                }
            });
            source
        });
        let api = shared.client.clone().map(|c| {
            let selector = Selector::fields(format!("spec.nodeName={}", shared.settings.node_name));
            let (i, work) = Informer::<Pod>::new(
                c,
                client::resource::PODS.clone(),
                selector,
                shared.stop.child_token(),
            );
            let w = wake.clone();
            i.on_change(move |c: Change<'_, Pod>| {
                let _ = c;
                w.notify_one();
            });
            let (synced, w) = (i.clone(), wake.clone());
            tokio::spawn(async move {
                synced.synced().await;
                w.notify_one();
            });
            tokio::spawn(work);
            i
        });
        let mirrors = mirror::Mirrors::new(shared.clone());
        Sources {
            shared,
            workers,
            files,
            api,
            wake,
            mirrors,
        }
    }

    /// Whether every source has been read.
    pub fn ready(&self) -> bool {
        self.files.as_ref().is_none_or(|f| f.has_read())
            && self.api.as_ref().is_none_or(Informer::has_synced)
    }

    /// The pods of all sources, mirrors left out.
    fn desired(&self) -> BTreeMap<String, Arc<Pod>> {
        let mut out = BTreeMap::new();
        for p in self.files.iter().flat_map(|f| f.pods()) {
            out.insert(p.pod.metadata.uid.clone(), p.pod.clone());
        }
        for p in self.api.iter().flat_map(|i| i.store().list()) {
            if !p.is_mirror() {
                out.insert(p.metadata.uid.clone(), p);
            }
        }
        out
    }

    /// Runs until dropped. `changed` is told after each change of the set of pods.
    pub async fn run(&self, changed: impl Fn(&[Arc<Pod>])) {
        let (tell, known) = watch::channel(None);
        tokio::join!(self.follow(changed, tell), self.mirrors.run(known));
    }

    async fn follow(&self, changed: impl Fn(&[Arc<Pod>]), mirrors: watch::Sender<mirror::Known>) {
        let mut known: BTreeMap<String, Arc<Pod>> = BTreeMap::new();
        let mut changes = self.workers.changes();
        loop {
            let desired = self.desired();
            // What is gone first: it no longer counts when newcomers are admitted.
            for uid in known.keys().filter(|u| !desired.contains_key(*u)) {
                self.workers.remove(uid);
            }
            // Oldest first, so that after a restart the pods that ran are admitted before newer ones.
            let mut order: Vec<&Arc<Pod>> = desired.values().collect();
            order.sort_by_key(|p| {
                (
                    p.metadata.creation_timestamp.clone(),
                    p.metadata.name.clone(),
                )
            });
            for pod in order {
                let uid = &pod.metadata.uid;
                match known.get(uid) {
                    Some(old) if Arc::ptr_eq(old, pod) || old == pod => continue,
                    Some(old) => {
                        self.shared.status.observe(pod);
                        // A change of the status alone is our own echo.
                        if old.spec != pod.spec
                            || old.metadata_differs(pod)
                            || old.is_finished() != pod.is_finished()
                            || old.conditions_differ(pod)
                        {
                            self.workers.update(pod.clone(), None);
                        }
                    }
                    None => {
                        let refusal = self.check(pod, &desired);
                        if let Some(r) = &refusal {
                            tracing::info!(pod = %pod.key(), reason = %r.reason, message = %r.message, "pod not admitted");
                            self.shared.event(pod, true, &r.reason, r.message.clone());
                        }
                        let evict = refusal.map(|r| Eviction {
                            reason: r.reason,
                            message: r.message,
                            grace: Some(0),
                            rejected: true,
                        });
                        self.workers.update(pod.clone(), evict);
                    }
                }
            }
            known = desired;
            let pods: Vec<Arc<Pod>> = known.values().cloned().collect();
            changed(&pods);
            if let Some(api) = self.api.as_ref().filter(|_| self.ready()) {
                let all = api.store().list().into_iter();
                let theirs: Vec<Arc<Pod>> = all.filter(|p| p.is_mirror()).collect();
                let ours = self.files.as_ref().map(|f| f.pods()).unwrap_or_default();
                mirrors.send_replace(Some((ours, theirs)));
            }
            tokio::select! {
                () = self.wake.notified() => {}
                _ = changes.changed() => {}
            }
        }
    }

    /// Admission of a pod this kubelet sees for the first time.
    fn check(
        &self,
        pod: &Arc<Pod>,
        desired: &BTreeMap<String, Arc<Pod>>,
    ) -> Option<admission::Refusal> {
        // A pod with a start time was admitted before a restart; one that ends needs no admission.
        if pod.is_finished()
            || pod.metadata.deletion_timestamp.is_some()
            || pod.status.start_time.is_some()
        {
            return None;
        }
        let others: Vec<Arc<Pod>> = self
            .workers
            .pods(true)
            .into_iter()
            .filter(|p| {
                p.metadata.uid != pod.metadata.uid
                    && !p.is_finished()
                    && desired.contains_key(&p.metadata.uid)
            })
            .collect();
        let node = self.shared.node.read().ok().and_then(|n| n.clone());
        let settings = &self.shared.settings;
        let host = admission::Host {
            node: node.as_deref(),
            name: &settings.node_name,
            allocatable: &self.shared.allocatable(),
            allowed_unsafe_sysctls: &settings.allowed_unsafe_sysctls,
            app_armor: self.shared.machine.app_armor,
        };
        admission::admit(pod, &others, &host).err()
    }
}

impl Pod {
    fn metadata_differs(&self, other: &Pod) -> bool {
        let (a, b) = (&self.metadata, &other.metadata);
        a.deletion_timestamp != b.deletion_timestamp
            || a.deletion_grace_period_seconds != b.deletion_grace_period_seconds
            || a.labels != b.labels
            || a.annotations != b.annotations
            || a.generation != b.generation
    }

    /// Whether conditions others set (readiness gates, disruption) differ.
    fn conditions_differ(&self, other: &Pod) -> bool {
        let foreign = |p: &Pod| -> Vec<_> {
            p.status
                .conditions
                .iter()
                .filter(|c| !crate::status::generate::owned(&c.kind))
                .cloned()
                .collect()
        };
        foreign(self) != foreign(other)
    }
}
