//! CSI drivers and storage classes.

use serde_json::{Value, json};

use super::plain::{Simple, immutable};
use crate::builtin::{Config, Parts};
use crate::validate::{Errors, Path};
use crate::value::{Tree, same};
use crate::warn;

fn driver_defaults(o: &mut Value) {
    if !o.has("spec") {
        o.put("spec", json!({}));
    }
    for (key, value) in [
        ("attachRequired", true),
        ("podInfoOnMount", false),
        ("storageCapacity", false),
        ("requiresRepublish", false),
        ("seLinuxMount", false),
    ] {
        o.slot("spec").put_if_absent(key, value);
    }
    o.put_if_absent("spec.fsGroupPolicy", "ReadWriteOnceWithFSType");
    if o.list("spec.volumeLifecycleModes").is_empty() {
        o.put("spec.volumeLifecycleModes", json!(["Persistent"]));
    }
}

/// CSI drivers.
pub fn driver(_: &Config) -> Parts {
    Parts::new(Simple {
        generation: true,
        returns_deleted: true,
        warn: |o, old| {
            let requests = o.at("spec.tokenRequests");
            let changed = old.is_none_or(|old| !same(old.at("spec.tokenRequests"), requests));
            if requests.is_blank() || o.has("spec.serviceAccountTokenInSecrets") || !changed {
                return vec![];
            }
            vec!["spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes".into()]
        },
        ..Simple::new(driver_defaults)
    })
}

fn validate_class(e: &mut Errors, o: &Value) {
    if o.text("provisioner").is_empty() {
        e.required(&Path::new("provisioner"), "");
    }
    for (key, known) in [
        ("reclaimPolicy", ["Delete", "Retain"]),
        ("volumeBindingMode", ["Immediate", "WaitForFirstConsumer"]),
    ] {
        if let Some(v) = o.text_opt(key)
            && !known.contains(&v)
        {
            e.not_supported(&Path::new(key), v, &known);
        }
    }
}

fn change_class(e: &mut Errors, o: &Value, old: &Value) {
    for (key, why) in [
        ("parameters", "updates to parameters are forbidden."),
        ("provisioner", "updates to provisioner are forbidden."),
        ("reclaimPolicy", "updates to reclaimPolicy are forbidden."),
    ] {
        if !same(o.at(key), old.at(key)) {
            e.forbidden(&Path::new(key), why);
        }
    }
    immutable(
        e,
        &Path::new("volumeBindingMode"),
        o.at("volumeBindingMode"),
        old.at("volumeBindingMode"),
    );
}

/// Storage classes.
pub fn class(_: &Config) -> Parts {
    Parts::new(Simple {
        validate: validate_class,
        change: change_class,
        warn: |o, _| {
            let mut out = vec![];
            for (i, t) in o.list("allowedTopologies").iter().enumerate() {
                for (j, x) in t.list("matchLabelExpressions").iter().enumerate() {
                    if let Some(why) = warn::node_label(x.text("key")) {
                        out.push(format!(
                            "allowedTopologies[{i}].matchLabelExpressions[{j}].key: {why}"
                        ));
                    }
                }
            }
            out
        },
        returns_deleted: true,
        ..Simple::new(|o| {
            o.put_if_absent("reclaimPolicy", "Delete");
            o.put_if_absent("volumeBindingMode", "Immediate");
        })
    })
}
