//! A whole cluster of one node from `keelson up`: how long it takes, and what its daemons hold when nothing happens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http::Method;
use serde_json::json;

use crate::Row;
use crate::apiserver::create_at;
use crate::load::Target;
use crate::pods::{Owner, Pods};
use crate::process::resident;

const PODS: usize = 10_000;

/// The daemons that the aim is about; containerd is counted apart.
const DAEMONS: [&str; 5] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
];

/// Removes the cluster, whatever has happened to it.
struct Cluster {
    keelson: PathBuf,
    dir: PathBuf,
}

impl Cluster {
    fn run(&self, args: &[&str]) -> Result<String> {
        let out = Command::new(&self.keelson)
            .env("KEELSON_STATE_DIR", &self.dir)
            .args(args)
            .output()
            .with_context(|| format!("run {}", self.keelson.display()))?;
        ensure!(
            out.status.success(),
            "keelson {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// The daemons that `keelson status` shows: name and process.
    fn daemons(&self) -> Result<Vec<(String, u32)>> {
        let found = self
            .run(&["status"])?
            .lines()
            .filter_map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                match words.as_slice() {
                    [_, daemon, "running", pid, ..] => {
                        Some(((*daemon).to_owned(), pid.parse().ok()?))
                    }
                    _ => None,
                }
            })
            .collect();
        Ok(found)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.run(&["down", "--name=kbench"]) {
            eprintln!("{error:#}");
        }
    }
}

/// All of it; needs root.
pub async fn run() -> Result<Vec<Row>> {
    let cluster = Cluster {
        keelson: std::env::current_exe()?.with_file_name("keelson"),
        dir: Path::new("/var/tmp/keelson-bench").to_owned(),
    };
    // What an interrupted run has left.
    cluster.run(&["down", "--name=kbench"])?;
    let begun = Instant::now();
    cluster.run(&["up", "--name=kbench", "--nodes=1", "--subnet=10.89.78.0/24"])?;
    let took = begun.elapsed();
    let mut rows = vec![
        Row::new(
            "cluster: keelson up, one node ready",
            format!("{:.1} s", took.as_secs_f64()),
        )
        .aim("< 10 s", took < Duration::from_secs(10)),
    ];
    // Idle: what start-up work held has been given back.
    tokio::time::sleep(Duration::from_secs(30)).await;
    let idle = memory(&cluster)?;
    let target = Target::new(&cluster.dir.join("admin.conf"))?;
    // Nobody schedules these, so that they fill the caches of the control plane alone. Their owners exist, or the garbage
    // collector would take them.
    let mut uids = Vec::new();
    for name in Pods::owners() {
        uids.push(owner(&target, &name).await?);
    }
    let pods = Pods::new("none", Owner::ConfigMap, &uids);
    create_at(&target, "default", 0, PODS, 16, &pods).await?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let full = memory(&cluster)?;
    for (daemon, idle) in &idle {
        let full = full
            .get(daemon)
            .with_context(|| format!("{daemon} has ended"))?;
        rows.push(Row::new(
            format!("cluster: RSS of {daemon}, idle / with {PODS} pods"),
            format!("{idle:.1} / {full:.1} MB"),
        ));
    }
    let mut sum = 0.0;
    for daemon in DAEMONS {
        sum += idle
            .get(daemon)
            .with_context(|| format!("no reading of {daemon}"))?;
    }
    rows.push(
        Row::new(
            "cluster: RSS of the five daemons together, idle",
            format!("{sum:.1} MB"),
        )
        .aim("<= 100 MB", sum <= 100.0),
    );
    Ok(rows)
}

/// A ConfigMap that pods may belong to; returns its uid.
async fn owner(target: &Target, name: &str) -> Result<String> {
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    let path = "/api/v1/namespaces/default/configmaps";
    let (code, body) = target
        .once(Method::POST, path, body.to_string().into())
        .await?;
    ensure!(code == 201, "config map: {code}");
    let made: serde_json::Value = serde_json::from_slice(&body)?;
    let uid = made.pointer("/metadata/uid").and_then(|u| u.as_str());
    Ok(uid.context("an object without uid")?.to_owned())
}

/// Every daemon of the one node with its resident memory in MB.
fn memory(cluster: &Cluster) -> Result<BTreeMap<String, f64>> {
    let mut all = BTreeMap::new();
    for (daemon, pid) in cluster.daemons()? {
        let before = all.insert(daemon.clone(), resident(pid)?);
        ensure!(before.is_none(), "{daemon} runs twice");
    }
    Ok(all)
}
