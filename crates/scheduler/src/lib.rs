//! kube-scheduler: finds a node for every pod that has none.
//!
//! The table of nodes ([`nodes`]) is kept in place from watch events; one task owns it together with the queue and makes
//! one decision after the other ([`cycle`]); bindings are written by other tasks while the next decisions are made
//! ([`shell`]). A decided pod is counted on its node at once ("assumed") and taken off again if its binding fails.
//!
//! Pods that wait for their volumes are bound once these are ([`core`], [`storage`]).
//!
//! Absent: extenders, dynamic resources, gang scheduling.

pub mod bits;
pub mod config;
pub mod core;
pub mod cycle;
pub mod daemon;
pub mod fields;
pub mod framework;
pub mod guard;
pub mod metrics;
pub mod nodes;
pub mod plugins;
pub mod pod;
pub mod preemption;
pub mod queue;
pub mod resources;
pub mod selector;
pub mod shell;
pub mod storage;
pub mod view;
