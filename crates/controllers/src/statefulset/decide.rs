//! What to do about a StatefulSet's pods and claims.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use client::Time;
use serde_json::Value;

use super::identity::{
    PodId, REVISION, claim_is_stale, claim_names, conflicts, first_ordinal, identity_matches,
    in_range, ordinal, owners_match, pod_name, replicas, storage_matches,
};
use crate::children::BURST;
use crate::deployment::scaled_value;
use crate::views::{PersistentVolumeClaim, Pod, StatefulSet, StatefulSetStatus};

/// As many claims of new pods are looked after in one pass.
const CLAIMS: usize = 20 * BURST;

/// A template that the set has or had.
#[derive(Clone, Copy, Debug)]
pub struct Revision<'a> {
    /// Of the ControllerRevision.
    pub name: &'a str,
    /// Of the pods.
    pub template: &'a Value,
}

/// What is known of a set.
pub struct World<'a> {
    /// The set.
    pub set: &'a StatefulSet,
    /// Its pods.
    pub pods: &'a [Arc<Pod>],
    /// A claim of its namespace, by name.
    pub claim: &'a dyn Fn(&str) -> Option<Arc<PersistentVolumeClaim>>,
    /// What its pods were before the update that is going on; else the same as `update`.
    pub current: Revision<'a>,
    /// What its pods shall be.
    pub update: Revision<'a>,
    /// Of names of revisions.
    pub collisions: i32,
    /// Whether an update may take as many pods at once as the set says.
    pub max_unavailable: bool,
    /// The moment.
    pub now: Time,
}

/// What to do about a pod's claims.
#[derive(Debug, Default, PartialEq)]
pub struct Claims {
    /// Those that are not there.
    pub missing: BTreeSet<String>,
    /// Those that are being deleted: the pod cannot have them.
    pub going: Vec<String>,
    /// Those that something else manages.
    pub conflicts: Vec<String>,
    /// Those whose owners are not what the retention policy asks for.
    pub owners: Vec<String>,
}

impl Claims {
    fn len(&self) -> usize {
        self.missing.len() + self.going.len() + self.owners.len()
    }

    /// Conflicts are told of only where owners are changed.
    fn if_owned_wrongly(mut self) -> Claims {
        if self.owners.is_empty() {
            self.conflicts.clear();
        }
        self
    }
}

/// One thing to do about a pod.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// The claims that are missing, then the pod, as it was before the update (the flag) or shall be, then the owners of
    /// its claims.
    Create(PodId, bool, Claims),
    /// It goes.
    Delete(PodId),
    /// The claims of a pod that waits for them.
    Claims(PodId, Claims),
    /// The pod is not who it should be (the flag), or the owners of its claims are not.
    Mend(PodId, bool, Claims),
    /// The owners of the claims of a pod that is not wanted.
    Own(PodId, Claims),
}

/// What to do, in stages: one begins when all of the one before went well.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// First what is wanted, then what is not.
    pub stages: Vec<Vec<Step>>,
    /// Then pods to be replaced, one after the other, each of which is no current replica any more.
    pub replaced: Vec<PodId>,
    /// Whether steps are taken at once rather than one after the other.
    pub parallel: bool,
    /// Whether there is more to do than one pass does.
    pub more: bool,
    /// Before what is replaced; see [`complete`].
    pub status: StatefulSetStatus,
}

fn is_created(pod: &Pod) -> bool {
    !pod.status.phase.is_empty()
}

fn revision(pod: &Pod) -> &str {
    pod.metadata.labels.get(REVISION).map_or("", String::as_str)
}

/// Most pods that an update makes unavailable at once.
pub fn max_unavailable(set: &StatefulSet) -> i64 {
    let rolling = set.spec.update_strategy.rolling_update.as_ref();
    let Some(most) = rolling.and_then(|r| r.max_unavailable.as_ref()) else {
        return 1;
    };
    let total = i32::try_from(replicas(set)).unwrap_or(i32::MAX);
    i64::from(scaled_value(most, total, false)).max(1)
}

/// The number of pods that the next update may not touch.
fn partition(set: &StatefulSet) -> i64 {
    let rolling = set.spec.update_strategy.rolling_update.as_ref();
    i64::from(rolling.map_or(0, |r| r.partition.max(0)))
}

impl World<'_> {
    fn is_available(&self, pod: &Pod) -> bool {
        pod.is_available(self.set.spec.min_ready_seconds, self.now)
    }

    fn is_unavailable(&self, pod: &Pod) -> bool {
        !self.is_available(pod) || pod.metadata.is_deleting()
    }

    fn is_ready(pod: &Pod) -> bool {
        pod.status.phase == "Running" && pod.is_ready()
    }

    fn status<'p>(&self, pods: impl Iterator<Item = &'p Arc<Pod>>) -> StatefulSetStatus {
        let mut s = StatefulSetStatus {
            observed_generation: self.set.metadata.generation,
            current_revision: self.current.name.into(),
            update_revision: self.update.name.into(),
            collision_count: Some(self.collisions),
            ..StatefulSetStatus::default()
        };
        for pod in pods {
            let count = |n: &mut i32, is: bool| *n = n.saturating_add(i32::from(is));
            let ready = Self::is_ready(pod);
            let there = is_created(pod) && !pod.metadata.is_deleting();
            count(&mut s.replicas, is_created(pod));
            count(&mut s.ready_replicas, ready);
            count(&mut s.available_replicas, ready && self.is_available(pod));
            count(
                &mut s.current_replicas,
                there && revision(pod) == self.current.name,
            );
            count(
                &mut s.updated_replicas,
                there && revision(pod) == self.update.name,
            );
        }
        s
    }

    /// Whether the pod that is made for an ordinal is as before the update.
    fn is_kept(&self, ordinal: i64) -> bool {
        let strategy = &self.set.spec.update_strategy;
        let kept = match &strategy.rolling_update {
            Some(_) => partition(self.set),
            None if strategy.kind == "RollingUpdate" => i64::from(self.set.status.current_replicas),
            None => 0,
        };
        ordinal < first_ordinal(self.set).saturating_add(kept)
    }

    /// The claims of a pod, and which of them to look at.
    fn claims(&self, pod: &PodId, missing: bool, owned: bool) -> Claims {
        let mut out = Claims::default();
        let Some(ordinal) = ordinal(&pod.name) else {
            return out;
        };
        for name in claim_names(self.set, ordinal) {
            let Some(claim) = (self.claim)(&name) else {
                if missing {
                    out.missing.insert(name);
                }
                continue;
            };
            let owners = &claim.metadata.owner_references;
            if missing && claim.metadata.is_deleting() {
                out.going.push(name.clone());
            }
            if owned && conflicts(self.set, owners, pod) {
                out.conflicts.push(name.clone());
            }
            if owned && !owners_match(self.set, owners, pod) {
                out.owners.push(name);
            }
        }
        out
    }

    fn is_stale(&self, pod: &PodId, ordinal: i64) -> bool {
        claim_names(self.set, ordinal).any(|name| {
            (self.claim)(&name)
                .is_some_and(|c| claim_is_stale(self.set, &c.metadata.owner_references, pod))
        })
    }

    /// What to do about a pod that is wanted, and whether the ones after it have to wait.
    fn living(&self, pod: &Pod, ordered: bool, steps: &mut Vec<Step>) -> bool {
        let id = PodId::from(&pod.metadata);
        // However it ended: a node that goes ends pods with success, too.
        if pod.is_ended() {
            if !pod.metadata.is_deleting() {
                steps.push(Step::Delete(id));
            }
            return true;
        }
        if !is_created(pod) {
            // It is there, though nobody has said what it does yet.
            return true;
        }
        let pending = pod.status.phase == "Pending";
        if pending {
            let claims = self.claims(&id, true, true);
            if claims != Claims::default() {
                steps.push(Step::Claims(id.clone(), claims));
            }
        }
        if ordered
            && (pod.metadata.is_deleting() || !Self::is_ready(pod) || !self.is_available(pod))
        {
            return true;
        }
        let (who, storage) = (
            identity_matches(self.set, pod),
            storage_matches(self.set, pod),
        );
        let claims = self.claims(&id, !storage, !pending).if_owned_wrongly();
        if !(who && storage && claims.owners.is_empty()) {
            steps.push(Step::Mend(id, !(who && storage), claims));
        }
        false
    }

    /// Steps for the pods that are wanted.
    fn wanted(&self, living: &BTreeMap<i64, &Arc<Pod>>, ordered: bool) -> (Vec<Step>, After) {
        let (mut steps, mut claimed) = (Vec::new(), 0);
        let first = first_ordinal(self.set);
        // There may be many ordinals without a pod; each is a step or has a claim.
        for next in first..first + replicas(self.set) {
            if steps.len() >= BURST || claimed >= CLAIMS {
                return (steps, After::More);
            }
            let waits = match living.get(&next) {
                Some(pod) => self.living(pod, ordered, &mut steps),
                None => {
                    let id = PodId {
                        name: pod_name(self.set, next),
                        uid: String::new(),
                    };
                    if !self.is_stale(&id, next) {
                        let claims = self.claims(&id, true, true);
                        claimed += claims.len();
                        steps.push(Step::Create(id, self.is_kept(next), claims));
                    }
                    true
                }
            };
            if waits && ordered {
                return (steps, After::Wait);
            }
        }
        (steps, After::Go)
    }

    /// The pods that go since they are not wanted; the highest ordinal is first. In order, one goes at a time, and only
    /// when it works, or is the lowest of those that do not.
    fn unwanted(&self, condemned: &[&Arc<Pod>], ordered: bool) -> (Vec<Step>, After) {
        let delete = |p: &Arc<Pod>| Step::Delete(PodId::from(&p.metadata));
        if !ordered {
            let mut going = condemned.iter().filter(|p| !p.metadata.is_deleting());
            let steps = going.by_ref().take(BURST).map(|p| delete(p)).collect();
            let after = if going.next().is_some() {
                After::More
            } else {
                After::Go
            };
            return (steps, after);
        }
        let Some(last) = condemned.first() else {
            return (Vec::new(), After::Go);
        };
        let works = Self::is_ready(last) && self.is_available(last);
        let mut from_below = condemned.iter().rev();
        let broken = from_below.find(|p| self.is_unavailable(p));
        let first_broken = broken.is_some_and(|p| p.metadata.uid == last.metadata.uid);
        let goes = !last.metadata.is_deleting() && (works || first_broken);
        (
            goes.then(|| delete(last)).into_iter().collect(),
            After::Wait,
        )
    }

    /// The pods that an update replaces now, of the wanted ones.
    fn replaced(&self, living: &BTreeMap<i64, &Arc<Pod>>) -> Vec<PodId> {
        let (first, wanted) = (first_ordinal(self.set), replicas(self.set));
        let below = first.saturating_add(partition(self.set));
        // What is over is being deleted already.
        let is_old =
            |p: &Pod| revision(p) != self.update.name && !p.metadata.is_deleting() && !p.is_ended();
        let from_above = living.iter().rev().take_while(|(o, _)| **o >= below);
        if self.max_unavailable {
            let there = i64::try_from(living.len()).unwrap_or(i64::MAX);
            let down = living.values().filter(|p| self.is_unavailable(p)).count();
            let down = i64::try_from(down).unwrap_or(i64::MAX);
            let down = down.saturating_add(wanted - there);
            let room = max_unavailable(self.set).saturating_sub(down).max(0);
            let room = usize::try_from(room).unwrap_or(0).min(BURST);
            let old = from_above.filter(|(_, p)| is_old(p)).take(room);
            return old.map(|(_, p)| PodId::from(&p.metadata)).collect();
        }
        let mut expected = first + wanted;
        for (ordinal, pod) in from_above {
            expected -= 1;
            // One that is missing is waited for.
            if *ordinal != expected {
                break;
            }
            if is_old(pod) {
                return vec![PodId::from(&pod.metadata)];
            }
            if self.is_unavailable(pod) {
                break;
            }
        }
        Vec::new()
    }
}

/// How things go on after a stage.
#[derive(Clone, Copy, PartialEq)]
enum After {
    /// With the next one.
    Go,
    /// When something has changed.
    Wait,
    /// With the rest of this one.
    More,
}

/// Decides.
pub fn decide(world: &World<'_>) -> Plan {
    let set = world.set;
    let mut plan = Plan {
        parallel: set.spec.pod_management_policy == "Parallel",
        ..Plan::default()
    };
    if set.metadata.is_deleting() {
        plan.status = world.status(world.pods.iter());
        return plan;
    }
    let (mut living, mut condemned) = (BTreeMap::new(), Vec::new());
    for pod in world.pods {
        match ordinal(&pod.metadata.name) {
            Some(o) if in_range(set, o) => {
                living.insert(o, pod);
            }
            Some(o) => condemned.push((o, pod)),
            None => {}
        }
    }
    condemned.sort_by_key(|(o, _)| std::cmp::Reverse(*o));
    let condemned: Vec<&Arc<Pod>> = condemned.into_iter().map(|(_, p)| p).collect();
    plan.status = world.status(living.values().copied().chain(condemned.iter().copied()));
    let ordered = !plan.parallel;
    let (steps, after) = world.wanted(&living, ordered);
    plan.stages.push(steps);
    plan.more = after == After::More;
    if after != After::Go {
        return plan;
    }
    let mut owned = condemned.iter().filter_map(|pod| {
        let id = PodId::from(&pod.metadata);
        let claims = world.claims(&id, false, true).if_owned_wrongly();
        (!claims.owners.is_empty()).then_some(Step::Own(id, claims))
    });
    plan.stages.push(owned.by_ref().take(BURST).collect());
    plan.more = owned.next().is_some();
    if plan.more {
        return plan;
    }
    let (steps, after) = world.unwanted(&condemned, ordered);
    plan.stages.push(steps);
    plan.more = after == After::More;
    if after == After::Go && set.spec.update_strategy.kind != "OnDelete" {
        plan.replaced = world.replaced(&living);
    }
    plan
}

/// What is to be written of a status: an update that all pods have is over.
pub fn complete(set: &StatefulSet, mut status: StatefulSetStatus) -> StatefulSetStatus {
    let wanted = set.spec.replicas.unwrap_or(1);
    let all = [
        status.updated_replicas,
        status.ready_replicas,
        status.replicas,
    ];
    if set.spec.update_strategy.kind == "RollingUpdate" && all.iter().all(|n| *n == wanted) {
        status.current_replicas = status.updated_replicas;
        status.current_revision = status.update_revision.clone();
    }
    status
}

/// Whether a status says something else than the set's. Other collisions alone do not.
pub fn differs(set: &StatefulSet, status: &StatefulSetStatus) -> bool {
    let old = &set.status;
    let same = StatefulSetStatus {
        observed_generation: old.observed_generation.max(status.observed_generation),
        collision_count: old.collision_count,
        ..status.clone()
    };
    same != *old
}
