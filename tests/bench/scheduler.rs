//! kube-scheduler: how fast pods are bound to a thousand nodes that exist in the API alone.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use serde_json::json;

use crate::Row;
use crate::apiserver::{Server, create, namespace, start};
use crate::process::Daemon;

const NODES: usize = 1_000;
const PODS: usize = 5_000;

async fn nodes(server: &Server) -> Result<()> {
    let mut c = server.target.connect().await?;
    for i in 0..NODES {
        let name = format!("node-{i}");
        let amounts =
            json!({"cpu": "32", "memory": "256Gi", "pods": "110", "ephemeral-storage": "100Gi"});
        let body = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("z{}", i % 3)}},
            "status": {"capacity": amounts, "allocatable": amounts},
        });
        let (code, _) = c
            .call(
                Method::POST,
                "/api/v1/nodes",
                "application/json",
                body.to_string().into(),
            )
            .await?;
        ensure!(code == 201, "node: {code}");
        // New nodes are tainted not-ready; these stay up by decree.
        let patch = json!([{"op": "remove", "path": "/spec/taints"}]);
        c.json_patch(&format!("/api/v1/nodes/{name}"), patch.to_string().into())
            .await?;
    }
    Ok(())
}

/// All of it.
pub async fn run() -> Result<Vec<Row>> {
    let server = start().await?;
    namespace(&server.target, "bench").await?;
    nodes(&server).await?;
    create(&server, "bench", 0, PODS, 16).await?;

    // Bound pods are counted by a watch of those without a node: each binding takes one out of it.
    let mut c = server.target.connect().await?;
    let path = "/api/v1/namespaces/bench/pods?watch=true&fieldSelector=spec.nodeName%3D";
    let answer = c
        .open(
            Method::GET,
            path,
            "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
            Bytes::new(),
        )
        .await?;
    ensure!(answer.status() == 200, "watch: {}", answer.status());
    let mut body = answer.into_body();

    let log = tempfile::NamedTempFile::new()?;
    let conf = server.certificates.kubeconfig("scheduler");
    let args = vec![
        format!("--kubeconfig={}", conf.display()),
        "--secure-port=0".into(),
        "--leader-elect=false".into(),
        "--kube-api-qps=100000".into(),
        "--kube-api-burst=100000".into(),
    ];
    let api_cpu = server.daemon.cpu()?;
    let scheduler = Daemon::start("kube-scheduler", &args, log.path())?;
    let mut buffer = Vec::new();
    let mut bound = 0;
    let mut first = None;
    let deadline = Instant::now() + Duration::from_secs(120);
    while bound < PODS {
        ensure!(
            Instant::now() < deadline,
            "only {bound} of {PODS} pods were bound in time"
        );
        let Ok(frame) = tokio::time::timeout(Duration::from_secs(30), body.frame()).await else {
            continue;
        };
        let Some(frame) = frame else {
            anyhow::bail!("the watch ended")
        };
        if let Some(data) = frame?.data_ref() {
            buffer.extend_from_slice(data);
        }
        while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            if line.starts_with(b"{\"type\":\"DELETED\"") {
                first.get_or_insert_with(Instant::now);
                bound += 1;
            }
        }
    }
    let took = first.map_or(Duration::ZERO, |f| f.elapsed());
    let rate = PODS as f64 / took.as_secs_f64();
    let cpu = scheduler.cpu()?.as_secs_f64() * 1e3 / PODS as f64;
    let api = server.daemon.cpu()?.saturating_sub(api_cpu).as_secs_f64() * 1e3 / PODS as f64;
    Ok(vec![
        Row::new(
            format!("scheduler: {PODS} pods to {NODES} nodes"),
            format!("{rate:.0}/s, {cpu:.3} ms CPU each, {api:.3} ms in the apiserver"),
        )
        .aim(">= 5000/s", rate >= 5000.0),
        Row::new(
            "scheduler: RSS after that",
            format!("{:.1} MB", scheduler.rss()?),
        ),
    ])
}
