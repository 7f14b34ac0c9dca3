//! ephemeral-volume-controller: makes the claim of each ephemeral volume of a pod, `POD-VOLUME`, owned by the pod.
//!
//! Invariants: a claim that is there and is not the pod's own is never taken for it; the pod's events say so. Claims go with
//! their pods, by the garbage collector; one that is deleted while its pod stays is made again.
//!
//! Partial: the counters `ephemeral_volume_controller_*` are not there.

use std::fmt;
use std::sync::Arc;

use client::resource::{PERSISTENT_VOLUME_CLAIMS, PODS};
use client::{Change, EventType, ObjectKey, ObjectReference};
use serde_json::{Value, json};

use crate::Context;
use crate::children::controller_reference;
use crate::context::Failures;
use crate::storage_protection::{BY_CLAIM, claims, own_claim};
use crate::views::{PersistentVolumeClaim, Pod};

/// What is to be done for an ephemeral volume of a pod.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// The claim is missing: its name and the object.
    Create(String, Value),
    /// Its name is another's, in upstream's words.
    Foreign(String),
}

/// The steps for a pod's volumes, by the volumes' names; none for volumes that have their claims.
pub fn decide(
    pod: &Pod,
    claim: impl Fn(&str) -> Option<Arc<PersistentVolumeClaim>>,
) -> Vec<(String, Step)> {
    if pod.metadata.is_deleting() {
        return Vec::new();
    }
    let volumes = pod.spec.claims.iter();
    let steps = volumes.filter_map(|v| {
        let source = v.ephemeral.as_ref()?;
        let name = own_claim(pod, &v.name);
        let step = match claim(&name) {
            Some(claim) if is_for(&claim, pod) => return None,
            Some(claim) => Step::Foreign(foreign(&claim, pod)),
            None => Step::Create(name.clone(), made(pod, &name, source)),
        };
        Some((v.name.clone(), step))
    });
    steps.collect()
}

/// Whether a claim was made for a pod.
pub(crate) fn is_for(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    let owner = claim.metadata.controller();
    claim.metadata.namespace == pod.metadata.namespace
        && owner.is_some_and(|o| o.uid == pod.metadata.uid)
}

/// What upstream says of a claim that was not.
pub(crate) fn foreign(claim: &PersistentVolumeClaim, pod: &Pod) -> String {
    format!(
        "PVC {} was not created for pod {} (pod is not owner)",
        ObjectKey::of(claim),
        ObjectKey::of(pod)
    )
}

fn made(pod: &Pod, name: &str, source: &Value) -> Value {
    let template = |field: &str| source.pointer(&format!("/volumeClaimTemplate/{field}"));
    json!({
        "apiVersion": PERSISTENT_VOLUME_CLAIMS.api_version(),
        "kind": PERSISTENT_VOLUME_CLAIMS.kind,
        "metadata": {
            "name": name,
            "annotations": template("metadata/annotations"),
            "labels": template("metadata/labels"),
            "ownerReferences": [controller_reference(&PODS, &pod.metadata)],
        },
        "spec": template("spec"),
    })
}

/// Why a pod has not all its claims.
#[derive(Debug)]
struct Failed(String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let pods = ctx.informer::<Pod>(&PODS);
    let all = ctx.informer::<PersistentVolumeClaim>(&PERSISTENT_VOLUME_CLAIMS);
    pods.store().add_index(BY_CLAIM, |p: &Pod| {
        claims(p).map(|k| k.to_string()).collect()
    });
    let queue = ctx.queue("ephemeral_volume");
    let q = queue.clone();
    // What a pod's volumes are never changes, and its end is the garbage collector's matter.
    pods.on_change(move |change| {
        if let Change::Added(pod) = change
            && wants_claims(pod)
        {
            q.add(ObjectKey::of(&**pod));
        }
    });
    let (q, using) = (queue.clone(), pods.store());
    all.on_change(move |change| {
        if let Change::Deleted(claim) = change {
            for pod in using.by_index(BY_CLAIM, &ObjectKey::of(&**claim).to_string()) {
                if wants_claims(&pod) {
                    q.add(ObjectKey::of(&*pod));
                }
            }
        }
    });
    let workers = ctx.config.concurrent("ephemeral-volume", 5);
    let (pods, all, shell) = (pods.store(), all.store(), ctx.clone());
    ctx.run(queue, workers, move |key| {
        let (pods, all, ctx) = (pods.clone(), all.clone(), shell.clone());
        async move {
            let Some(pod) = pods.get_key(&key) else {
                return Ok(None);
            };
            let api = ctx
                .client
                .namespaced(&PERSISTENT_VOLUME_CLAIMS, &key.namespace);
            let mut failures = Failures::default();
            for (volume, step) in decide(&pod, |name| all.get(&key.namespace, name)) {
                let done = match step {
                    Step::Foreign(why) => Err(why),
                    Step::Create(name, claim) => {
                        let made = api.create::<serde::de::IgnoredAny, _>(&claim).await;
                        made.map(|_| ())
                            .map_err(|e| format!("create PVC {name}: {e}"))
                    }
                };
                failures.note(done.map_err(|why| {
                    let message = format!("ephemeral volume {volume}: {why}");
                    let pod = ObjectReference::of(&PODS, &*pod);
                    ctx.recorder
                        .event(pod, EventType::Warning, "FailedBinding", message.as_str());
                    Failed(message)
                }));
            }
            failures.end().map(|()| None)
        }
    });
}

fn wants_claims(pod: &Pod) -> bool {
    !pod.metadata.is_deleting() && pod.spec.claims.iter().any(|v| v.ephemeral.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(more: &str, volumes: &Value) -> Pod {
        let text = format!(
            r#"{{"metadata":{{"name":"p","namespace":"n","uid":"u"{more}}},"spec":{{"volumes":{volumes}}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn scratch() -> Value {
        json!({"name": "scratch", "ephemeral": {"volumeClaimTemplate": {
            "metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }}})
    }

    fn claim(name: &str, namespace: &str, owner: Value) -> Arc<PersistentVolumeClaim> {
        let claim =
            json!({"metadata": {"name": name, "namespace": namespace, "ownerReferences": owner}});
        Arc::new(serde_json::from_value(claim).unwrap())
    }

    fn owner(uid: &str, controls: bool) -> Value {
        json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": controls}])
    }

    #[test]
    fn each_ephemeral_volume_gets_a_claim_of_its_own_and_never_anothers() {
        let volumes = json!([scratch(), {"name": "x", "emptyDir": {}}, {"name": "y", "persistentVolumeClaim": {"claimName": "mine"}}]);
        let foreign = |c: &str| {
            Some(format!(
                "PVC {c} was not created for pod n/p (pod is not owner)"
            ))
        };
        let gone = r#","deletionTimestamp":"2026-01-01T00:00:00Z""#;
        for (what, more, volumes, there, made, refused) in [
            ("missing", "", volumes.clone(), vec![], 1, None),
            (
                "no ephemeral volume",
                "",
                json!([{"name": "x", "emptyDir": {}}]),
                vec![],
                0,
                None,
            ),
            ("no volume", "", json!([]), vec![], 0, None),
            ("the pod goes", gone, volumes.clone(), vec![], 0, None),
            (
                "there already",
                "",
                volumes.clone(),
                vec![claim("p-scratch", "n", owner("u", true))],
                0,
                None,
            ),
            (
                "one in another namespace",
                "",
                volumes.clone(),
                vec![claim("p-scratch", "m", owner("u", true))],
                1,
                None,
            ),
            (
                "somebody's",
                "",
                volumes.clone(),
                vec![claim("p-scratch", "n", json!([]))],
                0,
                foreign("n/p-scratch"),
            ),
            (
                "another pod's of this name",
                "",
                volumes.clone(),
                vec![claim("p-scratch", "n", owner("v", true))],
                0,
                foreign("n/p-scratch"),
            ),
            (
                "one it owns and does not control",
                "",
                volumes.clone(),
                vec![claim("p-scratch", "n", owner("u", false))],
                0,
                foreign("n/p-scratch"),
            ),
            (
                "another volume's",
                "",
                json!([scratch(), {"name": "b", "ephemeral": {}}]),
                vec![claim("p-b", "n", owner("u", true))],
                1,
                None,
            ),
        ] {
            let pod = pod(more, &volumes);
            let find = |name: &str| {
                let mut there = there.iter();
                let it = there.find(|c| c.metadata.name == name && c.metadata.namespace == "n");
                it.cloned()
            };
            let steps = decide(&pod, find);
            let creates = steps.iter().filter(|(v, s)| {
                v == "scratch" && matches!(s, Step::Create(n, _) if n == "p-scratch")
            });
            assert_eq!(creates.count(), made, "{what}: {steps:?}");
            let why = steps.iter().find_map(|(_, s)| match s {
                Step::Foreign(why) => Some(why.clone()),
                Step::Create(..) => None,
            });
            assert_eq!(why, refused, "{what}");
            assert_eq!(steps.len(), made + usize::from(why.is_some()), "{what}");
        }
    }

    #[test]
    fn the_claim_is_the_templates_and_the_pods() {
        let steps = decide(&pod("", &json!([scratch()])), |_| None);
        let [(_, Step::Create(_, claim))] = steps.as_slice() else {
            panic!("{steps:?}");
        };
        let want = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {
                "name": "p-scratch", "labels": {"a": "b"}, "annotations": {"c": "d"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true, "blockOwnerDeletion": true}],
            },
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        });
        assert_eq!(claim, &want);
    }
}
