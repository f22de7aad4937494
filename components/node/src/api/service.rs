//! The methods. Each begins by naming the role it needs; a method that is not written here is refused by the
//! generated code.

use super::role::{Role, require};
use super::{Backends, journal, tunnel};
use crate::machine_facts;
use crate::monitor::{boot_id, host_name, version};
use crate::status::StatusBoard;
use cairn_contract::management::{self as api, management_server::Management as Service};
use std::path::Path;
use std::sync::Arc;
use tokio::process::Command;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

/// The service.
#[derive(Debug)]
pub struct Management {
    backends: Backends,
    board: Arc<StatusBoard>,
}

impl Management {
    /// A service that shows `board`.
    pub fn new(backends: Backends, board: Arc<StatusBoard>) -> Self {
        Self { backends, board }
    }
}

#[tonic::async_trait]
impl Service for Management {
    async fn status(
        &self,
        request: Request<api::StatusRequest>,
    ) -> Result<Response<api::StatusResponse>, Status> {
        require(&request, Role::Reader)?;
        let status = self.board.now();
        let (total_bytes, available_bytes) = machine_facts::memory();
        let interface = |found: machine_facts::Interface| api::Interface {
            name: found.name,
            mac: found.mac,
            addresses: found.addresses,
        };
        Ok(Response::new(api::StatusResponse {
            name: host_name(),
            image_version: version(),
            root_hash: machine_facts::root_hash(),
            kernel: machine_facts::first_line(Path::new("/proc/sys/kernel/osrelease")),
            boot_id: boot_id(),
            machine_id: machine_facts::first_line(Path::new("/etc/machine-id")),
            interfaces: machine_facts::interfaces().into_iter().map(interface).collect(),
            ready: status.ready(),
            checks: status
                .checks
                .into_iter()
                .map(|check| api::Check {
                    name: check.name.to_owned(),
                    good: check.good,
                    required: check.required,
                    message: check.message,
                })
                .collect(),
            milestones: status
                .milestones
                .into_iter()
                .map(|reached| api::Milestone { name: reached.name.to_owned(), boot_usec: reached.boot_usec })
                .collect(),
            memory: Some(api::Memory { total_bytes, available_bytes }),
        }))
    }

    async fn journal(
        &self,
        request: Request<api::JournalRequest>,
    ) -> Result<Response<BoxStream<api::JournalEntry>>, Status> {
        require(&request, Role::Reader)?;
        journal::open(&self.backends.journalctl, request.into_inner())
            .map(|entries| Response::new(Box::pin(entries) as _))
    }

    async fn tunnel(
        &self,
        request: Request<Streaming<api::TunnelMessage>>,
    ) -> Result<Response<BoxStream<api::TunnelMessage>>, Status> {
        require(&request, Role::Admin)?;
        tunnel::open(&self.backends, request.into_inner())
            .await
            .map(|bytes| Response::new(Box::pin(bytes) as _))
    }

    async fn power(
        &self,
        request: Request<api::PowerRequest>,
    ) -> Result<Response<api::PowerResponse>, Status> {
        require(&request, Role::Admin)?;
        let _answering = self.board.begin_ending().await;
        // The targets, not `systemctl reboot`: that looks for logind first, which the image has not.
        let target = match request.into_inner().action() {
            api::PowerAction::Reboot => "reboot.target",
            api::PowerAction::Off => "poweroff.target",
            api::PowerAction::Unspecified => {
                return Err(Status::invalid_argument("say whether to reboot or to power off"));
            }
        };
        // Not waiting for the job lets the answer out before the network goes down.
        let run = Command::new(&self.backends.systemctl)
            .args(["--no-block", "--job-mode=replace-irreversibly", "start", target])
            .output()
            .await;
        let output = run.map_err(|error| Status::internal(format!("cannot run systemctl: {error}")))?;
        if !output.status.success() {
            return Err(Status::internal(format!(
                "starting {target}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )));
        }
        Ok(Response::new(api::PowerResponse {}))
    }
}
