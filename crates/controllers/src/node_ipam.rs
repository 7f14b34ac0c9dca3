//! node-ipam-controller: gives each node a part of the cluster's pod range, one per IP family (upstream's
//! `RangeAllocator`).
//!
//! Invariants: no range is given to two nodes: what nodes have is taken up before the first one is given, and a range
//! chosen for a node stays that node's until the node is gone, whatever became of the request that told it; ranges that
//! overlap the services' are never given. What a node says it has counts only up to a part of the cluster's range: unlike
//! upstream, one node that says too much does not keep all others from having anything. A node for which nothing is left waits for another one to go.
//!
//! Absent on purpose: allocators of cloud providers.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use client::events::Format;
use client::resource::NODES;
use client::{
    Change, EventType, ObjectKey, ObjectReference, Patch, Recorder, Store, View as _, WorkQueue,
};
use serde_json::json;

use crate::config::Config;
use crate::context::Context;
use crate::views::Node;

/// Most node ranges in an IPv6 cluster range, as a power of two; upstream's bound.
const MAX_BITS_V6: u8 = 16;
/// Most node ranges in an IPv4 cluster range, as a power of two: 2 MiB of bitmap.
const MAX_BITS_V4: u8 = 24;

/// Node ranges that a node may have, whatever part of the cluster's they are: those of a `--node-cidr-mask-size` that was four
/// bits shorter.
const MOST: usize = 16;
/// Beyond these, the part of the cluster's range that one node may have.
const PART: usize = 16;

/// Why the flags cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No range.
    #[error("must specify --cluster-cidr if --allocate-node-cidrs is set")]
    None,
    /// Not a range.
    #[error("invalid CIDR {0:?}")]
    Cidr(String),
    /// More than one per family.
    #[error("--cluster-cidr takes one CIDR per IP family")]
    Families,
    /// The nodes' mask against the cluster's.
    #[error(
        "mask size of cluster CIDR {0} must be less than or equal to --node-cidr-mask-size configured for CIDR family"
    )]
    Mask(Cidr),
    /// Too many node ranges in the cluster's.
    #[error("the node CIDR size is too big for cluster CIDR {0}")]
    TooMany(Cidr),
    /// A node's range lies elsewhere.
    #[error("cidr {0} is out the range of cluster cidr")]
    Outside(Cidr),
    /// A node's range is a large part of the cluster's.
    #[error("cidr {0} is too wide for one node")]
    Wide(Cidr),
}

/// An IP range: its first address and the number of bits that are fixed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cidr {
    base: u128,
    length: u8,
    v6: bool,
}

impl Cidr {
    /// From `ADDRESS/LENGTH`. Bits behind the length are dropped.
    pub fn parse(text: &str) -> Result<Cidr, Error> {
        let bad = || Error::Cidr(text.to_owned());
        let (address, length) = text.trim().split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let length: u8 = length.parse().map_err(|_| bad())?;
        let (base, v6) = match address {
            IpAddr::V4(a) => (u128::from(u32::from(a)), false),
            IpAddr::V6(a) => (u128::from(a), true),
        };
        let mut cidr = Cidr { base, length, v6 };
        if length > cidr.width() {
            return Err(bad());
        }
        cidr.base &= !cidr.host_mask();
        Ok(cidr)
    }

    fn width(&self) -> u8 {
        if self.v6 { 128 } else { 32 }
    }

    fn host_mask(&self) -> u128 {
        1u128
            .checked_shl(u32::from(self.width() - self.length))
            .map_or(u128::MAX, |n| n - 1)
    }

    fn last(&self) -> u128 {
        self.base | self.host_mask()
    }

    fn overlaps(&self, other: &Cidr) -> bool {
        self.v6 == other.v6 && self.base <= other.last() && other.base <= self.last()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.v6 {
            write!(f, "{}/{}", Ipv6Addr::from(self.base), self.length)
        } else {
            let base = u32::try_from(self.base).unwrap_or(u32::MAX);
            write!(f, "{}/{}", Ipv4Addr::from(base), self.length)
        }
    }
}

/// A cluster range cut into node ranges.
#[derive(Debug)]
struct Range {
    cluster: Cidr,
    node_length: u8,
    /// One bit per node range; grows as needed.
    used: Vec<u64>,
    /// Where to look first: ranges just given back are used again last.
    next: usize,
}

impl Range {
    fn new(cluster: Cidr, node_length: u8) -> Result<Range, Error> {
        if node_length < cluster.length || node_length > cluster.width() {
            return Err(Error::Mask(cluster));
        }
        let most = if cluster.v6 { MAX_BITS_V6 } else { MAX_BITS_V4 };
        if node_length - cluster.length > most {
            return Err(Error::TooMany(cluster));
        }
        Ok(Range {
            cluster,
            node_length,
            used: Vec::new(),
            next: 0,
        })
    }

    fn size(&self) -> usize {
        1 << (self.node_length - self.cluster.length)
    }

    fn shift(&self) -> u32 {
        u32::from(self.cluster.width() - self.node_length)
    }

    fn at(&self, index: usize) -> Cidr {
        let offset = (index as u128).checked_shl(self.shift()).unwrap_or(0);
        Cidr {
            base: self.cluster.base | offset,
            length: self.node_length,
            v6: self.cluster.v6,
        }
    }

    /// The node ranges that a range touches.
    fn indexes(&self, cidr: &Cidr) -> Option<std::ops::RangeInclusive<usize>> {
        if !self.cluster.overlaps(cidr) {
            return None;
        }
        let index = |address: u128| {
            let offset = address - self.cluster.base;
            usize::try_from(offset.checked_shr(self.shift()).unwrap_or(0)).ok()
        };
        let first = index(cidr.base.max(self.cluster.base))?;
        let last = index(cidr.last().min(self.cluster.last()))?;
        Some(first..=last)
    }

    fn is_used(&self, index: usize) -> bool {
        self.used
            .get(index / 64)
            .is_some_and(|w| w & (1 << (index % 64)) != 0)
    }

    fn set(&mut self, index: usize, used: bool) {
        if used && self.used.len() <= index / 64 {
            self.used.resize(index / 64 + 1, 0);
        }
        if let Some(word) = self.used.get_mut(index / 64) {
            let bit = 1 << (index % 64);
            if used {
                *word |= bit;
            } else {
                *word &= !bit;
            }
        }
    }

    fn take(&mut self) -> Option<Cidr> {
        let size = self.size();
        let index = (self.next..size)
            .chain(0..self.next)
            .find(|i| !self.is_used(*i))?;
        self.set(index, true);
        self.next = (index + 1) % size;
        Some(self.at(index))
    }
}

/// Which node has which ranges.
#[derive(Debug)]
pub struct Allocator {
    ranges: Vec<Range>,
    /// By the nodes' UIDs.
    held: HashMap<String, Vec<Cidr>>,
    reserved: Vec<Cidr>,
}

impl Allocator {
    /// With the ranges of the flags.
    pub fn new(config: &Config) -> Result<Allocator, Error> {
        let parse = |texts: &[String]| -> Result<Vec<Cidr>, Error> {
            texts.iter().map(|t| Cidr::parse(t)).collect()
        };
        let clusters = parse(&config.cluster_cidrs)?;
        match clusters.as_slice() {
            [] => return Err(Error::None),
            [_] => {}
            [a, b] if a.v6 != b.v6 => {}
            _ => return Err(Error::Families),
        }
        let mask = |c: &Cidr| {
            if c.v6 {
                config.node_mask_v6
            } else {
                config.node_mask_v4
            }
        };
        let ranges = clusters
            .into_iter()
            .map(|c| Range::new(c, mask(&c)))
            .collect::<Result<Vec<_>, _>>()?;
        let mut allocator = Allocator {
            ranges,
            held: HashMap::new(),
            reserved: parse(&config.service_cidrs)?,
        };
        for cidr in allocator.reserved.clone() {
            allocator.mark(&cidr, true);
        }
        Ok(allocator)
    }

    fn too_wide(&self, cidr: &Cidr) -> bool {
        self.ranges.iter().any(|r| {
            let count = r.indexes(cidr).map_or(0, |i| i.end() - i.start() + 1);
            count > MOST && count > r.size() / PART
        })
    }

    fn mark(&mut self, cidr: &Cidr, used: bool) -> bool {
        let mut inside = false;
        for range in &mut self.ranges {
            if let Some(indexes) = range.indexes(cidr) {
                inside = true;
                for i in indexes {
                    range.set(i, used);
                }
            }
        }
        inside
    }

    /// Takes up the ranges that a node has, in place of those meant for it before.
    ///
    /// # Errors
    /// A range that cannot be read or lies outside; the others are taken up all the same.
    pub fn observe(&mut self, uid: &str, cidrs: &[String]) -> Result<(), Error> {
        if cidrs.is_empty() {
            return Ok(());
        }
        let mut failed = None;
        let mut held = Vec::with_capacity(cidrs.len());
        for text in cidrs {
            match Cidr::parse(text) {
                Ok(cidr) if self.too_wide(&cidr) => failed = Some(Error::Wide(cidr)),
                Ok(cidr) => held.push(cidr),
                Err(e) => failed = Some(e),
            }
        }
        if self.held.get(uid) == Some(&held) {
            return Ok(());
        }
        self.forget(uid);
        for cidr in &held {
            if !self.mark(cidr, true) {
                failed = Some(Error::Outside(*cidr));
            }
        }
        self.held.insert(uid.to_owned(), held);
        failed.map_or(Ok(()), Err)
    }

    /// The ranges for a node: the same ones until [`Allocator::forget`]. `None` when a family has none left.
    pub fn assign(&mut self, uid: &str) -> Option<Vec<Cidr>> {
        if let Some(held) = self.held.get(uid) {
            return Some(held.clone());
        }
        let mut taken = Vec::with_capacity(self.ranges.len());
        for range in &mut self.ranges {
            match range.take() {
                Some(cidr) => taken.push(cidr),
                None => {
                    for cidr in &taken {
                        self.mark(cidr, false);
                    }
                    return None;
                }
            }
        }
        self.held.insert(uid.to_owned(), taken.clone());
        Some(taken)
    }

    /// Gives back what a node has, but for what another one has too. Whether there was anything.
    pub fn forget(&mut self, uid: &str) -> bool {
        let Some(gone) = self.held.remove(uid) else {
            return false;
        };
        for cidr in &gone {
            self.mark(cidr, false);
        }
        let overlaps = |other: &&Cidr| gone.iter().any(|g| g.overlaps(other));
        let kept: Vec<Cidr> = self
            .held
            .values()
            .flatten()
            .chain(&self.reserved)
            .filter(overlaps)
            .copied()
            .collect();
        for cidr in &kept {
            self.mark(cidr, true);
        }
        true
    }
}

struct Ipam {
    ctx: Context,
    nodes: Store<Node>,
    queue: WorkQueue<ObjectKey>,
    recorder: Recorder,
    allocator: Mutex<Allocator>,
    /// Nodes for which nothing was left.
    waiting: Mutex<BTreeSet<String>>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the controller, if `--allocate-node-cidrs` asks for it.
pub fn start(ctx: Context) {
    if !ctx.config.allocate_node_cidrs {
        return;
    }
    let allocator = match Allocator::new(&ctx.config) {
        Ok(a) => a,
        Err(error) => {
            tracing::error!(%error, "node-ipam-controller cannot start");
            return;
        }
    };
    let (recorder, writing) = Recorder::new(
        ctx.client.clone(),
        Format::Core,
        "cidrAllocator",
        "",
        ctx.shutdown.clone(),
    );
    ctx.tasks.spawn(writing);
    let nodes = ctx.informer::<Node>(&NODES);
    let queue = ctx.queue("cidrallocator_node");
    let c = Arc::new(Ipam {
        ctx: ctx.clone(),
        nodes: nodes.store(),
        queue: queue.clone(),
        recorder,
        allocator: Mutex::new(allocator),
        waiting: Mutex::default(),
    });
    let it = c.clone();
    nodes.on_change(move |change| it.changed(change));
    // The first keys are worked on when the handler has seen every node there is.
    ctx.run(queue, 8, move |key| {
        let c = c.clone();
        async move { c.sync(&key).await }
    });
}

impl Ipam {
    fn changed(&self, change: Change<'_, Node>) {
        let node = change.object();
        let uid = &node.metadata.uid;
        let replaced = change.old().filter(|o| o.metadata.uid != *uid);
        if let Some(gone) = replaced.or(matches!(change, Change::Deleted(_)).then_some(node)) {
            lock(&self.waiting).remove(gone.name());
            if lock(&self.allocator).forget(&gone.metadata.uid) {
                for name in std::mem::take(&mut *lock(&self.waiting)) {
                    self.queue.add(ObjectKey::new("", name));
                }
            }
        }
        if matches!(change, Change::Deleted(_)) {
            return;
        }
        if node.spec.pod_cidrs.is_empty() {
            self.queue.add(ObjectKey::of(&**node));
        } else if let Err(error) = lock(&self.allocator).observe(uid, &node.spec.pod_cidrs) {
            tracing::error!(node = node.name(), %error, "a node's podCIDRs do not fit --cluster-cidr");
        }
    }

    fn event(&self, node: &Node, reason: &str) {
        let object = ObjectReference {
            resource_version: String::new(),
            ..ObjectReference::of(&NODES, node)
        };
        let message = format!("Node {} status is now: {reason}", node.name());
        self.recorder
            .event(object, EventType::Normal, reason, message);
    }

    async fn sync(&self, key: &ObjectKey) -> Result<Option<Duration>, client::Error> {
        let Some(node) = self.nodes.get_key(key) else {
            return Ok(None);
        };
        if node.metadata.is_deleting() || !node.spec.pod_cidrs.is_empty() {
            return Ok(None);
        }
        let uid = &node.metadata.uid;
        // Waiting before asking: a range given back in between finds the node waiting.
        lock(&self.waiting).insert(key.name.clone());
        let Some(cidrs) = lock(&self.allocator).assign(uid) else {
            self.event(&node, "CIDRNotAvailable");
            return Ok(None);
        };
        lock(&self.waiting).remove(&key.name);
        let cidrs: Vec<String> = cidrs.iter().map(Cidr::to_string).collect();
        let patch = Patch::Strategic(json!({
            "metadata": {"uid": uid},
            "spec": {"podCIDR": cidrs.first(), "podCIDRs": cidrs},
        }));
        let api = self.ctx.client.api(&NODES);
        match api.patch::<serde::de::IgnoredAny>(&key.name, &patch).await {
            Ok(_) => {
                tracing::info!(node = key.name, podCIDRs = ?cidrs, "Set node PodCIDR");
                Ok(None)
            }
            // The node is gone, or another one has its name: that one has a change of its own to come.
            Err(e) if e.is_not_found() || e.is_conflict() => {
                if self
                    .nodes
                    .get_key(key)
                    .is_none_or(|n| n.metadata.uid != *uid)
                {
                    lock(&self.allocator).forget(uid);
                    return Ok(None);
                }
                Err(e)
            }
            Err(e) => {
                self.event(&node, "CIDRAssignmentFailed");
                Err(e)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allocator(clusters: &[&str], services: &[&str], v4: u8, v6: u8) -> Result<Allocator, Error> {
        let own = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
        Allocator::new(&Config {
            cluster_cidrs: own(clusters),
            service_cidrs: own(services),
            node_mask_v4: v4,
            node_mask_v6: v6,
            ..Config::default()
        })
    }

    fn texts(cidrs: Option<Vec<Cidr>>) -> Vec<String> {
        cidrs
            .unwrap_or_default()
            .iter()
            .map(Cidr::to_string)
            .collect()
    }

    #[test]
    fn ranges_are_given_in_order_until_none_is_left() {
        let mut a = allocator(&["10.0.0.0/22"], &[], 24, 64).unwrap();
        for (uid, want) in [
            ("a", "10.0.0.0/24"),
            ("b", "10.0.1.0/24"),
            ("c", "10.0.2.0/24"),
        ] {
            assert_eq!(texts(a.assign(uid)), [want]);
        }
        assert_eq!(
            texts(a.assign("b")),
            ["10.0.1.0/24"],
            "a second try gets the same"
        );
        assert_eq!(texts(a.assign("d")), ["10.0.3.0/24"]);
        assert_eq!(a.assign("e"), None);
        assert!(a.forget("b") && !a.forget("b"));
        assert_eq!(texts(a.assign("e")), ["10.0.1.0/24"]);
    }

    #[test]
    fn what_was_given_back_comes_last() {
        let mut a = allocator(&["10.0.0.0/22"], &[], 24, 64).unwrap();
        a.assign("a");
        a.forget("a");
        assert_eq!(texts(a.assign("b")), ["10.0.1.0/24"]);
    }

    #[test]
    fn what_nodes_have_is_not_given_again() {
        let mut a = allocator(&["10.0.0.0/22"], &[], 24, 64).unwrap();
        let own = |s: &str| vec![s.to_owned()];
        a.observe("a", &own("10.0.0.0/24")).unwrap();
        // Half of a range, and one that spans two.
        a.observe("b", &own("10.0.1.128/25")).unwrap();
        assert_eq!(texts(a.assign("c")), ["10.0.2.0/24"]);
        // Two nodes claim the same: one of them going does not free it.
        a.observe("d", &own("10.0.0.0/24")).unwrap();
        a.forget("a");
        assert_eq!(texts(a.assign("e")), ["10.0.3.0/24"]);
        assert_eq!(a.assign("f"), None);
        assert_eq!(
            a.observe("g", &own("10.9.0.0/24")),
            Err(Error::Outside(Cidr::parse("10.9.0.0/24").unwrap()))
        );
        assert_eq!(a.observe("h", &own("x")), Err(Error::Cidr("x".into())));
    }

    #[test]
    fn one_node_does_not_keep_all_others_from_having_any() {
        let wide = |s: &str| Err(Error::Wide(Cidr::parse(s).unwrap()));
        for (cluster, node, given, refused) in [
            ("10.0.0.0/16", 24, "10.0.16.0/20", "10.0.0.0/19"),
            ("10.0.0.0/16", 24, "10.0.0.0/20", "0.0.0.0/0"),
            ("10.0.0.0/12", 24, "10.0.0.0/16", "10.0.0.0/15"),
        ] {
            let mut a = allocator(&[cluster], &[], node, 64).unwrap();
            assert_eq!(a.observe("a", &[given.to_owned()]), Ok(()), "{given}");
            let held = a.held.clone();
            assert_eq!(a.observe("b", &[refused.to_owned()]), wide(refused));
            a.forget("b");
            assert_eq!(a.held, held);
            for n in 0..200 {
                let c = a.assign(&n.to_string()).expect("room for others");
                assert!(!c[0].overlaps(&Cidr::parse(given).unwrap()));
            }
        }
    }

    #[test]
    fn another_writers_choice_frees_ours() {
        let mut a = allocator(&["10.0.0.0/23"], &[], 24, 64).unwrap();
        assert_eq!(texts(a.assign("a")), ["10.0.0.0/24"]);
        a.observe("a", &["10.0.1.0/24".to_owned()]).unwrap();
        assert_eq!(texts(a.assign("b")), ["10.0.0.0/24"]);
    }

    #[test]
    fn services_keep_their_addresses() {
        let mut a = allocator(&["10.0.0.0/22"], &["10.0.0.0/23"], 24, 64).unwrap();
        assert_eq!(texts(a.assign("a")), ["10.0.2.0/24"]);
        // A range of services that holds the whole cluster's leaves nothing.
        let mut a = allocator(&["10.0.0.0/22"], &["10.0.0.0/8"], 24, 64).unwrap();
        assert_eq!(a.assign("a"), None);
    }

    #[test]
    fn both_families_or_none() {
        let mut a = allocator(&["10.0.0.0/23", "fd00:1::/63"], &["fd00:1::/64"], 24, 64).unwrap();
        assert_eq!(texts(a.assign("a")), ["10.0.0.0/24", "fd00:1:0:1::/64"]);
        assert_eq!(a.assign("b"), None);
        a.forget("a");
        assert_eq!(
            texts(a.assign("b"))[1],
            "fd00:1:0:1::/64",
            "the failure took nothing, and services keep theirs"
        );
    }

    #[test]
    fn flags_that_cannot_work() {
        let error = |c: &[&str], v4, v6| allocator(c, &[], v4, v6).unwrap_err();
        assert_eq!(error(&[], 24, 64), Error::None);
        assert_eq!(
            error(&["10.0.0.0/8", "11.0.0.0/8"], 24, 64),
            Error::Families
        );
        assert_eq!(error(&["10.0.0.0"], 24, 64), Error::Cidr("10.0.0.0".into()));
        assert_eq!(
            error(&["10.0.0.0/33"], 24, 64),
            Error::Cidr("10.0.0.0/33".into())
        );
        assert!(matches!(error(&["10.0.0.0/25"], 24, 64), Error::Mask(_)));
        assert!(matches!(error(&["fd00::/32"], 24, 64), Error::TooMany(_)));
        assert!(allocator(&["fd00::/48"], &[], 24, 64).is_ok());
        assert!(allocator(&["0.0.0.0/0"], &[], 24, 64).is_ok());
    }

    proptest! {
        #[test]
        fn no_range_is_given_twice(ops in proptest::collection::vec((0u8..3, 0usize..40), 0..400)) {
            let mut a = allocator(&["10.244.0.0/19"], &["10.244.4.0/23"], 24, 64).unwrap();
            let (range, services) = (Cidr::parse("10.244.0.0/19").unwrap(), Cidr::parse("10.244.4.0/23").unwrap());
            let mut held: HashMap<String, Cidr> = HashMap::new();
            for (op, n) in ops {
                let uid = n.to_string();
                if op == 0 {
                    a.forget(&uid);
                    held.remove(&uid);
                } else if let Some(c) = a.assign(&uid).and_then(|c| c.first().copied()) {
                    let mut others = held.iter().filter(|(u, _)| **u != uid);
                    prop_assert!(others.all(|(_, h)| !h.overlaps(&c)));
                    prop_assert!(!c.overlaps(&services) && range.overlaps(&c), "{c}");
                    prop_assert!(held.insert(uid, c).is_none_or(|h| h == c));
                } else {
                    // Of 32 ranges, services have two.
                    prop_assert_eq!(held.len(), 30, "{} gets none", uid);
                    prop_assert!(!held.contains_key(&uid));
                }
            }
        }
    }
}
