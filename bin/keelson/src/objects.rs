//! The objects that a new cluster needs beyond those the apiserver makes itself.

use crate::cluster::{Cluster, Node};
use crate::rest::Api;
use anyhow::{Context, Result};
use serde_json::{Value, json};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";

fn binding(name: &str, role: &str, subject: &Value) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [subject],
    })
}

/// kubeadm's binding for administrators; the certificate that the apiserver shows to kubelets is of that group too.
pub async fn ensure_rbac(api: &Api) -> Result<()> {
    let group = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "kubeadm:cluster-admins"});
    api.ensure(
        RBAC,
        &binding("kubeadm:cluster-admins", "cluster-admin", &group),
    )
    .await
}

/// Makes a node's object before its kubelet registers it, so that its pods have the addresses that the routes lead to.
/// Returns the addresses it has; other ones, if it was there before with others.
pub async fn ensure_node(api: &Api, cluster: &Cluster, node: &Node) -> Result<String> {
    let mut labels = json!({
        "kubernetes.io/hostname": node.name,
        "kubernetes.io/os": "linux",
    });
    if cluster.is_first(node)
        && let Some(map) = labels.as_object_mut()
    {
        map.insert("node-role.kubernetes.io/control-plane".into(), json!(""));
    }
    let range = cluster.pod_range(node);
    let object = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": labels},
        "spec": {"podCIDR": range, "podCIDRs": [range]},
    });
    api.ensure("/api/v1/nodes", &object).await?;
    let path = format!("/api/v1/nodes/{}", node.name);
    let given = |object: &Value| {
        let range = object.pointer("/spec/podCIDR").and_then(Value::as_str);
        range.filter(|r| !r.is_empty()).map(str::to_string)
    };
    if let Some(has) = given(&api.get(&path).await?.ok()?) {
        return Ok(has);
    }
    // A kubelet was faster (those of static pods start before the apiserver).
    let patch = json!({"spec": {"podCIDR": range, "podCIDRs": [range]}});
    let answer = api.patch(&path, &patch).await?;
    if answer.status != 200 {
        // So was a controller.
        return given(&api.get(&path).await?.ok()?)
            .with_context(|| format!("{} has no range of pod addresses", node.name));
    }
    Ok(range)
}

/// Whether a node's Ready condition is true.
pub fn is_ready(node: &Value) -> bool {
    let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| {
        c.get("type").and_then(Value::as_str) == Some("Ready")
            && c.get("status").and_then(Value::as_str) == Some("True")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_true_ready_condition_counts() {
        let node = |kind: &str, status: &str| json!({"status": {"conditions": [{"type": kind, "status": status}]}});
        assert!(is_ready(&node("Ready", "True")));
        assert!(!is_ready(&node("Ready", "Unknown")));
        assert!(!is_ready(&node("DiskPressure", "True")));
        assert!(!is_ready(&json!({})));
    }
}
