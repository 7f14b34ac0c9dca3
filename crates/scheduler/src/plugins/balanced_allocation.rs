//! NodeResourcesBalancedAllocation: prefers nodes whose CPU and memory would be used alike.
//!
//! The score is how much the pod improves the balance: 75 for no change, towards 100 for better, towards 50 for worse.

use crate::bits::BitSet;
use crate::framework::{MAX_SCORE, Plugin, Scope, Score};
use crate::nodes::NodeTable;
use crate::pod::Pod;

use super::node_resources_fit::utilization;

struct Balanced;

/// 100 times one minus the standard deviation of the used fractions.
fn balance(cpu: Option<f64>, memory: Option<f64>) -> i64 {
    let std = match (cpu, memory) {
        (Some(a), Some(b)) => ((a.min(1.0) - b.min(1.0)) / 2.0).abs(),
        _ => 0.0,
    };
    ((1.0 - std) * MAX_SCORE as f64) as i64
}

fn fraction(used: i64, of: i64) -> Option<f64> {
    (of != 0).then(|| used as f64 / of as f64)
}

impl Score for Balanced {
    /// A pod that requests neither CPU nor memory moves no balance.
    fn relevant(&self, pod: &Pod, _: &NodeTable) -> bool {
        pod.usage.requests.cpu > 0 || pod.usage.requests.memory > 0
    }

    fn score(&self, pod: &Pod, nodes: &NodeTable, rows: &BitSet, out: &mut [i64]) {
        let want = &pod.usage.requests;
        for row in rows.iter() {
            let (cpu, cpu_of) = utilization(pod, nodes, row, "cpu", false);
            let (memory, memory_of) = utilization(pod, nodes, row, "memory", false);
            let with = balance(fraction(cpu, cpu_of), fraction(memory, memory_of));
            let without = balance(
                fraction(cpu - want.cpu, cpu_of),
                fraction(memory - want.memory, memory_of),
            );
            if let Some(o) = out.get_mut(row) {
                *o = MAX_SCORE / 2 + (MAX_SCORE / 2 + with - without) / 2;
            }
        }
    }
}

/// The plugin.
pub fn plugin() -> Plugin {
    Plugin {
        weight: 1,
        score: Some(Scope::Dynamic(Box::new(Balanced))),
        ..Plugin::new("NodeResourcesBalancedAllocation")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::tests::{node, pod};

    #[test]
    fn better_balance_scores_higher() {
        let mut t = NodeTable::default();
        t.upsert_node(&node("a", "10", "10Gi"));
        t.upsert_node(&node("b", "10", "10Gi"));
        t.place(&pod("q", "", "5Gi"), "a");
        t.place(&pod("r", "5", ""), "b");
        let mut out = vec![0; 2];
        Balanced.score(&pod("p", "5", ""), &t, t.live(), &mut out);
        // a: from 0/50% to 50/50%; b: from 50/0% to 100/0%.
        assert_eq!(out, [87, 62]);
    }
}
