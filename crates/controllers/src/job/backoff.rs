//! How long a job waits before it replaces failed pods: 10 s, doubled per failure in a row, up to 10 minutes.

use std::sync::Arc;
use std::time::Duration;

use client::Time;

use crate::job::{failures_of_index, ignored_failures_of_index};
use crate::views::{ContainerStatus, Pod, condition};

const FIRST: Duration = Duration::from_secs(10);
const MOST: Duration = Duration::from_secs(600);

/// Failures of a job since a pod last succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    /// How many.
    pub failures: u32,
    /// The end of the last one.
    pub last: Option<Time>,
}

impl Backoff {
    /// After more pods have ended.
    pub fn after(self, succeeded: &[Arc<Pod>], failed: &[Arc<Pod>]) -> Backoff {
        let mut ends: Vec<Time> = failed.iter().map(|p| finished_at(p)).collect();
        let success = succeeded.iter().map(|p| finished_at(p)).max();
        let before = match success {
            Some(success) => {
                ends.retain(|end| *end > success);
                Backoff::default()
            }
            None => self,
        };
        match ends.iter().max() {
            None => before,
            Some(last) => Backoff {
                failures: before
                    .failures
                    .saturating_add(u32::try_from(ends.len()).unwrap_or(u32::MAX)),
                last: Some(*last),
            },
        }
    }

    /// How long new pods have to wait.
    pub fn remaining(self, now: Time) -> Duration {
        let (Some(last), Some(doublings)) = (self.last, self.failures.checked_sub(1)) else {
            return Duration::ZERO;
        };
        let wait = FIRST
            .saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX).max(1))
            .min(MOST);
        // A clock that is behind the nodes' makes nobody wait longer than all of it.
        let passed = Duration::try_from(now.duration_since(last)).unwrap_or(Duration::ZERO);
        wait.saturating_sub(passed)
    }

    /// That of one index whose last failed pod is known.
    pub fn of_index(last_failed: Option<&Pod>) -> Backoff {
        let Some(pod) = last_failed else {
            return Backoff::default();
        };
        let failures = failures_of_index(pod).saturating_add(ignored_failures_of_index(pod));
        Backoff {
            failures: u32::try_from(failures).unwrap_or(0).saturating_add(1),
            last: Some(finished_at(pod)),
        }
    }
}

/// The latest end of the containers; none when one has not ended.
fn latest<'a>(statuses: impl Iterator<Item = &'a ContainerStatus>) -> Option<Option<Time>> {
    let mut latest = None;
    for s in statuses {
        let end = s.state.terminated.as_ref()?.finished_at?;
        latest = latest.max(Some(end));
    }
    Some(latest)
}

/// When a pod ended: its last container, else when it stopped being ready, else when its deletion was asked for, else when it
/// was made.
pub fn finished_at(pod: &Pod) -> Time {
    let is_sidecar = |name: &str| {
        pod.spec
            .init_containers
            .iter()
            .any(|c| c.name == name && c.restart_policy == "Always")
    };
    let sidecars = pod
        .status
        .init_container_statuses
        .iter()
        .filter(|s| is_sidecar(&s.name));
    let containers = latest(pod.status.container_statuses.iter())
        .and_then(|main| Some(main.max(latest(sidecars)?)))
        .flatten();
    let unready = || {
        condition(&pod.status.conditions, "Ready")
            .filter(|c| c.status == "False")
            .and_then(|c| c.last_transition_time)
    };
    let deleted = || {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        let at = pod.metadata.deletion_timestamp?;
        Some(
            at.checked_add(jiff::SignedDuration::from_secs(grace.saturating_neg()))
                .unwrap_or(at),
        )
    };
    containers
        .or_else(unready)
        .or_else(deleted)
        .or(pod.metadata.creation_timestamp)
        .unwrap_or(Time::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(s: i64) -> Time {
        Time::from_second(1_700_000_000 + s).unwrap()
    }

    fn ended(s: i64) -> Value {
        json!({"name": "c", "state": {"terminated": {"exitCode": 1, "finishedAt": client::view::print_time(at(s))}}})
    }

    fn pod(status: Value, metadata: Value, spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status}))
            .unwrap()
    }

    fn pods(ends: &[i64]) -> Vec<Arc<Pod>> {
        let one = |s: &i64| {
            pod(
                json!({"containerStatuses": [ended(*s)]}),
                json!({"name": "p"}),
                json!({}),
            )
        };
        ends.iter().map(one).map(Arc::new).collect()
    }

    #[test]
    fn failures_count_since_the_last_success() {
        let before = Backoff {
            failures: 2,
            last: Some(at(5)),
        };
        for (start, succeeded, failed, failures, last) in [
            (Backoff::default(), &[][..], &[][..], 0, None),
            (Backoff::default(), &[], &[7, 3], 2, Some(7)),
            (before, &[], &[], 2, Some(5)),
            (before, &[], &[9], 3, Some(9)),
            (before, &[9], &[], 0, None),
            (before, &[9], &[8], 0, None),
            (before, &[9], &[9], 0, None),
            (before, &[9, 6], &[8, 12, 11], 2, Some(12)),
        ] {
            let got = start.after(&pods(succeeded), &pods(failed));
            assert_eq!(
                (got.failures, got.last),
                (failures, last.map(at)),
                "{succeeded:?} {failed:?}"
            );
        }
    }

    #[test]
    fn waits_double_up_to_ten_minutes() {
        let remaining = |failures, last, now| {
            let b = Backoff {
                failures,
                last: Some(at(last)),
            };
            b.remaining(at(now)).as_secs()
        };
        assert_eq!(Backoff::default().remaining(at(0)), Duration::ZERO);
        assert_eq!(
            [1, 2, 3, 6, 7, 8, 33, u32::MAX].map(|n| remaining(n, 0, 0)),
            [10, 20, 40, 320, 600, 600, 600, 600]
        );
        assert_eq!(
            (
                remaining(2, 0, 15),
                remaining(2, 0, 20),
                remaining(2, 0, 100)
            ),
            (5, 0, 0)
        );
        assert_eq!(remaining(1, 500, 0), 10, "a pod that ends in the future");
    }

    #[test]
    fn the_end_of_a_pod() {
        let meta = json!({"name": "p", "creationTimestamp": client::view::print_time(at(1))});
        let deleted = json!({"name": "p", "creationTimestamp": client::view::print_time(at(1)),
            "deletionTimestamp": client::view::print_time(at(90)), "deletionGracePeriodSeconds": 30});
        let unready = json!({"type": "Ready", "status": "False", "lastTransitionTime": client::view::print_time(at(40))});
        let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": client::view::print_time(at(40))});
        let running = json!({"name": "d", "state": {"running": {}}});
        let sidecar = json!({"initContainers": [{"name": "c", "restartPolicy": "Always"}]});
        let init = json!({"initContainers": [{"name": "c"}]});
        for (what, status, metadata, spec, want) in [
            (
                "the last container",
                json!({"containerStatuses": [ended(20), ended(10)], "conditions": [unready]}),
                &meta,
                json!({}),
                20,
            ),
            (
                "one still runs",
                json!({"containerStatuses": [ended(20), running], "conditions": [unready]}),
                &meta,
                json!({}),
                40,
            ),
            (
                "a sidecar ends last",
                json!({"containerStatuses": [ended(20)], "initContainerStatuses": [ended(25)]}),
                &meta,
                sidecar,
                25,
            ),
            (
                "init containers do not matter",
                json!({"containerStatuses": [ended(20)], "initContainerStatuses": [ended(25)]}),
                &meta,
                init,
                20,
            ),
            (
                "no containers",
                json!({"conditions": [unready]}),
                &deleted,
                json!({}),
                40,
            ),
            (
                "deleted",
                json!({"conditions": [ready]}),
                &deleted,
                json!({}),
                60,
            ),
            ("nothing known", json!({}), &meta, json!({}), 1),
        ] {
            assert_eq!(
                finished_at(&pod(status, metadata.clone(), spec)),
                at(want),
                "{what}"
            );
        }
    }
}
