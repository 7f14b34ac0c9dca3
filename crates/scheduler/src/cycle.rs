//! One scheduling decision: pure, on the node table as it is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::bits::BitSet;
use crate::config::Profile;
use crate::framework::{MAX_SCORE, Normalize, Plugin, Reason, Refusal, Scope};
use crate::nodes::NodeTable;
use crate::plugins;
use crate::pod::{Class, Pod};

/// What the static plugins say about a class, valid for one static version of the table.
struct Shared {
    version: u64,
    feasible: BitSet,
    /// Raw static scores by plugin index; all-equal ones are left out.
    scores: Vec<(usize, Arc<[i64]>)>,
}

/// Why a pod fits nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FitError {
    /// The number of nodes.
    pub nodes: usize,
    /// What refused the pod before any node was looked at.
    pub pre_filter: String,
    /// How many nodes gave each reason.
    pub reasons: BTreeMap<String, usize>,
    /// Rows that preemption could mend.
    pub resolvable: Vec<usize>,
    /// The plugins that rejected, by index.
    pub plugins: BTreeSet<usize>,
    /// What preemption had to say, `preemption: …`.
    pub post_filter: String,
}

/// Upstream's histogram: `0/3 nodes are available: 1 a, 2 b.`
pub fn histogram(nodes: usize, reasons: &BTreeMap<String, usize>) -> String {
    let mut parts: Vec<String> = reasons.iter().map(|(r, n)| format!("{n} {r}")).collect();
    parts.sort();
    if parts.is_empty() {
        format!("0/{nodes} nodes are available:")
    } else {
        format!("0/{nodes} nodes are available: {}.", parts.join(", "))
    }
}

impl FitError {
    /// The message of the PodScheduled condition and the FailedScheduling event.
    pub fn message(&self) -> String {
        let mut m = if self.pre_filter.is_empty() {
            histogram(self.nodes, &self.reasons)
        } else {
            format!("0/{} nodes are available: {}.", self.nodes, self.pre_filter)
        };
        if !self.post_filter.is_empty() {
            m.push(' ');
            m.push_str(&self.post_filter);
        }
        m
    }
}

/// The outcome of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Run it on this row.
    Place(usize),
    /// There are no nodes at all.
    NoNodes,
    /// No node suits.
    Unfit(Box<FitError>),
    /// It cannot be told.
    Error(String),
}

/// Makes decisions for one profile.
pub struct Decider {
    /// The profile.
    pub profile: Profile,
    /// Its plugins.
    pub plugins: Vec<Plugin>,
    shared: HashMap<Arc<Class>, Shared>,
    total: Vec<i64>,
    scratch: Vec<i64>,
}

impl Decider {
    const MAX_CLASSES: usize = 1024;

    /// For a profile.
    pub fn new(profile: Profile) -> Decider {
        let plugins = plugins::all(&profile);
        Decider {
            profile,
            plugins,
            shared: HashMap::new(),
            total: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Whether a pod that fits nowhere may displace others.
    pub fn preempts(&self) -> bool {
        self.profile.preemption
    }

    fn weight(&self, plugin: &Plugin) -> i64 {
        self.profile
            .weights
            .get(plugin.name)
            .copied()
            .unwrap_or(plugin.weight)
    }

    fn refresh(&mut self, pod: &Pod, nodes: &NodeTable) {
        let version = nodes.static_version();
        if self
            .shared
            .get(&pod.class)
            .is_some_and(|s| s.version == version)
        {
            return;
        }
        let mut feasible = nodes.live().clone();
        let mut scores = Vec::new();
        for (i, p) in self.plugins.iter().enumerate() {
            if let Some(Scope::Static(f)) = &p.filter
                && f.relevant(pod)
            {
                f.apply(pod, nodes, &mut feasible);
            }
            if let Some(Scope::Static(s)) = &p.score
                && s.relevant(pod, nodes)
            {
                let mut raw = vec![0; nodes.width()];
                s.score(pod, nodes, nodes.live(), &mut raw);
                let mut values = nodes.live().iter().filter_map(|r| raw.get(r));
                let first = values.next();
                if values.any(|v| Some(v) != first) {
                    scores.push((i, raw.into()));
                }
            }
        }
        if self.shared.len() >= Self::MAX_CLASSES {
            self.shared.clear();
        }
        self.shared.insert(
            pod.class.clone(),
            Shared {
                version,
                feasible,
                scores,
            },
        );
    }

    /// The rows that suit.
    pub fn feasible(&mut self, pod: &Pod, nodes: &NodeTable) -> BitSet {
        self.refresh(pod, nodes);
        let mut rows = self
            .shared
            .get(&pod.class)
            .map(|s| s.feasible.clone())
            .unwrap_or_default();
        for p in &self.plugins {
            if let Some(Scope::Dynamic(f)) = &p.filter
                && f.relevant(pod)
            {
                f.apply(pod, nodes, &mut rows);
            }
        }
        rows
    }

    /// Whether the dynamic and static filters let the pod run on one row.
    pub fn fits(&self, pod: &Pod, nodes: &NodeTable, row: usize) -> bool {
        self.refusal(pod, nodes, row).is_empty()
    }

    /// The reasons of the first filter that keeps the pod off one row; none if it fits.
    pub fn refusal(&self, pod: &Pod, nodes: &NodeTable, row: usize) -> Vec<Reason> {
        self.plugins
            .iter()
            .filter_map(|p| p.filter.as_ref())
            .map(Scope::get)
            .filter(|f| f.relevant(pod))
            .map(|f| f.explain(pod, nodes, row))
            .find(|reasons| !reasons.is_empty())
            .unwrap_or_default()
    }

    /// Node by node, the reasons of the first filter that refuses: what a person asks about a pending pod.
    pub fn explain(&self, pod: &Pod, nodes: &NodeTable) -> Vec<(usize, usize, Vec<Reason>)> {
        let mut out = Vec::new();
        let mut left = nodes.live().clone();
        for (i, p) in self.plugins.iter().enumerate() {
            let Some(f) = &p.filter else { continue };
            let f = f.get();
            if !f.relevant(pod) {
                continue;
            }
            let check = f.check(pod, nodes);
            left.retain(|row| {
                let reasons = check(row);
                let fits = reasons.is_empty();
                if !fits {
                    out.push((row, i, reasons));
                }
                fits
            });
        }
        out
    }

    fn unfit(&self, pod: &Pod, nodes: &NodeTable) -> FitError {
        let mut e = FitError {
            nodes: nodes.len(),
            pre_filter: String::new(),
            reasons: BTreeMap::new(),
            resolvable: Vec::new(),
            plugins: BTreeSet::new(),
            post_filter: String::new(),
        };
        for (row, plugin, reasons) in self.explain(pod, nodes) {
            e.plugins.insert(plugin);
            if reasons.iter().all(|r| r.resolvable) {
                e.resolvable.push(row);
            }
            for r in reasons {
                *e.reasons.entry(r.text).or_default() += 1;
            }
        }
        e
    }

    /// What refuses the pod before any node is looked at.
    fn refused(&self, pod: &Pod, nodes: &NodeTable) -> Option<Decision> {
        let checks = self.plugins.iter().enumerate();
        let mut checks = checks.filter_map(|(i, p)| Some((i, p.name, p.pre_filter?)));
        let (i, name, refusal) =
            checks.find_map(|(i, name, check)| Some((i, name, check(pod, nodes).err()?)))?;
        Some(match refusal {
            Refusal::Error(why) => {
                Decision::Error(format!("running PreFilter plugin \"{name}\": {why}"))
            }
            Refusal::Unfit(reason) => Decision::Unfit(Box::new(FitError {
                nodes: nodes.len(),
                pre_filter: reason.text,
                reasons: BTreeMap::new(),
                resolvable: Vec::new(),
                plugins: BTreeSet::from([i]),
                post_filter: String::new(),
            })),
        })
    }

    /// Decides. `random` picks among the best nodes.
    pub fn decide(&mut self, pod: &Pod, nodes: &NodeTable, random: u64) -> Decision {
        if nodes.is_empty() {
            return Decision::NoNodes;
        }
        if let Some(refused) = self.refused(pod, nodes) {
            return refused;
        }
        // Where preemption made room is tried first.
        let nominated = &pod.view.status.nominated_node_name;
        if !nominated.is_empty()
            && let Some(row) = nodes.find(nominated)
            && self.fits(pod, nodes, row)
        {
            return Decision::Place(row);
        }
        let rows = self.feasible(pod, nodes);
        let mut few = rows.iter().take(2);
        match (few.next(), few.next()) {
            (None, _) => Decision::Unfit(Box::new(self.unfit(pod, nodes))),
            (Some(only), None) => Decision::Place(only),
            _ => {
                self.rank(pod, nodes, &rows);
                Decision::Place(best(&rows, &self.total, random))
            }
        }
    }

    /// Sums weighted scores into `total`.
    fn rank(&mut self, pod: &Pod, nodes: &NodeTable, rows: &BitSet) {
        self.total.clear();
        self.total.resize(nodes.width(), 0);
        for (i, p) in self.plugins.iter().enumerate() {
            let Some(score) = &p.score else { continue };
            let weight = self.weight(p);
            if weight == 0 || !score.get().relevant(pod, nodes) {
                continue;
            }
            match score {
                Scope::Static(s) => {
                    let kept = self
                        .shared
                        .get(&pod.class)
                        .and_then(|s| s.scores.iter().find(|(j, _)| *j == i));
                    // All nodes alike: the same score for each, which changes no order.
                    let Some((_, raw)) = kept else { continue };
                    add(&mut self.total, raw, rows, s.normalize(), weight);
                }
                Scope::Dynamic(s) => {
                    self.scratch.clear();
                    self.scratch.resize(nodes.width(), 0);
                    s.score(pod, nodes, rows, &mut self.scratch);
                    add(&mut self.total, &self.scratch, rows, s.normalize(), weight);
                }
            }
        }
    }

    /// The weighted totals of all feasible rows, for explanations and tests.
    pub fn scores(&mut self, pod: &Pod, nodes: &NodeTable) -> Vec<(usize, i64)> {
        let rows = self.feasible(pod, nodes);
        self.rank(pod, nodes, &rows);
        rows.iter()
            .map(|r| (r, self.total.get(r).copied().unwrap_or(0)))
            .collect()
    }
}

fn add(total: &mut [i64], raw: &[i64], rows: &BitSet, normalize: Normalize, weight: i64) {
    let values = || rows.iter().filter_map(|r| raw.get(r).copied());
    let max = values().max().unwrap_or(0);
    let min = values().min().unwrap_or(0);
    for row in rows.iter() {
        let (Some(t), Some(v)) = (total.get_mut(row), raw.get(row)) else {
            continue;
        };
        *t += weight
            * match normalize {
                Normalize::AsIs => *v,
                Normalize::Proportional if max == 0 => 0,
                Normalize::Proportional => MAX_SCORE * v / max,
                Normalize::Inverse if max == 0 => MAX_SCORE,
                Normalize::Inverse => MAX_SCORE - MAX_SCORE * v / max,
                Normalize::MinMax if max == min => 0,
                Normalize::MinMax => MAX_SCORE * (v - min) / (max - min),
            };
    }
}

/// The row with the largest total; `random` chooses among equals.
fn best(rows: &BitSet, total: &[i64], random: u64) -> usize {
    let max = rows
        .iter()
        .filter_map(|r| total.get(r))
        .max()
        .copied()
        .unwrap_or(0);
    let ties = rows.iter().filter(|r| total.get(*r) == Some(&max)).count() as u64;
    let pick = if ties == 0 { 0 } else { random % ties } as usize;
    rows.iter()
        .filter(|r| total.get(*r) == Some(&max))
        .nth(pick)
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::tests::{node, pod, view};
    use crate::pod::Classes;
    use crate::view::{NodeAffinity, NodeSelectorTerm, PreferredTerm, Requirement, Taint};

    fn decider() -> Decider {
        Decider::new(Profile::default())
    }

    fn place(d: &mut Decider, p: &Pod, t: &NodeTable) -> String {
        match d.decide(p, t, 0) {
            Decision::Place(row) => t.row(row).unwrap().name.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn fifteen_free_beats_five_free() {
        let mut t = NodeTable::default();
        t.upsert_node(&node("big", "20", "64Gi"));
        t.upsert_node(&node("small", "10", "64Gi"));
        let mut d = decider();
        assert_eq!(place(&mut d, &pod("p", "5", ""), &t), "big");
    }

    #[test]
    fn the_message_names_every_reason_in_order() {
        let mut t = NodeTable::default();
        let mut tainted = node("cp", "4", "8Gi");
        tainted.spec.taints.push(Taint {
            key: "k".into(),
            value: String::new(),
            effect: "NoSchedule".into(),
        });
        t.upsert_node(&tainted);
        t.upsert_node(&node("a", "1", "1Gi"));
        t.upsert_node(&node("b", "1", "8Gi"));
        let Decision::Unfit(e) = decider().decide(&pod("p", "2", "2Gi"), &t, 0) else {
            panic!("fits")
        };
        assert_eq!(
            e.message(),
            "0/3 nodes are available: 1 Insufficient memory, 1 node(s) had untolerated taint(s), 2 Insufficient cpu."
        );
        assert!(e.resolvable.is_empty());
    }

    #[test]
    fn no_nodes() {
        assert_eq!(
            decider().decide(&pod("p", "1", ""), &NodeTable::default(), 0),
            Decision::NoNodes
        );
    }

    #[test]
    fn preferred_affinity_outweighs_free_space() {
        let mut t = NodeTable::default();
        let mut liked = node("liked", "10", "10Gi");
        liked.metadata.labels.insert("disk".into(), "ssd".into());
        t.upsert_node(&liked);
        t.upsert_node(&node("empty", "10", "10Gi"));
        t.place(&pod("q", "2", "2Gi"), "liked");
        let mut v = view("p", "1", "1Gi");
        let preference = NodeSelectorTerm {
            match_expressions: vec![Requirement {
                key: "disk".into(),
                operator: "In".into(),
                values: vec!["ssd".into()],
            }],
            ..NodeSelectorTerm::default()
        };
        v.spec.affinity = Some(crate::view::Affinity {
            node_affinity: Some(NodeAffinity {
                required: None,
                preferred: vec![PreferredTerm {
                    weight: 1,
                    preference,
                }],
            }),
            ..Default::default()
        });
        let p = Classes::default().pod(Arc::new(v));
        assert_eq!(place(&mut decider(), &p, &t), "liked");
    }

    #[test]
    fn shared_work_follows_changes_of_nodes() {
        let mut t = NodeTable::default();
        t.upsert_node(&node("a", "4", "4Gi"));
        let mut d = decider();
        let mut classes = Classes::default();
        let p = classes.pod(Arc::new(view("p", "1", "")));
        assert_eq!(place(&mut d, &p, &t), "a");
        let mut cordoned = node("a", "4", "4Gi");
        cordoned.spec.unschedulable = true;
        t.upsert_node(&cordoned);
        assert!(matches!(d.decide(&p, &t, 0), Decision::Unfit(_)));
    }

    #[test]
    fn many_pods_spread_over_equal_nodes() {
        let mut t = NodeTable::default();
        for n in 0..4 {
            t.upsert_node(&node(&format!("n{n}"), "16", "16Gi"));
        }
        let mut d = decider();
        for i in 0..16u64 {
            let p = pod(&format!("p{i}"), "1", "1Gi");
            let Decision::Place(row) = d.decide(&p, &t, i) else {
                panic!("unfit")
            };
            let name = t.row(row).unwrap().name.clone();
            t.place(&p, &name);
        }
        assert!((0..4).all(|r| t.columns.pods[r] == 4));
    }
}
