//! Durable writes per second: the embedded store, called in process as the apiserver calls it and over gRPC as etcd is
//! called, beside a real etcd, in one run on one disk.
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use storage::embedded::{Embedded, Options};
use storage::etcd::{Etcd, EtcdConfig};
use storage::{Expect, Listen, SharedStore, etcd_server};

use crate::Row;

const VALUE: usize = 2300;
/// How long each case is measured.
const TIME: Duration = Duration::from_secs(4);
const WRITERS: [usize; 3] = [1, 16, 100];

struct Measured {
    per_second: f64,
    middle: Duration,
    slow: Duration,
}

async fn measure(store: &SharedStore, writers: usize) -> Result<Measured> {
    let start = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let value: Bytes = vec![b'v'; VALUE].into();
                let mut taken = Vec::new();
                for round in 0_u64.. {
                    let key = format!("/registry/pods/default/pod-{writer}-{}", round % 100);
                    let begun = Instant::now();
                    store
                        .put(key.as_bytes(), value.clone(), Expect::Any, 0)
                        .await?;
                    taken.push(begun.elapsed());
                    if start.elapsed() > TIME {
                        break;
                    }
                }
                Ok::<_, storage::Error>(taken)
            })
        })
        .collect();
    let mut taken = Vec::new();
    for task in tasks {
        taken.extend(task.await??);
    }
    ensure!(taken.len() > writers, "only {} writes", taken.len());
    let per_second = taken.len() as f64 / start.elapsed().as_secs_f64();
    taken.sort_unstable();
    let at = |share: usize| {
        taken
            .get(taken.len() * share / 100)
            .copied()
            .unwrap_or_default()
    };
    Ok(Measured {
        per_second,
        middle: at(50),
        slow: at(99),
    })
}

struct RealEtcd(Child);

impl Drop for RealEtcd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn start_etcd(dir: &Path) -> Result<(RealEtcd, SharedStore)> {
    let address = format!("http://127.0.0.1:{}", testkit::free_port());
    let peer = format!("http://127.0.0.1:{}", testkit::free_port());
    let child = Command::new("etcd")
        .args(["--name", "bench", "--log-level", "error", "--data-dir"])
        .arg(dir.join("etcd"))
        .args([
            "--listen-client-urls",
            &address,
            "--advertise-client-urls",
            &address,
        ])
        .args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ])
        .args(["--initial-cluster", &format!("bench={peer}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start etcd, which Debian has as etcd-server")?;
    let child = RealEtcd(child);
    let config = EtcdConfig {
        servers: vec![address],
        ..EtcdConfig::default()
    };
    let store: SharedStore = Arc::new(Etcd::connect(&config).await?);
    testkit::wait_until("etcd answers", Duration::from_secs(20), async || {
        store.ready().await
    })
    .await;
    Ok((child, store))
}

/// A client of the embedded store's own etcd API, as far from it as a client of etcd is from etcd: gRPC over loopback.
async fn through_grpc(store: &Embedded) -> Result<SharedStore> {
    let listen = Listen::Loopback((Ipv4Addr::LOCALHOST, 0).into());
    let config = EtcdConfig {
        servers: vec![etcd_server::serve(store, listen).await?],
        ..EtcdConfig::default()
    };
    Ok(Arc::new(Etcd::connect(&config).await?))
}

/// All of it.
pub async fn run() -> Result<Vec<Row>> {
    let dir = tempfile::tempdir()?;
    let embedded = Embedded::open(dir.path().join("own"), Options::default()).await?;
    let own: SharedStore = Arc::new(embedded.clone());
    let served = through_grpc(&embedded).await?;
    let (_etcd, other) = start_etcd(dir.path()).await?;
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    let mut rows = Vec::new();
    for writers in WRITERS {
        let theirs = measure(&other, writers).await?;
        for (place, store) in [("in process", &own), ("over gRPC", &served)] {
            let ours = measure(store, writers).await?;
            let ratio = ours.per_second / theirs.per_second;
            let row = Row::new(
                format!("store: durable 2.3 KB writes, {writers} writers, embedded {place}"),
                format!(
                    "{:.0}/s (p50 {:.2}, p99 {:.2} ms): {ratio:.1} times etcd over gRPC",
                    ours.per_second,
                    ms(ours.middle),
                    ms(ours.slow),
                ),
            );
            rows.push(if writers == 100 && place == "in process" {
                row.aim(">= 40000/s", ours.per_second >= 40_000.0)
            } else {
                row
            });
        }
        rows.push(Row::new(
            format!("store: durable 2.3 KB writes, {writers} writers, etcd over gRPC"),
            format!(
                "{:.0}/s (p50 {:.2}, p99 {:.2} ms)",
                theirs.per_second,
                ms(theirs.middle),
                ms(theirs.slow)
            ),
        ));
    }
    Ok(rows)
}
