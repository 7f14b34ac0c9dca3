//! service.

use super::plain::SpecStatus;
use crate::builtin::{Config, Parts};

/// service.
pub fn parts(_: &Config) -> Parts {
    Parts::new(SpecStatus)
}
