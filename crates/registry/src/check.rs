//! The formats of names and values, with upstream's messages (`apimachinery/pkg/util/validation`). Every check returns
//! the messages of what is wrong; none when the value is good.

use std::net::IpAddr;

use api::field::{ErrorList, Path};

/// Messages about one value.
pub type Messages = Vec<String>;

const DNS1123_LABEL_FMT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const DNS1123_LABEL_MSG: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
const DNS1123_SUBDOMAIN_FMT: &str =
    "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const DNS1123_SUBDOMAIN_MSG: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
const DNS1123_UNDERSCORE_FMT: &str =
    "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
const DNS1123_UNDERSCORE_MSG: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character";
const DNS1035_FMT: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const DNS1035_MSG: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
const WILDCARD_MSG: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
const QUALIFIED_FMT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_MSG: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const LABEL_VALUE_FMT: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const LABEL_VALUE_MSG: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const HTTP_PATH_FMT: &str = "[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+";
const CONFIG_KEY_MSG: &str =
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";

/// `must be no more than N characters`, as most checks say it.
pub fn max_len(n: usize) -> String {
    format!("must be no more than {n} characters")
}

/// `must be no more than N bytes`, as the newer checks of labels say it.
fn max_bytes(n: usize) -> String {
    format!("must be no more than {n} bytes")
}

fn regex_error(message: &str, fmt: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{fmt}')");
    }
    let mut out = format!("{message} (e.g. ");
    for (i, e) in examples.iter().enumerate() {
        if i > 0 {
            out.push_str(" or ");
        }
        out.push_str(&format!("'{e}', "));
    }
    out.push_str(&format!("regex used for validation is '{fmt}')"));
    out
}

fn lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// First and last byte satisfy `edge`, the rest `edge` or `inner`.
fn framed(s: &str, edge: fn(u8) -> bool, inner: &[u8]) -> bool {
    let b = s.as_bytes();
    match (b.first(), b.last()) {
        (Some(&f), Some(&l)) => {
            edge(f) && edge(l) && b.iter().all(|&c| edge(c) || inner.contains(&c))
        }
        _ => false,
    }
}

fn label_shape(s: &str) -> bool {
    framed(s, lower_alnum, b"-")
}

fn subdomain_shape(s: &str) -> bool {
    s.split('.').all(label_shape)
}

/// An RFC 1123 label.
pub fn dns1123_label(value: &str) -> Messages {
    let mut out = Messages::new();
    if value.len() > 63 {
        out.push(max_len(63));
    }
    if !label_shape(value) {
        if subdomain_shape(value) {
            out.push("must not contain dots".into());
        } else {
            out.push(regex_error(
                DNS1123_LABEL_MSG,
                DNS1123_LABEL_FMT,
                &["my-name", "123-abc"],
            ));
        }
    }
    out
}

/// An RFC 1123 subdomain.
pub fn dns1123_subdomain(value: &str) -> Messages {
    let mut out = Messages::new();
    if value.len() > 253 {
        out.push(max_len(253));
    }
    if !subdomain_shape(value) {
        out.push(regex_error(
            DNS1123_SUBDOMAIN_MSG,
            DNS1123_SUBDOMAIN_FMT,
            &["example.com"],
        ));
    }
    out
}

/// An RFC 1123 subdomain in which underscores are allowed (DNS search paths).
pub fn dns1123_subdomain_underscore(value: &str) -> Messages {
    let mut out = Messages::new();
    if value.len() > 253 {
        out.push(max_len(253));
    }
    let good = value
        .split('.')
        .all(|l| framed(l.strip_prefix('_').unwrap_or(l), lower_alnum, b"-_"));
    if !good {
        out.push(regex_error(
            DNS1123_UNDERSCORE_MSG,
            DNS1123_UNDERSCORE_FMT,
            &["example.com"],
        ));
    }
    out
}

/// An RFC 1035 label.
pub fn dns1035_label(value: &str) -> Messages {
    let mut out = Messages::new();
    if value.len() > 63 {
        out.push(max_len(63));
    }
    if !(label_shape(value) && value.as_bytes().first().is_some_and(u8::is_ascii_lowercase)) {
        out.push(regex_error(
            DNS1035_MSG,
            DNS1035_FMT,
            &["my-name", "abc-123"],
        ));
    }
    out
}

/// `*.` and an RFC 1123 subdomain.
pub fn wildcard_subdomain(value: &str) -> Messages {
    let mut out = Messages::new();
    if value.len() > 253 {
        out.push(max_len(253));
    }
    if !value.strip_prefix("*.").is_some_and(subdomain_shape) {
        out.push(regex_error(
            WILDCARD_MSG,
            &format!("\\*\\.{DNS1123_SUBDOMAIN_FMT}"),
            &["*.example.com"],
        ));
    }
    out
}

/// A qualified name: an optional DNS prefix and a name part (label keys, condition types, resource names).
pub fn qualified_name(value: &str) -> Messages {
    let mut out = Messages::new();
    let parts: Vec<&str> = value.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                out.push("prefix part must be non-empty".into());
            } else {
                out.extend(
                    dns1123_subdomain_bytes(prefix)
                        .into_iter()
                        .map(|m| format!("prefix part {m}")),
                );
            }
            *name
        }
        _ => {
            out.push(format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                regex_error(QUALIFIED_MSG, QUALIFIED_FMT, &["MyName", "my.name", "123-abc"])
            ));
            return out;
        }
    };
    if name.is_empty() {
        out.push("name part must be non-empty".into());
    } else if name.len() > 63 {
        out.push(format!("name part {}", max_bytes(63)));
    }
    if !framed(name, |b| b.is_ascii_alphanumeric(), b"-_.") {
        out.push(format!(
            "name part {}",
            regex_error(
                QUALIFIED_MSG,
                QUALIFIED_FMT,
                &["MyName", "my.name", "123-abc"]
            )
        ));
    }
    out
}

fn dns1123_subdomain_bytes(value: &str) -> Messages {
    let mut out = Messages::new();
    if value.len() > 253 {
        out.push(max_bytes(253));
    }
    if !subdomain_shape(value) {
        out.push(regex_error(
            DNS1123_SUBDOMAIN_MSG,
            DNS1123_SUBDOMAIN_FMT,
            &["example.com"],
        ));
    }
    out
}

/// The value of a label.
pub fn label_value(value: &str) -> Messages {
    let mut out = Messages::new();
    if value.len() > 63 {
        out.push(max_bytes(63));
    }
    if !value.is_empty() && !framed(value, |b| b.is_ascii_alphanumeric(), b"-_.") {
        out.push(regex_error(
            LABEL_VALUE_MSG,
            LABEL_VALUE_FMT,
            &["MyValue", "my_value", "12345"],
        ));
    }
    out
}

/// `must be between LO and HI, inclusive` outside the range.
pub fn in_range(value: i64, lo: i64, hi: i64) -> Messages {
    if (lo..=hi).contains(&value) {
        vec![]
    } else {
        vec![range_message(lo, hi)]
    }
}

/// `must be between LO and HI, inclusive`.
pub fn range_message(lo: i64, hi: i64) -> String {
    format!("must be between {lo} and {hi}, inclusive")
}

/// 1 to 65535.
pub fn port_number(value: i64) -> Messages {
    in_range(value, 1, 65535)
}

/// A user or group id.
pub fn unix_id(value: i64) -> Messages {
    in_range(value, 0, i64::from(i32::MAX))
}

/// A port's name, RFC 6335.
pub fn port_name(value: &str) -> Messages {
    let mut out = Messages::new();
    if value.len() > 15 {
        out.push(max_len(15));
    }
    if value.is_empty() || !value.bytes().all(|b| lower_alnum(b) || b == b'-') {
        out.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !value.bytes().any(|b| b.is_ascii_lowercase()) {
        out.push("must contain at least one letter (a-z)".into());
    }
    if value.contains("--") {
        out.push("must not contain consecutive hyphens".into());
    }
    if value.starts_with('-') || value.ends_with('-') {
        out.push("must not begin or end with a hyphen".into());
    }
    out
}

/// `25%`.
pub fn percent(value: &str) -> Messages {
    let good = value
        .strip_suffix('%')
        .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    if good {
        return vec![];
    }
    vec![regex_error(
        "a valid percent string must be a numeric string followed by an ending '%'",
        "[0-9]+%",
        &["1%", "93%"],
    )]
}

/// The name of an HTTP header.
pub fn http_header(value: &str) -> Messages {
    if !value.is_empty()
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    {
        return vec![];
    }
    vec![regex_error(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

/// The name of an environment variable: printable ASCII without `=`.
pub fn env_name(value: &str) -> Messages {
    let mut out = Messages::new();
    if value.is_empty() {
        out.push("environment variable name must be non-empty".into());
    }
    if value.chars().any(|c| !(' '..='~').contains(&c) || c == '=') {
        out.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='".into(),
        );
    }
    out
}

fn chdir_prefix(value: &str) -> Messages {
    match value {
        "." => vec!["must not be '.'".into()],
        ".." => vec!["must not be '..'".into()],
        v if v.starts_with("..") => vec!["must not start with '..'".into()],
        _ => vec![],
    }
}

/// A key of a ConfigMap or Secret.
pub fn config_key(value: &str) -> Messages {
    let mut out = Messages::new();
    if value.len() > 253 {
        out.push(max_len(253));
    }
    if value.is_empty()
        || !value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    {
        out.push(regex_error(
            CONFIG_KEY_MSG,
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    out.extend(chdir_prefix(value));
    out
}

/// A name that may be a path segment (RBAC, events): neither `.` nor `..`, no `/`, no `%`.
pub fn path_segment(value: &str) -> Messages {
    if value == "." || value == ".." {
        return vec![format!("may not be '{value}'")];
    }
    ["/", "%"]
        .iter()
        .filter(|c| value.contains(**c))
        .map(|c| format!("may not contain '{c}'"))
        .collect()
}

/// A domain, a slash and more: the names of controllers.
pub fn domain_prefixed_path(errors: &mut ErrorList, path: &Path, value: &str) {
    if value.is_empty() {
        errors.required(path, "");
        return;
    }
    let Some((host, rest)) = value
        .split_once('/')
        .filter(|(host, rest)| !host.is_empty() && !rest.is_empty())
    else {
        errors.invalid(
            path,
            value,
            "must be a domain-prefixed path (such as \"acme.io/foo\")",
        );
        return;
    };
    each(errors, path, host, dns1123_subdomain(host));
    let good = rest
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b));
    if !good {
        errors.invalid(path, rest, &regex_error("Invalid path", HTTP_PATH_FMT, &[]));
    }
}

/// A decimal integer in canonical form.
pub fn decimal_integer(value: &str) -> Messages {
    if value.is_empty() {
        return vec!["must be non-empty".into()];
    }
    let digits = value.strip_prefix('-').unwrap_or(value);
    let good = !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
        && (digits == "0" && value == "0" || !digits.starts_with('0'));
    if good {
        vec![]
    } else {
        vec!["must be a valid decimal integer in canonical form".into()]
    }
}

/// Adds `Invalid value` with each message.
pub fn each(errors: &mut ErrorList, path: &Path, value: &str, messages: Messages) {
    for m in messages {
        errors.invalid(path, value, &m);
    }
}

/// Adds `Invalid value` of a number with each message.
pub fn each_int(errors: &mut ErrorList, path: &Path, value: i64, messages: Messages) {
    for m in messages {
        errors.invalid(path, value, &m);
    }
}

/// `must be greater than or equal to 0`.
pub fn non_negative(errors: &mut ErrorList, path: &Path, value: i64) {
    if value < 0 {
        errors.invalid(path, value, "must be greater than or equal to 0");
    }
}

/// `must be greater than zero`.
pub fn positive(errors: &mut ErrorList, path: &Path, value: i64) {
    if value <= 0 {
        errors.invalid(path, value, "must be greater than zero");
    }
}

/// An address as old clients may have written it: leading zeros in IPv4 are read as decimal, IPv4-mapped is IPv4.
pub fn parse_ip_sloppy(value: &str) -> Option<IpAddr> {
    if let Ok(ip) = value.parse::<IpAddr>() {
        return Some(ip.to_canonical());
    }
    let parts: Vec<&str> = value.split('.').collect();
    let [a, b, c, d] = parts.as_slice() else {
        return None;
    };
    let octet = |s: &str| -> Option<u8> {
        if s.is_empty() || s.len() > 15 || !s.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let trimmed = s.trim_start_matches('0');
        if trimmed.is_empty() {
            Some(0)
        } else {
            trimmed.parse().ok()
        }
    };
    Some(IpAddr::from([octet(a)?, octet(b)?, octet(c)?, octet(d)?]))
}

/// Whether an address string is IPv6.
pub fn is_ipv6(value: &str) -> bool {
    parse_ip_sloppy(value).is_some_and(|ip| ip.is_ipv6())
}

/// An IP address in a field that took old spellings once: still no leading zeros and no IPv4-mapped IPv6.
pub fn legacy_ip(errors: &mut ErrorList, path: &Path, value: &str) -> bool {
    if parse_ip_sloppy(value).is_none() {
        errors.invalid(
            path,
            value,
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        );
        return false;
    }
    match value.parse::<IpAddr>() {
        Err(_) => errors.invalid(path, value, "must not have leading 0s"),
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            errors.invalid(path, value, "must not be an IPv4-mapped IPv6 address");
        }
        Ok(_) => return true,
    }
    false
}

/// An IP address in canonical form.
pub fn strict_ip(errors: &mut ErrorList, path: &Path, value: &str) -> bool {
    if !legacy_ip(errors, path, value) {
        return false;
    }
    if let Some(ip) = parse_ip_sloppy(value)
        && ip.to_string() != value
    {
        errors.invalid(
            path,
            value,
            &format!("must be in canonical form (\"{ip}\")"),
        );
        return false;
    }
    true
}

/// A parsed CIDR: the address as written and the prefix length.
pub fn parse_cidr_sloppy(value: &str) -> Option<(IpAddr, u8)> {
    let (addr, len) = value.split_once('/')?;
    let ip = parse_ip_sloppy(addr)?;
    let len: u8 = if len.bytes().all(|b| b.is_ascii_digit()) {
        len.parse().ok()?
    } else {
        return None;
    };
    let max = if ip.is_ipv4() { 32 } else { 128 };
    (len <= max).then_some((ip, len))
}

/// A CIDR in a field that took old spellings once: still no leading zeros, no IPv4-mapped IPv6, no host bits.
pub fn legacy_cidr(errors: &mut ErrorList, path: &Path, value: &str) -> bool {
    let Some((ip, len)) = parse_cidr_sloppy(value) else {
        errors.invalid(
            path,
            value,
            "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        );
        return false;
    };
    let (addr, bits) = value.split_once('/').unwrap_or((value, ""));
    match addr.parse::<IpAddr>() {
        Err(_) => errors.invalid(
            path,
            value,
            "must not have leading 0s in IP or prefix length",
        ),
        Ok(_) if bits.len() > 1 && bits.starts_with('0') => {
            errors.invalid(
                path,
                value,
                "must not have leading 0s in IP or prefix length",
            );
        }
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            errors.invalid(path, value, "must not have an IPv4-mapped IPv6 address");
        }
        Ok(_) if masked(ip, len) != ip => {
            errors.invalid(
                path,
                value,
                "must not have bits set beyond the prefix length",
            );
        }
        Ok(_) => return true,
    }
    false
}

/// The network address of a CIDR.
pub fn masked(ip: IpAddr, len: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v) => {
            let mask = if len == 0 {
                0
            } else {
                u32::MAX << (32 - u32::from(len.min(32)))
            };
            IpAddr::from((u32::from(v) & mask).to_be_bytes())
        }
        IpAddr::V6(v) => {
            let mask = if len == 0 {
                0
            } else {
                u128::MAX << (128 - u32::from(len.min(128)))
            };
            IpAddr::from((u128::from(v) & mask).to_be_bytes())
        }
    }
}

/// A CIDR in canonical form.
pub fn strict_cidr(errors: &mut ErrorList, path: &Path, value: &str) -> bool {
    if !legacy_cidr(errors, path, value) {
        return false;
    }
    if let Some((ip, len)) = parse_cidr_sloppy(value)
        && format!("{ip}/{len}") != value
    {
        errors.invalid(
            path,
            value,
            &format!("must be in canonical form (\"{ip}/{len}\")"),
        );
        return false;
    }
    true
}

/// An address that endpoints may carry: not unspecified, loopback or link-local.
pub fn endpoint_ip(errors: &mut ErrorList, path: &Path, value: &str) {
    let Some(ip) = parse_ip_sloppy(value) else {
        errors.invalid(path, value, "must be a valid IP address");
        return;
    };
    if ip.is_unspecified() {
        errors.invalid(path, value, &format!("may not be unspecified ({value})"));
    }
    if ip.is_loopback() {
        errors.invalid(
            path,
            value,
            "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        );
    }
    let (unicast, multicast) = match ip {
        IpAddr::V4(v) => (v.is_link_local(), v.octets().starts_with(&[224, 0, 0])),
        IpAddr::V6(v) => (
            v.segments()[0] & 0xffc0 == 0xfe80,
            v.segments()[0] & 0xff0f == 0xff02,
        ),
    };
    if unicast {
        errors.invalid(
            path,
            value,
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        );
    }
    if multicast {
        errors.invalid(
            path,
            value,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(dns1123_label("a-b").is_empty());
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(
            dns1123_label("A"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(
            dns1123_label(&"a".repeat(64)),
            ["must be no more than 63 characters"]
        );
        assert!(dns1123_subdomain("a.b-c.1").is_empty());
        assert_eq!(
            dns1123_subdomain("a..b"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(
            qualified_name("/"),
            [
                "prefix part must be non-empty",
                "name part must be non-empty",
                "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
            ]
        );
        assert_eq!(
            qualified_name("a b"),
            [
                "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
            ]
        );
        assert_eq!(
            qualified_name("a/b/c"),
            [
                "a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            ]
        );
        assert!(qualified_name("example.com/My_Name.1").is_empty());
        assert!(label_value("").is_empty());
        assert_eq!(
            label_value("-a"),
            [
                "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
            ]
        );
        assert_eq!(
            dns1035_label("1a"),
            [
                "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(
            port_name("NOT VALID"),
            [
                "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
                "must contain at least one letter (a-z)"
            ]
        );
        assert_eq!(
            env_name("A=B"),
            [
                "a valid environment variable name must consist only of printable ASCII characters other than '='"
            ]
        );
        assert_eq!(config_key("..a"), ["must not start with '..'"]);
        assert_eq!(path_segment("a/b"), ["may not contain '/'"]);
    }

    #[test]
    fn addresses() {
        let p = Path::new("x");
        let run = |f: fn(&mut ErrorList, &Path, &str) -> bool, v: &str| {
            let mut e = ErrorList::new();
            f(&mut e, &p, v);
            e.aggregate()
        };
        assert_eq!(
            run(strict_ip, "010.0.0.1"),
            "x: Invalid value: \"010.0.0.1\": must not have leading 0s"
        );
        assert_eq!(
            run(strict_ip, "::ffff:1.2.3.4"),
            "x: Invalid value: \"::ffff:1.2.3.4\": must not be an IPv4-mapped IPv6 address"
        );
        assert_eq!(
            run(strict_ip, "2001:DB8::1"),
            "x: Invalid value: \"2001:DB8::1\": must be in canonical form (\"2001:db8::1\")"
        );
        assert_eq!(
            run(strict_cidr, "10.0.0.1/8"),
            "x: Invalid value: \"10.0.0.1/8\": must not have bits set beyond the prefix length"
        );
        assert_eq!(run(strict_cidr, "10.0.0.0/8"), "[]");
        let mut e = ErrorList::new();
        endpoint_ip(&mut e, &p, "169.254.1.1");
        endpoint_ip(&mut e, &p, "127.0.0.1");
        endpoint_ip(&mut e, &p, "10.0.0.1");
        assert_eq!(
            e.aggregate(),
            "[x: Invalid value: \"169.254.1.1\": may not be in the link-local range (169.254.0.0/16, fe80::/10), x: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)]"
        );
    }
}
