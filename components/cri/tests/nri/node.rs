//! A daemon of a test's own, with an image of busybox and a network plugin that only claims to connect pods.

use cairn_contract::{
    baked::{BakedImage, BakedIndex},
    cri::{self, runtime_service_client::RuntimeServiceClient},
    digest::Sha256Digest,
};
use cairn_cri::cgroup::Cgroup;
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

pub(crate) const BUSYBOX: &str = "/bin/busybox";
const IMAGE: &str = "cairn.local/busybox:test";

pub(crate) type Client = RuntimeServiceClient<Channel>;

pub(crate) struct Node {
    base: tempfile::TempDir,
    daemon: Option<Child>,
}

fn program(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

impl Node {
    pub(crate) fn new() -> Self {
        let base = tempfile::Builder::new().prefix("nri").tempdir_in("/tmp").unwrap();
        let at = |name: &str| base.path().join(name);
        bake(&at("images"));
        let answer = r#"{"cniVersion":"1.0.0","ips":[{"address":"10.99.2.2/24"}]}"#;
        program(&at("bin/claim"), &format!("#!/bin/sh\n[ $CNI_COMMAND = ADD ] && echo '{answer}'\nexit 0\n"));
        fs::create_dir(at("net.d")).unwrap();
        let network = r#"{"cniVersion":"1.0.0","name":"claim","plugins":[{"type":"claim"}]}"#;
        fs::write(at("net.d/10-claim.conflist"), network).unwrap();
        let config = format!(
            "socket = '{0}/cri.sock'\nstate = '{0}/state'\nrun = '{0}/r'\nbaked_images = '{0}/images'\n\
             cgroup_driver = 'cgroupfs'\nshim = '{1}'\ncni_bin = ['{0}/bin']\ncni_conf = '{0}/net.d'\n\
             nri_socket = '{0}/nri.sock'\nnri_plugins = '{0}/plugins'\nnri_config = '{0}/conf.d'\n",
            base.path().display(),
            env!("CARGO_BIN_EXE_cairn-shim"),
        );
        fs::write(at("cri.toml"), config).unwrap();
        Self { base, daemon: None }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    pub(crate) fn program(&self, name: &str, text: &str) -> PathBuf {
        program(&self.path(name), text);
        self.path(name)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    pub(crate) async fn start(&mut self) -> Client {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("daemon.log")).unwrap();
        let daemon = Command::new(env!("CARGO_BIN_EXE_cairn-cri"))
            .arg("--config")
            .arg(self.path("cri.toml"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn();
        self.daemon = Some(daemon.unwrap());
        let socket = self.path("cri.sock");
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let path = socket.clone();
            let connector = tower::service_fn(move |_| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            let endpoint = Endpoint::from_static("http://cri.invalid");
            if let Ok(channel) = endpoint.connect_with_connector(connector).await {
                let mut client = RuntimeServiceClient::new(channel);
                if client.version(cri::VersionRequest::default()).await.is_ok() {
                    return client;
                }
            }
            assert!(Instant::now() < deadline, "the daemon does not answer: {}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }

    fn cgroup(&self) -> String {
        format!("/cairn-test{}", self.base.path().display())
    }

    /// A file of a container's cgroup, under either of its names.
    pub(crate) fn limit(&self, pod: &str, container: &str, names: [&str; 2]) -> String {
        let base = Path::new("/sys/fs/cgroup");
        let below = format!("{}/cairn-{pod}/{container}", self.cgroup().trim_start_matches('/'));
        let [unified, legacy] = names;
        let controller = if legacy.starts_with("pids") { "pids" } else { "memory" };
        let places = [base.join(&below).join(unified), base.join(controller).join(&below).join(legacy)];
        let found = places.iter().find_map(|place| fs::read_to_string(place).ok());
        found.unwrap_or_else(|| panic!("none of {places:?}")).trim().to_owned()
    }

    pub(crate) async fn pod(&self, client: &mut Client, name: &str) -> Result<String, tonic::Status> {
        let config = cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.into(),
                uid: format!("uid-{name}"),
                namespace: "default".into(),
                attempt: 0,
            }),
            log_directory: self.path("logs").display().to_string(),
            linux: Some(cri::LinuxPodSandboxConfig { cgroup_parent: self.cgroup(), ..Default::default() }),
            ..Default::default()
        };
        let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
        client.run_pod_sandbox(request).await.map(|made| made.into_inner().pod_sandbox_id)
    }

    /// A container that runs a script, and writes `<name>.log`.
    pub(crate) async fn create(
        &self,
        client: &mut Client,
        pod: &str,
        name: &str,
        script: &str,
    ) -> Result<String, tonic::Status> {
        let options =
            cri::NamespaceOption { pid: cri::NamespaceMode::Container.into(), ..Default::default() };
        let config = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
            image: Some(cri::ImageSpec { image: IMAGE.into(), ..Default::default() }),
            command: vec!["sh".into(), "-c".into(), script.into()],
            log_path: format!("{name}.log"),
            envs: vec![cri::KeyValue { key: "FROM_POD".into(), value: b"1".to_vec() }],
            linux: Some(cri::LinuxContainerConfig {
                resources: Some(cri::LinuxContainerResources {
                    memory_limit_in_bytes: 64 << 20,
                    oom_score_adj: 500,
                    ..Default::default()
                }),
                security_context: Some(cri::LinuxContainerSecurityContext {
                    namespace_options: Some(options),
                    ..Default::default()
                }),
            }),
            ..Default::default()
        };
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod.into(),
            config: Some(config),
            ..Default::default()
        };
        client.create_container(request).await.map(|made| made.into_inner().container_id)
    }

    pub(crate) async fn status(&self, client: &mut Client, id: &str) -> cri::ContainerStatus {
        let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: false };
        client.container_status(request).await.unwrap().into_inner().status.unwrap()
    }

    pub(crate) async fn wait(&self, client: &mut Client, id: &str) -> i32 {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let status = self.status(client, id).await;
            if status.state() == cri::ContainerState::ContainerExited {
                return status.exit_code;
            }
            assert!(Instant::now() < deadline, "{id} does not end: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What a container wrote, without the log's columns.
    pub(crate) fn output(&self, name: &str) -> String {
        let text = fs::read_to_string(self.path("logs").join(format!("{name}.log"))).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.splitn(4, ' ').nth(3))
            .fold(String::new(), |all, line| all + line + "\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        let _ = Cgroup::new(self.cgroup()).destroy();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for place in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
            if Path::new(place).starts_with(self.base.path()) {
                let _ = rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH);
            }
        }
    }
}

fn digest(text: &[u8]) -> Sha256Digest {
    Sha256Digest::new(Sha256::digest(text).into())
}

fn bake(directory: &Path) {
    let layer = digest(b"nri layer");
    let files = directory.join("layers").join(layer.hex());
    fs::create_dir_all(files.join("bin")).unwrap();
    fs::copy(BUSYBOX, files.join("bin/busybox")).unwrap();
    for name in ["sh", "sleep", "cat", "ls", "mkdir", "ionice", "stat"] {
        symlink("busybox", files.join("bin").join(name)).unwrap();
    }
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [layer] },
        "history": []
    });
    let config = config.to_string();
    fs::create_dir_all(directory.join("configs")).unwrap();
    fs::write(directory.join("configs").join(digest(config.as_bytes()).hex()), &config).unwrap();
    let index = BakedIndex {
        images: vec![BakedImage {
            names: vec![IMAGE.into()],
            config: digest(config.as_bytes()),
            manifest: digest(b"manifest"),
            layers: vec![layer],
            size: 1 << 20,
        }],
    };
    fs::write(directory.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
}
