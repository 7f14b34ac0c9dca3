//! endpointslice-controller: writes the addresses of a Service's pods into EndpointSlices.
//!
//! Invariants: every backend is in exactly one slice of its IP family and port set; a slice holds at most
//! `--max-endpoints-per-slice`; slices that need no change are not written; new endpoints fill slices that have to be
//! written anyway before they open others; what would be deleted is written anew rather than something made. A Service
//! without backends has one empty slice per family.

pub mod decide;
pub mod hints;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use client::resource::{ENDPOINT_SLICES, NODES, PODS, SERVICES};
use client::{
    Change, DeleteOptions, EventType, ObjectKey, ObjectMeta, ObjectReference, Selector, Store,
    WorkQueue,
};
use serde_json::Value;

use self::decide::{MANAGED_BY, MANAGER, SERVICE_NAME, World, decide};
use self::hints::{Topology, node_matters};
use crate::Context;
use crate::context::Failures;
use crate::endpoint_pods::{TriggerTimes, enqueue, selected};
use crate::expectations::Expectations;
use crate::views::{EndpointSlice, Node, Pod, Service};

/// How long the controller waits at least after a slice changed: others of the Service may change with it.
const SLICE_DELAY: Duration = Duration::from_secs(1);

/// The prefix of the names of a Service's slices.
pub fn prefix(service: &str) -> String {
    // With the dash no name could be made of a name as long as names may be.
    let dash = if service.len() < 253 { "-" } else { "" };
    format!("{service}{dash}")
}

/// Why a Service has to be looked at again.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Client(#[from] client::Error),
    /// Pods were left out.
    #[error("{0}")]
    Skipped(String),
}

/// The key of a slice's Service.
pub fn service_of(slice: &ObjectMeta) -> Option<ObjectKey> {
    let name = slice.labels.get(SERVICE_NAME);
    let name = name.filter(|n| !n.is_empty())?;
    Some(ObjectKey::new(slice.namespace.as_str(), name.as_str()))
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let services = ctx.informer::<Service>(&SERVICES);
    let pods = ctx.informer::<Pod>(&PODS);
    let nodes = ctx.informer::<Node>(&NODES);
    let slices = ctx.informers.get::<EndpointSlice>(
        &ENDPOINT_SLICES,
        Selector::labels(format!("{MANAGED_BY}={MANAGER}")),
    );
    slices.store().add_index(SERVICE_NAME, |s: &EndpointSlice| {
        service_of(&s.metadata)
            .map(|k| k.to_string())
            .into_iter()
            .collect()
    });
    let queue = ctx.queue_with_limits("endpoint_slice", SLICE_DELAY, Duration::from_secs(1000));
    let batch = ctx.config.endpoint_slice_batch;
    let expected = Arc::new(Expectations::default());
    let q = queue.clone();
    services.on_change(move |change| q.add(ObjectKey::of(&**change.object())));
    let (q, store) = (queue.clone(), services.store());
    pods.on_change(move |change| enqueue(change, &store, &q, batch));
    let (q, seen) = (queue.clone(), expected.clone());
    slices.on_change(move |change| {
        let slice = change.object();
        let Some(key) = service_of(&slice.metadata) else {
            return;
        };
        match change {
            // What was made is waited for.
            Change::Added(_) => {
                seen.created(&key);
                q.add(key);
            }
            Change::Updated { old, .. } => {
                let before = service_of(&old.metadata).filter(|k| *k != key);
                for key in before.into_iter().chain([key]) {
                    q.add_after(key, SLICE_DELAY.max(batch));
                }
            }
            Change::Deleted(_) => {
                seen.deleted(&key, &slice.metadata.uid);
                q.add_after(key, SLICE_DELAY.max(batch));
            }
        }
    });
    let topology = Arc::new(Topology::default());
    watch_zones(&ctx, &nodes, &topology, &queue);
    let it = Arc::new(Slices {
        services: services.store(),
        pods: pods.store(),
        nodes: nodes.store(),
        slices: slices.store(),
        expected,
        triggers: TriggerTimes::default(),
        topology,
        ctx: ctx.clone(),
    });
    let workers = ctx.config.concurrent("service-endpoint", 5);
    ctx.run(queue, workers, move |key| {
        let it = it.clone();
        async move { it.sync(&key).await }
    });
}

/// Keeps what is known of zones, and wakes the Services that have too few endpoints in one.
fn watch_zones(
    ctx: &Context,
    nodes: &client::Informer<Node>,
    topology: &Arc<Topology>,
    services: &WorkQueue<ObjectKey>,
) {
    let queue = ctx.queue("endpoint_slice_topology");
    let q = queue.clone();
    nodes.on_change(move |change| {
        if !matches!(change, Change::Updated { old, new } if !node_matters(old, new)) {
            q.add(ObjectKey::default());
        }
    });
    let (store, topology, services) = (nodes.store(), topology.clone(), services.clone());
    ctx.run(queue, 1, move |_| {
        for key in topology.nodes(&store.list()) {
            services.add(key);
        }
        async { Ok::<_, client::Error>(None) }
    });
}

struct Slices {
    ctx: Context,
    services: Store<Service>,
    pods: Store<Pod>,
    nodes: Store<Node>,
    slices: Store<EndpointSlice>,
    expected: Arc<Expectations>,
    triggers: TriggerTimes,
    topology: Arc<Topology>,
}

impl Slices {
    async fn sync(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(service) = self.services.get_key(key) else {
            // The garbage collector removes what the Service owned.
            self.expected.forget(key);
            self.triggers.forget(key);
            self.topology.forget(key);
            return Ok(None);
        };
        if service.spec.selector.is_empty() || service.spec.kind == "ExternalName" {
            return Ok(None);
        }
        if !self.expected.satisfied(key) {
            return Ok(None);
        }
        let pods = selected(&service, &self.pods);
        let mut slices = self.slices.by_index(SERVICE_NAME, &key.to_string());
        slices.retain(|s| !s.metadata.is_deleting());
        let (ratios, had_hints) = self.topology.of(key);
        let plan = decide(&World {
            service: &service,
            pods: &pods,
            node: &|name| self.nodes.get("", name),
            slices: &slices,
            max: self.ctx.config.max_endpoints_per_slice,
            ratios: ratios.as_ref(),
            had_hints,
            trigger: self.triggers.compute(&service, &pods),
        });
        for (v6, shares) in &plan.shares {
            self.topology.note(key, *v6, shares.clone());
        }
        let tell = |kind, reason: &str, message: String| {
            let reference = ObjectReference::of(&SERVICES, &*service);
            self.ctx.recorder.event(reference, kind, reason, message);
        };
        let writes = (&plan.create[..], &plan.update[..], &plan.delete[..]);
        let done = carry_out(&self.ctx, &self.expected, key, writes).await;
        for (kind, reason, message) in plan.events {
            tell(kind, reason, message);
        }
        let error = match (done, plan.skipped.is_empty()) {
            (Err(e), _) if e.is_conflict() || e.is_not_found() => {
                return Ok(Some(Duration::from_millis(200)));
            }
            (Err(e), _) if e.is_namespace_terminating() => return Ok(None),
            (Err(e), _) => Error::Client(e),
            (Ok(()), false) => Error::Skipped(first_few(&plan.skipped)),
            (Ok(()), true) => return Ok(None),
        };
        let message = format!("Error updating Endpoint Slices for Service {key}: {error}");
        tell(EventType::Warning, "FailedToUpdateEndpointSlices", message);
        Err(error)
    }
}

/// Writes a Service's slices: what is new is expected first, and nothing is deleted after a failure, for it may hold
/// endpoints that are in no other slice yet.
///
/// # Errors
/// The first refusal; what does not depend on it was tried all the same.
pub async fn carry_out(
    ctx: &Context,
    expected: &Expectations,
    key: &ObjectKey,
    (create, update, delete): (&[Value], &[(String, Value)], &[(String, String)]),
) -> Result<(), client::Error> {
    let api = ctx.client.namespaced(&ENDPOINT_SLICES, &key.namespace);
    let mut failures = Failures::default();
    if !create.is_empty() {
        expected.expect_creations(key, create.len());
    }
    for body in create {
        let made = api.create::<serde::de::IgnoredAny, _>(body).await;
        if made.is_err() {
            expected.created(key);
        }
        failures.note(made.map(drop));
    }
    for (name, body) in update {
        let written = api.update::<serde::de::IgnoredAny, _>(name, body).await;
        failures.note(written.map(drop));
    }
    failures.end()?;
    let mut failures = Failures::default();
    for (name, uid) in delete {
        match api.delete(name, &DeleteOptions::uid(uid.as_str())).await {
            Err(e) if e.is_not_found() => {}
            result => failures.note(result),
        }
    }
    failures.end()
}

/// As Go prints several errors at once; a Service may have very many pods.
fn first_few(all: &[String]) -> String {
    match all {
        [only] => only.clone(),
        all => format!(
            "[{}]",
            all.iter().take(10).cloned().collect::<Vec<_>>().join(", ")
        ),
    }
}
