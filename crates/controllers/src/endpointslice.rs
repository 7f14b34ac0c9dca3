//! endpointslice-controller: writes the addresses of a Service's pods into EndpointSlices.
//!
//! Invariants: every backend is in exactly one slice of its IP family and port set; a slice holds at most
//! `--max-endpoints-per-slice`; slices that need no change are not written; new endpoints fill slices that have to be
//! written anyway before they open others.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use client::resource::{ENDPOINT_SLICES, NODES, PODS, SERVICES};
use client::{Change, DeleteOptions, EventType, ObjectKey, ObjectReference, Selector, Store, Time};
use serde_json::{Value, json};

use crate::Context;
use crate::children::controller_reference;
use crate::context::Failures;
use crate::endpoint_pods::{
    HEADLESS, TRIGGER_TIME, address, enqueue, hostname, is_backend, is_headless, ports, selected,
};
use crate::expectations::Expectations;
use crate::views::{
    Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Node, Pod, Service, TargetRef,
};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const ZONE: &str = "topology.kubernetes.io/zone";

/// What to do about a Service's slices.
#[derive(Debug, Default)]
pub struct Plan {
    /// Bodies.
    pub create: Vec<Value>,
    /// Names and bodies, with the version they are based on.
    pub update: Vec<(String, Value)>,
    /// Names and UIDs.
    pub delete: Vec<(String, String)>,
}

/// What is seen.
pub struct World<'a> {
    /// The Service.
    pub service: &'a Service,
    /// The pods it selects.
    pub pods: &'a [Arc<Pod>],
    /// Zones of nodes.
    pub zones: &'a (dyn Fn(&str) -> Option<String> + Sync),
    /// Its slices.
    pub slices: &'a [Arc<EndpointSlice>],
    /// Most endpoints in a slice.
    pub max: usize,
}

fn families(s: &Service) -> Vec<bool> {
    if !s.spec.ip_families.is_empty() {
        return s.spec.ip_families.iter().map(|f| f == "IPv6").collect();
    }
    let ips = s.spec.cluster_ips.iter().filter(|ip| *ip != "None");
    let found: Vec<bool> = ips.map(|ip| ip.contains(':')).collect();
    if found.is_empty() {
        vec![s.spec.cluster_ip.contains(':')]
    } else {
        found
    }
}

fn endpoint(world: &World<'_>, pod: &Pod, v6: bool) -> Option<Endpoint> {
    let serving = pod.is_ready();
    let terminating = pod.metadata.is_deleting();
    let publish = world.service.spec.publish_not_ready_addresses;
    Some(Endpoint {
        addresses: vec![address(pod, v6)?.to_owned()],
        conditions: EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        },
        hostname: hostname(world.service, pod),
        node_name: (!pod.spec.node_name.is_empty()).then(|| pod.spec.node_name.clone()),
        target_ref: Some(TargetRef {
            kind: "Pod".into(),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
        }),
        zone: (world.zones)(&pod.spec.node_name),
    })
}

fn labels(s: &Service) -> BTreeMap<String, String> {
    let mut l = s.metadata.labels.clone();
    l.remove(HEADLESS);
    if is_headless(s) {
        l.insert(HEADLESS.into(), String::new());
    }
    l.insert(SERVICE_NAME.into(), s.metadata.name.clone());
    l.insert(MANAGED_BY.into(), MANAGER.into());
    l
}

type Group = (bool, Vec<EndpointPort>);

/// Endpoints wanted, by family and ports, in the order of the pods.
fn wanted(world: &World<'_>) -> BTreeMap<Group, Vec<Endpoint>> {
    let mut out: BTreeMap<Group, Vec<Endpoint>> = BTreeMap::new();
    for v6 in families(world.service) {
        for pod in world.pods.iter().filter(|p| is_backend(p)) {
            let ports = ports(world.service, pod);
            // A Service with ports of which the pod has none is not backed by it.
            if ports.is_empty() && !world.service.spec.ports.is_empty() {
                continue;
            }
            if let Some(e) = endpoint(world, pod, v6) {
                let mut sorted = ports;
                sorted.sort();
                out.entry((v6, sorted)).or_default().push(e);
            }
        }
        // A Service without backends has one empty slice per family, so that consumers can tell it from one not seen yet.
        if !out.keys().any(|(f, _)| *f == v6) {
            out.insert((v6, Vec::new()), Vec::new());
        }
    }
    out
}

fn group_of(s: &EndpointSlice) -> Option<Group> {
    let v6 = match s.address_type.as_str() {
        "IPv4" => false,
        "IPv6" => true,
        _ => return None,
    };
    let mut ports = s.ports.clone();
    ports.sort();
    Some((v6, ports))
}

/// Decides.
pub fn decide(world: &World<'_>, trigger: Option<Time>) -> Plan {
    let mut plan = Plan::default();
    let mut wanted = wanted(world);
    let labels = labels(world.service);
    let mut existing: BTreeMap<Group, Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
    for s in world.slices {
        let owned = s
            .metadata
            .controller()
            .is_some_and(|o| o.uid == world.service.metadata.uid);
        match group_of(s).filter(|g| owned && wanted.contains_key(g)) {
            Some(g) => existing.entry(g).or_default().push(s),
            None => plan
                .delete
                .push((s.metadata.name.clone(), s.metadata.uid.clone())),
        }
    }
    for (group, endpoints) in std::mem::take(&mut wanted) {
        let slices = existing.remove(&group).unwrap_or_default();
        reconcile(
            world, &group, endpoints, &slices, &labels, trigger, &mut plan,
        );
    }
    plan
}

fn reconcile(
    world: &World<'_>,
    group: &Group,
    endpoints: Vec<Endpoint>,
    slices: &[&Arc<EndpointSlice>],
    labels: &BTreeMap<String, String>,
    trigger: Option<Time>,
    plan: &mut Plan,
) {
    let uid = |e: &Endpoint| {
        e.target_ref
            .as_ref()
            .map(|t| t.uid.clone())
            .unwrap_or_default()
    };
    let total = endpoints.len();
    let order: Vec<String> = endpoints.iter().map(uid).collect();
    let mut left: HashMap<String, Endpoint> = endpoints.into_iter().map(|e| (uid(&e), e)).collect();
    // What each slice keeps, and whether it has to be written.
    let mut kept: Vec<(Vec<Endpoint>, bool)> = slices
        .iter()
        .map(|s| {
            let now: Vec<Endpoint> = s
                .endpoints
                .iter()
                .filter_map(|e| left.remove(&uid(e)))
                .collect();
            let changed = now != s.endpoints || s.metadata.labels != *labels;
            (now, changed)
        })
        .collect();
    let mut fresh: Vec<Endpoint> = order.iter().filter_map(|u| left.remove(u)).collect();
    // Slices that are written anyway first, then others, the fullest first.
    let mut fill: Vec<usize> = (0..kept.len()).collect();
    fill.sort_by_key(|i| {
        kept.get(*i)
            .map(|(e, changed)| (!*changed, std::cmp::Reverse(e.len())))
    });
    for i in fill {
        let Some((endpoints, changed)) = kept.get_mut(i) else {
            continue;
        };
        let room = world.max.saturating_sub(endpoints.len()).min(fresh.len());
        // An untouched slice is opened only when that saves a new one.
        if room == 0 || (!*changed && fresh.len() > room) {
            continue;
        }
        endpoints.extend(fresh.drain(..room));
        *changed = true;
    }
    let empty_needed = total == 0;
    let mut have_empty = false;
    for (s, (endpoints, changed)) in slices.iter().zip(kept) {
        if endpoints.is_empty() && (!empty_needed || std::mem::replace(&mut have_empty, true)) {
            plan.delete
                .push((s.metadata.name.clone(), s.metadata.uid.clone()));
        } else if changed {
            let mut body = slice(world.service, group, &endpoints, labels, trigger);
            if let Some(m) = body.get_mut("metadata").and_then(Value::as_object_mut) {
                m.insert("name".into(), s.metadata.name.as_str().into());
                m.insert(
                    "resourceVersion".into(),
                    s.metadata.resource_version.as_str().into(),
                );
                let mut annotations = s.metadata.annotations.clone();
                annotations.remove(TRIGGER_TIME);
                annotations.extend(trigger.map(|t| (TRIGGER_TIME.to_owned(), print_nanos(t))));
                m.insert("annotations".into(), json!(annotations));
            }
            plan.update.push((s.metadata.name.clone(), body));
        }
    }
    if empty_needed && slices.is_empty() {
        plan.create
            .push(slice(world.service, group, &[], labels, trigger));
    }
    for chunk in fresh.chunks(world.max.max(1)) {
        plan.create
            .push(slice(world.service, group, chunk, labels, trigger));
    }
}

fn print_nanos(t: Time) -> String {
    client::view::print_time(t)
}

fn slice(
    service: &Service,
    group: &Group,
    endpoints: &[Endpoint],
    labels: &BTreeMap<String, String>,
    trigger: Option<Time>,
) -> Value {
    let mut metadata = json!({
        "generateName": format!("{}-", service.metadata.name.chars().take(57).collect::<String>()),
        "namespace": service.metadata.namespace,
        "labels": labels,
        "ownerReferences": [controller_reference(&SERVICES, &service.metadata)],
    });
    if let (Some(t), Some(m)) = (trigger, metadata.as_object_mut()) {
        m.insert("annotations".into(), json!({TRIGGER_TIME: print_nanos(t)}));
    }
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
        "addressType": if group.0 { "IPv6" } else { "IPv4" },
        "endpoints": endpoints, "ports": group.1,
    })
}

/// Starts the controller.
pub fn start(ctx: Context) {
    let services = ctx.informer::<Service>(&SERVICES);
    let pods = ctx.informer::<Pod>(&PODS);
    let nodes = ctx.informer::<Node>(&NODES);
    let slices = ctx.informers.get::<EndpointSlice>(
        &ENDPOINT_SLICES,
        Selector::labels(format!("{MANAGED_BY}={MANAGER}")),
    );
    slices.store().add_index(SERVICE_NAME, |s: &EndpointSlice| {
        let name = s.metadata.labels.get(SERVICE_NAME);
        name.map(|n| format!("{}/{n}", s.metadata.namespace))
            .into_iter()
            .collect()
    });
    let queue = ctx.queue("endpoint_slice");
    let expected = Arc::new(Expectations::default());
    let q = queue.clone();
    services.on_change(move |change| q.add(ObjectKey::of(&**change.object())));
    let (q, store) = (queue.clone(), services.store());
    pods.on_change(move |change| enqueue(change, &store, &q));
    let (q, seen) = (queue.clone(), expected.clone());
    slices.on_change(move |change| {
        let s = change.object();
        if let Some(name) = s.metadata.labels.get(SERVICE_NAME) {
            let key = ObjectKey::new(s.metadata.namespace.as_str(), name.as_str());
            match change {
                Change::Added(_) => seen.created(&key),
                Change::Deleted(_) => seen.deleted(&key, &s.metadata.uid),
                Change::Updated { .. } => {}
            }
            q.add(key);
        }
    });
    let it = Arc::new(Slices {
        services: services.store(),
        pods: pods.store(),
        nodes: nodes.store(),
        slices: slices.store(),
        expected,
        ctx: ctx.clone(),
    });
    let workers = ctx.config.concurrent("service-endpoint", 5);
    ctx.run(queue, workers, move |key| {
        let it = it.clone();
        async move { it.sync(&key).await }
    });
}

struct Slices {
    ctx: Context,
    services: Store<Service>,
    pods: Store<Pod>,
    nodes: Store<Node>,
    slices: Store<EndpointSlice>,
    expected: Arc<Expectations>,
}

impl Slices {
    async fn sync(&self, key: &ObjectKey) -> Result<Option<std::time::Duration>, client::Error> {
        let Some(service) = self.services.get_key(key) else {
            // The garbage collector removes what the Service owned.
            self.expected.forget(key);
            return Ok(None);
        };
        if service.spec.selector.is_empty()
            || service.spec.kind == "ExternalName"
            || service.metadata.is_deleting()
        {
            return Ok(None);
        }
        if !self.expected.satisfied(key) {
            return Ok(None);
        }
        let pods = selected(&service, &self.pods);
        let slices = self
            .slices
            .by_index(SERVICE_NAME, &format!("{}/{}", key.namespace, key.name));
        let zones = |node: &str| self.nodes.get("", node)?.metadata.labels.get(ZONE).cloned();
        let world = World {
            service: &service,
            pods: &pods,
            zones: &zones,
            slices: &slices,
            max: self.ctx.config.max_endpoints_per_slice,
        };
        let trigger = pods
            .iter()
            .filter_map(|p| {
                crate::views::condition(&p.status.conditions, "Ready")?.last_transition_time
            })
            .chain(service.metadata.creation_timestamp)
            .max();
        let plan = decide(&world, trigger);
        match self.carry_out(key, plan).await {
            Err(e) if e.is_conflict() || e.is_not_found() => {
                Ok(Some(std::time::Duration::from_millis(200)))
            }
            Err(e) if e.is_namespace_terminating() => Ok(None),
            Err(e) => {
                let message = format!("Error updating Endpoint Slices for Service {key}: {e}");
                let reference = ObjectReference::of(&SERVICES, &*service);
                self.ctx.recorder.event(
                    reference,
                    EventType::Warning,
                    "FailedToUpdateEndpointSlices",
                    message,
                );
                Err(e)
            }
            Ok(()) => Ok(None),
        }
    }

    async fn carry_out(&self, key: &ObjectKey, plan: Plan) -> Result<(), client::Error> {
        let api = self.ctx.client.namespaced(&ENDPOINT_SLICES, &key.namespace);
        // Updates first: traffic must not be lost while endpoints move between slices.
        let mut failures = Failures::default();
        for (name, body) in &plan.update {
            let written = api.update::<serde::de::IgnoredAny, _>(name, body).await;
            failures.note(written.map(drop));
        }
        if !plan.create.is_empty() {
            self.expected.expect_creations(key, plan.create.len());
        }
        for body in &plan.create {
            let made = api.create::<serde::de::IgnoredAny, _>(body).await;
            if made.is_err() {
                self.expected.created(key);
            }
            failures.note(made.map(drop));
        }
        // What is to be deleted may hold endpoints that are in no other slice yet.
        failures.end()?;
        let mut failures = Failures::default();
        for (name, uid) in &plan.delete {
            match api.delete(name, &DeleteOptions::uid(uid.as_str())).await {
                Err(e) if e.is_not_found() => {}
                result => failures.note(result),
            }
        }
        failures.end()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn service() -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "s", "labels": {"a": "b"}},
            "spec": {"selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"],
                     "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}]},
        }))
        .unwrap()
    }

    fn pod(i: usize, ready: bool, deleting: bool) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": format!("p{i}"), "namespace": "ns", "uid": format!("u{i}"),
                             "deletionTimestamp": deleting.then_some("2020-01-01T00:00:00Z")},
                "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080, "protocol": "TCP"}]}]},
                "status": {"phase": "Running", "podIP": format!("10.1.0.{i}"), "podIPs": [{"ip": format!("10.1.0.{i}")}],
                           "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
            }))
            .unwrap(),
        )
    }

    fn plan(pods: &[Arc<Pod>], slices: &[Arc<EndpointSlice>], max: usize) -> Plan {
        let s = service();
        decide(
            &World {
                service: &s,
                pods,
                zones: &|_| Some("z".into()),
                slices,
                max,
            },
            None,
        )
    }

    /// Applies a plan as the apiserver would.
    fn apply(slices: &mut Vec<Arc<EndpointSlice>>, plan: &Plan, names: &mut usize) {
        slices.retain(|s| !plan.delete.iter().any(|(n, _)| *n == s.metadata.name));
        for (name, body) in &plan.update {
            let i = slices
                .iter()
                .position(|s| s.metadata.name == *name)
                .unwrap();
            slices[i] = Arc::new(serde_json::from_value(body.clone()).unwrap());
        }
        for body in &plan.create {
            let mut s: EndpointSlice = serde_json::from_value(body.clone()).unwrap();
            *names += 1;
            s.metadata.name = format!("web-{names}");
            s.metadata.uid = s.metadata.name.clone();
            slices.push(Arc::new(s));
        }
    }

    #[test]
    fn an_endpoint_says_what_the_pod_is() {
        let p = plan(
            &[
                pod(1, true, false),
                pod(2, false, false),
                pod(3, true, true),
            ],
            &[],
            100,
        );
        let [body] = p.create.as_slice() else {
            panic!()
        };
        assert_eq!(
            body["ports"],
            json!([{"name": "http", "protocol": "TCP", "port": 8080}])
        );
        assert_eq!(
            body["endpoints"][0],
            json!({
                "addresses": ["10.1.0.1"], "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": "n1", "zone": "z", "targetRef": {"kind": "Pod", "namespace": "ns", "name": "p1", "uid": "u1"},
            })
        );
        assert_eq!(
            body["endpoints"][1]["conditions"],
            json!({"ready": false, "serving": false, "terminating": false})
        );
        assert_eq!(
            body["endpoints"][2]["conditions"],
            json!({"ready": false, "serving": true, "terminating": true})
        );
        assert_eq!(
            body["metadata"]["labels"],
            json!({"a": "b", SERVICE_NAME: "web", MANAGED_BY: MANAGER})
        );
    }

    #[test]
    fn without_backends_there_is_one_empty_slice() {
        let (mut slices, mut n) = (Vec::new(), 0);
        let p = plan(&[], &slices, 100);
        apply(&mut slices, &p, &mut n);
        assert_eq!((slices.len(), slices[0].ports.len()), (1, 0));
        let p = plan(&[], &slices, 100);
        assert!(p.create.is_empty() && p.update.is_empty() && p.delete.is_empty());
        let p = plan(&[pod(1, true, false)], &slices, 100);
        apply(&mut slices, &p, &mut n);
        assert_eq!((slices.len(), slices[0].endpoints.len()), (1, 1));
    }

    #[test]
    fn a_full_slice_is_left_alone() {
        let (mut slices, mut n) = (Vec::new(), 0);
        let mut pods: Vec<_> = (0..5).map(|i| pod(i, true, false)).collect();
        let p = plan(&pods, &slices, 5);
        apply(&mut slices, &p, &mut n);
        pods.push(pod(9, true, false));
        let p = plan(&pods, &slices, 5);
        assert_eq!((p.create.len(), p.update.len(), p.delete.len()), (1, 0, 0));
    }

    proptest! {
        #[test]
        fn every_backend_is_in_exactly_one_slice(
            steps in proptest::collection::vec(proptest::collection::btree_set(0..40usize, 0..40), 1..12), max in 1..8usize,
        ) {
            let (mut slices, mut n) = (Vec::new(), 0);
            for step in steps {
                let pods: Vec<_> = step.iter().map(|i| pod(*i, i % 3 != 0, false)).collect();
                let p = plan(&pods, &slices, max);
                apply(&mut slices, &p, &mut n);
                let mut seen: Vec<String> = slices.iter().flat_map(|s| &s.endpoints).map(|e| e.addresses[0].clone()).collect();
                seen.sort();
                let mut expected: Vec<String> = step.iter().map(|i| format!("10.1.0.{i}")).collect();
                expected.sort();
                prop_assert_eq!(seen, expected);
                prop_assert!(slices.iter().all(|s| s.endpoints.len() <= max));
                let again = plan(&pods, &slices, max);
                prop_assert!(again.create.is_empty() && again.update.is_empty() && again.delete.is_empty());
            }
        }
    }
}
