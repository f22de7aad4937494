//! A machine as data, and QEMU's command line for it. No I/O.

use super::accelerator::Accelerator;
use std::{
    ffi::OsString,
    net::{Ipv4Addr, SocketAddrV4},
    path::PathBuf,
};

/// How the kernel gets into the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// QEMU loads kernel and initrd itself: no firmware boot manager, no boot loader.
    Direct {
        /// `.linux` of the UKI.
        kernel: PathBuf,
        /// `.initrd` of the UKI.
        initrd: PathBuf,
        /// `.cmdline` of the UKI, unchanged.
        command_line: String,
    },
    /// UEFI firmware finds the ESP on the disk, and in it the boot loader, as on a real machine.
    Firmware {
        /// Read-only flash.
        code: PathBuf,
        /// This machine's own variable store.
        variables: PathBuf,
    },
    /// Nothing to boot: the firmware runs and stops there.
    None,
}

/// The format of a disk file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFormat {
    /// Bytes as they are.
    Raw,
    /// QEMU copy-on-write, our overlays.
    Qcow2,
}

/// One virtio disk, in order: the first is `vda`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Backing file on the host.
    pub path: PathBuf,
    /// Its format.
    pub format: DiskFormat,
    /// The guest cannot write.
    pub read_only: bool,
}

/// A TCP port of the host's loopback that leads into the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// On 127.0.0.1.
    pub host: u16,
    /// On the guest's first DHCP address.
    pub guest: u16,
}

/// Where the serial console goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Console {
    /// QEMU's standard output, which the harness reads.
    Captured,
    /// The terminal of whoever runs us, shared with QEMU's monitor (Ctrl-A c).
    Terminal,
}

/// A systemd credential, handed over by fw_cfg: SMBIOS strings are limited in length, and a document with
/// three certificates in it would be near the limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// `cairn.machine`.
    pub name: String,
    /// File with its content.
    pub file: PathBuf,
}

/// The wire of the second network card: two datagram sockets, one Ethernet frame a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireEnds {
    /// QEMU's, which it makes.
    pub qemu: PathBuf,
    /// The neighbour's, [`crate::peer::Peer`].
    pub peer: PathBuf,
}

/// What a machine is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineSpec {
    /// Shown in process lists and QEMU's messages.
    pub name: String,
    /// KVM or TCG.
    pub accelerator: Accelerator,
    /// Virtual CPUs.
    pub cpus: u32,
    /// RAM.
    pub memory_mib: u32,
    /// How it boots.
    pub boot: Boot,
    /// Disks.
    pub disks: Vec<Disk>,
    /// Ports into the guest.
    pub forwards: Vec<Forward>,
    /// A second network card, and where it leads.
    pub wire: Option<WireEnds>,
    /// Credentials.
    pub credentials: Vec<Credential>,
    /// Serial console.
    pub console: Console,
    /// Monitor socket; QEMU makes it.
    pub monitor: PathBuf,
}

/// Id of the one network card's cable.
pub const NETWORK: &str = "net0";

/// Identity of the machine, as firmware has it: the image takes its machine id from there.
const MACHINE: &str = "ca170000-0000-4000-8000-525400ca1701";

impl MachineSpec {
    /// QEMU's arguments, without the program.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut line = Line::default();
        line.option("-name", format!("{},debug-threads=on", self.name));
        // No default devices, no configuration files of the host: the same machine everywhere.
        line.flag("-nodefaults").flag("-no-user-config");
        line.option("-display", "none");
        line.option("-machine", "q35");
        line.option("-accel", self.accelerator.argument());
        line.option("-cpu", self.accelerator.cpu());
        line.option("-smp", self.cpus.to_string());
        line.option("-m", format!("{}M", self.memory_mib));
        line.option("-uuid", MACHINE);
        self.console(&mut line);
        line.option("-qmp", joined(["unix:".into(), escaped(&self.monitor), ",server=on,wait=off".into()]));
        self.boot(&mut line);
        for (index, disk) in self.disks.iter().enumerate() {
            Self::disk(&mut line, index, disk);
        }
        self.network(&mut line);
        // Without entropy of the host a guest under TCG waits for its own.
        line.option("-device", "virtio-rng-pci");
        for credential in &self.credentials {
            line.option(
                "-fw_cfg",
                joined([
                    format!("name=opt/io.systemd.credentials/{},file=", credential.name).into(),
                    escaped(&credential.file),
                ]),
            );
        }
        line.0
    }

    fn console(&self, line: &mut Line) {
        match self.console {
            Console::Captured => line.option("-serial", "stdio"),
            Console::Terminal => line.option("-serial", "mon:stdio"),
        };
    }

    fn boot(&self, line: &mut Line) {
        match &self.boot {
            Boot::Direct { kernel, initrd, command_line } => {
                line.option("-kernel", kernel).option("-initrd", initrd).option("-append", command_line);
            }
            Boot::Firmware { code, variables } => {
                for (path, read_only) in [(code, ",readonly=on"), (variables, "")] {
                    let head = format!("if=pflash,format=raw{read_only},file=");
                    line.option("-drive", joined([head.into(), escaped(path)]));
                }
            }
            Boot::None => {}
        }
    }

    fn disk(line: &mut Line, index: usize, disk: &Disk) {
        let format = match disk.format {
            DiskFormat::Raw => "raw",
            DiskFormat::Qcow2 => "qcow2",
        };
        let read_only = if disk.read_only { ",readonly=on" } else { "" };
        // An overlay dies with its machine: its writes need not reach the host's disk.
        let head =
            format!("if=none,id=disk{index},format={format},cache=unsafe,discard=unmap{read_only},file=");
        line.option("-drive", joined([head.into(), escaped(&disk.path)]));
        line.option(
            "-device",
            format!("virtio-blk-pci,drive=disk{index},serial=disk{index},bootindex={}", index + 1),
        );
    }

    fn network(&self, line: &mut Line) {
        let mut user = format!("user,id={NETWORK},ipv4=on,ipv6=on");
        for forward in &self.forwards {
            let host = SocketAddrV4::new(Ipv4Addr::LOCALHOST, forward.host);
            user.push_str(&format!(",hostfwd=tcp:{host}-:{}", forward.guest));
        }
        line.option("-netdev", user);
        // The option ROM would have the firmware try to boot from the network.
        let card = format!("virtio-net-pci,netdev={NETWORK},romfile=,mac=52:54:00:ca:17:01");
        line.option("-device", card);
        if let Some(wire) = &self.wire {
            let ends = [
                "dgram,id=net1,local.type=unix,local.path=".into(),
                escaped(&wire.qemu),
                ",remote.type=unix,remote.path=".into(),
                escaped(&wire.peer),
            ];
            line.option("-netdev", joined(ends));
            line.option(
                "-device",
                format!("virtio-net-pci,netdev=net1,romfile=,mac={}", crate::peer::NODE_MAC),
            );
        }
    }
}

#[derive(Default)]
struct Line(Vec<OsString>);

impl Line {
    fn flag(&mut self, flag: &str) -> &mut Self {
        self.0.push(flag.into());
        self
    }

    fn option(&mut self, name: &str, value: impl Into<OsString>) -> &mut Self {
        self.0.push(name.into());
        self.0.push(value.into());
        self
    }
}

fn joined<const N: usize>(parts: [OsString; N]) -> OsString {
    parts.into_iter().collect()
}

/// QEMU splits option values at commas; a doubled comma is a comma.
fn escaped(path: &std::path::Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut bytes = Vec::with_capacity(path.as_os_str().len());
    for byte in path.as_os_str().as_bytes() {
        bytes.push(*byte);
        if *byte == b',' {
            bytes.push(b',');
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(boot: Boot) -> MachineSpec {
        MachineSpec {
            name: "cairn-test".into(),
            accelerator: Accelerator::Tcg,
            cpus: 2,
            memory_mib: 1536,
            boot,
            disks: vec![Disk { path: "/t/a,b.qcow2".into(), format: DiskFormat::Qcow2, read_only: false }],
            forwards: vec![Forward { host: 40001, guest: 50443 }, Forward { host: 40002, guest: 80 }],
            wire: Some(WireEnds { qemu: "/t/wire.qemu".into(), peer: "/t/wire.peer".into() }),
            credentials: vec![Credential { name: "cairn.machine".into(), file: "/t/machine.toml".into() }],
            console: Console::Captured,
            monitor: "/t/qmp".into(),
        }
    }

    fn value_of(arguments: &[OsString], option: &str) -> Vec<String> {
        arguments
            .windows(2)
            .filter(|pair| pair[0] == option)
            .map(|pair| pair[1].to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn direct_boot_passes_the_ukis_command_line_as_one_argument() {
        let command_line = "console=ttyS0 roothash=00 rd.x=\"a, b\"".to_owned();
        let boot = Boot::Direct {
            kernel: "/t/linux".into(),
            initrd: "/t/initrd".into(),
            command_line: command_line.clone(),
        };
        let arguments = spec(boot).arguments();
        assert_eq!(value_of(&arguments, "-append"), [command_line]);
        assert_eq!(value_of(&arguments, "-accel"), ["tcg,thread=multi,tb-size=256"]);
        assert_eq!(value_of(&arguments, "-cpu"), ["max"]);
        assert_eq!(
            value_of(&arguments, "-fw_cfg"),
            ["name=opt/io.systemd.credentials/cairn.machine,file=/t/machine.toml"]
        );
        assert_eq!(
            value_of(&arguments, "-netdev"),
            [
                "user,id=net0,ipv4=on,ipv6=on,hostfwd=tcp:127.0.0.1:40001-:50443,hostfwd=tcp:127.0.0.1:40002-:80",
                "dgram,id=net1,local.type=unix,local.path=/t/wire.qemu,remote.type=unix,remote.path=/t/wire.peer"
            ]
        );
        assert!(arguments.iter().any(|a| a == "-nodefaults"));
    }

    #[test]
    fn firmware_boot_maps_code_read_only_and_has_no_kernel() {
        let arguments =
            spec(Boot::Firmware { code: "/o/code".into(), variables: "/t/vars".into() }).arguments();
        let drives = value_of(&arguments, "-drive");
        assert_eq!(drives[0], "if=pflash,format=raw,readonly=on,file=/o/code");
        assert_eq!(drives[1], "if=pflash,format=raw,file=/t/vars");
        assert!(value_of(&arguments, "-kernel").is_empty());
        assert!(value_of(&arguments, "-device").iter().any(|d| d.contains("romfile=,")));
    }

    #[test]
    fn commas_in_paths_are_doubled() {
        let arguments = spec(Boot::Firmware { code: "/o/c".into(), variables: "/t/v".into() }).arguments();
        assert!(value_of(&arguments, "-drive")[2].ends_with("file=/t/a,,b.qcow2"));
    }
}
