//! The daemons of a cluster: on which node each runs, and its command line.

use crate::cluster::{
    API_PORT, Cluster, ControlPlane, Node, NodeState, POD_RANGE, SERVICE_RANGE, Store, write_file,
};
use crate::run;
use crate::supervise::Unit;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// The daemons of the control plane, in the order in which `status` shows them.
pub const CONTROL_PLANE: [&str; 4] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];
/// The daemons of every node.
pub const NODE: [&str; 3] = ["containerd", "kubelet", "kube-proxy"];

/// The program and the files a daemon reads only when it starts: a change of one restarts it.
fn revision(cluster: &Cluster, node: &Node, daemon: &str, program: Option<&String>) -> String {
    let kube = cluster.kube_dir(&node.name);
    let files: &[&str] = match daemon {
        "containerd" => &["containerd.toml"],
        "kubelet" => &["kubelet.yaml", "kubelet.conf", "pki/kubelet.crt"],
        "kube-proxy" => &["kube-proxy.yaml", "kube-proxy.conf"],
        "kube-apiserver" => &["pki/ca.crt", "pki/apiserver.crt", "pki/sa.key"],
        "kube-controller-manager" => &["controller-manager.conf", "pki/ca.crt", "pki/sa.key"],
        "kube-scheduler" => &["scheduler.conf"],
        "etcd" => &["pki/etcd/ca.crt", "pki/etcd/server.crt"],
        _ => &[],
    };
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    if let Some(Ok(meta)) = program.map(std::fs::metadata) {
        use std::os::unix::fs::MetadataExt;
        let state = format!("{} {}.{}", meta.size(), meta.mtime(), meta.mtime_nsec());
        context.update(state.as_bytes());
    }
    for file in files {
        context.update(&std::fs::read(kube.join(file)).unwrap_or_default());
    }
    context
        .finish()
        .as_ref()
        .iter()
        .take(8)
        .map(|b| format!("{b:02x}"))
        .collect()
}

fn unit(cluster: &Cluster, node: &Node, daemon: &str, argv: Vec<String>) -> Unit {
    Unit {
        name: format!("{}.{daemon}", node.name),
        node: node.name.clone(),
        daemon: daemon.into(),
        revision: revision(cluster, node, daemon, argv.first()),
        argv,
        environment: Vec::new(),
        after: Vec::new(),
    }
}

fn own(cluster: &Cluster, daemon: &str) -> String {
    cluster.binary(daemon).to_string_lossy().into_owned()
}

fn system(program: &str) -> Result<String> {
    let path = run::find_program(program).with_context(|| format!("{program} is not installed"))?;
    Ok(path.to_string_lossy().into_owned())
}

/// The arguments of the apiserver, after its name.
pub fn apiserver_args(cluster: &Cluster) -> Result<Vec<String>> {
    let address = cluster.node_address(cluster.first_node()?);
    let mut args: Vec<String> = vec![
        format!("--advertise-address={address}"),
        format!("--secure-port={API_PORT}"),
        "--allow-privileged=true".into(),
        "--authorization-mode=Node,RBAC".into(),
        "--client-ca-file=/etc/kubernetes/pki/ca.crt".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        "--kubelet-certificate-authority=/etc/kubernetes/pki/ca.crt".into(),
        "--kubelet-client-certificate=/etc/kubernetes/pki/apiserver-kubelet-client.crt".into(),
        "--kubelet-client-key=/etc/kubernetes/pki/apiserver-kubelet-client.key".into(),
        "--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname".into(),
        "--proxy-client-cert-file=/etc/kubernetes/pki/front-proxy-client.crt".into(),
        "--proxy-client-key-file=/etc/kubernetes/pki/front-proxy-client.key".into(),
        "--requestheader-allowed-names=front-proxy-client".into(),
        "--requestheader-client-ca-file=/etc/kubernetes/pki/front-proxy-ca.crt".into(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
        "--requestheader-group-headers=X-Remote-Group".into(),
        "--requestheader-username-headers=X-Remote-User".into(),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
        "--service-account-key-file=/etc/kubernetes/pki/sa.pub".into(),
        "--service-account-signing-key-file=/etc/kubernetes/pki/sa.key".into(),
        format!("--service-cluster-ip-range={SERVICE_RANGE}"),
        "--tls-cert-file=/etc/kubernetes/pki/apiserver.crt".into(),
        "--tls-private-key-file=/etc/kubernetes/pki/apiserver.key".into(),
    ];
    match cluster.store {
        Store::Etcd => args.extend([
            "--etcd-servers=https://127.0.0.1:2379".into(),
            "--etcd-cafile=/etc/kubernetes/pki/etcd/ca.crt".into(),
            "--etcd-certfile=/etc/kubernetes/pki/apiserver-etcd-client.crt".into(),
            "--etcd-keyfile=/etc/kubernetes/pki/apiserver-etcd-client.key".into(),
        ]),
        Store::Embedded => args.push("--data-dir=/var/lib/etcd/embedded".into()),
    }
    Ok(args)
}

/// The arguments of the controller manager, after its name.
pub fn controller_manager_args(cluster: &Cluster) -> Vec<String> {
    vec![
        "--allocate-node-cidrs=true".into(),
        "--authentication-kubeconfig=/etc/kubernetes/controller-manager.conf".into(),
        "--authorization-kubeconfig=/etc/kubernetes/controller-manager.conf".into(),
        "--bind-address=127.0.0.1".into(),
        "--client-ca-file=/etc/kubernetes/pki/ca.crt".into(),
        format!("--cluster-cidr={POD_RANGE}"),
        format!("--cluster-name={}", cluster.name),
        "--cluster-signing-cert-file=/etc/kubernetes/pki/ca.crt".into(),
        "--cluster-signing-key-file=/etc/kubernetes/pki/ca.key".into(),
        "--controllers=*,bootstrapsigner,tokencleaner".into(),
        "--kubeconfig=/etc/kubernetes/controller-manager.conf".into(),
        "--leader-elect=true".into(),
        "--node-monitor-grace-period=40s".into(),
        "--requestheader-client-ca-file=/etc/kubernetes/pki/front-proxy-ca.crt".into(),
        "--root-ca-file=/etc/kubernetes/pki/ca.crt".into(),
        "--service-account-private-key-file=/etc/kubernetes/pki/sa.key".into(),
        format!("--service-cluster-ip-range={SERVICE_RANGE}"),
        "--use-service-account-credentials=true".into(),
    ]
}

/// The arguments of the scheduler, after its name.
pub fn scheduler_args() -> Vec<String> {
    vec![
        "--authentication-kubeconfig=/etc/kubernetes/scheduler.conf".into(),
        "--authorization-kubeconfig=/etc/kubernetes/scheduler.conf".into(),
        "--bind-address=127.0.0.1".into(),
        "--kubeconfig=/etc/kubernetes/scheduler.conf".into(),
        "--leader-elect=true".into(),
    ]
}

/// The arguments of etcd, after its name.
pub fn etcd_args(cluster: &Cluster) -> Result<Vec<String>> {
    let node = cluster.first_node()?;
    let address = cluster.node_address(node);
    Ok(vec![
        format!("--name={}", node.name),
        format!("--advertise-client-urls=https://{address}:2379"),
        format!("--listen-client-urls=https://127.0.0.1:2379,https://{address}:2379"),
        format!("--initial-advertise-peer-urls=https://{address}:2380"),
        format!("--initial-cluster={}=https://{address}:2380", node.name),
        format!("--listen-peer-urls=https://{address}:2380"),
        "--listen-metrics-urls=http://127.0.0.1:2381".into(),
        "--data-dir=/var/lib/etcd/data".into(),
        "--client-cert-auth=true".into(),
        "--cert-file=/etc/kubernetes/pki/etcd/server.crt".into(),
        "--key-file=/etc/kubernetes/pki/etcd/server.key".into(),
        "--trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt".into(),
        "--peer-client-cert-auth=true".into(),
        "--peer-cert-file=/etc/kubernetes/pki/etcd/peer.crt".into(),
        "--peer-key-file=/etc/kubernetes/pki/etcd/peer.key".into(),
        "--peer-trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt".into(),
        "--snapshot-count=10000".into(),
    ])
}

fn with_program(program: String, args: Vec<String>) -> Vec<String> {
    std::iter::once(program).chain(args).collect()
}

/// Every daemon that is wanted by now.
pub fn wanted(cluster: &Cluster) -> Result<Vec<Unit>> {
    let mut units = Vec::new();
    let socket = |node: &Node| vec![cluster.containerd_socket(&node.name)];
    for node in cluster
        .nodes
        .iter()
        .filter(|n| n.state != NodeState::Stopped)
    {
        let static_pods = cluster.control_plane == ControlPlane::StaticPods;
        if cluster.is_first(node) && !static_pods {
            if cluster.store == Store::Etcd {
                units.push(unit(
                    cluster,
                    node,
                    "etcd",
                    with_program(system("etcd")?, etcd_args(cluster)?),
                ));
            }
            let daemons = [
                ("kube-apiserver", apiserver_args(cluster)?),
                ("kube-controller-manager", controller_manager_args(cluster)),
                ("kube-scheduler", scheduler_args()),
            ];
            for (daemon, args) in daemons {
                units.push(unit(
                    cluster,
                    node,
                    daemon,
                    with_program(own(cluster, daemon), args),
                ));
            }
        }
        units.push(unit(
            cluster,
            node,
            "containerd",
            vec![
                system("containerd")?,
                "--config".into(),
                "/etc/kubernetes/containerd.toml".into(),
            ],
        ));
        // A kubelet starts when the apiserver has an object for its node, whose addresses it then takes; but in static pods
        // the apiserver is started by its node's kubelet.
        let registered = cluster.registered_mark(&node.name).exists();
        if registered || (static_pods && cluster.is_first(node)) {
            let mut kubelet = unit(
                cluster,
                node,
                "kubelet",
                vec![
                    own(cluster, "kubelet"),
                    "--config=/etc/kubernetes/kubelet.yaml".into(),
                    "--kubeconfig=/etc/kubernetes/kubelet.conf".into(),
                    format!("--hostname-override={}", node.name),
                    format!("--node-ip={}", cluster.node_address(node)),
                ],
            );
            kubelet.after = socket(node);
            units.push(kubelet);
        }
        if registered {
            units.push(unit(
                cluster,
                node,
                "kube-proxy",
                vec![
                    own(cluster, "kube-proxy"),
                    "--config=/etc/kubernetes/kube-proxy.yaml".into(),
                ],
            ));
        }
    }
    Ok(units)
}

/// Makes `units/` hold exactly these.
pub fn write(cluster: &Cluster, units: &[Unit]) -> Result<()> {
    let dir = cluster.units_dir();
    std::fs::create_dir_all(&dir)?;
    let names: Vec<PathBuf> = units
        .iter()
        .map(|u| dir.join(format!("{}.json", u.name)))
        .collect();
    for entry in std::fs::read_dir(&dir)?.flatten() {
        let path: PathBuf = entry.path();
        if path.extension() == Some(Path::new("json").as_os_str()) && !names.contains(&path) {
            std::fs::remove_file(path)?;
        }
    }
    for (unit, path) in units.iter().zip(&names) {
        write_file(path, &serde_json::to_vec_pretty(unit)?, 0o644)?;
    }
    Ok(())
}
