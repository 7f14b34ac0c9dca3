//! kube-proxy: Services as kernel rules.
//!
//! Watches fill the [`model`]; a backend ([`backends`]) turns what changed into a script; the [`runner`] applies it,
//! notices when somebody else changed the rules, and puts them right. Rules outlive the process.
//!
//! No object stops the others: [`address`] lets only canonical addresses and ranges into rules, [`claims`] gives each address and
//! port one owner, and what the kernel refuses all the same is found and left out by [`apply`].
//!
//! Absent: IPVS, health check node ports, topology hints, node ports on loopback.

pub mod address;
pub mod apply;
pub mod backends;
pub mod claims;
pub mod config;
pub mod conntrack;
pub mod daemon;
pub mod fields;
pub mod health;
pub mod metrics;
pub mod model;
pub mod runner;
pub mod view;
