//! endpointslice-mirroring-controller: EndpointSlices of the Endpoints that users write for Services without a selector.
//!
//! Invariants: a set of ports has one slice per IP family; it holds at most `--mirroring-max-endpoints-per-subset`
//! addresses, the rest is told of and left out; Endpoints with the label that forbids it, or that a leader holds, are not
//! mirrored; slices go with what they mirror.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::resource::{ENDPOINT_SLICES, ENDPOINTS, SERVICES};
use client::{Change, EventType, ObjectKey, ObjectMeta, ObjectReference, Selector, Store, views};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Context;
use crate::children::controller_reference;
use crate::endpoint_pods::{TRIGGER_TIME, parse_ip};
use crate::endpoints::{Address, Endpoints, LEADER, Subset, Target, repack};
use crate::endpointslice::decide::{MANAGED_BY, SERVICE_NAME};
use crate::endpointslice::{carry_out, prefix, service_of};
use crate::expectations::Expectations;
use crate::views::{EndpointConditions, EndpointPort, Service};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// `discovery.k8s.io/v1.EndpointSlice` of this controller.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Slice {
    metadata: ObjectMeta,
    address_type: String,
    endpoints: Vec<Endpoint>,
    ports: Vec<EndpointPort>,
}

views!(Slice);

/// `discovery.k8s.io/v1.Endpoint`: unlike those of pods it may be of any object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Endpoint {
    addresses: Vec<String>,
    conditions: EndpointConditions,
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_ref: Option<Target>,
}

/// What to do.
#[derive(Debug, Default)]
struct Plan {
    create: Vec<Value>,
    /// Names and bodies.
    update: Vec<(String, Value)>,
    /// Names and UIDs.
    delete: Vec<(String, String)>,
    /// Addresses that are none.
    invalid: usize,
    /// Addresses left out, these included.
    skipped: usize,
}

fn is_mirrored(e: &Endpoints) -> bool {
    let skip = e.metadata.labels.get(SKIP).is_some_and(|s| s == "true");
    !skip && !e.metadata.annotations.contains_key(LEADER)
}

fn ports(subset: &Subset) -> Vec<EndpointPort> {
    let one = |p: &crate::endpoints::Port| EndpointPort {
        name: p.name.clone(),
        protocol: p.protocol.clone(),
        port: Some(p.port),
        app_protocol: p.app_protocol.clone(),
    };
    sorted(subset.ports.iter().map(one).collect())
}

fn sorted(mut ports: Vec<EndpointPort>) -> Vec<EndpointPort> {
    ports.sort();
    ports
}

/// The endpoint of an address, and whether it is IPv6.
fn endpoint(a: &Address, ready: bool) -> Option<(bool, Endpoint)> {
    let ip = parse_ip(&a.ip)?;
    let endpoint = Endpoint {
        addresses: vec![ip.to_string()],
        conditions: EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        },
        hostname: (!a.hostname.is_empty()).then(|| a.hostname.clone()),
        node_name: a.node_name.clone(),
        target_ref: a.target_ref.clone(),
    };
    Some((ip.is_ipv6(), endpoint))
}

/// What makes an endpoint this endpoint.
type Identity = (Vec<String>, String, String, String);

fn identity(e: &Endpoint) -> Identity {
    let target = e.target_ref.clone().unwrap_or_default();
    let hostname = e.hostname.clone().unwrap_or_default();
    (e.addresses.clone(), hostname, target.namespace, target.name)
}

type Group = (Vec<EndpointPort>, bool);

/// The endpoints that are wanted, by ports and family.
fn wanted(e: &Endpoints, most: usize, plan: &mut Plan) -> BTreeMap<Group, Vec<Endpoint>> {
    let mut out: BTreeMap<Group, Vec<Endpoint>> = BTreeMap::new();
    for subset in repack(&e.subsets) {
        let ready = subset.addresses.iter().map(|a| (a, true));
        let all = ready.chain(subset.not_ready_addresses.iter().map(|a| (a, false)));
        let (mut taken, mut of) = (0, 0);
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (address, ready) in all {
            of += 1;
            if taken >= most {
                continue;
            }
            match endpoint(address, ready) {
                Some((is_v6, e)) => {
                    taken += 1;
                    if is_v6 { v6.push(e) } else { v4.push(e) }
                }
                None => plan.invalid += 1,
            }
        }
        plan.skipped += of - taken;
        for (is_v6, found) in [(false, v4), (true, v6)] {
            if !found.is_empty() {
                out.entry((ports(&subset), is_v6))
                    .or_default()
                    .extend(found);
            }
        }
    }
    for endpoints in out.values_mut() {
        let mut seen = HashSet::new();
        endpoints.retain(|e| seen.insert(identity(e)));
    }
    out
}

/// The annotations that a slice has of what it mirrors.
fn annotations(e: &Endpoints) -> BTreeMap<String, String> {
    let mut all = e.metadata.annotations.clone();
    all.remove(TRIGGER_TIME);
    all.remove(APPLIED);
    all
}

fn is_right(slice: &Slice, e: &Endpoints, wanted: &[Endpoint]) -> bool {
    let mut labels = slice.metadata.labels.clone();
    labels.remove(MANAGED_BY);
    labels.remove(SERVICE_NAME);
    let other_owner = |o: &client::OwnerReference| {
        o.kind == "Endpoints" && o.name == e.metadata.name && o.uid != e.metadata.uid
    };
    let have: HashMap<Identity, &Endpoint> =
        slice.endpoints.iter().map(|e| (identity(e), e)).collect();
    have.len() == wanted.len()
        && slice.endpoints.len() == wanted.len()
        && wanted.iter().all(|e| have.get(&identity(e)) == Some(&e))
        && labels == e.metadata.labels
        && slice.metadata.annotations == annotations(e)
        && !slice.metadata.owner_references.iter().any(other_owner)
}

fn body(e: &Endpoints, group: &Group, endpoints: &[Endpoint], base: Option<&Slice>) -> Value {
    let mut labels = e.metadata.labels.clone();
    labels.insert(SERVICE_NAME.into(), e.metadata.name.clone());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    let mut metadata = json!({
        "namespace": e.metadata.namespace,
        "labels": labels,
        "annotations": annotations(e),
        "ownerReferences": [controller_reference(&ENDPOINTS, &e.metadata)],
    });
    if let Some(m) = metadata.as_object_mut() {
        match base {
            None => m.insert("generateName".into(), prefix(&e.metadata.name).into()),
            Some(base) => {
                let version = base.metadata.resource_version.as_str();
                m.insert("resourceVersion".into(), version.into());
                m.insert("name".into(), base.metadata.name.as_str().into())
            }
        };
    }
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
        "addressType": if group.1 { "IPv6" } else { "IPv4" }, "endpoints": endpoints, "ports": group.0,
    })
}

fn decide(e: &Endpoints, slices: &[Arc<Slice>], most: usize) -> Plan {
    let mut plan = Plan::default();
    let wanted = wanted(e, most, &mut plan);
    let mut existing: BTreeMap<Group, Vec<&Arc<Slice>>> = BTreeMap::new();
    // Of any kind of address that it has no endpoints of, there shall be none.
    let mut spare: BTreeMap<bool, Vec<&Arc<Slice>>> = BTreeMap::new();
    for s in slices {
        let group = (sorted(s.ports.clone()), s.address_type == "IPv6");
        if wanted.contains_key(&group) && matches!(s.address_type.as_str(), "IPv4" | "IPv6") {
            existing.entry(group).or_default().push(s);
        } else {
            spare.entry(group.1).or_default().push(s);
        }
    }
    let mut new = Vec::new();
    for (group, endpoints) in &wanted {
        let mut found = existing.remove(group).unwrap_or_default().into_iter();
        match found.next() {
            Some(first) if is_right(first, e, endpoints) => {}
            Some(first) => {
                let name = first.metadata.name.clone();
                plan.update
                    .push((name, body(e, group, endpoints, Some(first))));
            }
            None => new.push((group, endpoints)),
        }
        spare.entry(group.1).or_default().extend(found);
    }
    for (group, endpoints) in new {
        let of_family = spare.entry(group.1).or_default();
        let usable = of_family
            .iter()
            .position(|s| s.address_type.starts_with("IPv"));
        match usable.map(|i| of_family.remove(i)) {
            Some(base) => {
                let name = base.metadata.name.clone();
                plan.update
                    .push((name, body(e, group, endpoints, Some(base))));
            }
            // The garbage collector deletes what Endpoints leave.
            None if e.metadata.is_deleting() => {}
            None => plan.create.push(body(e, group, endpoints, None)),
        }
    }
    let left = spare.into_values().flatten();
    plan.delete = left
        .map(|s| (s.metadata.name.clone(), s.metadata.uid.clone()))
        .collect();
    plan
}

struct Controller {
    ctx: Context,
    services: Store<Service>,
    endpoints: Store<Endpoints>,
    slices: Store<Slice>,
    expected: Arc<Expectations>,
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let services = ctx.informer::<Service>(&SERVICES);
    let endpoints = ctx.informer::<Endpoints>(&ENDPOINTS);
    let slices = ctx.informers.get::<Slice>(
        &ENDPOINT_SLICES,
        Selector::labels(format!("{MANAGED_BY}={MANAGER}")),
    );
    slices.store().add_index(SERVICE_NAME, |s: &Slice| {
        service_of(&s.metadata)
            .map(|k| k.to_string())
            .into_iter()
            .collect()
    });
    let (second, most) = (Duration::from_secs(1), Duration::from_secs(100));
    let queue = ctx.queue_with_limits("endpoint_slice_mirroring", second, most);
    let q = queue.clone();
    services.on_change(move |change| {
        let selects = |s: &Service| !s.spec.selector.is_empty();
        let s = change.object();
        let concerns = match change {
            Change::Updated { old, .. } => selects(old) != selects(s),
            _ => !selects(s),
        };
        if concerns {
            q.add(ObjectKey::of(&**s));
        }
    });
    let q = queue.clone();
    endpoints.on_change(move |change| {
        if is_mirrored(change.object()) || change.old().is_some_and(|e| is_mirrored(e)) {
            q.add(ObjectKey::of(&**change.object()));
        }
    });
    let expected = Arc::new(Expectations::default());
    let (q, seen, batch) = (queue.clone(), expected.clone(), ctx.config.mirroring_batch);
    slices.on_change(move |change| {
        let slice = change.object();
        let before = change.old().and_then(|s| service_of(&s.metadata));
        let now = service_of(&slice.metadata);
        if let (Change::Added(_), Some(key)) = (&change, &now) {
            seen.created(key);
        }
        for key in before
            .filter(|k| Some(k) != now.as_ref())
            .into_iter()
            .chain(now.clone())
        {
            q.add_after(key, batch);
        }
    });
    let it = Arc::new(Controller {
        services: services.store(),
        endpoints: endpoints.store(),
        slices: slices.store(),
        expected,
        ctx: ctx.clone(),
    });
    let workers = ctx.config.concurrent("endpointslice-mirroring", 5);
    ctx.run(queue, workers, move |key| {
        let it = it.clone();
        async move { it.sync(&key).await }
    });
}

impl Controller {
    async fn sync(&self, key: &ObjectKey) -> Result<Option<Duration>, client::Error> {
        let slices = self.slices.by_index(SERVICE_NAME, &key.to_string());
        let service = self.services.get_key(key);
        let service = service.filter(|s| s.spec.selector.is_empty());
        let mirrored = self.endpoints.get_key(key).filter(|e| is_mirrored(e));
        let Some(endpoints) = mirrored.filter(|_| service.is_some()) else {
            self.expected.forget(key);
            let all = slices
                .iter()
                .map(|s| (s.metadata.name.clone(), s.metadata.uid.clone()));
            let all: Vec<_> = all.collect();
            carry_out(&self.ctx, &self.expected, key, (&[], &[], &all)).await?;
            return Ok(None);
        };
        if !self.expected.satisfied(key) {
            return Ok(None);
        }
        let most = self.ctx.config.mirrored_per_subset;
        let plan = decide(&endpoints, &slices, most);
        let tell = |reason: &str, message: String| {
            let object = ObjectReference::of(&ENDPOINTS, &*endpoints);
            self.ctx
                .recorder
                .event(object, EventType::Warning, reason, message);
        };
        if plan.invalid > 0 {
            let n = plan.invalid;
            let message =
                format!("Skipped {n} invalid IP addresses when mirroring to EndpointSlices");
            tell("InvalidIPAddress", message);
        }
        if plan.skipped > plan.invalid {
            tell(
                "TooManyAddressesToMirror",
                format!(
                    "A max of {most} addresses can be mirrored to EndpointSlices per Endpoints subset. {} addresses were skipped",
                    plan.skipped
                ),
            );
        }
        let writes = (&plan.create[..], &plan.update[..], &plan.delete[..]);
        match carry_out(&self.ctx, &self.expected, key, writes).await {
            Err(e) if e.is_conflict() || e.is_not_found() => Ok(Some(Duration::from_millis(200))),
            Err(e) if e.is_namespace_terminating() => Ok(None),
            Err(e) => Err(e),
            Ok(()) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(subsets: Value) -> Endpoints {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "e", "labels": {"a": "b"},
                "annotations": {"x": "y", APPLIED: "{}", TRIGGER_TIME: "2020-01-01T00:00:00Z"}},
            "subsets": subsets,
        }))
        .unwrap()
    }

    fn kept(body: &Value, name: &str) -> Arc<Slice> {
        let mut s: Slice = serde_json::from_value(body.clone()).unwrap();
        s.metadata.name = name.into();
        s.metadata.uid = format!("uid-{name}");
        s.metadata.resource_version = "3".into();
        Arc::new(s)
    }

    fn is_idle(p: &Plan) -> bool {
        p.create.is_empty() && p.update.is_empty() && p.delete.is_empty()
    }

    /// `FAMILY PORTS READY/NOT READY`
    fn shown(body: &Value) -> String {
        let (mut ready, mut not) = (vec![], vec![]);
        for e in body["endpoints"].as_array().unwrap() {
            let list = if e["conditions"] == json!({"ready": true}) {
                &mut ready
            } else {
                &mut not
            };
            list.push(e["addresses"][0].as_str().unwrap());
        }
        let ports: Vec<String> = body["ports"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["port"].to_string())
            .collect();
        format!(
            "{} {} {}/{}",
            body["addressType"].as_str().unwrap(),
            ports.join(","),
            ready.join(","),
            not.join(",")
        )
    }

    fn ports(numbers: &[i32]) -> Value {
        numbers
            .iter()
            .map(|n| json!({"name": n.to_string(), "port": n, "protocol": "TCP"}))
            .collect()
    }

    fn ips(all: &[&str]) -> Value {
        all.iter().map(|ip| json!({"ip": ip})).collect()
    }

    #[test]
    fn subsets_become_slices() {
        let six = [
            "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6",
        ];
        for (name, subsets, want, invalid, skipped) in [
            ("nothing", json!([]), vec![], 0, 0),
            (
                "no addresses",
                json!([{"ports": ports(&[80])}]),
                vec![],
                0,
                0,
            ),
            (
                "one",
                json!([{"ports": ports(&[80]), "addresses": ips(&["10.0.0.1"])}]),
                vec!["IPv4 80 10.0.0.1/"],
                0,
                0,
            ),
            (
                "no ports",
                json!([{"addresses": ips(&["10.0.0.1"])}]),
                vec!["IPv4  10.0.0.1/"],
                0,
                0,
            ),
            (
                "not ready",
                json!([{"ports": ports(&[80, 81]), "addresses": ips(&["10.0.0.1"]), "notReadyAddresses": ips(&["10.0.0.2"])}]),
                vec!["IPv4 80,81 10.0.0.1/10.0.0.2"],
                0,
                0,
            ),
            (
                "both families",
                json!([{"ports": ports(&[80]), "addresses": ips(&["10.0.0.1", "fd00::1"])}]),
                vec!["IPv4 80 10.0.0.1/", "IPv6 80 fd00::1/"],
                0,
                0,
            ),
            (
                "old ways to write them",
                json!([{"ports": ports(&[80]), "addresses": ips(&["010.0.0.1", "::ffff:10.0.0.2"])}]),
                vec!["IPv4 80 10.0.0.1,10.0.0.2/"],
                0,
                0,
            ),
            (
                "two subsets",
                json!([{"ports": ports(&[80]), "addresses": ips(&["10.0.0.1"])}, {"ports": ports(&[81]), "addresses": ips(&["10.0.0.2"])}]),
                vec!["IPv4 80 10.0.0.1/", "IPv4 81 10.0.0.2/"],
                0,
                0,
            ),
            (
                "the same ports twice",
                json!([{"ports": ports(&[80]), "addresses": ips(&["10.0.0.1"])}, {"ports": ports(&[80]), "addresses": ips(&["10.0.0.2"])}]),
                vec!["IPv4 80 10.0.0.1,10.0.0.2/"],
                0,
                0,
            ),
            (
                "the same address twice",
                json!([{"ports": ports(&[80]), "addresses": ips(&["10.0.0.1"])}, {"ports": ports(&[80]), "addresses": ips(&["10.0.0.1"])}]),
                vec!["IPv4 80 10.0.0.1/"],
                0,
                0,
            ),
            (
                "no address",
                json!([{"ports": ports(&[80]), "addresses": ips(&["10.0.0.1", "web.example"])}]),
                vec!["IPv4 80 10.0.0.1/"],
                1,
                1,
            ),
            (
                "too many",
                json!([{"ports": ports(&[80]), "addresses": ips(&six)}]),
                vec!["IPv4 80 10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4/"],
                0,
                2,
            ),
            (
                "too many, the ready ones first",
                json!([{"ports": ports(&[80]), "addresses": ips(&six[3..]), "notReadyAddresses": ips(&six[..3])}]),
                vec!["IPv4 80 10.0.0.4,10.0.0.5,10.0.0.6/10.0.0.1"],
                0,
                2,
            ),
            (
                "enough of each",
                json!([{"ports": ports(&[80]), "addresses": ips(&six[..4])}, {"ports": ports(&[81]), "addresses": ips(&six[2..])}]),
                vec![
                    "IPv4 80 10.0.0.1,10.0.0.2/",
                    "IPv4 80,81 10.0.0.3,10.0.0.4/",
                    "IPv4 81 10.0.0.5,10.0.0.6/",
                ],
                0,
                0,
            ),
        ] {
            let plan = decide(&endpoints(subsets.clone()), &[], 4);
            let mut got: Vec<String> = plan.create.iter().map(shown).collect();
            got.sort();
            assert_eq!(
                (got, plan.invalid, plan.skipped),
                (
                    want.into_iter().map(str::to_owned).collect(),
                    invalid,
                    skipped
                ),
                "{name}"
            );
            // What was made is right.
            let made: Vec<Arc<Slice>> = plan
                .create
                .iter()
                .enumerate()
                .map(|(i, b)| kept(b, &format!("web-{i}")))
                .collect();
            assert!(is_idle(&decide(&endpoints(subsets), &made, 4)), "{name}");
            assert_eq!(
                decide(&endpoints(json!([])), &made, 4).delete.len(),
                made.len(),
                "{name}"
            );
        }
    }

    #[test]
    fn what_an_address_says_is_kept() {
        let target = json!({"kind": "Thing", "namespace": "ns", "name": "t", "uid": "u", "apiVersion": "x/v1", "fieldPath": "a.b"});
        let e = endpoints(
            json!([{"ports": [{"name": "p", "port": 1, "protocol": "UDP", "appProtocol": "quic"}],
            "addresses": [{"ip": "10.0.0.1", "hostname": "h", "nodeName": "n", "targetRef": target}]}]),
        );
        let plan = decide(&e, &[], 1000);
        assert_eq!(
            plan.create,
            [json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"generateName": "web-", "namespace": "ns", "annotations": {"x": "y"},
                    "labels": {"a": "b", SERVICE_NAME: "web", MANAGED_BY: MANAGER},
                    "ownerReferences": [{"apiVersion": "v1", "kind": "Endpoints", "name": "web", "uid": "e", "controller": true, "blockOwnerDeletion": true}]},
                "ports": [{"name": "p", "port": 1, "protocol": "UDP", "appProtocol": "quic"}],
                "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "hostname": "h", "nodeName": "n", "targetRef": target}],
            })]
        );
        assert!(is_idle(&decide(
            &e,
            &[kept(&plan.create[0], "web-1")],
            1000
        )));
    }

    #[test]
    fn what_changes_is_written() {
        let subsets = json!([{"ports": ports(&[80]), "addresses": ips(&["10.0.0.1", "10.0.0.2"])}]);
        let e = endpoints(subsets);
        let slice = kept(&decide(&e, &[], 1000).create[0], "web-1");
        let with = |change: &dyn Fn(&mut Endpoints)| {
            let mut e = e.clone();
            change(&mut e);
            decide(&e, std::slice::from_ref(&slice), 1000)
        };
        for (name, change) in [
            ("same", (&|_: &mut Endpoints| {}) as &dyn Fn(&mut Endpoints)),
            ("time", &|e| {
                e.metadata
                    .annotations
                    .insert(TRIGGER_TIME.into(), "later".into());
            }),
            ("applied", &|e| {
                e.metadata.annotations.remove(APPLIED);
            }),
        ] {
            assert!(is_idle(&with(change)), "{name}");
        }
        for (name, change, want) in [
            (
                "label",
                (&|e: &mut Endpoints| {
                    e.metadata.labels.insert("c".into(), "d".into());
                }) as &dyn Fn(&mut Endpoints),
                "10.0.0.1,10.0.0.2/",
            ),
            (
                "no label",
                &|e| e.metadata.labels.clear(),
                "10.0.0.1,10.0.0.2/",
            ),
            (
                "annotation",
                &|e| {
                    e.metadata.annotations.insert("x".into(), "z".into());
                },
                "10.0.0.1,10.0.0.2/",
            ),
            (
                "made anew",
                &|e| e.metadata.uid = "later".into(),
                "10.0.0.1,10.0.0.2/",
            ),
            (
                "fewer",
                &|e| {
                    e.subsets[0].addresses.pop();
                },
                "10.0.0.1/",
            ),
            (
                "more",
                &|e| {
                    e.subsets[0].addresses.push(Address {
                        ip: "10.0.0.3".into(),
                        ..Address::default()
                    })
                },
                "10.0.0.1,10.0.0.2,10.0.0.3/",
            ),
            (
                "ready no more",
                &|e| {
                    let a = e.subsets[0].addresses.pop();
                    e.subsets[0].not_ready_addresses.extend(a);
                },
                "10.0.0.1/10.0.0.2",
            ),
            (
                "node",
                &|e| e.subsets[0].addresses[0].node_name = Some("n".into()),
                "10.0.0.2,10.0.0.1/",
            ),
        ] {
            let plan = with(change);
            let got: Vec<_> = plan
                .update
                .iter()
                .map(|(n, b)| (n.as_str(), shown(b)))
                .collect();
            let sort = |s: &str| {
                let mut v: Vec<char> = s.chars().collect();
                v.sort_unstable();
                v
            };
            assert_eq!(got.len(), 1, "{name}");
            assert_eq!(
                (got[0].0, sort(&got[0].1)),
                ("web-1", sort(&format!("IPv4 80 {want}"))),
                "{name}"
            );
            assert_eq!(
                (
                    &plan.update[0].1["metadata"]["resourceVersion"],
                    plan.create.len(),
                    plan.delete.len()
                ),
                (&json!("3"), 0, 0)
            );
        }
        // Other ports: the slice is written anew. More slices than one for the same: the others go.
        let plan = with(&|e| e.subsets[0].ports[0].port = 81);
        assert_eq!(
            (plan.update[0].0.as_str(), shown(&plan.update[0].1).as_str()),
            ("web-1", "IPv4 81 10.0.0.1,10.0.0.2/")
        );
        let mut twice = (*slice).clone();
        twice.metadata.name = "web-2".into();
        let plan = decide(&e, &[slice.clone(), Arc::new(twice)], 1000);
        assert_eq!(
            (
                plan.update.len(),
                plan.create.len(),
                plan.delete[0].0.as_str()
            ),
            (0, 0, "web-2")
        );
        // Of another family: it is not written anew.
        let plan = with(&|e| {
            e.subsets[0].addresses = vec![Address {
                ip: "fd00::1".into(),
                ..Address::default()
            }];
        });
        assert_eq!(
            (plan.update.len(), plan.create.len(), plan.delete.len()),
            (0, 1, 1)
        );
        // Nothing is made for Endpoints that are being deleted.
        let mut ending = e.clone();
        ending.metadata.deletion_timestamp = Some(client::Time::UNIX_EPOCH);
        assert!(is_idle(&decide(&ending, &[], 1000)));
    }

    #[test]
    fn some_are_not_mirrored() {
        let with = |labels: Value, annotations: Value| -> Endpoints {
            serde_json::from_value(
                json!({"metadata": {"labels": labels, "annotations": annotations}}),
            )
            .unwrap()
        };
        for (e, want) in [
            (with(json!({}), json!({})), true),
            (with(json!({SKIP: "true"}), json!({})), false),
            (with(json!({SKIP: "false"}), json!({})), true),
            (with(json!({}), json!({LEADER: ""})), false),
        ] {
            assert_eq!(is_mirrored(&e), want, "{e:?}");
        }
    }
}
