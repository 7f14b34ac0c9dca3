//! A snapshot as a bbolt database with etcd's buckets: `key` (the pairs by revision), `lease`, `meta`.
//!
//! It holds the newest state only, marked as compacted at its revision. The whole layout is planned from lengths first, so
//! that the file streams in page order while values are read one at a time. At its end comes a sha256 of everything
//! before, which is what `etcdctl snapshot` checks.
//!
//! Format: pages of 4096 bytes; page header: id u64, flags u16, count u16, overflow u32; leaf element: flags, position of
//! the key from the element, key length, value length; branch element: position, key length, page u64; all little endian.

use std::ops::Range;

use bytes::Bytes;
use etcd_client::proto::PbKeyValue;
use prost::Message;

use crate::embedded::hub::Stored;
use crate::embedded::index::KeyRange;
use crate::embedded::{Embedded, RangeRead};
use crate::{Error, Revision};

const PAGE: usize = 4096;
const PAGE_HEADER: usize = 16;
const ELEMENT: usize = 16;
const BRANCH: u16 = 1;
const LEAF: u16 = 2;
const META: u16 = 4;
const FREELIST: u16 = 0x10;
const BUCKET: u32 = 1;
const FIRST_FREE: u64 = 3;
const PART: usize = 256 << 10;

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct LeaseRecord {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int64, tag = "2")]
    ttl: i64,
}

enum Value {
    Held(Vec<u8>),
    Stored {
        key: Bytes,
        stored: Stored,
        len: usize,
    },
}

struct Item {
    key: Vec<u8>,
    value: Value,
    flags: u32,
}

impl Item {
    fn held(key: &[u8], value: Vec<u8>) -> Self {
        Self {
            key: key.to_vec(),
            value: Value::Held(value),
            flags: 0,
        }
    }

    fn value_len(&self) -> usize {
        match &self.value {
            Value::Held(value) => value.len(),
            Value::Stored { len, .. } => *len,
        }
    }

    fn len(&self) -> usize {
        ELEMENT + self.key.len() + self.value_len()
    }

    fn write_value(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        match &self.value {
            Value::Held(value) => out.extend_from_slice(value),
            Value::Stored { key, stored, len } => {
                let before = out.len();
                let value = stored.segment.read(&stored.version.place)?;
                encode(out, key, stored, value);
                if out.len() - before != *len {
                    return Err(Error::Corrupt(
                        "a pair has another length than planned".to_owned(),
                    ));
                }
            }
        }
        Ok(())
    }
}

fn message(key: &Bytes, stored: &Stored) -> PbKeyValue {
    PbKeyValue {
        key: key.to_vec(),
        create_revision: stored.version.create,
        mod_revision: stored.version.revision,
        version: i64::from(stored.version.version),
        value: Vec::new(),
        lease: stored.version.lease,
    }
}

fn encode(out: &mut Vec<u8>, key: &Bytes, stored: &Stored, value: Bytes) {
    let message = PbKeyValue {
        value: value.into(),
        ..message(key, stored)
    };
    out.extend_from_slice(&message.encode_to_vec());
}

fn encoded_len(key: &Bytes, stored: &Stored) -> usize {
    let len = stored.version.place.len as usize;
    let value = if len == 0 {
        0
    } else {
        1 + prost::length_delimiter_len(len) + len
    };
    message(key, stored).encoded_len() + value
}

fn revision_key(revision: Revision, sub: i64) -> Vec<u8> {
    let mut key = Vec::with_capacity(17);
    key.extend_from_slice(&revision.to_be_bytes());
    key.push(b'_');
    key.extend_from_slice(&sub.to_be_bytes());
    key
}

/// One page of a tree: a leaf over items, or a branch over pages of the level below.
struct Page {
    id: u64,
    flags: u16,
    covers: Range<usize>,
    /// Pages beyond the first.
    overflow: u32,
}

struct Tree {
    items: Vec<Item>,
    /// Leaves first, then level by level; the root is last. Branches cover positions in this list.
    pages: Vec<Page>,
}

impl Tree {
    fn plan(items: Vec<Item>, next: &mut u64) -> Self {
        let mut pages = Vec::new();
        let lens: Vec<usize> = items.iter().map(Item::len).collect();
        fill(&mut pages, LEAF, &lens, 0, next);
        let mut level = 0..pages.len();
        while level.len() > 1 {
            let lens: Vec<usize> = level
                .clone()
                .map(|page| ELEMENT + first_key(&items, &pages, page).len())
                .collect();
            let start = pages.len();
            fill(&mut pages, BRANCH, &lens, level.start, next);
            level = start..pages.len();
        }
        Self { items, pages }
    }

    fn root(&self) -> u64 {
        self.pages.last().map_or(0, |page| page.id)
    }

    fn write(&self, out: &mut Output<'_>) -> Result<(), Error> {
        for page in &self.pages {
            let mut bytes = page_header(page.id, page.flags, page.covers.len(), page.overflow);
            let mut position = page.covers.len() * ELEMENT;
            if page.flags == LEAF {
                let items = self.items.get(page.covers.clone()).unwrap_or_default();
                for item in items {
                    for field in [
                        item.flags,
                        small(position),
                        small(item.key.len()),
                        small(item.value_len()),
                    ] {
                        bytes.extend_from_slice(&field.to_le_bytes());
                    }
                    // Positions count from each element.
                    position = position + item.key.len() + item.value_len() - ELEMENT;
                }
                for item in items {
                    bytes.extend_from_slice(&item.key);
                    item.write_value(&mut bytes)?;
                }
            } else {
                let mut keys = Vec::new();
                for child in page.covers.clone() {
                    let key = first_key(&self.items, &self.pages, child);
                    bytes.extend_from_slice(&small(position).to_le_bytes());
                    bytes.extend_from_slice(&small(key.len()).to_le_bytes());
                    bytes.extend_from_slice(
                        &self
                            .pages
                            .get(child)
                            .map_or(0, |page| page.id)
                            .to_le_bytes(),
                    );
                    position = position + key.len() - ELEMENT;
                    keys.extend_from_slice(key);
                }
                bytes.extend_from_slice(&keys);
            }
            bytes.resize(PAGE * (page.overflow as usize + 1), 0);
            out.push(&bytes)?;
        }
        Ok(())
    }
}

fn first_key<'a>(items: &'a [Item], pages: &[Page], page: usize) -> &'a [u8] {
    let mut page = page;
    while let Some(found) = pages.get(page) {
        if found.flags == LEAF {
            return items
                .get(found.covers.start)
                .map_or(&[], |item| item.key.as_slice());
        }
        page = found.covers.start;
    }
    &[]
}

/// Puts elements of these lengths on pages; `base` is the first element's number.
fn fill(pages: &mut Vec<Page>, flags: u16, lens: &[usize], base: usize, next: &mut u64) {
    let mut start = 0;
    let mut used = PAGE_HEADER;
    let mut add = |range: Range<usize>, used: usize| {
        let count = used.div_ceil(PAGE).max(1);
        pages.push(Page {
            id: *next,
            flags,
            covers: base + range.start..base + range.end,
            overflow: small(count - 1),
        });
        *next += count as u64;
    };
    for (position, len) in lens.iter().enumerate() {
        if position > start && used + len > PAGE {
            add(start..position, used);
            start = position;
            used = PAGE_HEADER;
        }
        used += len;
    }
    add(start..lens.len(), used);
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn page_header(id: u64, flags: u16, count: usize, overflow: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PAGE);
    bytes.extend_from_slice(&id.to_le_bytes());
    bytes.extend_from_slice(&flags.to_le_bytes());
    bytes.extend_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes());
    bytes.extend_from_slice(&overflow.to_le_bytes());
    bytes
}

fn meta_page(id: u64, root: u64, high_water: u64) -> Vec<u8> {
    let mut meta = Vec::new();
    for field in [0xED0C_DAED_u32, 2, PAGE as u32, 0] {
        meta.extend_from_slice(&field.to_le_bytes());
    }
    // Root bucket and its sequence, freelist, high water mark, transaction.
    for field in [root, 0, 2, high_water, id] {
        meta.extend_from_slice(&field.to_le_bytes());
    }
    let fnv = meta.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    meta.extend_from_slice(&fnv.to_le_bytes());
    let mut page = page_header(id, META, 0, 0);
    page.extend_from_slice(&meta);
    page.resize(PAGE, 0);
    page
}

/// Receives parts of the file with the bytes that remain; `false` ends the writing.
pub type Send<'a> = &'a mut dyn FnMut(Vec<u8>, u64) -> bool;

struct Output<'a> {
    part: Vec<u8>,
    remaining: u64,
    digest: ring::digest::Context,
    send: Send<'a>,
}

impl Output<'_> {
    fn push(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.digest.update(bytes);
        self.part.extend_from_slice(bytes);
        if self.part.len() >= PART {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<(), Error> {
        let part = std::mem::take(&mut self.part);
        self.remaining = self.remaining.saturating_sub(part.len() as u64);
        if (self.send)(part, self.remaining) {
            Ok(())
        } else {
            Err(Error::Unavailable("the client is gone".to_owned()))
        }
    }
}

/// A snapshot that is planned but not yet written. It keeps the files it needs open.
pub struct Plan {
    revision: Revision,
    trees: Vec<Tree>,
    root: Tree,
    high_water: u64,
}

impl Plan {
    /// Plans a snapshot of the newest state.
    pub fn new(store: &Embedded) -> Result<Self, Error> {
        let range = KeyRange {
            start: Bytes::new(),
            end: None,
        };
        let found = store.find(&RangeRead {
            range,
            limit: 0,
            revision: 0,
            count_only: false,
        })?;
        let revision = found.revision;
        let mut pairs = found.items;
        // Keys of one revision stay in key order and are numbered.
        pairs.sort_by_key(|(_, stored)| stored.version.revision);
        let mut items = Vec::with_capacity(pairs.len());
        let mut last = (0, 0);
        for (key, stored) in pairs {
            last = if last.0 == stored.version.revision {
                (last.0, last.1 + 1)
            } else {
                (stored.version.revision, 0)
            };
            let len = encoded_len(&key, &stored);
            items.push(Item {
                key: revision_key(last.0, last.1),
                value: Value::Stored { key, stored, len },
                flags: 0,
            });
        }
        let leases = store.leases().into_iter().filter_map(|id| {
            let ttl = store.lease(id)?.granted;
            Some(Item::held(
                &id.to_be_bytes(),
                LeaseRecord { id, ttl }.encode_to_vec(),
            ))
        });
        let meta = ["finishedCompactRev", "scheduledCompactRev"]
            .map(|name| Item::held(name.as_bytes(), revision_key(revision, 0)));
        let mut next = FIRST_FREE;
        let mut trees = Vec::new();
        let mut buckets = Vec::new();
        for (name, items) in [
            ("key", items),
            ("lease", leases.collect()),
            ("meta", Vec::from(meta)),
        ] {
            let tree = Tree::plan(items, &mut next);
            let mut header = tree.root().to_le_bytes().to_vec();
            header.extend_from_slice(&0_u64.to_le_bytes());
            buckets.push(Item {
                flags: BUCKET,
                ..Item::held(name.as_bytes(), header)
            });
            trees.push(tree);
        }
        let root = Tree::plan(buckets, &mut next);
        Ok(Self {
            revision,
            trees,
            root,
            high_water: next,
        })
    }

    /// The revision of the state.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Writes the file in parts.
    pub fn write(&self, send: Send<'_>) -> Result<(), Error> {
        let digest = ring::digest::Context::new(&ring::digest::SHA256);
        let remaining = self.high_water * PAGE as u64 + 32;
        let mut out = Output {
            part: Vec::new(),
            remaining,
            digest,
            send,
        };
        out.push(&meta_page(0, self.root.root(), self.high_water))?;
        out.push(&meta_page(1, self.root.root(), self.high_water))?;
        let mut free = page_header(2, FREELIST, 0, 0);
        free.resize(PAGE, 0);
        out.push(&free)?;
        for tree in &self.trees {
            tree.write(&mut out)?;
        }
        self.root.write(&mut out)?;
        let digest = out.digest.clone().finish();
        out.push(digest.as_ref())?;
        out.flush()
    }
}
