//! `keelson status`: the daemons with their process, age, restarts and memory, and the nodes as the apiserver sees them.

use crate::args::Args;
use crate::cluster::{Cluster, ControlPlane, NodeState};
use crate::rest::Api;
use crate::supervise::{self, Running, Unit};
use crate::{objects, units};
use anyhow::Result;
use serde_json::Value;
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;

pub fn main(dir: PathBuf, args: Args) -> Result<ExitCode> {
    args.end()?;
    let cluster = Cluster::open(&dir)?;
    let mut healthy = true;
    match supervise::supervisor_process(&cluster) {
        Some(p) => say!(
            "cluster {}, supervisor {} (process {})",
            cluster.name,
            age(p.age_seconds()),
            p.pid
        ),
        None => {
            healthy = false;
            say!(
                "cluster {}: its supervisor does not run, so nothing is restarted; `keelson up` repairs that",
                cluster.name
            );
        }
    }
    let running: HashMap<String, Running> = supervise::read_all::<Running>(&cluster.run_dir())
        .into_iter()
        .map(|r| (r.unit.name.clone(), r))
        .collect();
    let mut wanted: Vec<Unit> = supervise::read_all(&cluster.units_dir());
    let order = |u: &Unit| {
        let node = cluster.nodes.iter().position(|n| n.name == u.node);
        let daemon = units::CONTROL_PLANE
            .iter()
            .chain(&units::NODE)
            .position(|d| *d == u.daemon);
        (node, daemon)
    };
    wanted.sort_by_key(order);
    let names = cluster.nodes.iter().map(|n| n.name.len() + 2);
    let width = names.max().unwrap_or(0).max(14);
    say!(
        "\n{:<width$}{:<26}{:<10}{:>8}{:>10}{:>10}{:>10}",
        "NODE",
        "DAEMON",
        "STATE",
        "PID",
        "AGE",
        "RESTARTS",
        "MEMORY"
    );
    for unit in &wanted {
        match running.get(&unit.name) {
            Some(r) if r.process.is_alive() => say!(
                "{:<width$}{:<26}{:<10}{:>8}{:>10}{:>10}{:>9}M",
                unit.node,
                unit.daemon,
                "running",
                r.process.pid,
                age(r.process.age_seconds()),
                r.restarts,
                r.process.resident_bytes() >> 20
            ),
            other => {
                healthy = false;
                let restarts = other.map_or(0, |r| r.restarts);
                say!(
                    "{:<width$}{:<26}{:<10}{:>8}{:>10}{:>10}{:>10}",
                    unit.node,
                    unit.daemon,
                    "ended",
                    "-",
                    "-",
                    restarts,
                    "-"
                );
            }
        }
    }
    if cluster.control_plane == ControlPlane::StaticPods {
        say!("\nThe control plane runs in static pods: keelson kubectl get pods -n kube-system");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let nodes = runtime.block_on(async { Api::new(&cluster)?.get("/api/v1/nodes").await?.ok() });
    say!(
        "\n{:<width$}{:<16}{:<18}{:<10}{}",
        "NODE",
        "ADDRESS",
        "PODS",
        "HERE",
        "READY"
    );
    let seen = match &nodes {
        Ok(list) => list
            .get("items")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    for node in &cluster.nodes {
        let object = seen
            .iter()
            .find(|o| o.pointer("/metadata/name").and_then(Value::as_str) == Some(&node.name));
        let ready = match object {
            Some(o) if objects::is_ready(o) => "yes",
            Some(_) => "no",
            None => "unknown",
        };
        healthy &= ready == "yes" || node.state != NodeState::Running;
        let here = match node.state {
            NodeState::Running => "running",
            NodeState::Stopped => "stopped",
            NodeState::Cut => "cut off",
        };
        say!(
            "{:<width$}{:<16}{:<18}{:<10}{}",
            node.name,
            cluster.node_address(node).to_string(),
            cluster.pod_range(node),
            here,
            ready
        );
    }
    if let Err(error) = nodes {
        healthy = false;
        say!("\nThe apiserver does not answer: {error:#}");
    }
    Ok(if healthy {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn age(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        7200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}
