//! Services, in both proxy modes: every replica answers through the cluster address, from a node and from a pod.

use crate::cluster::{Cluster, Namespace, name, seconds, wait_for};
use std::collections::BTreeSet;

pub fn by_nftables(cluster: &Cluster) {
    let space = cluster.namespace("nftables-service");
    let address = reach_all(cluster, &space);
    let rules = cluster.exec("node-1", &["nft", "list", "table", "ip", "kube-proxy"]);
    assert!(
        rules.contains(&address),
        "{address} is not in the rules:\n{rules}"
    );
    assert!(
        rules.contains("map service-ips"),
        "no map of services:\n{rules}"
    );
}

pub fn by_iptables(cluster: &Cluster) {
    cluster.keelson(&["up", "--proxy-mode=iptables"]);
    let space = cluster.namespace("iptables-service");
    let address = reach_all(cluster, &space);
    let rules = cluster.exec("node-1", &["iptables-save", "-t", "nat"]);
    let of_service = |line: &&str| {
        line.starts_with("-A KUBE-SERVICES") && line.contains(&format!("-d {address}/32"))
    };
    let jump = rules
        .lines()
        .find(of_service)
        .unwrap_or_else(|| panic!("no rule for {address}:\n{rules}"));
    let chain = jump.split_whitespace().last().unwrap();
    assert!(chain.starts_with("KUBE-SVC-"), "{jump}");
    let to_endpoint =
        |line: &&str| line.starts_with(&format!("-A {chain} ")) && line.contains("-j KUBE-SEP-");
    assert_eq!(rules.lines().filter(to_endpoint).count(), 4, "{rules}");
    let rewrites = |line: &str| {
        line.starts_with("-A KUBE-SEP-") && line.contains("-j DNAT --to-destination 10.244.")
    };
    assert!(rules.lines().any(rewrites), "{rules}");
    let old = cluster.try_exec("node-1", &["nft", "list", "table", "ip", "kube-proxy"]);
    assert!(old.is_err(), "rules of the other mode are left");
    cluster.keelson(&["up", "--proxy-mode=nftables"]);
}

/// Sees to it that each of four replicas answers, through the Service's address, which it returns.
fn reach_all(cluster: &Cluster, space: &Namespace) -> String {
    let address = space.hello(4);
    let pods = space.pods();
    let all: BTreeSet<String> = pods.iter().map(|p| name(p).to_string()).collect();
    let nodes: BTreeSet<&str> = pods
        .iter()
        .map(|p| p["spec"]["nodeName"].as_str().unwrap())
        .collect();
    assert!(nodes.len() >= 2, "4 replicas on {nodes:?}");
    let url = format!("http://{address}/");
    let answers = |ask: &dyn Fn() -> Result<String, String>| {
        let mut seen = BTreeSet::new();
        // 4 replicas chosen at random: 100 requests miss one with a probability of 1 in 10^12.
        for _ in 0..100 {
            let answer = wait_for("an answer through the service", seconds(15), ask);
            let pod = answer.trim().rsplit(' ').next().unwrap_or("").to_string();
            assert!(all.contains(&pod), "an unknown pod answered: {answer}");
            seen.insert(pod);
            if seen.len() == all.len() {
                return;
            }
        }
        panic!("only {seen:?} of {all:?} answered");
    };
    answers(&|| cluster.try_exec("node-2", &["curl", "-sf", "--max-time", "2", &url]));
    let inside = name(&pods[0]);
    answers(&|| {
        space.try_kubectl(&[
            "exec", inside, "--", "timeout", "3", "wget", "-q", "-O", "-", &url,
        ])
    });
    address
}
