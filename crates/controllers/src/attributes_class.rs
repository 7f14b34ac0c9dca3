//! volumeattributesclass-protection-controller: the finalizer that keeps a class of volume attributes as long as a claim or a
//! volume refers to it.
//!
//! Invariant: a class goes when the caches show nobody who refers to it, as upstream: a claim that is made while its class is
//! deleted can be too late.

use client::resource::{PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, VOLUME_ATTRIBUTES_CLASSES};
use client::view::MetaView;
use client::{Change, ObjectKey, Selector, WorkQueue};

use crate::Context;
use crate::storage_protection::{Finalizer, finalizer, write};
use crate::views::{PersistentVolume, PersistentVolumeClaim};

const FINALIZER: &str = "kubernetes.io/vac-protection";
/// Index of claims and of volumes by the classes that they refer to.
const BY_ATTRIBUTES_CLASS: &str = "attributes-class";

/// The classes that a claim refers to: the one it asks for, the one it has, and the one it is being given.
pub fn of_claim(claim: &PersistentVolumeClaim) -> Vec<String> {
    let status = &claim.status;
    let target = status.modify_volume_status.as_ref();
    names([
        claim.spec.volume_attributes_class_name.as_deref(),
        status.current_volume_attributes_class_name.as_deref(),
        target.map(|s| s.target_volume_attributes_class_name.as_str()),
    ])
}

/// The class that a volume refers to.
pub fn of_volume(volume: &PersistentVolume) -> Vec<String> {
    names([volume.spec.volume_attributes_class_name.as_deref()])
}

fn names<const N: usize>(all: [Option<&str>; N]) -> Vec<String> {
    let mut names: Vec<String> = all
        .into_iter()
        .flatten()
        .filter(|n| !n.is_empty())
        .map(str::to_owned)
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The classes that a change lets go of: those referred to before and not any more.
pub fn let_go<V>(change: &Change<'_, V>, of: impl Fn(&V) -> Vec<String>) -> Vec<String> {
    match change {
        Change::Added(_) => Vec::new(),
        Change::Updated { old, new } => {
            let now = of(new);
            let before = of(old).into_iter();
            before.filter(|n| !now.contains(n)).collect()
        }
        Change::Deleted(object) => of(object),
    }
}

/// Whether a class gets its finalizer, loses it, or stays as it is.
pub fn decide(class: &MetaView, is_used: impl FnOnce() -> bool) -> Finalizer {
    match finalizer(&class.metadata, FINALIZER) {
        Finalizer::RemoveIfUnused if is_used() => Finalizer::Keep,
        what => what,
    }
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let all = ctx
        .informers
        .get::<MetaView>(&VOLUME_ATTRIBUTES_CLASSES, Selector::metadata());
    let claims = ctx.informer::<PersistentVolumeClaim>(&PERSISTENT_VOLUME_CLAIMS);
    let volumes = ctx.informer::<PersistentVolume>(&PERSISTENT_VOLUMES);
    claims.store().add_index(BY_ATTRIBUTES_CLASS, of_claim);
    volumes.store().add_index(BY_ATTRIBUTES_CLASS, of_volume);
    let queue = ctx.queue("vacprotection");
    let q = queue.clone();
    all.on_change(move |change| {
        if !matches!(change, Change::Deleted(_))
            && finalizer(&change.object().metadata, FINALIZER) != Finalizer::Keep
        {
            q.add(ObjectKey::of(&**change.object()));
        }
    });
    let q = queue.clone();
    claims.on_change(move |change| add(&q, let_go(&change, of_claim)));
    let q = queue.clone();
    volumes.on_change(move |change| add(&q, let_go(&change, of_volume)));
    let (all, claims, volumes) = (all.store(), claims.store(), volumes.store());
    let client = ctx.client.clone();
    ctx.run(queue, 1, move |key| {
        let (all, claims, volumes) = (all.clone(), claims.clone(), volumes.clone());
        let client = client.clone();
        async move {
            let Some(class) = all.get_key(&key) else {
                return Ok(None);
            };
            let is_used = || {
                !volumes.by_index(BY_ATTRIBUTES_CLASS, &key.name).is_empty()
                    || !claims.by_index(BY_ATTRIBUTES_CLASS, &key.name).is_empty()
            };
            let what = decide(&class, is_used);
            if what == Finalizer::Keep {
                return Ok(None);
            }
            let class = &class.metadata;
            write(&client, &VOLUME_ATTRIBUTES_CLASSES, class, FINALIZER, what)
                .await
                .map(|()| None)
        }
    });
}

fn add(queue: &WorkQueue<ObjectKey>, classes: Vec<String>) {
    for class in classes {
        queue.add(ObjectKey::new("", class));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    fn claim(asked: &str, has: &str, target: &str) -> Arc<PersistentVolumeClaim> {
        let claim = json!({
            "metadata": {"name": "c", "namespace": "n"},
            "spec": {"volumeAttributesClassName": asked},
            "status": {"currentVolumeAttributesClassName": has, "modifyVolumeStatus": {"targetVolumeAttributesClassName": target}},
        });
        Arc::new(serde_json::from_value(claim).unwrap())
    }

    fn volume(class: Value) -> Arc<PersistentVolume> {
        let volume =
            json!({"metadata": {"name": "v"}, "spec": {"volumeAttributesClassName": class}});
        Arc::new(serde_json::from_value(volume).unwrap())
    }

    #[test]
    fn a_class_is_kept_as_long_as_somebody_refers_to_it() {
        for (what, finalizers, deleting, used, want) in [
            ("new", json!([]), false, false, Finalizer::Add),
            ("new and used", json!([]), false, true, Finalizer::Add),
            ("kept", json!([FINALIZER]), false, false, Finalizer::Keep),
            (
                "going",
                json!(["x/y", FINALIZER]),
                true,
                false,
                Finalizer::RemoveIfUnused,
            ),
            (
                "going and used",
                json!([FINALIZER]),
                true,
                true,
                Finalizer::Keep,
            ),
            (
                "going for others",
                json!(["x/y"]),
                true,
                false,
                Finalizer::Keep,
            ),
        ] {
            let deleted = if deleting {
                json!("2026-01-01T00:00:00Z")
            } else {
                Value::Null
            };
            let class = json!({"metadata": {"name": "a", "finalizers": finalizers, "deletionTimestamp": deleted}});
            let class: MetaView = serde_json::from_value(class).unwrap();
            assert_eq!(decide(&class, || used), want, "{what}");
        }
    }

    #[test]
    fn claims_and_volumes_refer_to_what_they_ask_for_have_and_get() {
        for (claim, want) in [
            (claim("", "", ""), vec![]),
            (claim("a", "", ""), vec!["a"]),
            (claim("a", "a", "a"), vec!["a"]),
            (claim("c", "b", "a"), vec!["a", "b", "c"]),
        ] {
            assert_eq!(of_claim(&claim), want);
        }
        assert_eq!(of_volume(&volume(json!("a"))), ["a"]);
        assert!(of_volume(&volume(Value::Null)).is_empty());
        assert!(of_volume(&volume(json!(""))).is_empty());
    }

    #[test]
    fn a_class_has_its_turn_when_it_is_let_go_of() {
        let (a, b) = (claim("a", "", ""), claim("b", "", ""));
        let still = claim("b", "a", "");
        let soon = claim("b", "", "a");
        for (what, change, want) in [
            ("made", Change::Added(&a), vec![]),
            ("deleted", Change::Deleted(&a), vec!["a"]),
            ("changed", Change::Updated { old: &a, new: &b }, vec!["a"]),
            (
                "changed, and has it still",
                Change::Updated {
                    old: &a,
                    new: &still,
                },
                vec![],
            ),
            (
                "changed, and is being given it",
                Change::Updated {
                    old: &a,
                    new: &soon,
                },
                vec![],
            ),
        ] {
            assert_eq!(let_go(&change, of_claim), want, "{what}");
        }
        let (a, none) = (volume(json!("a")), volume(Value::Null));
        let change = Change::Updated {
            old: &a,
            new: &none,
        };
        assert_eq!(let_go(&change, of_volume), ["a"]);
        assert_eq!(let_go(&Change::Deleted(&a), of_volume), ["a"]);
    }
}
