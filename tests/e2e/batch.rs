//! Jobs, from their schedules and pods to their conditions.

use crate::cluster::{Cluster, Namespace, condition, name, seconds, wait_for};
use serde_json::Value;

fn job(cluster: &Cluster, space: &Namespace, name: &str, spec: &str, command: &str) {
    cluster.apply(&format!(
        "apiVersion: batch/v1
kind: Job
metadata: {{name: {name}, namespace: {}}}
spec:
{spec}
  template:
    spec:
      restartPolicy: Never
      containers: [{{name: c, image: 'keelson.local/busybox:1', command: [sh, -c, '{command}']}}]
",
        space.name
    ));
}

fn wait_over(space: &Namespace, name: &str, kind: &str) -> Value {
    wait_for(&format!("job {name} is {kind}"), seconds(60), || {
        let job = space.json(&["get", "job", name]);
        match condition(&job, kind) {
            "True" => Ok(job),
            _ => Err(job["status"].to_string()),
        }
    })
}

/// The pods of a job, none of which is held by a finalizer.
fn pods(space: &Namespace, job: &str) -> Vec<Value> {
    let selector = format!("batch.kubernetes.io/job-name={job}");
    let list = space.json(&["get", "pods", "-l", &selector]);
    let pods = list["items"].as_array().unwrap().clone();
    for p in &pods {
        assert_eq!(p["metadata"]["finalizers"], Value::Null, "{p}");
    }
    pods
}

pub fn to_their_end(cluster: &Cluster) {
    let space = cluster.namespace("jobs");
    job(
        cluster,
        &space,
        "plain",
        "  completions: 3\n  parallelism: 2",
        "echo done",
    );
    let done = wait_over(&space, "plain", "Complete");
    assert_eq!(done["status"]["succeeded"], 3);
    assert_eq!(done["status"]["ready"], 0);
    assert_eq!(
        done["status"]["uncountedTerminatedPods"],
        serde_json::json!({})
    );
    assert!(done["status"]["completionTime"].is_string());
    assert_eq!(pods(&space, "plain").len(), 3);
    assert_eq!(space.kubectl(&["logs", "job/plain"]).trim(), "done");

    job(
        cluster,
        &space,
        "indexed",
        "  completions: 4\n  parallelism: 4\n  completionMode: Indexed\n  backoffLimitPerIndex: 0",
        "echo $HOSTNAME $JOB_COMPLETION_INDEX; [ $JOB_COMPLETION_INDEX != 2 ]",
    );
    let failed = wait_over(&space, "indexed", "Failed");
    let status = &failed["status"];
    assert_eq!(
        (&status["completedIndexes"], &status["failedIndexes"]),
        (&"0,1,3".into(), &"2".into())
    );
    assert_eq!(
        (&status["succeeded"], &status["failed"]),
        (&3.into(), &1.into())
    );
    let reasons: Vec<&Value> = status["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["reason"])
        .collect();
    assert_eq!(reasons, ["FailedIndexes", "FailedIndexes"]);
    for p in pods(&space, "indexed") {
        let index = p["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]
            .as_str()
            .unwrap();
        let said = space.kubectl(&["logs", name(&p)]);
        assert_eq!(said.trim(), format!("indexed-{index} {index}"));
    }

    job(cluster, &space, "failing", "  backoffLimit: 0", "exit 3");
    let failed = wait_over(&space, "failing", "Failed");
    assert_eq!(failed["status"]["failed"], 1);

    let policy = "  backoffLimit: 0
  podFailurePolicy:
    rules: [{action: FailJob, onExitCodes: {operator: In, values: [42]}}]";
    job(cluster, &space, "policy", policy, "exit 42");
    let failed = wait_over(&space, "policy", "Failed");
    let told = failed["status"]["conditions"].to_string();
    assert!(
        told.contains("failed with exit code 42 matching FailJob rule at index 0"),
        "{told}"
    );

    job(cluster, &space, "late", "  suspend: true", "echo late");
    wait_for("the job is suspended", seconds(20), || {
        let job = space.json(&["get", "job", "late"]);
        match condition(&job, "Suspended") {
            "True" => Ok(()),
            _ => Err(job["status"].to_string()),
        }
    });
    assert!(pods(&space, "late").is_empty());
    space.kubectl(&[
        "patch",
        "job/late",
        "--type=merge",
        "-p",
        r#"{"spec":{"suspend":false}}"#,
    ]);
    wait_over(&space, "late", "Complete");

    // What runs long is ended with its job, and nothing holds its pods.
    job(
        cluster,
        &space,
        "long",
        "  activeDeadlineSeconds: 3600",
        "trap : TERM; sleep 3600 & wait",
    );
    wait_for("the long one runs", seconds(30), || {
        let job = space.json(&["get", "job", "long"]);
        match &job["status"]["ready"] {
            ready if *ready == 1 => Ok(()),
            _ => Err(job["status"].to_string()),
        }
    });
    space.kubectl(&["delete", "job", "--all", "--wait=true"]);
    space.wait_pods(0, seconds(60));
}

pub fn replication_controllers(cluster: &Cluster) {
    let space = cluster.namespace("controllers");
    let manifest = format!(
        "apiVersion: v1
kind: ReplicationController
metadata: {{name: old, namespace: {}}}
spec:
  replicas: 2
  selector: {{app: old}}
  template:
    metadata: {{labels: {{app: old}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{{name: c, image: 'keelson.local/pause:1'}}]
",
        space.name
    );
    cluster.apply(&manifest);
    let names = |count| {
        let mut names: Vec<String> = space
            .wait_pods(count, seconds(60))
            .iter()
            .map(|p| name(p).to_owned())
            .collect();
        names.sort();
        names
    };
    let before = names(2);
    // Its pods outlive it and are taken over by the next one, which makes none of its own.
    space.kubectl(&["delete", "rc", "old", "--cascade=orphan"]);
    cluster.apply(&manifest);
    wait_for("the pods are adopted", seconds(30), || {
        let rc = space.json(&["get", "rc", "old"]);
        let uid = &rc["metadata"]["uid"];
        let pods = space.pods();
        let own = pods
            .iter()
            .filter(|p| p["metadata"]["ownerReferences"][0]["uid"] == *uid)
            .count();
        if own == 2 && rc["status"]["readyReplicas"] == 2 {
            Ok(())
        } else {
            Err(format!("{own} of {}, {}", pods.len(), rc["status"]))
        }
    });
    assert_eq!(names(2), before);
    let events = space.json(&["get", "events", "--field-selector=reason=SuccessfulCreate"]);
    assert_eq!(events["items"].as_array().unwrap().len(), 2, "{events}");
    space.kubectl(&["scale", "rc/old", "--replicas=1"]);
    names(1);
}

pub fn cron_jobs(cluster: &Cluster) {
    let space = cluster.namespace("cron");
    // Each minute, told in a zone that is not the machine's.
    cluster.apply(&format!(
        "apiVersion: batch/v1
kind: CronJob
metadata: {{name: tick, namespace: {}}}
spec:
  schedule: '* * * * *'
  timeZone: Asia/Kathmandu
  concurrencyPolicy: Forbid
  successfulJobsHistoryLimit: 1
  jobTemplate:
    spec:
      ttlSecondsAfterFinished: 600
      template:
        spec:
          restartPolicy: Never
          containers: [{{name: c, image: 'keelson.local/busybox:1', command: [sh, -c, 'echo tick']}}]
",
        space.name
    ));
    // By hand as well, and gone by itself soon after it ended.
    space.kubectl(&["create", "job", "--from=cronjob/tick", "by-hand"]);
    let job = space.json(&["get", "job", "by-hand"]);
    assert_eq!(
        job["metadata"]["annotations"]["cronjob.kubernetes.io/instantiate"],
        "manual"
    );
    space.kubectl(&[
        "patch",
        "job/by-hand",
        "--type=merge",
        "-p",
        r#"{"spec":{"ttlSecondsAfterFinished":1}}"#,
    ]);
    wait_for("the job made by hand is gone", seconds(60), || match space
        .try_kubectl(&["get", "job", "by-hand"])
    {
        Err(e) if e.contains("NotFound") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let tick = wait_for("the schedule was kept", seconds(90), || {
        let tick = space.json(&["get", "cronjob", "tick"]);
        let status = &tick["status"];
        let (last, none) = (&status["lastScheduleTime"], status["active"].is_null());
        match (last, &status["lastSuccessfulTime"]) {
            (Value::String(at), Value::String(ended)) if none && ended >= at => Ok(tick),
            _ => Err(status.to_string()),
        }
    });
    let last = tick["status"]["lastScheduleTime"].as_str().unwrap();
    assert!(last.ends_with(":00Z"), "{last}");
    let jobs = space.json(&["get", "jobs"]);
    let made = jobs["items"].as_array().unwrap();
    let of = &made[0]["metadata"];
    assert!(name(&made[0]).starts_with("tick-"));
    assert_eq!(of["ownerReferences"][0]["kind"], "CronJob");
    space.kubectl(&[
        "patch",
        "cronjob/tick",
        "--type=merge",
        "-p",
        r#"{"spec":{"suspend":true}}"#,
    ]);
    space.kubectl(&["delete", "cronjob", "tick", "--cascade=foreground"]);
    space.wait_pods(0, seconds(60));
}
