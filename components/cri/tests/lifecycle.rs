//! The whole life of a pod over gRPC, against the real daemon and shim, as root.
//!
//! An image is baked from the machine's static busybox; the network is a bridge if the reference CNI plugins are
//! installed, the node's own otherwise. What the test leaves behind, the next one would trip over: so it counts mounts,
//! cgroups and processes before and after.

#![allow(clippy::unwrap_used)]

use cairn_contract::{
    baked::{BakedImage, BakedIndex},
    cri::{self, runtime_service_client::RuntimeServiceClient},
    digest::Sha256Digest,
};
use cairn_cri::cgroup::Cgroup;
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::net::UnixStream;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

const BUSYBOX: &str = "/bin/busybox";
const PLUGINS: &str = "/usr/lib/cni";
const IMAGE: &str = "cairn.local/busybox:test";

type Client = RuntimeServiceClient<Channel>;

/// Why the test cannot run here.
fn obstacle() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root");
    }
    let is_static =
        Command::new(BUSYBOX).arg("true").env_clear().status().is_ok_and(|status| status.success());
    (!is_static).then_some("needs a static /bin/busybox (Debian: busybox-static)")
}

struct Node {
    base: tempfile::TempDir,
    daemon: Option<Child>,
    bridged: bool,
}

impl Node {
    fn new() -> Self {
        let base = tempfile::Builder::new().prefix("cri").tempdir_in("/tmp").unwrap();
        bake(&base.path().join("images"));
        let bridged = Path::new(PLUGINS).join("bridge").exists();
        let conf = base.path().join("net.d");
        fs::create_dir(&conf).unwrap();
        if bridged {
            let data = base.path().join("ipam");
            let text = serde_json::json!({
                "cniVersion": "1.0.0", "name": "test", "plugins": [
                    { "type": "bridge", "bridge": "cairn-test0", "isGateway": true,
                      "ipam": { "type": "host-local", "dataDir": data,
                                "ranges": [[{ "subnet": "10.199.7.0/24" }], [{ "subnet": "fd00:c7::/64" }]] } },
                ]
            });
            fs::write(conf.join("10-test.conflist"), text.to_string()).unwrap();
        }
        let config = format!(
            "socket = '{0}/cri.sock'\nstate = '{0}/state'\nrun = '{0}/r'\nbaked_images = '{0}/images'\n\
             nri = false\ncgroup_driver = 'cgroupfs'\nshim = '{1}'\ncni_bin = ['{PLUGINS}']\ncni_conf = '{0}/net.d'\n",
            base.path().display(),
            env!("CARGO_BIN_EXE_cairn-shim"),
        );
        fs::write(base.path().join("cri.toml"), config).unwrap();
        Self { base, daemon: None, bridged }
    }

    /// Parent cgroup of this node's pods.
    fn cgroup(&self) -> String {
        format!("/cairn-test{}", self.base.path().display())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    async fn start(&mut self) -> Client {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("daemon.log")).unwrap();
        let daemon = Command::new(env!("CARGO_BIN_EXE_cairn-cri"))
            .arg("--config")
            .arg(self.path("cri.toml"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.daemon = Some(daemon);
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
                let mut client = RuntimeServiceClient::new(channel).max_decoding_message_size(64 << 20);
                if client.version(cri::VersionRequest::default()).await.is_ok() {
                    return client;
                }
            }
            assert!(Instant::now() < deadline, "the daemon does not answer: {}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    fn sandbox(&self, name: &str) -> cri::PodSandboxConfig {
        let network = if self.bridged { cri::NamespaceMode::Pod } else { cri::NamespaceMode::Node };
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.into(),
                uid: format!("uid-{name}"),
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: format!("host-{name}"),
            log_directory: self.path("logs").display().to_string(),
            dns_config: Some(cri::DnsConfig { servers: vec!["10.0.0.10".into()], ..Default::default() }),
            labels: HashMap::from([("app".into(), name.into())]),
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup(),
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(cri::NamespaceOption {
                        network: network.into(),
                        pid: cri::NamespaceMode::Container.into(),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// What exists on the machine on behalf of this node.
    fn leaks(&self) -> Vec<String> {
        let mut found = Vec::new();
        let base = self.base.path().display().to_string();
        for line in
            fs::read_to_string("/proc/self/mounts").unwrap().lines().filter(|line| line.contains(&base))
        {
            found.push(format!("mount {line}"));
        }
        for directory in walkdir::WalkDir::new("/sys/fs/cgroup").into_iter().flatten() {
            let path = directory.path().display().to_string();
            if directory.file_type().is_dir() && path.contains(&format!("{}/", self.cgroup())) {
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
        for lease in fs::read_dir(self.path("ipam/test")).into_iter().flatten().flatten() {
            let name = lease.file_name().to_string_lossy().into_owned();
            if name.starts_with("10.") || name.starts_with("fd") {
                found.push(format!("address {name}"));
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
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let ours = String::from_utf8_lossy(&line).contains(&*self.base.path().to_string_lossy());
            let pid = process.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw).filter(|_| ours) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for place in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
            if Path::new(place).starts_with(self.base.path()) {
                let _ = rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH);
            }
        }
        if self.bridged {
            let _ = Command::new("ip").args(["link", "del", "cairn-test0"]).stderr(Stdio::null()).status();
        }
    }
}

fn digest(text: &[u8]) -> Sha256Digest {
    Sha256Digest::new(Sha256::digest(text).into())
}

/// One image of two layers: busybox, and its accounts.
fn bake(directory: &Path) {
    let layers = [digest(b"layer one"), digest(b"layer two")];
    let [lower, upper] = layers.map(|layer| directory.join("layers").join(layer.hex()));
    fs::create_dir_all(lower.join("bin")).unwrap();
    fs::create_dir_all(lower.join("tmp")).unwrap();
    fs::set_permissions(lower.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::copy(BUSYBOX, lower.join("bin/busybox")).unwrap();
    for name in [
        "sh", "sleep", "cat", "echo", "id", "hostname", "ls", "kill", "dd", "head", "mount", "ip", "tr",
        "readlink", "seq", "grep",
    ] {
        symlink("busybox", lower.join("bin").join(name)).unwrap();
    }
    fs::create_dir_all(upper.join("etc")).unwrap();
    fs::write(upper.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/:/bin/sh\n").unwrap();
    fs::write(upper.join("etc/group"), "root:x:0:\nwww:x:33:\nlogs:x:50:web\n").unwrap();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Env": ["PATH=/bin", "FROM_IMAGE=1"], "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": layers },
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
            layers: layers.to_vec(),
            size: 1 << 20,
        }],
    };
    fs::write(directory.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
}

fn container(name: &str, script: &str) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: IMAGE.into(), ..Default::default() }),
        command: vec!["sh".into(), "-c".into(), script.into()],
        log_path: format!("{name}.log"),
        labels: HashMap::from([("name".into(), name.into())]),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(cri::LinuxContainerResources {
                memory_limit_in_bytes: 64 << 20,
                cpu_shares: 512,
                oom_score_adj: 500,
                ..Default::default()
            }),
            security_context: Some(cri::LinuxContainerSecurityContext {
                seccomp: Some(cri::SecurityProfile::default()),
                namespace_options: Some(cri::NamespaceOption {
                    pid: cri::NamespaceMode::Container.into(),
                    ..Default::default()
                }),
                masked_paths: vec!["/proc/kcore".into()],
                readonly_paths: vec!["/proc/sys".into()],
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

/// Containers that must be refused, each with a word of the reason.
fn unfit() -> Vec<(&'static str, cri::ContainerConfig)> {
    let with = |change: fn(&mut cri::ContainerConfig)| {
        let mut config = container("unfit", "true");
        change(&mut config);
        config
    };
    vec![
        (
            "CDI",
            with(|config| config.cdi_devices = vec![cri::CdiDevice { name: "vendor.com/class=one".into() }]),
        ),
        ("CDI", with(|config| drop(config.annotations.insert("cdi.k8s.io/x".into(), "v.com/c=1".into())))),
        (
            "permissions",
            with(|config| {
                config.devices = vec![cri::Device {
                    container_path: "/dev/null".into(),
                    host_path: "/dev/null".into(),
                    permissions: "rwx".into(),
                }];
            }),
        ),
        (
            "unified",
            with(|config| {
                let resources = config.linux.as_mut().unwrap().resources.as_mut().unwrap();
                resources.unified.insert("../memory.max".into(), "1".into());
            }),
        ),
    ]
}

async fn create(client: &mut Client, pod: &str, config: cri::ContainerConfig) -> String {
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: pod.into(),
        config: Some(config),
        ..Default::default()
    };
    client.create_container(request).await.unwrap().into_inner().container_id
}

async fn start(client: &mut Client, id: &str) {
    client.start_container(cri::StartContainerRequest { container_id: id.into() }).await.unwrap();
}

async fn run(client: &mut Client, pod: &str, config: cri::ContainerConfig) -> String {
    let id = create(client, pod, config).await;
    start(client, &id).await;
    id
}

async fn status(client: &mut Client, id: &str) -> cri::ContainerStatus {
    let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: false };
    client.container_status(request).await.unwrap().into_inner().status.unwrap()
}

async fn ended(client: &mut Client, id: &str) -> cri::ContainerStatus {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let status = status(client, id).await;
        if status.state() == cri::ContainerState::ContainerExited {
            return status;
        }
        assert!(Instant::now() < deadline, "{id} does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn exec(client: &mut Client, id: &str, command: &[&str]) -> cri::ExecSyncResponse {
    let request = cri::ExecSyncRequest {
        container_id: id.into(),
        cmd: command.iter().map(|&word| word.to_owned()).collect(),
        timeout: 20,
    };
    client.exec_sync(request).await.unwrap().into_inner()
}

async fn output(client: &mut Client, id: &str, script: &str) -> String {
    let result = exec(client, id, &["sh", "-c", script]).await;
    String::from_utf8(result.stdout).unwrap() + &String::from_utf8(result.stderr).unwrap()
}

/// Metrics, streams, verbose calls and updates of a pod with one running container among ended ones.
async fn tells_all(client: &mut Client, node: &Node, pod: &str, server: &str) {
    let descriptors = client.list_metric_descriptors(cri::ListMetricDescriptorsRequest {}).await.unwrap();
    let descriptors = descriptors.into_inner().descriptors;
    let metrics = client.list_pod_sandbox_metrics(cri::ListPodSandboxMetricsRequest {}).await.unwrap();
    let metrics = metrics.into_inner().pod_metrics;
    let metrics = metrics.iter().find(|metrics| metrics.pod_sandbox_id == pod).unwrap();
    assert_eq!(metrics.container_metrics.len(), 1, "only the running one");
    let of_container = &metrics.container_metrics[0].metrics;
    for metric in metrics.metrics.iter().chain(of_container) {
        let descriptor = descriptors.iter().find(|known| known.name == metric.name).unwrap();
        assert_eq!(descriptor.label_keys.len(), metric.label_values.len(), "{metric:?}");
    }
    let value = |name: &str| {
        let metric = of_container.iter().find(|metric| metric.name == name);
        metric.and_then(|metric| metric.value.as_ref()).unwrap_or_else(|| panic!("{name} is missing")).value
    };
    assert!(value("container_memory_usage_bytes") > 4096 && value("container_processes") >= 1);
    assert!(value("container_file_descriptors") >= 3 && value("container_fs_limit_bytes") > 1 << 20);
    assert!(value("container_start_time_seconds") > 1_600_000_000);
    let received = metrics.metrics.iter().any(|held| held.name == "container_network_receive_bytes_total");
    assert_eq!(received, node.bridged);

    let request = cri::StreamContainersRequest::default();
    let mut stream = client.stream_containers(request).await.unwrap().into_inner();
    let mut streamed = Vec::new();
    while let Some(page) = stream.message().await.unwrap() {
        streamed.extend(page.containers);
    }
    let request = cri::ListContainersRequest::default();
    assert_eq!(streamed, client.list_containers(request).await.unwrap().into_inner().containers);

    let request = cri::ContainerStatusRequest { container_id: server.into(), verbose: true };
    let told = client.container_status(request).await.unwrap().into_inner();
    let info: serde_json::Value = serde_json::from_str(&told.info["info"]).unwrap();
    assert_eq!(info["sandboxID"], pod);
    assert!(info["pid"].as_i64().unwrap() > 1);
    assert!(info["runtimeSpec"]["process"]["args"].is_array());

    let update = |linux, annotations| cri::UpdateContainerResourcesRequest {
        container_id: server.into(),
        linux: Some(linux),
        annotations,
        ..Default::default()
    };
    let score = cri::LinuxContainerResources { oom_score_adj: 600, ..Default::default() };
    client.update_container_resources(update(score.clone(), HashMap::new())).await.unwrap();
    assert_eq!(output(client, server, "cat /proc/1/oom_score_adj").await.trim(), "600");
    let unknown = update(score, HashMap::from([("a".to_owned(), "b".to_owned())]));
    assert_eq!(client.update_container_resources(unknown).await.unwrap_err().code(), Code::InvalidArgument);
    let resources = Some(cri::LinuxContainerResources { cpu_shares: 99, ..Default::default() });
    let request = |pod: &str| cri::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.into(),
        resources: resources.clone(),
        ..Default::default()
    };
    client.update_pod_sandbox_resources(request(pod)).await.unwrap();
    assert_eq!(client.update_pod_sandbox_resources(request("x")).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_lives_and_leaves_nothing() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let mut node = Node::new();
    let mut client = node.start().await;

    // The runtime introduces itself.
    let state = client.status(cri::StatusRequest { verbose: true }).await.unwrap().into_inner();
    let conditions = state.status.unwrap().conditions;
    assert!(conditions.iter().any(|held| held.r#type == "RuntimeReady" && held.status));
    assert_eq!(conditions.iter().any(|held| held.r#type == "NetworkReady" && held.status), node.bridged);

    // A sandbox, once.
    let request = cri::RunPodSandboxRequest { config: Some(node.sandbox("one")), ..Default::default() };
    let pod = client.run_pod_sandbox(request.clone()).await.unwrap().into_inner().pod_sandbox_id;
    assert_eq!(client.run_pod_sandbox(request).await.unwrap_err().code(), Code::AlreadyExists);
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: pod.clone(), verbose: true };
    let sandbox = client.pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap();
    assert_eq!(sandbox.state(), cri::PodSandboxState::SandboxReady);
    if node.bridged {
        let network = sandbox.network.unwrap();
        assert!(network.ip.starts_with("10.199.7."), "{network:?}");
        assert_eq!(network.additional_ips.len(), 1);
    }

    // What would change the node, or cannot be given, is refused and leaves nothing.
    for sysctl in ["kernel.panic", "net/../kernel/panic"] {
        let mut config = node.sandbox("refused");
        config.linux.as_mut().unwrap().sysctls.insert(sysctl.into(), "1".into());
        let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
        let refusal = client.run_pod_sandbox(request).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument, "{sysctl}: {refusal}");
        assert!(refusal.message().contains(sysctl), "{refusal}");
    }
    for (word, config) in unfit() {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod.clone(),
            config: Some(config),
            ..Default::default()
        };
        let refusal = client.create_container(request).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument, "{word}: {refusal}");
        assert!(refusal.message().contains(word), "{word}: {refusal}");
    }

    // A container that talks and ends.
    let talker =
        run(&mut client, &pod, container("talker", "echo out; echo err >&2; echo -n unfinished; exit 3"))
            .await;
    let end = ended(&mut client, &talker).await;
    assert_eq!((end.exit_code, end.reason.as_str()), (3, "Error"));
    assert!(end.created_at < end.started_at && end.started_at < end.finished_at);
    let log = fs::read_to_string(node.path("logs/talker.log")).unwrap();
    for line in [" stdout F out", " stderr F err", " stdout F unfinished"] {
        assert!(log.lines().any(|held| held.ends_with(line)), "{line} in {log}");
    }

    // A container that stays: who it is, what it sees, what it may.
    let mut config = container("server", "trap 'exit 7' TERM; while :; do sleep 0.1; done");
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.run_as_username = "web".into();
    let server = run(&mut client, &pod, config).await;
    assert_eq!(status(&mut client, &server).await.state(), cri::ContainerState::ContainerRunning);
    assert_eq!(output(&mut client, &server, "id -u; id -G").await, "33\n33 50\n");
    assert_eq!(output(&mut client, &server, "cat /etc/resolv.conf").await, "nameserver 10.0.0.10\n");
    assert_eq!(output(&mut client, &server, "echo $FROM_IMAGE").await, "1\n");
    assert!(output(&mut client, &server, "cat /proc/1/oom_score_adj").await.trim() == "500");
    assert!(
        output(&mut client, &server, "echo x > /proc/sys/kernel/hostname")
            .await
            .contains("nonexistent directory")
            || output(&mut client, &server, "echo x > /proc/sys/kernel/hostname")
                .await
                .contains("ermission denied")
            || output(&mut client, &server, "echo x > /proc/sys/kernel/hostname").await.contains("ead-only")
    );
    if node.bridged {
        assert_eq!(output(&mut client, &server, "hostname").await, "host-one\n");
        assert!(output(&mut client, &server, "ip addr show eth0").await.contains("10.199.7."));
        assert!(output(&mut client, &server, "ip addr show lo").await.contains("127.0.0.1"));
    }
    // A command in a container is under the same filter and capabilities as the container.
    let confinement =
        output(&mut client, &server, "grep -E 'Seccomp:|CapEff' /proc/self/status | tr '\\t\\n' '  '").await;
    assert!(
        confinement.contains("Seccomp: 2") && confinement.contains("CapEff: 0000000000000000"),
        "{confinement}"
    );
    assert_eq!(exec(&mut client, &server, &["sh", "-c", "exit 5"]).await.exit_code, 5);
    let big = exec(&mut client, &server, &["sh", "-c", "dd if=/dev/zero bs=1M count=17 2>/dev/null"]).await;
    assert_eq!(big.stdout.len(), 16 << 20, "capped");
    let slow = cri::ExecSyncRequest {
        container_id: server.clone(),
        cmd: vec!["sleep".into(), "20".into()],
        timeout: 1,
    };
    assert_eq!(client.exec_sync(slow).await.unwrap_err().code(), Code::DeadlineExceeded);
    let absent =
        cri::ExecSyncRequest { container_id: server.clone(), cmd: vec!["absent".into()], timeout: 5 };
    let absent = client.exec_sync(absent).await.unwrap_err();
    assert!(absent.message().contains("absent"), "{absent}");

    // Limits and measurements.
    let update = cri::LinuxContainerResources { memory_limit_in_bytes: 96 << 20, ..Default::default() };
    let request = cri::UpdateContainerResourcesRequest {
        container_id: server.clone(),
        linux: Some(update),
        ..Default::default()
    };
    client.update_container_resources(request).await.unwrap();
    let limits = status(&mut client, &server).await.resources.unwrap().linux.unwrap();
    assert_eq!((limits.memory_limit_in_bytes, limits.cpu_shares), (96 << 20, 512));
    let request = cri::ContainerStatsRequest { container_id: server.clone() };
    let stats = client.container_stats(request).await.unwrap().into_inner().stats.unwrap();
    let available = stats.memory.as_ref().unwrap().available_bytes.as_ref().unwrap().value;
    assert!(available > 64 << 20 && available <= 96 << 20, "the limit is in force: {available}");
    assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);
    let request = cri::PodSandboxStatsRequest { pod_sandbox_id: pod.clone() };
    let stats = client.pod_sandbox_stats(request).await.unwrap().into_inner().stats.unwrap().linux.unwrap();
    assert_eq!(stats.containers.len(), 1);
    assert_eq!(stats.network.is_some(), node.bridged);
    tells_all(&mut client, &node, &pod, &server).await;

    // Too much memory.
    let hog = run(&mut client, &pod, container("hog", "head -c 200000000 /dev/zero | tr '\\0' 'x' | sort > /dev/null; x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo ${#x}")).await;
    let end = ended(&mut client, &hog).await;
    assert_eq!(end.reason, "OOMKilled", "{end:?}");

    // A program that is not there.
    let id = create(
        &mut client,
        &pod,
        cri::ContainerConfig { command: vec!["/nowhere".into()], ..container("broken", "") },
    )
    .await;
    let error =
        client.start_container(cri::StartContainerRequest { container_id: id.clone() }).await.unwrap_err();
    assert!(error.message().contains("/nowhere"), "{error}");
    let end = status(&mut client, &id).await;
    assert_eq!((end.exit_code, end.reason.as_str()), (128, "StartError"));

    // Lists.
    let filter = |state: cri::ContainerState| cri::ListContainersRequest {
        filter: Some(cri::ContainerFilter {
            state: Some(cri::ContainerStateValue { state: state.into() }),
            pod_sandbox_id: pod[..12].to_owned(),
            ..Default::default()
        }),
    };
    let running =
        client.list_containers(filter(cri::ContainerState::ContainerRunning)).await.unwrap().into_inner();
    assert_eq!(running.containers.iter().map(|held| &held.id).collect::<Vec<_>>(), [&server]);
    let exited =
        client.list_containers(filter(cri::ContainerState::ContainerExited)).await.unwrap().into_inner();
    assert_eq!(exited.containers.len(), 3);

    // The daemon dies; what runs, runs on; what ends meanwhile is not forgotten.
    let brief = run(&mut client, &pod, container("brief", "sleep 1; echo after; exit 9")).await;
    node.kill();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut client = node.start().await;
    assert_eq!(status(&mut client, &server).await.state(), cri::ContainerState::ContainerRunning);
    let end = status(&mut client, &brief).await;
    assert_eq!((end.state(), end.exit_code), (cri::ContainerState::ContainerExited, 9));
    assert!(fs::read_to_string(node.path("logs/brief.log")).unwrap().contains("stdout F after"));
    assert_eq!(output(&mut client, &server, "echo still here").await, "still here\n");

    // Logs are rotated.
    let chatter =
        run(&mut client, &pod, container("chatter", "while :; do echo tick; sleep 0.1; done")).await;
    let (log, rotated) = (node.path("logs/chatter.log"), node.path("logs/chatter.log.1"));
    tokio::time::sleep(Duration::from_millis(500)).await;
    fs::rename(&log, &rotated).unwrap();
    client
        .reopen_container_log(cri::ReopenContainerLogRequest { container_id: chatter.clone() })
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(
        fs::read_to_string(&log).unwrap().contains("tick")
            && fs::read_to_string(&rotated).unwrap().contains("tick")
    );

    // Stopping asks first, and kills who does not listen.
    let stop = |id: &str, timeout| cri::StopContainerRequest { container_id: id.to_owned(), timeout };
    client.stop_container(stop(&server, 10)).await.unwrap();
    assert_eq!(status(&mut client, &server).await.exit_code, 7);
    client.stop_container(stop(&chatter, 0)).await.unwrap();
    assert_eq!(status(&mut client, &chatter).await.exit_code, 137);
    client.stop_container(stop(&chatter, 0)).await.unwrap();
    client.stop_container(stop("none", 0)).await.unwrap();
    let missing = cri::ContainerStatusRequest { container_id: "none".into(), verbose: false };
    assert_eq!(client.container_status(missing).await.unwrap_err().code(), Code::NotFound);

    // Everything goes, twice over.
    client.remove_container(cri::RemoveContainerRequest { container_id: talker.clone() }).await.unwrap();
    client.remove_container(cri::RemoveContainerRequest { container_id: talker }).await.unwrap();
    let last = run(&mut client, &pod, container("last", "while :; do sleep 1; done")).await;
    for _ in 0..2 {
        client.stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: pod.clone() }).await.unwrap();
    }
    assert_eq!(status(&mut client, &last).await.exit_code, 137);
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: pod.clone(), verbose: false };
    let sandbox = client.pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap();
    assert_eq!(sandbox.state(), cri::PodSandboxState::SandboxNotready);
    for _ in 0..2 {
        client
            .remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: pod.clone() })
            .await
            .unwrap();
    }
    let left = client.list_containers(cri::ListContainersRequest::default()).await.unwrap().into_inner();
    assert!(left.containers.is_empty());
    assert_eq!(node.leaks(), Vec::<String>::new(), "{}", node.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_pid_namespace_and_a_dead_shim() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let mut node = Node::new();
    let mut client = node.start().await;
    let mut config = node.sandbox("shared");
    let options = cri::NamespaceOption {
        network: cri::NamespaceMode::Node.into(),
        pid: cri::NamespaceMode::Pod.into(),
        ..Default::default()
    };
    let linux = config.linux.as_mut().unwrap();
    linux.security_context.as_mut().unwrap().namespace_options = Some(options.clone());
    let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    let pod = client.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    let shared = |name: &str| {
        let mut config = container(name, "while :; do sleep 1; done");
        let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        security.namespace_options = Some(options.clone());
        config
    };
    let first = run(&mut client, &pod, shared("first")).await;
    let second = run(&mut client, &pod, shared("second")).await;
    let namespace = output(&mut client, &first, "readlink /proc/self/ns/pid").await;
    assert_eq!(namespace, output(&mut client, &second, "readlink /proc/self/ns/pid").await);
    let processes = output(&mut client, &first, "cat /proc/1/cmdline | tr '\\0' ' '").await;
    assert!(processes.contains("pause"), "{processes}");

    // The shim is killed: its pod goes with it, and says so.
    let setup = node.path("r/pods").join(&pod).join("setup.json").display().to_string();
    let shim = fs::read_dir("/proc").unwrap().flatten().find_map(|process| {
        let line = fs::read(process.path().join("cmdline")).ok()?;
        String::from_utf8_lossy(&line).contains(&setup).then(|| process.file_name().to_str()?.parse().ok())?
    });
    let shim = rustix::process::Pid::from_raw(shim.expect("the shim runs")).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    let end = ended(&mut client, &first).await;
    assert_eq!((end.exit_code, end.reason.as_str()), (255, "ShimDied"));
    client.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: pod }).await.unwrap();
    assert_eq!(node.leaks(), Vec::<String>::new(), "{}", node.log());
}
