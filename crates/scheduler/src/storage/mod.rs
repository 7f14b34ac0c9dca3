//! What the scheduler knows of volumes: claims, volumes, classes and what drivers say, as the API shows them, and what was
//! promised to pods that are being bound ([`reservations`]).
//!
//! Invariants: a volume that is promised to a claim is offered to no other until the promise is taken back, or is seen in
//! the API; what is looked up for one pod costs what hangs on its claims, whatever else there is.

pub mod find;
pub mod reservations;
#[cfg(test)]
pub(crate) mod tests;
pub mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use reservations::Reservations;
use view::{
    AttachmentView, CapacityView, ClaimView, ClassView, CsiNodeView, DriverView, VolumeView, key,
};

/// What happened to an object. What is gone is known by its key, `NAMESPACE/NAME` or `NAME`.
#[derive(Clone, Debug)]
pub enum Change {
    /// A claim came or changed.
    Claim(Arc<ClaimView>),
    /// A claim is gone.
    ClaimGone(String),
    /// A volume came or changed.
    Volume(Arc<VolumeView>),
    /// A volume is gone.
    VolumeGone(String),
    /// A class came or changed.
    Class(Arc<ClassView>),
    /// A class is gone.
    ClassGone(String),
    /// What drivers say of a node came or changed.
    CsiNode(Arc<CsiNodeView>),
    /// What drivers said of a node is gone.
    CsiNodeGone(String),
    /// A driver came or changed.
    Driver(Arc<DriverView>),
    /// A driver is gone.
    DriverGone(String),
    /// A driver's room came or changed.
    Capacity(Arc<CapacityView>),
    /// A driver's room is gone.
    CapacityGone(String),
    /// An attachment came or changed.
    Attachment(Arc<AttachmentView>),
    /// An attachment is gone.
    AttachmentGone(String),
}

impl Change {
    /// Of what kind the object is, and its key.
    pub fn object(&self) -> (&'static str, String) {
        match self {
            Change::Claim(o) => ("PersistentVolumeClaim", o.metadata.key()),
            Change::ClaimGone(key) => ("PersistentVolumeClaim", key.clone()),
            Change::Volume(o) => ("PersistentVolume", o.metadata.key()),
            Change::VolumeGone(key) => ("PersistentVolume", key.clone()),
            Change::Class(o) => ("StorageClass", o.metadata.key()),
            Change::ClassGone(key) => ("StorageClass", key.clone()),
            Change::CsiNode(o) => ("CSINode", o.metadata.key()),
            Change::CsiNodeGone(key) => ("CSINode", key.clone()),
            Change::Driver(o) => ("CSIDriver", o.metadata.key()),
            Change::DriverGone(key) => ("CSIDriver", key.clone()),
            Change::Capacity(o) => ("CSIStorageCapacity", o.metadata.key()),
            Change::CapacityGone(key) => ("CSIStorageCapacity", key.clone()),
            Change::Attachment(o) => ("VolumeAttachment", o.metadata.key()),
            Change::AttachmentGone(key) => ("VolumeAttachment", key.clone()),
        }
    }

    /// Whether the object is gone.
    pub fn is_gone(&self) -> bool {
        matches!(
            self,
            Change::ClaimGone(_)
                | Change::VolumeGone(_)
                | Change::ClassGone(_)
                | Change::CsiNodeGone(_)
                | Change::DriverGone(_)
                | Change::CapacityGone(_)
                | Change::AttachmentGone(_)
        )
    }
}

/// What a change may mean to pods that wait, for queueing hints. Objects that are new have no old state.
#[derive(Clone, Debug)]
pub enum News {
    /// A claim.
    Claim(Option<Arc<ClaimView>>, Arc<ClaimView>),
    /// A volume.
    Volume(Option<Arc<VolumeView>>, Arc<VolumeView>),
    /// A class.
    Class(Option<Arc<ClassView>>, Arc<ClassView>),
    /// What drivers say of a node.
    CsiNode(Option<Arc<CsiNodeView>>, Arc<CsiNodeView>),
    /// A driver that was there before.
    Driver(Arc<DriverView>, Arc<DriverView>),
    /// A driver's room.
    Capacity(Option<Arc<CapacityView>>, Arc<CapacityView>),
    /// An attachment is gone.
    AttachmentGone(Arc<AttachmentView>),
}

/// All that is known.
#[derive(Default)]
pub struct Storage {
    claims: HashMap<String, Arc<ClaimView>>,
    volumes: HashMap<String, Arc<VolumeView>>,
    classes: HashMap<String, Arc<ClassView>>,
    csi_nodes: HashMap<String, Arc<CsiNodeView>>,
    drivers: HashMap<String, Arc<DriverView>>,
    capacities: BTreeMap<String, Arc<CapacityView>>,
    attachments: HashMap<String, Arc<AttachmentView>>,
    /// Names of volumes by class.
    by_class: HashMap<String, BTreeSet<String>>,
    /// Keys of capacities by class.
    room: HashMap<String, BTreeSet<String>>,
    /// Names of attachments by node.
    attached: HashMap<String, BTreeSet<String>>,
    /// How many pods that are placed use a claim.
    users: HashMap<String, usize>,
    /// What is promised.
    pub reservations: Reservations,
}

fn link(index: &mut HashMap<String, BTreeSet<String>>, at: &str, name: &str) {
    index
        .entry(at.to_owned())
        .or_default()
        .insert(name.to_owned());
}

fn unlink(index: &mut HashMap<String, BTreeSet<String>>, at: &str, name: &str) {
    if let Some(names) = index.get_mut(at) {
        names.remove(name);
        if names.is_empty() {
            index.remove(at);
        }
    }
}

impl Storage {
    /// A claim by its key.
    pub fn claim(&self, key: &str) -> Option<&Arc<ClaimView>> {
        self.claims.get(key)
    }

    /// A volume.
    pub fn volume(&self, name: &str) -> Option<&Arc<VolumeView>> {
        self.volumes.get(name)
    }

    /// A class.
    pub fn class(&self, name: &str) -> Option<&Arc<ClassView>> {
        self.classes.get(name)
    }

    /// What drivers say of a node.
    pub fn csi_node(&self, name: &str) -> Option<&Arc<CsiNodeView>> {
        self.csi_nodes.get(name)
    }

    /// Whether a driver tells how much room there is.
    pub fn tells_room(&self, driver: &str) -> bool {
        let found = self.drivers.get(driver);
        found.is_some_and(|d| d.spec.storage_capacity == Some(true))
    }

    /// The volumes of a class, by name.
    pub fn volumes_of<'a>(&'a self, class: &str) -> impl Iterator<Item = &'a Arc<VolumeView>> {
        let names = self.by_class.get(class).into_iter().flatten();
        names.filter_map(|n| self.volumes.get(n))
    }

    /// What is told of the room for volumes of a class.
    pub fn room_of<'a>(&'a self, class: &str) -> impl Iterator<Item = &'a Arc<CapacityView>> {
        let keys = self.room.get(class).into_iter().flatten();
        keys.filter_map(|k| self.capacities.get(k))
    }

    /// What is attached to a node, or is to be.
    pub fn attached_to<'a>(&'a self, node: &str) -> impl Iterator<Item = &'a Arc<AttachmentView>> {
        let names = self.attached.get(node).into_iter().flatten();
        names.filter_map(|n| self.attachments.get(n))
    }

    /// How many pods that are placed use a claim.
    pub fn users(&self, claim: &str) -> usize {
        self.users.get(claim).copied().unwrap_or(0)
    }

    /// A pod that uses a claim was placed.
    pub fn add_user(&mut self, claim: &str) {
        *self.users.entry(claim.to_owned()).or_default() += 1;
    }

    /// A pod that uses a claim went.
    pub fn remove_user(&mut self, claim: &str) {
        if let Some(n) = self.users.get_mut(claim) {
            *n -= 1;
            if *n == 0 {
                self.users.remove(claim);
            }
        }
    }

    /// Takes a change in.
    pub fn apply(&mut self, change: Change) -> Option<News> {
        match change {
            Change::Claim(new) => {
                let key = new.metadata.key();
                let old = self.claims.insert(key.clone(), new.clone());
                self.reservations.claim_seen(&key, &new);
                Some(News::Claim(old, new))
            }
            Change::ClaimGone(key) => {
                self.claims.remove(&key);
                self.reservations.claim_gone(&key);
                None
            }
            Change::Volume(new) => {
                let name = &new.metadata.name;
                let old = self.volumes.insert(name.clone(), new.clone());
                if let Some(old) = &old {
                    unlink(&mut self.by_class, old.class(), name);
                }
                link(&mut self.by_class, new.class(), name);
                self.reservations.volume_seen(&new);
                Some(News::Volume(old, new))
            }
            Change::VolumeGone(name) => {
                if let Some(old) = self.volumes.remove(&name) {
                    unlink(&mut self.by_class, old.class(), &name);
                }
                self.reservations.volume_gone(&name);
                None
            }
            Change::Class(new) => {
                let old = self.classes.insert(new.metadata.name.clone(), new.clone());
                Some(News::Class(old, new))
            }
            Change::ClassGone(name) => {
                self.classes.remove(&name);
                None
            }
            Change::CsiNode(new) => {
                let name = new.metadata.name.clone();
                let old = self.csi_nodes.insert(name, new.clone());
                Some(News::CsiNode(old, new))
            }
            Change::CsiNodeGone(name) => {
                self.csi_nodes.remove(&name);
                None
            }
            Change::Driver(new) => {
                let old = self.drivers.insert(new.metadata.name.clone(), new.clone());
                Some(News::Driver(old?, new))
            }
            Change::DriverGone(name) => {
                self.drivers.remove(&name);
                None
            }
            Change::Capacity(new) => {
                let key = new.metadata.key();
                let old = self.capacities.insert(key.clone(), new.clone());
                if let Some(old) = &old {
                    unlink(&mut self.room, &old.storage_class_name, &key);
                }
                link(&mut self.room, &new.storage_class_name, &key);
                Some(News::Capacity(old, new))
            }
            Change::CapacityGone(key) => {
                if let Some(old) = self.capacities.remove(&key) {
                    unlink(&mut self.room, &old.storage_class_name, &key);
                }
                None
            }
            Change::Attachment(new) => {
                let name = &new.metadata.name;
                let old = self.attachments.insert(name.clone(), new.clone());
                if let Some(old) = old {
                    unlink(&mut self.attached, &old.spec.node_name, name);
                }
                link(&mut self.attached, &new.spec.node_name, name);
                None
            }
            Change::AttachmentGone(name) => {
                let old = self.attachments.remove(&name)?;
                unlink(&mut self.attached, &old.spec.node_name, &name);
                Some(News::AttachmentGone(old))
            }
        }
    }

    /// The pods that wait for what changed.
    pub fn waiting_on(&self, change: &Change) -> Vec<String> {
        let r = &self.reservations;
        match change {
            Change::Claim(c) => r.pods_of_claim(&c.metadata.key()),
            Change::ClaimGone(key) => r.pods_of_claim(key),
            Change::Volume(v) => {
                let mut pods = r.pods_of_volume(&v.metadata.name);
                if let Some(c) = &v.spec.claim_ref {
                    pods.extend(r.pods_of_claim(&key(&c.namespace, &c.name)));
                }
                pods
            }
            Change::VolumeGone(name) => r.pods_of_volume(name),
            _ => Vec::new(),
        }
    }

    /// A pod gives back what is promised to it.
    pub fn release(&mut self, pod: &str) {
        let (volumes, claims) = (&self.volumes, &self.claims);
        self.reservations.release(
            pod,
            |name| volumes.get(name).map(|v| v.metadata.version()),
            |key| claims.get(key).map(|c| c.metadata.version()),
        );
    }
}
