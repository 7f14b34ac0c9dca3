//! node-ipam-controller: gives each node a range of pod addresses out of `--cluster-cidr`, one per IP family.
//!
//! Invariants: no two nodes have the same range; a range is given back when its node is gone; ranges that overlap the
//! services' are never given out.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use client::resource::NODES;
use client::{Change, EventType, ObjectKey, ObjectReference, Patch};
use serde_json::json;

use crate::Context;
use crate::views::Node;

/// An IP range as a number and a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    base: u128,
    prefix: u8,
    v6: bool,
}

impl Range {
    /// From `10.0.0.0/8`; host bits are dropped.
    pub fn parse(text: &str) -> Option<Range> {
        let (ip, prefix) = text.trim().split_once('/')?;
        let prefix: u8 = prefix.parse().ok()?;
        let (base, v6) = match ip.parse().ok()? {
            IpAddr::V4(ip) => (u128::from(u32::from(ip)), false),
            IpAddr::V6(ip) => (u128::from(ip), true),
        };
        let r = Range { base, prefix, v6 };
        (prefix <= r.bits()).then(|| Range {
            base: base & !r.host_mask(),
            ..r
        })
    }

    fn bits(&self) -> u8 {
        if self.v6 { 128 } else { 32 }
    }

    fn host_mask(&self) -> u128 {
        let host = u32::from(self.bits() - self.prefix);
        if host >= 128 {
            u128::MAX
        } else {
            (1u128 << host) - 1
        }
    }

    fn overlaps(&self, o: &Range) -> bool {
        self.v6 == o.v6 && {
            let mask = self.host_mask() | o.host_mask();
            self.base & !mask == o.base & !mask
        }
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ip = if self.v6 {
            IpAddr::from(self.base.to_be_bytes())
        } else {
            let [.., a, b, c, d] = self.base.to_be_bytes();
            IpAddr::from([a, b, c, d])
        };
        write!(f, "{ip}/{}", self.prefix)
    }
}

/// The ranges of one IP family.
#[derive(Clone, Debug)]
pub struct Pool {
    whole: Range,
    mask: u8,
    next: u128,
    used: HashSet<u128>,
    reserved: Vec<Range>,
}

impl Pool {
    /// Ranges of `mask` bits out of `whole`, without those that overlap `reserved`. `None` when the mask does not fit.
    pub fn new(whole: Range, mask: u8, reserved: Vec<Range>) -> Option<Pool> {
        let fits = mask >= whole.prefix && mask <= whole.bits() && mask - whole.prefix <= 16;
        fits.then(|| Pool {
            whole,
            mask,
            next: 0,
            used: HashSet::new(),
            reserved,
        })
    }

    fn count(&self) -> u128 {
        1 << (self.mask - self.whole.prefix)
    }

    fn at(&self, i: u128) -> Range {
        let shift = u32::from(self.whole.bits() - self.mask);
        let step = if shift >= 128 { 0 } else { i << shift };
        Range {
            base: self.whole.base | step,
            prefix: self.mask,
            v6: self.whole.v6,
        }
    }

    fn index(&self, r: &Range) -> Option<u128> {
        let shift = u32::from(self.whole.bits() - self.mask);
        self.whole.overlaps(r).then(|| {
            if shift >= 128 {
                0
            } else {
                (r.base & self.whole.host_mask()) >> shift
            }
        })
    }

    /// Marks a range as taken. Ranges outside the pool are none of its business.
    pub fn occupy(&mut self, r: &Range) {
        if let Some(i) = self.index(r) {
            self.used.insert(i);
        }
    }

    /// Gives a range back.
    pub fn release(&mut self, r: &Range) {
        if let Some(i) = self.index(r) {
            self.used.remove(&i);
        }
    }

    /// Takes the next free range; ranges given back come last.
    pub fn take(&mut self) -> Option<Range> {
        for _ in 0..self.count() {
            let i = self.next;
            self.next = (self.next + 1) % self.count();
            let r = self.at(i);
            if !self.used.contains(&i) && !self.reserved.iter().any(|s| s.overlaps(&r)) {
                self.used.insert(i);
                return Some(r);
            }
        }
        None
    }
}

#[derive(Default)]
struct State {
    pools: Vec<Pool>,
    /// Given to nodes whose cache entry does not show it yet.
    given: HashMap<String, Vec<Range>>,
}

fn ranges(node: &Node) -> Vec<Range> {
    let mut texts = node.spec.pod_cidrs.clone();
    if texts.is_empty() && !node.spec.pod_cidr.is_empty() {
        texts.push(node.spec.pod_cidr.clone());
    }
    texts.iter().filter_map(|t| Range::parse(t)).collect()
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let config = ctx.config.clone();
    if !config.allocate_node_cidrs {
        return;
    }
    let reserved: Vec<Range> = config
        .service_cidrs
        .iter()
        .filter_map(|c| Range::parse(c))
        .collect();
    let mut pools = Vec::new();
    for cidr in &config.cluster_cidrs {
        let pool = Range::parse(cidr).and_then(|whole| {
            let mask = if whole.v6 {
                config.node_mask_v6
            } else {
                config.node_mask_v4
            };
            Pool::new(whole, mask, reserved.clone())
        });
        match pool {
            Some(p) => pools.push(p),
            None => tracing::error!(
                cidr,
                "--cluster-cidr is not a range that node ranges fit in; it is left out"
            ),
        }
    }
    if pools.is_empty() {
        tracing::error!("node ranges are to be allocated, but --cluster-cidr has none to give");
        return;
    }
    let nodes = ctx.informer::<Node>(&NODES);
    let state = Arc::new(Mutex::new(State {
        pools,
        given: HashMap::new(),
    }));
    let queue = ctx.queue("cidrallocator");
    let (q, s) = (queue.clone(), state.clone());
    nodes.on_change(move |change| {
        let node = change.object();
        let mut state = s.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held = ranges(node);
        match change {
            Change::Deleted(_) => {
                held.extend(state.given.remove(&node.metadata.name).unwrap_or_default());
                state
                    .pools
                    .iter_mut()
                    .for_each(|p| held.iter().for_each(|r| p.release(r)));
            }
            _ if held.is_empty() => q.add(ObjectKey::of(&**node)),
            _ => {
                state.given.remove(&node.metadata.name);
                state
                    .pools
                    .iter_mut()
                    .for_each(|p| held.iter().for_each(|r| p.occupy(r)));
            }
        }
    });
    let (store, client, recorder) = (nodes.store(), ctx.client.clone(), ctx.recorder.clone());
    // All nodes have been told to the pools before the first allocation: the workers wait for the caches.
    ctx.run(queue, 10, move |key| {
        let (store, client, recorder, state) = (
            store.clone(),
            client.clone(),
            recorder.clone(),
            state.clone(),
        );
        async move {
            let Some(node) = store.get_key(&key).filter(|n| ranges(n).is_empty()) else {
                return Ok(None);
            };
            let given = {
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                match state.given.get(&key.name) {
                    Some(g) => Some(g.clone()),
                    None => {
                        let taken: Vec<Range> =
                            state.pools.iter_mut().filter_map(Pool::take).collect();
                        if taken.len() == state.pools.len() {
                            state.given.insert(key.name.clone(), taken.clone());
                            Some(taken)
                        } else {
                            state
                                .pools
                                .iter_mut()
                                .for_each(|p| taken.iter().for_each(|r| p.release(r)));
                            None
                        }
                    }
                }
            };
            let reference = ObjectReference {
                uid: key.name.clone(),
                ..ObjectReference::of(&NODES, &*node)
            };
            let Some(given) = given else {
                let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
                recorder.event(reference, EventType::Normal, "CIDRNotAvailable", message);
                return Ok(Some(std::time::Duration::from_secs(60)));
            };
            let texts: Vec<String> = given.iter().map(ToString::to_string).collect();
            let patch =
                Patch::Strategic(json!({"spec": {"podCIDR": texts.first(), "podCIDRs": texts}}));
            match client
                .api(&NODES)
                .patch::<serde::de::IgnoredAny>(&key.name, &patch)
                .await
            {
                Ok(_) => Ok(None),
                Err(e) if e.is_not_found() => Ok(None),
                Err(e) if e.is_invalid() => {
                    // Someone else gave the node another range.
                    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                    state.given.remove(&key.name);
                    state
                        .pools
                        .iter_mut()
                        .for_each(|p| given.iter().for_each(|r| p.release(r)));
                    Ok(None)
                }
                Err(e) => {
                    let message = format!("Node {} status is now: CIDRAssignmentFailed", key.name);
                    recorder.event(
                        reference,
                        EventType::Normal,
                        "CIDRAssignmentFailed",
                        message,
                    );
                    Err(e)
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool(whole: &str, mask: u8, reserved: &[&str]) -> Pool {
        let reserved = reserved.iter().map(|r| Range::parse(r).unwrap()).collect();
        Pool::new(Range::parse(whole).unwrap(), mask, reserved).unwrap()
    }

    #[test]
    fn ranges_print_and_parse() {
        for text in ["10.244.3.0/24", "fd00:10:244:3::/64", "0.0.0.0/0", "::/0"] {
            assert_eq!(Range::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(
            Range::parse("10.1.2.3/16").unwrap().to_string(),
            "10.1.0.0/16"
        );
        assert!(Range::parse("10.0.0.0/33").is_none() && Range::parse("x/8").is_none());
    }

    #[test]
    fn in_order_and_without_the_services() {
        let mut p = pool("10.0.0.0/14", 16, &["10.1.0.0/20"]);
        let all: Vec<_> = std::iter::from_fn(|| p.take())
            .map(|r| r.to_string())
            .collect();
        assert_eq!(all, ["10.0.0.0/16", "10.2.0.0/16", "10.3.0.0/16"]);
        p.release(&Range::parse("10.2.0.0/16").unwrap());
        assert_eq!(p.take().unwrap().to_string(), "10.2.0.0/16");
        assert_eq!(p.take(), None);
    }

    #[test]
    fn second_family() {
        let mut p = pool("fd00::/48", 64, &[]);
        p.occupy(&Range::parse("fd00::/64").unwrap());
        assert_eq!(p.take().unwrap().to_string(), "fd00:0:0:1::/64");
    }

    proptest! {
        #[test]
        fn no_range_is_given_twice(ops in proptest::collection::vec(any::<bool>(), 0..400)) {
            let mut p = pool("10.244.0.0/16", 24, &[]);
            let mut held: Vec<Range> = Vec::new();
            for take in ops {
                if take {
                    if let Some(r) = p.take() {
                        prop_assert!(!held.iter().any(|h| h.overlaps(&r)));
                        held.push(r);
                    }
                } else if !held.is_empty() {
                    let r = held.remove(held.len() / 2);
                    p.release(&r);
                }
            }
        }
    }
}
