//! From the initramfs to the new root, and to systemd.

use crate::console::Console;
use crate::failure::Failure;
use cairn_contract::console::SWITCH_ROOT;
use rustix::mount::mount_move;
use std::convert::Infallible;
use std::os::unix::{fs::MetadataExt, process::CommandExt};
use std::{fs, io, path::Path, process::Command};

/// Programs that may take over, in order.
const INIT: [&str; 2] = ["/usr/lib/systemd/systemd", "/sbin/init"];

/// Moves the mounts over, frees the initramfs, makes `root` the root directory and starts its init.
pub(crate) fn switch_root(root: &Path, mut console: Console) -> Result<Infallible, Failure> {
    for name in ["dev", "proc", "sys", "run"] {
        let target = root.join(name);
        mount_move(Path::new("/").join(name), &target).map_err(Failure::io("move a mount to", &target))?;
    }
    free_initramfs();
    std::env::set_current_dir(root).map_err(Failure::io("enter", root))?;
    mount_move(".", "/").map_err(Failure::io("make the root of", root))?;
    rustix::process::chroot(".").map_err(Failure::io("chroot to", root))?;
    std::env::set_current_dir("/").map_err(Failure::io("enter", "/"))?;

    console.announce(SWITCH_ROOT);
    drop(console);
    // Returns only if the program is not there or cannot be run.
    let failed = INIT.map(|program| Command::new(program).exec());
    let [error, _] = failed;
    Err(Failure::io::<io::Error>("execute", INIT[0])(error))
}

/// Deletes the initramfs's files: they are in memory, and nothing can reach them any more. The device of the
/// directory tells them from what is mounted below.
fn free_initramfs() {
    if let Ok(root) = fs::symlink_metadata("/") {
        // The new root and all that moved into it are on other devices.
        remove_below(Path::new("/"), root.dev());
    }
}

fn remove_below(directory: &Path, device: u64) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        // `metadata` of an entry does not follow links.
        match entry.metadata() {
            Ok(found) if found.dev() != device => {}
            Ok(found) if found.is_dir() => {
                remove_below(&entry.path(), device);
                let _ = fs::remove_dir(entry.path());
            }
            Ok(_) => drop(fs::remove_file(entry.path())),
            Err(_) => {}
        }
    }
}
