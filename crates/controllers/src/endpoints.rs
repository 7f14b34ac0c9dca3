//! endpoints-controller: the deprecated Endpoints object of each Service with a selector.
//!
//! At most 1000 addresses, the ready ones first; more are cut off and said so in an annotation. An Endpoints object goes with
//! the Service of its name; those that have none when the controller starts go then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use client::resource::{ENDPOINTS, PODS, SERVICES};
use client::{
    Change, DeleteOptions, EventType, ObjectKey, ObjectMeta, ObjectReference, Store, views,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Context;
use crate::endpoint_pods::{
    HEADLESS, TRIGGER_TIME, TriggerTimes, addresses, enqueue, hostname, is_backend, is_headless,
    mark_headless, ports, selected,
};
use crate::views::{EndpointPort, Pod, Service};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// The annotation of Endpoints that a leader holds; they belong to no Service.
pub const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const MOST: usize = 1000;

/// `v1.Endpoints`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Endpoints {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// Addresses that have the same ports.
    pub subsets: Vec<Subset>,
}

views!(Endpoints);

/// `v1.EndpointSubset`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Subset {
    /// Ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Address>,
    /// Not ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_ready_addresses: Vec<Address>,
    /// Shared by all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
}

/// `v1.EndpointAddress`
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Address {
    /// IP.
    pub ip: String,
    /// Host name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<Target>,
}

/// The pod behind an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Target {
    /// `Pod`
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// UID.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// API version; none of what this controller writes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    /// Part of the object; none of what this controller writes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field_path: String,
}

/// `v1.EndpointPort`
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Port {
    /// Name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Number.
    pub port: i32,
    /// Protocol.
    pub protocol: String,
    /// Application protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
}

impl From<EndpointPort> for Port {
    fn from(p: EndpointPort) -> Port {
        Port {
            name: p.name,
            port: p.port.unwrap_or(0),
            protocol: p.protocol,
            app_protocol: p.app_protocol,
        }
    }
}

/// Most pairs of an address and a port of it that are looked at one by one.
const PAIRS: usize = 1_000_000;

/// Subsets as they are to be compared and written: addresses with the same ports are together.
fn merge<'a>(subsets: impl Iterator<Item = &'a Subset>) -> Vec<Subset> {
    let mut groups: BTreeMap<Vec<&Port>, Subset> = BTreeMap::new();
    for s in subsets {
        let mut ports: Vec<&Port> = s.ports.iter().collect();
        ports.sort();
        ports.dedup();
        let group = groups.entry(ports).or_default();
        group.addresses.extend(s.addresses.iter().cloned());
        let others = s.not_ready_addresses.iter().cloned();
        group.not_ready_addresses.extend(others);
    }
    let whole = |(ports, mut s): (Vec<&Port>, Subset)| {
        s.ports = ports.into_iter().cloned().collect();
        for list in [&mut s.addresses, &mut s.not_ready_addresses] {
            list.sort();
            list.dedup();
        }
        s
    };
    let all = groups.into_iter().map(whole);
    all.filter(|s| !s.addresses.is_empty() || !s.not_ready_addresses.is_empty())
        .collect()
}

/// As [`merge`], and an address is in one subset for all its ports; one that is ready on a port is not also not ready there.
/// That is left undone for Endpoints that somebody wrote with very many addresses on very many ports.
pub fn repack(subsets: &[Subset]) -> Vec<Subset> {
    let merged = merge(subsets.iter());
    let pairs = |s: &Subset| (s.addresses.len() + s.not_ready_addresses.len()) * s.ports.len();
    if merged.iter().map(pairs).sum::<usize>() > PAIRS {
        return merged;
    }
    let mut of: BTreeMap<(&Address, bool), BTreeSet<&Port>> = BTreeMap::new();
    for s in &merged {
        let ready = s.addresses.iter().map(|a| (a, true));
        for (a, ready) in ready.chain(s.not_ready_addresses.iter().map(|a| (a, false))) {
            of.entry((a, ready)).or_default().extend(&s.ports);
        }
    }
    let mut groups: BTreeMap<Vec<&Port>, Subset> = BTreeMap::new();
    for ((a, ready), ports) in &of {
        let better = of.get(&(*a, true)).filter(|_| !ready);
        let left = ports
            .iter()
            .filter(|p| better.is_none_or(|b| !b.contains(*p)));
        let left: Vec<&Port> = left.copied().collect();
        if left.is_empty() && better.is_some() {
            continue;
        }
        let group = groups.entry(left).or_default();
        let list = if *ready {
            &mut group.addresses
        } else {
            &mut group.not_ready_addresses
        };
        list.push((*a).clone());
    }
    let whole = |(ports, mut s): (Vec<&Port>, Subset)| {
        s.ports = ports.into_iter().cloned().collect();
        s
    };
    groups.into_iter().map(whole).collect()
}

/// Cuts what is beyond the most addresses: of the ready ones when there are too many of these, and then all others; else of
/// the others. Each subset keeps its part. Whether something was cut off.
fn cut(subsets: &mut [Subset]) -> bool {
    let ready: usize = subsets.iter().map(|s| s.addresses.len()).sum();
    let others: usize = subsets.iter().map(|s| s.not_ready_addresses.len()).sum();
    if ready + others <= MOST {
        return false;
    }
    let of_ready = ready > MOST;
    let (most, total) = if of_ready {
        (MOST, ready)
    } else {
        (MOST - ready, others)
    };
    let mut room = most;
    for s in subsets {
        if of_ready {
            s.not_ready_addresses.clear();
        }
        let list = if of_ready {
            &mut s.addresses
        } else {
            &mut s.not_ready_addresses
        };
        let part = list.len().saturating_mul(most).div_ceil(total.max(1));
        list.truncate(part.min(room));
        room -= list.len();
    }
    true
}

/// Whether the Service's endpoints are IPv6. One that does not say, and has no address, takes what its pods have.
fn is_v6(service: &Service, pod: &Pod) -> bool {
    match (
        service.spec.ip_families.first(),
        service.spec.cluster_ip.as_str(),
    ) {
        (Some(f), _) => f == "IPv6",
        (None, "" | "None") => pod.status.pod_ip.contains(':'),
        (None, ip) => ip.contains(':'),
    }
}

/// The subsets, and whether some were cut off.
pub fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<Subset>, bool) {
    let publish = service.spec.publish_not_ready_addresses;
    let mut found: BTreeMap<Vec<Port>, Subset> = BTreeMap::new();
    for pod in pods.iter().filter(|p| is_backend(p)) {
        if pod.metadata.is_deleting() && !publish {
            continue;
        }
        let Some(ip) = addresses(pod, is_v6(service, pod)).next() else {
            continue;
        };
        let mut ports: Vec<Port> = ports(service, pod).into_iter().map(Port::from).collect();
        if ports.is_empty() && !(service.spec.ports.is_empty() && is_headless(service)) {
            continue;
        }
        ports.sort();
        let address = Address {
            ip,
            hostname: hostname(service, pod).unwrap_or_default(),
            node_name: (!pod.spec.node_name.is_empty()).then(|| pod.spec.node_name.clone()),
            target_ref: Some(Target {
                kind: "Pod".into(),
                namespace: pod.metadata.namespace.clone(),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
                ..Target::default()
            }),
        };
        let group = found.entry(ports).or_default();
        if publish || pod.is_ready() {
            group.addresses.push(address);
        } else {
            group.not_ready_addresses.push(address);
        }
    }
    let whole = |(ports, s): (Vec<Port>, Subset)| Subset { ports, ..s };
    let found: Vec<Subset> = found.into_iter().map(whole).collect();
    let mut all = repack(&found);
    let cut = cut(&mut all);
    (all, cut)
}

fn labels(s: &Service) -> BTreeMap<String, String> {
    let mut l = s.metadata.labels.clone();
    mark_headless(&mut l, s);
    l.insert(MANAGED_BY.into(), MANAGER.into());
    l
}

/// Whether labels are the Service's. Whether it is headless is not looked at.
fn has_labels_of(e: &Endpoints, s: &Service) -> bool {
    let own = |key: &str| key != HEADLESS && key != MANAGED_BY;
    let labels = &e.metadata.labels;
    let mut theirs = labels.iter().filter(|(k, _)| own(k));
    labels.get(MANAGED_BY).is_some_and(|m| m == MANAGER)
        && theirs.all(|(k, v)| s.metadata.labels.get(k) == Some(v))
        && labels.keys().filter(|k| own(k)).count() == s.metadata.labels.len()
}

/// What is to be written, if anything is.
fn decide(
    service: &Service,
    pods: &[Arc<Pod>],
    have: Option<&Endpoints>,
    trigger: Option<client::Time>,
) -> Option<Value> {
    let (subsets, cut) = subsets(service, pods);
    let mut metadata = match have {
        Some(e) => e.metadata.clone(),
        None => ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
    };
    let was_cut = metadata.annotations.remove(OVER_CAPACITY).is_some();
    if let Some(e) = have
        && (e.subsets == subsets || repack(&e.subsets) == subsets)
        && has_labels_of(e, service)
        && was_cut == cut
    {
        return None;
    }
    metadata.labels = labels(service);
    metadata.annotations.remove(TRIGGER_TIME);
    let trigger = trigger.map(|t| (TRIGGER_TIME.to_owned(), client::view::print_time(t)));
    metadata.annotations.extend(trigger);
    if cut {
        metadata
            .annotations
            .insert(OVER_CAPACITY.into(), "truncated".into());
    }
    Some(json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets,
    }))
}

struct Controller {
    ctx: Context,
    services: Store<Service>,
    pods: Store<Pod>,
    endpoints: Store<Endpoints>,
    triggers: TriggerTimes,
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let services = ctx.informer::<Service>(&SERVICES);
    let pods = ctx.informer::<Pod>(&PODS);
    let endpoints = ctx.informer::<Endpoints>(&ENDPOINTS);
    let queue = ctx.queue("endpoint");
    let q = queue.clone();
    services.on_change(move |change| q.add(ObjectKey::of(&**change.object())));
    let (q, store, batch) = (queue.clone(), services.store(), ctx.config.endpoint_batch);
    pods.on_change(move |change| enqueue(change, &store, &q, batch));
    let q = queue.clone();
    endpoints.on_change(move |change| {
        if let Change::Deleted(e) = change {
            q.add(ObjectKey::of(&**e));
        }
    });
    let (q, informers, leftovers) = (queue.clone(), ctx.informers.clone(), endpoints.store());
    ctx.spawn(async move {
        informers.synced().await;
        for e in leftovers.list() {
            if !e.metadata.annotations.contains_key(LEADER) {
                q.add(ObjectKey::of(&*e));
            }
        }
    });
    let it = Arc::new(Controller {
        services: services.store(),
        pods: pods.store(),
        endpoints: endpoints.store(),
        triggers: TriggerTimes::default(),
        ctx: ctx.clone(),
    });
    let workers = ctx.config.concurrent("endpoint", 5);
    ctx.run(queue, workers, move |key| {
        let it = it.clone();
        async move { it.sync(&key).await }
    });
}

impl Controller {
    async fn sync(&self, key: &ObjectKey) -> Result<Option<Duration>, client::Error> {
        let api = self.ctx.client.namespaced(&ENDPOINTS, &key.namespace);
        let have = self.endpoints.get_key(key);
        let Some(service) = self.services.get_key(key) else {
            self.triggers.forget(key);
            let Some(e) = have else {
                return Ok(None);
            };
            let only = DeleteOptions::uid(e.metadata.uid.as_str());
            return match api.delete(&key.name, &only).await {
                Ok(()) => Ok(None),
                Err(e) if e.is_not_found() || e.is_conflict() => Ok(None),
                Err(e) => Err(e),
            };
        };
        if service.spec.selector.is_empty() || service.spec.kind == "ExternalName" {
            return Ok(None);
        }
        let pods = selected(&service, &self.pods);
        let trigger = self.triggers.compute(&service, &pods);
        let Some(body) = decide(&service, &pods, have.as_deref(), trigger) else {
            return Ok(None);
        };
        let written = match &have {
            None => api.create::<serde::de::IgnoredAny, _>(&body).await,
            Some(_) => api.update(&key.name, &body).await,
        };
        match written {
            Ok(_) => Ok(None),
            Err(e) if e.is_namespace_terminating() => Ok(None),
            Err(e) if e.is_conflict() || e.is_already_exists() || e.is_not_found() => {
                Ok(Some(Duration::from_millis(200)))
            }
            Err(e) => {
                let (reason, message) = match &have {
                    Some(_) => (
                        "FailedToUpdateEndpoint",
                        format!("Failed to update endpoint {key}: {e}"),
                    ),
                    None => (
                        "FailedToCreateEndpoint",
                        format!("Failed to create endpoint for service {key}: {e}"),
                    ),
                };
                let mut object = have.map_or_else(Endpoints::default, |e| (*e).clone());
                object.metadata.name.clone_from(&key.name);
                object.metadata.namespace.clone_from(&key.namespace);
                let object = ObjectReference::of(&ENDPOINTS, &object);
                self.ctx
                    .recorder
                    .event(object, EventType::Warning, reason, message);
                Err(e)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn service(spec: Value) -> Service {
        object(
            json!({"metadata": {"name": "s", "namespace": "ns", "labels": {"a": "b"}}, "spec": spec}),
        )
    }

    fn pod(i: usize, ready: bool) -> Pod {
        object(json!({
            "metadata": {"name": format!("p{i}"), "namespace": "ns", "uid": format!("u{i}")},
            "spec": {"nodeName": "n"},
            "status": {"podIP": format!("10.1.{}.{}", i / 250, i % 250), "conditions": [
                {"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        }))
    }

    fn shared(pods: Vec<Pod>) -> Vec<Arc<Pod>> {
        pods.into_iter().map(Arc::new).collect()
    }

    fn web() -> Value {
        json!({"clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"], "ports": [{"name": "", "port": 80, "targetPort": 8080, "protocol": "TCP"}]})
    }

    /// Ports, then addresses that are ready and that are not.
    fn shown(subsets: &[Subset]) -> Vec<String> {
        let ips = |l: &[Address]| {
            l.iter()
                .map(|a| a.ip.as_str())
                .collect::<Vec<_>>()
                .join(",")
        };
        let ports = |s: &Subset| {
            s.ports
                .iter()
                .map(|p| format!("{}{}", p.name, p.port))
                .collect::<Vec<_>>()
                .join(",")
        };
        subsets
            .iter()
            .map(|s| {
                format!(
                    "{} {}/{}",
                    ports(s),
                    ips(&s.addresses),
                    ips(&s.not_ready_addresses)
                )
            })
            .collect()
    }

    #[test]
    fn pods_become_addresses() {
        let with = |i, ready, change: &dyn Fn(&mut Pod)| {
            let mut p = pod(i, ready);
            change(&mut p);
            p
        };
        let deleting = |p: &mut Pod| p.metadata.deletion_timestamp = Some(client::Time::UNIX_EPOCH);
        let set = |key: &str, value: Value| {
            let mut spec = web();
            spec[key] = value;
            spec
        };
        let both = |p: &mut Pod| {
            p.status.pod_ips = vec![
                object(json!({"ip": "10.1.0.1"})),
                object(json!({"ip": "fd00::1"})),
            ]
        };
        for (name, spec, pods, want) in [
            (
                "ready or not",
                web(),
                vec![pod(1, true), pod(2, false)],
                vec!["8080 10.1.0.1/10.1.0.2"],
            ),
            ("none", web(), vec![], vec![]),
            (
                "published",
                set("publishNotReadyAddresses", json!(true)),
                vec![pod(1, false), with(2, false, &deleting)],
                vec!["8080 10.1.0.1,10.1.0.2/"],
            ),
            ("deleting", web(), vec![with(1, true, &deleting)], vec![]),
            (
                "ended",
                web(),
                vec![
                    with(1, true, &|p| p.status.phase = "Failed".into()),
                    with(2, true, &|p| p.status.phase = "Succeeded".into()),
                ],
                vec![],
            ),
            (
                "no address",
                web(),
                vec![with(1, true, &|p| p.status.pod_ip.clear())],
                vec![],
            ),
            (
                "IPv6 first",
                set("ipFamilies", json!(["IPv6", "IPv4"])),
                vec![with(1, true, &both), pod(2, true)],
                vec!["8080 fd00::1/"],
            ),
            (
                "IPv4 first",
                set("ipFamilies", json!(["IPv4", "IPv6"])),
                vec![with(1, true, &both)],
                vec!["8080 10.1.0.1/"],
            ),
            (
                "no family",
                json!({"clusterIP": "None"}),
                vec![
                    with(1, true, &|p| p.status.pod_ip = "fd00::1".into()),
                    pod(2, true),
                ],
                vec![" 10.1.0.2,fd00::1/"],
            ),
            (
                "headless without ports",
                json!({"clusterIP": "None", "ipFamilies": ["IPv4"]}),
                vec![pod(1, true)],
                vec![" 10.1.0.1/"],
            ),
            (
                "no ports",
                json!({"clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"]}),
                vec![pod(1, true)],
                vec![],
            ),
            (
                "a port nobody has",
                set(
                    "ports",
                    json!([{"port": 80, "targetPort": "web", "protocol": "TCP"}]),
                ),
                vec![pod(1, true)],
                vec![],
            ),
            (
                "two ports",
                set(
                    "ports",
                    json!([{"name": "b", "port": 2}, {"name": "a", "port": 1}]),
                ),
                vec![pod(1, true), pod(2, true)],
                vec!["a1,b2 10.1.0.1,10.1.0.2/"],
            ),
            (
                "pods with other ports",
                set(
                    "ports",
                    json!([{"name": "x", "port": 80, "targetPort": "x"}]),
                ),
                (1..4)
                    .map(|i| {
                        with(i, i != 3, &|p| {
                            p.spec.containers = vec![object(
                                json!({"ports": [{"name": "x", "containerPort": i % 2 + 1}]}),
                            )]
                        })
                    })
                    .collect(),
                vec!["x1 10.1.0.2/", "x2 10.1.0.1/10.1.0.3"],
            ),
        ] {
            let (found, cut) = subsets(&service(spec), &shared(pods));
            assert_eq!(
                (shown(&found), cut),
                (want.into_iter().map(str::to_owned).collect(), false),
                "{name}"
            );
        }
        let named = with(1, true, &|p| {
            p.spec.hostname = "h".into();
            p.spec.subdomain = "s".into()
        });
        let (found, _) = subsets(&service(web()), &shared(vec![named]));
        let written = json!({"ip": "10.1.0.1", "hostname": "h", "nodeName": "n", "targetRef": {"kind": "Pod", "namespace": "ns", "name": "p1", "uid": "u1"}});
        assert_eq!(json!(found[0].addresses), json!([written]));
    }

    #[test]
    fn too_many_are_cut_by_parts() {
        let list = |n: usize| {
            (0..n)
                .map(|i| Address {
                    ip: i.to_string(),
                    ..Address::default()
                })
                .collect::<Vec<_>>()
        };
        for (sizes, want) in [
            (vec![(500, 500)], None),
            (vec![(1001, 0)], Some(vec![(1000, 0)])),
            (vec![(900, 200)], Some(vec![(900, 100)])),
            (vec![(1000, 1)], Some(vec![(1000, 0)])),
            (vec![(1100, 100), (100, 5)], Some(vec![(917, 0), (83, 0)])),
            (
                vec![(400, 600), (400, 300)],
                Some(vec![(400, 134), (400, 66)]),
            ),
            (
                vec![(0, 500), (0, 500), (0, 500)],
                Some(vec![(0, 334), (0, 334), (0, 332)]),
            ),
        ] {
            let subset = |(a, b): &(usize, usize)| Subset {
                addresses: list(*a),
                not_ready_addresses: list(*b),
                ports: vec![],
            };
            let mut all: Vec<Subset> = sizes.iter().map(subset).collect();
            let was_cut = cut(&mut all);
            let left: Vec<_> = all
                .iter()
                .map(|s| (s.addresses.len(), s.not_ready_addresses.len()))
                .collect();
            assert_eq!(
                (left, was_cut),
                (want.clone().unwrap_or(sizes), want.is_some())
            );
        }
    }

    #[test]
    fn subsets_are_packed() {
        let a = |ip: &str| Address {
            ip: ip.into(),
            ..Address::default()
        };
        let p = |n: i32| Port {
            port: n,
            ..Port::default()
        };
        let s = |ready: &[&str], others: &[&str], ports: &[i32]| Subset {
            addresses: ready.iter().map(|i| a(i)).collect(),
            not_ready_addresses: others.iter().map(|i| a(i)).collect(),
            ports: ports.iter().map(|n| p(*n)).collect(),
        };
        for (given, want) in [
            (
                vec![s(&["1"], &[], &[1]), s(&["1"], &[], &[2])],
                vec!["1,2 1/"],
            ),
            (
                vec![s(&["1"], &[], &[1]), s(&["2"], &[], &[1])],
                vec!["1 1,2/"],
            ),
            (vec![s(&["1", "1"], &["2"], &[2, 1])], vec!["1,2 1/2"]),
            (
                vec![s(&["1"], &[], &[1]), s(&[], &["1"], &[1])],
                vec!["1 1/"],
            ),
            (
                vec![s(&["1"], &[], &[1]), s(&[], &["1"], &[2])],
                vec!["1 1/", "2 /1"],
            ),
            (vec![s(&["1"], &[], &[])], vec![" 1/"]),
            (vec![s(&[], &[], &[1])], vec![]),
        ] {
            assert_eq!(shown(&repack(&given)), want, "{given:?}");
            assert_eq!(repack(&repack(&given)), repack(&given));
        }
    }

    /// Addresses times ports is what nobody looks through.
    #[test]
    fn many_addresses_on_many_ports_cost_their_length() {
        let list = |n: i32| {
            (0..n)
                .map(|i| Address {
                    ip: i.to_string(),
                    ..Address::default()
                })
                .collect()
        };
        let ports = |from: i32| {
            (from..from + 10_000)
                .map(|n| Port {
                    port: n,
                    ..Port::default()
                })
                .collect()
        };
        let s = |from| Subset {
            addresses: list(10_000),
            not_ready_addresses: vec![],
            ports: ports(from),
        };
        let packed = repack(&[s(0), s(20_000), s(0)]);
        let sizes: Vec<_> = packed
            .iter()
            .map(|s| (s.addresses.len(), s.ports.len()))
            .collect();
        assert_eq!(sizes, [(10_000, 10_000), (10_000, 10_000)]);
    }

    #[test]
    fn nothing_is_written_without_need() {
        let (s, pods) = (service(web()), shared(vec![pod(1, true)]));
        let body = decide(&s, &pods, None, client::Time::from_second(0).ok()).unwrap();
        assert_eq!(
            body["metadata"],
            json!({"name": "s", "namespace": "ns", "labels": {"a": "b", MANAGED_BY: MANAGER},
            "annotations": {TRIGGER_TIME: "1970-01-01T00:00:00Z"}})
        );
        let mut have: Endpoints = object(body);
        assert_eq!(decide(&s, &pods, Some(&have), None), None);
        // Headless or not is no reason to write, and neither is how subsets were packed.
        have.metadata.labels.insert(HEADLESS.into(), String::new());
        assert_eq!(decide(&s, &pods, Some(&have), None), None);
        let two = service(
            json!({"clusterIP": "10.0.0.1", "ports": [{"name": "a", "port": 1}, {"name": "b", "port": 2}]}),
        );
        let mut packed: Endpoints = object(decide(&two, &pods, None, None).unwrap());
        packed.subsets[0].ports.reverse();
        assert_eq!(decide(&two, &pods, Some(&packed), None), None);
        for change in [
            |e: &mut Endpoints| {
                e.metadata.labels.remove(MANAGED_BY);
            },
            |e: &mut Endpoints| {
                e.metadata.labels.insert("x".into(), "y".into());
            },
            |e: &mut Endpoints| {
                e.metadata.labels.remove("a");
            },
            |e: &mut Endpoints| {
                e.metadata
                    .annotations
                    .insert(OVER_CAPACITY.into(), "truncated".into());
            },
            |e: &mut Endpoints| e.subsets.clear(),
        ] {
            let mut other = have.clone();
            other.metadata.finalizers = vec!["a/b".into()];
            other.metadata.resource_version = "7".into();
            other
                .metadata
                .annotations
                .insert("mine".into(), "kept".into());
            change(&mut other);
            let body = decide(&s, &pods, Some(&other), None).unwrap();
            assert_eq!(
                body["metadata"],
                json!({"name": "s", "namespace": "ns", "resourceVersion": "7", "finalizers": ["a/b"],
                "labels": {"a": "b", MANAGED_BY: MANAGER}, "annotations": {"mine": "kept"}})
            );
        }
        let headless = service(json!({"clusterIP": "None", "ipFamilies": ["IPv4"]}));
        assert_eq!(
            decide(&headless, &pods, None, None).unwrap()["metadata"]["labels"][HEADLESS],
            ""
        );
        // What was cut is told once.
        let many = shared((0..1100).map(|i| pod(i, i >= 200)).collect());
        let body = decide(&s, &many, None, None).unwrap();
        assert_eq!(
            body["metadata"]["annotations"],
            json!({OVER_CAPACITY: "truncated"})
        );
        assert_eq!(decide(&s, &many, Some(&object(body)), None), None);
    }
}
