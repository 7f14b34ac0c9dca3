//! JSON text as Go's `encoding/json` prints it.

use std::io::Write;

use serde_json::{Number, Value};

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const PLAIN: [bool; 256] = {
    let mut t = [true; 256];
    let mut i = 0;
    while i < 0x20 {
        t[i] = false;
        i += 1;
    }
    t[b'"' as usize] = false;
    t[b'\\' as usize] = false;
    t[b'<' as usize] = false;
    t[b'>' as usize] = false;
    t[b'&' as usize] = false;
    // Lead byte of U+2028 and U+2029 (and others, which are then copied).
    t[0xe2] = false;
    t
};

#[inline]
fn plain(b: u8) -> bool {
    PLAIN.get(usize::from(b)).copied().unwrap_or(false)
}

/// Appends a quoted string with Go's escapes, `<`, `>`, `&`, U+2028 and U+2029 among them.
pub fn string(s: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = s.as_bytes();
    let mut start = 0;
    let mut i = 0;
    while let Some(&b) = bytes.get(i) {
        if plain(b) {
            i += 1;
            continue;
        }
        if b == 0xe2 {
            let separator =
                bytes.get(i + 1) == Some(&0x80) && matches!(bytes.get(i + 2), Some(0xa8 | 0xa9));
            if !separator {
                i += 1;
                continue;
            }
            out.extend_from_slice(bytes.get(start..i).unwrap_or_default());
            out.extend_from_slice(if bytes.get(i + 2) == Some(&0xa8) {
                b"\\u2028"
            } else {
                b"\\u2029"
            });
            i += 3;
            start = i;
            continue;
        }
        out.extend_from_slice(bytes.get(start..i).unwrap_or_default());
        match b {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            _ => {
                let _ = write!(out, "\\u{b:04x}");
            }
        }
        i += 1;
        start = i;
    }
    out.extend_from_slice(bytes.get(start..).unwrap_or_default());
    out.push(b'"');
}

/// Appends an integer.
pub fn integer(n: i64, out: &mut Vec<u8>) {
    if n < 0 {
        out.push(b'-');
    }
    unsigned(n.unsigned_abs(), out);
}

/// Appends an integer.
pub fn unsigned(mut n: u64, out: &mut Vec<u8>) {
    let mut buf = [0u8; 20];
    let mut at = buf.len();
    loop {
        at -= 1;
        if let Some(slot) = buf.get_mut(at) {
            *slot = b'0' + (n % 10) as u8;
        }
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(buf.get(at..).unwrap_or_default());
}

/// Appends a float: shortest digits, exponents below 1e-6 and from 1e21. Not-a-number and infinities, which JSON lacks,
/// become `null`.
pub fn float(f: f64, out: &mut Vec<u8>) {
    if !f.is_finite() {
        out.extend_from_slice(b"null");
        return;
    }
    let abs = f.abs();
    if abs != 0.0 && !(1e-6..1e21).contains(&abs) {
        let s = format!("{f:e}");
        match s.split_once('e') {
            Some((m, e)) => {
                let (sign, digits) = match e.strip_prefix('-') {
                    Some(d) => ('-', d),
                    None => ('+', e),
                };
                // Go pads to two digits and then trims a zero after `e-` only.
                let _ = if sign == '+' && digits.len() == 1 {
                    write!(out, "{m}e+0{digits}")
                } else {
                    write!(out, "{m}e{sign}{digits}")
                };
            }
            None => out.extend_from_slice(s.as_bytes()),
        }
    } else {
        let _ = write!(out, "{f}");
    }
}

/// Appends a number.
pub fn number(n: &Number, out: &mut Vec<u8>) {
    if let Some(i) = n.as_i64() {
        integer(i, out);
    } else if let Some(u) = n.as_u64() {
        unsigned(u, out);
    } else {
        float(n.as_f64().unwrap_or(0.0), out);
    }
}

/// Appends any tree: keys sorted, nothing left out.
pub fn value(v: &Value, out: &mut Vec<u8>) {
    match v {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(n) => number(n, out),
        Value::String(s) => string(s, out),
        Value::Array(a) => {
            out.push(b'[');
            for (i, v) in a.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                value(v, out);
            }
            out.push(b']');
        }
        Value::Object(o) => {
            out.push(b'{');
            for (i, (k, v)) in o.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                string(k, out);
                out.push(b':');
                value(v, out);
            }
            out.push(b'}');
        }
    }
}

/// Appends JSON text without its white space and with Go's HTML escapes, as Go does with what a marshaller returns.
pub fn compact(raw: &[u8], out: &mut Vec<u8>) {
    let mut in_string = false;
    let mut escaped = false;
    for (i, &b) in raw.iter().enumerate() {
        if in_string {
            match b {
                _ if escaped => {
                    escaped = false;
                    out.push(b);
                }
                b'\\' => {
                    escaped = true;
                    out.push(b);
                }
                b'"' => {
                    in_string = false;
                    out.push(b);
                }
                b'<' => out.extend_from_slice(b"\\u003c"),
                b'>' => out.extend_from_slice(b"\\u003e"),
                b'&' => out.extend_from_slice(b"\\u0026"),
                // The third byte of a separator replaces the two before it.
                0xa8 | 0xa9 if i >= 2 && raw.get(i - 2..i) == Some(&[0xe2, 0x80][..]) => {
                    out.truncate(out.len().saturating_sub(2));
                    out.extend_from_slice(if b == 0xa8 { b"\\u2028" } else { b"\\u2029" });
                }
                _ => out.push(b),
            }
        } else {
            match b {
                b' ' | b'\n' | b'\r' | b'\t' => {}
                b'"' => {
                    in_string = true;
                    out.push(b);
                }
                _ => out.push(b),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn float_text(f: f64) -> String {
        let mut out = Vec::new();
        float(f, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn floats_as_go() {
        for (f, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1e-6, "0.000001"),
            (1e-7, "1e-7"),
            (1.25e-9, "1.25e-9"),
            (1e100, "1e+100"),
        ] {
            assert_eq!(float_text(f), text);
        }
    }

    #[test]
    fn strings_as_go() {
        let mut out = Vec::new();
        string("a<b>&\"\\\u{2028}é\u{1}\n€", &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "\"a\\u003cb\\u003e\\u0026\\\"\\\\\\u2028é\\u0001\\n€\""
        );
        let mut out = Vec::new();
        compact(
            "{ \"a <\" : [1, 2 ],\"b\":\"\u{2029}\\\" x\"}".as_bytes(),
            &mut out,
        );
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"a \\u003c\":[1,2],\"b\":\"\\u2029\\\" x\"}"
        );
    }
}
