//! Ingress classes, ingresses, network policies and the objects behind service addresses.

use serde_json::{Value, json};

use super::plain::{Simple, immutable};
use crate::builtin::{Config, Parts};
use crate::check::{dns1123_subdomain, each, path_segment, strict_cidr};
use crate::validate::{Errors, Path, meta};
use crate::value::Tree;

/// Ingress classes.
pub fn ingress_class(_: &Config) -> Parts {
    Parts::new(Simple {
        generation: true,
        change: |e, o, old| {
            immutable(
                e,
                &Path::new("spec").child("controller"),
                o.at("spec.controller"),
                old.at("spec.controller"),
            );
        },
        validate: |e, o| {
            let c = o.text("spec.controller");
            let p = Path::new("spec").child("controller");
            match c.split_once('/') {
                _ if c.is_empty() => e.required(&p, ""),
                Some((host, rest)) if !host.is_empty() && !rest.is_empty() => {
                    each(e, &p, host, dns1123_subdomain(host));
                }
                _ => e.invalid(
                    &p,
                    c,
                    "must be a domain-prefixed path (such as \"acme.io/foo\")",
                ),
            }
        },
        ..Simple::new(|o| {
            if o.has("spec.parameters") {
                o.put_if_absent("spec.parameters.scope", "Cluster");
            }
        })
    })
}

fn backend(e: &mut Errors, path: &Path, b: &Value) {
    let (service, resource) = (b.at("service"), b.at("resource"));
    if service.is_null() && resource.is_null() {
        e.required(path, "must specify either a service or resource backend");
        return;
    }
    if !service.is_null() && !resource.is_null() {
        e.invalid(path, "", "cannot set both resource and service backends");
        return;
    }
    if service.is_null() {
        return;
    }
    let p = path.child("service");
    if service.text("name").is_empty() {
        e.required(&p.child("name"), "");
    }
    let port = service.at("port");
    let (name, number) = (port.text("name"), port.int("number"));
    if !name.is_empty() && number != 0 {
        e.invalid(path, "", "cannot set both port name & port number");
    } else if name.is_empty() && number == 0 {
        e.required(path, "port name or number is required");
    }
}

fn validate_ingress(e: &mut Errors, o: &Value) {
    let (spec, path) = (o.at("spec"), Path::new("spec"));
    if spec.list("rules").is_empty() && !spec.has("defaultBackend") {
        e.invalid_omitted(
            &path,
            "either `defaultBackend` or `rules` must be specified",
        );
    }
    if spec.has("defaultBackend") {
        backend(e, &path.child("defaultBackend"), spec.at("defaultBackend"));
    }
    for (i, rule) in spec.list("rules").iter().enumerate() {
        let p = path.child("rules").index(i).child("http");
        if rule.has("http") && rule.list("http.paths").is_empty() {
            e.required(&p.child("paths"), "");
        }
        for (j, at) in rule.list("http.paths").iter().enumerate() {
            ingress_path(e, &p.child("paths").index(j), at);
        }
    }
    if let Some(class) = spec.text_opt("ingressClassName") {
        each(
            e,
            &path.child("ingressClassName"),
            class,
            dns1123_subdomain(class),
        );
    }
}

fn ingress_path(e: &mut Errors, path: &Path, at: &Value) {
    const TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];
    match at.text("pathType") {
        "" => e.required(&path.child("pathType"), "pathType must be specified"),
        "Exact" | "Prefix" => {
            if !at.text("path").starts_with('/') {
                e.invalid(
                    &path.child("path"),
                    at.text("path"),
                    "must be an absolute path",
                );
            }
        }
        "ImplementationSpecific" => {
            if !at.text("path").is_empty() && !at.text("path").starts_with('/') {
                e.invalid(
                    &path.child("path"),
                    at.text("path"),
                    "must be an absolute path",
                );
            }
        }
        other => e.not_supported(&path.child("pathType"), other, &TYPES),
    }
    backend(e, &path.child("backend"), at.at("backend"));
}

/// Ingresses.
pub fn ingress(_: &Config) -> Parts {
    Parts::new(Simple {
        generation: true,
        status: true,
        validate: validate_ingress,
        ..Simple::new(|_| {})
    })
}

fn validate_ip_address(e: &mut Errors, o: &Value) {
    let path = Path::new("spec").child("parentRef");
    let parent = o.at("spec.parentRef");
    if parent.is_null() {
        e.required(&path, "");
        return;
    }
    let group = parent.text("group");
    if !group.is_empty() {
        each(e, &path.child("group"), group, dns1123_subdomain(group));
    }
    for (key, required) in [("resource", true), ("name", true), ("namespace", false)] {
        let v = parent.text(key);
        if !v.is_empty() {
            each(e, &path.child(key), v, path_segment(v));
        } else if required {
            e.required(&path.child(key), "");
        }
    }
}

/// Addresses given to services.
pub fn ip_address(_: &Config) -> Parts {
    Parts::new(Simple {
        validate: validate_ip_address,
        change: |e, o, old| {
            immutable(
                e,
                &Path::new("spec").child("parentRef"),
                o.at("spec.parentRef"),
                old.at("spec.parentRef"),
            );
        },
        name: Some(|name| match name.parse::<std::net::IpAddr>() {
            Ok(ip) if ip.to_string() == name => vec![],
            Ok(ip) => vec![format!("must be in canonical form (\"{ip}\")")],
            Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()],
        }),
        ..Simple::new(|_| {})
    })
    .fields(&["spec.parentRef.name"])
}

fn policy_defaults(o: &mut Value) {
    for direction in ["spec.ingress", "spec.egress"] {
        for rule in o.list_mut(direction) {
            for port in rule.list_mut("ports") {
                port.put_if_absent("protocol", "TCP");
            }
        }
    }
    if o.list("spec.policyTypes").is_empty() {
        let mut types = vec!["Ingress"];
        if !o.list("spec.egress").is_empty() {
            types.push("Egress");
        }
        o.put("spec.policyTypes", json!(types));
    }
}

fn peer(e: &mut Errors, path: &Path, p: &Value) {
    let selectors = ["podSelector", "namespaceSelector"];
    for key in selectors {
        meta::selector(e, &path.child(key), p.at(key));
    }
    let block = path.child("ipBlock");
    if p.has("ipBlock") {
        let cidr = p.text("ipBlock.cidr");
        if cidr.is_empty() {
            e.required(&block.child("cidr"), "");
        } else {
            crate::check::legacy_cidr(e, &block.child("cidr"), cidr);
        }
        for (i, except) in p.texts("ipBlock.except").iter().enumerate() {
            crate::check::legacy_cidr(e, &block.child("except").index(i), except);
        }
    }
    let any = selectors.iter().any(|k| p.has(k));
    if !any && !p.has("ipBlock") {
        e.required(path, "must specify a peer");
    } else if any && p.has("ipBlock") {
        e.forbidden(path, "may not specify both ipBlock and another peer");
    }
}

fn validate_policy(e: &mut Errors, o: &Value) {
    let (spec, path) = (o.at("spec"), Path::new("spec"));
    meta::selector(e, &path.child("podSelector"), spec.at("podSelector"));
    for (direction, ends) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in spec.list(direction).iter().enumerate() {
            let p = path.child(direction).index(i);
            for (j, port) in rule.list("ports").iter().enumerate() {
                policy_port(e, &p.child("ports").index(j), port);
            }
            for (j, end) in rule.list(ends).iter().enumerate() {
                peer(e, &p.child(ends).index(j), end);
            }
        }
    }
    for (i, t) in spec.texts("policyTypes").iter().enumerate() {
        if !["Ingress", "Egress"].contains(t) {
            e.not_supported(
                &path.child("policyTypes").index(i),
                *t,
                &["Egress", "Ingress"],
            );
        }
    }
}

fn policy_port(e: &mut Errors, path: &Path, port: &Value) {
    let protocol = port.text("protocol");
    if !["TCP", "UDP", "SCTP"].contains(&protocol) {
        e.not_supported(&path.child("protocol"), protocol, &["SCTP", "TCP", "UDP"]);
    }
    if port.has("port") {
        crate::validate::container::port_or_name(e, &path.child("port"), port.at("port"));
    }
    if let Some(end) = port.int_opt("endPort") {
        let p = path.child("endPort");
        match port.at("port").as_i64() {
            None if port.has("port") => {
                e.invalid(&p, end, "may not be specified when `port` is non-numeric")
            }
            None => e.required(
                &path.child("port"),
                "must be specified if `endPort` is specified",
            ),
            Some(start) if end < start => {
                e.invalid(&p, end, "must be greater than or equal to `port`");
            }
            Some(_) if end > 65535 => e.invalid(&p, end, "must be between 1 and 65535, inclusive"),
            Some(_) => {}
        }
    }
}

/// Network policies.
pub fn policy(_: &Config) -> Parts {
    Parts::new(Simple {
        generation: true,
        validate: validate_policy,
        ..Simple::new(policy_defaults)
    })
}

fn validate_cidrs(e: &mut Errors, o: &Value) {
    let path = Path::new("spec").child("cidrs");
    let cidrs = o.texts("spec.cidrs");
    if cidrs.is_empty() {
        e.required(&path, "at least one CIDR required");
        return;
    }
    if cidrs.len() > 2 {
        e.invalid(
            &path,
            o.at("spec.cidrs").clone(),
            "may only hold up to 2 values",
        );
        return;
    }
    for (i, c) in cidrs.iter().enumerate() {
        strict_cidr(e, &path.index(i), c);
    }
    if let [a, b] = cidrs[..]
        && crate::check::is_ipv6(a.split('/').next().unwrap_or_default())
            == crate::check::is_ipv6(b.split('/').next().unwrap_or_default())
    {
        e.invalid(
            &path,
            o.at("spec.cidrs").clone(),
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/96",
        );
    }
}

fn change_cidrs(e: &mut Errors, o: &Value, old: &Value) {
    let path = Path::new("spec").child("cidrs");
    let (new, was) = (o.texts("spec.cidrs"), old.texts("spec.cidrs"));
    if new.len() == was.len() || (was.len() == 1 && new.len() == 2) {
        for (i, (n, w)) in new.iter().zip(&was).enumerate() {
            if n != w {
                e.invalid(&path.index(i), *n, "field is immutable");
            }
        }
    } else {
        e.invalid(&path, o.at("spec.cidrs").clone(), "field is immutable");
    }
}

/// Ranges of service addresses.
pub fn service_cidr(_: &Config) -> Parts {
    Parts::new(Simple {
        status: true,
        validate: validate_cidrs,
        change: change_cidrs,
        ..Simple::new(|_| {})
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(check: fn(&mut Errors, &Value), o: &Value) -> usize {
        let mut e = Errors::new();
        check(&mut e, o);
        e.len()
    }

    #[test]
    fn policies() {
        let mut o = json!({"spec": {"podSelector": {}, "egress": [{"ports": [{"port": 1}]}]}});
        policy_defaults(&mut o);
        assert_eq!(o.texts("spec.policyTypes"), ["Ingress", "Egress"]);
        assert_eq!(errors(validate_policy, &o), 0);
        let bad = json!({"spec": {"ingress": [{"from": [{}], "ports": [{"protocol": "x"}]}], "policyTypes": ["x"]}});
        assert_eq!(errors(validate_policy, &bad), 3);
    }

    #[test]
    fn cidrs() {
        let o = |c: &[&str]| json!({"spec": {"cidrs": c}});
        assert_eq!(errors(validate_cidrs, &o(&["10.0.0.0/24", "fd00::/64"])), 0);
        assert_eq!(
            errors(validate_cidrs, &o(&["10.0.0.0/24", "10.1.0.0/24"])),
            1
        );
        assert_eq!(errors(validate_cidrs, &o(&[])), 1);
        let mut e = Errors::new();
        change_cidrs(&mut e, &o(&["10.0.1.0/24"]), &o(&["10.0.0.0/24"]));
        assert_eq!(e.len(), 1);
    }

    #[test]
    fn ingresses() {
        assert_eq!(errors(validate_ingress, &json!({"spec": {}})), 1);
        let o = json!({"spec": {"rules": [{"http": {"paths": [{"path": "x", "pathType": "Exact",
            "backend": {"service": {"name": "s", "port": {"number": 1}}}}]}}]}});
        assert_eq!(errors(validate_ingress, &o), 1);
    }
}
