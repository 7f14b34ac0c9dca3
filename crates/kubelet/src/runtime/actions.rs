//! What is to be done for a pod, decided from its spec, what the runtime has, and probe results. Pure.
//!
//! The rules are upstream's `computePodActions`: a lost sandbox restarts the pod from its first init container; init
//! containers run one by one; sidecars stay; a pod with nothing left to run is killed.

use crate::pod::{Container, Pod};

use super::state::{Phase, RuntimePod};

/// Results of probes by container id; `None` when the probe has no result yet.
pub trait Probes {
    /// Liveness: `Some(false)` when the container is to be killed.
    fn liveness(&self, id: &str) -> Option<bool>;
    /// Startup: `Some(true)` once the container has started.
    fn startup(&self, id: &str) -> Option<bool>;
}

/// Why a container is killed; decides the grace a probe may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReason {
    /// Spec changed or state unknown.
    Other,
    /// Liveness probe.
    Liveness,
    /// Startup probe.
    Startup,
}

/// A container to kill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    /// Container id.
    pub id: String,
    /// Container name.
    pub name: String,
    /// Message of the `Killing` event.
    pub message: String,
    /// Why.
    pub reason: KillReason,
}

/// The plan for one sync of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Stop every container and the sandbox first.
    pub kill_pod: bool,
    /// Then make a sandbox.
    pub create_sandbox: bool,
    /// The sandbox in use, empty for none.
    pub sandbox_id: String,
    /// Attempt number of the sandbox in use or to be made.
    pub attempt: u32,
    /// Indexes of ephemeral containers to start.
    pub ephemeral: Vec<usize>,
    /// Indexes of init containers to start.
    pub init: Vec<usize>,
    /// Indexes of containers to start.
    pub containers: Vec<usize>,
    /// Containers to kill.
    pub kill: Vec<Kill>,
}

/// Whether a new sandbox is needed, its attempt number, and the sandbox it replaces or keeps.
pub fn sandbox_changed(pod: &Pod, rt: &RuntimePod) -> (bool, u32, String) {
    let Some(newest) = rt.sandboxes.first() else {
        return (true, 0, String::new());
    };
    let ready = rt.sandboxes.iter().filter(|s| s.ready).count();
    if ready > 1 || !newest.ready {
        return (true, newest.attempt.saturating_add(1), newest.id.clone());
    }
    if newest.host_network != pod.spec.host_network {
        return (true, newest.attempt.saturating_add(1), String::new());
    }
    if !pod.spec.host_network && newest.network && newest.ips.is_empty() {
        return (true, newest.attempt.saturating_add(1), newest.id.clone());
    }
    (false, newest.attempt, newest.id.clone())
}

fn succeeded(c: &Container, rt: &RuntimePod) -> bool {
    rt.find(&c.name)
        .is_some_and(|s| s.phase == Phase::Exited && s.exit_code == 0)
}

/// Whether a container that does not run is to be started.
pub fn should_restart(pod: &Pod, c: &Container, rt: &RuntimePod) -> bool {
    if pod.metadata.deletion_timestamp.is_some() {
        return false;
    }
    match rt.find(&c.name) {
        None => true,
        Some(s) => match s.phase {
            Phase::Running => false,
            Phase::Unknown | Phase::Created => true,
            Phase::Exited => c.restarts_after(&pod.spec.restart_policy, s.exit_code),
        },
    }
}

/// Computes the plan.
pub fn compute(pod: &Pod, rt: &RuntimePod, probes: &dyn Probes) -> Plan {
    let (create, attempt, sandbox_id) = sandbox_changed(pod, rt);
    let mut plan = Plan {
        kill_pod: create,
        create_sandbox: create,
        sandbox_id,
        attempt,
        ..Plan::default()
    };
    let restart = pod.spec.restart_policy != "Never";

    if create {
        if !restart && attempt != 0 && !rt.containers.is_empty() {
            plan.create_sandbox = false;
            return plan;
        }
        let to_start: Vec<usize> = pod
            .spec
            .containers
            .iter()
            .enumerate()
            .filter(|(_, c)| {
                let policy = c
                    .restart_policy
                    .as_deref()
                    .unwrap_or(&pod.spec.restart_policy);
                !(policy == "OnFailure" && succeeded(c, rt))
            })
            .map(|(i, _)| i)
            .collect();
        if to_start.is_empty()
            && pod
                .spec
                .containers
                .iter()
                .any(|c| rt.find(&c.name).is_some())
        {
            plan.create_sandbox = false;
            return plan;
        }
        if pod.spec.init_containers.is_empty() {
            plan.containers = to_start;
        } else {
            plan.init = vec![0];
        }
        return plan;
    }

    for (i, c) in pod.spec.ephemeral_containers.iter().enumerate() {
        if rt.find(&c.name).is_none() {
            plan.ephemeral.push(i);
        }
    }

    let initialized = init_actions(pod, rt, probes, &mut plan);
    if plan.kill_pod || !initialized {
        return plan;
    }

    let mut keep = 0;
    for (i, c) in pod.spec.containers.iter().enumerate() {
        let status = rt.find(&c.name).filter(|s| s.phase == Phase::Running);
        let Some(status) = status else {
            if should_restart(pod, c, rt) {
                plan.containers.push(i);
                if let Some(s) = rt.find(&c.name).filter(|s| s.phase == Phase::Unknown) {
                    plan.kill.push(Kill {
                        id: s.id.clone(),
                        name: s.name.clone(),
                        message: format!(
                            "Container is in \"{}\" state, try killing it before restart",
                            s.phase.as_str()
                        ),
                        reason: KillReason::Other,
                    });
                }
            }
            continue;
        };
        let mut again = c
            .restart_policy
            .as_deref()
            .map_or(restart, |p| p != "Never");
        let (mut message, reason) = if changed(c, &status.hash) {
            again = true;
            (
                format!("Container {} definition changed", c.name),
                KillReason::Other,
            )
        } else if probes.liveness(&status.id) == Some(false) {
            (
                format!("Container {} failed liveness probe", c.name),
                KillReason::Liveness,
            )
        } else if probes.startup(&status.id) == Some(false) {
            (
                format!("Container {} failed startup probe", c.name),
                KillReason::Startup,
            )
        } else {
            keep += 1;
            continue;
        };
        if again {
            message.push_str(", will be restarted");
            plan.containers.push(i);
        }
        plan.kill.push(Kill {
            id: status.id.clone(),
            name: c.name.clone(),
            message,
            reason,
        });
    }
    if keep == 0 && plan.containers.is_empty() {
        plan.kill_pod = true;
        plan.init.clear();
    }
    plan
}

fn changed(c: &Container, hash: &str) -> bool {
    !hash.is_empty() && hash != c.hash()
}

/// Adds what init containers need; gives whether the pod is past them.
fn init_actions(pod: &Pod, rt: &RuntimePod, probes: &dyn Probes, plan: &mut Plan) -> bool {
    let init = &pod.spec.init_containers;
    if init.is_empty() {
        return true;
    }
    let mut initialized = pod
        .spec
        .containers
        .iter()
        .filter_map(|c| rt.find(&c.name))
        .any(|s| matches!(s.phase, Phase::Created | Phase::Running));
    let mut previously = initialized;
    let last = init.len() - 1;
    let mut kills = Vec::new();

    // Newest progress first: completed init containers may have been removed from the runtime, so the last one counts.
    for (i, c) in init.iter().enumerate().rev() {
        let Some(status) = rt.find(&c.name) else {
            if previously && c.is_sidecar() {
                plan.init.push(i);
            }
            continue;
        };
        if previously && !c.is_sidecar() {
            continue;
        }
        let kill = |message: String, reason| Kill {
            id: status.id.clone(),
            name: c.name.clone(),
            message,
            reason,
        };
        match status.phase {
            Phase::Created => plan.init.push(i),
            Phase::Running if !c.is_sidecar() => {}
            Phase::Running => 'sidecar: {
                if c.startup_probe.is_some() {
                    match probes.startup(&status.id) {
                        Some(true) => {}
                        Some(false) => {
                            kills.push(kill(
                                format!("Init container {} failed startup probe", c.name),
                                KillReason::Startup,
                            ));
                            plan.init.push(i);
                            break 'sidecar;
                        }
                        None => break 'sidecar,
                    }
                }
                if i == last {
                    initialized = true;
                } else if !previously {
                    plan.init.push(i + 1);
                }
                if changed(c, &status.hash) {
                    kills.push(kill(
                        format!("Init container {} definition changed", c.name),
                        KillReason::Other,
                    ));
                    plan.init.push(i);
                } else if c.liveness_probe.is_some() && probes.liveness(&status.id) == Some(false) {
                    kills.push(kill(
                        format!("Init container {} failed liveness probe", c.name),
                        KillReason::Liveness,
                    ));
                    plan.init.push(i);
                }
            }
            Phase::Exited if c.is_sidecar() => plan.init.push(i),
            Phase::Exited => {
                if status.exit_code != 0 {
                    if !c.restarts_after(&pod.spec.restart_policy, status.exit_code) {
                        plan.kill_pod = true;
                        plan.init.clear();
                        return false;
                    }
                    plan.init.push(i);
                } else if i == last {
                    initialized = true;
                } else {
                    plan.init.push(i + 1);
                }
            }
            Phase::Unknown => {
                let message =
                    "Init container is in \"unknown\" state, try killing it before restart"
                        .to_string();
                let policy = c
                    .restart_policy
                    .as_deref()
                    .unwrap_or(&pod.spec.restart_policy);
                if !c.is_sidecar() && policy == "Never" {
                    plan.kill_pod = true;
                    plan.init.clear();
                    return false;
                }
                kills.push(kill(message, KillReason::Other));
                plan.init.push(i);
            }
        }
        // What comes before a container that was reached has been initialized before.
        previously = true;
    }
    if !previously {
        plan.init.push(0);
    }
    plan.kill.extend(kills);
    plan.init.sort_unstable();
    plan.init.dedup();
    initialized
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::state::{ContainerRecord, SandboxRecord};
    use std::collections::HashMap;

    #[derive(Default)]
    struct Results {
        live: HashMap<&'static str, bool>,
        startup: HashMap<&'static str, bool>,
    }

    impl Probes for Results {
        fn liveness(&self, id: &str) -> Option<bool> {
            self.live.get(id).copied()
        }
        fn startup(&self, id: &str) -> Option<bool> {
            self.startup.get(id).copied()
        }
    }

    fn pod(spec: &str) -> Pod {
        serde_json::from_str(&format!(
            r#"{{"metadata":{{"name":"p","namespace":"d","uid":"u"}},"spec":{spec}}}"#
        ))
        .unwrap()
    }

    fn rt(pod: &Pod, containers: &[(&str, Phase, i32)]) -> RuntimePod {
        RuntimePod {
            uid: "u".into(),
            sandboxes: vec![SandboxRecord {
                id: "sb".into(),
                ready: true,
                ips: vec!["10.0.0.1".into()],
                network: true,
                ..Default::default()
            }],
            containers: containers
                .iter()
                .map(|(n, p, code)| ContainerRecord {
                    id: format!("id-{n}"),
                    name: n.to_string(),
                    phase: *p,
                    exit_code: *code,
                    hash: pod.container(n).map(Container::hash).unwrap_or_default(),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        }
    }

    const TWO: &str = r#"{"containers":[{"name":"a","image":"x"},{"name":"b","image":"x"}]}"#;

    #[test]
    fn a_new_pod_gets_a_sandbox_and_all_containers() {
        let p = pod(TWO);
        let plan = compute(&p, &RuntimePod::default(), &Results::default());
        assert!(plan.create_sandbox && plan.kill_pod);
        assert_eq!((plan.attempt, plan.containers), (0, vec![0, 1]));
    }

    #[test]
    fn a_running_pod_is_left_alone() {
        let p = pod(TWO);
        let plan = compute(
            &p,
            &rt(&p, &[("a", Phase::Running, 0), ("b", Phase::Running, 0)]),
            &Results::default(),
        );
        assert_eq!(
            plan,
            Plan {
                sandbox_id: "sb".into(),
                ..Plan::default()
            }
        );
    }

    #[test]
    fn an_exited_container_restarts_by_policy() {
        for (policy, code, want) in [
            ("Always", 0, true),
            ("OnFailure", 0, false),
            ("OnFailure", 1, true),
            ("Never", 1, false),
        ] {
            let p = pod(&TWO.replace(
                "{\"containers\"",
                &format!("{{\"restartPolicy\":\"{policy}\",\"containers\""),
            ));
            let plan = compute(
                &p,
                &rt(&p, &[("a", Phase::Exited, code), ("b", Phase::Running, 0)]),
                &Results::default(),
            );
            assert_eq!(plan.containers == vec![0], want, "{policy} {code}");
            assert!(!plan.kill_pod);
        }
    }

    #[test]
    fn a_finished_pod_is_killed() {
        let p = pod(r#"{"restartPolicy":"Never","containers":[{"name":"a","image":"x"}]}"#);
        let plan = compute(&p, &rt(&p, &[("a", Phase::Exited, 0)]), &Results::default());
        assert!(plan.kill_pod && !plan.create_sandbox);
    }

    #[test]
    fn a_lost_sandbox_restarts_from_the_first_init_container() {
        let p = pod(
            r#"{"initContainers":[{"name":"i","image":"x"}],"containers":[{"name":"a","image":"x"}]}"#,
        );
        let mut state = rt(&p, &[("a", Phase::Exited, 0), ("i", Phase::Exited, 0)]);
        state.sandboxes[0].ready = false;
        let plan = compute(&p, &state, &Results::default());
        assert!(plan.create_sandbox);
        assert_eq!(
            (plan.attempt, plan.init, plan.containers),
            (1, vec![0], vec![])
        );
    }

    #[test]
    fn a_changed_image_and_a_failed_probe_restart_the_container() {
        let p = pod(TWO);
        let mut state = rt(&p, &[("a", Phase::Running, 0), ("b", Phase::Running, 0)]);
        state.containers[0].hash = "other".into();
        let probes = Results {
            live: HashMap::from([("id-b", false)]),
            ..Default::default()
        };
        let plan = compute(&p, &state, &probes);
        assert_eq!(plan.containers, vec![0, 1]);
        assert_eq!(
            plan.kill[0].message,
            "Container a definition changed, will be restarted"
        );
        assert_eq!(
            plan.kill[1].message,
            "Container b failed liveness probe, will be restarted"
        );
    }

    const INIT: &str = r#"{"initContainers":[{"name":"s","image":"x","restartPolicy":"Always"},{"name":"i","image":"x"}],"containers":[{"name":"a","image":"x"}]}"#;

    #[test]
    fn init_containers_go_one_by_one() {
        let p = pod(INIT);
        let none = Results::default();
        assert_eq!(compute(&p, &rt(&p, &[]), &none).init, vec![0]);
        assert_eq!(
            compute(&p, &rt(&p, &[("s", Phase::Running, 0)]), &none).init,
            vec![1]
        );
        let plan = compute(
            &p,
            &rt(&p, &[("i", Phase::Running, 0), ("s", Phase::Running, 0)]),
            &none,
        );
        assert_eq!((plan.init, plan.containers), (vec![], vec![]));
        let plan = compute(
            &p,
            &rt(&p, &[("i", Phase::Exited, 0), ("s", Phase::Running, 0)]),
            &none,
        );
        assert_eq!((plan.init, plan.containers), (vec![], vec![0]));
        let plan = compute(
            &p,
            &rt(&p, &[("i", Phase::Exited, 1), ("s", Phase::Running, 0)]),
            &none,
        );
        assert_eq!((plan.init, plan.containers), (vec![1], vec![]));
        let plan = compute(
            &p,
            &rt(
                &p,
                &[
                    ("a", Phase::Running, 0),
                    ("i", Phase::Exited, 0),
                    ("s", Phase::Exited, 1),
                ],
            ),
            &none,
        );
        assert_eq!((plan.init, plan.containers), (vec![0], vec![]));
    }

    #[test]
    fn a_failed_init_container_ends_a_pod_that_never_restarts() {
        let p = pod(&INIT.replacen('{', "{\"restartPolicy\":\"Never\",", 1));
        let plan = compute(
            &p,
            &rt(&p, &[("i", Phase::Exited, 1), ("s", Phase::Running, 0)]),
            &Results::default(),
        );
        assert!(plan.kill_pod && plan.init.is_empty());
    }

    #[test]
    fn a_sidecar_waits_for_its_startup_probe() {
        let p = pod(
            r#"{"initContainers":[{"name":"s","image":"x","restartPolicy":"Always","startupProbe":{"exec":{"command":["true"]}}},{"name":"i","image":"x"}],"containers":[{"name":"a","image":"x"}]}"#,
        );
        let state = rt(&p, &[("s", Phase::Running, 0)]);
        assert!(compute(&p, &state, &Results::default()).init.is_empty());
        let ok = Results {
            startup: HashMap::from([("id-s", true)]),
            ..Default::default()
        };
        assert_eq!(compute(&p, &state, &ok).init, vec![1]);
    }
}
