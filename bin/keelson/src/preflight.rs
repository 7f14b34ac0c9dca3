//! What the machine must have. Everything that is missing is named at once, each with the way to get it on Debian.

use crate::cluster::{Cluster, Store};
use crate::configs::Abilities;
use crate::{net, run};
use anyhow::{Result, bail};
use std::path::PathBuf;
use std::process::Command;

/// Programs, and the Debian packages that they come in.
const PROGRAMS: [(&str, &str); 11] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("containerd-shim-runc-v2", "containerd"),
    ("runc", "runc"),
    ("iptables-restore", "iptables"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("setsid", "util-linux"),
];

const CNI_PLACES: [&str; 3] = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];

/// Checks the machine and tells what it can do.
pub fn check(cluster: &Cluster) -> Result<Abilities> {
    if !rustix::process::geteuid().is_root() {
        bail!("making network namespaces and containers needs root; run it again with sudo");
    }
    let mut missing: Vec<String> = Vec::new();
    let mut packages: Vec<&str> = Vec::new();
    for (program, package) in PROGRAMS {
        if run::find_program(program).is_none() {
            missing.push(format!("the program {program}"));
            packages.push(package);
        }
    }
    if cluster.store == Store::Etcd && run::find_program("etcd").is_none() {
        missing.push("the program etcd (for --store etcd)".into());
        packages.push("etcd-server");
    }
    let has_plugins = |dir: &&&str| {
        ["ptp", "host-local", "portmap", "loopback"]
            .iter()
            .all(|p| PathBuf::from(dir).join(p).exists())
    };
    let cni_dir = CNI_PLACES.iter().find(has_plugins).map(PathBuf::from);
    if cni_dir.is_none() {
        missing.push("the CNI plugins ptp, host-local, portmap and loopback".into());
        packages.push("containernetworking-plugins");
    }
    let mut problems = missing
        .iter()
        .map(|m| format!("missing: {m}"))
        .collect::<Vec<_>>();
    if !packages.is_empty() {
        packages.sort_unstable();
        packages.dedup();
        problems.push(format!("on Debian: apt-get install {}", packages.join(" ")));
    }
    for daemon in [
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kubelet",
        "kube-proxy",
    ] {
        if !cluster.binary(daemon).is_file() {
            problems.push(format!(
                "missing: {}; `make build` builds the daemons, --bin-dir says where they are",
                cluster.binary(daemon).display()
            ));
        }
    }
    problems.extend(kernel_problems());
    let overlaps = net::overlaps(cluster);
    if !overlaps.is_empty() {
        problems.push(format!(
            "the machine uses addresses of {} already: {}; choose others with --subnet",
            cluster.subnet_text(),
            overlaps.join("; ")
        ));
    }
    if let Some(owner) = net::foreign_link(cluster) {
        problems.push(format!(
            "the interface {} belongs to {owner}; choose another name with --name",
            cluster.root_interface()
        ));
    }
    if !problems.is_empty() {
        bail!(
            "this machine is not ready for a cluster:\n  - {}",
            problems.join("\n  - ")
        );
    }
    Ok(Abilities {
        lower_oom_score: may_lower_oom_score(),
        snapshotter: if overlay_works(cluster) {
            "overlayfs"
        } else {
            "native"
        },
        cni_dir: cni_dir.unwrap_or_default(),
    })
}

/// Features of the kernel that cannot be had by installing a package. Each is tried, not looked up: a module may be built
/// in, loaded, or loadable.
fn kernel_problems() -> Vec<String> {
    let mut problems = Vec::new();
    let in_a_namespace = |what: &str, hint: &str, script: &str| {
        let tried = run::output(Command::new("unshare").args(["--net", "--", "sh", "-ec", script]));
        tried
            .err()
            .map(|e| format!("the kernel lacks {what} ({hint}): {e:#}"))
    };
    if run::find_program("ip").is_some() {
        problems.extend(in_a_namespace(
            "bridges or cables",
            "CONFIG_BRIDGE, CONFIG_VETH; modprobe bridge veth",
            "ip link add br0 type bridge; ip link add v0 type veth peer name v1",
        ));
    }
    if run::find_program("nft").is_some() {
        problems.extend(in_a_namespace(
            "nftables with NAT",
            "CONFIG_NF_TABLES, CONFIG_NFT_NAT; modprobe nf_tables nft_chain_nat",
            "nft 'add table ip t; add chain ip t c { type nat hook prerouting priority 0; }; add rule ip t c numgen random mod 2 vmap { 0 : accept }'",
        ));
    }
    problems
}

fn may_lower_oom_score() -> bool {
    // A child inherits what the attempt changes, so it is made in one.
    run::output(Command::new("sh").args([
        "-ec",
        "echo $(($(cat /proc/self/oom_score_adj) - 1)) >/proc/self/oom_score_adj",
    ]))
    .is_ok()
}

fn overlay_works(cluster: &Cluster) -> bool {
    let dir = cluster.dir.join("overlay-trial");
    let script = "cd \"$1\"; mkdir l u w m; mount -t overlay -o lowerdir=l,upperdir=u,workdir=w overlay m; echo x >m/x; umount m";
    let made = std::fs::create_dir_all(&dir).is_ok();
    let works = made
        && run::output(
            Command::new("unshare")
                .args(["--mount", "--", "sh", "-ec", script, "sh"])
                .arg(&dir),
        )
        .is_ok();
    let _ = std::fs::remove_dir_all(&dir);
    works
}
