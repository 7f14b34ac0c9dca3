//! Addresses and ports of services, and numbers, as the flags give them: checked before anything is opened.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use anyhow::{Context, Result, bail, ensure};
use api::validate::parse_cidr_sloppy;
use component::Flags;

/// Addresses that the range of services has at least.
const FEWEST: u8 = 8;

/// What `--service-cluster-ip-range` and `--service-node-port-range` say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// One network, or one of each family; the first is the default.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Node ports.
    pub ports: RangeInclusive<u16>,
}

impl Ranges {
    /// From the flags; no addresses given are those that upstream takes then.
    ///
    /// # Errors
    /// What is wrong with which flag.
    pub fn new(flags: &Flags) -> Result<Ranges> {
        Ok(Ranges {
            addresses: addresses(flags.string("service-cluster-ip-range"))?,
            // As upstream's default where the flag is empty.
            ports: flags
                .ports("service-node-port-range")
                .unwrap_or(30000..=32767),
        })
    }

    /// The Service `kubernetes` has an address of the first network, which must be of the server's own family.
    ///
    /// # Errors
    /// When it is not.
    pub fn check_family(&self, own: IpAddr) -> Result<()> {
        if let Some((ip, len)) = self.addresses.first() {
            ensure!(
                ip.is_ipv4() == own.is_ipv4(),
                "service IP family \"{ip}/{len}\" must match public address family \"{own}\""
            );
        }
        Ok(())
    }
}

fn addresses(text: &str) -> Result<Vec<(IpAddr, u8)>> {
    let text = if text.is_empty() { "10.0.0.0/24" } else { text };
    let mut all = Vec::new();
    for part in text.split(',').map(str::trim) {
        let net = parse_cidr_sloppy(part)
            .with_context(|| format!("--service-cluster-ip-range: invalid CIDR address: {part}"))?;
        all.push(net);
    }
    match *all {
        [_] => {}
        [(a, _), (b, _)] => ensure!(
            a.is_ipv4() != b.is_ipv4(),
            "--service-cluster-ip-range[0] and --service-cluster-ip-range[1] must be of different IP family"
        ),
        _ => bail!("--service-cluster-ip-range must not contain more than two entries"),
    }
    if let Some((ip, len)) = all.first() {
        let bits: u8 = if ip.is_ipv4() { 32 } else { 128 };
        ensure!(
            bits - len >= FEWEST.ilog2() as u8,
            "the service cluster IP range must be at least {FEWEST} IP addresses"
        );
    }
    Ok(all)
}

/// Requests in flight: reading and writing ones together.
///
/// # Errors
/// A negative number, or none at all.
pub fn in_flight(flags: &Flags) -> Result<usize> {
    let mut sum = 0usize;
    for name in ["max-requests-inflight", "max-mutating-requests-inflight"] {
        let n = usize::try_from(flags.int(name))
            .ok()
            .with_context(|| format!("--{name} can not be negative value"))?;
        sum = sum.saturating_add(n);
    }
    ensure!(
        sum > 0,
        "invalid configuration: MaxRequestsInFlight=0 and MaxMutatingRequestsInFlight=0; they must add up to something positive"
    );
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown<T: std::fmt::Debug>(r: Result<T>) -> String {
        r.map_or_else(|e| format!("{e:#}"), |v| format!("{v:?}"))
    }

    #[test]
    fn addresses_of_services() {
        for (text, want) in [
            ("", "[(10.0.0.0, 24)]"),
            // As written elsewhere: the network, not the address in it.
            ("10.96.0.5/16", "[(10.96.0.0, 16)]"),
            (
                "10.96.0.0/16, fd00::/108",
                "[(10.96.0.0, 16), (fd00::, 108)]",
            ),
            ("10.96.0.0/29", "[(10.96.0.0, 29)]"),
            ("0.0.0.0/0", "[(0.0.0.0, 0)]"),
            ("10.96.0.0/30", "at least 8 IP addresses"),
            ("fd00::/126", "at least 8 IP addresses"),
            ("10.96.0.0/33", "invalid CIDR address: 10.96.0.0/33"),
            ("10.96.0.0", "invalid CIDR address"),
            ("10.96.0.0/-1", "invalid CIDR address"),
            ("10.96.0.0/16,", "invalid CIDR address: "),
            ("10.96.0.0/16,10.97.0.0/16", "different IP family"),
            ("10.96.0.0/16,fd00::/108,fd01::/108", "more than two"),
        ] {
            let got = shown(addresses(text));
            assert!(got.contains(want), "{text}: {got}");
        }
        let two = Ranges {
            addresses: addresses("fd00::/108,10.96.0.0/16").unwrap(),
            ports: 1..=2,
        };
        assert!(two.check_family("fd01::1".parse().unwrap()).is_ok());
        let e = two.check_family("10.0.0.1".parse().unwrap());
        assert!(shown(e).contains("must match public address family"));
    }
}
