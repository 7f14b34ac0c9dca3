//! Resources without rules of their own beyond generation and status.

use std::collections::BTreeSet;

use apiserver::resource::{Context, Plain, Strategy};
use serde_json::Value;

use super::split_status;
use crate::builtin::{Config, Parts};
use crate::check::{dns1123_label, each, path_segment};
use crate::validate::{Errors, Path, affinity, meta, resources, shown};
use crate::value::{Tree, same};
use crate::warn;

/// Nothing special.
pub fn plain(_: &Config) -> Parts {
    Parts::new(Plain)
}

/// A spec with a generation and a status that only `/status` writes.
pub struct SpecStatus;

impl Strategy for SpecStatus {
    fn prepare_create(&self, _: &Context<'_>, object: &mut Value) {
        object.remove_at("status");
    }

    fn prepare_update(&self, ctx: &Context<'_>, object: &mut Value, old: &Value) {
        split_status(ctx, object, old);
    }

    fn has_generation(&self) -> bool {
        true
    }
}

/// A resource described by a few functions.
pub struct Simple {
    /// Fills in defaults.
    pub default: fn(&mut Value),
    /// Checks a new or changed object.
    pub validate: fn(&mut Errors, &Value),
    /// Checks a change of what may not change, after `validate`.
    pub change: fn(&mut Errors, &Value, &Value),
    /// Checks a change in place of `validate` and `change`, where the old object decides.
    pub update: Option<fn(&mut Errors, &Value, &Value)>,
    /// Checks a written status.
    pub status_change: fn(&mut Errors, &Value, &Value),
    /// Whether the kind counts generations.
    pub generation: bool,
    /// What decides about the next generation besides annotations and the like.
    pub content: fn(&Value) -> &Value,
    /// Whether new objects have none yet, although the kind counts them.
    pub late_generation: bool,
    /// Whether there is a status.
    pub status: bool,
    /// Checks a name, if not the usual rule.
    pub name: Option<fn(&str) -> Vec<String>>,
    /// Whether DELETE answers with the object.
    pub returns_deleted: bool,
    /// Whether a PUT without resourceVersion overwrites whatever is there.
    pub unconditional: bool,
    /// Whether a PUT may create.
    pub creates: bool,
    /// Whether `/status` leaves the metadata as it is.
    pub status_keeps_meta: bool,
    /// What to warn of, given the old object on an update.
    pub warn: fn(&Value, Option<&Value>) -> Vec<String>,
    /// What to warn of in a written status.
    pub status_warn: fn(&Value) -> Vec<String>,
}

impl Simple {
    /// A spec without rules.
    pub const fn new(default: fn(&mut Value)) -> Simple {
        Simple {
            default,
            validate: |_, _| {},
            change: |_, _, _| {},
            update: None,
            status_change: |_, _, _| {},
            generation: false,
            content: |o| o.at("spec"),
            late_generation: false,
            status: false,
            name: None,
            returns_deleted: false,
            unconditional: true,
            creates: false,
            status_keeps_meta: false,
            warn: |_, _| vec![],
            status_warn: |_| vec![],
        }
    }
}

impl Strategy for Simple {
    fn validate_name(&self, name: &str, _: bool) -> Option<Vec<String>> {
        self.name.map(|check| check(name))
    }

    fn default(&self, o: &mut Value) {
        (self.default)(o);
    }

    fn starts_generation(&self) -> bool {
        self.generation && !self.late_generation
    }

    fn prepare_create(&self, _: &Context<'_>, o: &mut Value) {
        if self.status {
            o.put("status", serde_json::json!({}));
        }
    }

    fn prepare_update(&self, ctx: &Context<'_>, o: &mut Value, old: &Value) {
        if self.status {
            split_status(ctx, o, old);
            if self.status_keeps_meta && ctx.subresource == "status" {
                reset_meta_for_status(o, old);
            }
        }
    }

    fn allow_create_on_update(&self) -> bool {
        self.creates
    }

    fn allow_unconditional_update(&self) -> bool {
        self.unconditional
    }

    fn has_generation(&self) -> bool {
        self.generation
    }

    fn generation_changed(&self, o: &Value, old: &Value) -> bool {
        !same((self.content)(o), (self.content)(old))
    }

    fn validate_create(&self, _: &Context<'_>, o: &Value) -> Errors {
        let mut e = Errors::new();
        (self.validate)(&mut e, o);
        e
    }

    fn validate_update(&self, ctx: &Context<'_>, o: &Value, old: &Value) -> Errors {
        let mut e = Errors::new();
        if ctx.subresource == "status" {
            (self.status_change)(&mut e, o, old);
        } else if let Some(update) = self.update {
            update(&mut e, o, old);
        } else {
            (self.validate)(&mut e, o);
            (self.change)(&mut e, o, old);
        }
        e
    }

    fn returns_deleted(&self) -> bool {
        self.returns_deleted
    }

    fn warnings(&self, ctx: &Context<'_>, o: &Value, old: Option<&Value>) -> Vec<String> {
        if ctx.subresource == "status" {
            (self.status_warn)(o)
        } else {
            (self.warn)(o, old)
        }
    }
}

/// Labels, annotations, finalizers and owners are not the business of `/status`.
pub fn reset_meta_for_status(o: &mut Value, old: &Value) {
    for key in [
        "metadata.deletionTimestamp",
        "metadata.generation",
        "metadata.labels",
        "metadata.annotations",
        "metadata.finalizers",
        "metadata.ownerReferences",
    ] {
        o.copy_at(key, old);
    }
}

/// `field is immutable` for a field whose value is already printed.
pub fn immutable_shown(e: &mut Errors, path: &Path, shown: &str, new: &Value, old: &Value) {
    if !same(new, old) {
        e.invalid_shown(path, shown, "field is immutable");
    }
}

/// `field is immutable` for a field whose value prints as JSON.
pub fn immutable(e: &mut Errors, path: &Path, new: &Value, old: &Value) {
    if !same(new, old) {
        e.invalid(path, new.clone(), "field is immutable");
    }
}

/// Resources of a spec and a status.
pub fn spec_status(_: &Config) -> Parts {
    Parts::new(SpecStatus)
}

struct ApiService;

impl Strategy for ApiService {
    /// The core group's is `v1.`, which is no DNS name.
    fn validate_name(&self, name: &str, _: bool) -> Option<Vec<String>> {
        Some(path_segment(name))
    }

    fn default(&self, object: &mut Value) {
        if object.has("spec.service") {
            object.put_if_absent("spec.service.port", 443);
        }
    }

    fn prepare_create(&self, _: &Context<'_>, object: &mut Value) {
        object.remove_at("status");
    }

    fn prepare_update(&self, ctx: &Context<'_>, object: &mut Value, old: &Value) {
        split_status(ctx, object, old);
    }

    fn validate_create(&self, _: &Context<'_>, o: &Value) -> Errors {
        let mut e = Errors::new();
        let want = format!("{}.{}", o.text("spec.version"), o.text("spec.group"));
        if o.name() != want {
            e.invalid(
                &Path::new("metadata").child("name"),
                o.name(),
                &format!("must be `spec.version+\".\"+spec.group`: {want:?}"),
            );
        }
        let version = o.text("spec.version");
        each(
            &mut e,
            &Path::new("spec").child("version"),
            version,
            dns1123_label(version),
        );
        e
    }

    fn validate_update(&self, ctx: &Context<'_>, o: &Value, _: &Value) -> Errors {
        if ctx.subresource == "status" {
            Errors::new()
        } else {
            self.validate_create(ctx, o)
        }
    }
}

/// APIServices; what they lead to is the aggregator's.
pub fn api_service(_: &Config) -> Parts {
    Parts::new(ApiService)
}

struct RuntimeClass;

/// Tolerations that pods get: none twice.
fn scheduling_tolerations(e: &mut Errors, path: &Path, o: &Value) {
    let list = o.list("scheduling.tolerations");
    affinity::tolerations(e, path, list);
    let key = |t: &Value| ["key", "operator", "value", "effect"].map(|k| t.text(k).to_owned());
    let mut seen = BTreeSet::new();
    for (i, t) in list.iter().enumerate() {
        if !seen.insert(key(t)) {
            e.duplicate_shown(&path.index(i), &shown::internal("v1", "Toleration", t), "");
        }
    }
}

impl Strategy for RuntimeClass {
    fn validate_create(&self, _: &Context<'_>, o: &Value) -> Errors {
        let mut e = Errors::new();
        let handler = o.text("handler");
        if handler.is_empty() {
            e.required(&Path::new("handler"), "");
        } else {
            each(
                &mut e,
                &Path::new("handler"),
                handler,
                dns1123_label(handler),
            );
        }
        if o.has("overhead") {
            let limits = serde_json::json!({ "limits": o.at("overhead.podFixed") });
            let none = std::collections::BTreeSet::new();
            resources::container(&mut e, &Path::new("overhead"), &limits, &none);
        }
        if o.has("scheduling") {
            let path = Path::new("scheduling");
            meta::labels(
                &mut e,
                &path.child("nodeSelector"),
                o.at("scheduling.nodeSelector"),
            );
            scheduling_tolerations(&mut e, &path.child("tolerations"), o);
        }
        e
    }

    fn validate_update(&self, _: &Context<'_>, o: &Value, old: &Value) -> Errors {
        let mut e = Errors::new();
        if o.at("handler") != old.at("handler") {
            e.invalid(
                &Path::new("handler"),
                o.text("handler"),
                "field is immutable",
            );
        }
        e
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn warnings(&self, _: &Context<'_>, o: &Value, _: Option<&Value>) -> Vec<String> {
        let path = Path::new("scheduling").child("nodeSelector");
        o.map("scheduling.nodeSelector")
            .keys()
            .filter_map(|k| warn::node_label(k))
            .map(|why| format!("{path}: {why}"))
            .collect()
    }
}

/// Runtime classes.
pub fn runtime_class(_: &Config) -> Parts {
    Parts::new(RuntimeClass)
}
