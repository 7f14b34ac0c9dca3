//! Pod disruption budgets.

use apiserver::resource::{Context, Strategy};
use serde_json::{Value, json};

use super::split_status;
use super::workload::{at_most_whole, int_or_percent};
use crate::builtin::{Config, Parts};
use crate::check::non_negative;
use crate::validate::{Errors, Path, meta, shown};
use crate::value::Tree;

struct Budget;

const EVICTION_POLICIES: [&str; 2] = ["AlwaysAllow", "IfHealthyBudget"];

fn validate(o: &Value) -> Errors {
    let mut e = Errors::new();
    let (spec, path) = (o.at("spec"), Path::new("spec"));
    if spec.has("minAvailable") && spec.has("maxUnavailable") {
        e.invalid_shown(
            &path,
            &shown::internal("policy/v1", "PodDisruptionBudgetSpec", spec),
            "minAvailable and maxUnavailable cannot be both set",
        );
    }
    for key in ["minAvailable", "maxUnavailable"] {
        if spec.has(key) {
            int_or_percent(&mut e, &path.child(key), spec.at(key));
            at_most_whole(&mut e, &path.child(key), spec.at(key));
        }
    }
    meta::selector(&mut e, &path.child("selector"), spec.at("selector"));
    if let Some(p) = spec.text_opt("unhealthyPodEvictionPolicy")
        && !EVICTION_POLICIES.contains(&p)
    {
        e.not_supported(
            &path.child("unhealthyPodEvictionPolicy"),
            p,
            &EVICTION_POLICIES,
        );
    }
    e
}

fn validate_status(o: &Value) -> Errors {
    let mut e = Errors::new();
    for key in [
        "disruptionsAllowed",
        "currentHealthy",
        "desiredHealthy",
        "expectedPods",
    ] {
        non_negative(
            &mut e,
            &Path::new("status").child(key),
            o.at("status").int(key),
        );
    }
    e
}

/// Evictions count down what the status allows.
fn is_status(ctx: &Context<'_>) -> bool {
    matches!(ctx.subresource, "status" | "eviction")
}

impl Strategy for Budget {
    fn prepare_create(&self, _: &Context<'_>, o: &mut Value) {
        if !o.has("spec") {
            o.put("spec", json!({}));
        }
        o.put(
            "status",
            json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0}),
        );
    }

    fn prepare_update(&self, ctx: &Context<'_>, o: &mut Value, old: &Value) {
        if ctx.subresource == "eviction" {
            o.copy_at("spec", old);
        } else {
            split_status(ctx, o, old);
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn validate_create(&self, _: &Context<'_>, o: &Value) -> Errors {
        validate(o)
    }

    fn validate_update(&self, ctx: &Context<'_>, o: &Value, _: &Value) -> Errors {
        if is_status(ctx) {
            validate_status(o)
        } else {
            validate(o)
        }
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// Pod disruption budgets.
pub fn parts(_: &Config) -> Parts {
    Parts::new(Budget)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets() {
        let errors = |spec: Value| validate(&json!({"spec": spec})).aggregate();
        assert_eq!(errors(json!({"minAvailable": 1})), "[]");
        assert_eq!(errors(json!({"minAvailable": "100%"})), "[]");
        assert_eq!(
            errors(json!({"minAvailable": "101%"})),
            "spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%"
        );
        assert_eq!(
            errors(json!({"maxUnavailable": -1})),
            "spec.maxUnavailable: Invalid value: -1: must be greater than or equal to 0"
        );
        assert_eq!(
            errors(json!({"maxUnavailable": "x"})),
            "spec.maxUnavailable: Invalid value: \"x\": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"
        );
        assert_eq!(
            errors(json!({"maxUnavailable": 1, "minAvailable": 1})),
            "spec: Invalid value: {\"MinAvailable\":1,\"Selector\":null,\"MaxUnavailable\":1,\"UnhealthyPodEvictionPolicy\":null}: minAvailable and maxUnavailable cannot be both set"
        );
        assert_eq!(
            errors(json!({"unhealthyPodEvictionPolicy": "x"})),
            "spec.unhealthyPodEvictionPolicy: Unsupported value: \"x\": supported values: \"AlwaysAllow\", \"IfHealthyBudget\""
        );
    }
}
