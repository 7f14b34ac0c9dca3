//! VolumeZone: a volume that says in which zones or regions it is can be used on nodes of these alone.

use api::text::go_quote;
use api::volumes::{Claim as _, WAIT_FOR_FIRST_CONSUMER};

use crate::framework::{Check, ClusterEvent, Filter, Plugin, Reason, Refusal, Scope};
use crate::nodes::NodeTable;
use crate::pod::Pod;
use crate::storage::News;
use crate::storage::find::not_found;
use crate::storage::view::VolumeView;

const ELSEWHERE: &str = "node(s) had no available volume zone";

/// The labels, and what a node may have in the place of an old one.
const LABELS: [(&str, &str); 4] = [
    (
        "failure-domain.beta.kubernetes.io/zone",
        "topology.kubernetes.io/zone",
    ),
    (
        "failure-domain.beta.kubernetes.io/region",
        "topology.kubernetes.io/region",
    ),
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    (
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/region",
    ),
];

/// A label of a volume: it is in all of these.
#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    label: &'static str,
    newer: &'static str,
    values: Vec<&'a str>,
}

/// Where a volume is. A label with an empty part counts for nothing.
fn places(volume: &VolumeView) -> Vec<Place<'_>> {
    let mut all = Vec::new();
    for (label, newer) in LABELS {
        let Some(text) = volume.metadata.labels.get(label) else {
            continue;
        };
        let values: Vec<&str> = text.split("__").map(str::trim).collect();
        if values.iter().all(|v| !v.is_empty()) {
            all.push(Place {
                label,
                newer,
                values,
            });
        }
    }
    all
}

fn of_pod<'a>(pod: &Pod, nodes: &'a NodeTable) -> Result<Vec<Place<'a>>, Refusal> {
    let unfit = |text: String| Err(Refusal::Unfit(Reason::fixed(text)));
    let storage = &nodes.storage;
    let mut all = Vec::new();
    for wanted in pod.usage.claims.iter().filter(|c| !c.ephemeral) {
        if wanted.name.is_empty() {
            return unfit("PersistentVolumeClaim had no name".into());
        }
        let Some(claim) = storage.claim(&wanted.key) else {
            return unfit(not_found(&wanted.name));
        };
        let name = &claim.spec.volume_name;
        if name.is_empty() {
            let class = claim.class();
            if class.is_empty() {
                return unfit("PersistentVolumeClaim had no pv name and storageClass name".into());
            }
            let quoted = go_quote(class);
            let Some(found) = storage.class(class) else {
                return unfit(format!("storageclass.storage.k8s.io {quoted} not found"));
            };
            match found.volume_binding_mode.as_deref() {
                Some(WAIT_FOR_FIRST_CONSUMER) => continue,
                Some(_) => return unfit("PersistentVolume had no name".into()),
                None => {
                    return unfit(format!(
                        "VolumeBindingMode not set for StorageClass {quoted}"
                    ));
                }
            }
        }
        match storage.volume(name) {
            Some(volume) => all.extend(places(volume)),
            None => {
                let quoted = go_quote(name);
                return unfit(format!("persistentvolume {quoted} not found"));
            }
        }
    }
    Ok(all)
}

struct VolumeZone;

impl Filter for VolumeZone {
    fn relevant(&self, pod: &Pod) -> bool {
        !pod.usage.claims.is_empty()
    }

    fn check<'a>(&'a self, pod: &'a Pod, nodes: &'a NodeTable) -> Check<'a> {
        let places = of_pod(pod, nodes).unwrap_or_default();
        Box::new(move |row| {
            let Some(r) = nodes.row(row) else {
                return Vec::new();
            };
            // Where nobody speaks of zones there is one.
            if !LABELS
                .iter()
                .any(|(label, _)| r.labels.contains_key(*label))
            {
                return Vec::new();
            }
            let there = |p: &Place<'_>| {
                let value = r.labels.get(p.label).or_else(|| r.labels.get(p.newer));
                value.is_some_and(|v| p.values.contains(&v.as_str()))
            };
            if places.iter().all(there) {
                Vec::new()
            } else {
                vec![Reason::fixed(ELSEWHERE)]
            }
        })
    }
}

fn hint(event: &ClusterEvent<'_>, pod: &Pod, _: &NodeTable) -> bool {
    match event {
        ClusterEvent::Node { change, .. } => change.added || change.labels,
        ClusterEvent::Storage(News::Claim(_, claim)) => {
            let key = claim.metadata.key();
            let mut claims = pod.usage.claims.iter();
            claims.any(|c| !c.ephemeral && c.key == key)
        }
        ClusterEvent::Storage(News::Volume(old, new)) => {
            old.as_ref().is_none_or(|old| places(old) != places(new))
        }
        ClusterEvent::Storage(News::Class(None, class)) => {
            class.volume_binding_mode.as_deref() == Some(WAIT_FOR_FIRST_CONSUMER)
        }
        _ => false,
    }
}

/// The plugin.
pub fn plugin() -> Plugin {
    Plugin {
        pre_filter: Some(|pod, nodes| of_pod(pod, nodes).map(drop)),
        filter: Some(Scope::Dynamic(Box::new(VolumeZone))),
        hint,
        ..Plugin::new("VolumeZone")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::storage::tests::{
        change, claim, class, merged, node, pod, table, uses, verdict, volume, wakes,
    };

    const BETA_ZONE: &str = "failure-domain.beta.kubernetes.io/zone";
    const BETA_REGION: &str = "failure-domain.beta.kubernetes.io/region";
    const ZONE: &str = "topology.kubernetes.io/zone";
    const REGION: &str = "topology.kubernetes.io/region";

    fn labelled(labels: &Value) -> Value {
        let labels = json!({"metadata": {"labels": labels}});
        merged(volume("v", "", "1Gi", ""), labels)
    }

    #[test]
    fn zones_and_regions_of_volumes_are_those_of_nodes() {
        let p = pod("p", uses(&["c"]));
        for (what, volume, labels, fits) in [
            ("nobody speaks of zones", json!({}), json!({}), true),
            ("the node does not", json!({ZONE: "z1"}), json!({}), true),
            ("the volume does not", json!({}), json!({ZONE: "z1"}), true),
            (
                "beta zone",
                json!({BETA_ZONE: "z1"}),
                json!({BETA_ZONE: "z1"}),
                true,
            ),
            (
                "another beta zone",
                json!({BETA_ZONE: "z1"}),
                json!({BETA_ZONE: "z2"}),
                false,
            ),
            (
                "beta region",
                json!({BETA_REGION: "r1"}),
                json!({BETA_REGION: "r1"}),
                true,
            ),
            (
                "another beta region",
                json!({BETA_REGION: "r1"}),
                json!({BETA_REGION: "r2"}),
                false,
            ),
            ("zone", json!({ZONE: "z1"}), json!({ZONE: "z1"}), true),
            (
                "another zone",
                json!({ZONE: "z1"}),
                json!({ZONE: "z2"}),
                false,
            ),
            ("region", json!({REGION: "r1"}), json!({REGION: "r1"}), true),
            (
                "another region",
                json!({REGION: "r1"}),
                json!({REGION: "r2"}),
                false,
            ),
            (
                "one of several",
                json!({ZONE: "z0__z1"}),
                json!({ZONE: "z1"}),
                true,
            ),
            (
                "none of several",
                json!({ZONE: "z0__z2"}),
                json!({ZONE: "z1"}),
                false,
            ),
            ("no list", json!({ZONE: "z0__"}), json!({ZONE: "z1"}), true),
            (
                "both, and the node has one",
                json!({ZONE: "z1", REGION: "r1"}),
                json!({ZONE: "z1"}),
                false,
            ),
            (
                "the node has more",
                json!({ZONE: "z1"}),
                json!({ZONE: "z1", REGION: "r1"}),
                true,
            ),
            (
                "an old label of the node",
                json!({ZONE: "z1"}),
                json!({BETA_ZONE: "z1"}),
                false,
            ),
            (
                "an old label of the volume",
                json!({BETA_ZONE: "z1"}),
                json!({ZONE: "z1"}),
                true,
            ),
            (
                "an old label of another zone",
                json!({BETA_ZONE: "z1"}),
                json!({ZONE: "z2"}),
                false,
            ),
        ] {
            let mut t = table(&[
                ("volume", labelled(&volume)),
                ("claim", claim("c", "", "v")),
            ]);
            t.upsert_node(&node("a", labels));
            let want = if fits { "" } else { ELSEWHERE };
            assert_eq!(verdict(&plugin(), &p, &t, "a"), want, "{what}");
            assert_eq!(
                verdict(&plugin(), &pod("q", json!([])), &t, "a"),
                "",
                "{what}"
            );
        }
    }

    #[test]
    fn what_is_not_there_is_told() {
        let waits = class("waits", "WaitForFirstConsumer", "d");
        let now = class("now", "Immediate", "d");
        for (claims, classes, want) in [
            (vec![], vec![], "persistentvolumeclaim \"c\" not found"),
            (
                vec![claim("c", "", "")],
                vec![],
                "PersistentVolumeClaim had no pv name and storageClass name",
            ),
            (
                vec![claim("c", "x", "")],
                vec![],
                "storageclass.storage.k8s.io \"x\" not found",
            ),
            (
                vec![claim("c", "now", "")],
                vec![now],
                "PersistentVolume had no name",
            ),
            (vec![claim("c", "waits", "")], vec![waits], ""),
            (
                vec![claim("c", "x", "")],
                vec![json!({"metadata": {"name": "x"}})],
                "VolumeBindingMode not set for StorageClass \"x\"",
            ),
            (
                vec![claim("c", "", "gone")],
                vec![],
                "persistentvolume \"gone\" not found",
            ),
        ] {
            let mut t = table(&[]);
            for (kind, all) in [("claim", claims), ("class", classes)] {
                for object in all {
                    t.storage.apply(change(kind, object));
                }
            }
            assert_eq!(verdict(&plugin(), &pod("p", uses(&["c"])), &t, "a"), want);
        }
        let nameless = pod("p", uses(&[""]));
        let why = "PersistentVolumeClaim had no name";
        assert_eq!(verdict(&plugin(), &nameless, &table(&[]), "a"), why);
    }

    #[test]
    fn what_it_waits_for() {
        let p = pod("p", uses(&["c"]));
        let in_zone = |z: &str| labelled(&json!({ZONE: z}));
        let elsewhere = json!({"metadata": {"namespace": "other"}});
        let immediate = class("x", "Immediate", "d");
        let waits = class("x", "WaitForFirstConsumer", "d");
        for (kind, old, new, want) in [
            ("claim", None, claim("c", "", ""), true),
            ("claim", Some(claim("c", "", "")), claim("c", "", "v"), true),
            ("claim", None, claim("d", "", ""), false),
            ("claim", None, merged(claim("c", "", ""), elsewhere), false),
            ("class", None, waits.clone(), true),
            ("class", None, immediate, false),
            ("class", Some(waits.clone()), waits, false),
            ("volume", None, in_zone("z1"), true),
            ("volume", Some(in_zone("z1")), in_zone("z2"), true),
            ("volume", Some(in_zone("z1")), in_zone("z1"), false),
        ] {
            let told = format!("{kind} {old:?} {new}");
            assert_eq!(wakes(&plugin(), &p, kind, old, new), want, "{told}");
        }
    }
}
