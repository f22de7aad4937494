//! A daemon of a test's own: its directories, an image made of the machine's static busybox, clients, and a look at what
//! is left behind.

#![allow(dead_code)] // no test uses all of it

pub(crate) mod registry;

use cairn_contract::{
    baked::{BakedImage, BakedIndex},
    cri::{self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient},
    digest::Sha256Digest,
};
use cairn_cri::cgroup::Cgroup;
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

pub(crate) const BUSYBOX: &str = "/bin/busybox";
pub(crate) const IMAGE: &str = "cairn.local/busybox:test";
/// Longest that anything may take which takes a moment on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) type Client = RuntimeServiceClient<Channel>;

/// Why a test with containers cannot run here.
pub(crate) fn obstacle() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root");
    }
    let is_static =
        Command::new(BUSYBOX).arg("true").env_clear().status().is_ok_and(|status| status.success());
    (!is_static).then_some("needs a static /bin/busybox (Debian: busybox-static)")
}

pub(crate) fn digest(text: &[u8]) -> Sha256Digest {
    Sha256Digest::new(Sha256::digest(text).into())
}

/// A daemon with its directories.
pub(crate) struct Node {
    base: tempfile::TempDir,
    daemon: Option<Child>,
    /// Variables of the daemon's.
    pub(crate) environment: Vec<(String, String)>,
}

impl Node {
    /// With a network whose only plugin claims an address, and `more` lines of configuration.
    pub(crate) fn new(more: &str) -> Self {
        let base = tempfile::Builder::new().prefix("cri").tempdir_in("/tmp").unwrap();
        fs::set_permissions(base.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let node = Self { base, daemon: None, environment: Vec::new() };
        bake(&node.path("images"));
        for name in ["bin", "net.d", "logs", "certs.d"] {
            fs::create_dir(node.path(name)).unwrap();
        }
        let plugin = node.path("bin/claim");
        let answer = r#"{"cniVersion":"1.0.0","ips":[{"address":"10.99.0.2/24"}]}"#;
        fs::write(&plugin, format!("#!/bin/sh\n[ $CNI_COMMAND = ADD ] && echo '{answer}'\nexit 0\n"))
            .unwrap();
        fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
        let network = r#"{"cniVersion":"1.0.0","name":"claim","plugins":[{"type":"claim"}]}"#;
        fs::write(node.path("net.d/10-claim.conflist"), network).unwrap();
        let config = format!(
            "socket = '{0}/cri.sock'\nstate = '{0}/state'\nrun = '{0}/r'\nbaked_images = '{0}/images'\n\
             nri = false\ncgroup_driver = 'cgroupfs'\nshim = '{1}'\ncni_bin = ['{0}/bin']\n\
             cni_conf = '{0}/net.d'\n\
             certs_d = '{0}/certs.d'\nregistry_auth = '{0}/auth.json'\n{more}\n",
            node.base.path().display(),
            env!("CARGO_BIN_EXE_cairn-shim"),
        );
        fs::write(node.path("cri.toml"), config).unwrap();
        node
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    /// Parent cgroup of this node's pods.
    pub(crate) fn cgroup(&self) -> String {
        format!("/cairn-test{}", self.base.path().display())
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    /// Starts the daemon and waits until it answers.
    pub(crate) async fn start(&mut self) -> Client {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("daemon.log")).unwrap();
        let mut daemon = Command::new(env!("CARGO_BIN_EXE_cairn-cri"));
        daemon.arg("--config").arg(self.path("cri.toml")).envs(self.environment.iter().cloned());
        self.daemon = Some(daemon.stdin(Stdio::null()).stderr(log).spawn().unwrap());
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(channel) = self.channel().await {
                let mut client = RuntimeServiceClient::new(channel);
                if client.version(cri::VersionRequest::default()).await.is_ok() {
                    return client;
                }
            }
            assert!(Instant::now() < deadline, "the daemon does not answer: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        let socket = self.path("cri.sock");
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

    /// A pod with a PID namespace for each container.
    pub(crate) fn pod(&self, name: &str) -> cri::PodSandboxConfig {
        let namespaces =
            cri::NamespaceOption { pid: cri::NamespaceMode::Container.into(), ..Default::default() };
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.into(),
                uid: format!("uid-{name}"),
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: format!("host-{name}"),
            log_directory: self.path("logs").display().to_string(),
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup(),
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// What exists on the machine on behalf of this node's pods.
    pub(crate) fn leaks(&self) -> Vec<String> {
        let base = self.base.path().display().to_string();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let own = self.path("state").display().to_string();
        let mut found: Vec<String> = mounts
            .lines()
            .filter(|line| line.contains(&base) && line.split(' ').nth(1) != Some(&own))
            .map(|line| format!("mount {line}"))
            .collect();
        let below = format!("{}/", self.cgroup());
        for directory in walkdir::WalkDir::new("/sys/fs/cgroup").into_iter().flatten() {
            let path = directory.path().display().to_string();
            if directory.file_type().is_dir() && path.contains(&below) {
                found.push(format!("cgroup {path}"));
            }
        }
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains("cairn-shim") && line.contains(&base) {
                found.push(format!("process {line}"));
            }
        }
        for directory in ["state/pods", "state/containers", "r/pods", "r/containers", "state/images/ingest"] {
            for entry in fs::read_dir(self.path(directory)).into_iter().flatten().flatten() {
                found.push(format!("{directory}/{}", entry.file_name().to_string_lossy()));
            }
        }
        found
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        // Only after a failed test is there more to do here than to remove the empty parent.
        let _ = Cgroup::new(self.cgroup()).destroy();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for place in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
            if Path::new(place).starts_with(self.base.path()) {
                cairn_cri::idmap::detach(Path::new(place));
            }
        }
    }
}

/// A baked image of one layer: busybox, by the names that tests use.
fn bake(directory: &Path) {
    let layer = digest(b"busybox");
    let bin = directory.join("layers").join(layer.hex()).join("bin");
    fs::create_dir_all(&bin).unwrap();
    fs::copy(BUSYBOX, bin.join("busybox")).unwrap();
    for name in ["sh", "sleep", "cat", "echo", "true"] {
        symlink("busybox", bin.join(name)).unwrap();
    }
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": { "Env": ["PATH=/bin"], "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": [layer] }, "history": []
    })
    .to_string();
    fs::create_dir_all(directory.join("configs")).unwrap();
    fs::write(directory.join("configs").join(digest(config.as_bytes()).hex()), &config).unwrap();
    let image = BakedImage {
        names: vec![IMAGE.into()],
        config: digest(config.as_bytes()),
        manifest: digest(b"manifest"),
        layers: vec![layer],
        size: 1 << 20,
    };
    let index = serde_json::to_vec(&BakedIndex { images: vec![image] }).unwrap();
    fs::write(directory.join("index.json"), index).unwrap();
}

/// A container that runs a script.
pub(crate) fn container(name: &str, script: &str) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: IMAGE.into(), ..Default::default() }),
        command: vec!["sh".into(), "-c".into(), script.into()],
        log_path: format!("{name}.log"),
        ..Default::default()
    }
}

pub(crate) async fn try_run_pod(
    client: &mut Client,
    config: cri::PodSandboxConfig,
) -> Result<String, tonic::Status> {
    let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    client.run_pod_sandbox(request).await.map(|run| run.into_inner().pod_sandbox_id)
}

pub(crate) async fn try_create(
    client: &mut Client,
    pod: &str,
    config: cri::ContainerConfig,
) -> Result<String, tonic::Status> {
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: pod.into(),
        config: Some(config),
        ..Default::default()
    };
    client.create_container(request).await.map(|created| created.into_inner().container_id)
}

pub(crate) async fn start(client: &mut Client, id: &str) {
    client.start_container(cri::StartContainerRequest { container_id: id.into() }).await.unwrap();
}

pub(crate) async fn status(client: &mut Client, id: &str) -> cri::ContainerStatus {
    let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: false };
    client.container_status(request).await.unwrap().into_inner().status.unwrap()
}

pub(crate) async fn remove_pod(client: &mut Client, pod: &str) {
    client.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: pod.into() }).await.unwrap();
}
