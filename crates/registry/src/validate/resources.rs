//! Resource names, quantities, requests and limits.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Errors, Path};
use crate::check::{dns1123_label, each, qualified_name};
use crate::quant::{self, Quant};
use crate::value::Tree;

const STANDARD: [&str; 20] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];

const INTEGER: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// `hugepages-…`
pub fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// A resource of Kubernetes itself rather than of a vendor.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A vendor's resource.
pub fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether requests may be below limits.
pub fn overcommit_allowed(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

/// A name that quotas, nodes or containers may use.
pub fn resource_name(e: &mut Errors, path: &Path, name: &str) -> bool {
    let messages = qualified_name(name);
    let good = messages.is_empty();
    each(e, path, name, messages);
    if !good {
        return false;
    }
    if !name.contains('/')
        && !STANDARD.contains(&name)
        && !is_huge_page(name)
        && !name.starts_with("requests.hugepages-")
    {
        e.invalid(
            path,
            name,
            "must be a standard resource type or fully qualified",
        );
        return false;
    }
    true
}

/// A name that containers may use.
pub fn container_resource_name(e: &mut Errors, path: &Path, name: &str) {
    resource_name(e, path, name);
    if !name.contains('/') {
        if !["cpu", "memory", "ephemeral-storage"].contains(&name) && !is_huge_page(name) {
            e.invalid(path, name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended(name) {
        e.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

fn pod_resource_name(e: &mut Errors, path: &Path, name: &str) {
    if resource_name(e, path, name) && !pod_level(name) {
        e.not_supported(path, name, &["cpu", "hugepages-", "memory"]);
    }
}

/// Resources that a pod as a whole may request.
pub fn pod_level(name: &str) -> bool {
    name == "cpu" || name == "memory" || is_huge_page(name)
}

/// Not negative, and whole where the resource is counted.
pub fn quantity(e: &mut Errors, path: &Path, name: &str, q: &Quant) {
    if q.is_negative() {
        e.invalid(path, q.to_string(), "must be greater than or equal to 0");
    }
    if (INTEGER.contains(&name) || is_extended(name)) && !q.is_integer() {
        e.invalid(path, q.to_string(), "must be an integer");
    }
}

/// Not negative, and whole where Kubernetes itself counts.
pub fn counted(e: &mut Errors, path: &Path, name: &str, q: &Quant) {
    if q.is_negative() {
        e.invalid(path, q.to_string(), "must be greater than or equal to 0");
    }
    if INTEGER.contains(&name) && !q.is_integer() {
        e.invalid(path, q.to_string(), "must be an integer");
    }
}

fn huge_page_value(e: &mut Errors, path: &Path, name: &str, q: &Quant) {
    let size = quant::parse(name.trim_start_matches("hugepages-")).unwrap_or_default();
    if !size.is_positive() || !size.is_integer() || !q.is_multiple_of(&size) {
        e.invalid(
            path,
            q.to_string(),
            &format!("{q} is not positive integer multiple of {name}"),
        );
    }
}

/// `resources` of a container.
pub fn container(e: &mut Errors, path: &Path, r: &Value, claims: &BTreeSet<&str>) {
    requirements(e, path, r, container_resource_name, claims);
}

/// `resources` of a pod as a whole.
pub fn pod(e: &mut Errors, path: &Path, r: &Value, claims: &BTreeSet<&str>) {
    requirements(e, path, r, pod_resource_name, claims);
}

fn requirements(
    e: &mut Errors,
    path: &Path,
    r: &Value,
    name: fn(&mut Errors, &Path, &str),
    claims: &BTreeSet<&str>,
) {
    let (limits, requests) = (path.child("limits"), path.child("requests"));
    let (mut compute, mut huge) = (false, false);
    for (key, v) in r.map("limits") {
        let (p, q) = (limits.key(key), quant::of(v));
        name(e, &p, key);
        quantity(e, &p, key, &q);
        if is_huge_page(key) {
            huge = true;
            huge_page_value(e, &p, key, &q);
        }
        compute |= key == "cpu" || key == "memory";
    }
    for (key, v) in r.map("requests") {
        let (p, q) = (requests.key(key), quant::of(v));
        name(e, &p, key);
        quantity(e, &p, key, &q);
        if let Some(limit) = r.map("limits").get(key).map(quant::of) {
            if q != limit && !overcommit_allowed(key) {
                e.invalid(
                    &requests,
                    q.to_string(),
                    &format!("must be equal to {key} limit of {limit}"),
                );
            } else if q > limit {
                e.invalid(
                    &requests,
                    q.to_string(),
                    &format!("must be less than or equal to {key} limit of {limit}"),
                );
            }
        } else if !overcommit_allowed(key) {
            e.required(
                &limits,
                "Limit must be set for non overcommitable resources",
            );
        }
        if is_huge_page(key) {
            huge = true;
            huge_page_value(e, &p, key, &q);
        }
        compute |= key == "cpu" || key == "memory";
    }
    if huge && !compute {
        e.forbidden(path, "HugePages require cpu or memory");
    }
    claim_names(e, &path.child("claims"), r.list("claims"), claims);
}

fn claim_names(e: &mut Errors, path: &Path, claims: &[Value], pod: &BTreeSet<&str>) {
    let mut names: BTreeSet<String> = BTreeSet::new();
    for (i, claim) in claims.iter().enumerate() {
        let here = path.index(i);
        let (name, request) = (claim.text("name"), claim.text("request"));
        if name.is_empty() {
            e.required(&here, "");
            continue;
        }
        if names.contains(name) {
            e.duplicate(&here, name);
        } else {
            let mut key = name.to_owned();
            if !request.is_empty() {
                each(e, &here.child("request"), request, dns1123_label(request));
                key = format!("{name}/{request}");
            }
            if names.contains(&key) {
                e.duplicate(&here, key.as_str());
            } else if request.is_empty()
                && names
                    .range(format!("{name}/")..)
                    .next()
                    .is_some_and(|k| k.split_once('/').is_some_and(|(n, _)| n == name))
            {
                e.duplicate(&here, name);
            }
            names.insert(key);
        }
        if !pod.contains(name) && !e.full() {
            let mut detail = "must be one of the names in pod.spec.resourceClaims".to_owned();
            if pod.is_empty() {
                detail.push_str(" which is empty");
            } else {
                detail.push_str(&format!(
                    ": {}",
                    pod.iter().copied().collect::<Vec<_>>().join(", ")
                ));
            }
            e.not_found_because(&here, name, &detail);
        }
    }
}

/// Quantities of a node's capacity or allocatable.
pub fn node_resources(e: &mut Errors, node: &Value) {
    for key in ["capacity", "allocatable"] {
        for (name, v) in node.at("status").map(key) {
            quantity(
                e,
                &Path::new("status").child(key).child(name),
                name,
                &quant::of(v),
            );
        }
    }
}
