//! Certificates, keys and kubeconfigs: made by `pki` in one place, then copied to the nodes that use them, each node only
//! what is its own.

use crate::cluster::{Cluster, Node, SERVICE_RANGE, write_file};
use anyhow::{Context, Result};
use std::path::Path;

/// The first address of the service range: the `kubernetes` service.
fn kubernetes_service_address() -> String {
    let network = SERVICE_RANGE.split('/').next().unwrap_or(SERVICE_RANGE);
    network
        .rsplit_once('.')
        .map_or_else(String::new, |(head, _)| format!("{head}.1"))
}

/// Makes or renews everything. Whether anything is new.
pub fn ensure(cluster: &Cluster) -> Result<bool> {
    let first = cluster.first_node()?;
    let address = cluster.node_address(first).to_string();
    let wanted = pki::layout::Cluster {
        name: cluster.name.clone(),
        server: cluster.api_url()?,
        apiserver_sans: vec![
            kubernetes_service_address(),
            address.clone(),
            first.name.clone(),
        ],
        dns_domain: "cluster.local".into(),
        etcd_sans: vec![address],
        nodes: cluster
            .nodes
            .iter()
            .map(|n| pki::layout::Node {
                name: n.name.clone(),
                sans: vec![cluster.node_address(n).to_string()],
            })
            .collect(),
    };
    let master = cluster.master_dir();
    let wrote = pki::layout::ensure(&master, &wanted).context("make certificates")?;
    copy(&master.join("admin.conf"), &cluster.admin_kubeconfig())?;
    for node in &cluster.nodes {
        give(cluster, node)?;
    }
    Ok(!wrote.is_empty())
}

fn give(cluster: &Cluster, node: &Node) -> Result<()> {
    let master = cluster.master_dir();
    let own = cluster.kube_dir(&node.name);
    let name = &node.name;
    copy(&master.join("pki/ca.crt"), &own.join("pki/ca.crt"))?;
    copy(
        &master.join(format!("kubelet-{name}.conf")),
        &own.join("kubelet.conf"),
    )?;
    copy(
        &master.join(format!("pki/kubelet-{name}.crt")),
        &own.join("pki/kubelet.crt"),
    )?;
    copy(
        &master.join(format!("pki/kubelet-{name}.key")),
        &own.join("pki/kubelet.key"),
    )?;
    copy(
        &master.join("kube-proxy.conf"),
        &own.join("kube-proxy.conf"),
    )?;
    std::fs::create_dir_all(own.join("manifests"))?;
    if !cluster.is_first(node) {
        return Ok(());
    }
    for conf in ["admin", "super-admin", "controller-manager", "scheduler"] {
        copy(
            &master.join(format!("{conf}.conf")),
            &own.join(format!("{conf}.conf")),
        )?;
    }
    for dir in ["pki", "pki/etcd"] {
        for entry in std::fs::read_dir(master.join(dir))?.flatten() {
            let file = entry.file_name();
            let of_a_kubelet = file.to_string_lossy().starts_with("kubelet-");
            if entry.file_type()?.is_file() && !of_a_kubelet {
                copy(&entry.path(), &own.join(dir).join(file))?;
            }
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let content = std::fs::read(from).with_context(|| format!("read {}", from.display()))?;
    let mode = std::fs::metadata(from)?.permissions().mode() & 0o777;
    write_file(to, &content, mode)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kubernetes_service_has_the_first_address() {
        assert_eq!(super::kubernetes_service_address(), "10.96.0.1");
    }
}
