//! CNI network configurations on disk.

use serde_json::{Map, Value};
use std::{fs, io, path::Path};

/// A list of plugins that together make one network.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkConfig {
    /// Name of the network.
    pub name: String,
    /// CNI specification version, `1.0.0`.
    pub version: String,
    /// Plugins, in the order of ADD.
    pub plugins: Vec<Map<String, Value>>,
    /// Do not call CHECK.
    pub disable_check: bool,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The directory or a file cannot be read.
    #[error("cannot read CNI configuration {path}: {source}")]
    Read {
        /// The file or directory.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The file is not a CNI configuration.
    #[error("CNI configuration {path}: {reason}")]
    Invalid {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

/// Versions of the CNI specification that the invoker speaks.
pub const VERSIONS: [&str; 3] = ["0.4.0", "1.0.0", "1.1.0"];

impl NetworkConfig {
    /// The first valid configuration by file name; `None` when there is none. A broken file is skipped if a later
    /// one is good, and an error otherwise: a half-written file must not take a working node's network away.
    pub fn load(directory: &Path) -> Result<Option<Self>, ConfigError> {
        let read = |source| ConfigError::Read { path: directory.display().to_string(), source };
        let mut files = match fs::read_dir(directory) {
            Ok(entries) => {
                entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>().map_err(read)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(read(error)),
        };
        files.retain(|file| {
            file.extension().is_some_and(|kind| kind == "conflist" || kind == "conf" || kind == "json")
        });
        files.sort();
        let mut first_error = None;
        for file in files {
            let path = file.display().to_string();
            let parsed = match fs::read(&file) {
                Ok(bytes) => Self::parse(&bytes).map_err(|reason| ConfigError::Invalid { path, reason }),
                Err(source) => Err(ConfigError::Read { path, source }),
            };
            match parsed {
                Ok(config) => return Ok(Some(config)),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok(None), Err)
    }

    /// Parses a configuration list, or a single plugin's configuration as a list of one.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut document: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let text = |document: &Map<String, Value>, key: &str| {
            document.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let (name, version) = (text(&document, "name"), text(&document, "cniVersion"));
        if name.is_empty() {
            return Err("`name` is missing".to_owned());
        }
        let version = if version.is_empty() { "0.4.0".to_owned() } else { version };
        if !VERSIONS.contains(&version.as_str()) {
            return Err(format!("cniVersion {version} is not one of {}", VERSIONS.join(", ")));
        }
        let disable_check = document.get("disableCheck").and_then(Value::as_bool).unwrap_or(false);
        let plugins = match document.remove("plugins") {
            Some(Value::Array(list)) => list
                .into_iter()
                .map(|plugin| match plugin {
                    Value::Object(plugin) => Ok(plugin),
                    _ => Err("`plugins` must hold objects".to_owned()),
                })
                .collect::<Result<Vec<_>, _>>()?,
            Some(_) => return Err("`plugins` must be a list".to_owned()),
            None => vec![document],
        };
        if plugins.is_empty() {
            return Err("`plugins` is empty".to_owned());
        }
        for plugin in &plugins {
            let kind = text(plugin, "type");
            if kind.is_empty() || kind.contains('/') {
                return Err(format!("plugin type `{kind}` must be the name of a program"));
            }
        }
        Ok(Self { name, version, plugins, disable_check })
    }

    /// Programs that the network needs, its address managers included.
    pub fn programs(&self) -> Vec<String> {
        let kind = |value: &Map<String, Value>| value.get("type").and_then(Value::as_str).map(str::to_owned);
        let ipam = |plugin: &Map<String, Value>| plugin.get("ipam").and_then(Value::as_object).and_then(kind);
        self.plugins.iter().flat_map(|plugin| [kind(plugin), ipam(plugin)]).flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_single_plugins_are_networks() {
        let list = NetworkConfig::parse(
            br#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"bridge","ipam":{"type":"host-local"}},{"type":"portmap"}]}"#,
        );
        assert_eq!(list.unwrap().programs(), ["bridge", "host-local", "portmap"]);
        let single = NetworkConfig::parse(br#"{"cniVersion":"0.4.0","name":"b","type":"ptp"}"#).unwrap();
        assert_eq!(single.programs(), ["ptp"]);
        for bad in [
            &br#"{"name":"a","plugins":[]}"#[..],
            br#"{"plugins":[{"type":"x"}]}"#,
            br#"{"name":"a","cniVersion":"9.0.0","type":"x"}"#,
            br#"{"name":"a","type":"../x"}"#,
            b"[]",
        ] {
            assert!(NetworkConfig::parse(bad).is_err());
        }
    }

    #[test]
    fn the_first_good_file_wins() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        assert_eq!(NetworkConfig::load(&directory.path().join("none")).unwrap(), None);
        write("00-broken.conflist", "{");
        assert!(NetworkConfig::load(directory.path()).is_err());
        write("20-b.conflist", r#"{"name":"b","type":"x"}"#);
        write("10-a.conf", r#"{"name":"a","type":"x"}"#);
        write("05-note.txt", "");
        assert_eq!(NetworkConfig::load(directory.path()).unwrap().unwrap().name, "a");
    }
}
