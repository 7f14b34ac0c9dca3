//! StatefulSets: identities, order, updates, and the claims that outlive pods.

use crate::cluster::{Cluster, Namespace, name, seconds, wait_for};
use serde_json::Value;

fn set(cluster: &Cluster, space: &Namespace, image: &str) {
    cluster.apply(&format!(
        "apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: db, namespace: {}}}
spec:
  replicas: 3
  serviceName: db
  selector: {{matchLabels: {{app: db}}}}
  template:
    metadata: {{labels: {{app: db}}}}
    spec:
      terminationGracePeriodSeconds: 1
      nodeSelector: {{kubernetes.io/hostname: node-2}}
      containers:
      - name: c
        image: '{image}'
        command: [sh, -c, 'echo $HOSTNAME >> /data/log; cat /data/log; trap exit TERM; sleep 3600 & wait']
        volumeMounts: [{{name: data, mountPath: /data}}]
  volumeClaimTemplates:
  - metadata: {{name: data}}
    spec: {{accessModes: [ReadWriteOnce], storageClassName: of-sets, resources: {{requests: {{storage: 1Mi}}}}}}
",
        space.name
    ));
}

fn names(pods: &[Value]) -> Vec<&str> {
    let mut names: Vec<&str> = pods.iter().map(name).collect();
    names.sort_unstable();
    names
}

fn uids(pods: &[Value]) -> Vec<&Value> {
    pods.iter().map(|p| &p["metadata"]["uid"]).collect()
}

/// Waits until all pods run an image, and the set says so.
fn wait_updated(space: &Namespace, image: &str) {
    wait_for(&format!("all run {image}"), seconds(90), || {
        let pods = space.pods();
        let new = pods
            .iter()
            .filter(|p| p["spec"]["containers"][0]["image"] == image);
        let (new, status) = (
            new.count(),
            space.json(&["get", "sts", "db"])["status"].clone(),
        );
        if new == 3
            && pods.len() == 3
            && status["updatedReplicas"] == 3
            && status["availableReplicas"] == 3
            && status["currentRevision"] == status["updateRevision"]
        {
            Ok(())
        } else {
            Err(format!("{new} of {}: {status}", pods.len()))
        }
    });
}

pub fn sets(cluster: &Cluster) {
    let space = cluster.namespace("sets");
    let kept = tempfile::tempdir_in(cluster.file(".")).unwrap();
    let folder = kept.path();
    for n in 0..3 {
        let path = folder.join(n.to_string());
        std::fs::create_dir_all(&path).unwrap();
        cluster.apply(&format!(
            "apiVersion: v1
kind: PersistentVolume
metadata: {{name: of-sets-{n}}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: of-sets
  local: {{path: '{}'}}
  nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [node-2]}}]}}]}}}}
",
            path.display()
        ));
    }
    set(cluster, &space, "keelson.local/busybox:1");
    let first = space.wait_pods(3, seconds(90));
    assert_eq!(names(&first), ["db-0", "db-1", "db-2"]);
    // One after the other, each when the one before was ready.
    for p in &first {
        assert_eq!(p["spec"]["hostname"], name(p));
        assert_eq!(p["spec"]["subdomain"], "db");
        let index = name(p).trim_start_matches("db-");
        assert_eq!(
            p["metadata"]["labels"]["apps.kubernetes.io/pod-index"],
            index
        );
    }
    let time = |p: &Value, kind: &str| {
        let conditions = p["status"]["conditions"].as_array().unwrap();
        let c = conditions.iter().find(|c| c["type"] == kind).unwrap();
        c["lastTransitionTime"].as_str().unwrap().to_owned()
    };
    for pair in first.windows(2) {
        assert!(
            pair[1]["metadata"]["creationTimestamp"].as_str().unwrap()
                >= time(&pair[0], "Ready").as_str()
        );
    }

    // A pod that goes comes back under its name, with what its volume holds.
    space.kubectl(&["delete", "pod", "db-1"]);
    wait_for("db-1 is another pod", seconds(60), || {
        let pods = space.wait_pods(3, seconds(60));
        let same = uids(&pods)
            .iter()
            .filter(|u| uids(&first).contains(*u))
            .count();
        if same == 2 {
            Ok(())
        } else {
            Err(format!("{same} are the same"))
        }
    });
    assert_eq!(space.kubectl(&["logs", "db-1"]), "db-1\ndb-1\n");

    // A revision that cannot run stops at the last pod.
    space.kubectl(&["set", "image", "sts/db", "c=keelson.local/none:1"]);
    wait_for("the last pod cannot start", seconds(60), || {
        let pod = space.json(&["get", "pod", "db-2"]);
        let waiting = pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
        if waiting.as_str().is_some_and(|r| r.contains("Image")) {
            Ok(())
        } else {
            Err(pod["status"].to_string())
        }
    });
    for n in ["db-0", "db-1"] {
        let pod = space.json(&["get", "pod", n]);
        assert_eq!(
            pod["spec"]["containers"][0]["image"],
            "keelson.local/busybox:1"
        );
    }
    space.kubectl(&["set", "image", "sts/db", "c=keelson.local/busybox:1"]);
    // As upstream's, a set in order waits for a pod that cannot run until somebody deletes it.
    space.kubectl(&["delete", "pod", "db-2"]);
    wait_updated(&space, "keelson.local/busybox:1");
    let revisions = space.json(&["get", "controllerrevisions"]);
    assert_eq!(revisions["items"].as_array().unwrap().len(), 2);

    // Down from the end; the claims stay, and are found again.
    space.kubectl(&["scale", "sts/db", "--replicas=1"]);
    assert_eq!(names(&space.wait_pods(1, seconds(60))), ["db-0"]);
    assert_eq!(
        space.json(&["get", "pvc"])["items"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    space.kubectl(&["scale", "sts/db", "--replicas=3"]);
    space.wait_pods(3, seconds(60));
    assert!(space.kubectl(&["logs", "db-2"]).lines().count() > 1);

    space.kubectl(&["delete", "sts", "db"]);
    space.wait_pods(0, seconds(60));
    space.kubectl(&["delete", "pvc", "--all"]);
    for n in 0..3 {
        cluster.kubectl(&["delete", "pv", &format!("of-sets-{n}")]);
    }
}
