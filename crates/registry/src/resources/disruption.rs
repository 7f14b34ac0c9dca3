//! disruption.

use super::plain::SpecStatus;
use crate::builtin::{Config, Parts};

/// disruption.
pub fn parts(_: &Config) -> Parts {
    Parts::new(SpecStatus)
}
