//! The Identity service: who the driver is and what it has.

use crate::driver::Driver;
use cairn_contract::csi::{
    self,
    identity_server::Identity,
    plugin_capability::{self, service, volume_expansion},
};
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// The service.
pub struct IdentityServer(pub Arc<Driver>);

#[tonic::async_trait]
impl Identity for IdentityServer {
    async fn get_plugin_info(
        &self,
        _: Request<csi::GetPluginInfoRequest>,
    ) -> Result<Response<csi::GetPluginInfoResponse>, Status> {
        Ok(Response::new(csi::GetPluginInfoResponse {
            name: self.0.backend.kind().driver().to_owned(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: Default::default(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<csi::GetPluginCapabilitiesResponse>, Status> {
        let features = self.0.backend.features();
        let service = |kind: service::Type| {
            plugin_capability::Type::Service(plugin_capability::Service { r#type: kind.into() })
        };
        let online = plugin_capability::VolumeExpansion { r#type: volume_expansion::Type::Online.into() };
        let expands = features.node.contains(&csi::node_service_capability::rpc::Type::ExpandVolume);
        let capabilities = [
            (!features.controller.is_empty()).then(|| service(service::Type::ControllerService)),
            features.topology.then(|| service(service::Type::VolumeAccessibilityConstraints)),
            features.groups.then(|| service(service::Type::GroupControllerService)),
            expands.then_some(plugin_capability::Type::VolumeExpansion(online)),
        ];
        let capabilities = capabilities.into_iter().flatten();
        Ok(Response::new(csi::GetPluginCapabilitiesResponse {
            capabilities: capabilities.map(|kind| csi::PluginCapability { r#type: Some(kind) }).collect(),
        }))
    }

    async fn probe(&self, _: Request<csi::ProbeRequest>) -> Result<Response<csi::ProbeResponse>, Status> {
        Ok(Response::new(csi::ProbeResponse { ready: Some(self.0.backend.ready()) }))
    }
}
