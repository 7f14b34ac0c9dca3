//! Horizontal pod autoscalers, stored as autoscaling/v2 and served as v1 too: what v1 lacks is kept in annotations.

use apiserver::resource::Conversion;
use serde_json::{Value, json};

use super::plain::Simple;
use crate::builtin::{Config, Parts};
use crate::check::{each, path_segment};
use crate::validate::{Errors, Path};
use crate::value::Tree;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

fn cpu(percent: i64) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": percent}}})
}

fn rules(o: &mut Value, key: &str, defaults: &Value) {
    let path = format!("spec.behavior.{key}");
    for (k, v) in defaults.map("") {
        o.slot(&path).put_if_absent(k, v.clone());
    }
}

fn default(o: &mut Value) {
    o.put_if_absent("spec.minReplicas", 1);
    if o.text("apiVersion") != "autoscaling/v2" {
        return;
    }
    if o.list("spec.metrics").is_empty() {
        o.put("spec.metrics", json!([cpu(80)]));
    }
    if o.has("spec.behavior") {
        let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
        rules(
            o,
            "scaleUp",
            &json!({"stabilizationWindowSeconds": 0, "selectPolicy": "Max",
                "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}, percent]}),
        );
        rules(
            o,
            "scaleDown",
            &json!({"selectPolicy": "Max", "policies": [percent]}),
        );
    }
}

fn is_cpu(m: &Value) -> bool {
    m.text("type") == "Resource"
        && m.text("resource.name") == "cpu"
        && m.has("resource.target.averageUtilization")
}

/// A metric as v1's annotations have it.
fn metric_to_v1(m: &Value) -> Value {
    let mut out = m.clone();
    let averages = [
        ("averageUtilization", "targetAverageUtilization"),
        ("averageValue", "targetAverageValue"),
    ];
    for key in ["resource", "containerResource", "pods"] {
        rename_target(&mut out, key, &averages);
    }
    if let Some(name) = out
        .remove_at("pods.metric.name")
        .or_else(|| out.remove_at("object.metric.name"))
    {
        let key = if m.has("pods") { "pods" } else { "object" };
        let selector = out.remove_at(&format!("{key}.metric.selector"));
        out.remove_at(&format!("{key}.metric"));
        out.put(&format!("{key}.metricName"), name);
        if let Some(s) = selector {
            out.put(&format!("{key}.selector"), s);
        }
    }
    if m.has("object") {
        let target = out.remove_at("object.target").unwrap_or_default();
        if let Some(d) = out.remove_at("object.describedObject") {
            out.put("object.target", d);
        }
        out.put(
            "object.targetValue",
            target.text_opt("value").unwrap_or("0"),
        );
        if target.has("averageValue") {
            out.put("object.averageValue", target.at("averageValue").clone());
        }
    }
    if m.has("external") {
        out.put(
            "external",
            json!({"metricName": m.at("external.metric.name")}),
        );
        for (from, to) in [
            ("metric.selector", "metricSelector"),
            ("target.value", "targetValue"),
            ("target.averageValue", "targetAverageValue"),
        ] {
            let v = m.at("external").at(from);
            if !v.is_null() {
                out.put(&format!("external.{to}"), v.clone());
            }
        }
    }
    out
}

fn rename_target(m: &mut Value, key: &str, names: &[(&str, &str)]) {
    if let Some(target) = m.remove_at(&format!("{key}.target")) {
        for (from, to) in names {
            if target.has(from) {
                m.put(&format!("{key}.{to}"), target.at(from).clone());
            }
        }
    }
}

fn metric_from_v1(m: &Value) -> Value {
    let mut out = m.clone();
    for key in ["resource", "containerResource", "pods"] {
        if !m.has(key) {
            continue;
        }
        let use_percent = m.at(key).has("targetAverageUtilization");
        let (kind, from, to) = if use_percent {
            (
                "Utilization",
                "targetAverageUtilization",
                "averageUtilization",
            )
        } else {
            ("AverageValue", "targetAverageValue", "averageValue")
        };
        out.put(&format!("{key}.target.type"), kind);
        let v = out.remove_at(&format!("{key}.{from}")).unwrap_or_default();
        out.put(&format!("{key}.target.{to}"), v);
    }
    if m.has("object") {
        let o = m.at("object");
        out.put(
            "object",
            json!({"describedObject": o.at("target"), "metric": {"name": o.at("metricName")},
                "target": {"type": "Value", "value": o.at("targetValue")}}),
        );
        if o.has("averageValue") {
            out.put(
                "object.target",
                json!({"type": "AverageValue", "averageValue": o.at("averageValue")}),
            );
        }
        if o.has("selector") {
            out.put("object.metric.selector", o.at("selector").clone());
        }
    }
    if m.has("pods") {
        let name = out.remove_at("pods.metricName").unwrap_or_default();
        out.put("pods.metric.name", name);
        if let Some(s) = out.remove_at("pods.selector") {
            out.put("pods.metric.selector", s);
        }
    }
    if m.has("external") {
        let x = m.at("external");
        let (kind, from, to) = if x.has("targetValue") {
            ("Value", "targetValue", "value")
        } else {
            ("AverageValue", "targetAverageValue", "averageValue")
        };
        out.put(
            "external",
            json!({"metric": {"name": x.at("metricName")}, "target": {"type": kind}}),
        );
        out.put(&format!("external.target.{to}"), x.at(from).clone());
        if x.has("metricSelector") {
            out.put("external.metric.selector", x.at("metricSelector").clone());
        }
    }
    out
}

/// A current metric as v1's annotations have it.
fn status_to_v1(m: &Value) -> Value {
    let mut out = m.clone();
    for key in [
        "resource",
        "containerResource",
        "pods",
        "object",
        "external",
    ] {
        if let Some(current) = out.remove_at(&format!("{key}.current")) {
            for (from, to) in [
                ("averageUtilization", "currentAverageUtilization"),
                ("averageValue", "currentAverageValue"),
                ("value", "currentValue"),
            ] {
                if current.has(from) {
                    out.put(&format!("{key}.{to}"), current.at(from).clone());
                }
            }
        }
        if let Some(name) = out.remove_at(&format!("{key}.metric.name")) {
            out.remove_at(&format!("{key}.metric"));
            out.put(&format!("{key}.metricName"), name);
        }
    }
    out
}

fn status_from_v1(m: &Value) -> Value {
    let mut out = m.clone();
    for key in [
        "resource",
        "containerResource",
        "pods",
        "object",
        "external",
    ] {
        if !m.has(key) {
            continue;
        }
        for (from, to) in [
            ("currentAverageUtilization", "current.averageUtilization"),
            ("currentAverageValue", "current.averageValue"),
            ("currentValue", "current.value"),
            ("metricName", "metric.name"),
        ] {
            if let Some(v) = out.remove_at(&format!("{key}.{from}")) {
                out.put(&format!("{key}.{to}"), v);
            }
        }
    }
    out
}

fn annotate(o: &mut Value, key: &str, value: &Value) {
    let text = value.to_string();
    let map = o.slot("metadata.annotations");
    if !map.is_object() {
        *map = json!({});
    }
    map[key] = text.into();
}

fn annotated(o: &mut Value, key: &str) -> Option<Value> {
    let map = o.at_mut("metadata.annotations")?.as_object_mut()?;
    let text = map.remove(key)?;
    if map.is_empty() {
        o.remove_at("metadata.annotations");
    }
    serde_json::from_str(text.as_str()?).ok()
}

fn to_v1(o: &mut Value) {
    for key in [METRICS, CURRENT, BEHAVIOR, CONDITIONS] {
        annotated(o, key);
    }
    let metrics = o.remove_at("spec.metrics").unwrap_or_default();
    if let Some(m) = metrics.list("").iter().find(|m| is_cpu(m)) {
        let percent = m.at("resource.target.averageUtilization").clone();
        o.put("spec.targetCPUUtilizationPercentage", percent);
    }
    let others: Vec<Value> = metrics
        .list("")
        .iter()
        .filter(|m| !is_cpu(m))
        .map(metric_to_v1)
        .collect();
    if !others.is_empty() {
        annotate(o, METRICS, &others.into());
    }
    let current = o.remove_at("status.currentMetrics").unwrap_or_default();
    if !current.list("").is_empty() {
        let list: Vec<Value> = current.list("").iter().map(status_to_v1).collect();
        annotate(o, CURRENT, &list.into());
        let percent = current
            .list("")
            .iter()
            .filter(|m| m.text("resource.name") == "cpu")
            .find_map(|m| m.int_opt("resource.current.averageUtilization"));
        if let Some(p) = percent {
            o.put("status.currentCPUUtilizationPercentage", p);
        }
    }
    if let Some(b) = o.remove_at("spec.behavior").filter(|b| !b.is_null()) {
        annotate(o, BEHAVIOR, &b);
    }
    if let Some(c) = o
        .remove_at("status.conditions")
        .filter(|c| !c.list("").is_empty())
    {
        annotate(o, CONDITIONS, &c);
    }
    for key in ["currentReplicas", "desiredReplicas"] {
        o.slot("status").put_if_absent(key, 0);
    }
}

fn from_v1(o: &mut Value) {
    let percent = o
        .remove_at("spec.targetCPUUtilizationPercentage")
        .and_then(|v| v.as_i64());
    let mut metrics: Vec<Value> = annotated(o, METRICS)
        .map(|v| v.list("").iter().map(metric_from_v1).collect())
        .unwrap_or_default();
    metrics.extend(percent.map(cpu));
    if metrics.is_empty() {
        metrics.push(cpu(80));
    }
    o.put("spec.metrics", metrics);
    if let Some(b) = annotated(o, BEHAVIOR) {
        o.put("spec.behavior", b);
    }
    let current = o.remove_at("status.currentCPUUtilizationPercentage");
    if let Some(list) = annotated(o, CURRENT) {
        let list: Vec<Value> = list.list("").iter().map(status_from_v1).collect();
        o.put("status.currentMetrics", list);
    } else if let Some(p) = current.filter(|p| !p.is_null()) {
        o.put(
            "status.currentMetrics",
            json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": p}}}]),
        );
    }
    if let Some(c) = annotated(o, CONDITIONS) {
        o.put("status.conditions", c);
    }
}

static CONVERSIONS: [(&str, Conversion); 1] = [(
    "autoscaling/v1",
    Conversion {
        from_storage: to_v1,
        to_storage: from_v1,
    },
)];

fn validate(e: &mut Errors, o: &Value) {
    let (spec, path) = (o.at("spec"), Path::new("spec"));
    let (min, max) = (spec.int_opt("minReplicas"), spec.int("maxReplicas"));
    if let Some(n) = min.filter(|n| *n < 1) {
        e.invalid(
            &path.child("minReplicas"),
            n,
            "must be greater than or equal to 1",
        );
    }
    if max < 1 {
        e.invalid(&path.child("maxReplicas"), max, "must be greater than 0");
    }
    if min.is_some_and(|n| max < n) {
        e.invalid(
            &path.child("maxReplicas"),
            max,
            "must be greater than or equal to `minReplicas`",
        );
    }
    let target = spec.at("scaleTargetRef");
    for key in ["kind", "name"] {
        let (p, v) = (path.child("scaleTargetRef").child(key), target.text(key));
        if v.is_empty() {
            e.required(&p, "");
        } else {
            each(e, &p, v, path_segment(v));
        }
    }
}

/// Autoscalers.
pub fn parts(_: &Config) -> Parts {
    Parts {
        conversions: &CONVERSIONS,
        ..Parts::new(Simple {
            status: true,
            validate,
            ..Simple::new(default)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn converts_both_ways() {
        let v2 = json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 3, "metrics": [
            {"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "5"}}},
            cpu(50)], "behavior": {"scaleUp": {"selectPolicy": "Max"}}},
            "status": {"currentReplicas": 1, "desiredReplicas": 1,
                "conditions": [{"type": "AbleToScale", "status": "True"}]}});
        let mut o = v2.clone();
        to_v1(&mut o);
        assert_eq!(o.int("spec.targetCPUUtilizationPercentage"), 50);
        assert_eq!(
            o.annotation(METRICS),
            Some(r#"[{"pods":{"metricName":"m","targetAverageValue":"5"},"type":"Pods"}]"#)
        );
        from_v1(&mut o);
        assert_eq!(o, v2);
    }

    #[test]
    fn defaults_and_limits() {
        let mut o = json!({"apiVersion": "autoscaling/v2", "spec": {"behavior": {"scaleDown": {"selectPolicy": "Min"}}}});
        default(&mut o);
        assert_eq!(o.text("spec.behavior.scaleDown.selectPolicy"), "Min");
        assert_eq!(o.list("spec.behavior.scaleUp.policies").len(), 2);
        assert_eq!(o.list("spec.metrics"), [cpu(80)]);
        let mut e = Errors::new();
        validate(
            &mut e,
            &json!({"spec": {"minReplicas": 2, "maxReplicas": 1, "scaleTargetRef": {"kind": "a"}}}),
        );
        assert_eq!(e.len(), 2);
    }
}
