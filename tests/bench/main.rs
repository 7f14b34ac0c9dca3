//! Measurements, as one table with their conditions: `make bench`.
//!
//! Everything runs on this machine, over loopback and TLS, load and server on the same cores; figures are comparable
//! within one run only. Objects and requests are what clients send; the store is the embedded one on the disk of the
//! temporary directory, whose file system is printed. What cannot be read, and an answer that is not the one asked for,
//! ends the run: no figure stands for it.

mod apiserver;
mod churn;
mod cluster;
mod load;
mod pods;
mod process;
mod scheduler;
mod store;

use std::path::Path;

use anyhow::Result;

/// A line of the table.
pub struct Row {
    /// What was measured.
    pub what: String,
    /// The figure with its unit.
    pub figure: String,
    /// The aim, if there is one, and whether it was met.
    pub aim: Option<(String, bool)>,
}

impl Row {
    /// A figure without an aim.
    pub fn new(what: impl Into<String>, figure: impl Into<String>) -> Row {
        Row {
            what: what.into(),
            figure: figure.into(),
            aim: None,
        }
    }

    /// With an aim.
    #[must_use]
    pub fn aim(mut self, aim: impl Into<String>, met: bool) -> Row {
        self.aim = Some((aim.into(), met));
        self
    }
}

fn conditions() -> String {
    let read = |p: &str| std::fs::read_to_string(p).unwrap_or_default();
    let model = read("/proc/cpuinfo")
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .map(|l| l.trim_start_matches(['\t', ' ', ':']).to_owned())
        .unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory: u64 = read("/proc/meminfo")
        .lines()
        .find_map(|l| {
            l.strip_prefix("MemTotal:")?
                .trim()
                .strip_suffix(" kB")?
                .parse()
                .ok()
        })
        .unwrap_or(0);
    format!(
        "{cores} cores ({model}), {} GB, Linux {}, {} build, data on {}",
        memory / 1_000_000,
        read("/proc/sys/kernel/osrelease").trim(),
        if cfg!(debug_assertions) {
            "development"
        } else {
            "release"
        },
        file_system(&std::env::temp_dir())
    )
}

/// The kind and device of the file system that holds a directory.
fn file_system(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let found = mounts
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let place = left.split(' ').nth(4)?.replace("\\040", " ");
            let mut right = right.split(' ');
            let (kind, device) = (right.next()?, right.next()?);
            dir.starts_with(&place)
                .then(|| (place.len(), format!("{kind} ({device}), {}", dir.display())))
        })
        // Of two on one place, the later hides the earlier.
        .max_by_key(|(length, _)| *length);
    found.map_or_else(|| "an unknown file system".into(), |(_, text)| text)
}

#[tokio::main]
async fn main() -> Result<()> {
    let only: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|o| o == name);
    let mut rows = Vec::new();
    if wanted("apiserver") {
        rows.extend(apiserver::run().await?);
    }
    if wanted("churn") {
        rows.extend(churn::run().await?);
    }
    if wanted("scheduler") {
        rows.extend(scheduler::run().await?);
    }
    if wanted("cluster") {
        rows.extend(cluster::run().await?);
    }
    if wanted("store") {
        rows.extend(store::run().await?);
    }
    println!("\n{}\n", conditions());
    let width = rows.iter().map(|r| r.what.len()).max().unwrap_or(0);
    let figures = rows.iter().map(|r| r.figure.len()).max().unwrap_or(0);
    for r in &rows {
        let aim = match &r.aim {
            None => String::new(),
            Some((aim, true)) => format!("aim {aim}: met"),
            Some((aim, false)) => format!("aim {aim}: MISSED"),
        };
        println!("{:width$}  {:figures$}  {aim}", r.what, r.figure);
    }
    Ok(())
}
