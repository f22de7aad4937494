//! Is the finished tree whole? No link leads nowhere, every ELF file's libraries and interpreter are there,
//! and so is every script's interpreter.
//!
//! Packages are left out on purpose (perl, debconf), so some of what the others ship cannot run on the node.
//! What is known and meant is listed by the profile; anything else is a finding, and a finding fails the build.

use super::{Kind, Node, glob};
use object::{
    Endianness, elf,
    read::elf::{Dyn, ElfFile64, FileHeader, ProgramHeader},
};
use std::collections::{BTreeMap, BTreeSet};

/// One thing that is not whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gap {
    /// A link whose target is not in the tree and not in a directory made at run time.
    DanglingLink {
        /// The link.
        path: String,
        /// Where it points.
        target: String,
    },
    /// A library that no search path has.
    MissingLibrary {
        /// The program or library.
        path: String,
        /// The name in DT_NEEDED.
        library: String,
    },
    /// An ELF or script interpreter that is not there.
    MissingInterpreter {
        /// The program.
        path: String,
        /// The interpreter.
        interpreter: String,
    },
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::DanglingLink { path, target } => {
                write!(f, "/{path} links to {target}, which is not in the image")
            }
            Self::MissingLibrary { path, library } => {
                write!(f, "/{path} needs {library}, which is not in the image")
            }
            Self::MissingInterpreter { path, interpreter } => {
                write!(f, "/{path} is run by {interpreter}, which is not in the image")
            }
        }
    }
}

/// Directories whose contents appear at run time.
const RUN_TIME: [&str; 7] = ["proc/", "sys/", "dev/", "run/", "var/", "tmp/", "etc/mtab"];

/// Walks the tree. Paths that match one of `accepted` (globs) are passed over.
///
/// # Errors
/// A file that cannot be read.
pub fn gaps(root: &Node, accepted: &[String]) -> std::io::Result<Vec<Gap>> {
    let mut files = Vec::new();
    let mut found = BTreeSet::new();
    root.walk(&mut |path, node| match &node.kind {
        Kind::Symlink(target) => {
            let text = String::from_utf8_lossy(target).into_owned();
            if root.resolve(path).is_none() && !leads_to_run_time(path, &text) {
                found.insert(Gap::DanglingLink { path: lossy(path), target: text });
            }
        }
        Kind::File(content) if content.len() > 4 => files.push((lossy(path), content, node.meta.mode)),
        _ => {}
    });
    let mut libraries: BTreeMap<(String, Vec<String>), bool> = BTreeMap::new();
    for (path, content, mode) in files {
        let start = content.read_start(256)?;
        let interpreter = if start.starts_with(b"#!") && mode & 0o111 != 0 {
            let line = start[2..].split(|b| *b == b'\n').next().unwrap_or_default();
            let text = String::from_utf8_lossy(line).into_owned();
            text.split_whitespace().next().map(str::to_owned)
        } else if start.starts_with(b"\x7fELF") && !path.ends_with(".ko") && !path.ends_with(".o") {
            let elf = elf_facts(&content.read()?);
            let own = path.rsplit_once('/').map_or("", |(directory, _)| directory).to_owned();
            for library in &elf.needed {
                let search = search_path(&elf.run_path, &own);
                let known = libraries.entry((library.clone(), search.clone())).or_insert_with(|| {
                    search.iter().any(|d| root.resolve(format!("{d}/{library}")).is_some())
                });
                if !*known {
                    found.insert(Gap::MissingLibrary { path: path.clone(), library: library.clone() });
                }
            }
            elf.interpreter
        } else {
            None
        };
        if let Some(interpreter) = interpreter
            && root.resolve(&interpreter).is_none()
        {
            found.insert(Gap::MissingInterpreter { path, interpreter });
        }
    }
    let path = |gap: &Gap| match gap {
        Gap::DanglingLink { path, .. }
        | Gap::MissingLibrary { path, .. }
        | Gap::MissingInterpreter { path, .. } => path.clone(),
    };
    let meant = |gap: &Gap| accepted.iter().any(|a| glob::matches(a.as_bytes(), path(gap).as_bytes()));
    Ok(found.into_iter().filter(|gap| !meant(gap)).collect())
}

fn leads_to_run_time(path: &[u8], target: &str) -> bool {
    let absolute = match target.strip_prefix('/') {
        Some(absolute) => absolute.to_owned(),
        None => {
            let mut parts: Vec<String> = lossy(path).split('/').map(str::to_owned).collect();
            parts.pop();
            for part in target.split('/') {
                match part {
                    ".." => drop(parts.pop()),
                    "." | "" => {}
                    name => parts.push(name.to_owned()),
                }
            }
            parts.join("/")
        }
    };
    RUN_TIME.iter().any(|d| absolute.starts_with(d) || absolute == d.trim_end_matches('/'))
}

#[derive(Debug, Default)]
struct ElfFacts {
    needed: Vec<String>,
    run_path: Vec<String>,
    interpreter: Option<String>,
}

/// What the dynamic linker would read; nothing for a file that is no 64-bit dynamic ELF.
fn elf_facts(bytes: &[u8]) -> ElfFacts {
    let mut facts = ElfFacts::default();
    let Ok(file) = ElfFile64::<Endianness>::parse(bytes) else { return facts };
    let endian = file.endian();
    let header = file.elf_header();
    if header.e_type(endian) == elf::ET_REL {
        return facts;
    }
    for segment in file.elf_program_headers() {
        if let Ok(Some(interpreter)) = segment.interpreter(endian, bytes) {
            facts.interpreter = Some(lossy(interpreter));
        }
    }
    let sections = file.elf_section_table();
    if let Ok(Some((dynamic, link))) = sections.dynamic(endian, bytes)
        && let Ok(strings) = sections.strings(endian, bytes, link)
    {
        for entry in dynamic {
            let text = || entry.string(endian, strings).map(lossy).unwrap_or_default();
            match entry.tag(endian) {
                elf::DT_NEEDED => facts.needed.push(text()),
                elf::DT_RPATH | elf::DT_RUNPATH => {
                    facts.run_path.extend(text().split(':').map(str::to_owned))
                }
                _ => {}
            }
        }
    }
    facts
}

fn search_path(run_path: &[String], own: &str) -> Vec<String> {
    let mut search: Vec<String> =
        run_path.iter().map(|d| d.replace("$ORIGIN", own).replace("${ORIGIN}", own)).collect();
    search.extend(super::ld_cache::DIRECTORIES.map(str::to_owned));
    search.push("usr/lib64".into());
    // A private library beside another: whatever program loads the one has loaded the other, by its own run path.
    search.push(own.to_owned());
    search
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_interpreters_are_followed() {
        let mut root = Node::directory();
        root.insert("a", Node::symlink("nowhere")).unwrap();
        root.insert("etc/resolv.conf", Node::symlink("../run/systemd/resolve/resolv.conf")).unwrap();
        root.insert("usr/bin/script", Node::file(0o755, *b"#!/usr/bin/perl -w\n")).unwrap();
        root.insert("usr/bin/data", Node::file(0o644, *b"#!/usr/bin/perl\n")).unwrap();
        let got = gaps(&root, &[]).unwrap();
        assert_eq!(
            got,
            [
                Gap::DanglingLink { path: "a".into(), target: "nowhere".into() },
                Gap::MissingInterpreter {
                    path: "usr/bin/script".into(),
                    interpreter: "/usr/bin/perl".into()
                },
            ]
        );
        assert!(gaps(&root, &["a".into(), "usr/bin/*".into()]).unwrap().is_empty());
    }

    #[test]
    fn a_program_of_this_machine_names_its_libraries() {
        let program = std::fs::read("/bin/ls").unwrap();
        let mut root = Node::directory();
        root.insert("usr/bin/ls", Node::file(0o755, program)).unwrap();
        let got = gaps(&root, &[]).unwrap();
        assert!(
            got.iter().any(|g| matches!(g, Gap::MissingLibrary { library, .. } if library == "libc.so.6")),
            "{got:?}"
        );
        assert!(got.iter().any(|g| matches!(g, Gap::MissingInterpreter { .. })), "{got:?}");
    }
}
