//! The query of a request, and how upstream reads typed parameters from it.

use api::Status;
use api::text::go_quote;

/// Decoded query parameters in the order of the URL.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

/// Percent-decodes; `+` becomes a space when `plus` is set. `None` for a broken escape or bytes that are not UTF-8.
pub fn percent_decode(s: &str, plus: bool) -> Option<String> {
    if !s.bytes().any(|b| b == b'%' || (plus && b == b'+')) {
        return Some(s.to_owned());
    }
    let mut out = Vec::with_capacity(s.len());
    let mut bytes = s.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'%' => {
                let hi = char::from(bytes.next()?).to_digit(16)?;
                let lo = char::from(bytes.next()?).to_digit(16)?;
                out.push(u8::try_from(hi * 16 + lo).ok()?);
            }
            b'+' if plus => out.push(b' '),
            b => out.push(b),
        }
    }
    String::from_utf8(out).ok()
}

impl Query {
    /// Reads a raw query; pairs with broken escapes are dropped, as Go's `url.ParseQuery` leaves them out.
    pub fn parse(raw: &str) -> Query {
        let mut out = Vec::new();
        for pair in raw.split('&') {
            if pair.is_empty() || pair.contains(';') {
                continue;
            }
            let (k, v) = pair.split_once('=').unwrap_or((pair, ""));
            if let (Some(k), Some(v)) = (percent_decode(k, true), percent_decode(v, true)) {
                out.push((k, v));
            }
        }
        Query(out)
    }

    /// The first value of a parameter.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// The first value, empty if absent.
    pub fn str(&self, key: &str) -> &str {
        self.get(key).unwrap_or_default()
    }

    /// All values of a parameter.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// A flag: present without a value is true; `0` and `false` are false; everything else is true.
    pub fn flag(&self, key: &str) -> Option<bool> {
        self.get(key)
            .map(|v| !(v == "0" || v.eq_ignore_ascii_case("false")))
    }

    /// An integer, with Go's error text.
    pub fn int(&self, key: &str) -> Result<Option<i64>, Status> {
        match self.get(key) {
            None => Ok(None),
            Some(v) => parse_int(v).map(Some),
        }
    }
}

/// `strconv.ParseInt` with its errors as a 400.
pub fn parse_int(v: &str) -> Result<i64, Status> {
    v.parse::<i64>().map_err(|e| {
        let why = match e.kind() {
            std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => {
                "value out of range"
            }
            _ => "invalid syntax",
        };
        Status::bad_request(format!("strconv.ParseInt: parsing {}: {why}", go_quote(v)))
    })
}

/// `strconv.ParseUint` with its error.
pub fn parse_uint(v: &str) -> Result<u64, String> {
    let digits = !v.is_empty() && v.bytes().all(|b| b.is_ascii_digit());
    v.parse::<u64>().ok().filter(|_| digits).ok_or_else(|| {
        let why = if digits {
            "value out of range"
        } else {
            "invalid syntax"
        };
        format!("strconv.ParseUint: parsing {}: {why}", go_quote(v))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_decode_like_go() {
        let q =
            Query::parse("watch=1&labelSelector=a%3Db%2Cc+in+(x)&flag&off=false&bad=%zz&limit=x");
        assert_eq!(q.flag("watch"), Some(true));
        assert_eq!(q.str("labelSelector"), "a=b,c in (x)");
        assert_eq!(q.flag("flag"), Some(true));
        assert_eq!(q.flag("off"), Some(false));
        assert_eq!(q.get("bad"), None);
        assert_eq!(
            q.int("limit").unwrap_err().message,
            "strconv.ParseInt: parsing \"x\": invalid syntax"
        );
    }
}
