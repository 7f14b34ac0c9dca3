//! NodeRestriction: a kubelet writes its own node, its own pods' status, and tokens of its own pods' accounts.
//!
//! Judged against the stored object, never against what the request claims it to be (CVE-2021-25735); owner references of
//! the node are fixed (CVE-2025-5187), and a mirror pod refers to no resource claim (CVE-2025-4563).

use std::collections::BTreeSet;
use std::sync::Arc;

use api::Status;
use api::text::go_quote as q;
use async_trait::async_trait;
use auth::authz::node::node_identity;
use auth::{Authorizer, Decision};
use serde_json::Value;

use super::service_account::refers_to_secrets;
use crate::json::{at, containers, forbidden, is_mirror, list, same, some};
use crate::{Attributes, Operation, Plugin};

/// See the module.
pub struct NodeRestriction(pub Arc<dyn Authorizer>);

const LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// Whether a node may not set this label on itself.
fn label_forbidden(key: &str) -> bool {
    let Some((ns, _)) = key.split_once('/') else {
        return false;
    };
    let under = |d: &str| ns == d || ns.strip_suffix(d).is_some_and(|p| p.ends_with('.'));
    if under("node-restriction.kubernetes.io") {
        return true;
    }
    let own =
        LABELS.contains(&key) || under("kubelet.kubernetes.io") || under("node.kubernetes.io");
    (under("kubernetes.io") || under("k8s.io")) && !own
}

fn changed_labels(new: &Value, old: Option<&Value>) -> BTreeSet<String> {
    let get = |v: &Value| {
        v.pointer("/metadata/labels")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default()
    };
    let (new, old) = (get(new), old.map(get).unwrap_or_default());
    let differs = |k: &&String| new.get(*k) != old.get(*k);
    new.keys()
        .chain(old.keys())
        .filter(differs)
        .filter(|k| label_forbidden(k))
        .cloned()
        .collect()
}

/// What of the API a pod refers to, in upstream's words; `Err` for volumes nobody knows.
fn api_reference(pod: &Value) -> Result<Option<&'static str>, String> {
    if !at(pod, "/spec/serviceAccountName").is_empty()
        || !at(pod, "/spec/serviceAccount").is_empty()
    {
        return Ok(Some("serviceaccounts"));
    }
    let volumes = list(pod, "/spec/volumes");
    let without = serde_json::json!({"spec": {
        "containers": pod.pointer("/spec/containers"), "initContainers": pod.pointer("/spec/initContainers"),
        "ephemeralContainers": pod.pointer("/spec/ephemeralContainers"), "imagePullSecrets": pod.pointer("/spec/imagePullSecrets"),
    }});
    if refers_to_secrets(&without) {
        return Ok(Some("secrets"));
    }
    let given = |v: &Value, p: &str| v.pointer(p).is_some_and(|r| !r.is_null());
    let configmaps = containers(pod).any(|(_, c)| {
        list(c, "/env")
            .iter()
            .any(|e| given(e, "/valueFrom/configMapKeyRef"))
            || list(c, "/envFrom")
                .iter()
                .any(|e| given(e, "/configMapRef"))
    });
    if configmaps {
        return Ok(Some("configmaps"));
    }
    if some(pod, "/spec/resourceClaims").is_some() {
        return Ok(Some("resourceclaims"));
    }
    for v in volumes {
        let kinds = v
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(k, s)| *k != "name" && !s.is_null())
            .map(|(k, _)| k.as_str());
        for kind in kinds {
            match kind {
                "awsElasticBlockStore"
                | "azureDisk"
                | "cinder"
                | "downwardAPI"
                | "emptyDir"
                | "fc"
                | "flocker"
                | "gcePersistentDisk"
                | "gitRepo"
                | "hostPath"
                | "image"
                | "nfs"
                | "photonPersistentDisk"
                | "portworxVolume"
                | "quobyte"
                | "vsphereVolume" => {}
                "cephfs" | "flexVolume" | "iscsi" | "rbd" | "scaleIO" | "storageos" => {
                    if !at(v, &format!("/{kind}/secretRef/name")).is_empty() {
                        return Ok(Some("secrets"));
                    }
                }
                "configMap" => return Ok(Some("configmaps (via configmap volumes)")),
                "secret" => return Ok(Some("secrets (via secret volumes)")),
                "csi" => return Ok(Some("csidrivers (via CSI volumes)")),
                "glusterfs" => return Ok(Some("endpoints (via glusterFS volumes)")),
                "persistentVolumeClaim" => return Ok(Some("persistentvolumeclaims")),
                "ephemeral" => return Ok(Some("persistentvolumeclaims (via ephemeral volumes)")),
                "azureFile" => return Ok(Some("secrets (via azureFile volumes)")),
                "projected" => {
                    for s in list(v, "/projected/sources") {
                        for source in s
                            .as_object()
                            .into_iter()
                            .flatten()
                            .filter(|(_, s)| !s.is_null())
                            .map(|(k, _)| k.as_str())
                        {
                            match source {
                                "downwardAPI" => {}
                                "configMap" => {
                                    return Ok(Some("configmaps (via projected volumes)"));
                                }
                                "secret" => return Ok(Some("secrets (via projected volumes)")),
                                "serviceAccountToken" => {
                                    return Ok(Some("serviceaccounts (via projected volumes)"));
                                }
                                "clusterTrustBundle" => return Ok(Some("clustertrustbundles")),
                                "podCertificate" => return Ok(Some("podcertificates")),
                                _ => {
                                    return Err(format!(
                                        "unknown source for projected volume {}",
                                        q(at(v, "/name"))
                                    ));
                                }
                            }
                        }
                    }
                }
                _ => {
                    return Err(format!(
                        "unknown volume type for volume  {}",
                        q(at(v, "/name"))
                    ));
                }
            }
        }
    }
    Ok(None)
}

type Verdict = Result<(), String>;

fn refuse(ok: bool, why: impl FnOnce() -> String) -> Verdict {
    if ok { Ok(()) } else { Err(why()) }
}

/// A refusal of ours, or a Status of another kind (a pod that is not found).
enum No {
    Why(String),
    Status(Box<Status>),
}

impl From<String> for No {
    fn from(why: String) -> No {
        No::Why(why)
    }
}

impl From<Status> for No {
    fn from(s: Status) -> No {
        No::Status(Box::new(s))
    }
}

async fn find(
    a: &Attributes<'_>,
    resource: &'static str,
    ns: &str,
    name: &str,
) -> Result<Arc<Value>, Status> {
    a.reader
        .get("", resource, ns, name)
        .await?
        .ok_or_else(|| Status::not_found("", resource, name))
}

async fn create_pod(node: &str, a: &Attributes<'_>, pod: &Value) -> Result<(), No> {
    let n = q(node);
    refuse(is_mirror(pod), || {
        format!(
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node {n} can only create mirror pods"
        )
    })?;
    refuse(at(pod, "/spec/nodeName") == node, || {
        format!("node {n} can only create pods with spec.nodeName set to itself")
    })?;
    let owner = match list(pod, "/metadata/ownerReferences") {
        [one] => one,
        [] => {
            return Err(format!(
                "node {n} can only create pods with an owner reference set to itself"
            )
            .into());
        }
        _ => {
            return Err(format!(
                "node {n} can only create pods with a single owner reference set to itself"
            )
            .into());
        }
    };
    refuse(
        at(owner, "/apiVersion") == "v1"
            && at(owner, "/kind") == "Node"
            && at(owner, "/name") == node,
        || format!("node {n} can only create pods with an owner reference set to itself"),
    )?;
    let flag = |k: &str| owner.get(k).and_then(Value::as_bool) == Some(true);
    refuse(flag("controller"), || {
        format!("node {n} can only create pods with a controller owner reference set to itself")
    })?;
    refuse(!flag("blockOwnerDeletion"), || {
        format!("node {n} must not set blockOwnerDeletion on an owner reference")
    })?;
    let stored = find(a, "nodes", "", node).await?;
    let (want, got) = (at(owner, "/uid"), at(&stored, "/metadata/uid"));
    refuse(want == got, || {
        format!("node {node} UID mismatch: expected {want} got {got}")
    })?;
    match api_reference(pod) {
        Ok(None) => Ok(()),
        Ok(Some(what)) => Err(format!("node {n} can not create pods that reference {what}").into()),
        Err(e) => Err(format!("error checking mirror pod for API references: {e}").into()),
    }
}

fn pod_status(node: &str, new: &Value, old: &Value) -> Verdict {
    let n = q(node);
    refuse(at(old, "/spec/nodeName") == node, || {
        format!("node {n} can only update pod status for pods with spec.nodeName set to itself")
    })?;
    refuse(same(old, new, "/metadata/labels"), || {
        format!("node {n} cannot update labels through pod status")
    })?;
    refuse(same(old, new, "/status/resourceClaimStatuses"), || {
        format!("node {n} cannot update resource claim statues")
    })?;
    refuse(
        same(old, new, "/status/extendedResourceClaimStatus"),
        || format!("node {n} cannot update extended resource claim status"),
    )
}

fn claim_status(node: &str, new: &Value, old: &Value) -> Verdict {
    let bare = |v: &Value| {
        let mut v = v.clone();
        let fields = [
            ("/metadata", ["resourceVersion", "managedFields", "", ""]),
            (
                "/status",
                [
                    "capacity",
                    "conditions",
                    "allocatedResourceStatuses",
                    "allocatedResources",
                ],
            ),
        ];
        for (place, keys) in fields {
            if let Some(o) = v.pointer_mut(place).and_then(Value::as_object_mut) {
                for k in keys {
                    o.remove(k);
                }
            }
        }
        if some(&v, "/status").is_none()
            && let Some(o) = v.as_object_mut()
        {
            o.remove("status");
        }
        v
    };
    refuse(bare(new) == bare(old), || {
        format!(
            "node {} is not allowed to update fields other than status.quantity and status.conditions",
            q(node)
        )
    })
}

fn own_node(node: &str, a: &Attributes<'_>, new: Option<&Value>, old: Option<&Value>) -> Verdict {
    let n = q(node);
    let name = if a.name.is_empty() {
        new.map(|o| at(o, "/metadata/name")).unwrap_or_default()
    } else {
        a.name
    };
    refuse(name == node, || {
        format!("node {n} is not allowed to modify node {}", q(name))
    })?;
    let Some(new) = new else { return Ok(()) };
    let joined = |l: BTreeSet<String>| l.into_iter().collect::<Vec<_>>().join(", ");
    if a.operation == Operation::Create {
        refuse(some(new, "/spec/configSource").is_none(), || {
            format!("node {n} is not allowed to create pods with a non-nil configSource")
        })?;
        let labels = changed_labels(new, None);
        return refuse(labels.is_empty(), || {
            format!(
                "node {n} is not allowed to set the following labels: {}",
                joined(labels)
            )
        });
    }
    let Some(old) = old else { return Ok(()) };
    refuse(
        some(new, "/spec/configSource").is_none() || same(new, old, "/spec/configSource"),
        || format!("node {n} is not allowed to update configSource to a new non-nil configSource"),
    )?;
    refuse(same(new, old, "/spec/taints"), || {
        format!("node {n} is not allowed to modify taints")
    })?;
    refuse(same(new, old, "/metadata/ownerReferences"), || {
        format!("node {n} is not allowed to modify ownerReferences")
    })?;
    let labels = changed_labels(new, Some(old));
    refuse(labels.is_empty(), || {
        format!("is not allowed to modify labels: {}", joined(labels))
    })
}

impl NodeRestriction {
    async fn token(&self, node: &str, a: &Attributes<'_>, request: &Value) -> Result<(), No> {
        let bound = |k: &str| at(request, &format!("/spec/boundObjectRef/{k}")).to_owned();
        refuse(
            bound("apiVersion") == "v1" && bound("kind") == "Pod" && !bound("name").is_empty(),
            || "node requested token not bound to a pod".to_owned(),
        )?;
        refuse(!bound("uid").is_empty(), || {
            "node requested token with a pod binding without a uid".to_owned()
        })?;
        let pod = find(a, "pods", a.namespace, &bound("name")).await?;
        refuse(bound("uid") == at(&pod, "/metadata/uid"), || {
            format!(
                "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
                bound("uid")
            )
        })?;
        refuse(at(&pod, "/spec/nodeName") == node, || {
            "node requested token bound to a pod scheduled on a different node".to_owned()
        })?;
        let audience = match list(request, "/spec/audiences") {
            [] => "",
            [one] => one.as_str().unwrap_or_default(),
            _ => return Err("node may only request 0 or 1 audiences".to_owned().into()),
        };
        if self.pod_has_audience(a, &pod, audience).await? {
            return Ok(());
        }
        let ask = auth::Attributes {
            user: a.user.clone(),
            verb: "request-serviceaccounts-token-audience".to_owned(),
            namespace: a.namespace.to_owned(),
            version: "v1".to_owned(),
            resource: audience.to_owned(),
            name: a.name.to_owned(),
            is_resource: true,
            ..auth::Attributes::default()
        };
        if self.0.authorize(&ask).await.0 == Decision::Allow {
            return Ok(());
        }
        let who = &a.user.name;
        Err(format!("audience {} not found in pod spec volume, {who} is not authorized to request tokens for this audience", q(audience)).into())
    }

    /// In a projected token, or in the CSI driver of one of the pod's volumes.
    async fn pod_has_audience(
        &self,
        a: &Attributes<'_>,
        pod: &Value,
        audience: &str,
    ) -> Result<bool, Status> {
        for v in list(pod, "/spec/volumes") {
            let projected = list(v, "/projected/sources").iter().any(|s| {
                s.get("serviceAccountToken").is_some_and(|t| !t.is_null())
                    && at(s, "/serviceAccountToken/audience") == audience
            });
            if projected {
                return Ok(true);
            }
            let mut claim = at(v, "/persistentVolumeClaim/claimName").to_owned();
            if v.get("ephemeral").is_some_and(|e| !e.is_null()) {
                claim = format!("{}-{}", at(pod, "/metadata/name"), at(v, "/name"));
            }
            let mut driver = at(v, "/csi/driver").to_owned();
            if !claim.is_empty() {
                let Some(pvc) = a
                    .reader
                    .get("", "persistentvolumeclaims", a.namespace, &claim)
                    .await?
                else {
                    continue;
                };
                let name = at(&pvc, "/spec/volumeName");
                let Some(pv) = a.reader.get("", "persistentvolumes", "", name).await? else {
                    continue;
                };
                driver = at(&pv, "/spec/csi/driver").to_owned();
            }
            if driver.is_empty() {
                continue;
            }
            let Some(d) = a
                .reader
                .get("storage.k8s.io", "csidrivers", "", &driver)
                .await?
            else {
                continue;
            };
            if list(&d, "/spec/tokenRequests")
                .iter()
                .any(|t| at(t, "/audience") == audience)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn judge(
        &self,
        node: &str,
        a: &Attributes<'_>,
        new: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<(), No> {
        use Operation::{Create, Delete, Update};
        let n = q(node);
        let op = match a.operation {
            Create => "CREATE",
            Update => "UPDATE",
            Delete => "DELETE",
            Operation::Connect => "CONNECT",
        };
        let name_is = |what: &str| {
            let name = if a.operation == Create {
                new.map(|o| at(o, "/metadata/name")).unwrap_or_default()
            } else {
                a.name
            };
            refuse(name == node, || {
                format!("can only access {what} with the same name as the requesting node")
            })
        };
        match (a.group, a.resource, a.subresource) {
            ("", "pods", "") => match (a.operation, new, old) {
                (Create, Some(pod), _) => create_pod(node, a, pod).await,
                (Delete, _, old) => {
                    let stored = match old {
                        Some(o) => Arc::new(o.clone()),
                        None => find(a, "pods", a.namespace, a.name).await?,
                    };
                    Ok(refuse(at(&stored, "/spec/nodeName") == node, || {
                        format!("node {n} can only delete pods with spec.nodeName set to itself")
                    })?)
                }
                _ => Err(format!(
                    "unexpected operation {}, node {n} can only create and delete mirror pods",
                    q(op)
                )
                .into()),
            },
            ("", "pods", "status") => match (a.operation, new, old) {
                (Update, Some(new), Some(old)) => Ok(pod_status(node, new, old)?),
                _ => Err(format!("unexpected operation {}", q(op)).into()),
            },
            ("", "pods", "eviction") => {
                refuse(a.operation == Create, || {
                    format!("unexpected operation {op}")
                })?;
                let name = if a.name.is_empty() {
                    new.map(|o| at(o, "/metadata/name")).unwrap_or_default()
                } else {
                    a.name
                };
                refuse(!name.is_empty(), || {
                    "could not determine pod from request data".to_owned()
                })?;
                let pod = find(a, "pods", a.namespace, name).await?;
                Ok(refuse(at(&pod, "/spec/nodeName") == node, || {
                    format!("node {node} can only evict pods with spec.nodeName set to itself")
                })?)
            }
            ("", "pods", sub) => Err(format!(
                "unexpected pod subresource {}, only 'status' and 'eviction' are allowed",
                q(sub)
            )
            .into()),
            ("", "nodes", _) => Ok(own_node(node, a, new, old)?),
            ("", "persistentvolumeclaims", "status") => match (a.operation, new, old) {
                (Update, Some(new), Some(old)) => Ok(claim_status(node, new, old)?),
                _ => Err(format!("unexpected operation {}", q(op)).into()),
            },
            ("", "persistentvolumeclaims", _) => {
                Err("may only update PVC status".to_owned().into())
            }
            ("", "serviceaccounts", "token") if a.operation == Create => match new {
                Some(request) => self.token(node, a, request).await,
                None => Ok(()),
            },
            ("coordination.k8s.io", "leases", _) => {
                refuse(a.namespace == "kube-node-lease", || {
                    "can only access leases in the \"kube-node-lease\" system namespace".to_owned()
                })?;
                Ok(name_is("node lease")?)
            }
            ("storage.k8s.io", "csinodes", _) => Ok(name_is("CSINode")?),
            ("resource.k8s.io", "resourceslices", _) => {
                let own = |o: Option<&Value>| o.is_some_and(|o| at(o, "/spec/nodeName") == node);
                match a.operation {
                    Create => refuse(own(new), || {
                        "can only create ResourceSlice with the same NodeName as the requesting node".to_owned()
                    })?,
                    Delete => refuse(own(old), || {
                        "can only delete ResourceSlice with the same NodeName as the requesting node".to_owned()
                    })?,
                    _ => {}
                }
                Ok(())
            }
            ("certificates.k8s.io", "podcertificaterequests", _) => {
                Err("PodCertificateRequest feature gate is disabled"
                    .to_owned()
                    .into())
            }
            ("certificates.k8s.io", "certificatesigningrequests", "") if a.operation == Create => {
                let Some(new) = new else { return Ok(()) };
                let signer = at(new, "/spec/signerName");
                if ![
                    "kubernetes.io/kubelet-serving",
                    "kubernetes.io/kube-apiserver-client-kubelet",
                ]
                .contains(&signer)
                {
                    return Ok(());
                }
                let asked = super::certificates::request(new)
                    .map_err(|e| format!("unable to parse csr: {e}"))?;
                let cn = format!("system:node:{node}");
                Ok(refuse(asked.common_name == cn, || {
                    format!("can only create a node CSR with CN={cn}")
                })?)
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.operation != Operation::Connect && node_identity(a.user).is_some()
    }

    async fn admit(
        &self,
        a: &Attributes<'_>,
        new: Option<&mut Value>,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        let Some(node) = node_identity(a.user) else {
            return Ok(());
        };
        let new = new.as_deref();
        if node.is_empty() {
            let why = format!("could not determine node from user {}", q(&a.user.name));
            return Err(forbidden(a, new, &why));
        }
        match self.judge(node, a, new, old).await {
            Ok(()) => Ok(()),
            Err(No::Why(why)) => Err(forbidden(a, new, &why)),
            Err(No::Status(s)) => Err(*s),
        }
    }
}
