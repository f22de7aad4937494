//! CSI's Controller service over a target: its volumes are units, made and removed by tgtadm.
//!
//! What it knows ends with it, and the target with it. A target says how many sessions it has, not which unit they are for: while there
//! is any, no unit is removed or made larger, so a node that leaves a session behind cannot remove its volumes.

use super::{
    target::IscsiTarget,
    units::{Size, Unit, Units, Wanted},
};
use crate::error::Fault;
use cairn_contract::csi::{
    self,
    controller_server::Controller,
    controller_service_capability::{self, rpc::Type as Rpc},
    validate_volume_capabilities_response::Confirmed,
    volume_capability::{AccessType, access_mode::Mode},
};
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::Mutex;
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;

/// The service.
#[derive(Debug)]
pub(super) struct UnitController {
    pub(super) target: Arc<IscsiTarget>,
    /// What all volumes' contexts say; the number of the unit is added.
    pub(super) context: BTreeMap<String, String>,
    /// Held while the target is changed: one change after the other.
    pub(super) units: Mutex<Units>,
}

impl UnitController {
    async fn unused(&self) -> Result<(), Status> {
        match self.target.sessions().await.map_err(internal)? {
            0 => Ok(()),
            sessions => Err(Status::failed_precondition(format!(
                "in use: the target has {sessions} sessions, and does not say which unit they are for"
            ))),
        }
    }

    fn wire(&self, unit: &Unit) -> csi::Volume {
        let mut context = self.context.clone();
        context.insert("lun".to_owned(), unit.lun.to_string());
        csi::Volume {
            capacity_bytes: wire(unit.bytes),
            volume_id: unit.id.clone(),
            volume_context: context.into_iter().collect(),
            ..Default::default()
        }
    }
}

#[tonic::async_trait]
impl Controller for UnitController {
    async fn controller_get_capabilities(
        &self,
        _: Request<csi::ControllerGetCapabilitiesRequest>,
    ) -> Answer<csi::ControllerGetCapabilitiesResponse> {
        let capabilities =
            [Rpc::CreateDeleteVolume, Rpc::ExpandVolume, Rpc::SingleNodeMultiWriter].map(|kind| {
                let rpc = controller_service_capability::Rpc { r#type: kind.into() };
                csi::ControllerServiceCapability {
                    r#type: Some(controller_service_capability::Type::Rpc(rpc)),
                }
            });
        Ok(Response::new(csi::ControllerGetCapabilitiesResponse { capabilities: capabilities.into() }))
    }

    async fn create_volume(
        &self,
        request: Request<csi::CreateVolumeRequest>,
    ) -> Answer<csi::CreateVolumeResponse> {
        let request = request.into_inner();
        let size = Size::parse(request.capacity_range.as_ref())?;
        if let Some(reason) = objection(&request.volume_capabilities)? {
            return Err(Status::invalid_argument(reason));
        }
        if request.volume_content_source.is_some() {
            return Err(Status::invalid_argument("units are made blank, not from something"));
        }
        if let Some(key) = request.parameters.keys().chain(request.mutable_parameters.keys()).next() {
            return Err(Status::invalid_argument(format!("there is no parameter {key}")));
        }
        let mut units = self.units.lock().await;
        let unit = match units.wanted(&request.name, size)? {
            Wanted::There(unit) => unit,
            Wanted::New(unit) => {
                self.target.add(unit.lun, unit.bytes).await.map_err(internal)?;
                units.put(unit.clone());
                unit
            }
        };
        Ok(Response::new(csi::CreateVolumeResponse { volume: Some(self.wire(&unit)) }))
    }

    async fn delete_volume(
        &self,
        request: Request<csi::DeleteVolumeRequest>,
    ) -> Answer<csi::DeleteVolumeResponse> {
        let id = request.into_inner().volume_id;
        let mut units = self.units.lock().await;
        match units.get(&id).map(|unit| unit.lun) {
            Ok(lun) => {
                self.unused().await?;
                self.target.remove(lun).await.map_err(internal)?;
                units.forget(&id);
            }
            Err(status) if status.code() == tonic::Code::NotFound => {}
            Err(status) => return Err(status),
        }
        Ok(Response::new(csi::DeleteVolumeResponse {}))
    }

    async fn controller_expand_volume(
        &self,
        request: Request<csi::ControllerExpandVolumeRequest>,
    ) -> Answer<csi::ControllerExpandVolumeResponse> {
        let csi::ControllerExpandVolumeRequest { volume_id, capacity_range, .. } = request.into_inner();
        if capacity_range.is_none() {
            return Err(Status::invalid_argument("capacity_range is missing"));
        }
        let size = Size::parse(capacity_range.as_ref())?;
        let mut units = self.units.lock().await;
        let grown = units.grown(&volume_id, size)?;
        if grown != *units.get(&volume_id)? {
            self.unused().await?;
            self.target.grow(grown.lun, grown.bytes).await.map_err(internal)?;
            units.put(grown.clone());
        }
        Ok(Response::new(csi::ControllerExpandVolumeResponse {
            capacity_bytes: wire(grown.bytes),
            node_expansion_required: true,
        }))
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<csi::ValidateVolumeCapabilitiesRequest>,
    ) -> Answer<csi::ValidateVolumeCapabilitiesResponse> {
        let request = request.into_inner();
        let units = self.units.lock().await;
        let context = self.wire(units.get(&request.volume_id)?).volume_context;
        let mut objection = objection(&request.volume_capabilities)?;
        if !request.volume_context.is_empty() && request.volume_context != context {
            objection = objection.or_else(|| Some("the volume has another volume_context".to_owned()));
        }
        let confirmed = objection.is_none().then_some(Confirmed {
            volume_context: request.volume_context,
            volume_capabilities: request.volume_capabilities,
            parameters: request.parameters,
            mutable_parameters: request.mutable_parameters,
        });
        Ok(Response::new(csi::ValidateVolumeCapabilitiesResponse {
            confirmed,
            message: objection.unwrap_or_default(),
        }))
    }
}

/// Why units cannot be used like this, if so.
///
/// # Errors
/// INVALID_ARGUMENT for what makes no sense.
fn objection(capabilities: &[csi::VolumeCapability]) -> Result<Option<String>, Status> {
    if capabilities.is_empty() {
        return Err(Status::invalid_argument("volume_capabilities are missing"));
    }
    for csi::VolumeCapability { access_mode, access_type } in capabilities {
        let mode = access_mode.as_ref().map_or(Mode::Unknown, |access| access.mode());
        match (access_type, mode) {
            (None, _) => return Err(Status::invalid_argument("access_type is missing")),
            (_, Mode::Unknown) => return Err(Status::invalid_argument("access_mode is missing or unknown")),
            (Some(AccessType::Mount(_)), Mode::MultiNodeSingleWriter | Mode::MultiNodeMultiWriter) => {
                return Ok(Some(format!("{}: a unit's file system is one node's", mode.as_str_name())));
            }
            _ => {}
        }
    }
    Ok(None)
}

fn internal(fault: Fault) -> Status {
    Status::internal(fault.to_string())
}

fn wire(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use csi::volume_capability::{AccessMode, BlockVolume, MountVolume};

    #[test]
    fn file_systems_are_one_nodes_and_devices_are_anybodys() {
        let block = || Some(AccessType::Block(BlockVolume {}));
        let mount = || Some(AccessType::Mount(MountVolume::default()));
        for (kind, mode, expected) in [
            (mount(), Mode::SingleNodeWriter, Ok(true)),
            (mount(), Mode::SingleNodeSingleWriter, Ok(true)),
            (mount(), Mode::MultiNodeReaderOnly, Ok(true)),
            (mount(), Mode::MultiNodeMultiWriter, Ok(false)),
            (mount(), Mode::MultiNodeSingleWriter, Ok(false)),
            (block(), Mode::MultiNodeMultiWriter, Ok(true)),
            (block(), Mode::Unknown, Err(tonic::Code::InvalidArgument)),
            (None, Mode::SingleNodeWriter, Err(tonic::Code::InvalidArgument)),
        ] {
            let capability = csi::VolumeCapability {
                access_mode: Some(AccessMode { mode: mode.into() }),
                access_type: kind,
            };
            let judged = objection(std::slice::from_ref(&capability));
            let judged = judged.map(|objection| objection.is_none()).map_err(|status| status.code());
            assert_eq!(judged, expected, "{capability:?}");
        }
        assert_eq!(objection(&[]).unwrap_err().code(), tonic::Code::InvalidArgument);
    }
}
