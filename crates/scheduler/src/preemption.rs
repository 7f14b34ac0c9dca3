//! DefaultPreemption: which pods of lower priority must go so that a pod fits (pure).
//!
//! On each node that preemption could mend, all pods of lower priority are taken away; if the pod then fits, as many as
//! possible are put back, the most important first. The node with the least harm wins: fewest PodDisruptionBudget
//! violations, lowest highest victim priority, smallest sum of priorities, fewest victims, latest start of the most
//! important victim. Nodes are looked at from a random one on, and no more of them once there is room on as many as
//! [`crate::config::Candidates`] says.
//!
//! Absent: PodDisruptionBudgets are not read; no victim counts as a violation.

use std::collections::BTreeMap;

use crate::cycle::{Decider, FitError, histogram};
use crate::nodes::NodeTable;
use crate::pod::Pod;

/// What to do to make room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preemption {
    /// The node.
    pub node: String,
    /// UIDs of the pods to delete, most important first.
    pub victims: Vec<String>,
}

/// Why there is no room to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The text that follows the fit error.
    pub why: String,
    /// Whether room was looked for: then a promise of room made earlier is void.
    pub eligible: bool,
}

fn ineligible(why: &str) -> Refused {
    Refused {
        why: format!("preemption: not eligible due to {why}."),
        eligible: false,
    }
}

/// More important first: priority, then earlier creation.
fn importance(a: &Pod, b: &Pod) -> std::cmp::Ordering {
    let age = |p: &Pod| {
        p.view
            .metadata
            .creation_timestamp
            .clone()
            .unwrap_or_default()
    };
    b.view
        .spec
        .priority
        .cmp(&a.view.spec.priority)
        .then_with(|| age(a).cmp(&age(b)))
}

/// Finds room, or says why there is none. `random` is the node that is looked at first.
pub fn preempt(
    decider: &Decider,
    pod: &Pod,
    nodes: &mut NodeTable,
    error: &FitError,
    random: u64,
) -> Result<Preemption, Refused> {
    if pod.view.spec.preemption_policy.as_deref() == Some("Never") {
        return Err(ineligible("preemptionPolicy=Never"));
    }
    let nominated = &pod.view.status.nominated_node_name;
    if let Some(row) = nodes.find(nominated)
        && error.resolvable.contains(&row)
        && nodes.row(row).is_some_and(|r| {
            r.pods.values().any(|p| {
                p.view.metadata.deletion_timestamp.is_some()
                    && p.view.spec.priority < pod.view.spec.priority
            })
        })
    {
        return Err(ineligible("a terminating pod on the nominated node"));
    }
    let mut best: Option<(Harm, Preemption)> = None;
    let mut no_victims = 0;
    let mut still_unfit: BTreeMap<String, usize> = BTreeMap::new();
    let rows = &error.resolvable;
    let mut wanted = decider.profile.candidates.of(rows.len()).max(1);
    let first = usize::try_from(random % (rows.len() as u64).max(1)).unwrap_or(0);
    for row in rows.iter().cycle().skip(first).take(rows.len()) {
        if wanted == 0 {
            break;
        }
        match victims(decider, pod, nodes, *row) {
            Ok(found) => {
                wanted -= 1;
                let harm = Harm::of(&found);
                if best.as_ref().is_none_or(|(h, _)| harm < *h)
                    && let Some(r) = nodes.row(*row)
                {
                    let victims = found.iter().map(|p| p.uid().to_owned()).collect();
                    best = Some((
                        harm,
                        Preemption {
                            node: r.name.clone(),
                            victims,
                        },
                    ));
                }
            }
            Err(None) => no_victims += 1,
            Err(Some(reasons)) => {
                for r in reasons {
                    *still_unfit.entry(r).or_default() += 1;
                }
            }
        }
    }
    if let Some((_, p)) = best {
        return Ok(p);
    }
    let mut reasons = still_unfit;
    if no_victims > 0 {
        reasons.insert(
            "No preemption victims found for incoming pod".into(),
            no_victims,
        );
    }
    let unhelpful = error.nodes.saturating_sub(error.resolvable.len());
    if unhelpful > 0 {
        reasons.insert("Preemption is not helpful for scheduling".into(), unhelpful);
    }
    Err(Refused {
        why: format!("preemption: {}", histogram(error.nodes, &reasons)),
        eligible: true,
    })
}

/// Compared field by field; smaller is better.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Harm {
    highest: i32,
    sum: i64,
    count: usize,
    earliest_start: std::cmp::Reverse<String>,
}

impl Harm {
    fn of(victims: &[Pod]) -> Harm {
        Harm {
            highest: victims
                .iter()
                .map(|p| p.view.spec.priority)
                .max()
                .unwrap_or(i32::MIN),
            sum: victims
                .iter()
                .map(|p| i64::from(p.view.spec.priority) + i64::from(i32::MAX) + 1)
                .sum(),
            count: victims.len(),
            earliest_start: std::cmp::Reverse(
                victims
                    .first()
                    .and_then(|p| p.view.metadata.creation_timestamp.clone())
                    .unwrap_or_default(),
            ),
        }
    }
}

/// The victims on a row, most important first. `Err(None)`: nobody of lower priority; `Err(reasons)`: it would not do.
fn victims(
    decider: &Decider,
    pod: &Pod,
    nodes: &mut NodeTable,
    row: usize,
) -> Result<Vec<Pod>, Option<Vec<String>>> {
    let Some(r) = nodes.row(row) else {
        return Err(None);
    };
    let node = r.name.clone();
    let mut lower: Vec<Pod> = r
        .pods
        .values()
        .filter(|p| p.view.spec.priority < pod.view.spec.priority)
        .cloned()
        .collect();
    if lower.is_empty() {
        return Err(None);
    }
    lower.sort_by(importance);
    for p in &lower {
        nodes.remove_pod(p.uid());
    }
    let mut gone = Vec::new();
    let reasons = decider.refusal(pod, nodes, row);
    let fits = reasons.is_empty();
    if fits {
        for p in &lower {
            nodes.place(p, &node);
            if !decider.fits(pod, nodes, row) {
                nodes.remove_pod(p.uid());
                gone.push(p.clone());
            }
        }
    }
    // The table is as it was before.
    for p in &lower {
        nodes.place(p, &node);
    }
    if fits {
        Ok(gone)
    } else {
        Err(Some(reasons.into_iter().map(|r| r.text).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Profile;
    use crate::cycle::Decision;
    use crate::nodes::tests::{node, view};
    use crate::pod::Classes;
    use std::sync::Arc;

    fn pod(uid: &str, cpu: &str, priority: i32) -> Pod {
        let mut v = view(uid, cpu, "");
        v.spec.priority = priority;
        Classes::default().pod(Arc::new(v))
    }

    fn unfit(d: &mut Decider, p: &Pod, t: &NodeTable) -> FitError {
        match d.decide(p, t, 0) {
            Decision::Unfit(e) => *e,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_least_important_goes_and_the_table_stays() {
        let mut t = NodeTable::default();
        t.upsert_node(&node("a", "4", "8Gi"));
        t.upsert_node(&node("b", "4", "8Gi"));
        t.place(&pod("a1", "2", 5), "a");
        t.place(&pod("a2", "2", 1), "a");
        t.place(&pod("b1", "4", 3), "b");
        let mut d = Decider::new(Profile::default());
        let p = pod("p", "2", 10);
        let e = unfit(&mut d, &p, &t);
        let found = preempt(&d, &p, &mut t, &e, 0).unwrap();
        assert_eq!(
            found,
            Preemption {
                node: "a".into(),
                victims: vec!["a2".into()]
            }
        );
        assert_eq!((t.columns.req_cpu[0], t.columns.pods[0]), (4000, 2));
    }

    #[test]
    fn nobody_is_less_important() {
        let mut t = NodeTable::default();
        t.upsert_node(&node("a", "4", "8Gi"));
        t.upsert_node(&node("tiny", "1", "8Gi"));
        t.place(&pod("a1", "4", 0), "a");
        let mut d = Decider::new(Profile::default());
        let p = pod("p", "2", 0);
        let e = unfit(&mut d, &p, &t);
        assert_eq!(
            preempt(&d, &p, &mut t, &e, 0).unwrap_err().why,
            "preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, \
             1 Preemption is not helpful for scheduling."
        );
    }

    /// Work by the square: every node has room to be made on it, and every one would be tried.
    #[test]
    fn room_is_looked_for_on_a_part_of_many_nodes() {
        let mut t = NodeTable::default();
        let mut profile = Profile::default();
        profile.candidates.absolute = 3;
        for n in 0..50 {
            let name = format!("n{n}");
            t.upsert_node(&node(&name, "4", "8Gi"));
            // The later the better; n49 is the best of all.
            t.place(&pod(&format!("p{n}"), "4", 100 - n), &name);
        }
        let mut d = Decider::new(profile);
        let p = pod("p", "2", 1000);
        let e = unfit(&mut d, &p, &t);
        assert_eq!(e.resolvable.len(), 50);
        let chosen = |t: &mut NodeTable, random| preempt(&d, &p, t, &e, random).unwrap().node;
        // A tenth of 50 are five: the best of n0 to n4, of n30 to n34, and of those around the end.
        assert_eq!(chosen(&mut t, 0), "n4");
        assert_eq!(chosen(&mut t, 30), "n34");
        assert_eq!(chosen(&mut t, 48), "n49");
        assert_eq!(chosen(&mut t, u64::MAX), "n19");
        assert!(t.columns.pods.iter().all(|n| *n == 1));
    }
}
