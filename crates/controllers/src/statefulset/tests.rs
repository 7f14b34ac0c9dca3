//! A cluster without an apiserver: what a plan says happens, pods get ready one by one, and after each pass is looked
//! whether the set kept its promises.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use client::{OwnerReference, Time};
use serde_json::{Value, json};

use super::decide::max_unavailable;
use super::identity::*;
use super::*;
use crate::history::{self, order};
use crate::views::{ClaimRetention, Condition};

fn at(s: i64) -> Time {
    Time::from_second(1_000_000 + s).unwrap()
}

fn set(replicas: i32) -> StatefulSet {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "n", "uid": "set-uid", "generation": 1},
        "spec": {
            "replicas": replicas, "serviceName": "svc", "revisionHistoryLimit": 2,
            "podManagementPolicy": "OrderedReady",
            "selector": {"matchLabels": {"app": "web"}},
            "template": template_with("one"),
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
            "volumeClaimTemplates": [{
                "metadata": {"name": "data"}, "spec": {"resources": {"requests": {"storage": "1"}}},
            }],
        },
    }))
    .unwrap()
}

fn template_with(image: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {
            "containers": [{"name": "c", "image": image}],
            "volumes": [{"name": "home", "emptyDir": {}}],
        },
    })
}

fn parallel(mut set: StatefulSet) -> StatefulSet {
    set.spec.pod_management_policy = "Parallel".into();
    set
}

fn retaining(mut set: StatefulSet, deleted: &str, scaled: &str) -> StatefulSet {
    set.spec.persistent_volume_claim_retention_policy = Some(ClaimRetention {
        when_deleted: deleted.into(),
        when_scaled: scaled.into(),
    });
    set
}

fn rolling(mut set: StatefulSet, rolling: Value) -> StatefulSet {
    set.spec.update_strategy.rolling_update = serde_json::from_value(rolling).unwrap();
    set
}

/// A set under every retention policy and none, in order and at once.
fn dressed(set: &StatefulSet) -> Vec<StatefulSet> {
    let mut all = Vec::new();
    for deleted in ["Retain", "Delete"] {
        for scaled in ["Retain", "Delete"] {
            all.push(retaining(set.clone(), deleted, scaled));
        }
    }
    let mut none = set.clone();
    none.spec.persistent_volume_claim_retention_policy = None;
    all.push(none);
    let at_once: Vec<StatefulSet> = all.iter().cloned().map(parallel).collect();
    all.extend(at_once);
    all
}

/// What the apiserver refuses.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Refuse {
    Create,
    Delete,
}

/// The current and the update revision.
type Revisions = (Arc<ControllerRevision>, Arc<ControllerRevision>);

struct Cluster {
    set: StatefulSet,
    pods: BTreeMap<String, Pod>,
    claims: BTreeMap<String, PersistentVolumeClaim>,
    revisions: Vec<Arc<ControllerRevision>>,
    /// Names that revisions of others have.
    taken: HashSet<String>,
    gate: bool,
    refuse: Option<Refuse>,
    made: u32,
    now: i64,
}

impl Cluster {
    fn of(set: StatefulSet) -> Cluster {
        Cluster {
            set,
            pods: BTreeMap::new(),
            claims: BTreeMap::new(),
            revisions: Vec::new(),
            taken: HashSet::new(),
            gate: false,
            refuse: None,
            made: 0,
            now: 0,
        }
    }

    fn up(set: StatefulSet) -> Cluster {
        let mut c = Cluster::of(set);
        c.settle();
        c
    }

    fn update(&mut self, image: &str) {
        self.set.spec.template = template_with(image);
        self.set.metadata.generation += 1;
    }

    fn scale(&mut self, replicas: i32) {
        self.set.spec.replicas = Some(replicas);
        self.set.metadata.generation += 1;
    }

    fn is_available(&self, pod: &Pod) -> bool {
        !pod.metadata.is_deleting()
            && pod.is_available(self.set.spec.min_ready_seconds, at(self.now))
    }

    fn revise(&mut self) -> (Arc<ControllerRevision>, i32) {
        self.revisions.sort_by(|a, b| order(a, b));
        let mut collisions = self.set.status.collision_count.unwrap_or(0);
        let data = text(data(&self.set.spec.template));
        let number = next_number(&self.revisions);
        let found = match find(&self.revisions, &data, |_| false) {
            Found::Newest(r) => r,
            Found::Older(r) => {
                self.revisions
                    .retain(|o| o.metadata.name != r.metadata.name);
                let mut r = (*r).clone();
                r.revision = number;
                self.revisions.push(Arc::new(r.clone()));
                Arc::new(r)
            }
            Found::New => {
                let mut r = ControllerRevision {
                    data,
                    revision: number,
                    ..ControllerRevision::default()
                };
                loop {
                    r.metadata.name = history::name("web", &hash(&r.data, Some(collisions)));
                    if !self.taken.contains(&r.metadata.name) {
                        break;
                    }
                    collisions += 1;
                }
                let r = Arc::new(r);
                self.revisions.push(r.clone());
                r
            }
        };
        (found, collisions)
    }

    /// One pass of the controller; false when the apiserver refused something.
    fn sync(&mut self) -> bool {
        let before = self.revisions.clone();
        let (update, collisions) = self.revise();
        let current = before
            .iter()
            .find(|r| r.metadata.name == self.set.status.current_revision)
            .unwrap_or(&update)
            .clone();
        let pods: Vec<Arc<Pod>> = self.pods.values().cloned().map(Arc::new).collect();
        let (old, new) = (
            template(&current.data).unwrap(),
            template(&update.data).unwrap(),
        );
        let claim = |name: &str| self.claims.get(name).cloned().map(Arc::new);
        let plan = decide(&World {
            set: &self.set,
            pods: &pods,
            claim: &claim,
            current: Revision {
                name: &current.metadata.name,
                template: &old,
            },
            update: Revision {
                name: &update.metadata.name,
                template: &new,
            },
            collisions,
            max_unavailable: self.gate,
            now: at(self.now),
        });
        let mut status = plan.status.clone();
        let ok = self.carry_out(&plan, &mut status, &(current.clone(), update.clone()));
        let status = complete(&self.set, status);
        if differs(&self.set, &status) {
            self.set.status = status;
        }
        let mut live: HashSet<String> = pods
            .iter()
            .filter_map(|p| p.metadata.labels.get(REVISION).cloned())
            .collect();
        live.extend([&current, &update].map(|r| r.metadata.name.clone()));
        let dead: Vec<String> = surplus(&self.set, &before, &live)
            .map(|r| r.metadata.name.clone())
            .collect();
        self.revisions.retain(|r| !dead.contains(&r.metadata.name));
        ok
    }

    fn carry_out(
        &mut self,
        plan: &Plan,
        status: &mut StatefulSetStatus,
        revisions: &Revisions,
    ) -> bool {
        for step in plan.stages.iter().flatten() {
            if !self.step(step, revisions) {
                return false;
            }
        }
        for id in &plan.replaced {
            if !self.delete(id) {
                return false;
            }
            status.current_replicas -= 1;
        }
        true
    }

    fn step(&mut self, step: &Step, revisions: &Revisions) -> bool {
        match step {
            Step::Create(id, kept, claims) => {
                if !self.make_claims(id, claims) || self.refuse == Some(Refuse::Create) {
                    return false;
                }
                self.lower_ones_are_available(&id.name);
                let of = if *kept { &revisions.0 } else { &revisions.1 };
                let template = template(&of.data).unwrap();
                let pod = pod(
                    &self.set,
                    &template,
                    &of.metadata.name,
                    ordinal(&id.name).unwrap(),
                );
                let mut pod: Pod = serde_json::from_value(pod).unwrap();
                assert_eq!(pod.metadata.name, id.name);
                assert!(!self.pods.contains_key(&id.name), "{} twice", id.name);
                self.made += 1;
                pod.metadata.uid = format!("{}-{}", id.name, self.made);
                pod.status.phase = "Pending".into();
                self.pods.insert(id.name.clone(), pod);
                self.own(id, claims);
                true
            }
            Step::Delete(id) => self.delete(id),
            Step::Claims(id, claims) => {
                let made = self.make_claims(id, claims);
                self.own(id, claims);
                made
            }
            Step::Mend(id, pod, claims) => {
                let made = self.make_claims(id, claims);
                self.own(id, claims);
                if *pod {
                    let mut value = json!({"metadata": {"labels": {}}, "spec": {}});
                    mend(&self.set, &mut value, ordinal(&id.name).unwrap());
                    let mended: Pod = serde_json::from_value(value).unwrap();
                    let pod = self.pods.get_mut(&id.name).unwrap();
                    pod.metadata.labels.extend(mended.metadata.labels);
                    pod.spec.claims = mended.spec.claims;
                }
                made
            }
            Step::Own(id, claims) => {
                self.own(id, claims);
                true
            }
        }
    }

    /// In order nothing is made while something before it is not there and available.
    fn lower_ones_are_available(&self, name: &str) {
        if self.set.spec.pod_management_policy == "Parallel" {
            return;
        }
        for lower in first_ordinal(&self.set)..ordinal(name).unwrap() {
            let pod = self.pods.get(&pod_name(&self.set, lower));
            assert!(
                pod.is_some_and(|p| self.is_available(p)),
                "{name} is made before {lower} is available"
            );
        }
    }

    fn make_claims(&mut self, id: &PodId, claims: &Claims) -> bool {
        let all = identity::claims(&self.set, ordinal(&id.name).unwrap());
        let all: Vec<(String, Value)> = all.collect();
        for (name, claim) in all.into_iter().filter(|(n, _)| claims.missing.contains(n)) {
            let claim: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
            assert_eq!(
                (&claim.metadata.name, claim.metadata.namespace.as_str()),
                (&name, "n")
            );
            self.claims.insert(name.clone(), claim);
        }
        claims.going.is_empty()
    }

    fn own(&mut self, id: &PodId, claims: &Claims) {
        for name in &claims.owners {
            let claim = self.claims.get_mut(name).unwrap();
            let owners = owners(&self.set, &claim.metadata.owner_references, id);
            claim.metadata.owner_references = owners;
        }
    }

    fn delete(&mut self, id: &PodId) -> bool {
        if self.refuse == Some(Refuse::Delete) {
            return false;
        }
        let pod = self.pods.get_mut(&id.name).unwrap();
        assert_eq!(pod.metadata.uid, id.uid);
        assert!(!pod.metadata.is_deleting(), "{} twice", id.name);
        pod.metadata.deletion_timestamp = Some(at(self.now));
        true
    }

    /// The next thing that kubelets and the garbage collector do; false when there is nothing.
    fn others(&mut self) -> bool {
        if let Some(name) = self
            .pods
            .values()
            .find(|p| p.metadata.is_deleting())
            .map(|p| p.metadata.name.clone())
        {
            let pod = self.pods.remove(&name).unwrap();
            self.claims.retain(|_, c| {
                let owners = &mut c.metadata.owner_references;
                let had = owners.len();
                owners.retain(|o| o.uid != pod.metadata.uid);
                owners.len() == had || !owners.is_empty()
            });
            return true;
        }
        let now = self.now;
        if let Some(pod) = self
            .pods
            .values_mut()
            .find(|p| p.status.phase == "Pending" && !p.is_ready())
        {
            pod.status.phase = "Running".into();
            ready(pod, now);
            return true;
        }
        let min = i64::from(self.set.spec.min_ready_seconds);
        if self.pods.values().any(|p| !self.is_available(p)) && min > 0 {
            self.now += min;
            return true;
        }
        false
    }

    /// Until nothing changes any more.
    fn settle(&mut self) {
        for _ in 0..200 {
            let before = (self.pods.clone(), self.set.status.clone());
            self.sync();
            if !self.others() && before == (self.pods.clone(), self.set.status.clone()) {
                return;
            }
        }
        panic!("it never comes to rest: {:?}", self.set.status);
    }

    fn ordinals(&self) -> Vec<i64> {
        let mut all: Vec<i64> = self.pods.keys().filter_map(|n| ordinal(n)).collect();
        all.sort_unstable();
        all
    }

    /// The images of the pods by ordinal.
    fn images(&self) -> Vec<String> {
        let image = |o: &i64| {
            let pod = &self.pods[&pod_name(&self.set, *o)];
            let mut of = self.revisions.iter();
            let r = of.find(|r| r.metadata.name == pod.metadata.labels[REVISION]);
            let template = template(&r.unwrap().data).unwrap();
            template["spec"]["containers"][0]["image"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        self.ordinals().iter().map(image).collect()
    }

    fn counts(&self) -> [i32; 5] {
        let s = &self.set.status;
        [
            s.replicas,
            s.ready_replicas,
            s.available_replicas,
            s.current_replicas,
            s.updated_replicas,
        ]
    }

    fn pod(&mut self, name: &str) -> &mut Pod {
        self.pods.get_mut(name).unwrap()
    }
}

fn ready(pod: &mut Pod, since: i64) {
    pod.status.conditions = vec![Condition {
        kind: "Ready".into(),
        status: "True".into(),
        last_transition_time: Some(at(since)),
        ..Condition::default()
    }];
}

fn unready(pod: &mut Pod) {
    pod.status.conditions.clear();
}

#[test]
fn sets_come_up_scale_and_go() {
    for set in dressed(&set(3)) {
        let mut c = Cluster::up(set);
        assert_eq!(c.counts(), [3, 3, 3, 3, 3]);
        assert_eq!(c.ordinals(), [0, 1, 2]);
        for (name, pod) in &c.pods {
            assert_eq!(
                pod.metadata.labels[POD_INDEX],
                ordinal(name).unwrap().to_string()
            );
            assert_eq!(&pod.metadata.labels[POD_NAME], name);
            assert!(c.claims.contains_key(&format!("data-{name}")));
        }
        c.scale(5);
        c.settle();
        assert_eq!(c.counts(), [5, 5, 5, 5, 5]);
        c.scale(1);
        c.settle();
        assert_eq!((c.ordinals(), c.counts()), (vec![0], [1, 1, 1, 1, 1]));
        c.scale(4);
        c.settle();
        assert_eq!(c.ordinals(), [0, 1, 2, 3]);
        c.scale(0);
        c.settle();
        assert_eq!(c.counts(), [0, 0, 0, 0, 0]);
        assert_eq!(c.set.status.observed_generation, c.set.metadata.generation);
    }
}

#[test]
fn claims_go_with_whom_the_policy_says() {
    // By policy (deleted, scaled): the claims after scaling from 3 to 1, and the owners of the one that stays.
    for (deleted, scaled, left, owner) in [
        ("Retain", "Retain", 3, None),
        ("Delete", "Retain", 3, Some("set-uid")),
        ("Retain", "Delete", 1, None),
        ("Delete", "Delete", 1, Some("set-uid")),
    ] {
        for set in [set(3), parallel(set(3))] {
            let mut c = Cluster::up(retaining(set, deleted, scaled));
            c.scale(1);
            c.settle();
            assert_eq!(c.claims.len(), left, "{deleted} {scaled}");
            let owners = &c.claims["data-web-0"].metadata.owner_references;
            let uids: Vec<&str> = owners.iter().map(|o| o.uid.as_str()).collect();
            assert_eq!(
                uids,
                owner.into_iter().collect::<Vec<_>>(),
                "{deleted} {scaled}"
            );
            // Another policy changes the owners again.
            c.set = retaining(c.set.clone(), "Retain", "Retain");
            c.settle();
            let owners = &c.claims["data-web-0"].metadata.owner_references;
            assert!(owners.is_empty(), "{deleted} {scaled}");
        }
    }
}

#[test]
fn a_claim_that_goes_is_waited_for() {
    for (set, after) in [(set(3), vec![0]), (parallel(set(3)), vec![0, 2])] {
        let mut c = Cluster::up(retaining(set, "Retain", "Delete"));
        // Scaled down, the pod is gone, its claim is not yet.
        let stale = json!({"metadata": {"name": "data-web-1", "namespace": "n", "ownerReferences": [
            {"apiVersion": "v1", "kind": "Pod", "name": "web-1", "uid": "earlier", "controller": true},
        ]}});
        for name in ["web-1", "web-2"] {
            c.pods.remove(name);
            c.claims.remove(&format!("data-{name}"));
        }
        c.claims
            .insert("data-web-1".into(), serde_json::from_value(stale).unwrap());
        c.sync();
        assert_eq!(c.ordinals(), after);
        c.claims.remove("data-web-1");
        c.settle();
        assert_eq!(c.ordinals(), [0, 1, 2]);
        // One that is being deleted without such an owner fails the pod that needs it.
        c.pods.remove("web-0");
        let claim = c.claims.get_mut("data-web-0").unwrap();
        claim.metadata.deletion_timestamp = Some(at(0));
        assert!(!c.sync());
        assert_eq!(c.ordinals(), [1, 2]);
    }
}

#[test]
fn pods_that_are_gone_or_over_are_made_again() {
    for set in dressed(&set(5)) {
        let mut c = Cluster::up(set);
        for name in ["web-0", "web-2", "web-4"] {
            c.pods.remove(name);
        }
        c.settle();
        assert_eq!(c.counts(), [5, 5, 5, 5, 5]);
        for phase in ["Failed", "Succeeded"] {
            let old = c.pod("web-1").metadata.uid.clone();
            c.pod("web-1").status.phase = phase.into();
            c.refuse = Some(Refuse::Delete);
            assert!(!c.sync(), "the failure is passed on");
            c.refuse = None;
            assert!(c.sync());
            assert!(c.pod("web-1").metadata.is_deleting(), "{phase}");
            assert!(c.sync(), "it is deleted once");
            c.settle();
            assert_ne!(c.pod("web-1").metadata.uid, old);
            assert_eq!(c.counts(), [5, 5, 5, 5, 5]);
        }
    }
}

#[test]
fn what_is_refused_is_tried_again() {
    for set in dressed(&set(3)) {
        let mut c = Cluster::of(set);
        c.refuse = Some(Refuse::Create);
        assert!(!c.sync());
        assert_eq!(
            c.set.status.observed_generation, 1,
            "the status is told all the same"
        );
        assert!(c.pods.is_empty());
        c.refuse = None;
        c.settle();
        assert_eq!(c.counts(), [3, 3, 3, 3, 3]);
        c.scale(0);
        c.refuse = Some(Refuse::Delete);
        assert!(!c.sync());
        assert_eq!(c.counts(), [3, 3, 3, 3, 3]);
        c.refuse = None;
        c.settle();
        assert_eq!(c.counts(), [0, 0, 0, 0, 0]);
    }
}

#[test]
fn a_pod_that_could_not_be_replaced_is_still_current() {
    for set in [set(3), parallel(set(3))] {
        let mut c = Cluster::up(set);
        let one = c.set.status.current_revision.clone();
        c.update("two");
        c.refuse = Some(Refuse::Delete);
        assert!(!c.sync());
        let s = &c.set.status;
        assert_eq!((s.current_replicas, &s.current_revision), (3, &one));
        assert_ne!(s.update_revision, one);
        c.refuse = None;
        assert!(c.sync());
        assert_eq!(c.set.status.current_replicas, 2);
        assert!(c.pod("web-2").metadata.is_deleting());
    }
}

#[test]
fn pods_without_their_claims_get_them() {
    for set in dressed(&set(3)) {
        let mut c = Cluster::of(set);
        c.sync();
        c.claims.remove("data-web-0");
        c.sync();
        assert!(c.claims.contains_key("data-web-0"));
    }
}

#[test]
fn ordinals_start_where_the_set_says() {
    let mut set = set(3);
    set.spec.ordinals.start = 2;
    let mut c = Cluster::up(set);
    assert_eq!(c.ordinals(), [2, 3, 4]);
    assert_eq!(c.counts(), [3, 3, 3, 3, 3]);
    c.set.spec.ordinals.start = 3;
    c.settle();
    assert_eq!(c.ordinals(), [3, 4, 5]);
    c.set = rolling(c.set.clone(), json!({"partition": 1}));
    c.update("two");
    c.settle();
    assert_eq!(
        c.images(),
        ["one", "two", "two"],
        "a partition counts from the start"
    );
}

#[test]
fn an_identity_is_given_back() {
    let mut c = Cluster::up(set(2));
    c.pod("web-0").metadata.labels.remove(POD_NAME);
    c.pod("web-1").spec.claims.clear();
    c.settle();
    assert_eq!(c.pod("web-0").metadata.labels[POD_NAME], "web-0");
    let claims = &c.pod("web-1").spec.claims;
    let claim = claims[0].persistent_volume_claim.as_ref().unwrap();
    assert_eq!(claim.claim_name, "data-web-1");
}

#[test]
fn in_order_nothing_overtakes_what_is_not_well() {
    let broken: [(&str, fn(&mut Pod)); 3] = [
        ("not ready", unready),
        ("pending", |p| {
            p.status.phase = "Pending".into();
            unready(p);
        }),
        ("going", |p| p.metadata.deletion_timestamp = Some(at(0))),
    ];
    for (what, spoil) in broken {
        let mut c = Cluster::up(set(3));
        spoil(c.pod("web-1"));
        c.pods.remove("web-2");
        c.sync();
        assert_eq!(c.ordinals(), [0, 1], "{what}: nothing is made");
        // Nor is anything updated or taken away.
        let mut c = Cluster::up(set(4));
        spoil(c.pod("web-1"));
        c.update("two");
        c.scale(3);
        c.sync();
        let going = |c: &Cluster| {
            let going = c.pods.values().filter(|p| p.metadata.is_deleting());
            going.map(|p| p.metadata.name.clone()).collect::<Vec<_>>()
        };
        let before = if what == "going" {
            vec!["web-1".to_owned()]
        } else {
            vec![]
        };
        assert_eq!(going(&c), before, "{what}");
        // At once it is: what is not wanted goes, and what is old is replaced, ill as it is.
        let mut c = Cluster::up(parallel(set(4)));
        spoil(c.pod("web-1"));
        c.scale(3);
        c.sync();
        assert!(going(&c).contains(&"web-3".to_owned()), "{what}");
    }
}

#[test]
fn in_order_the_highest_goes_first_and_the_others_wait() {
    let going = |c: &Cluster| {
        let going = c.pods.values().filter(|p| p.metadata.is_deleting());
        going.map(|p| p.metadata.name.clone()).collect::<Vec<_>>()
    };
    let mut c = Cluster::up(set(5));
    c.scale(2);
    c.sync();
    assert_eq!(going(&c), ["web-4"]);
    c.sync();
    assert_eq!(going(&c), ["web-4"], "it is waited for");
    // One that is not well may go when it is the lowest of those.
    for (ill, gone) in [
        (vec!["web-2"], vec!["web-4"]),
        (vec!["web-4"], vec!["web-4"]),
        (vec!["web-3", "web-4"], vec![]),
    ] {
        let mut c = Cluster::up(set(5));
        c.scale(2);
        ill.iter().for_each(|name| unready(c.pod(name)));
        c.sync();
        assert_eq!(going(&c), gone, "{ill:?}");
    }
    let mut c = Cluster::up(parallel(set(5)));
    c.scale(2);
    c.sync();
    assert_eq!(going(&c), ["web-2", "web-3", "web-4"]);
}

#[test]
fn updates_reach_every_pod() {
    for (from, to) in [(3, 3), (3, 5), (5, 3)] {
        for set in [set(from), parallel(set(from))] {
            let mut c = Cluster::up(set);
            let one = c.set.status.current_revision.clone();
            c.update("two");
            c.scale(to);
            c.settle();
            let n = usize::try_from(to).unwrap();
            assert_eq!(c.images(), vec!["two"; n]);
            assert_eq!(c.counts(), [to; 5]);
            let two = c.set.status.update_revision.clone();
            assert_eq!(c.set.status.current_revision, two);
            // Back again: the revision is the same one with the next number.
            c.set.spec.template = template_with("one");
            c.settle();
            assert_eq!(c.images(), vec!["one"; n]);
            assert_eq!(c.set.status.current_revision, one);
            let numbers: Vec<(&str, i64)> = c
                .revisions
                .iter()
                .map(|r| (r.metadata.name.as_str(), r.revision))
                .collect();
            assert_eq!(numbers, [(two.as_str(), 2), (one.as_str(), 3)]);
        }
    }
}

#[test]
fn updates_go_one_by_one_from_above() {
    for set in [set(3), parallel(set(3))] {
        let mut c = Cluster::up(set);
        c.update("two");
        let mut seen = Vec::new();
        for _ in 0..30 {
            c.sync();
            let down = c.pods.values().filter(|p| !c.is_available(p)).count();
            assert!(3 - c.pods.len() + down <= 1, "one at a time");
            if let Some(p) = c.pods.values().find(|p| p.metadata.is_deleting()) {
                seen.push(p.metadata.name.clone());
            }
            c.others();
        }
        assert_eq!(seen, ["web-2", "web-1", "web-0"]);
    }
}

#[test]
fn a_partition_keeps_the_lower_ones() {
    for (to, want) in [
        (3, vec!["one", "one", "two"]),
        (5, vec!["one", "one", "two", "two", "two"]),
    ] {
        for set in dressed(&rolling(set(3), json!({"partition": 2}))) {
            let mut c = Cluster::up(set);
            c.update("two");
            c.scale(to);
            c.settle();
            assert_eq!(c.images(), want);
            let s = c.set.status.clone();
            assert_eq!((s.current_replicas, s.updated_replicas), (2, to - 2));
            assert_ne!(s.current_revision, s.update_revision);
            // What is below is made anew as it was.
            c.pods.remove("web-0");
            c.settle();
            assert_eq!(c.images(), want);
            c.set = rolling(c.set.clone(), json!({"partition": 0}));
            c.settle();
            assert_eq!(c.images(), vec!["two"; usize::try_from(to).unwrap()]);
        }
    }
    // More than there are pods updates none.
    let mut c = Cluster::up(rolling(set(2), json!({"partition": 9})));
    c.update("two");
    c.settle();
    assert_eq!(c.images(), ["one", "one"]);
}

#[test]
fn on_delete_waits_for_somebody_to_delete() {
    for (from, to, want) in [
        (3, 3, vec!["one", "one", "one"]),
        (3, 5, vec!["one", "one", "one", "two", "two"]),
        (5, 3, vec!["one", "one", "one"]),
    ] {
        for mut set in dressed(&set(from)) {
            set.spec.update_strategy = crate::views::StatefulSetStrategy {
                kind: "OnDelete".into(),
                rolling_update: None,
            };
            let mut c = Cluster::up(set);
            c.update("two");
            c.scale(to);
            c.settle();
            assert_eq!(c.images(), want);
            c.scale(0);
            c.settle();
            c.scale(to);
            c.settle();
            assert_eq!(c.images(), vec!["two"; usize::try_from(to).unwrap()]);
        }
    }
}

#[test]
fn a_mended_template_replaces_ill_pods_only_where_there_is_no_order() {
    for (set, mended) in [(set(2), false), (parallel(set(2)), true)] {
        let mut c = Cluster::up(set);
        c.update("bad");
        c.sync();
        c.others();
        c.sync();
        assert_eq!(c.images(), ["one", "bad"]);
        // It stays pending.
        c.update("good");
        c.sync();
        assert_eq!(c.pod("web-1").metadata.is_deleting(), mended);
        c.pods.remove("web-1");
        c.settle();
        assert_eq!(c.images(), ["good", "good"]);
    }
}

#[test]
fn with_the_gate_updates_take_as_many_as_the_set_says() {
    for at_once in [false, true] {
        let set = rolling(set(6), json!({"partition": 3, "maxUnavailable": 2}));
        let mut c = Cluster::up(if at_once { parallel(set) } else { set });
        c.gate = true;
        c.update("two");
        c.sync();
        let going = |c: &Cluster| {
            let going = c.pods.values().filter(|p| p.metadata.is_deleting());
            going.map(|p| p.metadata.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(going(&c), ["web-4", "web-5"]);
        assert_eq!(c.set.status.current_replicas, 4);
        c.others();
        c.others();
        c.sync();
        assert_eq!(c.ordinals().len(), if at_once { 6 } else { 5 });
        // Once the first is back the next may go, where the second is there as well.
        c.others();
        c.sync();
        assert_eq!(going(&c), if at_once { vec!["web-3"] } else { vec![] });
        c.settle();
        assert_eq!(c.images(), ["one", "one", "one", "two", "two", "two"]);
    }
    // What is down counts, wherever it is.
    for (down, replaced) in [
        (vec![], vec!["web-4", "web-5"]),
        (vec!["web-5"], vec!["web-4"]),
        (vec!["web-3"], vec!["web-5"]),
        (vec!["web-4"], vec!["web-5"]),
        (vec!["web-5", "web-4"], vec![]),
        (vec!["web-5", "web-3"], vec![]),
        (vec!["web-4", "web-3"], vec![]),
        (vec!["web-5", "web-4", "web-3"], vec![]),
        (vec!["web-2"], vec!["web-5"]),
        (vec!["web-1"], vec!["web-5"]),
    ] {
        let set = rolling(set(6), json!({"partition": 3, "maxUnavailable": 2}));
        let mut c = Cluster::up(parallel(set));
        c.gate = true;
        for name in &down {
            c.pod(name).metadata.deletion_timestamp = Some(at(0));
        }
        c.update("two");
        c.sync();
        let going = c.pods.values().filter(|p| p.metadata.is_deleting());
        let going: Vec<&str> = going
            .map(|p| p.metadata.name.as_str())
            .filter(|n| !down.contains(n))
            .collect();
        assert_eq!(going, replaced, "{down:?}");
    }
    for (most, replicas, want) in [
        (Value::Null, 10, 1),
        (json!(3), 10, 3),
        (json!(3), 0, 3),
        (json!(0), 0, 1),
        (json!("10%"), 25, 2),
        (json!("100%"), 5, 5),
        (json!("50%"), 5, 2),
        (json!("10%"), 5, 1),
        (json!("1%"), 0, 1),
        (json!("0%"), 0, 1),
        (json!("-7%"), 9, 1),
        (json!(i64::MAX), 9, 1),
    ] {
        let set = rolling(set(replicas), json!({"maxUnavailable": most}));
        assert_eq!(max_unavailable(&set), want, "{most} of {replicas}");
    }
}

#[test]
fn available_means_ready_for_long_enough() {
    for (ready_for, available) in [(7200, 1), (3600, 1), (1800, 0)] {
        let mut set = set(1);
        set.spec.min_ready_seconds = 3600;
        let mut c = Cluster::up(set);
        c.now = 10_000;
        let since = c.now - ready_for;
        ready(c.pod("web-0"), since);
        c.sync();
        assert_eq!(
            (c.counts()[1], c.counts()[2]),
            (1, available),
            "{ready_for}"
        );
    }
    // Nothing goes on before.
    let soon = |set: StatefulSet, ready_for: i64| {
        let mut c = Cluster::up(set);
        c.set.spec.min_ready_seconds = 30;
        c.now += 1_000;
        let since = c.now - ready_for;
        c.pods.values_mut().for_each(|p| ready(p, since));
        c
    };
    for (ready_for, goes) in [(10, false), (60, true)] {
        let mut c = soon(set(2), ready_for);
        c.update("two");
        c.sync();
        assert_eq!(c.pod("web-1").metadata.is_deleting(), goes, "an update");
        let mut c = soon(rolling(set(4), json!({"partition": 2})), ready_for);
        c.update("two");
        c.sync();
        assert_eq!(
            c.pod("web-3").metadata.is_deleting(),
            goes,
            "with a partition"
        );
        let mut c = soon(set(3), ready_for);
        c.scale(1);
        c.sync();
        assert_eq!(c.pod("web-2").metadata.is_deleting(), goes, "scaling down");
        let mut c = soon(set(1), ready_for);
        c.scale(2);
        c.sync();
        assert_eq!(c.ordinals().len() == 2, goes, "scaling up");
    }
    let mut c = Cluster::up(set(2));
    let now = c.now;
    c.pods.values_mut().for_each(|p| ready(p, now));
    c.sync();
    assert_eq!(c.counts()[2], 2, "at once, when nothing is asked for");
    let pods: Vec<Arc<Pod>> = c.pods.values().cloned().map(Arc::new).collect();
    let wait = next_available(30, &pods, at(now + 12));
    assert_eq!(wait, Some(Duration::from_secs(18)));
}

#[test]
fn as_much_history_is_kept_as_the_limit_says() {
    for set in [set(2), parallel(set(2))] {
        for (limit, most) in [
            (Some(2), 4),
            (Some(0), 2),
            (Some(5), 7),
            (Some(-2), 11),
            (None, 11),
        ] {
            let mut set = set.clone();
            set.spec.revision_history_limit = limit;
            let mut c = Cluster::up(set);
            for n in 0..10 {
                c.update(&format!("image-{n}"));
                c.settle();
                assert!(c.revisions.len() <= most, "{limit:?}");
            }
            assert!(
                c.revisions.len() + 1 >= most,
                "{limit:?}: {}",
                c.revisions.len()
            );
            let mut numbers = c.revisions.iter().map(|r| r.revision);
            assert!(numbers.any(|n| n == 11), "the newest stays");
        }
    }
    // Of failing passes, too, what pods are at stays.
    let mut c = Cluster::up(set(3));
    c.refuse = Some(Refuse::Delete);
    for n in 0..8 {
        c.update(&format!("image-{n}"));
        c.sync();
        assert!(c.revisions.len() <= 4 + 1);
    }
    assert_eq!(c.images(), ["one", "one", "one"]);
}

#[test]
fn a_name_that_is_taken_is_passed_over() {
    let mut c = Cluster::of(set(1));
    let data = text(data(&template_with("one")));
    c.taken.insert(history::name("web", &hash(&data, Some(0))));
    c.settle();
    assert_eq!(c.set.status.collision_count, Some(1));
    assert_eq!(
        c.set.status.current_revision,
        history::name("web", &hash(&data, Some(1)))
    );
}

#[test]
fn a_set_that_goes_only_counts() {
    let mut c = Cluster::up(set(3));
    c.pods.remove("web-1");
    c.scale(5);
    c.update("two");
    c.set.metadata.deletion_timestamp = Some(at(0));
    assert!(c.sync());
    assert_eq!(c.ordinals(), [0, 2]);
    assert!(c.pods.values().all(|p| !p.metadata.is_deleting()));
    assert_eq!(c.counts(), [2, 2, 2, 2, 0]);
}

#[test]
fn a_pass_does_so_much_and_comes_back() {
    let plan = |set: &StatefulSet, pods: &[Arc<Pod>]| {
        let template = &set.spec.template;
        let revision = Revision {
            name: "web-r",
            template,
        };
        decide(&World {
            set,
            pods,
            claim: &|_| None,
            current: revision,
            update: revision,
            collisions: 0,
            max_unavailable: false,
            now: at(0),
        })
    };
    let steps = |plan: &Plan| plan.stages.iter().map(Vec::len).sum::<usize>();
    for replicas in [1000, i32::MAX] {
        let all = plan(&parallel(set(replicas)), &[]);
        assert_eq!((steps(&all), all.more), (500, true));
        assert_eq!(steps(&plan(&set(replicas), &[])), 1);
    }
    let exact = plan(&parallel(set(30)), &[]);
    assert_eq!(
        (steps(&exact), exact.more, exact.parallel),
        (30, false, true)
    );
    let mut far = parallel(set(i32::MAX));
    far.spec.ordinals.start = i32::MAX;
    assert_eq!(steps(&plan(&far, &[])), 1, "there is no higher ordinal");
    let mut wide = parallel(set(1000));
    let claim = wide.spec.volume_claim_templates[0].clone();
    wide.spec.volume_claim_templates = vec![claim; 5000];
    for (n, t) in wide.spec.volume_claim_templates.iter_mut().enumerate() {
        t["metadata"]["name"] = n.to_string().into();
    }
    let some = plan(&wide, &[]);
    assert_eq!((steps(&some), some.more), (2, true), "claims count, too");
    assert_eq!(steps(&plan(&parallel(set(-5)), &[])), 0);
    let pods: Vec<Arc<Pod>> = (0..501)
        .map(|n| {
            let mut p = Pod::default();
            p.metadata.name = format!("web-{n}");
            p.status.phase = "Running".into();
            Arc::new(p)
        })
        .collect();
    let down = plan(&parallel(set(0)), &pods);
    assert_eq!((steps(&down), down.more), (500, true));
}

#[test]
fn names_tell_the_set_and_the_ordinal() {
    for (name, want) in [
        ("web-1", Some(("web", Some(1)))),
        ("a-b-12", Some(("a-b", Some(12)))),
        ("web-007", Some(("web", Some(7)))),
        ("web-99999999999", Some(("web", None))),
        ("web--1", Some(("web-", Some(1)))),
        ("1-bar", None),
        ("web-", None),
        ("web-+1", None),
        ("web", None),
        ("", None),
    ] {
        assert_eq!(parent(name), want, "{name}");
    }
    for (claim, sets) in [
        ("volume-my-set-2", vec!["my-set", "set"]),
        ("data-web-0", vec!["web"]),
        ("volume-2-my-set", vec![]),
        ("web-0", vec![]),
        ("", vec![]),
    ] {
        assert_eq!(sets_of_claim(claim).collect::<Vec<_>>(), sets, "{claim}");
    }
    let set = set(3);
    let member = |name: &str, app: &str| {
        let mut p = Pod::default();
        p.metadata.name = name.into();
        p.metadata.labels.insert("app".into(), app.into());
        is_member(&set, &p)
    };
    assert!(member("web-1", "web") && member("web-9", "web"));
    assert!(!member("web2-1", "web") && !member("web", "web") && !member("web-1", "other"));
}

fn made(set: &StatefulSet, ordinal: i64) -> Pod {
    let pod = pod(set, &set.spec.template, "web-r", ordinal);
    serde_json::from_value(pod).unwrap()
}

#[test]
fn a_new_pod_is_who_it_should_be() {
    let mut set = set(3);
    set.spec.template["metadata"]["annotations"] = json!({"note": "x"});
    set.spec.template["spec"]["subdomain"] = "mine".into();
    let value = pod(&set, &set.spec.template, "web-r", 1);
    assert_eq!(
        value["metadata"],
        json!({
            "name": "web-1", "namespace": "n", "generateName": "web-", "annotations": {"note": "x"},
            "labels": {"app": "web", POD_NAME: "web-1", POD_INDEX: "1", REVISION: "web-r"},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "set-uid",
                "controller": true, "blockOwnerDeletion": true,
            }],
        })
    );
    assert_eq!(
        (&value["spec"]["hostname"], &value["spec"]["subdomain"]),
        (&json!("web-1"), &json!("svc"))
    );
    assert_eq!(
        value["spec"]["volumes"],
        json!([
            {"name": "data", "persistentVolumeClaim": {"claimName": "data-web-1"}},
            {"name": "home", "emptyDir": {}},
        ])
    );
    set.spec.service_name.clear();
    assert_eq!(
        pod(&set, &set.spec.template, "web-r", 1)["spec"].get("subdomain"),
        None
    );
    // A volume of the template's own with the name of a claim gives way.
    set.spec.template["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
    let value = pod(&set, &set.spec.template, "web-r", 1);
    assert_eq!(value["spec"]["volumes"].as_array().unwrap().len(), 1);
    assert!(storage_matches(&set, &made(&set, 1)));
}

#[test]
fn identities_and_volumes_are_compared() {
    let set = set(3);
    let identity: [(&str, fn(&mut Pod), bool); 5] = [
        ("as made", |_| {}, true),
        ("name", |p| p.metadata.name = "foo".into(), false),
        ("zeros", |p| p.metadata.name = "web-01".into(), false),
        ("namespace", |p| p.metadata.namespace.clear(), false),
        ("label", |p| drop(p.metadata.labels.remove(POD_NAME)), false),
    ];
    for (what, spoil, want) in identity {
        let mut p = made(&set, 1);
        spoil(&mut p);
        assert_eq!(identity_matches(&set, &p), want, "{what}");
    }
    let storage: [(&str, fn(&mut Pod), bool); 5] = [
        ("as made", |_| {}, true),
        ("none", |p| p.spec.claims.clear(), false),
        (
            "no claim",
            |p| p.spec.claims[0].persistent_volume_claim = None,
            false,
        ),
        (
            "another",
            |p| {
                let claim = p.spec.claims[0].persistent_volume_claim.as_mut();
                claim.unwrap().claim_name = "foo".into();
            },
            false,
        ),
        ("no ordinal", |p| p.metadata.name = "bar".into(), false),
    ];
    for (what, spoil, want) in storage {
        let mut p = made(&set, 1);
        spoil(&mut p);
        assert_eq!(storage_matches(&set, &p), want, "{what}");
    }
    let mut value = json!({
        "metadata": {"name": "web-1", "labels": {"mine": "x"}},
        "spec": {"volumes": [{"name": "data", "emptyDir": {}}, {"name": "other", "emptyDir": {}}], "hostname": "h"},
    });
    mend(&set, &mut value, 1);
    assert_eq!(
        value["metadata"]["labels"],
        json!({"mine": "x", POD_NAME: "web-1", POD_INDEX: "1"})
    );
    assert_eq!(value["spec"]["hostname"], "h", "what cannot change is left");
    let mended: Pod = serde_json::from_value(value).unwrap();
    assert!(identity_matches(&set, &mended) && storage_matches(&set, &mended));
}

#[test]
fn claims_have_the_labels_of_template_and_selector() {
    for (selector, own, want) in [
        (json!({}), None, None),
        (json!({"a": "1"}), None, Some(json!({"a": "1"}))),
        (
            json!({"a": "1"}),
            Some(json!({"b": "2"})),
            Some(json!({"a": "1", "b": "2"})),
        ),
        (
            json!({"a": "1"}),
            Some(json!({"a": "2"})),
            Some(json!({"a": "1"})),
        ),
    ] {
        let mut set = set(1);
        set.spec.selector.match_labels = serde_json::from_value(selector).unwrap();
        if let Some(own) = own {
            set.spec.volume_claim_templates[0]["metadata"]["labels"] = own;
        }
        let all: Vec<(String, Value)> = claims(&set, 0).collect();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].0, "data-web-0");
        let m = &all[0].1["metadata"];
        assert_eq!(
            (&m["name"], &m["namespace"]),
            (&json!("data-web-0"), &json!("n"))
        );
        assert_eq!(m.get("labels"), want.as_ref());
        assert_eq!(all[0].1["spec"]["resources"]["requests"]["storage"], "1");
    }
}

fn reference(kind: &str, name: &str, uid: &str, controller: Option<bool>) -> OwnerReference {
    let version = match kind {
        "Pod" => "v1",
        "StatefulSet" | "Set" => "apps/v1",
        _ => "other/v1",
    };
    OwnerReference {
        api_version: version.into(),
        kind: kind.into(),
        name: name.into(),
        uid: uid.into(),
        controller,
        block_owner_deletion: None,
    }
}

fn of_set(uid: &str, controller: bool) -> OwnerReference {
    reference("StatefulSet", "web", uid, controller.then_some(true))
}

fn of_pod(name: &str, uid: &str, controller: bool) -> OwnerReference {
    reference("Pod", name, uid, controller.then_some(true))
}

fn id(ordinal: i64) -> PodId {
    PodId {
        name: format!("web-{ordinal}"),
        uid: "pod-uid".into(),
    }
}

/// By policy (deleted, scaled) and ordinal in a set of two: whether the pod and whether the set shall be owners.
const OWNERS: [(&str, &str, i64, bool, bool); 8] = [
    ("Retain", "Retain", 1, false, false),
    ("Retain", "Retain", 2, false, false),
    ("Delete", "Retain", 1, false, true),
    ("Delete", "Retain", 2, false, true),
    ("Retain", "Delete", 2, true, false),
    ("Retain", "Delete", 1, false, false),
    ("Delete", "Delete", 2, true, false),
    ("Delete", "Delete", 1, false, true),
];

#[test]
fn owners_are_compared_and_put_right() {
    for (deleted, scaled, ordinal, wants_pod, wants_set) in OWNERS {
        let set = retaining(set(2), deleted, scaled);
        let pod = id(ordinal);
        for bits in 0..16 {
            let (has_pod, has_set) = (bits & 1 != 0, bits & 2 != 0);
            let (others, manager) = (bits & 4 != 0, bits & 8 != 0);
            let mut refs = Vec::new();
            refs.extend(has_pod.then(|| of_pod(&pod.name, &pod.uid, true)));
            refs.extend(has_set.then(|| of_set("set-uid", true)));
            if others {
                refs.push(of_pod("rand1", "rand1", false));
                refs.push(of_pod("rand2", "rand2", false));
            }
            refs.extend(manager.then(|| reference("Else", "boss", "boss", Some(true))));
            let what = format!("{deleted} {scaled} {ordinal} {bits}");
            let retains = (deleted, scaled) == ("Retain", "Retain");
            let (wants_pod, wants_set) = if manager && !retains {
                (false, false)
            } else {
                (wants_pod, wants_set)
            };
            let right = has_pod == wants_pod && has_set == wants_set;
            assert_eq!(owners_match(&set, &refs, &pod), right, "{what}");
            let after = owners(&set, &refs, &pod);
            let controls = |uid: &str| {
                after
                    .iter()
                    .any(|r| r.uid == uid && r.controller == Some(true))
            };
            assert_eq!(
                (controls("pod-uid"), controls("set-uid")),
                (wants_pod, wants_set),
                "{what}"
            );
            assert_eq!(
                after.iter().filter(|r| r.uid.starts_with("rand")).count(),
                if others { 2 } else { 0 }
            );
            assert_eq!(controls("boss"), manager, "{what}");
            assert!(owners_match(&set, &after, &pod), "{what}");
        }
    }
}

#[test]
fn odd_owners_are_left_or_taken_away() {
    for (what, deleted, scaled, refs, want) in [
        (
            "a pod that is wanted is no owner",
            "Delete",
            "Delete",
            vec![of_pod("web-1", "pod-uid", true)],
            false,
        ),
        (
            "an owner that manages nothing, pod",
            "Delete",
            "Delete",
            vec![of_pod("web-1", "pod-uid", false)],
            false,
        ),
        (
            "an earlier pod",
            "Delete",
            "Delete",
            vec![of_pod("web-1", "old", true)],
            true,
        ),
        (
            "another manager beside, pod",
            "Delete",
            "Delete",
            vec![of_pod("web-1", "pod-uid", true), of_pod("x", "x", true)],
            false,
        ),
        (
            "the set",
            "Delete",
            "Retain",
            vec![of_set("set-uid", true)],
            true,
        ),
        (
            "an owner that manages nothing, set",
            "Delete",
            "Retain",
            vec![of_set("set-uid", false)],
            false,
        ),
        (
            "an earlier set",
            "Delete",
            "Retain",
            vec![of_set("old", true)],
            true,
        ),
        (
            "another manager beside, set",
            "Delete",
            "Retain",
            vec![
                of_set("set-uid", true),
                reference("StatefulSet", "x", "x", Some(true)),
            ],
            false,
        ),
        (
            "another manager alone",
            "Delete",
            "Retain",
            vec![reference("StatefulSet", "x", "x", Some(true))],
            true,
        ),
    ] {
        let set = retaining(set(2), deleted, scaled);
        assert_eq!(owners_match(&set, &refs, &id(1)), want, "{what}");
    }
    let condemned = retaining(set(1), "Delete", "Delete");
    assert!(owners_match(
        &condemned,
        &[of_pod("web-1", "pod-uid", true)],
        &id(1)
    ));
    let wanted = of_set("set-uid", true);
    let foreign = reference("Else", "web", "foreign", None);
    for (what, refs, want) in [
        (
            "right",
            vec![wanted.clone(), foreign.clone()],
            vec!["foreign", "set-uid"],
        ),
        (
            "manages nothing yet",
            vec![of_set("set-uid", false)],
            vec!["set-uid"],
        ),
        (
            "only the name is the same",
            vec![foreign],
            vec!["foreign", "set-uid"],
        ),
        ("none", vec![], vec!["set-uid"]),
        ("manages, without a UID", vec![of_set("", true)], vec![]),
        ("without a UID", vec![of_set("", false)], vec![]),
    ] {
        let set = retaining(set(2), "Delete", "Delete");
        let after = owners(&set, &refs, &id(0));
        let uids: Vec<&str> = after.iter().map(|r| r.uid.as_str()).collect();
        assert_eq!(uids, want, "{what}");
    }
}

#[test]
fn managers_that_are_not_expected_are_seen() {
    for (what, refs, want) in [
        (
            "a controller",
            vec![reference("Else", "x", "x", Some(true))],
            true,
        ),
        (
            "none",
            vec![reference("Else", "x", "x", Some(false))],
            false,
        ),
        ("not said", vec![reference("Else", "x", "x", None)], false),
        ("another pod", vec![of_pod("x", "x", true)], true),
        (
            "another set",
            vec![reference("Set", "x", "x", Some(true))],
            true,
        ),
        ("the set", vec![of_set("set-uid", true)], false),
        ("an earlier set", vec![of_set("old", true)], true),
        ("the pod", vec![of_pod("web-1", "pod-uid", true)], false),
        ("an earlier pod", vec![of_pod("web-1", "old", true)], true),
        (
            "the pod and another",
            vec![
                of_pod("web-1", "pod-uid", true),
                reference("Else", "x", "x", Some(true)),
            ],
            true,
        ),
        (
            "the pod and an owner",
            vec![
                of_pod("web-1", "pod-uid", true),
                reference("Else", "x", "x", Some(false)),
            ],
            false,
        ),
        ("nobody", vec![], false),
    ] {
        for (deleted, scaled) in [
            ("Retain", "Delete"),
            ("Delete", "Retain"),
            ("Delete", "Delete"),
        ] {
            let set = retaining(set(2), deleted, scaled);
            assert_eq!(conflicts(&set, &refs, &id(1)), want, "{what}");
        }
        let mut none = set(2);
        none.spec.persistent_volume_claim_retention_policy = None;
        assert!(
            !conflicts(&none, &refs, &id(1)),
            "{what}: who keeps claims has no say"
        );
        assert!(
            !conflicts(&retaining(none, "Retain", "Retain"), &refs, &id(1)),
            "{what}"
        );
    }
    // An owner of ours that does not manage is put right, others' are left.
    let set = retaining(set(2), "Delete", "Retain");
    for (what, refs, want) in [
        (
            "both manage",
            vec![of_pod("web-1", "pod-uid", true), of_set("set-uid", true)],
            false,
        ),
        ("the set does not", vec![of_set("set-uid", false)], false),
        (
            "the set says not",
            vec![reference("StatefulSet", "web", "set-uid", Some(false))],
            false,
        ),
        (
            "the pod does not",
            vec![of_pod("web-1", "pod-uid", false), of_set("set-uid", true)],
            false,
        ),
        (
            "another does not",
            vec![of_pod("x", "x", false), of_set("set-uid", true)],
            true,
        ),
    ] {
        assert_eq!(owners_match(&set, &refs, &id(1)), want, "{what}");
    }
}

#[test]
fn an_earlier_pods_claim_is_not_taken() {
    let set = retaining(set(4), "Retain", "Delete");
    for (what, refs, uid, want) in [
        ("no owner", vec![], "", false),
        (
            "of this pod",
            vec![of_pod("web-3", "123", false)],
            "123",
            false,
        ),
        (
            "of an earlier one",
            vec![of_pod("web-3", "stale", false)],
            "123",
            true,
        ),
        (
            "of any, before there is one",
            vec![of_pod("web-3", "123", false)],
            "",
            true,
        ),
        (
            "of another pod",
            vec![of_pod("web-2", "9", false)],
            "123",
            false,
        ),
        (
            "of a set of that name",
            vec![reference("StatefulSet", "web-3", "9", None)],
            "123",
            false,
        ),
    ] {
        let pod = PodId {
            name: "web-3".into(),
            uid: uid.into(),
        };
        assert_eq!(claim_is_stale(&set, &refs, &pod), want, "{what}");
        let keeps = retaining(set.clone(), "Delete", "Retain");
        assert!(
            !claim_is_stale(&keeps, &refs, &pod),
            "{what}: kept claims are used again"
        );
    }
}

#[test]
fn a_status_is_written_when_it_says_something_new() {
    let mut set = set(3);
    let status = StatefulSetStatus {
        observed_generation: 4,
        replicas: 3,
        ready_replicas: 3,
        updated_replicas: 3,
        available_replicas: 1,
        current_revision: "a".into(),
        update_revision: "b".into(),
        collision_count: Some(0),
        ..StatefulSetStatus::default()
    };
    set.status = status.clone();
    let changes: [(&str, fn(&mut StatefulSetStatus), bool); 10] = [
        ("nothing", |_| {}, false),
        ("a later generation", |s| s.observed_generation = 5, true),
        (
            "an earlier generation",
            |s| s.observed_generation = 3,
            false,
        ),
        ("collisions alone", |s| s.collision_count = Some(2), false),
        ("replicas", |s| s.replicas = 2, true),
        ("ready", |s| s.ready_replicas = 2, true),
        ("available", |s| s.available_replicas = 2, true),
        ("current", |s| s.current_replicas = 2, true),
        ("updated", |s| s.updated_replicas = 2, true),
        ("revision", |s| s.update_revision = "c".into(), true),
    ];
    for (what, change, want) in changes {
        let mut new = status.clone();
        change(&mut new);
        assert_eq!(differs(&set, &new), want, "{what}");
    }
    assert_eq!(complete(&set, status.clone()).current_revision, "b");
    for n in [2, 4] {
        let mut fewer = status.clone();
        fewer.ready_replicas = n;
        assert_eq!(complete(&set, fewer).current_revision, "a");
    }
    set.spec.update_strategy.kind = "OnDelete".into();
    assert_eq!(complete(&set, status).current_revision, "a");
}
