//! Nodes: ready, left alone by a second `up`, added, stopped, started and removed.

use crate::cluster::{Cluster, condition, containers, is_ready, name, seconds, wait_for};
use std::collections::{BTreeMap, BTreeSet};

pub fn ready(cluster: &Cluster) {
    let list = cluster.json(&["get", "nodes"]);
    let nodes = list["items"].as_array().unwrap();
    assert_eq!(nodes.len(), 3);
    assert!(nodes.iter().all(is_ready));
    for node in nodes {
        let version = node["status"]["nodeInfo"]["containerRuntimeVersion"]
            .as_str()
            .unwrap();
        assert!(version.starts_with("containerd://"), "{version}");
    }
    let wide = cluster.kubectl(&["get", "nodes", "-o", "wide"]);
    for word in [
        "INTERNAL-IP",
        "CONTAINER-RUNTIME",
        "10.89.77.11",
        "10.89.77.12",
        "10.89.77.13",
        "containerd://",
    ] {
        assert!(wide.contains(word), "{word} is not in\n{wide}");
    }
    let mut expected = BTreeSet::from([
        "node-1.kube-apiserver".to_string(),
        "node-1.kube-controller-manager".into(),
        "node-1.kube-scheduler".into(),
    ]);
    if cluster.options.store == "etcd" {
        expected.insert("node-1.etcd".into());
    }
    for node in ["node-1", "node-2", "node-3"] {
        for daemon in ["kubelet", "kube-proxy", "containerd"] {
            expected.insert(format!("{node}.{daemon}"));
        }
    }
    let (daemons, supervisor) = (cluster.daemons(), cluster.supervisor());
    assert_eq!(daemons.keys().cloned().collect::<BTreeSet<_>>(), expected);
    let containers = || -> BTreeMap<String, Vec<(String, i64)>> {
        let list = cluster.json(&["get", "pods", "-A"]);
        let pods = list["items"].as_array().unwrap();
        pods.iter()
            .map(|p| (name(p).to_string(), containers(p)))
            .collect()
    };
    let pods = containers();
    cluster.keelson(&["up"]);
    assert_eq!(daemons, cluster.daemons(), "a second up restarted a daemon");
    assert_eq!(
        supervisor,
        cluster.supervisor(),
        "a second up restarted the supervisor"
    );
    assert_eq!(pods, containers(), "a second up restarted a container");
    let status = cluster.keelson(&["status"]);
    for (unit, daemon) in &daemons {
        let (node, name) = unit.split_once('.').unwrap();
        let shown = status.lines().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.starts_with(&[node, name, "running", &daemon.pid.to_string()])
        });
        assert!(shown, "{unit} is not shown as running:\n{status}");
    }
}

pub fn life(cluster: &Cluster) {
    cluster.keelson(&["node", "stop", "node-3"]);
    let error = cluster.try_exec("node-3", &["true"]).unwrap_err();
    assert!(error.contains("keelson node start node-3"), "{error}");
    assert!(cluster.daemon("node-3", "kubelet").is_none());
    cluster.keelson(&["node", "start", "node-3"]);
    wait_for("node-3 is ready", seconds(60), || {
        let node = cluster.try_json(&["get", "node", "node-3"])?;
        if is_ready(&node) {
            Ok(())
        } else {
            Err(condition(&node, "Ready").to_string())
        }
    });
    cluster.keelson(&["node", "add"]);
    let list = cluster.json(&["get", "nodes"]);
    let fourth = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|n| name(n) == "node-4")
        .unwrap()
        .clone();
    assert!(is_ready(&fourth));
    assert_eq!(fourth["spec"]["podCIDR"], "10.244.4.0/24");
    assert!(
        cluster
            .exec("node-1", &["ip", "route"])
            .contains("10.244.4.0/24 via 10.89.77.14")
    );
    cluster.keelson(&["node", "remove", "node-4"]);
    assert!(cluster.try_kubectl(&["get", "node", "node-4"]).is_err());
    assert!(
        !cluster
            .exec("node-1", &["ip", "route"])
            .contains("10.244.4.0/24")
    );
    let error = cluster.try_keelson(&["node", "cut", "node-1"]).unwrap_err();
    assert!(error.contains("control plane"), "{error}");
}
