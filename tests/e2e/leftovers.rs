//! What a cluster could leave on the machine, before and after.

use std::collections::BTreeSet;
use std::path::Path;

/// Mounts, interfaces, routes, control groups, packet filter rules and directories.
pub type Picture = BTreeSet<String>;

pub fn picture() -> Picture {
    let mut seen = BTreeSet::new();
    for line in std::fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
    {
        seen.insert(format!("mount {}", line.split(' ').nth(4).unwrap_or("")));
    }
    for entry in std::fs::read_dir("/sys/class/net").unwrap().flatten() {
        seen.insert(format!("interface {}", entry.file_name().to_string_lossy()));
    }
    for line in std::fs::read_to_string("/proc/net/route").unwrap().lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        seen.insert(format!("route {:?}", fields.get(..3)));
    }
    groups(Path::new("/sys/fs/cgroup"), 0, &mut seen);
    for dir in [
        "/etc/kubernetes",
        "/etc/cni",
        "/var/lib/kubelet",
        "/var/lib/cni",
        "/opt/containerd",
    ] {
        if Path::new(dir).exists() {
            seen.insert(format!("directory {dir}"));
        }
    }
    for name in ["overcommit_memory", "panic_on_oom"] {
        let value = std::fs::read_to_string(format!("/proc/sys/vm/{name}")).unwrap();
        seen.insert(format!("setting {name} {}", value.trim()));
    }
    let rules = std::process::Command::new("nft")
        .args(["-s", "list", "ruleset"])
        .output()
        .unwrap();
    for line in String::from_utf8_lossy(&rules.stdout).lines() {
        seen.insert(format!("rule {line}"));
    }
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let command = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        // Names, not pids: processes of the machine come and go.
        if command.contains("ke2e") || command.contains("keelson-e2e") {
            seen.insert(format!("process {}", command.replace('\0', " ")));
        }
    }
    seen
}

fn groups(dir: &Path, depth: usize, seen: &mut Picture) {
    // Hierarchies are at the first level on cgroup v1; the groups at their top are what a cluster adds to.
    if depth > 2 {
        return;
    }
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().is_ok_and(|t| t.is_dir()) && (depth == 0 || name.contains("ke2e")) {
            if name.contains("ke2e") {
                seen.insert(format!("control group {}", entry.path().display()));
            }
            groups(&entry.path(), depth + 1, seen);
        }
    }
}

pub fn compare(before: &Picture) {
    // Processes that were killed take a moment to be gone from every list.
    crate::cluster::wait_for("nothing left behind", crate::cluster::seconds(10), || {
        let left: Vec<String> = picture()
            .difference(before)
            .filter(|l| !foreign(l))
            .cloned()
            .collect();
        if left.is_empty() {
            Ok(())
        } else {
            Err(left.join("\n"))
        }
    });
}

/// Things that others may make in the meantime.
fn foreign(line: &str) -> bool {
    (line.starts_with("mount ") || line.starts_with("interface "))
        && !line.contains("ke2e")
        && !line.contains("keelson-e2e")
}
