//! Workload controllers, autoscalers and disruption budgets.

use serde_json::Value;

use super::text::{condition, containers, int_or_string, selector, selector_query};
use super::{Cells, age};
use crate::value::Tree;

/// The printer of a resource of the workload groups.
pub fn cells(resource: &str) -> Option<Cells> {
    let f: Cells = match resource {
        "deployments" => deployment,
        "replicasets" => replica_set,
        "statefulsets" => stateful_set,
        "daemonsets" => daemon_set,
        "controllerrevisions" => controller_revision,
        "jobs" => job,
        "cronjobs" => cron_job,
        "horizontalpodautoscalers" => autoscaler,
        "poddisruptionbudgets" => disruption_budget,
        _ => return None,
    };
    Some(f)
}

fn template(o: &Value) -> [Value; 2] {
    containers(o.list("spec.template.spec.containers"))
}

fn deployment(o: &Value, now: i64) -> Vec<Value> {
    let [names, images] = template(o);
    vec![
        o.name().into(),
        format!(
            "{}/{}",
            o.int("status.readyReplicas"),
            o.int("spec.replicas")
        )
        .into(),
        o.int("status.updatedReplicas").into(),
        o.int("status.availableReplicas").into(),
        age::of(o, now),
        names,
        images,
        selector_query(o.at("spec.selector")).into(),
    ]
}

/// ReplicaSets and ReplicationControllers up to the selector.
pub fn replicas(o: &Value, now: i64) -> Vec<Value> {
    let [names, images] = template(o);
    vec![
        o.name().into(),
        o.int("spec.replicas").into(),
        o.int("status.replicas").into(),
        o.int("status.readyReplicas").into(),
        age::of(o, now),
        names,
        images,
    ]
}

fn replica_set(o: &Value, now: i64) -> Vec<Value> {
    let mut cells = replicas(o, now);
    cells.push(selector(o.at("spec.selector")).into());
    cells
}

fn stateful_set(o: &Value, now: i64) -> Vec<Value> {
    let [names, images] = template(o);
    let ready = format!(
        "{}/{}",
        o.int("status.readyReplicas"),
        o.int("spec.replicas")
    );
    vec![
        o.name().into(),
        ready.into(),
        age::of(o, now),
        names,
        images,
    ]
}

fn daemon_set(o: &Value, now: i64) -> Vec<Value> {
    let [names, images] = template(o);
    let n = |key: &str| Value::from(o.at("status").int(key));
    vec![
        o.name().into(),
        n("desiredNumberScheduled"),
        n("currentNumberScheduled"),
        n("numberReady"),
        n("updatedNumberScheduled"),
        n("numberAvailable"),
        super::text::labels(o.at("spec.template.spec.nodeSelector")).into(),
        age::of(o, now),
        names,
        images,
        selector(o.at("spec.selector")).into(),
    ]
}

fn controller_revision(o: &Value, now: i64) -> Vec<Value> {
    let owner = o
        .list("metadata.ownerReferences")
        .iter()
        .find(|r| r.flag("controller"));
    let controller = owner.map_or("<none>".to_owned(), |r| {
        let group = r
            .text("apiVersion")
            .split_once('/')
            .map_or(String::new(), |(g, _)| format!(".{g}"));
        format!(
            "{}{group}/{}",
            r.text("kind").to_lowercase(),
            r.text("name")
        )
    });
    vec![
        o.name().into(),
        controller.into(),
        o.int("revision").into(),
        age::of(o, now),
    ]
}

fn job(o: &Value, now: i64) -> Vec<Value> {
    let done = o.int("status.succeeded");
    let completions = match (o.int_opt("spec.completions"), o.int("spec.parallelism")) {
        (Some(n), _) => format!("{done}/{n}"),
        (None, p) if p > 1 => format!("{done}/1 of {p}"),
        _ => format!("{done}/1"),
    };
    let time = |key: &str| o.text_opt(key).and_then(age::epoch);
    let duration = time("status.startTime")
        .map(|start| age::human(time("status.completionTime").unwrap_or(now) - start))
        .unwrap_or_default();
    let has = |kind: &str| condition(o.list("status.conditions"), kind) == Some("True");
    let status = if has("Complete") {
        "Complete"
    } else if has("Failed") {
        "Failed"
    } else if o.has("metadata.deletionTimestamp") {
        "Terminating"
    } else {
        ["Suspended", "FailureTarget", "SuccessCriteriaMet"]
            .into_iter()
            .find(|k| has(k))
            .unwrap_or("Running")
    };
    let [names, images] = template(o);
    vec![
        o.name().into(),
        status.into(),
        completions.into(),
        duration.into(),
        age::of(o, now),
        names,
        images,
        selector(o.at("spec.selector")).into(),
    ]
}

fn cron_job(o: &Value, now: i64) -> Vec<Value> {
    let [names, images] = containers(o.list("spec.jobTemplate.spec.template.spec.containers"));
    let last = match o.at("status.lastScheduleTime") {
        Value::Null => "<none>".to_owned(),
        t => age::since(t, now),
    };
    let suspend = o
        .flag_opt("spec.suspend")
        .map_or("<unset>", |s| if s { "True" } else { "False" });
    vec![
        o.name().into(),
        o.text("spec.schedule").into(),
        o.text_opt("spec.timeZone").unwrap_or("<none>").into(),
        suspend.into(),
        o.list("status.active").len().into(),
        last.into(),
        age::of(o, now),
        names,
        images,
        selector(o.at("spec.jobTemplate.spec.selector")).into(),
    ]
}

fn disruption_budget(o: &Value, now: i64) -> Vec<Value> {
    let shown = |key: &str| match o.at(key) {
        Value::Null => Value::from("N/A"),
        v => int_or_string(v).into(),
    };
    vec![
        o.name().into(),
        shown("spec.minAvailable"),
        shown("spec.maxUnavailable"),
        o.int("status.disruptionsAllowed").into(),
        age::of(o, now),
    ]
}

/// One metric: current and target.
fn metric(spec: &Value, status: Option<&Value>) -> String {
    let (key, named, average_only) = match spec.text("type") {
        "External" => ("external", false, false),
        "Pods" => ("pods", false, true),
        "Object" => ("object", false, false),
        "Resource" => ("resource", true, false),
        "ContainerResource" => ("containerResource", true, false),
        _ => return "<unknown type>".into(),
    };
    let target = spec.at(key).at("target");
    let current = status
        .map(|s| s.at(key))
        .filter(|s| !s.is_null())
        .map(|s| s.at("current"));
    let quantity = |field: &str| {
        current
            .map(|c| c.at(field))
            .filter(|v| !v.is_null())
            .map_or("<unknown>".to_owned(), int_or_string)
    };
    let name = if named {
        format!("{}: ", spec.at(key).text("name"))
    } else {
        String::new()
    };
    if target.has("averageValue") {
        let suffix = if named || average_only { "" } else { " (avg)" };
        return format!(
            "{name}{}/{}{suffix}",
            quantity("averageValue"),
            int_or_string(target.at("averageValue"))
        );
    }
    if named {
        let percent = |v: Option<i64>, none: &str| v.map_or(none.to_owned(), |n| format!("{n}%"));
        let now = current.and_then(|c| c.int_opt("averageUtilization"));
        return format!(
            "{name}{}/{}",
            percent(now, "<unknown>"),
            percent(target.int_opt("averageUtilization"), "<auto>")
        );
    }
    format!(
        "{}/{}",
        quantity("value"),
        int_or_string(target.at("value"))
    )
}

fn metrics(o: &Value) -> String {
    let specs = o.list("spec.metrics");
    if specs.is_empty() {
        return "<none>".into();
    }
    let statuses = o.list("status.currentMetrics");
    let all: Vec<String> = specs
        .iter()
        .enumerate()
        .map(|(i, s)| metric(s, statuses.get(i)))
        .collect();
    let shown = all.iter().take(2).cloned().collect::<Vec<_>>().join(", ");
    if all.len() > 2 {
        format!("{shown} + {} more...", all.len() - 2)
    } else {
        shown
    }
}

fn autoscaler(o: &Value, now: i64) -> Vec<Value> {
    let mut stored = o.clone();
    if o.text("apiVersion") == "autoscaling/v1" {
        crate::resources::autoscaler::from_v1(&mut stored);
    }
    let o = &stored;
    let min = o
        .int_opt("spec.minReplicas")
        .map_or("<unset>".to_owned(), |n| n.to_string());
    vec![
        o.name().into(),
        format!(
            "{}/{}",
            o.text("spec.scaleTargetRef.kind"),
            o.text("spec.scaleTargetRef.name")
        )
        .into(),
        metrics(o).into(),
        min.into(),
        o.int("spec.maxReplicas").into(),
        o.int("status.currentReplicas").into(),
        age::of(o, now),
    ]
}
