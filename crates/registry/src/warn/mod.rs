//! `Warning:` headers about accepted objects: settings that are deprecated, have no effect or surprise.

pub mod pod;

use std::net::IpAddr;

use api::text::go_quote;
use serde_json::Value;

use crate::check::{dns1123_label, label_value, masked, parse_cidr_sloppy, parse_ip_sloppy};
use crate::quant;
use crate::validate::Path;
use crate::value::Tree;

/// Labels that nodes once had.
const NODE_LABELS: [(&str, &str); 8] = [
    (
        "beta.kubernetes.io/arch",
        "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
    ),
    (
        "beta.kubernetes.io/os",
        "deprecated since v1.14; use \"kubernetes.io/os\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    (
        "node-role.kubernetes.io/master",
        "use \"node-role.kubernetes.io/control-plane\" instead",
    ),
];

/// What to say about a node label, if it is deprecated.
pub fn node_label(key: &str) -> Option<&'static str> {
    NODE_LABELS
        .iter()
        .find(|(k, _)| *k == key)
        .map(|(_, why)| *why)
}

/// An address that is accepted but written in an unusual way.
pub fn ip(out: &mut Vec<String>, path: &Path, value: &str) {
    let Some(address) = parse_ip_sloppy(value) else {
        return;
    };
    match value.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_none() => {
            let canonical = v6.to_string();
            if canonical != value {
                out.push(format!(
                    "{path}: IPv6 address {} should be in RFC 5952 canonical format (\"{canonical}\")",
                    go_quote(value)
                ));
            }
        }
        Ok(IpAddr::V4(_)) => {}
        _ => out.push(format!(
            "{path}: non-standard IP address {} is invalid: use \"{address}\"",
            go_quote(value)
        )),
    }
}

/// A network that is accepted but written in an unusual way.
pub fn cidr(out: &mut Vec<String>, path: &Path, value: &str) {
    let Some((address, length)) = parse_cidr_sloppy(value) else {
        return;
    };
    let (shown, network) = (go_quote(value), masked(address, length));
    let mut odd = false;
    if network != address {
        odd = true;
        let all = if address.is_ipv4() { 32 } else { 128 };
        out.push(format!(
            "{path}: CIDR value {shown} is ambiguous in this context (should be \"{network}/{length}\" or \"{address}/{all}\"?)"
        ));
    }
    let strict = value.split_once('/').and_then(|(a, bits)| {
        let a = a.parse::<IpAddr>().ok()?;
        (bits == "0" || !bits.starts_with('0')).then_some(a)
    });
    if strict.is_none_or(|a| a != address) {
        odd = true;
        out.push(format!(
            "{path}: non-standard CIDR value {shown} is invalid: use \"{network}/{length}\""
        ));
    }
    let canonical = format!("{address}/{length}");
    if !odd && address.is_ipv6() && canonical != value {
        out.push(format!(
            "{path}: IPv6 CIDR value {shown} should be in RFC 5952 canonical format (\"{canonical}\")"
        ));
    }
}

/// The addresses of a load balancer in the status of a service or ingress.
pub fn load_balancer(o: &Value) -> Vec<String> {
    let mut out = vec![];
    let path = Path::new("status.loadBalancer.ingress");
    for (i, at) in o.list("status.loadBalancer.ingress").iter().enumerate() {
        ip(&mut out, &path.index(i), at.text("ip"));
    }
    out
}

/// A name that ends up in host names without being a label.
pub fn name(out: &mut Vec<String>, o: &Value, place: &str) {
    let bad = dns1123_label(o.name());
    if !bad.is_empty() {
        out.push(format!(
            "metadata.name: this is used in {place}, which can result in surprising behavior; a DNS label is recommended: [{}]",
            bad.join(" ")
        ));
    }
}

/// A term that selects nodes; preferences accept values that no label can have.
pub fn node_selector_term(out: &mut Vec<String>, path: &Path, term: &Value, values: bool) {
    for (i, r) in term.list("matchExpressions").iter().enumerate() {
        let p = path.child("matchExpressions").index(i);
        if let Some(why) = node_label(r.text("key")) {
            out.push(format!("{}: {} is {why}", p.child("key"), r.text("key")));
        }
        if !values {
            continue;
        }
        for (j, v) in r.texts("values").iter().enumerate() {
            for why in label_value(v) {
                out.push(format!(
                    "{}: {v} is invalid, {why}",
                    p.child("values").index(j)
                ));
            }
        }
    }
}

/// An amount of bytes that is no whole number.
pub fn fraction(out: &mut Vec<String>, path: &Path, list: &Value, key: &str) {
    if let Some(v) = list.map("").get(key) {
        let q = quant::of(v);
        if !q.is_integer() {
            out.push(format!(
                "{}: fractional byte value \"{q}\" is invalid, must be an integer",
                path.key(key)
            ));
        }
    }
}

/// The spec of a volume claim.
pub fn claim_spec(out: &mut Vec<String>, path: &Path, spec: &Value) {
    let p = path.child("resources");
    for key in ["requests", "limits"] {
        fraction(out, &p.child(key), spec.at("resources").at(key), "storage");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(f: fn(&mut Vec<String>, &Path, &str), value: &str) -> String {
        let mut out = vec![];
        f(&mut out, &Path::new("f"), value);
        out.join("\n")
    }

    #[test]
    fn addresses() {
        for good in ["1.2.3.4", "2001:db8::1", "None", ""] {
            assert_eq!(one(ip, good), "");
        }
        assert_eq!(
            one(ip, "012.0.0.1"),
            "f: non-standard IP address \"012.0.0.1\" is invalid: use \"12.0.0.1\""
        );
        assert_eq!(
            one(ip, "::ffff:1.2.3.4"),
            "f: non-standard IP address \"::ffff:1.2.3.4\" is invalid: use \"1.2.3.4\""
        );
        assert_eq!(
            one(ip, "2001:db8:0::1"),
            "f: IPv6 address \"2001:db8:0::1\" should be in RFC 5952 canonical format (\"2001:db8::1\")"
        );
    }

    #[test]
    fn networks() {
        for good in ["1.2.3.0/24", "2001:db8::/64", "0.0.0.0/0"] {
            assert_eq!(one(cidr, good), "");
        }
        assert_eq!(
            one(cidr, "01.2.3.0/24"),
            "f: non-standard CIDR value \"01.2.3.0/24\" is invalid: use \"1.2.3.0/24\""
        );
        assert_eq!(
            one(cidr, "1.2.3.4/24"),
            "f: CIDR value \"1.2.3.4/24\" is ambiguous in this context (should be \"1.2.3.0/24\" or \"1.2.3.4/32\"?)"
        );
        assert_eq!(
            one(cidr, "2001:db8:0::/64"),
            "f: IPv6 CIDR value \"2001:db8:0::/64\" should be in RFC 5952 canonical format (\"2001:db8::/64\")"
        );
    }
}
