//! The scheduler's core behind a guard: one object that makes it panic stops nobody else.
//!
//! After a panic nothing is known of the core's state, so it is made anew from what the watches have told, without the object
//! that was being looked at; decisions whose bindings are not yet seen are carried over. The object is looked at again after a
//! while, longer each time. A pod's owner is told.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use crate::config::Config;
use crate::core::{Action, Core, Input, Nomination, Preparations, Sizes};
use crate::queue::Millis;
use crate::storage::Change;
use crate::view::{NodeView, PodView};

const LEAVE_OUT: Millis = 10_000;
const LEAVE_OUT_MAX: Millis = 3_600_000;
/// Panics of which no object can be blamed, one after the other, before the process may as well end.
const UNEXPLAINED: u32 = 3;

/// What an input is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Object {
    Pod(String),
    Node(String),
    Namespace(String),
    /// Of a kind, by key.
    Storage(&'static str, String),
}

struct LeftOut {
    times: u32,
    until: Millis,
    /// Whether it is being tried again.
    trying: bool,
}

/// The core and all it was told.
pub struct Guard {
    core: Core,
    make: Box<dyn Fn() -> Core + Send>,
    pods: HashMap<String, Arc<PodView>>,
    nodes: BTreeMap<String, Arc<NodeView>>,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    storage: BTreeMap<(&'static str, String), Change>,
    /// Decided, and not yet seen bound.
    deciding: HashMap<String, (Arc<PodView>, String)>,
    left_out: BTreeMap<Object, LeftOut>,
    panics: u64,
    unexplained: u32,
}

impl Guard {
    /// Nothing known yet.
    pub fn new(config: &Config) -> Guard {
        let config = config.clone();
        Guard::of(Box::new(move || Core::new(&config)))
    }

    fn of(make: Box<dyn Fn() -> Core + Send>) -> Guard {
        Guard {
            core: make(),
            make,
            pods: HashMap::new(),
            nodes: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            storage: BTreeMap::new(),
            deciding: HashMap::new(),
            left_out: BTreeMap::new(),
            panics: 0,
            unexplained: 0,
        }
    }

    /// How many panics were caught.
    pub fn panics(&self) -> u64 {
        self.panics + self.core.panics()
    }

    /// Pods per part of the queue.
    pub fn sizes(&self) -> Sizes {
        self.core.sizes()
    }

    /// When [`Guard::tick`] is due.
    pub fn next_due(&self) -> Option<Millis> {
        let again = self.left_out.values().filter(|l| !l.trying);
        let again = again.map(|l| l.until).min();
        self.core.next_due().into_iter().chain(again).min()
    }

    /// Keeps what a new core must be told; whom the input is about.
    fn remember(&mut self, input: &Input) -> Option<Object> {
        match input {
            Input::Pod(p) => {
                let uid = &p.metadata.uid;
                if !p.spec.node_name.is_empty() {
                    self.deciding.remove(uid);
                }
                self.pods.insert(uid.clone(), p.clone());
                Some(Object::Pod(uid.clone()))
            }
            Input::PodGone(p) => {
                self.pods.remove(&p.metadata.uid);
                self.deciding.remove(&p.metadata.uid);
                self.left_out.remove(&Object::Pod(p.metadata.uid.clone()));
                Some(Object::Pod(p.metadata.uid.clone()))
            }
            Input::Node(n) => {
                let name = &n.metadata.name;
                self.nodes.insert(name.clone(), n.clone());
                Some(Object::Node(name.clone()))
            }
            Input::NodeGone(name) => {
                self.nodes.remove(name);
                self.left_out.remove(&Object::Node(name.clone()));
                Some(Object::Node(name.clone()))
            }
            Input::Namespace(name, labels) => {
                self.namespaces.insert(name.clone(), labels.clone());
                Some(Object::Namespace(name.clone()))
            }
            Input::NamespaceGone(name) => {
                self.namespaces.remove(name);
                self.left_out.remove(&Object::Namespace(name.clone()));
                Some(Object::Namespace(name.clone()))
            }
            Input::Storage(change) => {
                let (kind, key) = change.object();
                let object = Object::Storage(kind, key.clone());
                if change.is_gone() {
                    self.storage.remove(&(kind, key));
                    self.left_out.remove(&object);
                } else {
                    self.storage.insert((kind, key), change.clone());
                }
                Some(object)
            }
            Input::Bound { uid, ok } => {
                if !ok {
                    self.deciding.remove(uid);
                }
                None
            }
            Input::Prepared { .. } => None,
        }
    }

    /// Takes in what happened.
    pub fn input(&mut self, input: Input, now: Millis) {
        let object = self.remember(&input);
        if object.as_ref().is_some_and(|o| self.is_left_out(o)) {
            return;
        }
        self.tell(input, object, now);
    }

    fn is_left_out(&self, object: &Object) -> bool {
        self.left_out.get(object).is_some_and(|l| !l.trying)
    }

    fn tell(&mut self, input: Input, object: Option<Object>, now: Millis) {
        let core = &mut self.core;
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| core.input(input, now))) {
            self.recover(object, panic, now);
        }
    }

    /// Moves what time has freed.
    pub fn tick(&mut self, now: Millis) {
        let due = |l: &LeftOut| !l.trying && l.until <= now;
        let again: Vec<Object> = self
            .left_out
            .iter()
            .filter(|(_, l)| due(l))
            .map(|(o, _)| o.clone())
            .collect();
        for object in again {
            if let Some(l) = self.left_out.get_mut(&object) {
                l.trying = true;
            }
            if let Some(input) = self.current(&object) {
                self.tell(input, Some(object), now);
            }
        }
        let core = &mut self.core;
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| core.tick(now))) {
            self.recover(None, panic, now);
        }
    }

    /// The next decision, if a pod is ready for one. `random` picks among equally good nodes.
    pub fn step(&mut self, now: Millis, random: u64) -> Option<Action> {
        let core = &mut self.core;
        match catch_unwind(AssertUnwindSafe(|| core.step(now, random))) {
            Ok(action) => {
                self.unexplained = 0;
                if let Some(Action::Bind { pod, node, .. }) = &action {
                    let uid = pod.metadata.uid.clone();
                    self.left_out.remove(&Object::Pod(uid.clone()));
                    self.deciding.insert(uid, (pod.clone(), node.clone()));
                }
                action
            }
            Err(panic) => {
                let uid = self.core.trying().map(str::to_owned);
                let pod = uid.as_ref().and_then(|uid| self.pods.get(uid)).cloned();
                self.recover(uid.map(Object::Pod), panic, now);
                pod.map(|pod| Action::Explain {
                    pod,
                    reason: "SchedulerError",
                    message: "the scheduler failed on this pod and will try it again later; its log says more".into(),
                    nomination: Nomination::Kept,
                })
            }
        }
    }

    fn current(&self, object: &Object) -> Option<Input> {
        match object {
            Object::Pod(uid) => self.pods.get(uid).cloned().map(Input::Pod),
            Object::Node(name) => self.nodes.get(name).cloned().map(Input::Node),
            Object::Namespace(name) => {
                let labels = self.namespaces.get(name)?.clone();
                Some(Input::Namespace(name.clone(), labels))
            }
            Object::Storage(kind, key) => {
                let change = self.storage.get(&(*kind, key.clone()));
                change.cloned().map(Input::Storage)
            }
        }
    }

    /// A core that knows all but what is left out. `culprit` is, from now on.
    fn recover(
        &mut self,
        mut culprit: Option<Object>,
        panic: Box<dyn std::any::Any + Send>,
        now: Millis,
    ) {
        self.panics += self.core.panics() + 1;
        if culprit.is_none() {
            self.unexplained += 1;
            if self.unexplained >= UNEXPLAINED {
                resume_unwind(panic);
            }
        }
        let preparations = self.core.preparations();
        loop {
            if let Some(object) = culprit.take() {
                tracing::error!(
                    ?object,
                    "The scheduler panicked over an object; it is left out for a while"
                );
                let l = self.left_out.entry(object).or_insert(LeftOut {
                    times: 0,
                    until: 0,
                    trying: false,
                });
                l.times += 1;
                l.trying = false;
                let wait = LEAVE_OUT.saturating_mul(1 << (l.times - 1).min(16));
                l.until = now.saturating_add(wait.min(LEAVE_OUT_MAX));
            }
            self.core = (self.make)();
            match self.replay(&preparations, now) {
                Ok(()) => return,
                Err(object) => culprit = Some(object),
            }
        }
    }

    /// Tells a new core everything; the object over which it panicked.
    fn replay(&mut self, preparations: &Preparations, now: Millis) -> Result<(), Object> {
        let namespaces = self
            .namespaces
            .iter()
            .map(|(n, l)| Input::Namespace(n.clone(), l.clone()));
        let nodes = self.nodes.values().map(|n| Input::Node(n.clone()));
        let pods = self.pods.values().map(|p| Input::Pod(p.clone()));
        let core = &mut self.core;
        let left_out = |object: &Object| self.left_out.get(object).is_some_and(|l| !l.trying);
        let told = |core: &mut Core, object: Object, f: &mut dyn FnMut(&mut Core)| {
            if left_out(&object) {
                return Ok(());
            }
            catch_unwind(AssertUnwindSafe(|| f(core))).map_err(|_| object)
        };
        let storage = self.storage.values().cloned().map(Input::Storage);
        for input in namespaces.chain(nodes).chain(storage) {
            let object = match &input {
                Input::Node(n) => Object::Node(n.metadata.name.clone()),
                Input::Namespace(name, _) => Object::Namespace(name.clone()),
                Input::Storage(change) => {
                    let (kind, key) = change.object();
                    Object::Storage(kind, key)
                }
                _ => continue,
            };
            let mut input = Some(input);
            told(core, object, &mut |core| {
                if let Some(input) = input.take() {
                    core.input(input, now);
                }
            })?;
        }
        let kept = preparations.without(|uid| left_out(&Object::Pod(uid.to_owned())));
        core.take_over(&kept);
        for uid in kept.uids() {
            told(core, Object::Pod(uid.clone()), &mut |core| {
                core.resume(&kept, uid);
            })?;
        }
        for (uid, (pod, node)) in &self.deciding {
            told(core, Object::Pod(uid.clone()), &mut |core| {
                core.assume(pod.clone(), node);
            })?;
        }
        for input in pods {
            let Input::Pod(pod) = &input else { continue };
            let object = Object::Pod(pod.metadata.uid.clone());
            let mut input = Some(input);
            told(core, object, &mut |core| {
                if let Some(input) = input.take() {
                    core.input(input, now);
                }
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::{Filter, Plugin, Reason, Scope};
    use crate::nodes::NodeTable;
    use crate::nodes::tests::{node, view};
    use crate::pod::Pod;

    /// Panics over pods of some names.
    struct Trap;

    impl Filter for Trap {
        fn relevant(&self, _: &Pod) -> bool {
            true
        }

        fn explain(&self, pod: &Pod, nodes: &NodeTable, row: usize) -> Vec<Reason> {
            assert!(!pod.uid().starts_with("bad"), "a trap");
            let name = nodes.row(row).map_or("", |r| &r.name);
            if pod.uid().starts_with("full") && name == "a" {
                return vec![Reason::fixed("a trap on this node")];
            }
            Vec::new()
        }
    }

    fn guard() -> Guard {
        Guard::of(Box::new(|| {
            let mut core = Core::new(&Config::default());
            core.add_plugin(&|| Plugin {
                pre_enqueue: Some(|pod| {
                    assert!(!pod.uid().starts_with("worse"), "a trap at the door");
                    Ok(())
                }),
                filter: Some(Scope::Dynamic(Box::new(Trap))),
                hint: |_, pod, _| {
                    assert!(!pod.uid().starts_with("full"), "a trap in a hint");
                    true
                },
                ..Plugin::new("Trap")
            });
            core
        }))
    }

    fn pod(uid: &str, cpu: &str, node: &str) -> Arc<PodView> {
        let mut v = view(uid, cpu, "");
        v.spec.node_name = node.into();
        v.spec.scheduler_name = "default-scheduler".into();
        Arc::new(v)
    }

    fn decisions(g: &mut Guard, now: Millis) -> Vec<String> {
        let mut out = Vec::new();
        while let Some(action) = g.step(now, 0) {
            out.push(match action {
                Action::Bind { pod, node, .. } => format!("{} on {node}", pod.metadata.uid),
                Action::Prepare { pod, node, .. } => {
                    format!("{} prepared for {node}", pod.metadata.uid)
                }
                Action::Explain { pod, reason, .. } => format!("{}: {reason}", pod.metadata.uid),
            });
        }
        out.sort();
        out
    }

    #[test]
    fn a_pod_that_panics_stops_nobody_and_is_tried_again() {
        let mut g = guard();
        g.input(Input::Node(Arc::new(node("a", "4", "4Gi"))), 0);
        g.input(Input::Pod(pod("placed", "1", "a")), 0);
        g.input(Input::Pod(pod("first", "1", "")), 0);
        assert_eq!(decisions(&mut g, 0), ["first on a"]);
        g.input(Input::Pod(pod("bad", "1", "")), 0);
        g.input(Input::Pod(pod("worse", "1", "")), 0);
        g.input(Input::Pod(pod("second", "1", "")), 0);
        assert_eq!(decisions(&mut g, 0), ["bad: SchedulerError", "second on a"]);
        // What was decided before still counts: one CPU of four is left.
        g.input(Input::Pod(pod("third", "2", "")), 1);
        assert_eq!(decisions(&mut g, 1), ["third: Unschedulable"]);
        assert_eq!(g.panics(), 2);
        // Not before its time, and then after a longer one.
        g.input(Input::Pod(pod("bad", "1", "")), 2);
        assert!(decisions(&mut g, 2).is_empty());
        let due = g.left_out[&Object::Pod("bad".into())].until;
        g.tick(due);
        let told = decisions(&mut g, due);
        assert!(told.contains(&"bad: SchedulerError".to_owned()), "{told:?}");
        assert!(g.left_out[&Object::Pod("bad".into())].until > due + LEAVE_OUT);
        g.input(Input::PodGone(pod("bad", "1", "")), due);
        assert!(!g.left_out.contains_key(&Object::Pod("bad".into())));
    }

    #[test]
    fn everything_that_was_told_is_known_after_a_panic() {
        let mut g = guard();
        let labels = BTreeMap::from([("team".to_owned(), "a".to_owned())]);
        g.input(Input::Namespace("kept".into(), labels.clone()), 0);
        g.input(Input::Namespace("gone".into(), labels.clone()), 0);
        g.input(Input::NamespaceGone("gone".into()), 0);
        g.input(Input::Node(Arc::new(node("a", "4", "4Gi"))), 0);
        g.input(Input::Node(Arc::new(node("gone", "4", "4Gi"))), 0);
        g.input(Input::NodeGone("gone".into()), 0);
        g.input(Input::Pod(pod("placed", "1", "a")), 0);
        g.input(Input::Pod(pod("bad", "1", "")), 0);
        assert_eq!(decisions(&mut g, 0), ["bad: SchedulerError"]);
        let table = g.core.nodes();
        assert_eq!(table.namespace("kept"), Some(&labels));
        assert_eq!(table.namespace("gone"), None);
        assert_eq!((table.find("a"), table.find("gone")), (Some(0), None));
        assert_eq!(table.row_of_pod("placed"), Some(0));
    }

    /// A pod that waits for its volumes, and what it was promised, outlive the core that decided.
    #[test]
    fn pods_that_are_being_prepared_go_on_after_a_panic() {
        use crate::storage::tests::{change, claim, class, pod_view, uses, volume};
        use serde_json::json;
        let told = |g: &mut Guard, kind: &str, object| {
            g.input(Input::Storage(change(kind, object)), 0);
        };
        let mut g = guard();
        g.input(Input::Node(Arc::new(node("a", "4", "4Gi"))), 0);
        let local = "kubernetes.io/no-provisioner";
        told(
            &mut g,
            "class",
            class("local", "WaitForFirstConsumer", local),
        );
        told(&mut g, "volume", volume("v", "local", "1Gi", ""));
        for name in ["c", "d"] {
            told(&mut g, "claim", claim(name, "local", ""));
        }
        g.input(Input::Pod(pod_view("p", uses(&["c"]))), 0);
        assert_eq!(decisions(&mut g, 0), ["p prepared for a"]);
        g.input(Input::Pod(pod("bad", "1", "")), 0);
        assert_eq!(decisions(&mut g, 0), ["bad: SchedulerError"]);
        // The volume is promised still.
        g.input(Input::Pod(pod_view("q", uses(&["d"]))), 0);
        assert_eq!(decisions(&mut g, 0), ["q: Unschedulable"]);
        let prepared = Input::Prepared {
            uid: "p".into(),
            versions: vec![2],
            error: None,
        };
        g.input(prepared, 1);
        let reference = json!({"namespace": "default", "name": "c", "uid": "uid-c"});
        let mut bound = volume("v", "local", "1Gi", "");
        bound["spec"]["claimRef"] = reference;
        bound["metadata"]["resourceVersion"] = "2".into();
        told(&mut g, "volume", bound);
        told(&mut g, "claim", claim("c", "local", "v"));
        g.input(Input::Pod(pod("bad-2", "1", "")), 1);
        let said = decisions(&mut g, 1);
        assert!(said.contains(&"p on a".to_owned()), "{said:?}");
        // Its binding fails after another panic: it is tried again.
        g.input(Input::Pod(pod("bad-3", "1", "")), 1);
        decisions(&mut g, 1);
        let failed = Input::Bound {
            uid: "p".into(),
            ok: false,
        };
        g.input(failed, 2);
        assert_eq!(decisions(&mut g, 2), ["p on a"]);
    }

    #[test]
    fn a_hint_that_panics_is_not_the_fault_of_what_happened() {
        let mut g = guard();
        g.input(Input::Node(Arc::new(node("a", "2", "4Gi"))), 0);
        g.input(Input::Pod(pod("full", "2", "")), 0);
        assert_eq!(decisions(&mut g, 0), ["full: Unschedulable"]);
        g.input(Input::Node(Arc::new(node("b", "2", "4Gi"))), 100_000);
        assert!(g.left_out.is_empty());
        assert_eq!(g.panics(), 1);
        g.tick(200_000);
        assert_eq!(decisions(&mut g, 200_000), ["full on b"]);
    }
}
