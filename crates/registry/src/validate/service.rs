//! Services.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::container::{port_or_name, protocol};
use super::{Errors, Path, meta, shown};
use crate::check::{
    dns1123_label, dns1123_subdomain, each, each_int, endpoint_ip, is_ipv6, legacy_cidr, legacy_ip,
    parse_ip_sloppy, port_number, qualified_name,
};
use crate::value::Tree;

/// `None` as the only cluster IP.
pub fn headless(o: &Value) -> bool {
    o.texts("spec.clusterIPs") == ["None"]
}

/// Whether a service can be reached from outside the cluster.
pub fn external(o: &Value) -> bool {
    matches!(o.text("spec.type"), "LoadBalancer" | "NodePort")
        || o.text("spec.type") == "ClusterIP" && !o.list("spec.externalIPs").is_empty()
}

/// Whether load balancers need a health check port on the nodes.
pub fn needs_health_check(o: &Value) -> bool {
    o.text("spec.type") == "LoadBalancer" && o.text("spec.externalTrafficPolicy") == "Local"
}

/// A new service or, with `old`, a changed one.
pub fn validate(o: &Value, old: Option<&Value>) -> Errors {
    let mut e = Errors::new();
    if let Some(old) = old {
        cluster_ip_changes(&mut e, o, old);
        family_changes(&mut e, o, old);
        class(&mut e, o, Some(old));
        if needs_health_check(old)
            && needs_health_check(o)
            && old.int("spec.healthCheckNodePort") != o.int("spec.healthCheckNodePort")
        {
            e.forbidden(
                &Path::new("spec").child("healthCheckNodePort"),
                "field is immutable",
            );
        }
    }
    spec(&mut e, o, old);
    e
}

fn topology_annotations(e: &mut Errors, o: &Value) {
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    const MODE: &str = "service.kubernetes.io/topology-mode";
    if let (Some(hints), Some(mode)) = (o.annotation(HINTS), o.annotation(MODE))
        && hints != mode
    {
        e.invalid(
            &Path::new("metadata").child("annotations").key(MODE),
            mode,
            &format!("must match annotations[{HINTS}] when both are specified"),
        );
    }
}

fn type_rules(e: &mut Errors, path: &Path, o: &Value) {
    let ips = path.child("clusterIPs");
    match o.text("spec.type") {
        t @ ("LoadBalancer" | "NodePort") => {
            if headless(o) {
                e.invalid(
                    &ips.index(0),
                    "None",
                    &format!("may not be set to 'None' for {t} services"),
                );
            }
        }
        "ExternalName" => {
            const WHY: &str = "may not be set for ExternalName services";
            if !o.list("spec.clusterIPs").is_empty() {
                e.forbidden(&ips, WHY);
            }
            if !o.list("spec.ipFamilies").is_empty() {
                e.forbidden(&path.child("ipFamilies"), WHY);
            }
            if o.has("spec.ipFamilyPolicy") {
                e.forbidden(&path.child("ipFamilyPolicy"), WHY);
            }
            let name = o.text("spec.externalName");
            let name = name.strip_suffix('.').unwrap_or(name);
            let p = path.child("externalName");
            if name.is_empty() {
                e.required(&p, "");
            } else {
                each(e, &p, name, dns1123_subdomain(name));
            }
        }
        _ => {}
    }
}

fn ports(e: &mut Errors, path: &Path, o: &Value) {
    let list = o.list("spec.ports");
    let mut names = BTreeSet::new();
    for (i, p) in list.iter().enumerate() {
        let here = path.index(i);
        let name = p.text("name");
        if name.is_empty() {
            if list.len() > 1 {
                e.required(&here.child("name"), "");
            }
        } else {
            each(e, &here.child("name"), name, dns1123_label(name));
            if !names.insert(name) {
                e.duplicate(&here.child("name"), name);
            }
        }
        each_int(
            e,
            &here.child("port"),
            p.int("port"),
            port_number(p.int("port")),
        );
        protocol(e, &here.child("protocol"), p.text("protocol"));
        port_or_name(e, &here.child("targetPort"), p.at("targetPort"));
        if let Some(a) = p.text_opt("appProtocol") {
            each(e, &here.child("appProtocol"), a, qualified_name(a));
        }
    }
}

fn affinity(e: &mut Errors, path: &Path, o: &Value) {
    const TYPES: [&str; 2] = ["ClientIP", "None"];
    let (kind, config) = (
        o.text("spec.sessionAffinity"),
        o.at("spec.sessionAffinityConfig"),
    );
    if kind.is_empty() {
        e.required(&path.child("sessionAffinity"), "");
    } else if !TYPES.contains(&kind) {
        e.not_supported(&path.child("sessionAffinity"), kind, &TYPES);
    }
    let p = path.child("sessionAffinityConfig");
    if kind == "ClientIP" {
        const WHY: &str = "when session affinity type is ClientIP";
        let seconds = p.child("clientIP").child("timeoutSeconds");
        if config.is_null() {
            e.required(&p, WHY);
        } else if !config.has("clientIP") {
            e.required(&p.child("clientIP"), WHY);
        } else if let Some(n) = config.int_opt("clientIP.timeoutSeconds") {
            if !(1..=86400).contains(&n) {
                e.invalid(&seconds, n, "must be greater than 0 and less than 86400");
            }
        } else {
            e.required(&seconds, WHY);
        }
    } else if kind == "None" && !config.is_null() {
        e.forbidden(&p, "must not be set when session affinity is None");
    }
}

/// The rules of `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy` among each other.
pub fn cluster_ips(e: &mut Errors, o: &Value, old: Option<&Value>) {
    const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
    const POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    if o.text("spec.type") == "ExternalName" {
        return;
    }
    let path = Path::new("spec");
    let p = path.child("clusterIPs");
    let (one, all) = (o.text("spec.clusterIP"), o.texts("spec.clusterIPs"));
    let shown = || o.at("spec.clusterIPs").clone();
    match (one.is_empty(), all.first()) {
        (false, None) => e.required(&p, ""),
        (false, Some(first)) if *first != one => {
            e.invalid(&p, shown(), "first value must match `clusterIP`")
        }
        (true, Some(_)) => e.invalid(
            &p,
            shown(),
            "must be empty when `clusterIP` is not specified",
        ),
        _ => {}
    }
    let families = o.texts("spec.ipFamilies");
    let mut seen = BTreeSet::new();
    for (i, f) in families.iter().enumerate() {
        let p = path.child("ipFamilies").index(i);
        if !FAMILIES.contains(f) {
            e.not_supported(&p, *f, &FAMILIES);
        }
        if !seen.insert(*f) {
            e.duplicate(&p, *f);
        }
    }
    if let Some(policy) = o.text_opt("spec.ipFamilyPolicy")
        && !POLICIES.contains(&policy)
    {
        e.not_supported(&path.child("ipFamilyPolicy"), policy, &POLICIES);
    }
    let known = old
        .map(|old| old.texts("spec.clusterIPs"))
        .unwrap_or_default();
    let mut bad = false;
    for (i, ip) in all.iter().enumerate() {
        if i == 0 && *ip == "None" {
            if all.len() > 1 {
                bad = true;
                e.invalid(&p, shown(), "'None' must be the first and only value");
            }
        } else if !known.contains(ip) {
            bad |= !legacy_ip(e, &p.index(i), ip);
        }
    }
    if all.len() > 2 {
        e.invalid(&p, shown(), "may only hold up to 2 values");
    }
    if bad {
        return;
    }
    let six = all.iter().filter(|ip| is_ipv6(ip)).count();
    if all.len() > 1 && (six == 0 || six == all.len()) {
        e.invalid(
            &p,
            shown(),
            "may specify no more than one IP for each IP family",
        );
    }
    if headless(o) {
        return;
    }
    for (i, (ip, family)) in all.iter().zip(&families).enumerate() {
        if FAMILIES.contains(family) && (*family == "IPv6") != is_ipv6(ip) {
            e.invalid(
                &p.index(i),
                *ip,
                &format!("expected an {family} value as indicated by `ipFamilies[{i}]`"),
            );
        }
    }
}

fn unique_ports(e: &mut Errors, path: &Path, o: &Value) {
    let list = o.list("spec.ports");
    let mut nodes = BTreeSet::new();
    for (i, p) in list
        .iter()
        .enumerate()
        .filter(|(_, p)| p.int("nodePort") != 0)
    {
        if !nodes.insert((p.text("protocol"), p.int("nodePort"))) {
            e.duplicate(&path.index(i).child("nodePort"), p.int("nodePort"));
        }
    }
    let mut own = BTreeSet::new();
    for (i, p) in list.iter().enumerate() {
        if !own.insert((p.text("protocol"), p.int("port"))) {
            let key = json!({"protocol": p.text("protocol"), "port": p.int("port")});
            e.duplicate_shown(
                &path.index(i),
                &shown::internal("v1", "ServicePort", &key),
                "",
            );
        }
    }
}

fn source_ranges(e: &mut Errors, o: &Value, old: Option<&Value>) {
    const KEY: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    const WHY: &str = "may only be used when `type` is 'LoadBalancer'";
    let balanced = o.text("spec.type") == "LoadBalancer";
    let ranges = o.texts("spec.loadBalancerSourceRanges");
    if !ranges.is_empty() {
        let p = Path::new("spec").child("LoadBalancerSourceRanges");
        if !balanced {
            e.forbidden(&p, WHY);
        }
        let known: BTreeSet<&str> = old
            .map(|o| o.texts("spec.loadBalancerSourceRanges"))
            .unwrap_or_default()
            .into_iter()
            .map(str::trim)
            .collect();
        for (i, r) in ranges.iter().map(|r| r.trim()).enumerate() {
            if !known.contains(r) {
                legacy_cidr(e, &p.index(i), r);
            }
        }
    } else if let Some(text) = o.annotation(KEY) {
        let p = Path::new("metadata").child("annotations").key(KEY);
        if !balanced {
            e.forbidden(&p, WHY);
        }
        let same = old.is_some_and(|old| old.annotation(KEY) == Some(text));
        if !same && !text.trim().is_empty() {
            for r in text.trim().split(',') {
                legacy_cidr(e, &p, r.trim());
            }
        }
    }
}

fn class(e: &mut Errors, o: &Value, old: Option<&Value>) {
    let p = Path::new("spec").child("loadBalancerClass");
    let balanced = |o: &Value| o.text("spec.type") == "LoadBalancer";
    let own = o.at("spec.loadBalancerClass");
    if let Some(old) = old
        && balanced(old)
        && balanced(o)
        && old.at("spec.loadBalancerClass") != own
    {
        e.invalid(&p, own.clone(), "may not change once set");
    }
    if let Some(c) = own.as_str() {
        if balanced(o) {
            each(e, &p, c, qualified_name(c));
        } else {
            e.forbidden(&p, "may only be used when `type` is 'LoadBalancer'");
        }
    }
}

fn traffic(e: &mut Errors, path: &Path, o: &Value) {
    const POLICIES: [&str; 2] = ["Cluster", "Local"];
    let policy = o.text("spec.externalTrafficPolicy");
    let p = path.child("externalTrafficPolicy");
    if !external(o) {
        if !policy.is_empty() {
            e.invalid(
                &p,
                policy,
                "may only be set for externally-accessible services",
            );
        }
    } else if policy.is_empty() {
        e.required(&p, "");
    } else if !POLICIES.contains(&policy) {
        e.not_supported(&p, policy, &POLICIES);
    }
    let check = o.int("spec.healthCheckNodePort");
    let p = path.child("healthCheckNodePort");
    if needs_health_check(o) {
        // 0 is allocated before the write.
        if check != 0 {
            each_int(e, &p, check, port_number(check));
        }
    } else if check != 0 {
        e.invalid(
            &p,
            check,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        );
    }
    let p = path.child("internalTrafficPolicy");
    match o.text_opt("spec.internalTrafficPolicy") {
        None if ["NodePort", "LoadBalancer", "ClusterIP"].contains(&o.text("spec.type")) => {
            e.required(&p, "")
        }
        Some(v) if !POLICIES.contains(&v) => e.not_supported(&p, v, &POLICIES),
        _ => {}
    }
    const DISTRIBUTIONS: [&str; 3] = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    if let Some(v) = o.text_opt("spec.trafficDistribution")
        && !DISTRIBUTIONS.contains(&v)
    {
        e.not_supported(&path.child("trafficDistribution"), v, &DISTRIBUTIONS);
    }
}

fn spec(e: &mut Errors, o: &Value, old: Option<&Value>) {
    const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    let path = Path::new("spec");
    let kind = o.text("spec.type");
    topology_annotations(e, o);
    if o.list("spec.ports").is_empty() && !headless(o) && kind != "ExternalName" {
        e.required(&path.child("ports"), "");
    }
    type_rules(e, &path, o);
    let p = path.child("ports");
    ports(e, &p, o);
    meta::labels(e, &path.child("selector"), o.at("spec.selector"));
    affinity(e, &path, o);
    cluster_ips(e, o, old);
    let known = old.map(|o| o.texts("spec.externalIPs")).unwrap_or_default();
    for (i, ip) in o.texts("spec.externalIPs").iter().enumerate() {
        let p = path.child("externalIPs").index(i);
        if known.contains(ip) || legacy_ip(e, &p, ip) {
            endpoint_ip(e, &p, ip);
        }
    }
    if kind.is_empty() {
        e.required(&path.child("type"), "");
    } else if !TYPES.contains(&kind) {
        e.not_supported(&path.child("type"), kind, &TYPES);
    }
    if kind == "ClusterIP" {
        for (i, _) in o
            .list("spec.ports")
            .iter()
            .enumerate()
            .filter(|(_, p)| p.int("nodePort") != 0)
        {
            e.forbidden(
                &p.index(i).child("nodePort"),
                "may not be used when `type` is 'ClusterIP'",
            );
        }
    }
    unique_ports(e, &p, o);
    source_ranges(e, o, old);
    match (
        o.has("spec.allocateLoadBalancerNodePorts"),
        kind == "LoadBalancer",
    ) {
        (true, false) => e.forbidden(
            &path.child("allocateLoadBalancerNodePorts"),
            "may only be used when `type` is 'LoadBalancer'",
        ),
        (false, true) => e.required(&Path::new("allocateLoadBalancerNodePorts"), ""),
        _ => {}
    }
    class(e, o, None);
    traffic(e, &path, o);
}

fn cluster_ip_changes(e: &mut Errors, o: &Value, old: &Value) {
    if o.text("spec.type") == "ExternalName"
        || old.text("spec.type") == "ExternalName"
        || headless(o) && headless(old)
    {
        return;
    }
    const SET: &str = "may not change once set";
    let (new, was) = (o.texts("spec.clusterIPs"), old.texts("spec.clusterIPs"));
    let (path, shown) = (Path::new("spec").child("clusterIPs"), || {
        o.at("spec.clusterIPs").clone()
    });
    if was.len() == new.len() {
        for (i, _) in was
            .iter()
            .zip(&new)
            .enumerate()
            .filter(|(_, (a, b))| a != b)
        {
            e.invalid(&path.index(i), shown(), SET);
        }
        return;
    }
    let moved = was.first().zip(new.first()).is_some_and(|(a, b)| a != b);
    if was.len() > new.len() {
        if new.is_empty() {
            e.invalid(
                &path.index(0),
                shown(),
                "primary clusterIP can not be unset",
            );
        }
        if moved {
            e.invalid(&path.index(0), shown(), SET);
        }
        if new.len() == 1 && o.text("spec.ipFamilyPolicy") != "SingleStack" {
            e.invalid(
                &Path::new("spec").child("ipFamilyPolicy"),
                o.at("spec.ipFamilyPolicy").clone(),
                "must be set to 'SingleStack' when releasing the secondary clusterIP",
            );
        }
    } else if moved {
        e.invalid(&path.index(0), shown(), SET);
    }
}

fn family_changes(e: &mut Errors, o: &Value, old: &Value) {
    let none = o.text("spec.type") == "ExternalName" || old.text("spec.type") == "ExternalName";
    if none || headless(o) || headless(old) {
        return;
    }
    const SET: &str = "may not change once set";
    let (new, was) = (o.texts("spec.ipFamilies"), old.texts("spec.ipFamilies"));
    let path = Path::new("spec").child("ipFamilies").index(0);
    let moved = was.first().zip(new.first()).is_some_and(|(a, b)| a != b);
    if was.len() == new.len() {
        for _ in was.iter().zip(&new).filter(|(a, b)| a != b) {
            e.invalid(&path, o.at("spec.ipFamilies").clone(), SET);
        }
    } else if was.len() > new.len() {
        if o.list("spec.clusterIPs").is_empty() {
            e.invalid(
                &path,
                o.at("spec.ipFamilies").clone(),
                "primary ipFamily can not be unset",
            );
        }
        if moved {
            e.invalid(&path, o.at("spec.clusterIPs").clone(), SET);
        }
        if new.len() == 1 && o.text("spec.ipFamilyPolicy") != "SingleStack" {
            e.invalid(
                &Path::new("spec").child("ipFamilyPolicy"),
                o.at("spec.ipFamilyPolicy").clone(),
                "must be set to 'SingleStack' when releasing the secondary ipFamily",
            );
        }
    } else if moved {
        e.invalid(&path, o.at("spec.clusterIPs").clone(), SET);
    }
}

/// The status: addresses of load balancers.
pub fn status(o: &Value, old: &Value) -> Errors {
    let mut e = Errors::new();
    let path = Path::new("status").child("loadBalancer").child("ingress");
    let list = o.list("status.loadBalancer.ingress");
    if o.text("spec.type") != "LoadBalancer" && !list.is_empty() {
        e.forbidden(&path, "may only be used when `spec.type` is 'LoadBalancer'");
        return e;
    }
    let known: BTreeSet<&str> = old
        .list("status.loadBalancer.ingress")
        .iter()
        .map(|i| i.text("ip"))
        .collect();
    for (i, ingress) in list.iter().enumerate() {
        let p = path.index(i);
        let ip = ingress.text("ip");
        if !ip.is_empty() && !known.contains(ip) {
            legacy_ip(&mut e, &p.child("ip"), ip);
        }
        match ingress.text_opt("ipMode") {
            None if !ip.is_empty() => {
                e.required(&p.child("ipMode"), "must be specified when `ip` is set")
            }
            Some(_) if ip.is_empty() => {
                e.forbidden(
                    &p.child("ipMode"),
                    "may not be specified when `ip` is not set",
                );
            }
            Some(m) if m != "VIP" && m != "Proxy" => {
                e.not_supported(&p.child("ipMode"), m, &["Proxy", "VIP"])
            }
            _ => {}
        }
        let host = ingress.text("hostname");
        if !host.is_empty() {
            each(&mut e, &p.child("hostname"), host, dns1123_subdomain(host));
            if parse_ip_sloppy(host).is_some() {
                e.invalid(
                    &p.child("hostname"),
                    host,
                    "must be a DNS name, not an IP address",
                );
            }
        }
    }
    e
}
