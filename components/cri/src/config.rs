//! The configuration file: read with errors that say where, why and what to do, and printed with what each key means.

use cairn_contract::runtime::RuntimeConfig;
use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}. Name another with --config, or print one with `cairn-cri config default`")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
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
}

/// Reads a configuration.
///
/// # Errors
/// Where in the file, what is wrong, and the key that was probably meant.
pub fn parse(path: &Path, text: &str) -> Result<RuntimeConfig, ConfigError> {
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start).min(text.len());
        let before = text.get(..start).unwrap_or_default();
        ConfigError::Invalid {
            path: path.to_path_buf(),
            line: before.matches('\n').count() + 1,
            column: before.rsplit('\n').next().unwrap_or_default().chars().count() + 1,
            reason: reason(error.message(), key_at(text, start)),
        }
    })
}

/// The key of the line that `at` is in.
fn key_at(text: &str, at: usize) -> &str {
    let begin = text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
    let line = text.get(begin..).unwrap_or_default().lines().next().unwrap_or_default();
    line.split_once('=').map_or("", |(key, _)| key.trim())
}

fn reason(message: &str, key: &str) -> String {
    let keys = KEYS.iter().map(|(name, _)| *name);
    if message.starts_with("unknown field") {
        let near = keys.map(|name| (strsim::damerau_levenshtein(name, key), name)).min();
        let near = near.filter(|(distance, name)| *distance <= name.len() / 3 + 1);
        let hint = near.map_or_else(
            || "`cairn-cri config default` prints all keys".to_owned(),
            |(_, name)| format!("did you mean `{name}`?"),
        );
        return format!("there is no key `{key}`; {hint}");
    }
    match KEYS.iter().find(|(name, _)| *name == key) {
        Some((_, meaning)) => format!("{key}: {message}. {meaning}"),
        None => message.to_owned(),
    }
}

/// Every key, in the order it is printed, and what it means.
const KEYS: &[(&str, &str)] = &[
    ("socket", "Unix socket on which CRI is served; root's alone."),
    ("state", "Directory of what survives a reboot: images, containers, records."),
    ("run", "Directory of what does not: mounts, shims' sockets."),
    ("baked_images", "Directory of images that came with the system; it need not exist."),
    (
        "cgroup_driver",
        "Who makes cgroups: \"systemd\" or \"cgroupfs\". The kubelet's cgroupDriver must be the same.",
    ),
    ("shim", "Program run once per pod."),
    ("cni_bin", "Directories searched for CNI plugins, in order."),
    ("cni_conf", "Directory of CNI networks; the first file by name is the pods' network."),
    ("certs_d", "Directory with <registry>/hosts.toml: mirrors and certificates, in containerd's form."),
    (
        "registry_auth",
        "File of the node's registry credentials, in the form of Docker's config.json; it need not exist.",
    ),
    ("max_parallel_layers", "Layers fetched at the same time, for one pull."),
    ("pull_progress_timeout_seconds", "A pull that receives nothing for so many seconds fails."),
    (
        "streaming_address",
        "Address and port to which the kubelet connects for exec, attach and port-forward; port 0 is any free one. Let it be a loopback address: what goes there is not encrypted.",
    ),
    ("nri", "Whether NRI plugins are served and started: programs that see and adjust pods and containers."),
    ("nri_socket", "Unix socket that NRI plugins connect to; root's alone."),
    (
        "nri_plugins",
        "Directory of NRI plugins that are started with the runtime, by names such as 10-name; it need not exist.",
    ),
    ("nri_config", "Directory of their configurations: 10-name.conf, else name.conf."),
    (
        "nri_registration_timeout_seconds",
        "An NRI plugin that has not registered, or not taken in what there is, after so many seconds is turned away.",
    ),
    ("nri_request_timeout_seconds", "An NRI plugin that has not answered after so many seconds is cut off."),
    ("log_format", "Form of the log on standard error: \"text\", or \"json\" with one object a line."),
    (
        "log_level",
        "Least serious message logged: \"error\", \"warn\", \"info\", \"debug\" or \"trace\"; RUST_LOG overrides it.",
    ),
    (
        "metrics_address",
        "Address and port that serve Prometheus metrics at /metrics, without authentication, such as \"127.0.0.1:10099\". Absent: none.",
    ),
];

/// The default configuration, with what each key means.
///
/// # Errors
/// Never, unless a default cannot be written as TOML.
pub fn documented_defaults() -> Result<String, toml::ser::Error> {
    let defaults = toml::Table::try_from(RuntimeConfig::default())?;
    let mut text = "# Configuration of cairn-cri. Every key may be left out.\n".to_owned();
    for (key, meaning) in KEYS {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n# {meaning}\n");
        let _ = match defaults.get(*key) {
            Some(value) => writeln!(text, "{key} = {value}"),
            None => writeln!(text, "# {key} ="),
        };
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        parse(Path::new("cri.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn every_key_is_documented_and_the_defaults_are_defaults() {
        let text = documented_defaults().unwrap();
        assert_eq!(parse(Path::new("x"), &text).unwrap(), RuntimeConfig::default());
        let defaults = toml::Table::try_from(RuntimeConfig::default()).unwrap();
        for key in defaults.keys() {
            assert!(KEYS.iter().any(|(name, _)| name == key), "{key} is not documented");
        }
        for (key, _) in KEYS {
            assert!(!refused(&format!("{key} = {{ a = 1 }}")).contains("no key"), "{key} does not exist");
        }
    }

    #[test]
    fn errors_say_where_and_what_was_meant() {
        let error = refused("run = '/run/x'\n  cgroup_drivr = 'systemd'\n");
        assert_eq!(error, "cri.toml:2:3: there is no key `cgroup_drivr`; did you mean `cgroup_driver`?");
        assert!(refused("zzzzzzzz = 1").contains("config default"));
        let error = refused("cgroup_driver = 'runc'");
        assert!(error.starts_with("cri.toml:1:17: cgroup_driver: unknown variant"), "{error}");
        assert!(error.contains("kubelet's cgroupDriver"), "{error}");
        assert!(refused("run = \n").starts_with("cri.toml:1:"));
    }
}
