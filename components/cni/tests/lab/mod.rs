//! A host, its pods and its neighbours as network namespaces, and plugins run in them as a runtime runs them.
#![allow(dead_code)] // Each test program uses a part.

use cairn_cni::{netns::NetNs, protocol::error::CniError, sysctl};
use serde_json::{Value, json};
use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

/// The program under test: `CAIRN_CNI_PROGRAM`, or the one that was built with this test.
fn program() -> PathBuf {
    let built = option_env!("CARGO_BIN_EXE_cairn-cni").unwrap_or("/usr/libexec/cairn/cairn-cni");
    std::env::var_os("CAIRN_CNI_PROGRAM").map_or_else(|| built.into(), PathBuf::from)
}

/// Why integration tests cannot run here, if they cannot.
pub(crate) fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root");
    }
    if !Command::new("ip").arg("-V").output().is_ok_and(|o| o.status.success()) {
        return Some("no `ip` program");
    }
    let probe = Namespace::try_new("probe");
    match probe {
        Some(ns) if ns.ip_succeeds("link add cairn-a type veth peer name cairn-b") => None,
        Some(_) => Some("veth links cannot be made"),
        None => Some("network namespaces cannot be made"),
    }
}

/// Returns from the test, saying why, where it cannot run.
#[macro_export]
macro_rules! need_lab {
    () => {
        if let Some(reason) = lab::missing() {
            println!("skipped: {reason}");
            return;
        }
    };
}

/// A network namespace with a name, gone when dropped.
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    pub(crate) fn new(role: &str) -> Self {
        let namespace = Self::try_new(role).expect("ip netns add");
        namespace.ip("link set lo up");
        namespace
    }

    fn try_new(role: &str) -> Option<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("cairn-{}-{number}-{role}", std::process::id());
        Command::new("ip").args(["netns", "add", &name]).status().ok()?.success().then_some(Self { name })
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    pub(crate) fn ip_succeeds(&self, words: &str) -> bool {
        self.about("ip").args(words.split(' ')).output().is_ok_and(|o| o.status.success())
    }

    pub(crate) fn ip(&self, words: &str) -> String {
        let output = self.about("ip").args(words.split(' ')).output().unwrap();
        assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn ip_json(&self, words: &str) -> Value {
        let text = self.ip(&format!("-j {words}"));
        if text.trim().is_empty() { json!([]) } else { serde_json::from_str(&text).unwrap() }
    }

    /// A program of iproute2 that will look in here: cheaper than to run in here.
    pub(crate) fn about(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(["-n", &self.name]);
        command
    }

    /// A program that will run in here.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs `work` in here, on this thread.
    pub(crate) fn enter<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let netns = NetNs::open(&self.path())?;
        netns.enter(|| Ok::<_, CniError>(work())).map_err(io::Error::other)?
    }

    /// Has the kernel be done with duplicate address detection as soon as it begins, on links that come to be in here.
    pub(crate) fn detect_nothing(&self) {
        self.ipv6_default("dad_transmits", "0");
    }

    /// Sets a parameter of links that come to be in here.
    pub(crate) fn ipv6_default(&self, parameter: &str, value: &str) {
        self.enter(|| sysctl::ensure(&format!("net/ipv6/conf/default/{parameter}"), value)).unwrap();
    }

    /// Echo servers, TCP and UDP, on all addresses of this port.
    pub(crate) fn echo(&self, port: u16) {
        let everywhere: SocketAddr = (std::net::Ipv6Addr::UNSPECIFIED, port).into();
        let listener = self.enter(|| TcpListener::bind(everywhere)).unwrap();
        let socket = self.enter(|| UdpSocket::bind(everywhere)).unwrap();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // What came from where: tests look at the source address, too.
                let source = client.peer_addr().unwrap().ip().to_canonical();
                let mut text = [0; 5];
                if (&client).read_exact(&mut text).is_ok() {
                    let _ = (&client)
                        .write_all(format!("{} {source}", String::from_utf8_lossy(&text)).as_bytes());
                }
            }
        });
        thread::spawn(move || {
            let mut buffer = [0; 100];
            while let Ok((length, client)) = socket.recv_from(&mut buffer) {
                let source = client.ip().to_canonical();
                let text = format!("{} {source}", String::from_utf8_lossy(&buffer[..length]));
                let _ = socket.send_to(text.as_bytes(), client);
            }
        });
    }

    /// Dials an echo server over TCP; the address that it saw us come from.
    pub(crate) fn tcp(&self, address: &str, port: u16) -> io::Result<IpAddr> {
        let peer = SocketAddr::new(address.parse().unwrap(), port);
        self.enter(|| {
            let mut stream = TcpStream::connect_timeout(&peer, Duration::from_secs(3))?;
            stream.set_read_timeout(Some(Duration::from_secs(3)))?;
            stream.write_all(b"hello")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            seen(&answer)
        })
    }

    /// The same over UDP.
    pub(crate) fn udp(&self, address: &str, port: u16) -> io::Result<IpAddr> {
        let peer = SocketAddr::new(address.parse().unwrap(), port);
        self.enter(|| {
            let any = if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any)?;
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
            socket.connect(peer)?;
            let mut buffer = [0; 100];
            // A link that is just up loses the first datagram: its neighbours are not yet asked where they are.
            for attempt in 1.. {
                socket.send(b"hello")?;
                match socket.recv(&mut buffer) {
                    Ok(length) => return seen(std::str::from_utf8(&buffer[..length]).unwrap()),
                    // A socket with a time limit is not asked again after a signal (signal(7)).
                    Err(error) if is_worth_another(&error) && attempt < 4 => {}
                    Err(error) => return Err(error),
                }
            }
            unreachable!("the last attempt returns")
        })
    }
}

fn is_worth_another(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn seen(answer: &str) -> io::Result<IpAddr> {
    let source = answer.strip_prefix("hello ").and_then(|a| a.parse().ok());
    source.ok_or_else(|| io::Error::other(format!("answer {answer:?}")))
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// A host with plugins, and a directory for their data.
pub(crate) struct Host {
    pub(crate) netns: Namespace,
    pub(crate) directory: tempfile::TempDir,
    plugins: PathBuf,
}

impl Host {
    /// With our plugins.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let plugins = directory.path().join("bin");
        let installed = Command::new(program()).arg("install").arg(&plugins).status();
        assert!(installed.unwrap().success());
        Self { netns: Namespace::new("host"), directory, plugins }
    }

    /// With the plugins in another directory.
    pub(crate) fn with_plugins(plugins: &Path) -> Self {
        Self { plugins: plugins.to_owned(), ..Self::new() }
    }

    /// What plugins see as sysfs, if there is such a directory.
    pub(crate) fn sysfs(&self) -> PathBuf {
        self.directory.path().join("sys")
    }

    /// The program of a plugin.
    pub(crate) fn plugin(&self, kind: &str) -> PathBuf {
        self.plugins.join(kind)
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.plugins.starts_with(self.directory.path())
    }

    /// A dual-stack network on a bridge, its addresses kept in our directory.
    pub(crate) fn network(&self, settings: Value) -> Value {
        let mut network = json!({
            "cniVersion": "1.0.0", "name": "pods", "type": "bridge", "bridge": "cni0", "isDefaultGateway": true,
            "hairpinMode": true,
            "ipam": {"type": "host-local", "dataDir": self.directory.path().join("networks"),
                     "ranges": [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd77::/64"}]]}
        });
        merge(&mut network, settings);
        network
    }

    /// Addresses recorded as taken.
    pub(crate) fn reservations(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.directory.path().join("networks/pods")) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name.parse::<IpAddr>().is_ok());
        names.sort();
        names
    }

    /// Runs the plugin that the configuration names. `Err` is the error document.
    pub(crate) fn cni(&self, command: &str, config: &Value, id: &str, netns: &Path) -> Result<Value, Value> {
        let plugin = self.plugin(config["type"].as_str().unwrap());
        let mut start = match self.sysfs() {
            made_up if made_up.is_dir() => {
                let mut shell = self.netns.command("sh");
                shell.args(["-c", "mount --bind \"$0\" /sys && exec \"$1\""]).arg(made_up).arg(plugin);
                shell
            }
            _ => self.netns.command(plugin),
        };
        let mut child = start
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.plugins)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let document =
            if text.trim().is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() };
        if output.status.success() { Ok(document) } else { Err(document) }
    }

    /// ADD that must work.
    pub(crate) fn add(&self, config: &Value, pod: &Namespace) -> Value {
        self.cni("ADD", config, &pod.name, &pod.path()).unwrap_or_else(|e| panic!("ADD: {e}"))
    }

    /// DEL that must work.
    pub(crate) fn del(&self, config: &Value, pod: &Namespace) {
        self.cni("DEL", config, &pod.name, &pod.path()).unwrap_or_else(|e| panic!("DEL: {e}"));
    }

    /// CHECK of `result`; the error's message, or nothing.
    pub(crate) fn check(&self, config: &Value, pod: &Namespace, result: &Value) -> String {
        let mut config = config.clone();
        config["prevResult"] = result.clone();
        match self.cni("CHECK", &config, &pod.name, &pod.path()) {
            Ok(_) => String::new(),
            Err(error) => error["msg"].as_str().unwrap().to_owned(),
        }
    }

    /// A neighbour on a link of its own: 192.0.2.2 and 2001:db8::2, the host being .1 and ::1.
    pub(crate) fn neighbour(&self) -> Namespace {
        let neighbour = Namespace::new("neighbour");
        self.netns.ip(&format!("link add uplink type veth peer name eth0 netns {}", neighbour.name));
        self.netns.ip("addr add 192.0.2.1/24 dev uplink");
        self.netns.ip("addr add 2001:db8::1/64 dev uplink nodad");
        self.netns.ip("link set uplink up");
        neighbour.ip("addr add 192.0.2.2/24 dev eth0");
        neighbour.ip("addr add 2001:db8::2/64 dev eth0 nodad");
        neighbour.ip("link set eth0 up");
        neighbour
    }
}

/// Waits for what is to come.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Addresses of a result, without prefix length.
pub(crate) fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().unwrap();
    ips.iter().map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().to_owned()).collect()
}

/// Puts `from` over `into`, object by object.
pub(crate) fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
