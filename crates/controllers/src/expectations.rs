//! What a controller has asked for and not yet seen in its cache.
//!
//! A controller that creates or deletes from a cache that lags would do it twice. It therefore notes what it asked for
//! before asking, and does nothing more for that owner until its cache has shown it, or until five minutes have passed
//! (a lost answer must not stop it for ever).

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use client::ObjectKey;
use tokio::time::Instant;

const EXPIRES: Duration = Duration::from_secs(300);

struct Expected {
    creations: i64,
    /// UIDs.
    deletions: HashSet<String>,
    since: Instant,
}

/// By owner.
#[derive(Default)]
pub struct Expectations(Mutex<HashMap<ObjectKey, Expected>>);

impl Expectations {
    fn with<T>(&self, f: impl FnOnce(&mut HashMap<ObjectKey, Expected>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether everything asked for has been seen.
    pub fn satisfied(&self, owner: &ObjectKey) -> bool {
        self.with(|m| {
            m.get(owner).is_none_or(|e| {
                (e.creations <= 0 && e.deletions.is_empty()) || e.since.elapsed() > EXPIRES
            })
        })
    }

    /// Before creating.
    pub fn expect_creations(&self, owner: &ObjectKey, n: usize) {
        let creations = i64::try_from(n).unwrap_or(i64::MAX);
        let e = Expected {
            creations,
            deletions: HashSet::new(),
            since: Instant::now(),
        };
        self.with(|m| m.insert(owner.clone(), e));
    }

    /// Before deleting.
    pub fn expect_deletions(&self, owner: &ObjectKey, uids: impl IntoIterator<Item = String>) {
        let e = Expected {
            creations: 0,
            deletions: uids.into_iter().collect(),
            since: Instant::now(),
        };
        self.with(|m| m.insert(owner.clone(), e));
    }

    /// One was seen, or will not come.
    pub fn created(&self, owner: &ObjectKey) {
        self.with(|m| {
            if let Some(e) = m.get_mut(owner) {
                e.creations -= 1;
            }
        });
    }

    /// It is seen to go, or will not.
    pub fn deleted(&self, owner: &ObjectKey, uid: &str) {
        self.with(|m| {
            if let Some(e) = m.get_mut(owner) {
                e.deletions.remove(uid);
            }
        });
    }

    /// The owner is gone.
    pub fn forget(&self, owner: &ObjectKey) {
        self.with(|m| m.remove(owner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nothing_more_until_all_is_seen() {
        let (e, k) = (Expectations::default(), ObjectKey::new("ns", "rs"));
        assert!(e.satisfied(&k));
        e.expect_creations(&k, 2);
        e.created(&k);
        assert!(!e.satisfied(&k));
        e.created(&k);
        assert!(e.satisfied(&k));
        e.expect_deletions(&k, ["a".to_owned()]);
        e.deleted(&k, "b");
        assert!(!e.satisfied(&k));
        tokio::time::advance(Duration::from_secs(301)).await;
        assert!(
            e.satisfied(&k),
            "a lost answer does not stop the controller for ever"
        );
    }
}
