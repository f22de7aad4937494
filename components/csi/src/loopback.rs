//! Loop devices: an image file as a block device (linux/loop.h, loop(4)).
//!
//! A device is found again by the file behind it, as /sys names it, so none is kept in a record, and a driver that died
//! in the middle leaves none behind that the next one does not find.
#![allow(unsafe_code)] // The ioctls have no wrapper.

use crate::error::{During, Fault};
use rustix::{
    fd::{AsRawFd, OwnedFd},
    fs::{Mode, OFlags},
    io::Errno,
    ioctl::{IntegerSetter, NoArg, Setter, ioctl},
};
use std::{
    ffi::OsStr,
    fs, io,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    time::Duration,
};

const CLR_FD: u32 = 0x4c01;
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

/// Bytes in a sector. The kernel's own choice follows the file: that of a file which shares blocks can be 4096, and what is
/// on the volume was made for another. Where direct I/O cannot do with it, the page cache is used.
const SECTOR: u32 = 512;

/// How often another may take the free device first.
const ATTEMPTS: u32 = 64;
/// How long, in all, a device that was let go may take to be gone: five seconds.
const GOING_ATTEMPTS: u32 = 500;
const GOING_PAUSE: Duration = Duration::from_millis(10);

const SYS_BLOCK: &str = "/sys/block";

fn open(path: &Path, access: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, access | OFlags::CLOEXEC, Mode::empty())
}

/// The device behind which `image` is, made if there is none. Reads and writes go past the page cache of the file
/// below where its file system can do that.
///
/// # Errors
/// If there are no loop devices, or the image cannot be opened.
pub fn attach(image: &Path, read_only: bool) -> Result<PathBuf, Fault> {
    if let Some(held) = find_settled(image)? {
        return Ok(held);
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
        let opened = match open(&device, access) {
            // Another took it and is letting go of it.
            Err(Errno::NXIO) => continue,
            opened => opened.during(|| format!("open {}", device.display()))?,
        };
        let flags = DIRECT_IO | if read_only { READ_ONLY } else { 0 };
        let config = Config {
            fd: file.as_raw_fd().cast_unsigned(),
            block_size: SECTOR,
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

/// Lets go of the device behind which `image` is, and waits until it is gone; none is fine.
///
/// # Errors
/// [`Fault::Precondition`] if somebody keeps it open.
pub fn detach(image: &Path) -> Result<(), Fault> {
    for held in attached()?.iter().filter(|held| held.file == image) {
        clear(held)?;
    }
    match find_settled(image)? {
        None => Ok(()),
        Some(device) => {
            Err(Fault::Precondition(format!("{} is in use by a process of the node", device.display())))
        }
    }
}

/// [`find`], but not a device that is about to go: the kernel keeps one that was let go for as long as anybody, a program
/// that looks at new disks, say, has it open. Who used that would find it gone, or another file behind it.
fn find_settled(image: &Path) -> Result<Option<PathBuf>, Fault> {
    for _ in 0..GOING_ATTEMPTS {
        match attached()?.into_iter().find(|held| held.file == image) {
            None => return Ok(None),
            Some(held) if !held.going => return Ok(Some(held.device)),
            Some(_) => std::thread::sleep(GOING_PAUSE),
        }
    }
    Err(Fault::Precondition(format!(
        "the loop device of {} was let go, but a process of the node has it open",
        image.display()
    )))
}

/// Lets go of a device, if what was seen behind it is there still.
fn clear(held: &Attached) -> Result<(), Fault> {
    let device = &held.device;
    let opened = match open(device, OFlags::RDONLY) {
        Err(Errno::NXIO | Errno::NOENT) => return Ok(()),
        opened => opened.during(|| format!("open {}", device.display()))?,
    };
    // It may have gone, and come back with another's file, since it was seen. What is behind it now stays: the kernel lets
    // go of nothing that is open.
    if Attached::see(&Path::new(SYS_BLOCK).join(held.name())).is_none_or(|now| now.file != held.file) {
        return Ok(());
    }
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

/// Whether a device's path is a loop device's.
pub fn is_one(device: &Path) -> bool {
    device.strip_prefix("/dev").is_ok_and(|name| name.as_os_str().as_encoded_bytes().starts_with(b"loop"))
}

/// The device behind which `image` is; none, also if there is no image.
///
/// # Errors
/// If /sys cannot be read.
pub fn find(image: &Path) -> Result<Option<PathBuf>, Fault> {
    Ok(attached()?.into_iter().find(|held| held.file == image && !held.going).map(|held| held.device))
}

/// Lets go of every device whose file is below `directory` and that `keep` does not want, also if the file is
/// removed.
///
/// # Errors
/// If /sys cannot be read, or a device cannot be let go.
pub fn detach_below(directory: &Path, keep: impl Fn(&Path) -> bool) -> Result<(), Fault> {
    for held in attached()? {
        if held.file.starts_with(directory) && !held.going && !keep(&held.file) {
            tracing::info!(device = %held.device.display(), file = %held.file.display(), "loop device let go");
            clear(&held)?;
        }
    }
    Ok(())
}

/// A device in use. Nothing is opened to find it: that would hold up whoever is letting go of it.
struct Attached {
    device: PathBuf,
    /// The file behind it, by its name now.
    file: PathBuf,
    /// It was let go, and is there only until nobody has it open.
    going: bool,
}

impl Attached {
    /// What is behind a device, by its directory in /sys. The kernel takes the attributes of a device that goes away one after
    /// the other, and may give it to another meanwhile: what is not the same after as before is read again.
    fn see(directory: &Path) -> Option<Self> {
        let attribute = |name: &str| fs::read_to_string(directory.join("loop").join(name)).ok();
        loop {
            let file = attribute("backing_file")?;
            // We never ask for this ourselves.
            let going = attribute("autoclear")?.trim() == "1";
            if attribute("backing_file")? != file {
                continue;
            }
            let file = file.trim_end_matches('\n');
            return Some(Self {
                device: Path::new("/dev").join(directory.file_name()?),
                file: file.strip_suffix(" (deleted)").unwrap_or(file).into(),
                going,
            });
        }
    }

    fn name(&self) -> &OsStr {
        self.device.file_name().unwrap_or_default()
    }
}

fn attached() -> Result<Vec<Attached>, Fault> {
    let entries = fs::read_dir(SYS_BLOCK).during(|| format!("read {SYS_BLOCK}"))?;
    let loops = entries.flatten().filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"loop"));
    Ok(loops.filter_map(|entry| Attached::see(&entry.path())).collect())
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

    #[test]
    fn a_device_that_goes_while_it_is_read_is_gone() {
        let sys = tempfile::tempdir().unwrap();
        let (device, attributes) = (sys.path().join("loop7"), sys.path().join("loop7/loop"));
        fs::create_dir_all(&attributes).unwrap();
        let see = || Attached::see(&device).map(|held| (held.device, held.file, held.going));
        assert_eq!(see(), None);
        fs::write(attributes.join("backing_file"), "/pool/a (deleted)\n").unwrap();
        assert_eq!(see(), None, "its other attributes are gone already");
        for (autoclear, going) in [("0\n", false), ("1\n", true)] {
            fs::write(attributes.join("autoclear"), autoclear).unwrap();
            assert_eq!(see(), Some(("/dev/loop7".into(), "/pool/a".into(), going)));
        }
    }

    #[test]
    fn a_device_that_has_become_anothers_is_not_let_go() {
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/loop-control").exists() {
            println!("skipped: needs root and loop devices");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        fs::File::create(&image).unwrap().set_len(1 << 20).unwrap();
        let device = attach(&image, false).unwrap();
        let seen_before = Attached { device: device.clone(), file: "/pool/a".into(), going: true };
        clear(&seen_before).unwrap();
        assert_eq!(find(&image).unwrap(), Some(device.clone()));
        assert_eq!(size(&device).unwrap(), 1 << 20);
        detach(&image).unwrap();
        assert_eq!(find(&image).unwrap(), None);
    }
}
