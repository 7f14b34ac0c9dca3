//! Which volumes a pod could have on a node: what its claims have, what is free for them, and what could be made.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use api::text::go_quote;
use api::volumes::{
    Claim as _, NO_PROVISIONER, SELECTED_NODE, Volume, WAIT_FOR_FIRST_CONSUMER, has_access,
    is_free_for, refers_to, suits, usable_on,
};

use super::Storage;
use super::view::{CapacityView, ClaimView, ClassView, VolumeView};
use crate::framework::{Reason, Refusal};
use crate::pod::Pod;
use crate::selector::labels_match;

/// The free volumes of the claim's class are on other nodes, or there are none.
pub const NOT_FOUND: &str = "node(s) didn't find available persistent volumes to bind";
/// A volume that the pod has cannot be used on the node.
pub const ELSEWHERE: &str = "node(s) didn't match PersistentVolume's node affinity";
/// There is no room for a volume that would have to be made.
pub const NO_ROOM: &str = "node(s) did not have enough free storage";
/// A claim is bound to a volume that is gone.
pub const NO_VOLUME: &str =
    "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";

/// A volume, with what is promised.
struct Seen<'a> {
    view: &'a VolumeView,
    reference: Option<(&'a str, &'a str, &'a str)>,
}

impl<'a> Seen<'a> {
    fn of(view: &'a VolumeView, storage: &'a Storage) -> Seen<'a> {
        let written = view.spec.claim_ref.as_ref();
        let written = written.map(|r| (r.namespace.as_str(), r.name.as_str(), r.uid.as_str()));
        let taken = storage.reservations.taken(&view.metadata.name);
        let taken = taken.map(|t| (t.namespace.as_str(), t.name.as_str(), t.uid.as_str()));
        Seen {
            view,
            reference: taken.or(written),
        }
    }
}

impl Volume for Seen<'_> {
    fn labels(&self) -> &BTreeMap<String, String> {
        &self.view.metadata.labels
    }

    fn class(&self) -> &str {
        self.view.class()
    }

    fn access_modes(&self) -> &[String] {
        &self.view.spec.access_modes
    }

    fn size(&self) -> api::quantity::Quantity {
        self.view.spec.capacity.unwrap_or_default()
    }

    fn mode(&self) -> Option<&str> {
        self.view.spec.volume_mode.as_deref()
    }

    fn attributes_class(&self) -> &str {
        let name = self.view.spec.volume_attributes_class_name.as_deref();
        name.unwrap_or_default()
    }

    fn phase(&self) -> &str {
        &self.view.status.phase
    }

    fn is_deleting(&self) -> bool {
        self.view.metadata.deletion_timestamp.is_some()
    }

    fn reference(&self) -> Option<(&str, &str, &str)> {
        self.reference
    }
}

fn usable(volume: &VolumeView, labels: &BTreeMap<String, String>) -> bool {
    usable_on(volume.spec.node_affinity.as_ref(), None, labels)
}

/// Volumes that a claim could get, the smallest first, found by what a node's labels say: that each node has a volume of its
/// own is what local volumes are for, so they are not all looked at for each node.
struct Candidates<'a> {
    /// One that is reserved for the claim rules out all others.
    reserved: Option<&'a VolumeView>,
    free: Vec<&'a VolumeView>,
    /// Positions of those that no single label tells.
    anywhere: Vec<usize>,
    /// Positions by label and value.
    by_label: HashMap<&'a str, HashMap<&'a str, Vec<usize>>>,
}

impl<'a> Candidates<'a> {
    fn of(claim: &ClaimView, storage: &'a Storage) -> Candidates<'a> {
        let mut all = Candidates {
            reserved: None,
            free: Vec::new(),
            anywhere: Vec::new(),
            by_label: HashMap::new(),
        };
        for view in storage.volumes_of(claim.class()) {
            let seen = Seen::of(view, storage);
            if !suits(&seen, claim) {
                continue;
            }
            if refers_to(&seen, claim) {
                all.reserved = Some(view);
                return all;
            }
            if is_free_for(&seen, claim) && has_access(&seen, claim) {
                all.free.push(view);
            }
        }
        all.free
            .sort_by_key(|v| v.spec.capacity.unwrap_or_default());
        for (i, volume) in all.free.iter().enumerate() {
            match single_labels(volume) {
                Some(labels) => {
                    for (key, value) in labels {
                        let values = all.by_label.entry(key).or_default();
                        values.entry(value).or_default().push(i);
                    }
                }
                None => all.anywhere.push(i),
            }
        }
        all
    }

    fn on(
        &self,
        labels: &BTreeMap<String, String>,
        chosen: &HashSet<&str>,
    ) -> Option<&'a VolumeView> {
        if let Some(volume) = self.reserved {
            return usable(volume, labels).then_some(volume);
        }
        let named = self
            .by_label
            .iter()
            .filter_map(|(key, values)| values.get(labels.get(*key)?.as_str()));
        let first = |places: &Vec<usize>| {
            places.iter().copied().find(|i| {
                self.free.get(*i).is_some_and(|v| {
                    usable(v, labels) && !chosen.contains(v.metadata.name.as_str())
                })
            })
        };
        let best = named
            .chain(std::iter::once(&self.anywhere))
            .filter_map(first)
            .min()?;
        self.free.get(best).copied()
    }
}

/// Labels of which a node must have one to have the volume; none when that is not how its affinity is.
fn single_labels(volume: &VolumeView) -> Option<Vec<(&str, &str)>> {
    let required = volume.spec.node_affinity.as_ref()?.required.as_ref()?;
    let mut labels = Vec::new();
    for term in &required.node_selector_terms {
        let one = term.match_expressions.iter().find(|r| r.operator == "In")?;
        labels.extend(one.values.iter().map(|v| (one.key.as_str(), v.as_str())));
    }
    Some(labels)
}

/// Whether volumes can be made for a claim.
enum Provision<'a> {
    /// Nobody makes any.
    Never,
    /// Of this class; on nodes for which one of these tells of enough room, where the driver tells of it.
    Of(&'a ClassView, Option<Vec<&'a CapacityView>>),
}

impl<'a> Provision<'a> {
    fn of(claim: &ClaimView, class: &'a ClassView, storage: &'a Storage) -> Provision<'a> {
        let provisioner = class.provisioner.as_str();
        if provisioner.is_empty() || provisioner == NO_PROVISIONER {
            return Provision::Never;
        }
        let wanted = claim.spec.resources.storage;
        let room = wanted.filter(|_| storage.tells_room(provisioner));
        let room = room.map(|wanted| {
            let enough = |c: &&Arc<CapacityView>| c.limit().is_some_and(|l| l >= wanted);
            let of_class = storage.room_of(&class.metadata.name);
            of_class.filter(enough).map(|c| &**c).collect()
        });
        Provision::Of(class, room)
    }
}

struct Unbound<'a> {
    claim: &'a Arc<ClaimView>,
    /// The node that a volume is to be made for, or being made for.
    selected: Option<&'a str>,
    candidates: Candidates<'a>,
    provision: Provision<'a>,
}

/// A pod's claims, and what there is for them.
#[derive(Default)]
pub struct Wanted<'a> {
    /// Volumes that claims are bound to; none for one that is gone.
    bound: Vec<Option<&'a VolumeView>>,
    unbound: Vec<Unbound<'a>>,
}

/// What a pod gets on a node.
#[derive(Default)]
pub struct Found<'a> {
    /// Why it cannot run there.
    pub reasons: Vec<&'static str>,
    /// Free volumes for claims.
    pub bindings: Vec<(&'a VolumeView, &'a Arc<ClaimView>)>,
    /// Claims for which volumes are to be made.
    pub provisions: Vec<&'a Arc<ClaimView>>,
}

/// The error for a claim that is not there.
pub fn not_found(name: &str) -> String {
    format!("persistentvolumeclaim {} not found", go_quote(name))
}

/// The error for an ephemeral volume's claim that belongs to somebody else.
pub fn not_made_for(pod: &Pod, claim: &str) -> String {
    let m = &pod.view.metadata;
    let (space, name) = (&m.namespace, &m.name);
    format!("PVC {space}/{claim} was not created for pod {space}/{name} (pod is not owner)")
}

/// Whether a claim is bound when a pod that uses it is placed.
fn waits(claim: &ClaimView, storage: &Storage) -> Result<bool, Refusal> {
    let name = claim.class();
    let Some(class) = storage.class(name).filter(|_| !name.is_empty()) else {
        return Ok(false);
    };
    match class.volume_binding_mode.as_deref() {
        Some(mode) => Ok(mode == WAIT_FOR_FIRST_CONSUMER),
        None => Err(Refusal::Error(format!(
            "VolumeBindingMode not set for StorageClass {}",
            go_quote(name)
        ))),
    }
}

/// Whether a pod's claims are there, are its own, and are bound or wait for it.
pub fn check(pod: &Pod, storage: &Storage) -> Result<(), Refusal> {
    let unfit = |text: String| Err(Refusal::Unfit(Reason::fixed(text)));
    for wanted in &pod.usage.claims {
        let Some(claim) = storage.claim(&wanted.key) else {
            let name = &wanted.name;
            return unfit(if wanted.ephemeral {
                let name = go_quote(name);
                format!(
                    "waiting for ephemeral volume controller to create the persistentvolumeclaim {name}"
                )
            } else {
                not_found(name)
            });
        };
        if claim.status.phase == "Lost" {
            return unfit(format!(
                "persistentvolumeclaim {} bound to non-existent persistentvolume {}",
                go_quote(&wanted.name),
                go_quote(&claim.spec.volume_name)
            ));
        }
        if claim.metadata.deletion_timestamp.is_some() {
            let name = go_quote(&wanted.name);
            return unfit(format!("persistentvolumeclaim {name} is being deleted"));
        }
        if wanted.ephemeral && !claim.is_of(pod.uid()) {
            return unfit(not_made_for(pod, &wanted.name));
        }
    }
    for wanted in &pod.usage.claims {
        let Some(claim) = storage.claim(&wanted.key).filter(|c| !c.is_bound()) else {
            continue;
        };
        if !waits(claim, storage)? || !claim.spec.volume_name.is_empty() {
            return unfit("pod has unbound immediate PersistentVolumeClaims".into());
        }
    }
    Ok(())
}

impl<'a> Wanted<'a> {
    /// For a pod that passed [`check`].
    pub fn of(pod: &Pod, storage: &'a Storage) -> Wanted<'a> {
        let mut wanted = Wanted::default();
        for c in &pod.usage.claims {
            let Some(claim) = storage.claim(&c.key) else {
                continue;
            };
            if claim.is_bound() {
                let volume = storage.volume(&claim.spec.volume_name);
                wanted.bound.push(volume.map(|v| &**v));
                continue;
            }
            let Some(class) = storage.class(claim.class()) else {
                continue;
            };
            let promised = storage.reservations.selected(&c.key);
            let promised = promised.filter(|s| s.uid == claim.metadata.uid);
            let annotated = claim.metadata.annotations.get(SELECTED_NODE);
            let selected = promised.map(|s| &s.node).or(annotated);
            wanted.unbound.push(Unbound {
                claim,
                selected: selected.map(String::as_str),
                candidates: Candidates::of(claim, storage),
                provision: Provision::of(claim, class, storage),
            });
        }
        wanted
    }

    /// What there is on a node.
    pub fn on(&self, node: &str, labels: &BTreeMap<String, String>) -> Found<'a> {
        let mut found = Found::default();
        let mut missing = false;
        for volume in &self.bound {
            match volume {
                None => missing = true,
                Some(v) if !usable(v, labels) => found.reasons.push(ELSEWHERE),
                Some(_) => continue,
            }
            break;
        }
        self.unbound_on(node, labels, &mut found);
        if missing {
            found.reasons.push(NO_VOLUME);
        }
        found
    }

    fn unbound_on(&self, node: &str, labels: &BTreeMap<String, String>, found: &mut Found<'a>) {
        let (mut to_make, mut to_match) = (Vec::new(), Vec::new());
        for wanted in &self.unbound {
            match wanted.selected {
                None => to_match.push(wanted),
                Some(selected) if selected == node => to_make.push(wanted),
                Some(_) => return found.reasons.push(NOT_FOUND),
            }
        }
        // The smallest choose first, so that what is large is left for those that need it.
        to_match.sort_by_key(|w| w.claim.size());
        let mut chosen = HashSet::new();
        for wanted in to_match {
            match wanted.candidates.on(labels, &chosen) {
                Some(volume) => {
                    chosen.insert(volume.metadata.name.as_str());
                    found.bindings.push((volume, wanted.claim));
                }
                None => to_make.push(wanted),
            }
        }
        for wanted in to_make {
            let Provision::Of(class, room) = &wanted.provision else {
                return found.reasons.push(NOT_FOUND);
            };
            if !class.allows(labels) {
                return found.reasons.push(NOT_FOUND);
            }
            let here = |c: &&CapacityView| labels_match(c.node_topology.as_ref(), labels);
            if room.as_ref().is_some_and(|all| !all.iter().any(here)) {
                return found.reasons.push(NO_ROOM);
            }
            found.provisions.push(wanted.claim);
        }
    }
}
