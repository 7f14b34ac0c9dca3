//! The watch cache of one stored resource: what exists, what changed lately, and who watches.
//!
//! Invariants: `items` is the state of the store at `revision`, as far as this prefix goes; every change after `floor` is
//! in `ring`; a watcher gets each change after its start once and in order, or is ended. Objects are held as stored
//! bytes; labels, selectable fields and encodings are made when first asked for. Nothing here waits while the lock is
//! held.
//!
//! Absent on purpose: a second copy of objects in decoded form; history beyond the ring (the store has it).

use std::collections::{HashMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use api::Status;
use bytes::Bytes;
use futures::StreamExt;
use imbl::OrdMap;
use serde::Deserialize;
use serde_json::Value;
use storage::{Error, KeyValue, ListOptions, Revision, SharedStore, WatchMessage};
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::codec;
use crate::resource::{ResourceDef, StorageDef};

/// Changes a watcher may be behind before it is ended.
const QUEUE: usize = 4096;
/// The changes kept beyond [`RING_AGE`], unless they are large.
const RING_MIN: usize = 100;
/// The most changes kept.
const RING_MAX: usize = 20_000;
/// How long changes are kept. Source: upstream's `eventFreshDuration`.
const RING_AGE: Duration = Duration::from_secs(75);
/// Bytes of changes beyond which none of that age are kept.
const RING_OLD_BYTES: usize = 256 * 1024;
/// Bytes of the changes kept, with what was before them, at most.
const RING_BYTES: usize = 32 * 1024 * 1024;
/// Changes whose encoded frames are kept for watchers that have not sent them yet.
const FRAMES_KEPT: usize = 64;
/// Snapshots kept for continued lists.
const SNAPSHOTS: usize = 16;
/// How long they are kept. Pages that are asked for later are read from the store's history.
const SNAPSHOT_AGE: Duration = RING_AGE;
/// Keys read at once from the store.
const PAGE: usize = 2000;
/// Decoded objects are kept for readers only in caches up to this size.
const DECODED_MAX: usize = 1000;

/// Sorted labels.
pub type LabelSet = Box<[(Box<str>, Box<str>)]>;

/// One object as it is in the store.
pub struct Entry {
    /// The whole key.
    pub key: Bytes,
    /// The stored bytes.
    pub value: Bytes,
    /// Its resourceVersion.
    pub revision: Revision,
    /// The lease it ends with; 0 for none.
    pub lease: i64,
    labels: OnceLock<LabelSet>,
    fields: OnceLock<Box<[Box<str>]>>,
    decoded: OnceLock<Arc<Value>>,
}

#[derive(Deserialize)]
struct MetaView {
    #[serde(default)]
    metadata: LabelsView,
}

#[derive(Default, Deserialize)]
struct LabelsView {
    #[serde(default)]
    labels: Option<std::collections::BTreeMap<Box<str>, Box<str>>>,
}

impl Entry {
    fn new(kv: KeyValue) -> Entry {
        Entry {
            key: kv.key,
            value: kv.value,
            revision: kv.mod_revision,
            lease: kv.lease,
            labels: OnceLock::new(),
            fields: OnceLock::new(),
            decoded: OnceLock::new(),
        }
    }

    /// The labels, sorted by key.
    pub fn labels(&self, storage: &StorageDef) -> &LabelSet {
        self.labels.get_or_init(|| {
            let view: Option<MetaView> = if storage.json {
                serde_json::from_slice(&self.value).ok()
            } else {
                codec::stored_raw(&self.value)
                    .ok()
                    .and_then(|raw| wire::proto::from_slice(raw, storage.schema).ok())
            };
            view.and_then(|v| v.metadata.labels)
                .map(|m| m.into_iter().collect())
                .unwrap_or_default()
        })
    }

    /// A selectable field of the cache's own definition.
    fn field(&self, def: &ResourceDef, index: usize) -> &str {
        let all = self.fields.get_or_init(|| {
            let object = codec::shallow(def, &self.value)
                .or_else(|| codec::decode(def, &self.value, self.revision).ok());
            let Some(object) = object else {
                return Box::default();
            };
            let values = def.strategy.field_values(&object);
            def.selectable_fields
                .iter()
                .map(|f| {
                    values
                        .iter()
                        .find(|(k, _)| k == f)
                        .map(|(_, v)| v.as_str())
                        .unwrap_or_default()
                        .into()
                })
                .collect()
        });
        all.get(index).map_or("", |v| v)
    }
}

/// The form of a watch frame: which served version, which event, which encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameKey {
    /// [`crate::server::Served::id`]
    pub served: u32,
    /// 0 added, 1 modified, 2 deleted.
    pub event: u8,
    /// The encoding as the encoder numbers it.
    pub form: u8,
}

/// One change, shared by all who watch.
pub struct Change {
    /// The revision of the change.
    pub revision: Revision,
    /// The object after it; `None` for a deletion.
    pub current: Option<Arc<Entry>>,
    /// The object before it; `None` for a creation.
    pub previous: Option<Arc<Entry>>,
    at: Instant,
    frames: Mutex<Vec<(FrameKey, Bytes)>>,
}

impl Change {
    /// The frame, made by `make` the first time.
    pub fn frame(
        &self,
        key: FrameKey,
        make: impl FnOnce() -> Result<Bytes, Status>,
    ) -> Result<Bytes, Status> {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, b)) = frames.iter().find(|(k, _)| *k == key) {
            return Ok(b.clone());
        }
        let made = make()?;
        frames.push((key, made.clone()));
        Ok(made)
    }

    /// The bytes it keeps from being given back, about.
    fn bytes(&self) -> usize {
        let of = |e: &Option<Arc<Entry>>| e.as_ref().map_or(0, |e| e.value.len());
        of(&self.current) + of(&self.previous)
    }

    fn forget_frames(&self) {
        *self.frames.lock().unwrap_or_else(PoisonError::into_inner) = Vec::new();
    }
}

/// What a watcher is told about, at least; it filters the rest itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Interest {
    /// Everything.
    All,
    /// Keys that start with this (a namespace).
    Namespace(Bytes),
    /// One key.
    Key(Bytes),
    /// Objects whose n-th selectable field has, or had, this value.
    Field(usize, Box<str>),
}

/// One object, as an observer is shown it.
pub struct Seen<'a> {
    entry: &'a Entry,
    def: &'a ResourceDef,
}

impl Seen<'_> {
    /// The whole object.
    pub fn value(&self) -> Result<Value, Status> {
        codec::decode(self.def, &self.entry.value, self.entry.revision)
    }

    /// A view of the stored object: only the fields of `T` are decoded.
    pub fn view<T: serde::de::DeserializeOwned>(&self) -> Result<T, Status> {
        let storage = codec::storage(self.def)?;
        if storage.json {
            return serde_json::from_slice(&self.entry.value).map_err(Status::internal);
        }
        wire::proto::from_slice(codec::stored_raw(&self.entry.value)?, storage.schema)
            .map_err(Status::internal)
    }
}

/// Told of every object once at the start and then of every change, in order, before any reader sees it: namespace, name,
/// and the object, or `None` when it is gone. Runs under the cache's lock: it must be quick and must not read the cache.
pub type Observer = Arc<dyn Fn(&str, &str, Option<&Seen<'_>>) + Send + Sync>;

struct Watcher {
    id: u64,
    queue: mpsc::Sender<Arc<Change>>,
}

struct State {
    items: OrdMap<Bytes, Arc<Entry>>,
    revision: Revision,
    floor: Revision,
    ring: VecDeque<Arc<Change>>,
    ring_bytes: usize,
    snapshots: VecDeque<(Revision, Instant, OrdMap<Bytes, Arc<Entry>>)>,
    watchers: HashMap<Interest, Vec<Watcher>>,
    fields_watched: Vec<(usize, usize)>,
    ready: bool,
}

/// The state of a resource at a revision.
#[derive(Clone)]
pub struct Snapshot {
    /// By whole key.
    pub items: OrdMap<Bytes, Arc<Entry>>,
    /// The revision.
    pub revision: Revision,
}

impl Snapshot {
    /// The entries whose key starts with `prefix` and is not less than `start`.
    pub fn range<'a>(
        &'a self,
        prefix: &'a [u8],
        start: &'a [u8],
    ) -> impl Iterator<Item = &'a Arc<Entry>> {
        let from: &[u8] = if start > prefix { start } else { prefix };
        self.items
            .range::<_, [u8]>((Bound::Included(from), Bound::Unbounded))
            .map(|(_, e)| e)
            .take_while(move |e| e.key.starts_with(prefix))
    }
}

/// The cache of one stored resource.
pub struct Cache {
    /// Where and how it is stored.
    pub storage: StorageDef,
    /// `/registry/pods/`
    pub prefix: Bytes,
    /// The definition that field values are read with.
    pub def: Arc<ResourceDef>,
    store: SharedStore,
    observers: Mutex<Vec<Observer>>,
    state: Mutex<State>,
    fresh: watch::Sender<Revision>,
    requested: AtomicI64,
    next_id: AtomicU64,
    /// Something is kept for a while that was not before.
    aging: tokio::sync::Notify,
    /// Watchers now.
    pub watching: AtomicI64,
    /// Watchers ended because they were slow.
    pub ended_slow: AtomicU64,
}

/// A running watch: the changes after its start, in order, until the sender is gone.
pub struct Subscription {
    cache: Arc<Cache>,
    id: u64,
    interest: Interest,
    queue: mpsc::Receiver<Arc<Change>>,
}

impl Subscription {
    /// The next change; `None` when the watcher was too slow or the cache starts anew.
    pub fn poll_next(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Arc<Change>>> {
        self.queue.poll_recv(cx)
    }

    /// The revision up to which this watcher has been told everything, if nothing waits in its queue.
    pub fn idle_revision(&self) -> Option<Revision> {
        let state = self.cache.lock();
        self.queue.is_empty().then_some(state.revision)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.cache.lock();
        self.cache.watching.fetch_sub(1, Ordering::Relaxed);
        state.remove(&self.interest, self.id);
    }
}

impl State {
    fn remove(&mut self, interest: &Interest, id: u64) {
        let Some(list) = self.watchers.get_mut(interest) else {
            return;
        };
        let before = list.len();
        list.retain(|w| w.id != id);
        let gone = list.len() < before;
        if list.is_empty() {
            self.watchers.remove(interest);
        }
        if gone && let Interest::Field(i, _) = interest {
            if let Some(f) = self.fields_watched.iter_mut().find(|(n, _)| n == i) {
                f.1 = f.1.saturating_sub(1);
            }
            self.fields_watched.retain(|(_, n)| *n > 0);
        }
    }

    fn tell(&mut self, interest: &Interest, change: &Arc<Change>, ended: &AtomicU64) {
        let Some(list) = self.watchers.get(interest) else {
            return;
        };
        let mut gone = Vec::new();
        for w in list {
            match w.queue.try_send(change.clone()) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => {
                    ended.fetch_add(1, Ordering::Relaxed);
                    gone.push(w.id);
                }
                Err(mpsc::error::TrySendError::Closed(_)) => gone.push(w.id),
            }
        }
        for id in gone {
            self.remove(interest, id);
        }
    }

    fn push(&mut self, change: Arc<Change>) {
        let now = change.at;
        self.ring_bytes += change.bytes();
        self.ring.push_back(change);
        if let Some(old) = self
            .ring
            .len()
            .checked_sub(FRAMES_KEPT)
            .and_then(|i| self.ring.get(i))
        {
            old.forget_frames();
        }
        self.forget_changes(now);
    }

    fn forget_changes(&mut self, now: Instant) {
        while let Some(first) = self.ring.front() {
            let len = self.ring.len();
            let old = now.duration_since(first.at) >= RING_AGE;
            let many = len > if old { RING_MIN } else { RING_MAX };
            let large = self.ring_bytes > if old { RING_OLD_BYTES } else { RING_BYTES };
            if !many && !large {
                break;
            }
            self.floor = first.revision;
            self.ring_bytes -= first.bytes();
            self.ring.pop_front();
        }
    }

    /// Forgets what is old, and tells when there will be more of it.
    fn forget(&mut self, now: Instant) -> Option<Instant> {
        self.forget_changes(now);
        if let Some(last) = self.ring.back()
            && now.duration_since(last.at) >= RING_AGE
        {
            for change in self.ring.iter().rev().take(FRAMES_KEPT) {
                change.forget_frames();
            }
        }
        self.snapshots
            .retain(|(_, at, _)| now.duration_since(*at) < SNAPSHOT_AGE);
        // Space that a burst needed is given back.
        if self.ring.capacity() > 4 * self.ring.len().max(RING_MIN) {
            self.ring.shrink_to(2 * self.ring.len().max(RING_MIN));
        }
        let change = self.ring.back().map(|c| c.at + RING_AGE);
        let change = change.filter(|at| *at > now);
        let snapshot = self.snapshots.iter().map(|(_, at, _)| *at + SNAPSHOT_AGE);
        change.into_iter().chain(snapshot).min()
    }
}

/// Where a watch begins.
pub enum Start {
    /// With the whole state, then changes.
    State(Snapshot),
    /// With the changes after a revision, up to this one; see [`Cache::changes`].
    After(Revision),
}

impl Cache {
    /// A cache that knows nothing yet; [`Cache::run`] fills it.
    pub fn new(def: Arc<ResourceDef>, storage: StorageDef, store: SharedStore) -> Arc<Cache> {
        let prefix = Bytes::from(format!("{}/", storage.prefix));
        Arc::new(Cache {
            storage,
            prefix,
            def,
            store,
            observers: Mutex::default(),
            state: Mutex::new(State {
                items: OrdMap::new(),
                revision: 0,
                floor: 0,
                ring: VecDeque::new(),
                ring_bytes: 0,
                snapshots: VecDeque::new(),
                watchers: HashMap::new(),
                fields_watched: Vec::new(),
                ready: false,
            }),
            fresh: watch::channel(0).0,
            requested: AtomicI64::new(0),
            next_id: AtomicU64::new(1),
            aging: tokio::sync::Notify::new(),
            watching: AtomicI64::new(0),
            ended_slow: AtomicU64::new(0),
        })
    }

    /// Adds an observer. What is there already is shown to it at once.
    pub fn observe(&self, observer: Observer) {
        let state = self.lock();
        for e in state.items.values() {
            let (namespace, name) = self.names(&e.key);
            observer(
                namespace,
                name,
                Some(&Seen {
                    entry: e,
                    def: &self.def,
                }),
            );
        }
        self.observers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(observer);
    }

    fn show(&self, key: &[u8], entry: Option<&Entry>) {
        let observers = self
            .observers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if observers.is_empty() {
            return;
        }
        let (namespace, name) = self.names(key);
        let seen = entry.map(|entry| Seen {
            entry,
            def: &self.def,
        });
        for o in observers.iter() {
            o(namespace, name, seen.as_ref());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of objects and the sum of their stored bytes.
    pub fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// Whether nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the first list is done.
    pub fn ready(&self) -> bool {
        self.lock().ready
    }

    /// The revision the cache is at.
    pub fn revision(&self) -> Revision {
        self.lock().revision
    }

    /// Waits for the first list.
    pub async fn wait_ready(&self) {
        let mut rx = self.fresh.subscribe();
        while !self.ready() {
            if rx.changed().await.is_err() {
                return;
            }
        }
    }

    /// Lists, then follows the store until cancelled; starts anew when the store forgot where it was.
    pub async fn run(self: Arc<Cache>) {
        let mut backoff = Duration::from_millis(20);
        loop {
            match self.follow().await {
                Ok(()) => backoff = Duration::from_millis(20),
                Err(e) => {
                    tracing::warn!(prefix = %self.storage.prefix, error = %e, "watch cache lost the store");
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(Duration::from_secs(2));
                }
            }
        }
    }

    async fn follow(&self) -> Result<(), Error> {
        if !self.ready() {
            self.fill().await?;
        }
        let from = self.revision() + 1;
        let mut stream = match self.store.watch(&self.prefix, from).await {
            Err(Error::Compacted { .. }) => {
                self.reset();
                return Ok(());
            }
            other => other?,
        };
        // Nothing wakes this up while nothing grows old.
        let mut old: Option<Instant> = None;
        loop {
            let message = tokio::select! {
                message = stream.next() => message,
                () = self.aging.notified() => {
                    old = self.lock().forget(Instant::now());
                    continue;
                }
                () = tokio::time::sleep_until(old.unwrap_or_else(Instant::now)), if old.is_some() => {
                    old = self.lock().forget(Instant::now());
                    continue;
                }
            };
            let Some(message) = message else {
                break;
            };
            if old.is_none() {
                old = Some(Instant::now() + RING_AGE);
            }
            match message {
                Ok(WatchMessage::Events(events)) => self.take_in(events),
                Ok(WatchMessage::Progress(revision)) => self.progress(revision),
                Err(Error::Compacted { .. }) => {
                    self.reset();
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
        }
        Err(Error::Unavailable("watch ended".into()))
    }

    async fn fill(&self) -> Result<(), Error> {
        let mut items = OrdMap::new();
        let mut options = ListOptions {
            limit: PAGE,
            ..ListOptions::default()
        };
        loop {
            let page = self.store.list(&self.prefix, options.clone()).await?;
            options.revision = page.revision;
            if let Some(last) = page.items.last() {
                let mut start = last.key.to_vec();
                start.push(0);
                options.start = start.into();
            }
            for kv in page.items {
                items.insert(kv.key.clone(), Arc::new(Entry::new(kv)));
            }
            if !page.more {
                break;
            }
        }
        let mut state = self.lock();
        for key in state.items.keys().filter(|k| !items.contains_key(*k)) {
            self.show(key, None);
        }
        for (key, entry) in &items {
            self.show(key, Some(entry));
        }
        state.items = items;
        state.revision = options.revision;
        state.floor = options.revision;
        state.ring.clear();
        state.ring_bytes = 0;
        state.snapshots.clear();
        state.ready = true;
        drop(state);
        self.fresh.send_replace(options.revision);
        Ok(())
    }

    /// Forgets everything and ends all watchers; they resume or are told that their revision is too old.
    fn reset(&self) {
        let mut state = self.lock();
        state.ready = false;
        state.watchers.clear();
        state.fields_watched.clear();
    }

    fn take_in(&self, events: Vec<storage::Event>) {
        let now = Instant::now();
        let mut state = self.lock();
        for event in events {
            let revision = event.kv.mod_revision;
            // Already in the list that filled the cache.
            if revision <= state.floor {
                continue;
            }
            let key = event.kv.key.clone();
            let change = if event.deleted {
                let Some(previous) = state.items.remove(&key) else {
                    continue;
                };
                Change {
                    revision,
                    current: None,
                    previous: Some(previous),
                    at: now,
                    frames: Mutex::default(),
                }
            } else {
                let entry = Arc::new(Entry::new(event.kv));
                let previous = state.items.insert(key.clone(), entry.clone());
                Change {
                    revision,
                    current: Some(entry),
                    previous,
                    at: now,
                    frames: Mutex::default(),
                }
            };
            self.show(&key, change.current.as_deref());
            let change = Arc::new(change);
            state.push(change.clone());
            state.revision = state.revision.max(revision);
            self.tell_all(&mut state, &key, &change);
        }
        let revision = state.revision;
        drop(state);
        self.fresh.send_replace(revision);
    }

    fn tell_all(&self, state: &mut State, key: &Bytes, change: &Arc<Change>) {
        if state.watchers.is_empty() {
            return;
        }
        state.tell(&Interest::All, change, &self.ended_slow);
        state.tell(&Interest::Key(key.clone()), change, &self.ended_slow);
        let tail = key.get(self.prefix.len()..).unwrap_or_default();
        if let Some(slash) = tail.iter().position(|b| *b == b'/') {
            let ns = key.slice(..self.prefix.len() + slash + 1);
            state.tell(&Interest::Namespace(ns), change, &self.ended_slow);
        }
        for (index, _) in state.fields_watched.clone() {
            let value = |e: &Option<Arc<Entry>>| -> Option<Box<str>> {
                e.as_ref().map(|e| e.field(&self.def, index).into())
            };
            let (current, previous) = (value(&change.current), value(&change.previous));
            if let Some(p) = previous.filter(|p| Some(p) != current.as_ref()) {
                state.tell(&Interest::Field(index, p), change, &self.ended_slow);
            }
            if let Some(c) = current {
                state.tell(&Interest::Field(index, c), change, &self.ended_slow);
            }
        }
    }

    fn progress(&self, revision: Revision) {
        let mut state = self.lock();
        if revision > state.revision {
            state.revision = revision;
            drop(state);
            self.fresh.send_replace(revision);
        }
    }

    /// Waits until the cache is at `revision` or later. 504 when it does not get there in time.
    pub async fn wait_for(&self, revision: Revision) -> Result<(), Status> {
        let mut rx = self.fresh.subscribe();
        let deadline = Instant::now() + Duration::from_secs(3);
        let mut patience = Duration::from_millis(20);
        loop {
            if self.ready() && self.revision() >= revision {
                return Ok(());
            }
            if self.requested.fetch_max(revision, Ordering::SeqCst) < revision {
                let _ = self.store.request_progress().await;
            }
            let wait = tokio::time::timeout(patience, async {
                rx.wait_for(|r| *r >= revision).await.map(|_| ())
            })
            .await;
            match wait {
                Ok(Ok(())) if self.ready() => return Ok(()),
                Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(_) => {
                    if Instant::now() >= deadline {
                        return Err(too_large(revision, self.revision()));
                    }
                    patience = (patience * 2).min(Duration::from_millis(200));
                    self.requested.store(0, Ordering::SeqCst);
                }
            }
        }
    }

    /// Waits until the cache shows everything that was acknowledged before this call.
    pub async fn wait_current(&self) -> Result<(), Status> {
        let revision = self.store.revision().await.map_err(store_error)?;
        self.wait_for(revision).await
    }

    /// The state now.
    pub fn snapshot(&self) -> Snapshot {
        let state = self.lock();
        Snapshot {
            items: state.items.clone(),
            revision: state.revision,
        }
    }

    /// The state at a revision, if it is the present one or was remembered.
    pub fn snapshot_at(&self, revision: Revision) -> Option<Snapshot> {
        let state = self.lock();
        if let Some((_, _, items)) = state.snapshots.iter().find(|(r, ..)| *r == revision) {
            return Some(Snapshot {
                items: items.clone(),
                revision,
            });
        }
        // Nothing of this prefix changed since then.
        let last = state
            .ring
            .back()
            .map_or(state.floor, |c| c.revision)
            .max(state.floor);
        (revision <= state.revision && last <= revision).then(|| Snapshot {
            items: state.items.clone(),
            revision,
        })
    }

    /// Keeps a snapshot for the pages that follow.
    pub fn remember(&self, snapshot: &Snapshot) {
        let mut state = self.lock();
        if state
            .snapshots
            .iter()
            .any(|(r, ..)| *r == snapshot.revision)
        {
            return;
        }
        if state.snapshots.len() >= SNAPSHOTS {
            state.snapshots.pop_front();
        }
        let kept = (snapshot.revision, Instant::now(), snapshot.items.clone());
        state.snapshots.push_back(kept);
        drop(state);
        self.aging.notify_one();
    }

    /// One entry from the cache.
    pub fn entry(&self, key: &[u8]) -> Option<Arc<Entry>> {
        self.lock().items.get(key).cloned()
    }

    /// Whether an entry matches a field selector of `def`.
    pub fn matches_fields(
        &self,
        entry: &Entry,
        def: &ResourceDef,
        fields: &crate::select::Fields,
    ) -> bool {
        if fields.is_empty() {
            return true;
        }
        let (namespace, name) = self.names(&entry.key);
        if def.version == self.def.version && def.group == self.def.group {
            return fields.matches(namespace, name, |i| entry.field(&self.def, i).to_owned());
        }
        let Ok(object) = codec::decode(def, &entry.value, entry.revision) else {
            return false;
        };
        let values = def.strategy.field_values(&object);
        fields.matches(namespace, name, |i| {
            // A version may have other names for the same fields.
            let key = self
                .def
                .selectable_fields
                .get(i)
                .copied()
                .unwrap_or_default();
            values
                .iter()
                .find(|(k, _)| *k == key)
                .map(|(_, v)| v.clone())
                .unwrap_or_default()
        })
    }

    /// Namespace (empty for cluster scope) and name of a key.
    pub fn names<'a>(&self, key: &'a [u8]) -> (&'a str, &'a str) {
        let tail = key.get(self.prefix.len()..).unwrap_or_default();
        let tail = std::str::from_utf8(tail).unwrap_or_default();
        tail.split_once('/').unwrap_or(("", tail))
    }

    /// An entry in decoded form, kept while the cache is small.
    pub fn decoded(&self, entry: &Entry, def: &ResourceDef) -> Result<Arc<Value>, Status> {
        if let Some(v) = entry.decoded.get() {
            return Ok(v.clone());
        }
        let value = Arc::new(codec::decode(def, &entry.value, entry.revision)?);
        if self.len() <= DECODED_MAX {
            return Ok(entry.decoded.get_or_init(|| value).clone());
        }
        Ok(value)
    }

    /// Begins a watch. `after` is the revision already known to the client; `None` begins with the whole state.
    pub fn subscribe(
        self: &Arc<Cache>,
        interest: Interest,
        after: Option<Revision>,
    ) -> Result<(Start, Subscription), Status> {
        let mut state = self.lock();
        let start = match after {
            None => Start::State(Snapshot {
                items: state.items.clone(),
                revision: state.revision,
            }),
            Some(r) => {
                if r < state.floor {
                    return Err(Status::expired(format!(
                        "too old resource version: {r} ({})",
                        state.floor
                    )));
                }
                Start::After(state.revision)
            }
        };
        let (queue, rx) = mpsc::channel(QUEUE);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        if let Interest::Field(i, _) = &interest {
            match state.fields_watched.iter_mut().find(|(n, _)| n == i) {
                Some(f) => f.1 += 1,
                None => state.fields_watched.push((*i, 1)),
            }
        }
        state
            .watchers
            .entry(interest.clone())
            .or_default()
            .push(Watcher { id, queue });
        self.watching.fetch_add(1, Ordering::Relaxed);
        drop(state);
        Ok((
            start,
            Subscription {
                cache: self.clone(),
                id,
                interest,
                queue: rx,
            },
        ))
    }

    /// Changes after a revision up to another, some `limit` at once; `None` when they are forgotten. A watcher takes them as
    /// it sends them, so that a slow one holds no list of all.
    pub fn changes(
        &self,
        after: Revision,
        until: Revision,
        limit: usize,
    ) -> Option<Vec<Arc<Change>>> {
        let state = self.lock();
        if after < state.floor {
            return None;
        }
        let from = state.ring.partition_point(|c| c.revision <= after);
        let mut out: Vec<Arc<Change>> = Vec::new();
        for change in state.ring.range(from..) {
            // Changes of one revision come together.
            let full =
                out.len() >= limit && out.last().is_some_and(|l| l.revision < change.revision);
            if full || change.revision > until {
                break;
            }
            out.push(change.clone());
        }
        Some(out)
    }

    /// The store behind this cache.
    pub fn store(&self) -> &SharedStore {
        &self.store
    }

    /// The entries of a page read from the store at an older revision.
    pub async fn list_at(
        &self,
        prefix: &[u8],
        start: &[u8],
        revision: Revision,
        limit: usize,
    ) -> Result<(Vec<Arc<Entry>>, storage::Listed), Status> {
        let options = ListOptions {
            start: Bytes::copy_from_slice(start),
            limit,
            revision,
            count_only: false,
        };
        let mut listed = self
            .store
            .list(prefix, options)
            .await
            .map_err(store_error)?;
        let items = std::mem::take(&mut listed.items);
        Ok((
            items
                .into_iter()
                .map(|kv| Arc::new(Entry::new(kv)))
                .collect(),
            listed,
        ))
    }
}

/// An entry for a key read from the store.
pub fn entry_of(kv: KeyValue) -> Entry {
    Entry::new(kv)
}

/// The 504 for a revision that has not happened.
pub fn too_large(asked: Revision, current: Revision) -> Status {
    let mut s = Status::failure(
        504,
        "Timeout",
        format!("Timeout: Too large resource version: {asked}, current: {current}"),
    );
    s.details = Some(Box::new(api::status::StatusDetails {
        causes: vec![api::status::StatusCause {
            reason: "ResourceVersionTooLarge".into(),
            message: "Too large resource version".into(),
            field: String::new(),
        }],
        retry_after_seconds: 1,
        ..Default::default()
    }));
    s
}

/// A store's error as clients see it.
pub fn store_error(e: Error) -> Status {
    match e {
        Error::Compacted { .. } => Status::expired(
            "The provided resource version is too old and can no longer be served; please list again without one.",
        ),
        Error::Future { current } => too_large(0, current),
        Error::TooLarge { .. } => Status::failure(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: {e}"),
        ),
        Error::Unavailable(_) | Error::SlowWatcher => {
            let mut s = Status::unavailable(e.to_string());
            s.details = Some(Box::new(api::status::StatusDetails {
                retry_after_seconds: 1,
                ..Default::default()
            }));
            s
        }
        other => Status::internal(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{Plain, Printer};
    use async_trait::async_trait;
    use storage::{Expect, Got, Listed, Store, WatchStream, Written};

    /// Nothing here reads the store.
    struct NoStore;

    #[async_trait]
    impl Store for NoStore {
        async fn get(&self, _: &[u8], _: Revision) -> Result<Got, Error> {
            Err(Error::Unavailable("no store".into()))
        }
        async fn list(&self, _: &[u8], _: ListOptions) -> Result<Listed, Error> {
            Ok(Listed::default())
        }
        async fn put(&self, _: &[u8], _: Bytes, _: Expect, _: i64) -> Result<Written, Error> {
            Err(Error::Unavailable("no store".into()))
        }
        async fn delete(&self, _: &[u8], _: Expect) -> Result<Written, Error> {
            Err(Error::Unavailable("no store".into()))
        }
        async fn watch(&self, _: &[u8], _: Revision) -> Result<WatchStream, Error> {
            Err(Error::Unavailable("no store".into()))
        }
        async fn request_progress(&self) -> Result<(), Error> {
            Ok(())
        }
        async fn revision(&self) -> Result<Revision, Error> {
            Ok(0)
        }
        async fn grant(&self, _: i64) -> Result<i64, Error> {
            Ok(1)
        }
        async fn compact(&self, _: Revision) -> Result<(), Error> {
            Ok(())
        }
        async fn ready(&self) -> Result<(), Error> {
            Ok(())
        }
        async fn size_on_disk(&self) -> Result<u64, Error> {
            Ok(0)
        }
    }

    fn cache() -> Arc<Cache> {
        let schema = api::schema::message("v1", "ConfigMap").expect("a schema");
        let storage = StorageDef {
            prefix: "/registry/configmaps".into(),
            api_version: "v1".into(),
            kind: "ConfigMap".into(),
            schema,
            json: false,
            ttl_seconds: 0,
        };
        let def = ResourceDef {
            group: String::new(),
            version: "v1".into(),
            kind: "ConfigMap".into(),
            list_kind: "ConfigMapList".into(),
            resource: "configmaps".into(),
            singular: "configmap".into(),
            short_names: vec![],
            categories: vec![],
            namespaced: true,
            verbs: vec![],
            schema,
            storage: Some(storage.clone()),
            conversion: None,
            selectable_fields: &[],
            strategy: Arc::new(Plain),
            printer: Printer {
                columns: &[],
                cells: |_, _| vec![],
                completed: |_| None,
            },
            subresources: vec![],
            review: None,
            computed: None,
            meta: crate::resource::MetaChecks::new(1, 1),
            support: component::Support::Full,
        };
        Cache::new(Arc::new(def), storage, Arc::new(NoStore))
    }

    fn put(key: &str, revision: Revision) -> storage::Event {
        storage::Event {
            kv: KeyValue {
                key: Bytes::copy_from_slice(key.as_bytes()),
                value: Bytes::from_static(b"k8s\0"),
                mod_revision: revision,
                create_revision: revision,
                version: 1,
                lease: 0,
            },
            previous: None,
            deleted: false,
        }
    }

    /// What waits in a watcher's queue, and whether it was ended.
    fn drain(s: &mut Subscription) -> (Vec<Revision>, bool) {
        let mut out = Vec::new();
        loop {
            match s.queue.try_recv() {
                Ok(c) => out.push(c.revision),
                Err(e) => return (out, e == mpsc::error::TryRecvError::Disconnected),
            }
        }
    }

    #[tokio::test]
    async fn a_slow_watcher_is_ended_and_others_are_not() {
        let cache = cache();
        cache.fill().await.expect("an empty list");
        let key = Bytes::from_static(b"/registry/configmaps/a/one");
        let (_, mut slow) = cache.subscribe(Interest::All, Some(0)).expect("a watch");
        let (_, mut narrow) = cache
            .subscribe(Interest::Key(key), Some(0))
            .expect("a watch");
        let last = i64::try_from(QUEUE).expect("small") + 10;
        for r in 1..=last {
            let name = if r == 7 {
                "one".to_owned()
            } else {
                format!("n{r}")
            };
            cache.take_in(vec![put(&format!("/registry/configmaps/a/{name}"), r)]);
        }
        let (seen, ended) = drain(&mut slow);
        assert!(ended, "its queue was full");
        let wanted: Vec<Revision> = (1..=i64::try_from(QUEUE).expect("small")).collect();
        assert_eq!(seen, wanted, "what it got is without gaps");
        assert_eq!(drain(&mut narrow), (vec![7], false));
        // It resumes from the last revision it saw.
        let mut after = seen.last().copied().expect("a revision");
        let (start, _again) = cache
            .subscribe(Interest::All, Some(after))
            .expect("a watch");
        let Start::After(until) = start else {
            panic!("a backlog")
        };
        cache.take_in(vec![put("/registry/configmaps/a/later", last + 1)]);
        let mut rest = Vec::new();
        loop {
            let more = cache.changes(after, until, 3).expect("not forgotten");
            assert!(more.len() <= 3);
            let Some(last) = more.last() else { break };
            after = last.revision;
            rest.extend(more.iter().map(|c| c.revision));
        }
        assert_eq!(rest, (seen.len() as i64 + 1..=last).collect::<Vec<_>>());
        drop((slow, narrow));
        assert_eq!(cache.watching.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn old_changes_are_forgotten_and_say_so() {
        let cache = cache();
        cache.fill().await.expect("an empty list");
        for r in 1..=300 {
            cache.take_in(vec![put("/registry/configmaps/a/x", r)]);
        }
        tokio::time::advance(RING_AGE * 2).await;
        cache.take_in(vec![put("/registry/configmaps/a/x", 301)]);
        let kept = i64::try_from(RING_MIN).expect("small");
        assert!(cache.subscribe(Interest::All, Some(301 - kept)).is_ok());
        assert!(cache.changes(301 - kept, 301, 5).is_some());
        assert!(cache.changes(300 - kept, 301, 5).is_none(), "a gap");
        let e = cache
            .subscribe(Interest::All, Some(100))
            .err()
            .expect("too old");
        assert_eq!((e.code, e.reason.as_str()), (410, "Expired"));
        assert_eq!(
            e.message,
            format!("too old resource version: 100 ({})", 301 - kept)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_kept_for_a_while_is_given_back_though_nothing_happens() {
        let cache = cache();
        cache.fill().await.expect("an empty list");
        for r in 1..=3000 {
            cache.take_in(vec![put("/registry/configmaps/a/x", r)]);
        }
        cache.remember(&cache.snapshot());
        let held = |cache: &Cache| {
            let state = cache.lock();
            let bytes: usize = state.ring.iter().map(|c| c.bytes()).sum();
            assert_eq!(bytes, state.ring_bytes);
            (state.ring.len(), state.snapshots.len())
        };
        assert_eq!(held(&cache), (3000, 1));
        tokio::time::advance(RING_AGE / 2).await;
        cache.take_in(vec![put("/registry/configmaps/a/x", 3001)]);
        cache.remember(&cache.snapshot());
        assert_eq!(held(&cache), (3001, 2));
        tokio::time::advance(RING_AGE / 2).await;
        let next = cache.lock().forget(Instant::now());
        assert_eq!(held(&cache), (RING_MIN, 1));
        let next = next.expect("the newer snapshot is still kept");
        assert_eq!(next - Instant::now(), SNAPSHOT_AGE / 2);
        tokio::time::advance(SNAPSHOT_AGE).await;
        assert_eq!(cache.lock().forget(Instant::now()), None);
        assert_eq!(held(&cache), (RING_MIN, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn of_large_objects_fewer_old_changes_are_kept() {
        let cache = cache();
        cache.fill().await.expect("an empty list");
        let value = vec![b'x'; 10_000];
        for r in 1..=90 {
            let mut event = put("/registry/configmaps/a/x", r);
            event.kv.value = value.clone().into();
            cache.take_in(vec![event]);
        }
        let held = || {
            let state = cache.lock();
            (state.ring.len(), state.ring_bytes)
        };
        assert_eq!(held().0, 90);
        tokio::time::advance(RING_AGE).await;
        cache.lock().forget(Instant::now());
        let (len, bytes) = held();
        assert!(len > 10 && bytes <= RING_OLD_BYTES, "{len}: {bytes}");
        assert!(bytes + 2 * value.len() > RING_OLD_BYTES, "{len}: {bytes}");
    }

    #[tokio::test]
    async fn snapshots_do_not_move() {
        let cache = cache();
        cache.fill().await.expect("an empty list");
        cache.take_in(vec![put("/registry/configmaps/a/x", 1)]);
        let before = cache.snapshot();
        cache.take_in(vec![
            put("/registry/configmaps/a/y", 2),
            put("/registry/configmaps/b/z", 3),
        ]);
        let names = |s: &Snapshot, prefix: &[u8]| -> Vec<String> {
            s.range(prefix, prefix)
                .map(|e| cache.names(&e.key).1.to_owned())
                .collect()
        };
        assert_eq!(names(&before, b"/registry/configmaps/"), ["x"]);
        assert_eq!(
            names(&cache.snapshot(), b"/registry/configmaps/a/"),
            ["x", "y"]
        );
        assert_eq!(cache.snapshot().revision, 3);
        cache.progress(9);
        // Nothing of this prefix changed between 3 and 9: the state at 5 is known.
        assert_eq!(cache.snapshot_at(5).map(|s| s.items.len()), Some(3));
        assert!(cache.snapshot_at(2).is_none());
    }
}
