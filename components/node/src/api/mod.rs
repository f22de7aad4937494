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
use cairn_contract::management::management_server::ManagementServer;
use std::{path::PathBuf, sync::Arc};
use tokio::net::TcpListener;

pub use service::Management;

/// What the API reaches on the node.
#[derive(Debug, Clone)]
pub struct Backends {
    /// The socket that [tunnels](cairn_contract::management::TunnelTarget) lead to.
    pub cri_socket: PathBuf,
    /// Reads the journal.
    pub journalctl: PathBuf,
    /// Ends the system.
    pub systemctl: PathBuf,
}

impl Default for Backends {
    fn default() -> Self {
        Self {
            cri_socket: cairn_contract::paths::CRI_SOCKET.into(),
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
