//! VolumeRestrictions: a claim for one pod has one pod, and a disk that cannot be shared is used once per node.

use std::collections::HashMap;

use crate::framework::{Check, ClusterEvent, Filter, Plugin, Reason, Refusal, Scope};
use crate::nodes::NodeTable;
use crate::pod::Pod;
use crate::storage::News;
use crate::storage::find::not_found;
use crate::storage::view::{Disk, PodVolume, Source};

const DISK: &str = "node(s) had no available disk";
const IN_USE: &str = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod";

fn disks(volumes: &[PodVolume]) -> impl Iterator<Item = &Disk> {
    volumes.iter().filter_map(|v| match &v.source {
        Source::Disk(disk) => Some(disk),
        _ => None,
    })
}

/// What a disk that cannot be shared is known by.
type Known<'a> = (&'static str, &'a str, &'a str, &'a str);

/// What a disk is known by, and whether it is only read. One of several monitors is enough to know a disk.
fn known(disk: &Disk) -> Vec<(Known<'_>, bool)> {
    match disk {
        Disk::Gce(name, reads) => vec![(("gce", name, "", ""), *reads)],
        Disk::Aws(id) => vec![(("aws", id, "", ""), false)],
        Disk::Iscsi(name, reads) => vec![(("iscsi", name, "", ""), *reads)],
        Disk::Rbd(monitors, pool, image, reads) => {
            let known = monitors
                .iter()
                .map(|m| ("rbd", m.as_str(), pool.as_str(), image.as_str()));
            known.map(|k| (k, *reads)).collect()
        }
        Disk::Azure(_) | Disk::Cinder(_) | Disk::Portworx(_) => Vec::new(),
    }
}

/// The disks of a pod that cannot be shared; those that are not only read are `false`.
struct Disks<'a>(HashMap<Known<'a>, bool>);

impl<'a> Disks<'a> {
    fn of(pod: &'a Pod) -> Disks<'a> {
        let mut all = HashMap::new();
        for (disk, reads) in disks(&pod.view.spec.volumes).flat_map(known) {
            *all.entry(disk).or_insert(true) &= reads;
        }
        Disks(all)
    }

    /// Whether another pod on the same node would be in the way.
    fn conflict_with(&self, other: &Pod) -> bool {
        !self.0.is_empty()
            && disks(&other.view.spec.volumes)
                .flat_map(known)
                .any(|(disk, reads)| self.0.get(&disk).is_some_and(|mine| !(*mine && reads)))
    }
}

fn pre_filter(pod: &Pod, nodes: &NodeTable) -> Result<(), Refusal> {
    let mut claims = pod.usage.claims.iter().filter(|c| !c.ephemeral);
    match claims.find(|c| nodes.storage.claim(&c.key).is_none()) {
        Some(claim) => Err(Refusal::Unfit(Reason::fixed(not_found(&claim.name)))),
        None => Ok(()),
    }
}

/// Whether a claim for one pod has one already, wherever that is.
fn in_use(pod: &Pod, nodes: &NodeTable) -> bool {
    let storage = &nodes.storage;
    pod.usage.claims.iter().any(|c| {
        !c.ephemeral
            && storage.users(&c.key) > 0
            && storage.claim(&c.key).is_some_and(|claim| {
                let mut modes = claim.spec.access_modes.iter();
                modes.any(|m| m == "ReadWriteOncePod")
            })
    })
}

struct VolumeRestrictions;

impl Filter for VolumeRestrictions {
    fn relevant(&self, pod: &Pod) -> bool {
        !pod.view.spec.volumes.is_empty()
    }

    fn check<'a>(&'a self, pod: &'a Pod, nodes: &'a NodeTable) -> Check<'a> {
        let in_use = in_use(pod, nodes);
        let disks = Disks::of(pod);
        Box::new(move |row| {
            let there = nodes.row(row).filter(|_| !disks.0.is_empty());
            if there.is_some_and(|r| r.pods.values().any(|p| disks.conflict_with(p))) {
                vec![Reason::resolvable(DISK)]
            } else if in_use {
                vec![Reason::resolvable(IN_USE)]
            } else {
                Vec::new()
            }
        })
    }
}

fn hint(event: &ClusterEvent<'_>, pod: &Pod, _: &NodeTable) -> bool {
    let uses = |key: &str| {
        let mut claims = pod.usage.claims.iter();
        claims.any(|c| !c.ephemeral && c.key == key)
    };
    match event {
        ClusterEvent::Node { change, .. } => change.added,
        ClusterEvent::PodGone(gone) => {
            gone.view.metadata.namespace == pod.view.metadata.namespace
                && (Disks::of(pod).conflict_with(gone)
                    || gone.usage.claims.iter().any(|c| uses(&c.key)))
        }
        ClusterEvent::Storage(News::Claim(None, claim)) => uses(&claim.metadata.key()),
        _ => false,
    }
}

/// The plugin.
pub fn plugin() -> Plugin {
    Plugin {
        pre_filter: Some(pre_filter),
        filter: Some(Scope::Dynamic(Box::new(VolumeRestrictions))),
        hint,
        ..Plugin::new("VolumeRestrictions")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::Profile;
    use crate::cycle::{Decider, Decision};
    use crate::preemption::preempt;
    use crate::storage::tests::{claim, merged, pod, pod_view, table, uses, verdict, wakes};

    fn gce(name: &str, read_only: bool) -> Value {
        json!({"gcePersistentDisk": {"pdName": name, "readOnly": read_only}})
    }

    fn iscsi(name: &str, read_only: bool) -> Value {
        json!({"iscsi": {"iqn": name, "readOnly": read_only}})
    }

    fn aws(id: &str) -> Value {
        json!({"awsElasticBlockStore": {"volumeID": id}})
    }

    fn rbd(monitors: &[&str], image: &str, read_only: bool) -> Value {
        json!({"rbd": {"monitors": monitors, "pool": "rbd", "image": image, "readOnly": read_only}})
    }

    #[test]
    fn disks_that_cannot_be_shared_are_used_once() {
        let empty = json!({"emptyDir": {}});
        for (mine, theirs, fits) in [
            (gce("x", false), None, true),
            (gce("x", false), Some(gce("x", false)), false),
            (gce("x", true), Some(gce("x", false)), false),
            (gce("x", true), Some(gce("x", true)), true),
            (gce("x", false), Some(gce("y", false)), true),
            (aws("x"), None, true),
            (aws("x"), Some(aws("x")), false),
            (aws("x"), Some(aws("y")), true),
            (aws("x"), Some(gce("x", false)), true),
            (iscsi("x", false), None, true),
            (iscsi("x", false), Some(iscsi("x", true)), false),
            (iscsi("x", true), Some(iscsi("x", true)), true),
            (iscsi("x", false), Some(iscsi("y", false)), true),
            (rbd(&["a", "b"], "x", false), None, true),
            (
                rbd(&["a", "b"], "x", false),
                Some(rbd(&["c", "b"], "x", false)),
                false,
            ),
            (
                rbd(&["a", "b"], "x", true),
                Some(rbd(&["a"], "x", true)),
                true,
            ),
            (
                rbd(&["a", "b"], "x", false),
                Some(rbd(&["c"], "x", false)),
                true,
            ),
            (
                rbd(&["a", "b"], "x", false),
                Some(rbd(&["a"], "y", false)),
                true,
            ),
            (empty.clone(), Some(aws("x")), true),
            (aws("x"), Some(empty), true),
        ] {
            let mut t = table(&[]);
            if let Some(v) = &theirs {
                t.place(&pod("there", json!([v])), "a");
            }
            let p = pod("p", json!([mine]));
            let want = if fits { "" } else { DISK };
            assert_eq!(verdict(&plugin(), &p, &t, "a"), want, "{mine} {theirs:?}");
            assert_eq!(verdict(&plugin(), &p, &t, "b"), "", "another node");
        }
    }

    /// Work by the square: two pods with many disks each.
    #[test]
    fn many_disks_are_not_compared_with_one_another() {
        let many = |from: usize| (from..from + 20_000).map(|n| aws(&n.to_string())).collect();
        let mut t = table(&[]);
        t.place(&pod("there", many(0)), "a");
        assert_eq!(verdict(&plugin(), &pod("p", many(20_000)), &t, "a"), "");
        assert_eq!(verdict(&plugin(), &pod("q", many(19_999)), &t, "a"), DISK);
    }

    fn of_one_pod(name: &str) -> Value {
        let modes = json!({"spec": {"accessModes": ["ReadWriteOncePod"]}});
        merged(claim(name, "", "v"), modes)
    }

    #[test]
    fn a_claim_for_one_pod_has_one_pod() {
        let mut t = table(&[
            ("claim", of_one_pod("one")),
            ("claim", of_one_pod("two")),
            ("claim", claim("shared", "", "v")),
        ]);
        let check = |t: &NodeTable, claims: &[&str]| {
            let p = pod("p", uses(claims));
            assert_eq!(
                verdict(&plugin(), &p, t, "a"),
                verdict(&plugin(), &p, t, "b")
            );
            verdict(&plugin(), &p, t, "a")
        };
        assert_eq!(check(&t, &["one", "two", "shared"]), "");
        t.place(&pod("x", uses(&["one", "shared"])), "a");
        assert_eq!(check(&t, &["one"]), IN_USE);
        assert_eq!(check(&t, &["shared"]), "");
        assert_eq!(check(&t, &["two"]), "");
        assert_eq!(check(&t, &["one", "two"]), IN_USE);
        assert_eq!(
            check(&t, &["gone"]),
            "persistentvolumeclaim \"gone\" not found"
        );
        t.remove_pod("x");
        assert_eq!(check(&t, &["one"]), "");
    }

    #[test]
    fn preemption_frees_a_claim_for_one_pod() {
        let mut t = table(&[(
            "claim",
            merged(of_one_pod("one"), json!({"spec": {"volumeName": "v"}})),
        )]);
        t.storage.apply(crate::storage::tests::change(
            "volume",
            crate::storage::tests::volume("v", "", "1Gi", ""),
        ));
        t.place(&pod("low", uses(&["one"])), "a");
        let mut high = (*pod_view("high", uses(&["one"]))).clone();
        high.spec.priority = 10;
        let high = crate::pod::Classes::default().pod(std::sync::Arc::new(high));
        let mut d = Decider::new(Profile::default());
        let Decision::Unfit(e) = d.decide(&high, &t, 0) else {
            panic!("fits")
        };
        let text = format!("0/2 nodes are available: 2 {IN_USE}.");
        assert_eq!(e.message(), text);
        let found = preempt(&d, &high, &mut t, &e, 0).unwrap();
        assert_eq!(
            (found.node.as_str(), found.victims),
            ("a", vec!["low".to_owned()])
        );
        assert_eq!(t.storage.users("default/one"), 1, "the table is as it was");
    }

    #[test]
    fn what_it_waits_for() {
        let p = pod(
            "p",
            json!([aws("x"), {"persistentVolumeClaim": {"claimName": "c"}}]),
        );
        let t = table(&[]);
        let gone = |volumes: Value| {
            let gone = pod("q", volumes);
            (plugin().hint)(&ClusterEvent::PodGone(&gone), &p, &t)
        };
        assert!(gone(json!([aws("x")])) && !gone(json!([aws("y")])) && !gone(json!([])));
        assert!(gone(uses(&["c"])) && !gone(uses(&["d"])));
        let mut far = (*pod_view("q", json!([aws("x")]))).clone();
        far.metadata.namespace = "other".into();
        let far = crate::pod::Classes::default().pod(std::sync::Arc::new(far));
        assert!(!(plugin().hint)(&ClusterEvent::PodGone(&far), &p, &t));
        let c = || claim("c", "", "");
        assert!(wakes(&plugin(), &p, "claim", None, c()));
        assert!(!wakes(&plugin(), &p, "claim", Some(c()), c()));
        assert!(!wakes(&plugin(), &p, "claim", None, claim("d", "", "")));
    }
}
