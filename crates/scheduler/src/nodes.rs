//! The node table: one row per node, one column per fact, kept in place from events.
//!
//! Invariants: `requested` columns of a row are the sum over the pods in it; a pod is in at most one row. A row is reused
//! after its node and the node's last pod are gone. A row may hold pods before its node is known (pods seen first); such a
//! row is not `live`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::bits::BitSet;
use crate::pod::{HostPorts, Pod, normalized_image};
use crate::resources::Amounts;
use crate::storage::Storage;
use crate::view::{NodeView, Taint};

/// Numbers per row.
#[derive(Default)]
pub struct Columns {
    /// Allocatable milli-cores.
    pub alloc_cpu: Vec<i64>,
    /// Allocatable bytes of memory.
    pub alloc_memory: Vec<i64>,
    /// Allocatable bytes of local storage.
    pub alloc_ephemeral: Vec<i64>,
    /// Allocatable pods.
    pub alloc_pods: Vec<i64>,
    /// Requested milli-cores.
    pub req_cpu: Vec<i64>,
    /// Requested bytes of memory.
    pub req_memory: Vec<i64>,
    /// Requested bytes of local storage.
    pub req_ephemeral: Vec<i64>,
    /// Requested milli-cores with scoring defaults.
    pub nz_cpu: Vec<i64>,
    /// Requested bytes of memory with scoring defaults.
    pub nz_memory: Vec<i64>,
    /// Pods on the node.
    pub pods: Vec<i64>,
}

impl Columns {
    fn all(&mut self) -> [&mut Vec<i64>; 10] {
        [
            &mut self.alloc_cpu,
            &mut self.alloc_memory,
            &mut self.alloc_ephemeral,
            &mut self.alloc_pods,
            &mut self.req_cpu,
            &mut self.req_memory,
            &mut self.req_ephemeral,
            &mut self.nz_cpu,
            &mut self.nz_memory,
            &mut self.pods,
        ]
    }
}

/// The facts of a row that are not numbers.
#[derive(Default)]
pub struct Row {
    /// The node's name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Taints.
    pub taints: Vec<Taint>,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// Extended resources: allocatable and requested.
    pub scalars: BTreeMap<String, (i64, i128)>,
    /// The sums of the columns of requests, which show them cut to their type: what a pod that asks for absurdly much
    /// took, is given back when it goes.
    requested: [i128; 5],
    /// Host ports in use.
    pub ports: HostPorts,
    /// Image sizes by name.
    pub images: HashMap<Arc<str>, i64>,
    /// Pods on the node by UID.
    pub pods: HashMap<String, Pod>,
}

/// What changed about a node, for queueing hints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeChange {
    /// The node is new.
    pub added: bool,
    /// Allocatable grew somewhere.
    pub allocatable: bool,
    /// Labels differ.
    pub labels: bool,
    /// Taints or `unschedulable` differ.
    pub taints: bool,
}

impl NodeChange {
    /// Whether any pod's chances may have improved.
    pub fn any(self) -> bool {
        self.added || self.allocatable || self.labels || self.taints
    }
}

/// All nodes.
#[derive(Default)]
pub struct NodeTable {
    /// Numbers.
    pub columns: Columns,
    rows: Vec<Row>,
    index: HashMap<String, usize>,
    live: BitSet,
    live_count: usize,
    free: Vec<usize>,
    where_is: HashMap<String, usize>,
    image_nodes: HashMap<Arc<str>, usize>,
    static_version: u64,
    with_affinity: usize,
    /// By controller and row: how many of its pods are there and stay.
    replicas: HashMap<String, HashMap<usize, i64>>,
    namespaces: HashMap<String, BTreeMap<String, String>>,
    /// Volumes, and what they hang on.
    pub storage: Storage,
}

impl NodeTable {
    /// The number of nodes.
    pub fn len(&self) -> usize {
        self.live_count
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.live_count == 0
    }

    /// The rows of known nodes.
    pub fn live(&self) -> &BitSet {
        &self.live
    }

    /// One more than the largest row.
    pub fn width(&self) -> usize {
        self.rows.len()
    }

    /// Grows whenever a name, label, taint, cordon or image changes: the stamp of everything a [`crate::pod::Class`] sees.
    pub fn static_version(&self) -> u64 {
        self.static_version
    }

    /// A row.
    pub fn row(&self, row: usize) -> Option<&Row> {
        self.rows.get(row)
    }

    /// The row of a node.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.index
            .get(name)
            .copied()
            .filter(|r| self.live.contains(*r))
    }

    /// The row a pod is in.
    pub fn row_of_pod(&self, uid: &str) -> Option<usize> {
        self.where_is.get(uid).copied()
    }

    /// How many nodes have an image.
    pub fn nodes_with_image(&self, image: &str) -> usize {
        self.image_nodes.get(image).copied().unwrap_or(0)
    }

    /// Whether any placed pod has required anti-affinity or preferred affinity terms of its own.
    pub fn has_pods_with_affinity(&self) -> bool {
        self.with_affinity > 0
    }

    /// The rows that hold pods of a controller, and how many; pods that are being deleted do not count.
    pub fn replicas(&self, controller: &str) -> Option<&HashMap<usize, i64>> {
        self.replicas.get(controller)
    }

    fn count_replica(&mut self, row: usize, pod: &Pod, sign: i64) {
        let Some(controller) = pod.view.replica_of() else {
            return;
        };
        if pod.view.metadata.deletion_timestamp.is_some() {
            return;
        }
        let rows = self.replicas.entry(controller.to_owned()).or_default();
        let n = rows.entry(row).or_default();
        *n += sign;
        if *n == 0 {
            rows.remove(&row);
        }
        if rows.is_empty() {
            self.replicas.remove(controller);
        }
    }

    /// The labels of a namespace; `None` while it is not known.
    pub fn namespace(&self, name: &str) -> Option<&BTreeMap<String, String>> {
        self.namespaces.get(name)
    }

    /// Notes the labels of a namespace.
    pub fn upsert_namespace(&mut self, name: &str, labels: BTreeMap<String, String>) {
        self.namespaces.insert(name.to_owned(), labels);
    }

    /// Forgets a namespace.
    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    fn row_for(&mut self, name: &str) -> usize {
        if let Some(r) = self.index.get(name) {
            return *r;
        }
        let row = self.free.pop().unwrap_or_else(|| {
            self.rows.push(Row::default());
            for c in self.columns.all() {
                c.push(0);
            }
            self.rows.len() - 1
        });
        if let Some(r) = self.rows.get_mut(row) {
            *r = Row {
                name: name.to_owned(),
                ..Row::default()
            };
        }
        self.index.insert(name.to_owned(), row);
        row
    }

    fn release_if_empty(&mut self, row: usize) {
        if self.live.contains(row) {
            return;
        }
        if let Some(r) = self.rows.get_mut(row)
            && r.pods.is_empty()
        {
            self.index.remove(&r.name);
            *r = Row::default();
            for c in self.columns.all() {
                if let Some(v) = c.get_mut(row) {
                    *v = 0;
                }
            }
            self.free.push(row);
        }
    }

    fn set(column: &mut [i64], row: usize, value: i64) -> bool {
        column.get_mut(row).is_some_and(|v| {
            let grew = value > *v;
            *v = value;
            grew
        })
    }

    /// Adds a node or takes over its changes.
    pub fn upsert_node(&mut self, node: &NodeView) -> NodeChange {
        let row = self.row_for(&node.metadata.name);
        let added = !self.live.contains(row);
        let alloc = Amounts::from_list(&node.status.allocatable);
        let mut change = NodeChange {
            added,
            ..NodeChange::default()
        };
        let c = &mut self.columns;
        for (column, value) in [
            (&mut c.alloc_cpu, alloc.cpu),
            (&mut c.alloc_memory, alloc.memory),
            (&mut c.alloc_ephemeral, alloc.ephemeral),
            (&mut c.alloc_pods, alloc.pods),
        ] {
            change.allocatable |= Self::set(column, row, value);
        }
        if added {
            self.live.insert(row);
            self.live_count += 1;
        }
        let Some(r) = self.rows.get_mut(row) else {
            return change;
        };
        // A node may name others each time.
        r.scalars.retain(|name, entry| {
            if !alloc.scalars.contains_key(name) {
                entry.0 = 0;
            }
            *entry != (0, 0) || alloc.scalars.contains_key(name)
        });
        for (name, amount) in &alloc.scalars {
            let entry = r.scalars.entry(name.clone()).or_default();
            change.allocatable |= *amount > entry.0;
            entry.0 = *amount;
        }
        if r.labels != node.metadata.labels {
            r.labels.clone_from(&node.metadata.labels);
            change.labels = true;
        }
        if r.taints != node.spec.taints || r.unschedulable != node.spec.unschedulable {
            r.taints.clone_from(&node.spec.taints);
            r.unschedulable = node.spec.unschedulable;
            change.taints = true;
        }
        let mut images: HashMap<Arc<str>, i64> = HashMap::new();
        for i in &node.status.images {
            for n in &i.names {
                images.insert(normalized_image(n).into(), i.size_bytes);
            }
        }
        let images_changed = images != r.images;
        if images_changed {
            let old = std::mem::replace(&mut r.images, images);
            for name in old.keys() {
                if let Some(n) = self.image_nodes.get_mut(name) {
                    *n -= 1;
                    if *n == 0 {
                        self.image_nodes.remove(name);
                    }
                }
            }
            for name in r.images.keys() {
                *self.image_nodes.entry(name.clone()).or_default() += 1;
            }
        }
        if added || change.labels || change.taints || images_changed {
            self.static_version += 1;
        }
        change
    }

    /// Takes a node away. Its pods stay counted until their own deletion is seen.
    pub fn remove_node(&mut self, name: &str) {
        let Some(row) = self.find(name) else { return };
        self.live.remove(row);
        self.live_count -= 1;
        self.static_version += 1;
        if let Some(r) = self.rows.get_mut(row) {
            for image in std::mem::take(&mut r.images).into_keys() {
                if let Some(n) = self.image_nodes.get_mut(&image) {
                    *n -= 1;
                    if *n == 0 {
                        self.image_nodes.remove(&image);
                    }
                }
            }
        }
        self.release_if_empty(row);
    }

    fn count(&mut self, row: usize, pod: &Pod, sign: i64) {
        self.count_replica(row, pod, sign);
        let u = &pod.usage;
        for claim in &u.claims {
            if sign > 0 {
                self.storage.add_user(&claim.key);
            } else {
                self.storage.remove_user(&claim.key);
            }
        }
        let c = &mut self.columns;
        let Some(r) = self.rows.get_mut(row) else {
            return;
        };
        let columns = [
            (&mut c.req_cpu, u.requests.cpu),
            (&mut c.req_memory, u.requests.memory),
            (&mut c.req_ephemeral, u.requests.ephemeral),
            (&mut c.nz_cpu, u.non_zero_cpu),
            (&mut c.nz_memory, u.non_zero_memory),
        ];
        for ((column, amount), sum) in columns.into_iter().zip(&mut r.requested) {
            *sum += i128::from(sign) * i128::from(amount);
            if let Some(v) = column.get_mut(row) {
                *v = i64::try_from(*sum).unwrap_or(i64::MAX);
            }
        }
        if let Some(v) = c.pods.get_mut(row) {
            *v += sign;
        }
        for (name, amount) in &u.requests.scalars {
            let entry = r.scalars.entry(name.clone()).or_default();
            entry.1 += i128::from(sign) * i128::from(*amount);
        }
    }

    fn has_affinity(pod: &Pod) -> bool {
        pod.view.spec.affinity.as_ref().is_some_and(|a| {
            a.pod_anti_affinity
                .as_ref()
                .is_some_and(|t| !t.required.is_empty() || !t.preferred.is_empty())
                || a.pod_affinity
                    .as_ref()
                    .is_some_and(|t| !t.required.is_empty() || !t.preferred.is_empty())
        })
    }

    /// Puts a pod on a node: assumed, or seen bound. Replaces what was known of the pod.
    pub fn place(&mut self, pod: &Pod, node: &str) {
        let uid = pod.uid().to_owned();
        self.remove_pod(&uid);
        let row = self.row_for(node);
        self.count(row, pod, 1);
        self.with_affinity += usize::from(Self::has_affinity(pod));
        if let Some(r) = self.rows.get_mut(row) {
            pod.usage.ports.iter().for_each(|p| r.ports.add(p));
            r.pods.insert(uid.clone(), pod.clone());
        }
        self.where_is.insert(uid, row);
    }

    /// Takes a pod off its node. Returns whether it was on one.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(row) = self.where_is.remove(uid) else {
            return false;
        };
        let Some(pod) = self.rows.get_mut(row).and_then(|r| r.pods.remove(uid)) else {
            return false;
        };
        self.count(row, &pod, -1);
        self.with_affinity -= usize::from(Self::has_affinity(&pod));
        if let Some(r) = self.rows.get_mut(row) {
            pod.usage.ports.iter().for_each(|p| r.ports.remove(p));
        }
        self.release_if_empty(row);
        true
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::pod::Classes;
    use crate::view::{Container, Meta, NodeStatus, PodView, Resources};
    use proptest::prelude::*;

    pub(crate) fn node(name: &str, cpu: &str, memory: &str) -> NodeView {
        let allocatable = [("cpu", cpu), ("memory", memory), ("pods", "110")]
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        NodeView {
            metadata: Meta {
                name: name.into(),
                ..Meta::default()
            },
            status: NodeStatus {
                allocatable,
                images: vec![],
            },
            ..NodeView::default()
        }
    }

    pub(crate) fn view(uid: &str, cpu: &str, memory: &str) -> PodView {
        let mut requests = BTreeMap::new();
        for (k, v) in [("cpu", cpu), ("memory", memory)] {
            if !v.is_empty() {
                requests.insert(k.to_owned(), v.to_owned());
            }
        }
        let mut v = PodView {
            metadata: Meta {
                name: uid.into(),
                namespace: "default".into(),
                uid: uid.into(),
                ..Meta::default()
            },
            ..PodView::default()
        };
        v.spec.containers.push(Container {
            image: "app".into(),
            resources: Some(Resources { requests }),
            ..Container::default()
        });
        v
    }

    pub(crate) fn pod(uid: &str, cpu: &str, memory: &str) -> Pod {
        Classes::default().pod(Arc::new(view(uid, cpu, memory)))
    }

    #[test]
    fn rows_are_reused_only_when_empty() {
        let mut t = NodeTable::default();
        t.upsert_node(&node("a", "4", "8Gi"));
        t.place(&pod("p", "1", "1Gi"), "a");
        t.remove_node("a");
        assert!(t.find("a").is_none() && t.is_empty());
        t.upsert_node(&node("b", "1", "1Gi"));
        assert_eq!(t.find("b"), Some(1));
        assert!(t.remove_pod("p"));
        t.upsert_node(&node("c", "1", "1Gi"));
        assert_eq!(t.find("c"), Some(0));
        assert_eq!(t.columns.req_cpu[0], 0);
    }

    #[test]
    fn what_pods_hold_counts_while_a_node_does_not_name_it() {
        const GPU: &str = "example.com/gpu";
        let mut t = NodeTable::default();
        let mut with = node("a", "4", "8Gi");
        with.status.allocatable.insert(GPU.into(), "4".into());
        t.upsert_node(&with);
        let mut v = view("p", "1", "");
        let requests = &mut v.spec.containers[0].resources.as_mut().unwrap().requests;
        requests.insert(GPU.into(), "1".into());
        let p = Classes::default().pod(Arc::new(v));
        t.place(&p, "a");
        let scalars = |t: &NodeTable| t.row(0).unwrap().scalars.get(GPU).copied();
        assert_eq!(scalars(&t), Some((4, 1)));
        // A device plugin that begins again is not there for a moment.
        let change = t.upsert_node(&node("a", "4", "8Gi"));
        assert_eq!((scalars(&t), change.any()), (Some((0, 1)), false));
        let change = t.upsert_node(&with);
        assert_eq!((scalars(&t), change.allocatable), (Some((4, 1)), true));
        t.remove_pod("p");
        assert_eq!(scalars(&t), Some((4, 0)));
        // What nobody holds or names is forgotten.
        t.upsert_node(&node("a", "4", "8Gi"));
        assert_eq!(scalars(&t), None);
    }

    #[test]
    fn pods_may_come_before_their_node() {
        let mut t = NodeTable::default();
        t.place(&pod("p", "1", ""), "late");
        assert!(t.is_empty());
        let change = t.upsert_node(&node("late", "4", "8Gi"));
        assert!(change.added);
        assert_eq!(t.columns.req_cpu[t.find("late").unwrap()], 1000);
    }

    proptest! {
        /// Whatever is placed, moved and removed, the columns are the sums over the pods that are there.
        #[test]
        fn bookkeeping(ops in proptest::collection::vec((0usize..8, 0usize..4, any::<bool>(), 1i64..4), 0..200)) {
            let mut t = NodeTable::default();
            let mut model: HashMap<String, (usize, i64)> = HashMap::new();
            for n in 0..4 {
                t.upsert_node(&node(&format!("n{n}"), "64", "64Gi"));
            }
            for (p, n, place, cpu) in ops {
                let uid = format!("p{p}");
                if place {
                    t.place(&pod(&uid, &cpu.to_string(), ""), &format!("n{n}"));
                    model.insert(uid, (n, cpu * 1000));
                } else {
                    prop_assert_eq!(t.remove_pod(&uid), model.remove(&uid).is_some());
                }
            }
            for n in 0..4 {
                let row = t.find(&format!("n{n}")).unwrap();
                let cpu: i64 = model.values().filter(|(m, _)| *m == n).map(|(_, c)| c).sum();
                prop_assert_eq!(t.columns.req_cpu[row], cpu);
                prop_assert_eq!(t.columns.pods[row], model.values().filter(|(m, _)| *m == n).count() as i64);
            }
        }
    }
}
