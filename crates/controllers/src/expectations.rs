//! What a controller has asked for and not yet seen in its cache.
//!
//! A controller that creates or deletes from a cache that lags would do it twice. It therefore notes what it asked for
//! before asking, and does nothing more for that owner until its cache has shown it, or until five minutes have passed
//! (a lost answer must not stop it for ever).
//!
//! A controller whose objects have names of their own creates nothing twice, but would decide from what it has already
//! changed. It notes the versions that it wrote ([`Written`]) and waits until its caches show these or later ones.

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

/// How long an owner waits for a version that its cache does not show: the object may have come and gone unseen.
const LAG: Duration = Duration::from_secs(30);

/// Versions that a controller wrote, by owner and name.
#[derive(Default)]
pub struct Written(Mutex<HashMap<ObjectKey, HashMap<String, Version>>>);

struct Version {
    version: String,
    since: Instant,
}

impl Version {
    /// Whether a version is this one or comes after it. Versions that are no numbers tell nothing.
    fn is_reached(&self, by: &str) -> bool {
        match (by.parse::<u64>(), self.version.parse::<u64>()) {
            (Ok(by), Ok(wanted)) => by >= wanted,
            _ => true,
        }
    }
}

impl Written {
    fn with<T>(
        &self,
        owner: &ObjectKey,
        f: impl FnOnce(&mut HashMap<String, Version>) -> T,
    ) -> Option<T> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let awaited = all.get_mut(owner)?;
        let result = f(awaited);
        if awaited.is_empty() {
            all.remove(owner);
        }
        Some(result)
    }

    /// After a write: the version that an object has now.
    pub fn wrote(&self, owner: &ObjectKey, name: &str, version: &str) {
        let version = Version {
            version: version.into(),
            since: Instant::now(),
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let awaited = all.entry(owner.clone()).or_default();
        awaited.insert(name.into(), version);
    }

    /// The cache shows an object at a version, or (`None`) that it is gone.
    pub fn seen(&self, owner: &ObjectKey, name: &str, version: Option<&str>) {
        self.with(owner, |awaited| {
            let shown = |v: &Version| version.is_none_or(|by| v.is_reached(by));
            if awaited.get(name).is_some_and(shown) {
                awaited.remove(name);
            }
        });
    }

    /// How long to wait at most for what the cache does not show yet; `cached` looks a version up in it.
    pub fn lag(
        &self,
        owner: &ObjectKey,
        cached: impl Fn(&str) -> Option<String>,
    ) -> Option<Duration> {
        self.with(owner, |awaited| {
            awaited.retain(|name, v| {
                v.since.elapsed() < LAG && !cached(name).is_some_and(|by| v.is_reached(&by))
            });
            let left = awaited
                .values()
                .map(|v| LAG.saturating_sub(v.since.elapsed()));
            left.max()
        })
        .flatten()
    }

    /// The owner is gone.
    pub fn forget(&self, owner: &ObjectKey) {
        self.with(owner, HashMap::clear);
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

    #[tokio::test(start_paused = true)]
    async fn what_was_written_is_waited_for() {
        let (w, k) = (Written::default(), ObjectKey::new("ns", "set"));
        let none = |_: &str| None;
        assert_eq!(w.lag(&k, none), None);
        w.wrote(&k, "a", "10");
        w.wrote(&k, "b", "11");
        assert_eq!(w.lag(&k, none), Some(LAG));
        // An older version is not what was written, another object neither.
        w.seen(&k, "a", Some("9"));
        w.seen(&ObjectKey::new("ns", "other"), "a", Some("12"));
        assert!(w.lag(&k, none).is_some());
        w.seen(&k, "a", Some("12"));
        assert!(w.lag(&k, none).is_some());
        w.seen(&k, "b", None);
        assert_eq!(w.lag(&k, none), None, "it is gone");
        // The cache may show it before the answer comes.
        w.wrote(&k, "a", "20");
        assert_eq!(w.lag(&k, |_| Some("21".into())), None);
        w.wrote(&k, "a", "22");
        tokio::time::advance(LAG).await;
        assert_eq!(w.lag(&k, none), None, "what is never shown is given up");
        w.wrote(&k, "a", "23");
        w.forget(&k);
        assert_eq!(w.lag(&k, none), None);
        assert!(w.0.lock().unwrap().is_empty(), "nothing is left behind");
    }
}
