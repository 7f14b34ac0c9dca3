//! What controllers share that keep objects for an owner: which objects are its own, and the making and deleting of pods.
//!
//! Invariants: an orphan is adopted only after the apiserver itself has said that the owner is still there and is not being
//! deleted; creations start slowly (1, 2, 4, …) and end with the first failure, so that a quota or an admission plugin that
//! refuses them is not flooded; each creation and deletion is expected before it is asked for, and an expectation that will
//! not come true is taken back. Upstream: `ControllerRefManager`, `PodControl`, `slowStartBatch`.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{
    Change, DeleteOptions, EventType, ObjectKey, ObjectMeta, ObjectReference, Patch, Resource,
    Store, View,
};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use crate::context::{BY_CONTROLLER, Context, Failures};
use crate::expectations::Expectations;
use crate::views::{Pod, ReplicaSet};

/// Most pods that one pass creates or deletes for an owner.
pub const BURST: usize = 500;

/// Most things that one owner has in the making at the same time: each holds a template as large as an object may be.
const AT_ONCE: usize = 32;

/// Does something for many, some at once and the rest after them. What came of it, in order.
pub fn each<'a, F>(work: impl Iterator<Item = F> + Send + 'a) -> BoxFuture<'a, Vec<F::Output>>
where
    F: Future<Output: Send> + Send + 'a,
{
    let mut work: Box<dyn Iterator<Item = BoxFuture<'a, F::Output>> + Send + 'a> =
        Box::new(work.map(futures::FutureExt::boxed));
    async move {
        let mut out = Vec::new();
        loop {
            let some: Vec<_> = work.by_ref().take(AT_ONCE).collect();
            if some.is_empty() {
                return out;
            }
            out.extend(futures::future::join_all(some).await);
        }
    }
    .boxed()
}

/// An object that can have a controller.
pub trait Child: View {
    /// Its metadata.
    fn meta(&self) -> &ObjectMeta;
}

impl Child for Pod {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Child for ReplicaSet {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

/// `metadata.ownerReferences` entry that makes `owner` the controller of an object.
pub fn controller_reference(resource: &Resource, owner: &ObjectMeta) -> Value {
    json!({
        "apiVersion": resource.api_version(), "kind": resource.kind,
        "name": owner.name, "uid": owner.uid,
        "controller": true, "blockOwnerDeletion": true,
    })
}

/// The owner of a kind that controls an object, as long as the cache has this very owner: a pod of another one of its name
/// must not meet its expectations.
pub fn controller_key<O: View>(
    store: &Store<O>,
    kind: &str,
    meta: &ObjectMeta,
) -> Option<ObjectKey> {
    let owner = meta.controller().filter(|o| o.kind == kind)?;
    let object = store.get(&meta.namespace, &owner.name)?;
    (object.uid() == owner.uid).then(|| ObjectKey::of(&*object))
}

/// Tells the expectations what the cache shows of a pod. Whose turn it is: the owner that lost the pod and the one that has
/// it; `owner_of` is [`controller_key`].
pub fn observe(
    expectations: &Expectations,
    owner_of: impl Fn(&ObjectMeta) -> Option<ObjectKey>,
    change: Change<'_, Pod>,
) -> (Option<ObjectKey>, Option<ObjectKey>) {
    let pod = change.object();
    let owner = owner_of(&pod.metadata);
    let lost = match change {
        Change::Updated { old, .. } => {
            owner_of(&old.metadata).filter(|o| Some(o) != owner.as_ref())
        }
        _ => None,
    };
    if let Some(key) = &owner {
        match change {
            Change::Added(_) if !pod.metadata.is_deleting() => expectations.created(key),
            Change::Updated { .. } if !pod.metadata.is_deleting() => {}
            _ => expectations.deleted(key, &pod.metadata.uid),
        }
    }
    (lost, owner)
}

/// The owners that may want an object which nobody controls, where that is news: it is new, has other labels than before, or
/// had a controller.
pub fn wanted_by<V: Child, O: View>(
    owners: &Store<O>,
    change: Change<'_, V>,
    selects: impl Fn(&O, &BTreeMap<String, String>) -> bool,
) -> Vec<ObjectKey> {
    let m = change.object().meta();
    let old = change.old().map(|old| old.meta());
    let is_news = old.is_none_or(|old| old.labels != m.labels || old.controller().is_some());
    if m.controller().is_some() || matches!(change, Change::Deleted(_)) || !is_news {
        return Vec::new();
    }
    let all = owners.list_namespace(&m.namespace);
    let wanting = all.iter().filter(|o| selects(o, &m.labels));
    wanting.map(|o| ObjectKey::of(&**o)).collect()
}

/// A pod as its owner's template wants it.
pub fn pod_from_template(template: &Value, owner_name: &str, owner: Value) -> Value {
    let mut metadata =
        json!({"generateName": generate_name(owner_name), "ownerReferences": [owner]});
    for field in ["labels", "annotations", "finalizers"] {
        if let (Some(v), Some(m)) = (
            template.pointer(&format!("/metadata/{field}")),
            metadata.as_object_mut(),
        ) {
            m.insert(field.into(), v.clone());
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template.get("spec")})
}

/// Long names are cut where the apiserver appends five characters.
fn generate_name(owner: &str) -> String {
    let cut: String = owner.chars().take(63 - 6).collect();
    format!("{cut}-")
}

/// Puts `status` in; false if it is there already.
pub fn set_status(object: &mut Value, status: &Value) -> bool {
    let Some(object) = object.as_object_mut() else {
        return false;
    };
    if object.get("status") == Some(status) {
        return false;
    }
    object.insert("status".into(), status.clone());
    true
}

/// Gone, changed or refused as invalid means that someone else was faster: false.
fn settle<T>(result: Result<T, client::Error>) -> Result<bool, client::Error> {
    match result {
        Ok(_) => Ok(true),
        Err(e) if e.is_not_found() || e.is_invalid() => Ok(false),
        Err(e) => Err(e),
    }
}

/// An owner and what its controller may use.
#[derive(Clone, Copy)]
pub struct Family<'a> {
    /// The controller's.
    pub ctx: &'a Context,
    /// Of the owner.
    pub resource: &'static Resource,
    /// Of the owner.
    pub owner: &'a ObjectMeta,
    /// A finalizer that adopted objects get and released ones lose.
    pub finalizer: Option<&'static str>,
}

impl Family<'_> {
    /// For events about the owner.
    pub fn reference(&self) -> ObjectReference {
        ObjectReference {
            kind: self.resource.kind.to_string(),
            namespace: self.owner.namespace.clone(),
            name: self.owner.name.clone(),
            uid: self.owner.uid.clone(),
            api_version: self.resource.api_version(),
            resource_version: self.owner.resource_version.clone(),
            field_path: String::new(),
        }
    }

    /// Tells of something that happened to the owner.
    pub fn event(&self, kind: EventType, reason: &str, message: String) {
        self.ctx
            .recorder
            .event(self.reference(), kind, reason, message);
    }

    /// The entry in its objects' `ownerReferences`.
    pub fn controller_reference(&self) -> Value {
        controller_reference(self.resource, self.owner)
    }

    /// Whether the apiserver still has this very owner and nobody deletes it.
    async fn may_adopt(&self) -> Result<bool, client::Error> {
        let api = self
            .ctx
            .client
            .namespaced(self.resource, &self.owner.namespace);
        match api
            .get_metadata::<client::view::MetaView>(&self.owner.name)
            .await
        {
            Ok(o) => Ok(o.metadata.uid == self.owner.uid && !o.metadata.is_deleting()),
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The objects that are the owner's own, those among them that it takes over now. It lets go of those that `matches` no
    /// longer holds for. The store needs the index [`BY_CONTROLLER`].
    ///
    /// # Errors
    /// The first refusal, after every object had its turn.
    pub async fn claim<V: Child>(
        &self,
        resource: &Resource,
        store: &Store<V>,
        matches: impl Fn(&V) -> bool,
        adoptable: impl Fn(&V) -> bool,
    ) -> Result<Vec<Arc<V>>, client::Error> {
        let api = self.ctx.client.namespaced(resource, &self.owner.namespace);
        let mut failures = Failures::default();
        let mut own = Vec::new();
        for object in store.by_index(BY_CONTROLLER, &self.owner.uid) {
            if matches(&object) {
                own.push(object);
                continue;
            }
            if self.owner.is_deleting() {
                continue;
            }
            let mut metadata = json!({
                "uid": object.uid(),
                "ownerReferences": [{"$patch": "delete", "uid": self.owner.uid}],
            });
            if let (Some(f), Some(m)) = (self.finalizer, metadata.as_object_mut()) {
                m.insert("$deleteFromPrimitiveList/finalizers".into(), json!([f]));
            }
            let patch = Patch::Strategic(json!({"metadata": metadata}));
            let patched = api
                .patch::<serde::de::IgnoredAny>(object.name(), &patch)
                .await;
            failures.note(settle(patched).map(|_| ()));
        }
        let orphans = store.by_index(BY_CONTROLLER, &format!("-{}", self.owner.namespace));
        let mut wanted = orphans
            .into_iter()
            .filter(|o| {
                !self.owner.is_deleting() && !o.meta().is_deleting() && adoptable(o) && matches(o)
            })
            .peekable();
        if wanted.peek().is_some() && self.may_adopt().await? {
            for object in wanted {
                let mut metadata = json!({
                    "uid": object.uid(),
                    "ownerReferences": [self.controller_reference()],
                });
                if let (Some(f), Some(m)) = (self.finalizer, metadata.as_object_mut()) {
                    m.insert("finalizers".into(), json!([f]));
                }
                let patch = Patch::Strategic(json!({"metadata": metadata}));
                let patched = api
                    .patch::<serde::de::IgnoredAny>(object.name(), &patch)
                    .await;
                let adopted = settle(patched);
                if let Ok(true) = adopted {
                    own.push(object);
                }
                failures.note(adopted.map(|_| ()));
            }
        }
        failures.end().map(|()| own)
    }

    /// Deletes a pod and tells of it; false if it was gone, or another pod has its name.
    ///
    /// # Errors
    /// The refusal.
    pub async fn delete_pod(&self, name: &str, uid: &str) -> Result<bool, client::Error> {
        let api = self
            .ctx
            .client
            .namespaced(&client::resource::PODS, &self.owner.namespace);
        match api.delete(name, &DeleteOptions::uid(uid)).await {
            Ok(()) => {
                let message = format!("Deleted pod: {name}");
                self.event(EventType::Normal, "SuccessfulDelete", message);
                Ok(true)
            }
            Err(e) if e.is_not_found() || e.is_conflict() => Ok(false),
            Err(e) => {
                let message = format!("Error deleting: {e}");
                self.event(EventType::Warning, "FailedDelete", message);
                Err(e)
            }
        }
    }

    /// Deletes pods (name and UID), all at once.
    ///
    /// # Errors
    /// The first refusal, after every pod had its turn; pods that are gone are none.
    pub async fn delete_pods(
        &self,
        expectations: &Expectations,
        key: &ObjectKey,
        gone: &[(String, String)],
    ) -> Result<(), client::Error> {
        if gone.is_empty() {
            return Ok(());
        }
        expectations.expect_deletions(key, gone.iter().map(|(_, uid)| uid.clone()));
        let deletions = gone.iter().map(|(name, uid)| async move {
            let result = self.delete_pod(name, uid).await;
            if !matches!(result, Ok(true)) {
                expectations.deleted(key, uid);
            }
            result.map(|_| ())
        });
        let mut failures = Failures::default();
        for result in each(deletions).await {
            failures.note(result);
        }
        failures.end()
    }

    /// Creates `count` pods, slowly at first; each is made when its turn comes. How many there are now; the rest is not tried after a failure. Where the namespace is
    /// going away nothing is reported.
    ///
    /// # Errors
    /// The failure, beside what was made before it.
    pub async fn create_pods(
        &self,
        expectations: &Expectations,
        key: &ObjectKey,
        count: usize,
        make: impl Fn(usize) -> Value + Send + Sync,
    ) -> (usize, Result<(), client::Error>) {
        if count == 0 {
            return (0, Ok(()));
        }
        expectations.expect_creations(key, count);
        let api = self
            .ctx
            .client
            .namespaced(&client::resource::PODS, &self.owner.namespace);
        let api = &api;
        let (mut tried, mut batch, mut made) = (0, 1, 0);
        while tried < count {
            let end = count.min(tried.saturating_add(batch));
            let mut failed = None;
            let creations = (tried..end).map(|n| {
                let pod = make(n);
                async move { api.create::<client::view::MetaView, _>(&pod).await }
            });
            for result in each(creations).await {
                match result {
                    Ok(p) => {
                        made += 1;
                        let message = format!("Created pod: {}", p.metadata.name);
                        self.event(EventType::Normal, "SuccessfulCreate", message);
                    }
                    Err(e) => {
                        expectations.created(key);
                        if !e.is_namespace_terminating() {
                            let message = format!("Error creating: {e}");
                            self.event(EventType::Warning, "FailedCreate", message);
                            failed = Some(e);
                        }
                    }
                }
            }
            tried = end;
            batch *= 2;
            if let Some(e) = failed {
                (tried..count).for_each(|_| expectations.created(key));
                return (made, Err(e));
            }
        }
        (made, Ok(()))
    }
}
