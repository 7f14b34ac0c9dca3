//! Resource use of the node and its pods: `/stats/summary` and `/metrics/resource`.
//!
//! Containers come from the runtime, pods are their sums, the node from the kernel. Nothing is sampled in between.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::node::meminfo;
use crate::runtime::state::{CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID};
use crate::shared::Shared;

/// Use of one container.
#[derive(Clone, Debug, Default)]
struct Use {
    pod: String,
    namespace: String,
    uid: String,
    name: String,
    cpu_nanos: u64,
    cpu_nano_cores: u64,
    memory: u64,
    usage: u64,
    rss: u64,
    fs_used: u64,
    inodes: u64,
    at: i64,
}

async fn containers(shared: &Arc<Shared>) -> crate::cri::Result<Vec<Use>> {
    let list = shared.rt.list_container_stats().await?;
    let mut out: BTreeMap<(String, String), Use> = BTreeMap::new();
    for s in list {
        let a = s.attributes.unwrap_or_default();
        let label = |k: &str| a.labels.get(k).cloned().unwrap_or_default();
        let cpu = s.cpu.unwrap_or_default();
        let memory = s.memory.unwrap_or_default();
        let layer = s.writable_layer.unwrap_or_default();
        let n = |v: Option<crate::cri::proto::UInt64Value>| v.map_or(0, |v| v.value);
        let u = Use {
            pod: label(POD_NAME),
            namespace: label(POD_NAMESPACE),
            uid: label(POD_UID),
            name: label(CONTAINER_NAME),
            cpu_nanos: n(cpu.usage_core_nano_seconds),
            cpu_nano_cores: n(cpu.usage_nano_cores),
            memory: n(memory.working_set_bytes),
            usage: n(memory.usage_bytes),
            rss: n(memory.rss_bytes),
            fs_used: n(layer.used_bytes),
            inodes: n(layer.inodes_used),
            at: cpu.timestamp,
        };
        if u.uid.is_empty() || u.at == 0 {
            continue;
        }
        let key = (u.uid.clone(), u.name.clone());
        match out.get(&key) {
            Some(o) if o.at > u.at => {}
            _ => {
                out.insert(key, u);
            }
        }
    }
    Ok(out.into_values().collect())
}

/// CPU nanoseconds of the machine since boot and bytes of its working set.
fn node_use(shared: &Shared) -> (u64, u64) {
    let (cpu, memory) = shared.cgroups.usage("/");
    let total = u64::try_from(shared.machine.memory).unwrap_or(0);
    let available = u64::try_from(meminfo("MemAvailable")).unwrap_or(0);
    (
        cpu,
        if memory == 0 {
            total.saturating_sub(available)
        } else {
            memory
        },
    )
}

fn time(nanos: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(nanos))
        .map(client::view::print_time)
        .unwrap_or_default()
}

/// `/stats/summary`.
pub async fn summary(shared: &Arc<Shared>) -> crate::cri::Result<Value> {
    let now = client::view::print_time(jiff::Timestamp::now());
    let mut pods: BTreeMap<String, (Use, Vec<Value>)> = BTreeMap::new();
    for u in containers(shared).await? {
        let at = time(u.at);
        let c = json!({
            "name": u.name,
            "startTime": Value::Null,
            "cpu": {"time": at, "usageNanoCores": u.cpu_nano_cores, "usageCoreNanoSeconds": u.cpu_nanos},
            "memory": {"time": at, "usageBytes": u.usage, "workingSetBytes": u.memory, "rssBytes": u.rss},
            "rootfs": {"time": at, "usedBytes": u.fs_used, "inodesUsed": u.inodes},
        });
        let e = pods.entry(u.uid.clone()).or_insert_with(|| {
            (
                Use {
                    pod: u.pod.clone(),
                    namespace: u.namespace.clone(),
                    uid: u.uid.clone(),
                    ..Use::default()
                },
                Vec::new(),
            )
        });
        e.0.cpu_nanos = e.0.cpu_nanos.saturating_add(u.cpu_nanos);
        e.0.cpu_nano_cores = e.0.cpu_nano_cores.saturating_add(u.cpu_nano_cores);
        e.0.memory = e.0.memory.saturating_add(u.memory);
        e.0.usage = e.0.usage.saturating_add(u.usage);
        e.0.rss = e.0.rss.saturating_add(u.rss);
        e.1.push(c);
    }
    let pods: Vec<Value> = pods
        .into_values()
        .map(|(p, c)| {
            json!({
                "podRef": {"name": p.pod, "namespace": p.namespace, "uid": p.uid},
                "startTime": Value::Null,
                "containers": c,
                "cpu": {"time": now, "usageNanoCores": p.cpu_nano_cores, "usageCoreNanoSeconds": p.cpu_nanos},
                "memory": {"time": now, "usageBytes": p.usage, "workingSetBytes": p.memory, "rssBytes": p.rss},
            })
        })
        .collect();
    let (cpu, memory) = node_use(shared);
    let fs = crate::node::file_system(&shared.settings.root_dir).map(|(total, free, inodes, ifree)| {
        json!({"time": now, "capacityBytes": total, "availableBytes": free, "usedBytes": total.saturating_sub(free), "inodes": inodes, "inodesFree": ifree, "inodesUsed": inodes.saturating_sub(ifree)})
    });
    Ok(json!({
        "node": {
            "nodeName": shared.settings.node_name,
            "startTime": Value::Null,
            "cpu": {"time": now, "usageCoreNanoSeconds": cpu},
            "memory": {"time": now, "availableBytes": u64::try_from(meminfo("MemAvailable")).unwrap_or(0), "workingSetBytes": memory},
            "fs": fs,
        },
        "pods": pods,
    }))
}

/// `/metrics/resource`.
pub async fn resource(shared: &Arc<Shared>) -> String {
    let mut out = String::new();
    let (list, error) = match containers(shared).await {
        Ok(l) => (l, 0),
        Err(_) => (Vec::new(), 1),
    };
    let seconds = |n: u64| {
        #[expect(clippy::cast_precision_loss, reason = "a metric")]
        let v = n as f64 / 1e9;
        v
    };
    let millis = |n: i64| n / 1_000_000;
    let head = |out: &mut String, name: &str, help: &str, kind: &str| {
        let _ = writeln!(out, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}");
    };
    head(
        &mut out,
        "container_cpu_usage_seconds_total",
        "Cumulative cpu time consumed by the container in core-seconds",
        "counter",
    );
    for u in &list {
        let _ = writeln!(
            out,
            "container_cpu_usage_seconds_total{{container=\"{}\",namespace=\"{}\",pod=\"{}\"}} {} {}",
            u.name,
            u.namespace,
            u.pod,
            seconds(u.cpu_nanos),
            millis(u.at)
        );
    }
    head(
        &mut out,
        "container_memory_working_set_bytes",
        "Current working set of the container in bytes",
        "gauge",
    );
    for u in &list {
        let _ = writeln!(
            out,
            "container_memory_working_set_bytes{{container=\"{}\",namespace=\"{}\",pod=\"{}\"}} {} {}",
            u.name,
            u.namespace,
            u.pod,
            u.memory,
            millis(u.at)
        );
    }
    let (cpu, memory) = node_use(shared);
    head(
        &mut out,
        "node_cpu_usage_seconds_total",
        "Cumulative cpu time consumed by the node in core-seconds",
        "counter",
    );
    let _ = writeln!(out, "node_cpu_usage_seconds_total {}", seconds(cpu));
    head(
        &mut out,
        "node_memory_working_set_bytes",
        "Current working set of the node in bytes",
        "gauge",
    );
    let _ = writeln!(out, "node_memory_working_set_bytes {memory}");
    let mut pods: BTreeMap<(&str, &str), (u64, u64)> = BTreeMap::new();
    for u in &list {
        let e = pods.entry((&u.namespace, &u.pod)).or_default();
        e.0 = e.0.saturating_add(u.cpu_nanos);
        e.1 = e.1.saturating_add(u.memory);
    }
    head(
        &mut out,
        "pod_cpu_usage_seconds_total",
        "Cumulative cpu time consumed by the pod in core-seconds",
        "counter",
    );
    for ((ns, pod), (cpu, _)) in &pods {
        let _ = writeln!(
            out,
            "pod_cpu_usage_seconds_total{{namespace=\"{ns}\",pod=\"{pod}\"}} {}",
            seconds(*cpu)
        );
    }
    head(
        &mut out,
        "pod_memory_working_set_bytes",
        "Current working set of the pod in bytes",
        "gauge",
    );
    for ((ns, pod), (_, memory)) in &pods {
        let _ = writeln!(
            out,
            "pod_memory_working_set_bytes{{namespace=\"{ns}\",pod=\"{pod}\"}} {memory}"
        );
    }
    head(
        &mut out,
        "resource_scrape_error",
        "1 if there was an error while getting container metrics, 0 otherwise",
        "gauge",
    );
    let _ = writeln!(out, "resource_scrape_error {error}");
    out
}
