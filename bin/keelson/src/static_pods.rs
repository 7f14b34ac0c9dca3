//! The control plane as static pods: the manifests of `deploy/static-pods`, with this cluster's addresses and arguments
//! of the store, put where the first node's kubelet looks for them.

use crate::cluster::{Cluster, Store, write_file};
use anyhow::Result;

const APISERVER: &str = include_str!("../../../deploy/static-pods/kube-apiserver.yaml");
const CONTROLLER_MANAGER: &str =
    include_str!("../../../deploy/static-pods/kube-controller-manager.yaml");
const SCHEDULER: &str = include_str!("../../../deploy/static-pods/kube-scheduler.yaml");
const ETCD: &str = include_str!("../../../deploy/static-pods/etcd.yaml");

/// The manifests of a cluster, by file name.
fn manifests(cluster: &Cluster) -> Result<Vec<(&'static str, String)>> {
    let node = cluster.first_node()?;
    let address = cluster.node_address(node).to_string();
    let fill = |text: &str| {
        text.replace("10.89.0.11", &address)
            .replace("=node-1", &format!("={}", node.name))
            .replace(
                "cluster-name=keelson",
                &format!("cluster-name={}", cluster.name),
            )
    };
    let apiserver = fill(APISERVER);
    let etcd_only = |line: &str| line.trim_start().starts_with("- --etcd-");
    let embedded_only = |line: &str| line.trim_start().starts_with("- --data-dir=");
    let apiserver: String = apiserver
        .lines()
        .filter(|line| match cluster.store {
            Store::Etcd => !embedded_only(line),
            Store::Embedded => !etcd_only(line),
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let mut all = vec![
        ("kube-apiserver.yaml", apiserver),
        ("kube-controller-manager.yaml", fill(CONTROLLER_MANAGER)),
        ("kube-scheduler.yaml", fill(SCHEDULER)),
    ];
    if cluster.store == Store::Etcd {
        all.push(("etcd.yaml", fill(ETCD)));
    }
    Ok(all)
}

/// Puts the manifests in place.
pub fn write(cluster: &Cluster) -> Result<()> {
    let dir = cluster
        .kube_dir(&cluster.first_node()?.name)
        .join("manifests");
    // A kubelet must never see a half-written manifest, nor a temporary file beside it: files are made elsewhere.
    let staging = dir.with_file_name("manifests-new");
    for (name, text) in manifests(cluster)? {
        if std::fs::read_to_string(dir.join(name)).is_ok_and(|old| old == text) {
            continue;
        }
        write_file(&staging.join(name), text.as_bytes(), 0o600)?;
        std::fs::rename(staging.join(name), dir.join(name))?;
    }
    let _ = std::fs::remove_dir(&staging);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units;

    fn arguments(manifest: &str) -> Vec<String> {
        let pod: serde_json::Value = serde_yaml::from_str(manifest).unwrap();
        let command = pod["spec"]["containers"][0]["command"]
            .as_array()
            .unwrap()
            .clone();
        let mut words: Vec<String> = command
            .iter()
            .skip(1)
            .map(|w| w.as_str().unwrap().to_string())
            .collect();
        words.sort();
        words
    }

    fn sorted(mut words: Vec<String>) -> Vec<String> {
        words.sort();
        words
    }

    #[test]
    fn manifests_and_processes_get_the_same_arguments() {
        for store in [Store::Etcd, Store::Embedded] {
            let mut cluster = Cluster::new("/x".into());
            cluster.store = store;
            cluster.subnet = [10, 89, 7];
            cluster.add_node(Some("first".into())).unwrap();
            for (name, text) in manifests(&cluster).unwrap() {
                let wanted = match name {
                    "kube-apiserver.yaml" => units::apiserver_args(&cluster).unwrap(),
                    "kube-controller-manager.yaml" => units::controller_manager_args(&cluster),
                    "kube-scheduler.yaml" => units::scheduler_args(),
                    "etcd.yaml" => units::etcd_args(&cluster).unwrap(),
                    other => panic!("{other}"),
                };
                assert_eq!(arguments(&text), sorted(wanted), "{name} with {store:?}");
            }
        }
    }
}
