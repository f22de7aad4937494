//! CNI network configurations on disk (specification, section 1).

use cairn_cni::protocol::version::SpecVersion;
use serde_json::{Map, Value};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// One plugin's configuration.
pub(super) type PluginConfig = Map<String, Value>;

/// A list of plugins that together make one network.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkConfig {
    /// Name of the network.
    pub name: String,
    /// Version of the specification that its plugins are called by.
    pub version: SpecVersion,
    /// Plugins, in the order of ADD; at least one.
    pub plugins: Vec<Map<String, Value>>,
    /// Do not call CHECK.
    pub disable_check: bool,
    /// Do not call GC.
    pub disable_gc: bool,
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

/// What a list says besides its own plugins.
struct Parsed {
    config: NetworkConfig,
    /// Further plugins are files in the directory with the network's name (since 1.1.0).
    more_in_files: bool,
}

impl NetworkConfig {
    /// The first valid configuration by file name; `None` when there is none. A broken file is skipped if a later
    /// one is good, and an error otherwise: a half-written file must not take a working node's network away.
    ///
    /// # Errors
    /// What is wrong with the first file, when none is good.
    pub fn load(directory: &Path) -> Result<Option<Self>, ConfigError> {
        let mut first_error = None;
        for file in files(directory, &["conflist", "conf", "json"])? {
            match Self::read(&file) {
                Ok(config) => return Ok(Some(config)),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok(None), Err)
    }

    /// Reads one file, and the plugins in the directory beside it that has the network's name.
    ///
    /// # Errors
    /// The file and what is wrong with it.
    pub fn read(file: &Path) -> Result<Self, ConfigError> {
        Self::from_file(file, &read(file)?, None)
    }

    /// What `bytes`, which are of `file`, say. A network without a name has that of `known_as`.
    pub(super) fn from_file(file: &Path, bytes: &[u8], known_as: Option<&str>) -> Result<Self, ConfigError> {
        let Parsed { mut config, more_in_files } =
            parse(bytes, known_as).map_err(|reason| invalid(file, reason))?;
        if more_in_files && let Some(directory) = file.parent() {
            for file in files(&directory.join(&config.name), &["conf"])? {
                let plugin = serde_json::from_slice(&read(&file)?).map_err(|error| error.to_string());
                let plugin = plugin.and_then(|plugin| checked(&plugin).map(|()| plugin));
                config.plugins.push(plugin.map_err(|reason| invalid(&file, reason))?);
            }
        }
        if config.plugins.is_empty() {
            let reason = format!(
                "it has no `plugins`, and there are none in the directory `{}` beside it",
                config.name
            );
            return Err(invalid(file, reason));
        }
        Ok(config)
    }

    /// Programs that the network needs, its address managers included.
    pub fn programs(&self) -> Vec<String> {
        let own = self.plugins.iter().map(kind);
        let ipam = self.plugins.iter().filter_map(|plugin| plugin.get("ipam")?.as_object()).map(kind);
        own.chain(ipam).filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }

    /// A plugin of it takes the capability argument `name`.
    pub(super) fn takes(&self, name: &str) -> bool {
        self.plugins.iter().any(|plugin| takes(plugin, name))
    }

    /// Its plugins give pods their further networks themselves, by the same annotations (Multus).
    pub(super) fn reads_annotations(&self) -> bool {
        self.plugins.iter().any(|plugin| matches!(kind(plugin), "multus" | "multus-shim"))
    }
}

/// The plugin declares the capability `name`.
pub(super) fn takes(plugin: &PluginConfig, name: &str) -> bool {
    plugin
        .get("capabilities")
        .and_then(|declared| declared.get(name))
        .and_then(Value::as_bool)
        .unwrap_or(false)
}

/// Name of a plugin's program.
pub(super) fn kind(plugin: &PluginConfig) -> &str {
    plugin.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// Files of a directory with one of the endings, by name; none if there is no directory.
pub(super) fn files(directory: &Path, endings: &[&str]) -> Result<Vec<PathBuf>, ConfigError> {
    let failed = |source| ConfigError::Read { path: directory.display().to_string(), source };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>().map_err(failed)?;
    files.retain(|file| {
        let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        endings.contains(&ending) && !file.is_dir()
    });
    files.sort();
    Ok(files)
}

pub(super) fn read(file: &Path) -> Result<Vec<u8>, ConfigError> {
    fs::read(file).map_err(|source| ConfigError::Read { path: file.display().to_string(), source })
}

pub(super) fn invalid(file: &Path, reason: String) -> ConfigError {
    ConfigError::Invalid { path: file.display().to_string(), reason }
}

/// A configuration list, or a single plugin's configuration as a list of one.
fn parse(bytes: &[u8], known_as: Option<&str>) -> Result<Parsed, String> {
    let mut document: PluginConfig = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let name = match document.get("name") {
        Some(Value::String(name)) if !name.is_empty() => name.clone(),
        None | Some(Value::String(_)) => known_as.ok_or("`name` is missing")?.to_owned(),
        Some(_) => return Err("`name` must be text".to_owned()),
    };
    check_name(&name)?;
    let only_inlined = flag(&document, "loadOnlyInlinedPlugins")?;
    let (disable_check, disable_gc) = (flag(&document, "disableCheck")?, flag(&document, "disableGC")?);
    let version = version(&document)?;
    let (plugins, more_in_files) = match document.remove("plugins") {
        Some(Value::Array(list)) if list.is_empty() => return Err("`plugins` is empty".to_owned()),
        Some(Value::Array(list)) => {
            let plugins = list.into_iter().map(|plugin| match plugin {
                Value::Object(plugin) => Ok(plugin),
                _ => Err("`plugins` must hold objects".to_owned()),
            });
            (plugins.collect::<Result<Vec<_>, _>>()?, !only_inlined)
        }
        Some(_) => return Err("`plugins` must be a list".to_owned()),
        None if document.contains_key("type") => (vec![document], false),
        None if only_inlined => {
            return Err("`loadOnlyInlinedPlugins` is set, and there are no `plugins`".to_owned());
        }
        None => (Vec::new(), true),
    };
    plugins.iter().try_for_each(checked)?;
    let config = NetworkConfig { name, version, plugins, disable_check, disable_gc };
    Ok(Parsed { config, more_in_files })
}

/// The newest version of `cniVersions` and `cniVersion` that we speak; 0.1.0 when neither says anything.
fn version(document: &PluginConfig) -> Result<SpecVersion, String> {
    let sole = match document.get("cniVersion") {
        None => None,
        Some(Value::String(version)) if version.is_empty() => None,
        Some(Value::String(version)) => Some(version.as_str()),
        Some(_) => return Err("`cniVersion` must be text such as \"1.1.0\"".to_owned()),
    };
    let several = match document.get("cniVersions") {
        None => Vec::new(),
        Some(Value::Array(list)) => {
            let texts = list.iter().map(|version| version.as_str().ok_or("`cniVersions` must hold texts"));
            texts.collect::<Result<Vec<_>, _>>()?
        }
        Some(_) => return Err("`cniVersions` must be a list".to_owned()),
    };
    let named: Vec<&str> = several.into_iter().chain(sole).collect();
    if named.is_empty() {
        return Ok(SpecVersion::V0_1_0);
    }
    let known = named.iter().filter_map(|version| SpecVersion::by_name(version)).max();
    known.ok_or_else(|| {
        format!("cniVersion {} is not one of {}", named.join(", "), SpecVersion::names().join(", "))
    })
}

/// A boolean, or its name: both are in use.
fn flag(document: &PluginConfig, key: &str) -> Result<bool, String> {
    match document.get(key) {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(other) => Err(format!("`{key}` must be true or false, not {other}")),
    }
}

/// Letters, digits, `_`, `.` and `-`, with a letter or digit first: names become file names of plugins.
fn check_name(name: &str) -> Result<(), String> {
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if first && rest {
        return Ok(());
    }
    Err(format!(
        "`{name}` is no network name: use letters, digits, `_`, `.` and `-`, and begin with a letter or digit"
    ))
}

fn checked(plugin: &PluginConfig) -> Result<(), String> {
    let kind = kind(plugin);
    if kind.is_empty() || kind.contains('/') || kind.starts_with('.') {
        return Err(format!("plugin type `{kind}` must be the name of a program"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> NetworkConfig {
        NetworkConfig::from_file(Path::new("/nowhere/x.conflist"), text.as_bytes(), None).unwrap()
    }

    #[test]
    fn lists_and_single_plugins_are_networks() {
        let list = parsed(
            r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"bridge","ipam":{"type":"host-local"}},{"type":"portmap"}]}"#,
        );
        assert_eq!(list.programs(), ["bridge", "portmap", "host-local"]);
        let single = parsed(r#"{"cniVersion":"0.4.0","name":"b","type":"ptp"}"#);
        assert_eq!(single.programs(), ["ptp"]);
        assert_eq!(parsed(r#"{"name":"b","type":"ptp"}"#).version, SpecVersion::V0_1_0);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (bad, why) in [
            (r#"{"name":"a","plugins":[]}"#, "empty"),
            (r#"{"name":"a","plugins":{}}"#, "list"),
            (r#"{"name":"a","plugins":[1]}"#, "objects"),
            (r#"{"name":"a"}"#, "no `plugins`"),
            (r#"{"name":"a","loadOnlyInlinedPlugins":true}"#, "no `plugins`"),
            (r#"{"plugins":[{"type":"x"}]}"#, "`name` is missing"),
            (r#"{"name":1,"type":"x"}"#, "text"),
            (r#"{"name":"../a","type":"x"}"#, "no network name"),
            (r#"{"name":"a","cniVersion":"9.0.0","type":"x"}"#, "9.0.0 is not one of"),
            (r#"{"name":"a","cniVersion":1,"type":"x"}"#, "cniVersion"),
            (r#"{"name":"a","cniVersions":["9.0.0"],"type":"x"}"#, "9.0.0"),
            (r#"{"name":"a","disableCheck":"perhaps","type":"x"}"#, "disableCheck"),
            (r#"{"name":"a","type":"../x"}"#, "program"),
            ("[]", "map"),
            ("{", "EOF"),
        ] {
            let error = NetworkConfig::from_file(Path::new("/n/x"), bad.as_bytes(), None).unwrap_err();
            assert!(error.to_string().contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn the_newest_version_that_both_know_is_spoken() {
        let version = |keys: &str| parsed(&format!(r#"{{"name":"a","type":"x",{keys}}}"#)).version;
        assert_eq!(
            version(r#""cniVersions":["0.4.0","1.1.0","7.0.0"],"cniVersion":"1.0.0""#).name(),
            "1.1.0"
        );
        assert_eq!(version(r#""cniVersions":["0.3.1"],"cniVersion":"1.0.0""#).name(), "1.0.0");
        assert_eq!(version(r#""cniVersions":[],"cniVersion":"0.2.0""#).name(), "0.2.0");
        let list = parsed(r#"{"name":"a","type":"x","disableCheck":"TRUE","disableGC":true}"#);
        assert!(list.disable_check && list.disable_gc);
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

    #[test]
    fn further_plugins_are_files_in_the_networks_directory() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        fs::create_dir(directory.path().join("a")).unwrap();
        write("a/20-more.conf", r#"{"type":"second"}"#);
        write("a/10-more.conf", r#"{"type":"first"}"#);
        write("a/30-other.json", r#"{"type":"third"}"#);
        let kinds = |text: &str| {
            write("10.conflist", text);
            NetworkConfig::load(directory.path()).unwrap().unwrap().programs()
        };
        assert_eq!(kinds(r#"{"name":"a","plugins":[{"type":"own"}]}"#), ["own", "first", "second"]);
        assert_eq!(kinds(r#"{"name":"a"}"#), ["first", "second"]);
        let inlined = r#"{"name":"a","loadOnlyInlinedPlugins":true,"plugins":[{"type":"own"}]}"#;
        assert_eq!(kinds(inlined), ["own"]);
        write("a/20-more.conf", "{}");
        let error = NetworkConfig::load(directory.path()).map(drop);
        assert!(error.is_ok(), "the list with only inlined plugins does not look there");
        write("10.conflist", r#"{"name":"a"}"#);
        let error = NetworkConfig::load(directory.path()).unwrap_err().to_string();
        assert!(error.contains("20-more.conf") && error.contains("program"), "{error}");
    }
}
