//! ServiceAccount: every pod has one, with its token, its authority's certificate and its namespace mounted.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use async_trait::async_trait;
use rand::Rng;
use serde_json::{Value, json};

use crate::json::{array, at, containers, forbidden, is_mirror, list, object};
use crate::{Attributes, Operation, Plugin};

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME: &str = "kube-api-access-";
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// See the module.
pub struct ServiceAccount;

fn suffix() -> String {
    let mut rng = rand::rng();
    (0..5)
        .filter_map(|_| {
            LETTERS
                .get(rng.random_range(0..LETTERS.len()))
                .map(|b| char::from(*b))
        })
        .collect()
}

async fn account(a: &Attributes<'_>, name: &str, pod: &Value) -> Result<Arc<Value>, Status> {
    // The default account of a new namespace is made by a controller a moment later.
    let attempts = if name == "default" { 10 } else { 1 };
    for n in 0..attempts {
        if n > 0 {
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        if let Some(sa) = a
            .reader
            .get("", "serviceaccounts", a.namespace, name)
            .await?
        {
            return Ok(sa);
        }
    }
    let why = format!(
        "error looking up service account {}/{name}: serviceaccount {name:?} not found",
        a.namespace
    );
    Err(forbidden(a, Some(pod), &why))
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {
        "defaultMode": 0o644,
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ],
    }})
}

fn mount(pod: &mut Value) {
    let existing = list(pod, "/spec/volumes")
        .iter()
        .map(|v| at(v, "/name"))
        .find(|n| n.starts_with(VOLUME))
        .map(str::to_owned);
    let has_volume = existing.is_some();
    let name = existing.unwrap_or_else(|| format!("{VOLUME}{}", suffix()));
    let Some(spec) = object(pod, &["spec"]) else {
        return;
    };
    let mut needed = false;
    for key in ["initContainers", "containers"] {
        for c in spec
            .get_mut(key)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if list(c, "/volumeMounts")
                .iter()
                .any(|m| at(m, "/mountPath") == MOUNT_PATH)
            {
                continue;
            }
            if let Some(mounts) = c.as_object_mut().and_then(|c| array(c, "volumeMounts")) {
                mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
                needed = true;
            }
        }
    }
    if needed
        && !has_volume
        && let Some(volumes) = array(spec, "volumes")
    {
        volumes.push(token_volume(&name));
    }
}

/// Every secret name a pod refers to, in volumes, environments and pulls.
pub(super) fn refers_to_secrets(pod: &Value) -> bool {
    let named = |v: &Value, keys: &[&str]| keys.iter().any(|k| !at(v, k).is_empty());
    list(pod, "/spec/imagePullSecrets")
        .iter()
        .any(|s| named(s, &["/name"]))
        || containers(pod).any(|(_, c)| {
            list(c, "/env").iter().any(|e| {
                e.pointer("/valueFrom/secretKeyRef")
                    .is_some_and(|r| !r.is_null())
            }) || list(c, "/envFrom")
                .iter()
                .any(|e| e.get("secretRef").is_some_and(|r| !r.is_null()))
        })
        || list(pod, "/spec/volumes").iter().any(|v| {
            v.get("secret").is_some_and(|s| !s.is_null())
                || named(
                    v,
                    &["/azureFile/secretName", "/csi/nodePublishSecretRef/name"],
                )
                || [
                    "cephfs",
                    "flexVolume",
                    "iscsi",
                    "rbd",
                    "scaleIO",
                    "storageos",
                ]
                .iter()
                .any(|k| !at(v, &format!("/{k}/secretRef/name")).is_empty())
                || list(v, "/projected/sources")
                    .iter()
                    .any(|s| s.get("secret").is_some_and(|s| !s.is_null()))
        })
}

/// The account's list of secrets binds its pods where it says so; all kinds of containers, env and envFrom alike
/// (CVE-2023-2728, CVE-2024-3177).
fn mountable(sa: &Value, pod: &Value, ephemeral_only: bool) -> Result<(), String> {
    if !matches!(
        at(
            sa,
            "/metadata/annotations/kubernetes.io~1enforce-mountable-secrets"
        ),
        "1" | "t" | "T" | "true" | "TRUE" | "True"
    ) {
        return Ok(());
    }
    let account = at(sa, "/metadata/name");
    let names =
        |pointer| -> HashSet<&str> { list(sa, pointer).iter().map(|s| at(s, "/name")).collect() };
    let (secrets, pull_secrets) = (names("/secrets"), names("/imagePullSecrets"));
    let allowed = |name: &str| secrets.contains(name);
    let tail = format!("is not allowed because service account {account} does not reference that");
    if !ephemeral_only {
        for v in list(pod, "/spec/volumes") {
            let direct = v
                .pointer("/secret")
                .filter(|s| !s.is_null())
                .map(|_| at(v, "/secret/secretName"));
            let projected = list(v, "/projected/sources")
                .iter()
                .filter(|s| s.get("secret").is_some())
                .map(|s| at(s, "/secret/name"));
            for name in direct.into_iter().chain(projected) {
                if !allowed(name) {
                    return Err(format!(
                        "volume with secret.secretName=\"{name}\" {tail} secret"
                    ));
                }
            }
        }
    }
    for (kind, c) in containers(pod) {
        if ephemeral_only != (kind == "ephemeral container") {
            continue;
        }
        let who = format!("{kind} {}", at(c, "/name"));
        for e in list(c, "/env") {
            let Some(r) = e
                .pointer("/valueFrom/secretKeyRef")
                .filter(|r| !r.is_null())
            else {
                continue;
            };
            let name = at(r, "/name");
            if !allowed(name) {
                let var = at(e, "/name");
                return Err(format!(
                    "{who} with envVar {var} referencing secret.secretName=\"{name}\" {tail} secret"
                ));
            }
        }
        for e in list(c, "/envFrom") {
            let Some(r) = e.get("secretRef").filter(|r| !r.is_null()) else {
                continue;
            };
            let name = at(r, "/name");
            if !allowed(name) {
                return Err(format!(
                    "{who} with envFrom referencing secret.secretName=\"{name}\" {tail} secret"
                ));
            }
        }
    }
    if !ephemeral_only {
        for (i, s) in list(pod, "/spec/imagePullSecrets").iter().enumerate() {
            let name = at(s, "/name");
            if !pull_secrets.contains(name) {
                return Err(format!(
                    "imagePullSecrets[{i}].name=\"{name}\" {tail} imagePullSecret"
                ));
            }
        }
    }
    Ok(())
}

fn check_mirror(pod: &Value) -> Result<(), &'static str> {
    if !at(pod, "/spec/serviceAccountName").is_empty()
        || !at(pod, "/spec/serviceAccount").is_empty()
    {
        return Err("a mirror pod may not reference service accounts");
    }
    if refers_to_secrets(pod) {
        return Err("a mirror pod may not reference secrets");
    }
    let projects = |v: &Value| {
        list(v, "/projected/sources")
            .iter()
            .any(|s| s.get("serviceAccountToken").is_some())
    };
    if list(pod, "/spec/volumes").iter().any(projects) {
        return Err("a mirror pod may not use ServiceAccountToken volume projections");
    }
    Ok(())
}

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        let what = (a.operation, a.subresource);
        a.group.is_empty()
            && a.resource == "pods"
            && (what == (Operation::Create, "")
                || what == (Operation::Update, "ephemeralcontainers"))
    }

    async fn admit(
        &self,
        a: &Attributes<'_>,
        pod: Option<&mut Value>,
        _: Option<&Value>,
    ) -> Result<(), Status> {
        let Some(pod) = pod else { return Ok(()) };
        if a.operation != Operation::Create {
            return Ok(());
        }
        if is_mirror(pod) {
            return check_mirror(pod).map_err(|why| forbidden(a, Some(pod), why));
        }
        let mut name = at(pod, "/spec/serviceAccountName");
        if name.is_empty() {
            name = at(pod, "/spec/serviceAccount");
        }
        let name = if name.is_empty() {
            "default".to_owned()
        } else {
            name.to_owned()
        };
        let sa = account(a, &name, pod).await?;
        let automount = |v: &Value, p: &str| v.pointer(p).and_then(Value::as_bool);
        let wants = automount(pod, "/spec/automountServiceAccountToken")
            .or_else(|| automount(&sa, "/automountServiceAccountToken"))
            .unwrap_or(true);
        if let Some(spec) = object(pod, &["spec"]) {
            spec.insert("serviceAccountName".into(), name.clone().into());
            // The old name of the same field, kept for old readers.
            spec.insert("serviceAccount".into(), name.into());
        }
        if wants {
            mount(pod);
        }
        let pulls = list(&sa, "/imagePullSecrets");
        if list(pod, "/spec/imagePullSecrets").is_empty() && !pulls.is_empty() {
            let names = pulls
                .iter()
                .map(|p| json!({"name": at(p, "/name")}))
                .collect();
            if let Some(spec) = object(pod, &["spec"]) {
                spec.insert("imagePullSecrets".into(), Value::Array(names));
            }
        }
        Ok(())
    }

    async fn validate(
        &self,
        a: &Attributes<'_>,
        pod: Option<&Value>,
        _: Option<&Value>,
    ) -> Result<(), Status> {
        let Some(pod) = pod else { return Ok(()) };
        let creates = a.operation == Operation::Create;
        if creates && is_mirror(pod) {
            return check_mirror(pod).map_err(|why| forbidden(a, Some(pod), why));
        }
        let name = at(pod, "/spec/serviceAccountName");
        if name.is_empty() {
            let why = format!(
                "no service account specified for pod {}/{}",
                a.namespace,
                at(pod, "/metadata/name")
            );
            return Err(forbidden(a, Some(pod), &why));
        }
        let sa = account(a, name, pod).await?;
        mountable(&sa, pod, !creates).map_err(|why| forbidden(a, Some(pod), &why))
    }
}
