//! `keelson down`: ends the cluster of a state directory and removes everything it made. Works on what is there, however
//! little: it goes by control groups, namespaces and mounts, not only by what was written down.
//!
//! Invariant: nothing is touched that is not this cluster's, by its [`Identity`]; without one there is nothing to do.

use crate::args::Args;
use crate::cgroup::Hierarchies;
use crate::cluster::Cluster;
use crate::identity::{self, Identity};
use crate::steps::Steps;
use crate::supervise::{self, Running};
use crate::{host, net};
use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// The cluster of a directory, as far as it is known; `None` if it holds none.
fn find(dir: &Path) -> Result<Option<Cluster>> {
    let identity = Identity::read(dir)?;
    let damage = match (Cluster::find(dir), &identity) {
        (Ok(Some(cluster)), _) => return Ok(Some(cluster)),
        (Ok(None), None) => return Ok(None),
        (Ok(None), Some(_)) => None,
        (Err(error), Some(_)) => Some(error),
        (Err(error), None) => {
            return Err(error.context("which cluster it was cannot be told, so nothing is touched"));
        }
    };
    if let Some(error) = damage {
        say!("           {error:#}");
    }
    Ok(identity.map(|identity| {
        let mut cluster = Cluster::new(dir.to_path_buf());
        cluster.name = identity.name.clone();
        cluster.identity = Some(identity);
        cluster
    }))
}

pub fn main(dir: PathBuf, mut args: Args) -> Result<ExitCode> {
    let name = args.option("name")?;
    args.end()?;
    if !rustix::process::geteuid().is_root() {
        bail!("ending a cluster needs root; run it again with sudo");
    }
    let Some(cluster) = find(&dir)? else {
        say!(
            "There is no cluster in {}; nothing was touched.",
            dir.display()
        );
        return Ok(ExitCode::SUCCESS);
    };
    if let Some(name) = name.filter(|name| *name != cluster.name) {
        bail!(
            "the cluster in {} is named {}, not {name}; nothing was touched",
            dir.display(),
            cluster.name
        );
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
        Hierarchies::detect().and_then(|h| h.remove(&cluster.group())),
    );
    // Settings and mount points of the machine serve the other clusters too; the last one removes them.
    match identity::others(&dir).first() {
        Some(heir) => problems.note(
            &format!("leave settings of the machine to {}", heir.display()),
            bequeath(&dir, heir),
        ),
        None => {
            problems.note("put settings of the kernel back", restore_sysctls(&cluster));
            problems.note("remove mount points", remove_mount_points(&cluster));
        }
    }
    if problems.0.is_empty() {
        let kept = cluster.identity.map(|i| i.kept).unwrap_or_default();
        problems.note("remove files", remove_files(&dir, &kept));
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
    if let Some(supervisor) = supervise::supervisor_process(cluster)
        && identity::supervised(supervisor.pid).is_some_and(|dir| dir == cluster.dir)
    {
        supervisor.signal(Signal::KILL);
    }
    let top = cluster.group();
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
        let own = OWN.iter().any(|name| place.starts_with(dir.join(name)));
        if own {
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

/// Has another cluster put back what was before this one.
fn bequeath(dir: &Path, heir: &Path) -> Result<()> {
    let read = |dir: &Path, file: &str| std::fs::read_to_string(dir.join(file)).unwrap_or_default();
    let places = read(dir, "mount-points");
    if !places.is_empty() {
        let all = places + &read(heir, "mount-points");
        crate::cluster::write_file(&heir.join("mount-points"), all.as_bytes(), 0o644)?;
    }
    // Whoever was first found the settings as they were.
    let age = |dir: &Path| std::fs::metadata(dir.join("sysctls.json")).and_then(|m| m.modified());
    if let (Ok(own), Ok(other)) = (age(dir), age(heir))
        && own < other
    {
        let settings = read(dir, "sysctls.json");
        crate::cluster::write_file(&heir.join("sysctls.json"), settings.as_bytes(), 0o644)?;
    }
    Ok(())
}

/// What a cluster makes in its state directory, what tells of it last: an interrupted `down` is begun again.
pub const OWN: [&str; 15] = [
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
    "cluster.json",
    "identity.json",
];

/// Never removes what is not the cluster's own, or was there before it.
fn remove_files(dir: &Path, kept: &[String]) -> Result<()> {
    for name in OWN {
        if kept.iter().any(|k| k == name) {
            continue;
        }
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
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
            say!("           {} holds other files and is left", dir.display());
            Ok(())
        }
        Err(e) => Err(e).with_context(|| format!("remove {}", dir.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tests::scratch;

    #[test]
    fn a_directory_without_a_cluster_names_none() {
        let dir = scratch("no-cluster");
        for name in ["run", "nodes"] {
            std::fs::create_dir(dir.join(name)).unwrap();
        }
        assert!(find(&dir).unwrap().is_none());
        assert!(find(Path::new("/nonexistent")).unwrap().is_none());
        // Damaged, it is no reason to take any cluster for this one.
        std::fs::write(dir.join("cluster.json"), "{").unwrap();
        let error = format!("{:#}", find(&dir).unwrap_err());
        assert!(error.contains("nothing is touched"), "{error}");
        Identity::random("mine", &dir).unwrap().write().unwrap();
        let cluster = find(&dir).unwrap().unwrap();
        assert_eq!(cluster.name, "mine");
        assert!(cluster.group().to_string_lossy().starts_with("mine-"));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn only_its_own_files_are_removed() {
        let dir = scratch("own-files");
        for name in ["run", "images", "photos"] {
            std::fs::create_dir(dir.join(name)).unwrap();
        }
        std::fs::write(dir.join("identity.json"), "").unwrap();
        remove_files(&dir, &["images".into()]).unwrap();
        let mut left: Vec<String> = std::fs::read_dir(&dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        left.sort();
        assert_eq!(left, ["images", "photos"]);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_first_settings_and_all_mount_points_pass_to_the_cluster_that_stays() {
        let (old, young) = (scratch("heir-old"), scratch("heir-young"));
        std::fs::write(old.join("mount-points"), "/etc/a\n").unwrap();
        std::fs::write(old.join("sysctls.json"), "old").unwrap();
        std::fs::write(young.join("mount-points"), "/etc/b\n").unwrap();
        std::fs::write(young.join("sysctls.json"), "young").unwrap();
        let at = |seconds| std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        for (dir, age) in [(&old, 1), (&young, 2)] {
            let file = std::fs::File::options()
                .append(true)
                .open(dir.join("sysctls.json"))
                .unwrap();
            file.set_modified(at(age)).unwrap();
        }
        bequeath(&young, &old).unwrap();
        let read = |dir: &Path, file: &str| std::fs::read_to_string(dir.join(file)).unwrap();
        assert_eq!(read(&old, "mount-points"), "/etc/b\n/etc/a\n");
        assert_eq!(read(&old, "sysctls.json"), "old");
        bequeath(&old, &young).unwrap();
        assert_eq!(read(&young, "sysctls.json"), "old");
        for dir in [old, young] {
            std::fs::remove_dir_all(dir).unwrap();
        }
    }
}
