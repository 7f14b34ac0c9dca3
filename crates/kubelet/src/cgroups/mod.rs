//! Cgroups of pods and of QoS classes, on cgroup v1 and v2.
//!
//! With the cgroupfs driver the kubelet makes the directories and sets the limits of a pod's own cgroup; with systemd the
//! runtime makes the slices when it starts the sandbox, and the pod's own limits are set on the slice once it exists.
//! Paths are upstream's: `kubepods[/burstable|/besteffort]/pod<uid>` below the cgroup root.
//!
//! Invariant: nothing outside the cgroup root's `kubepods` is written or removed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::{CgroupDriver, Settings};
use crate::pod::Pod;
use crate::pod::resources::{self, Qos, milli_to_quota, milli_to_shares};

const MOUNT: &str = "/sys/fs/cgroup";

/// True when the machine's cgroups are the unified hierarchy.
pub fn is_v2() -> bool {
    Path::new(MOUNT).join("cgroup.controllers").exists()
}

/// The cgroups the kubelet keeps.
#[derive(Clone, Debug)]
pub struct Cgroups {
    driver: CgroupDriver,
    root: String,
    enabled: bool,
    v2: bool,
    mount: PathBuf,
    pids: i64,
}

/// Limits of a cgroup; zero or `None` leaves a value alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "plain data")]
pub struct Limits {
    pub shares: Option<i64>,
    /// Microseconds per 100 ms; -1 for none.
    pub quota: Option<i64>,
    /// Bytes; -1 for none.
    pub memory: Option<i64>,
    pub pids: Option<i64>,
    /// Bytes of huge pages by the bytes of a page; a size that is not there has none.
    pub huge_pages: Option<BTreeMap<i64, i64>>,
}

/// The bytes of a page by its name in cgroups: `2MB`.
fn page_size(name: &str) -> Option<i64> {
    let (number, unit) = name.split_at_checked(name.len().checked_sub(2)?)?;
    let shift = match unit {
        "KB" => 10,
        "MB" => 20,
        "GB" => 30,
        _ => return None,
    };
    number.parse::<i64>().ok()?.checked_mul(1 << shift)
}

/// The limits of huge pages in a cgroup's directory, whose files end in `end`.
fn huge_page_files(dir: &Path, end: &str, limits: &BTreeMap<i64, i64>) -> Vec<(PathBuf, String)> {
    let mut out: Vec<(PathBuf, String)> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| {
            let name = e.file_name();
            let size = name
                .to_str()?
                .strip_prefix("hugetlb.")?
                .strip_suffix(end)
                .and_then(page_size)?;
            let limit = limits.get(&size).copied().unwrap_or(0);
            Some((e.path(), limit.to_string()))
        })
        .collect();
    out.sort();
    out
}

impl Cgroups {
    /// By the settings; nothing is touched.
    pub fn new(s: &Settings) -> Cgroups {
        Cgroups {
            driver: s.cgroup_driver,
            root: s.cgroup_root.trim_matches('/').to_string(),
            enabled: s.cgroups_per_qos,
            v2: is_v2(),
            mount: PathBuf::from(MOUNT),
            pids: s.pod_pids_limit,
        }
    }

    fn path(&self, parts: &[&str]) -> String {
        let mut path = String::new();
        if !self.root.is_empty() {
            path = format!("/{}", self.root);
        }
        match self.driver {
            CgroupDriver::Cgroupfs => {
                for p in parts {
                    path.push('/');
                    path.push_str(p);
                }
            }
            CgroupDriver::Systemd => {
                let mut name = String::new();
                for p in parts {
                    if !name.is_empty() {
                        name.push('-');
                    }
                    name.push_str(&p.replace('-', "_"));
                    path.push_str(&format!("/{name}.slice"));
                }
            }
        }
        path
    }

    fn pod_path(&self, uid: &str, qos: Qos) -> String {
        let pod = format!("pod{uid}");
        match qos {
            Qos::Guaranteed => self.path(&["kubepods", &pod]),
            Qos::Burstable => self.path(&["kubepods", "burstable", &pod]),
            Qos::BestEffort => self.path(&["kubepods", "besteffort", &pod]),
        }
    }

    /// The `cgroup_parent` of a pod's sandbox.
    pub fn parent(&self, pod: &Pod) -> String {
        if self.enabled {
            self.pod_path(&pod.metadata.uid, pod.qos())
        } else {
            String::new()
        }
    }

    /// Makes the QoS cgroups. `milli` and `memory` are what pods may use together (node allocatable); zero for no limit.
    ///
    /// `Ok(false)` when there is nothing to do it with: no cgroups per class, or slices that are the runtime's.
    pub fn setup(&self, milli: i64, memory: i64) -> io::Result<bool> {
        if !self.enabled || self.driver == CgroupDriver::Systemd {
            return Ok(false);
        }
        let limit = |v: i64| (v > 0).then_some(v);
        let top = Limits {
            shares: limit(milli).map(milli_to_shares),
            memory: limit(memory),
            ..Limits::default()
        };
        self.make(&self.path(&["kubepods"]), top)?;
        self.make(&self.path(&["kubepods", "burstable"]), Limits::default())?;
        self.make(
            &self.path(&["kubepods", "besteffort"]),
            Limits {
                shares: Some(2),
                ..Limits::default()
            },
        )?;
        Ok(true)
    }

    /// Sets the burstable class's cpu shares to what its pods request together.
    pub fn balance(&self, burstable_milli: i64) -> io::Result<()> {
        if !self.enabled || self.driver == CgroupDriver::Systemd {
            return Ok(());
        }
        self.make(
            &self.path(&["kubepods", "burstable"]),
            Limits {
                shares: Some(milli_to_shares(burstable_milli)),
                ..Limits::default()
            },
        )
    }

    /// Makes a pod's cgroup with the pod's limits.
    pub fn ensure_pod(&self, pod: &Pod, quota: bool) -> io::Result<()> {
        if !self.enabled || self.driver == CgroupDriver::Systemd {
            return Ok(());
        }
        self.make(
            &self.pod_path(&pod.metadata.uid, pod.qos()),
            self.pod_limits(pod, quota),
        )
    }

    fn pod_limits(&self, pod: &Pod, quota: bool) -> Limits {
        let mut l = Limits {
            shares: Some(2),
            pids: (self.pids > 0).then_some(self.pids),
            huge_pages: Some(resources::huge_page_limits(pod)),
            ..Limits::default()
        };
        if pod.qos() != Qos::BestEffort {
            l.shares = Some(milli_to_shares(resources::pod_request(pod, "cpu").milli()));
            l.quota = resources::pod_limit(pod, "cpu")
                .filter(|_| quota)
                .map(|q| milli_to_quota(q.milli()));
            l.memory = resources::pod_limit(pod, "memory").map(|q| q.value());
        }
        l
    }

    /// The hierarchies: one on v2, one per controller on v1.
    fn hierarchies(&self) -> Vec<PathBuf> {
        if self.v2 {
            return vec![self.mount.clone()];
        }
        let Ok(dir) = fs::read_dir(&self.mount) else {
            return Vec::new();
        };
        dir.flatten()
            .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
            .map(|e| e.path())
            .collect()
    }

    fn make(&self, path: &str, l: Limits) -> io::Result<()> {
        let rel = path.trim_start_matches('/');
        let put = |file: PathBuf, value: String| -> io::Result<()> {
            if !file.exists() || fs::read_to_string(&file).is_ok_and(|v| v.trim() == value) {
                return Ok(());
            }
            fs::write(&file, &value)
                .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", file.display())))
        };
        if self.v2 {
            let mut at = self.mount.clone();
            for part in rel.split('/') {
                for c in ["cpu", "memory", "pids", "cpuset", "io", "hugetlb"] {
                    let _ = fs::write(at.join("cgroup.subtree_control"), format!("+{c}"));
                }
                at.push(part);
                if !at.exists() {
                    fs::create_dir(&at)?;
                }
            }
            if let Some(s) = l.shares {
                put(
                    at.join("cpu.weight"),
                    (1 + (s - 2) * 9999 / 262_142).to_string(),
                )?;
            }
            if let Some(q) = l.quota {
                put(
                    at.join("cpu.max"),
                    if q > 0 {
                        format!("{q} 100000")
                    } else {
                        "max 100000".into()
                    },
                )?;
            }
            if let Some(m) = l.memory {
                put(
                    at.join("memory.max"),
                    if m > 0 { m.to_string() } else { "max".into() },
                )?;
            }
            if let Some(p) = l.pids {
                put(at.join("pids.max"), p.to_string())?;
            }
            for (file, limit) in l
                .huge_pages
                .iter()
                .flat_map(|limits| huge_page_files(&at, ".max", limits))
            {
                put(file, limit)?;
            }
            return Ok(());
        }
        for controller in ["cpu", "memory", "pids", "hugetlb"] {
            let base = self.mount.join(controller);
            if !base.exists() {
                continue;
            }
            let dir = base.join(rel);
            fs::create_dir_all(&dir)?;
            match controller {
                "cpu" => {
                    if let Some(s) = l.shares {
                        put(dir.join("cpu.shares"), s.to_string())?;
                    }
                    if let Some(q) = l.quota {
                        put(dir.join("cpu.cfs_period_us"), "100000".into())?;
                        put(
                            dir.join("cpu.cfs_quota_us"),
                            if q > 0 { q.to_string() } else { "-1".into() },
                        )?;
                    }
                }
                "memory" => {
                    if let Some(m) = l.memory {
                        put(dir.join("memory.limit_in_bytes"), m.to_string())?;
                    }
                }
                "hugetlb" => {
                    for (file, limit) in l
                        .huge_pages
                        .iter()
                        .flat_map(|limits| huge_page_files(&dir, ".limit_in_bytes", limits))
                    {
                        put(file, limit)?;
                    }
                }
                _ => {
                    if let Some(p) = l.pids {
                        put(dir.join("pids.max"), p.to_string())?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Removes a pod's cgroup in whatever class it is, killing what is left in it.
    ///
    /// `Ok(false)` when something still runs there: try again later.
    pub fn remove_pod(&self, uid: &str) -> io::Result<bool> {
        if !self.enabled || uid.is_empty() || uid.contains('/') {
            return Ok(true);
        }
        let mut gone = true;
        for qos in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
            let rel = self.pod_path(uid, qos);
            for h in self.hierarchies() {
                let dir = h.join(rel.trim_start_matches('/'));
                if dir.exists() {
                    gone &= remove_tree(&dir);
                }
            }
        }
        Ok(gone)
    }

    /// UIDs of pods that have a cgroup.
    pub fn pods(&self) -> Vec<String> {
        let mut out = Vec::new();
        if !self.enabled || self.driver == CgroupDriver::Systemd {
            return out;
        }
        let Some(h) = (if self.v2 {
            Some(self.mount.clone())
        } else {
            Some(self.mount.join("memory"))
        }) else {
            return out;
        };
        for class in [
            &["kubepods"][..],
            &["kubepods", "burstable"],
            &["kubepods", "besteffort"],
        ] {
            let dir = h.join(self.path(class).trim_start_matches('/'));
            for e in fs::read_dir(dir).into_iter().flatten().flatten() {
                if let Some(uid) = e.file_name().to_str().and_then(|n| n.strip_prefix("pod")) {
                    out.push(uid.to_string());
                }
            }
        }
        out
    }

    /// CPU nanoseconds and working-set bytes of a cgroup, by its path below the root; for statistics.
    pub fn usage(&self, path: &str) -> (u64, u64) {
        let rel = path.trim_start_matches('/');
        let number = |p: PathBuf| {
            fs::read_to_string(p)
                .ok()
                .and_then(|t| t.trim().parse::<u64>().ok())
        };
        let stat = |p: PathBuf, key: &str| {
            fs::read_to_string(p)
                .ok()
                .and_then(|t| {
                    t.lines().find_map(|l| {
                        l.strip_prefix(key)
                            .and_then(|v| v.trim().parse::<u64>().ok())
                    })
                })
                .unwrap_or(0)
        };
        if self.v2 {
            let d = self.mount.join(rel);
            let cpu = stat(d.join("cpu.stat"), "usage_usec ") * 1000;
            let used = number(d.join("memory.current")).unwrap_or(0);
            return (
                cpu,
                used.saturating_sub(stat(d.join("memory.stat"), "inactive_file ")),
            );
        }
        let cpu = number(self.mount.join("cpuacct").join(rel).join("cpuacct.usage")).unwrap_or(0);
        let m = self.mount.join("memory").join(rel);
        let used = number(m.join("memory.usage_in_bytes")).unwrap_or(0);
        (
            cpu,
            used.saturating_sub(stat(m.join("memory.stat"), "total_inactive_file ")),
        )
    }

    /// The path of all pods.
    pub fn all_pods_path(&self) -> String {
        self.path(&["kubepods"])
    }
}

/// Removes a cgroup and those below; true when it is gone.
fn remove_tree(dir: &Path) -> bool {
    for e in fs::read_dir(dir).into_iter().flatten().flatten() {
        if e.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&e.path());
        }
    }
    for pid in fs::read_to_string(dir.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
    {
        if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    fs::remove_dir(dir).is_ok() || !dir.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cgroups(driver: CgroupDriver, root: &str) -> Cgroups {
        Cgroups {
            driver,
            root: root.trim_matches('/').into(),
            enabled: true,
            v2: false,
            mount: "/none".into(),
            pids: -1,
        }
    }

    #[test]
    fn names_are_upstreams() {
        let mut p = Pod::default();
        p.metadata.uid = "a-b".into();
        assert_eq!(
            cgroups(CgroupDriver::Cgroupfs, "/").parent(&p),
            "/kubepods/besteffort/poda-b"
        );
        assert_eq!(
            cgroups(CgroupDriver::Cgroupfs, "/x").parent(&p),
            "/x/kubepods/besteffort/poda-b"
        );
        assert_eq!(
            cgroups(CgroupDriver::Systemd, "/").parent(&p),
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-poda_b.slice"
        );
    }

    /// What was not done is not told of: the caller learns whether node allocatable holds.
    #[test]
    fn limits_of_all_pods_are_set_or_said_not_to_be() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("memory")).unwrap();
        let c = Cgroups {
            mount: dir.path().into(),
            ..cgroups(CgroupDriver::Cgroupfs, "/t")
        };
        assert!(c.setup(1000, 1 << 30).unwrap());
        let limit = dir.path().join("memory/t/kubepods");
        assert!(limit.is_dir());
        assert!(
            !cgroups(CgroupDriver::Systemd, "/")
                .setup(1000, 1 << 30)
                .unwrap()
        );
        let off = Cgroups {
            enabled: false,
            ..c
        };
        assert!(!off.setup(1000, 1 << 30).unwrap());
    }

    #[test]
    fn limits_land_in_v1_files_and_go_away() {
        let dir = tempfile::tempdir().unwrap();
        for c in ["cpu", "memory", "pids"] {
            fs::create_dir(dir.path().join(c)).unwrap();
        }
        let c = Cgroups {
            mount: dir.path().into(),
            pids: 50,
            ..cgroups(CgroupDriver::Cgroupfs, "/t")
        };
        let pod: Pod = serde_json::from_str(
            r#"{"metadata":{"uid":"u1"},"spec":{"containers":[{"name":"a","resources":{"limits":{"cpu":"500m","memory":"1Mi"},"requests":{"cpu":"250m"}}}]}}"#,
        )
        .unwrap();
        let limits = c.pod_limits(&pod, true);
        assert_eq!(
            limits,
            Limits {
                shares: Some(256),
                quota: Some(50_000),
                memory: Some(1 << 20),
                pids: Some(50),
                huge_pages: Some(BTreeMap::new()),
            }
        );
        c.ensure_pod(&pod, true).unwrap();
        assert!(
            dir.path()
                .join("memory/t/kubepods/burstable/podu1")
                .is_dir()
        );
        assert_eq!(c.pods(), ["u1"]);
        assert!(c.remove_pod("u1").unwrap());
        assert!(c.pods().is_empty());
    }

    /// A pod has the huge pages that its containers have together, and none of another size.
    #[test]
    fn huge_pages_are_limited_on_v1_and_v2() {
        let pod: Pod = serde_json::from_str(
            r#"{"metadata":{"uid":"u1"},"spec":{"containers":[
                {"name":"a","resources":{"limits":{"hugepages-2Mi":"4Mi","cpu":"1","memory":"1Mi"}}},
                {"name":"b","resources":{"limits":{"hugepages-2Mi":"6Mi"}}}]}}"#,
        )
        .unwrap();
        for (v2, base, end) in [(false, "hugetlb", ".limit_in_bytes"), (true, "", ".max")] {
            let dir = tempfile::tempdir().unwrap();
            let c = Cgroups {
                mount: dir.path().into(),
                v2,
                ..cgroups(CgroupDriver::Cgroupfs, "/t")
            };
            let at = dir
                .path()
                .join(base)
                .join(c.parent(&pod).trim_start_matches('/'));
            fs::create_dir_all(&at).unwrap();
            let file = |size: &str| at.join(format!("hugetlb.{size}{end}"));
            for size in ["2MB", "1GB", "x"] {
                fs::write(file(size), "max").unwrap();
            }
            c.ensure_pod(&pod, true).unwrap();
            let read = |size: &str| fs::read_to_string(file(size)).unwrap();
            assert_eq!(
                (read("2MB"), read("1GB"), read("x")),
                ("10485760".into(), "0".into(), "max".into()),
                "v2: {v2}"
            );
        }
    }
}
