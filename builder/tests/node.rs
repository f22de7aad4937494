//! `cairn node` against a real management API: the node's own server, on loopback, with mutual TLS.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use cairn_node::{
    api::{self, Backends, tls},
    status::{Check, StatusBoard},
};
use cairn_qemu::guest::identity::{ClientIdentity, Identity};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
};

/// A node in this process: the API, with scripts for journalctl and systemctl.
struct Node {
    folder: tempfile::TempDir,
    port: u16,
    _runtime: tokio::runtime::Runtime,
}

impl Node {
    fn new() -> Self {
        let identity = Identity::generate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        credentials(&path("good"), &identity.ca, &[("admin", &identity.admin), ("reader", &identity.reader)]);
        let stranger = Identity::generate().unwrap();
        credentials(&path("other-client"), &identity.ca, &[("admin", &stranger.admin)]);
        credentials(&path("other-node"), &stranger.ca, &[("admin", &identity.admin)]);
        let said = |text: &str| {
            format!(
                r#"{{"__REALTIME_TIMESTAMP":"1795000000000017","SYSLOG_IDENTIFIER":"cairn-cri","MESSAGE":"{text}"}}"#
            )
        };
        // The earlier boot is gone; the present one has said its arguments.
        let journal = format!(
            "#!/bin/sh\ncase \"$*\" in *--boot=-1*) exit 1;; esac\nprintf '%s\\n' '{}' '{}' | sed \"s/ARGUMENTS/$*/\"\n",
            said("ARGUMENTS"),
            said("two")
        );
        script(&path("journalctl"), &journal);
        script(&path("systemctl"), &format!("#!/bin/sh\necho \"$@\" >>{}\n", path("power").display()));
        let backends = Backends {
            cri_socket: path("cri.sock"),
            csi_run: path("csi"),
            plugins_registry: path("registry"),
            journalctl: path("journalctl"),
            systemctl: path("systemctl"),
        };
        let board = Arc::new(StatusBoard::default());
        board.record(Check { name: "runtime", good: false, required: true, message: "is not there".into() });
        let parts = identity.api();
        let tls = tls::server_config(
            parts.client_ca.as_bytes(),
            parts.certificate.as_bytes(),
            parts.key.as_bytes(),
        );
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        runtime.spawn(api::serve(listener, tls.unwrap(), backends, board));
        Self { folder, port, _runtime: runtime }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `cairn node <arguments>` with credentials of that name.
    fn command(&self, credentials: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
        command.arg("node").args(arguments).arg(format!("--node=127.0.0.1:{}", self.port));
        command.arg("--credentials").arg(self.path(credentials)).env_remove("CAIRN_NODE");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command("good", arguments).output().unwrap()
    }
}

fn credentials(directory: &Path, ca: &str, clients: &[(&str, &ClientIdentity)]) {
    fs::create_dir(directory).unwrap();
    fs::write(directory.join("ca.pem"), ca).unwrap();
    for (name, client) in clients {
        fs::write(directory.join(format!("{name}.pem")), &client.certificate).unwrap();
        fs::write(directory.join(format!("{name}.key")), &client.key).unwrap();
    }
}

/// Copied by another process: one that this process has open for writing while another test forks is "text busy".
fn script(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    fs::write(&draft, text).unwrap();
    assert!(Command::new("cp").args([&draft, path]).status().unwrap().success());
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn good(output: &Output) -> String {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success(), "{}{text}", String::from_utf8_lossy(&output.stderr));
    text
}

/// One line on standard error that has all of `parts`, nothing on standard output, and that exit code.
#[track_caller]
fn refused(output: &Output, code: i32, parts: &[&str]) {
    let message = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert_eq!((message.lines().count(), output.stdout.len()), (1, 0), "{message}");
    for part in parts {
        assert!(message.contains(part), "no `{part}` in: {message}");
    }
}

#[test]
fn status_is_for_people_and_for_programs() {
    let node = Node::new();
    let text = good(&node.run(&["status"]));
    assert!(text.contains("state       not ready"), "{text}");
    assert!(text.contains("runtime  BAD    yes     is not there"), "{text}");
    let text = good(&node.run(&["status", "--json", "--as=reader"]));
    let status: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status["checks"][0]["message"], "is not there");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(status["kernel"], kernel.trim());
}

#[test]
fn the_journal_is_asked_for_as_said() {
    let node = Node::new();
    let text = good(&node.run(&["journal", "--unit=a.service", "--lines=7"]));
    let expected = "2026-11-18T11:06:40.000017Z cairn-cri: --output=json --no-pager --quiet --boot=0 --lines=7 --unit=a.service\n\
        2026-11-18T11:06:40.000017Z cairn-cri: two\n";
    assert_eq!(text, expected);
    let text = good(&node.run(&["journal", "--json", "--follow"]));
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines[0]["message"].as_str().unwrap().ends_with("--lines=10 --follow"), "{text}");
    assert_eq!((lines.len(), &lines[1]["message"]), (2, &"two".into()));
    refused(&node.run(&["journal", "--boot", "-1"]), 2, &["no such boot"]);
    refused(&node.run(&["journal", "--unit=a b"]), 2, &["not the name of a systemd unit"]);
}

#[test]
fn power_is_the_administrators() {
    let node = Node::new();
    let port = format!("127.0.0.1:{}", node.port);
    refused(&node.run(&["reboot", "--as=reader"]), 2, &[&port, "cairn:admin", "--as"]);
    assert!(!node.path("power").exists());
    good(&node.run(&["reboot"]));
    good(&node.run(&["poweroff", "--as=admin"]));
    let asked = fs::read_to_string(node.path("power")).unwrap();
    let targets: Vec<_> = asked.lines().filter_map(|line| line.split(' ').next_back()).collect();
    assert_eq!(targets, ["reboot.target", "poweroff.target"]);
}

#[test]
fn wrong_credentials_are_the_users_and_a_dead_node_is_not() {
    let node = Node::new();
    let status = |credentials| node.command(credentials, &["status"]).output().unwrap();
    refused(&status("other-client"), 2, &["refuses this client certificate", "use the credentials"]);
    refused(&status("other-node"), 2, &["is not the node that these credentials are for", "--credentials"]);
    refused(&status("nowhere"), 2, &["nowhere", "ca.pem"]);
    refused(&node.run(&["status", "--as=nobody"]), 2, &["nobody.pem"]);
    refused(&node.run(&["status", "--server-name=node-9"]), 2, &["--server-name"]);
    fs::write(node.path("good/admin.key"), "no key").unwrap();
    refused(&node.run(&["status"]), 2, &["admin.key"]);
    refused(&node.run(&["tunnel", "--as=reader", "--socket=/dev/null/x"]), 2, &["cairn:admin"]);

    // A port that was free a moment ago, and one that speaks something else.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let ask = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
        command.args([
            "node",
            "status",
            "--as=reader",
            "--node",
            &format!("127.0.0.1:{port}"),
            "--credentials",
        ]);
        command.arg(node.path("good")).output().unwrap()
    };
    let other = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9\r\n");
        let _ = stream.read(&mut [0; 1024]);
    });
    refused(&ask(), 3, &["does not answer as a management API"]);
    other.join().unwrap();
    refused(&ask(), 3, &[&format!("cannot reach 127.0.0.1:{port}"), "refused"]);
}

#[test]
fn a_place_that_is_none_is_refused_before_anything_is_read() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_cairn")).args(["node", "status", "--node", "https://x"]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("192.0.2.7:50443"));
}

/// Stops the child whatever happens.
struct Tunnel(Child);

impl Drop for Tunnel {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_tunnel_carries_both_directions_and_takes_its_socket_away() {
    let node = Node::new();
    // A target that answers when it has heard all, so that only a half close gets an answer.
    let target = UnixListener::bind(node.path("cri.sock")).unwrap();
    std::thread::spawn(move || {
        for stream in target.incoming() {
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut all = Vec::new();
                stream.read_to_end(&mut all).unwrap();
                all.reverse();
                let _ = stream.write_all(&all);
            });
        }
    });
    let mut child =
        node.command("good", &["tunnel"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let mut tunnel = Tunnel(child);
    let path = node.path("good/cri.sock");
    assert_eq!(line.trim_end(), format!("unix://{}", path.display()));

    let exchange = |seed: u8| {
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8 ^ seed).collect();
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(&sent).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer.reverse();
        assert!(answer == sent, "{} bytes came back of {}", answer.len(), sent.len());
    };
    std::thread::scope(|scope| {
        scope.spawn(|| exchange(1));
        scope.spawn(|| exchange(2));
    });

    let busy = node.run(&["tunnel", "--socket", path.to_str().unwrap()]);
    refused(&busy, 2, &["is in use"]);
    let pid = rustix::process::Pid::from_child(&tunnel.0);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert!(tunnel.0.wait().unwrap().success());
    assert!(!path.exists());
}
