//! The scheduler without its I/O: events and time in, actions out.
//!
//! Invariants: a pod that was decided is counted on its node ("assumed") until the watch shows it bound, its binding
//! fails or it is deleted; a pod is decided at most once per attempt; nothing is decided for a pod that is being deleted;
//! room that preemption made for a pod is given to none of lower or equal priority; what a pod took beside its place is given
//! back when it is not bound.
//!
//! A pod whose volumes are not bound yet is decided, then prepared ([`Action::Prepare`]), and bound when all that it waits
//! for is seen. Meanwhile it keeps no writer busy.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::config::Config;
use crate::cycle::{Decider, Decision};
use crate::framework::{ClusterEvent, Hold, Write};
use crate::nodes::NodeTable;
use crate::pod::{Classes, Pod};
use crate::preemption::preempt;
use crate::queue::{Millis, Queue, Queued, millis};
use crate::storage::Change;
use crate::storage::reservations::Reservations;
use crate::view::{NodeView, PodView};

/// What upstream's plugin for resource claims, which comes before preemption, says of a pod that holds none.
const NO_CLAIMS: &str = "no new claims to deallocate";

const UNSCHEDULABLE: &str = "Unschedulable";
const ERROR: &str = "SchedulerError";

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A pod came or changed.
    Pod(Arc<PodView>),
    /// A pod is gone.
    PodGone(Arc<PodView>),
    /// A node came or changed.
    Node(Arc<NodeView>),
    /// A node is gone.
    NodeGone(String),
    /// A namespace's labels.
    Namespace(String, BTreeMap<String, String>),
    /// A namespace is gone.
    NamespaceGone(String),
    /// Something about volumes.
    Storage(Change),
    /// The writes of [`Action::Prepare`] ended.
    Prepared {
        /// Which pod.
        uid: String,
        /// The versions that came of them, as far as they went.
        versions: Vec<u64>,
        /// Why the next one failed.
        error: Option<String>,
    },
    /// A binding ended.
    Bound {
        /// Which pod.
        uid: String,
        /// Whether the apiserver took it.
        ok: bool,
    },
}

/// What to do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Write the binding and report the outcome as [`Input::Bound`].
    Bind {
        /// The pod.
        pod: Arc<PodView>,
        /// The node's name.
        node: String,
        /// Attempts it took.
        attempts: u32,
        /// When it was first queued.
        queued: Millis,
    },
    /// Make these writes, one after the other while they succeed, and report the outcome as [`Input::Prepared`].
    Prepare {
        /// The pod.
        pod: Arc<PodView>,
        /// The node that it is decided for.
        node: String,
        /// What to write.
        writes: Vec<Write>,
    },
    /// Tell the pod's owner why it is not placed.
    Explain {
        /// The pod.
        pod: Arc<PodView>,
        /// The reason of the condition: `Unschedulable` or `SchedulerError`.
        reason: &'static str,
        /// The message of the condition and the event.
        message: String,
        /// What becomes of the room it was promised.
        nomination: Nomination,
    },
}

/// The node that preemption makes room on.
#[derive(Clone, Debug)]
pub enum Nomination {
    /// As it was.
    Kept,
    /// None, or none any more.
    Cleared,
    /// A new one, once these pods are deleted.
    Made(String, Vec<Arc<PodView>>),
}

/// Sizes for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Ready to be tried.
    pub active: usize,
    /// Waiting for their back-off to end.
    pub backoff: usize,
    /// Waiting for an event.
    pub unschedulable: usize,
    /// Held back by a plugin.
    pub gated: usize,
}

/// A pod that has a node and waits for more before it is bound.
#[derive(Clone)]
struct Preparation {
    pod: Pod,
    node: String,
    attempts: u32,
    queued: Millis,
    /// Plugins (by index) that hold something, and how many writes each asked for.
    holds: Vec<(usize, usize)>,
    /// Whether the writes ended, and how.
    written: Option<Result<(), String>>,
    /// When it has waited for too long; known once the writes ended.
    deadline: Millis,
}

/// Pods that are being prepared, and what they hold.
#[derive(Clone, Default)]
pub struct Preparations {
    pods: BTreeMap<String, Preparation>,
    reservations: Reservations,
}

impl Preparations {
    /// All but some, which give back what they hold.
    pub fn without(&self, left_out: impl Fn(&str) -> bool) -> Preparations {
        let mut kept = self.clone();
        kept.pods.retain(|uid, _| !left_out(uid));
        // Also what was promised to the pod over which it ended.
        for uid in self.reservations.pods() {
            if !kept.pods.contains_key(uid) {
                kept.reservations.release(uid, |_| None, |_| None);
            }
        }
        kept
    }

    /// Which pods.
    pub fn uids(&self) -> impl Iterator<Item = &String> {
        self.pods.keys()
    }
}

/// The scheduler's state.
pub struct Core {
    table: NodeTable,
    queue: Queue,
    deciders: HashMap<String, Decider>,
    classes: Classes,
    assumed: BTreeSet<String>,
    /// Pods that wait for room made for them, by uid, and the node it is made on.
    nominated: BTreeMap<String, (Pod, String)>,
    /// Pods that wait for more before they are bound, by uid.
    preparing: BTreeMap<String, Preparation>,
    /// Those of them that have to be looked at.
    dirty: BTreeSet<String>,
    /// When they have waited for too long.
    deadlines: BTreeSet<(Millis, String)>,
    /// The pod that is being decided.
    trying: Option<String>,
    panics: u64,
}

impl Core {
    /// Nothing known yet.
    pub fn new(config: &Config) -> Core {
        let deciders = config
            .profiles
            .iter()
            .map(|p| (p.scheduler_name.clone(), Decider::new(p.clone())))
            .collect();
        Core {
            table: NodeTable::default(),
            queue: Queue::new(config.times.clone()),
            deciders,
            classes: Classes::default(),
            assumed: BTreeSet::new(),
            nominated: BTreeMap::new(),
            preparing: BTreeMap::new(),
            dirty: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            trying: None,
            panics: 0,
        }
    }

    /// The pod that was being decided when a call did not return.
    pub fn trying(&self) -> Option<&str> {
        self.trying.as_deref()
    }

    /// How many panics of hints were passed over.
    pub fn panics(&self) -> u64 {
        self.panics
    }

    /// Counts a decided pod on its node until its binding is seen or fails.
    pub fn assume(&mut self, view: Arc<PodView>, node: &str) {
        let pod = self.classes.pod(view);
        self.table.place(&pod, node);
        self.assumed.insert(pod.uid().to_owned());
    }

    /// The pods that are being prepared, for a core that takes this one's place.
    pub fn preparations(&mut self) -> Preparations {
        Preparations {
            pods: std::mem::take(&mut self.preparing),
            reservations: std::mem::take(&mut self.table.storage.reservations),
        }
    }

    /// What pods hold that another core prepared. Volumes are known.
    pub fn take_over(&mut self, from: &Preparations) {
        self.table.storage.reservations = from.reservations.clone();
    }

    /// Goes on with a pod that another core prepared. Nodes are known.
    pub fn resume(&mut self, from: &Preparations, uid: &str) {
        let Some(p) = from.pods.get(uid).cloned() else {
            return;
        };
        self.table.place(&p.pod, &p.node);
        self.assumed.insert(uid.to_owned());
        if matches!(p.written, Some(Ok(()))) {
            self.deadlines.insert((p.deadline, uid.to_owned()));
        }
        self.dirty.insert(uid.to_owned());
        self.preparing.insert(uid.to_owned(), p);
    }

    #[cfg(test)]
    pub(crate) fn add_plugin(&mut self, make: &dyn Fn() -> crate::framework::Plugin) {
        self.deciders
            .values_mut()
            .for_each(|d| d.plugins.push(make()));
    }

    /// The node table.
    pub fn nodes(&self) -> &NodeTable {
        &self.table
    }

    /// Pods per part of the queue.
    pub fn sizes(&self) -> Sizes {
        let (active, backoff, unschedulable, gated) = self.queue.sizes();
        Sizes {
            active,
            backoff,
            unschedulable,
            gated,
        }
    }

    /// When [`Core::tick`] is due.
    pub fn next_due(&self) -> Option<Millis> {
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        self.queue.next_due().into_iter().chain(deadline).min()
    }

    /// Moves what time has freed.
    pub fn tick(&mut self, now: Millis) {
        self.queue.tick(now);
        while self.deadlines.first().is_some_and(|(at, _)| *at <= now) {
            let due = self.deadlines.pop_first();
            self.dirty.extend(due.map(|(_, uid)| uid));
        }
    }

    fn wake(&mut self, now: Millis, event: &ClusterEvent<'_>) {
        let (table, deciders) = (&self.table, &self.deciders);
        let panics = &mut self.panics;
        let volumes = matches!(event, ClusterEvent::Storage(_));
        self.queue.wake(now, |q| {
            if volumes && q.pod.view.spec.volumes.is_empty() {
                return false;
            }
            if q.rejected_by.is_empty() {
                return true;
            }
            let Some(d) = deciders.get(&q.pod.view.spec.scheduler_name) else {
                return false;
            };
            q.rejected_by
                .iter()
                .filter_map(|i| d.plugins.get(*i))
                .any(|p| {
                    let hint = AssertUnwindSafe(|| (p.hint)(event, &q.pod, table));
                    // What happened is not to blame: the pod may be worth a try, which will show it.
                    catch_unwind(hint).unwrap_or_else(|_| {
                        tracing::error!(plugin = p.name, pod = q.pod.uid(), "A hint panicked");
                        *panics += 1;
                        true
                    })
                })
        });
    }

    fn gate(&self, pod: &Pod) -> Option<String> {
        let d = self.deciders.get(&pod.view.spec.scheduler_name)?;
        d.plugins
            .iter()
            .filter_map(|p| p.pre_enqueue)
            .find_map(|check| check(pod).err())
    }

    fn pod_gone(&mut self, view: Arc<PodView>, now: Millis) {
        let uid = view.metadata.uid.clone();
        self.queue.remove(&uid);
        self.drop_preparation(&uid);
        self.assumed.remove(&uid);
        self.nominated.remove(&uid);
        if self.table.remove_pod(&uid) {
            let pod = self.classes.pod(view);
            self.wake(now, &ClusterEvent::PodGone(&pod));
        }
    }

    fn pod(&mut self, view: Arc<PodView>, now: Millis) {
        if matches!(view.status.phase.as_str(), "Succeeded" | "Failed") {
            return self.pod_gone(view, now);
        }
        let uid = view.metadata.uid.clone();
        if !view.spec.node_name.is_empty() {
            self.queue.remove(&uid);
            self.drop_preparation(&uid);
            self.nominated.remove(&uid);
            let news = !self.assumed.remove(&uid) && self.table.row_of_pod(&uid).is_none();
            let pod = self.classes.pod(view);
            self.table.place(&pod, &pod.view.spec.node_name.clone());
            if news {
                self.wake(now, &ClusterEvent::PodPlaced(&pod));
            }
            return;
        }
        if self.assumed.contains(&uid) {
            return;
        }
        if view.metadata.deletion_timestamp.is_some()
            || !self.deciders.contains_key(&view.spec.scheduler_name)
        {
            self.queue.remove(&uid);
            self.nominated.remove(&uid);
            return;
        }
        let pod = self.classes.pod(view);
        // A view without it may be older than the nomination.
        let node = &pod.view.status.nominated_node_name;
        if !node.is_empty() {
            let promised = (pod.clone(), node.clone());
            self.nominated.insert(uid, promised);
        }
        let gated = self.gate(&pod);
        self.queue.upsert(pod, gated, now);
    }

    /// Takes in what happened.
    pub fn input(&mut self, input: Input, now: Millis) {
        match input {
            Input::Pod(view) => self.pod(view, now),
            Input::PodGone(view) => self.pod_gone(view, now),
            Input::Node(view) => {
                let change = self.table.upsert_node(&view);
                if change.added || change.labels {
                    self.recheck_on(&view.metadata.name);
                }
                if change.any()
                    && let Some(row) = self.table.find(&view.metadata.name)
                {
                    self.wake(now, &ClusterEvent::Node { row, change });
                }
            }
            Input::NodeGone(name) => {
                self.table.remove_node(&name);
                self.recheck_on(&name);
            }
            Input::Namespace(name, labels) => self.table.upsert_namespace(&name, labels),
            Input::NamespaceGone(name) => self.table.remove_namespace(&name),
            Input::Storage(change) => {
                self.dirty.extend(self.table.storage.waiting_on(&change));
                if let Some(news) = self.table.storage.apply(change) {
                    self.wake(now, &ClusterEvent::Storage(&news));
                }
            }
            Input::Prepared {
                uid,
                versions,
                error,
            } => self.prepared(uid, &versions, error, now),
            Input::Bound { uid, ok } => {
                if ok {
                    self.queue.remove(&uid);
                    self.post_bind(&uid);
                } else if self.assumed.contains(&uid) {
                    self.give_back(&uid, now);
                }
            }
        }
    }

    /// A pod that was decided is not bound: it is tried again later.
    fn give_back(&mut self, uid: &str, now: Millis) {
        self.assumed.remove(uid);
        let pod = self.pod_of(uid);
        self.table.remove_pod(uid);
        let Some(pod) = pod else {
            self.queue.retry(uid, now);
            return;
        };
        // Its room is free again for those that were refused for want of it.
        self.wake(now, &ClusterEvent::PodGone(&pod));
        if self.queue.get(uid).is_some() {
            self.queue.retry(uid, now);
        } else {
            // It was decided by a core that is no more.
            let gated = self.gate(&pod);
            self.queue.upsert(pod, gated, now);
        }
    }

    fn pod_of(&self, uid: &str) -> Option<Pod> {
        let row = self.table.row(self.table.row_of_pod(uid)?)?;
        row.pods.get(uid).cloned()
    }

    fn post_bind(&mut self, uid: &str) {
        let Some(pod) = self.pod_of(uid) else {
            return;
        };
        let Some(d) = self.deciders.get(&pod.view.spec.scheduler_name) else {
            return;
        };
        for tell in d.plugins.iter().filter_map(|p| p.post_bind) {
            tell(&pod, &mut self.table);
        }
    }

    fn recheck_on(&mut self, node: &str) {
        let on = self.preparing.iter().filter(|(_, p)| p.node == node);
        self.dirty.extend(on.map(|(uid, _)| uid.clone()));
    }

    fn hold_of<'a>(
        deciders: &'a HashMap<String, Decider>,
        pod: &Pod,
        plugin: usize,
    ) -> Option<(&'static str, &'a dyn Hold)> {
        let d = deciders.get(&pod.view.spec.scheduler_name)?;
        let plugin = d.plugins.get(plugin)?;
        Some((plugin.name, plugin.hold.as_deref()?))
    }

    fn prepared(&mut self, uid: String, versions: &[u64], error: Option<String>, now: Millis) {
        let Some(p) = self.preparing.get_mut(&uid) else {
            return;
        };
        let mut left = versions;
        let mut failed = None;
        for (plugin, writes) in &p.holds {
            let Some((name, hold)) = Self::hold_of(&self.deciders, &p.pod, *plugin) else {
                continue;
            };
            let (its, others) = left.split_at(left.len().min(*writes));
            left = others;
            hold.written(&p.pod, &mut self.table, its);
            if its.len() < *writes && failed.is_none() {
                failed = error
                    .as_ref()
                    .map(|e| format!("running PreBind plugin \"{name}\": {e}"));
            }
            let patience = now.saturating_add(millis(hold.patience()));
            p.deadline = p.deadline.max(patience);
        }
        match failed.or(error) {
            Some(why) => p.written = Some(Err(why)),
            None => {
                p.written = Some(Ok(()));
                self.deadlines.insert((p.deadline, uid.clone()));
            }
        }
        self.dirty.insert(uid);
    }

    /// Takes a pod out of preparation; what it held is given back.
    fn drop_preparation(&mut self, uid: &str) -> Option<Preparation> {
        let p = self.preparing.remove(uid)?;
        self.dirty.remove(uid);
        self.deadlines.remove(&(p.deadline, uid.to_owned()));
        // Others that wait for what it waited for are on their own now.
        let beside = self.table.storage.reservations.beside(uid);
        self.dirty.extend(beside);
        for (plugin, _) in &p.holds {
            if let Some((_, hold)) = Self::hold_of(&self.deciders, &p.pod, *plugin) {
                hold.release(&p.pod, &mut self.table);
            }
        }
        Some(p)
    }

    /// Whether a pod that was prepared can be bound now, or never will be.
    fn recheck(&mut self, uid: &str, now: Millis) -> Option<Action> {
        let p = self.preparing.get(uid)?;
        let error = match p.written.clone()? {
            Err(why) => Some(why),
            Ok(()) => {
                let mut waits = None;
                let mut error = None;
                for (plugin, _) in &p.holds {
                    let Some((name, hold)) = Self::hold_of(&self.deciders, &p.pod, *plugin) else {
                        continue;
                    };
                    let ready = hold.is_ready(&p.pod, &self.table, &p.node);
                    let told = |why: String| format!("running PreBind plugin \"{name}\": {why}");
                    match ready {
                        Ok(true) => continue,
                        Ok(false) if now < p.deadline => waits = Some(()),
                        Ok(false) => error = Some(told(hold.too_late())),
                        Err(why) => error = Some(told(why)),
                    }
                    break;
                }
                if waits.is_some() {
                    return None;
                }
                error
            }
        };
        let p = self.drop_preparation(uid)?;
        match error {
            None => Some(Action::Bind {
                pod: p.pod.view,
                node: p.node,
                attempts: p.attempts,
                queued: p.queued,
            }),
            Some(message) => {
                self.give_back(uid, now);
                Some(Action::Explain {
                    pod: p.pod.view,
                    reason: ERROR,
                    message,
                    nomination: Nomination::Cleared,
                })
            }
        }
    }

    /// The next decision, if a pod is ready for one. `random` picks among equally good nodes.
    pub fn step(&mut self, now: Millis, random: u64) -> Option<Action> {
        while let Some(uid) = self.dirty.pop_first() {
            self.trying = Some(uid.clone());
            let action = self.recheck(&uid, now);
            self.trying = None;
            if action.is_some() {
                return action;
            }
        }
        loop {
            let q = self.queue.pop()?;
            self.trying = Some(q.pod.uid().to_owned());
            let action = self.attempt(q, now, random);
            self.trying = None;
            if action.is_some() {
                return action;
            }
        }
    }

    /// Counts the pods that were promised room and are no less important as if they had it; gives their uids.
    fn reserve(&mut self, pod: &Pod) -> Vec<String> {
        let mut uids = Vec::new();
        for (uid, (other, node)) in &self.nominated {
            if uid != pod.uid()
                && other.view.spec.priority >= pod.view.spec.priority
                && self.table.row_of_pod(uid).is_none()
                && self.table.find(node).is_some()
            {
                self.table.place(other, node);
                uids.push(uid.clone());
            }
        }
        uids
    }

    fn attempt(&mut self, q: Queued, now: Millis, random: u64) -> Option<Action> {
        let reserved = self.reserve(&q.pod);
        let action = self.decide(q, now, random);
        for uid in reserved {
            self.table.remove_pod(&uid);
        }
        action
    }

    /// A pod has a place: it takes what else it gets there, and is bound, or prepared first.
    fn placed(&mut self, q: Queued, row: usize, now: Millis) -> Option<Action> {
        let uid = q.pod.uid().to_owned();
        let node = self.table.row(row)?.name.clone();
        self.table.place(&q.pod, &node);
        self.nominated.remove(&uid);
        self.assumed.insert(uid.clone());
        let d = self.deciders.get(&q.pod.view.spec.scheduler_name)?;
        let mut holds: Vec<(usize, usize)> = Vec::new();
        let mut writes = Vec::new();
        let mut failed = None;
        for (i, plugin) in d.plugins.iter().enumerate() {
            let Some(hold) = plugin.hold.as_ref().filter(|h| h.relevant(&q.pod)) else {
                continue;
            };
            match hold.reserve(&q.pod, &mut self.table, row) {
                Ok(None) => {}
                Ok(Some(its)) => {
                    holds.push((i, its.len()));
                    writes.extend(its);
                }
                Err(why) => {
                    let name = plugin.name;
                    failed = Some(format!("running Reserve plugin \"{name}\": {why}"));
                    break;
                }
            }
        }
        if holds.is_empty() && failed.is_none() {
            return Some(Action::Bind {
                pod: q.pod.view,
                node,
                attempts: q.attempts,
                queued: q.first,
            });
        }
        let pod = q.pod.view.clone();
        let p = Preparation {
            pod: q.pod,
            node: node.clone(),
            attempts: q.attempts,
            queued: q.first,
            holds,
            written: None,
            deadline: 0,
        };
        self.preparing.insert(uid.clone(), p);
        let Some(message) = failed else {
            return Some(Action::Prepare { pod, node, writes });
        };
        self.drop_preparation(&uid);
        self.give_back(&uid, now);
        Some(Action::Explain {
            pod,
            reason: ERROR,
            message,
            nomination: Nomination::Cleared,
        })
    }

    fn decide(&mut self, q: Queued, now: Millis, random: u64) -> Option<Action> {
        let uid = q.pod.uid().to_owned();
        let Some(decider) = self.deciders.get_mut(&q.pod.view.spec.scheduler_name) else {
            self.queue.remove(&uid);
            return None;
        };
        match decider.decide(&q.pod, &self.table, random) {
            Decision::Place(row) => self.placed(q, row, now),
            Decision::Error(message) => {
                self.queue.retry(&uid, now);
                Some(Action::Explain {
                    pod: q.pod.view,
                    reason: ERROR,
                    message,
                    nomination: Nomination::Cleared,
                })
            }
            Decision::NoNodes => {
                self.queue.reject(&uid, BTreeSet::new(), now);
                let message = "no nodes available to schedule pods".into();
                Some(Action::Explain {
                    pod: q.pod.view,
                    reason: UNSCHEDULABLE,
                    message,
                    nomination: Nomination::Kept,
                })
            }
            Decision::Unfit(mut error) => {
                let found = decider
                    .preempts()
                    .then(|| preempt(decider, &q.pod, &mut self.table, &error, random));
                let nomination = match found {
                    None => {
                        error.post_filter = NO_CLAIMS.into();
                        Nomination::Kept
                    }
                    Some(Ok(p)) => {
                        let row = self.table.find(&p.node).and_then(|r| self.table.row(r));
                        let victims = p
                            .victims
                            .iter()
                            .filter_map(|uid| row.and_then(|r| r.pods.get(uid)))
                            .map(|v| v.view.clone())
                            .collect();
                        let promised = (q.pod.clone(), p.node.clone());
                        self.nominated.insert(uid.clone(), promised);
                        Nomination::Made(p.node, victims)
                    }
                    Some(Err(refused)) => {
                        error.post_filter = format!("{NO_CLAIMS}, {}", refused.why);
                        if refused.eligible {
                            self.nominated.remove(&uid);
                            Nomination::Cleared
                        } else {
                            Nomination::Kept
                        }
                    }
                };
                self.queue.reject(&uid, error.plugins.clone(), now);
                Some(Action::Explain {
                    pod: q.pod.view,
                    reason: UNSCHEDULABLE,
                    message: error.message(),
                    nomination,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::tests::{node, view};
    use proptest::prelude::*;

    fn pending(uid: &str, cpu: &str) -> Arc<PodView> {
        let mut v = view(uid, cpu, "");
        v.spec.scheduler_name = "default-scheduler".into();
        Arc::new(v)
    }

    fn bound(uid: &str, cpu: &str, node: &str) -> Arc<PodView> {
        let mut v = (*pending(uid, cpu)).clone();
        v.spec.node_name = node.into();
        Arc::new(v)
    }

    fn core() -> Core {
        Core::new(&Config::default())
    }

    fn bind(action: Option<Action>) -> (String, String) {
        match action {
            Some(Action::Bind { pod, node, .. }) => (pod.metadata.uid.clone(), node),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_assumed_pod_counts_until_its_binding_fails() {
        let mut c = core();
        c.input(Input::Node(Arc::new(node("a", "2", "4Gi"))), 0);
        c.input(Input::Pod(pending("p", "2")), 0);
        c.input(Input::Pod(pending("q", "2")), 0);
        assert_eq!(bind(c.step(0, 0)), ("p".into(), "a".into()));
        assert!(matches!(c.step(0, 0), Some(Action::Explain { .. })));
        // A late update of the unbound pod must not queue it again.
        c.input(Input::Pod(pending("p", "2")), 1);
        assert!(c.step(1, 0).is_none());
        c.input(
            Input::Bound {
                uid: "p".into(),
                ok: false,
            },
            2,
        );
        assert_eq!(c.nodes().columns.req_cpu[0], 0);
        c.input(Input::PodGone(pending("q", "2")), 3);
        c.tick(5000);
        assert_eq!(bind(c.step(5000, 0)).0, "p");
    }

    #[test]
    fn a_pod_without_room_is_placed_when_another_goes() {
        let mut c = core();
        c.input(Input::Node(Arc::new(node("a", "2", "4Gi"))), 0);
        c.input(Input::Pod(bound("x", "2", "a")), 0);
        c.input(Input::Pod(pending("p", "1")), 0);
        let Some(Action::Explain {
            message,
            nomination,
            ..
        }) = c.step(0, 0)
        else {
            panic!("placed")
        };
        assert_eq!(
            message,
            "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: \
             1 No preemption victims found for incoming pod."
        );
        assert!(matches!(nomination, Nomination::Cleared) && c.step(0, 0).is_none());
        c.input(Input::PodGone(bound("x", "2", "a")), 10);
        c.tick(2000);
        assert_eq!(bind(c.step(2000, 0)), ("p".into(), "a".into()));
    }

    #[test]
    fn without_nodes_a_pod_waits_for_the_first() {
        let mut c = core();
        c.input(Input::Pod(pending("p", "1")), 0);
        let Some(Action::Explain { message, .. }) = c.step(0, 0) else {
            panic!("placed")
        };
        assert_eq!(message, "no nodes available to schedule pods");
        c.input(Input::Node(Arc::new(node("a", "2", "4Gi"))), 1);
        c.tick(1500);
        assert_eq!(bind(c.step(1500, 0)).1, "a");
    }

    #[test]
    fn pods_of_other_schedulers_are_left_alone() {
        let mut c = core();
        c.input(Input::Node(Arc::new(node("a", "2", "4Gi"))), 0);
        let mut v = (*pending("p", "1")).clone();
        v.spec.scheduler_name = "other".into();
        c.input(Input::Pod(Arc::new(v)), 0);
        assert!(c.step(0, 0).is_none());
    }

    #[test]
    fn preemption_names_its_victims() {
        let mut c = core();
        c.input(Input::Node(Arc::new(node("a", "2", "4Gi"))), 0);
        c.input(Input::Pod(bound("low", "2", "a")), 0);
        let mut v = (*pending("high", "1")).clone();
        v.spec.priority = 100;
        c.input(Input::Pod(Arc::new(v)), 0);
        let Some(Action::Explain {
            nomination: Nomination::Made(node, victims),
            message,
            ..
        }) = c.step(0, 0)
        else {
            panic!("no preemption")
        };
        assert_eq!(
            (node.as_str(), victims[0].metadata.uid.as_str()),
            ("a", "low")
        );
        assert_eq!(message, "0/1 nodes are available: 1 Insufficient cpu.");
    }

    #[test]
    fn room_made_for_a_pod_is_kept_for_it() {
        let with = |uid: &str, priority: i32| {
            let mut v = (*pending(uid, "2")).clone();
            v.spec.priority = priority;
            Arc::new(v)
        };
        let mut c = core();
        c.input(Input::Node(Arc::new(node("a", "2", "4Gi"))), 0);
        c.input(Input::Pod(bound("low", "2", "a")), 0);
        c.input(Input::Pod(with("high", 100)), 0);
        assert!(matches!(
            c.step(0, 0),
            Some(Action::Explain {
                nomination: Nomination::Made(..),
                ..
            })
        ));
        // The victim goes; one like it and one as important are first in the queue, and get nothing.
        c.input(Input::PodGone(bound("low", "2", "a")), 1);
        c.input(Input::Pod(with("low-2", 0)), 1);
        c.input(Input::Pod(with("equal", 100)), 1);
        let mut placed = Vec::new();
        for now in [1, 1, 3000, 3000, 3000] {
            c.tick(now);
            if let Some(Action::Bind { pod, .. }) = c.step(now, 0) {
                placed.push(pod.metadata.uid.clone());
            }
        }
        assert_eq!(placed, ["high"]);
        assert_eq!(c.nodes().columns.req_cpu.iter().sum::<i64>(), 2000);
    }

    /// What the cluster holds, counted by the test from the events alone.
    #[derive(Default)]
    struct Ledger {
        nodes: BTreeMap<usize, Room>,
        /// Pods that are bound or being bound, and where.
        placed: BTreeMap<String, (usize, Shape)>,
        waiting: BTreeMap<String, Shape>,
    }

    /// What a node has: half processors, GiB, pods.
    type Room = (u32, u32, u32);
    /// What a pod asks for: half processors, GiB (0: none), and a host port (0: none).
    type Shape = (u32, u32, i32);

    impl Ledger {
        /// Whether a pod has room on a node beside those that are there, in the units above.
        fn fits(&self, node: usize, shape: Shape) -> bool {
            let Some(room) = self.nodes.get(&node) else {
                return false;
            };
            let there: Vec<Shape> = self
                .placed
                .values()
                .filter(|(n, _)| *n == node)
                .map(|(_, s)| *s)
                .collect();
            let halves: u32 = there.iter().map(|s| s.0).sum();
            let gib: u32 = there.iter().map(|s| s.1).sum();
            halves + shape.0 <= room.0
                && (shape.1 == 0 || gib + shape.1 <= room.1)
                && there.len() < room.2 as usize
                && (shape.2 == 0 || there.iter().all(|s| s.2 != shape.2))
        }

        fn fits_somewhere(&self, shape: Shape) -> bool {
            self.nodes.keys().any(|n| self.fits(*n, shape))
        }
    }

    fn shaped(uid: &str, shape: Shape, node: Option<usize>) -> Arc<PodView> {
        let (halves, gib, port) = shape;
        let memory = if gib == 0 {
            String::new()
        } else {
            format!("{gib}Gi")
        };
        let mut v = (*pending(uid, &format!("{}m", halves * 500))).clone();
        v.spec.containers = view(uid, &format!("{}m", halves * 500), &memory)
            .spec
            .containers;
        if port != 0 {
            v.spec.containers[0].ports = vec![crate::view::Port {
                host_port: port,
                ..Default::default()
            }];
        }
        v.spec.node_name = node.map(|n| format!("n{n}")).unwrap_or_default();
        Arc::new(v)
    }

    fn roomy(n: usize, room: Room) -> Input {
        let (halves, gib, pods) = room;
        let mut v = node(
            &format!("n{n}"),
            &format!("{}m", halves * 500),
            &format!("{gib}Gi"),
        );
        v.status.allocatable.insert("pods".into(), pods.to_string());
        Input::Node(Arc::new(v))
    }

    /// One thing that happens; numbers choose among what is there.
    #[derive(Clone, Debug)]
    enum Event {
        Created(Shape),
        Deleted(usize),
        /// By another scheduler, which looks at nothing.
        Foreign(usize, Shape),
        Node(usize, Room),
        NodeGone(usize),
        Bound(usize),
        NotBound(usize),
        /// An old state of a pod that is being bound, seen late.
        Late(usize),
        Step(u64),
    }

    fn shape() -> impl Strategy<Value = Shape> {
        (1u32..5, 0u32..4, 0i32..3)
    }

    fn room() -> impl Strategy<Value = Room> {
        (2u32..9, 2u32..8, 1u32..6)
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => shape().prop_map(Event::Created),
            1 => any::<usize>().prop_map(Event::Deleted),
            1 => (0usize..3, shape()).prop_map(|(n, s)| Event::Foreign(n, s)),
            1 => (0usize..3, room()).prop_map(|(n, r)| Event::Node(n, r)),
            1 => (0usize..3).prop_map(Event::NodeGone),
            2 => any::<usize>().prop_map(Event::Bound),
            1 => any::<usize>().prop_map(Event::NotBound),
            1 => any::<usize>().prop_map(Event::Late),
            5 => any::<u64>().prop_map(Event::Step),
        ]
    }

    /// Takes the next decision and holds it against the ledger; gives the uid of what is being bound now.
    fn decide(
        c: &mut Core,
        l: &mut Ledger,
        now: Millis,
        random: u64,
    ) -> Result<Option<Option<String>>, TestCaseError> {
        match c.step(now, random) {
            None => Ok(None),
            Some(Action::Bind { pod, node, .. }) => {
                let uid = pod.metadata.uid.clone();
                let shape = l.waiting.remove(&uid);
                prop_assert!(shape.is_some(), "{uid} does not wait");
                let (shape, n) = (shape.unwrap(), node[1..].parse().unwrap());
                prop_assert!(
                    l.fits(n, shape),
                    "{uid} {shape:?} has no room on {node} {:?} beside {:?}",
                    l.nodes.get(&n),
                    l.placed
                );
                l.placed.insert(uid.clone(), (n, shape));
                Ok(Some(Some(uid)))
            }
            Some(Action::Prepare { pod, .. }) => {
                prop_assert!(false, "{} has no volumes", pod.metadata.uid);
                Ok(None)
            }
            Some(Action::Explain { pod, message, .. }) => {
                let shape = l.waiting.get(&pod.metadata.uid).copied();
                prop_assert!(
                    shape.is_some_and(|s| !l.fits_somewhere(s)),
                    "{shape:?} fits: {message}"
                );
                Ok(Some(None))
            }
        }
    }

    #[test]
    fn room_that_a_failed_binding_gives_back_is_offered_to_others() {
        let mut c = core();
        c.input(Input::Node(Arc::new(node("a", "2", "4Gi"))), 0);
        c.input(Input::Pod(pending("p", "2")), 0);
        c.input(Input::Pod(pending("q", "1")), 0);
        assert_eq!(bind(c.step(0, 0)), ("p".into(), "a".into()));
        assert!(matches!(c.step(0, 0), Some(Action::Explain { .. })));
        let failed = Input::Bound {
            uid: "p".into(),
            ok: false,
        };
        c.input(failed, 1);
        // Both are tried again, whoever is first.
        c.tick(20_000);
        let mut tried = Vec::new();
        while let Some(action) = c.step(20_000, 0) {
            tried.push(match action {
                Action::Bind { pod, .. }
                | Action::Prepare { pod, .. }
                | Action::Explain { pod, .. } => pod.metadata.uid.clone(),
            });
        }
        tried.sort();
        assert_eq!(tried, ["p", "q"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        /// Whatever the order of events: no pod is put where it has no room, none is refused that has room, none is
        /// bound twice, and none waits for room that is there.
        #[test]
        fn never_overcommits(events in proptest::collection::vec(event(), 1..120)) {
            let (mut c, mut l) = (core(), Ledger::default());
            let mut now = 0;
            let mut flying: Vec<String> = vec![];
            for (i, event) in events.into_iter().enumerate() {
                now += 700;
                c.tick(now);
                let uid = format!("p{i}");
                match event {
                    Event::Created(shape) => {
                        c.input(Input::Pod(shaped(&uid, shape, None)), now);
                        l.waiting.insert(uid, shape);
                    }
                    Event::Deleted(which) => {
                        let all: Vec<String> = l.placed.keys().chain(l.waiting.keys()).cloned().collect();
                        if !all.is_empty() {
                            let uid = &all[which % all.len()];
                            let (at, shape) = match l.placed.remove(uid) {
                                Some((n, s)) => (Some(n).filter(|_| !flying.contains(uid)), s),
                                None => (None, l.waiting.remove(uid).unwrap()),
                            };
                            flying.retain(|f| f != uid);
                            c.input(Input::PodGone(shaped(uid, shape, at)), now);
                        }
                    }
                    Event::Foreign(n, shape) => {
                        c.input(Input::Pod(shaped(&uid, shape, Some(n))), now);
                        l.placed.insert(uid, (n, shape));
                    }
                    Event::Node(n, room) => {
                        c.input(roomy(n, room), now);
                        l.nodes.insert(n, room);
                    }
                    Event::NodeGone(n) => if l.nodes.remove(&n).is_some() {
                        c.input(Input::NodeGone(format!("n{n}")), now);
                    },
                    Event::Bound(which) => if !flying.is_empty() {
                        let uid = flying.remove(which % flying.len());
                        let (n, shape) = l.placed[&uid];
                        c.input(Input::Bound { uid: uid.clone(), ok: true }, now);
                        c.input(Input::Pod(shaped(&uid, shape, Some(n))), now);
                    },
                    Event::NotBound(which) => if !flying.is_empty() {
                        let uid = flying.remove(which % flying.len());
                        let (_, shape) = l.placed.remove(&uid).unwrap();
                        c.input(Input::Bound { uid: uid.clone(), ok: false }, now);
                        l.waiting.insert(uid, shape);
                    },
                    Event::Late(which) => if !flying.is_empty() {
                        let uid = &flying[which % flying.len()];
                        c.input(Input::Pod(shaped(uid, l.placed[uid].1, None)), now);
                    },
                    Event::Step(random) => flying.extend(decide(&mut c, &mut l, now, random)?.flatten()),
                }
            }
            // Longer than the longest back-off, shorter than the time after which pods are tried for no reason.
            now += 20_000;
            c.tick(now);
            while decide(&mut c, &mut l, now, 0)?.is_some() {}
            for (uid, shape) in &l.waiting {
                prop_assert!(!l.fits_somewhere(*shape), "{uid} {shape:?} waits for room that is there: {:?} {:?}", l.nodes, l.placed);
            }
        }
    }
}
