//! Component statuses: what the scheduler, the controller manager and the store answer when they are asked how they are.
//! Deprecated; made when read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use apiserver::resource::{Computed, Strategy};
use async_trait::async_trait;
use serde_json::{Value, json};
use storage::SharedStore;

use crate::builtin::{Config, Parts};

/// How long a component may take to answer.
const LIMIT: Duration = Duration::from_secs(20);
/// Components with a port, on this machine, as upstream assumes.
const SERVERS: [(&str, u16); 2] = [("controller-manager", 10257), ("scheduler", 10259)];
const STORE: &str = "etcd-0";

struct ComponentStatus;

impl Strategy for ComponentStatus {
    fn deprecated(&self) -> Option<&'static str> {
        Some("v1 ComponentStatus is deprecated in v1.19+")
    }
}

struct Components {
    store: SharedStore,
    servers: Vec<(&'static str, SocketAddr)>,
}

fn object(name: &str, healthy: bool, message: &str, error: &str) -> Value {
    let mut condition =
        json!({"type": "Healthy", "status": if healthy { "True" } else { "False" }});
    for (key, text) in [("message", message), ("error", error)] {
        if let Some(c) = condition.as_object_mut().filter(|_| !text.is_empty()) {
            c.insert(key.into(), text.into());
        }
    }
    json!({"metadata": {"name": name}, "conditions": [condition]})
}

async fn server(name: &str, at: SocketAddr) -> Value {
    match component::probe::get(at, "/healthz", LIMIT).await {
        Ok((200..400, body)) => object(name, true, &body, ""),
        Ok((code, _)) => {
            let message = format!("HTTP probe failed with statuscode: {code}");
            object(name, false, &message, "")
        }
        Err(e) => object(name, false, &e, ""),
    }
}

impl Components {
    async fn store(&self) -> Value {
        // Any answer will do, that of a key that is not there too.
        let asked = tokio::time::timeout(LIMIT, self.store.get(b"/registry/health", 0));
        match asked.await {
            Ok(Ok(_)) => object(STORE, true, "ok", ""),
            Ok(Err(e)) => object(STORE, false, "", &e.to_string()),
            Err(_) => object(STORE, false, "", "context deadline exceeded"),
        }
    }
}

#[async_trait]
impl Computed for Components {
    async fn get(&self, name: &str) -> Option<Value> {
        if name == STORE {
            return Some(self.store().await);
        }
        let (name, at) = self.servers.iter().find(|(n, _)| *n == name)?;
        Some(server(name, *at).await)
    }

    async fn list(&self) -> Vec<Value> {
        let servers = self.servers.iter().map(|(name, at)| server(name, *at));
        let (mut all, store) =
            futures::future::join(futures::future::join_all(servers), self.store()).await;
        all.push(store);
        all
    }
}

/// Component statuses.
pub fn parts(config: &Config) -> Parts {
    let here = |port| SocketAddr::from(([127, 0, 0, 1], port));
    Parts {
        computed: Some(Arc::new(Components {
            store: config.store.clone(),
            servers: SERVERS.map(|(name, port)| (name, here(port))).to_vec(),
        })),
        ..Parts::new(ComponentStatus)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_component_that_does_not_answer_is_unhealthy() {
        let l = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = l.local_addr().unwrap();
        drop(l);
        let o = server("scheduler", at).await;
        assert_eq!(
            o,
            json!({"metadata": {"name": "scheduler"}, "conditions": [{
                "type": "Healthy", "status": "False",
                "message": format!("Get \"https://{at}/healthz\": dial tcp {at}: connect: connection refused"),
            }]})
        );
    }
}
