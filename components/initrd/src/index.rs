//! `/lib/modules.cairn`: which kernel modules the initramfs holds, what each needs, and what asks for it.
//!
//! The builder renders it from depmod's data, the initrd parses it: one type and one format for both. Text,
//! one fact a line, so that `cat` explains an initramfs:
//!
//! ```text
//! cairn-modules 1
//! module kernel/fs/squashfs/squashfs.ko.xz
//! always
//! module kernel/drivers/block/virtio_blk.ko.xz
//! needs kernel/drivers/virtio/virtio.ko.xz
//! alias virtio:d00000002v*
//! module kernel/drivers/virtio/virtio.ko.xz
//! ```
//!
//! - `module PATH` opens an entry. PATH is below `/lib/modules/<kernel release>/` and ends in `.ko`, or in
//!   `.ko.xz` or `.ko.zst` if the kernel decompresses modules itself (`CONFIG_MODULE_DECOMPRESS`).
//! - `needs PATH`: a module to load before it; hard dependencies and soft ones (`softdep pre:`) alike. It has
//!   an entry of its own.
//! - `alias PATTERN`: load it when a device with a matching modalias appears (see [`crate::glob`]).
//! - `always`: load it whatever the hardware. Always-modules are loaded in the order of the file.

use std::collections::HashMap;

/// Where the index is in the initramfs.
pub const PATH: &str = "/lib/modules.cairn";
const FIRST_LINE: &str = "cairn-modules 1";

/// One kernel module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Module {
    /// Path below `/lib/modules/<release>/`.
    pub path: String,
    /// Loaded whatever the hardware.
    pub always: bool,
    /// Paths of the modules that must be loaded before.
    pub needs: Vec<String>,
    /// Modalias patterns.
    pub aliases: Vec<String>,
}

/// The checked index: every path is well-formed and stands once, every need has an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModuleIndex {
    modules: Vec<Module>,
    /// Positions of each module's needs.
    needs: Vec<Vec<usize>>,
}

/// An index that contradicts itself or is not in the format.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// The first line is another one.
    #[error("module index: the first line is not `{FIRST_LINE}`")]
    Format,
    /// A line that means nothing; lines count from 1.
    #[error("module index: line {line}: `{text}` is not understood")]
    Line {
        /// Number of the line.
        line: usize,
        /// What stands there.
        text: String,
    },
    /// A path that is absolute, climbs, has white space at an end or a line break, or is no module.
    #[error(
        "module index: `{0}` is not the path of a .ko, .ko.xz or .ko.zst file below /lib/modules/<release>"
    )]
    Path(String),
    /// An alias that would not survive being written as one line.
    #[error("module index: `{0}` cannot be an alias")]
    Alias(String),
    /// Two entries for the same path.
    #[error("module index: `{0}` is there twice")]
    Twice(String),
    /// A need without an entry.
    #[error("module index: `{module}` needs `{missing}`, which is not in the index")]
    Missing {
        /// The module that needs it.
        module: String,
        /// What it needs.
        missing: String,
    },
}

impl ModuleIndex {
    /// Checks a list of modules.
    pub fn new(modules: Vec<Module>) -> Result<Self, IndexError> {
        let mut positions = HashMap::with_capacity(modules.len());
        for (position, module) in modules.iter().enumerate() {
            if !is_module_path(&module.path) {
                return Err(IndexError::Path(module.path.clone()));
            }
            if let Some(bad) = module.aliases.iter().find(|alias| !is_one_line(alias)) {
                return Err(IndexError::Alias(bad.clone()));
            }
            if positions.insert(module.path.as_str(), position).is_some() {
                return Err(IndexError::Twice(module.path.clone()));
            }
        }
        let position = |module: &Module, path: &String| {
            positions
                .get(path.as_str())
                .copied()
                .ok_or_else(|| IndexError::Missing { module: module.path.clone(), missing: path.clone() })
        };
        let needs = modules
            .iter()
            .map(|module| module.needs.iter().map(|path| position(module, path)).collect())
            .collect::<Result<_, _>>()?;
        Ok(Self { needs, modules })
    }

    /// Reads the text form.
    pub fn parse(text: &str) -> Result<Self, IndexError> {
        let mut lines = text.lines().enumerate();
        if lines.next().is_none_or(|(_, first)| first != FIRST_LINE) {
            return Err(IndexError::Format);
        }
        let mut modules: Vec<Module> = Vec::new();
        for (index, text) in lines {
            match (text.split_once(' '), modules.last_mut()) {
                (Some(("module", path)), _) => {
                    modules.push(Module { path: path.to_owned(), ..Module::default() })
                }
                (Some(("needs", path)), Some(module)) => module.needs.push(path.to_owned()),
                (Some(("alias", pattern)), Some(module)) => module.aliases.push(pattern.to_owned()),
                (None, Some(module)) if text == "always" => module.always = true,
                _ => return Err(IndexError::Line { line: index + 1, text: text.to_owned() }),
            }
        }
        Self::new(modules)
    }

    /// Writes the text form; [`Self::parse`] gives the same index back.
    pub fn render(&self) -> String {
        let mut text = format!("{FIRST_LINE}\n");
        for module in &self.modules {
            let always = if module.always { "always\n" } else { "" };
            text.push_str(&format!("module {}\n{always}", module.path));
            module.needs.iter().for_each(|path| text.push_str(&format!("needs {path}\n")));
            module.aliases.iter().for_each(|alias| text.push_str(&format!("alias {alias}\n")));
        }
        text
    }

    /// All modules, in the order of the file.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// Positions of the modules to load whatever the hardware.
    pub fn always(&self) -> impl Iterator<Item = usize> {
        self.modules.iter().enumerate().filter(|(_, module)| module.always).map(|(position, _)| position)
    }

    /// Positions of the modules that a device with this modalias asks for.
    pub fn wanted_by(&self, modalias: &str) -> impl Iterator<Item = usize> {
        let wants =
            move |module: &Module| module.aliases.iter().any(|alias| crate::glob::matches(alias, modalias));
        self.modules.iter().enumerate().filter(move |(_, module)| wants(module)).map(|(position, _)| position)
    }

    /// `wanted` and all it needs, each once, needs first. A cycle, which depmod would not make, is cut.
    pub fn load_order(&self, wanted: impl IntoIterator<Item = usize>) -> Vec<usize> {
        let mut seen = vec![false; self.modules.len()];
        let mut order = Vec::new();
        for position in wanted {
            self.visit(position, &mut seen, &mut order);
        }
        order
    }

    fn visit(&self, position: usize, seen: &mut [bool], order: &mut Vec<usize>) {
        if !std::mem::replace(&mut seen[position], true) {
            self.needs[position].iter().for_each(|&need| self.visit(need, seen, order));
            order.push(position);
        }
    }
}

fn is_one_line(text: &str) -> bool {
    !text.is_empty() && !text.contains(['\n', '\r'])
}

fn is_module_path(path: &str) -> bool {
    let plain = path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    plain && is_one_line(path) && [".ko", ".ko.xz", ".ko.zst"].iter().any(|end| path.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn module(path: &str, needs: &[&str], aliases: &[&str], always: bool) -> Module {
        let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
        Module { path: path.to_owned(), always, needs: owned(needs), aliases: owned(aliases) }
    }

    fn sample() -> ModuleIndex {
        ModuleIndex::new(vec![
            module("kernel/squashfs.ko.xz", &[], &["fs-squashfs"], true),
            module(
                "kernel/virtio_blk.ko.xz",
                &["kernel/virtio.ko", "kernel/ring.ko.zst"],
                &["virtio:d00000002v*"],
                false,
            ),
            module("kernel/ring.ko.zst", &[], &[], false),
            module("kernel/virtio.ko", &["kernel/ring.ko.zst"], &[], false),
        ])
        .unwrap()
    }

    #[test]
    fn the_text_form_is_the_documented_one() {
        let text = "cairn-modules 1\nmodule kernel/squashfs.ko.xz\nalways\nalias fs-squashfs\n\
            module kernel/virtio_blk.ko.xz\nneeds kernel/virtio.ko\nneeds kernel/ring.ko.zst\nalias virtio:d00000002v*\n\
            module kernel/ring.ko.zst\nmodule kernel/virtio.ko\nneeds kernel/ring.ko.zst\n";
        assert_eq!(sample().render(), text);
        assert_eq!(ModuleIndex::parse(text).unwrap(), sample());
    }

    #[test]
    fn needs_come_first_and_once() {
        let index = sample();
        assert_eq!(index.always().collect::<Vec<_>>(), [0]);
        let wanted: Vec<_> = index.wanted_by("virtio:d00000002v00001AF4").collect();
        assert_eq!(wanted, [1]);
        assert_eq!(index.load_order(wanted), [2, 3, 1]);
        assert_eq!(index.load_order([3, 0, 2]), [2, 3, 0]);
        assert_eq!(index.wanted_by("virtio:d00000001v00001AF4").count(), 0);
    }

    #[test]
    fn a_cycle_ends() {
        let index = ModuleIndex::new(vec![
            module("a.ko", &["b.ko"], &[], false),
            module("b.ko", &["a.ko"], &[], false),
        ])
        .unwrap();
        assert_eq!(index.load_order([0]), [1, 0]);
    }

    #[test]
    fn contradictions_are_refused() {
        use IndexError::*;
        let twice = vec![module("a.ko", &[], &[], false), module("a.ko", &[], &[], false)];
        assert_eq!(ModuleIndex::new(twice), Err(Twice("a.ko".into())));
        let missing = vec![module("a.ko", &["b.ko"], &[], false)];
        assert_eq!(ModuleIndex::new(missing), Err(Missing { module: "a.ko".into(), missing: "b.ko".into() }));
        for path in ["", "/a.ko", "../a.ko", "a/./b.ko", "a.txt", "a\nb.ko"] {
            assert_eq!(ModuleIndex::new(vec![module(path, &[], &[], false)]), Err(Path(path.into())));
        }
        let alias = vec![module("a.ko", &[], &["x\nalways"], false)];
        assert_eq!(ModuleIndex::new(alias), Err(Alias("x\nalways".into())));
        for (text, expected) in [
            ("", Format),
            ("cairn-modules 2\n", Format),
            ("cairn-modules 1\nalways\n", Line { line: 2, text: "always".into() }),
            ("cairn-modules 1\nmodule a.ko\nneed b\n", Line { line: 3, text: "need b".into() }),
        ] {
            assert_eq!(ModuleIndex::parse(text), Err(expected));
        }
    }

    proptest! {
        #[test]
        fn what_is_rendered_parses_to_the_same(
            entries in proptest::collection::btree_map("[a-z]{1,6}(/[a-z_]{1,6})?\\.ko(\\.xz)?", (any::<bool>(), proptest::collection::vec("[ -~]{1,12}", 0..4)), 0..8)
        ) {
            let first = entries.keys().next().cloned();
            let modules = entries.into_iter().map(|(path, (always, aliases))| Module { path, always, aliases, needs: first.iter().cloned().collect() });
            let index = ModuleIndex::new(modules.collect()).unwrap();
            prop_assert_eq!(ModuleIndex::parse(&index.render()).unwrap(), index);
        }
    }
}
