//! replicaset-controller: keeps as many pods as a ReplicaSet asks for.
//!
//! Invariants: never more than the missing pods are created, however stale the cache (see [`crate::expectations`]); of
//! the surplus, the pods that are missed least go first ([`surplus`]).

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::resource::{PODS, REPLICA_SETS};
use client::{Change, ObjectKey, ObjectMeta, Resource, Store, Time, View, WorkQueue};
use serde_json::Value;

use crate::children::{
    BURST, Family, controller_key, observe, pod_from_template, set_status, wanted_by,
};
use crate::context::{BY_CONTROLLER, Context, controller_index, rewrite};
use crate::expectations::Expectations;
use crate::views::{Condition, Pod, ReplicaSet, ReplicaSetStatus, condition};

/// What to do about a ReplicaSet's pods.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Pods to create.
    pub create: usize,
    /// Pods to delete: name and UID.
    pub delete: Vec<(String, String)>,
}

/// Compares what is asked for with the active pods.
pub fn decide(rs: &ReplicaSet, active: &[Arc<Pod>], related: &[Arc<Pod>], now: Time) -> Plan {
    let wanted = usize::try_from(rs.spec.replicas.unwrap_or(1)).unwrap_or(0);
    if active.len() < wanted {
        return Plan {
            create: (wanted - active.len()).min(BURST),
            delete: Vec::new(),
        };
    }
    let n = (active.len() - wanted).min(BURST);
    let delete = surplus(active, related, n, now);
    Plan {
        create: 0,
        delete: delete
            .iter()
            .map(|p| (p.metadata.name.clone(), p.metadata.uid.clone()))
            .collect(),
    }
}

/// The `n` pods that are missed least: not scheduled before scheduled, pending before running, not ready before ready,
/// cheap by annotation before dear, on crowded nodes before alone, lately ready before long ready, often restarted before
/// seldom, young before old.
fn surplus(active: &[Arc<Pod>], related: &[Arc<Pod>], n: usize, now: Time) -> Vec<Arc<Pod>> {
    if n >= active.len() {
        return active.to_vec();
    }
    let mut crowd: HashMap<&str, usize> = HashMap::new();
    for p in related.iter().filter(|p| !p.spec.node_name.is_empty()) {
        *crowd.entry(p.spec.node_name.as_str()).or_default() += 1;
    }
    // Times are compared by magnitude, so that the choice between pods of about the same age looks random to users who
    // would otherwise rely on it.
    let magnitude =
        |t: Option<Time>| t.map_or(0, |t| now.duration_since(t).as_secs().max(1).ilog2());
    let mut pods = active.to_vec();
    pods.sort_by_cached_key(|p| {
        let phase = match p.status.phase.as_str() {
            "Pending" => 0,
            "Unknown" => 1,
            _ => 2,
        };
        let cost = p
            .metadata
            .annotations
            .get("controller.kubernetes.io/pod-deletion-cost");
        let restarts = p
            .status
            .container_statuses
            .iter()
            .map(|c| c.restart_count)
            .max()
            .unwrap_or(0);
        (
            !p.spec.node_name.is_empty(),
            phase,
            p.is_ready(),
            cost.and_then(|c| c.parse::<i32>().ok()).unwrap_or(0),
            Reverse(crowd.get(p.spec.node_name.as_str()).copied().unwrap_or(0)),
            magnitude(p.ready_since()),
            Reverse(restarts),
            magnitude(p.metadata.creation_timestamp),
            p.metadata.uid.clone(),
        )
    });
    pods.truncate(n);
    pods
}

/// The status that follows from the pods and the outcome of the last changes.
pub fn status(
    rs: &ReplicaSet,
    active: &[Arc<Pod>],
    terminating: Option<usize>,
    failure: Option<(&str, String)>,
    now: Time,
) -> ReplicaSetStatus {
    let template = rs
        .spec
        .template
        .pointer("/metadata/labels")
        .and_then(Value::as_object);
    let labeled = |p: &&Arc<Pod>| {
        template.is_none_or(|t| {
            t.iter()
                .all(|(k, v)| p.metadata.labels.get(k).map(String::as_str) == v.as_str())
        })
    };
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let mut conditions = rs.status.conditions.clone();
    match (failure, condition(&conditions, "ReplicaFailure")) {
        (Some((reason, message)), old) if old.is_none_or(|c| c.reason != reason) => {
            conditions.retain(|c| c.kind != "ReplicaFailure");
            conditions.push(Condition {
                kind: "ReplicaFailure".into(),
                status: "True".into(),
                reason: reason.into(),
                message,
                last_transition_time: Some(now),
                ..Condition::default()
            });
        }
        (None, Some(_)) => conditions.retain(|c| c.kind != "ReplicaFailure"),
        _ => {}
    }
    ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: count(active.iter().filter(labeled).count()),
        ready_replicas: count(active.iter().filter(|p| p.is_ready()).count()),
        available_replicas: count(
            active
                .iter()
                .filter(|p| p.is_available(rs.spec.min_ready_seconds, now))
                .count(),
        ),
        terminating_replicas: terminating.map(count),
        observed_generation: rs.metadata.generation,
        conditions,
    }
}

/// When the next pod becomes available by mere waiting.
pub(crate) fn next_available(min: i32, pods: &[Arc<Pod>], now: Time) -> Option<Duration> {
    pods.iter()
        .filter(|p| !p.is_available(min, now))
        .filter_map(|p| p.ready_since())
        .filter_map(|t| u64::try_from(i64::from(min) - now.duration_since(t).as_secs()).ok())
        .min()
        .map(|s| Duration::from_secs(s.max(1)))
}

/// What is kept at a number of pods: ReplicaSets, and what is read as if it were one.
pub trait Replicated: View + AsRef<ReplicaSet> {
    /// Whether its status counts the pods that are being deleted.
    const TELLS_TERMINATING: bool;
}

impl AsRef<ReplicaSet> for ReplicaSet {
    fn as_ref(&self) -> &ReplicaSet {
        self
    }
}

impl Replicated for ReplicaSet {
    const TELLS_TERMINATING: bool = true;
}

struct Keeper<S> {
    ctx: Context,
    resource: &'static Resource,
    sets: Store<S>,
    pods: Store<Pod>,
    queue: WorkQueue<ObjectKey>,
    expectations: Expectations,
}

/// Starts the controller.
pub fn start(ctx: Context) {
    keep::<ReplicaSet>(ctx, &REPLICA_SETS, "replicaset");
}

/// Starts a controller that keeps the pods of a resource; `name` is the queue's and that of `--concurrent-NAME-syncs`.
pub fn keep<S: Replicated>(ctx: Context, resource: &'static Resource, name: &'static str) {
    let sets = ctx.informer::<S>(resource);
    let pods = ctx.informer::<Pod>(&PODS);
    sets.store().add_index(BY_CONTROLLER, |rs: &S| {
        controller_index(&rs.as_ref().metadata)
    });
    pods.store()
        .add_index(BY_CONTROLLER, |p: &Pod| controller_index(&p.metadata));
    let queue = ctx.queue(name);
    let c = Arc::new(Keeper {
        resource,
        sets: sets.store(),
        pods: pods.store(),
        queue: queue.clone(),
        expectations: Expectations::default(),
        ctx: ctx.clone(),
    });
    let it = c.clone();
    sets.on_change(move |change| {
        let rs = change.object().as_ref().as_ref();
        let key = ObjectKey::of(rs);
        if let Change::Deleted(_) = change {
            it.expectations.forget(&key);
        }
        // Also when its status changed: others may have written it.
        let changed = change.old().is_none_or(|old| {
            let old: &ReplicaSet = old.as_ref().as_ref();
            old.metadata.generation != rs.metadata.generation
                || old.spec != rs.spec
                || old.status != rs.status
                || old.metadata.deletion_timestamp != rs.metadata.deletion_timestamp
                || old.metadata.uid != rs.metadata.uid
        });
        if changed || matches!(change, Change::Deleted(_)) {
            it.queue.add(key);
        }
    });
    let it = c.clone();
    pods.on_change(move |change| it.pod_changed(change));
    let workers = ctx.config.concurrent(name, 5);
    ctx.run(queue, workers, move |key| {
        let c = c.clone();
        async move { c.sync(&key).await }
    });
}

impl<S: Replicated> Keeper<S> {
    fn pod_changed(&self, change: Change<'_, Pod>) {
        let owner_of = |meta: &ObjectMeta| controller_key(&self.sets, &self.resource.kind, meta);
        let (lost, owner) = observe(&self.expectations, owner_of, change);
        lost.into_iter().for_each(|key| self.queue.add(key));
        owner.into_iter().for_each(|key| self.queue.add(key));
        let wanting = wanted_by(&self.sets, change, |set, labels| {
            let selector = &set.as_ref().spec.selector;
            !selector.is_empty() && selector.matches(labels)
        });
        wanting.into_iter().for_each(|key| self.queue.add(key));
    }

    async fn sync(&self, key: &ObjectKey) -> Result<Option<Duration>, client::Error> {
        let Some(rs) = self.sets.get_key(key) else {
            self.expectations.forget(key);
            return Ok(None);
        };
        let rs: &ReplicaSet = rs.as_ref().as_ref();
        let may_change = self.expectations.satisfied(key) && !rs.metadata.is_deleting();
        let family = Family {
            ctx: &self.ctx,
            resource: self.resource,
            owner: &rs.metadata,
            finalizer: None,
        };
        let matches = |p: &Pod| rs.spec.selector.matches(&p.metadata.labels);
        let owned = family
            .claim(&PODS, &self.pods, matches, Pod::is_active)
            .await?;
        let now = Time::now();
        let active: Vec<Arc<Pod>> = owned.iter().filter(|p| p.is_active()).cloned().collect();
        let terminating = S::TELLS_TERMINATING.then(|| {
            owned
                .iter()
                .filter(|p| p.metadata.is_deleting() && !p.is_ended())
                .count()
        });
        let mut failed = None;
        if may_change {
            let plan = decide(rs, &active, &self.related(rs), now);
            failed = carry_out(&family, &self.expectations, key, rs, plan)
                .await
                .err();
        }
        let failure = failed.as_ref().map(|e| {
            let wanted = usize::try_from(rs.spec.replicas.unwrap_or(1)).unwrap_or(0);
            (
                if active.len() < wanted {
                    "FailedCreate"
                } else {
                    "FailedDelete"
                },
                e.to_string(),
            )
        });
        let new = status(rs, &active, terminating, failure, now);
        self.write_status(rs, &new).await?;
        if let Some(e) = failed {
            return Err(e);
        }
        let waits = rs.spec.min_ready_seconds > 0 && new.ready_replicas > new.available_replicas;
        Ok(if waits {
            next_available(rs.spec.min_ready_seconds, &active, now)
        } else {
            None
        })
    }

    /// The active pods of all sets of the same owner: they share nodes.
    fn related(&self, rs: &ReplicaSet) -> Vec<Arc<Pod>> {
        let sets = match rs.metadata.controller() {
            Some(o) => self.sets.by_index(BY_CONTROLLER, &o.uid),
            None => self
                .sets
                .get(&rs.metadata.namespace, &rs.metadata.name)
                .into_iter()
                .collect(),
        };
        let pods = sets
            .iter()
            .flat_map(|rs| self.pods.by_index(BY_CONTROLLER, rs.uid()));
        pods.filter(|p| p.is_active()).collect()
    }

    async fn write_status(
        &self,
        rs: &ReplicaSet,
        new: &ReplicaSetStatus,
    ) -> Result<(), client::Error> {
        if *new == rs.status {
            return Ok(());
        }
        let api = self
            .ctx
            .client
            .namespaced(self.resource, &rs.metadata.namespace);
        let status = serde_json::to_value(new).unwrap_or_default();
        rewrite(
            &api,
            &rs.metadata.name,
            &rs.metadata.uid,
            "status",
            |object| set_status(object, &status),
        )
        .await
    }
}

async fn carry_out(
    family: &Family<'_>,
    expectations: &Expectations,
    key: &ObjectKey,
    rs: &ReplicaSet,
    plan: Plan,
) -> Result<(), client::Error> {
    if !plan.delete.is_empty() {
        return family.delete_pods(expectations, key, &plan.delete).await;
    }
    let pod = pod_from_template(
        &rs.spec.template,
        &rs.metadata.name,
        family.controller_reference(),
    );
    let made = family.create_pods(expectations, key, plan.create, |_| pod.clone());
    made.await.1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> Time {
        Time::from_second(1_000_000 + s).unwrap()
    }

    fn pod(name: &str, node: &str, phase: &str, ready_at: Option<i64>) -> Pod {
        let mut p = Pod::default();
        p.metadata.name = name.into();
        p.metadata.uid = name.into();
        p.metadata.creation_timestamp = Some(at(0));
        p.spec.node_name = node.into();
        p.status.phase = phase.into();
        p.status.conditions = vec![Condition {
            kind: "Ready".into(),
            status: if ready_at.is_some() { "True" } else { "False" }.into(),
            last_transition_time: ready_at.map(at),
            ..Condition::default()
        }];
        p
    }

    fn set(replicas: i32) -> ReplicaSet {
        let mut rs = ReplicaSet::default();
        rs.spec.replicas = Some(replicas);
        rs
    }

    fn deleted(pods: Vec<Pod>, keep: i32) -> Vec<String> {
        let pods: Vec<Arc<Pod>> = pods.into_iter().map(Arc::new).collect();
        decide(&set(keep), &pods, &pods, at(100_000))
            .delete
            .into_iter()
            .map(|d| d.0)
            .collect()
    }

    #[test]
    fn missing_pods_are_created_in_bursts() {
        assert_eq!(
            decide(&set(3), &[Arc::new(Pod::default())], &[], at(0)).create,
            2
        );
        assert_eq!(decide(&set(5000), &[], &[], at(0)).create, 500);
        assert_eq!(decide(&set(0), &[], &[], at(0)), Plan::default());
    }

    #[test]
    fn the_least_missed_go_first() {
        let pods = vec![
            pod("ready-long", "a", "Running", Some(1)),
            pod("ready-lately", "b", "Running", Some(99_990)),
            pod("not-ready", "c", "Running", None),
            pod("pending", "d", "Pending", None),
            pod("unscheduled", "", "Pending", None),
        ];
        assert_eq!(
            deleted(pods, 1),
            ["unscheduled", "pending", "not-ready", "ready-lately"]
        );
    }

    #[test]
    fn cost_outranks_crowding_and_age() {
        let mut cheap = pod("cheap", "a", "Running", Some(1));
        cheap.metadata.annotations.insert(
            "controller.kubernetes.io/pod-deletion-cost".into(),
            "-5".into(),
        );
        let pods = vec![
            pod("x", "b", "Running", Some(1)),
            pod("y", "b", "Running", Some(1)),
            cheap,
        ];
        assert_eq!(deleted(pods, 2), ["cheap"]);
    }

    #[test]
    fn crowded_nodes_are_relieved() {
        let pods = vec![
            pod("alone", "a", "Running", Some(1)),
            pod("x", "b", "Running", Some(1)),
            pod("y", "b", "Running", Some(1)),
        ];
        assert_eq!(deleted(pods, 2), ["x"]);
    }

    #[test]
    fn available_means_ready_for_long_enough() {
        let mut rs = set(2);
        rs.spec.min_ready_seconds = 60;
        let pods = [
            Arc::new(pod("a", "n", "Running", Some(10))),
            Arc::new(pod("b", "n", "Running", Some(70))),
        ];
        let s = status(&rs, &pods, Some(0), None, at(100));
        assert_eq!((s.ready_replicas, s.available_replicas), (2, 1));
        assert_eq!(
            next_available(60, &pods, at(100)),
            Some(Duration::from_secs(30))
        );
    }

    #[test]
    fn a_failure_is_a_condition_until_it_is_over() {
        let mut rs = set(1);
        rs.status = status(
            &rs,
            &[],
            Some(0),
            Some(("FailedCreate", "no".into())),
            at(1),
        );
        assert_eq!(rs.status.conditions[0].reason, "FailedCreate");
        let again = status(
            &rs,
            &[],
            Some(0),
            Some(("FailedCreate", "still no".into())),
            at(9),
        );
        assert_eq!(
            again.conditions, rs.status.conditions,
            "the same reason is the same condition"
        );
        assert!(status(&rs, &[], Some(0), None, at(9)).conditions.is_empty());
    }
}
