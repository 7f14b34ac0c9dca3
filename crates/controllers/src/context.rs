//! What every controller gets: the shared caches, a client and a recorder of its own, the configuration.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use client::{
    Api, Client, Informer, Informers, ObjectKey, ObjectMeta, Patch, Recorder, Resource, Selector,
    View, WorkQueue, WriteOptions,
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;

/// Everything a controller may use.
#[derive(Clone)]
pub struct Context {
    /// Calls, as the controller's identity.
    pub client: Client,
    /// The caches shared by all controllers.
    pub informers: Informers,
    /// Events, reported as the controller.
    pub recorder: Recorder,
    /// The flags.
    pub config: Arc<Config>,
    /// Cancelled when the controller shall end.
    pub shutdown: CancellationToken,
    /// The controller's tasks, awaited on shutdown.
    pub tasks: TaskTracker,
    /// Told of each queue, for the metrics.
    pub queues: crate::metrics::Queues,
}

impl Context {
    /// The informer of all objects of a resource.
    pub fn informer<V: View>(&self, resource: &Resource) -> Informer<V> {
        self.informers.get(resource, Selector::all())
    }

    /// A queue whose counters are metrics and that ends on shutdown.
    pub fn queue(&self, name: &'static str) -> WorkQueue<ObjectKey> {
        self.keep(WorkQueue::new(name))
    }

    /// As [`Context::queue`], with other bounds of the delay per key.
    pub fn queue_with_limits(
        &self,
        name: &'static str,
        base: Duration,
        max: Duration,
    ) -> WorkQueue<ObjectKey> {
        self.keep(WorkQueue::with_limits(name, base, max))
    }

    fn keep(&self, queue: WorkQueue<ObjectKey>) -> WorkQueue<ObjectKey> {
        self.queues.add(&queue);
        let (q, shutdown) = (queue.clone(), self.shutdown.clone());
        self.tasks.spawn(async move {
            shutdown.cancelled().await;
            q.shut_down();
        });
        queue
    }

    /// Starts a task of the controller; it is dropped on shutdown.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// Waits for the caches, then works on the queue with `workers` tasks until shutdown. A key being worked on is
    /// finished first.
    pub fn run<F, Fut, E>(&self, queue: WorkQueue<ObjectKey>, workers: usize, sync: F)
    where
        F: Fn(ObjectKey) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<Duration>, E>> + Send,
        E: fmt::Display + Send,
    {
        let (informers, shutdown) = (self.informers.clone(), self.shutdown.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = informers.synced() => {}
            }
            queue.work(workers, sync).await;
        });
    }
}

/// The first failure of many things that are tried each for itself: one object that is refused keeps no other from its turn.
#[derive(Debug)]
pub struct Failures<E>(Option<E>);

impl<E> Default for Failures<E> {
    fn default() -> Self {
        Failures(None)
    }
}

impl<E: fmt::Display> Failures<E> {
    /// How one of them went.
    pub fn note(&mut self, result: Result<(), E>) {
        if let Err(error) = result {
            tracing::debug!(%error, "One of many failed; the others are tried all the same");
            self.0.get_or_insert(error);
        }
    }

    /// How they went together.
    ///
    /// # Errors
    /// The first failure.
    pub fn end(self) -> Result<(), E> {
        self.0.map_or(Ok(()), Err)
    }
}

/// Reads an object, lets `change` alter it and writes it back, again on conflicts. `change` returns false when nothing is
/// to be written. Nothing happens when the object is gone or another one has its name.
pub async fn rewrite(
    api: &Api<'_>,
    name: &str,
    uid: &str,
    sub: &str,
    mut change: impl FnMut(&mut Value) -> bool,
) -> Result<(), client::Error> {
    for attempt in 1.. {
        let mut object = match api.get_value(name).await {
            Ok(o) => o,
            Err(e) if e.is_not_found() => return Ok(()),
            Err(e) => return Err(e),
        };
        if object.pointer("/metadata/uid").and_then(Value::as_str) != Some(uid)
            || !change(&mut object)
        {
            return Ok(());
        }
        let written = if sub.is_empty() {
            api.update::<serde::de::IgnoredAny, _>(name, &object).await
        } else {
            api.update_subresource::<serde::de::IgnoredAny, _>(name, sub, &object)
                .await
        };
        match written {
            Ok(_) => return Ok(()),
            Err(e) if e.is_not_found() => return Ok(()),
            Err(e) if e.is_conflict() && attempt < 5 => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Writes the fields of a status that `manager` owns, over whoever owned them.
///
/// # Errors
/// The refusal.
pub async fn apply_status(
    api: &Api<'_>,
    name: &str,
    manager: &str,
    object: Value,
) -> Result<(), client::Error> {
    let patch = Patch::Apply {
        object,
        force: true,
    };
    let options = WriteOptions {
        field_manager: manager.to_owned(),
        ..WriteOptions::default()
    };
    let told = api.patch_subresource::<serde::de::IgnoredAny>(name, "status", &patch, &options);
    told.await.map(drop)
}

/// A query for the index of objects by the UID of their controller.
pub const BY_CONTROLLER: &str = "controller-uid";

/// Values of [`BY_CONTROLLER`]. Objects without a controller stand under `-NAMESPACE`.
pub fn controller_index(meta: &ObjectMeta) -> Vec<String> {
    match meta.controller() {
        Some(o) => vec![o.uid.clone()],
        None => vec![format!("-{}", meta.namespace)],
    }
}
