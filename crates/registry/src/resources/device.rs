//! device.

use super::plain::SpecStatus;
use crate::builtin::{Config, Parts};

/// class.
pub fn class(_: &Config) -> Parts {
    Parts::new(SpecStatus)
}

/// claim.
pub fn claim(_: &Config) -> Parts {
    Parts::new(SpecStatus)
}

/// template.
pub fn template(_: &Config) -> Parts {
    Parts::new(SpecStatus)
}

/// slice.
pub fn slice(_: &Config) -> Parts {
    Parts::new(SpecStatus)
}
