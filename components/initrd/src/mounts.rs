//! Mounts: the kernel's file systems first, the verified root and the overlay on its `/etc` later.

use crate::failure::Failure;
use rustix::mount::{MountFlags, mount};
use std::{ffi::CString, fs, os::unix::fs::DirBuilderExt, path::Path};

/// Holds the upper layer of `/etc`; it moves to the new root with `/run`.
const ETC_LAYER: &str = "/run/cairn/etc";

/// Mounts `/proc`, `/sys`, `/dev` and `/run`, with the options that systemd would use.
pub(crate) fn early() -> Result<(), Failure> {
    let hardened = MountFlags::NOSUID | MountFlags::NODEV;
    let sealed = hardened | MountFlags::NOEXEC;
    for (kind, target, flags, options) in [
        ("proc", "/proc", sealed, None),
        ("sysfs", "/sys", sealed, None),
        ("devtmpfs", "/dev", MountFlags::NOSUID, Some(c"mode=0755")),
        ("tmpfs", "/run", hardened, Some(c"mode=0755,size=20%,nr_inodes=800k")),
    ] {
        make_dir(target, 0o755)?;
        match mount(kind, target, kind, flags, options) {
            // A kernel with CONFIG_DEVTMPFS_MOUNT mounts /dev by itself.
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            Err(error) => return Err(Failure::io("mount", target)(error)),
        }
    }
    Ok(())
}

/// A kernel that would hang after a panic reboots instead, so that a block that fails verification ends in
/// the boot counter's hands. A value from the command line (`panic=`) stands.
pub(crate) fn reboot_after_panic() {
    const KEY: &str = "/proc/sys/kernel/panic";
    if fs::read_to_string(KEY).is_ok_and(|seconds| seconds.trim() == "0") {
        let _ = fs::write(KEY, "10");
    }
}

/// Mounts the squashfs of the verified device.
pub(crate) fn root(device: &Path, target: &Path) -> Result<(), Failure> {
    make_dir(target, 0o755)?;
    mount(device, target, "squashfs", MountFlags::RDONLY, None)
        .map_err(Failure::io("mount (the image is damaged, or its squashfs is not supported)", device))
}

/// Lays a tmpfs over the `/etc` of the new root: `/etc` can be written, and forgets at the next boot.
pub(crate) fn writable_etc(root: &Path) -> Result<(), Failure> {
    let etc = root.join("etc");
    let (upper, work) = (format!("{ETC_LAYER}/upper"), format!("{ETC_LAYER}/work"));
    make_dir("/run/cairn", 0o755)?;
    // The layer behind the mount is nobody's business; the merged directory takes the mode of `upper`.
    make_dir(ETC_LAYER, 0o700)?;
    make_dir(&upper, 0o755)?;
    make_dir(&work, 0o700)?;
    let options = format!("lowerdir={},upperdir={upper},workdir={work}", etc.display());
    let options = CString::new(options).map_err(Failure::io("mount an overlay on", &etc))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("overlay", &etc, "overlay", flags, options.as_c_str())
        .map_err(Failure::io("mount an overlay on", &etc))
}

fn make_dir(path: impl AsRef<Path>, mode: u32) -> Result<(), Failure> {
    let path = path.as_ref();
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Failure::io("create", path)(error))
        }
        _ => Ok(()),
    }
}
