//! Questions that are posted and answered, never stored: who am I, may I, is this token good.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::Status;
use api::selector::{FieldSelector, FieldTerm, Operator, Requirement, Selector};
use api::text::go_quote;
use apiserver::resource::{ActionSubresource, Context, ObjectWriter};
use async_trait::async_trait;
use auth::{Attributes, Decision, Rule, Selected, TokenAuthenticator, UserInfo};
use serde_json::{Map, Value, json};

use crate::builtin::{Config, Parts};
use crate::validate::meta;
use crate::validate::{Errors, Path, shown};
use crate::value::Tree;

fn user_json(user: &UserInfo) -> Value {
    let mut out = json!({ "username": user.name });
    if !user.uid.is_empty() {
        out.put("uid", user.uid.as_str());
    }
    if !user.groups.is_empty() {
        out.put("groups", user.groups.clone());
    }
    if !user.extra.is_empty() {
        let extra: Map<String, Value> = user
            .extra
            .iter()
            .map(|(k, v)| (k.clone(), json!(v)))
            .collect();
        out.put("extra", extra);
    }
    out
}

struct SelfSubject;

#[async_trait]
impl ActionSubresource for SelfSubject {
    async fn post(
        &self,
        ctx: &Context<'_>,
        _: &dyn ObjectWriter,
        _: Value,
    ) -> Result<(u16, Value), Status> {
        Ok((
            201,
            json!({
                "kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1",
                "metadata": {"creationTimestamp": ctx.now}, "status": {"userInfo": user_json(ctx.user)},
            }),
        ))
    }
}

/// `selfsubjectreviews`.
pub fn self_subject(_: &Config) -> Parts {
    Parts::review(SelfSubject)
}

struct TokenReview {
    authenticator: Option<Arc<dyn TokenAuthenticator>>,
    /// Of this server.
    audiences: Vec<String>,
}

#[async_trait]
impl ActionSubresource for TokenReview {
    async fn post(
        &self,
        _: &Context<'_>,
        _: &dyn ObjectWriter,
        mut body: Value,
    ) -> Result<(u16, Value), Status> {
        let token = body.text("spec.token").to_owned();
        if token.is_empty() {
            return Err(Status::bad_request(
                "token is required for TokenReview in authentication",
            ));
        }
        body.put("status", json!({"user": {}}));
        let Some(authenticator) = &self.authenticator else {
            return Ok((201, body));
        };
        let asked: Vec<String> = body
            .at("spec.audiences")
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|a| a.as_str().map(str::to_owned))
            .collect();
        let wanted = if asked.is_empty() {
            &self.audiences
        } else {
            &asked
        };
        match authenticator.authenticate_token(&token, wanted).await {
            Ok(Some((user, audiences))) => {
                body.put(
                    "status",
                    json!({"authenticated": true, "user": user_json(&user)}),
                );
                if !audiences.is_empty() {
                    body.put("status.audiences", audiences);
                }
            }
            Ok(None) => body.put("status.error", "invalid bearer token"),
            Err(why) => body.put("status.error", format!("[invalid bearer token, {why}]")),
        }
        Ok((201, body))
    }
}

/// `tokenreviews`.
pub fn token(config: &Config) -> Parts {
    Parts::review(TokenReview {
        authenticator: config.authenticator.clone(),
        audiences: config.audiences.clone(),
    })
}

/// Which of the three access reviews.
#[derive(Clone, Copy, PartialEq)]
enum Scope {
    Anyone,
    Local,
    Own,
}

struct Access {
    scope: Scope,
}

fn selector(e: &mut Errors, path: &Path, s: &Value, labels: bool) {
    if s.is_null() {
        return;
    }
    let (raw, requirements) = (s.text("rawSelector"), s.list("requirements"));
    if !raw.is_empty() && !requirements.is_empty() {
        e.invalid(
            &path.child("rawSelector"),
            raw,
            "may not specified at the same time as requirements",
        );
    }
    if raw.is_empty() && requirements.is_empty() {
        e.required(
            &path.child("requirements"),
            &format!("when {path} is specified, requirements or rawSelector is required"),
        );
    }
    for (i, r) in requirements.iter().enumerate() {
        let p = path.child("requirements").index(i);
        let values = r.texts("values");
        match r.text("operator") {
            "In" | "NotIn" if values.is_empty() => {
                e.required(
                    &p.child("values"),
                    "must be specified when `operator` is 'In' or 'NotIn'",
                );
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => e.forbidden(
                &p.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ),
            _ => {}
        }
        if labels {
            meta::label_name(e, &p.child("key"), r.text("key"));
        } else if r.text("key").is_empty() {
            e.required(&p.child("key"), "must be specified");
        }
    }
}

impl Access {
    fn validate(&self, body: &Value) -> Errors {
        let mut e = Errors::new();
        let (spec, path) = (body.at("spec"), Path::new("spec"));
        let (resource, other) = (
            spec.at("resourceAttributes"),
            spec.at("nonResourceAttributes"),
        );
        match (resource.is_null(), other.is_null()) {
            (false, false) => e.invalid_shown(
                &path.child("nonResourceAttributes"),
                &shown::internal("authorization.k8s.io/v1", "NonResourceAttributes", other),
                "cannot be specified in combination with resourceAttributes",
            ),
            (true, true) => e.invalid(
                &path.child("resourceAttributes"),
                Value::Null,
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ),
            _ => {}
        }
        if self.scope != Scope::Own
            && spec.text("user").is_empty()
            && spec.list("groups").is_empty()
        {
            e.invalid(
                &path.child("user"),
                "",
                "at least one of user or group must be specified",
            );
        }
        let p = Path::new("spec.resourceAttributes");
        selector(
            &mut e,
            &p.child("fieldSelector"),
            resource.at("fieldSelector"),
            false,
        );
        selector(
            &mut e,
            &p.child("labelSelector"),
            resource.at("labelSelector"),
            true,
        );
        let set = body.map("metadata").iter().any(|(k, v)| {
            !v.is_blank()
                && k != "managedFields"
                && !(self.scope == Scope::Local && k == "namespace")
        });
        if set {
            let why = if self.scope == Scope::Local {
                "must be empty except for namespace"
            } else {
                "must be empty"
            };
            e.invalid_shown(
                &Path::new("metadata"),
                &shown::served("v1", "ObjectMeta", body.at("metadata")),
                why,
            );
        }
        if self.scope == Scope::Local {
            let ns = resource.text("namespace");
            if !resource.is_null() && ns != body.namespace() {
                e.invalid(
                    &Path::new("spec.resourceAttributes.namespace"),
                    ns,
                    "must match metadata.namespace",
                );
            }
            if !other.is_null() {
                e.invalid_shown(
                    &Path::new("spec.nonResourceAttributes"),
                    &shown::internal("authorization.k8s.io/v1", "NonResourceAttributes", other),
                    "disallowed on this kind of request",
                );
            }
        }
        e
    }

    fn user(&self, ctx: &Context<'_>, spec: &Value) -> UserInfo {
        if self.scope == Scope::Own {
            return ctx.user.clone();
        }
        let extra: BTreeMap<String, Vec<String>> = spec
            .map("extra")
            .iter()
            .map(|(k, v)| {
                (
                    k.to_lowercase(),
                    v.texts("").iter().map(|s| (*s).to_owned()).collect(),
                )
            })
            .collect();
        UserInfo {
            name: spec.text("user").to_owned(),
            uid: spec.text("uid").to_owned(),
            groups: spec
                .texts("groups")
                .iter()
                .map(|g| (*g).to_owned())
                .collect(),
            extra,
        }
    }
}

/// Reads one requirement after the other; one that cannot be read is left out and told.
fn each<T>(s: &Value, read: impl Fn(&Value) -> Result<T, String>) -> (Vec<T>, Option<String>) {
    let (mut known, mut errors) = (Vec::new(), Vec::new());
    for r in s.list("requirements") {
        match read(r) {
            Ok(t) => known.push(t),
            Err(e) => errors.push(e),
        }
    }
    (known, (!errors.is_empty()).then(|| errors.join(", ")))
}

fn selected_fields(s: &Value) -> Selected<FieldSelector> {
    let (raw, requirements) = (s.text("rawSelector"), s.list("requirements"));
    if requirements.is_empty() {
        return Selected::fields(raw);
    }
    let (terms, error) = each(s, |r| {
        let not = match r.text("operator") {
            "In" => false,
            "NotIn" => true,
            op @ ("Exists" | "DoesNotExist") => {
                return Err(format!("fieldSelectors do not yet support {op}"));
            }
            op => {
                return Err(format!(
                    "{} is not a valid field selector operator",
                    go_quote(op)
                ));
            }
        };
        match r.texts("values").as_slice() {
            [one] => Ok(FieldTerm {
                field: r.text("key").to_owned(),
                not,
                value: (*one).to_owned(),
            }),
            _ => Err("fieldSelectors do not yet support multiple values".to_owned()),
        }
    });
    Selected {
        known: FieldSelector { terms },
        error,
    }
}

fn selected_labels(s: &Value) -> Selected<Selector> {
    let (raw, requirements) = (s.text("rawSelector"), s.list("requirements"));
    if requirements.is_empty() {
        return Selected::labels(raw);
    }
    let (known, error) = each(s, |r| {
        let operator = match r.text("operator") {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            op => {
                return Err(format!(
                    "{} is not a valid label selector operator",
                    go_quote(op)
                ));
            }
        };
        let values = r.texts("values").iter().map(|v| (*v).to_owned()).collect();
        Requirement::new(r.text("key"), operator, values, &Path::root())
    });
    Selected {
        known: Selector::of(known),
        error,
    }
}

/// What a review says of selectors that could not be read.
fn unread(a: &Attributes) -> String {
    let say = |which: &str, broken: bool, rest: bool| {
        let partly = if rest { "partially " } else { "" };
        broken
            .then(|| format!("spec.resourceAttributes.{which} {partly}ignored due to parse error"))
    };
    let fields = say(
        "fieldSelector",
        a.fields.error.is_some(),
        !a.fields.known.is_empty(),
    );
    let labels = say(
        "labelSelector",
        a.labels.error.is_some(),
        !a.labels.known.is_everything(),
    );
    let all: Vec<String> = fields.into_iter().chain(labels).collect();
    all.join("; ")
}

fn attributes(user: UserInfo, spec: &Value) -> Attributes {
    let r = spec.at("resourceAttributes");
    let text = |key: &str| r.text(key).to_owned();
    if r.is_null() {
        let n = spec.at("nonResourceAttributes");
        return Attributes {
            user,
            verb: n.text("verb").to_owned(),
            path: n.text("path").to_owned(),
            is_resource: false,
            ..Attributes::default()
        };
    }
    Attributes {
        user,
        verb: text("verb"),
        namespace: text("namespace"),
        group: text("group"),
        version: match r.text("version") {
            "" => "*".to_owned(),
            v => v.to_owned(),
        },
        resource: text("resource"),
        subresource: text("subresource"),
        name: text("name"),
        path: String::new(),
        is_resource: true,
        fields: selected_fields(r.at("fieldSelector")),
        labels: selected_labels(r.at("labelSelector")),
    }
}

#[async_trait]
impl ActionSubresource for Access {
    async fn post(
        &self,
        ctx: &Context<'_>,
        _: &dyn ObjectWriter,
        mut body: Value,
    ) -> Result<(u16, Value), Status> {
        let errors = self.validate(&body);
        if !errors.is_empty() {
            return Err(Status::invalid("authorization.k8s.io", "", "", &errors));
        }
        if self.scope == Scope::Local && body.namespace() != ctx.namespace {
            return Err(Status::bad_request(format!(
                "spec.resourceAttributes.namespace must match namespace: {}",
                ctx.namespace
            )));
        }
        let a = attributes(self.user(ctx, body.at("spec")), body.at("spec"));
        let (decision, reason) = ctx.authorizer.authorize(&a).await;
        let mut status = json!({"allowed": decision == Decision::Allow});
        if decision == Decision::Deny {
            status.put("denied", true);
        }
        if !reason.is_empty() {
            status.put("reason", reason);
        }
        let unread = unread(&a);
        if !unread.is_empty() {
            status.put("evaluationError", unread);
        }
        body.put("status", status);
        Ok((201, body))
    }
}

/// `subjectaccessreviews`.
pub fn subject_access(_: &Config) -> Parts {
    Parts::review(Access {
        scope: Scope::Anyone,
    })
}

/// `localsubjectaccessreviews`.
pub fn local_subject_access(_: &Config) -> Parts {
    Parts::review(Access {
        scope: Scope::Local,
    })
}

/// `selfsubjectaccessreviews`.
pub fn self_subject_access(_: &Config) -> Parts {
    Parts::review(Access { scope: Scope::Own })
}

struct Rules;

fn rule_json(rule: &Rule) -> Value {
    let mut out = json!({ "verbs": rule.verbs });
    for (key, list) in [
        ("apiGroups", &rule.api_groups),
        ("resources", &rule.resources),
        ("resourceNames", &rule.resource_names),
        ("nonResourceURLs", &rule.non_resource_urls),
    ] {
        if !list.is_empty() {
            out.put(key, list.clone());
        }
    }
    out
}

#[async_trait]
impl ActionSubresource for Rules {
    async fn post(
        &self,
        ctx: &Context<'_>,
        _: &dyn ObjectWriter,
        body: Value,
    ) -> Result<(u16, Value), Status> {
        let namespace = body.text("spec.namespace");
        if namespace.is_empty() {
            return Err(Status::bad_request("no namespace on request"));
        }
        let (rules, incomplete) = ctx.authorizer.rules_for(ctx.user, namespace).await;
        let (paths, resources): (Vec<&Rule>, Vec<&Rule>) =
            rules.iter().partition(|r| !r.non_resource_urls.is_empty());
        let mut status = json!({
            "resourceRules": resources.into_iter().map(rule_json).collect::<Vec<_>>(),
            "nonResourceRules": paths.into_iter().map(rule_json).collect::<Vec<_>>(),
            "incomplete": incomplete.is_some(),
        });
        if let Some(why) = incomplete.filter(|w| !w.is_empty()) {
            status.put("evaluationError", why);
        }
        Ok((
            201,
            json!({
                "kind": "SelfSubjectRulesReview", "apiVersion": "authorization.k8s.io/v1",
                "metadata": {}, "spec": {}, "status": status,
            }),
        ))
    }
}

/// `selfsubjectrulesreviews`.
pub fn self_subject_rules(_: &Config) -> Parts {
    Parts::review(Rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reviews_are_checked() {
        let any = Access {
            scope: Scope::Anyone,
        };
        assert_eq!(
            any.validate(&json!({"spec": {"user": "jane"}})).aggregate(),
            "spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified"
        );
        assert!(
            any.validate(&json!({"spec": {"user": "jane", "resourceAttributes": {"verb": "get"}}}))
                .is_empty()
        );
        assert_eq!(
            any.validate(&json!({"spec": {"resourceAttributes": {}}}))
                .aggregate(),
            "spec.user: Invalid value: \"\": at least one of user or group must be specified"
        );
        let local = Access {
            scope: Scope::Local,
        };
        let body = json!({"metadata": {"namespace": "a"}, "spec": {"user": "j", "resourceAttributes": {"namespace": "b"}}});
        assert_eq!(
            local.validate(&body).aggregate(),
            "spec.resourceAttributes.namespace: Invalid value: \"b\": must match metadata.namespace"
        );
    }

    /// KEP-4601: a review's selectors are read as a request's are; what cannot be read is left out and told.
    #[test]
    fn selectors_of_reviews_are_those_of_requests() {
        let ask = |field: Value, label: Value| {
            let r = json!({"verb": "list", "resource": "pods", "fieldSelector": field, "labelSelector": label});
            attributes(UserInfo::default(), &json!({"resourceAttributes": r}))
        };
        let raw = ask(
            json!({"rawSelector": "spec.nodeName=a"}),
            json!({"rawSelector": "x in (b,a)"}),
        );
        let listed = ask(
            json!({"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["a"]}]}),
            json!({"requirements": [{"key": "x", "operator": "In", "values": ["a", "b"]}]}),
        );
        assert_eq!(raw.fields, Selected::fields("spec.nodeName=a"));
        assert_eq!(raw, listed);
        assert_eq!(unread(&raw), "");
        // A value is not taken apart again.
        let comma = ask(
            json!({"requirements": [{"key": "metadata.name", "operator": "In", "values": ["x,spec.nodeName=a"]}]}),
            Value::Null,
        );
        assert_eq!(comma.fields.known.exact("spec.nodeName"), None);
        let broken = ask(
            json!({"rawSelector": "spec.nodeName=a,oops"}),
            json!({"requirements": [
                {"key": "x", "operator": "In", "values": ["a"]},
                {"key": "y", "operator": "Huh"},
            ]}),
        );
        assert!(broken.fields.known.is_empty());
        assert_eq!(broken.labels.known.to_string(), "x in (a)");
        assert_eq!(
            unread(&broken),
            "spec.resourceAttributes.fieldSelector ignored due to parse error; \
             spec.resourceAttributes.labelSelector partially ignored due to parse error"
        );
        let many = ask(
            json!({"requirements": [{"key": "k", "operator": "In", "values": ["a", "b"]}, {"key": "k", "operator": "Exists"}]}),
            Value::Null,
        );
        assert!(many.fields.known.is_empty() && many.fields.error.is_some());
    }
}
