//! A runtime of a test's own.

use crate::{BUSYBOX, IMAGE, PATIENCE, client::Client};
use cairn_contract::{
    baked::{BakedImage, BakedIndex},
    cri::{self, runtime_service_server::RuntimeService},
    digest::Sha256Digest,
    runtime::{CgroupDriver, RuntimeConfig},
};
use cairn_cri::{
    cgroup::Cgroup,
    image::ImageService,
    runtime::{Runtime, RuntimeServer},
};
use cairn_streaming::{Attach, Exec, Finish, Runtime as _};
use sha2::{Digest, Sha256};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{io::AsyncWriteExt, time::sleep};
use tokio_util::sync::CancellationToken;
use tonic::Request;

/// A runtime with its directories.
pub(crate) struct Node {
    base: tempfile::TempDir,
    pub(crate) runtime: Runtime,
    pub(crate) server: RuntimeServer,
    stop: CancellationToken,
}

impl Node {
    pub(crate) async fn new() -> Self {
        let base = tempfile::Builder::new().prefix("str").tempdir_in("/tmp").unwrap();
        fs::set_permissions(base.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let at = |name: &str| base.path().join(name);
        bake(&at("images"));
        for name in ["bin", "net.d", "logs"] {
            fs::create_dir(at(name)).unwrap();
        }
        let answer = r#"{"cniVersion":"1.0.0","ips":[{"address":"10.99.1.2/24"}]}"#;
        let script = format!("#!/bin/sh\n[ $CNI_COMMAND = ADD ] && echo '{answer}'\nexit 0\n");
        fs::write(at("bin/claim"), script).unwrap();
        fs::set_permissions(at("bin/claim"), fs::Permissions::from_mode(0o755)).unwrap();
        let network = r#"{"cniVersion":"1.0.0","name":"claim","plugins":[{"type":"claim"}]}"#;
        fs::write(at("net.d/10-claim.conflist"), network).unwrap();
        let config = RuntimeConfig {
            state: at("state"),
            run: at("r"),
            baked_images: at("images"),
            cgroup_driver: CgroupDriver::Cgroupfs,
            shim: env!("CARGO_BIN_EXE_cairn-shim").into(),
            cni_bin: vec![at("bin")],
            cni_conf: at("net.d"),
            ..RuntimeConfig::default()
        };
        let _ = rustls::crypto::ring::default_provider().install_default();
        let images = ImageService::open(&config).await.unwrap();
        let runtime = Runtime::open(config, images).await.unwrap();
        let loopback = (std::net::Ipv4Addr::LOCALHOST, 0).into();
        let streaming = cairn_streaming::Server::bind(
            loopback,
            cairn_streaming::IDLE_TIMEOUT,
            cairn_streaming::CREATION_TIMEOUT,
        )
        .unwrap();
        let server = RuntimeServer::new(runtime.clone(), streaming.clone(), CancellationToken::new());
        let (streams, stop) = (Arc::new(runtime.clone()), CancellationToken::new());
        let stopped = stop.clone();
        tokio::spawn(async move { streaming.serve(streams, stopped.cancelled()).await });
        Self { base, runtime, server, stop }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    pub(crate) fn cgroup(&self) -> String {
        format!("/cairn-test{}", self.base.path().display())
    }

    pub(crate) async fn pod(&self, name: &str, options: cri::NamespaceOption) -> String {
        let config = cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.into(),
                uid: format!("uid-{name}"),
                namespace: "default".into(),
                attempt: 0,
            }),
            log_directory: self.path("logs").display().to_string(),
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup(),
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(options),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
        self.server.run_pod_sandbox(Request::new(request)).await.unwrap().into_inner().pod_sandbox_id
    }

    pub(crate) async fn run(&self, pod: &str, config: cri::ContainerConfig) -> String {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod.into(),
            config: Some(config),
            ..Default::default()
        };
        let created = self.server.create_container(Request::new(request)).await.unwrap();
        let container_id = created.into_inner().container_id;
        let request = cri::StartContainerRequest { container_id: container_id.clone() };
        self.server.start_container(Request::new(request)).await.unwrap();
        container_id
    }

    pub(crate) async fn remove(&self, pod: String) {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: pod };
        self.server.remove_pod_sandbox(Request::new(request)).await.unwrap();
    }

    pub(crate) async fn exit_code(&self, id: &str) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: false };
            let status = self.server.container_status(Request::new(request)).await.unwrap().into_inner();
            let status = status.status.unwrap();
            if status.state() == cri::ContainerState::ContainerExited {
                return status.exit_code;
            }
            assert!(Instant::now() < deadline, "{id} does not end");
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path("logs").join(name)).unwrap_or_default()
    }

    pub(crate) async fn logged(&self, name: &str, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log(name).contains(text) {
            assert!(Instant::now() < deadline, "no {text:?} in {:?}", self.log(name));
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts a command with streams of its own.
    pub(crate) fn exec(&self, container: &str, tty: bool, stdin: bool, command: &[&str]) -> Client {
        let runtime = self.runtime.clone();
        let what = Exec {
            container: container.into(),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            tty,
            stdin,
            stdout: true,
            stderr: !tty,
        };
        Client::new(stdin, !tty, |stdio| tokio::spawn(async move { runtime.exec(what, stdio).await }))
    }

    pub(crate) fn attach(&self, container: &str, tty: bool, stdin: bool) -> Client {
        let runtime = self.runtime.clone();
        let what = Attach { container: container.into(), tty, stdin, stdout: true, stderr: !tty };
        Client::new(stdin, !tty, |stdio| tokio::spawn(async move { runtime.attach(what, stdio).await }))
    }

    /// A command's output, errors and end, with `input` for all its input.
    pub(crate) async fn output(
        &self,
        container: &str,
        input: &[u8],
        command: &[&str],
    ) -> (String, String, Finish) {
        let mut client = self.exec(container, false, true, command);
        client.stdin.as_mut().unwrap().write_all(input).await.unwrap();
        client.stdin = None;
        client.rest().await
    }

    /// What exists on the machine on behalf of this node.
    pub(crate) fn leaks(&self) -> Vec<String> {
        let base = self.base.path().display().to_string();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mut found: Vec<String> =
            mounts.lines().filter(|line| line.contains(&base)).map(str::to_owned).collect();
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains("cairn-shim") && line.contains(&base) {
                found.push(line);
            }
        }
        found
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
        let _ = Cgroup::new(self.cgroup()).destroy();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for place in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
            if Path::new(place).starts_with(self.base.path()) {
                cairn_cri::idmap::detach(Path::new(place));
            }
        }
    }
}

fn digest(text: &[u8]) -> Sha256Digest {
    Sha256Digest::new(Sha256::digest(text).into())
}

/// An image of one layer: busybox, and its accounts.
fn bake(directory: &Path) {
    let layer = digest(b"streaming");
    let root = directory.join("layers").join(layer.hex());
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
    for name in [
        "sh", "sleep", "cat", "echo", "stty", "tty", "nc", "head", "wc", "stat", "dd", "id", "yes", "touch",
        "test",
    ] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\ntty:x:5:\nweb:x:33:\n").unwrap();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Env": ["PATH=/bin"], "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": [layer] },
        "history": []
    })
    .to_string();
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
