//! A node's namespaces: network, mounts and host name, held by files in `STATE/ns` (as `ip netns` does, elsewhere).
//!
//! In its mount namespace a node has its own `/run`, `/var/log`, `/etc/kubernetes`, `/etc/cni` and `/var/lib/{kubelet,
//! containerd,cni,etcd}`, so daemons use the places that their documentation names, and every mount made for a pod goes
//! with the namespace. They are entered by nsenter, not by `ip netns exec`, which mounts /sys anew and so hides the
//! control groups from runc.
//!
//! Invariant: directories made in the root namespace as mount points are written down in `STATE/mount-points` first.

use crate::cluster::{Cluster, Node};
use crate::run;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

const NAMESPACE_FILE_SYSTEM: u64 = 0x6e73_6673;

/// Directories of the node's own, and where they are in its directory.
const OWN: [(&str, &str); 8] = [
    ("run", "/run"),
    ("log", "/var/log"),
    ("kubernetes", "/etc/kubernetes"),
    ("cni", "/etc/cni"),
    ("kubelet", "/var/lib/kubelet"),
    ("containerd", "/var/lib/containerd"),
    ("cni-state", "/var/lib/cni"),
    ("etcd", "/var/lib/etcd"),
];

pub fn is_namespace(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|s| s.f_type as u64 == NAMESPACE_FILE_SYSTEM)
}

pub fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let wanted = path.to_string_lossy();
    mounts
        .lines()
        .any(|l| l.split(' ').nth(4) == Some(wanted.as_ref()))
}

/// A file of `STATE/ns`; kinds are `net`, `mnt` and `uts`.
pub fn namespace_file(cluster: &Cluster, host: &str, kind: &str) -> PathBuf {
    cluster.namespaces_dir().join(format!("{host}.{kind}"))
}

/// Makes `STATE/ns`, a mount that propagates nowhere, as files that hold mount namespaces need.
pub fn prepare(cluster: &Cluster) -> Result<()> {
    let dir = cluster.namespaces_dir();
    std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    if !is_mounted(&dir) {
        run::output(Command::new("mount").arg("--bind").arg(&dir).arg(&dir))?;
        run::output(Command::new("mount").arg("--make-private").arg(&dir))?;
    }
    let mut made = String::new();
    for (_, place) in OWN {
        if !Path::new(place).exists() {
            made.push_str(place);
            made.push('\n');
        }
    }
    if !made.is_empty() {
        let path = cluster.dir.join("mount-points");
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        crate::cluster::write_file(&path, (before + &made).as_bytes(), 0o644)?;
        for place in made.lines() {
            std::fs::create_dir_all(place).with_context(|| format!("make {place}"))?;
        }
    }
    Ok(())
}

/// Makes a network namespace with nothing else, unless it is there. Whether it was made now.
pub fn ensure_network(cluster: &Cluster, host: &str) -> Result<bool> {
    let file = namespace_file(cluster, host, "net");
    if is_namespace(&file) {
        return Ok(false);
    }
    std::fs::write(&file, "")?;
    let mut net = std::ffi::OsString::from("--net=");
    net.push(&file);
    run::output(Command::new("unshare").arg(net).args(["--", "true"]))?;
    Ok(true)
}

/// Makes the mount and host name namespaces of a node, unless they are there. Whether they were made now.
pub fn ensure(cluster: &Cluster, node: &Node) -> Result<bool> {
    let mnt = namespace_file(cluster, &node.name, "mnt");
    let uts = namespace_file(cluster, &node.name, "uts");
    if is_namespace(&mnt) && is_namespace(&uts) {
        return Ok(false);
    }
    for file in [&mnt, &uts] {
        if is_namespace(file) {
            rustix::mount::unmount(file, rustix::mount::UnmountFlags::DETACH)?;
        }
        std::fs::write(file, "")?;
    }
    let dir = cluster.node_dir(&node.name);
    // What was in /run belongs to processes that are gone.
    let run_dir = dir.join("run");
    if run_dir.exists() {
        std::fs::remove_dir_all(&run_dir)
            .with_context(|| format!("remove {}", run_dir.display()))?;
    }
    let mut script = String::from("mount --make-rshared /\nhostname \"$1\"\n");
    for (own, place) in OWN {
        std::fs::create_dir_all(dir.join(own))?;
        script.push_str(&format!("mount --bind \"$2/{own}\" {place}\n"));
    }
    std::fs::create_dir_all(dir.join("run/containerd"))?;
    std::fs::create_dir_all(dir.join("run/netns"))?;
    std::fs::create_dir_all(dir.join("run/lock"))?;
    let mut net = std::ffi::OsString::from("--net=");
    net.push(namespace_file(cluster, &node.name, "net"));
    let mut mnt_option = std::ffi::OsString::from("--mount=");
    mnt_option.push(&mnt);
    let mut uts_option = std::ffi::OsString::from("--uts=");
    uts_option.push(&uts);
    run::output(
        Command::new("nsenter")
            .arg(net)
            .arg("--")
            .arg("unshare")
            .arg(mnt_option)
            .arg(uts_option)
            .args(["--propagation", "slave", "sh", "-ec", &script, "sh"])
            .arg(&node.name)
            .arg(&dir),
    )?;
    Ok(true)
}

/// The words that run what follows them inside a node.
pub fn enter_words(cluster: &Cluster, node: &str) -> Vec<String> {
    let file = |kind: &str| {
        namespace_file(cluster, node, kind)
            .to_string_lossy()
            .into_owned()
    };
    vec![
        "nsenter".into(),
        format!("--net={}", file("net")),
        format!("--mount={}", file("mnt")),
        format!("--uts={}", file("uts")),
        "--".into(),
    ]
}

/// A command that runs inside a node.
pub fn command(cluster: &Cluster, node: &str, program: &str) -> Command {
    let words = enter_words(cluster, node);
    let mut command = Command::new("nsenter");
    command
        .args(words.iter().skip(1))
        .arg(program)
        .current_dir("/");
    command
}

/// Lets go of a host's namespaces. They end when the last process in them has ended.
pub fn release(cluster: &Cluster, host: &str, kinds: &[&str]) -> Result<()> {
    for kind in kinds {
        let file = namespace_file(cluster, host, kind);
        while is_namespace(&file) {
            rustix::mount::unmount(&file, rustix::mount::UnmountFlags::DETACH)
                .with_context(|| format!("unmount {}", file.display()))?;
        }
        let _ = std::fs::remove_file(&file);
    }
    Ok(())
}
