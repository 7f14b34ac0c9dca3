//! serviceaccount-controller: every namespace that is not ending has a service account `default`.

use client::resource::{NAMESPACES, SERVICE_ACCOUNTS};
use client::{Change, ObjectKey, Selector};
use serde_json::json;

use crate::Context;
use crate::views::{Namespace, ServiceAccount};

const NAME: &str = "default";

/// Starts the controller.
pub fn start(ctx: Context) {
    let namespaces = ctx.informer::<Namespace>(&NAMESPACES);
    let accounts = ctx.informers.get::<ServiceAccount>(
        &SERVICE_ACCOUNTS,
        Selector::fields(format!("metadata.name={NAME}")),
    );
    let queue = ctx.queue("serviceaccount");
    let q = queue.clone();
    namespaces.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            q.add(ObjectKey::of(&**change.object()));
        }
    });
    let q = queue.clone();
    accounts.on_change(move |change| {
        if let Change::Deleted(account) = change {
            q.add(ObjectKey::new("", account.metadata.namespace.as_str()));
        }
    });
    let (namespaces, accounts, client) = (namespaces.store(), accounts.store(), ctx.client.clone());
    ctx.run(queue, 1, move |key| {
        let (namespaces, accounts, client) = (namespaces.clone(), accounts.clone(), client.clone());
        async move {
            let active = namespaces.get_key(&key).is_some_and(|n| n.status.phase != "Terminating");
            if !active || accounts.get(&key.name, NAME).is_some() {
                return Ok(None);
            }
            let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME, "namespace": key.name}});
            let api = client.namespaced(&SERVICE_ACCOUNTS, &key.name);
            match api.create::<serde::de::IgnoredAny, _>(&account).await {
                Ok(_) => Ok(None),
                Err(e) if e.is_already_exists() || e.is_namespace_terminating() || e.is_not_found() => Ok(None),
                Err(e) => Err(e),
            }
        }
    });
}
