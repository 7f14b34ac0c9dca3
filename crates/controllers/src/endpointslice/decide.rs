//! What a Service's EndpointSlices become.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use client::Time;
use client::resource::SERVICES;
use serde_json::{Value, json};

use super::hints::{self, Event, Near, Ratios, Shares, ZONE};
use crate::children::controller_reference;
use crate::endpoint_pods::{
    HEADLESS, TRIGGER_TIME, addresses, hostname, is_backend, mark_headless, ports,
};
use crate::views::{
    Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Node, Pod, Service, TargetRef,
};

/// The label of a slice with its Service's name.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label of a slice with who keeps it.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// This controller.
pub const MANAGER: &str = "endpointslice-controller.k8s.io";

/// What to do about a Service's slices.
#[derive(Debug, Default)]
pub struct Plan {
    /// Bodies.
    pub create: Vec<Value>,
    /// Names and bodies, with the version they are based on.
    pub update: Vec<(String, Value)>,
    /// Names and UIDs.
    pub delete: Vec<(String, String)>,
    /// Why pods were left out for now.
    pub skipped: Vec<String>,
    /// About the Service.
    pub events: Vec<Event>,
    /// By address family (whether IPv6), in the order of the decisions: the zones' endpoints, `None` for no hints.
    pub shares: Vec<(bool, Option<Shares>)>,
}

/// What is seen.
pub struct World<'a> {
    /// The Service.
    pub service: &'a Service,
    /// The pods it selects.
    pub pods: &'a [Arc<Pod>],
    /// Nodes by name.
    pub node: &'a (dyn Fn(&str) -> Option<Arc<Node>> + Sync),
    /// Its slices that nobody deletes.
    pub slices: &'a [Arc<EndpointSlice>],
    /// Most endpoints in a slice.
    pub max: usize,
    /// The zones' parts of all CPUs.
    pub ratios: Option<&'a Ratios>,
    /// Whether the Service's endpoints have hints by these.
    pub had_hints: bool,
    /// When the change happened that leads to this.
    pub trigger: Option<Time>,
}

/// A slice as it shall be.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// The one that there is.
    pub base: Option<Arc<EndpointSlice>>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Their ports.
    pub ports: Vec<EndpointPort>,
    /// Whether it has to be written.
    pub changed: bool,
}

/// The address families, IPv6 or not. A headless Service that does not say has both.
fn families(s: &Service) -> Vec<bool> {
    let mut found: Vec<bool> = s.spec.ip_families.iter().map(|f| f == "IPv6").collect();
    if found.is_empty() {
        found = match s.spec.cluster_ip.as_str() {
            "" | "None" => vec![false, true],
            ip => vec![ip.contains(':')],
        };
    }
    found.sort_unstable();
    found.dedup();
    found
}

const fn family(v6: bool) -> &'static str {
    if v6 { "IPv6" } else { "IPv4" }
}

fn endpoint(service: &Service, pod: &Pod, node: Option<&Node>, v6: bool) -> Option<Endpoint> {
    let (serving, terminating) = (pod.is_ready(), pod.metadata.is_deleting());
    let publish = service.spec.publish_not_ready_addresses;
    let mut addresses: Vec<String> = addresses(pod, v6).collect();
    addresses.sort();
    let zone = node.and_then(|n| n.metadata.labels.get(ZONE));
    let endpoint = Endpoint {
        conditions: EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        },
        hostname: hostname(service, pod),
        node_name: (!pod.spec.node_name.is_empty()).then(|| pod.spec.node_name.clone()),
        target_ref: Some(TargetRef {
            kind: "Pod".into(),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
        }),
        zone: zone.filter(|z| !z.is_empty()).cloned(),
        hints: None,
        addresses,
    };
    (!endpoint.addresses.is_empty()).then_some(endpoint)
}

/// What makes an endpoint this endpoint: all else about it is changed in place.
type Identity = (Vec<String>, Option<String>, Option<(String, String)>);

fn identity(e: &Endpoint) -> Identity {
    let mut addresses = e.addresses.clone();
    addresses.sort();
    let target = e.target_ref.as_ref();
    let target = target.map(|t| (t.namespace.clone(), t.name.clone()));
    (
        addresses,
        e.hostname.clone().filter(|h| !h.is_empty()),
        target,
    )
}

/// Whether two endpoints of one identity say the same, hints aside.
fn is_same(a: &Endpoint, b: &Endpoint) -> bool {
    (&a.node_name, &a.zone, &a.conditions, &a.target_ref)
        == (&b.node_name, &b.zone, &b.conditions, &b.target_ref)
}

/// Keys of labels that are the controller's, not the Service's.
fn is_reserved(key: &str) -> bool {
    matches!(key, SERVICE_NAME | MANAGED_BY | HEADLESS)
}

fn labels(s: &Service) -> BTreeMap<String, String> {
    let mut l = s.metadata.labels.clone();
    mark_headless(&mut l, s);
    l.insert(SERVICE_NAME.into(), s.metadata.name.clone());
    l.insert(MANAGED_BY.into(), MANAGER.into());
    l
}

fn has_labels_of(slice: &EndpointSlice, s: &Service) -> bool {
    let own = |l: &'_ BTreeMap<String, String>| -> BTreeMap<String, String> {
        let own = l.iter().filter(|(k, _)| !is_reserved(k));
        own.map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    own(&slice.metadata.labels) == own(&s.metadata.labels)
}

fn is_owned(slice: &EndpointSlice, s: &Service) -> bool {
    let mut owners = slice.metadata.owner_references.iter();
    owners.any(|o| o.uid == s.metadata.uid && o.kind == "Service" && o.api_version == "v1")
}

fn sorted(mut ports: Vec<EndpointPort>) -> Vec<EndpointPort> {
    ports.sort();
    ports
}

/// Decides.
pub fn decide(world: &World<'_>) -> Plan {
    let mut plan = Plan::default();
    let families = families(world.service);
    let mut had_hints = world.had_hints;
    let mut foreign = Vec::new();
    for s in world.slices {
        let v6 = s.address_type == "IPv6";
        let known = v6 || s.address_type == "IPv4";
        if !known || !families.contains(&v6) {
            foreign.push((s.metadata.name.clone(), s.metadata.uid.clone()));
            if known {
                had_hints = false;
                plan.shares.push((v6, None));
            }
        }
    }
    for v6 in families {
        reconcile(world, v6, &mut had_hints, &mut plan);
    }
    plan.delete.extend(foreign);
    plan
}

/// The endpoints that are wanted of a family, by ports, in the order of the pods.
fn wanted(
    world: &World<'_>,
    v6: bool,
    plan: &mut Plan,
) -> BTreeMap<Vec<EndpointPort>, Vec<Endpoint>> {
    let service = world.service;
    let mut out: BTreeMap<Vec<EndpointPort>, Vec<Endpoint>> = BTreeMap::new();
    for pod in world.pods.iter().filter(|p| is_backend(p)) {
        let group = out.entry(sorted(ports(service, pod))).or_default();
        let node = (world.node)(&pod.spec.node_name);
        // The pod may be gone with its node. It is looked at again, since the node may only be not seen yet.
        if node.is_none() && !service.spec.publish_not_ready_addresses {
            plan.skipped.push(format!(
                "skipping Pod {} for Service {}/{}: Node {} Not Found",
                pod.metadata.name,
                service.metadata.namespace,
                service.metadata.name,
                pod.spec.node_name
            ));
            continue;
        }
        group.extend(endpoint(service, pod, node.as_deref(), v6));
    }
    out
}

fn reconcile(world: &World<'_>, v6: bool, had_hints: &mut bool, plan: &mut Plan) {
    let wanted = wanted(world, v6, plan);
    let mut drafts = Vec::new();
    let mut remove: Vec<Arc<EndpointSlice>> = Vec::new();
    let mut existing: BTreeMap<Vec<EndpointPort>, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for s in world.slices.iter().filter(|s| s.address_type == family(v6)) {
        let group = sorted(s.ports.clone());
        if is_owned(s, world.service) && wanted.contains_key(&group) {
            existing.entry(group).or_default().push(s.clone());
        } else {
            remove.push(s.clone());
        }
    }
    for (ports, endpoints) in wanted {
        let slices = existing.remove(&ports).unwrap_or_default();
        fill(world, ports, endpoints, slices, &mut drafts, &mut remove);
    }
    // Consumers shall be able to tell a Service without endpoints from one that was not looked at yet.
    if drafts.is_empty() {
        match remove.as_slice() {
            [only] if is_placeholder(only, world.service) => {
                let kept = Draft {
                    base: Some(only.clone()),
                    ..Draft::default()
                };
                drafts.push(kept);
                remove.clear();
            }
            _ => drafts.push(Draft {
                changed: true,
                ..Draft::default()
            }),
        }
    }
    hint(world, v6, &mut drafts, had_hints, plan);
    // What is deleted is rather written anew as what is made.
    let mut spare: Vec<Arc<EndpointSlice>> = Vec::new();
    for s in remove {
        if is_owned(&s, world.service) {
            spare.push(s);
        } else {
            plan.delete
                .push((s.metadata.name.clone(), s.metadata.uid.clone()));
        }
    }
    spare.reverse();
    for d in drafts.iter_mut().filter(|d| d.base.is_none()) {
        d.base = spare.pop();
    }
    spare.reverse();
    let left = spare
        .into_iter()
        .map(|s| (s.metadata.name.clone(), s.metadata.uid.clone()));
    plan.delete.extend(left);
    for d in drafts.into_iter().filter(|d| d.changed) {
        match &d.base {
            Some(base) => {
                let name = base.metadata.name.clone();
                plan.update.push((name, body(world, v6, &d)));
            }
            // The garbage collector deletes what a Service leaves, and would have to again.
            None if world.service.metadata.is_deleting() => {}
            None => plan.create.push(body(world, v6, &d)),
        }
    }
}

fn is_placeholder(slice: &EndpointSlice, service: &Service) -> bool {
    let placeholder = json!([controller_reference(&SERVICES, &service.metadata)]);
    slice.endpoints.is_empty()
        && slice.ports.is_empty()
        && slice.metadata.labels == labels(service)
        && json!(slice.metadata.owner_references) == placeholder
}

/// Puts the endpoints of one set of ports into its slices: kept where they are, then into slices that are written anyway,
/// the fullest first, then into one that all the rest fits in, then into new ones.
fn fill(
    world: &World<'_>,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
    slices: Vec<Arc<EndpointSlice>>,
    drafts: &mut Vec<Draft>,
    remove: &mut Vec<Arc<EndpointSlice>>,
) {
    let max = world.max.max(1);
    let mut order: Vec<Identity> = Vec::with_capacity(endpoints.len());
    let mut left: HashMap<Identity, Endpoint> = HashMap::with_capacity(endpoints.len());
    for e in endpoints {
        let id = identity(&e);
        if left.insert(id.clone(), e).is_none() {
            order.push(id);
        }
    }
    let start = drafts.len();
    for s in slices {
        let keep = |old: &Endpoint| {
            left.remove(&identity(old))
                .map(|new| (is_same(&new, old), new))
        };
        let kept: Vec<(bool, Endpoint)> = s.endpoints.iter().filter_map(keep).collect();
        let same = kept.len() == s.endpoints.len() && kept.iter().all(|(same, _)| *same);
        if !same && kept.is_empty() {
            remove.push(s);
            continue;
        }
        let endpoints = if same {
            s.endpoints.clone()
        } else {
            kept.into_iter().map(|(_, e)| e).collect()
        };
        let changed = !same || !has_labels_of(&s, world.service);
        let ports = s.ports.clone();
        drafts.push(Draft {
            base: Some(s),
            endpoints,
            ports,
            changed,
        });
    }
    let mut fresh: VecDeque<Endpoint> = order.iter().filter_map(|id| left.remove(id)).collect();
    let mut own: Vec<&mut Draft> = drafts.iter_mut().skip(start).collect();
    own.sort_by_key(|d| std::cmp::Reverse(d.endpoints.len()));
    for d in own.iter_mut().filter(|d| d.changed) {
        let room = max.saturating_sub(d.endpoints.len()).min(fresh.len());
        d.endpoints.extend(fresh.drain(..room));
    }
    let mut created = Vec::new();
    while !fresh.is_empty() {
        // The one that will be the fullest.
        let fits = |d: &&mut &mut Draft| !d.changed && d.endpoints.len() + fresh.len() <= max;
        let last = fresh.len() < max;
        if let Some(d) = last.then(|| own.iter_mut().find(fits)).flatten() {
            d.changed = true;
            d.endpoints.extend(fresh.drain(..));
        } else {
            let endpoints = fresh.drain(..max.min(fresh.len())).collect();
            created.push(Draft {
                base: None,
                endpoints,
                ports: ports.clone(),
                changed: true,
            });
        }
    }
    drafts.append(&mut created);
}

fn hint(world: &World<'_>, v6: bool, drafts: &mut [Draft], had: &mut bool, plan: &mut Plan) {
    if hints::is_auto(world.service) {
        let result = hints::auto(drafts, world.ratios);
        plan.events.extend(hints::event(&result, *had, family(v6)));
        *had = result.is_ok();
        plan.shares.push((v6, result.ok()));
        return;
    }
    if *had {
        let gone = Err("Topology Aware Hints has been disabled".to_owned());
        plan.events.extend(hints::event(&gone, true, family(v6)));
    }
    *had = false;
    plan.shares.push((v6, None));
    match Near::of(world.service) {
        Some(near) => near.apply(drafts),
        None => hints::remove(drafts),
    }
}

fn body(world: &World<'_>, v6: bool, draft: &Draft) -> Value {
    let service = world.service;
    let prefix = super::prefix(&service.metadata.name);
    let mut metadata = match &draft.base {
        Some(base) => json!(base.metadata),
        None => json!({
            "generateName": prefix,
            "namespace": service.metadata.namespace,
            "ownerReferences": [controller_reference(&SERVICES, &service.metadata)],
        }),
    };
    let base = draft.base.as_ref();
    let mut annotations = base
        .map(|b| b.metadata.annotations.clone())
        .unwrap_or_default();
    annotations.remove(TRIGGER_TIME);
    let trigger = world.trigger.map(client::view::print_time);
    annotations.extend(trigger.map(|t| (TRIGGER_TIME.to_owned(), t)));
    if let Some(m) = metadata.as_object_mut() {
        m.insert("labels".into(), json!(labels(service)));
        m.insert("annotations".into(), json!(annotations));
    }
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
        "addressType": family(v6), "endpoints": draft.endpoints, "ports": draft.ports,
    })
}
