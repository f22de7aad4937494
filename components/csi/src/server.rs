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
use std::{
    collections::BTreeMap,
    error::Error,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::task::JoinSet;
use tonic::transport::Server;

/// How long open requests may take to finish when the daemon is told to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// How long what could not be used is left alone before it is tried again.
const RETRY: Duration = Duration::from_secs(5);

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

/// Drivers by name, once they are open.
type Served = Arc<Mutex<BTreeMap<&'static str, Arc<Driver>>>>;

/// Serves every driver of the configuration until told to stop. One that cannot be served is no reason to stop the others: it
/// is tried again.
///
/// # Errors
/// If none can be served: the program's own directories cannot be used, or are another's.
pub async fn run(config: StorageConfig) -> Result<(), Box<dyn Error>> {
    let _state = State::claim(FORM.program, &config.state, &config.run).await?;
    let served = Served::default();
    let host = Arc::new(Host {
        node: node_name(&config),
        config,
        operations: Operations::new("cairn_csi", "CSI"),
        stopping: Stopping::at_signal(STOP_PATIENCE, "volumes stay mounted")?,
        served: served.clone(),
    });
    let render = move |text: &mut String| {
        let served = served.lock().unwrap_or_else(PoisonError::into_inner);
        driver::render(&served.values().cloned().collect::<Vec<_>>(), text);
    };
    telemetry::serve(host.config.metrics_address, &host.operations, render).await?;
    let mut serving = JoinSet::new();
    for &kind in &host.config.backends {
        let first = host.clone().open(kind).await;
        serving.spawn(host.clone().keep(kind, first));
    }
    sd_notify::notify(&[sd_notify::NotifyState::Ready])?;
    tokio::spawn(watchdog());
    let all = async {
        while let Some(ended) = serving.join_next().await {
            ended?;
        }
        Ok::<(), Box<dyn Error>>(())
    };
    host.stopping.limit(all).await.unwrap_or(Ok(()))
}

/// What all drivers are served with.
struct Host {
    config: StorageConfig,
    node: String,
    operations: Operations,
    stopping: Stopping,
    served: Served,
}

/// A driver with its sockets.
struct Open {
    driver: Arc<Driver>,
    listener: Listener,
    registration: Option<Listener>,
}

type Failed = Box<dyn Error + Send + Sync>;

impl Host {
    async fn open(self: Arc<Self>, kind: BackendKind) -> Result<Open, Failed> {
        let host = self.clone();
        let driver = tokio::task::spawn_blocking(move || host.driver(kind)).await??;
        let socket = self.config.socket(kind);
        let listener = listen(&socket).await?;
        let registration = match &self.config.plugins_registry {
            Some(registry) => Some(listen(&kind.registration_socket(registry)).await?),
            None => None,
        };
        tracing::info!(driver = kind.driver(), socket = %socket.display(), "ready");
        Ok(Open { driver, listener, registration })
    }

    /// There is one driver of a kind, also where its sockets fail and are made again: its locks are in it.
    fn driver(&self, kind: BackendKind) -> Result<Arc<Driver>, Fault> {
        let held = || self.served.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(driver) = held().get(kind.driver()) {
            return Ok(driver.clone());
        }
        let driver = Driver::open(&self.config, &self.node, backend(kind, &self.config)?)?;
        held().insert(kind.driver(), driver.clone());
        Ok(driver)
    }

    /// Serves a driver until told to stop, and again if that failed. Until it is open it has no sockets: who wants it connects
    /// again, as to one that starts.
    async fn keep(self: Arc<Self>, kind: BackendKind, first: Result<Open, Failed>) {
        let mut next = first;
        loop {
            let ended = match next {
                Ok(open) => self.serve(kind, open).await.map_err(Failed::from),
                Err(fault) => Err(fault),
            };
            let Err(fault) = ended else { return };
            tracing::error!(
                driver = kind.driver(),
                "cannot be served, and is tried again in {RETRY:?}: {fault}"
            );
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = self.stopping.token().cancelled_owned() => return,
            }
            next = self.clone().open(kind).await;
        }
    }

    async fn serve(&self, kind: BackendKind, open: Open) -> Result<(), tonic::transport::Error> {
        let Open { driver, listener, registration } = open;
        // Ends with this.
        let mut beside = JoinSet::new();
        beside.spawn(retry(driver.clone()));
        let registered = async {
            match registration {
                Some(listener) => {
                    register(kind, self.config.socket(kind), listener, self.stopping.clone()).await
                }
                None => Ok(()),
            }
        };
        let served = serve(driver, listener, self.operations.clone(), self.stopping.clone());
        tokio::try_join!(served, registered).map(drop)
    }
}

/// Tries again what a backend could not use at the start, until it can use all.
async fn retry(driver: Arc<Driver>) {
    loop {
        tokio::time::sleep(RETRY).await;
        let driver = driver.clone();
        let retried = tokio::task::spawn_blocking(move || driver.backend.retry(&driver.staged.all()));
        if retried.await.unwrap_or(true) {
            return;
        }
    }
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
