//! One sync of a pod: look, decide, act, report.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cri::CriError;
use crate::pod::{Container, Pod};
use crate::runtime::actions::{self, KillReason};
use crate::runtime::state::{self, Phase, RuntimePod};
use crate::shared::Shared;
use crate::status::generate::{self, StartFailure, generate};
use crate::volumes::{self, MountedVolumes};

use super::{Eviction, Memory, kill, start};

/// First wait of the crash back-off.
const CRASH_FIRST: Duration = Duration::from_secs(10);

/// Crash back-off of one container.
#[derive(Clone, Debug)]
pub struct Backoff {
    /// Present wait.
    pub wait: Duration,
    /// End of the container (nanoseconds since 1970) that the wait counts from.
    pub since: i64,
    /// When the wait was set.
    pub set: i64,
}

/// What comes after a sync.
#[derive(Debug)]
pub enum Next {
    /// Nothing until woken, or until then.
    Wait(Option<Instant>),
    /// The pod has ended by itself.
    Finished,
    /// The pod must end.
    Evict(Eviction),
}

/// Why a sync failed.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The runtime.
    #[error(transparent)]
    Runtime(#[from] CriError),
    /// The network is not there yet.
    #[error("network is not ready: {0}")]
    Network(String),
    /// A cgroup or directory.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Volumes, each with what is wrong.
    #[error("{0}")]
    Volumes(String),
    /// The sandbox.
    #[error("failed to create the sandbox: {0}")]
    Sandbox(String),
}

/// Where in its life the pod is, for its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Running or starting.
    Running,
    /// Being stopped.
    Terminating,
    /// Stopped for good.
    Terminated,
}

/// Now in nanoseconds since 1970.
pub fn now_nanos() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// Makes the status and hands it to the status manager; keeps the probes in line.
pub fn publish(
    shared: &Arc<Shared>,
    pod: &Arc<Pod>,
    rt: &RuntimePod,
    memory: &Memory,
    stage: Stage,
    failed: Option<(String, String)>,
) -> String {
    if stage == Stage::Running {
        let old = shared
            .status
            .get(&pod.metadata.uid)
            .unwrap_or_else(|| pod.status.clone());
        let all: Vec<_> = old
            .container_statuses
            .iter()
            .chain(&old.init_container_statuses)
            .cloned()
            .collect();
        let host_ip = shared.host_ips.first().map_or("127.0.0.1", String::as_str);
        shared.prober.sync(pod, rt, &all, host_ip);
    }
    publish_status(shared, pod, rt, &memory.failures, stage, failed)
}

/// Makes the status and hands it to the status manager; gives the phase.
pub fn publish_status(
    shared: &Arc<Shared>,
    pod: &Arc<Pod>,
    rt: &RuntimePod,
    failures: &HashMap<String, StartFailure>,
    stage: Stage,
    failed: Option<(String, String)>,
) -> String {
    let old = shared
        .status
        .get(&pod.metadata.uid)
        .unwrap_or_else(|| pod.status.clone());
    let status = generate(&generate::Inputs {
        pod,
        old: &old,
        rt,
        failures,
        probes: &*shared.prober.results,
        host_ips: &shared.host_ips,
        terminating: stage != Stage::Running,
        terminal: stage == Stage::Terminated,
        failed,
        now: client::view::print_time(jiff::Timestamp::now()),
    });
    let phase = status.phase.clone();
    shared.status.set(pod, status);
    phase
}

/// When an active deadline ends the pod.
fn deadline(shared: &Shared, pod: &Pod) -> Option<(Instant, bool)> {
    let seconds = pod.spec.active_deadline_seconds?;
    let start = shared
        .status
        .get(&pod.metadata.uid)
        .and_then(|s| s.start_time)
        .or_else(|| pod.status.start_time.clone())?;
    let start: client::Time = start.parse().ok()?;
    let left = start
        .as_second()
        .saturating_add(seconds)
        .saturating_sub(jiff::Timestamp::now().as_second());
    Some((
        Instant::now() + component::duration::seconds(left),
        left <= 0,
    ))
}

fn sooner(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Brings the pod one step nearer to its spec.
pub async fn sync(
    shared: &Arc<Shared>,
    pod: &Arc<Pod>,
    memory: &mut Memory,
) -> Result<Next, SyncError> {
    let uid = &pod.metadata.uid;
    let rt = state::read(&*shared.rt, uid).await?;
    let names: Vec<&str> = pod.all_containers().map(|c| c.name.as_str()).collect();
    memory.failures.retain(|n, _| {
        names.contains(&n.as_str()) && rt.find(n).is_none_or(|c| c.phase != Phase::Running)
    });
    let phase = publish(shared, pod, &rt, memory, Stage::Running, None);
    if matches!(phase.as_str(), "Succeeded" | "Failed") {
        return Ok(Next::Finished);
    }
    let limit = deadline(shared, pod);
    if limit.is_some_and(|(_, over)| over) {
        let message = "Pod was active on the node longer than the specified deadline".to_string();
        shared.event(pod, false, "DeadlineExceeded", message.clone());
        return Ok(Next::Evict(Eviction {
            reason: "DeadlineExceeded".into(),
            message,
            grace: None,
            rejected: false,
        }));
    }
    let mut next = limit.map(|(at, _)| at);

    if !pod.spec.host_network {
        let ready = shared.network.read().map(|n| n.clone()).unwrap_or(Ok(()));
        if let Err(why) = ready {
            shared.event(
                pod,
                true,
                "NetworkNotReady",
                format!("network is not ready: {why}"),
            );
            return Err(SyncError::Network(why));
        }
    }
    shared.cgroups.ensure_pod(pod, shared.settings.cfs_quota)?;
    make_directories(shared, pod)?;
    let volumes = set_up_volumes(shared, pod, &rt, memory).await?;
    next = sooner(next, volumes.refresh_at);

    let plan = actions::compute(pod, &rt, &*shared.prober.results);
    let at = act(shared, pod, &rt, plan, &volumes, memory).await?;
    next = sooner(next, at);
    let rt = state::read(&*shared.rt, uid).await?;
    let phase = publish(shared, pod, &rt, memory, Stage::Running, None);
    if matches!(phase.as_str(), "Succeeded" | "Failed") {
        return Ok(Next::Finished);
    }
    Ok(Next::Wait(next))
}

fn make_directories(shared: &Shared, pod: &Pod) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let dir = shared.pod_dir(pod);
    let make = |p: std::path::PathBuf| {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(p)
    };
    make(dir.join("volumes"))?;
    make(dir.join("plugins"))
}

async fn set_up_volumes(
    shared: &Arc<Shared>,
    pod: &Pod,
    rt: &RuntimePod,
    memory: &mut Memory,
) -> Result<MountedVolumes, SyncError> {
    let ctx = shared.context(pod, rt.ips());
    match volumes::set_up(pod, &shared.pod_dir(pod), &ctx, &**shared).await {
        Ok(v) => {
            memory.last_mount_error = None;
            Ok(v)
        }
        Err(failed) => {
            let texts: Vec<String> = failed
                .iter()
                .map(|(name, e)| format!("MountVolume.SetUp failed for volume \"{name}\" : {e}"))
                .collect();
            for text in &texts {
                shared.event(pod, true, "FailedMount", text.clone());
            }
            Err(SyncError::Volumes(texts.join("; ")))
        }
    }
}

/// Carries the plan out; gives when to look again.
async fn act(
    shared: &Arc<Shared>,
    pod: &Arc<Pod>,
    rt: &RuntimePod,
    plan: actions::Plan,
    volumes: &MountedVolumes,
    memory: &mut Memory,
) -> Result<Option<Instant>, SyncError> {
    let mut sandbox_id = plan.sandbox_id.clone();
    if plan.kill_pod {
        if plan.create_sandbox && !sandbox_id.is_empty() {
            shared.event(
                pod,
                false,
                "SandboxChanged",
                "Pod sandbox changed, it will be killed and re-created.",
            );
        }
        let by = Instant::now()
            + component::duration::seconds(crate::pod::grace(
                pod.spec.termination_grace_period_seconds,
            ));
        kill::pod(shared, pod, rt, by, memory).await?;
        if !plan.create_sandbox {
            return Ok(None);
        }
    } else {
        for k in &plan.kill {
            if let Some(record) = rt.containers.iter().find(|c| c.id == k.id) {
                let grace = probe_grace(pod, &k.name, k.reason)
                    .unwrap_or(pod.spec.termination_grace_period_seconds);
                kill::container(shared, pod, record, grace, &k.message, memory).await?;
            }
        }
    }
    let mut ips: Vec<String> = rt.ips().to_vec();
    let dns = crate::runtime::dns::for_pod(pod, &shared.settings.cluster, shared.resolv().as_ref());
    let config = crate::runtime::config::sandbox(
        pod,
        plan.attempt,
        dns,
        shared.cgroups.parent(pod),
        &shared.settings.cluster.domain,
        &shared.host(),
    );
    if plan.create_sandbox {
        if let Err(e) = check_supported(pod) {
            shared.event(
                pod,
                true,
                "FailedCreatePodSandBox",
                format!("Failed to create pod sandbox: {e}"),
            );
            return Err(SyncError::Sandbox(e));
        }
        std::fs::create_dir_all(&config.log_directory)?;
        let handler = runtime_handler(shared, pod).await.map_err(|e| {
            shared.event(
                pod,
                true,
                "FailedCreatePodSandBox",
                format!("Failed to create pod sandbox: {e}"),
            );
            SyncError::Sandbox(e)
        })?;
        sandbox_id = match shared.rt.run_pod_sandbox(config.clone(), &handler).await {
            Ok(id) => id,
            Err(e) => {
                shared.event(
                    pod,
                    true,
                    "FailedCreatePodSandBox",
                    format!("Failed to create pod sandbox: {e}"),
                );
                return Err(SyncError::Sandbox(e.to_string()));
            }
        };
        let status = shared.rt.pod_sandbox_status(&sandbox_id).await?;
        ips = status
            .network
            .map(|n| {
                std::iter::once(n.ip)
                    .chain(n.additional_ips.into_iter().map(|i| i.ip))
                    .filter(|i| !i.is_empty())
                    .collect()
            })
            .unwrap_or_default();
    }
    if pod.spec.host_network {
        ips.clone_from(&shared.host_ips);
    }
    let before = rt;
    let rt = state::read(&*shared.rt, &pod.metadata.uid).await?;
    if plan.create_sandbox {
        publish(shared, pod, &rt, memory, Stage::Running, None);
    }
    let starter = start::Starter {
        shared,
        pod,
        rt: &rt,
        sandbox: &sandbox_id,
        config: &config,
        ips: &ips,
        volumes,
    };

    let mut next = None;
    for i in plan.ephemeral {
        if let Some(c) = pod.spec.ephemeral_containers.get(i) {
            next = sooner(next, one(&starter, c, before, memory).await);
        }
    }
    for i in plan.init {
        if let Some(c) = pod.spec.init_containers.get(i) {
            let at = one(&starter, c, before, memory).await;
            next = sooner(next, at);
            if memory.failures.contains_key(&c.name) && !c.is_sidecar() {
                return Ok(next);
            }
        }
    }
    for i in plan.containers {
        if let Some(c) = pod.spec.containers.get(i) {
            next = sooner(next, one(&starter, c, before, memory).await);
        }
    }
    Ok(next)
}

/// The grace a probe sets for the container it kills.
fn probe_grace(pod: &Pod, name: &str, reason: KillReason) -> Option<i64> {
    let c = pod.container(name)?;
    match reason {
        KillReason::Liveness => c.liveness_probe.as_ref()?.termination_grace_period_seconds,
        KillReason::Startup => c.startup_probe.as_ref()?.termination_grace_period_seconds,
        KillReason::Other => None,
    }
}

/// What this kubelet cannot give a pod must not be left out in silence.
fn check_supported(pod: &Pod) -> Result<(), String> {
    if pod.spec.host_users == Some(false) {
        return Err(
            "user namespaces (spec.hostUsers: false) are not supported by this kubelet".into(),
        );
    }
    if !pod.spec.resource_claims.is_empty() {
        return Err("resource claims are not supported by this kubelet".into());
    }
    for c in pod.all_containers() {
        if c.volume_mounts
            .iter()
            .any(|m| m.recursive_read_only.as_deref() == Some("Enabled"))
        {
            return Err(format!(
                "container {}: recursiveReadOnly Enabled is not supported by this kubelet",
                c.name
            ));
        }
        if c.restart_policy_rules
            .iter()
            .any(|r| r.action == "RestartAllContainers")
        {
            return Err(format!(
                "container {}: the restart rule RestartAllContainers is not supported by this kubelet",
                c.name
            ));
        }
    }
    Ok(())
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct RuntimeClassView {
    handler: String,
}

async fn runtime_handler(shared: &Shared, pod: &Pod) -> Result<String, String> {
    let Some(name) = pod
        .spec
        .runtime_class_name
        .as_deref()
        .filter(|n| !n.is_empty())
    else {
        return Ok(String::new());
    };
    let Some(client) = &shared.client else {
        return Err(format!("no apiserver to read RuntimeClass {name:?} from"));
    };
    match client
        .api(&client::resource::RUNTIME_CLASSES)
        .get::<RuntimeClassView>(name)
        .await
    {
        Ok(c) => Ok(c.handler),
        Err(e) => Err(format!(
            "failed to get sandbox runtime: RuntimeClass {name:?}: {e}"
        )),
    }
}

/// Starts one container, minding its back-off; gives when to try again.
///
/// What counts is what had ended `before` this sync: a container that the sync itself stopped, as after a failed probe, is
/// replaced at once.
async fn one(
    s: &start::Starter<'_>,
    c: &Container,
    before: &RuntimePod,
    memory: &mut Memory,
) -> Option<Instant> {
    let (shared, pod) = (s.shared, s.pod);
    let mut ended = before.containers.iter();
    let latest = ended.find(|r| r.name == c.name && r.phase == Phase::Exited);
    if let Some(r) = latest {
        let max = shared.settings.crash_backoff_max;
        let at = crash(memory.backoff.get(&c.name), r.finished_at, now_nanos(), max);
        match at {
            Crash::Wait { left, wait } => {
                let shown = component::duration::format(wait);
                shared.container_event(
                    pod,
                    &c.name,
                    true,
                    "BackOff",
                    format!(
                        "Back-off restarting failed container {} in pod {}_{}({})",
                        c.name, pod.metadata.name, pod.metadata.namespace, pod.metadata.uid
                    ),
                );
                let message = format!(
                    "back-off {shown} restarting failed container={} pod={}_{}({})",
                    c.name, pod.metadata.name, pod.metadata.namespace, pod.metadata.uid
                );
                memory.failures.insert(
                    c.name.clone(),
                    StartFailure {
                        reason: "CrashLoopBackOff".into(),
                        message,
                    },
                );
                return Some(Instant::now() + left);
            }
            Crash::Go(b) => {
                memory.backoff.insert(c.name.clone(), b);
            }
        }
    }
    match s.start(c).await {
        Ok(()) => {
            memory.failures.remove(&c.name);
            None
        }
        Err(f) => {
            tracing::info!(pod = %pod.key(), container = %c.name, reason = f.reason, message = %f.message, "container not started");
            memory.failures.insert(
                c.name.clone(),
                StartFailure {
                    reason: f.reason.into(),
                    message: f.message,
                },
            );
            Some(
                f.retry_at
                    .unwrap_or_else(|| Instant::now() + Duration::from_secs(10)),
            )
        }
    }
}

/// Whether a crashed container waits.
#[derive(Debug)]
enum Crash {
    Wait { left: Duration, wait: Duration },
    Go(Backoff),
}

/// The crash back-off: doubles from 10 s to `max` with each end, and starts anew after twice `max` without one. Pure.
fn crash(b: Option<&Backoff>, finished: i64, now: i64, max: Duration) -> Crash {
    let nanos = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
    let first = CRASH_FIRST.min(max);
    match b {
        Some(b) if finished.saturating_sub(b.set) <= nanos(max.saturating_mul(2)) => {
            // An end that is still to come is a runtime's error; then the wait counts from when it was set.
            let from = if finished > now { b.set } else { finished };
            let over = now.saturating_sub(from).max(0);
            if over < nanos(b.wait) {
                let left = Duration::from_nanos(u64::try_from(nanos(b.wait) - over).unwrap_or(0));
                return Crash::Wait { left, wait: b.wait };
            }
            Crash::Go(Backoff {
                wait: b.wait.saturating_mul(2).min(max),
                since: finished,
                set: now,
            })
        }
        _ => Crash::Go(Backoff {
            wait: first,
            since: finished,
            set: now,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    #[test]
    fn what_is_not_supported_is_refused() {
        let pod =
            |spec: &str| serde_json::from_str::<Pod>(&format!(r#"{{"spec":{spec}}}"#)).unwrap();
        for fine in ["{}", r#"{"hostUsers":true}"#] {
            assert_eq!(check_supported(&pod(fine)), Ok(()), "{fine}");
        }
        for (bad, why) in [
            (
                r#"{"hostUsers":false}"#,
                "user namespaces (spec.hostUsers: false) are not supported by this kubelet",
            ),
            (
                r#"{"resourceClaims":[{"name":"gpu"}]}"#,
                "resource claims are not supported by this kubelet",
            ),
            (
                r#"{"containers":[{"name":"c","volumeMounts":[{"recursiveReadOnly":"Enabled"}]}]}"#,
                "container c: recursiveReadOnly Enabled is not supported by this kubelet",
            ),
        ] {
            assert_eq!(check_supported(&pod(bad)), Err(why.to_owned()), "{bad}");
        }
    }

    #[test]
    fn crash_back_off_doubles_and_resets() {
        let max = Duration::from_secs(300);
        let Crash::Go(b) = crash(None, 100 * S, 100 * S, max) else {
            panic!()
        };
        assert_eq!(b.wait, Duration::from_secs(10));
        let Crash::Wait { left, wait } = crash(Some(&b), 101 * S, 103 * S, max) else {
            panic!()
        };
        assert_eq!(
            (left, wait),
            (Duration::from_secs(8), Duration::from_secs(10))
        );
        let Crash::Go(b) = crash(Some(&b), 101 * S, 111 * S, max) else {
            panic!()
        };
        assert_eq!(b.wait, Duration::from_secs(20));
        let mut b = b;
        for i in 0..10 {
            let t = (200 + i * 400) * S;
            b.set = t;
            if let Crash::Go(n) = crash(Some(&b), t + S, t + 400 * S, max) {
                b = n;
            }
        }
        assert_eq!(b.wait, max);
        let Crash::Go(b) = crash(Some(&b), b.set + 601 * S, b.set + 601 * S, max) else {
            panic!()
        };
        assert_eq!(b.wait, Duration::from_secs(10));
    }
}
