//! Pods on several networks, over gRPC, against the real daemon and shim and the reference CNI plugins, as root.
//!
//! No containers: the pod's network namespace is looked at from outside.

#![allow(clippy::unwrap_used)]

use cairn_contract::cri::{self, runtime_service_client::RuntimeServiceClient};
use cairn_cri::cgroup::Cgroup;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::net::UnixStream;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

/// Debian's package containernetworking-plugins.
const PLUGINS: &str = "/usr/lib/cni";
const ANNOTATION: &str = "k8s.v1.cni.cncf.io/networks";

type Client = RuntimeServiceClient<Channel>;

/// Why a test cannot run here.
fn obstacle() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root");
    }
    if !Path::new(PLUGINS).join("ptp").exists() {
        return Some("needs the reference CNI plugins in /usr/lib/cni (Debian: containernetworking-plugins)");
    }
    let tool = |name: &str| Command::new(name).arg("-V").output().is_ok();
    (!tool("ip") || !tool("nsenter")).then_some("needs ip and nsenter (Debian: iproute2, util-linux)")
}

/// A daemon with its directories.
struct Node {
    base: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Node {
    fn new() -> Self {
        let base = tempfile::Builder::new().prefix("net").tempdir_in("/tmp").unwrap();
        let node = Self { base, daemon: None };
        for name in ["bin", "net.d", "networks.d", "logs", "addresses"] {
            fs::create_dir(node.path(name)).unwrap();
        }
        let config = format!(
            "socket = '{0}/cri.sock'\nstate = '{0}/state'\nrun = '{0}/r'\nbaked_images = '{0}/images'\n\
             nri = false\ncgroup_driver = 'cgroupfs'\nshim = '{1}'\ncni_bin = ['{0}/bin', '{PLUGINS}']\ncni_conf = '{0}/net.d'\n\
             cni_networks = '{0}/networks.d'\n",
            node.base.path().display(),
            env!("CARGO_BIN_EXE_cairn-shim"),
        );
        fs::write(node.path("cri.toml"), config).unwrap();
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    fn cgroup(&self) -> String {
        format!("/cairn-test{}", self.base.path().display())
    }

    /// A network whose addresses are kept below the node's directory.
    fn network(&self, directory: &str, name: &str, plugin: &Value, subnet: &str) {
        let mut plugin = plugin.clone();
        plugin["ipam"] = json!({ "type": "host-local", "dataDir": self.path("addresses"),
            "ranges": [[{ "subnet": subnet }]], "routes": [{ "dst": "0.0.0.0/0" }] });
        if plugin.get("capabilities").is_none() {
            plugin["capabilities"] = json!({ "ips": true, "ipRanges": true });
        }
        let list = json!({ "cniVersion": "1.0.0", "name": name, "plugins": [plugin] });
        fs::write(self.path(&format!("{directory}/{name}.conflist")), list.to_string()).unwrap();
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
        let deadline = Instant::now() + Duration::from_secs(60);
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

    fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    fn pod(&self, name: &str, networks: &str) -> cri::RunPodSandboxRequest {
        let annotations = HashMap::from([(ANNOTATION.to_owned(), networks.to_owned())]);
        let config = cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.into(),
                uid: format!("uid-{name}"),
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: name.into(),
            log_directory: self.path("logs").display().to_string(),
            annotations: if networks.is_empty() { HashMap::new() } else { annotations },
            linux: Some(cri::LinuxPodSandboxConfig { cgroup_parent: self.cgroup(), ..Default::default() }),
            ..Default::default()
        };
        cri::RunPodSandboxRequest { config: Some(config), ..Default::default() }
    }

    /// What `ip -j` says inside a pod.
    fn ip(&self, pod: &str, words: &[&str]) -> Value {
        let namespace = self.path(&format!("r/pods/{pod}/ns/net"));
        let output = Command::new("nsenter")
            .arg(format!("--net={}", namespace.display()))
            .args(["ip", "-j"])
            .args(words)
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!(
                "{error}: {}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            )
        })
    }

    /// Addresses that are taken, as the address manager keeps them.
    fn taken(&self) -> Vec<String> {
        let networks = fs::read_dir(self.path("addresses")).unwrap().flatten();
        let files = networks.flat_map(|network| fs::read_dir(network.path()).unwrap().flatten());
        let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.parse::<std::net::IpAddr>().is_ok()).collect()
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

async fn run(client: &mut Client, pod: cri::RunPodSandboxRequest) -> Result<String, Status> {
    client.run_pod_sandbox(pod).await.map(|made| made.into_inner().pod_sandbox_id)
}

async fn remove(client: &mut Client, pod: &str) {
    client.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: pod.into() }).await.unwrap();
}

/// A pod's addresses, and what a verbose status tells of its networks.
async fn status(client: &mut Client, pod: &str) -> (Vec<String>, Value, Value) {
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: pod.into(), verbose: true };
    let status = client.pod_sandbox_status(request).await.unwrap().into_inner();
    let network = status.status.unwrap().network.unwrap();
    let addresses = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|ip| ip.ip));
    let parsed = |key: &str| serde_json::from_str::<Value>(&status.info[key]).unwrap();
    (addresses.collect(), parsed("networkStatus"), parsed("info")["networkCheck"].clone())
}

/// Routes of the host into the networks of one test: there is one for each link of a pod.
fn routes_to(prefix: &str) -> Vec<String> {
    let output = Command::new("ip").args(["-j", "route"]).output().unwrap();
    let routes: Value = serde_json::from_slice(&output.stdout).unwrap();
    let destinations =
        routes.as_array().unwrap().iter().map(|route| route["dst"].as_str().unwrap().to_owned());
    destinations.filter(|destination| destination.starts_with(prefix)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_has_the_networks_it_asks_for_and_leaves_nothing() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let mut node = Node::new();
    let ptp = json!({ "type": "ptp" });
    node.network("net.d", "main", &ptp, "10.199.20.0/24");
    for (index, name) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        node.network("networks.d", name, &ptp, &format!("10.199.{}.0/24", 21 + index));
    }
    let mut client = node.start().await;
    let asked = json!([{ "name": "a", "interface": "data0", "ips": ["10.199.21.77"] }, { "name": "b" }, { "name": "c" },
        { "name": "d", "default-route": ["10.199.24.1"] }, { "name": "e" }]);
    let pod = run(&mut client, node.pod("many", &asked.to_string())).await.unwrap();

    let (addresses, told, checked) = status(&mut client, &pod).await;
    assert!(
        addresses.len() == 1 && addresses[0].starts_with("10.199.20."),
        "only the default network's: {addresses:?}"
    );
    let interfaces: Vec<&str> =
        told.as_array().unwrap().iter().map(|one| one["interface"].as_str().unwrap()).collect();
    assert_eq!(interfaces, ["eth0", "data0", "net2", "net3", "net4", "net5"]);
    assert_eq!(told[1]["ips"], json!(["10.199.21.77"]));
    assert_eq!(told[1]["name"], "default/a");
    let links_inside = node.ip(&pod, &["link"]);
    let names: Vec<&str> =
        links_inside.as_array().unwrap().iter().map(|one| one["ifname"].as_str().unwrap()).collect();
    assert!(interfaces.iter().all(|name| names.contains(name)), "{names:?}");
    let routes = node.ip(&pod, &["route", "show", "default"]);
    assert_eq!(routes.as_array().unwrap().len(), 1, "{routes}");
    assert_eq!((&routes[0]["dev"], &routes[0]["gateway"]), (&json!("net4"), &json!("10.199.24.1")));
    assert_eq!(checked.as_object().unwrap().len(), 6);
    // The reference's ptp compares routes only by their destination.
    assert!(checked.as_object().unwrap().values().all(|state| state == "OK"), "{checked}");
    assert_eq!(node.taken().len(), 6, "{:?}", node.taken());
    assert_eq!(routes_to("10.199.2").len(), 6);

    // Somebody damages an interface: the next daemon says so, and removal works all the same.
    assert!(
        Command::new("nsenter")
            .arg(format!("--net={}", node.path(&format!("r/pods/{pod}/ns/net")).display()))
            .args(["ip", "link", "delete", "data0"])
            .status()
            .unwrap()
            .success()
    );
    node.kill();
    let mut client = node.start().await;
    // The new daemon looks at the pod by itself, and tells nothing meanwhile.
    let mut checked = json!({});
    while checked == json!({}) {
        checked = status(&mut client, &pod).await.2;
    }
    assert!(checked["data0"].as_str().unwrap().contains("ptp"), "{checked}");
    assert_eq!(checked["eth0"], "OK");
    remove(&mut client, &pod).await;
    assert_eq!(node.taken(), Vec::<String>::new());
    assert_eq!(routes_to("10.199.2"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_fails_undoes_the_pod_and_mistakes_are_the_pods() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let mut node = Node::new();
    node.network("net.d", "main", &json!({ "type": "ptp" }), "10.199.30.0/24");
    node.network(
        "networks.d",
        "broken",
        &json!({ "type": "macvlan", "master": "nowhere0" }),
        "10.199.31.0/24",
    );
    let mut client = node.start().await;
    let error = run(&mut client, node.pod("wrong", "absent")).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    for part in [ANNOTATION, "default/absent", "there are: broken"] {
        assert!(error.message().contains(part), "{error}");
    }
    let error = run(&mut client, node.pod("broken", "broken")).await.unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    for part in [ANNOTATION, "default/broken", "net1", "macvlan", "Link not found"] {
        assert!(error.message().contains(part), "{error}");
    }
    assert_eq!(node.taken(), Vec::<String>::new());
    let pods =
        client.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
    assert_eq!(pods, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_is_killed_while_a_plugin_runs_leaves_nothing() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let mut node = Node::new();
    node.network("net.d", "main", &json!({ "type": "ptp" }), "10.199.40.0/24");
    // A plugin that is slow to take an address, and would take it when the daemon is long gone.
    let slow = format!(
        "#!/bin/sh\n[ \"$CNI_COMMAND\" = ADD ] && {{ touch {0}/begun; sleep 5; }}\nexec {PLUGINS}/ptp\n",
        node.base.path().display()
    );
    fs::write(node.path("bin/slow"), slow).unwrap();
    fs::set_permissions(node.path("bin/slow"), fs::Permissions::from_mode(0o755)).unwrap();
    node.network("networks.d", "late", &json!({ "type": "slow" }), "10.199.41.0/24");
    let mut client = node.start().await;
    let request = node.pod("half", "late");
    let running = tokio::spawn(async move { run(&mut client, request).await });
    let deadline = Instant::now() + Duration::from_secs(60);
    while !node.path("begun").exists() {
        assert!(Instant::now() < deadline, "the plugin was not run: {}", node.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(node.taken().len(), 1, "the default network's");
    node.kill();
    assert!(running.await.unwrap().is_err());

    let mut client = node.start().await;
    assert!(node.log().contains("killing a plugin"), "{}", node.log());
    let pods =
        client.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
    assert_eq!(pods, []);
    assert_eq!(node.taken(), Vec::<String>::new());
    // What the plugin would have taken by now.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(node.taken(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_pods_have_the_kubelets_range() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let mut node = Node::new();
    node.network("net.d", "main", &json!({ "type": "ptp" }), "10.199.50.0/24");
    let mut client = node.start().await;
    let tell = |range: &str| cri::UpdateRuntimeConfigRequest {
        runtime_config: Some(cri::RuntimeConfig {
            network_config: Some(cri::NetworkConfig { pod_cidr: range.to_owned() }),
        }),
    };
    let old = run(&mut client, node.pod("old", "")).await.unwrap();
    let refused = client.update_runtime_config(tell("10.199.51.0")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    client.update_runtime_config(tell("10.199.51.0/24")).await.unwrap();
    let new = run(&mut client, node.pod("new", "")).await.unwrap();
    node.kill();
    let mut client = node.start().await;
    let later = run(&mut client, node.pod("later", "")).await.unwrap();
    for (pod, subnet) in [(&old, "10.199.50."), (&new, "10.199.51."), (&later, "10.199.51.")] {
        let (addresses, ..) = status(&mut client, pod).await;
        assert!(addresses.len() == 1 && addresses[0].starts_with(subnet), "{addresses:?}");
    }
    for pod in [old, new, later] {
        remove(&mut client, &pod).await;
    }
    assert_eq!(node.taken(), Vec::<String>::new());
}
