//! Persistent volumes and claims.

use serde_json::{Value, json};
use wire::schema::Type;

use apiserver::resource::{Context, Strategy};

use super::plain::immutable;
use super::split_status;
use crate::builtin::{Config, Parts};
use crate::check::{dns1123_label, dns1123_subdomain, each, qualified_name};
use crate::quant;
use crate::validate::{Errors, Path, affinity, diff, resources, shown, volumes};
use crate::value::{Tree, same};
use crate::warn;

struct Claim;

fn dump(kind: &str, v: &Value) -> String {
    match api::schema::message("v1", kind) {
        Some(m) => shown::internal_value(Type::Message(m), 0, v).to_json(Some(" "), 0),
        None => v.to_string(),
    }
}

/// `dataSource` and `dataSourceRef` follow each other.
fn sources(o: &mut Value) {
    let (source, reference) = (
        o.at("spec.dataSource").clone(),
        o.at("spec.dataSourceRef").clone(),
    );
    if !source.is_null() && reference.is_null() {
        o.put("spec.dataSourceRef", source);
    } else if source.is_null() && !reference.is_null() && reference.text("namespace").is_empty() {
        o.put("spec.dataSource", reference);
    }
}

/// References into other namespaces are not supported, and `dataSource` alone only ever led to two kinds.
fn foreign_sources(o: &mut Value, old: Option<&Value>) {
    let had = |key: &str| old.is_some_and(|old| old.at("spec").has(key));
    if !o.text("spec.dataSourceRef.namespace").is_empty() && !had("dataSourceRef") {
        o.remove_at("spec.dataSourceRef");
    }
    if had("dataSource") || had("dataSourceRef") || o.has("spec.dataSourceRef") {
        return;
    }
    if o.has("spec.dataSource") && !volume_source(o.at("spec.dataSource")) {
        o.remove_at("spec.dataSource");
    }
}

fn volume_source(r: &Value) -> bool {
    matches!(
        (r.text("apiGroup"), r.text("kind")),
        ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
    )
}

/// The class may be told by the old annotation or the field; the field may take over from the annotation.
fn storage_class_change(
    e: &mut Errors,
    new: &Value,
    old: &Value,
    spec: &mut Value,
    old_spec: &Value,
) {
    let (was, now) = (old.annotation(STORAGE_CLASS), new.annotation(STORAGE_CLASS));
    let class = spec.text_opt("storageClassName");
    let unset = !old_spec.has("storageClassName");
    if was.is_some() && unset && class == was && (now.is_none() || now == was) {
        spec.remove_at("storageClassName");
        return;
    }
    if now.unwrap_or_default() != was.unwrap_or_default() {
        e.invalid(
            &Path::new("metadata")
                .child("annotations")
                .child(STORAGE_CLASS),
            now.unwrap_or_default(),
            "field is immutable",
        );
    }
    if class.is_some() && unset && (was.is_none() || class == was) {
        spec.remove_at("storageClassName");
    }
}

fn claim_status(e: &mut Errors, o: &Value) {
    const STATUSES: [&str; 5] = [
        "ControllerResizeInProgress",
        "ControllerResizeInfeasible",
        "NodeResizePending",
        "NodeResizeInProgress",
        "NodeResizeInfeasible",
    ];
    if o.list("spec.accessModes").is_empty() {
        e.required(&Path::new("Spec").child("accessModes"), "");
    }
    let path = Path::new("status");
    let status = o.at("status");
    let negative = |e: &mut Errors, p: &Path, q: &Value| {
        let q = quant::of(q);
        if q.is_negative() {
            let whole = i64::try_from(q.value()).unwrap_or(i64::MIN);
            e.invalid(p, whole, "must be a valid resource quantity");
        }
        q.is_negative()
    };
    for (name, q) in status.map("capacity") {
        negative(e, &path.child("capacity").key(name), q);
    }
    let p = path.child("allocatedResourceStatuses");
    for (name, state) in status.map("allocatedResourceStatuses") {
        claim_resource(e, &p, name);
        if !STATUSES.contains(&state.as_str().unwrap_or_default()) {
            let mut known = STATUSES;
            known.sort_unstable();
            e.not_supported(&p, name.as_str(), &known);
        }
    }
    let p = path.child("allocatedResources");
    for (name, q) in status.map("allocatedResources") {
        if claim_resource(e, &p, name) {
            negative(e, &p.key(name), q);
        }
    }
}

/// A resource that a claim's status may name.
fn claim_resource(e: &mut Errors, path: &Path, name: &str) -> bool {
    let messages = qualified_name(name);
    let good = messages.is_empty();
    each(e, path, name, messages);
    if !good {
        return false;
    }
    let refused = resources::is_native(name) && name != "storage";
    if refused {
        e.not_supported_shown(path, &api::text::go_quote(name), "\"storage\"");
    }
    !refused
}

fn change_claim(e: &mut Errors, new: &Value, old: &Value) {
    let (mut n, mut o) = (new.at("spec").clone(), old.at("spec").clone());
    if o.text("volumeName").is_empty() {
        o.copy_at("volumeName", &n);
    }
    storage_class_change(e, new, old, &mut n, &o);
    if new.text("status.phase") == "Bound" {
        if n.has("resources.requests") {
            n.copy_at("resources.requests.storage", &o);
        }
        n.copy_at("volumeAttributesClassName", &o);
    }
    let size = |v: &Value, path: &str| quant::of(v.at(path));
    const REQUEST: &str = "spec.resources.requests.storage";
    let path = Path::new("spec");
    if !same(&n, &o) {
        const KIND: &str = "PersistentVolumeClaimSpec";
        e.forbidden(
            &path,
            &format!(
                "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n{}",
                diff::unified(&dump(KIND, &o), &dump(KIND, &n))
            ),
        );
    }
    if size(new, REQUEST) < size(old, REQUEST)
        && size(new, REQUEST) <= size(old, "status.capacity.storage")
    {
        e.forbidden(
            &path.child("resources").child("requests").child("storage"),
            "field can not be less than status.capacity",
        );
    }
    immutable(
        e,
        &Path::new("volumeMode"),
        new.at("spec.volumeMode"),
        old.at("spec.volumeMode"),
    );
    let class = path.child("volumeAttributesClassName");
    let (now, was) = (
        new.text_opt("spec.volumeAttributesClassName"),
        old.text_opt("spec.volumeAttributesClassName"),
    );
    if now != was && old.has("status.currentVolumeAttributesClassName") {
        match now {
            None => e.forbidden(&class, "update to nil is forbidden when status.currentVolumeAttributesClassName is not nil"),
            Some("") => e.forbidden(&class, "update to empty string is forbidden when status.currentVolumeAttributesClassName is not nil"),
            Some(_) => {}
        }
    }
}

impl Strategy for Claim {
    fn default(&self, o: &mut Value) {
        o.put_if_zero("status.phase", "Pending");
        o.put_if_absent("spec.volumeMode", "Filesystem");
    }

    fn prepare_create(&self, _: &Context<'_>, o: &mut Value) {
        o.put("status", json!({"phase": "Pending"}));
        foreign_sources(o, None);
        sources(o);
    }

    fn prepare_update(&self, ctx: &Context<'_>, o: &mut Value, old: &Value) {
        split_status(ctx, o, old);
        if ctx.subresource.is_empty() {
            foreign_sources(o, Some(old));
        }
    }

    fn validate_create(&self, _: &Context<'_>, o: &Value) -> Errors {
        let mut e = Errors::new();
        volumes::claim_spec(&mut e, &Path::new("spec"), o.at("spec"));
        e
    }

    fn validate_update(&self, ctx: &Context<'_>, o: &Value, old: &Value) -> Errors {
        if ctx.subresource == "status" {
            let mut e = Errors::new();
            claim_status(&mut e, o);
            return e;
        }
        let mut e = self.validate_create(ctx, o);
        change_claim(&mut e, o, old);
        e
    }

    fn warnings(&self, ctx: &Context<'_>, o: &Value, _: Option<&Value>) -> Vec<String> {
        let mut out = vec![];
        if ctx.subresource.is_empty() {
            annotation(&mut out, o, STORAGE_CLASS, STORAGE_CLASS_CLAIM);
            warn::claim_spec(&mut out, &Path::new("spec"), o.at("spec"));
        }
        out
    }

    fn returns_deleted(&self) -> bool {
        true
    }
}

/// Claims.
pub fn claim(_: &Config) -> Parts {
    Parts::new(Claim)
}

struct Volume;

const STORAGE_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const STORAGE_CLASS_CLAIM: &str =
    "deprecated since v1.8; use \"storageClassName\" attribute instead";
const MOUNT_OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";

fn annotation(out: &mut Vec<String>, o: &Value, key: &str, why: &str) {
    if o.annotation(key).is_some() {
        out.push(format!("metadata.annotations[{key}]: {why}"));
    }
}

fn volume_warnings(o: &Value) -> Vec<String> {
    let mut out = vec![];
    annotation(&mut out, o, STORAGE_CLASS, STORAGE_CLASS_CLAIM);
    annotation(
        &mut out,
        o,
        MOUNT_OPTIONS,
        "deprecated since v1.31; use \"mountOptions\" attribute instead",
    );
    if o.text("spec.persistentVolumeReclaimPolicy") == "Recycle" {
        out.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".into());
    }
    let path = Path::new("spec.nodeAffinity.required.nodeSelectorTerms");
    let terms = o.list("spec.nodeAffinity.required.nodeSelectorTerms");
    for (i, t) in terms.iter().enumerate() {
        warn::node_selector_term(&mut out, &path.index(i), t, false);
    }
    for (key, shown, since) in [
        ("cephfs", "cephfs", "v1.28, non-functional in v1.31+"),
        (
            "photonPersistentDisk",
            "photonPersistentDisk",
            "v1.11, non-functional in v1.16+",
        ),
        ("scaleIO", "scaleIO", "v1.16, non-functional in v1.22+"),
        ("storageos", "storageOS", "v1.22, non-functional in v1.25+"),
        ("glusterfs", "glusterfs", "v1.25, non-functional in v1.26+"),
        ("rbd", "rbd", "v1.28, non-functional in v1.31+"),
    ] {
        if o.at("spec").has(key) {
            out.push(format!("spec.{shown}: deprecated in {since}"));
        }
    }
    out
}

/// The names under which a volume's source may stand, in the order of the checks.
const SOURCES: [&str; 22] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

const RECLAIM: [&str; 3] = ["Delete", "Recycle", "Retain"];

fn capacity(e: &mut Errors, path: &Path, spec: &Value) {
    let c = spec.map("capacity");
    if c.is_empty() {
        e.required(path, "");
    }
    if !c.contains_key("storage") || c.len() > 1 {
        e.not_supported(path, spec.at("capacity").clone(), &["storage"]);
    }
    for (name, q) in c {
        let q = quant::of(q);
        if q.is_negative() {
            let whole = i64::try_from(q.value()).unwrap_or(i64::MIN);
            e.invalid(&path.key(name), whole, "must be a valid resource quantity");
        }
        if !q.is_positive() {
            e.invalid(&path.key(name), q.to_string(), "must be greater than zero");
        }
    }
}

fn source(e: &mut Errors, path: &Path, spec: &Value, name: &str, has_affinity: bool) {
    let mut found = false;
    for key in SOURCES {
        let v = spec.at(key);
        if v.is_null() {
            continue;
        }
        let p = path.child(if key == "cephfs" { "cephFS" } else { key });
        if found && key != "flexVolume" {
            e.forbidden(&p, "may not specify more than 1 volume type");
            continue;
        }
        found = true;
        one_source(e, path, key, v, name);
        if key == "local" && !has_affinity {
            e.required(
                &path.child("nodeAffinity"),
                "Local volume requires node affinity",
            );
        }
    }
    if !found {
        e.required(path, "must specify a volume type");
    }
}

/// Fields that a source cannot do without.
const REQUIRED: [(&str, &[(&str, &str)]); 10] = [
    ("glusterfs", &[("endpoints", "endpoints"), ("path", "path")]),
    ("rbd", &[("monitors", "monitors"), ("image", "image")]),
    ("cephfs", &[("monitors", "monitors")]),
    ("cinder", &[("volumeID", "volumeID")]),
    (
        "azureFile",
        &[("secretName", "secretName"), ("shareName", "shareName")],
    ),
    ("vsphereVolume", &[("volumePath", "volumePath")]),
    ("photonPersistentDisk", &[("pdID", "pdID")]),
    ("portworxVolume", &[("volumeID", "volumeID")]),
    (
        "scaleIO",
        &[
            ("gateway", "gateway"),
            ("system", "system"),
            ("volumeName", "volumeName"),
        ],
    ),
    ("local", &[("path", "path")]),
];

fn secret_reference(e: &mut Errors, path: &Path, r: &Value) {
    for (key, check) in [
        ("name", dns1123_subdomain as fn(&str) -> Vec<String>),
        ("namespace", dns1123_label),
    ] {
        match r.text(key) {
            "" => e.required(&path.child(key), ""),
            v => each(e, &path.child(key), v, check(v)),
        }
    }
}

fn one_source(e: &mut Errors, path: &Path, key: &str, v: &Value, volume: &str) {
    let p = path.child(key);
    if let Some((_, fields)) = REQUIRED.iter().find(|(k, _)| *k == key) {
        volumes::require(e, &p, v, fields);
    }
    let place = &volumes::Place::default();
    match key {
        "hostPath" => volumes::host_path(e, &p, v, place),
        "gcePersistentDisk" => volumes::gce(e, &path.child("persistentDisk"), v, place),
        "awsElasticBlockStore" => volumes::aws(e, &p, v, place),
        "flocker" => volumes::flocker(e, &p, v, place),
        "nfs" => volumes::nfs(e, &p, v, place),
        "quobyte" => volumes::quobyte(e, &p, v, place),
        "fc" => volumes::fc(e, &p, v, place),
        "flexVolume" => volumes::flex(e, &p, v, place),
        "azureDisk" => volumes::azure_disk(e, &p, v, place),
        "storageos" => volumes::storage_os(e, &p, v, place),
        "glusterfs" => {
            let p = p.child("endpointsNamespace");
            match v.text_opt("endpointsNamespace") {
                Some("") => e.invalid(
                    &p,
                    "",
                    "if the endpointnamespace is set, it must be a valid namespace name",
                ),
                Some(n) => each(e, &p, n, dns1123_label(n)),
                None => {}
            }
        }
        "cinder" if v.has("secretRef") => {
            let needed = [("name", "name"), ("namespace", "namespace")];
            volumes::require(e, &p.child("secretRef"), v.at("secretRef"), &needed);
        }
        "azureFile" if v.text_opt("secretNamespace") == Some("") => {
            e.required(&p.child("secretNamespace"), "");
        }
        "local" if !v.text("path").is_empty() => {
            volumes::no_backsteps(e, &p.child("path"), v.text("path"));
        }
        "iscsi" => {
            let portal = v.text("targetPortal");
            if v.has("initiatorName") && volume.len() + 1 + portal.len() > 64 {
                e.invalid(&p.child("targetportal"), portal, "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.");
            }
            volumes::iscsi_fields(e, &p, v, "must be valid format");
        }
        "csi" => {
            volumes::csi_driver_name(e, &p.child("driver"), v.text("driver"));
            volumes::require(e, &p, v, &[("volumeHandle", "volumeHandle")]);
            for key in [
                "controllerPublishSecretRef",
                "controllerExpandSecretRef",
                "nodePublishSecretRef",
                "nodeExpandSecretRef",
            ] {
                if v.has(key) {
                    secret_reference(e, &p.child(key), v.at(key));
                }
            }
        }
        _ => {}
    }
}

fn validate_volume(e: &mut Errors, o: &Value) {
    volume_spec(e, &Path::new("spec"), o.at("spec"), o.name(), false);
}

/// The spec of a volume, or of one inline in an attachment, which has less.
pub fn volume_spec(e: &mut Errors, path: &Path, spec: &Value, name: &str, inline: bool) {
    const INLINE: &str = "may not be specified in the context of inline volumes";
    if inline {
        for (key, given) in [
            ("claimRef", spec.has("claimRef")),
            ("capacity", !spec.map("capacity").is_empty()),
        ] {
            if given {
                e.forbidden(&path.child(key), INLINE);
            }
        }
        if !spec.has("csi") {
            e.required(
                &path.child("csi"),
                "has to be specified in the context of inline volumes",
            );
        }
    }
    let modes = spec.texts("accessModes");
    if modes.is_empty() {
        e.required(&path.child("accessModes"), "");
    }
    volumes::access_modes(e, &path.child("accessModes"), &modes);
    if !inline {
        capacity(e, &path.child("capacity"), spec);
    }
    let reclaim = spec.text("persistentVolumeReclaimPolicy");
    let p = path.child("persistentVolumeReclaimPolicy");
    if inline && !["", "Retain"].contains(&reclaim) {
        e.forbidden(&p, "may only be Retain in the context of inline volumes");
    } else if !reclaim.is_empty() && !RECLAIM.contains(&reclaim) {
        e.not_supported(&p, reclaim, &RECLAIM);
    }
    if spec.has("nodeAffinity") {
        let p = path.child("nodeAffinity");
        let required = spec.at("nodeAffinity.required");
        if inline {
            e.forbidden(&p, INLINE);
        } else if required.is_null() {
            e.required(
                &p.child("required"),
                "must specify required node constraints",
            );
        } else {
            affinity::node_selector(e, &p.child("required"), required);
        }
    }
    source(e, path, spec, name, !inline && spec.has("nodeAffinity"));
    if spec.has("hostPath") && is_root(spec.text("hostPath.path")) && reclaim == "Recycle" {
        e.forbidden(&p, "may not be 'recycle' for a hostPath mount of '/'");
    }
    let class = spec.text("storageClassName");
    if !class.is_empty() {
        let p = path.child("storageClassName");
        if inline {
            e.forbidden(&p, INLINE);
        } else {
            each(e, &p, class, dns1123_subdomain(class));
        }
    }
    if !inline {
        volumes::volume_mode(e, path, spec);
    } else if !["", "Filesystem"].contains(&spec.text("volumeMode")) {
        e.forbidden(
            &path.child("volumeMode"),
            "may not specify volumeMode other than Filesystem in the context of inline volumes",
        );
    }
    if let Some(class) = spec.text_opt("volumeAttributesClassName") {
        let p = path.child("volumeAttributesClassName");
        if class.is_empty() {
            e.required(&p, "an empty string is disallowed");
        } else {
            each(e, &p, class, dns1123_subdomain(class));
        }
        if !spec.has("csi") {
            e.required(
                &path.child("csi"),
                "has to be specified when using volumeAttributesClassName",
            );
        }
    }
}

/// Whether a path leads to the root once `.` and `..` are resolved.
fn is_root(path: &str) -> bool {
    let mut depth = 0usize;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => depth = depth.saturating_sub(1),
            _ => depth += 1,
        }
    }
    path.starts_with('/') && depth == 0
}

fn only_sources(spec: &Value) -> Value {
    let mut out = json!({});
    for key in SOURCES {
        out.copy_at(key, spec);
    }
    out
}

/// Labels that nodes have under a new name.
const RENAMED: [(&str, &str); 5] = [
    (
        "failure-domain.beta.kubernetes.io/zone",
        "topology.kubernetes.io/zone",
    ),
    (
        "failure-domain.beta.kubernetes.io/region",
        "topology.kubernetes.io/region",
    ),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    (
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
    ),
];

/// Equal, but for keys that got their new name.
fn same_affinity(new: &Value, old: &Value) -> bool {
    let mut old = old.clone();
    let terms = new.list("required.nodeSelectorTerms");
    for (o, n) in old
        .list_mut("required.nodeSelectorTerms")
        .iter_mut()
        .zip(terms)
    {
        for field in ["matchExpressions", "matchFields"] {
            for (o, n) in o.list_mut(field).iter_mut().zip(n.list(field)) {
                if RENAMED.contains(&(o.text("key"), n.text("key"))) {
                    o.copy_at("key", n);
                }
            }
        }
    }
    same(new, &old)
}

fn change_volume(e: &mut Errors, new: &Value, old: &Value) {
    let (mut n, o) = (only_sources(new.at("spec")), only_sources(old.at("spec")));
    if o.has("csi") && !o.has("csi.controllerExpandSecretRef") && n.has("csi") {
        n.remove_at("csi.controllerExpandSecretRef");
    }
    if !same(&n, &o) {
        const KIND: &str = "PersistentVolumeSource";
        e.forbidden(
            &Path::new("spec").child("persistentvolumesource"),
            &format!(
                "spec.persistentvolumesource is immutable after creation\n{}",
                diff::unified(&dump(KIND, &o), &dump(KIND, &n))
            ),
        );
    }
    immutable(
        e,
        &Path::new("volumeMode"),
        new.at("spec.volumeMode"),
        old.at("spec.volumeMode"),
    );
    let affinity = |v: &Value| v.at("spec.nodeAffinity").clone();
    if old.has("spec.nodeAffinity") && !same_affinity(&affinity(new), &affinity(old)) {
        let shown = match affinity(new) {
            Value::Null => "null".to_owned(),
            v => shown::internal("v1", "VolumeNodeAffinity", &v),
        };
        e.invalid_shown(
            &Path::new("nodeAffinity"),
            &shown,
            "field is immutable, except for updating from beta label to GA",
        );
    }
    const CLASS: &str = "spec.volumeAttributesClassName";
    if old.has(CLASS) && !new.has(CLASS) {
        e.forbidden(
            &Path::new(CLASS),
            "update from non-nil value to nil is forbidden",
        );
    }
}

impl Strategy for Volume {
    fn warnings(&self, ctx: &Context<'_>, o: &Value, _: Option<&Value>) -> Vec<String> {
        if ctx.subresource.is_empty() {
            volume_warnings(o)
        } else {
            vec![]
        }
    }

    fn default(&self, o: &mut Value) {
        o.put_if_zero("status.phase", "Pending");
        o.put_if_zero("spec.persistentVolumeReclaimPolicy", "Retain");
        o.put_if_absent("spec.volumeMode", "Filesystem");
        if o.has("spec.hostPath") {
            o.put_if_absent("spec.hostPath.type", "");
        }
        if o.has("spec.iscsi") {
            o.put_if_zero("spec.iscsi.iscsiInterface", "default");
        }
    }

    fn prepare_create(&self, ctx: &Context<'_>, o: &mut Value) {
        o.put(
            "status",
            json!({"phase": "Pending", "lastPhaseTransitionTime": ctx.now}),
        );
    }

    fn prepare_update(&self, ctx: &Context<'_>, o: &mut Value, old: &Value) {
        split_status(ctx, o, old);
        if o.text("status.phase") != old.text("status.phase")
            && same(
                o.at("status.lastPhaseTransitionTime"),
                old.at("status.lastPhaseTransitionTime"),
            )
        {
            o.put("status.lastPhaseTransitionTime", ctx.now);
        }
    }

    fn validate_create(&self, _: &Context<'_>, o: &Value) -> Errors {
        let mut e = Errors::new();
        validate_volume(&mut e, o);
        e
    }

    fn validate_update(&self, ctx: &Context<'_>, o: &Value, old: &Value) -> Errors {
        if ctx.subresource == "status" {
            return Errors::new();
        }
        let mut e = self.validate_create(ctx, o);
        change_volume(&mut e, o, old);
        e
    }

    fn returns_deleted(&self) -> bool {
        true
    }
}

/// Volumes.
pub fn volume(_: &Config) -> Parts {
    Parts::new(Volume)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_need_one_source() {
        let check = |spec: Value| {
            let mut e = Errors::new();
            validate_volume(&mut e, &json!({"spec": spec}));
            e.aggregate()
        };
        let base = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}});
        let with = |more: Value| {
            let mut v = base.clone();
            for (k, x) in more.map("") {
                v.put(k, x.clone());
            }
            v
        };
        assert_eq!(
            check(base.clone()),
            "spec: Required value: must specify a volume type"
        );
        assert_eq!(check(with(json!({"hostPath": {"path": "/a"}}))), "[]");
        assert_eq!(
            check(with(json!({"local": {"path": "/a"}}))),
            "spec.nodeAffinity: Required value: Local volume requires node affinity"
        );
        let two = json!({"hostPath": {"path": "/a"}, "nfs": {"server": "s", "path": "/"}});
        assert_eq!(
            check(with(two)),
            "spec.nfs: Forbidden: may not specify more than 1 volume type"
        );
        assert_eq!(
            check(json!({})),
            "[spec.accessModes: Required value, spec.capacity: Required value, spec.capacity: Unsupported value: null: supported values: \"storage\", spec: Required value: must specify a volume type]"
        );
    }

    #[test]
    fn claims_change_little() {
        let old = json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        let mut new = old.clone();
        new.put("spec.volumeName", "v");
        let mut e = Errors::new();
        change_claim(&mut e, &new, &old);
        assert!(e.is_empty());
        new.put("spec.accessModes", json!(["ReadOnlyMany"]));
        change_claim(&mut e, &new, &old);
        assert_eq!(
            e.aggregate(),
            "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n@@ -1,6 +1,6 @@\n {\n  \"AccessModes\": [\n-  \"ReadWriteOnce\"\n+  \"ReadOnlyMany\"\n  ],\n  \"Selector\": null,\n  \"Resources\": {\n"
        );
    }
}
