//! Keeps the node registered, its lease fresh and its status true.
//!
//! The lease is renewed every quarter of its duration; the status is looked at every `nodeStatusUpdateFrequency` and sent
//! when it changed or every `nodeStatusReportFrequency`. A node that is deleted is registered again, at once: the
//! deletion arrives by watch.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use client::{Client, Patch};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::cri::proto::Image;
use crate::shared::Shared;

use super::{NodeView, allocatable, capacity, file_system, meminfo};

/// Longest list of names per image in the status.
const MAX_IMAGE_NAMES: usize = 5;

/// Conditions the kubelet found about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "plain data")]
pub struct Health {
    /// Why the runtime, its network or the relist are not right; empty when all is well.
    pub problems: Vec<String>,
    pub memory_pressure: bool,
    pub disk_pressure: bool,
    pub pid_pressure: bool,
}

/// Keeps the node.
pub struct NodeManager {
    shared: Arc<Shared>,
    client: Client,
    /// Woken to look at the status now.
    pub wake: Arc<Notify>,
    pressure: Mutex<Pressure>,
    pleg_ok: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    runtime_version: String,
}

#[derive(Default)]
struct Pressure {
    memory_until: Option<Instant>,
    disk_until: Option<Instant>,
}

fn now_text() -> String {
    client::view::print_time(jiff::Timestamp::now())
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl NodeManager {
    /// For this node.
    pub fn new(
        shared: Arc<Shared>,
        client: Client,
        runtime_version: String,
        pleg_ok: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    ) -> NodeManager {
        NodeManager {
            shared,
            client,
            wake: Arc::default(),
            pressure: Mutex::default(),
            pleg_ok,
            runtime_version,
        }
    }

    fn labels(&self) -> Value {
        let s = &self.shared.settings;
        let mut labels = s.node_labels.clone();
        for (k, v) in [
            ("kubernetes.io/hostname", s.node_name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", arch()),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", arch()),
        ] {
            labels.insert(k.into(), v.into());
        }
        json!(labels)
    }

    /// Registers the node, or brings the labels of an existing one up to date; tries until it works.
    async fn register(&self) {
        let s = &self.shared.settings;
        let mut wait = Duration::from_millis(100);
        loop {
            let status = self.status(None, &self.health().await).await;
            let mut node = json!({
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {
                    "name": s.node_name,
                    "labels": self.labels(),
                    "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
                },
                "spec": {},
                "status": status,
            });
            if !s.register_with_taints.is_empty() {
                set(&mut node, "/spec", "taints", json!(s.register_with_taints));
            }
            if !s.provider_id.is_empty() {
                set(&mut node, "/spec", "providerID", json!(s.provider_id));
            }
            let api = self.client.api(&client::resource::NODES);
            match api.create::<NodeView, _>(&node).await {
                Ok(_) => {
                    tracing::info!(node = %s.node_name, "successfully registered node");
                    return;
                }
                Err(e) if e.is_already_exists() => {
                    let patch = json!({"metadata": {"labels": self.labels(), "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}}});
                    match api
                        .patch::<NodeView>(&s.node_name, &Patch::Strategic(patch))
                        .await
                    {
                        Ok(_) => {
                            tracing::info!(node = %s.node_name, "node was previously registered");
                            return;
                        }
                        Err(e) => {
                            tracing::warn!(node = %s.node_name, error = %e, "updating the registered node failed")
                        }
                    }
                }
                Err(e) => {
                    tracing::warn!(node = %s.node_name, error = %e, "unable to register node with API server")
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(7));
        }
    }

    /// Runs until dropped.
    pub async fn run(self: Arc<Self>) {
        let s = &self.shared.settings;
        let selector = client::Selector::fields(format!("metadata.name={}", s.node_name));
        let (informer, work) = client::Informer::<NodeView>::new(
            self.client.clone(),
            client::resource::NODES.clone(),
            selector,
            self.shared.stop.child_token(),
        );
        let me = self.clone();
        informer.on_change(move |c| {
            let now = match c {
                client::Change::Deleted(_) => None,
                other => Some(other.object().clone()),
            };
            if now.is_none() {
                tracing::warn!("the node was deleted; registering it again");
                me.wake.notify_one();
            }
            if let Ok(mut slot) = me.shared.node.write() {
                *slot = now;
            }
        });
        if s.register_node {
            self.register().await;
        }
        tokio::spawn(work);
        let lease = self.clone();
        tokio::spawn(async move {
            let stop = lease.shared.stop.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                () = lease.leases() => {}
            }
        });
        informer.synced().await;

        let mut last: Option<Value> = None;
        let mut sent = Instant::now();
        let mut cidr = String::new();
        let mut unschedulable = false;
        loop {
            let current = self.shared.node.read().ok().and_then(|n| n.clone());
            match current {
                None if s.register_node => {
                    self.register().await;
                    last = None;
                }
                None => {}
                Some(node) => {
                    if node.spec.unschedulable != unschedulable {
                        unschedulable = node.spec.unschedulable;
                        self.now_is(if unschedulable {
                            "NodeNotSchedulable"
                        } else {
                            "NodeSchedulable"
                        });
                    }
                    if !node.spec.pod_cidr.is_empty() && node.spec.pod_cidr != cidr {
                        let all = node.spec.pod_cidrs.clone().unwrap_or_default().join(",");
                        let all = if all.is_empty() {
                            node.spec.pod_cidr.clone()
                        } else {
                            all
                        };
                        match self.shared.rt.update_runtime_config(&all).await {
                            Ok(()) => cidr.clone_from(&node.spec.pod_cidr),
                            Err(e) => {
                                tracing::warn!(error = %e, "telling the runtime the pod range failed")
                            }
                        }
                    }
                    let health = self.health().await;
                    let status = self.status(Some(&node), &health).await;
                    let comparable = without_heartbeat(&status);
                    if last.as_ref() != Some(&comparable)
                        || overruled(&node, &comparable)
                        || sent.elapsed() >= s.report_frequency
                    {
                        let mut patch = status;
                        if let Some(list) = patch.get_mut("addresses").and_then(Value::as_array_mut)
                        {
                            list.insert(0, json!({"$patch": "replace"}));
                        }
                        let body = json!({"status": patch});
                        match self
                            .client
                            .api(&client::resource::NODES)
                            .patch_status::<NodeView>(&s.node_name, &Patch::Strategic(body))
                            .await
                        {
                            Ok(_) => {
                                self.tell(last.as_ref(), &comparable);
                                last = Some(comparable);
                                sent = Instant::now();
                            }
                            Err(e) if e.is_not_found() => {
                                if let Ok(mut slot) = self.shared.node.write() {
                                    *slot = None;
                                }
                                continue;
                            }
                            Err(e) => {
                                tracing::warn!(error = %e, "error updating node status, will retry")
                            }
                        }
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(s.status_frequency) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    /// The event of a state the node has come into.
    fn now_is(&self, reason: &str) {
        let name = &self.shared.settings.node_name;
        let message = format!("Node {name} status is now: {reason}");
        self.shared.node_event(false, reason, message);
    }

    /// Events for what changed about the node's conditions.
    fn tell(&self, before: Option<&Value>, now: &Value) {
        let get = |v: Option<&Value>, kind: &str| {
            v.and_then(|v| {
                v.get("conditions")?
                    .as_array()?
                    .iter()
                    .find(|c| c.get("type").and_then(Value::as_str) == Some(kind))
                    .cloned()
            })
            .and_then(|c| c.get("status").and_then(Value::as_str).map(str::to_string))
        };
        for (kind, yes, no) in [
            (
                "MemoryPressure",
                "NodeHasInsufficientMemory",
                "NodeHasSufficientMemory",
            ),
            (
                "DiskPressure",
                "NodeHasDiskPressure",
                "NodeHasNoDiskPressure",
            ),
            (
                "PIDPressure",
                "NodeHasInsufficientPID",
                "NodeHasSufficientPID",
            ),
            ("Ready", "NodeReady", "NodeNotReady"),
        ] {
            let (a, b) = (get(before, kind), get(Some(now), kind));
            if a != b {
                let reason = if b.as_deref() == Some("True") {
                    yes
                } else {
                    no
                };
                self.now_is(reason);
            }
        }
    }

    async fn health(&self) -> Health {
        let mut h = Health::default();
        match self.shared.rt.status().await {
            Ok(st) => {
                let conditions = st.status.map(|s| s.conditions).unwrap_or_default();
                let text = |c: &crate::cri::proto::RuntimeCondition| {
                    format!(
                        "{}={} reason:{} message:{}",
                        c.r#type, c.status, c.reason, c.message
                    )
                };
                let mut network = Ok(());
                match conditions.iter().find(|c| c.r#type == "RuntimeReady") {
                    Some(c) if c.status => {}
                    Some(c) => h
                        .problems
                        .push(format!("container runtime not ready: {}", text(c))),
                    None => h
                        .problems
                        .push("container runtime status check may not have completed yet".into()),
                }
                if let Some(c) = conditions
                    .iter()
                    .find(|c| c.r#type == "NetworkReady" && !c.status)
                {
                    let why = format!("container runtime network not ready: {}", text(c));
                    h.problems.push(why.clone());
                    network = Err(why);
                }
                if let Ok(mut n) = self.shared.network.write() {
                    *n = network;
                }
            }
            Err(e) => h.problems.push(format!("container runtime is down: {e}")),
        }
        if let Err(e) = (self.pleg_ok)() {
            h.problems.push(e);
        }
        let s = &self.shared.settings;
        let m = &self.shared.machine;
        let below = |signal: &str, available: i64, capacity: i64| {
            s.eviction_hard
                .get(signal)
                .is_some_and(|t| available < t.of(capacity))
        };
        let memory = below("memory.available", meminfo("MemAvailable"), m.memory);
        let disk = file_system(&s.root_dir).is_some_and(|(total, free, inodes, ifree)| {
            below("nodefs.available", free, total)
                || inodes > 0 && below("nodefs.inodesFree", ifree, inodes)
        });
        // A pressure that ended is reported for a while longer, so that pods do not come and go.
        let mut p = self.pressure.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if memory {
            p.memory_until = Some(now + s.pressure_transition);
        }
        if disk {
            p.disk_until = Some(now + s.pressure_transition);
        }
        h.memory_pressure = p.memory_until.is_some_and(|t| t > now);
        h.disk_pressure = p.disk_until.is_some_and(|t| t > now);
        h
    }

    async fn status(&self, node: Option<&NodeView>, health: &Health) -> Value {
        let s = &self.shared.settings;
        let m = &self.shared.machine;
        let now = now_text();
        let old = node
            .and_then(|n| n.status.conditions.clone())
            .unwrap_or_default();
        let condition = |kind: &str, status: bool, reason: &str, message: &str| {
            let status = if status { "True" } else { "False" };
            let transition = old
                .iter()
                .find(|c| c.kind == kind && c.status == status)
                .and_then(|c| c.last_transition_time.clone())
                .unwrap_or_else(|| now.clone());
            json!({"type": kind, "status": status, "reason": reason, "message": message, "lastHeartbeatTime": now, "lastTransitionTime": transition})
        };
        let pick = |bad: bool,
                    yes: (&'static str, &'static str),
                    no: (&'static str, &'static str)| if bad { yes } else { no };
        let memory = pick(
            health.memory_pressure,
            (
                "KubeletHasInsufficientMemory",
                "kubelet has insufficient memory available",
            ),
            (
                "KubeletHasSufficientMemory",
                "kubelet has sufficient memory available",
            ),
        );
        let disk = pick(
            health.disk_pressure,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        );
        let pid = pick(
            health.pid_pressure,
            (
                "KubeletHasInsufficientPID",
                "kubelet has insufficient PID available",
            ),
            (
                "KubeletHasSufficientPID",
                "kubelet has sufficient PID available",
            ),
        );
        let ready = match health.problems.as_slice() {
            [] => condition(
                "Ready",
                true,
                "KubeletReady",
                "kubelet is posting ready status",
            ),
            [one] => condition("Ready", false, "KubeletNotReady", one),
            many => condition(
                "Ready",
                false,
                "KubeletNotReady",
                &format!("[{}]", many.join(", ")),
            ),
        };
        let mut addresses: Vec<Value> = self
            .shared
            .host_ips
            .iter()
            .map(|ip| json!({"type": "InternalIP", "address": ip}))
            .collect();
        addresses.push(json!({"type": "Hostname", "address": s.node_name}));
        let images = match self.shared.image_rt.list_images().await {
            Ok(list) => images(list, s.status_max_images),
            Err(_) => json!([]),
        };
        let mut status = json!({
            "capacity": capacity(s, m),
            "allocatable": allocatable(s, m),
            "conditions": [
                condition("MemoryPressure", health.memory_pressure, memory.0, memory.1),
                condition("DiskPressure", health.disk_pressure, disk.0, disk.1),
                condition("PIDPressure", health.pid_pressure, pid.0, pid.1),
                ready,
            ],
            "addresses": addresses,
            "daemonEndpoints": {"kubeletEndpoint": {"Port": s.port}},
            "nodeInfo": {
                "machineID": m.machine_id,
                "systemUUID": m.system_uuid,
                "bootID": m.boot_id,
                "kernelVersion": m.kernel,
                "osImage": m.os_image,
                "containerRuntimeVersion": self.runtime_version,
                "kubeletVersion": component::version::GIT_VERSION,
                "kubeProxyVersion": "",
                "operatingSystem": "linux",
                "architecture": arch(),
            },
            "images": images,
            "volumesInUse": self.shared.claims.as_ref().map(crate::volumes::claims::Claims::in_use).filter(|v| !v.is_empty()),
        });
        // Sizes of huge pages that the kernel no longer has; a patch leaves alone what it does not name.
        let names = node.iter().flat_map(|n| n.status.capacity.iter().flatten());
        for name in names
            .map(|(n, _)| n)
            .filter(|n| n.starts_with("hugepages-"))
            .filter(|n| !m.huge_pages.iter().any(|p| p.resource() == **n))
        {
            for list in ["/capacity", "/allocatable"] {
                set(&mut status, list, name, Value::Null);
            }
        }
        if m.swap > 0 {
            set(
                &mut status,
                "/nodeInfo",
                "swap",
                json!({"capacity": m.swap}),
            );
        }
        status
    }

    /// Renews the lease for ever.
    async fn leases(&self) {
        let s = &self.shared.settings;
        let period = Duration::from_secs(u64::try_from(s.lease_seconds).unwrap_or(40)) / 4;
        let mut held: Option<Value> = None;
        loop {
            let mut wait = Duration::from_millis(200);
            // The first renewals are quick, since the node object may be new; then the period.
            for _ in 0..5 {
                match self.renew(held.take()).await {
                    Ok(l) => {
                        held = Some(l);
                        break;
                    }
                    Err(e) => tracing::info!(error = %e, "failed to update lease, will retry"),
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(7));
            }
            tokio::time::sleep(period).await;
        }
    }

    async fn renew(&self, held: Option<Value>) -> client::Result<Value> {
        let s = &self.shared.settings;
        let api = self
            .client
            .namespaced(&client::resource::LEASES, "kube-node-lease");
        let now = client::view::print_micro_time(jiff::Timestamp::now());
        let lease = match held {
            Some(l) => Some(l),
            None => match api.get_value(&s.node_name).await {
                Ok(l) => Some(l),
                Err(e) if e.is_not_found() => None,
                Err(e) => return Err(e),
            },
        };
        let owner = self.shared.node.read().ok().and_then(|n| n.clone()).map(|n| {
            json!([{"apiVersion": "v1", "kind": "Node", "name": n.metadata.name, "uid": n.metadata.uid}])
        });
        match lease {
            Some(mut l) => {
                set(&mut l, "/spec", "renewTime", json!(now));
                set(&mut l, "/spec", "holderIdentity", json!(s.node_name));
                set(
                    &mut l,
                    "/spec",
                    "leaseDurationSeconds",
                    json!(s.lease_seconds),
                );
                if let Some(o) = owner.filter(|_| {
                    l.pointer("/metadata/ownerReferences")
                        .is_none_or(|o| o.as_array().is_none_or(Vec::is_empty))
                }) {
                    set(&mut l, "/metadata", "ownerReferences", o);
                }
                api.update(&s.node_name, &l).await
            }
            None => {
                let mut l = json!({
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": {"name": s.node_name, "namespace": "kube-node-lease"},
                    "spec": {"holderIdentity": s.node_name, "leaseDurationSeconds": s.lease_seconds, "renewTime": now},
                });
                if let Some(o) = owner {
                    set(&mut l, "/metadata", "ownerReferences", o);
                }
                api.create(&l).await
            }
        }
    }
}

fn set(v: &mut Value, pointer: &str, key: &str, value: Value) {
    if let Some(o) = v.pointer_mut(pointer).and_then(Value::as_object_mut) {
        o.insert(key.to_string(), value);
    }
}

/// Whether the apiserver has another status for one of our conditions: the node lifecycle controller makes them Unknown
/// when it has not heard of the node, and only the kubelet makes them known again.
fn overruled(node: &NodeView, ours: &Value) -> bool {
    let theirs = node.status.conditions.as_deref().unwrap_or_default();
    let ours = ours.get("conditions").and_then(Value::as_array);
    ours.into_iter().flatten().any(|c| {
        let text = |key: &str| c.get(key).and_then(Value::as_str);
        theirs.iter().any(|t| {
            Some(t.kind.as_str()) == text("type") && Some(t.status.as_str()) != text("status")
        })
    })
}

fn without_heartbeat(status: &Value) -> Value {
    let mut v = status.clone();
    for c in v
        .get_mut("conditions")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if let Some(c) = c.as_object_mut() {
            c.remove("lastHeartbeatTime");
            c.remove("lastTransitionTime");
        }
    }
    v
}

/// The images of the status: largest first, a few names each; a negative limit means all.
fn images(mut list: Vec<Image>, limit: i64) -> Value {
    list.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    if let Ok(limit) = usize::try_from(limit) {
        list.truncate(limit);
    }
    list.into_iter()
        .map(|i| {
            let names: Vec<String> = i
                .repo_digests
                .into_iter()
                .chain(i.repo_tags)
                .take(MAX_IMAGE_NAMES)
                .collect();
            json!({"names": names, "sizeBytes": i.size})
        })
        .collect()
}
