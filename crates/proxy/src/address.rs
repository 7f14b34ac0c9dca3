//! Addresses and ranges as objects spell them, made canonical (pure).
//!
//! Nothing but what these functions return reaches a rule: two spellings of one address are one key, and no text of an
//! object can become a rule. Leading zeros in IPv4 addresses are decimal, and IPv4-mapped IPv6 addresses are IPv4, as
//! upstream reads them.

use std::net::{IpAddr, Ipv4Addr};

/// An address; `None` if it is none.
pub fn parse(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(ip.to_canonical());
    }
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || part.len() > 8 || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *octet = part.parse().ok()?;
    }
    parts
        .next()
        .is_none()
        .then(|| IpAddr::V4(Ipv4Addr::from(octets)))
}

/// Whether connections may be led to or away from the address by an object: not if it is unspecified, loopback or
/// multicast, which every node has for itself.
pub fn is_public(ip: IpAddr) -> bool {
    !(ip.is_unspecified()
        || ip.is_loopback()
        || ip.is_multicast()
        || ip == IpAddr::V4(Ipv4Addr::BROADCAST))
}

/// Whether an endpoint may have the address: beside [`is_public`], link-local ones belong to the node (CVE-2021-25737).
pub fn is_endpoint(ip: IpAddr) -> bool {
    is_public(ip)
        && match ip {
            IpAddr::V4(ip) => !ip.is_link_local(),
            IpAddr::V6(ip) => !ip.is_unicast_link_local(),
        }
}

/// A range of addresses: the first one, and how many leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    /// The first address.
    pub first: IpAddr,
    /// 0 to 32 or 128.
    pub bits: u8,
}

fn mask(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX
                .checked_shl(32 - u32::from(bits.min(32)))
                .unwrap_or(0);
            IpAddr::V4((ip.to_bits() & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX
                .checked_shl(128 - u32::from(bits.min(128)))
                .unwrap_or(0);
            IpAddr::V6((ip.to_bits() & mask).into())
        }
    }
}

impl Range {
    /// From `address/bits`; bits of the address behind the prefix are dropped.
    pub fn parse(text: &str) -> Option<Range> {
        let (ip, bits) = text.trim().split_once('/')?;
        if bits.len() > 3 || !bits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let bits: u8 = bits.parse().ok()?;
        // Not IPv4 here: its prefix counts 128 bits.
        let ip = ip.parse::<IpAddr>().ok().or_else(|| parse(ip))?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        (bits <= most).then(|| Range {
            first: mask(ip, bits),
            bits,
        })
    }

    fn contains(&self, other: &Range) -> bool {
        self.first.is_ipv4() == other.first.is_ipv4()
            && self.bits <= other.bits
            && mask(other.first, self.bits) == self.first
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

/// Ranges of one family, sorted, without those that lie within others: nft refuses sets whose intervals overlap.
pub fn disjoint(mut ranges: Vec<Range>) -> Vec<Range> {
    // A range sorts right before all that lie within it.
    ranges.sort_unstable();
    let mut out: Vec<Range> = Vec::with_capacity(ranges.len());
    for range in ranges {
        if !out.last().is_some_and(|last| last.contains(&range)) {
            out.push(range);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_address_are_one() {
        for (text, want) in [
            ("10.0.0.1", Some("10.0.0.1")),
            ("010.000.0.01", Some("10.0.0.1")),
            ("::ffff:10.0.0.1", Some("10.0.0.1")),
            ("FD00:0:0::1", Some("fd00::1")),
            ("10.0.0.256", None),
            ("10.0.0", None),
            ("10.0.0.1.2", None),
            ("10.0.0.1 ", None),
            ("10.0.0.1\n-A X", None),
            ("", None),
            ("None", None),
        ] {
            assert_eq!(
                parse(text).map(|ip| ip.to_string()).as_deref(),
                want,
                "{text}"
            );
        }
    }

    #[test]
    fn ranges_are_masked_and_what_lies_within_another_is_dropped() {
        let all: Vec<Range> = [
            "10.1.2.3/8",
            " 10.1.0.0/16",
            "10.0.0.0/8",
            "11.0.0.0/32",
            "11.0.0.1/32",
        ]
        .iter()
        .filter_map(|r| Range::parse(r))
        .collect();
        let left: Vec<String> = disjoint(all).iter().map(ToString::to_string).collect();
        assert_eq!(left, ["10.0.0.0/8", "11.0.0.0/32", "11.0.0.1/32"]);
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/+8", "::/129"] {
            assert_eq!(Range::parse(bad), None, "{bad}");
        }
        assert_eq!(
            Range::parse("1.2.3.4/0").map(|r| r.to_string()).as_deref(),
            Some("0.0.0.0/0")
        );
    }
}
