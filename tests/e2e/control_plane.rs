//! The control plane in static pods, and what is in etcd.

use crate::cluster::{Cluster, is_ready, seconds, wait_for};

pub fn runs_in_static_pods(cluster: &Cluster) {
    for component in [
        "etcd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
    ] {
        let pod = format!("{component}-node-1");
        wait_for(&format!("{pod} is ready"), seconds(90), || {
            let pod = cluster.try_json(&["-n", "kube-system", "get", "pod", &pod])?;
            if is_ready(&pod) {
                Ok(())
            } else {
                Err(pod["status"].to_string())
            }
        });
    }
    assert!(
        cluster.daemon("node-1", "kube-apiserver").is_none(),
        "an apiserver runs beside the static pod"
    );
    let space = cluster.namespace("static-control-plane");
    space.hello(1);
}

fn etcdctl(cluster: &Cluster, args: &[&str]) -> String {
    let pki = "/etc/kubernetes/pki/etcd";
    let (ca, cert, key) = (
        format!("--cacert={pki}/ca.crt"),
        format!("--cert={pki}/healthcheck-client.crt"),
        format!("--key={pki}/healthcheck-client.key"),
    );
    let mut words = vec![
        "env",
        "ETCDCTL_API=3",
        "etcdctl",
        "--endpoints=https://127.0.0.1:2379",
        &ca,
        &cert,
        &key,
    ];
    words.extend(args);
    cluster.exec("node-1", &words)
}

/// The embedded store answers etcd's API on a socket.
pub fn embedded_keys(cluster: &Cluster) {
    if cluster.options.store == "etcd" {
        return keys_of_upstream(&|args| etcdctl(cluster, args), cluster);
    }
    // The socket by its name in the directory it is in: etcdctl 3.4 sends the endpoint as the HTTP/2 authority, and an
    // absolute path is none.
    let ask = |args: &[&str]| {
        let script = "cd /var/lib/etcd/embedded && ETCDCTL_API=3 exec etcdctl --endpoints=unix://etcd.sock \"$@\"";
        let mut words = vec!["sh", "-c", script, "sh"];
        words.extend(args);
        cluster.exec("node-1", &words)
    };
    keys_of_upstream(&ask, cluster);
}

pub fn etcd_keys(cluster: &Cluster) {
    keys_of_upstream(&|args| etcdctl(cluster, args), cluster);
}

fn keys_of_upstream(etcdctl: &dyn Fn(&[&str]) -> String, cluster: &Cluster) {
    cluster.kubectl(&["create", "configmap", "in-etcd", "--from-literal=a=b"]);
    let keys = etcdctl(&["get", "/", "--prefix", "--keys-only"]);
    for key in [
        "/registry/configmaps/default/in-etcd",
        "/registry/minions/node-1",
        "/registry/namespaces/default",
        "/registry/services/specs/default/kubernetes",
        "/registry/clusterroles/cluster-admin",
    ] {
        assert!(
            keys.lines().any(|l| l == key),
            "{key} is not among the keys:\n{keys}"
        );
    }
    let foreign: Vec<&str> = keys
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with("/registry/") && *l != "compact_rev_key")
        .collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    let value = etcdctl(&[
        "get",
        "/registry/configmaps/default/in-etcd",
        "--print-value-only",
        "--hex",
    ]);
    assert!(
        value.starts_with("\\x6b\\x38\\x73\\x00"),
        "{}",
        value.get(..60).unwrap_or(&value)
    );
    cluster.kubectl(&["delete", "configmap", "in-etcd"]);
}
