//! Times and durations as Go prints and parses them.

use std::fmt::Write;

/// A moment as `metav1.Time` has it in protobuf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

/// Seconds of 0001-01-01T00:00:00Z, which Go calls the zero time.
pub const ZERO_SECONDS: i64 = -62_135_596_800;

/// Seconds of the first and last moment that four digits of a year can say.
const FIRST_SECONDS: i64 = -62_167_219_200;
const LAST_SECONDS: i64 = 253_402_300_799;

/// Days since the epoch of a civil date (proleptic Gregorian).
fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let mp = (i64::from(month) + 9) % 12;
    let doy = (153 * mp + 2) / 5 + i64::from(day) - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    era * 146_097 + doe - 719_468
}

/// The civil date of days since the epoch.
fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let z = days.saturating_add(719_468);
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = (doy - (153 * mp + 2) / 5 + 1) as u32;
    let month = if mp < 10 { mp + 3 } else { mp - 9 } as u32;
    let year = yoe + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

impl Moment {
    /// The nearest moment of the years 0 to 9999: protobuf can hold others, which no client could read as text.
    pub fn clamped(self) -> Moment {
        if self.seconds < FIRST_SECONDS {
            Moment {
                seconds: FIRST_SECONDS,
                nanos: 0,
            }
        } else if self.seconds > LAST_SECONDS {
            Moment {
                seconds: LAST_SECONDS,
                nanos: 999_999_999,
            }
        } else {
            self
        }
    }

    /// `2026-11-24T07:45:17Z`
    pub fn rfc3339(self) -> String {
        let mut s = String::with_capacity(20);
        self.date_time(&mut s);
        s.push('Z');
        s
    }

    /// `2026-11-24T07:45:17.000000Z`
    pub fn rfc3339_micro(self) -> String {
        let mut s = String::with_capacity(27);
        self.date_time(&mut s);
        let _ = write!(s, ".{:06}Z", self.nanos / 1000);
        s
    }

    fn date_time(self, s: &mut String) {
        let (y, mo, d) = civil_from_days(self.seconds.div_euclid(86_400));
        let t = self.seconds.rem_euclid(86_400);
        let _ = write!(
            s,
            "{y:04}-{mo:02}-{d:02}T{:02}:{:02}:{:02}",
            t / 3600,
            t / 60 % 60,
            t % 60
        );
    }
}

/// Parses RFC 3339 as Go's `time.Parse(time.RFC3339, …)` does: fractions of any length, `Z` or an offset. The error is
/// Go's message. Unlike there, a moment whose year in UTC is not one of 0 to 9999 (an offset can lead there) is refused: it
/// could not be read again.
pub fn parse_rfc3339(s: &str) -> Result<Moment, String> {
    parse(s, "2006-01-02T15:04:05Z07:00", false)
}

/// Parses a `metav1.MicroTime`: exactly six digits of fraction are expected, more or fewer are accepted as Go does.
pub fn parse_rfc3339_micro(s: &str) -> Result<Moment, String> {
    parse(s, "2006-01-02T15:04:05.000000Z07:00", true)
}

fn parse(s: &str, layout: &str, micro: bool) -> Result<Moment, String> {
    let fail = |rest: &str, elem: &str| {
        format!(
            "parsing time {} as {layout:?}: cannot parse {} as {elem:?}",
            quote(s),
            quote(rest)
        )
    };
    let range = |what: &str| format!("parsing time {}: {what} out of range", quote(s));
    let b = s.as_bytes();
    let mut at = 0;
    let number = |width: usize, elem: &str, at: &mut usize| -> Result<i64, String> {
        let mut n = 0i64;
        for i in 0..width {
            match b.get(*at + i) {
                Some(c) if c.is_ascii_digit() => n = n * 10 + i64::from(c - b'0'),
                _ => return Err(fail(s.get(*at..).unwrap_or(""), elem)),
            }
        }
        *at += width;
        Ok(n)
    };
    let literal = |c: u8, at: &mut usize| -> Result<(), String> {
        if b.get(*at) == Some(&c) {
            *at += 1;
            Ok(())
        } else {
            Err(fail(s.get(*at..).unwrap_or(""), &(c as char).to_string()))
        }
    };
    let year = number(4, "2006", &mut at)?;
    literal(b'-', &mut at)?;
    let month = number(2, "01", &mut at)?;
    if !(1..=12).contains(&month) {
        return Err(range("month"));
    }
    literal(b'-', &mut at)?;
    let day = number(2, "02", &mut at)?;
    literal(b'T', &mut at)?;
    let hour = number(2, "15", &mut at)?;
    if hour > 23 {
        return Err(range("hour"));
    }
    literal(b':', &mut at)?;
    let minute = number(2, "04", &mut at)?;
    if minute > 59 {
        return Err(range("minute"));
    }
    literal(b':', &mut at)?;
    let second = number(2, "05", &mut at)?;
    if second > 59 {
        return Err(range("second"));
    }
    let mut nanos = 0u32;
    if matches!(b.get(at), Some(b'.' | b',')) && b.get(at + 1).is_some_and(u8::is_ascii_digit) {
        at += 1;
        let mut scale = 100_000_000u32;
        while let Some(c) = b.get(at).filter(|c| c.is_ascii_digit()) {
            nanos += u32::from(c - b'0') * scale;
            scale /= 10;
            at += 1;
        }
    } else if micro {
        return Err(fail(s.get(at..).unwrap_or(""), ".000000"));
    }
    let offset = match b.get(at) {
        Some(b'Z') => {
            at += 1;
            0
        }
        Some(sign @ (b'+' | b'-')) => {
            let start = at;
            at += 1;
            let bad = |_| fail(s.get(start..).unwrap_or(""), "Z07:00");
            let h = number(2, "", &mut at).map_err(bad)?;
            literal(b':', &mut at).map_err(bad)?;
            let m = number(2, "", &mut at).map_err(bad)?;
            if h > 24 || m > 60 {
                return Err(range("time zone offset hour"));
            }
            let o = h * 3600 + m * 60;
            if *sign == b'-' { -o } else { o }
        }
        _ => return Err(fail(s.get(at..).unwrap_or(""), "Z07:00")),
    };
    if at != b.len() {
        return Err(format!(
            "parsing time {}: extra text: {}",
            quote(s),
            quote(s.get(at..).unwrap_or(""))
        ));
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => 31,
    };
    if day < 1 || day > days {
        return Err(range("day"));
    }
    let seconds = days_from_civil(year, month as u32, day as u32) * 86_400
        + hour * 3600
        + minute * 60
        + second
        - offset;
    if !(FIRST_SECONDS..=LAST_SECONDS).contains(&seconds) {
        return Err(range("year in UTC"));
    }
    Ok(Moment { seconds, nanos })
}

/// Go's `strconv.Quote` for the text of errors.
pub(crate) fn quote(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Nanoseconds as Go prints a `time.Duration`: `1m30s`, `1.5s`, `300ms`, `0s`.
pub fn format_duration(nanos: i64) -> String {
    if nanos == 0 {
        return "0s".to_owned();
    }
    let u = nanos.unsigned_abs();
    let mut out = String::new();
    if nanos < 0 {
        out.push('-');
    }
    let fraction = |out: &mut String, whole: u64, rest: u64, width: usize| {
        let _ = write!(out, "{whole}");
        if rest > 0 {
            let digits = format!("{rest:0width$}");
            out.push('.');
            out.push_str(digits.trim_end_matches('0'));
        }
    };
    if u < 1_000 {
        let _ = write!(out, "{u}ns");
    } else if u < 1_000_000 {
        fraction(&mut out, u / 1_000, u % 1_000, 3);
        out.push_str("µs");
    } else if u < 1_000_000_000 {
        fraction(&mut out, u / 1_000_000, u % 1_000_000, 6);
        out.push_str("ms");
    } else {
        let secs = u / 1_000_000_000;
        if secs >= 3600 {
            let _ = write!(out, "{}h", secs / 3600);
        }
        if secs >= 60 {
            let _ = write!(out, "{}m", secs / 60 % 60);
        }
        fraction(&mut out, secs % 60, u % 1_000_000_000, 9);
        out.push('s');
    }
    out
}

/// Parses a Go duration into nanoseconds. The error is Go's message.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", quote(text));
    let mut s = text;
    let negative = s.starts_with('-');
    if let Some(rest) = s.strip_prefix(['-', '+']) {
        s = rest;
    }
    if s == "0" {
        return Ok(0);
    }
    if s.is_empty() {
        return Err(invalid());
    }
    let mut total: u128 = 0;
    while !s.is_empty() {
        let digits = s.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, rest) = s.split_at(digits);
        s = rest;
        let mut fraction = "";
        if let Some(rest) = s.strip_prefix('.') {
            let n = rest.bytes().take_while(u8::is_ascii_digit).count();
            (fraction, s) = rest.split_at(n);
        }
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = s
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(s.len());
        let (unit, rest) = s.split_at(end);
        s = rest;
        let scale: u128 = match unit {
            "" => return Err(format!("time: missing unit in duration {}", quote(text))),
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            other => {
                return Err(format!(
                    "time: unknown unit {} in duration {}",
                    quote(other),
                    quote(text)
                ));
            }
        };
        if whole.len() > 20 {
            return Err(invalid());
        }
        let w: u128 = if whole.is_empty() {
            0
        } else {
            whole.parse().map_err(|_| invalid())?
        };
        total += w * scale;
        let mut part: u128 = 0;
        let mut base: u128 = 1;
        for c in fraction.bytes().take(18) {
            part = part * 10 + u128::from(c - b'0');
            base *= 10;
        }
        total += part * scale / base;
        if total > 1 << 63 {
            return Err(invalid());
        }
    }
    if negative {
        return i128::try_from(total)
            .ok()
            .and_then(|n| i64::try_from(-n).ok())
            .ok_or_else(invalid);
    }
    i64::try_from(total).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, secs) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:01Z", 951_825_601),
            ("0001-01-01T00:00:00Z", ZERO_SECONDS),
            ("0000-01-01T00:00:00Z", FIRST_SECONDS),
            ("9999-12-31T23:59:59Z", LAST_SECONDS),
        ] {
            let m = parse_rfc3339(text).unwrap();
            assert_eq!((m.seconds, m.nanos), (secs, 0));
            assert_eq!(m.rfc3339(), text);
        }
        assert_eq!(
            parse_rfc3339("2020-01-01T01:00:00.5+01:00")
                .unwrap()
                .rfc3339_micro(),
            "2020-01-01T00:00:00.500000Z"
        );
        assert_eq!(
            parse_rfc3339("x").unwrap_err(),
            "parsing time \"x\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"x\" as \"2006\""
        );
        assert_eq!(
            parse_rfc3339("2020-02-30T00:00:00Z").unwrap_err(),
            "parsing time \"2020-02-30T00:00:00Z\": day out of range"
        );
        assert!(parse_rfc3339("2020-01-01").is_err());
        for beyond in ["9999-12-31T23:59:59-00:01", "0000-01-01T00:00:00+00:01"] {
            let e = parse_rfc3339(beyond).unwrap_err();
            assert!(e.ends_with(": year in UTC out of range"), "{e}");
        }
        for seconds in [i64::MIN, FIRST_SECONDS - 1, LAST_SECONDS + 1, i64::MAX] {
            let m = Moment { seconds, nanos: 5 }.clamped();
            assert!(parse_rfc3339(&m.rfc3339()).is_ok(), "{seconds}");
        }
    }

    #[test]
    fn durations() {
        for (text, nanos) in [
            ("0s", 0),
            ("1ns", 1),
            ("1.5µs", 1_500),
            ("300ms", 300_000_000),
            ("1m30s", 90_000_000_000),
            ("1h0m0.5s", 3_600_500_000_000),
            ("-2h45m0s", -9_900_000_000_000),
        ] {
            assert_eq!(parse_duration(text).unwrap(), nanos, "{text}");
            assert_eq!(format_duration(nanos), text);
        }
        assert_eq!(parse_duration("1.5h").unwrap(), 5_400_000_000_000);
        assert_eq!(
            parse_duration("3").unwrap_err(),
            "time: missing unit in duration \"3\""
        );
        assert_eq!(
            parse_duration("3x").unwrap_err(),
            "time: unknown unit \"x\" in duration \"3x\""
        );
        assert_eq!(
            parse_duration("").unwrap_err(),
            "time: invalid duration \"\""
        );
        assert!(parse_duration("9999999h").is_err());
    }
}
