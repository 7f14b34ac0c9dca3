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

/// How often TCP had to send the first packet of a connection again, from a node's own addresses.
fn lost_connects(cluster: &Cluster, node: &str) -> u64 {
    syn_retransmissions(&cluster.exec(node, &["cat", "/proc/net/netstat"]))
}

fn syn_retransmissions(netstat: &str) -> u64 {
    let mut lines = netstat.lines().filter(|l| l.starts_with("TcpExt: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split(' ').position(|n| n == "TCPSynRetrans").unwrap();
    values.split(' ').nth(at).unwrap().parse().unwrap()
}

/// The first answer may take until the rules are written; from then on every one of 30 requests is answered, and no
/// packet of theirs is sent twice.
pub fn answers_always(cluster: &Cluster, node: &str, address: &str) {
    let url = format!("http://{address}/");
    let ask = || cluster.try_exec(node, &["curl", "-sf", "--max-time", "5", &url]);
    wait_for("the service answers", seconds(15), ask);
    let before = lost_connects(cluster, node);
    for i in 0..30 {
        ask().unwrap_or_else(|e| panic!("request {i}: {e}"));
    }
    assert_eq!(lost_connects(cluster, node), before, "packets were lost");
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
    type Ask<'a> = &'a dyn Fn() -> Result<String, String>;
    let answers = |ask: Ask<'_>, netstat: Ask<'_>| {
        // Until the rules are written. From then on nothing is tried twice, not by TCP either.
        wait_for("an answer through the service", seconds(15), ask);
        let lost = || syn_retransmissions(&netstat().unwrap_or_else(|e| panic!("{e}")));
        let before = lost();
        let mut seen = BTreeSet::new();
        // 4 replicas chosen at random: 100 requests miss one with a probability of 1 in 10^12.
        for i in 0..100 {
            let answer = ask().unwrap_or_else(|e| panic!("request {i} through the service: {e}"));
            let pod = answer.trim().rsplit(' ').next().unwrap_or("").to_string();
            assert!(all.contains(&pod), "an unknown pod answered: {answer}");
            seen.insert(pod);
            // All were seen and a good number more answered.
            if seen.len() == all.len() && i >= 30 {
                break;
            }
        }
        assert_eq!(seen, all, "these answered of those");
        assert_eq!(lost(), before, "packets were lost");
    };
    answers(
        &|| cluster.try_exec("node-2", &["curl", "-sf", "--max-time", "5", &url]),
        &|| cluster.try_exec("node-2", &["cat", "/proc/net/netstat"]),
    );
    let inside = name(&pods[0]);
    let run = |command: &[&str]| space.try_kubectl(&[&["exec", inside, "--"], command].concat());
    answers(
        &|| run(&["timeout", "5", "wget", "-q", "-O", "-", &url]),
        &|| run(&["cat", "/proc/net/netstat"]),
    );
    address
}

/// Two services of one external IP, which is a third one's cluster IP: kube-proxy goes on, all cluster IPs work, and the owners
/// of those without it are told.
pub fn one_owner(cluster: &Cluster) {
    let space = cluster.namespace("one-owner");
    let address = space.hello(1);
    let port = space.json(&["get", "service", "hello"])["spec"]["ports"][0].clone();
    for (service, external) in [("late-a", address.as_str()), ("late-b", &address)] {
        cluster.apply(&format!(
            r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"{service}","namespace":"{}"}},
                "spec":{{"selector":{{"app":"hello"}},"externalIPs":["{external}"],"ports":[{{"port":{},"targetPort":{}}}]}}}}"#,
            space.name, port["port"], port["targetPort"]
        ));
    }
    for service in ["late-a", "late-b"] {
        wait_for("the event", seconds(30), || {
            let field = format!("involvedObject.name={service},reason=ExternalIPAlreadyAllocated");
            let list =
                space.try_kubectl(&["get", "events", "--field-selector", &field, "-o", "name"])?;
            if list.trim().is_empty() {
                Err("none".into())
            } else {
                Ok(())
            }
        });
    }
    for service in ["hello", "late-a", "late-b"] {
        let service = space.json(&["get", "service", service]);
        let ip = service["spec"]["clusterIP"].as_str().unwrap();
        let url = format!("http://{ip}:{}/", port["port"]);
        wait_for("an answer", seconds(15), || {
            cluster.try_exec("node-2", &["curl", "-sf", "--max-time", "2", &url])
        });
    }
    // Only health is to be had on the port that is open to all.
    let code = |path: &str| {
        let url = format!("http://10.89.77.11:10256{path}");
        cluster.exec(
            "node-2",
            &["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", &url],
        )
    };
    assert_eq!(
        ["/healthz", "/livez", "/metrics", "/proxyMode", "/configz"].map(code),
        ["200", "200", "404", "404", "404"]
    );
    let metrics = cluster.exec("node-1", &["curl", "-s", "http://127.0.0.1:10249/metrics"]);
    assert!(
        metrics.contains("kubeproxy_conflicting_service_addresses 2"),
        "{metrics}"
    );
}
