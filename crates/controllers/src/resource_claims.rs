//! resourceclaim-controller: makes the ResourceClaims that pods ask for by templates, tells pods their names, and gives claims
//! up that nobody uses.
//!
//! Invariants: a pod has one claim for each of its entries with a template, also when the cache lags or the pod's status was
//! not written; a consumer is taken out of a claim only when the apiserver says that it is gone or will run no more; a claim
//! without consumers loses its allocation, and then the finalizer that kept it.
//!
//! Absent: claims of PodGroups, which are alpha upstream.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use client::resource::{PODS, RESOURCE_CLAIM_TEMPLATES, RESOURCE_CLAIMS};
use client::{
    Change, DeleteOptions, EventType, ObjectKey, ObjectMeta, ObjectReference, Store, WorkQueue,
    views,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Context;
use crate::children::BURST;
use crate::context::apply_status;
use crate::views::{Empty, Pod, PodClaim};

const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// The annotation of a claim with the pod's entry that it was made for.
const ENTRY: &str = "resource.kubernetes.io/pod-claim-name";
const MANAGER: &str = "ResourceClaimController";
/// When a pod has its turn again that asks for more claims than are made at once.
const AGAIN: Duration = Duration::from_millis(100);
const BY_CLAIM: &str = "resource-claim";
const BY_TEMPLATE: &str = "resource-claim-template";
const BY_POD: &str = "pod-uid";

/// `resource.k8s.io/v1.ResourceClaim`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Claim {
    metadata: ObjectMeta,
    status: ClaimStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClaimStatus {
    allocation: Option<Empty>,
    reserved_for: Vec<Consumer>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Consumer {
    api_group: String,
    resource: String,
    name: String,
    uid: String,
}

/// `resource.k8s.io/v1.ResourceClaimTemplate`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Template {
    metadata: ObjectMeta,
    spec: Value,
}

views!(Claim, Template);

/// The claim of an entry of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known<'a> {
    /// Its name, and whether it must be one that was made for the pod.
    Name(&'a str, bool),
    /// It was found that the pod needs none.
    NotNeeded,
    NotMade,
    /// The entry says nothing that this controller knows.
    Unsupported,
}

/// What a pod's status says of its claims, by entry.
struct Told<'a>(HashMap<&'a str, Option<&'a str>>);

impl<'a> Told<'a> {
    fn of(pod: &'a Pod) -> Told<'a> {
        let all = pod.status.resource_claim_statuses.iter();
        Told(
            all.map(|s| (s.name.as_str(), s.resource_claim_name.as_deref()))
                .collect(),
        )
    }

    fn known(&self, entry: &'a PodClaim) -> Known<'a> {
        if let Some(name) = &entry.resource_claim_name {
            return Known::Name(name, false);
        }
        if entry.resource_claim_template_name.is_none() {
            return Known::Unsupported;
        }
        match self.0.get(entry.name.as_str()) {
            None => Known::NotMade,
            Some(None) => Known::NotNeeded,
            Some(Some(name)) => Known::Name(name, true),
        }
    }
}

fn unsupported(pod: &Pod, entry: &PodClaim) -> String {
    let m = &pod.metadata;
    format!(
        "pod \"{}/{}\", spec.resourceClaim {:?}: none of the supported fields are set",
        m.namespace, m.name, entry.name
    )
}

fn is_of(claim: &Claim, pod: &Pod) -> bool {
    claim
        .metadata
        .controller()
        .is_some_and(|o| o.uid == pod.metadata.uid)
}

fn not_of(claim: &Claim, pod: &Pod) -> String {
    let (c, p) = (&claim.metadata, &pod.metadata);
    format!(
        "ResourceClaim {}/{} was not created for Pod {}/{} (Pod is not owner)",
        c.namespace, c.name, p.namespace, p.name
    )
}

fn is_reserved_for(claim: &Claim, pod: &Pod) -> bool {
    claim
        .status
        .reserved_for
        .iter()
        .any(|r| r.uid == pod.metadata.uid)
}

/// Whether the pod's containers have ended for good or will never run.
fn is_done(pod: &Pod) -> bool {
    pod.is_ended() || pod.metadata.is_deleting() && pod.spec.node_name.is_empty()
}

/// Whether there may be something to do for a pod.
fn needs_work(pod: &Pod, claim: impl Fn(&str) -> Option<Arc<Claim>>) -> bool {
    let told = Told::of(pod);
    let one = |entry: &PodClaim| match told.known(entry) {
        Known::NotNeeded => false,
        Known::NotMade | Known::Unsupported => true,
        Known::Name(name, owned) => match claim(name) {
            None => owned,
            // The pod has to wait until the other claim of that name is gone.
            Some(c) if owned && !is_of(&c, pod) => false,
            Some(c) => {
                !pod.spec.node_name.is_empty()
                    && c.status.allocation.is_some()
                    && !is_reserved_for(&c, pod)
            }
        },
    };
    !pod.metadata.is_deleting() && pod.spec.resource_claims.iter().any(one)
}

/// What an entry of a pod needs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    /// The pod does not say that it has this claim.
    Found(String),
    /// A claim of this template.
    Make(String),
}

/// `claim` looks one up by name; `made` finds the one that was made for an entry of the pod.
fn need<'a>(
    pod: &'a Pod,
    told: &Told<'a>,
    entry: &'a PodClaim,
    claim: impl Fn(&str) -> Option<Arc<Claim>>,
    made: impl Fn(&str) -> Option<String>,
) -> Result<Need, String> {
    match told.known(entry) {
        Known::Unsupported => {
            return Err(format!(
                "checking for claim before creating it: {}",
                unsupported(pod, entry)
            ));
        }
        Known::NotNeeded => return Ok(Need::Nothing),
        Known::Name(name, owned) => {
            if claim(name).is_some_and(|c| !owned || is_of(&c, pod)) {
                return Ok(Need::Nothing);
            }
        }
        Known::NotMade => {}
    }
    Ok(match &entry.resource_claim_template_name {
        None => Need::Nothing,
        Some(template) => match made(&entry.name) {
            Some(name) => Need::Found(name),
            None => Need::Make(template.clone()),
        },
    })
}

/// The claims that a pod which is bound already has to be added to.
fn to_reserve(
    pod: &Pod,
    claim: impl Fn(&str) -> Option<Arc<Claim>>,
) -> Result<Vec<Arc<Claim>>, String> {
    let mut out = Vec::new();
    if pod.spec.node_name.is_empty() {
        // The scheduler does it.
        return Ok(out);
    }
    let told = Told::of(pod);
    for entry in &pod.spec.resource_claims {
        let (name, owned) = match told.known(entry) {
            Known::Name(name, owned) => (name, owned),
            Known::NotNeeded => continue,
            Known::Unsupported => return Err(unsupported(pod, entry)),
            // It is told in the pod's status now, and is looked at again with it.
            Known::NotMade => return Ok(out),
        };
        let Some(c) = claim(name) else {
            return Ok(out);
        };
        if owned && !is_of(&c, pod) {
            return Err(not_of(&c, pod));
        }
        if c.status.allocation.is_some() && !is_reserved_for(&c, pod) {
            out.push(c);
        }
    }
    Ok(out)
}

/// The prefix of a claim's name: what is too long is taken from the pod's name and the entry's alike.
fn prefix(pod: &str, entry: &str) -> String {
    const MOST: usize = 57;
    let whole = format!("{pod}-{entry}-");
    let length = whole.len();
    if length <= MOST {
        return whole;
    }
    let part = |s: &str| s.chars().take(s.len() * MOST / length).collect::<String>();
    format!("{}-{}", part(pod), part(entry))
}

/// The claim of a pod's entry.
fn body(pod: &Pod, entry: &str, template: &Template) -> Value {
    let get = |pointer: &str| template.spec.pointer(pointer).cloned();
    let mut annotations = get("/metadata/annotations")
        .filter(Value::is_object)
        .unwrap_or(json!({}));
    if let Some(a) = annotations.as_object_mut() {
        a.insert(ENTRY.into(), entry.into());
    }
    let mut metadata = json!({
        "generateName": prefix(&pod.metadata.name, entry),
        "namespace": pod.metadata.namespace,
        "annotations": annotations,
        "ownerReferences": [{
            "apiVersion": "v1", "kind": "Pod", "name": pod.metadata.name, "uid": pod.metadata.uid, "controller": true,
        }],
    });
    if let (Some(m), Some(labels)) = (metadata.as_object_mut(), get("/metadata/labels")) {
        m.insert("labels".into(), labels);
    }
    json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": metadata, "spec": get("/spec").unwrap_or(json!({})),
    })
}

/// What the pod's status says of its claims, with what is new.
fn statuses(pod: &Pod, new: &BTreeMap<String, String>) -> Value {
    let of_template = |e: &&PodClaim| e.resource_claim_template_name.is_some();
    let entries = pod.spec.resource_claims.iter().filter(of_template);
    let told = Told::of(pod);
    let all = entries.filter_map(|e| match (new.get(&e.name), told.known(e)) {
        (Some(name), _) => Some(json!({"name": e.name, "resourceClaimName": name})),
        (None, Known::Name(name, _)) => Some(json!({"name": e.name, "resourceClaimName": name})),
        (None, Known::NotNeeded) => Some(json!({"name": e.name})),
        _ => None,
    });
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": pod.metadata.name, "namespace": pod.metadata.namespace, "uid": pod.metadata.uid},
        "status": {"resourceClaimStatuses": all.collect::<Vec<_>>()},
    })
}

/// What becomes of a consumer of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    Goes,
    /// Goes if the apiserver does not have it either.
    Doubtful,
}

fn fate(consumer: &Consumer, pod: impl Fn(&str) -> Option<Arc<Pod>>) -> Fate {
    if !consumer.api_group.is_empty() || consumer.resource != "pods" {
        return Fate::Stays;
    }
    match pod(&consumer.name) {
        None => Fate::Doubtful,
        Some(pod) if pod.metadata.uid != consumer.uid || is_done(&pod) => Fate::Goes,
        Some(_) => Fate::Stays,
    }
}

/// What a claim needs, by how many of its consumers stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Steps {
    /// The status is written: with the consumers that stay,
    status: bool,
    /// and without the allocation.
    deallocate: bool,
    /// The finalizer goes.
    finalizer: bool,
    /// It was made for a pod that will not run.
    delete: bool,
}

fn steps(claim: &Claim, stay: usize, pod: impl Fn(&str) -> Option<Arc<Pod>>) -> Steps {
    let m = &claim.metadata;
    let kept = m.finalizers.iter().any(|f| f == FINALIZER);
    let allocated = claim.status.allocation.is_some();
    let fewer = stay < claim.status.reserved_for.len();
    let unused = stay == 0;
    let release = unused && kept && (fewer || m.is_deleting());
    let owner = m
        .controller()
        .filter(|o| o.api_version == "v1" && o.kind == "Pod");
    // One that the cache does not have may only be too new; the garbage collector sees to it.
    let idle = |uid: &str, pod: Arc<Pod>| pod.metadata.uid != uid || is_done(&pod);
    Steps {
        status: fewer || release && allocated,
        deallocate: release,
        finalizer: release || fewer && kept && !allocated,
        delete: unused && owner.is_some_and(|o| pod(&o.name).is_some_and(|p| idle(&o.uid, p))),
    }
}

/// Why something has to be looked at again.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Client(#[from] client::Error),
    #[error("{0}")]
    Claim(String),
}

/// Names of claims that were made and that the cache does not show, by the pod's UID and entry.
type Made = Mutex<HashMap<(String, String), String>>;

fn lock(made: &Made) -> MutexGuard<'_, HashMap<(String, String), String>> {
    made.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The pod and the entry that a claim was made for.
fn made_for(claim: &Claim) -> Option<(String, String)> {
    let owner = claim.metadata.controller()?;
    let entry = claim.metadata.annotations.get(ENTRY)?;
    (owner.api_version == "v1" && owner.kind == "Pod").then(|| (owner.uid.clone(), entry.clone()))
}

struct Controller {
    ctx: Context,
    pods: Store<Pod>,
    claims: Store<Claim>,
    templates: Store<Template>,
    made: Arc<Made>,
}

#[derive(Clone)]
struct Queues {
    pods: WorkQueue<ObjectKey>,
    claims: WorkQueue<ObjectKey>,
}

impl Queues {
    fn pod(&self, pod: &Pod, deleted: bool, claims: &Store<Claim>) {
        let ns = pod.metadata.namespace.as_str();
        let extended = &pod.status.extended_resource_claim_status;
        if pod.spec.resource_claims.is_empty() && extended.is_none() {
            return;
        }
        if deleted || is_done(pod) {
            let told = Told::of(pod);
            for entry in &pod.spec.resource_claims {
                if let Known::Name(name, _) = told.known(entry) {
                    self.claims.add(ObjectKey::new(ns, name));
                }
            }
            if let Some(e) = extended {
                self.claims
                    .add(ObjectKey::new(ns, e.resource_claim_name.as_str()));
            }
        }
        if !deleted && needs_work(pod, |name| claims.get(ns, name)) {
            self.pods.add(ObjectKey::of(pod));
        }
    }
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let pods = ctx.informer::<Pod>(&PODS);
    let claims = ctx.informer::<Claim>(&RESOURCE_CLAIMS);
    let templates = ctx.informer::<Template>(&RESOURCE_CLAIM_TEMPLATES);
    pods.store().add_index(BY_CLAIM, |p: &Pod| {
        if p.spec.resource_claims.is_empty() {
            return Vec::new();
        }
        let told = Told::of(p);
        let names = p
            .spec
            .resource_claims
            .iter()
            .filter_map(|e| match told.known(e) {
                Known::Name(name, _) => Some(format!("{}/{name}", p.metadata.namespace)),
                _ => None,
            });
        names.collect::<HashSet<_>>().into_iter().collect()
    });
    pods.store().add_index(BY_TEMPLATE, |p: &Pod| {
        let names = p.spec.resource_claims.iter();
        let names = names.filter_map(|e| e.resource_claim_template_name.as_ref());
        let keys = names.map(|name| format!("{}/{name}", p.metadata.namespace));
        keys.collect::<HashSet<_>>().into_iter().collect()
    });
    claims.store().add_index(BY_POD, |c: &Claim| {
        made_for(c).map(|(uid, _)| uid).into_iter().collect()
    });
    let queues = Queues {
        pods: ctx.queue("resource_claim_pods"),
        claims: ctx.queue("resource_claim"),
    };
    let made: Arc<Made> = Arc::default();
    let (q, store, noted) = (queues.clone(), claims.store(), made.clone());
    pods.on_change(move |change| {
        let pod = change.object();
        let deleted = matches!(change, Change::Deleted(_));
        if deleted && !pod.spec.resource_claims.is_empty() {
            lock(&noted).retain(|(uid, _), _| *uid != pod.metadata.uid);
        }
        q.pod(pod, deleted, &store);
    });
    let (q, store, own, noted) = (queues.clone(), pods.store(), claims.store(), made.clone());
    claims.on_change(move |change| {
        let claim = change.object();
        let key = ObjectKey::of(&**claim);
        if let (Change::Added(_), Some(of)) = (&change, made_for(claim)) {
            lock(&noted).remove(&of);
        }
        for pod in store.by_index(BY_CLAIM, &key.to_string()) {
            q.pod(&pod, false, &own);
        }
        if !matches!(change, Change::Deleted(_)) {
            q.claims.add(key);
        }
    });
    let (q, store, own) = (queues.clone(), pods.store(), claims.store());
    templates.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            let key = ObjectKey::of(&**change.object()).to_string();
            for pod in store.by_index(BY_TEMPLATE, &key) {
                q.pod(&pod, false, &own);
            }
        }
    });
    let it = Arc::new(Controller {
        pods: pods.store(),
        claims: claims.store(),
        templates: templates.store(),
        made,
        ctx: ctx.clone(),
    });
    let workers = ctx.config.concurrent("resourceclaim", 50);
    let own = it.clone();
    ctx.run(queues.pods, workers, move |key| {
        let it = own.clone();
        async move { it.sync_pod(&key).await }
    });
    ctx.run(queues.claims, workers, move |key| {
        let it = it.clone();
        async move { it.sync_claim(&key).await }
    });
}

impl Controller {
    async fn sync_pod(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(pod) = self.pods.get_key(key).filter(|p| !p.metadata.is_deleting()) else {
            return Ok(None);
        };
        let mut new = BTreeMap::new();
        let (told, mut made) = (Told::of(&pod), 0);
        let owned: HashMap<String, String> = self
            .claims
            .by_index(BY_POD, &pod.metadata.uid)
            .iter()
            .filter_map(|c| Some((made_for(c)?.1, c.metadata.name.clone())))
            .collect();
        for entry in &pod.spec.resource_claims {
            let done = self.entry(&pod, &told, &owned, entry, &mut made).await;
            match done {
                Ok(name) => new.extend(name.map(|n| (entry.name.clone(), n))),
                Err(error) => {
                    let message = format!("PodResourceClaim {}: {error}", entry.name);
                    let pod = ObjectReference::of(&PODS, &*pod);
                    let reason = "FailedResourceClaimCreation";
                    self.ctx
                        .recorder
                        .event(pod, EventType::Warning, reason, message);
                    return Err(error);
                }
            }
        }
        if !new.is_empty() {
            let object = statuses(&pod, &new);
            self.tell(key, object).await?;
        }
        if made > BURST {
            return Ok(Some(AGAIN));
        }
        let claim = |name: &str| self.claims.get(&key.namespace, name);
        let reserve = to_reserve(&pod, claim).map_err(Error::Claim)?;
        for claim in reserve {
            self.reserve(&claim, &pod).await?;
        }
        Ok(None)
    }

    /// Sees to one entry of a pod. The name of its claim, if the pod does not say it. `made` counts the claims that would be
    /// made; no more than a burst are.
    async fn entry(
        &self,
        pod: &Pod,
        told: &Told<'_>,
        owned: &HashMap<String, String>,
        entry: &PodClaim,
        made: &mut usize,
    ) -> Result<Option<String>, Error> {
        let ns = pod.metadata.namespace.as_str();
        let id = (pod.metadata.uid.clone(), entry.name.clone());
        let noted = || lock(&self.made).get(&id).cloned();
        let known = |name: &str| owned.get(name).cloned().or_else(noted);
        let claim = |name: &str| self.claims.get(ns, name);
        let template = match need(pod, told, entry, claim, known).map_err(Error::Claim)? {
            Need::Nothing => return Ok(None),
            Need::Found(name) => return Ok(Some(name)),
            Need::Make(template) => template,
        };
        *made += 1;
        if *made > BURST {
            return Ok(None);
        }
        let Some(found) = self.templates.get(ns, &template) else {
            return Err(Error::Claim(format!(
                "resource claim template {template:?}: resourceclaimtemplate.resource.k8s.io {template:?} not found"
            )));
        };
        let api = self.ctx.client.namespaced(&RESOURCE_CLAIMS, ns);
        let made = api
            .create::<client::view::MetaView, _>(&body(pod, &entry.name, &found))
            .await;
        let made = made.map_err(|e| Error::Claim(format!("create ResourceClaim : {e}")))?;
        let name = made.metadata.name;
        let mut noted = lock(&self.made);
        if self.claims.get(ns, &name).is_none() {
            noted.insert(id, name.clone());
        }
        Ok(Some(name))
    }

    async fn tell(&self, key: &ObjectKey, object: Value) -> Result<(), client::Error> {
        let api = self.ctx.client.namespaced(&PODS, &key.namespace);
        let told = apply_status(&api, &key.name, MANAGER, object).await;
        match told {
            Err(e) if !e.is_not_found() => Err(e),
            _ => Ok(()),
        }
    }

    /// The claim as the apiserver has it, if the cache has it so.
    async fn live(&self, claim: &Claim) -> Result<Option<Value>, client::Error> {
        let m = &claim.metadata;
        let api = self.ctx.client.namespaced(&RESOURCE_CLAIMS, &m.namespace);
        match api.get_value(&m.name).await {
            Ok(live) => {
                let version = live
                    .pointer("/metadata/resourceVersion")
                    .and_then(Value::as_str);
                let current = version == Some(m.resource_version.as_str());
                Ok(Some(live).filter(|_| current))
            }
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn reserve(&self, claim: &Claim, pod: &Pod) -> Result<(), client::Error> {
        let Some(mut live) = self.live(claim).await? else {
            return Ok(());
        };
        let consumer =
            json!({"resource": "pods", "name": pod.metadata.name, "uid": pod.metadata.uid});
        if let Some(status) = live.get_mut("status").and_then(Value::as_object_mut) {
            let list = status.entry("reservedFor").or_insert(json!([]));
            if let Some(list) = list.as_array_mut() {
                list.push(consumer);
            }
        }
        let api = self
            .ctx
            .client
            .namespaced(&RESOURCE_CLAIMS, &claim.metadata.namespace);
        let name = &claim.metadata.name;
        api.update_subresource::<serde::de::IgnoredAny, _>(name, "status", &live)
            .await
            .map(drop)
    }

    /// UIDs of the consumers that stay.
    async fn staying(&self, claim: &Claim) -> Result<HashSet<String>, client::Error> {
        let ns = claim.metadata.namespace.as_str();
        let api = self.ctx.client.namespaced(&PODS, ns);
        let mut stay = HashSet::new();
        for consumer in &claim.status.reserved_for {
            let stays = match fate(consumer, |name| self.pods.get(ns, name)) {
                Fate::Stays => true,
                Fate::Goes => false,
                Fate::Doubtful => {
                    match api
                        .get_metadata::<client::view::MetaView>(&consumer.name)
                        .await
                    {
                        Ok(pod) => pod.metadata.uid == consumer.uid,
                        Err(e) if e.is_not_found() => false,
                        Err(e) => return Err(e),
                    }
                }
            };
            if stays {
                stay.insert(consumer.uid.clone());
            }
        }
        Ok(stay)
    }

    async fn sync_claim(&self, key: &ObjectKey) -> Result<Option<Duration>, client::Error> {
        let Some(claim) = self.claims.get_key(key) else {
            return Ok(None);
        };
        let stay = self.staying(&claim).await?;
        let of = |c: &&Consumer| stay.contains(&c.uid);
        let left = claim.status.reserved_for.iter().filter(of).count();
        let steps = steps(&claim, left, |name| self.pods.get(&key.namespace, name));
        let api = self.ctx.client.namespaced(&RESOURCE_CLAIMS, &key.namespace);
        if steps.status || steps.finalizer {
            let Some(mut live) = self.live(&claim).await? else {
                return Ok(None);
            };
            if steps.status {
                release(&mut live, &stay, steps.deallocate);
                let written = api.update_subresource::<Value, _>(&key.name, "status", &live);
                live = match written.await {
                    Ok(live) => live,
                    Err(e) if e.is_not_found() => return Ok(None),
                    Err(e) => return Err(e),
                };
            }
            if steps.finalizer {
                let list = live
                    .pointer_mut("/metadata/finalizers")
                    .and_then(Value::as_array_mut);
                if let Some(list) = list {
                    list.retain(|f| f != FINALIZER);
                }
                let written = api
                    .update::<serde::de::IgnoredAny, _>(&key.name, &live)
                    .await;
                match written {
                    Err(e) if !e.is_not_found() => return Err(e),
                    _ => {}
                }
            }
        }
        if steps.delete {
            let only = DeleteOptions::uid(claim.metadata.uid.as_str());
            match api.delete(&key.name, &only).await {
                Err(e) if !e.is_not_found() && !e.is_conflict() => return Err(e),
                _ => {}
            }
        }
        Ok(None)
    }
}

/// Takes the consumers out that do not stay, and the allocation.
fn release(claim: &mut Value, stay: &HashSet<String>, deallocate: bool) {
    let Some(status) = claim.get_mut("status").and_then(Value::as_object_mut) else {
        return;
    };
    if let Some(list) = status.get_mut("reservedFor").and_then(Value::as_array_mut) {
        let stays = |c: &Value| {
            c.get("uid")
                .and_then(Value::as_str)
                .is_some_and(|u| stay.contains(u))
        };
        list.retain(stays);
    }
    if deallocate {
        status.remove("allocation");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    /// A pod with the entry `e` of the template `t`.
    fn pod(spec: Value, status: Value) -> Pod {
        let mut o = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec, "status": status});
        if o["spec"].get("resourceClaims").is_none() {
            o["spec"]["resourceClaims"] = json!([{"name": "e", "resourceClaimTemplateName": "t"}]);
        }
        object(o)
    }

    fn claim(metadata: Value, status: Value) -> Claim {
        let mut o = json!({"metadata": metadata, "status": status});
        o["metadata"]["name"] = "c".into();
        o["metadata"]["namespace"] = "ns".into();
        object(o)
    }

    fn owner(uid: &str) -> Value {
        json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": true}])
    }

    fn named() -> Value {
        json!({"resourceClaimStatuses": [{"name": "e", "resourceClaimName": "c"}]})
    }

    #[test]
    fn a_pod_gets_the_claims_that_it_asks_for() {
        let own = || claim(json!({"ownerReferences": owner("u")}), json!({}));
        let other = || claim(json!({"ownerReferences": owner("before")}), json!({}));
        let by_name = json!({"resourceClaims": [{"name": "e", "resourceClaimName": "c"}]});
        let make = || Ok(Need::Make("t".into()));
        for (name, spec, status, found, made, want) in [
            ("nothing yet", json!({}), json!({}), None, None, make()),
            ("made, but not told", json!({}), json!({}), None, Some("m"), Ok(Need::Found("m".into()))),
            ("told", json!({}), named(), Some(own()), None, Ok(Need::Nothing)),
            ("told and lost", json!({}), named(), None, None, make()),
            ("told, and the cache lags", json!({}), named(), None, Some("c"), Ok(Need::Found("c".into()))),
            ("another pod's", json!({}), named(), Some(other()), None, make()),
            ("not needed", json!({}), json!({"resourceClaimStatuses": [{"name": "e"}]}), None, None, Ok(Need::Nothing)),
            ("another entry's", json!({}), json!({"resourceClaimStatuses": [{"name": "x", "resourceClaimName": "c"}]}), None, None, make()),
            ("by name", by_name.clone(), json!({}), Some(other()), None, Ok(Need::Nothing)),
            ("by name, and not there", by_name, json!({}), None, None, Ok(Need::Nothing)),
            ("neither", json!({"resourceClaims": [{"name": "e"}]}), json!({}), None, None,
                Err("checking for claim before creating it: pod \"ns/p\", spec.resourceClaim \"e\": none of the supported fields are set".to_owned())),
        ] {
            let (p, found) = (pod(spec, status), found.map(Arc::new));
            let got = need(&p, &Told::of(&p), &p.spec.resource_claims[0], |n| found.clone().filter(|_| n == "c"), |_| made.map(str::to_owned));
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn a_claim_is_made_as_its_template_says() {
        let template: Template = object(json!({"metadata": {"name": "t"}, "spec": {
            "metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}, "spec": {"devices": {"requests": [{"name": "r"}]}}}}));
        assert_eq!(
            body(&pod(json!({}), json!({})), "e", &template),
            json!({
                "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
                "metadata": {"generateName": "p-e-", "namespace": "ns", "labels": {"a": "b"}, "annotations": {"c": "d", ENTRY: "e"},
                    "ownerReferences": owner("u")},
                "spec": {"devices": {"requests": [{"name": "r"}]}},
            })
        );
        let (long, short) = ("p".repeat(253), "e".repeat(63));
        for (pod, entry, want) in [
            (long.as_str(), "e", 56 + 1),
            ("p", short.as_str(), 1 + 54),
            (long.as_str(), short.as_str(), 45 + 1 + 11),
            (&long[..54], "e", 57),
        ] {
            let got = prefix(pod, entry);
            assert_eq!(got.len(), want, "{got}");
            assert!(got.contains('-'));
        }
    }

    #[test]
    fn a_pod_is_told_all_its_claims() {
        let p = pod(
            json!({"resourceClaims": [{"name": "a", "resourceClaimTemplateName": "t"}, {"name": "b", "resourceClaimTemplateName": "t"},
                {"name": "c", "resourceClaimTemplateName": "t"}, {"name": "d", "resourceClaimName": "x"}, {"name": "e", "resourceClaimTemplateName": "t"}]}),
            json!({"resourceClaimStatuses": [{"name": "a", "resourceClaimName": "a1"}, {"name": "b"}, {"name": "e", "resourceClaimName": "e1"}]}),
        );
        let new = [
            ("c".to_owned(), "c1".to_owned()),
            ("e".to_owned(), "e2".to_owned()),
        ]
        .into();
        assert_eq!(
            statuses(&p, &new)["status"]["resourceClaimStatuses"],
            json!([
            {"name": "a", "resourceClaimName": "a1"}, {"name": "b"}, {"name": "c", "resourceClaimName": "c1"}, {"name": "e", "resourceClaimName": "e2"}])
        );
    }

    #[test]
    fn pods_that_are_bound_are_added() {
        let bound = json!({"nodeName": "n"});
        let of = |uid: &str, status: Value| claim(json!({"ownerReferences": owner(uid)}), status);
        let consumer = json!([{"resource": "pods", "name": "p", "uid": "u"}]);
        for (name, spec, status, found, want, work) in [
            (
                "not bound",
                json!({}),
                named(),
                Some(of("u", json!({"allocation": {}}))),
                Ok(0),
                false,
            ),
            (
                "bound",
                bound.clone(),
                named(),
                Some(of("u", json!({"allocation": {}}))),
                Ok(1),
                true,
            ),
            (
                "added already",
                bound.clone(),
                named(),
                Some(of("u", json!({"allocation": {}, "reservedFor": consumer}))),
                Ok(0),
                false,
            ),
            (
                "not allocated",
                bound.clone(),
                named(),
                Some(of("u", json!({}))),
                Ok(0),
                false,
            ),
            ("not there", bound.clone(), named(), None, Ok(0), true),
            ("not told", bound.clone(), json!({}), None, Ok(0), true),
            (
                "another pod's",
                bound,
                named(),
                Some(of("before", json!({"allocation": {}}))),
                Err(
                    "ResourceClaim ns/c was not created for Pod ns/p (Pod is not owner)".to_owned(),
                ),
                false,
            ),
        ] {
            let (p, found) = (pod(spec, status), found.map(Arc::new));
            let look = |_: &str| found.clone();
            assert_eq!(to_reserve(&p, look).map(|l| l.len()), want, "{name}");
            assert_eq!(needs_work(&p, look), work, "{name}");
        }
        let mut deleted = pod(json!({}), json!({}));
        deleted.metadata.deletion_timestamp = Some(client::Time::UNIX_EPOCH);
        assert!(!needs_work(&deleted, |_| None));
        let other = pod(
            json!({"resourceClaims": [{"name": "e", "resourceClaimName": "c"}]}),
            json!({}),
        );
        assert!(!needs_work(&other, |_| None), "its user makes it");
    }

    #[test]
    fn consumers_stay_until_they_are_surely_gone() {
        let (running, ended) = (
            pod(json!({"nodeName": "n"}), json!({})),
            pod(json!({"nodeName": "n"}), json!({"phase": "Failed"})),
        );
        let with = |spec: Value| {
            let mut p = pod(spec, json!({}));
            p.metadata.deletion_timestamp = Some(client::Time::UNIX_EPOCH);
            p
        };
        let (ending, unbound) = (with(json!({"nodeName": "n"})), with(json!({})));
        let of_pod = |uid: &str| Consumer {
            resource: "pods".into(),
            name: "p".into(),
            uid: uid.into(),
            ..Consumer::default()
        };
        let group = Consumer {
            api_group: "scheduling.k8s.io".into(),
            resource: "podgroups".into(),
            ..of_pod("u")
        };
        for (name, consumer, found, want) in [
            ("running", of_pod("u"), Some(&running), Fate::Stays),
            ("ended", of_pod("u"), Some(&ended), Fate::Goes),
            (
                "another of its name",
                of_pod("before"),
                Some(&running),
                Fate::Goes,
            ),
            ("ending on a node", of_pod("u"), Some(&ending), Fate::Stays),
            (
                "ending before it had one",
                of_pod("u"),
                Some(&unbound),
                Fate::Goes,
            ),
            ("not in the cache", of_pod("u"), None, Fate::Doubtful),
            ("something else", group, None, Fate::Stays),
        ] {
            assert_eq!(
                fate(&consumer, |_| found.cloned().map(Arc::new)),
                want,
                "{name}"
            );
        }
    }

    #[test]
    fn claims_that_nobody_uses_are_given_up() {
        let ended = Arc::new(pod(json!({"nodeName": "n"}), json!({"phase": "Succeeded"})));
        let running = Arc::new(pod(json!({"nodeName": "n"}), json!({})));
        let two = json!([{"resource": "pods", "name": "p", "uid": "u"}, {"resource": "pods", "name": "q", "uid": "v"}]);
        let kept = json!({"finalizers": [FINALIZER]});
        let gone = json!({"finalizers": [FINALIZER], "deletionTimestamp": "2020-01-01T00:00:00Z"});
        let generated = json!({"ownerReferences": owner("u"), "finalizers": [FINALIZER]});
        let s = |status: bool, deallocate: bool, finalizer: bool, delete: bool| Steps {
            status,
            deallocate,
            finalizer,
            delete,
        };
        for (name, metadata, status, stay, pod, want) in [
            (
                "all stay",
                kept.clone(),
                json!({"allocation": {}, "reservedFor": two}),
                2,
                None,
                s(false, false, false, false),
            ),
            (
                "one goes",
                kept.clone(),
                json!({"allocation": {}, "reservedFor": two}),
                1,
                None,
                s(true, false, false, false),
            ),
            (
                "all go",
                kept.clone(),
                json!({"allocation": {}, "reservedFor": two}),
                0,
                None,
                s(true, true, true, false),
            ),
            (
                "all go, allocated by something else",
                json!({}),
                json!({"allocation": {}, "reservedFor": two}),
                0,
                None,
                s(true, false, false, false),
            ),
            (
                "unused, and allocated all the same",
                kept.clone(),
                json!({"allocation": {}}),
                0,
                None,
                s(false, false, false, false),
            ),
            (
                "deleted, and allocated",
                gone.clone(),
                json!({"allocation": {}}),
                0,
                None,
                s(true, true, true, false),
            ),
            (
                "deleted",
                gone.clone(),
                json!({}),
                0,
                None,
                s(false, true, true, false),
            ),
            (
                "deleted, and in use",
                gone,
                json!({"allocation": {}, "reservedFor": two}),
                1,
                None,
                s(true, false, false, false),
            ),
            (
                "made for a pod that ended",
                generated.clone(),
                json!({"allocation": {}, "reservedFor": two}),
                0,
                Some(&ended),
                s(true, true, true, true),
            ),
            (
                "made for a pod that runs",
                generated.clone(),
                json!({}),
                0,
                Some(&running),
                s(false, false, false, false),
            ),
            (
                "made for a pod that is not seen",
                generated,
                json!({}),
                0,
                None,
                s(false, false, false, false),
            ),
            (
                "made for one that was replaced",
                json!({"ownerReferences": owner("before")}),
                json!({}),
                0,
                Some(&running),
                s(false, false, false, true),
            ),
        ] {
            assert_eq!(
                steps(&claim(metadata, status), stay, |_| pod.cloned()),
                want,
                "{name}"
            );
        }
        let mut o = json!({"status": {"allocation": {}, "reservedFor": two}});
        release(&mut o, &["v".to_owned()].into(), false);
        assert_eq!(
            o,
            json!({"status": {"allocation": {}, "reservedFor": [{"resource": "pods", "name": "q", "uid": "v"}]}})
        );
        release(&mut o, &HashSet::new(), true);
        assert_eq!(o, json!({"status": {"reservedFor": []}}));
    }
}
