//! Allocation of service addresses and node ports.
//!
//! A service address is an `IPAddress` object whose creation is the allocation: the store's "must not exist" makes it
//! exclusive across apiservers. Node ports are bits of one `RangeAllocation` object, changed with optimistic writes.
//! Dynamic allocation takes the upper part of a range first, so that the lower one stays for addresses and ports that
//! users choose (KEP-3070, KEP-3668).

use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use base64::Engine;
use bytes::Bytes;
use rand::Rng;
use serde_json::{Value, json};
use storage::{Expect, ListOptions, SharedStore, Written};

use crate::check::masked;
use crate::value::Tree;

/// Where IPAddress objects lie.
const ADDRESSES: &str = "/registry/ipaddresses/";
/// Where the node ports lie.
const NODE_PORTS: &str = "/registry/ranges/servicenodeports";
const NETWORKING: &str = "networking.k8s.io/v1";
/// Candidates tried before all taken addresses are read at once.
const BLIND_TRIES: usize = 16;
/// Optimistic writes of the port map before giving up.
const PORT_RETRIES: usize = 64;

/// Why nothing was allocated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Every address or port is taken.
    #[error("range is full")]
    Full,
    /// The address is taken.
    #[error("provided IP is already allocated")]
    AddressTaken,
    /// No range holds the address, or it is that of the network itself or the broadcast one.
    #[error("the provided network does not match the current range")]
    OtherNetwork,
    /// The port is taken.
    #[error("provided port is already allocated")]
    PortTaken,
    /// The port is outside the range.
    #[error("provided port is not in the valid range. The range of valid ports is {0}")]
    PortOutside(String),
    /// The store failed.
    #[error("{0}")]
    Store(String),
}

impl From<storage::Error> for Error {
    fn from(e: storage::Error) -> Error {
        Error::Store(e.to_string())
    }
}

/// A service range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The network address.
    pub base: IpAddr,
    /// The prefix length.
    pub length: u8,
}

impl Range {
    /// The range around an address.
    pub fn new(ip: IpAddr, length: u8) -> Range {
        Range {
            base: masked(ip, length),
            length,
        }
    }

    /// `10.96.0.0/16`
    pub fn text(&self) -> String {
        format!("{}/{}", self.base, self.length)
    }

    /// Whether an address lies in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.base.is_ipv4() && masked(ip, self.length) == self.base
    }

    /// How many addresses services may have: all but the network's own and, in IPv4, the broadcast address.
    fn usable(&self) -> u128 {
        let bits = if self.base.is_ipv4() { 32 } else { 128 };
        let all = 1u128
            .checked_shl(u32::from(bits - self.length.min(bits)))
            .unwrap_or(u128::MAX);
        all.saturating_sub(if self.base.is_ipv4() { 2 } else { 1 })
    }

    /// The n-th usable address, starting at 0.
    fn nth(&self, n: u128) -> IpAddr {
        match self.base {
            IpAddr::V4(v) => {
                let n = u32::try_from(n + 1).unwrap_or(u32::MAX);
                IpAddr::from(u32::from(v).saturating_add(n).to_be_bytes())
            }
            IpAddr::V6(v) => IpAddr::from(u128::from(v).saturating_add(n + 1).to_be_bytes()),
        }
    }

    /// The size of the lower band, which is for chosen addresses.
    fn lower_band(&self) -> u128 {
        let size = self.usable().saturating_add(2);
        if size <= 16 {
            0
        } else {
            (size / 16).clamp(16, 256)
        }
    }

    fn is_usable(&self, ip: IpAddr) -> bool {
        let last = self.nth(self.usable().saturating_sub(1));
        self.usable() > 0 && ip >= self.nth(0) && ip <= last
    }
}

/// Who an address is for.
#[derive(Clone, Copy, Debug)]
pub struct Parent<'a> {
    /// The service's namespace.
    pub namespace: &'a str,
    /// The service's name.
    pub name: &'a str,
    /// The time of the request, RFC 3339.
    pub now: &'a str,
}

/// The IPAddress object of an allocation.
fn address_object(ip: IpAddr, parent: Parent<'_>) -> Value {
    json!({
        "apiVersion": NETWORKING, "kind": "IPAddress",
        "metadata": {
            "name": ip.to_string(),
            "uid": uuid::Uuid::new_v4().to_string(),
            "creationTimestamp": parent.now,
            "labels": {
                "ipaddress.kubernetes.io/ip-family": if ip.is_ipv4() { "IPv4" } else { "IPv6" },
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            },
        },
        "spec": {"parentRef": {"group": "", "resource": "services", "namespace": parent.namespace, "name": parent.name}},
    })
}

fn encode(api_version: &str, kind: &str, object: &Value) -> Result<Bytes, Error> {
    let schema = api::schema::message(api_version, kind)
        .ok_or_else(|| Error::Store(format!("no schema of {kind}")))?;
    let raw = wire::proto::value_to_vec(object, schema).map_err(|e| Error::Store(e.to_string()))?;
    Ok(wire::envelope::wrap(api_version, kind, &raw).into())
}

fn address_key(ip: IpAddr) -> String {
    format!("{ADDRESSES}{ip}")
}

async fn claim(store: &SharedStore, ip: IpAddr, parent: Parent<'_>) -> Result<bool, Error> {
    let value = encode(NETWORKING, "IPAddress", &address_object(ip, parent))?;
    let written = store
        .put(address_key(ip).as_bytes(), value, Expect::Absent, 0)
        .await?;
    Ok(matches!(written, Written::Done { .. }))
}

/// Takes a chosen address.
pub async fn take(
    store: &SharedStore,
    ranges: &[Range],
    ip: IpAddr,
    parent: Parent<'_>,
) -> Result<(), Error> {
    let range = ranges
        .iter()
        .find(|r| r.contains(ip))
        .ok_or(Error::OtherNetwork)?;
    if !range.is_usable(ip) {
        return Err(Error::OtherNetwork);
    }
    if claim(store, ip, parent).await? {
        Ok(())
    } else {
        Err(Error::AddressTaken)
    }
}

/// Takes any address of the first range that has one.
pub async fn take_any(
    store: &SharedStore,
    ranges: &[Range],
    parent: Parent<'_>,
) -> Result<IpAddr, Error> {
    for range in ranges {
        let (all, lower) = (range.usable(), range.lower_band());
        for (from, to) in [(lower, all), (0, lower)] {
            if let Some(ip) = take_between(store, range, from, to, parent).await? {
                return Ok(ip);
            }
        }
    }
    Err(Error::Full)
}

async fn take_between(
    store: &SharedStore,
    range: &Range,
    from: u128,
    to: u128,
    parent: Parent<'_>,
) -> Result<Option<IpAddr>, Error> {
    // More candidates than this cannot be listed; an IPv6 range is never near full.
    let size = to.saturating_sub(from).min(1 << 40);
    if size == 0 {
        return Ok(None);
    }
    let start = rand::rng().random_range(0..size);
    let mut taken: Option<HashSet<IpAddr>> = None;
    let mut tries = 0;
    for i in 0..size {
        let ip = range.nth(from + (start + i) % size);
        if taken.as_ref().is_some_and(|t| t.contains(&ip)) {
            continue;
        }
        if claim(store, ip, parent).await? {
            return Ok(Some(ip));
        }
        tries += 1;
        if tries == BLIND_TRIES && taken.is_none() {
            taken = Some(all_taken(store).await?);
        }
    }
    Ok(None)
}

async fn all_taken(store: &SharedStore) -> Result<HashSet<IpAddr>, Error> {
    let listed = store
        .list(ADDRESSES.as_bytes(), ListOptions::default())
        .await?;
    Ok(listed
        .items
        .iter()
        .filter_map(|kv| {
            std::str::from_utf8(kv.key.get(ADDRESSES.len()..)?)
                .ok()?
                .parse()
                .ok()
        })
        .collect())
}

/// Gives an address back. One that is not taken is fine.
pub async fn release(store: &SharedStore, ip: IpAddr) -> Result<(), Error> {
    store
        .delete(address_key(ip).as_bytes(), Expect::Any)
        .await?;
    Ok(())
}

/// Gives an address back that is still as it was at a revision.
pub async fn release_at(store: &SharedStore, ip: IpAddr, revision: i64) -> Result<(), Error> {
    store
        .delete(address_key(ip).as_bytes(), Expect::Revision(revision))
        .await?;
    Ok(())
}

/// The node ports of a cluster.
#[derive(Clone)]
pub struct NodePorts {
    /// Where they are kept.
    pub store: SharedStore,
    /// First and last.
    pub range: RangeInclusive<u16>,
}

/// The bits of taken ports, bit 0 for the first of the range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortMap(Vec<u8>);

impl PortMap {
    /// From the stored bytes: a big-endian number without leading zeros.
    fn from_stored(bytes: &[u8]) -> PortMap {
        PortMap(bytes.iter().rev().copied().collect())
    }

    fn to_stored(&self) -> Vec<u8> {
        let bytes: Vec<u8> = self.0.iter().rev().copied().collect();
        bytes.into_iter().skip_while(|b| *b == 0).collect()
    }

    /// Whether a bit is set.
    pub fn has(&self, n: usize) -> bool {
        self.0.get(n / 8).is_some_and(|b| b & (1 << (n % 8)) != 0)
    }

    /// Sets or clears a bit.
    pub fn set(&mut self, n: usize, on: bool) {
        if self.0.len() <= n / 8 {
            self.0.resize(n / 8 + 1, 0);
        }
        if let Some(b) = self.0.get_mut(n / 8) {
            if on {
                *b |= 1 << (n % 8)
            } else {
                *b &= !(1 << (n % 8))
            }
        }
    }
}

impl NodePorts {
    /// `30000-32767`
    pub fn text(&self) -> String {
        format!("{}-{}", self.range.start(), self.range.end())
    }

    fn size(&self) -> usize {
        self.range.len()
    }

    /// The size of the lower band, which is for chosen ports.
    fn lower_band(&self) -> usize {
        let size = self.size();
        if size < 16 {
            0
        } else {
            (size / 32).clamp(16, 128)
        }
    }

    fn bit(&self, port: u16) -> Option<usize> {
        self.range
            .contains(&port)
            .then(|| usize::from(port - self.range.start()))
    }

    fn port(&self, bit: usize) -> Option<u16> {
        u16::try_from(usize::from(*self.range.start()) + bit).ok()
    }

    async fn load(&self) -> Result<(PortMap, Expect, Value), Error> {
        let got = self.store.get(NODE_PORTS.as_bytes(), 0).await?;
        let Some(kv) = got.kv else {
            return Ok((PortMap::default(), Expect::Absent, Value::Null));
        };
        let expect = Expect::Revision(kv.mod_revision);
        let damaged = |why: String| Error::Store(format!("stored node ports are damaged: {why}"));
        let schema = api::schema::message("v1", "RangeAllocation")
            .ok_or_else(|| damaged("no schema".into()))?;
        let unknown = wire::envelope::unwrap(&kv.value).map_err(|e| damaged(e.to_string()))?;
        let object = wire::proto::to_object(unknown.raw, schema, "v1", "RangeAllocation")
            .map_err(|e| damaged(e.to_string()))?;
        if object.text("range") != self.text() {
            // Another range was configured; the services say what is taken.
            return Ok((PortMap::default(), expect, object));
        }
        let data = base64::engine::general_purpose::STANDARD
            .decode(object.text("data"))
            .map_err(|e| damaged(e.to_string()))?;
        Ok((PortMap::from_stored(&data), expect, object))
    }

    async fn store(&self, map: &PortMap, expect: Expect, mut object: Value) -> Result<bool, Error> {
        if object.is_null() {
            object = json!({"apiVersion": "v1", "kind": "RangeAllocation", "metadata": {}});
        }
        object.put("range", self.text());
        object.put(
            "data",
            base64::engine::general_purpose::STANDARD.encode(map.to_stored()),
        );
        let value = encode("v1", "RangeAllocation", &object)?;
        let written = self
            .store
            .put(NODE_PORTS.as_bytes(), value, expect, 0)
            .await?;
        Ok(matches!(written, Written::Done { .. }))
    }

    /// Changes the map until no other writer was in between.
    async fn change<T>(
        &self,
        mut f: impl FnMut(&mut PortMap) -> Result<T, Error>,
    ) -> Result<T, Error> {
        for _ in 0..PORT_RETRIES {
            let (mut map, expect, object) = self.load().await?;
            let before = map.clone();
            let out = f(&mut map)?;
            if map == before && !matches!(expect, Expect::Absent)
                || self.store(&map, expect, object).await?
            {
                return Ok(out);
            }
        }
        Err(Error::Store(
            "too many writers of node ports at once".into(),
        ))
    }

    /// Takes chosen ports and any further ones at once. `wanted` 0 means any. Returns them in the same order.
    pub async fn take(&self, wanted: &[u16]) -> Result<Vec<u16>, (usize, Error)> {
        if wanted.is_empty() {
            return Ok(vec![]);
        }
        let start: usize = rand::rng().random_range(0..self.size().max(1));
        let failed = std::sync::atomic::AtomicUsize::new(0);
        let taken = self
            .change(|map| {
                self.pick(map, wanted, start).map_err(|(i, why)| {
                    failed.store(i, std::sync::atomic::Ordering::Relaxed);
                    why
                })
            })
            .await;
        taken.map_err(|e| (failed.load(std::sync::atomic::Ordering::Relaxed), e))
    }

    /// What [`NodePorts::take`] may give, without taking it. `held` are ports that the same request would have taken before.
    pub async fn try_take(&self, wanted: &[u16], held: &[u16]) -> Result<Vec<u16>, (usize, Error)> {
        if wanted.is_empty() {
            return Ok(vec![]);
        }
        let (mut map, _, _) = self.load().await.map_err(|why| (0, why))?;
        for bit in held.iter().filter_map(|p| self.bit(*p)) {
            map.set(bit, true);
        }
        self.pick(&mut map, wanted, 0)
    }

    /// Marks chosen ports and any further ones, the search for which begins at `start`. With an error comes whose it is.
    fn pick(
        &self,
        map: &mut PortMap,
        wanted: &[u16],
        start: usize,
    ) -> Result<Vec<u16>, (usize, Error)> {
        let mut out = wanted.to_vec();
        for (i, port) in wanted.iter().enumerate().filter(|(_, p)| **p != 0) {
            let outside = || (i, Error::PortOutside(self.text()));
            let bit = self.bit(*port).ok_or_else(outside)?;
            if map.has(bit) {
                return Err((i, Error::PortTaken));
            }
            map.set(bit, true);
        }
        for (i, slot) in out.iter_mut().enumerate().filter(|(_, p)| **p == 0) {
            let bit = self.free(map, start).ok_or((i, Error::Full))?;
            map.set(bit, true);
            *slot = self.port(bit).ok_or((i, Error::Full))?;
        }
        Ok(out)
    }

    fn free(&self, map: &PortMap, start: usize) -> Option<usize> {
        let (size, lower) = (self.size(), self.lower_band());
        let upper = size - lower;
        let first = (0..upper)
            .map(|i| lower + (start + i) % upper.max(1))
            .find(|b| !map.has(*b));
        first.or_else(|| (0..lower).find(|b| !map.has(*b)))
    }

    /// Gives ports back; those outside the range or not taken are fine.
    pub async fn release(&self, ports: &[u16]) -> Result<(), Error> {
        if ports.is_empty() {
            return Ok(());
        }
        self.change(|map| {
            for bit in ports.iter().filter_map(|p| self.bit(*p)) {
                map.set(bit, false);
            }
            Ok(())
        })
        .await
    }

    /// Makes the map say exactly what services use: at start, after crashes between allocation and write.
    pub async fn repair(&self, used: &[u16]) -> Result<(), Error> {
        self.change(|map| {
            let mut fresh = PortMap::default();
            for bit in used.iter().filter_map(|p| self.bit(*p)) {
                fresh.set(bit, true);
            }
            *map = fresh;
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Range {
        let (ip, len) = crate::check::parse_cidr_sloppy(text).unwrap();
        Range::new(ip, len)
    }

    #[test]
    fn ranges_and_bands() {
        let r = range("10.96.0.0/16");
        assert_eq!(r.nth(0).to_string(), "10.96.0.1");
        assert_eq!(r.usable(), 65534);
        assert_eq!(r.lower_band(), 256);
        assert!(!r.is_usable("10.96.0.0".parse().unwrap()));
        assert!(!r.is_usable("10.96.255.255".parse().unwrap()));
        assert!(r.is_usable("10.96.255.254".parse().unwrap()));
        assert_eq!(range("10.0.0.0/28").lower_band(), 0);
        assert_eq!(range("10.0.0.0/24").lower_band(), 16);
        let six = range("2001:db8::/108");
        assert!(six.is_usable("2001:db8::1".parse().unwrap()));
        assert!(!six.contains("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn port_maps_are_big_endian_numbers() {
        let mut m = PortMap::default();
        m.set(0, true);
        m.set(9, true);
        assert_eq!(m.to_stored(), [0b10, 0b1]);
        assert_eq!(PortMap::from_stored(&m.to_stored()), m);
        m.set(9, false);
        assert_eq!(m.to_stored(), [1]);
    }
}
