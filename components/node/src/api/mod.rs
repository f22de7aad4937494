//! The management API: gRPC over mutual TLS. What a client may do is its certificate's organisation.
//!
//! The server takes a connection only from a client whose certificate the machine config's CA signed
//! ([`tls`]); every method names the role it needs ([`role`]) and refuses everyone else ([`service`]).

mod journal;
pub mod role;
mod service;
pub mod tls;
mod tunnel;

use crate::status::StatusBoard;
use cairn_contract::{management::management_server::ManagementServer, paths};
use std::{path::PathBuf, sync::Arc};
use tokio::net::TcpListener;

pub use service::Management;

/// What the API reaches on the node.
#[derive(Debug, Clone)]
pub struct Backends {
    /// The runtime's socket. [Tunnels](cairn_contract::management::TunnelTarget) lead there and to the drivers'.
    pub cri_socket: PathBuf,
    /// Directory of the CSI drivers' sockets.
    pub csi_run: PathBuf,
    /// Directory of the sockets by which they register with a kubelet.
    pub plugins_registry: PathBuf,
    /// Reads the journal.
    pub journalctl: PathBuf,
    /// Ends the system.
    pub systemctl: PathBuf,
}

impl Default for Backends {
    fn default() -> Self {
        Self {
            cri_socket: paths::CRI_SOCKET.into(),
            csi_run: paths::CSI_RUN.into(),
            plugins_registry: paths::PLUGINS_REGISTRY.into(),
            journalctl: "/usr/bin/journalctl".into(),
            systemctl: "/usr/bin/systemctl".into(),
        }
    }
}

/// Serves until the listener fails for good.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    backends: Backends,
    board: Arc<StatusBoard>,
) -> Result<(), tonic::transport::Error> {
    let service = ManagementServer::new(Management::new(backends, board));
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(std::time::Duration::from_secs(30)))
        .max_concurrent_streams(Some(64))
        .add_service(service)
        .serve_with_incoming(tls::incoming(listener, tls))
        .await
}
