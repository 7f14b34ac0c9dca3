//! Informers: a store kept equal to the apiserver by one list and watch, and handlers told of each change.
//!
//! Invariants: changes of one object reach a handler in the order the apiserver made them; a handler added late is first
//! told of everything there is; after a lost watch the informer resumes from the last version it saw, and only when that
//! is too old does it list again (handlers then see the difference, nothing else). There is no periodic resync.
//!
//! One object stops nothing. What cannot be read as the view is told in the log once and counted, and the last state that
//! could be read stays until the object can be read again or is gone: taken for deleted, a pod would be replaced for ever.
//! A handler that panics misses that change only.

use std::any::{Any, TypeId};
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use http::Method;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::codec::{self, Codec, JSON};
use crate::error::{Error, Result};
use crate::resource::Resource;
use crate::rest::{Api, Client, List, ListOptions, request};
use crate::store::{ObjectKey, Store};
use crate::view::View;
use crate::watch::{Identity, WatchEvent, WatchStream};

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
    /// Objects that cannot be read as they are now.
    unreadable: Mutex<HashSet<ObjectKey>>,
    faults: Arc<Faults>,
}

/// What went wrong with single objects in the informers of a process.
#[derive(Debug, Default)]
struct Faults {
    unreadable: AtomicU64,
    panics: AtomicU64,
}

/// Calls a handler; a panic of it is the handler's alone.
fn call<V>(faults: &Faults, handler: &Handler<V>, change: Change<'_, V>) {
    if catch_unwind(AssertUnwindSafe(|| handler(change))).is_err() {
        faults.panics.fetch_add(1, Relaxed);
        tracing::error!(
            view = std::any::type_name::<V>(),
            "A handler of changes panicked; it misses this change"
        );
    }
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
        Informer::counted(client, resource, selector, shutdown, Arc::default())
    }

    fn counted(
        client: Client,
        resource: Resource,
        selector: Selector,
        shutdown: CancellationToken,
        faults: Arc<Faults>,
    ) -> (Informer<V>, impl Future<Output = ()> + Send + 'static) {
        let core = Arc::new(Core {
            client,
            resource,
            selector,
            store: Store::default(),
            handlers: Mutex::default(),
            synced: watch::Sender::new(false),
            unreadable: Mutex::default(),
            faults,
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
        let handler: Handler<V> = Box::new(handler);
        let mut handlers = self
            .0
            .handlers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for object in self.0.store.list() {
            call(&self.0.faults, &handler, Change::Added(&object));
        }
        handlers.push(handler);
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

/// What a list shows.
struct Fresh<V> {
    objects: HashMap<ObjectKey, V>,
    /// Those that are there and cannot be read.
    unreadable: HashSet<ObjectKey>,
}

impl<V> Default for Fresh<V> {
    fn default() -> Fresh<V> {
        Fresh {
            objects: HashMap::new(),
            unreadable: HashSet::new(),
        }
    }
}

impl<V: View> Fresh<V> {
    fn insert(&mut self, v: V) {
        let key = ObjectKey::of(&v);
        self.unreadable.remove(&key);
        self.objects.insert(key, v);
    }

    fn remove(&mut self, key: &ObjectKey) {
        self.unreadable.remove(key);
        self.objects.remove(key);
    }
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
            let result = AssertUnwindSafe(self.session(&mut session))
                .catch_unwind()
                .await
                .unwrap_or_else(|_| {
                    self.faults.panics.fetch_add(1, Relaxed);
                    Err(Error::Transport("reading the watch panicked".into()))
                });
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
        let mut fresh: Option<Fresh<V>> = initial.then(Fresh::default);
        loop {
            let event = match stream.next::<V>().await {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(()),
                // A frame that is no event must not hide the others.
                Err(error @ Error::Decode { .. }) => {
                    self.faults.unreadable.fetch_add(1, Relaxed);
                    tracing::error!(resource = %self.resource.qualified(), %error, "Watch event skipped");
                    continue;
                }
                Err(e) => return Err(e),
            };
            s.progressed = true;
            match (&mut fresh, event) {
                (
                    fresh,
                    WatchEvent::Unreadable {
                        object,
                        gone,
                        error,
                    },
                ) => {
                    let key = ObjectKey::new(object.namespace, object.name);
                    match (fresh, gone) {
                        (Some(fresh), true) => fresh.remove(&key),
                        (Some(fresh), false) => {
                            self.cannot_read(key.clone(), &error);
                            fresh.unreadable.insert(key);
                        }
                        (None, true) => match self.store.get(&key.namespace, &key.name) {
                            Some(last) => self.remove(&last),
                            None => self.can_read(&key),
                        },
                        (None, false) => self.cannot_read(key, &error),
                    }
                    if s.version.is_some() && !object.resource_version.is_empty() {
                        s.version = Some(object.resource_version);
                    }
                }
                (Some(fresh), WatchEvent::Added(v) | WatchEvent::Modified(v)) => {
                    fresh.insert(v);
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
        let mut fresh = Fresh::default();
        loop {
            let page = if self.selector.metadata_only {
                api.list_metadata::<V>(&options).await
            } else {
                api.list::<V>(&options).await
            };
            let page = match page {
                // Large objects: fewer at once. One alone is as large as the apiserver takes.
                Err(Error::TooLarge(_)) if options.limit > 1 => {
                    options.limit = (options.limit / 8).max(1);
                    continue;
                }
                Err(Error::Decode { .. }) => self.page_by_item(&api, &options, &mut fresh).await?,
                other => other?,
            };
            page.items.into_iter().for_each(|v| fresh.insert(v));
            if page.continue_.is_empty() {
                self.replace(fresh);
                s.version = Some(page.resource_version);
                return Ok(());
            }
            options.resource_version.clear();
            options.continue_ = page.continue_;
        }
    }

    /// A page that cannot be read as a whole.
    async fn page_by_item(
        &self,
        api: &Api<'_>,
        options: &ListOptions,
        fresh: &mut Fresh<V>,
    ) -> Result<List<V>> {
        let page = if self.selector.metadata_only {
            api.list_metadata::<Box<RawValue>>(options).await?
        } else {
            api.list_raw(options).await?
        };
        let mut items = Vec::with_capacity(page.items.len());
        for raw in page.items {
            let raw = raw.get().as_bytes();
            match codec::from_json::<V>(raw) {
                Ok(v) => items.push(v),
                Err(error) => {
                    let object = Identity::of(&Codec::json(), raw);
                    let key = ObjectKey::new(object.namespace, object.name);
                    self.cannot_read(key.clone(), &error);
                    fresh.unreadable.insert(key);
                }
            }
        }
        Ok(List {
            items,
            resource_version: page.resource_version,
            continue_: page.continue_,
        })
    }

    fn unreadable(&self) -> std::sync::MutexGuard<'_, HashSet<ObjectKey>> {
        self.unreadable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn cannot_read(&self, key: ObjectKey, error: &Error) {
        self.faults.unreadable.fetch_add(1, Relaxed);
        let mut all = self.unreadable();
        if !all.contains(&key) {
            let kept = self.store.get(&key.namespace, &key.name).is_some();
            tracing::error!(
                resource = %self.resource.qualified(), object = %key, %error, kept,
                "An object cannot be read and is passed over; the state of before stays if there was one"
            );
            all.insert(key);
        }
    }

    fn can_read(&self, key: &ObjectKey) {
        self.unreadable().remove(key);
    }

    fn replace(&self, fresh: Fresh<V>) {
        for old in self.store.list() {
            let key = ObjectKey::of(&*old);
            if !fresh.objects.contains_key(&key) && !fresh.unreadable.contains(&key) {
                self.remove(&old);
            }
        }
        for v in fresh.objects.into_values() {
            let same = self.store.get(v.namespace(), v.name()).is_some_and(|old| {
                old.resource_version() == v.resource_version() && old.uid() == v.uid()
            });
            if !same {
                self.apply(Arc::new(v));
            }
        }
        *self.unreadable() = fresh.unreadable;
        self.synced
            .send_if_modified(|s| !std::mem::replace(s, true));
    }

    fn apply(&self, new: Arc<V>) {
        self.can_read(&ObjectKey::of(&*new));
        let handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        match self.store.insert(new.clone()) {
            // The same name with another UID: the deletion in between was not seen.
            Some(old) if old.uid() != new.uid() => {
                for h in handlers.iter() {
                    call(&self.faults, h, Change::Deleted(&old));
                    call(&self.faults, h, Change::Added(&new));
                }
            }
            Some(old) => handlers.iter().for_each(|h| {
                let change = Change::Updated {
                    old: &old,
                    new: &new,
                };
                call(&self.faults, h, change);
            }),
            None => handlers
                .iter()
                .for_each(|h| call(&self.faults, h, Change::Added(&new))),
        }
    }

    fn remove(&self, last: &Arc<V>) {
        self.can_read(&ObjectKey::of(&**last));
        let handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        if self.store.remove(last.namespace(), last.name()).is_some() {
            handlers
                .iter()
                .for_each(|h| call(&self.faults, h, Change::Deleted(last)));
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
    faults: Arc<Faults>,
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
            faults: Arc::default(),
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
        let (informer, work) = Informer::<V>::counted(
            self.0.client.clone(),
            resource.clone(),
            selector,
            self.0.shutdown.child_token(),
            self.0.faults.clone(),
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

    /// How often an object came that could not be read as its view.
    pub fn unreadable(&self) -> u64 {
        self.0.faults.unreadable.load(Relaxed)
    }

    /// How often a handler or an informer panicked and went on.
    pub fn panics(&self) -> u64 {
        self.0.faults.panics.load(Relaxed)
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
