//! Workload controllers: deployments, replica sets, stateful sets, daemon sets, replication controllers and what they
//! keep.

use std::collections::HashSet;
use std::sync::Arc;

use apiserver::resource::{Context, Conversion, Strategy, SubresourceKind};
use serde_json::{Value, json};

use super::scale::Scale;
use super::split_status;
use crate::builtin::{Config, Parts};
use crate::check::{dns1123_label, each, non_negative, percent};
use crate::defaults;
use crate::resources::namespace::masked;
use crate::validate::{Errors, Path, meta, pod, pod_spec, shown, volumes};
use crate::value::{Tree, same};
use crate::warn;

/// A label selector in an error.
pub fn shown_selector(s: &Value) -> String {
    shown::served("v1", "LabelSelector", s)
}

/// Whether a selector says what can be asked.
fn convertible(s: &Value) -> bool {
    let mut e = Errors::new();
    meta::selector(&mut e, &Path::root(), s);
    e.is_empty()
}

/// A map in an error: `null` when absent.
fn shown_map(v: &Value) -> String {
    v.to_string()
}

/// `spec.selector` of an apps workload: required and not empty.
fn selector(e: &mut Errors, path: &Path, spec: &Value, what: &str) {
    let s = spec.at("selector");
    if s.is_null() {
        e.required(path, "");
        return;
    }
    meta::selector(e, path, s);
    if meta::selector_is_empty(s) {
        e.invalid_shown(
            path,
            &shown_selector(s),
            &format!("empty selector is invalid for {what}"),
        );
    }
}

fn template_matches(e: &mut Errors, path: &Path, spec: &Value, unclear: &str) {
    let s = spec.at("selector");
    if !convertible(s) {
        e.invalid_shown(
            &Path::new("spec").child("selector"),
            &shown_selector(s),
            unclear,
        );
        return;
    }
    let labels = spec.at("template.metadata.labels");
    let empty = !s.is_null() && meta::selector_is_empty(s);
    if !empty && !meta::selector_matches(s, labels) {
        e.invalid_shown(
            &path.child("metadata").child("labels"),
            &shown_map(labels),
            "`selector` does not match template `labels`",
        );
    }
}

/// The template of a controller that keeps its pods running.
fn always_template(e: &mut Errors, path: &Path, spec: &Value, kind: &str) {
    template_matches(e, path, spec, "invalid label selector");
    pod_spec::template(e, path, spec.at("template"));
    always(e, path, spec.at("template.spec"), kind);
}

fn always(e: &mut Errors, path: &Path, pod: &Value, kind: &str) {
    let p = path.child("spec");
    if pod.text("restartPolicy") != "Always" {
        e.not_supported(
            &p.child("restartPolicy"),
            pod.text("restartPolicy"),
            &["Always"],
        );
    }
    if pod.has("activeDeadlineSeconds") {
        e.forbidden(
            &p.child("activeDeadlineSeconds"),
            &format!("activeDeadlineSeconds in {kind} is not Supported"),
        );
    }
}

fn counts(e: &mut Errors, path: &Path, v: &Value, keys: &[&str]) {
    for key in keys {
        if let Some(n) = v.int_opt(key) {
            non_negative(e, &path.child(key), n);
        }
    }
}

fn not_above(e: &mut Errors, path: &Path, v: &Value, keys: &[&str], limit: &str, why: &str) {
    for key in keys {
        if v.int(key) > v.int(limit) {
            e.invalid(&path.child(key), v.int(key), why);
        }
    }
}

/// A number or a percentage, not negative.
pub fn int_or_percent(e: &mut Errors, path: &Path, v: &Value) {
    match v {
        Value::String(s) => each(e, path, s, percent(s)),
        other => non_negative(e, path, other.as_i64().unwrap_or_default()),
    }
}

fn amount(v: &Value) -> i64 {
    match v {
        Value::String(s) => s.strip_suffix('%').unwrap_or(s).parse().unwrap_or_default(),
        other => other.as_i64().unwrap_or_default(),
    }
}

/// At most `100%`.
pub fn at_most_whole(e: &mut Errors, path: &Path, v: &Value) {
    if v.as_str().is_some_and(|s| percent(s).is_empty()) && amount(v) > 100 {
        e.invalid(path, v.clone(), "must not be greater than 100%");
    }
}

fn immutable_selector(e: &mut Errors, new: &Value, old: &Value) {
    if !same(new.at("spec.selector"), old.at("spec.selector")) {
        e.invalid_shown(
            &Path::new("spec").child("selector"),
            &shown_selector(new.at("spec.selector")),
            "field is immutable",
        );
    }
}

fn collision_count(e: &mut Errors, new: &Value, old: &Value) {
    if let Some(o) = old.int_opt("status.collisionCount")
        && new.int("status.collisionCount") < o
    {
        e.invalid(
            &Path::new("status").child("collisionCount"),
            new.int("status.collisionCount"),
            "cannot be decremented",
        );
    }
}

/// What the workloads share: one of these per kind.
struct Workload {
    default: fn(&mut Value),
    validate: fn(&mut Errors, &Value, bool),
    change: fn(&mut Errors, &Value, &Value),
    status: fn(&mut Errors, &Value, &Value),
    label: bool,
    replicas_field: bool,
    /// Whether `/status` leaves the labels as they are.
    status_keeps_labels: bool,
    /// Whether what may not change is checked before the rest.
    change_first: bool,
    /// Whether what belongs to a deleted object stays unless asked otherwise.
    orphans: bool,
    /// What to warn of, given the old object on an update.
    warn: fn(&Value, Option<&Value>) -> Vec<String>,
}

fn template_warnings(o: &Value, old: Option<&Value>) -> Vec<String> {
    let grown = |old: &Value| old.int("metadata.generation") != o.int("metadata.generation");
    if old.is_none_or(grown) {
        let path = Path::new("spec").child("template");
        warn::pod::pod(&path, o.at("spec.template"))
    } else {
        vec![]
    }
}

/// Of a kind whose name begins the names of its pods.
fn named_warnings(o: &Value, old: Option<&Value>) -> Vec<String> {
    let mut out = vec![];
    if old.is_none() {
        warn::name(&mut out, o, "Pod names and hostnames");
    }
    out.extend(template_warnings(o, old));
    out
}

fn stateful_warnings(o: &Value, old: Option<&Value>) -> Vec<String> {
    let mut out = template_warnings(o, old);
    let path = Path::new("spec").child("volumeClaimTemplates");
    for (i, c) in o.list("spec.volumeClaimTemplates").iter().enumerate() {
        let p = path.index(i);
        let p = if old.is_some() { p.child("Spec") } else { p };
        warn::claim_spec(&mut out, &p, c.at("spec"));
    }
    if o.int("spec.revisionHistoryLimit") < 0 {
        out.push("spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended".into());
    }
    out
}

impl Strategy for Workload {
    fn validate_name(&self, name: &str, prefix: bool) -> Option<Vec<String>> {
        self.label.then(|| dns1123_label(&masked(name, prefix)))
    }

    fn default(&self, o: &mut Value) {
        (self.default)(o);
    }

    fn prepare_create(&self, _: &Context<'_>, o: &mut Value) {
        o.put("status", json!({}));
    }

    fn prepare_update(&self, ctx: &Context<'_>, o: &mut Value, old: &Value) {
        split_status(ctx, o, old);
        if ctx.subresource == "status" && self.status_keeps_labels {
            o.copy_at("metadata.labels", old);
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn generation_changed(&self, o: &Value, old: &Value) -> bool {
        !same(o.at("spec"), old.at("spec"))
            || !same(o.at("metadata.annotations"), old.at("metadata.annotations"))
                && o.text("kind") == "Deployment"
    }

    fn validate_create(&self, _: &Context<'_>, o: &Value) -> Errors {
        let mut e = Errors::new();
        (self.validate)(&mut e, o, true);
        e
    }

    fn validate_update(&self, ctx: &Context<'_>, o: &Value, old: &Value) -> Errors {
        let mut e = Errors::new();
        if ctx.subresource == "status" {
            (self.status)(&mut e, o, old);
        } else {
            if self.change_first {
                (self.change)(&mut e, o, old);
            }
            (self.validate)(&mut e, o, false);
            if !self.change_first {
                (self.change)(&mut e, o, old);
            }
        }
        e
    }

    fn orphans_by_default(&self) -> bool {
        self.orphans
    }

    fn field_values(&self, o: &Value) -> Vec<(&'static str, String)> {
        if self.replicas_field {
            vec![("status.replicas", o.int("status.replicas").to_string())]
        } else {
            vec![]
        }
    }

    fn warnings(&self, ctx: &Context<'_>, o: &Value, old: Option<&Value>) -> Vec<String> {
        if ctx.subresource == "status" {
            return vec![];
        }
        (self.warn)(o, old)
    }
}

fn template_defaults(o: &mut Value) {
    if !o.has("spec") {
        o.put("spec", json!({}));
    }
    if let Some(t) = o.at_mut("spec.template") {
        defaults::pod::template(t);
    }
}

fn scale(plain_selector: bool) -> SubresourceKind {
    SubresourceKind::Mapped(Arc::new(Scale { plain_selector }))
}

fn default_deployment(o: &mut Value) {
    template_defaults(o);
    o.put_if_absent("spec.replicas", 1);
    o.put_if_zero("spec.strategy.type", "RollingUpdate");
    if o.text("spec.strategy.type") == "RollingUpdate" {
        o.put_if_absent("spec.strategy.rollingUpdate.maxUnavailable", "25%");
        o.put_if_absent("spec.strategy.rollingUpdate.maxSurge", "25%");
    }
    o.put_if_absent("spec.revisionHistoryLimit", 10);
    o.put_if_absent("spec.progressDeadlineSeconds", 600);
}

fn deployment_strategy(e: &mut Errors, path: &Path, s: &Value) {
    let p = path.child("rollingUpdate");
    let r = s.at("rollingUpdate");
    match s.text("type") {
        "Recreate" => {
            if !r.is_null() {
                e.forbidden(
                    &p,
                    "may not be specified when strategy `type` is 'Recreate'",
                );
            }
        }
        "RollingUpdate" => {
            if r.is_null() {
                e.required(&p, "this should be defaulted and never be nil");
                return;
            }
            let (unavailable, surge) = (r.at("maxUnavailable"), r.at("maxSurge"));
            int_or_percent(e, &p.child("maxUnavailable"), unavailable);
            int_or_percent(e, &p.child("maxSurge"), surge);
            if amount(unavailable) == 0 && amount(surge) == 0 {
                e.invalid(
                    &p.child("maxUnavailable"),
                    unavailable.clone(),
                    "may not be 0 when `maxSurge` is 0",
                );
            }
            at_most_whole(e, &p.child("maxUnavailable"), unavailable);
        }
        _ => {
            let shown = shown::internal("apps/v1", "DeploymentStrategy", s);
            e.not_supported_shown(path, &shown, "\"Recreate\", \"RollingUpdate\"");
        }
    }
}

fn validate_deployment(e: &mut Errors, o: &Value, _: bool) {
    let (spec, path) = (o.at("spec"), Path::new("spec"));
    counts(e, &path, spec, &["replicas"]);
    selector(e, &path.child("selector"), spec, "deployment");
    always_template(e, &path.child("template"), spec, "ReplicaSet");
    deployment_strategy(e, &path.child("strategy"), spec.at("strategy"));
    counts(e, &path, spec, &["minReadySeconds", "revisionHistoryLimit"]);
    if let Some(deadline) = spec.int_opt("progressDeadlineSeconds") {
        let p = path.child("progressDeadlineSeconds");
        non_negative(e, &p, deadline);
        if deadline <= spec.int("minReadySeconds") {
            e.invalid(&p, deadline, "must be greater than minReadySeconds");
        }
    }
}

const ABOVE_REPLICAS: &str = "cannot be greater than status.replicas";

fn deployment_status(e: &mut Errors, o: &Value, old: &Value) {
    let (s, p) = (o.at("status"), Path::new("status"));
    counts(
        e,
        &p,
        s,
        &[
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "terminatingReplicas",
            "collisionCount",
        ],
    );
    not_above(
        e,
        &p,
        s,
        &["updatedReplicas", "readyReplicas", "availableReplicas"],
        "replicas",
        ABOVE_REPLICAS,
    );
    not_above(
        e,
        &p,
        s,
        &["availableReplicas"],
        "readyReplicas",
        "cannot be greater than readyReplicas",
    );
    collision_count(e, o, old);
}

/// Deployments.
pub fn deployment(_: &Config) -> Parts {
    Parts::new(Workload {
        default: default_deployment,
        validate: validate_deployment,
        change: immutable_selector,
        status: deployment_status,
        label: false,
        replicas_field: false,
        status_keeps_labels: true,
        change_first: false,
        orphans: false,
        warn: named_warnings,
    })
    .sub("scale", scale(false))
}

fn validate_replica_set(e: &mut Errors, o: &Value, _: bool) {
    let (spec, path) = (o.at("spec"), Path::new("spec"));
    counts(e, &path, spec, &["replicas", "minReadySeconds"]);
    selector(e, &path.child("selector"), spec, "deployment");
    always_template(e, &path.child("template"), spec, "ReplicaSet");
}

fn replica_set_status(e: &mut Errors, o: &Value, _: &Value) {
    let (s, p) = (o.at("status"), Path::new("status"));
    counts(
        e,
        &p,
        s,
        &[
            "replicas",
            "fullyLabeledReplicas",
            "readyReplicas",
            "availableReplicas",
            "observedGeneration",
            "terminatingReplicas",
        ],
    );
    not_above(
        e,
        &p,
        s,
        &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"],
        "replicas",
        ABOVE_REPLICAS,
    );
    not_above(
        e,
        &p,
        s,
        &["availableReplicas"],
        "readyReplicas",
        "cannot be greater than readyReplicas",
    );
}

/// ReplicaSets.
pub fn replica_set(_: &Config) -> Parts {
    Parts::new(Workload {
        default: |o| {
            template_defaults(o);
            o.put_if_absent("spec.replicas", 1);
        },
        validate: validate_replica_set,
        change: immutable_selector,
        status: replica_set_status,
        label: false,
        replicas_field: true,
        status_keeps_labels: false,
        change_first: false,
        orphans: false,
        warn: named_warnings,
    })
    .sub("scale", scale(false))
}

fn default_replication_controller(o: &mut Value) {
    template_defaults(o);
    o.put_if_absent("spec.replicas", 1);
    let labels = o.at("spec.template.metadata.labels").clone();
    if !labels.is_blank() {
        o.put_if_zero("spec.selector", labels.clone());
        o.put_if_zero("metadata.labels", labels);
    }
}

fn validate_replication_controller(e: &mut Errors, o: &Value, _: bool) {
    let (spec, path) = (o.at("spec"), Path::new("spec"));
    counts(e, &path, spec, &["minReadySeconds"]);
    let s = spec.map("selector");
    if s.is_empty() {
        e.required(&path.child("selector"), "");
    }
    counts(e, &path, spec, &["replicas"]);
    let t = path.child("template");
    if !spec.has("template") {
        e.required(&t, "");
        return;
    }
    let labels = spec.map("template.metadata.labels");
    if s.iter().any(|(k, v)| labels.get(k) != Some(v)) {
        e.invalid_shown(
            &t.child("metadata").child("labels"),
            &shown_map(spec.at("template.metadata.labels")),
            "`selector` does not match template `labels`",
        );
    }
    pod_spec::template(e, &t, spec.at("template"));
    always(e, &t, spec.at("template.spec"), "ReplicationController");
}

/// ReplicationControllers.
pub fn replication_controller(_: &Config) -> Parts {
    Parts::new(Workload {
        default: default_replication_controller,
        validate: validate_replication_controller,
        change: |_, _, _| {},
        status: replica_set_status,
        label: false,
        replicas_field: true,
        status_keeps_labels: false,
        change_first: false,
        orphans: true,
        warn: named_warnings,
    })
    .fields(&["status.replicas"])
    .sub("scale", scale(true))
}

fn default_stateful_set(o: &mut Value) {
    template_defaults(o);
    o.put_if_zero("spec.podManagementPolicy", "OrderedReady");
    if o.text("spec.updateStrategy.type").is_empty() {
        o.put("spec.updateStrategy.type", "RollingUpdate");
        o.put_if_absent("spec.updateStrategy.rollingUpdate", json!({}));
    }
    if o.text("spec.updateStrategy.type") == "RollingUpdate"
        && o.has("spec.updateStrategy.rollingUpdate")
    {
        o.put_if_absent("spec.updateStrategy.rollingUpdate.partition", 0);
    }
    o.put_if_zero(
        "spec.persistentVolumeClaimRetentionPolicy.whenDeleted",
        "Retain",
    );
    o.put_if_zero(
        "spec.persistentVolumeClaimRetentionPolicy.whenScaled",
        "Retain",
    );
    o.put_if_absent("spec.replicas", 1);
    o.put_if_absent("spec.revisionHistoryLimit", 10);
    for c in o.list_mut("spec.volumeClaimTemplates") {
        c.put_if_zero("kind", "PersistentVolumeClaim");
        c.put_if_zero("apiVersion", "v1");
        c.put_if_absent("spec.volumeMode", "Filesystem");
        c.put_if_zero("status.phase", "Pending");
    }
}

fn stateful_strategy(e: &mut Errors, path: &Path, s: &Value) {
    let p = path.child("rollingUpdate");
    let r = s.at("rollingUpdate");
    match s.text("type") {
        "" => e.required(path, ""),
        "OnDelete" => {
            if !r.is_null() {
                e.invalid_shown(
                    &p,
                    &shown::internal("apps/v1", "RollingUpdateStatefulSetStrategy", r),
                    "only allowed for updateStrategy 'RollingUpdate'",
                );
            }
        }
        "RollingUpdate" => {
            counts(e, &p, r, &["partition"]);
            let m = r.at("maxUnavailable");
            if !m.is_null() {
                let p = p.child("maxUnavailable");
                int_or_percent(e, &p, m);
                if amount(m) == 0 {
                    e.invalid(&p, m.clone(), "cannot be 0");
                }
                at_most_whole(e, &p, m);
            }
        }
        _ => e.invalid_shown(
            path,
            &shown::internal("apps/v1", "StatefulSetUpdateStrategy", s),
            "must be 'RollingUpdate' or 'OnDelete'",
        ),
    }
}

/// The template as pods will have it: the volumes of the claim templates are there, names of the set's own are not.
fn stateful_template(spec: &Value) -> Value {
    let mut t = spec.at("template").clone();
    t.remove_at("spec.subdomain");
    t.remove_at("spec.hostname");
    let claims = spec.list("volumeClaimTemplates");
    if claims.is_empty() {
        return t;
    }
    let mut all: Vec<Value> = claims
        .iter()
        .map(|c| json!({"name": c.name(), "persistentVolumeClaim": {"claimName": c.name()}}))
        .collect();
    let claimed: HashSet<&str> = claims.iter().map(Tree::name).collect();
    let own = t
        .list("spec.volumes")
        .iter()
        .filter(|v| !claimed.contains(v.text("name")));
    all.extend(own.cloned());
    t.put("spec.volumes", all);
    t
}

fn validate_stateful_set(e: &mut Errors, o: &Value, create: bool) {
    let (spec, path) = (o.at("spec"), Path::new("spec"));
    let p = path.child("podManagementPolicy");
    match spec.text("podManagementPolicy") {
        "OrderedReady" | "Parallel" => {}
        "" => e.required(&p, ""),
        other => e.invalid(&p, other, "must be 'OrderedReady' or 'Parallel'"),
    }
    stateful_strategy(e, &path.child("updateStrategy"), spec.at("updateStrategy"));
    for key in ["whenDeleted", "whenScaled"] {
        let v = spec.at("persistentVolumeClaimRetentionPolicy").text(key);
        if !["Retain", "Delete"].contains(&v) {
            let p = path
                .child("persistentVolumeClaimRetentionPolicy")
                .child(key);
            e.not_supported(&p, v, &["Retain", "Delete"]);
        }
    }
    if create {
        for (i, c) in spec.list("volumeClaimTemplates").iter().enumerate() {
            volumes::claim_spec(
                e,
                &path.child("volumeClaimTemplates").index(i).child("spec"),
                c.at("spec"),
            );
        }
    }
    counts(e, &path, spec, &["replicas", "minReadySeconds"]);
    if let Some(n) = spec.int_opt("ordinals.start") {
        non_negative(e, &path.child("ordinals.start"), n);
    }
    let service = spec.text("serviceName");
    if create && !service.is_empty() {
        each(
            e,
            &path.child("serviceName"),
            service,
            dns1123_label(service),
        );
    }
    selector(e, &path.child("selector"), spec, "statefulset");
    let t = path.child("template");
    template_matches(e, &t, spec, "");
    let template = stateful_template(spec);
    pod_spec::template(e, &t, &template);
    let m = template.at("metadata");
    meta::labels(e, &t.child("labels"), m.at("labels"));
    meta::annotations(e, &t.child("annotations"), m.at("annotations"));
    pod::specific_annotations(
        e,
        &t.child("annotations"),
        m.map("annotations"),
        template.at("spec"),
    );
    always(e, &t, spec.at("template.spec"), "StatefulSet");
}

fn stateful_change(e: &mut Errors, o: &Value, old: &Value) {
    let mut munged = o.at("spec").clone();
    for key in [
        "replicas",
        "template",
        "updateStrategy",
        "minReadySeconds",
        "ordinals",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
    ] {
        munged.copy_at(key, old.at("spec"));
    }
    let mut before = old.at("spec").clone();
    // What every claim template is says nothing.
    for spec in [&mut munged, &mut before] {
        for c in spec.list_mut("volumeClaimTemplates") {
            c.remove_at("kind");
            c.remove_at("apiVersion");
        }
    }
    if !same(&munged, &before) {
        e.forbidden(&Path::new("spec"), "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden");
    }
}

fn stateful_status(e: &mut Errors, o: &Value, old: &Value) {
    let (s, p) = (o.at("status"), Path::new("status"));
    counts(
        e,
        &p,
        s,
        &[
            "replicas",
            "readyReplicas",
            "currentReplicas",
            "updatedReplicas",
            "availableReplicas",
            "observedGeneration",
            "collisionCount",
        ],
    );
    let keys = [
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
    ];
    not_above(e, &p, s, &keys, "replicas", ABOVE_REPLICAS);
    not_above(
        e,
        &p,
        s,
        &["availableReplicas"],
        "readyReplicas",
        "cannot be greater than status.readyReplicas",
    );
    collision_count(e, o, old);
}

/// What a claim template is is not stored with it.
const CLAIM_TEMPLATES: &[(&str, Conversion)] = &[(
    "apps/v1",
    Conversion {
        from_storage: |o| {
            for c in o.list_mut("spec.volumeClaimTemplates") {
                c.put("kind", "PersistentVolumeClaim");
                c.put("apiVersion", "v1");
            }
        },
        to_storage: |_| {},
    },
)];

/// StatefulSets.
pub fn stateful_set(_: &Config) -> Parts {
    let parts = Parts::new(Workload {
        default: default_stateful_set,
        validate: validate_stateful_set,
        change: stateful_change,
        status: stateful_status,
        label: true,
        replicas_field: false,
        status_keeps_labels: false,
        change_first: false,
        orphans: false,
        warn: stateful_warnings,
    })
    .sub("scale", scale(false));
    Parts {
        conversions: CLAIM_TEMPLATES,
        ..parts
    }
}

fn default_daemon_set(o: &mut Value) {
    template_defaults(o);
    o.put_if_zero("spec.updateStrategy.type", "RollingUpdate");
    if o.text("spec.updateStrategy.type") == "RollingUpdate" {
        o.put_if_absent("spec.updateStrategy.rollingUpdate.maxUnavailable", 1);
        o.put_if_absent("spec.updateStrategy.rollingUpdate.maxSurge", 0);
    }
    o.put_if_absent("spec.revisionHistoryLimit", 10);
}

fn daemon_strategy(e: &mut Errors, path: &Path, s: &Value) {
    let p = path.child("rollingUpdate");
    let r = s.at("rollingUpdate");
    match s.text("type") {
        "OnDelete" => {}
        "RollingUpdate" if r.is_null() => e.required(&p, ""),
        "RollingUpdate" => {
            let (unavailable, surge) = (r.at("maxUnavailable"), r.at("maxSurge"));
            for check in [int_or_percent, at_most_whole] {
                check(e, &p.child("maxUnavailable"), unavailable);
                check(e, &p.child("maxSurge"), surge);
            }
            match (amount(unavailable) != 0, amount(surge) != 0) {
                (true, true) => e.invalid(
                    &p.child("maxSurge"),
                    surge.clone(),
                    "may not be set when maxUnavailable is non-zero",
                ),
                (false, false) => {
                    e.required(&p.child("maxUnavailable"), "cannot be 0 when maxSurge is 0");
                }
                _ => {}
            }
        }
        _ => {
            let shown = shown::internal("apps/v1", "DaemonSetUpdateStrategy", s);
            e.not_supported_shown(path, &shown, "\"RollingUpdate\", \"OnDelete\"");
        }
    }
}

fn validate_daemon_set(e: &mut Errors, o: &Value, _: bool) {
    let (spec, path) = (o.at("spec"), Path::new("spec"));
    let s = spec.at("selector");
    meta::selector(e, &path.child("selector"), s);
    let t = path.child("template");
    if convertible(s) && !meta::selector_matches(s, spec.at("template.metadata.labels")) {
        e.invalid_shown(
            &t.child("metadata").child("labels"),
            &shown_map(spec.at("template.metadata.labels")),
            "`selector` does not match template `labels`",
        );
    }
    if !s.is_null() && meta::selector_is_empty(s) {
        e.invalid_shown(
            &path.child("selector"),
            &shown_selector(s),
            "empty selector is invalid for daemonset",
        );
    }
    pod_spec::template(e, &t, spec.at("template"));
    // A daemon's pods are never rebuilt elsewhere, so a restart policy other than Always makes no sense.
    if spec.text("template.spec.restartPolicy") != "Always" {
        e.not_supported(
            &t.child("spec").child("restartPolicy"),
            spec.text("template.spec.restartPolicy"),
            &["Always"],
        );
    }
    if spec.has("template.spec.activeDeadlineSeconds") {
        e.forbidden(
            &t.child("spec").child("activeDeadlineSeconds"),
            "activeDeadlineSeconds in DaemonSet is not Supported",
        );
    }
    counts(e, &path, spec, &["minReadySeconds"]);
    daemon_strategy(e, &path.child("updateStrategy"), spec.at("updateStrategy"));
    counts(e, &path, spec, &["revisionHistoryLimit"]);
}

fn daemon_status(e: &mut Errors, o: &Value, old: &Value) {
    let (s, p) = (o.at("status"), Path::new("status"));
    counts(
        e,
        &p,
        s,
        &[
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
            "collisionCount",
        ],
    );
    collision_count(e, o, old);
}

/// DaemonSets.
pub fn daemon_set(_: &Config) -> Parts {
    Parts::new(DaemonSet(Workload {
        default: default_daemon_set,
        validate: validate_daemon_set,
        change: immutable_selector,
        status: daemon_status,
        label: false,
        replicas_field: false,
        status_keeps_labels: false,
        change_first: true,
        orphans: false,
        warn: daemon_warnings,
    }))
}

/// DaemonSets count the generations of their template in an annotation.
struct DaemonSet(Workload);

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn set_template_generation(o: &mut Value, n: i64) {
    let mut all = o.map("metadata.annotations").clone();
    all.insert(TEMPLATE_GENERATION.into(), n.to_string().into());
    o.put("metadata.annotations", all);
}

fn daemon_warnings(o: &Value, old: Option<&Value>) -> Vec<String> {
    let number = |o: &Value| o.annotation(TEMPLATE_GENERATION).map(str::to_owned);
    if old.is_some_and(|old| number(old) == number(o)) {
        return vec![];
    }
    let path = Path::new("spec").child("template");
    warn::pod::pod(&path, o.at("spec.template"))
}

impl Strategy for DaemonSet {
    fn default(&self, o: &mut Value) {
        self.0.default(o);
    }

    fn prepare_create(&self, ctx: &Context<'_>, o: &mut Value) {
        self.0.prepare_create(ctx, o);
        let n = o
            .annotation(TEMPLATE_GENERATION)
            .and_then(|t| t.parse().ok())
            .unwrap_or(0);
        set_template_generation(o, n.max(1));
    }

    fn prepare_update(&self, ctx: &Context<'_>, o: &mut Value, old: &Value) {
        self.0.prepare_update(ctx, o, old);
        if ctx.subresource.is_empty() {
            let was: i64 = old
                .annotation(TEMPLATE_GENERATION)
                .and_then(|t| t.parse().ok())
                .unwrap_or(0);
            let changed = !same(o.at("spec.template"), old.at("spec.template"));
            set_template_generation(o, was + i64::from(changed));
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn generation_changed(&self, o: &Value, old: &Value) -> bool {
        !same(o.at("spec"), old.at("spec"))
    }

    fn validate_create(&self, ctx: &Context<'_>, o: &Value) -> Errors {
        self.0.validate_create(ctx, o)
    }

    fn validate_update(&self, ctx: &Context<'_>, o: &Value, old: &Value) -> Errors {
        self.0.validate_update(ctx, o, old)
    }

    fn warnings(&self, ctx: &Context<'_>, o: &Value, old: Option<&Value>) -> Vec<String> {
        self.0.warnings(ctx, o, old)
    }
}

struct ControllerRevision;

impl Strategy for ControllerRevision {
    fn validate_create(&self, _: &Context<'_>, o: &Value) -> Errors {
        let mut e = Errors::new();
        non_negative(&mut e, &Path::new("revision"), o.int("revision"));
        let p = Path::new("data");
        match o.at("data") {
            Value::Null => e.required(&p, "data is mandatory"),
            Value::Object(_) => {}
            _ => e.required(&p, "data must be a valid JSON object"),
        }
        e
    }

    fn validate_update(&self, _: &Context<'_>, o: &Value, old: &Value) -> Errors {
        let mut e = Errors::new();
        non_negative(&mut e, &Path::new("revision"), o.int("revision"));
        if o.at("data") != old.at("data") {
            e.invalid(
                &Path::new("data"),
                o.at("data").clone(),
                "field is immutable",
            );
        }
        e
    }
}

/// ControllerRevisions.
pub fn controller_revision(_: &Config) -> Parts {
    Parts::new(ControllerRevision)
}

struct PodTemplate;

impl Strategy for PodTemplate {
    fn returns_deleted(&self) -> bool {
        true
    }

    fn default(&self, o: &mut Value) {
        if let Some(t) = o.at_mut("template") {
            defaults::pod::template(t);
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn generation_changed(&self, o: &Value, old: &Value) -> bool {
        !same(o.at("template"), old.at("template"))
    }

    fn validate_create(&self, _: &Context<'_>, o: &Value) -> Errors {
        let mut e = Errors::new();
        pod_spec::template(&mut e, &Path::new("template"), o.at("template"));
        e
    }

    fn validate_update(&self, ctx: &Context<'_>, o: &Value, _: &Value) -> Errors {
        self.validate_create(ctx, o)
    }

    fn warnings(&self, _: &Context<'_>, o: &Value, old: Option<&Value>) -> Vec<String> {
        let number = |o: &Value| o.int("metadata.generation");
        if old.is_some_and(|old| number(old) == number(o)) {
            return vec![];
        }
        warn::pod::pod(&Path::new("template"), o.at("template"))
    }
}

/// PodTemplates.
pub fn pod_template(_: &Config) -> Parts {
    Parts::new(PodTemplate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment_errors(patch: impl Fn(&mut Value)) -> String {
        let mut o = json!({"metadata": {"name": "d"}, "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "b"}]}},
        }});
        patch(&mut o);
        default_deployment(&mut o);
        let mut e = Errors::new();
        validate_deployment(&mut e, &o, true);
        e.aggregate()
    }

    #[test]
    fn deployments() {
        assert_eq!(deployment_errors(|_| {}), "[]");
        assert_eq!(
            deployment_errors(|o| o.put("spec.selector", json!({"matchLabels": {"x": "y"}}))),
            "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`"
        );
        assert_eq!(
            deployment_errors(|o| o.put("spec.selector", Value::Null)),
            "[spec.selector: Required value, spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`]"
        );
        assert_eq!(
            deployment_errors(|o| o.put(
                "spec.strategy.rollingUpdate",
                json!({"maxSurge": 0, "maxUnavailable": 0})
            )),
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"
        );
        assert_eq!(
            deployment_errors(|o| o.put(
                "spec.strategy",
                json!({"type": "Recreate", "rollingUpdate": {"maxSurge": 1}})
            )),
            "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"
        );
        assert_eq!(
            deployment_errors(|o| o.put("spec.template.spec.restartPolicy", "Never")),
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""
        );
        assert_eq!(
            deployment_errors(|o| {
                o.put("spec.progressDeadlineSeconds", 5);
                o.put("spec.minReadySeconds", 10);
            }),
            "spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds"
        );
        assert_eq!(
            deployment_errors(|o| o.put("spec.replicas", -1)),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0"
        );
    }

    #[test]
    fn statuses_add_up() {
        let mut e = Errors::new();
        let o = json!({"status": {"replicas": 1, "readyReplicas": 2, "collisionCount": 1}});
        deployment_status(&mut e, &o, &json!({"status": {"collisionCount": 2}}));
        assert_eq!(
            e.aggregate(),
            "[status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas, status.collisionCount: Invalid value: 1: cannot be decremented]"
        );
    }

    #[test]
    fn stateful_sets_change_little() {
        let old = json!({"spec": {"serviceName": "a", "replicas": 1}});
        let mut e = Errors::new();
        stateful_change(
            &mut e,
            &json!({"spec": {"serviceName": "a", "replicas": 2}}),
            &old,
        );
        assert!(e.is_empty());
        stateful_change(
            &mut e,
            &json!({"spec": {"serviceName": "b", "replicas": 1}}),
            &old,
        );
        assert_eq!(
            e.aggregate(),
            "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
        );
    }
}
