//! The pod's network namespace: a path that the runtime names, opened once, entered for as long as needed.

use crate::protocol::error::{CniError, Code};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

/// An open network namespace.
#[derive(Debug)]
pub struct NetNs {
    file: File,
    path: PathBuf,
}

impl NetNs {
    /// Opens the namespace at `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, path: path.to_owned() })
    }

    /// Opens what `CNI_NETNS` names, for operations that cannot do without.
    pub fn required(path: &Path) -> Result<Self, CniError> {
        Self::open(path).map_err(|error| {
            CniError::new(Code::InvalidNetNs, format!("failed to open netns {:?}: {error}", path.display()))
        })
    }

    /// Opens what `CNI_NETNS` names, for DEL: a namespace that is gone is `None`, and so is the empty file that
    /// an unmounted one leaves behind.
    pub fn if_present(path: Option<&Path>) -> Result<Option<Self>, CniError> {
        let Some(path) = path else { return Ok(None) };
        match Self::open(path) {
            Ok(namespace) => Ok(namespace.is_namespace().then_some(namespace)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(CniError::new(
                Code::InvalidNetNs,
                format!("failed to open netns {:?}: {error}", path.display()),
            )),
        }
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` inside. The thread is back in its own namespace afterwards; should that fail, the process
    /// ends, for nothing it did from then on would be where it belongs.
    pub fn enter<T>(&self, work: impl FnOnce() -> Result<T, CniError>) -> Result<T, CniError> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            CniError::new(Code::InvalidNetNs, format!("{what} netns {:?}: {error}", self.path.display()))
        };
        let home = File::open("/proc/thread-self/ns/net").map_err(|e| failed("before entering", &e))?;
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|e| failed("failed to enter", &e))?;
        let result = work();
        if let Err(error) = move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network)) {
            eprintln!("cairn-cni: cannot return from netns {:?}: {error}", self.path.display());
            std::process::abort();
        }
        result
    }

    fn is_namespace(&self) -> bool {
        rustix::fs::fstatfs(&self.file).is_ok_and(|fs| fs.f_type == libc::NSFS_MAGIC)
    }

    /// Whether both are the same namespace.
    pub fn is_same_as(&self, other: &Self) -> bool {
        matches!((self.identity(), other.identity()), (Ok(a), Ok(b)) if a == b)
    }

    /// Device and inode: what tells it from all others, as long as it lives.
    pub fn identity(&self) -> io::Result<(u64, u64)> {
        self.file.metadata().map(|found| (found.dev(), found.ino()))
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
