//! The framework: what a plugin may do, and at which point of a pod's way.
//!
//! A plugin is one file in `plugins/` and one line in [`crate::plugins::all`]. What it can do stands in its descriptor's
//! fields. Filters and scores work on all rows of the node table at once; those that look at a pod's [`Class`] alone are
//! `Static`, and their results are kept per class until a node's name, labels, taints or images change.

use client::Resource;
use serde_json::Value;

use crate::bits::BitSet;
use crate::nodes::{NodeChange, NodeTable};
use crate::pod::Pod;
use crate::storage::News;

/// The largest score of a plugin after normalising.
pub const MAX_SCORE: i64 = 100;

/// Why a node does not suit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Upstream's text.
    pub text: String,
    /// Whether removing pods from the node could help (`Unschedulable` rather than `UnschedulableAndUnresolvable`).
    pub resolvable: bool,
}

impl Reason {
    /// A reason that preemption cannot mend.
    pub fn fixed(text: impl Into<String>) -> Reason {
        Reason {
            text: text.into(),
            resolvable: false,
        }
    }

    /// A reason that goes away when pods do.
    pub fn resolvable(text: impl Into<String>) -> Reason {
        Reason {
            text: text.into(),
            resolvable: true,
        }
    }
}

/// Why a pod cannot be placed at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No node suits, whichever it is.
    Unfit(Reason),
    /// It cannot be told; to be tried again.
    Error(String),
}

/// Looks at what does not depend on the node, before any filter. The first that refuses is the only one that is told of.
pub type PreFilter = fn(&Pod, &NodeTable) -> Result<(), Refusal>;

/// The reasons against a row.
pub type Check<'a> = Box<dyn Fn(usize) -> Vec<Reason> + 'a>;

/// Decides which nodes a pod may run on. An implementation has `explain` or `check`, whichever suits; each is made of the
/// other.
pub trait Filter: Send + Sync {
    /// Whether this filter has anything to do with the pod.
    fn relevant(&self, pod: &Pod) -> bool;

    /// Why the pod may not run on a row; empty when it may.
    fn explain(&self, pod: &Pod, nodes: &NodeTable, row: usize) -> Vec<Reason> {
        self.check(pod, nodes)(row)
    }

    /// `explain` for many rows of one state of the table: what all rows have in common is worked out once.
    fn check<'a>(&'a self, pod: &'a Pod, nodes: &'a NodeTable) -> Check<'a> {
        Box::new(move |row| self.explain(pod, nodes, row))
    }

    /// Takes the rows out of `feasible` for which there is a reason.
    fn apply(&self, pod: &Pod, nodes: &NodeTable, feasible: &mut BitSet) {
        let check = self.check(pod, nodes);
        feasible.retain(|row| check(row).is_empty());
    }
}

/// Says how well nodes suit.
pub trait Score: Send + Sync {
    /// Whether this score can differ between nodes for the pod.
    fn relevant(&self, pod: &Pod, nodes: &NodeTable) -> bool;

    /// Writes the raw score of each row in `rows` to `out` (as wide as the table).
    fn score(&self, pod: &Pod, nodes: &NodeTable, rows: &BitSet, out: &mut [i64]);

    /// How raw scores become 0 to [`MAX_SCORE`].
    fn normalize(&self) -> Normalize {
        Normalize::AsIs
    }
}

/// How raw scores are brought to 0..=100, over the feasible rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalize {
    /// They are already.
    AsIs,
    /// In proportion to the largest.
    Proportional,
    /// In inverse proportion to the largest: the smallest raw score is best.
    Inverse,
    /// Linear between the smallest and the largest.
    MinMax,
}

/// What happened in the cluster that may let a rejected pod fit.
#[derive(Clone, Debug)]
pub enum ClusterEvent<'a> {
    /// A node came or changed.
    Node {
        /// Its row.
        row: usize,
        /// What changed.
        change: NodeChange,
    },
    /// A pod that held a node was deleted or ended.
    PodGone(&'a Pod),
    /// A pod was placed or its labels changed.
    PodPlaced(&'a Pod),
    /// Something about volumes. Pods that use none are not asked.
    Storage(&'a News),
}

/// When a pod that the plugin rejected is worth another try.
pub type Hint = fn(event: &ClusterEvent<'_>, pod: &Pod, nodes: &NodeTable) -> bool;

/// Whether a pod may enter the queue; the error tells what it waits for.
pub type Admission = fn(&Pod) -> Result<(), String>;

/// A write that must be made before a pod is bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// What.
    pub resource: &'static Resource,
    /// Empty for what belongs to the cluster.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// A merge patch that is refused when the object is not what it was; none when it is so already.
    pub patch: Option<Value>,
    /// The version that was decided upon.
    pub version: u64,
}

/// Takes what a pod gets beside its place: Reserve, PreBind and Unreserve.
pub trait Hold: Send + Sync {
    /// Whether this has anything to do with the pod.
    fn relevant(&self, pod: &Pod) -> bool;

    /// Reserve: takes it for the pod, which was just placed on the row. `Some` when the pod has to wait before it is bound:
    /// for these writes, and then for [`Hold::is_ready`].
    ///
    /// # Errors
    /// Why it cannot be taken; nothing is then.
    fn reserve(
        &self,
        pod: &Pod,
        nodes: &mut NodeTable,
        row: usize,
    ) -> Result<Option<Vec<Write>>, String>;

    /// The versions that were written, in the order of the writes, as far as they went.
    fn written(&self, pod: &Pod, nodes: &mut NodeTable, versions: &[u64]);

    /// PreBind: whether the pod can be bound now. It is asked again when what it waits for changes.
    ///
    /// # Errors
    /// Why that will not come about.
    fn is_ready(&self, pod: &Pod, nodes: &NodeTable, node: &str) -> Result<bool, String>;

    /// How long a pod waits at most, from the last write on.
    fn patience(&self) -> std::time::Duration;

    /// The error of a pod that waited for longer.
    fn too_late(&self) -> String;

    /// Unreserve: what was taken and is not the API's is free again. Also once the pod can be bound.
    fn release(&self, pod: &Pod, nodes: &mut NodeTable);
}

/// PostBind: the apiserver has taken a pod's binding.
pub type PostBind = fn(&Pod, &mut NodeTable);

/// Whether work can be shared between pods of one class.
pub enum Scope<T: ?Sized> {
    /// Looks at the class and at the static facts of nodes alone.
    Static(Box<T>),
    /// Looks at the pod itself or at what is placed.
    Dynamic(Box<T>),
}

impl<T: ?Sized> Scope<T> {
    /// The ability, whatever its scope.
    pub fn get(&self) -> &T {
        match self {
            Scope::Static(t) | Scope::Dynamic(t) => t,
        }
    }
}

/// A plugin and its abilities.
pub struct Plugin {
    /// As the configuration names it.
    pub name: &'static str,
    /// The default weight of its score.
    pub weight: i64,
    /// Keeps a pod out of the queue; the message tells why.
    pub pre_enqueue: Option<Admission>,
    /// Refuses a pod whatever the node.
    pub pre_filter: Option<PreFilter>,
    /// Filters.
    pub filter: Option<Scope<dyn Filter>>,
    /// Scores.
    pub score: Option<Scope<dyn Score>>,
    /// Takes what the pod gets beside its place, and makes it ready.
    pub hold: Option<Box<dyn Hold>>,
    /// Is told of bindings.
    pub post_bind: Option<PostBind>,
    /// Says when to try again.
    pub hint: Hint,
}

impl Plugin {
    /// A plugin with no abilities.
    pub fn new(name: &'static str) -> Plugin {
        Plugin {
            name,
            weight: 0,
            pre_enqueue: None,
            pre_filter: None,
            filter: None,
            score: None,
            hold: None,
            post_bind: None,
            hint: |_, _, _| true,
        }
    }
}
