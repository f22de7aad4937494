//! The Node service: each call checked, passed on, and its result packed.

use super::{Published, Staged};
use crate::{
    access::Access,
    capacity::{CapacityRange, wire},
    controller::wire_condition,
    driver::{Driver, call},
    error::Fault,
    id::{Secrets, VolumeId},
    mount::Seen,
};
use cairn_contract::csi::{self, node_server::Node, node_service_capability, volume_usage::Unit};
use std::sync::Arc;
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;

/// The service.
pub struct NodeServer(pub Arc<Driver>);

/// The kubelet's word for an inline volume, in the context of its publish call.
const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";

#[tonic::async_trait]
impl Node for NodeServer {
    async fn node_get_info(&self, _: Request<csi::NodeGetInfoRequest>) -> Answer<csi::NodeGetInfoResponse> {
        Ok(Response::new(csi::NodeGetInfoResponse {
            node_id: self.0.node.clone(),
            max_volumes_per_node: 0,
            accessible_topology: self.0.topology(),
        }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<csi::NodeGetCapabilitiesRequest>,
    ) -> Answer<csi::NodeGetCapabilitiesResponse> {
        use node_service_capability::{Rpc, Type};
        let capabilities =
            self.0.backend.features().node.iter().map(|&kind| csi::NodeServiceCapability {
                r#type: Some(Type::Rpc(Rpc { r#type: kind.into() })),
            });
        Ok(Response::new(csi::NodeGetCapabilitiesResponse { capabilities: capabilities.collect() }))
    }

    async fn node_stage_volume(
        &self,
        request: Request<csi::NodeStageVolumeRequest>,
    ) -> Answer<csi::NodeStageVolumeResponse> {
        let request = request.into_inner();
        let id = VolumeId::parse(&request.volume_id)?;
        let place = self.0.targets.place(&request.staging_target_path, "staging_target_path")?;
        let access = Access::parse(request.volume_capability.as_ref(), self.0.backend.features().options)?;
        self.0.backend.accepts(&access)?;
        let secrets = Secrets::from(request.secrets);
        let wanted = Staged {
            id,
            path: Some(place.path()),
            access,
            context: request.volume_context.into_iter().collect(),
            publish: request.publish_context.into_iter().collect(),
            made: None,
        };
        call(&self.0, vec![wanted.id.to_string()], move |driver| {
            let id = wanted.id.clone();
            driver.stage(wanted, &place, &secrets)?;
            tracing::info!(volume = %id, path = %place.path().display(), "staged");
            Ok(())
        })
        .await?;
        Ok(Response::new(csi::NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: Request<csi::NodeUnstageVolumeRequest>,
    ) -> Answer<csi::NodeUnstageVolumeResponse> {
        let request = request.into_inner();
        let id = VolumeId::parse(&request.volume_id)?;
        let place = self.0.targets.place(&request.staging_target_path, "staging_target_path")?;
        call(&self.0, vec![id.to_string()], move |driver| {
            let Some(held) = driver.staged.get(&id.file_name()) else {
                // As after its record was damaged.
                return match place.see()? {
                    Seen::Mounted { .. } => Err(Fault::Precondition(format!(
                        "{id} has no record here, and something is mounted on {}: unmount it if it is of no use",
                        place.path().display()
                    ))),
                    _ => Ok(()),
                };
            };
            if held.path.as_ref() != Some(&place.path()) {
                return Err(Fault::Precondition(format!("{id} is staged at another path")));
            }
            if let Some(used) = driver.published.all().into_iter().find(|published| published.id == id) {
                return Err(Fault::Precondition(format!("{id} is published at {}", used.target.display())));
            }
            driver.unstage(&held)?;
            tracing::info!(volume = %id, path = %place.path().display(), "unstaged");
            Ok(())
        })
        .await?;
        Ok(Response::new(csi::NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Answer<csi::NodePublishVolumeResponse> {
        let request = request.into_inner();
        let id = VolumeId::parse(&request.volume_id)?;
        let place = self.0.targets.place(&request.target_path, "target_path")?;
        let features = self.0.backend.features();
        let access = Access::parse(request.volume_capability.as_ref(), features.options)?;
        self.0.backend.accepts(&access)?;
        let inline = request.volume_context.get(EPHEMERAL).is_some_and(|value| value == "true");
        if inline && !features.ephemeral {
            return Err(
                Fault::Invalid(format!("{} has no inline volumes", self.0.backend.kind().driver())).into()
            );
        }
        let target = Published {
            id: id.clone(),
            target: place.path(),
            read_only: request.readonly || access.is_read_only(),
            access: access.clone(),
            made: false,
        };
        let secrets = Secrets::from(request.secrets);
        let staging = match request.staging_target_path.as_str() {
            "" if inline => None,
            "" => return Err(Fault::Precondition("staging_target_path is missing".to_owned()).into()),
            path => Some(self.0.targets.place(path, "staging_target_path")?.path()),
        };
        call(&self.0, vec![id.to_string(), place.path().display().to_string()], move |driver| {
            if inline {
                let wanted = Staged {
                    id: id.clone(),
                    path: None,
                    access,
                    context: request.volume_context.into_iter().collect(),
                    publish: request.publish_context.into_iter().collect(),
                    made: None,
                };
                driver.publish_inline(wanted, target, &place, &secrets)?;
            } else {
                driver.is_staged_at(&id, staging.as_deref())?;
                driver.publish(target, &place)?;
            }
            tracing::info!(volume = %id, target = %place.path().display(), "published");
            Ok(())
        })
        .await?;
        Ok(Response::new(csi::NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Answer<csi::NodeUnpublishVolumeResponse> {
        let request = request.into_inner();
        let id = VolumeId::parse(&request.volume_id)?;
        let place = self.0.targets.place(&request.target_path, "target_path")?;
        call(&self.0, vec![id.to_string(), place.path().display().to_string()], move |driver| {
            let path = place.path();
            match driver.published.all().into_iter().find(|held| held.target == path) {
                Some(held) if held.id == id => driver.unpublish(&held)?,
                Some(held) => {
                    return Err(Fault::NotFound(format!(
                        "{} is published at {}, not {id}",
                        held.id,
                        path.display()
                    )));
                }
                None if matches!(place.see()?, Seen::Mounted { .. }) => {
                    return Err(Fault::Precondition(format!(
                        "what is mounted on {} is not of this driver's making",
                        path.display()
                    )));
                }
                None => return Ok(()),
            }
            tracing::info!(volume = %id, target = %path.display(), "unpublished");
            Ok(())
        })
        .await?;
        Ok(Response::new(csi::NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<csi::NodeGetVolumeStatsRequest>,
    ) -> Answer<csi::NodeGetVolumeStatsResponse> {
        let request = request.into_inner();
        let id = VolumeId::parse(&request.volume_id)?;
        if request.volume_path.is_empty() {
            return Err(Fault::Invalid("volume_path is missing".to_owned()).into());
        }
        let usage = call(&self.0, Vec::new(), move |driver| driver.usage(&id, &request.volume_path)).await?;
        let entry = |unit: Unit, available: Option<u64>, total, used: Option<u64>| csi::VolumeUsage {
            unit: unit.into(),
            available: wire(available.unwrap_or_default()),
            total: wire(total),
            used: wire(used.unwrap_or_default()),
        };
        let (available, total, used) = usage.bytes;
        let inodes = usage
            .inodes
            .map(|(available, total, used)| entry(Unit::Inodes, Some(available), total, Some(used)));
        Ok(Response::new(csi::NodeGetVolumeStatsResponse {
            usage: [Some(entry(Unit::Bytes, available, total, used)), inodes].into_iter().flatten().collect(),
            volume_condition: Some(wire_condition(usage.condition)),
        }))
    }

    async fn node_expand_volume(
        &self,
        request: Request<csi::NodeExpandVolumeRequest>,
    ) -> Answer<csi::NodeExpandVolumeResponse> {
        let request = request.into_inner();
        let id = VolumeId::parse(&request.volume_id)?;
        if request.volume_path.is_empty() {
            return Err(Fault::Invalid("volume_path is missing".to_owned()).into());
        }
        let range = CapacityRange::parse(request.capacity_range.as_ref())?;
        let secrets = Secrets::from(request.secrets);
        let bytes = call(&self.0, vec![id.to_string()], move |driver| {
            let bytes = driver.expand_on_node(&id, &request.volume_path, range, &secrets)?;
            tracing::info!(volume = %id, bytes, "volume is so large");
            Ok(bytes)
        });
        Ok(Response::new(csi::NodeExpandVolumeResponse { capacity_bytes: wire(bytes.await?) }))
    }
}

impl Driver {
    /// Whether a volume is staged at the path a publish call names.
    fn is_staged_at(&self, id: &VolumeId, path: Option<&std::path::Path>) -> Result<(), Fault> {
        let held = self.staged.get(&id.file_name()).filter(|held| held.made.is_some());
        if held.as_ref().is_some_and(|held| held.path.as_deref() == path) {
            return Ok(());
        }
        // That there is no such volume is the better answer, if the backend knows.
        if let Err(fault @ Fault::NotFound(_)) = self.backend.volume(id) {
            return Err(fault);
        }
        Err(Fault::Precondition(format!("{id} is not staged at the given staging_target_path")))
    }
}
