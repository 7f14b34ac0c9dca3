//! persistentvolume-expander-controller: tells who is to expand a volume whose claim asks for more than it has.
//!
//! No kind of volume is expanded by the controller itself: volumes of drivers, and those of upstream's former plugins that
//! drivers serve now, are expanded by the driver's resizer, which the claim of the latter is told by an annotation.
//!
//! Partial: claims of flexVolumes, for which upstream writes the new size without asking anybody, are left to others too.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use api::quantity::Quantity;
use api::volumes::MIGRATED;
use client::resource::{PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES};
use client::{Change, EventType, ObjectKey, ObjectReference, Patch};
use serde_json::json;

use crate::Context;
use crate::views::{PersistentVolume, PersistentVolumeClaim, VolumeSpec};

const RESIZER: &str = "volume.kubernetes.io/storage-resizer";
/// On a volume of which the node has yet to expand the file system.
const BEFORE: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";
const REASON: &str = "ExternalExpanding";

/// What is to be done for a claim.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// It has what it asks for.
    Nothing,
    /// Somebody else expands it.
    Wait,
    /// A driver that stands for a former plugin does: the plugin and the driver.
    Migrated(&'static str, &'static str),
}

/// Looks at a claim and its volume.
///
/// # Errors
/// The two do not belong together, in upstream's words; tried again.
pub fn decide(
    claim: &PersistentVolumeClaim,
    volume: Option<&PersistentVolume>,
) -> Result<Step, String> {
    let name = &claim.spec.volume_name;
    let Some(volume) = volume else {
        return Err(format!(
            "failed to get PV {name:?}: persistentvolumes {name:?} not found"
        ));
    };
    let reference = volume.spec.claim_ref.as_ref();
    let (namespace, uid) = (&claim.metadata.namespace, &claim.metadata.uid);
    if reference.is_none_or(|r| r.namespace != *namespace || r.uid != *uid) {
        return Err(format!(
            "persistent Volume is not bound to PVC being updated : {}",
            ObjectKey::of(claim)
        ));
    }
    let (asks, has) = (&claim.spec.resources.requests, &claim.status.capacity);
    if grows(has, asks) || volume.metadata.annotations.contains_key(BEFORE) {
        return Ok(match migrated(&volume.spec) {
            Some((plugin, driver)) => Step::Migrated(plugin, driver),
            None => Step::Wait,
        });
    }
    Ok(Step::Nothing)
}

/// Whether there is more storage in the second than in the first.
fn grows(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> bool {
    let size = |m: &BTreeMap<String, String>| {
        let text = m.get("storage").map_or("0", String::as_str);
        Quantity::parse(text)
            .ok()
            .or_else(|| Quantity::parse("0").ok())
    };
    match (size(before), size(after)) {
        (Some(before), Some(after)) => after.cmp(&before) == Ordering::Greater,
        _ => false,
    }
}

/// The former plugin of a volume, and the driver that stands for it.
fn migrated(spec: &VolumeSpec) -> Option<(&'static str, &'static str)> {
    let sources = [
        (&spec.aws_elastic_block_store, "kubernetes.io/aws-ebs"),
        (&spec.azure_disk, "kubernetes.io/azure-disk"),
        (&spec.azure_file, "kubernetes.io/azure-file"),
        (&spec.cinder, "kubernetes.io/cinder"),
        (&spec.gce_persistent_disk, "kubernetes.io/gce-pd"),
        (&spec.portworx_volume, "kubernetes.io/portworx-volume"),
        (&spec.vsphere_volume, "kubernetes.io/vsphere-volume"),
    ];
    let (_, plugin) = sources.into_iter().find(|(is, _)| is.is_some())?;
    MIGRATED.iter().find(|(old, _)| *old == plugin).copied()
}

/// Whether a change of a claim gives it a turn.
fn matters(change: &Change<'_, PersistentVolumeClaim>) -> bool {
    let claim = change.object();
    claim.status.phase == "Bound"
        && match change {
            Change::Added(_) => true,
            Change::Updated { old, .. } => {
                grows(&old.spec.resources.requests, &claim.spec.resources.requests)
                    || grows(&old.status.capacity, &claim.status.capacity)
            }
            Change::Deleted(_) => false,
        }
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let all = ctx.informer::<PersistentVolumeClaim>(&PERSISTENT_VOLUME_CLAIMS);
    let volumes = ctx.informer::<PersistentVolume>(&PERSISTENT_VOLUMES);
    let queue = ctx.queue("volume_expand");
    let q = queue.clone();
    all.on_change(move |change| {
        if matters(&change) {
            q.add(ObjectKey::of(&**change.object()));
        }
    });
    let (all, volumes, shell) = (all.store(), volumes.store(), ctx.clone());
    ctx.run(queue, 10, move |key| {
        let (all, volumes, ctx) = (all.clone(), volumes.clone(), shell.clone());
        async move {
            let Some(claim) = all.get_key(&key) else {
                return Ok(None);
            };
            let volume = volumes.get("", &claim.spec.volume_name);
            let tell = |kind, message: &str| {
                let claim = ObjectReference::of(&PERSISTENT_VOLUME_CLAIMS, &*claim);
                ctx.recorder.event(claim, kind, REASON, message);
            };
            match decide(&claim, volume.as_deref())? {
                Step::Nothing => {}
                Step::Wait => tell(
                    EventType::Normal,
                    "waiting for an external controller to expand this PVC",
                ),
                Step::Migrated(plugin, driver) => {
                    tell(
                        EventType::Normal,
                        &format!(
                            "CSI migration enabled for {plugin}; waiting for external resizer to expand the pvc"
                        ),
                    );
                    if let Err(e) = annotate(&ctx, &claim, driver).await {
                        let why = format!(
                            "error setting resizer annotation to pvc {key}, with error {e}"
                        );
                        tell(EventType::Warning, &why);
                        return Err(why);
                    }
                }
            }
            Ok::<_, String>(None)
        }
    });
}

async fn annotate(
    ctx: &Context,
    claim: &PersistentVolumeClaim,
    driver: &str,
) -> client::Result<()> {
    let meta = &claim.metadata;
    if meta.annotations.get(RESIZER).map(String::as_str) == Some(driver) {
        return Ok(());
    }
    let patch = json!({"metadata": {"uid": meta.uid, "annotations": {RESIZER: driver}}});
    let api = ctx
        .client
        .namespaced(&PERSISTENT_VOLUME_CLAIMS, &meta.namespace);
    let patched = api
        .patch_status::<serde::de::IgnoredAny>(&meta.name, &Patch::Strategic(patch))
        .await;
    patched.map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::Value;

    use super::*;

    fn claim(phase: &str, asks: &str, has: &str) -> Arc<PersistentVolumeClaim> {
        let claim = json!({
            "metadata": {"name": "c", "namespace": "n", "uid": "u"},
            "spec": {"volumeName": "v", "resources": {"requests": {"storage": asks}}},
            "status": {"phase": phase, "capacity": {"storage": has}},
        });
        Arc::new(serde_json::from_value(claim).unwrap())
    }

    fn volume(uid: &str, source: &str, annotated: bool) -> PersistentVolume {
        let annotations: Value = if annotated {
            json!({BEFORE: "1Gi"})
        } else {
            json!({})
        };
        let volume = json!({
            "metadata": {"name": "v", "annotations": annotations},
            "spec": {"claimRef": {"namespace": "n", "name": "c", "uid": uid}, source: {}},
        });
        serde_json::from_value(volume).unwrap()
    }

    #[test]
    fn who_expands_a_volume() {
        let migrated = |plugin, driver| Ok(Step::Migrated(plugin, driver));
        for (what, asks, has, volume, want) in [
            (
                "nothing to do",
                "1Gi",
                "1Gi",
                Some(volume("u", "csi", false)),
                Ok(Step::Nothing),
            ),
            (
                "has more",
                "1Gi",
                "1.5Gi",
                Some(volume("u", "csi", false)),
                Ok(Step::Nothing),
            ),
            (
                "the same in other words",
                "1024Mi",
                "1Gi",
                Some(volume("u", "csi", false)),
                Ok(Step::Nothing),
            ),
            (
                "a driver's",
                "2Gi",
                "1Gi",
                Some(volume("u", "csi", false)),
                Ok(Step::Wait),
            ),
            (
                "a directory",
                "2Gi",
                "1Gi",
                Some(volume("u", "hostPath", false)),
                Ok(Step::Wait),
            ),
            (
                "the node has yet to",
                "2Gi",
                "2Gi",
                Some(volume("u", "csi", true)),
                Ok(Step::Wait),
            ),
            (
                "a former plugin's",
                "2Gi",
                "1Gi",
                Some(volume("u", "awsElasticBlockStore", false)),
                migrated("kubernetes.io/aws-ebs", "ebs.csi.aws.com"),
            ),
            (
                "of it the node has yet to",
                "2Gi",
                "2Gi",
                Some(volume("u", "vsphereVolume", true)),
                migrated("kubernetes.io/vsphere-volume", "csi.vsphere.vmware.com"),
            ),
            (
                "another claim's",
                "2Gi",
                "1Gi",
                Some(volume("w", "csi", false)),
                Err("persistent Volume is not bound to PVC being updated : n/c".to_owned()),
            ),
            (
                "no volume",
                "2Gi",
                "1Gi",
                None,
                Err("failed to get PV \"v\": persistentvolumes \"v\" not found".to_owned()),
            ),
            (
                "no number",
                "much",
                "1Gi",
                Some(volume("u", "csi", false)),
                Ok(Step::Nothing),
            ),
        ] {
            assert_eq!(
                decide(&claim("Bound", asks, has), volume.as_ref()),
                want,
                "{what}"
            );
        }
    }

    #[test]
    fn a_claim_has_its_turn_when_it_asks_for_more_or_got_more() {
        let bound = claim("Bound", "1Gi", "1Gi");
        let (asks, got) = (claim("Bound", "2Gi", "1Gi"), claim("Bound", "1Gi", "2Gi"));
        let pending = claim("Pending", "2Gi", "0");
        let from = |old, new| matters(&Change::Updated { old, new });
        assert!(matters(&Change::Added(&bound)));
        assert!(!matters(&Change::Added(&pending)));
        assert!(!matters(&Change::Deleted(&bound)));
        assert!(from(&bound, &asks));
        assert!(from(&bound, &got));
        assert!(!from(&asks, &bound));
        assert!(!from(&bound, &bound));
        assert!(!from(&bound, &pending));
    }
}
