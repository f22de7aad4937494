//! A configuration file: read with errors that say where, why and what to do, and printed with what each key means.
//!
//! What a daemon adds is a serde type whose fields all have defaults, and a list of [`Key`]s.

use serde::{Serialize, de::DeserializeOwned};
use std::{
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
};

/// A key's name and what it means. The keys of a table in a list are written `list.key` and follow the list.
pub type Key = (&'static str, &'static str);

/// One daemon's configuration.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// The program, as called by an operator.
    pub program: &'static str,
    /// Where the file usually is.
    pub usual: &'static str,
    /// Every key, in the order they are printed.
    pub keys: &'static [Key],
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}. Name another with --config, or print one with `{program} config default`")]
    Read {
        /// Who reads it.
        program: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not a configuration.
    #[error("{path}:{line}:{column}: {reason}")]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong there, and what would be right.
        reason: String,
    },
    /// Each key is right by itself, but not what they say together.
    #[error("{path}: {reason}")]
    Unfit {
        /// Which file.
        path: PathBuf,
        /// What does not fit, and what would.
        reason: String,
    },
}

impl Form {
    /// The configuration in a file; an absent one means the defaults only at the usual place.
    ///
    /// # Errors
    /// As [`Self::parse`], and if the file cannot be read.
    pub fn load<T: DeserializeOwned + Default>(&self, path: &Path) -> Result<T, ConfigError> {
        match fs::read_to_string(path) {
            Ok(text) => self.parse(path, &text),
            Err(error) if error.kind() == io::ErrorKind::NotFound && path == Path::new(self.usual) => {
                Ok(T::default())
            }
            Err(source) => Err(ConfigError::Read { program: self.program, path: path.to_path_buf(), source }),
        }
    }

    /// Reads a configuration.
    ///
    /// # Errors
    /// Where in the file, what is wrong, and the key that was probably meant.
    pub fn parse<T: DeserializeOwned>(&self, path: &Path, text: &str) -> Result<T, ConfigError> {
        toml::from_str(text).map_err(|error: toml::de::Error| {
            let start = error.span().map_or(0, |span| span.start).min(text.len());
            let before = text.get(..start).unwrap_or_default();
            ConfigError::Invalid {
                path: path.to_path_buf(),
                line: before.matches('\n').count() + 1,
                column: before.rsplit('\n').next().unwrap_or_default().chars().count() + 1,
                reason: self.reason(error.message(), key_at(text, start)),
            }
        })
    }

    fn reason(&self, message: &str, key: &str) -> String {
        let names = self.keys.iter().map(|(name, _)| leaf(name));
        if message.starts_with("unknown field") {
            // In a table on one line the key is not the line's first word, but the message has it.
            let key = message.split('`').nth(1).unwrap_or(key);
            let near = names.map(|name| (strsim::damerau_levenshtein(name, key), name)).min();
            let near = near.filter(|(distance, name)| *distance <= name.len() / 3 + 1);
            let hint = near.map_or_else(
                || format!("`{} config default` prints all keys", self.program),
                |(_, name)| format!("did you mean `{name}`?"),
            );
            return format!("there is no key `{key}`; {hint}");
        }
        match self.keys.iter().find(|(name, _)| leaf(name) == key) {
            Some((_, meaning)) => format!("{key}: {message}. {meaning}"),
            None => message.to_owned(),
        }
    }

    /// The default configuration, with what each key means.
    ///
    /// # Errors
    /// Never, unless a default cannot be written as TOML.
    pub fn documented_defaults<T: Serialize + Default>(&self) -> Result<String, toml::ser::Error> {
        let defaults = toml::Table::try_from(T::default())?;
        let mut text = format!("# Configuration of {}. Every key may be left out.\n", self.program);
        for (at, (key, meaning)) in self.keys.iter().enumerate() {
            if key.contains('.') {
                continue;
            }
            // Writing to a string cannot fail.
            let _ = write!(text, "\n# {meaning}\n");
            for (inner, meaning) in self.keys[at + 1..].iter().take_while(|(name, _)| name.contains('.')) {
                let _ = writeln!(text, "#   {}: {meaning}", leaf(inner));
            }
            let _ = match defaults.get(*key) {
                Some(value) => writeln!(text, "{key} = {value}"),
                None => writeln!(text, "# {key} ="),
            };
        }
        Ok(text)
    }
}

fn leaf(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// The key of the line that `at` is in.
fn key_at(text: &str, at: usize) -> &str {
    let begin = text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
    let line = text.get(begin..).unwrap_or_default().lines().next().unwrap_or_default();
    line.split_once('=').map_or("", |(key, _)| key.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Sample {
        socket: PathBuf,
        shelves: Vec<Shelf>,
        #[serde(skip_serializing_if = "Option::is_none")]
        address: Option<String>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Shelf {
        width: u32,
    }

    const FORM: Form = Form {
        program: "cairn-x",
        usual: "/no/x",
        keys: &[
            ("socket", "Where it listens."),
            ("shelves", "Shelves."),
            ("shelves.width", "In metres."),
            ("address", "Nowhere when absent."),
        ],
    };

    fn refused(text: &str) -> String {
        FORM.parse::<Sample>(Path::new("x.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn errors_say_where_and_what_was_meant() {
        for (text, expected) in [
            ("\n  soket = 'x'", "x.toml:2:3: there is no key `soket`; did you mean `socket`?"),
            ("shelves = [{ wdth = 1 }]", "x.toml:1:14: there is no key `wdth`; did you mean `width`?"),
            (
                "zzzzzzzz = 1",
                "x.toml:1:1: there is no key `zzzzzzzz`; `cairn-x config default` prints all keys",
            ),
        ] {
            assert_eq!(refused(text), expected);
        }
        assert!(refused("[[shelves]]\nwidth = 'x'").ends_with(". In metres."));
    }

    #[test]
    fn the_printed_defaults_are_read_again() {
        let text = FORM.documented_defaults::<Sample>().unwrap();
        assert_eq!(FORM.parse::<Sample>(Path::new("x"), &text).unwrap(), Sample::default());
        assert!(text.contains("# Shelves.\n#   width: In metres.\nshelves = []\n"), "{text}");
        assert!(text.contains("\n# address =\n"));
    }

    #[test]
    fn only_the_usual_file_may_be_absent() {
        assert_eq!(FORM.load::<Sample>(Path::new("/no/x")).unwrap(), Sample::default());
        let error = FORM.load::<Sample>(Path::new("/no/y")).unwrap_err().to_string();
        assert!(error.starts_with("/no/y: ") && error.contains("`cairn-x config default`"), "{error}");
    }
}
