use serde_json::json;

use super::scope::Requirement;
use super::*;

const NOW: i64 = 1_000_000;

fn amounts_of(v: &Value) -> Amounts {
    let all = v.as_object().unwrap().iter();
    all.map(|(n, q)| (n.clone(), Quantity::parse(q.as_str().unwrap()).unwrap()))
        .collect()
}

fn used(e: &Evaluator, object: &Value) -> Amounts {
    e.measure(object).unwrap().usage(NOW)
}

fn list(q: &str, names: &[&str]) -> Value {
    names.iter().map(|n| ((*n).to_owned(), json!(q))).collect()
}

#[test]
fn amounts_are_added_raised_and_compared_by_name() {
    let of = |v: Value| amounts_of(&v);
    let sum = |a: Value, b: Value| {
        let mut sum = of(a);
        add(&mut sum, &of(b));
        sum
    };
    assert_eq!(sum(json!({}), json!({})), of(json!({})));
    assert_eq!(
        sum(
            json!({"a": "100m", "b": "1Gi"}),
            json!({"a": "900m", "c": "2"})
        ),
        of(json!({"a": "1", "b": "1Gi", "c": "2"}))
    );
    let most = |a: Value, b: Value| {
        let mut most = of(a);
        raise(&mut most, &of(b));
        most
    };
    assert_eq!(
        most(
            json!({"a": "2", "b": "1"}),
            json!({"a": "1", "b": "3", "c": "1"})
        ),
        of(json!({"a": "2", "b": "3", "c": "1"}))
    );
    // What is less now is no growth, and neither is what is gone.
    assert_eq!(
        growth(
            &of(json!({"a": "3", "b": "1", "c": "5", "e": "0"})),
            &of(json!({"a": "1", "b": "2", "c": "5", "d": "7"})),
        ),
        of(json!({"a": "2"}))
    );
    let texts = |v: Value| serde_json::from_value::<Texts>(v).unwrap();
    for (a, b, equal) in [
        (json!({}), json!({}), true),
        (json!({"a": "1"}), json!({"a": "1000m"}), true),
        (json!({"a": "1"}), json!({"a": "2"}), false),
        (json!({"a": "1"}), json!({"b": "1"}), false),
        (json!({"a": "1", "b": "1"}), json!({"a": "1"}), false),
        (json!({"a": "0"}), json!({}), false),
    ] {
        assert_eq!(same(&texts(a.clone()), &texts(b.clone())), equal, "{a} {b}");
    }
}

#[test]
fn an_evaluator_knows_what_it_measures() {
    let gpu = "gpu.deviceclass.resource.k8s.io/devices";
    let all: [(&str, &str, &[&str]); 6] = [
        (
            "",
            "pods",
            &[
                "count/pods",
                "pods",
                "cpu",
                "memory",
                "ephemeral-storage",
                "requests.cpu",
                "requests.memory",
                "requests.ephemeral-storage",
                "limits.cpu",
                "limits.memory",
                "limits.ephemeral-storage",
                "hugepages-2Mi",
                "requests.hugepages-2Mi",
                "requests.example.com/dongle",
                "requests.deviceclass.resource.kubernetes.io/gpu",
            ],
        ),
        (
            "",
            "services",
            &[
                "count/services",
                "services",
                "services.nodeports",
                "services.loadbalancers",
            ],
        ),
        (
            "",
            "persistentvolumeclaims",
            &[
                "count/persistentvolumeclaims",
                "persistentvolumeclaims",
                "requests.storage",
                "gold.storageclass.storage.k8s.io/requests.storage",
                "gold.storageclass.storage.k8s.io/persistentvolumeclaims",
            ],
        ),
        (
            "resource.k8s.io",
            "resourceclaims",
            &["count/resourceclaims.resource.k8s.io", gpu],
        ),
        ("", "configmaps", &["count/configmaps", "configmaps"]),
        ("apps", "deployments", &["count/deployments.apps"]),
    ];
    for (group, resource, names) in all {
        let evaluator = Evaluator::of(group, resource).unwrap();
        for (_, other, theirs) in all {
            for name in theirs {
                assert_eq!(
                    evaluator.tracks(name),
                    other == resource,
                    "{resource} {name}"
                );
            }
        }
        for name in names {
            assert_eq!(
                counted_by(name),
                [(group.to_owned(), resource.to_owned())],
                "{name}"
            );
        }
        for name in ["limits.example.com/dongle", "example.com/dongle", "storage"] {
            assert!(!evaluator.tracks(name), "{resource} {name}");
        }
    }
    for (group, resource) in IGNORED {
        assert_eq!(Evaluator::of(group, resource), None);
        assert!(counted_by(&count_name(group, resource)).is_empty());
    }
    let deployments = Evaluator::of("apps", "deployments").unwrap();
    let one = amounts_of(&json!({"count/deployments.apps": "1"}));
    assert_eq!(used(&deployments, &json!({})), one);
    let secrets = Evaluator::of("", "secrets").unwrap();
    let one = amounts_of(&json!({"count/secrets": "1", "secrets": "1"}));
    assert_eq!(used(&secrets, &json!({})), one);
    // A resource of another group has no old name.
    let others = Evaluator::of("example.com", "secrets").unwrap();
    assert!(!others.tracks("secrets"));
}

#[test]
fn a_pod_counts_for_what_its_containers_ask_for() {
    let of = |requests: Value, limits: Value| json!({"requests": requests, "limits": limits});
    let cpu = of(json!({"cpu": "1m"}), json!({"cpu": "2m"}));
    let memory = of(json!({"memory": "1m"}), json!({"memory": "2m"}));
    let disk = of(
        json!({"ephemeral-storage": "32Mi"}),
        json!({"ephemeral-storage": "64Mi"}),
    );
    let pages = of(json!({"hugepages-2Mi": "100Mi"}), json!({}));
    let dongle = of(
        json!({"example.com/dongle": "3"}),
        json!({"example.com/dongle": "3"}),
    );
    let class = "deviceclass.resource.kubernetes.io/dongle";
    let device = of(list("3", &[class]), list("3", &[class]));
    let native = of(
        json!({"node.kubernetes.io/odd": "3", "odd": "2"}),
        json!({}),
    );
    for (resources, wanted) in [
        (
            cpu,
            json!({"cpu": "1m", "requests.cpu": "1m", "limits.cpu": "2m"}),
        ),
        (
            memory,
            json!({"memory": "1m", "requests.memory": "1m", "limits.memory": "2m"}),
        ),
        (
            disk,
            json!({"ephemeral-storage": "32Mi", "requests.ephemeral-storage": "32Mi", "limits.ephemeral-storage": "64Mi"}),
        ),
        (
            pages,
            json!({"hugepages-2Mi": "100Mi", "requests.hugepages-2Mi": "100Mi"}),
        ),
        (dongle, json!({"requests.example.com/dongle": "3"})),
        (
            device,
            json!({"requests.deviceclass.resource.kubernetes.io/dongle": "3"}),
        ),
        (native, json!({})),
    ] {
        let mut wanted = amounts_of(&wanted);
        wanted.extend([
            ("pods".to_owned(), count(1)),
            ("count/pods".to_owned(), count(1)),
        ]);
        for containers in ["containers", "initContainers"] {
            let pod = json!({"spec": {containers: [{"name": "c", "resources": resources}]}});
            assert_eq!(
                used(&Evaluator::Pods, &pod),
                wanted,
                "{containers} {resources}"
            );
        }
    }
}

/// `requests.NAME`, `NAME` and `limits.NAME` of a pod.
fn sums(pod: &Value, name: &str) -> [String; 3] {
    let all = used(&Evaluator::Pods, pod);
    ["requests.", "", "limits."].map(|p| {
        all.get(&format!("{p}{name}"))
            .map_or(String::new(), ToString::to_string)
    })
}

#[test]
fn init_containers_sidecars_overhead_and_the_pod_itself() {
    let c = |request: &str, limit: &str| json!({"resources": {"requests": {"cpu": request}, "limits": {"cpu": limit}}});
    let sidecar = |request: &str, limit: &str| {
        let mut c = c(request, limit);
        c["restartPolicy"] = json!("Always");
        c
    };
    for (what, spec, wanted) in [
        (
            "the greediest init container is more than the containers",
            json!({"initContainers": [c("4", "8"), c("1", "2")], "containers": [c("1", "2"), c("2", "5")]}),
            ["4", "4", "8"],
        ),
        (
            "the containers are more than any init container",
            json!({"initContainers": [c("1", "2")], "containers": [c("1", "2"), c("2", "5")]}),
            ["3", "3", "7"],
        ),
        (
            "sidecars go on beside the containers",
            json!({"initContainers": [sidecar("1", "1")], "containers": [c("2", "2")]}),
            ["3", "3", "3"],
        ),
        (
            "an init container runs beside the sidecars before it",
            json!({"initContainers": [sidecar("1", "1"), c("4", "4"), sidecar("2", "2")], "containers": [c("1", "1")]}),
            ["5", "5", "5"],
        ),
        (
            "overhead is on top, of limits too where there are any",
            json!({"overhead": {"cpu": "1"}, "containers": [c("1", "2")]}),
            ["2", "2", "3"],
        ),
        (
            "overhead makes no limit",
            json!({"overhead": {"cpu": "1"}, "containers": [{"resources": {"requests": {"cpu": "1"}}}]}),
            ["2", "2", ""],
        ),
        (
            "what the pod says counts instead of its containers",
            json!({"resources": {"requests": {"cpu": "1m"}, "limits": {"cpu": "2m"}}, "containers": [c("4", "4")]}),
            ["1m", "1m", "2m"],
        ),
    ] {
        assert_eq!(sums(&json!({"spec": spec}), "cpu"), wanted, "{what}");
    }
    let disk =
        json!({"requests": {"ephemeral-storage": "32Mi"}, "limits": {"ephemeral-storage": "64Mi"}});
    let pod = json!({"spec": {
        "resources": {"requests": {"memory": "1Mi", "example.com/dongle": "9"}, "limits": {"memory": "2Mi"}},
        "containers": [{"resources": disk}],
    }});
    assert_eq!(sums(&pod, "memory"), ["1Mi", "1Mi", "2Mi"]);
    assert_eq!(sums(&pod, "ephemeral-storage"), ["32Mi", "32Mi", "64Mi"]);
    assert_eq!(
        sums(&pod, "example.com/dongle")[0],
        "",
        "pods as a whole have none"
    );
}

#[test]
fn a_pod_that_ended_is_stored_all_the_same() {
    let resources = json!({"requests": {"cpu": "1"}});
    let time = |s: i64| {
        crate::time::Moment {
            seconds: s,
            nanos: 0,
        }
        .rfc3339()
    };
    let deleted = |at: i64, grace: Value| json!({"deletionTimestamp": time(at), "deletionGracePeriodSeconds": grace});
    for (what, metadata, phase, alive) in [
        ("runs", json!({}), "Running", true),
        ("succeeded", json!({}), "Succeeded", false),
        ("failed", json!({}), "Failed", false),
        ("is being deleted", deleted(NOW, json!(30)), "Running", true),
        ("is stuck", deleted(NOW - 60, json!(30)), "Running", false),
        ("at its end", deleted(NOW - 30, json!(30)), "Running", true),
        (
            "without a grace period",
            deleted(NOW - 60, Value::Null),
            "Running",
            true,
        ),
        (
            "numbers at their ends",
            deleted(NOW, json!(i64::MAX)),
            "Running",
            true,
        ),
    ] {
        let pod = json!({"metadata": metadata, "spec": {"containers": [{"resources": resources}]}, "status": {"phase": phase}});
        let wanted = if alive {
            json!({"count/pods": "1", "pods": "1", "cpu": "1", "requests.cpu": "1"})
        } else {
            json!({"count/pods": "1"})
        };
        assert_eq!(used(&Evaluator::Pods, &pod), amounts_of(&wanted), "{what}");
    }
}

#[test]
fn a_pod_that_is_resized_counts_for_the_most_of_both() {
    let pod = |status: Value, conditions: Value| {
        json!({"spec": {"containers": [{"name": "c", "resources":
            {"requests": {"cpu": "100m", "memory": "200Mi"}, "limits": {"cpu": "200m", "memory": "400Mi"}}}]},
            "status": {"containerStatuses": [status], "conditions": conditions}})
    };
    let infeasible = json!([{"type": "PodResizePending", "reason": "Infeasible"}]);
    let actual = |r: Value| json!({"name": "c", "resources": r});
    for (what, status, conditions, cpu, memory) in [
        (
            "less is in force",
            actual(json!({"requests": {"memory": "150Mi"}})),
            json!([]),
            ["100m", "100m", "200m"],
            ["200Mi", "200Mi", "400Mi"],
        ),
        (
            "more is in force",
            actual(
                json!({"requests": {"cpu": "150m", "memory": "250Mi"}, "limits": {"cpu": "300m"}}),
            ),
            json!([]),
            ["150m", "150m", "300m"],
            ["250Mi", "250Mi", "400Mi"],
        ),
        (
            "nothing is known",
            json!({"name": "c", "allocatedResources": {"cpu": "9"}}),
            json!([]),
            ["100m", "100m", "200m"],
            ["200Mi", "200Mi", "400Mi"],
        ),
        (
            "more is set aside",
            json!({"name": "c", "resources": {}, "allocatedResources": {"cpu": "120m"}}),
            json!([]),
            ["120m", "120m", "200m"],
            ["200Mi", "200Mi", "400Mi"],
        ),
        (
            "what cannot be is not counted",
            actual(json!({"requests": {"cpu": "50m"}, "limits": {"cpu": "60m"}})),
            infeasible,
            ["50m", "50m", "60m"],
            ["", "", ""],
        ),
    ] {
        let pod = pod(status, conditions);
        assert_eq!(sums(&pod, "cpu"), cpu, "{what}");
        assert_eq!(sums(&pod, "memory"), memory, "{what}");
    }
    // Of init containers only sidecars are resized.
    let init = |policy: &str| {
        json!({"spec": {"initContainers": [{"name": "i", "restartPolicy": policy, "resources": {"requests": {"cpu": "1"}}}]},
            "status": {"initContainerStatuses": [{"name": "i", "resources": {"requests": {"cpu": "2"}}}]}})
    };
    assert_eq!(sums(&init("Always"), "cpu")[0], "2");
    assert_eq!(sums(&init(""), "cpu")[0], "1");
}

/// Nothing quadratic: each sidecar asks for something else.
#[test]
fn many_sidecars_of_many_resources() {
    let sidecar = |i: usize| json!({"restartPolicy": "Always", "resources": {"requests": {format!("x.io/{i}"): (i + 1).to_string()}}});
    let mut init: Vec<Value> = (0..20_000).map(sidecar).collect();
    init.push(sidecar(7));
    let all = used(&Evaluator::Pods, &json!({"spec": {"initContainers": init}}));
    assert_eq!(all.len(), 20_002);
    assert_eq!(all["requests.x.io/7"], count(16));
}

#[test]
fn containers_must_name_what_quotas_of_old_name() {
    let silent = |spec: Value, required: &[&str]| {
        let pod = pod::Pod::deserialize(&json!({"spec": spec})).unwrap();
        pod.silent().missing(required.iter().copied())
    };
    let cpu = json!({"requests": {"cpu": "1m"}, "limits": {"cpu": "2m"}});
    let says = |name: &str| json!({"name": name, "resources": cpu});
    let nothing = json!([{"name": "foo"}, {"name": "bar"}]);
    for (spec, required, wanted) in [
        (
            json!({"initContainers": [says("dummy")]}),
            &["memory"][..],
            "must specify memory for: dummy",
        ),
        (
            json!({"initContainers": [says("foo"), says("bar")]}),
            &["memory"],
            "must specify memory for: bar,foo",
        ),
        (
            json!({"containers": [says("dummy")]}),
            &["memory"],
            "must specify memory for: dummy",
        ),
        (
            json!({"containers": [says("foo"), says("bar")]}),
            &["memory"],
            "must specify memory for: bar,foo",
        ),
        (
            json!({"containers": nothing}),
            &["memory", "cpu"],
            "must specify cpu for: bar,foo; memory for: bar,foo",
        ),
        (
            json!({"containers": nothing, "resources": {"requests": {"cpu": "1m"}}}),
            &["memory", "cpu"],
            "",
        ),
        (
            json!({"containers": [says("a")]}),
            &["cpu", "requests.cpu", "limits.cpu"],
            "",
        ),
        (
            json!({"containers": [says("a")]}),
            &[
                "limits.memory",
                "requests.memory",
                "pods",
                "requests.x.io/y",
                "ephemeral-storage",
            ],
            "must specify limits.memory for: a; requests.memory for: a",
        ),
    ] {
        let told = silent(spec.clone(), required).unwrap_or_default();
        assert_eq!(told, wanted, "{spec} {required:?}");
    }
}

fn requirement(scope: &str, operator: &str, values: &[&str]) -> Test {
    Test::new(&Requirement {
        scope_name: scope.into(),
        operator: operator.into(),
        values: values.iter().map(|v| (*v).to_owned()).collect(),
    })
}

#[test]
fn scopes_of_pods() {
    let tests = [
        requirement("Terminating", "", &[]),
        requirement("NotTerminating", "", &[]),
        requirement("BestEffort", "", &[]),
        requirement("NotBestEffort", "", &[]),
        requirement("PriorityClass", "In", &["class1"]),
        requirement("CrossNamespacePodAffinity", "", &[]),
        requirement("VolumeAttributesClass", "Exists", &[]),
    ];
    let names = |spec: Value| -> Vec<String> {
        let scope = Evaluator::Pods
            .measure(&json!({"spec": spec}))
            .unwrap()
            .scope;
        let held = tests.iter().filter(|t| t.matches(&scope).unwrap());
        held.map(|t| t.requirement.scope_name.clone()).collect()
    };
    let far = |kind: &str, when: &str, term: Value| {
        let term = match when {
            "preferred" => json!({"podAffinityTerm": term}),
            _ => term,
        };
        json!({"affinity": {kind: {format!("{when}DuringSchedulingIgnoredDuringExecution"): [term]}}})
    };
    let (near, apart) = ("podAffinity", "podAntiAffinity");
    let cross = &["NotTerminating", "BestEffort", "CrossNamespacePodAffinity"][..];
    for (spec, wanted) in [
        (json!({}), &["NotTerminating", "BestEffort"][..]),
        (
            json!({"priorityClassName": "class1"}),
            &["NotTerminating", "BestEffort", "PriorityClass"],
        ),
        (
            json!({"priorityClassName": "class2"}),
            &["NotTerminating", "BestEffort"],
        ),
        (
            json!({"containers": [{"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}}]}),
            &["NotTerminating", "NotBestEffort"],
        ),
        (
            json!({"containers": [{"resources": {"requests": {"cpu": "0", "example.com/dongle": "1"}}}]}),
            &["NotTerminating", "BestEffort"],
        ),
        (
            json!({"resources": {"limits": {"memory": "1"}}, "containers": [{}]}),
            &["NotTerminating", "NotBestEffort"],
        ),
        (
            json!({"activeDeadlineSeconds": 30}),
            &["Terminating", "BestEffort"],
        ),
        (
            json!({"activeDeadlineSeconds": 0}),
            &["Terminating", "BestEffort"],
        ),
        (
            far(
                near,
                "required",
                json!({"namespaces": ["a"], "namespaceSelector": {}}),
            ),
            cross,
        ),
        (far(near, "required", json!({"namespaces": ["a"]})), cross),
        (
            far(
                near,
                "preferred",
                json!({"namespaces": ["a"], "namespaceSelector": {}}),
            ),
            cross,
        ),
        (
            far(near, "preferred", json!({"namespaceSelector": {}})),
            cross,
        ),
        (
            far(apart, "preferred", json!({"namespaceSelector": {}})),
            cross,
        ),
        (far(apart, "required", json!({"namespaces": ["a"]})), cross),
        (
            far(
                apart,
                "required",
                json!({"labelSelector": {}, "namespaces": []}),
            ),
            &["NotTerminating", "BestEffort"],
        ),
    ] {
        assert_eq!(names(spec.clone()), wanted, "{spec}");
    }
    let class = |name: &str| {
        Evaluator::Pods
            .measure(&json!({"spec": {"priorityClassName": name}}))
            .unwrap()
            .scope
    };
    for (operator, values, name, wanted) in [
        ("Exists", &[][..], "", Ok(false)),
        ("Exists", &[], "high", Ok(true)),
        ("DoesNotExist", &[], "", Ok(true)),
        ("DoesNotExist", &[], "high", Ok(false)),
        ("In", &["low", "high"], "high", Ok(true)),
        ("In", &["low"], "high", Ok(false)),
        ("In", &["low"], "", Ok(false)),
        ("NotIn", &["low"], "high", Ok(true)),
        ("NotIn", &["low"], "low", Ok(false)),
        ("NotIn", &["low"], "", Ok(true)),
        ("In", &[], "high", Err(())),
        ("Near", &["low"], "high", Err(())),
    ] {
        let test = requirement("PriorityClass", operator, values);
        assert_eq!(
            test.matches(&class(name)).map_err(|_| ()),
            wanted,
            "{operator} {values:?} {name}"
        );
    }
    // What has no scope has none of these.
    assert_eq!(
        Test::exists("NotTerminating").matches(&Scope::None),
        Ok(false)
    );
}

#[test]
fn scopes_of_claims() {
    let scope = |claim: Value| Evaluator::Claims.measure(&claim).unwrap().scope;
    let claim = |asked: &str, current: &str, target: &str| {
        json!({"spec": {"volumeAttributesClassName": asked}, "status": {
            "currentVolumeAttributesClassName": current,
            "modifyVolumeStatus": {"targetVolumeAttributesClassName": target}}})
    };
    let attributes = "VolumeAttributesClass";
    for (claim, operator, values, wanted) in [
        (json!({}), "Exists", &[][..], false),
        (json!({}), "DoesNotExist", &[], true),
        (json!({}), "In", &["c1"], false),
        (json!({}), "NotIn", &["c1"], true),
        (
            json!({"spec": {"volumeAttributesClassName": "c1"}, "status": null}),
            "Exists",
            &[],
            true,
        ),
        (claim("c1", "", ""), "In", &["c1"], true),
        (claim("c1", "", ""), "In", &["c2"], false),
        (claim("c1", "c2", ""), "In", &["c2"], true),
        (claim("c1", "c2", "c3"), "In", &["c3"], true),
        // Any of the classes is enough, in either sense.
        (claim("c1", "c2", "c3"), "NotIn", &["c3"], true),
        (claim("c3", "c3", "c3"), "NotIn", &["c3"], false),
        (claim("c1", "", ""), "DoesNotExist", &[], false),
    ] {
        let test = requirement(attributes, operator, values);
        assert_eq!(
            test.matches(&scope(claim.clone())),
            Ok(wanted),
            "{operator} {values:?} {claim}"
        );
    }
    for other in ["Terminating", "BestEffort", "PriorityClass"] {
        assert_eq!(
            Test::exists(other).matches(&scope(claim("c1", "", ""))),
            Ok(false)
        );
    }
}

#[test]
fn a_claim_counts_once_in_all_and_once_for_its_class() {
    let ask = |q: &str| json!({"requests": {"storage": q}});
    for (claim, wanted) in [
        (
            json!({"spec": {"resources": ask("10Gi")}}),
            json!({"requests.storage": "10Gi"}),
        ),
        (
            json!({"spec": {"resources": ask("10Gi"), "storageClassName": "gold"}}),
            json!({"requests.storage": "10Gi", "gold.storageclass.storage.k8s.io/requests.storage": "10Gi",
                "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "1"}),
        ),
        (
            json!({"metadata": {"annotations": {"volume.beta.kubernetes.io/storage-class": "old"}},
                "spec": {"resources": ask("10Gi"), "storageClassName": "gold"}}),
            json!({"requests.storage": "10Gi", "old.storageclass.storage.k8s.io/requests.storage": "10Gi",
                "old.storageclass.storage.k8s.io/persistentvolumeclaims": "1"}),
        ),
        (json!({"spec": {}}), json!({})),
        // Bytes are not shared out.
        (
            json!({"spec": {"resources": ask("10.5"), "storageClassName": "gold"}}),
            json!({"requests.storage": "11", "gold.storageclass.storage.k8s.io/requests.storage": "11",
                "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "1"}),
        ),
        (
            json!({"spec": {"resources": ask("10Gi")}, "status": {"allocatedResources": {"storage": "20Gi"}}}),
            json!({"requests.storage": "20Gi"}),
        ),
        (
            json!({"spec": {"resources": ask("10Gi")}, "status": {"allocatedResources": {"storage": "5Gi"}}}),
            json!({"requests.storage": "10Gi"}),
        ),
    ] {
        let mut wanted = amounts_of(&wanted);
        wanted.extend(amounts_of(&list(
            "1",
            &["persistentvolumeclaims", "count/persistentvolumeclaims"],
        )));
        assert_eq!(used(&Evaluator::Claims, &claim), wanted, "{claim}");
    }
    let fraction = used(
        &Evaluator::Claims,
        &json!({"spec": {"resources": ask("100.1Mi")}}),
    );
    assert_eq!(fraction["requests.storage"].to_string(), "104962458");
}

#[test]
fn a_service_counts_for_the_ports_that_it_asks_for() {
    let ports = json!([{"port": 27443}, {"port": 27444, "nodePort": 32001}]);
    for (spec, node_ports, balancers) in [
        (json!({}), "0", "0"),
        (json!({"type": "ClusterIP", "ports": ports}), "0", "0"),
        (json!({"type": "ExternalName"}), "0", "0"),
        (json!({"type": "NodePort", "ports": ports}), "2", "0"),
        (json!({"type": "LoadBalancer", "ports": ports}), "2", "1"),
        (
            json!({"type": "LoadBalancer", "ports": ports, "allocateLoadBalancerNodePorts": true}),
            "2",
            "1",
        ),
        (
            json!({"type": "LoadBalancer", "ports": ports, "allocateLoadBalancerNodePorts": false}),
            "1",
            "1",
        ),
        (
            json!({"type": "LoadBalancer", "ports": [{"port": 1}], "allocateLoadBalancerNodePorts": false}),
            "0",
            "1",
        ),
        (json!({"type": "LoadBalancer"}), "0", "1"),
    ] {
        let wanted = json!({"count/services": "1", "services": "1",
            "services.nodeports": node_ports, "services.loadbalancers": balancers});
        assert_eq!(
            used(&Evaluator::Services, &json!({"spec": spec})),
            amounts_of(&wanted),
            "{spec}"
        );
    }
}

#[test]
fn a_resource_claim_counts_for_the_devices_that_it_may_get() {
    let one = |class: &str, mode: &str, n: i64| json!({"deviceClassName": class, "allocationMode": mode, "count": n});
    let exactly = |mode: &str, n: i64| json!({"exactly": one("gpu", mode, n)});
    let any = |of: &[Value]| json!({"firstAvailable": of});
    for (requests, wanted) in [
        (json!([]), json!({})),
        (json!([exactly("ExactCount", 1)]), json!({"gpu": "1"})),
        (
            json!(vec![exactly("ExactCount", 1); 5]),
            json!({"gpu": "5"}),
        ),
        (json!([exactly("ExactCount", 5)]), json!({"gpu": "5"})),
        (json!([exactly("All", 0)]), json!({"gpu": "32"})),
        (json!([exactly("Later", 7)]), json!({"gpu": "0"})),
        (json!([one("gpu", "ExactCount", 2)]), json!({"gpu": "2"})),
        (
            json!([any(&[one("gpu", "ExactCount", 1)])]),
            json!({"gpu": "1"}),
        ),
        (
            json!([any(&[
                one("gpu", "ExactCount", 2),
                one("gpu", "ExactCount", 1)
            ])]),
            json!({"gpu": "2"}),
        ),
        (
            json!([any(&[one("gpu", "ExactCount", 1), one("gpu", "All", 0)])]),
            json!({"gpu": "32"}),
        ),
        (
            json!([any(&[
                one("gpu", "ExactCount", 1),
                one("tpu", "All", 0),
                one("npu", "Later", 1)
            ])]),
            json!({"gpu": "1", "tpu": "32"}),
        ),
        (json!([{"name": "unknown"}]), json!({})),
        (
            json!([
                exactly("ExactCount", i64::MAX),
                exactly("ExactCount", i64::MAX)
            ]),
            json!({"gpu": "18446744073709551614"}),
        ),
    ] {
        let mut all =
            Amounts::from([("count/resourceclaims.resource.k8s.io".to_owned(), count(1))]);
        for (class, q) in amounts_of(&wanted) {
            all.insert(format!("{class}.deviceclass.resource.k8s.io/devices"), q);
        }
        let claim = json!({"spec": {"devices": {"requests": requests}}});
        assert_eq!(used(&Evaluator::Devices, &claim), all, "{claim}");
    }
}

#[test]
fn usage_is_summed_over_what_the_scopes_select() {
    let pod = |class: &str, cpu: Option<&str>, phase: &str| {
        let resources = cpu.map_or(
            json!({}),
            |q| json!({"requests": {"cpu": q}, "limits": {"cpu": q}}),
        );
        let pod = json!({"spec": {"priorityClassName": class, "containers": [{"resources": resources}]}, "status": {"phase": phase}});
        Evaluator::Pods.measure(&pod).unwrap()
    };
    let high = requirement("PriorityClass", "In", &["high"]);
    let all = ["pods", "count/pods", "cpu", "requests.cpu", "limits.cpu"];
    let of_high = [
        pod("high", Some("1"), "Running"),
        pod("high", Some("1"), "Succeeded"),
        pod("low", Some("1"), "Running"),
        pod("high", None, "Failed"),
    ];
    for (objects, scopes, wanted) in [
        (&[][..], vec![], ["0", "0", "0", "0", "0"]),
        (
            &[pod("", Some("1"), "Running"), pod("", Some("1"), "Running")],
            vec![],
            ["2", "2", "2", "2", "2"],
        ),
        (
            &[
                pod("", Some("1"), "Running"),
                pod("", Some("1"), "Succeeded"),
            ],
            vec![],
            ["1", "2", "1", "1", "1"],
        ),
        (&of_high[..3], vec![high.clone()], ["1", "2", "1", "1", "1"]),
        (
            &of_high[..3],
            vec![Test::exists("PriorityClass"), high.clone()],
            ["1", "2", "1", "1", "1"],
        ),
        (
            &of_high,
            vec![
                Test::exists("PriorityClass"),
                Test::exists("BestEffort"),
                high.clone(),
            ],
            ["0", "1", "0", "0", "0"],
        ),
        // What cannot be evaluated selects nothing.
        (
            &of_high,
            vec![requirement("PriorityClass", "In", &[])],
            ["0", "0", "0", "0", "0"],
        ),
    ] {
        let used = usage(objects, &all.into(), &scopes, NOW);
        let told = all.map(|n| used[n].to_string());
        assert_eq!(told, wanted, "{} {scopes:?}", objects.len());
        assert_eq!(used.len(), all.len(), "no more than is asked for");
    }
    let one = usage(&of_high, &["pods"].into(), &[], NOW);
    assert_eq!(one, Amounts::from([("pods".to_owned(), count(2))]));
}

/// The same from what is stored, and with `null` wherever that may stand.
#[test]
fn objects_are_read_from_their_stored_form_and_nulls_are_nothing() {
    let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "resourceVersion": "7"}, "spec": {
        "priorityClassName": "high", "activeDeadlineSeconds": 5, "overhead": {"cpu": "250m"},
        "containers": [{"name": "c", "resources": {"requests": {"cpu": "1500m"}, "limits": {"memory": "1Gi"}}}],
        "initContainers": [{"name": "i", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}}],
        "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            [{"topologyKey": "k", "namespaceSelector": {}}]}},
    }, "status": {"phase": "Running", "containerStatuses": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]}});
    let schema = crate::schema::message("v1", "Pod").unwrap();
    let bytes = wire::proto::value_to_vec(&pod, schema).unwrap();
    let stored: pod::Pod = wire::proto::from_slice(&bytes, schema).unwrap();
    let measured = Evaluator::Pods.measure(&pod).unwrap();
    assert_eq!(stored.measure(), measured);
    assert_eq!(measured.alive["cpu"].to_string(), "3250m");
    assert_eq!(stored.identity().resource_version, "7");
    let claim = json!({"metadata": {"name": "c", "annotations": {"volume.beta.kubernetes.io/storage-class": "old"}},
        "spec": {"resources": {"requests": {"storage": "1Gi"}}}});
    let schema = crate::schema::message("v1", "PersistentVolumeClaim").unwrap();
    let bytes = wire::proto::value_to_vec(&claim, schema).unwrap();
    let stored: claim::Claim = wire::proto::from_slice(&bytes, schema).unwrap();
    assert_eq!(stored.measure(), Evaluator::Claims.measure(&claim).unwrap());
    let none = json!({"metadata": null, "spec": {"containers": null, "overhead": null, "resources": null, "affinity": null,
        "activeDeadlineSeconds": null}, "status": null});
    assert_eq!(
        Evaluator::Pods.measure(&none).unwrap(),
        Evaluator::Pods.measure(&json!({})).unwrap()
    );
    for e in [Evaluator::Services, Evaluator::Claims, Evaluator::Devices] {
        let none = json!({"metadata": null, "spec": null, "status": null});
        assert_eq!(e.measure(&none).unwrap(), e.measure(&json!({})).unwrap());
    }
    let odd = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "odd", "memory": 5, "x.io/y": null}}}]}});
    let odd = used(&Evaluator::Pods, &odd);
    assert_eq!((odd["cpu"], odd["memory"]), (count(0), count(5)));
    assert!(
        Evaluator::Pods
            .measure(&json!({"spec": {"containers": 5}}))
            .is_err()
    );
}
