//! `keelson kubectl`: becomes kubectl with this cluster's kubeconfig.

use crate::args::Args;
use crate::cluster::Cluster;
use crate::run;
use anyhow::{Context, Result};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

pub fn main(dir: PathBuf, mut args: Args) -> Result<ExitCode> {
    let cluster = Cluster::open(&dir)?;
    let program =
        run::find_program("kubectl").context("kubectl is not installed; `make setup` gets it")?;
    Err(Command::new(program)
        .env("KUBECONFIG", cluster.admin_kubeconfig())
        .args(args.rest())
        .exec())
    .context("run kubectl")
}
