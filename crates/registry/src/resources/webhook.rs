//! webhook.

use super::plain::SpecStatus;
use crate::builtin::{Config, Parts};

/// policy.
pub fn policy(_: &Config) -> Parts {
    Parts::new(SpecStatus)
}

/// policy_binding.
pub fn policy_binding(_: &Config) -> Parts {
    Parts::new(SpecStatus)
}

/// webhooks.
pub fn webhooks(_: &Config) -> Parts {
    Parts::new(SpecStatus)
}
