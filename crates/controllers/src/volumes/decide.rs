//! Which volume a claim gets, and what becomes of a volume. Pure: the answer is a list of [`Step`]s, and [`Step::apply`] makes
//! one in the newest version of its object, or refuses where that version is no longer what was decided upon.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::quantity::Quantity;
use api::text::go_quote;
use api::volumes::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, CLASS, SELECTED_NODE, WAIT_FOR_FIRST_CONSUMER, has_access,
    is_free_for, migrated, refers_to, same_attributes, same_mode, suits,
};
use client::EventType;
use serde_json::{Value, json};

use crate::views::{ClaimReference, PersistentVolume, PersistentVolumeClaim, StorageClass};

const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const MIGRATED_TO: &str = "pv.kubernetes.io/migrated-to";
const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const PROVISIONER_BETA: &str = "volume.beta.kubernetes.io/storage-provisioner";
const DEFAULT_CLASS: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];

type Claim = PersistentVolumeClaim;
type Volume = PersistentVolume;

/// Something to do, in order; the rest is left for another time when one is refused.
#[derive(Clone, Debug)]
pub enum Step {
    /// The volume refers to the claim.
    Reserve(Arc<Volume>, Arc<Claim>),
    /// The volume refers to nobody, or to a claim that does not know yet.
    Free(Arc<Volume>),
    /// The volume's phase and message.
    VolumePhase(Arc<Volume>, &'static str, &'static str),
    /// The claim names the volume.
    Name(Arc<Claim>, Arc<Volume>),
    /// The claim's phase, with what the volume offers.
    ClaimPhase(Arc<Claim>, &'static str, Option<Arc<Volume>>),
    /// The claim has a class.
    Class(Arc<Claim>, String),
    /// Who is to make a volume for the claim.
    Provisioner(Arc<Claim>, String),
    /// An event about the claim.
    TellClaim(Arc<Claim>, EventType, &'static str, String),
    /// An event about the volume.
    TellVolume(Arc<Volume>, EventType, &'static str, String),
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The object is another one now.
    Changed,
    /// It is so already.
    Same,
    /// The object is no longer what was decided upon.
    Refused,
}

fn size(map: &BTreeMap<String, String>) -> Quantity {
    map.get("storage")
        .and_then(|text| Quantity::parse(text).ok())
        .unwrap_or_default()
}

/// The class that a claim asks for; empty for none.
pub fn class_of_claim(claim: &Claim) -> &str {
    let annotated = claim.metadata.annotations.get(CLASS);
    annotated
        .or(claim.spec.storage_class_name.as_ref())
        .map_or("", String::as_str)
}

/// The class of a volume; empty for none.
pub fn class_of_volume(volume: &Volume) -> &str {
    let annotated = volume.metadata.annotations.get(CLASS);
    annotated.map_or(&volume.spec.storage_class_name, |c| c)
}

/// The youngest of the classes that are marked as default, the first by name among those of one age.
pub fn default_class(classes: &[Arc<StorageClass>]) -> Option<&Arc<StorageClass>> {
    let is = |c: &&Arc<StorageClass>| {
        let mark = |name: &&str| c.metadata.annotations.get(*name).map(String::as_str);
        DEFAULT_CLASS.iter().any(|name| mark(name) == Some("true"))
    };
    classes.iter().filter(is).min_by(|a, b| {
        let age = |c: &StorageClass| c.metadata.creation_timestamp;
        let name = |c: &Arc<StorageClass>| c.metadata.name.clone();
        age(b).cmp(&age(a)).then_with(|| name(a).cmp(&name(b)))
    })
}

impl api::volumes::Claim for Claim {
    fn name(&self) -> &str {
        &self.metadata.name
    }

    fn namespace(&self) -> &str {
        &self.metadata.namespace
    }

    fn uid(&self) -> &str {
        &self.metadata.uid
    }

    fn class(&self) -> &str {
        class_of_claim(self)
    }

    fn access_modes(&self) -> &[String] {
        &self.spec.access_modes
    }

    fn size(&self) -> Quantity {
        size(&self.spec.resources.requests)
    }

    fn mode(&self) -> Option<&str> {
        self.spec.volume_mode.as_deref()
    }

    fn attributes_class(&self) -> &str {
        let name = self.spec.volume_attributes_class_name.as_deref();
        name.unwrap_or_default()
    }

    fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        let selector = self.spec.selector.as_ref();
        selector.is_none_or(|s| s.matches(labels))
    }
}

impl api::volumes::Volume for Volume {
    fn labels(&self) -> &BTreeMap<String, String> {
        &self.metadata.labels
    }

    fn class(&self) -> &str {
        class_of_volume(self)
    }

    fn access_modes(&self) -> &[String] {
        &self.spec.access_modes
    }

    fn size(&self) -> Quantity {
        size(&self.spec.capacity)
    }

    fn mode(&self) -> Option<&str> {
        self.spec.volume_mode.as_deref()
    }

    fn attributes_class(&self) -> &str {
        let name = self.spec.volume_attributes_class_name.as_deref();
        name.unwrap_or_default()
    }

    fn phase(&self) -> &str {
        &self.status.phase
    }

    fn is_deleting(&self) -> bool {
        self.metadata.is_deleting()
    }

    fn reference(&self) -> Option<(&str, &str, &str)> {
        let reference = self.spec.claim_ref.as_ref();
        reference.map(|r| (r.namespace.as_str(), r.name.as_str(), r.uid.as_str()))
    }
}

/// The volume for a claim: one that is reserved for it, else the one that wastes least, first in access modes, then in size.
/// A claim that waits for a consumer gets a reserved one only.
pub fn best_match(claim: &Claim, volumes: &[Arc<Volume>], delayed: bool) -> Option<Arc<Volume>> {
    let fits = |v: &&Arc<Volume>| suits(&***v, claim) && has_access(&***v, claim);
    let free = |v: &&Arc<Volume>| !delayed && is_free_for(&***v, claim);
    let rank = |v: &&Arc<Volume>| {
        let (spec, name) = (&v.spec, v.metadata.name.clone());
        (spec.access_modes.len(), size(&spec.capacity), name)
    };
    let fitting = || volumes.iter().filter(fits);
    let reserved = fitting()
        .filter(|v| refers_to(&***v, claim))
        .min_by_key(rank);
    reserved
        .or_else(|| fitting().filter(free).min_by_key(rank))
        .cloned()
}

/// Why a volume that a claim names is not for it.
fn mismatch(volume: &Volume, claim: &Claim) -> Option<String> {
    if volume.metadata.is_deleting() {
        let name = &volume.metadata.name;
        return Some(format!(
            "the volume is marked for deletion {}",
            go_quote(name)
        ));
    }
    let why = if size(&volume.spec.capacity) < size(&claim.spec.resources.requests) {
        "requested PV is too small"
    } else if class_of_volume(volume) != class_of_claim(claim) {
        "storageClassName does not match"
    } else if !same_attributes(volume, claim) {
        "volumeAttributesClassName does not match"
    } else if !same_mode(volume, claim) {
        "incompatible volumeMode"
    } else if !has_access(volume, claim) {
        "incompatible accessMode"
    } else {
        return None;
    };
    Some(why.to_owned())
}

/// What a claim is judged by.
pub struct Around<'a> {
    /// Volumes that may be for it: of its class, or reserved for it.
    pub volumes: &'a [Arc<Volume>],
    /// The volume that it names.
    pub named: Option<Arc<Volume>>,
    /// Its class.
    pub class: Option<Arc<StorageClass>>,
    /// The default class.
    pub default: Option<String>,
    /// Pods that use it and have no node yet.
    pub waiting: Vec<String>,
}

fn bind(volume: &Arc<Volume>, claim: &Arc<Claim>) -> Vec<Step> {
    vec![
        Step::Reserve(volume.clone(), claim.clone()),
        Step::VolumePhase(volume.clone(), "Bound", ""),
        Step::Name(claim.clone(), volume.clone()),
        Step::ClaimPhase(claim.clone(), "Bound", Some(volume.clone())),
    ]
}

/// What a claim calls for.
pub fn claim(claim: &Arc<Claim>, around: &Around<'_>) -> Vec<Step> {
    let tell =
        |kind, reason, message: String| Step::TellClaim(claim.clone(), kind, reason, message);
    let phase = |phase| Step::ClaimPhase(claim.clone(), phase, None);
    let lost = |reason, message: &str| {
        let mut steps = vec![phase("Lost")];
        if claim.status.phase != "Lost" {
            steps.push(tell(EventType::Warning, reason, message.to_owned()));
        }
        steps
    };
    let bound = claim.metadata.annotations.contains_key(BIND_COMPLETED);
    let named = !claim.spec.volume_name.is_empty();
    let volume = around.named.as_ref();
    match (bound, named, volume) {
        (false, false, _) => unbound(claim, around),
        (false, true, None) => vec![phase("Pending")],
        (false, true, Some(v)) if v.spec.claim_ref.is_none() => match mismatch(v, claim) {
            None => bind(v, claim),
            Some(why) => {
                let message = format!(
                    "Cannot bind to requested volume {}: {why}",
                    go_quote(&v.metadata.name)
                );
                vec![
                    tell(EventType::Warning, "VolumeMismatch", message),
                    phase("Pending"),
                ]
            }
        },
        (false, true, Some(v)) if refers_to(&**v, &**claim) => bind(v, claim),
        (false, true, Some(v)) => {
            let name = &v.metadata.name;
            let message = format!(
                "volume {} already bound to a different claim.",
                go_quote(name)
            );
            vec![
                tell(EventType::Warning, "FailedBinding", message),
                phase("Pending"),
            ]
        }
        (true, false, _) => lost(
            "ClaimLost",
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        ),
        (true, true, None) => lost(
            "ClaimLost",
            "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
        ),
        (true, true, Some(v)) => {
            let other = v.spec.claim_ref.as_ref();
            if other.is_none_or(|r| r.uid == claim.metadata.uid) {
                bind(v, claim)
            } else {
                lost(
                    "ClaimMisbound",
                    "Two claims are bound to the same volume, this one is bound incorrectly",
                )
            }
        }
    }
}

fn unbound(claim: &Arc<Claim>, around: &Around<'_>) -> Vec<Step> {
    let tell =
        |kind, reason, message: String| Step::TellClaim(claim.clone(), kind, reason, message);
    let class = around.class.as_deref();
    let waits = class.is_some_and(|c| c.volume_binding_mode == WAIT_FOR_FIRST_CONSUMER);
    if let Some(volume) = best_match(claim, around.volumes, waits) {
        return bind(&volume, claim);
    }
    let asked =
        claim.spec.storage_class_name.is_some() || claim.metadata.annotations.contains_key(CLASS);
    if let (false, Some(default)) = (asked, &around.default) {
        return vec![Step::Class(claim.clone(), default.clone())];
    }
    let name = class_of_claim(claim);
    let mut steps = Vec::new();
    if waits && !claim.metadata.annotations.contains_key(SELECTED_NODE) {
        let (reason, message) = match around.waiting.as_slice() {
            [] => (
                "WaitForFirstConsumer",
                "waiting for first consumer to be created before binding".to_owned(),
            ),
            [pod] => (
                "WaitForPodScheduled",
                format!("waiting for pod {pod} to be scheduled"),
            ),
            pods => (
                "WaitForPodScheduled",
                format!("waiting for pods {} to be scheduled", pods.join(",")),
            ),
        };
        steps.push(tell(EventType::Normal, reason, message));
    } else if name.is_empty() {
        let message = "no persistent volumes available for this claim and no storage class is set";
        steps.push(tell(EventType::Normal, "FailedBinding", message.to_owned()));
    } else {
        let provisioner = class.map(|c| migrated(&c.provisioner).unwrap_or(&c.provisioner));
        match provisioner {
            None => {
                let message = format!("storageclass.storage.k8s.io {} not found", go_quote(name));
                steps.push(tell(EventType::Warning, "ProvisioningFailed", message));
            }
            Some(p) if p.starts_with("kubernetes.io/") => {
                let message = format!("no volume plugin matched name: {p}");
                steps.push(tell(EventType::Warning, "ProvisioningFailed", message));
            }
            Some(p) => {
                steps.push(Step::Provisioner(claim.clone(), p.to_owned()));
                let message = format!(
                    "Waiting for a volume to be created either by the external provisioner '{p}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
                );
                steps.push(tell(EventType::Normal, "ExternalProvisioning", message));
            }
        }
    }
    steps.push(Step::ClaimPhase(claim.clone(), "Pending", None));
    steps
}

/// What is known of the claim that a volume refers to.
pub enum Referred {
    /// It is there.
    There(Arc<Claim>),
    /// The apiserver has no such claim.
    Gone,
}

/// What a volume calls for; `referred` is about the claim of its UID.
pub fn volume(volume: &Arc<Volume>, referred: Option<&Referred>) -> Vec<Step> {
    let phase = |phase| Step::VolumePhase(volume.clone(), phase, "");
    let claim = match (&volume.spec.claim_ref, referred) {
        (Some(r), Some(Referred::There(claim))) if !r.uid.is_empty() => claim,
        (Some(r), Some(Referred::Gone)) if !r.uid.is_empty() => return reclaim(volume),
        (Some(r), None) if !r.uid.is_empty() => return Vec::new(),
        _ => return vec![phase("Available")],
    };
    if claim.spec.volume_name == volume.metadata.name {
        return vec![phase("Bound")];
    }
    if claim.spec.volume_name.is_empty() {
        if same_mode(&**volume, &**claim) {
            return Vec::new();
        }
        return vec![
            Step::TellVolume(
                volume.clone(),
                EventType::Warning,
                "VolumeMismatch",
                format!(
                    "Cannot bind PersistentVolume to requested PersistentVolumeClaim {} due to incompatible volumeMode.",
                    go_quote(&claim.metadata.name)
                ),
            ),
            Step::TellClaim(
                claim.clone(),
                EventType::Warning,
                "VolumeMismatch",
                format!(
                    "Cannot bind PersistentVolume {} to requested PersistentVolumeClaim due to incompatible volumeMode.",
                    go_quote(&volume.metadata.name)
                ),
            ),
        ];
    }
    // The claim is bound elsewhere.
    let made_for_it = volume.metadata.annotations.contains_key(PROVISIONED_BY)
        && volume.spec.persistent_volume_reclaim_policy == "Delete";
    if made_for_it {
        return reclaim(volume);
    }
    vec![Step::Free(volume.clone()), phase("Available")]
}

/// The claim is gone. Volumes of drivers are deleted by them; of the others none can be deleted or recycled here.
fn reclaim(volume: &Arc<Volume>) -> Vec<Step> {
    let old = volume.status.phase.as_str();
    let mut steps = Vec::new();
    if old != "Released" && old != "Failed" {
        steps.push(Step::VolumePhase(volume.clone(), "Released", ""));
    }
    let annotations = &volume.metadata.annotations;
    if annotations.get(MIGRATED_TO).is_some_and(|m| !m.is_empty()) {
        return steps;
    }
    let provisioner = annotations.get(PROVISIONED_BY).filter(|p| !p.is_empty());
    let (reason, message) = match volume.spec.persistent_volume_reclaim_policy.as_str() {
        "Retain" => return steps,
        "Delete" => match provisioner {
            Some(p) if !p.starts_with("kubernetes.io/") => return steps,
            None if volume.spec.csi.is_some() => return steps,
            _ => ("VolumeFailedDelete", "no deletable volume plugin matched"),
        },
        "Recycle" => (
            "VolumeFailedRecycle",
            "No recycler plugin found for the volume!",
        ),
        _ => (
            "VolumeUnknownReclaimPolicy",
            "Volume has unrecognized PersistentVolumeReclaimPolicy",
        ),
    };
    if old != "Failed" {
        steps.push(Step::VolumePhase(volume.clone(), "Failed", message));
        let name = &volume.metadata.name;
        let told = if reason == "VolumeFailedDelete" {
            format!(
                "error getting deleter volume plugin for volume {}: {message}",
                go_quote(name)
            )
        } else {
            message.to_owned()
        };
        steps.push(Step::TellVolume(
            volume.clone(),
            EventType::Warning,
            reason,
            told,
        ));
    }
    steps
}

fn annotate(object: &mut Value, name: &str, value: &str) -> Option<()> {
    let metadata = object.get_mut("metadata")?.as_object_mut()?;
    let map = metadata.entry("annotations").or_insert_with(|| json!({}));
    map.as_object_mut()?.insert(name.into(), value.into());
    Some(())
}

fn put(object: &mut Value, part: &str, name: &str, value: Value) -> Option<()> {
    let object = object.as_object_mut()?;
    let part = object.entry(part).or_insert_with(|| json!({}));
    part.as_object_mut()?.insert(name.into(), value);
    Some(())
}

fn take(object: &mut Value, part: &str, name: &str) {
    if let Some(part) = object.get_mut(part).and_then(Value::as_object_mut) {
        part.remove(name);
    }
}

impl Step {
    /// Whether it is so already as far as is known.
    pub fn is_done(&self) -> bool {
        match self {
            Step::Reserve(volume, claim) => {
                let reference = volume.spec.claim_ref.as_ref();
                reference.is_some_and(|r| r.uid == claim.metadata.uid)
                    && refers_to(&**volume, &**claim)
            }
            Step::VolumePhase(volume, phase, message) => {
                volume.status.phase == *phase && volume.status.message == *message
            }
            Step::Name(claim, volume) => {
                claim.spec.volume_name == volume.metadata.name
                    && claim.metadata.annotations.contains_key(BIND_COMPLETED)
            }
            Step::ClaimPhase(claim, phase, volume) => {
                let (status, modes) =
                    (&claim.status, volume.as_ref().map(|v| &v.spec.access_modes));
                let same = match modes {
                    Some(modes) => status.access_modes == *modes,
                    None => status.access_modes.is_empty() && status.capacity.is_empty(),
                };
                status.phase == *phase && same
            }
            Step::Provisioner(claim, name) => {
                claim.metadata.annotations.get(PROVISIONER) == Some(name)
            }
            Step::Free(_) | Step::Class(..) | Step::TellClaim(..) | Step::TellVolume(..) => false,
        }
    }

    /// Changes the newest version of the step's object, which has the UID of the one that was decided upon.
    pub fn apply(&self, object: &mut Value) -> Applied {
        let before = object.clone();
        if self.change(object).is_none() {
            *object = before;
            return Applied::Refused;
        }
        if *object == before {
            Applied::Same
        } else {
            Applied::Changed
        }
    }

    fn change(&self, o: &mut Value) -> Option<()> {
        match self {
            Step::Reserve(_, claim) => {
                let meta = &claim.metadata;
                let now: Option<ClaimReference> = match o.pointer("/spec/claimRef") {
                    None | Some(Value::Null) => None,
                    Some(r) => Some(serde_json::from_value(r.clone()).ok()?),
                };
                let has = o.pointer("/metadata/deletionTimestamp").is_some();
                let ours = now.as_ref().is_some_and(|r| {
                    r.name == meta.name
                        && r.namespace == meta.namespace
                        && (r.uid.is_empty() || r.uid == meta.uid)
                });
                if !ours && (has || now.is_some()) {
                    return None;
                }
                if now.as_ref().is_some_and(|r| r.uid == meta.uid) {
                    return Some(());
                }
                if !ours {
                    annotate(o, BOUND_BY_CONTROLLER, "yes")?;
                }
                let reference = json!({
                    "kind": "PersistentVolumeClaim", "apiVersion": "v1",
                    "namespace": meta.namespace, "name": meta.name, "uid": meta.uid,
                    "resourceVersion": meta.resource_version,
                });
                put(o, "spec", "claimRef", reference)
            }
            Step::Free(volume) => {
                let reference = volume.spec.claim_ref.as_ref()?;
                let now = o.pointer("/spec/claimRef/uid").and_then(Value::as_str);
                if now != Some(reference.uid.as_str()) {
                    return None;
                }
                let ours = o
                    .pointer("/metadata/annotations")
                    .and_then(|a| a.get(BOUND_BY_CONTROLLER));
                if ours.is_some() {
                    take(o, "spec", "claimRef");
                    let metadata = o.get_mut("metadata")?;
                    take(metadata, "annotations", BOUND_BY_CONTROLLER);
                } else {
                    let spec = o.get_mut("spec")?;
                    take(spec, "claimRef", "uid");
                }
                Some(())
            }
            Step::VolumePhase(_, phase, message) => {
                put(o, "status", "phase", (*phase).into())?;
                if message.is_empty() {
                    take(o, "status", "message");
                    Some(())
                } else {
                    put(o, "status", "message", (*message).into())
                }
            }
            Step::Name(_, volume) => {
                let name = volume.metadata.name.as_str();
                let now = o.pointer("/spec/volumeName").and_then(Value::as_str);
                match now.unwrap_or_default() {
                    "" => {
                        put(o, "spec", "volumeName", name.into())?;
                        annotate(o, BOUND_BY_CONTROLLER, "yes")?;
                    }
                    now if now != name => return None,
                    _ => {}
                }
                annotate(o, BIND_COMPLETED, "yes")
            }
            Step::ClaimPhase(_, phase, volume) => {
                let old = o.pointer("/status/phase").and_then(Value::as_str);
                let (fresh, pending) = (old != Some(*phase), old == Some("Pending"));
                put(o, "status", "phase", (*phase).into())?;
                let Some(volume) = volume else {
                    for name in [
                        "accessModes",
                        "capacity",
                        "currentVolumeAttributesClassName",
                    ] {
                        take(o, "status", name);
                    }
                    return Some(());
                };
                put(o, "status", "accessModes", json!(volume.spec.access_modes))?;
                // Later on what the file system holds may differ on purpose.
                if fresh {
                    put(o, "status", "capacity", json!(volume.spec.capacity))?;
                }
                match &volume.spec.volume_attributes_class_name {
                    Some(class) if pending => put(
                        o,
                        "status",
                        "currentVolumeAttributesClassName",
                        json!(class),
                    ),
                    _ => Some(()),
                }
            }
            Step::Class(_, class) => {
                let now = o.pointer("/spec/storageClassName");
                if now.is_some_and(|n| !n.is_null()) {
                    return None;
                }
                put(o, "spec", "storageClassName", class.as_str().into())
            }
            Step::Provisioner(_, name) => {
                annotate(o, PROVISIONER_BETA, name)?;
                annotate(o, PROVISIONER, name)
            }
            Step::TellClaim(..) | Step::TellVolume(..) => Some(()),
        }
    }
}
