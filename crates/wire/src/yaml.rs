//! YAML, as `sigs.k8s.io/yaml` reads and writes it: through JSON.
//!
//! Reading: aliases are bounded by the parser, merge keys (`<<`) apply, keys become strings. Writing: keys sorted, lists
//! not indented, strings quoted only where another type or syntax would be read.

use std::cmp::Ordering;

use serde_json::{Map, Number, Value};

use crate::Error;
use crate::json::{Decoded, Strictness};
use crate::schema::Message;

/// Decodes YAML text of type `msg`, with the checks of [`crate::json::decode`].
pub fn decode(
    bytes: &[u8],
    msg: &'static Message,
    strictness: Strictness,
) -> Result<Decoded, Error> {
    crate::json::normalize(to_value(bytes)?, msg, strictness)
}

/// The JSON tree of YAML text without a schema. Errors are `yaml: line 1: …`; callers add the prefix that the
/// upstream function of their place has (`error converting YAML to JSON: `).
pub fn to_value(bytes: &[u8]) -> Result<Value, Error> {
    let mut value: serde_yaml::Value =
        serde_yaml::from_slice(bytes).map_err(|e| Error::Syntax(go_message(&e)))?;
    value
        .apply_merge()
        .map_err(|e| Error::Syntax(go_message(&e)))?;
    from_yaml(value, 0)
}

/// The message as go-yaml words it.
fn go_message(e: &serde_yaml::Error) -> String {
    let text = e.to_string();
    let message = text.split(" at line ").next().unwrap_or(&text);
    match e.location() {
        // go-yaml counts from the token before the one the parser stopped at, when that begins a line.
        Some(at) => {
            let line = if at.column() <= 1 {
                at.line().saturating_sub(1).max(1)
            } else {
                at.line()
            };
            format!("yaml: line {line}: {message}")
        }
        None => format!("yaml: {message}"),
    }
}

fn from_yaml(value: serde_yaml::Value, depth: u32) -> Result<Value, Error> {
    if depth > crate::json::MAX_DEPTH {
        return Err(Error::Syntax("yaml: exceeded max depth".to_owned()));
    }
    Ok(match value {
        serde_yaml::Value::Null => Value::Null,
        serde_yaml::Value::Bool(b) => Value::Bool(b),
        serde_yaml::Value::Number(n) => number(&n),
        serde_yaml::Value::String(s) => Value::String(s),
        serde_yaml::Value::Sequence(items) => Value::Array(
            items
                .into_iter()
                .map(|v| from_yaml(v, depth + 1))
                .collect::<Result<_, _>>()?,
        ),
        serde_yaml::Value::Mapping(map) => {
            let mut out = Map::new();
            for (key, value) in map {
                let key = match key {
                    serde_yaml::Value::String(s) => s,
                    serde_yaml::Value::Bool(b) => b.to_string(),
                    serde_yaml::Value::Number(n) => number(&n).to_string(),
                    serde_yaml::Value::Null => "null".to_owned(),
                    _ => return Err(Error::Syntax("yaml: invalid map key".to_owned())),
                };
                out.insert(key, from_yaml(value, depth + 1)?);
            }
            Value::Object(out)
        }
        serde_yaml::Value::Tagged(tagged) => from_yaml(tagged.value, depth + 1)?,
    })
}

fn number(n: &serde_yaml::Number) -> Value {
    if let Some(i) = n.as_i64() {
        return Value::Number(i.into());
    }
    if let Some(u) = n.as_u64() {
        return Value::Number(u.into());
    }
    Number::from_f64(n.as_f64().unwrap_or(0.0)).map_or(Value::Null, Value::Number)
}

/// Appends the object as upstream prints YAML.
pub fn encode(value: &Value, msg: &'static Message, out: &mut Vec<u8>) -> Result<(), Error> {
    // The printed form decides which zero values are shown.
    let mut json = Vec::new();
    crate::json::encode(value, msg, &mut json)?;
    let value = crate::json::parse(&json)?;
    encode_any(&value, out);
    Ok(())
}

/// Appends any tree as YAML.
pub fn encode_any(value: &Value, out: &mut Vec<u8>) {
    block(value, 0, false, out);
}

fn indent(n: usize, out: &mut Vec<u8>) {
    out.resize(out.len() + n, b' ');
}

/// Writes a value that begins on the current line, which is indented by `n`; `inline` when something precedes it there.
fn block(value: &Value, n: usize, inline: bool, out: &mut Vec<u8>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            let mut keys: Vec<(&String, &Value)> = map.iter().collect();
            keys.sort_by(|(a, _), (b, _)| natural(a, b));
            for (i, (key, value)) in keys.into_iter().enumerate() {
                if i > 0 || !inline {
                    indent(n, out);
                }
                scalar_string(key, None, out);
                out.push(b':');
                match value {
                    Value::Object(m) if !m.is_empty() => {
                        out.push(b'\n');
                        block(value, n + 2, false, out);
                    }
                    Value::Array(a) if !a.is_empty() => {
                        out.push(b'\n');
                        block(value, n, false, out);
                    }
                    _ => {
                        out.push(b' ');
                        leaf(value, n, out);
                    }
                }
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (i, item) in items.iter().enumerate() {
                if i > 0 || !inline {
                    indent(n, out);
                }
                out.extend_from_slice(b"- ");
                match item {
                    Value::Object(m) if !m.is_empty() => block(item, n + 2, true, out),
                    Value::Array(a) if !a.is_empty() => block(item, n + 2, true, out),
                    _ => leaf(item, n, out),
                }
            }
        }
        _ => {
            leaf(value, n, out);
        }
    }
}

fn leaf(value: &Value, n: usize, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(b) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
        Value::Number(x) => crate::print::number(x, out),
        Value::String(s) => scalar_string(s, Some(n), out),
        Value::Array(_) => out.extend_from_slice(b"[]"),
        Value::Object(_) => out.extend_from_slice(b"{}"),
    }
    if out.last() != Some(&b'\n') {
        out.push(b'\n');
    }
}

/// go-yaml's order of keys: digits by value, letters after other signs.
fn natural(a: &str, b: &str) -> Ordering {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut digits = false;
    let mut i = 0;
    while let (Some(&x), Some(&y)) = (a.get(i), b.get(i)) {
        if x == y {
            digits = x.is_ascii_digit();
            i += 1;
            continue;
        }
        let (lx, ly) = (x.is_alphabetic(), y.is_alphabetic());
        if lx && ly {
            return x.cmp(&y);
        }
        if lx || ly {
            // Within a number, the one that goes on with digits is longer and so greater.
            return if digits {
                if lx {
                    Ordering::Less
                } else {
                    Ordering::Greater
                }
            } else if lx {
                Ordering::Greater
            } else {
                Ordering::Less
            };
        }
        let run = |s: &[char]| -> (u64, usize) {
            let mut v = 0u64;
            let mut n = 0;
            for c in s.iter().skip(i) {
                let Some(d) = c.to_digit(10) else { break };
                v = v.saturating_mul(10).saturating_add(u64::from(d));
                n += 1;
            }
            (v, n)
        };
        let ((av, an), (bv, bn)) = (run(&a), run(&b));
        if av != bv {
            return av.cmp(&bv);
        }
        if an != bn {
            return an.cmp(&bn);
        }
        return x.cmp(&y);
    }
    a.len().cmp(&b.len())
}

/// Whether go-yaml would read a plain scalar as something other than this string.
fn resolves(s: &str) -> bool {
    const WORDS: &[&str] = &[
        "", "~", "null", "Null", "NULL", "y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE",
        "on", "On", "ON", "n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off",
        "OFF", ".nan", ".NaN", ".NAN", ".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF", "-.inf",
        "-.Inf", "-.INF", "<<",
    ];
    if WORDS.contains(&s) {
        return true;
    }
    let Some(&first) = s.as_bytes().first() else {
        return true;
    };
    if !(first.is_ascii_digit() || matches!(first, b'+' | b'-' | b'.')) {
        return false;
    }
    timestamp(s) || numeric(s) || base60(s)
}

fn numeric(s: &str) -> bool {
    let plain: String = s.chars().filter(|c| *c != '_').collect();
    let body = plain.strip_prefix(['+', '-']).unwrap_or(&plain);
    for (prefix, radix) in [
        ("0b", 2),
        ("0B", 2),
        ("0x", 16),
        ("0X", 16),
        ("0o", 8),
        ("0O", 8),
    ] {
        if let Some(d) = body.strip_prefix(prefix) {
            return !d.is_empty() && d.chars().all(|c| c.is_digit(radix));
        }
    }
    // [-+]?(\\.[0-9]+|[0-9]+(\\.[0-9]*)?)([eE][-+]?[0-9]+)?
    let (mantissa, exponent) = match body.find(['e', 'E']) {
        Some(at) => (
            body.get(..at).unwrap_or(""),
            Some(body.get(at + 1..).unwrap_or("")),
        ),
        None => (body, None),
    };
    let (whole, fraction) = mantissa
        .split_once('.')
        .map_or((mantissa, None), |(w, f)| (w, Some(f)));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let mantissa_ok = digits(whole)
        && fraction.is_none_or(digits)
        && (!whole.is_empty() || fraction.is_some_and(|f| !f.is_empty()));
    let exponent_ok = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['+', '-']).unwrap_or(e);
        !e.is_empty() && digits(e)
    });
    mantissa_ok && exponent_ok
}

/// `[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\\.[0-9_]*)?`
fn base60(s: &str) -> bool {
    if !s.contains(':') {
        return false;
    }
    let body = s.strip_prefix(['+', '-']).unwrap_or(s);
    let body = match body.split_once('.') {
        Some((b, f)) if f.bytes().all(|c| c.is_ascii_digit() || c == b'_') => b,
        Some(_) => return false,
        None => body,
    };
    let mut parts = body.split(':');
    let first = parts.next().unwrap_or("");
    first.bytes().next().is_some_and(|b| b.is_ascii_digit())
        && first.bytes().all(|b| b.is_ascii_digit() || b == b'_')
        && parts.all(|p| matches!(p.as_bytes(), [b'0'..=b'9'] | [b'0'..=b'5', b'0'..=b'9']))
}

/// A date or RFC 3339 time, which YAML 1.1 reads as a timestamp.
fn timestamp(s: &str) -> bool {
    let b = s.as_bytes();
    let digits = b.iter().take_while(|c| c.is_ascii_digit()).count();
    if digits != 4 || b.get(4) != Some(&b'-') {
        return false;
    }
    let mut parts = s.splitn(3, '-');
    let (Some(_), Some(month), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let small = |p: &str| matches!(p.len(), 1 | 2) && p.bytes().all(|c| c.is_ascii_digit());
    if !small(month) {
        return false;
    }
    if small(rest) {
        // Only the full form is a date.
        return month.len() == 2 && rest.len() == 2;
    }
    let day = rest.bytes().take_while(u8::is_ascii_digit).count();
    if !matches!(day, 1 | 2) {
        return false;
    }
    let time = rest.get(day..).unwrap_or("");
    let time = time.strip_prefix(['T', 't', ' ']).unwrap_or("");
    let hour = time.bytes().take_while(u8::is_ascii_digit).count();
    matches!(hour, 1 | 2)
        && time.get(hour..).is_some_and(|t| {
            t.starts_with(':')
                && t.bytes().all(|c| {
                    c.is_ascii_digit() || matches!(c, b':' | b'.' | b'Z' | b'+' | b'-' | b' ')
                })
        })
}

/// What libyaml's analysis says of a scalar.
struct Shape {
    plain: bool,
    single: bool,
    block: bool,
}

fn shape(s: &str) -> Shape {
    let chars: Vec<char> = s.chars().collect();
    let (Some(&first), Some(&last)) = (chars.first(), chars.last()) else {
        return Shape {
            plain: false,
            single: true,
            block: false,
        };
    };
    let mut indicator = s.starts_with("---") || s.starts_with("...");
    let mut special = false;
    let mut breaks = false;
    let (mut space_break, mut break_space, mut trailing_space_line) = (false, false, false);
    let blank_or_end = |c: Option<&char>| {
        matches!(
            c,
            None | Some(' ' | '\t' | '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}')
        )
    };
    let mut preceded_by_white = true;
    for (i, &c) in chars.iter().enumerate() {
        let followed_by_white = blank_or_end(chars.get(i + 1));
        if i == 0 {
            match c {
                '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"'
                | '%' | '@' | '`' => indicator = true,
                '?' | ':' => indicator |= followed_by_white,
                '-' if followed_by_white => indicator = true,
                _ => {}
            }
        } else {
            match c {
                ':' => indicator |= followed_by_white,
                '#' if preceded_by_white => indicator = true,
                _ => {}
            }
        }
        let is_break = matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}');
        let printable = matches!(c, '\t' | '\n' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}')
            && c != '\u{feff}';
        if !printable {
            special = true;
        }
        if c == '\t' {
            // go-yaml leaves tabs to the plain style only inside.
        }
        breaks |= is_break;
        if is_break && i > 0 && chars.get(i - 1) == Some(&' ') {
            space_break = true;
            trailing_space_line = true;
        }
        if c == ' '
            && i > 0
            && matches!(
                chars.get(i - 1),
                Some('\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}')
            )
        {
            break_space = true;
        }
        preceded_by_white = blank_or_end(Some(&c));
    }
    let is_break = |c: char| matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut out = Shape {
        plain: true,
        single: true,
        block: true,
    };
    if first == ' ' || last == ' ' || is_break(first) || is_break(last) {
        out.plain = false;
    }
    if last == ' ' {
        out.block = false;
    }
    if break_space {
        out.plain = false;
        out.single = false;
    }
    if space_break || special {
        out.plain = false;
        out.single = false;
        if special || trailing_space_line {
            out.block = false;
        }
    }
    if breaks {
        out.plain = false;
    }
    if indicator {
        out.plain = false;
    }
    out
}

/// A string; `indent` is that of its line, `None` for keys, which stay on one line.
fn scalar_string(s: &str, at: Option<usize>, out: &mut Vec<u8>) {
    let shape = shape(s);
    if s.contains('\n')
        && shape.block
        && let Some(n) = at
    {
        literal(s, n, out);
        return;
    }
    if resolves(s) || (s.contains('\n') && !shape.block) {
        double(s, out);
    } else if shape.plain {
        out.extend_from_slice(s.as_bytes());
    } else if shape.single && !s.contains('\n') {
        out.push(b'\'');
        out.extend_from_slice(s.replace('\'', "''").as_bytes());
        out.push(b'\'');
    } else {
        double(s, out);
    }
}

fn literal(s: &str, n: usize, out: &mut Vec<u8>) {
    out.push(b'|');
    if s.starts_with([' ', '\n']) {
        out.push(b'2');
    }
    if !s.ends_with('\n') {
        out.push(b'-');
    } else if s.ends_with("\n\n") || s == "\n" {
        out.push(b'+');
    }
    out.push(b'\n');
    let body = s.strip_suffix('\n').unwrap_or(s);
    for line in body.split('\n') {
        if !line.is_empty() {
            indent(n + 2, out);
            out.extend_from_slice(line.as_bytes());
        }
        out.push(b'\n');
    }
}

fn double(s: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for c in s.chars() {
        let escape: Option<&str> = match c {
            '"' => Some("\\\""),
            '\\' => Some("\\\\"),
            '\0' => Some("\\0"),
            '\u{7}' => Some("\\a"),
            '\u{8}' => Some("\\b"),
            '\t' => Some("\\t"),
            '\n' => Some("\\n"),
            '\u{b}' => Some("\\v"),
            '\u{c}' => Some("\\f"),
            '\r' => Some("\\r"),
            '\u{1b}' => Some("\\e"),
            '\u{85}' => Some("\\N"),
            '\u{2028}' => Some("\\L"),
            '\u{2029}' => Some("\\P"),
            _ => None,
        };
        match escape {
            Some(e) => out.extend_from_slice(e.as_bytes()),
            None if (c as u32) < 0x20 || c as u32 == 0x7f => {
                out.extend_from_slice(format!("\\x{:02X}", c as u32).as_bytes())
            }
            None if c == '\u{feff}' => out.extend_from_slice(b"\\uFEFF"),
            None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}
