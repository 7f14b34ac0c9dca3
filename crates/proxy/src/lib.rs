//! kube-proxy: Services as kernel rules.
//!
//! Watches fill the [`model`]; a backend ([`backends`]) turns what changed into a script; [`runner`] applies it, notices
//! when somebody else changed the rules, and puts them right.

pub mod backends;
pub mod model;
pub mod view;
