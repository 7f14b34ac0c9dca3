//! `keelson`: Kubernetes clusters on one machine, made of network namespaces, containerd and the Keelson daemons.
//!
//! One file per command (`up`, `down`, `status`, `load`, `logs`, `node`, `kubectl`, `exec`, `images`), and beneath them
//! the parts they share: `cluster` (what is wanted, kept on disk), `host` (a node's namespaces), `net` (how they are
//! joined), `cgroup`, `units` (the command line of every daemon) and `supervise` (the process that keeps them running).
//!
//! Absent on purpose: anything that changes the machine outside of the cluster's own namespaces, control groups and state
//! directory, except one network interface in the root namespace through which the user reaches the nodes.

#[macro_use]
mod steps;

mod args;
mod certs;
mod cgroup;
mod cluster;
mod commands;
mod configs;
mod host;
mod identity;
mod images;
mod net;
mod objects;
mod preflight;
mod process;
mod rest;
mod run;
mod static_pods;

mod supervise;
mod units;

use std::process::ExitCode;

const USAGE: &str = "\
keelson runs Kubernetes clusters on this machine.

Usage: keelson [--state-dir DIR] COMMAND

  up                         start a cluster, or repair the one that runs
      --nodes N              how many nodes (3)
      --store KIND           embedded (default) or etcd
      --proxy-mode MODE      nftables (default) or iptables
      --control-plane HOW    processes (default) or static-pods
      --bin-dir DIR          where the daemons are (default: beside keelson)
      --name NAME            name of the cluster, of its interface and control groups (keelson; 40 characters at most)
      --subnet A.B.C.0/24    addresses of the nodes (10.89.0.0/24)
      --timeout DURATION     how long to wait for the nodes (2m)
  down                       stop the cluster and remove everything it made
  status                     what runs, since when, and what it costs
  kubectl ARGS...            kubectl, talking to this cluster
  load IMAGE.tar [--nodes A,B]
                             put a saved image on the nodes
  images build|list          build the images that come with Keelson; list those on the nodes
  logs COMPONENT [--node NAME] [-f] [--tail N]
                             what a daemon wrote
  exec NODE COMMAND...       run a command inside a node
  node add [NAME]            one node more
  node stop|start NAME       end everything on a node, as a power failure would; start it again
  node cut|heal NAME         take a node off the network while its pods run on; put it back
  node remove NAME           stop a node and remove it from the cluster

The state is kept in /var/lib/keelson (KEELSON_STATE_DIR or --state-dir choose another place).
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run_command(words) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("keelson: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_command(words: Vec<String>) -> anyhow::Result<ExitCode> {
    let mut args = args::Args::new(words);
    let state_dir = args
        .leading_option("state-dir")?
        .map(std::path::PathBuf::from);
    let state_dir = cluster::state_dir(state_dir)?;
    let Some(command) = args.next_word() else {
        print!("{USAGE}");
        return Ok(ExitCode::SUCCESS);
    };
    match command.as_str() {
        "up" => commands::up::main(state_dir, args),
        "down" => commands::down::main(state_dir, args),
        "status" => commands::status::main(state_dir, args),
        "kubectl" => commands::kubectl::main(state_dir, args),
        "load" => commands::load::main(state_dir, args),
        "images" => commands::images::main(state_dir, args),
        "logs" => commands::logs::main(state_dir, args),
        "exec" => commands::exec::main(state_dir, args),
        "node" => commands::node::main(state_dir, args),
        // Not in the usage text: the process that `up` starts.
        "supervise" => supervise::main(state_dir, args),
        "help" | "-h" | "--help" => {
            print!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        "version" | "--version" => {
            println!("keelson {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
        other => anyhow::bail!("there is no command \"{other}\"; `keelson help` lists them"),
    }
}
