//! Patterns over names and paths.
//!
//! `*` stands for any characters but `/`, `**` for any characters, `?` for one character but `/`.

use super::{InvalidValue, string_form};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Whether `pattern` describes the whole of `text`.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', b'*', rest @ ..] => (0..=text.len()).any(|skip| matches(rest, &text[skip..])),
        [b'*', rest @ ..] => {
            let end = text.iter().position(|b| *b == b'/').unwrap_or(text.len());
            (0..=end).any(|skip| matches(rest, &text[skip..]))
        }
        [b'?', rest @ ..] => text.first().is_some_and(|b| *b != b'/') && matches(rest, &text[1..]),
        [literal, rest @ ..] => text.first() == Some(literal) && matches(rest, &text[1..]),
    }
}

macro_rules! pattern {
    ($(#[$doc:meta])* $name:ident, $example:literal, $expected:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The pattern as written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidValue;

            fn from_str(text: &str) -> Result<Self, InvalidValue> {
                let valid: fn(u8) -> bool = $valid;
                if text.is_empty() || !text.bytes().all(|b| valid(b) || b"*?".contains(&b)) {
                    return Err(InvalidValue { text: text.to_owned(), expected: $expected });
                }
                Ok(Self(text.to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        string_form!($name, None, $example);
    };
}

pattern!(
    /// Names of kernel modules, `virtio_*`. `-` and `_` mean the same.
    ModulePattern,
    "virtio_*",
    "a pattern of module names: letters, digits, `_`, `-`, `*` and `?`",
    |b| b.is_ascii_alphanumeric() || b"_-".contains(&b)
);

pattern!(
    /// Paths: `*` stays within one folder, `**` does not. A pattern that names a folder means all in it.
    PathPattern,
    "/usr/share/doc/**",
    "a pattern of paths: printable ASCII with `*`, `**` and `?`",
    |b| b.is_ascii_graphic()
);

pattern!(
    /// Names of test scenarios, `*` for all.
    ScenarioPattern,
    "network-*",
    "a pattern of scenario names: lower-case letters, digits, `-`, `.`, `*` and `?`",
    |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b)
);

impl ModulePattern {
    /// Whether the module of that name (either spelling) is meant.
    pub fn matches(&self, module: &str) -> bool {
        matches(self.0.replace('-', "_").as_bytes(), module.replace('-', "_").as_bytes())
    }
}

impl PathPattern {
    /// Whether the path, or a folder it is in, is meant. Path and pattern are both absolute or both relative.
    pub fn matches(&self, path: &str) -> bool {
        let pattern = self.0.trim_end_matches('/').as_bytes();
        let folders =
            path.bytes().enumerate().filter(|(at, b)| *b == b'/' && *at > 0).map(|(at, _)| &path[..at]);
        folders.chain([path]).any(|part| matches(pattern, part.as_bytes()))
    }
}

impl ScenarioPattern {
    /// Whether the scenario of that name is meant.
    pub fn matches(&self, scenario: &str) -> bool {
        matches(self.0.as_bytes(), scenario.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stop_at_slashes_unless_doubled() {
        for (pattern, path, expected) in [
            ("/usr/share/doc", "/usr/share/doc/a/b", true),
            ("/usr/share/doc/", "/usr/share/doc/a", true),
            ("/usr/share/doc", "/usr/share/doctor", false),
            ("/usr/share/*/LICENSE", "/usr/share/a/LICENSE", true),
            ("/usr/share/*/LICENSE", "/usr/share/a/b/LICENSE", false),
            ("/usr/**/LICENSE", "/usr/share/a/b/LICENSE", true),
            ("drivers/net/wireless", "drivers/net/wireless/ath/ath.ko.xz", true),
            ("drivers/gpu", "drivers/net/gpu.ko", false),
            ("/usr/lib/lib?.so", "/usr/lib/liba.so", true),
            ("/usr/lib/lib?.so", "/usr/lib/lib/.so", false),
        ] {
            assert_eq!(pattern.parse::<PathPattern>().unwrap().matches(path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn module_names_are_equal_in_both_spellings() {
        let pattern: ModulePattern = "dm-*".parse().unwrap();
        assert!(pattern.matches("dm_verity") && pattern.matches("dm-mod") && !pattern.matches("md_mod"));
        assert!("net/tun".parse::<ModulePattern>().is_err());
        assert!("".parse::<ScenarioPattern>().is_err());
        assert!("*".parse::<ScenarioPattern>().unwrap().matches("cold-boot"));
    }
}
