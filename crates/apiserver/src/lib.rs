//! The generic API server: connections, the filter chain, routing, negotiation, verbs, watch cache, discovery, OpenAPI and
//! streams. It knows resources only as [`resource::ResourceDef`]s and the store only as [`storage::Store`].
//!
//! Absent on purpose: any built-in kind (they are in `registry`), authentication and authorization themselves (`auth`).

pub mod body;
pub mod cache;
pub mod chain;
pub mod codec;
pub mod compress;
pub mod core;
pub mod discovery;
pub mod encode;
pub mod engine;
pub mod flags;
pub mod health;
pub mod impersonate;
pub mod meta;
pub mod metrics;
pub mod negotiate;
pub mod openapi;
pub mod options;
pub mod query;
mod quotas;
pub mod request_info;
pub mod resource;
pub mod select;
pub mod serve;
pub mod shares;
pub mod verbs;
pub mod warnings;

/// A response of this server.
pub type Response = http::Response<body::Body>;

pub use crate::chain::{Config, Dependencies, Hook, HookContext, Server};
pub use crate::core::Core;
pub use crate::quotas::quotas;
pub use crate::serve::{Error, run};
