//! Endpoints.

use apiserver::resource::{Context, Strategy};
use serde_json::Value;

use crate::builtin::{Config, Parts};
use crate::check::{
    dns1123_label, dns1123_subdomain, each, each_int, endpoint_ip, legacy_ip, port_number,
    qualified_name,
};
use crate::validate::container::protocol;
use crate::validate::{Errors, Path};
use crate::value::{Tree, same};
use crate::warn;

struct Endpoints;

fn address(e: &mut Errors, path: &Path, a: &Value) {
    let ip = a.text("ip");
    legacy_ip(e, &path.child("ip"), ip);
    let host = a.text("hostname");
    if !host.is_empty() {
        each(e, &path.child("hostname"), host, dns1123_label(host));
    }
    if let Some(n) = a.text_opt("nodeName") {
        each(e, &path.child("nodeName"), n, dns1123_subdomain(n));
    }
    endpoint_ip(e, &path.child("ip"), ip);
}

fn port(e: &mut Errors, path: &Path, p: &Value, named: bool) {
    let name = p.text("name");
    if name.is_empty() {
        if named {
            e.required(&path.child("name"), "");
        }
    } else {
        each(e, &path.child("name"), name, dns1123_label(name));
    }
    each_int(
        e,
        &path.child("port"),
        p.int("port"),
        port_number(p.int("port")),
    );
    protocol(e, &path.child("protocol"), p.text("protocol"));
    if let Some(a) = p.text_opt("appProtocol") {
        each(e, &path.child("appProtocol"), a, qualified_name(a));
    }
}

fn validate(o: &Value, old: Option<&Value>) -> Errors {
    let mut e = Errors::new();
    if old.is_some_and(|old| same(o.at("subsets"), old.at("subsets"))) {
        return e;
    }
    for (i, s) in o.list("subsets").iter().enumerate() {
        let path = Path::new("subsets").index(i);
        if s.list("addresses").is_empty() && s.list("notReadyAddresses").is_empty() {
            e.required(&path, "must specify `addresses` or `notReadyAddresses`");
        }
        for key in ["addresses", "notReadyAddresses"] {
            for (j, a) in s.list(key).iter().enumerate() {
                address(&mut e, &path.child(key).index(j), a);
            }
        }
        let ports = s.list("ports");
        for (j, p) in ports.iter().enumerate() {
            port(&mut e, &path.child("ports").index(j), p, ports.len() > 1);
        }
    }
    e
}

impl Strategy for Endpoints {
    fn default(&self, o: &mut Value) {
        for s in o.list_mut("subsets") {
            for p in s.list_mut("ports") {
                p.put_if_zero("protocol", "TCP");
            }
        }
    }

    fn prepare_update(&self, _: &Context<'_>, _: &mut Value, _: &Value) {}

    fn validate_create(&self, _: &Context<'_>, o: &Value) -> Errors {
        validate(o, None)
    }

    fn validate_update(&self, _: &Context<'_>, o: &Value, old: &Value) -> Errors {
        validate(o, Some(old))
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn deprecated(&self) -> Option<&'static str> {
        Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
    }

    fn warnings(&self, _: &Context<'_>, o: &Value, _: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        // The controller writes addresses properly.
        if o.label("endpoints.kubernetes.io/managed-by") == Some("endpoint-controller") {
            return out;
        }
        for (i, s) in o.list("subsets").iter().enumerate() {
            for key in ["addresses", "notReadyAddresses"] {
                for (j, a) in s.list(key).iter().enumerate() {
                    let path = Path::new("subsets")
                        .index(i)
                        .child(key)
                        .index(j)
                        .child("ip");
                    warn::ip(&mut out, &path, a.text("ip"));
                }
            }
        }
        out
    }
}

/// Endpoints.
pub fn parts(_: &Config) -> Parts {
    Parts::new(Endpoints)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// CVE-2021-25737: endpoints refuse loopback and link-local addresses.
    #[test]
    fn special_addresses_are_refused() {
        for ip in ["127.0.0.1", "169.254.169.254", "::1", "fe80::1"] {
            let o = json!({"subsets": [{"addresses": [{"ip": ip}], "ports": [{"port": 80, "protocol": "TCP"}]}]});
            let range = match ip {
                "127.0.0.1" | "::1" => "may not be in the loopback range (127.0.0.0/8, ::1/128)",
                _ => "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
            };
            let want = format!("subsets[0].addresses[0].ip: Invalid value: \"{ip}\": {range}");
            assert_eq!(validate(&o, None).aggregate(), want);
        }
        let two = json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}],
            "ports": [{"port": 80, "protocol": "TCP"}, {"port": 0, "protocol": "X", "name": "a"}]}]});
        assert_eq!(
            validate(&two, None).aggregate(),
            "[subsets[0].ports[0].name: Required value, subsets[0].ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive, subsets[0].ports[1].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"]"
        );
        assert!(validate(&two, Some(&two)).is_empty());
    }
}
