//! Scheduler and kubelets: pods get a node, run, end and go, each when chance has it.

use std::collections::BTreeMap;
use std::time::Duration;

use client::resource::{LEASES, NODES, PODS};
use client::rest::{DeleteOptions, Patch};
use client::{Client, Time};
use rand::Rng as _;
use rand::rngs::StdRng;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::truth::{Shared, controller, is_leaving, is_ready, is_terminal, lock, text};

/// Nodes of a run.
pub const COUNT: usize = 3;
const HEARTBEAT: Duration = Duration::from_secs(10);

/// See the module.
pub struct Machines {
    client: Client,
    truth: Shared,
    /// When a node that is down comes up again.
    down: BTreeMap<usize, Instant>,
    beat: Instant,
    addresses: u32,
    /// Whether pods fail, become unready, and nodes go down.
    pub troubled: bool,
}

pub fn name(node: usize) -> String {
    format!("node-{node}")
}

fn now() -> String {
    Time::now().to_string()
}

impl Machines {
    pub async fn new(client: Client, truth: Shared) -> Machines {
        for node in 0..COUNT {
            let labels = json!({"kubernetes.io/hostname": name(node)});
            let object = json!({
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": name(node), "labels": labels},
                "status": ready("True"),
            });
            client
                .api(&NODES)
                .create::<IgnoredAny, _>(&object)
                .await
                .unwrap();
        }
        let mut machines = Machines {
            client,
            truth,
            down: BTreeMap::new(),
            beat: Instant::now(),
            addresses: 0,
            troubled: true,
        };
        machines.heartbeats().await;
        machines
    }

    /// Takes a node down for a while.
    pub fn fail(&mut self, node: usize, time: Duration) {
        self.down.entry(node).or_insert(Instant::now() + time);
    }

    /// Brings all nodes up.
    pub fn recover(&mut self) {
        self.down.clear();
        self.troubled = false;
    }

    /// Says that a node is ready.
    async fn up(&self, node: usize) {
        let status = json!({"status": ready("True")});
        let patch = Patch::Strategic(status);
        let _ = self
            .client
            .api(&NODES)
            .patch_status::<IgnoredAny>(&name(node), &patch)
            .await;
    }

    async fn heartbeats(&mut self) {
        let due: Vec<usize> = self
            .down
            .iter()
            .filter(|d| *d.1 <= Instant::now())
            .map(|d| *d.0)
            .collect();
        for node in due {
            self.down.remove(&node);
        }
        if Instant::now() < self.beat {
            return;
        }
        self.beat = Instant::now() + HEARTBEAT;
        let leases = self.client.namespaced(&LEASES, "kube-node-lease");
        for node in (0..COUNT).filter(|n| !self.down.contains_key(n)) {
            self.up(node).await;
            let now = format!("{}.000000Z", now().trim_end_matches('Z'));
            let spec =
                json!({"holderIdentity": name(node), "leaseDurationSeconds": 40, "renewTime": now});
            let patch = Patch::Merge(json!({"spec": spec}));
            if leases
                .patch::<IgnoredAny>(&name(node), &patch)
                .await
                .is_err()
            {
                let lease = json!({
                    "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                    "metadata": {"name": name(node)}, "spec": spec,
                });
                let _ = leases.create::<IgnoredAny, _>(&lease).await;
            }
        }
    }

    /// Lets each pod go one step, or wait.
    pub async fn step(&mut self, chance: &mut StdRng) {
        self.heartbeats().await;
        let pods: Vec<Value> = lock(&self.truth).pods.values().cloned().collect();
        for pod in pods {
            if chance.random_bool(0.4) {
                self.pod(&pod, chance).await;
            }
        }
    }

    async fn pod(&mut self, pod: &Value, chance: &mut StdRng) {
        let (namespace, pod_name) = (
            text(pod, "/metadata/namespace"),
            text(pod, "/metadata/name"),
        );
        let uid = text(pod, "/metadata/uid");
        let api = self.client.namespaced(&PODS, namespace);
        let node = text(pod, "/spec/nodeName");
        if node.is_empty() {
            if !is_leaving(pod) && !is_terminal(pod) {
                let target = wanted(pod).unwrap_or_else(|| name(chance.random_range(0..COUNT)));
                let binding = json!({
                    "apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod_name, "uid": uid},
                    "target": {"kind": "Node", "name": target},
                });
                let _ = api
                    .create_subresource::<IgnoredAny, _>(pod_name, "binding", &binding)
                    .await;
            }
            return;
        }
        let number = node.trim_start_matches("node-").parse().unwrap_or(COUNT);
        if self.down.contains_key(&number) {
            return;
        }
        if is_leaving(pod) {
            if !is_terminal(pod) {
                let status = ended(chance.random_bool(0.5));
                self.status(pod, status).await;
            }
            lock(&self.truth).running.remove(uid);
            let options = DeleteOptions {
                grace_period_seconds: Some(0),
                ..DeleteOptions::uid(uid)
            };
            let _ = api.delete(pod_name, &options).await;
            return;
        }
        if is_terminal(pod) {
            return;
        }
        if text(pod, "/status/phase") != "Running" {
            self.addresses += 1;
            let address = format!(
                "10.244.{}.{}",
                self.addresses / 250,
                self.addresses % 250 + 1
            );
            let mut status = running("True");
            status["podIP"] = json!(address);
            status["podIPs"] = json!([{"ip": address}]);
            status["startTime"] = json!(now());
            let key = (namespace.to_owned(), pod_name.to_owned());
            lock(&self.truth).running.insert(uid.to_owned(), key);
            if !self.status(pod, status).await {
                lock(&self.truth).running.remove(uid);
            }
        } else if matches!(controller(pod), Some(("Job", _))) {
            if chance.random_bool(0.3) {
                let good = !self.troubled || chance.random_bool(0.8);
                lock(&self.truth).running.remove(uid);
                self.status(pod, ended(good)).await;
            }
        } else if !is_ready(pod) {
            self.status(pod, running("True")).await;
        } else if self.troubled && chance.random_bool(0.005) {
            self.status(pod, running("False")).await;
        } else if self.troubled && chance.random_bool(0.003) {
            lock(&self.truth).running.remove(uid);
            self.status(pod, ended(false)).await;
        }
    }

    async fn status(&self, pod: &Value, status: Value) -> bool {
        let api = self
            .client
            .namespaced(&PODS, text(pod, "/metadata/namespace"));
        let patch = Patch::Strategic(
            json!({"metadata": {"uid": pod["metadata"]["uid"]}, "status": status}),
        );
        let written = api
            .patch_status::<IgnoredAny>(text(pod, "/metadata/name"), &patch)
            .await;
        written.is_ok()
    }
}

fn ready(status: &str) -> Value {
    let condition = json!({
        "type": "Ready", "status": status, "reason": "KubeletReady", "message": "",
        "lastHeartbeatTime": now(), "lastTransitionTime": now(),
    });
    json!({"conditions": [condition], "allocatable": {"cpu": "8", "memory": "8Gi", "pods": "110"}})
}

fn running(ready: &str) -> Value {
    let conditions = ["Ready", "ContainersReady"]
        .map(|t| json!({"type": t, "status": ready, "lastTransitionTime": now()}));
    json!({"phase": "Running", "conditions": conditions})
}

fn ended(good: bool) -> Value {
    let conditions = ["Ready", "ContainersReady"]
        .map(|t| json!({"type": t, "status": "False", "lastTransitionTime": now()}));
    let code = if good { 0 } else { 1 };
    let state = json!({"terminated": {"exitCode": code, "finishedAt": now(), "startedAt": now(), "reason": "Ended"}});
    json!({
        "phase": if good { "Succeeded" } else { "Failed" },
        "conditions": conditions,
        "containerStatuses": [{"name": "c", "image": "i", "imageID": "i", "ready": false, "restartCount": 0, "state": state}],
    })
}

/// The node that a DaemonSet made a pod for.
fn wanted(pod: &Value) -> Option<String> {
    let terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
    Some(pod.pointer(terms)?.as_str()?.to_owned())
}
