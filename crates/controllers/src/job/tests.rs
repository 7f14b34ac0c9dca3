//! Jobs as tables, and a job run to its end by a controller that may fail between any two calls.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::{Time, view::print_time};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::backoff::Backoff;
use super::decide::{Action, Outcome, Pass, World};
use super::{FINALIZER, IGNORED_FAILURES, INDEX, INDEX_FAILURES, policy};
use crate::job::indexes::Indexes;
use crate::views::{Job, JobStatus, Pod};

fn at(s: i64) -> Time {
    Time::from_second(1_700_000_000 + s).unwrap()
}

fn job(spec: Value, status: Value) -> Job {
    let mut all = json!({
        "parallelism": 2, "completions": 4, "backoffLimit": 6,
        "selector": {"matchLabels": {"job": "j"}},
        "template": {"metadata": {"labels": {"job": "j"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}},
    });
    for (k, v) in spec.as_object().unwrap() {
        all[k] = v.clone();
    }
    serde_json::from_value(json!({
        "metadata": {"name": "j", "namespace": "n", "uid": "u", "generation": 1, "resourceVersion": "1"},
        "spec": all, "status": status,
    }))
    .unwrap()
}

fn indexed(mut spec: Value) -> Value {
    spec["completionMode"] = "Indexed".into();
    spec
}

/// A pod whose name says all: `run`, `pend`, `ok`, `bad`, `del` (being deleted), with `/INDEX`, `+` where it is ready, `-` where
/// it has no finalizer, and `@SECONDS` of its end.
fn pod(n: usize, text: &str) -> Pod {
    let (text, end) = text.split_once('@').unwrap_or((text, "0"));
    let (kind, index) = text.split_once('/').unwrap_or((text, ""));
    let flags = format!("{kind}{index}");
    let bare = |s: &str| s.replace(['+', '-'], "");
    let phase = match bare(kind).as_str() {
        "run" | "del" => "Running",
        "pend" => "Pending",
        "ok" => "Succeeded",
        "bad" => "Failed",
        other => panic!("{other}"),
    };
    let mut metadata = json!({"name": format!("p{n}"), "namespace": "n", "uid": format!("p{n}"), "creationTimestamp": print_time(at(0))});
    if !flags.contains('-') {
        metadata["finalizers"] = json!([FINALIZER]);
    }
    if !index.is_empty() {
        metadata["annotations"] = json!({INDEX: bare(index)});
    }
    if kind.starts_with("del") {
        metadata["deletionTimestamp"] = print_time(at(0)).into();
    }
    let end = at(end.parse().unwrap());
    let mut status = json!({"phase": phase});
    if phase == "Failed" || phase == "Succeeded" {
        status["containerStatuses"] = json!([{"name": "c", "state": {"terminated": {"exitCode": i32::from(phase == "Failed"), "finishedAt": print_time(end)}}}]);
    } else {
        let ready = if flags.contains('+') { "True" } else { "False" };
        status["conditions"] =
            json!([{"type": "Ready", "status": ready, "lastTransitionTime": print_time(at(0))}]);
    }
    serde_json::from_value(
        json!({"metadata": metadata, "spec": {"nodeName": "node"}, "status": status}),
    )
    .unwrap()
}

fn pods(texts: &[&str]) -> Vec<Arc<Pod>> {
    let pods = texts.iter().enumerate().map(|(n, t)| pod(n, t));
    pods.map(Arc::new).collect()
}

fn world<'a>(job: &'a Job, pods: Vec<Arc<Pod>>) -> World<'a> {
    World {
        job,
        pods,
        released: HashSet::new(),
        backoff: Backoff::default(),
        settled: true,
        now: at(100_000),
    }
}

fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
    pods.iter().map(|p| p.metadata.name.as_str()).collect()
}

/// What an action is, in short.
fn told(action: &Action) -> String {
    match action {
        Action::None => "nothing".into(),
        Action::Create(indexes) => {
            let index = |i: &Option<u32>| i.map_or("-".into(), |i| i.to_string());
            format!(
                "create {}",
                indexes.iter().map(index).collect::<Vec<_>>().join(" ")
            )
        }
        Action::Delete(pods) => format!("delete {}", names(pods).join(" ")),
        Action::End(pods) => format!("end {}", names(pods).join(" ")),
    }
    .trim()
    .to_owned()
}

/// The pods that an action creates.
fn made(pass: &Pass<'_>, action: &Action) -> Vec<Value> {
    match action {
        Action::Create(indexes) => indexes.iter().map(|i| pass.pod(*i)).collect(),
        other => panic!("{}", told(other)),
    }
}

/// All goes well: what was done, whose finalizers went, and the status.
fn run(job: &Job, pods: Vec<Arc<Pod>>) -> (String, Vec<String>, JobStatus, Vec<String>) {
    let (mut pass, action) = Pass::begin(world(job, pods));
    let outcome = match &action {
        Action::Delete(p) | Action::End(p) => Outcome {
            done: p.len(),
            ready: p.iter().filter(|p| p.is_ready()).count(),
        },
        Action::Create(p) => Outcome {
            done: p.len(),
            ready: 0,
        },
        Action::None => Outcome::default(),
    };
    pass.acted(&action, outcome);
    let (release, _) = pass.track();
    pass.released(&release.iter().map(|p| p.metadata.uid.clone()).collect());
    pass.finish();
    let events = pass.events.iter().map(|e| e.1.clone()).collect();
    let released = names(&release).into_iter().map(str::to_owned).collect();
    (told(&action), released, pass.status, events)
}

fn conditions(status: &JobStatus) -> Vec<String> {
    let text = |c: &crate::views::JobCondition| format!("{}={} {}", c.kind, c.status, c.reason);
    status.conditions.iter().map(text).collect()
}

#[test]
fn as_many_pods_as_are_missing() {
    for (what, spec, status, texts, want) in [
        ("at first", json!({}), json!({}), &[][..], "create - -"),
        ("one runs", json!({}), json!({}), &["run"], "create -"),
        ("all run", json!({}), json!({}), &["run", "pend"], "nothing"),
        (
            "one too many",
            json!({}),
            json!({}),
            &["run+", "pend", "run"],
            "delete p1",
        ),
        (
            "as many as are left",
            json!({}),
            json!({"succeeded": 3}),
            &[],
            "create -",
        ),
        (
            "the last ones run",
            json!({"parallelism": 5}),
            json!({"succeeded": 2}),
            &["run", "run"],
            "nothing",
        ),
        (
            "a success that is not counted yet",
            json!({}),
            json!({"succeeded": 2}),
            &["ok", "run"],
            "nothing",
        ),
        (
            "a success that is noted",
            json!({}),
            json!({"succeeded": 2, "uncountedTerminatedPods": {"succeeded": ["p0"]}}),
            &["ok", "run"],
            "nothing",
        ),
        (
            "no completions",
            json!({"completions": null}),
            json!({}),
            &["run"],
            "create -",
        ),
        (
            "no completions, after a success",
            json!({"completions": null}),
            json!({}),
            &["run", "ok"],
            "nothing",
        ),
        (
            "nothing in parallel",
            json!({"parallelism": 0}),
            json!({}),
            &["run"],
            "delete p0",
        ),
        (
            "more completions than it had",
            json!({"completions": 10}),
            json!({"succeeded": 4}),
            &[],
            "create - -",
        ),
        (
            "suspended",
            json!({"suspend": true}),
            json!({}),
            &["run+", "pend", "ok"],
            "delete p1 p0",
        ),
        (
            "suspended, nothing runs",
            json!({"suspend": true}),
            json!({}),
            &[],
            "delete",
        ),
        (
            "one is being deleted",
            json!({}),
            json!({}),
            &["del", "run"],
            "nothing",
        ),
        (
            "one that is being deleted is waited for",
            json!({"podReplacementPolicy": "Failed"}),
            json!({}),
            &["del", "run"],
            "nothing",
        ),
        (
            "huge",
            json!({"parallelism": i32::MAX, "completions": i32::MAX}),
            json!({}),
            &["run"],
            "500",
        ),
    ] {
        let job = job(spec, status);
        let (mut pass, action) = Pass::begin(world(&job, pods(texts)));
        let got = match &action {
            Action::Create(p) if p.len() > 10 => p.len().to_string(),
            _ => told(&action),
        };
        // A pod that failed now delays the next one.
        if what == "one is being deleted" {
            assert!(
                pass.again.is_none_or(|a| a <= Duration::from_secs(10)),
                "{what}"
            );
            let _ = pass.track();
            assert_eq!(got, "create -", "{what}: it counts as failed long ago");
            continue;
        }
        assert_eq!(got, want, "{what}");
    }
}

#[test]
fn nothing_is_made_while_the_cache_lags_or_the_job_goes() {
    let a = job(json!({}), json!({}));
    let lagging = World {
        settled: false,
        ..world(&a, pods(&["run"]))
    };
    assert_eq!(told(&Pass::begin(lagging).1), "nothing");
    let mut b = job(json!({}), json!({}));
    b.metadata.deletion_timestamp = Some(at(0));
    let (action, released, ..) = run(&b, pods(&["run", "ok", "bad"]));
    assert_eq!(
        (action.as_str(), released.len()),
        ("nothing", 3),
        "finalizers hold nothing up"
    );
}

#[test]
fn indexes_have_one_pod_each() {
    for (what, spec, status, texts, want) in [
        (
            "at first",
            json!({"parallelism": 3}),
            json!({}),
            &[][..],
            "create 0 1 2",
        ),
        (
            "holes are filled",
            json!({"parallelism": 3}),
            json!({}),
            &["run/1"],
            "create 0 2",
        ),
        (
            "what succeeded is not run again",
            json!({"parallelism": 3}),
            json!({"completedIndexes": "0,2", "succeeded": 2}),
            &[],
            "create 1 3",
        ),
        (
            "nor what has just succeeded",
            json!({"parallelism": 3}),
            json!({}),
            &["ok/0"],
            "create 1 2 3",
        ),
        (
            "twice",
            json!({"parallelism": 3}),
            json!({}),
            &["run/0", "run+/0", "run/1"],
            "delete p0",
        ),
        (
            "without and beyond",
            json!({"parallelism": 3}),
            json!({}),
            &["run", "run/9", "run/1"],
            "delete p0 p1",
        ),
        (
            "too many",
            json!({"parallelism": 1}),
            json!({}),
            &["pend/0", "run/1"],
            "delete p0",
        ),
        (
            "a made-up index",
            json!({"parallelism": 3}),
            json!({}),
            &["run/99999999999999", "run/1"],
            "delete p0",
        ),
        (
            "fewer completions than succeeded",
            json!({"completions": 2, "parallelism": 2}),
            json!({"completedIndexes": "0-3", "succeeded": 4}),
            &[],
            "nothing",
        ),
    ] {
        let job = job(indexed(spec), status);
        assert_eq!(
            told(&Pass::begin(world(&job, pods(texts))).1),
            want,
            "{what}"
        );
    }
}

#[test]
fn a_pod_knows_its_index() {
    let mut j = job(
        indexed(json!({"parallelism": 1, "backoffLimitPerIndex": 3})),
        json!({}),
    );
    j.metadata.name = "a".repeat(63);
    let (pass, action) = Pass::begin(world(&j, Vec::new()));
    let p = &made(&pass, &action)[0];
    let name = p["metadata"]["generateName"].as_str().unwrap();
    assert_eq!((name.len(), &name[54..]), (58, "a-0-"));
    assert_eq!(p["metadata"]["labels"], json!({"job": "j", INDEX: "0"}));
    assert_eq!(
        p["metadata"]["annotations"],
        json!({INDEX: "0", INDEX_FAILURES: "0"})
    );
    assert_eq!(p["metadata"]["finalizers"], json!([FINALIZER]));
    assert_eq!(p["spec"]["hostname"], format!("{}-0", j.metadata.name));
    assert_eq!(
        p["spec"]["containers"][0]["env"][0]["valueFrom"]["fieldRef"]["fieldPath"],
        format!("metadata.labels['{INDEX}']")
    );
    // A variable of its own stays.
    let own = json!([{"name": "JOB_COMPLETION_INDEX", "value": "x"}]);
    j.spec.template["spec"]["containers"][0]["env"] = own.clone();
    let (pass, action) = Pass::begin(world(&j, Vec::new()));
    assert_eq!(made(&pass, &action)[0]["spec"]["containers"][0]["env"], own);
}

#[test]
fn ended_pods_are_counted_when_their_finalizer_is_gone() {
    let a = job(json!({}), json!({"failed": 1}));
    let (mut pass, action) = Pass::begin(world(&a, pods(&["ok", "bad", "run", "ok-", "run"])));
    pass.acted(&action, Outcome::default());
    let (release, flush) = pass.track();
    assert!(flush);
    assert_eq!(names(&release), ["p0", "p1"]);
    let uncounted = pass.status.uncounted_terminated_pods.clone().unwrap();
    assert_eq!(
        (uncounted.succeeded, uncounted.failed),
        (vec!["p0".to_owned()], vec!["p1".to_owned()])
    );
    assert_eq!(
        (pass.status.succeeded, pass.status.failed),
        (0, 1),
        "noted, not counted"
    );
    assert!(pass.released(&HashSet::from(["p1".to_owned()])));
    assert_eq!((pass.status.succeeded, pass.status.failed), (0, 2));
    assert!(pass.finish(), "what is counted is written");
    let uncounted = pass.status.uncounted_terminated_pods.clone().unwrap();
    assert_eq!(uncounted.succeeded, ["p0"]);
    // The next pass finds the pod without its finalizer, or gone.
    let b = Job {
        status: pass.status,
        ..a.clone()
    };
    for texts in [&["ok-"][..], &[]] {
        let (_, released, status, _) = run(&b, pods(texts));
        assert!(released.is_empty());
        assert_eq!((status.succeeded, status.failed), (1, 2));
    }
    // Or with the finalizer, where the cache lags behind the removal.
    let lagging = World {
        released: HashSet::from(["p0".to_owned()]),
        ..world(&b, pods(&["ok"]))
    };
    let (mut pass, action) = Pass::begin(lagging);
    pass.acted(&action, Outcome::default());
    assert!(pass.track().0.is_empty());
    assert_eq!(pass.status.succeeded, 1);
}

#[test]
fn no_more_pods_are_noted_than_fit() {
    let a = job(json!({"completions": 2000, "parallelism": 1000}), json!({}));
    let texts = vec!["ok"; 1200];
    let (action, released, status, _) = run(&a, pods(&texts));
    assert_eq!(released.len(), 500);
    assert_eq!(status.succeeded, 500);
    assert_eq!(action.split(' ').count() - 1, 500);
    let b = job(json!({"completions": 600, "parallelism": 600}), json!({}));
    let (.., status, _) = run(&b, pods(&vec!["ok"; 600]));
    assert!(
        conditions(&status)
            .iter()
            .all(|c| !c.starts_with("Complete")),
        "100 are not counted yet"
    );
}

#[test]
fn how_jobs_end() {
    let policy = json!({"podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1]}}]}});
    for (what, spec, status, texts, action, want, events) in [
        (
            "enough succeeded",
            json!({}),
            json!({"succeeded": 3}),
            &["ok"][..],
            "nothing",
            &[
                "SuccessCriteriaMet=True CompletionsReached",
                "Complete=True CompletionsReached",
            ][..],
            &["Completed"][..],
        ),
        (
            "one still runs",
            json!({}),
            json!({"succeeded": 3}),
            &["ok", "run"],
            "delete p1",
            &["SuccessCriteriaMet=True CompletionsReached"],
            &[],
        ),
        (
            "more than enough",
            json!({}),
            json!({"succeeded": 4}),
            &["ok"],
            "nothing",
            &[
                "SuccessCriteriaMet=True CompletionsReached",
                "Complete=True CompletionsReached",
            ],
            &["TooManySucceededPods", "Completed"],
        ),
        (
            "any success",
            json!({"completions": null}),
            json!({}),
            &["ok"],
            "nothing",
            &[
                "SuccessCriteriaMet=True CompletionsReached",
                "Complete=True CompletionsReached",
            ],
            &["Completed"],
        ),
        (
            "no completions asked for",
            json!({"completions": 0}),
            json!({}),
            &[],
            "nothing",
            &[
                "SuccessCriteriaMet=True CompletionsReached",
                "Complete=True CompletionsReached",
            ],
            &["Completed"],
        ),
        (
            "too many failed",
            json!({"backoffLimit": 1}),
            json!({"failed": 1}),
            &["bad"],
            "end",
            &[
                "FailureTarget=True BackoffLimitExceeded",
                "Failed=True BackoffLimitExceeded",
            ],
            &["BackoffLimitExceeded"],
        ),
        (
            "too many failed, some run",
            json!({"backoffLimit": 0}),
            json!({}),
            &["bad", "run"],
            "end p1",
            &["FailureTarget=True BackoffLimitExceeded"],
            &[],
        ),
        (
            "as many failures as allowed",
            json!({"backoffLimit": 1}),
            json!({}),
            &["bad"],
            "create - -",
            &[],
            &[],
        ),
        (
            "it took too long",
            json!({"activeDeadlineSeconds": 10}),
            json!({"startTime": print_time(at(99_990))}),
            &[],
            "end",
            &[
                "FailureTarget=True DeadlineExceeded",
                "Failed=True DeadlineExceeded",
            ],
            &["DeadlineExceeded"],
        ),
        (
            "a deadline at its end",
            json!({"activeDeadlineSeconds": i64::MAX}),
            json!({"startTime": print_time(at(99_990))}),
            &[],
            "create - -",
            &[],
            &[],
        ),
        (
            "a policy",
            policy.clone(),
            json!({}),
            &["bad"],
            "end",
            &[
                "FailureTarget=True PodFailurePolicy",
                "Failed=True PodFailurePolicy",
            ],
            &["PodFailurePolicy"],
        ),
        (
            "what was decided stands",
            json!({}),
            json!({"conditions": [{"type": "FailureTarget", "status": "True", "reason": "PodFailurePolicy", "message": "m"}]}),
            &[],
            "end",
            &[
                "FailureTarget=True PodFailurePolicy",
                "Failed=True PodFailurePolicy",
            ],
            &["PodFailurePolicy"],
        ),
        (
            "success that was decided outlives failures",
            json!({"backoffLimit": 0}),
            json!({"conditions": [{"type": "SuccessCriteriaMet", "status": "True", "reason": "SuccessPolicy"}]}),
            &["bad"],
            "end",
            &[
                "SuccessCriteriaMet=True SuccessPolicy",
                "Complete=True SuccessPolicy",
            ],
            &["Completed"],
        ),
        (
            "pods that are being deleted are waited for",
            json!({}),
            json!({"succeeded": 4}),
            &["del"],
            "nothing",
            &["SuccessCriteriaMet=True CompletionsReached"],
            &[],
        ),
    ] {
        let job = job(spec, status);
        let (did, _, status, told) = run(&job, pods(texts));
        assert_eq!(did, action, "{what}");
        assert_eq!(conditions(&status), want, "{what}");
        assert_eq!(told, events, "{what}");
        let complete = want.iter().any(|c| c.starts_with("Complete"));
        assert_eq!(status.completion_time.is_some(), complete, "{what}");
    }
}

#[test]
fn indexed_jobs_end() {
    let rules = |rules: Value| json!({"successPolicy": {"rules": rules}, "parallelism": 4});
    for (what, spec, status, texts, want) in [
        (
            "all",
            json!({}),
            json!({"completedIndexes": "0-2"}),
            &["ok/3"][..],
            "Complete=True CompletionsReached",
        ),
        (
            "too many indexes failed",
            json!({"backoffLimitPerIndex": 0, "maxFailedIndexes": 1, "parallelism": 4}),
            json!({"failedIndexes": "0"}),
            &["bad/1"],
            "Failed=True MaxFailedIndexesExceeded",
        ),
        (
            "some failed, the others are done",
            json!({"backoffLimitPerIndex": 0, "parallelism": 4}),
            json!({"failedIndexes": "0", "completedIndexes": "1,2"}),
            &["ok/3"],
            "Failed=True FailedIndexes",
        ),
        (
            "one failed, others are left",
            json!({"backoffLimitPerIndex": 0, "parallelism": 4}),
            json!({}),
            &["bad/1"],
            "",
        ),
        (
            "a rule of indexes",
            rules(json!([{"succeededIndexes": "1-2"}])),
            json!({"completedIndexes": "1"}),
            &["ok/2"],
            "Complete=True SuccessPolicy",
        ),
        (
            "not all of them",
            rules(json!([{"succeededIndexes": "1-3"}])),
            json!({"completedIndexes": "1"}),
            &["ok/2"],
            "",
        ),
        (
            "enough of them",
            rules(json!([{"succeededIndexes": "1-3", "succeededCount": 2}])),
            json!({"completedIndexes": "1"}),
            &["ok/2"],
            "Complete=True SuccessPolicy",
        ),
        (
            "not enough of them",
            rules(json!([{"succeededIndexes": "1-3", "succeededCount": 2}])),
            json!({"completedIndexes": "0,1"}),
            &[],
            "",
        ),
        (
            "a count",
            rules(json!([{"succeededIndexes": "3"}, {"succeededCount": 2}])),
            json!({"completedIndexes": "1"}),
            &["ok/2"],
            "Complete=True SuccessPolicy",
        ),
        (
            "a rule that cannot be read",
            rules(json!([{"succeededIndexes": "x", "succeededCount": 0}])),
            json!({"completedIndexes": "1"}),
            &[],
            "",
        ),
        (
            "failure goes before success",
            json!({"backoffLimit": 0, "parallelism": 4, "successPolicy": {"rules": [{"succeededCount": 1}]}}),
            json!({}),
            &["bad/0", "ok/1"],
            "Failed=True BackoffLimitExceeded",
        ),
    ] {
        let job = job(indexed(spec), status);
        let (.., status, _) = run(&job, pods(texts));
        let last = conditions(&status).pop().unwrap_or_default();
        assert_eq!(last, want, "{what}");
    }
}

#[test]
fn failures_of_an_index_are_handed_on() {
    let spec = indexed(
        json!({"parallelism": 4, "backoffLimitPerIndex": 2, "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": [{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [3]}},
                                       {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [4]}}]}}),
    );
    let a = job(spec, json!({}));
    let failed = |n, index: &str, code: i32, failures: &str, ignored: &str| {
        let mut p = pod(n, &format!("bad/{index}"));
        p.status.container_statuses[0]
            .state
            .terminated
            .as_mut()
            .unwrap()
            .exit_code = code;
        p.metadata
            .annotations
            .insert(INDEX_FAILURES.into(), failures.into());
        p.metadata
            .annotations
            .insert(IGNORED_FAILURES.into(), ignored.into());
        Arc::new(p)
    };
    let all = vec![
        failed(0, "0", 1, "1", "0"),
        failed(1, "1", 3, "1", "2"),
        failed(2, "2", 4, "0", "0"),
        failed(3, "3", 1, "2", "0"),
    ];
    let (mut pass, action) = Pass::begin(world(&a, all.clone()));
    let made_now = made(&pass, &action);
    let annotations: Vec<&Value> = made_now
        .iter()
        .map(|p| &p["metadata"]["annotations"])
        .collect();
    assert_eq!(
        annotations,
        [
            &json!({INDEX: "0", INDEX_FAILURES: "2"}),
            &json!({INDEX: "1", INDEX_FAILURES: "1", IGNORED_FAILURES: "3"}),
        ]
    );
    pass.acted(&action, Outcome { done: 2, ready: 0 });
    let (release, _) = pass.track();
    assert_eq!(
        names(&release),
        ["p2", "p3"],
        "the others wait for their replacements"
    );
    assert_eq!(pass.status.failed_indexes.as_deref(), Some("2,3"));
    // With the replacements there they go; the ignored one is not counted.
    let mut both = all;
    both.extend([Arc::new(pod(4, "run/0")), Arc::new(pod(5, "run/1"))]);
    let (_, released, status, _) = run(&a, both);
    assert_eq!(released.len(), 4);
    assert_eq!(status.failed, 3);
    // Annotations that users wrote count for nothing.
    for text in ["-5", "x", "99999999999"] {
        let only = vec![failed(0, "0", 1, text, text)];
        let (pass, action) = Pass::begin(world(&a, only));
        assert_eq!(
            made(&pass, &action)[0]["metadata"]["annotations"][INDEX_FAILURES],
            "1"
        );
    }
}

#[test]
fn replacements_wait_after_failures() {
    let a = job(json!({"parallelism": 1}), json!({}));
    let (pass, action) = Pass::begin(world(&a, pods(&["bad@99995"])));
    assert_eq!(
        (told(&action).as_str(), pass.again),
        ("nothing", Some(Duration::from_secs(5)))
    );
    let (pass, action) = Pass::begin(World {
        backoff: Backoff {
            failures: 3,
            last: Some(at(99_950)),
        },
        ..world(&a, Vec::new())
    });
    assert_eq!((told(&action).as_str(), pass.again), ("create -", None));
    let b = job(
        indexed(json!({"parallelism": 2, "backoffLimitPerIndex": 5})),
        json!({}),
    );
    let (pass, action) = Pass::begin(world(&b, pods(&["bad/0@99995"])));
    assert_eq!(
        (told(&action).as_str(), pass.again),
        ("create 1", None),
        "other indexes do not wait"
    );
    let (pass, action) = Pass::begin(world(
        &b,
        pods(&["bad/0@99995", "run/1", "bad/2@99999", "bad/3@99992"]),
    ));
    assert_eq!(
        (told(&action).as_str(), pass.again),
        ("nothing", Some(Duration::from_secs(5)))
    );
}

#[test]
fn restarts_within_pods_count_as_failures() {
    let spec = |limit: i32| json!({"backoffLimit": limit, "parallelism": 1, "template": {"spec": {"restartPolicy": "OnFailure"}}});
    for (limit, restarts, init, fails) in [
        (0, 0, 0, false),
        (0, 1, 0, true),
        (1, 1, 0, true),
        (3, 1, 1, false),
        (3, 1, 2, true),
    ] {
        let a = job(spec(limit), json!({}));
        let mut p = pod(0, "run");
        let status = |n: i32| serde_json::from_value(json!([{"restartCount": n}])).unwrap();
        p.status.container_statuses = status(restarts);
        p.status.init_container_statuses = status(init);
        let (action, ..) = run(&a, vec![Arc::new(p)]);
        assert_eq!(
            action.starts_with("end"),
            fails,
            "{limit} {restarts} {init}"
        );
    }
}

#[test]
fn a_suspended_job_starts_anew() {
    let a = job(
        json!({"suspend": true}),
        json!({"startTime": print_time(at(1))}),
    );
    let (.., status, events) = run(&a, pods(&["run+"]));
    assert_eq!(
        (conditions(&status), events),
        (
            vec!["Suspended=True JobSuspended".to_owned()],
            vec!["Suspended".to_owned()]
        )
    );
    assert_eq!(
        (
            status.start_time,
            status.active,
            status.ready,
            status.terminating
        ),
        (None, 0, Some(0), Some(1))
    );
    let mut b = job(json!({}), json!({}));
    b.status = status;
    let (action, _, status, events) = run(&b, Vec::new());
    assert_eq!(
        (action.as_str(), conditions(&status), events),
        (
            "create - -",
            vec!["Suspended=False JobResumed".to_owned()],
            vec!["Resumed".to_owned()]
        )
    );
    assert_eq!(status.start_time, Some(at(100_000)));
    let (.., status, events) = run(&job(json!({}), json!({})), Vec::new());
    assert!(
        status.conditions.is_empty() && events.is_empty(),
        "nothing to resume"
    );
}

#[test]
fn policies_judge_failed_pods() {
    use policy::Verdict;
    let verdict = |rules: Value, code: i32, container: &str, condition: &str| {
        let a = job(json!({"podFailurePolicy": {"rules": rules}}), json!({}));
        let mut p = pod(0, "bad");
        p.status.container_statuses[0].name = container.into();
        p.status.container_statuses[0]
            .state
            .terminated
            .as_mut()
            .unwrap()
            .exit_code = code;
        p.status.conditions =
            serde_json::from_value(json!([{"type": condition, "status": "True"}])).unwrap();
        policy::judge(a.spec.pod_failure_policy.as_ref(), &p)
    };
    let codes = |action: &str, operator: &str, values: Value| json!({"action": action, "onExitCodes": {"operator": operator, "values": values}});
    let on = |action: &str, kind: &str| json!({"action": action, "onPodConditions": [{"type": kind, "status": "True"}]});
    let named = json!({"action": "Ignore", "onExitCodes": {"containerName": "other", "operator": "In", "values": [5]}});
    for (what, rules, want) in [
        ("none", json!([]), Verdict::Count),
        (
            "in",
            json!([codes("Ignore", "In", json!([4, 5]))]),
            Verdict::Ignore,
        ),
        (
            "not in",
            json!([codes("FailIndex", "NotIn", json!([4]))]),
            Verdict::FailIndex,
        ),
        (
            "neither",
            json!([
                codes("Ignore", "In", json!([4])),
                codes("Ignore", "NotIn", json!([5]))
            ]),
            Verdict::Count,
        ),
        (
            "the first rule",
            json!([
                codes("Count", "In", json!([5])),
                codes("Ignore", "In", json!([5]))
            ]),
            Verdict::Count,
        ),
        ("another container", json!([named]), Verdict::Count),
        (
            "an operator that nobody knows",
            json!([codes("Ignore", "Near", json!([5]))]),
            Verdict::Count,
        ),
        (
            "an action that nobody knows",
            json!([
                codes("Dance", "In", json!([5])),
                on("Ignore", "DisruptionTarget")
            ]),
            Verdict::Ignore,
        ),
        (
            "a condition",
            json!([on("Ignore", "DisruptionTarget")]),
            Verdict::Ignore,
        ),
        (
            "another condition",
            json!([on("Ignore", "ConfigIssue")]),
            Verdict::Count,
        ),
        (
            "fail by code",
            json!([codes("FailJob", "In", json!([5]))]),
            Verdict::FailJob(
                "Container c for pod n/p0 failed with exit code 5 matching FailJob rule at index 0"
                    .into(),
            ),
        ),
        (
            "fail by condition",
            json!([named, on("FailJob", "DisruptionTarget")]),
            Verdict::FailJob(
                "Pod n/p0 has condition DisruptionTarget matching FailJob rule at index 1".into(),
            ),
        ),
    ] {
        assert_eq!(verdict(rules, 5, "c", "DisruptionTarget"), want, "{what}");
    }
    assert_eq!(
        verdict(json!([codes("Ignore", "NotIn", json!([1]))]), 0, "c", "x"),
        Verdict::Count,
        "a container that succeeded matches nothing"
    );
}

/// An apiserver with one job. Every call may fail; what it did before failing stays done.
struct Fake {
    job: Job,
    pods: BTreeMap<String, Pod>,
    next: usize,
    /// Pods that ended, by name, and how.
    truth: BTreeMap<String, bool>,
}

impl Fake {
    fn write(&mut self, status: &JobStatus) {
        assert!(
            self.job.finished().is_none(),
            "what is over changes no more"
        );
        self.job.status = status.clone();
    }

    fn release(&mut self, uid: &str) {
        let gone = self.pods.get_mut(uid).is_some_and(|p| {
            p.metadata.finalizers.clear();
            p.metadata.is_deleting()
        });
        if gone {
            self.pods.remove(uid);
        }
    }

    fn delete(&mut self, uid: &str) {
        if let Some(p) = self.pods.get_mut(uid) {
            p.metadata.deletion_timestamp.get_or_insert(at(0));
        }
    }
}

/// One pass that ends early when `budget` calls are made.
fn pass(fake: &mut Fake, mut budget: usize) -> Option<()> {
    let mut call = || {
        budget = budget.checked_sub(1)?;
        Some(())
    };
    let job = fake.job.clone();
    let pods = fake.pods.values().cloned().map(Arc::new).collect();
    let (mut pass, action) = Pass::begin(world(&job, pods));
    let mut outcome = Outcome::default();
    match &action {
        Action::None => {}
        Action::Create(_) => {
            for body in made(&pass, &action) {
                call()?;
                let name = format!("p{}", fake.next);
                fake.next += 1;
                let mut p: Pod = serde_json::from_value(body).unwrap();
                p.metadata.name = name.clone();
                p.metadata.uid = name.clone();
                p.status.phase = "Running".into();
                fake.pods.insert(name, p);
                outcome.done += 1;
            }
        }
        Action::Delete(pods) | Action::End(pods) => {
            for p in pods {
                call()?;
                if matches!(action, Action::Delete(_)) {
                    fake.release(&p.metadata.uid);
                    call()?;
                }
                fake.delete(&p.metadata.uid);
                outcome.done += 1;
            }
        }
    }
    pass.acted(&action, outcome);
    let (release, flush) = pass.track();
    if flush {
        call()?;
        fake.write(&pass.status);
    }
    let mut gone = HashSet::new();
    for p in release {
        call()?;
        fake.release(&p.metadata.uid);
        gone.insert(p.metadata.uid.clone());
    }
    pass.released(&gone);
    if pass.finish() {
        call()?;
        fake.write(&pass.status);
    }
    Some(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever fails when: the job ends, and its status counts each pod that ended once.
    #[test]
    fn every_pod_is_counted_once(
        completions in 0i32..7, parallelism in 1i32..4, is_indexed: bool,
        steps in prop::collection::vec((0usize..9, any::<u8>(), any::<bool>()), 40..80),
    ) {
        let mut spec = json!({"completions": completions, "parallelism": parallelism, "backoffLimit": 1000});
        if is_indexed {
            spec = indexed(spec);
        }
        let mut fake = Fake { job: job(spec, json!({})), pods: BTreeMap::new(), next: 0, truth: BTreeMap::new() };
        let mut turn = 0;
        while fake.job.finished().is_none() {
            let (budget, victim, good) = *steps.get(turn).unwrap_or(&(usize::MAX, 0, true));
            turn += 1;
            prop_assert!(turn < 400, "{:?}", fake.job.status);
            let _ = pass(&mut fake, budget);
            // One of the running pods ends.
            let running: Vec<String> = fake.pods.values().filter(|p| !p.is_ended()).map(|p| p.metadata.name.clone()).collect();
            prop_assert!(running.iter().filter(|n| !fake.pods[*n].metadata.is_deleting()).count() <= usize::try_from(parallelism).unwrap());
            if let Some(name) = running.get(usize::from(victim) % running.len().max(1)) {
                let p = fake.pods.get_mut(name).unwrap();
                // What is being deleted counted as failed when it was seen; a kubelet ends it as failed.
                let good = good && !p.metadata.is_deleting();
                p.status.phase = if good { "Succeeded" } else { "Failed" }.into();
                let terminated = json!([{"name": "c", "state": {"terminated": {"exitCode": 1, "finishedAt": print_time(at(0))}}}]);
                p.status.container_statuses = serde_json::from_value(terminated).unwrap();
                fake.truth.insert(name.clone(), good);
                if p.metadata.is_deleting() && p.metadata.finalizers.is_empty() {
                    fake.pods.remove(name);
                }
            }
        }
        let status = &fake.job.status;
        prop_assert_eq!(conditions(status).pop().unwrap(), "Complete=True CompletionsReached");
        prop_assert!(fake.pods.values().all(|p| p.metadata.finalizers.is_empty() && p.is_ended()));
        let succeeded = fake.truth.values().filter(|good| **good).count();
        let failed = fake.truth.len() - succeeded;
        prop_assert_eq!(usize::try_from(status.failed).unwrap(), failed);
        if is_indexed {
            prop_assert_eq!(Indexes::parse(&status.completed_indexes, u32::MAX).total(), u64::try_from(completions).unwrap());
            prop_assert_eq!(status.succeeded, completions);
        } else {
            prop_assert_eq!(usize::try_from(status.succeeded).unwrap(), succeeded);
        }
    }
}
