//! When the daemon says that it is well and ready, over its own port.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test"
)]

mod suite;

use std::net::SocketAddr;
use std::time::Duration;

use component::Shutdown;
use serde_json::json;
use testkit::apiserver::{Answer, Asked};
use testkit::wait_until;
use tokio::sync::watch;

/// An apiserver without objects, but for the lease that is held by this one; lists are held back until they are told.
async fn answer(
    holder: Option<&str>,
    mut lists: watch::Receiver<bool>,
    asked: Asked,
    client: Answer,
) -> std::io::Result<()> {
    let lease = asked.target.contains("/leases/");
    match (asked.method.as_str(), holder) {
        ("GET", _) if asked.target.contains("watch=1") => {
            lists
                .wait_for(|told| *told)
                .await
                .map_err(std::io::Error::other)?;
            client.watch(&[]).await?.stay().await
        }
        ("GET", Some(holder)) if lease => {
            let spec = json!({"holderIdentity": holder, "leaseDurationSeconds": 3600, "leaseTransitions": 0});
            let metadata = json!({"name": "kube-controller-manager", "namespace": "kube-system", "resourceVersion": "1"});
            client
                .send(200, &json!({"metadata": metadata, "spec": spec}))
                .await
        }
        ("GET", _) => client.refuse(404).await,
        _ => client.send(201, &asked.body).await,
    }
}

struct Daemon {
    address: SocketAddr,
    lists: watch::Sender<bool>,
    shutdown: Shutdown,
    /// Paths that were asked of the apiserver.
    asked: watch::Receiver<Vec<String>>,
}

async fn start(holder: Option<&'static str>) -> Daemon {
    let (lists, told) = watch::channel(false);
    let (log, asked) = watch::channel(Vec::new());
    let apiserver = testkit::apiserver::serve(move |asked, client| {
        log.send_modify(|all| all.push(format!("{} {}", asked.method, asked.target)));
        answer(holder, told.clone(), asked, client)
    });
    let config = testkit::apiserver::kubeconfig(apiserver.await);
    let (address, shutdown) = suite::run(config, &["--controllers=replicaset-controller"]);
    Daemon {
        address,
        lists,
        shutdown,
        asked,
    }
}

const LIMIT: Duration = Duration::from_secs(60);

impl Daemon {
    async fn get(&self, path: &str) -> Result<(u16, String), String> {
        component::probe::get(self.address, path, LIMIT).await
    }

    async fn until(&self, path: &str, want: u16) -> String {
        wait_until(path, LIMIT, async || match self.get(path).await {
            Ok((code, body)) if code == want => Ok(body),
            other => Err(format!("{other:?}")),
        })
        .await
    }

    async fn until_asked(&mut self, what: &str) {
        let asked = self
            .asked
            .wait_for(|all| all.iter().any(|a| a.contains(what)));
        let asked = tokio::time::timeout(LIMIT, asked).await;
        asked.expect("asked in time").unwrap();
    }

    async fn end(self) {
        assert!(self.shutdown.drain(LIMIT).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stands_by_is_ready() {
    let mut daemon = start(Some("another")).await;
    assert_eq!(
        daemon.until("/readyz?verbose", 200).await,
        "[+]leaderElection ok\n[+]shutdown ok\n[+]informer-sync ok\nreadyz check passed\n"
    );
    assert_eq!(
        daemon.until("/healthz?verbose", 200).await,
        "[+]leaderElection ok\nhealthz check passed\n"
    );
    assert_eq!(
        daemon.until("/livez?verbose", 200).await,
        "[+]ping ok\nlivez check passed\n"
    );
    daemon.until_asked("GET /apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-controller-manager").await;
    daemon.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leads_is_ready_once_its_caches_are_filled() {
    let mut daemon = start(None).await;
    daemon
        .until_asked("POST /apis/coordination.k8s.io/v1/namespaces/kube-system/leases")
        .await;
    daemon.until_asked("watch=1").await;
    let (code, body) = daemon.get("/readyz").await.unwrap();
    assert_eq!(
        (code, body.as_str()),
        (
            500,
            "[+]leaderElection ok\n[+]shutdown ok\n[-]informer-sync failed: reason withheld\nreadyz check failed\n"
        )
    );
    assert_eq!(daemon.get("/healthz").await, Ok((200, "ok".into())));
    daemon.lists.send_replace(true);
    daemon.until("/readyz", 200).await;
    daemon.end().await;
}
