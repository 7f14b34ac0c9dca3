//! Admission webhooks and policies.

use serde_json::{Value, json};

use super::plain::Simple;
use crate::builtin::{Config, Parts};
use crate::validate::hooks;
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

/// Admission webhooks.
pub fn webhooks(_: &Config) -> Parts {
    Parts::new(Simple {
        validate: hooks::webhooks,
        update: Some(hooks::webhooks_update),
        generation: true,
        unconditional: false,
        content: |o| o.at("webhooks"),
        warn: static_name,
        ..Simple::new(webhook_defaults)
    })
}

#[cfg(test)]
mod tests {
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
}
