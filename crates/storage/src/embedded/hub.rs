//! Who watches what. The writer hands every durable commit to the hub; watchers take from there.
//!
//! A watcher that keeps up has a bounded queue of changes. One that starts in the past, or whose queue overflows, reads
//! from the index's history instead until it has caught up: so it costs no memory, and ends with an error only when the
//! history it needs has been compacted.
//!
//! Invariant: `visible`, `published` and the watchers' queues move together under one lock, so a `Progress` never
//! overtakes a change.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

use super::index::{KeyRange, MESSAGE_BYTES, Version};
use super::log::Segment;
use crate::{Error, Revision};

/// A version together with the file its value lies in.
#[derive(Clone)]
pub struct Stored {
    /// The version.
    pub version: Version,
    /// The file, kept open by this.
    pub segment: Arc<Segment>,
}

/// A change on its way to watchers.
#[derive(Clone)]
pub struct RawEvent {
    /// The key.
    pub key: Bytes,
    /// What it became.
    pub version: Version,
    /// Its value.
    pub value: RawValue,
    /// What it was.
    pub previous: Option<Stored>,
}

/// The value of a change.
#[derive(Clone)]
pub enum RawValue {
    /// There is none: a deletion.
    Deleted,
    /// In memory.
    Held(Bytes),
    /// On disk.
    OnDisk(Arc<Segment>),
}

impl RawEvent {
    fn weight(&self) -> usize {
        let value = match &self.value {
            RawValue::Held(value) => value.len(),
            RawValue::Deleted | RawValue::OnDisk(_) => 0,
        };
        value + self.key.len() + 128
    }
}

/// What a watcher finds in its queue.
pub enum Taken {
    /// Changes, whole revisions.
    Events(Vec<RawEvent>),
    /// Everything up to this revision has been taken.
    Progress(Revision),
    /// Read the history from this revision on. `true` after an overflow.
    CatchUp(Revision, bool),
    /// The store is closed.
    Closed,
    /// Nothing yet.
    Empty,
}

struct Queue {
    live: bool,
    overflowed: bool,
    events: VecDeque<RawEvent>,
    bytes: usize,
    /// The last revision taken or known not to match.
    delivered: Revision,
    progress: Option<Revision>,
    quiet_since: Instant,
    closed: bool,
}

/// One watch.
pub struct Watcher {
    range: KeyRange,
    queue: Mutex<Queue>,
    wake: Notify,
    limit: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A watcher that hears of no change learns of newer revisions at most this often.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// Changes in one message, unless one revision has more.
pub const MESSAGE_EVENTS: usize = 1000;

impl Watcher {
    /// The keys watched.
    pub fn range(&self) -> &KeyRange {
        &self.range
    }

    /// What to do next, without waiting.
    pub fn take(&self) -> Taken {
        let mut queue = lock(&self.queue);
        if queue.closed {
            return Taken::Closed;
        }
        if !queue.live {
            return Taken::CatchUp(queue.delivered + 1, queue.overflowed);
        }
        if !queue.events.is_empty() {
            let mut last = 0;
            let mut taken = 0;
            let mut bytes = 0;
            for event in &queue.events {
                if event.version.revision != last
                    && (taken >= MESSAGE_EVENTS || bytes >= MESSAGE_BYTES)
                {
                    break;
                }
                last = event.version.revision;
                taken += 1;
                bytes += event.weight();
            }
            let events: Vec<RawEvent> = queue.events.drain(..taken).collect();
            queue.bytes = queue
                .bytes
                .saturating_sub(events.iter().map(RawEvent::weight).sum());
            queue.delivered = queue.delivered.max(last);
            if queue.events.is_empty() && queue.events.capacity() > 256 {
                queue.events.shrink_to_fit();
            }
            return Taken::Events(events);
        }
        match queue.progress.take() {
            Some(revision) => {
                queue.delivered = queue.delivered.max(revision);
                Taken::Progress(queue.delivered)
            }
            None => Taken::Empty,
        }
    }

    /// Notes that the history up to `revision` was read and is on its way.
    pub fn delivered(&self, revision: Revision) {
        let mut queue = lock(&self.queue);
        queue.delivered = queue.delivered.max(revision);
    }

    /// Waits until `take` may find something.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }
}

struct Watchers {
    all: HashMap<u64, Arc<Watcher>>,
    published: Revision,
    closed: bool,
}

/// See the module.
pub struct Hub {
    watchers: Mutex<Watchers>,
    visible: AtomicI64,
    next: AtomicU64,
    queue_bytes: usize,
}

impl Hub {
    /// A hub of a store at `revision`, whose watchers may hold `queue_bytes` each.
    pub fn new(revision: Revision, queue_bytes: usize) -> Self {
        Self {
            watchers: Mutex::new(Watchers {
                all: HashMap::new(),
                published: revision,
                closed: false,
            }),
            visible: AtomicI64::new(revision),
            next: AtomicU64::new(1),
            queue_bytes,
        }
    }

    /// The newest durable revision.
    pub fn visible(&self) -> Revision {
        self.visible.load(Ordering::Acquire)
    }

    /// Shows a commit to readers and watchers.
    pub fn publish(&self, events: &[RawEvent], revision: Revision) {
        let mut watchers = lock(&self.watchers);
        self.visible.store(revision, Ordering::Release);
        watchers.published = revision;
        if watchers.all.is_empty() {
            return;
        }
        let now = Instant::now();
        for watcher in watchers.all.values() {
            let mut queue = lock(&watcher.queue);
            if !queue.live {
                continue;
            }
            let mut any = false;
            for event in events {
                if event.version.revision > queue.delivered && watcher.range.contains(&event.key) {
                    queue.bytes += event.weight();
                    queue.events.push_back(event.clone());
                    any = true;
                }
            }
            if any {
                queue.quiet_since = now;
                if queue.bytes > watcher.limit {
                    queue.events = VecDeque::new();
                    queue.bytes = 0;
                    queue.live = false;
                    queue.overflowed = true;
                }
            } else if queue.events.is_empty() {
                if now.duration_since(queue.quiet_since) < PROGRESS_INTERVAL {
                    continue;
                }
                queue.quiet_since = now;
                if revision <= queue.delivered {
                    continue;
                }
                queue.progress = Some(revision);
            }
            drop(queue);
            watcher.wake.notify_one();
        }
    }

    /// Adds a watcher that has everything below `from`, or, with `from` 0, everything until now.
    pub fn watch(&self, range: KeyRange, from: Revision) -> (u64, Arc<Watcher>) {
        let mut watchers = lock(&self.watchers);
        let live = from == 0 || from > watchers.published;
        let delivered = if from == 0 {
            watchers.published
        } else {
            from - 1
        };
        let watcher = Arc::new(Watcher {
            range,
            queue: Mutex::new(Queue {
                live,
                overflowed: false,
                events: VecDeque::new(),
                bytes: 0,
                delivered,
                progress: None,
                quiet_since: Instant::now(),
                closed: watchers.closed,
            }),
            wake: Notify::new(),
            limit: self.queue_bytes,
        });
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        watchers.all.insert(id, watcher.clone());
        (id, watcher)
    }

    /// Ends a watch.
    pub fn unwatch(&self, id: u64) {
        lock(&self.watchers).all.remove(&id);
    }

    /// Puts a watcher that has delivered everything up to `revision` on its queue; `false` if there is more by now.
    pub fn go_live(&self, watcher: &Watcher, revision: Revision) -> bool {
        let watchers = lock(&self.watchers);
        let mut queue = lock(&watcher.queue);
        if watchers.published > revision {
            return false;
        }
        queue.live = true;
        queue.overflowed = false;
        queue.delivered = queue.delivered.max(revision);
        true
    }

    /// Sends `Progress` to every watcher, behind what is on its way.
    pub fn request_progress(&self) -> Result<(), Error> {
        let watchers = lock(&self.watchers);
        if watchers.closed {
            return Err(Error::Unavailable("the store is closed".to_owned()));
        }
        let published = watchers.published;
        for watcher in watchers.all.values() {
            request(watcher, published);
        }
        Ok(())
    }

    /// As `request_progress`, for one watcher.
    pub fn request_progress_of(&self, watcher: &Watcher) {
        let watchers = lock(&self.watchers);
        request(watcher, watchers.published);
    }

    /// Ends every watch.
    pub fn close(&self) {
        let mut watchers = lock(&self.watchers);
        watchers.closed = true;
        for watcher in watchers.all.values() {
            lock(&watcher.queue).closed = true;
            watcher.wake.notify_one();
        }
    }
}

fn request(watcher: &Watcher, published: Revision) {
    let mut queue = lock(&watcher.queue);
    queue.progress = Some(published);
    drop(queue);
    watcher.wake.notify_one();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that stopped between two messages would else go on behind changes it never saw.
    #[test]
    fn a_message_ends_with_a_whole_revision() {
        let hub = Hub::new(0, usize::MAX);
        let (_, watcher) = hub.watch(KeyRange::prefix(b"/"), 0);
        let event = |revision: Revision| RawEvent {
            key: Bytes::from_static(b"/k"),
            version: Version::deletion(revision),
            value: RawValue::Deleted,
            previous: None,
        };
        // The bound falls into the second revision, and onto the end of the fourth.
        let sizes = [600, 600, 700, 300, 5];
        for (revision, size) in (1..).zip(sizes) {
            let events: Vec<_> = (0..size).map(|_| event(revision)).collect();
            hub.publish(&events, revision);
        }
        let mut messages = Vec::new();
        while let Taken::Events(events) = watcher.take() {
            let of = |e: Option<&RawEvent>| e.map_or(0, |e| e.version.revision);
            messages.push((of(events.first()), of(events.last()), events.len()));
        }
        assert_eq!(messages, [(1, 2, 1200), (3, 4, 1000), (5, 5, 5)]);
    }

    #[test]
    fn watchers_of_a_closed_hub_end() {
        let hub = Hub::new(0, usize::MAX);
        let (_, watcher) = hub.watch(KeyRange::prefix(b"/"), 0);
        assert!(!matches!(watcher.take(), Taken::Closed));
        hub.close();
        assert!(matches!(watcher.take(), Taken::Closed));
    }

    #[test]
    fn an_event_weighs_its_key_and_the_value_it_holds() {
        let weight = |value: RawValue| {
            let event = RawEvent {
                key: Bytes::from_static(b"/k"),
                version: Version::deletion(1),
                value,
                previous: None,
            };
            event.weight()
        };
        assert_eq!(weight(RawValue::Deleted), 130);
        let value = Bytes::from_static(&[0; 1000]);
        assert_eq!(weight(RawValue::Held(value)), 1130);
    }
}
