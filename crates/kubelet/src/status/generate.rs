//! The status of a pod from its spec, the runtime, probe results and the status before. Pure.
//!
//! Reasons, messages and the order of conditions are upstream's.

use std::collections::{BTreeSet, HashMap};

use crate::pod::quantity::Quantity;
use crate::pod::{
    Condition, Container, ContainerStatus, ContainerUser, Ip, LinuxUser, Pod, PodStatus, Running,
    State, StatusResources, Terminated, VolumeMountStatus, Waiting,
};
use crate::pod::{Map, resources};
use crate::runtime::ID_PREFIX;
use crate::runtime::actions::{sandbox_changed, should_restart};
use crate::runtime::state::{ContainerRecord, Phase, RuntimePod};

/// Reason and message of a container that could not be started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "plain data")]
pub struct StartFailure {
    pub reason: String,
    pub message: String,
}

/// What probes say of a container id.
pub trait Readiness {
    /// Whether the container has started: `None` when no startup probe has a result.
    fn started(&self, id: &str) -> Option<bool>;
    /// Whether the readiness probe passed last: `None` when it has no result.
    fn ready(&self, id: &str) -> Option<bool>;
}

/// Everything the status is made from.
pub struct Inputs<'a> {
    /// The pod, with the status of the apiserver.
    pub pod: &'a Pod,
    /// The status before, ours or the apiserver's.
    pub old: &'a PodStatus,
    /// The runtime's view.
    pub rt: &'a RuntimePod,
    /// Why containers were not started, by name.
    pub failures: &'a HashMap<String, StartFailure>,
    /// Probe results.
    pub probes: &'a dyn Readiness,
    /// Addresses of the node.
    pub host_ips: &'a [String],
    /// The pod is being or has been terminated by us.
    pub terminating: bool,
    /// Every container has been stopped for good.
    pub terminal: bool,
    /// Eviction, deadline or rejection: the pod fails with this reason and message.
    pub failed: Option<(String, String)>,
    /// Time in RFC 3339.
    pub now: String,
}

/// RFC 3339 from nanoseconds since 1970; `None` for unset.
pub fn time_text(nanos: i64) -> Option<String> {
    if nanos <= 0 {
        return None;
    }
    jiff::Timestamp::from_second(nanos / 1_000_000_000)
        .ok()
        .map(client::view::print_time)
}

fn epoch() -> Option<String> {
    Some(client::view::print_time(jiff::Timestamp::UNIX_EPOCH))
}

/// What the pod as a whole was given, and what that comes to.
fn pod_resources(pod: &Pod) -> (Map, StatusResources) {
    let text = |name: &str, q: Quantity| match name {
        "cpu" => q.cpu_text(),
        "memory" | "ephemeral-storage" => q.bytes_text(),
        n if n.starts_with("hugepages-") => q.bytes_text(),
        _ => q.value().to_string(),
    };
    let own = pod.spec.resources.iter();
    let all = || {
        let containers = pod.spec.init_containers.iter().chain(&pod.spec.containers);
        containers.map(|c| (&c.resources.requests, &c.resources.limits))
    };
    let own = || own.clone().map(|r| (&r.requests, &r.limits));
    let names = |of: fn((&'_ Map, &'_ Map)) -> Vec<String>| -> BTreeSet<String> {
        all().chain(own()).flat_map(of).collect()
    };
    let requested = names(|(r, _)| r.keys().cloned().collect());
    let limited = names(|(_, l)| l.keys().cloned().collect());
    let (requests, most) = (resources::pod_requests(pod), resources::pod_limits(pod));
    let allocated: Map = requested
        .iter()
        .map(|n| {
            let q = requests.get(n.as_str()).copied().unwrap_or_default();
            (n.clone(), text(n, q))
        })
        .collect();
    let limits = limited.iter().filter_map(|n| {
        let q = most.get(n.as_str())?;
        Some((n.clone(), text(n, *q)))
    });
    let effective = StatusResources {
        limits: limits.collect(),
        requests: allocated.clone(),
    };
    (allocated, effective)
}

/// Most bytes of the messages of all containers together, each an equal part: a status must stay one that the apiserver
/// takes, whatever programs and the runtime have to say.
const MAX_MESSAGES: usize = 12 * 1024;

/// Cuts a text at a character.
pub fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        let end = (0..=most).rev().find(|i| text.is_char_boundary(*i));
        text.truncate(end.unwrap_or(0));
    }
}

fn bound_messages(s: &mut PodStatus) {
    let all = s
        .container_statuses
        .iter_mut()
        .chain(&mut s.init_container_statuses)
        .chain(&mut s.ephemeral_container_statuses);
    let all: Vec<&mut ContainerStatus> = all.collect();
    let each = MAX_MESSAGES / all.len().max(1);
    for state in all
        .into_iter()
        .flat_map(|c| [&mut c.state, &mut c.last_state])
    {
        if let Some(w) = &mut state.waiting {
            cut(&mut w.message, each);
            cut(&mut w.reason, each);
        }
        if let Some(t) = &mut state.terminated {
            cut(&mut t.message, each);
            cut(&mut t.reason, each);
        }
    }
}

const CREATING: &str = "ContainerCreating";
const INITIALIZING: &str = "PodInitializing";

/// Makes the status.
pub fn generate(i: &Inputs<'_>) -> PodStatus {
    let pod = i.pod;
    let has_init = !pod.spec.init_containers.is_empty();
    let mut s = PodStatus {
        observed_generation: pod.metadata.generation,
        qos_class: pod.qos().as_str().to_string(),
        container_statuses: statuses(
            i,
            &pod.spec.containers,
            &i.old.container_statuses,
            has_init,
            false,
        ),
        init_container_statuses: statuses(
            i,
            &pod.spec.init_containers,
            &i.old.init_container_statuses,
            has_init,
            true,
        ),
        ephemeral_container_statuses: statuses(
            i,
            &pod.spec.ephemeral_containers,
            &i.old.ephemeral_container_statuses,
            has_init,
            false,
        ),
        start_time: i
            .old
            .start_time
            .clone()
            .or_else(|| pod.status.start_time.clone())
            .or_else(|| Some(i.now.clone())),
        ..PodStatus::default()
    };
    let ips = i.rt.ips();
    s.pod_ips = sort_ips(ips, i.host_ips)
        .into_iter()
        .map(|ip| Ip { ip })
        .collect();
    if s.pod_ips.is_empty() && !i.old.pod_ips.is_empty() && (i.terminating || pod.is_finished()) {
        s.pod_ips = i.old.pod_ips.clone();
    }

    let initialized = any_regular(pod, i.rt);
    s.phase = phase(pod, &s, i.terminal && !pod.is_static(), initialized).to_string();
    for earlier in [&i.old.phase, &pod.status.phase] {
        if !matches!(s.phase.as_str(), "Failed" | "Succeeded")
            && matches!(earlier.as_str(), "Failed" | "Succeeded")
        {
            s.phase.clone_from(earlier);
        }
    }
    if s.phase == i.old.phase {
        s.reason = if i.old.reason.is_empty() {
            pod.status.reason.clone()
        } else {
            i.old.reason.clone()
        };
        s.message = if i.old.message.is_empty() {
            pod.status.message.clone()
        } else {
            i.old.message.clone()
        };
    }
    if let Some((reason, message)) = &i.failed {
        s.phase = "Failed".into();
        s.reason.clone_from(reason);
        s.message.clone_from(message);
    }
    if pod.is_finished() {
        s.phase.clone_from(&pod.status.phase);
    }

    update_readiness(i, &mut s);
    s.conditions = conditions(i, &s);
    if let Some(first) = i.host_ips.first() {
        s.host_ip.clone_from(first);
        s.host_ips = i
            .host_ips
            .iter()
            .take(2)
            .map(|ip| Ip { ip: ip.clone() })
            .collect();
        if pod.spec.host_network && s.pod_ips.is_empty() {
            s.pod_ips = s.host_ips.clone();
        }
    }
    let (allocated, effective) = pod_resources(pod);
    s.allocated_resources = allocated;
    s.resources = Some(effective);
    s.pod_ip = s.pod_ips.first().map(|i| i.ip.clone()).unwrap_or_default();
    bound_messages(&mut s);
    s
}

fn sort_ips(ips: &[String], host: &[String]) -> Vec<String> {
    let v6 = |s: &str| s.contains(':');
    let primary = host.first().is_some_and(|h| v6(h));
    let a = ips.iter().find(|i| v6(i) == primary);
    let b = ips.iter().find(|i| v6(i) != primary);
    a.into_iter().chain(b).cloned().collect()
}

fn any_regular(pod: &Pod, rt: &RuntimePod) -> bool {
    pod.spec
        .containers
        .iter()
        .any(|c| rt.find(&c.name).is_some())
}

fn record_status(c: &ContainerRecord, old: Option<&ContainerStatus>) -> ContainerStatus {
    let id = format!("{ID_PREFIX}{}", c.id);
    let mut s = ContainerStatus {
        name: c.name.clone(),
        restart_count: c.restart_count,
        image: c.image.clone(),
        image_id: c.image_ref.clone(),
        container_id: id.clone(),
        user: c.user.as_ref().map(|(uid, gid, groups)| ContainerUser {
            linux: Some(LinuxUser {
                uid: *uid,
                gid: *gid,
                supplemental_groups: groups.clone(),
            }),
        }),
        ..Default::default()
    };
    match c.phase {
        Phase::Running => {
            s.state.running = Some(Running {
                started_at: time_text(c.started_at),
            })
        }
        Phase::Created => s.state.waiting = Some(Waiting::default()),
        Phase::Exited => {
            s.state.terminated = Some(Terminated {
                exit_code: c.exit_code,
                reason: c.reason.clone(),
                message: c.message.clone(),
                // One that never ran ended all the same: then this is the beginning of time, as upstream's.
                started_at: time_text(c.started_at).or_else(epoch),
                finished_at: time_text(c.finished_at).or_else(epoch),
                container_id: id,
                ..Default::default()
            });
        }
        Phase::Unknown if old.is_some_and(|o| o.state.running.is_some()) => {
            s.state.terminated = Some(Terminated {
                reason: "ContainerStatusUnknown".into(),
                message: "The container could not be located when the pod was terminated".into(),
                exit_code: 137,
                ..Default::default()
            });
            s.restart_count = old.map_or(0, |o| o.restart_count) + 1;
        }
        Phase::Unknown => s.state.waiting = Some(Waiting::default()),
    }
    s
}

fn statuses(
    i: &Inputs<'_>,
    containers: &[Container],
    old: &[ContainerStatus],
    has_init: bool,
    is_init: bool,
) -> Vec<ContainerStatus> {
    let default = if has_init { INITIALIZING } else { CREATING };
    let mut out: Vec<ContainerStatus> = Vec::with_capacity(containers.len());
    for c in containers {
        let before = old.iter().find(|o| o.name == c.name);
        let mut status = ContainerStatus {
            name: c.name.clone(),
            image: c.image.clone(),
            state: State {
                waiting: Some(Waiting {
                    reason: default.into(),
                    message: String::new(),
                }),
                ..State::default()
            },
            ..Default::default()
        };
        if let Some(o) = before {
            if o.state.terminated.is_some() {
                status = o.clone();
            } else {
                status.restart_count = o.restart_count;
                status.last_state = o.last_state.clone();
            }
        }
        let records: Vec<&ContainerRecord> =
            i.rt.containers
                .iter()
                .filter(|r| r.name == c.name)
                .take(2)
                .collect();
        if let Some(newest) = records.first() {
            status = record_status(newest, before);
            if let Some(previous) = records.get(1) {
                status.last_state = record_status(previous, before).state;
            } else if let Some(o) = before
                && o.last_state.terminated.is_some()
                && o.restart_count == status.restart_count
            {
                status.last_state = o.last_state.clone();
            }
        } else if let Some(o) = before
            && o.state.running.is_some()
            && status.state.waiting.is_some()
            && status.last_state.terminated.is_none()
        {
            // It ran and is gone: it counts as ended, not as never started.
            status.last_state.terminated = Some(Terminated {
                reason: "ContainerStatusUnknown".into(),
                message: "The container could not be located when the pod was deleted.  The container used to be Running".into(),
                exit_code: 137,
                ..Default::default()
            });
            if i.pod.metadata.deletion_timestamp.is_none() {
                status.restart_count += 1;
            }
        }
        let made = i.rt.find(&c.name).is_some();
        failed_start(i, c, is_init, &mut status);
        status.volume_mounts = c
            .volume_mounts
            .iter()
            .map(|m| VolumeMountStatus {
                name: m.name.clone(),
                mount_path: m.mount_path.clone(),
                read_only: m.read_only,
                recursive_read_only: m.read_only.then(|| "Disabled".to_string()),
            })
            .collect();
        if made {
            status.allocated_resources = c.resources.requests.clone();
            status.resources = Some(StatusResources {
                limits: c.resources.limits.clone(),
                requests: c.resources.requests.clone(),
            });
        }
        out.push(status);
    }
    if !is_init {
        out.sort_by(|a, b| a.name.cmp(&b.name));
    }
    out
}

/// A container that is to be started but could not be is waiting, with the reason.
fn failed_start(i: &Inputs<'_>, c: &Container, is_init: bool, status: &mut ContainerStatus) {
    if is_init {
        let record = i.rt.find(&c.name);
        if record.is_some_and(|r| r.phase == Phase::Exited && r.exit_code == 0) && !c.is_sidecar() {
            return;
        }
        if record.is_none()
            && any_regular(i.pod, i.rt)
            && !c.is_sidecar()
            && status.state.waiting.is_some()
        {
            status.state = State {
                terminated: Some(Terminated {
                    reason: "Completed".into(),
                    message: "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally".into(),
                    ..Default::default()
                }),
                ..State::default()
            };
            return;
        }
    }
    if !should_restart(i.pod, c, i.rt) || i.terminating {
        return;
    }
    let Some(f) = i.failures.get(&c.name) else {
        return;
    };
    if status.state.terminated.is_some() {
        status.last_state = std::mem::take(&mut status.state);
    }
    status.state = State {
        waiting: Some(Waiting {
            reason: f.reason.clone(),
            message: f.message.clone(),
        }),
        ..State::default()
    };
}

fn phase(pod: &Pod, s: &PodStatus, terminal: bool, initialized: bool) -> &'static str {
    let policy = &pod.spec.restart_policy;
    let mut pending_init = 0;
    let mut pending_sidecars = 0;
    let mut failed_init = 0;
    for c in &pod.spec.init_containers {
        let st = s.init_container_statuses.iter().find(|x| x.name == c.name);
        if c.is_sidecar() {
            match st {
                Some(x) if x.state.running.is_some() => {
                    pending_sidecars +=
                        i32::from(x.started != Some(true) && c.startup_probe.is_some())
                }
                Some(x) if x.state.terminated.is_some() || x.last_state.terminated.is_some() => {}
                _ => pending_sidecars += 1,
            }
            continue;
        }
        let code = st.and_then(|x| {
            x.state
                .terminated
                .as_ref()
                .or_else(|| {
                    x.state
                        .waiting
                        .as_ref()
                        .and(x.last_state.terminated.as_ref())
                })
                .map(|t| t.exit_code)
        });
        match code {
            Some(0) => {
                if st.is_some_and(|x| x.state.terminated.is_none()) {
                    pending_init += 1;
                }
            }
            Some(code) => failed_init += i32::from(!c.restarts_after(policy, code)),
            None => pending_init += 1,
        }
    }
    let (mut unknown, mut running, mut waiting, mut stopped, mut stopped_for_good, mut succeeded) =
        (0, 0, 0, 0, 0, 0);
    for c in &pod.spec.containers {
        let Some(x) = s.container_statuses.iter().find(|x| x.name == c.name) else {
            unknown += 1;
            continue;
        };
        if x.state.running.is_some() {
            running += 1;
        } else if let Some(t) = &x.state.terminated {
            stopped += 1;
            succeeded += i32::from(t.exit_code == 0);
            stopped_for_good += i32::from(!c.restarts_after(policy, t.exit_code));
        } else if x.state.waiting.is_some() {
            match &x.last_state.terminated {
                Some(t) => {
                    stopped += 1;
                    stopped_for_good += i32::from(!c.restarts_after(policy, t.exit_code));
                }
                None => waiting += 1,
            }
        } else {
            unknown += 1;
        }
    }
    if failed_init > 0 {
        return "Failed";
    }
    if !initialized && (pending_init > 0 || pending_sidecars > 0) {
        return "Pending";
    }
    if waiting > 0 {
        return "Pending";
    }
    if running > 0 && unknown == 0 {
        return "Running";
    }
    if running == 0 && stopped > 0 && unknown == 0 {
        if terminal {
            return if stopped == succeeded {
                "Succeeded"
            } else {
                "Failed"
            };
        }
        if stopped_for_good == stopped {
            return if stopped == succeeded {
                "Succeeded"
            } else {
                "Failed"
            };
        }
        return "Running";
    }
    "Pending"
}

fn update_readiness(i: &Inputs<'_>, s: &mut PodStatus) {
    let terminating = i.pod.metadata.deletion_timestamp.is_some() || i.terminating;
    for x in s
        .container_statuses
        .iter_mut()
        .chain(&mut s.init_container_statuses)
        .chain(&mut s.ephemeral_container_statuses)
    {
        let Some(c) = i.pod.container(&x.name) else {
            continue;
        };
        let is_init = i.pod.spec.init_containers.iter().any(|n| n.name == x.name);
        let ephemeral = i
            .pod
            .spec
            .ephemeral_containers
            .iter()
            .any(|n| n.name == x.name);
        let id = x
            .container_id
            .strip_prefix(ID_PREFIX)
            .unwrap_or_default()
            .to_string();
        if ephemeral {
            continue;
        }
        if is_init && !c.is_sidecar() {
            x.started = Some(x.state.running.is_some());
            x.ready = x
                .state
                .terminated
                .as_ref()
                .is_some_and(|t| t.exit_code == 0);
            continue;
        }
        let started = x.state.running.is_some()
            && (c.startup_probe.is_none() || i.probes.started(&id) == Some(true));
        x.started = Some(started);
        x.ready = started && {
            match &c.readiness_probe {
                None => true,
                // A readiness probe stops with the pod; a pod that terminates keeps its last result.
                Some(_) => {
                    i.probes.ready(&id).unwrap_or(false)
                        && !(terminating && i.probes.ready(&id).is_none())
                }
            }
        };
    }
}

fn go_list(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

/// Whether a condition type is set by the kubelet alone.
pub fn owned(kind: &str) -> bool {
    matches!(
        kind,
        "PodScheduled"
            | "Ready"
            | "Initialized"
            | "ContainersReady"
            | "PodReadyToStartContainers"
            | "PodResizePending"
            | "PodResizeInProgress"
            | "AllContainersRestarting"
    )
}

fn conditions(i: &Inputs<'_>, s: &PodStatus) -> Vec<Condition> {
    let pod = i.pod;
    let mut out: Vec<Condition> = pod
        .status
        .conditions
        .iter()
        .filter(|c| !owned(&c.kind))
        .cloned()
        .collect();
    if let Some(d) = i
        .old
        .conditions
        .iter()
        .find(|c| c.kind == "DisruptionTarget")
    {
        out.retain(|c| c.kind != d.kind);
        out.push(d.clone());
    }
    let make = |kind: &str, status: bool, reason: &str, message: String| {
        let status = if status { "True" } else { "False" };
        let before = i
            .old
            .conditions
            .iter()
            .chain(&pod.status.conditions)
            .find(|c| c.kind == kind);
        let transition = before
            .filter(|b| b.status == status)
            .and_then(|b| b.last_transition_time.clone())
            .unwrap_or_else(|| i.now.clone());
        Condition {
            kind: kind.into(),
            observed_generation: pod.metadata.generation,
            status: status.into(),
            last_probe_time: None,
            last_transition_time: Some(transition),
            reason: reason.into(),
            message,
        }
    };
    let (new_sandbox, ..) = sandbox_changed(pod, i.rt);
    out.push(make(
        "PodReadyToStartContainers",
        !new_sandbox,
        "",
        String::new(),
    ));

    let find = |name: &str| {
        s.container_statuses
            .iter()
            .chain(&s.init_container_statuses)
            .find(|c| c.name == name)
    };
    let incomplete: Vec<&str> = pod
        .spec
        .init_containers
        .iter()
        .filter(|c| {
            find(&c.name).is_none_or(|x| {
                if c.is_sidecar() {
                    x.started != Some(true)
                } else {
                    !x.ready
                }
            })
        })
        .map(|c| c.name.as_str())
        .collect();
    let any_started = pod
        .spec
        .containers
        .iter()
        .filter_map(|c| find(&c.name))
        .any(|x| {
            x.started == Some(true)
                || x.state.running.is_some()
                || x.state.terminated.is_some()
                || x.last_state.terminated.is_some()
        });
    out.push(if s.phase == "Succeeded" {
        make("Initialized", true, "PodCompleted", String::new())
    } else if any_started || incomplete.is_empty() {
        make("Initialized", true, "", String::new())
    } else {
        make(
            "Initialized",
            false,
            "ContainersNotInitialized",
            format!(
                "containers with incomplete status: {}",
                go_list(&incomplete)
            ),
        )
    });

    let unready: Vec<&str> = pod
        .spec
        .init_containers
        .iter()
        .filter(|c| c.is_sidecar())
        .chain(&pod.spec.containers)
        .filter(|c| find(&c.name).is_none_or(|x| !x.ready))
        .map(|c| c.name.as_str())
        .collect();
    let (ready, reason, message) = if s.phase == "Succeeded" {
        (false, "PodCompleted", String::new())
    } else if s.phase == "Failed" {
        (false, "PodFailed", String::new())
    } else if unready.is_empty() {
        (true, "", String::new())
    } else {
        (
            false,
            "ContainersNotReady",
            format!("containers with unready status: {}", go_list(&unready)),
        )
    };
    let mut gates = Vec::new();
    if ready {
        for g in &pod.spec.readiness_gates {
            match out.iter().find(|c| c.kind == g.condition_type) {
                None => gates.push(format!(
                    "corresponding condition of pod readiness gate \"{}\" does not exist.",
                    g.condition_type
                )),
                Some(c) if c.status != "True" => {
                    gates.push(format!(
                        "the status of pod readiness gate \"{}\" is not \"True\", but {}",
                        g.condition_type, c.status
                    ));
                }
                Some(_) => {}
            }
        }
    }
    out.push(if gates.is_empty() {
        make("Ready", ready, reason, message.clone())
    } else {
        make("Ready", false, "ReadinessGatesNotReady", gates.join(", "))
    });
    out.push(make("ContainersReady", ready, reason, message));
    out.push(make("PodScheduled", true, "", String::new()));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::state::SandboxRecord;

    #[derive(Default)]
    struct Probes(HashMap<&'static str, bool>);
    impl Readiness for Probes {
        fn started(&self, _: &str) -> Option<bool> {
            None
        }
        fn ready(&self, id: &str) -> Option<bool> {
            self.0.get(id).copied()
        }
    }

    fn pod(spec: &str) -> Pod {
        serde_json::from_str(&format!(r#"{{"metadata":{{"name":"p","namespace":"d","uid":"u","generation":2}},"spec":{spec}}}"#)).unwrap()
    }

    fn record(name: &str, phase: Phase, code: i32) -> ContainerRecord {
        ContainerRecord {
            id: format!("id-{name}"),
            name: name.into(),
            phase,
            exit_code: code,
            created_at: 5,
            reason: if code == 0 {
                "Completed".into()
            } else {
                "Error".into()
            },
            ..Default::default()
        }
    }

    /// Whatever containers leave behind and runtimes say, a status stays one that is taken.
    #[test]
    fn messages_are_cut() {
        let names: Vec<String> = (0..50).map(|i| format!("c{i}")).collect();
        let specs: Vec<String> = names
            .iter()
            .map(|n| format!(r#"{{"name":"{n}","image":"x"}}"#))
            .collect();
        let p = pod(&format!(
            r#"{{"restartPolicy":"Never","containers":[{}]}}"#,
            specs.join(",")
        ));
        let records = names
            .iter()
            .map(|n| ContainerRecord {
                message: "é".repeat(1 << 14),
                reason: "r".repeat(1 << 14),
                ..record(n, Phase::Exited, 1)
            })
            .collect();
        let s = make(&p, &PodStatus::default(), records, &[], Probes::default());
        let text = serde_json::to_string(&s).unwrap();
        assert!(text.len() < 64 * 1024, "{} bytes", text.len());
        let t = s.container_statuses[0].state.terminated.as_ref().unwrap();
        assert_eq!(t.message, "é".repeat(12 * 1024 / 50 / 2));
    }

    fn make(
        p: &Pod,
        old: &PodStatus,
        records: Vec<ContainerRecord>,
        failures: &[(&str, &str)],
        probes: Probes,
    ) -> PodStatus {
        let rt = RuntimePod {
            sandboxes: vec![SandboxRecord {
                ready: true,
                network: true,
                ips: vec!["fd::2".into(), "10.1.0.2".into()],
                ..Default::default()
            }],
            containers: records,
            ..Default::default()
        };
        let failures = failures
            .iter()
            .map(|(n, r)| {
                (
                    n.to_string(),
                    StartFailure {
                        reason: r.to_string(),
                        message: "m".into(),
                    },
                )
            })
            .collect();
        generate(&Inputs {
            pod: p,
            old,
            rt: &rt,
            failures: &failures,
            probes: &probes,
            host_ips: &["10.0.0.1".to_string()],
            terminating: false,
            terminal: false,
            failed: None,
            now: "2026-01-01T00:00:00Z".into(),
        })
    }

    fn cond<'a>(s: &'a PodStatus, kind: &str) -> &'a Condition {
        s.conditions.iter().find(|c| c.kind == kind).unwrap()
    }

    #[test]
    fn running_and_ready() {
        let p = pod(r#"{"containers":[{"name":"a","image":"x"}]}"#);
        let s = make(
            &p,
            &PodStatus::default(),
            vec![record("a", Phase::Running, 0)],
            &[],
            Probes::default(),
        );
        assert_eq!(
            (s.phase.as_str(), s.pod_ip.as_str(), s.host_ip.as_str()),
            ("Running", "10.1.0.2", "10.0.0.1")
        );
        assert_eq!(s.pod_ips.len(), 2);
        assert!(s.container_statuses[0].ready && s.container_statuses[0].started == Some(true));
        assert_eq!(cond(&s, "Ready").status, "True");
        assert_eq!(cond(&s, "Ready").observed_generation, 2);
        let kinds: Vec<&str> = s.conditions.iter().map(|c| c.kind.as_str()).collect();
        assert_eq!(
            kinds,
            [
                "PodReadyToStartContainers",
                "Initialized",
                "Ready",
                "ContainersReady",
                "PodScheduled"
            ]
        );
    }

    #[test]
    fn readiness_probe_decides_and_transition_times_hold() {
        let p = pod(
            r#"{"containers":[{"name":"a","image":"x","readinessProbe":{"exec":{"command":["x"]}}}]}"#,
        );
        let s = make(
            &p,
            &PodStatus::default(),
            vec![record("a", Phase::Running, 0)],
            &[],
            Probes::default(),
        );
        assert_eq!(
            cond(&s, "Ready").message,
            "containers with unready status: [a]"
        );
        let mut old = s.clone();
        for c in &mut old.conditions {
            c.last_transition_time = Some("2025-01-01T00:00:00Z".into());
        }
        let s = make(
            &p,
            &old,
            vec![record("a", Phase::Running, 0)],
            &[],
            Probes(HashMap::from([("id-a", true)])),
        );
        assert_eq!(
            cond(&s, "Ready").last_transition_time.as_deref(),
            Some("2026-01-01T00:00:00Z")
        );
        assert_eq!(
            cond(&s, "Initialized").last_transition_time.as_deref(),
            Some("2025-01-01T00:00:00Z")
        );
    }

    #[test]
    fn crash_loop_shows_waiting_and_last_state_and_stays_running() {
        let p = pod(r#"{"containers":[{"name":"a","image":"x"}]}"#);
        let s = make(
            &p,
            &PodStatus::default(),
            vec![record("a", Phase::Exited, 3)],
            &[("a", "CrashLoopBackOff")],
            Probes::default(),
        );
        let c = &s.container_statuses[0];
        assert_eq!(c.state.waiting.as_ref().unwrap().reason, "CrashLoopBackOff");
        assert_eq!(c.last_state.terminated.as_ref().unwrap().exit_code, 3);
        assert_eq!(s.phase, "Running");
    }

    #[test]
    fn phases_at_the_end() {
        for (policy, code, want) in [
            ("Never", 0, "Succeeded"),
            ("Never", 1, "Failed"),
            ("OnFailure", 0, "Succeeded"),
            ("OnFailure", 1, "Running"),
            ("Always", 0, "Running"),
        ] {
            let p = pod(&format!(
                r#"{{"restartPolicy":"{policy}","containers":[{{"name":"a","image":"x"}}]}}"#
            ));
            let s = make(
                &p,
                &PodStatus::default(),
                vec![record("a", Phase::Exited, code)],
                &[],
                Probes::default(),
            );
            assert_eq!(s.phase, want, "{policy} {code}");
        }
    }

    #[test]
    fn init_containers_hold_the_pod_pending() {
        let p = pod(
            r#"{"initContainers":[{"name":"i","image":"x"}],"containers":[{"name":"a","image":"x"}]}"#,
        );
        let s = make(
            &p,
            &PodStatus::default(),
            vec![record("i", Phase::Running, 0)],
            &[],
            Probes::default(),
        );
        assert_eq!(s.phase, "Pending");
        assert_eq!(
            s.container_statuses[0]
                .state
                .waiting
                .as_ref()
                .unwrap()
                .reason,
            "PodInitializing"
        );
        assert_eq!(
            cond(&s, "Initialized").message,
            "containers with incomplete status: [i]"
        );
        let p = pod(
            r#"{"restartPolicy":"Never","initContainers":[{"name":"i","image":"x"}],"containers":[{"name":"a","image":"x"}]}"#,
        );
        let s = make(
            &p,
            &PodStatus::default(),
            vec![record("i", Phase::Exited, 1)],
            &[],
            Probes::default(),
        );
        assert_eq!(s.phase, "Failed");
    }

    #[test]
    fn a_final_phase_never_changes_and_foreign_conditions_stay() {
        let mut p = pod(
            r#"{"containers":[{"name":"a","image":"x"}],"readinessGates":[{"conditionType":"g"}]}"#,
        );
        p.status.conditions.push(Condition {
            kind: "g".into(),
            status: "False".into(),
            ..Default::default()
        });
        let s = make(
            &p,
            &PodStatus::default(),
            vec![record("a", Phase::Running, 0)],
            &[],
            Probes::default(),
        );
        assert_eq!(cond(&s, "Ready").reason, "ReadinessGatesNotReady");
        assert_eq!(cond(&s, "g").status, "False");
        p.status.phase = "Failed".into();
        let s = make(
            &p,
            &PodStatus::default(),
            vec![record("a", Phase::Running, 0)],
            &[],
            Probes::default(),
        );
        assert_eq!(s.phase, "Failed");
    }

    #[test]
    fn a_vanished_container_counts_as_ended() {
        let p = pod(r#"{"containers":[{"name":"a","image":"x"}]}"#);
        let old = PodStatus {
            container_statuses: vec![ContainerStatus {
                name: "a".into(),
                state: State {
                    running: Some(Running::default()),
                    ..Default::default()
                },
                ..Default::default()
            }],
            ..Default::default()
        };
        let s = make(&p, &old, vec![], &[], Probes::default());
        let c = &s.container_statuses[0];
        assert_eq!(c.last_state.terminated.as_ref().unwrap().exit_code, 137);
        assert_eq!((c.restart_count, s.phase.as_str()), (1, "Running"));
    }
}
