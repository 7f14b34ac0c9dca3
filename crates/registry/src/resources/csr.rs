//! Certificate signing requests.

use std::collections::{BTreeMap, BTreeSet};

use apiserver::resource::{Context, Strategy};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::split_status;
use crate::builtin::{Config, Parts};
use crate::validate::{Errors, Path, volumes};
use crate::value::{Tree, same};

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
const APPROVAL: [&str; 2] = ["Approved", "Denied"];
const LASTING: [&str; 3] = ["Approved", "Denied", "Failed"];

struct Csr;

fn decoded(o: &Value, path: &str) -> String {
    let bytes = STANDARD.decode(o.text(path)).unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}

fn conditions<'a>(o: &'a Value, kind: &'a str) -> Vec<&'a Value> {
    o.list("status.conditions")
        .iter()
        .filter(|c| c.text("type") == kind)
        .collect()
}

fn timestamps(o: &mut Value, old: &Value, now: &str) {
    let key = |c: &Value| (c.text("type").to_owned(), c.text("status").to_owned());
    let mut before = BTreeMap::new();
    for b in old.list("status.conditions") {
        if b.has("lastTransitionTime") {
            before
                .entry(key(b))
                .or_insert_with(|| b.at("lastTransitionTime").clone());
        }
    }
    for c in o.list_mut("status.conditions") {
        c.put_if_absent("lastUpdateTime", now);
        if !c.has("lastTransitionTime") {
            let kept = before.get(&key(c)).cloned().unwrap_or(Value::from(now));
            c.put("lastTransitionTime", kept);
        }
    }
}

/// The stored approval conditions, where their number is unchanged.
fn keep_approval(o: &mut Value, old: &Value) {
    for kind in APPROVAL {
        let before: Vec<Value> = conditions(old, kind).into_iter().cloned().collect();
        if conditions(o, kind).len() != before.len() {
            continue;
        }
        let mut before = before.into_iter();
        for c in o.list_mut("status.conditions") {
            if c.text("type") == kind
                && let Some(b) = before.next()
            {
                *c = b;
            }
        }
    }
}

fn usages(e: &mut Errors, path: &Path, list: &[&str]) {
    if list.is_empty() {
        e.required(path, "");
    }
    for (i, u) in list.iter().enumerate() {
        if !USAGES.contains(u) {
            e.not_supported(&path.index(i), *u, &USAGES);
        }
    }
    let mut seen = BTreeSet::new();
    for (i, u) in list.iter().enumerate() {
        if !seen.insert(*u) {
            e.duplicate(&path.index(i), *u);
        }
    }
}

fn check_conditions(e: &mut Errors, o: &Value, old: &Value) {
    const ALL: [&str; 3] = ["False", "True", "Unknown"];
    let path = Path::new("status").child("conditions");
    let has = |o: &Value, kind| !conditions(o, kind).is_empty();
    let both_before = has(old, "Approved") && has(old, "Denied");
    let list = o.list("status.conditions");
    let mut earlier = BTreeSet::new();
    for (i, c) in list.iter().enumerate() {
        let p = path.index(i);
        let (kind, status) = (c.text("type"), c.text("status"));
        if kind.is_empty() {
            e.required(&p.child("type"), "");
        }
        let allowed = if LASTING.contains(&kind) {
            &ALL[1..2]
        } else {
            &ALL[..]
        };
        if status.is_empty() {
            e.required(&p.child("status"), "");
        } else if !allowed.contains(&status) {
            e.not_supported(&p.child("status"), status, allowed);
        }
        let other = match kind {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if !other.is_empty() && !both_before && earlier.contains(other) {
            e.invalid(
                &path,
                kind,
                "Approved and Denied conditions are mutually exclusive",
            );
        }
        if !earlier.insert(kind) {
            e.duplicate(&p.child("type"), kind);
        }
    }
}

fn certificate(text: &str) -> Result<(), String> {
    let blocks = pki::key::pem_blocks(text).map_err(|e| e.to_string())?;
    if blocks.is_empty() {
        return Err("must contain at least one CERTIFICATE PEM block".into());
    }
    blocks.iter().try_for_each(|b| {
        if b.label != "CERTIFICATE" {
            return Err(format!(
                "only CERTIFICATE PEM blocks are allowed, found {:?}",
                b.label
            ));
        }
        pki::cert::facts_der(&b.der)
            .map(|_| ())
            .map_err(|e| e.to_string())
    })
}

fn validate(o: &Value, old: &Value) -> Errors {
    let mut e = Errors::new();
    let (spec, path) = (o.at("spec"), Path::new("spec"));
    let request = decoded(o, "spec.request");
    if !request.contains("-----BEGIN CERTIFICATE REQUEST-----") {
        e.invalid(
            &path.child("request"),
            spec.at("request").clone(),
            "PEM block type must be CERTIFICATE REQUEST",
        );
    } else if let Err(why) = pki::csr::parse(&request) {
        e.invalid(
            &path.child("request"),
            spec.at("request").clone(),
            &why.to_string(),
        );
    }
    usages(&mut e, &path.child("usages"), &spec.texts("usages"));
    let signer = spec.text("signerName");
    if signer == LEGACY_SIGNER && old.text("spec.signerName") != LEGACY_SIGNER {
        e.invalid(
            &path.child("signerName"),
            signer,
            "the legacy signerName is not allowed via this API version",
        );
    } else {
        volumes::signer_name(&mut e, &path.child("signerName"), signer);
    }
    if let Some(s) = spec.int_opt("expirationSeconds").filter(|s| *s < 600) {
        e.invalid(
            &path.child("expirationSeconds"),
            s,
            "may not specify a duration less than 600 seconds (10 minutes)",
        );
    }
    check_conditions(&mut e, o, old);
    let cert = decoded(o, "status.certificate");
    if !cert.is_empty()
        && o.at("status.certificate") != old.at("status.certificate")
        && let Err(why) = certificate(&cert)
    {
        e.invalid(
            &Path::new("status").child("certificate"),
            "<certificate data>",
            &why,
        );
    }
    e
}

fn change(e: &mut Errors, subresource: &str, o: &Value, old: &Value) {
    let path = Path::new("status").child("conditions");
    for kind in LASTING {
        if conditions(o, kind).len() < conditions(old, kind).len() {
            e.forbidden(
                &path,
                &format!("updates may not remove a condition of type {kind:?}"),
            );
        }
    }
    if subresource != "approval" {
        for kind in APPROVAL {
            let (new, was) = (conditions(o, kind), conditions(old, kind));
            if new.len() > was.len() {
                e.forbidden(
                    &path,
                    &format!("updates may not add a condition of type {kind:?}"),
                );
            } else if new.len() == was.len() && new != was {
                e.forbidden(
                    &path,
                    &format!("updates may not modify a condition of type {kind:?}\n"),
                );
            }
        }
    }
    if !same(o.at("status.certificate"), old.at("status.certificate")) {
        let p = Path::new("status").child("certificate");
        if subresource != "status" {
            e.forbidden(&p, "updates may not set certificate content");
        } else if !old.text("status.certificate").is_empty() {
            e.forbidden(&p, "updates may not modify existing certificate content");
        }
    }
}

impl Strategy for Csr {
    fn validate_name(&self, _: &str, _: bool) -> Option<Vec<String>> {
        Some(vec![])
    }

    fn default(&self, o: &mut Value) {
        for c in o.list_mut("status.conditions") {
            c.put_if_zero("status", "True");
        }
    }

    fn prepare_create(&self, ctx: &Context<'_>, o: &mut Value) {
        for key in ["username", "uid", "groups", "extra"] {
            o.remove_at(&format!("spec.{key}"));
        }
        let user = ctx.user;
        o.put("spec.username", user.name.as_str());
        if !user.uid.is_empty() {
            o.put("spec.uid", user.uid.as_str());
        }
        if !user.groups.is_empty() {
            o.put("spec.groups", json!(user.groups));
        }
        if !user.extra.is_empty() {
            o.put("spec.extra", json!(user.extra));
        }
        o.put("status", json!({}));
    }

    fn prepare_update(&self, ctx: &Context<'_>, o: &mut Value, old: &Value) {
        match ctx.subresource {
            "status" => {
                split_status(ctx, o, old);
                keep_approval(o, old);
                timestamps(o, old, ctx.now);
            }
            "approval" => {
                timestamps(o, old, ctx.now);
                let new = o.at("status.conditions").clone();
                o.copy_at("spec", old);
                o.copy_at("status", old);
                if !new.is_null() {
                    o.put("status.conditions", new);
                }
            }
            _ => {
                o.copy_at("spec", old);
                o.copy_at("status", old);
            }
        }
    }

    fn validate_create(&self, _: &Context<'_>, o: &Value) -> Errors {
        validate(o, &Value::Null)
    }

    fn validate_update(&self, ctx: &Context<'_>, o: &Value, old: &Value) -> Errors {
        let mut e = validate(o, old);
        change(&mut e, ctx.subresource, o, old);
        e
    }

    fn field_values(&self, o: &Value) -> Vec<(&'static str, String)> {
        vec![("spec.signerName", o.text("spec.signerName").to_owned())]
    }
}

/// Certificate signing requests.
pub fn parts(_: &Config) -> Parts {
    Parts::new(Csr).fields(&["spec.signerName"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read() {
        let e = validate(
            &json!({"spec": {"request": "eA==", "usages": ["x", "any", "any"], "signerName": LEGACY_SIGNER, "expirationSeconds": 5}}),
            &Value::Null,
        );
        assert_eq!(
            e.aggregate(),
            "[spec.request: Invalid value: \"eA==\": PEM block type must be CERTIFICATE REQUEST, spec.usages[0]: Unsupported value: \"x\": supported values: \"any\", \"cert sign\", \"client auth\", \"code signing\", \"content commitment\", \"crl sign\", \"data encipherment\", \"decipher only\", \"digital signature\", \"email protection\", \"encipher only\", \"ipsec end system\", \"ipsec tunnel\", \"ipsec user\", \"key agreement\", \"key encipherment\", \"microsoft sgc\", \"netscape sgc\", \"ocsp signing\", \"s/mime\", \"server auth\", \"signing\", \"timestamping\", spec.usages[2]: Duplicate value: \"any\", spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed via this API version, spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 600 seconds (10 minutes)]"
        );
    }

    #[test]
    fn only_approval_approves() {
        let old = json!({"status": {}});
        let new = json!({"status": {"conditions": [{"type": "Approved", "status": "True"}]}});
        let errors = |sub, new, old| {
            let mut e = Errors::new();
            change(&mut e, sub, new, old);
            e.aggregate()
        };
        assert_eq!(errors("approval", &new, &old), "[]");
        assert_eq!(
            errors("status", &new, &old),
            "status.conditions: Forbidden: updates may not add a condition of type \"Approved\""
        );
        assert_eq!(
            errors("", &new, &old),
            "status.conditions: Forbidden: updates may not add a condition of type \"Approved\""
        );
        assert_eq!(
            errors("approval", &old, &new),
            "status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""
        );
    }
}
