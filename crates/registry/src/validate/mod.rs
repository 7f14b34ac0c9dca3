//! Validation with upstream's rules, messages and order of errors. One file per family of types; everything here is
//! pure: what needs other objects or allocators lives in the strategies.

pub mod affinity;
pub mod container;
pub mod diff;
pub mod hooks;
pub mod meta;
pub mod pod;
pub mod pod_spec;
pub mod pod_update;
pub mod resources;
pub mod security;
pub mod service;
pub mod shown;
pub mod volumes;

/// Shorthand used by every validator.
pub use api::field::{ErrorList as Errors, Path};
