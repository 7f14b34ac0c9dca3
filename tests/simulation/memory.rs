//! The store of a run: all versions of all keys in memory, nothing that waits, and a digest of every write.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use storage::{
    Error, Event, Expect, Got, KeyValue, ListOptions, Listed, Revision, Store, WatchMessage,
    WatchStream, Written,
};
use tokio::sync::mpsc;

#[derive(Default)]
struct State {
    /// Versions, oldest first; `None` for a deletion.
    keys: BTreeMap<Bytes, Vec<(Revision, Option<KeyValue>)>>,
    log: Vec<Event>,
    revision: Revision,
    digest: DefaultHasher,
    leases: i64,
    writes: HashMap<String, u64>,
    watchers: Vec<(Bytes, mpsc::UnboundedSender<WatchMessage>)>,
}

/// See the module. Clones share it.
#[derive(Clone)]
pub struct Memory(Arc<Mutex<State>>);

impl Memory {
    pub fn new() -> Memory {
        let state = State {
            revision: 1,
            ..State::default()
        };
        Memory(Arc::new(Mutex::new(state)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same for the same writes in the same order.
    pub fn digest(&self) -> u64 {
        self.lock().digest.finish()
    }

    /// Writes by resource, the busiest first.
    pub fn busiest(&self) -> Vec<(String, u64)> {
        let mut all: Vec<_> = self.lock().writes.clone().into_iter().collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        all
    }

    /// All that is stored under a prefix.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let state = self.lock();
        let there = |(key, versions): (&Bytes, &Vec<(Revision, Option<KeyValue>)>)| {
            versions.last()?.1.as_ref()?;
            Some(String::from_utf8_lossy(key).into_owned())
        };
        let all = state.keys.iter().filter_map(there);
        all.filter(|k| k.starts_with(prefix)).collect()
    }

    fn write(&self, key: &[u8], value: Option<Bytes>, expect: Expect, lease: i64) -> Written {
        let mut state = self.lock();
        let current = state.newest(key);
        let agrees = match (expect, &current) {
            (Expect::Any, None) => value.is_some(),
            (Expect::Any, Some(_)) | (Expect::Absent, None) => true,
            (Expect::Revision(r), Some(kv)) => kv.mod_revision == r,
            (Expect::Absent, Some(_)) | (Expect::Revision(_), None) => false,
        };
        if !agrees {
            return Written::Mismatch {
                current,
                revision: state.revision,
            };
        }
        state.revision += 1;
        let revision = state.revision;
        let deleted = value.is_none();
        let kv = KeyValue {
            key: Bytes::copy_from_slice(key),
            value: value.unwrap_or_default(),
            mod_revision: revision,
            create_revision: current.as_ref().map_or(revision, |c| c.create_revision),
            version: current.as_ref().map_or(1, |c| c.version + 1),
            lease,
        };
        (revision, &kv.key, &kv.value).hash(&mut state.digest);
        let text = String::from_utf8_lossy(key);
        let resource = text.split('/').nth(2).unwrap_or_default().to_owned();
        *state.writes.entry(resource).or_default() += 1;
        let version = (revision, (!deleted).then(|| kv.clone()));
        state.keys.entry(kv.key.clone()).or_default().push(version);
        let event = Event {
            kv,
            previous: current.clone(),
            deleted,
        };
        state.watchers.retain(|(prefix, watcher)| {
            let message = || WatchMessage::Events(vec![event.clone()]);
            !key.starts_with(prefix) || watcher.send(message()).is_ok()
        });
        state.log.push(event);
        Written::Done {
            revision,
            previous: current,
        }
    }
}

impl State {
    fn newest(&self, key: &[u8]) -> Option<KeyValue> {
        self.keys.get(key)?.last()?.1.clone()
    }

    /// Changes under a prefix after a revision.
    fn after(&self, prefix: &[u8], last: Revision) -> Vec<Event> {
        let from = self.log.partition_point(|e| e.kv.mod_revision <= last);
        let new = self.log.get(from..).unwrap_or_default();
        new.iter()
            .filter(|e| e.kv.key.starts_with(prefix))
            .cloned()
            .collect()
    }
}

fn at(versions: &[(Revision, Option<KeyValue>)], revision: Revision) -> Option<&KeyValue> {
    let end = versions.partition_point(|v| v.0 <= revision);
    versions.get(end.checked_sub(1)?)?.1.as_ref()
}

#[async_trait]
impl Store for Memory {
    async fn get(&self, key: &[u8], revision: Revision) -> Result<Got, Error> {
        let state = self.lock();
        let wanted = if revision == 0 {
            state.revision
        } else {
            revision
        };
        let kv = state.keys.get(key).and_then(|v| at(v, wanted)).cloned();
        Ok(Got {
            kv,
            revision: state.revision,
        })
    }

    async fn list(&self, prefix: &[u8], options: ListOptions) -> Result<Listed, Error> {
        let state = self.lock();
        let revision = match options.revision {
            0 => state.revision,
            r if r > state.revision => {
                return Err(Error::Future {
                    current: state.revision,
                });
            }
            r => r,
        };
        let start = if options.start.is_empty() {
            Bytes::copy_from_slice(prefix)
        } else {
            options.start
        };
        let all = state.keys.range(start..);
        let mut items: Vec<KeyValue> = all
            .take_while(|(k, _)| k.starts_with(prefix))
            .filter_map(|(_, v)| at(v, revision).cloned())
            .collect();
        let count = i64::try_from(items.len()).unwrap_or(i64::MAX);
        let limit = if options.limit == 0 {
            items.len()
        } else {
            options.limit
        };
        let more = items.len() > limit;
        items.truncate(if options.count_only { 0 } else { limit });
        Ok(Listed {
            items,
            count,
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
        Ok(self.write(key, Some(value), expect, lease))
    }

    async fn delete(&self, key: &[u8], expect: Expect) -> Result<Written, Error> {
        Ok(self.write(key, None, expect, 0))
    }

    async fn watch(&self, prefix: &[u8], from: Revision) -> Result<WatchStream, Error> {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let mut state = self.lock();
        if from > 0 {
            let missed = state.after(prefix, from - 1);
            if !missed.is_empty() {
                let _ = sender.send(WatchMessage::Events(missed));
            }
        }
        state
            .watchers
            .push((Bytes::copy_from_slice(prefix), sender));
        let messages = futures::stream::poll_fn(move |cx| receiver.poll_recv(cx));
        Ok(messages.map(Ok).boxed())
    }

    async fn request_progress(&self) -> Result<(), Error> {
        let state = self.lock();
        for (_, watcher) in &state.watchers {
            let _ = watcher.send(WatchMessage::Progress(state.revision));
        }
        Ok(())
    }

    async fn revision(&self) -> Result<Revision, Error> {
        Ok(self.lock().revision)
    }

    async fn grant(&self, _: i64) -> Result<i64, Error> {
        let mut state = self.lock();
        state.leases += 1;
        Ok(state.leases)
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
