//! Claims, the volumes they are bound to, and the pods that use them.

use crate::cluster::{Cluster, seconds, wait_for};

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

    // Another node has another directory of that name, or none.
    pod(cluster, space.name, "elsewhere", "node-1", "cat /data/f");
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
