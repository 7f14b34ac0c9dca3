//! What a cluster could leave on the machine, or take from it: pictures before and after, compared whole.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// Mounts, interfaces, routes, control groups, packet filter rules, kernel settings, directories, files and processes:
/// what is there, and how often.
pub type Picture = BTreeMap<String, usize>;

/// Settings that kubelets and proxies change.
const SETTINGS: [&str; 11] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/conf/all/route_localnet",
    "net/ipv4/conf/default/rp_filter",
    "net/ipv4/conf/default/route_localnet",
];

const DIRECTORIES: [&str; 14] = [
    "/etc/kubernetes",
    "/etc/cni",
    "/opt/cni",
    "/opt/containerd",
    "/run/containerd",
    "/run/netns",
    "/usr/libexec/kubernetes",
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/etcd",
    "/var/lib/kube-proxy",
    "/var/log/containers",
    "/var/log/pods",
];

pub fn picture() -> Picture {
    let mut seen = Picture::new();
    let mut add = |line: String| *seen.entry(line).or_default() += 1;
    // Everything but the ids: root, place, options, kind and source. The same mount twice is two.
    for line in read("/proc/self/mountinfo").lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let rest = words.get(3..).unwrap_or_default();
        let shared = |w: &&&str| !w.starts_with("shared:") && !w.starts_with("master:");
        let rest: Vec<&str> = rest.iter().filter(shared).copied().collect();
        add(format!("mount {}", rest.join(" ")));
    }
    for entry in std::fs::read_dir("/sys/class/net").unwrap().flatten() {
        add(format!("interface {}", entry.file_name().to_string_lossy()));
    }
    for (what, command) in [
        ("address", "ip -o address show"),
        ("route", "ip -4 route show table all"),
        ("route", "ip -6 route show table all"),
        ("routing rule", "ip -4 rule show"),
        ("routing rule", "ip -6 rule show"),
        ("packet filter", "nft -s list ruleset"),
    ] {
        for line in output(command).lines() {
            // How long an address or a route is still good for counts down.
            let line = line.split(" valid_lft ").next().unwrap_or(line);
            let line = line.split(" expires ").next().unwrap_or(line);
            add(format!("{what} {}", line.trim_end()));
        }
    }
    groups(Path::new("/sys/fs/cgroup"), 0, &mut add);
    for dir in DIRECTORIES {
        if Path::new(dir).exists() {
            add(format!("directory {dir}"));
        }
    }
    for dir in ["/run", "/tmp", "/var/tmp", "/var/lib", "/var/log"] {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if ours(&name) {
                add(format!("file {dir}/{name}"));
            }
        }
    }
    for name in SETTINGS {
        let value = read(&format!("/proc/sys/{name}"));
        add(format!("setting {name} {}", value.trim()));
    }
    processes(&mut add);
    seen
}

fn ours(name: &str) -> bool {
    name.contains("ke2e") || name.contains("keelson-e2e")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// A tool that cannot tell what is there says nothing about leftovers, so its failure is one.
fn output(command: &str) -> String {
    let mut words = command.split(' ');
    let out = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap_or_else(|e| panic!("{command}: {e}"));
    assert!(
        out.status.success(),
        "{command}: {}: {}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

/// The groups at the top, on cgroup v1 of every hierarchy, and beneath them ours: sessions, services and the pods of another
/// cluster come and go.
fn groups(dir: &Path, depth: usize, add: &mut impl FnMut(String)) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|t| t.is_dir()) {
            continue;
        }
        let path = entry.path().display().to_string();
        if ours(&path) || (depth < 2 && !path.contains(".slice/")) {
            add(format!("control group {path}"));
        }
        if depth < 8 {
            groups(&entry.path(), depth + 1, add);
        }
    }
}

/// Processes that are ours by their command line or control group, and the names of what runs in a mount namespace of its
/// own: not pids and not how many, for services of the machine and pods of another cluster come and go.
fn processes(add: &mut impl FnMut(String)) {
    let own = std::fs::read_link("/proc/self/ns/mnt").unwrap();
    let mut elsewhere = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let file = |name: &str| std::fs::read_to_string(entry.path().join(name)).ok();
        // It may end while it is looked at.
        let (Some(command), Some(group), Some(name)) =
            (file("cmdline"), file("cgroup"), file("comm"))
        else {
            continue;
        };
        if ours(&command) || ours(&group) {
            add(format!("process {}", command.replace('\0', " ")));
        } else if std::fs::read_link(entry.path().join("ns/mnt")).is_ok_and(|ns| ns != own) {
            elsewhere.insert(name.trim().to_string());
        }
    }
    for name in elsewhere {
        add(format!("process {name} in another mount namespace"));
    }
}

/// Waits until the machine is as it was before.
pub fn compare(before: &Picture) {
    // Processes that were killed take a moment to be gone from every list.
    crate::cluster::wait_for("the machine as before", crate::cluster::seconds(10), || {
        let differences = differences(before, &picture());
        if differences.is_empty() {
            Ok(())
        } else {
            Err(format!("\n{}", differences.join("\n")))
        }
    });
}

fn differences(before: &Picture, after: &Picture) -> Vec<String> {
    let count = |p: &Picture, line: &String| p.get(line).copied().unwrap_or(0);
    let mut all: Vec<&String> = before.keys().chain(after.keys()).collect();
    all.sort();
    all.dedup();
    all.into_iter()
        .filter_map(|line| match (count(before, line), count(after, line)) {
            (b, a) if a > b => Some(format!("left ({} more): {line}", a - b)),
            (b, a) if b > a => Some(format!("lost ({} less): {line}", b - a)),
            _ => None,
        })
        .collect()
}
