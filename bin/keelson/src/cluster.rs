//! What the cluster is meant to be, kept as `cluster.json` in its state directory, and where its files are.
//!
//! Invariant: every path, name and address that a command uses comes from here, so that `down` finds what `up` made. What the
//! cluster makes on the machine is told apart by its [`Identity`].

use crate::identity::Identity;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Pod addresses of the whole cluster; node number `i` has 10.244.i.0/24.
pub const POD_RANGE: &str = "10.244.0.0/16";
/// Service addresses.
pub const SERVICE_RANGE: &str = "10.96.0.0/16";
/// Where the cluster DNS add-on answers once it is installed.
pub const DNS_ADDRESS: &str = "10.96.0.10";
/// The apiserver's port on the first node.
pub const API_PORT: u16 = 6443;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Store {
    Embedded,
    Etcd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyMode {
    Nftables,
    Iptables,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlPlane {
    Processes,
    StaticPods,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    Running,
    Stopped,
    Cut,
}

/// One node. The number gives it its address and its range of pod addresses; it is never used twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub name: String,
    pub number: u8,
    pub state: NodeState,
    /// Set when the apiserver has another range for the node than its number gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_range: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cluster {
    pub name: String,
    pub bin_dir: PathBuf,
    pub store: Store,
    pub proxy_mode: ProxyMode,
    pub control_plane: ControlPlane,
    /// The first three bytes of the nodes' addresses.
    pub subnet: [u8; 3],
    pub nodes: Vec<Node>,
    /// The number that the next node gets.
    pub next_number: u8,
    #[serde(skip)]
    pub dir: PathBuf,
    /// `None` before `up`, and for clusters of versions that had no ids.
    #[serde(skip)]
    pub identity: Option<Identity>,
}

/// The longest name of a cluster or a node.
pub const LONGEST_NAME: usize = 40;
/// The longest path of a unix socket, with its NUL.
const LONGEST_SOCKET: usize = 108;

fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= LONGEST_NAME
        && name.starts_with(plain)
        && name.ends_with(plain)
        && name.chars().all(|c| plain(c) || c == '-')
}

/// A name for an interface (15 bytes at most): the name itself with a suffix, or where that is too long or `taken`, a hash.
fn interface(name: &str, suffix: &str, taken: &[&str]) -> String {
    let plain = format!("{name}{suffix}");
    if plain.len() <= 15 && !taken.contains(&plain.as_str()) {
        return plain;
    }
    let hash = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
    let hex: String = hash
        .as_ref()
        .iter()
        .take(5)
        .map(|b| format!("{b:02x}"))
        .collect();
    // A dot stands in no name, so no name is like a hash.
    format!("k.{hex}{suffix}")
}

/// Reads one of an enum's kebab-case names.
pub fn choice<T: serde::de::DeserializeOwned>(flag: &str, value: &str, all: &str) -> Result<T> {
    serde_json::from_value(serde_json::Value::String(value.to_string()))
        .map_err(|_| anyhow::anyhow!("--{flag} {value} is not known; choose one of {all}"))
}

/// The state directory: the option, else `KEELSON_STATE_DIR`, else `/var/lib/keelson`.
pub fn state_dir(option: Option<PathBuf>) -> Result<PathBuf> {
    let dir = option
        .or_else(|| std::env::var_os("KEELSON_STATE_DIR").map(PathBuf::from))
        .unwrap_or_else(|| PathBuf::from("/var/lib/keelson"));
    let dir = std::path::absolute(dir)?;
    for hidden in [
        "/run",
        "/var/run",
        "/var/log",
        "/etc/kubernetes",
        "/etc/cni",
        "/var/lib/kubelet",
        "/proc",
        "/sys",
    ] {
        if dir.starts_with(hidden) {
            bail!(
                "the state directory cannot be in {hidden}, because nodes have one of their own; choose another --state-dir"
            );
        }
    }
    // The longest socket path beneath must fit into a unix address (108 bytes).
    if dir.as_os_str().len() > 50 {
        bail!(
            "the state directory's path is longer than 50 bytes, too long for the sockets in it; choose a shorter --state-dir"
        );
    }
    Ok(dir)
}

impl Cluster {
    /// A cluster without nodes, with every default.
    pub fn new(dir: PathBuf) -> Self {
        let bin_dir = std::env::current_exe()
            .ok()
            .and_then(|p| p.parent().map(Path::to_path_buf))
            .unwrap_or_default();
        Cluster {
            name: "keelson".into(),
            bin_dir,
            store: Store::Embedded,
            proxy_mode: ProxyMode::Nftables,
            control_plane: ControlPlane::Processes,
            subnet: [10, 89, 0],
            nodes: Vec::new(),
            next_number: 1,
            dir,
            identity: None,
        }
    }

    /// The cluster in this directory, if there is one.
    pub fn find(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join("cluster.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("read {}", path.display())),
        };
        let mut cluster: Cluster = serde_json::from_slice(&bytes).with_context(|| {
            format!(
                "{} is damaged; `keelson down` removes the cluster",
                path.display()
            )
        })?;
        cluster.dir = dir.to_path_buf();
        cluster.identity = Identity::read(dir)?;
        Ok(Some(cluster))
    }

    /// The cluster in this directory, or an error that says how to make one.
    pub fn open(dir: &Path) -> Result<Self> {
        match Self::find(dir)? {
            Some(cluster) => Ok(cluster),
            None => bail!(
                "there is no cluster in {}; `keelson up` starts one",
                dir.display()
            ),
        }
    }

    pub fn save(&self) -> Result<()> {
        write_file(
            &self.dir.join("cluster.json"),
            &serde_json::to_vec_pretty(self)?,
            0o644,
        )
    }

    /// Adds a node under this name.
    pub fn add_node(&mut self, name: Option<String>) -> Result<Node> {
        let number = self.next_number;
        if number > 200 {
            bail!(
                "this cluster has had 200 nodes, and their addresses are used up; start anew with `keelson down` and `keelson up`"
            );
        }
        let name = name.unwrap_or_else(|| format!("node-{number}"));
        if !is_name(&name) || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
            bail!(
                "\"{name}\" cannot name a node: use at most {LONGEST_NAME} lower-case letters, digits and dashes, a letter first and no dash last"
            );
        }
        if ["switch", "supervisor"].contains(&name.as_str()) {
            bail!("\"{name}\" cannot name a node: keelson itself has something of this name");
        }
        if self.containerd_socket(&name).as_os_str().len() >= LONGEST_SOCKET {
            bail!(
                "\"{name}\" is too long for the sockets in {}; choose a shorter name or a shorter --state-dir",
                self.dir.display()
            );
        }
        if self.nodes.iter().any(|n| n.name == name) {
            bail!("there is a node \"{name}\" already");
        }
        let node = Node {
            name,
            number,
            state: NodeState::Running,
            pod_range: None,
        };
        self.nodes.push(node.clone());
        self.next_number += 1;
        Ok(node)
    }

    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|n| n.name == name).with_context(|| {
            let names: Vec<&str> = self.nodes.iter().map(|n| n.name.as_str()).collect();
            format!(
                "there is no node \"{name}\"; the nodes are {}",
                names.join(", ")
            )
        })
    }

    /// The node whose namespaces the control plane runs in.
    pub fn first_node(&self) -> Result<&Node> {
        self.nodes
            .first()
            .context("the cluster has no nodes; `keelson up --nodes 1` adds one")
    }

    pub fn is_first(&self, node: &Node) -> bool {
        self.nodes.first().is_some_and(|n| n.name == node.name)
    }

    pub fn node_address(&self, node: &Node) -> Ipv4Addr {
        let [a, b, c] = self.subnet;
        Ipv4Addr::new(a, b, c, node.number.saturating_add(10))
    }

    /// The root namespace's own address in the nodes' subnet.
    pub fn root_address(&self) -> Ipv4Addr {
        let [a, b, c] = self.subnet;
        Ipv4Addr::new(a, b, c, 1)
    }

    pub fn subnet_text(&self) -> String {
        let [a, b, c] = self.subnet;
        format!("{a}.{b}.{c}.0/24")
    }

    /// The addresses of a node's pods: those that the apiserver has for it, or those it is to have.
    pub fn pod_range(&self, node: &Node) -> String {
        match &node.pod_range {
            Some(range) => range.clone(),
            None => format!("10.244.{}.0/24", node.number),
        }
    }

    pub fn api_url(&self) -> Result<String> {
        Ok(format!(
            "https://{}:{API_PORT}",
            self.node_address(self.first_node()?)
        ))
    }

    /// Names the cluster.
    pub fn rename(&mut self, name: String) -> Result<()> {
        if !is_name(&name) {
            bail!(
                "--name {name}: use at most {LONGEST_NAME} lower-case letters, digits and dashes, no dash first or last"
            );
        }
        self.name = name;
        Ok(())
    }

    /// The interface in the root namespace.
    pub fn root_interface(&self) -> String {
        interface(&self.name, "0", &[])
    }

    /// A node's interface in the switch.
    pub fn cable(&self, node: &Node) -> String {
        interface(&node.name, "", &["br0", "root", "lo"])
    }

    /// The control group of all processes, relative to the top of a hierarchy.
    pub fn group(&self) -> PathBuf {
        match &self.identity {
            Some(identity) => identity.group().into(),
            None => self.name.clone().into(),
        }
    }

    pub fn binary(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }

    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.dir.join("admin.conf")
    }

    pub fn node_dir(&self, node: &str) -> PathBuf {
        self.dir.join("nodes").join(node)
    }

    /// Exists once the apiserver has an object for the node, and so its kubelet may start.
    pub fn registered_mark(&self, node: &str) -> PathBuf {
        self.node_dir(node).join("registered")
    }

    /// What the node sees as `/etc/kubernetes`.
    pub fn kube_dir(&self, node: &str) -> PathBuf {
        self.node_dir(node).join("kubernetes")
    }

    /// Where certificates and kubeconfigs are made, laid out as kubeadm does; nodes get copies of what is theirs.
    pub fn master_dir(&self) -> PathBuf {
        self.dir.join("kubernetes")
    }

    /// containerd's socket, seen from outside of the node.
    pub fn containerd_socket(&self, node: &str) -> PathBuf {
        self.node_dir(node).join("run/containerd/containerd.sock")
    }

    pub fn namespaces_dir(&self) -> PathBuf {
        self.dir.join("ns")
    }

    pub fn images_dir(&self) -> PathBuf {
        self.dir.join("images")
    }

    pub fn units_dir(&self) -> PathBuf {
        self.dir.join("units")
    }

    /// One file per running daemon: its process.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    pub fn logs_dir(&self) -> PathBuf {
        self.dir.join("logs")
    }

    pub fn supervisor_socket(&self) -> PathBuf {
        self.dir.join("supervisor.sock")
    }
}

/// Writes a file through a temporary one beside it, so that a reader sees the old or the new content, and makes the
/// directories above it. An unchanged file is left alone.
pub fn write_file(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    if std::fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    let parent = path.parent().context("a path without a parent")?;
    std::fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    let mut temporary = path.as_os_str().to_os_string();
    temporary.push(".new");
    let write = || -> std::io::Result<()> {
        let _ = std::fs::remove_file(&temporary);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        std::io::Write::write_all(&mut file, content)?;
        std::fs::rename(&temporary, path)
    };
    write().with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_numbers_that_are_never_used_twice() {
        let mut cluster = Cluster::new("/x".into());
        let one = cluster.add_node(None).unwrap();
        let two = cluster.add_node(None).unwrap();
        assert_eq!((one.name.as_str(), two.name.as_str()), ("node-1", "node-2"));
        cluster.nodes.pop();
        let three = cluster.add_node(None).unwrap();
        assert_eq!(three.number, 3);
        assert_eq!(cluster.node_address(&three).to_string(), "10.89.0.13");
        assert_eq!(cluster.pod_range(&three), "10.244.3.0/24");
        let mut refused = |name: &str, why: &str| {
            let error = cluster.add_node(Some(name.into())).unwrap_err().to_string();
            assert!(error.contains(why), "{name}: {error}");
        };
        refused("node-1", "there is a node \"node-1\" already");
        for bad in ["", "Node", "-a", "a-", "1a", "a/b", "a.b", &"a".repeat(41)] {
            refused(bad, "use at most 40 lower-case letters");
        }
        for bad in ["switch", "supervisor"] {
            refused(bad, "keelson itself has something of this name");
        }
        cluster.add_node(Some("a".repeat(40))).unwrap();
        cluster.dir = format!("/{}", "x".repeat(49)).into();
        let error = cluster.add_node(Some("b".repeat(40))).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("is too long for the sockets in /x"),
            "{error}"
        );
        cluster.add_node(Some("b".repeat(13))).unwrap();
    }

    #[test]
    fn interfaces_fit_and_differ_whatever_the_names() {
        let mut cluster = Cluster::new("/x".into());
        assert_eq!(cluster.root_interface(), "keelson0");
        for name in ["", "-a", "a-", "A", "a b", "../x", &"a".repeat(41)] {
            let error = cluster.rename(name.into()).unwrap_err().to_string();
            let why = format!("--name {name}: use at most 40 lower-case letters");
            assert!(error.starts_with(&why), "{error}");
        }
        let mut seen = std::collections::HashSet::new();
        for n in 1..=40 {
            cluster.rename("e".repeat(n)).unwrap();
            let name = cluster.root_interface();
            assert!(name.len() <= 15 && seen.insert(name.clone()), "{name}");
        }
        for name in [
            "root",
            "lo",
            "br0",
            "node-1",
            &"n".repeat(40),
            &"n".repeat(39),
        ] {
            let node = cluster.add_node(Some(name.into())).unwrap();
            let cable = cluster.cable(&node);
            assert!(cable.len() <= 15 && seen.insert(cable.clone()), "{cable}");
            assert!(!["br0", "root", "lo"].contains(&cable.as_str()));
        }
    }

    #[test]
    fn state_directories_that_nodes_would_hide_are_refused() {
        for (dir, why) in [
            ("/run/k".to_owned(), "cannot be in /run"),
            (format!("/tmp/{}", "x".repeat(60)), "longer than 50 bytes"),
        ] {
            let error = state_dir(Some(dir.into())).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        state_dir(Some("/tmp/k".into())).unwrap();
    }

    #[test]
    fn a_cluster_is_read_back_as_written() {
        let dir = std::env::temp_dir().join(format!("keelson-cluster-{}", std::process::id()));
        let mut cluster = Cluster::new(dir.clone());
        cluster.add_node(None).unwrap();
        cluster.save().unwrap();
        let back = Cluster::open(&dir).unwrap();
        assert_eq!(back.nodes, cluster.nodes);
        assert_eq!(back.dir, dir);
        std::fs::remove_dir_all(&dir).unwrap();
        let error = Cluster::open(&dir).err().unwrap().to_string();
        assert!(error.starts_with("there is no cluster in "), "{error}");
    }
}
