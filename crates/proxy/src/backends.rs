//! Backends: how the service model becomes kernel rules.
//!
//! A backend turns entries into scripts for one program that applies them atomically; it keeps what it wrote last, so
//! that a change costs what changed. Scripts are deterministic: the same entries give the same bytes.

use crate::model::{Changes, Entries, Family};

pub mod iptables;
pub mod nftables;

/// What all backends need to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// The family of the rules.
    pub family: Family,
    /// Traffic to cluster IPs from outside these ranges is masqueraded; empty: from nowhere.
    pub cluster_cidrs: Vec<String>,
    /// Masquerade all traffic to cluster IPs.
    pub masquerade_all: bool,
    /// Which bit of the mark asks for masquerading (0 to 31).
    pub masquerade_bit: u8,
    /// The ranges of node addresses that node ports listen on; empty for all.
    pub node_port_addresses: Vec<String>,
}

/// One program run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Its standard input.
    pub text: String,
    /// Not run when this program ends well: for what cannot be said idempotently.
    pub unless: Option<Vec<String>>,
    /// What stands in for the script once the output of `command` is known.
    pub then: Option<Then>,
    /// Whether the rules are right though it fails: for what others may hold on to.
    pub may_fail: bool,
}

/// Makes scripts from a program's output.
#[derive(Clone)]
pub struct Then(pub std::sync::Arc<dyn Fn(&str) -> Vec<Script> + Send + Sync>);

impl std::fmt::Debug for Then {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Then")
    }
}

impl PartialEq for Then {
    fn eq(&self, _: &Then) -> bool {
        true
    }
}

impl Eq for Then {}

/// Makes scripts.
pub trait Backend: Send {
    /// Brings the kernel from whatever is there to exactly these entries.
    fn full(&mut self, entries: &Entries) -> Vec<Script>;

    /// Brings the kernel from the last script's state to the changed one; nothing if nothing differs. Must not be used
    /// before `full`, nor after a script failed.
    fn delta(&mut self, changes: &Changes) -> Vec<Script>;

    /// Tells whether the kernel takes rules at all, without writing any: what fails these scripts is no service's fault.
    fn dry_run(&mut self) -> Vec<Script>;

    /// Removes everything this backend ever wrote. Each script may fail where there is nothing to remove.
    fn cleanup(&self) -> Vec<Script>;

    /// Tells of a line of `nft monitor` whether it changes what this backend owns.
    fn owns(&self) -> fn(&str) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;
    use crate::model::tests::{ready, service, slice};
    use std::sync::Arc;

    fn backends() -> [Box<dyn Backend>; 2] {
        let options = Options {
            family: Family::V4,
            cluster_cidrs: vec!["10.1.0.0/16".into()],
            masquerade_all: false,
            masquerade_bit: 14,
            node_port_addresses: vec![],
        };
        [
            Box::new(iptables::Iptables::new(options.clone())),
            Box::new(nftables::Nftables::new(options)),
        ]
    }

    type Event = Box<dyn Fn(&mut Model)>;

    /// What is there at the end: services with and without endpoints, with node ports, affinity and sources, and one whose
    /// endpoints come in two slices.
    fn arrivals() -> Vec<Event> {
        let mut all: Vec<Event> = Vec::new();
        for i in 0..8u8 {
            let mut s = service(&format!("s{i}"), &format!("10.0.0.{i}"));
            if i % 3 == 1 {
                s.spec.type_ = "NodePort".into();
                s.spec.ports[0].node_port = 30080 + u16::from(i);
            }
            if i % 4 == 2 {
                s.spec.session_affinity = "ClientIP".into();
            }
            let s = Arc::new(s);
            all.push(Box::new(move |m| m.service(s.clone())));
            for part in 0..i % 3 {
                let own = format!("10.1.{part}.{i}");
                let ends = [(own.as_str(), "n1", ready()), ("10.1.9.9", "n2", ready())];
                let ends = &ends[..1 + usize::from(i % 2)];
                let s = Arc::new(slice(&format!("s{i}"), &format!("s{i}-{part}"), ends));
                all.push(Box::new(move |m| m.slice(s.clone(), false)));
            }
        }
        all
    }

    /// Numbers that look random and are the same every time.
    fn numbers(mut seed: u64) -> impl FnMut(usize) -> usize {
        move |below| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(seed >> 33).unwrap() % below
        }
    }

    fn texts(scripts: &[Script]) -> Vec<String> {
        scripts.iter().map(|s| s.text.clone()).collect()
    }

    #[test]
    fn the_same_services_give_the_same_bytes_whatever_came_before() {
        let mut plain = Model::new("n1", Family::V4);
        for event in arrivals() {
            event(&mut plain);
        }
        plain.take_changes();
        let wanted = backends().map(|mut b| texts(&b.full(plain.entries())));
        assert!(wanted.iter().all(|w| w.concat().contains("10.1.9.9")));
        for seed in 0..40 {
            let mut random = numbers(seed);
            let mut events = arrivals();
            for i in (1..events.len()).rev() {
                events.swap(i, random(i + 1));
            }
            let mut model = Model::new("n1", Family::V4);
            let mut used = backends();
            for b in &mut used {
                b.full(model.entries());
            }
            for event in &events {
                // Another service comes and goes, and one of these has other endpoints for a while.
                let name = format!("other{}", random(3));
                model.service(Arc::new(service(&name, "10.0.9.1")));
                let ends = [("10.1.7.7", "n1", ready())];
                model.slice(Arc::new(slice(&name, "o", &ends)), false);
                let wrong = format!("s{}", random(8));
                model.slice(Arc::new(slice(&wrong, "wrong", &ends)), false);
                let half = model.take_changes();
                event(&mut model);
                model.slice(Arc::new(slice(&name, "o", &ends)), true);
                model.service_gone("ns", &name);
                model.slice(Arc::new(slice(&wrong, "wrong", &ends)), true);
                let rest = model.take_changes();
                for b in &mut used {
                    b.delta(&half);
                    b.delta(&rest);
                }
            }
            for ((mut fresh, mut used), wanted) in backends().into_iter().zip(used).zip(&wanted) {
                assert_eq!(&texts(&fresh.full(model.entries())), wanted, "seed {seed}");
                assert_eq!(
                    &texts(&used.full(model.entries())),
                    wanted,
                    "seed {seed}, after changes"
                );
            }
        }
    }
}
