//! What a container may and may not do, over gRPC, against the real daemon and shim, as root.
//!
//! The pods have network namespaces of their own, but no network: the CNI plugin is a script that claims an address.

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
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
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
const IMAGE: &str = "cairn.local/busybox:isolation";
/// First id and length of the user namespaces here.
const RANGE: (u32, u32) = (300_000, 65_536);

type Client = RuntimeServiceClient<Channel>;

/// Why a test cannot run here.
fn obstacle() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root");
    }
    let is_static =
        Command::new(BUSYBOX).arg("true").env_clear().status().is_ok_and(|status| status.success());
    (!is_static).then_some("needs a static /bin/busybox (Debian: busybox-static)")
}

/// A daemon with its directories.
struct Node {
    base: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Node {
    fn new() -> Self {
        let base = tempfile::Builder::new().prefix("iso").tempdir_in("/tmp").unwrap();
        fs::set_permissions(base.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let node = Self { base, daemon: None };
        bake(&node.path("images"));
        for name in ["bin", "net.d", "logs"] {
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
             nri = false\ncgroup_driver = 'cgroupfs'\nshim = '{1}'\ncni_bin = ['{0}/bin']\ncni_conf = '{0}/net.d'\n",
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

    fn pod(&self, name: &str, options: &cri::NamespaceOption) -> cri::PodSandboxConfig {
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
                    namespace_options: Some(options.clone()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// Mounts and processes on behalf of this node.
    fn leaks(&self) -> Vec<String> {
        let base = self.base.path().display().to_string();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mut found: Vec<String> =
            mounts.lines().filter(|line| line.contains(&base)).map(|line| format!("mount {line}")).collect();
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains("cairn-shim") && line.contains(&base) {
                found.push(format!("process {line}"));
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

fn digest(text: &[u8]) -> Sha256Digest {
    Sha256Digest::new(Sha256::digest(text).into())
}

/// One image of two layers: busybox, and its accounts.
fn bake(directory: &Path) {
    let layers = [digest(b"isolation one"), digest(b"isolation two")];
    let [lower, upper] = layers.map(|layer| directory.join("layers").join(layer.hex()));
    fs::create_dir_all(lower.join("bin")).unwrap();
    fs::create_dir_all(lower.join("tmp")).unwrap();
    fs::set_permissions(lower.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::copy(BUSYBOX, lower.join("bin/busybox")).unwrap();
    for name in [
        "sh", "sleep", "cat", "echo", "id", "hostname", "ls", "stat", "touch", "dd", "mount", "tr", "grep",
        "chown", "mkdir", "rm", "mknod", "wc",
    ] {
        symlink("busybox", lower.join("bin").join(name)).unwrap();
    }
    fs::create_dir_all(upper.join("etc")).unwrap();
    fs::write(upper.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/:/bin/sh\n").unwrap();
    fs::write(upper.join("etc/group"), "root:x:0:\nwww:x:33:\n").unwrap();
    fs::create_dir_all(upper.join("srv/web")).unwrap();
    fs::write(upper.join("srv/web/index"), "page\n").unwrap();
    chown(upper.join("srv/web/index"), Some(33), Some(33)).unwrap();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Env": ["PATH=/bin"], "Cmd": ["sh"] },
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

/// Namespaces of a pod with users of its own.
fn own_users() -> cri::NamespaceOption {
    cri::NamespaceOption {
        pid: cri::NamespaceMode::Container.into(),
        userns_options: Some(cri::UserNamespace {
            mode: cri::NamespaceMode::Pod.into(),
            uids: mapping(),
            gids: mapping(),
        }),
        ..Default::default()
    }
}

fn mapping() -> Vec<cri::IdMapping> {
    vec![cri::IdMapping { host_id: RANGE.0, container_id: 0, length: RANGE.1 }]
}

fn container(name: &str, options: &cri::NamespaceOption) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: IMAGE.into(), ..Default::default() }),
        command: vec!["sh".into(), "-c".into(), "echo started; while :; do sleep 1; done".into()],
        log_path: format!("{name}.log"),
        linux: Some(cri::LinuxContainerConfig {
            security_context: Some(cri::LinuxContainerSecurityContext {
                seccomp: Some(cri::SecurityProfile::default()),
                namespace_options: Some(options.clone()),
                masked_paths: vec!["/proc/version".into(), "/proc/bus".into()],
                readonly_paths: vec!["/proc/sys".into()],
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn volume(host: &Path, at: &str) -> cri::Mount {
    cri::Mount { host_path: host.display().to_string(), container_path: at.into(), ..Default::default() }
}

async fn run_pod(client: &mut Client, config: cri::PodSandboxConfig) -> String {
    let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    client.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id
}

async fn try_create(
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

async fn run(client: &mut Client, pod: &str, config: cri::ContainerConfig) -> String {
    let id = try_create(client, pod, config).await.unwrap();
    client.start_container(cri::StartContainerRequest { container_id: id.clone() }).await.unwrap();
    id
}

async fn output(client: &mut Client, id: &str, script: &str) -> String {
    let request = cri::ExecSyncRequest {
        container_id: id.into(),
        cmd: ["sh", "-c", script].map(str::to_owned).to_vec(),
        timeout: 30,
    };
    let result = client.exec_sync(request).await.unwrap().into_inner();
    String::from_utf8(result.stdout).unwrap() + &String::from_utf8(result.stderr).unwrap()
}

async fn pid_of(client: &mut Client, id: &str) -> i32 {
    let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: true };
    let info = client.container_status(request).await.unwrap().into_inner().info;
    let record: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    i32::try_from(record["pid"].as_i64().unwrap()).unwrap()
}

async fn remove_pod(client: &mut Client, pod: String) {
    client.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: pod }).await.unwrap();
}

async fn has_user_namespaces(client: &mut Client) -> bool {
    let status = client.status(cri::StatusRequest::default()).await.unwrap().into_inner();
    status.runtime_handlers[0].features.as_ref().unwrap().user_namespaces
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn root_of_a_user_namespace_is_nobody_on_the_node() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let mut node = Node::new();
    let mut client = node.start().await;
    if !has_user_namespaces(&mut client).await {
        println!("skipped: {}", node.log());
        return;
    }
    let options = own_users();
    let mut config = node.pod("users", &options);
    let linux = config.linux.as_mut().unwrap();
    for (name, value) in
        [("net.core.somaxconn", "77"), ("kernel.shm_rmid_forced", "1"), ("fs.mqueue.msg_max", "9")]
    {
        linux.sysctls.insert(name.into(), value.into());
    }
    let pod = run_pod(&mut client, config).await;

    // A volume that belongs to the node's root, behind a directory only that root may pass.
    let volume_path = node.path("closed/volume");
    fs::create_dir_all(&volume_path).unwrap();
    fs::set_permissions(node.path("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(volume_path.join("of-root"), "kept").unwrap();
    fs::set_permissions(volume_path.join("of-root"), fs::Permissions::from_mode(0o600)).unwrap();
    let mut config = container("server", &options);
    config.mounts = vec![
        cri::Mount { uid_mappings: mapping(), gid_mappings: mapping(), ..volume(&volume_path, "/mapped") },
        volume(&volume_path, "/plain"),
    ];
    config.devices = vec![cri::Device {
        host_path: "/dev/zero".into(),
        container_path: "/dev/lent".into(),
        permissions: "r".into(),
    }];
    let server = run(&mut client, &pod, config).await;

    assert_eq!(output(&mut client, &server, "id -u; id -g").await, "0\n0\n");
    let map = output(&mut client, &server, "cat /proc/self/uid_map").await;
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "300000", "65536"]);
    // On the node it is nobody in particular.
    let process = fs::metadata(format!("/proc/{}", pid_of(&mut client, &server).await)).unwrap();
    assert_eq!((process.uid(), process.gid()), RANGE_ROOT);
    // Its files are its own: the image's, the volume's, and what it makes.
    assert_eq!(
        output(
            &mut client,
            &server,
            "stat -c %u /bin/busybox /srv/web/index /mapped/of-root /plain/of-root / /etc/hostname"
        )
        .await,
        "0\n33\n0\n65534\n0\n0\n"
    );
    assert_eq!(output(&mut client, &server, "cat /mapped/of-root").await, "kept");
    assert!(output(&mut client, &server, "cat /plain/of-root").await.contains("ermission denied"));
    assert_eq!(
        output(&mut client, &server, "touch /mapped/made /made && chown 33:33 /mapped/made").await,
        ""
    );
    let made = fs::metadata(volume_path.join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (33, 33), "the pod's ids are nowhere on disk");
    assert_eq!(
        output(&mut client, &server, "echo more >> /srv/web/index; stat -c %u /srv/web/index").await,
        "33\n"
    );
    // The kernel's file systems and the pod's namespaces are there, and are its.
    assert_eq!(output(&mut client, &server, "hostname").await, "host-users\n");
    assert_eq!(
        output(
            &mut client,
            &server,
            "cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shm_rmid_forced /proc/sys/fs/mqueue/msg_max"
        )
        .await,
        "77\n1\n9\n"
    );
    assert_eq!(output(&mut client, &server, "ls /sys/class/net").await, "lo\n");
    assert_eq!(
        output(&mut client, &server, "dd if=/dev/lent bs=4 count=1 2>/dev/null | wc -c; echo x > /dev/null")
            .await,
        "4\n"
    );
    assert_eq!(output(&mut client, &server, "echo x > /dev/shm/x && stat -c %u /dev/shm").await, "0\n");
    assert!(output(&mut client, &server, "echo 1 > /proc/sys/kernel/panic").await.contains("ead-only"));
    assert_eq!(output(&mut client, &server, "wc -c < /proc/version").await, "0\n");
    assert_eq!(
        fs::read_to_string(node.path("logs/server.log")).unwrap().matches("stdout F started").count(),
        1
    );
    // What was staged for it is gone.
    let staged = |line: &&str| {
        line.split(' ').nth(1).is_some_and(|place| place.contains("/mounts/") || place.contains("/layers/"))
    };
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let base = node.base.path().display().to_string();
    assert_eq!(mounts.lines().filter(|line| line.contains(&base)).filter(staged).count(), 0, "{mounts}");

    // Another user, a read-only root, a terminal.
    let mut config = container("web", &options);
    config.tty = true;
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.run_as_username = "web".into();
    security.readonly_rootfs = true;
    security.no_new_privs = true;
    let web = run(&mut client, &pod, config).await;
    assert_eq!(output(&mut client, &web, "id -u; stat -c %u /proc/1").await, "33\n33\n");
    assert!(output(&mut client, &web, "touch /tmp/x").await.contains("ead-only"));

    // A new daemon finds all of it.
    node.kill();
    let mut client = node.start().await;
    assert_eq!(output(&mut client, &server, "cat /mapped/of-root").await, "kept");

    // What cannot be is refused.
    for (word, config) in misfits() {
        let refusal = try_create(&mut client, &pod, config).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument, "{word}: {refusal}");
        assert!(refusal.message().contains(word), "{word}: {refusal}");
    }
    for share in ["network", "PID", "IPC"] {
        let mut options = own_users();
        match share {
            "network" => options.set_network(cri::NamespaceMode::Node),
            "PID" => options.set_pid(cri::NamespaceMode::Node),
            _ => options.set_ipc(cri::NamespaceMode::Node),
        }
        let request =
            cri::RunPodSandboxRequest { config: Some(node.pod("refused", &options)), ..Default::default() };
        let refusal = client.run_pod_sandbox(request).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument);
        assert!(refusal.message().contains(share), "{refusal}");
    }
    remove_pod(&mut client, pod).await;
    assert_eq!(node.leaks(), Vec::<String>::new(), "{}", node.log());
}

const RANGE_ROOT: (u32, u32) = (RANGE.0, RANGE.0);

/// Containers that do not fit into a pod with [`own_users`], each with a word of the reason.
fn misfits() -> Vec<(&'static str, cri::ContainerConfig)> {
    let with = |change: fn(&mut cri::LinuxContainerSecurityContext)| {
        let mut config = container("misfit", &own_users());
        change(config.linux.as_mut().unwrap().security_context.as_mut().unwrap());
        config
    };
    let mut other_ranges = container("misfit", &own_users());
    let others = vec![cri::IdMapping { host_id: 1, container_id: 0, length: 9 }];
    other_ranges.mounts = vec![cri::Mount {
        uid_mappings: others.clone(),
        gid_mappings: others,
        ..volume(Path::new("/tmp"), "/data")
    }];
    vec![
        ("user 70000", with(|security| security.run_as_user = Some(cri::Int64Value { value: 70000 }))),
        (
            "not its pod's",
            with(|security| {
                let options = security.namespace_options.as_mut().unwrap();
                options.userns_options =
                    Some(cri::UserNamespace { mode: cri::NamespaceMode::Node.into(), ..Default::default() });
            }),
        ),
        ("other ranges", other_ranges),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_a_volume() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let mut node = Node::new();
    let mut client = node.start().await;
    let mut kinds =
        vec![cri::NamespaceOption { pid: cri::NamespaceMode::Container.into(), ..Default::default() }];
    if has_user_namespaces(&mut client).await {
        kinds.push(own_users());
    }
    for (number, options) in kinds.iter().enumerate() {
        let pod = run_pod(&mut client, node.pod(&format!("volume-{number}"), options)).await;
        let image = |at: &str, path: &str| cri::Mount {
            image: Some(cri::ImageSpec { image: IMAGE.into(), ..Default::default() }),
            image_sub_path: path.into(),
            readonly: true,
            ..volume(Path::new(""), at)
        };
        let mut config = container("reader", options);
        config.mounts = vec![image("/whole", ""), image("/part", "srv/web")];
        let reader = run(&mut client, &pod, config.clone()).await;
        assert_eq!(
            output(&mut client, &reader, "cat /part/index; stat -c %u /part/index").await,
            "page\n33\n"
        );
        assert!(output(&mut client, &reader, "touch /whole/x").await.contains("ead-only"));
        assert_eq!(output(&mut client, &reader, "/whole/bin/busybox echo run").await, "run\n");
        for (word, path) in [("image_sub_path", "../etc"), ("image_sub_path", "absent")] {
            config.metadata.as_mut().unwrap().name = "refused".into();
            config.mounts = vec![image("/whole", path)];
            let refusal = try_create(&mut client, &pod, config.clone()).await.unwrap_err();
            assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
            assert!(refusal.message().contains(word), "{refusal}");
        }
        config.mounts = vec![cri::Mount { readonly: false, ..image("/whole", "") }];
        let refusal = try_create(&mut client, &pod, config.clone()).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
        config.mounts = vec![image("/whole", "")];
        config.mounts[0].image.as_mut().unwrap().image = "cairn.local/absent:1".into();
        let refusal = try_create(&mut client, &pod, config).await.unwrap_err();
        assert_eq!(refusal.code(), Code::NotFound, "{refusal}");
        remove_pod(&mut client, pod).await;
    }
    assert_eq!(node.leaks(), Vec::<String>::new(), "{}", node.log());
}

/// A CDI specification of this machine's, while the test runs.
struct Specification(PathBuf);

impl Drop for Specification {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_has_a_name() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let mut node = Node::new();
    let mut client = node.start().await;
    let vendor = format!("cairn-test-{}.invalid", std::process::id());
    let library = node.path("library");
    fs::write(&library, "of the vendor").unwrap();
    // A hook is told which container.
    let (hook, heard) = (node.path("hook"), node.path("heard"));
    fs::write(&hook, format!("#!/bin/sh\necho $1 $COLOUR >{0}.words\ncat >{0}\n", heard.display())).unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let text = format!(
        r#"---
cdiVersion: 0.6.0
kind: {vendor}/sink
containerEdits:
  env:
  - SINK=deep
  hooks:
  - hookName: createContainer
    path: {hook}
    args: [hook, word]
    env: [COLOUR=red]
devices:
- name: one
  containerEdits:
    deviceNodes:
    - path: /dev/sink
      hostPath: /dev/zero
    mounts:
    - {{hostPath: {library}, containerPath: /lib/sink, options: [ro, nosuid, bind]}}
    additionalGids: [4242]
"#,
        hook = hook.display(),
        library = library.display(),
    );
    fs::create_dir_all("/var/run/cdi").unwrap();
    let file = Specification(format!("/var/run/cdi/{vendor}.yaml").into());
    fs::write(&file.0, text).unwrap();

    let options = cri::NamespaceOption { pid: cri::NamespaceMode::Container.into(), ..Default::default() };
    let pod = run_pod(&mut client, node.pod("cdi", &options)).await;
    let name = format!("{vendor}/sink=one");
    let mut config = container("field", &options);
    config.cdi_devices = vec![cri::CdiDevice { name: name.clone() }];
    let by_field = run(&mut client, &pod, config).await;
    let mut config = container("annotated", &options);
    config.annotations.insert("cdi.k8s.io/plugin".into(), name);
    let by_annotation = run(&mut client, &pod, config).await;
    for id in [&by_field, &by_annotation] {
        let script = "echo $SINK; cat /lib/sink; dd if=/dev/sink bs=4 count=1 2>/dev/null | wc -c; id -G";
        assert_eq!(output(&mut client, id, script).await, "deep\nof the vendor4\n0 4242\n");
    }
    let state: serde_json::Value = serde_json::from_slice(&fs::read(&heard).unwrap()).unwrap();
    assert_eq!(state["id"], by_annotation.as_str());
    assert!(Path::new(state["bundle"].as_str().unwrap()).join("config.json").exists(), "{state}");
    assert_eq!(fs::read_to_string(heard.with_extension("words")).unwrap(), "word red\n");
    remove_pod(&mut client, pod).await;
    assert_eq!(node.leaks(), Vec::<String>::new(), "{}", node.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_pid_namespace_gives_no_way_out() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let mut node = Node::new();
    let mut client = node.start().await;
    let mut kinds = vec![cri::NamespaceOption::default()];
    if has_user_namespaces(&mut client).await {
        kinds.push(cri::NamespaceOption { pid: cri::NamespaceMode::Pod.into(), ..own_users() });
    }
    for (number, options) in kinds.iter().enumerate() {
        let pod = run_pod(&mut client, node.pod(&format!("shared-{number}"), options)).await;
        let mut config = container("tracer", options);
        let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        let add_capabilities = vec!["ALL".into()];
        security.capabilities = Some(cri::Capability { add_capabilities, ..Default::default() });
        let tracer = run(&mut client, &pod, config).await;
        assert!(output(&mut client, &tracer, "cat /proc/1/cmdline").await.contains("pause"));
        // Process 1 is the runtime's, and its root is no way to the node's files.
        let seen = output(&mut client, &tracer, "ls -A /proc/1/root/").await;
        assert!(seen.is_empty() || seen.contains("ermission denied"), "{seen}");
        let status = output(&mut client, &tracer, "grep CapPrm /proc/1/status | tr '\\t' ' '").await;
        assert_eq!(status, "CapPrm: 0000000000000000\n");
        remove_pod(&mut client, pod).await;
    }
    assert_eq!(node.leaks(), Vec::<String>::new(), "{}", node.log());
}
