//! The built kube-apiserver on an embedded store, asked over TLS as clients ask.

mod bad_input;
mod golden;
mod server;
mod verbs;
mod watches;
