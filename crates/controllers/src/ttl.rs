//! ttl-controller: an annotation on every node says for how many seconds its kubelet may keep secrets and config maps
//! before it asks for them again: longer where more nodes ask.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use client::resource::NODES;
use client::{Change, ObjectKey, Patch};
use serde_json::json;

use crate::Context;
use crate::views::Node;

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// Fewest nodes, most nodes, seconds. The steps overlap, so that a cluster at a bound does not go back and forth.
const STEPS: [(usize, usize, u32); 5] = [
    (0, 100, 0),
    (90, 500, 15),
    (450, 1000, 30),
    (900, 2000, 60),
    (1800, usize::MAX, 300),
];

/// The step for a number of nodes, coming from another one.
pub fn step(from: usize, nodes: usize) -> usize {
    let bounds = |i: usize| STEPS.get(i).map_or((0, usize::MAX), |s| (s.0, s.1));
    let mut at = from.min(STEPS.len() - 1);
    while nodes > bounds(at).1 {
        at += 1;
    }
    while nodes < bounds(at).0 {
        at -= 1;
    }
    at
}

fn seconds(step: usize) -> String {
    STEPS.get(step).map_or(0, |s| s.2).to_string()
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let nodes = ctx.informer::<Node>(&NODES);
    let queue = ctx.queue("ttlcontroller");
    let at = Arc::new(AtomicUsize::new(0));
    let (q, store, now) = (queue.clone(), nodes.store(), at.clone());
    nodes.on_change(move |change| {
        let before = now.load(Ordering::Relaxed);
        let all = store.list();
        let next = step(before, all.len());
        if next != before {
            now.store(next, Ordering::Relaxed);
            for node in &all {
                q.add(ObjectKey::of(&**node));
            }
        }
        if !matches!(change, Change::Deleted(_)) {
            q.add(ObjectKey::of(&**change.object()));
        }
    });
    let (store, client) = (nodes.store(), ctx.client.clone());
    ctx.run(queue, 1, move |key| {
        let (store, client, wanted) = (
            store.clone(),
            client.clone(),
            seconds(at.load(Ordering::Relaxed)),
        );
        async move {
            let Some(node) = store.get_key(&key) else {
                return Ok(None);
            };
            if node.metadata.annotations.get(ANNOTATION) == Some(&wanted) {
                return Ok(None);
            }
            let patch =
                Patch::Strategic(json!({"metadata": {"annotations": {ANNOTATION: wanted}}}));
            let patched = client
                .api(&NODES)
                .patch::<serde::de::IgnoredAny>(&key.name, &patch)
                .await;
            match patched {
                Ok(_) => Ok(None),
                Err(e) if e.is_not_found() => Ok(None),
                Err(e) => Err(e),
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_overlap() {
        for (from, nodes, want) in [
            (0, 0, 0),
            (0, 100, 0),
            (0, 101, 1),
            (1, 95, 1),
            (1, 89, 0),
            (0, 5000, 4),
            (4, 1700, 3),
            (4, 0, 0),
        ] {
            assert_eq!(step(from, nodes), want, "{nodes} nodes after step {from}");
        }
        assert_eq!(seconds(4), "300");
    }
}
