//! What is to happen to one volume: where it is, where it is wanted, and what follows.
//!
//! A volume is somewhere for certain, perhaps, or not. It is for certain where its driver said so and nothing has gone wrong
//! since; perhaps where an attempt failed or an attachment was found that nobody remembers. Of an exclusive volume one call
//! to the driver is under way at a time; of another one call per node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{ObjectKey, ObjectMeta, views};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::children::BURST;
use crate::views::PersistentVolume;

/// Before the names of volumes of drivers in `status.volumesAttached` and `status.volumesInUse` of nodes.
pub const PREFIX: &str = "kubernetes.io/csi/";
/// For how long a driver may attach or detach a volume.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// After this a volume is taken from a node that is not ready and still uses it.
pub const UNMOUNTING: Duration = Duration::from_secs(6 * 60);
const FIRST_DELAY: Duration = Duration::from_millis(500);
const LAST_DELAY: Duration = Duration::from_secs(122);
const SOON: Duration = Duration::from_millis(1);

/// `storage.k8s.io/v1.VolumeAttachment`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeAttachment {
    /// Of the object.
    pub metadata: ObjectMeta,
    /// What is attached to what.
    pub spec: AttachmentSpec,
    /// What the driver says.
    pub status: AttachmentStatus,
}

/// `storage.k8s.io/v1.VolumeAttachmentSpec`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AttachmentSpec {
    /// The node.
    pub node_name: String,
    /// The volume.
    pub source: AttachmentSource,
}

/// `storage.k8s.io/v1.VolumeAttachmentSource`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AttachmentSource {
    /// Its name, unless it is inline.
    pub persistent_volume_name: Option<String>,
}

/// `storage.k8s.io/v1.VolumeAttachmentStatus`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AttachmentStatus {
    /// Whether the driver has attached it.
    pub attached: bool,
    /// Why it could not.
    pub attach_error: Option<DriverError>,
    /// Why it could not detach it.
    pub detach_error: Option<DriverError>,
}

/// `storage.k8s.io/v1.VolumeError`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DriverError {
    /// The driver's words.
    pub message: String,
}

views!(VolumeAttachment);

/// The name of the attachment of a volume to a node, as upstream's: either daemon goes on where the other was.
pub fn attachment_name(driver: &str, handle: &str, node: &str) -> String {
    let text = [handle, driver, node].concat();
    let hash = digest(&SHA256, text.as_bytes());
    let hex = hash.as_ref().iter().map(|b| format!("{b:02x}"));
    format!("csi-{}", hex.collect::<String>())
}

/// The name of a volume of a driver in the status of nodes.
pub fn unique_name(driver: &str, handle: &str) -> String {
    format!("{PREFIX}{driver}^{handle}")
}

/// The driver and its handle, from the name of a volume in the status of a node.
pub fn parts(unique: &str) -> Option<(&str, &str)> {
    unique.strip_prefix(PREFIX)?.split_once('^')
}

/// Whether a volume may be on one node only: its modes say so and none says otherwise.
pub fn is_exclusive(volume: &PersistentVolume) -> bool {
    let modes = &volume.spec.access_modes;
    let many = |m: &String| m == "ReadWriteMany" || m == "ReadOnlyMany";
    !modes.is_empty() && !modes.iter().any(many)
}

/// Whether a volume is on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Held {
    /// It is not.
    #[default]
    No,
    /// Perhaps.
    Perhaps,
    /// For certain.
    Yes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Attach(Instant),
    Detach(Instant),
}

/// A volume and a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Whether it is there.
    pub held: Held,
    /// Whether the node is told that it is.
    pub reported: bool,
    /// Whether the node uses it, as far as is known: assumed until the node says otherwise.
    pub in_use: bool,
    leaving: Option<Instant>,
    call: Option<Call>,
    /// When the next attempt may be made, and what its delay was.
    delayed: Option<(Instant, Duration)>,
}

impl Place {
    fn hold(&mut self, held: Held) {
        if self.held == Held::No {
            self.in_use = true;
        }
        self.held = held;
    }
}

/// What is known of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeLook {
    /// Its condition.
    pub ready: bool,
    /// Somebody says by a taint that it is not running.
    pub out_of_service: bool,
}

/// What is known besides.
pub struct Look<'a> {
    /// Now; monotonic, so that no clock that is put forward takes a volume from a node.
    pub now: Instant,
    /// The attachment to a node.
    pub attachment: &'a dyn Fn(&str) -> Option<Arc<VolumeAttachment>>,
    /// A node; nothing of one that is gone.
    pub node: &'a dyn Fn(&str) -> NodeLook,
    /// Whether the driver attaches its volumes.
    pub attachable: bool,
    /// Whether volumes are taken from nodes that are not ready: `--disable-force-detach-on-timeout` says no.
    pub by_force: bool,
    /// Whether attachments that went are noticed: `--disable-attach-detach-reconcile-sync` says no.
    pub compare: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Ask for the volume to be attached to the node.
    Attach(String),
    /// Tell the node that it has the volume no longer, see with `verify` whether it says so too, and ask for the volume to
    /// be detached.
    Detach {
        /// The node.
        node: String,
        /// Whether the node may say no.
        verify: bool,
        /// Whether the node was told that it has the volume.
        reported: bool,
    },
    /// What the node has is not what it was told.
    Report(String),
    /// Tell pods, with an event.
    Tell {
        /// The pods and their UIDs.
        pods: Vec<(ObjectKey, String)>,
        /// Whether it is about a failure.
        failed: bool,
        /// What.
        message: String,
    },
}

/// What is to be done, and when to look again.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub acts: Vec<Act>,
    /// Unless something changes before.
    pub again: Option<Duration>,
}

impl Plan {
    fn look_after(&mut self, wait: Duration) {
        self.again = Some(self.again.map_or(wait, |w| w.min(wait)));
    }
}

/// A volume of a driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// The driver.
    pub driver: String,
    /// Its handle for the volume.
    pub handle: String,
    /// The PersistentVolume; empty as long as only nodes spoke of it.
    pub name: String,
    /// Whether it may be on one node only.
    pub exclusive: bool,
    /// By node.
    pub places: BTreeMap<String, Place>,
    /// The pods that use it and their UIDs, by node.
    pub wanted: BTreeMap<String, BTreeMap<ObjectKey, String>>,
    /// The nodes whose pods were told that it is elsewhere.
    told: BTreeSet<String>,
}

impl Volume {
    /// A volume of a driver of which nothing else is known.
    pub fn new(driver: &str, handle: &str) -> Volume {
        Volume {
            driver: driver.to_owned(),
            handle: handle.to_owned(),
            ..Volume::default()
        }
    }

    /// Whether nothing is left to know of it.
    pub fn is_forgotten(&self) -> bool {
        self.places.is_empty() && self.wanted.is_empty()
    }

    /// A node said at the start that it has the volume, and whether it uses it.
    pub fn found_on(&mut self, node: &str, in_use: bool) {
        let place = self.places.entry(node.to_owned()).or_default();
        place.held = Held::Yes;
        place.reported = true;
        place.in_use = in_use;
    }

    /// An attachment to a node was there at the start.
    pub fn found_attachment(&mut self, node: &str) {
        let place = self.places.entry(node.to_owned()).or_default();
        if place.held == Held::No {
            place.hold(Held::Perhaps);
        }
    }

    /// What is to be done now. Calls that it asks for are under way until [`Volume::failed`], [`Volume::detached`],
    /// [`Volume::not_reported`], or what is seen of the attachment says how they went.
    pub fn step(&mut self, look: &Look<'_>) -> Plan {
        let mut plan = Plan::default();
        for node in self.wanted.keys() {
            if !self.places.contains_key(node) {
                self.places.insert(node.clone(), Place::default());
            }
        }
        let nodes: Vec<String> = self.places.keys().cloned().collect();
        for node in &nodes {
            self.settle(node, look, &mut plan);
            self.compare(node, look, &mut plan);
        }
        // Of an exclusive volume: whether a call is under way, and the nodes that have it.
        let mut busy = self.exclusive && self.places.values().any(|p| p.call.is_some());
        let mut calls = 0;
        for node in &nodes {
            if calls == BURST {
                plan.look_after(SOON);
                break;
            }
            if !busy && !self.wanted.contains_key(node) && self.leave(node, look, &mut plan) {
                calls += 1;
                busy = self.exclusive;
            }
        }
        let mut holders: Vec<String> = Vec::new();
        if self.exclusive {
            let held = self.places.iter().filter(|(_, p)| p.held == Held::Yes);
            holders.extend(held.map(|(n, _)| n.clone()));
        }
        for node in &nodes {
            if calls == BURST {
                plan.look_after(SOON);
                break;
            }
            if !busy
                && self.wanted.contains_key(node)
                && self.arrive(node, &holders, look, &mut plan)
            {
                calls += 1;
                let place = self.places.get(node);
                busy = self.exclusive && place.is_some_and(|p| p.call.is_some());
                if self.exclusive && place.is_some_and(|p| p.held == Held::Yes) {
                    holders.push(node.clone());
                }
            }
        }
        let wanted = &self.wanted;
        self.told.retain(|n| wanted.contains_key(n));
        self.places
            .retain(|n, p| p.held != Held::No || p.call.is_some() || wanted.contains_key(n));
        plan
    }

    /// Sees how the call for a node went.
    fn settle(&mut self, node: &str, look: &Look<'_>, plan: &mut Plan) {
        let Some(call) = self.places.get(node).and_then(|p| p.call) else {
            return;
        };
        let attachment = (look.attachment)(node);
        let (began, ended) = match call {
            Call::Attach(began) => {
                let ended = attachment.and_then(|a| {
                    if a.metadata.is_deleting() {
                        Some(Err("volume attachment is being deleted".to_owned()))
                    } else if a.status.attached {
                        Some(Ok(()))
                    } else {
                        let error = a.status.attach_error.as_ref();
                        error.map(|e| Err(e.message.clone()))
                    }
                });
                (began, ended)
            }
            Call::Detach(began) => {
                let ended = match &attachment {
                    None => Some(Ok(())),
                    Some(a) => {
                        let error = a.status.detach_error.as_ref();
                        error.map(|e| Err(e.message.clone()))
                    }
                };
                (began, ended)
            }
        };
        let passed = look.now.saturating_duration_since(began);
        let ended = match ended {
            None if passed >= PATIENCE => {
                let (driver, what) = match call {
                    Call::Attach(_) => (self.driver.as_str(), "attach"),
                    Call::Detach(_) => ("unknown", "detach"),
                };
                Err(format!(
                    "timed out waiting for external-attacher of {driver} CSI driver to {what} volume {}",
                    self.handle
                ))
            }
            None => return plan.look_after(PATIENCE.saturating_sub(passed)),
            Some(ended) => ended,
        };
        match (call, ended) {
            (_, Err(why)) => {
                plan.acts.extend(self.failed(node, look.now, &why));
                let delayed = self.places.get(node).and_then(|p| p.delayed);
                if let Some((_, delay)) = delayed {
                    plan.look_after(delay);
                }
            }
            (Call::Detach(_), Ok(())) => self.detached(node),
            (Call::Attach(_), Ok(())) => {
                if let Some(place) = self.places.get_mut(node) {
                    place.hold(Held::Yes);
                    (place.call, place.delayed, place.leaving) = (None, None, None);
                    place.reported = true;
                }
                plan.acts.push(Act::Report(node.to_owned()));
                let message = format!("AttachVolume.Attach succeeded for volume {:?} ", self.name);
                plan.acts.extend(self.tell(node, false, message));
            }
        }
    }

    /// Notices that an attachment went, or that the driver took it back.
    fn compare(&mut self, node: &str, look: &Look<'_>, plan: &mut Plan) {
        let Some(place) = self.places.get_mut(node) else {
            return;
        };
        if !look.compare || !look.attachable || place.held != Held::Yes || place.call.is_some() {
            return;
        }
        if (look.attachment)(node).is_none_or(|a| !a.status.attached) {
            if place.reported {
                plan.acts.push(Act::Report(node.to_owned()));
            }
            *place = Place::default();
        }
    }

    /// Takes the volume from a node, if it may go; whether that begins now.
    fn leave(&mut self, node: &str, look: &Look<'_>, plan: &mut Plan) -> bool {
        let Some(place) = self.places.get_mut(node) else {
            return false;
        };
        if place.call.is_some() || place.held == Held::No {
            return false;
        }
        if let Some((until, _)) = place.delayed
            && until > look.now
        {
            plan.look_after(until.saturating_duration_since(look.now));
            return false;
        }
        let since = *place.leaving.get_or_insert(look.now);
        let passed = look.now.saturating_duration_since(since);
        let about = (look.node)(node);
        let timed_out = look.by_force && passed >= UNMOUNTING;
        let force = timed_out && !about.ready;
        if place.in_use && !force && !about.out_of_service {
            if look.by_force && passed < UNMOUNTING {
                plan.look_after(UNMOUNTING.saturating_sub(passed));
            }
            return false;
        }
        place.call = Some(Call::Detach(look.now));
        plan.acts.push(Act::Detach {
            node: node.to_owned(),
            verify: !timed_out && !about.out_of_service,
            reported: place.reported,
        });
        place.reported = false;
        plan.look_after(PATIENCE);
        true
    }

    /// Brings the volume to a node, unless one of `holders` has it for itself; whether that begins now.
    fn arrive(&mut self, node: &str, holders: &[String], look: &Look<'_>, plan: &mut Plan) -> bool {
        let Some(place) = self.places.get_mut(node) else {
            return false;
        };
        if place.call.is_some() {
            return false;
        }
        if place.held == Held::Yes {
            place.leaving = None;
            return false;
        }
        if !holders.is_empty() {
            if self.told.insert(node.to_owned()) {
                self.tell_that_it_is_elsewhere(node, holders, plan);
            }
            return false;
        }
        let attachment = (look.attachment)(node);
        let there = |a: &Arc<VolumeAttachment>| a.status.attached && !a.metadata.is_deleting();
        if let Some((until, _)) = place.delayed
            && until > look.now
            && !attachment.as_ref().is_some_and(there)
        {
            plan.look_after(until.saturating_duration_since(look.now));
            return false;
        }
        place.call = Some(Call::Attach(look.now));
        if attachment.is_some() {
            self.settle(node, look, plan);
        } else {
            plan.acts.push(Act::Attach(node.to_owned()));
            plan.look_after(PATIENCE);
        }
        true
    }

    /// The call for a node failed: the volume may be there or not. The pods on the node are told of a failure to attach.
    pub fn failed(&mut self, node: &str, now: Instant, why: &str) -> Option<Act> {
        let place = self.places.get_mut(node)?;
        let call = place.call.take()?;
        let delay = place
            .delayed
            .map_or(FIRST_DELAY, |(_, d)| d.saturating_mul(2).min(LAST_DELAY));
        place.delayed = Some((now + delay, delay));
        place.hold(Held::Perhaps);
        match call {
            Call::Detach(_) => {
                tracing::info!(volume = %self.name, node, why, "DetachVolume.Detach failed");
                None
            }
            Call::Attach(_) => {
                let name = &self.name;
                let message = format!("AttachVolume.Attach failed for volume {name:?} : {why}");
                self.tell(node, true, message)
            }
        }
    }

    /// The volume is not on a node any more.
    pub fn detached(&mut self, node: &str) {
        if let Some(place) = self.places.get_mut(node) {
            *place = Place::default();
        }
    }

    /// The node could not be told that the volume goes, so it stays.
    pub fn not_reported(&mut self, node: &str, reported: bool) {
        if let Some(place) = self.places.get_mut(node) {
            place.call = None;
            place.reported = reported;
        }
    }

    /// An event for the pods that use the volume on a node.
    fn tell(&self, node: &str, failed: bool, message: String) -> Option<Act> {
        let pods = self.pods(node);
        (!pods.is_empty()).then_some(Act::Tell {
            pods,
            failed,
            message,
        })
    }

    fn pods(&self, node: &str) -> Vec<(ObjectKey, String)> {
        let pods = self.wanted.get(node).into_iter().flatten();
        pods.map(|(k, uid)| (k.clone(), uid.clone())).collect()
    }

    /// Whoever uses the volume elsewhere is named to pods of the same namespace only.
    fn tell_that_it_is_elsewhere(&self, node: &str, holders: &[String], plan: &mut Plan) {
        let about = |what: &str| format!("Multi-Attach error for volume {:?} {what}", self.name);
        let others = holders.iter().filter_map(|n| self.wanted.get(n));
        let others: BTreeSet<&ObjectKey> = others.flat_map(BTreeMap::keys).collect();
        if others.is_empty() {
            let message = about(
                "Volume is already exclusively attached to one node and can't be attached to another",
            );
            plan.acts.extend(self.tell(node, true, message));
            return;
        }
        let mut by_namespace: BTreeMap<String, Vec<(ObjectKey, String)>> = BTreeMap::new();
        for pod in self.pods(node) {
            let of = by_namespace.entry(pod.0.namespace.clone()).or_default();
            of.push(pod);
        }
        for (namespace, pods) in by_namespace {
            let local = others.iter().filter(|k| k.namespace == namespace);
            let local: Vec<&str> = local.map(|k| k.name.as_str()).collect();
            let foreign = others.len() - local.len();
            let what = match (local.is_empty(), foreign) {
                (false, 0) => format!("Volume is already used by pod(s) {}", local.join(", ")),
                (false, n) => format!(
                    "Volume is already used by pod(s) {} and {n} pod(s) in different namespaces",
                    local.join(", ")
                ),
                (true, n) => {
                    format!("Volume is already used by {n} pod(s) in different namespaces")
                }
            };
            plan.acts.push(Act::Tell {
                pods,
                failed: true,
                message: about(&what),
            });
        }
    }
}
