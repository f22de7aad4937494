//! Identifiers and names as they come in requests, and as they are written in file names.

use crate::error::Fault;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fmt};

/// Longest identifier or name, in bytes. The specification's limit for a string is 128; identifiers that name an export
/// and a directory in it need more.
const LONGEST: usize = 512;

/// Control characters that the specification lets names have.
const SPACES: [char; 3] = ['\t', '\n', '\r'];

/// A volume's identifier: any text without control characters. It is never used as a path, see [`Self::file_name`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VolumeId(String);

/// A snapshot's, or a group of snapshots', identifier.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SnapshotId(String);

/// The name that a volume or snapshot is asked for by; the same name asks for the same one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Name(String);

macro_rules! text {
    ($type:ident, $field:literal, $allowed:expr) => {
        impl $type {
            /// Checks what a request says.
            ///
            /// # Errors
            /// [`Fault::Invalid`] if it is empty, too long, or has control characters.
            pub fn parse(text: &str) -> Result<Self, Fault> {
                checked(text, $field, $allowed).map(|()| Self(text.to_owned()))
            }

            /// As in requests.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// A name for files about it: itself if it is harmless, else a digest. Different texts have different ones.
            pub fn file_name(&self) -> String {
                file_name(&self.0)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }
    };
}

text!(VolumeId, "volume_id", &[]);
text!(SnapshotId, "snapshot_id", &[]);
text!(Name, "name", &SPACES);

fn checked(text: &str, field: &str, allowed: &[char]) -> Result<(), Fault> {
    let wrong = |what: &str| Err(Fault::Invalid(format!("{field} {what}")));
    match text {
        "" => wrong("is missing"),
        _ if text.len() > LONGEST => {
            wrong(&format!("has {} bytes; at most {LONGEST} are allowed", text.len()))
        }
        _ if text.chars().any(|c| c.is_control() && !allowed.contains(&c)) => wrong("has control characters"),
        _ => Ok(()),
    }
}

fn file_name(text: &str) -> String {
    let harmless =
        text.len() <= 128 && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if harmless { text.to_owned() } else { format!("~{}", hex::encode(Sha256::digest(text))) }
}

/// Secrets of a request. They are never logged nor written.
#[derive(Clone, Default)]
pub struct Secrets(BTreeMap<String, String>);

impl Secrets {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} secrets", self.0.len())
    }
}

impl<I: IntoIterator<Item = (String, String)>> From<I> for Secrets {
    fn from(map: I) -> Self {
        Self(map.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_identifier_is_refused() {
        assert!(VolumeId::parse("../../etc/passwd").is_ok(), "a text like others; nobody walks along it");
        for (text, reason) in
            [("", "missing"), ("a\nb", "control"), ("a\0", "control"), (&"x".repeat(513), "513 bytes")]
        {
            let error = VolumeId::parse(text).unwrap_err().to_string();
            assert!(error.starts_with("volume_id ") && error.contains(reason), "{error}");
        }
    }

    #[test]
    fn file_names_are_harmless_and_different() {
        Name::parse("two\nlines").unwrap();
        let of = |text: &str| VolumeId::parse(text).unwrap().file_name();
        assert_eq!(of("vol-0a_9"), "vol-0a_9");
        for text in ["..", ".", "a/b", "a.b", "~x", "é", &"x".repeat(300)] {
            let name = of(text);
            assert!(name.len() == 65 && name.starts_with('~'), "{name}");
        }
        assert_ne!(of("a/b"), of("a/c"));
    }

    #[test]
    fn secrets_are_not_shown() {
        let secrets = Secrets::from([("password".to_owned(), "hunter2".to_owned())]);
        assert_eq!(format!("{secrets:?}"), "1 secrets");
        assert_eq!(secrets.get("password"), Some("hunter2"));
    }
}
