//! persistentvolume-binder-controller: gives claims volumes, and takes them back when the claims are gone.
//!
//! Invariants: a volume refers to one claim and the claim to that volume, however often the controller fails between the
//! calls: the volume's reference comes first and is written over the newest version only while nobody else has it; a volume
//! is released only after the apiserver itself has said that its claim is gone.
//!
//! Partial: claims whose class waits for a first consumer are bound when somebody reserves a volume for them or a provisioner
//! makes one. Volumes are deleted by the drivers that made them; `hostPath` and `nfs` volumes are neither deleted nor recycled
//! and become `Failed`, as upstream's without a plugin.

pub mod decide;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use client::resource::{PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, STORAGE_CLASSES};
use client::{Change, ObjectKey, ObjectMeta, ObjectReference, Resource, Store, WorkQueue};

use crate::Context;
use crate::context::rewrite;
use crate::storage_protection::{BY_CLAIM, claims};
use crate::views::{PersistentVolume, PersistentVolumeClaim, Pod, StorageClass};
use decide::{Applied, Around, Referred, Step, class_of_claim, class_of_volume};

/// Index of volumes and of claims without a volume by their class.
const BY_CLASS: &str = "storage-class";
/// Index of volumes by the claim that they refer to, `NAMESPACE/NAME`.
const BY_REFERENCE: &str = "claim-reference";
/// After a change that came in between.
const SOON: Duration = Duration::from_secs(1);

struct Binder {
    ctx: Context,
    claims: Store<PersistentVolumeClaim>,
    volumes: Store<PersistentVolume>,
    classes: Store<StorageClass>,
    pods: Store<Pod>,
    claim_queue: WorkQueue<ObjectKey>,
    volume_queue: WorkQueue<ObjectKey>,
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let all = ctx.informer::<PersistentVolumeClaim>(&PERSISTENT_VOLUME_CLAIMS);
    let volumes = ctx.informer::<PersistentVolume>(&PERSISTENT_VOLUMES);
    let classes = ctx.informer::<StorageClass>(&STORAGE_CLASSES);
    let pods = ctx.informer::<Pod>(&PODS);
    pods.store().add_index(BY_CLAIM, |p: &Pod| {
        claims(p).map(|k| k.to_string()).collect()
    });
    all.store()
        .add_index(BY_CLASS, |c: &PersistentVolumeClaim| {
            let unbound = c.spec.volume_name.is_empty();
            unbound
                .then(|| class_of_claim(c).to_owned())
                .into_iter()
                .collect()
        });
    volumes.store().add_index(BY_CLASS, |v: &PersistentVolume| {
        vec![class_of_volume(v).to_owned()]
    });
    volumes
        .store()
        .add_index(BY_REFERENCE, |v: &PersistentVolume| {
            let reference = v.spec.claim_ref.iter();
            reference
                .map(|r| format!("{}/{}", r.namespace, r.name))
                .collect()
        });
    let claim_queue = ctx.queue("claims");
    let volume_queue = ctx.queue("volumes");
    let it = Arc::new(Binder {
        claims: all.store(),
        volumes: volumes.store(),
        classes: classes.store(),
        pods: pods.store(),
        claim_queue: claim_queue.clone(),
        volume_queue: volume_queue.clone(),
        ctx: ctx.clone(),
    });
    let me = it.clone();
    all.on_change(move |change| me.claim_changed(change));
    let me = it.clone();
    volumes.on_change(move |change| me.volume_changed(change));
    let me = it.clone();
    classes.on_change(move |change| {
        let name = &change.object().metadata.name;
        for class in [name.as_str(), ""] {
            me.claims_of(class);
        }
    });
    // One worker each: two claims that want one volume are served in turn.
    let me = it.clone();
    ctx.run(claim_queue, 1, move |key| {
        let me = me.clone();
        async move { me.claim(&key).await }
    });
    ctx.run(volume_queue, 1, move |key| {
        let it = it.clone();
        async move { it.volume(&key).await }
    });
}

impl Binder {
    fn claims_of(&self, class: &str) {
        for claim in self.claims.by_index(BY_CLASS, class) {
            self.claim_queue.add(ObjectKey::of(&*claim));
        }
    }

    fn claim_changed(&self, change: Change<'_, PersistentVolumeClaim>) {
        let claim = change.object();
        let key = ObjectKey::of(&**claim);
        for volume in self.volumes.by_index(BY_REFERENCE, &key.to_string()) {
            self.volume_queue.add(ObjectKey::of(&*volume));
        }
        if !matches!(change, Change::Deleted(_)) {
            self.claim_queue.add(key);
        }
    }

    fn volume_changed(&self, change: Change<'_, PersistentVolume>) {
        let volume = change.object();
        let gone = matches!(change, Change::Deleted(_));
        if !gone {
            self.volume_queue.add(ObjectKey::of(&**volume));
        }
        match &volume.spec.claim_ref {
            Some(r) => {
                let key = ObjectKey::new(r.namespace.as_str(), r.name.as_str());
                self.claim_queue.add(key);
            }
            // Of those that wait for a volume like this the queue takes each once.
            None if !gone => self.claims_of(class_of_volume(volume)),
            None => {}
        }
    }

    async fn claim(&self, key: &ObjectKey) -> Result<Option<Duration>, client::Error> {
        let Some(claim) = self.claims.get_key(key) else {
            return Ok(None);
        };
        let mut volumes = self.volumes.by_index(BY_CLASS, class_of_claim(&claim));
        volumes.extend(self.volumes.by_index(BY_REFERENCE, &key.to_string()));
        let used_by = self.pods.by_index(BY_CLAIM, &key.to_string());
        let waiting = used_by.iter().filter(|p| p.spec.node_name.is_empty());
        let around = Around {
            named: self.volumes.get("", &claim.spec.volume_name),
            class: self.classes.get("", class_of_claim(&claim)),
            default: decide::default_class(&self.classes.list()).map(|c| c.metadata.name.clone()),
            waiting: waiting.map(|p| p.metadata.name.clone()).take(10).collect(),
            volumes: &volumes,
        };
        self.carry_out(decide::claim(&claim, &around)).await
    }

    async fn volume(&self, key: &ObjectKey) -> Result<Option<Duration>, client::Error> {
        let Some(volume) = self.volumes.get_key(key) else {
            return Ok(None);
        };
        let referred = self.referred(&volume).await?;
        self.carry_out(decide::volume(&volume, referred.as_ref()))
            .await
    }

    /// The claim that a volume refers to. That it is gone is asked of the apiserver where it was not known already.
    async fn referred(&self, volume: &PersistentVolume) -> Result<Option<Referred>, client::Error> {
        let Some(r) = volume.spec.claim_ref.as_ref().filter(|r| !r.uid.is_empty()) else {
            return Ok(None);
        };
        let is = |c: &PersistentVolumeClaim| c.metadata.uid == r.uid;
        if let Some(claim) = self.claims.get(&r.namespace, &r.name).filter(|c| is(c)) {
            return Ok(Some(Referred::There(claim)));
        }
        if matches!(volume.status.phase.as_str(), "Released" | "Failed") {
            return Ok(Some(Referred::Gone));
        }
        let api = self
            .ctx
            .client
            .namespaced(&PERSISTENT_VOLUME_CLAIMS, &r.namespace);
        match api.get::<PersistentVolumeClaim>(&r.name).await {
            Ok(claim) if is(&claim) => Ok(Some(Referred::There(Arc::new(claim)))),
            Ok(_) => Ok(Some(Referred::Gone)),
            Err(e) if e.is_not_found() => Ok(Some(Referred::Gone)),
            Err(e) => Err(e),
        }
    }

    async fn carry_out(&self, steps: Vec<Step>) -> Result<Option<Duration>, client::Error> {
        for step in steps {
            if step.is_done() {
                continue;
            }
            let applied = match &step {
                Step::Reserve(v, _) | Step::Free(v) => {
                    self.write(&step, &PERSISTENT_VOLUMES, &v.metadata, "")
                        .await
                }
                Step::VolumePhase(v, ..) => {
                    self.write(&step, &PERSISTENT_VOLUMES, &v.metadata, "status")
                        .await
                }
                Step::Name(c, _) | Step::Class(c, _) | Step::Provisioner(c, _) => {
                    self.write(&step, &PERSISTENT_VOLUME_CLAIMS, &c.metadata, "")
                        .await
                }
                Step::ClaimPhase(c, ..) => {
                    self.write(&step, &PERSISTENT_VOLUME_CLAIMS, &c.metadata, "status")
                        .await
                }
                Step::TellClaim(c, kind, reason, message) => {
                    let about = ObjectReference::of(&PERSISTENT_VOLUME_CLAIMS, &**c);
                    self.ctx
                        .recorder
                        .event(about, *kind, reason, message.clone());
                    continue;
                }
                Step::TellVolume(v, kind, reason, message) => {
                    let about = ObjectReference::of(&PERSISTENT_VOLUMES, &**v);
                    self.ctx
                        .recorder
                        .event(about, *kind, reason, message.clone());
                    continue;
                }
            };
            if applied? == Applied::Refused {
                return Ok(Some(SOON));
            }
        }
        Ok(None)
    }

    async fn write(
        &self,
        step: &Step,
        resource: &Resource,
        meta: &ObjectMeta,
        sub: &str,
    ) -> Result<Applied, client::Error> {
        let api = self.ctx.client.namespaced(resource, &meta.namespace);
        // What is gone by now takes the rest of the steps with it.
        let mut applied = Applied::Refused;
        rewrite(&api, &meta.name, &meta.uid, sub, |object| {
            applied = step.apply(object);
            applied == Applied::Changed
        })
        .await?;
        Ok(applied)
    }
}
