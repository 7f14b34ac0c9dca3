//! What the scheduler reads of claims, volumes and what they hang on, and of the volumes in pods.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use api::volumes::{BIND_COMPLETED, CLASS, NodeAffinity, SELECTED_NODE};
use serde::{Deserialize, Deserializer};

use crate::view::{LabelSelector, Owner};

/// A volume of a pod that matters to placing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodVolume {
    /// Its name in the pod.
    pub name: String,
    /// What it is.
    pub source: Source,
}

/// What a volume of a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A claim of that name.
    Claim(String),
    /// A claim that is made for the pod.
    Ephemeral,
    /// A volume of a CSI driver that lives as long as the pod.
    Csi(String),
    /// A disk that pods name themselves.
    Disk(Disk),
}

/// A disk that pods or volumes name in the manner of in-tree plugins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disk {
    /// Google's, by name; read only?
    Gce(String, bool),
    /// Amazon's, by volume.
    Aws(String),
    /// By name of the target; read only?
    Iscsi(String, bool),
    /// Of these monitors and pool, by image; read only?
    Rbd(Vec<String>, String, String, bool),
    /// Microsoft's, by URI.
    Azure(String),
    /// OpenStack's, by volume.
    Cinder(String),
    /// Portworx', by volume.
    Portworx(String),
}

impl Disk {
    /// The driver that has taken the plugin's place, and what it calls the disk. Disks that no driver has taken over count
    /// for no limit.
    pub fn migrated(&self) -> Option<(&'static str, &str)> {
        let (plugin, handle) = match self {
            Disk::Gce(name, _) => ("kubernetes.io/gce-pd", name.as_str()),
            // `aws://ZONE/ID` is the volume `ID`.
            Disk::Aws(id) => (
                "kubernetes.io/aws-ebs",
                id.rsplit('/').next().unwrap_or_default(),
            ),
            Disk::Azure(uri) => ("kubernetes.io/azure-disk", uri.as_str()),
            Disk::Cinder(id) => ("kubernetes.io/cinder", id.as_str()),
            Disk::Portworx(id) => ("kubernetes.io/portworx-volume", id.as_str()),
            Disk::Iscsi(..) | Disk::Rbd(..) => return None,
        };
        Some((api::volumes::migrated(plugin)?, handle))
    }
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawDisks {
    name: String,
    persistent_volume_claim: Option<RawClaim>,
    ephemeral: Option<Empty>,
    csi: Option<RawCsi>,
    gce_persistent_disk: Option<RawGce>,
    aws_elastic_block_store: Option<RawId>,
    iscsi: Option<RawIscsi>,
    rbd: Option<RawRbd>,
    azure_disk: Option<RawAzure>,
    cinder: Option<RawId>,
    portworx_volume: Option<RawId>,
}

#[derive(Clone, Default, Deserialize)]
struct Empty {}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawClaim {
    claim_name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawCsi {
    driver: String,
    volume_handle: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawGce {
    pd_name: String,
    read_only: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct RawId {
    #[serde(rename = "volumeID")]
    volume_id: String,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawIscsi {
    iqn: String,
    read_only: bool,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawRbd {
    monitors: Vec<String>,
    pool: String,
    image: String,
    read_only: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct RawAzure {
    #[serde(rename = "diskURI")]
    disk_uri: String,
}

impl RawDisks {
    fn source(self) -> Option<Source> {
        let disk = if let Some(claim) = self.persistent_volume_claim {
            return Some(Source::Claim(claim.claim_name));
        } else if self.ephemeral.is_some() {
            return Some(Source::Ephemeral);
        } else if let Some(csi) = self.csi {
            return Some(Source::Csi(csi.driver));
        } else if let Some(d) = self.gce_persistent_disk {
            Disk::Gce(d.pd_name, d.read_only)
        } else if let Some(d) = self.aws_elastic_block_store {
            Disk::Aws(d.volume_id)
        } else if let Some(d) = self.iscsi {
            Disk::Iscsi(d.iqn, d.read_only)
        } else if let Some(d) = self.rbd {
            Disk::Rbd(d.monitors, d.pool, d.image, d.read_only)
        } else if let Some(d) = self.azure_disk {
            Disk::Azure(d.disk_uri)
        } else if let Some(d) = self.cinder {
            Disk::Cinder(d.volume_id)
        } else {
            Disk::Portworx(self.portworx_volume?.volume_id)
        };
        Some(Source::Disk(disk))
    }
}

#[derive(Default)]
struct Kept(Vec<PodVolume>);

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Kept, D::Error> {
        struct Volumes;
        impl<'de> serde::de::Visitor<'de> for Volumes {
            type Value = Kept;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("volumes")
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut all: A) -> Result<Kept, A::Error> {
                let mut kept = Vec::new();
                while let Some(mut raw) = all.next_element::<RawDisks>()? {
                    let name = std::mem::take(&mut raw.name);
                    kept.extend(raw.source().map(|source| PodVolume { name, source }));
                }
                Ok(Kept(kept))
            }
        }
        d.deserialize_seq(Volumes)
    }
}

/// Reads a pod's volumes and keeps those that matter: nearly all pods have some, few have one of these.
pub fn kept<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<PodVolume>, D::Error> {
    Ok(Option::<Kept>::deserialize(d)?.unwrap_or_default().0)
}

/// Metadata of what hangs together with volumes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// The name.
    pub name: String,
    /// Empty for what belongs to the cluster.
    pub namespace: String,
    /// Identity across deletion and creation anew.
    pub uid: String,
    /// For writes that must not pass over another.
    pub resource_version: String,
    /// Zones and regions of volumes.
    pub labels: BTreeMap<String, String>,
    /// Those of binding alone.
    #[serde(deserialize_with = "of_binding")]
    pub annotations: BTreeMap<String, String>,
    /// Set while the object is being deleted.
    pub deletion_timestamp: Option<String>,
    /// Who made a claim.
    pub owner_references: Vec<Owner>,
}

fn of_binding<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<String, String>, D::Error> {
    let mut all = Option::<BTreeMap<String, String>>::deserialize(d)?.unwrap_or_default();
    all.retain(|k, _| [BIND_COMPLETED, SELECTED_NODE, CLASS].contains(&k.as_str()));
    Ok(all)
}

impl Meta {
    /// `namespace/name`, or `name`.
    pub fn key(&self) -> String {
        key(&self.namespace, &self.name)
    }

    /// The version as the number that it is; 0 for what is none.
    pub fn version(&self) -> u64 {
        self.resource_version.parse().unwrap_or(0)
    }
}

/// `namespace/name`, or `name`.
pub fn key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() {
        name.to_owned()
    } else {
        format!("{namespace}/{name}")
    }
}

/// Reads `storage` of a list of quantities. What is no quantity counts as none.
fn storage<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Quantity>, D::Error> {
    let all = Option::<BTreeMap<String, String>>::deserialize(d)?.unwrap_or_default();
    Ok(all.get("storage").and_then(|t| Quantity::parse(t).ok()))
}

/// A claim.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClaimView {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    pub spec: ClaimSpec,
    /// Status.
    pub status: Phase,
}

/// `PersistentVolumeClaimSpec`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimSpec {
    /// How it is to be used.
    pub access_modes: Vec<String>,
    /// Which volumes it may get.
    pub selector: Option<LabelSelector>,
    /// How much it asks for.
    pub resources: ClaimResources,
    /// The volume that it has or wants.
    pub volume_name: String,
    /// The class; none means the default, once there is one.
    pub storage_class_name: Option<String>,
    /// `Filesystem` or `Block`.
    pub volume_mode: Option<String>,
    /// The class of attributes.
    pub volume_attributes_class_name: Option<String>,
}

/// `VolumeResourceRequirements`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClaimResources {
    /// What it asks for, where it does.
    #[serde(deserialize_with = "storage", rename = "requests")]
    pub storage: Option<Quantity>,
}

/// The status of claims and volumes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Phase {
    /// `Pending`, `Bound`, `Lost`; `Available`, `Bound`, `Released`, `Failed`.
    pub phase: String,
}

impl ClaimView {
    /// Whether volume and claim know of each other.
    pub fn is_bound(&self) -> bool {
        !self.spec.volume_name.is_empty() && self.metadata.annotations.contains_key(BIND_COMPLETED)
    }

    /// Whether it was made for a pod.
    pub fn is_of(&self, uid: &str) -> bool {
        let mut owners = self.metadata.owner_references.iter();
        owners.any(|o| o.controller == Some(true) && o.uid == uid)
    }
}

impl api::volumes::Claim for ClaimView {
    fn name(&self) -> &str {
        &self.metadata.name
    }

    fn namespace(&self) -> &str {
        &self.metadata.namespace
    }

    fn uid(&self) -> &str {
        &self.metadata.uid
    }

    fn class(&self) -> &str {
        let annotated = self.metadata.annotations.get(CLASS);
        let class = annotated.or(self.spec.storage_class_name.as_ref());
        class.map_or("", String::as_str)
    }

    fn access_modes(&self) -> &[String] {
        &self.spec.access_modes
    }

    fn size(&self) -> Quantity {
        self.spec.resources.storage.unwrap_or_default()
    }

    fn mode(&self) -> Option<&str> {
        self.spec.volume_mode.as_deref()
    }

    fn attributes_class(&self) -> &str {
        let name = self.spec.volume_attributes_class_name.as_deref();
        name.unwrap_or_default()
    }

    fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        let selector = self.spec.selector.as_ref();
        selector.is_none_or(|s| crate::selector::labels_match(Some(s), labels))
    }
}

/// A volume.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct VolumeView {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    pub spec: VolumeSpec,
    /// Status.
    pub status: Phase,
}

/// `PersistentVolumeSpec`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeSpec {
    /// What it holds.
    #[serde(deserialize_with = "storage")]
    pub capacity: Option<Quantity>,
    /// How it can be used.
    pub access_modes: Vec<String>,
    /// Whose it is.
    pub claim_ref: Option<Reference>,
    /// The class.
    pub storage_class_name: String,
    /// `Filesystem` or `Block`.
    pub volume_mode: Option<String>,
    /// The class of attributes.
    pub volume_attributes_class_name: Option<String>,
    /// Where it can be used.
    pub node_affinity: Option<NodeAffinity>,
    csi: Option<RawCsi>,
    gce_persistent_disk: Option<RawGce>,
    aws_elastic_block_store: Option<RawId>,
    azure_disk: Option<RawAzure>,
    cinder: Option<RawId>,
    portworx_volume: Option<RawId>,
}

/// `ObjectReference` of a claim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Reference {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its identity; empty when a person reserved the volume by name.
    pub uid: String,
}

impl VolumeView {
    /// The CSI driver of the volume, and what it calls it.
    pub fn handle(&self) -> Option<(String, String)> {
        let spec = &self.spec;
        if let Some(csi) = &spec.csi {
            return Some((csi.driver.clone(), csi.volume_handle.clone()));
        }
        let raw = RawDisks {
            gce_persistent_disk: spec.gce_persistent_disk.clone(),
            aws_elastic_block_store: spec.aws_elastic_block_store.clone(),
            azure_disk: spec.azure_disk.clone(),
            cinder: spec.cinder.clone(),
            portworx_volume: spec.portworx_volume.clone(),
            ..RawDisks::default()
        };
        let Some(Source::Disk(disk)) = raw.source() else {
            return None;
        };
        let (driver, handle) = disk.migrated()?;
        Some((driver.to_owned(), handle.to_owned()))
    }

    /// Whether the volume is a driver's from the beginning.
    pub fn is_csi(&self) -> bool {
        self.spec.csi.is_some()
    }

    /// The class; empty for none.
    pub fn class(&self) -> &str {
        let annotated = self.metadata.annotations.get(CLASS);
        annotated.map_or(&self.spec.storage_class_name, |c| c)
    }
}

/// A class of volumes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClassView {
    /// Metadata.
    pub metadata: Meta,
    /// Who makes volumes.
    pub provisioner: String,
    /// `Immediate` or `WaitForFirstConsumer`.
    pub volume_binding_mode: Option<String>,
    /// Where volumes can be made; everywhere without.
    pub allowed_topologies: Vec<TopologyTerm>,
}

/// `TopologySelectorTerm`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopologyTerm {
    /// All must hold; without any the term matches nothing.
    pub match_label_expressions: Vec<TopologyRequirement>,
}

/// `TopologySelectorLabelRequirement`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TopologyRequirement {
    /// A node label.
    pub key: String,
    /// What it may be.
    pub values: Vec<String>,
}

impl ClassView {
    /// Whether volumes can be made for a node of these labels.
    pub fn allows(&self, labels: &BTreeMap<String, String>) -> bool {
        let holds =
            |r: &TopologyRequirement| labels.get(&r.key).is_some_and(|v| r.values.contains(v));
        let mut terms = self.allowed_topologies.iter();
        self.allowed_topologies.is_empty()
            || terms.any(|t| {
                let all = &t.match_label_expressions;
                !all.is_empty() && all.iter().all(holds)
            })
    }
}

/// What drivers say of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct CsiNodeView {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    pub spec: CsiNodeSpec,
}

/// `CSINodeSpec`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct CsiNodeSpec {
    /// Drivers on the node.
    pub drivers: Vec<CsiNodeDriver>,
}

/// `CSINodeDriver`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct CsiNodeDriver {
    /// The driver.
    pub name: String,
    /// How many volumes it can attach there.
    pub allocatable: Option<VolumeCount>,
}

/// `VolumeNodeResources`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct VolumeCount {
    /// No limit without.
    pub count: Option<i32>,
}

impl CsiNodeView {
    /// How many volumes a driver can attach; `None` for no limit.
    pub fn limit(&self, driver: &str) -> Option<i32> {
        let found = self.spec.drivers.iter().rfind(|d| d.name == driver);
        found.and_then(|d| d.allocatable.as_ref()?.count)
    }
}

/// A driver.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DriverView {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    pub spec: DriverSpec,
}

/// `CSIDriverSpec`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DriverSpec {
    /// Whether it tells how much room there is.
    pub storage_capacity: Option<bool>,
}

/// How much room a driver has for volumes of a class, for some nodes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CapacityView {
    /// Metadata.
    pub metadata: Meta,
    /// Which nodes; none without.
    pub node_topology: Option<LabelSelector>,
    /// The class.
    pub storage_class_name: String,
    /// The room.
    pub capacity: Option<String>,
    /// The largest volume, where it is known.
    pub maximum_volume_size: Option<String>,
}

impl CapacityView {
    /// The largest volume that can be made.
    pub fn limit(&self) -> Option<Quantity> {
        let text = self.maximum_volume_size.as_ref().or(self.capacity.as_ref());
        text.and_then(|t| Quantity::parse(t).ok())
    }
}

/// A volume that is, or is to be, attached to a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct AttachmentView {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    pub spec: AttachmentSpec,
}

/// `VolumeAttachmentSpec`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AttachmentSpec {
    /// The driver.
    pub attacher: String,
    /// The node.
    pub node_name: String,
    /// The volume.
    pub source: AttachmentSource,
}

/// `VolumeAttachmentSource`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AttachmentSource {
    /// The volume's name.
    pub persistent_volume_name: Option<String>,
}

client::views!(
    ClaimView,
    VolumeView,
    ClassView,
    CsiNodeView,
    DriverView,
    CapacityView,
    AttachmentView
);
