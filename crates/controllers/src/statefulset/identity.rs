//! Who a pod of a StatefulSet is: its name, labels and volumes, and the claims that are its own.

use std::collections::{HashMap, HashSet};

use client::resource::{PODS, STATEFUL_SETS};
use client::{ObjectMeta, OwnerReference, Resource};
use serde_json::{Map, Value, json};

use crate::children::{controller_reference, pod_from_template};
use crate::views::{Pod, StatefulSet};

/// Label of a pod: its own name.
pub const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// Label of a pod: its ordinal.
pub const POD_INDEX: &str = "apps.kubernetes.io/pod-index";
/// Label of a pod: the name of its revision.
pub const REVISION: &str = "controller-revision-hash";

/// The set that a pod's name says it is of, and its ordinal if that is a number that fits. `None` for other names.
pub fn parent(pod: &str) -> Option<(&str, Option<i32>)> {
    let (set, ordinal) = pod.rsplit_once('-')?;
    let digits = !ordinal.is_empty() && ordinal.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| (set, ordinal.parse().ok()))
}

/// The ordinal in a pod's name.
pub fn ordinal(pod: &str) -> Option<i64> {
    parent(pod).and_then(|(_, o)| o).map(i64::from)
}

/// First ordinal.
pub fn first_ordinal(set: &StatefulSet) -> i64 {
    i64::from(set.spec.ordinals.start.max(0))
}

/// Number of pods wanted, as far as there are ordinals.
pub fn replicas(set: &StatefulSet) -> i64 {
    let ordinals = i64::from(i32::MAX) - first_ordinal(set) + 1;
    i64::from(set.spec.replicas.unwrap_or(1).max(0)).min(ordinals)
}

/// Whether a pod of the ordinal is wanted.
pub fn in_range(set: &StatefulSet, ordinal: i64) -> bool {
    (first_ordinal(set)..first_ordinal(set) + replicas(set)).contains(&ordinal)
}

/// Name of the pod with an ordinal.
pub fn pod_name(set: &StatefulSet, ordinal: i64) -> String {
    format!("{}-{ordinal}", set.metadata.name)
}

/// The names of a set's claim templates.
fn templates(set: &StatefulSet) -> impl Iterator<Item = (&str, &Value)> {
    set.spec.volume_claim_templates.iter().map(|t| {
        let name = t.pointer("/metadata/name").and_then(Value::as_str);
        (name.unwrap_or_default(), t)
    })
}

fn claim_name(set: &StatefulSet, template: &str, ordinal: i64) -> String {
    format!("{template}-{}-{ordinal}", set.metadata.name)
}

/// The names of the claims of the pod with an ordinal.
pub fn claim_names(set: &StatefulSet, ordinal: i64) -> impl Iterator<Item = String> {
    templates(set).map(move |(name, _)| claim_name(set, name, ordinal))
}

/// The claims of the pod with an ordinal, by name.
pub fn claims(set: &StatefulSet, ordinal: i64) -> impl Iterator<Item = (String, Value)> {
    templates(set).map(move |(template, claim)| {
        let name = claim_name(set, template, ordinal);
        let mut claim = claim.clone();
        if let Some(claim) = claim.as_object_mut() {
            claim.insert("apiVersion".into(), "v1".into());
            claim.insert("kind".into(), "PersistentVolumeClaim".into());
            let m = claim.entry("metadata").or_insert_with(|| json!({}));
            if let Some(m) = m.as_object_mut() {
                m.insert("name".into(), name.as_str().into());
                m.insert("namespace".into(), set.metadata.namespace.as_str().into());
                put_labels(m, &set.spec.selector.match_labels);
            }
        }
        (name, claim)
    })
}

/// Sets may be named so that others' claims look like theirs: the sets that a claim's name may be of.
pub fn sets_of_claim(claim: &str) -> impl Iterator<Item = &str> {
    let set = parent(claim).map_or("", |(set, _)| set);
    set.match_indices('-')
        .filter_map(move |(i, _)| set.get(i + 1..))
}

fn put_labels<'a>(
    metadata: &mut Map<String, Value>,
    labels: impl IntoIterator<Item = (&'a String, &'a String)>,
) {
    let mut labels = labels.into_iter().peekable();
    if labels.peek().is_none() {
        return;
    }
    if let Some(all) = object(metadata, "labels") {
        all.extend(labels.map(|(k, v)| (k.clone(), v.as_str().into())));
    }
}

/// The object in a field, made where there is none.
fn object<'a>(of: &'a mut Map<String, Value>, field: &str) -> Option<&'a mut Map<String, Value>> {
    let value = of.entry(field).or_insert(Value::Null);
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut()
}

/// Whether a pod of the set has the name and labels that it should.
pub fn identity_matches(set: &StatefulSet, pod: &Pod) -> bool {
    let m = &pod.metadata;
    ordinal(&m.name).is_some_and(|o| m.name == pod_name(set, o))
        && m.namespace == set.metadata.namespace
        && m.labels.get(POD_NAME) == Some(&m.name)
}

/// Whether a pod's volumes are its claims.
pub fn storage_matches(set: &StatefulSet, pod: &Pod) -> bool {
    let Some(ordinal) = ordinal(&pod.metadata.name) else {
        return false;
    };
    // Of volumes with one name the last counts.
    let claimed: HashMap<&str, Option<&str>> = pod
        .spec
        .claims
        .iter()
        .map(|v| {
            let claim = v.persistent_volume_claim.as_ref();
            (v.name.as_str(), claim.map(|c| c.claim_name.as_str()))
        })
        .collect();
    templates(set).all(|(name, _)| {
        claimed.get(name).copied().flatten() == Some(claim_name(set, name, ordinal).as_str())
    })
}

/// Gives a pod the labels and volumes that the pod with its ordinal has.
pub fn mend(set: &StatefulSet, pod: &mut Value, ordinal: i64) {
    let name = pod_name(set, ordinal);
    let Some(pod) = pod.as_object_mut() else {
        return;
    };
    if let Some(m) = object(pod, "metadata") {
        m.insert("name".into(), name.as_str().into());
        m.insert("namespace".into(), set.metadata.namespace.as_str().into());
        let labels = [
            (POD_NAME.to_owned(), name),
            (POD_INDEX.to_owned(), ordinal.to_string()),
        ];
        put_labels(m, labels.iter().map(|(k, v)| (k, v)));
    }
    if set.spec.volume_claim_templates.is_empty() {
        return;
    }
    let Some(spec) = object(pod, "spec") else {
        return;
    };
    let mut volumes: Vec<Value> = templates(set)
        .map(|(volume, _)| {
            let claim = claim_name(set, volume, ordinal);
            json!({"name": volume, "persistentVolumeClaim": {"claimName": claim}})
        })
        .collect();
    if let Some(Value::Array(others)) = spec.remove("volumes") {
        let claimed: HashSet<&str> = templates(set).map(|(name, _)| name).collect();
        let own = |v: &Value| {
            let name = v.get("name").and_then(Value::as_str);
            name.is_some_and(|name| claimed.contains(name))
        };
        volumes.extend(others.into_iter().filter(|v| !own(v)));
    }
    spec.insert("volumes".into(), volumes.into());
}

/// The pod with an ordinal, made from a template that is the set's at a revision.
pub fn pod(set: &StatefulSet, template: &Value, revision: &str, ordinal: i64) -> Value {
    let owner = controller_reference(&STATEFUL_SETS, &set.metadata);
    let mut pod = pod_from_template(template, &set.metadata.name, owner);
    mend(set, &mut pod, ordinal);
    let Some(o) = pod.as_object_mut() else {
        return pod;
    };
    if let Some(m) = object(o, "metadata") {
        put_labels(m, [(&REVISION.to_owned(), &revision.to_owned())]);
    }
    if let Some(spec) = object(o, "spec") {
        // These are not changed later.
        spec.insert("hostname".into(), pod_name(set, ordinal).into());
        let subdomain = set.spec.service_name.as_str();
        if subdomain.is_empty() {
            spec.remove("subdomain");
        } else {
            spec.insert("subdomain".into(), subdomain.into());
        }
    }
    pod
}

/// A pod as an owner of claims; the UID is empty before it is created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodId {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

/// The owners that the retention policy gives a claim: the set, which it then goes with, or its pod, once that is scaled
/// away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    set: bool,
    pod: bool,
}

fn wanted(set: &StatefulSet, pod: &PodId) -> Wanted {
    let (deleted, scaled) = policy(set);
    let gone = !ordinal(&pod.name).is_some_and(|o| in_range(set, o));
    Wanted {
        set: deleted && !(scaled && gone),
        pod: scaled && gone,
    }
}

/// Whether claims go with their set, and with pods that are scaled away. An unknown policy keeps them.
fn policy(set: &StatefulSet) -> (bool, bool) {
    let known = |p: &str| matches!(p, "Delete" | "Retain");
    match &set.spec.persistent_volume_claim_retention_policy {
        Some(p) if known(&p.when_deleted) && known(&p.when_scaled) => {
            (p.when_deleted == "Delete", p.when_scaled == "Delete")
        }
        _ => (false, false),
    }
}

/// Whether an owner is named as the object is, be it the same one or not.
fn names(reference: &OwnerReference, resource: &Resource, name: &str) -> bool {
    reference.api_version == resource.api_version()
        && reference.kind == resource.kind
        && reference.name == name
}

/// An owner's first reference by name is to another object of that name.
fn is_stale(owners: &[OwnerReference], resource: &Resource, name: &str, uid: &str) -> bool {
    owners
        .iter()
        .find(|r| names(r, resource, name))
        .is_some_and(|r| r.uid != uid)
}

/// Whether a claim is an earlier pod's of the same name, which will go and take it along; the new pod must not have it.
pub fn claim_is_stale(set: &StatefulSet, owners: &[OwnerReference], pod: &PodId) -> bool {
    policy(set).1 && is_stale(owners, &PODS, &pod.name, &pod.uid)
}

/// Whether something else manages a claim that the retention policy is to be applied to.
pub fn conflicts(set: &StatefulSet, owners: &[OwnerReference], pod: &PodId) -> bool {
    if policy(set) == (false, false) {
        return false;
    }
    owners.iter().any(|r| {
        if names(r, &STATEFUL_SETS, &set.metadata.name) {
            r.uid != set.metadata.uid
        } else if names(r, &PODS, &pod.name) {
            r.uid != pod.uid
        } else {
            r.controller == Some(true)
        }
    })
}

/// Whether a claim's owners are those that the retention policy asks for, or should not be touched.
pub fn owners_match(set: &StatefulSet, owners: &[OwnerReference], pod: &PodId) -> bool {
    let m = &set.metadata;
    if is_stale(owners, &STATEFUL_SETS, &m.name, &m.uid)
        || is_stale(owners, &PODS, &pod.name, &pod.uid)
    {
        return true;
    }
    let has = |uid: &str| owners.iter().any(|r| r.uid == uid);
    if conflicts(set, owners, pod) {
        return !has(&m.uid) && !has(&pod.uid);
    }
    let ours = |r: &&OwnerReference| r.uid == m.uid || r.uid == pod.uid;
    if owners
        .iter()
        .filter(ours)
        .any(|r| r.controller != Some(true))
    {
        return false;
    }
    let wanted = wanted(set, pod);
    wanted.set == has(&m.uid) && wanted.pod == has(&pod.uid)
}

/// The owners that a claim should have.
pub fn owners(set: &StatefulSet, owners: &[OwnerReference], pod: &PodId) -> Vec<OwnerReference> {
    let conflict = conflicts(set, owners, pod);
    let ours = |r: &OwnerReference| {
        names(r, &STATEFUL_SETS, &set.metadata.name) || names(r, &PODS, &pod.name)
    };
    let mut out: Vec<OwnerReference> = owners.iter().filter(|r| !ours(r)).cloned().collect();
    if conflict {
        return out;
    }
    let wanted = wanted(set, pod);
    let mut add = |resource: &Resource, name: &str, uid: &str| {
        if !out.iter().any(|r| r.uid == uid) {
            out.push(OwnerReference {
                api_version: resource.api_version(),
                kind: resource.kind.to_string(),
                name: name.into(),
                uid: uid.into(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            });
        }
    };
    if wanted.pod {
        add(&PODS, &pod.name, &pod.uid);
    }
    if wanted.set {
        add(&STATEFUL_SETS, &set.metadata.name, &set.metadata.uid);
    }
    out
}

impl From<&ObjectMeta> for PodId {
    fn from(meta: &ObjectMeta) -> PodId {
        PodId {
            name: meta.name.clone(),
            uid: meta.uid.clone(),
        }
    }
}
