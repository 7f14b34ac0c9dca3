//! `keelson exec`: becomes a command inside a node's namespaces.

use crate::args::Args;
use crate::cluster::Cluster;
use crate::host;
use anyhow::{Context, Result, bail};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;

pub fn main(dir: PathBuf, mut args: Args) -> Result<ExitCode> {
    let cluster = Cluster::open(&dir)?;
    let name = args
        .next_word()
        .context("say which node: keelson exec NODE COMMAND...")?;
    let node = cluster.node(&name)?;
    let mut words = args.rest();
    if words.first().is_some_and(|w| w == "--") {
        words.remove(0);
    }
    if words.is_empty() {
        words.push("sh".into());
    }
    if !host::is_namespace(&host::namespace_file(&cluster, &node.name, "net")) {
        bail!("{name} does not run; `keelson node start {name}` starts it");
    }
    let (program, arguments) = words.split_first().context("no command")?;
    let mut command = host::command(&cluster, &node.name, program);
    command
        .args(arguments)
        .env("KUBECONFIG", cluster.admin_kubeconfig());
    Err(command.exec()).context("run nsenter")
}
