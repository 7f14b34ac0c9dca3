//! statefulset-controller: pods with names, volumes and an order.
//!
//! Invariants: there is never a second pod for an ordinal; in order (`OrderedReady`), one pod at a time is made, replaced or
//! taken away, and only while all before it are available; a claim is never deleted here, it goes with the owner that the
//! retention policy gives it; a claim that an earlier pod takes along is not given to the next one.
//!
//! As upstream, a set in order whose pods do not get ready stays as it is when its template is mended: the first of them
//! has to be deleted by hand. The metrics of `MaxUnavailableStatefulSet` are not there.

mod decide;
mod identity;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use client::resource::{CONTROLLER_REVISIONS, PERSISTENT_VOLUME_CLAIMS, PODS, STATEFUL_SETS};
use client::view::MetaView;
use client::{Change, DeleteOptions, EventType, ObjectKey, OwnerReference, Store, Time, WorkQueue};
use serde_json::Value;

pub use decide::{Claims, Plan, Revision, Step, World, complete, decide, differs};
pub use identity::PodId;

use crate::children::{Family, controller_key, each, set_status, wanted_by};
use crate::context::{BY_CONTROLLER, Context, Failures, controller_index, rewrite};
use crate::expectations::Written;
use crate::history::{Found, HASH, History, data, find, hash, means, next_number, template, text};
use crate::replicaset::next_available;
use crate::views::{
    ControllerRevision, PersistentVolumeClaim, Pod, StatefulSet, StatefulSetStatus,
};

/// Why a set could not be brought further.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The apiserver.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// A claim or a revision; the text is upstream's.
    #[error("{0}")]
    Object(String),
}

struct StatefulSets {
    ctx: Context,
    sets: Store<StatefulSet>,
    pods: Store<Pod>,
    claims: Store<PersistentVolumeClaim>,
    revisions: Store<ControllerRevision>,
    queue: WorkQueue<ObjectKey>,
    written: Written,
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let sets = ctx.informer::<StatefulSet>(&STATEFUL_SETS);
    let pods = ctx.informer::<Pod>(&PODS);
    let claims = ctx.informer::<PersistentVolumeClaim>(&PERSISTENT_VOLUME_CLAIMS);
    let revisions = ctx.informer::<ControllerRevision>(&CONTROLLER_REVISIONS);
    pods.store()
        .add_index(BY_CONTROLLER, |p: &Pod| controller_index(&p.metadata));
    revisions
        .store()
        .add_index(BY_CONTROLLER, |r: &ControllerRevision| {
            controller_index(&r.metadata)
        });
    let queue = ctx.queue("statefulset");
    let c = Arc::new(StatefulSets {
        sets: sets.store(),
        pods: pods.store(),
        claims: claims.store(),
        revisions: revisions.store(),
        queue: queue.clone(),
        written: Written::default(),
        ctx: ctx.clone(),
    });
    let q = queue.clone();
    sets.on_change(move |change| q.add(ObjectKey::of(&**change.object())));
    let it = c.clone();
    pods.on_change(move |change| it.pod_changed(change));
    let it = c.clone();
    claims.on_change(move |change| {
        // A pod may wait for it to go, or for another one in its place.
        if let Change::Deleted(claim) = change {
            let m = &claim.metadata;
            let keys = identity::sets_of_claim(&m.name)
                .map(|set| ObjectKey::new(m.namespace.as_str(), set))
                .filter(|key| it.sets.get_key(key).is_some());
            keys.for_each(|key| it.queue.add(key));
        }
    });
    let workers = ctx.config.concurrent("statefulset", 5);
    ctx.run(queue, workers, move |key| {
        let c = c.clone();
        async move { c.sync(&key).await }
    });
}

/// Whether a pod is the set's by selector and name.
fn is_member(set: &StatefulSet, pod: &Pod) -> bool {
    set.spec.selector.matches(&pod.metadata.labels)
        && identity::parent(&pod.metadata.name).is_some_and(|(name, _)| name == set.metadata.name)
}

/// The revisions that can go, oldest first: nothing is, was or shall be at one of them, and there are more than the limit.
fn surplus<'a>(
    set: &StatefulSet,
    revisions: &'a [Arc<ControllerRevision>],
    live: &HashSet<String>,
) -> impl Iterator<Item = &'a Arc<ControllerRevision>> {
    let limit = usize::try_from(set.spec.revision_history_limit.unwrap_or(10));
    let dead: Vec<_> = revisions
        .iter()
        .filter(|r| !live.contains(&r.metadata.name))
        .collect();
    let n = limit.map_or(0, |limit| dead.len().saturating_sub(limit));
    dead.into_iter().take(n)
}

impl StatefulSets {
    fn pod_changed(&self, change: Change<'_, Pod>) {
        let pod = change.object();
        let m = &pod.metadata;
        let owner = controller_key(&self.sets, "StatefulSet", m);
        let old = change.old();
        let before = old.and_then(|old| controller_key(&self.sets, "StatefulSet", &old.metadata));
        if let Some(key) = &owner {
            let version = match change {
                Change::Deleted(_) => None,
                _ => Some(m.resource_version.as_str()),
            };
            self.written.seen(key, &m.name, version);
        }
        let wanting = wanted_by(&self.sets, change, |set, labels| {
            let selector = &set.spec.selector;
            !selector.is_empty() && selector.matches(labels)
        });
        let keys = before.into_iter().chain(owner).chain(wanting);
        keys.for_each(|key| self.queue.add(key));
    }

    async fn sync(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(set) = self.sets.get_key(key) else {
            self.written.forget(key);
            return Ok(None);
        };
        let version = |name: &str| {
            let pod = self.pods.get(&key.namespace, name)?;
            Some(pod.metadata.resource_version.clone())
        };
        if let Some(wait) = self.written.lag(key, version) {
            // What is waited for brings this back sooner.
            return Ok(Some(wait));
        }
        if set.spec.selector.is_empty() {
            return Ok(None);
        }
        let family = Family {
            ctx: &self.ctx,
            resource: &STATEFUL_SETS,
            owner: &set.metadata,
            finalizer: None,
        };
        let history = History {
            family: &family,
            store: &self.revisions,
        };
        let revisions = history.list(&set.spec.selector, false).await?;
        let pods = family
            .claim(&PODS, &self.pods, |p| is_member(&set, p), |_| true)
            .await?;
        let mut collisions = set.status.collision_count.unwrap_or(0);
        let update = revise(&set, &history, &revisions, &mut collisions).await?;
        let current = revisions
            .iter()
            .find(|r| r.metadata.name == set.status.current_revision)
            .unwrap_or(&update);
        let now = Time::now();
        let done = self
            .advance(&family, &set, &pods, (current, &update), collisions, now)
            .await;
        let at = |p: &Arc<Pod>| p.metadata.labels.get(identity::REVISION).cloned();
        let mut live: HashSet<String> = pods.iter().filter_map(at).collect();
        live.extend([&current, &&update].map(|r| r.metadata.name.clone()));
        let truncated = history.delete(surplus(&set, &revisions, &live)).await;
        let (status, more) = done?;
        truncated?;
        if more {
            return Ok(Some(Duration::from_secs(1)));
        }
        let min = set.spec.min_ready_seconds;
        let waits = min > 0 && status.ready_replicas != status.available_replicas;
        Ok(waits.then(|| {
            let all = Duration::from_secs(u64::try_from(min).unwrap_or(0));
            next_available(min, &pods, now).unwrap_or(all)
        }))
    }

    /// Decides, acts and tells. The status, and whether there is more to do.
    async fn advance(
        &self,
        family: &Family<'_>,
        set: &StatefulSet,
        pods: &[Arc<Pod>],
        (current, update): (&ControllerRevision, &ControllerRevision),
        collisions: i32,
        now: Time,
    ) -> Result<(StatefulSetStatus, bool), Error> {
        let (old, new) = (template_of(current)?, template_of(update)?);
        let claim = |name: &str| self.claims.get(&set.metadata.namespace, name);
        let features = &self.ctx.config.features;
        let current = Revision {
            name: &current.metadata.name,
            template: &old,
        };
        let update = Revision {
            name: &update.metadata.name,
            template: &new,
        };
        let plan = decide(&World {
            set,
            pods,
            claim: &claim,
            current,
            update,
            collisions,
            max_unavailable: features.enabled("MaxUnavailableStatefulSet"),
            now,
        });
        let acting = Acting {
            family,
            set,
            current,
            update,
            claims: &self.claims,
            written: &self.written,
        };
        let (status, done) = acting.carry_out(&plan).await;
        let status = complete(set, status);
        let told = acting.tell(&status).await;
        done?;
        told?;
        Ok((status, plan.more))
    }
}

fn template_of(revision: &ControllerRevision) -> Result<Value, Error> {
    template(&revision.data).ok_or_else(|| {
        let name = &revision.metadata.name;
        Error::Object(format!("revision {name} holds no template"))
    })
}

/// The revision of the set's template: found, given the next number, or made.
async fn revise(
    set: &StatefulSet,
    history: &History<'_>,
    revisions: &[Arc<ControllerRevision>],
    collisions: &mut i32,
) -> Result<Arc<ControllerRevision>, Error> {
    let wanted = &set.spec.template;
    let printed = text(data(wanted));
    let features = &history.family.ctx.config.features;
    let semantic = features.enabled("StatefulSetSemanticRevisionComparison");
    let same = |r: &ControllerRevision| semantic && means(&r.data, &STATEFUL_SETS.kind, wanted);
    let number = next_number(revisions);
    match find(revisions, &printed, same) {
        Found::Newest(r) => Ok(r),
        Found::Older(r) => {
            history.renumber(&r, number).await?;
            Ok(r)
        }
        Found::New => {
            let hash = hash(&printed, Some(*collisions));
            let new = history.revision(wanted, (HASH, &hash), number);
            Ok(Arc::new(history.create_named(&new, collisions).await?))
        }
    }
}

/// A set that is acted on.
struct Acting<'a> {
    family: &'a Family<'a>,
    set: &'a StatefulSet,
    current: Revision<'a>,
    update: Revision<'a>,
    claims: &'a Store<PersistentVolumeClaim>,
    written: &'a Written,
}

impl Acting<'_> {
    fn namespace(&self) -> &str {
        &self.set.metadata.namespace
    }

    /// Tells how something went that was done to a pod.
    fn event(&self, verb: &str, pod: &PodId, error: Option<&Error>) {
        let (pod, set) = (&pod.name, &self.set.metadata.name);
        let said = format!("{verb} Pod {pod} in StatefulSet {set}");
        match error {
            None => self.family.event(
                EventType::Normal,
                &format!("Successful{verb}"),
                format!("{said} successful"),
            ),
            Some(error) => self.family.event(
                EventType::Warning,
                &format!("Failed{verb}"),
                format!("{said} failed error: {error}"),
            ),
        }
    }

    /// As [`Acting::event`], and passes it on.
    fn told<T>(&self, verb: &str, pod: &PodId, result: Result<T, Error>) -> Result<T, Error> {
        self.event(verb, pod, result.as_ref().err());
        result
    }

    /// As [`Acting::told`], but of failures only.
    fn failed<T>(&self, verb: &str, pod: &PodId, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &result {
            self.event(verb, pod, Some(error));
        }
        result
    }

    /// The status as far as the plan could be carried out.
    async fn carry_out(&self, plan: &Plan) -> (StatefulSetStatus, Result<(), Error>) {
        let mut status = plan.status.clone();
        for stage in &plan.stages {
            if let Err(e) = self.stage(stage, plan.parallel).await {
                return (status, Err(e));
            }
        }
        for pod in &plan.replaced {
            if let Err(e) = self.delete(pod).await {
                return (status, Err(e));
            }
            status.current_replicas -= 1;
        }
        (status, Ok(()))
    }

    /// One after the other until one fails; or at once, slowly at first, until some fail.
    async fn stage(&self, steps: &[Step], parallel: bool) -> Result<(), Error> {
        let (mut left, mut batch) = (steps, 1);
        while !left.is_empty() {
            let (now, later) = left.split_at(batch.min(left.len()));
            let mut failures = Failures::default();
            for result in each(now.iter().map(|s| self.step(s))).await {
                failures.note(result);
            }
            failures.end()?;
            left = later;
            if parallel {
                batch *= 2;
            }
        }
        Ok(())
    }

    async fn step(&self, step: &Step) -> Result<(), Error> {
        match step {
            Step::Create(id, kept, claims) => self.create(id, *kept, claims).await,
            Step::Delete(id) => self.delete(id).await,
            Step::Claims(id, claims) => {
                self.make_claims(id, claims).await?;
                self.failed("Update", id, self.own(id, claims).await)
            }
            Step::Mend(id, pod, claims) => {
                self.told("Update", id, self.mend(id, *pod, claims).await)
            }
            Step::Own(id, claims) => self.own(id, claims).await,
        }
    }

    async fn create(&self, id: &PodId, kept: bool, claims: &Claims) -> Result<(), Error> {
        self.failed("Create", id, self.make_claims(id, claims).await)?;
        let of = if kept { self.current } else { self.update };
        let Some(ordinal) = identity::ordinal(&id.name) else {
            return Ok(());
        };
        let pod = identity::pod(self.set, of.template, of.name, ordinal);
        let api = &self.family.ctx.client;
        let made = api
            .namespaced(&PODS, self.namespace())
            .create::<MetaView, _>(&pod)
            .await;
        match &made {
            Ok(made) => {
                let key = ObjectKey::of(self.set);
                let version = &made.metadata.resource_version;
                self.written.wrote(&key, &id.name, version);
            }
            // The cache will show it.
            Err(e) if e.is_already_exists() => return made.map(|_| ()).map_err(Error::from),
            Err(_) => {}
        }
        self.failed("Update", id, self.own(id, claims).await)?;
        self.told("Create", id, made.map(|_| ()).map_err(Error::from))
    }

    /// A pod that is gone, or whose name another has, is deleted.
    async fn delete(&self, id: &PodId) -> Result<(), Error> {
        let api = &self.family.ctx.client;
        let options = DeleteOptions::uid(id.uid.as_str());
        let deleted = api
            .namespaced(&PODS, self.namespace())
            .delete(&id.name, &options)
            .await;
        let deleted = match deleted {
            Err(e) if e.is_not_found() || e.is_conflict() => Ok(()),
            result => result.map_err(Error::from),
        };
        self.told("Delete", id, deleted)
    }

    async fn mend(&self, id: &PodId, pod: bool, claims: &Claims) -> Result<(), Error> {
        self.make_claims(id, claims).await?;
        self.own(id, claims).await?;
        let Some(ordinal) = identity::ordinal(&id.name).filter(|_| pod) else {
            return Ok(());
        };
        let api = &self.family.ctx.client;
        let api = api.namespaced(&PODS, self.namespace());
        let mended = rewrite(&api, &id.name, &id.uid, "", |pod| {
            let before = pod.clone();
            identity::mend(self.set, pod, ordinal);
            *pod != before
        });
        mended.await.map_err(Error::from)
    }

    /// Makes the claims that are missing; each has its turn.
    async fn make_claims(&self, pod: &PodId, claims: &Claims) -> Result<(), Error> {
        let api = &self.family.ctx.client;
        let api = api.namespaced(&PERSISTENT_VOLUME_CLAIMS, self.namespace());
        let set = &self.set.metadata.name;
        let mut errors = Vec::new();
        let all = identity::ordinal(&pod.name).map(|o| identity::claims(self.set, o));
        for (name, body) in all.into_iter().flatten() {
            if !claims.missing.contains(&name) {
                continue;
            }
            match api.create::<serde::de::IgnoredAny, _>(&body).await {
                Ok(_) => self.family.event(
                    EventType::Normal,
                    "SuccessfulCreate",
                    format!(
                        "Create Claim {name} Pod {} in StatefulSet {set} success",
                        pod.name
                    ),
                ),
                Err(e) => {
                    if !e.is_already_exists() {
                        let pod = &pod.name;
                        let message = format!(
                            "Create Claim {name} for Pod {pod} in StatefulSet {set} failed error: {e}"
                        );
                        self.family
                            .event(EventType::Warning, "FailedCreate", message);
                    }
                    errors.push(format!("failed to create PVC {name}: {e}"));
                }
            }
        }
        let going = claims.going.iter();
        errors.extend(going.map(|name| format!("pvc {name} is being deleted")));
        match errors.as_slice() {
            [] => Ok(()),
            [one] => Err(Error::Object(one.clone())),
            many => Err(Error::Object(format!("[{}]", many.join(", ")))),
        }
    }

    /// Gives claims the owners that the retention policy asks for.
    async fn own(&self, pod: &PodId, claims: &Claims) -> Result<(), Error> {
        for name in &claims.conflicts {
            let message = format!(
                "PersistentVolumeClaim {name} has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim"
            );
            self.family
                .event(EventType::Warning, "ConflictingController", message);
        }
        let api = &self.family.ctx.client;
        let api = api.namespaced(&PERSISTENT_VOLUME_CLAIMS, self.namespace());
        for name in &claims.owners {
            let Some(claim) = self.claims.get(self.namespace(), name) else {
                continue;
            };
            let owned = rewrite(&api, name, &claim.metadata.uid, "", |claim| {
                self.put_owners(claim, pod)
            });
            owned.await.map_err(|e| {
                Error::Object(format!(
                    "could not update claim {name} for delete policy ownerRefs: {e}"
                ))
            })?;
        }
        Ok(())
    }

    /// False where the owners are right, or cannot be read.
    fn put_owners(&self, claim: &mut Value, pod: &PodId) -> bool {
        let Some(m) = claim.get_mut("metadata").and_then(Value::as_object_mut) else {
            return false;
        };
        let there = m.get("ownerReferences").cloned();
        let Ok(owners) = serde_json::from_value::<Option<Vec<OwnerReference>>>(there.into()) else {
            return false;
        };
        let owners = owners.unwrap_or_default();
        if identity::owners_match(self.set, &owners, pod) {
            return false;
        }
        let owners = identity::owners(self.set, &owners, pod);
        let owners = serde_json::to_value(owners).unwrap_or_default();
        m.insert("ownerReferences".into(), owners);
        true
    }

    async fn tell(&self, status: &StatefulSetStatus) -> Result<(), client::Error> {
        if !differs(self.set, status) {
            return Ok(());
        }
        let m = &self.set.metadata;
        let api = &self.family.ctx.client;
        let api = api.namespaced(&STATEFUL_SETS, &m.namespace);
        let status = serde_json::to_value(status).unwrap_or_default();
        rewrite(&api, &m.name, &m.uid, "status", |object| {
            set_status(object, &status)
        })
        .await
    }
}
