//! Deployments, rolling updates, logs, exec, static pods and namespaces.

use crate::cluster::{Cluster, condition, name, seconds, wait_for};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub fn scale(cluster: &Cluster) {
    let space = cluster.namespace("scale");
    space.hello(2);
    space.kubectl(&["scale", "deployment/hello", "--replicas=6"]);
    space.wait_pods(6, seconds(60));
    space.kubectl(&["scale", "deployment/hello", "--replicas=1"]);
    space.wait_pods(1, seconds(60));
    let slices = wait_for("one endpoint", seconds(20), || {
        let list = space.json(&[
            "get",
            "endpointslices",
            "-l",
            "kubernetes.io/service-name=hello",
        ]);
        let ready = |e: &&serde_json::Value| e["conditions"]["ready"] == true;
        let items = list["items"].as_array().unwrap().clone();
        let count: usize = items
            .iter()
            .map(|s| {
                s["endpoints"]
                    .as_array()
                    .map_or(0, |e| e.iter().filter(ready).count())
            })
            .sum();
        if count == 1 {
            Ok(items)
        } else {
            Err(format!("{count} endpoints"))
        }
    });
    assert_eq!(slices.len(), 1);
}

/// Sends requests from within a node until told to stop: how many were answered by which version, and what failed.
fn request_loop(cluster: &Cluster, address: &str, stop: &AtomicBool) -> ([usize; 2], Vec<String>) {
    let namespace = std::fs::File::open(cluster.file("ns/node-2.net")).unwrap();
    let kind = rustix::thread::LinkNameSpaceType::Network;
    rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(kind))
        .unwrap();
    let target: SocketAddr = format!("{address}:80").parse().unwrap();
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&target, seconds(3))?;
        stream.set_read_timeout(Some(seconds(3)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: hello\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let (mut versions, mut failures) = ([0, 0], Vec::new());
    while !stop.load(Ordering::Relaxed) {
        match ask() {
            Ok(a) if a.starts_with("HTTP/1.1 200") && a.contains("hello 1 from") => {
                versions[0] += 1
            }
            Ok(a) if a.starts_with("HTTP/1.1 200") && a.contains("hello 2 from") => {
                versions[1] += 1
            }
            Ok(a) => failures.push(format!("answer {a:?}")),
            Err(e) => failures.push(e.to_string()),
        }
        // 200 requests per second are enough to meet every change.
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    (versions, failures)
}

pub fn rolling_update(cluster: &Cluster) {
    let space = cluster.namespace("rolling");
    let address = space.hello(4);
    wait_for("the service answers", seconds(20), || {
        cluster.try_exec(
            "node-2",
            &[
                "curl",
                "-sf",
                "--max-time",
                "2",
                &format!("http://{address}/"),
            ],
        )
    });
    let stop = Arc::new(AtomicBool::new(false));
    let (versions, failures) = std::thread::scope(|scope| {
        let requests = scope.spawn(|| request_loop(cluster, &address, &stop));
        let finished = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            space.kubectl(&[
                "set",
                "image",
                "deployment/hello",
                "hello=keelson.local/hello:2",
            ]);
            space.kubectl(&["rollout", "status", "deployment/hello", "--timeout=90s"]);
            wait_for("only version 2 answers", seconds(30), || {
                let pods = space.pods();
                let old = pods
                    .iter()
                    .filter(|p| p["spec"]["containers"][0]["image"] != "keelson.local/hello:2")
                    .count();
                if pods.len() == 4 && old == 0 {
                    Ok(())
                } else {
                    Err(format!("{} pods, {old} old", pods.len()))
                }
            });
            space.kubectl(&["rollout", "undo", "deployment/hello"]);
            space.kubectl(&["rollout", "status", "deployment/hello", "--timeout=90s"]);
        }));
        stop.store(true, Ordering::Relaxed);
        let result = requests.join().unwrap();
        assert!(finished.is_ok(), "the rollout did not finish");
        result
    });
    assert!(
        failures.is_empty(),
        "{} requests failed: {:?}",
        failures.len(),
        &failures[..failures.len().min(5)]
    );
    assert!(
        versions[0] > 0 && versions[1] > 0,
        "answers by version: {versions:?}"
    );
    let pods = space.wait_pods(4, seconds(60));
    assert!(
        pods.iter()
            .all(|p| p["spec"]["containers"][0]["image"] == "keelson.local/hello:1")
    );
    let history = space.kubectl(&["rollout", "history", "deployment/hello"]);
    assert!(
        history.contains('3') && !history.lines().any(|l| l.starts_with("1 ")),
        "{history}"
    );
}

pub fn logs_and_exec(cluster: &Cluster) {
    let space = cluster.namespace("logs");
    space.hello(1);
    let pods = space.pods();
    let pod = name(&pods[0]);
    assert!(space.kubectl(&["logs", pod]).contains("hello 1 listens on"));
    assert_eq!(space.kubectl(&["exec", pod, "--", "hostname"]).trim(), pod);
    let error = space
        .try_kubectl(&["exec", pod, "--", "sh", "-c", "echo to-stderr >&2; exit 7"])
        .unwrap_err();
    assert!(
        error.contains("to-stderr") && error.contains("exit code 7"),
        "{error}"
    );

    let mut follow = cluster
        .kubectl_command(&["-n", space.name, "logs", "-f", "--tail=0", pod])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(follow.stdout.take().unwrap());
    let (sender, receiver) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in lines.lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    wait_for("a line in the followed log", seconds(20), || {
        let ask = format!(
            "wget -q -O /dev/null http://{}:8080/followed",
            pods[0]["status"]["podIP"].as_str().unwrap()
        );
        space.try_kubectl(&["exec", pod, "--", "sh", "-c", &ask])?;
        let line = receiver
            .recv_timeout(seconds(2))
            .map_err(|e| e.to_string())?;
        if line.contains("/followed") {
            Ok(())
        } else {
            Err(line)
        }
    });
    follow.kill().unwrap();
    follow.wait().unwrap();
    reader.join().unwrap();
}

pub fn static_pod(cluster: &Cluster) {
    let manifest = "apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default, labels: {app: static-web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: web, image: 'keelson.local/hello:1'}
";
    let path = cluster.file("nodes/node-2/kubernetes/manifests/web.yaml");
    std::fs::write(&path, manifest).unwrap();
    let pod = wait_for("the mirror pod runs", seconds(60), || {
        let pod = cluster.try_json(&["get", "pod", "web-node-2"])?;
        if condition(&pod, "Ready") == "True" {
            Ok(pod)
        } else {
            Err(pod["status"].to_string())
        }
    });
    assert!(pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string());
    assert_eq!(
        pod["metadata"]["annotations"]["kubernetes.io/config.source"],
        "file"
    );
    assert_eq!(pod["metadata"]["ownerReferences"][0]["kind"], "Node");
    assert_eq!(pod["spec"]["nodeName"], "node-2");
    let url = format!("http://{}:8080/", pod["status"]["podIP"].as_str().unwrap());
    assert!(
        cluster
            .exec("node-1", &["curl", "-sf", "--max-time", "3", &url])
            .contains("hello 1 from web-node-2")
    );
    std::fs::remove_file(&path).unwrap();
    wait_for("the mirror pod is gone", seconds(60), || {
        match cluster.try_kubectl(&["get", "pod", "web-node-2"]) {
            Err(e) if e.contains("NotFound") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    wait_for("the static pod has ended", seconds(30), || {
        match cluster.try_exec("node-1", &["curl", "-s", "--max-time", "1", &url]) {
            Err(_) => Ok(()),
            Ok(answer) => Err(answer),
        }
    });
}

pub fn namespace(cluster: &Cluster) {
    let space = cluster.namespace("doomed");
    space.hello(1);
    space.kubectl(&["create", "configmap", "settings", "--from-literal=a=b"]);
    space.kubectl(&["delete", "namespace", "doomed", "--timeout=60s"]);
    let error = space
        .try_kubectl(&["get", "namespace", "doomed"])
        .unwrap_err();
    assert!(error.contains("namespaces \"doomed\" not found"), "{error}");
    let left = cluster.kubectl(&[
        "get",
        "pods,configmaps,services,deployments,replicasets,endpointslices",
        "-n",
        "doomed",
        "-o",
        "name",
    ]);
    assert_eq!(left, "");
    // A new one of that name keeps what is put into it: the controller has dealt with a namespace that was deleted later.
    cluster.kubectl(&["create", "namespace", "doomed"]);
    space.kubectl(&["create", "configmap", "kept", "--from-literal=a=b"]);
    cluster.kubectl(&["create", "namespace", "doomed-later"]);
    cluster.kubectl(&["delete", "namespace", "doomed-later", "--timeout=60s"]);
    assert_eq!(space.json(&["get", "configmap", "kept"])["data"]["a"], "b");
    assert_eq!(
        cluster.json(&["get", "namespace", "doomed"])["status"]["phase"],
        "Active"
    );
}
