//! `keelson images`: builds the images that come with Keelson, and lists those on the nodes.

use crate::args::Args;
use crate::cluster::{Cluster, NodeState};
use crate::images;
use anyhow::{Result, bail};
use std::path::PathBuf;
use std::process::ExitCode;

pub fn main(dir: PathBuf, mut args: Args) -> Result<ExitCode> {
    let bin_dir = args.option("bin-dir")?;
    let word = args.next_word();
    args.end()?;
    match word.as_deref() {
        Some("build") => {
            let mut cluster = Cluster::find(&dir)?.unwrap_or_else(|| Cluster::new(dir));
            if let Some(bin_dir) = bin_dir {
                cluster.bin_dir = std::path::absolute(bin_dir)?;
            }
            for archive in [
                images::build_samples(&cluster)?,
                images::build_daemons(&cluster)?,
            ] {
                say!("{}", archive.display());
            }
        }
        Some("list") => {
            let cluster = Cluster::open(&dir)?;
            for node in cluster
                .nodes
                .iter()
                .filter(|n| n.state != NodeState::Stopped)
            {
                for image in images::list(&cluster, &node.name)? {
                    say!("{:<14} {image}", node.name);
                }
            }
        }
        _ => bail!("say what to do: keelson images build|list"),
    }
    Ok(ExitCode::SUCCESS)
}
