//! Long names and the short ones that stand beside them.

use super::{ENTRY, LONGEST_NAME, UNITS_PER_ENTRY, attribute};
use std::collections::HashSet;

/// A short name as a directory entry holds it: eight characters and three, padded with spaces.
pub(super) type ShortName = [u8; 11];

/// What is wrong with a name; `None` when FAT can hold it.
pub(super) fn fault(name: &str) -> Option<&'static str> {
    if name.is_empty() || name == "." || name == ".." {
        Some("the name is not one a file can have")
    } else if name.chars().any(|c| c < ' ' || "\"*/:<>?\\|\u{7f}".contains(c)) {
        Some("the name has a character that FAT does not allow")
    } else if name.ends_with(['.', ' ']) || name.starts_with(' ') {
        Some("the name starts or ends with a space or ends with a dot")
    } else if name.encode_utf16().count() > LONGEST_NAME {
        Some("the name is longer than 255 UTF-16 units")
    } else {
        None
    }
}

/// Whether a character may be in a short name.
fn is_short(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit() || b"$%'-_@~`!(){}^#&".contains(&byte)
}

fn pad(base: &[u8], extension: &[u8]) -> ShortName {
    let mut short = [b' '; 11];
    short[..base.len()].copy_from_slice(base);
    short[8..8 + extension.len()].copy_from_slice(extension);
    short
}

/// The short name that says all of `name`, if there is one.
fn exact(name: &str) -> Option<ShortName> {
    let (base, extension) = name.split_once('.').unwrap_or((name, ""));
    let fits = |part: &str, most| part.len() <= most && part.bytes().all(is_short);
    let dotless = !name.ends_with('.');
    (dotless && !base.is_empty() && fits(base, 8) && fits(extension, 3))
        .then(|| pad(base.as_bytes(), extension.as_bytes()))
}

/// A short name for `name` that is not in `taken`, and whether the long one must be stored too.
///
/// `None` when a million names with one beginning are not enough.
pub(super) fn short(name: &str, taken: &HashSet<ShortName>) -> Option<(ShortName, bool)> {
    if let Some(short) = exact(name) {
        return (!taken.contains(&short)).then_some((short, false)).or_else(|| numbered(name, taken));
    }
    if let Some(short) = exact(&name.to_ascii_uppercase()).filter(|short| !taken.contains(short)) {
        return Some((short, true));
    }
    numbered(name, taken)
}

/// `LONGNA~1.EXT` and so on.
fn numbered(name: &str, taken: &HashSet<ShortName>) -> Option<(ShortName, bool)> {
    let simplify = |part: &str, most: usize| -> Vec<u8> {
        part.chars()
            .filter(|c| *c != '.' && *c != ' ')
            .map(|c| c.to_ascii_uppercase())
            .map(|c| if c.is_ascii() && is_short(c as u8) { c as u8 } else { b'_' })
            .take(most)
            .collect()
    };
    let (base, extension) = match name.rsplit_once('.') {
        Some((base, extension)) if !base.is_empty() => (base, extension),
        _ => (name, ""),
    };
    let (base, extension) = (simplify(base, 8), simplify(extension, 3));
    (1..1_000_000u32)
        .map(|number| {
            let suffix = format!("~{number}");
            let kept = base.len().min(8 - suffix.len());
            pad(&[&base[..kept], suffix.as_bytes()].concat(), &extension)
        })
        .find(|short| !taken.contains(short))
        .map(|short| (short, true))
}

/// Ties long-name entries to their short one.
pub(super) fn checksum(short: &ShortName) -> u8 {
    short.iter().fold(0, |sum: u8, byte| sum.rotate_right(1).wrapping_add(*byte))
}

/// Where the 13 units of a long-name entry are.
const UNIT_OFFSETS: [usize; UNITS_PER_ENTRY] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
/// Marks the entry with a name's end, which comes first on disk.
const LAST: u8 = 0x40;

/// The long-name entries to be put in front of the short one.
pub(super) fn long_entries(name: &str, short: &ShortName) -> Vec<u8> {
    let mut units: Vec<u16> = name.encode_utf16().collect();
    if !units.len().is_multiple_of(UNITS_PER_ENTRY) {
        units.push(0);
        units.resize(units.len().next_multiple_of(UNITS_PER_ENTRY), 0xffff);
    }
    let parts: Vec<_> = units.chunks(UNITS_PER_ENTRY).collect();
    let mut entries = Vec::with_capacity(parts.len() * ENTRY);
    for (index, part) in parts.iter().enumerate().rev() {
        let mut entry = [0; ENTRY];
        entry[0] = (index as u8 + 1) | if index + 1 == parts.len() { LAST } else { 0 };
        entry[11] = attribute::LONG_NAME;
        entry[13] = checksum(short);
        for (offset, unit) in UNIT_OFFSETS.into_iter().zip(*part) {
            entry[offset..offset + 2].copy_from_slice(&unit.to_le_bytes());
        }
        entries.extend(entry);
    }
    entries
}

/// Collects long-name entries while a directory is read.
#[derive(Debug, Default)]
pub(super) struct LongName {
    /// Units of the parts seen, the last part first.
    parts: Vec<[u16; UNITS_PER_ENTRY]>,
    /// The number the next part must have; 0 when the name is whole.
    expected: u8,
    checksum: u8,
}

impl LongName {
    /// Takes one long-name entry.
    pub(super) fn push(&mut self, entry: &[u8; ENTRY]) {
        let number = entry[0] & !LAST;
        if entry[0] & LAST != 0 {
            *self = Self { parts: Vec::new(), expected: number, checksum: entry[13] };
        }
        let most = (LONGEST_NAME.div_ceil(UNITS_PER_ENTRY)) as u8;
        if number == 0 || number > most || number != self.expected || entry[13] != self.checksum {
            *self = Self::default();
            return;
        }
        self.parts.push(UNIT_OFFSETS.map(|offset| u16::from_le_bytes([entry[offset], entry[offset + 1]])));
        self.expected = number - 1;
    }

    /// The name, when it is whole and belongs to `short`; starts over either way.
    pub(super) fn take(&mut self, short: &ShortName) -> Option<String> {
        let found = std::mem::take(self);
        if found.parts.is_empty() || found.expected != 0 || found.checksum != checksum(short) {
            return None;
        }
        let units: Vec<u16> =
            found.parts.iter().rev().flatten().copied().take_while(|unit| *unit != 0).collect();
        Some(String::from_utf16_lossy(&units))
    }
}

/// A short name in the form people write.
pub(super) fn display(short: &ShortName) -> String {
    let [base, extension] =
        [&short[..8], &short[8..]].map(|part| String::from_utf8_lossy(part).trim_end().to_owned());
    if extension.is_empty() { base } else { format!("{base}.{extension}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<(String, bool)> {
        let mut taken = HashSet::new();
        list.iter()
            .map(|name| {
                let (short, long) = short(name, &taken).unwrap();
                assert!(taken.insert(short), "{name} got a name that was taken");
                (display(&short), long)
            })
            .collect()
    }

    #[test]
    fn short_names_are_exact_upper_case_or_numbered() {
        let expected = [
            ("BOOTX64.EFI", false),
            ("LOADER", true),
            ("LOADER~1.CON", true),
            ("CAIRN_~1.EFI", true),
            ("CAIRN_~2.EFI", true),
            ("SYSTEM~1.EFI", true),
            ("GR__E~1.TXT", true),
            ("HIDDEN~1", true),
            ("NAMETE~1.DEF", true),
        ];
        let given = [
            "BOOTX64.EFI",
            "loader",
            "loader.conf",
            "cairn_0.1.0+3.efi",
            "cairn_0.1.1+3.efi",
            "systemd-bootx64.efi",
            "größe.txt",
            ".hidden-file",
            "name.ten.abc.def",
        ];
        assert_eq!(names(&given), expected.map(|(name, long)| (name.to_owned(), long)));
    }

    #[test]
    fn many_alike_names_stay_different() {
        let many: Vec<String> = (0..120).map(|n| format!("a long name number {n}.txt")).collect();
        names(&many.iter().map(String::as_str).collect::<Vec<_>>());
    }

    #[test]
    fn long_names_are_put_together_again() {
        for name in ["loader.conf", "thirteen char", "x", "größe und 𝄞", &"n".repeat(255)] {
            let (short, _) = short(name, &HashSet::new()).unwrap();
            let mut long = LongName::default();
            for entry in long_entries(name, &short).chunks_exact(ENTRY) {
                long.push(entry.try_into().unwrap());
            }
            assert_eq!(long.take(&short).as_deref(), Some(name));
            assert_eq!(long.take(&short), None);
        }
    }
}
