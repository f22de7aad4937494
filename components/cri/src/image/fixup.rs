//! Directories whose attributes a layer did not mean to change.
//!
//! Layers are unpacked without knowing what they will lie on. Some tools write archives that hold `tmp/file` and no
//! `tmp/`: unpacked alone, `tmp` gets plain attributes, and in an overlay those of the topmost directory count, so
//! the sticky, world-writable `/tmp` of the base image would be gone. For an image where that happens, a small
//! directory tree with the attributes that the archives did describe is laid on top of its layers.

use super::error::ImageError;
use rustix::{
    fs::{self, XattrFlags},
    io::Errno,
};
use std::{
    collections::BTreeMap,
    fs::{Metadata, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Undescribed directories of all layers, at most: looking for each in every layer takes its time.
const MAX_PLANNED: usize = 4096;

/// A layer's files, and the directories in it that its archive did not describe.
pub(super) struct Lower<'a> {
    pub(super) root: PathBuf,
    pub(super) implicit: &'a [PathBuf],
}

/// The directories to lay on top of `layers` (top first), parents first, each with the directory whose attributes
/// it takes. Empty for almost every image.
pub(super) fn plan(layers: &[Lower<'_>]) -> Vec<(PathBuf, PathBuf)> {
    let mut wanted = BTreeMap::new();
    let undescribed = layers.iter().map(|layer| layer.implicit.len()).sum::<usize>();
    if undescribed > MAX_PLANNED {
        tracing::warn!(
            undescribed,
            "too many directories that no layer describes; they keep plain attributes"
        );
        return Vec::new();
    }
    for path in layers.iter().flat_map(|layer| layer.implicit) {
        let Some((described, true)) = described(layers, path) else { continue };
        if is_plain(&described) {
            continue;
        }
        for ancestor in path.ancestors().filter(|ancestor| !ancestor.as_os_str().is_empty()) {
            if let Some((model, _)) = self::described(layers, ancestor) {
                wanted.insert(ancestor.to_owned(), model);
            }
        }
    }
    wanted.into_iter().collect()
}

/// The topmost directory at `path` that an archive described (or the topmost at all, if none did), and whether an
/// undescribed one lies above it. `None` if there is no directory in the merged tree.
fn described(layers: &[Lower<'_>], path: &Path) -> Option<(PathBuf, bool)> {
    let mut topmost = None;
    for layer in layers {
        match look(&layer.root, path) {
            Found::Nothing { opaque: false } => {}
            Found::Nothing { opaque: true } | Found::Blocked => break,
            Found::Directory { opaque } => {
                let found = layer.root.join(path);
                if !layer.implicit.iter().any(|implicit| implicit == path) {
                    let covered = topmost.is_some();
                    return Some((found, covered));
                }
                topmost.get_or_insert(found);
                if opaque {
                    break;
                }
            }
        }
    }
    topmost.map(|found| (found, false))
}

enum Found {
    /// No such entry; an opaque directory above it hides those of lower layers.
    Nothing {
        opaque: bool,
    },
    /// A file, symlink or whiteout, here or above.
    Blocked,
    Directory {
        opaque: bool,
    },
}

/// Looks at `path` in one layer, component by component, following nothing.
fn look(root: &Path, path: &Path) -> Found {
    let mut opaque = is_opaque(root);
    let mut current = root.to_owned();
    for component in path.components() {
        current.push(component);
        match current.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => opaque |= is_opaque(&current),
            Ok(_) => return Found::Blocked,
            Err(_) => return Found::Nothing { opaque },
        }
    }
    Found::Directory { opaque }
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0_u8; 1];
    matches!(fs::lgetxattr(path, "trusted.overlay.opaque", &mut value[..]), Ok(1)) && value == *b"y"
}

fn is_plain(path: &Path) -> bool {
    let attributes = |metadata: Metadata| (metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
    let no_xattrs = matches!(xattr_names(path), Ok(names) if names.is_empty());
    no_xattrs && path.symlink_metadata().is_ok_and(|metadata| attributes(metadata) == (0o755, 0, 0))
}

/// Makes the planned directories in `root`.
pub(super) fn make(plan: &[(PathBuf, PathBuf)], root: &Path) -> Result<(), ImageError> {
    for (path, model) in plan {
        let to = root.join(path);
        let copy = || -> std::io::Result<()> {
            let metadata = model.symlink_metadata()?;
            std::fs::create_dir(&to)?;
            std::os::unix::fs::lchown(&to, Some(metadata.uid()), Some(metadata.gid()))?;
            std::fs::set_permissions(&to, Permissions::from_mode(metadata.mode() & 0o7777))?;
            for name in xattr_names(model)? {
                let mut value = vec![0; 64 << 10];
                let length = fs::lgetxattr(model, &name, &mut value[..])?;
                fs::lsetxattr(&to, &name, &value[..length], XattrFlags::empty())?;
            }
            Ok(())
        };
        copy().map_err(ImageError::io("make", &to))?;
    }
    Ok(())
}

/// Names of extended attributes, without overlayfs' own.
fn xattr_names(path: &Path) -> rustix::io::Result<Vec<String>> {
    let mut names = vec![0_u8; 64 << 10];
    let length = match fs::llistxattr(path, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        length => length?,
    };
    Ok(names[..length]
        .split(|byte| *byte == 0)
        .filter_map(|name| std::str::from_utf8(name).ok())
        .filter(|name| !name.is_empty() && !name.starts_with("trusted.overlay."))
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, set_permissions, write};

    #[test]
    fn an_undescribed_directory_takes_the_attributes_below_it() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let (base, top) = (dir.path().join("base"), dir.path().join("top"));
        create_dir_all(base.join("tmp/deep")).unwrap();
        create_dir_all(base.join("etc")).unwrap();
        set_permissions(base.join("tmp"), Permissions::from_mode(0o1777)).unwrap();
        set_permissions(base.join("tmp/deep"), Permissions::from_mode(0o700)).unwrap();
        create_dir_all(top.join("tmp/deep")).unwrap();
        create_dir_all(top.join("etc")).unwrap();
        let implicit = ["etc", "tmp", "tmp/deep"].map(PathBuf::from);
        let layers =
            [Lower { root: top.clone(), implicit: &implicit }, Lower { root: base.clone(), implicit: &[] }];
        let planned = plan(&layers);
        assert_eq!(
            planned.iter().map(|(path, _)| path.to_str().unwrap()).collect::<Vec<_>>(),
            ["tmp", "tmp/deep"]
        );
        let fix = dir.path().join("fix");
        create_dir_all(&fix).unwrap();
        make(&planned, &fix).unwrap();
        let mode = |path: &str| fix.join(path).metadata().unwrap().mode() & 0o7777;
        assert_eq!([mode("tmp"), mode("tmp/deep")], [0o1777, 0o700]);

        // Described on top: what the top says counts, and nothing is to be mended.
        let layers =
            [Lower { root: top.clone(), implicit: &[] }, Lower { root: base.clone(), implicit: &[] }];
        assert!(plan(&layers).is_empty());
        // Far too many: none is looked for.
        let many: Vec<PathBuf> = (0..=MAX_PLANNED).map(|number| format!("tmp/{number}").into()).collect();
        let layers =
            [Lower { root: top.clone(), implicit: &many }, Lower { root: base.clone(), implicit: &[] }];
        assert!(plan(&layers).is_empty());
        // Removed on top: nothing comes back.
        let above = dir.path().join("above");
        create_dir_all(&above).unwrap();
        write(above.join("tmp"), "now a file").unwrap();
        let layers = [
            Lower { root: above, implicit: &[] },
            Lower { root: top, implicit: &implicit },
            Lower { root: base, implicit: &[] },
        ];
        assert!(plan(&layers).is_empty());
    }
}
