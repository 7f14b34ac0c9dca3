//! Leases.

use apiserver::resource::{Context, Strategy};
use serde_json::Value;

use crate::builtin::{Config, Parts};
use crate::check::{each, qualified_name};
use crate::validate::{Errors, Path};
use crate::value::Tree;

struct Lease;

fn validate(o: &Value) -> Errors {
    let mut e = Errors::new();
    let (spec, path) = (o.at("spec"), Path::new("spec"));
    if let Some(n) = spec.int_opt("leaseDurationSeconds").filter(|n| *n <= 0) {
        e.invalid(
            &path.child("leaseDurationSeconds"),
            n,
            "must be greater than 0",
        );
    }
    if let Some(n) = spec.int_opt("leaseTransitions").filter(|n| *n < 0) {
        e.invalid(
            &path.child("leaseTransitions"),
            n,
            "must be greater than or equal to 0",
        );
    }
    if let Some(s) = spec.text_opt("strategy") {
        let p = path.child("strategy").child("strategy");
        if s.contains('/') {
            each(&mut e, &p, s, qualified_name(s));
        } else if s != "OldestEmulationVersion" {
            e.not_supported(&p, s, &["OldestEmulationVersion"]);
        }
    }
    if !spec.text("preferredHolder").is_empty() && spec.text("strategy").is_empty() {
        e.forbidden(
            &path.child("preferredHolder"),
            "may only be specified if `strategy` is defined",
        );
    }
    e
}

impl Strategy for Lease {
    fn prepare_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate_create(&self, _: &Context<'_>, o: &Value) -> Errors {
        validate(o)
    }

    fn validate_update(&self, _: &Context<'_>, o: &Value, _: &Value) -> Errors {
        validate(o)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// Leases.
pub fn parts(_: &Config) -> Parts {
    Parts::new(Lease)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_and_strategies() {
        let bad = validate(
            &json!({"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1, "preferredHolder": "x"}}),
        );
        assert_eq!(
            bad.aggregate(),
            "[spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0, spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0, spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined]"
        );
        assert!(
            validate(&json!({"spec": {"leaseDurationSeconds": 40, "holderIdentity": "n"}}))
                .is_empty()
        );
    }
}
