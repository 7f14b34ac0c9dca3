//! What the engine holds in memory: keys with the places of their versions, the order of changes, leases.
//!
//! Values are not here. Invariants: `changes` has every change of revision `compacted` and newer, in order, and each of
//! them is found in its key's history together with the version before it; a version above `visible` (kept by the hub)
//! is not durable yet and is shown to nobody.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Bound;

use bytes::Bytes;
use tokio::time::{Duration, Instant};

use super::record::PUT_OVERHEAD;
use crate::Revision;

/// The longest life of a lease in seconds. Source: etcd's `MaxLeaseTTL`.
const MAX_TTL: u64 = 9_000_000_000;

/// A half-open range of keys.
#[derive(Clone, Debug)]
pub struct KeyRange {
    /// The first key.
    pub start: Bytes,
    /// The first key behind the range; `None` for no end.
    pub end: Option<Bytes>,
}

impl KeyRange {
    /// All keys that start with `prefix`.
    pub fn prefix(prefix: &[u8]) -> Self {
        let mut end = prefix.to_vec();
        while let Some(last) = end.pop() {
            if let Some(next) = last.checked_add(1) {
                end.push(next);
                return Self {
                    start: Bytes::copy_from_slice(prefix),
                    end: Some(end.into()),
                };
            }
        }
        Self {
            start: Bytes::copy_from_slice(prefix),
            end: None,
        }
    }

    /// Whether the range has the key.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= self.start.as_ref() && self.end.as_ref().is_none_or(|end| key < end.as_ref())
    }

    fn bounds(&self) -> Option<(Bound<&Bytes>, Bound<&Bytes>)> {
        match &self.end {
            Some(end) if *end <= self.start => None,
            Some(end) => Some((Bound::Included(&self.start), Bound::Excluded(end))),
            None => Some((Bound::Included(&self.start), Bound::Unbounded)),
        }
    }
}

/// Where a value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: u32,
    /// The value's length in bytes.
    pub len: u32,
    /// Its offset in the file.
    pub offset: u64,
}

/// Bytes of values in one answer about history, unless one revision has more.
pub const MESSAGE_BYTES: usize = 4 << 20;

const DELETED: u32 = u32::MAX;

/// One version of a key.
#[derive(Clone, Copy, Debug)]
pub struct Version {
    /// The revision that wrote it.
    pub revision: Revision,
    /// The revision in which the key came to be; 0 in a deletion.
    pub create: Revision,
    /// The lease, or 0.
    pub lease: i64,
    /// Where its value lies; meaningless in a deletion.
    pub place: Place,
    /// Writes since creation; 0 in a deletion.
    pub version: u32,
}

impl Version {
    /// The mark that a key was removed.
    pub fn deletion(revision: Revision) -> Self {
        Self {
            revision,
            create: 0,
            lease: 0,
            place: Place {
                file: 0,
                len: DELETED,
                offset: 0,
            },
            version: 0,
        }
    }

    /// Whether this is a deletion.
    pub fn is_deletion(&self) -> bool {
        self.place.len == DELETED
    }

    fn bytes(&self, key: &[u8]) -> u64 {
        if self.is_deletion() {
            0
        } else {
            (PUT_OVERHEAD + key.len()) as u64 + u64::from(self.place.len)
        }
    }
}

/// `older` is in the order of revisions, all below that of `newest`.
#[derive(Debug)]
struct Entry {
    newest: Version,
    older: Vec<Version>,
}

impl Entry {
    /// The version that a reader of `revision` sees. A key may have as many versions as history has changes, so they are
    /// not gone through.
    fn at(&self, revision: Revision) -> Option<&Version> {
        if self.newest.revision <= revision {
            return Some(&self.newest);
        }
        let later = self
            .older
            .partition_point(|version| version.revision <= revision);
        self.older.get(later.checked_sub(1)?)
    }

    /// The version that `revision` made, and the one before it.
    fn made(&self, revision: Revision) -> Option<(&Version, Option<&Version>)> {
        let version = self.at(revision)?;
        let before = revision.checked_sub(1).and_then(|before| self.at(before));
        (version.revision == revision).then_some((version, before))
    }
}

/// A lease.
#[derive(Debug)]
pub struct Lease {
    /// Seconds it lives without being kept alive.
    pub ttl: i64,
    /// When it ends.
    pub deadline: Instant,
    /// The keys that end with it.
    pub keys: HashSet<Bytes>,
}

/// See the module.
#[derive(Debug)]
pub struct Index {
    keys: BTreeMap<Bytes, Entry>,
    changes: VecDeque<(Revision, Bytes)>,
    /// The newest revision given out; durable or not.
    pub applied: Revision,
    /// The oldest revision that can be read.
    pub compacted: Revision,
    /// The leases.
    pub leases: HashMap<i64, Lease>,
    newest_bytes: u64,
    older_bytes: u64,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            keys: BTreeMap::new(),
            changes: VecDeque::new(),
            applied: 1,
            compacted: 0,
            leases: HashMap::new(),
            newest_bytes: 0,
            older_bytes: 0,
        }
    }
}

impl Index {
    /// The version of a key that a reader of `revision` sees: not a deletion.
    pub fn get(&self, key: &[u8], revision: Revision) -> Option<Version> {
        self.keys
            .get(key)?
            .at(revision)
            .filter(|version| !version.is_deletion())
            .copied()
    }

    /// The newest version, durable or not.
    pub fn newest(&self, key: &[u8]) -> Option<Version> {
        self.keys
            .get(key)
            .map(|entry| entry.newest)
            .filter(|version| !version.is_deletion())
    }

    /// Live keys of a range at a revision, in order.
    pub fn range<'a>(
        &'a self,
        range: &'a KeyRange,
        revision: Revision,
    ) -> impl Iterator<Item = (&'a Bytes, &'a Version)> + 'a {
        range.bounds().into_iter().flat_map(move |bounds| {
            self.keys
                .range::<Bytes, _>(bounds)
                .filter_map(move |(key, entry)| {
                    entry
                        .at(revision)
                        .filter(|version| !version.is_deletion())
                        .map(|version| (key, version))
                })
        })
    }

    /// Adds the newest version of a key. `version.revision` must not be below `applied`.
    pub fn apply(&mut self, key: &Bytes, version: Version) {
        self.applied = version.revision;
        let size = version.bytes(key);
        let key = match self.keys.get_key_value(key) {
            Some((known, _)) => known.clone(),
            None => key.clone(),
        };
        let old_lease = match self.keys.get_mut(&key) {
            Some(entry) => {
                let old = std::mem::replace(&mut entry.newest, version);
                let old_size = old.bytes(&key);
                self.newest_bytes = self.newest_bytes.saturating_sub(old_size);
                self.older_bytes += old_size;
                entry.older.push(old);
                old.lease
            }
            None => {
                self.keys.insert(
                    key.clone(),
                    Entry {
                        newest: version,
                        older: Vec::new(),
                    },
                );
                0
            }
        };
        self.newest_bytes += size;
        if old_lease != version.lease {
            if let Some(lease) = self.leases.get_mut(&old_lease) {
                lease.keys.remove(&key);
            }
            if let Some(lease) = self.leases.get_mut(&version.lease) {
                lease.keys.insert(key.clone());
            }
        }
        self.changes.push_back((version.revision, key));
    }

    /// Adds a key from a base file: it is older than every change.
    pub fn apply_base(&mut self, key: Bytes, version: Version) {
        self.newest_bytes += version.bytes(&key);
        if let Some(lease) = self.leases.get_mut(&version.lease) {
            lease.keys.insert(key.clone());
        }
        self.keys.insert(
            key,
            Entry {
                newest: version,
                older: Vec::new(),
            },
        );
    }

    /// Takes back every change above `revision`.
    pub fn roll_back(&mut self, revision: Revision) {
        while self
            .changes
            .back()
            .is_some_and(|(changed, _)| *changed > revision)
        {
            let Some((changed, key)) = self.changes.pop_back() else {
                break;
            };
            let Some(entry) = self.keys.get_mut(&key) else {
                continue;
            };
            if entry.newest.revision != changed {
                continue;
            }
            self.newest_bytes = self.newest_bytes.saturating_sub(entry.newest.bytes(&key));
            match entry.older.pop() {
                Some(before) => {
                    let size = before.bytes(&key);
                    self.older_bytes = self.older_bytes.saturating_sub(size);
                    self.newest_bytes += size;
                    entry.newest = before;
                }
                None => {
                    self.keys.remove(&key);
                }
            }
        }
        self.applied = revision;
        for lease in self.leases.values_mut() {
            lease.keys.clear();
        }
        for (key, entry) in &self.keys {
            if let Some(lease) = self.leases.get_mut(&entry.newest.lease) {
                lease.keys.insert(key.clone());
            }
        }
    }

    /// Forgets what only readers below `revision` need. What was current just before `revision` stays, so that a watch
    /// from `revision` has its previous values.
    pub fn compact(&mut self, revision: Revision) {
        if revision <= self.compacted {
            return;
        }
        self.compacted = revision;
        while self
            .changes
            .front()
            .is_some_and(|(changed, _)| *changed < revision)
        {
            let Some((_, key)) = self.changes.pop_front() else {
                break;
            };
            let Some(entry) = self.keys.get_mut(&key) else {
                continue;
            };
            if entry.newest.revision < revision {
                for old in entry.older.drain(..) {
                    self.older_bytes = self.older_bytes.saturating_sub(old.bytes(&key));
                }
                entry.older.shrink_to_fit();
                if entry.newest.is_deletion() {
                    self.keys.remove(&key);
                }
                continue;
            }
            // The last version below `revision` is the one that was current just before it.
            let below = entry
                .older
                .partition_point(|version| version.revision < revision);
            let mut dropped = below.saturating_sub(1);
            if entry
                .older
                .get(dropped)
                .is_some_and(|version| version.is_deletion() && version.revision < revision)
            {
                dropped += 1;
            }
            for old in entry.older.drain(..dropped) {
                self.older_bytes = self.older_bytes.saturating_sub(old.bytes(&key));
            }
        }
        if self.changes.len() * 4 < self.changes.capacity() {
            self.changes.shrink_to_fit();
        }
    }

    /// Moves the version of a key to another place, if the key still has it.
    pub fn relocate(&mut self, key: &[u8], revision: Revision, place: Place) {
        let Some(entry) = self.keys.get_mut(key) else {
            return;
        };
        for version in std::iter::once(&mut entry.newest).chain(&mut entry.older) {
            if version.revision == revision && !version.is_deletion() {
                version.place = place;
            }
        }
    }

    /// Changes from revision `from` up to and including `through`, with the version before each: at most `limit` that
    /// lie in `range`, and of at most `scan` looked at; revisions are never split. Also the first revision not covered.
    pub fn changes(
        &self,
        range: &KeyRange,
        from: Revision,
        through: Revision,
        limit: usize,
        scan: usize,
    ) -> (Vec<Change>, Revision) {
        let start = self
            .changes
            .partition_point(|(revision, _)| *revision < from);
        let mut found: Vec<Change> = Vec::new();
        let mut last = 0;
        let mut bytes = 0;
        for (looked, (revision, key)) in self.changes.range(start..).enumerate() {
            if *revision > through {
                break;
            }
            if *revision != last
                && (found.len() >= limit || looked >= scan || bytes >= MESSAGE_BYTES)
            {
                return (found, *revision);
            }
            last = *revision;
            if range.contains(key)
                && let Some((version, before)) =
                    self.keys.get(key).and_then(|entry| entry.made(*revision))
            {
                bytes += version.bytes(key) as usize;
                found.push(Change {
                    key: key.clone(),
                    version: *version,
                    previous: before.filter(|version| !version.is_deletion()).copied(),
                });
            }
        }
        (found, through + 1)
    }

    /// How many changes are remembered.
    pub fn remembered(&self) -> usize {
        self.changes.len()
    }

    /// The revision of the change that has `kept` changes behind it.
    pub fn revision_before_last(&self, kept: usize) -> Option<Revision> {
        self.changes
            .get(self.changes.len().checked_sub(kept)?)
            .map(|(revision, _)| *revision)
    }

    /// Bytes on disk of the newest versions.
    pub fn newest_bytes(&self) -> u64 {
        self.newest_bytes
    }

    /// Bytes on disk of the older versions still remembered.
    pub fn older_bytes(&self) -> u64 {
        self.older_bytes
    }

    /// Starts or restarts a lease.
    pub fn grant(&mut self, id: i64, ttl: i64, now: Instant) {
        let seconds = u64::try_from(ttl).unwrap_or(0).min(MAX_TTL);
        let deadline = now + Duration::from_secs(seconds);
        let lease = self.leases.entry(id).or_insert_with(|| Lease {
            ttl,
            deadline,
            keys: HashSet::new(),
        });
        lease.ttl = ttl;
        lease.deadline = deadline;
    }
}

/// One remembered change.
#[derive(Clone, Debug)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// What it became.
    pub version: Version,
    /// What it was.
    pub previous: Option<Version>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(revision: Revision) -> Version {
        Version {
            revision,
            create: 2,
            lease: 0,
            place: Place {
                file: 1,
                len: 1,
                offset: 0,
            },
            version: 1,
        }
    }

    /// Nothing quadratic: history of one key that was written a hundred thousand times is read in pieces, each change with
    /// what was before it.
    #[test]
    fn history_of_one_key_costs_no_more_than_that_of_many() {
        const LAST: Revision = 100_001;
        let mut index = Index::default();
        let key = Bytes::from_static(b"/a");
        for revision in 2..=LAST {
            let deleted = revision % 10 == 0;
            index.apply(
                &key,
                if deleted {
                    Version::deletion(revision)
                } else {
                    version(revision)
                },
            );
        }
        let range = KeyRange::prefix(b"/");
        let mut from = 2;
        let mut seen = Vec::new();
        while from <= LAST {
            let (found, next) = index.changes(&range, from, LAST, 1000, 50_000);
            seen.extend(found);
            from = next;
        }
        assert_eq!(seen.len(), 100_000);
        for (change, revision) in seen.iter().zip(2..) {
            assert_eq!(change.version.revision, revision);
            let before = change.previous.map(|version| version.revision);
            let first = revision == 2 || revision % 10 == 1;
            assert_eq!(before, (!first).then_some(revision - 1));
            let read = index.get(&key, revision).map(|version| version.revision);
            assert_eq!(read, (revision % 10 != 0).then_some(revision));
        }
        assert!(index.get(&key, 1).is_none());
    }

    /// What was current at the revision stays, and what is newer; everything else goes from the memory.
    #[test]
    fn compaction_leaves_nothing_of_what_was_gone_before() {
        let mut index = Index::default();
        let [gone, kept, again, later] =
            ["gone", "kept", "again", "later"].map(|key| Bytes::from_static(key.as_bytes()));
        for (key, change) in [
            (&gone, version(2)),
            (&gone, Version::deletion(3)),
            (&kept, version(4)),
            (&kept, version(5)),
            (&again, version(6)),
            (&again, Version::deletion(7)),
            (&later, version(8)),
            (&later, version(9)),
            (&again, version(10)),
            (&later, version(11)),
        ] {
            index.apply(key, change);
        }
        index.compact(10);
        let mut keys: Vec<&Bytes> = index.keys.keys().collect();
        keys.sort();
        assert_eq!(keys, [&again, &kept, &later]);
        let at = |key: &Bytes, revision| index.get(key, revision).map(|v| v.revision);
        assert_eq!(
            (at(&kept, 10), at(&again, 10), at(&later, 10)),
            (Some(5), Some(10), Some(9))
        );
        assert_eq!(at(&later, 11), Some(11));
        let older: usize = index.keys.values().map(|entry| entry.older.len()).sum();
        assert_eq!(older, 1, "later's at 9, which was current");
        assert_eq!(index.older_bytes(), version(9).bytes(&later));
        assert_eq!(index.changes.len(), 2, "those at 10 and 11");
    }
}
