//! The sockets: each driver's own, and the one by which it registers.

use crate::{
    backend::Backend,
    config::FORM,
    controller::{ControllerServer, GroupServer},
    driver::{self, Driver},
    error::Fault,
    identity::IdentityServer,
    iscsi, local, nfs,
    node::NodeServer,
    registration::RegistrationServer,
};
use cairn_contract::{
    csi::{controller_server, group_controller_server, identity_server, node_server},
    pluginregistration::registration_server,
    storage::{BackendKind, StorageConfig},
};
use cairn_daemon::{
    deadline::Deadlines,
    socket::{Listener, listen},
    state::State,
    stopping::Stopping,
    telemetry::{self, Observe, Operations},
};
use std::{error::Error, path::PathBuf, sync::Arc, time::Duration};
use tokio::task::JoinSet;
use tonic::transport::Server;

/// How long open requests may take to finish when the daemon is told to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

fn backend(kind: BackendKind, config: &StorageConfig) -> Result<Box<dyn Backend>, Fault> {
    match kind {
        BackendKind::Local => local::open(config),
        BackendKind::Nfs => nfs::open(config),
        BackendKind::Iscsi => iscsi::open(config),
    }
}

/// The node's name in the cluster.
pub(crate) fn node_name(config: &StorageConfig) -> String {
    match config.node.as_str() {
        "" => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        name => name.to_owned(),
    }
}

/// Serves every driver of the configuration until told to stop.
///
/// # Errors
/// If one cannot be served.
pub async fn run(config: StorageConfig) -> Result<(), Box<dyn Error>> {
    let _state = State::claim(FORM.program, &config.state, &config.run).await?;
    let node = node_name(&config);
    let operations = Operations::new("cairn_csi", "CSI");
    let mut drivers = Vec::new();
    for &kind in &config.backends {
        drivers.push(Driver::open(&config, &node, backend(kind, &config)?)?);
    }
    let counted = drivers.clone();
    let render = move |text: &mut String| driver::render(&counted, text);
    telemetry::serve(config.metrics_address, &operations, render).await?;
    let stopping = Stopping::at_signal(STOP_PATIENCE, "volumes stay mounted")?;
    let mut serving = JoinSet::new();
    for driver in drivers {
        let kind = driver.backend.kind();
        let socket = config.socket(kind);
        serving.spawn(serve(driver, listen(&socket).await?, operations.clone(), stopping.clone()));
        tracing::info!(driver = kind.driver(), socket = %socket.display(), "ready");
        if let Some(registry) = &config.plugins_registry {
            let listener = listen(&kind.registration_socket(registry)).await?;
            serving.spawn(register(kind, socket, listener, stopping.clone()));
        }
    }
    sd_notify::notify(&[sd_notify::NotifyState::Ready])?;
    tokio::spawn(watchdog());
    let all = async {
        while let Some(ended) = serving.join_next().await {
            ended??;
        }
        Ok::<(), Box<dyn Error>>(())
    };
    stopping.limit(all).await.unwrap_or(Ok(()))
}

/// Tells systemd that the event loop turns.
async fn watchdog() {
    if let Some(limit) = sd_notify::watchdog_enabled() {
        loop {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
            tokio::time::sleep(limit / 3).await;
        }
    }
}

async fn serve(
    driver: Arc<Driver>,
    listener: Listener,
    operations: Operations,
    stopping: Stopping,
) -> Result<(), tonic::transport::Error> {
    let features = driver.backend.features();
    let controller = (!features.controller.is_empty())
        .then(|| controller_server::ControllerServer::new(ControllerServer(driver.clone())));
    let groups = features
        .groups
        .then(|| group_controller_server::GroupControllerServer::new(GroupServer(driver.clone())));
    Server::builder()
        .layer(Observe(operations))
        .layer(Deadlines)
        .add_service(identity_server::IdentityServer::new(IdentityServer(driver.clone())))
        .add_service(node_server::NodeServer::new(NodeServer(driver)))
        .add_optional_service(controller)
        .add_optional_service(groups)
        .serve_with_incoming_shutdown(listener, stopping.token().cancelled_owned())
        .await
}

async fn register(
    kind: BackendKind,
    endpoint: PathBuf,
    listener: Listener,
    stopping: Stopping,
) -> Result<(), tonic::transport::Error> {
    let server = RegistrationServer { driver: kind.driver(), endpoint };
    Server::builder()
        .add_service(registration_server::RegistrationServer::new(server))
        .serve_with_incoming_shutdown(listener, stopping.token().cancelled_owned())
        .await
}
