//! A resolved profile for people: every key with its value and where it was set.

use super::Resolved;
use super::load::KeyOrigin;
use serde::Serialize;
use std::fmt;

/// One key of a resolved profile.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyValue {
    /// The key's parts.
    pub path: Vec<String>,
    /// Its value: no table, unless an empty one.
    pub value: toml::Value,
    /// Where it was set; a list that was edited has several.
    pub origins: Vec<KeyOrigin>,
}

impl KeyValue {
    /// The key as TOML writes it, quoted where it must be.
    pub fn key(&self) -> String {
        let bare = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
        };
        let part = |part: &String| {
            if bare(part) { part.clone() } else { toml::Value::from(part.as_str()).to_string() }
        };
        self.path.iter().map(part).collect::<Vec<_>>().join(".")
    }
}

impl fmt::Display for KeyOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
        }
    }
}

impl Serialize for KeyOrigin {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Every key of the profile, in the order of the sections.
///
/// # Errors
/// None is known: every type of the profile has a TOML form.
pub fn flatten(resolved: &Resolved) -> Result<Vec<KeyValue>, toml::ser::Error> {
    let value = toml::Value::try_from(&resolved.profile)?;
    let mut keys = Vec::new();
    walk(resolved, &mut Vec::new(), value, &mut keys);
    Ok(keys)
}

fn walk(resolved: &Resolved, path: &mut Vec<String>, value: toml::Value, keys: &mut Vec<KeyValue>) {
    match value {
        toml::Value::Table(table) if !table.is_empty() => {
            for (key, value) in table {
                path.push(key);
                walk(resolved, path, value, keys);
                path.pop();
            }
        }
        value => {
            let parts: Vec<&str> = path.iter().map(String::as_str).collect();
            keys.push(KeyValue { path: path.clone(), value, origins: resolved.origins(&parts) });
        }
    }
}
