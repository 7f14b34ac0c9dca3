//! A store whose keys lie beneath another root than `/registry`, which is what everything above it says
//! (`--etcd-prefix`).

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;

use crate::{
    Error, Event, Expect, Got, KeyValue, ListOptions, Listed, Revision, SharedStore, Store,
    WatchMessage, WatchStream, Written,
};

/// The root in all keys of the code.
pub const ROOT: &str = "/registry";

struct Rooted {
    store: SharedStore,
    root: Arc<str>,
}

/// The store seen from above: `/registry/…` there is `ROOT/…` in the store. Slashes around `root` do not count; empty is the
/// top. Other keys than those beneath `/registry` stay as they are, those beneath the root excepted.
pub fn rooted(store: SharedStore, root: &str) -> SharedStore {
    let root = root.trim_matches('/');
    let root: Arc<str> = if root.is_empty() {
        "".into()
    } else {
        format!("/{root}").into()
    };
    if &*root == ROOT {
        return store;
    }
    Arc::new(Rooted { store, root })
}

/// `key` with the root `from` replaced by `to`. Only whole segments match.
fn swap(key: &[u8], from: &str, to: &str) -> Option<Vec<u8>> {
    let tail = key.strip_prefix(from.as_bytes())?;
    (tail.is_empty() || tail.starts_with(b"/")).then(|| [to.as_bytes(), tail].concat())
}

impl Rooted {
    fn down(&self, key: &[u8]) -> Vec<u8> {
        swap(key, ROOT, &self.root).unwrap_or_else(|| key.to_vec())
    }

    fn written(&self, written: Written) -> Written {
        match written {
            Written::Done { revision, previous } => Written::Done {
                revision,
                previous: previous.map(|kv| up(&self.root, kv)),
            },
            Written::Mismatch { current, revision } => Written::Mismatch {
                current: current.map(|kv| up(&self.root, kv)),
                revision,
            },
        }
    }
}

fn up(root: &str, mut kv: KeyValue) -> KeyValue {
    if let Some(key) = swap(&kv.key, root, ROOT) {
        kv.key = key.into();
    }
    kv
}

#[async_trait]
impl Store for Rooted {
    async fn get(&self, key: &[u8], revision: Revision) -> Result<Got, Error> {
        let mut got = self.store.get(&self.down(key), revision).await?;
        got.kv = got.kv.map(|kv| up(&self.root, kv));
        Ok(got)
    }

    async fn list(&self, prefix: &[u8], mut options: ListOptions) -> Result<Listed, Error> {
        if !options.start.is_empty() {
            options.start = self.down(&options.start).into();
        }
        let mut listed = self.store.list(&self.down(prefix), options).await?;
        let items = listed.items.into_iter();
        listed.items = items.map(|kv| up(&self.root, kv)).collect();
        Ok(listed)
    }

    async fn put(
        &self,
        key: &[u8],
        value: Bytes,
        expect: Expect,
        lease: i64,
    ) -> Result<Written, Error> {
        let written = self
            .store
            .put(&self.down(key), value, expect, lease)
            .await?;
        Ok(self.written(written))
    }

    async fn delete(&self, key: &[u8], expect: Expect) -> Result<Written, Error> {
        let written = self.store.delete(&self.down(key), expect).await?;
        Ok(self.written(written))
    }

    async fn watch(&self, prefix: &[u8], from: Revision) -> Result<WatchStream, Error> {
        let stream = self.store.watch(&self.down(prefix), from).await?;
        let root = self.root.clone();
        let event = move |e: Event| Event {
            kv: up(&root, e.kv),
            previous: e.previous.map(|kv| up(&root, kv)),
            deleted: e.deleted,
        };
        let message = move |m| match m {
            WatchMessage::Events(all) => {
                WatchMessage::Events(all.into_iter().map(&event).collect())
            }
            progress @ WatchMessage::Progress(_) => progress,
        };
        Ok(stream.map(move |m| m.map(&message)).boxed())
    }

    async fn request_progress(&self) -> Result<(), Error> {
        self.store.request_progress().await
    }

    async fn revision(&self) -> Result<Revision, Error> {
        self.store.revision().await
    }

    async fn grant(&self, ttl_seconds: i64) -> Result<i64, Error> {
        self.store.grant(ttl_seconds).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.store.compact(revision).await
    }

    async fn ready(&self) -> Result<(), Error> {
        self.store.ready().await
    }

    async fn size_on_disk(&self) -> Result<u64, Error> {
        self.store.size_on_disk().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_segments_of_the_root_are_replaced() {
        let text = |key: &str, from: &str, to: &str| {
            swap(key.as_bytes(), from, to).map(|k| String::from_utf8(k).unwrap_or_default())
        };
        let down = |key| text(key, ROOT, "/other/place");
        assert_eq!(
            down("/registry/pods/a/b").as_deref(),
            Some("/other/place/pods/a/b")
        );
        assert_eq!(down("/registry/").as_deref(), Some("/other/place/"));
        assert_eq!(down("/registry").as_deref(), Some("/other/place"));
        assert_eq!(down("/registryx/pods"), None);
        assert_eq!(
            text("/pods/a", "", ROOT).as_deref(),
            Some("/registry/pods/a")
        );
    }
}
