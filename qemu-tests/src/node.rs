//! A node under test: a machine, its disk, and the way in.

use crate::{
    error::Fault,
    guest::{self, Guest},
    lab::Lab,
    management::Address,
    pace::Pace,
    peer::{self, Peer},
    qemu::{
        arguments::{Boot, Console, Credential, Disk, DiskFormat, Forward, MachineSpec, NETWORK, WireEnds},
        firmware,
        machine::Machine,
        overlay,
        serial::{Line, Mark, Seen},
    },
    scenario::Stop,
};
use cairn_contract::{console, machine::Storage, paths};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::Instant;

/// Ends a boot without a node.
const KERNEL_PANIC: &str = "Kernel panic";
/// How long the console of the reference machine may be silent during a boot.
const SILENCE: Duration = Duration::from_secs(20);
/// The same after a restart: it shuts down first, without a word.
const SILENCE_AFTER_RESTART: Duration = Duration::from_secs(50);
/// The disk as the guest sees it: room for a state partition behind the image.
const DISK_SIZE: u64 = 6 << 30;
/// The second disk of a machine that has one, as udev calls it.
pub(crate) const SECOND_DISK: &str = "/dev/disk/by-id/virtio-disk1";
/// Host port that a pod publishes, and ports that nothing should answer on.
pub(crate) const PUBLISHED_PORT: u16 = 30080;
/// SSH, kubelet, kubelet read-only, etcd, rpcbind, the registry of another runtime's habits.
pub(crate) const CLOSED_PORTS: [u16; 5] = [22, 10250, 10255, 2379, 111];

/// How a machine is made.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Through UEFI firmware and the boot loader on the disk, rather than straight into the kernel.
    pub firmware: bool,
    /// Offsets in the disk at which one bit is wrong.
    pub flips: Vec<u64>,
    /// Guest ports to be reached from the host, besides the management API.
    pub ports: Vec<u16>,
    /// A second network card, with a neighbour at the other end of its wire.
    pub neighbour: bool,
    /// A second disk, blank, of so many bytes: [`SECOND_DISK`].
    pub second_disk: Option<u64>,
    /// `[storage]` of its machine config.
    pub storage: Storage,
}

impl Setup {
    /// The machine that scenarios share.
    pub fn shared() -> Self {
        Self {
            ports: std::iter::once(PUBLISHED_PORT).chain(CLOSED_PORTS).collect(),
            neighbour: true,
            ..Self::default()
        }
    }
}

/// When a boot got where, since power-on or the beginning of the reboot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BootTimes {
    /// The initrd handed over.
    pub switch_root: Duration,
    /// The CRI runtime was ready.
    pub runtime_ready: Duration,
    /// Every required check was good.
    pub node_ready: Duration,
}

/// A machine that was powered on.
#[derive(Debug)]
pub struct Node {
    machine: Machine,
    peer: Option<Peer>,
    guest: Guest,
    address: Address,
    boot: BootTimes,
    start: Start,
    pace: Pace,
}

/// Where the present boot began.
#[derive(Debug, Clone, Copy)]
struct Start {
    mark: Mark,
    at: Duration,
    /// How long its console may be silent.
    silence: Duration,
}

impl Node {
    /// Powers a machine on, with its files in `lab.work/name`; does not wait for anything.
    pub async fn power_on(lab: &Lab, setup: Setup, name: &str) -> Result<Self, Stop> {
        let directory = lab.work.join(name);
        std::fs::create_dir_all(&directory).map_err(Fault::io(format!("make {}", directory.display())))?;
        let spec = machine_spec(lab, &setup, name, &directory)?;
        let ends = spec.wire.as_ref();
        let peer = ends.map(|wire| Peer::start(&wire.peer, &wire.qemu)).transpose()?;
        let machine = Machine::start(&lab.program, spec, &directory, lab.niceness).await?;
        let port = machine
            .port(paths::MANAGEMENT_PORT)
            .ok_or_else(|| Fault::Qemu("no port leads to the management API".to_owned()))?;
        let address = guest::forwarded(port, &lab.identity.ca, &lab.identity.admin)?;
        let pace = lab.pace();
        let start = Start { mark: Mark::default(), at: Duration::ZERO, silence: SILENCE };
        let guest = Guest::new(&address, pace);
        let mut node = Self { machine, peer, guest, address, boot: BootTimes::default(), start, pace };
        node.watch_switch_root_for(lab).await?;
        Ok(node)
    }

    /// Waits until the initrd hands over, which measures the machine's speed. A boot that does not get there is
    /// judged by whoever waits for more: some scenarios want it to fail.
    async fn watch_switch_root_for(&mut self, lab: &Lab) -> Result<(), Stop> {
        if let Ok((0, line)) =
            self.line(&[console::SWITCH_ROOT, console::INITRD_FAILED, KERNEL_PANIC], SILENCE).await
        {
            self.boot.switch_root = line.at;
            // Firmware and boot loader are not what the reference is about, but they are not slow either.
            self.pace = Pace::measured(line.at);
            lab.measured(self.pace);
            self.guest = Guest::new(&self.address, self.pace);
        }
        Ok(())
    }

    /// Waits until the node says that it is ready and its management API answers.
    pub async fn ready(&mut self) -> Result<BootTimes, Stop> {
        let silence = self.start.silence;
        let start = self.start.at;
        let since = |line: Line| line.at.saturating_sub(start);
        self.boot.switch_root = since(self.milestone(console::SWITCH_ROOT, silence).await?);
        self.boot.runtime_ready = since(self.milestone(console::RUNTIME_READY, silence).await?);
        self.boot.node_ready = since(self.milestone(console::NODE_READY, silence).await?);
        self.guest.reached().await?;
        Ok(self.boot)
    }

    /// Waits for a line of the present boot, or for the boot to fail.
    async fn milestone(&self, text: &'static str, silence: Duration) -> Result<Line, Stop> {
        let (index, line) = self.line(&[text, console::INITRD_FAILED, KERNEL_PANIC], silence).await?;
        if index == 0 {
            Ok(line)
        } else {
            Err(Stop::failed(format!("the boot failed: {}\nlast lines:\n{}", line.text, self.tail())))
        }
    }

    /// Waits for one of `texts` on the console since this boot began.
    pub async fn line(&self, texts: &[&str], silence: Duration) -> Result<(usize, Line), Stop> {
        let serial = self.machine.serial().ok_or_else(|| Stop::failed("the console is not captured"))?;
        let deadline = self.pace.deadline(silence);
        match serial.wait_for(self.start.mark, texts, |progress| deadline.expires(progress)).await {
            Seen::Line(index, line) => Ok((index, line)),
            Seen::Closed => Err(Stop::failed(format!(
                "the machine went off before `{}`; last lines:\n{}",
                texts[0],
                self.tail()
            ))),
            Seen::TimedOut { silent } => Err(Stop::failed(format!(
                "no `{}` on the console, which has been silent for {:.0} s; last lines:\n{}",
                texts[0],
                silent.as_secs_f64(),
                self.tail()
            ))),
        }
    }

    /// The last lines of the console.
    pub fn tail(&self) -> String {
        self.machine.serial().map(|serial| serial.tail(15)).unwrap_or_default()
    }

    /// Everything on the console since this boot began.
    pub fn console(&self) -> Vec<Line> {
        self.machine.serial().map(|serial| serial.since(self.start.mark)).unwrap_or_default()
    }

    /// Asks the node to reboot and waits until it is ready again.
    pub async fn reboot(&mut self) -> Result<BootTimes, Stop> {
        if let Some(serial) = self.machine.serial() {
            self.start.mark = serial.mark();
        }
        self.guest.reboot().await?;
        self.start.at = Instant::now() - self.machine.power_on();
        self.start.silence = SILENCE_AFTER_RESTART;
        // Connections to the machine that was.
        self.guest = Guest::new(&self.address, self.pace);
        self.ready().await
    }

    /// Presses the reset button, as a power cut would, and waits until the node is ready again.
    pub async fn reset(&mut self) -> Result<BootTimes, Stop> {
        if let Some(serial) = self.machine.serial() {
            self.start.mark = serial.mark();
        }
        self.machine.monitor().reset().await?;
        self.start.at = Instant::now() - self.machine.power_on();
        self.start.silence = SILENCE_AFTER_RESTART;
        self.guest = Guest::new(&self.address, self.pace);
        self.ready().await
    }

    /// Pulls the network cable: what is sent is lost, connections do not know.
    pub async fn pull_cable(&mut self) -> Result<(), Stop> {
        Ok(self.machine.monitor().set_link(NETWORK, false).await?)
    }

    /// Plugs it in again. Connections of the harness may have been given up meanwhile, so they are made anew.
    pub async fn plug_cable(&mut self) -> Result<(), Stop> {
        self.machine.monitor().set_link(NETWORK, true).await?;
        self.guest = Guest::new(&self.address, self.pace);
        self.guest.reached().await.map(drop)
    }

    /// Freezes the machine: nothing in it runs or knows.
    pub async fn freeze(&mut self) -> Result<(), Stop> {
        Ok(self.machine.monitor().stop().await?)
    }

    /// Lets it run on.
    pub async fn thaw(&mut self) -> Result<(), Stop> {
        Ok(self.machine.monitor().resume().await?)
    }

    /// The way in.
    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    /// Times of the present boot.
    pub fn boot_times(&self) -> BootTimes {
        self.boot
    }

    /// The host port that leads to `guest`.
    pub fn port(&self, guest: u16) -> Result<u16, Stop> {
        self.machine
            .port(guest)
            .ok_or_else(|| Stop::failed(format!("no host port leads to guest port {guest}")))
    }

    /// The neighbour on the wire of its second network card.
    pub fn peer(&self) -> Result<&Peer, Stop> {
        self.peer.as_ref().ok_or_else(|| Stop::failed("this machine has no neighbour"))
    }

    /// Its files on the host.
    pub fn directory(&self) -> &Path {
        self.machine.directory()
    }

    /// QEMU runs.
    pub fn is_running(&mut self) -> bool {
        self.machine.is_running()
    }

    /// Powers off in an orderly way, or else at once.
    pub async fn shut_down(&mut self) {
        self.machine.power_down(self.pace.scale(Duration::from_secs(10))).await;
    }

    /// Writes the node's journal beside its console log, if it still gives it.
    pub async fn save_journal(&self) {
        if let Ok(entries) = self.guest.journal("", 2000).await {
            let text: String = entries
                .iter()
                .map(|entry| {
                    let seconds = entry.realtime_usec / 1_000_000;
                    let micros = entry.realtime_usec % 1_000_000;
                    format!("{seconds}.{micros:06} {} {}: {}\n", entry.unit, entry.identifier, entry.message)
                })
                .collect();
            // A help for people; the failure is reported with or without it.
            let _ = std::fs::write(self.directory().join("journal.log"), text);
        }
    }
}

fn machine_spec(lab: &Lab, setup: &Setup, name: &str, directory: &Path) -> Result<MachineSpec, Stop> {
    let disk = directory.join("disk.qcow2");
    let size = DISK_SIZE.max(lab.image.manifest.sizes.raw + (4 << 30));
    overlay::create(&disk, &lab.image.raw, size, &setup.flips)?;
    let mut disks = vec![Disk { path: disk, format: DiskFormat::Qcow2, read_only: false }];
    if let Some(bytes) = setup.second_disk {
        let path = directory.join("second.raw");
        let made = std::fs::File::create(&path).and_then(|file| file.set_len(bytes));
        made.map_err(Fault::io(format!("make {}", path.display())))?;
        disks.push(Disk { path, format: DiskFormat::Raw, read_only: false });
    }
    let boot = if setup.firmware {
        firmware_boot(directory)?
    } else {
        Boot::Direct {
            kernel: lab.uki.kernel.clone(),
            initrd: lab.uki.initrd.clone(),
            command_line: lab.uki.command_line.clone(),
        }
    };
    let credential = directory.join("machine.toml");
    let mut config = lab.identity.machine_config(Some(lab.registry.address().port()));
    config.storage.clone_from(&setup.storage);
    if setup.neighbour {
        config.network.interfaces.push(peer::node_interface());
    }
    let config = toml::to_string(&config).map_err(|error| Fault::Certificates(error.to_string()))?;
    std::fs::write(&credential, config).map_err(Fault::io(format!("write {}", credential.display())))?;
    let ports = std::iter::once(paths::MANAGEMENT_PORT).chain(setup.ports.iter().copied());
    Ok(MachineSpec {
        name: format!("cairn-{name}"),
        accelerator: lab.accelerator,
        cpus: lab.cpus,
        memory_mib: lab.memory_mib,
        boot,
        disks,
        forwards: ports.map(|guest| Forward { host: 0, guest }).collect(),
        wire: setup
            .neighbour
            .then(|| WireEnds { qemu: directory.join("wire.qemu"), peer: directory.join("wire.peer") }),
        credentials: vec![Credential { name: paths::MACHINE_CREDENTIAL.to_owned(), file: credential }],
        console: Console::Captured,
        monitor: directory.join("qmp"),
    })
}

/// The installed firmware, with a variable store of this machine's own.
pub(crate) fn firmware_boot(directory: &Path) -> Result<Boot, crate::error::Error> {
    let firmware = firmware::locate()?;
    let variables: PathBuf = directory.join("variables.fd");
    std::fs::copy(&firmware.variables, &variables)
        .map_err(Fault::io(format!("copy {}", firmware.variables.display())))?;
    Ok(Boot::Firmware { code: firmware.code, variables })
}
