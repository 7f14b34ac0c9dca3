//! Durations for people: `5s`, `3m20s`, `2d4h`.

use serde_json::Value;

use crate::value::Tree;

/// Seconds since the epoch of an RFC 3339 time.
pub fn epoch(text: &str) -> Option<i64> {
    api::time::seconds(text)
}

/// The age of an object as a cell.
pub fn of(o: &Value, now: i64) -> Value {
    since(o.at("metadata.creationTimestamp"), now).into()
}

/// How long ago a time was; `<unknown>` for none.
pub fn since(time: &Value, now: i64) -> String {
    match time.as_str().and_then(epoch) {
        Some(t) => human(now - t),
        None => "<unknown>".into(),
    }
}

/// A duration in seconds with at most two units.
pub fn human(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".into();
    }
    if seconds < 120 {
        return format!("{}s", seconds.max(0));
    }
    let two = |a: i64, unit: &str, b: i64, sub: &str| match b {
        0 => format!("{a}{unit}"),
        b => format!("{a}{unit}{b}{sub}"),
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match hours {
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        h if h < 8 => two(h, "h", minutes % 60, "m"),
        h if h < 48 => format!("{h}h"),
        h if h < 24 * 8 => two(h / 24, "d", h % 24, "h"),
        h if h < 24 * 365 * 2 => format!("{}d", h / 24),
        h if h < 24 * 365 * 8 => two(h / 24 / 365, "y", (h / 24) % 365, "d"),
        h => format!("{}y", h / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (s, want) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (600, "10m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (9 * 3600, "9h"),
            (49 * 3600, "2d1h"),
            (9 * 86400, "9d"),
            (800 * 86400, "2y70d"),
            (3000 * 86400, "8y"),
        ] {
            assert_eq!(human(s), want, "{s}");
        }
        assert_eq!(
            since(
                &"2026-01-01T00:00:00Z".into(),
                epoch("2026-01-01T00:01:00Z").unwrap()
            ),
            "60s"
        );
        assert_eq!(since(&Value::Null, 0), "<unknown>");
        assert_eq!(since(&"9999-12-31T23:59:59Z".into(), 0), "<invalid>");
    }
}
