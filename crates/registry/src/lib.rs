//! The built-in resources: their defaults, validation, strategies, table columns and subresources.
//!
//! [`resources`] turns [`builtin::BUILTINS`], one line a resource, and the discovery table of the `api` crate into the
//! definitions that the generic server serves. Adding a resource is a file in `resources/` and a line in that list; a
//! test walks the list against the discovery table. Objects are JSON trees, read and edited through [`value::Tree`].
//!
//! Absent on purpose: metadata rules, names generated from `generateName`, resourceVersion and patch semantics (the
//! generic server has them), and admission.

pub mod alloc;
pub mod bootstrap;
pub mod builtin;
pub mod check;
pub mod defaults;
pub mod print;
pub mod qos;
pub use api::quant;
pub mod resources;
pub mod validate;
pub mod value;
pub mod warn;

pub use builtin::{Config, resources};
