//! `/etc/ld.so.cache`, which ldconfig would have written: where the dynamic linker finds a library by its name.
//!
//! The form is glibc's "new" one (elf/cache.c, sysdeps/generic/dl-cache.h): a header, entries in the reverse of
//! the linker's own order of names (it searches by bisection), and a string table. Directories are those the
//! linker searches anyway, so the cache only saves it the searching: no ld.so.conf is consulted.

use super::{Kind, Node, NotADirectory};
use object::read::elf::ElfFile64;
use std::{cmp::Ordering, collections::BTreeMap};

/// Where libraries are, in the order in which a name is taken from them.
pub const DIRECTORIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "usr/lib"];
const MAGIC: &[u8; 20] = b"glibc-ld.so.cache1.1";
const HEADER: usize = 48;
const ENTRY: usize = 24;
/// `FLAG_ELF_LIBC6 | FLAG_X8664_LIB64`.
const FLAGS: u32 = 0x0303;
/// `cache_file_new_flags_endian_little`.
const LITTLE_ENDIAN: u8 = 2;

/// Why there is no cache.
#[derive(Debug, thiserror::Error)]
pub enum LdCacheError {
    /// A library could not be read.
    #[error("ld.so.cache: {0}")]
    Io(#[from] std::io::Error),
    /// A file is in the way of /etc.
    #[error(transparent)]
    Tree(#[from] NotADirectory),
}

/// Writes the cache for the libraries in [`DIRECTORIES`]. Gives back how many there are.
///
/// # Errors
/// [`LdCacheError`].
pub fn apply(root: &mut Node) -> Result<usize, LdCacheError> {
    let mut libraries: BTreeMap<String, String> = BTreeMap::new();
    for directory in DIRECTORIES {
        let Some(entries) = root.get(directory).and_then(Node::entries) else { continue };
        for (name, node) in entries {
            let name = String::from_utf8_lossy(name).into_owned();
            if !name.contains(".so") || matches!(node.kind, Kind::Directory(_)) {
                continue;
            }
            let Some(target) = root.resolve(format!("{directory}/{name}")) else { continue };
            let Some(content) = root.get(&target).and_then(Node::content) else { continue };
            // What the linker asks for is the SONAME; a file of another name is reached by its link.
            if soname(&content.read()?).is_some_and(|soname| soname == name) {
                libraries.entry(name.clone()).or_insert_with(|| format!("/{directory}/{name}"));
            }
        }
    }
    let count = libraries.len();
    root.insert("etc/ld.so.cache", Node::file(0o644, encode(libraries)))?;
    Ok(count)
}

/// The SONAME of a 64-bit ELF library.
fn soname(bytes: &[u8]) -> Option<String> {
    use object::{elf, read::elf::Dyn};
    let file = ElfFile64::<object::Endianness>::parse(bytes).ok()?;
    let endian = file.endian();
    let sections = file.elf_section_table();
    let (dynamic, link) = sections.dynamic(endian, bytes).ok()??;
    let strings = sections.strings(endian, bytes, link).ok()?;
    let entry = dynamic.iter().find(|d| d.tag(endian) == elf::DT_SONAME)?;
    Some(String::from_utf8_lossy(entry.string(endian, strings).ok()?).into_owned())
}

/// The file for a map from name to path.
fn encode(libraries: BTreeMap<String, String>) -> Vec<u8> {
    let mut sorted: Vec<(String, String)> = libraries.into_iter().collect();
    sorted.sort_by(|a, b| compare(b.0.as_bytes(), a.0.as_bytes()));
    let strings_at = HEADER + sorted.len() * ENTRY;
    let mut strings: Vec<u8> = Vec::new();
    let mut entries: Vec<u8> = Vec::new();
    for (name, path) in &sorted {
        // The name is the end of the path, so one string serves both.
        let at = strings_at + strings.len();
        strings.extend_from_slice(path.as_bytes());
        strings.push(0);
        let key = at + path.len() - name.len();
        entries.extend_from_slice(&FLAGS.to_le_bytes());
        entries.extend_from_slice(&(key as u32).to_le_bytes());
        entries.extend_from_slice(&(at as u32).to_le_bytes());
        entries.extend_from_slice(&[0; 12]); // OS version, unused; hardware capabilities, none.
    }
    let mut file = MAGIC.to_vec();
    file.extend_from_slice(&(sorted.len() as u32).to_le_bytes());
    file.extend_from_slice(&(strings.len() as u32).to_le_bytes());
    file.extend_from_slice(&[LITTLE_ENDIAN, 0, 0, 0]);
    file.resize(HEADER, 0); // No extensions.
    file.extend(entries);
    file.extend(strings);
    file
}

/// glibc's order of library names: runs of digits compare as numbers, and a digit sorts after anything else
/// (`_dl_cache_libcmp`, elf/dl-cache.c).
fn compare(mut a: &[u8], mut b: &[u8]) -> Ordering {
    fn number(text: &[u8]) -> (u64, &[u8]) {
        let end = text.iter().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
        let value =
            text[..end].iter().fold(0_u64, |n, d| n.wrapping_mul(10).wrapping_add(u64::from(d - b'0')));
        (value, &text[end..])
    }
    loop {
        match (a.first(), b.first()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(x), Some(y)) => match (x.is_ascii_digit(), y.is_ascii_digit()) {
                (true, true) => {
                    let ((n, rest_a), (m, rest_b)) = (number(a), number(b));
                    if n != m {
                        return n.cmp(&m);
                    }
                    (a, b) = (rest_a, rest_b);
                }
                (true, false) => return Ordering::Greater,
                (false, true) => return Ordering::Less,
                (false, false) => {
                    if x != y {
                        return x.cmp(y);
                    }
                    (a, b) = (&a[1..], &b[1..]);
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn numbers_in_names_compare_as_numbers() {
        for (a, b, expected) in [
            ("libc.so.6", "libc.so.6", Ordering::Equal),
            ("libx.so.10", "libx.so.9", Ordering::Greater),
            ("liba.so", "libb.so", Ordering::Less),
            ("lib1.so", "liba.so", Ordering::Greater),
        ] {
            assert_eq!(compare(a.as_bytes(), b.as_bytes()), expected, "{a} {b}");
        }
    }

    #[test]
    fn ldconfig_reads_what_we_write() {
        let libraries = [("libc.so.6", "/usr/lib/libc.so.6"), ("libz.so.1", "/usr/lib/x/libz.so.1")];
        let file = tempfile::NamedTempFile::new().unwrap();
        let map = libraries.iter().map(|(n, p)| ((*n).to_owned(), (*p).to_owned())).collect();
        std::fs::write(file.path(), encode(map)).unwrap();
        let Ok(output) = Command::new("/sbin/ldconfig").arg("-p").arg("-C").arg(file.path()).output() else {
            println!("skipped: no ldconfig on this machine");
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for (name, path) in libraries {
            assert!(text.contains(&format!("{name} (libc6,x86-64) => {path}")), "{text}");
        }
    }
}
