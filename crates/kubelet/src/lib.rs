//! The kubelet: runs the pods of one node in its container runtime and reports on both.
//!
//! Each manager is a folder: sources of pods, workers (one task per pod), volumes, images, probes, status, node, collection,
//! the server. What is to be done is decided by pure functions ([`runtime::actions`], [`status::generate`],
//! [`admission`]) and carried out by the workers. The runtime is behind [`cri::Runtime`], the apiserver behind `client`.
//!
//! Invariants: a restarted kubelet takes up what runs without touching it; nothing in memory is needed to do so. Nothing
//! is polled at the apiserver.

pub mod admission;
pub mod cgroups;
pub mod config;
pub mod cri;
pub mod gc;
pub mod images;
pub mod inotify;
pub mod node;
pub mod pleg;
pub mod pod;
pub mod prober;
pub mod run;
pub mod runtime;
pub mod server;
pub mod shared;
pub mod source;
pub mod status;
pub mod volumes;
pub mod worker;

pub use run::{Dependencies, RunError, run};
