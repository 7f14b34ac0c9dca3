//! root-ca-certificate-publisher-controller: every namespace has the ConfigMap `kube-root-ca.crt` with the authority that
//! signs the apiserver's certificate. Idle without `--root-ca-file`.

use client::resource::{CONFIG_MAPS, NAMESPACES};
use client::{Change, ObjectKey, Selector};
use serde_json::json;

use crate::Context;
use crate::views::{ConfigMap, Namespace};

const NAME: &str = "kube-root-ca.crt";
const KEY: &str = "ca.crt";
const NOTE: &str = "kubernetes.io/description";
const NOTE_TEXT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
     endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across \
     distributions of Kubernetes clusters.";

fn is_right(cm: &ConfigMap, ca: &str) -> bool {
    cm.data.len() == 1
        && cm.data.get(KEY).is_some_and(|v| v == ca)
        && cm
            .metadata
            .annotations
            .get(NOTE)
            .is_some_and(|n| !n.is_empty())
}

/// Starts the controller.
pub fn start(ctx: Context) {
    if ctx.config.root_ca.is_empty() {
        return;
    }
    let namespaces = ctx.informer::<Namespace>(&NAMESPACES);
    let maps = ctx.informers.get::<ConfigMap>(
        &CONFIG_MAPS,
        Selector::fields(format!("metadata.name={NAME}")),
    );
    let queue = ctx.queue("root_ca_cert_publisher");
    let q = queue.clone();
    namespaces.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            q.add(ObjectKey::of(&**change.object()));
        }
    });
    let q = queue.clone();
    maps.on_change(move |change| {
        q.add(ObjectKey::new(
            "",
            change.object().metadata.namespace.as_str(),
        ))
    });
    let (namespaces, maps, client, config) = (
        namespaces.store(),
        maps.store(),
        ctx.client.clone(),
        ctx.config.clone(),
    );
    ctx.run(queue, 1, move |key| {
        let (namespaces, maps, client, config) = (
            namespaces.clone(),
            maps.clone(),
            client.clone(),
            config.clone(),
        );
        async move {
            if namespaces
                .get_key(&key)
                .is_none_or(|n| n.status.phase == "Terminating")
            {
                return Ok(None);
            }
            let have = maps.get(&key.name, NAME);
            if have
                .as_ref()
                .is_some_and(|cm| is_right(cm, &config.root_ca))
            {
                return Ok(None);
            }
            let mut body = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": NAME, "namespace": key.name, "annotations": {NOTE: NOTE_TEXT}},
                "data": {KEY: config.root_ca},
            });
            let api = client.namespaced(&CONFIG_MAPS, &key.name);
            let written = match &have {
                None => api.create::<serde::de::IgnoredAny, _>(&body).await,
                Some(cm) => {
                    if let Some(m) = body.get_mut("metadata").and_then(|m| m.as_object_mut()) {
                        let mut annotations = cm.metadata.annotations.clone();
                        annotations.insert(NOTE.into(), NOTE_TEXT.into());
                        m.insert("annotations".into(), json!(annotations));
                        m.insert("labels".into(), json!(cm.metadata.labels));
                    }
                    api.update(NAME, &body).await
                }
            };
            match written {
                Ok(_) => Ok(None),
                Err(e)
                    if e.is_already_exists()
                        || e.is_namespace_terminating()
                        || e.is_not_found() =>
                {
                    Ok(None)
                }
                Err(e) => Err(e),
            }
        }
    });
}
