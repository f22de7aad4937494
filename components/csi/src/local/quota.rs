//! Project quotas: directories held to a size by the file system (quotactl(2), linux/quota.h, linux/fs.h).
#![allow(unsafe_code)] // Neither call has a wrapper.

use crate::error::{During, Fault};
use rustix::{
    fd::{AsRawFd, OwnedFd},
    fs::{Mode, OFlags},
    ioctl::{Getter, Setter, ioctl, opcode},
};
use std::{io, path::Path};

/// `struct fsxattr`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    padding: [u8; 8],
}

const GET: rustix::ioctl::Opcode = opcode::read::<Attributes>(b'X', 31);
const SET: rustix::ioctl::Opcode = opcode::write::<Attributes>(b'X', 32);
/// What is made in the directory gets its project.
const INHERIT: u32 = 0x200;

/// `struct fs_quota_statv`, with its three parts, one for each kind of quota, as bytes.
#[repr(C)]
struct State {
    version: i8,
    padding: u8,
    flags: u16,
    in_core: u32,
    parts: [[u64; 3]; 3],
    limits: [i32; 3],
    warnings: [u16; 4],
    more: [u64; 7],
}

const STATE_VERSION: i8 = 1;
/// Project quotas are enforced (FS_QUOTA_PDQ_ENFD).
const PROJECT_ENFORCED: u16 = 1 << 5;

const GET_QUOTA: u32 = 0x80_0007;
const SET_QUOTA: u32 = 0x80_0008;
/// Q_XQUOTAON.
const SWITCH_ON: u32 = ((b'X' as u32) << 8) + 1;
const GET_STATE: u32 = ((b'X' as u32) << 8) + 8;
const PROJECT: u32 = 2;

/// `struct if_dqblk`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Limits {
    block_hard: u64,
    block_soft: u64,
    space: u64,
    inode_hard: u64,
    inode_soft: u64,
    inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
    padding: u32,
}

const VALID_BLOCKS: u32 = 1;
const VALID_INODES: u32 = 4;
/// Bytes in a block of [`Limits`].
const BLOCK: u64 = 1024;
/// Bytes for which a volume may have one file: the ratio ext4 is made with.
const BYTES_PER_FILE: u64 = 16 << 10;
/// Files that the smallest volume may have.
const FEWEST_FILES: u64 = 1024;

fn open(directory: &Path) -> Result<OwnedFd, Fault> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(directory, flags, Mode::empty()).during(|| format!("open {}", directory.display()))
}

/// quotactl_fd(2) on the file system that `directory` is in.
fn control<T>(directory: &Path, command: u32, project: u32, argument: &mut T) -> Result<(), Fault> {
    let opened = open(directory)?;
    // SAFETY: every command used here reads or writes the structure that its caller gives, whose layout is the
    // kernel's.
    let result = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            opened.as_raw_fd(),
            (command << 8) | PROJECT,
            project,
            std::ptr::from_mut(argument),
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
        .during(|| format!("quota of project {project} at {}", directory.display()))
}

/// Whether the file system holds projects to their limits.
pub(super) fn is_enforced(directory: &Path) -> Result<bool, Fault> {
    let mut state = State {
        version: STATE_VERSION,
        padding: 0,
        flags: 0,
        in_core: 0,
        parts: [[0; 3]; 3],
        limits: [0; 3],
        warnings: [0; 4],
        more: [0; 7],
    };
    match control(directory, GET_STATE, 0, &mut state) {
        Ok(()) => Ok(state.flags & PROJECT_ENFORCED != 0),
        // No quotas at all.
        Err(Fault::Io { source, .. })
            if matches!(
                source.raw_os_error(),
                Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::ESRCH | libc::EINVAL)
            ) =>
        {
            Ok(false)
        }
        Err(fault) => Err(fault),
    }
}

/// Has the file system hold projects to their limits, if it counts what they use: ext4 with the features `project` and
/// `quota` counts however it was mounted. Whether it does so now.
pub(super) fn enforce(directory: &Path) -> Result<bool, Fault> {
    let mut flags = u32::from(PROJECT_ENFORCED);
    match control(directory, SWITCH_ON, 0, &mut flags) {
        Ok(()) => is_enforced(directory),
        Err(Fault::Io { source, .. })
            if matches!(
                source.raw_os_error(),
                Some(
                    libc::ENOSYS | libc::EOPNOTSUPP | libc::ESRCH | libc::EINVAL | libc::EBUSY | libc::EEXIST
                )
            ) =>
        {
            Ok(false)
        }
        Err(fault) => Err(fault),
    }
}

/// Gives a directory that is empty to a project: what is made in it counts for that.
pub(super) fn join(directory: &Path, project: u32) -> Result<(), Fault> {
    let opened = open(directory)?;
    let what = || format!("give {} to project {project}", directory.display());
    // SAFETY: FS_IOC_FSGETXATTR writes a `struct fsxattr`, whose layout `Attributes` has.
    let mut attributes = unsafe { ioctl(&opened, Getter::<GET, Attributes>::new()) }.during(what)?;
    attributes.project = project;
    attributes.flags |= INHERIT;
    // SAFETY: FS_IOC_FSSETXATTR reads one.
    unsafe { ioctl(&opened, Setter::<SET, Attributes>::new(attributes)) }.during(what)
}

/// The project of a directory.
pub(super) fn project(directory: &Path) -> Result<u32, Fault> {
    let opened = open(directory)?;
    // SAFETY: as in `join`.
    let attributes = unsafe { ioctl(&opened, Getter::<GET, Attributes>::new()) };
    attributes.map(|held| held.project).during(|| format!("read the project of {}", directory.display()))
}

/// What a project may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    pub(super) bytes: u64,
    /// `None`: in proportion to the bytes.
    pub(super) files: Option<u64>,
}

/// Holds a project to a limit, or to none.
pub(super) fn limit(directory: &Path, project: u32, limit: Option<Limit>) -> Result<(), Fault> {
    // To the kernel 0 is no limit.
    let (bytes, files) = limit.map_or((0, 0), |limit| {
        (limit.bytes, limit.files.unwrap_or((limit.bytes / BYTES_PER_FILE).max(FEWEST_FILES)))
    });
    let mut limits = Limits {
        block_hard: bytes.div_ceil(BLOCK),
        block_soft: bytes.div_ceil(BLOCK),
        inode_hard: files,
        inode_soft: files,
        valid: VALID_BLOCKS | VALID_INODES,
        ..Limits::default()
    };
    control(directory, SET_QUOTA, project, &mut limits)
}

/// Bytes that a project has.
pub(super) fn used(directory: &Path, project: u32) -> Result<u64, Fault> {
    let mut limits = Limits::default();
    control(directory, GET_QUOTA, project, &mut limits)?;
    Ok(limits.space)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layouts_are_the_kernels() {
        assert_eq!((size_of::<Attributes>(), size_of::<Limits>(), size_of::<State>()), (28, 72, 160));
    }
}
