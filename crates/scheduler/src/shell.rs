//! The scheduler's I/O: watches in, bindings, conditions and events out.

use std::sync::Arc;
use std::time::Duration;

use client::events::{EventType, ObjectReference, Recorder};
use client::resource::{
    CSI_DRIVERS, CSI_NODES, CSI_STORAGE_CAPACITIES, NAMESPACES, NODES, PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES, PODS, STORAGE_CLASSES, VOLUME_ATTACHMENTS,
};
use client::{Change, Client, Informers, Patch, Resource, Selector, View};
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::core::{Action, Input, Nomination};
use crate::framework::Write;
use crate::guard::Guard;
use crate::metrics::Metrics;
use crate::queue::Millis;
use crate::storage::Change as Volumes;
use crate::storage::view::{
    AttachmentView, CapacityView, ClaimView, ClassView, CsiNodeView, DriverView, VolumeView, key,
};
use crate::view::{Meta, NodeView, PodView};

client::views!(PodView, NodeView, NamespaceView);

/// A namespace, for namespace selectors of pod affinity.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default)]
pub struct NamespaceView {
    /// Metadata.
    pub metadata: Meta,
}

/// The answer to a write.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Written {
    metadata: WrittenMeta,
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WrittenMeta {
    resource_version: String,
}

/// What the scheduler needs from outside.
pub struct Dependencies {
    /// The apiserver.
    pub client: Client,
    /// Tells events to people.
    pub recorder: Recorder,
    /// Its metrics.
    pub metrics: Arc<Metrics>,
    /// Picks among equally good nodes.
    pub random: Box<dyn FnMut() -> u64 + Send>,
    /// Told when all that decisions depend on is known.
    pub synced: component::health::Latch,
}

/// Decisions made before the next look at what has come in.
const BATCH: usize = 64;

fn forward<V: View>(
    informers: &Informers,
    resource: &Resource,
    selector: Selector,
    inputs: &mpsc::UnboundedSender<Input>,
    map: impl Fn(&Change<'_, V>) -> Input + Send + Sync + 'static,
) {
    let inputs = inputs.clone();
    informers
        .get::<V>(resource, selector)
        .on_change(move |change| {
            // A closed channel means that the scheduler is shutting down.
            let _ = inputs.send(map(&change));
        });
}

/// As [`forward`], of what hangs together with volumes.
fn forward_volumes<V: View>(
    informers: &Informers,
    resource: &Resource,
    inputs: &mpsc::UnboundedSender<Input>,
    (there, gone): (fn(Arc<V>) -> Volumes, fn(String) -> Volumes),
) {
    forward::<V>(informers, resource, Selector::all(), inputs, move |c| {
        Input::Storage(match c {
            Change::Deleted(o) => gone(key(o.namespace(), o.name())),
            other => there(other.object().clone()),
        })
    });
}

/// Schedules until `shutdown`. Bindings in flight are finished first.
pub async fn run(config: Config, mut deps: Dependencies, shutdown: CancellationToken) {
    let informers = Informers::new(deps.client.clone(), shutdown.clone());
    let (tx, mut rx) = mpsc::unbounded_channel();
    forward::<NodeView>(&informers, &NODES, Selector::all(), &tx, |c| match c {
        Change::Deleted(n) => Input::NodeGone(n.metadata.name.clone()),
        other => Input::Node(other.object().clone()),
    });
    forward::<NamespaceView>(&informers, &NAMESPACES, Selector::all(), &tx, |c| {
        let m = &c.object().metadata;
        match c {
            Change::Deleted(_) => Input::NamespaceGone(m.name.clone()),
            _ => Input::Namespace(m.name.clone(), m.labels.clone()),
        }
    });
    let live = Selector::fields("status.phase!=Succeeded,status.phase!=Failed");
    forward::<PodView>(&informers, &PODS, live, &tx, |c| match c {
        Change::Deleted(p) => Input::PodGone((*p).clone()),
        other => Input::Pod(other.object().clone()),
    });
    forward_volumes::<ClaimView>(
        &informers,
        &PERSISTENT_VOLUME_CLAIMS,
        &tx,
        (Volumes::Claim, Volumes::ClaimGone),
    );
    forward_volumes::<VolumeView>(
        &informers,
        &PERSISTENT_VOLUMES,
        &tx,
        (Volumes::Volume, Volumes::VolumeGone),
    );
    forward_volumes::<ClassView>(
        &informers,
        &STORAGE_CLASSES,
        &tx,
        (Volumes::Class, Volumes::ClassGone),
    );
    forward_volumes::<CsiNodeView>(
        &informers,
        &CSI_NODES,
        &tx,
        (Volumes::CsiNode, Volumes::CsiNodeGone),
    );
    forward_volumes::<DriverView>(
        &informers,
        &CSI_DRIVERS,
        &tx,
        (Volumes::Driver, Volumes::DriverGone),
    );
    forward_volumes::<CapacityView>(
        &informers,
        &CSI_STORAGE_CAPACITIES,
        &tx,
        (Volumes::Capacity, Volumes::CapacityGone),
    );
    forward_volumes::<AttachmentView>(
        &informers,
        &VOLUME_ATTACHMENTS,
        &tx,
        (Volumes::Attachment, Volumes::AttachmentGone),
    );

    // Nothing is decided before everything is known: a node half full would look empty.
    tokio::select! {
        () = informers.synced() => deps.synced.set(),
        () = shutdown.cancelled() => return,
    }

    let start = Instant::now();
    let now = || -> Millis { u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX) };
    let mut core = Guard::new(&config);
    let tasks = TaskTracker::new();
    let slots = Arc::new(Semaphore::new(config.parallel_bindings.max(1)));
    loop {
        while let Ok(input) = rx.try_recv() {
            core.input(input, now());
        }
        core.tick(now());
        let mut idle = false;
        for _ in 0..BATCH {
            let Ok(slot) = slots.clone().try_acquire_owned() else {
                idle = true;
                break;
            };
            let began = Instant::now();
            let Some(action) = core.step(now(), (deps.random)()) else {
                idle = true;
                break;
            };
            deps.metrics.decided(&action, began.elapsed());
            let (client, recorder) = (deps.client.clone(), deps.recorder.clone());
            let (tx, metrics) = (tx.clone(), deps.metrics.clone());
            let waited = |queued: Millis| Duration::from_millis(now().saturating_sub(queued));
            match action {
                Action::Bind {
                    pod,
                    node,
                    attempts,
                    queued,
                } => {
                    let so_far = waited(queued);
                    tasks.spawn(async move {
                        let ok = bind(&client, &recorder, &pod, &node).await;
                        let took = began.elapsed();
                        metrics.bound(&pod.spec.scheduler_name, ok, attempts, took, so_far + took);
                        let _ = tx.send(Input::Bound {
                            uid: pod.metadata.uid.clone(),
                            ok,
                        });
                        drop(slot);
                    });
                }
                Action::Prepare { pod, writes, .. } => {
                    tasks.spawn(async move {
                        let (versions, error) = prepare(&client, writes).await;
                        let _ = tx.send(Input::Prepared {
                            uid: pod.metadata.uid.clone(),
                            versions,
                            error,
                        });
                        drop(slot);
                    });
                }
                Action::Explain {
                    pod,
                    reason,
                    message,
                    nomination,
                } => {
                    tasks.spawn(async move {
                        let why = (reason, message.as_str());
                        explain(&client, &recorder, &pod, why, nomination).await;
                        drop(slot);
                    });
                }
            }
        }
        deps.metrics.pending(core.sizes());
        deps.metrics
            .panics(core.panics().saturating_add(informers.panics()));
        deps.metrics.unreadable(informers.unreadable());
        if !idle {
            tokio::task::yield_now().await;
            continue;
        }
        let due = core.next_due().map(|at| start + Duration::from_millis(at));
        let timer = async {
            match due {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = timer => {}
            input = rx.recv() => {
                let Some(input) = input else { break };
                core.input(input, now());
            }
        }
    }
    tasks.close();
    tasks.wait().await;
    informers.ended().await;
}

fn warn(recorder: &Recorder, pod: &PodView, message: &str) {
    let regarding = ObjectReference::of(&PODS, pod);
    // Upstream cuts notes at the API's limit.
    let note: String = message.chars().take(1024).collect();
    recorder.action(
        regarding,
        None,
        EventType::Warning,
        "FailedScheduling",
        "Scheduling",
        note,
    );
}

/// Makes the writes in turn; the versions that came of them, and why there is no next one.
async fn prepare(client: &Client, writes: Vec<Write>) -> (Vec<u64>, Option<String>) {
    let mut versions = Vec::new();
    for write in writes {
        let Some(patch) = write.patch else {
            versions.push(write.version);
            continue;
        };
        let api = client.namespaced(write.resource, &write.namespace);
        match api
            .patch::<Written>(&write.name, &Patch::Merge(patch))
            .await
        {
            Ok(now) => versions.push(now.metadata.resource_version.parse().unwrap_or(0)),
            Err(e) => {
                let (kind, name) = (&write.resource.kind, &write.name);
                tracing::info!(%kind, name, error = %e, "A write for a pod's volumes failed; the pod is tried again");
                return (versions, Some(e.to_string()));
            }
        }
    }
    (versions, None)
}

async fn bind(client: &Client, recorder: &Recorder, pod: &PodView, node: &str) -> bool {
    let m = &pod.metadata;
    let body = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": m.name, "namespace": m.namespace, "uid": m.uid},
        "target": {"kind": "Node", "name": node},
    });
    let api = client.namespaced(&PODS, &m.namespace);
    match api
        .create_subresource::<serde::de::IgnoredAny, _>(&m.name, "binding", &body)
        .await
    {
        Ok(_) => {
            let note = format!("Successfully assigned {}/{} to {node}", m.namespace, m.name);
            let regarding = ObjectReference::of(&PODS, pod);
            recorder.action(
                regarding,
                None,
                EventType::Normal,
                "Scheduled",
                "Binding",
                note,
            );
            true
        }
        Err(e) => {
            tracing::info!(pod = %format!("{}/{}", m.namespace, m.name), node, error = %e, "Binding failed; retrying");
            // A pod that is gone, or bound by somebody else, is nobody's failure to schedule.
            if !e.is_not_found() && !e.is_conflict() {
                let note = format!("binding rejected: {e}");
                warn(recorder, pod, &note);
            }
            false
        }
    }
}

async fn explain(
    client: &Client,
    recorder: &Recorder,
    pod: &PodView,
    (reason, message): (&str, &str),
    nomination: Nomination,
) {
    warn(recorder, pod, message);
    let known = pod.status.conditions.iter().any(|c| {
        c.type_ == "PodScheduled"
            && c.status == "False"
            && c.reason == reason
            && c.message == message
    });
    let nominated = match &nomination {
        Nomination::Made(node, _) => Some(node.as_str()),
        Nomination::Kept | Nomination::Cleared => None,
    };
    let clear =
        matches!(nomination, Nomination::Cleared) && !pod.status.nominated_node_name.is_empty();
    if !known || nominated.is_some() || clear {
        let now = client::view::print_time(client::Time::now());
        let old = pod
            .status
            .conditions
            .iter()
            .find(|c| c.type_ == "PodScheduled");
        let mut condition = json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": reason,
            "message": message,
            "observedGeneration": pod.metadata.generation,
        });
        if old.is_none_or(|c| c.status != "False")
            && let Some(c) = condition.as_object_mut()
        {
            c.insert("lastTransitionTime".into(), now.into());
        }
        let mut status = json!({"conditions": [condition]});
        if let Some(s) = status.as_object_mut() {
            if let Some(node) = nominated {
                s.insert("nominatedNodeName".into(), node.into());
            } else if clear {
                s.insert("nominatedNodeName".into(), serde_json::Value::Null);
            }
        }
        let patch = client::Patch::Strategic(
            json!({"metadata": {"uid": pod.metadata.uid}, "status": status}),
        );
        let api = client.namespaced(&PODS, &pod.metadata.namespace);
        if let Err(e) = api
            .patch_status::<serde::de::IgnoredAny>(&pod.metadata.name, &patch)
            .await
            && !e.is_not_found()
        {
            tracing::warn!(pod = %pod.metadata.name, error = %e, "Error updating pod condition");
        }
    }
    let Nomination::Made(node, victims) = nomination else {
        return;
    };
    for victim in victims {
        evict(client, recorder, pod, &victim, &node).await;
    }
}

/// Deletes a victim, with the DisruptionTarget condition first (KEP-3329).
async fn evict(client: &Client, recorder: &Recorder, pod: &PodView, victim: &PodView, node: &str) {
    let m = &victim.metadata;
    let api = client.namespaced(&PODS, &m.namespace);
    let now = client::view::print_time(client::Time::now());
    let name = &pod.spec.scheduler_name;
    let mut condition = json!({
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "PreemptionByScheduler",
        "message": format!("{name}: preempting to accommodate a higher priority pod"),
        "lastTransitionTime": now,
    });
    if victim.status.observed_generation != 0
        && let Some(c) = condition.as_object_mut()
    {
        c.insert("observedGeneration".into(), m.generation.into());
    }
    let patch = client::Patch::Strategic(json!({
        "metadata": {"uid": m.uid},
        "status": {"conditions": [condition]},
    }));
    let marked = api
        .patch_status::<serde::de::IgnoredAny>(&m.name, &patch)
        .await;
    let deleted = match marked {
        Ok(_) => {
            api.delete(&m.name, &client::DeleteOptions::uid(m.uid.as_str()))
                .await
        }
        Err(e) => Err(e),
    };
    match deleted {
        Ok(()) => {
            let note = format!("Preempted by pod {} on node {node}", pod.metadata.uid);
            let (regarding, related) = (
                ObjectReference::of(&PODS, victim),
                ObjectReference::of(&PODS, pod),
            );
            recorder.action(
                regarding,
                Some(related),
                EventType::Normal,
                "Preempted",
                "Preempting",
                note,
            );
        }
        Err(e) if e.is_not_found() => {}
        Err(e) => {
            tracing::warn!(victim = %m.name, error = %e, "Preemption failed; retrying with the pod's next attempt")
        }
    }
}
