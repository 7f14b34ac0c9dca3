//! `keelson load`: images from an archive, as `docker save` or `keelson images build` write it, onto the nodes.

use crate::args::Args;
use crate::cluster::{Cluster, NodeState};
use crate::images;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::ExitCode;

pub fn main(dir: PathBuf, mut args: Args) -> Result<ExitCode> {
    let cluster = Cluster::open(&dir)?;
    let wanted = args.option("nodes")?;
    let archive = PathBuf::from(
        args.next_word()
            .context("say which archive: keelson load IMAGE.tar")?,
    );
    args.end()?;
    if !archive.is_file() {
        bail!(
            "{} is not a file; `docker save NAME -o FILE` and `keelson images build` write such archives",
            archive.display()
        );
    }
    let nodes: Vec<String> = match wanted {
        Some(list) => list
            .split(',')
            .map(|n| cluster.node(n).map(|n| n.name.clone()))
            .collect::<Result<_>>()?,
        None => cluster
            .nodes
            .iter()
            .filter(|n| n.state != NodeState::Stopped)
            .map(|n| n.name.clone())
            .collect(),
    };
    let loaded: Vec<(String, Result<String>)> = std::thread::scope(|scope| {
        let tasks: Vec<_> = nodes
            .iter()
            .map(|n| {
                (
                    n,
                    scope.spawn(|| images::import_always(&cluster, n, &archive)),
                )
            })
            .collect();
        tasks
            .into_iter()
            .map(|(n, t)| {
                (
                    n.clone(),
                    t.join()
                        .unwrap_or_else(|_| Err(anyhow::anyhow!("the import was interrupted"))),
                )
            })
            .collect()
    });
    for (node, result) in loaded {
        for line in result?.lines() {
            say!("{node}: {}", line.trim());
        }
    }
    Ok(ExitCode::SUCCESS)
}
