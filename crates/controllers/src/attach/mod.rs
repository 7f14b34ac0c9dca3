//! persistentvolume-attach-detach-controller: volumes of drivers are attached to the nodes whose pods use them, by
//! VolumeAttachments that the drivers act on, and detached when no pod does.
//!
//! Invariants: a volume that a pod uses stays wanted until the pod is over or gone, whatever becomes of its claim; before a
//! volume is detached its node has been told, and the node's own word that it still uses the volume is taken, unless the node
//! has been not ready for six minutes or is said to be out of service; an exclusive volume goes to a second node only when no
//! node has it for certain. What is attached is taken over after a restart, from the nodes' status and the VolumeAttachments.
//!
//! Partial: volumes of drivers only. Volumes of kinds `fc` and `iscsi`, which upstream reports as attached without doing
//! anything, and those of former plugins that drivers serve now are left alone, and what nodes say of them is kept. The
//! metrics are not there.

pub mod decide;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use client::resource::{
    CSI_DRIVERS, NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, VOLUME_ATTACHMENTS,
};
use client::{
    Change, DeleteOptions, EventType, ObjectKey, ObjectMeta, ObjectReference, Patch, Store,
    WorkQueue, views,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Context;
use crate::children::each;
use crate::context::Failures;
use crate::ephemeral_volume::is_for;
use crate::storage_protection::{BY_CLAIM, claims, own_claim};
use crate::views::{
    ContainerStatus, Node, PersistentVolume, PersistentVolumeClaim, Pod, condition,
};
use decide::{
    Act, Look, NodeLook, PREFIX, Plan, Volume, VolumeAttachment, attachment_name, is_exclusive,
    parts, unique_name,
};

/// On nodes whose kubelet leaves attaching to this controller.
const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// Namespace of the queue's keys of nodes; those of volumes have none.
const NODE: &str = "node";

/// `storage.k8s.io/v1.CSIDriver`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CsiDriver {
    /// Of the object; its name is the driver's.
    pub metadata: ObjectMeta,
    /// What it is like.
    pub spec: CsiDriverSpec,
}

/// `storage.k8s.io/v1.CSIDriverSpec`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CsiDriverSpec {
    /// Whether its volumes are attached before they are mounted; they are when it does not say.
    pub attach_required: Option<bool>,
    /// Whether its volumes can be mounted with a label for all of their files.
    #[serde(rename = "seLinuxMount")]
    pub se_linux_mount: Option<bool>,
}

views!(CsiDriver);

/// What a pod uses.
#[derive(Debug, Default)]
struct Uses {
    uid: String,
    node: String,
    /// Names of volumes as nodes have them.
    volumes: BTreeSet<String>,
}

/// What the controller knows.
#[derive(Debug, Default)]
struct World {
    /// Whether what was there at the start is known.
    filled: bool,
    volumes: HashMap<String, Volume>,
    pods: HashMap<ObjectKey, Uses>,
    /// The volumes that are or may be on a node.
    on_node: BTreeMap<String, BTreeSet<String>>,
    /// The volumes, by the names of their attachments.
    by_attachment: HashMap<String, String>,
    /// Nodes whose status does not say what they have.
    unreported: BTreeSet<String>,
}

impl World {
    /// The volume of a name; made when it is not known.
    fn volume(&mut self, unique: &str) -> Option<&mut Volume> {
        let (driver, handle) = parts(unique)?;
        let volume = self.volumes.entry(unique.to_owned());
        Some(volume.or_insert_with(|| Volume::new(driver, handle)))
    }

    /// Does something to a volume, and keeps what else is known of where it is.
    fn with<T>(&mut self, unique: &str, act: impl FnOnce(&mut Volume) -> T) -> Option<T> {
        let volume = self.volumes.get_mut(unique)?;
        let before: Vec<String> = volume.places.keys().cloned().collect();
        let result = act(volume);
        for node in before.iter().filter(|n| !volume.places.contains_key(*n)) {
            if let Some(on) = self.on_node.get_mut(node) {
                on.remove(unique);
                if on.is_empty() {
                    self.on_node.remove(node);
                }
            }
            let name = attachment_name(&volume.driver, &volume.handle, node);
            self.by_attachment.remove(&name);
        }
        // The places are in order, so those that were there are found by their place.
        let mut known = before.iter().peekable();
        for node in volume.places.keys() {
            while known.next_if(|k| *k < node).is_some() {}
            if known.peek() == Some(&node) {
                continue;
            }
            let on = self.on_node.entry(node.clone()).or_default();
            on.insert(unique.to_owned());
            let name = attachment_name(&volume.driver, &volume.handle, node);
            self.by_attachment.insert(name, unique.to_owned());
        }
        if volume.is_forgotten() {
            self.volumes.remove(unique);
        }
        Some(result)
    }

    /// What a node has, as it is told.
    fn reported(&self, node: &str) -> Vec<&str> {
        let names = self.on_node.get(node).into_iter().flatten();
        let told = names.filter(|unique| {
            let volume = self.volumes.get(*unique);
            volume.is_some_and(|v| v.places.get(node).is_some_and(|p| p.reported))
        });
        told.map(String::as_str).collect()
    }

    /// Takes in what a node says it uses; the volumes of which that is news.
    fn in_use(&mut self, node: &str, used: &[String]) -> Vec<String> {
        let used: BTreeSet<&String> = used.iter().collect();
        let mut news = Vec::new();
        for unique in self.on_node.get(node).into_iter().flatten() {
            let Some(volume) = self.volumes.get_mut(unique) else {
                continue;
            };
            let Some(place) = volume.places.get_mut(node) else {
                continue;
            };
            let now = used.contains(unique);
            if std::mem::replace(&mut place.in_use, now) != now {
                news.push(unique.clone());
            }
        }
        news
    }

    /// A pod uses these volumes on a node, or nothing any more; the volumes of which that is news.
    fn uses(&mut self, key: &ObjectKey, now: Option<Uses>) -> BTreeSet<String> {
        let before = self.pods.remove(key).unwrap_or_default();
        let now = now.unwrap_or_default();
        let moved = (&before.uid, &before.node) != (&now.uid, &now.node);
        let mut news = BTreeSet::new();
        // What is used on goes from one use to the other without being forgotten.
        for unique in &now.volumes {
            if !moved && before.volumes.contains(unique) {
                continue;
            }
            if let Some(volume) = self.volume(unique) {
                let pods = volume.wanted.entry(now.node.clone()).or_default();
                pods.insert(key.clone(), now.uid.clone());
                news.insert(unique.clone());
            }
        }
        for unique in &before.volumes {
            if !moved && now.volumes.contains(unique) {
                continue;
            }
            self.with(unique, |volume| {
                let Some(pods) = volume.wanted.get_mut(&before.node) else {
                    return;
                };
                if pods.get(key) == Some(&before.uid) {
                    pods.remove(key);
                }
                if pods.is_empty() {
                    volume.wanted.remove(&before.node);
                }
            });
            news.insert(unique.clone());
        }
        if !now.volumes.is_empty() {
            self.pods.insert(key.clone(), now);
        }
        news
    }
}

struct Attacher {
    ctx: Context,
    pods: Store<Pod>,
    claims: Store<PersistentVolumeClaim>,
    volumes: Store<PersistentVolume>,
    nodes: Store<Node>,
    drivers: Store<CsiDriver>,
    attachments: Store<VolumeAttachment>,
    world: Mutex<World>,
    /// Held while a node is told what it has: a list that is older comes first.
    telling: tokio::sync::Mutex<()>,
    queue: WorkQueue<ObjectKey>,
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let pods = ctx.informer::<Pod>(&PODS);
    let all = ctx.informer::<PersistentVolumeClaim>(&PERSISTENT_VOLUME_CLAIMS);
    let volumes = ctx.informer::<PersistentVolume>(&PERSISTENT_VOLUMES);
    let nodes = ctx.informer::<Node>(&NODES);
    let drivers = ctx.informer::<CsiDriver>(&CSI_DRIVERS);
    let attachments = ctx.informer::<VolumeAttachment>(&VOLUME_ATTACHMENTS);
    pods.store().add_index(BY_CLAIM, |p: &Pod| {
        claims(p).map(|k| k.to_string()).collect()
    });
    pods.store()
        .add_index("node", |p: &Pod| vec![p.spec.node_name.clone()]);
    let queue = ctx.queue("attachdetach");
    let it = Arc::new(Attacher {
        pods: pods.store(),
        claims: all.store(),
        volumes: volumes.store(),
        nodes: nodes.store(),
        drivers: drivers.store(),
        attachments: attachments.store(),
        world: Mutex::default(),
        telling: tokio::sync::Mutex::default(),
        queue: queue.clone(),
        ctx: ctx.clone(),
    });
    let me = it.clone();
    pods.on_change(move |change| {
        let pod = change.object();
        if !pod.spec.claims.is_empty() {
            me.pod(&ObjectKey::of(&**pod));
        }
    });
    let me = it.clone();
    all.on_change(move |change| {
        let claim = change.object();
        if claim.status.phase == "Bound" && !matches!(change, Change::Deleted(_)) {
            me.pods_of(&ObjectKey::of(&**claim));
        }
    });
    let me = it.clone();
    volumes.on_change(move |change| {
        let volume = change.object();
        if volume.spec.csi.is_some()
            && let Some(r) = &volume.spec.claim_ref
            && change
                .old()
                .is_none_or(|o| o.spec.claim_ref.as_ref() != Some(r))
        {
            me.pods_of(&ObjectKey::new(r.namespace.as_str(), r.name.as_str()));
        }
    });
    let me = it.clone();
    nodes.on_change(move |change| me.node_changed(change));
    let me = it.clone();
    drivers.on_change(move |change| {
        let required = |d: &CsiDriver| d.spec.attach_required;
        if change.old().map(|d| required(d)) != Some(required(change.object())) {
            me.all_pods();
        }
    });
    let me = it.clone();
    attachments.on_change(move |change| {
        let name = &change.object().metadata.name;
        if let Some(unique) = me.lock().by_attachment.get(name) {
            me.queue.add(ObjectKey::new("", unique.as_str()));
        }
    });
    let me = it.clone();
    ctx.run(queue.clone(), 10, move |key| {
        let me = me.clone();
        async move {
            me.fill();
            match key.namespace.as_str() {
                NODE => me.report(&key.name).await.map(|()| None),
                _ => me.volume(&key.name).await,
            }
        }
    });
    // What was attached before has its turn although nothing changes.
    ctx.spawn(async move {
        it.ctx.informers.synced().await;
        it.fill();
    });
}

impl Attacher {
    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, volumes: impl IntoIterator<Item = String>) {
        for unique in volumes {
            self.queue.add(ObjectKey::new("", unique));
        }
    }

    /// Takes in what is there at the start, once.
    fn fill(&self) {
        let mut world = self.lock();
        if std::mem::replace(&mut world.filled, true) {
            return;
        }
        for node in self.nodes.list() {
            let (name, status) = (&node.metadata.name, &node.status);
            let used: BTreeSet<&String> = status.volumes_in_use.iter().collect();
            for attached in &status.volumes_attached {
                if world.volume(&attached.name).is_some() {
                    let in_use = used.contains(&attached.name);
                    world.with(&attached.name, |v| v.found_on(name, in_use));
                }
            }
        }
        for attachment in self.attachments.list() {
            let spec = &attachment.spec;
            let volume = spec.source.persistent_volume_name.as_deref();
            let volume = volume.and_then(|name| self.volumes.get("", name));
            let Some(csi) = volume.as_ref().and_then(|v| v.spec.csi.as_ref()) else {
                continue;
            };
            let unique = unique_name(&csi.driver, &csi.volume_handle);
            if let (Some(_), Some(volume)) = (world.volume(&unique), volume.as_ref()) {
                world.with(&unique, |v| {
                    describe(v, volume);
                    v.found_attachment(&spec.node_name);
                });
            }
        }
        for pod in self.pods.list() {
            if !pod.spec.claims.is_empty() {
                self.pod_of(&mut world, &ObjectKey::of(&*pod));
            }
        }
        let volumes: Vec<String> = world.volumes.keys().cloned().collect();
        drop(world);
        self.add(volumes);
    }

    fn pods_of(&self, claim: &ObjectKey) {
        for pod in self.pods.by_index(BY_CLAIM, &claim.to_string()) {
            self.pod(&ObjectKey::of(&*pod));
        }
    }

    fn all_pods(&self) {
        let all = self.pods.list();
        for pod in all.iter().filter(|p| !p.spec.claims.is_empty()) {
            self.pod(&ObjectKey::of(&**pod));
        }
    }

    fn pod(&self, key: &ObjectKey) {
        let mut world = self.lock();
        if world.filled {
            let news = self.pod_of(&mut world, key);
            drop(world);
            self.add(news);
        }
    }

    /// Takes in what a pod uses; the volumes of which that is news.
    fn pod_of(&self, world: &mut World, key: &ObjectKey) -> BTreeSet<String> {
        let pod = self.pods.get_key(key);
        let pod = pod.filter(|p| !p.spec.node_name.is_empty() && !is_over(p));
        let Some(pod) = pod else {
            return world.uses(key, None);
        };
        let mut now = Uses {
            uid: pod.metadata.uid.clone(),
            node: pod.spec.node_name.clone(),
            volumes: BTreeSet::new(),
        };
        let before = world.pods.get(key);
        if let Some(before) = before.filter(|b| b.uid == now.uid && b.node == now.node) {
            let kept = before.volumes.iter();
            let kept = kept.filter(|u| parts(u).is_some_and(|(driver, _)| self.attaches(driver)));
            now.volumes.extend(kept.cloned());
        }
        let node = self.nodes.get("", &now.node);
        if node.is_some_and(|n| n.metadata.annotations.contains_key(MANAGED)) {
            for volume in volumes_of(&pod, &self.claims, &self.volumes) {
                let Some(csi) = &volume.spec.csi else {
                    continue;
                };
                let unique = unique_name(&csi.driver, &csi.volume_handle);
                if self.attaches(&csi.driver)
                    && let Some(known) = world.volume(&unique)
                {
                    describe(known, &volume);
                    now.volumes.insert(unique);
                }
            }
        }
        world.uses(key, Some(now))
    }

    fn attaches(&self, driver: &str) -> bool {
        let driver = self.drivers.get("", driver);
        driver.is_none_or(|d| d.spec.attach_required != Some(false))
    }

    fn node_changed(&self, change: Change<'_, Node>) {
        let node = change.object();
        let name = &node.metadata.name;
        let mut world = self.lock();
        if !world.filled {
            return;
        }
        let news = world.in_use(name, &node.status.volumes_in_use);
        let same = |old: &Arc<Node>| {
            look_at(old) == look_at(node)
                && old.metadata.annotations.contains_key(MANAGED)
                    == node.metadata.annotations.contains_key(MANAGED)
        };
        if !matches!(change, Change::Deleted(_)) && change.old().is_some_and(same) {
            drop(world);
            return self.add(news);
        }
        let on = world.on_node.get(name).cloned().unwrap_or_default();
        if matches!(change, Change::Added(_)) && !on.is_empty() {
            // One that is made anew has lost what it was told.
            world.unreported.insert(name.clone());
            self.queue.add(ObjectKey::new(NODE, name.as_str()));
        }
        let pods = self.pods.by_index("node", name);
        let mut all = on;
        for pod in pods.iter().filter(|p| !p.spec.claims.is_empty()) {
            all.extend(self.pod_of(&mut world, &ObjectKey::of(&**pod)));
        }
        drop(world);
        self.add(all);
    }

    /// What is to be done for a volume; nothing for one that nobody knows.
    fn step(&self, unique: &str) -> Option<Plan> {
        let (driver, handle) = parts(unique)?;
        let attachment = |node: &str| {
            let name = attachment_name(driver, handle, node);
            self.attachments.get("", &name)
        };
        let node = |name: &str| {
            let node = self.nodes.get("", name);
            node.map_or_else(NodeLook::default, |n| look_at(&n))
        };
        let look = Look {
            now: Instant::now(),
            attachment: &attachment,
            node: &node,
            attachable: self.attaches(driver),
            by_force: self.ctx.config.force_detach,
            compare: self.ctx.config.compare_attachments,
        };
        self.lock().with(unique, |volume| volume.step(&look))
    }

    async fn volume(&self, unique: &str) -> Result<Option<Duration>, client::Error> {
        let Some(plan) = self.step(unique) else {
            return Ok(None);
        };
        let acts = plan.acts.into_iter().map(|act| self.act(unique, act));
        let mut failures = Failures::default();
        for done in each(acts).await {
            failures.note(done);
        }
        failures.end().map(|()| plan.again)
    }

    async fn act(&self, unique: &str, act: Act) -> Result<(), client::Error> {
        match act {
            Act::Report(node) => {
                self.lock().unreported.insert(node.clone());
                self.queue.add(ObjectKey::new(NODE, node));
                Ok(())
            }
            Act::Tell {
                pods,
                failed,
                message,
            } => {
                self.tell(pods, failed, &message);
                Ok(())
            }
            Act::Attach(node) => {
                self.attach(unique, &node).await;
                Ok(())
            }
            Act::Detach {
                node,
                verify,
                reported,
            } => self.detach(unique, &node, verify, reported).await,
        }
    }

    fn tell(&self, pods: Vec<(ObjectKey, String)>, failed: bool, message: &str) {
        let (kind, reason) = if failed {
            (EventType::Warning, "FailedAttachVolume")
        } else {
            (EventType::Normal, "SuccessfulAttachVolume")
        };
        for (key, uid) in pods {
            let pod = ObjectReference {
                kind: PODS.kind.to_string(),
                api_version: PODS.api_version(),
                namespace: key.namespace,
                name: key.name,
                uid,
                ..ObjectReference::default()
            };
            self.ctx.recorder.event(pod, kind, reason, message);
        }
    }

    /// A call did not come to be, or could not be asked for.
    fn failed(&self, unique: &str, node: &str, why: &str) {
        let told = self
            .lock()
            .with(unique, |v| v.failed(node, Instant::now(), why));
        if let Some(Some(Act::Tell {
            pods,
            failed,
            message,
        })) = told
        {
            self.tell(pods, failed, &message);
        }
        self.queue.add(ObjectKey::new("", unique));
    }

    async fn attach(&self, unique: &str, node: &str) {
        let Some((driver, handle)) = parts(unique) else {
            return;
        };
        let volume = self.lock().volumes.get(unique).map(|v| v.name.clone());
        let attachment = json!({
            "apiVersion": VOLUME_ATTACHMENTS.api_version(),
            "kind": VOLUME_ATTACHMENTS.kind,
            "metadata": {"name": attachment_name(driver, handle, node)},
            "spec": {
                "attacher": driver,
                "nodeName": node,
                "source": {"persistentVolumeName": volume},
            },
        });
        let api = self.ctx.client.api(&VOLUME_ATTACHMENTS);
        match api.create::<serde::de::IgnoredAny, _>(&attachment).await {
            Ok(_) => {}
            Err(e) if e.is_already_exists() => {}
            Err(e) => {
                let why = format!("kubernetes.io/csi: attacher.Attach failed: {e}");
                self.failed(unique, node, &why);
            }
        }
    }

    async fn detach(
        &self,
        unique: &str,
        node: &str,
        verify: bool,
        reported: bool,
    ) -> Result<(), client::Error> {
        if reported {
            self.lock().unreported.insert(node.to_owned());
        }
        if let Err(e) = self.report(node).await {
            self.lock().with(unique, |v| v.not_reported(node, reported));
            return Err(e);
        }
        if verify {
            match self.ctx.client.api(&NODES).get::<Node>(node).await {
                Ok(n) if n.status.volumes_in_use.iter().any(|v| v == unique) => {
                    let why = "volume is still in use by node, according to Node status";
                    self.failed(unique, node, why);
                    return Ok(());
                }
                Ok(_) => {}
                Err(e) if e.is_not_found() => {}
                Err(e) => {
                    self.failed(unique, node, &e.to_string());
                    return Ok(());
                }
            }
        }
        let Some((driver, handle)) = parts(unique) else {
            return Ok(());
        };
        let name = attachment_name(driver, handle, node);
        let api = self.ctx.client.api(&VOLUME_ATTACHMENTS);
        match api.delete(&name, &DeleteOptions::default()).await {
            // The cache tells when the driver has done it.
            Ok(()) => {}
            Err(e) if e.is_not_found() => {
                self.lock().with(unique, |v| v.detached(node));
                self.queue.add(ObjectKey::new("", unique));
            }
            Err(e) => self.failed(unique, node, &e.to_string()),
        }
        Ok(())
    }

    /// Tells a node what it has, if that is news.
    async fn report(&self, node: &str) -> Result<(), client::Error> {
        let _turn = self.telling.lock().await;
        let known = self.nodes.get("", node);
        let list = {
            let mut world = self.lock();
            if !world.unreported.remove(node) {
                return Ok(());
            }
            let own = world.reported(node).into_iter();
            let own = own.map(|unique| json!({"name": unique, "devicePath": ""}));
            let others = known.as_ref().map(|n| n.status.volumes_attached.as_slice());
            let others = others.unwrap_or_default().iter();
            let others = others.filter(|a| !a.name.starts_with(PREFIX));
            let others = others.map(|a| json!({"name": a.name, "devicePath": a.device_path}));
            own.chain(others).collect::<Vec<Value>>()
        };
        if known.is_none() {
            return Ok(());
        }
        let list = if list.is_empty() {
            Value::Null
        } else {
            Value::Array(list)
        };
        let patch = Patch::Strategic(json!({"status": {"volumesAttached": list}}));
        let api = self.ctx.client.api(&NODES);
        match api
            .patch_status::<serde::de::IgnoredAny>(node, &patch)
            .await
        {
            Ok(_) => Ok(()),
            Err(e) if e.is_not_found() => Ok(()),
            Err(e) => {
                self.lock().unreported.insert(node.to_owned());
                Err(e)
            }
        }
    }
}

/// The volumes that a pod's claims are bound to.
fn volumes_of(
    pod: &Pod,
    claims: &Store<PersistentVolumeClaim>,
    volumes: &Store<PersistentVolume>,
) -> Vec<Arc<PersistentVolume>> {
    let namespace = &pod.metadata.namespace;
    let bound = pod.spec.claims.iter().filter_map(|v| {
        let claim = match &v.persistent_volume_claim {
            Some(source) => claims.get(namespace, &source.claim_name)?,
            None => {
                let claim = claims.get(namespace, &own_claim(pod, &v.name))?;
                is_for(&claim, pod).then_some(claim)?
            }
        };
        let bound = claim.status.phase == "Bound" && !claim.spec.volume_name.is_empty();
        let volume = volumes.get("", &claim.spec.volume_name)?;
        let reference = volume.spec.claim_ref.as_ref()?;
        (bound && reference.uid == claim.metadata.uid).then_some(volume)
    });
    bound.collect()
}

/// What a volume is called, and on how many nodes it may be.
fn describe(known: &mut Volume, volume: &PersistentVolume) {
    known.name.clone_from(&volume.metadata.name);
    known.exclusive = is_exclusive(volume);
}

fn look_at(node: &Node) -> NodeLook {
    let ready = condition(&node.status.conditions, "Ready");
    let mut taints = node.spec.taints.iter();
    NodeLook {
        ready: ready.is_some_and(|c| c.status == "True"),
        out_of_service: taints.any(|t| t.key == OUT_OF_SERVICE),
    }
}

/// Whether a pod uses nothing any more, as far as its status says.
fn is_over(pod: &Pod) -> bool {
    let stopped = |all: &[ContainerStatus]| {
        let mut all = all.iter();
        all.all(|c| c.state.terminated.is_some() || c.state.waiting.is_some())
    };
    let status = &pod.status;
    pod.is_ended()
        || pod.metadata.is_deleting()
            && stopped(&status.init_container_statuses)
            && stopped(&status.container_statuses)
            && stopped(&status.ephemeral_container_statuses)
}
