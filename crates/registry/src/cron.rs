//! Cron schedules as upstream's parser reads them: only whether they are well-formed, and what it says if not.

/// Minutes, hours, days of the month, months, days of the week.
const BOUNDS: [(u64, u64, &[&str]); 5] = [
    (0, 59, &[]),
    (0, 23, &[]),
    (1, 31, &[]),
    (
        1,
        12,
        &[
            "", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
        ],
    ),
    (0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];

const DESCRIPTORS: [&str; 7] = [
    "@yearly",
    "@annually",
    "@monthly",
    "@weekly",
    "@daily",
    "@midnight",
    "@hourly",
];

/// Checks a schedule of five fields or a descriptor such as `@daily`.
pub fn check(schedule: &str) -> Result<(), String> {
    if schedule.is_empty() {
        return Err("empty spec string".into());
    }
    let spec = without_zone(schedule)?;
    if spec.starts_with('@') {
        return descriptor(spec);
    }
    let fields: Vec<&str> = spec.split_whitespace().collect();
    if fields.len() != BOUNDS.len() {
        return Err(format!(
            "expected exactly 5 fields, found {}: [{}]",
            fields.len(),
            fields.join(" ")
        ));
    }
    fields
        .iter()
        .zip(BOUNDS)
        .flat_map(|(f, b)| f.split(',').filter(|r| !r.is_empty()).map(move |r| (r, b)))
        .try_for_each(|(r, b)| range(r, b))
}

fn without_zone(schedule: &str) -> Result<&str, String> {
    if !schedule.starts_with("TZ=") && !schedule.starts_with("CRON_TZ=") {
        return Ok(schedule);
    }
    let (zone, rest) = schedule
        .split_once(' ')
        .ok_or_else(|| "failed to parse schedule".to_owned())?;
    let zone = zone.split_once('=').map_or("", |(_, z)| z);
    if known_zone(zone) {
        Ok(rest.trim())
    } else {
        Err(format!(
            "provided bad location {zone}: unknown time zone {zone}"
        ))
    }
}

/// Whether a time zone is in the database.
pub fn known_zone(name: &str) -> bool {
    name == "UTC" || name.is_empty() || name == "Local" || jiff::tz::TimeZone::get(name).is_ok()
}

fn descriptor(spec: &str) -> Result<(), String> {
    if DESCRIPTORS.contains(&spec) {
        return Ok(());
    }
    match spec.strip_prefix("@every ") {
        Some(d) if go_duration(d) => Ok(()),
        Some(d) => Err(format!(
            "failed to parse duration {spec}: time: invalid duration {}",
            api::text::go_quote(d)
        )),
        None => Err(format!("unrecognized descriptor: {spec}")),
    }
}

/// Whether Go's `time.ParseDuration` takes it.
fn go_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let number = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (digits, after) = rest.split_at(number);
        if !digits.contains(|c: char| c.is_ascii_digit()) || digits.matches('.').count() > 1 {
            return false;
        }
        let unit = ["ns", "us", "µs", "μs", "ms", "s", "m", "h"]
            .iter()
            .find(|u| {
                after.strip_prefix(**u).is_some_and(|r| {
                    r.is_empty() || r.starts_with(|c: char| c.is_ascii_digit() || c == '.')
                })
            });
        match unit {
            Some(u) => rest = &after[u.len()..],
            None => return false,
        }
    }
    true
}

fn number(text: &str) -> Result<u64, String> {
    let n: i64 = text.parse().map_err(|_| {
        format!(
            "failed to parse int from {text}: strconv.Atoi: parsing {}: invalid syntax",
            api::text::go_quote(text)
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

fn range(expr: &str, (min, max, names): (u64, u64, &[&str])) -> Result<(), String> {
    let parts: Vec<&str> = expr.split('/').collect();
    let ends: Vec<&str> = parts
        .first()
        .copied()
        .unwrap_or_default()
        .split('-')
        .collect();
    let (start, mut end) = match ends[..] {
        ["*" | "?", ..] => (min, max),
        [one] => {
            let n = named(one, names)?;
            (n, n)
        }
        [low, high] => (named(low, names)?, named(high, names)?),
        _ => return Err(format!("too many hyphens: {expr}")),
    };
    let step = match parts[..] {
        [_] => 1,
        [_, step] => {
            if ends.len() == 1 {
                end = max;
            }
            number(step)?
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
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules() {
        for good in [
            "* * * * *",
            "*/5 0-23/2 1,15 JAN-mar mon",
            "@daily",
            "@every 1h30m",
            "5/15 * * * ?",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("x", "expected exactly 5 fields, found 1: [x]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            (
                "5-1 * * * *",
                "beginning of range (5) beyond end of range (1): 5-1",
            ),
            (
                "*/0 * * * *",
                "step of range should be a positive number: */0",
            ),
            (
                "a * * * *",
                "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax",
            ),
            ("@never", "unrecognized descriptor: @never"),
            (
                "@every x",
                "failed to parse duration @every x: time: invalid duration \"x\"",
            ),
        ] {
            assert_eq!(check(bad), Err(why.to_owned()), "{bad}");
        }
    }

    #[test]
    fn zones() {
        assert!(known_zone("UTC") && known_zone("Europe/Berlin"));
        assert!(!known_zone("No/Where"));
    }
}
