//! `keelson down`: ends the cluster and removes everything it made. Works on what is there, however little: it goes by
//! control groups, namespaces and mounts, not only by what was written down.

use crate::args::Args;
use crate::cgroup::Hierarchies;
use crate::cluster::Cluster;
use crate::steps::Steps;
use crate::supervise::{self, Running};
use crate::{host, net};
use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

pub fn main(dir: PathBuf, mut args: Args) -> Result<ExitCode> {
    let name = args.option("name")?;
    args.end()?;
    if !rustix::process::geteuid().is_root() {
        bail!("ending a cluster needs root; run it again with sudo");
    }
    let found = Cluster::find(&dir);
    let known = matches!(found, Ok(Some(_)));
    let mut cluster = found
        .ok()
        .flatten()
        .unwrap_or_else(|| Cluster::new(dir.clone()));
    if let Some(name) = name {
        cluster.name = name;
    }
    let steps = Steps::new();
    let mut problems = Problems(Vec::new());

    let since = Instant::now();
    problems.note("end the processes", end_processes(&cluster));
    steps.done("processes ended", since);

    let since = Instant::now();
    for host in hosts(&cluster) {
        problems.note(
            &format!("release the namespaces of {host}"),
            host::release(&cluster, &host, &["mnt", "uts", "net"]),
        );
    }
    problems.note("remove the network", net::remove_switch(&cluster));
    problems.note("unmount", unmount_beneath(&dir));
    steps.done("namespaces, network and mounts removed", since);

    let since = Instant::now();
    problems.note(
        "remove the control groups",
        Hierarchies::detect().and_then(|h| h.remove(Path::new(&cluster.name))),
    );
    problems.note("put settings of the kernel back", restore_sysctls(&cluster));
    problems.note("remove mount points", remove_mount_points(&cluster));
    if problems.0.is_empty() {
        problems.note("remove files", remove_files(&dir, known));
    }
    steps.done("control groups and files removed", since);
    if !problems.0.is_empty() {
        bail!(
            "some things are left; run `keelson down` again after looking into:\n  - {}",
            problems.0.join("\n  - ")
        );
    }
    Ok(ExitCode::SUCCESS)
}

struct Problems(Vec<String>);

impl Problems {
    fn note(&mut self, what: &str, result: Result<()>) {
        if let Err(error) = result {
            self.0.push(format!("{what}: {error:#}"));
        }
    }
}

/// Every host that has a namespace file, written down or not.
fn hosts(cluster: &Cluster) -> Vec<String> {
    let mut names: HashSet<String> = cluster.nodes.iter().map(|n| n.name.clone()).collect();
    names.insert("switch".into());
    for entry in std::fs::read_dir(cluster.namespaces_dir())
        .into_iter()
        .flatten()
        .flatten()
    {
        let file = entry.file_name().to_string_lossy().into_owned();
        if let Some((host, _)) = file.rsplit_once('.') {
            names.insert(host.into());
        }
    }
    names.into_iter().collect()
}

fn end_processes(cluster: &Cluster) -> Result<()> {
    // The supervisor first, or it would start everything again.
    if let Some(supervisor) = supervise::supervisor_process(cluster) {
        supervisor.signal(Signal::KILL);
    }
    let top = PathBuf::from(&cluster.name);
    let hierarchies = Hierarchies::detect()?;
    hierarchies.kill(&top.join("supervisor"))?;
    hierarchies.kill(&top)?;
    for running in supervise::read_all::<Running>(&cluster.run_dir()) {
        running.process.signal(Signal::KILL);
    }
    // Whoever is in our namespaces is ours, wherever else it has moved (shells of `keelson exec` among them).
    let ours: HashSet<PathBuf> = hosts(cluster)
        .iter()
        .filter_map(|host| {
            use std::os::unix::fs::MetadataExt;
            let file = host::namespace_file(cluster, host, "net");
            host::is_namespace(&file).then_some(())?;
            Some(PathBuf::from(format!(
                "net:[{}]",
                std::fs::metadata(file).ok()?.ino()
            )))
        })
        .collect();
    let mut left = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<i32>().ok())
        else {
            continue;
        };
        if std::fs::read_link(entry.path().join("ns/net")).is_ok_and(|link| ours.contains(&link))
            && let Some(process) = crate::process::Process::of(pid)
        {
            process.signal(Signal::KILL);
            left.push(process);
        }
    }
    let deadline = Instant::now() + std::time::Duration::from_secs(5);
    while left.iter().any(crate::process::Process::is_alive) {
        if Instant::now() > deadline {
            bail!(
                "processes do not end: {:?}",
                left.iter()
                    .filter(|p| p.is_alive())
                    .map(|p| p.pid)
                    .collect::<Vec<_>>()
            );
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    Ok(())
}

fn unmount_beneath(dir: &Path) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    // The last mounted first.
    for line in mounts.lines().rev() {
        let Some(place) = line.split(' ').nth(4) else {
            continue;
        };
        let place = PathBuf::from(place.replace("\\040", " "));
        if place.starts_with(dir) && place != dir {
            rustix::mount::unmount(&place, rustix::mount::UnmountFlags::DETACH)
                .with_context(|| format!("unmount {}", place.display()))?;
        }
    }
    Ok(())
}

fn restore_sysctls(cluster: &Cluster) -> Result<()> {
    let Ok(bytes) = std::fs::read(cluster.dir.join("sysctls.json")) else {
        return Ok(());
    };
    let values: Vec<(String, String)> = serde_json::from_slice(&bytes)?;
    for (name, value) in values {
        let path = format!("/proc/sys/{name}");
        if super::up::SYSCTLS.contains(&name.as_str())
            && std::fs::read_to_string(&path).is_ok_and(|now| now.trim() != value)
        {
            std::fs::write(&path, &value).with_context(|| format!("write {path}"))?;
        }
    }
    Ok(())
}

/// Removes the directories that `up` made as mount points, if nothing is in them.
fn remove_mount_points(cluster: &Cluster) -> Result<()> {
    let Ok(text) = std::fs::read_to_string(cluster.dir.join("mount-points")) else {
        return Ok(());
    };
    for place in text.lines().rev() {
        match std::fs::remove_dir(place) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            // Something else uses it by now.
            Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => {}
            Err(e) => return Err(e).with_context(|| format!("remove {place}")),
        }
    }
    Ok(())
}

fn remove_files(dir: &Path, known: bool) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    // Never a directory that holds anything but a cluster's own files.
    const OWN: [&str; 14] = [
        "cluster.json",
        "admin.conf",
        "kubernetes",
        "nodes",
        "ns",
        "images",
        "units",
        "run",
        "logs",
        "supervisor.sock",
        "supervisor.json",
        "sysctls.json",
        "mount-points",
        "overlay-trial",
    ];
    for name in OWN {
        let path = dir.join(name);
        let Ok(meta) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        let result = if meta.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        result.with_context(|| format!("remove {}", path.display()))?;
    }
    match std::fs::remove_dir(dir) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty && !known => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
            say!("           {} holds other files and is left", dir.display());
            Ok(())
        }
        Err(e) => Err(e).with_context(|| format!("remove {}", dir.display())),
    }
}
