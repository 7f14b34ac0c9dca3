//! The contract suite against every backend: real etcd first, which proves the suite; the embedded engine; and the etcd
//! backend against the embedded engine's own etcd API.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod suite;

use std::sync::Arc;
use std::time::Duration;

use storage::embedded::{Embedded, Options};
use storage::etcd::{Etcd, EtcdConfig};
use storage::{Error, ListOptions, Listen, SharedStore, etcd_server, rooted};
use suite::Traits;
use suite::etcd_process::EtcdProcess;

const TOO_LARGE: usize = (8 << 20) + 1;

#[tokio::test(flavor = "multi_thread")]
async fn etcd() {
    let etcd = EtcdProcess::start().await;
    let store = etcd.connect().await;
    suite::run(
        &store,
        &Traits {
            tells_revisions: false,
            too_large: 2_000_000,
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), Options::default())
        .await
        .unwrap();
    suite::run(
        &store,
        &Traits {
            tells_revisions: true,
            too_large: TOO_LARGE,
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_beneath_another_root() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), Options::default())
        .await
        .unwrap();
    let below: SharedStore = Arc::new(store);
    let traits = Traits {
        tells_revisions: true,
        too_large: TOO_LARGE,
    };
    suite::run(&*rooted(below.clone(), "other/place/"), &traits).await;
    let all = below.list(b"/", ListOptions::default()).await.unwrap();
    assert!(!all.items.is_empty());
    for kv in all.items {
        assert!(kv.key.starts_with(b"/other/place/"), "{:?}", kv.key);
    }
}

async fn through(listen: Listen, dir: &tempfile::TempDir) {
    let store = Embedded::open(dir.path().join("data"), Options::default())
        .await
        .unwrap();
    let address = etcd_server::serve(&store, listen).await.unwrap();
    let config = EtcdConfig {
        servers: vec![address],
        ..EtcdConfig::default()
    };
    let client = Etcd::connect(&config).await.unwrap();
    suite::run(
        &client,
        &Traits {
            tells_revisions: false,
            too_large: TOO_LARGE,
        },
    )
    .await;
    // What serves a store does not keep it open: whoever comes next finds it free.
    drop(store);
    let free = async {
        let data = dir.path().join("data");
        while let Err(error) = Embedded::open(&data, Options::default()).await {
            assert!(matches!(error, Error::Unavailable(_)), "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(30), free).await;
    in_time.expect("the store is closed with its last handle");
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_client_on_the_embedded_server_over_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    through(Listen::Unix(dir.path().join("etcd.sock")), &dir).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_client_on_the_embedded_server_over_loopback() {
    let dir = tempfile::tempdir().unwrap();
    through(Listen::Loopback("127.0.0.1:0".parse().unwrap()), &dir).await;
}
