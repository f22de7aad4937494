//! A file system held still for a moment: FIFREEZE and FITHAW (ioctl_fsfreeze(2), linux/fs.h).
#![allow(unsafe_code)] // The ioctls have no wrapper.

use crate::error::{During, Fault};
use rustix::{
    fd::OwnedFd,
    fs::{Mode, OFlags},
    ioctl::{IntegerSetter, ioctl, opcode},
};
use std::path::Path;

const FREEZE: rustix::ioctl::Opcode = opcode::read_write::<i32>(b'X', 119);
const THAW: rustix::ioctl::Opcode = opcode::read_write::<i32>(b'X', 120);

/// A frozen file system: everything written is on its device, and writers wait. Thawed when dropped. A process that dies
/// leaves it frozen: see [`thaw`].
#[derive(Debug)]
pub struct Frozen(OwnedFd);

impl Frozen {
    /// Freezes the file system mounted at `mounted`.
    ///
    /// # Errors
    /// The kernel's; EBUSY if it is frozen already.
    pub fn freeze(mounted: &Path) -> Result<Self, Fault> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(mounted, flags, Mode::empty())
            .during(|| format!("open {}", mounted.display()))?;
        // SAFETY: FIFREEZE takes no argument that it reads or writes.
        unsafe { ioctl(&directory, IntegerSetter::<FREEZE>::new_usize(0)) }
            .during(|| format!("freeze the file system at {}", mounted.display()))?;
        Ok(Self(directory))
    }

    /// Thaws what a process that died left frozen; not frozen is fine.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn thaw(mounted: &Path) -> Result<(), Fault> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(mounted, flags, Mode::empty())
            .during(|| format!("open {}", mounted.display()))?;
        drop(Self(directory));
        Ok(())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // SAFETY: as above. EINVAL says that it is not frozen, which is what is wanted.
        let _ = unsafe { ioctl(&self.0, IntegerSetter::<THAW>::new_usize(0)) };
    }
}
