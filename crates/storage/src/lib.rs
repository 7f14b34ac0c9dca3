//! The store: an ordered, multi-version map of keys to bytes, with watches. Two backends, `etcd` and `embedded`, pass
//! the same contract suite.
//!
//! Values are opaque here. A revision is a positive number that grows by one with every write transaction, over all
//! keys, as in etcd v3. What was acknowledged is durable.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

pub mod embedded;
pub mod etcd;
pub mod etcd_server;
mod open;
mod rooted;

pub use open::{Listen, StorageConfig, open};
pub use rooted::{ROOT, rooted};

/// A point in the history of the store. `0` in a request means "the newest".
pub type Revision = i64;

/// A key with its newest value at the revision asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// `/registry/pods/default/a`
    pub key: Bytes,
    /// The stored bytes.
    pub value: Bytes,
    /// The revision of the last write to the key.
    pub mod_revision: Revision,
    /// The revision in which the key came to be.
    pub create_revision: Revision,
    /// Writes since creation, starting at 1.
    pub version: i64,
    /// The lease the key ends with; 0 for none.
    pub lease: i64,
}

/// What `get` answers.
#[derive(Clone, Debug)]
pub struct Got {
    /// The key, if it exists.
    pub kv: Option<KeyValue>,
    /// The store's revision when it was read.
    pub revision: Revision,
}

/// What to list: keys that start with `prefix`, beginning at `start` (inclusive) when it is given, `limit` at most
/// (0: all), as they were at `revision` (0: now).
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// The first key of the page; empty starts at the prefix.
    pub start: Bytes,
    /// The largest number of keys to return; 0 for all.
    pub limit: usize,
    /// 0 for the newest.
    pub revision: Revision,
    /// Only count: `items` is empty, `count` is right.
    pub count_only: bool,
}

/// What `list` answers, in key order.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    /// The page.
    pub items: Vec<KeyValue>,
    /// How many keys lie in the range from `start`, including those of this page.
    pub count: i64,
    /// Whether keys remain after this page.
    pub more: bool,
    /// The revision of the read: the store's own if none was asked for.
    pub revision: Revision,
}

/// What a write expects to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The key's mod_revision is this.
    Revision(Revision),
    /// Anything. For tools, never for API objects.
    Any,
}

/// The outcome of an optimistic write.
#[derive(Clone, Debug)]
pub enum Written {
    /// Done and durable. `previous` is what a put replaced or a delete removed.
    Done {
        /// The revision of this write.
        revision: Revision,
        /// What was there before.
        previous: Option<KeyValue>,
    },
    /// The expectation failed and nothing was written; this is what is there.
    Mismatch {
        /// What was found instead.
        current: Option<KeyValue>,
        /// The store's revision when it was found.
        revision: Revision,
    },
}

/// One change, as a watcher sees it.
#[derive(Clone, Debug)]
pub struct Event {
    /// For a put the new pair; for a delete the key with an empty value and the deletion's revision as `mod_revision`.
    pub kv: KeyValue,
    /// What was there before; `None` for a creation.
    pub previous: Option<KeyValue>,
    /// Whether this is a deletion.
    pub deleted: bool,
}

/// A message of a watch.
#[derive(Clone, Debug)]
pub enum WatchMessage {
    /// Changes in revision order; changes of one revision are never split.
    Events(Vec<Event>),
    /// Nothing up to and including this revision is outstanding.
    Progress(Revision),
}

/// A watch: ordered and gapless until it ends with an error.
pub type WatchStream = BoxStream<'static, Result<WatchMessage, Error>>;

/// Why the store could not answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The revision is older than the last compaction.
    #[error("required revision has been compacted (oldest kept: {oldest})")]
    Compacted {
        /// The oldest revision that can still be read; 0 when the backend does not tell.
        oldest: Revision,
    },
    /// The revision has not happened yet.
    #[error("required revision is a future revision (current: {current})")]
    Future {
        /// The store's revision; 0 when the backend does not tell.
        current: Revision,
    },
    /// The value is larger than the store takes.
    #[error("request is too large: {size} bytes")]
    TooLarge {
        /// Bytes of key and value.
        size: usize,
    },
    /// The lease does not exist or has ended.
    #[error("lease {0} not found")]
    LeaseNotFound(i64),
    /// The watcher did not keep up and was ended; it resumes from its last revision.
    #[error("watcher too slow")]
    SlowWatcher,
    /// The backend is not reachable, shutting down, or its disk fails. Whether a write took effect is unknown.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// Stored data is damaged.
    #[error("stored data is damaged: {0}")]
    Corrupt(String),
}

/// The store contract.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// One key at a revision (0: newest, linearizable).
    async fn get(&self, key: &[u8], revision: Revision) -> Result<Got, Error>;

    /// A page of keys under a prefix.
    async fn list(&self, prefix: &[u8], options: ListOptions) -> Result<Listed, Error>;

    /// Writes a value if the expectation holds. `lease` 0 for none.
    async fn put(
        &self,
        key: &[u8],
        value: Bytes,
        expect: Expect,
        lease: i64,
    ) -> Result<Written, Error>;

    /// Removes a key if the expectation holds. Deleting what is absent under `Any` is `Mismatch` with no current.
    async fn delete(&self, key: &[u8], expect: Expect) -> Result<Written, Error>;

    /// All changes under a prefix from `from` (inclusive; 0: from now on). `Compacted` if `from` is too old, either at
    /// once or as the stream's first item. Sends `Progress` from time to time and when `request_progress` is called.
    async fn watch(&self, prefix: &[u8], from: Revision) -> Result<WatchStream, Error>;

    /// Asks that every watch sends `Progress` with a revision not older than the store's at this call.
    async fn request_progress(&self) -> Result<(), Error>;

    /// The newest revision, linearizable.
    async fn revision(&self) -> Result<Revision, Error>;

    /// A lease of this many seconds, rounded up to the backend's minimum; returns its id.
    async fn grant(&self, ttl_seconds: i64) -> Result<i64, Error>;

    /// Forgets history before `revision`.
    async fn compact(&self, revision: Revision) -> Result<(), Error>;

    /// Whether the backend answers: for health checks. Bounded by the caller's deadline.
    async fn ready(&self) -> Result<(), Error>;

    /// The bytes the store uses on disk, for metrics.
    async fn size_on_disk(&self) -> Result<u64, Error>;
}

/// A store shared by the parts of one process.
pub type SharedStore = Arc<dyn Store>;
