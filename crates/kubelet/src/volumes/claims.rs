//! Claims of pods: which volume a claim is bound to, and whether this node may have it.
//!
//! Invariants: a volume is given to a pod only while volume and claim refer to one another; a volume with a node affinity only
//! on a node that satisfies it, whoever placed the pod. Kinds of volumes: `hostPath` and `local` with a directory.
//!
//! Claim and volume are read when the pod's volumes are first set up: what a pod was given it keeps until it is gone, also
//! when the claim is deleted meanwhile. A claim that is not bound yet fails the set-up, which is tried again.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use api::volumes::{NodeAffinity, usable_on};
use client::resource::{CSI_DRIVERS, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES};
use client::{Client, ObjectMeta};
use serde::Deserialize;

use crate::pod::{HostPath, Map, Opaque, Pod};

/// What a claim gives a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Claimed {
    /// A path of the node, as a volume of that kind has it.
    HostPath(HostPath),
    /// A directory of the node that is there already.
    Local(String),
    /// A driver's, which this kubelet does not mount; all the same it is in use as long as the pod is here.
    Driver {
        /// Its name in the node's status.
        name: String,
        /// Whether it is attached to the node before it could be used.
        attachable: bool,
    },
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Claim {
    metadata: ObjectMeta,
    spec: ClaimSpec,
    status: Phase,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClaimSpec {
    volume_name: String,
    volume_mode: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Phase {
    phase: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Volume {
    metadata: ObjectMeta,
    spec: VolumeSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct VolumeSpec {
    claim_ref: Option<Reference>,
    node_affinity: Option<NodeAffinity>,
    host_path: Option<HostPath>,
    local: Option<Local>,
    csi: Option<Csi>,
    nfs: Option<Opaque>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Csi {
    driver: String,
    volume_handle: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Driver {
    spec: DriverSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DriverSpec {
    attach_required: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Reference {
    uid: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Local {
    path: String,
}

/// What pods were given, by their UIDs and the claims' names.
pub struct Claims {
    client: Client,
    given: Mutex<HashMap<(String, String), Claimed>>,
}

impl Claims {
    /// Nothing was given yet.
    pub fn new(client: Client) -> Claims {
        Claims {
            client,
            given: Mutex::default(),
        }
    }

    /// The volume of a claim that a pod names; an ephemeral volume's claim must have been made for the pod.
    ///
    /// # Errors
    /// Why there is none, in words for the pod's events.
    pub async fn get(
        &self,
        pod: &Pod,
        name: &str,
        ephemeral: bool,
        node: (&str, &Map),
    ) -> Result<Claimed, String> {
        let key = (pod.metadata.uid.clone(), name.to_owned());
        if let Some(given) = self.lock().get(&key) {
            return Ok(given.clone());
        }
        let claimed = ask(&self.client, pod, name, ephemeral, node).await?;
        self.lock().insert(key, claimed.clone());
        Ok(claimed)
    }

    /// The pod is gone.
    pub fn forget(&self, uid: &str) {
        self.lock().retain(|(pod, _), _| pod != uid);
    }

    /// `status.volumesInUse`: the volumes that are attached for pods that are here, before they are mounted and until the pods
    /// are gone.
    pub fn in_use(&self) -> BTreeSet<String> {
        let given = self.lock();
        let names = given.values().filter_map(|g| match g {
            Claimed::Driver {
                name,
                attachable: true,
            } => Some(name.clone()),
            _ => None,
        });
        names.collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Claimed>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(
    client: &Client,
    pod: &Pod,
    name: &str,
    ephemeral: bool,
    node: (&str, &Map),
) -> Result<Claimed, String> {
    let namespace = &pod.metadata.namespace;
    let why = |e: String| format!("error processing PVC {namespace}/{name}: {e}");
    let api = client.namespaced(&PERSISTENT_VOLUME_CLAIMS, namespace);
    let claim = api.get::<Claim>(name).await;
    let claim = claim.map_err(|e| why(format!("failed to fetch PVC from API server: {e}")))?;
    let bound = bound_to(&claim, pod, ephemeral).map_err(why)?;
    let volume = client.api(&PERSISTENT_VOLUMES).get::<Volume>(bound).await;
    let volume =
        volume.map_err(|e| why(format!("failed to get PV {bound} from the API server: {e}")))?;
    let mut given = given(&claim, &volume, node).map_err(why)?;
    if let (Claimed::Driver { attachable, .. }, Some(csi)) = (&mut given, &volume.spec.csi) {
        // One that says nothing of itself attaches its volumes.
        *attachable = match client.api(&CSI_DRIVERS).get::<Driver>(&csi.driver).await {
            Ok(driver) => driver.spec.attach_required != Some(false),
            Err(e) if e.is_not_found() => true,
            Err(e) => return Err(why(format!("failed to get CSIDriver {}: {e}", csi.driver))),
        };
    }
    Ok(given)
}

fn bound_to<'a>(claim: &'a Claim, pod: &Pod, ephemeral: bool) -> Result<&'a str, String> {
    let uid = &pod.metadata.uid;
    if ephemeral && claim.metadata.controller().is_none_or(|o| o.uid != *uid) {
        return Err("PVC was not created for pod (pod is not owner)".into());
    }
    // One that a pod uses stays until the pod is gone; a new pod gets none of one that goes.
    if claim.metadata.is_deleting() {
        return Err("PVC is being deleted".into());
    }
    if claim.status.phase != "Bound" || claim.spec.volume_name.is_empty() {
        return Err("PVC is not bound".into());
    }
    Ok(&claim.spec.volume_name)
}

fn given(claim: &Claim, volume: &Volume, (node, labels): (&str, &Map)) -> Result<Claimed, String> {
    let (name, spec) = (&volume.metadata.name, &volume.spec);
    let uid = &claim.metadata.uid;
    if spec.claim_ref.as_ref().is_none_or(|r| r.uid != *uid) {
        return Err(format!(
            "PV {name} claim reference does not match the PVC's UID {uid}"
        ));
    }
    if !usable_on(spec.node_affinity.as_ref(), Some(node), labels) {
        return Err(format!(
            "node affinity of PV {name} does not allow it on this node"
        ));
    }
    if claim.spec.volume_mode.as_deref() == Some("Block") {
        return Err("volumes of mode Block are not supported by this kubelet".into());
    }
    match (&spec.host_path, &spec.local, &spec.csi) {
        (Some(path), _, _) => Ok(Claimed::HostPath(path.clone())),
        (_, Some(local), _) => Ok(Claimed::Local(local.path.clone())),
        (_, _, Some(csi)) => Ok(Claimed::Driver {
            name: format!("kubernetes.io/csi/{}^{}", csi.driver, csi.volume_handle),
            attachable: true,
        }),
        _ => {
            let kind = if spec.nfs.is_some() {
                "nfs"
            } else {
                "this kind of"
            };
            Err(format!("{kind} volumes are not supported by this kubelet"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

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

    fn of(claim: Value, volume: Value, ephemeral: bool) -> Result<Claimed, String> {
        let mut c = json!({"metadata": {"name": "c", "uid": "uc"}, "spec": {"volumeName": "v"}, "status": {"phase": "Bound"}});
        let mut v = json!({"metadata": {"name": "v"}, "spec": {"claimRef": {"uid": "uc"}, "local": {"path": "/data"}}});
        merge(&mut c, claim);
        merge(&mut v, volume);
        let claim: Claim = serde_json::from_value(c).unwrap();
        let volume: Volume = serde_json::from_value(v).unwrap();
        let pod: Pod = serde_json::from_value(json!({"metadata": {"uid": "up"}})).unwrap();
        let labels = Map::from([("disk".to_owned(), "ssd".to_owned())]);
        bound_to(&claim, &pod, ephemeral)?;
        given(&claim, &volume, ("node", &labels))
    }

    #[test]
    fn a_pod_gets_a_volume_that_is_its_claims_and_its_nodes() {
        let owned = |uid: &str| json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": true}]}});
        let on = |key: &str, value: &str| json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]}]}}}});
        let field = json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["other"]}]}]}}}});
        let local = Ok(Claimed::Local("/data".into()));
        let host = Ok(Claimed::HostPath(HostPath {
            path: "/x".into(),
            kind: None,
        }));
        let err = |e: &str| Err(e.to_owned());
        for (what, claim, volume, ephemeral, want) in [
            ("bound", json!({}), json!({}), false, local.clone()),
            (
                "a path",
                json!({}),
                json!({"spec": {"hostPath": {"path": "/x"}, "local": null}}),
                false,
                host,
            ),
            (
                "not yet",
                json!({"status": {"phase": "Pending"}}),
                json!({}),
                false,
                err("PVC is not bound"),
            ),
            (
                "lost",
                json!({"status": {"phase": "Lost"}}),
                json!({}),
                false,
                err("PVC is not bound"),
            ),
            (
                "no name",
                json!({"spec": {"volumeName": ""}}),
                json!({}),
                false,
                err("PVC is not bound"),
            ),
            (
                "going",
                json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}}),
                json!({}),
                false,
                err("PVC is being deleted"),
            ),
            (
                "another's volume",
                json!({}),
                json!({"spec": {"claimRef": {"uid": "ud"}}}),
                false,
                err("PV v claim reference does not match the PVC's UID uc"),
            ),
            (
                "nobody's volume",
                json!({}),
                json!({"spec": {"claimRef": null}}),
                false,
                err("PV v claim reference does not match the PVC's UID uc"),
            ),
            (
                "made for the pod",
                owned("up"),
                json!({}),
                true,
                local.clone(),
            ),
            (
                "made for another pod",
                owned("uq"),
                json!({}),
                true,
                err("PVC was not created for pod (pod is not owner)"),
            ),
            (
                "made for nobody",
                json!({}),
                json!({}),
                true,
                err("PVC was not created for pod (pod is not owner)"),
            ),
            ("on this node", json!({}), on("disk", "ssd"), false, local),
            (
                "on another node",
                json!({}),
                on("disk", "hdd"),
                false,
                err("node affinity of PV v does not allow it on this node"),
            ),
            (
                "on a node of another name",
                json!({}),
                field,
                false,
                err("node affinity of PV v does not allow it on this node"),
            ),
            (
                "a device",
                json!({"spec": {"volumeMode": "Block"}}),
                json!({}),
                false,
                err("volumes of mode Block are not supported by this kubelet"),
            ),
            (
                "a driver's",
                json!({}),
                json!({"spec": {"local": null, "csi": {"driver": "x", "volumeHandle": "h"}}}),
                false,
                Ok(Claimed::Driver {
                    name: "kubernetes.io/csi/x^h".into(),
                    attachable: true,
                }),
            ),
        ] {
            assert_eq!(of(claim, volume, ephemeral), want, "{what}");
        }
    }
}
