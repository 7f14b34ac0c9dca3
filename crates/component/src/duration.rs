//! Go's durations: `1h30m`, `300ms`, `-5s`, `0`.

/// The longest wait that is kept, in seconds: what a Go duration holds, some 292 years. Adding it to an `Instant` of now
/// is safe.
pub const LONGEST_SECONDS: i64 = 9_223_372_036;

/// A number of seconds from outside as a wait: a negative one is none, one that is too long is [`LONGEST_SECONDS`].
pub fn seconds(n: i64) -> std::time::Duration {
    std::time::Duration::from_secs(n.clamp(0, LONGEST_SECONDS).unsigned_abs())
}

/// Nanoseconds of a Go duration text.
///
/// # Errors
/// Go's own message: `time: invalid duration "x"`.
pub fn parse_nanos(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(r) => (true, r),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(end);
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            other => return Err(format!("time: unknown unit {other:?} in duration {text:?}")),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || whole.len() > 18 || fraction.contains('.') {
            return Err(invalid());
        }
        let digits = |s: &str| {
            if s.is_empty() {
                Ok(0)
            } else {
                s.parse::<i128>().map_err(|_| invalid())
            }
        };
        let fraction = fraction.get(..fraction.len().min(15)).unwrap_or_default();
        let part =
            digits(fraction)? * scale / 10_i128.pow(u32::try_from(fraction.len()).unwrap_or(0));
        total += digits(whole)? * scale + part;
        if total > i128::from(i64::MAX) {
            return Err(invalid());
        }
        rest = tail;
    }
    let total = i64::try_from(total).map_err(|_| invalid())?;
    Ok(if negative { -total } else { total })
}

/// A duration that cannot be negative; negative ones are zero.
///
/// # Errors
/// As [`parse_nanos`].
pub fn parse(text: &str) -> Result<std::time::Duration, String> {
    Ok(std::time::Duration::from_nanos(
        u64::try_from(parse_nanos(text)?).unwrap_or(0),
    ))
}

/// As Go prints it: `1m30s`, `1.5s`, `300ms`, `0s`.
pub fn format(d: std::time::Duration) -> String {
    let nanos = d.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    let decimal = |value: u128, unit: u128, suffix: &str| {
        let (whole, rest) = (value / unit, value % unit);
        if rest == 0 {
            return format!("{whole}{suffix}");
        }
        let width = unit.to_string().len() - 1;
        let digits = format!("{rest:0width$}");
        format!("{whole}.{}{suffix}", digits.trim_end_matches('0'))
    };
    if nanos < 1_000 {
        return format!("{nanos}ns");
    }
    if nanos < 1_000_000 {
        return decimal(nanos, 1_000, "µs");
    }
    if nanos < 1_000_000_000 {
        return decimal(nanos, 1_000_000, "ms");
    }
    let (h, m) = (nanos / 3_600_000_000_000, nanos / 60_000_000_000 % 60);
    let s = decimal(nanos % 60_000_000_000, 1_000_000_000, "s");
    match (h, m) {
        (0, 0) => s,
        (0, m) => format!("{m}m{s}"),
        (h, m) => format!("{h}h{m}m{s}"),
    }
}

/// For serde: `#[serde(with = "component::duration::text")]` on a `std::time::Duration`.
pub mod text {
    use serde::{Deserialize, Deserializer, Serializer};

    /// Reads `"1m30s"`.
    ///
    /// # Errors
    /// When the text is no duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<std::time::Duration, D::Error> {
        super::parse(&String::deserialize(d)?).map_err(serde::de::Error::custom)
    }

    /// Writes `"1m30s"`.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(v: &std::time::Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&super::format(*v))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_print_as_go() {
        for (text, nanos) in [
            ("1m30s", 90_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("-5s", -5_000_000_000),
            ("0", 0),
            ("2m0s", 120_000_000_000),
            ("100ms", 100_000_000),
            (".5s", 500_000_000),
        ] {
            assert_eq!(parse_nanos(text), Ok(nanos), "{text}");
        }
        for bad in [
            "",
            "5",
            "1x",
            ".s",
            "1.2.3s",
            "s",
            "-",
            "99999999999999999999h",
        ] {
            assert!(parse_nanos(bad).is_err(), "{bad}");
        }
        for text in ["1m30s", "1h0m0s", "1.5s", "300ms", "8760h0m0s", "1.5µs"] {
            assert_eq!(format(parse(text).unwrap()), text);
        }
    }
}
