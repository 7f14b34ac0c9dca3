//! `keelson node`: adds, stops, starts, cuts off, heals and removes nodes.

use crate::args::Args;
use crate::cgroup::Hierarchies;
use crate::cluster::{Cluster, Node, NodeState};
use crate::rest::Api;
use crate::steps::Steps;
use crate::units;
use crate::{host, net, supervise};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(120);

pub fn main(dir: PathBuf, mut args: Args) -> Result<ExitCode> {
    let mut cluster = Cluster::open(&dir)?;
    let what = args.next_word().unwrap_or_default();
    if !["add", "stop", "start", "cut", "heal", "remove"].contains(&what.as_str()) {
        bail!("say what to do: keelson node add|stop|start|cut|heal|remove NAME");
    }
    let name = args.next_word();
    args.end()?;
    let steps = Steps::new();
    if what == "add" {
        let node = cluster.add_node(name)?;
        say!("Adding {} ({})", node.name, cluster.node_address(&node));
        super::up::bring_up(&cluster, &steps, TIMEOUT)?;
        return Ok(ExitCode::SUCCESS);
    }
    let name = name.with_context(|| format!("say which node: keelson node {what} NAME"))?;
    let node = cluster.node(&name)?.clone();
    let holds_control_plane = cluster.is_first(&node);
    match what.as_str() {
        "stop" | "cut" | "remove" if holds_control_plane => {
            bail!(
                "{name} holds the control plane; choose another node, or end the cluster with `keelson down`"
            )
        }
        "stop" => {
            set_state(&mut cluster, &name, NodeState::Stopped)?;
            stop(&cluster, &node)?;
            steps.note(&format!("{name} is stopped: its daemons, pods, mounts and network are gone, its disk is kept"));
        }
        "start" => {
            set_state(&mut cluster, &name, NodeState::Running)?;
            super::up::bring_up(&cluster, &steps, TIMEOUT)?;
            net::set_cable(&cluster, &node, true)?;
        }
        "cut" => {
            if node.state == NodeState::Stopped {
                bail!("{name} is stopped; there is nothing to cut");
            }
            net::set_cable(&cluster, &node, false)?;
            set_state(&mut cluster, &name, NodeState::Cut)?;
            steps.note(&format!("{name} is off the network; its pods run on. After 40 s its Ready condition is Unknown"));
        }
        "heal" => {
            if node.state == NodeState::Stopped {
                bail!("{name} is stopped; `keelson node start {name}` starts it");
            }
            net::set_cable(&cluster, &node, true)?;
            set_state(&mut cluster, &name, NodeState::Running)?;
            steps.note(&format!("{name} is on the network again"));
        }
        "remove" => {
            set_state(&mut cluster, &name, NodeState::Stopped)?;
            stop(&cluster, &node)?;
            net::disconnect_pods(&cluster, &node)?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let answer = runtime.block_on(async {
                Api::new(&cluster)?
                    .delete(&format!("/api/v1/nodes/{name}"))
                    .await
            })?;
            if answer.status != 404 {
                answer
                    .ok()
                    .with_context(|| format!("delete the node {name}"))?;
            }
            cluster.nodes.retain(|n| n.name != name);
            cluster.save()?;
            forget(&cluster, &name)?;
            steps.note(&format!("{name} is removed"));
        }
        _ => bail!("say what to do: keelson node add|stop|start|cut|heal|remove NAME"),
    }
    Ok(ExitCode::SUCCESS)
}

fn set_state(cluster: &mut Cluster, name: &str, state: NodeState) -> Result<()> {
    for node in &mut cluster.nodes {
        if node.name == name {
            node.state = state;
        }
    }
    cluster.save()
}

/// Ends everything on a node at once.
fn stop(cluster: &Cluster, node: &Node) -> Result<()> {
    let hierarchies = Hierarchies::detect()?;
    let group = cluster.group().join(&node.name);
    units::write(cluster, &units::wanted(cluster)?)?;
    // Whatever is killed here was not wanted any more, so the supervisor does not start it again.
    let reload = supervise::request(cluster, "reload");
    hierarchies.kill(&group)?;
    reload?;
    host::release(cluster, &node.name, &["mnt", "uts"])?;
    net::remove_node(cluster, node)?;
    hierarchies.remove(&group)
}

/// Removes what is left of a node in the state directory.
fn forget(cluster: &Cluster, name: &str) -> Result<()> {
    for dir in [cluster.node_dir(name), cluster.logs_dir().join(name)] {
        if dir.exists() {
            std::fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
        }
    }
    let master = cluster.master_dir();
    for file in [
        format!("kubelet-{name}.conf"),
        format!("pki/kubelet-{name}.crt"),
        format!("pki/kubelet-{name}.key"),
    ] {
        let _ = std::fs::remove_file(master.join(file));
    }
    Ok(())
}
