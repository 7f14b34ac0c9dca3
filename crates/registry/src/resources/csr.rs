//! csr.

use super::plain::SpecStatus;
use crate::builtin::{Config, Parts};

/// csr.
pub fn parts(_: &Config) -> Parts {
    Parts::new(SpecStatus)
}
