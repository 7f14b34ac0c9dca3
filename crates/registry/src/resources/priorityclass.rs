//! Priority classes.

use api::Status;
use apiserver::resource::{Context, Strategy};
use async_trait::async_trait;
use serde_json::Value;

use crate::builtin::{Config, Parts};
use crate::validate::{Errors, Path};
use crate::value::Tree;

/// The largest value a class that is not the system's may have.
const HIGHEST: i64 = 1_000_000_000;
const SYSTEM: [(&str, i64); 2] = [
    ("system-node-critical", 2_000_001_000),
    ("system-cluster-critical", 2_000_000_000),
];

struct PriorityClass;

/// Why a class whose name starts with `system-` is refused.
fn system_error(o: &Value) -> Option<String> {
    let name = o.name();
    let why = match SYSTEM.iter().find(|(n, _)| *n == name) {
        None => format!("{name} is not a known system priority class"),
        Some((_, v)) if *v != o.int("value") => {
            format!("value of {name} PriorityClass must be {v}")
        }
        Some(_) if o.flag("globalDefault") => {
            format!("globalDefault of {name} PriorityClass must be false")
        }
        Some(_) => return None,
    };
    Some(format!(
        "priority class names with 'system-' prefix are reserved for system use only. error: {why}"
    ))
}

fn validate(e: &mut Errors, o: &Value) {
    if o.name().starts_with("system-") {
        if let Some(why) = system_error(o) {
            e.forbidden(&Path::new("metadata").child("name"), &why);
        }
    } else if o.int("value") > HIGHEST {
        e.forbidden(
            &Path::new("value"),
            &format!("maximum allowed value of a user defined priority is {HIGHEST}"),
        );
    }
    match o.text("preemptionPolicy") {
        "PreemptLowerPriority" | "Never" => {}
        "" => e.required(&Path::new("preemptionPolicy"), ""),
        other => e.not_supported(
            &Path::new("preemptionPolicy"),
            other,
            &["PreemptLowerPriority", "Never"],
        ),
    }
}

#[async_trait]
impl Strategy for PriorityClass {
    async fn begin_delete(&self, _: &Context<'_>, o: &mut Value) -> Result<(), Status> {
        if SYSTEM.iter().any(|(name, _)| *name == o.name()) {
            return Err(Status::forbidden(
                "scheduling.k8s.io",
                "priorityclasses",
                o.name(),
                "this is a system priority class and cannot be deleted",
            ));
        }
        Ok(())
    }

    fn default(&self, o: &mut Value) {
        o.put_if_absent("preemptionPolicy", "PreemptLowerPriority");
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn validate_create(&self, _: &Context<'_>, o: &Value) -> Errors {
        let mut e = Errors::new();
        validate(&mut e, o);
        e
    }

    fn validate_update(&self, _: &Context<'_>, o: &Value, old: &Value) -> Errors {
        let mut e = Errors::new();
        if o.int("value") != old.int("value") {
            e.forbidden(&Path::new("value"), "may not be changed in an update.");
        }
        if o.text("preemptionPolicy") != old.text("preemptionPolicy") {
            e.invalid(
                &Path::new("preemptionPolicy"),
                o.text("preemptionPolicy"),
                "field is immutable",
            );
        }
        e
    }
}

/// Priority classes.
pub fn parts(_: &Config) -> Parts {
    Parts::new(PriorityClass)
}
