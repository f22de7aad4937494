//! Removing trees that somebody else shaped.
//!
//! A layer may be nested thousands of directories deep: symbolic links let an archive go deeper than any path is
//! long. A walk that holds a descriptor for each level would run out of them, and then nothing could remove the
//! tree. Here the walk goes down [`MAX_DEPTH`] levels; what is deeper is moved up beside the top first.

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{self, AtFlags, Dir, Mode, OFlags, RenameFlags},
    io::Errno,
};
use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::OsStrExt,
    path::Path,
};

/// Descriptors a removal holds at most.
const MAX_DEPTH: usize = 64;

/// Removes a file or a tree; nothing there is fine.
///
/// # Errors
/// What the kernel says; the tree is then partly there.
pub(super) fn remove_all(path: &Path) -> io::Result<()> {
    match remove_tree(fs::CWD, path.as_os_str()) {
        Err(Errno::NOENT) => Ok(()),
        result => Ok(result?),
    }
}

/// Removes `name` in `parent`, with all below it, without following anything and in constant stack.
pub(super) fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    match fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        other => return other,
    }
    let mut stack = vec![(open(parent, name)?, name.to_owned())];
    let mut moved = 0;
    while let Some((directory, _)) = stack.last() {
        match empty_but_directories(directory)? {
            Some(child) if stack.len() >= MAX_DEPTH => {
                move_up(directory.as_fd(), &child, stack[0].0.as_fd(), &mut moved)?;
            }
            Some(child) => {
                let opened = open(directory.as_fd(), &child)?;
                stack.push((opened, child));
            }
            None => {
                let Some((_, name)) = stack.pop() else { break };
                let above = stack.last().map_or(parent, |(directory, _)| directory.as_fd());
                fs::unlinkat(above, &name, AtFlags::REMOVEDIR)?;
            }
        }
    }
    Ok(())
}

fn open(parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(parent, name, flags, Mode::empty())
}

/// Removes the files of `directory` up to its first directory, which is returned.
fn empty_but_directories(directory: &OwnedFd) -> rustix::io::Result<Option<OsString>> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        match fs::unlinkat(directory, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => return Ok(Some(name.to_owned())),
            other => other?,
        }
    }
    Ok(None)
}

/// Moves the directory `name` from `from` to `to`, under the first free number.
fn move_up(
    from: BorrowedFd<'_>,
    name: &OsStr,
    to: BorrowedFd<'_>,
    moved: &mut u64,
) -> rustix::io::Result<()> {
    loop {
        *moved += 1;
        match fs::renameat_with(from, name, to, moved.to_string(), RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_deeper_than_descriptors_last_is_removed() {
        let scratch = tempfile::tempdir().unwrap();
        let top = scratch.path().join("top");
        std::fs::create_dir(&top).unwrap();
        // Names that the removal itself would choose are taken.
        for name in ["1", "2"] {
            std::fs::create_dir(top.join(name)).unwrap();
            std::fs::write(top.join(name).join("file"), "").unwrap();
        }
        let mut directory = open(fs::CWD, top.as_os_str()).unwrap();
        for _ in 0..5000 {
            fs::mkdirat(&directory, "d", Mode::RWXU).unwrap();
            fs::openat(&directory, "f", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
            directory = open(directory.as_fd(), OsStr::new("d")).unwrap();
        }
        drop(directory);
        remove_all(&top).unwrap();
        assert!(!top.exists());
        remove_all(&top).unwrap();
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let scratch = tempfile::tempdir().unwrap();
        let (kept, top) = (scratch.path().join("kept"), scratch.path().join("top"));
        std::fs::create_dir_all(kept.join("inner")).unwrap();
        std::fs::create_dir(&top).unwrap();
        std::os::unix::fs::symlink(&kept, top.join("link")).unwrap();
        remove_all(&top).unwrap();
        assert!(kept.join("inner").is_dir());
        std::os::unix::fs::symlink(&kept, &top).unwrap();
        remove_all(&top).unwrap();
        assert!(kept.join("inner").is_dir() && !top.is_symlink());
    }
}
