//! Dynamic resource allocation: classes, claims, claim templates and slices.

use serde_json::Value;

use super::plain::{Simple, immutable};
use crate::builtin::{Config, Parts};
use crate::validate::Path;
use crate::value::Tree;

fn request_defaults(spec: &mut Value) {
    for r in spec.list_mut("devices.requests") {
        if let Some(exact) = r.at_mut("exactly") {
            counted(exact);
        }
        for sub in r.list_mut("firstAvailable") {
            counted(sub);
        }
    }
}

fn counted(request: &mut Value) {
    request.put_if_zero("allocationMode", "ExactCount");
    if request.text("allocationMode") == "ExactCount" {
        request.put_if_zero("count", 1);
    }
    for t in request.list_mut("tolerations") {
        t.put_if_zero("operator", "Equal");
    }
}

/// Device classes.
pub fn class(_: &Config) -> Parts {
    Parts::new(Simple {
        generation: true,
        returns_deleted: true,
        ..Simple::new(|_| {})
    })
}

/// Claims.
pub fn claim(_: &Config) -> Parts {
    Parts::new(Simple {
        status: true,
        returns_deleted: true,
        change: |e, o, old| immutable(e, &Path::new("spec"), o.at("spec"), old.at("spec")),
        ..Simple::new(|o| {
            if let Some(spec) = o.at_mut("spec") {
                request_defaults(spec);
            }
        })
    })
}

/// Claim templates.
pub fn template(_: &Config) -> Parts {
    Parts::new(Simple {
        returns_deleted: true,
        change: |e, o, old| immutable(e, &Path::new("spec"), o.at("spec"), old.at("spec")),
        ..Simple::new(|o| {
            if let Some(spec) = o.at_mut("spec.spec") {
                request_defaults(spec);
            }
        })
    })
}

/// Slices.
pub fn slice(_: &Config) -> Parts {
    Parts::new(Simple {
        generation: true,
        returns_deleted: true,
        warn: |o, _| {
            let driver = o.text("spec.driver");
            if driver == driver.to_lowercase() {
                return vec![];
            }
            vec![format!(
                "spec.driver: driver names should be lowercase; {} contains uppercase characters",
                api::text::go_quote(driver)
            )]
        },
        ..Simple::new(|_| {})
    })
}
