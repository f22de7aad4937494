//! Layers, unpacked beside files that nothing may touch.

use super::{kind, number};
use crate::image::{
    fixup::{self, Lower},
    layer::receive,
    remove,
    unpack::UnpackError,
};
use rustix::fs::{self as linux, AtFlags, FileType, Mode, OFlags};
use std::{
    collections::HashMap,
    ffi::OsString,
    fs,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
};

/// Where layers are unpacked, with files beside it that no layer may touch.
#[derive(Debug)]
pub struct Arena {
    place: PathBuf,
    outside: Vec<String>,
}

impl Arena {
    /// In the empty directory `place`, on a file system with `trusted.*` attributes and devices.
    pub fn new(place: &Path) -> Self {
        let outside = place.join("outside");
        fs::create_dir_all(outside.join("directory")).unwrap();
        fs::write(outside.join("file"), "kept").unwrap();
        fs::write(outside.join("directory/file"), "kept, too").unwrap();
        std::os::unix::fs::symlink("directory/file", outside.join("link")).unwrap();
        // A layer to lie below, with directories whose attributes are not the plain ones.
        for (path, mode) in [("base/tmp", 0o1777), ("base/a/b/c", 0o700), ("base/etc", 0o755)] {
            fs::create_dir_all(place.join(path)).unwrap();
            fs::set_permissions(place.join(path), std::os::unix::fs::PermissionsExt::from_mode(mode))
                .unwrap();
        }
        let mut arena = Self { place: place.to_owned(), outside: Vec::new() };
        arena.outside = arena.look_outside();
        arena
    }

    /// Everything but what is unpacked, down to the last attribute.
    fn look_outside(&self) -> Vec<String> {
        let mut seen: Vec<_> = walkdir::WalkDir::new(&self.place)
            .into_iter()
            .map(|entry| {
                let entry = entry.expect("what is outside can be read");
                let path = entry.path();
                let (metadata, top) = (path.symlink_metadata().unwrap(), path == self.place);
                // The arena itself changes with what is made in it.
                let changed = (!top).then(|| (metadata.ctime(), metadata.ctime_nsec(), metadata.nlink()));
                let content = metadata.is_file().then(|| fs::read(path).unwrap());
                let attributes =
                    (metadata.mode(), metadata.uid(), metadata.gid(), metadata.len() * u64::from(!top));
                format!("{path:?} {attributes:?} {changed:?} {content:?}")
            })
            .collect();
        seen.sort();
        seen
    }

    /// A layer of the bytes `blob`, compressed or not.
    pub fn layer(&mut self, blob: &[u8]) -> u64 {
        let (root, fix) = (self.place.join("root"), self.place.join("fix"));
        fs::create_dir(&root).unwrap();
        let result = receive(blob, &root);
        let found = Found::below(&root);
        found.check();
        let outcome = match &result {
            Ok(received) => {
                let info = &received.info;
                assert!(
                    found.inodes <= info.inodes,
                    "{} inodes, but {} are counted",
                    found.inodes,
                    info.inodes
                );
                let base = Lower { root: self.place.join("base"), implicit: &[] };
                let plan = fixup::plan(&[Lower { root: root.clone(), implicit: &info.implicit }, base]);
                fs::create_dir(&fix).unwrap();
                fixup::make(&plan, &fix).expect("what was planned can be made");
                remove::remove_all(&fix).unwrap();
                let counted = |count: usize| count.min(3);
                number(&(found.kinds, counted(info.implicit.len()), counted(plan.len())))
            }
            Err(UnpackError::Entry { operation, source, .. }) => number(&(operation, source.raw_os_error())),
            Err(error) => kind(error),
        };
        // `Directory not empty` and the like would leave a layer nobody can remove.
        remove::remove_all(&root).expect("whatever was unpacked can be removed");
        assert_eq!(self.look_outside(), self.outside, "something outside the layer changed");
        outcome
    }
}

/// What was unpacked.
#[derive(Default)]
struct Found {
    inodes: u64,
    kinds: [u8; 8],
    /// Hard links: how many the file system knows, and how many are in the layer.
    links: HashMap<u64, (u64, u64)>,
    /// Something was too deep to look at.
    cut: bool,
}

impl Found {
    fn below(root: &Path) -> Self {
        let mut found = Self { inodes: 1, ..Self::default() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let top = linux::open(root, flags, Mode::empty()).unwrap();
        let device = linux::fstat(&top).unwrap().st_dev;
        found.directory(&top, device, 0);
        found
    }

    fn directory(&mut self, directory: &OwnedFd, device: u64, depth: usize) {
        for entry in linux::Dir::read_from(directory).unwrap() {
            let entry = entry.unwrap();
            let name = OsString::from(std::ffi::OsStr::from_bytes(entry.file_name().to_bytes()));
            if name == "." || name == ".." {
                continue;
            }
            let stat = linux::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
            assert_eq!(stat.st_dev, device, "{name:?} is on another file system");
            let kind = FileType::from_raw_mode(stat.st_mode);
            let place =
                format!("/proc/self/fd/{}/{}", std::os::fd::AsRawFd::as_raw_fd(directory), name.display());
            check_attributes(Path::new(&place), kind);
            if kind == FileType::Directory {
                self.inodes += 1;
                if depth > 200 {
                    self.cut = true;
                    continue;
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                self.directory(
                    &linux::openat(directory, &name, flags, Mode::empty()).unwrap(),
                    device,
                    depth + 1,
                );
                self.kinds[0] |= 1 << depth.min(7);
                continue;
            }
            assert!(!name.as_bytes().starts_with(b".wh."), "{name:?} is in the layer");
            let links = self.links.entry(stat.st_ino).or_insert((stat.st_nlink, 0));
            links.1 += 1;
            self.inodes += u64::from(links.1 == 1);
            let (index, bit) = match kind {
                FileType::RegularFile => {
                    (1, u32::from(stat.st_size > 0) + 2 * u32::from(stat.st_mode & 0o6000 != 0))
                }
                FileType::Symlink => (2, depth.min(7) as u32),
                FileType::CharacterDevice => (3, u32::from(stat.st_rdev != 0)),
                FileType::BlockDevice => (3, 2),
                _ => (3, 3),
            };
            self.kinds[index] |= 1 << bit;
            self.kinds[4] |= u8::from(links.1 > 1);
        }
    }

    fn check(&self) {
        if !self.cut {
            let shared = self.links.values().find(|(known, here)| known != here);
            assert_eq!(shared, None, "a hard link leads out of the layer");
        }
    }
}

/// Attributes that steer overlayfs are ours alone.
fn check_attributes(path: &Path, kind: FileType) {
    let mut names = vec![0; 1 << 16];
    let length = linux::llistxattr(path, &mut names[..]).unwrap_or(0);
    for name in names[..length].split(|byte| *byte == 0) {
        let name = String::from_utf8_lossy(name);
        let ours = kind == FileType::Directory && name == "trusted.overlay.opaque";
        assert!(ours || !name.contains("overlay."), "{path:?} has {name}");
    }
}
