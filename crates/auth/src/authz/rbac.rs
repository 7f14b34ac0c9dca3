//! The RBAC authorizer, over an index by subject.
//!
//! [`RbacIndex`] holds roles and bindings in the form a decision needs: a decision looks at the bindings of the user's
//! name and groups only, whatever else exists. It is kept current by whoever watches the four resources:
//! [`RbacIndex::replace`] after a list, [`RbacIndex::changed`] per event. Absent on purpose: aggregation of cluster roles
//! (a controller writes their rules).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use api::text::go_quote as q;
use async_trait::async_trait;
use serde_json::Value;

use super::rules;
use crate::{Attributes, Authorizer, Decision, Rule, UserInfo};

/// The API group of RBAC's resources.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// The four resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `roles`
    Role,
    /// `clusterroles`
    ClusterRole,
    /// `rolebindings`
    RoleBinding,
    /// `clusterrolebindings`
    ClusterRoleBinding,
}

impl Kind {
    /// All four.
    pub const ALL: [Kind; 4] = [
        Kind::Role,
        Kind::ClusterRole,
        Kind::RoleBinding,
        Kind::ClusterRoleBinding,
    ];

    /// The plural.
    pub fn resource(self) -> &'static str {
        match self {
            Kind::Role => "roles",
            Kind::ClusterRole => "clusterroles",
            Kind::RoleBinding => "rolebindings",
            Kind::ClusterRoleBinding => "clusterrolebindings",
        }
    }

    /// By the plural.
    pub fn of(resource: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|k| k.resource() == resource)
    }
}

/// One subject of one binding, ready for use.
#[derive(Debug)]
struct Grant {
    /// The binding's `namespace/name`, for order and removal.
    binding: String,
    role: RoleKey,
    /// `ClusterRoleBinding "a" of ClusterRole "b" to User "c"`.
    source: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct RoleKey {
    cluster: bool,
    /// `namespace/name`, `/name` for cluster roles.
    key: String,
    name: String,
}

#[derive(Default)]
struct Subjects {
    users: HashMap<String, Vec<Arc<Grant>>>,
    groups: HashMap<String, Vec<Arc<Grant>>>,
    /// Where a binding is in the two maps: whether in `groups`, and under which name.
    places: HashMap<String, Vec<(bool, String)>>,
}

impl Subjects {
    fn remove(&mut self, binding: &str) {
        for (group, name) in self.places.remove(binding).unwrap_or_default() {
            let map = if group {
                &mut self.groups
            } else {
                &mut self.users
            };
            if let Some(grants) = map.get_mut(&name) {
                grants.retain(|g| g.binding != binding);
                if grants.is_empty() {
                    map.remove(&name);
                }
            }
        }
    }

    fn matching<'a>(&'a self, user: &UserInfo, out: &mut Vec<&'a Arc<Grant>>) {
        out.extend(self.users.get(&user.name).into_iter().flatten());
        // A review may say the same group hundreds of thousands of times.
        let mut seen = HashSet::new();
        for g in &user.groups {
            if let Some((g, grants)) = self.groups.get_key_value(g)
                && seen.insert(g)
            {
                out.extend(grants);
            }
        }
    }
}

#[derive(Default)]
struct Inner {
    roles: HashMap<String, Arc<[Rule]>>,
    cluster_roles: HashMap<String, Arc<[Rule]>>,
    cluster: Subjects,
    /// By namespace.
    local: HashMap<String, Subjects>,
}

/// See the module.
#[derive(Default)]
pub struct RbacIndex(RwLock<Inner>);

fn text<'a>(v: &'a Value, pointer: &str) -> &'a str {
    v.pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

impl Inner {
    fn put(&mut self, kind: Kind, namespace: &str, name: &str, object: Option<&Value>) {
        let key = format!("{namespace}/{name}");
        match kind {
            Kind::Role | Kind::ClusterRole => {
                let map = if kind == Kind::Role {
                    &mut self.roles
                } else {
                    &mut self.cluster_roles
                };
                match object {
                    Some(o) => map.insert(key, rules::of_role(o).into()),
                    None => map.remove(&key),
                };
            }
            Kind::ClusterRoleBinding => {
                self.cluster.remove(&key);
                if let Some(o) = object {
                    bind(&mut self.cluster, o, "", name, &key);
                }
            }
            Kind::RoleBinding => {
                let local = self.local.entry(namespace.to_owned()).or_default();
                local.remove(&key);
                if let Some(o) = object {
                    bind(local, o, namespace, name, &key);
                }
                if local.users.is_empty() && local.groups.is_empty() {
                    self.local.remove(namespace);
                }
            }
        }
    }

    fn visit<'a>(
        &'a self,
        user: &UserInfo,
        namespace: &str,
        mut see: impl FnMut(&Grant, Result<&'a Rule, String>) -> bool,
    ) {
        let mut grants = Vec::new();
        self.cluster.matching(user, &mut grants);
        let at = grants.len();
        if !namespace.is_empty()
            && let Some(local) = self.local.get(namespace)
        {
            local.matching(user, &mut grants);
        }
        let mut roles = HashSet::new();
        let (cluster, local) = grants.split_at_mut(at);
        for part in [cluster, local] {
            part.sort_by(|a, b| a.binding.cmp(&b.binding));
            // Several subjects of one binding can match; its first says it all. So does the first binding of a role.
            let mut last = "";
            for grant in part.iter() {
                if grant.binding == last {
                    continue;
                }
                last = &grant.binding;
                if !roles.insert((grant.role.cluster, grant.role.key.as_str())) {
                    continue;
                }
                let map = if grant.role.cluster {
                    &self.cluster_roles
                } else {
                    &self.roles
                };
                match map.get(&grant.role.key) {
                    Some(rules) => {
                        for rule in rules.iter() {
                            if !see(grant, Ok(rule)) {
                                return;
                            }
                        }
                    }
                    None => {
                        let kind = if grant.role.cluster {
                            "clusterrole"
                        } else {
                            "role"
                        };
                        let missing = format!("{kind}.{GROUP} {} not found", q(&grant.role.name));
                        if !see(grant, Err(missing)) {
                            return;
                        }
                    }
                }
            }
        }
    }
}

fn bind(into: &mut Subjects, object: &Value, namespace: &str, name: &str, key: &str) {
    let (role_kind, role_name) = (text(object, "/roleRef/kind"), text(object, "/roleRef/name"));
    let cluster = role_kind == "ClusterRole";
    let role_namespace = if cluster { "" } else { namespace };
    let role = RoleKey {
        cluster,
        key: format!("{role_namespace}/{role_name}"),
        name: role_name.to_owned(),
    };
    let what = if namespace.is_empty() {
        format!("ClusterRoleBinding {}", q(name))
    } else {
        format!("RoleBinding {}", q(&format!("{name}/{namespace}")))
    };
    let mut seen = HashSet::new();
    for s in object
        .get("subjects")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let (kind, subject) = (text(s, "/kind"), text(s, "/name"));
        let mut whom = format!("{kind} {}", q(subject));
        let at = match kind {
            "User" | "Group" => subject.to_owned(),
            "ServiceAccount" => {
                let ns = Some(text(s, "/namespace"))
                    .filter(|n| !n.is_empty())
                    .unwrap_or(namespace);
                // A cluster binding's subject without a namespace applies to nobody.
                if ns.is_empty() {
                    continue;
                }
                whom = format!("ServiceAccount {}", q(&format!("{subject}/{ns}")));
                format!("system:serviceaccount:{ns}:{subject}")
            }
            _ => continue,
        };
        let group = kind == "Group";
        // A subject that stands often counts once: removing the binding looks at all of its places.
        if !seen.insert((group, at.clone())) {
            continue;
        }
        let source = format!("{what} of {role_kind} {} to {whom}", q(role_name));
        let grant = Grant {
            binding: key.to_owned(),
            role: role.clone(),
            source,
        };
        into.places
            .entry(key.to_owned())
            .or_default()
            .push((group, at.clone()));
        let map = if group {
            &mut into.groups
        } else {
            &mut into.users
        };
        map.entry(at).or_default().push(Arc::new(grant));
    }
}

impl RbacIndex {
    /// Empty.
    pub fn new() -> Arc<RbacIndex> {
        Arc::default()
    }

    /// One object was written (`Some`) or deleted (`None`).
    pub fn changed(&self, kind: Kind, namespace: &str, name: &str, object: Option<&Value>) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .put(kind, namespace, name, object);
    }

    /// All objects of a kind, after a list.
    pub fn replace<'a>(&self, kind: Kind, objects: impl IntoIterator<Item = &'a Value>) {
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match kind {
            Kind::Role => inner.roles.clear(),
            Kind::ClusterRole => inner.cluster_roles.clear(),
            Kind::RoleBinding => inner.local.clear(),
            Kind::ClusterRoleBinding => inner.cluster = Subjects::default(),
        }
        for o in objects {
            inner.put(
                kind,
                text(o, "/metadata/namespace"),
                text(o, "/metadata/name"),
                Some(o),
            );
        }
    }

    /// The decision, without waiting for anything.
    pub fn decide(&self, a: &Attributes) -> (Decision, String) {
        let inner = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut allowed = None;
        let mut errors = BTreeSet::new();
        inner.visit(&a.user, &a.namespace, |grant, rule| match rule {
            Ok(rule) if rules::allows(rule, a) => {
                allowed = Some(format!("RBAC: allowed by {}", grant.source));
                false
            }
            Ok(_) => true,
            Err(e) => {
                errors.insert(e);
                true
            }
        });
        if let Some(reason) = allowed {
            return (Decision::Allow, reason);
        }
        (
            Decision::NoOpinion,
            aggregate(errors)
                .map(|e| format!("RBAC: {e}"))
                .unwrap_or_default(),
        )
    }

    /// A user's rules in a namespace (empty: cluster-wide ones only), and what could not be resolved.
    pub fn rules(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, Option<String>) {
        let inner = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (mut out, mut errors) = (Vec::new(), BTreeSet::new());
        inner.visit(user, namespace, |_, rule| {
            match rule {
                Ok(r) => out.push(r.clone()),
                Err(e) => {
                    errors.insert(e);
                }
            }
            true
        });
        (out, aggregate(errors))
    }
}

fn aggregate(errors: BTreeSet<String>) -> Option<String> {
    let list: Vec<String> = errors.into_iter().collect();
    match list.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(format!("[{}]", many.join(", "))),
    }
}

#[async_trait]
impl Authorizer for RbacIndex {
    async fn authorize(&self, a: &Attributes) -> (Decision, String) {
        self.decide(a)
    }

    async fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, Option<String>) {
        self.rules(user, namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn user(name: &str, groups: &[&str]) -> UserInfo {
        UserInfo {
            name: name.into(),
            groups: groups.iter().map(|g| (*g).into()).collect(),
            ..UserInfo::default()
        }
    }

    fn get_pods(user: UserInfo, namespace: &str) -> Attributes {
        Attributes {
            user,
            verb: "get".into(),
            resource: "pods".into(),
            namespace: namespace.into(),
            is_resource: true,
            ..Attributes::default()
        }
    }

    #[test]
    fn bindings_roles_and_reasons() {
        let i = RbacIndex::new();
        let role = json!({"metadata": {"name": "r", "namespace": "golden"}, "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
        let rb = json!({"metadata": {"name": "rb", "namespace": "golden"}, "roleRef": {"kind": "Role", "name": "r"},
            "subjects": [{"kind": "User", "name": "jane"}, {"kind": "ServiceAccount", "name": "sa"}]});
        i.replace(Kind::RoleBinding, [&rb]);
        let (d, why) = i.decide(&get_pods(user("jane", &[]), "golden"));
        assert_eq!(
            (d, why.as_str()),
            (
                Decision::NoOpinion,
                "RBAC: role.rbac.authorization.k8s.io \"r\" not found"
            )
        );
        i.replace(Kind::Role, [&role]);
        let (d, why) = i.decide(&get_pods(user("jane", &[]), "golden"));
        assert_eq!(
            (d, why.as_str()),
            (
                Decision::Allow,
                "RBAC: allowed by RoleBinding \"rb/golden\" of Role \"r\" to User \"jane\""
            )
        );
        let (d, why) = i.decide(&get_pods(
            user("system:serviceaccount:golden:sa", &[]),
            "golden",
        ));
        assert_eq!(
            (d, why.as_str()),
            (
                Decision::Allow,
                "RBAC: allowed by RoleBinding \"rb/golden\" of Role \"r\" to ServiceAccount \"sa/golden\""
            )
        );
        for (who, ns) in [("jane", "default"), ("jane", ""), ("joe", "golden")] {
            assert_eq!(
                i.decide(&get_pods(user(who, &[]), ns)),
                (Decision::NoOpinion, String::new()),
                "{who} {ns}"
            );
        }
        i.changed(Kind::RoleBinding, "golden", "rb", None);
        assert_eq!(
            i.decide(&get_pods(user("jane", &[]), "golden")).0,
            Decision::NoOpinion
        );
    }

    #[tokio::test]
    async fn the_rules_of_a_user_are_those_that_are_decided_by() {
        let i = RbacIndex::new();
        let role = json!({"metadata": {"name": "r", "namespace": "golden"}, "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
        let binding = |name: &str, role: &str| {
            json!({"metadata": {"name": name, "namespace": "golden"}, "roleRef": {"kind": "Role", "name": role},
                "subjects": [{"kind": "User", "name": "jane"}]})
        };
        i.replace(Kind::Role, [&role]);
        i.replace(
            Kind::RoleBinding,
            [&binding("a", "r"), &binding("b", "nope")],
        );
        let jane = user("jane", &[]);
        let (rules, error) = i.rules_for(&jane, "golden").await;
        assert_eq!(rules, rules::of_role(&role));
        let missing = "role.rbac.authorization.k8s.io \"nope\" not found";
        assert_eq!(error.as_deref(), Some(missing));
        for (who, namespace) in [("jane", "other"), ("joe", "golden")] {
            let none = i.rules_for(&user(who, &[]), namespace).await;
            assert_eq!(none, (vec![], None), "{who} {namespace}");
        }
    }

    #[test]
    fn cluster_bindings_reach_every_namespace_and_paths() {
        let i = RbacIndex::new();
        i.changed(Kind::ClusterRole, "", "view", Some(&json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}, {"verbs": ["get"], "nonResourceURLs": ["/healthz*"]}]})));
        i.changed(Kind::ClusterRoleBinding, "", "b", Some(&json!({"roleRef": {"kind": "ClusterRole", "name": "view"}, "subjects": [{"kind": "Group", "name": "g"}]})));
        assert_eq!(
            i.decide(&get_pods(user("x", &["g"]), "any")).1,
            "RBAC: allowed by ClusterRoleBinding \"b\" of ClusterRole \"view\" to Group \"g\""
        );
        let a = Attributes {
            user: user("x", &["g"]),
            verb: "get".into(),
            path: "/healthz/etcd".into(),
            ..Attributes::default()
        };
        assert_eq!(i.decide(&a).0, Decision::Allow);
    }

    #[test]
    fn a_group_that_is_said_often_counts_once() {
        let i = RbacIndex::new();
        for n in 0..50 {
            let b = json!({"roleRef": {"kind": "ClusterRole", "name": "r"}, "subjects": [{"kind": "Group", "name": "g"}]});
            i.changed(Kind::ClusterRoleBinding, "", &format!("b{n}"), Some(&b));
        }
        let all = i.0.read().unwrap();
        let mut grants = Vec::new();
        all.cluster.matching(&user("x", &["g"; 1000]), &mut grants);
        assert_eq!(grants.len(), 50);
    }

    #[test]
    fn decisions_do_not_grow_with_bindings_of_others() {
        let i = RbacIndex::new();
        for n in 0..5_000 {
            let b = json!({"roleRef": {"kind": "ClusterRole", "name": "r"}, "subjects": [{"kind": "User", "name": format!("u{n}")}]});
            i.changed(Kind::ClusterRoleBinding, "", &format!("b{n}"), Some(&b));
            if n % 1000 == 0 {
                i.changed(Kind::ClusterRole, "", "r", Some(&json!({"rules": [{"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]}]})));
            }
        }
        let mut a = get_pods(user("u77", &["system:authenticated"]), "n");
        assert_eq!(i.decide(&a).0, Decision::NoOpinion);
        let mut seen = Vec::new();
        i.0.read().unwrap().visit(&a.user, "n", |grant, rule| {
            seen.push((grant.binding.clone(), rule.is_ok()));
            true
        });
        assert_eq!(seen, [("/b77".to_owned(), true)], "what was looked at");
        a.verb = "list".into();
        assert_eq!(i.decide(&a).0, Decision::Allow);
    }

    /// Nothing quadratic, and no answer larger than what it is made of: a subject said over and over counts once, and so does
    /// a role that many bindings give.
    #[test]
    fn what_bindings_say_often_counts_once() {
        let i = RbacIndex::new();
        let role = json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
        i.changed(Kind::Role, "n", "r", Some(&role));
        let subjects = vec![json!({"kind": "User", "name": "u"}); 20_000];
        let binding = json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": subjects});
        for n in 0..50 {
            i.changed(Kind::RoleBinding, "n", &format!("b{n}"), Some(&binding));
        }
        {
            let all = i.0.read().unwrap();
            let local = &all.local["n"];
            assert_eq!(local.users["u"].len(), 50);
            assert!(local.places.values().all(|places| places.len() == 1));
        }
        assert_eq!(i.rules(&user("u", &[]), "n").0.len(), 1);
        for n in 0..50 {
            i.changed(Kind::RoleBinding, "n", &format!("b{n}"), None);
        }
        assert!(i.0.read().unwrap().local.is_empty());
        assert_eq!(i.rules(&user("u", &[]), "n").0.len(), 0);
    }
}
