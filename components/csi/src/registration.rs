//! How the kubelet learns of a driver: a second socket in its plugins_registry. No sidecar is needed for that.

use cairn_contract::pluginregistration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
    registration_server::Registration,
};
use std::path::PathBuf;
use tonic::{Request, Response, Status};

/// The service.
#[derive(Debug)]
pub struct RegistrationServer {
    /// The driver's name.
    pub driver: &'static str,
    /// The driver's socket.
    pub endpoint: PathBuf,
}

#[tonic::async_trait]
impl Registration for RegistrationServer {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: self.driver.to_owned(),
            endpoint: self.endpoint.to_string_lossy().into_owned(),
            // What the kubelet compares is the interface's first number.
            supported_versions: vec!["1.0.0".to_owned()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        if status.plugin_registered {
            tracing::info!(driver = self.driver, "registered with the kubelet");
        } else {
            tracing::error!(driver = self.driver, "the kubelet does not register it: {}", status.error);
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
