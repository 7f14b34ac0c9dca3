//! kube-apiserver: time to ready, memory, writes, lists, watches.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use serde_json::json;
use testkit::Certificates;

use crate::Row;
use crate::load::{Connection, Target};
use crate::pods::{Owner, Pods};
use crate::process::Daemon;

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const PODS: usize = 10_000;
const WATCHERS: usize = 1_000;
const UPDATES: usize = 100;

/// An apiserver on its own data.
pub struct Server {
    /// The process.
    pub daemon: Daemon,
    /// How to reach it.
    pub target: Target,
    /// Its certificates.
    pub certificates: Certificates,
    /// How long it took to be ready.
    pub ready: Duration,
    _data: tempfile::TempDir,
}

fn flag(name: &str, value: &Path) -> String {
    format!("--{name}={}", value.display())
}

/// Starts one.
pub async fn start() -> Result<Server> {
    start_with(&[]).await
}

/// As [`start`], with more flags.
pub async fn start_with(more: &[String]) -> Result<Server> {
    let port = testkit::free_port();
    let certificates = Certificates::new(port, &[]);
    let data = tempfile::tempdir()?;
    let pki = |n: &str| certificates.pki(n);
    let mut args = vec![
        flag("data-dir", data.path()),
        format!("--secure-port={port}"),
        "--bind-address=127.0.0.1".into(),
        "--advertise-address=127.0.0.1".into(),
        "--authorization-mode=Node,RBAC".into(),
        "--service-cluster-ip-range=10.96.0.0/16".into(),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        flag("tls-cert-file", &pki("apiserver.crt")),
        flag("tls-private-key-file", &pki("apiserver.key")),
        flag("client-ca-file", &pki("ca.crt")),
        flag("service-account-key-file", &pki("sa.pub")),
        flag("service-account-signing-key-file", &pki("sa.key")),
    ];
    args.extend_from_slice(more);
    let target = Target::new(&certificates.kubeconfig("super-admin"))?;
    let begun = Instant::now();
    let daemon = Daemon::start("kube-apiserver", &args, &data.path().join("log"))?;
    let ready = target.ready(begun).await?;
    Ok(Server {
        daemon,
        target,
        certificates,
        ready,
        _data: data,
    })
}

/// A namespace with the service account that pods need.
pub async fn namespace(target: &Target, name: &str) -> Result<()> {
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let (code, _) = target
        .once(Method::POST, "/api/v1/namespaces", body.to_string().into())
        .await?;
    ensure!(code == 201, "namespace: {code}");
    let body =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let path = format!("/api/v1/namespaces/{name}/serviceaccounts");
    let (code, _) = target
        .once(Method::POST, &path, body.to_string().into())
        .await?;
    ensure!(code == 201, "service account: {code}");
    Ok(())
}

/// Creates `count` pods over some connections; returns pods per second and server CPU per pod.
pub async fn create(
    server: &Server,
    ns: &str,
    from: usize,
    count: usize,
    connections: usize,
) -> Result<(f64, Duration)> {
    let cpu = server.daemon.cpu()?;
    let took = create_at(
        &server.target,
        ns,
        from,
        count,
        connections,
        &Pods::new("default-scheduler", Owner::ReplicaSet, &[]),
    )
    .await?;
    let used = server.daemon.cpu()?.saturating_sub(cpu);
    Ok((
        count as f64 / took.as_secs_f64(),
        used / u32::try_from(count)?,
    ))
}

/// Creates `count` pods over some connections; returns how long it took.
pub async fn create_at(
    target: &Target,
    ns: &str,
    from: usize,
    count: usize,
    connections: usize,
    pods: &Pods,
) -> Result<Duration> {
    let next = Arc::new(AtomicU64::new(0));
    let path = format!("/api/v1/namespaces/{ns}/pods");
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(target.connect().await?);
    }
    let begun = Instant::now();
    let tasks: Vec<_> = open
        .into_iter()
        .map(|mut c| {
            let (next, path, pods) = (next.clone(), path.clone(), pods.clone());
            tokio::spawn(async move {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed) as usize;
                    if i >= count {
                        return Ok(());
                    }
                    let body = pods.body(from + i).into();
                    let (code, body) = c.call(Method::POST, &path, JSON, body).await?;
                    ensure!(
                        code == 201,
                        "pod: {code} {}",
                        String::from_utf8_lossy(&body)
                    );
                }
            })
        })
        .collect();
    for t in tasks {
        t.await??;
    }
    Ok(begun.elapsed())
}

fn ms(d: Duration) -> String {
    format!("{:.1} ms", d.as_secs_f64() * 1e3)
}

/// All of it.
pub async fn run() -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut ready = Vec::new();
    for _ in 0..4 {
        ready.push(start().await?.ready);
    }
    let server = start().await?;
    ready.push(server.ready);
    ready.sort();
    let middle = ready.get(2).copied().unwrap_or_default();
    rows.push(
        Row::new(
            "apiserver: ready on an empty store (middle of 5)",
            ms(middle),
        )
        .aim("<= 100 ms", middle <= Duration::from_millis(100)),
    );
    // Memory settles once start-up work is over.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let rss = server.daemon.rss()?;
    rows.push(Row::new("apiserver: RSS idle", format!("{rss:.1} MB")).aim("<= 25 MB", rss <= 25.0));

    namespace(&server.target, "bench").await?;
    let mut from = 0;
    for (connections, count) in [(1, 1_000), (16, 4_500), (64, 4_500)] {
        let (rate, cpu) = create(&server, "bench", from, count, connections).await?;
        from += count;
        let row = Row::new(
            format!("apiserver: POST pods, {connections} connections"),
            format!("{rate:.0}/s, {:.3} ms CPU each", cpu.as_secs_f64() * 1e3),
        );
        rows.push(if connections == 1 {
            row
        } else {
            row.aim(">= 5000/s", rate >= 5000.0)
        });
    }
    assert_eq!(from, PODS, "the three runs together make 10,000 pods");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let rss = server.daemon.rss()?;
    rows.push(
        Row::new("apiserver: RSS with 10,000 pods", format!("{rss:.1} MB"))
            .aim("<= 80 MB", rss <= 80.0),
    );

    let list = "/api/v1/namespaces/bench/pods";
    let first = server.target.connect().await?;
    ensure!(
        count(first, list).await? == PODS,
        "the list holds another number of pods"
    );
    for (name, accept) in [("JSON", JSON), ("protobuf", PROTOBUF)] {
        for time in ["first", "again"] {
            let mut c = server.target.connect().await?;
            let begun = Instant::now();
            let size = c.drain(list, accept).await?;
            rows.push(Row::new(
                format!("apiserver: LIST 10,000 pods, {name}, {time}"),
                format!("{}, {:.1} MB", ms(begun.elapsed()), size as f64 / 1e6),
            ));
        }
    }
    let begun = Instant::now();
    let mut lists = Vec::new();
    for _ in 0..10 {
        let mut c = server.target.connect().await?;
        lists.push(tokio::spawn(async move { c.drain(list, JSON).await }));
    }
    for l in lists {
        l.await??;
    }
    let took = begun.elapsed();
    rows.push(Row::new(
        "apiserver: ten JSON LISTs at once",
        format!("{}, RSS after {:.1} MB", ms(took), server.daemon.rss()?),
    ));
    rows.push(fan_out(&server).await?);
    Ok(rows)
}

/// How many objects a list holds, as its first page tells.
async fn count(mut c: Connection, list: &str) -> Result<usize> {
    let (code, body) = c
        .call(Method::GET, &format!("{list}?limit=1"), JSON, Bytes::new())
        .await?;
    ensure!(code == 200, "list: {code}");
    let page: serde_json::Value = serde_json::from_slice(&body)?;
    let rest = page
        .pointer("/metadata/remainingItemCount")
        .and_then(serde_json::Value::as_u64)
        .context("a page without remainingItemCount")?;
    Ok(usize::try_from(rest)? + 1)
}

/// Every watcher sees every update of one object.
async fn fan_out(server: &Server) -> Result<Row> {
    let maps = "/api/v1/namespaces/bench/configmaps";
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "watched"}, "data": {"n": "0"}});
    let (code, _) = server
        .target
        .once(Method::POST, maps, body.to_string().into())
        .await?;
    ensure!(code == 201, "config map: {code}");
    let seen = Arc::new(AtomicU64::new(0));
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let mut c = server.target.connect().await?;
        let answer = c
            .open(
                Method::GET,
                &format!("{maps}?watch=true"),
                JSON,
                Bytes::new(),
            )
            .await?;
        ensure!(answer.status() == 200, "watch: {}", answer.status());
        let seen = seen.clone();
        watchers.push(tokio::spawn(async move {
            let mut body = answer.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                let lines = frame
                    .data_ref()
                    .map_or(0, |d| d.iter().filter(|b| **b == b'\n').count());
                seen.fetch_add(lines as u64, Ordering::Relaxed);
            }
            drop(c);
        }));
    }
    let settled = |want: u64| {
        let seen = seen.clone();
        async move {
            testkit::wait_until("watchers see events", Duration::from_secs(60), async || {
                let n = seen.load(Ordering::Relaxed);
                if n >= want {
                    Ok(())
                } else {
                    Err(format!("{n} of {want}"))
                }
            })
            .await;
        }
    };
    settled(WATCHERS as u64).await;
    let mut writer = server.target.connect().await?;
    let cpu = server.daemon.cpu()?;
    let begun = Instant::now();
    for n in 1..=UPDATES {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "watched"}, "data": {"n": n.to_string()}});
        let (code, _) = writer
            .call(
                Method::PUT,
                &format!("{maps}/watched"),
                JSON,
                body.to_string().into(),
            )
            .await?;
        ensure!(code == 200, "update: {code}");
    }
    let events = (WATCHERS * UPDATES) as u64;
    settled(WATCHERS as u64 + events).await;
    let took = begun.elapsed();
    let used = server.daemon.cpu()?.saturating_sub(cpu);
    for w in watchers {
        w.abort();
    }
    Ok(Row::new(
        format!("apiserver: watch fan-out, {UPDATES} updates to {WATCHERS} watchers"),
        format!(
            "{:.0} events/s, {:.1} us CPU each",
            events as f64 / took.as_secs_f64(),
            used.as_secs_f64() * 1e6 / events as f64
        ),
    ))
}
