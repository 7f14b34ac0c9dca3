//! The scheduling queue: active, backing off, unschedulable (pure; time comes in).
//!
//! A pod is in exactly one of them, or in flight (popped). Rejected pods wait until an event that one of the rejecting
//! plugins cares about, then back off from their last attempt: 1 s, doubling with each attempt to 10 s. After 5 minutes
//! an unschedulable pod is tried anyway.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use crate::pod::Pod;

/// Milliseconds since an arbitrary start.
pub type Millis = u64;

/// Times of the queue.
#[derive(Clone, Debug)]
pub struct Times {
    /// The first back-off.
    pub initial_backoff: Duration,
    /// The longest back-off.
    pub max_backoff: Duration,
    /// How long a pod stays unschedulable at most.
    pub max_unschedulable: Duration,
}

impl Default for Times {
    fn default() -> Times {
        Times {
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(10),
            max_unschedulable: Duration::from_secs(300),
        }
    }
}

/// A pod with its history.
#[derive(Clone, Debug)]
pub struct Queued {
    /// The pod.
    pub pod: Pod,
    /// Attempts so far.
    pub attempts: u32,
    /// When it was first queued.
    pub first: Millis,
    /// When its last attempt ended, or it was added.
    pub since: Millis,
    /// The plugins (by index) that rejected the last attempt; empty after an error.
    pub rejected_by: BTreeSet<usize>,
    /// Held back before the queue by a plugin.
    pub gated: Option<String>,
}

type Order = (std::cmp::Reverse<i32>, Millis, u64);

enum Place {
    Active(Order),
    Backoff(Millis),
    Unschedulable,
    InFlight,
}

/// The queue.
#[derive(Default)]
pub struct Queue {
    times: Times,
    pods: HashMap<String, (Queued, Place)>,
    active: BTreeMap<Order, String>,
    backoff: BTreeSet<(Millis, String)>,
    unschedulable: BTreeSet<String>,
    sequence: u64,
}

/// A duration as the queue counts, cut to what there is.
pub fn millis(d: Duration) -> Millis {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

impl Queue {
    /// An empty queue.
    pub fn new(times: Times) -> Queue {
        Queue {
            times,
            ..Queue::default()
        }
    }

    /// Pods per part: active, backoff, unschedulable, gated.
    pub fn sizes(&self) -> (usize, usize, usize, usize) {
        let gated = self
            .unschedulable
            .iter()
            .filter(|u| self.pods.get(*u).is_some_and(|(q, _)| q.gated.is_some()))
            .count();
        (
            self.active.len(),
            self.backoff.len(),
            self.unschedulable.len() - gated,
            gated,
        )
    }

    /// A waiting pod.
    pub fn get(&self, uid: &str) -> Option<&Queued> {
        self.pods.get(uid).map(|(q, _)| q)
    }

    fn backoff_of(&self, attempts: u32) -> Millis {
        let first = millis(self.times.initial_backoff);
        let doubled = first.saturating_mul(
            1u64.checked_shl(attempts.saturating_sub(1))
                .unwrap_or(u64::MAX),
        );
        doubled.min(millis(self.times.max_backoff))
    }

    fn unlink(&mut self, uid: &str) -> Option<Queued> {
        let (q, place) = self.pods.remove(uid)?;
        match place {
            Place::Active(order) => {
                self.active.remove(&order);
            }
            Place::Backoff(at) => {
                self.backoff.remove(&(at, uid.to_owned()));
            }
            Place::Unschedulable => {
                self.unschedulable.remove(uid);
            }
            Place::InFlight => {}
        }
        Some(q)
    }

    fn activate(&mut self, q: Queued) {
        let uid = q.pod.uid().to_owned();
        self.sequence += 1;
        let order = (
            std::cmp::Reverse(q.pod.view.spec.priority),
            q.since,
            self.sequence,
        );
        self.active.insert(order, uid.clone());
        self.pods.insert(uid, (q, Place::Active(order)));
    }

    fn park(&mut self, q: Queued) {
        let uid = q.pod.uid().to_owned();
        self.unschedulable.insert(uid.clone());
        self.pods.insert(uid, (q, Place::Unschedulable));
    }

    fn requeue(&mut self, q: Queued, now: Millis) {
        let until = if q.attempts == 0 {
            0
        } else {
            q.since.saturating_add(self.backoff_of(q.attempts))
        };
        if until <= now {
            self.activate(q);
        } else {
            let uid = q.pod.uid().to_owned();
            self.backoff.insert((until, uid.clone()));
            self.pods.insert(uid, (q, Place::Backoff(until)));
        }
    }

    /// A pod that waits for a node came or changed. `gated` holds it back. A change that matters (`spec` or labels)
    /// frees an unschedulable pod.
    pub fn upsert(&mut self, pod: Pod, gated: Option<String>, now: Millis) {
        let uid = pod.uid().to_owned();
        match self.pods.get_mut(&uid) {
            Some((q, Place::InFlight)) => {
                q.pod = pod;
                q.gated = gated;
            }
            Some((q, _)) => {
                let same = q.pod.view.spec == pod.view.spec
                    && q.pod.view.metadata.labels == pod.view.metadata.labels
                    && q.gated == gated;
                if same {
                    q.pod = pod;
                    return;
                }
                if let Some(mut q) = self.unlink(&uid) {
                    q.pod = pod;
                    q.gated = gated;
                    if q.gated.is_some() {
                        self.park(q);
                    } else {
                        self.requeue(q, now);
                    }
                }
            }
            None => {
                let q = Queued {
                    pod,
                    attempts: 0,
                    first: now,
                    since: now,
                    rejected_by: BTreeSet::new(),
                    gated,
                };
                if q.gated.is_some() {
                    self.park(q);
                } else {
                    self.activate(q);
                }
            }
        }
    }

    /// The pod is gone or has a node.
    pub fn remove(&mut self, uid: &str) -> Option<Queued> {
        self.unlink(uid)
    }

    /// The next pod: highest priority, then longest waiting. It is in flight until `reject`, `retry` or `remove`.
    pub fn pop(&mut self) -> Option<Queued> {
        let (_, uid) = self.active.pop_first()?;
        let (q, place) = self.pods.get_mut(&uid)?;
        q.attempts = q.attempts.saturating_add(1);
        *place = Place::InFlight;
        Some(q.clone())
    }

    /// No node suits: wait for an event.
    pub fn reject(&mut self, uid: &str, rejected_by: BTreeSet<usize>, now: Millis) {
        if let Some(mut q) = self.unlink(uid) {
            q.since = now;
            q.rejected_by = rejected_by;
            self.park(q);
        }
    }

    /// Something failed that has nothing to do with fitting: back off and try again.
    pub fn retry(&mut self, uid: &str, now: Millis) {
        if let Some(mut q) = self.unlink(uid) {
            q.since = now;
            q.rejected_by.clear();
            self.requeue(q, now);
        }
    }

    /// Frees the unschedulable pods for which `worth` says so.
    pub fn wake(&mut self, now: Millis, mut worth: impl FnMut(&Queued) -> bool) {
        let freed: Vec<String> = self
            .unschedulable
            .iter()
            .filter(|uid| {
                self.pods
                    .get(*uid)
                    .is_some_and(|(q, _)| q.gated.is_none() && worth(q))
            })
            .cloned()
            .collect();
        for uid in freed {
            if let Some(q) = self.unlink(&uid) {
                self.requeue(q, now);
            }
        }
    }

    /// Moves what is due: ended back-offs, and pods that were unschedulable for too long.
    pub fn tick(&mut self, now: Millis) {
        while let Some((at, uid)) = self.backoff.first().cloned() {
            if at > now {
                break;
            }
            if let Some(q) = self.unlink(&uid) {
                self.activate(q);
            }
        }
        let limit = millis(self.times.max_unschedulable);
        self.wake(now, |q| now.saturating_sub(q.since) >= limit);
    }

    /// When `tick` has something to do next.
    pub fn next_due(&self) -> Option<Millis> {
        let limit = millis(self.times.max_unschedulable);
        let parked = self
            .unschedulable
            .iter()
            .filter_map(|u| self.pods.get(u))
            .filter(|(q, _)| q.gated.is_none())
            .map(|(q, _)| q.since.saturating_add(limit))
            .min();
        let backing_off = self.backoff.first().map(|(at, _)| *at);
        match (parked, backing_off) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::tests::view;
    use crate::pod::Classes;
    use std::sync::Arc;

    fn pod(uid: &str, priority: i32) -> Pod {
        let mut v = view(uid, "1", "");
        v.spec.priority = priority;
        Classes::default().pod(Arc::new(v))
    }

    fn pop(q: &mut Queue) -> Option<String> {
        q.pop().map(|p| p.pod.uid().to_owned())
    }

    #[test]
    fn priority_then_age() {
        let mut q = Queue::new(Times::default());
        q.upsert(pod("old", 0), None, 1);
        q.upsert(pod("young", 0), None, 2);
        q.upsert(pod("urgent", 9), None, 3);
        assert_eq!(
            [pop(&mut q), pop(&mut q), pop(&mut q), pop(&mut q)],
            [
                Some("urgent".into()),
                Some("old".into()),
                Some("young".into()),
                None
            ]
        );
    }

    #[test]
    fn rejected_pods_wait_for_an_event_and_then_back_off() {
        let mut q = Queue::new(Times::default());
        q.upsert(pod("p", 0), None, 0);
        assert_eq!(pop(&mut q).as_deref(), Some("p"));
        q.reject("p", [3].into(), 100);
        q.tick(50_000);
        assert_eq!(pop(&mut q), None);
        q.wake(200, |p| p.rejected_by.contains(&4));
        assert_eq!(q.sizes(), (0, 0, 1, 0));
        q.wake(200, |p| p.rejected_by.contains(&3));
        assert_eq!((q.sizes(), q.next_due()), ((0, 1, 0, 0), Some(1100)));
        q.tick(1100);
        assert_eq!(pop(&mut q).as_deref(), Some("p"));
        // The second attempt backs off two seconds.
        q.retry("p", 2000);
        assert_eq!(q.next_due(), Some(4000));
    }

    #[test]
    fn gated_pods_stay_out_until_the_gate_goes() {
        let mut q = Queue::new(Times::default());
        q.upsert(pod("p", 0), Some("gate".into()), 0);
        q.wake(1, |_| true);
        q.tick(1_000_000);
        assert_eq!((pop(&mut q), q.next_due()), (None, None));
        q.upsert(pod("p", 0), None, 2);
        assert_eq!(pop(&mut q).as_deref(), Some("p"));
    }

    #[test]
    fn unschedulable_pods_are_tried_again_after_five_minutes() {
        let mut q = Queue::new(Times::default());
        q.upsert(pod("p", 0), None, 0);
        pop(&mut q);
        q.reject("p", [1].into(), 0);
        q.tick(299_999);
        assert_eq!(pop(&mut q), None);
        q.tick(300_000);
        assert_eq!(pop(&mut q).as_deref(), Some("p"));
    }

    #[test]
    fn removal_while_in_flight_is_final() {
        let mut q = Queue::new(Times::default());
        q.upsert(pod("p", 0), None, 0);
        pop(&mut q);
        q.remove("p");
        q.reject("p", [1].into(), 1);
        assert_eq!(q.sizes(), (0, 0, 0, 0));
    }
}
