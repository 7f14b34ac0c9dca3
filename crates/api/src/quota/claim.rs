//! What a PersistentVolumeClaim counts for: itself and its storage, each once in all and once for its storage class.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::scope::Scope;
use super::{Amounts, Countable, Identity, Measured, amounts, count, nullable};
use crate::quantity::Quantity;

const COUNT: &str = "count/persistentvolumeclaims";
const CLAIMS: &str = "persistentvolumeclaims";
const STORAGE: &str = "requests.storage";
const BY_CLASS: &str = ".storageclass.storage.k8s.io/";
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// Whether claims count for what a quota names.
pub fn tracks(name: &str) -> bool {
    let by_class = |of: &str| {
        let class = name.strip_suffix(of);
        class.is_some_and(|c| c.ends_with(BY_CLASS))
    };
    [COUNT, CLAIMS, STORAGE].contains(&name) || by_class(CLAIMS) || by_class(STORAGE)
}

/// The fields that matter.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Claim {
    #[serde(deserialize_with = "nullable")]
    metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    spec: Spec,
    #[serde(deserialize_with = "nullable")]
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Meta {
    #[serde(deserialize_with = "nullable")]
    name: String,
    #[serde(deserialize_with = "nullable")]
    namespace: String,
    #[serde(deserialize_with = "nullable")]
    uid: String,
    #[serde(deserialize_with = "nullable")]
    resource_version: String,
    #[serde(deserialize_with = "nullable")]
    annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    #[serde(deserialize_with = "nullable")]
    storage_class_name: String,
    #[serde(deserialize_with = "nullable")]
    volume_attributes_class_name: String,
    #[serde(deserialize_with = "nullable")]
    resources: Resources,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Resources {
    #[serde(deserialize_with = "amounts")]
    requests: Amounts,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    #[serde(deserialize_with = "amounts")]
    allocated_resources: Amounts,
    #[serde(deserialize_with = "nullable")]
    current_volume_attributes_class_name: String,
    #[serde(deserialize_with = "nullable")]
    modify_volume_status: Modify,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Modify {
    #[serde(deserialize_with = "nullable")]
    target_volume_attributes_class_name: String,
}

/// Whole bytes, rounded up: a quota's status can hold no others.
fn whole(q: Quantity) -> Quantity {
    match q.as_i64() {
        Some(_) => q,
        None => Quantity::new(q.value(), q.format()),
    }
}

impl Claim {
    /// The annotation counts before the field.
    fn class(&self) -> &str {
        let named = self.metadata.annotations.get(CLASS);
        named.map_or(&self.spec.storage_class_name, |c| c)
    }

    /// What is asked for, or what was set aside while a larger size failed.
    fn storage(&self) -> Option<Quantity> {
        let asked = whole(*self.spec.resources.requests.get("storage")?);
        let allocated = self.status.allocated_resources.get("storage");
        let larger = allocated.filter(|a| **a > asked);
        Some(larger.map_or(asked, |a| whole(*a)))
    }
}

impl Countable for Claim {
    fn identity(&self) -> Identity {
        let m = &self.metadata;
        Identity {
            name: m.name.clone(),
            namespace: m.namespace.clone(),
            uid: m.uid.clone(),
            resource_version: m.resource_version.clone(),
        }
    }

    fn measure(&self) -> Measured {
        let mut stored = Amounts::from([COUNT, CLAIMS].map(|n| (n.to_owned(), count(1))));
        let (class, storage) = (self.class(), self.storage());
        stored.extend(storage.map(|q| (STORAGE.to_owned(), q)));
        if !class.is_empty() {
            stored.insert(format!("{class}{BY_CLASS}{CLAIMS}"), count(1));
            stored.extend(storage.map(|q| (format!("{class}{BY_CLASS}{STORAGE}"), q)));
        }
        let classes = [
            &self.spec.volume_attributes_class_name,
            &self.status.current_volume_attributes_class_name,
            &self
                .status
                .modify_volume_status
                .target_volume_attributes_class_name,
        ];
        let classes = classes.into_iter().filter(|c| !c.is_empty()).cloned();
        Measured {
            stored,
            scope: Scope::Claim(classes.collect()),
            ..Measured::default()
        }
    }
}
