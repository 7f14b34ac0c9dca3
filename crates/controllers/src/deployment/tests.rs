use std::sync::Arc;

use client::Time;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::decide::{Action, Plan, World, decide, template_hash};
use crate::views::{Deployment, ReplicaSet};

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn deployment(replicas: i32, surge: Value, unavailable: Value) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "d", "generation": 1},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "a"}}, "template": template("two"),
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
            "revisionHistoryLimit": 1, "progressDeadlineSeconds": 600,
        },
    }))
    .unwrap()
}

/// The apiserver, the replicaset controller and the kubelets in a few lines.
struct Sim {
    d: Deployment,
    sets: Vec<ReplicaSet>,
    made: i64,
}

impl Sim {
    fn plan(&self) -> Plan {
        let sets = self.sets.iter().cloned().map(Arc::new).collect();
        decide(&World {
            deployment: &self.d,
            sets,
            pods: Vec::new(),
            now: Time::from_second(1_000_000).unwrap(),
        })
    }

    fn apply(&mut self, plan: &Plan) {
        for a in &plan.actions {
            match a {
                Action::Create { body, .. } => {
                    let mut rs: ReplicaSet = serde_json::from_value(body.clone()).unwrap();
                    self.made += 1;
                    rs.metadata.uid = format!("rs{}", self.made);
                    rs.metadata.creation_timestamp = Some(Time::from_second(self.made).unwrap());
                    self.sets.push(rs);
                }
                Action::Update { name, patch, .. } => {
                    let rs = self
                        .sets
                        .iter_mut()
                        .find(|rs| rs.metadata.name == *name)
                        .unwrap();
                    if let Some(n) = patch.pointer("/spec/replicas").and_then(Value::as_i64) {
                        rs.spec.replicas = Some(n as i32);
                    }
                    for (k, v) in patch
                        .pointer("/metadata/annotations")
                        .and_then(Value::as_object)
                        .into_iter()
                        .flatten()
                    {
                        rs.metadata
                            .annotations
                            .insert(k.clone(), v.as_str().unwrap().into());
                    }
                }
                Action::Delete { name, .. } => self.sets.retain(|rs| rs.metadata.name != *name),
            }
        }
        self.d.status = plan.status.clone();
    }

    /// Each ReplicaSet has the pods it asks for; `ready` says how many of those that could be available are.
    fn pods(&mut self, ready: impl Fn(usize, i32) -> i32) {
        for (i, rs) in self.sets.iter_mut().enumerate() {
            let size = rs.spec.replicas.unwrap();
            let was = rs.status.available_replicas.min(size);
            rs.status.replicas = size;
            rs.status.available_replicas = ready(i, size).clamp(was, size);
            rs.status.ready_replicas = rs.status.available_replicas;
        }
    }

    fn spec_total(&self) -> i32 {
        self.sets.iter().map(|rs| rs.spec.replicas.unwrap()).sum()
    }

    fn available(&self) -> i32 {
        self.sets
            .iter()
            .map(|rs| rs.status.available_replicas.min(rs.spec.replicas.unwrap()))
            .sum()
    }
}

proptest! {
    /// maxSurge is never exceeded; availability never falls below what maxUnavailable allows by the controller's doing; and
    /// the rollout ends.
    #[test]
    fn rolling_updates_keep_within_the_fenceposts(
        replicas in 0..30i32, surge in 0..10i32, unavailable in 0..10i32, percent: bool,
        luck in proptest::collection::vec(0..30i32, 200),
    ) {
        let value = |n: i32| if percent { json!(format!("{}%", n * 10)) } else { json!(n) };
        let d = deployment(replicas, value(surge), value(unavailable));
        // A percentage is rounded up for what may be too many and down for what may be missing; one of them is not zero.
        let part = |n: i32, up: bool| match (percent, up) {
            (false, _) => n,
            (true, true) => (replicas * n + 9) / 10,
            (true, false) => replicas * n / 10,
        };
        let (surge, unavailable) = match (part(surge, true), part(unavailable, false)) {
            (0, 0) => (0, 1),
            both => both,
        };
        let mut sim = Sim { d, sets: Vec::new(), made: 0 };
        sim.d.spec.template = template("one");
        for _ in 0..4 {
            let p = sim.plan();
            sim.apply(&p);
            sim.pods(|_, n| n);
        }
        prop_assert_eq!(sim.available(), replicas);
        sim.d.spec.template = template("two");
        sim.d.metadata.generation = 2;
        for (step, ready) in luck.iter().enumerate() {
            let before = sim.available();
            let plan = sim.plan();
            sim.apply(&plan);
            prop_assert!(sim.spec_total() <= replicas + surge, "{} pods", sim.spec_total());
            prop_assert!(sim.available() >= (replicas - unavailable).min(before), "{} of {before} available", sim.available());
            // Near the end all pods come up, so that the rollout can finish.
            sim.pods(|_, n| if step > 150 { n } else { n.min(*ready) });
        }
        let new = sim.sets.iter().find(|rs| rs.spec.template.pointer("/spec/containers/0/image") == Some(&json!("two")));
        prop_assert_eq!(new.and_then(|rs| rs.spec.replicas), Some(replicas));
        prop_assert_eq!(sim.spec_total(), replicas);
    }
}

proptest! {
    /// Counts at their ends, in the spec, in statuses and in annotations, are planned for like others.
    #[test]
    fn counts_at_their_ends_are_planned_for(
        counts in proptest::collection::vec(prop_oneof![Just(0), Just(1), Just(i32::MAX - 1), Just(i32::MAX), any::<i32>()], 12),
        revision in prop_oneof![Just(i64::MAX), Just(i64::MIN), any::<i64>()],
        recreate: bool,
    ) {
        let n = |i: usize| counts[i];
        let mut d = deployment(n(0).max(0), json!(n(1).max(0)), json!(n(2).max(0)));
        if recreate {
            d.spec.strategy.kind = "Recreate".into();
        }
        d.spec.template = template("one");
        let mut sim = Sim { d, sets: Vec::new(), made: 0 };
        let p = sim.plan();
        sim.apply(&p);
        sim.d.spec.template = template("two");
        sim.d.metadata.generation = 2;
        for step in 0..4 {
            for rs in &mut sim.sets {
                rs.spec.replicas = Some(n(3 + step).max(0));
                rs.status.replicas = n(4 + step);
                rs.status.available_replicas = n(5 + step);
                rs.status.ready_replicas = n(6 + step);
                rs.status.terminating_replicas = Some(n(7 + step));
                rs.metadata.annotations.insert("deployment.kubernetes.io/revision".into(), revision.to_string());
            }
            let p = sim.plan();
            sim.apply(&p);
        }
    }
}

#[test]
fn the_first_rollout_creates_everything_at_once() {
    let sim = Sim {
        d: deployment(4, json!("25%"), json!("25%")),
        sets: Vec::new(),
        made: 0,
    };
    let plan = sim.plan();
    let [Action::Create { body, replicas: 4 }] = plan.actions.as_slice() else {
        panic!("{:?}", plan.actions)
    };
    let hash = body
        .pointer("/metadata/labels/pod-template-hash")
        .unwrap()
        .as_str()
        .unwrap();
    assert_eq!(
        body.pointer("/metadata/name").unwrap(),
        &json!(format!("web-{hash}"))
    );
    assert_eq!(
        body.pointer("/spec/selector/matchLabels/pod-template-hash")
            .unwrap(),
        hash
    );
    assert_eq!(
        body.pointer("/metadata/annotations/deployment.kubernetes.io~1max-replicas")
            .unwrap(),
        "5"
    );
    assert_eq!(plan.revision.as_deref(), Some("1"));
    let reasons: Vec<_> = plan
        .status
        .conditions
        .iter()
        .map(|c| (c.kind.as_str(), c.reason.as_str()))
        .collect();
    assert_eq!(
        reasons,
        [
            ("Progressing", "NewReplicaSetCreated"),
            ("Available", "MinimumReplicasUnavailable")
        ]
    );
}

#[test]
fn going_back_takes_the_old_replicaset_with_a_new_revision() {
    let mut sim = Sim {
        d: deployment(2, json!(1), json!(0)),
        sets: Vec::new(),
        made: 0,
    };
    for (image, generation) in [("one", 1), ("two", 2), ("one", 3)] {
        sim.d.spec.template = template(image);
        sim.d.metadata.generation = generation;
        for _ in 0..12 {
            let p = sim.plan();
            sim.apply(&p);
            sim.pods(|_, n| n);
        }
    }
    assert_eq!(sim.sets.len(), 2);
    let one = sim.sets.iter().find(|rs| rs.metadata.uid == "rs1").unwrap();
    assert_eq!(one.spec.replicas, Some(2));
    assert_eq!(
        one.metadata.annotations["deployment.kubernetes.io/revision"],
        "3"
    );
    assert_eq!(
        one.metadata.annotations["deployment.kubernetes.io/revision-history"],
        "1"
    );
    assert_eq!(
        sim.d
            .status
            .conditions
            .iter()
            .find(|c| c.kind == "Progressing")
            .unwrap()
            .reason,
        "NewReplicaSetAvailable"
    );
}

/// Quadratic work: an annotation is as long as somebody wrote it, and is cut at once.
#[test]
fn a_revision_history_of_any_length_is_cut_to_its_limit() {
    let add = super::decide::with_revision;
    assert_eq!(add("", "1"), "1");
    assert_eq!(add("1,2", "3"), "1,2,3");
    assert_eq!(add(&",".repeat(250_000), "3").len(), 2000);
    assert_eq!(add(&"x".repeat(250_000), "3"), "3");
    let long: Vec<String> = (0..2000).map(|n| n.to_string()).collect();
    let cut = add(&long.join(","), "2000");
    assert!(cut.len() <= 2000 && cut.ends_with(",1999,2000"), "{cut}");
    let (oldest, _) = cut.split_once(',').unwrap();
    let one_more = format!("{},{cut}", oldest.parse::<u32>().unwrap() - 1);
    assert!(one_more.len() > 2000, "no more than needed goes");
}

#[test]
fn history_is_kept_as_far_as_its_limit() {
    let mut sim = Sim {
        d: deployment(1, json!(1), json!(0)),
        sets: Vec::new(),
        made: 0,
    };
    for (i, image) in ["a", "b", "c", "d"].into_iter().enumerate() {
        sim.d.spec.template = template(image);
        sim.d.metadata.generation = i as i64 + 1;
        for _ in 0..8 {
            let p = sim.plan();
            sim.apply(&p);
            sim.pods(|_, n| n);
        }
    }
    let mut left: Vec<_> = sim.sets.iter().map(|rs| rs.metadata.uid.as_str()).collect();
    left.sort_unstable();
    assert_eq!(left, ["rs3", "rs4"]);
}

#[test]
fn scaling_during_a_rollout_is_proportional() {
    let mut sim = Sim {
        d: deployment(10, json!(3), json!(2)),
        sets: Vec::new(),
        made: 0,
    };
    sim.d.spec.template = template("one");
    for _ in 0..3 {
        let p = sim.plan();
        sim.apply(&p);
        sim.pods(|_, n| n);
    }
    sim.d.spec.template = template("two");
    // Old 8, new 5, none of the new available.
    for _ in 0..3 {
        let p = sim.plan();
        sim.apply(&p);
        sim.pods(|i, n| if i == 0 { n } else { 0 });
    }
    let sizes = |sim: &Sim| {
        sim.sets
            .iter()
            .map(|rs| rs.spec.replicas.unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(sizes(&sim), [8, 5]);
    sim.d.spec.replicas = Some(15);
    let p = sim.plan();
    sim.apply(&p);
    assert_eq!(sizes(&sim), [11, 7]);
}

#[test]
fn paused_deployments_scale_but_do_not_roll() {
    let mut sim = Sim {
        d: deployment(3, json!(1), json!(0)),
        sets: Vec::new(),
        made: 0,
    };
    sim.d.spec.template = template("one");
    for _ in 0..3 {
        let p = sim.plan();
        sim.apply(&p);
        sim.pods(|_, n| n);
    }
    sim.d.spec.paused = true;
    sim.d.spec.template = template("two");
    sim.d.spec.replicas = Some(5);
    let p = sim.plan();
    sim.apply(&p);
    assert_eq!(sim.sets.len(), 1);
    assert_eq!(sim.spec_total(), 5);
    assert_eq!(
        sim.d
            .status
            .conditions
            .iter()
            .find(|c| c.kind == "Progressing")
            .unwrap()
            .reason,
        "DeploymentPaused"
    );
}

#[test]
fn a_stuck_rollout_is_said_to_be_late() {
    let mut sim = Sim {
        d: deployment(2, json!(1), json!(0)),
        sets: Vec::new(),
        made: 0,
    };
    let plan = sim.plan();
    sim.apply(&plan);
    sim.pods(|_, _| 0);
    let plan = sim.plan();
    sim.apply(&plan);
    assert!(plan.again.is_some_and(|a| a.as_secs() == 601));
    for c in &mut sim.d.status.conditions {
        c.last_update_time = Some(Time::from_second(1_000_000 - 601).unwrap());
    }
    let p = sim.plan();
    let c = p
        .status
        .conditions
        .iter()
        .find(|c| c.kind == "Progressing")
        .unwrap();
    assert_eq!(
        (c.status.as_str(), c.reason.as_str()),
        ("False", "ProgressDeadlineExceeded")
    );
    assert!(
        c.message.starts_with("ReplicaSet \"web-")
            && c.message.ends_with("has timed out progressing.")
    );
}

#[test]
fn hashes_depend_on_template_and_collisions_only() {
    let mut labelled = template("one");
    labelled["metadata"]["labels"]["pod-template-hash"] = json!("x");
    labelled["metadata"]["creationTimestamp"] = Value::Null;
    assert_eq!(
        template_hash(&labelled, None),
        template_hash(&template("one"), None)
    );
    assert_ne!(
        template_hash(&template("one"), None),
        template_hash(&template("two"), None)
    );
    assert_ne!(
        template_hash(&template("one"), Some(1)),
        template_hash(&template("one"), None)
    );
}
