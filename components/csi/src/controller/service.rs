//! The Controller service.

use super::{convert, pages::page};
use crate::{
    access::Access,
    backend::{ContentSource, NewSnapshot, NewVolume},
    capacity::{CapacityRange, wire},
    driver::{Driver, call},
    error::Fault,
    id::{Name, Secrets, SnapshotId, VolumeId},
};
use cairn_contract::csi::{self, controller_server::Controller, controller_service_capability};
use std::sync::Arc;
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;

/// The service.
pub struct ControllerServer(pub Arc<Driver>);

#[tonic::async_trait]
impl Controller for ControllerServer {
    async fn controller_get_capabilities(
        &self,
        _: Request<csi::ControllerGetCapabilitiesRequest>,
    ) -> Answer<csi::ControllerGetCapabilitiesResponse> {
        use controller_service_capability::{Rpc, Type};
        let capabilities = self.0.backend.features().controller.iter().map(|&kind| {
            csi::ControllerServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: kind.into() })) }
        });
        Ok(Response::new(csi::ControllerGetCapabilitiesResponse { capabilities: capabilities.collect() }))
    }

    async fn create_volume(
        &self,
        request: Request<csi::CreateVolumeRequest>,
    ) -> Answer<csi::CreateVolumeResponse> {
        let request = request.into_inner();
        let backend = &self.0.backend;
        let mut wanted = NewVolume {
            name: Name::parse(&request.name)?,
            range: CapacityRange::parse(request.capacity_range.as_ref())?,
            access: Access::parse_all(&request.volume_capabilities, backend.features().options)?,
            parameters: convert::parameters(request.parameters),
            mutable: convert::parameters(request.mutable_parameters),
            secrets: Secrets::from(request.secrets),
            source: convert::source(request.volume_content_source)?,
            source_staged: None,
        };
        wanted.access.iter().try_for_each(|access| backend.accepts(access))?;
        self.0.is_allowed_here(request.accessibility_requirements.as_ref())?;
        let mut keys = vec![format!("the volume named {}", wanted.name)];
        keys.extend(wanted.source.as_ref().map(|source| match source {
            ContentSource::Snapshot(id) => id.to_string(),
            ContentSource::Volume(id) => id.to_string(),
        }));
        let volume = call(&self.0, keys, move |driver| {
            if let Some(ContentSource::Volume(source)) = &wanted.source {
                wanted.source_staged = driver.staged.get(&source.file_name());
            }
            let volume = driver.backend.create(&wanted)?;
            tracing::info!(volume = %volume.id, name = ?wanted.name.as_str(), bytes = volume.bytes, "volume is there");
            Ok(driver.wire_volume(volume))
        });
        Ok(Response::new(csi::CreateVolumeResponse { volume: Some(volume.await?) }))
    }

    async fn delete_volume(
        &self,
        request: Request<csi::DeleteVolumeRequest>,
    ) -> Answer<csi::DeleteVolumeResponse> {
        let request = request.into_inner();
        let id = VolumeId::parse(&request.volume_id)?;
        let secrets = Secrets::from(request.secrets);
        call(&self.0, vec![id.to_string()], move |driver| {
            if driver.staged.get(&id.file_name()).is_some() {
                return Err(Fault::Precondition(format!("{id} is in use on node {}", driver.node)));
            }
            driver.backend.delete(&id, &secrets)?;
            tracing::info!(volume = %id, "volume is gone");
            Ok(())
        })
        .await?;
        Ok(Response::new(csi::DeleteVolumeResponse {}))
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<csi::ValidateVolumeCapabilitiesRequest>,
    ) -> Answer<csi::ValidateVolumeCapabilitiesResponse> {
        let request = request.into_inner();
        let id = VolumeId::parse(&request.volume_id)?;
        let options = self.0.backend.features().options;
        if request.volume_capabilities.is_empty() {
            return Err(Fault::Invalid("volume_capabilities are missing".to_owned()).into());
        }
        let parsed = Access::parse_all(&request.volume_capabilities, options);
        let context = request.volume_context.clone().into_iter().collect();
        let parameters = convert::parameters(request.parameters.clone());
        let judged = call(&self.0, Vec::new(), move |driver| {
            // That the volume is not there is said first.
            let access = parsed.as_deref().unwrap_or_default();
            let judged = driver.backend.validate(&id, access, &context, &parameters);
            match judged.and_then(|()| parsed.map(drop)) {
                Ok(()) => Ok(None),
                Err(Fault::Invalid(reason)) => Ok(Some(reason)),
                Err(fault) => Err(fault),
            }
        });
        Ok(Response::new(match judged.await? {
            Some(message) => csi::ValidateVolumeCapabilitiesResponse { confirmed: None, message },
            None => csi::ValidateVolumeCapabilitiesResponse {
                confirmed: Some(csi::validate_volume_capabilities_response::Confirmed {
                    volume_context: request.volume_context,
                    volume_capabilities: request.volume_capabilities,
                    parameters: request.parameters,
                    mutable_parameters: request.mutable_parameters,
                }),
                message: String::new(),
            },
        }))
    }

    async fn list_volumes(
        &self,
        request: Request<csi::ListVolumesRequest>,
    ) -> Answer<csi::ListVolumesResponse> {
        let csi::ListVolumesRequest { max_entries, starting_token } = request.into_inner();
        let (entries, next_token) = call(&self.0, Vec::new(), move |driver| {
            driver.backend.complete()?;
            let all = driver.backend.volumes()?;
            let (volumes, next) = page(all, |volume| volume.id.as_str(), max_entries, &starting_token)?;
            let entries = volumes.into_iter().map(|volume| csi::list_volumes_response::Entry {
                status: Some(csi::list_volumes_response::VolumeStatus {
                    published_node_ids: Vec::new(),
                    volume_condition: Some(convert::wire_condition(volume.condition.clone())),
                }),
                volume: Some(driver.wire_volume(volume)),
            });
            Ok((entries.collect(), next))
        })
        .await?;
        Ok(Response::new(csi::ListVolumesResponse { entries, next_token }))
    }

    async fn controller_get_volume(
        &self,
        request: Request<csi::ControllerGetVolumeRequest>,
    ) -> Answer<csi::ControllerGetVolumeResponse> {
        let id = VolumeId::parse(&request.into_inner().volume_id)?;
        let answer = call(&self.0, Vec::new(), move |driver| {
            let volume = driver.backend.volume(&id)?;
            Ok(csi::ControllerGetVolumeResponse {
                status: Some(csi::controller_get_volume_response::VolumeStatus {
                    published_node_ids: Vec::new(),
                    volume_condition: Some(convert::wire_condition(volume.condition.clone())),
                }),
                volume: Some(driver.wire_volume(volume)),
            })
        });
        Ok(Response::new(answer.await?))
    }

    async fn get_capacity(
        &self,
        request: Request<csi::GetCapacityRequest>,
    ) -> Answer<csi::GetCapacityResponse> {
        let request = request.into_inner();
        let options = self.0.backend.features().options;
        let access = match request.volume_capabilities.as_slice() {
            [] => Vec::new(),
            capabilities => Access::parse_all(capabilities, options)?,
        };
        let parameters = convert::parameters(request.parameters);
        let topology = request.accessible_topology;
        let answer = call(&self.0, Vec::new(), move |driver| {
            let elsewhere = topology.is_some_and(|topology| {
                let requisite = vec![topology];
                let requirement = csi::TopologyRequirement { requisite, preferred: Vec::new() };
                driver.is_allowed_here(Some(&requirement)).is_err()
            });
            let space = driver.backend.space(&parameters, &access)?;
            let (available, largest) = if elsewhere { (0, 0) } else { (space.available, space.largest) };
            Ok(csi::GetCapacityResponse {
                available_capacity: wire(available),
                maximum_volume_size: Some(wire(largest)),
                minimum_volume_size: Some(wire(space.smallest)),
            })
        });
        Ok(Response::new(answer.await?))
    }

    async fn create_snapshot(
        &self,
        request: Request<csi::CreateSnapshotRequest>,
    ) -> Answer<csi::CreateSnapshotResponse> {
        let request = request.into_inner();
        let mut wanted = NewSnapshot {
            source: VolumeId::parse(&request.source_volume_id)?,
            name: Name::parse(&request.name)?,
            parameters: convert::parameters(request.parameters),
            staged: None,
        };
        let keys = vec![format!("the snapshot named {}", wanted.name), wanted.source.to_string()];
        let snapshot = call(&self.0, keys, move |driver| {
            wanted.staged = driver.staged.get(&wanted.source.file_name());
            let snapshot = driver.backend.snapshot(&wanted)?;
            tracing::info!(snapshot = %snapshot.id, volume = %snapshot.source, name = ?wanted.name.as_str(), "snapshot is there");
            Ok(convert::wire_snapshot(snapshot))
        });
        Ok(Response::new(csi::CreateSnapshotResponse { snapshot: Some(snapshot.await?) }))
    }

    async fn delete_snapshot(
        &self,
        request: Request<csi::DeleteSnapshotRequest>,
    ) -> Answer<csi::DeleteSnapshotResponse> {
        let id = SnapshotId::parse(&request.into_inner().snapshot_id)?;
        call(&self.0, vec![id.to_string()], move |driver| {
            driver.backend.delete_snapshot(&id)?;
            tracing::info!(snapshot = %id, "snapshot is gone");
            Ok(())
        })
        .await?;
        Ok(Response::new(csi::DeleteSnapshotResponse {}))
    }

    async fn list_snapshots(
        &self,
        request: Request<csi::ListSnapshotsRequest>,
    ) -> Answer<csi::ListSnapshotsResponse> {
        let request = request.into_inner();
        let (entries, next_token) = call(&self.0, Vec::new(), move |driver| {
            let mut all = driver.backend.snapshots()?;
            all.retain(|snapshot| {
                (request.snapshot_id.is_empty() || snapshot.id.as_str() == request.snapshot_id)
                    && (request.source_volume_id.is_empty()
                        || snapshot.source.as_str() == request.source_volume_id)
            });
            if request.snapshot_id.is_empty() || all.is_empty() {
                driver.backend.complete()?;
            }
            let (snapshots, next) =
                page(all, |snapshot| snapshot.id.as_str(), request.max_entries, &request.starting_token)?;
            let entries = snapshots.into_iter().map(|snapshot| csi::list_snapshots_response::Entry {
                snapshot: Some(convert::wire_snapshot(snapshot)),
            });
            Ok((entries.collect(), next))
        })
        .await?;
        Ok(Response::new(csi::ListSnapshotsResponse { entries, next_token }))
    }

    async fn get_snapshot(
        &self,
        request: Request<csi::GetSnapshotRequest>,
    ) -> Answer<csi::GetSnapshotResponse> {
        let id = SnapshotId::parse(&request.into_inner().snapshot_id)?;
        let snapshot = call(&self.0, Vec::new(), move |driver| {
            let found = driver.backend.snapshots()?.into_iter().find(|snapshot| snapshot.id == id);
            let found = found.map_or_else(
                || {
                    driver.backend.complete()?;
                    Err(Fault::NotFound(format!("there is no snapshot {id}")))
                },
                Ok,
            );
            found.map(convert::wire_snapshot)
        });
        Ok(Response::new(csi::GetSnapshotResponse { snapshot: Some(snapshot.await?) }))
    }

    async fn controller_expand_volume(
        &self,
        request: Request<csi::ControllerExpandVolumeRequest>,
    ) -> Answer<csi::ControllerExpandVolumeResponse> {
        let request = request.into_inner();
        let id = VolumeId::parse(&request.volume_id)?;
        if request.capacity_range.is_none() {
            return Err(Fault::Invalid("capacity_range is missing".to_owned()).into());
        }
        let range = CapacityRange::parse(request.capacity_range.as_ref())?;
        let expanded = call(&self.0, vec![id.to_string()], move |driver| {
            let expanded = driver.backend.expand(&id, range)?;
            tracing::info!(volume = %id, bytes = expanded.bytes, "volume may be so large");
            Ok(expanded)
        })
        .await?;
        Ok(Response::new(csi::ControllerExpandVolumeResponse {
            capacity_bytes: wire(expanded.bytes),
            node_expansion_required: expanded.node,
        }))
    }

    async fn controller_modify_volume(
        &self,
        request: Request<csi::ControllerModifyVolumeRequest>,
    ) -> Answer<csi::ControllerModifyVolumeResponse> {
        let request = request.into_inner();
        let id = VolumeId::parse(&request.volume_id)?;
        let parameters = convert::parameters(request.mutable_parameters);
        call(&self.0, vec![id.to_string()], move |driver| driver.backend.modify(&id, &parameters)).await?;
        Ok(Response::new(csi::ControllerModifyVolumeResponse {}))
    }
}
