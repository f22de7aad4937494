//! The kernel module indexes that depmod would have written, so that udev and modprobe find modules by name
//! and by alias.
//!
//! What depends on what comes from the `depends=` entries that the kernel build put into each module
//! (`.modinfo`), so symbol tables are not read; and aliases from `alias=`. The binary files are libkmod's tries
//! (libkmod/libkmod-index.h): magic, version, then nodes, children before parents, all numbers big-endian.
//! `modules.symbols.bin` is written empty: requests by symbol name are not served.

use super::{Content, Node, NotADirectory};
use object::{Object, ObjectSection};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
};

/// Where kernels have their modules.
pub const DIRECTORY: &str = "usr/lib/modules";

const MAGIC: u32 = 0xB007_F457;
const VERSION: u32 = 0x0002_0001;
const HAS_PREFIX: u32 = 0x8000_0000;
const HAS_VALUES: u32 = 0x4000_0000;
const HAS_CHILDREN: u32 = 0x2000_0000;

/// What a module says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Name with underscores, as `lsmod` shows it.
    pub name: String,
    /// Path below `/lib/modules/<release>`: `kernel/drivers/net/veth.ko.xz`.
    pub path: String,
    /// Names of the modules it needs loaded.
    pub depends: Vec<String>,
    /// Modules that should be loaded before it, if they are there.
    pub soft_pre: Vec<String>,
    /// Modules that should be loaded after it.
    pub soft_post: Vec<String>,
    /// Aliases, `pci:v00008086d00001533*` or `fs-ext4`.
    pub aliases: Vec<String>,
}

/// Why the modules could not be indexed.
#[derive(Debug, thiserror::Error)]
pub enum DepmodError {
    /// A module could not be read or decompressed.
    #[error("kernel module {path}: {source}")]
    Module {
        /// Path below the release's directory.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file that is no ELF object.
    #[error("kernel module {path} is not an ELF object: {source}")]
    Elf {
        /// Path below the release's directory.
        path: String,
        /// Why.
        source: object::Error,
    },
    /// A file in the way.
    #[error(transparent)]
    Tree(#[from] NotADirectory),
}

/// Reads every module below `usr/lib/modules/<release>` of the tree, on all cores, by path.
///
/// # Errors
/// The first module that cannot be read.
pub fn scan(root: &Node, release: &str) -> Result<Vec<Module>, DepmodError> {
    let mut files = Vec::new();
    if let Some(directory) = root.get(format!("{DIRECTORY}/{release}")) {
        directory.walk(&mut |path, node| {
            let path = String::from_utf8_lossy(path).into_owned();
            if let (Some(content), true) = (node.content(), is_module(&path)) {
                files.push((path, content));
            }
        });
    }
    files
        .into_par_iter()
        .map(|(path, content)| {
            let bytes = content.read().and_then(|b| decompress(&path, b));
            let bytes = bytes.map_err(|source| DepmodError::Module { path: path.clone(), source })?;
            parse(&path, &bytes).map_err(|source| DepmodError::Elf { path, source })
        })
        .collect()
}

/// Whether a path is a module's.
pub fn is_module(path: &str) -> bool {
    [".ko", ".ko.xz", ".ko.zst"].iter().any(|suffix| path.ends_with(suffix))
}

/// A module's bytes without the compression that its name tells of.
///
/// # Errors
/// Damaged data.
pub fn decompress(path: &str, bytes: Vec<u8>) -> std::io::Result<Vec<u8>> {
    let mut plain = Vec::with_capacity(bytes.len() * 4);
    if path.ends_with(".xz") {
        liblzma::read::XzDecoder::new(bytes.as_slice()).read_to_end(&mut plain)?;
    } else if path.ends_with(".zst") {
        zstd::Decoder::new(bytes.as_slice())?.read_to_end(&mut plain)?;
    } else {
        return Ok(bytes);
    }
    Ok(plain)
}

/// The name that a module file's path stands for: `kernel/fs/nfs/nfs-v4.ko.xz` is `nfs_v4`.
pub fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// Names of all modules of all kernels, those that are built in among them; `None` in a tree without modules.
pub fn names(root: &Node) -> Option<BTreeSet<String>> {
    let directory = root.get(DIRECTORY)?;
    let mut names = BTreeSet::new();
    directory.walk(&mut |path, node| {
        let path = String::from_utf8_lossy(path);
        if is_module(&path) {
            names.insert(name_of(&path));
        } else if path.ends_with("/modules.builtin")
            && let Some(Ok(text)) = node.content().map(Content::read)
        {
            names.extend(String::from_utf8_lossy(&text).lines().map(name_of));
        }
    });
    Some(names)
}

fn parse(path: &str, bytes: &[u8]) -> Result<Module, object::Error> {
    let file = object::File::parse(bytes)?;
    let mut module = Module { name: name_of(path), path: path.to_owned(), ..Module::default() };
    let Some(section) = file.section_by_name(".modinfo") else { return Ok(module) };
    let words =
        |text: &str| text.split([',', ' ']).filter(|w| !w.is_empty()).map(underscores).collect::<Vec<_>>();
    for entry in section.data()?.split(|b| *b == 0) {
        let entry = String::from_utf8_lossy(entry);
        match entry.split_once('=') {
            Some(("depends", value)) => module.depends = words(value),
            Some(("alias", value)) => module.aliases.push(value.to_owned()),
            Some(("softdep", value)) => {
                let (pre, post) = value.split_once("post:").unwrap_or((value, ""));
                module.soft_pre.extend(words(pre.trim().trim_start_matches("pre:")));
                module.soft_post.extend(words(post));
            }
            _ => {}
        }
    }
    Ok(module)
}

/// libkmod's normal form: `-` becomes `_` outside of brackets.
fn underscores(text: &str) -> String {
    let mut depth = 0;
    text.chars()
        .map(|c| {
            match c {
                '[' => depth += 1,
                ']' => depth -= 1,
                _ => {}
            }
            if c == '-' && depth == 0 { '_' } else { c }
        })
        .collect()
}

/// All that `names` need, themselves included, each after what it needs. Names without a module (built in) are
/// passed over.
pub fn closure<'a>(modules: &'a [Module], names: impl IntoIterator<Item = &'a str>) -> Vec<&'a Module> {
    let by_name: BTreeMap<&str, &Module> = modules.iter().map(|m| (m.name.as_str(), m)).collect();
    let mut done = BTreeSet::new();
    let mut order = Vec::new();
    for name in names {
        visit(name, &by_name, &mut done, &mut order);
    }
    order
}

fn visit<'a>(
    name: &str,
    by_name: &BTreeMap<&str, &'a Module>,
    done: &mut BTreeSet<&'a str>,
    order: &mut Vec<&'a Module>,
) {
    let Some(module) = by_name.get(name) else { return };
    if done.insert(&module.name) {
        for needed in module.depends.iter().chain(&module.soft_pre) {
            visit(needed, by_name, done, order);
        }
        order.push(module);
    }
}

/// Writes the indexes of `modules` into the tree's `usr/lib/modules/<release>`.
///
/// # Errors
/// A file in the way, or `modules.builtin*` that cannot be read.
pub fn apply(root: &mut Node, release: &str, modules: &[Module]) -> Result<(), DepmodError> {
    let directory = format!("{DIRECTORY}/{release}");
    let text = |name: &str| -> Result<String, DepmodError> {
        let path = format!("{directory}/{name}");
        let Some(content) = root.get(&path).and_then(Node::content) else { return Ok(String::new()) };
        let bytes = content.read().map_err(|source| DepmodError::Module { path, source })?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let files = indexes(modules, &text("modules.builtin")?, &text("modules.builtin.modinfo")?);
    for (name, bytes) in files {
        root.insert(format!("{directory}/{name}"), Node::file(0o644, bytes))?;
    }
    Ok(())
}

/// The index files, by name.
fn indexes(modules: &[Module], builtin: &str, builtin_modinfo: &str) -> Vec<(&'static str, Vec<u8>)> {
    let (mut dep, mut dep_index) = (String::new(), Trie::default());
    let (mut alias, mut alias_index) =
        ("# Aliases extracted from modules themselves.\n".to_owned(), Trie::default());
    let mut softdep = "# Soft dependencies extracted from modules themselves.\n".to_owned();
    for module in modules {
        // Nearest first: modprobe loads the list from its end.
        let needed = closure(modules, module.depends.iter().map(String::as_str));
        let mut line = format!("{}:", module.path);
        for other in needed.iter().rev() {
            line.push(' ');
            line.push_str(&other.path);
        }
        dep_index.insert(&module.name, &line);
        dep.push_str(&line);
        dep.push('\n');
        for name in &module.aliases {
            alias_index.insert(&underscores(name), &module.name);
            alias.push_str(&format!("alias {} {}\n", underscores(name), module.name));
        }
        if !module.soft_pre.is_empty() || !module.soft_post.is_empty() {
            softdep.push_str(&format!("softdep {}", module.name));
            for (label, names) in [("pre:", &module.soft_pre), ("post:", &module.soft_post)] {
                if !names.is_empty() {
                    softdep.push_str(&format!(" {label} {}", names.join(" ")));
                }
            }
            softdep.push('\n');
        }
    }
    let (mut builtin_index, mut builtin_alias) = (Trie::default(), Trie::default());
    for path in builtin.lines().filter(|l| !l.is_empty()) {
        builtin_index.insert(&name_of(path), "");
    }
    for entry in builtin_modinfo.split('\0') {
        if let Some((name, value)) = entry.split_once(".alias=") {
            builtin_alias.insert(&underscores(value), &underscores(name));
        }
    }
    vec![
        ("modules.dep", dep.into_bytes()),
        ("modules.dep.bin", dep_index.encode()),
        ("modules.alias", alias.into_bytes()),
        ("modules.alias.bin", alias_index.encode()),
        ("modules.softdep", softdep.into_bytes()),
        ("modules.symbols", b"# Requests by symbol name are not served.\n".to_vec()),
        ("modules.symbols.bin", Trie::default().encode()),
        ("modules.builtin.bin", builtin_index.encode()),
        ("modules.builtin.alias.bin", builtin_alias.encode()),
    ]
}

/// libkmod's index: a trie whose edges are bytes, with the run of bytes that nothing branches off kept as a
/// prefix in the node.
#[derive(Debug, Default)]
struct Trie {
    values: Vec<(u32, String)>,
    children: BTreeMap<u8, Trie>,
    inserted: u32,
}

impl Trie {
    fn insert(&mut self, key: &str, value: &str) {
        let order = self.inserted;
        self.inserted += 1;
        let mut node = self;
        // libkmod's nodes have room for 7-bit bytes alone.
        for byte in key.bytes().filter(u8::is_ascii) {
            node = node.children.entry(byte).or_default();
        }
        if node.values.iter().all(|(_, v)| v != value) {
            node.values.push((order, value.to_owned()));
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut file = Vec::new();
        for word in [MAGIC, VERSION, 0] {
            file.extend_from_slice(&word.to_be_bytes());
        }
        let root = self.write(Vec::new(), &mut file);
        file[8..12].copy_from_slice(&root.to_be_bytes());
        file
    }

    /// Appends this node, its children first; gives back its offset with the flags of what it has.
    fn write(&self, mut prefix: Vec<u8>, file: &mut Vec<u8>) -> u32 {
        let mut node = self;
        while node.values.is_empty() && node.children.len() == 1 {
            let Some((byte, child)) = node.children.iter().next() else { break };
            prefix.push(*byte);
            node = child;
        }
        let children: BTreeMap<u8, u32> =
            node.children.iter().map(|(byte, child)| (*byte, child.write(Vec::new(), file))).collect();
        let mut offset = file.len() as u32;
        if !prefix.is_empty() {
            file.extend_from_slice(&prefix);
            file.push(0);
            offset |= HAS_PREFIX;
        }
        if let (Some(first), Some(last)) = (children.keys().next(), children.keys().next_back()) {
            file.extend_from_slice(&[*first, *last]);
            for byte in *first..=*last {
                file.extend_from_slice(&children.get(&byte).copied().unwrap_or(0).to_be_bytes());
            }
            offset |= HAS_CHILDREN;
        }
        if !node.values.is_empty() {
            file.extend_from_slice(&(node.values.len() as u32).to_be_bytes());
            for (order, value) in &node.values {
                file.extend_from_slice(&order.to_be_bytes());
                file.extend_from_slice(value.as_bytes());
                file.push(0);
            }
            offset |= HAS_VALUES;
        }
        offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn module(path: &str, depends: &[&str], aliases: &[&str]) -> Module {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        Module {
            name: name_of(path),
            path: path.into(),
            depends: own(depends),
            aliases: own(aliases),
            ..Module::default()
        }
    }

    fn sample() -> Vec<Module> {
        vec![
            module("kernel/a.ko", &["b_c"], &["pci:v0001d*", "fs-a"]),
            module("kernel/b-c.ko", &["d"], &["pci:v0001*"]),
            module("kernel/d.ko", &[], &[]),
        ]
    }

    #[test]
    fn what_is_needed_comes_first() {
        let modules = sample();
        let names: Vec<_> = closure(&modules, ["a", "built_in"]).iter().map(|m| m.name.clone()).collect();
        assert_eq!(names, ["d", "b_c", "a"]);
    }

    #[test]
    fn modprobe_reads_what_we_write() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("lib/modules/6.0");
        std::fs::create_dir_all(base.join("kernel")).unwrap();
        for module in sample() {
            std::fs::write(base.join(&module.path), "").unwrap();
        }
        for (name, bytes) in indexes(&sample(), "kernel/fs/built-in.ko\n", "ext4.alias=fs-ext4\0") {
            std::fs::write(base.join(name), bytes).unwrap();
        }
        let run = |name: &str| {
            Command::new("modprobe")
                .args(["-S", "6.0", "-d"])
                .arg(directory.path())
                .args(["-R", name])
                .output()
        };
        for (asked, expected) in [("fs-a", "a\n"), ("pci:v0001d5", "a\nb_c\n"), ("fs-ext4", "ext4\n")] {
            let Ok(output) = run(asked) else {
                println!("skipped: no modprobe on this machine");
                return;
            };
            let got = String::from_utf8_lossy(&output.stdout).into_owned();
            let sorted = |t: &str| {
                let mut l: Vec<_> = t.lines().map(str::to_owned).collect();
                l.sort();
                l
            };
            assert_eq!(sorted(&got), sorted(expected), "{asked}");
        }
    }
}
