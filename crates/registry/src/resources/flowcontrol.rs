//! Flow schemas and priority levels.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::plain::Simple;
use crate::builtin::{Config, Parts};
use crate::check::{dns1123_label, dns1123_subdomain, each};
use crate::validate::{Errors, Path};
use crate::value::Tree;

/// Flow schemas.
pub fn schema(_: &Config) -> Parts {
    Parts::new(Simple {
        validate: schema_rules,
        status_change: conditions,
        generation: true,
        status: true,
        status_keeps_meta: true,
        ..Simple::new(|o| o.put_if_zero("spec.matchingPrecedence", 1000))
    })
}

fn level_defaults(o: &mut Value) {
    if o.has("spec.exempt") || o.text("spec.type") == "Exempt" {
        if !o.has("spec.exempt") {
            o.put("spec.exempt", json!({}));
        }
        o.put_if_absent("spec.exempt.nominalConcurrencyShares", 0);
        o.put_if_absent("spec.exempt.lendablePercent", 0);
    }
    if o.has("spec.limited") {
        o.put_if_absent("spec.limited.nominalConcurrencyShares", 30);
        o.put_if_absent("spec.limited.lendablePercent", 0);
    }
    if o.has("spec.limited.limitResponse.queuing") {
        for (key, value) in [("handSize", 8), ("queues", 64), ("queueLengthLimit", 50)] {
            o.slot("spec.limited.limitResponse.queuing")
                .put_if_zero(key, value);
        }
    }
}

/// Priority levels.
pub fn level(_: &Config) -> Parts {
    Parts::new(Simple {
        validate: level_rules,
        status_change: conditions,
        generation: true,
        status: true,
        status_keeps_meta: true,
        ..Simple::new(level_defaults)
    })
}

const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "proxy",
    "update",
    "watch",
];
const KINDS: [(&str, &str); 3] = [
    ("ServiceAccount", "serviceAccount"),
    ("User", "user"),
    ("Group", "group"),
];

fn subject(e: &mut Errors, path: &Path, s: &Value) {
    let kind = s.text("kind");
    let Some((_, own)) = KINDS.into_iter().find(|(k, _)| *k == kind) else {
        return e.not_supported(
            &path.child("kind"),
            kind,
            &["Group", "ServiceAccount", "User"],
        );
    };
    let at = path.child(own);
    let name = s.at(own).text("name");
    if !s.has(own) {
        let detail = format!("{own} is required when subject kind is '{kind}'");
        e.required(&at, &detail);
    } else if name.is_empty() {
        e.required(&at.child("name"), "");
    } else if own == "serviceAccount" && name != "*" {
        each(e, &at.child("name"), name, dns1123_subdomain(name));
    }
    if own == "serviceAccount" && s.has(own) {
        let namespace = s.text("serviceAccount.namespace");
        let at = at.child("namespace");
        if namespace.is_empty() {
            e.required(&at, "must specify namespace for service account");
        } else {
            each(e, &at, namespace, dns1123_label(namespace));
        }
    }
    for (k, other) in KINDS {
        if other != own && s.has(other) {
            let detail = format!("{other} is forbidden when subject kind is not '{k}'");
            e.forbidden(&path.child(other), &detail);
        }
    }
}

/// A list that must not be empty, and that `*` must have to itself. Says whether it has no `*`.
fn wild(
    e: &mut Errors,
    path: &Path,
    list: &[&str],
    required: bool,
    empty: &str,
    what: &str,
) -> bool {
    if list.is_empty() {
        if required {
            e.required(path, empty);
        }
        return false;
    }
    if !list.contains(&"*") {
        return true;
    }
    if list.len() > 1 {
        let detail = format!("if '*' is present, must not specify other {what}");
        e.invalid(path, json!(list), &detail);
    }
    false
}

fn verbs(e: &mut Errors, path: &Path, r: &Value) {
    let list = r.texts("verbs");
    let path = path.child("verbs");
    let named = wild(
        e,
        &path,
        &list,
        true,
        "verbs must contain at least one value",
        "verbs",
    );
    if named && list.iter().any(|v| !VERBS.contains(v)) {
        e.not_supported(&path, json!(list), VERBS);
    }
}

fn url_problem(url: &str) -> Option<&'static str> {
    if url.is_empty() {
        return Some("must not be empty");
    }
    if url == "/" {
        return None;
    }
    let stars = url.matches('*').count();
    if !url.starts_with('/') {
        Some("must start with slash")
    } else if url.contains(' ') {
        Some("must not contain white-space")
    } else if url.contains("//") {
        Some("must not contain double slash")
    } else if stars > 1 || (stars == 1 && !url.ends_with("/*")) {
        Some("wildcard can only do suffix matching")
    } else {
        None
    }
}

fn resource_rule(e: &mut Errors, path: &Path, r: &Value) {
    verbs(e, path, r);
    for (key, empty, what) in [
        (
            "apiGroups",
            "resource rules must supply at least one api group",
            "api groups",
        ),
        (
            "resources",
            "resource rules must supply at least one resource",
            "resources",
        ),
    ] {
        wild(e, &path.child(key), &r.texts(key), true, empty, what);
    }
    let list = r.texts("namespaces");
    let at = path.child("namespaces");
    let named = wild(
        e,
        &at,
        &list,
        !r.flag("clusterScope"),
        "resource rules that are not cluster scoped must supply at least one namespace",
        "namespaces",
    );
    if named {
        for (i, n) in list.into_iter().enumerate() {
            for m in dns1123_label(n) {
                let detail =
                    format!("each member of this list must be '*' or a DNS-1123 label; {m}");
                e.invalid(&at.index(i), n, &detail);
            }
        }
    }
}

fn url_rule(e: &mut Errors, path: &Path, r: &Value) {
    verbs(e, path, r);
    let list = r.texts("nonResourceURLs");
    let at = path.child("nonResourceURLs");
    let empty = "nonResourceURLs must contain at least one value";
    if wild(e, &at, &list, true, empty, "non-resource URLs") {
        for (i, url) in list.into_iter().enumerate() {
            if let Some(problem) = url_problem(url) {
                e.invalid(&at.index(i), url, problem);
            }
        }
    }
}

fn schema_rules(e: &mut Errors, o: &Value) {
    let path = Path::new("spec");
    let at = path.child("matchingPrecedence");
    let precedence = o.int("spec.matchingPrecedence");
    if precedence <= 0 {
        e.invalid(&at, precedence, "must be a positive value");
    }
    if precedence > 10000 {
        e.invalid(&at, precedence, "must not be greater than 10000");
    }
    if precedence == 1 && o.name() != "exempt" {
        e.invalid(
            &at,
            precedence,
            "only the schema named 'exempt' may have matchingPrecedence 1",
        );
    }
    let method = o.text("spec.distinguisherMethod.type");
    if o.has("spec.distinguisherMethod") && !["ByNamespace", "ByUser"].contains(&method) {
        e.not_supported(
            &path.child("distinguisherMethod").child("type"),
            json!({"Type": method}),
            &["ByNamespace", "ByUser"],
        );
    }
    let level = o.text("spec.priorityLevelConfiguration.name");
    let at = path.child("priorityLevelConfiguration").child("name");
    if level.is_empty() {
        e.required(&at, "must reference a priority level");
    } else {
        each(e, &at, level, dns1123_subdomain(level));
    }
    for (i, r) in o.list("spec.rules").iter().enumerate() {
        let at = path.child("rules").index(i);
        let subjects = at.child("subjects");
        if r.list("subjects").is_empty() {
            e.required(&subjects, "subjects must contain at least one value");
        }
        for (i, s) in r.list("subjects").iter().enumerate() {
            subject(e, &subjects.index(i), s);
        }
        if r.list("resourceRules").is_empty() && r.list("nonResourceRules").is_empty() {
            e.required(
                &at,
                "at least one of resourceRules and nonResourceRules has to be non-empty",
            );
        }
        for (i, r) in r.list("resourceRules").iter().enumerate() {
            resource_rule(e, &at.child("resourceRules").index(i), r);
        }
        for (i, r) in r.list("nonResourceRules").iter().enumerate() {
            url_rule(e, &at.child("nonResourceRules").index(i), r);
        }
    }
}

fn conditions(e: &mut Errors, o: &Value, _: &Value) {
    let path = Path::new("status").child("conditions");
    let mut seen = HashSet::new();
    for (i, c) in o.list("status.conditions").iter().enumerate() {
        let at = path.index(i).child("type");
        let kind = c.text("type");
        if !seen.insert(kind) {
            e.duplicate(&at, kind);
        }
        if kind.is_empty() {
            e.required(&at, "");
        }
    }
}

fn shares(e: &mut Errors, path: &Path, o: &Value) {
    let n = o.int("nominalConcurrencyShares");
    if n < 0 {
        e.invalid(
            &path.child("nominalConcurrencyShares"),
            n,
            "must be a non-negative integer",
        );
    }
}

fn lendable(e: &mut Errors, path: &Path, o: &Value) {
    let n = o.int("lendablePercent");
    if !(0..=100).contains(&n) {
        e.invalid(
            &path.child("lendablePercent"),
            n,
            "must be between 0 and 100, inclusive",
        );
    }
}

/// How many bits of a hash dealing a hand takes.
fn entropy(deck: i64, hand: i64) -> f64 {
    ((deck as f64).log2() * hand as f64).ceil()
}

fn queuing(e: &mut Errors, path: &Path, q: &Value) {
    const MAX_QUEUES: i64 = 10_000_000;
    const MAX_BITS: i64 = 60;
    let (limit, queues, hand) = (
        q.int("queueLengthLimit"),
        q.int("queues"),
        q.int("handSize"),
    );
    if limit <= 0 {
        e.invalid(&path.child("queueLengthLimit"), limit, "must be positive");
    }
    let at = path.child("queues");
    if queues <= 0 {
        e.invalid(&at, queues, "must be positive");
    } else if queues > MAX_QUEUES {
        e.invalid(
            &at,
            queues,
            &format!("must not be greater than {MAX_QUEUES}"),
        );
    }
    let at = path.child("handSize");
    if hand <= 0 {
        e.invalid(&at, hand, "must be positive");
    } else if hand > queues {
        let detail = format!("should not be greater than queues ({queues})");
        e.invalid(&at, hand, &detail);
    } else if entropy(queues, hand) > MAX_BITS as f64 {
        let detail = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {MAX_BITS}"
        );
        e.invalid(&at, hand, &detail);
    }
}

fn limited(e: &mut Errors, path: &Path, l: &Value) {
    shares(e, path, l);
    let at = path.child("limitResponse");
    let has = l.has("limitResponse.queuing");
    match l.text("limitResponse.type") {
        "Reject" if has => e.forbidden(
            &at.child("queuing"),
            "must be nil if limited.limitResponse.type is not Limited",
        ),
        "Reject" => {}
        "Queue" if has => queuing(e, &at.child("queuing"), l.at("limitResponse.queuing")),
        "Queue" => e.required(
            &at.child("queuing"),
            "must not be empty if limited.limitResponse.type is Limited",
        ),
        other => e.not_supported(&at.child("type"), other, &["Queue", "Reject"]),
    }
    lendable(e, path, l);
    let n = l.int("borrowingLimitPercent");
    if n < 0 {
        e.invalid(
            &path.child("borrowingLimitPercent"),
            n,
            "if specified, must be a non-negative integer",
        );
    }
}

fn level_rules(e: &mut Errors, o: &Value) {
    const ZERO: &str = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares";
    if o.annotation(ZERO).is_some() {
        e.forbidden(
            &Path::new("metadata").child("annotations"),
            &format!("annotation '{ZERO}' is forbidden"),
        );
    }
    let path = Path::new("spec");
    let kind = o.text("spec.type");
    if (o.name() == "exempt") != (kind == "Exempt") {
        e.invalid(
            &path.child("type"),
            kind,
            "must be 'Exempt' if and only if `name` is 'exempt'",
        );
    }
    let (is_exempt, is_limited) = (path.child("exempt"), path.child("limited"));
    match kind {
        "Exempt" => {
            if o.has("spec.limited") {
                e.forbidden(&is_limited, "must be nil if the type is not Limited");
            }
            shares(e, &is_exempt, o.at("spec.exempt"));
            lendable(e, &is_exempt, o.at("spec.exempt"));
        }
        "Limited" => {
            if o.has("spec.exempt") {
                e.forbidden(&is_exempt, "must be nil if the type is Limited");
            }
            if o.has("spec.limited") {
                limited(e, &is_limited, o.at("spec.limited"));
            } else {
                e.required(&is_limited, "must not be empty when type is Limited");
            }
        }
        other => e.not_supported(&path.child("type"), other, &["Exempt", "Limited"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(check: fn(&mut Errors, &Value), o: &Value) -> Vec<String> {
        let mut e = Errors::new();
        check(&mut e, o);
        e.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn schemas() {
        let o = json!({"metadata": {"name": "a"}, "spec": {"matchingPrecedence": 1,
            "priorityLevelConfiguration": {"name": "l"},
            "rules": [{"subjects": [{"kind": "User", "group": {"name": "g"}}],
                "nonResourceRules": [{"verbs": ["feed"], "nonResourceURLs": ["/a*"]}]}]}});
        assert_eq!(
            messages(schema_rules, &o),
            [
                "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
                "spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'",
                "spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'",
                "spec.rules[0].nonResourceRules[0].verbs: Unsupported value: [\"feed\"]: supported values: \"create\", \"delete\", \"deletecollection\", \"get\", \"list\", \"patch\", \"proxy\", \"update\", \"watch\"",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"/a*\": wildcard can only do suffix matching",
            ]
        );
    }

    #[test]
    fn levels() {
        let mut o = json!({"metadata": {"name": "a"}, "spec": {"type": "Limited", "limited": {
            "limitResponse": {"type": "Queue", "queuing": {"queues": 64, "handSize": 8, "queueLengthLimit": 50}}}}});
        assert!(messages(level_rules, &o).is_empty());
        o.put("spec.limited.limitResponse.queuing.queues", 512);
        assert_eq!(
            messages(level_rules, &o),
            [
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 8: required entropy bits of deckSize 512 and handSize 8 should not be greater than 60"
            ]
        );
    }
}
