//! What all daemons share: flags, configuration files, feature gates, logging, metrics, health, TLS serving, shutdown.
//!
//! Knows no Kubernetes resource. Holds no global state, but for what a process has one of and only `bin/` touches: its log
//! ([`logging::init`]), its limit of open files ([`files::raise_limit`]) and its allocator's free memory ([`memory`]).

pub mod config;
pub mod duration;
pub mod features;
pub mod files;
pub mod flags;
pub mod health;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod places;
pub mod probe;
pub mod reload;
pub mod serve;
pub mod shutdown;
pub mod support;
pub mod tls;
pub mod unverified;
pub mod version;

pub use flags::{CommandLine, Flags};
pub use shutdown::Shutdown;
pub use support::Support;
