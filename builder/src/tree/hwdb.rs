//! `/usr/lib/udev/hwdb.bin`, which `systemd-hwdb update` would have made of `hwdb.d/*.hwdb`.
//!
//! The file is a trie over match patterns (src/libsystemd/sd-hwdb/hwdb-internal.h): a header, nodes with their
//! child and value tables, and a string table in which equal strings stand once. Numbers are little-endian.
//! Values carry file name, line and priority (version 2 entries), as current systemd wants them.

use super::{Node, NotADirectory};
use std::collections::{BTreeMap, HashMap};

const SIGNATURE: &[u8; 8] = b"KSLPHHRH";
const HEADER: u64 = 80;
const NODE: u64 = 24;
const CHILD: u64 = 16;
const VALUE: u64 = 32;
/// The form of the file is the tool's; this is the systemd release whose form is written.
const TOOL_VERSION: u64 = 257;

/// Why there is no hardware database.
#[derive(Debug, thiserror::Error)]
pub enum HwdbError {
    /// A file could not be read.
    #[error("hwdb: {0}")]
    Io(#[from] std::io::Error),
    /// A file is in the way.
    #[error(transparent)]
    Tree(#[from] NotADirectory),
}

/// One property's value, and where it was said.
#[derive(Debug, Clone, Copy)]
struct Value<'t> {
    value: &'t str,
    file: usize,
    line: u32,
}

/// Properties by key.
type Properties<'t> = BTreeMap<&'t str, Value<'t>>;

/// A pattern with its properties. The trie is never built: in sorted patterns, every node is a run of neighbours.
type Entry<'t> = (&'t [u8], Properties<'t>);

/// Makes `hwdb.bin` of the tree's `hwdb.d` and takes the sources away; does nothing where there are none.
///
/// # Errors
/// [`HwdbError`].
pub fn apply(root: &mut Node) -> Result<(), HwdbError> {
    let Some(entries) = root.get("usr/lib/udev/hwdb.d").and_then(Node::entries) else { return Ok(()) };
    let mut files = Vec::new();
    for (name, node) in entries {
        let name = String::from_utf8_lossy(name).into_owned();
        if let (Some(content), true) = (node.content(), name.ends_with(".hwdb")) {
            let text = String::from_utf8_lossy(&content.read()?).into_owned();
            files.push((format!("/usr/lib/udev/hwdb.d/{name}"), text));
        }
    }
    if files.is_empty() {
        return Ok(());
    }
    root.insert("usr/lib/udev/hwdb.bin", Node::file(0o444, compile(&files)))?;
    root.remove("usr/lib/udev/hwdb.d");
    Ok(())
}

/// Compiles files given as (path, text), in this order; a later property replaces an earlier one.
fn compile(files: &[(String, String)]) -> Vec<u8> {
    let mut patterns: BTreeMap<&[u8], Properties<'_>> = BTreeMap::new();
    for (file, (_, text)) in files.iter().enumerate() {
        let mut matches: Vec<&str> = Vec::new();
        let mut in_properties = false;
        for (index, line) in text.lines().enumerate() {
            if line.starts_with('#') {
                continue;
            }
            let line = line.split('#').next().unwrap_or_default().trim_end();
            match line.strip_prefix(' ') {
                None if line.is_empty() => matches.clear(),
                None => {
                    if in_properties {
                        matches.clear();
                    }
                    matches.push(line);
                }
                Some(property) => {
                    let Some((key, value)) = property.split_once('=') else { continue };
                    let value = Value { value, file, line: index as u32 + 1 };
                    for pattern in &matches {
                        let properties = patterns.entry(pattern.as_bytes()).or_default();
                        properties.insert(key.trim_end(), value);
                    }
                }
            }
            in_properties = line.starts_with(' ');
        }
    }
    let entries: Vec<Entry<'_>> = patterns.into_iter().collect();
    Writer::new(files).write(&entries)
}

/// Lays nodes out, children first, and gathers the strings.
struct Writer<'a> {
    files: &'a [(String, String)],
    nodes: Vec<u8>,
    strings: Vec<u8>,
    known: HashMap<Vec<u8>, u64>,
    /// Places in `nodes` that hold an offset into the strings, to be moved behind the nodes.
    references: Vec<usize>,
}

impl<'a> Writer<'a> {
    fn new(files: &'a [(String, String)]) -> Self {
        // Offset 0 is the empty string.
        Self {
            files,
            nodes: Vec::new(),
            strings: vec![0],
            known: HashMap::from([(Vec::new(), 0)]),
            references: Vec::new(),
        }
    }

    fn string(&mut self, text: &[u8]) -> u64 {
        if let Some(at) = self.known.get(text) {
            return *at;
        }
        let at = self.strings.len() as u64;
        self.strings.extend_from_slice(text);
        self.strings.push(0);
        self.known.insert(text.to_vec(), at);
        at
    }

    fn reference(&mut self, at: u64) {
        self.references.push(self.nodes.len());
        self.number(at);
    }

    fn number(&mut self, number: u64) {
        self.nodes.extend_from_slice(&number.to_le_bytes());
    }

    fn write(mut self, entries: &[Entry<'_>]) -> Vec<u8> {
        let root_at = self.node(entries, 0);
        let strings_at = HEADER + self.nodes.len() as u64;
        for at in std::mem::take(&mut self.references) {
            let mut offset = [0; 8];
            offset.copy_from_slice(&self.nodes[at..at + 8]);
            let moved = u64::from_le_bytes(offset) + strings_at;
            self.nodes[at..at + 8].copy_from_slice(&moved.to_le_bytes());
        }
        let size = strings_at + self.strings.len() as u64;
        let mut file = SIGNATURE.to_vec();
        let (nodes, strings) = (self.nodes.len() as u64, self.strings.len() as u64);
        for number in [TOOL_VERSION, size, HEADER, NODE, CHILD, VALUE, root_at, nodes, strings] {
            file.extend_from_slice(&number.to_le_bytes());
        }
        file.extend(self.nodes);
        file.extend(self.strings);
        file
    }

    /// Appends the node of `entries`, which are sorted and agree in their first `depth` bytes; gives back its offset
    /// in the file.
    fn node(&mut self, entries: &[Entry<'_>], depth: usize) -> u64 {
        let (first, last) = match (entries.first(), entries.last()) {
            (Some((first, _)), Some((last, _))) => (*first, *last),
            _ => (&[][..], &[][..]),
        };
        let end = first.iter().zip(last).take_while(|(a, b)| a == b).count();
        let (properties, longer) = match entries.split_first() {
            Some(((pattern, properties), rest)) if pattern.len() == end => (Some(properties), rest),
            _ => (None, entries),
        };
        let children: Vec<(u8, u64)> = longer
            .chunk_by(|(a, _), (b, _)| a[end] == b[end])
            .map(|run| (run[0].0[end], self.node(run, end + 1)))
            .collect();
        let at = HEADER + self.nodes.len() as u64;
        let prefix = self.string(&first[depth..end]);
        self.reference(prefix);
        self.nodes.push(children.len() as u8);
        self.nodes.extend_from_slice(&[0; 7]);
        self.number(properties.map_or(0, Properties::len) as u64);
        for (byte, child) in children {
            self.nodes.push(byte);
            self.nodes.extend_from_slice(&[0; 7]);
            self.number(child);
        }
        for (key, value) in properties.into_iter().flatten() {
            // udev asks for keys with a leading space: what has one is a property.
            let key = format!(" {key}");
            let files = self.files;
            for text in [key.as_str(), value.value, files[value.file].0.as_str()] {
                let at = self.string(text.as_bytes());
                self.reference(at);
            }
            self.nodes.extend_from_slice(&value.line.to_le_bytes());
            self.nodes.extend_from_slice(&(value.file as u16 + 1).to_le_bytes());
            self.nodes.extend_from_slice(&[0; 2]);
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn systemd_reads_what_we_write() {
        let text = "# c\npci:v00008086*\npci:v00008087*\n ID_VENDOR_FROM_DATABASE=Intel\n\npci:v00008086d00001533*\n ID_MODEL_FROM_DATABASE=I210\n\nusb:v1*\n A=b\n";
        let later = "pci:v00008086d*\n ID_VENDOR_FROM_DATABASE=Other\n";
        let bytes = compile(&[("a".into(), text.into()), ("b".into(), later.into())]);
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("usr/lib/udev");
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join("hwdb.bin"), bytes).unwrap();
        let Ok(output) = Command::new("systemd-hwdb")
            .arg("query")
            .arg("pci:v00008086d00001533sv0")
            .env("SYSTEMD_HWDB_PATH", "")
            .arg(format!("--root={}", directory.path().display()))
            .output()
        else {
            println!("skipped: no systemd-hwdb on this machine");
            return;
        };
        let got = String::from_utf8_lossy(&output.stdout).into_owned();
        if got.is_empty() {
            println!(
                "skipped: this systemd-hwdb cannot query another root: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            return;
        }
        assert!(got.contains("ID_MODEL_FROM_DATABASE=I210"), "{got}");
    }

    #[test]
    fn equal_strings_stand_once() {
        let text = |n: usize| (format!("f{n}"), "a*\n K=same\n\nb*\n K=same\n".to_owned());
        let bytes = compile(&[text(1)]);
        let count = bytes.windows(4).filter(|w| *w == b"same").count();
        assert_eq!(count, 1);
        assert_eq!(&bytes[..8], SIGNATURE);
        assert_eq!(u64::from_le_bytes(bytes[16..24].try_into().unwrap()), bytes.len() as u64);
    }
}
