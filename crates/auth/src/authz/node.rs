//! The Node authorizer: a kubelet reads what its pods need, and nothing else.
//!
//! [`NodeGraph`] knows which pods run where and what they refer to; it is kept current by whoever watches pods, persistent
//! volumes, volume attachments and resource slices. Content of writes is NodeRestriction's business (admission).
//! Absent on purpose: PodCertificateRequest (off by default).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;

use super::rules;
use crate::{Attributes, Authorizer, Decision, Rule, UserInfo};

/// The node's name if the user is a node: `system:node:<name>` in the group `system:nodes`. `Some("")` is a node without a
/// name.
pub fn node_identity(user: &UserInfo) -> Option<&str> {
    let name = user.name.strip_prefix("system:node:")?;
    user.in_group("system:nodes").then_some(name)
}

/// What can be asked about by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Secret,
    ConfigMap,
    ServiceAccount,
    Pvc,
    Pv,
    Claim,
    Pod,
    VolumeAttachment,
    ResourceSlice,
}

type Key = (Kind, String, String);

#[derive(Default)]
struct Inner {
    /// How many times each node's pods refer to a thing.
    uses: HashMap<Key, HashMap<Arc<str>, u32>>,
    /// What a pod, attachment or slice put into `uses`, for removal.
    owners: HashMap<Key, (Arc<str>, Vec<Key>)>,
    /// A claim's volumes: a persistent volume is read through its claim, a volume's secrets through the volume.
    volumes: HashMap<String, (Key, Vec<Key>)>,
    /// From a volume's secret to the volumes that name it.
    volume_secrets: HashMap<Key, HashSet<String>>,
}

/// See the module.
#[derive(Default)]
pub struct NodeGraph(RwLock<Inner>);

/// Whether a pod has a node, at a fraction of the cost of a [`PodView`]: one without relates to none, and need not be told
/// to the graph.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ScheduledView {
    spec: ScheduledSpecView,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ScheduledSpecView {
    node_name: String,
}

impl ScheduledView {
    /// Whether it has a node.
    pub fn is_scheduled(&self) -> bool {
        !self.spec.node_name.is_empty()
    }
}

/// The fields of a pod that the graph needs; decodes from any encoding.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodView {
    /// Name and namespace.
    pub metadata: Meta,
    /// References.
    pub spec: PodSpecView,
    /// Names of generated claims.
    pub status: PodStatusView,
}

/// Name and namespace.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Meta {
    /// The name.
    pub name: String,
    /// The namespace.
    pub namespace: String,
    /// Present on mirror pods.
    pub annotations: HashMap<String, String>,
}

/// `{name}`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Named {
    /// The name.
    pub name: String,
}

/// See [`PodView`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodSpecView {
    /// The node; a pod without one relates to none.
    pub node_name: String,
    /// The service account.
    pub service_account_name: String,
    /// Secrets.
    pub image_pull_secrets: Vec<Named>,
    /// Volumes: looked at as trees, since few of their many kinds matter.
    pub volumes: Vec<Value>,
    /// Containers' env and envFrom.
    pub containers: Vec<ContainerView>,
    /// Likewise.
    pub init_containers: Vec<ContainerView>,
    /// Likewise.
    pub ephemeral_containers: Vec<ContainerView>,
    /// Dynamic resources.
    pub resource_claims: Vec<ResourceClaimView>,
}

/// See [`PodView`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodStatusView {
    /// Names of claims made from templates.
    pub resource_claim_statuses: Vec<ResourceClaimView>,
}

/// `resourceClaims[]` and `resourceClaimStatuses[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ResourceClaimView {
    /// The claim's name, if it is named.
    pub resource_claim_name: Option<String>,
}

/// A container's references.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerView {
    /// `secretKeyRef`, `configMapKeyRef`.
    pub env: Vec<Value>,
    /// `secretRef`, `configMapRef`.
    pub env_from: Vec<Value>,
}

fn at<'a>(v: &'a Value, pointer: &str) -> &'a str {
    v.pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn pod_references(pod: &PodView) -> Vec<Key> {
    let ns = pod.metadata.namespace.as_str();
    let mut out = vec![(Kind::Pod, ns.to_owned(), pod.metadata.name.clone())];
    // A mirror pod is the node's own word: it must not open anything to the node.
    if pod
        .metadata
        .annotations
        .contains_key("kubernetes.io/config.mirror")
    {
        return out;
    }
    let mut add = |kind: Kind, name: &str| {
        if !name.is_empty() {
            out.push((kind, ns.to_owned(), name.to_owned()));
        }
    };
    add(Kind::ServiceAccount, &pod.spec.service_account_name);
    for s in &pod.spec.image_pull_secrets {
        add(Kind::Secret, &s.name);
    }
    for c in pod
        .spec
        .containers
        .iter()
        .chain(&pod.spec.init_containers)
        .chain(&pod.spec.ephemeral_containers)
    {
        for e in &c.env {
            add(Kind::Secret, at(e, "/valueFrom/secretKeyRef/name"));
            add(Kind::ConfigMap, at(e, "/valueFrom/configMapKeyRef/name"));
        }
        for e in &c.env_from {
            add(Kind::Secret, at(e, "/secretRef/name"));
            add(Kind::ConfigMap, at(e, "/configMapRef/name"));
        }
    }
    for v in &pod.spec.volumes {
        add(Kind::Secret, at(v, "/secret/secretName"));
        add(Kind::ConfigMap, at(v, "/configMap/name"));
        add(Kind::Pvc, at(v, "/persistentVolumeClaim/claimName"));
        if v.get("ephemeral").is_some_and(|e| !e.is_null()) {
            add(
                Kind::Pvc,
                &format!("{}-{}", pod.metadata.name, at(v, "/name")),
            );
        }
        for kind in [
            "azureFile",
            "cephfs",
            "flexVolume",
            "iscsi",
            "rbd",
            "scaleIO",
            "storageos",
        ] {
            add(Kind::Secret, at(v, &format!("/{kind}/secretRef/name")));
        }
        add(Kind::Secret, at(v, "/azureFile/secretName"));
        add(Kind::Secret, at(v, "/csi/nodePublishSecretRef/name"));
        for s in v
            .pointer("/projected/sources")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            add(Kind::Secret, at(s, "/secret/name"));
            add(Kind::ConfigMap, at(s, "/configMap/name"));
        }
    }
    for c in pod
        .spec
        .resource_claims
        .iter()
        .chain(&pod.status.resource_claim_statuses)
    {
        add(
            Kind::Claim,
            c.resource_claim_name.as_deref().unwrap_or_default(),
        );
    }
    out.sort_by(|a, b| (a.0 as u8, &a.1, &a.2).cmp(&(b.0 as u8, &b.1, &b.2)));
    out.dedup();
    out
}

impl Inner {
    fn forget(&mut self, owner: &Key) {
        let Some((node, keys)) = self.owners.remove(owner) else {
            return;
        };
        for k in keys {
            let Some(nodes) = self.uses.get_mut(&k) else {
                continue;
            };
            if let Some(n) = nodes.get_mut(&node) {
                *n = n.saturating_sub(1);
                if *n == 0 {
                    nodes.remove(&node);
                }
            }
            if nodes.is_empty() {
                self.uses.remove(&k);
            }
        }
    }

    fn remember(&mut self, owner: Key, node: &str, keys: Vec<Key>) {
        if let Some((old_node, old)) = self.owners.get(&owner)
            && **old_node == *node
            && *old == keys
        {
            return;
        }
        self.forget(&owner);
        if node.is_empty() {
            return;
        }
        let node: Arc<str> = node.into();
        for k in &keys {
            *self
                .uses
                .entry(k.clone())
                .or_default()
                .entry(Arc::clone(&node))
                .or_default() += 1;
        }
        self.owners.insert(owner, (node, keys));
    }

    fn used(&self, node: &str, key: &Key) -> bool {
        self.uses.get(key).is_some_and(|n| n.contains_key(node))
    }

    fn related(&self, node: &str, key: &Key) -> bool {
        if self.used(node, key) {
            return true;
        }
        let volume = |pv: &String| {
            self.volumes
                .get(pv)
                .is_some_and(|(claim, _)| self.used(node, claim))
        };
        match key.0 {
            Kind::Pv => volume(&key.2),
            Kind::Secret => self
                .volume_secrets
                .get(key)
                .is_some_and(|v| v.iter().any(volume)),
            _ => false,
        }
    }

    fn set_volume(&mut self, name: &str, volume: Option<&Value>) {
        if let Some((_, secrets)) = self.volumes.remove(name) {
            for s in secrets {
                if let Some(v) = self.volume_secrets.get_mut(&s) {
                    v.remove(name);
                    if v.is_empty() {
                        self.volume_secrets.remove(&s);
                    }
                }
            }
        }
        let Some(v) = volume else { return };
        let (ns, claim) = (
            at(v, "/spec/claimRef/namespace"),
            at(v, "/spec/claimRef/name"),
        );
        if claim.is_empty() {
            return;
        }
        let mut secrets = Vec::new();
        for kind in [
            "azureFile",
            "cephfs",
            "flexVolume",
            "iscsi",
            "rbd",
            "scaleIO",
            "storageos",
            "csi",
        ] {
            for field in [
                "secretRef",
                "nodePublishSecretRef",
                "nodeStageSecretRef",
                "nodeExpandSecretRef",
            ] {
                let secret = at(v, &format!("/spec/{kind}/{field}/name"));
                if !secret.is_empty() {
                    let own = at(v, &format!("/spec/{kind}/{field}/namespace"));
                    secrets.push((
                        Kind::Secret,
                        if own.is_empty() { ns } else { own }.to_owned(),
                        secret.to_owned(),
                    ));
                }
            }
        }
        let azure = at(v, "/spec/azureFile/secretName");
        if !azure.is_empty() {
            let own = at(v, "/spec/azureFile/secretNamespace");
            secrets.push((
                Kind::Secret,
                if own.is_empty() { ns } else { own }.to_owned(),
                azure.to_owned(),
            ));
        }
        for s in &secrets {
            self.volume_secrets
                .entry(s.clone())
                .or_default()
                .insert(name.to_owned());
        }
        self.volumes.insert(
            name.to_owned(),
            ((Kind::Pvc, ns.to_owned(), claim.to_owned()), secrets),
        );
    }
}

impl NodeGraph {
    /// Empty.
    pub fn new() -> Arc<NodeGraph> {
        Arc::default()
    }

    /// A pod was written. One without a node relates to nothing.
    pub fn set_pod(&self, pod: &PodView) {
        let owner = (
            Kind::Pod,
            pod.metadata.namespace.clone(),
            pod.metadata.name.clone(),
        );
        let keys = if pod.spec.node_name.is_empty() {
            Vec::new()
        } else {
            pod_references(pod)
        };
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remember(owner, &pod.spec.node_name, keys);
    }

    /// A pod was deleted.
    pub fn remove_pod(&self, namespace: &str, name: &str) {
        let owner = (Kind::Pod, namespace.to_owned(), name.to_owned());
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .forget(&owner);
    }

    /// The resources that [`NodeGraph::changed`] understands: group and plural.
    pub const RESOURCES: [(&'static str, &'static str); 4] = [
        ("", "pods"),
        ("", "persistentvolumes"),
        ("storage.k8s.io", "volumeattachments"),
        ("resource.k8s.io", "resourceslices"),
    ];

    /// One object was written (`Some`) or deleted (`None`); other resources are skipped.
    pub fn changed(&self, resource: &str, namespace: &str, name: &str, object: Option<&Value>) {
        match (resource, object) {
            ("pods", Some(o)) => {
                if let Ok(pod) = PodView::deserialize(o) {
                    self.set_pod(&pod);
                }
            }
            ("pods", None) => self.remove_pod(namespace, name),
            ("persistentvolumes", o) => self
                .0
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .set_volume(name, o),
            ("volumeattachments" | "resourceslices", o) => {
                let kind = if resource == "volumeattachments" {
                    Kind::VolumeAttachment
                } else {
                    Kind::ResourceSlice
                };
                let key = (kind, String::new(), name.to_owned());
                let node = o
                    .map(|o| at(o, "/spec/nodeName"))
                    .unwrap_or_default()
                    .to_owned();
                self.0
                    .write()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remember(key.clone(), &node, vec![key]);
            }
            _ => {}
        }
    }

    fn related(&self, node: &str, kind: Kind, a: &Attributes) -> bool {
        let key = (kind, a.namespace.clone(), a.name.clone());
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .related(node, &key)
    }
}

/// The authorizer over a graph.
pub struct NodeAuthorizer {
    graph: Arc<NodeGraph>,
    rules: Vec<Rule>,
}

fn rule(verbs: &[&str], groups: &[&str], resources: &[&str]) -> Rule {
    let s = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
    Rule {
        verbs: s(verbs),
        api_groups: s(groups),
        resources: s(resources),
        ..Rule::default()
    }
}

/// What every node may do, whatever runs on it. Resources that [`NodeAuthorizer`] divides further are not listed.
fn node_rules() -> Vec<Rule> {
    const READ: &[&str] = &["get", "list", "watch"];
    vec![
        rule(&["create"], &["authentication.k8s.io"], &["tokenreviews"]),
        rule(
            &["create"],
            &["authorization.k8s.io"],
            &["subjectaccessreviews", "localsubjectaccessreviews"],
        ),
        rule(READ, &[""], &["services"]),
        rule(
            &["create", "update", "patch"],
            &["", "events.k8s.io"],
            &["events"],
        ),
        rule(&["get"], &[""], &["endpoints"]),
        rule(
            &["create", "get", "list", "watch"],
            &["certificates.k8s.io"],
            &["certificatesigningrequests"],
        ),
        rule(READ, &["storage.k8s.io"], &["csidrivers"]),
        rule(READ, &["node.k8s.io"], &["runtimeclasses"]),
        rule(READ, &["certificates.k8s.io"], &["clustertrustbundles"]),
    ]
}

type Answer = Result<bool, String>;

fn selects(a: &Attributes, field: &str, node: &str) -> bool {
    a.fields
        .known
        .terms
        .iter()
        .any(|t| t.field == field && !t.not && t.value == node)
}

impl NodeAuthorizer {
    /// Over a graph that somebody keeps current.
    pub fn new(graph: Arc<NodeGraph>) -> NodeAuthorizer {
        NodeAuthorizer {
            graph,
            rules: node_rules(),
        }
    }

    fn linked(&self, node: &str, kind: Kind, a: &Attributes) -> Answer {
        if a.name.is_empty() {
            return Err("No Object name found".to_owned());
        }
        if self.graph.related(node, kind, a) {
            return Ok(true);
        }
        Err(format!(
            "no relationship found between node '{node}' and this object"
        ))
    }

    fn read_namespaced(&self, node: &str, kind: Kind, a: &Attributes) -> Answer {
        if !["get", "list", "watch"].contains(&a.verb.as_str()) {
            return Err("can only read resources of this type".to_owned());
        }
        if !a.subresource.is_empty() {
            return Err("cannot read subresource".to_owned());
        }
        if a.namespace.is_empty() {
            return Err("can only read namespaced object of this type".to_owned());
        }
        self.linked(node, kind, a)
    }

    fn get(&self, node: &str, kind: Kind, a: &Attributes) -> Answer {
        if a.verb != "get" {
            return Err("can only get individual resources of this type".to_owned());
        }
        if !a.subresource.is_empty() {
            return Err("cannot get subresource".to_owned());
        }
        self.linked(node, kind, a)
    }

    fn decide(&self, node: &str, a: &Attributes) -> Answer {
        if !a.is_resource {
            return Ok(self.rules.iter().any(|r| rules::allows(r, a)));
        }
        match (a.group.as_str(), a.resource.as_str()) {
            ("", "secrets") => self.read_namespaced(node, Kind::Secret, a),
            ("", "configmaps") => self.read_namespaced(node, Kind::ConfigMap, a),
            ("", "persistentvolumeclaims") if a.subresource == "status" => match a.verb.as_str() {
                "update" | "patch" => self.linked(node, Kind::Pvc, a),
                _ => Err("can only get/update/patch this type".to_owned()),
            },
            ("", "persistentvolumeclaims") => self.get(node, Kind::Pvc, a),
            ("", "persistentvolumes") => self.get(node, Kind::Pv, a),
            ("resource.k8s.io", "resourceclaims") => self.get(node, Kind::Claim, a),
            ("storage.k8s.io", "volumeattachments") => self.get(node, Kind::VolumeAttachment, a),
            ("", "serviceaccounts") => {
                if a.verb == "get" && a.subresource.is_empty() {
                    return self.read_namespaced(node, Kind::ServiceAccount, a);
                }
                if a.verb != "create" || a.name.is_empty() {
                    return Err("can only create tokens for individual service accounts".to_owned());
                }
                if a.subresource != "token" {
                    return Err("can only create token subresource of serviceaccount".to_owned());
                }
                self.linked(node, Kind::ServiceAccount, a)
            }
            ("coordination.k8s.io", "leases") => {
                if !["get", "create", "update", "patch", "delete"].contains(&a.verb.as_str()) {
                    return Err(
                        "can only get, create, update, patch, or delete a node lease".to_owned(),
                    );
                }
                if a.namespace != "kube-node-lease" {
                    return Err(
                        "can only access leases in the \"kube-node-lease\" system namespace"
                            .to_owned(),
                    );
                }
                if a.verb != "create" && a.name != node {
                    return Err(
                        "can only access node lease with the same name as the requesting node"
                            .to_owned(),
                    );
                }
                Ok(true)
            }
            ("storage.k8s.io", "csinodes") => {
                if !["get", "create", "update", "patch", "delete"].contains(&a.verb.as_str()) {
                    return Err(
                        "can only get, create, update, patch, or delete a CSINode".to_owned()
                    );
                }
                if !a.subresource.is_empty() {
                    return Err("cannot authorize CSINode subresources".to_owned());
                }
                if a.verb != "create" && a.name != node {
                    return Err(
                        "can only access CSINode with the same name as the requesting node"
                            .to_owned(),
                    );
                }
                Ok(true)
            }
            ("resource.k8s.io", "resourceslices") => {
                if !a.subresource.is_empty() {
                    return Err("cannot authorize ResourceSlice subresources".to_owned());
                }
                match a.verb.as_str() {
                    "create" => Ok(true),
                    "get" | "update" | "patch" | "delete" => self.linked(node, Kind::ResourceSlice, a),
                    "watch" | "list" | "deletecollection" if selects(a, "spec.nodeName", node) => Ok(true),
                    "watch" | "list" | "deletecollection" => Err(
                        "can only list/watch/deletecollection resourceslices with nodeName field selector".to_owned(),
                    ),
                    _ => Err("only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection".to_owned()),
                }
            }
            ("", "nodes") => match (a.subresource.as_str(), a.verb.as_str()) {
                ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(true),
                ("", "get" | "list" | "watch") if a.name == node => Ok(true),
                ("", "get" | "list" | "watch") if a.name.is_empty() => Err(format!(
                    "node '{node}' cannot read all nodes, only its own Node object"
                )),
                ("", "get" | "list" | "watch") => Err(format!(
                    "node '{node}' cannot read '{}', only its own Node object",
                    a.name
                )),
                _ => Ok(false),
            },
            ("", "pods") => match (a.subresource.as_str(), a.verb.as_str()) {
                ("", "get") => self.get(node, Kind::Pod, a),
                ("", "list" | "watch") if selects(a, "spec.nodeName", node) => Ok(true),
                ("", "list" | "watch") if !a.name.is_empty() => self.linked(node, Kind::Pod, a),
                ("", "list" | "watch") => {
                    Err("can only list/watch pods with spec.nodeName field selector".to_owned())
                }
                ("", "create" | "delete")
                | ("status", "update" | "patch")
                | ("eviction", "create") => Ok(true),
                _ => Ok(false),
            },
            ("certificates.k8s.io", "podcertificaterequests") => Ok(false),
            _ => Ok(self.rules.iter().any(|r| rules::allows(r, a))),
        }
    }
}

#[async_trait]
impl Authorizer for NodeAuthorizer {
    async fn authorize(&self, a: &Attributes) -> (Decision, String) {
        let Some(node) = node_identity(&a.user) else {
            return (Decision::NoOpinion, String::new());
        };
        if node.is_empty() {
            return (
                Decision::NoOpinion,
                format!("unknown node for user {:?}", a.user.name),
            );
        }
        match self.decide(node, a) {
            Ok(true) => (Decision::Allow, String::new()),
            Ok(false) => (Decision::NoOpinion, String::new()),
            Err(why) => (Decision::NoOpinion, why),
        }
    }

    async fn rules_for(&self, user: &UserInfo, _: &str) -> (Vec<Rule>, Option<String>) {
        let error = node_identity(user)
            .map(|_| "node authorizer does not support user rule resolution".to_owned());
        (Vec::new(), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Selected;
    use serde_json::json;

    fn ask(node: &str, verb: &str, resource: &str, namespace: &str, name: &str) -> Attributes {
        Attributes {
            user: UserInfo {
                name: format!("system:node:{node}"),
                groups: vec!["system:nodes".into()],
                ..UserInfo::default()
            },
            verb: verb.into(),
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
            is_resource: true,
            ..Attributes::default()
        }
    }

    fn authorizer() -> (Arc<NodeGraph>, NodeAuthorizer) {
        let g = NodeGraph::new();
        g.changed("pods", "ns", "p", Some(&json!({
            "metadata": {"name": "p", "namespace": "ns"},
            "spec": {"nodeName": "n1", "serviceAccountName": "sa",
                "imagePullSecrets": [{"name": "pull"}],
                "containers": [{"name": "c", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "env", "key": "k"}}}]}],
                "initContainers": [{"name": "i", "envFrom": [{"configMapRef": {"name": "init"}}]}],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}},
                    {"name": "w", "projected": {"sources": [{"secret": {"name": "proj"}}, {"configMap": {"name": "kube-root-ca.crt"}}]}}]}
        })));
        g.changed("persistentvolumes", "", "pv", Some(&json!({"spec": {"claimRef": {"namespace": "ns", "name": "data"}, "csi": {"nodeStageSecretRef": {"namespace": "sys", "name": "stage"}}}})));
        (Arc::clone(&g), NodeAuthorizer::new(g))
    }

    #[tokio::test]
    async fn what_every_node_may_do() {
        let (_, z) = authorizer();
        let ask = |verb: &str, group: &str, resource: &str| Attributes {
            group: group.into(),
            ..ask("n2", verb, resource, "any", "")
        };
        for (verb, group, resource, may) in [
            ("create", "authentication.k8s.io", "tokenreviews", true),
            ("get", "authentication.k8s.io", "tokenreviews", false),
            ("create", "", "tokenreviews", false),
            (
                "create",
                "authorization.k8s.io",
                "subjectaccessreviews",
                true,
            ),
            (
                "create",
                "authorization.k8s.io",
                "selfsubjectrulesreviews",
                false,
            ),
            ("list", "", "services", true),
            ("create", "", "services", false),
            ("patch", "events.k8s.io", "events", true),
            ("create", "", "events", true),
            ("delete", "", "events", false),
            ("get", "", "endpoints", true),
            ("list", "", "endpoints", false),
            (
                "create",
                "certificates.k8s.io",
                "certificatesigningrequests",
                true,
            ),
            (
                "update",
                "certificates.k8s.io",
                "certificatesigningrequests",
                false,
            ),
            ("watch", "storage.k8s.io", "csidrivers", true),
            ("watch", "node.k8s.io", "runtimeclasses", true),
            ("watch", "apps", "deployments", false),
        ] {
            let decision = z.authorize(&ask(verb, group, resource)).await.0;
            let want = if may {
                Decision::Allow
            } else {
                Decision::NoOpinion
            };
            assert_eq!(decision, want, "{verb} {group}/{resource}");
        }
    }

    #[tokio::test]
    async fn the_status_of_a_claim_is_for_the_node_that_uses_it() {
        let (_, z) = authorizer();
        for (node, verb, name, may) in [
            ("n1", "update", "data", true),
            ("n1", "patch", "data", true),
            ("n2", "update", "data", false),
            ("n1", "update", "other", false),
            ("n1", "get", "data", false),
            ("n1", "delete", "data", false),
        ] {
            let ask = Attributes {
                subresource: "status".into(),
                ..ask(node, verb, "persistentvolumeclaims", "ns", name)
            };
            let (decision, why) = z.authorize(&ask).await;
            let want = if may {
                Decision::Allow
            } else {
                Decision::NoOpinion
            };
            assert_eq!(decision, want, "{node} {verb} {name}: {why}");
        }
    }

    #[tokio::test]
    async fn a_node_reads_what_its_pods_need() {
        let (g, z) = authorizer();
        let yes = [
            ("secrets", "ns", "pull"),
            ("secrets", "ns", "env"),
            ("secrets", "ns", "proj"),
            ("configmaps", "ns", "init"),
            ("configmaps", "ns", "kube-root-ca.crt"),
            ("persistentvolumeclaims", "ns", "data"),
            ("persistentvolumes", "", "pv"),
            ("secrets", "sys", "stage"),
            ("pods", "ns", "p"),
            ("nodes", "", "n1"),
            ("serviceaccounts", "ns", "sa"),
        ];
        for (r, ns, n) in yes {
            assert_eq!(
                z.authorize(&ask("n1", "get", r, ns, n)).await.0,
                Decision::Allow,
                "{r} {n}"
            );
            let (d, why) = z.authorize(&ask("n2", "get", r, ns, n)).await;
            assert_eq!(d, Decision::NoOpinion, "{r} {n}");
            assert!(
                why.contains("no relationship found between node 'n2' and this object")
                    || r == "nodes",
                "{why}"
            );
        }
        assert_eq!(
            z.authorize(&ask("n1", "get", "secrets", "other", "pull"))
                .await
                .0,
            Decision::NoOpinion
        );
        assert_eq!(
            z.authorize(&ask("n1", "list", "secrets", "ns", "")).await.1,
            "No Object name found"
        );
        assert_eq!(
            z.authorize(&ask("n1", "update", "secrets", "ns", "pull"))
                .await
                .0,
            Decision::NoOpinion
        );
        let token = Attributes {
            subresource: "token".into(),
            ..ask("n1", "create", "serviceaccounts", "ns", "sa")
        };
        assert_eq!(z.authorize(&token).await.0, Decision::Allow);
        let lists = Attributes {
            fields: Selected::fields("spec.nodeName=n1"),
            ..ask("n1", "list", "pods", "", "")
        };
        assert_eq!(z.authorize(&lists).await.0, Decision::Allow);
        assert_eq!(
            z.authorize(&ask("n1", "list", "pods", "", "")).await.0,
            Decision::NoOpinion
        );
        g.remove_pod("ns", "p");
        assert_eq!(
            z.authorize(&ask("n1", "get", "secrets", "ns", "pull"))
                .await
                .0,
            Decision::NoOpinion
        );
    }

    /// Selectors are read as lists are: by the same parser.
    #[tokio::test]
    async fn a_selector_opens_what_it_selects_and_no_more() {
        let (_, z) = authorizer();
        for (selector, want) in [
            ("spec.nodeName=n1", Decision::Allow),
            ("spec.nodeName==n1", Decision::Allow),
            ("status.phase!=Failed,spec.nodeName=n1", Decision::Allow),
            ("spec.nodeName!=n1", Decision::NoOpinion),
            ("spec.nodeName=n2", Decision::NoOpinion),
            ("spec.nodeName=n1\\,x", Decision::NoOpinion),
            ("spec.nodeName=\\,spec.nodeName=n1", Decision::NoOpinion),
            ("a=b\\,spec.nodeName=n1", Decision::NoOpinion),
            ("spec.nodeName= n1", Decision::NoOpinion),
            (" spec.nodeName=n1", Decision::NoOpinion),
            ("spec.nodeName=n1=", Decision::NoOpinion),
            ("spec.nodeName=n1,oops", Decision::NoOpinion),
            ("", Decision::NoOpinion),
        ] {
            let list = Attributes {
                fields: Selected::fields(selector),
                ..ask("n1", "list", "pods", "", "")
            };
            assert_eq!(z.authorize(&list).await.0, want, "{selector}");
        }
    }

    #[tokio::test]
    async fn a_mirror_pod_opens_nothing() {
        let g = NodeGraph::new();
        g.changed("pods", "ns", "m", Some(&json!({"metadata": {"name": "m", "namespace": "ns", "annotations": {"kubernetes.io/config.mirror": "x"}}, "spec": {"nodeName": "n1", "imagePullSecrets": [{"name": "stolen"}]}})));
        let z = NodeAuthorizer::new(g);
        assert_eq!(
            z.authorize(&ask("n1", "get", "secrets", "ns", "stolen"))
                .await
                .0,
            Decision::NoOpinion
        );
        assert_eq!(
            z.authorize(&ask("n1", "get", "pods", "ns", "m")).await.0,
            Decision::Allow
        );
    }

    #[tokio::test]
    async fn who_is_a_node() {
        let (_, z) = authorizer();
        let mut a = ask("n1", "get", "secrets", "ns", "pull");
        a.user.groups.clear();
        assert_eq!(z.authorize(&a).await, (Decision::NoOpinion, String::new()));
        let lease = |verb: &str, name: &str, ns: &str| Attributes {
            group: "coordination.k8s.io".into(),
            ..ask("n1", verb, "leases", ns, name)
        };
        assert_eq!(
            z.authorize(&lease("update", "n1", "kube-node-lease"))
                .await
                .0,
            Decision::Allow
        );
        assert_eq!(
            z.authorize(&lease("update", "n2", "kube-node-lease"))
                .await
                .1,
            "can only access node lease with the same name as the requesting node"
        );
        assert_eq!(
            z.authorize(&lease("list", "n1", "kube-node-lease")).await.0,
            Decision::NoOpinion
        );
    }
}
