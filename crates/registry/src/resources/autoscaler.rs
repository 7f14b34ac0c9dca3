//! autoscaler.

use super::plain::SpecStatus;
use crate::builtin::{Config, Parts};

/// autoscaler.
pub fn parts(_: &Config) -> Parts {
    Parts::new(SpecStatus)
}
