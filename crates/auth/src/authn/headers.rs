//! Identities in headers, read as Go's server reads them: any UTF-8 text. What cannot be read, or says two things, is an
//! error and never counts as absent: that would leave another identity in force.

use http::HeaderMap;

/// Every value of a header, in order.
///
/// # Errors
/// A value that is not UTF-8, by the header's name only.
pub fn texts<'a>(headers: &'a HeaderMap, name: &str) -> Result<Vec<&'a str>, String> {
    headers
        .get_all(name)
        .iter()
        .map(|v| {
            std::str::from_utf8(v.as_bytes()).map_err(|_| format!("header {name:?} is not UTF-8"))
        })
        .collect()
}

/// The value of a header that has one meaning: `None` without the header.
///
/// # Errors
/// As [`texts`], and when the header is there more than once.
pub fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, String> {
    match texts(headers, name)?.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        _ => Err(format!("header {name:?} is there more than once")),
    }
}

/// The key of an extra attribute from the rest of its header's name: percent-encoded, and kept as it is where its escapes
/// are broken.
pub fn extra_key(encoded: &str) -> String {
    let encoded = encoded.to_ascii_lowercase();
    let mut out = Vec::with_capacity(encoded.len());
    let mut bytes = encoded.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return encoded;
        };
        out.extend(u8::try_from(high * 16 + low));
    }
    String::from_utf8(out).unwrap_or(encoded)
}

/// Whether a request asks for a WebSocket.
pub fn is_websocket(headers: &HeaderMap) -> bool {
    let has = |name: http::HeaderName, token: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .any(|t| t.trim().eq_ignore_ascii_case(token))
    };
    has(http::header::CONNECTION, "upgrade") && has(http::header::UPGRADE, "websocket")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn what_cannot_be_read_is_not_absent() {
        let mut h = HeaderMap::new();
        assert_eq!(single(&h, "x"), Ok(None));
        h.insert("x", HeaderValue::from_bytes("jürgen".as_bytes()).unwrap());
        assert_eq!(single(&h, "x"), Ok(Some("jürgen")));
        h.append("x", HeaderValue::from_static("b"));
        assert!(single(&h, "x").is_err());
        assert_eq!(texts(&h, "x"), Ok(vec!["jürgen", "b"]));
        h.append("x", HeaderValue::from_bytes(b"j\xfcrgen").unwrap());
        assert!(texts(&h, "x").is_err());
    }

    #[test]
    fn extra_keys() {
        assert_eq!(extra_key("Example.com%2fScopes"), "example.com/scopes");
        assert_eq!(extra_key("a%zz%41"), "a%zz%41");
        assert_eq!(extra_key("a%4"), "a%4");
        assert_eq!(extra_key("a%ff"), "a%ff");
    }
}
