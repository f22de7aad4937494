//! Kubernetes' kinds, as far as the manifests and the documentation use them: a key that is not here is a mistake, or is to be
//! added from the API reference.

use super::workload::{Pod, Template};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

pub type Texts = BTreeMap<String, String>;

/// A document.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind")]
pub enum Object {
    #[serde(rename = "CSIDriver")]
    CsiDriver(Whole<StorageV1, CsiDriver>),
    StorageClass(StorageClass),
    VolumeAttributesClass(VolumeAttributesClass),
    PersistentVolume(Whole<CoreV1, PersistentVolume>),
    PersistentVolumeClaim(Whole<CoreV1, Claim>),
    VolumeSnapshotClass(SnapshotClass<SnapshotV1>),
    VolumeGroupSnapshotClass(SnapshotClass<GroupSnapshotV1>),
    VolumeSnapshot(Whole<SnapshotV1, Snapshot>),
    VolumeGroupSnapshot(Whole<GroupSnapshotV1, GroupSnapshot>),
    Secret(Secret),
    Pod(Whole<CoreV1, Pod>),
    DaemonSet(Whole<AppsV1, DaemonSet>),
    Deployment(Whole<AppsV1, Deployment>),
    ServiceAccount(ServiceAccount),
    Role(Role),
    ClusterRole(Role),
    RoleBinding(Binding),
    ClusterRoleBinding(Binding),
}

macro_rules! versions {
    ($($name:ident = $text:literal,)*) => {
        $(
            #[derive(Debug, Clone, Deserialize)]
            pub enum $name {
                #[serde(rename = $text)]
                It,
            }
        )*
    };
}

versions! {
    CoreV1 = "v1",
    AppsV1 = "apps/v1",
    StorageV1 = "storage.k8s.io/v1",
    RbacV1 = "rbac.authorization.k8s.io/v1",
    SnapshotV1 = "snapshot.storage.k8s.io/v1",
    GroupSnapshotV1 = "groupsnapshot.storage.k8s.io/v1",
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    pub name: String,
    pub namespace: Option<String>,
    #[serde(default)]
    pub labels: Texts,
}

/// A kind that has a `spec`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Whole<Version, Spec> {
    pub api_version: Version,
    pub metadata: Metadata,
    pub spec: Spec,
}

/// Every field is said: what Kubernetes takes for an absent one (`attachRequired: true`) is not what a driver of ours needs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CsiDriver {
    pub attach_required: bool,
    pub pod_info_on_mount: bool,
    pub fs_group_policy: FsGroupPolicy,
    pub storage_capacity: bool,
    pub requires_republish: bool,
    pub se_linux_mount: bool,
    pub volume_lifecycle_modes: Vec<Lifecycle>,
}

#[derive(Debug, PartialEq, Deserialize)]
pub enum FsGroupPolicy {
    ReadWriteOnceWithFSType,
    File,
    None,
}

#[derive(Debug, PartialEq, Deserialize)]
pub enum Lifecycle {
    Persistent,
    Ephemeral,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StorageClass {
    pub api_version: StorageV1,
    pub metadata: Metadata,
    pub provisioner: String,
    #[serde(default)]
    pub parameters: Texts,
    #[serde(default)]
    pub mount_options: Vec<String>,
    pub reclaim_policy: ReclaimPolicy,
    pub allow_volume_expansion: bool,
    pub volume_binding_mode: BindingMode,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub enum ReclaimPolicy {
    Delete,
    Retain,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub enum BindingMode {
    Immediate,
    WaitForFirstConsumer,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VolumeAttributesClass {
    pub api_version: StorageV1,
    pub metadata: Metadata,
    pub driver_name: String,
    pub parameters: Texts,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SnapshotClass<Version> {
    pub api_version: Version,
    pub metadata: Metadata,
    pub driver: String,
    pub deletion_policy: ReclaimPolicy,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Snapshot {
    pub volume_snapshot_class_name: String,
    pub source: SnapshotSource,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SnapshotSource {
    pub persistent_volume_claim_name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GroupSnapshot {
    pub volume_group_snapshot_class_name: String,
    pub source: GroupSource,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSource {
    pub selector: Selector,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Selector {
    pub match_labels: Texts,
}

/// Who may use a volume at once.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub enum AccessMode {
    #[serde(rename = "ReadWriteOnce")]
    OneNode,
    #[serde(rename = "ReadWriteOncePod")]
    OnePod,
    #[serde(rename = "ReadOnlyMany")]
    Readers,
    #[serde(rename = "ReadWriteMany")]
    Everybody,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
pub enum VolumeMode {
    #[default]
    Filesystem,
    Block,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    pub storage: Quantity,
}

/// Bytes.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Deserialize)]
#[serde(try_from = "String")]
pub struct Quantity(pub i64);

impl TryFrom<String> for Quantity {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let units = [("Mi", 20), ("Gi", 30), ("Ti", 40)];
        let found = units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)));
        let bytes = found.and_then(|(number, shift)| number.parse::<i64>().ok()?.checked_mul(1 << shift));
        bytes.map(Self).ok_or_else(|| format!("{text:?} is no size such as 1Gi"))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PersistentVolume {
    pub capacity: Storage,
    pub access_modes: Vec<AccessMode>,
    #[serde(default)]
    pub volume_mode: VolumeMode,
    pub persistent_volume_reclaim_policy: ReclaimPolicy,
    pub storage_class_name: String,
    #[serde(default)]
    pub mount_options: Vec<String>,
    pub claim_ref: ObjectReference,
    pub csi: CsiSource,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectReference {
    pub namespace: String,
    pub name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CsiSource {
    pub driver: String,
    pub volume_handle: String,
    #[serde(default)]
    pub fs_type: String,
    #[serde(default)]
    pub read_only: bool,
    pub volume_attributes: Texts,
    pub node_stage_secret_ref: Option<ObjectReference>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Claim {
    pub access_modes: Vec<AccessMode>,
    #[serde(default)]
    pub volume_mode: VolumeMode,
    pub storage_class_name: String,
    pub volume_name: Option<String>,
    pub volume_attributes_class_name: Option<String>,
    pub data_source: Option<DataSource>,
    pub resources: Requests,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requests {
    pub requests: Storage,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DataSource {
    pub api_group: Option<String>,
    pub kind: String,
    pub name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Secret {
    pub api_version: CoreV1,
    pub metadata: Metadata,
    pub r#type: String,
    pub string_data: Texts,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DaemonSet {
    pub selector: Selector,
    pub template: Template,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deployment {
    pub replicas: u32,
    pub selector: Selector,
    pub template: Template,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServiceAccount {
    pub api_version: CoreV1,
    pub metadata: Metadata,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Role {
    pub api_version: RbacV1,
    pub metadata: Metadata,
    pub rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Rule {
    pub api_groups: Vec<String>,
    pub resources: Vec<String>,
    pub verbs: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Binding {
    pub api_version: RbacV1,
    pub metadata: Metadata,
    pub subjects: Vec<Subject>,
    pub role_ref: RoleRef,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    pub kind: String,
    pub name: String,
    pub namespace: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RoleRef {
    pub api_group: String,
    pub kind: String,
    pub name: String,
}

impl Object {
    /// # Errors
    /// What is not Kubernetes' about it.
    pub fn parse(document: &Value) -> Result<Self, String> {
        let object: Self = serde_json::from_value(document.clone()).map_err(|error| error.to_string())?;
        let metadata = object.metadata();
        for name in [Some(&metadata.name), metadata.namespace.as_ref()].into_iter().flatten() {
            // A DNS name (RFC 1123).
            let harmless = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
            if name.is_empty() || name.len() > 253 || !name.bytes().all(harmless) {
                return Err(format!("{name:?} is no name"));
            }
        }
        let spans_namespaces = matches!(
            object,
            Self::CsiDriver(_)
                | Self::StorageClass(_)
                | Self::VolumeAttributesClass(_)
                | Self::PersistentVolume(_)
                | Self::VolumeSnapshotClass(_)
                | Self::VolumeGroupSnapshotClass(_)
                | Self::ClusterRole(_)
                | Self::ClusterRoleBinding(_)
        );
        if spans_namespaces == metadata.namespace.is_some() {
            return Err(format!("{} has a namespace, or lacks one", metadata.name));
        }
        Ok(object)
    }

    pub fn metadata(&self) -> &Metadata {
        match self {
            Self::CsiDriver(held) => &held.metadata,
            Self::StorageClass(held) => &held.metadata,
            Self::VolumeAttributesClass(held) => &held.metadata,
            Self::PersistentVolume(held) => &held.metadata,
            Self::PersistentVolumeClaim(held) => &held.metadata,
            Self::VolumeSnapshotClass(held) => &held.metadata,
            Self::VolumeGroupSnapshotClass(held) => &held.metadata,
            Self::VolumeSnapshot(held) => &held.metadata,
            Self::VolumeGroupSnapshot(held) => &held.metadata,
            Self::Secret(held) => &held.metadata,
            Self::Pod(held) => &held.metadata,
            Self::DaemonSet(held) => &held.metadata,
            Self::Deployment(held) => &held.metadata,
            Self::ServiceAccount(held) => &held.metadata,
            Self::Role(held) | Self::ClusterRole(held) => &held.metadata,
            Self::RoleBinding(held) | Self::ClusterRoleBinding(held) => &held.metadata,
        }
    }
}
