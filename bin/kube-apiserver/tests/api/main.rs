//! The built kube-apiserver on an embedded store, asked over TLS as clients ask.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's failure is a panic"
)]

mod absent;
mod bad_input;
mod documents;
mod evictions;
mod fields;
mod golden;
mod limits;
mod pages;
mod quotas;
mod rights;
mod server;
mod services;
mod shares;
mod verbs;
mod watches;
