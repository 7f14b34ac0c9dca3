//! Admission webhooks and policies.

use component::Support;
use serde_json::{Value, json};

use super::plain::Simple;
use crate::builtin::{Config, Parts};
use crate::validate::{Errors, Path, hooks};
use crate::value::Tree;

fn rule_scopes(rules: &mut [Value]) {
    for r in rules {
        r.put_if_absent("scope", "*");
    }
}

fn webhook_defaults(o: &mut Value) {
    let mutating = o.text("kind") == "MutatingWebhookConfiguration";
    for w in o.list_mut("webhooks") {
        w.put_if_absent("failurePolicy", "Fail");
        w.put_if_absent("matchPolicy", "Equivalent");
        w.put_if_absent("namespaceSelector", json!({}));
        w.put_if_absent("objectSelector", json!({}));
        w.put_if_absent("timeoutSeconds", 10);
        if mutating {
            w.put_if_absent("reinvocationPolicy", "Never");
        }
        if w.has("clientConfig.service") {
            w.put_if_absent("clientConfig.service.port", 443);
        }
        rule_scopes(w.list_mut("rules"));
    }
}

fn match_defaults(m: &mut Value) {
    m.put_if_absent("matchPolicy", "Equivalent");
    m.put_if_absent("namespaceSelector", json!({}));
    m.put_if_absent("objectSelector", json!({}));
    rule_scopes(m.list_mut("resourceRules"));
    rule_scopes(m.list_mut("excludeResourceRules"));
}

fn policy_defaults(o: &mut Value) {
    if !o.has("spec") {
        o.put("spec", json!({}));
    }
    o.put_if_absent("spec.failurePolicy", "Fail");
    if let Some(m) = o.at_mut("spec.matchConstraints") {
        match_defaults(m);
    }
}

/// Names that configuration files have to themselves.
fn static_name(o: &Value, _: Option<&Value>) -> Vec<String> {
    const SUFFIX: &str = ".static.k8s.io";
    if !o.name().ends_with(SUFFIX) {
        return vec![];
    }
    vec![format!(
        "metadata.name: names ending with {SUFFIX:?} are reserved for static manifest-based configurations and cannot be managed via the API"
    )]
}

/// Admission policies.
pub fn policy(_: &Config) -> Parts {
    Parts::new(Simple {
        validate: hooks::policy,
        update: Some(hooks::policy_update),
        generation: true,
        unconditional: false,
        status: true,
        warn: static_name,
        ..Simple::new(policy_defaults)
    })
}

/// What binds admission policies.
pub fn policy_binding(_: &Config) -> Parts {
    Parts::new(Simple {
        validate: hooks::policy_binding,
        generation: true,
        unconditional: false,
        warn: static_name,
        ..Simple::new(|o| {
            if let Some(m) = o.at_mut("spec.matchResources") {
                match_defaults(m);
            }
        })
    })
}

/// A webhook without which a write shall fail cannot be had: no webhook is called, and storing it would look as if it
/// guarded something. Those whose failure is ignored are stored, with a warning. Configurations that were in the store
/// before can still be changed.
fn guards(e: &mut Errors, o: &Value, old: Option<&Value>) {
    let plugin = match o.text("kind") {
        "MutatingWebhookConfiguration" => "MutatingAdmissionWebhook",
        _ => "ValidatingAdmissionWebhook",
    };
    if admission::plugins::support(plugin).is_some_and(Support::is_there) {
        return;
    }
    let fails = |w: &Value| w.text("failurePolicy") == "Fail";
    let before: Vec<&str> = old
        .map(|o| o.list("webhooks"))
        .unwrap_or_default()
        .iter()
        .filter(|w| fails(w))
        .map(|w| w.text("name"))
        .collect();
    for (i, w) in o.list("webhooks").iter().enumerate() {
        if fails(w) && !before.contains(&w.text("name")) {
            e.forbidden(
                &Path::new("webhooks").index(i).child("failurePolicy"),
                "no webhook is called by this release, so none can guard; only Ignore is accepted",
            );
        }
    }
}

/// Admission webhooks.
pub fn webhooks(_: &Config) -> Parts {
    Parts::new(Simple {
        validate: |e, o| {
            hooks::webhooks(e, o);
            guards(e, o, None);
        },
        update: Some(|e, o, old| {
            hooks::webhooks_update(e, o, old);
            guards(e, o, Some(old));
        }),
        generation: true,
        unconditional: false,
        content: |o| o.at("webhooks"),
        warn: static_name,
        ..Simple::new(webhook_defaults)
    })
}

#[cfg(test)]
mod tests {
    use api::Status;

    use super::*;

    #[test]
    fn defaults() {
        let mut o = json!({"kind": "MutatingWebhookConfiguration", "webhooks": [{"name": "a.b.c",
            "clientConfig": {"service": {"name": "s", "namespace": "n"}}, "rules": [{}]}]});
        webhook_defaults(&mut o);
        assert_eq!(
            o.list("webhooks")[0],
            json!({"name": "a.b.c", "clientConfig": {"service": {"name": "s", "namespace": "n", "port": 443}},
                "rules": [{"scope": "*"}], "failurePolicy": "Fail", "matchPolicy": "Equivalent",
                "namespaceSelector": {}, "objectSelector": {}, "timeoutSeconds": 10, "reinvocationPolicy": "Never"})
        );
    }

    #[test]
    fn a_webhook_that_would_guard_is_refused() {
        let of = |policies: &[(&str, &str)]| {
            let webhooks: Vec<Value> = policies
                .iter()
                .map(|(name, p)| json!({"name": name, "failurePolicy": p}))
                .collect();
            json!({"kind": "ValidatingWebhookConfiguration", "webhooks": webhooks})
        };
        let errors = |o: &Value, old: Option<&Value>| {
            let mut e = Errors::new();
            guards(&mut e, o, old);
            e
        };
        let (mixed, ignore) = (
            of(&[("a", "Ignore"), ("b", "Fail")]),
            of(&[("a", "Ignore")]),
        );
        assert_eq!(
            Status::invalid("", "X", "x", &errors(&mixed, None)).message,
            "X \"x\" is invalid: webhooks[1].failurePolicy: Forbidden: no webhook is called by this release, so none can guard; only Ignore is accepted"
        );
        assert!(errors(&ignore, None).is_empty());
        // Stored by another server.
        assert!(errors(&mixed, Some(&mixed)).is_empty());
        assert!(!errors(&mixed, Some(&ignore)).is_empty());
    }
}
