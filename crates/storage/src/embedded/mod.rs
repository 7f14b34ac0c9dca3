//! The embedded backend: an append-only log of commits on disk, an index of places in memory.
//!
//! - `record`, `log`: bytes and files. `disk`: what is needed of a file system.
//! - `index`: keys, versions, history, leases.
//! - `writer`: the thread that commits. `rewrite`: the thread that makes room on disk.
//! - `hub`: watchers.
//! - this file: opening, reading, timers, and the `Store` contract.
//!
//! Invariants: what was acknowledged is durable; a revision is shown to nobody before it is durable; values are on disk
//! only (a watcher that keeps up gets the very bytes that were written); no read waits for the writer's disk.
//!
//! Absent on purpose: authentication of etcd's kind, several writers per directory (the directory is locked).

use std::any::Any;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream;
use ring::rand::SecureRandom;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::{
    Error, Event, Expect, Got, KeyValue, ListOptions, Listed, Revision, Store, WatchMessage,
    WatchStream, Written,
};

pub mod disk;
pub mod hub;
pub mod index;
pub mod log;
pub mod record;
pub mod rewrite;
pub mod writer;

use disk::Disk;
use hub::{Hub, RawEvent, RawValue, Stored, Taken, Watcher};
use index::{Index, KeyRange, Place, Version};
use log::Segment;
use record::Record;
use writer::{Command, Outcome, Queue, Transaction, Writer};

/// The largest key and value together, in bytes.
pub const MAX_REQUEST: usize = 8 << 20;
/// The shortest lease, in seconds.
pub const MIN_LEASE: i64 = 1;
/// Bytes of requests that may wait for the writer; more wait outside.
const WAITING_KIB: usize = 64 << 10;
/// Values read between two points where other tasks may run.
const READS_AT_ONCE: usize = 128;
/// Changes looked at in one step of a watch that reads history.
const HISTORY_SCAN: usize = 50_000;

/// How the engine behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long history is kept; zero: until `compact` is called. Default 5 minutes, as upstream's
    /// `--etcd-compaction-interval`.
    pub retention: Duration,
    /// The most changes remembered, however young: this bounds memory under load. Default 200,000.
    pub history_changes: usize,
    /// The most bytes of superseded values remembered, however young: this bounds the disk. Default 512 MiB.
    pub history_bytes: u64,
    /// The size at which a log file is followed by the next. Default 64 MiB.
    pub file_bytes: u64,
    /// Unneeded bytes on disk that are left alone (beyond twice the live data). Default 64 MiB.
    pub rewrite_slack: u64,
    /// Bytes that may wait for one watcher in memory. Default 8 MiB.
    pub watcher_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            retention: Duration::from_secs(300),
            history_changes: 200_000,
            history_bytes: 512 << 20,
            file_bytes: 64 << 20,
            rewrite_slack: 64 << 20,
            watcher_bytes: 8 << 20,
        }
    }
}

/// What the threads and tasks of one store share.
pub struct Shared {
    options: Options,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    index: RwLock<Index>,
    files: RwLock<HashMap<u32, Arc<Segment>>>,
    hub: Hub,
    queue: Queue,
    size: AtomicU64,
    leases: Notify,
    change: Notify,
    closing: AtomicBool,
}

impl Shared {
    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn files(&self) -> RwLockReadGuard<'_, HashMap<u32, Arc<Segment>>> {
        self.files.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn add_file(&self, segment: Arc<Segment>) {
        self.files
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(segment.id, segment);
    }

    fn drop_files(&self, ids: &[u32]) {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        files.retain(|id, _| !ids.contains(id));
        drop(files);
        for id in ids {
            for path in [
                log::log_path(&self.dir, *id),
                log::base_path(&self.dir, *id),
            ] {
                match self.disk.remove(&path) {
                    Ok(()) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => {
                        tracing::warn!(%error, file = id, "cannot remove an old file of the store")
                    }
                }
            }
        }
    }

    fn set_size(&self, size: u64) {
        self.size.store(size, Ordering::Relaxed);
    }

    fn leases_changed(&self) {
        self.leases.notify_one();
    }

    fn changed(&self) {
        self.change.notify_one();
    }

    fn stored(files: &HashMap<u32, Arc<Segment>>, version: Version) -> Result<Stored, Error> {
        match files.get(&version.place.file) {
            Some(segment) => Ok(Stored {
                version,
                segment: segment.clone(),
            }),
            None => Err(Error::Corrupt(
                "a version points to a file that is gone".to_owned(),
            )),
        }
    }
}

impl Stored {
    fn pair(&self, key: Bytes, value: Bytes) -> KeyValue {
        KeyValue {
            key,
            value,
            mod_revision: self.version.revision,
            create_revision: self.version.create,
            version: i64::from(self.version.version),
            lease: self.version.lease,
        }
    }

    /// Reads the value.
    pub async fn load(&self, key: Bytes) -> Result<KeyValue, Error> {
        let value = load(&self.segment, self.version.place).await?;
        Ok(self.pair(key, value))
    }
}

async fn load(segment: &Arc<Segment>, place: Place) -> Result<Bytes, Error> {
    if let Some(value) = segment.read_cached(&place)? {
        return Ok(value);
    }
    let segment = segment.clone();
    blocking(move || segment.read(&place)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(closed()),
    }
}

async fn load_all(found: Vec<(Bytes, Stored)>) -> Result<Vec<KeyValue>, Error> {
    let mut items = Vec::with_capacity(found.len());
    for (position, (key, stored)) in found.into_iter().enumerate() {
        items.push(stored.load(key).await?);
        if position % READS_AT_ONCE == READS_AT_ONCE - 1 {
            tokio::task::yield_now().await;
        }
    }
    Ok(items)
}

async fn load_option(key: &Bytes, stored: Option<Stored>) -> Result<Option<KeyValue>, Error> {
    match stored {
        Some(stored) => stored.load(key.clone()).await.map(Some),
        None => Ok(None),
    }
}

fn closed() -> Error {
    Error::Unavailable("the store is closed".to_owned())
}

/// A range read.
#[derive(Clone, Debug)]
pub struct RangeRead {
    /// The keys.
    pub range: KeyRange,
    /// At most this many; 0 for all.
    pub limit: usize,
    /// 0 for the newest.
    pub revision: Revision,
    /// Only count.
    pub count_only: bool,
}

/// The keys of a range read, with values still on disk.
pub struct RangeFound {
    /// The page.
    pub items: Vec<(Bytes, Stored)>,
    /// All keys of the range.
    pub count: i64,
    /// The revision of the read.
    pub revision: Revision,
}

/// The answer to a lease query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Seconds granted.
    pub granted: i64,
    /// Seconds left, rounded up.
    pub left: i64,
    /// The keys attached.
    pub keys: Vec<Bytes>,
}

struct Running {
    shared: Arc<Shared>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    writer: Option<std::thread::JoinHandle<()>>,
    servers: Mutex<Vec<AbortHandle>>,
    _lock: Box<dyn Any + Send + Sync>,
}

impl Drop for Running {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        for server in self
            .servers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
        {
            server.abort();
        }
        self.shared.closing.store(true, Ordering::Relaxed);
        self.shared.queue.close();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// An open embedded store. Clones share it; the last one to go finishes what waits and closes it.
#[derive(Clone)]
pub struct Embedded {
    shared: Arc<Shared>,
    admitted: Arc<Semaphore>,
    running: Option<Arc<Running>>,
}

struct Loading {
    index: Index,
    files: HashMap<u32, Arc<Segment>>,
    compacted: Revision,
    now: Instant,
}

impl log::Replay for Loading {
    fn segment(&mut self, segment: &Arc<Segment>) {
        self.files.insert(segment.id, segment.clone());
    }

    fn record(&mut self, record: Record, place: Place, base: bool) {
        match record {
            Record::Put {
                revision,
                create,
                version,
                lease,
                key,
                ..
            } => {
                let version = Version {
                    revision,
                    create,
                    lease,
                    place,
                    version,
                };
                if base {
                    self.index.apply_base(key, version);
                } else {
                    self.index.apply(&key, version);
                }
            }
            Record::Delete { revision, key } => self.index.apply(&key, Version::deletion(revision)),
            Record::Grant { id, ttl } => self.index.grant(id, ttl, self.now),
            Record::Revoke { id } => {
                self.index.leases.remove(&id);
            }
            Record::Compact { revision } => self.index.compact(revision),
            Record::Base { through, compacted } => {
                self.index.applied = through;
                self.compacted = compacted;
            }
        }
    }
}

impl Embedded {
    /// Opens the store in a directory, which is made if need be. Must be called within a tokio runtime, whose clock
    /// the leases follow. `Unavailable` when the directory cannot be used or another process has it; `Corrupt` when a
    /// file is damaged other than by an unfinished last commit.
    pub async fn open(dir: impl AsRef<Path>, options: Options) -> Result<Self, Error> {
        Self::open_on(Arc::new(disk::RealDisk), dir, options).await
    }

    /// As `open`, on a disk of the caller's.
    pub async fn open_on(
        disk: Arc<dyn Disk>,
        dir: impl AsRef<Path>,
        options: Options,
    ) -> Result<Self, Error> {
        let dir = dir.as_ref().to_owned();
        let now = Instant::now();
        blocking(move || Self::load(disk, dir, options, now))
            .await?
            .start()
    }

    fn load(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        options: Options,
        now: Instant,
    ) -> Result<Opened, Error> {
        disk.create_dir(&dir).map_err(log::unavailable)?;
        let lock = disk.lock(&dir.join("LOCK")).map_err(|error| {
            Error::Unavailable(format!("{}: {error}", dir.join("LOCK").display()))
        })?;
        let mut loading = Loading {
            index: Index::default(),
            files: HashMap::new(),
            compacted: 0,
            now,
        };
        let log = log::open(&disk, &dir, &mut loading)?;
        loading.index.compact(loading.compacted);
        let revision = loading.index.applied;
        let shared = Arc::new(Shared {
            hub: Hub::new(revision, options.watcher_bytes),
            options,
            disk,
            dir,
            index: RwLock::new(loading.index),
            files: RwLock::new(loading.files),
            queue: Queue::default(),
            size: AtomicU64::new(log.size()),
            leases: Notify::new(),
            change: Notify::new(),
            closing: AtomicBool::new(false),
        });
        Ok(Opened { shared, log, lock })
    }

    async fn ask<T>(
        &self,
        size: usize,
        command: impl FnOnce(writer::Reply<T>) -> Command,
    ) -> Result<T, Error> {
        if size > MAX_REQUEST {
            return Err(Error::TooLarge { size });
        }
        let permits = u32::try_from(size / 1024 + 1).unwrap_or(u32::MAX);
        let _permit = self
            .admitted
            .acquire_many(permits)
            .await
            .map_err(|_| closed())?;
        let (reply, answer) = oneshot::channel();
        self.shared
            .queue
            .push(command(reply))
            .map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// The newest durable revision.
    pub fn current(&self) -> Revision {
        self.shared.hub.visible()
    }

    /// The oldest revision that can be read.
    pub fn compacted(&self) -> Revision {
        self.shared.index().compacted
    }

    /// Finds the keys of a range.
    pub fn find(&self, read: &RangeRead) -> Result<RangeFound, Error> {
        let files = self.shared.files();
        let index = self.shared.index();
        let current = self.current();
        let revision = check_revision(read.revision, current, index.compacted)?;
        let mut found = RangeFound {
            items: Vec::new(),
            count: 0,
            revision: current,
        };
        for (key, version) in index.range(&read.range, revision) {
            found.count += 1;
            if !read.count_only && (read.limit == 0 || found.items.len() < read.limit) {
                found
                    .items
                    .push((key.clone(), Shared::stored(&files, *version)?));
            }
        }
        Ok(found)
    }

    /// Waits for room for a request of this size; the room is free again when the result is dropped.
    pub async fn admit(&self, size: usize) -> Result<OwnedSemaphorePermit, Error> {
        if size > MAX_REQUEST {
            return Err(Error::TooLarge { size });
        }
        let permits = u32::try_from(size / 1024 + 1).unwrap_or(u32::MAX);
        self.admitted
            .clone()
            .acquire_many_owned(permits)
            .await
            .map_err(|_| closed())
    }

    /// Gives a transaction to the writer.
    pub fn transact(&self, transaction: Box<dyn Transaction>) -> Result<(), Error> {
        self.shared
            .queue
            .push(Command::Txn(transaction))
            .map_err(|_| closed())
    }

    /// Bytes on disk of the newest values.
    pub fn live_bytes(&self) -> u64 {
        self.shared.index().newest_bytes()
    }

    /// A handle that does not keep the store open.
    pub(crate) fn unguarded(&self) -> Self {
        Self {
            running: None,
            ..self.clone()
        }
    }

    /// Ends a task when the store closes.
    pub(crate) fn keep(&self, task: AbortHandle) {
        match &self.running {
            Some(running) => running
                .servers
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(task),
            None => task.abort(),
        }
    }

    /// Starts a lease with an id of the caller's choice; `false` if the id is taken.
    pub async fn grant_as(&self, id: i64, ttl: i64) -> Result<bool, Error> {
        if self.shared.index().leases.contains_key(&id) {
            return Ok(false);
        }
        self.ask(0, |reply| Command::Grant {
            id,
            ttl: ttl.max(MIN_LEASE),
            reply,
        })
        .await
        .map(|()| true)
    }

    /// Ends a lease and removes its keys; the store's revision then.
    pub async fn revoke(&self, id: i64) -> Result<Revision, Error> {
        self.ask(0, |reply| Command::Revoke {
            id,
            expired: false,
            reply,
        })
        .await
    }

    /// Gives a lease its full time again; its seconds.
    pub fn keep_alive(&self, id: i64) -> Result<i64, Error> {
        let mut index = self.shared.index_mut();
        let Some(lease) = index.leases.get(&id) else {
            return Err(Error::LeaseNotFound(id));
        };
        let ttl = lease.ttl;
        index.grant(id, ttl, Instant::now());
        Ok(ttl)
    }

    /// What is known of a lease.
    pub fn lease(&self, id: i64) -> Option<LeaseInfo> {
        let index = self.shared.index();
        let lease = index.leases.get(&id)?;
        let left = lease.deadline.saturating_duration_since(Instant::now());
        let mut keys: Vec<Bytes> = lease.keys.iter().cloned().collect();
        keys.sort_unstable();
        let left = i64::try_from(left.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        Some(LeaseInfo {
            granted: lease.ttl,
            left,
            keys,
        })
    }

    /// The ids of all leases, in order.
    pub fn leases(&self) -> Vec<i64> {
        let mut ids: Vec<i64> = self.shared.index().leases.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// An id for a new lease.
    pub fn new_lease_id(&self) -> Result<i64, Error> {
        let mut bytes = [0; 8];
        loop {
            ring::rand::SystemRandom::new()
                .fill(&mut bytes)
                .map_err(|_| Error::Unavailable("no randomness".to_owned()))?;
            let id = i64::from_le_bytes(bytes) & i64::MAX;
            if id != 0 && !self.shared.index().leases.contains_key(&id) {
                return Ok(id);
            }
        }
    }

    /// Watches a range; `from` as in [`Store::watch`].
    pub fn watch_range(&self, range: KeyRange, from: Revision) -> Watching {
        let (id, watcher) = self.shared.hub.watch(range, from);
        Watching {
            shared: self.shared.clone(),
            id,
            watcher,
        }
    }
}

fn check_revision(
    asked: Revision,
    current: Revision,
    compacted: Revision,
) -> Result<Revision, Error> {
    if asked <= 0 {
        Ok(current)
    } else if asked > current {
        Err(Error::Future { current })
    } else if asked < compacted {
        Err(Error::Compacted { oldest: compacted })
    } else {
        Ok(asked)
    }
}

struct Opened {
    shared: Arc<Shared>,
    log: log::Log,
    lock: Box<dyn Any + Send + Sync>,
}

impl Opened {
    fn start(self) -> Result<Embedded, Error> {
        let writer = Writer::new(self.shared.clone(), self.log);
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(log::unavailable)?;
        let tasks = vec![
            tokio::spawn(expire_leases(self.shared.clone())),
            tokio::spawn(keep_history(self.shared.clone())),
        ];
        let running = Running {
            shared: self.shared.clone(),
            tasks,
            writer: Some(writer),
            servers: Mutex::default(),
            _lock: self.lock,
        };
        Ok(Embedded {
            shared: self.shared,
            admitted: Arc::new(Semaphore::new(WAITING_KIB)),
            running: Some(Arc::new(running)),
        })
    }
}

/// Ends leases whose time is over. Sleeps until the next deadline; without leases it never wakes.
async fn expire_leases(shared: Arc<Shared>) {
    loop {
        let next = shared
            .index()
            .leases
            .iter()
            .map(|(id, lease)| (lease.deadline, *id))
            .min();
        let Some((deadline, id)) = next else {
            shared.leases.notified().await;
            continue;
        };
        tokio::select! {
            () = tokio::time::sleep_until(deadline) => {}
            () = shared.leases.notified() => continue,
        }
        if shared
            .index()
            .leases
            .get(&id)
            .is_some_and(|lease| lease.deadline > Instant::now())
        {
            continue;
        }
        let (reply, answer) = oneshot::channel();
        if shared
            .queue
            .push(Command::Revoke {
                id,
                expired: true,
                reply,
            })
            .is_err()
        {
            return;
        }
        if let Ok(Err(Error::Unavailable(_))) = answer.await {
            // The disk fails: do not spin.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Compacts what is older than the retention, in fifths of it. Sleeps while nothing is written.
async fn keep_history(shared: Arc<Shared>) {
    const STEPS: usize = 5;
    let retention = shared.options.retention;
    if retention.is_zero() {
        return;
    }
    let step = retention / 5;
    let mut marks = std::collections::VecDeque::from([shared.hub.visible()]);
    let mut idle = 0;
    loop {
        if idle > STEPS {
            shared.change.notified().await;
        }
        tokio::time::sleep(step).await;
        let visible = shared.hub.visible();
        idle = if marks.back() == Some(&visible) {
            idle + 1
        } else {
            0
        };
        marks.push_back(visible);
        if marks.len() <= STEPS {
            continue;
        }
        let Some(revision) = marks.pop_front() else {
            continue;
        };
        if revision <= shared.index().compacted.max(1) {
            continue;
        }
        let (reply, answer) = oneshot::channel();
        if shared
            .queue
            .push(Command::Compact { revision, reply })
            .is_err()
        {
            return;
        }
        if let Ok(Err(error)) = answer.await {
            tracing::debug!(%error, revision, "automatic compaction");
        }
    }
}

/// A running watch of the embedded engine.
pub struct Watching {
    shared: Arc<Shared>,
    id: u64,
    watcher: Arc<Watcher>,
}

/// Asks one watch for progress.
pub struct ProgressHandle {
    shared: Arc<Shared>,
    watcher: Arc<Watcher>,
}

impl ProgressHandle {
    /// Asks for a `Progress` behind everything that is on its way.
    pub fn request(&self) {
        self.shared.hub.request_progress_of(&self.watcher);
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.shared.hub.unwatch(self.id);
    }
}

impl Watching {
    /// The next message; `None` after the end of the store. After an error there is nothing more.
    pub async fn next(&mut self) -> Option<Result<WatchMessage, Error>> {
        loop {
            match self.watcher.take() {
                Taken::Events(events) => return Some(self.finish(events).await),
                Taken::Progress(revision) => return Some(Ok(WatchMessage::Progress(revision))),
                Taken::Closed => return Some(Err(closed())),
                Taken::Empty => self.watcher.woken().await,
                Taken::CatchUp(from, overflowed) => match self.history(from, overflowed) {
                    Ok((events, next)) if events.is_empty() => {
                        self.watcher.delivered(next - 1);
                        if !self.shared.hub.go_live(&self.watcher, next - 1) {
                            tokio::task::yield_now().await;
                        }
                    }
                    Ok((events, next)) => {
                        let message = self.finish(events).await;
                        self.watcher.delivered(next - 1);
                        return Some(message);
                    }
                    Err(error) => return Some(Err(error)),
                },
            }
        }
    }

    /// What asks this watch for progress.
    pub fn progress_handle(&self) -> ProgressHandle {
        ProgressHandle {
            shared: self.shared.clone(),
            watcher: self.watcher.clone(),
        }
    }

    /// The messages as a stream, which ends after an error.
    pub fn into_stream(self) -> WatchStream {
        Box::pin(stream::unfold(Some(self), |watching| async move {
            let mut watching = watching?;
            match watching.next().await? {
                Ok(message) => Some((Ok(message), Some(watching))),
                Err(error) => Some((Err(error), None)),
            }
        }))
    }

    fn history(
        &self,
        from: Revision,
        overflowed: bool,
    ) -> Result<(Vec<RawEvent>, Revision), Error> {
        let files = self.shared.files();
        let index = self.shared.index();
        let through = self.shared.hub.visible();
        if from < index.compacted {
            return Err(if overflowed {
                Error::SlowWatcher
            } else {
                Error::Compacted {
                    oldest: index.compacted,
                }
            });
        }
        let (changes, next) = index.changes(
            self.watcher.range(),
            from,
            through,
            hub::MESSAGE_EVENTS,
            HISTORY_SCAN,
        );
        let mut events = Vec::with_capacity(changes.len());
        for change in changes {
            let value = if change.version.is_deletion() {
                RawValue::Deleted
            } else {
                RawValue::OnDisk(Shared::stored(&files, change.version)?.segment)
            };
            let previous = change
                .previous
                .map(|version| Shared::stored(&files, version))
                .transpose()?;
            events.push(RawEvent {
                key: change.key,
                version: change.version,
                value,
                previous,
            });
        }
        Ok((events, next))
    }

    async fn finish(&self, raw: Vec<RawEvent>) -> Result<WatchMessage, Error> {
        let mut events = Vec::with_capacity(raw.len());
        for event in raw {
            let previous = load_option(&event.key, event.previous).await?;
            let deleted = event.version.is_deletion();
            let value = match event.value {
                RawValue::Deleted => Bytes::new(),
                RawValue::Held(value) => value,
                RawValue::OnDisk(segment) => load(&segment, event.version.place).await?,
            };
            let kv = KeyValue {
                key: event.key,
                value,
                mod_revision: event.version.revision,
                create_revision: event.version.create,
                version: i64::from(event.version.version),
                lease: event.version.lease,
            };
            events.push(Event {
                kv,
                previous,
                deleted,
            });
        }
        Ok(WatchMessage::Events(events))
    }
}

async fn written(key: Bytes, outcome: Outcome) -> Result<Written, Error> {
    Ok(match outcome {
        Outcome::Done { revision, previous } => Written::Done {
            revision,
            previous: load_option(&key, previous).await?,
        },
        Outcome::Mismatch { current, revision } => Written::Mismatch {
            current: load_option(&key, current).await?,
            revision,
        },
    })
}

#[async_trait]
impl Store for Embedded {
    async fn get(&self, key: &[u8], revision: Revision) -> Result<Got, Error> {
        let (found, current) = {
            let files = self.shared.files();
            let index = self.shared.index();
            let current = self.current();
            let revision = check_revision(revision, current, index.compacted)?;
            let found = index
                .get(key, revision)
                .map(|version| Shared::stored(&files, version))
                .transpose()?;
            (found, current)
        };
        let kv = load_option(&Bytes::copy_from_slice(key), found).await?;
        Ok(Got {
            kv,
            revision: current,
        })
    }

    async fn list(&self, prefix: &[u8], options: ListOptions) -> Result<Listed, Error> {
        let mut range = KeyRange::prefix(prefix);
        if options.start > range.start {
            range.start = options.start;
        }
        let read = RangeRead {
            range,
            limit: options.limit,
            revision: options.revision,
            count_only: options.count_only,
        };
        let found = self.find(&read)?;
        let returned = i64::try_from(found.items.len()).unwrap_or(i64::MAX);
        let more = !options.count_only && found.count > returned;
        let revision = if options.revision > 0 {
            options.revision
        } else {
            found.revision
        };
        Ok(Listed {
            items: load_all(found.items).await?,
            count: found.count,
            more,
            revision,
        })
    }

    async fn put(
        &self,
        key: &[u8],
        value: Bytes,
        expect: Expect,
        lease: i64,
    ) -> Result<Written, Error> {
        let key = Bytes::copy_from_slice(key);
        let size = key.len() + value.len();
        let sent = key.clone();
        let outcome = self
            .ask(size, |reply| Command::Put {
                key: sent,
                value,
                expect,
                lease,
                reply,
            })
            .await?;
        written(key, outcome).await
    }

    async fn delete(&self, key: &[u8], expect: Expect) -> Result<Written, Error> {
        let key = Bytes::copy_from_slice(key);
        let sent = key.clone();
        let outcome = self
            .ask(key.len(), |reply| Command::Delete {
                key: sent,
                expect,
                reply,
            })
            .await?;
        written(key, outcome).await
    }

    async fn watch(&self, prefix: &[u8], from: Revision) -> Result<WatchStream, Error> {
        let oldest = self.compacted();
        if from > 0 && from < oldest {
            return Err(Error::Compacted { oldest });
        }
        Ok(self
            .watch_range(KeyRange::prefix(prefix), from.max(0))
            .into_stream())
    }

    async fn request_progress(&self) -> Result<(), Error> {
        self.shared.hub.request_progress()
    }

    async fn revision(&self) -> Result<Revision, Error> {
        Ok(self.current())
    }

    async fn grant(&self, ttl_seconds: i64) -> Result<i64, Error> {
        let id = self.new_lease_id()?;
        self.grant_as(id, ttl_seconds).await?;
        Ok(id)
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.ask(0, |reply| Command::Compact { revision, reply })
            .await
    }

    async fn ready(&self) -> Result<(), Error> {
        // The writer answers when the disk does: compacting to nothing is refused without a write.
        match self
            .ask(0, |reply| Command::Compact { revision: 0, reply })
            .await
        {
            Ok(()) | Err(Error::Compacted { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn size_on_disk(&self) -> Result<u64, Error> {
        Ok(self.shared.size.load(Ordering::Relaxed))
    }
}
