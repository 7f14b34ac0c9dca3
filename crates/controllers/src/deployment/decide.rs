//! What to do about a Deployment's ReplicaSets: pure.
//!
//! Invariants (held by the property test): a rolling update never asks for more than `replicas + maxSurge` pods, nor
//! takes away an available pod when that would leave fewer than `replicas - maxUnavailable`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::Time;
use client::resource::DEPLOYMENTS;
use serde_json::{Value, json};

use crate::children::controller_reference;
use crate::history::letters;
use crate::views::{Condition, Deployment, DeploymentStatus, Pod, ReplicaSet, condition};

pub(super) const HASH_LABEL: &str = "pod-template-hash";
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
const HISTORY_LIMIT: usize = 2000;
/// Annotations of the Deployment that its ReplicaSets do not get.
const OWN: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// A change to a ReplicaSet.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make the ReplicaSet of the current template.
    Create {
        /// The object.
        body: Value,
        /// Its size.
        replicas: i32,
    },
    /// Change size or annotations of one.
    Update {
        /// Name.
        name: String,
        /// The version the decision is based on.
        resource_version: String,
        /// Merge patch without `metadata.resourceVersion`.
        patch: Value,
        /// Size before and after, when it changes.
        scaled: Option<(i32, i32)>,
    },
    /// Delete one that only history held.
    Delete {
        /// Name.
        name: String,
        /// UID.
        uid: String,
    },
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In this order.
    pub actions: Vec<Action>,
    /// What the status should be.
    pub status: DeploymentStatus,
    /// What the revision annotation should be, when known.
    pub revision: Option<String>,
    /// When to look again.
    pub again: Option<Duration>,
}

/// What is seen.
pub struct World<'a> {
    /// The Deployment.
    pub deployment: &'a Deployment,
    /// Its ReplicaSets.
    pub sets: Vec<Arc<ReplicaSet>>,
    /// The pods of its ReplicaSets, needed for `Recreate` only.
    pub pods: Vec<Arc<Pod>>,
    /// Now.
    pub now: Time,
}

fn size(rs: &ReplicaSet) -> i32 {
    rs.spec.replicas.unwrap_or(1)
}

/// A number or percentage (rounded up or down) of `total`; 0 for anything else.
pub fn scaled_value(v: &Value, total: i32, up: bool) -> i32 {
    match v {
        Value::Number(n) => n.as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or(0),
        Value::String(s) => {
            let Some(percent) = s.strip_suffix('%').and_then(|p| p.parse::<i64>().ok()) else {
                return 0;
            };
            let n = percent.saturating_mul(i64::from(total));
            let n = if up {
                n.saturating_add(99).div_euclid(100)
            } else {
                n.div_euclid(100)
            };
            i32::try_from(n).unwrap_or(i32::MAX)
        }
        _ => 0,
    }
}

/// Counts come from objects: their sum may be more than a count can be.
fn sum(counts: impl Iterator<Item = i32>) -> i32 {
    counts.fold(0, i32::saturating_add)
}

fn is_rolling(d: &Deployment) -> bool {
    d.spec.strategy.kind != "Recreate"
}

/// `maxSurge` and `maxUnavailable` as numbers; not both zero.
pub fn fenceposts(d: &Deployment) -> (i32, i32) {
    let replicas = d.spec.replicas.unwrap_or(1);
    if !is_rolling(d) {
        return (0, 0);
    }
    let surge = scaled_value(&d.spec.strategy.rolling_update.max_surge, replicas, true);
    let unavailable = scaled_value(
        &d.spec.strategy.rolling_update.max_unavailable,
        replicas,
        false,
    );
    if surge == 0 && unavailable == 0 {
        (0, 1)
    } else {
        (surge, unavailable)
    }
}

fn max_unavailable(d: &Deployment) -> i32 {
    let replicas = d.spec.replicas.unwrap_or(1);
    if !is_rolling(d) || replicas == 0 {
        0
    } else {
        fenceposts(d).1.min(replicas)
    }
}

fn has_deadline(d: &Deployment) -> bool {
    d.spec
        .progress_deadline_seconds
        .is_some_and(|s| s != i32::MAX)
}

/// The template without what differs between a Deployment's and its ReplicaSets'.
fn plain_template(t: &Value) -> Value {
    let mut t = t.clone();
    if let Some(m) = t.get_mut("metadata").and_then(Value::as_object_mut) {
        m.remove("creationTimestamp");
        if let Some(labels) = m.get_mut("labels").and_then(Value::as_object_mut) {
            labels.remove(HASH_LABEL);
        }
        m.retain(|_, v| !v.is_null() && v.as_object().is_none_or(|o| !o.is_empty()));
    }
    if t.get("metadata")
        .and_then(Value::as_object)
        .is_some_and(|m| m.is_empty())
        && let Some(o) = t.as_object_mut()
    {
        o.remove("metadata");
    }
    t
}

/// FNV-1a over the template's JSON, in the letters that upstream uses in generated names.
pub fn template_hash(template: &Value, collisions: Option<i32>) -> String {
    let mut hash: u32 = 0x811c_9dc5;
    // Maps of serde_json are sorted by key, so equal templates print equally.
    let mut text = plain_template(template).to_string();
    if let Some(c) = collisions {
        text.push_str(&c.to_string());
    }
    for b in text.bytes() {
        hash = (hash ^ u32::from(b)).wrapping_mul(0x0100_0193);
    }
    letters(hash)
}

/// A history with one revision more, and without its oldest as far as it would be too long. It may hold whatever somebody
/// wrote, to the length of an annotation.
pub(super) fn with_revision(history: &str, revision: &str) -> String {
    let room = HISTORY_LIMIT.saturating_sub(revision.len() + 1);
    let kept = match history.len().checked_sub(room) {
        None | Some(0) => history,
        // The first that begins where the rest has room.
        Some(over) => {
            let begins = history.bytes().enumerate().skip(over - 1);
            let comma = begins.into_iter().find(|(_, b)| *b == b',');
            comma.and_then(|(i, _)| history.get(i + 1..)).unwrap_or("")
        }
    };
    if kept.is_empty() {
        revision.to_owned()
    } else {
        format!("{kept},{revision}")
    }
}

fn revision(rs: &ReplicaSet) -> i64 {
    rs.metadata
        .annotations
        .get(REVISION)
        .and_then(|r| r.parse().ok())
        .unwrap_or(0)
}

/// A ReplicaSet and the size it shall have.
#[derive(Clone)]
struct Set {
    rs: Arc<ReplicaSet>,
    size: i32,
}

struct Decision<'a> {
    d: &'a Deployment,
    now: Time,
    old: Vec<Set>,
    new: Option<Set>,
    plan: Plan,
    resized: bool,
}

/// Decides.
pub fn decide(world: &World<'_>) -> Plan {
    let d = world.deployment;
    let mut sets = world.sets.clone();
    sets.sort_by(|a, b| {
        let key = |rs: &ReplicaSet| (rs.metadata.creation_timestamp, rs.metadata.name.clone());
        key(a).cmp(&key(b))
    });
    let template = plain_template(&d.spec.template);
    let new_uid = sets
        .iter()
        .find(|rs| plain_template(&rs.spec.template) == template)
        .map(|rs| rs.metadata.uid.clone());
    let (new, old): (Vec<_>, Vec<_>) = sets
        .into_iter()
        .map(|rs| Set {
            size: size(&rs),
            rs,
        })
        .partition(|s| Some(&s.rs.metadata.uid) == new_uid.as_ref());
    let mut it = Decision {
        d,
        now: world.now,
        old,
        new: new.into_iter().next(),
        plan: Plan::default(),
        resized: false,
    };
    it.plan.status = d.status.clone();
    if d.metadata.is_deleting() {
        it.plan.status = it.calculate(d.status.conditions.clone());
        return it.plan;
    }
    it.check_paused();
    if d.spec.paused || it.is_scaling_event() {
        it.annotate_new();
        it.scale();
        if d.spec.paused {
            it.cleanup();
        }
        let conditions = it.plan.status.conditions.clone();
        it.plan.status = it.calculate(conditions);
        return it.plan;
    }
    if is_rolling(d) {
        it.rolling()
    } else {
        it.recreate(&world.pods)
    }
    it.rollout_status();
    it.plan
}

impl Decision<'_> {
    fn wanted(&self) -> i32 {
        self.d.spec.replicas.unwrap_or(1)
    }

    /// Pods there may be at most.
    fn most(&self) -> i32 {
        self.wanted().saturating_add(fenceposts(self.d).0)
    }

    fn total(&self) -> i32 {
        sum(self.old.iter().chain(&self.new).map(|s| s.size))
    }

    fn set_condition(&mut self, c: Condition) {
        set_condition(&mut self.plan.status.conditions, c);
    }

    fn condition(&self, kind: &str, status: &str, reason: &str, message: String) -> Condition {
        Condition {
            kind: kind.into(),
            status: status.into(),
            reason: reason.into(),
            message,
            last_update_time: Some(self.now),
            last_transition_time: Some(self.now),
            last_heartbeat_time: None,
        }
    }

    fn check_paused(&mut self) {
        if !has_deadline(self.d) {
            return;
        }
        let reason = condition(&self.plan.status.conditions, "Progressing")
            .map(|c| c.reason.clone())
            .unwrap_or_default();
        if reason == "ProgressDeadlineExceeded" {
            return;
        }
        let paused = reason == "DeploymentPaused";
        if self.d.spec.paused && !paused {
            let c = self.condition(
                "Progressing",
                "Unknown",
                "DeploymentPaused",
                "Deployment is paused".into(),
            );
            self.set_condition(c);
        } else if !self.d.spec.paused && paused {
            let c = self.condition(
                "Progressing",
                "Unknown",
                "DeploymentResumed",
                "Deployment is resumed".into(),
            );
            self.set_condition(c);
        }
    }

    fn is_scaling_event(&self) -> bool {
        self.old
            .iter()
            .chain(&self.new)
            .filter(|s| s.size > 0)
            .filter_map(|s| s.rs.metadata.annotations.get(DESIRED)?.parse::<i32>().ok())
            .any(|desired| desired != self.wanted())
    }

    /// Brings revision and copied annotations of the new ReplicaSet up to date.
    fn annotate_new(&mut self) {
        let Some(new) = self.new.clone() else { return };
        let newest = self.old.iter().map(|s| revision(&s.rs)).max();
        let next = newest.unwrap_or(0).saturating_add(1);
        let (annotations, changed) = self.annotations(&new.rs.metadata.annotations, next);
        self.plan.revision = annotations.get(REVISION).cloned();
        let min_ready = new.rs.spec.min_ready_seconds != self.d.spec.min_ready_seconds;
        if changed || min_ready {
            let mut patch = json!({"metadata": {"annotations": annotations}});
            if min_ready {
                set(
                    &mut patch,
                    "spec",
                    json!({"minReadySeconds": self.d.spec.min_ready_seconds}),
                );
            }
            self.update(&new, patch, None);
        }
        if has_deadline(self.d) && condition(&self.plan.status.conditions, "Progressing").is_none()
        {
            let m = format!("Found new replica set {:?}", new.rs.metadata.name);
            let c = self.condition("Progressing", "True", "FoundNewReplicaSet", m);
            self.set_condition(c);
        }
    }

    fn annotations(
        &self,
        have: &BTreeMap<String, String>,
        next: i64,
    ) -> (BTreeMap<String, String>, bool) {
        let mut a = have.clone();
        for (k, v) in &self.d.metadata.annotations {
            if !OWN.contains(&k.as_str()) {
                a.insert(k.clone(), v.clone());
            }
        }
        let old = have.get(REVISION);
        let number: i64 = match old.map(|o| o.parse()) {
            None => 0,
            Some(Ok(n)) => n,
            // Someone else's idea of a revision stays.
            Some(Err(_)) => return (a.clone(), a != *have),
        };
        if number < next {
            a.insert(REVISION.into(), next.to_string());
            if let Some(old) = old {
                let history = a.get(HISTORY).map_or("", String::as_str);
                a.insert(HISTORY.into(), with_revision(history, old));
            }
        }
        let changed = a != *have;
        (a, changed)
    }

    fn update(&mut self, set: &Set, patch: Value, scaled: Option<(i32, i32)>) {
        let name = set.rs.metadata.name.clone();
        // Two changes of one ReplicaSet become one write: the second would be based on a version already gone.
        for action in &mut self.plan.actions {
            if let Action::Update {
                name: n,
                patch: p,
                scaled: s,
                ..
            } = action
                && *n == name
            {
                merge(p, patch);
                *s = scaled.or(*s);
                return;
            }
        }
        let resource_version = set.rs.metadata.resource_version.clone();
        self.plan.actions.push(Action::Update {
            name,
            resource_version,
            patch,
            scaled,
        });
    }

    /// Asks for a size; `always` also brings the annotations up to date where the size is right. Returns whether the size
    /// changes.
    fn resize(&mut self, uid: &str, to: i32, always: bool) -> bool {
        let (desired, max) = (self.wanted(), self.most());
        let Some(s) = self
            .old
            .iter_mut()
            .chain(&mut self.new)
            .find(|s| s.rs.metadata.uid == uid)
        else {
            return false;
        };
        let from = s.size;
        if from == to && !always {
            return false;
        }
        s.size = to;
        let s = s.clone();
        let stale = |k: &str, v: i32| {
            s.rs.metadata
                .annotations
                .get(k)
                .is_none_or(|a| *a != v.to_string())
        };
        if from == to && !stale(DESIRED, desired) && !stale(MAX, max) {
            return false;
        }
        let mut patch = json!({"metadata": {"annotations": {DESIRED: desired.to_string(), MAX: max.to_string()}}});
        if from != to {
            set(&mut patch, "spec", json!({"replicas": to}));
            self.resized = true;
        }
        self.update(&s, patch, (from != to).then_some((from, to)));
        from != to
    }

    /// Scales without rolling: proportionally while several ReplicaSets have pods.
    fn scale(&mut self) {
        let active: Vec<Set> = self
            .old
            .iter()
            .chain(&self.new)
            .filter(|s| s.size > 0)
            .cloned()
            .collect();
        let latest = match active.as_slice() {
            [] => self.new.clone().or_else(|| self.old.last().cloned()),
            [one] => Some(one.clone()),
            _ => None,
        };
        if let Some(one) = latest {
            self.resize(&one.rs.metadata.uid, self.wanted(), false);
            return;
        }
        if let Some(new) = self.new.clone() {
            let desired = new
                .rs
                .metadata
                .annotations
                .get(DESIRED)
                .and_then(|d| d.parse::<i32>().ok());
            let saturated = new.size == self.wanted()
                && desired == Some(self.wanted())
                && new.rs.status.available_replicas == self.wanted();
            if saturated {
                for s in active
                    .iter()
                    .filter(|s| s.rs.metadata.uid != new.rs.metadata.uid)
                {
                    self.resize(&s.rs.metadata.uid, 0, false);
                }
                return;
            }
        }
        if !is_rolling(self.d) {
            return;
        }
        let total = sum(active.iter().map(|s| s.size));
        let allowed = if self.wanted() > 0 { self.most() } else { 0 };
        let to_add = allowed.saturating_sub(total);
        let mut order = active;
        // The largest first; among equals the newest when growing, the oldest when shrinking.
        order.sort_by(|a, b| {
            let age =
                a.rs.metadata
                    .creation_timestamp
                    .cmp(&b.rs.metadata.creation_timestamp);
            b.size
                .cmp(&a.size)
                .then(if to_add > 0 { age.reverse() } else { age })
        });
        let mut added = 0;
        let mut sizes = Vec::new();
        for s in &order {
            let share = if to_add == 0 {
                0
            } else {
                self.share(s, to_add, added)
            };
            added = i32::saturating_add(added, share);
            sizes.push(s.size.saturating_add(share));
        }
        if to_add != 0
            && let Some(first) = sizes.first_mut()
        {
            *first = first.saturating_add(to_add).saturating_sub(added).max(0);
        }
        for (s, size) in order.iter().zip(sizes) {
            self.resize(&s.rs.metadata.uid, size, true);
        }
    }

    fn share(&self, s: &Set, to_add: i32, added: i32) -> i32 {
        if s.size == 0 || to_add == added {
            return 0;
        }
        let fraction = if self.wanted() == 0 {
            -s.size
        } else {
            let before =
                s.rs.metadata
                    .annotations
                    .get(MAX)
                    .and_then(|m| m.parse::<i32>().ok())
                    .filter(|m| *m != 0);
            let before = before.unwrap_or(self.d.status.replicas);
            if before == 0 {
                0
            } else {
                let max = self.most();
                let size = f64::from(s.size) * f64::from(max) / f64::from(before);
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "replica counts are i32 and rounded"
                )]
                let size = size.round() as i32;
                size.saturating_sub(s.size)
            }
        };
        let rest = to_add.saturating_sub(added);
        if to_add > 0 {
            fraction.min(rest)
        } else {
            fraction.max(rest)
        }
    }

    fn create_new(&mut self, size: i32) {
        let d = self.d;
        let hash = template_hash(&d.spec.template, d.status.collision_count);
        let mut template = d.spec.template.clone();
        let mut labels = template
            .pointer("/metadata/labels")
            .cloned()
            .unwrap_or_else(|| json!({}));
        set(&mut labels, HASH_LABEL, hash.as_str().into());
        if let Some(t) = template.as_object_mut() {
            t.entry("metadata").or_insert_with(|| json!({}));
        }
        if let Some(m) = template.get_mut("metadata") {
            set(m, "labels", labels.clone());
        }
        let mut selector = d.spec.selector.clone();
        selector
            .match_labels
            .insert(HASH_LABEL.into(), hash.clone());
        let newest = self.old.iter().map(|s| revision(&s.rs)).max();
        let next = newest.unwrap_or(0).saturating_add(1);
        let (mut annotations, _) = self.annotations(&BTreeMap::new(), next);
        annotations.insert(DESIRED.into(), self.wanted().to_string());
        annotations.insert(MAX.into(), self.most().to_string());
        let cut: String = d.metadata.name.chars().take(253 - 1 - hash.len()).collect();
        let name = format!("{cut}-{hash}");
        let body = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {
                "name": name, "namespace": d.metadata.namespace, "labels": labels, "annotations": annotations,
                "ownerReferences": [controller_reference(&DEPLOYMENTS, &d.metadata)],
            },
            "spec": {
                "replicas": size, "minReadySeconds": d.spec.min_ready_seconds,
                "selector": selector, "template": template,
            },
        });
        self.plan.revision = Some(next.to_string());
        if has_deadline(d) {
            let m = format!("Created new replica set {name:?}");
            let c = self.condition("Progressing", "True", "NewReplicaSetCreated", m);
            self.set_condition(c);
        }
        self.plan.actions.push(Action::Create {
            body,
            replicas: size,
        });
    }

    fn rolling(&mut self) {
        let room = self.most().saturating_sub(self.total());
        let Some(new) = self.new.clone() else {
            let size = room.clamp(0, self.wanted());
            return self.create_new(size);
        };
        self.annotate_new();
        if new.size > self.wanted() {
            self.resize(&new.rs.metadata.uid, self.wanted(), false);
            return;
        }
        if new.size < self.wanted() && room > 0 {
            let size = new.size.saturating_add(room.min(self.wanted() - new.size));
            self.resize(&new.rs.metadata.uid, size, false);
            return;
        }
        if !self.shrink_old(&new) && self.complete(&self.d.status) {
            self.cleanup();
        }
    }

    fn shrink_old(&mut self, new: &Set) -> bool {
        let active: Vec<Set> = self.old.iter().filter(|s| s.size > 0).cloned().collect();
        if active.is_empty() {
            return false;
        }
        let least = self.wanted() - max_unavailable(self.d);
        let unavailable = new.size.saturating_sub(new.rs.status.available_replicas);
        let mut cleanable = self
            .total()
            .saturating_sub(least)
            .saturating_sub(unavailable);
        if cleanable <= 0 {
            return false;
        }
        let mut shrunk = false;
        // Pods that are not available do no good: they go first, oldest ReplicaSet first.
        for s in &active {
            let unhealthy = s
                .size
                .saturating_sub(s.rs.status.available_replicas)
                .max(0)
                .min(cleanable);
            if unhealthy > 0 {
                cleanable -= unhealthy;
                shrunk |= self.resize(&s.rs.metadata.uid, s.size - unhealthy, false);
            }
        }
        let all = self.old.iter().chain(&self.new);
        let available = sum(all.map(|s| s.rs.status.available_replicas));
        let mut spare = available.saturating_sub(least).min(cleanable);
        for s in self.old.clone().iter().filter(|s| s.size > 0) {
            if spare <= 0 {
                break;
            }
            let n = s.size.min(spare);
            spare -= n;
            shrunk |= self.resize(&s.rs.metadata.uid, s.size - n, false);
        }
        shrunk
    }

    fn recreate(&mut self, pods: &[Arc<Pod>]) {
        self.annotate_new();
        let mut shrunk = false;
        for s in self.old.clone().iter().filter(|s| s.size > 0) {
            shrunk |= self.resize(&s.rs.metadata.uid, 0, false);
        }
        let new_uid = self.new.as_ref().map(|s| s.rs.metadata.uid.clone());
        let old_running = pods
            .iter()
            .filter(|p| !p.is_ended())
            .any(|p| p.metadata.controller().map(|o| &o.uid) != new_uid.as_ref());
        if shrunk || old_running {
            return;
        }
        match self.new.clone() {
            None => self.create_new(self.wanted()),
            Some(new) => {
                self.resize(&new.rs.metadata.uid, self.wanted(), false);
                if self.complete(&self.d.status) {
                    self.cleanup();
                }
            }
        }
    }

    fn cleanup(&mut self) {
        let Some(limit) = self
            .d
            .spec
            .revision_history_limit
            .filter(|l| *l != i32::MAX)
        else {
            return;
        };
        let mut old: Vec<Set> = self
            .old
            .iter()
            .filter(|s| !s.rs.metadata.is_deleting())
            .cloned()
            .collect();
        let surplus = old
            .len()
            .saturating_sub(usize::try_from(limit).unwrap_or(0));
        old.sort_by_key(|s| (revision(&s.rs), s.rs.metadata.creation_timestamp));
        for s in old.iter().take(surplus) {
            let rs = &s.rs;
            let idle = rs.status.replicas == 0
                && s.size == 0
                && rs.metadata.generation <= rs.status.observed_generation;
            if idle {
                let (name, uid) = (rs.metadata.name.clone(), rs.metadata.uid.clone());
                self.plan.actions.push(Action::Delete { name, uid });
            }
        }
    }

    fn complete(&self, s: &DeploymentStatus) -> bool {
        let n = self.wanted();
        s.updated_replicas == n
            && s.replicas == n
            && s.available_replicas == n
            && s.observed_generation >= self.d.metadata.generation
    }

    fn calculate(&self, mut conditions: Vec<Condition>) -> DeploymentStatus {
        let all = || self.old.iter().chain(&self.new).map(|s| &s.rs);
        let available = sum(all().map(|rs| rs.status.available_replicas));
        let c = if available >= self.wanted() - max_unavailable(self.d) {
            let m = "Deployment has minimum availability.";
            self.condition("Available", "True", "MinimumReplicasAvailable", m.into())
        } else {
            let m = "Deployment does not have minimum availability.";
            self.condition("Available", "False", "MinimumReplicasUnavailable", m.into())
        };
        set_condition(&mut conditions, c);
        let created = sum(self.plan.actions.iter().map(|a| match a {
            Action::Create { replicas, .. } => *replicas,
            _ => 0,
        }));
        let terminating: Option<Vec<i32>> =
            all().map(|rs| rs.status.terminating_replicas).collect();
        DeploymentStatus {
            observed_generation: self.d.metadata.generation,
            replicas: sum(all().map(|rs| rs.status.replicas)),
            updated_replicas: self.new.as_ref().map_or(0, |s| s.rs.status.replicas),
            ready_replicas: sum(all().map(|rs| rs.status.ready_replicas)),
            available_replicas: available,
            unavailable_replicas: self
                .total()
                .saturating_add(created)
                .saturating_sub(available)
                .max(0),
            terminating_replicas: terminating.map(|t| sum(t.into_iter())),
            collision_count: self.d.status.collision_count,
            conditions,
        }
    }

    fn rollout_status(&mut self) {
        let before = self.d.status.clone();
        let mut new = self.calculate(self.plan.status.conditions.clone());
        let current = condition(&new.conditions, "Progressing").cloned();
        let done = new.replicas == new.updated_replicas
            && current
                .as_ref()
                .is_some_and(|c| c.reason == "NewReplicaSetAvailable");
        let subject = match &self.new {
            Some(s) => format!("ReplicaSet {:?}", s.rs.metadata.name),
            None => format!("Deployment {:?}", self.d.metadata.name),
        };
        if !has_deadline(self.d) {
            new.conditions.retain(|c| c.kind != "Progressing");
        } else if !done {
            let old_pods = |s: &DeploymentStatus| s.replicas.saturating_sub(s.updated_replicas);
            let progressing = new.updated_replicas > before.updated_replicas
                || old_pods(&new) < old_pods(&before)
                || new.ready_replicas > before.ready_replicas
                || new.available_replicas > before.available_replicas;
            let deadline = i64::from(self.d.spec.progress_deadline_seconds.unwrap_or(i32::MAX));
            let late = current.as_ref().is_some_and(|c| {
                let since = c.last_update_time.unwrap_or(self.now);
                c.reason != "NewReplicaSetAvailable"
                    && (c.reason == "ProgressDeadlineExceeded"
                        || self.now.duration_since(since).as_secs() > deadline)
            });
            if self.complete(&new) {
                let m = format!("{subject} has successfully progressed.");
                let c = self.condition("Progressing", "True", "NewReplicaSetAvailable", m);
                set_condition(&mut new.conditions, c);
            } else if progressing {
                let m = format!("{subject} is progressing.");
                let mut c = self.condition("Progressing", "True", "ReplicaSetUpdated", m);
                if let Some(old) = current.filter(|c| c.status == "True") {
                    c.last_transition_time = old.last_transition_time;
                }
                new.conditions.retain(|c| c.kind != "Progressing");
                new.conditions.push(c);
            } else if late {
                let m = format!("{subject} has timed out progressing.");
                let c = self.condition("Progressing", "False", "ProgressDeadlineExceeded", m);
                set_condition(&mut new.conditions, c);
            }
        }
        let failure = self
            .new
            .iter()
            .chain(&self.old)
            .find_map(|s| condition(&s.rs.status.conditions, "ReplicaFailure"))
            .map(|c| self.condition("ReplicaFailure", &c.status, &c.reason, c.message.clone()));
        match failure {
            Some(c) => set_condition(&mut new.conditions, c),
            None => new.conditions.retain(|c| c.kind != "ReplicaFailure"),
        }
        if has_deadline(self.d)
            && !self.complete(&new)
            && let Some(c) = condition(&new.conditions, "Progressing")
            && c.reason != "ProgressDeadlineExceeded"
        {
            let deadline = i64::from(self.d.spec.progress_deadline_seconds.unwrap_or(i32::MAX));
            let passed = self
                .now
                .duration_since(c.last_update_time.unwrap_or(self.now))
                .as_secs();
            let left = u64::try_from(deadline - passed).unwrap_or(0);
            self.plan.again = Some(Duration::from_secs(left + 1));
        }
        self.plan.status = new;
    }
}

/// As upstream: the same status and reason change nothing, the same status keeps the time of transition.
pub(super) fn set_condition(conditions: &mut Vec<Condition>, mut c: Condition) {
    if let Some(old) = condition(conditions, &c.kind) {
        if old.status == c.status && old.reason == c.reason {
            return;
        }
        if old.status == c.status {
            c.last_transition_time = old.last_transition_time;
        }
    }
    conditions.retain(|o| o.kind != c.kind);
    conditions.push(c);
}

fn set(value: &mut Value, key: &str, with: Value) {
    if let Some(o) = value.as_object_mut() {
        o.insert(key.into(), with);
    }
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (k, v) in from {
                merge(into.entry(k).or_insert(Value::Null), v);
            }
        }
        (into, from) => *into = from,
    }
}
