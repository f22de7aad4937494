//! The sockets: each driver's own, and the one by which it registers.

use crate::{
    backend::Backend,
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
    socket::{listen, stopped},
    telemetry::{self, Observe, Operations},
};
use std::{error::Error, fs, path::PathBuf, sync::Arc, time::Duration};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_stream::wrappers::UnixListenerStream;
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
    for directory in [&config.state, &config.run] {
        fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    let _lock = cairn_daemon::socket::lock("cairn-csi", &config.state).await?;
    let node = node_name(&config);
    let operations = Operations::new("cairn_csi", "CSI");
    let mut drivers = Vec::new();
    for &kind in &config.backends {
        drivers.push(Driver::open(&config, &node, backend(kind, &config)?)?);
    }
    if let Some(address) = config.metrics_address {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| format!("cannot serve metrics at {address} (metrics_address): {error}"))?;
        tracing::info!(%address, "metrics");
        let drivers = drivers.clone();
        let render = move |text: &mut String| driver::render(&drivers, text);
        tokio::spawn(telemetry::serve(listener, operations.clone(), render));
    }
    let mut serving = JoinSet::new();
    let mut sockets = Vec::new();
    for driver in drivers {
        let kind = driver.backend.kind();
        let socket = config.socket(kind);
        serving.spawn(serve(driver, listen(&socket)?, operations.clone()));
        tracing::info!(driver = kind.driver(), socket = %socket.display(), "ready");
        if let Some(registry) = &config.plugins_registry {
            let registered = kind.registration_socket(registry);
            serving.spawn(register(kind, socket.clone(), listen(&registered)?));
            sockets.push(registered);
        }
        sockets.push(socket);
    }
    sd_notify::notify(&[sd_notify::NotifyState::Ready])?;
    tokio::spawn(watchdog());
    let patience = async {
        stopped().await;
        tokio::time::sleep(STOP_PATIENCE).await;
    };
    let all = async {
        while let Some(ended) = serving.join_next().await {
            ended??;
        }
        Ok::<(), Box<dyn Error>>(())
    };
    tokio::select! {
        ended = all => ended?,
        () = patience => {}
    }
    for socket in sockets {
        let _ = fs::remove_file(socket);
    }
    Ok(())
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
    listener: tokio::net::UnixListener,
    operations: Operations,
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
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stopped())
        .await
}

async fn register(
    kind: BackendKind,
    endpoint: PathBuf,
    listener: tokio::net::UnixListener,
) -> Result<(), tonic::transport::Error> {
    let server = RegistrationServer { driver: kind.driver(), endpoint };
    Server::builder()
        .add_service(registration_server::RegistrationServer::new(server))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stopped())
        .await
}
