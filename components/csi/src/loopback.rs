//! Loop devices: an image file as a block device (linux/loop.h, loop(4)).
//!
//! A device is found again by the file behind it, so none is kept in a record, and a driver that died in the middle
//! leaves none behind that the next one does not find.
#![allow(unsafe_code)] // The ioctls have no wrapper.

use crate::error::{During, Fault};
use rustix::{
    fd::{AsRawFd, OwnedFd},
    fs::{Mode, OFlags},
    io::Errno,
    ioctl::{Getter, IntegerSetter, NoArg, Setter, ioctl},
};
use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

const CLR_FD: u32 = 0x4c01;
const GET_STATUS64: u32 = 0x4c05;
const SET_CAPACITY: u32 = 0x4c07;
const CONFIGURE: u32 = 0x4c0a;
const CTL_GET_FREE: u32 = 0x4c82;

const READ_ONLY: u32 = 1;
const DIRECT_IO: u32 = 16;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

const NO_INFO: Info = Info {
    device: 0,
    inode: 0,
    rdevice: 0,
    offset: 0,
    size_limit: 0,
    number: 0,
    encrypt_type: 0,
    encrypt_key_size: 0,
    flags: 0,
    file_name: [0; 64],
    crypt_name: [0; 64],
    encrypt_key: [0; 32],
    init: [0; 2],
};

/// How often another may take the free device first.
const ATTEMPTS: u32 = 64;

fn open(path: &Path, access: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, access | OFlags::CLOEXEC, Mode::empty())
}

/// The device behind which `image` is, made if there is none. Reads and writes go past the page cache of the file
/// below where its file system can do that.
///
/// # Errors
/// If there are no loop devices, or the image cannot be opened.
pub fn attach(image: &Path, read_only: bool) -> Result<PathBuf, Fault> {
    if let Some(device) = find(image)? {
        return Ok(device);
    }
    let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
    let file = open(image, access | OFlags::NOFOLLOW).during(|| format!("open {}", image.display()))?;
    let control = open(Path::new("/dev/loop-control"), OFlags::RDWR)
        .during(|| "open /dev/loop-control (is the module `loop` loaded?)".to_owned())?;
    for _ in 0..ATTEMPTS {
        // SAFETY: LOOP_CTL_GET_FREE takes no argument; its result is the number of a device.
        let number =
            unsafe { ioctl(&control, FreeNumber) }.during(|| "find a free loop device".to_owned())?;
        let device = PathBuf::from(format!("/dev/loop{number}"));
        let opened = open(&device, access).during(|| format!("open {}", device.display()))?;
        let flags = DIRECT_IO | if read_only { READ_ONLY } else { 0 };
        let config = Config {
            fd: file.as_raw_fd().cast_unsigned(),
            block_size: 0,
            info: Info { flags, ..NO_INFO },
            reserved: [0; 8],
        };
        // SAFETY: LOOP_CONFIGURE reads a `struct loop_config`, whose layout `Config` has.
        match unsafe { ioctl(&opened, Setter::<CONFIGURE, Config>::new(config)) } {
            Ok(()) => return Ok(device),
            Err(Errno::BUSY) => {}
            Err(error) => {
                return Err(error).during(|| format!("attach {} to {}", image.display(), device.display()));
            }
        }
    }
    Err(Fault::Exhausted("every free loop device was taken by somebody else".to_owned()))
}

/// Lets go of the device behind which `image` is; none is fine. While it is open elsewhere the kernel waits with it.
///
/// # Errors
/// If the device cannot be opened.
pub fn detach(image: &Path) -> Result<(), Fault> {
    match find(image)? {
        Some(device) => clear(&device),
        None => Ok(()),
    }
}

fn clear(device: &Path) -> Result<(), Fault> {
    let opened = open(device, OFlags::RDONLY).during(|| format!("open {}", device.display()))?;
    // SAFETY: LOOP_CLR_FD takes no argument.
    match unsafe { ioctl(&opened, NoArg::<CLR_FD>::new()) } {
        Ok(()) | Err(Errno::NXIO) => Ok(()),
        Err(error) => Err(error).during(|| format!("detach {}", device.display())),
    }
}

/// Makes a device as large as the file behind it has become.
///
/// # Errors
/// The kernel's.
pub fn resize(device: &Path) -> Result<(), Fault> {
    let opened = open(device, OFlags::RDONLY).during(|| format!("open {}", device.display()))?;
    // SAFETY: LOOP_SET_CAPACITY takes no argument that it reads or writes.
    unsafe { ioctl(&opened, IntegerSetter::<SET_CAPACITY>::new_usize(0)) }
        .during(|| format!("resize {}", device.display()))
}

/// The device behind which `image` is.
///
/// # Errors
/// If the image or /sys cannot be read.
pub fn find(image: &Path) -> Result<Option<PathBuf>, Fault> {
    let wanted = fs::metadata(image).during(|| format!("look at {}", image.display()))?;
    Ok(attached()?
        .into_iter()
        .find(|held| held.identity == (wanted.dev(), wanted.ino()))
        .map(|held| held.device))
}

/// Lets go of every device whose file is below `directory` and that `keep` does not want, also if the file is
/// removed.
///
/// # Errors
/// If /sys cannot be read, or a device cannot be let go.
pub fn detach_below(directory: &Path, keep: impl Fn(&Path) -> bool) -> Result<(), Fault> {
    for held in attached()? {
        if held.file.starts_with(directory) && !keep(&held.file) {
            tracing::info!(device = %held.device.display(), file = %held.file.display(), "loop device let go");
            clear(&held.device)?;
        }
    }
    Ok(())
}

/// A device in use.
struct Attached {
    device: PathBuf,
    /// As the kernel knew its name.
    file: PathBuf,
    /// Device number and inode of the file.
    identity: (u64, u64),
}

fn attached() -> Result<Vec<Attached>, Fault> {
    let mut found = Vec::new();
    let entries = match fs::read_dir("/sys/block") {
        Err(error) => return Err(error).during(|| "read /sys/block".to_owned()),
        Ok(entries) => entries.flatten(),
    };
    for entry in entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"loop")) {
        let Ok(file) = fs::read_to_string(entry.path().join("loop/backing_file")) else { continue };
        let file = file.trim_end_matches('\n');
        let device = Path::new("/dev").join(entry.file_name());
        // It may go while we look.
        let Ok(info) = status(&device) else { continue };
        found.push(Attached {
            device,
            file: file.strip_suffix(" (deleted)").unwrap_or(file).into(),
            identity: (info.device, info.inode),
        });
    }
    Ok(found)
}

fn status(device: &Path) -> io::Result<Info> {
    let opened = open(device, OFlags::RDONLY)?;
    // SAFETY: LOOP_GET_STATUS64 writes a `struct loop_info64`, whose layout `Info` has.
    Ok(unsafe { ioctl(&opened, Getter::<GET_STATUS64, Info>::new()) }?)
}

/// Bytes of a block device.
///
/// # Errors
/// If it is none, or cannot be read.
pub fn size(device: &Path) -> Result<u64, Fault> {
    let measure = || {
        let file = fs::File::open(device)?;
        if !file.metadata()?.file_type().is_block_device() {
            return Err(io::Error::other("it is no block device"));
        }
        io::Seek::seek(&mut &file, io::SeekFrom::End(0))
    };
    measure().during(|| format!("measure {}", device.display()))
}

/// LOOP_CTL_GET_FREE: the number comes as the call's result.
struct FreeNumber;

// SAFETY: the call has no argument, and its result is a number.
unsafe impl rustix::ioctl::Ioctl for FreeNumber {
    type Output = i32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> rustix::ioctl::Opcode {
        CTL_GET_FREE
    }

    fn as_ptr(&mut self) -> *mut rustix::ffi::c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        out: rustix::ioctl::IoctlOutput,
        _: *mut rustix::ffi::c_void,
    ) -> rustix::io::Result<i32> {
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layouts_are_the_kernels() {
        assert_eq!(size_of::<Info>(), 232);
        assert_eq!(size_of::<Config>(), 304);
    }
}
