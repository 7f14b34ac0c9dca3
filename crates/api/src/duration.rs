//! Go durations (`1m30s`) in nanoseconds.

pub use wire::time::{format_duration as format, parse_duration as parse};
