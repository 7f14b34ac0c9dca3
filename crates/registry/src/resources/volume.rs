//! Persistent volumes and claims.

use serde_json::{Value, json};
use wire::schema::Type;

use apiserver::resource::{Context, Strategy};

use super::plain::immutable;
use super::split_status;
use crate::builtin::{Config, Parts};
use crate::check::{dns1123_subdomain, each};
use crate::quant;
use crate::validate::{Errors, Path, affinity, diff, shown, volumes};
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
    } else if source.is_null()
        && !reference.is_null()
        && reference.text("namespace").is_empty()
        && volume_source(&reference)
    {
        o.put("spec.dataSource", reference);
    }
}

fn volume_source(r: &Value) -> bool {
    matches!(
        (r.text("apiGroup"), r.text("kind")),
        ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
    )
}

fn change_claim(e: &mut Errors, new: &Value, old: &Value) {
    let (mut n, mut o) = (new.at("spec").clone(), old.at("spec").clone());
    if o.text("volumeName").is_empty() {
        o.copy_at("volumeName", &n);
    }
    if !o.has("storageClassName") && !n.text("storageClassName").is_empty() {
        n.copy_at("storageClassName", &o);
    }
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
}

impl Strategy for Claim {
    fn default(&self, o: &mut Value) {
        o.put_if_zero("status.phase", "Pending");
        o.put_if_absent("spec.volumeMode", "Filesystem");
        sources(o);
    }

    fn prepare_create(&self, _: &Context<'_>, o: &mut Value) {
        o.put("status", json!({"phase": "Pending"}));
    }

    fn prepare_update(&self, ctx: &Context<'_>, o: &mut Value, old: &Value) {
        split_status(ctx, o, old);
    }

    fn validate_create(&self, _: &Context<'_>, o: &Value) -> Errors {
        let mut e = Errors::new();
        volumes::claim_spec(&mut e, &Path::new("spec"), o.at("spec"));
        e
    }

    fn validate_update(&self, ctx: &Context<'_>, o: &Value, old: &Value) -> Errors {
        if ctx.subresource == "status" {
            return Errors::new();
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
        if !q.is_positive() {
            e.invalid(&path.key(name), q.to_string(), "must be greater than zero");
        }
    }
}

fn source(e: &mut Errors, path: &Path, spec: &Value, has_affinity: bool) {
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
        one_source(e, path, key, v);
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

fn one_source(e: &mut Errors, path: &Path, key: &str, v: &Value) {
    let p = path.child(key);
    let need = |e: &mut Errors, fields: &[(&str, &str)]| volumes::require(e, &p, v, fields);
    match key {
        "hostPath" => {
            if v.text("path").is_empty() {
                e.required(&p.child("path"), "");
            } else {
                volumes::no_backsteps(e, &p.child("path"), v.text("path"));
            }
        }
        "nfs" => {
            need(e, &[("server", "server"), ("path", "path")]);
            if !v.text("path").starts_with('/') {
                e.invalid(&p.child("path"), v.text("path"), "must be an absolute path");
            }
        }
        "local" => {
            if v.text("path").is_empty() {
                e.required(&p.child("path"), "");
            } else {
                volumes::no_backsteps(e, &p.child("path"), v.text("path"));
            }
        }
        "csi" => {
            if v.text("driver").is_empty() {
                e.required(&p.child("driver"), "");
            } else {
                volumes::csi_driver_name(e, &p.child("driver"), v.text("driver"));
            }
            if v.text("volumeHandle").is_empty() {
                e.required(&p.child("volumeHandle"), "");
            }
        }
        _ => {}
    }
}

fn validate_volume(e: &mut Errors, o: &Value) {
    let (spec, path) = (o.at("spec"), Path::new("spec"));
    let modes = spec.texts("accessModes");
    if modes.is_empty() {
        e.required(&path.child("accessModes"), "");
    }
    volumes::access_modes(e, &path.child("accessModes"), &modes);
    capacity(e, &path.child("capacity"), spec);
    let reclaim = spec.text("persistentVolumeReclaimPolicy");
    if !reclaim.is_empty() && !RECLAIM.contains(&reclaim) {
        e.not_supported(
            &path.child("persistentVolumeReclaimPolicy"),
            reclaim,
            &RECLAIM,
        );
    }
    let required = spec.at("nodeAffinity.required");
    if spec.has("nodeAffinity") {
        let p = path.child("nodeAffinity").child("required");
        if required.is_null() {
            e.required(&p, "must specify required node constraints");
        } else {
            affinity::node_selector(e, &p, required);
        }
    }
    source(e, &path, spec, !required.is_null());
    if spec.text("hostPath.path").trim_end_matches('/').is_empty()
        && spec.has("hostPath.path")
        && reclaim == "Recycle"
    {
        e.forbidden(
            &path.child("persistentVolumeReclaimPolicy"),
            "may not be 'recycle' for a hostPath mount of '/'",
        );
    }
    let class = spec.text("storageClassName");
    if !class.is_empty() {
        each(
            e,
            &path.child("storageClassName"),
            class,
            dns1123_subdomain(class),
        );
    }
    volumes::volume_mode(e, &path, spec);
}

fn only_sources(spec: &Value) -> Value {
    let mut out = json!({});
    for key in SOURCES {
        out.copy_at(key, spec);
    }
    out
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
            e.len()
        };
        let base = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}});
        let with = |more: Value| {
            let mut v = base.clone();
            for (k, x) in more.map("") {
                v.put(k, x.clone());
            }
            v
        };
        assert_eq!(check(base.clone()), 1);
        assert_eq!(check(with(json!({"hostPath": {"path": "/a"}}))), 0);
        assert_eq!(check(with(json!({"local": {"path": "/a"}}))), 1);
        assert_eq!(
            check(with(
                json!({"hostPath": {"path": "/a"}, "nfs": {"server": "s", "path": "/"}})
            )),
            1
        );
        assert_eq!(check(json!({})), 4);
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
        assert_eq!(e.len(), 1);
    }
}
