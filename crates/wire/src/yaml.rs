//! YAML, as `sigs.k8s.io/yaml` reads and writes it: through JSON.
//!
//! Reading: aliases are bounded by the parser, merge keys (`<<`) apply, keys become strings. Writing: keys sorted, lists
//! not indented, strings quoted only where another type or syntax would be read.

use std::cmp::Ordering;

use serde::de::{self, DeserializeSeed, Visitor};
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

/// The JSON tree of the first document of YAML text, without a schema; of no text, null. Errors are `yaml: line 1: …`;
/// callers add the prefix that the upstream function of their place has (`error converting YAML to JSON: `).
pub fn to_value(bytes: &[u8]) -> Result<Value, Error> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| Error::Syntax("yaml: invalid leading UTF-8 octet".to_owned()))?;
    let Some(document) = serde_yaml::Deserializer::from_str(text).next() else {
        return Ok(Value::Null);
    };
    let seed = Tree {
        text,
        depth: 0,
        key: false,
    };
    match seed.deserialize(document) {
        Ok(value) => Ok(value),
        Err(e) if e.to_string().starts_with("EOF while parsing") => Ok(Value::Null),
        Err(e) => Err(Error::Syntax(go_message(&e))),
    }
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

/// Builds a tree from the parser's events. Plain scalars are read by YAML 1.1 as go-yaml does (`yes`, `0644`), which the
/// parser does not: whether a string was quoted shows in the text before it.
#[derive(Clone, Copy)]
struct Tree<'t> {
    text: &'t str,
    depth: u32,
    /// The value is a key: a plain `<<` is then shown as an empty list.
    key: bool,
}

impl Tree<'_> {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        if self.depth >= crate::json::MAX_DEPTH {
            return Err(E::custom("exceeded max depth"));
        }
        Ok(Tree {
            depth: self.depth + 1,
            key: false,
            ..self
        })
    }

    fn is_plain(self, s: &str) -> bool {
        let Some(at) = (s.as_ptr() as usize).checked_sub(self.text.as_ptr() as usize) else {
            return false;
        };
        if at > self.text.len() {
            return false;
        }
        match at.checked_sub(1) {
            Some(before) => !matches!(self.text.as_bytes().get(before), Some(b'"' | b'\'')),
            None => true,
        }
    }
}

/// A plain scalar that the parser took for a string, by YAML 1.1.
fn resolve(s: &str) -> Value {
    match s {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Value::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Value::Bool(false),
        _ => {}
    }
    if s.as_bytes()
        .first()
        .is_some_and(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.'))
        && numeric(s)
    {
        let plain: String = s.chars().filter(|c| *c != '_').collect();
        let (sign, body) = match plain.strip_prefix('-') {
            Some(rest) => (-1i128, rest),
            None => (1, plain.strip_prefix('+').unwrap_or(&plain)),
        };
        let radix = |prefix: &[&str], radix: u32| {
            prefix
                .iter()
                .find_map(|p| body.strip_prefix(p))
                .and_then(|d| i128::from_str_radix(d, radix).ok())
        };
        let int = radix(&["0b", "0B"], 2)
            .or_else(|| radix(&["0x", "0X"], 16))
            .or_else(|| radix(&["0o", "0O"], 8))
            .or_else(|| {
                if body.len() > 1 {
                    radix(&["0"], 8)
                } else {
                    None
                }
            })
            .or_else(|| body.parse().ok());
        if let Some(n) = int.map(|n| n * sign) {
            if let Ok(n) = i64::try_from(n) {
                return Value::Number(n.into());
            }
            if let Ok(n) = u64::try_from(n) {
                return Value::Number(n.into());
            }
        }
        if let Some(n) = plain.parse().ok().and_then(Number::from_f64) {
            return Value::Number(n);
        }
    }
    Value::String(s.to_owned())
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v)
            .map(Value::Number)
            .ok_or_else(|| E::custom("unsupported value: NaN or infinity"))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: de::Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        self.deserialize(d)
    }

    fn visit_borrowed_str<E: de::Error>(self, s: &'de str) -> Result<Value, E> {
        if !self.is_plain(s) {
            return Ok(Value::String(s.to_owned()));
        }
        Ok(if self.key && s == "<<" {
            Value::Array(Vec::new())
        } else {
            resolve(s)
        })
    }

    fn visit_str<E: de::Error>(self, s: &str) -> Result<Value, E> {
        Ok(Value::String(s.to_owned()))
    }

    fn visit_enum<A: de::EnumAccess<'de>>(self, data: A) -> Result<Value, A::Error> {
        // A tag of the document's own: only the value matters.
        use de::VariantAccess as _;
        let (_, value) = data.variant::<String>()?;
        value.newtype_variant_seed(self.deeper()?)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut out = Vec::new();
        while let Some(v) = seq.next_element_seed(inner)? {
            out.push(v);
        }
        Ok(Value::Array(out))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut out = Map::new();
        let mut merged = Vec::new();
        while let Some(key) = map.next_key_seed(Tree { key: true, ..inner })? {
            let value = map.next_value_seed(inner)?;
            let key = match key {
                Value::String(s) => s,
                Value::Bool(b) => b.to_string(),
                Value::Number(n) => n.to_string(),
                Value::Null => "null".to_owned(),
                Value::Array(items) if items.is_empty() => {
                    match value {
                        Value::Object(m) => merged.push(m),
                        Value::Array(list) if list.iter().all(Value::is_object) => {
                            merged.extend(list.into_iter().filter_map(|v| match v {
                                Value::Object(m) => Some(m),
                                _ => None,
                            }));
                        }
                        _ => {
                            return Err(de::Error::custom(
                                "map merge requires map or sequence of maps as the value",
                            ));
                        }
                    }
                    continue;
                }
                _ => return Err(de::Error::custom("invalid map key")),
            };
            out.insert(key, value);
        }
        for m in merged {
            for (k, v) in m {
                out.entry(k).or_insert(v);
            }
        }
        Ok(Value::Object(out))
    }
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
        let printable = matches!(c, '\n' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}')
            && c != '\u{feff}';
        if !printable {
            special = true;
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

/// A string; `at` is the indent of its line, `None` for keys, which stay on one line.
fn scalar_string(s: &str, at: Option<usize>, out: &mut Vec<u8>) {
    let shape = shape(s);
    // Other line breaks are escaped; upstream may choose another style, which reads the same.
    let odd = s.contains(['\r', '\u{85}', '\u{2028}', '\u{2029}']);
    if s.contains('\n')
        && shape.block
        && !odd
        && let Some(n) = at
    {
        literal(s, n, out);
        return;
    }
    if resolves(s) || s.contains('\n') || odd {
        double(s, at, out);
    } else if shape.plain {
        words(
            s,
            at,
            |c, out| out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            out,
        );
    } else if shape.single {
        out.push(b'\'');
        let quoted = |c: char, out: &mut Vec<u8>| {
            if c == '\'' {
                out.push(b'\'');
            }
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        };
        words(s, at, quoted, out);
        out.push(b'\'');
    } else {
        double(s, at, out);
    }
}

/// Columns after which a scalar goes on in a new line at the next single space.
const WIDTH: usize = 80;

fn column(out: &[u8]) -> usize {
    let line = out.rsplit(|b| *b == b'\n').next().unwrap_or_default();
    String::from_utf8_lossy(line).chars().count()
}

/// Writes a one-line scalar, folded at spaces beyond [`WIDTH`].
fn words(s: &str, at: Option<usize>, put: impl Fn(char, &mut Vec<u8>), out: &mut Vec<u8>) {
    let chars: Vec<char> = s.chars().collect();
    let mut column = column(out);
    let mut spaces = false;
    for (i, &c) in chars.iter().enumerate() {
        if c == ' ' {
            if let Some(n) = at
                && !spaces
                && column > WIDTH
                && i > 0
                && i + 1 < chars.len()
                && chars.get(i + 1) != Some(&' ')
            {
                out.push(b'\n');
                indent(n + 2, out);
                column = n + 2;
            } else {
                put(c, out);
                column += 1;
            }
            spaces = true;
        } else {
            put(c, out);
            column += 1;
            spaces = false;
        }
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

fn double(s: &str, at: Option<usize>, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut column = column(out);
    let mut spaces = false;
    let last = s.len().saturating_sub(1);
    for (i, c) in s.char_indices() {
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
        let start = out.len();
        match escape {
            Some(e) => out.extend_from_slice(e.as_bytes()),
            None if (c as u32) < 0x20 || matches!(c as u32, 0x7f..=0x9f) => {
                out.extend_from_slice(format!("\\x{:02X}", c as u32).as_bytes());
            }
            None if matches!(c, '\u{feff}' | '\u{fffe}' | '\u{ffff}') => {
                out.extend_from_slice(format!("\\u{:04X}", c as u32).as_bytes());
            }
            None if c == ' ' => {
                if let Some(n) = at
                    && !spaces
                    && column > WIDTH
                    && i > 0
                    && i < last
                {
                    out.push(b'\n');
                    indent(n + 2, out);
                    column = n + 2;
                    if s.as_bytes().get(i + 1) == Some(&b' ') {
                        out.push(b'\\');
                        column += 1;
                    }
                } else {
                    out.push(b' ');
                    column += 1;
                }
                spaces = true;
                continue;
            }
            None => {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                column += 1;
                spaces = false;
                continue;
            }
        }
        column += out.len() - start;
        spaces = false;
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn plain_scalars_by_yaml_1_1() {
        let text = "a: yes\nb: \"yes\"\nc: 0644\nd: '0644'\ne: 0x1F\nf: 1e3\ng: ~\nh: 2020-01-01\ni: 1_000\nj: [on, \"on\", 'n', -1, +2, .5]\n1: x\ntrue: y1\nk: |\n  no\nl: v1\nm: 12:30\n";
        assert_eq!(
            to_value(text.as_bytes()).unwrap(),
            json!({"a": true, "b": "yes", "c": 420, "d": "0644", "e": 31, "f": 1000.0, "g": null, "h": "2020-01-01",
                "i": 1000, "j": [true, "on", "n", -1, 2, 0.5], "1": "x", "true": "y1", "k": "no\n", "l": "v1", "m": "12:30"})
        );
    }

    #[test]
    fn json_is_yaml() {
        let text = br#"{"a":{"b":[1,"no",null,true]},"c":"0644"}"#;
        assert_eq!(
            to_value(text).unwrap(),
            json!({"a": {"b": [1, "no", null, true]}, "c": "0644"})
        );
    }

    #[test]
    fn anchors_and_merges() {
        let text = "base: &b {x: 1, z: 2}\nc:\n  <<: *b\n  z: 3\nd: *b\n";
        assert_eq!(
            to_value(text.as_bytes()).unwrap(),
            json!({"base": {"x": 1, "z": 2}, "c": {"x": 1, "z": 3}, "d": {"x": 1, "z": 2}})
        );
    }

    #[test]
    fn errors_and_documents() {
        assert_eq!(
            to_value(b"a: [1\n").unwrap_err().to_string(),
            "yaml: line 1: did not find expected ',' or ']'"
        );
        assert_eq!(to_value(b"").unwrap(), Value::Null);
        assert_eq!(to_value(b"a: 1\n---\nb: 2\n").unwrap(), json!({"a": 1}));
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..12 {
            let before = format!("*a{}", i - 1);
            bomb.push_str(&format!("a{i}: &a{i} [{}]\n", vec![before; 10].join(",")));
        }
        assert!(to_value(bomb.as_bytes()).is_err());
        assert!(to_value("[".repeat(2000).as_bytes()).is_err());
    }

    #[test]
    fn long_lines_are_folded() {
        let word = "abcdefghi ".repeat(12);
        let value = json!({"k": word.trim_end(), "l": format!("{}: x", word.trim_end())});
        let mut out = Vec::new();
        encode_any(&value, &mut out);
        let text = String::from_utf8(out).unwrap();
        let eight = "abcdefghi ".repeat(8);
        let four = "abcdefghi ".repeat(4);
        assert_eq!(
            text,
            format!(
                "k: {}\n  {}\nl: '{}\n  {}: x'\n",
                eight.trim_end(),
                four.trim_end(),
                eight.trim_end(),
                four.trim_end()
            )
        );
        assert_eq!(to_value(text.as_bytes()).unwrap(), value);
    }

    #[test]
    fn strings_that_need_quotes() {
        let value = json!({"a": "yes", "b": "0644", "c": "a: b", "d": "x", "e": "- x", "f": "", "g": "l1\nl2",
            "h": "l1\nl2\n", "i": " x", "j": "a #b", "k": "1e3", "l": "2020-01-01", "m": "null", "n10": 1, "n9": 1,
            "o": "'q'", "p": "a\tb\n", "q": [[1], {"z": {}}]});
        let mut out = Vec::new();
        encode_any(&value, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "a: \"yes\"\nb: \"0644\"\nc: 'a: b'\nd: x\ne: '- x'\nf: \"\"\ng: |-\n  l1\n  l2\nh: |\n  l1\n  l2\ni: ' x'\nj: 'a #b'\nk: \"1e3\"\nl: \"2020-01-01\"\nm: \"null\"\nn9: 1\nn10: 1\no: '''q'''\np: \"a\\tb\\n\"\nq:\n- - 1\n- z: {}\n"
        );
        assert_eq!(to_value(text.as_bytes()).unwrap(), value);
    }
}
