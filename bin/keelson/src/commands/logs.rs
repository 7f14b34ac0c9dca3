//! `keelson logs`: what a daemon wrote, on every node that runs it or on one.

use crate::args::Args;
use crate::cluster::Cluster;
use anyhow::{Context, Result, bail};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

pub fn main(dir: PathBuf, mut args: Args) -> Result<ExitCode> {
    let cluster = Cluster::open(&dir)?;
    let follow = args.switch(&["-f", "--follow"]);
    let tail = args.option("tail")?;
    let node = args.option("node")?;
    let component = args.next_word();
    args.end()?;
    let mut files = Vec::new();
    let mut known = vec!["supervisor".to_string()];
    for n in &cluster.nodes {
        for entry in std::fs::read_dir(cluster.logs_dir().join(&n.name))
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry
                .file_name()
                .to_string_lossy()
                .trim_end_matches(".log")
                .to_string();
            if Some(&name) == component.as_ref() && node.as_ref().is_none_or(|w| *w == n.name) {
                files.push(entry.path());
            }
            known.push(name);
        }
    }
    known.sort();
    known.dedup();
    let component =
        component.with_context(|| format!("say of which daemon: {}", known.join(", ")))?;
    if component == "supervisor" {
        files.push(cluster.logs_dir().join("supervisor.log"));
    }
    if let Some(node) = &node {
        cluster.node(node)?;
    }
    if files.is_empty() {
        bail!(
            "no daemon {component} has written a log; there are logs of {}",
            known.join(", ")
        );
    }
    let mut command = Command::new("tail");
    command
        .arg("-n")
        .arg(tail.unwrap_or_else(|| if follow { "10".into() } else { "+1".into() }));
    if follow {
        command.arg("-F");
    }
    Err(command.args(files).exec()).context("run tail")
}
