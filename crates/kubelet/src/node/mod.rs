//! The node object: what the machine has ([`Machine`]), what it offers to pods, and the status reported about it.

pub mod manager;

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;

use serde::Deserialize;

use crate::config::{Settings, Taint};
use crate::pod::Map;
use crate::pod::quantity::Quantity;

/// Facts about the machine, read once.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "plain data")]
pub struct Machine {
    pub cpus: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub swap: i64,
    /// Bytes of the file system that holds the root directory.
    pub disk: i64,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel: String,
    pub os_image: String,
    /// Whether the kernel confines processes by AppArmor profiles.
    pub app_armor: bool,
    /// Whether control groups are of the first version.
    pub cgroup_v1: bool,
    /// Huge pages, by size.
    pub huge_pages: Vec<HugePages>,
}

/// Pages of one size that the kernel keeps for those who ask for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct HugePages {
    /// Bytes of one page.
    pub size: i64,
    /// How many there are.
    pub count: i64,
}

impl HugePages {
    /// `hugepages-2Mi`
    pub fn resource(&self) -> String {
        format!("hugepages-{}", Quantity::whole(self.size).bytes_text())
    }

    /// `2MB`, as control groups and the runtime name the size.
    pub fn page_size(&self) -> String {
        let (mut n, mut unit) = (self.size, "B");
        for next in ["KB", "MB", "GB", "TB", "PB"] {
            if n < 1024 {
                break;
            }
            (n, unit) = (n / 1024, next);
        }
        format!("{n}{unit}")
    }

    fn bytes(&self) -> i64 {
        self.size.saturating_mul(self.count)
    }

    /// Those of the kernel, by its directory `hugepages`.
    fn read(dir: &Path) -> Vec<HugePages> {
        let mut out: Vec<HugePages> = std::fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|e| {
                let name = e.file_name();
                let kib: i64 = name
                    .to_str()?
                    .strip_prefix("hugepages-")?
                    .strip_suffix("kB")?
                    .parse()
                    .ok()?;
                let count = std::fs::read_to_string(e.path().join("nr_hugepages")).ok()?;
                Some(HugePages {
                    size: kib.saturating_mul(1024),
                    count: count.trim().parse().ok()?,
                })
            })
            .collect();
        out.sort();
        out
    }
}

/// The node as the kubelet reads it back.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "fields of core/v1 Node")]
pub struct NodeView {
    pub metadata: client::ObjectMeta,
    pub spec: NodeSpec,
    pub status: NodeStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "fields of core/v1 NodeSpec")]
pub struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pub pod_cidr: String,
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Option<Vec<String>>,
    pub taints: Option<Vec<Taint>>,
    pub unschedulable: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "fields of core/v1 NodeStatus")]
pub struct NodeStatus {
    pub capacity: Option<Map>,
    pub conditions: Option<Vec<NodeCondition>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "fields of core/v1 NodeCondition")]
pub struct NodeCondition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub last_transition_time: Option<String>,
}

client::views!(NodeView);

fn read(path: &str) -> String {
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_string()
}

/// A value of /proc/meminfo in bytes.
pub fn meminfo(key: &str) -> i64 {
    std::fs::read_to_string("/proc/meminfo")
        .unwrap_or_default()
        .lines()
        .find_map(|l| {
            l.strip_prefix(key)?
                .strip_prefix(':')?
                .trim()
                .strip_suffix(" kB")?
                .parse::<i64>()
                .ok()
        })
        .unwrap_or(0)
        .saturating_mul(1024)
}

/// Capacity and free bytes, inodes and free inodes of the file system at `path`.
pub fn file_system(path: &Path) -> Option<(i64, i64, i64, i64)> {
    let s = rustix::fs::statvfs(path).ok()?;
    let n = |v: u64| i64::try_from(v).unwrap_or(i64::MAX);
    Some((
        n(s.f_blocks.saturating_mul(s.f_frsize)),
        n(s.f_bavail.saturating_mul(s.f_frsize)),
        n(s.f_files),
        n(s.f_favail),
    ))
}

impl Machine {
    /// Reads the facts; what cannot be read is empty or zero.
    pub fn read(root_dir: &Path) -> Machine {
        let uname = rustix::system::uname();
        let os = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let cpus =
            std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(1));
        let machine_id = ["/etc/machine-id", "/var/lib/dbus/machine-id"]
            .iter()
            .map(|p| read(p))
            .find(|s| !s.is_empty())
            .unwrap_or_default();
        let uuid = read("/sys/class/dmi/id/product_uuid");
        Machine {
            cpus,
            memory: meminfo("MemTotal"),
            swap: meminfo("SwapTotal"),
            disk: file_system(root_dir).map_or(0, |f| f.0),
            system_uuid: if uuid.is_empty() {
                machine_id.clone()
            } else {
                uuid
            },
            machine_id,
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            app_armor: read("/sys/module/apparmor/parameters/enabled").starts_with('Y'),
            huge_pages: HugePages::read(Path::new("/sys/kernel/mm/hugepages")),
            cgroup_v1: !Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
            kernel: uname.release().to_string_lossy().into_owned(),
            os_image: os
                .lines()
                .find_map(|l| l.strip_prefix("PRETTY_NAME="))
                .map_or_else(|| "Linux".to_string(), |v| v.trim_matches('"').to_string()),
        }
    }
}

/// Pods the node may run.
pub fn pod_capacity(s: &Settings, m: &Machine) -> i64 {
    if s.pods_per_core > 0 {
        s.max_pods.min(s.pods_per_core.saturating_mul(m.cpus))
    } else {
        s.max_pods
    }
}

/// `status.capacity`.
pub fn capacity(s: &Settings, m: &Machine) -> Map {
    let mut out = BTreeMap::from([
        ("cpu".into(), m.cpus.to_string()),
        ("memory".into(), Quantity::whole(m.memory).bytes_text()),
        (
            "ephemeral-storage".into(),
            Quantity::whole(m.disk).bytes_text(),
        ),
        ("pods".into(), pod_capacity(s, m).to_string()),
    ]);
    for p in &m.huge_pages {
        out.insert(p.resource(), Quantity::whole(p.bytes()).bytes_text());
    }
    out
}

/// What is kept back from pods of a resource, besides eviction thresholds.
pub fn reserved(s: &Settings, name: &str) -> Quantity {
    let of = |map: &BTreeMap<String, String>| {
        map.get(name)
            .and_then(|q| Quantity::parse(q))
            .unwrap_or_default()
    };
    of(&s.system_reserved) + of(&s.kube_reserved)
}

/// `status.allocatable`: capacity less reservations and hard eviction thresholds, never below zero. Huge pages are no
/// memory for others.
pub fn allocatable(s: &Settings, m: &Machine) -> Map {
    let threshold =
        |signal: &str, capacity: i64| s.eviction_hard.get(signal).map_or(0, |t| t.of(capacity));
    let less = |q: Quantity| Quantity(q.0.max(0));
    let cpu = less(Quantity::whole(m.cpus) - reserved(s, "cpu"));
    let mut out = capacity(s, m);
    let mut memory = Quantity::whole(m.memory)
        - Quantity::whole(threshold("memory.available", m.memory))
        - reserved(s, "memory");
    for p in &m.huge_pages {
        let name = p.resource();
        let pages = less(Quantity::whole(p.bytes()) - reserved(s, &name));
        memory = memory - pages;
        out.insert(name, pages.bytes_text());
    }
    let memory = less(memory);
    let disk = less(
        Quantity::whole(m.disk)
            - Quantity::whole(threshold("nodefs.available", m.disk))
            - reserved(s, "ephemeral-storage"),
    );
    out.insert("cpu".into(), cpu.cpu_text());
    out.insert("memory".into(), memory.bytes_text());
    out.insert("ephemeral-storage".into(), disk.value().to_string());
    out
}

/// The node's addresses: `--node-ip`, else the address the machine would use towards the outside, else loopback.
pub fn addresses(configured: &[IpAddr]) -> Vec<String> {
    let given: Vec<String> = configured
        .iter()
        .filter(|i| !i.is_unspecified())
        .map(ToString::to_string)
        .collect();
    if !given.is_empty() {
        return given;
    }
    // No packet is sent: connecting a datagram socket only chooses the source address.
    let source = |bind: &str, to: &str| {
        let s = UdpSocket::bind(bind).ok()?;
        s.connect(to).ok()?;
        Some(s.local_addr().ok()?.ip().to_string())
    };
    let found = source("0.0.0.0:0", "192.0.2.1:9").or_else(|| source("[::]:0", "[2001:db8::1]:9"));
    vec![found.unwrap_or_else(|| "127.0.0.1".into())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{FlagValues, KubeletConfiguration};

    #[test]
    fn allocatable_keeps_back_reservations_and_thresholds() {
        let c = KubeletConfiguration {
            system_reserved: BTreeMap::from([
                ("cpu".into(), "500m".into()),
                ("memory".into(), "1Gi".into()),
            ]),
            kube_reserved: BTreeMap::from([("cpu".into(), "250m".into())]),
            ..Default::default()
        };
        let s = Settings::new(
            c,
            FlagValues {
                hostname_override: "n".into(),
                ..Default::default()
            },
        )
        .unwrap();
        let m = Machine {
            cpus: 4,
            memory: 8 << 30,
            disk: 1000,
            ..Default::default()
        };
        let a = allocatable(&s, &m);
        assert_eq!(
            (
                a["cpu"].as_str(),
                a["memory"].as_str(),
                a["ephemeral-storage"].as_str()
            ),
            ("3250m", "7068Mi", "900")
        );
        assert_eq!(capacity(&s, &m)["memory"], "8Gi");
        assert_eq!(a["pods"], "110");
    }

    #[test]
    fn huge_pages_are_counted_and_are_no_other_memory() {
        let d = tempfile::tempdir().unwrap();
        for (name, count) in [
            ("hugepages-2048kB", "16\n"),
            ("hugepages-1048576kB", "0\n"),
            ("hugepages-64kB", "x"),
        ] {
            std::fs::create_dir(d.path().join(name)).unwrap();
            std::fs::write(d.path().join(name).join("nr_hugepages"), count).unwrap();
        }
        let huge_pages = HugePages::read(d.path());
        let names: Vec<_> = huge_pages
            .iter()
            .map(|p| (p.resource(), p.page_size()))
            .collect();
        assert_eq!(
            names,
            [
                ("hugepages-2Mi".into(), "2MB".into()),
                ("hugepages-1Gi".into(), "1GB".to_string())
            ]
        );
        let s = Settings::new(
            KubeletConfiguration::default(),
            FlagValues {
                hostname_override: "n".into(),
                ..Default::default()
            },
        )
        .unwrap();
        let m = Machine {
            cpus: 1,
            memory: 1 << 30,
            huge_pages,
            ..Default::default()
        };
        let (c, a) = (capacity(&s, &m), allocatable(&s, &m));
        assert_eq!(
            (c["hugepages-2Mi"].as_str(), c["hugepages-1Gi"].as_str()),
            ("32Mi", "0")
        );
        assert_eq!(
            (a["hugepages-2Mi"].as_str(), a["memory"].as_str()),
            ("32Mi", "892Mi")
        );
        assert_eq!(c["memory"], "1Gi");
    }

    #[test]
    fn given_addresses_win() {
        assert_eq!(addresses(&["10.0.0.1".parse().unwrap()]), ["10.0.0.1"]);
        assert!(!addresses(&[]).is_empty());
    }
}
