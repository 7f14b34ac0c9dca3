//! EndpointSlices.

use std::collections::BTreeSet;

use apiserver::resource::{Context, Strategy};
use serde_json::Value;

use crate::builtin::{Config, Parts};
use crate::check::{
    dns1123_label, dns1123_subdomain, each, endpoint_ip, is_ipv6, label_value, legacy_ip,
    qualified_name, strict_ip,
};
use crate::validate::container::protocol;
use crate::validate::{Errors, Path, meta};
use crate::value::{Tree, same};
use crate::warn;

struct EndpointSlice;

const ADDRESS_TYPES: [&str; 3] = ["FQDN", "IPv4", "IPv6"];

/// A domain name of at least two labels.
fn fqdn(e: &mut Errors, path: &Path, name: &str) {
    if name.is_empty() {
        e.required(path, "");
        return;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let messages = dns1123_subdomain(name);
    if !messages.is_empty() {
        e.invalid(path, name, &messages.join(","));
    } else if !name.contains('.') {
        e.invalid(
            path,
            name,
            "should be a domain with at least two segments separated by dots",
        );
    } else if let Some(bad) = name.split('.').find(|l| !dns1123_label(l).is_empty()) {
        e.invalid(path, bad, &dns1123_label(bad).join(","));
    }
}

fn address(e: &mut Errors, path: &Path, list: &Path, kind: &str, a: &str) {
    let (good, family, word) = match kind {
        "IPv4" => (legacy_ip(e, path, a), !is_ipv6(a), "IPv4"),
        "IPv6" => (strict_ip(e, path, a), is_ipv6(a), "IPv6"),
        "FQDN" => {
            fqdn(e, path, a);
            return;
        }
        _ => return,
    };
    if good {
        if !family {
            e.invalid(list, a, &format!("must be an {word} address"));
        }
        endpoint_ip(e, path, a);
    }
}

fn hints(e: &mut Errors, path: &Path, h: &Value) {
    let checks: [(&str, fn(&str) -> Vec<String>); 2] =
        [("forZones", label_value), ("forNodes", dns1123_subdomain)];
    for (key, check) in checks {
        let p = path.child(key);
        let list = h.list(key);
        if list.len() > 8 {
            e.too_many(&p, list.len(), 8);
            return;
        }
        let mut seen = BTreeSet::new();
        for (i, item) in list.iter().enumerate() {
            let (p, name) = (p.index(i).child("name"), item.text("name"));
            if !seen.insert(name) {
                e.duplicate(&p, name);
            }
            each(e, &p, name, check(name));
        }
    }
}

fn endpoints(e: &mut Errors, path: &Path, o: &Value) {
    let list = o.list("endpoints");
    if list.len() > 1000 {
        e.too_many(path, list.len(), 1000);
        return;
    }
    for (i, ep) in list.iter().enumerate() {
        let here = path.index(i);
        let p = here.child("addresses");
        let addresses = ep.texts("addresses");
        if addresses.is_empty() {
            e.required(&p, "must contain at least 1 address");
        } else if addresses.len() > 100 {
            e.too_many(&p, addresses.len(), 100);
        }
        for (j, a) in addresses.iter().enumerate() {
            address(e, &p.index(j), &p, o.text("addressType"), a);
        }
        if let Some(n) = ep.text_opt("nodeName") {
            each(e, &here.child("nodeName"), n, dns1123_subdomain(n));
        }
        let topology = ep.map("deprecatedTopology");
        let p = here.child("deprecatedTopology");
        if topology.len() > 16 {
            e.too_many(&p, topology.len(), 16);
        }
        meta::labels(e, &p, ep.at("deprecatedTopology"));
        if let Some(h) = ep.text_opt("hostname") {
            each(e, &here.child("hostname"), h, dns1123_label(h));
        }
        hints(e, &here.child("hints"), ep.at("hints"));
    }
}

fn ports(e: &mut Errors, path: &Path, list: &[Value]) {
    if list.len() > 20000 {
        e.too_many(path, list.len(), 20000);
        return;
    }
    let mut names = BTreeSet::new();
    for (i, p) in list.iter().enumerate() {
        let here = path.index(i);
        let name = p.text("name");
        if !name.is_empty() {
            each(e, &here.child("name"), name, dns1123_label(name));
        }
        if !names.insert(name) {
            e.duplicate(&here.child("name"), name);
        }
        protocol(e, &here.child("protocol"), p.text("protocol"));
        if let Some(a) = p.text_opt("appProtocol") {
            each(e, &here.child("appProtocol"), a, qualified_name(a));
        }
    }
}

fn validate(o: &Value, old: Option<&Value>) -> Errors {
    let mut e = Errors::new();
    let kind = o.text("addressType");
    if kind.is_empty() {
        e.required(&Path::new("addressType"), "");
    } else if !ADDRESS_TYPES.contains(&kind) {
        e.not_supported(&Path::new("addressType"), kind, &ADDRESS_TYPES);
    }
    ports(&mut e, &Path::new("ports"), o.list("ports"));
    if !old.is_some_and(|old| same(o.at("endpoints"), old.at("endpoints"))) {
        endpoints(&mut e, &Path::new("endpoints"), o);
    }
    if let Some(old) = old
        && kind != old.text("addressType")
    {
        e.invalid(&Path::new("addressType"), kind, "field is immutable");
    }
    e
}

impl Strategy for EndpointSlice {
    fn default(&self, o: &mut Value) {
        for p in o.list_mut("ports") {
            p.put_if_absent("name", "");
            p.put_if_absent("protocol", "TCP");
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn generation_changed(&self, o: &Value, old: &Value) -> bool {
        ["addressType", "endpoints", "ports", "metadata.labels"]
            .iter()
            .any(|k| !same(o.at(k), old.at(k)))
    }

    fn prepare_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate_create(&self, _: &Context<'_>, o: &Value) -> Errors {
        validate(o, None)
    }

    fn validate_update(&self, _: &Context<'_>, o: &Value, old: &Value) -> Errors {
        validate(o, Some(old))
    }

    fn warnings(&self, _: &Context<'_>, o: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = vec![];
        if old.is_none() && o.text("addressType") == "FQDN" {
            out.push("spec.addressType: FQDN endpoints are deprecated".into());
        }
        // The controllers write addresses properly.
        let by = o.label("endpointslice.kubernetes.io/managed-by");
        if by == Some("endpointslice-controller.k8s.io")
            || by == Some("endpointslicemirroring-controller.k8s.io")
        {
            return out;
        }
        for (i, end) in o.list("endpoints").iter().enumerate() {
            for (j, a) in end.texts("addresses").iter().enumerate() {
                let path = Path::new("endpoints").index(i).child("addresses").index(j);
                warn::ip(&mut out, &path, a);
            }
        }
        out
    }
}

/// EndpointSlices.
pub fn parts(_: &Config) -> Parts {
    Parts::new(EndpointSlice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_fit_their_type() {
        let slice =
            |kind: &str, a: &str| json!({"addressType": kind, "endpoints": [{"addresses": [a]}]});
        assert!(validate(&slice("IPv4", "10.0.0.1"), None).is_empty());
        let errors = |kind, a| validate(&slice(kind, a), None).aggregate();
        assert_eq!(
            errors("IPv4", "2001:db8::1"),
            "endpoints[0].addresses: Invalid value: \"2001:db8::1\": must be an IPv4 address"
        );
        assert_eq!(
            errors("IPv4", "127.0.0.1"),
            "endpoints[0].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)"
        );
        assert!(validate(&slice("FQDN", "a.example"), None).is_empty());
        assert_eq!(
            errors("FQDN", "a"),
            "endpoints[0].addresses[0]: Invalid value: \"a\": should be a domain with at least two segments separated by dots"
        );
        assert_eq!(
            errors("X", "a"),
            "addressType: Unsupported value: \"X\": supported values: \"FQDN\", \"IPv4\", \"IPv6\""
        );
        assert_eq!(
            errors("IPv6", "2001:DB8::1"),
            "endpoints[0].addresses[0]: Invalid value: \"2001:DB8::1\": must be in canonical form (\"2001:db8::1\")"
        );
    }

    #[test]
    fn the_type_stays() {
        let old = json!({"addressType": "IPv4"});
        let e = validate(&json!({"addressType": "IPv6"}), Some(&old));
        assert_eq!(
            e.aggregate(),
            "addressType: Invalid value: \"IPv6\": field is immutable"
        );
    }
}
