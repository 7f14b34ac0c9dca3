//! Volumes of pods: exactly one source each, and the rules of every source.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Errors, Path, meta, shown};
use crate::check::{dns1123_label, dns1123_subdomain, each, each_int, in_range, qualified_name};
use crate::quant;
use crate::validate::container;
use crate::value::Tree;

const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// Where a volume is: what sources may need beyond their own fields.
#[derive(Default)]
pub struct Place<'a> {
    volume: &'a str,
    /// The pod's name; empty in templates.
    pod: &'a str,
    /// A pod rather than a template.
    is_pod: bool,
}

type Source = fn(&mut Errors, &Path, &Value, &Place<'_>);

/// Sources in upstream's order of checks: key, the path segment of "more than 1", the path segment of its own errors.
static SOURCES: &[(&str, &str, &str, Source)] = &[
    ("hostPath", "hostPath", "hostPath", host_path),
    ("gitRepo", "gitRepo", "gitRepo", git_repo),
    (
        "gcePersistentDisk",
        "gcePersistentDisk",
        "persistentDisk",
        gce,
    ),
    (
        "awsElasticBlockStore",
        "awsElasticBlockStore",
        "awsElasticBlockStore",
        aws,
    ),
    ("secret", "secret", "secret", secret),
    ("nfs", "nfs", "nfs", nfs),
    ("iscsi", "iscsi", "iscsi", iscsi),
    ("glusterfs", "glusterfs", "glusterfs", |e, p, v, _| {
        require(e, p, v, &[("endpoints", "endpoints"), ("path", "path")])
    }),
    ("flocker", "flocker", "flocker", flocker),
    (
        "persistentVolumeClaim",
        "persistentVolumeClaim",
        "persistentVolumeClaim",
        |e, p, v, _| {
            require(e, p, v, &[("claimName", "claimName")]);
        },
    ),
    ("rbd", "rbd", "rbd", |e, p, v, _| {
        require(e, p, v, &[("monitors", "monitors"), ("image", "image")])
    }),
    ("cinder", "cinder", "cinder", cinder),
    ("cephfs", "cephFS", "cephfs", |e, p, v, _| {
        require(e, p, v, &[("monitors", "monitors")])
    }),
    ("quobyte", "quobyte", "quobyte", quobyte),
    ("downwardAPI", "downwarAPI", "downwardAPI", downward_api),
    ("fc", "fc", "fc", fc),
    ("flexVolume", "flexVolume", "flexVolume", flex),
    ("configMap", "configMap", "configMap", config_map),
    ("azureFile", "azureFile", "azureFile", |e, p, v, _| {
        require(
            e,
            p,
            v,
            &[("secretName", "secretName"), ("shareName", "shareName")],
        );
    }),
    (
        "vsphereVolume",
        "vsphereVolume",
        "vsphereVolume",
        |e, p, v, _| require(e, p, v, &[("volumePath", "volumePath")]),
    ),
    (
        "photonPersistentDisk",
        "photonPersistentDisk",
        "photonPersistentDisk",
        |e, p, v, _| {
            require(e, p, v, &[("pdID", "pdID")]);
        },
    ),
    (
        "portworxVolume",
        "portworxVolume",
        "portworxVolume",
        |e, p, v, _| require(e, p, v, &[("volumeID", "volumeID")]),
    ),
    ("azureDisk", "azureDisk", "azureDisk", azure_disk),
    ("storageos", "storageos", "storageos", storage_os),
    ("projected", "projected", "projected", projected),
    ("scaleIO", "scaleIO", "scaleIO", |e, p, v, _| {
        require(
            e,
            p,
            v,
            &[
                ("gateway", "gateway"),
                ("system", "system"),
                ("volumeName", "volumeName"),
            ],
        );
    }),
    ("csi", "csi", "csi", csi),
    ("ephemeral", "ephemeral", "ephemeral", ephemeral),
    ("image", "image", "image", image),
];

/// The good volumes of a pod by name, for mounts to refer to.
pub type Volumes<'a> = BTreeMap<&'a str, &'a Value>;

/// Checks `spec.volumes`; returns those without errors.
pub fn volumes<'a>(
    e: &mut Errors,
    path: &Path,
    volumes: &'a [Value],
    pod: &str,
    is_pod: bool,
) -> Volumes<'a> {
    let created: BTreeSet<String> = volumes
        .iter()
        .filter(|v| !pod.is_empty() && v.has("ephemeral"))
        .map(|v| format!("{pod}-{}", v.text("name")))
        .collect();
    let mut good = Volumes::new();
    for (i, v) in volumes.iter().enumerate() {
        let here = path.index(i);
        let name = v.text("name");
        let mut errors = Errors::new();
        source(
            &mut errors,
            &here,
            v,
            &Place {
                volume: name,
                pod,
                is_pod,
            },
        );
        let name_path = here.child("name");
        if name.is_empty() {
            errors.required(&name_path, "");
        } else {
            each(&mut errors, &name_path, name, dns1123_label(name));
        }
        if good.contains_key(name) {
            errors.duplicate(&name_path, name);
        }
        if errors.is_empty() {
            good.insert(name, v);
        } else {
            e.extend(errors);
        }
        let claim = v.text("persistentVolumeClaim.claimName");
        if v.has("persistentVolumeClaim") && created.contains(claim) {
            e.invalid(
                &here.child("persistentVolumeClaim").child("claimName"),
                claim,
                "must not reference a PVC that gets created for an ephemeral volume",
            );
        }
    }
    good
}

fn source(e: &mut Errors, path: &Path, v: &Value, place: &Place<'_>) {
    let mut found = false;
    if v.has("emptyDir") {
        found = true;
        if v.has("emptyDir.sizeLimit") && quant::of(v.at("emptyDir.sizeLimit")).is_negative() {
            e.forbidden(
                &path.child("emptyDir").child("sizeLimit"),
                "SizeLimit field must be a valid resource quantity",
            );
        }
    }
    for (key, many, own, check) in SOURCES {
        let s = v.at(key);
        if s.is_null() {
            continue;
        }
        if found {
            e.forbidden(&path.child(many), "may not specify more than 1 volume type");
        } else {
            found = true;
            check(e, &path.child(own), s, place);
        }
        if *key == "iscsi"
            && s.has("initiatorName")
            && place.volume.len() + 1 + s.text("targetPortal").len() > 64
        {
            e.invalid(&path.child("name"), place.volume, TOO_LONG_ISCSI);
        }
        if *key == "ephemeral" && !place.pod.is_empty() && !place.volume.is_empty() {
            let claim = format!("{}-{}", place.pod, place.volume);
            for m in dns1123_subdomain(&claim) {
                e.invalid(
                    &path.child("name"),
                    place.volume,
                    &format!("PVC name {claim:?}: {m}"),
                );
            }
        }
    }
    if !found {
        e.required(path, "must specify a volume type");
    }
}

const TOO_LONG_ISCSI: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";

/// `Required value` for each empty field; the second of a pair is the path segment of the error.
pub fn require(e: &mut Errors, path: &Path, v: &Value, fields: &[(&str, &str)]) {
    for (key, shown) in fields {
        if v.at(key).is_blank() {
            e.required(&path.child(shown), "");
        }
    }
}

fn mode(e: &mut Errors, path: &Path, v: &Value, key: &str) {
    if let Some(m) = v.int_opt(key)
        && !(0..=0o777).contains(&m)
    {
        e.invalid(&path.child(key), m, FILE_MODE);
    }
}

/// No `..` among the parts of a path.
pub fn no_backsteps(e: &mut Errors, path: &Path, value: &str) {
    if value.split('/').any(|p| p == "..") {
        e.invalid(path, value, "must not contain '..'");
    }
}

/// A relative path without `..`.
pub fn descending_path(e: &mut Errors, path: &Path, value: &str) {
    if value.starts_with('/') {
        e.invalid(path, value, "must be a relative path");
    }
    no_backsteps(e, path, value);
}

/// A relative path without `..` that does not start with two dots either.
pub fn local_path(e: &mut Errors, path: &Path, value: &str) {
    descending_path(e, path, value);
    if value.starts_with("..") && !value.starts_with("../") {
        e.invalid(path, value, "must not start with '..'");
    }
}

/// `hostPath`.
pub fn host_path(e: &mut Errors, path: &Path, v: &Value, _: &Place<'_>) {
    let p = v.text("path");
    if p.is_empty() {
        e.required(&path.child("path"), "");
        return;
    }
    no_backsteps(e, &path.child("path"), p);
    if let Some(t) = v.text_opt("type") {
        let types = [
            "",
            "BlockDevice",
            "CharDevice",
            "Directory",
            "DirectoryOrCreate",
            "File",
            "FileOrCreate",
            "Socket",
        ];
        if !types.contains(&t) {
            e.not_supported(&path.child("type"), t, &types);
        }
    }
}

fn git_repo(e: &mut Errors, path: &Path, v: &Value, _: &Place<'_>) {
    require(e, path, v, &[("repository", "repository")]);
    descending_path(e, &path.child("directory"), v.text("directory"));
}

fn partition(e: &mut Errors, path: &Path, v: &Value) {
    let n = v.int("partition");
    if !(0..=255).contains(&n) {
        e.invalid(
            &path.child("partition"),
            n,
            "must be between 1 and 255, inclusive",
        );
    }
}

/// `gcePersistentDisk`.
pub fn gce(e: &mut Errors, path: &Path, v: &Value, _: &Place<'_>) {
    require(e, path, v, &[("pdName", "pdName")]);
    partition(e, path, v);
}

/// `awsElasticBlockStore`.
pub fn aws(e: &mut Errors, path: &Path, v: &Value, _: &Place<'_>) {
    require(e, path, v, &[("volumeID", "volumeID")]);
    partition(e, path, v);
}

fn items(e: &mut Errors, path: &Path, v: &Value) {
    for (i, item) in v.list("items").iter().enumerate() {
        key_to_path(e, &path.child("items").index(i), item);
    }
}

fn key_to_path(e: &mut Errors, path: &Path, item: &Value) {
    require(e, path, item, &[("key", "key"), ("path", "path")]);
    local_path(e, &path.child("path"), item.text("path"));
    mode(e, path, item, "mode");
}

fn secret(e: &mut Errors, path: &Path, v: &Value, _: &Place<'_>) {
    require(e, path, v, &[("secretName", "secretName")]);
    mode(e, path, v, "defaultMode");
    items(e, path, v);
}

fn config_map(e: &mut Errors, path: &Path, v: &Value, _: &Place<'_>) {
    require(e, path, v, &[("name", "name")]);
    mode(e, path, v, "defaultMode");
    items(e, path, v);
}

/// `nfs`.
pub fn nfs(e: &mut Errors, path: &Path, v: &Value, _: &Place<'_>) {
    require(e, path, v, &[("server", "server"), ("path", "path")]);
    let p = v.text("path");
    if !p.starts_with('/') {
        e.invalid(&path.child("path"), p, "must be an absolute path");
    }
}

fn well_formed_iscsi(name: &str) -> bool {
    if name.starts_with("iqn") {
        // iqn.YYYY-MM.<authority>:<target>
        let rest = name.strip_prefix("iqn.").unwrap_or("");
        let Some((date, rest)) = rest.split_once('.') else {
            return false;
        };
        let Some((authority, target)) = rest.split_once(':') else {
            return false;
        };
        let digits = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_digit());
        return date
            .split_once('-')
            .is_some_and(|(y, m)| digits(y, 4) && digits(m, 2))
            && !authority.is_empty()
            && authority
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
            && !target.is_empty()
            && !target.contains([',', ';', '*', '&', '$', '|', ' ', '\t', '\n', '\r']);
    }
    let hex = |prefix: &str, n: usize| {
        name.strip_prefix(prefix).is_some_and(|r| {
            let mut c = r.chars();
            c.next().is_some()
                && c.as_str().len() == n
                && c.as_str().bytes().all(|b| b.is_ascii_alphanumeric())
        })
    };
    if name.starts_with("eui") {
        hex("eui", 16)
    } else {
        hex("naa", 32)
    }
}

fn known_iscsi(name: &str) -> bool {
    ["iqn", "eui", "naa"].iter().any(|p| name.starts_with(p))
}

fn iscsi(e: &mut Errors, path: &Path, v: &Value, _: &Place<'_>) {
    iscsi_fields(
        e,
        path,
        v,
        "must be valid format starting with iqn, eui, or naa",
    );
}

/// The fields that pods' and persistent volumes' iSCSI sources share.
pub fn iscsi_fields(e: &mut Errors, path: &Path, v: &Value, unknown: &str) {
    require(
        e,
        path,
        v,
        &[("targetPortal", "targetPortal"), ("iqn", "iqn")],
    );
    let iqn = v.text("iqn");
    if !iqn.is_empty() {
        if !known_iscsi(iqn) {
            e.invalid(&path.child("iqn"), iqn, unknown);
        } else if !well_formed_iscsi(iqn) {
            e.invalid(&path.child("iqn"), iqn, "must be valid format");
        }
    }
    let lun = v.int("lun");
    each_int(e, &path.child("lun"), lun, in_range(lun, 0, 255));
    if (v.flag("chapAuthDiscovery") || v.flag("chapAuthSession")) && !v.has("secretRef") {
        e.required(&path.child("secretRef"), "");
    }
    if let Some(i) = v.text_opt("initiatorName") {
        if !known_iscsi(i) {
            e.invalid(&path.child("initiatorname"), i, unknown);
        } else if !well_formed_iscsi(i) {
            e.invalid(&path.child("initiatorname"), i, "must be valid format");
        }
    }
}

/// `flocker`.
pub fn flocker(e: &mut Errors, path: &Path, v: &Value, _: &Place<'_>) {
    let (name, uuid) = (v.text("datasetName"), v.text("datasetUUID"));
    if name.is_empty() && uuid.is_empty() {
        e.required(path, "one of datasetName and datasetUUID is required");
    }
    if !name.is_empty() && !uuid.is_empty() {
        e.invalid(
            path,
            "resource",
            "datasetName and datasetUUID can not be specified simultaneously",
        );
    }
    if name.contains('/') {
        e.invalid(&path.child("datasetName"), name, "must not contain '/'");
    }
}

fn secret_ref_name(e: &mut Errors, path: &Path, v: &Value) {
    if v.has("secretRef") && v.text("secretRef.name").is_empty() {
        e.required(&path.child("secretRef").child("name"), "");
    }
}

fn cinder(e: &mut Errors, path: &Path, v: &Value, _: &Place<'_>) {
    require(e, path, v, &[("volumeID", "volumeID")]);
    secret_ref_name(e, path, v);
}

/// `quobyte`.
pub fn quobyte(e: &mut Errors, path: &Path, v: &Value, _: &Place<'_>) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = v.text("registry");
    if registry.is_empty() {
        e.required(&path.child("registry"), PAIRS);
    } else if v.text("tenant").len() >= 65 {
        e.required(
            &path.child("tenant"),
            "must be a UUID and may not exceed a length of 64 characters",
        );
    } else {
        for pair in registry.split(',') {
            if !pair.rsplit_once(':').is_some_and(|(h, _)| {
                h.starts_with('[') == h.ends_with(']') && (h.starts_with('[') || !h.contains(':'))
            }) {
                e.invalid(&path.child("registry"), registry, PAIRS);
            }
        }
    }
    require(e, path, v, &[("volume", "volume")]);
}

fn downward_api(e: &mut Errors, path: &Path, v: &Value, _: &Place<'_>) {
    mode(e, path, v, "defaultMode");
    for file in v.list("items") {
        downward_file(e, path, file);
    }
}

fn downward_file(e: &mut Errors, path: &Path, file: &Value) {
    const PATHS: [&str; 5] = [
        "metadata.annotations",
        "metadata.labels",
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
    ];
    require(e, path, file, &[("path", "path")]);
    local_path(e, &path.child("path"), file.text("path"));
    if file.has("fieldRef") {
        container::field_ref(e, &path.child("fieldRef"), file.at("fieldRef"), &PATHS);
        if file.has("resourceFieldRef") {
            e.invalid(
                path,
                "resource",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            );
        }
    } else if file.has("resourceFieldRef") {
        container::resource_field_ref(
            e,
            &path.child("resourceFieldRef"),
            file.at("resourceFieldRef"),
            true,
        );
    } else {
        e.required(path, "one of fieldRef and resourceFieldRef is required");
    }
    mode(e, path, file, "mode");
}

/// `fc`.
pub fn fc(e: &mut Errors, path: &Path, v: &Value, _: &Place<'_>) {
    let (wwns, wwids) = (v.at("targetWWNs"), v.at("wwids"));
    if wwns.is_blank() && wwids.is_blank() {
        e.required(
            &path.child("targetWWNs"),
            "must specify either targetWWNs or wwids, but not both",
        );
    }
    if !wwns.is_blank() && !wwids.is_blank() {
        e.invalid(
            &path.child("targetWWNs"),
            wwns.clone(),
            "targetWWNs and wwids can not be specified simultaneously",
        );
    }
    if !wwns.is_blank() {
        match v.int_opt("lun") {
            None => e.required(
                &path.child("lun"),
                "lun is required if targetWWNs is specified",
            ),
            Some(lun) => each_int(e, &path.child("lun"), lun, in_range(lun, 0, 255)),
        }
    }
}

/// `flexVolume`.
pub fn flex(e: &mut Errors, path: &Path, v: &Value, _: &Place<'_>) {
    require(e, path, v, &[("driver", "driver")]);
    for k in v.map("options").keys() {
        let namespace = k.split_once('/').map_or(k.as_str(), |(n, _)| n);
        let normal = format!(".{}", namespace.to_lowercase());
        if normal.ends_with(".kubernetes.io") || normal.ends_with(".k8s.io") {
            e.invalid(
                &path.child("options").key(k),
                k.as_str(),
                "kubernetes.io and k8s.io namespaces are reserved",
            );
        }
    }
}

/// `azureDisk`.
pub fn azure_disk(e: &mut Errors, path: &Path, v: &Value, _: &Place<'_>) {
    require(
        e,
        path,
        v,
        &[("diskName", "diskName"), ("diskURI", "diskURI")],
    );
    let one_of = |e: &mut Errors, key: &str, allowed: &[&str]| {
        if let Some(x) = v.text_opt(key)
            && !allowed.contains(&x)
        {
            e.not_supported(&path.child(key), x, allowed);
        }
    };
    one_of(e, "cachingMode", &["None", "ReadOnly", "ReadWrite"]);
    one_of(e, "kind", &["Dedicated", "Managed", "Shared"]);
    let uri = v.text("diskURI");
    match v.text_opt("kind") {
        Some("Managed") if !uri.starts_with("/subscriptions/") => e.not_supported(&path.child("diskURI"), uri, &[
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
        ]),
        Some(k) if k != "Managed" && !uri.starts_with("https://") => {
            e.not_supported(&path.child("diskURI"), uri, &[
                "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd",
            ]);
        }
        _ => {}
    }
}

/// `storageos`.
pub fn storage_os(e: &mut Errors, path: &Path, v: &Value, _: &Place<'_>) {
    let name = v.text("volumeName");
    if name.is_empty() {
        e.required(&path.child("volumeName"), "");
    } else {
        each(e, &path.child("volumeName"), name, dns1123_label(name));
    }
    let ns = v.text("volumeNamespace");
    if !ns.is_empty() {
        each(e, &path.child("volumeNamespace"), ns, dns1123_label(ns));
    }
    secret_ref_name(e, path, v);
}

/// The name of a CSI driver.
pub fn csi_driver_name(e: &mut Errors, path: &Path, driver: &str) {
    if driver.is_empty() {
        e.required(path, "");
        return;
    }
    if driver.len() > 63 {
        e.too_long(path, 63);
    }
    each(e, path, driver, dns1123_subdomain(&driver.to_lowercase()));
}

fn csi(e: &mut Errors, path: &Path, v: &Value, _: &Place<'_>) {
    csi_driver_name(e, &path.child("driver"), v.text("driver"));
    if v.has("nodePublishSecretRef") {
        let name = v.text("nodePublishSecretRef.name");
        if name.is_empty() {
            e.required(&path.child("nodePublishSecretRef").child("name"), "");
        } else {
            each(e, &path.child("name"), name, dns1123_subdomain(name));
        }
    }
}

fn ephemeral(e: &mut Errors, path: &Path, v: &Value, _: &Place<'_>) {
    let path = path.child("volumeClaimTemplate");
    let template = v.at("volumeClaimTemplate");
    if template.is_null() {
        e.required(&path, "");
    } else {
        meta::template_meta(e, &path.child("metadata"), template.at("metadata"));
        claim_spec(e, &path.child("spec"), template.at("spec"));
    }
}

fn image(e: &mut Errors, path: &Path, v: &Value, place: &Place<'_>) {
    if place.is_pod {
        require(e, path, v, &[("reference", "reference")]);
    }
    container::pull_policy(e, &path.child("pullPolicy"), v.text("pullPolicy"));
}

fn projected(e: &mut Errors, path: &Path, v: &Value, _: &Place<'_>) {
    mode(e, path, v, "defaultMode");
    let mut seen = BTreeSet::new();
    for (i, s) in v.list("sources").iter().enumerate() {
        let here = path.child("sources").index(i);
        let mut kinds = 0;
        for kind in ["secret", "configMap"] {
            let p = s.at(kind);
            if p.is_null() {
                continue;
            }
            kinds += 1;
            let own = here.child(kind);
            require(e, &own, p, &[("name", "name")]);
            for (j, item) in p.list("items").iter().enumerate() {
                key_to_path(e, &own.child("items").index(j), item);
                once(e, path, &mut seen, item.text("path"), p.text("name"));
            }
        }
        if s.has("downwardAPI") {
            kinds += 1;
            for file in s.list("downwardAPI.items") {
                downward_file(e, &here.child("downwardAPI"), file);
                once(e, path, &mut seen, file.text("path"), file.text("path"));
            }
        }
        if s.has("serviceAccountToken") {
            kinds += 1;
            token_source(
                e,
                path,
                &here.child("serviceAccountToken"),
                s.at("serviceAccountToken"),
            );
        }
        if s.has("clusterTrustBundle") {
            kinds += 1;
            trust_bundle(
                e,
                path,
                &here.child("clusterTrustBundle"),
                s.at("clusterTrustBundle"),
                &mut seen,
            );
        }
        if s.has("podCertificate") {
            kinds += 1;
            pod_certificate(
                e,
                path,
                &here.child("podCertificate"),
                s.at("podCertificate"),
                &mut seen,
            );
        }
        if kinds > 1 {
            e.forbidden(&here, "may not specify more than 1 volume type per source");
        }
    }
}

fn once<'a>(e: &mut Errors, path: &Path, seen: &mut BTreeSet<&'a str>, at: &'a str, shown: &str) {
    if !at.is_empty() && !seen.insert(at) {
        e.invalid(path, shown, "conflicting duplicate paths");
    }
}

fn token_source(e: &mut Errors, volume: &Path, path: &Path, v: &Value) {
    let seconds = v.int("expirationSeconds");
    let p = path.child("expirationSeconds");
    if seconds < 600 {
        e.invalid(
            &p,
            seconds,
            "may not specify a duration less than 10 minutes",
        );
    }
    if seconds > 1 << 32 {
        e.invalid(
            &p,
            seconds,
            "may not specify a duration larger than 2^32 seconds",
        );
    }
    match v.text("path") {
        "" => e.required(&volume.child("path"), ""),
        file => local_path(e, &volume.child("path"), file),
    }
}

fn trust_bundle<'a>(
    e: &mut Errors,
    volume: &Path,
    path: &Path,
    v: &'a Value,
    seen: &mut BTreeSet<&'a str>,
) {
    match (v.text_opt("name"), v.text_opt("signerName")) {
        (Some(_), Some(_)) => e.invalid_shown(
            path,
            &shown::internal("v1", "ClusterTrustBundleProjection", v),
            "only one of name and signerName may be used",
        ),
        (Some(name), None) => {
            if name.is_empty() {
                e.required(&path.child("name"), "must be a valid object name");
            }
            let own = name.rsplit_once(':').map_or(name, |(_, n)| n);
            for m in dns1123_subdomain(own) {
                e.invalid(
                    &path.child("name"),
                    name,
                    &format!("not a valid clustertrustbundlename: {m}"),
                );
            }
            if v.has("labelSelector") {
                e.invalid_shown(
                    &path.child("labelSelector"),
                    &shown::served("v1", "LabelSelector", v.at("labelSelector")),
                    "labelSelector must be unset if name is specified",
                );
            }
        }
        (None, Some(signer)) => {
            if signer.is_empty() {
                e.required(&path.child("signerName"), "must be a valid signer name");
            }
            signer_name(e, &path.child("signerName"), signer);
            meta::selector(e, &path.child("labelSelector"), v.at("labelSelector"));
        }
        (None, None) => e.required(path, "either name or signerName must be specified"),
    }
    let file = v.text("path");
    if file.is_empty() {
        e.required(&path.child("path"), "");
    }
    local_path(e, &path.child("path"), file);
    if !seen.insert(file) {
        e.invalid(volume, file, "conflicting duplicate paths");
    }
}

fn pod_certificate<'a>(
    e: &mut Errors,
    volume: &Path,
    path: &Path,
    v: &'a Value,
    seen: &mut BTreeSet<&'a str>,
) {
    const KEYS: [&str; 6] = [
        "RSA3072",
        "RSA4096",
        "ECDSAP256",
        "ECDSAP384",
        "ECDSAP521",
        "ED25519",
    ];
    signer_name(e, &path.child("signerName"), v.text("signerName"));
    for k in v.map("userAnnotations").keys() {
        domain_key(e, &path.child("userAnnotations"), &k.to_lowercase());
    }
    if !KEYS.contains(&v.text("keyType")) {
        e.not_supported(&path.child("keyType"), v.text("keyType"), &KEYS);
    }
    if let Some(s) = v.int_opt("maxExpirationSeconds") {
        let p = path.child("maxExpirationSeconds");
        if s < 3600 {
            e.invalid(&p, s, "if provided, maxExpirationSeconds must be >= 3600");
        }
        let domain = v.text("signerName").split('/').next().unwrap_or_default();
        let ours = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
        let max = if ours { 86_400 } else { 7_862_400 };
        if s > max {
            e.invalid(
                &p,
                s,
                &format!("if provided, maxExpirationSeconds must be <= {max}"),
            );
        }
    }
    let mut any = false;
    for key in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
        let file = v.text(key);
        if file.is_empty() {
            continue;
        }
        any = true;
        local_path(e, &path.child(key), file);
        once(e, volume, seen, file, file);
    }
    if !any {
        e.required(
            path,
            "specify at least one of credentialBundlePath, keyPath, and certificateChainPath",
        );
    }
}

fn domain_key(e: &mut Errors, path: &Path, key: &str) {
    if key.is_empty() {
        e.required(path, "");
        return;
    }
    let messages = qualified_name(key);
    if messages.is_empty() && !key.contains('/') {
        e.invalid(
            path,
            key,
            "must be a domain-prefixed key (such as \"acme.io/foo\")",
        );
    }
    each(e, path, key, messages);
}

/// The name of a certificate signer: a domain and a path.
pub fn signer_name(e: &mut Errors, path: &Path, signer: &str) {
    const MAX_DOMAIN: usize = 253;
    const MAX_PATH: usize = 253 + 1 + 63;
    if signer.is_empty() {
        e.required(path, "");
        return;
    }
    let segments: Vec<&str> = signer.split('/').collect();
    let [domain, name] = segments.as_slice() else {
        e.invalid(
            path,
            signer,
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        );
        return;
    };
    if domain.len() > MAX_DOMAIN {
        e.too_long(path, MAX_DOMAIN);
    }
    if let Some(bad) = domain.split('.').find(|l| !dns1123_label(l).is_empty()) {
        for m in dns1123_label(bad) {
            e.invalid(path, *domain, &format!("validating label {bad:?}: {m}"));
        }
    }
    if domain.split('.').count() < 2 {
        e.invalid(
            path,
            *domain,
            "should be a domain with at least two segments separated by dots",
        );
    }
    if let Some(bad) = name.split('.').find(|l| !dns1123_subdomain(l).is_empty()) {
        for m in dns1123_subdomain(bad) {
            e.invalid(path, *name, &format!("validating label {bad:?}: {m}"));
        }
    }
    if name.len() > MAX_PATH {
        e.too_long(path, MAX_PATH);
    }
}

const ACCESS_MODES: [&str; 4] = [
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];
const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];

/// `accessModes` of claims and volumes.
pub fn access_modes(e: &mut Errors, path: &Path, modes: &[&str]) {
    for m in modes {
        if !ACCESS_MODES.contains(m) {
            e.not_supported(path, *m, &ACCESS_MODES);
        }
    }
    let known = modes
        .iter()
        .any(|m| ACCESS_MODES.contains(m) && *m != "ReadWriteOncePod");
    if modes.contains(&"ReadWriteOncePod") && known {
        e.forbidden(path, "may not use ReadWriteOncePod with other access modes");
    }
}

/// `volumeMode` of claims and volumes.
pub fn volume_mode(e: &mut Errors, path: &Path, spec: &Value) {
    if let Some(m) = spec.text_opt("volumeMode")
        && !VOLUME_MODES.contains(&m)
    {
        e.not_supported(&path.child("volumeMode"), m, &VOLUME_MODES);
    }
}

/// The spec of a PersistentVolumeClaim or of a claim template.
pub fn claim_spec(e: &mut Errors, path: &Path, spec: &Value) {
    let modes = spec.texts("accessModes");
    if modes.is_empty() {
        e.required(
            &path.child("accessModes"),
            "at least 1 access mode is required",
        );
    }
    meta::selector(e, &path.child("selector"), spec.at("selector"));
    access_modes(e, &path.child("accessModes"), &modes);
    let storage = path.child("resources").key("storage");
    match spec.map("resources.requests").get("storage") {
        None => e.required(&storage, ""),
        Some(q) if !quant::of(q).is_positive() => {
            e.invalid(
                &storage,
                quant::of(q).to_string(),
                "must be greater than zero",
            );
        }
        Some(_) => {}
    }
    let class = |e: &mut Errors, key: &str| {
        let name = spec.text(key);
        if !name.is_empty() {
            each(e, &path.child(key), name, dns1123_subdomain(name));
        }
    };
    class(e, "storageClassName");
    volume_mode(e, path, spec);
    let (source, reference) = (spec.at("dataSource"), spec.at("dataSourceRef"));
    for (key, v) in [("dataSource", source), ("dataSourceRef", reference)] {
        if v.is_null() {
            continue;
        }
        let p = path.child(key);
        require(e, &p, v, &[("name", "name"), ("kind", "kind")]);
        let group = v.text("apiGroup");
        if group.is_empty() && v.text("kind") != "PersistentVolumeClaim" {
            e.invalid(
                &p,
                v.text("kind"),
                "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            );
        }
        if !group.is_empty() {
            each(e, &p.child("apiGroup"), group, dns1123_subdomain(group));
        }
        if key == "dataSourceRef" && !v.text("namespace").is_empty() {
            each(
                e,
                &p.child("namespace"),
                v.text("namespace"),
                dns1123_label(v.text("namespace")),
            );
        }
    }
    if !reference.text("namespace").is_empty() {
        if !source.is_null() {
            e.invalid_shown(
                path,
                "{}",
                "may not be specified when dataSourceRef.namespace is specified",
            );
        }
    } else if !source.is_null() && !reference.is_null() {
        let alike = ["apiGroup", "kind", "name"]
            .iter()
            .all(|k| source.at(k) == reference.at(k));
        if !alike {
            e.invalid_shown(path, "{}", "must match dataSourceRef");
        }
    }
    class(e, "volumeAttributesClassName");
}
