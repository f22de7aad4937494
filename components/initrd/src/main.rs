//! `/init` of the initramfs: from a freshly booted kernel to systemd on a verified root, in one pass.
//!
//! ```text
//! mount /proc /sys /dev /run → load modules → find the two partitions → dm-verity → squashfs
//!   → overlay on /etc → move everything over → exec systemd
//! ```
//!
//! There is no other program and no shell. Whatever fails is printed on the console with its causes, and the
//! machine reboots, so that boot counting can fall back to the other slot.

mod console;
mod disks;
mod failure;
mod handover;
mod mapper;
mod mounts;
mod partitions;
mod plug;

use cairn_initrd::cmdline::CommandLine;
use console::Console;
use failure::Failure;
use std::path::Path;

/// Where the root file system is put together before it becomes `/`.
const NEW_ROOT: &str = "/sysroot";

fn main() {
    if !rustix::process::getpid().is_init() {
        eprintln!("cairn-initrd is the /init of an initramfs and does nothing as any other process");
        std::process::exit(2);
    }
    std::panic::set_hook(Box::new(|panic| failure::end_boot(&format!("internal error: {panic}"))));
    let Err(failure) = boot();
    failure::end_boot(&failure.chain());
}

/// The whole boot. Returns only if it fails: success replaces the process.
fn boot() -> Result<std::convert::Infallible, Failure> {
    mounts::early()?;
    let text = std::fs::read_to_string("/proc/cmdline").map_err(Failure::io("read", "/proc/cmdline"))?;
    let command_line = CommandLine::parse(&text)?;
    let mut console = Console::open(command_line.debug);
    mounts::reboot_after_panic();

    let mut plug = plug::Plug::new()?;
    plug.load_for_devices(&mut console);
    plug.load_always(&mut console);
    console.step("modules loaded");

    let found = disks::wait(&command_line, &mut plug, &mut console)?;
    console.step(&format!("root on {}, hash tree on {}", found.data.name, found.hash.name));

    let device = mapper::activate(&found, command_line.root_hash, &mut console)?;
    console.step("dm-verity active");

    let root = Path::new(NEW_ROOT);
    mounts::root(&device, root)?;
    mounts::writable_etc(root)?;
    console.step("root mounted");
    handover::switch_root(root, console)
}
