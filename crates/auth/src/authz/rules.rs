//! Policy rules: reading, matching, comparing.

use std::collections::{BTreeMap, BTreeSet};

use api::text::go_quote;
use serde_json::Value;

use crate::{Attributes, Rule, UserInfo};

fn strings(v: &Value, key: &str) -> Vec<String> {
    let items = v
        .get(key)
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    items
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// A rule as a role's JSON has it.
fn from_value(v: &Value) -> Rule {
    Rule {
        verbs: strings(v, "verbs"),
        api_groups: strings(v, "apiGroups"),
        resources: strings(v, "resources"),
        resource_names: strings(v, "resourceNames"),
        non_resource_urls: strings(v, "nonResourceURLs"),
    }
}

/// The `rules` of a Role or ClusterRole.
pub fn of_role(role: &Value) -> Vec<Rule> {
    role.get("rules")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice)
        .iter()
        .map(from_value)
        .collect()
}

fn has(set: &[String], what: &str) -> bool {
    set.iter().any(|s| s == what)
}

fn resource_matches(rule: &Rule, a: &Attributes) -> bool {
    rule.resources.iter().any(|r| {
        if r == "*" {
            return true;
        }
        if a.subresource.is_empty() {
            return *r == a.resource;
        }
        match r.split_once('/') {
            Some((res, sub)) => sub == a.subresource && (res == "*" || res == a.resource),
            None => false,
        }
    })
}

fn path_matches(pattern: &str, path: &str) -> bool {
    pattern == "*"
        || pattern == path
        || pattern
            .strip_suffix('*')
            .is_some_and(|p| path.starts_with(p.trim_end_matches('*')))
}

/// Whether one rule allows a request.
pub fn allows(rule: &Rule, a: &Attributes) -> bool {
    if !has(&rule.verbs, "*") && !has(&rule.verbs, &a.verb) {
        return false;
    }
    if !a.is_resource {
        return rule
            .non_resource_urls
            .iter()
            .any(|p| path_matches(p, &a.path));
    }
    (has(&rule.api_groups, "*") || has(&rule.api_groups, &a.group))
        && resource_matches(rule, a)
        && (rule.resource_names.is_empty() || has(&rule.resource_names, &a.name))
}

fn breakdown(rule: &Rule) -> Vec<Rule> {
    let mut out = Vec::new();
    let one = |s: &String| vec![s.clone()];
    for g in &rule.api_groups {
        for r in &rule.resources {
            for v in &rule.verbs {
                let base = Rule {
                    api_groups: one(g),
                    resources: one(r),
                    verbs: one(v),
                    ..Rule::default()
                };
                if rule.resource_names.is_empty() {
                    out.push(base);
                } else {
                    out.extend(rule.resource_names.iter().map(|n| Rule {
                        resource_names: one(n),
                        ..base.clone()
                    }));
                }
            }
        }
    }
    for u in &rule.non_resource_urls {
        out.extend(rule.verbs.iter().map(|v| Rule {
            non_resource_urls: one(u),
            verbs: one(v),
            ..Rule::default()
        }));
    }
    out
}

fn covers_one(owner: &Rule, sub: &Rule) -> bool {
    let all =
        |set: &[String], wanted: &[String]| has(set, "*") || wanted.iter().all(|w| has(set, w));
    let resources = has(&owner.resources, "*")
        || sub.resources.iter().all(|r| {
            has(&owner.resources, r)
                || r.split_once('/')
                    .is_some_and(|(_, s)| has(&owner.resources, &format!("*/{s}")))
        });
    let urls = sub.non_resource_urls.iter().all(|u| {
        owner
            .non_resource_urls
            .iter()
            .any(|o| o == u || (o.ends_with('*') && u.starts_with(o.trim_end_matches('*'))))
    });
    let names = if sub.resource_names.is_empty() {
        owner.resource_names.is_empty()
    } else {
        owner.resource_names.is_empty()
            || sub
                .resource_names
                .iter()
                .all(|n| has(&owner.resource_names, n))
    };
    all(&owner.verbs, &sub.verbs)
        && all(&owner.api_groups, &sub.api_groups)
        && resources
        && names
        && urls
}

/// Into how many parts rules are broken down. A rule of a thousand verbs, groups and resources each would have a billion.
const MAX_PARTS: usize = 20_000;

/// How many parts [`breakdown`] makes.
fn parts(rule: &Rule) -> usize {
    let names = rule.resource_names.len().max(1);
    let resources = rule.api_groups.len().saturating_mul(rule.resources.len());
    let of_verb = resources
        .saturating_mul(names)
        .saturating_add(rule.non_resource_urls.len());
    rule.verbs.len().saturating_mul(of_verb)
}

/// What of `requested` no rule of `owner` covers, broken into rules of one verb, group, resource and name each. Empty:
/// covered. A rule that would have too many parts and is not covered by one rule is returned as a whole.
pub fn covers(owner: &[Rule], requested: &[Rule]) -> Vec<Rule> {
    let mut room = MAX_PARTS;
    let mut out = Vec::new();
    for rule in requested {
        if owner.iter().any(|o| covers_one(o, rule)) {
            continue;
        }
        match room.checked_sub(parts(rule)) {
            Some(left) => {
                room = left;
                let lacks = |sub: &Rule| !owner.iter().any(|o| covers_one(o, sub));
                out.extend(breakdown(rule).into_iter().filter(lacks));
            }
            None => out.push(rule.clone()),
        }
    }
    out
}

fn compact(rules: Vec<Rule>) -> Vec<Rule> {
    let mut out = Vec::new();
    let mut simple: BTreeMap<[Vec<String>; 3], Rule> = BTreeMap::new();
    for r in rules {
        if r.non_resource_urls.is_empty()
            && r.api_groups.len() == 1
            && r.resources.len() == 1
            && r.resource_names.len() <= 1
        {
            let key = [
                r.api_groups.clone(),
                r.resources.clone(),
                r.resource_names.clone(),
            ];
            match simple.get_mut(&key) {
                Some(known) => known.verbs.extend(r.verbs),
                None => {
                    simple.insert(key, r);
                }
            }
        } else {
            out.push(r);
        }
    }
    out.extend(simple.into_values());
    out
}

/// Go's `%q` of a list: `["a" "b"]`.
pub fn quoted(list: &[String]) -> String {
    let all: Vec<String> = list.iter().map(|s| go_quote(s)).collect();
    format!("[{}]", all.join(" "))
}

/// `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`.
pub fn describe(rule: &Rule) -> String {
    let parts: Vec<String> = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("ResourceNames", &rule.resource_names),
        ("Verbs", &rule.verbs),
    ]
    .into_iter()
    .filter(|(_, v)| !v.is_empty())
    .map(|(k, v)| format!("{k}:{}", quoted(v)))
    .collect();
    format!("{{{}}}", parts.join(", "))
}

/// Refuses to let a user grant rules that are not among `owned`, the user's own. `errors` are those of finding these.
///
/// # Errors
/// The text of the 403. `system:masters` is not looked at: cluster-admin's binding covers it.
pub fn confirm_no_escalation(
    user: &UserInfo,
    owned: &[Rule],
    errors: Option<&str>,
    requested: &[Rule],
) -> Result<(), String> {
    let missing = covers(owned, requested);
    if missing.is_empty() {
        return Ok(());
    }
    let list: BTreeSet<String> = compact(missing).iter().map(describe).collect();
    let list: Vec<String> = list.into_iter().collect();
    let mut text = format!(
        "user {} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        go_quote(&user.name),
        quoted(&user.groups),
        list.join("\n")
    );
    if let Some(e) = errors {
        text.push_str(&format!("; resolution errors: [{e}]"));
    }
    Err(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(
        verbs: &[&str],
        groups: &[&str],
        resources: &[&str],
        names: &[&str],
        urls: &[&str],
    ) -> Rule {
        let s = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
        Rule {
            verbs: s(verbs),
            api_groups: s(groups),
            resources: s(resources),
            resource_names: s(names),
            non_resource_urls: s(urls),
        }
    }

    fn ask(verb: &str, group: &str, resource: &str, sub: &str, name: &str) -> Attributes {
        Attributes {
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            subresource: sub.into(),
            name: name.into(),
            is_resource: true,
            ..Attributes::default()
        }
    }

    #[test]
    fn matching() {
        let scale = rule(&["*"], &["apps"], &["*/scale"], &[], &[]);
        assert!(allows(
            &scale,
            &ask("get", "apps", "deployments", "scale", "x")
        ));
        assert!(!allows(&scale, &ask("get", "apps", "deployments", "", "x")));
        assert!(!allows(
            &scale,
            &ask("get", "", "deployments", "scale", "x")
        ));
        let pods = rule(&["get"], &[""], &["pods"], &["a"], &[]);
        assert!(allows(&pods, &ask("get", "", "pods", "", "a")));
        assert!(!allows(&pods, &ask("get", "", "pods", "", "")));
        assert!(!allows(&pods, &ask("get", "", "pods", "log", "a")));
        assert!(allows(
            &rule(&["get"], &[""], &["*"], &[], &[]),
            &ask("get", "", "pods", "log", "a")
        ));
        let url = |path: &str| Attributes {
            verb: "get".into(),
            path: path.into(),
            ..Attributes::default()
        };
        let apis = rule(&["get"], &[], &[], &[], &["/apis/*", "/version"]);
        assert!(allows(&apis, &url("/apis/apps/v1")) && allows(&apis, &url("/version")));
        assert!(!allows(&apis, &url("/apis")) && !allows(&apis, &url("/version/")));
        // A resource rule of stars says nothing about paths.
        assert!(!allows(
            &rule(&["*"], &["*"], &["*"], &[], &[]),
            &url("/metrics")
        ));
    }

    #[test]
    fn escalation() {
        let owner = [
            rule(&["get", "list"], &[""], &["pods"], &[], &[]),
            rule(&["*"], &["apps"], &["*/scale"], &[], &[]),
        ];
        let asked = [
            rule(
                &["get", "delete", "patch"],
                &[""],
                &["pods", "secrets"],
                &[],
                &[],
            ),
            rule(&["update"], &["apps"], &["deployments/scale"], &[], &[]),
        ];
        let user = UserInfo {
            name: "jane".into(),
            groups: vec!["a".into(), "b".into()],
            ..UserInfo::default()
        };
        assert_eq!(
            confirm_no_escalation(&user, &owner, None, &asked).unwrap_err(),
            "user \"jane\" (groups=[\"a\" \"b\"]) is attempting to grant RBAC permissions not currently held:\n\
             {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\" \"patch\"]}\n\
             {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"delete\" \"patch\"]}"
        );
        assert!(covers(&[rule(&["*"], &["*"], &["*"], &[], &[])], &asked).is_empty());
        let incomplete = confirm_no_escalation(&user, &[], Some("e"), &asked[1..]);
        assert!(
            incomplete
                .unwrap_err()
                .ends_with("; resolution errors: [e]")
        );
    }

    #[test]
    fn what_is_not_covered_is_told_piece_by_piece() {
        let own = of_role(&serde_json::json!({"rules": [
            {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "*/scale"]},
            {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"]},
            {"verbs": ["get"], "nonResourceURLs": ["/healthz/*"]},
        ]}));
        for (asked, want) in [
            (rule(&["get"], &[""], &["pods"], &[], &[]), ""),
            (
                rule(&["get", "delete"], &[""], &["pods"], &[], &[]),
                "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}",
            ),
            (
                rule(&["*"], &[""], &["pods"], &[], &[]),
                "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"*\"]}",
            ),
            (rule(&["get"], &[""], &["deployments/scale"], &[], &[]), ""),
            (
                rule(&["get"], &[""], &["secrets"], &[], &[]),
                "{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}",
            ),
            (
                rule(&["get"], &[""], &["secrets"], &["a", "b"], &[]),
                "{APIGroups:[\"\"], Resources:[\"secrets\"], ResourceNames:[\"b\"], Verbs:[\"get\"]}",
            ),
            (rule(&["get"], &[], &[], &[], &["/healthz/x"]), ""),
            (
                rule(&["get"], &[], &[], &[], &["/metrics"]),
                "{NonResourceURLs:[\"/metrics\"], Verbs:[\"get\"]}",
            ),
        ] {
            let told: Vec<String> = covers(&own, std::slice::from_ref(&asked))
                .iter()
                .map(describe)
                .collect();
            assert_eq!(told.join("\n"), want, "{asked:?}");
        }
    }

    #[test]
    fn rules_of_too_many_parts_are_not_broken_down() {
        let many: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        let huge = Rule {
            verbs: many.clone(),
            api_groups: many.clone(),
            resources: many,
            ..Rule::default()
        };
        assert_eq!(
            covers(&[], std::slice::from_ref(&huge)),
            std::slice::from_ref(&huge)
        );
        let all = rule(&["*"], &["*"], &["*"], &[], &[]);
        assert!(covers(&[all], &[huge]).is_empty());
    }
}
