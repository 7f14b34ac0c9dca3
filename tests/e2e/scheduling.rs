//! Where pods go, and what a pod that fits nowhere says.

use crate::cluster::{Cluster, Namespace, seconds, wait_for};
use serde_json::Value;

fn pod(cluster: &Cluster, space: &Namespace, name: &str, spec: &str) {
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {}}}\nspec:\n  terminationGracePeriodSeconds: 0\n{spec}\n",
        space.name
    ));
}

const CONTAINER: &str = "  containers: [{name: c, image: 'keelson.local/pause:1'}]";

fn node_of(space: &Namespace, name: &str) -> String {
    wait_for(&format!("{name} is placed"), seconds(30), || {
        let pod = space.json(&["get", "pod", name]);
        pod["spec"]["nodeName"]
            .as_str()
            .map(str::to_string)
            .ok_or_else(|| pod["status"].to_string())
    })
}

fn why_not(space: &Namespace, name: &str) -> String {
    wait_for(
        &format!("{name} says why it is not placed"),
        seconds(30),
        || {
            let pod = space.json(&["get", "pod", name]);
            let conditions = pod["status"]["conditions"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let scheduled = conditions.iter().find(|c| {
                c["type"] == "PodScheduled"
                    && c["status"] == "False"
                    && c["reason"] == "Unschedulable"
            });
            scheduled
                .and_then(|c| c["message"].as_str())
                .map(str::to_string)
                .ok_or_else(|| Value::Array(conditions.clone()).to_string())
        },
    )
}

pub fn constraints(cluster: &Cluster) {
    let space = cluster.namespace("constraints");
    cluster.kubectl(&["label", "node", "node-2", "disk=ssd"]);
    cluster.kubectl(&["taint", "node", "node-3", "team=other:NoSchedule"]);
    pod(
        cluster,
        &space,
        "selector",
        &format!("  nodeSelector: {{disk: ssd}}\n{CONTAINER}"),
    );
    assert_eq!(node_of(&space, "selector"), "node-2");
    let required = "  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms: [{matchExpressions: [{key: disk, operator: DoesNotExist}, {key: kubernetes.io/hostname, operator: NotIn, values: [node-1]}]}]
  tolerations: [{key: team, operator: Equal, value: other, effect: NoSchedule}]";
    pod(
        cluster,
        &space,
        "required",
        &format!("{required}\n{CONTAINER}"),
    );
    assert_eq!(node_of(&space, "required"), "node-3");
    let preferred = "  affinity:
    nodeAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
      - {weight: 100, preference: {matchExpressions: [{key: disk, operator: In, values: [ssd]}]}}";
    pod(
        cluster,
        &space,
        "preferred",
        &format!("{preferred}\n{CONTAINER}"),
    );
    assert_eq!(node_of(&space, "preferred"), "node-2");
    let only_tainted = "  nodeSelector: {kubernetes.io/hostname: node-3}";
    pod(
        cluster,
        &space,
        "intolerant",
        &format!("{only_tainted}\n{CONTAINER}"),
    );
    let message = why_not(&space, "intolerant");
    assert!(
        message.starts_with("0/3 nodes are available: "),
        "{message}"
    );
    assert!(
        message.contains("1 node(s) had untolerated taint"),
        "{message}"
    );
    assert!(
        message.contains("2 node(s) didn't match Pod's node affinity/selector"),
        "{message}"
    );
    // A taint taken away lets the waiting pod in.
    cluster.kubectl(&["taint", "node", "node-3", "team-"]);
    assert_eq!(node_of(&space, "intolerant"), "node-3");
    cluster.kubectl(&["label", "node", "node-2", "disk-"]);
    cluster.kubectl(&["cordon", "node-2"]);
    pod(
        cluster,
        &space,
        "cordoned",
        &format!("  nodeSelector: {{kubernetes.io/hostname: node-2}}\n{CONTAINER}"),
    );
    let message = why_not(&space, "cordoned");
    assert!(
        message.contains("1 node(s) were unschedulable"),
        "{message}"
    );
    cluster.kubectl(&["uncordon", "node-2"]);
    assert_eq!(node_of(&space, "cordoned"), "node-2");
}

pub fn fits_nowhere(cluster: &Cluster) {
    let space = cluster.namespace("too-big");
    pod(
        cluster,
        &space,
        "big",
        "  containers: [{name: c, image: 'keelson.local/pause:1', resources: {requests: {cpu: '1000'}}}]",
    );
    let message = why_not(&space, "big");
    assert!(
        message.starts_with("0/3 nodes are available: 3 Insufficient cpu."),
        "{message}"
    );
    let event = wait_for("the event", seconds(20), || {
        let events = space.json(&[
            "get",
            "events",
            "--field-selector=involvedObject.name=big,reason=FailedScheduling",
        ]);
        events["items"]
            .as_array()
            .unwrap()
            .first()
            .cloned()
            .ok_or_else(|| "no event".to_string())
    });
    assert_eq!(event["message"].as_str().unwrap(), message);
}

pub fn most_room(cluster: &Cluster) {
    let space = cluster.namespace("room");
    // Fills node-1 and node-2 to half of their processors; node-3 is then the one with most room left.
    for (name, node) in [("fill-1", "node-1"), ("fill-2", "node-2")] {
        let spec = format!(
            "  nodeSelector: {{kubernetes.io/hostname: {node}}}\n  containers: [{{name: c, image: 'keelson.local/pause:1', resources: {{requests: {{cpu: '1', memory: 1Gi}}}}}}]"
        );
        pod(cluster, &space, name, &spec);
        assert_eq!(node_of(&space, name), node);
    }
    pod(
        cluster,
        &space,
        "next",
        "  containers: [{name: c, image: 'keelson.local/pause:1', resources: {requests: {cpu: 100m, memory: 64Mi}}}]",
    );
    assert_eq!(node_of(&space, "next"), "node-3");
}
