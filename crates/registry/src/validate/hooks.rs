//! Admission webhooks and policies. Expressions are not compiled here.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{Errors, Path, meta};
use crate::check::{
    dns1035_label, dns1123_subdomain, each, path_segment, port_number, qualified_name,
};
use crate::value::{Tree, same};

const FAILURE: &[&str] = &["Fail", "Ignore"];
const MATCH: &[&str] = &["Equivalent", "Exact"];
const EFFECTS: &[&str] = &["None", "NoneOnDryRun", "Some", "Unknown"];
const NO_EFFECTS: &[&str] = &["None", "NoneOnDryRun"];
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const MUTATING_OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];
const REINVOCATION: &[&str] = &["IfNeeded", "Never"];
const REVIEWS: &[&str] = &["v1", "v1beta1"];

fn one_of(e: &mut Errors, path: &Path, o: &Value, key: &str, supported: &[&str]) {
    if let Some(v) = o.text_opt(key)
        && !supported.contains(&v)
    {
        e.not_supported(&path.child(key), v, supported);
    }
}

/// Like [`one_of`], for what must be given.
fn required_one_of(e: &mut Errors, path: &Path, o: &Value, key: &str, supported: &[&str]) {
    if o.has(key) {
        one_of(e, path, o, key, supported);
    } else {
        e.required(&path.child(key), "");
    }
}

fn sub_resources(e: &mut Errors, path: &Path, list: &[&str]) {
    let (mut all_subs, mut all_resources) = (HashSet::new(), HashSet::new());
    let mut plain = false;
    for (i, item) in list.iter().enumerate() {
        let at = path.index(i);
        if item.is_empty() {
            e.required(&at, "");
            continue;
        }
        let Some((resource, sub)) = item.split_once('/') else {
            plain = *item != "*";
            continue;
        };
        if all_subs.contains(resource) {
            let detail = format!("if '{resource}/*' is present, must not specify {item}");
            e.invalid(&at, *item, &detail);
        }
        if all_resources.contains(sub) {
            let detail = format!("if '*/{sub}' is present, must not specify {item}");
            e.invalid(&at, *item, &detail);
        }
        if sub == "*" {
            all_subs.insert(resource);
        }
        if resource == "*" {
            all_resources.insert(sub);
        }
    }
    if list.len() > 1 && list.contains(&"*/*") {
        e.invalid(
            path,
            json!(list),
            "if '*/*' is present, must not specify other resources",
        );
    }
    if list.contains(&"*") && plain {
        e.invalid(
            path,
            json!(list),
            "if '*' is present, must not specify other resources without subresources",
        );
    }
}

/// A list of names that `*` must have to itself.
fn names(e: &mut Errors, path: &Path, list: &[&str], what: &str) {
    if list.is_empty() {
        e.required(path, "");
    }
    if list.len() > 1 && list.contains(&"*") {
        let detail = format!("if '*' is present, must not specify other {what}");
        e.invalid(path, json!(list), &detail);
    }
}

fn rule(e: &mut Errors, path: &Path, r: &Value) {
    let operations = r.texts("operations");
    let at = path.child("operations");
    names(e, &at, &operations, "operations");
    for (i, o) in operations.iter().enumerate() {
        if !OPERATIONS.contains(o) {
            e.not_supported(&at.index(i), *o, OPERATIONS);
        }
    }
    names(
        e,
        &path.child("apiGroups"),
        &r.texts("apiGroups"),
        "API groups",
    );
    let versions = r.texts("apiVersions");
    let at = path.child("apiVersions");
    names(e, &at, &versions, "API versions");
    for (i, v) in versions.iter().enumerate() {
        if v.is_empty() {
            e.required(&at.index(i), "");
        }
    }
    let resources = r.texts("resources");
    let at = path.child("resources");
    if resources.is_empty() {
        e.required(&at, "");
    }
    sub_resources(e, &at, &resources);
    one_of(e, path, r, "scope", &["*", "Cluster", "Namespaced"]);
}

fn fully_qualified(e: &mut Errors, path: &Path, name: &str) {
    let messages = dns1123_subdomain(name);
    if name.is_empty() {
        e.required(path, "");
    } else if !messages.is_empty() {
        e.invalid(path, name, &messages.join(","));
    } else if name.split('.').count() < 3 {
        e.invalid(
            path,
            name,
            "should be a domain with at least three segments separated by dots",
        );
    }
}

/// The address of a webhook, `https` and nothing but host and path.
pub fn webhook_url(e: &mut Errors, path: &Path, url: &str) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (rest, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (scheme, rest) = match rest.split_once(':') {
        Some((s, r))
            if s.starts_with(|c: char| c.is_ascii_alphabetic())
                && s.chars()
                    .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) =>
        {
            (s.to_ascii_lowercase(), r)
        }
        _ => (String::new(), rest),
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = rest
        .strip_prefix("//")
        .map_or("", |r| r.split('/').next().unwrap_or(r));
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    if scheme != "https" {
        let detail = format!("'https' is the only allowed URL scheme{FORM}");
        e.invalid(path, scheme, &detail);
    }
    if host.is_empty() {
        e.invalid(path, "", &format!("host must be specified{FORM}"));
    }
    if let Some(user) = user {
        e.invalid(path, user, "user information is not permitted in the URL");
    }
    if !fragment.is_empty() {
        e.invalid(path, fragment, "fragments are not permitted in the URL");
    }
    if !query.is_empty() {
        e.invalid(path, query, "query parameters are not permitted in the URL");
    }
}

/// The service of a webhook.
pub fn webhook_service(e: &mut Errors, path: &Path, s: &Value) {
    // Upstream calls its check with name and namespace the other way round.
    if s.text("namespace").is_empty() {
        e.required(&path.child("name"), "");
    }
    if s.text("name").is_empty() {
        e.required(&path.child("namespace"), "");
    }
    let port = s.int("port");
    let messages = port_number(port);
    if !messages.is_empty() {
        let detail = format!("port is not valid: {}", messages.join(", "));
        e.invalid(&path.child("port"), port, &detail);
    }
    let at = path.child("path");
    let url = s.text("path");
    match url {
        "" | "/" => return,
        "//" => return e.invalid(&at, url, "segment[0] may not be empty"),
        _ => {}
    }
    if !url.starts_with('/') {
        e.invalid(&at, url, "must start with a '/'");
    }
    let rest: String = url.chars().skip(1).collect();
    let rest = rest.strip_suffix('/').unwrap_or(&rest);
    for (i, step) in rest.split('/').enumerate() {
        if step.is_empty() {
            e.invalid(&at, url, &format!("segment[{i}] may not be empty"));
            continue;
        }
        for m in dns1123_subdomain(step) {
            e.invalid(&at, url, &format!("segment[{i}]: {m}"));
        }
    }
}

fn conditions(e: &mut Errors, path: &Path, o: &Value) {
    let list = o.list("matchConditions");
    let path = path.child("matchConditions");
    if list.len() > 64 {
        e.too_many(&path, list.len(), 64);
    }
    let mut seen = HashSet::new();
    for (i, c) in list.iter().enumerate() {
        let at = path.index(i);
        expression(e, &at, c, "expression", "");
        let name = c.text("name");
        let at = at.child("name");
        if name.is_empty() {
            e.required(&at, "");
        } else {
            each(e, &at, name, qualified_name(name));
            if !seen.insert(name) {
                e.duplicate(&at, name);
            }
        }
    }
}

fn expression(e: &mut Errors, path: &Path, o: &Value, key: &str, detail: &str) {
    if o.text(key).trim().is_empty() {
        e.required(&path.child(key), detail);
    }
}

/// What an old object decides about the rules of a new one.
struct Looser {
    conditions: bool,
    effects: bool,
    versions: bool,
    duplicates: bool,
    selectors: bool,
}

impl Looser {
    fn new(new: &Value, old: &Value) -> Looser {
        let old = old.list("webhooks");
        let new = new.list("webhooks");
        let mut names = HashSet::new();
        let mut e = Errors::new();
        for h in old {
            for key in ["namespaceSelector", "objectSelector"] {
                meta::selector(&mut e, &Path::root(), h.at(key));
            }
        }
        Looser {
            conditions: new.len() == old.len()
                && new
                    .iter()
                    .zip(old)
                    .all(|(n, o)| same(n.at("matchConditions"), o.at("matchConditions"))),
            effects: !old
                .iter()
                .all(|h| NO_EFFECTS.contains(&h.text("sideEffects"))),
            versions: old.iter().any(|h| {
                let versions = h.texts("admissionReviewVersions");
                !versions.is_empty() && !versions.iter().any(|v| REVIEWS.contains(v))
            }),
            duplicates: !old.iter().all(|h| names.insert(h.text("name"))),
            selectors: !e.is_empty(),
        }
    }
}

/// A selector whose expressions' values may be no label values.
fn loose_selector(e: &mut Errors, path: &Path, s: &Value) {
    let mut s = s.clone();
    for r in s.list_mut("matchExpressions") {
        for v in r.list_mut("values") {
            *v = json!("");
        }
    }
    meta::selector(e, path, &s);
}

fn webhook(e: &mut Errors, path: &Path, h: &Value, mutating: bool, looser: Option<&Looser>) {
    fully_qualified(e, &path.child("name"), h.text("name"));
    for (i, r) in h.list("rules").iter().enumerate() {
        rule(e, &path.child("rules").index(i), r);
    }
    one_of(e, path, h, "failurePolicy", FAILURE);
    one_of(e, path, h, "matchPolicy", MATCH);
    let effects = match looser {
        Some(l) if l.effects => EFFECTS,
        _ => NO_EFFECTS,
    };
    if h.has("sideEffects") {
        one_of(e, path, h, "sideEffects", effects);
    } else {
        let detail = format!("must specify one of {}", effects.join(", "));
        e.required(&path.child("sideEffects"), &detail);
    }
    if let Some(n) = h.int_opt("timeoutSeconds")
        && !(1..=30).contains(&n)
    {
        e.invalid(
            &path.child("timeoutSeconds"),
            n,
            "the timeout value must be between 1 and 30 seconds",
        );
    }
    for key in ["namespaceSelector", "objectSelector"] {
        if looser.is_some_and(|l| l.selectors) {
            loose_selector(e, &path.child(key), h.at(key));
        } else {
            meta::selector(e, &path.child(key), h.at(key));
        }
    }
    if mutating {
        one_of(e, path, h, "reinvocationPolicy", REINVOCATION);
    }
    let client = path.child("clientConfig");
    match (
        h.text_opt("clientConfig.url"),
        h.has("clientConfig.service"),
    ) {
        (Some(url), false) => webhook_url(e, &client.child("url"), url),
        (None, true) => webhook_service(e, &client.child("service"), h.at("clientConfig.service")),
        _ => e.required(&client, "exactly one of url or service is required"),
    }
    if !looser.is_some_and(|l| l.conditions) {
        conditions(e, path, h);
    }
    review_versions(e, path, h, !looser.is_some_and(|l| l.versions));
}

fn review_versions(e: &mut Errors, path: &Path, h: &Value, recognized: bool) {
    let path = path.child("admissionReviewVersions");
    let versions = h.texts("admissionReviewVersions");
    if versions.is_empty() {
        return e.required(
            &path,
            &format!("must specify one of {}", REVIEWS.join(", ")),
        );
    }
    let mut seen = HashSet::new();
    for (i, v) in versions.iter().enumerate() {
        if seen.insert(v) {
            each(e, &path.index(i), v, dns1035_label(v));
        } else {
            e.invalid(&path.index(i), *v, "duplicate version");
        }
    }
    if recognized && !versions.iter().any(|v| REVIEWS.contains(v)) {
        let detail = format!("must include at least one of {}", REVIEWS.join(", "));
        e.invalid(&path, json!(versions), &detail);
    }
}

fn all_webhooks(e: &mut Errors, o: &Value, looser: Option<&Looser>) {
    let mutating = o.text("kind") == "MutatingWebhookConfiguration";
    let path = Path::new("webhooks");
    let mut seen = HashSet::new();
    for (i, h) in o.list("webhooks").iter().enumerate() {
        let at = path.index(i);
        webhook(e, &at, h, mutating, looser);
        let name = h.text("name");
        if !name.is_empty() && !seen.insert(name) && !looser.is_some_and(|l| l.duplicates) {
            e.duplicate(&at.child("name"), name);
        }
    }
}

/// A new webhook configuration.
pub fn webhooks(e: &mut Errors, o: &Value) {
    all_webhooks(e, o, None);
}

/// A changed webhook configuration, which may go on breaking the rules the old one broke.
pub fn webhooks_update(e: &mut Errors, o: &Value, old: &Value) {
    all_webhooks(e, o, Some(&Looser::new(o, old)));
}

fn param_kind(e: &mut Errors, path: &Path, p: &Value) {
    let version = p.text("apiVersion");
    let at = path.child("apiVersion");
    if version.is_empty() {
        e.required(&at, "");
    } else if version != "/" && version.matches('/').count() > 1 {
        let detail = format!("unexpected GroupVersion string: {version}");
        e.invalid(&at, version, &detail);
    } else {
        let (group, v) = match version {
            "/" => ("", ""),
            _ => version.split_once('/').unwrap_or(("", version)),
        };
        let messages = dns1123_subdomain(group);
        if !group.is_empty() && !messages.is_empty() {
            e.invalid(&at, group, &messages.join(","));
        }
        let messages = dns1035_label(v);
        if v.is_empty() {
            e.invalid(&at, version, "version must be specified");
        } else if !messages.is_empty() {
            e.invalid(&at, v, &messages.join(","));
        }
    }
    let kind = p.text("kind");
    let messages = dns1035_label(&kind.to_lowercase());
    if kind.is_empty() {
        e.required(&path.child("kind"), "");
    } else if !messages.is_empty() {
        let detail = format!(
            "may have mixed case, but should otherwise match: {}",
            messages.join(",")
        );
        e.invalid(&path.child("kind"), kind, &detail);
    }
}

fn match_resources(e: &mut Errors, path: &Path, m: &Value) {
    required_one_of(e, path, m, "matchPolicy", MATCH);
    for key in ["namespaceSelector", "objectSelector"] {
        if m.has(key) {
            meta::selector(e, &path.child(key), m.at(key));
        } else {
            e.required(&path.child(key), "");
        }
    }
    for key in ["resourceRules", "excludeResourceRules"] {
        for (i, r) in m.list(key).iter().enumerate() {
            let at = path.child(key).index(i);
            let mut seen = HashSet::new();
            for (j, name) in r.texts("resourceNames").into_iter().enumerate() {
                let at = at.child("resourceNames").index(j);
                each(e, &at, name, path_segment(name));
                if !seen.insert(name) {
                    e.duplicate(&at, name);
                }
            }
            rule(e, &at, r);
        }
    }
}

fn mutating_operations(e: &mut Errors, path: &Path, m: &Value) {
    let path = path.child("resourceRules").child("operations");
    for r in m.list("resourceRules") {
        for o in r.texts("operations") {
            if !MUTATING_OPERATIONS.contains(&o) {
                e.not_supported(&path, o, MUTATING_OPERATIONS);
            }
        }
    }
}

fn cel_identifier(name: &str) -> bool {
    const RESERVED: &[&str] = &[
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ];
    !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric())
        && !RESERVED.contains(&name)
}

fn variables(e: &mut Errors, spec: &Value) {
    let path = Path::new("spec").child("variables");
    for (i, v) in spec.list("variables").iter().enumerate() {
        let at = path.index(i);
        let name = v.text("name");
        if name.trim().is_empty() {
            e.required(&at.child("name"), "name is not specified");
        } else if !cel_identifier(name) {
            e.invalid(&at.child("name"), name, "must be a valid CEL identifier");
        }
        expression(e, &at, v, "expression", "expression is not specified");
    }
}

fn validation(e: &mut Errors, path: &Path, v: &Value) {
    expression(e, path, v, "expression", "expression is not specified");
    for key in ["messageExpression", "message"] {
        let text = v.text(key);
        if !text.is_empty() && text.trim().is_empty() {
            e.invalid(&path.child(key), text, "must be non-empty if specified");
        } else if key == "message" && text.trim().contains(['\n', '\r']) {
            e.invalid(&path.child(key), text, "must not contain line breaks");
        }
    }
    one_of(
        e,
        path,
        v,
        "reason",
        &["Forbidden", "Invalid", "RequestEntityTooLarge"],
    );
}

fn audit_annotations(e: &mut Errors, name: &str, spec: &Value) {
    const LIMIT: usize = 5 * 1024;
    let path = Path::new("spec").child("auditAnnotations");
    let list = spec.list("auditAnnotations");
    if list.len() > 20 {
        let shown: Vec<_> = list
            .iter()
            .map(|a| json!({"Key": a.text("key"), "ValueExpression": a.text("valueExpression")}))
            .collect();
        e.invalid(&path, shown, "must not have more than 20 auditAnnotations");
    }
    let mut seen = HashSet::new();
    for (i, a) in list.iter().enumerate() {
        let at = path.index(i);
        let key = a.text("key");
        if name.is_empty() {
            e.invalid(&at.child("key"), key, "requires metadata.name be non-empty");
        } else {
            let full = format!("{name}/{key}");
            each(e, &at.child("key"), &full, qualified_name(&full));
        }
        expression(
            e,
            &at,
            a,
            "valueExpression",
            "valueExpression is not specified",
        );
        if a.text("valueExpression").trim().len() > LIMIT {
            let detail = format!("must not exceed {LIMIT} bytes in length");
            e.required(&at.child("valueExpression"), &detail);
        }
        if !seen.insert(key) {
            e.duplicate(&at.child("key"), key);
        }
    }
}

fn mutation(e: &mut Errors, path: &Path, m: &Value) {
    let (own, other) = match m.text("patchType") {
        "" => return e.required(&path.child("patchType"), ""),
        "JSONPatch" => ("jsonPatch", "applyConfiguration"),
        "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
        t => {
            return e.not_supported(
                &path.child("patchType"),
                t,
                &["ApplyConfiguration", "JSONPatch"],
            );
        }
    };
    let kind = m.text("patchType");
    if m.has(own) {
        expression(e, &path.child(own), m.at(own), "expression", "");
    } else {
        let detail = format!("must be specified when patchType is {kind}");
        e.required(&path.child(own), &detail);
    }
    if m.has(other) {
        let detail = format!("must not be specified when patchType is {kind}");
        e.invalid(&path.child(other), format!("{{{other}}}"), &detail);
    }
}

fn whole_policy(e: &mut Errors, o: &Value, skip_conditions: bool) {
    let spec = o.at("spec");
    let path = Path::new("spec");
    let mutating = o.text("kind") == "MutatingAdmissionPolicy";
    required_one_of(e, &path, spec, "failurePolicy", FAILURE);
    if spec.has("paramKind") {
        param_kind(e, &path.child("paramKind"), spec.at("paramKind"));
    }
    let at = path.child("matchConstraints");
    let constraints = spec.at("matchConstraints");
    if spec.has("matchConstraints") {
        match_resources(e, &at, constraints);
        if constraints.list("resourceRules").is_empty() {
            e.required(&at.child("resourceRules"), "");
        }
        if mutating {
            mutating_operations(e, &at, constraints);
        }
    } else {
        e.required(&at, "");
    }
    if !skip_conditions {
        conditions(e, &path, spec);
    }
    variables(e, spec);
    if mutating {
        let at = path.child("mutations");
        if spec.list("mutations").is_empty() {
            e.required(&at, "mutations must contain at least one item");
        }
        for (i, m) in spec.list("mutations").iter().enumerate() {
            mutation(e, &at.index(i), m);
        }
        if spec.text("reinvocationPolicy").is_empty() {
            e.required(&path.child("reinvocationPolicy"), "");
        } else {
            one_of(e, &path, spec, "reinvocationPolicy", REINVOCATION);
        }
    } else if spec.list("validations").is_empty() && spec.list("auditAnnotations").is_empty() {
        for key in ["validations", "auditAnnotations"] {
            e.required(
                &path.child(key),
                "validations or auditAnnotations must contain at least one item",
            );
        }
    } else {
        for (i, v) in spec.list("validations").iter().enumerate() {
            validation(e, &path.child("validations").index(i), v);
        }
        audit_annotations(e, o.name(), spec);
    }
}

/// A new admission policy.
pub fn policy(e: &mut Errors, o: &Value) {
    whole_policy(e, o, false);
}

/// A changed admission policy.
pub fn policy_update(e: &mut Errors, o: &Value, old: &Value) {
    let unchanged = ["spec.paramKind", "spec.matchConditions"]
        .iter()
        .all(|key| same(o.at(key), old.at(key)));
    whole_policy(e, o, unchanged);
}

fn param_ref(e: &mut Errors, path: &Path, p: &Value) {
    let name = p.text("name");
    let selector = p.has("selector");
    if !name.is_empty() {
        each(e, &path.child("name"), name, path_segment(name));
    }
    if selector {
        if !name.is_empty() {
            e.forbidden(
                &path.child("name"),
                "name and selector are mutually exclusive",
            );
        }
        meta::selector(e, &path.child("selector"), p.at("selector"));
        if !name.is_empty() {
            e.forbidden(
                &path.child("selector"),
                "name and selector are mutually exclusive",
            );
        }
    } else if name.is_empty() {
        e.required(path, "one of name or selector must be specified");
    }
    if p.text("parameterNotFoundAction").is_empty() {
        e.required(&path.child("parameterNotFoundAction"), "");
    } else {
        one_of(e, path, p, "parameterNotFoundAction", &["Deny", "Allow"]);
    }
}

fn actions(e: &mut Errors, path: &Path, spec: &Value) {
    let actions = spec.texts("validationActions");
    let mut seen = HashSet::new();
    for (i, a) in actions.iter().enumerate() {
        if !["Audit", "Deny", "Warn"].contains(a) {
            e.not_supported(&path.index(i), *a, &["Audit", "Deny", "Warn"]);
        }
        if !seen.insert(*a) {
            e.duplicate(&path.index(i), *a);
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        e.invalid(
            path,
            json!(actions),
            "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)",
        );
    }
    if seen.is_empty() {
        e.required(path, "at least one validation action is required");
    }
}

/// What binds an admission policy.
pub fn policy_binding(e: &mut Errors, o: &Value) {
    let spec = o.at("spec");
    let path = Path::new("spec");
    let name = spec.text("policyName");
    if name.is_empty() {
        e.required(&path.child("policyName"), "");
    } else {
        each(e, &path.child("policyName"), name, dns1123_subdomain(name));
    }
    if spec.has("paramRef") {
        param_ref(e, &path.child("paramRef"), spec.at("paramRef"));
    }
    let mutating = o.text("kind") == "MutatingAdmissionPolicyBinding";
    let at = path.child("matchResources");
    if spec.has("matchResources") {
        match_resources(e, &at, spec.at("matchResources"));
        if mutating {
            mutating_operations(e, &at, spec.at("matchResources"));
        }
    }
    if !mutating {
        actions(e, &path.child("validationActions"), spec);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(check: impl Fn(&mut Errors)) -> Vec<String> {
        let mut e = Errors::new();
        check(&mut e);
        e.iter().map(ToString::to_string).collect()
    }

    fn config() -> Value {
        json!({"kind": "ValidatingWebhookConfiguration", "webhooks": [{
            "name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": "https://h/p"},
            "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
        }]})
    }

    #[test]
    fn new_webhooks() {
        let mut o = config();
        assert_eq!(messages(|e| webhooks(e, &o)), Vec::<String>::new());
        o.list_mut("webhooks")[0].put("sideEffects", "Some");
        o.list_mut("webhooks")[0].put("clientConfig.url", "http://u:p@h?q");
        assert_eq!(
            messages(|e| webhooks(e, &o)),
            [
                "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
                "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
                "webhooks[0].clientConfig.url: Invalid value: \"u:p\": user information is not permitted in the URL",
                "webhooks[0].clientConfig.url: Invalid value: \"q\": query parameters are not permitted in the URL",
            ]
        );
    }

    #[test]
    fn old_webhooks_may_stay_as_they_are() {
        let mut o = config();
        o.list_mut("webhooks")[0].put("sideEffects", "Some");
        o.list_mut("webhooks")[0].put("admissionReviewVersions", json!(["v9"]));
        assert_eq!(
            messages(|e| webhooks(e, &o)),
            [
                "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
                "webhooks[0].admissionReviewVersions: Invalid value: [\"v9\"]: must include at least one of v1, v1beta1"
            ]
        );
        assert!(messages(|e| webhooks_update(e, &o, &o)).is_empty());
    }

    #[test]
    fn resources_of_rules() {
        let check = |list: &[&str]| messages(|e| sub_resources(e, &Path::new("r"), list));
        assert!(check(&["pods", "pods/*"]).is_empty());
        assert_eq!(
            check(&["pods/*", "pods/log"]),
            [
                "r[1]: Invalid value: \"pods/log\": if 'pods/*' is present, must not specify pods/log"
            ]
        );
        assert_eq!(
            check(&["*", "pods"]),
            [
                "r: Invalid value: [\"*\",\"pods\"]: if '*' is present, must not specify other resources without subresources"
            ]
        );
    }

    #[test]
    fn policies() {
        let o = json!({"kind": "ValidatingAdmissionPolicy", "metadata": {"name": "p"}, "spec": {"failurePolicy": "Fail"}});
        assert_eq!(
            messages(|e| policy(e, &o)),
            [
                "spec.matchConstraints: Required value",
                "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
                "spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item",
            ]
        );
        let o = json!({"kind": "ValidatingAdmissionPolicyBinding", "spec": {"policyName": "p", "validationActions": ["Deny", "Deny"]}});
        assert_eq!(
            messages(|e| policy_binding(e, &o)),
            ["spec.validationActions[1]: Duplicate value: \"Deny\""]
        );
    }
}
