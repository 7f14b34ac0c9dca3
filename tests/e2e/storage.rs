//! Claims, the volumes they are bound to, and the pods that use them.

use crate::cluster::{Cluster, Namespace, seconds, wait_for};

/// A pod that runs a command with the claim `data` mounted at /data, on a node.
fn pod(cluster: &Cluster, namespace: &str, name: &str, node: &str, command: &str) {
    cluster.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  nodeSelector: {{kubernetes.io/hostname: {node}}}
  securityContext: {{runAsUser: 1000, fsGroup: 2000}}
  containers:
  - name: c
    image: 'keelson.local/busybox:1'
    command: [sh, -c, '{command}']
    volumeMounts: [{{name: d, mountPath: /data}}]
  volumes: [{{name: d, persistentVolumeClaim: {{claimName: data}}}}]
"
    ));
}

/// A pod stays where it is and its condition says why.
fn told(space: &Namespace<'_>, pod: &str, why: &str) {
    wait_for(&format!("{pod} is told why"), seconds(60), || {
        let pod = space.json(&["get", "pod", pod]);
        let conditions = pod["status"]["conditions"].to_string();
        if pod["status"]["phase"] == "Pending" && conditions.contains(why) {
            Ok(())
        } else {
            Err(pod["status"].to_string())
        }
    });
}

pub fn claims(cluster: &Cluster) {
    let space = cluster.namespace("claims");
    let kept = tempfile::tempdir_in(cluster.file(".")).unwrap();
    let folder = kept.path();
    cluster.apply(&format!(
        "apiVersion: v1
kind: PersistentVolume
metadata: {{name: of-claims}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: manual
  local: {{path: '{}'}}
  nodeAffinity:
    required:
      nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [node-2]}}]}}]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: data, namespace: {}}}
spec: {{accessModes: [ReadWriteOnce], storageClassName: manual, resources: {{requests: {{storage: 500Mi}}}}}}
",
        folder.display(),
        space.name
    ));
    let phase = |kind: &str, name: &str, want: &str| {
        wait_for(&format!("{kind} {name} is {want}"), seconds(30), || {
            let object = space.json(&["get", kind, name]);
            if object["status"]["phase"] == want {
                Ok(object)
            } else {
                Err(object["status"].to_string())
            }
        })
    };
    let claim = phase("pvc", "data", "Bound");
    assert_eq!(claim["spec"]["volumeName"], "of-claims");
    assert_eq!(claim["status"]["capacity"]["storage"], "1Gi");
    phase("pv", "of-claims", "Bound");

    pod(
        cluster,
        space.name,
        "writer",
        "node-2",
        "id -G; echo kept > /data/f",
    );
    phase("pod", "writer", "Succeeded");
    assert!(space.kubectl(&["logs", "writer"]).contains("2000"));
    assert_eq!(std::fs::read_to_string(folder.join("f")).unwrap(), "kept\n");
    pod(cluster, space.name, "reader", "node-2", "cat /data/f");
    phase("pod", "reader", "Succeeded");
    assert_eq!(space.kubectl(&["logs", "reader"]), "kept\n");

    // Another node has another directory of that name, or none: nobody is placed there, and who places himself gets nothing.
    pod(cluster, space.name, "elsewhere", "node-1", "cat /data/f");
    told(
        &space,
        "elsewhere",
        "1 node(s) didn't match PersistentVolume's node affinity",
    );
    cluster.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: placed, namespace: {}}}
spec:
  nodeName: node-1
  restartPolicy: Never
  containers: [{{name: c, image: 'keelson.local/busybox:1', volumeMounts: [{{name: d, mountPath: /data}}]}}]
  volumes: [{{name: d, persistentVolumeClaim: {{claimName: data}}}}]
",
        space.name
    ));
    wait_for("the other node refuses the volume", seconds(60), || {
        let events = space.json(&["get", "events", "--field-selector=reason=FailedMount"]);
        let text = events.to_string();
        if text.contains("node affinity of PV of-claims does not allow it on this node") {
            Ok(())
        } else {
            Err(text)
        }
    });

    // What a pod uses stays until the pod is gone, and the pod goes on with it; then the volume is released, and keeps what
    // it holds.
    cluster.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: holder, namespace: {}}}
spec:
  terminationGracePeriodSeconds: 0
  nodeSelector: {{kubernetes.io/hostname: node-2}}
  containers:
  - name: c
    image: 'keelson.local/busybox:1'
    command: [sh, -c, 'trap exit TERM; sleep 3600 & wait']
    volumeMounts: [{{name: d, mountPath: /data}}]
  volumes: [{{name: d, persistentVolumeClaim: {{claimName: data}}}}]
",
        space.name
    ));
    let restarted = |times: i64| {
        wait_for(
            &format!("holder runs, {times} restarts"),
            seconds(60),
            || {
                let pod = space.json(&["get", "pod", "holder"]);
                let c = &pod["status"]["containerStatuses"][0];
                if c["ready"] == true && c["restartCount"] == times {
                    Ok(())
                } else {
                    Err(pod["status"].to_string())
                }
            },
        );
    };
    restarted(0);
    space.kubectl(&["delete", "pvc", "data", "--wait=false"]);
    // The command may end with the container.
    let _ = space.try_kubectl(&["exec", "holder", "--", "kill", "1"]);
    restarted(1);
    assert!(space.json(&["get", "pvc", "data"])["metadata"]["deletionTimestamp"].is_string());
    space.kubectl(&["delete", "pod", "--all"]);
    phase("pv", "of-claims", "Released");
    assert!(folder.join("f").exists());
    cluster.kubectl(&["delete", "pv", "of-claims"]);
}

/// Claims that wait for a first consumer get the volume of the node that their pod is placed on.
pub fn late_binding(cluster: &Cluster) {
    let space = cluster.namespace("late-binding");
    let kept = tempfile::tempdir_in(cluster.file(".")).unwrap();
    cluster.apply(
        "apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: late}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
",
    );
    for node in ["node-1", "node-2"] {
        let folder = kept.path().join(node);
        std::fs::create_dir(&folder).unwrap();
        cluster.apply(&format!(
            "apiVersion: v1
kind: PersistentVolume
metadata: {{name: late-{node}}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: late
  local: {{path: '{}'}}
  nodeAffinity:
    required:
      nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [{node}]}}]}}]
",
            folder.display()
        ));
    }
    let claim = |name: &str| {
        cluster.apply(&format!(
            "apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: {name}, namespace: {}}}
spec: {{accessModes: [ReadWriteOnce], storageClassName: late, resources: {{requests: {{storage: 1Mi}}}}}}
",
            space.name
        ));
    };
    let user = |name: &str, claim: &str, node: &str| {
        let selector = match node {
            "" => String::new(),
            node => format!("nodeSelector: {{kubernetes.io/hostname: {node}}}"),
        };
        cluster.apply(&format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {}, labels: {{app: late}}}}
spec:
  terminationGracePeriodSeconds: 0
  {selector}
  affinity:
    podAntiAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
      - {{topologyKey: kubernetes.io/hostname, labelSelector: {{matchLabels: {{app: late}}}}}}
  containers:
  - name: c
    image: 'keelson.local/busybox:1'
    command: [sh, -c, 'hostname > /data/f; trap exit TERM; sleep 3600 & wait']
    volumeMounts: [{{name: d, mountPath: /data}}]
  volumes: [{{name: d, persistentVolumeClaim: {{claimName: {claim}}}}}]
",
            space.name
        ));
    };
    for name in ["one", "two"] {
        claim(name);
    }
    wait_for("claims wait for pods", seconds(30), || {
        let events = space.json(&[
            "get",
            "events",
            "--field-selector=reason=WaitForFirstConsumer",
        ]);
        match events["items"].as_array().map(Vec::len) {
            Some(n) if n >= 2 => Ok(()),
            _ => Err(events.to_string()),
        }
    });
    for name in ["one", "two"] {
        assert_eq!(
            space.json(&["get", "pvc", name])["status"]["phase"],
            "Pending"
        );
        user(name, name, "");
    }
    let mut nodes = Vec::new();
    for name in ["one", "two"] {
        let node = wait_for(&format!("{name} runs"), seconds(90), || {
            let pod = space.json(&["get", "pod", name]);
            match pod["spec"]["nodeName"].as_str() {
                Some(node) if pod["status"]["phase"] == "Running" => Ok(node.to_owned()),
                _ => Err(pod["status"].to_string()),
            }
        });
        let claim = space.json(&["get", "pvc", name]);
        assert_eq!(claim["spec"]["volumeName"], format!("late-{node}").as_str());
        assert_eq!(claim["status"]["phase"], "Bound");
        wait_for(&format!("{name} writes"), seconds(30), || {
            std::fs::read_to_string(kept.path().join(&node).join("f")).map_err(|e| e.to_string())
        });
        nodes.push(node);
    }
    nodes.sort();
    assert_eq!(nodes, ["node-1", "node-2"]);

    // No volume is left for a third; and a bound claim takes its pod to its node.
    claim("three");
    user("three", "three", "");
    told(
        &space,
        "three",
        "node(s) didn't find available persistent volumes to bind",
    );
    space.kubectl(&["delete", "pod", "--all"]);
    let of_one = space.json(&["get", "pvc", "one"])["spec"]["volumeName"].clone();
    let other = if of_one == "late-node-1" {
        "node-2"
    } else {
        "node-1"
    };
    user("astray", "one", other);
    told(
        &space,
        "astray",
        "node(s) didn't match PersistentVolume's node affinity",
    );
    space.kubectl(&["delete", "pod", "--all"]);
    space.kubectl(&["delete", "pvc", "--all"]);
    cluster.kubectl(&["delete", "pv", "late-node-1", "late-node-2"]);
    cluster.kubectl(&["delete", "storageclass", "late"]);
}
