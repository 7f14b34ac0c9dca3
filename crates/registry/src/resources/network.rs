//! network.

use super::plain::SpecStatus;
use crate::builtin::{Config, Parts};

/// ingress_class.
pub fn ingress_class(_: &Config) -> Parts {
    Parts::new(SpecStatus)
}

/// ingress.
pub fn ingress(_: &Config) -> Parts {
    Parts::new(SpecStatus)
}

/// ip_address.
pub fn ip_address(_: &Config) -> Parts {
    Parts::new(SpecStatus)
}

/// policy.
pub fn policy(_: &Config) -> Parts {
    Parts::new(SpecStatus)
}

/// service_cidr.
pub fn service_cidr(_: &Config) -> Parts {
    Parts::new(SpecStatus)
}
