//! Whether memory returns: namespaces with what is in them, lists and watches are made and gone again, beside objects that
//! stay.

use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use serde_json::json;

use crate::Row;
use crate::apiserver::{Server, create_at, namespace, start_with};
use crate::pods::{Owner, Pods};

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// Pods that stay.
const KEPT: usize = 1_000;
/// Namespaces that come and go.
const ROUNDS: usize = 60;
/// Pods and config maps of each.
const OBJECTS: usize = 100;
const WATCHES: usize = 30;
const LISTS: usize = 10;
/// How long history is kept in this run; what is older has to be given back.
const HISTORY: Duration = Duration::from_secs(5);
/// How long watch caches keep changes, and how long it takes until free memory is given back.
const CHANGES: Duration = Duration::from_secs(75 + 30 + 5);

/// All of it.
pub async fn run() -> Result<Vec<Row>> {
    let history = format!("--etcd-compaction-interval={}s", HISTORY.as_secs());
    let server = start_with(&[history]).await?;
    namespace(&server.target, "kept").await?;
    let template = Pods::new("default-scheduler", Owner::ReplicaSet, &[]);
    create_at(&server.target, "kept", 0, KEPT, 8, &template).await?;
    // One round first: what is made on first use and kept is no growth.
    round(&server, 0, &template).await?;
    settle(&server).await?;
    let before = server.daemon.rss()?;
    let mut most = before;
    for n in 1..=ROUNDS {
        round(&server, n, &template).await?;
        most = most.max(server.daemon.rss()?);
    }
    let busy = server.daemon.rss()?;
    settle(&server).await?;
    let after = server.daemon.rss()?;
    Ok(vec![
        Row::new(
            format!("apiserver: RSS with {KEPT} pods, before churn"),
            format!("{before:.1} MB"),
        ),
        Row::new(
            format!("apiserver: ... at most in {ROUNDS} rounds of churn, at their end"),
            format!("{most:.1} MB, {busy:.1} MB"),
        ),
        Row::new("apiserver: ... after it", format!("{after:.1} MB"))
            .aim("<= 1.5 times before", after <= 1.5 * before),
    ])
}

/// Waits until history is compacted, which happens as time goes on and something is written, and changes are old.
async fn settle(server: &Server) -> Result<()> {
    let path = "/api/v1/namespaces/kept";
    for n in 0..4 {
        tokio::time::sleep(HISTORY / 2).await;
        let patch = json!([{"op": "add", "path": "/metadata/labels/turn", "value": n.to_string()}]);
        let mut c = server.target.connect().await?;
        c.json_patch(path, patch.to_string().into()).await?;
    }
    tokio::time::sleep(CHANGES).await;
    Ok(())
}

async fn round(server: &Server, n: usize, template: &Pods) -> Result<()> {
    let (target, ns) = (&server.target, format!("churn-{n}"));
    namespace(target, &ns).await?;
    let base = format!("/api/v1/namespaces/{ns}");
    let mut watches = Vec::new();
    for _ in 0..WATCHES {
        let mut c = target.connect().await?;
        let path = format!("{base}/pods?watch=true");
        let answer = c.open(Method::GET, &path, JSON, Bytes::new()).await?;
        watches.push(tokio::spawn(async move {
            let mut body = answer.into_body();
            while let Some(Ok(_)) = body.frame().await {}
            drop(c);
        }));
    }
    create_at(target, &ns, 0, OBJECTS, 8, template).await?;
    let mut c = target.connect().await?;
    for i in 0..OBJECTS {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("map-{i}")},
            "data": {"text": "x".repeat(4_000)}});
        let path = format!("{base}/configmaps");
        let (code, _) = c
            .call(Method::POST, &path, JSON, map.to_string().into())
            .await?;
        ensure!(code == 201, "config map: {code}");
    }
    let mut lists = Vec::new();
    for i in 0..LISTS {
        let mut c = target.connect().await?;
        lists.push(tokio::spawn(async move {
            let accept = if i % 2 == 0 { JSON } else { PROTOBUF };
            c.drain("/api/v1/pods", accept).await?;
            c.drain("/api/v1/pods?limit=100", accept).await?;
            c.drain("/api/v1/configmaps?pretty=true", JSON).await?;
            c.drain("/openapi/v3/apis/apps/v1", JSON).await
        }));
    }
    for l in lists {
        l.await??;
    }
    for resource in ["pods", "configmaps"] {
        let path = format!("{base}/{resource}?gracePeriodSeconds=0");
        let (code, _) = c.call(Method::DELETE, &path, JSON, Bytes::new()).await?;
        ensure!(code == 200, "delete {resource}: {code}");
    }
    let (code, _) = c.call(Method::DELETE, &base, JSON, Bytes::new()).await?;
    ensure!(code == 200, "delete namespace: {code}");
    let done = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ns}, "spec": {"finalizers": []}});
    let path = format!("{base}/finalize");
    let (code, _) = c
        .call(Method::PUT, &path, JSON, done.to_string().into())
        .await?;
    ensure!(code == 200, "finalize: {code}");
    for w in watches {
        w.abort();
    }
    Ok(())
}
