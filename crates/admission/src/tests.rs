//! The plugins over a small cluster, with the messages upstream gives.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use api::Status;
use api::reader::ObjectReader;
use auth::UserInfo;
use auth::authz::{AlwaysAllow, AlwaysDeny};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use crate::chain::{Chain, Deps};
use crate::{Attributes, Operation, plugins};

#[derive(Default)]
struct Cluster(Mutex<HashMap<String, Arc<Value>>>);

impl Cluster {
    fn put(&self, resource: &str, ns: &str, v: Value) {
        let name = v["metadata"]["name"].as_str().unwrap().to_owned();
        self.0
            .lock()
            .unwrap()
            .insert(format!("{resource}/{ns}/{name}"), Arc::new(v));
    }
}

impl ObjectReader for Cluster {
    fn get<'a>(
        &'a self,
        _: &'a str,
        resource: &'a str,
        ns: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Arc<Value>>, Status>> {
        let found = self
            .0
            .lock()
            .unwrap()
            .get(&format!("{resource}/{ns}/{name}"))
            .cloned();
        async move { Ok(found) }.boxed()
    }
    fn list<'a>(
        &'a self,
        _: &'a str,
        resource: &'a str,
        ns: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Arc<Value>>, Status>> {
        let all = self.0.lock().unwrap();
        let found = all
            .iter()
            .filter(|(k, _)| k.starts_with(&format!("{resource}/{ns}")))
            .map(|(_, v)| Arc::clone(v));
        let found = found.collect();
        async move { Ok(found) }.boxed()
    }
}

fn cluster() -> Cluster {
    let c = Cluster::default();
    c.put(
        "namespaces",
        "",
        json!({"metadata": {"name": "golden"}, "status": {"phase": "Active"}}),
    );
    c.put(
        "namespaces",
        "",
        json!({"metadata": {"name": "ending"}, "status": {"phase": "Terminating"}}),
    );
    c.put(
        "serviceaccounts",
        "golden",
        json!({"metadata": {"name": "default"}, "imagePullSecrets": [{"name": "pull"}]}),
    );
    c.put(
        "nodes",
        "",
        json!({"metadata": {"name": "n1", "uid": "nu"}}),
    );
    c
}

struct Ask<'a> {
    op: Operation,
    user: UserInfo,
    group: &'a str,
    resource: &'a str,
    sub: &'a str,
    ns: &'a str,
    name: &'a str,
}

fn ask<'a>(op: Operation, resource: &'a str, ns: &'a str, name: &'a str) -> Ask<'a> {
    Ask {
        op,
        user: UserInfo::default(),
        group: "",
        resource,
        sub: "",
        ns,
        name,
    }
}

fn chain() -> Chain {
    Chain::new(
        &["NodeRestriction".into()],
        &[],
        &Deps::new(Arc::new(AlwaysDeny)),
    )
    .unwrap()
}

async fn run(
    c: &Cluster,
    q: Ask<'_>,
    mut new: Option<Value>,
    old: Option<&Value>,
) -> Result<Option<Value>, Status> {
    let a = Attributes {
        operation: q.op,
        user: &q.user,
        group: q.group,
        version: "v1",
        resource: q.resource,
        subresource: q.sub,
        kind: "",
        namespace: q.ns,
        name: q.name,
        dry_run: false,
        reader: c,
    };
    let chain = chain();
    chain.admit(&a, new.as_mut(), old).await?;
    chain.validate(&a, new.as_ref(), old).await?;
    Ok(new)
}

fn pod(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["containers"] = json!([{"name": "c", "image": "busybox"}]);
    json!({"metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn a_minimal_pod_becomes_what_upstream_makes_of_it() {
    let c = cluster();
    let out = run(
        &c,
        ask(Operation::Create, "pods", "golden", "minimal"),
        Some(pod("minimal", json!({}))),
        None,
    )
    .await;
    let out = out.unwrap().unwrap();
    let spec = &out["spec"];
    let name = spec["volumes"][0]["name"].as_str().unwrap();
    assert!(
        name.starts_with("kube-api-access-") && name.len() == 21,
        "{name}"
    );
    assert_eq!(
        spec["volumes"][0]["projected"],
        json!({"sources": [{"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}, {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}, {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}], "defaultMode": 420})
    );
    assert_eq!(
        spec["containers"][0]["volumeMounts"],
        json!([{"name": name, "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}])
    );
    assert_eq!(
        spec["tolerations"],
        json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}, {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}])
    );
    assert_eq!(
        (&spec["priority"], &spec["preemptionPolicy"]),
        (&json!(0), &json!("PreemptLowerPriority"))
    );
    assert_eq!(
        (&spec["serviceAccountName"], &spec["serviceAccount"]),
        (&json!("default"), &json!("default"))
    );
    assert_eq!(spec["imagePullSecrets"], json!([{"name": "pull"}]));
    // A second pass (a reinvocation, a restored object) adds nothing.
    let again = run(
        &c,
        ask(Operation::Create, "pods", "golden", "minimal"),
        Some(out.clone()),
        None,
    )
    .await
    .unwrap();
    assert_eq!(again.unwrap(), out);
}

#[tokio::test]
async fn refusals_read_as_upstreams() {
    let c = cluster();
    let create = |ns: &'static str| ask(Operation::Create, "pods", ns, "");
    for (name, spec, want) in [
        (
            "x27",
            json!({"priorityClassName": "nope"}),
            "pods \"x27\" is forbidden: no PriorityClass with name nope was found",
        ),
        (
            "x29",
            json!({"serviceAccountName": "nope"}),
            "pods \"x29\" is forbidden: error looking up service account golden/nope: serviceaccount \"nope\" not found",
        ),
        (
            "x30",
            json!({"runtimeClassName": "nope"}),
            "pods \"x30\" is forbidden: pod rejected: RuntimeClass \"nope\" not found",
        ),
        (
            "x31",
            json!({"priority": 7}),
            "pods \"x31\" is forbidden: the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 0 from the given PriorityClass name",
        ),
    ] {
        let e = run(&c, create("golden"), Some(pod(name, spec)), None)
            .await
            .unwrap_err();
        assert_eq!((e.code, e.message.as_str()), (403, want));
        let d = e.details.unwrap();
        assert_eq!((d.name.as_str(), d.kind.as_str()), (name, "pods"));
    }
    let e = run(&c, create("nope"), Some(pod("a", json!({}))), None)
        .await
        .unwrap_err();
    assert_eq!(
        (e.code, e.message.as_str()),
        (404, "namespaces \"nope\" not found")
    );
    let late = json!({"metadata": {"name": "late"}});
    let e = run(
        &c,
        ask(Operation::Create, "configmaps", "ending", ""),
        Some(late.clone()),
        None,
    )
    .await
    .unwrap_err();
    assert_eq!(
        e.message,
        "configmaps \"late\" is forbidden: unable to create new content in namespace ending because it is being terminated"
    );
    assert_eq!(e.details.unwrap().causes[0].reason, "NamespaceTerminating");
    assert!(
        run(
            &c,
            ask(Operation::Update, "configmaps", "ending", "late"),
            Some(late.clone()),
            Some(&late)
        )
        .await
        .is_ok()
    );
    let e = run(
        &c,
        ask(Operation::Delete, "namespaces", "default", "default"),
        None,
        None,
    )
    .await
    .unwrap_err();
    assert_eq!(
        e.message,
        "namespaces \"default\" is forbidden: this namespace may not be deleted"
    );
    assert!(
        run(
            &c,
            ask(Operation::Delete, "namespaces", "golden", "golden"),
            None,
            None
        )
        .await
        .is_ok()
    );
}

#[tokio::test]
async fn priority_classes() {
    let c = cluster();
    c.put("priorityclasses", "", json!({"metadata": {"name": "hi"}, "value": 100, "preemptionPolicy": "Never", "globalDefault": true}));
    let out = run(
        &c,
        ask(Operation::Create, "pods", "golden", ""),
        Some(pod("p", json!({}))),
        None,
    )
    .await
    .unwrap()
    .unwrap();
    assert_eq!(
        (
            &out["spec"]["priority"],
            &out["spec"]["priorityClassName"],
            &out["spec"]["preemptionPolicy"]
        ),
        (&json!(100), &json!("hi"), &json!("Never"))
    );
    let second = json!({"metadata": {"name": "lo"}, "value": 1, "globalDefault": true});
    let q = Ask {
        group: "scheduling.k8s.io",
        ..ask(Operation::Create, "priorityclasses", "", "lo")
    };
    let e = run(&c, q, Some(second), None).await.unwrap_err();
    assert_eq!(
        e.message,
        "priorityclasses.scheduling.k8s.io \"lo\" is forbidden: PriorityClass hi is already marked as default. Only one default can exist"
    );
}

/// CVE-2023-2728, CVE-2024-3177: the mountable-secrets policy looks at every kind of container, env and envFrom.
#[tokio::test]
async fn mountable_secrets_hold_for_every_container() {
    let c = cluster();
    c.put("serviceaccounts", "golden", json!({"metadata": {"name": "tight", "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}}, "secrets": [{"name": "ok"}]}));
    let env = |s: &str| json!({"name": "x", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": s, "key": "k"}}}]});
    let from = |s: &str| json!({"name": "x", "envFrom": [{"secretRef": {"name": s}}]});
    for make in [&env as &dyn Fn(&str) -> Value, &from] {
        for key in ["initContainers", "containers"] {
            for (secret, good) in [("ok", true), ("bad", false)] {
                let mut p = pod("p", json!({"serviceAccountName": "tight"}));
                p["spec"][key] = json!([make(secret)]);
                let r = run(
                    &c,
                    ask(Operation::Create, "pods", "golden", ""),
                    Some(p),
                    None,
                )
                .await;
                assert_eq!(r.is_ok(), good, "{key} {secret} {r:?}");
            }
        }
        let mut p = pod("p", json!({"serviceAccountName": "tight"}));
        p["spec"]["ephemeralContainers"] = json!([make("bad")]);
        let q = Ask {
            sub: "ephemeralcontainers",
            ..ask(Operation::Update, "pods", "golden", "p")
        };
        assert!(
            run(&c, q, Some(p.clone()), Some(&p))
                .await
                .unwrap_err()
                .message
                .contains("ephemeral container x")
        );
    }
}

fn node_user() -> UserInfo {
    UserInfo {
        name: "system:node:n1".into(),
        groups: vec!["system:nodes".into()],
        ..UserInfo::default()
    }
}

fn mirror() -> Value {
    json!({"metadata": {"name": "m", "annotations": {"kubernetes.io/config.mirror": "h"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "nu", "controller": true}]},
        "spec": {"nodeName": "n1", "containers": [{"name": "c"}]}})
}

#[tokio::test]
async fn a_node_creates_mirror_pods_of_its_own_only() {
    let c = cluster();
    let q = || Ask {
        user: node_user(),
        ..ask(Operation::Create, "pods", "golden", "")
    };
    assert!(run(&c, q(), Some(mirror()), None).await.is_ok());
    let change = |pointer: &str, v: Value| {
        let mut m = mirror();
        match m.pointer_mut(pointer) {
            Some(p) => *p = v,
            None => m["spec"][pointer.trim_start_matches("/spec/")] = v,
        }
        m
    };
    for (m, why) in [
        (
            change("/metadata/annotations", json!({})),
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"n1\" can only create mirror pods",
        ),
        (
            change("/spec/nodeName", json!("n2")),
            "node \"n1\" can only create pods with spec.nodeName set to itself",
        ),
        (
            change("/metadata/ownerReferences", json!([])),
            "node \"n1\" can only create pods with an owner reference set to itself",
        ),
        (
            change("/metadata/ownerReferences/0/uid", json!("zz")),
            "node n1 UID mismatch: expected zz got nu",
        ),
        (
            change("/spec/serviceAccountName", json!("x")),
            "a mirror pod may not reference service accounts",
        ),
        (
            change(
                "/spec/volumes",
                json!([{"name": "v", "configMap": {"name": "x"}}]),
            ),
            "node \"n1\" can not create pods that reference configmaps (via configmap volumes)",
        ),
        // CVE-2025-4563
        (
            change("/spec/resourceClaims", json!([{"name": "r"}])),
            "node \"n1\" can not create pods that reference resourceclaims",
        ),
        (
            change(
                "/spec/containers",
                json!([{"name": "c", "envFrom": [{"configMapRef": {"name": "x"}}]}]),
            ),
            "node \"n1\" can not create pods that reference configmaps",
        ),
        (
            change(
                "/spec/containers",
                json!([{"name": "c", "envFrom": [{"secretRef": {"name": "x"}}]}]),
            ),
            "a mirror pod may not reference secrets",
        ),
        (
            change(
                "/spec/containers",
                json!([{"name": "c", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "x", "key": "k"}}}]}]),
            ),
            "a mirror pod may not reference secrets",
        ),
        (
            change("/spec/imagePullSecrets", json!([{"name": "x"}])),
            "a mirror pod may not reference secrets",
        ),
    ] {
        let e = run(&c, q(), Some(m), None).await.unwrap_err();
        assert!(e.message.ends_with(why), "{} / {why}", e.message);
    }
}

#[tokio::test]
async fn a_node_removes_its_own_pods_only() {
    let c = cluster();
    for (name, node) in [("mine", "n1"), ("other", "n2")] {
        let pod = json!({"metadata": {"name": name}, "spec": {"nodeName": node}, "status": {"phase": "Running"}});
        c.put("pods", "golden", pod);
    }
    let q = |op, sub, name| Ask {
        user: node_user(),
        sub,
        ..ask(op, "pods", "golden", name)
    };
    let eviction = |name: &str| Some(json!({"metadata": {"name": name}}));
    for (name, good) in [("mine", true), ("other", false)] {
        // As it is stored, or as the request has it.
        let deleted = run(&c, q(Operation::Delete, "", name), None, None).await;
        assert_eq!(deleted.is_ok(), good, "{name}: {deleted:?}");
        let stored = c.get("", "pods", "golden", name).await.unwrap();
        let deleted = run(&c, q(Operation::Delete, "", name), None, stored.as_deref()).await;
        assert_eq!(deleted.is_ok(), good, "{name}: {deleted:?}");
        // Named by the path or by the body.
        for in_path in [name, ""] {
            let evicted = run(
                &c,
                q(Operation::Create, "eviction", in_path),
                eviction(name),
                None,
            );
            let evicted = evicted.await;
            assert_eq!(evicted.is_ok(), good, "{name} {in_path}: {evicted:?}");
        }
    }
    for (op, in_path, in_body, why) in [
        (
            Operation::Update,
            "mine",
            "mine",
            "unexpected operation UPDATE",
        ),
        (
            Operation::Create,
            "",
            "",
            "could not determine pod from request data",
        ),
        (Operation::Create, "gone", "gone", "not found"),
    ] {
        let e = run(&c, q(op, "eviction", in_path), eviction(in_body), None).await;
        let e = e.unwrap_err();
        assert!(e.message.ends_with(why), "{}", e.message);
    }
}

#[tokio::test]
async fn a_node_asks_for_certificates_of_its_own_name() {
    let c = cluster();
    let request = |node: &str| {
        let key = pki::key::generate().unwrap();
        let pem = pki::csr::create(&pki::layout::kubelet_identity(node), &key).unwrap();
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pem)
    };
    for (op, signer, asked, good) in [
        (
            Operation::Create,
            "kubernetes.io/kube-apiserver-client-kubelet",
            "n1",
            true,
        ),
        (
            Operation::Create,
            "kubernetes.io/kube-apiserver-client-kubelet",
            "n2",
            false,
        ),
        (
            Operation::Create,
            "kubernetes.io/kubelet-serving",
            "n1",
            true,
        ),
        (
            Operation::Create,
            "kubernetes.io/kubelet-serving",
            "n2",
            false,
        ),
        (Operation::Create, "example.com/own", "n2", true),
        (
            Operation::Update,
            "kubernetes.io/kubelet-serving",
            "n2",
            true,
        ),
    ] {
        let q = Ask {
            user: node_user(),
            group: "certificates.k8s.io",
            ..ask(op, "certificatesigningrequests", "", "r")
        };
        let csr = json!({"metadata": {"name": "r"}, "spec": {"signerName": signer, "request": request(asked)}});
        let old = csr.clone();
        let old = (op == Operation::Update).then_some(&old);
        let got = run(&c, q, Some(csr), old).await;
        assert_eq!(got.is_ok(), good, "{op:?} {signer} {asked}: {got:?}");
    }
}

#[tokio::test]
async fn slices_of_resources_are_made_and_removed_by_their_node() {
    let c = cluster();
    for (op, node, good) in [
        (Operation::Create, "n1", true),
        (Operation::Create, "n2", false),
        (Operation::Delete, "n1", true),
        (Operation::Delete, "n2", false),
    ] {
        let q = Ask {
            user: node_user(),
            group: "resource.k8s.io",
            ..ask(op, "resourceslices", "", "s")
        };
        let slice = json!({"metadata": {"name": "s"}, "spec": {"nodeName": node}});
        let (new, old) = match op {
            Operation::Create => (Some(slice), None),
            _ => (None, Some(slice)),
        };
        let got = run(&c, q, new, old.as_ref()).await;
        assert_eq!(got.is_ok(), good, "{op:?} {node}: {got:?}");
    }
}

#[tokio::test]
async fn mirror_pods_name_no_secret_in_any_volume() {
    let c = cluster();
    for volume in [
        json!({"secret": {"secretName": "x"}}),
        json!({"azureFile": {"secretName": "x"}}),
        json!({"csi": {"driver": "d", "nodePublishSecretRef": {"name": "x"}}}),
        json!({"cephfs": {"secretRef": {"name": "x"}}}),
        json!({"flexVolume": {"secretRef": {"name": "x"}}}),
        json!({"iscsi": {"secretRef": {"name": "x"}}}),
        json!({"rbd": {"secretRef": {"name": "x"}}}),
        json!({"scaleIO": {"secretRef": {"name": "x"}}}),
        json!({"storageos": {"secretRef": {"name": "x"}}}),
        json!({"projected": {"sources": [{"downwardAPI": {}}, {"secret": {"name": "x"}}]}}),
    ] {
        let mut m = mirror();
        m["spec"]["volumes"] = json!([{"name": "fine", "emptyDir": {}}, volume]);
        let q = Ask {
            user: node_user(),
            ..ask(Operation::Create, "pods", "golden", "")
        };
        let e = run(&c, q, Some(m), None).await.unwrap_err();
        assert!(
            e.message
                .ends_with("a mirror pod may not reference secrets"),
            "{volume}: {}",
            e.message
        );
    }
    let mut m = mirror();
    m["spec"]["volumes"] =
        json!([{"name": "fine", "emptyDir": {}}, {"name": "host", "hostPath": {"path": "/x"}}]);
    let q = Ask {
        user: node_user(),
        ..ask(Operation::Create, "pods", "golden", "")
    };
    assert!(run(&c, q, Some(m), None).await.is_ok());
}

#[tokio::test]
async fn what_is_named_after_a_node_is_for_that_node() {
    const LEASES: (&str, &str, &str) = ("coordination.k8s.io", "leases", "kube-node-lease");
    const CSI_NODES: (&str, &str, &str) = ("storage.k8s.io", "csinodes", "");
    let c = cluster();
    c.put(
        "namespaces",
        "",
        json!({"metadata": {"name": "kube-node-lease"}, "status": {"phase": "Active"}}),
    );
    for (group, resource, ns) in [LEASES, CSI_NODES] {
        for op in [Operation::Create, Operation::Update, Operation::Delete] {
            // The name of a new object stands in it; a request to create names none.
            for (in_path, in_body, good) in [
                ("n1", "n1", true),
                ("", "n1", op == Operation::Create),
                ("n1", "n2", op != Operation::Create),
                ("n2", "n2", false),
            ] {
                let q = Ask {
                    user: node_user(),
                    group,
                    ..ask(op, resource, ns, in_path)
                };
                let new = (op != Operation::Delete).then(|| json!({"metadata": {"name": in_body}}));
                let got = run(&c, q, new, None).await;
                assert_eq!(
                    got.is_ok(),
                    good,
                    "{op:?} {resource} {in_path:?} {in_body}: {got:?}"
                );
                if let Err(e) = got {
                    let why = "with the same name as the requesting node";
                    assert!(e.message.ends_with(why), "{}", e.message);
                }
            }
        }
    }
    let q = Ask {
        user: node_user(),
        group: "coordination.k8s.io",
        ..ask(Operation::Update, "leases", "golden", "n1")
    };
    let e = run(&c, q, Some(json!({"metadata": {"name": "n1"}})), None)
        .await
        .unwrap_err();
    assert!(
        e.message.contains("\"kube-node-lease\" system namespace"),
        "{}",
        e.message
    );
}

#[tokio::test]
async fn a_node_changes_only_itself_and_not_what_binds_it() {
    let c = cluster();
    let old = json!({"metadata": {"name": "n1", "labels": {"a": "b"}}, "spec": {"taints": [{"key": "t", "effect": "NoSchedule"}]}});
    let q = |name: &'static str| Ask {
        user: node_user(),
        ..ask(Operation::Update, "nodes", "", name)
    };
    let with = |f: &dyn Fn(&mut Value)| {
        let mut n = old.clone();
        f(&mut n);
        n
    };
    assert!(
        run(
            &c,
            q("n1"),
            Some(with(
                &|n| n["metadata"]["labels"]["x.kubelet.kubernetes.io/y"] = json!("1")
            )),
            Some(&old)
        )
        .await
        .is_ok()
    );
    assert!(
        run(&c, q("n2"), Some(old.clone()), Some(&old))
            .await
            .unwrap_err()
            .message
            .contains("node \"n1\" is not allowed to modify node \"n2\"")
    );
    for (n, why) in [
        (
            with(&|n| n["spec"]["taints"] = json!([])),
            "node \"n1\" is not allowed to modify taints",
        ),
        // CVE-2025-5187
        (
            with(&|n| {
                n["metadata"]["ownerReferences"] =
                    json!([{"kind": "ConfigMap", "name": "x", "uid": "y", "apiVersion": "v1"}])
            }),
            "node \"n1\" is not allowed to modify ownerReferences",
        ),
        (
            with(&|n| n["metadata"]["labels"]["node-restriction.kubernetes.io/x"] = json!("1")),
            "is not allowed to modify labels: node-restriction.kubernetes.io/x",
        ),
        (
            with(&|n| n["metadata"]["labels"]["node-role.kubernetes.io/control-plane"] = json!("")),
            "is not allowed to modify labels: node-role.kubernetes.io/control-plane",
        ),
    ] {
        let e = run(&c, q("n1"), Some(n), Some(&old)).await.unwrap_err();
        assert!(e.message.ends_with(why), "{} / {why}", e.message);
    }
    let created = json!({"metadata": {"name": "n1", "labels": {"kubernetes.io/hostname": "n1", "kubernetes.io/os": "linux"}}});
    let q = Ask {
        user: node_user(),
        ..ask(Operation::Create, "nodes", "", "n1")
    };
    let out = run(&c, q, Some(created), None).await.unwrap().unwrap();
    assert_eq!(
        out["spec"]["taints"],
        json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}])
    );
}

/// CVE-2021-25735: the stored pod decides whose it is, not the request's.
#[tokio::test]
async fn a_node_reports_and_deletes_only_its_own_pods() {
    let c = cluster();
    let mine = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1"}});
    let other = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n2"}});
    let status = || Ask {
        user: node_user(),
        sub: "status",
        ..ask(Operation::Update, "pods", "golden", "p")
    };
    assert!(
        run(&c, status(), Some(mine.clone()), Some(&mine))
            .await
            .is_ok()
    );
    let e = run(&c, status(), Some(mine.clone()), Some(&other))
        .await
        .unwrap_err();
    assert_eq!(
        (e.code, e.message.as_str()),
        (
            403,
            "pods \"p\" is forbidden: node \"n1\" can only update pod status for pods with spec.nodeName set to itself"
        )
    );
    let delete = || Ask {
        user: node_user(),
        ..ask(Operation::Delete, "pods", "golden", "p")
    };
    assert!(run(&c, delete(), None, Some(&mine)).await.is_ok());
    let e = run(&c, delete(), None, Some(&other)).await.unwrap_err();
    assert_eq!(
        e.message,
        "pods \"p\" is forbidden: node \"n1\" can only delete pods with spec.nodeName set to itself"
    );
}

#[tokio::test]
async fn a_node_gets_tokens_of_its_own_pods_only() {
    let c = cluster();
    c.put("pods", "golden", json!({"metadata": {"name": "p", "uid": "pu"}, "spec": {"nodeName": "n1", "volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}}));
    c.put(
        "pods",
        "golden",
        json!({"metadata": {"name": "o", "uid": "ou"}, "spec": {"nodeName": "n2"}}),
    );
    let q = || Ask {
        user: node_user(),
        sub: "token",
        ..ask(Operation::Create, "serviceaccounts", "golden", "default")
    };
    let bound = |pod: &str, uid: &str, aud: Value| json!({"spec": {"audiences": aud, "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}}});
    assert!(
        run(&c, q(), Some(bound("p", "pu", json!([]))), None)
            .await
            .is_ok()
    );
    for (r, why) in [
        (
            json!({"spec": {}}),
            "node requested token not bound to a pod",
        ),
        (
            bound("p", "", json!([])),
            "node requested token with a pod binding without a uid",
        ),
        (
            bound("o", "ou", json!([])),
            "node requested token bound to a pod scheduled on a different node",
        ),
        (
            bound("p", "pu", json!(["vault"])),
            "audience \"vault\" not found in pod spec volume, system:node:n1 is not authorized to request tokens for this audience",
        ),
    ] {
        let e = run(&c, q(), Some(r), None).await.unwrap_err();
        assert!(e.message.ends_with(why), "{} / {why}", e.message);
    }
}

#[test]
fn flags() {
    let deps = Deps::new(Arc::new(AlwaysAllow));
    let s = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let names = Chain::new(&[], &s(&["Priority"]), &deps).unwrap().names();
    assert_eq!(names.first(), Some(&"NamespaceLifecycle"));
    assert!(!names.contains(&"Priority") && !names.contains(&"NodeRestriction"));
    let named = Chain::new(&s(&["NodeRestriction"]), &[], &deps).unwrap();
    assert!(named.names().contains(&"NodeRestriction"));
    let e = |enable: &[&str]| {
        Chain::new(&s(enable), &[], &deps)
            .err()
            .map(|e| e.to_string())
            .unwrap_or_default()
    };
    assert_eq!(
        e(&["Nope"]),
        "enable-admission-plugins plugin \"Nope\" is unknown"
    );
    let both = Chain::new(&s(&["Priority"]), &s(&["Priority"]), &deps);
    assert_eq!(
        both.err().unwrap().to_string(),
        "Priority in enable-admission-plugins and disable-admission-plugins overlapped"
    );
    for d in plugins::ALL {
        let error = e(&[d.name]);
        match d.make {
            // Whoever names a plugin relies on it, whether upstream runs it by default or not.
            None => assert!(
                error.contains("is not implemented: "),
                "{}: {error}",
                d.name
            ),
            Some(make) => {
                assert_eq!(error, "");
                assert_eq!(make(&deps).name(), d.name);
            }
        }
        assert_eq!(d.make.is_some(), d.support.is_there(), "{}", d.name);
    }
    let missing = Chain::missing(&s(&["ValidatingAdmissionWebhook"]));
    assert!(missing.contains(&"PodSecurity") && missing.contains(&"MutatingAdmissionWebhook"));
    assert!(
        !missing.contains(&"ValidatingAdmissionWebhook") && !missing.contains(&"EventRateLimit")
    );
}

/// CVE-2020-8554: external addresses may stay and go, none may come; and nothing is quadratic in their number.
#[tokio::test]
async fn external_ips_may_only_go() {
    let c = cluster();
    let deps = Deps::new(Arc::new(AlwaysDeny));
    let chain = Chain::new(&["DenyServiceExternalIPs".into()], &[], &deps).unwrap();
    let user = UserInfo::default();
    let service =
        |ips: Vec<String>| json!({"metadata": {"name": "s"}, "spec": {"externalIPs": ips}});
    let ips = |range: std::ops::Range<u32>| {
        range
            .map(|n| std::net::Ipv4Addr::from(n + (1 << 24)).to_string())
            .collect::<Vec<_>>()
    };
    let many = ips(0..50_000);
    let backwards: Vec<String> = many.iter().rev().cloned().collect();
    for (old, new, good) in [
        (None, vec![], true),
        (None, ips(0..1), false),
        (Some(ips(0..2)), ips(1..2), true),
        (Some(ips(0..2)), ips(1..3), false),
        (Some(many), backwards, true),
    ] {
        let a = Attributes {
            operation: if old.is_some() {
                Operation::Update
            } else {
                Operation::Create
            },
            user: &user,
            group: "",
            version: "v1",
            resource: "services",
            subresource: "",
            kind: "Service",
            namespace: "golden",
            name: "s",
            dry_run: false,
            reader: &c,
        };
        let (old, new) = (old.map(service), service(new));
        let got = chain.validate(&a, Some(&new), old.as_ref()).await;
        match got {
            Ok(()) => assert!(good, "{new}"),
            Err(e) => {
                assert!(!good, "{e:?}");
                assert_eq!(
                    (e.code, e.message.as_str()),
                    (
                        403,
                        "services \"s\" is forbidden: Use of external IPs is denied by admission control."
                    )
                );
            }
        }
    }
}

/// Allows one question and no other.
struct Only(auth::Attributes);

#[async_trait::async_trait]
impl auth::Authorizer for Only {
    async fn authorize(&self, a: &auth::Attributes) -> (auth::Decision, String) {
        let decision = if *a == self.0 {
            auth::Decision::Allow
        } else {
            auth::Decision::NoOpinion
        };
        (decision, String::new())
    }

    async fn rules_for(&self, _: &UserInfo, _: &str) -> (Vec<auth::Rule>, Option<String>) {
        (Vec::new(), None)
    }
}

/// What plugins ask the authorizer is the whole question: who, what, and of which signer, account or audience.
#[tokio::test]
async fn questions_to_the_authorizer_are_whole() {
    let c = cluster();
    c.put(
        "pods",
        "golden",
        json!({"metadata": {"name": "p", "uid": "pu"}, "spec": {"nodeName": "n1"}}),
    );
    let jane = UserInfo {
        name: "jane".into(),
        ..UserInfo::default()
    };
    let signers = |verb: &str, name: &str| auth::Attributes {
        user: jane.clone(),
        verb: verb.into(),
        group: "certificates.k8s.io".into(),
        version: "*".into(),
        resource: "signers".into(),
        name: name.into(),
        is_resource: true,
        ..auth::Attributes::default()
    };
    let audience = auth::Attributes {
        user: node_user(),
        verb: "request-serviceaccounts-token-audience".into(),
        namespace: "golden".into(),
        version: "v1".into(),
        resource: "vault".into(),
        name: "default".into(),
        is_resource: true,
        ..auth::Attributes::default()
    };
    let csr = |status: Value| json!({"metadata": {"name": "c"}, "spec": {"signerName": "example.com/s"}, "status": status});
    let approved = csr(json!({"conditions": [{"type": "Approved"}]}));
    let signed = csr(json!({"certificate": "eA=="}));
    let token = json!({"spec": {"audiences": ["vault"], "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "pu"}}});
    let requests = "certificatesigningrequests";
    let of = |user: &UserInfo, op, resource, sub, ns, name| Ask {
        user: user.clone(),
        sub,
        group: if resource == requests {
            "certificates.k8s.io"
        } else {
            ""
        },
        ..ask(op, resource, ns, name)
    };
    let approve = || of(&jane, Operation::Update, requests, "approval", "", "c");
    let sign = || of(&jane, Operation::Update, requests, "status", "", "c");
    let issue = || {
        let sub = "token";
        of(
            &node_user(),
            Operation::Create,
            "serviceaccounts",
            sub,
            "golden",
            "default",
        )
    };
    for (allowed, ask, new, good) in [
        (
            signers("approve", "example.com/s"),
            approve(),
            &approved,
            true,
        ),
        (
            signers("approve", "example.com/*"),
            approve(),
            &approved,
            true,
        ),
        (
            signers("approve", "example.com/t"),
            approve(),
            &approved,
            false,
        ),
        (
            signers("sign", "example.com/s"),
            approve(),
            &approved,
            false,
        ),
        (signers("sign", "example.com/s"), sign(), &signed, true),
        (signers("sign", "example.com/*"), sign(), &approved, true),
        (signers("approve", "example.com/s"), sign(), &signed, false),
        (
            signers("sign", "other.com/s"),
            sign(),
            &csr(json!({})),
            true,
        ),
        (audience.clone(), issue(), &token, true),
        (signers("sign", "example.com/s"), issue(), &token, false),
    ] {
        let told = format!("{allowed:?} {} {}", ask.resource, ask.sub);
        let deps = Deps::new(Arc::new(Only(allowed)));
        let chain = Chain::new(&["NodeRestriction".into()], &[], &deps).unwrap();
        let a = Attributes {
            operation: ask.op,
            user: &ask.user,
            group: ask.group,
            version: "v1",
            resource: ask.resource,
            subresource: ask.sub,
            kind: "",
            namespace: ask.ns,
            name: ask.name,
            dry_run: false,
            reader: &c,
        };
        let mut object = new.clone();
        let old = csr(json!({}));
        let admitted = chain.admit(&a, Some(&mut object), Some(&old)).await;
        let got = match admitted {
            Ok(()) => chain.validate(&a, Some(&object), Some(&old)).await,
            refused => refused,
        };
        assert_eq!(got.is_ok(), good, "{told}: {got:?}");
    }
}
