//! The configuration file's form: every key and what it means.

use cairn_contract::{
    paths,
    storage::{self, BackendKind, StorageConfig},
};
use cairn_daemon::config::{ConfigError, Form, Key};
use std::{collections::BTreeSet, path::Path};

/// How `csi.toml` is read and printed.
pub const FORM: Form = Form { program: "cairn-csi", usual: paths::CSI_CONFIG, keys: KEYS };

/// Every key, in the order it is printed, and what it means.
const KEYS: &[Key] = &[
    (
        "backends",
        "Kinds of storage that are served, each as a CSI driver of its own: \"local\" is local.csi.cairn, \"nfs\" nfs.csi.cairn, \"iscsi\" iscsi.csi.cairn.",
    ),
    ("node", "The node's name in the cluster; empty: the host's name."),
    ("state", "Directory of what survives a reboot."),
    ("run", "Directory of what does not: the drivers' sockets, <backend>.sock, and records of mounts."),
    ("target_roots", "Below these directories and nowhere else are volumes mounted."),
    ("plugins_registry", "Where the kubelet looks for plugins. Absent: it is not told."),
    (
        "pools",
        "Places for local volumes; the first is the default, a StorageClass names another by its parameter `pool`.",
    ),
    ("pools.name", "What StorageClasses call it."),
    (
        "pools.path",
        "Its directory; everything in it is the driver's. Absent: /var/lib/cairn/pools/<name> with a device, /var/lib/cairn/volumes without.",
    ),
    (
        "pools.device",
        "A disk of its own, mounted there by the driver, made into XFS if it is blank. Absent: the directory is used as it is.",
    ),
    (
        "pools.quota",
        "\"enforced\": directory volumes are held to their size by project quotas, which the file system must have switched on; \"off\": they may fill the pool.",
    ),
    (
        "pools.limit_bytes",
        "Bytes that volumes and snapshots may be promised together. Absent: what the file system has.",
    ),
    ("log_format", "Form of the log on standard error: \"text\", or \"json\" with one object a line."),
    (
        "log_level",
        "Least serious message logged: \"error\", \"warn\", \"info\", \"debug\" or \"trace\"; RUST_LOG overrides it.",
    ),
    (
        "metrics_address",
        "Address and port that serve Prometheus metrics at /metrics, without authentication, such as \"127.0.0.1:10098\". Absent: none.",
    ),
];

/// The configuration in a file; an absent one means the defaults only at the usual place.
///
/// # Errors
/// Where in the file, what is wrong, and what would be right.
pub fn load(path: &Path) -> Result<StorageConfig, ConfigError> {
    let config: StorageConfig = FORM.load(path)?;
    match check(&config) {
        Ok(()) => Ok(config),
        Err(reason) => Err(ConfigError::Unfit { path: path.to_path_buf(), reason }),
    }
}

/// What the keys say together.
fn check(config: &StorageConfig) -> Result<(), String> {
    if config.backends.is_empty() {
        return Err("backends: name at least one of \"local\", \"nfs\" and \"iscsi\"".to_owned());
    }
    if config.backends.iter().collect::<BTreeSet<_>>().len() < config.backends.len() {
        return Err("backends: one is named twice".to_owned());
    }
    if let Some(root) = config.target_roots.iter().find(|root| !root.is_absolute() || root.parent().is_none())
    {
        return Err(format!("target_roots: {} is no absolute path below /", root.display()));
    }
    if let Some(mistake) = storage::mistakes(&config.pools, &config.target_roots).first() {
        return Err(mistake.to_string());
    }
    let local = config.backends.contains(&BackendKind::Local);
    if local && config.pools.is_empty() {
        return Err("pools: the backend \"local\" needs one".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<StorageConfig, String> {
        let config: StorageConfig =
            FORM.parse(Path::new("csi.toml"), text).map_err(|error| error.to_string())?;
        check(&config).map(|()| config)
    }

    #[test]
    fn every_key_is_documented_and_the_defaults_are_defaults() {
        let text = FORM.documented_defaults::<StorageConfig>().unwrap();
        assert_eq!(read(&text).unwrap(), StorageConfig::default());
        let defaults = toml::Table::try_from(StorageConfig::default()).unwrap();
        for key in defaults.keys() {
            assert!(KEYS.iter().any(|(name, _)| name == key), "{key} is not documented");
        }
        for (key, _) in KEYS {
            let text = match key.split_once('.') {
                Some((list, inner)) => format!("[[{list}]]\n{inner} = {{ a = 1 }}"),
                None => format!("{key} = {{ a = 1 }}"),
            };
            let refused = read(&text).unwrap_err();
            assert!(!refused.contains("no key"), "{key} does not exist: {refused}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let pool = |name: &str, path: &str| format!("[[pools]]\nname = '{name}'\npath = '{path}'\n");
        for (text, reason) in [
            ("backends = []".to_owned(), "at least one"),
            ("backends = ['nfs', 'nfs']".to_owned(), "twice"),
            ("pools = []".to_owned(), "needs one"),
            ("target_roots = ['/']".to_owned(), "below /"),
            (pool("a/b", "/x"), "letters"),
            (pool("a", "x"), "absolute"),
            (pool("a", "/x") + &pool("a", "/y"), "two pools are called"),
            (pool("a", "/x") + &pool("b", "/x/y"), "another pool's"),
            (pool("a", "/var/lib/kubelet/x"), "target_roots"),
            (pool("a", "/x") + "device = '/etc/passwd'", "not below /dev"),
            (pool("a", "/x") + "quotta = 'off'", "did you mean `quota`?"),
        ] {
            let refused = read(&text).unwrap_err();
            assert!(refused.contains(reason), "{text}: {refused}");
        }
        read("backends = ['nfs']\npools = []").unwrap();
    }
}
