//! The etcd backend on what the contract suite does not show: TLS, and etcd's restarts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod suite;

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use pki::cert::{Ca, Spec, Use};
use storage::etcd::{Etcd, EtcdConfig};
use storage::{Error, Expect, Store, WatchMessage, Written};
use suite::etcd_process::EtcdProcess;

fn certificates() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::ensure(&dir.path().join("ca"), "etcd-ca").unwrap();
    for (name, sans, usage) in [
        ("server", vec!["127.0.0.1".to_owned()], Use::Server),
        ("client", vec![], Use::Client),
    ] {
        let spec = Spec {
            common_name: name.into(),
            organization: None,
            sans,
            usage,
        };
        ca.ensure_leaf(&dir.path().join(name), &spec).unwrap();
    }
    Ca::ensure(&dir.path().join("other"), "other-ca").unwrap();
    dir
}

async fn put(store: &Etcd, key: &str, value: &'static str) -> Result<Written, Error> {
    store
        .put(
            key.as_bytes(),
            Bytes::from_static(value.as_bytes()),
            Expect::Any,
            0,
        )
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificates_are_shown_and_servers_are_checked() {
    let dir = certificates();
    let etcd = EtcdProcess::start_secure(dir.path()).await;
    let store = etcd.connect().await;
    put(&store, "/registry/a", "1").await.unwrap();
    assert_eq!(
        store
            .get(b"/registry/a", 0)
            .await
            .unwrap()
            .kv
            .unwrap()
            .value,
        "1"
    );
    let file = |name: &str| Some(dir.path().join(name));
    for (ca, cert, key) in [
        // A server that the CA has not signed.
        (file("other.crt"), file("client.crt"), file("client.key")),
        // No client certificate.
        (file("ca.crt"), None, None),
    ] {
        let config = EtcdConfig {
            servers: vec![etcd.address.clone()],
            ca_file: ca,
            cert_file: cert,
            key_file: key,
        };
        let stranger = Etcd::connect(&config).await.unwrap();
        assert!(matches!(stranger.ready().await, Err(Error::Unavailable(_))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_etcd_is_found_again_and_watches_resume_without_a_gap() {
    let mut etcd = EtcdProcess::start().await;
    let store = etcd.connect().await;
    put(&store, "/registry/a", "1").await.unwrap();
    let mut watch = store.watch(b"/registry/", 1).await.unwrap();
    let mut seen = Vec::new();
    let mut last = 0;
    let mut take = |message: WatchMessage, seen: &mut Vec<Bytes>| {
        if let WatchMessage::Events(events) = message {
            last = events.last().unwrap().kv.mod_revision;
            seen.extend(events.into_iter().map(|e| e.kv.value));
        }
        last
    };
    while seen.is_empty() {
        take(watch.next().await.unwrap().unwrap(), &mut seen);
    }
    etcd.kill();
    // The watch says that it has ended, rather than to fall silent.
    let ended = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            match watch.next().await {
                Some(Ok(message)) => {
                    take(message, &mut seen);
                }
                other => break other,
            }
        }
    });
    assert!(!matches!(ended.await.unwrap(), Some(Ok(_))));
    assert!(matches!(
        put(&store, "/registry/a", "lost").await,
        Err(Error::Unavailable(_))
    ));
    etcd.restart().await;
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(error) = put(&store, "/registry/a", "2").await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    put(&store, "/registry/b", "3").await.unwrap();
    let from = last + 1;
    let mut watch = store.watch(b"/registry/", from).await.unwrap();
    while seen.len() < 3 {
        if let WatchMessage::Events(events) = watch.next().await.unwrap().unwrap() {
            seen.extend(events.into_iter().map(|e| e.kv.value));
        }
    }
    assert_eq!(seen, ["1", "2", "3"]);
}
