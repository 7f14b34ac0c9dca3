//! From pod to runtime and back: what the runtime has ([`state`]), what is to be done ([`actions`], pure), and the CRI
//! configurations that do it ([`config`], [`env`], [`dns`]).

pub mod actions;
pub mod config;
pub mod dns;
pub mod env;
pub mod state;

/// Prefix of container ids in the API.
pub const ID_PREFIX: &str = "containerd://";
