//! The initramfs: our `/init`, the modules that reach the disk, and the index that tells which to load.

use crate::tree::{
    Node, NotADirectory,
    depmod::{self, Module},
};
use cairn_initrd::index::{self, IndexError, ModuleIndex};
use std::collections::BTreeSet;

/// Modules that every boot needs: they make the verified root, whatever disk it is on. Names that the kernel has
/// built in are passed over.
const ALWAYS: [&str; 5] = ["squashfs", "dm_mod", "dm_verity", "overlay", "loop"];
/// What verity's and squashfs's own code asks the crypto layer for by name, which `depends=` does not tell.
const HASHES: [&str; 3] = ["sha256_ssse3", "sha256_generic", "crc32c_intel"];

/// Why there is no initramfs.
#[derive(Debug, thiserror::Error)]
pub enum InitrdError {
    /// A module could not be read.
    #[error("initrd: kernel module {path}: {source}")]
    Module {
        /// Path below the release's directory.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The index cannot say it.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A file in the way.
    #[error(transparent)]
    Tree(#[from] NotADirectory),
}

/// The tree of the initramfs.
///
/// `root` holds the modules of kernel `release`, described by `modules`; `wanted` are patterns over module names
/// for the drivers of disks; `init` is our program. Modules go in without their compression: the archive is
/// compressed as a whole, which is smaller, and the kernel has one thing less to do.
///
/// # Errors
/// [`InitrdError`].
pub fn tree(
    root: &Node,
    release: &str,
    modules: &[Module],
    wanted: &[String],
    init: Node,
) -> Result<Node, InitrdError> {
    let mut initrd = Node::directory();
    for directory in ["dev", "proc", "sys", "run", "sysroot"] {
        initrd.insert(directory, Node::directory())?;
    }
    let matching =
        modules.iter().filter(|m| wanted.iter().any(|w| is_match(w, &m.name))).map(|m| m.name.as_str());
    let carried = depmod::closure(modules, ALWAYS.into_iter().chain(HASHES).chain(matching));
    let always: BTreeSet<&str> = ALWAYS.into_iter().chain(HASHES).collect();
    let base = format!("usr/lib/modules/{release}");
    let mut entries = Vec::new();
    for module in &carried {
        let failed = |source| InitrdError::Module { path: module.path.clone(), source };
        let Some(content) = root.get(format!("{base}/{}", module.path)).and_then(Node::content) else {
            continue;
        };
        let bytes = content.read().and_then(|b| depmod::decompress(&module.path, b)).map_err(failed)?;
        initrd.insert(format!("lib/modules/{release}/{}", plain(&module.path)), Node::file(0o644, bytes))?;
        let direct = module.depends.iter().chain(&module.soft_pre);
        let needs = carried.iter().filter(|other| direct.clone().any(|name| *name == other.name));
        entries.push(index::Module {
            path: plain(&module.path),
            always: always.contains(module.name.as_str()),
            needs: needs.map(|other| plain(&other.path)).collect(),
            aliases: module.aliases.clone(),
        });
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let text = ModuleIndex::new(entries)?.render();
    initrd.insert(index::PATH.trim_start_matches('/'), Node::file(0o644, text.into_bytes()))?;
    initrd.insert("init", init)?;
    Ok(initrd)
}

/// A module's path when it is stored without compression.
fn plain(path: &str) -> String {
    path.trim_end_matches(".xz").trim_end_matches(".zst").to_owned()
}

/// `-` and `_` mean the same in module names.
fn is_match(pattern: &str, name: &str) -> bool {
    crate::tree::glob::matches(pattern.replace('-', "_").as_bytes(), name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(path: &str, depends: &[&str]) -> Module {
        Module {
            name: depmod::name_of(path),
            path: path.into(),
            depends: depends.iter().map(|d| (*d).to_owned()).collect(),
            ..Module::default()
        }
    }

    #[test]
    fn drivers_come_with_what_they_need_and_the_index_parses() {
        let modules = [
            module("kernel/md/dm-verity.ko", &["dm_bufio"]),
            module("kernel/md/dm-bufio.ko", &[]),
            module("kernel/block/virtio_blk.ko", &[]),
            module("kernel/sound/snd.ko", &[]),
        ];
        let mut root = Node::directory();
        for m in &modules {
            root.insert(format!("usr/lib/modules/6/{}", m.path), Node::file(0o644, *b"x")).unwrap();
        }
        let tree = tree(&root, "6", &modules, &["virtio-*".into()], Node::file(0o755, *b"i")).unwrap();
        let text = tree.get("lib/modules.cairn").unwrap().content().unwrap().read().unwrap();
        let index = ModuleIndex::parse(std::str::from_utf8(&text).unwrap()).unwrap();
        let paths: Vec<_> = index.modules().iter().map(|m| m.path.as_str()).collect();
        assert_eq!(paths, ["kernel/block/virtio_blk.ko", "kernel/md/dm-bufio.ko", "kernel/md/dm-verity.ko"]);
        assert_eq!(index.modules()[2].needs, ["kernel/md/dm-bufio.ko"]);
        assert!(tree.get("lib/modules/6/kernel/md/dm-verity.ko").is_some());
        assert!(tree.get("lib/modules/6/kernel/sound").is_none());
    }
}
