//! Mirror pods: the apiserver's copies of static pods, made anew when they are deleted, changed when the manifest does.
//!
//! They are kept beside the workers' pods, never before them: an apiserver that hangs holds up mirrors only.

use std::sync::Arc;
use std::time::Duration;

use client::DeleteOptions;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::pod::{HASH_ANNOTATION, MIRROR_ANNOTATION, Pod};
use crate::shared::Shared;

use super::file::StaticPod;

/// Wait after a reconcile that failed.
const RETRY: Duration = Duration::from_secs(3);

/// The static pods, and the mirrors that the apiserver has; `None` until both are known.
pub type Known = Option<(Vec<StaticPod>, Vec<Arc<Pod>>)>;

/// Keeps the mirrors.
pub struct Mirrors {
    shared: Arc<Shared>,
}

impl Mirrors {
    /// For this node.
    pub fn new(shared: Arc<Shared>) -> Mirrors {
        Mirrors { shared }
    }

    /// Brings the mirrors in line with what is known last, until nothing more will be.
    pub async fn run(&self, mut known: watch::Receiver<Known>) {
        loop {
            let now = known.borrow_and_update().clone();
            let fine = match now {
                Some((pods, mirrors)) => self.reconcile(&pods, &mirrors).await,
                None => true,
            };
            let again = async {
                if fine {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(RETRY).await;
            };
            tokio::select! {
                r = known.changed() => if r.is_err() { return },
                () = again => {}
            }
        }
    }

    /// Brings the mirrors in line with the static pods; gives whether all went well.
    async fn reconcile(&self, pods: &[StaticPod], mirrors: &[Arc<Pod>]) -> bool {
        let Some(client) = &self.shared.client else {
            return true;
        };
        let mut failed = false;
        let same = |a: &Pod, b: &Pod| {
            a.metadata.name == b.metadata.name && a.metadata.namespace == b.metadata.namespace
        };
        for m in mirrors {
            let of = pods.iter().find(|p| same(&p.pod, m));
            let hash = m.metadata.annotations.get(MIRROR_ANNOTATION);
            let current =
                of.is_some_and(|p| p.pod.metadata.annotations.get(HASH_ANNOTATION) == hash);
            if current && m.metadata.deletion_timestamp.is_none() {
                if let Some(p) = of {
                    self.shared.status.observe_mirror(&p.pod.metadata.uid, m);
                }
                continue;
            }
            tracing::info!(pod = %m.key(), "deleting a mirror pod");
            let options = DeleteOptions {
                grace_period_seconds: Some(0),
                uid: Some(m.metadata.uid.clone()),
                ..DeleteOptions::default()
            };
            if let Err(e) = client
                .namespaced(&client::resource::PODS, &m.metadata.namespace)
                .delete(&m.metadata.name, &options)
                .await
                && !e.is_not_found()
                && !e.is_conflict()
            {
                tracing::warn!(pod = %m.key(), error = %e, "deleting the mirror pod failed");
                failed = true;
            }
        }
        for p in pods {
            if mirrors.iter().any(|m| same(&p.pod, m)) {
                continue;
            }
            let node = self.shared.node.read().ok().and_then(|n| n.clone());
            let Some(node) = node else {
                failed = true;
                continue;
            };
            let body = mirror(&p.manifest, &node.metadata.name, &node.metadata.uid);
            match client
                .namespaced(&client::resource::PODS, &p.pod.metadata.namespace)
                .create::<Pod, _>(&body)
                .await
            {
                Ok(m) => {
                    tracing::info!(pod = %p.pod.key(), "created a mirror pod");
                    self.shared.status.observe_mirror(&p.pod.metadata.uid, &m);
                }
                Err(e) if e.is_already_exists() => {}
                Err(e) => {
                    tracing::warn!(pod = %p.pod.key(), error = %e, "creating the mirror pod failed");
                    failed = true;
                }
            }
        }
        !failed
    }
}

/// The mirror of a manifest.
fn mirror(manifest: &Value, node: &str, node_uid: &str) -> Value {
    let mut v = manifest.clone();
    if let Some(meta) = v.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("uid");
        let hash = meta
            .get("annotations")
            .and_then(|a| a.get(HASH_ANNOTATION))
            .cloned()
            .unwrap_or_default();
        if let Some(a) = meta.get_mut("annotations").and_then(Value::as_object_mut) {
            a.insert(MIRROR_ANNOTATION.into(), hash);
        }
        meta.insert(
            "ownerReferences".into(),
            json!([{"apiVersion": "v1", "kind": "Node", "name": node, "uid": node_uid, "controller": true}]),
        );
    }
    v
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_names_its_hash_and_its_node() {
        let m = mirror(
            &json!({"metadata": {"name": "a", "uid": "u", "annotations": {"kubernetes.io/config.hash": "h"}}}),
            "n",
            "nu",
        );
        assert_eq!(
            m.pointer("/metadata/annotations/kubernetes.io~1config.mirror"),
            Some(&json!("h"))
        );
        assert_eq!(m.pointer("/metadata/uid"), None);
        assert_eq!(
            m.pointer("/metadata/ownerReferences/0/uid"),
            Some(&json!("nu"))
        );
    }
}
