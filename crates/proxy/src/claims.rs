//! Who owns an address and port (pure).
//!
//! Two services may ask for the same one: an external IP may be another service's address, load balancers may share one.
//! Rules know one answer per key, so one service port owns it and the others do without it until it lets go. A cluster IP
//! comes before all else, since the apiserver gave it to that service alone and nobody may take it away by naming it
//! (CVE-2020-8554); among equals the service made first owns it, then the first by namespace and name, then the first of
//! its ports.

use std::collections::{BTreeSet, HashMap};

use crate::model::{PortName, Protocol};

/// What only one service port can have.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Claim {
    /// A port of an address, in its canonical spelling.
    Address(String, Protocol, u16),
    /// A port of the node.
    NodePort(Protocol, u16),
}

impl std::fmt::Display for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Claim::Address(ip, protocol, port) if ip.contains(':') => {
                write!(f, "address [{ip}]:{port}/{}", protocol.upper())
            }
            Claim::Address(ip, protocol, port) => {
                write!(f, "address {ip}:{port}/{}", protocol.upper())
            }
            Claim::NodePort(protocol, port) => write!(f, "node port {port}/{}", protocol.upper()),
        }
    }
}

/// As what a service port wants a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The cluster IP.
    ClusterIp,
    /// The address of a load balancer.
    LoadBalancer,
    /// An external IP.
    ExternalIp,
    /// A port of the node.
    NodePort,
}

/// The order of those who want a key; the least owns it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// Whether it is anything but a cluster IP.
    pub given: bool,
    /// When the service was made, in nanoseconds since the epoch.
    pub created: i128,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The place of the port in its list.
    pub index: usize,
}

/// All claims of a family.
#[derive(Debug, Default)]
pub struct Claims(HashMap<Claim, BTreeSet<(Rank, PortName)>>);

impl Claims {
    /// The owner.
    pub fn owner(&self, claim: &Claim) -> Option<&PortName> {
        self.0.get(claim)?.first().map(|(_, name)| name)
    }

    /// A service port wants a key.
    pub fn add(&mut self, claim: Claim, rank: Rank, name: PortName) {
        self.0.entry(claim).or_default().insert((rank, name));
    }

    /// It no longer does.
    pub fn remove(&mut self, claim: &Claim, rank: Rank, name: PortName) {
        if let Some(all) = self.0.get_mut(claim) {
            all.remove(&(rank, name));
            if all.is_empty() {
                self.0.remove(claim);
            }
        }
    }
}
