use client::Time;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::decide::{Plan, World, decide};
use super::hints::ZONE;
use super::*;
use crate::endpoint_pods::{HEADLESS, TRIGGER_TIME};

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

fn node(zone: &str) -> Arc<Node> {
    Arc::new(object(
        json!({"metadata": {"name": "n1", "labels": {ZONE: zone}}}),
    ))
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn plan_of(s: &Service, pods: &[Arc<Pod>], slices: &[Arc<EndpointSlice>], max: usize) -> Plan {
    let n1 = node("z");
    decide(&World {
        service: s,
        pods,
        node: &|name| (name == "n1").then(|| n1.clone()),
        slices,
        max,
        ratios: None,
        had_hints: false,
        trigger: None,
    })
}

fn plan(pods: &[Arc<Pod>], slices: &[Arc<EndpointSlice>], max: usize) -> Plan {
    plan_of(&service(), pods, slices, max)
}

fn is_idle(p: &Plan) -> bool {
    p.create.is_empty() && p.update.is_empty() && p.delete.is_empty()
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

/// A slice as the apiserver would keep it.
fn kept(body: &Value, name: &str) -> Arc<EndpointSlice> {
    let mut s: EndpointSlice = object(body.clone());
    s.metadata.name = name.into();
    s.metadata.uid = format!("uid-{name}");
    Arc::new(s)
}

fn with(change: impl FnOnce(&mut Service)) -> Service {
    let mut s = service();
    change(&mut s);
    s
}

#[test]
fn a_slice_for_each_family() {
    let mut both = (*pod(1, true, false)).clone();
    both.status.pod_ips.push(crate::views::PodIp {
        ip: "fd00::1".into(),
    });
    let pods = [Arc::new(both), pod(2, true, false)];
    for (name, s, want) in [
        (
            "said",
            with(|s| s.spec.ip_families = vec!["IPv6".into(), "IPv4".into()]),
            vec![("IPv4", 2), ("IPv6", 1)],
        ),
        (
            "one",
            with(|s| s.spec.ip_families = vec!["IPv6".into()]),
            vec![("IPv6", 1)],
        ),
        (
            "by address",
            with(|s| {
                s.spec.ip_families.clear();
                s.spec.cluster_ip = "fd00:1::1".into()
            }),
            vec![("IPv6", 1)],
        ),
        (
            "headless, unsaid",
            with(|s| {
                s.spec.ip_families.clear();
                s.spec.cluster_ip = "None".into()
            }),
            vec![("IPv4", 2), ("IPv6", 1)],
        ),
    ] {
        let p = plan_of(&s, &pods, &[], 100);
        let got: Vec<(&str, usize)> = p
            .create
            .iter()
            .map(|b| {
                (
                    b["addressType"].as_str().unwrap(),
                    b["endpoints"].as_array().unwrap().len(),
                )
            })
            .collect();
        assert_eq!(got, want, "{name}");
    }
    // A family that the Service gave up goes, and so do addresses of other kinds.
    let made = plan_of(
        &with(|s| s.spec.ip_families.push("IPv6".into())),
        &pods,
        &[],
        100,
    );
    let mut slices: Vec<_> = made
        .create
        .iter()
        .enumerate()
        .map(|(i, b)| kept(b, &format!("web-{i}")))
        .collect();
    let mut named = (*slices[0]).clone();
    named.metadata.name = "names".into();
    named.address_type = "FQDN".into();
    slices.push(Arc::new(named));
    let p = plan(&pods, &slices, 100);
    let gone: Vec<&str> = p.delete.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(
        (gone, p.create.len(), p.update.len()),
        (vec!["web-1", "names"], 0, 0)
    );
}

#[test]
fn pods_are_left_out_or_published() {
    let with_pod = |change: &dyn Fn(&mut Pod)| {
        let mut p = (*pod(1, true, false)).clone();
        change(&mut p);
        [Arc::new(p)]
    };
    let publish = with(|s| s.spec.publish_not_ready_addresses = true);
    let count = |p: &Plan| p.create[0]["endpoints"].as_array().unwrap().len();
    for phase in ["Succeeded", "Failed"] {
        assert_eq!(
            count(&plan(
                &with_pod(&|p| p.status.phase = phase.into()),
                &[],
                100
            )),
            0
        );
    }
    let without = with_pod(&|p| {
        p.status.pod_ip.clear();
        p.status.pod_ips.clear()
    });
    assert_eq!(count(&plan(&without, &[], 100)), 0);
    // A pod of a node that is not there is waited for.
    let lost = with_pod(&|p| p.spec.node_name = "gone".into());
    let p = plan(&lost, &[], 100);
    assert_eq!(
        (count(&p), p.skipped.as_slice()),
        (
            0,
            &["skipping Pod p1 for Service ns/web: Node gone Not Found".to_owned()][..]
        )
    );
    let p = plan_of(&publish, &lost, &[], 100);
    assert_eq!(
        (
            count(&p),
            p.skipped.len(),
            &p.create[0]["endpoints"][0]["zone"]
        ),
        (1, 0, &Value::Null)
    );
    let p = plan_of(&publish, &[pod(1, false, true)], &[], 100);
    assert_eq!(
        p.create[0]["endpoints"][0]["conditions"],
        json!({"ready": true, "serving": false, "terminating": true})
    );
    // A host name is one within the Service.
    let named = with_pod(&|p| {
        p.spec.hostname = "h".into();
        p.spec.subdomain = "web".into()
    });
    assert_eq!(
        plan(&named, &[], 100).create[0]["endpoints"][0]["hostname"],
        "h"
    );
    let other = with_pod(&|p| {
        p.spec.hostname = "h".into();
        p.spec.subdomain = "db".into()
    });
    assert_eq!(
        plan(&other, &[], 100).create[0]["endpoints"][0]["hostname"],
        Value::Null
    );
    // A pod without the port is an endpoint all the same, of no port.
    let portless = with_pod(&|p| p.spec.containers.clear());
    let p = plan(&[portless[0].clone(), pod(2, true, false)], &[], 100);
    let ports: Vec<(usize, usize)> = p
        .create
        .iter()
        .map(|b| {
            (
                b["ports"].as_array().unwrap().len(),
                b["endpoints"].as_array().unwrap().len(),
            )
        })
        .collect();
    assert_eq!(ports, [(0, 1), (1, 1)]);
}

#[test]
fn labels_are_those_of_the_service() {
    let labels = |s: &Service| {
        plan_of(s, &[pod(1, true, false)], &[], 100).create[0]["metadata"]["labels"].clone()
    };
    let own = json!({SERVICE_NAME: "web", MANAGED_BY: MANAGER});
    let headless = json!({SERVICE_NAME: "web", MANAGED_BY: MANAGER, HEADLESS: ""});
    let no_labels = |ip: &str| {
        with(|s| {
            s.metadata.labels.clear();
            s.spec.cluster_ip = ip.into()
        })
    };
    assert_eq!(labels(&no_labels("10.0.0.1")), own);
    assert_eq!(labels(&no_labels("None")), headless);
    assert_eq!(labels(&no_labels("")), headless);
    let mut reserved = no_labels("10.0.0.1");
    for key in [HEADLESS, SERVICE_NAME, MANAGED_BY] {
        reserved.metadata.labels.insert(key.into(), "mine".into());
    }
    assert_eq!(labels(&reserved), own);
    // Labels of the Service that change are written to slices that need no other change; the controller's own are not.
    let pods = [pod(1, true, false)];
    let slices = [kept(&plan(&pods, &[], 100).create[0], "web-1")];
    assert!(is_idle(&plan(&pods, &slices, 100)));
    let p = plan_of(
        &with(|s| {
            s.metadata.labels.insert("new".into(), "x".into());
        }),
        &pods,
        &slices,
        100,
    );
    assert_eq!(
        (p.update.len(), &p.update[0].1["metadata"]["labels"]["new"]),
        (1, &json!("x"))
    );
    assert!(is_idle(&plan_of(
        &with(|s| {
            s.metadata.labels.insert(HEADLESS.into(), "x".into());
        }),
        &pods,
        &slices,
        100
    )));
}

#[test]
fn what_is_written_keeps_the_rest_of_the_slice() {
    let mut s = (*kept(&plan(&[pod(1, true, false)], &[], 100).create[0], "web-1")).clone();
    s.metadata.finalizers = vec!["a/b".into()];
    s.metadata.resource_version = "7".into();
    s.metadata.annotations = [
        ("x".to_owned(), "y".to_owned()),
        (TRIGGER_TIME.to_owned(), "old".to_owned()),
    ]
    .into();
    s.metadata.owner_references.push(client::OwnerReference {
        kind: "Other".into(),
        ..Default::default()
    });
    let service = service();
    let pods = [pod(1, false, false)];
    let n1 = node("z");
    let p = decide(&World {
        service: &service,
        pods: &pods,
        node: &|_| Some(n1.clone()),
        slices: &[Arc::new(s)],
        max: 100,
        ratios: None,
        had_hints: false,
        trigger: Time::from_second(0).ok(),
    });
    let m = &p.update[0].1["metadata"];
    assert_eq!(
        (
            &m["finalizers"],
            &m["resourceVersion"],
            m["ownerReferences"].as_array().unwrap().len()
        ),
        (&json!(["a/b"]), &json!("7"), 2)
    );
    assert_eq!(
        m["annotations"],
        json!({"x": "y", TRIGGER_TIME: "1970-01-01T00:00:00Z"})
    );
    assert_eq!(p.update[0].1["endpoints"][0]["conditions"]["ready"], false);
}

#[test]
fn slices_of_others_are_not_touched_up() {
    // Of a Service of this name that was there before: deleted, and not written anew for this one.
    let pods = [pod(1, true, false)];
    let mut old = (*kept(&plan(&pods, &[], 100).create[0], "web-1")).clone();
    old.metadata.owner_references[0].uid = "before".into();
    let p = plan(&pods, &[Arc::new(old)], 100);
    assert_eq!((p.create.len(), p.update.len(), p.delete.len()), (1, 0, 1));
    // One of its own that has other ports is written anew.
    let mut other = (*kept(&plan(&pods, &[], 100).create[0], "web-1")).clone();
    other.ports[0].port = Some(1);
    let p = plan(&pods, &[Arc::new(other)], 100);
    assert_eq!((p.create.len(), p.update.len(), p.delete.len()), (0, 1, 0));
    assert_eq!(
        (p.update[0].0.as_str(), &p.update[0].1["ports"][0]["port"]),
        ("web-1", &json!(8080))
    );
    // Nothing is made for a Service that is being deleted, what there is follows its pods.
    let ending = with(|s| s.metadata.deletion_timestamp = Some(Time::UNIX_EPOCH));
    assert!(is_idle(&plan_of(&ending, &pods, &[], 100)));
    let slices = [kept(&plan(&pods, &[], 100).create[0], "web-1")];
    assert_eq!(
        plan_of(&ending, &[pod(1, false, false)], &slices, 100)
            .update
            .len(),
        1
    );
}

/// What new endpoints go into: (endpoints of the slices there are, how many of each stay, new ones, most) and what the
/// slices that are written or made then hold.
#[test]
fn new_endpoints_are_packed_with_few_writes() {
    for (sizes, stay, new, max, updated, created) in [
        (vec![], vec![], 5, 2, vec![], vec![2, 2, 1]),
        // Into one that is unchanged, if all fit in it, and into the one that will be the fullest.
        (vec![1, 3], vec![1, 3], 2, 5, vec![5], vec![]),
        (vec![4, 4], vec![4, 4], 2, 5, vec![], vec![2]),
        (vec![3, 1], vec![3, 1], 5, 5, vec![], vec![5]),
        // Those that are written anyway first.
        (vec![3, 4], vec![2, 4], 1, 5, vec![3], vec![]),
        (vec![3, 4], vec![2, 4], 4, 5, vec![5, 5], vec![]),
        (vec![3, 4], vec![2, 4], 9, 5, vec![5, 5], vec![5]),
        // What would be deleted is written anew.
        (vec![3], vec![0], 3, 5, vec![3], vec![]),
        (vec![3, 3], vec![0, 0], 3, 5, vec![3], vec![]),
    ] {
        let (mut slices, mut pods, mut i) = (Vec::new(), Vec::new(), 0);
        for (n, size) in sizes.iter().enumerate() {
            let mine: Vec<_> = (i..i + size).map(|i| pod(i, true, false)).collect();
            i += size;
            pods.extend(mine.iter().take(stay[n]).cloned());
            slices.push(kept(&plan(&mine, &[], 100).create[0], &format!("web-{n}")));
        }
        pods.extend((i..i + new).map(|i| pod(i, true, false)));
        let p = plan(&pods, &slices, max);
        let size = |b: &Value| b["endpoints"].as_array().unwrap().len();
        let mut got: Vec<usize> = p.update.iter().map(|(_, b)| size(b)).collect();
        got.sort_unstable();
        let made: Vec<usize> = p.create.iter().map(size).collect();
        assert_eq!(
            (got, made),
            (updated, created),
            "{sizes:?} {stay:?} {new} {max}"
        );
        let written: std::collections::HashSet<_> = p.update.iter().map(|(n, _)| n).collect();
        assert!(p.delete.iter().all(|(n, _)| !written.contains(n)));
    }
}

#[test]
fn hints_come_and_go_with_what_asks_for_them() {
    let near = |d: &str| with(|s| s.spec.traffic_distribution = d.into());
    let hints = |b: &Value| b["endpoints"][0]["hints"].clone();
    let pods = [pod(1, true, false)];
    let zone = json!({"forZones": [{"name": "z"}]});
    let first = plan_of(&near("PreferClose"), &pods, &[], 100);
    assert_eq!(hints(&first.create[0]), zone);
    let slices = [kept(&first.create[0], "web-1")];
    assert!(is_idle(&plan_of(
        &near("PreferSameZone"),
        &pods,
        &slices,
        100
    )));
    let node = plan_of(&near("PreferSameNode"), &pods, &slices, 100);
    assert_eq!(
        hints(&node.update[0].1),
        json!({"forZones": [{"name": "z"}], "forNodes": [{"name": "n1"}]})
    );
    let none = plan_of(&near(""), &pods, &slices, 100);
    assert_eq!(hints(&none.update[0].1), Value::Null);
    // By zones' CPUs: told when it begins, when it cannot be, and when it ends.
    let auto = with(|s| {
        s.metadata
            .annotations
            .insert("service.kubernetes.io/topology-mode".into(), "Auto".into());
    });
    let ratios = [("z".to_owned(), 0.5), ("y".to_owned(), 0.5)].into();
    let (plain, n1) = (service(), super::tests::node("z"));
    let decide_with = |s: &Service, pods: &[Arc<Pod>], had_hints: bool| {
        decide(&World {
            service: s,
            pods,
            node: &|_| Some(n1.clone()),
            slices: &[],
            max: 100,
            ratios: Some(&ratios),
            had_hints,
            trigger: None,
        })
    };
    let told = |p: &Plan| {
        p.events
            .iter()
            .map(|(_, r, m)| (*r, m.clone()))
            .collect::<Vec<_>>()
    };
    let two = [pod(1, true, false), pod(2, true, false)];
    let p = decide_with(&auto, &two, false);
    assert_eq!(
        told(&p),
        [(
            "TopologyAwareHintsEnabled",
            "Topology Aware Hints has been enabled, addressType: IPv4".to_owned()
        )]
    );
    assert_eq!(
        p.shares,
        [(
            false,
            Some([("z".to_owned(), 1), ("y".to_owned(), 1)].into())
        )]
    );
    assert!(decide_with(&auto, &two, true).events.is_empty());
    let p = decide_with(&auto, &pods, true);
    assert_eq!(
        told(&p),
        [(
            "TopologyAwareHintsDisabled",
            "Insufficient number of endpoints (1 endpoints, 2 zones), addressType: IPv4".to_owned()
        )]
    );
    assert_eq!(
        (hints(&p.create[0]), p.shares),
        (Value::Null, vec![(false, None)])
    );
    let p = decide_with(&plain, &two, true);
    assert_eq!(
        told(&p),
        [(
            "TopologyAwareHintsDisabled",
            "Topology Aware Hints has been disabled, addressType: IPv4".to_owned()
        )]
    );
    assert!(decide_with(&plain, &two, false).events.is_empty());
}

#[test]
fn a_slice_names_its_service() {
    let s = |labels: Value| {
        object::<EndpointSlice>(
            json!({"metadata": {"name": "x", "namespace": "ns", "labels": labels}}),
        )
    };
    assert_eq!(
        service_of(&s(json!({SERVICE_NAME: "web"})).metadata),
        Some(ObjectKey::new("ns", "web"))
    );
    assert_eq!(service_of(&s(json!({SERVICE_NAME: ""})).metadata), None);
    assert_eq!(service_of(&s(json!({})).metadata), None);
    assert_eq!(
        (prefix("web").as_str(), prefix(&"a".repeat(253)).len()),
        ("web-", 253)
    );
}
