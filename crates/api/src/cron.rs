//! Cron schedules: upstream's grammar (robfig/cron v3, `ParseStandard`), what it says of texts that it refuses, and when a
//! schedule is due next.
//!
//! Invariants: validation and the CronJob controller read schedules here, so they cannot disagree; a search ends after five
//! years at the latest, whatever the schedule says; where daylight saving time skips an hour what is due in it is left out,
//! and where it repeats one what is due in it is due twice. One thing differs from upstream's search: where a zone left out
//! a whole day, upstream's stands still for ever, and this one goes on behind it.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::{Offset, TimeZone};

/// Set beside the bits of a field that a star stands in. Days of the month and of the week must both match where one of the
/// fields has it; otherwise one of them is enough.
const STAR: u64 = 1 << 63;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// The search for the next time goes this far.
const YEARS: i16 = 5;

struct Bounds {
    min: u64,
    max: u64,
    names: &'static [&'static str],
}

const MINUTES: Bounds = Bounds {
    min: 0,
    max: 59,
    names: &[],
};
const HOURS: Bounds = Bounds {
    min: 0,
    max: 23,
    names: &[],
};
const DAYS: Bounds = Bounds {
    min: 1,
    max: 31,
    names: &[],
};
const MONTHS: Bounds = Bounds {
    min: 1,
    max: 12,
    names: &[
        "", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ],
};
const WEEKDAYS: Bounds = Bounds {
    min: 0,
    max: 6,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
};

/// The five fields; bit `n` is set when `n` matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fields {
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    weekday: u64,
}

#[derive(Clone, Debug, PartialEq)]
enum When {
    Fields(Fields),
    /// Seconds, at least one.
    Every(i64),
}

/// A schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    when: When,
    /// Of `TZ=`; `None` for the caller's.
    zone: Option<TimeZone>,
}

/// A time zone by its name; `None` inside for `Local`, which is the caller's own. An empty name is UTC.
///
/// # Errors
/// What Go says of a name that it does not know.
pub fn zone(name: &str) -> Result<Option<TimeZone>, String> {
    match name {
        "" | "UTC" => return Ok(Some(TimeZone::UTC)),
        "Local" => return Ok(None),
        _ => {}
    }
    if name.starts_with(['/', '\\']) || name.split(['/', '\\']).any(|part| part == "..") {
        return Err("time: invalid location name".into());
    }
    // The database does not tell upper from lower case, Go does.
    TimeZone::get(name)
        .ok()
        .filter(|z| z.iana_name() == Some(name) && !z.is_unknown())
        .map(Some)
        .ok_or_else(|| format!("unknown time zone {name}"))
}

/// Reads a schedule: five fields or a descriptor such as `@daily`, after a time zone or without one.
///
/// # Errors
/// Upstream's message.
pub fn parse(text: &str) -> Result<Schedule, String> {
    if text.is_empty() {
        return Err("empty spec string".into());
    }
    let (spec, zone) = split_zone(text)?;
    let when = if spec.starts_with('@') {
        descriptor(spec)?
    } else {
        When::Fields(fields(spec)?)
    };
    Ok(Schedule { when, zone })
}

fn split_zone(text: &str) -> Result<(&str, Option<TimeZone>), String> {
    let Some(named) = text
        .strip_prefix("TZ=")
        .or_else(|| text.strip_prefix("CRON_TZ="))
    else {
        return Ok((text, None));
    };
    let Some((name, spec)) = named.split_once(' ') else {
        return Err(
            "invalid schedule format: runtime error: slice bounds out of range [:-1]".into(),
        );
    };
    let zone = zone(name).map_err(|why| format!("provided bad location {name}: {why}"))?;
    Ok((spec.trim(), zone))
}

fn descriptor(spec: &str) -> Result<When, String> {
    let text = match spec {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => {
            let Some(every) = spec.strip_prefix("@every ") else {
                return Err(format!("unrecognized descriptor: {spec}"));
            };
            let nanos = crate::duration::parse(every)
                .map_err(|why| format!("failed to parse duration {spec}: {why}"))?;
            return Ok(When::Every((nanos / 1_000_000_000).max(1)));
        }
    };
    fields(text).map(When::Fields)
}

fn fields(spec: &str) -> Result<Fields, String> {
    let parts: Vec<&str> = spec.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = parts[..] else {
        return Err(format!(
            "expected exactly 5 fields, found {}: [{}]",
            parts.len(),
            parts.join(" ")
        ));
    };
    Ok(Fields {
        minute: field(minute, &MINUTES)?,
        hour: field(hour, &HOURS)?,
        day: field(day, &DAYS)?,
        month: field(month, &MONTHS)?,
        weekday: field(weekday, &WEEKDAYS)?,
    })
}

/// Ranges between commas; empty ones count for nothing.
fn field(text: &str, bounds: &Bounds) -> Result<u64, String> {
    text.split(',')
        .filter(|r| !r.is_empty())
        .try_fold(0, |bits, r| Ok(bits | range(r, bounds)?))
}

fn number(text: &str) -> Result<u64, String> {
    let n: i64 = text.parse().map_err(|e: std::num::ParseIntError| {
        use std::num::IntErrorKind::{NegOverflow, PosOverflow};
        let why = match e.kind() {
            PosOverflow | NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!(
            "failed to parse int from {text}: strconv.Atoi: parsing {}: {why}",
            crate::text::go_quote(text)
        )
    })?;
    u64::try_from(n).map_err(|_| format!("negative number ({n}) not allowed: {text}"))
}

fn named(text: &str, names: &[&str]) -> Result<u64, String> {
    let lower = text.to_lowercase();
    match names.iter().position(|n| !n.is_empty() && **n == lower) {
        Some(i) => Ok(i as u64),
        None => number(text),
    }
}

/// `*`, `?`, `N` or `N-M`, with `/STEP` or without; `N/STEP` goes up to the greatest value.
fn range(expr: &str, bounds: &Bounds) -> Result<u64, String> {
    let &Bounds { min, max, names } = bounds;
    let parts: Vec<&str> = expr.split('/').collect();
    let ends: Vec<&str> = parts
        .first()
        .copied()
        .unwrap_or_default()
        .split('-')
        .collect();
    let mut star = 0;
    let (start, mut end) = match ends[..] {
        ["*" | "?", ..] => {
            star = STAR;
            (min, max)
        }
        [one] => {
            let n = named(one, names)?;
            (n, n)
        }
        [low, high] => (named(low, names)?, named(high, names)?),
        _ => {
            named(ends.first().copied().unwrap_or_default(), names)?;
            return Err(format!("too many hyphens: {expr}"));
        }
    };
    let step = match parts[..] {
        [_] => 1,
        [_, step] => {
            let step = number(step)?;
            if ends.len() == 1 {
                end = max;
            }
            if step > 1 {
                star = 0;
            }
            step
        }
        _ => return Err(format!("too many slashes: {expr}")),
    };
    if start < min {
        return Err(format!(
            "beginning of range ({start}) below minimum ({min}): {expr}"
        ));
    }
    if end > max {
        return Err(format!(
            "end of range ({end}) above maximum ({max}): {expr}"
        ));
    }
    if start > end {
        return Err(format!(
            "beginning of range ({start}) beyond end of range ({end}): {expr}"
        ));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {expr}"));
    }
    // Both ends are below 60 here.
    let step = usize::try_from(step).unwrap_or(usize::MAX);
    Ok((start..=end)
        .step_by(step)
        .fold(star, |bits, n| bits | 1 << n))
}

fn has(bits: u64, n: i8) -> bool {
    u32::try_from(n).is_ok_and(|n| bits.checked_shr(n).unwrap_or(0) & 1 == 1)
}

/// A moment in seconds since 1970, seen in a zone. `None` where no calendar goes.
struct Clock<'a>(&'a TimeZone);

impl Clock<'_> {
    fn offset(&self, at: i64) -> Option<i64> {
        let at = Timestamp::from_second(at).ok()?;
        Some(i64::from(self.0.to_offset(at).seconds()))
    }

    fn show(&self, at: i64) -> Option<DateTime> {
        let at = Timestamp::from_second(at).ok()?;
        Some(self.0.to_datetime(at))
    }

    /// Go's `time.Date`: of a time that there is twice or not at all it takes the offset that holds one offset earlier.
    fn moment(&self, date: Date, hour: i8) -> Option<i64> {
        let local = Offset::UTC
            .to_timestamp(date.at(hour, 0, 0, 0))
            .ok()?
            .as_second();
        let guess = local - self.offset(local)?;
        Some(local - self.offset(guess)?)
    }
}

impl Fields {
    fn day_matches(&self, date: Date) -> bool {
        let day = has(self.day, date.day());
        let weekday = has(self.weekday, date.weekday().to_sunday_zero_offset());
        if (self.day | self.weekday) & STAR == 0 {
            day || weekday
        } else {
            day && weekday
        }
    }

    /// Whether some value of each field matches; `,` matches none.
    fn can_match(&self) -> bool {
        let some = |bits: u64| bits & !STAR != 0;
        let days = if (self.day | self.weekday) & STAR == 0 {
            some(self.day) || some(self.weekday)
        } else {
            some(self.day) && some(self.weekday)
        };
        some(self.minute) && some(self.hour) && some(self.month) && days
    }

    /// Field by field from the months down, each moved on until it matches; where one begins anew at its least value the
    /// greater ones are looked at again.
    fn next(&self, after: i64, clock: &Clock<'_>) -> Option<i64> {
        if !self.can_match() {
            return None;
        }
        let mut at = after.checked_add(1)?;
        // Whether the lesser fields have been put to their least values.
        let mut reset = false;
        let limit = clock.show(at)?.year().checked_add(YEARS)?;
        'again: loop {
            let mut now = clock.show(at)?;
            if now.year() > limit {
                return None;
            }
            while !has(self.month, now.month()) {
                if !reset {
                    reset = true;
                    at = clock.moment(now.date().first_of_month(), 0)?;
                    now = clock.show(at)?;
                }
                // A day that the next month does not have is one of the month after it.
                let month = now
                    .date()
                    .last_of_month()
                    .tomorrow()
                    .ok()?
                    .checked_add(jiff::Span::new().try_days(now.day() - 1).ok()?);
                at = clock.moment(month.ok()?, now.hour())?;
                now = clock.show(at)?;
                if now.month() == 1 {
                    continue 'again;
                }
            }
            while !self.day_matches(now.date()) {
                if !reset {
                    reset = true;
                    at = clock.moment(now.date(), 0)?;
                    now = clock.show(at)?;
                }
                let before = at;
                at = clock.moment(now.date().tomorrow().ok()?, now.hour())?;
                // Some days have no midnight.
                let hour = i64::from(clock.show(at)?.hour());
                if hour > 12 {
                    at += (24 - hour) * HOUR;
                } else {
                    at -= hour * HOUR;
                }
                if at <= before {
                    at = before + DAY;
                }
                now = clock.show(at)?;
                if now.day() == 1 {
                    continue 'again;
                }
            }
            while !has(self.hour, now.hour()) {
                if !reset {
                    reset = true;
                    at = clock.moment(now.date(), now.hour())?;
                }
                at += HOUR;
                now = clock.show(at)?;
                if now.hour() == 0 {
                    continue 'again;
                }
            }
            while !has(self.minute, now.minute()) {
                if !reset {
                    reset = true;
                    at -= at.rem_euclid(60);
                }
                at += 60;
                now = clock.show(at)?;
                if now.minute() == 0 {
                    continue 'again;
                }
            }
            // Offsets of old times have seconds.
            while now.second() != 0 {
                reset = true;
                at += 1;
                now = clock.show(at)?;
                if now.second() == 0 {
                    continue 'again;
                }
            }
            return Some(at);
        }
    }
}

impl Schedule {
    /// The first time after `after` that the schedule is due, in its own zone or else in `local`; `None` when that is never,
    /// or not within five years.
    pub fn next(&self, after: Timestamp, local: &TimeZone) -> Option<Timestamp> {
        let second = after.as_nanosecond().div_euclid(1_000_000_000);
        let second = i64::try_from(second).ok()?;
        let next = match &self.when {
            When::Every(seconds) => second.checked_add(*seconds)?,
            When::Fields(f) => f.next(second, &Clock(self.zone.as_ref().unwrap_or(local)))?,
        };
        Timestamp::from_second(next).ok()
    }

    /// Whether it is due at times of its own. What is due `@every` so often is due that long after any time.
    pub fn is_fixed(&self) -> bool {
        matches!(self.when, When::Fields(_))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bits(text: &str) -> Fields {
        match parse(text).unwrap().when {
            When::Fields(f) => f,
            When::Every(_) => panic!("{text} has no fields"),
        }
    }

    #[test]
    fn what_is_no_schedule_is_told_in_upstreams_words() {
        for (bad, why) in [
            ("", "empty spec string"),
            ("x", "expected exactly 5 fields, found 1: [x]"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            (
                "0 * * * *  *",
                "expected exactly 5 fields, found 6: [0 * * * * *]",
            ),
            ("TZ=UTC  ", "expected exactly 5 fields, found 0: []"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* 24 * * *", "end of range (24) above maximum (23): 24"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("* * * * 7", "end of range (7) above maximum (6): 7"),
            (
                "5-1 * * * *",
                "beginning of range (5) beyond end of range (1): 5-1",
            ),
            (
                "*/0 * * * *",
                "step of range should be a positive number: */0",
            ),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            (
                "a-2-3 * * * *",
                "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax",
            ),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            (
                "a * * * *",
                "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax",
            ),
            (
                "* jan * * *",
                "failed to parse int from jan: strconv.Atoi: parsing \"jan\": invalid syntax",
            ),
            (
                "-1 * * * *",
                "failed to parse int from : strconv.Atoi: parsing \"\": invalid syntax",
            ),
            ("*/-1 * * * *", "negative number (-1) not allowed: -1"),
            (
                "99999999999999999999 * * * *",
                "failed to parse int from 99999999999999999999: strconv.Atoi: parsing \"99999999999999999999\": value out of range",
            ),
            ("@never", "unrecognized descriptor: @never"),
            ("@every", "unrecognized descriptor: @every"),
            (
                "@every x",
                "failed to parse duration @every x: time: invalid duration \"x\"",
            ),
            (
                "@every 5",
                "failed to parse duration @every 5: time: missing unit in duration \"5\"",
            ),
            (
                "@every 5y",
                "failed to parse duration @every 5y: time: unknown unit \"y\" in duration \"5y\"",
            ),
            (
                "TZ=No/Where * * * * *",
                "provided bad location No/Where: unknown time zone No/Where",
            ),
            (
                "TZ=europe/berlin * * * * *",
                "provided bad location europe/berlin: unknown time zone europe/berlin",
            ),
            (
                "CRON_TZ=../UTC * * * * *",
                "provided bad location ../UTC: time: invalid location name",
            ),
        ] {
            assert_eq!(parse(bad), Err(why.to_owned()), "{bad}");
        }
        for without_a_space in ["TZ=0", "TZ=", "CRON_TZ=UTC", "TZ=No/Where"] {
            let why = parse(without_a_space).unwrap_err();
            assert!(why.starts_with("invalid schedule format: "), "{why}");
        }
    }

    #[test]
    fn fields_are_sets() {
        for (text, bounds, want) in [
            ("5", MINUTES, 1 << 5),
            ("+5", MINUTES, 1 << 5),
            ("5-5", MINUTES, 1 << 5),
            ("5-7", MINUTES, 0b111 << 5),
            ("5-6/2", MINUTES, 1 << 5),
            ("5-7/2", MINUTES, 1 << 5 | 1 << 7),
            ("5-7/1", MINUTES, 0b111 << 5),
            ("57/1", MINUTES, 0b111 << 57),
            ("50/4", MINUTES, 1 << 50 | 1 << 54 | 1 << 58),
            ("5,6,,7,", MINUTES, 0b111 << 5),
            (",", MINUTES, 0),
            ("1,5-7/2,3", MINUTES, 0b10101010),
            ("0/9223372036854775807", MINUTES, 1),
            ("*", MINUTES, STAR | 0xfff_ffff_ffff_ffff),
            ("*", HOURS, STAR | 0xff_ffff),
            ("?", DAYS, STAR | 0xffff_fffe),
            ("*", MONTHS, STAR | 0x1ffe),
            ("?/1", WEEKDAYS, STAR | 0x7f),
            // A star with a step is none.
            ("*/6", MONTHS, 1 << 1 | 1 << 7),
            ("*-9/3", WEEKDAYS, 1 << 0 | 1 << 3 | 1 << 6),
            ("JAN-mar", MONTHS, 0b1110),
            ("mon,Fri", WEEKDAYS, 1 << 1 | 1 << 5),
            ("thu/2", WEEKDAYS, 1 << 4 | 1 << 6),
        ] {
            assert_eq!(field(text, &bounds), Ok(want), "{text}");
        }
    }

    #[test]
    fn descriptors_and_zones() {
        for (descriptor, same) in [
            ("@yearly", "0 0 1 1 *"),
            ("@annually", "0 0 1 1 *"),
            ("@monthly", "0 0 1 * *"),
            ("@weekly", "0 0 * * 0"),
            ("@daily", "0 0 * * *"),
            ("@midnight", "0 0 * * *"),
            ("@hourly", "0 * * * *"),
        ] {
            assert_eq!(bits(descriptor), bits(same), "{descriptor}");
        }
        for (every, seconds) in [
            ("@every 1h30m", 5400),
            ("@every 1.9s", 1),
            ("@every 1ms", 1),
            ("@every 0", 1),
            ("@every -5m", 1),
        ] {
            assert_eq!(parse(every).unwrap().when, When::Every(seconds), "{every}");
        }
        let zone_of = |text: &str| parse(text).unwrap().zone;
        assert_eq!(zone_of("5 * * * *"), None);
        assert_eq!(zone_of("TZ=Local 5 * * * *"), None);
        assert_eq!(zone_of("TZ= 5 * * * *"), Some(TimeZone::UTC));
        assert_eq!(zone_of("TZ=UTC  @midnight"), Some(TimeZone::UTC));
        let tokyo = zone_of("CRON_TZ=Asia/Tokyo 5 * * * *").unwrap();
        assert_eq!(tokyo.iana_name(), Some("Asia/Tokyo"));
        assert!(zone("US/Eastern").is_ok(), "an old name");
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// The next time, in UTC.
    fn next(text: &str, after: &str, zone: &str) -> Option<String> {
        let local = super::zone(zone).unwrap().unwrap();
        let next = parse(text).unwrap().next(at(after), &local)?;
        Some(next.to_string())
    }

    #[test]
    fn next_times() {
        for (text, after, want) in [
            (
                "0/15 * * * *",
                "2012-07-09T14:45:00Z",
                "2012-07-09T15:00:00Z",
            ),
            (
                "0/15 * * * *",
                "2012-07-09T14:59:59.9Z",
                "2012-07-09T15:00:00Z",
            ),
            (
                "0/15 * * * *",
                "2012-07-09T15:00:00.5Z",
                "2012-07-09T15:15:00Z",
            ),
            (
                "5/15 * * * *",
                "2012-07-09T15:36:00Z",
                "2012-07-09T15:50:00Z",
            ),
            // The next hour, day, month, year.
            (
                "20-35/15 * * * *",
                "2012-07-09T15:45:00Z",
                "2012-07-09T16:20:00Z",
            ),
            (
                "*/15 * * * *",
                "2012-07-09T23:46:00Z",
                "2012-07-10T00:00:00Z",
            ),
            (
                "20-35/15 1/2 * * *",
                "2012-07-09T23:35:51Z",
                "2012-07-10T01:20:00Z",
            ),
            (
                "20-35/15 10-12 * * *",
                "2012-07-09T23:35:51Z",
                "2012-07-10T10:20:00Z",
            ),
            (
                "20-35/15 1/2 */2 * *",
                "2012-07-09T23:35:51Z",
                "2012-07-11T01:20:00Z",
            ),
            (
                "20-35/15 * 9-20 Jul *",
                "2012-07-09T23:35:51Z",
                "2012-07-10T00:20:00Z",
            ),
            (
                "0 0 9 Apr-Oct ?",
                "2012-07-09T23:35:00Z",
                "2012-08-09T00:00:00Z",
            ),
            (
                "0 0 */5 Apr,Aug,Oct Mon",
                "2012-07-09T23:35:00Z",
                "2012-08-01T00:00:00Z",
            ),
            (
                "0 0 */5 Oct Mon",
                "2012-07-09T23:35:00Z",
                "2012-10-01T00:00:00Z",
            ),
            (
                "0 0 * Feb Mon",
                "2012-07-09T23:35:00Z",
                "2013-02-04T00:00:00Z",
            ),
            (
                "0 0 * Feb Mon/2",
                "2012-07-09T23:35:00Z",
                "2013-02-01T00:00:00Z",
            ),
            ("* * * * *", "2012-12-31T23:59:45Z", "2013-01-01T00:00:00Z"),
            (
                "0 0 29 Feb ?",
                "2012-07-09T23:35:00Z",
                "2016-02-29T00:00:00Z",
            ),
            // With days of both kinds one is enough, with a star both are needed.
            (
                "0 0 1,15 * Sun",
                "2012-07-08T00:00:00Z",
                "2012-07-15T00:00:00Z",
            ),
            (
                "0 0 1,15 * Sun",
                "2012-07-30T00:00:00Z",
                "2012-08-01T00:00:00Z",
            ),
            (
                "0 0 */10 * Sun",
                "2012-07-12T00:00:00Z",
                "2012-07-15T00:00:00Z",
            ),
            (
                "0 0 * * Mon",
                "2012-07-14T00:00:00Z",
                "2012-07-16T00:00:00Z",
            ),
            (
                "0 0 1,15 * *",
                "2012-07-08T00:00:00Z",
                "2012-07-15T00:00:00Z",
            ),
            (
                "30 08 15 Jul ?",
                "2012-07-15T08:29:59Z",
                "2012-07-15T08:30:00Z",
            ),
            (
                "30 08 15 Jul ?",
                "2012-07-15T08:30:00Z",
                "2013-07-15T08:30:00Z",
            ),
            (", * * * *", "2012-07-15T08:30:00Z", ""),
            (
                "0 0 , * Mon",
                "2012-07-15T08:30:00Z",
                "2012-07-16T00:00:00Z",
            ),
            ("0 0 , * *", "2012-07-15T08:30:00Z", ""),
            // Never, or not soon enough.
            ("0 0 30 Feb ?", "2012-07-09T23:35:00Z", ""),
            ("0 0 31 Apr ?", "2012-07-09T23:35:00Z", ""),
            ("0 0 29 Feb ?", "2096-03-01T00:00:00Z", ""),
            (
                "0 0 29 Feb ?",
                "2099-03-01T00:00:00Z",
                "2104-02-29T00:00:00Z",
            ),
            // Any time there is.
            ("0 0 1 1 *", "9999-06-01T00:00:00Z", ""),
            (
                "0 0 1 1 *",
                "-009999-06-01T00:00:00Z",
                "-009998-01-01T00:00:00Z",
            ),
            (
                "@every 1h",
                "2012-07-09T14:45:10.7Z",
                "2012-07-09T15:45:10Z",
            ),
            ("@every 292y", "", ""),
            ("@every 2562047h", "9999-06-01T00:00:00Z", ""),
            // The schedule's own zone.
            (
                "TZ=Asia/Tokyo 0 9 * * *",
                "2012-07-09T12:00:00Z",
                "2012-07-10T00:00:00Z",
            ),
        ] {
            if after.is_empty() {
                assert!(parse(text).is_err());
                continue;
            }
            let next = next(text, after, "UTC").unwrap_or_default();
            assert_eq!(next, want, "{text} after {after}");
        }
    }

    /// What there is not is left out, what there is twice is due twice.
    #[test]
    fn clocks_are_put_forward_and_back() {
        let york = "America/New_York";
        for (text, after, zone, want) in [
            // 02:30 is missing on 11 March 2012.
            (
                "30 2 11 Mar ?",
                "2012-03-11T05:00:00Z",
                york,
                "2013-03-11T06:30:00Z",
            ),
            (
                "30 2 * * *",
                "2012-03-11T05:00:00Z",
                york,
                "2012-03-12T06:30:00Z",
            ),
            (
                "0 * * * *",
                "2012-03-11T06:30:00Z",
                york,
                "2012-03-11T07:00:00Z",
            ),
            (
                "0 3 * * *",
                "2012-03-11T06:30:00Z",
                york,
                "2012-03-11T07:00:00Z",
            ),
            // 01:30 is there twice on 4 November 2012.
            (
                "30 2 04 Nov ?",
                "2012-11-04T04:00:00Z",
                york,
                "2012-11-04T07:30:00Z",
            ),
            (
                "30 1 * * *",
                "2012-11-04T04:00:00Z",
                york,
                "2012-11-04T05:30:00Z",
            ),
            (
                "30 1 04 Nov ?",
                "2012-11-04T05:45:00Z",
                york,
                "2012-11-04T06:30:00Z",
            ),
            (
                "30 1 * * *",
                "2012-11-04T06:45:00Z",
                york,
                "2012-11-05T06:30:00Z",
            ),
            // West of Greenwich a missing midnight is looked for an hour too early, east of it a day too early: the first
            // moment of the day is taken, and the day is passed over.
            (
                "0 1 * * 0",
                "2018-11-01T12:00:00Z",
                "America/Sao_Paulo",
                "2018-11-04T03:00:00Z",
            ),
            (
                "0 12 * * 0",
                "2018-11-01T12:00:00Z",
                "America/Sao_Paulo",
                "2018-11-04T14:00:00Z",
            ),
            (
                "0 12 * * 0",
                "2021-03-26T12:00:00Z",
                "Asia/Beirut",
                "2021-04-04T09:00:00Z",
            ),
            (
                "0 12 * * *",
                "2021-03-27T12:00:00Z",
                "Asia/Beirut",
                "2021-03-28T09:00:00Z",
            ),
            // Half an hour.
            (
                "15 2 * * *",
                "2024-10-05T10:00:00Z",
                "Australia/Lord_Howe",
                "2024-10-06T15:15:00Z",
            ),
            // Samoa had no 30 December 2011; this search goes on.
            (
                "0 0 1 1 *",
                "2011-12-29T00:00:00Z",
                "Pacific/Apia",
                "2011-12-31T10:00:00Z",
            ),
            (
                "0 0 30 12 *",
                "2011-12-29T00:00:00Z",
                "Pacific/Apia",
                "2012-12-29T10:00:00Z",
            ),
            // Before there were zones there were seconds.
            (
                "0 0 * * *",
                "1800-06-01T00:00:00Z",
                york,
                "1800-06-01T04:56:02Z",
            ),
        ] {
            let next = next(text, after, zone).unwrap_or_default();
            assert_eq!(next, want, "{text} after {after} in {zone}");
        }
    }

    fn minute_matches(f: &Fields, at: DateTime) -> bool {
        let all = |bits: u64, n: i8| bits >> n & 1 == 1;
        let day = all(f.day, at.day());
        let weekday = all(f.weekday, at.weekday().to_sunday_zero_offset());
        let either = f.day >> 63 == 0 && f.weekday >> 63 == 0;
        all(f.minute, at.minute())
            && all(f.hour, at.hour())
            && all(f.month, at.month())
            && (if either {
                day || weekday
            } else {
                day && weekday
            })
    }

    fn any_field(bounds: &'static Bounds) -> impl Strategy<Value = String> {
        let value = bounds.min..=bounds.max;
        let range = (value.clone(), value.clone(), 1..9u64)
            .prop_map(|(a, b, step)| format!("{}-{}/{step}", a.min(b), a.max(b)));
        let one = prop_oneof![
            value.prop_map(|n| n.to_string()),
            range,
            (2..9u64).prop_map(|n| format!("*/{n}")),
        ];
        prop_oneof![
            3 => Just("*".to_owned()),
            1 => Just("?".to_owned()),
            4 => proptest::collection::vec(one, 1..4).prop_map(|all| all.join(",")),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Minute by minute, over as many days as a slow model can look at.
        #[test]
        fn the_next_time_is_the_first_minute_that_matches(
            minute in any_field(&MINUTES),
            hour in any_field(&HOURS),
            day in any_field(&DAYS),
            month in any_field(&MONTHS),
            weekday in any_field(&WEEKDAYS),
            zone in prop_oneof![Just("UTC"), Just("America/New_York"), Just("Europe/Berlin"), Just("Asia/Kolkata")],
            // Around a change of the clocks, or anywhere within thirty years.
            after in prop_oneof![
                1_710_000_000..1_710_200_000i64,
                1_729_900_000..1_730_700_000i64,
                1_711_800_000..1_712_000_000i64,
                946_684_800..1_900_000_000i64,
            ],
        ) {
            let text = format!("{minute} {hour} {day} {month} {weekday}");
            let schedule = parse(&text).unwrap();
            let zone = super::zone(zone).unwrap().unwrap();
            let after = Timestamp::from_second(after).unwrap();
            let got = schedule.next(after, &zone);
            let begin = after.as_second().div_euclid(60) * 60 + 60;
            let fields = bits(&text);
            let minutes = (0..45 * 24 * 60).map(|n| Timestamp::from_second(begin + n * 60).unwrap());
            let want = minutes.into_iter().find(|t| minute_matches(&fields, zone.to_datetime(*t)));
            match want {
                Some(_) => prop_assert_eq!(got, want, "{}", text),
                None => prop_assert!(got.is_none_or(|t| t.as_second() >= begin + 45 * 24 * 3600), "{}", text),
            }
        }

        /// No text is too strange, and none takes long.
        #[test]
        fn any_text_is_read_or_refused(text in "[@0-9a-zA-Z*?/, =_-]{0,40}", after: i64) {
            if let (Ok(s), Ok(after)) = (parse(&text), Timestamp::from_second(after)) {
                let next = s.next(after, &TimeZone::UTC);
                prop_assert!(next.is_none_or(|n| n > after));
            }
        }
    }
}
