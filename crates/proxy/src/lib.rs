//! kube-proxy: Services as kernel rules.
//!
//! Watches fill the [`model`]; a backend ([`backends`]) turns what changed into a script; the [`runner`] applies it,
//! notices when somebody else changed the rules, and puts them right. Rules outlive the process.
//!
//! Absent: IPVS, health check node ports, topology hints, node ports on loopback.

pub mod backends;
pub mod config;
pub mod conntrack;
pub mod daemon;
pub mod metrics;
pub mod model;
pub mod runner;
pub mod view;
