//! flowcontrol.

use super::plain::SpecStatus;
use crate::builtin::{Config, Parts};

/// schema.
pub fn schema(_: &Config) -> Parts {
    Parts::new(SpecStatus)
}

/// level.
pub fn level(_: &Config) -> Parts {
    Parts::new(SpecStatus)
}
