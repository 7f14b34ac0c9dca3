//! What endpointslice-controller and endpoints-controller share: which pods back a Service, and on which ports.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use client::{Change, ObjectKey, Store, Time, WorkQueue};
use serde_json::Value;

use crate::views::{EndpointPort, Pod, Service, ServicePort};

/// Label and annotation keys.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
/// When the change that led to the endpoints happened.
pub const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Whether the Service shall have no address of its own.
pub fn is_headless(s: &Service) -> bool {
    s.spec.cluster_ip == "None"
}

/// The label that says that no address of a Service's own stands for its endpoints, or not yet.
pub fn mark_headless(labels: &mut BTreeMap<String, String>, s: &Service) {
    if matches!(s.spec.cluster_ip.as_str(), "" | "None") {
        labels.insert(HEADLESS.into(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
}

/// The port of a pod that a Service's port leads to: a name is looked up among the containers, then among those init
/// containers that keep running.
fn number(p: &ServicePort, protocol: &str, pod: &Pod) -> Option<i32> {
    let name = match &p.target_port {
        Value::String(name) => name,
        Value::Number(n) => {
            let n = n.as_i64().and_then(|n| i32::try_from(n).ok());
            return Some(n.filter(|n| *n != 0).unwrap_or(p.port));
        }
        _ => return Some(p.port),
    };
    let sidecars = pod.spec.init_containers.iter();
    let sidecars = sidecars.filter(|c| c.restart_policy == "Always");
    let all = pod.spec.containers.iter().chain(sidecars);
    all.flat_map(|c| &c.ports)
        .find(|c| c.name == *name && or_tcp(&c.protocol) == protocol)
        .map(|c| c.container_port)
}

fn or_tcp(protocol: &str) -> &str {
    if protocol.is_empty() { "TCP" } else { protocol }
}

/// The ports of a Service on a pod. A port the pod does not have is left out.
pub fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let found = service.spec.ports.iter().filter_map(|p| {
        let protocol = or_tcp(&p.protocol);
        Some(EndpointPort {
            name: p.name.clone(),
            protocol: protocol.to_owned(),
            port: Some(number(p, protocol, pod)?),
            app_protocol: p.app_protocol.clone(),
        })
    });
    found.collect()
}

/// Reads an address as Go's older parser did, which let leading zeros pass, and took IPv4 in IPv6 for IPv4.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    }
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next().filter(|p| !p.is_empty() && p.len() <= 16)?;
        if !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *octet = part.parse().ok()?;
    }
    parts
        .next()
        .is_none()
        .then(|| IpAddr::V4(Ipv4Addr::from(octets)))
}

/// The pod's addresses of an IP family. What the apiserver takes for no endpoint is none, so that one pod with a strange
/// status does not keep those of the others from being written.
pub fn addresses(pod: &Pod, v6: bool) -> impl Iterator<Item = String> {
    let all = pod.status.pod_ips.iter().map(|p| p.ip.as_str());
    let one = pod.status.pod_ips.is_empty();
    let all = all.chain(one.then_some(pod.status.pod_ip.as_str()));
    all.filter_map(parse_ip)
        .filter(move |ip| ip.is_ipv6() == v6 && is_endpoint(*ip))
        .map(|ip| ip.to_string())
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
    let has_address = !pod.status.pod_ip.is_empty() || !pod.status.pod_ips.is_empty();
    has_address && !pod.is_ended()
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

/// Whether endpoints of the pod change, and whether the Services that select it may.
fn matters(old: &Pod, new: &Pod) -> (bool, bool) {
    let endpoints = old.metadata.deletion_timestamp != new.metadata.deletion_timestamp
        || old.status.pod_ip != new.status.pod_ip
        || old.status.pod_ips != new.status.pod_ips
        || old.spec.node_name != new.spec.node_name
        || old.is_ready() != new.is_ready()
        || old.is_ended() != new.is_ended();
    let named = old.spec.hostname == new.spec.hostname && old.spec.subdomain == new.spec.subdomain;
    (
        endpoints || !named,
        old.metadata.labels != new.metadata.labels,
    )
}

/// Enqueues the Services that a change of a pod concerns, when `delay` has passed: those that select it or did, and when
/// nothing but its labels changed, only those that began or ceased to.
pub fn enqueue(
    change: Change<'_, Pod>,
    services: &Store<Service>,
    queue: &WorkQueue<ObjectKey>,
    delay: Duration,
) {
    let (endpoints, labels) = match change {
        Change::Updated { old, new } => matters(old, new),
        _ => (true, false),
    };
    if !endpoints && !labels {
        return;
    }
    let pod = change.object();
    let before = change.old().filter(|_| labels);
    for s in services.list_namespace(&pod.metadata.namespace) {
        let selects =
            |l: &BTreeMap<String, String>| s.spec.selector.iter().all(|(k, v)| l.get(k) == Some(v));
        let now = selects(&pod.metadata.labels);
        let then = before.map_or(now, |p| selects(&p.metadata.labels));
        if !s.spec.selector.is_empty() && (now != then || endpoints && now) {
            queue.add_after(ObjectKey::of(&*s), delay);
        }
    }
}

/// What led to the endpoints of a Service as they were computed last.
#[derive(Clone, Debug, Default, PartialEq)]
struct Triggers {
    service: Option<Time>,
    /// By pod.
    pods: HashMap<String, Time>,
}

/// Tells since when endpoints are as they are: the annotation `endpoints.kubernetes.io/last-change-trigger-time`.
#[derive(Debug, Default)]
pub struct TriggerTimes(Mutex<HashMap<ObjectKey, Triggers>>);

impl TriggerTimes {
    /// The earliest of the changes since the last call for this Service. A Service that was not seen before gives the time
    /// it was made. `None` when nothing changed that has a time.
    pub fn compute(&self, service: &Service, pods: &[Arc<Pod>]) -> Option<Time> {
        let ready = |p: &Arc<Pod>| {
            let since = crate::views::condition(&p.status.conditions, "Ready")?;
            Some((p.metadata.name.clone(), since.last_transition_time?))
        };
        let now = Triggers {
            service: service.metadata.creation_timestamp,
            pods: pods.iter().filter_map(ready).collect(),
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.insert(ObjectKey::of(service), now.clone());
        drop(all);
        let Some(before) = known else {
            return now.service;
        };
        let newer = |(name, t): (&String, &Time)| {
            before
                .pods
                .get(name)
                .is_none_or(|old| t > old)
                .then_some(*t)
        };
        let pods = now.pods.iter().filter_map(newer);
        pods.chain(now.service.filter(|t| Some(*t) > before.service))
            .min()
    }

    /// The Service is gone.
    pub fn forget(&self, service: &ObjectKey) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(service);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// CVE-2021-25737's addresses in a pod's status are left out, rather than refused with everything beside them.
    #[test]
    fn a_pod_with_a_strange_address_is_left_out() {
        for (ip, v6, fine) in [
            ("10.0.0.1", false, "10.0.0.1"),
            ("fd00::1", true, "fd00::1"),
            ("FD00:0::1", true, "fd00::1"),
            ("010.0.0.01", false, "10.0.0.1"),
            ("::ffff:10.0.0.1", false, "10.0.0.1"),
            ("10.0.0.1", true, ""),
            ("127.0.0.1", false, ""),
            ("169.254.169.254", false, ""),
            ("224.0.0.1", false, ""),
            ("0.0.0.0", false, ""),
            ("::1", true, ""),
            ("fe80::1", true, ""),
            ("ff02::1", true, ""),
            ("::ffff:10.0.0.1", true, ""),
            ("::ffff:127.0.0.1", false, ""),
            ("10.0.0", false, ""),
            ("10.0.0.1.2", false, ""),
            ("10.0.0.256", false, ""),
            ("+1.0.0.1", false, ""),
            ("nonsense", false, ""),
            ("", false, ""),
        ] {
            let mut pod = Pod::default();
            pod.status.pod_ip = ip.into();
            let found: Vec<String> = addresses(&pod, v6).collect();
            let fine = (!fine.is_empty()).then_some(fine.to_owned());
            assert_eq!(found, Vec::from_iter(fine), "{ip}");
        }
    }

    fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn ports_are_looked_up_where_they_can_be() {
        let pod: Pod = object(json!({"spec": {
            "containers": [{"name": "a", "ports": [
                {"name": "web", "containerPort": 8080, "protocol": "TCP"},
                {"name": "dns", "containerPort": 53, "protocol": "UDP"}]}],
            "initContainers": [
                {"name": "once", "ports": [{"name": "once", "containerPort": 1, "protocol": "TCP"}]},
                {"name": "kept", "restartPolicy": "Always", "ports": [
                    {"name": "kept", "containerPort": 2}, {"name": "web", "containerPort": 3}]}],
        }}));
        for (target, protocol, want) in [
            (json!(81), "TCP", Some(81)),
            (json!(0), "TCP", Some(80)),
            (json!(null), "TCP", Some(80)),
            (json!("web"), "TCP", Some(8080)),
            (json!("web"), "", Some(8080)),
            (json!("web"), "UDP", None),
            (json!("dns"), "UDP", Some(53)),
            (json!("kept"), "TCP", Some(2)),
            (json!("once"), "TCP", None),
            (json!("8080"), "TCP", None),
        ] {
            let s: Service = object(json!({"spec": {"ports": [
                {"name": "p", "port": 80, "protocol": protocol, "targetPort": target, "appProtocol": "h2"}]}}));
            let found = ports(&s, &pod);
            assert_eq!(
                found.first().and_then(|p| p.port),
                want,
                "{target} {protocol}"
            );
            assert!(
                found
                    .iter()
                    .all(|p| p.app_protocol.as_deref() == Some("h2") && !p.protocol.is_empty())
            );
        }
    }

    /// Which Services a change of a pod wakes.
    #[tokio::test]
    async fn a_pod_wakes_whom_it_concerns() {
        let services = Store::<Service>::default();
        for (name, selector) in [
            ("a", json!({"app": "a"})),
            ("b", json!({"app": "b"})),
            ("on", json!({"on": "y"})),
            ("none", json!({})),
        ] {
            services.insert(Arc::new(object(json!({"metadata": {"name": name, "namespace": "ns"}, "spec": {"selector": selector}}))));
        }
        let pod = |labels: Value, ready: &str, hostname: &str| -> Arc<Pod> {
            Arc::new(object(
                json!({"metadata": {"name": "p", "namespace": "ns", "labels": labels}, "spec": {"hostname": hostname},
                "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": ready}]}}),
            ))
        };
        let (a, b) = (
            json!({"app": "a", "on": "y"}),
            json!({"app": "b", "on": "y"}),
        );
        for (old, new, want) in [
            (None, pod(a.clone(), "True", ""), vec!["a", "on"]),
            (
                Some(pod(a.clone(), "True", "")),
                pod(a.clone(), "True", ""),
                vec![],
            ),
            (
                Some(pod(a.clone(), "False", "")),
                pod(a.clone(), "True", ""),
                vec!["a", "on"],
            ),
            (
                Some(pod(a.clone(), "True", "")),
                pod(a.clone(), "True", "h"),
                vec!["a", "on"],
            ),
            // A Service that selects it before and after is left alone when only labels changed.
            (
                Some(pod(a.clone(), "True", "")),
                pod(b.clone(), "True", ""),
                vec!["a", "b"],
            ),
            (
                Some(pod(a.clone(), "False", "")),
                pod(b.clone(), "True", ""),
                vec!["a", "b", "on"],
            ),
            (
                Some(pod(a.clone(), "True", "")),
                pod(json!({"app": "a", "on": "y", "x": "y"}), "True", ""),
                vec![],
            ),
        ] {
            let queue = WorkQueue::new("test");
            let change = match &old {
                None => Change::Added(&new),
                Some(old) => Change::Updated { old, new: &new },
            };
            enqueue(change, &services, &queue, Duration::ZERO);
            let mut woken = Vec::new();
            while !queue.is_empty() {
                woken.push(queue.next().await.unwrap().name);
            }
            assert_eq!(woken, want, "{old:?} {new:?}");
        }
    }

    #[test]
    fn the_trigger_is_the_earliest_change_since() {
        let at = |s: i64| client::view::print_time(Time::from_second(s).unwrap());
        let service: Service = object(
            json!({"metadata": {"name": "s", "namespace": "ns", "creationTimestamp": at(100)}}),
        );
        let pods = |times: &[(&str, i64)]| -> Vec<Arc<Pod>> {
            let pod = |(n, t): &(&str, i64)| {
                Arc::new(object(json!({"metadata": {"name": n},
                    "status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at(*t)}]}})))
            };
            times.iter().map(pod).collect()
        };
        let (times, key) = (TriggerTimes::default(), ObjectKey::of(&service));
        let step = |p: &[(&str, i64)]| times.compute(&service, &pods(p)).map(Time::as_second);
        assert_eq!(step(&[("a", 90), ("b", 105)]), Some(100), "a new Service");
        assert_eq!(step(&[("a", 90), ("b", 105)]), None, "nothing changed");
        assert_eq!(step(&[("a", 110), ("b", 107), ("c", 120)]), Some(107));
        assert_eq!(
            step(&[("a", 110), ("c", 120)]),
            None,
            "a pod that goes has no time"
        );
        assert_eq!(step(&[("a", 109), ("c", 120)]), None, "clocks that go back");
        times.forget(&key);
        assert_eq!(
            times
                .compute(&service, &pods(&[("a", 200)]))
                .map(Time::as_second),
            Some(100)
        );
        // A Service that is made anew under its name is a change.
        let again: Service = object(
            json!({"metadata": {"name": "s", "namespace": "ns", "creationTimestamp": at(150)}}),
        );
        assert_eq!(
            times
                .compute(&again, &pods(&[("a", 200)]))
                .map(Time::as_second),
            Some(150)
        );
    }
}
