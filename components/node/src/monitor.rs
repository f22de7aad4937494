//! The readiness loop: asks the runtime, proves it once per boot, asks the kubelet, and keeps the status board.

use crate::cri::Cri;
use crate::screen::Screen;
use crate::status::{Check, NodeStatus, StatusBoard};
use crate::{apply, machine_facts, probe, resolver};
use cairn_contract::{console, paths};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// While the node is coming up, and when it is up.
const EAGER: Duration = Duration::from_millis(100);
const STEADY: Duration = Duration::from_secs(10);
/// After a failed pod, so that the log is not flooded.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// The kubelet's health endpoint, at its default address.
const KUBELET_HEALTH: &str = "127.0.0.1:10248";

/// What is said of the pod that proves the runtime before it ran.
const UNPROVEN: &str = "waits for the runtime";

/// Milestone: CRI runtime and network ready.
pub const RUNTIME_READY: &str = "runtime-ready";
/// Milestone: every required check good.
pub const NODE_READY: &str = "node-ready";

/// What the monitor works on; the defaults are the node's.
#[derive(Debug, Clone)]
pub struct Places {
    /// The CRI socket.
    pub cri_socket: PathBuf,
    /// The kubelet's program; without it the node has no kubelet.
    pub kubelet: PathBuf,
    /// Present when the kubelet has a cluster to join.
    pub bootstrap: PathBuf,
    /// Made when the node is ready, for `wait-ready`.
    pub ready_file: PathBuf,
    /// Where name servers are written to.
    pub resolv_conf: PathBuf,
    /// How `cairn-node config` went, [`apply::Report`].
    pub config_report: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            cri_socket: paths::CRI_SOCKET.into(),
            kubelet: paths::KUBELET.into(),
            bootstrap: "/run/cairn/kubelet/bootstrap.kubeconfig".into(),
            ready_file: READY_FILE.into(),
            resolv_conf: resolver::RESOLV_CONF.into(),
            config_report: apply::REPORT.into(),
        }
    }
}

/// [`Places::ready_file`] on a node.
pub const READY_FILE: &str = "/run/cairn/ready";

/// The loop's state.
pub struct Monitor {
    places: Places,
    cri: Cri,
    board: Arc<StatusBoard>,
    screen: Screen,
    name_servers: String,
    proven: bool,
    steady: Duration,
}

impl Monitor {
    /// A monitor that reports to `board` and prints on `screen`. Inside a tokio runtime. From now on the node is not ready until
    /// [`Self::run`] finds that it is.
    pub fn new(places: Places, board: Arc<StatusBoard>, screen: Screen) -> Self {
        let cri = Cri::new(places.cri_socket.clone());
        let monitor =
            Self { places, cri, board, screen, name_servers: String::new(), proven: false, steady: STEADY };
        monitor.record("runtime", true, Err("not asked yet".to_owned()));
        monitor.record("pod-lifecycle", true, Err(UNPROVEN.to_owned()));
        monitor
    }

    /// Looks at a node that is ready this often rather than every ten seconds.
    pub fn looking_every(self, steady: Duration) -> Self {
        Self { steady, ..self }
    }

    /// Runs for as long as the node does.
    pub async fn run(mut self) {
        self.record_machine_config();
        loop {
            let pause = self.round().await;
            tokio::time::sleep(pause).await;
        }
    }

    /// Looks at everything once; the time until the next look.
    async fn round(&mut self) -> Duration {
        self.follow_name_servers();
        let runtime = self.cri.readiness().await;
        let good = runtime.is_ok();
        self.record("runtime", true, runtime.map(|()| "runtime and network are ready".to_owned()));
        if good && let Some(usec) = self.board.reach(RUNTIME_READY) {
            self.screen.announce(&format!("{} after {} ms", console::RUNTIME_READY, usec / 1000));
        }
        let mut pause = if self.board.now().ready() { self.steady } else { EAGER };
        if good && !self.proven {
            let result = probe::run(&self.cri, &boot_id()).await;
            self.proven = result.is_ok();
            self.record("pod-lifecycle", true, result);
            pause = if self.proven { EAGER } else { AFTER_FAILURE };
        } else if !self.proven {
            self.record("pod-lifecycle", true, Err(UNPROVEN.to_owned()));
        }
        if self.places.kubelet.exists() {
            let required = self.places.bootstrap.exists();
            let result = if required {
                kubelet_health().await
            } else {
                Err("no cluster in the machine config".to_owned())
            };
            self.record("kubelet", required, result);
        }
        self.settle();
        pause
    }

    /// The ready file follows the state; the first time the node is ready is announced.
    fn settle(&mut self) {
        let status = self.board.now();
        if !status.ready() {
            let _ = std::fs::remove_file(&self.places.ready_file);
            return;
        }
        if let Some(usec) = self.board.reach(NODE_READY) {
            let interfaces = machine_facts::interfaces();
            let addresses: Vec<_> =
                interfaces.iter().flat_map(|interface| interface.addresses.clone()).collect();
            let name = host_name();
            let line =
                format!("{}: {name} {} after {} ms", console::NODE_READY, addresses.join(" "), usec / 1000);
            self.screen.announce(&line);
        }
        if !self.places.ready_file.exists()
            && let Err(error) = std::fs::write(&self.places.ready_file, "")
        {
            self.screen
                .announce(&format!("cairn: cannot write {}: {error}", self.places.ready_file.display()));
        }
    }

    fn record_machine_config(&self) {
        let result = match apply::load(&self.places.config_report) {
            None => Err("`cairn-node config` did not run in this boot".to_owned()),
            Some(report) if report.problems.is_empty() => Ok(report.source),
            Some(report) => Err(report.problems.join("; ")),
        };
        // Required: an image that does not understand its node's config must give way to the one that did.
        self.record("machine-config", true, result);
    }

    fn record(&self, name: &'static str, required: bool, result: Result<String, String>) {
        let good = result.is_ok();
        let message = result.unwrap_or_else(|problem| problem);
        self.board.record(Check { name, good, required, message });
    }

    /// Writes resolv.conf when networkd has learned other servers.
    fn follow_name_servers(&mut self) {
        let state = std::fs::read_to_string(resolver::NETWORKD_STATE).unwrap_or_default();
        if let Some(text) = resolver::from_networkd(&state)
            && text != self.name_servers
        {
            let file = crate::render::Rendered {
                path: self.places.resolv_conf.clone(),
                mode: 0o644,
                contents: text.clone().into(),
            };
            match apply::write(&file) {
                Ok(()) => self.name_servers = text,
                Err(error) => {
                    self.screen.announce(&format!("cairn: cannot write {}: {error}", file.path.display()))
                }
            }
        }
    }
}

/// Shows the state on the console whenever it changes, at most twice a second.
pub async fn show(board: Arc<StatusBoard>, screen: Screen) {
    let mut watcher = board.subscribe();
    let mut last = String::new();
    while watcher.changed().await.is_ok() {
        let status: NodeStatus = watcher.borrow_and_update().clone();
        let text = crate::screen::panel(&host_name(), &version(), &machine_facts::interfaces(), &status);
        if text != last {
            screen.show(&text);
            last = text;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// The host name.
pub fn host_name() -> String {
    machine_facts::first_line(Path::new("/proc/sys/kernel/hostname"))
}

/// `cairn_<version>` of the image; `cairn` outside an image.
pub fn version() -> String {
    let text = std::fs::read(paths::RELEASE).unwrap_or_default();
    serde_json::from_slice::<cairn_contract::manifest::ImageRelease>(&text)
        .map_or_else(|_| "cairn".to_owned(), |release| format!("cairn_{}", release.version))
}

/// Random id of this boot.
pub fn boot_id() -> String {
    machine_facts::first_line(Path::new("/proc/sys/kernel/random/boot_id"))
}

async fn kubelet_health() -> Result<String, String> {
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect(KUBELET_HEALTH).await?;
        stream.write_all(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.take(4096).read_to_end(&mut answer).await?;
        std::io::Result::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    match tokio::time::timeout(Duration::from_secs(5), ask).await {
        Ok(Ok(answer)) if answer.split_whitespace().nth(1) == Some("200") => Ok("healthy".to_owned()),
        Ok(Ok(answer)) => Err(format!("the kubelet says {}", answer.lines().next().unwrap_or("nothing"))),
        Ok(Err(error)) => Err(format!("the kubelet does not answer: {error}")),
        Err(_) => Err("the kubelet does not answer within 5 s".to_owned()),
    }
}
