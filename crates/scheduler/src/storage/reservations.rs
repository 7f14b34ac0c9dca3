//! What was promised to pods that have a node and wait for their volumes: volumes to claims, and nodes to claims for which
//! volumes are to be made.
//!
//! A promise lasts until the last pod that it was made for gives it back. One that was written is kept until the API shows it:
//! until then the volume looks free there.

use std::collections::{BTreeSet, HashMap};

use super::view::{ClaimView, VolumeView};

/// Who has a promise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// Pods: several may use one claim.
    pub pods: BTreeSet<String>,
    /// The version that was written and not seen when a pod gave it back.
    pub late: Option<u64>,
}

impl Holders {
    /// Gives it back for a pod. Whether nobody needs it any more.
    fn release(&mut self, pod: &str, written: Option<u64>, seen: Option<u64>) -> bool {
        self.pods.remove(pod);
        if let (Some(written), Some(seen)) = (written, seen)
            && seen < written
        {
            self.late = self.late.max(Some(written));
        }
        self.pods.is_empty() && self.late.is_none()
    }

    /// The API shows a version. Whether nobody needs the promise any more.
    fn seen(&mut self, version: u64) -> bool {
        if self.late.is_some_and(|l| l <= version) {
            self.late = None;
        }
        self.pods.is_empty() && self.late.is_none()
    }
}

/// A volume for a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The claim's namespace.
    pub namespace: String,
    /// The claim's name.
    pub name: String,
    /// The claim's identity.
    pub uid: String,
    /// For whom.
    pub holders: Holders,
}

/// A node for a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    /// The node.
    pub node: String,
    /// The claim's identity.
    pub uid: String,
    /// For whom.
    pub holders: Holders,
}

/// A volume that a pod's claim is to get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The volume.
    pub volume: String,
    /// The claim's key.
    pub claim: String,
    /// The version that the reference to the claim made of the volume.
    pub written: Option<u64>,
}

/// A claim of a pod for which a volume is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provision {
    /// The claim's key.
    pub claim: String,
    /// The version that the node made of the claim.
    pub written: Option<u64>,
}

/// What one pod holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The node.
    pub node: String,
    /// Volumes for claims.
    pub bindings: Vec<Binding>,
    /// Claims for which volumes are to be made.
    pub provisions: Vec<Provision>,
}

impl Held {
    fn claims(&self) -> impl Iterator<Item = &String> {
        let bound = self.bindings.iter().map(|b| &b.claim);
        bound.chain(self.provisions.iter().map(|p| &p.claim))
    }
}

/// Everything that is promised.
#[derive(Clone, Debug, Default)]
pub struct Reservations {
    held: HashMap<String, Held>,
    taken: HashMap<String, Taken>,
    selected: HashMap<String, Selected>,
    /// Pods by the claims they wait for.
    by_claim: HashMap<String, BTreeSet<String>>,
}

impl Reservations {
    /// What a pod holds.
    pub fn of(&self, pod: &str) -> Option<&Held> {
        self.held.get(pod)
    }

    /// The pods that hold something.
    pub fn pods(&self) -> impl Iterator<Item = &String> {
        self.held.keys()
    }

    /// To which claim a volume is promised.
    pub fn taken(&self, volume: &str) -> Option<&Taken> {
        self.taken.get(volume)
    }

    /// Which node is promised to a claim.
    pub fn selected(&self, claim: &str) -> Option<&Selected> {
        self.selected.get(claim)
    }

    /// The pods that wait for a claim.
    pub fn pods_of_claim(&self, key: &str) -> Vec<String> {
        let pods = self.by_claim.get(key);
        pods.into_iter().flatten().cloned().collect()
    }

    /// The pods that wait for a volume.
    pub fn pods_of_volume(&self, name: &str) -> Vec<String> {
        let taken = self.taken.get(name);
        taken
            .iter()
            .flat_map(|t| &t.holders.pods)
            .cloned()
            .collect()
    }

    /// The pods that wait for a claim that this one waits for too.
    pub fn beside(&self, pod: &str) -> BTreeSet<String> {
        let claims = self.held.get(pod).into_iter().flat_map(Held::claims);
        let mut all: BTreeSet<String> = claims
            .filter_map(|c| self.by_claim.get(c))
            .flatten()
            .cloned()
            .collect();
        all.remove(pod);
        all
    }

    /// Promises volumes and nodes to a pod.
    pub fn hold(
        &mut self,
        pod: &str,
        node: &str,
        bindings: &[(&VolumeView, &ClaimView)],
        provisions: &[&ClaimView],
    ) {
        let mut held = Held {
            node: node.to_owned(),
            ..Held::default()
        };
        for (volume, claim) in bindings {
            let (name, meta) = (&volume.metadata.name, &claim.metadata);
            let taken = self.taken.entry(name.clone()).or_insert_with(|| Taken {
                namespace: meta.namespace.clone(),
                name: meta.name.clone(),
                uid: meta.uid.clone(),
                holders: Holders::default(),
            });
            taken.holders.pods.insert(pod.to_owned());
            held.bindings.push(Binding {
                volume: name.clone(),
                claim: meta.key(),
                written: None,
            });
        }
        for claim in provisions {
            let (key, uid) = (claim.metadata.key(), &claim.metadata.uid);
            let new = || Selected {
                node: node.to_owned(),
                uid: uid.clone(),
                holders: Holders::default(),
            };
            let selected = self.selected.entry(key.clone()).or_insert_with(new);
            if selected.uid != *uid || selected.node != node {
                *selected = new();
            }
            selected.holders.pods.insert(pod.to_owned());
            held.provisions.push(Provision {
                claim: key,
                written: None,
            });
        }
        for claim in held.claims() {
            let pods = self.by_claim.entry(claim.clone()).or_default();
            pods.insert(pod.to_owned());
        }
        self.held.insert(pod.to_owned(), held);
    }

    /// The versions that were written for a pod: of its volumes first, then of its claims, as far as it went.
    pub fn written(&mut self, pod: &str, versions: &[u64]) {
        let Some(held) = self.held.get_mut(pod) else {
            return;
        };
        let bound = held.bindings.iter_mut().map(|b| &mut b.written);
        let made = held.provisions.iter_mut().map(|p| &mut p.written);
        for (place, version) in bound.chain(made).zip(versions) {
            *place = Some(*version);
        }
    }

    /// A pod gives back what it holds. `volume` and `claim` tell which versions the API shows.
    pub fn release(
        &mut self,
        pod: &str,
        volume: impl Fn(&str) -> Option<u64>,
        claim: impl Fn(&str) -> Option<u64>,
    ) {
        let Some(held) = self.held.remove(pod) else {
            return;
        };
        for b in &held.bindings {
            let taken = self.taken.get_mut(&b.volume);
            let seen = volume(&b.volume);
            if taken.is_some_and(|t| t.holders.release(pod, b.written, seen)) {
                self.taken.remove(&b.volume);
            }
        }
        for p in &held.provisions {
            let selected = self.selected.get_mut(&p.claim);
            let seen = claim(&p.claim);
            if selected.is_some_and(|s| s.holders.release(pod, p.written, seen)) {
                self.selected.remove(&p.claim);
            }
        }
        for key in held.claims() {
            if let Some(pods) = self.by_claim.get_mut(key) {
                pods.remove(pod);
                if pods.is_empty() {
                    self.by_claim.remove(key);
                }
            }
        }
    }

    /// The API shows a volume.
    pub fn volume_seen(&mut self, volume: &VolumeView) {
        let (name, version) = (&volume.metadata.name, volume.metadata.version());
        let taken = self.taken.get_mut(name);
        if taken.is_some_and(|t| t.holders.seen(version)) {
            self.taken.remove(name);
        }
    }

    /// A volume is gone.
    pub fn volume_gone(&mut self, name: &str) {
        self.taken.remove(name);
    }

    /// The API shows a claim.
    pub fn claim_seen(&mut self, key: &str, claim: &ClaimView) {
        let version = claim.metadata.version();
        let selected = self.selected.get_mut(key);
        if selected.is_some_and(|s| s.holders.seen(version)) {
            self.selected.remove(key);
        }
    }

    /// A claim is gone.
    pub fn claim_gone(&mut self, key: &str) {
        self.selected.remove(key);
    }
}
