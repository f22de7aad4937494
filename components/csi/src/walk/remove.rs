//! Removal of a tree.

use super::Walk;
use rustix::{
    fd::AsFd,
    fs::{AtFlags, RenameFlags, renameat_with, unlinkat},
    io::{Errno, Result},
    path::Arg,
};
use std::ffi::{CStr, CString};

/// How deep it goes. A directory below that is moved up to the root, which is emptied again and again, so that a
/// tree of any depth takes no more memory than this one. Where it cannot be moved, it is gone down to after all.
const DEPTH: usize = 1024;

/// Removes `name` in the directory `parent` with all in it; none is fine. Links are removed, not followed, and what is on
/// another file system is not touched.
///
/// # Errors
/// The file system's; EBUSY if something is mounted in it; ENOTEMPTY if somebody puts files there meanwhile. What is
/// left can be removed by the next call.
pub(crate) fn remove(parent: impl AsFd, name: impl Arg) -> Result<()> {
    let name = name.into_c_str()?;
    let name: &CStr = &name;
    match unlink(&parent, name) {
        Err(Errno::NOTEMPTY) => {}
        done => return done,
    }
    let mut moved = 0;
    loop {
        let before = moved;
        empty(Walk::at(&parent, name)?, &Walk::at(&parent, name)?, &mut moved)?;
        match unlink(&parent, name) {
            // What was moved up may have come after the end of the reading.
            Err(Errno::NOTEMPTY) if moved > before => {}
            done => return done,
        }
    }
}

/// Empties the directory where `walk` begins, but for what it moves up to where `root` is.
fn empty(mut walk: Walk, root: &Walk, moved: &mut u64) -> Result<()> {
    let mut way: Vec<CString> = Vec::new();
    loop {
        while let Some(name) = walk.next()? {
            match unlink(walk.here()?, &name) {
                Err(Errno::NOTEMPTY) => {}
                done => {
                    done?;
                    continue;
                }
            }
            if walk.depth() >= DEPTH && lift(&walk, &name, root, moved) {
                continue;
            }
            walk.enter(&name)?;
            way.push(name);
        }
        if !walk.leave()? {
            return Ok(());
        }
        if let Some(name) = way.pop() {
            unlink(walk.here()?, &name)?;
        }
    }
}

/// Moves a directory up to the root, under a name that nothing has there. Not where it has another project than the root
/// (EXDEV), say.
fn lift(walk: &Walk, name: &CStr, root: &Walk, moved: &mut u64) -> bool {
    let (Ok(here), Ok(root)) = (walk.here(), root.here()) else { return false };
    loop {
        *moved += 1;
        let to = format!("lifted-{moved}");
        match renameat_with(here, name, root, to.as_str(), RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            renamed => return renamed.is_ok(),
        }
    }
}

/// Removes a file, a link or an empty directory; none is fine. ENOTEMPTY: it is a directory with something in it.
fn unlink(parent: impl AsFd, name: &CStr) -> Result<()> {
    let gone = |done| if done == Err(Errno::NOENT) { Ok(()) } else { done };
    match unlinkat(&parent, name, AtFlags::empty()) {
        Err(error @ (Errno::ISDIR | Errno::PERM)) => {
            match gone(unlinkat(&parent, name, AtFlags::REMOVEDIR)) {
                Err(Errno::NOTDIR) => Err(error),
                Err(Errno::EXIST) => Err(Errno::NOTEMPTY),
                done => done,
            }
        }
        done => gone(done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::walk::{OPEN, ground, nest, tests::open};
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn trees_deeper_than_a_stack_go() {
        let root = ground();
        for levels in [0, 1, OPEN - 1, OPEN, OPEN + 1, DEPTH, DEPTH + 1, DEPTH + OPEN + 3, 60_000] {
            fs::create_dir(root.path().join("tree")).unwrap();
            nest(&root.path().join("tree"), levels);
            fs::write(root.path().join("tree/file"), "").unwrap();
            remove(open(root.path()), "tree").unwrap();
            assert!(!root.path().join("tree").exists(), "{levels}");
        }
        remove(open(root.path()), "none").unwrap();
    }

    #[test]
    fn a_tree_that_cannot_be_lifted_goes_too() {
        let root = ground();
        nest(root.path(), DEPTH + 200);
        // Nothing can be moved onto another file system.
        let walk = |path| Walk::new(open(path)).unwrap();
        empty(walk(root.path()), &walk(std::path::Path::new("/proc")), &mut 0).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_links_name_stays() {
        let (root, other) = (ground(), ground());
        fs::write(other.path().join("file"), "precious").unwrap();
        for tree in ["one", "two"] {
            fs::create_dir_all(root.path().join(tree).join("d/e")).unwrap();
            symlink(other.path(), root.path().join(tree).join("d/e/link")).unwrap();
            symlink(other.path().join("file"), root.path().join(tree).join("d/file")).unwrap();
        }
        remove(open(root.path()), "one").unwrap();
        symlink(other.path(), root.path().join("link")).unwrap();
        remove(open(root.path()), "link").unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "two is another");
        assert_eq!(fs::read_to_string(other.path().join("file")).unwrap(), "precious");
    }

    #[test]
    fn names_like_ours_are_not_replaced() {
        let root = ground();
        let tree = root.path().join("tree");
        fs::create_dir_all(tree.join("lifted-1/full")).unwrap();
        nest(&tree, DEPTH + 5);
        remove(open(root.path()), "tree").unwrap();
        assert!(!tree.exists());
    }
}
