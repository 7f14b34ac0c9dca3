//! Events about objects: `v1` as client-go's `tools/record` writes them, or `events.k8s.io/v1` as `tools/events` does.
//!
//! Recording never waits: events go through a bounded queue and are dropped when it is full, or when one object causes too
//! many (`v1`: 25 at once, then one per 5 minutes). Repetitions become a count or a series of the first one.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::limiter::TokenBucket;
use crate::resource::{EVENTS, EVENTS_V1};
use crate::rest::{Client, Patch};
use crate::view::{Time, print_micro_time, print_time};

const QUEUE: usize = 1000;
const CACHE: usize = 4096;
const TRIES: u32 = 12;
const SLEEP: Duration = Duration::from_secs(10);
const SPAM_BURST: u32 = 25;
const SPAM_QPS: f32 = 1.0 / 300.0;
const SIMILAR: usize = 10;
const SIMILAR_WITHIN: Duration = Duration::from_secs(600);
const SERIES_ENDS: Duration = Duration::from_secs(360);
const IN_FLIGHT: usize = 32;
/// Longest message, in bytes; what programs print can be of any length.
const MAX_MESSAGE: usize = 16 * 1024;

/// `type` of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Something expected.
    Normal,
    /// Something that may need attention.
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

/// `v1.ObjectReference`
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectReference {
    /// Kind.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Namespace; empty for cluster-scoped objects, whose events go to `default`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// UID.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// API version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    /// Version of the object.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// Part of the object, such as `spec.containers{web}`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field_path: String,
}

impl ObjectReference {
    /// Of an object of a resource.
    pub fn of<V: crate::View>(resource: &crate::Resource, v: &V) -> ObjectReference {
        ObjectReference {
            kind: resource.kind.to_string(),
            namespace: v.namespace().to_owned(),
            name: v.name().to_owned(),
            uid: v.uid().to_owned(),
            api_version: resource.api_version(),
            resource_version: v.resource_version().to_owned(),
            field_path: String::new(),
        }
    }
}

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `v1`, counted.
    Core,
    /// `events.k8s.io/v1`, in series.
    Events,
}

#[derive(Clone, Debug)]
struct Incoming {
    regarding: ObjectReference,
    related: Option<ObjectReference>,
    kind: EventType,
    reason: String,
    action: String,
    message: String,
    annotations: BTreeMap<String, String>,
    at: Time,
}

/// Writes events of one component. Clones share the queue.
#[derive(Clone)]
pub struct Recorder(Option<mpsc::Sender<Incoming>>);

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Recorder")
    }
}

impl Recorder {
    /// A recorder and the work that writes its events until `shutdown`. `component` is the reporting controller; `host`
    /// the node for [`Format::Core`] (empty if none) and the instance for [`Format::Events`].
    pub fn new(
        client: Client,
        format: Format,
        component: impl Into<String>,
        host: impl Into<String>,
        shutdown: CancellationToken,
    ) -> (Recorder, impl Future<Output = ()> + Send + 'static) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let writer = Writer {
            client,
            component: component.into(),
            host: host.into(),
        };
        (Recorder(Some(sender)), async move {
            let work = async {
                match format {
                    Format::Core => core(writer, receiver).await,
                    Format::Events => series(Arc::new(writer), receiver).await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = work => {}
            }
        })
    }

    /// A recorder that drops everything.
    pub fn none() -> Recorder {
        Recorder(None)
    }

    /// Records an event in the form of `v1`.
    pub fn event(
        &self,
        object: ObjectReference,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.record(
            object,
            None,
            kind,
            reason,
            "",
            message.into(),
            BTreeMap::new(),
        );
    }

    /// Records an event with annotations.
    pub fn annotated(
        &self,
        object: ObjectReference,
        annotations: BTreeMap<String, String>,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.record(object, None, kind, reason, "", message.into(), annotations);
    }

    /// Records an event in the form of `events.k8s.io/v1`, whose `action` is required there.
    pub fn action(
        &self,
        regarding: ObjectReference,
        related: Option<ObjectReference>,
        kind: EventType,
        reason: &str,
        action: &str,
        note: impl Into<String>,
    ) {
        self.record(
            regarding,
            related,
            kind,
            reason,
            action,
            note.into(),
            BTreeMap::new(),
        );
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "private, and the three callers name what they leave out"
    )]
    fn record(
        &self,
        regarding: ObjectReference,
        related: Option<ObjectReference>,
        kind: EventType,
        reason: &str,
        action: &str,
        mut message: String,
        annotations: BTreeMap<String, String>,
    ) {
        let Some(sender) = &self.0 else { return };
        if message.len() > MAX_MESSAGE {
            let end = (0..=MAX_MESSAGE)
                .rev()
                .find(|i| message.is_char_boundary(*i));
            message.truncate(end.unwrap_or(0));
            message.shrink_to_fit();
        }
        let incoming = Incoming {
            regarding,
            related,
            kind,
            reason: reason.to_owned(),
            action: action.to_owned(),
            message,
            annotations,
            at: Time::now(),
        };
        if sender.try_send(incoming).is_err() {
            tracing::debug!(reason, "event dropped: too many are waiting");
        }
    }
}

struct Writer {
    client: Client,
    component: String,
    host: String,
}

impl Writer {
    /// Tries a write until the server takes or refuses it.
    async fn persist<F, Fut>(&self, write: F) -> Option<Value>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<Value>>,
    {
        for tries in 0..TRIES {
            match write().await {
                Ok(v) => return Some(v),
                Err(error @ Error::Api(_)) => {
                    tracing::debug!(%error, "event refused");
                    return None;
                }
                Err(error) => {
                    tracing::debug!(%error, tries, "event not written yet");
                    let jitter = if tries == 0 {
                        rand::random_range(0.0..1.0)
                    } else {
                        1.0
                    };
                    tokio::time::sleep(SLEEP.mul_f64(jitter)).await;
                }
            }
        }
        None
    }
}

fn event_name(object: &str, at: Time) -> String {
    format!("{object}.{:x}", at.as_nanosecond())
}

fn namespace(r: &ObjectReference) -> &str {
    if r.namespace.is_empty() {
        "default"
    } else {
        &r.namespace
    }
}

/// What stands for an object, a reason or a message: to remember them whole takes kilobytes for each event. Keyed, so that
/// nobody can make two that are the same.
type Key = u64;

/// A map that forgets its oldest entries.
struct Bounded<V> {
    map: HashMap<Key, V>,
    order: VecDeque<Key>,
}

impl<V> Bounded<V> {
    fn new() -> Self {
        Bounded {
            map: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    fn entry(&mut self, key: Key, make: impl FnOnce() -> V) -> &mut V {
        if !self.map.contains_key(&key) {
            if self.map.len() >= CACHE
                && let Some(oldest) = self.order.pop_front()
            {
                self.map.remove(&oldest);
            }
            self.order.push_back(key);
        }
        self.map.entry(key).or_insert_with(make)
    }
}

type ObjectId = (ObjectReference, EventType);

struct Logged {
    name: Box<str>,
    count: i32,
    first: Box<str>,
}

/// What client-go's correlator knows.
struct Correlator {
    hasher: RandomState,
    spam: Bounded<TokenBucket>,
    /// Messages of an object and reason, and when the last came.
    similar: Bounded<(Vec<Key>, Instant)>,
    logged: Bounded<Option<Logged>>,
}

impl Correlator {
    fn new() -> Correlator {
        Correlator {
            hasher: RandomState::new(),
            spam: Bounded::new(),
            similar: Bounded::new(),
            logged: Bounded::new(),
        }
    }

    /// The message to write and the key under which it is counted; `None` to drop the event.
    fn admit(&mut self, e: &Incoming, now: Instant) -> Option<(String, Key)> {
        let of = |parts: &dyn Fn(&mut DefaultHasher)| {
            let mut hasher = self.hasher.build_hasher();
            parts(&mut hasher);
            hasher.finish()
        };
        let object = of(&|h| {
            let r = &e.regarding;
            (
                &r.kind,
                &r.namespace,
                &r.name,
                &r.uid,
                &r.api_version,
                e.kind,
            )
                .hash(h);
        });
        let reason = of(&|h| (object, &e.reason).hash(h));
        let text = of(&|h| e.message.hash(h));
        let mut key = of(&|h| (reason, &e.regarding.field_path, &e.message).hash(h));
        let (messages, last) = self.similar.entry(reason, || (Vec::new(), now));
        if now.saturating_duration_since(*last) > SIMILAR_WITHIN {
            messages.clear();
        }
        *last = now;
        if !messages.contains(&text) {
            messages.push(text);
        }
        let mut message = e.message.clone();
        if messages.len() >= SIMILAR {
            if let Some(any) = messages.iter().position(|m| *m != text) {
                messages.remove(any);
            }
            message = format!("(combined from similar events): {message}");
            key = reason;
        }
        let bucket = self
            .spam
            .entry(object, || TokenBucket::new(SPAM_QPS, SPAM_BURST));
        bucket.try_take(now).then_some((message, key))
    }
}

async fn core(writer: Writer, mut receiver: mpsc::Receiver<Incoming>) {
    let mut correlator = Correlator::new();
    while let Some(e) = receiver.recv().await {
        let Some((message, key)) = correlator.admit(&e, Instant::now()) else {
            continue;
        };
        let api = writer.client.namespaced(&EVENTS, namespace(&e.regarding));
        let now = print_time(e.at);
        let logged = correlator.logged.entry(key, || None);
        if let Some(l) = logged {
            let count = l.count.saturating_add(1);
            let patch =
                Patch::Strategic(json!({"count": count, "lastTimestamp": now, "message": message}));
            match writer.persist(|| api.patch::<Value>(&l.name, &patch)).await {
                Some(_) => {
                    l.count = count;
                    continue;
                }
                // Events expire: the next one begins anew, with the old count.
                None => {
                    *logged = Some(Logged {
                        name: event_name(&e.regarding.name, e.at).into(),
                        count,
                        first: l.first.clone(),
                    })
                }
            }
        } else {
            *logged = Some(Logged {
                name: event_name(&e.regarding.name, e.at).into(),
                count: 1,
                first: now.clone().into(),
            });
        }
        let Some(l) = logged else { continue };
        let mut event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": l.name, "namespace": namespace(&e.regarding)},
            "involvedObject": e.regarding,
            "reason": e.reason, "message": message,
            "source": {"component": writer.component},
            "firstTimestamp": l.first, "lastTimestamp": now, "count": l.count,
            "type": e.kind.as_str(), "eventTime": null,
            "reportingComponent": writer.component, "reportingInstance": writer.host,
        });
        if !writer.host.is_empty() {
            set(&mut event, "/source", "host", writer.host.as_str().into());
        }
        if !e.annotations.is_empty() {
            set(&mut event, "/metadata", "annotations", json!(e.annotations));
        }
        if writer
            .persist(|| api.create::<Value, _>(&event))
            .await
            .is_none()
        {
            *logged = None;
        }
    }
}

fn set(value: &mut Value, pointer: &str, key: &str, with: Value) {
    if let Some(o) = value.pointer_mut(pointer).and_then(Value::as_object_mut) {
        o.insert(key.into(), with);
    }
}

type SeriesKey = (ObjectId, String, String, Option<ObjectReference>);

struct Series {
    event: Value,
    name: String,
    namespace: String,
    count: i32,
    written: i32,
    last: Time,
    seen: Instant,
}

impl Series {
    fn patch(&self) -> Patch {
        Patch::Strategic(
            json!({"series": {"count": self.count, "lastObservedTime": print_micro_time(self.last)}}),
        )
    }
}

async fn series(writer: Arc<Writer>, mut receiver: mpsc::Receiver<Incoming>) {
    let cache: Arc<Mutex<HashMap<SeriesKey, Series>>> = Arc::default();
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT));
    loop {
        // One timer, and only while something is remembered.
        let next = {
            let cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
            cache.values().map(|s| s.seen + SERIES_ENDS).min()
        };
        let received = match next {
            Some(due) => tokio::time::timeout_at(due, receiver.recv())
                .await
                .map_err(|_| ()),
            None => Ok(receiver.recv().await),
        };
        match received {
            Ok(None) => return,
            Err(()) => finish(&writer, &cache).await,
            Ok(Some(first)) => {
                let mut batch = vec![first];
                while batch.len() < QUEUE
                    && let Ok(more) = receiver.try_recv()
                {
                    batch.push(more);
                }
                for e in batch {
                    let Some(write) = observe(&writer, &cache, e) else {
                        continue;
                    };
                    let Ok(permit) = in_flight.clone().acquire_owned().await else {
                        return;
                    };
                    let writer = writer.clone();
                    tokio::spawn(async move {
                        write_series(&writer, write).await;
                        drop(permit);
                    });
                }
            }
        }
    }
}

struct SeriesWrite {
    event: Value,
    name: String,
    namespace: String,
    patch: Option<Patch>,
}

fn observe(
    writer: &Writer,
    cache: &Mutex<HashMap<SeriesKey, Series>>,
    e: Incoming,
) -> Option<SeriesWrite> {
    let key: SeriesKey = (
        (e.regarding.clone(), e.kind),
        e.action.clone(),
        e.reason.clone(),
        e.related.clone(),
    );
    let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(s) = cache.get_mut(&key) {
        s.count = s.count.saturating_add(1);
        s.last = e.at;
        s.seen = Instant::now();
        // The second of a series is written at once, the rest when the series ends.
        if s.count > 2 {
            return None;
        }
        s.written = s.count;
        return Some(SeriesWrite {
            event: s.event.clone(),
            name: s.name.clone(),
            namespace: s.namespace.clone(),
            patch: Some(s.patch()),
        });
    }
    let name = event_name(&e.regarding.name, e.at);
    let namespace = namespace(&e.regarding).to_owned();
    let mut event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "eventTime": print_micro_time(e.at),
        "reportingController": writer.component, "reportingInstance": writer.host,
        "action": e.action, "reason": e.reason,
        "regarding": e.regarding, "note": e.message, "type": e.kind.as_str(),
    });
    if let Some(related) = &e.related {
        set(&mut event, "", "related", json!(related));
    }
    if cache.len() < CACHE {
        let series = Series {
            event: event.clone(),
            name: name.clone(),
            namespace: namespace.clone(),
            count: 1,
            written: 1,
            last: e.at,
            seen: Instant::now(),
        };
        cache.insert(key, series);
    }
    Some(SeriesWrite {
        event,
        name,
        namespace,
        patch: None,
    })
}

async fn write_series(writer: &Writer, w: SeriesWrite) {
    let api = writer.client.namespaced(&EVENTS_V1, &w.namespace);
    if let Some(patch) = &w.patch
        && writer
            .persist(|| api.patch::<Value>(&w.name, patch))
            .await
            .is_some()
    {
        return;
    }
    writer.persist(|| api.create::<Value, _>(&w.event)).await;
}

async fn finish(writer: &Writer, cache: &Mutex<HashMap<SeriesKey, Series>>) {
    let ended: Vec<Series> = {
        let now = Instant::now();
        let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
        let keys: Vec<SeriesKey> = cache
            .iter()
            .filter(|(_, s)| s.seen + SERIES_ENDS <= now)
            .map(|(k, _)| k.clone())
            .collect();
        keys.iter().filter_map(|k| cache.remove(k)).collect()
    };
    for s in ended.into_iter().filter(|s| s.count > s.written) {
        let api = writer.client.namespaced(&EVENTS_V1, &s.namespace);
        let patch = s.patch();
        writer.persist(|| api.patch::<Value>(&s.name, &patch)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incoming(message: &str) -> Incoming {
        Incoming {
            regarding: ObjectReference {
                kind: "Pod".into(),
                name: "p".into(),
                ..ObjectReference::default()
            },
            related: None,
            kind: EventType::Normal,
            reason: "R".into(),
            action: String::new(),
            message: message.into(),
            annotations: BTreeMap::new(),
            at: Time::UNIX_EPOCH,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_noisy_object_is_limited_and_its_events_combined() {
        let mut c = Correlator::new();
        let now = Instant::now();
        let admitted: Vec<_> = (0..40)
            .filter_map(|i| c.admit(&incoming(&format!("m{i}")), now))
            .collect();
        assert_eq!(admitted.len(), 25);
        assert_eq!(admitted[8].0, "m8");
        assert_eq!(admitted[9].0, "(combined from similar events): m9");
        assert_eq!(
            admitted[9].1, admitted[24].1,
            "combined events share one count"
        );
        assert!(
            c.admit(&incoming("later"), now + Duration::from_secs(301))
                .is_some()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_event_is_counted_under_one_key() {
        let mut c = Correlator::new();
        let now = Instant::now();
        let (a, b) = (c.admit(&incoming("m"), now), c.admit(&incoming("m"), now));
        assert_eq!(a.map(|a| a.1), b.map(|b| b.1));
    }

    #[test]
    fn names_are_as_upstream_makes_them() {
        assert_eq!(
            event_name("p", Time::from_nanosecond(0x18ab).unwrap()),
            "p.18ab"
        );
    }
}
