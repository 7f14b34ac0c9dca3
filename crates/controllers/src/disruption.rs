//! disruption-controller: computes how many pods each PodDisruptionBudget can spare, which evictions are decided by, and
//! takes back marks of disruptions that did not come.
//!
//! Invariants: a status is written only over the version it was decided from, so an eviction that counted it down meanwhile
//! is never overlooked; a pod that an eviction took counts as gone for two minutes, or until it is; what cannot be
//! computed allows no disruption.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use client::resource::{
    DEPLOYMENTS, POD_DISRUPTION_BUDGETS, PODS, REPLICA_SETS, REPLICATION_CONTROLLERS, STATEFUL_SETS,
};
use client::{
    Change, Client, EventType, ObjectKey, ObjectMeta, ObjectReference, OwnerReference, Patch,
    Resource, Store, Time,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::Context;
use crate::context::rewrite;
use crate::discovery::discover;
use crate::replication::ReplicationController;
use crate::selector::LabelSelector;
use crate::views::{
    BudgetCondition, BudgetStatus, Deployment, Pod, PodDisruptionBudget, ReplicaSet, StatefulSet,
    condition,
};

/// How long an eviction may take to mark its pod as being deleted, and a disruption that was announced to come.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often the apiserver is asked which kinds there are, at most.
const ASK_AGAIN: Duration = Duration::from_secs(30);
const ALLOWED: &str = "DisruptionAllowed";
const TARGET: &str = "DisruptionTarget";

/// Why a budget's status could not be computed; the text is the condition's message.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The apiserver.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// What the pods or the budget say.
    #[error("{0}")]
    Unknown(String),
}

/// How many pods there should be, and how many must be healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Pods.
    pub pods: i32,
    /// Healthy ones.
    pub healthy: i32,
}

/// Whether the number of pods comes from those who made them rather than from counting.
pub fn needs_scale(b: &PodDisruptionBudget) -> bool {
    b.spec.max_unavailable.is_some() || matches!(b.spec.min_available, Some(Value::String(_)))
}

/// A number, or a percentage of `total` rounded up.
fn scaled(v: &Value, total: i32) -> Result<i32, Error> {
    let invalid = || {
        Error::Unknown(
            "invalid value for IntOrString: invalid type: string is not a percentage".into(),
        )
    };
    let n = match v {
        Value::Number(n) => n.as_i64().unwrap_or(0),
        Value::String(s) => {
            let percent = s.strip_suffix('%').ok_or_else(invalid)?;
            let percent: i64 = percent.parse().map_err(|_| invalid())?;
            percent
                .saturating_mul(i64::from(total))
                .saturating_add(99)
                .div_euclid(100)
        }
        _ => 0,
    };
    Ok(i32::try_from(n.max(0)).unwrap_or(i32::MAX))
}

/// What a budget asks for, of `count` matching pods whose makers want `scale` together.
pub fn expected(b: &PodDisruptionBudget, count: usize, scale: i32) -> Result<Expected, Error> {
    let count = i32::try_from(count).unwrap_or(i32::MAX);
    Ok(match (&b.spec.max_unavailable, &b.spec.min_available) {
        (Some(most), _) => Expected {
            pods: scale,
            healthy: scale.saturating_sub(scaled(most, scale)?).max(0),
        },
        (None, Some(least @ Value::String(_))) => Expected {
            pods: scale,
            healthy: scaled(least, scale)?,
        },
        (None, Some(least)) => Expected {
            pods: count,
            healthy: scaled(least, count)?,
        },
        (None, None) => Expected {
            pods: 0,
            healthy: 0,
        },
    })
}

/// The status of a budget, and what its disrupted pods came to.
#[derive(Debug, PartialEq)]
pub struct Decision {
    /// To be written when it differs.
    pub status: BudgetStatus,
    /// When a disrupted pod's time is up, if any is waited for.
    pub again: Option<Duration>,
    /// Pods that were to be deleted and were not.
    pub kept: Vec<String>,
}

/// When the patience with something that began at `since` ends, from `now`; `None` when it has ended.
fn left(since: Time, now: Time) -> Option<Duration> {
    let age = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    PATIENCE.checked_sub(age).filter(|d| !d.is_zero())
}

/// Decides on a budget with its matching pods.
pub fn decide(
    b: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    expected: Expected,
    now: Time,
) -> Decision {
    let mut disrupted = BTreeMap::new();
    let (mut again, mut kept) = (None::<Duration>, Vec::new());
    let mut healthy = 0i32;
    for pod in pods.iter().filter(|p| !p.metadata.is_deleting()) {
        let name = &pod.metadata.name;
        if let Some(since) = b.status.disrupted_pods.get(name) {
            match left(*since, now) {
                Some(wait) => {
                    again = Some(again.map_or(wait, |a| a.min(wait)));
                    disrupted.insert(name.clone(), *since);
                    continue;
                }
                None => kept.push(name.clone()),
            }
        }
        if pod.is_ready() {
            healthy = healthy.saturating_add(1);
        }
    }
    // A budget without pods allows nothing, so that its first pods are safe before their number is known here.
    let allowed = if expected.pods <= 0 {
        0
    } else {
        healthy.saturating_sub(expected.healthy).max(0)
    };
    let (status, reason) = if allowed > 0 {
        ("True", "SufficientPods")
    } else {
        ("False", "InsufficientPods")
    };
    let conditions = with_condition(b, status, reason, "", b.metadata.generation, now);
    Decision {
        status: BudgetStatus {
            observed_generation: b.metadata.generation,
            disrupted_pods: disrupted,
            disruptions_allowed: allowed,
            current_healthy: healthy,
            desired_healthy: expected.healthy,
            expected_pods: expected.pods,
            conditions,
        },
        again,
        kept,
    }
}

/// The status of a budget that could not be computed: what it said, but no disruption.
pub fn refuse_all(b: &PodDisruptionBudget, why: &str, now: Time) -> BudgetStatus {
    let generation = b.status.observed_generation;
    BudgetStatus {
        disruptions_allowed: 0,
        conditions: with_condition(b, "False", "SyncFailed", why, generation, now),
        ..b.status.clone()
    }
}

fn with_condition(
    b: &PodDisruptionBudget,
    status: &str,
    reason: &str,
    message: &str,
    generation: i64,
    now: Time,
) -> Vec<BudgetCondition> {
    let mut all = b.status.conditions.clone();
    let old = all.iter().position(|c| c.kind == ALLOWED);
    let since = old
        .and_then(|i| all.get(i))
        .filter(|c| c.status == status)
        .and_then(|c| c.last_transition_time);
    let new = BudgetCondition {
        kind: ALLOWED.into(),
        status: status.into(),
        observed_generation: generation,
        last_transition_time: Some(since.unwrap_or(now)),
        reason: reason.into(),
        message: message.into(),
    };
    match old.and_then(|i| all.get_mut(i)) {
        Some(slot) => *slot = new,
        None => all.push(new),
    }
    all
}

/// When the mark that a pod is to be disrupted is to be taken back: `None` for never. The kubelet's own marks and those of
/// pods that are over stay.
pub fn stale(pod: &Pod, now: Time) -> Option<Duration> {
    let c = condition(&pod.status.conditions, TARGET)?;
    if pod.metadata.is_deleting()
        || pod.is_ended()
        || c.status != "True"
        || c.reason == "TerminationByKubelet"
    {
        return None;
    }
    let since = c.last_transition_time.unwrap_or(Time::UNIX_EPOCH);
    Some(left(since, now).unwrap_or_default())
}

fn matches(b: &PodDisruptionBudget, pod: &Pod) -> bool {
    b.metadata.namespace == pod.metadata.namespace
        && b.spec
            .selector
            .as_ref()
            .is_some_and(|s| s.matches(&pod.metadata.labels))
}

/// `spec.replicas` of the scale subresource.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Scale {
    metadata: ObjectMeta,
    spec: ScaleSpec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ScaleSpec {
    replicas: i32,
}

struct Disruption {
    ctx: Context,
    client: Client,
    budgets: Store<PodDisruptionBudget>,
    pods: Store<Pod>,
    sets: Store<ReplicaSet>,
    deployments: Store<Deployment>,
    stateful: Store<StatefulSet>,
    replication: Store<ReplicationController>,
    kinds: Mutex<Kinds>,
}

/// Resources of kinds that only discovery knows, by API version and kind.
#[derive(Default)]
struct Kinds {
    found: HashMap<(String, String), Resource>,
    asked: Option<Instant>,
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let budgets = ctx.informer::<PodDisruptionBudget>(&POD_DISRUPTION_BUDGETS);
    let pods = ctx.informer::<Pod>(&PODS);
    let it = Arc::new(Disruption {
        client: ctx.client.clone(),
        budgets: budgets.store(),
        pods: pods.store(),
        sets: ctx.informer::<ReplicaSet>(&REPLICA_SETS).store(),
        deployments: ctx.informer::<Deployment>(&DEPLOYMENTS).store(),
        stateful: ctx.informer::<StatefulSet>(&STATEFUL_SETS).store(),
        replication: ctx
            .informer::<ReplicationController>(&REPLICATION_CONTROLLERS)
            .store(),
        kinds: Mutex::default(),
        ctx: ctx.clone(),
    });
    let queue = ctx.queue("disruption");
    let marks = ctx.queue("stale_pod_disruption");
    let q = queue.clone();
    budgets.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            q.add(ObjectKey::of(&**change.object()));
        }
    });
    let (q, m, me) = (queue.clone(), marks.clone(), it.clone());
    pods.on_change(move |change| {
        let pod = change.object();
        for b in me.budgets.list_namespace(&pod.metadata.namespace) {
            if matches(&b, pod) || change.old().is_some_and(|old| matches(&b, old)) {
                q.add(ObjectKey::of(&*b));
            }
        }
        if !matches!(change, Change::Deleted(_))
            && let Some(wait) = stale(pod, Time::now())
        {
            m.add_after(ObjectKey::of(&**pod), wait);
        }
    });
    let me = it.clone();
    ctx.run(queue, 1, move |key| {
        let me = me.clone();
        async move { me.sync(&key).await }
    });
    ctx.run(marks, 1, move |key| {
        let me = it.clone();
        async move { me.take_back_mark(&key).await }
    });
}

impl Disruption {
    fn tell(&self, b: &PodDisruptionBudget, kind: EventType, reason: &str, message: String) {
        let object = ObjectReference::of(&POD_DISRUPTION_BUDGETS, b);
        self.ctx.recorder.event(object, kind, reason, message);
    }

    async fn sync(&self, key: &ObjectKey) -> Result<Option<Duration>, client::Error> {
        let Some(b) = self.budgets.get_key(key) else {
            return Ok(None);
        };
        let mut pods = self.pods.list_namespace(&key.namespace);
        pods.retain(|p| matches(&b, p));
        if pods.is_empty() {
            let message = "No matching pods found".to_owned();
            self.tell(&b, EventType::Normal, "NoPods", message);
        }
        let expected = match self.expected(&b, &pods).await {
            Ok(e) => e,
            Err(error) => {
                let message = format!("Failed to calculate the number of expected pods: {error}");
                self.tell(
                    &b,
                    EventType::Warning,
                    "CalculateExpectedPodCountFailed",
                    message,
                );
                let why = error.to_string();
                self.write(&b, |now| refuse_all(now, &why, Time::now()))
                    .await?;
                // The next change of a pod or of the budget brings it here again; an apiserver that failed does not.
                return match error {
                    Error::Client(e) => Err(e),
                    Error::Unknown(_) => Ok(None),
                };
            }
        };
        let decision = decide(&b, &pods, expected, Time::now());
        for name in &decision.kept {
            let Some(pod) = pods.iter().find(|p| p.metadata.name == *name) else {
                continue;
            };
            let message = format!(
                "Pod was expected by PDB {}/{} to be deleted but it wasn't",
                b.metadata.namespace, b.metadata.name
            );
            let object = ObjectReference::of(&PODS, &**pod);
            self.ctx
                .recorder
                .event(object, EventType::Warning, "NotDeleted", message);
        }
        self.write(&b, |now| decide(now, &pods, expected, Time::now()).status)
            .await?;
        Ok(decision.again)
    }

    /// Writes a status where it differs, decided anew from the version that is written over.
    async fn write(
        &self,
        seen: &PodDisruptionBudget,
        status: impl Fn(&PodDisruptionBudget) -> BudgetStatus,
    ) -> Result<(), client::Error> {
        if status(seen) == seen.status {
            return Ok(());
        }
        let m = &seen.metadata;
        let api = self
            .client
            .namespaced(&POD_DISRUPTION_BUDGETS, &m.namespace);
        rewrite(&api, &m.name, &m.uid, "status", |object| {
            let Ok(now) = serde_json::from_value::<PodDisruptionBudget>(object.clone()) else {
                return false;
            };
            // Another spec will be seen, and counted for, in a moment.
            if now.metadata.generation != m.generation {
                return false;
            }
            let new = status(&now);
            if new == now.status {
                return false;
            }
            let Some(o) = object.as_object_mut() else {
                return false;
            };
            o.insert("status".into(), json!(new));
            true
        })
        .await
    }

    async fn expected(
        &self,
        b: &PodDisruptionBudget,
        pods: &[Arc<Pod>],
    ) -> Result<Expected, Error> {
        if !needs_scale(b) {
            return expected(b, pods.len(), 0);
        }
        let (mut asked, mut scales) = (HashSet::new(), HashMap::new());
        let mut unmanaged = false;
        for pod in pods {
            let Some(owner) = pod.metadata.controller() else {
                unmanaged = true;
                continue;
            };
            if !asked.insert(owner.uid.as_str()) {
                continue;
            }
            let Some((uid, scale)) = self.scale(owner, &pod.metadata.namespace).await? else {
                return Err(Error::Unknown(format!(
                    "found no controllers for pod {:?}",
                    pod.metadata.name
                )));
            };
            scales.insert(uid, scale);
        }
        if unmanaged {
            let selector = b
                .spec
                .selector
                .as_ref()
                .map(LabelSelector::to_string)
                .unwrap_or_default();
            let message = format!(
                "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value."
            );
            self.tell(b, EventType::Warning, "UnmanagedPods", message);
        }
        let scale = scales.values().fold(0i32, |s, n| s.saturating_add(*n));
        expected(b, pods.len(), scale)
    }

    /// UID and wanted number of pods of what controls a pod in the end; `None` when it is gone.
    async fn scale(
        &self,
        owner: &OwnerReference,
        namespace: &str,
    ) -> Result<Option<(String, i32)>, Error> {
        let group = owner.api_version.split_once('/').map_or("", |g| g.0);
        let size = |n: Option<i32>| n.unwrap_or(1);
        let same = |m: &ObjectMeta| m.uid == owner.uid;
        let known = match (group, owner.kind.as_str()) {
            ("", "ReplicationController") => self
                .replication
                .get(namespace, &owner.name)
                .filter(|o| same(&o.0.metadata))
                .map(|o| (owner.uid.clone(), size(o.0.spec.replicas))),
            ("apps", "StatefulSet") => self
                .stateful
                .get(namespace, &owner.name)
                .filter(|o| same(&o.metadata))
                .map(|o| (owner.uid.clone(), size(o.spec.replicas))),
            ("apps" | "extensions", "ReplicaSet") => self
                .sets
                .get(namespace, &owner.name)
                .filter(|o| same(&o.metadata))
                .and_then(|set| self.of_set(&set)),
            _ => None,
        };
        match known {
            Some(k) => Ok(Some(k)),
            None => self.asked_scale(owner, namespace).await,
        }
    }

    fn of_set(&self, set: &ReplicaSet) -> Option<(String, i32)> {
        let m = &set.metadata;
        let size = |n: Option<i32>| n.unwrap_or(1);
        match m.controller().filter(|o| o.kind == "Deployment") {
            Some(o) => {
                let d = self.deployments.get(&m.namespace, &o.name)?;
                (d.metadata.uid == o.uid).then(|| (o.uid.clone(), size(d.spec.replicas)))
            }
            None => Some((m.uid.clone(), size(set.spec.replicas))),
        }
    }

    /// Asks the scale subresource of any other kind.
    async fn asked_scale(
        &self,
        owner: &OwnerReference,
        namespace: &str,
    ) -> Result<Option<(String, i32)>, Error> {
        let resource = self.resource(owner).await?;
        let api = self.client.namespaced(&resource, namespace);
        match api.get_subresource::<Scale>(&owner.name, "scale").await {
            Ok(s) if s.metadata.uid == owner.uid => Ok(Some((s.metadata.uid, s.spec.replicas))),
            Ok(_) => Ok(None),
            Err(e) if e.is_not_found() => {
                // Either it is gone, or there is no such subresource.
                let list: Value = self.client.get_json(&resource.root()).await?;
                let name = format!("{}/scale", resource.plural);
                let has = list
                    .get("resources")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .any(|r| r.get("name").and_then(Value::as_str) == Some(&name));
                if has {
                    Ok(None)
                } else {
                    Err(Error::Unknown(format!(
                        "{} does not implement the scale subresource",
                        resource.qualified()
                    )))
                }
            }
            Err(e) => Err(e.into()),
        }
    }

    async fn resource(&self, owner: &OwnerReference) -> Result<Resource, Error> {
        let key = (owner.api_version.clone(), owner.kind.clone());
        let kinds = || self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(r) = kinds().found.get(&key) {
            return Ok(r.clone());
        }
        // Pods may name any kind as their owner; that must not ask for everything each time.
        if kinds().asked.is_none_or(|t| t.elapsed() >= ASK_AGAIN) {
            let found = discover(&self.client).await?;
            let mut kinds = kinds();
            kinds.asked = Some(Instant::now());
            kinds.found = found
                .resources
                .into_iter()
                .map(|r| {
                    let r = r.resource;
                    ((r.api_version(), r.kind.to_string()), r)
                })
                .collect();
        }
        let found = kinds().found.get(&key).cloned();
        found.ok_or_else(|| {
            Error::Unknown(format!(
                "no matches for kind {:?} in version {:?}",
                key.1, key.0
            ))
        })
    }

    async fn take_back_mark(&self, key: &ObjectKey) -> Result<Option<Duration>, client::Error> {
        let Some(pod) = self.pods.get_key(key) else {
            return Ok(None);
        };
        let now = Time::now();
        let Some(wait) = stale(&pod, now) else {
            return Ok(None);
        };
        if !wait.is_zero() {
            return Ok(Some(wait));
        }
        let mut mark = json!({
            "type": TARGET, "status": "False", "reason": null, "message": null,
            "lastTransitionTime": client::view::print_time(now),
        });
        if pod.status.observed_generation != 0
            && let Some(m) = mark.as_object_mut()
        {
            m.insert("observedGeneration".into(), pod.metadata.generation.into());
        }
        let patch = Patch::Strategic(
            json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [mark]}}),
        );
        let api = self.client.namespaced(&PODS, &key.namespace);
        match api
            .patch_status::<serde::de::IgnoredAny>(&key.name, &patch)
            .await
        {
            Ok(_) => Ok(None),
            Err(e) if e.is_not_found() || e.is_conflict() => Ok(None),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(spec: &str, status: &str) -> PodDisruptionBudget {
        serde_json::from_str(&format!(
            r#"{{"metadata":{{"name":"b","namespace":"n","generation":3}},"spec":{spec},"status":{status}}}"#
        ))
        .unwrap()
    }

    fn pod(name: &str, ready: bool, more: &str) -> Arc<Pod> {
        let ready = if ready { "True" } else { "False" };
        Arc::new(
            serde_json::from_str(&format!(
                r#"{{"metadata":{{"name":"{name}","namespace":"n"{more}}},"status":{{"conditions":[{{"type":"Ready","status":"{ready}"}}]}}}}"#
            ))
            .unwrap(),
        )
    }

    fn at(seconds: i64) -> Time {
        Time::from_second(1_700_000_000 + seconds).unwrap()
    }

    #[test]
    fn what_a_budget_asks_for() {
        for (spec, count, scale, pods, healthy) in [
            (r#"{"minAvailable":2}"#, 5, 9, 5, 2),
            (r#"{"minAvailable":"30%"}"#, 5, 9, 9, 3),
            (r#"{"maxUnavailable":1}"#, 5, 9, 9, 8),
            (r#"{"maxUnavailable":"30%"}"#, 5, 9, 9, 6),
            (r#"{"maxUnavailable":20}"#, 5, 9, 9, 0),
            (r#"{"maxUnavailable":2147483647}"#, 5, i32::MAX, i32::MAX, 0),
            (
                r#"{"minAvailable":"100%"}"#,
                5,
                i32::MAX,
                i32::MAX,
                i32::MAX,
            ),
            ("{}", 5, 9, 0, 0),
        ] {
            let got = expected(&budget(spec, "{}"), count, scale).unwrap();
            assert_eq!(got, Expected { pods, healthy }, "{spec}");
        }
        assert!(expected(&budget(r#"{"minAvailable":"x"}"#, "{}"), 1, 1).is_err());
    }

    #[test]
    fn healthy_pods_beyond_those_wanted_may_be_disrupted() {
        let e = |pods, healthy| Expected { pods, healthy };
        let b = budget("{}", "{}");
        let pods = [
            pod("a", true, ""),
            pod("b", true, ""),
            pod("c", false, ""),
            pod("d", true, r#","deletionTimestamp":"2026-01-01T00:00:00Z""#),
        ];
        let s = decide(&b, &pods, e(4, 1), at(0)).status;
        assert_eq!(
            (s.current_healthy, s.desired_healthy, s.expected_pods),
            (2, 1, 4)
        );
        assert_eq!((s.disruptions_allowed, s.observed_generation), (1, 3));
        let c = &s.conditions[0];
        assert_eq!(
            (c.kind.as_str(), c.status.as_str(), c.reason.as_str()),
            (ALLOWED, "True", "SufficientPods")
        );
        assert_eq!(c.observed_generation, 3);
        // Decided again from what was written, nothing differs.
        let written = PodDisruptionBudget {
            status: s.clone(),
            ..b.clone()
        };
        assert_eq!(decide(&written, &pods, e(4, 1), at(99)).status, s);

        let s = decide(&b, &pods, e(4, 2), at(0)).status;
        assert_eq!(s.disruptions_allowed, 0);
        assert_eq!(s.conditions[0].reason, "InsufficientPods");
        // Without pods nothing is allowed, whatever is asked for.
        assert_eq!(
            decide(&b, &[], e(0, 0), at(0)).status.disruptions_allowed,
            0
        );
        assert_eq!(
            decide(&b, &pods, e(0, 0), at(0)).status.disruptions_allowed,
            0
        );
    }

    #[test]
    fn an_evicted_pod_counts_as_gone_until_its_time_is_up() {
        let taken = client::view::print_time(at(0));
        let b = budget(
            "{}",
            &format!(r#"{{"disruptedPods":{{"a":"{taken}","gone":"{taken}"}}}}"#),
        );
        let pods = [pod("a", true, ""), pod("b", true, "")];
        let all = Expected {
            pods: 2,
            healthy: 1,
        };
        let d = decide(&b, &pods, all, at(30));
        assert_eq!(
            (d.status.current_healthy, d.status.disruptions_allowed),
            (1, 0)
        );
        assert_eq!(d.status.disrupted_pods.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(d.again, Some(Duration::from_secs(90)));
        assert!(d.kept.is_empty());
        let d = decide(&b, &pods, all, at(121));
        assert_eq!(
            (d.status.current_healthy, d.status.disruptions_allowed),
            (2, 1)
        );
        assert!(d.status.disrupted_pods.is_empty() && d.again.is_none());
        assert_eq!(d.kept, ["a"]);
    }

    #[test]
    fn what_cannot_be_computed_allows_nothing() {
        let b = budget(
            "{}",
            r#"{"disruptionsAllowed":3,"currentHealthy":5,"observedGeneration":2}"#,
        );
        let s = refuse_all(&b, "found no controllers for pod \"a\"", at(0));
        assert_eq!((s.disruptions_allowed, s.current_healthy), (0, 5));
        let c = &s.conditions[0];
        assert_eq!(
            (c.reason.as_str(), c.status.as_str()),
            ("SyncFailed", "False")
        );
        assert_eq!(s.observed_generation, 2, "the spec was not dealt with");
    }

    #[test]
    fn marks_go_stale_after_two_minutes() {
        let marked = |reason: &str, more: &str| -> Pod {
            let t = client::view::print_time(at(0));
            serde_json::from_str(&format!(
                r#"{{"metadata":{{"name":"p"{more}}},"status":{{"phase":"Running","conditions":[{{"type":"DisruptionTarget","status":"True","reason":"{reason}","lastTransitionTime":"{t}"}}]}}}}"#
            ))
            .unwrap()
        };
        let p = marked("EvictionByEvictionAPI", "");
        assert_eq!(stale(&p, at(20)), Some(Duration::from_secs(100)));
        assert_eq!(stale(&p, at(500)), Some(Duration::ZERO));
        assert_eq!(stale(&marked("TerminationByKubelet", ""), at(500)), None);
        let deleting = r#","deletionTimestamp":"2026-01-01T00:00:00Z""#;
        assert_eq!(stale(&marked("x", deleting), at(500)), None);
        assert_eq!(stale(&Pod::default(), at(500)), None);
    }

    #[test]
    fn selectors_read_as_go_prints_them() {
        let s: LabelSelector = serde_json::from_str(
            r#"{"matchLabels":{"a":"b"},"matchExpressions":[{"key":"k","operator":"In","values":["x","y"]}]}"#,
        )
        .unwrap();
        assert_eq!(
            s.to_string(),
            "&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:k,Operator:In,Values:[x y],},},}"
        );
    }

    #[test]
    fn no_selector_matches_nothing_and_an_empty_one_everything() {
        let p = pod("a", true, "");
        assert!(!matches(&budget("{}", "{}"), &p));
        assert!(matches(&budget(r#"{"selector":{}}"#, "{}"), &p));
    }
}
