//! The kernel command line, as far as the initrd cares.
//!
//! | word | meaning |
//! | --- | --- |
//! | `roothash=<64 hex digits>` | dm-verity root hash; its two halves are the partition UUIDs |
//! | `cairn.wait=<seconds>` | how long the partitions may take to appear, 1 to 3600, by default 30 |
//! | `cairn.debug` | print each step with its time on the console |
//!
//! Everything else belongs to the kernel or to systemd and is passed over. Of a word given twice the last
//! counts, as in the kernel.

use crate::gpt::Uuid;
use std::{fmt, str::FromStr, time::Duration};

/// What the command line asks of the initrd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// `roothash=`.
    pub root_hash: RootHash,
    /// `cairn.wait=`.
    pub wait: Duration,
    /// `cairn.debug`.
    pub debug: bool,
}

/// Root of the dm-verity hash tree: SHA-256, and the name of the root file system.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RootHash([u8; 32]);

/// A command line that no root file system can be found with.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandLineError {
    /// No `roothash=`.
    #[error(
        "the kernel command line has no roothash=; the image's UKI carries it, so boot the UKI or add the root_hash of manifest.json"
    )]
    NoRootHash,
    /// `roothash=` is not a SHA-256 in hexadecimal.
    #[error("roothash={0} on the kernel command line is not 64 hexadecimal digits")]
    BadRootHash(String),
    /// `cairn.wait=` is not a sensible number of seconds.
    #[error("cairn.wait={0} on the kernel command line is not a number of seconds from 1 to 3600")]
    BadWait(String),
}

impl CommandLine {
    /// Parses the text of `/proc/cmdline`.
    pub fn parse(text: &str) -> Result<Self, CommandLineError> {
        let mut root_hash = None;
        let mut wait = Duration::from_secs(30);
        let mut debug = false;
        for word in words(text) {
            match word.split_once('=') {
                Some(("roothash", value)) => root_hash = Some(value.parse()?),
                Some(("cairn.wait", value)) => {
                    wait = value
                        .parse()
                        .ok()
                        .filter(|seconds| (1..=3600).contains(seconds))
                        .map(Duration::from_secs)
                        .ok_or_else(|| CommandLineError::BadWait(value.to_owned()))?;
                }
                None if word == "cairn.debug" => debug = true,
                _ => {}
            }
        }
        let root_hash = root_hash.ok_or(CommandLineError::NoRootHash)?;
        Ok(Self { root_hash, wait, debug })
    }
}

/// Splits at white space outside double quotes, as the kernel's `next_arg` does. Quotes are kept: no word of
/// ours has any.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |c: char| {
        quoted ^= c == '"';
        c.is_ascii_whitespace() && !quoted
    })
    .filter(|word| !word.is_empty())
}

impl RootHash {
    /// Wraps the bytes of a finished hash.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// UUID of the partition with the data: the first 128 bits (Discoverable Partitions Specification).
    pub fn data_uuid(&self) -> Uuid {
        Uuid::from_text_order(self.half(0))
    }

    /// UUID of the partition with the hash tree: the last 128 bits.
    pub fn hash_uuid(&self) -> Uuid {
        Uuid::from_text_order(self.half(16))
    }

    fn half(&self, start: usize) -> [u8; 16] {
        std::array::from_fn(|i| self.0[start + i])
    }
}

impl FromStr for RootHash {
    type Err = CommandLineError;

    fn from_str(text: &str) -> Result<Self, CommandLineError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| CommandLineError::BadRootHash(text.to_owned()))?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef";

    #[test]
    fn the_halves_of_the_root_hash_name_the_partitions() {
        let line = CommandLine::parse(&format!("quiet roothash={HASH} systemd.unit=x\n")).unwrap();
        assert_eq!(line.root_hash.data_uuid().to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(line.root_hash.hash_uuid().to_string(), "01234567-89ab-cdef-0123-456789abcdef");
        assert_eq!(line.root_hash.to_string(), HASH);
        assert_eq!((line.wait, line.debug), (Duration::from_secs(30), false));
    }

    #[test]
    fn options_are_read_and_the_last_one_counts() {
        let text =
            format!("roothash={} cairn.wait=1 cairn.debug roothash={HASH} cairn.wait=90", "0".repeat(64));
        let line = CommandLine::parse(&text).unwrap();
        assert_eq!(line.root_hash.to_string(), HASH);
        assert_eq!((line.wait, line.debug), (Duration::from_secs(90), true));
    }

    #[test]
    fn quoted_words_are_not_searched() {
        assert_eq!(
            CommandLine::parse(&format!("x=\"a roothash={HASH}\"")),
            Err(CommandLineError::NoRootHash)
        );
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(CommandLine::parse(""), Err(CommandLineError::NoRootHash));
        for bad in ["", "12", &HASH[1..], &format!("{HASH}00"), &format!("g{}", &HASH[1..])] {
            let found = CommandLine::parse(&format!("roothash={bad}"));
            assert_eq!(found, Err(CommandLineError::BadRootHash(bad.to_owned())));
        }
        for bad in ["0", "-1", "abc", "3601"] {
            let found = CommandLine::parse(&format!("roothash={HASH} cairn.wait={bad}"));
            assert_eq!(found, Err(CommandLineError::BadWait(bad.to_owned())));
        }
    }
}
