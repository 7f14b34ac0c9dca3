//! Nodes.

use std::collections::BTreeSet;
use std::sync::Arc;

use apiserver::resource::{Context, Strategy, SubresourceKind};
use serde_json::{Value, json};

use super::connect::{Kubelets, NodeProxy};
use crate::builtin::{Config, Parts};
use crate::check::{is_ipv6, legacy_cidr, positive};
use crate::validate::{Errors, Path, affinity, resources, shown};
use crate::value::Tree;
use crate::warn;

struct Node;

/// `podCIDR` is the first of `podCIDRs`; clients may write either.
fn sync_cidrs(o: &mut Value) {
    let one = o.text("spec.podCIDR").to_owned();
    let first = o.texts("spec.podCIDRs").first().map(|s| (*s).to_owned());
    match (one.is_empty(), first) {
        (false, None) => o.put("spec.podCIDRs", json!([one])),
        (false, Some(f)) if f != one => o.put("spec.podCIDRs", json!([one])),
        (true, Some(f)) if !f.is_empty() => o.put("spec.podCIDR", f),
        _ => {}
    }
}

fn taints(e: &mut Errors, o: &Value) {
    // The path is upstream's.
    affinity::taints(
        e,
        &Path::new("metadata").child("taints"),
        o.list("spec.taints"),
    );
}

fn declared_features(e: &mut Errors, o: &Value) {
    let path = Path::new("status").child("declaredFeatures");
    let list = o.texts("status.declaredFeatures");
    for (i, f) in list.iter().enumerate() {
        let mut parts = f.split('/');
        let word = |s: &str, first: fn(&u8) -> bool| {
            s.as_bytes().first().is_some_and(first) && s.bytes().all(|b| b.is_ascii_alphanumeric())
        };
        let good = parts
            .next()
            .is_some_and(|p| word(p, u8::is_ascii_uppercase))
            && parts.all(|p| word(p, u8::is_ascii_alphabetic));
        if f.len() > 253 {
            e.invalid(
                &path.index(i),
                *f,
                &format!("invalid feature name {f:?}: must be no more than 253 characters"),
            );
        } else if !good {
            e.invalid(&path.index(i), *f, &format!(
                "invalid feature name {f:?}: must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes"
            ));
        }
        if let Some(next) = list.get(i + 1) {
            if f == next {
                e.duplicate(&path.index(i + 1), *next);
            } else if f > next {
                e.invalid(
                    &path.index(i + 1),
                    *next,
                    "list must be sorted alphabetically",
                );
            }
        }
    }
}

fn validate(e: &mut Errors, o: &Value) {
    taints(e, o);
    resources::node_resources(e, o);
    if let Some(n) = o.int_opt("status.nodeInfo.swap.capacity") {
        positive(
            e,
            &Path::new("metadata")
                .child("nodeSwapStatus")
                .child("capacity"),
            n,
        );
    }
    declared_features(e, o);
    let cidrs = o.texts("spec.podCIDRs");
    let path = Path::new("spec").child("podCIDRs");
    for (i, c) in cidrs.iter().enumerate() {
        legacy_cidr(e, &path.index(i), c);
    }
    if cidrs.len() > 1 {
        let six = cidrs
            .iter()
            .filter(|c| is_ipv6(c.split('/').next().unwrap_or_default()))
            .count();
        if six != 1 || cidrs.len() > 2 {
            e.invalid(
                &path,
                o.at("spec.podCIDRs").clone(),
                "may specify no more than one CIDR for each IP family",
            );
        }
    }
}

fn validate_change(e: &mut Errors, o: &Value, old: &Value) {
    resources::node_resources(e, o);
    declared_features(e, o);
    let mut seen = BTreeSet::new();
    for (i, a) in o.list("status.addresses").iter().enumerate() {
        if !seen.insert((a.text("type"), a.text("address"))) {
            e.duplicate_shown(
                &Path::new("status").child("addresses").index(i),
                &shown::internal("v1", "NodeAddress", a),
                "",
            );
        }
    }
    let (new_cidrs, old_cidrs) = (o.texts("spec.podCIDRs"), old.texts("spec.podCIDRs"));
    if !old_cidrs.is_empty() {
        let path = Path::new("spec").child("podCIDRs");
        let changed = if old_cidrs.len() == new_cidrs.len() {
            old_cidrs
                .iter()
                .zip(&new_cidrs)
                .filter(|(a, b)| a != b)
                .count()
        } else {
            1
        };
        for _ in 0..changed {
            e.forbidden(
                &path,
                "node updates may not change podCIDR except from \"\" to valid",
            );
        }
    }
    let provider = old.text("spec.providerID");
    if !provider.is_empty() && provider != o.text("spec.providerID") {
        e.forbidden(
            &Path::new("spec").child("providerID"),
            "node updates may not change providerID except from \"\" to valid",
        );
    }
    taints(e, o);
    if o.text("spec.externalID") != old.text("spec.externalID") {
        e.forbidden(&Path::new("spec").child("externalID"), "may not be updated");
    }
}

impl Strategy for Node {
    fn default(&self, o: &mut Value) {
        sync_cidrs(o);
        if !o.has("status.allocatable") && o.has("status.capacity") {
            let capacity = o.at("status.capacity").clone();
            o.put("status.allocatable", capacity);
        }
        o.put_if_absent("spec", json!({}));
        o.put_if_absent("status.daemonEndpoints.kubeletEndpoint.Port", 0);
        for key in [
            "machineID",
            "systemUUID",
            "bootID",
            "kernelVersion",
            "osImage",
            "containerRuntimeVersion",
            "kubeletVersion",
            "kubeProxyVersion",
            "operatingSystem",
            "architecture",
        ] {
            o.put_if_absent(&format!("status.nodeInfo.{key}"), "");
        }
    }

    fn prepare_create(&self, _: &Context<'_>, o: &mut Value) {
        o.remove_at("spec.configSource");
        o.remove_at("status.config");
    }

    fn prepare_update(&self, ctx: &Context<'_>, o: &mut Value, old: &Value) {
        if ctx.subresource == "status" {
            o.copy_at("spec", old);
            if !old.has("status.config") {
                o.remove_at("status.config");
            }
        } else {
            o.copy_at("status", old);
            if !old.has("spec.configSource") {
                o.remove_at("spec.configSource");
            }
        }
    }

    fn validate_create(&self, _: &Context<'_>, o: &Value) -> Errors {
        let mut e = Errors::new();
        validate(&mut e, o);
        e
    }

    fn validate_update(&self, ctx: &Context<'_>, o: &Value, old: &Value) -> Errors {
        let mut e = Errors::new();
        if ctx.subresource != "status" {
            validate(&mut e, o);
        }
        validate_change(&mut e, o, old);
        e
    }

    fn field_values(&self, o: &Value) -> Vec<(&'static str, String)> {
        vec![(
            "spec.unschedulable",
            o.flag("spec.unschedulable").to_string(),
        )]
    }

    fn warnings(&self, _: &Context<'_>, o: &Value, _: Option<&Value>) -> Vec<String> {
        let mut out = vec![];
        if o.has("spec.configSource") {
            out.push("spec.configSource: the feature is removed".into());
        }
        if !o.text("spec.externalID").is_empty() {
            out.push(
                "spec.externalID: this field is deprecated, and is unused by Kubernetes".into(),
            );
        }
        for (i, c) in o.texts("spec.podCIDRs").iter().enumerate() {
            warn::cidr(&mut out, &Path::new("spec").child("podCIDRs").index(i), c);
        }
        out
    }
}

/// Nodes and the proxy to them.
pub fn parts(config: &Config) -> Parts {
    let kubelets = Kubelets {
        preferred: config.kubelet_address_types.clone(),
    };
    Parts::new(Node).fields(&["spec.unschedulable"]).sub(
        "proxy",
        SubresourceKind::Connect(Arc::new(NodeProxy { kubelets })),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cidrs_and_taints() {
        let mut o = json!({"spec": {"podCIDR": "10.0.0.0/24"}});
        Node.default(&mut o);
        assert_eq!(o.texts("spec.podCIDRs"), ["10.0.0.0/24"]);
        let mut e = Errors::new();
        validate(
            &mut e,
            &json!({"spec": {"taints": [{"key": "a", "effect": "Foo"}]}}),
        );
        assert_eq!(
            e.aggregate(),
            "metadata.taints[0].effect: Unsupported value: \"Foo\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\""
        );
        let mut e = Errors::new();
        validate_change(
            &mut e,
            &json!({"spec": {"podCIDRs": ["10.0.1.0/24"]}}),
            &json!({"spec": {"podCIDRs": ["10.0.0.0/24"], "providerID": "x"}}),
        );
        assert_eq!(
            e.aggregate(),
            "[spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid, spec.providerID: Forbidden: node updates may not change providerID except from \"\" to valid]"
        );
    }
}
