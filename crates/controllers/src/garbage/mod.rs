//! garbage-collector-controller: deletes objects whose owners are all gone, and carries out foreground and orphaning
//! deletion, for every resource there is.
//!
//! It watches the metadata of all resources that can be listed, watched and deleted, and follows new custom resources by
//! the changes of CustomResourceDefinitions and APIServices. Invariants: nothing is deleted on the word of a cache: the
//! object and each missing owner are read from the apiserver first, and the deletion names the version read; a resource
//! whose server is dead holds nothing else up.

mod graph;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use client::resource::Resource;
use client::{
    Change, DeleteOptions, Informer, ListOptions, ObjectKey, ObjectMeta, OwnerReference, Patch,
    Propagation, Selector, WorkQueue, views,
};
use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::Context;
use crate::context::Failures;
use crate::discovery::{ApiResource, discover};
use graph::{FOREGROUND, Graph, Identity, ORPHAN, Work};

const DELETE: &str = "delete";
const ORPHANING: &str = "orphan";
const RESYNC: &str = "resync";
/// How long the first pass waits for the watches; a dead server must not hold up the rest.
const FIRST_SYNC: Duration = Duration::from_secs(30);
/// After a change of CustomResourceDefinitions, so that a new one is served when it is asked for.
const RESYNC_AFTER: Duration = Duration::from_secs(1);
/// The owners of an object that names more are not asked for one by one but listed: one object with thousands would keep
/// the workers, and what they may ask the apiserver, from all others.
const FEW: usize = 16;
/// Objects of a page of such a list.
const PAGE: u32 = 200;
/// Events that one change may bring of owners in other namespaces.
const TOLD: usize = 16;

/// The metadata that matters here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Object {
    metadata: Meta,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    name: String,
    namespace: String,
    uid: String,
    resource_version: String,
    deletion_timestamp: Option<client::Time>,
    finalizers: Vec<String>,
    owner_references: Vec<OwnerReference>,
}

views!(Object);

impl From<&Meta> for ObjectMeta {
    fn from(m: &Meta) -> ObjectMeta {
        ObjectMeta {
            name: m.name.clone(),
            namespace: m.namespace.clone(),
            uid: m.uid.clone(),
            deletion_timestamp: m.deletion_timestamp,
            finalizers: m.finalizers.clone(),
            owner_references: m.owner_references.clone(),
            ..ObjectMeta::default()
        }
    }
}

/// Why an object could not be judged.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Client(#[from] client::Error),
    #[error("no resource is known for {kind} in {api_version}")]
    UnknownKind { api_version: String, kind: String },
    /// Where to look is unknown, so nothing is known of it, now or later.
    #[error("an object without a namespace names a {kind}, which is in one, as its owner")]
    NamespacedOwner { kind: String },
}

struct Monitor {
    stop: CancellationToken,
    informer: Informer<Object>,
}

struct Collector {
    ctx: Context,
    graph: Mutex<Graph>,
    queue: WorkQueue<ObjectKey>,
    monitors: Mutex<HashMap<Resource, Monitor>>,
    /// All resources, by API version and kind.
    kinds: Mutex<HashMap<(String, String), Resource>>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let queue = ctx.queue("garbage_collector");
    let it = Arc::new(Collector {
        ctx: ctx.clone(),
        graph: Mutex::default(),
        queue: queue.clone(),
        monitors: Mutex::default(),
        kinds: Mutex::default(),
    });
    let workers = ctx.config.concurrent("gc", 20);
    let starting = ctx.clone();
    ctx.spawn(async move {
        let mut wait = Duration::from_secs(1);
        while let Err(error) = it.resync().await {
            tracing::info!(%error, "resources cannot be discovered yet");
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(30));
        }
        let informers: Vec<Informer<Object>> = lock(&it.monitors)
            .values()
            .map(|m| m.informer.clone())
            .collect();
        let synced = futures::future::join_all(informers.iter().map(Informer::synced));
        if tokio::time::timeout(FIRST_SYNC, synced).await.is_err() {
            tracing::warn!(
                "some resources cannot be watched; the garbage collector goes on without them"
            );
        }
        let worker = it.clone();
        starting.run(queue, workers, move |key| {
            let it = worker.clone();
            async move { it.work(&key).await }
        });
    });
}

/// What the event says of an owner that is in another namespace.
fn wrong_namespace(owner: &OwnerReference, namespace: &str) -> String {
    format!(
        "ownerRef [{}/{}, namespace: {namespace}, name: {}, uid: {}] does not exist in namespace {namespace:?}",
        owner.api_version, owner.kind, owner.name, owner.uid
    )
}

fn is_watched(r: &ApiResource) -> bool {
    let events =
        r.resource.plural == "events" && matches!(&*r.resource.group, "" | "events.k8s.io");
    !events && ["list", "watch", "delete"].iter().all(|v| r.can(v))
}

impl Collector {
    fn enqueue(&self, work: Vec<Work>) {
        let mut told = 0;
        for w in work {
            match w {
                Work::Delete(uid) => self.queue.add(ObjectKey::new(DELETE, uid)),
                Work::Orphan(uid) => self.queue.add(ObjectKey::new(ORPHANING, uid)),
                // More events would tell no more.
                Work::WrongNamespace { .. } if told == TOLD => {}
                Work::WrongNamespace { dependent, owner } => {
                    told += 1;
                    self.tell_wrong_namespace(&dependent, &owner)
                }
            }
        }
    }

    fn tell_wrong_namespace(&self, dependent: &str, owner: &str) {
        let graph = lock(&self.graph);
        let Some(node) = graph.get(dependent) else {
            return;
        };
        let Some(o) = node.owners.iter().find(|o| o.uid == owner) else {
            return;
        };
        let at = node.identity.clone();
        let message = wrong_namespace(o, &at.namespace);
        drop(graph);
        let object = client::ObjectReference {
            kind: at.kind,
            namespace: at.namespace,
            name: at.name,
            uid: dependent.to_owned(),
            api_version: at.api_version,
            ..client::ObjectReference::default()
        };
        self.ctx.recorder.event(
            object,
            client::EventType::Warning,
            "OwnerRefInvalidNamespace",
            message,
        );
    }

    async fn work(self: &Arc<Self>, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        match key.namespace.as_str() {
            DELETE => match self.attempt_to_delete(&key.name).await {
                Err(error @ Error::NamespacedOwner { .. }) => {
                    tracing::info!(uid = %key.name, %error, "not collected")
                }
                other => other?,
            },
            ORPHANING => self.orphan_dependents(&key.name).await?,
            _ => self.resync().await?,
        }
        Ok(None)
    }

    /// Watches what is new and stops watching what is gone.
    async fn resync(self: &Arc<Self>) -> Result<(), Error> {
        let found = discover(&self.ctx.client).await?;
        let dead: HashSet<String> = found.failed.into_iter().collect();
        {
            let mut kinds = lock(&self.kinds);
            kinds.retain(|(api_version, _), _| dead.contains(api_version));
            for r in &found.resources {
                let key = (r.resource.api_version(), r.resource.kind.to_string());
                kinds.entry(key).or_insert_with(|| r.resource.clone());
            }
        }
        let wanted: HashSet<Resource> = found
            .resources
            .into_iter()
            .filter(is_watched)
            .map(|r| r.resource)
            .collect();
        let mut monitors = lock(&self.monitors);
        monitors.retain(|r, m| {
            let stays = wanted.contains(r) || dead.contains(&r.api_version());
            if !stays {
                m.stop.cancel();
            }
            stays
        });
        for resource in wanted {
            monitors
                .entry(resource.clone())
                .or_insert_with(|| self.monitor(resource));
        }
        Ok(())
    }

    fn monitor(self: &Arc<Self>, resource: Resource) -> Monitor {
        let stop = self.ctx.shutdown.child_token();
        let client = self.ctx.informers.client().clone();
        let (informer, work) =
            Informer::<Object>::new(client, resource.clone(), Selector::metadata(), stop.clone());
        let it = self.clone();
        let (api_version, kind) = (resource.api_version(), resource.kind.to_string());
        let brings_resources = matches!(kind.as_str(), "CustomResourceDefinition" | "APIService");
        informer.on_change(move |change| {
            if brings_resources {
                it.queue.add_after(ObjectKey::new(RESYNC, ""), RESYNC_AFTER);
            }
            let meta = &change.object().metadata;
            let work = if matches!(change, Change::Deleted(_)) {
                lock(&it.graph).remove(&meta.uid)
            } else {
                let identity = Identity {
                    api_version: api_version.clone(),
                    kind: kind.clone(),
                    namespace: meta.namespace.clone(),
                    name: meta.name.clone(),
                };
                lock(&it.graph).observe(identity, &ObjectMeta::from(meta))
            };
            it.enqueue(work);
        });
        self.ctx.tasks.spawn(work);
        Monitor { stop, informer }
    }

    async fn resource(self: &Arc<Self>, api_version: &str, kind: &str) -> Result<Resource, Error> {
        let key = (api_version.to_owned(), kind.to_owned());
        if let Some(r) = lock(&self.kinds).get(&key) {
            return Ok(r.clone());
        }
        // An older version of a kind that discovery prefers in another: any version of the group reaches the object.
        let group = api_version.split_once('/').map_or("", |g| g.0);
        let found = lock(&self.kinds)
            .values()
            .find(|r| r.group == group && r.kind == kind)
            .cloned();
        found.ok_or(Error::UnknownKind {
            api_version: key.0,
            kind: key.1,
        })
    }

    /// The resource of an object, and the namespace it is in.
    async fn place<'a>(self: &Arc<Self>, at: &'a Identity) -> Result<(Resource, &'a str), Error> {
        let resource = self.resource(&at.api_version, &at.kind).await?;
        match (resource.namespaced, at.namespace.as_str()) {
            (false, _) => Ok((resource, "")),
            (true, "") => Err(Error::NamespacedOwner {
                kind: at.kind.clone(),
            }),
            (true, namespace) => Ok((resource, namespace)),
        }
    }

    /// The owners of an object that exist.
    async fn owners<'a>(
        self: &Arc<Self>,
        of: &'a Meta,
    ) -> Result<HashMap<&'a OwnerReference, Meta>, Error> {
        let mut found = HashMap::new();
        if of.owner_references.len() <= FEW {
            for owner in &of.owner_references {
                let at = Identity {
                    api_version: owner.api_version.clone(),
                    kind: owner.kind.clone(),
                    namespace: of.namespace.clone(),
                    name: owner.name.clone(),
                };
                if let Some((_, o)) = self.read(&at, &owner.uid).await? {
                    found.insert(owner, o);
                }
            }
            return Ok(found);
        }
        // By kind and UID: a UID may be named more than once, and by other names.
        let mut kinds: HashMap<_, HashMap<&str, Vec<&OwnerReference>>> = HashMap::new();
        for owner in &of.owner_references {
            let kind = kinds.entry((&owner.api_version, &owner.kind)).or_default();
            kind.entry(&owner.uid).or_default().push(owner);
        }
        for ((api_version, kind), mut wanted) in kinds {
            let at = Identity {
                api_version: api_version.clone(),
                kind: kind.clone(),
                namespace: of.namespace.clone(),
                name: String::new(),
            };
            let (resource, namespace) = self.place(&at).await?;
            let api = self.ctx.client.namespaced(&resource, namespace);
            let mut page = ListOptions {
                limit: PAGE,
                ..ListOptions::default()
            };
            loop {
                let listed = api.list_metadata::<Object>(&page).await?;
                for o in listed.items.into_iter().map(|o| o.metadata) {
                    let named = wanted.remove(o.uid.as_str()).unwrap_or_default();
                    let meant = named.into_iter().filter(|owner| owner.name == o.name);
                    found.extend(meant.map(|owner| (owner, o.clone())));
                }
                if listed.continue_.is_empty() || wanted.is_empty() {
                    break;
                }
                page.continue_ = listed.continue_;
            }
        }
        Ok(found)
    }

    /// Reads an object's metadata; `None` when there is none of that UID.
    async fn read(
        self: &Arc<Self>,
        at: &Identity,
        uid: &str,
    ) -> Result<Option<(Resource, Meta)>, Error> {
        let (resource, namespace) = self.place(at).await?;
        let api = self.ctx.client.namespaced(&resource, namespace);
        match api.get_metadata::<Object>(&at.name).await {
            Ok(o) if o.metadata.uid == uid => Ok(Some((resource, o.metadata))),
            Ok(_) => Ok(None),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The apiserver says that it does not exist.
    fn gone(&self, uid: &str) {
        let work = {
            let mut graph = lock(&self.graph);
            // What was seen is removed when its deletion is seen.
            match graph.get(uid) {
                Some(n) if !n.observed => graph.remove(uid),
                _ => Vec::new(),
            }
        };
        self.enqueue(work);
    }

    async fn attempt_to_delete(self: &Arc<Self>, uid: &str) -> Result<(), Error> {
        let Some(node) = lock(&self.graph).get(uid).cloned() else {
            return Ok(());
        };
        if node.deleting && !node.foreground || lock(&self.graph).is_held(uid) {
            return Ok(());
        }
        let Some((resource, latest)) = self.read(&node.identity, uid).await? else {
            self.gone(uid);
            return Ok(());
        };
        if !node.observed {
            return Ok(());
        }
        if node.waits() {
            let blocking = lock(&self.graph).blocking(uid);
            if blocking.is_empty() {
                return self.remove_finalizer(&resource, &latest, FOREGROUND).await;
            }
            let waiting = lock(&self.graph)
                .get(uid)
                .map(|n| n.dependents.clone())
                .unwrap_or_default();
            for d in waiting {
                if lock(&self.graph).get(&d).is_some_and(|n| !n.waits()) {
                    self.queue.add(ObjectKey::new(DELETE, d));
                }
            }
            return Ok(());
        }
        if latest.owner_references.is_empty() {
            return Ok(());
        }
        let owners = self.owners(&latest).await?;
        let (mut solid, mut let_go, mut waiting) = (0, HashSet::new(), false);
        for owner in &latest.owner_references {
            match owners.get(owner) {
                None => {
                    let_go.insert(owner.uid.clone());
                }
                Some(o)
                    if o.deletion_timestamp.is_some()
                        && owner.block_owner_deletion == Some(true)
                        && o.finalizers.iter().any(|f| f == FOREGROUND) =>
                {
                    waiting = true;
                    let_go.insert(owner.uid.clone());
                }
                Some(_) => solid += 1,
            }
        }
        if solid > 0 {
            if let_go.is_empty() {
                return Ok(());
            }
            let owners: Vec<&OwnerReference> = latest
                .owner_references
                .iter()
                .filter(|o| !let_go.contains(&o.uid))
                .collect();
            return self
                .patch_metadata(&resource, &latest, json!({"ownerReferences": owners}))
                .await;
        }
        let propagation = if waiting && !node.dependents.is_empty() {
            // A cycle of objects that all wait for each other is cut here.
            let cycle = {
                let graph = lock(&self.graph);
                node.dependents
                    .iter()
                    .any(|d| graph.get(d).is_some_and(graph::Node::waits))
            };
            if cycle
                && latest
                    .owner_references
                    .iter()
                    .any(|o| o.block_owner_deletion == Some(true))
            {
                let owners: Vec<OwnerReference> = latest
                    .owner_references
                    .iter()
                    .map(|o| OwnerReference {
                        block_owner_deletion: Some(false),
                        ..o.clone()
                    })
                    .collect();
                self.patch_metadata(&resource, &latest, json!({"ownerReferences": owners}))
                    .await?;
                return Ok(());
            }
            Propagation::Foreground
        } else if latest.finalizers.iter().any(|f| f == ORPHAN) {
            Propagation::Orphan
        } else if latest.finalizers.iter().any(|f| f == FOREGROUND) {
            Propagation::Foreground
        } else {
            Propagation::Background
        };
        let options = DeleteOptions {
            propagation: Some(propagation),
            uid: Some(latest.uid.clone()),
            resource_version: Some(latest.resource_version.clone()),
            ..DeleteOptions::default()
        };
        tracing::info!(kind = %resource.kind, namespace = %latest.namespace, name = %latest.name, ?propagation, "Deleting item");
        match self
            .ctx
            .client
            .namespaced(&resource, &latest.namespace)
            .delete(&latest.name, &options)
            .await
        {
            Ok(()) => Ok(()),
            Err(e) if e.is_not_found() => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    async fn orphan_dependents(self: &Arc<Self>, uid: &str) -> Result<(), Error> {
        let Some(owner) = lock(&self.graph).get(uid).cloned() else {
            return Ok(());
        };
        let mut failures = Failures::default();
        for d in &owner.dependents {
            failures.note(self.orphan(d, uid).await);
        }
        failures.end()?;
        match self.read(&owner.identity, uid).await? {
            Some((resource, latest)) => self.remove_finalizer(&resource, &latest, ORPHAN).await,
            None => Ok(()),
        }
    }

    /// Takes the owner out of what it owns.
    async fn orphan(self: &Arc<Self>, dependent: &str, owner: &str) -> Result<(), Error> {
        let Some(node) = lock(&self.graph).get(dependent).cloned() else {
            return Ok(());
        };
        let Some((resource, latest)) = self.read(&node.identity, dependent).await? else {
            return Ok(());
        };
        let owners: Vec<&OwnerReference> = latest
            .owner_references
            .iter()
            .filter(|o| o.uid != owner)
            .collect();
        if owners.len() == latest.owner_references.len() {
            return Ok(());
        }
        self.patch_metadata(&resource, &latest, json!({"ownerReferences": owners}))
            .await
    }

    async fn remove_finalizer(
        &self,
        resource: &Resource,
        latest: &Meta,
        finalizer: &str,
    ) -> Result<(), Error> {
        let left: Vec<&String> = latest
            .finalizers
            .iter()
            .filter(|f| *f != finalizer)
            .collect();
        if left.len() == latest.finalizers.len() {
            return Ok(());
        }
        self.patch_metadata(resource, latest, json!({"finalizers": left}))
            .await
    }

    /// Fails with a conflict when the object is no longer what it was when read.
    async fn patch_metadata(
        &self,
        resource: &Resource,
        latest: &Meta,
        mut metadata: serde_json::Value,
    ) -> Result<(), Error> {
        if let Some(m) = metadata.as_object_mut() {
            m.insert("uid".into(), latest.uid.as_str().into());
            m.insert(
                "resourceVersion".into(),
                latest.resource_version.as_str().into(),
            );
        }
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let api = self.ctx.client.namespaced(resource, &latest.namespace);
        match api
            .patch::<serde::de::IgnoredAny>(&latest.name, &patch)
            .await
        {
            Ok(_) => Ok(()),
            Err(e) if e.is_not_found() => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_names_the_owner_where_it_was_looked_for() {
        let owner = OwnerReference {
            api_version: "v1".into(),
            kind: "Pod".into(),
            name: "p".into(),
            uid: "u".into(),
            ..OwnerReference::default()
        };
        assert_eq!(
            wrong_namespace(&owner, "ns1"),
            "ownerRef [v1/Pod, namespace: ns1, name: p, uid: u] does not exist in namespace \"ns1\""
        );
    }
}
