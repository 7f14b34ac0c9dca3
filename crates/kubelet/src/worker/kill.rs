//! Stopping containers and pods: preStop hook, TERM with what is left of the grace, KILL, then the sandbox.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cri::CriError;
use crate::pod::{Handler, Pod};
use crate::runtime::state::{ContainerRecord, RuntimePod};
use crate::shared::Shared;

use super::Memory;

/// Least grace that the runtime is told, in seconds, so that a container can end by itself.
const MIN_GRACE: i64 = 2;

/// Longest output of a hook that becomes part of a status, in bytes.
const MAX_OUTPUT: usize = 10 * 1024;

/// Stops everything of a pod by the deadline: containers together, then sidecars last to first, then the sandboxes.
pub async fn pod(
    shared: &Arc<Shared>,
    pod: &Arc<Pod>,
    rt: &RuntimePod,
    by: Instant,
    memory: &mut Memory,
) -> Result<(), CriError> {
    let left = || {
        i64::try_from(
            by.saturating_duration_since(Instant::now())
                .as_secs_f64()
                .ceil() as u64,
        )
        .unwrap_or(0)
    };
    let is_sidecar = |c: &ContainerRecord| {
        pod.spec
            .init_containers
            .iter()
            .any(|s| s.name == c.name && s.is_sidecar())
    };
    let hooked = std::sync::Mutex::new(std::mem::take(&mut memory.hooked));
    let mains: Vec<_> = rt
        .running()
        .filter(|c| !is_sidecar(c))
        .map(|c| stop(shared, pod, c, left(), "", &hooked))
        .collect();
    let r = futures::future::join_all(mains)
        .await
        .into_iter()
        .collect::<Result<Vec<()>, _>>();
    let r = match r {
        Ok(_) => {
            let mut sidecars: Vec<&ContainerRecord> =
                rt.running().filter(|c| is_sidecar(c)).collect();
            let place = |c: &ContainerRecord| {
                pod.spec
                    .init_containers
                    .iter()
                    .position(|s| s.name == c.name)
            };
            sidecars.sort_by_key(|c| std::cmp::Reverse(place(c)));
            let mut r = Ok(());
            for c in sidecars {
                r = stop(shared, pod, c, left(), "", &hooked).await;
                if r.is_err() {
                    break;
                }
            }
            r
        }
        Err(e) => Err(e),
    };
    memory.hooked = hooked.into_inner().unwrap_or_default();
    r?;
    for s in rt.sandboxes.iter().filter(|s| s.ready) {
        shared.rt.stop_pod_sandbox(&s.id).await?;
    }
    Ok(())
}

/// Stops one container that is to be replaced; `message` is what the event says.
pub async fn container(
    shared: &Arc<Shared>,
    pod: &Arc<Pod>,
    c: &ContainerRecord,
    grace: i64,
    message: &str,
    memory: &mut Memory,
) -> Result<(), CriError> {
    let hooked = std::sync::Mutex::new(std::mem::take(&mut memory.hooked));
    let r = stop(shared, pod, c, grace, message, &hooked).await;
    memory.hooked = hooked.into_inner().unwrap_or_default();
    r
}

async fn stop(
    shared: &Arc<Shared>,
    pod: &Arc<Pod>,
    c: &ContainerRecord,
    grace: i64,
    message: &str,
    hooked: &std::sync::Mutex<std::collections::HashSet<String>>,
) -> Result<(), CriError> {
    let mut grace = crate::pod::grace(grace);
    let first = hooked
        .lock()
        .map(|mut h| h.insert(c.id.clone()))
        .unwrap_or(true);
    if first {
        let message = if message.is_empty() {
            format!("Stopping container {}", c.name)
        } else {
            message.to_string()
        };
        shared.container_event(pod, &c.name, false, "Killing", message);
        // The spec's hook, or for a pod whose spec is gone the one the container was made with.
        let hook = pod.container(&c.name).map_or(c.pre_stop.as_ref(), |s| {
            s.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref())
        });
        if let Some(h) = hook.filter(|_| grace > 0) {
            let begun = Instant::now();
            let limit = component::duration::seconds(grace);
            match tokio::time::timeout(limit, run_hook(shared, pod, c, h)).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => {
                    tracing::info!(pod = %pod.key(), container = %c.name, error = %e, "preStop hook failed");
                    shared.container_event(
                        pod,
                        &c.name,
                        true,
                        "FailedPreStopHook",
                        "PreStopHook failed",
                    );
                }
                Err(_) => {
                    tracing::info!(pod = %pod.key(), container = %c.name, "preStop hook not completed in grace period");
                }
            }
            grace -= i64::try_from(begun.elapsed().as_secs()).unwrap_or(0);
        }
    }
    shared
        .rt
        .stop_container(&c.id, grace.max(MIN_GRACE))
        .await?;
    shared.prober.stop_container(&pod.metadata.uid, &c.id);
    Ok(())
}

/// The beginning of what a command printed.
fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output.get(..MAX_OUTPUT).unwrap_or(output)).into_owned()
}

/// Runs a hook in or against a container; the error is what a failed postStart hook shows in the status.
pub async fn run_hook(
    shared: &Shared,
    pod: &Pod,
    c: &ContainerRecord,
    h: &Handler,
) -> Result<(), String> {
    let whose = format!(
        "for Container {:?} in Pod \"{}_{}({})\" failed - error:",
        c.name, pod.metadata.name, pod.metadata.namespace, pod.metadata.uid
    );
    if let Some(e) = &h.exec {
        let shown = e.command.join(" ");
        let failed = |error: String, output: &[u8]| {
            let output = text(output);
            Err(format!(
                "Exec lifecycle hook ([{shown}]) {whose} {error}, message: {output:?}"
            ))
        };
        let run = shared.rt.exec_sync(&c.id, &e.command, Duration::ZERO).await;
        match run {
            Err(e) => return failed(e.to_string(), b""),
            Ok(r) if r.exit_code != 0 => {
                let errors = text(&r.stderr);
                let error = format!("command '{shown}' exited with {}: {errors}", r.exit_code);
                return failed(error, &[r.stdout.as_slice(), r.stderr.as_slice()].concat());
            }
            Ok(_) => {}
        }
    } else if let Some(s) = &h.sleep {
        tokio::time::sleep(component::duration::seconds(s.seconds)).await;
    } else if let Some(g) = &h.http_get {
        let spec = pod.container(&c.name).cloned().unwrap_or_default();
        let failed = |e: String| format!("HTTP lifecycle hook ({}) {whose} {e}", g.path);
        let port = g.port.resolve(&spec);
        let port = port.ok_or_else(|| failed("failed to find port".into()))?;
        let status = shared.status.get(&pod.metadata.uid);
        let ip = status
            .map(|s| s.pod_ip)
            .filter(|i| !i.is_empty())
            .unwrap_or_else(|| pod.status.pod_ip.clone());
        let host = if g.host.is_empty() {
            ip
        } else {
            g.host.clone()
        };
        // An answer is enough, whatever its code.
        crate::prober::http::get(
            g,
            &host,
            port,
            "kube-lifecycle/1.37",
            Duration::from_secs(30),
        )
        .await
        .map_err(failed)?;
    }
    Ok(())
}
