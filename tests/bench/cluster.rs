//! A whole cluster of one node from `keelson up`: how long it takes, and what its daemons hold when nothing happens.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::Row;
use crate::apiserver::{create_at, pod};
use crate::load::Target;
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
    // Nobody schedules these, so that they fill the caches of the control plane alone.
    create_at(&target, "default", 0, PODS, 16, &pod("none")).await?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let full = memory(&cluster)?;
    for ((daemon, idle), (_, full)) in idle.iter().zip(&full) {
        rows.push(Row::new(
            format!("cluster: RSS of {daemon}, idle / with {PODS} pods"),
            format!("{idle:.1} / {full:.1} MB"),
        ));
    }
    let sum: f64 = idle
        .iter()
        .filter(|(daemon, _)| DAEMONS.contains(&daemon.as_str()))
        .map(|(_, rss)| rss)
        .sum();
    rows.push(
        Row::new(
            "cluster: RSS of the five daemons together, idle",
            format!("{sum:.1} MB"),
        )
        .aim("<= 100 MB", sum <= 100.0),
    );
    Ok(rows)
}

/// Every daemon with its resident memory in MB, in the order of `keelson status`.
fn memory(cluster: &Cluster) -> Result<Vec<(String, f64)>> {
    cluster
        .daemons()?
        .into_iter()
        .map(|(daemon, pid)| Ok((daemon, resident(pid)?)))
        .collect()
}
