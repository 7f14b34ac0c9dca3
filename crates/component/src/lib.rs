//! What all daemons share: flags, configuration files, feature gates, logging, metrics, health, TLS serving, shutdown.
//!
//! Knows no Kubernetes resource. Holds no global state; the one exception, which only `bin/` touches, is
//! [`logging::init`], since a process has one log.

pub mod config;
pub mod duration;
pub mod features;
pub mod files;
pub mod flags;
pub mod health;
pub mod logging;
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
