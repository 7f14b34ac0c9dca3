//! Roles and bindings. Nobody may grant what they do not hold, unless they may `escalate` (roles) or `bind` (bindings).

use api::Status;
use apiserver::resource::{Context, Reservation, Strategy};
use async_trait::async_trait;
use auth::authz::rules;
use auth::{Attributes, Decision, GROUP_MASTERS, Rule};
use serde_json::Value;

use crate::builtin::{Config, Parts};
use crate::check::{dns1123_subdomain, each, path_segment};
use crate::validate::{Errors, Path, meta, shown};
use crate::value::{Tree, same};

/// `rbac.authorization.k8s.io`.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// Refuses rules that the user does not hold.
async fn confirm(ctx: &Context<'_>, wanted: &[Rule]) -> Result<(), String> {
    let (owned, incomplete) = ctx.authorizer.rules_for(ctx.user, ctx.namespace).await;
    rules::confirm_no_escalation(ctx.user, &owned, incomplete.as_deref(), wanted)
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
        // As upstream, a right to one name does not count where the path has none.
        if may(ctx, "escalate", resource, ctx.asked).await {
            return Ok(Reservation::none());
        }
        let refuse = |why: &str| Status::forbidden(GROUP, resource, o.name(), why);
        confirm(ctx, &rules::of_role(o))
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
        confirm(ctx, &rules::of_role(&role))
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
