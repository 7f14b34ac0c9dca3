//! Dynamic resource allocation: classes, claims, claim templates and slices.

use std::collections::HashSet;

use serde_json::Value;

use super::plain::{Simple, immutable_shown};
use crate::builtin::{Config, Parts};
use crate::check::{dns1123_label, dns1123_subdomain, each, label_value};
use crate::validate::{Errors, Path, affinity, meta, resources, shown, volumes};
use crate::value::Tree;

fn request_defaults(spec: &mut Value) {
    for r in spec.list_mut("devices.requests") {
        if let Some(exact) = r.at_mut("exactly") {
            counted(exact);
        }
        for sub in r.list_mut("firstAvailable") {
            counted(sub);
        }
    }
}

fn counted(request: &mut Value) {
    request.put_if_zero("allocationMode", "ExactCount");
    if request.text("allocationMode") == "ExactCount" {
        request.put_if_zero("count", 1);
    }
    for t in request.list_mut("tolerations") {
        t.put_if_zero("operator", "Equal");
    }
}

/// Device classes.
pub fn class(_: &Config) -> Parts {
    Parts::new(Simple {
        validate: class_rules,
        generation: true,
        returns_deleted: true,
        ..Simple::new(|_| {})
    })
}

/// Claims.
pub fn claim(_: &Config) -> Parts {
    Parts::new(Simple {
        status: true,
        returns_deleted: true,
        validate: |e, o| claim_rules(e, &Path::new("spec"), o.at("spec")),
        update: Some(|e, o, old| fixed_spec(e, "ResourceClaimSpec", o, old)),
        status_change: claim_status,
        ..Simple::new(|o| {
            if let Some(spec) = o.at_mut("spec") {
                request_defaults(spec);
            }
        })
    })
}

/// Claim templates.
pub fn template(_: &Config) -> Parts {
    Parts::new(Simple {
        returns_deleted: true,
        validate: |e, o| {
            let path = Path::new("spec");
            meta::template_meta(e, &path.child("metadata"), o.at("spec.metadata"));
            claim_rules(e, &path.child("spec"), o.at("spec.spec"));
        },
        update: Some(|e, o, old| fixed_spec(e, "ResourceClaimTemplateSpec", o, old)),
        ..Simple::new(|o| {
            if let Some(spec) = o.at_mut("spec.spec") {
                request_defaults(spec);
            }
        })
    })
}

/// Slices.
pub fn slice(_: &Config) -> Parts {
    Parts::new(Simple {
        generation: true,
        returns_deleted: true,
        warn: |o, _| {
            let driver = o.text("spec.driver");
            if driver == driver.to_lowercase() {
                return vec![];
            }
            vec![format!(
                "spec.driver: driver names should be lowercase; {} contains uppercase characters",
                api::text::go_quote(driver)
            )]
        },
        ..Simple::new(|_| {})
    })
}

const MOST: usize = 32;
const MOST_ALTERNATIVES: usize = 8;

fn fixed_spec(e: &mut Errors, kind: &str, o: &Value, old: &Value) {
    let spec = o.at("spec");
    let shown = shown::internal("resource.k8s.io/v1", kind, spec);
    immutable_shown(e, &Path::new("spec"), &shown, spec, old.at("spec"));
}

/// Checks a list's items unless there are too many of them.
fn items(
    e: &mut Errors,
    path: &Path,
    list: &[Value],
    most: usize,
    mut check: impl FnMut(&mut Errors, &Path, &Value),
) -> bool {
    if list.len() > most {
        e.too_many(path, list.len(), most);
        return false;
    }
    for (i, item) in list.iter().enumerate() {
        check(e, &path.index(i), item);
    }
    true
}

/// Like [`items`], of items that differ in what `key` says.
fn distinct(
    e: &mut Errors,
    path: &Path,
    list: &[Value],
    most: usize,
    key: fn(&Value) -> &str,
    check: impl FnMut(&mut Errors, &Path, &Value),
) {
    if !items(e, path, list, most, check) {
        return;
    }
    let mut seen = HashSet::new();
    for (i, item) in list.iter().enumerate() {
        if !seen.insert(key(item)) {
            e.duplicate(&path.index(i), key(item));
        }
    }
}

fn name_of(request: &Value) -> &str {
    request.text("name")
}

fn uid_of(consumer: &Value) -> &str {
    consumer.text("uid")
}

fn text_of(item: &Value) -> &str {
    item.as_str().unwrap_or_default()
}

fn request_name(e: &mut Errors, path: &Path, name: &str) {
    each(e, path, name, dns1123_label(name));
}

fn claim_rules(e: &mut Errors, path: &Path, spec: &Value) {
    let path = path.child("devices");
    let devices = spec.at("devices");
    let at = path.child("requests");
    distinct(e, &at, devices.list("requests"), MOST, name_of, request);
    let at = path.child("constraints");
    items(e, &at, devices.list("constraints"), MOST, |e, at, c| {
        request_refs(e, at, c, devices);
        constraint(e, at, c);
    });
    let at = path.child("config");
    items(e, &at, devices.list("config"), MOST, |e, at, c| {
        request_refs(e, at, c, devices);
        configuration(e, at, c);
    });
}

fn request(e: &mut Errors, path: &Path, r: &Value) {
    request_name(e, &path.child("name"), r.text("name"));
    let alternatives = r.list("firstAvailable");
    match (r.has("exactly"), alternatives.is_empty()) {
        (false, true) => e.required(
            path,
            "exactly one of `exactly` or `firstAvailable` is required",
        ),
        (true, false) => e.invalid(
            path,
            Value::Null,
            "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
        ),
        (true, true) => device_request(e, &path.child("exactly"), r.at("exactly")),
        (false, false) => {
            let at = path.child("firstAvailable");
            distinct(
                e,
                &at,
                alternatives,
                MOST_ALTERNATIVES,
                name_of,
                |e, at, r| {
                    request_name(e, &at.child("name"), r.text("name"));
                    device_request(e, at, r);
                },
            );
        }
    }
}

fn device_request(e: &mut Errors, path: &Path, r: &Value) {
    let class = r.text("deviceClassName");
    let at = path.child("deviceClassName");
    if class.is_empty() {
        e.required(&at, "");
    } else {
        each(e, &at, class, dns1123_subdomain(class));
    }
    selectors(e, path, r);
    let count = r.int("count");
    let at = path.child("count");
    match r.text("allocationMode") {
        "All" if count != 0 => e.invalid(
            &at,
            count,
            "must not be specified when allocationMode is 'All'",
        ),
        "ExactCount" if count <= 0 => e.invalid(&at, count, "must be greater than zero"),
        "All" | "ExactCount" => {}
        mode => e.not_supported(&path.child("allocationMode"), mode, &["All", "ExactCount"]),
    }
    for (i, t) in r.list("tolerations").iter().enumerate() {
        toleration(e, &path.child("tolerations").index(i), t);
    }
}

fn toleration(e: &mut Errors, path: &Path, t: &Value) {
    let (key, value) = (t.text("key"), t.text("value"));
    if !key.is_empty() {
        meta::label_name(e, &path.child("key"), key);
    }
    match t.text("operator") {
        "Exists" if !value.is_empty() => e.invalid(
            &path.child("value"),
            value,
            "must be empty for operator `Exists`",
        ),
        "Exists" => {}
        "Equal" => each(e, &path.child("value"), value, label_value(value)),
        "" => e.required(&path.child("operator"), ""),
        other => e.not_supported(&path.child("operator"), other, &["Equal", "Exists"]),
    }
    let effect = t.text("effect");
    let effects = ["NoExecute", "NoSchedule", "None"];
    if !effect.is_empty() && !effects.contains(&effect) {
        e.not_supported(&path.child("effect"), effect, &effects);
    }
}

/// Selectors, whose expressions are not compiled here.
fn selectors(e: &mut Errors, path: &Path, o: &Value) {
    const MAX_EXPRESSION: usize = 10 * 1024;
    let at = path.child("selectors");
    items(e, &at, o.list("selectors"), MOST, |e, at, s| {
        let at = at.child("cel");
        if !s.has("cel") {
            e.required(&at, "");
        } else if s.text("cel.expression").len() > MAX_EXPRESSION {
            e.too_long(&at.child("expression"), MAX_EXPRESSION);
        }
    });
}

/// The requests of a claim that a constraint or a configuration names.
fn request_refs(e: &mut Errors, path: &Path, o: &Value, devices: &Value) {
    let at = path.child("requests");
    distinct(e, &at, o.list("requests"), MOST, text_of, |e, at, item| {
        request_ref(e, at, text_of(item), devices);
    });
}

fn request_ref(e: &mut Errors, path: &Path, name: &str, devices: &Value) {
    const DETAIL: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    let segments: Vec<_> = name.split('/').collect();
    if segments.len() > 2 {
        return e.invalid(path, name, DETAIL);
    }
    for s in &segments {
        request_name(e, path, s);
    }
    // More than there may be are told already.
    let known = devices.list("requests").iter().take(MOST).any(|r| {
        Some(&r.text("name")) == segments.first()
            && segments.get(1).is_none_or(|sub| {
                let mut all = r.list("firstAvailable").iter().take(MOST);
                all.any(|f| f.text("name") == *sub)
            })
    });
    if !known {
        e.invalid(path, name, DETAIL);
    }
}

fn constraint(e: &mut Errors, path: &Path, c: &Value) {
    for key in ["matchAttribute", "distinctAttribute"] {
        if let Some(name) = c.text_opt(key) {
            return fully_qualified(e, &path.child(key), name);
        }
    }
    e.required(
        path,
        "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
    );
}

fn identifier(e: &mut Errors, path: &Path, id: &str) {
    const MAX_ID: usize = 32;
    if id.len() > MAX_ID {
        e.too_long(path, MAX_ID);
    }
    each(e, path, id, api::validate::c_identifier(id));
}

fn fully_qualified(e: &mut Errors, path: &Path, name: &str) {
    let parts: Vec<_> = name.split('/').collect();
    match parts[..] {
        [id] => identifier(e, path, id),
        [domain, id] => {
            if domain.is_empty() {
                e.invalid(path, "", "the domain must not be empty");
            } else {
                volumes::csi_driver_name(e, path, domain);
            }
            if id.is_empty() {
                e.invalid(path, "", "the name must not be empty");
            } else {
                identifier(e, path, id);
            }
        }
        _ => {}
    }
    if parts.len() == 1 {
        e.invalid(
            path,
            name,
            "a fully qualified name must be a domain and a name separated by a slash",
        );
    }
}

fn configuration(e: &mut Errors, path: &Path, c: &Value) {
    const MAX_PARAMETERS: usize = 10 * 1024;
    let path = path.child("opaque");
    if !c.has("opaque") {
        return e.required(&path, "");
    }
    volumes::csi_driver_name(e, &path.child("driver"), c.text("opaque.driver"));
    let at = path.child("parameters");
    match c.at("opaque.parameters") {
        Value::Null => e.required(&at, ""),
        v if v.to_string().len() > MAX_PARAMETERS => e.too_long(&at, MAX_PARAMETERS),
        Value::Object(_) => {}
        _ => e.invalid(&at, "<value omitted>", "must be a valid JSON object"),
    }
}

const MOST_CONSUMERS: usize = 256;
const MOST_BINDING: usize = 4;

fn claim_status(e: &mut Errors, o: &Value, old: &Value) {
    let path = Path::new("status");
    let consumers = o.list("status.reservedFor");
    let reserved = path.child("reservedFor");
    distinct(
        e,
        &reserved,
        consumers,
        MOST_CONSUMERS,
        uid_of,
        |e, at, c| {
            for key in ["resource", "name", "uid"] {
                if c.text(key).is_empty() {
                    e.required(&at.child(key), "");
                }
            }
        },
    );
    if !consumers.is_empty() {
        let known = old.list("status.reservedFor");
        if !o.has("status.allocation") {
            e.forbidden(
                &reserved,
                "may not be specified when `allocated` is not set",
            );
        } else if o.has("metadata.deletionTimestamp")
            && consumers.iter().any(|c| !known.contains(c))
        {
            e.forbidden(
                &reserved,
                "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set",
            );
        }
    }
    let at = path.child("allocation");
    let new = o.at("status.allocation");
    if !o.has("status.allocation") {
        return;
    }
    if old.has("status.allocation") {
        let shown = shown::internal("resource.k8s.io/v1", "AllocationResult", new);
        return immutable_shown(e, &at, &shown, new, old.at("status.allocation"));
    }
    let devices = at.child("devices");
    let requests = o.at("spec.devices");
    let list = new.list("devices.results");
    items(e, &devices.child("results"), list, MOST, |e, at, r| {
        request_ref(e, &at.child("request"), r.text("request"), requests);
        volumes::csi_driver_name(e, &at.child("driver"), r.text("driver"));
        pool(e, &at.child("pool"), r.text("pool"));
        let device = r.text("device");
        each(e, &at.child("device"), device, dns1123_label(device));
        binding(e, at, r);
    });
    let list = new.list("devices.config");
    items(e, &devices.child("config"), list, 2 * MOST, |e, at, c| {
        match c.text("source") {
            "" => e.required(&at.child("source"), ""),
            "FromClaim" | "FromClass" => {}
            other => e.not_supported(&at.child("source"), other, &["FromClaim", "FromClass"]),
        }
        request_refs(e, at, c, requests);
        configuration(e, at, c);
    });
    if new.has("nodeSelector") {
        affinity::node_selector(e, &at.child("nodeSelector"), new.at("nodeSelector"));
    }
}

fn pool(e: &mut Errors, path: &Path, name: &str) {
    const MAX_NAME: usize = 253;
    if name.is_empty() {
        return e.required(path, "");
    }
    if name.len() > MAX_NAME {
        e.too_long(path, MAX_NAME);
    }
    for part in name.split('/') {
        each(e, path, part, dns1123_subdomain(part));
    }
}

/// The conditions that a device waits for or fails by before a pod is bound.
fn binding(e: &mut Errors, path: &Path, r: &Value) {
    let keys = ["bindingConditions", "bindingFailureConditions"];
    for key in keys {
        items(
            e,
            &path.child(key),
            r.list(key),
            MOST_BINDING,
            |e, at, c| {
                meta::label_name(e, at, text_of(c));
            },
        );
    }
    let waited: HashSet<&str> = r.texts(keys[0]).into_iter().collect();
    for key in keys {
        let mut seen = HashSet::new();
        for (i, c) in r.texts(key).into_iter().enumerate() {
            let at = path.child(key).index(i);
            if !seen.insert(c) {
                e.duplicate(&at, c);
            }
            if key == keys[1] && waited.contains(&c) {
                e.invalid(
                    &at,
                    c,
                    "bindingFailureConditions must not overlap with bindingConditions",
                );
            }
        }
    }
    for (key, other) in [(keys[0], keys[1]), (keys[1], keys[0])] {
        if r.list(key).is_empty() && !r.list(other).is_empty() {
            e.invalid(
                &path.child(key),
                r.at(key).clone(),
                &format!("{key} are required to use {other}"),
            );
        }
    }
}

fn class_rules(e: &mut Errors, o: &Value) {
    let path = Path::new("spec");
    selectors(e, &path, o.at("spec"));
    let at = path.child("config");
    items(e, &at, o.list("spec.config"), MOST, configuration);
    if let Some(name) = o.text_opt("spec.extendedResourceName")
        && !resources::is_extended(name)
    {
        e.invalid(
            &path.child("extendedResourceName"),
            name,
            "must be a valid extended resource name",
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims() {
        let spec = json!({"devices": {
            "requests": [
                {"name": "a", "exactly": {"deviceClassName": "c", "allocationMode": "All", "count": 1}},
                {"name": "a"},
            ],
            "constraints": [{"requests": ["b"], "matchAttribute": "x"}],
            "config": [{}],
        }});
        let mut e = Errors::new();
        claim_rules(&mut e, &Path::new("spec"), &spec);
        let messages: Vec<_> = e.iter().map(ToString::to_string).collect();
        assert_eq!(
            messages,
            [
                "spec.devices.requests[0].exactly.count: Invalid value: 1: must not be specified when allocationMode is 'All'",
                "spec.devices.requests[1]: Required value: exactly one of `exactly` or `firstAvailable` is required",
                "spec.devices.requests[1]: Duplicate value: \"a\"",
                "spec.devices.constraints[0].requests[0]: Invalid value: \"b\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
                "spec.devices.constraints[0].matchAttribute: Invalid value: \"x\": a fully qualified name must be a domain and a name separated by a slash",
                "spec.devices.config[0].opaque: Required value",
            ]
        );
    }
}
