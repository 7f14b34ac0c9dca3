//! Work queue: keys to be looked at, each at most once at a time.
//!
//! Invariants: a key that is waiting is not added again; a key that is being worked on is handed out again only after its
//! worker is done; keys come out in the order they became due; failures of a key delay that key only, and all retries
//! together are limited by a token bucket; a panic of the work on a key is a failure of that key. An empty queue sets no
//! timer.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::limiter::TokenBucket;

/// The longest delay: those that come from objects may be any number of seconds, and the clock has an end.
const MAX_DELAY: Duration = Duration::from_secs(366 * 24 * 3600);

/// Bounds that keys meet.
pub trait Key: Clone + Eq + Hash + Send + Sync + 'static {}
impl<T: Clone + Eq + Hash + Send + Sync + 'static> Key for T {}

/// What is counted, under upstream's names (`workqueue_adds_total`, …).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// `workqueue_depth`
    pub depth: usize,
    /// `workqueue_adds_total`
    pub adds: u64,
    /// `workqueue_retries_total`
    pub retries: u64,
    /// Sum of `workqueue_queue_duration_seconds`.
    pub queue_seconds: f64,
    /// Sum of `workqueue_work_duration_seconds`.
    pub work_seconds: f64,
    /// Number of keys worked on.
    pub worked: u64,
    /// Times that the work on a key panicked.
    pub panics: u64,
    /// `workqueue_unfinished_work_seconds`
    pub unfinished_seconds: f64,
    /// `workqueue_longest_running_processor_seconds`
    pub longest_seconds: f64,
}

struct Delayed<K>(Instant, u64, K);

impl<K> PartialEq for Delayed<K> {
    fn eq(&self, o: &Self) -> bool {
        (self.0, self.1) == (o.0, o.1)
    }
}
impl<K> Eq for Delayed<K> {}
impl<K> PartialOrd for Delayed<K> {
    fn partial_cmp(&self, o: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(o))
    }
}
impl<K> Ord for Delayed<K> {
    fn cmp(&self, o: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(o.0, o.1))
    }
}

struct State<K> {
    queue: VecDeque<K>,
    /// Waiting, or to be queued again when its worker is done; with the time it was added.
    dirty: HashMap<K, Instant>,
    processing: HashMap<K, Instant>,
    delayed: BinaryHeap<Reverse<Delayed<K>>>,
    /// The earliest due time of a delayed key; later entries of the heap are void.
    due: HashMap<K, Instant>,
    sequence: u64,
    failures: HashMap<K, u32>,
    shut_down: bool,
    stats: Stats,
}

struct Shared<K> {
    name: String,
    state: Mutex<State<K>>,
    wake: Notify,
    bucket: TokenBucket,
    base: Duration,
    max: Duration,
}

/// A shared work queue.
pub struct WorkQueue<K>(Arc<Shared<K>>);

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        WorkQueue(self.0.clone())
    }
}

impl<K> fmt::Debug for WorkQueue<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkQueue")
            .field("name", &self.0.name)
            .finish_non_exhaustive()
    }
}

impl<K: Key> WorkQueue<K> {
    /// With upstream's default limits: 5 ms doubled per failure of a key up to 1000 s, and 10 retries a second over all
    /// with bursts of 100.
    pub fn new(name: impl Into<String>) -> WorkQueue<K> {
        WorkQueue::with_limits(name, Duration::from_millis(5), Duration::from_secs(1000))
    }

    /// With other bounds of the delay per key.
    pub fn with_limits(name: impl Into<String>, base: Duration, max: Duration) -> WorkQueue<K> {
        WorkQueue(Arc::new(Shared {
            name: name.into(),
            state: Mutex::new(State {
                queue: VecDeque::new(),
                dirty: HashMap::new(),
                processing: HashMap::new(),
                delayed: BinaryHeap::new(),
                due: HashMap::new(),
                sequence: 0,
                failures: HashMap::new(),
                shut_down: false,
                stats: Stats::default(),
            }),
            wake: Notify::new(),
            bucket: TokenBucket::new(10.0, 100),
            base,
            max,
        }))
    }

    /// The queue's name, a label of its metrics.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a key, now.
    pub fn add(&self, key: K) {
        let mut s = self.lock();
        s.add(key, Instant::now());
        drop(s);
        self.0.wake.notify_one();
    }

    /// Adds a key when `delay` has passed. An earlier time that the key already waits for stays.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let due = Instant::now() + delay.min(MAX_DELAY);
        let mut s = self.lock();
        if s.shut_down || s.due.get(&key).is_some_and(|d| *d <= due) {
            return;
        }
        s.due.insert(key.clone(), due);
        s.sequence += 1;
        let sequence = s.sequence;
        s.delayed.push(Reverse(Delayed(due, sequence, key)));
        s.sweep();
        drop(s);
        // A waiting worker may have to wake earlier than it planned.
        self.0.wake.notify_one();
    }

    /// Adds a key after the delay its failures call for.
    pub fn add_rate_limited(&self, key: K) {
        let delay = {
            let mut s = self.lock();
            s.stats.retries += 1;
            let failures = s.failures.entry(key.clone()).or_insert(0);
            let factor = 2f64.powi(i32::try_from(*failures).unwrap_or(i32::MAX).min(63));
            *failures = failures.saturating_add(1);
            Duration::try_from_secs_f64(self.0.base.as_secs_f64() * factor)
                .unwrap_or(self.0.max)
                .min(self.0.max)
        };
        self.add_after(key, delay.max(self.0.bucket.reserve(Instant::now())));
    }

    /// How often the key has failed since it was last forgotten.
    pub fn failures(&self, key: &K) -> u32 {
        self.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// Ends the key's history of failures.
    pub fn forget(&self, key: &K) {
        self.lock().failures.remove(key);
    }

    /// The next key; `None` after [`WorkQueue::shut_down`]. [`WorkQueue::done`] must follow.
    pub async fn next(&self) -> Option<K> {
        loop {
            let notified = self.0.wake.notified();
            let due = {
                let mut s = self.lock();
                let now = Instant::now();
                s.promote(now);
                if let Some(key) = s.take(now) {
                    if !s.queue.is_empty() {
                        self.0.wake.notify_one();
                    }
                    return Some(key);
                }
                if s.shut_down {
                    self.0.wake.notify_waiters();
                    return None;
                }
                s.delayed.peek().map(|d| d.0.0)
            };
            match due {
                Some(due) => {
                    let _ = tokio::time::timeout_at(due, notified).await;
                }
                None => notified.await,
            }
        }
    }

    /// The worker is done with the key.
    pub fn done(&self, key: &K) {
        let mut s = self.lock();
        let now = Instant::now();
        if let Some(began) = s.processing.remove(key) {
            s.stats.work_seconds += now.saturating_duration_since(began).as_secs_f64();
            s.stats.worked += 1;
        }
        if s.dirty.contains_key(key) {
            s.queue.push_back(key.clone());
            drop(s);
            self.0.wake.notify_one();
        }
    }

    /// Hands out what is queued, then ends. Delayed keys are dropped.
    pub fn shut_down(&self) {
        let mut s = self.lock();
        s.shut_down = true;
        s.delayed.clear();
        s.due.clear();
        drop(s);
        self.0.wake.notify_waiters();
        self.0.wake.notify_one();
    }

    /// Number of keys waiting.
    pub fn len(&self) -> usize {
        self.lock().queue.len()
    }

    /// Whether no key waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The counters.
    pub fn stats(&self) -> Stats {
        let s = self.lock();
        let now = Instant::now();
        let running = s
            .processing
            .values()
            .map(|b| now.saturating_duration_since(*b).as_secs_f64());
        let (sum, longest) = running.fold((0.0, 0.0f64), |(sum, max), x| (sum + x, max.max(x)));
        Stats {
            depth: s.queue.len(),
            unfinished_seconds: sum,
            longest_seconds: longest,
            ..s.stats
        }
    }

    /// Works on keys with `workers` tasks at once until the queue is shut down. An error or a panic is retried, rate limited; `Ok`
    /// forgets the key's failures, and `Ok(Some(delay))` adds the key again after the delay.
    pub async fn work<F, Fut, E>(&self, workers: usize, work: F)
    where
        F: Fn(K) -> Fut + Send + Sync,
        Fut: Future<Output = Result<Option<Duration>, E>> + Send,
        E: fmt::Display,
        K: fmt::Display,
    {
        let worker = || async {
            while let Some(key) = self.next().await {
                let worked = async { work(key.clone()).await };
                match AssertUnwindSafe(worked).catch_unwind().await {
                    Err(_) => {
                        self.lock().stats.panics += 1;
                        tracing::error!(queue = %self.0.name, %key, "The work panicked; will be tried again");
                        self.add_rate_limited(key.clone());
                    }
                    Ok(Ok(again)) => {
                        self.forget(&key);
                        if let Some(delay) = again {
                            self.add_after(key.clone(), delay);
                        }
                    }
                    Ok(Err(error)) => {
                        tracing::info!(queue = %self.0.name, %key, %error, "will be tried again");
                        self.add_rate_limited(key.clone());
                    }
                }
                self.done(&key);
            }
        };
        futures::future::join_all((0..workers.max(1)).map(|_| worker())).await;
    }
}

impl<K: Key> State<K> {
    fn add(&mut self, key: K, now: Instant) {
        if self.shut_down || self.dirty.contains_key(&key) {
            return;
        }
        self.stats.adds += 1;
        self.dirty.insert(key.clone(), now);
        if !self.processing.contains_key(&key) {
            self.queue.push_back(key);
        }
    }

    /// Drops void entries before they outnumber the others: a key whose time comes ever earlier leaves one each time, until
    /// the time that was meant first.
    fn sweep(&mut self) {
        if self.delayed.len() > 2 * self.due.len() + 64 {
            let due = &self.due;
            self.delayed
                .retain(|Reverse(Delayed(at, _, key))| due.get(key) == Some(at));
        }
    }

    fn promote(&mut self, now: Instant) {
        while self.delayed.peek().is_some_and(|d| d.0.0 <= now) {
            let Some(Reverse(Delayed(due, _, key))) = self.delayed.pop() else {
                return;
            };
            // An entry that an earlier one replaced is void.
            if self.due.get(&key) == Some(&due) {
                self.due.remove(&key);
                self.add(key, now);
            }
        }
    }

    fn take(&mut self, now: Instant) -> Option<K> {
        let key = self.queue.pop_front()?;
        if let Some(added) = self.dirty.remove(&key) {
            self.stats.queue_seconds += now.saturating_duration_since(added).as_secs_f64();
        }
        self.processing.insert(key.clone(), now);
        Some(key)
    }
}

/// A set of keys that only ever grows until drained: what handlers tell a single worker.
#[derive(Debug)]
pub struct Pending<K>(Mutex<HashSet<K>>, Notify);

impl<K: Key> Default for Pending<K> {
    fn default() -> Self {
        Pending(Mutex::default(), Notify::new())
    }
}

impl<K: Key> Pending<K> {
    /// Adds a key.
    pub fn add(&self, key: K) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key);
        self.1.notify_one();
    }

    /// Waits for keys and takes them all.
    pub async fn drain(&self) -> HashSet<K> {
        loop {
            let notified = self.1.notified();
            let keys = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
            if !keys.is_empty() {
                return keys;
            }
            notified.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_worked_on_once_at_a_time() {
        let q = WorkQueue::new("t");
        q.add("a");
        q.add("a");
        assert_eq!(q.next().await, Some("a"));
        q.add("a");
        assert!(q.is_empty(), "not handed out while it is being worked on");
        q.done(&"a");
        assert_eq!(q.next().await, Some("a"));
        q.done(&"a");
        assert!(q.is_empty());
        assert_eq!(q.stats().adds, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_delay_wins() {
        let q = WorkQueue::new("t");
        let t = Instant::now();
        q.add_after("a", Duration::from_secs(60));
        q.add_after("a", Duration::from_secs(5));
        q.add_after("a", Duration::from_secs(30));
        assert_eq!(q.next().await, Some("a"));
        assert_eq!(t.elapsed().as_secs(), 5);
        q.done(&"a");
        // The void entries hand out nothing.
        assert!(
            tokio::time::timeout(Duration::from_secs(120), q.next())
                .await
                .is_err()
        );
    }

    /// Unbounded growth: what an object says of its time does not fill the queue, however often that changes.
    #[tokio::test(start_paused = true)]
    async fn times_that_come_ever_earlier_do_not_pile_up() {
        let q = WorkQueue::new("t");
        q.add_after("b", Duration::from_secs(7));
        for n in (5..50_000).rev() {
            q.add_after("a", Duration::from_secs(n));
        }
        assert!(q.lock().delayed.len() <= 2 * 2 + 64);
        let t = Instant::now();
        assert_eq!(q.next().await, Some("a"));
        assert_eq!(t.elapsed().as_secs(), 5);
        assert_eq!(q.next().await, Some("b"));
        assert_eq!(t.elapsed().as_secs(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_double_the_delay_until_forgotten() {
        let q = WorkQueue::new("t");
        let mut waits = Vec::new();
        for i in 0..6 {
            if i == 5 {
                q.forget(&"a");
            }
            let t = Instant::now();
            q.add_rate_limited("a");
            assert_eq!(q.next().await, Some("a"));
            q.done(&"a");
            waits.push(t.elapsed().as_millis());
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 5]);
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_hands_out_the_rest() {
        let q = WorkQueue::new("t");
        q.add("a");
        q.add_after("b", Duration::from_secs(1));
        q.shut_down();
        assert_eq!(q.next().await, Some("a"));
        assert_eq!(q.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_panics_is_tried_again_and_stops_nobody() {
        let q = WorkQueue::new("t");
        let seen = Mutex::new(Vec::new());
        for key in ["bad", "a", "b"] {
            q.add(key);
        }
        let work = q.work(1, |key| {
            seen.lock().unwrap().push(key);
            let tries = seen.lock().unwrap().iter().filter(|k| **k == key).count();
            let q = q.clone();
            async move {
                assert!(key != "bad" || tries > 2, "before it waits for anything");
                tokio::task::yield_now().await;
                if key == "bad" {
                    q.shut_down();
                }
                Ok::<_, String>(None)
            }
        });
        work.await;
        assert_eq!(*seen.lock().unwrap(), ["bad", "a", "b", "bad", "bad"]);
        assert_eq!(q.stats().panics, 2);
        assert_eq!(q.failures(&"bad"), 0);
    }
}
