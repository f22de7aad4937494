//! A driver of one's own: the real program with its directories in a temporary one, and clients to talk to it.

#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code, unreachable_pub)]

use cairn_contract::csi::{
    self, controller_client::ControllerClient, group_controller_client::GroupControllerClient,
    identity_client::IdentityClient, node_client::NodeClient, volume_capability,
};
use hyper_util::rt::TokioIo;
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// Longest that anything may take which takes a moment on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const MIB: i64 = 1 << 20;

/// Why tests of mounts cannot run here.
pub fn obstacle() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root");
    }
    (!Path::new("/dev/loop-control").exists()).then_some("needs loop devices")
}

/// Whether this process may grow a mounted ext4: the kernel wants CAP_SYS_RESOURCE for that, which root in a container often
/// lacks.
pub fn may_grow_ext4() -> bool {
    const SYS_RESOURCE: u64 = 1 << 24;
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(held.trim(), 16).unwrap() & SYS_RESOURCE != 0
}

/// Whether a program that a test needs is there.
pub fn has_program(name: &str) -> bool {
    ["/usr/sbin", "/sbin", "/usr/bin"].iter().any(|directory| Path::new(directory).join(name).exists())
}

/// Where a lab's pool is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pools {
    /// On the temporary directory's file system, whatever that is.
    Plain,
    /// On XFS of its own, which shares blocks: the driver makes and mounts it.
    Xfs,
    /// The same, with quotas.
    XfsQuota,
    /// On ext4 of its own with quotas, mounted by somebody else.
    Ext4Quota,
}

/// A small generator (splitmix64): a run is repeated by its seed.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// A number from the environment.
pub fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

pub struct Lab {
    pub base: tempfile::TempDir,
    pub pools: Pools,
    daemon: Option<Child>,
}

impl Lab {
    pub fn new() -> Self {
        Self::with_pools(Pools::Plain, "")
    }

    /// A pool, with more lines about it.
    pub fn with_pools(pools: Pools, more: &str) -> Self {
        let base = tempfile::Builder::new().prefix("csi").tempdir().unwrap();
        let root = base.path().display();
        let device = (pools != Pools::Plain).then(|| {
            let image = base.path().join("disk.img");
            fs::File::create(&image).unwrap().set_len(4 << 30).unwrap();
            cairn_csi::loopback::attach(&image, false).unwrap()
        });
        let disk = match (pools, &device) {
            (Pools::Xfs | Pools::XfsQuota, Some(device)) => format!("device = '{}'", device.display()),
            (Pools::Ext4Quota, Some(device)) => {
                let pool = base.path().join("pool");
                fs::create_dir(&pool).unwrap();
                let run = |command: &mut Command| assert!(command.status().unwrap().success(), "{command:?}");
                run(Command::new("mkfs.ext4")
                    .args(["-q", "-O", "quota,project", "-E", "quotatype=prjquota"])
                    .arg(device));
                run(Command::new("mount").arg(device).arg(pool));
                String::new()
            }
            _ => String::new(),
        };
        let quota = if matches!(pools, Pools::XfsQuota | Pools::Ext4Quota) { "enforced" } else { "off" };
        let config = format!(
            "node = 'node-1'\nstate = '{root}/state'\nrun = '{root}/run'\ntarget_roots = ['{root}/kubelet']\n\
             plugins_registry = '{root}/kubelet/plugins_registry'\n\
             [[pools]]\nname = 'disk'\npath = '{root}/pool'\nquota = '{quota}'\n{disk}\n{more}\n"
        );
        fs::write(base.path().join("csi.toml"), config).unwrap();
        fs::create_dir_all(base.path().join("kubelet/pods")).unwrap();
        Self { base, pools, daemon: None }
    }

    pub fn root(&self) -> &Path {
        self.base.path()
    }

    pub fn pool(&self) -> PathBuf {
        self.root().join("pool")
    }

    /// A path below the kubelet's directory; its parent is there.
    pub fn target(&self, name: &str) -> String {
        let path = self.root().join("kubelet").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path.display().to_string()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.root().join("daemon.log")).unwrap_or_default()
    }

    pub fn spawn(&self) -> Child {
        let log =
            fs::OpenOptions::new().create(true).append(true).open(self.root().join("daemon.log")).unwrap();
        let mut daemon = Command::new(env!("CARGO_BIN_EXE_cairn-csi"));
        daemon.arg("--config").arg(self.root().join("csi.toml"));
        daemon.stdin(Stdio::null()).stderr(log).spawn().unwrap()
    }

    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }

    /// Starts it if it does not run, and waits until it answers.
    pub async fn clients(&mut self) -> Clients {
        self.clients_of("local").await
    }

    pub async fn clients_of(&mut self, backend: &str) -> Clients {
        if self.daemon.is_none() {
            self.daemon = Some(self.spawn());
        }
        let socket = self.root().join(format!("run/{backend}.sock"));
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(channel) = connect(&socket).await {
                let clients = Clients::new(channel);
                if clients.identity.clone().probe(csi::ProbeRequest::default()).await.is_ok() {
                    return clients;
                }
            }
            let ended = self.daemon.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "the driver does not answer: {ended:?}\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Mounts, loop devices and files that are there on its behalf.
    pub fn leaks(&self) -> Vec<String> {
        let base = self.root().display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut found: Vec<String> = mounts
            .lines()
            .filter(|line| line.contains(&base) && !line.contains(&format!("{base}/pool ")))
            .map(str::to_owned)
            .collect();
        for entry in fs::read_dir("/sys/block").unwrap().flatten() {
            let file = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
            if file.contains(&base) && !file.ends_with("/disk.img\n") {
                found.push(format!("{}: {}", entry.path().display(), file.trim()));
            }
        }
        for directory in [
            "pool/volumes",
            "pool/snapshots",
            "pool/new",
            "pool/trash",
            "run/local/staged",
            "run/local/published",
        ] {
            let entries = fs::read_dir(self.root().join(directory)).into_iter().flatten().flatten();
            found.extend(entries.map(|entry| entry.path().display().to_string()));
        }
        found
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            println!("the driver's last words:\n{}", lines[lines.len().saturating_sub(400)..].join("\n"));
        }
        let pool = self.pool();
        let unmount = |fits: &dyn Fn(&Path) -> bool| {
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
            for place in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)).map(Path::new) {
                if place.starts_with(self.base.path()) && fits(place) {
                    let _ = rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH);
                }
            }
        };
        // The pool's own disk goes last: the devices of what is in it keep it.
        unmount(&|place| place != pool);
        let _ = cairn_csi::loopback::detach_below(&pool, |_| false);
        unmount(&|_| true);
        let _ = cairn_csi::loopback::detach_below(self.base.path(), |_| false);
    }
}

pub async fn connect(socket: &Path) -> Option<Channel> {
    let path = socket.to_path_buf();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://csi.invalid").connect_with_connector(connector).await.ok()
}

#[derive(Clone)]
pub struct Clients {
    pub identity: IdentityClient<Channel>,
    pub controller: ControllerClient<Channel>,
    pub group: GroupControllerClient<Channel>,
    pub node: NodeClient<Channel>,
}

impl Clients {
    pub fn new(channel: Channel) -> Self {
        Self {
            identity: IdentityClient::new(channel.clone()),
            controller: ControllerClient::new(channel.clone()),
            group: GroupControllerClient::new(channel.clone()),
            node: NodeClient::new(channel),
        }
    }

    pub async fn create(&mut self, request: csi::CreateVolumeRequest) -> Result<csi::Volume, tonic::Status> {
        Ok(self.controller.create_volume(request).await?.into_inner().volume.unwrap())
    }

    pub async fn delete(&mut self, id: &str) -> Result<(), tonic::Status> {
        let request = csi::DeleteVolumeRequest { volume_id: id.into(), ..Default::default() };
        self.controller.delete_volume(request).await.map(drop)
    }

    pub async fn stage(
        &mut self,
        volume: &csi::Volume,
        path: &str,
        capability: &csi::VolumeCapability,
    ) -> Result<(), tonic::Status> {
        let request = csi::NodeStageVolumeRequest {
            volume_id: volume.volume_id.clone(),
            staging_target_path: path.into(),
            volume_capability: Some(capability.clone()),
            volume_context: volume.volume_context.clone(),
            ..Default::default()
        };
        self.node.node_stage_volume(request).await.map(drop)
    }

    pub async fn unstage(&mut self, id: &str, path: &str) -> Result<(), tonic::Status> {
        let request =
            csi::NodeUnstageVolumeRequest { volume_id: id.into(), staging_target_path: path.into() };
        self.node.node_unstage_volume(request).await.map(drop)
    }

    pub async fn publish(
        &mut self,
        volume: &csi::Volume,
        staging: &str,
        target: &str,
        capability: &csi::VolumeCapability,
        readonly: bool,
    ) -> Result<(), tonic::Status> {
        let request = csi::NodePublishVolumeRequest {
            volume_id: volume.volume_id.clone(),
            staging_target_path: staging.into(),
            target_path: target.into(),
            volume_capability: Some(capability.clone()),
            volume_context: volume.volume_context.clone(),
            readonly,
            ..Default::default()
        };
        self.node.node_publish_volume(request).await.map(drop)
    }

    pub async fn unpublish(&mut self, id: &str, target: &str) -> Result<(), tonic::Status> {
        let request = csi::NodeUnpublishVolumeRequest { volume_id: id.into(), target_path: target.into() };
        self.node.node_unpublish_volume(request).await.map(drop)
    }
}

pub use volume_capability::access_mode::Mode;

pub fn mount(fs_type: &str, mode: Mode) -> csi::VolumeCapability {
    let mount = volume_capability::MountVolume { fs_type: fs_type.into(), ..Default::default() };
    csi::VolumeCapability {
        access_type: Some(volume_capability::AccessType::Mount(mount)),
        access_mode: Some(volume_capability::AccessMode { mode: mode.into() }),
    }
}

pub fn block(mode: Mode) -> csi::VolumeCapability {
    csi::VolumeCapability {
        access_type: Some(volume_capability::AccessType::Block(volume_capability::BlockVolume {})),
        access_mode: Some(volume_capability::AccessMode { mode: mode.into() }),
    }
}

pub fn texts(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// A request for a volume of so many bytes.
pub fn wanted(
    name: &str,
    bytes: i64,
    capability: &csi::VolumeCapability,
    parameters: &[(&str, &str)],
) -> csi::CreateVolumeRequest {
    csi::CreateVolumeRequest {
        name: name.into(),
        capacity_range: Some(csi::CapacityRange { required_bytes: bytes, limit_bytes: 0 }),
        volume_capabilities: vec![capability.clone()],
        parameters: texts(parameters),
        ..Default::default()
    }
}
