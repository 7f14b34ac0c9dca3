//! Claims, volumes and pods for tests, and the way of pods that wait for their volumes.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Change, News};
use crate::framework::{ClusterEvent, Plugin, Refusal};
use crate::nodes::NodeTable;
use crate::pod::{Classes, Pod};
use crate::view::{NodeView, PodView};

/// An object as an apiserver shows it.
pub(crate) fn object<T: DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

pub(crate) fn merged(mut a: Value, b: Value) -> Value {
    fn merge(a: &mut Value, b: Value) {
        match (a, b) {
            (Value::Object(a), Value::Object(b)) => {
                for (k, v) in b {
                    merge(a.entry(k).or_insert(Value::Null), v);
                }
            }
            (a, b) => *a = b,
        }
    }
    merge(&mut a, b);
    a
}

/// A claim of `default` for 1Gi; bound when it names a volume.
pub(crate) fn claim(name: &str, class: &str, volume: &str) -> Value {
    let mut claim = json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "resourceVersion": "1"},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": class,
            "resources": {"requests": {"storage": "1Gi"}},
        },
        "status": {"phase": "Pending"},
    });
    if !volume.is_empty() {
        let bound = json!({
            "metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
            "spec": {"volumeName": volume}, "status": {"phase": "Bound"},
        });
        claim = merged(claim, bound);
    }
    claim
}

/// A free volume, on nodes whose `host` is this one, or anywhere.
pub(crate) fn volume(name: &str, class: &str, size: &str, host: &str) -> Value {
    let mut volume = json!({
        "metadata": {"name": name, "uid": format!("uid-{name}"), "resourceVersion": "1"},
        "spec": {
            "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": class,
        },
        "status": {"phase": "Available"},
    });
    if !host.is_empty() {
        let term =
            json!({"matchExpressions": [{"key": "host", "operator": "In", "values": [host]}]});
        let affinity = json!({"required": {"nodeSelectorTerms": [term]}});
        volume = merged(volume, json!({"spec": {"nodeAffinity": affinity}}));
    }
    volume
}

pub(crate) fn class(name: &str, mode: &str, provisioner: &str) -> Value {
    json!({"metadata": {"name": name}, "volumeBindingMode": mode, "provisioner": provisioner})
}

/// `(Kind, object)` as a change.
pub(crate) fn change(kind: &str, value: Value) -> Change {
    match kind {
        "claim" => Change::Claim(object(value)),
        "volume" => Change::Volume(object(value)),
        "class" => Change::Class(object(value)),
        "csinode" => Change::CsiNode(object(value)),
        "driver" => Change::Driver(object(value)),
        "capacity" => Change::Capacity(object(value)),
        "attachment" => Change::Attachment(object(value)),
        other => panic!("{other}"),
    }
}

pub(crate) fn node(name: &str, labels: Value) -> Arc<NodeView> {
    let labels = merged(json!({"host": name}), labels);
    object(json!({
        "metadata": {"name": name, "labels": labels},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}},
    }))
}

/// A pod of `default` with these volumes.
pub(crate) fn pod_view(uid: &str, volumes: Value) -> Arc<PodView> {
    object(json!({
        "metadata": {"name": uid, "namespace": "default", "uid": uid},
        "spec": {"schedulerName": "default-scheduler", "containers": [{"image": "i"}], "volumes": volumes},
    }))
}

pub(crate) fn pod(uid: &str, volumes: Value) -> Pod {
    Classes::default().pod(pod_view(uid, volumes))
}

/// Volumes of a pod: one per claim.
pub(crate) fn uses(claims: &[&str]) -> Value {
    let of = |c: &&str| json!({"name": c, "persistentVolumeClaim": {"claimName": c}});
    claims.iter().map(of).collect()
}

/// A table with nodes `a` and `b` and what else there is.
pub(crate) fn table(objects: &[(&str, Value)]) -> NodeTable {
    let mut t = NodeTable::default();
    for name in ["a", "b"] {
        t.upsert_node(&node(name, json!({})));
    }
    for (kind, value) in objects {
        t.storage.apply(change(kind, value.clone()));
    }
    t
}

/// What a plugin says of a pod on a node; empty when it may run there.
pub(crate) fn verdict(plugin: &Plugin, pod: &Pod, t: &NodeTable, node: &str) -> String {
    match plugin.pre_filter.map_or(Ok(()), |check| check(pod, t)) {
        Err(Refusal::Unfit(reason)) => {
            assert!(!reason.resolvable);
            return reason.text;
        }
        Err(Refusal::Error(why)) => return format!("error: {why}"),
        Ok(()) => {}
    }
    let filter = plugin.filter.as_ref().unwrap().get();
    if !filter.relevant(pod) {
        return String::new();
    }
    let reasons = filter.explain(pod, t, t.find(node).unwrap());
    let texts: Vec<String> = reasons.into_iter().map(|r| r.text).collect();
    texts.join(", ")
}

/// Whether what happened wakes a pod that the plugin refused. `old` is there when the object was.
pub(crate) fn wakes(
    plugin: &Plugin,
    pod: &Pod,
    kind: &str,
    old: Option<Value>,
    new: Value,
) -> bool {
    let mut t = table(&[]);
    if let Some(old) = old {
        t.storage.apply(change(kind, old));
    }
    let news: Option<News> = t.storage.apply(change(kind, new));
    news.is_some_and(|news| (plugin.hint)(&ClusterEvent::Storage(&news), pod, &t))
}

mod flow;

#[test]
fn a_pods_volumes_are_kept_where_they_matter() {
    let p = pod(
        "p",
        json!([
            {"name": "x", "emptyDir": {}},
            {"name": "c", "persistentVolumeClaim": {"claimName": "one"}},
            {"name": "again", "persistentVolumeClaim": {"claimName": "one"}},
            {"name": "e", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
            {"name": "s", "secret": {"secretName": "s"}},
        ]),
    );
    assert_eq!(p.view.spec.volumes.len(), 3);
    let claims: Vec<_> = p
        .usage
        .claims
        .iter()
        .map(|c| (c.key.as_str(), c.ephemeral))
        .collect();
    assert_eq!(claims, [("default/one", false), ("default/p-e", true)]);
    let none = pod("q", json!([{"name": "x", "emptyDir": {}}]));
    assert_eq!(
        (
            none.usage.claims.capacity(),
            none.view.spec.volumes.capacity()
        ),
        (0, 0)
    );
}

#[test]
fn indexes_follow_what_changes() {
    let mut t = table(&[("volume", volume("v", "x", "1Gi", ""))]);
    let names = |t: &NodeTable, class: &str| t.storage.volumes_of(class).count();
    assert_eq!((names(&t, "x"), names(&t, "y")), (1, 0));
    t.storage
        .apply(change("volume", volume("v", "y", "1Gi", "")));
    assert_eq!((names(&t, "x"), names(&t, "y")), (0, 1));
    t.storage.apply(Change::VolumeGone("v".into()));
    assert_eq!((names(&t, "x"), names(&t, "y")), (0, 0));
    let attached = json!({"metadata": {"name": "x"}, "spec": {"attacher": "d", "nodeName": "a"}});
    t.storage.apply(change("attachment", attached));
    assert_eq!(t.storage.attached_to("a").count(), 1);
    t.storage.apply(Change::AttachmentGone("x".into()));
    assert_eq!(t.storage.attached_to("a").count(), 0);
    let p = pod("p", uses(&["c"]));
    t.place(&p, "a");
    t.place(&p, "b");
    assert_eq!(t.storage.users("default/c"), 1);
    t.remove_pod("p");
    assert_eq!(t.storage.users("default/c"), 0);
}
