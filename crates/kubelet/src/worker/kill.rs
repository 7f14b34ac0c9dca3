//! Stopping containers and pods: preStop hook, TERM with what is left of the grace, KILL, then the sandbox.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cri::CriError;
use crate::pod::{Handler, Pod};
use crate::runtime::state::{ContainerRecord, RuntimePod};
use crate::shared::Shared;

use super::Memory;

/// Least grace after a hook, in seconds.
const MIN_GRACE: i64 = 2;

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
    let mut grace = grace.max(0);
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
            let limit = Duration::from_secs(grace.unsigned_abs());
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
            grace = grace.max(MIN_GRACE);
        }
    }
    shared.rt.stop_container(&c.id, grace).await
}

/// Runs a hook in or against a container.
pub async fn run_hook(
    shared: &Shared,
    pod: &Pod,
    c: &ContainerRecord,
    h: &Handler,
) -> Result<(), String> {
    if let Some(e) = &h.exec {
        let r = shared
            .rt
            .exec_sync(&c.id, &e.command, Duration::ZERO)
            .await
            .map_err(|e| e.to_string())?;
        if r.exit_code != 0 {
            return Err(format!("command exited with {}", r.exit_code));
        }
    } else if let Some(s) = &h.sleep {
        tokio::time::sleep(Duration::from_secs(s.seconds.max(0).unsigned_abs())).await;
    } else if let Some(g) = &h.http_get {
        let spec = pod.container(&c.name).cloned().unwrap_or_default();
        let port = g.port.resolve(&spec).ok_or("the hook's port is unknown")?;
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
        let r = crate::prober::http::get(
            g,
            &host,
            port,
            "kube-lifecycle/1.37",
            Duration::from_secs(30),
        )
        .await?;
        if r.status >= 400 {
            return Err(format!("HTTP status {}", r.status));
        }
    }
    Ok(())
}
