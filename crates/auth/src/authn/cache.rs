//! Remembering what was just verified: signatures cost more than a look into a map.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ring::digest::{SHA256, digest};

const MAX: usize = 4_096;

/// Values by the digest of a credential, for a short time. Only successes are kept. At most [`MAX`] entries.
pub(super) struct Cache<T> {
    ttl: Duration,
    entries: Mutex<HashMap<[u8; 32], (Instant, T)>>,
}

pub(super) fn key(parts: &[&[u8]]) -> [u8; 32] {
    let mut all = Vec::new();
    for p in parts {
        all.extend_from_slice(&(p.len() as u64).to_le_bytes());
        all.extend_from_slice(p);
    }
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, &all).as_ref());
    out
}

impl<T: Clone> Cache<T> {
    pub(super) fn new(ttl: Duration) -> Cache<T> {
        Cache {
            ttl,
            entries: Mutex::default(),
        }
    }

    pub(super) fn get(&self, key: &[u8; 32]) -> Option<T> {
        let all = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(key)
            .filter(|(at, _)| at.elapsed() < self.ttl)
            .map(|(_, v)| v.clone())
    }

    pub(super) fn put(&self, key: [u8; 32], value: T) {
        let mut all = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX {
            all.retain(|_, (at, _)| at.elapsed() < self.ttl);
            if all.len() >= MAX {
                all.clear();
            }
        }
        all.insert(key, (Instant::now(), value));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let all = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        all.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache keyed by what others send has a bound, and what is in it an end.
    #[test]
    fn entries_are_bounded_and_end() {
        let id = |n: usize| key(&[&n.to_le_bytes()]);
        let cache = Cache::new(Duration::from_secs(3600));
        for n in 0..=MAX {
            cache.put(id(n), n);
        }
        assert!(cache.len() <= MAX);
        assert_eq!(cache.get(&id(MAX)), Some(MAX));
        assert_eq!(cache.get(&id(MAX + 1)), None);
        let past = Cache::new(Duration::ZERO);
        past.put(id(0), 0);
        assert_eq!(past.get(&id(0)), None);
    }

    #[test]
    fn parts_of_a_key_do_not_run_together() {
        assert_ne!(key(&[b"ab", b"c"]), key(&[b"a", b"bc"]));
        assert_ne!(key(&[b"a"]), key(&[b"a", b""]));
        assert_eq!(key(&[b"a", b"b"]), key(&[b"a", b"b"]));
    }
}
