//! The vocabulary of value checks, with upstream's messages (`apimachinery/pkg/util/validation`, `…/api/validate/content`).
//!
//! Each check returns the messages of what is wrong, in upstream's order; empty means valid.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::field::{ErrorList, Path};

const DNS1123_LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const DNS1123_SUBDOMAIN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const LABEL_KEY: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_KEY_MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/// Longest label of a DNS name.
pub const DNS_LABEL_MAX: usize = 63;
/// Longest DNS name.
pub const DNS_SUBDOMAIN_MAX: usize = 253;

/// `must be no more than N characters`
pub fn max_len(n: usize) -> String {
    format!("must be no more than {n} characters")
}

fn max_bytes(n: usize) -> String {
    format!("must be no more than {n} bytes")
}

/// `<message> (e.g. 'a', or 'b', regex used for validation is '…')`
pub fn regex_error(message: &str, regex: &str, examples: &[&str]) -> String {
    let mut out = message.to_owned();
    if examples.is_empty() {
        out.push_str(" (regex used for validation is '");
    } else {
        out.push_str(" (e.g. ");
        for (i, e) in examples.iter().enumerate() {
            if i > 0 {
                out.push_str(" or ");
            }
            out.push('\'');
            out.push_str(e);
            out.push_str("', ");
        }
        out.push_str("regex used for validation is '");
    }
    out.push_str(regex);
    out.push_str("')");
    out
}

/// `must be between LO and HI, inclusive`
pub fn range_error(lo: i64, hi: i64) -> String {
    format!("must be between {lo} and {hi}, inclusive")
}

/// First and last of `edge`, the rest of `inner`; not empty.
fn edged(s: &str, first: fn(u8) -> bool, inner: fn(u8) -> bool, last: fn(u8) -> bool) -> bool {
    let b = s.as_bytes();
    match (b.first(), b.last()) {
        (Some(&f), Some(&l)) => first(f) && last(l) && b.iter().all(|c| inner(*c)),
        _ => false,
    }
}

fn lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn label_ok(s: &str) -> bool {
    edged(s, lower_alnum, |b| lower_alnum(b) || b == b'-', lower_alnum)
}

fn subdomain_ok(s: &str) -> bool {
    s.split('.').all(label_ok)
}

/// An RFC 1123 label: most names that become host names.
pub fn dns1123_label(s: &str) -> Vec<String> {
    let mut out = Vec::new();
    if s.len() > DNS_LABEL_MAX {
        out.push(max_len(DNS_LABEL_MAX));
    }
    if !label_ok(s) {
        if subdomain_ok(s) {
            out.push("must not contain dots".to_owned());
        } else {
            out.push(regex_error(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                DNS1123_LABEL,
                &["my-name", "123-abc"],
            ));
        }
    }
    out
}

/// An RFC 1123 subdomain: the default for object names.
pub fn dns1123_subdomain(s: &str) -> Vec<String> {
    let mut out = Vec::new();
    if s.len() > DNS_SUBDOMAIN_MAX {
        out.push(max_len(DNS_SUBDOMAIN_MAX));
    }
    if !subdomain_ok(s) {
        out.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            DNS1123_SUBDOMAIN,
            &["example.com"],
        ));
    }
    out
}

/// A subdomain behind `*.`.
pub fn wildcard_dns1123_subdomain(s: &str) -> Vec<String> {
    let mut out = Vec::new();
    if s.len() > DNS_SUBDOMAIN_MAX {
        out.push(max_len(DNS_SUBDOMAIN_MAX));
    }
    if !s.strip_prefix("*.").is_some_and(subdomain_ok) {
        out.push(regex_error(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!("\\*\\.{DNS1123_SUBDOMAIN}"),
            &["*.example.com"],
        ));
    }
    out
}

/// A DNS-1035 label: service names.
pub fn dns1035_label(s: &str) -> Vec<String> {
    let mut out = Vec::new();
    if s.len() > DNS_LABEL_MAX {
        out.push(max_len(DNS_LABEL_MAX));
    }
    if !edged(
        s,
        |b| b.is_ascii_lowercase(),
        |b| lower_alnum(b) || b == b'-',
        lower_alnum,
    ) {
        out.push(regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    out
}

fn label_key_ok(s: &str) -> bool {
    edged(
        s,
        |b| b.is_ascii_alphanumeric(),
        |b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'),
        |b| b.is_ascii_alphanumeric(),
    )
}

/// A label key, finalizer, taint key: an optional DNS prefix and a name.
pub fn qualified_name(s: &str) -> Vec<String> {
    let examples = &["MyName", "my.name", "123-abc"];
    let mut out = Vec::new();
    let mut parts = s.split('/');
    let name = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => name,
        (Some(prefix), Some(name), None) => {
            if prefix.is_empty() {
                out.push("prefix part must be non-empty".to_owned());
            } else {
                if prefix.len() > DNS_SUBDOMAIN_MAX {
                    out.push(format!("prefix part {}", max_bytes(DNS_SUBDOMAIN_MAX)));
                }
                if !subdomain_ok(prefix) {
                    out.extend(
                        dns1123_subdomain(prefix)
                            .last()
                            .map(|m| format!("prefix part {m}")),
                    );
                }
            }
            name
        }
        _ => {
            out.push(format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                regex_error(LABEL_KEY_MESSAGE, LABEL_KEY, examples)
            ));
            return out;
        }
    };
    if name.is_empty() {
        out.push("name part must be non-empty".to_owned());
    } else if name.len() > DNS_LABEL_MAX {
        out.push(format!("name part {}", max_bytes(DNS_LABEL_MAX)));
    }
    if !label_key_ok(name) {
        out.push(format!(
            "name part {}",
            regex_error(LABEL_KEY_MESSAGE, LABEL_KEY, examples)
        ));
    }
    out
}

/// A label value; empty is valid.
pub fn label_value(s: &str) -> Vec<String> {
    let mut out = Vec::new();
    if s.len() > DNS_LABEL_MAX {
        out.push(max_bytes(DNS_LABEL_MAX));
    }
    if !s.is_empty() && !label_key_ok(s) {
        out.push(regex_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            &format!("({LABEL_KEY})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    out
}

/// A C identifier.
pub fn c_identifier(s: &str) -> Vec<String> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if edged(s, |b| b.is_ascii_alphabetic() || b == b'_', word, word) {
        return Vec::new();
    }
    vec![regex_error(
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'",
        "[A-Za-z_][A-Za-z0-9_]*",
        &["my_name", "MY_NAME", "MyName"],
    )]
}

fn dots(s: &str, out: &mut Vec<String>) {
    match s {
        "." => out.push("must not be '.'".to_owned()),
        ".." => out.push("must not be '..'".to_owned()),
        _ if s.starts_with("..") => out.push("must not start with '..'".to_owned()),
        _ => {}
    }
}

/// The name of an environment variable, in the strict form.
pub fn env_var_name(s: &str) -> Vec<String> {
    let mut out = Vec::new();
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if !edged(
        s,
        |b| b.is_ascii_alphabetic() || matches!(b, b'-' | b'.' | b'_'),
        inner,
        inner,
    ) {
        out.push(regex_error(
            "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not start with a digit",
            "[-._a-zA-Z][-._a-zA-Z0-9]*",
            &["my.env-name", "MY_ENV.NAME", "MyEnvName1"],
        ));
    }
    dots(s, &mut out);
    out
}

/// The name of an environment variable, in the relaxed form: printable ASCII without `=`.
pub fn relaxed_env_var_name(s: &str) -> Vec<String> {
    if s.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if s.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
        return Vec::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned()]
}

/// A key of a ConfigMap or Secret.
pub fn config_map_key(s: &str) -> Vec<String> {
    let mut out = Vec::new();
    if s.len() > DNS_SUBDOMAIN_MAX {
        out.push(max_len(DNS_SUBDOMAIN_MAX));
    }
    if s.is_empty()
        || !s
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    {
        out.push(regex_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    dots(s, &mut out);
    out
}

/// A port number.
pub fn port(n: i64) -> Vec<String> {
    in_range(n, 1, 65535)
}

/// A number between two others.
pub fn in_range(n: i64, lo: i64, hi: i64) -> Vec<String> {
    if (lo..=hi).contains(&n) {
        Vec::new()
    } else {
        vec![range_error(lo, hi)]
    }
}

/// A user or group id.
pub fn id(n: i64) -> Vec<String> {
    in_range(n, 0, i64::from(i32::MAX))
}

/// The name of a port.
pub fn port_name(s: &str) -> Vec<String> {
    let mut out = Vec::new();
    if s.len() > 15 {
        out.push(max_len(15));
    }
    if s.is_empty() || !s.bytes().all(|b| lower_alnum(b) || b == b'-') {
        out.push(
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned(),
        );
    }
    if !s.bytes().any(|b| b.is_ascii_lowercase()) {
        out.push("must contain at least one letter (a-z)".to_owned());
    }
    if s.contains("--") {
        out.push("must not contain consecutive hyphens".to_owned());
    }
    if s.starts_with('-') || s.ends_with('-') {
        out.push("must not begin or end with a hyphen".to_owned());
    }
    out
}

/// `50%`
pub fn percent(s: &str) -> Vec<String> {
    match s.strip_suffix('%') {
        Some(d) if !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()) => Vec::new(),
        _ => vec![regex_error(
            "a valid percent string must be a numeric string followed by an ending '%'",
            "[0-9]+%",
            &["1%", "93%"],
        )],
    }
}

/// The name of an HTTP header.
pub fn http_header_name(s: &str) -> Vec<String> {
    if !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    vec![regex_error(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

/// A name as a segment of a URL path: RBAC objects.
pub fn path_segment_name(s: &str) -> Vec<String> {
    if s == "." || s == ".." {
        return vec![format!("may not be '{s}'")];
    }
    path_segment_prefix(s)
}

/// The beginning of a name as a segment of a URL path.
pub fn path_segment_prefix(s: &str) -> Vec<String> {
    ["/", "%"]
        .iter()
        .filter(|c| s.contains(**c))
        .map(|c| format!("may not contain '{c}'"))
        .collect()
}

/// What follows the host in a domain-prefixed path.
pub fn http_path_ok(s: &str) -> bool {
    !s.is_empty()
        && s.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b))
}

/// An address as Go's older parser takes it: leading zeros in IPv4 parts are decimal, IPv4-mapped IPv6 becomes IPv4.
pub fn parse_ip_sloppy(s: &str) -> Option<IpAddr> {
    if s.contains(':') {
        let v6: Ipv6Addr = s.parse().ok()?;
        return Some(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4));
    }
    let mut octets = [0u8; 4];
    let mut parts = s.split('.');
    for slot in &mut octets {
        let p = parts.next()?;
        if p.is_empty() || p.len() > 10 || !p.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *slot = p.parse::<u64>().ok().and_then(|n| u8::try_from(n).ok())?;
    }
    if parts.next().is_some() {
        return None;
    }
    Some(IpAddr::V4(Ipv4Addr::from(octets)))
}

fn mapped(s: &str) -> bool {
    s.parse::<Ipv6Addr>()
        .is_ok_and(|a| a.to_ipv4_mapped().is_some())
}

fn check_ip(path: &Path, s: &str, strict: bool, errors: &mut ErrorList) -> Option<IpAddr> {
    let Some(ip) = parse_ip_sloppy(s) else {
        errors.invalid(
            path,
            s,
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        );
        return None;
    };
    if strict {
        if s.parse::<IpAddr>().is_err() {
            errors.invalid(path, s, "must not have leading 0s");
        }
        if mapped(s) {
            errors.invalid(path, s, "must not be an IPv4-mapped IPv6 address");
        }
    }
    Some(ip)
}

/// An IP address in canonical form.
pub fn ip(path: &Path, s: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(ip) = check_ip(path, s, true, &mut errors)
        && errors.is_empty()
        && ip.to_string() != s
    {
        errors.invalid(
            path,
            s,
            &format!("must be in canonical form ({:?})", ip.to_string()),
        );
    }
    errors
}

/// An IP address in a field that has long accepted other spellings; `strict` refuses leading zeros and mapped addresses.
pub fn ip_legacy(path: &Path, s: &str, strict: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    check_ip(path, s, strict, &mut errors);
    errors
}

/// A network: address and prefix length, host bits zeroed.
pub fn parse_cidr_sloppy(s: &str) -> Option<(IpAddr, u8)> {
    let (addr, len) = s.split_once('/')?;
    if len.is_empty() || len.len() > 4 || !len.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let mut len: u32 = len.parse().ok()?;
    if mapped(addr) {
        len = len.checked_sub(96)?;
    }
    let ip = parse_ip_sloppy(addr)?;
    match ip {
        IpAddr::V4(v4) if len <= 32 => {
            let mask = u32::MAX.checked_shl(32 - len).unwrap_or(0);
            Some((IpAddr::V4(Ipv4Addr::from(u32::from(v4) & mask)), len as u8))
        }
        IpAddr::V6(v6) if len <= 128 => {
            let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
            Some((IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask)), len as u8))
        }
        _ => None,
    }
}

fn check_cidr(path: &Path, s: &str, strict: bool, errors: &mut ErrorList) -> Option<(IpAddr, u8)> {
    let Some(net) = parse_cidr_sloppy(s) else {
        errors.invalid(
            path,
            s,
            "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        );
        return None;
    };
    if strict {
        let (addr, len) = s.split_once('/').unwrap_or((s, ""));
        if (len.len() > 1 && len.starts_with('0')) || addr.parse::<IpAddr>().is_err() {
            errors.invalid(path, s, "must not have leading 0s in IP or prefix length");
        } else if mapped(addr) {
            errors.invalid(path, s, "must not have an IPv4-mapped IPv6 address");
        } else if addr.parse::<IpAddr>().is_ok_and(|a| a != net.0) {
            errors.invalid(path, s, "must not have bits set beyond the prefix length");
        }
    }
    Some(net)
}

/// A CIDR in canonical form.
pub fn cidr(path: &Path, s: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some((addr, len)) = check_cidr(path, s, true, &mut errors)
        && errors.is_empty()
    {
        let canonical = format!("{addr}/{len}");
        if canonical != s {
            errors.invalid(
                path,
                s,
                &format!("must be in canonical form ({canonical:?})"),
            );
        }
    }
    errors
}

/// A CIDR in a field that has long accepted other spellings.
pub fn cidr_legacy(path: &Path, s: &str, strict: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    check_cidr(path, s, strict, &mut errors);
    errors
}

/// A check of an object's name; the flag says that a suffix will be added.
pub type NameFn = fn(&str, bool) -> Vec<String>;

/// For prefixes: a final dash will be followed by something.
fn mask(name: &str, prefix: bool) -> String {
    if prefix && name.len() > 1 && name.ends_with('-') {
        let mut cut = name.len() - 2;
        while !name.is_char_boundary(cut) {
            cut -= 1;
        }
        return format!("{}a", name.get(..cut).unwrap_or_default());
    }
    name.to_owned()
}

/// The usual rule for names.
pub fn name_is_dns_subdomain(name: &str, prefix: bool) -> Vec<String> {
    dns1123_subdomain(&mask(name, prefix))
}

/// Namespaces.
pub fn name_is_dns_label(name: &str, prefix: bool) -> Vec<String> {
    dns1123_label(&mask(name, prefix))
}

/// Services.
pub fn name_is_dns1035_label(name: &str, prefix: bool) -> Vec<String> {
    dns1035_label(&mask(name, prefix))
}

/// RBAC objects.
pub fn name_is_path_segment(name: &str, prefix: bool) -> Vec<String> {
    if prefix {
        path_segment_prefix(name)
    } else {
        path_segment_name(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(dns1123_label("a-1").is_empty());
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(
            dns1123_subdomain("A"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(
            dns1123_subdomain(&"a".repeat(254)),
            ["must be no more than 253 characters"]
        );
        assert!(dns1123_subdomain("").len() == 1);
        assert!(qualified_name("example.com/Name_1").is_empty());
        assert_eq!(qualified_name("/a"), ["prefix part must be non-empty"]);
        assert_eq!(qualified_name("a/b/c").len(), 1);
        assert_eq!(qualified_name("x/").len(), 2);
        assert!(label_value("").is_empty() && label_value("a_B.1").is_empty());
        assert_eq!(label_value("-").len(), 1);
        assert!(name_is_dns_subdomain("abc-", true).is_empty());
        assert_eq!(name_is_dns_subdomain("abc-", false).len(), 1);
        assert_eq!(port_name("--").len(), 3);
        assert_eq!(env_var_name("1").len(), 1);
        assert_eq!(config_map_key(".."), ["must not be '..'"]);
        assert_eq!(
            path_segment_name("a/%"),
            ["may not contain '/'", "may not contain '%'"]
        );
    }

    #[test]
    fn addresses() {
        let p = Path::new("ip");
        for ok in ["1.2.3.4", "::1", "2001:db8::ffff"] {
            assert!(ip(&p, ok).is_empty(), "{ok}");
        }
        for (bad, message) in [
            (
                "1.2.3",
                "ip: Invalid value: \"1.2.3\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ),
            (
                "1.2.3.04",
                "ip: Invalid value: \"1.2.3.04\": must not have leading 0s",
            ),
            (
                "::ffff:1.2.3.4",
                "ip: Invalid value: \"::ffff:1.2.3.4\": must not be an IPv4-mapped IPv6 address",
            ),
            (
                "2001:DB8::1",
                "ip: Invalid value: \"2001:DB8::1\": must be in canonical form (\"2001:db8::1\")",
            ),
        ] {
            assert_eq!(ip(&p, bad).aggregate(), message);
        }
        assert!(ip_legacy(&p, "1.2.3.04", false).is_empty());
        assert!(cidr(&p, "10.0.0.0/8").is_empty());
        assert!(cidr(&p, "::/0").is_empty());
        assert_eq!(
            cidr(&p, "10.0.0.1/8").aggregate(),
            "ip: Invalid value: \"10.0.0.1/8\": must not have bits set beyond the prefix length"
        );
        assert_eq!(cidr_legacy(&p, "10.0.0.1/8", false).len(), 0);
        assert_eq!(cidr(&p, "10.0.0.0/33").len(), 1);
    }
}
