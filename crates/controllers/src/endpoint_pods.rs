//! What endpointslice-controller and endpoints-controller share: which pods back a Service, and on which ports.

use std::net::IpAddr;
use std::sync::Arc;

use client::{Change, ObjectKey, Store, WorkQueue};
use serde_json::Value;

use crate::views::{EndpointPort, Pod, Service};

/// Label and annotation keys.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
/// When the change that led to the endpoints happened.
pub const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Whether the Service has no address of its own.
pub fn is_headless(s: &Service) -> bool {
    s.spec.cluster_ip == "None"
}

/// The ports of a Service on a pod: names are looked up among the pod's containers, and a port the pod does not have is
/// left out.
pub fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    service
        .spec
        .ports
        .iter()
        .filter_map(|p| {
            let protocol = if p.protocol.is_empty() {
                "TCP"
            } else {
                &p.protocol
            };
            let number = match &p.target_port {
                Value::String(name) if name.parse::<i32>().is_err() => pod
                    .spec
                    .containers
                    .iter()
                    .flat_map(|c| &c.ports)
                    .find(|c| {
                        c.name == *name
                            && (c.protocol == protocol
                                || (c.protocol.is_empty() && protocol == "TCP"))
                    })
                    .map(|c| c.container_port)?,
                Value::String(n) => n.parse().ok()?,
                Value::Number(n) => match n.as_i64().and_then(|n| i32::try_from(n).ok()) {
                    Some(0) | None => p.port,
                    Some(n) => n,
                },
                _ => p.port,
            };
            Some(EndpointPort {
                name: p.name.clone(),
                protocol: protocol.to_owned(),
                port: Some(number),
                app_protocol: p.app_protocol.clone(),
            })
        })
        .collect()
}

/// The pod's address of an IP family. What the apiserver takes for no endpoint is none, so that one pod with a strange
/// status does not keep those of the others from being written.
pub fn address(pod: &Pod, v6: bool) -> Option<&str> {
    let all = pod.status.pod_ips.iter().map(|p| p.ip.as_str());
    let mut all = all.chain((pod.status.pod_ips.is_empty()).then_some(pod.status.pod_ip.as_str()));
    all.find(|ip| {
        ip.parse()
            .is_ok_and(|ip: IpAddr| ip.is_ipv6() == v6 && is_endpoint(ip))
    })
}

fn is_endpoint(ip: IpAddr) -> bool {
    let local = match ip {
        IpAddr::V4(a) => a.is_link_local() || a.octets().starts_with(&[224, 0, 0]),
        // fe80::/10, and ff02::/16 and its kin of link-local multicast.
        IpAddr::V6(a) => {
            let first = a.segments().first().copied().unwrap_or(0);
            a.to_ipv4_mapped().is_some() || first & 0xffc0 == 0xfe80 || first & 0xff0f == 0xff02
        }
    };
    !(local || ip.is_unspecified() || ip.is_loopback())
}

/// Whether the pod can back a Service at all.
pub fn is_backend(pod: &Pod) -> bool {
    !pod.is_ended() && !pod.status.pod_ip.is_empty()
}

/// The pods a Service selects.
pub fn selected(service: &Service, pods: &Store<Pod>) -> Vec<Arc<Pod>> {
    let matches = |p: &Arc<Pod>| {
        service
            .spec
            .selector
            .iter()
            .all(|(k, v)| p.metadata.labels.get(k) == Some(v))
    };
    pods.list_namespace(&service.metadata.namespace)
        .into_iter()
        .filter(matches)
        .collect()
}

/// Whether the pod's name within the Service's domain is its host name.
pub fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let named = !pod.spec.hostname.is_empty() && pod.spec.subdomain == service.metadata.name;
    named.then(|| pod.spec.hostname.clone())
}

fn matters(old: &Pod, new: &Pod) -> bool {
    old.metadata.labels != new.metadata.labels
        || old.metadata.deletion_timestamp != new.metadata.deletion_timestamp
        || old.status.pod_ip != new.status.pod_ip
        || old.status.pod_ips != new.status.pod_ips
        || old.spec.node_name != new.spec.node_name
        || old.spec.hostname != new.spec.hostname
        || old.is_ready() != new.is_ready()
        || old.is_ended() != new.is_ended()
}

/// Enqueues the Services that a change of a pod concerns.
pub fn enqueue(change: Change<'_, Pod>, services: &Store<Service>, queue: &WorkQueue<ObjectKey>) {
    if let Change::Updated { old, new } = change
        && !matters(old, new)
    {
        return;
    }
    let pod = change.object();
    let before = change.old().map(|o| &o.metadata.labels);
    for s in services.list_namespace(&pod.metadata.namespace) {
        let selects = |l: &std::collections::BTreeMap<String, String>| {
            s.spec.selector.iter().all(|(k, v)| l.get(k) == Some(v))
        };
        if !s.spec.selector.is_empty()
            && (selects(&pod.metadata.labels) || before.is_some_and(selects))
        {
            queue.add(ObjectKey::of(&*s));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CVE-2021-25737's addresses in a pod's status are left out, rather than refused with everything beside them.
    #[test]
    fn a_pod_with_a_strange_address_is_left_out() {
        for (ip, v6, fine) in [
            ("10.0.0.1", false, true),
            ("fd00::1", true, true),
            ("10.0.0.1", true, false),
            ("127.0.0.1", false, false),
            ("169.254.169.254", false, false),
            ("224.0.0.1", false, false),
            ("0.0.0.0", false, false),
            ("::1", true, false),
            ("fe80::1", true, false),
            ("ff02::1", true, false),
            ("::ffff:10.0.0.1", true, false),
            ("010.0.0.1", false, false),
            ("nonsense", false, false),
            ("", false, false),
        ] {
            let mut pod = Pod::default();
            pod.status.pod_ip = ip.into();
            assert_eq!(address(&pod, v6), fine.then_some(ip), "{ip}");
        }
    }
}
