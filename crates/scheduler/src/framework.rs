//! The framework: what a plugin may do, and at which point of a pod's way.
//!
//! A plugin is one file in `plugins/` and one line in [`crate::plugins::all`]. What it can do stands in its descriptor's
//! fields. Filters and scores work on all rows of the node table at once; those that look at a pod's [`Class`] alone are
//! `Static`, and their results are kept per class until a node's name, labels, taints or images change.

use crate::bits::BitSet;
use crate::nodes::{NodeChange, NodeTable};
use crate::pod::Pod;

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
}

/// When a pod that the plugin rejected is worth another try.
pub type Hint = fn(event: &ClusterEvent<'_>, pod: &Pod, nodes: &NodeTable) -> bool;

/// Whether a pod may enter the queue; the error tells what it waits for.
pub type Admission = fn(&Pod) -> Result<(), String>;

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
    /// Filters.
    pub filter: Option<Scope<dyn Filter>>,
    /// Scores.
    pub score: Option<Scope<dyn Score>>,
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
            filter: None,
            score: None,
            hint: |_, _, _| true,
        }
    }
}
