//! Events, in their two groups: stored as core/v1, also served as events.k8s.io/v1.

use apiserver::resource::{Context, Conversion, Strategy};
use serde_json::Value;

use crate::builtin::{Config, Parts};
use crate::check::{dns1123_subdomain, each, qualified_name};
use crate::validate::{Errors, Path, shown};
use crate::value::{Tree, same};

const FIELDS: [&str; 9] = [
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
];
const OTHERS: [&str; 2] = ["source", "type"];

struct Event;

/// Field names of core/v1 and of events.k8s.io/v1.
const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

fn rename(o: &mut Value, pairs: impl Iterator<Item = (&'static str, &'static str)>) {
    if let Some(map) = o.as_object_mut() {
        for (from, to) in pairs {
            if let Some(v) = map.remove(from) {
                map.insert(to.to_owned(), v);
            }
        }
    }
}

static CONVERSIONS: [(&str, Conversion); 1] = [(
    "events.k8s.io/v1",
    Conversion {
        from_storage: |o| rename(o, RENAMED.into_iter()),
        to_storage: |o| rename(o, RENAMED.into_iter().map(|(a, b)| (b, a))),
    },
)];

/// The event in core/v1 names, whichever version the request has.
fn core(o: &Value) -> (Value, bool) {
    let new = o.text("apiVersion").starts_with("events.k8s.io/");
    let mut o = o.clone();
    if new {
        rename(&mut o, RENAMED.into_iter().map(|(a, b)| (b, a)));
    }
    (o, new)
}

fn limited(e: &mut Errors, path: &Path, value: &str, max: usize, required: bool) {
    if required && value.is_empty() {
        e.required(path, "");
    }
    if value.len() > max {
        e.invalid(path, "", &format!("can have at most {max} characters"));
    }
}

fn legacy(e: &mut Errors, o: &Value, new: bool) {
    let (ns, object_ns) = (o.namespace(), o.text("involvedObject.namespace"));
    let p = Path::new("involvedObject").child("namespace");
    const WHY: &str = "does not match event.namespace";
    if o.has("eventTime") {
        if object_ns.is_empty() && ns != "default" && ns != "kube-system" {
            e.invalid(&p, object_ns, WHY);
        }
        let controller = Path::new(if new {
            "reportingController"
        } else {
            "reportingComponent"
        });
        let name = o.text("reportingComponent");
        if name.is_empty() {
            e.required(&controller, "");
        }
        each(e, &controller, name, qualified_name(name));
        limited(
            e,
            &Path::new("reportingInstance"),
            o.text("reportingInstance"),
            128,
            true,
        );
        limited(e, &Path::new("action"), o.text("action"), 128, true);
        limited(e, &Path::new("reason"), o.text("reason"), 128, true);
        limited(e, &Path::new("message"), o.text("message"), 1024, false);
    } else if object_ns.is_empty() {
        if !ns.is_empty() && ns != "default" {
            e.invalid(&p, object_ns, WHY);
        }
    } else if ns != object_ns {
        e.invalid(&p, object_ns, WHY);
    }
    each(e, &Path::new("namespace"), ns, dns1123_subdomain(ns));
}

fn series(e: &mut Errors, o: &Value) {
    if !o.has("series") {
        return;
    }
    if o.int("series.count") < 2 {
        e.invalid(&Path::new("series.count"), "", "should be at least 2");
    }
    if !o.has("series.lastObservedTime") {
        e.required(&Path::new("series.lastObservedTime"), "");
    }
}

fn create(o: &Value) -> Errors {
    let mut e = Errors::new();
    let (o, new) = core(o);
    legacy(&mut e, &o, new);
    if !new {
        return e;
    }
    series(&mut e, &o);
    if !o.has("eventTime") {
        e.required(&Path::new("eventTime"), "");
    }
    let kind = o.text("type");
    if kind != "Normal" && kind != "Warning" {
        e.invalid(
            &Path::new("type"),
            "",
            &format!("has invalid value: {kind}"),
        );
    }
    for key in ["firstTimestamp", "lastTimestamp", "count", "source"] {
        let v = o.at(key);
        let unset = v.is_blank() || v.as_i64() == Some(0) || same(v, &Value::Null);
        if !unset {
            e.invalid(&Path::new(key), "", "needs to be unset");
        }
    }
    e
}

fn update(o: &Value, old: &Value) -> Errors {
    let mut e = Errors::new();
    let ((o, new), (old, _)) = (core(o), core(old));
    legacy(&mut e, &o, new);
    if !new {
        return e;
    }
    if !same(o.at("series"), old.at("series")) {
        series(&mut e, &o);
    }
    for (key, path, kind) in [
        ("involvedObject", "involvedObject", "ObjectReference"),
        ("reason", "reason", ""),
        ("message", "message", ""),
        ("source", "source", "EventSource"),
        ("firstTimestamp", "firstTimestamp", ""),
        ("lastTimestamp", "lastTimestamp", ""),
        ("count", "count", ""),
        ("type", "type", ""),
        ("eventTime", "eventTime", ""),
        ("action", "action", ""),
        ("related", "related", "ObjectReference"),
        ("reportingComponent", "reportingController", ""),
        ("reportingInstance", "reportingInstance", ""),
    ] {
        if !same(o.at(key), old.at(key)) {
            let p = Path::new(path);
            if kind.is_empty() {
                e.invalid(&p, o.at(key).clone(), "field is immutable");
            } else {
                e.invalid_shown(
                    &p,
                    &shown::internal("v1", kind, o.at(key)),
                    "field is immutable",
                );
            }
        }
    }
    e
}

impl Strategy for Event {
    fn prepare_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate_create(&self, _: &Context<'_>, o: &Value) -> Errors {
        create(o)
    }

    fn validate_update(&self, _: &Context<'_>, o: &Value, old: &Value) -> Errors {
        update(o, old)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn field_values(&self, o: &Value) -> Vec<(&'static str, String)> {
        let (o, _) = core(o);
        let mut out: Vec<(&'static str, String)> =
            FIELDS.iter().map(|f| (*f, o.text(f).to_owned())).collect();
        let source = match o.text("source.component") {
            "" => o.text("reportingComponent"),
            s => s,
        };
        out.push((OTHERS[0], source.to_owned()));
        out.push((OTHERS[1], o.text("type").to_owned()));
        out
    }
}

/// The fields of events.k8s.io, in the order of the core group's; one of those has no name here.
pub const REGARDING: &[&str] = &[
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "regarding.apiVersion",
    "regarding.resourceVersion",
    "regarding.fieldPath",
    "reason",
    "reportingController",
    "\0",
    "type",
];

/// Events.
pub fn parts(config: &Config) -> Parts {
    let mut parts = Parts::new(Event).fields(&[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ]);
    parts.ttl_seconds = config.event_ttl_seconds;
    parts.conversions = &CONVERSIONS;
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn old_events_need_only_their_namespace() {
        let o = json!({"apiVersion": "v1", "metadata": {"namespace": "a"}, "involvedObject": {"namespace": "b"}});
        assert_eq!(
            create(&o).aggregate(),
            "involvedObject.namespace: Invalid value: \"b\": does not match event.namespace"
        );
    }

    #[test]
    fn new_events_are_strict() {
        let good = json!({"apiVersion": "events.k8s.io/v1", "metadata": {"namespace": "a"}, "regarding": {"namespace": "a"},
            "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "x/y", "reportingInstance": "i",
            "action": "Do", "reason": "R", "type": "Normal"});
        assert_eq!(create(&good).aggregate(), "[]");
        let mut bad = good.clone();
        bad.put("type", "Odd");
        bad.put("deprecatedCount", 3);
        bad.remove_at("action");
        assert_eq!(
            create(&bad).aggregate(),
            "[action: Required value, type: Invalid value: \"\": has invalid value: Odd, count: Invalid value: \"\": needs to be unset]"
        );
        let mut changed = good.clone();
        changed.put("note", "other");
        assert_eq!(
            update(&changed, &good).aggregate(),
            "message: Invalid value: \"other\": field is immutable"
        );
    }

    #[test]
    fn conversion_round_trips() {
        let old = json!({"involvedObject": {"name": "p"}, "message": "m", "count": 2});
        let mut o = old.clone();
        (CONVERSIONS[0].1.from_storage)(&mut o);
        assert_eq!(
            o,
            json!({"regarding": {"name": "p"}, "note": "m", "deprecatedCount": 2})
        );
        (CONVERSIONS[0].1.to_storage)(&mut o);
        assert_eq!(o, old);
    }
}
