//! Claims and volumes as tables, and binding that is cut off anywhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::decide::{Applied, Around, Referred, Step, best_match, claim, default_class, volume};
use crate::views::{PersistentVolume, PersistentVolumeClaim, StorageClass};

fn merge(a: &mut Value, b: Value) {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            for (k, v) in b {
                merge(a.entry(k).or_insert(Value::Null), v);
            }
        }
        (a, b) => *a = b,
    }
}

fn pv_value(name: &str, more: Value) -> Value {
    let mut v = json!({
        "metadata": {"name": name, "uid": format!("uid-{name}")},
        "spec": {"capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain"},
        "status": {"phase": "Available"},
    });
    merge(&mut v, more);
    v
}

fn pv(name: &str, more: Value) -> Arc<PersistentVolume> {
    Arc::new(serde_json::from_value(pv_value(name, more)).unwrap())
}

fn pvc_value(more: Value) -> Value {
    let mut v = json!({
        "metadata": {"name": "c", "namespace": "n", "uid": "uid-c"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}, "storageClassName": ""},
        "status": {"phase": "Pending"},
    });
    merge(&mut v, more);
    v
}

fn pvc(more: Value) -> Arc<PersistentVolumeClaim> {
    Arc::new(serde_json::from_value(pvc_value(more)).unwrap())
}

fn reference(uid: &str) -> Value {
    json!({"spec": {"claimRef": {"namespace": "n", "name": "c", "uid": uid}}})
}

fn class(name: &str, more: Value) -> Arc<StorageClass> {
    let mut v = json!({"metadata": {"name": name}, "provisioner": "x.io/y", "volumeBindingMode": "Immediate"});
    merge(&mut v, more);
    Arc::new(serde_json::from_value(v).unwrap())
}

/// A step in short.
fn told(step: &Step) -> String {
    match step {
        Step::Reserve(v, _) => format!("reserve {}", v.metadata.name),
        Step::Free(v) => format!("free {}", v.metadata.name),
        Step::VolumePhase(v, phase, _) => format!("{} {phase}", v.metadata.name),
        Step::Name(_, v) => format!("name {}", v.metadata.name),
        Step::ClaimPhase(_, phase, _) => format!("claim {phase}"),
        Step::Class(_, class) => format!("class {class}"),
        Step::Provisioner(_, p) => format!("by {p}"),
        Step::TellClaim(_, _, reason, _) | Step::TellVolume(_, _, reason, _) => {
            (*reason).to_owned()
        }
    }
}

fn all(steps: &[Step]) -> Vec<String> {
    steps.iter().map(told).collect()
}

const BOUND: [&str; 4] = ["reserve v", "v Bound", "name v", "claim Bound"];

#[test]
fn the_volume_that_wastes_least() {
    let small = pv("small", json!({"spec": {"capacity": {"storage": "5Gi"}}}));
    let medium = pv(
        "medium",
        json!({"spec": {"capacity": {"storage": "6000Mi"}}}),
    );
    let wide = pv(
        "wide",
        json!({"spec": {"capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"]}}),
    );
    let tiny = pv("tiny", json!({"spec": {"capacity": {"storage": "4Gi"}}}));
    let labelled = pv("labelled", json!({"metadata": {"labels": {"a": "b"}}}));
    let fast = pv("fast", json!({"spec": {"storageClassName": "fast"}}));
    let old_fast = pv(
        "old-fast",
        json!({"metadata": {"annotations": {"volume.beta.kubernetes.io/storage-class": "fast"}}}),
    );
    let block = pv("block", json!({"spec": {"volumeMode": "Block"}}));
    let going = pv(
        "going",
        json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}}),
    );
    let released = pv("released", json!({"status": {"phase": "Released"}}));
    let mine = pv(
        "mine",
        merge_of(
            reference(""),
            json!({"spec": {"storageClassName": "other"}, "status": {"phase": "Pending"}}),
        ),
    );
    let others = pv(
        "others",
        merge_of(reference(""), json!({"spec": {"claimRef": {"name": "d"}}})),
    );
    let former = pv("former", reference("uid-of-before"));
    let gold = pv(
        "gold",
        json!({"spec": {"volumeAttributesClassName": "gold"}}),
    );
    for (what, volumes, spec, delayed, want) in [
        (
            "size",
            vec![&medium, &small, &tiny],
            json!({}),
            false,
            Some("small"),
        ),
        (
            "access modes go before size",
            vec![&wide, &medium],
            json!({}),
            false,
            Some("medium"),
        ),
        (
            "more access than asked for",
            vec![&wide],
            json!({}),
            false,
            Some("wide"),
        ),
        (
            "less access",
            vec![&small],
            json!({"accessModes": ["ReadWriteMany"]}),
            false,
            None,
        ),
        ("none is large enough", vec![&tiny], json!({}), false, None),
        (
            "nothing asked for",
            vec![&tiny, &small],
            json!({"resources": {"requests": {"storage": "0"}}}),
            false,
            Some("tiny"),
        ),
        (
            "labels",
            vec![&small, &labelled],
            json!({"selector": {"matchLabels": {"a": "b"}}}),
            false,
            Some("labelled"),
        ),
        (
            "class",
            vec![&small, &fast],
            json!({"storageClassName": "fast"}),
            false,
            Some("fast"),
        ),
        (
            "class as it was told once",
            vec![&old_fast],
            json!({"storageClassName": "fast"}),
            false,
            Some("old-fast"),
        ),
        ("no class", vec![&fast], json!({}), false, None),
        (
            "mode",
            vec![&small, &block],
            json!({"volumeMode": "Block"}),
            false,
            Some("block"),
        ),
        (
            "no mode is a file system",
            vec![&block, &medium],
            json!({}),
            false,
            Some("medium"),
        ),
        (
            "attributes",
            vec![&small, &gold],
            json!({"volumeAttributesClassName": "gold"}),
            false,
            Some("gold"),
        ),
        ("no attributes", vec![&gold], json!({}), false, None),
        ("one that goes", vec![&going], json!({}), false, None),
        (
            "one that is not free yet",
            vec![&released],
            json!({}),
            false,
            None,
        ),
        (
            "a reserved one goes before all",
            vec![&small, &mine],
            json!({}),
            false,
            Some("mine"),
        ),
        (
            "one that is reserved for another",
            vec![&others],
            json!({}),
            false,
            None,
        ),
        (
            "one of a former claim of this name",
            vec![&former],
            json!({}),
            false,
            None,
        ),
        (
            "who waits for a consumer gets none",
            vec![&small],
            json!({}),
            true,
            None,
        ),
        (
            "but what is reserved",
            vec![&small, &mine],
            json!({}),
            true,
            Some("mine"),
        ),
    ] {
        let volumes: Vec<_> = volumes.into_iter().cloned().collect();
        let found = best_match(&pvc(json!({"spec": spec})), &volumes, delayed);
        assert_eq!(
            found.as_ref().map(|v| v.metadata.name.as_str()),
            want,
            "{what}"
        );
    }
}

fn merge_of(mut a: Value, b: Value) -> Value {
    merge(&mut a, b);
    a
}

#[test]
fn what_a_claim_calls_for() {
    let completed =
        json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}});
    let named = json!({"spec": {"volumeName": "v"}});
    let both = merge_of(completed.clone(), named.clone());
    let free = pv("v", json!({}));
    let mine = pv("v", reference("uid-c"));
    let promised = pv("v", reference(""));
    let others = pv("v", reference("other"));
    let later = class(
        "later",
        json!({"volumeBindingMode": "WaitForFirstConsumer"}),
    );
    let late = json!({"spec": {"storageClassName": "later"}});
    let selected =
        json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n"}}});
    let of = |name: &str| json!({"spec": {"storageClassName": name}});
    type Row<'a> = (
        &'a str,
        Value,
        Option<&'a Arc<PersistentVolume>>,
        Option<Arc<StorageClass>>,
        Option<&'a str>,
        &'a [&'a str],
        &'a [&'a str],
    );
    let rows: Vec<Row<'_>> = vec![
        (
            "a free volume",
            json!({}),
            Some(&free),
            None,
            None,
            &[],
            &BOUND,
        ),
        (
            "no volume",
            json!({}),
            None,
            None,
            None,
            &[],
            &["FailedBinding", "claim Pending"],
        ),
        (
            "a class that is not there",
            of("x"),
            None,
            None,
            None,
            &[],
            &["ProvisioningFailed", "claim Pending"],
        ),
        (
            "a provisioner",
            of("x"),
            None,
            Some(class("x", json!({}))),
            None,
            &[],
            &["by x.io/y", "ExternalProvisioning", "claim Pending"],
        ),
        (
            "a provisioner that has moved",
            of("x"),
            None,
            Some(class("x", json!({"provisioner": "kubernetes.io/aws-ebs"}))),
            None,
            &[],
            &[
                "by ebs.csi.aws.com",
                "ExternalProvisioning",
                "claim Pending",
            ],
        ),
        (
            "no provisioner",
            of("x"),
            None,
            Some(class(
                "x",
                json!({"provisioner": "kubernetes.io/no-provisioner"}),
            )),
            None,
            &[],
            &["ProvisioningFailed", "claim Pending"],
        ),
        (
            "nobody uses it yet",
            late.clone(),
            Some(&free),
            Some(later.clone()),
            None,
            &[],
            &["WaitForFirstConsumer", "claim Pending"],
        ),
        (
            "a pod uses it",
            late.clone(),
            None,
            Some(later.clone()),
            None,
            &["p"],
            &["WaitForPodScheduled", "claim Pending"],
        ),
        (
            "a node was chosen",
            merge_of(late, selected),
            None,
            Some(later),
            None,
            &[],
            &["by x.io/y", "ExternalProvisioning", "claim Pending"],
        ),
        (
            "no class asked for, one by default",
            json!({"spec": {"storageClassName": null}}),
            None,
            None,
            Some("d"),
            &[],
            &["class d"],
        ),
        (
            "no class asked for, a volume fits",
            json!({"spec": {"storageClassName": null}}),
            Some(&free),
            None,
            Some("d"),
            &[],
            &BOUND,
        ),
        (
            "no class wanted",
            json!({}),
            None,
            None,
            Some("d"),
            &[],
            &["FailedBinding", "claim Pending"],
        ),
        (
            "named, not there",
            named.clone(),
            None,
            None,
            None,
            &[],
            &["claim Pending"],
        ),
        (
            "named and free",
            named.clone(),
            Some(&free),
            None,
            None,
            &[],
            &BOUND,
        ),
        (
            "named and promised",
            named.clone(),
            Some(&promised),
            None,
            None,
            &[],
            &BOUND,
        ),
        (
            "named and its own",
            named.clone(),
            Some(&mine),
            None,
            None,
            &[],
            &BOUND,
        ),
        (
            "named and another's",
            named.clone(),
            Some(&others),
            None,
            None,
            &[],
            &["FailedBinding", "claim Pending"],
        ),
        (
            "named and too small",
            merge_of(
                named,
                json!({"spec": {"resources": {"requests": {"storage": "11Gi"}}}}),
            ),
            Some(&free),
            None,
            None,
            &[],
            &["VolumeMismatch", "claim Pending"],
        ),
        ("bound", both.clone(), Some(&mine), None, None, &[], &BOUND),
        (
            "bound, the volume forgot",
            both.clone(),
            Some(&free),
            None,
            None,
            &[],
            &BOUND,
        ),
        (
            "bound to what another has",
            both.clone(),
            Some(&others),
            None,
            None,
            &[],
            &["claim Lost", "ClaimMisbound"],
        ),
        (
            "bound to what is gone",
            both.clone(),
            None,
            None,
            None,
            &[],
            &["claim Lost", "ClaimLost"],
        ),
        (
            "bound to nothing",
            completed,
            None,
            None,
            None,
            &[],
            &["claim Lost", "ClaimLost"],
        ),
        (
            "lost already",
            merge_of(both, json!({"status": {"phase": "Lost"}})),
            None,
            None,
            None,
            &[],
            &["claim Lost"],
        ),
    ];
    for (what, more, v, class, default, waiting, want) in rows {
        let c = pvc(more);
        let named = v.filter(|v| v.metadata.name == c.spec.volume_name).cloned();
        let volumes: Vec<_> = v.cloned().into_iter().collect();
        let around = Around {
            volumes: &volumes,
            named,
            class,
            default: default.map(str::to_owned),
            waiting: waiting.iter().map(|s| (*s).to_owned()).collect(),
        };
        assert_eq!(all(&claim(&c, &around)), want, "{what}");
    }
}

#[test]
fn what_a_volume_calls_for() {
    let bound = |to: &str| Referred::There(pvc(json!({"spec": {"volumeName": to}})));
    let policy = |p: &str| json!({"spec": {"persistentVolumeReclaimPolicy": p}});
    let by = |p: &str| json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": p}}});
    let ours = reference("uid-c");
    let with = |more: Value| merge_of(ours.clone(), more);
    for (what, more, referred, want) in [
        ("free", json!({}), None, &["v Available"][..]),
        ("promised", reference(""), None, &["v Available"]),
        ("bound", with(json!({})), Some(bound("v")), &["v Bound"]),
        (
            "the claim does not know yet",
            with(json!({})),
            Some(bound("")),
            &[],
        ),
        (
            "the claim wants another mode",
            with(json!({"spec": {"volumeMode": "Block"}})),
            Some(bound("")),
            &["VolumeMismatch", "VolumeMismatch"],
        ),
        (
            "the claim went elsewhere",
            with(json!({})),
            Some(bound("w")),
            &["free v", "v Available"],
        ),
        (
            "made for a claim that went elsewhere",
            with(merge_of(policy("Delete"), by("x.io/y"))),
            Some(bound("w")),
            &["v Released"],
        ),
        (
            "kept",
            with(policy("Retain")),
            Some(Referred::Gone),
            &["v Released"],
        ),
        (
            "kept, as before",
            with(merge_of(
                policy("Retain"),
                json!({"status": {"phase": "Released"}}),
            )),
            Some(Referred::Gone),
            &[],
        ),
        (
            "deleted by its driver",
            with(merge_of(policy("Delete"), by("x.io/y"))),
            Some(Referred::Gone),
            &["v Released"],
        ),
        (
            "deleted by the driver of its spec",
            with(merge_of(
                policy("Delete"),
                json!({"spec": {"csi": {"driver": "x"}}}),
            )),
            Some(Referred::Gone),
            &["v Released"],
        ),
        (
            "deleted by nobody",
            with(policy("Delete")),
            Some(Referred::Gone),
            &["v Released", "v Failed", "VolumeFailedDelete"],
        ),
        (
            "deleted by nobody, told already",
            with(merge_of(
                policy("Delete"),
                json!({"status": {"phase": "Failed"}}),
            )),
            Some(Referred::Gone),
            &[],
        ),
        (
            "recycled by nobody",
            with(policy("Recycle")),
            Some(Referred::Gone),
            &["v Released", "v Failed", "VolumeFailedRecycle"],
        ),
        (
            "an unknown policy",
            with(policy("Burn")),
            Some(Referred::Gone),
            &["v Released", "v Failed", "VolumeUnknownReclaimPolicy"],
        ),
    ] {
        assert_eq!(
            all(&volume(&pv("v", more), referred.as_ref())),
            want,
            "{what}"
        );
    }
}

#[test]
fn the_youngest_default_class() {
    let mark = |name: &str, at: &str, value: &str| {
        class(
            name,
            json!({"metadata": {"creationTimestamp": at, "annotations": {"storageclass.kubernetes.io/is-default-class": value}}}),
        )
    };
    let (old, new) = ("2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z");
    let beta = class(
        "beta",
        json!({"metadata": {"creationTimestamp": new, "annotations": {"storageclass.beta.kubernetes.io/is-default-class": "true"}}}),
    );
    for (classes, want) in [
        (
            vec![mark("a", old, "true"), mark("b", new, "true")],
            Some("b"),
        ),
        (
            vec![mark("b", new, "true"), mark("a", new, "true")],
            Some("a"),
        ),
        (
            vec![mark("a", old, "true"), mark("b", new, "false")],
            Some("a"),
        ),
        (vec![mark("a", old, "true"), beta], Some("beta")),
        (vec![class("a", json!({}))], None),
    ] {
        assert_eq!(
            default_class(&classes).map(|c| c.metadata.name.as_str()),
            want
        );
    }
}

#[test]
fn what_changed_meanwhile_is_left_alone() {
    let (v, c) = (pv("v", json!({})), pvc(json!({})));
    let reserve = Step::Reserve(v.clone(), c.clone());
    let name = Step::Name(c.clone(), v.clone());
    for (what, step, mut now, want) in [
        ("free", &reserve, pv_value("v", json!({})), Applied::Changed),
        (
            "promised",
            &reserve,
            pv_value("v", reference("")),
            Applied::Changed,
        ),
        (
            "reserved",
            &reserve,
            pv_value("v", reference("uid-c")),
            Applied::Same,
        ),
        (
            "taken",
            &reserve,
            pv_value(
                "v",
                json!({"spec": {"claimRef": {"namespace": "n", "name": "d", "uid": "x"}}}),
            ),
            Applied::Refused,
        ),
        (
            "taken by one of this name",
            &reserve,
            pv_value("v", reference("x")),
            Applied::Refused,
        ),
        (
            "going",
            &reserve,
            pv_value(
                "v",
                json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}}),
            ),
            Applied::Refused,
        ),
        ("no name", &name, pvc_value(json!({})), Applied::Changed),
        (
            "this name",
            &name,
            pvc_value(json!({"spec": {"volumeName": "v"}})),
            Applied::Changed,
        ),
        (
            "another name",
            &name,
            pvc_value(json!({"spec": {"volumeName": "w"}})),
            Applied::Refused,
        ),
        (
            "freed",
            &Step::Free(pv("v", reference("uid-c"))),
            pv_value("v", reference("uid-c")),
            Applied::Changed,
        ),
        (
            "bound anew",
            &Step::Free(pv("v", reference("uid-c"))),
            pv_value("v", reference("uid-d")),
            Applied::Refused,
        ),
        (
            "a class meanwhile",
            &Step::Class(c.clone(), "d".into()),
            pvc_value(json!({})),
            Applied::Refused,
        ),
        ("no object", &reserve, json!([]), Applied::Refused),
    ] {
        assert_eq!(step.apply(&mut now), want, "{what}");
    }
    // Who promised the volume keeps that it was promised; who took it says so.
    let annotated = |mut now: Value| {
        reserve.apply(&mut now);
        now.pointer("/metadata/annotations").cloned()
    };
    assert_eq!(annotated(pv_value("v", reference(""))), None);
    assert_eq!(
        annotated(pv_value("v", json!({}))),
        Some(json!({"pv.kubernetes.io/bound-by-controller": "yes"}))
    );
    // A promised volume stays promised when its claim goes elsewhere.
    let mut now = pv_value("v", reference("uid-c"));
    Step::Free(pv("v", reference("uid-c"))).apply(&mut now);
    assert_eq!(
        now["spec"]["claimRef"],
        json!({"namespace": "n", "name": "c"})
    );
    let mut status = pvc_value(json!({}));
    Step::ClaimPhase(c, "Bound", Some(v)).apply(&mut status);
    assert_eq!(
        status["status"],
        json!({"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "10Gi"}})
    );
}

proptest! {
    /// However often binding is cut off between two calls, and from however old a look it starts: in the end each claim that
    /// can have a volume has one, and no volume has two claims.
    #[test]
    fn no_volume_has_two_claims(
        claims in 1usize..5, volumes in 1usize..5,
        turns in prop::collection::vec((0usize..10, 0usize..6, any::<bool>()), 0..60),
    ) {
        let mut pvs: BTreeMap<String, Value> = (0..volumes).map(|i| (format!("v{i}"), pv_value(&format!("v{i}"), json!({})))).collect();
        let mut pvcs: BTreeMap<String, Value> = (0..claims).map(|i| {
            let more = json!({"metadata": {"name": format!("c{i}"), "uid": format!("uid-c{i}")}});
            (format!("c{i}"), pvc_value(more))
        }).collect();
        // What the controller sees: at times as it was.
        let (mut seen_pvs, mut seen_pvcs) = (pvs.clone(), pvcs.clone());
        let settled = (0..10).flat_map(|_| (0..10).map(|i| (i, usize::MAX, true)));
        for (who, budget, look) in turns.into_iter().chain(settled) {
            if look {
                (seen_pvs, seen_pvcs) = (pvs.clone(), pvcs.clone());
            }
            let steps = if let Some(c) = seen_pvcs.get(&format!("c{who}")) {
                let c: Arc<PersistentVolumeClaim> = Arc::new(serde_json::from_value(c.clone()).unwrap());
                let all: Vec<Arc<PersistentVolume>> = seen_pvs.values().map(|v| Arc::new(serde_json::from_value(v.clone()).unwrap())).collect();
                let named = all.iter().find(|v| v.metadata.name == c.spec.volume_name).cloned();
                claim(&c, &Around { volumes: &all, named, class: None, default: None, waiting: Vec::new() })
            } else if let Some(v) = who.checked_sub(5).and_then(|i| seen_pvs.get(&format!("v{i}"))) {
                let v: Arc<PersistentVolume> = Arc::new(serde_json::from_value(v.clone()).unwrap());
                let referred = v.spec.claim_ref.as_ref().filter(|r| !r.uid.is_empty()).map(|r| {
                    Referred::There(Arc::new(serde_json::from_value(seen_pvcs[&r.name].clone()).unwrap()))
                });
                volume(&v, referred.as_ref())
            } else {
                continue;
            };
            for step in steps.iter().filter(|s| !s.is_done()).take(budget) {
                let object = match step {
                    Step::Reserve(v, _) | Step::Free(v) | Step::VolumePhase(v, ..) => pvs.get_mut(&v.metadata.name),
                    Step::Name(c, _) | Step::ClaimPhase(c, ..) => pvcs.get_mut(&c.metadata.name),
                    _ => continue,
                };
                if step.apply(object.unwrap()) == Applied::Refused {
                    break;
                }
            }
            let mut owners: Vec<&str> = pvcs.values().filter_map(|c| c["spec"]["volumeName"].as_str()).collect();
            owners.sort_unstable();
            let all = owners.len();
            owners.dedup();
            prop_assert_eq!(owners.len(), all, "two claims of one volume");
        }
        let bound = pvcs.values().filter(|c| c["status"]["phase"] == "Bound").count();
        prop_assert_eq!(bound, claims.min(volumes));
        for c in pvcs.values().filter(|c| c["status"]["phase"] == "Bound") {
            let v = &pvs[c["spec"]["volumeName"].as_str().unwrap()];
            prop_assert_eq!(&v["spec"]["claimRef"]["uid"], &c["metadata"]["uid"]);
            prop_assert_eq!(&v["status"]["phase"], "Bound");
        }
    }
}
