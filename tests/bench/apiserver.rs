//! kube-apiserver: time to ready, memory, writes, lists, watches.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use serde_json::json;
use testkit::Certificates;

use crate::Row;
use crate::load::Target;
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
    let port = testkit::free_port();
    let certificates = Certificates::new(port, &[]);
    let data = tempfile::tempdir()?;
    let pki = |n: &str| certificates.pki(n);
    let args = vec![
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

/// Stands for the name in [`pod`].
const NAME: &str = "@name@";

/// A pod as a ReplicaSet makes it, about 2.3 KB once stored. Made once and given names later, so that the load costs little
/// beside what is measured.
pub fn pod(scheduler: &str) -> String {
    let env: Vec<_> = (0..10)
        .map(|i| json!({"name": format!("SETTING_{i}"), "value": format!("value-{i}")}))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": NAME,
            "labels": {"app": "web", "tier": "frontend", "pod-template-hash": "5d4f8c7b9"},
            "annotations": {"example.com/checksum": "3f786850e387550fdab836ed7e6dc881de23001b"},
        },
        "spec": {
            "schedulerName": scheduler,
            "containers": [{
                "name": "web",
                "image": "example.com/web:1.2.3",
                "args": ["--listen=:8080", "--log-level=info"],
                "env": env,
                "ports": [{"name": "http", "containerPort": 8080}],
                "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}, "limits": {"memory": "256Mi"}},
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 5},
                "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 10},
            }],
        },
    })
    .to_string()
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
        &pod("default-scheduler"),
    )
    .await?;
    let used = server.daemon.cpu()?.saturating_sub(cpu);
    Ok((
        count as f64 / took.as_secs_f64(),
        used / u32::try_from(count)?,
    ))
}

/// Creates `count` pods of a template over some connections; returns how long it took.
pub async fn create_at(
    target: &Target,
    ns: &str,
    from: usize,
    count: usize,
    connections: usize,
    template: &str,
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
            let (next, path, template) = (next.clone(), path.clone(), template.to_owned());
            tokio::spawn(async move {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed) as usize;
                    if i >= count {
                        return Ok(());
                    }
                    let body = template.replace(NAME, &format!("pod-{}", from + i));
                    let (code, body) = c.call(Method::POST, &path, JSON, body.into()).await?;
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
