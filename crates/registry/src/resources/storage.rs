//! storage.

use super::plain::SpecStatus;
use crate::builtin::{Config, Parts};

/// driver.
pub fn driver(_: &Config) -> Parts {
    Parts::new(SpecStatus)
}

/// class.
pub fn class(_: &Config) -> Parts {
    Parts::new(SpecStatus)
}
