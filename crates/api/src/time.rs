//! Times as the API carries them: RFC 3339, UTC, in seconds (`metav1.Time`) or microseconds (`metav1.MicroTime`).

use std::time::{SystemTime, UNIX_EPOCH};

pub use wire::time::{Moment, parse_rfc3339, parse_rfc3339_micro};

/// The moment of a system time; times before 1970 become 1970.
pub fn moment(at: SystemTime) -> Moment {
    let d = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment {
        seconds: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
        nanos: d.subsec_nanos(),
    }
}

/// `2026-11-24T07:45:17Z`
pub fn rfc3339(at: SystemTime) -> String {
    moment(at).rfc3339()
}

/// `2026-11-24T07:45:17.123456Z`
pub fn rfc3339_micro(at: SystemTime) -> String {
    moment(at).rfc3339_micro()
}

/// Seconds since 1970 of an RFC 3339 text; `None` if it is not one.
pub fn seconds(text: &str) -> Option<i64> {
    parse_rfc3339(text).ok().map(|m| m.seconds)
}
