//! Commands with streams, attached clients and forwarded ports, with the real shim, as root.
//!
//! The daemon's half runs in the test itself: what a client's connection would carry goes through pipes in memory.

#![allow(clippy::unwrap_used, clippy::expect_used)]

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
use cairn_streaming::{Attach, Exec, Finish, Runtime as _, Stdio, TerminalSize};
use sha2::{Digest, Sha256};
use std::{
    fs,
    net::TcpListener,
    os::{
        fd::AsFd,
        unix::fs::{PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tonic::{Code, Request};

const BUSYBOX: &str = "/bin/busybox";
const IMAGE: &str = "cairn.local/busybox:streaming";
/// Longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a test cannot run here.
fn obstacle() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root");
    }
    let is_static =
        Command::new(BUSYBOX).arg("true").env_clear().status().is_ok_and(|status| status.success());
    (!is_static).then_some("needs a static /bin/busybox (Debian: busybox-static)")
}

/// A runtime with its directories.
struct Node {
    base: tempfile::TempDir,
    runtime: Runtime,
    server: RuntimeServer,
}

impl Node {
    async fn new() -> Self {
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
        let server = RuntimeServer::new(runtime.clone(), streaming);
        Self { base, runtime, server }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    fn cgroup(&self) -> String {
        format!("/cairn-test{}", self.base.path().display())
    }

    async fn pod(&self, name: &str, options: cri::NamespaceOption) -> String {
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

    async fn run(&self, pod: &str, config: cri::ContainerConfig) -> String {
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

    async fn remove(&self, pod: String) {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: pod };
        self.server.remove_pod_sandbox(Request::new(request)).await.unwrap();
    }

    async fn exit_code(&self, id: &str) -> i32 {
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

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path("logs").join(name)).unwrap_or_default()
    }

    async fn logged(&self, name: &str, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log(name).contains(text) {
            assert!(Instant::now() < deadline, "no {text:?} in {:?}", self.log(name));
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts a command with streams of its own.
    fn exec(&self, container: &str, tty: bool, stdin: bool, command: &[&str]) -> Client {
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

    fn attach(&self, container: &str, tty: bool, stdin: bool) -> Client {
        let runtime = self.runtime.clone();
        let what = Attach { container: container.into(), tty, stdin, stdout: true, stderr: !tty };
        Client::new(stdin, !tty, |stdio| tokio::spawn(async move { runtime.attach(what, stdio).await }))
    }

    /// A command's output, errors and end, with `input` for all its input.
    async fn output(&self, container: &str, input: &[u8], command: &[&str]) -> (String, String, Finish) {
        let mut client = self.exec(container, false, true, command);
        client.stdin.as_mut().unwrap().write_all(input).await.unwrap();
        client.stdin = None;
        client.rest().await
    }

    /// What exists on the machine on behalf of this node.
    fn leaks(&self) -> Vec<String> {
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
        let _ = Cgroup::new(self.cgroup()).destroy();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for place in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
            if Path::new(place).starts_with(self.base.path()) {
                cairn_cri::idmap::detach(Path::new(place));
            }
        }
    }
}

/// A client at its end of the streams.
struct Client {
    stdin: Option<DuplexStream>,
    stdout: DuplexStream,
    stderr: Option<DuplexStream>,
    resize: mpsc::Sender<TerminalSize>,
    session: JoinHandle<Finish>,
}

impl Client {
    fn new(stdin: bool, stderr: bool, start: impl FnOnce(Stdio) -> JoinHandle<Finish>) -> Self {
        let wire = || duplex(8 << 10);
        let (input, output, errors) = (stdin.then(wire), wire(), stderr.then(wire));
        let (resize, sizes) = mpsc::channel(4);
        let (input, stdin) = input.unzip();
        let (errors, stderr) = errors.unzip();
        let session = start(Stdio {
            stdin: stdin.map(|stdin| Box::new(stdin) as _),
            stdout: Some(Box::new(output.1)),
            stderr: stderr.map(|stderr| Box::new(stderr) as _),
            resize: sizes,
        });
        Self { stdin: input, stdout: output.0, stderr: errors, resize, session }
    }

    async fn say(&mut self, text: &str) {
        self.stdin.as_mut().unwrap().write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads standard output until `text` has come.
    async fn expect(&mut self, text: &str) -> String {
        let mut seen = Vec::new();
        let until = async {
            let mut bytes = [0; 4096];
            loop {
                let length = self.stdout.read(&mut bytes).await.unwrap();
                assert!(length > 0, "the output ended: {:?}", tail(&seen));
                let known = seen.len().saturating_sub(text.len());
                seen.extend_from_slice(&bytes[..length]);
                if seen[known..].windows(text.len()).any(|window| window == text.as_bytes()) {
                    return;
                }
            }
        };
        let done = timeout(PATIENCE, until).await;
        assert!(done.is_ok(), "no {text:?} in {:?}", tail(&seen));
        String::from_utf8_lossy(&seen).into_owned()
    }

    async fn finish(self) -> Finish {
        timeout(PATIENCE, self.session).await.expect("the session does not end").unwrap()
    }

    /// The rest of both outputs, and the end.
    async fn rest(mut self) -> (String, String, Finish) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let reading = async {
            let errors = async {
                if let Some(stderr) = &mut self.stderr {
                    stderr.read_to_end(&mut err).await.unwrap();
                }
            };
            tokio::join!(self.stdout.read_to_end(&mut out), errors).0.unwrap();
        };
        timeout(PATIENCE, reading).await.expect("the output does not end");
        let (out, err) =
            (String::from_utf8_lossy(&out).into_owned(), String::from_utf8_lossy(&err).into_owned());
        let finish = timeout(PATIENCE, self.session).await.expect("the session does not end").unwrap();
        (out, err, finish)
    }
}

/// The end of some output, for a message.
fn tail(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(500)..]).into_owned()
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

fn own_pids() -> cri::NamespaceOption {
    cri::NamespaceOption { pid: cri::NamespaceMode::Container.into(), ..Default::default() }
}

fn container(name: &str, options: &cri::NamespaceOption, script: &str) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: IMAGE.into(), ..Default::default() }),
        command: vec!["sh".into(), "-c".into(), script.into()],
        log_path: format!("{name}.log"),
        linux: Some(cri::LinuxContainerConfig {
            security_context: Some(cri::LinuxContainerSecurityContext {
                seccomp: Some(cri::SecurityProfile::default()),
                namespace_options: Some(options.clone()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

const FOREVER: &str = "while :; do sleep 1; done";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_have_their_streams() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let node = Node::new().await;
    let pod = node.pod("exec", own_pids()).await;
    let id = node.run(&pod, container("host", &own_pids(), FOREVER)).await;

    // Each stream by itself, the exit code, the end of the input.
    let (out, err, finish) =
        node.output(&id, b"some input\n", &["sh", "-c", "cat; echo oops >&2; exit 7"]).await;
    assert_eq!((out.as_str(), err.as_str(), finish), ("some input\n", "oops\n", Finish::Exited(7)));
    let (_, _, finish) = node.output(&id, b"", &["sh", "-c", "kill -9 $$"]).await;
    assert_eq!(finish, Finish::Exited(137));
    let (out, _, finish) = node.exec(&id, false, false, &["cat"]).rest().await;
    assert_eq!((out.as_str(), finish), ("", Finish::Exited(0)), "input that is not wanted is empty");

    // All of a lot, through small buffers, both ways at once.
    let many: Vec<u8> = (0..3_000_000_u32).map(|at| b'a' + (at % 23) as u8).collect();
    let mut client = node.exec(&id, false, true, &["cat"]);
    let mut stdin = client.stdin.take().unwrap();
    let sent = many.clone();
    let sending = tokio::spawn(async move { stdin.write_all(&sent).await.unwrap() });
    let (out, _, finish) = client.rest().await;
    sending.await.unwrap();
    assert!(out.as_bytes() == many && finish == Finish::Exited(0));

    // What a command leaves behind in the background holds nobody up.
    let started = Instant::now();
    let (out, _, finish) =
        node.output(&id, b"", &["sh", "-c", "yes > /dev/null & sleep 50 & echo done"]).await;
    assert_eq!((out.as_str(), finish), ("done\n", Finish::Exited(0)));
    let script = "(while echo noise; do :; done) & sleep 0.2";
    let (_, _, finish) = node.output(&id, b"", &["sh", "-c", script]).await;
    assert_eq!(finish, Finish::Exited(0));
    assert!(started.elapsed() < Duration::from_secs(40));

    // What cannot be.
    let (_, _, finish) = node.output(&id, b"", &["nonsense"]).await;
    assert!(matches!(&finish, Finish::Failed(text) if text.contains("not found in $PATH")), "{finish:?}");
    let (_, _, finish) = node.output("none", b"", &["sh"]).await;
    assert!(matches!(&finish, Finish::Failed(text) if text.contains("not found")), "{finish:?}");

    // A client that vanishes takes its streams with it: input ends, output breaks.
    let client = node.exec(&id, false, true, &["sh", "-c", "cat; touch /ended"]);
    sleep(Duration::from_millis(500)).await;
    client.session.abort();
    let client = node.exec(&id, false, true, &["sh", "-c", "yes; touch /broken"]);
    sleep(Duration::from_millis(500)).await;
    client.session.abort();
    let script = "until test -e /ended -a -e /broken; do sleep 0.1; done; echo both";
    assert_eq!(node.output(&id, b"", &["sh", "-c", script]).await.0, "both\n");

    node.remove(pod).await;
    assert_eq!(node.leaks(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_streamed_is_refused_by_the_call() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let node = Node::new().await;
    let pod = node.pod("refused", own_pids()).await;
    let id = node.run(&pod, container("refused", &own_pids(), "sleep 0.1")).await;
    node.exit_code(&id).await;
    let good = cri::ExecRequest {
        container_id: id.clone(),
        cmd: vec!["true".into()],
        stdout: true,
        ..Default::default()
    };
    let exec = async |change: fn(&mut cri::ExecRequest)| {
        let mut request = good.clone();
        change(&mut request);
        node.server.exec(Request::new(request)).await.unwrap_err().code()
    };
    assert_eq!(exec(|_| ()).await, Code::FailedPrecondition);
    assert_eq!(exec(|request| request.container_id = "none".into()).await, Code::NotFound);
    assert_eq!(exec(|request| request.container_id.clear()).await, Code::InvalidArgument);
    assert_eq!(exec(|request| request.cmd.clear()).await, Code::InvalidArgument);
    assert_eq!(exec(|request| request.stdout = false).await, Code::InvalidArgument);
    assert_eq!(exec(|request| (request.tty, request.stderr) = (true, true)).await, Code::InvalidArgument);
    let attach = cri::AttachRequest { container_id: id, stdout: true, ..Default::default() };
    let refused = node.server.attach(Request::new(attach)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let forward = async |sandbox: &str, port: i32| {
        let request = cri::PortForwardRequest { pod_sandbox_id: sandbox.into(), port: vec![port] };
        node.server.port_forward(Request::new(request)).await
    };
    assert_eq!(forward(&pod, 65536).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(forward("none", 80).await.unwrap_err().code(), Code::NotFound);
    let url = forward(&pod, 80).await.unwrap().into_inner().url;
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    let request = cri::StopPodSandboxRequest { pod_sandbox_id: pod.clone() };
    node.server.stop_pod_sandbox(Request::new(request)).await.unwrap();
    assert_eq!(forward(&pod, 80).await.unwrap_err().code(), Code::FailedPrecondition);
    node.remove(pod).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_have_terminals() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let node = Node::new().await;
    let users = cri::NamespaceOption {
        userns_options: Some(cri::UserNamespace {
            mode: cri::NamespaceMode::Pod.into(),
            uids: vec![cri::IdMapping { host_id: 400_000, container_id: 0, length: 65_536 }],
            gids: vec![cri::IdMapping { host_id: 400_000, container_id: 0, length: 65_536 }],
        }),
        ..own_pids()
    };
    let status = node.server.status(Request::new(cri::StatusRequest::default())).await.unwrap().into_inner();
    let mut cases = vec![("plain", own_pids())];
    if status.runtime_handlers[0].features.as_ref().unwrap().user_namespaces {
        cases.push(("users", users));
    } else {
        println!("skipped: no user namespaces with ID-mapped mounts here");
    }
    for (name, options) in cases {
        let pod = node.pod(name, options.clone()).await;
        let mut config = container(&format!("{name}-web"), &options, FOREVER);
        config.linux.as_mut().unwrap().security_context.as_mut().unwrap().run_as_user =
            Some(cri::Int64Value { value: 33 });
        let web = node.run(&pod, config).await;
        let root = node.run(&pod, container(&format!("{name}-root"), &options, FOREVER)).await;
        for (id, user) in [(&web, "33"), (&root, "0")] {
            let mut client = node.exec(id, true, true, &["sh"]);
            client.resize.send(TerminalSize { columns: 111, rows: 44 }).await.unwrap();
            client.say("id -u; stat -c 'owner %u %g' $(tty); echo again > $(tty)\n").await;
            let seen = client.expect("again\r\n").await;
            assert!(seen.contains(&format!("\r\n{user}\r\nowner {user} 5\r\n")), "{name}: {seen:?}");
            client.say("stty size; echo $TERM\n").await;
            let seen = client.expect("xterm\r\n").await;
            assert!(seen.contains("44 111\r\n"), "{name}: {seen:?}");
            // It is the controlling terminal: ^C interrupts what is in the foreground, and only that.
            client.resize.send(TerminalSize { columns: 80, rows: 25 }).await.unwrap();
            client.say("echo begun; sleep 100\n").await;
            client.expect("begun\r\n").await;
            sleep(Duration::from_millis(300)).await;
            client.say("\u{3}").await;
            client.say("stty size; echo status $?\n").await;
            let seen = client.expect("status 0\r\n").await;
            assert!(seen.contains("25 80\r\n"), "{name}: {seen:?}");
            client.say("exit 5\n").await;
            let (_, _, finish) = client.rest().await;
            assert_eq!(finish, Finish::Exited(5), "{name}");
        }
        // A terminal whose client vanished is hung up.
        let client = node.exec(
            &root,
            true,
            true,
            &["sh", "-c", "trap 'touch /tmp-hangup; exit' HUP; while :; do sleep 0.1; done"],
        );
        sleep(Duration::from_millis(500)).await;
        client.session.abort();
        let script = "until test -e /tmp-hangup; do sleep 0.1; done; echo hangup";
        assert_eq!(node.output(&root, b"", &["sh", "-c", script]).await.0, "hangup\n", "{name}");
        // The last of a lot of output is not lost.
        let (out, _, finish) = node
            .exec(
                &root,
                true,
                false,
                &["sh", "-c", "dd if=/dev/zero bs=1000 count=300 2>/dev/null; echo last"],
            )
            .rest()
            .await;
        assert!(out.ends_with("last\r\n") && out.len() == 300_006, "{name}: {} bytes", out.len());
        assert_eq!(finish, Finish::Exited(0));
        node.remove(pod).await;
    }
    assert_eq!(node.leaks(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_attach_to_containers() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let node = Node::new().await;
    let pod = node.pod("attach", own_pids()).await;
    let with = |name: &str, script: &str, change: fn(&mut cri::ContainerConfig)| {
        let mut config = container(name, &own_pids(), script);
        change(&mut config);
        config
    };

    // Input stays open from client to client; output goes to all of them, and to the log.
    let echo = "while read line; do echo got $line; echo err $line >&2; done; echo end; exit 3";
    let id = node.run(&pod, with("open", echo, |config| config.stdin = true)).await;
    let mut watcher = node.attach(&id, false, false);
    let mut first = node.attach(&id, false, true);
    sleep(Duration::from_millis(300)).await;
    first.say("one\n").await;
    first.expect("got one\n").await;
    watcher.expect("got one\n").await;
    first.stdin = None;
    assert_eq!(first.finish().await, Finish::Exited(0));
    let mut second = node.attach(&id, false, true);
    sleep(Duration::from_millis(300)).await;
    second.say("two\n").await;
    second.expect("got two\n").await;
    let mut stderr = [0; 8];
    second.stderr.as_mut().unwrap().read_exact(&mut stderr).await.unwrap();
    assert_eq!(&stderr, b"err two\n");
    drop(second);
    node.logged("open.log", "stderr F err two").await;
    assert!(node.log("open.log").contains("stdout F got one"));
    watcher.expect("got two\n").await;

    // stdin_once: the first client to go ends the input; the container's end ends the sessions.
    let id =
        node.run(&pod, with("once", echo, |config| (config.stdin, config.stdin_once) = (true, true))).await;
    let watcher = node.attach(&id, false, false);
    let mut client = node.attach(&id, false, true);
    sleep(Duration::from_millis(300)).await;
    client.say("three\n").await;
    client.stdin = None;
    let (out, err, finish) = client.rest().await;
    assert_eq!((out.as_str(), err.as_str()), ("got three\nend\n", "err three\n"));
    assert_eq!(finish, Finish::Exited(0));
    assert_eq!(watcher.rest().await.0, "got three\nend\n");
    assert_eq!(node.exit_code(&id).await, 3);
    assert!(node.log("once.log").contains("stdout F end"));
    let finish = node.attach(&id, false, true).finish().await;
    assert!(matches!(&finish, Finish::Failed(text) if text.contains("not running")), "{finish:?}");
    // Or its connection breaks.
    let id =
        node.run(&pod, with("lost", echo, |config| (config.stdin, config.stdin_once) = (true, true))).await;
    let client = node.attach(&id, false, true);
    sleep(Duration::from_millis(300)).await;
    client.session.abort();
    assert_eq!(node.exit_code(&id).await, 3);

    // A terminal, with a prompt and sizes, in the log too.
    let shell = |config: &mut cri::ContainerConfig| {
        (config.stdin, config.tty) = (true, true);
        config.command = vec!["sh".into()];
    };
    let id = node.run(&pod, with("tty", "", shell)).await;
    let mut other = node.attach(&id, true, false);
    let mut client = node.attach(&id, true, true);
    sleep(Duration::from_millis(300)).await;
    client.resize.send(TerminalSize { columns: 99, rows: 33 }).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    client.say("stty size; echo from $((40 + 2))\n").await;
    let seen = client.expect("from 42\r\n").await;
    assert!(seen.contains("33 99\r\n"), "{seen:?}");
    other.expect("from 42\r\n").await;
    node.logged("tty.log", "stdout F from 42\r").await;
    client.say("exit 4\n").await;
    let (_, _, finish) = client.rest().await;
    assert_eq!(finish, Finish::Exited(0));
    assert_eq!(other.rest().await.2, Finish::Exited(0));
    assert_eq!(node.exit_code(&id).await, 4);

    // A client that takes nothing is cut off, and the log goes on; one that takes all gets all.
    let flood = "while read line; do dd if=/dev/zero bs=100000 count=20 2>/dev/null; echo; echo flooded; done; sleep 100";
    let id = node.run(&pod, with("flood", flood, |config| config.stdin = true)).await;
    let stuck = node.attach(&id, false, false);
    let mut eager = node.attach(&id, false, true);
    sleep(Duration::from_millis(300)).await;
    eager.say("go\n").await;
    let seen = eager.expect("flooded\n").await;
    assert_eq!(seen.len(), 2_000_000 + "\nflooded\n".len());
    node.logged("flood.log", "flooded").await;
    let (out, _, finish) = stuck.rest().await;
    assert!(matches!(&finish, Finish::Failed(text) if text.contains("too slow")), "{finish:?}");
    assert!(out.len() < 2_000_000, "{}", out.len());

    // What a container wrote last reaches who reads slowly.
    let parting = "read line; dd if=/dev/zero bs=1000 count=60 2>/dev/null; echo bye";
    let id = node.run(&pod, with("parting", parting, |config| config.stdin = true)).await;
    let mut client = node.attach(&id, false, true);
    sleep(Duration::from_millis(300)).await;
    client.say("go\n").await;
    assert_eq!(node.exit_code(&id).await, 0);
    sleep(Duration::from_millis(1500)).await;
    let (out, _, finish) = client.rest().await;
    assert!(out.ends_with("bye\n") && out.len() == 60_004, "{}", out.len());
    assert_eq!(finish, Finish::Exited(0));

    node.remove(pod).await;
    assert_eq!(node.leaks(), Vec::<String>::new());
}

/// Serves one connection in a network namespace: what comes goes back.
fn echo_in(namespace: &Path, address: &'static str) {
    let (tell, told) = std::sync::mpsc::channel();
    let namespace = fs::File::open(namespace).unwrap();
    std::thread::spawn(move || {
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind)).unwrap();
        let listener = TcpListener::bind(address).unwrap();
        tell.send(()).unwrap();
        let (mut socket, _) = listener.accept().unwrap();
        std::io::copy(&mut socket.try_clone().unwrap(), &mut socket).unwrap();
    });
    told.recv().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_are_forwarded_into_the_pod() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let node = Node::new().await;
    let pod = node.pod("ports", own_pids()).await;
    let namespace = cairn_cri::shim::sandbox::namespace_path(&node.path("r/pods").join(&pod), "net");
    // Both listen where nobody outside the pod can reach them.
    for address in ["127.0.0.1:7007", "[::1]:7008"] {
        echo_in(&namespace, address);
    }
    for port in [7007, 7008] {
        let (client, daemon) = duplex(1 << 10);
        let (input, output) = tokio::io::split(daemon);
        let (runtime, sandbox) = (node.runtime.clone(), pod.clone());
        let forwarding = tokio::spawn(async move {
            runtime.port_forward(sandbox, port, (Box::new(input), Box::new(output))).await
        });
        let (mut reader, mut writer) = tokio::io::split(client);
        let many: Vec<u8> = (0..500_000_u32).map(|at| (at % 253) as u8).collect();
        let sent = many.clone();
        let sending = tokio::spawn(async move {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
        });
        let mut back = Vec::new();
        timeout(PATIENCE, reader.read_to_end(&mut back)).await.unwrap().unwrap();
        assert!(back == many, "port {port}: {} bytes", back.len());
        sending.await.unwrap();
        assert_eq!(timeout(PATIENCE, forwarding).await.unwrap().unwrap(), Ok(()));
    }
    let (_client, daemon) = duplex(64);
    let (input, output) = tokio::io::split(daemon);
    let refused =
        node.runtime.port_forward(pod.clone(), 7009, (Box::new(input), Box::new(output))).await.unwrap_err();
    assert!(refused.contains("localhost:7009") && refused.contains("connection refused"), "{refused}");
    let (_client, daemon) = duplex(64);
    let (input, output) = tokio::io::split(daemon);
    let missing =
        node.runtime.port_forward("none".into(), 1, (Box::new(input), Box::new(output))).await.unwrap_err();
    assert!(missing.contains("not found"), "{missing}");
    node.remove(pod).await;
    assert_eq!(node.leaks(), Vec::<String>::new());
}
