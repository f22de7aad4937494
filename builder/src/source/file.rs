//! A directory of the repository as a tree: `rootfs/<group>/…`.
//!
//! What a checkout does not keep is decided here: everything is root's, files are 0755 when their owner may execute
//! them and 0644 otherwise, directories 0755. What must differ is said in `.meta.toml` at the top of the directory:
//!
//! ```toml
//! ["etc/shadow"]
//! mode = "0640"
//! gid = 42
//!
//! ["var/lib/empty"]
//! directory = true            # made; git keeps no empty directories
//!
//! ["usr/bin/ping".xattrs]
//! "security.capability" = "0100000200200000000000000000000000000000"    # hexadecimal
//! ```

use super::{
    archive::{find, insert, plain_directory},
    cache::StorageError,
};
use crate::tree::{Content, Entries, Kind, Metadata, Name, Node};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::{ffi::OsStringExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Name of the file with what a checkout does not keep; not part of the tree.
pub const SIDECAR: &str = ".meta.toml";

/// Why a directory is not a tree.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The sidecar is malformed.
    #[error("{path}: {why}")]
    Sidecar {
        /// The sidecar.
        path: PathBuf,
        /// What is wrong, with line and column when it is the syntax.
        why: String,
    },
    /// A socket, a device, a pipe.
    #[error("{0} is not a file, directory or symbolic link: a directory of the repository cannot hold it")]
    Special(PathBuf),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Override {
    mode: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
    #[serde(default)]
    xattrs: BTreeMap<String, String>,
    #[serde(default)]
    directory: bool,
}

/// Reads a directory.
///
/// # Errors
/// It cannot be read, holds something special, or its sidecar is wrong.
pub fn read(directory: &Path) -> Result<Entries, FileError> {
    let directory = fs::canonicalize(directory).map_err(StorageError::at(directory))?;
    let mut tree = entries(&directory)?;
    tree.remove(SIDECAR.as_bytes());
    let path = directory.join(SIDECAR);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(tree),
        Err(error) => return Err(StorageError::at(&path)(error).into()),
    };
    let wrong = |why: String| FileError::Sidecar { path: path.clone(), why };
    let overrides: BTreeMap<String, Override> =
        toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    for (name, change) in overrides {
        apply(&mut tree, &name, change).map_err(|why| wrong(format!("\"{name}\": {why}")))?;
    }
    Ok(tree)
}

fn entries(directory: &Path) -> Result<Entries, FileError> {
    let mut tree = Entries::new();
    for entry in fs::read_dir(directory).map_err(StorageError::at(directory))? {
        let entry = entry.map_err(StorageError::at(directory))?;
        let path = entry.path();
        let found = entry.metadata().map_err(StorageError::at(&path))?;
        let (mode, kind) = if found.is_dir() {
            (0o755, Kind::Directory(entries(&path)?))
        } else if found.is_symlink() {
            let target = fs::read_link(&path).map_err(StorageError::at(&path))?;
            (0o777, Kind::Symlink(target.into_os_string().into_vec()))
        } else if found.is_file() {
            let mode = if found.permissions().mode() & 0o100 != 0 { 0o755 } else { 0o644 };
            (mode, Kind::File(Content::Range { path: Arc::new(path), offset: 0, length: found.len() }))
        } else {
            return Err(FileError::Special(path));
        };
        let meta = Metadata { mode, uid: 0, gid: 0, xattrs: BTreeMap::new() };
        tree.insert(entry.file_name().into_vec(), Node { meta, kind });
    }
    Ok(tree)
}

fn apply(tree: &mut Entries, path: &str, change: Override) -> Result<(), String> {
    let names: Vec<Name> = path.split('/').map(|name| name.as_bytes().to_vec()).collect();
    if names.iter().any(|name| matches!(name.as_slice(), b"" | b"." | b"..")) {
        return Err("a path is written without `/` at the ends and without `.` and `..`".to_owned());
    }
    if find(tree, &names).is_none() {
        if !change.directory {
            return Err("there is no such file here; `directory = true` would make a directory".to_owned());
        }
        insert(tree, &names, plain_directory()).map_err(str::to_owned)?;
    }
    let node = find_mut(tree, &names).ok_or("there is no such file here")?;
    if change.directory && !matches!(node.kind, Kind::Directory(_)) {
        return Err("it is not a directory".to_owned());
    }
    let meta = &mut node.meta;
    if let Some(mode) = change.mode {
        meta.mode = u16::from_str_radix(&mode, 8)
            .ok()
            .filter(|&mode| mode <= 0o7777)
            .ok_or_else(|| format!("mode `{mode}` is not an octal number up to 7777"))?;
    }
    meta.uid = change.uid.unwrap_or(meta.uid);
    meta.gid = change.gid.unwrap_or(meta.gid);
    for (name, value) in change.xattrs {
        let value = hex::decode(&value).map_err(|_| format!("the value of `{name}` is not hexadecimal"))?;
        meta.xattrs.insert(name.into_bytes(), value);
    }
    Ok(())
}

fn find_mut<'t>(tree: &'t mut Entries, names: &[Name]) -> Option<&'t mut Node> {
    let (last, parents) = names.split_last()?;
    let mut entries = tree;
    for name in parents {
        match &mut entries.get_mut(name)?.kind {
            Kind::Directory(children) => entries = children,
            _ => return None,
        }
    }
    entries.get_mut(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn group(sidecar: &str) -> tempfile::TempDir {
        let group = tempfile::tempdir().unwrap();
        let bin = group.path().join("usr/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::write(bin.join("tool"), "#!").unwrap();
        fs::set_permissions(bin.join("tool"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(group.path().join("usr/data"), "x").unwrap();
        fs::set_permissions(group.path().join("usr/data"), fs::Permissions::from_mode(0o600)).unwrap();
        symlink("../data", bin.join("link")).unwrap();
        if !sidecar.is_empty() {
            fs::write(group.path().join(SIDECAR), sidecar).unwrap();
        }
        group
    }

    fn at<'t>(tree: &'t Entries, path: &str) -> &'t Node {
        find(tree, &path.split('/').map(|name| name.as_bytes().to_vec()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn owners_and_modes_do_not_come_from_the_checkout() {
        let tree = read(group("").path()).unwrap();
        assert_eq!(at(&tree, "usr/bin/tool").meta.mode, 0o755);
        assert_eq!(at(&tree, "usr/data").meta.mode, 0o644);
        assert_eq!(at(&tree, "usr/bin").meta.mode, 0o755);
        assert_eq!(at(&tree, "usr/bin/link").kind, Kind::Symlink(b"../data".to_vec()));
        assert!((at(&tree, "usr/data").meta.uid, at(&tree, "usr/data").meta.gid) == (0, 0));
    }

    #[test]
    fn the_sidecar_changes_what_it_names() {
        let tree = read(
            group(
                "[\"usr/data\"]\nmode = \"4640\"\ngid = 42\n[\"var/empty\"]\ndirectory = true\nmode = \"0700\"\n\
                 [\"usr/bin/tool\".xattrs]\n\"security.capability\" = \"01ff\"\n",
            )
            .path(),
        )
        .unwrap();
        assert_eq!(at(&tree, "usr/data").meta.mode, 0o4640);
        assert_eq!(at(&tree, "usr/data").meta.gid, 42);
        assert_eq!(at(&tree, "var/empty").meta.mode, 0o700);
        assert_eq!(at(&tree, "usr/bin/tool").meta.xattrs[&b"security.capability"[..]], [1, 255]);
        assert!(!tree.contains_key(SIDECAR.as_bytes()));
    }

    #[test]
    fn a_wrong_sidecar_is_explained() {
        for (sidecar, word) in [
            ("[\"usr/nothing\"]\nmode = \"0600\"\n", "no such file"),
            ("[\"usr/data\"]\nmode = \"9\"\n", "octal"),
            ("[\"usr/data\"]\nmod = \"0600\"\n", "line 2"),
            ("[\"/usr/data\"]\nuid = 1\n", "without `/`"),
            ("[\"usr/data\"]\ndirectory = true\n", "not a directory"),
        ] {
            let error = read(group(sidecar).path()).unwrap_err().to_string();
            assert!(error.contains(word), "{sidecar}: {error}");
        }
    }
}
