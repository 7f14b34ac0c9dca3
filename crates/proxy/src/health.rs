//! What the health port tells: whether changes reach the kernel in time, and whether the node should get traffic.
//!
//! `/livez` is about the proxy alone; `/healthz`, which load balancers ask, also fails while the node is being deleted or
//! the cluster autoscaler has tainted it for that (KEP-3836).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use client::Time;
use serde_json::{Value, json};

use crate::model::Family;
use crate::view::NodeView;

/// How long a change may wait (upstream: twice the sync period of 30 s).
const HEALTHY_FOR: Duration = Duration::from_secs(60);
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

#[derive(Clone, Copy, Default)]
struct One {
    updated: Option<Time>,
    /// Since when a change waits.
    pending: Option<Time>,
}

#[derive(Default)]
struct State {
    families: BTreeMap<Family, One>,
    eligible: bool,
}

/// Health as the writes tell it. Healthy until a change waits for too long.
#[derive(Default)]
pub struct Health(Mutex<State>);

impl Health {
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A change waits to be written.
    pub fn queued(&self, family: Family, now: Time) {
        self.with(|s| {
            let one = s.families.entry(family).or_default();
            one.pending = one.pending.or(Some(now));
        });
    }

    /// All changes are written.
    pub fn updated(&self, family: Family, now: Time) {
        self.with(|s| {
            let one = One {
                updated: Some(now),
                pending: None,
            };
            s.families.insert(family, one);
        });
    }

    /// The proxy's Node as it is; `None` if there is none.
    pub fn node(&self, node: Option<&NodeView>) {
        let eligible = node.is_some_and(|n| {
            n.metadata.deletion_timestamp.is_none()
                && !n.spec.taints.iter().any(|t| t.key == TO_BE_DELETED)
        });
        self.with(|s| s.eligible = eligible);
    }

    /// The answer to `/livez`, or with `node` to `/healthz`: whether all is well, and the body.
    pub fn report(&self, node: bool, now: Time) -> (bool, Value) {
        self.with(|s| {
            let late = |one: &One| {
                one.pending.is_some_and(|since| {
                    Duration::try_from(now.duration_since(since)).is_ok_and(|d| d >= HEALTHY_FOR)
                })
            };
            let healthy = !s.families.values().any(late);
            let well = healthy && (s.eligible || !node);
            let last = s.families.values().filter_map(|o| o.updated).max();
            let status: serde_json::Map<String, Value> = s
                .families
                .iter()
                .filter_map(|(family, one)| {
                    let name = match family {
                        Family::V4 => "IPv4",
                        Family::V6 => "IPv6",
                    };
                    let at = one.updated?.to_string();
                    let one = json!({"lastUpdated": at, "healthy": !late(one)});
                    Some((name.to_owned(), one))
                })
                .collect();
            let last = if well { Some(now) } else { last };
            let mut body = json!({
                "lastUpdated": last.map_or_else(|| "0001-01-01T00:00:00Z".into(), |t| t.to_string()),
                "currentTime": now.to_string(),
                "healthy": healthy,
            });
            if let Some(map) = body.as_object_mut() {
                if node {
                    map.insert("nodeEligible".into(), s.eligible.into());
                }
                if !status.is_empty() {
                    map.insert("status".into(), status.into());
                }
            }
            (well, body)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Taint;

    fn at(seconds: i64) -> Time {
        Time::from_second(1_700_000_000 + seconds).unwrap()
    }

    #[test]
    fn a_change_that_waits_too_long_is_told_until_it_is_written() {
        let h = Health::default();
        h.node(Some(&NodeView::default()));
        assert!(h.report(true, at(0)).0, "healthy while starting");
        h.queued(Family::V4, at(0));
        h.updated(Family::V4, at(1));
        h.queued(Family::V4, at(10));
        // Attempts that fail do not make it younger.
        h.queued(Family::V4, at(60));
        assert!(h.report(false, at(69)).0);
        let (well, body) = h.report(false, at(70));
        assert!(
            !well && body["status"]["IPv4"]["healthy"] == false,
            "{body}"
        );
        assert_eq!(body["lastUpdated"], at(1).to_string());
        h.updated(Family::V4, at(71));
        assert!(h.report(true, at(500)).0);
    }

    #[test]
    fn a_node_on_its_way_out_gets_no_traffic_and_its_proxy_lives() {
        let h = Health::default();
        let eligible = |h: &Health| {
            let (well, body) = h.report(true, at(0));
            assert_eq!(body["nodeEligible"], well);
            let (lives, body) = h.report(false, at(0));
            assert!(lives && body.get("nodeEligible").is_none());
            well
        };
        assert!(!eligible(&h), "no node is known");
        let mut node = NodeView::default();
        h.node(Some(&node));
        assert!(eligible(&h));
        node.spec.taints.push(Taint {
            key: TO_BE_DELETED.into(),
        });
        h.node(Some(&node));
        assert!(!eligible(&h));
        node.spec.taints.clear();
        node.metadata.deletion_timestamp = Some(at(0));
        h.node(Some(&node));
        assert!(!eligible(&h));
        h.node(None);
        assert!(!eligible(&h));
    }
}
