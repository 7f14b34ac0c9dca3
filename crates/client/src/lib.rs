//! The way the daemons reach the apiserver: connection, typed calls, informers over views, work queues, leader election
//! and events.
//!
//! Invariants:
//! - Everything goes over the public API; nothing here knows the apiserver's or the store's insides.
//! - One informer per (resource, selector, view) and process; there is no periodic resync, a store changes only when the
//!   apiserver says so.
//! - Configuration comes from kube's kubeconfig loader; certificates, keys and token files are read again when they change.
//!
//! Absent on purpose: generated clients per type, typed k8s-openapi caches, HTTP upgrades (exec and attach are served by
//! the kubelet and proxied by the apiserver; no daemon dials them through this crate).

pub mod callers;
pub mod codec;
pub mod error;
pub mod events;
pub mod gate;
pub mod informer;
pub mod leader;
pub mod limiter;
pub mod queue;
pub mod resource;
pub mod rest;
pub mod reviews;
pub mod secure_port;
pub mod store;
pub mod transport;
pub mod view;
pub mod watch;

pub use error::{Error, Result};
pub use events::{EventType, ObjectReference, Recorder};
pub use informer::{Change, Informer, Informers, Selector};
pub use queue::WorkQueue;
pub use resource::Resource;
pub use rest::{
    Api, Client, DeleteOptions, List, ListOptions, Options, Patch, Propagation, WriteOptions,
};
pub use store::{ObjectKey, Store};
pub use view::{ObjectMeta, OwnerReference, Time, View};
