//! `kill -9` of daemon and shims at random instants during a random workload: nothing is lost, doubled or left.
//!
//! A round starts the daemon, lets some clients work, kills the daemon or a shim, or both, at a random moment,
//! starts the daemon again and compares what it lists with what the clients were told. Every other round removes
//! everything and looks for leaks. `CAIRN_KILL_ROUNDS` and `CAIRN_KILL_SEED` repeat a run.

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
    collections::{BTreeMap, BTreeSet},
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

const BUSYBOX: &str = "/bin/busybox";
const PLUGINS: &str = "/usr/lib/cni";
const IMAGE: &str = "cairn.local/busybox:kill";
const CLIENTS: u64 = 3;
/// Longest that anything may take which takes a moment on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

type Client = RuntimeServiceClient<Channel>;

fn obstacle() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root");
    }
    let is_static =
        Command::new(BUSYBOX).arg("true").env_clear().status().is_ok_and(|status| status.success());
    (!is_static).then_some("needs a static /bin/busybox (Debian: busybox-static)")
}

/// A bridge of this process's own: two runs at once do not count each other's ports.
fn bridge() -> String {
    format!("ck{}", std::process::id())
}

fn number(name: &str, otherwise: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// A small generator (splitmix64): a run is repeated by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

struct Node {
    base: tempfile::TempDir,
    daemon: Option<Child>,
    bridged: bool,
}

impl Node {
    fn new() -> Self {
        let base = tempfile::Builder::new().prefix("kill").tempdir_in("/tmp").unwrap();
        bake(&base.path().join("images"));
        let conf = base.path().join("net.d");
        fs::create_dir(&conf).unwrap();
        let bridged = Path::new(PLUGINS).join("bridge").exists();
        if bridged {
            let text = serde_json::json!({ "cniVersion": "1.0.0", "name": "kill", "plugins": [{
                "type": "bridge", "bridge": bridge(), "isGateway": true,
                "ipam": { "type": "host-local", "dataDir": base.path().join("ipam"),
                          "ranges": [[{ "subnet": format!("10.199.{}.0/24", 100 + std::process::id() % 100) }]] } }] });
            fs::write(conf.join("10-kill.conflist"), text.to_string()).unwrap();
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

    fn cgroup(&self) -> String {
        format!("/cairn-kill{}", self.base.path().display())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.base.path().join("daemon.log")).unwrap_or_default()
    }

    fn spawn(&self) -> Child {
        let log = self.base.path().join("daemon.log");
        let log = fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut daemon = Command::new(env!("CARGO_BIN_EXE_cairn-cri"));
        daemon.arg("--config").arg(self.base.path().join("cri.toml"));
        daemon.stdin(Stdio::null()).stderr(log).spawn().unwrap()
    }

    async fn client(&mut self) -> Client {
        if self.daemon.is_none() {
            self.daemon = Some(self.spawn());
        }
        let socket = self.base.path().join("cri.sock");
        let deadline = Instant::now() + PATIENCE;
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
            assert!(
                Instant::now() < deadline,
                "the daemon does not answer:\n{:#?}\n{}",
                self.processes(),
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn kill_daemon(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }

    /// Processes of this node, with their command lines.
    fn processes(&self) -> Vec<(rustix::process::Pid, String)> {
        let base = self.base.path().display().to_string();
        let own = self.daemon.as_ref().map(Child::id);
        let all = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let groups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            let ours = line.contains(&base) || groups.contains(&base);
            let ours = ours && Some(pid.cast_unsigned()) != own;
            ours.then_some((rustix::process::Pid::from_raw(pid)?, line))
        });
        all.collect()
    }

    /// What is on the machine on behalf of this node's pods.
    fn leaks(&self) -> Vec<String> {
        let base = self.base.path().display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut found: Vec<String> =
            mounts.lines().filter(|line| line.contains(&base)).map(str::to_owned).collect();
        let groups = walkdir::WalkDir::new("/sys/fs/cgroup").into_iter().flatten();
        let below = format!("{}/", self.cgroup());
        found.extend(
            groups
                .map(|entry| entry.path().display().to_string())
                .filter(|path| path.contains(&below) && Path::new(path).is_dir()),
        );
        found.extend(self.processes().into_iter().map(|(pid, line)| format!("process {pid:?} {line}")));
        for directory in ["state/pods", "state/containers", "r/pods", "r/containers", "ipam/kill"] {
            for entry in fs::read_dir(self.base.path().join(directory)).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if !name.starts_with("last_reserved") && name != "lock" {
                    found.push(format!("{directory}/{name}"));
                }
            }
        }
        let ports = fs::read_dir(format!("/sys/class/net/{}/brif", bridge())).into_iter().flatten().flatten();
        found.extend(ports.map(|port| format!("veth {:?}", port.file_name())));
        found
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill_daemon();
        for (pid, _) in self.processes() {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        let _ = Cgroup::new(self.cgroup()).destroy();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for place in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
            if Path::new(place).starts_with(self.base.path()) {
                let _ = rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH);
            }
        }
        if self.bridged {
            let _ = Command::new("ip").args(["link", "del", &bridge()]).stderr(Stdio::null()).status();
        }
    }
}

fn bake(directory: &Path) {
    let digest = |text: &[u8]| Sha256Digest::new(Sha256::digest(text).into());
    let layer = digest(b"layer");
    let bin: PathBuf = directory.join("layers").join(layer.hex()).join("bin");
    fs::create_dir_all(&bin).unwrap();
    fs::copy(BUSYBOX, bin.join("busybox")).unwrap();
    for name in ["sh", "sleep", "true"] {
        symlink("busybox", bin.join(name)).unwrap();
    }
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": { "Env": ["PATH=/bin"] },
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

/// What a client was told of a container.
#[derive(Debug, Clone)]
struct Known {
    pod: String,
    /// What its program ends with by itself.
    code: Option<i32>,
    started: bool,
    /// Something was asked that may kill it.
    stopping: bool,
}

/// What a client was told, and what it asked for without hearing the end of it.
#[derive(Debug, Default)]
struct Model {
    pods: BTreeSet<String>,
    containers: BTreeMap<String, Known>,
    /// May be there or not.
    doubtful: BTreeSet<String>,
    gone: BTreeSet<String>,
    next: u64,
}

impl Model {
    fn doubt_pod(&mut self, pod: &str) {
        self.doubtful.insert(pod.to_owned());
        for (id, known) in self.containers.iter_mut().filter(|(_, known)| known.pod == pod) {
            known.stopping = true;
            self.doubtful.insert(id.clone());
        }
    }
}

fn pick<'a>(random: &mut Random, from: impl Iterator<Item = &'a String>) -> Option<String> {
    let all: Vec<&String> = from.collect();
    (!all.is_empty()).then(|| all[usize::try_from(random.below(all.len() as u64)).unwrap()].clone())
}

/// Works until the daemon is gone or `until`.
async fn work(
    mut client: Client,
    mut model: Model,
    mut random: Random,
    who: u64,
    parent: String,
    bridged: bool,
    until: Instant,
) -> Model {
    while Instant::now() < until {
        let pod = pick(&mut random, model.pods.iter());
        let container = pick(&mut random, model.containers.keys());
        match (random.below(12), pod, container) {
            (0..=1, ..) | (_, None, _) if model.pods.len() < 3 => {
                model.next += 1;
                let network = if bridged { cri::NamespaceMode::Pod } else { cri::NamespaceMode::Node };
                let options = cri::NamespaceOption {
                    network: network.into(),
                    pid: if random.below(2) == 0 {
                        cri::NamespaceMode::Pod
                    } else {
                        cri::NamespaceMode::Container
                    }
                    .into(),
                    ..Default::default()
                };
                let config = cri::PodSandboxConfig {
                    metadata: Some(cri::PodSandboxMetadata {
                        name: format!("p{who}-{}", model.next),
                        uid: format!("u{who}-{}", model.next),
                        namespace: "kill".into(),
                        attempt: 0,
                    }),
                    linux: Some(cri::LinuxPodSandboxConfig {
                        cgroup_parent: parent.clone(),
                        security_context: Some(cri::LinuxSandboxSecurityContext {
                            namespace_options: Some(options),
                            ..Default::default()
                        }),
                        ..Default::default()
                    }),
                    ..Default::default()
                };
                let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
                if let Ok(made) = client.run_pod_sandbox(request).await {
                    model.pods.insert(made.into_inner().pod_sandbox_id);
                }
            }
            (2..=4, Some(pod), _) => {
                model.next += 1;
                let code = (random.below(2) == 0).then(|| i32::try_from(random.below(100)).unwrap());
                let script = code.map_or("exec sleep 1000".to_owned(), |code| format!("exit {code}"));
                let request = cri::CreateContainerRequest {
                    pod_sandbox_id: pod.clone(),
                    config: Some(cri::ContainerConfig {
                        metadata: Some(cri::ContainerMetadata {
                            name: format!("c{who}-{}", model.next),
                            attempt: 0,
                        }),
                        image: Some(cri::ImageSpec { image: IMAGE.into(), ..Default::default() }),
                        command: vec!["sh".into(), "-c".into(), script],
                        ..Default::default()
                    }),
                    ..Default::default()
                };
                if let Ok(made) = client.create_container(request).await {
                    let known = Known { pod, code, started: false, stopping: false };
                    model.containers.insert(made.into_inner().container_id, known);
                }
            }
            (5..=6, _, Some(container_id)) => {
                let request = cri::StartContainerRequest { container_id: container_id.clone() };
                if client.start_container(request).await.is_ok() {
                    model.containers.get_mut(&container_id).unwrap().started = true;
                }
            }
            (7..=8, _, Some(container_id)) => {
                let request = cri::ExecSyncRequest { container_id, cmd: vec!["true".into()], timeout: 5 };
                if let Ok(done) = client.exec_sync(request).await {
                    assert_eq!(done.into_inner().exit_code, 0);
                }
            }
            (9, _, Some(container_id)) => {
                model.containers.get_mut(&container_id).unwrap().stopping = true;
                let _ = client.stop_container(cri::StopContainerRequest { container_id, timeout: 0 }).await;
            }
            (10, _, Some(container_id)) => {
                model.doubtful.insert(container_id.clone());
                let request = cri::RemoveContainerRequest { container_id: container_id.clone() };
                if client.remove_container(request).await.is_ok() {
                    model.containers.remove(&container_id);
                    model.doubtful.remove(&container_id);
                    model.gone.insert(container_id);
                } else {
                    model.containers.get_mut(&container_id).unwrap().stopping = true;
                }
            }
            (11, Some(pod_sandbox_id), _) => {
                model.doubt_pod(&pod_sandbox_id);
                let request = cri::RemovePodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
                if client.remove_pod_sandbox(request).await.is_ok() {
                    let inside: Vec<String> = model
                        .containers
                        .iter()
                        .filter(|(_, known)| known.pod == pod_sandbox_id)
                        .map(|(id, _)| id.clone())
                        .collect();
                    for id in inside.into_iter().chain([pod_sandbox_id]) {
                        model.pods.remove(&id);
                        model.containers.remove(&id);
                        model.doubtful.remove(&id);
                        model.gone.insert(id);
                    }
                }
            }
            _ => {}
        }
        tokio::task::yield_now().await;
    }
    model
}

/// Compares what the daemon lists with what clients know; then they know what is listed.
async fn compare(client: &mut Client, models: &mut [Model], shims_killed: bool, node: &Node, context: &str) {
    let pods =
        client.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
    let containers =
        client.list_containers(cri::ListContainersRequest::default()).await.unwrap().into_inner().containers;
    let names: BTreeSet<_> = pods.iter().map(|pod| pod.metadata.clone().unwrap().name).collect();
    assert_eq!(names.len(), pods.len(), "{context}: a pod is doubled: {pods:?}");
    let names: BTreeSet<_> = containers.iter().map(|held| held.metadata.clone().unwrap().name).collect();
    assert_eq!(names.len(), containers.len(), "{context}: a container is doubled: {containers:?}");
    let ready: BTreeSet<&String> = pods
        .iter()
        .filter(|pod| pod.state() == cri::PodSandboxState::SandboxReady)
        .map(|pod| &pod.id)
        .collect();
    let listed: BTreeSet<String> =
        pods.iter().map(|pod| pod.id.clone()).chain(containers.iter().map(|held| held.id.clone())).collect();
    for model in models {
        for id in model.pods.iter().chain(model.containers.keys()) {
            assert!(
                listed.contains(id) || model.doubtful.contains(id),
                "{context}: {id} is lost\n{}",
                node.log()
            );
        }
        for id in &model.gone {
            assert!(!listed.contains(id), "{context}: {id} was removed and is back\n{}", node.log());
        }
        model.doubtful.clear();
        model.pods.retain(|id| listed.contains(id));
        model.containers.retain(|id, _| listed.contains(id));
        for (id, known) in &model.containers {
            let deadline = Instant::now() + PATIENCE;
            let status = loop {
                let request = cri::ContainerStatusRequest { container_id: id.clone(), verbose: false };
                let status = client.container_status(request).await.unwrap().into_inner().status.unwrap();
                // What ends by itself is waited for, and what a pod's end is about to kill.
                let ends = known.code.is_some() || !ready.contains(&known.pod);
                if !ends || status.state() != cri::ContainerState::ContainerRunning {
                    break status;
                }
                assert!(
                    Instant::now() < deadline,
                    "{context}: {id} does not end, {known:?}, {status:?}\n{:#?}\n{}",
                    node.processes(),
                    node.log()
                );
                tokio::time::sleep(Duration::from_millis(10)).await;
            };
            match status.state() {
                cri::ContainerState::ContainerRunning => {
                    assert!(ready.contains(&known.pod), "{context}: {id} runs in a stopped pod")
                }
                cri::ContainerState::ContainerExited => {
                    let code = status.exit_code;
                    let allowed = known.code == Some(code)
                        || (known.stopping && [137, 255].contains(&code))
                        || (shims_killed && [255, 137, 128].contains(&code))
                        || (!known.started && code == 128);
                    assert!(
                        allowed,
                        "{context}: {id} ended with {code}, {known:?}, {status:?}\n{}",
                        node.log()
                    );
                }
                _ => assert!(!known.started, "{context}: {id} was started and is not\n{}", node.log()),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_left_when_killed() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let rounds = number("CAIRN_KILL_ROUNDS", 12);
    let seed = number("CAIRN_KILL_SEED", u64::from(std::process::id()));
    println!("seed {seed}, {rounds} rounds");
    let mut random = Random(seed);
    let mut node = Node::new();
    let mut models: Vec<Model> = (0..CLIENTS).map(|_| Model::default()).collect();
    let mut shims_killed = false;
    let mut kills = (0, 0);
    for round in 0..rounds {
        let client = node.client().await;
        let life = Duration::from_millis(50 + random.below(1500));
        let until = Instant::now() + life;
        let workers: Vec<_> = models
            .drain(..)
            .zip(0..)
            .map(|(model, who)| {
                let random = Random(random.below(u64::MAX));
                tokio::spawn(work(client.clone(), model, random, who, node.cgroup(), node.bridged, until))
            })
            .collect();
        tokio::time::sleep(life.mul_f64(0.9)).await;
        let kind = random.below(3);
        if kind > 0 {
            let shims: Vec<_> =
                node.processes().into_iter().filter(|(_, line)| line.contains("cairn-shim serve")).collect();
            if !shims.is_empty() {
                let (pid, _) = shims[usize::try_from(random.below(shims.len() as u64)).unwrap()];
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                shims_killed = true;
                kills.1 += 1;
            }
        }
        if kind < 2 {
            node.kill_daemon();
            kills.0 += 1;
        }
        for worker in workers {
            models.push(worker.await.unwrap());
        }
        let context = format!("seed {seed}, round {round}");
        let mut client = node.client().await;
        compare(&mut client, &mut models, shims_killed, &node, &context).await;
        if round % 2 == 1 || round + 1 == rounds {
            let pods = client.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await.unwrap();
            for pod in pods.into_inner().items {
                let request = cri::RemovePodSandboxRequest { pod_sandbox_id: pod.id };
                client.remove_pod_sandbox(request).await.unwrap();
            }
            // A killed process needs a moment to be gone.
            let deadline = Instant::now() + PATIENCE;
            while !node.leaks().is_empty() && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert!(node.leaks().is_empty(), "{context}: left behind: {:#?}\n{}", node.leaks(), node.log());
            for model in &mut models {
                model.pods.clear();
                model.containers.clear();
            }
            shims_killed = false;
        }
    }
    println!("daemon killed {} times, shims {} times", kills.0, kills.1);
    assert!(node.spawn().wait().unwrap().code() == Some(3), "a second daemon on the same state is refused");
}
