//! persistentvolumeclaim-protection-controller and persistentvolume-protection-controller: the finalizer that keeps a
//! claim that a pod uses, or a volume that is bound, from going, and its removal once nothing does.
//!
//! The admission plugin StorageObjectInUseProtection sets the finalizers; objects from before it get them here. Invariant:
//! a claim is let go only when the apiserver itself, not only the cache, has no pod on a node that uses it.

use client::resource::{PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS};
use client::{Change, Client, ListOptions, ObjectKey, ObjectMeta, Resource};
use serde_json::{Value, json};

use crate::Context;
use crate::context::rewrite;
use crate::views::{PersistentVolume, PersistentVolumeClaim, Pod};

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
/// Index of pods by the claims they name, `NAMESPACE/NAME`.
pub(crate) const BY_CLAIM: &str = "claim";

/// What is to be done with the finalizer of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finalizer {
    /// It is as it should be.
    Keep,
    /// It is missing.
    Add,
    /// Deletion was asked for: it goes when nothing uses the object.
    RemoveIfUnused,
}

/// Looks at an object's metadata.
pub fn finalizer(meta: &ObjectMeta, name: &str) -> Finalizer {
    let there = meta.finalizers.iter().any(|f| f == name);
    match (meta.is_deleting(), there) {
        (true, true) => Finalizer::RemoveIfUnused,
        (false, false) => Finalizer::Add,
        _ => Finalizer::Keep,
    }
}

/// Whether a pod keeps a claim: it has been given to a node and names the claim, or the claim was made for it. A pod that
/// is over and waits for others only does not keep what was made for it, since it may be waiting for just that to go.
pub fn uses(pod: &Pod, claim: &ObjectMeta) -> bool {
    if pod.spec.node_name.is_empty() {
        return false;
    }
    let over = pod.metadata.is_deleting() && pod.metadata.deletion_grace_period_seconds == Some(0);
    pod.spec.claims.iter().any(|v| {
        let named = v
            .persistent_volume_claim
            .as_ref()
            .is_some_and(|c| c.claim_name == claim.name);
        let made_for_it = !over
            && v.ephemeral.is_some()
            && own_claim(pod, &v.name) == claim.name
            && claim
                .controller()
                .is_some_and(|o| o.uid == pod.metadata.uid);
        named || made_for_it
    })
}

/// The name of the claim that is made for a volume of a pod.
pub(crate) fn own_claim(pod: &Pod, volume: &str) -> String {
    format!("{}-{volume}", pod.metadata.name)
}

/// The claims a pod names.
pub(crate) fn claims(pod: &Pod) -> impl Iterator<Item = ObjectKey> {
    pod.spec.claims.iter().filter_map(|v| {
        let name = match &v.persistent_volume_claim {
            Some(c) => c.claim_name.clone(),
            None if v.ephemeral.is_some() => own_claim(pod, &v.name),
            None => return None,
        };
        Some(ObjectKey::new(pod.metadata.namespace.as_str(), name))
    })
}

/// Starts the controller of claims.
pub fn start_claims(ctx: Context) {
    let all = ctx.informer::<PersistentVolumeClaim>(&PERSISTENT_VOLUME_CLAIMS);
    let pods = ctx.informer::<Pod>(&PODS);
    pods.store().add_index(BY_CLAIM, |p: &Pod| {
        claims(p).map(|k| k.to_string()).collect()
    });
    let queue = ctx.queue("pvcprotection");
    let q = queue.clone();
    all.on_change(move |change| {
        let claim = change.object();
        if finalizer(&claim.metadata, CLAIM_FINALIZER) != Finalizer::Keep {
            q.add(ObjectKey::of(&**claim));
        }
    });
    let q = queue.clone();
    pods.on_change(move |change| {
        let pod = change.object();
        // Others keep what they use.
        if matches!(change, Change::Deleted(_)) || pod.is_ended() || pod.metadata.is_deleting() {
            claims(pod).for_each(|k| q.add(k));
        }
    });
    let (all, pods, client) = (all.store(), pods.store(), ctx.client.clone());
    ctx.run(queue, 1, move |key| {
        let (all, pods, client) = (all.clone(), pods.clone(), client.clone());
        async move {
            let Some(claim) = all.get_key(&key) else {
                return Ok(None);
            };
            let what = finalizer(&claim.metadata, CLAIM_FINALIZER);
            if what == Finalizer::RemoveIfUnused {
                let known = pods.by_index(BY_CLAIM, &key.to_string());
                if known.iter().any(|p| uses(p, &claim.metadata))
                    || in_use(&client, &claim.metadata).await?
                {
                    tracing::info!(claim = %key, "Keeping PVC because it is being used");
                    return Ok(None);
                }
            }
            write(
                &client,
                &PERSISTENT_VOLUME_CLAIMS,
                &claim.metadata,
                CLAIM_FINALIZER,
                what,
            )
            .await
            .map(|()| None)
        }
    });
}

/// Asks the apiserver: the cache may not know of a pod yet.
async fn in_use(client: &Client, claim: &ObjectMeta) -> client::Result<bool> {
    let pods = client
        .namespaced(&PODS, &claim.namespace)
        .list::<Pod>(&ListOptions::default())
        .await?;
    Ok(pods.items.iter().any(|p| uses(p, claim)))
}

/// Starts the controller of volumes.
pub fn start_volumes(ctx: Context) {
    let all = ctx.informer::<PersistentVolume>(&PERSISTENT_VOLUMES);
    let queue = ctx.queue("pvprotection");
    let q = queue.clone();
    all.on_change(move |change| {
        let volume = change.object();
        if finalizer(&volume.metadata, VOLUME_FINALIZER) != Finalizer::Keep {
            q.add(ObjectKey::of(&**volume));
        }
    });
    let (all, client) = (all.store(), ctx.client.clone());
    ctx.run(queue, 1, move |key| {
        let (all, client) = (all.clone(), client.clone());
        async move {
            let Some(volume) = all.get_key(&key) else {
                return Ok(None);
            };
            let what = finalizer(&volume.metadata, VOLUME_FINALIZER);
            if what == Finalizer::RemoveIfUnused && volume.status.phase == "Bound" {
                return Ok(None);
            }
            write(
                &client,
                &PERSISTENT_VOLUMES,
                &volume.metadata,
                VOLUME_FINALIZER,
                what,
            )
            .await
            .map(|()| None)
        }
    });
}

/// Writes what is to be done with a finalizer over the object as it is now.
pub(crate) async fn write(
    client: &Client,
    resource: &Resource,
    meta: &ObjectMeta,
    name: &str,
    what: Finalizer,
) -> client::Result<()> {
    let api = client.namespaced(resource, &meta.namespace);
    rewrite(&api, &meta.name, &meta.uid, "", |object| {
        change(object, name, what)
    })
    .await
}

/// Adds or removes the finalizer of an object as it is now; gives whether that changes anything. One that was asked to be
/// deleted in the meantime gets none.
fn change(object: &mut Value, name: &str, what: Finalizer) -> bool {
    let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
        return false;
    };
    let deleting = meta.contains_key("deletionTimestamp");
    let list = meta.entry("finalizers").or_insert_with(|| json!([]));
    if list.is_null() {
        *list = json!([]);
    }
    let Some(list) = list.as_array_mut() else {
        return false;
    };
    let before = list.len();
    let there = list.iter().any(|f| f == name);
    match what {
        Finalizer::Add if !there && !deleting => list.push(name.into()),
        Finalizer::RemoveIfUnused if deleting => list.retain(|f| f != name),
        _ => {}
    }
    list.len() != before
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: &str, extra: &str) -> Pod {
        serde_json::from_str(&format!(
            r#"{{"metadata":{{"name":"p","namespace":"n","uid":"u"{extra}}},"spec":{spec}}}"#
        ))
        .unwrap()
    }

    fn claim(name: &str, owner: &str) -> ObjectMeta {
        serde_json::from_str(&format!(
            r#"{{"name":"{name}","namespace":"n","ownerReferences":[{{"apiVersion":"v1","kind":"Pod","name":"p","uid":"{owner}","controller":true}}]}}"#
        ))
        .unwrap()
    }

    /// Every claim and volume that is deleted loses its finalizer when nothing uses it, and not before.
    #[test]
    fn what_is_deleted_and_unused_is_let_go() {
        let meta = |deleting: bool, finalizers: &[&str]| ObjectMeta {
            deletion_timestamp: deleting.then_some(client::Time::UNIX_EPOCH),
            finalizers: finalizers.iter().map(|f| (*f).to_owned()).collect(),
            ..ObjectMeta::default()
        };
        for (deleting, finalizers, want) in [
            (true, &[CLAIM_FINALIZER][..], Finalizer::RemoveIfUnused),
            (true, &["x/y"], Finalizer::Keep),
            (false, &[CLAIM_FINALIZER], Finalizer::Keep),
            (false, &["x/y"], Finalizer::Add),
        ] {
            assert_eq!(
                finalizer(&meta(deleting, finalizers), CLAIM_FINALIZER),
                want
            );
        }
        let mut o =
            json!({"metadata": {"deletionTimestamp": "t", "finalizers": ["x/y", CLAIM_FINALIZER]}});
        assert!(change(&mut o, CLAIM_FINALIZER, Finalizer::RemoveIfUnused));
        assert_eq!(o["metadata"]["finalizers"], json!(["x/y"]));
        assert!(!change(&mut o, CLAIM_FINALIZER, Finalizer::RemoveIfUnused));
        assert!(!change(&mut o, CLAIM_FINALIZER, Finalizer::Add), "too late");
        let mut o = json!({"metadata": {}});
        assert!(change(&mut o, VOLUME_FINALIZER, Finalizer::Add));
        assert_eq!(o["metadata"]["finalizers"], json!([VOLUME_FINALIZER]));
    }

    #[test]
    fn pods_on_nodes_keep_their_claims() {
        let named = r#"{"nodeName":"a","volumes":[{"name":"x","emptyDir":{}},{"name":"v","persistentVolumeClaim":{"claimName":"c"}}]}"#;
        let p = pod(named, "");
        assert!(uses(&p, &claim("c", "")));
        assert!(!uses(&p, &claim("d", "")));
        assert_eq!(claims(&p).collect::<Vec<_>>(), [ObjectKey::new("n", "c")]);
        assert!(!uses(
            &pod(&named.replace("\"a\"", "\"\""), ""),
            &claim("c", "")
        ));

        let own =
            r#"{"nodeName":"a","volumes":[{"name":"v","ephemeral":{"volumeClaimTemplate":{}}}]}"#;
        assert!(uses(&pod(own, ""), &claim("p-v", "u")));
        assert!(!uses(&pod(own, ""), &claim("p-v", "another")));
        let over = r#","deletionTimestamp":"2026-01-01T00:00:00Z","deletionGracePeriodSeconds":0"#;
        assert!(!uses(&pod(own, over), &claim("p-v", "u")));
        assert!(uses(&pod(named, over), &claim("c", "")));
    }
}
