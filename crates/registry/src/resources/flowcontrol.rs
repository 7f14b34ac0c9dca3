//! Flow schemas and priority levels.

use serde_json::{Value, json};

use super::plain::Simple;
use crate::builtin::{Config, Parts};
use crate::value::Tree;

/// Flow schemas.
pub fn schema(_: &Config) -> Parts {
    Parts::new(Simple {
        generation: true,
        status: true,
        ..Simple::new(|o| o.put_if_zero("spec.matchingPrecedence", 1000))
    })
}

fn level_defaults(o: &mut Value) {
    if o.has("spec.exempt") || o.text("spec.type") == "Exempt" {
        if !o.has("spec.exempt") {
            o.put("spec.exempt", json!({}));
        }
        o.put_if_absent("spec.exempt.nominalConcurrencyShares", 0);
        o.put_if_absent("spec.exempt.lendablePercent", 0);
    }
    if o.has("spec.limited") {
        o.put_if_absent("spec.limited.nominalConcurrencyShares", 30);
        o.put_if_absent("spec.limited.lendablePercent", 0);
    }
    if o.has("spec.limited.limitResponse.queuing") {
        for (key, value) in [("handSize", 8), ("queues", 64), ("queueLengthLimit", 50)] {
            o.slot("spec.limited.limitResponse.queuing")
                .put_if_zero(key, value);
        }
    }
}

/// Priority levels.
pub fn level(_: &Config) -> Parts {
    Parts::new(Simple {
        generation: true,
        status: true,
        ..Simple::new(level_defaults)
    })
}
