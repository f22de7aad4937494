//! Values between the protocol's types and the driver's.

use crate::{
    backend::{Condition, ContentSource, Snapshot, Texts, Volume},
    capacity::wire,
    driver::Driver,
    error::Fault,
    id::{SnapshotId, VolumeId},
};
use cairn_contract::csi::{self, volume_content_source};
use std::{collections::HashMap, time::SystemTime};

/// What sidecars add to parameters; not the StorageClass's.
const SIDECARS: &str = "csi.storage.k8s.io/";

/// A class's own parameters.
pub(super) fn parameters(map: HashMap<String, String>) -> Texts {
    map.into_iter().filter(|(key, _)| !key.starts_with(SIDECARS)).collect()
}

pub(super) fn source(source: Option<csi::VolumeContentSource>) -> Result<Option<ContentSource>, Fault> {
    let Some(source) = source else { return Ok(None) };
    match source.r#type {
        None => Err(Fault::Invalid("volume_content_source has no type".to_owned())),
        Some(volume_content_source::Type::Snapshot(from)) => {
            SnapshotId::parse(&from.snapshot_id).map(|id| Some(ContentSource::Snapshot(id)))
        }
        Some(volume_content_source::Type::Volume(from)) => {
            VolumeId::parse(&from.volume_id).map(|id| Some(ContentSource::Volume(id)))
        }
    }
}

fn wire_source(source: ContentSource) -> csi::VolumeContentSource {
    let kind = match source {
        ContentSource::Snapshot(id) => {
            volume_content_source::Type::Snapshot(volume_content_source::SnapshotSource {
                snapshot_id: id.to_string(),
            })
        }
        ContentSource::Volume(id) => {
            volume_content_source::Type::Volume(volume_content_source::VolumeSource {
                volume_id: id.to_string(),
            })
        }
    };
    csi::VolumeContentSource { r#type: Some(kind) }
}

impl Driver {
    /// Where its volumes can be used, if not everywhere.
    pub(crate) fn topology(&self) -> Option<csi::Topology> {
        let segments = || HashMap::from([(self.topology_key(), self.node.clone())]);
        self.backend.features().topology.then(|| csi::Topology { segments: segments() })
    }

    pub(super) fn wire_volume(&self, volume: Volume) -> csi::Volume {
        csi::Volume {
            capacity_bytes: wire(volume.bytes),
            volume_id: volume.id.to_string(),
            volume_context: volume.context.into_iter().collect(),
            content_source: volume.source.map(wire_source),
            accessible_topology: self.topology().into_iter().collect(),
        }
    }

    /// Whether a volume may be on this node.
    pub(super) fn is_allowed_here(
        &self,
        requirement: Option<&csi::TopologyRequirement>,
    ) -> Result<(), Fault> {
        let Some(here) = self.topology() else { return Ok(()) };
        let wanted = requirement.map(|requirement| requirement.requisite.as_slice()).unwrap_or_default();
        let key = self.topology_key();
        // Other keys are other drivers' business; a set of segments without ours says nothing about us.
        let fits = |topology: &csi::Topology| {
            topology.segments.get(&key).is_none_or(|node| here.segments.get(&key) == Some(node))
        };
        if wanted.is_empty() || wanted.iter().any(fits) {
            return Ok(());
        }
        Err(Fault::Exhausted(format!("the volume must not be on this node ({key}={})", self.node)))
    }
}

pub(crate) fn wire_condition(condition: Condition) -> csi::VolumeCondition {
    match condition {
        Condition::Normal => csi::VolumeCondition { abnormal: false, message: "normal".to_owned() },
        Condition::Abnormal(message) => csi::VolumeCondition { abnormal: true, message },
    }
}

pub(super) fn wire_snapshot(snapshot: Snapshot) -> csi::Snapshot {
    csi::Snapshot {
        size_bytes: wire(snapshot.bytes),
        snapshot_id: snapshot.id.to_string(),
        source_volume_id: snapshot.source.to_string(),
        creation_time: Some(wire_time(snapshot.created)),
        ready_to_use: true,
        group_snapshot_id: snapshot.group.map(|id| id.to_string()).unwrap_or_default(),
    }
}

pub(super) fn wire_time(time: SystemTime) -> prost_types::Timestamp {
    time.into()
}
