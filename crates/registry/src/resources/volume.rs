//! volume.

use super::plain::SpecStatus;
use crate::builtin::{Config, Parts};

/// claim.
pub fn claim(_: &Config) -> Parts {
    Parts::new(SpecStatus)
}

/// volume.
pub fn volume(_: &Config) -> Parts {
    Parts::new(SpecStatus)
}
