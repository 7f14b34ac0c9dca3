//! Roles and bindings. Nobody may grant what they do not hold, unless they may `escalate` (roles) or `bind` (bindings).

use std::collections::{BTreeSet, HashMap};

use api::Status;
use apiserver::resource::{Context, Reservation, Strategy};
use async_trait::async_trait;
use auth::{Attributes, Decision, GROUP_MASTERS, Rule};
use serde_json::Value;

use crate::builtin::{Config, Parts};
use crate::check::{dns1123_subdomain, each, path_segment};
use crate::validate::{Errors, Path, meta, shown};
use crate::value::{Tree, same};

/// `rbac.authorization.k8s.io`.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// The rules of a role object.
pub fn rules_of(role: &Value) -> Vec<Rule> {
    let texts = |r: &Value, key: &str| r.texts(key).iter().map(|s| (*s).to_owned()).collect();
    role.list("rules")
        .iter()
        .map(|r| Rule {
            verbs: texts(r, "verbs"),
            api_groups: texts(r, "apiGroups"),
            resources: texts(r, "resources"),
            resource_names: texts(r, "resourceNames"),
            non_resource_urls: texts(r, "nonResourceURLs"),
        })
        .collect()
}

fn has_all(owner: &[String], wanted: &str) -> bool {
    owner.iter().any(|o| o == "*" || o == wanted)
}

fn resource_covered(owner: &[String], wanted: &str) -> bool {
    owner.iter().any(|o| {
        o == "*"
            || o == wanted
            || o.strip_prefix("*/")
                .is_some_and(|sub| wanted.split_once('/').is_some_and(|(_, w)| w == sub))
    })
}

fn path_covered(owner: &[String], wanted: &str) -> bool {
    owner.iter().any(|o| {
        o == "*" || o == wanted || o.strip_suffix('*').is_some_and(|p| wanted.starts_with(p))
    })
}

/// A rule of one verb, group, resource and name, or of one verb and path.
fn break_down(rule: &Rule) -> Vec<Rule> {
    let mut out = vec![];
    for verb in &rule.verbs {
        for group in &rule.api_groups {
            for resource in &rule.resources {
                let names: Vec<Vec<String>> = if rule.resource_names.is_empty() {
                    vec![vec![]]
                } else {
                    rule.resource_names
                        .iter()
                        .map(|n| vec![n.clone()])
                        .collect()
                };
                out.extend(names.into_iter().map(|resource_names| Rule {
                    verbs: vec![verb.clone()],
                    api_groups: vec![group.clone()],
                    resources: vec![resource.clone()],
                    resource_names,
                    non_resource_urls: vec![],
                }));
            }
        }
        out.extend(rule.non_resource_urls.iter().map(|path| Rule {
            verbs: vec![verb.clone()],
            non_resource_urls: vec![path.clone()],
            ..Rule::default()
        }));
    }
    out
}

fn covers(owner: &Rule, wanted: &Rule) -> bool {
    wanted.verbs.iter().all(|v| has_all(&owner.verbs, v))
        && wanted
            .api_groups
            .iter()
            .all(|g| has_all(&owner.api_groups, g))
        && wanted
            .resources
            .iter()
            .all(|r| resource_covered(&owner.resources, r))
        && wanted
            .non_resource_urls
            .iter()
            .all(|p| path_covered(&owner.non_resource_urls, p))
        && (owner.resource_names.is_empty()
            || !wanted.resource_names.is_empty()
                && wanted
                    .resource_names
                    .iter()
                    .all(|n| owner.resource_names.contains(n)))
}

/// Into how many parts rules are broken down. A rule of a thousand verbs, groups and resources each would have a billion.
const MAX_PARTS: usize = 20_000;

/// How many parts [`break_down`] makes.
fn parts(rule: &Rule) -> usize {
    let names = rule.resource_names.len().max(1);
    let resources = rule.api_groups.len().saturating_mul(rule.resources.len());
    let of_verb = resources
        .saturating_mul(names)
        .saturating_add(rule.non_resource_urls.len());
    rule.verbs.len().saturating_mul(of_verb)
}

/// The parts of `wanted` that none of `owned` covers. A rule that one of `owned` covers as a whole is not broken down, and
/// one that would have too many parts is missing as a whole.
pub fn missing(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let mut room = MAX_PARTS;
    let mut out = vec![];
    for rule in wanted {
        if owned.iter().any(|o| covers(o, rule)) {
            continue;
        }
        match room.checked_sub(parts(rule)) {
            Some(left) => {
                room = left;
                let lacks = |w: &Rule| !owned.iter().any(|o| covers(o, w));
                out.extend(break_down(rule).into_iter().filter(lacks));
            }
            None => out.push(rule.clone()),
        }
    }
    out
}

fn quoted(list: &[String]) -> String {
    let each: Vec<String> = list.iter().map(|s| api::text::go_quote(s)).collect();
    format!("[{}]", each.join(" "))
}

/// A rule as messages show it.
fn compact(rule: &Rule) -> String {
    let mut parts = vec![];
    for (key, list) in [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("ResourceNames", &rule.resource_names),
        ("Verbs", &rule.verbs),
    ] {
        if !list.is_empty() {
            parts.push(format!("{key}:{}", quoted(list).replace("\" \"", "\", \"")));
        }
    }
    format!("{{{}}}", parts.join(", "))
}

/// Joins the verbs of rules that differ in nothing else.
fn join_verbs(rules: Vec<Rule>) -> Vec<Rule> {
    let mut out: Vec<Rule> = vec![];
    let mut places: HashMap<[Vec<String>; 3], usize> = HashMap::new();
    for r in rules {
        if r.non_resource_urls.is_empty() {
            let key = [&r.api_groups, &r.resources, &r.resource_names].map(Clone::clone);
            let place = *places.entry(key).or_insert(out.len());
            if let Some(o) = out.get_mut(place) {
                o.verbs.extend(r.verbs);
                continue;
            }
        }
        out.push(r);
    }
    out
}

/// Refuses rules that the user does not hold.
async fn confirm(ctx: &Context<'_>, rules: &[Rule]) -> Result<(), String> {
    let (owned, incomplete) = ctx.authorizer.rules_for(ctx.user, ctx.namespace).await;
    let lacking = missing(&owned, rules);
    if lacking.is_empty() {
        return Ok(());
    }
    let lines: BTreeSet<String> = join_verbs(lacking).iter().map(compact).collect();
    let mut why = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        ctx.user.name,
        quoted(&ctx.user.groups),
        lines.into_iter().collect::<Vec<_>>().join("\n")
    );
    if let Some(err) = incomplete {
        why.push_str(&format!("; resolution errors: [{err}]"));
    }
    Err(why)
}

/// Whether the user holds a special verb on a role.
async fn may(ctx: &Context<'_>, verb: &str, resource: &str, name: &str) -> bool {
    if ctx.user.in_group(GROUP_MASTERS) {
        return true;
    }
    let a = Attributes {
        user: ctx.user.clone(),
        verb: verb.to_owned(),
        namespace: ctx.namespace.to_owned(),
        group: GROUP.to_owned(),
        version: "*".to_owned(),
        resource: resource.to_owned(),
        name: name.to_owned(),
        is_resource: true,
        ..Attributes::default()
    };
    ctx.authorizer.authorize(&a).await.0 == Decision::Allow
}

/// Whether a change touches only what the garbage collector changes.
fn only_collector_fields(new: &Value, old: &Value) -> bool {
    let mut n = new.clone();
    for key in [
        "metadata.ownerReferences",
        "metadata.finalizers",
        "metadata.managedFields",
        "metadata.resourceVersion",
    ] {
        n.copy_at(key, old);
    }
    same(&n, old)
}

struct Role {
    cluster: bool,
}

fn rule(e: &mut Errors, path: &Path, r: &Value, namespaced: bool) {
    if r.list("verbs").is_empty() {
        e.required(
            &path.child("verbs"),
            "verbs must contain at least one value",
        );
    }
    if !r.list("nonResourceURLs").is_empty() {
        let p = path.child("nonResourceURLs");
        let urls = r.at("nonResourceURLs");
        if namespaced {
            e.invalid(
                &p,
                urls.clone(),
                "namespaced rules cannot apply to non-resource URLs",
            );
        }
        if ["apiGroups", "resources", "resourceNames"]
            .iter()
            .any(|k| !r.list(k).is_empty())
        {
            e.invalid(
                &p,
                urls.clone(),
                "rules cannot apply to both regular resources and non-resource URLs",
            );
        }
        return;
    }
    if r.list("apiGroups").is_empty() {
        e.required(
            &path.child("apiGroups"),
            "resource rules must supply at least one api group",
        );
    }
    if r.list("resources").is_empty() {
        e.required(
            &path.child("resources"),
            "resource rules must supply at least one resource",
        );
    }
}

impl Role {
    fn validate(&self, o: &Value) -> Errors {
        let mut e = Errors::new();
        for (i, r) in o.list("rules").iter().enumerate() {
            rule(&mut e, &Path::new("rules").index(i), r, !self.cluster);
        }
        if self.cluster && o.has("aggregationRule") {
            let p = Path::new("aggregationRule").child("clusterRoleSelectors");
            let selectors = o.list("aggregationRule.clusterRoleSelectors");
            if selectors.is_empty() {
                e.required(
                    &p,
                    "at least one clusterRoleSelector required if aggregationRule is non-nil",
                );
            }
            for (i, s) in selectors.iter().enumerate() {
                let before = e.len();
                meta::selector(&mut e, &p.index(i), s);
                if e.len() > before {
                    e.invalid(&p.index(i), Value::Null, "invalid label selector.");
                }
            }
        }
        e
    }
}

fn aggregates(o: &Value) -> bool {
    !o.list("aggregationRule.clusterRoleSelectors").is_empty()
}

#[async_trait]
impl Strategy for Role {
    fn validate_name(&self, name: &str, _: bool) -> Option<Vec<String>> {
        Some(path_segment(name))
    }

    fn prepare_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate_create(&self, _: &Context<'_>, o: &Value) -> Errors {
        self.validate(o)
    }

    fn validate_update(&self, _: &Context<'_>, o: &Value, _: &Value) -> Errors {
        self.validate(o)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    async fn begin_write(
        &self,
        ctx: &Context<'_>,
        o: &mut Value,
        old: Option<&Value>,
    ) -> Result<Reservation, Status> {
        if old.is_some_and(|old| only_collector_fields(o, old)) {
            return Ok(Reservation::none());
        }
        let resource = if self.cluster {
            "clusterroles"
        } else {
            "roles"
        };
        if may(ctx, "escalate", resource, ctx.name).await {
            return Ok(Reservation::none());
        }
        let refuse = |why: &str| Status::forbidden(GROUP, resource, o.name(), why);
        confirm(ctx, &rules_of(o))
            .await
            .map_err(|why| refuse(&why))?;
        if aggregates(o) || old.is_some_and(aggregates) {
            let star = || vec!["*".to_owned()];
            let all = [
                Rule {
                    verbs: star(),
                    api_groups: star(),
                    resources: star(),
                    ..Rule::default()
                },
                Rule {
                    verbs: star(),
                    non_resource_urls: star(),
                    ..Rule::default()
                },
            ];
            confirm(ctx, &all).await.map_err(|_| {
                refuse("must have cluster-admin privileges to use the aggregationRule")
            })?;
        }
        Ok(Reservation::none())
    }
}

struct Binding {
    cluster: bool,
}

fn subject(e: &mut Errors, path: &Path, s: &Value, namespaced: bool) {
    let (name, group) = (s.text("name"), s.text("apiGroup"));
    if name.is_empty() {
        e.required(&path.child("name"), "");
    }
    match s.text("kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                each(e, &path.child("name"), name, dns1123_subdomain(name));
            }
            if !group.is_empty() {
                e.not_supported(&path.child("apiGroup"), group, &[""]);
            }
            if !namespaced && s.text("namespace").is_empty() {
                e.required(&path.child("namespace"), "");
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                e.not_supported(&path.child("apiGroup"), group, &[GROUP]);
            }
        }
        other => e.not_supported(
            &path.child("kind"),
            other,
            &["ServiceAccount", "User", "Group"],
        ),
    }
}

impl Binding {
    fn validate(&self, o: &Value) -> Errors {
        let mut e = Errors::new();
        let (r, p) = (o.at("roleRef"), Path::new("roleRef"));
        if r.text("apiGroup") != GROUP {
            e.not_supported(&p.child("apiGroup"), r.text("apiGroup"), &[GROUP]);
        }
        let kinds: &[&str] = if self.cluster {
            &["ClusterRole"]
        } else {
            &["Role", "ClusterRole"]
        };
        if !kinds.contains(&r.text("kind")) {
            e.not_supported(&p.child("kind"), r.text("kind"), kinds);
        }
        let name = r.text("name");
        if name.is_empty() {
            e.required(&p.child("name"), "");
        } else {
            each(&mut e, &p.child("name"), name, path_segment(name));
        }
        for (i, s) in o.list("subjects").iter().enumerate() {
            subject(&mut e, &Path::new("subjects").index(i), s, !self.cluster);
        }
        e
    }
}

#[async_trait]
impl Strategy for Binding {
    fn validate_name(&self, name: &str, _: bool) -> Option<Vec<String>> {
        Some(path_segment(name))
    }

    fn default(&self, o: &mut Value) {
        o.put_if_zero("roleRef.apiGroup", GROUP);
        for s in o.list_mut("subjects") {
            if ["User", "Group"].contains(&s.text("kind")) {
                s.put_if_zero("apiGroup", GROUP);
            }
        }
    }

    fn prepare_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate_create(&self, _: &Context<'_>, o: &Value) -> Errors {
        self.validate(o)
    }

    fn validate_update(&self, _: &Context<'_>, o: &Value, old: &Value) -> Errors {
        let mut e = self.validate(o);
        if !same(o.at("roleRef"), old.at("roleRef")) {
            let shown = shown::internal(&format!("{GROUP}/v1"), "RoleRef", o.at("roleRef"));
            e.invalid_shown(&Path::new("roleRef"), &shown, "cannot change roleRef");
        }
        e
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    async fn begin_write(
        &self,
        ctx: &Context<'_>,
        o: &mut Value,
        old: Option<&Value>,
    ) -> Result<Reservation, Status> {
        if old.is_some_and(|old| only_collector_fields(o, old)) {
            return Ok(Reservation::none());
        }
        let name = o.text("roleRef.name");
        let (resource, namespace) = match o.text("roleRef.kind") {
            "ClusterRole" => ("clusterroles", ""),
            _ => ("roles", ctx.namespace),
        };
        if may(ctx, "bind", resource, name).await {
            return Ok(Reservation::none());
        }
        let role = ctx.reader.get(GROUP, resource, namespace, name).await?;
        let role = role.ok_or_else(|| Status::not_found(GROUP, resource, name))?;
        let own = if self.cluster {
            "clusterrolebindings"
        } else {
            "rolebindings"
        };
        confirm(ctx, &rules_of(&role))
            .await
            .map_err(|why| Status::forbidden(GROUP, own, o.name(), &why))?;
        Ok(Reservation::none())
    }
}

/// Roles.
pub fn role(_: &Config) -> Parts {
    Parts::new(Role { cluster: false })
}

/// ClusterRoles.
pub fn cluster_role(_: &Config) -> Parts {
    Parts::new(Role { cluster: true })
}

/// RoleBindings.
pub fn role_binding(_: &Config) -> Parts {
    Parts::new(Binding { cluster: false })
}

/// ClusterRoleBindings.
pub fn cluster_role_binding(_: &Config) -> Parts {
    Parts::new(Binding { cluster: true })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rules(v: Value) -> Vec<Rule> {
        rules_of(&json!({ "rules": v }))
    }

    #[test]
    fn coverage() {
        let own = rules(json!([
            {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "*/scale"]},
            {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"]},
            {"verbs": ["get"], "nonResourceURLs": ["/healthz/*"]},
        ]));
        let lacks = |v: Value| {
            missing(&own, &rules(v))
                .iter()
                .map(compact)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            lacks(json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}])),
            [""; 0]
        );
        assert_eq!(
            lacks(json!([{"verbs": ["get", "delete"], "apiGroups": [""], "resources": ["pods"]}])),
            ["{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}"]
        );
        assert_eq!(
            lacks(json!([{"verbs": ["*"], "apiGroups": [""], "resources": ["pods"]}])),
            ["{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"*\"]}"]
        );
        assert_eq!(
            lacks(
                json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["deployments/scale"]}])
            ),
            [""; 0]
        );
        assert_eq!(
            lacks(json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}])),
            ["{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}"]
        );
        let named = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a", "b"]}]);
        assert_eq!(
            lacks(named),
            ["{APIGroups:[\"\"], Resources:[\"secrets\"], ResourceNames:[\"b\"], Verbs:[\"get\"]}"]
        );
        assert_eq!(
            lacks(json!([{"verbs": ["get"], "nonResourceURLs": ["/healthz/x"]}])),
            [""; 0]
        );
        assert_eq!(
            lacks(json!([{"verbs": ["get"], "nonResourceURLs": ["/metrics"]}])),
            ["{NonResourceURLs:[\"/metrics\"], Verbs:[\"get\"]}"]
        );
    }

    #[test]
    fn messages() {
        let r =
            rules(json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]));
        assert_eq!(
            compact(&r[0]),
            "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\", \"list\"]}"
        );
    }

    #[test]
    fn roles_and_bindings() {
        let role = Role { cluster: false };
        assert_eq!(
            role.validate(&json!({"rules": [{"apiGroups": [""], "resources": ["pods"]}]}))
                .aggregate(),
            "rules[0].verbs: Required value: verbs must contain at least one value"
        );
        assert_eq!(
            role.validate(&json!({"rules": [{"nonResourceURLs": ["/x"], "verbs": ["get"]}]}))
                .aggregate(),
            "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs"
        );
        let b = Binding { cluster: false };
        let mut o = json!({"subjects": [{"kind": "Alien", "name": "x"}], "roleRef": {"kind": "Role", "name": "r"}});
        b.default(&mut o);
        assert_eq!(
            b.validate(&o).aggregate(),
            "subjects[0].kind: Unsupported value: \"Alien\": supported values: \"ServiceAccount\", \"User\", \"Group\""
        );
    }
}
