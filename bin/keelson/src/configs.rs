//! The configuration files of containerd, CNI, kubelet and kube-proxy on a node.

use crate::cluster::{Cluster, DNS_ADDRESS, Node, POD_RANGE, ProxyMode, write_file};
use anyhow::Result;
use serde_json::json;
use std::path::PathBuf;

/// What this machine can do, found out once and written down with the cluster.
#[derive(Clone, Debug)]
pub struct Abilities {
    /// Whether processes may be given a lower OOM score than their parent's (CAP_SYS_RESOURCE).
    pub lower_oom_score: bool,
    /// `overlayfs`, or `native` where an overlay cannot be mounted on the state directory's file system.
    pub snapshotter: &'static str,
    /// Where the CNI plugins are.
    pub cni_dir: PathBuf,
}

/// The image that holds a pod's namespaces open.
pub const PAUSE_IMAGE: &str = "keelson.local/pause:1";

/// Writes a node's configuration files.
pub fn write(cluster: &Cluster, node: &Node, abilities: &Abilities) -> Result<()> {
    let kube = cluster.kube_dir(&node.name);
    let dir = cluster.node_dir(&node.name);
    write_file(
        &kube.join("containerd.toml"),
        containerd(abilities).as_bytes(),
        0o644,
    )?;
    write_file(
        &dir.join("cni/net.d/10-keelson.conflist"),
        &cni(cluster, node)?,
        0o644,
    )?;
    write_file(
        &kube.join("resolv.conf"),
        b"# Nodes of this cluster have no name server.\n",
        0o644,
    )?;
    write_file(
        &kube.join("kubelet.yaml"),
        &kubelet(cluster, node, abilities)?,
        0o644,
    )?;
    write_file(
        &kube.join("kube-proxy.yaml"),
        &kube_proxy(cluster, node, abilities)?,
        0o644,
    )
}

fn containerd(abilities: &Abilities) -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
  address = "/run/containerd/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = {restrict}
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
  enable_unprivileged_ports = true

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    default_runtime_name = "runc"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni}"
    conf_dir = "/etc/cni/net.d"
"#,
        restrict = !abilities.lower_oom_score,
        snapshotter = abilities.snapshotter,
        cni = abilities.cni_dir.display(),
    )
}

/// Pods get a cable to their node each (`ptp`) instead of a shared bridge: packets between pods of one node then pass its
/// packet filter, which Services need, without the br_netfilter kernel module.
fn cni(cluster: &Cluster, node: &Node) -> Result<Vec<u8>> {
    let list = json!({
        "cniVersion": "0.4.0",
        "name": "keelson",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": cluster.pod_range(node)}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    });
    Ok(serde_json::to_vec_pretty(&list)?)
}

fn kubelet(cluster: &Cluster, node: &Node, abilities: &Abilities) -> Result<Vec<u8>> {
    let mut config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": cluster.node_address(node).to_string(),
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": "/etc/kubernetes/pki/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}/{}", cluster.group().display(), node.name),
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "enforceNodeAllocatable": ["pods"],
        // The nodes share one disk with the machine: only what is nearly full may end pods.
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"},
        "imageGCHighThresholdPercent": 100,
        "failCgroupV1": false,
        "failSwapOn": false,
        "healthzBindAddress": "127.0.0.1",
        "resolvConf": "/etc/kubernetes/resolv.conf",
        "rotateCertificates": false,
        "serverTLSBootstrap": false,
        "staticPodPath": "/etc/kubernetes/manifests",
        "tlsCertFile": "/etc/kubernetes/pki/kubelet.crt",
        "tlsPrivateKeyFile": "/etc/kubernetes/pki/kubelet.key",
    });
    if !abilities.lower_oom_score
        && let Some(map) = config.as_object_mut()
    {
        map.insert("oomScoreAdj".into(), json!(0));
    }
    Ok(serde_json::to_vec_pretty(&config)?)
}

fn kube_proxy(cluster: &Cluster, node: &Node, abilities: &Abilities) -> Result<Vec<u8>> {
    let mode = match cluster.proxy_mode {
        ProxyMode::Nftables => "nftables",
        ProxyMode::Iptables => "iptables",
    };
    let mut config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "bindAddress": "0.0.0.0",
        "clientConnection": {"kubeconfig": "/etc/kubernetes/kube-proxy.conf"},
        "clusterCIDR": POD_RANGE,
        // Limits of connection tracking belong to the whole machine, not to a node's namespace.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "detectLocalMode": "ClusterCIDR",
        "healthzBindAddress": "0.0.0.0:10256",
        "hostnameOverride": node.name,
        "metricsBindAddress": "127.0.0.1:10249",
        "mode": mode,
    });
    if !abilities.lower_oom_score
        && let Some(map) = config.as_object_mut()
    {
        map.insert("oomScoreAdj".into(), json!(0));
    }
    Ok(serde_json::to_vec_pretty(&config)?)
}
