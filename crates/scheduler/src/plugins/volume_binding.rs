//! VolumeBinding: a pod runs where its volumes are, where free ones for its claims are, or where some can be made.
//!
//! Claims whose class waits for a first consumer get their volume, or the node that it is to be made for, once the pod has a
//! node; the pod is bound once they are. Volumes are written over the version that was decided upon only, so that a volume
//! never gets a second claim.
//!
//! Partial: the affinity of in-tree volumes is taken as it is written, not as the driver that has taken the plugin's place
//! would have it; nothing is scored (upstream scores behind the gate StorageCapacityScoring, which is off).

use std::time::Duration;

use api::text::go_quote;
use api::volumes::{BOUND_BY_CONTROLLER, SELECTED_NODE, usable_on};
use client::resource::{PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES};
use serde_json::json;

use crate::config::Profile;
use crate::framework::{Check, ClusterEvent, Filter, Hold, Plugin, Reason, Scope, Write};
use crate::nodes::NodeTable;
use crate::pod::Pod;
use crate::storage::find::{Wanted, check};
use crate::storage::reservations::{Binding, Held, Provision};
use crate::storage::view::{ClaimView, Source, VolumeView};
use crate::storage::{News, Storage};

struct VolumeBinding {
    patience: Duration,
}

impl Filter for VolumeBinding {
    fn relevant(&self, pod: &Pod) -> bool {
        !pod.usage.claims.is_empty()
    }

    fn check<'a>(&'a self, pod: &'a Pod, nodes: &'a NodeTable) -> Check<'a> {
        let wanted = Wanted::of(pod, &nodes.storage);
        Box::new(move |row| {
            let Some(r) = nodes.row(row) else {
                return Vec::new();
            };
            let found = wanted.on(&r.name, &r.labels);
            found.reasons.into_iter().map(Reason::fixed).collect()
        })
    }
}

/// The reference of a volume to a claim, over the version that was looked at. Volumes that a person reserved for the claim
/// are not marked as bound by us. Nothing is written where it is written already, or is being written for another pod.
fn reserve(volume: &VolumeView, claim: &ClaimView, storage: &Storage) -> Write {
    let (v, c) = (&volume.metadata, &claim.metadata);
    let old = volume.spec.claim_ref.as_ref();
    let ours = old.filter(|r| {
        r.name == c.name && r.namespace == c.namespace && (r.uid.is_empty() || r.uid == c.uid)
    });
    let being = storage.reservations.taken(&v.name);
    let being = being.is_some_and(|t| !t.holders.pods.is_empty());
    let needed = !being && ours.is_none_or(|r| r.uid != c.uid);
    let patch = needed.then(|| {
        let mut metadata = json!({"uid": v.uid, "resourceVersion": v.resource_version});
        if ours.is_none()
            && let Some(m) = metadata.as_object_mut()
        {
            m.insert("annotations".into(), json!({BOUND_BY_CONTROLLER: "yes"}));
        }
        let reference = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": c.namespace,
            "name": c.name, "uid": c.uid, "resourceVersion": c.resource_version,
        });
        json!({"metadata": metadata, "spec": {"claimRef": reference}})
    });
    Write {
        resource: &PERSISTENT_VOLUMES,
        namespace: String::new(),
        name: v.name.clone(),
        patch,
        version: v.version(),
    }
}

/// The node that a claim's volume is to be made for.
fn select(claim: &ClaimView, node: &str, storage: &Storage) -> Write {
    let c = &claim.metadata;
    let being = storage.reservations.selected(&c.key());
    let being = being.is_some_and(|s| s.uid == c.uid && !s.holders.pods.is_empty());
    let needed = !being && c.annotations.get(SELECTED_NODE).is_none_or(|n| n != node);
    let patch = needed.then(|| {
        json!({"metadata": {
            "uid": c.uid, "resourceVersion": c.resource_version, "annotations": {SELECTED_NODE: node},
        }})
    });
    Write {
        resource: &PERSISTENT_VOLUME_CLAIMS,
        namespace: c.namespace.clone(),
        name: c.name.clone(),
        patch,
        version: c.version(),
    }
}

fn elsewhere(volume: &str, node: &str) -> String {
    format!(
        "binding volumes: pv {} node affinity doesn't match node {}: no matching NodeSelectorTerms",
        go_quote(volume),
        go_quote(node)
    )
}

impl VolumeBinding {
    fn bindings_ready(held: &Held, nodes: &NodeTable, row: usize) -> Result<bool, String> {
        let storage = &nodes.storage;
        for Binding {
            volume: name,
            claim: claim_key,
            written,
        } in &held.bindings
        {
            let quoted = go_quote(name);
            let Some(volume) = storage.volume(name) else {
                return Err(format!(
                    "binding volumes: failed to check binding: persistentvolumes {quoted} not found"
                ));
            };
            let Some(claim) = storage.claim(claim_key) else {
                let quoted = go_quote(claim_key);
                return Err(format!(
                    "binding volumes: failed to check binding: persistentvolumeclaims {quoted} not found"
                ));
            };
            if written.is_none_or(|w| volume.metadata.version() < w) {
                return Ok(false);
            }
            if !usable_here(volume, nodes, row) {
                return Err(elsewhere(name, &held.node));
            }
            let reference = volume.spec.claim_ref.as_ref();
            if reference.is_none_or(|r| r.uid.is_empty()) {
                let taken = storage.reservations.taken(name);
                if taken.is_some_and(|t| t.holders.pods.len() > 1) {
                    return Ok(false);
                }
                return Err(format!(
                    "binding volumes: ClaimRef got reset for pv {quoted}"
                ));
            }
            if !claim.is_bound() {
                return Ok(false);
            }
            // An earlier write, whose answer was lost, may have given it another one.
            let got = &claim.spec.volume_name;
            if got != name {
                let (claim, got) = (go_quote(claim_key), go_quote(got));
                return Err(format!(
                    "binding volumes: pvc {claim} got pv {got}, not {quoted}"
                ));
            }
        }
        Ok(true)
    }

    fn provisions_ready(held: &Held, nodes: &NodeTable, row: usize) -> Result<bool, String> {
        let storage = &nodes.storage;
        for Provision {
            claim: key,
            written,
        } in &held.provisions
        {
            let Some(claim) = storage.claim(key) else {
                let quoted = go_quote(key);
                return Err(format!(
                    "binding volumes: failed to check provisioning pvc: persistentvolumeclaims {quoted} not found"
                ));
            };
            if written.is_none_or(|w| claim.metadata.version() < w) {
                return Ok(false);
            }
            // The provisioner takes the node away when it cannot make a volume for it.
            if claim.metadata.annotations.get(SELECTED_NODE) != Some(&held.node) {
                let selected = storage.reservations.selected(key);
                if selected.is_some_and(|s| s.holders.pods.len() > 1) {
                    return Ok(false);
                }
                let quoted = go_quote(&claim.metadata.name);
                return Err(format!(
                    "binding volumes: provisioning failed for PVC {quoted}"
                ));
            }
            let name = &claim.spec.volume_name;
            if !name.is_empty() {
                let Some(volume) = storage.volume(name) else {
                    return Ok(false);
                };
                if !usable_here(volume, nodes, row) {
                    return Err(elsewhere(name, &held.node));
                }
            }
            if !claim.is_bound() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn usable_here(volume: &VolumeView, nodes: &NodeTable, row: usize) -> bool {
    let affinity = volume.spec.node_affinity.as_ref();
    let labels = nodes.row(row).map(|r| &r.labels);
    labels.is_some_and(|labels| usable_on(affinity, None, labels))
}

impl Hold for VolumeBinding {
    fn relevant(&self, pod: &Pod) -> bool {
        !pod.usage.claims.is_empty()
    }

    fn reserve(
        &self,
        pod: &Pod,
        nodes: &mut NodeTable,
        row: usize,
    ) -> Result<Option<Vec<Write>>, String> {
        let Some(r) = nodes.row(row) else {
            return Err("the node is gone".into());
        };
        let node = r.name.clone();
        let found = Wanted::of(pod, &nodes.storage).on(&node, &r.labels);
        if let Some(why) = found.reasons.first() {
            return Err((*why).to_owned());
        }
        if found.bindings.is_empty() && found.provisions.is_empty() {
            return Ok(None);
        }
        let volumes = found
            .bindings
            .iter()
            .map(|(v, c)| reserve(v, c, &nodes.storage));
        let claims = found
            .provisions
            .iter()
            .map(|c| select(c, &node, &nodes.storage));
        let writes = volumes.chain(claims).collect();
        // What is held is written down beside what it was found in.
        let bindings: Vec<_> = found
            .bindings
            .into_iter()
            .filter_map(|(v, c)| Some((nodes.storage.volume(&v.metadata.name)?.clone(), c.clone())))
            .collect();
        let provisions: Vec<_> = found.provisions.into_iter().cloned().collect();
        let bindings: Vec<_> = bindings.iter().map(|(v, c)| (&**v, &**c)).collect();
        let provisions: Vec<_> = provisions.iter().map(|c| &**c).collect();
        let reservations = &mut nodes.storage.reservations;
        reservations.hold(pod.uid(), &node, &bindings, &provisions);
        Ok(Some(writes))
    }

    fn written(&self, pod: &Pod, nodes: &mut NodeTable, versions: &[u64]) {
        nodes.storage.reservations.written(pod.uid(), versions);
    }

    fn is_ready(&self, pod: &Pod, nodes: &NodeTable, node: &str) -> Result<bool, String> {
        let Some(held) = nodes.storage.reservations.of(pod.uid()) else {
            return Ok(true);
        };
        let Some(row) = nodes.find(node) else {
            let node = go_quote(node);
            return Err(format!(
                "binding volumes: failed to get node {node}: node {node} not found"
            ));
        };
        Ok(Self::bindings_ready(held, nodes, row)? && Self::provisions_ready(held, nodes, row)?)
    }

    fn patience(&self) -> Duration {
        self.patience
    }

    fn too_late(&self) -> String {
        "binding volumes: context deadline exceeded".into()
    }

    fn release(&self, pod: &Pod, nodes: &mut NodeTable) {
        nodes.storage.release(pod.uid());
    }
}

fn hint(event: &ClusterEvent<'_>, pod: &Pod, _: &NodeTable) -> bool {
    match event {
        ClusterEvent::Node { change, .. } => change.added || change.labels,
        // It may have held volumes that it did not get.
        ClusterEvent::PodGone(gone) => !gone.usage.claims.is_empty(),
        ClusterEvent::PodPlaced(_) => false,
        ClusterEvent::Storage(news) => match news {
            News::Claim(_, claim) => {
                let key = claim.metadata.key();
                pod.usage.claims.iter().any(|c| c.key == key)
            }
            News::Volume(..) => true,
            News::Class(old, new) => {
                let terms = &new.allowed_topologies;
                old.as_ref().is_none_or(|o| o.allowed_topologies != *terms)
            }
            News::Capacity(old, new) => match (old, new.limit()) {
                (None, _) => true,
                (Some(old), Some(limit)) => old.limit().is_none_or(|l| limit > l),
                (Some(_), None) => false,
            },
            News::Driver(old, new) => {
                let tells = Some(true);
                let stopped =
                    old.spec.storage_capacity == tells && new.spec.storage_capacity != tells;
                let name = &new.metadata.name;
                let mut volumes = pod.view.spec.volumes.iter();
                stopped && volumes.any(|v| matches!(&v.source, Source::Csi(d) if d == name))
            }
            News::CsiNode(..) | News::AttachmentGone(_) => false,
        },
    }
}

/// The plugin.
pub fn plugin(profile: &Profile) -> Plugin {
    let patience = profile.bind_timeout;
    Plugin {
        pre_filter: Some(|pod, nodes| check(pod, &nodes.storage)),
        filter: Some(Scope::Dynamic(Box::new(VolumeBinding { patience }))),
        hold: Some(Box::new(VolumeBinding { patience })),
        hint,
        ..Plugin::new("VolumeBinding")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::storage::find::{ELSEWHERE, NO_ROOM, NO_VOLUME, NOT_FOUND};
    use crate::storage::tests::{
        change, claim, class, merged, node, pod, table, uses, verdict, volume, wakes,
    };

    fn it() -> Plugin {
        plugin(&Profile::default())
    }

    fn local() -> (&'static str, Value) {
        let name = "kubernetes.io/no-provisioner";
        ("class", class("local", "WaitForFirstConsumer", name))
    }

    fn made() -> (&'static str, Value) {
        ("class", class("made", "WaitForFirstConsumer", "d"))
    }

    fn volumes(all: &[(&str, &str, &str)]) -> Vec<(&'static str, Value)> {
        let of =
            |(name, size, host): &(&str, &str, &str)| ("volume", volume(name, "local", size, host));
        all.iter().map(of).collect()
    }

    /// `claim` with what is different.
    fn but(claim: Value, with: Value) -> (&'static str, Value) {
        ("claim", merged(claim, with))
    }

    #[test]
    fn claims_are_there_and_the_pods_own() {
        let ephemeral = json!([{"name": "e", "ephemeral": {}}]);
        let owned = |by: &str| {
            let owner = json!({"kind": "Pod", "uid": by, "controller": true});
            json!({"metadata": {"ownerReferences": [owner]}})
        };
        let unbound = "pod has unbound immediate PersistentVolumeClaims";
        for (what, objects, volumes, want) in [
            ("no volumes", vec![], json!([]), ""),
            (
                "no claims",
                vec![],
                json!([{"name": "x", "emptyDir": {}}]),
                "",
            ),
            (
                "none",
                vec![],
                uses(&["c"]),
                "persistentvolumeclaim \"c\" not found",
            ),
            (
                "one of two",
                vec![
                    ("claim", claim("c", "", "v")),
                    ("volume", volume("v", "", "1Gi", "")),
                ],
                uses(&["c", "d"]),
                "persistentvolumeclaim \"d\" not found",
            ),
            (
                "going",
                vec![but(
                    claim("c", "", "v"),
                    json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}}),
                )],
                uses(&["c"]),
                "persistentvolumeclaim \"c\" is being deleted",
            ),
            (
                "lost",
                vec![but(
                    claim("c", "", "v"),
                    json!({"status": {"phase": "Lost"}}),
                )],
                uses(&["c"]),
                "persistentvolumeclaim \"c\" bound to non-existent persistentvolume \"v\"",
            ),
            (
                "immediate",
                vec![
                    ("class", class("x", "Immediate", "d")),
                    ("claim", claim("c", "x", "")),
                ],
                uses(&["c"]),
                unbound,
            ),
            (
                "of no class",
                vec![("claim", claim("c", "", ""))],
                uses(&["c"]),
                unbound,
            ),
            (
                "of a class that is gone",
                vec![("claim", claim("c", "x", ""))],
                uses(&["c"]),
                unbound,
            ),
            (
                "asked for by name",
                vec![
                    local(),
                    but(
                        claim("c", "local", ""),
                        json!({"spec": {"volumeName": "v"}}),
                    ),
                ],
                uses(&["c"]),
                unbound,
            ),
            (
                "waits, beside one that should not",
                vec![
                    local(),
                    ("claim", claim("c", "local", "")),
                    ("claim", claim("d", "", "")),
                ],
                uses(&["c", "d"]),
                unbound,
            ),
            (
                "not made yet",
                vec![],
                ephemeral.clone(),
                "waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-e\"",
            ),
            (
                "made for another pod",
                vec![but(claim("p-e", "", "v"), owned("q"))],
                ephemeral.clone(),
                "PVC default/p-e was not created for pod default/p (pod is not owner)",
            ),
            (
                "made for the pod",
                vec![
                    but(claim("p-e", "", "v"), owned("p")),
                    ("volume", volume("v", "", "1Gi", "")),
                ],
                ephemeral,
                "",
            ),
        ] {
            let t = table(&objects);
            assert_eq!(verdict(&it(), &pod("p", volumes), &t, "a"), want, "{what}");
        }
    }

    /// What there is, the pod's claims, and what is said of nodes a and b.
    #[test]
    fn volumes_that_are_or_could_be_on_the_node() {
        let on_a = |all: &[(&str, &str, &str)]| [vec![local()], volumes(all)].concat();
        let unbound = |name: &str| ("claim", claim(name, "local", ""));
        let two = [ELSEWHERE, NOT_FOUND].join(", ");
        for (what, objects, claims, want) in [
            (
                "bound on one",
                vec![
                    ("volume", volume("v", "", "1Gi", "a")),
                    ("claim", claim("c", "", "v")),
                ],
                &["c"][..],
                ["", ELSEWHERE],
            ),
            (
                "bound to what is gone",
                vec![("claim", claim("c", "", "v"))],
                &["c"],
                [NO_VOLUME, NO_VOLUME],
            ),
            (
                "free on one",
                [on_a(&[("v", "1Gi", "a")]), vec![unbound("c")]].concat(),
                &["c"],
                ["", NOT_FOUND],
            ),
            (
                "free anywhere",
                [on_a(&[("v", "1Gi", "")]), vec![unbound("c")]].concat(),
                &["c"],
                ["", ""],
            ),
            (
                "none",
                [on_a(&[]), vec![unbound("c")]].concat(),
                &["c"],
                [NOT_FOUND, NOT_FOUND],
            ),
            (
                "too small",
                [on_a(&[("v", "1023Mi", "")]), vec![unbound("c")]].concat(),
                &["c"],
                [NOT_FOUND, NOT_FOUND],
            ),
            (
                "one for two",
                [on_a(&[("v", "1Gi", "a")]), vec![unbound("c"), unbound("d")]].concat(),
                &["c", "d"],
                [NOT_FOUND, NOT_FOUND],
            ),
            (
                "two for two on one node",
                [
                    on_a(&[("v", "1Gi", "a"), ("w", "1Gi", "a"), ("x", "1Gi", "b")]),
                    vec![unbound("c"), unbound("d")],
                ]
                .concat(),
                &["c", "d"],
                ["", NOT_FOUND],
            ),
            (
                "the small one first",
                [
                    on_a(&[("v", "1Gi", "a"), ("w", "5Gi", "a")]),
                    vec![
                        but(
                            claim("c", "local", ""),
                            json!({"spec": {"resources": {"requests": {"storage": "5Gi"}}}}),
                        ),
                        unbound("d"),
                    ],
                ]
                .concat(),
                &["c", "d"],
                ["", NOT_FOUND],
            ),
            (
                "bound on one, free on the other",
                [
                    on_a(&[("w", "1Gi", "b")]),
                    vec![
                        ("volume", volume("v", "", "1Gi", "a")),
                        ("claim", claim("c", "", "v")),
                        unbound("d"),
                    ],
                ]
                .concat(),
                &["c", "d"],
                [NOT_FOUND, ELSEWHERE],
            ),
            (
                "bound on one, free nowhere",
                [
                    on_a(&[]),
                    vec![
                        ("volume", volume("v", "", "1Gi", "a")),
                        ("claim", claim("c", "", "v")),
                        unbound("d"),
                    ],
                ]
                .concat(),
                &["c", "d"],
                [NOT_FOUND, &two],
            ),
        ] {
            let t = table(&objects);
            let p = pod("p", uses(claims));
            assert_eq!(
                ["a", "b"].map(|n| verdict(&it(), &p, &t, n)),
                want,
                "{what}"
            );
        }
    }

    /// What a volume must be for a claim.
    #[test]
    fn volumes_that_fit() {
        let spec = |v: Value| json!({"spec": v});
        let labels = json!({"metadata": {"labels": {"tier": "x"}}});
        let selector = spec(json!({"selector": {"matchLabels": {"tier": "x"}}}));
        let to = |uid: &str| {
            spec(json!({"claimRef": {"namespace": "default", "name": "c", "uid": uid}}))
        };
        let other = spec(json!({"claimRef": {"namespace": "default", "name": "d"}}));
        let going = json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}});
        let block = spec(json!({"volumeMode": "Block"}));
        let attributes = spec(json!({"volumeAttributesClassName": "fast"}));
        let many = spec(json!({"accessModes": ["ReadWriteMany"]}));
        let annotated = json!({"metadata": {"annotations": {"volume.beta.kubernetes.io/storage-class": "local"}}, "spec": {"storageClassName": ""}});
        let released = json!({"status": {"phase": "Released"}});
        let none = json!({});
        for (what, volume_is, claim_is, fits) in [
            ("plain", none.clone(), none.clone(), true),
            (
                "of another class",
                spec(json!({"storageClassName": "x"})),
                none.clone(),
                false,
            ),
            (
                "of a class in the old manner",
                annotated,
                none.clone(),
                true,
            ),
            ("going", going, none.clone(), false),
            ("released", released.clone(), none.clone(), false),
            ("selected", labels, selector.clone(), true),
            ("not selected", none.clone(), selector, false),
            ("of other access", none.clone(), many.clone(), false),
            ("a device", block.clone(), none.clone(), false),
            ("a device for one", block.clone(), block, true),
            (
                "of other attributes",
                none.clone(),
                attributes.clone(),
                false,
            ),
            ("of these attributes", attributes.clone(), attributes, true),
            ("reserved", to(""), none.clone(), true),
            ("reserved, whatever access", to(""), many, true),
            (
                "reserved and released",
                merged(to("uid-c"), released),
                none.clone(),
                true,
            ),
            (
                "of a claim of that name before",
                to("uid-old"),
                none.clone(),
                false,
            ),
            ("of another claim", other, none, false),
        ] {
            let objects = [
                local(),
                ("volume", merged(volume("v", "local", "1Gi", ""), volume_is)),
                ("claim", merged(claim("c", "local", ""), claim_is)),
            ];
            let t = table(&objects);
            let want = if fits { "" } else { NOT_FOUND };
            assert_eq!(
                verdict(&it(), &pod("p", uses(&["c"])), &t, "a"),
                want,
                "{what}"
            );
        }
        // A reserved one elsewhere rules out what would do here.
        let reserved = merged(volume("r", "local", "1Gi", "b"), to(""));
        let t = table(&[
            local(),
            ("volume", volume("v", "local", "1Gi", "a")),
            ("volume", reserved),
            ("claim", claim("c", "local", "")),
        ]);
        let p = pod("p", uses(&["c"]));
        assert_eq!(
            ["a", "b"].map(|n| verdict(&it(), &p, &t, n)),
            [NOT_FOUND, ""]
        );
    }

    fn chosen(t: &NodeTable, claims: &[&str], node: &str) -> Vec<String> {
        let p = pod("p", uses(claims));
        let row = t.find(node).unwrap();
        let found = Wanted::of(&p, &t.storage).on(node, &t.row(row).unwrap().labels);
        assert!(found.reasons.is_empty(), "{:?}", found.reasons);
        let bound = found
            .bindings
            .iter()
            .map(|(v, c)| format!("{} for {}", v.metadata.name, c.metadata.name));
        let made = found
            .provisions
            .iter()
            .map(|c| format!("new for {}", c.metadata.name));
        bound.chain(made).collect()
    }

    #[test]
    fn the_smallest_that_fits_is_chosen() {
        let objects = [
            vec![local(), made()],
            volumes(&[
                ("big", "9Gi", ""),
                ("mid", "5Gi", "a"),
                ("small", "1Gi", "b"),
                ("also-mid", "5Gi", "a"),
            ]),
            vec![
                ("claim", claim("c", "local", "")),
                ("claim", claim("d", "local", "")),
                ("claim", claim("e", "local", "")),
                ("claim", claim("m", "made", "")),
            ],
        ]
        .concat();
        let t = table(&objects);
        assert_eq!(chosen(&t, &["c"], "a"), ["also-mid for c"]);
        assert_eq!(chosen(&t, &["c"], "b"), ["small for c"]);
        assert_eq!(
            chosen(&t, &["c", "d", "e"], "a"),
            ["also-mid for c", "mid for d", "big for e"]
        );
        assert_eq!(chosen(&t, &["m", "c"], "b"), ["small for c", "new for m"]);
        // With a volume there is nothing to make.
        let mut t = t;
        t.storage
            .apply(change("volume", volume("there", "made", "1Gi", "a")));
        assert_eq!(chosen(&t, &["m"], "a"), ["there for m"]);
        assert_eq!(chosen(&t, &["m"], "b"), ["new for m"]);
    }

    /// Every way an affinity can be written finds its volume.
    #[test]
    fn volumes_are_found_by_any_affinity() {
        let term = |r: Value| json!({"matchExpressions": r});
        let is = |values: &[&str]| json!({"key": "host", "operator": "In", "values": values});
        for (terms, want) in [
            (json!([term(json!([is(&["a"])]))]), [true, false]),
            (json!([term(json!([is(&["x", "a", "b"])]))]), [true, true]),
            (
                json!([term(json!([is(&["x"])])), term(json!([is(&["b"])]))]),
                [false, true],
            ),
            (
                json!([
                    term(json!([is(&["a"])])),
                    term(json!([{"key": "disk", "operator": "Exists"}]))
                ]),
                [true, true],
            ),
            (
                json!([term(
                    json!([{"key": "host", "operator": "NotIn", "values": ["a"]}])
                )]),
                [false, true],
            ),
            (
                json!([term(
                    json!([is(&["a", "b"]), {"key": "disk", "operator": "Exists"}])
                )]),
                [false, true],
            ),
            (
                json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}]),
                [false, false],
            ),
            (json!([]), [false, false]),
        ] {
            let affinity =
                json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}});
            let v = merged(volume("v", "local", "1Gi", ""), affinity);
            let mut t = table(&[
                local(),
                ("volume", v.clone()),
                ("claim", claim("c", "local", "")),
            ]);
            t.upsert_node(&node("b", json!({"disk": "ssd"})));
            let p = pod("p", uses(&["c"]));
            let found = ["a", "b"].map(|n| verdict(&it(), &p, &t, n).is_empty());
            assert_eq!(found, want, "{terms}");
            // And as one that is bound.
            t.storage.apply(change("claim", claim("c", "local", "v")));
            let found = ["a", "b"].map(|n| verdict(&it(), &p, &t, n).is_empty());
            assert_eq!(found, want, "bound: {terms}");
        }
    }

    #[test]
    fn volumes_are_made_where_they_can_be() {
        let selected = |node: &str| json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
        let on = |key: &str, values: &[&str]| {
            let r = json!({"key": key, "values": values});
            json!({"allowedTopologies": [{"matchLabelExpressions": [r]}]})
        };
        let of = |with: Value| ("class", merged(made().1, with));
        let plain = || ("claim", claim("c", "made", ""));
        for (what, objects, want) in [
            ("anywhere", vec![made(), plain()], ["", ""]),
            (
                "nowhere",
                vec![of(json!({"provisioner": ""})), plain()],
                [NOT_FOUND, NOT_FOUND],
            ),
            (
                "on one",
                vec![of(on("host", &["a"])), plain()],
                ["", NOT_FOUND],
            ),
            (
                "on either",
                vec![of(on("host", &["a", "b"])), plain()],
                ["", ""],
            ),
            (
                "by a label that none has",
                vec![of(on("zone", &["a"])), plain()],
                [NOT_FOUND, NOT_FOUND],
            ),
            (
                "by a term that says nothing",
                vec![of(json!({"allowedTopologies": [{}]})), plain()],
                [NOT_FOUND, NOT_FOUND],
            ),
            (
                "where it is being made",
                vec![made(), but(claim("c", "made", ""), selected("b"))],
                [NOT_FOUND, ""],
            ),
        ] {
            let t = table(&objects);
            let p = pod("p", uses(&["c"]));
            assert_eq!(
                ["a", "b"].map(|n| verdict(&it(), &p, &t, n)),
                want,
                "{what}"
            );
        }
    }

    fn room(name: &str, size: Value, host: Option<&str>) -> Value {
        let mut room =
            json!({"metadata": {"name": name, "namespace": "s"}, "storageClassName": "made"});
        if let Some(host) = host {
            let topology = if host.is_empty() {
                json!({})
            } else {
                json!({"matchLabels": {"host": host}})
            };
            room = merged(room, json!({"nodeTopology": topology}));
        }
        merged(room, size)
    }

    #[test]
    fn drivers_that_tell_of_room_need_it() {
        let tells = json!({"metadata": {"name": "d"}, "spec": {"storageCapacity": true}});
        let silent = json!({"metadata": {"name": "d"}, "spec": {"storageCapacity": false}});
        let enough = || json!({"capacity": "1Gi"});
        let elsewhere = merged(
            room("1", enough(), Some("")),
            json!({"storageClassName": "other"}),
        );
        for (what, driver, rooms, want) in [
            ("no driver", None, vec![], ["", ""]),
            ("a silent one", Some(silent), vec![], ["", ""]),
            (
                "no room is told of",
                Some(tells.clone()),
                vec![],
                [NO_ROOM, NO_ROOM],
            ),
            (
                "for all",
                Some(tells.clone()),
                vec![room("1", enough(), Some(""))],
                ["", ""],
            ),
            (
                "on one",
                Some(tells.clone()),
                vec![room("1", enough(), Some("a"))],
                ["", NO_ROOM],
            ),
            (
                "for nobody",
                Some(tells.clone()),
                vec![room("1", enough(), None)],
                [NO_ROOM, NO_ROOM],
            ),
            (
                "of another class",
                Some(tells.clone()),
                vec![elsewhere],
                [NO_ROOM, NO_ROOM],
            ),
            (
                "not enough",
                Some(tells.clone()),
                vec![room("1", json!({"capacity": "1023Mi"}), Some(""))],
                [NO_ROOM, NO_ROOM],
            ),
            (
                "not in one piece",
                Some(tells.clone()),
                vec![room(
                    "1",
                    json!({"capacity": "9Gi", "maximumVolumeSize": "1Mi"}),
                    Some(""),
                )],
                [NO_ROOM, NO_ROOM],
            ),
            (
                "nothing",
                Some(tells.clone()),
                vec![room("1", json!({}), Some(""))],
                [NO_ROOM, NO_ROOM],
            ),
            (
                "in two pools",
                Some(tells),
                vec![
                    room("1", enough(), Some("a")),
                    room("2", enough(), Some("b")),
                ],
                ["", ""],
            ),
        ] {
            let mut t = table(&[made(), ("claim", claim("c", "made", ""))]);
            for (kind, all) in [
                ("driver", driver.into_iter().collect()),
                ("capacity", rooms),
            ] {
                for object in all {
                    t.storage.apply(change(kind, object));
                }
            }
            let p = pod("p", uses(&["c"]));
            assert_eq!(
                ["a", "b"].map(|n| verdict(&it(), &p, &t, n)),
                want,
                "{what}"
            );
        }
        // A claim that asks for nothing needs none.
        let asks = json!({"spec": {"resources": {"requests": null}}});
        let tells = json!({"metadata": {"name": "d"}, "spec": {"storageCapacity": true}});
        let t = table(&[made(), but(claim("c", "made", ""), asks), ("driver", tells)]);
        assert_eq!(verdict(&it(), &pod("p", uses(&["c"])), &t, "a"), "");
    }

    /// Work by the square: a thousand nodes with a volume each.
    #[test]
    fn each_node_looks_at_its_own_volumes() {
        let mut t = table(&[local(), ("claim", claim("c", "local", ""))]);
        for n in 0..3000 {
            let name = format!("n{n}");
            t.upsert_node(&node(&name, json!({})));
            t.storage.apply(change(
                "volume",
                volume(&format!("v{n}"), "local", "1Gi", &name),
            ));
        }
        let p = pod("p", uses(&["c"]));
        let plugin = it();
        let check = plugin.filter.as_ref().unwrap().get().check(&p, &t);
        let fitting = t.live().iter().filter(|row| check(*row).is_empty()).count();
        assert_eq!(fitting, 3000);
    }

    #[test]
    fn what_it_waits_for() {
        let p = pod(
            "p",
            json!([
                {"name": "c", "persistentVolumeClaim": {"claimName": "c"}},
                {"name": "e", "ephemeral": {}},
                {"name": "i", "csi": {"driver": "d"}},
            ]),
        );
        let c = |name: &str| claim(name, "", "");
        let elsewhere = merged(c("c"), json!({"metadata": {"namespace": "other"}}));
        let on = |host: &str| {
            let r = json!({"key": "host", "values": [host]});
            merged(
                made().1,
                json!({"allowedTopologies": [{"matchLabelExpressions": [r]}]}),
            )
        };
        let cap = |v: Value| room("1", v, Some(""));
        let driver = |name: &str, v: Value| json!({"metadata": {"name": name}, "spec": {"storageCapacity": v}});
        let v = || volume("v", "", "1Gi", "");
        for (kind, old, new, want) in [
            ("claim", None, c("c"), true),
            ("claim", Some(c("c")), claim("c", "", "v"), true),
            ("claim", None, c("p-e"), true),
            ("claim", None, c("q-e"), false),
            ("claim", None, c("d"), false),
            ("claim", None, elsewhere, false),
            ("volume", None, v(), true),
            ("volume", Some(v()), v(), true),
            ("class", None, on("a"), true),
            ("class", Some(on("a")), on("b"), true),
            ("class", Some(on("a")), on("a"), false),
            ("capacity", None, cap(json!({})), true),
            (
                "capacity",
                Some(cap(json!({}))),
                cap(json!({"capacity": "1Gi"})),
                true,
            ),
            (
                "capacity",
                Some(cap(json!({}))),
                cap(json!({"maximumVolumeSize": "1Gi"})),
                true,
            ),
            (
                "capacity",
                Some(cap(json!({"capacity": "1Gi"}))),
                cap(json!({"capacity": "2Gi"})),
                true,
            ),
            (
                "capacity",
                Some(cap(json!({"capacity": "9Gi", "maximumVolumeSize": "1Gi"}))),
                cap(json!({"capacity": "9Gi"})),
                true,
            ),
            (
                "capacity",
                Some(cap(json!({"maximumVolumeSize": "1Gi"}))),
                cap(json!({"maximumVolumeSize": "2Gi"})),
                true,
            ),
            (
                "capacity",
                Some(cap(json!({"capacity": "1Gi"}))),
                cap(json!({"capacity": "1Gi"})),
                false,
            ),
            (
                "capacity",
                Some(cap(json!({"capacity": "2Gi"}))),
                cap(json!({"capacity": "1Gi"})),
                false,
            ),
            (
                "capacity",
                Some(cap(json!({"maximumVolumeSize": "2Gi"}))),
                cap(json!({"capacity": "9Gi", "maximumVolumeSize": "1Gi"})),
                false,
            ),
            ("driver", None, driver("d", json!(true)), false),
            (
                "driver",
                Some(driver("d", json!(true))),
                driver("d", json!(false)),
                true,
            ),
            (
                "driver",
                Some(driver("d", json!(true))),
                driver("d", json!(null)),
                true,
            ),
            (
                "driver",
                Some(driver("d", json!(true))),
                driver("d", json!(true)),
                false,
            ),
            (
                "driver",
                Some(driver("d", json!(null))),
                driver("d", json!(false)),
                false,
            ),
            (
                "driver",
                Some(driver("x", json!(true))),
                driver("x", json!(false)),
                false,
            ),
        ] {
            let told = format!("{kind} {old:?} {new}");
            assert_eq!(wakes(&it(), &p, kind, old, new), want, "{told}");
        }
    }
}
