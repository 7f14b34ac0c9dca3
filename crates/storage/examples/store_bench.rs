//! Durable writes per second: the embedded store beside a real etcd, in one run on one disk.
//!
//! `store_bench [seconds per case] [directory]`; needs `etcd` in PATH, and leaves it out when it is not there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a tool for people"
)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use storage::embedded::{Embedded, Options};
use storage::etcd::{Etcd, EtcdConfig};
use storage::{Expect, SharedStore};

const VALUE: usize = 2300;
const WRITERS: [usize; 3] = [1, 16, 100];

struct Measured {
    per_second: f64,
    middle: Duration,
    slow: Duration,
}

async fn measure(store: &SharedStore, writers: usize, time: Duration) -> Measured {
    let count = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let tasks = (0..writers).map(|writer| {
        let (store, count) = (store.clone(), count.clone());
        tokio::spawn(async move {
            let value: Bytes = vec![b'v'; VALUE].into();
            let mut taken = Vec::new();
            for round in 0_u64.. {
                let key = format!("/registry/pods/default/pod-{writer}-{}", round % 100);
                let begun = Instant::now();
                store
                    .put(key.as_bytes(), value.clone(), Expect::Any, 0)
                    .await
                    .unwrap();
                taken.push(begun.elapsed());
                count.fetch_add(1, Ordering::Relaxed);
                if start.elapsed() > time {
                    break;
                }
            }
            taken
        })
    });
    let mut taken: Vec<Duration> = futures::future::join_all(tasks.collect::<Vec<_>>())
        .await
        .into_iter()
        .flat_map(Result::unwrap)
        .collect();
    let per_second = count.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64();
    taken.sort_unstable();
    Measured {
        per_second,
        middle: taken[taken.len() / 2],
        slow: taken[taken.len() * 99 / 100],
    }
}

async fn start_etcd(dir: &Path) -> Option<(Child, SharedStore)> {
    let address = "http://127.0.0.1:23979";
    let peer = "http://127.0.0.1:23980";
    let child = Command::new("etcd")
        .args(["--name", "bench", "--data-dir"])
        .arg(dir.join("etcd"))
        .args([
            "--listen-client-urls",
            address,
            "--advertise-client-urls",
            address,
        ])
        .args([
            "--listen-peer-urls",
            peer,
            "--initial-advertise-peer-urls",
            peer,
        ])
        .args([
            "--initial-cluster",
            &format!("bench={peer}"),
            "--log-level",
            "error",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let config = EtcdConfig {
        servers: vec![address.to_owned()],
        ..EtcdConfig::default()
    };
    let store: SharedStore = Arc::new(Etcd::connect(&config).await.unwrap());
    while store.ready().await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Some((child, store))
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(4.0);
    let time = Duration::from_secs_f64(seconds);
    let base = arguments.next().unwrap_or_else(|| ".".to_owned());
    let dir = tempfile::tempdir_in(base).unwrap();
    let embedded: SharedStore = Arc::new(
        Embedded::open(dir.path().join("own"), Options::default())
            .await
            .unwrap(),
    );
    let etcd = start_etcd(dir.path()).await;
    println!("durable writes of {VALUE} bytes, {seconds} s each");
    println!(
        "{:>8} {:>14} {:>18} {:>12} {:>18} {:>7}",
        "writers", "embedded/s", "p50/p99 ms", "etcd/s", "p50/p99 ms", "ratio"
    );
    let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
    for writers in WRITERS {
        let own = measure(&embedded, writers, time).await;
        print!(
            "{writers:>8} {:>14.0} {:>9.2}/{:>8.2}",
            own.per_second,
            ms(own.middle),
            ms(own.slow)
        );
        match &etcd {
            Some((_, store)) => {
                let other = measure(store, writers, time).await;
                let ratio = own.per_second / other.per_second;
                println!(
                    " {:>12.0} {:>9.2}/{:>8.2} {ratio:>7.1}",
                    other.per_second,
                    ms(other.middle),
                    ms(other.slow)
                );
            }
            None => println!("  etcd is not installed"),
        }
    }
    if let Some((mut child, _)) = etcd {
        let _ = child.kill();
        let _ = child.wait();
    }
}
