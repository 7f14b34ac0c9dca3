//! Volumes, claims and nodes: which volume a claim may have, and on which nodes a volume can be used. What the binder of the
//! controller manager, the scheduler and the kubelet agree on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::quantity::Quantity;

/// A claim with it is bound on both sides.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The binding was not made by a person.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// The class, where it is older than its field.
pub const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// The node that a volume is to be made for.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The provisioner of classes for which nobody makes volumes.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// The binding mode of classes whose claims are bound when a pod that uses them is placed.
pub const WAIT_FOR_FIRST_CONSUMER: &str = "WaitForFirstConsumer";

/// In-tree provisioners, and the drivers that have taken their places.
pub const MIGRATED: &[(&str, &str)] = &[
    ("kubernetes.io/aws-ebs", "ebs.csi.aws.com"),
    ("kubernetes.io/azure-disk", "disk.csi.azure.com"),
    ("kubernetes.io/azure-file", "file.csi.azure.com"),
    ("kubernetes.io/cinder", "cinder.csi.openstack.org"),
    ("kubernetes.io/gce-pd", "pd.csi.storage.gke.io"),
    ("kubernetes.io/portworx-volume", "pxd.portworx.com"),
    ("kubernetes.io/vsphere-volume", "csi.vsphere.vmware.com"),
];

/// The driver that has taken the place of an in-tree provisioner.
pub fn migrated(provisioner: &str) -> Option<&'static str> {
    let found = MIGRATED.iter().find(|(old, _)| *old == provisioner);
    found.map(|(_, new)| *new)
}

/// `v1.NodeSelector`: terms of which one must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSelector {
    /// Alternatives.
    pub node_selector_terms: Vec<NodeSelectorTerm>,
}

/// Requirements of which all must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSelectorTerm {
    /// About labels.
    pub match_expressions: Vec<Requirement>,
    /// About fields: metadata.name alone.
    pub match_fields: Vec<Requirement>,
}

/// `key operator values`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Requirement {
    /// Label key or field.
    pub key: String,
    /// In, NotIn, Exists, DoesNotExist, Gt, Lt.
    pub operator: String,
    /// Values.
    pub values: Vec<String>,
}

impl Requirement {
    /// Whether what stands under the key satisfies it.
    pub fn matches(&self, value: Option<&str>) -> bool {
        match self.operator.as_str() {
            "In" => value.is_some_and(|v| self.values.iter().any(|w| w == v)),
            "NotIn" => !value.is_some_and(|v| self.values.iter().any(|w| w == v)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "Gt" | "Lt" => {
                let (Some(v), [w]) = (value, self.values.as_slice()) else {
                    return false;
                };
                let (Ok(v), Ok(w)) = (v.parse::<i64>(), w.parse::<i64>()) else {
                    return false;
                };
                if self.operator == "Gt" { v > w } else { v < w }
            }
            _ => false,
        }
    }
}

impl NodeSelectorTerm {
    /// Whether all requirements hold for a node; `None` for a name that is of no matter. A term without requirements matches
    /// nothing.
    pub fn matches(&self, name: Option<&str>, labels: &BTreeMap<String, String>) -> bool {
        if self.match_expressions.is_empty() && self.match_fields.is_empty() {
            return false;
        }
        let label = |r: &Requirement| r.matches(labels.get(&r.key).map(String::as_str));
        let field = |r: &Requirement| r.key == "metadata.name" && r.matches(name);
        self.match_expressions.iter().all(label) && self.match_fields.iter().all(field)
    }
}

impl NodeSelector {
    /// Whether one of the terms matches. No terms match nothing.
    pub fn matches(&self, name: Option<&str>, labels: &BTreeMap<String, String>) -> bool {
        let mut terms = self.node_selector_terms.iter();
        terms.any(|t| t.matches(name, labels))
    }
}

/// `v1.VolumeNodeAffinity`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeAffinity {
    /// Where the volume can be used; everywhere without.
    pub required: Option<NodeSelector>,
}

/// Whether a volume can be used on a node. The scheduler gives no name, as upstream's does not: it goes by labels.
pub fn usable_on(
    affinity: Option<&NodeAffinity>,
    name: Option<&str>,
    labels: &BTreeMap<String, String>,
) -> bool {
    let required = affinity.and_then(|a| a.required.as_ref());
    required.is_none_or(|terms| terms.matches(name, labels))
}

/// A claim, as far as it decides which volume fits.
pub trait Claim {
    /// `metadata.name`
    fn name(&self) -> &str;
    /// `metadata.namespace`
    fn namespace(&self) -> &str;
    /// `metadata.uid`
    fn uid(&self) -> &str;
    /// The class that it asks for; empty for none.
    fn class(&self) -> &str;
    /// `spec.accessModes`
    fn access_modes(&self) -> &[String];
    /// What it asks for at least.
    fn size(&self) -> Quantity;
    /// `spec.volumeMode`
    fn mode(&self) -> Option<&str>;
    /// `spec.volumeAttributesClassName`; empty for none.
    fn attributes_class(&self) -> &str;
    /// Whether its selector, if there is one, selects a volume of these labels.
    fn selects(&self, labels: &BTreeMap<String, String>) -> bool;
}

/// A volume, as far as it decides whom it fits.
pub trait Volume {
    /// `metadata.labels`
    fn labels(&self) -> &BTreeMap<String, String>;
    /// Its class; empty for none.
    fn class(&self) -> &str;
    /// `spec.accessModes`
    fn access_modes(&self) -> &[String];
    /// What it holds.
    fn size(&self) -> Quantity;
    /// `spec.volumeMode`
    fn mode(&self) -> Option<&str>;
    /// `spec.volumeAttributesClassName`; empty for none.
    fn attributes_class(&self) -> &str;
    /// `status.phase`
    fn phase(&self) -> &str;
    /// Whether deletion was asked for.
    fn is_deleting(&self) -> bool;
    /// Namespace, name and UID of the claim it refers to; the UID is empty when a person reserved it by name.
    fn reference(&self) -> Option<(&str, &str, &str)>;
}

/// Whether a volume refers to a claim, before or after it was bound.
pub fn refers_to(volume: &impl Volume, claim: &impl Claim) -> bool {
    volume.reference().is_some_and(|(namespace, name, uid)| {
        name == claim.name()
            && namespace == claim.namespace()
            && (uid.is_empty() || uid == claim.uid())
    })
}

/// Whether both are file systems, or both devices.
pub fn same_mode(volume: &impl Volume, claim: &impl Claim) -> bool {
    volume.mode().unwrap_or("Filesystem") == claim.mode().unwrap_or("Filesystem")
}

/// Whether both name one class of attributes, or none.
pub fn same_attributes(volume: &impl Volume, claim: &impl Claim) -> bool {
    volume.attributes_class() == claim.attributes_class()
}

/// Whether the volume can be had in every way that the claim asks for.
pub fn has_access(volume: &impl Volume, claim: &impl Claim) -> bool {
    let has = |m| volume.access_modes().contains(m);
    claim.access_modes().iter().all(has)
}

/// What holds for every volume that a claim may get, a reserved one too: it is nobody else's, stays, is large enough and of
/// the same kind.
pub fn suits(volume: &impl Volume, claim: &impl Claim) -> bool {
    !volume.is_deleting()
        && (volume.reference().is_none() || refers_to(volume, claim))
        && same_mode(volume, claim)
        && same_attributes(volume, claim)
        && volume.size() >= claim.size()
}

/// What holds beside that for one that is not reserved for the claim: it is free, of the class, and selected. Access modes are
/// another matter.
pub fn is_free_for(volume: &impl Volume, claim: &impl Claim) -> bool {
    volume.phase() == "Available"
        && volume.class() == claim.class()
        && claim.selects(volume.labels())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        pairs.iter().map(owned).collect()
    }

    fn selector(json: serde_json::Value) -> NodeSelector {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn one_term_of_several_and_all_of_its_requirements() {
        use serde_json::json;
        let r = |key: &str, operator: &str, values: &[&str]| json!({"key": key, "operator": operator, "values": values});
        let terms = |terms: &[serde_json::Value]| {
            let of = |t: &serde_json::Value| json!({"matchExpressions": t});
            selector(json!({"nodeSelectorTerms": terms.iter().map(of).collect::<Vec<_>>()}))
        };
        let node = labels(&[("zone", "a"), ("disks", "4")]);
        for (s, want) in [
            (terms(&[json!([r("zone", "In", &["a", "b"])])]), true),
            (terms(&[json!([r("zone", "In", &["b"])])]), false),
            (
                terms(&[
                    json!([r("zone", "In", &["b"])]),
                    json!([r("disks", "Gt", &["3"])]),
                ]),
                true,
            ),
            (
                terms(&[json!([r("zone", "In", &["a"]), r("disks", "Lt", &["4"])])]),
                false,
            ),
            (terms(&[json!([r("gpu", "DoesNotExist", &[])])]), true),
            (terms(&[json!([r("gpu", "NotIn", &["x"])])]), true),
            (terms(&[json!([r("gpu", "Exists", &[])])]), false),
            (terms(&[json!([r("zone", "Near", &["a"])])]), false),
            (terms(&[json!([])]), false),
            (terms(&[]), false),
        ] {
            let affinity = NodeAffinity { required: Some(s) };
            assert_eq!(
                usable_on(Some(&affinity), None, &node),
                want,
                "{affinity:?}"
            );
        }
        assert!(usable_on(None, None, &node));
        assert!(usable_on(Some(&NodeAffinity::default()), None, &node));
        let by_name = selector(
            json!({"nodeSelectorTerms": [{"matchFields": [r("metadata.name", "In", &["n"])]}]}),
        );
        assert!(by_name.matches(Some("n"), &node) && !by_name.matches(Some("m"), &node));
        assert!(!by_name.matches(None, &node), "nobody asks for the name");
    }

    #[test]
    fn drivers_take_the_places_of_what_was_in_the_tree() {
        assert_eq!(
            migrated("kubernetes.io/cinder"),
            Some("cinder.csi.openstack.org")
        );
        assert_eq!(migrated(NO_PROVISIONER), None);
        assert_eq!(migrated("ebs.csi.aws.com"), None);
    }
}
