//! Connection tracking: UDP flows outlive their endpoints, because nothing closes them. When an endpoint of a UDP service
//! goes, its flows are forgotten; when a UDP service gets its first endpoint, flows that led nowhere are.

use std::collections::BTreeSet;
use std::process::Stdio;

use crate::model::{Changes, Entries, Protocol};

/// Flows to forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stale {
    /// From any client to this address, served by this endpoint.
    Endpoint {
        /// The service's address.
        service: String,
        /// The endpoint's address.
        endpoint: String,
    },
    /// From any client to this address.
    Service {
        /// The service's address.
        service: String,
    },
    /// From any client to this node port.
    NodePort {
        /// The port.
        port: u16,
    },
}

/// So many endpoints of one address are forgotten one by one; beyond that all flows to the address are, which costs one
/// program run instead of one each.
const FEW: usize = 16;

/// Of more addresses of one service port the flows are left alone: each costs a program run, for which other services wait.
const MOST: usize = 64;

/// What must be forgotten after `changes` were applied to `before`.
pub fn stale(before: &Entries, changes: &Changes) -> Vec<Stale> {
    let mut out = Vec::new();
    for (name, now) in changes {
        if name.protocol != Protocol::Udp {
            continue;
        }
        let old = before.get(name);
        let had = old.map_or(&[][..], |e| &e.endpoints);
        let has = now.as_ref().map_or(&[][..], |e| &e.endpoints);
        if let Some(e) = old {
            let has: BTreeSet<_> = has.iter().collect();
            let gone: Vec<_> = had.iter().filter(|e| !has.contains(e)).collect();
            let kept: BTreeSet<_> = now.iter().flat_map(|e| e.addresses()).collect();
            for service in e.addresses().take(MOST) {
                // Somebody else may have the address now.
                if !had.is_empty() && !kept.contains(service) && now.is_some() || gone.len() > FEW {
                    out.push(Stale::Service {
                        service: service.clone(),
                    });
                    continue;
                }
                out.extend(gone.iter().map(|gone| Stale::Endpoint {
                    service: service.clone(),
                    endpoint: gone.ip.clone(),
                }));
            }
        }
        if let Some(e) = now
            && had.is_empty()
            && !has.is_empty()
        {
            out.extend(e.addresses().take(MOST).map(|service| Stale::Service {
                service: service.clone(),
            }));
            if e.node_port != 0 {
                out.push(Stale::NodePort { port: e.node_port });
            }
        }
    }
    out
}

/// Forgets flows; that there are none is no error.
pub async fn forget(stale: &Stale) {
    let mut args = vec!["-D".to_owned(), "-p".into(), "udp".into()];
    match stale {
        Stale::Endpoint { service, endpoint } => {
            args.extend([
                "--orig-dst".into(),
                service.clone(),
                "--dst-nat".into(),
                endpoint.clone(),
            ]);
        }
        Stale::Service { service } => args.extend(["--orig-dst".into(), service.clone()]),
        Stale::NodePort { port } => args.extend(["--dport".into(), port.to_string()]),
    }
    let mut command = tokio::process::Command::new("conntrack");
    component::files::restore_limit(command.as_std_mut());
    let ran = command
        .args(&args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await;
    if let Err(error) = ran {
        tracing::warn!(%error, "Cannot run conntrack; UDP clients may keep talking to endpoints that are gone");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::{ready, service, slice};
    use crate::model::{Family, Model};
    use std::sync::Arc;

    #[test]
    fn udp_only_and_only_what_went() {
        let mut m = Model::new("n", Family::V4);
        let mut dns = service("dns", "10.0.0.10");
        dns.spec.ports[0].protocol = "UDP".into();
        m.service(Arc::new(dns));
        let udp = |ips: &[(&str, &str, crate::view::Conditions)]| {
            let mut s = slice("dns", "dns-1", ips);
            s.ports[0].protocol = Some("UDP".into());
            Arc::new(s)
        };
        let before = m.entries().clone();
        m.slice(
            udp(&[("10.1.0.1", "n", ready()), ("10.1.0.2", "n", ready())]),
            false,
        );
        let changes = m.take_changes();
        assert_eq!(
            stale(&before, &changes),
            [Stale::Service {
                service: "10.0.0.10".into()
            }]
        );
        let before = m.entries().clone();
        m.slice(udp(&[("10.1.0.2", "n", ready())]), false);
        let gone = Stale::Endpoint {
            service: "10.0.0.10".into(),
            endpoint: "10.1.0.1".into(),
        };
        assert_eq!(stale(&before, &m.take_changes()), [gone]);
        m.service(Arc::new(service("web", "10.0.0.11")));
        m.slice(
            Arc::new(slice("web", "w", &[("10.1.0.1", "n", ready())])),
            false,
        );
        assert!(stale(&m.entries().clone(), &m.take_changes()).is_empty());
    }

    /// One object: a service of thousands of addresses does not hold up the others with a program run for each.
    #[test]
    fn a_service_of_many_addresses_costs_a_bounded_number_of_runs() {
        let mut m = Model::new("n", Family::V4);
        let mut s = service("dns", "10.0.0.10");
        s.spec.ports[0].protocol = "UDP".into();
        s.spec.external_ips = (0..5_000u32)
            .map(|n| std::net::Ipv4Addr::from(0xc000_0000 + n).to_string())
            .collect();
        m.service(Arc::new(s));
        m.take_changes();
        let mut told = Vec::new();
        for ips in [&[("10.1.0.1", "n", ready())][..], &[]] {
            let before = m.entries().clone();
            let mut s = slice("dns", "dns-1", ips);
            s.ports[0].protocol = Some("UDP".into());
            m.slice(Arc::new(s), false);
            told.push(stale(&before, &m.take_changes()).len());
        }
        assert_eq!(told, [MOST, MOST]);
    }
}
