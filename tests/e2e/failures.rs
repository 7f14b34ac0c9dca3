//! Killed daemons and a node that is off the network.

use crate::cluster::{Cluster, condition, containers, is_ready, name, seconds, wait_for};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

fn running(pods: &[serde_json::Value]) -> BTreeMap<String, Vec<(String, i64)>> {
    pods.iter()
        .map(|p| (name(p).to_string(), containers(p)))
        .collect()
}

pub fn kill_each_daemon(cluster: &Cluster) {
    let mut victims = vec![
        ("node-1", "kube-apiserver"),
        ("node-1", "kube-controller-manager"),
        ("node-1", "kube-scheduler"),
        ("node-2", "kubelet"),
        ("node-2", "kube-proxy"),
        ("node-2", "containerd"),
    ];
    if cluster.options.store == "etcd" {
        victims.push(("node-1", "etcd"));
    }
    kill_under_writes(cluster, &victims);
}

/// More than once: the second time it comes up with what it wrote after the first.
pub fn kill_the_store(cluster: &Cluster) {
    kill_under_writes(cluster, &[("node-1", "etcd"), ("node-1", "etcd")]);
}

/// Kills one after the other while objects are created: nothing that was acknowledged is lost, no container is touched.
fn kill_under_writes(cluster: &Cluster, victims: &[(&str, &str)]) {
    let space = cluster.namespace("killed");
    let address = space.hello(4);
    let before = running(&space.pods());
    let daemons = cluster.daemons();
    let acknowledged = Mutex::new(Vec::new());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut i = 0;
            while !stop.load(Ordering::Relaxed) {
                let name = format!("written-{i}");
                if space
                    .try_kubectl(&[
                        "create",
                        "configmap",
                        &name,
                        &format!("--from-literal=i={i}"),
                    ])
                    .is_ok()
                {
                    acknowledged.lock().unwrap().push(name);
                }
                i += 1;
            }
        });
        let kills = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for (node, daemon) in victims {
                kill(cluster, node, daemon);
                let so_far = acknowledged.lock().unwrap().len();
                wait_for(
                    &format!("writes go on after {daemon} was killed"),
                    seconds(60),
                    || match acknowledged.lock().unwrap().len() {
                        n if n >= so_far + 3 => Ok(()),
                        n => Err(format!("{n} acknowledged")),
                    },
                );
            }
        }));
        stop.store(true, Ordering::Relaxed);
        assert!(kills.is_ok(), "a daemon did not come back");
    });
    wait_for("the apiserver answers", seconds(60), || {
        cluster.try_kubectl(&["get", "--raw", "/readyz"])
    });
    let acknowledged = acknowledged.into_inner().unwrap();
    assert!(!acknowledged.is_empty());
    let list = space.json(&["get", "configmaps"]);
    let there: Vec<&str> = list["items"].as_array().unwrap().iter().map(name).collect();
    for name in &acknowledged {
        assert!(
            there.contains(&name.as_str()),
            "{name} was acknowledged and is lost"
        );
    }
    // Everything still works, and no container was touched.
    wait_for("all nodes are ready", seconds(90), || {
        let list = cluster.try_json(&["get", "nodes"])?;
        let waiting: Vec<&str> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|n| !is_ready(n))
            .map(name)
            .collect();
        if waiting.is_empty() {
            Ok(())
        } else {
            Err(format!("not ready: {waiting:?}"))
        }
    });
    let pods = space.wait_pods(4, seconds(60));
    assert_eq!(before, running(&pods), "containers were restarted");
    space.kubectl(&["scale", "deployment/hello", "--replicas=5"]);
    space.wait_pods(5, seconds(90));
    crate::services::answers_always(cluster, "node-2", &address);
    // One restart for each kill and none beside: nothing crashed on coming back, and nothing else was dragged along.
    for (unit, now) in cluster.daemons() {
        let was = daemons[&unit];
        let kills = victims
            .iter()
            .filter(|(n, d)| format!("{n}.{d}") == unit)
            .count();
        assert_eq!(
            now.restarts,
            was.restarts + kills as u64,
            "restarts of {unit}"
        );
        if kills == 0 {
            assert_eq!(now, was, "{unit} is another process");
        }
    }
}

fn kill(cluster: &Cluster, node: &str, daemon: &str) {
    let before = cluster.daemon(node, daemon).unwrap();
    let pid = rustix::process::Pid::from_raw(before.pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let after = wait_for(
        &format!("{daemon} on {node} is restarted"),
        seconds(30),
        || match cluster.daemon(node, daemon) {
            Some(after) if after.restarts > before.restarts => Ok(after),
            other => Err(format!("{other:?}")),
        },
    );
    assert_eq!(
        after.restarts,
        before.restarts + 1,
        "{daemon} on {node} was restarted more than once"
    );
    assert!(!before.is_alive(), "{before:?} was not killed");
}

/// Seconds since the epoch of a time as the API writes it.
fn moment(time: &serde_json::Value) -> i64 {
    let text = time.as_str().unwrap();
    let out = std::process::Command::new("date")
        .args(["--utc", "+%s", "--date", text])
        .output()
        .unwrap();
    assert!(out.status.success(), "{text}");
    String::from_utf8(out.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

pub fn cut_and_heal(cluster: &Cluster) {
    let space = cluster.namespace("cut");
    cluster.apply(
        "apiVersion: apps/v1
kind: Deployment
metadata: {name: hello, namespace: cut}
spec:
  replicas: 3
  selector: {matchLabels: {app: hello}}
  template:
    metadata: {labels: {app: hello}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 5}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 5}
      topologySpreadConstraints: []
      affinity:
        nodeAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
          - {weight: 100, preference: {matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [node-3]}]}}
      containers: [{name: hello, image: 'keelson.local/hello:1', env: [{name: DRAIN_SECONDS, value: '0'}]}]
",
    );
    let pods = space.wait_pods(3, seconds(60));
    let on_node_3 = |pods: &[serde_json::Value]| {
        pods.iter()
            .filter(|p| p["spec"]["nodeName"] == "node-3")
            .count()
    };
    assert!(on_node_3(&pods) > 0, "no pod is on node-3");
    let address = pods
        .iter()
        .find(|p| p["spec"]["nodeName"] == "node-3")
        .unwrap()["status"]["podIP"]
        .as_str()
        .unwrap()
        .to_string();
    cluster.keelson(&["node", "cut", "node-3"]);
    // Its pods run on, unseen.
    let url = format!("http://{address}:8080/");
    assert!(
        cluster
            .exec("node-3", &["curl", "-sf", "--max-time", "3", &url])
            .contains("hello 1")
    );
    let unknown = wait_for("node-3 is Unknown", seconds(75), || {
        let node = cluster.try_json(&["get", "node", "node-3"])?;
        if condition(&node, "Ready") == "Unknown" {
            Ok(node)
        } else {
            Err(condition(&node, "Ready").to_string())
        }
    });
    // The grace period of 40 s begins with the last renewal of its lease. Times of conditions are whole seconds.
    let conditions = unknown["status"]["conditions"].as_array().unwrap();
    let ready = conditions.iter().find(|c| c["type"] == "Ready").unwrap();
    assert_eq!(ready["reason"], "NodeStatusUnknown");
    assert_eq!(ready["message"], "Kubelet stopped posting node status.");
    let lease = cluster.json(&["-n", "kube-node-lease", "get", "lease", "node-3"]);
    let renewed = moment(&lease["spec"]["renewTime"]);
    let silent = moment(&ready["lastTransitionTime"]) - renewed;
    assert!(
        silent >= 39,
        "Unknown {silent} s after the last renewal, before the grace period ended"
    );
    wait_for("node-3 is tainted", seconds(20), || {
        let node = cluster.try_json(&["get", "node", "node-3"])?;
        let taints = node["spec"]["taints"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let has = |effect: &str| {
            taints
                .iter()
                .any(|t| t["key"] == "node.kubernetes.io/unreachable" && t["effect"] == effect)
        };
        if has("NoExecute") && has("NoSchedule") {
            Ok(())
        } else {
            Err(format!("{taints:?}"))
        }
    });
    wait_for("the pods are made anew elsewhere", seconds(60), || {
        let pods = space.pods();
        let ready = pods
            .iter()
            .filter(|p| is_ready(p) && p["spec"]["nodeName"] != "node-3")
            .count();
        if ready == 3 {
            Ok(())
        } else {
            Err(format!("{ready} ready elsewhere"))
        }
    });
    cluster.keelson(&["node", "heal", "node-3"]);
    wait_for("node-3 is ready and untainted", seconds(60), || {
        let node = cluster.try_json(&["get", "node", "node-3"])?;
        if is_ready(&node) && node["spec"]["taints"].is_null() {
            Ok(())
        } else {
            Err(node["spec"].to_string())
        }
    });
    wait_for("its stale pods are gone", seconds(60), || {
        let list = space.json(&["get", "pods"]);
        let all = list["items"].as_array().unwrap().len();
        let alive = cluster
            .try_exec("node-3", &["curl", "-s", "--max-time", "1", &url])
            .is_ok();
        if all == 3 && !alive {
            Ok(())
        } else {
            Err(format!("{all} pods; the stale one runs: {alive}"))
        }
    });
}
