//! Ingress classes, ingresses, network policies and the objects behind service addresses.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::plain::{Simple, immutable};
use crate::builtin::{Config, Parts};
use crate::check::{
    dns1123_label, dns1123_subdomain, domain_prefixed_path, each, each_int, legacy_cidr, legacy_ip,
    masked, parse_cidr_sloppy, parse_ip_sloppy, path_segment, port_name, port_number, strict_cidr,
    wildcard_subdomain,
};
use crate::validate::{Errors, Path, meta, shown};
use crate::value::Tree;
use crate::warn;

/// The longest name of an ingress controller.
const MAX_CONTROLLER: usize = 250;

fn reference(e: &mut Errors, path: &Path, r: &Value) {
    if let Some(group) = r.text_opt("apiGroup") {
        each(e, &path.child("apiGroup"), group, dns1123_subdomain(group));
    }
    for key in ["kind", "name"] {
        match r.text(key) {
            "" => e.required(&path.child(key), ""),
            v => each(e, &path.child(key), v, path_segment(v)),
        }
    }
}

fn class_parameters(e: &mut Errors, path: &Path, p: &Value) {
    if p.is_null() {
        return;
    }
    reference(e, path, p);
    let at = path.child("namespace");
    match (p.text_opt("scope"), p.text_opt("namespace")) {
        (None, _) => e.required(&path.child("scope"), ""),
        (Some("Namespace"), None) => {
            e.required(&at, "`parameters.scope` is set to 'Namespace'");
        }
        (Some("Namespace"), Some(n)) => each(e, &at, n, dns1123_label(n)),
        (Some("Cluster"), Some(_)) => e.forbidden(&at, "`parameters.scope` is set to 'Cluster'"),
        (Some("Cluster"), None) => {}
        (Some(other), _) => {
            e.not_supported(&path.child("scope"), other, &["Cluster", "Namespace"]);
        }
    }
}

fn validate_class(e: &mut Errors, o: &Value) {
    let controller = o.text("spec.controller");
    let path = Path::new("spec");
    let p = path.child("controller");
    if controller.len() > MAX_CONTROLLER {
        e.too_long(&p, MAX_CONTROLLER);
    }
    domain_prefixed_path(e, &p, controller);
    class_parameters(e, &path.child("parameters"), o.at("spec.parameters"));
}

/// Ingress classes.
pub fn ingress_class(_: &Config) -> Parts {
    Parts::new(Simple {
        generation: true,
        validate: validate_class,
        update: Some(|e, o, old| {
            immutable(
                e,
                &Path::new("spec").child("controller"),
                o.at("spec.controller"),
                old.at("spec.controller"),
            );
            validate_class(e, o);
        }),
        ..Simple::new(|o| {
            if o.has("spec.parameters") {
                o.put_if_absent("spec.parameters.scope", "Cluster");
            }
        })
    })
}

fn backend(e: &mut Errors, path: &Path, b: &Value) {
    let (service, resource) = (b.at("service"), b.at("resource"));
    match (service.is_null(), resource.is_null()) {
        (true, true) => e.invalid(path, "", "resource or service backend is required"),
        (false, false) => e.invalid(path, "", "cannot set both resource and service backends"),
        (true, false) => reference(e, &path.child("resource"), resource),
        (false, true) => {
            let p = path.child("service");
            match service.text("name") {
                "" => e.required(&p.child("name"), ""),
                name => each(e, &p.child("name"), name, dns1123_label(name)),
            }
            let p = p.child("port");
            match (service.text("port.name"), service.int("port.number")) {
                ("", 0) => e.required(path, "port name or number is required"),
                (name, 0) => each(e, &p.child("name"), name, port_name(name)),
                ("", n) => each_int(e, &p.child("number"), n, port_number(n)),
                _ => e.invalid(path, "", "cannot set both port name & port number"),
            }
        }
    }
}

fn host(e: &mut Errors, path: &Path, host: &str) {
    if host.contains('*') {
        each(e, path, host, wildcard_subdomain(host));
    } else {
        each(e, path, host, dns1123_subdomain(host));
    }
}

/// What an old object is excused for.
#[derive(Clone, Copy)]
struct Excused {
    secret_name: bool,
    wildcard_rule: bool,
}

fn ingress_rule(e: &mut Errors, path: &Path, rule: &Value) {
    if !rule.has("http") {
        return;
    }
    let p = path.child("http").child("paths");
    if rule.list("http.paths").is_empty() {
        e.required(&p, "");
    }
    for (j, at) in rule.list("http.paths").iter().enumerate() {
        ingress_path(e, &p.index(j), at);
    }
}

fn ingress_spec(e: &mut Errors, spec: &Value, excused: Excused) {
    let path = Path::new("spec");
    if spec.list("rules").is_empty() && !spec.has("defaultBackend") {
        e.invalid(
            &path,
            spec.at("rules").clone(),
            "either `defaultBackend` or `rules` must be specified",
        );
    }
    if spec.has("defaultBackend") {
        backend(e, &path.child("defaultBackend"), spec.at("defaultBackend"));
    }
    for (i, rule) in spec.list("rules").iter().enumerate() {
        let (p, name) = (path.child("rules").index(i), rule.text("host"));
        if !name.is_empty() {
            if parse_ip_sloppy(name).is_some() {
                e.invalid(
                    &p.child("host"),
                    name,
                    "must be a DNS name, not an IP address",
                );
            }
            host(e, &p.child("host"), name);
        }
        if !(excused.wildcard_rule && name.contains('*')) {
            ingress_rule(e, &p, rule);
        }
    }
    for (i, tls) in spec.list("tls").iter().enumerate() {
        let p = path.child("tls").index(i);
        for (j, h) in tls.texts("hosts").iter().enumerate() {
            host(e, &p.child("hosts").index(j), h);
        }
        let secret = tls.text("secretName");
        if !secret.is_empty() && !excused.secret_name {
            each(e, &p.child("secretName"), secret, dns1123_subdomain(secret));
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

fn validate_ingress(e: &mut Errors, o: &Value) {
    let excused = Excused {
        secret_name: false,
        wildcard_rule: false,
    };
    ingress_spec(e, o.at("spec"), excused);
    if let (Some(a), Some(class)) = (
        o.annotation(INGRESS_CLASS),
        o.text_opt("spec.ingressClassName"),
    ) && a != class
    {
        e.invalid(
            &Path::new("annotations").child(INGRESS_CLASS),
            a,
            "must match `ingressClassName` when both are specified",
        );
    }
}

fn update_ingress(e: &mut Errors, o: &Value, old: &Value) {
    let bad_rule = |rule: &Value| {
        let mut e = Errors::new();
        ingress_rule(&mut e, &Path::root(), rule);
        !e.is_empty()
    };
    let bad_secret = |tls: &Value| {
        let name = tls.text("secretName");
        !name.is_empty() && !dns1123_subdomain(name).is_empty()
    };
    let rules = old.list("spec.rules").iter();
    let excused = Excused {
        secret_name: old.list("spec.tls").iter().any(bad_secret),
        wildcard_rule: rules.filter(|r| r.text("host").contains('*')).any(bad_rule),
    };
    ingress_spec(e, o.at("spec"), excused);
}

fn ingress_path(e: &mut Errors, path: &Path, at: &Value) {
    const TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];
    let (p, text) = (path.child("path"), at.text("path"));
    match at.text_opt("pathType") {
        None => {
            e.required(&path.child("pathType"), "pathType must be specified");
            return;
        }
        Some("Exact" | "Prefix") => {
            if !text.starts_with('/') {
                e.invalid(&p, text, "must be an absolute path");
            }
            for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                if text.contains(bad) {
                    e.invalid(&p, text, &format!("must not contain '{bad}'"));
                }
            }
            for bad in ["/..", "/."] {
                if text.ends_with(bad) {
                    e.invalid(&p, text, &format!("cannot end with '{bad}'"));
                }
            }
        }
        Some("ImplementationSpecific") => {
            if !text.is_empty() && !text.starts_with('/') {
                e.invalid(&p, text, "must be an absolute path");
            }
        }
        Some(other) => e.not_supported(&path.child("pathType"), other, &TYPES),
    }
    backend(e, &path.child("backend"), at.at("backend"));
}

fn ingress_status(e: &mut Errors, o: &Value, old: &Value) {
    let list = |o: &Value| o.list("status.loadBalancer.ingress").to_vec();
    let old = list(old);
    let known: HashSet<&str> = old.iter().map(|k| k.text("ip")).collect();
    for (i, at) in list(o).iter().enumerate() {
        let path = Path::new("status.loadBalancer.ingress").index(i);
        let ip = at.text("ip");
        if !ip.is_empty() && !known.contains(ip) {
            legacy_ip(e, &path.child("ip"), ip);
        }
        let name = at.text("hostname");
        if !name.is_empty() {
            let p = path.child("hostname");
            each(e, &p, name, dns1123_subdomain(name));
            if parse_ip_sloppy(name).is_some() {
                e.invalid(&p, name, "must be a DNS name, not an IP address");
            }
        }
    }
}

const INGRESS_CLASS: &str = "kubernetes.io/ingress.class";

/// Ingresses.
pub fn ingress(_: &Config) -> Parts {
    Parts::new(Simple {
        generation: true,
        status: true,
        validate: validate_ingress,
        update: Some(update_ingress),
        status_change: ingress_status,
        warn: |o, old| {
            if old.is_some()
                || o.annotation(INGRESS_CLASS).is_none()
                || o.has("spec.ingressClassName")
            {
                return vec![];
            }
            vec![format!(
                "annotation {INGRESS_CLASS:?} is deprecated, please use 'spec.ingressClassName' instead"
            )]
        },
        status_warn: warn::load_balancer,
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

fn peer(e: &mut Errors, path: &Path, p: &Value, known: &HashSet<&str>) {
    let selectors = ["podSelector", "namespaceSelector"];
    for key in selectors {
        meta::selector(e, &path.child(key), p.at(key));
    }
    if p.has("ipBlock") {
        ip_block(e, &path.child("ipBlock"), p.at("ipBlock"), known);
    }
    let any = selectors.iter().any(|k| p.has(k));
    if !any && !p.has("ipBlock") {
        e.required(path, "must specify a peer");
    } else if any && p.has("ipBlock") {
        e.forbidden(path, "may not specify both ipBlock and another peer");
    }
}

/// A block of addresses; those that the old policy had anywhere are not checked again.
fn ip_block(e: &mut Errors, path: &Path, b: &Value, known: &HashSet<&str>) {
    let cidr = b.text("cidr");
    if cidr.is_empty() {
        e.required(&path.child("cidr"), "");
        return;
    }
    let check = |e: &mut Errors, p: &Path, c: &str| {
        if !known.contains(c) {
            legacy_cidr(e, p, c);
        }
        parse_cidr_sloppy(c)
    };
    let Some((ip, len)) = check(e, &path.child("cidr"), cidr) else {
        return;
    };
    for (i, except) in b.texts("except").iter().enumerate() {
        let p = path.child("except").index(i);
        if let Some((inner, inner_len)) = check(e, &p, except) {
            let inside = ip.is_ipv4() == inner.is_ipv4() && masked(inner, len) == masked(ip, len);
            if !inside || len >= inner_len {
                e.invalid(&p, *except, "must be a strict subset of `cidr`");
            }
        }
    }
}

fn policy_spec(e: &mut Errors, o: &Value, known: &HashSet<&str>) {
    let (spec, path) = (o.at("spec"), Path::new("spec"));
    meta::selector(e, &path.child("podSelector"), spec.at("podSelector"));
    for (direction, ends) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in spec.list(direction).iter().enumerate() {
            let p = path.child(direction).index(i);
            for (j, port) in rule.list("ports").iter().enumerate() {
                policy_port(e, &p.child("ports").index(j), port);
            }
            for (j, end) in rule.list(ends).iter().enumerate() {
                peer(e, &p.child(ends).index(j), end, known);
            }
        }
    }
    let types = spec.texts("policyTypes");
    let path = path.child("policyTypes");
    if types.len() > 2 {
        e.invalid(
            &path,
            spec.at("policyTypes").clone(),
            "may not specify more than two policyTypes",
        );
        return;
    }
    for (i, t) in types.iter().enumerate() {
        if !["Ingress", "Egress"].contains(t) {
            e.not_supported(&path.index(i), *t, &["Ingress", "Egress"]);
        }
    }
}

fn policy_port(e: &mut Errors, path: &Path, port: &Value) {
    if let Some(protocol) = port.text_opt("protocol")
        && !["TCP", "UDP", "SCTP"].contains(&protocol)
    {
        e.not_supported(&path.child("protocol"), protocol, &["TCP", "UDP", "SCTP"]);
    }
    let (p, end) = (path.child("endPort"), port.int_opt("endPort"));
    match port.at("port") {
        Value::Null => {
            if let Some(end) = end {
                e.invalid(&p, end, "may not be specified when `port` is not specified");
            }
        }
        Value::String(name) => {
            if let Some(end) = end {
                e.invalid(&p, end, "may not be specified when `port` is non-numeric");
            }
            each(e, &path.child("port"), name, port_name(name));
        }
        number => {
            let n = number.as_i64().unwrap_or_default();
            each_int(e, &path.child("port"), n, port_number(n));
            if let Some(end) = end {
                if end < n {
                    e.invalid(&p, n, "must be greater than or equal to `port`");
                }
                each_int(e, &p, end, port_number(end));
            }
        }
    }
}

fn blocks(o: &Value) -> HashSet<&str> {
    let mut out = HashSet::new();
    for (direction, ends) in [("spec.ingress", "from"), ("spec.egress", "to")] {
        for end in o.list(direction).iter().flat_map(|r| r.list(ends)) {
            if end.has("ipBlock") {
                out.insert(end.text("ipBlock.cidr"));
                out.extend(end.texts("ipBlock.except"));
            }
        }
    }
    out
}

fn policy_warnings(o: &Value, _: Option<&Value>) -> Vec<String> {
    let mut out = vec![];
    for (direction, ends) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in o.at("spec").list(direction).iter().enumerate() {
            for (j, end) in rule.list(ends).iter().enumerate() {
                let block = end.at("ipBlock");
                if block.is_null() {
                    continue;
                }
                let path = Path::new("spec").child(direction).index(i);
                let path = path.child(ends).index(j).child("ipBlock");
                warn::cidr(&mut out, &path.child("cidr"), block.text("cidr"));
                for (k, except) in block.texts("except").iter().enumerate() {
                    warn::cidr(&mut out, &path.child("except").index(k), except);
                }
            }
        }
    }
    out
}

/// Network policies.
pub fn policy(_: &Config) -> Parts {
    Parts::new(Simple {
        generation: true,
        validate: |e, o| policy_spec(e, o, &HashSet::new()),
        update: Some(|e, o, old| policy_spec(e, o, &blocks(old))),
        warn: policy_warnings,
        ..Simple::new(policy_defaults)
    })
}

fn validate_cidrs(e: &mut Errors, o: &Value) {
    let path = Path::new("spec").child("cidrs");
    let cidrs = o.texts("spec.cidrs");
    let shown = o.at("spec.cidrs").clone();
    if cidrs.is_empty() {
        e.required(&path, "at least one CIDR required");
        return;
    }
    if cidrs.len() > 2 {
        let spec = shown::internal("networking.k8s.io/v1", "ServiceCIDRSpec", o.at("spec"));
        e.invalid_shown(&path, &spec, "may only hold up to 2 values");
        return;
    }
    let mut good = true;
    for (i, c) in cidrs.iter().enumerate() {
        good &= strict_cidr(e, &path.index(i), c);
    }
    let six = |c: &str| crate::check::is_ipv6(c.split('/').next().unwrap_or_default());
    if let [a, b] = cidrs[..]
        && good
        && six(a) == six(b)
    {
        e.invalid(
            &path,
            shown,
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
        );
    }
}

/// A range stays; a second one of the other family may join it.
fn change_cidrs(e: &mut Errors, o: &Value, old: &Value) {
    let path = Path::new("spec").child("cidrs");
    let (new, was) = (o.texts("spec.cidrs"), old.texts("spec.cidrs"));
    let grown = was.len() == 1 && new.len() == 2;
    if new.len() != was.len() && !grown {
        e.invalid(&path, o.at("spec.cidrs").clone(), "field is immutable");
        return;
    }
    for (i, (n, w)) in new.iter().zip(&was).enumerate() {
        if n != w {
            e.invalid(&path.index(i), *n, "field is immutable");
        }
    }
    if grown {
        validate_cidrs(e, o);
    }
}

/// Ranges of service addresses.
pub fn service_cidr(_: &Config) -> Parts {
    Parts::new(Simple {
        status: true,
        validate: validate_cidrs,
        update: Some(change_cidrs),
        ..Simple::new(|_| {})
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(check: fn(&mut Errors, &Value), o: &Value) -> String {
        let mut e = Errors::new();
        check(&mut e, o);
        e.aggregate()
    }

    #[test]
    fn policies() {
        let mut o = json!({"spec": {"podSelector": {}, "egress": [{"ports": [{"port": 1}]}]}});
        policy_defaults(&mut o);
        assert_eq!(o.texts("spec.policyTypes"), ["Ingress", "Egress"]);
        assert_eq!(errors(|e, o| policy_spec(e, o, &HashSet::new()), &o), "[]");
        let bad = json!({"spec": {"ingress": [{"from": [{}], "ports": [{"protocol": "x"}]}], "policyTypes": ["x"]}});
        assert_eq!(
            errors(|e, o| policy_spec(e, o, &HashSet::new()), &bad),
            "[spec.ingress[0].ports[0].protocol: Unsupported value: \"x\": supported values: \"TCP\", \"UDP\", \"SCTP\", spec.ingress[0].from[0]: Required value: must specify a peer, spec.policyTypes[0]: Unsupported value: \"x\": supported values: \"Ingress\", \"Egress\"]"
        );
    }

    #[test]
    fn cidrs() {
        let o = |c: &[&str]| json!({"spec": {"cidrs": c}});
        assert_eq!(
            errors(validate_cidrs, &o(&["10.0.0.0/24", "fd00::/64"])),
            "[]"
        );
        assert_eq!(
            errors(validate_cidrs, &o(&["10.0.0.0/24", "10.1.0.0/24"])),
            "spec.cidrs: Invalid value: [\"10.0.0.0/24\",\"10.1.0.0/24\"]: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"
        );
        assert_eq!(
            errors(validate_cidrs, &o(&[])),
            "spec.cidrs: Required value: at least one CIDR required"
        );
        let mut e = Errors::new();
        change_cidrs(&mut e, &o(&["10.0.1.0/24"]), &o(&["10.0.0.0/24"]));
        assert_eq!(
            e.aggregate(),
            "spec.cidrs[0]: Invalid value: \"10.0.1.0/24\": field is immutable"
        );
    }

    #[test]
    fn ingresses() {
        assert_eq!(
            errors(validate_ingress, &json!({"spec": {}})),
            "spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"
        );
        let o = json!({"spec": {"rules": [{"http": {"paths": [{"path": "x", "pathType": "Exact",
            "backend": {"service": {"name": "s", "port": {"number": 1}}}}]}}]}});
        assert_eq!(
            errors(validate_ingress, &o),
            "spec.rules[0].http.paths[0].path: Invalid value: \"x\": must be an absolute path"
        );
    }
}
