//! Pods from their decision to their binding, with an API that is played here.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{change, claim, class, merged, node, pod_view, uses, volume};
use crate::config::Config;
use crate::core::{Action, Core, Input, Nomination};
use crate::framework::Write;
use crate::queue::Millis;
use crate::storage::Change;

fn core(objects: &[(&str, Value)]) -> Core {
    let mut c = Core::new(&Config::default());
    for name in ["a", "b"] {
        c.input(Input::Node(node(name, json!({}))), 0);
    }
    for (kind, value) in objects {
        c.input(Input::Storage(change(kind, value.clone())), 0);
    }
    c
}

fn local() -> (&'static str, Value) {
    (
        "class",
        class(
            "local",
            "WaitForFirstConsumer",
            "kubernetes.io/no-provisioner",
        ),
    )
}

/// What the volume is once a claim has it.
fn bound(v: Value, to: &str, version: &str) -> Value {
    let reference = json!({"namespace": "default", "name": to, "uid": format!("uid-{to}")});
    merged(
        v,
        json!({"metadata": {"resourceVersion": version}, "spec": {"claimRef": reference}}),
    )
}

fn prepare(action: Option<Action>) -> (String, Vec<Write>) {
    match action {
        Some(Action::Prepare { node, writes, .. }) => (node, writes),
        other => panic!("{other:?}"),
    }
}

fn prepared(versions: &[u64], error: Option<&str>) -> Input {
    Input::Prepared {
        uid: "p".into(),
        versions: versions.to_vec(),
        error: error.map(str::to_owned),
    }
}

fn told(action: Option<Action>) -> String {
    match action {
        Some(Action::Explain {
            reason, message, ..
        }) => format!("{reason}: {message}"),
        other => panic!("{other:?}"),
    }
}

fn binds(action: Option<Action>) -> String {
    match action {
        Some(Action::Bind { pod, node, .. }) => format!("{} to {node}", pod.metadata.uid),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pod_is_bound_once_its_claim_is() {
    let one = volume("one", "local", "1Gi", "b");
    let mut c = core(&[
        local(),
        ("volume", one.clone()),
        ("claim", claim("data", "local", "")),
    ]);
    c.input(Input::Pod(pod_view("p", uses(&["data"]))), 0);
    let (on, writes) = prepare(c.step(0, 0));
    assert_eq!(on, "b", "where the volume is");
    let [write] = writes.as_slice() else {
        panic!("{writes:?}")
    };
    assert_eq!(
        (write.resource.plural.as_ref(), write.name.as_str()),
        ("persistentvolumes", "one")
    );
    let want = json!({
        "metadata": {
            "uid": "uid-one", "resourceVersion": "1",
            "annotations": {"pv.kubernetes.io/bound-by-controller": "yes"},
        },
        "spec": {"claimRef": {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "default",
            "name": "data", "uid": "uid-data", "resourceVersion": "1",
        }},
    });
    assert_eq!(write.patch.as_ref(), Some(&want));
    // The claim is seen bound before the volume is.
    c.input(prepared(&[5], None), 1);
    assert!(c.step(1, 0).is_none());
    c.input(
        Input::Storage(change("claim", claim("data", "local", "one"))),
        2,
    );
    assert!(c.step(2, 0).is_none(), "the volume is an old one");
    c.input(Input::Storage(change("volume", bound(one, "data", "5"))), 3);
    assert_eq!(binds(c.step(3, 0)), "p to b");
    assert!(c.step(3, 0).is_none());
}

#[test]
fn a_pod_whose_claims_are_bound_is_bound_at_once() {
    let one = bound(volume("one", "local", "1Gi", "a"), "data", "2");
    let mut c = core(&[
        local(),
        ("volume", one),
        ("claim", claim("data", "local", "one")),
    ]);
    c.input(Input::Pod(pod_view("p", uses(&["data"]))), 0);
    c.input(Input::Pod(pod_view("q", json!([]))), 0);
    assert_eq!(binds(c.step(0, 0)), "p to a");
    assert!(matches!(c.step(0, 0), Some(Action::Bind { .. })));
}

#[test]
fn the_node_of_a_volume_that_is_made_is_written_into_the_claim() {
    let mut c = core(&[
        ("class", class("made", "WaitForFirstConsumer", "driver")),
        ("claim", claim("data", "made", "")),
    ]);
    c.input(Input::Pod(pod_view("p", uses(&["data"]))), 0);
    let (on, writes) = prepare(c.step(0, 0));
    let [write] = writes.as_slice() else {
        panic!("{writes:?}")
    };
    let want = json!({"metadata": {
        "uid": "uid-data", "resourceVersion": "1",
        "annotations": {"volume.kubernetes.io/selected-node": on},
    }});
    assert_eq!(
        (write.namespace.as_str(), write.patch.as_ref()),
        ("default", Some(&want))
    );
    c.input(prepared(&[2], None), 0);
    let selected = |claim: Value, version: &str| {
        merged(
            claim,
            json!({"metadata": {"resourceVersion": version, "annotations": {"volume.kubernetes.io/selected-node": on}}}),
        )
    };
    c.input(
        Input::Storage(change("claim", selected(claim("data", "made", ""), "2"))),
        0,
    );
    assert!(c.step(0, 0).is_none());
    c.input(
        Input::Storage(change("claim", selected(claim("data", "made", "new"), "4"))),
        1,
    );
    assert!(c.step(1, 0).is_none(), "the volume is not seen yet");
    let new = bound(volume("new", "made", "1Gi", &on), "data", "3");
    c.input(Input::Storage(change("volume", new)), 2);
    assert_eq!(binds(c.step(2, 0)), format!("p to {on}"));
}

/// What may happen while a pod waits, and what its owner is told.
#[test]
fn what_fails_is_told_and_everything_is_given_back() {
    let one = volume("one", "local", "1Gi", "a");
    let gone = || Input::Storage(Change::VolumeGone("one".into()));
    let volume_is = |v: Value| Input::Storage(change("volume", v));
    let prefix = "SchedulerError: running PreBind plugin \"VolumeBinding\": ";
    for (inputs, at, want) in [
        (
            vec![prepared(&[], Some("the object has been modified"))],
            1,
            "the object has been modified",
        ),
        (
            vec![prepared(&[2], None), gone()],
            1,
            "binding volumes: failed to check binding: persistentvolumes \"one\" not found",
        ),
        (
            vec![
                prepared(&[2], None),
                Input::Storage(Change::ClaimGone("default/data".into())),
            ],
            1,
            "binding volumes: failed to check binding: persistentvolumeclaims \"default/data\" not found",
        ),
        (
            vec![
                prepared(&[2], None),
                volume_is(merged(
                    one.clone(),
                    json!({"metadata": {"resourceVersion": "3"}}),
                )),
            ],
            1,
            "binding volumes: ClaimRef got reset for pv \"one\"",
        ),
        (
            vec![
                prepared(&[2], None),
                volume_is(bound(volume("one", "local", "1Gi", "b"), "data", "3")),
            ],
            1,
            "binding volumes: pv \"one\" node affinity doesn't match node \"a\": no matching NodeSelectorTerms",
        ),
        (
            vec![
                prepared(&[2], None),
                volume_is(bound(one.clone(), "data", "3")),
                Input::Storage(change("claim", claim("data", "local", "two"))),
            ],
            1,
            "binding volumes: pvc \"default/data\" got pv \"two\", not \"one\"",
        ),
        (
            vec![prepared(&[2], None), Input::NodeGone("a".into())],
            1,
            "binding volumes: failed to get node \"a\": node \"a\" not found",
        ),
        (
            vec![
                prepared(&[2], None),
                volume_is(bound(one.clone(), "data", "2")),
            ],
            600_001,
            "binding volumes: context deadline exceeded",
        ),
    ] {
        let mut c = core(&[
            local(),
            ("volume", one.clone()),
            ("claim", claim("data", "local", "")),
        ]);
        c.input(Input::Pod(pod_view("p", uses(&["data"]))), 0);
        assert_eq!(prepare(c.step(0, 0)).0, "a");
        for input in inputs {
            c.input(input, 1);
        }
        if at > 1 {
            assert!(c.step(600_000, 0).is_none());
            assert_eq!(c.next_due(), Some(600_001));
        }
        c.tick(at);
        assert_eq!(told(c.step(at, 0)), format!("{prefix}{want}"));
        assert_eq!(c.nodes().columns.pods.iter().sum::<i64>(), 0, "{want}");
        assert!(c.nodes().storage.reservations.of("p").is_none());
    }
}

#[test]
fn a_provisioner_that_gives_up_sends_the_pod_elsewhere() {
    let mut c = core(&[
        ("class", class("made", "WaitForFirstConsumer", "driver")),
        ("claim", claim("data", "made", "")),
    ]);
    c.input(Input::Pod(pod_view("p", uses(&["data"]))), 0);
    prepare(c.step(0, 0));
    c.input(prepared(&[2], None), 0);
    let taken_away = merged(
        claim("data", "made", ""),
        json!({"metadata": {"resourceVersion": "3"}}),
    );
    c.input(Input::Storage(change("claim", taken_away)), 1);
    assert_eq!(
        told(c.step(1, 0)),
        "SchedulerError: running PreBind plugin \"VolumeBinding\": binding volumes: provisioning failed for PVC \"data\""
    );
    c.tick(5000);
    prepare(c.step(5000, 1));
}

#[test]
fn a_pod_that_goes_gives_its_volume_to_the_next() {
    let one = volume("one", "local", "1Gi", "a");
    let mut c = core(&[
        local(),
        ("volume", one),
        ("claim", claim("data", "local", "")),
        ("claim", claim("other", "local", "")),
    ]);
    c.input(Input::Pod(pod_view("p", uses(&["data"]))), 0);
    c.input(Input::Pod(pod_view("q", uses(&["other"]))), 0);
    prepare(c.step(0, 0));
    assert_eq!(
        told(c.step(0, 0)),
        "Unschedulable: 0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
    );
    c.input(Input::PodGone(pod_view("p", uses(&["data"]))), 1);
    c.tick(3000);
    assert_eq!(prepare(c.step(3000, 0)).0, "a");
}

#[test]
fn what_was_written_is_nobody_elses_until_it_is_seen() {
    let (one, two) = (
        volume("one", "local", "1Gi", "a"),
        volume("two", "local", "1Gi", "a"),
    );
    let mut c = core(&[
        local(),
        ("volume", one.clone()),
        ("volume", two),
        ("claim", claim("data", "local", "")),
        ("claim", claim("more", "local", "")),
        ("claim", claim("other", "local", "")),
    ]);
    c.input(Input::Pod(pod_view("p", uses(&["data", "more"]))), 0);
    let (_, writes) = prepare(c.step(0, 0));
    assert_eq!(writes.len(), 2);
    // The first write was taken, the second was not.
    c.input(prepared(&[7], Some("no")), 1);
    assert!(told(c.step(1, 0)).ends_with("no"));
    let first = writes[0].name.clone();
    let taken = |c: &Core, name: &str| c.nodes().storage.reservations.taken(name).is_some();
    assert_eq!(
        (taken(&c, "one"), taken(&c, "two")),
        (first == "one", first == "two")
    );
    let seen = bound(volume(&first, "local", "1Gi", "a"), "data", "7");
    c.input(Input::Storage(change("volume", seen)), 2);
    assert!(!taken(&c, "one") && !taken(&c, "two"));
}

#[test]
fn two_pods_of_one_claim_wait_for_one_write() {
    let one = volume("one", "local", "1Gi", "a");
    let mut c = core(&[
        local(),
        ("volume", one.clone()),
        ("claim", claim("data", "local", "")),
    ]);
    for uid in ["p", "q"] {
        c.input(Input::Pod(pod_view(uid, uses(&["data"]))), 0);
    }
    let (_, first) = prepare(c.step(0, 0));
    let (_, second) = prepare(c.step(0, 0));
    assert!(first[0].patch.is_some() && second[0].patch.is_none());
    let of = |uid: &str, version: u64| Input::Prepared {
        uid: uid.into(),
        versions: vec![version],
        error: None,
    };
    c.input(of("q", 1), 1);
    assert!(c.step(1, 0).is_none());
    c.input(of("p", 2), 2);
    c.input(Input::Storage(change("volume", bound(one, "data", "2"))), 3);
    assert!(c.step(3, 0).is_none());
    c.input(
        Input::Storage(change("claim", claim("data", "local", "one"))),
        4,
    );
    assert_eq!(
        [binds(c.step(4, 0)), binds(c.step(4, 0))],
        ["p to a", "q to a"]
    );
}

#[test]
fn a_pod_is_tried_again_when_its_claim_comes() {
    let mut c = core(&[local(), ("volume", volume("one", "local", "1Gi", "a"))]);
    c.input(Input::Pod(pod_view("p", uses(&["data"]))), 0);
    c.input(
        Input::Pod(pod_view("plain", json!([{"name": "x", "emptyDir": {}}]))),
        0,
    );
    assert_eq!(
        told(c.step(0, 0)),
        "Unschedulable: 0/2 nodes are available: persistentvolumeclaim \"data\" not found. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
    );
    assert_eq!(binds(c.step(0, 0)).split(' ').next(), Some("plain"));
    c.input(
        Input::Storage(change("claim", claim("unrelated", "local", ""))),
        1,
    );
    assert_eq!(c.sizes().unschedulable, 1);
    c.input(
        Input::Storage(change("claim", claim("data", "local", ""))),
        1,
    );
    assert_eq!(c.sizes().unschedulable, 0);
    c.tick(2000);
    assert_eq!(prepare(c.step(2000, 0)).0, "a");
}

#[test]
fn claims_that_should_be_bound_are_waited_for() {
    let mut c = core(&[
        ("class", class("now", "Immediate", "driver")),
        ("claim", claim("data", "now", "")),
    ]);
    c.input(Input::Pod(pod_view("p", uses(&["data"]))), 0);
    let Some(Action::Explain {
        message,
        nomination,
        ..
    }) = c.step(0, 0)
    else {
        panic!("placed")
    };
    assert_eq!(
        message,
        "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
    );
    assert!(matches!(nomination, Nomination::Cleared));
    c.input(
        Input::Storage(change(
            "volume",
            bound(volume("new", "now", "1Gi", ""), "data", "2"),
        )),
        1,
    );
    c.input(
        Input::Storage(change("claim", claim("data", "now", "new"))),
        1,
    );
    c.tick(2000);
    assert!(binds(c.step(2000, 0)).starts_with("p to "));
}

/// A class without a mode cannot be judged.
#[test]
fn errors_are_not_refusals() {
    let broken = json!({"metadata": {"name": "x"}, "provisioner": "d"});
    let mut c = core(&[("class", broken), ("claim", claim("data", "x", ""))]);
    c.input(Input::Pod(pod_view("p", uses(&["data"]))), 0);
    assert_eq!(
        told(c.step(0, 0)),
        "SchedulerError: running PreFilter plugin \"VolumeBinding\": VolumeBindingMode not set for StorageClass \"x\""
    );
    c.tick(5000);
    assert!(c.step(5000, 0).is_some(), "it is tried again by itself");
}

/// The API and its binder.
#[derive(Default)]
struct Api {
    version: u64,
    /// Version and claim of each volume.
    volumes: BTreeMap<String, (u64, Option<String>)>,
    /// Version and volume of each claim.
    claims: BTreeMap<String, (u64, Option<String>)>,
    /// What was shown to nobody yet.
    unseen: Vec<(bool, String)>,
}

impl Api {
    /// Makes a pod's writes; what came of them.
    fn write(
        &mut self,
        writes: &[Write],
        lost: bool,
    ) -> Result<(Vec<u64>, Option<String>), TestCaseError> {
        let mut versions = Vec::new();
        for w in writes {
            let Some(patch) = &w.patch else {
                versions.push(w.version);
                continue;
            };
            let (version, owner) = self.volumes.get_mut(&w.name).unwrap();
            let read = patch
                .pointer("/metadata/resourceVersion")
                .and_then(Value::as_str);
            if read != Some(version.to_string().as_str()) {
                return Ok((versions, Some("conflict".into())));
            }
            let to = patch
                .pointer("/spec/claimRef/name")
                .and_then(Value::as_str)
                .unwrap();
            prop_assert!(
                owner.as_deref().is_none_or(|o| o == to),
                "{} has {owner:?} and gets {to}",
                w.name
            );
            self.version += 1;
            *version = self.version;
            *owner = Some(to.to_owned());
            self.unseen.push((true, w.name.clone()));
            if lost {
                return Ok((versions, Some("the answer was lost".into())));
            }
            versions.push(self.version);
        }
        Ok((versions, None))
    }

    /// Binds claims whose volumes refer to them, the first there is.
    fn bind(&mut self) {
        for (name, (_, owner)) in &self.volumes {
            let Some(owner) = owner else { continue };
            let (version, volume) = self.claims.get_mut(owner).unwrap();
            if volume.is_none() {
                self.version += 1;
                *version = self.version;
                *volume = Some(name.clone());
                self.unseen.push((false, owner.clone()));
            }
        }
    }

    fn show(&self, c: &mut Core, (is_volume, name): &(bool, String), now: Millis) {
        let input = if *is_volume {
            let (version, owner) = &self.volumes[name];
            let host = if name.ends_with(['0', '2', '4']) {
                "a"
            } else {
                "b"
            };
            let mut v = volume(name, "local", "1Gi", host);
            v["metadata"]["resourceVersion"] = version.to_string().into();
            match owner {
                Some(o) => change("volume", bound(v, o, &version.to_string())),
                None => change("volume", v),
            }
        } else {
            let (version, volume) = &self.claims[name];
            let mut v = claim(name, "local", volume.as_deref().unwrap_or_default());
            v["metadata"]["resourceVersion"] = version.to_string().into();
            change("claim", v)
        };
        c.input(Input::Storage(input), now);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Decide(u64),
    /// One of the waiting writes is made; the answer may get lost.
    Write(usize, bool),
    Bind,
    /// One of the unseen objects is shown, as it is by now.
    Show(usize),
    /// A pod is deleted.
    Delete(usize),
    Later,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<u64>().prop_map(Step::Decide),
        3 => (any::<usize>(), prop::bool::weighted(0.2)).prop_map(|(n, lost)| Step::Write(n, lost)),
        2 => Just(Step::Bind),
        4 => any::<usize>().prop_map(Step::Show),
        1 => (0usize..6).prop_map(Step::Delete),
        2 => Just(Step::Later),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// Six pods with a claim each and five volumes on two nodes. Whatever the order of events: no volume gets two claims,
    /// none is promised twice at a time, a pod is bound on the node of its claim's volume, and none waits in vain.
    #[test]
    fn no_volume_is_given_to_two_claims(steps in prop::collection::vec(step(), 1..150)) {
        let mut api = Api { version: 1, ..Api::default() };
        let mut c = core(&[local()]);
        for n in 0..5 {
            api.volumes.insert(format!("v{n}"), (1, None));
            api.unseen.push((true, format!("v{n}")));
        }
        for n in 0..6 {
            api.claims.insert(format!("c{n}"), (1, None));
            api.unseen.push((false, format!("c{n}")));
            c.input(Input::Pod(pod_view(&format!("p{n}"), uses(&[&format!("c{n}")]))), 0);
        }
        let mut now = 0;
        let mut waiting: Vec<(String, Vec<Write>)> = Vec::new();
        let mut placed: BTreeMap<String, String> = BTreeMap::new();
        let mut gone: BTreeSet<String> = BTreeSet::new();
        let decide = |c: &mut Core, now, random, waiting: &mut Vec<(String, Vec<Write>)>, placed: &mut BTreeMap<String, String>| {
            match c.step(now, random) {
                Some(Action::Prepare { pod, writes, .. }) => waiting.push((pod.metadata.uid.clone(), writes)),
                Some(Action::Bind { pod, node, .. }) => {
                    placed.insert(pod.metadata.uid.clone(), node);
                }
                Some(Action::Explain { .. }) => {}
                None => return false,
            }
            true
        };
        for step in steps {
            now += 100;
            match step {
                Step::Decide(random) => {
                    decide(&mut c, now, random, &mut waiting, &mut placed);
                    let pairs: Vec<_> = waiting.iter().flat_map(|(uid, w)| w.iter().map(move |w| (uid, w))).collect();
                    for (i, (uid, w)) in pairs.iter().enumerate() {
                        // Of a pod that is gone the write may still be on its way.
                        let same = |(o, x): &&(&String, &Write)| x.name == w.name && !gone.contains(*o) && !gone.contains(*uid);
                        prop_assert!(!pairs.iter().skip(i + 1).any(|p| same(&p)), "{} is promised twice", w.name);
                    }
                }
                Step::Write(which, lost) => if !waiting.is_empty() {
                    let (uid, writes) = waiting.remove(which % waiting.len());
                    let (versions, error) = api.write(&writes, lost)?;
                    c.input(Input::Prepared { uid, versions, error }, now);
                },
                Step::Bind => api.bind(),
                Step::Show(which) => if !api.unseen.is_empty() {
                    let which = api.unseen.remove(which % api.unseen.len());
                    api.show(&mut c, &which, now);
                },
                Step::Delete(n) => {
                    let uid = format!("p{n}");
                    c.input(Input::PodGone(pod_view(&uid, uses(&[&format!("c{n}")]))), now);
                    placed.remove(&uid);
                    gone.insert(uid);
                }
                Step::Later => {
                    now += 11_000;
                    c.tick(now);
                }
            }
        }
        // All is written, bound and seen.
        for _ in 0..40 {
            for (uid, writes) in std::mem::take(&mut waiting) {
                let (versions, error) = api.write(&writes, false)?;
                c.input(Input::Prepared { uid, versions, error }, now);
            }
            api.bind();
            for which in std::mem::take(&mut api.unseen) {
                api.show(&mut c, &which, now);
            }
            now += 11_000;
            c.tick(now);
            while decide(&mut c, now, 0, &mut waiting, &mut placed) {}
        }
        for (uid, on) in &placed {
            let volume = api.claims[&uid.replace('p', "c")].1.clone().unwrap();
            let host = if volume.ends_with(['0', '2', '4']) { "a" } else { "b" };
            prop_assert_eq!(on, host, "{} uses {}", uid, volume);
        }
        // Five volumes serve all pods but one, and deleted pods keep what their claims have.
        let free = api.volumes.values().filter(|(_, o)| o.is_none()).count();
        let pending = 6 - gone.len() - placed.len();
        prop_assert!(free == 0 || pending == 0, "{pending} wait for {free} volumes that are free");
        prop_assert!(waiting.is_empty());
    }
}
