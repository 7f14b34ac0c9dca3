//! job.

use super::plain::SpecStatus;
use crate::builtin::{Config, Parts};

/// job.
pub fn job(_: &Config) -> Parts {
    Parts::new(SpecStatus)
}

/// cron_job.
pub fn cron_job(_: &Config) -> Parts {
    Parts::new(SpecStatus)
}
