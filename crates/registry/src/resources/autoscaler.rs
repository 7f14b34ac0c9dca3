//! Horizontal pod autoscalers, stored as autoscaling/v2 and served as v1 too: what v1 lacks is kept in annotations.

use apiserver::resource::Conversion;
use serde_json::{Value, json};

use super::plain::Simple;
use crate::builtin::{Config, Parts};
use crate::check::{dns1123_label, each, non_negative, path_segment};
use crate::quant;
use crate::validate::{Errors, Path, resources};
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

pub fn from_v1(o: &mut Value) {
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

/// The spec as the stored version has it.
fn spec_of(o: &Value) -> Value {
    let mut o = o.clone();
    if o.text("apiVersion") == "autoscaling/v1" {
        from_v1(&mut o);
    }
    o.at("spec").clone()
}

/// What a reference to another object may leave out.
#[derive(Clone, Copy, PartialEq)]
enum Version {
    Any,
    Optional,
    Needed,
}

fn reference(e: &mut Errors, path: &Path, r: &Value, version: Version) {
    for key in ["kind", "name"] {
        match r.text(key) {
            "" => e.required(&path.child(key), ""),
            v => each(e, &path.child(key), v, path_segment(v)),
        }
    }
    let v = r.text("apiVersion");
    if let Some(why) = bad_version(v, version) {
        e.invalid(&path.child("apiVersion"), v, &why);
    }
}

fn bad_version(v: &str, version: Version) -> Option<String> {
    if version == Version::Any {
        None
    } else if v.matches('/').count() > 1 {
        Some(format!("unexpected GroupVersion string: {v}"))
    } else if version == Version::Needed && v.split_once('/').is_none_or(|(g, _)| g.is_empty()) {
        Some("apiVersion must specify API group".into())
    } else {
        None
    }
}

fn target(e: &mut Errors, path: &Path, t: &Value) {
    let p = path.child("type");
    let kind = t.text("type");
    if kind.is_empty() {
        e.required(&p, "must specify a metric target type");
    }
    if !["Utilization", "Value", "AverageValue"].contains(&kind) {
        e.invalid(
            &p,
            kind,
            "must be either Utilization, Value, or AverageValue",
        );
    }
    for key in ["value", "averageValue"] {
        let q = quant::of(t.at(key));
        if t.has(key) && !q.is_positive() {
            e.invalid(&path.child(key), q.to_string(), "must be positive");
        }
    }
    if let Some(n) = t.int_opt("averageUtilization").filter(|n| *n < 1) {
        e.invalid(
            &path.child("averageUtilization"),
            n,
            "must be greater than 0",
        );
    }
}

fn identifier(e: &mut Errors, path: &Path, m: &Value) {
    match m.text("name") {
        "" => e.required(&path.child("name"), "must specify a metric name"),
        name => each(e, &path.child("name"), name, path_segment(name)),
    }
}

/// The fields of the sources, in the order of the checks.
const SOURCES: [(&str, &str); 5] = [
    ("object", "Object"),
    ("external", "External"),
    ("pods", "Pods"),
    ("resource", "Resource"),
    ("containerResource", "ContainerResource"),
];
const TYPES: [&str; 5] = [
    "ContainerResource",
    "External",
    "Object",
    "Pods",
    "Resource",
];

fn metric_source(e: &mut Errors, path: &Path, key: &str, s: &Value, version: Version) {
    let t = s.at("target");
    let at = path.child("target");
    if key == "object" {
        reference(
            e,
            &path.child("describedObject"),
            s.at("describedObject"),
            version,
        );
    }
    match key {
        "object" | "external" | "pods" => identifier(e, &path.child("metric"), s.at("metric")),
        _ => match s.text("name") {
            "" => e.required(&path.child("name"), "must specify a resource name"),
            name if key == "containerResource" => {
                resources::container_resource_name(e, &path.child("name"), name);
            }
            _ => {}
        },
    }
    if key == "containerResource" {
        match s.text("container") {
            "" => e.required(&path.child("container"), "must specify a container"),
            c => each(e, &path.child("container"), c, dns1123_label(c)),
        }
    }
    target(e, &at, t);
    let (value, average) = (t.has("value"), t.has("averageValue"));
    match key {
        "object" if !value && !average => e.required(
            &at.child("averageValue"),
            "must set either a target value or averageValue",
        ),
        "external" if !value && !average => e.required(
            &at.child("averageValue"),
            "must set either a target value for metric or a per-pod target",
        ),
        "external" if value && average => e.forbidden(
            &at.child("value"),
            "may not set both a target value for metric and a per-pod target",
        ),
        "pods" if !average => e.required(
            &at.child("averageValue"),
            "must specify a positive target averageValue",
        ),
        "resource" | "containerResource" => match (t.has("averageUtilization"), average) {
            (false, false) => e.required(
                &at.child("averageUtilization"),
                "must set either a target raw value or a target utilization",
            ),
            (true, true) => e.forbidden(
                &at.child("averageValue"),
                "may not set both a target raw value and a target utilization",
            ),
            _ => {}
        },
        _ => {}
    }
}

fn metric(e: &mut Errors, path: &Path, m: &Value, version: Version) {
    let kind = m.text("type");
    let p = path.child("type");
    if kind.is_empty() {
        e.required(&p, "must specify a metric source type");
    }
    let known = SOURCES.iter().find(|(_, k)| *k == kind);
    if known.is_none() {
        e.not_supported(&p, kind, &TYPES);
    }
    let present: Vec<&str> = SOURCES
        .iter()
        .map(|(key, _)| *key)
        .filter(|key| m.has(key))
        .collect();
    if let Some(first) = present.first() {
        metric_source(e, &path.child(first), first, m.at(first), version);
    }
    match known {
        Some((key, _)) if !m.has(key) => e.required(
            &path.child(key),
            "must populate information for the given metric source",
        ),
        Some(_) => {}
        None => e.not_supported(&p, kind, &TYPES),
    }
    if present.len() != 1 {
        let expected = known.map(|(key, _)| *key);
        for key in present.iter().filter(|k| Some(**k) != expected) {
            e.forbidden(
                &path.child(key),
                "must populate the given metric source only",
            );
        }
    }
}

/// The longest window and period, in seconds.
const MAX_WINDOW: i64 = 3600;
const MAX_PERIOD: i64 = 1800;

fn scaling(e: &mut Errors, path: &Path, r: &Value) {
    if r.is_null() {
        return;
    }
    if let Some(n) = r.int_opt("stabilizationWindowSeconds") {
        let p = path.child("stabilizationWindowSeconds");
        if n < 0 {
            e.invalid(&p, n, "must be greater than or equal to zero");
        }
        if n > MAX_WINDOW {
            e.invalid(&p, n, "must be less than or equal to 3600");
        }
    }
    if let Some(s) = r.text_opt("selectPolicy")
        && !["Disabled", "Max", "Min"].contains(&s)
    {
        e.not_supported(&path.child("selectPolicy"), s, &["Disabled", "Max", "Min"]);
    }
    let policies = path.child("policies");
    if r.list("policies").is_empty() {
        e.required(&policies, "must specify at least one Policy");
    }
    for (i, x) in r.list("policies").iter().enumerate() {
        let p = policies.index(i);
        if !["Pods", "Percent"].contains(&x.text("type")) {
            e.not_supported(&p.child("type"), x.text("type"), &["Percent", "Pods"]);
        }
        for key in ["value", "periodSeconds"] {
            if x.int(key) <= 0 {
                e.invalid(&p.child(key), x.int(key), "must be greater than zero");
            }
        }
        if x.int("periodSeconds") > MAX_PERIOD {
            e.invalid(
                &p.child("periodSeconds"),
                x.int("periodSeconds"),
                "must be less than or equal to 1800",
            );
        }
    }
    if r.has("tolerance") {
        let q = quant::of(r.at("tolerance"));
        if q.is_negative() {
            e.invalid(
                &path.child("tolerance"),
                q.to_string(),
                "must be greater than or equal to 0",
            );
        }
    }
}

fn validate_spec(e: &mut Errors, spec: &Value, old: Option<&Value>) {
    let path = Path::new("spec");
    let lowest = i64::from(old.is_none_or(|o| o.int_opt("minReplicas") != Some(0)));
    let (min, max) = (spec.int_opt("minReplicas"), spec.int("maxReplicas"));
    if let Some(n) = min.filter(|n| *n < lowest) {
        e.invalid(
            &path.child("minReplicas"),
            n,
            &format!("must be greater than or equal to {lowest}"),
        );
    }
    let p = path.child("maxReplicas");
    if max == 0 {
        e.required(&p, "must be set and greater than 0");
    } else if max < 0 {
        e.invalid(&p, max, "must be greater than or equal to 1");
    }
    if min.is_some_and(|n| max < n) {
        e.invalid(&p, max, "must be greater than or equal to `minReplicas`");
    }
    let scaled = spec.at("scaleTargetRef");
    let kept =
        |key: &str| old.is_some_and(|o| o.at("scaleTargetRef").text(key) == scaled.text(key));
    let version = if kept("apiVersion") && kept("kind") {
        Version::Any
    } else if scaled.text("kind") == "ReplicationController" {
        Version::Optional
    } else {
        Version::Needed
    };
    reference(e, &path.child("scaleTargetRef"), scaled, version);
    let bad = |m: &Value| {
        let v = m.text("object.describedObject.apiVersion");
        m.text("type") == "Object" && m.has("object") && bad_version(v, Version::Optional).is_some()
    };
    let version = if old.is_some_and(|o| o.list("metrics").iter().any(bad)) {
        Version::Any
    } else {
        Version::Optional
    };
    let metrics = spec.list("metrics");
    for (i, m) in metrics.iter().enumerate() {
        metric(e, &path.child("metrics").index(i), m, version);
    }
    let from_outside = |m: &Value| ["Object", "External"].contains(&m.text("type"));
    if min == Some(0) && !metrics.iter().any(from_outside) {
        e.forbidden(&path.child("metrics"), "must specify at least one Object or External metric to support scaling to zero replicas");
    }
    for key in ["scaleUp", "scaleDown"] {
        let p = path.child("behavior").child(key);
        scaling(e, &p, spec.at("behavior").at(key));
    }
}

fn validate(e: &mut Errors, o: &Value) {
    validate_spec(e, &spec_of(o), None);
}

/// Autoscalers.
pub fn parts(_: &Config) -> Parts {
    Parts {
        conversions: &CONVERSIONS,
        ..Parts::new(Simple {
            status: true,
            validate,
            update: Some(|e, o, old| validate_spec(e, &spec_of(o), Some(&spec_of(old)))),
            status_change: |e, o, _| {
                for key in ["currentReplicas", "desiredReplicas"] {
                    let n = o.at("status").int(key);
                    non_negative(e, &Path::new("status").child(key), n);
                }
            },
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
        assert_eq!(
            o.at("spec.behavior.scaleUp.policies").to_string(),
            "[{\"periodSeconds\":15,\"type\":\"Pods\",\"value\":4},{\"periodSeconds\":15,\"type\":\"Percent\",\"value\":100}]"
        );
        assert_eq!(o.list("spec.metrics"), [cpu(80)]);
        let mut e = Errors::new();
        validate(
            &mut e,
            &json!({"spec": {"minReplicas": 2, "maxReplicas": 1, "scaleTargetRef": {"kind": "a"}}}),
        );
        assert_eq!(
            e.aggregate(),
            "[spec.maxReplicas: Invalid value: 1: must be greater than or equal to `minReplicas`, spec.scaleTargetRef.name: Required value, spec.scaleTargetRef.apiVersion: Invalid value: \"\": apiVersion must specify API group]"
        );
    }
}
