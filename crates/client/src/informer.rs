//! Informers: a store kept equal to the apiserver by one list and watch, and handlers told of each change.
//!
//! Invariants: changes of one object reach a handler in the order the apiserver made them; a handler added late is first
//! told of everything there is; after a lost watch the informer resumes from the last version it saw, and only when that
//! is too old does it list again (handlers then see the difference, nothing else). There is no periodic resync.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Method;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::codec::{Codec, JSON};
use crate::error::{Error, Result};
use crate::resource::Resource;
use crate::rest::{Client, ListOptions, request};
use crate::store::{ObjectKey, Store};
use crate::view::View;
use crate::watch::{WatchEvent, WatchStream};

const PAGE: u32 = 500;
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A watch that ends sooner without an event is taken for a failing one.
const SHORT_WATCH: Duration = Duration::from_secs(1);

/// Which objects of a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    /// Empty for all namespaces.
    pub namespace: String,
    /// Label selector.
    pub labels: String,
    /// Field selector.
    pub fields: String,
    /// Ask for metadata only, whatever the resource: views then see `metadata` and nothing else.
    pub metadata_only: bool,
}

impl Selector {
    /// Everything.
    pub fn all() -> Selector {
        Selector::default()
    }

    /// By field selector.
    pub fn fields(fields: impl Into<String>) -> Selector {
        Selector {
            fields: fields.into(),
            ..Selector::default()
        }
    }

    /// By label selector.
    pub fn labels(labels: impl Into<String>) -> Selector {
        Selector {
            labels: labels.into(),
            ..Selector::default()
        }
    }

    /// In one namespace.
    pub fn namespace(namespace: impl Into<String>) -> Selector {
        Selector {
            namespace: namespace.into(),
            ..Selector::default()
        }
    }

    /// Metadata of everything.
    pub fn metadata() -> Selector {
        Selector {
            metadata_only: true,
            ..Selector::default()
        }
    }
}

/// What happened to an object.
#[derive(Debug)]
pub enum Change<'a, V> {
    /// It is new to this process.
    Added(&'a Arc<V>),
    /// It changed.
    Updated {
        /// As it was.
        old: &'a Arc<V>,
        /// As it is.
        new: &'a Arc<V>,
    },
    /// It is gone; the last state known, which after a lost watch may be older than the last there was.
    Deleted(&'a Arc<V>),
}

impl<'a, V> Change<'a, V> {
    /// The newest state of the object.
    pub fn object(&self) -> &'a Arc<V> {
        match self {
            Change::Added(o) | Change::Deleted(o) | Change::Updated { new: o, .. } => o,
        }
    }

    /// The state before, if there was one.
    pub fn old(&self) -> Option<&'a Arc<V>> {
        match self {
            Change::Added(_) => None,
            Change::Updated { old, .. } => Some(old),
            Change::Deleted(o) => Some(o),
        }
    }
}

impl<V> Clone for Change<'_, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for Change<'_, V> {}

type Handler<V> = Box<dyn Fn(Change<'_, V>) + Send + Sync>;

struct Core<V> {
    client: Client,
    resource: Resource,
    selector: Selector,
    store: Store<V>,
    /// Held while a change is applied and told, which orders late handlers against changes.
    handlers: Mutex<Vec<Handler<V>>>,
    synced: watch::Sender<bool>,
}

/// A running informer. Clones share it.
pub struct Informer<V>(Arc<Core<V>>);

impl<V> Clone for Informer<V> {
    fn clone(&self) -> Self {
        Informer(self.0.clone())
    }
}

impl<V> std::fmt::Debug for Informer<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Informer")
            .field("resource", &self.0.resource)
            .finish_non_exhaustive()
    }
}

impl<V: View> Informer<V> {
    /// Makes an informer and the work that keeps it current until `shutdown`.
    pub fn new(
        client: Client,
        resource: Resource,
        selector: Selector,
        shutdown: CancellationToken,
    ) -> (Informer<V>, impl Future<Output = ()> + Send + 'static) {
        let core = Arc::new(Core {
            client,
            resource,
            selector,
            store: Store::default(),
            handlers: Mutex::default(),
            synced: watch::Sender::new(false),
        });
        let run = core.clone();
        (Informer(core), async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = run.run() => {}
            }
        })
    }

    /// The objects.
    pub fn store(&self) -> Store<V> {
        self.0.store.clone()
    }

    /// Calls `handler` for each object there is, and then for each change. It runs on the informer's task: it should only
    /// enqueue.
    pub fn on_change(&self, handler: impl Fn(Change<'_, V>) + Send + Sync + 'static) {
        let mut handlers = self
            .0
            .handlers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for object in self.0.store.list() {
            handler(Change::Added(&object));
        }
        handlers.push(Box::new(handler));
    }

    /// Whether the store has held a complete list since the start.
    pub fn has_synced(&self) -> bool {
        *self.0.synced.borrow()
    }

    /// Waits for [`Informer::has_synced`].
    pub async fn synced(&self) {
        // The sender lives in the same Arc.
        let _ = self.0.synced.subscribe().wait_for(|s| *s).await;
    }
}

struct Session {
    /// Where to resume; `None` to list.
    version: Option<String>,
    watch_list: bool,
    /// Version to ask of the fallback list.
    list_from: &'static str,
    progressed: bool,
}

impl<V: View> Core<V> {
    async fn run(&self) {
        let mut session = Session {
            version: None,
            watch_list: true,
            list_from: "0",
            progressed: false,
        };
        let mut backoff = BACKOFF_MIN;
        loop {
            let began = Instant::now();
            session.progressed = false;
            let result = self.session(&mut session).await;
            let mut calm = session.progressed || began.elapsed() > SHORT_WATCH;
            match result {
                Ok(()) => {}
                Err(e) if e.is_expired() => {
                    tracing::debug!(resource = %self.resource.qualified(), error = %e, "listing again");
                    session.version = None;
                    session.list_from = "";
                    session.watch_list = true;
                }
                Err(e)
                    if session.version.is_none()
                        && session.watch_list
                        && e.status().is_some()
                        && !matches!(e.code(), 401 | 403 | 404 | 405) =>
                {
                    tracing::debug!(resource = %self.resource.qualified(), error = %e, "streaming lists are not served; paging");
                    session.watch_list = false;
                    continue;
                }
                Err(e) => {
                    calm = false;
                    tracing::info!(resource = %self.resource.qualified(), error = %e, "watch failed; trying again");
                }
            }
            if calm {
                backoff = BACKOFF_MIN;
            } else {
                tokio::time::sleep(backoff.mul_f64(rand::random_range(1.0..1.5))).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }

    fn codec(&self) -> Codec {
        if self.selector.metadata_only {
            Codec::metadata()
        } else {
            Codec::of(&self.resource)
        }
    }

    async fn session(&self, s: &mut Session) -> Result<()> {
        let api = self
            .client
            .namespaced(&self.resource, &self.selector.namespace);
        if s.version.is_none() && !s.watch_list {
            self.list(s).await?;
        }
        let codec = self.codec();
        let accept = match (self.selector.metadata_only, codec.accept()) {
            (false, accept) => accept,
            (true, JSON) => {
                "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
            }
            (true, _) => {
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,\
                 application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
            }
        };
        // Watches end at random times, so that a restarted apiserver is not asked for all of them at once.
        let timeout: u32 = rand::random_range(300..600);
        let initial = s.version.is_none();
        let path = api
            .collection()
            .query("watch", "1")
            .query("allowWatchBookmarks", "true")
            .query("timeoutSeconds", &timeout.to_string())
            .query("labelSelector", &self.selector.labels)
            .query("fieldSelector", &self.selector.fields)
            .query("resourceVersion", s.version.as_deref().unwrap_or_default())
            .query("sendInitialEvents", if initial { "true" } else { "" })
            .query(
                "resourceVersionMatch",
                if initial { "NotOlderThan" } else { "" },
            )
            .build();
        let response = self
            .client
            .stream(request(
                Method::GET,
                &path,
                accept,
                None,
                bytes::Bytes::new(),
            )?)
            .await?;
        let mut stream = WatchStream::new(response, codec);
        let mut fresh: Option<HashMap<ObjectKey, V>> = initial.then(HashMap::new);
        loop {
            let event = match stream.next::<V>().await {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(()),
                // One object that the view cannot read must not hide the others.
                Err(error @ Error::Decode { .. }) => {
                    tracing::error!(resource = %self.resource.qualified(), %error, "object skipped");
                    continue;
                }
                Err(e) => return Err(e),
            };
            s.progressed = true;
            match (&mut fresh, event) {
                (Some(fresh), WatchEvent::Added(v) | WatchEvent::Modified(v)) => {
                    fresh.insert(ObjectKey::of(&v), v);
                }
                (Some(fresh), WatchEvent::Deleted(v)) => {
                    fresh.remove(&ObjectKey::of(&v));
                }
                (
                    Some(_),
                    WatchEvent::Bookmark {
                        resource_version,
                        initial_events_end: true,
                    },
                ) => {
                    self.replace(fresh.take().unwrap_or_default());
                    s.version = Some(resource_version);
                }
                (Some(_), WatchEvent::Bookmark { .. }) => {}
                (None, WatchEvent::Added(v) | WatchEvent::Modified(v)) => {
                    s.version = Some(v.resource_version().to_owned());
                    self.apply(Arc::new(v));
                }
                (None, WatchEvent::Deleted(v)) => {
                    s.version = Some(v.resource_version().to_owned());
                    self.remove(&Arc::new(v));
                }
                (
                    None,
                    WatchEvent::Bookmark {
                        resource_version, ..
                    },
                ) => s.version = Some(resource_version),
            }
        }
    }

    async fn list(&self, s: &mut Session) -> Result<()> {
        let api = self
            .client
            .namespaced(&self.resource, &self.selector.namespace);
        let mut options = ListOptions {
            labels: self.selector.labels.clone(),
            fields: self.selector.fields.clone(),
            limit: PAGE,
            resource_version: s.list_from.to_owned(),
            ..ListOptions::default()
        };
        let mut fresh = HashMap::new();
        loop {
            let page = if self.selector.metadata_only {
                api.list_metadata::<V>(&options).await?
            } else {
                api.list::<V>(&options).await?
            };
            fresh.extend(page.items.into_iter().map(|v| (ObjectKey::of(&v), v)));
            if page.continue_.is_empty() {
                self.replace(fresh);
                s.version = Some(page.resource_version);
                return Ok(());
            }
            options.resource_version.clear();
            options.continue_ = page.continue_;
        }
    }

    fn replace(&self, fresh: HashMap<ObjectKey, V>) {
        for old in self.store.list() {
            if !fresh.contains_key(&ObjectKey::of(&*old)) {
                self.remove(&old);
            }
        }
        for v in fresh.into_values() {
            let same = self.store.get(v.namespace(), v.name()).is_some_and(|old| {
                old.resource_version() == v.resource_version() && old.uid() == v.uid()
            });
            if !same {
                self.apply(Arc::new(v));
            }
        }
        self.synced
            .send_if_modified(|s| !std::mem::replace(s, true));
    }

    fn apply(&self, new: Arc<V>) {
        let handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        match self.store.insert(new.clone()) {
            // The same name with another UID: the deletion in between was not seen.
            Some(old) if old.uid() != new.uid() => {
                for h in handlers.iter() {
                    h(Change::Deleted(&old));
                    h(Change::Added(&new));
                }
            }
            Some(old) => handlers.iter().for_each(|h| {
                h(Change::Updated {
                    old: &old,
                    new: &new,
                })
            }),
            None => handlers.iter().for_each(|h| h(Change::Added(&new))),
        }
    }

    fn remove(&self, last: &Arc<V>) {
        let handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        if self.store.remove(last.namespace(), last.name()).is_some() {
            handlers.iter().for_each(|h| h(Change::Deleted(last)));
        }
    }
}

type InformerId = (Resource, Selector, TypeId);

trait AnyInformer: Any + Send + Sync {
    fn as_any(&self) -> &dyn Any;
}

impl<V: View> AnyInformer for Informer<V> {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct Factory {
    client: Client,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    informers: Mutex<HashMap<InformerId, Box<dyn AnyInformer>>>,
}

/// The informers of a process: asked twice for the same resource, selector and view, it gives the same one.
#[derive(Clone)]
pub struct Informers(Arc<Factory>, Arc<Mutex<Vec<watch::Receiver<bool>>>>);

impl std::fmt::Debug for Informers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Informers").finish_non_exhaustive()
    }
}

impl Informers {
    /// Informers that run until `shutdown`.
    pub fn new(client: Client, shutdown: CancellationToken) -> Informers {
        let factory = Factory {
            client,
            shutdown,
            tasks: TaskTracker::new(),
            informers: Mutex::default(),
        };
        Informers(Arc::new(factory), Arc::default())
    }

    /// The same informers for one part of the process: [`Informers::synced`] then waits only for those that this part asks
    /// for.
    #[must_use]
    pub fn scope(&self) -> Informers {
        Informers(self.0.clone(), Arc::default())
    }

    fn remember<V: View>(&self, informer: &Informer<V>) {
        let mut waiting = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(informer.0.synced.subscribe());
    }

    /// The informer of a view, started when first asked for. Must be called in a tokio runtime.
    pub fn get<V: View>(&self, resource: &Resource, selector: Selector) -> Informer<V> {
        let id = (resource.clone(), selector.clone(), TypeId::of::<V>());
        let mut informers = self
            .0
            .informers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = informers
            .get(&id)
            .and_then(|i| i.as_any().downcast_ref::<Informer<V>>())
        {
            self.remember(found);
            return found.clone();
        }
        let (informer, work) = Informer::<V>::new(
            self.0.client.clone(),
            resource.clone(),
            selector,
            self.0.shutdown.child_token(),
        );
        self.0.tasks.spawn(work);
        self.remember(&informer);
        informers.insert(id, Box::new(informer.clone()));
        informer
    }

    /// The informer of all objects of a resource.
    pub fn all<V: View>(&self, resource: &Resource) -> Informer<V> {
        self.get(resource, Selector::all())
    }

    /// The client the informers use.
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// Waits until every informer asked for so far, in this scope, has synced.
    pub async fn synced(&self) {
        let waiting = self
            .1
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for mut receiver in waiting {
            let _ = receiver.wait_for(|s| *s).await;
        }
    }

    /// Waits until all informers have ended after shutdown.
    pub async fn ended(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}
