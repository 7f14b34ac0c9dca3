//! The cluster's own control groups, in each hierarchy of cgroup v1 or in cgroup v2.
//!
//! Everything is beneath one group per cluster at the top, `/NAME-ID`, which `down` removes. Groups of the machine are never
//! changed, and processes of others never moved. Layout: `/NAME-ID/supervisor`, `/NAME-ID/NODE/UNIT` for daemons, and
//! `/NAME-ID/NODE/kubepods` for pods, made by the kubelet.

use anyhow::{Context, Result};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const MOUNT: &str = "/sys/fs/cgroup";

/// The places where hierarchies that can hold the cluster's groups are mounted.
pub struct Hierarchies {
    roots: Vec<PathBuf>,
}

impl Hierarchies {
    /// From this machine's mount table.
    pub fn detect() -> Result<Self> {
        let mounts =
            std::fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
        let found = Self::parse(&mounts);
        if found.roots.is_empty() {
            anyhow::bail!(
                "no control groups are mounted at {MOUNT}; on Debian systemd mounts them at boot"
            );
        }
        Ok(found)
    }

    fn parse(mounts: &str) -> Self {
        let roots = mounts.lines().filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let place = fields.next().filter(|p| p.starts_with(MOUNT))?;
            matches!(fields.next(), Some("cgroup" | "cgroup2")).then(|| PathBuf::from(place))
        });
        Hierarchies {
            roots: roots.collect(),
        }
    }

    /// Makes a group in every hierarchy and returns its directories. `path` is relative to the top.
    pub fn create(&self, path: &Path) -> Result<Vec<PathBuf>> {
        let mut made = Vec::new();
        for root in &self.roots {
            let mut dir = root.clone();
            for part in path.components() {
                enable_controllers(&dir);
                let parent = dir.clone();
                dir.push(part);
                make(&dir).with_context(|| format!("make the control group {}", dir.display()))?;
                // A cpuset group holds no process until it has processors and memory nodes.
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    inherit(&parent.join(file), &dir.join(file));
                }
            }
            made.push(dir);
        }
        Ok(made)
    }

    /// The names of all groups at the top.
    pub fn groups(&self) -> std::collections::BTreeSet<String> {
        let all = self.roots.iter().flat_map(|root| children(root));
        all.filter_map(|dir| Some(dir.file_name()?.to_str()?.to_owned()))
            .collect()
    }

    /// Every process in a group and beneath it.
    pub fn processes(&self, path: &Path) -> Vec<i32> {
        let mut pids = Vec::new();
        for root in &self.roots {
            collect(&root.join(path), &mut pids);
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Ends every process in a group and beneath it with SIGKILL and waits until none is left (5 s at most).
    pub fn kill(&self, path: &Path) -> Result<()> {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        let me = std::process::id() as i32;
        loop {
            let pids: Vec<i32> = self
                .processes(path)
                .into_iter()
                .filter(|p| *p != me && *p > 0)
                .collect();
            if pids.is_empty() {
                return Ok(());
            }
            for pid in &pids {
                if let Some(pid) = rustix::process::Pid::from_raw(*pid) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
            if std::time::Instant::now() > deadline {
                anyhow::bail!(
                    "processes {pids:?} do not end; they may hang in the kernel (look at /proc/PID/stack)"
                );
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Removes a group and all beneath it. They must be without processes.
    pub fn remove(&self, path: &Path) -> Result<()> {
        for root in &self.roots {
            remove_tree(&root.join(path))?;
        }
        Ok(())
    }
}

/// How long the kernel may take to let go of a group.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(5);

/// Makes a group unless it is there. One that was removed a moment ago may keep its name while it can no longer be seen.
fn make(dir: &Path) -> std::io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !dir.is_dir() {
        match std::fs::create_dir(dir) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists && Instant::now() < deadline => {
                std::thread::sleep(PAUSE);
            }
            done => return done,
        }
    }
    Ok(())
}

fn enable_controllers(dir: &Path) {
    let available = std::fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    let enabled = std::fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
    for controller in available.split_whitespace() {
        if !enabled.split_whitespace().any(|c| c == controller) {
            // One that cannot be enabled is missed by whoever needs it, with its own message.
            let _ = std::fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
}

fn inherit(parent: &Path, child: &Path) {
    let Ok(current) = std::fs::read_to_string(child) else {
        return;
    };
    if current.trim().is_empty()
        && let Ok(value) = std::fs::read_to_string(parent)
        && !value.trim().is_empty()
    {
        let _ = std::fs::write(child, value.trim());
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect()
}

fn collect(dir: &Path, pids: &mut Vec<i32>) {
    if let Ok(text) = std::fs::read_to_string(dir.join("cgroup.procs")) {
        pids.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()));
    }
    for child in children(dir) {
        collect(&child, pids);
    }
}

fn remove_tree(dir: &Path) -> Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    for child in children(dir) {
        remove_tree(&child)?;
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        match std::fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            // Processes that have been killed are still being taken down.
            Err(_) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            Err(e) => {
                return Err(e)
                    .with_context(|| format!("remove the control group {}", dir.display()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_versions_are_found() {
        let hybrid = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ntmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let roots = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/unified"].map(PathBuf::from);
        assert_eq!(Hierarchies::parse(hybrid).roots, roots);
        let found = Hierarchies::parse("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n");
        assert_eq!(found.roots, [PathBuf::from("/sys/fs/cgroup")]);
    }
}
