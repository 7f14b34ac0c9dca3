//! Pods.

use std::collections::HashSet;

use serde_json::Value;

use super::age;
use super::text::{condition, or};
use crate::value::Tree;

/// Restarts and the time of the last one.
#[derive(Clone, Copy, Default)]
struct Restarts {
    count: i64,
    last: Option<i64>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += status.int("restartCount");
        let finished = status
            .text_opt("lastState.terminated.finishedAt")
            .and_then(age::epoch);
        self.last = self.last.max(finished);
    }

    fn show(self, now: i64) -> String {
        match self.last {
            Some(t) if self.count != 0 => format!("{} ({} ago)", self.count, age::human(now - t)),
            _ => self.count.to_string(),
        }
    }
}

/// What the init containers say: a reason if they are not done.
struct Init {
    reason: Option<String>,
    all: Restarts,
    sidecars: Restarts,
    ready: usize,
}

fn terminated(state: &Value, prefix: &str) -> String {
    let t = state.at("terminated");
    match (t.text("reason"), t.int("signal")) {
        ("", 0) => format!("{prefix}ExitCode:{}", t.int("exitCode")),
        ("", s) => format!("{prefix}Signal:{s}"),
        (r, _) => format!("{prefix}{r}"),
    }
}

fn init(pod: &Value) -> Init {
    let sidecars: HashSet<&str> = pod
        .list("spec.initContainers")
        .iter()
        .filter(|c| c.text("restartPolicy") == "Always")
        .map(|c| c.text("name"))
        .collect();
    let mut out = Init {
        reason: None,
        all: Restarts::default(),
        sidecars: Restarts::default(),
        ready: 0,
    };
    for (i, s) in pod.list("status.initContainerStatuses").iter().enumerate() {
        let sidecar = sidecars.contains(s.text("name"));
        out.all.add(s);
        if sidecar {
            out.sidecars.add(s);
        }
        let state = s.at("state");
        let waiting = state.text("waiting.reason");
        if state.has("terminated") && state.int("terminated.exitCode") == 0 {
            continue;
        }
        if sidecar && s.flag("started") {
            out.ready += usize::from(s.flag("ready"));
            continue;
        }
        out.reason = Some(if state.has("terminated") {
            terminated(state, "Init:")
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{i}/{}", pod.list("spec.initContainers").len())
        });
        break;
    }
    out
}

/// READY, STATUS and RESTARTS.
fn summary(pod: &Value, now: i64) -> (String, String, String) {
    let conditions = pod.list("status.conditions");
    let phase = pod.text("status.phase");
    let mut reason = or(pod.text("status.reason"), phase).to_owned();
    if conditions
        .iter()
        .any(|c| c.text("type") == "PodScheduled" && c.text("reason") == "SchedulingGated")
    {
        reason = "SchedulingGated".into();
    }
    let sidecars = pod
        .list("spec.initContainers")
        .iter()
        .filter(|c| c.text("restartPolicy") == "Always")
        .count();
    let total = pod.list("spec.containers").len() + sidecars;
    let init = init(pod);
    let (mut ready, mut restarts) = (init.ready, init.all);
    if let Some(r) = &init.reason {
        reason.clone_from(r);
    }
    if init.reason.is_none() || condition(conditions, "Initialized") == Some("True") {
        restarts = init.sidecars;
        let mut running = false;
        let mut failed = None;
        for s in pod.list("status.containerStatuses").iter().rev() {
            restarts.add(s);
            let state = s.at("state");
            if !state.text("waiting.reason").is_empty() {
                reason = state.text("waiting.reason").to_owned();
            } else if state.has("terminated") {
                reason = terminated(state, "");
                if state.int("terminated.exitCode") != 0 {
                    failed = Some(reason.clone());
                }
            } else if s.flag("ready") && state.has("running") {
                running = true;
                ready += 1;
            }
        }
        if reason == "Completed" {
            if running && condition(conditions, "Ready") == Some("True") {
                reason = "Running".into();
            } else if let Some(f) = failed {
                reason = f;
            } else if running {
                reason = "NotReady".into();
            }
        }
    }
    if pod.has("metadata.deletionTimestamp") {
        if pod.text("status.reason") == "NodeLost" {
            reason = "Unknown".into();
        } else if phase != "Failed" && phase != "Succeeded" {
            reason = "Terminating".into();
        }
    }
    (format!("{ready}/{total}"), reason, restarts.show(now))
}

/// The cells of a pod.
pub fn cells(pod: &Value, now: i64) -> Vec<Value> {
    let (ready, status, restarts) = summary(pod, now);
    let none = |t: &str| Value::from(or(t, "<none>"));
    let gates = pod.list("spec.readinessGates");
    let conditions = pod.list("status.conditions");
    let gates = if gates.is_empty() {
        "<none>".to_owned()
    } else {
        let met = gates
            .iter()
            .filter(|g| condition(conditions, g.text("conditionType")) == Some("True"))
            .count();
        format!("{met}/{}", gates.len())
    };
    let ip = pod
        .list("status.podIPs")
        .first()
        .map_or("", |i| i.text("ip"));
    vec![
        pod.name().into(),
        ready.into(),
        status.into(),
        restarts.into(),
        age::of(pod, now),
        none(or(ip, pod.text("status.podIP"))),
        none(pod.text("spec.nodeName")),
        none(pod.text("status.nominatedNodeName")),
        gates.into(),
    ]
}

/// How an ended pod ended.
pub fn completed(pod: &Value) -> Option<(&'static str, &'static str)> {
    match pod.text("status.phase") {
        "Succeeded" => Some(("Succeeded", "The pod has completed successfully.")),
        "Failed" => Some(("Failed", "The pod failed.")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(pod: Value) -> (String, String, String) {
        summary(&pod, age::epoch("2026-01-01T00:10:00Z").unwrap())
    }

    fn row(a: &str, b: &str, c: &str) -> (String, String, String) {
        (a.into(), b.into(), c.into())
    }

    #[test]
    fn plain_states() {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        assert_eq!(
            shown(json!({"spec": spec, "status": {"phase": "Pending"}})),
            row("0/2", "Pending", "0")
        );
        let running = json!({"name": "a", "ready": true, "state": {"running": {}}, "restartCount": 2,
            "lastState": {"terminated": {"finishedAt": "2026-01-01T00:05:00Z"}}});
        let crash = json!({"name": "b", "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 1});
        let pod = json!({"spec": spec, "status": {"phase": "Running", "containerStatuses": [running, crash]}});
        assert_eq!(shown(pod), row("1/2", "CrashLoopBackOff", "3 (5m ago)"));
    }

    #[test]
    fn init_states() {
        let spec = json!({"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "a"}]});
        let pod = |init: Value| json!({"spec": spec, "status": {"phase": "Pending", "initContainerStatuses": init}});
        let done = json!({"name": "i", "state": {"terminated": {"exitCode": 0}}});
        assert_eq!(
            shown(pod(json!([{"name": "i", "state": {"running": {}}}]))).1,
            "Init:0/2"
        );
        let failed =
            json!([{"name": "i", "state": {"terminated": {"exitCode": 3}}, "restartCount": 1}]);
        assert_eq!(shown(pod(failed)), row("0/2", "Init:ExitCode:3", "1"));
        let sidecar =
            json!([done, {"name": "s", "started": true, "ready": true, "state": {"running": {}}}]);
        assert_eq!(shown(pod(sidecar)), row("1/2", "Pending", "0"));
    }

    #[test]
    fn ends() {
        let spec = json!({"containers": [{"name": "a"}]});
        let done =
            json!([{"name": "a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]);
        let pod =
            json!({"spec": spec, "status": {"phase": "Succeeded", "containerStatuses": done}});
        assert_eq!(shown(pod).1, "Completed");
        let going = json!({"metadata": {"deletionTimestamp": "x"}, "spec": spec, "status": {"phase": "Running"}});
        assert_eq!(shown(going).1, "Terminating");
        let gated = json!({"spec": spec, "status": {"phase": "Pending",
            "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]}});
        assert_eq!(shown(gated).1, "SchedulingGated");
    }
}
