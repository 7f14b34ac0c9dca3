//! node-lifecycle-controller: notices nodes that stopped reporting, and keeps the taints that follow from a node's
//! conditions.
//!
//! A node counts as seen when its lease is renewed or its Ready condition's heartbeat moves, by this process's clock. After
//! `--node-monitor-grace-period` without either its conditions become Unknown and its pods not ready.
//!
//! Invariants: a node gets at most one of the not-ready and unreachable NoExecute taints, at a rate per zone that falls
//! when many nodes of the zone are down; when no zone has a ready node left nothing is evicted, since then it is more likely
//! this process that is cut off. Each node has one timer, moved by nothing but its end, so that a healthy node costs one
//! wake-up per grace period (`--node-monitor-period` is the least time between two looks at a node).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use client::limiter::TokenBucket;
use client::resource::{LEASES, NODES, PODS};
use client::{
    Change, EventType, ObjectKey, ObjectReference, Patch, Selector, Store, Time, WorkQueue,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::config::Config;
use crate::context::{Context, Failures, rewrite};
use crate::views::{Condition, Lease, Node, Pod, Taint, condition};

/// Taint of nodes whose Ready condition is False.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Taint of nodes whose Ready condition is Unknown.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
const WATCHED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
const BY_CONDITION: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    (
        "MemoryPressure",
        "True",
        "node.kubernetes.io/memory-pressure",
    ),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    (
        "NetworkUnavailable",
        "True",
        "node.kubernetes.io/network-unavailable",
    ),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

/// State of a zone, from its ready and other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneState {
    /// Few nodes are down.
    Normal,
    /// More than two, and more than the threshold.
    Partial,
    /// All.
    Full,
}

/// Judges a zone.
pub fn zone_state(ready: usize, other: usize, threshold: f64) -> ZoneState {
    #[expect(clippy::cast_precision_loss, reason = "node counts")]
    let share = other as f64 / (ready + other).max(1) as f64;
    match (ready, other) {
        (0, 1..) => ZoneState::Full,
        (_, 3..) if share >= threshold => ZoneState::Partial,
        _ => ZoneState::Normal,
    }
}

/// Nodes a second that may be tainted in a zone.
pub fn rate(config: &Config, state: ZoneState, size: usize) -> f64 {
    match state {
        ZoneState::Partial if size > config.large_cluster_size => config.secondary_eviction_rate,
        ZoneState::Partial => 0.0,
        ZoneState::Normal | ZoneState::Full => config.eviction_rate,
    }
}

/// The NoSchedule taints that follow from a node's conditions and its unschedulable mark; `None` if it has just those.
pub fn no_schedule(node: &Node) -> Option<Vec<Taint>> {
    let mut wanted: Vec<&str> = BY_CONDITION
        .iter()
        .filter(|(kind, status, _)| {
            condition(&node.status.conditions, kind).is_some_and(|c| c.status == *status)
        })
        .map(|c| c.2)
        .collect();
    if node.spec.unschedulable {
        wanted.push(UNSCHEDULABLE);
    }
    let ours = |t: &&Taint| {
        t.effect == "NoSchedule"
            && (t.key == UNSCHEDULABLE || BY_CONDITION.iter().any(|c| c.2 == t.key))
    };
    let have: Vec<&str> = node
        .spec
        .taints
        .iter()
        .filter(ours)
        .map(|t| t.key.as_str())
        .collect();
    if have.len() == wanted.len() && wanted.iter().all(|k| have.contains(k)) {
        return None;
    }
    let mut taints: Vec<Taint> = node
        .spec
        .taints
        .iter()
        .filter(|t| !ours(t) || wanted.contains(&t.key.as_str()))
        .cloned()
        .collect();
    for key in wanted.iter().filter(|k| !have.contains(*k)) {
        taints.push(Taint {
            key: (*key).into(),
            effect: "NoSchedule".into(),
            time_added: Some(now()),
            ..Taint::default()
        });
    }
    Some(taints)
}

/// The conditions of a node that stopped reporting, those that change.
pub fn unknown_conditions(node: &Node, now: Time) -> Vec<Condition> {
    WATCHED
        .iter()
        .filter_map(|kind| match condition(&node.status.conditions, kind) {
            None => Some(Condition {
                kind: (*kind).into(),
                status: "Unknown".into(),
                reason: "NodeStatusNeverUpdated".into(),
                message: "Kubelet never posted node status.".into(),
                last_heartbeat_time: node.metadata.creation_timestamp,
                last_transition_time: Some(now),
                last_update_time: None,
            }),
            Some(c) if c.status != "Unknown" => Some(Condition {
                status: "Unknown".into(),
                reason: "NodeStatusUnknown".into(),
                message: "Kubelet stopped posting node status.".into(),
                last_transition_time: Some(now),
                ..c.clone()
            }),
            Some(_) => None,
        })
        .collect()
}

#[derive(Default)]
struct Health {
    seen: Option<Instant>,
    lease: Option<Time>,
    heartbeat: Option<Time>,
    /// Empty as long as there is a lease only.
    zone: String,
    ready: bool,
    /// Left out when zones are judged.
    excluded: bool,
}

#[derive(Default)]
struct Nodes {
    health: HashMap<String, Health>,
    limiters: BTreeMap<String, (f64, Arc<TokenBucket>)>,
    /// No zone has a ready node.
    all_down: bool,
}

impl Nodes {
    fn zones(&self) -> BTreeMap<&str, (usize, usize)> {
        let mut out: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        let counted = |h: &&Health| !h.zone.is_empty() && !h.excluded;
        for h in self.health.values().filter(counted) {
            let z = out.entry(h.zone.as_str()).or_default();
            if h.ready { z.0 += 1 } else { z.1 += 1 }
        }
        out
    }
}

/// Region and zone; the older labels count first, as upstream.
fn zone_of(node: &Node) -> String {
    let label = |old: &str, new: &str| {
        let labels = &node.metadata.labels;
        let value = labels.get(old).or_else(|| labels.get(new));
        value.map(String::as_str).unwrap_or_default()
    };
    format!(
        "{}:{}",
        label(
            "failure-domain.beta.kubernetes.io/region",
            "topology.kubernetes.io/region"
        ),
        label(
            "failure-domain.beta.kubernetes.io/zone",
            "topology.kubernetes.io/zone"
        )
    )
}

/// Labels under older names that are missing or differ from the ones they repeat.
pub fn labels_to_set(node: &Node) -> BTreeMap<&'static str, &str> {
    let labels = &node.metadata.labels;
    [
        ("kubernetes.io/os", "beta.kubernetes.io/os"),
        ("kubernetes.io/arch", "beta.kubernetes.io/arch"),
    ]
    .into_iter()
    .filter_map(|(new, old)| {
        let value = labels.get(new)?;
        (labels.get(old) != Some(value)).then_some((old, value.as_str()))
    })
    .collect()
}

/// The API's times have no fractions of seconds.
fn now() -> Time {
    let now = Time::now();
    Time::from_second(now.as_second()).unwrap_or(now)
}

/// A node's taints with the NoExecute taint `add` instead of `remove`. A replaced taint leaves its time: the node's pods
/// have been waiting since then.
pub fn no_execute(taints: &[Taint], add: &str, remove: &str, now: Time) -> Vec<Taint> {
    let ours = |t: &Taint| t.effect == "NoExecute" && (t.key == add || t.key == remove);
    let since = taints
        .iter()
        .filter(|t| ours(t))
        .filter_map(|t| t.time_added);
    let since = since.min().unwrap_or(now);
    let mut out: Vec<Taint> = taints.iter().filter(|t| !ours(t)).cloned().collect();
    out.push(Taint {
        key: add.into(),
        effect: "NoExecute".into(),
        time_added: Some(since),
        ..Taint::default()
    });
    out
}

struct Lifecycle {
    ctx: Context,
    nodes: Store<Node>,
    pods: Store<Pod>,
    queue: WorkQueue<ObjectKey>,
    state: Mutex<Nodes>,
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let nodes = ctx.informer::<Node>(&NODES);
    let pods = ctx.informer::<Pod>(&PODS);
    let leases = ctx
        .informers
        .get::<Lease>(&LEASES, Selector::namespace("kube-node-lease"));
    pods.store()
        .add_index("node", |p: &Pod| vec![p.spec.node_name.clone()]);
    let queue = ctx.queue("node_lifecycle_controller");
    let it = Arc::new(Lifecycle {
        nodes: nodes.store(),
        pods: pods.store(),
        queue: queue.clone(),
        state: Mutex::default(),
        ctx: ctx.clone(),
    });
    let c = it.clone();
    nodes.on_change(move |change| c.node_changed(change));
    let c = it.clone();
    leases.on_change(move |change| {
        let lease = change.object();
        let mut state = c.lock();
        if matches!(change, Change::Deleted(_)) {
            let name = &lease.metadata.name;
            if state.health.get(name).is_some_and(|h| h.zone.is_empty()) {
                state.health.remove(name);
            }
            return;
        }
        let h = state.health.entry(lease.metadata.name.clone()).or_default();
        if h.lease < lease.spec.renew_time {
            h.lease = lease.spec.renew_time;
            h.seen = Some(Instant::now());
        }
    });
    let c = it.clone();
    pods.on_change(move |change| {
        // A pod that appears ready on a node that is not.
        let pod = change.object();
        if !matches!(change, Change::Deleted(_))
            && pod.is_ready()
            && c.nodes
                .get("", &pod.spec.node_name)
                .is_some_and(|n| status_of(&n) == Some("Unknown"))
        {
            c.queue.add(ObjectKey::new("", pod.spec.node_name.as_str()));
        }
    });
    ctx.run(queue, 8, move |key| {
        let it = it.clone();
        async move { it.sync(&key).await }
    });
}

fn status_of(node: &Node) -> Option<&str> {
    condition(&node.status.conditions, "Ready").map(|c| c.status.as_str())
}

impl Lifecycle {
    fn lock(&self) -> MutexGuard<'_, Nodes> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node_changed(&self, change: Change<'_, Node>) {
        let node = change.object();
        let key = ObjectKey::of(&**node);
        if matches!(change, Change::Deleted(_)) {
            self.lock().health.remove(&node.metadata.name);
            let message = format!(
                "Node {0} event: Removing Node {0} from Controller",
                key.name
            );
            self.ctx
                .recorder
                .event(reference(node), EventType::Normal, "RemovingNode", message);
            return;
        }
        let ready = condition(&node.status.conditions, "Ready");
        let now = Instant::now();
        {
            let mut state = self.lock();
            let h = state.health.entry(node.metadata.name.clone()).or_default();
            h.zone = zone_of(node);
            let exclude = "node.kubernetes.io/exclude-disruption";
            h.excluded = node.metadata.labels.contains_key(exclude);
            h.ready = ready.is_some_and(|c| c.status == "True");
            let heartbeat = ready.and_then(|c| c.last_heartbeat_time);
            if h.seen.is_none() || heartbeat != h.heartbeat {
                h.seen = Some(now);
            }
            h.heartbeat = heartbeat;
        }
        if matches!(change, Change::Added(_)) {
            let message = format!(
                "Node {0} event: Registered Node {0} in Controller",
                key.name
            );
            self.ctx.recorder.event(
                reference(node),
                EventType::Normal,
                "RegisteredNode",
                message,
            );
        }
        let matters = change.old().is_none_or(|old| {
            let view = |n: &Node| {
                n.status
                    .conditions
                    .iter()
                    .map(|c| (c.kind.clone(), c.status.clone()))
                    .collect::<Vec<_>>()
            };
            view(old) != view(node)
                || old.spec.taints != node.spec.taints
                || old.spec.unschedulable != node.spec.unschedulable
                || old.metadata.labels != node.metadata.labels
        });
        if matters || matches!(change, Change::Added(_)) {
            self.queue.add(key);
        }
    }

    async fn sync(&self, key: &ObjectKey) -> Result<Option<Duration>, client::Error> {
        let Some(node) = self.nodes.get_key(key) else {
            return Ok(None);
        };
        if no_schedule(&node).is_some() {
            self.set_taints(&node, no_schedule).await?;
        }
        let labels = labels_to_set(&node);
        if !labels.is_empty() {
            let patch =
                Patch::Strategic(json!({"metadata": {"uid": node.metadata.uid, "labels": labels}}));
            self.ctx
                .client
                .api(&NODES)
                .patch::<serde::de::IgnoredAny>(&key.name, &patch)
                .await?;
        }
        let config = &self.ctx.config;
        let status = status_of(&node).map(str::to_owned);
        let grace = if status.is_none() {
            config.node_startup_grace
        } else {
            config.node_monitor_grace
        };
        let seen = self
            .lock()
            .health
            .get(&key.name)
            .and_then(|h| h.seen)
            .unwrap_or_else(Instant::now);
        let left = (seen + grace).saturating_duration_since(Instant::now());
        let mut again = left.max(config.node_monitor_period);
        if left.is_zero() {
            again = grace;
            self.lost(&node).await?;
        }
        self.zones_changed();
        match status.as_deref() {
            Some("True") if !left.is_zero() => self.untaint(&node).await?,
            Some("False") => again = again.min(self.taint(&node, NOT_READY, UNREACHABLE).await?),
            Some("Unknown") => {
                let tainted = self.taint(&node, UNREACHABLE, NOT_READY).await;
                self.pods_not_ready(&node).await?;
                again = again.min(tainted?);
            }
            _ => {}
        }
        Ok(Some(again))
    }

    /// Says that the node stopped reporting. The change comes back as an event.
    async fn lost(&self, node: &Node) -> Result<(), client::Error> {
        let conditions = unknown_conditions(node, now());
        if conditions.is_empty() {
            return Ok(());
        }
        let was_ready = status_of(node) == Some("True");
        // Not over what the kubelet may have posted meanwhile.
        let patch = Patch::Strategic(json!({
            "metadata": {"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version},
            "status": {"conditions": conditions},
        }));
        let name = &node.metadata.name;
        match self
            .ctx
            .client
            .api(&NODES)
            .patch_status::<serde::de::IgnoredAny>(name, &patch)
            .await
        {
            Ok(_) => {}
            Err(e) if e.is_not_found() => return Ok(()),
            Err(e) => return Err(e),
        }
        if was_ready {
            let message = format!("Node {name} status is now: NodeNotReady");
            self.ctx
                .recorder
                .event(reference(node), EventType::Normal, "NodeNotReady", message);
        }
        Ok(())
    }

    async fn pods_not_ready(&self, node: &Node) -> Result<(), client::Error> {
        let mut failures = Failures::default();
        for pod in self.pods.by_index("node", &node.metadata.name) {
            let Some(c) = condition(&pod.status.conditions, "Ready").filter(|c| c.status == "True")
            else {
                continue;
            };
            let new = Condition {
                status: "False".into(),
                last_transition_time: Some(now()),
                ..c.clone()
            };
            let patch = Patch::Strategic(
                json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [new]}}),
            );
            let api = self.ctx.client.namespaced(&PODS, &pod.metadata.namespace);
            match api
                .patch_status::<serde::de::IgnoredAny>(&pod.metadata.name, &patch)
                .await
            {
                Ok(_) => {}
                Err(e) if e.is_not_found() || e.is_conflict() => continue,
                Err(e) => {
                    failures.note(Err(e));
                    continue;
                }
            }
            let reference = ObjectReference::of(&PODS, &*pod);
            self.ctx.recorder.event(
                reference,
                EventType::Warning,
                "NodeNotReady",
                "Node is not ready",
            );
        }
        failures.end()
    }

    /// Notices when the last ready node goes and when the first comes back.
    fn zones_changed(&self) {
        let config = &self.ctx.config;
        let mut state = self.lock();
        let zones = state.zones();
        let states: Vec<(String, ZoneState, usize)> = zones
            .iter()
            .map(|(z, (r, o))| {
                (
                    (*z).to_owned(),
                    zone_state(*r, *o, config.unhealthy_zone_threshold),
                    r + o,
                )
            })
            .collect();
        let all_down = !states.is_empty() && states.iter().all(|(_, s, _)| *s == ZoneState::Full);
        let names: HashSet<&str> = states.iter().map(|s| s.0.as_str()).collect();
        state
            .limiters
            .retain(|zone, _| names.contains(zone.as_str()));
        for (zone, zone_state, size) in states {
            let rate = if all_down {
                0.0
            } else {
                rate(config, zone_state, size)
            };
            if state.limiters.get(&zone).is_none_or(|l| l.0 != rate) {
                #[expect(clippy::cast_possible_truncation, reason = "flags are float32")]
                let bucket = TokenBucket::new(rate as f32, 1);
                // A change of rate is no way around it.
                if let Some((old_rate, old)) = state.limiters.get(&zone)
                    && (*old_rate <= 0.0 || !old.try_take(Instant::now()))
                {
                    bucket.try_take(Instant::now());
                }
                state.limiters.insert(zone, (rate, Arc::new(bucket)));
            }
        }
        if all_down == state.all_down {
            return;
        }
        state.all_down = all_down;
        if all_down {
            tracing::info!(
                "Controller detected that all Nodes are not-Ready. Entering master disruption mode"
            );
        } else {
            tracing::info!(
                "Controller detected that some Nodes are Ready. Exiting master disruption mode"
            );
            // Nobody could report while this process was cut off: all get a full grace period.
            let now = Instant::now();
            state.health.values_mut().for_each(|h| h.seen = Some(now));
        }
        for name in state.health.keys() {
            self.queue.add(ObjectKey::new("", name.as_str()));
        }
    }

    /// Adds a NoExecute taint, within the zone's rate; returns when to look again.
    async fn taint(&self, node: &Node, add: &str, remove: &str) -> Result<Duration, client::Error> {
        let never = Duration::from_secs(3600);
        let has = |key: &str| {
            node.spec
                .taints
                .iter()
                .any(|t| t.key == key && t.effect == "NoExecute")
        };
        let (rate, bucket, all_down) = {
            let state = self.lock();
            let limiter = state.limiters.get(&zone_of(node)).cloned();
            let (rate, bucket) =
                limiter.unwrap_or_else(|| (0.0, Arc::new(TokenBucket::new(1.0, 1))));
            (rate, bucket, state.all_down)
        };
        if all_down {
            self.untaint(node).await?;
            return Ok(never);
        }
        if has(add) && !has(remove) {
            return Ok(never);
        }
        // Swapping one for the other evicts nobody new.
        if !has(remove) {
            if rate <= 0.0 {
                return Ok(never);
            }
            if !bucket.try_take(Instant::now()) {
                return Ok(Duration::from_secs_f64((1.0 / rate).min(3600.0)));
            }
        }
        // A node that came back meanwhile keeps its pods.
        self.set_taints(node, |n| {
            (status_of(n) == status_of(node))
                .then(|| no_execute(&n.spec.taints, add, remove, now()))
        })
        .await?;
        Ok(never)
    }

    async fn untaint(&self, node: &Node) -> Result<(), client::Error> {
        let ours =
            |t: &Taint| t.effect == "NoExecute" && (t.key == NOT_READY || t.key == UNREACHABLE);
        if !node.spec.taints.iter().any(ours) {
            return Ok(());
        }
        self.set_taints(node, |n| {
            Some(n.spec.taints.iter().filter(|t| !ours(t)).cloned().collect())
        })
        .await
    }

    /// Writes the taints that `change` wants for the node as it is now.
    async fn set_taints(
        &self,
        node: &Node,
        change: impl Fn(&Node) -> Option<Vec<Taint>>,
    ) -> Result<(), client::Error> {
        let api = self.ctx.client.api(&NODES);
        rewrite(
            &api,
            &node.metadata.name,
            &node.metadata.uid,
            "",
            |object| {
                let Ok(current) = serde_json::from_value::<Node>(object.clone()) else {
                    return false;
                };
                let Some(taints) = change(&current).filter(|t| *t != current.spec.taints) else {
                    return false;
                };
                let Some(spec) = object
                    .as_object_mut()
                    .map(|o| o.entry("spec").or_insert_with(|| json!({})))
                else {
                    return false;
                };
                if let Some(spec) = spec.as_object_mut() {
                    spec.insert(
                        "taints".into(),
                        serde_json::to_value(taints).unwrap_or(Value::Null),
                    );
                }
                true
            },
        )
        .await
    }
}

fn reference(node: &Node) -> ObjectReference {
    ObjectReference {
        resource_version: String::new(),
        ..ObjectReference::of(&NODES, node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(conditions: &[(&str, &str)], taints: &[(&str, &str)]) -> Node {
        let mut n = Node::default();
        n.status.conditions = conditions
            .iter()
            .map(|(k, s)| Condition {
                kind: (*k).into(),
                status: (*s).into(),
                ..Condition::default()
            })
            .collect();
        n.spec.taints = taints
            .iter()
            .map(|(k, e)| Taint {
                key: (*k).into(),
                effect: (*e).into(),
                ..Taint::default()
            })
            .collect();
        n
    }

    fn keys(t: Option<Vec<Taint>>) -> Option<Vec<String>> {
        t.map(|t| {
            t.into_iter()
                .map(|t| format!("{}:{}", t.key, t.effect))
                .collect()
        })
    }

    #[test]
    fn taints_follow_conditions() {
        assert_eq!(
            no_schedule(&node(&[("Ready", "True"), ("DiskPressure", "False")], &[])),
            None
        );
        let n = node(
            &[("Ready", "Unknown"), ("DiskPressure", "True")],
            &[
                ("mine", "NoSchedule"),
                (NOT_READY, "NoSchedule"),
                (NOT_READY, "NoExecute"),
            ],
        );
        let want = [
            "mine:NoSchedule",
            "node.kubernetes.io/not-ready:NoExecute",
            "node.kubernetes.io/unreachable:NoSchedule",
            "node.kubernetes.io/disk-pressure:NoSchedule",
        ];
        assert_eq!(
            keys(no_schedule(&n)),
            Some(want.map(str::to_owned).to_vec())
        );
        let mut n = node(&[("Ready", "True")], &[]);
        n.spec.unschedulable = true;
        assert_eq!(
            keys(no_schedule(&n)),
            Some(vec![
                "node.kubernetes.io/unschedulable:NoSchedule".to_owned()
            ])
        );
    }

    #[test]
    fn silence_makes_conditions_unknown_once() {
        let mut n = node(&[("Ready", "True"), ("MemoryPressure", "False")], &[]);
        let c = unknown_conditions(&n, Time::UNIX_EPOCH);
        let reasons: Vec<_> = c
            .iter()
            .map(|c| (c.kind.as_str(), c.reason.as_str()))
            .collect();
        assert_eq!(
            reasons,
            [
                ("Ready", "NodeStatusUnknown"),
                ("MemoryPressure", "NodeStatusUnknown"),
                ("DiskPressure", "NodeStatusNeverUpdated"),
                ("PIDPressure", "NodeStatusNeverUpdated")
            ]
        );
        n.status.conditions = c;
        assert!(unknown_conditions(&n, Time::UNIX_EPOCH).is_empty());
    }

    #[test]
    fn zones() {
        assert_eq!(zone_state(3, 0, 0.55), ZoneState::Normal);
        assert_eq!(zone_state(0, 1, 0.55), ZoneState::Full);
        assert_eq!(
            zone_state(1, 2, 0.55),
            ZoneState::Normal,
            "two nodes never make a partial disruption"
        );
        assert_eq!(zone_state(2, 3, 0.55), ZoneState::Partial);
        assert_eq!(zone_state(10, 3, 0.55), ZoneState::Normal);
        let c = Config::default();
        assert_eq!(rate(&c, ZoneState::Partial, 50), 0.0);
        assert_eq!(rate(&c, ZoneState::Partial, 51), 0.01);
        assert_eq!(rate(&c, ZoneState::Full, 3), 0.1);
    }

    #[test]
    fn a_swapped_taint_keeps_its_time() {
        let at = |s| Time::from_second(s).unwrap();
        let mut n = node(
            &[],
            &[
                ("mine", "NoExecute"),
                (NOT_READY, "NoExecute"),
                (NOT_READY, "NoSchedule"),
            ],
        );
        n.spec.taints[1].time_added = Some(at(5));
        let taints = no_execute(&n.spec.taints, UNREACHABLE, NOT_READY, at(9));
        assert_eq!(
            keys(Some(taints.clone())).unwrap(),
            [
                "mine:NoExecute",
                "node.kubernetes.io/not-ready:NoSchedule",
                "node.kubernetes.io/unreachable:NoExecute"
            ]
        );
        assert_eq!(taints[2].time_added, Some(at(5)));
        let fresh = no_execute(&[], NOT_READY, UNREACHABLE, at(9));
        assert_eq!(fresh[0].time_added, Some(at(9)));
    }

    #[test]
    fn old_labels_repeat_new_ones() {
        let mut n = Node::default();
        let mut set = |k: &str, v: &str| n.metadata.labels.insert(k.into(), v.into());
        set("kubernetes.io/os", "linux");
        set("beta.kubernetes.io/arch", "amd64");
        assert_eq!(
            labels_to_set(&n),
            [("beta.kubernetes.io/os", "linux")].into()
        );
        n.metadata
            .labels
            .insert("beta.kubernetes.io/os".into(), "plan9".into());
        assert_eq!(
            labels_to_set(&n),
            [("beta.kubernetes.io/os", "linux")].into()
        );
        n.metadata
            .labels
            .insert("beta.kubernetes.io/os".into(), "linux".into());
        assert!(labels_to_set(&n).is_empty());
    }

    #[test]
    fn leases_without_nodes_and_excluded_nodes_are_no_zone() {
        let health = |zone: &str, excluded| Health {
            zone: zone.into(),
            excluded,
            ..Health::default()
        };
        let nodes = Nodes {
            health: [
                ("lease".into(), health("", false)),
                ("excluded".into(), health("a:b", true)),
                ("node".into(), health("c:d", false)),
            ]
            .into(),
            ..Nodes::default()
        };
        assert_eq!(nodes.zones(), [("c:d", (0, 1))].into());
    }
}
