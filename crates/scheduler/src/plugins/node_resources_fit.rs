//! NodeResourcesFit: requests must fit into what is left; the score prefers empty, full or shaped nodes by strategy.

use crate::bits::BitSet;
use crate::config::{Profile, ScoringStrategy, Strategy};
use crate::framework::{ClusterEvent, Filter, MAX_SCORE, Plugin, Reason, Scope, Score};
use crate::nodes::{Columns, NodeTable};
use crate::pod::Pod;

struct Fit;

fn at(column: &[i64], row: usize) -> i64 {
    column.get(row).copied().unwrap_or(0)
}

impl Filter for Fit {
    fn relevant(&self, _: &Pod) -> bool {
        true
    }

    fn apply(&self, pod: &Pod, nodes: &NodeTable, feasible: &mut BitSet) {
        let want = &pod.usage.requests;
        let c = &nodes.columns;
        let fits = |alloc: &[i64], used: &[i64], row: usize, want: i64| {
            want == 0 || want <= at(alloc, row).saturating_sub(at(used, row))
        };
        feasible.retain(|row| {
            at(&c.pods, row) < at(&c.alloc_pods, row)
                && fits(&c.alloc_cpu, &c.req_cpu, row, want.cpu)
                && fits(&c.alloc_memory, &c.req_memory, row, want.memory)
                && fits(&c.alloc_ephemeral, &c.req_ephemeral, row, want.ephemeral)
        });
        if want.scalars.values().any(|v| *v > 0) {
            feasible.retain(|row| self.explain(pod, nodes, row).is_empty());
        }
    }

    fn explain(&self, pod: &Pod, nodes: &NodeTable, row: usize) -> Vec<Reason> {
        let want = &pod.usage.requests;
        let c = &nodes.columns;
        let mut out = Vec::new();
        if at(&c.pods, row) >= at(&c.alloc_pods, row) {
            out.push(Reason::resolvable("Too many pods"));
        }
        for (name, want, alloc, used) in [
            ("cpu", want.cpu, at(&c.alloc_cpu, row), at(&c.req_cpu, row)),
            (
                "memory",
                want.memory,
                at(&c.alloc_memory, row),
                at(&c.req_memory, row),
            ),
            (
                "ephemeral-storage",
                want.ephemeral,
                at(&c.alloc_ephemeral, row),
                at(&c.req_ephemeral, row),
            ),
        ] {
            if want > 0 && want > alloc.saturating_sub(used) {
                out.push(Reason {
                    text: format!("Insufficient {name}"),
                    resolvable: want <= alloc,
                });
            }
        }
        for (name, want) in want.scalars.iter().filter(|(_, v)| **v > 0) {
            let (alloc, used) = nodes
                .row(row)
                .and_then(|r| r.scalars.get(name))
                .copied()
                .unwrap_or((0, 0));
            if i128::from(*want) > i128::from(alloc) - used {
                out.push(Reason {
                    text: format!("Insufficient {name}"),
                    resolvable: *want <= alloc,
                });
            }
        }
        out
    }
}

/// A part in hundredths, of 0 to `whole`: whatever nodes say they have, one of them spoils no pod's scores.
fn share(part: i64, whole: i64) -> i64 {
    let hundredths = i128::from(part) * i128::from(MAX_SCORE) / i128::from(whole);
    i64::try_from(hundredths).unwrap_or(MAX_SCORE)
}

/// The score of one resource: `requested` includes the pod.
fn one(strategy: &Strategy, requested: i64, capacity: i64) -> i64 {
    match strategy {
        Strategy::LeastAllocated => {
            if capacity == 0 || requested > capacity {
                0
            } else {
                share(capacity - requested, capacity)
            }
        }
        Strategy::MostAllocated => {
            if capacity == 0 {
                0
            } else {
                share(requested.min(capacity), capacity)
            }
        }
        Strategy::RequestedToCapacityRatio(shape) => {
            let utilization = if capacity == 0 || requested > capacity {
                100
            } else {
                share(requested, capacity)
            };
            shape_score(shape, utilization)
        }
    }
}

/// Linear between the points (utilization in percent, score of 0 to 10), flat beyond the ends.
fn shape_score(shape: &[(i64, i64)], utilization: i64) -> i64 {
    let factor = MAX_SCORE / 10;
    let mut previous: Option<(i64, i64)> = None;
    for (u, s) in shape {
        if utilization <= *u {
            return match previous {
                Some((u0, s0)) if *u > u0 => {
                    (s0 + (s - s0) * (utilization - u0) / (u - u0)) * factor
                }
                _ => s * factor,
            };
        }
        previous = Some((*u, *s));
    }
    previous.map_or(0, |(_, s)| s * factor)
}

struct FitScore(ScoringStrategy);

/// Requested (the pod included, with scoring defaults) and allocatable of a resource on a row.
pub fn utilization(
    pod: &Pod,
    nodes: &NodeTable,
    row: usize,
    resource: &str,
    non_zero: bool,
) -> (i64, i64) {
    let c: &Columns = &nodes.columns;
    match resource {
        "cpu" if non_zero => (
            at(&c.nz_cpu, row).saturating_add(pod.usage.non_zero_cpu),
            at(&c.alloc_cpu, row),
        ),
        "memory" if non_zero => (
            at(&c.nz_memory, row).saturating_add(pod.usage.non_zero_memory),
            at(&c.alloc_memory, row),
        ),
        "cpu" => (
            at(&c.req_cpu, row).saturating_add(pod.usage.requests.cpu),
            at(&c.alloc_cpu, row),
        ),
        "memory" => (
            at(&c.req_memory, row).saturating_add(pod.usage.requests.memory),
            at(&c.alloc_memory, row),
        ),
        "ephemeral-storage" => (
            at(&c.req_ephemeral, row).saturating_add(pod.usage.requests.ephemeral),
            at(&c.alloc_ephemeral, row),
        ),
        name => {
            let want = pod.usage.requests.scalars.get(name).copied().unwrap_or(0);
            if want == 0 {
                return (0, 0);
            }
            let (alloc, used) = nodes
                .row(row)
                .and_then(|r| r.scalars.get(name))
                .copied()
                .unwrap_or((0, 0));
            let with = used + i128::from(want);
            (i64::try_from(with).unwrap_or(i64::MAX), alloc)
        }
    }
}

impl Score for FitScore {
    fn relevant(&self, _: &Pod, _: &NodeTable) -> bool {
        true
    }

    fn score(&self, pod: &Pod, nodes: &NodeTable, rows: &BitSet, out: &mut [i64]) {
        for row in rows.iter() {
            let (mut sum, mut weights) = (0, 0);
            for (resource, weight) in &self.0.resources {
                let (requested, capacity) = utilization(pod, nodes, row, resource, true);
                if capacity > 0 {
                    sum += one(&self.0.strategy, requested, capacity) * weight;
                    weights += weight;
                }
            }
            if let Some(o) = out.get_mut(row) {
                *o = if weights == 0 { 0 } else { sum / weights };
            }
        }
    }
}

/// The plugin.
pub fn plugin(profile: &Profile) -> Plugin {
    Plugin {
        weight: 1,
        filter: Some(Scope::Dynamic(Box::new(Fit))),
        score: Some(Scope::Dynamic(Box::new(FitScore(profile.scoring.clone())))),
        hint: |event, pod, nodes| match event {
            ClusterEvent::Node { row, change } => {
                (change.added || change.allocatable) && Fit.explain(pod, nodes, *row).is_empty()
            }
            ClusterEvent::PodGone(_) => true,
            ClusterEvent::PodPlaced(_) | ClusterEvent::Storage(_) => false,
        },
        ..Plugin::new("NodeResourcesFit")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::tests::{node, pod};

    #[test]
    fn every_missing_resource_is_named() {
        let mut t = NodeTable::default();
        t.upsert_node(&node("a", "1", "1Gi"));
        let p = pod("p", "2", "4Gi");
        let texts: Vec<String> = Fit.explain(&p, &t, 0).into_iter().map(|r| r.text).collect();
        assert_eq!(texts, ["Insufficient cpu", "Insufficient memory"]);
        let mut rows = t.live().clone();
        Fit.apply(&p, &t, &mut rows);
        assert!(rows.is_empty());
    }

    #[test]
    fn resolvable_only_when_the_empty_node_would_do() {
        let mut t = NodeTable::default();
        t.upsert_node(&node("a", "2", "4Gi"));
        t.place(&pod("q", "1", ""), "a");
        assert!(Fit.explain(&pod("p", "2", ""), &t, 0)[0].resolvable);
        assert!(!Fit.explain(&pod("p", "3", ""), &t, 0)[0].resolvable);
    }

    /// Numbers at their ends: a node that says it has the most there is, and a pod that asks for it, spoil nothing.
    #[test]
    fn absurd_amounts_are_compared_and_scored() {
        let most = i64::MAX.to_string();
        let mut t = NodeTable::default();
        t.upsert_node(&node("huge", &most, &most));
        t.upsert_node(&node("small", "1", "1Gi"));
        let absurd = pod("absurd", &most, &most);
        t.place(&absurd, "small");
        t.place(&pod("q", "500m", "512Mi"), "small");
        let p = pod("p", "500m", "512Mi");
        let feasible = |t: &NodeTable, p: &Pod| {
            let mut rows = t.live().clone();
            Fit.apply(p, t, &mut rows);
            rows.iter().collect::<Vec<_>>()
        };
        assert_eq!(feasible(&t, &p), [0], "the small one is more than full");
        let resources = vec![("cpu".to_owned(), 1), ("memory".to_owned(), 1)];
        for (strategy, want) in [
            (Strategy::LeastAllocated, [99, 0]),
            (Strategy::MostAllocated, [0, 100]),
            (
                Strategy::RequestedToCapacityRatio(vec![(0, 0), (100, 10)]),
                [0, 100],
            ),
        ] {
            let score = FitScore(ScoringStrategy {
                strategy,
                resources: resources.clone(),
            });
            let mut out = [0, 0];
            score.score(&p, &t, &t.live().clone(), &mut out);
            assert_eq!(out, want, "{:?}", score.0);
            score.score(&absurd, &t, &t.live().clone(), &mut out);
        }
        // What the absurd pod took is given back, and no more.
        assert!(t.remove_pod("absurd"));
        assert_eq!(feasible(&t, &p), [0, 1]);
        t.place(&p, "small");
        assert_eq!(feasible(&t, &pod("r", "1m", "")), [0]);
    }

    #[test]
    fn shapes() {
        let shape = [(0, 0), (50, 10), (100, 0)];
        for (u, want) in [(0, 0), (25, 50), (50, 100), (75, 50), (100, 0)] {
            assert_eq!(shape_score(&shape, u), want, "{u}");
        }
    }
}
