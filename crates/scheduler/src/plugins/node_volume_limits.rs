//! NodeVolumeLimits: a driver attaches no more volumes to a node than it says it can.
//!
//! In-tree disks count for the drivers that have taken their places.

use std::collections::{HashMap, HashSet};

use api::volumes::{Claim as _, migrated};

use crate::framework::{Check, ClusterEvent, Filter, Plugin, Reason, Scope};
use crate::nodes::{NodeTable, Row};
use crate::pod::Pod;
use crate::storage::find::{not_found, not_made_for};
use crate::storage::view::{ClaimView, Source};
use crate::storage::{News, Storage};

const TOO_MANY: &str = "node(s) exceed max volume count";

/// A driver, and what it calls the volume. A volume that is not made yet is called after its claim.
type Attached = (String, String);

fn of_claim(claim: &ClaimView, storage: &Storage) -> Option<Attached> {
    if let Some(volume) = storage.volume(&claim.spec.volume_name) {
        let found = volume.handle();
        return found.filter(|(driver, handle)| !driver.is_empty() && !handle.is_empty());
    }
    let class = storage.class(claim.class())?;
    let driver = match class.provisioner.as_str() {
        // These drivers' volumes are not counted.
        "" | "kubernetes.io/azure-file" | "kubernetes.io/vsphere-volume" => return None,
        name => migrated(name).unwrap_or(name),
    };
    let key = format!("claim {}", claim.metadata.key());
    Some((driver.to_owned(), key))
}

/// The volumes of a pod that drivers attach. Of a pod that is placed, claims that are gone count for nothing.
fn of_pod(pod: &Pod, storage: &Storage, placed: bool) -> Result<HashSet<Attached>, String> {
    let mut all = HashSet::new();
    for wanted in &pod.usage.claims {
        let Some(claim) = storage.claim(&wanted.key) else {
            if placed {
                continue;
            }
            let why = not_found(&wanted.name);
            return Err(format!("looking up PVC {}: {why}", wanted.key));
        };
        if wanted.ephemeral && !claim.is_of(pod.uid()) {
            if placed {
                continue;
            }
            return Err(not_made_for(pod, &wanted.name));
        }
        all.extend(of_claim(claim, storage));
    }
    for volume in &pod.view.spec.volumes {
        if let Source::Disk(disk) = &volume.source
            && let Some((driver, handle)) = disk.migrated()
        {
            all.insert((driver.to_owned(), handle.to_owned()));
        }
    }
    Ok(all)
}

/// What is attached to a node, by its pods and by what says so.
fn on_node(row: &Row, storage: &Storage) -> HashSet<Attached> {
    let mut all = HashSet::new();
    for pod in row
        .pods
        .values()
        .filter(|p| !p.view.spec.volumes.is_empty())
    {
        all.extend(of_pod(pod, storage, true).unwrap_or_default());
    }
    for attachment in storage.attached_to(&row.name) {
        let spec = &attachment.spec;
        let name = spec.source.persistent_volume_name.as_deref();
        let Some(volume) = name.and_then(|n| storage.volume(n)) else {
            continue;
        };
        if let Some((_, handle)) = volume.handle()
            && volume.is_csi()
            && !spec.attacher.is_empty()
        {
            all.insert((spec.attacher.clone(), handle));
        }
    }
    all
}

struct NodeVolumeLimits;

impl Filter for NodeVolumeLimits {
    fn relevant(&self, pod: &Pod) -> bool {
        !pod.view.spec.volumes.is_empty()
    }

    fn check<'a>(&'a self, pod: &'a Pod, nodes: &'a NodeTable) -> Check<'a> {
        let storage = &nodes.storage;
        let new = match of_pod(pod, storage, false) {
            Ok(new) => new,
            Err(why) => return Box::new(move |_| vec![Reason::fixed(why.clone())]),
        };
        Box::new(move |row| {
            let Some(r) = nodes.row(row) else {
                return Vec::new();
            };
            let Some(limits) = storage.csi_node(&r.name) else {
                return Vec::new();
            };
            if !new.iter().any(|(driver, _)| limits.limit(driver).is_some()) {
                return Vec::new();
            }
            let there = on_node(r, storage);
            let mut counts: HashMap<&str, (usize, bool)> = HashMap::new();
            for (driver, _) in &there {
                counts.entry(driver).or_default().0 += 1;
            }
            for volume in new.iter().filter(|v| !there.contains(*v)) {
                let count = counts.entry(&volume.0).or_default();
                *count = (count.0 + 1, true);
            }
            let exceeds = |(driver, (count, grows)): (&&str, &(usize, bool))| {
                let limit = limits
                    .limit(driver)
                    .map(|l| usize::try_from(l).unwrap_or(0));
                *grows && limit.is_some_and(|l| *count > l)
            };
            if counts.iter().any(exceeds) {
                vec![Reason::resolvable(TOO_MANY)]
            } else {
                Vec::new()
            }
        })
    }
}

fn hint(event: &ClusterEvent<'_>, pod: &Pod, _: &NodeTable) -> bool {
    match event {
        ClusterEvent::PodGone(gone) => {
            let counts = |s: &Source| match s {
                Source::Claim(_) | Source::Ephemeral => true,
                Source::Disk(disk) => disk.migrated().is_some(),
                Source::Csi(_) => false,
            };
            gone.view.spec.volumes.iter().any(|v| counts(&v.source))
        }
        ClusterEvent::Storage(News::CsiNode(old, new)) => old.as_ref().is_none_or(|old| {
            let limit = |d: &str| old.limit(d).unwrap_or(0);
            let mut drivers = new.spec.drivers.iter();
            drivers.any(|d| new.limit(&d.name).unwrap_or(0) > limit(&d.name))
        }),
        ClusterEvent::Storage(News::Claim(None, claim)) => {
            let key = claim.metadata.key();
            pod.usage.claims.iter().any(|c| c.key == key)
        }
        ClusterEvent::Storage(News::AttachmentGone(attachment)) => {
            let gone = attachment.spec.attacher.as_str();
            pod.view.spec.volumes.iter().any(|v| match &v.source {
                Source::Claim(_) => true,
                Source::Disk(disk) => disk.migrated().is_some_and(|(driver, _)| driver == gone),
                Source::Ephemeral | Source::Csi(_) => false,
            })
        }
        _ => false,
    }
}

/// The plugin.
pub fn plugin() -> Plugin {
    Plugin {
        filter: Some(Scope::Dynamic(Box::new(NodeVolumeLimits))),
        hint,
        ..Plugin::new("NodeVolumeLimits")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::storage::tests::{
        change, claim, class, merged, pod, table, uses, verdict, volume, wakes,
    };

    const EBS: &str = "ebs.csi.aws.com";

    fn csi(name: &str, driver: &str, handle: &str) -> (&'static str, Value) {
        let source = json!({"spec": {"csi": {"driver": driver, "volumeHandle": handle}}});
        ("volume", merged(volume(name, "", "1Gi", ""), source))
    }

    fn in_tree(name: &str, source: Value) -> (&'static str, Value) {
        (
            "volume",
            merged(volume(name, "", "1Gi", ""), json!({"spec": source})),
        )
    }

    fn limits(all: &[(&str, Option<i32>)]) -> (&'static str, Value) {
        let driver = |(name, count): &(&str, Option<i32>)| match count {
            Some(n) => json!({"name": name, "allocatable": {"count": n}}),
            None => json!({"name": name}),
        };
        let drivers: Vec<Value> = all.iter().map(driver).collect();
        (
            "csinode",
            json!({"metadata": {"name": "a"}, "spec": {"drivers": drivers}}),
        )
    }

    fn inline(id: &str) -> Value {
        json!([{"name": "i", "awsElasticBlockStore": {"volumeID": id}}])
    }

    fn ephemeral() -> Value {
        json!([{"name": "e", "ephemeral": {}}])
    }

    fn owned(name: &str, class: &str, bound: &str, by: &str) -> (&'static str, Value) {
        let owner = json!({"kind": "Pod", "uid": by, "controller": true});
        let owners = json!({"metadata": {"ownerReferences": [owner]}});
        ("claim", merged(claim(name, class, bound), owners))
    }

    /// What is there, the pods on the node, the pod, and whether it fits.
    #[test]
    fn a_driver_attaches_no_more_than_it_says() {
        let attachment = |name: &str, volume: &str| {
            let source = json!({"persistentVolumeName": volume});
            let spec = json!({"attacher": "d", "nodeName": "a", "source": source});
            (
                "attachment",
                json!({"metadata": {"name": name}, "spec": spec}),
            )
        };
        let objects = |limit: i32| {
            vec![
                limits(&[("d", Some(limit)), (EBS, Some(limit)), ("boundless", None)]),
                csi("v1", "d", "h1"),
                csi("v2", "d", "h2"),
                csi("v3", "d", "h3"),
                csi("e1", EBS, "vol-1"),
                csi("free", "boundless", "h"),
                csi("unknown", "unknown", "h"),
                in_tree(
                    "old",
                    json!({"awsElasticBlockStore": {"volumeID": "aws://z/vol-2"}}),
                ),
                in_tree("local", json!({"local": {"path": "/x"}})),
                ("class", class("d", "WaitForFirstConsumer", "d")),
                (
                    "class",
                    class("ebs", "WaitForFirstConsumer", "kubernetes.io/aws-ebs"),
                ),
                (
                    "class",
                    class(
                        "vsphere",
                        "WaitForFirstConsumer",
                        "kubernetes.io/vsphere-volume",
                    ),
                ),
                ("claim", claim("c1", "", "v1")),
                ("claim", claim("again", "", "v1")),
                ("claim", claim("c2", "", "v2")),
                ("claim", claim("c3", "", "v3")),
                ("claim", claim("ce", "", "e1")),
                ("claim", claim("cfree", "", "free")),
                ("claim", claim("cunknown", "", "unknown")),
                ("claim", claim("cold", "", "old")),
                ("claim", claim("clocal", "", "local")),
                ("claim", claim("pending", "d", "")),
                ("claim", claim("pending2", "d", "")),
                ("claim", claim("ebs-pending", "ebs", "")),
                ("claim", claim("vsphere-pending", "vsphere", "")),
                ("claim", claim("lost", "d", "no-such-volume")),
                ("claim", claim("classless", "none", "no-such-volume")),
                owned("p-e", "d", "", "p"),
                owned("x-e", "d", "v1", "x"),
            ]
        };
        let none = || json!([]);
        for (what, limit, there, new, fits) in [
            ("up to the limit", 2, uses(&["c1"]), uses(&["c2"]), true),
            ("beyond it", 1, uses(&["c1"]), uses(&["c2"]), false),
            ("two at once", 1, none(), uses(&["c1", "c2"]), false),
            ("the same volume", 1, uses(&["c1"]), uses(&["c1"]), true),
            (
                "the same volume by two claims",
                1,
                uses(&["c1"]),
                uses(&["again"]),
                true,
            ),
            ("another driver's", 1, uses(&["c1"]), uses(&["ce"]), true),
            ("no limit is told", 0, uses(&["c1"]), uses(&["cfree"]), true),
            (
                "the driver is not there",
                0,
                uses(&["c1"]),
                uses(&["cunknown"]),
                true,
            ),
            ("nobody's", 0, uses(&["c1"]), uses(&["clocal"]), true),
            (
                "it is to be made",
                1,
                uses(&["c1"]),
                uses(&["pending"]),
                false,
            ),
            (
                "two are to be made",
                2,
                uses(&["c1"]),
                uses(&["pending", "pending2"]),
                false,
            ),
            (
                "one waits already",
                1,
                uses(&["pending"]),
                uses(&["c1"]),
                false,
            ),
            (
                "a volume that is gone, of a class",
                1,
                uses(&["lost"]),
                uses(&["c1"]),
                false,
            ),
            (
                "a volume that is gone, of no class",
                1,
                uses(&["classless"]),
                uses(&["c1"]),
                true,
            ),
            (
                "a claim that is gone",
                1,
                uses(&["gone"]),
                uses(&["c1"]),
                true,
            ),
            ("in-tree", 1, uses(&["ce"]), uses(&["cold"]), false),
            (
                "in-tree, up to the limit",
                2,
                uses(&["ce"]),
                uses(&["cold"]),
                true,
            ),
            (
                "in-tree, to be made",
                1,
                uses(&["ce"]),
                uses(&["ebs-pending"]),
                false,
            ),
            (
                "in-tree, moved nowhere",
                0,
                none(),
                uses(&["vsphere-pending"]),
                true,
            ),
            ("in a pod", 1, inline("vol-9"), uses(&["ce"]), false),
            ("in the new pod", 1, uses(&["ce"]), inline("vol-9"), false),
            ("the same in a pod", 1, inline("vol-1"), uses(&["ce"]), true),
            (
                "in-tree and in a pod are one",
                1,
                inline("vol-2"),
                uses(&["cold"]),
                true,
            ),
            ("made for the pod", 1, uses(&["c1"]), ephemeral(), false),
            (
                "made for the pod, up to the limit",
                2,
                uses(&["c1"]),
                ephemeral(),
                true,
            ),
        ] {
            let mut t = table(&objects(limit));
            t.place(&pod("there", there), "a");
            let want = if fits { "" } else { TOO_MANY };
            let p = pod("p", new);
            assert_eq!(verdict(&plugin(), &p, &t, "a"), want, "{what}");
            assert_eq!(
                verdict(&plugin(), &p, &t, "b"),
                "",
                "{what}, where nothing is told"
            );
        }

        // What is made for another pod on the node counts as any other.
        let mut t = table(&objects(1));
        t.place(&pod("x", ephemeral()), "a");
        assert_eq!(verdict(&plugin(), &pod("p", uses(&["c1"])), &t, "a"), "");
        assert_eq!(
            verdict(&plugin(), &pod("p", uses(&["c2"])), &t, "a"),
            TOO_MANY
        );

        // What is attached counts, once.
        let mut t = table(&objects(2));
        for a in [
            attachment("1", "v1"),
            attachment("2", "v2"),
            attachment("3", "gone"),
        ] {
            t.storage.apply(change(a.0, a.1));
        }
        assert_eq!(
            verdict(&plugin(), &pod("p", uses(&["c3"])), &t, "a"),
            TOO_MANY
        );
        t.place(&pod("there", uses(&["c1", "c2"])), "a");
        assert_eq!(
            verdict(&plugin(), &pod("p", uses(&["c3"])), &t, "a"),
            TOO_MANY
        );
        t.storage
            .apply(change("csinode", limits(&[("d", Some(3))]).1));
        assert_eq!(verdict(&plugin(), &pod("p", uses(&["c3"])), &t, "a"), "");
        t.remove_pod("there");
        assert_eq!(verdict(&plugin(), &pod("p", json!([])), &t, "a"), "");
    }

    #[test]
    fn claims_that_cannot_be_looked_up() {
        let t = table(&[]);
        let why = "looking up PVC default/c: persistentvolumeclaim \"c\" not found";
        assert_eq!(verdict(&plugin(), &pod("p", uses(&["c"])), &t, "a"), why);
        let why = "looking up PVC default/p-e: persistentvolumeclaim \"p-e\" not found";
        assert_eq!(verdict(&plugin(), &pod("p", ephemeral()), &t, "a"), why);
        let t = table(&[owned("p-e", "", "", "another")]);
        let why = "PVC default/p-e was not created for pod default/p (pod is not owner)";
        assert_eq!(verdict(&plugin(), &pod("p", ephemeral()), &t, "a"), why);
        let plain = json!([{"secret": {"secretName": "s"}}, {"configMap": {"name": "c"}}]);
        assert!(!NodeVolumeLimits.relevant(&pod("p", plain)));
    }

    #[test]
    fn what_it_waits_for() {
        let p = pod("p", uses(&["c"]));
        let t = table(&[]);
        let gone =
            |volumes: Value| (plugin().hint)(&ClusterEvent::PodGone(&pod("q", volumes)), &p, &t);
        assert!(gone(uses(&["d"])) && gone(ephemeral()) && gone(inline("x")));
        assert!(!gone(json!([])) && !gone(json!([{"csi": {"driver": "d"}}])));
        let limit = |n: i32| limits(&[("d", Some(n))]).1;
        for (kind, old, new, want) in [
            ("csinode", None, limit(1), true),
            ("csinode", Some(limit(1)), limit(2), true),
            ("csinode", Some(limit(2)), limit(1), false),
            ("csinode", Some(limit(2)), limit(2), false),
            ("csinode", Some(limits(&[]).1), limit(1), true),
            ("claim", None, claim("c", "", ""), true),
            ("claim", None, claim("d", "", ""), false),
            (
                "claim",
                Some(claim("c", "", "")),
                claim("c", "", "v"),
                false,
            ),
            (
                "claim",
                None,
                merged(
                    claim("c", "", ""),
                    json!({"metadata": {"namespace": "other"}}),
                ),
                false,
            ),
        ] {
            let told = format!("{kind} {old:?} {new}");
            assert_eq!(wakes(&plugin(), &p, kind, old, new), want, "{told}");
        }
        let e = pod("p", ephemeral());
        assert!(wakes(&plugin(), &e, "claim", None, claim("p-e", "", "")));
        let detached = |attacher: &str| {
            let a =
                json!({"metadata": {"name": "x"}, "spec": {"attacher": attacher, "nodeName": "a"}});
            let mut t = table(&[("attachment", a)]);
            t.storage
                .apply(crate::storage::Change::AttachmentGone("x".into()))
                .unwrap()
        };
        for (volumes, attacher, want) in [
            (uses(&["c"]), "d", true),
            (inline("x"), EBS, true),
            (inline("x"), "pd.csi.storage.gke.io", false),
            (json!([]), "d", false),
        ] {
            let news = detached(attacher);
            let woken = (plugin().hint)(&ClusterEvent::Storage(&news), &pod("p", volumes), &t);
            assert_eq!(woken, want, "{attacher}");
        }
    }
}
