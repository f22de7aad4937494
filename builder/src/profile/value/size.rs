//! Sizes with a unit.

use super::{InvalidValue, string_form};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A number of bytes, written with a unit: binary (`KiB`, `MiB`, `GiB`, `TiB`) or decimal (`kB`, `MB`, `GB`,
/// `TB`), or `B`. `"1.5 GiB"` is fine as long as it is a whole number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(u64);

/// Units, the largest first: the order in which [`Size`]'s text form tries them.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl Size {
    /// That many bytes.
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// That many times 2^20 bytes.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// In bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        parse(text).map(Self).ok_or_else(|| InvalidValue {
            text: text.to_owned(),
            expected: "a size: a number and a unit, such as \"512 MiB\"; units are B, KiB, MiB, GiB, TiB, kB, MB, GB, TB",
        })
    }
}

fn parse(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(digits);
    let factor = UNITS.iter().find(|(name, _)| *name == unit.trim_start_matches(' '))?.1;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if number.ends_with('.') || fraction.len() > 9 {
        return None;
    }
    let scale = 10_u64.pow(fraction.len() as u32);
    let part = if fraction.is_empty() { 0 } else { fraction.parse::<u64>().ok()? };
    let scaled = u128::from(whole.parse::<u64>().ok()?) * u128::from(scale) + u128::from(part);
    let bytes = scaled * u128::from(factor);
    (bytes % u128::from(scale) == 0).then(|| u64::try_from(bytes / u128::from(scale)).ok()).flatten()
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, factor) = UNITS
            .into_iter()
            .find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor))
            .unwrap_or(("B", 1));
        write!(f, "{} {name}", self.0 / factor)
    }
}

string_form!(Size, Some("^[0-9]+(\\.[0-9]+)? ?(B|[KMGT]iB|[kMGT]B)$"), "512 MiB");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_fractions_are_read_and_written() {
        for (text, bytes, canonical) in [
            ("0 B", 0, "0 B"),
            ("512 MiB", 512 << 20, "512 MiB"),
            ("512MiB", 512 << 20, "512 MiB"),
            ("1.5 GiB", 1536 << 20, "1536 MiB"),
            ("75 MB", 75_000_000, "75 MB"),
            ("4096 B", 4096, "4 KiB"),
            ("1001 B", 1001, "1001 B"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.get(), size.to_string().as_str()), (bytes, canonical), "{text}");
            assert_eq!(canonical.parse::<Size>().unwrap(), size);
        }
    }

    #[test]
    fn the_rest_is_refused() {
        for text in
            ["", "512", "MiB", "-1 MiB", "1 mib", "1. GiB", ".5 GiB", "1.5 B", "1 2 B", "99999999999 TiB"]
        {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}
