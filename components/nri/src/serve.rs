//! Where plugins come from: the socket, and the directory of those that the runtime starts.

use crate::{
    api::{
        Container, ContainerEviction, ContainerUpdate, PodSandbox, UpdateContainersRequest,
        UpdateContainersResponse,
    },
    connection::{Connection, Request},
    event::RUNTIME_SERVICE,
    launch::{self, Program},
    message::Status,
    plugin::{Plugin, RegisterError},
    plugins::Plugins,
    session::{Role, code},
};
use cairn_daemon::socket::{self, ListenError, Listener};
use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::UnixStream,
    process::Child,
    sync::{mpsc, oneshot},
};

/// Between attempts to accept when there are no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How plugins are served.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Socket that plugins connect to; none if `None`.
    pub socket: Option<PathBuf>,
    /// Directory of programs that are started as plugins.
    pub plugins: PathBuf,
    /// Directory of their configurations.
    pub configs: PathBuf,
    /// Longest that a plugin may take to register, and to take in a page of what there is.
    pub registration_timeout: Duration,
    /// Longest that it may take to answer.
    pub request_timeout: Duration,
    /// The runtime's name, for plugins.
    pub runtime_name: String,
    /// The runtime's version, for plugins.
    pub runtime_version: String,
}

/// The runtime, as plugins need it.
pub trait Host: Clone + Send + Sync + 'static {
    /// Every pod and container there is. Nobody holds a [`crate::Held`] while it is asked, and it must not take one.
    fn inventory(&self) -> impl Future<Output = (Vec<PodSandbox>, Vec<Container>)> + Send;
    /// Makes changes to containers; those that failed. It must not take a [`crate::Held`].
    fn update(&self, updates: Vec<ContainerUpdate>) -> impl Future<Output = Vec<ContainerUpdate>> + Send;
    /// Stops containers, without being waited for.
    fn evict(&self, evictions: Vec<ContainerEviction>);
}

/// Plugins cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another runtime answers there.
    #[error("another runtime serves NRI at {}", .0.display())]
    InUse(PathBuf),
    /// The socket cannot be made.
    #[error("cannot serve NRI at {}: {source}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The programs or their configurations cannot be read.
    #[error("cannot start NRI plugins of {}: {source}", path.display())]
    Programs {
        /// Their directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Plugins {
    /// Starts the programs, which are there or have failed when this returns, and lets others come.
    ///
    /// # Errors
    /// When the socket cannot be had or the directories cannot be read. That a program fails is logged.
    pub async fn serve(&self, settings: Settings, host: impl Host) -> Result<(), ServeError> {
        let settings = Arc::new(settings);
        let programs = launch::discover(&settings.plugins, &settings.configs);
        let programs =
            programs.map_err(|source| ServeError::Programs { path: settings.plugins.clone(), source })?;
        let listener = match &settings.socket {
            Some(path) => Some(listen(path).await?),
            None => None,
        };
        // All at once: each may take its time to register.
        let starting: Vec<_> =
            programs.into_iter().filter_map(|program| self.launch(program, &settings, &host)).collect();
        for ready in starting {
            // It is dropped, unsent, when the plugin has failed.
            drop(ready.await);
        }
        if let Some(listener) = listener {
            tokio::spawn(self.clone().accept(listener, settings, host));
        }
        Ok(())
    }

    /// Starts a program; what is returned tells when it is a plugin.
    fn launch(
        &self,
        program: Program,
        settings: &Arc<Settings>,
        host: &impl Host,
    ) -> Option<oneshot::Receiver<()>> {
        let (ready, wait) = oneshot::channel();
        match program.start() {
            Ok((child, socket)) => {
                let (plugins, settings, host) = (self.clone(), Arc::clone(settings), host.clone());
                let source = Source::Program { child: Box::new(child), program, ready };
                tokio::spawn(async move { plugins.follow(socket, source, &settings, host).await });
                Some(wait)
            }
            Err(error) => {
                tracing::error!("cannot start NRI plugin {}: {error}", program.path.display());
                None
            }
        }
    }

    async fn accept(self, listener: Listener, settings: Arc<Settings>, host: impl Host) {
        loop {
            match listener.accept().await {
                Ok(socket) => {
                    let (plugins, settings, host) = (self.clone(), Arc::clone(&settings), host.clone());
                    tokio::spawn(async move {
                        plugins.follow(socket, Source::Socket, &settings, host).await;
                    });
                }
                Err(error) => {
                    tracing::warn!("cannot accept an NRI plugin: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// One plugin from its first word to its last.
    async fn follow(&self, socket: UnixStream, source: Source, settings: &Settings, host: impl Host) {
        let pid = socket.peer_cred().ok().and_then(|peer| peer.pid());
        let opened = Connection::open(socket, Role::Runtime);
        let (connection, mut calls) = match opened {
            Ok(opened) => opened,
            Err(error) => return tracing::error!("cannot serve an NRI plugin: {error}"),
        };
        let (name, config) = match &source {
            Source::Socket => (None, String::new()),
            Source::Program { program, .. } => (Some(program.name.clone()), program.config.clone()),
        };
        let shown =
            name.as_ref().map_or_else(|| format!("of process {}", pid.unwrap_or(0)), ToString::to_string);
        let registered = Plugin::register(connection.clone(), &mut calls, name, config, settings).await;
        let joined = match registered.map(Arc::new) {
            Ok(plugin) => self.join(&plugin, &mut calls, &host).await.map(|()| plugin),
            Err(error) => Err(error),
        };
        match joined {
            Ok(plugin) => {
                tracing::info!(plugin = %plugin.name, pid, "NRI plugin connected");
                let _child = source.joined();
                while let Some(request) = calls.recv().await {
                    answer(request, &plugin, &host).await;
                }
                self.forget(&plugin).await;
                tracing::info!(plugin = %plugin.name, "NRI plugin gone");
            }
            Err(error) => {
                tracing::warn!("NRI plugin {shown} is turned away: {error}");
                connection.close();
            }
        }
    }

    /// Brings a plugin up to date and makes it one of those that are asked.
    async fn join(
        &self,
        plugin: &Arc<Plugin>,
        calls: &mut mpsc::Receiver<Request>,
        host: &impl Host,
    ) -> Result<(), RegisterError> {
        let coming = self.coming().await;
        let (pods, containers) = host.inventory().await;
        let synchronizing = plugin.synchronize(pods, containers);
        tokio::pin!(synchronizing);
        // It may ask for updates before it has answered.
        let mut open = true;
        let updates = loop {
            tokio::select! {
                done = &mut synchronizing => break done?,
                request = calls.recv(), if open => match request {
                    Some(request) => answer(request, plugin, host).await,
                    None => open = false,
                },
            }
        };
        let failed = host.update(updates).await;
        if !failed.is_empty() {
            tracing::warn!(plugin = %plugin.name, "{} updates after Synchronize failed", failed.len());
        }
        coming.admit(Arc::clone(plugin)).await;
        Ok(())
    }
}

/// Where a plugin comes from.
enum Source {
    Socket,
    Program {
        child: Box<Child>,
        program: Program,
        /// Told once it is a plugin.
        ready: oneshot::Sender<()>,
    },
}

impl Source {
    /// It is a plugin now. The program is to be killed with its connection.
    fn joined(self) -> Option<Box<Child>> {
        match self {
            Self::Socket => None,
            Self::Program { child, ready, .. } => {
                // Who waits for it may have stopped.
                let _ = ready.send(());
                Some(child)
            }
        }
    }
}

/// Does what a plugin asks for by itself.
async fn answer(request: Request, plugin: &Plugin, host: &impl Host) {
    if (request.service(), request.method()) != (RUNTIME_SERVICE, "UpdateContainers") {
        let text = format!("{}/{} is not a method of the runtime", request.service(), request.method());
        return request.answer::<UpdateContainersResponse>(Err(Status::new(code::UNIMPLEMENTED, text))).await;
    }
    let result = match request.message::<UpdateContainersRequest>() {
        Ok(wanted) => {
            tracing::debug!(plugin = %plugin.name, updates = wanted.update.len(), evictions = wanted.evict.len(), "asked by a plugin");
            host.evict(wanted.evict);
            Ok(UpdateContainersResponse { failed: host.update(wanted.update).await })
        }
        Err(status) => Err(status),
    };
    request.answer(result).await;
}

/// The socket, in a directory that is made root's alone.
async fn listen(path: &Path) -> Result<Listener, ServeError> {
    if let Some(directory) = path.parent() {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|source| ServeError::Socket { path: path.to_path_buf(), source })?;
    }
    socket::listen(path).await.map_err(|error| match error {
        ListenError::InUse(path) => ServeError::InUse(path),
        ListenError::Io { path, source } => ServeError::Socket { path, source },
    })
}
