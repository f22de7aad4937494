//! CPU time and memory of this driver and of another one, doing the same in turns.
//!
//! `compare-publish OURS THEIRS [ROUNDS]`: paths of `cairn-csi` and of csi-driver-host-path's `hostpathplugin`. As root. Each round is
//! ten times publish and unpublish of one staged volume, then the other driver's turn. CPU is that of the driver's process
//! and of what it started, as the kernel counts it.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use cairn_contract::csi::{
    self, controller_client::ControllerClient, node_client::NodeClient, volume_capability as capability,
};
use hyper_util::rt::TokioIo;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// Cycles in a round: the kernel counts hundredths of a second.
const CYCLES: u32 = 10;

struct Driver {
    name: &'static str,
    process: Child,
    node: NodeClient<Channel>,
    volume: csi::Volume,
    root: PathBuf,
    cpu: Duration,
    wall: Vec<Duration>,
}

fn capability() -> csi::VolumeCapability {
    csi::VolumeCapability {
        access_type: Some(capability::AccessType::Mount(capability::MountVolume::default())),
        access_mode: Some(capability::AccessMode {
            mode: capability::access_mode::Mode::SingleNodeWriter.into(),
        }),
    }
}

async fn connect(socket: &Path) -> Channel {
    loop {
        let path = socket.to_path_buf();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        match Endpoint::from_static("http://csi.invalid").connect_with_connector(connector).await {
            Ok(channel) => return channel,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

impl Driver {
    async fn start(name: &'static str, mut command: Command, root: &Path, socket: &Path) -> Self {
        let process = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let channel = connect(socket).await;
        let request = csi::CreateVolumeRequest {
            name: "compared".into(),
            capacity_range: Some(csi::CapacityRange { required_bytes: 16 << 20, limit_bytes: 0 }),
            volume_capabilities: vec![capability()],
            ..Default::default()
        };
        let volume = ControllerClient::new(channel.clone()).create_volume(request).await.unwrap();
        let volume = volume.into_inner().volume.unwrap();
        let mut node = NodeClient::new(channel);
        for directory in ["staging", "pods"] {
            fs::create_dir_all(root.join("kubelet").join(directory)).unwrap();
        }
        let request = csi::NodeStageVolumeRequest {
            volume_id: volume.volume_id.clone(),
            staging_target_path: root.join("kubelet/staging").display().to_string(),
            volume_capability: Some(capability()),
            volume_context: volume.volume_context.clone(),
            ..Default::default()
        };
        node.node_stage_volume(request).await.unwrap();
        let root = root.to_path_buf();
        Self { name, process, node, volume, root, cpu: Duration::ZERO, wall: Vec::new() }
    }

    async fn cycle(&mut self) {
        let target = self.root.join("kubelet/pods/target").display().to_string();
        let request = csi::NodePublishVolumeRequest {
            volume_id: self.volume.volume_id.clone(),
            staging_target_path: self.root.join("kubelet/staging").display().to_string(),
            target_path: target.clone(),
            volume_capability: Some(capability()),
            volume_context: self.volume.volume_context.clone(),
            ..Default::default()
        };
        self.node.node_publish_volume(request).await.unwrap();
        let request =
            csi::NodeUnpublishVolumeRequest { volume_id: self.volume.volume_id.clone(), target_path: target };
        self.node.node_unpublish_volume(request).await.unwrap();
    }

    async fn round(&mut self) {
        let before = cpu(self.process.id());
        for _ in 0..CYCLES {
            let began = Instant::now();
            self.cycle().await;
            self.wall.push(began.elapsed());
        }
        self.cpu += cpu(self.process.id()) - before;
    }

    /// Resident memory, and the part of it that is the process's own, KiB.
    fn memory(&self) -> (u64, u64) {
        let text = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        (field("VmRSS:"), field("RssAnon:"))
    }
}

/// CPU time of a process and of its children that it has waited for.
fn cpu(pid: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // From the third field on; the second may hold anything.
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11..15].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(ours), Some(theirs)) = (arguments.next(), arguments.next()) else {
        println!("usage: compare CAIRN-CSI HOSTPATHPLUGIN [ROUNDS]");
        return;
    };
    let rounds: u32 = arguments.next().map_or(20, |text| text.parse().unwrap());
    let base = tempfile::tempdir().unwrap();
    let (our_root, their_root) = (base.path().join("ours"), base.path().join("theirs"));
    fs::create_dir_all(&our_root).unwrap();
    fs::create_dir_all(their_root.join("data")).unwrap();

    let config = our_root.join("csi.toml");
    let root = our_root.display();
    let text = format!(
        "node = 'n'\nstate = '{root}/state'\nrun = '{root}/run'\ntarget_roots = ['{root}/kubelet']\n\
         plugins_registry = '{root}/registry'\n[[pools]]\nname = 'p'\npath = '{root}/pool'\nquota = 'off'\n"
    );
    fs::write(&config, text).unwrap();
    let mut command = Command::new(ours);
    command.arg("--config").arg(config);
    let our = Driver::start("cairn-csi", command, &our_root, &our_root.join("run/local.sock")).await;

    let socket = their_root.join("csi.sock");
    let mut command = Command::new(theirs);
    command
        .arg(format!("--endpoint=unix://{}", socket.display()))
        .arg(format!("--statedir={}", their_root.join("data").display()))
        .args(["--nodeid=n", "--drivername=hostpath.csi.k8s.io"]);
    let their = Driver::start("hostpathplugin", command, &their_root, &socket).await;

    let mut drivers = [our, their];
    for driver in &mut drivers {
        driver.cycle().await;
    }
    for _ in 0..rounds {
        for driver in &mut drivers {
            driver.round().await;
        }
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    for driver in &mut drivers {
        driver.wall.sort();
        let (resident, own) = driver.memory();
        println!(
            "{:<15} publish+unpublish: CPU {:>8.3} ms, median wall {:>8.3} ms; idle RSS {resident} KiB, {own} KiB of it anonymous",
            driver.name,
            driver.cpu.as_secs_f64() * 1000.0 / f64::from(rounds * CYCLES),
            driver.wall[driver.wall.len() / 2].as_secs_f64() * 1000.0,
        );
    }
    for driver in &mut drivers {
        driver.process.kill().unwrap();
        driver.process.wait().unwrap();
    }
    for root in [&our_root, &their_root] {
        let _ = rustix::mount::unmount(root.join("kubelet/staging"), rustix::mount::UnmountFlags::DETACH);
    }
}
