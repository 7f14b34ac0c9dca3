//! What the runtime has of one pod, read fresh for every decision.
//!
//! Labels and annotations are upstream's, so that a restarted kubelet, ours or upstream's, recognises its containers.

use crate::cri::proto::{self, ContainerFilter, PodSandboxFilter};
use crate::cri::{Result, Runtime};
use crate::pod::Handler;

/// Label with the pod's name.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// Label with the pod's namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label with the pod's UID.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Label with the container's name.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Annotation with the container's hash.
pub const HASH: &str = "io.kubernetes.container.hash";
/// Annotation with how often the container was started before.
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Annotation with the path of the termination message.
pub const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// Annotation with the policy of the termination message.
pub const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Annotation with the preStop hook as JSON.
pub const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
/// Annotation with the container's ports as JSON.
pub const PORTS: &str = "io.kubernetes.container.ports";
/// Annotation with the grace of a deletion in seconds.
pub const DELETION_GRACE: &str = "io.kubernetes.pod.deletionGracePeriod";
/// Annotation with the pod's grace in seconds.
pub const TERMINATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// Longest termination message, in bytes.
const MAX_MESSAGE: u64 = 4096;
/// Longest termination message taken from the log, in bytes and lines.
const MAX_LOG_MESSAGE: usize = 2048;
const MAX_LOG_LINES: usize = 80;

/// State of a container in the runtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Created, never started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited,
    /// The runtime cannot tell.
    #[default]
    Unknown,
}

impl Phase {
    /// From the CRI number.
    pub fn from_cri(v: i32) -> Phase {
        match proto::ContainerState::try_from(v) {
            Ok(proto::ContainerState::Created) => Phase::Created,
            Ok(proto::ContainerState::Running) => Phase::Running,
            Ok(proto::ContainerState::Exited) => Phase::Exited,
            _ => Phase::Unknown,
        }
    }

    /// Upstream's word in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Created => "created",
            Phase::Running => "running",
            Phase::Exited => "exited",
            Phase::Unknown => "unknown",
        }
    }
}

/// One container of a pod. Times are nanoseconds since 1970, zero when unset.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of the CRI status")]
pub struct ContainerRecord {
    pub id: String,
    pub name: String,
    pub sandbox: String,
    pub phase: Phase,
    pub created_at: i64,
    pub started_at: i64,
    pub finished_at: i64,
    pub exit_code: i32,
    pub image: String,
    pub image_ref: String,
    pub hash: String,
    pub restart_count: i32,
    pub reason: String,
    pub message: String,
    pub pre_stop: Option<Handler>,
    pub grace: Option<i64>,
    pub log_path: String,
    pub user: Option<(i64, i64, Vec<i64>)>,
}

/// One sandbox of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of the CRI status")]
pub struct SandboxRecord {
    pub id: String,
    pub ready: bool,
    pub created_at: i64,
    pub attempt: u32,
    pub host_network: bool,
    /// Addresses; only meaningful when `network` is set.
    pub ips: Vec<String>,
    /// Whether the runtime reported on the network at all.
    pub network: bool,
}

/// All sandboxes and containers of one pod, newest first.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "plain data")]
pub struct RuntimePod {
    pub uid: String,
    pub name: String,
    pub namespace: String,
    pub sandboxes: Vec<SandboxRecord>,
    pub containers: Vec<ContainerRecord>,
}

impl RuntimePod {
    /// The newest container of that name.
    pub fn find(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// Containers that run, or may run.
    pub fn running(&self) -> impl Iterator<Item = &ContainerRecord> {
        self.containers
            .iter()
            .filter(|c| matches!(c.phase, Phase::Running | Phase::Unknown))
    }

    /// Addresses of the newest ready sandbox.
    pub fn ips(&self) -> &[String] {
        self.sandboxes
            .first()
            .filter(|s| s.ready)
            .map(|s| s.ips.as_slice())
            .unwrap_or_default()
    }
}

/// Reads a pod's state from the runtime.
pub async fn read(rt: &dyn Runtime, uid: &str) -> Result<RuntimePod> {
    let labels = std::collections::BTreeMap::from([(POD_UID.to_string(), uid.to_string())]);
    let sandboxes = rt.list_pod_sandbox(PodSandboxFilter {
        label_selector: labels.clone(),
        ..Default::default()
    });
    let containers = rt.list_containers(ContainerFilter {
        label_selector: labels,
        ..Default::default()
    });
    let (sandboxes, containers) = futures::try_join!(sandboxes, containers)?;
    let mut pod = RuntimePod {
        uid: uid.to_string(),
        ..Default::default()
    };
    // A runtime that minds no selector must not make a pod own what is another's.
    let own = |labels: &std::collections::BTreeMap<String, String>| {
        labels.get(POD_UID).is_some_and(|u| u == uid)
    };
    for s in sandboxes.into_iter().filter(|s| own(&s.labels)) {
        let meta = s.metadata.clone().unwrap_or_default();
        pod.name = meta.name;
        pod.namespace = meta.namespace;
        match rt.pod_sandbox_status(&s.id).await {
            Ok(mut st) => {
                st.id.clone_from(&s.id);
                pod.sandboxes.push(sandbox_record(st));
            }
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
        }
    }
    for c in containers.into_iter().filter(|c| own(&c.labels)) {
        match rt.container_status(&c.id).await {
            Ok(mut st) => {
                st.id.clone_from(&c.id);
                pod.containers.push(container_record(st, &c.pod_sandbox_id));
            }
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
        }
    }
    pod.sandboxes.sort_by(|a, b| {
        b.created_at
            .cmp(&a.created_at)
            .then_with(|| b.id.cmp(&a.id))
    });
    pod.containers
        .sort_by_key(|c| std::cmp::Reverse(c.created_at));
    Ok(pod)
}

fn sandbox_record(s: proto::PodSandboxStatus) -> SandboxRecord {
    let network = s.network.is_some();
    let ips = s.network.map_or_else(Vec::new, |n| {
        std::iter::once(n.ip)
            .chain(n.additional_ips.into_iter().map(|i| i.ip))
            .filter(|i| !i.is_empty())
            .collect()
    });
    let mode = s
        .linux
        .and_then(|l| l.namespaces)
        .and_then(|n| n.options)
        .map_or(0, |o| o.network);
    SandboxRecord {
        id: s.id,
        ready: s.state == proto::PodSandboxState::Ready as i32,
        created_at: s.created_at,
        attempt: s.metadata.map_or(0, |m| m.attempt),
        host_network: mode == proto::NamespaceMode::Node as i32,
        ips,
        network,
    }
}

fn container_record(s: proto::ContainerStatus, sandbox: &str) -> ContainerRecord {
    let phase = Phase::from_cri(s.state);
    let a = |k: &str| s.annotations.get(k);
    let grace = a(DELETION_GRACE)
        .or_else(|| a(TERMINATION_GRACE))
        .and_then(|v| v.parse().ok());
    let mut message = s.message.clone();
    if phase == Phase::Exited {
        let policy = a(TERMINATION_POLICY).map_or("", String::as_str);
        let path = a(TERMINATION_PATH).map_or("", String::as_str);
        if let Some(m) = termination_message(&s, path, policy) {
            message = if message.is_empty() {
                m
            } else {
                format!("{m}: {message}")
            };
        }
    }
    let mut reason = s.reason.clone();
    if phase == Phase::Exited && reason.is_empty() {
        reason = if s.exit_code == 0 {
            "Completed".into()
        } else {
            "Error".into()
        };
    }
    ContainerRecord {
        name: s
            .labels
            .get(CONTAINER_NAME)
            .cloned()
            .or_else(|| s.metadata.as_ref().map(|m| m.name.clone()))
            .unwrap_or_default(),
        sandbox: sandbox.to_string(),
        phase,
        created_at: s.created_at,
        started_at: s.started_at,
        finished_at: s.finished_at,
        exit_code: s.exit_code,
        image: s
            .image
            .as_ref()
            .map(|i| {
                if i.user_specified_image.is_empty() {
                    i.image.clone()
                } else {
                    i.user_specified_image.clone()
                }
            })
            .unwrap_or_default(),
        image_ref: s.image_ref.clone(),
        hash: a(HASH).cloned().unwrap_or_default(),
        restart_count: a(RESTART_COUNT)
            .and_then(|v| v.parse().ok())
            .unwrap_or_default(),
        reason,
        message,
        pre_stop: a(PRE_STOP).and_then(|v| serde_json::from_str(v).ok()),
        grace,
        log_path: s.log_path.clone(),
        user: s
            .user
            .as_ref()
            .and_then(|u| u.linux.as_ref())
            .map(|l| (l.uid, l.gid, l.supplemental_groups.clone())),
        id: s.id,
    }
}

/// The message a container left behind: its file, else the end of its log when the policy says so.
fn termination_message(s: &proto::ContainerStatus, path: &str, policy: &str) -> Option<String> {
    let file = s
        .mounts
        .iter()
        .find(|m| !path.is_empty() && m.container_path == path);
    if let Some(m) = file {
        let mut text = read_end(&m.host_path, MAX_MESSAGE);
        if text.is_empty() && policy == "FallbackToLogsOnError" && s.exit_code != 0 {
            text = crate::server::logs::tail_text(&s.log_path, MAX_LOG_LINES, MAX_LOG_MESSAGE);
        }
        return (!text.is_empty()).then_some(text);
    }
    None
}

/// The end of a file, as upstream tells it.
fn read_end(path: &str, limit: u64) -> String {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = crate::server::logs::open(path.as_ref())?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(limit)))?;
        let mut text = Vec::new();
        file.take(limit).read_to_end(&mut text)?;
        Ok(text)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files of another kind: a volume's mount at the path of the message can be a pipe or a device that the container has
    /// made. Neither is opened. Of a long file the end is told.
    #[test]
    fn a_termination_message_is_read_from_a_file_alone() {
        let d = tempfile::tempdir().unwrap();
        let long = d.path().join("long");
        std::fs::write(&long, format!("start{}end", "x".repeat(5000))).unwrap();
        let pipe = d.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let message = |host_path: &str| {
            let status = proto::ContainerStatus {
                mounts: vec![proto::Mount {
                    container_path: "/m".into(),
                    host_path: host_path.into(),
                    ..Default::default()
                }],
                ..Default::default()
            };
            termination_message(&status, "/m", "File")
        };
        let told = message(long.to_str().unwrap()).unwrap();
        assert!(told.len() == 4096 && told.ends_with("xend"), "{told}");
        for no in [pipe.to_str().unwrap(), "/dev/zero", "/tmp", "/none"] {
            assert_eq!(message(no), None, "{no}");
        }
    }
}
