//! A node of a test's own: a daemon, and all the places it knows below one directory.

use super::{
    calls::Client,
    image,
    leaks::{self, Process},
    network, until,
};
use cairn_contract::{
    cri::{self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient},
    runtime::{CgroupDriver, RuntimeConfig},
};
use hyper_util::rt::TokioIo;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// Largest answer; a command's output is up to 16 MiB a stream.
const MESSAGE_LIMIT: usize = 64 << 20;

pub(crate) struct Node {
    base: tempfile::TempDir,
    daemon: Option<Child>,
    /// The next daemon's. What it names is the test's alone.
    pub(crate) config: RuntimeConfig,
    /// Variables of the next daemon's.
    pub(crate) environment: Vec<(String, String)>,
}

impl Node {
    /// A network that only claims an address.
    pub(crate) fn new() -> Self {
        let node = Self::without_network();
        node.claim_network();
        node
    }

    pub(crate) fn without_network() -> Self {
        let base = tempfile::Builder::new().prefix("cri").tempdir_in("/tmp").unwrap();
        // Users of other namespaces pass through.
        fs::set_permissions(base.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let at = |name: &str| base.path().join(name);
        image::bake(&at("images"));
        for name in ["bin", "net.d", "networks.d", "addresses", "certs.d"] {
            fs::create_dir(at(name)).unwrap();
        }
        let config = RuntimeConfig {
            socket: at("cri.sock"),
            state: at("state"),
            run: at("r"),
            baked_images: at("images"),
            cgroup_driver: CgroupDriver::Cgroupfs,
            shim: env!("CARGO_BIN_EXE_cairn-shim").into(),
            cni_bin: vec![at("bin"), network::PLUGINS.into()],
            cni_conf: at("net.d"),
            cni_networks: at("networks.d"),
            certs_d: at("certs.d"),
            registry_auth: at("auth.json"),
            nri_socket: at("nri.sock"),
            nri_plugins: at("plugins"),
            nri_config: at("conf.d"),
            ..RuntimeConfig::default()
        };
        Self { base, daemon: None, config, environment: Vec::new() }
    }

    pub(crate) fn base(&self) -> &Path {
        self.base.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.base().join(name)
    }

    /// Makes a file that can be run.
    pub(crate) fn program(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// Parent cgroup of this node's pods.
    pub(crate) fn cgroup(&self) -> String {
        format!("/cairn-test{}", self.base().display())
    }

    /// What the daemons have said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    /// What is in a container's log.
    pub(crate) fn container_log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("logs/{name}.log"))).unwrap_or_default()
    }

    /// Starts a daemon, which is the caller's to end.
    pub(crate) fn spawn(&self) -> Child {
        fs::write(self.path("cri.toml"), toml::to_string(&self.config).unwrap()).unwrap();
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("daemon.log")).unwrap();
        let mut daemon = Command::new(env!("CARGO_BIN_EXE_cairn-cri"));
        daemon.arg("--config").arg(self.path("cri.toml")).envs(self.environment.iter().cloned());
        daemon.stdin(Stdio::null()).stderr(log).spawn().unwrap()
    }

    /// Starts the daemon, if it does not run, and waits until it answers.
    pub(crate) async fn start(&mut self) -> Client {
        if self.daemon.is_none() {
            self.daemon = Some(self.spawn());
        }
        self.client().await
    }

    /// Waits until the daemon answers.
    pub(crate) async fn client(&self) -> Client {
        let connect = async || {
            let channel = self.channel().await.ok()?;
            let mut client = RuntimeServiceClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT);
            client.version(cri::VersionRequest::default()).await.ok()?;
            Some(client)
        };
        until(connect, || format!("the daemon does not answer: {:#?}\n{}", self.processes(), self.log()))
            .await
    }

    async fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        let socket = self.config.socket.clone();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://cri.invalid").connect_with_connector(connector).await
    }

    /// The daemon's image service.
    pub(crate) async fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel().await.unwrap())
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }

    /// Asks the daemon to end, and says how it did.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        let mut daemon = self.daemon.take().unwrap();
        let pid = rustix::process::Pid::from_child(&daemon);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        daemon.wait().unwrap()
    }

    /// Processes of this node but for its daemon.
    pub(crate) fn processes(&self) -> Vec<Process> {
        let daemon = self.daemon.as_ref().map(rustix::process::Pid::from_child);
        leaks::processes(self.base()).into_iter().filter(|process| Some(process.pid) != daemon).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        self.clean();
    }
}
