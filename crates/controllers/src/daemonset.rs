//! daemonset-controller: one pod on each node that fits the template, and rolling updates of them.
//!
//! Invariants: never two pods of a DaemonSet on a node, except while a surge replaces one; a rolling update takes away no
//! more available pods than `maxUnavailable`. Pods are placed by the scheduler, through an affinity to the node's name.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::resource::{CONTROLLER_REVISIONS, DAEMON_SETS, NODES, PODS};
use client::{Change, EventType, ObjectKey, ObjectMeta, Patch, Store, Time, WorkQueue, views};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::children::{
    Child, Family, controller_key, observe, pod_from_template, set_status, wanted_by,
};
use crate::context::{BY_CONTROLLER, Context, Failures, controller_index, rewrite};
use crate::deployment::{scaled_value, template_hash};
use crate::expectations::Expectations;
use crate::history::{History, data, next_number, text};
use crate::selector::LabelSelector;
use crate::views::{ControllerRevision, Node, Pod, Toleration};

const HASH: &str = "controller-revision-hash";
const GENERATION: &str = "pod-template-generation";
const BURST: usize = 250;

/// `apps/v1.DaemonSet`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DaemonSet {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// Spec.
    pub spec: DaemonSetSpec,
    /// Status.
    pub status: DaemonSetStatus,
}

views!(DaemonSet);

/// `apps/v1.DaemonSetSpec`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DaemonSetSpec {
    /// Which pods are its own.
    pub selector: LabelSelector,
    /// Of the pods.
    pub template: Value,
    /// How to update.
    pub update_strategy: Value,
    /// Seconds a pod must be ready to count as available.
    pub min_ready_seconds: i32,
    /// Revisions kept.
    pub revision_history_limit: Option<i32>,
}

/// `apps/v1.DaemonSetStatus`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "fields are the API's")]
pub struct DaemonSetStatus {
    pub current_number_scheduled: i32,
    pub number_misscheduled: i32,
    pub desired_number_scheduled: i32,
    pub number_ready: i32,
    pub observed_generation: i64,
    pub updated_number_scheduled: i32,
    pub number_available: i32,
    pub number_unavailable: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collision_count: Option<i32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Value>,
}

/// The tolerations every daemon pod has.
fn tolerations(host_network: bool) -> Vec<Value> {
    let t = |key: &str, effect: &str| json!({"key": format!("node.kubernetes.io/{key}"), "operator": "Exists", "effect": effect});
    let mut out = vec![
        t("not-ready", "NoExecute"),
        t("unreachable", "NoExecute"),
        t("disk-pressure", "NoSchedule"),
        t("memory-pressure", "NoSchedule"),
        t("pid-pressure", "NoSchedule"),
        t("unschedulable", "NoSchedule"),
    ];
    if host_network {
        out.push(t("network-unavailable", "NoSchedule"));
    }
    out
}

/// The pod template with what a daemon pod has besides.
fn daemon_template(ds: &DaemonSet, hash: &str) -> Value {
    let mut t = ds.spec.template.clone();
    let host = t
        .pointer("/spec/hostNetwork")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    let generation = ds
        .metadata
        .annotations
        .get("deprecated.daemonset.template.generation");
    if let Some(o) = t.as_object_mut() {
        let m = o.entry("metadata").or_insert_with(|| json!({}));
        if let Some(m) = m.as_object_mut() {
            let labels = m.entry("labels").or_insert_with(|| json!({}));
            if let Some(l) = labels.as_object_mut() {
                l.insert(HASH.into(), hash.into());
                if let Some(g) = generation {
                    l.insert(GENERATION.into(), g.as_str().into());
                }
            }
        }
        if let Some(s) = o.get_mut("spec").and_then(Value::as_object_mut) {
            let list = s.entry("tolerations").or_insert_with(|| json!([]));
            if let Some(list) = list.as_array_mut() {
                for t in tolerations(host) {
                    if !list.contains(&t) {
                        list.push(t);
                    }
                }
            }
        }
    }
    t
}

/// The template bound to a node by affinity; a required affinity of the template's own is kept by the judgement of nodes.
fn for_node(template: &Value, node: &str) -> Value {
    let mut t = template.clone();
    let Some(spec) = t.get_mut("spec").and_then(Value::as_object_mut) else {
        return t;
    };
    let term = json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]});
    let affinity = spec.entry("affinity").or_insert_with(|| json!({}));
    if let Some(a) = affinity.as_object_mut() {
        let n = a.entry("nodeAffinity").or_insert_with(|| json!({}));
        if let Some(n) = n.as_object_mut() {
            n.insert(
                "requiredDuringSchedulingIgnoredDuringExecution".into(),
                term,
            );
        }
    }
    t
}

fn expression(node: &Node, e: &Value, fields: bool) -> bool {
    let s = |k: &str| e.get(k).and_then(Value::as_str).unwrap_or_default();
    let values: Vec<&str> = e
        .get("values")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let have = if fields {
        (s("key") == "metadata.name").then_some(node.metadata.name.as_str())
    } else {
        node.metadata.labels.get(s("key")).map(String::as_str)
    };
    let number = || {
        Some((
            have?.parse::<i64>().ok()?,
            values.first()?.parse::<i64>().ok()?,
        ))
    };
    match s("operator") {
        "In" => have.is_some_and(|h| values.contains(&h)),
        "NotIn" => have.is_none_or(|h| !values.contains(&h)),
        "Exists" => have.is_some(),
        "DoesNotExist" => have.is_none(),
        "Gt" => number().is_some_and(|(h, v)| h > v),
        "Lt" => number().is_some_and(|(h, v)| h < v),
        _ => false,
    }
}

/// Whether a pod of the template should be put on the node, and whether one there may stay.
pub fn fits(template: &Value, node: &Node) -> (bool, bool) {
    let spec = template.get("spec");
    let at = |p: &str| spec.and_then(|s| s.pointer(p));
    if at("/nodeName")
        .and_then(Value::as_str)
        .is_some_and(|n| !n.is_empty() && n != node.metadata.name)
    {
        return (false, false);
    }
    let labels = at("/nodeSelector")
        .and_then(Value::as_object)
        .into_iter()
        .flatten();
    if !labels
        .into_iter()
        .all(|(k, v)| node.metadata.labels.get(k).map(String::as_str) == v.as_str())
    {
        return (false, false);
    }
    let terms = at(
        "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms",
    );
    if let Some(terms) = terms.and_then(Value::as_array) {
        let part = |t: &Value, k: &str| {
            t.get(k)
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default()
        };
        let any = terms.iter().any(|t| {
            let (e, f) = (part(t, "matchExpressions"), part(t, "matchFields"));
            // A term without requirements matches nothing.
            !(e.is_empty() && f.is_empty())
                && e.iter().all(|e| expression(node, e, false))
                && f.iter().all(|f| expression(node, f, true))
        });
        if !any {
            return (false, false);
        }
    }
    let tolerations: Vec<Toleration> = at("/tolerations")
        .and_then(|t| serde_json::from_value(t.clone()).ok())
        .unwrap_or_default();
    let against = |effects: &[&str]| {
        let bad = node
            .spec
            .taints
            .iter()
            .filter(|t| effects.contains(&t.effect.as_str()));
        bad.clone().all(|t| {
            tolerations
                .iter()
                .any(|o| crate::taint_eviction::tolerates(o, t))
        })
    };
    (
        against(&["NoExecute", "NoSchedule"]),
        against(&["NoExecute"]),
    )
}

/// What to do about a DaemonSet's pods.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Nodes to put a pod on.
    pub create: Vec<String>,
    /// Pods to delete: name and UID.
    pub delete: Vec<(String, String)>,
    /// Failed pods among those, by name.
    pub failed: Vec<String>,
    /// The status that follows from what is seen.
    pub status: DaemonSetStatus,
}

/// The node a daemon pod is on or meant for.
fn node_of(pod: &Pod) -> Option<String> {
    (!pod.spec.node_name.is_empty())
        .then(|| pod.spec.node_name.clone())
        .or_else(|| pod.spec.target_node())
}

/// Decides. `hash` is that of the current template.
pub fn decide(
    ds: &DaemonSet,
    nodes: &[Arc<Node>],
    pods: &[Arc<Pod>],
    hash: &str,
    now: Time,
) -> Plan {
    let mut plan = Plan::default();
    let template = daemon_template(ds, hash);
    let mut by_node: HashMap<String, Vec<&Arc<Pod>>> = HashMap::new();
    for p in pods {
        if let Some(n) = node_of(p) {
            by_node.entry(n).or_default().push(p);
        }
    }
    let available =
        |p: &Pod| !p.metadata.is_deleting() && p.is_available(ds.spec.min_ready_seconds, now);
    let is_new = |p: &Pod| p.metadata.labels.get(HASH).is_some_and(|h| h == hash);
    let delete = |plan: &mut Plan, p: &Pod| {
        plan.delete
            .push((p.metadata.name.clone(), p.metadata.uid.clone()))
    };
    let mut desired = 0;
    let mut s = DaemonSetStatus {
        observed_generation: ds.metadata.generation,
        collision_count: ds.status.collision_count,
        conditions: ds.status.conditions.clone(),
        ..DaemonSetStatus::default()
    };
    let mut settled: Vec<(bool, Vec<Arc<Pod>>)> = Vec::new();
    for node in nodes {
        let (should, may_stay) = fits(&template, node);
        let mut here: Vec<&Arc<Pod>> = by_node.remove(&node.metadata.name).unwrap_or_default();
        here.sort_by_key(|p| {
            (
                p.spec.node_name.is_empty(),
                p.metadata.creation_timestamp,
                p.metadata.name.clone(),
            )
        });
        desired += i32::from(should);
        if should && let Some(first) = here.first() {
            s.current_number_scheduled += 1;
            s.number_ready += i32::from(first.is_ready());
            s.number_available += i32::from(first.is_available(ds.spec.min_ready_seconds, now));
            s.updated_number_scheduled += i32::from(is_new(first));
        } else if !here.is_empty() {
            s.number_misscheduled += 1;
        }
        if !may_stay {
            here.iter()
                .filter(|p| !p.metadata.is_deleting())
                .for_each(|p| delete(&mut plan, p));
            continue;
        }
        let mut running: Vec<Arc<Pod>> = Vec::new();
        for p in here.iter().filter(|p| !p.metadata.is_deleting()) {
            if p.is_ended() {
                if p.status.phase == "Failed" {
                    plan.failed.push(p.metadata.name.clone());
                }
                delete(&mut plan, p);
            } else {
                running.push((*p).clone());
            }
        }
        if should && here.is_empty() {
            plan.create.push(node.metadata.name.clone());
        }
        settled.push((should, running));
    }
    // Pods of nodes that are gone are the pod garbage collector's.
    s.desired_number_scheduled = desired;
    s.number_unavailable = desired - s.number_available;
    let rolling = ds.spec.update_strategy.get("type").and_then(Value::as_str) != Some("OnDelete");
    let bound = |k: &str, up: bool| {
        ds.spec
            .update_strategy
            .pointer(k)
            .map_or(0, |v| scaled_value(v, desired, up))
    };
    let surge = bound("/rollingUpdate/maxSurge", true);
    let unavailable = bound("/rollingUpdate/maxUnavailable", true);
    let unavailable = if surge == 0 {
        unavailable.max(1)
    } else {
        unavailable
    };
    let mut spare = unavailable
        - settled
            .iter()
            .filter(|(should, p)| *should && !p.iter().any(|p| available(p)))
            .count() as i32;
    let mut surging = surge - settled.iter().filter(|(_, p)| p.len() > 1).count() as i32;
    for (_, running) in &settled {
        let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) = running.iter().partition(|p| is_new(p));
        // One of each at most; more are surplus.
        let mut surplus: Vec<&Arc<Pod>> = new
            .iter()
            .skip(1)
            .chain(old.iter().skip(1))
            .copied()
            .collect();
        if surge == 0 && !new.is_empty() && !old.is_empty() {
            surplus.extend(
                running
                    .iter()
                    .skip(1)
                    .filter(|p| !surplus.iter().any(|s| s.metadata.uid == p.metadata.uid))
                    .collect::<Vec<_>>(),
            );
        }
        surplus.iter().for_each(|p| delete(&mut plan, p));
        let (Some(old), true) = (old.first(), rolling) else {
            continue;
        };
        match new.first() {
            Some(n) if surge > 0 && (available(n) || !old.is_ready()) => delete(&mut plan, old),
            Some(_) => {}
            None if !available(old) && surge == 0 => delete(&mut plan, old),
            None if surge > 0 && (surging > 0 || !available(old)) => {
                surging -= 1;
                plan.create.extend(node_of(old));
            }
            None if surge == 0 && spare > 0 => {
                spare -= 1;
                delete(&mut plan, old);
            }
            None => {}
        }
    }
    plan.create.truncate(BURST);
    plan.delete.truncate(BURST);
    plan.status = s;
    plan
}

struct DaemonSets {
    ctx: Context,
    sets: Store<DaemonSet>,
    pods: Store<Pod>,
    nodes: Store<Node>,
    revisions: Store<ControllerRevision>,
    queue: WorkQueue<ObjectKey>,
    expected: Expectations,
}

/// What a DaemonSet's revisions say of its template.
#[derive(Debug, Default)]
pub struct Templates {
    /// The revision of the template as it is; of several, the one with the highest number.
    pub current: Option<Arc<ControllerRevision>>,
    /// Others of the same template.
    pub duplicates: Vec<Arc<ControllerRevision>>,
    /// Those of other templates, oldest first.
    pub old: Vec<Arc<ControllerRevision>>,
}

impl Templates {
    /// The number that the current revision has at least.
    pub fn number(&self) -> i64 {
        next_number(&self.old)
    }
}

/// Tells revisions, which are in their order, by the template's data.
pub fn templates(revisions: Vec<Arc<ControllerRevision>>, data: &str) -> Templates {
    let (mut same, old): (Vec<_>, Vec<_>) = revisions.into_iter().partition(|r| r.data == data);
    Templates {
        current: same.pop(),
        duplicates: same,
        old,
    }
}

/// The old revisions that no pod is at and that are too many, oldest first.
pub fn surplus<'a>(
    old: &'a [Arc<ControllerRevision>],
    limit: usize,
    live: &HashSet<String>,
) -> impl Iterator<Item = &'a Arc<ControllerRevision>> {
    old.iter()
        .filter(|r| !live.contains(hash_of(r)))
        .take(old.len().saturating_sub(limit))
}

/// What the pods of a revision are labelled with.
fn hash_of(revision: &ControllerRevision) -> &str {
    let m = &revision.metadata;
    m.labels.get(HASH).unwrap_or(&m.name)
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let sets = ctx.informer::<DaemonSet>(&DAEMON_SETS);
    let pods = ctx.informer::<Pod>(&PODS);
    let nodes = ctx.informer::<Node>(&NODES);
    let revisions = ctx.informer::<ControllerRevision>(&CONTROLLER_REVISIONS);
    pods.store()
        .add_index(BY_CONTROLLER, |p: &Pod| controller_index(&p.metadata));
    revisions
        .store()
        .add_index(BY_CONTROLLER, |r: &ControllerRevision| {
            controller_index(&r.metadata)
        });
    let queue = ctx.queue("daemonset");
    let c = Arc::new(DaemonSets {
        sets: sets.store(),
        pods: pods.store(),
        nodes: nodes.store(),
        revisions: revisions.store(),
        queue: queue.clone(),
        expected: Expectations::default(),
        ctx: ctx.clone(),
    });
    let q = queue.clone();
    sets.on_change(move |change| q.add(ObjectKey::of(&**change.object())));
    let it = c.clone();
    pods.on_change(move |change| {
        let key = |m: &ObjectMeta| controller_key(&it.sets, "DaemonSet", m);
        let (lost, owner) = observe(&it.expected, key, change);
        it.changed(lost, owner, change);
    });
    let it = c.clone();
    revisions.on_change(move |change| {
        let key = |r: &ControllerRevision| controller_key(&it.sets, "DaemonSet", &r.metadata);
        let lost = change.old().and_then(|r| key(r));
        // One that is made is this controller's own doing.
        let owner = key(change.object());
        let made = owner.is_some() && matches!(change, Change::Added(_));
        if !made {
            it.changed(lost, owner, change);
        }
    });
    let it = c.clone();
    nodes.on_change(move |change| {
        let matters = change.old().is_none_or(|old| {
            let new = change.object();
            old.metadata.labels != new.metadata.labels || old.spec.taints != new.spec.taints
        });
        if matters || !matches!(change, Change::Updated { .. }) {
            it.sets
                .list()
                .iter()
                .for_each(|ds| it.queue.add(ObjectKey::of(&**ds)));
        }
    });
    ctx.run(queue, 2, move |key| {
        let c = c.clone();
        async move { c.sync(&key).await }
    });
}

impl DaemonSets {
    /// Whose turn it is when a pod or a revision changed: its owner's, the one's that lost it, or that of those that may
    /// want the orphan.
    fn changed<V: Child>(
        &self,
        lost: Option<ObjectKey>,
        owner: Option<ObjectKey>,
        change: Change<'_, V>,
    ) {
        let wanting = wanted_by(&self.sets, change, |ds, labels| {
            let selector = &ds.spec.selector;
            !selector.is_empty() && selector.matches(labels)
        });
        let keys = lost.into_iter().chain(owner).chain(wanting);
        keys.for_each(|key| self.queue.add(key));
    }

    async fn sync(&self, key: &ObjectKey) -> Result<Option<Duration>, client::Error> {
        let Some(ds) = self.sets.get_key(key) else {
            self.expected.forget(key);
            return Ok(None);
        };
        if ds.spec.selector.is_empty() || ds.metadata.is_deleting() {
            return Ok(None);
        }
        let family = Family {
            ctx: &self.ctx,
            resource: &DAEMON_SETS,
            owner: &ds.metadata,
            finalizer: None,
        };
        let history = History {
            family: &family,
            store: &self.revisions,
        };
        let revisions = history.list(&ds.spec.selector, true).await?;
        let matches = |p: &Pod| ds.spec.selector.matches(&p.metadata.labels);
        let pods = family.claim(&PODS, &self.pods, matches, |_| true).await?;
        let templates = templates(revisions, &text(data(&ds.spec.template)));
        let hash = match self.current(&ds, &history, &templates, &pods).await {
            Ok(hash) => hash,
            Err(e) if e.is_namespace_terminating() => return Ok(None),
            Err(e) => return Err(e),
        };
        let now = Time::now();
        let plan = decide(&ds, &self.nodes.list(), &pods, &hash, now);
        let status = plan.status.clone();
        let done = if self.expected.satisfied(key) {
            let mut failures = Failures::default();
            failures.note(self.carry_out(&family, key, &ds, &hash, plan).await);
            let limit = usize::try_from(ds.spec.revision_history_limit.unwrap_or(10)).unwrap_or(10);
            let at = |p: &Arc<Pod>| p.metadata.labels.get(HASH).cloned();
            let live: HashSet<String> = pods.iter().filter_map(at).collect();
            failures.note(history.delete(surplus(&templates.old, limit, &live)).await);
            failures.end()
        } else {
            Ok(())
        };
        if status != ds.status {
            let api = self.ctx.client.namespaced(&DAEMON_SETS, &key.namespace);
            let value = serde_json::to_value(&status).unwrap_or_default();
            let set = |o: &mut Value| set_status(o, &value);
            rewrite(&api, &key.name, &ds.metadata.uid, "status", set).await?;
        }
        done?;
        let waits = ds.spec.min_ready_seconds > 0 && status.number_ready != status.number_available;
        Ok(waits
            .then(|| Duration::from_secs(u64::try_from(ds.spec.min_ready_seconds).unwrap_or(1))))
    }

    async fn carry_out(
        &self,
        family: &Family<'_>,
        key: &ObjectKey,
        ds: &DaemonSet,
        hash: &str,
        plan: Plan,
    ) -> Result<(), client::Error> {
        for name in &plan.failed {
            let node = self
                .pods
                .get(&key.namespace, name)
                .and_then(|p| node_of(&p))
                .unwrap_or_default();
            let message = format!(
                "Found failed daemon pod {}/{name} on node {node}, will try to kill it",
                key.namespace
            );
            family.event(EventType::Warning, "FailedDaemonPod", message);
        }
        if !plan.delete.is_empty() {
            return family.delete_pods(&self.expected, key, &plan.delete).await;
        }
        let template = daemon_template(ds, hash);
        let made = family.create_pods(&self.expected, key, plan.create.len(), |n| {
            let node = plan.create.get(n).map_or("", String::as_str);
            let owner = family.controller_reference();
            pod_from_template(&for_node(&template, node), &ds.metadata.name, owner)
        });
        made.await.1
    }

    /// The hash of the current template: of its revision, which is made, renumbered, labelled and freed of duplicates.
    async fn current(
        &self,
        ds: &DaemonSet,
        history: &History<'_>,
        templates: &Templates,
        pods: &[Arc<Pod>],
    ) -> Result<String, client::Error> {
        let all = templates.old.iter().chain(&templates.duplicates);
        for r in all.chain(&templates.current) {
            if !r.metadata.labels.contains_key(HASH) {
                let api = self
                    .ctx
                    .client
                    .namespaced(&CONTROLLER_REVISIONS, &ds.metadata.namespace);
                let m = &r.metadata;
                let label = json!({"uid": m.uid, "labels": {HASH: m.name}});
                let label = Patch::Merge(json!({"metadata": label}));
                api.patch::<IgnoredAny>(&m.name, &label).await?;
            }
        }
        let number = templates.number();
        let Some(current) = &templates.current else {
            return self.snapshot(ds, history, number).await;
        };
        let hash = hash_of(current);
        self.without_duplicates(history, templates, hash, pods)
            .await?;
        if current.revision < number {
            history.renumber(current, number).await?;
        }
        Ok(hash.to_owned())
    }

    /// Pods of a duplicate are those of the revision that stays.
    async fn without_duplicates(
        &self,
        history: &History<'_>,
        templates: &Templates,
        hash: &str,
        pods: &[Arc<Pod>],
    ) -> Result<(), client::Error> {
        let duplicates: HashSet<&str> = templates.duplicates.iter().map(|r| hash_of(r)).collect();
        if duplicates.is_empty() {
            return Ok(());
        }
        let api = &self.ctx.client;
        let api = api.namespaced(&PODS, &history.family.owner.namespace);
        let label = Patch::Merge(json!({"metadata": {"labels": {HASH: hash}}}));
        let mut failures = Failures::default();
        for pod in pods {
            let at = pod.metadata.labels.get(HASH).map_or("", String::as_str);
            if at != hash && duplicates.contains(at) {
                let labelled = api.patch::<IgnoredAny>(&pod.metadata.name, &label).await;
                match labelled {
                    Err(e) if e.is_not_found() => {}
                    result => failures.note(result.map(|_| ())),
                }
            }
        }
        failures.end()?;
        history.delete(templates.duplicates.iter()).await
    }

    /// Makes the revision of a template that has none. Where its name is taken by another's data, the collision count of
    /// the status is raised, and the next try has another name.
    async fn snapshot(
        &self,
        ds: &DaemonSet,
        history: &History<'_>,
        number: i64,
    ) -> Result<String, client::Error> {
        let hash = template_hash(&ds.spec.template, ds.status.collision_count);
        let name = format!("{}-{hash}", ds.metadata.name);
        let new = history.revision(&ds.spec.template, (HASH, &hash), number);
        let taken = match history.create(&name, &new).await {
            Ok(_) => return Ok(hash),
            Err(e) if e.is_already_exists() => e,
            Err(e) => return Err(e),
        };
        let there = history.there(&name).await?;
        if there.data == new.data {
            return Ok(hash_of(&there).to_owned());
        }
        let m = &ds.metadata;
        let api = self.ctx.client.namespaced(&DAEMON_SETS, &m.namespace);
        let seen = ds.status.collision_count;
        let raised = rewrite(&api, &m.name, &m.uid, "status", |o| {
            let o = o.as_object_mut();
            let status = o.map(|o| o.entry("status").or_insert_with(|| json!({})));
            let Some(status) = status.and_then(Value::as_object_mut) else {
                return false;
            };
            // Another count is one that the cache will show.
            if status.get("collisionCount").and_then(Value::as_i64) != seen.map(i64::from) {
                return false;
            }
            let next = seen.unwrap_or(0).saturating_add(1);
            status.insert("collisionCount".into(), next.into());
            true
        });
        raised.await?;
        Err(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::Condition;

    fn set(strategy: Value) -> DaemonSet {
        serde_json::from_value(json!({
            "metadata": {"name": "d", "uid": "d"},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "updateStrategy": strategy,
                     "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"nodeSelector": {"os": "linux"}}}},
        }))
        .unwrap()
    }

    fn node(name: &str, os: &str, taint: Option<(&str, &str)>) -> Arc<Node> {
        let mut n = Node::default();
        n.metadata.name = name.into();
        n.metadata.labels.insert("os".into(), os.into());
        n.spec
            .taints
            .extend(taint.map(|(k, e)| crate::views::Taint {
                key: k.into(),
                effect: e.into(),
                ..Default::default()
            }));
        Arc::new(n)
    }

    fn pod(node: &str, hash: &str, ready: bool) -> Arc<Pod> {
        let mut p = Pod::default();
        p.metadata.name = format!("{node}-{hash}");
        p.metadata.uid = p.metadata.name.clone();
        p.metadata.labels.insert(HASH.into(), hash.into());
        p.spec.node_name = node.into();
        p.status.phase = "Running".into();
        let status = if ready { "True" } else { "False" };
        p.status.conditions = vec![Condition {
            kind: "Ready".into(),
            status: status.into(),
            ..Condition::default()
        }];
        Arc::new(p)
    }

    fn names(p: &Plan) -> Vec<&str> {
        p.delete.iter().map(|d| d.0.as_str()).collect()
    }

    fn at() -> Time {
        Time::from_second(1_000_000).unwrap()
    }

    #[test]
    fn a_pod_for_each_node_that_fits() {
        let nodes = [
            node("a", "linux", None),
            node("b", "windows", None),
            node("c", "linux", Some(("x", "NoSchedule"))),
            node(
                "d",
                "linux",
                Some(("node.kubernetes.io/unschedulable", "NoSchedule")),
            ),
            node("e", "linux", Some(("x", "NoExecute"))),
        ];
        let pods = [
            pod("b", "h", true),
            pod("c", "h", true),
            pod("e", "h", true),
        ];
        let plan = decide(
            &set(json!({"type": "RollingUpdate"})),
            &nodes,
            &pods,
            "h",
            at(),
        );
        assert_eq!(
            plan.create,
            ["a", "d"],
            "a taint every daemon tolerates keeps none away"
        );
        assert_eq!(
            names(&plan),
            ["b-h", "e-h"],
            "what is on a node that only NoSchedule keeps it from may stay"
        );
        let s = plan.status;
        assert_eq!(
            (
                s.desired_number_scheduled,
                s.number_misscheduled,
                s.number_unavailable
            ),
            (2, 3, 2)
        );
    }

    #[test]
    fn updates_keep_to_max_unavailable() {
        let nodes: Vec<_> = ["a", "b", "c", "d"]
            .iter()
            .map(|n| node(n, "linux", None))
            .collect();
        let strategy =
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2, "maxSurge": 0}});
        let pods = [
            pod("a", "old", true),
            pod("b", "old", true),
            pod("c", "old", true),
            pod("d", "new", false),
        ];
        assert_eq!(
            names(&decide(&set(strategy.clone()), &nodes, &pods, "new", at())),
            ["a-old"],
            "one is down already"
        );
        let pods = [
            pod("a", "old", true),
            pod("b", "old", false),
            pod("c", "old", false),
            pod("d", "new", true),
        ];
        assert_eq!(
            names(&decide(&set(strategy), &nodes, &pods, "new", at())),
            ["b-old", "c-old"],
            "those that are down anyway"
        );
        let none = decide(
            &set(json!({"type": "OnDelete"})),
            &nodes,
            &pods,
            "new",
            at(),
        );
        assert!(none.delete.is_empty());
    }

    #[test]
    fn surges_replace_when_the_new_one_is_up() {
        let nodes: Vec<_> = ["a", "b"].iter().map(|n| node(n, "linux", None)).collect();
        let ds = set(
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}),
        );
        let pods = [pod("a", "old", true), pod("b", "old", true)];
        let p = decide(&ds, &nodes, &pods, "new", at());
        assert_eq!(
            (p.create.as_slice(), p.delete.len()),
            (["a".to_owned()].as_slice(), 0)
        );
        let pods = [
            pod("a", "old", true),
            pod("b", "old", true),
            pod("a", "new", false),
        ];
        let p = decide(&ds, &nodes, &pods, "new", at());
        assert!(p.create.is_empty() && p.delete.is_empty(), "{p:?}");
        let pods = [
            pod("a", "old", true),
            pod("b", "old", true),
            pod("a", "new", true),
        ];
        assert_eq!(names(&decide(&ds, &nodes, &pods, "new", at())), ["a-old"]);
    }

    fn revision(name: &str, number: i64, data: &str) -> Arc<ControllerRevision> {
        let mut r = ControllerRevision {
            data: data.into(),
            revision: number,
            ..ControllerRevision::default()
        };
        r.metadata.name = name.into();
        r.metadata.labels.insert(HASH.into(), name.into());
        Arc::new(r)
    }

    #[test]
    fn the_current_revision_is_found_by_its_template() {
        let names = |all: &[Arc<ControllerRevision>]| {
            let names = all.iter().map(|r| r.metadata.name.clone());
            names.collect::<Vec<_>>()
        };
        for (what, revisions, current, duplicates, old, number) in [
            ("none yet", vec![], None, vec![], vec![], 1),
            (
                "new",
                vec![("a", 1, "x"), ("b", 2, "y")],
                None,
                vec![],
                vec!["a", "b"],
                3,
            ),
            (
                "the newest",
                vec![("a", 1, "x"), ("b", 2, "now")],
                Some("b"),
                vec![],
                vec!["a"],
                2,
            ),
            (
                "rolled back",
                vec![("a", 1, "now"), ("b", 2, "y")],
                Some("a"),
                vec![],
                vec!["b"],
                3,
            ),
            (
                "several",
                vec![
                    ("a", 1, "now"),
                    ("b", 2, "y"),
                    ("c", 3, "now"),
                    ("d", 3, "now"),
                ],
                Some("d"),
                vec!["a", "c"],
                vec!["b"],
                3,
            ),
        ] {
            let revisions = revisions.iter().map(|(n, i, d)| revision(n, *i, d));
            let t = templates(revisions.collect(), "now");
            let found = t.current.as_ref().map(|r| r.metadata.name.as_str());
            assert_eq!(found, current, "{what}");
            assert_eq!(names(&t.duplicates), duplicates, "{what}");
            assert_eq!(names(&t.old), old, "{what}");
            assert_eq!(t.number(), number, "{what}");
        }
    }

    #[test]
    fn old_revisions_go_from_the_oldest_unless_a_pod_is_at_them() {
        let old = [
            revision("a", 1, ""),
            revision("b", 2, ""),
            revision("c", 3, ""),
        ];
        for (limit, live, gone) in [
            (10, vec![], vec![]),
            (3, vec![], vec![]),
            (2, vec![], vec!["a"]),
            (0, vec![], vec!["a", "b", "c"]),
            (2, vec!["a"], vec!["b"]),
            (0, vec!["b"], vec!["a", "c"]),
        ] {
            let live = live.into_iter().map(str::to_owned).collect();
            let names: Vec<&str> = surplus(&old, limit, &live)
                .map(|r| r.metadata.name.as_str())
                .collect();
            assert_eq!(names, gone, "{limit} {live:?}");
        }
        let mut unlabelled = ControllerRevision::default();
        unlabelled.metadata.name = "d-x".into();
        assert_eq!(hash_of(&unlabelled), "d-x");
    }
}
