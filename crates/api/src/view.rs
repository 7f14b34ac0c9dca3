//! Small serde structs of what most components read of any object. They decode from protobuf (borrowing nothing, so
//! that caches may keep them) and from JSON; every field may be absent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `metadata`, without what components never read (managedFields).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ObjectMetaView {
    /// Unique within namespace and resource.
    pub name: String,
    /// Empty for cluster scope.
    pub namespace: String,
    /// Unique in time and space.
    pub uid: String,
    /// Opaque; grows with each change.
    pub resource_version: String,
    /// Grows with each change of the desired state.
    pub generation: i64,
    /// RFC 3339.
    pub creation_timestamp: Option<String>,
    /// RFC 3339; set when the object is being deleted.
    pub deletion_timestamp: Option<String>,
    /// Seconds of grace, set with `deletion_timestamp`.
    pub deletion_grace_period_seconds: Option<i64>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Owners.
    pub owner_references: Vec<OwnerReferenceView>,
    /// Who must act before the object goes.
    pub finalizers: Vec<String>,
}

/// `metav1.OwnerReference`
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OwnerReferenceView {
    /// `apps/v1`
    pub api_version: String,
    /// `ReplicaSet`
    pub kind: String,
    /// The owner's name.
    pub name: String,
    /// The owner's uid.
    pub uid: String,
    /// Whether the owner is the managing controller.
    pub controller: Option<bool>,
    /// Whether foreground deletion of the owner waits for this object.
    pub block_owner_deletion: Option<bool>,
}

/// An object of which only the metadata is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ObjectView {
    /// Its metadata.
    pub metadata: ObjectMetaView,
}

impl ObjectMetaView {
    /// The managing controller.
    pub fn controller(&self) -> Option<&OwnerReferenceView> {
        self.owner_references
            .iter()
            .find(|r| r.controller == Some(true))
    }

    /// `namespace/name`, or `name` for cluster scope.
    pub fn key(&self) -> String {
        if self.namespace.is_empty() {
            self.name.clone()
        } else {
            format!("{}/{}", self.namespace, self.name)
        }
    }
}
