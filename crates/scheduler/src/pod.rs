//! A pod prepared for scheduling: requests summed once, static constraints interned as a class.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::resources::{Amounts, pod_requests};
use crate::storage::view::Source;
use crate::view::{NodeAffinity, PodView, Toleration};

/// The constraints that depend on a node's name, labels, taints and images alone. Pods of one template share a class, and
/// with it the work of evaluating those constraints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Class {
    /// `spec.nodeName`, for pods that name their node.
    pub node_name: String,
    /// `spec.nodeSelector`.
    pub node_selector: BTreeMap<String, String>,
    /// `spec.affinity.nodeAffinity`.
    pub node_affinity: Option<NodeAffinity>,
    /// `spec.tolerations`.
    pub tolerations: Vec<Toleration>,
    /// Images of init containers and containers, tags made explicit.
    pub images: Vec<String>,
    /// Containers and init containers: scales the image score's threshold.
    pub containers: usize,
}

/// A host port that a pod occupies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// `0.0.0.0` for all addresses.
    pub ip: String,
    /// TCP, UDP, SCTP.
    pub protocol: String,
    /// 1 to 65535.
    pub port: i32,
}

impl HostPort {
    fn at(&self, ip: &str) -> HostPort {
        HostPort {
            ip: ip.to_owned(),
            ..self.clone()
        }
    }
}

/// Host ports in use: pods may have tens of thousands, so no list of them is searched.
#[derive(Clone, Debug, Default)]
pub struct HostPorts(HashMap<HostPort, usize>);

impl HostPorts {
    const EVERY: &str = "0.0.0.0";
    /// Stands for whatever address.
    const SOME: &str = "";

    /// Those of a pod.
    pub fn of(usage: &Usage) -> HostPorts {
        let mut all = HostPorts::default();
        usage.ports.iter().for_each(|p| all.add(p));
        all
    }

    /// One is taken.
    pub fn add(&mut self, port: &HostPort) {
        for key in [port.clone(), port.at(Self::SOME)] {
            *self.0.entry(key).or_default() += 1;
        }
    }

    /// One is given back.
    pub fn remove(&mut self, port: &HostPort) {
        for key in [port.clone(), port.at(Self::SOME)] {
            if let Some(n) = self.0.get_mut(&key) {
                *n -= 1;
                if *n == 0 {
                    self.0.remove(&key);
                }
            }
        }
    }

    /// Whether the port cannot be had beside these.
    pub fn conflicts(&self, port: &HostPort) -> bool {
        self.0.contains_key(port)
            || self.0.contains_key(&port.at(Self::EVERY))
            || (port.ip == Self::EVERY && self.0.contains_key(&port.at(Self::SOME)))
    }
}

/// What a pod takes on a node.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// What filtering counts.
    pub requests: Amounts,
    /// What scoring counts: CPU and memory with defaults.
    pub non_zero_cpu: i64,
    /// See `non_zero_cpu`.
    pub non_zero_memory: i64,
    /// Host ports.
    pub ports: Vec<HostPort>,
    /// Claims, each once.
    pub claims: Vec<PodClaim>,
}

/// A claim that a pod uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodClaim {
    /// Its name.
    pub name: String,
    /// `NAMESPACE/NAME`.
    pub key: String,
    /// It is made for the pod.
    pub ephemeral: bool,
}

/// A pod as the scheduler handles it.
#[derive(Clone, Debug)]
pub struct Pod {
    /// What the API shows.
    pub view: Arc<PodView>,
    /// What it takes.
    pub usage: Arc<Usage>,
    /// Its static constraints.
    pub class: Arc<Class>,
}

/// An image reference with its tag made explicit.
pub fn normalized_image(name: &str) -> String {
    let colon = name.rfind(':').map_or(-1, |i| i as i64);
    let slash = name.rfind('/').map_or(-1, |i| i as i64);
    if colon <= slash {
        format!("{name}:latest")
    } else {
        name.to_owned()
    }
}

fn claims(view: &PodView) -> Vec<PodClaim> {
    if view.spec.volumes.is_empty() {
        return Vec::new();
    }
    let (mut all, mut names) = (Vec::new(), HashSet::new());
    for v in &view.spec.volumes {
        let (name, ephemeral) = match &v.source {
            Source::Claim(name) => (name.clone(), false),
            Source::Ephemeral => (format!("{}-{}", view.metadata.name, v.name), true),
            Source::Csi(_) | Source::Disk(_) => continue,
        };
        if names.insert((name.clone(), ephemeral)) {
            let key = crate::storage::view::key(&view.metadata.namespace, &name);
            all.push(PodClaim {
                name,
                key,
                ephemeral,
            });
        }
    }
    all
}

/// What a pod takes.
pub fn usage(view: &PodView) -> Usage {
    let nz = pod_requests(&view.spec, true);
    let ports = view
        .spec
        .containers
        .iter()
        .chain(
            view.spec
                .init_containers
                .iter()
                .filter(|c| c.restart_policy.as_deref() == Some("Always")),
        )
        .flat_map(|c| &c.ports)
        .filter(|p| p.host_port > 0)
        .map(|p| HostPort {
            ip: if p.host_ip.is_empty() {
                "0.0.0.0".into()
            } else {
                p.host_ip.clone()
            },
            protocol: if p.protocol.is_empty() {
                "TCP".into()
            } else {
                p.protocol.clone()
            },
            port: p.host_port,
        })
        .collect();
    Usage {
        requests: pod_requests(&view.spec, false),
        non_zero_cpu: nz.cpu,
        non_zero_memory: nz.memory,
        ports,
        claims: claims(view),
    }
}

fn class(view: &PodView) -> Class {
    let spec = &view.spec;
    let all = || spec.init_containers.iter().chain(&spec.containers);
    Class {
        node_name: spec.node_name.clone(),
        node_selector: spec.node_selector.clone(),
        node_affinity: spec.affinity.as_ref().and_then(|a| a.node_affinity.clone()),
        tolerations: spec.tolerations.clone(),
        images: all().map(|c| normalized_image(&c.image)).collect(),
        containers: all().count(),
    }
}

/// Hands out one `Arc` per distinct class. Bounded: forgets all when full, which only costs evaluation.
#[derive(Default)]
pub struct Classes(HashMap<Arc<Class>, ()>);

impl Classes {
    const MAX: usize = 4096;

    /// Prepares a pod.
    pub fn pod(&mut self, view: Arc<PodView>) -> Pod {
        let class = Arc::new(class(&view));
        let class = match self.0.get_key_value(&class) {
            Some((known, ())) => known.clone(),
            None => {
                if self.0.len() >= Self::MAX {
                    self.0.clear();
                }
                self.0.insert(class.clone(), ());
                class
            }
        };
        Pod {
            usage: Arc::new(usage(&view)),
            view,
            class,
        }
    }
}

impl Pod {
    /// `namespace/name`.
    pub fn key(&self) -> String {
        format!(
            "{}/{}",
            self.view.metadata.namespace, self.view.metadata.name
        )
    }

    /// The UID.
    pub fn uid(&self) -> &str {
        &self.view.metadata.uid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(ip: &str, protocol: &str, port: i32) -> HostPort {
        HostPort {
            ip: ip.into(),
            protocol: protocol.into(),
            port,
        }
    }

    #[test]
    fn host_ports_conflict_by_address_protocol_and_number() {
        let mut all = HostPorts::default();
        let (one, every) = (port("10.0.0.1", "TCP", 80), port("0.0.0.0", "TCP", 80));
        all.add(&one);
        for (other, conflicts) in [
            (&one, true),
            (&every, true),
            (&port("10.0.0.2", "TCP", 80), false),
            (&port("10.0.0.1", "UDP", 80), false),
            (&port("10.0.0.1", "TCP", 81), false),
        ] {
            assert_eq!(all.conflicts(other), conflicts, "{other:?}");
        }
        all.add(&every);
        assert!(all.conflicts(&port("10.0.0.2", "TCP", 80)));
        all.add(&one);
        all.remove(&every);
        all.remove(&one);
        assert!(all.conflicts(&every) && !all.conflicts(&port("10.0.0.2", "TCP", 80)));
        all.remove(&one);
        assert!(all.0.is_empty(), "{all:?}");
    }

    /// Quadratic work: two pods with every port there is would be compared for seconds on every node.
    #[test]
    fn tens_of_thousands_of_host_ports_are_compared_at_once() {
        let ports = |ip: &str| Usage {
            ports: (1..=65_535).map(|n| port(ip, "TCP", n)).collect(),
            ..Usage::default()
        };
        let (mut taken, other) = (HostPorts::of(&ports("10.0.0.1")), ports("10.0.0.2"));
        assert!(!other.ports.iter().any(|p| taken.conflicts(p)));
        ports("10.0.0.1").ports.iter().for_each(|p| taken.remove(p));
        assert!(taken.0.is_empty());
    }
}
