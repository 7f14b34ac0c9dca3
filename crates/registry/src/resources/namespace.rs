//! Namespaces: their own finalizers, which the namespace controller removes through `/finalize`.

use api::Status;
use apiserver::resource::{Context, Strategy};
use async_trait::async_trait;
use component::Support;
use serde_json::{Value, json};

use crate::builtin::{Config, Parts};
use crate::check::{dns1123_label, each, qualified_name};
use crate::validate::{Errors, Path};
use crate::value::Tree;

struct Namespace;

const KUBERNETES: &str = "kubernetes";

fn finalizer(e: &mut Errors, path: &Path, name: &str) {
    each(e, path, name, qualified_name(name));
    if !name.contains('/') && !["kubernetes", "orphan", "foregroundDeletion"].contains(&name) {
        e.invalid(
            path,
            name,
            "name is neither a standard finalizer name nor is it fully qualified",
        );
    }
}

fn validate(e: &mut Errors, o: &Value) {
    for f in o.texts("spec.finalizers") {
        finalizer(e, &Path::new("spec").child("finalizers"), f);
    }
}

/// Labels that ask for pod security, which is not there. They are stored, since tools label namespaces without need of it.
fn unguarded(o: &Value, old: Option<&Value>) -> Vec<String> {
    if admission::plugins::support("PodSecurity").is_some_and(Support::is_there) {
        return vec![];
    }
    let mut out = vec![];
    for mode in ["enforce", "audit", "warn"] {
        let key = format!("pod-security.kubernetes.io/{mode}");
        let level = |o: &Value| {
            let level = o.at("metadata.labels").get(&key).and_then(Value::as_str);
            level.unwrap_or_default().to_owned()
        };
        let asked = level(o);
        if !matches!(asked.as_str(), "" | "privileged") && old.map(level).as_ref() != Some(&asked) {
            let name = o.name();
            tracing::warn!(namespace = name, label = %key, value = %asked, "The label is stored and not enforced: there is no pod security admission");
            out.push(format!(
                "metadata.labels[{key}]: {asked:?} is stored, but no pod security admission of this release enforces it"
            ));
        }
    }
    out
}

#[async_trait]
impl Strategy for Namespace {
    fn marks_first(&self) -> bool {
        true
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Option<Vec<String>> {
        Some(dns1123_label(&masked(name, prefix)))
    }

    fn default(&self, o: &mut Value) {
        if !o.name().is_empty() {
            let name = o.name().to_owned();
            let labels = o.slot("metadata.labels");
            if !labels.is_object() {
                *labels = json!({});
            }
            if let Some(map) = labels.as_object_mut() {
                map.insert("kubernetes.io/metadata.name".into(), name.into());
            }
        }
        o.put_if_zero("status.phase", "Active");
    }

    fn prepare_create(&self, _: &Context<'_>, o: &mut Value) {
        o.put("status", json!({"phase": "Active"}));
        let mut finalizers: Vec<Value> = o.list("spec.finalizers").to_vec();
        if !finalizers.iter().any(|f| f == KUBERNETES) {
            finalizers.push(KUBERNETES.into());
        }
        o.put("spec.finalizers", finalizers);
        self.default(o);
    }

    fn prepare_update(&self, ctx: &Context<'_>, o: &mut Value, old: &Value) {
        match ctx.subresource {
            "status" => o.copy_at("spec", old),
            "finalize" => o.copy_at("status", old),
            _ => {
                o.copy_at("spec.finalizers", old);
                o.copy_at("status", old);
            }
        }
    }

    fn validate_create(&self, _: &Context<'_>, o: &Value) -> Errors {
        let mut e = Errors::new();
        validate(&mut e, o);
        e
    }

    fn validate_update(&self, ctx: &Context<'_>, o: &Value, _: &Value) -> Errors {
        let mut e = Errors::new();
        match ctx.subresource {
            "status" => {
                let p = Path::new("status").child("Phase");
                let phase = o.text("status.phase");
                let deleting = o.has("metadata.deletionTimestamp");
                if !deleting && phase != "Active" {
                    e.invalid(
                        &p,
                        phase,
                        "may only be 'Active' if `deletionTimestamp` is empty",
                    );
                } else if deleting && phase != "Terminating" {
                    e.invalid(
                        &p,
                        phase,
                        "may only be 'Terminating' if `deletionTimestamp` is not empty",
                    );
                }
            }
            "finalize" => {
                for (i, f) in o.texts("spec.finalizers").iter().enumerate() {
                    finalizer(&mut e, &Path::new("spec").child("finalizers").index(i), f);
                }
            }
            _ => validate(&mut e, o),
        }
        e
    }

    fn warnings(&self, _: &Context<'_>, o: &Value, old: Option<&Value>) -> Vec<String> {
        unguarded(o, old)
    }

    fn field_values(&self, o: &Value) -> Vec<(&'static str, String)> {
        vec![("status.phase", o.text("status.phase").to_owned())]
    }

    /// The first delete only marks the namespace; the controller empties it.
    async fn begin_delete(&self, ctx: &Context<'_>, o: &mut Value) -> Result<(), Status> {
        if !o.has("metadata.deletionTimestamp") {
            o.put("metadata.deletionTimestamp", ctx.now);
            o.put("status.phase", "Terminating");
        }
        Ok(())
    }

    fn keeps(&self, o: &Value) -> bool {
        !o.list("spec.finalizers").is_empty()
    }
}

/// A prefix as names are checked: a trailing dash stands for what will follow.
pub fn masked(name: &str, prefix: bool) -> String {
    match name.strip_suffix('-') {
        Some(n) if prefix && !n.is_empty() => format!("{n}a"),
        _ => name.to_owned(),
    }
}

/// Namespaces.
pub fn parts(_: &Config) -> Parts {
    Parts::new(Namespace).fields(&["status.phase"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_pod_security_are_warned_of_once() {
        let of = |level: &str| json!({"metadata": {"name": "n", "labels": {"pod-security.kubernetes.io/enforce": level}}});
        assert_eq!(
            unguarded(&of("restricted"), None),
            [
                "metadata.labels[pod-security.kubernetes.io/enforce]: \"restricted\" is stored, but no pod security admission of this release enforces it"
            ]
        );
        assert!(unguarded(&of("restricted"), Some(&of("restricted"))).is_empty());
        assert_eq!(unguarded(&of("restricted"), Some(&of("baseline"))).len(), 1);
        assert!(unguarded(&of("privileged"), None).is_empty());
        assert!(unguarded(&json!({"metadata": {"name": "n"}}), None).is_empty());
    }
}
