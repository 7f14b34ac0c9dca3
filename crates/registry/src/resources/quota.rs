//! quota.

use super::plain::SpecStatus;
use crate::builtin::{Config, Parts};

/// limit_range.
pub fn limit_range(_: &Config) -> Parts {
    Parts::new(SpecStatus)
}

/// resource_quota.
pub fn resource_quota(_: &Config) -> Parts {
    Parts::new(SpecStatus)
}
