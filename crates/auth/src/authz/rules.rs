//! Policy rules: reading, matching, comparing.

use std::collections::{BTreeMap, BTreeSet, HashSet};

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

/// A rule that somebody holds, ready to be asked about many others.
struct Held<'a> {
    verbs: HashSet<&'a str>,
    api_groups: HashSet<&'a str>,
    resources: HashSet<&'a str>,
    /// The subresources of any resource: `scale` of `*/scale`.
    of_any: HashSet<&'a str>,
    names: HashSet<&'a str>,
    urls: HashSet<&'a str>,
    /// What stands before the `*` of URLs.
    prefixes: Vec<&'a str>,
}

impl<'a> Held<'a> {
    fn new(rule: &'a Rule) -> Held<'a> {
        fn set(list: &[String]) -> HashSet<&str> {
            list.iter().map(String::as_str).collect()
        }
        let resources = set(&rule.resources);
        let urls = set(&rule.non_resource_urls);
        Held {
            verbs: set(&rule.verbs),
            api_groups: set(&rule.api_groups),
            of_any: resources
                .iter()
                .filter_map(|r| r.strip_prefix("*/"))
                .collect(),
            names: set(&rule.resource_names),
            prefixes: urls
                .iter()
                .filter(|u| u.ends_with('*'))
                .map(|u| u.trim_end_matches('*'))
                .collect(),
            resources,
            urls,
        }
    }

    /// No less than how often [`Held::covers`] looks something up.
    fn cost(&self, sub: &Rule) -> usize {
        let urls = sub
            .non_resource_urls
            .len()
            .saturating_mul(1 + self.prefixes.len());
        1 + sub.verbs.len()
            + sub.api_groups.len()
            + sub.resources.len()
            + sub.resource_names.len()
            + urls
    }

    fn covers(&self, sub: &Rule) -> bool {
        let all = |set: &HashSet<&str>, wanted: &[String]| {
            set.contains("*") || wanted.iter().all(|w| set.contains(w.as_str()))
        };
        let resources = self.resources.contains("*")
            || sub.resources.iter().all(|r| {
                self.resources.contains(r.as_str())
                    || r.split_once('/')
                        .is_some_and(|(_, s)| self.of_any.contains(s))
            });
        let names = self.names.is_empty()
            || !sub.resource_names.is_empty()
                && sub
                    .resource_names
                    .iter()
                    .all(|n| self.names.contains(n.as_str()));
        resources
            && names
            && all(&self.verbs, &sub.verbs)
            && all(&self.api_groups, &sub.api_groups)
            && sub.non_resource_urls.iter().all(|u| {
                self.urls.contains(u.as_str()) || self.prefixes.iter().any(|p| u.starts_with(p))
            })
    }
}

/// How often something may be looked up to tell whether rules are covered: thousands of rules held against thousands asked for
/// are millions. Upstream has no such limit.
const MAX_LOOKUPS: usize = 5_000_000;

/// Whether one of some rules covers another; `None` if `left` does not suffice to tell.
fn covered(owner: &[Held<'_>], sub: &Rule, left: &mut usize) -> Option<bool> {
    for held in owner {
        *left = left.checked_sub(held.cost(sub))?;
        if held.covers(sub) {
            return Some(true);
        }
    }
    Some(false)
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
/// covered. A rule that would have too many parts and is not covered by one rule, or of which it costs too much to tell, is
/// returned as a whole.
pub fn covers(owner: &[Rule], requested: &[Rule]) -> Vec<Rule> {
    let owner: Vec<Held<'_>> = owner.iter().map(Held::new).collect();
    let (mut room, mut left) = (MAX_PARTS, MAX_LOOKUPS);
    let mut out = Vec::new();
    for rule in requested {
        match covered(&owner, rule, &mut left) {
            Some(true) => continue,
            Some(false) => {}
            None => {
                out.push(rule.clone());
                continue;
            }
        }
        match room.checked_sub(parts(rule)) {
            Some(rest) => {
                room = rest;
                let lacks = |sub: &Rule| covered(&owner, sub, &mut left) != Some(true);
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
    fn rules_for_one_resource_are_told_together_and_others_as_they_are() {
        let told = |a: Rule, b: Rule| compact(vec![a, b]).len();
        let one = |verb: &str| rule(&[verb], &[""], &["pods"], &[], &[]);
        let merged = compact(vec![one("get"), one("list")]);
        assert_eq!(merged, [rule(&["get", "list"], &[""], &["pods"], &[], &[])]);
        let named = |verb: &str| rule(&[verb], &[""], &["pods"], &["a"], &[]);
        assert_eq!(told(named("get"), named("list")), 1);
        assert_eq!(told(one("get"), named("list")), 2);
        for f in [
            |verb: &str| rule(&[verb], &["", "apps"], &["pods"], &[], &[]),
            |verb: &str| rule(&[verb], &[""], &["pods", "nodes"], &[], &[]),
            |verb: &str| rule(&[verb], &[""], &["pods"], &["a", "b"], &[]),
            |verb: &str| rule(&[verb], &[""], &["pods"], &[], &["/x"]),
            |verb: &str| rule(&[verb], &[], &[], &[], &["/x"]),
        ] {
            assert_eq!(told(f("get"), f("list")), 2, "{:?}", f("get"));
        }
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

    /// Nothing quadratic: neither many words in one rule nor many rules make the question long; what costs too much to tell
    /// is not held.
    #[test]
    fn rules_in_any_number_are_told_in_time() {
        let texts = |text: &str, n: usize| vec![text.to_owned(); n];
        let base = rule(&["get"], &[""], &["pods"], &[], &[]);
        let mut held = base.clone();
        held.verbs = texts("list", 50_000);
        held.verbs.push("get".to_owned());
        let asked = Rule {
            verbs: texts("get", 50_000),
            ..base.clone()
        };
        assert!(covers(&[held], &[asked]).is_empty());
        let many = |prefix: &str| -> Vec<Rule> {
            (0..20_000)
                .map(|n| Rule {
                    resource_names: vec![format!("{prefix}{n}")],
                    ..base.clone()
                })
                .collect()
        };
        assert_eq!(covers(&many("a"), &many("b")).len(), 20_000);
        assert!(covers(std::slice::from_ref(&base), &many("b")).is_empty());
    }
}
