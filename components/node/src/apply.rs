//! `cairn-node config`: finds the machine config, writes what it stands for, and leaves a report.
//!
//! A config that cannot be read or used does not stop the boot: a node that comes up with defaults and says
//! what is wrong can be mended, one that hangs cannot. The report makes `serve` show it, and keeps the node
//! from being called ready.

use crate::render::{Rendered, driver, render};
use crate::{machine_facts, source};
use cairn_contract::{machine::MachineConfig, paths, storage::StorageConfig};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::{fs, io};

/// The report that `config` leaves for `serve`.
pub const REPORT: &str = "/run/cairn/config-report.json";

/// How configuring went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Where the config came from, in words.
    pub source: String,
    /// What is wrong with it; empty is good.
    pub problems: Vec<String>,
}

/// Finds and applies the config. Problems are in the report, never fatal.
pub fn configure() -> Report {
    let mut report = Report::default();
    let config = chosen(&mut report);
    let interfaces = machine_facts::interfaces();
    let name = config.node.name.clone().unwrap_or_else(|| machine_facts::default_name(&interfaces));
    // An image without iSCSI has nobody to read it.
    let initiator = Path::new("/etc/iscsi")
        .exists()
        .then(|| machine_facts::default_initiator(&machine_facts::first_line(Path::new("/etc/machine-id"))));
    let mut files = render(&config, &name, initiator.as_deref());
    match image_storage().and_then(|image| driver(&config.storage, image)) {
        Ok(changed) => files.extend(changed),
        Err(problem) => report.problems.push(problem),
    }
    for file in files {
        if let Err(error) = write(&file) {
            report.problems.push(format!("cannot write {}: {error}", file.path.display()));
        }
    }
    if let Err(error) = rustix::system::sethostname(name.as_bytes()) {
        report.problems.push(format!("cannot set the host name to {name}: {error}"));
    }
    for (key, value) in &config.sysctl {
        match sysctl_path(key) {
            Some(path) => {
                // A key of a module that is not loaded yet: systemd-sysctl and udev try again later.
                if let Err(error) = fs::write(path, value)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    report.problems.push(format!("sysctl.\"{key}\": cannot set `{value}`: {error}"));
                }
            }
            None => report.problems.push(format!("sysctl.\"{key}\" is not the name of a kernel parameter")),
        }
    }
    report
}

/// The CSI driver's configuration as the image has it; none in an image without volumes.
fn image_storage() -> Result<Option<StorageConfig>, String> {
    let path = paths::CSI_CONFIG;
    match fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).map(Some).map_err(|error| format!("cannot read {path}: {error}")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot read {path}: {error}")),
    }
}

/// The config to apply: what was found, or defaults if that is no good.
fn chosen(report: &mut Report) -> MachineConfig {
    let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    if let Some(url) = source::unsupported_url(&command_line) {
        report.problems.push(format!("cairn.machine={url}: machine config by URL is not supported; use a credential or a disk labelled {}", paths::MACHINE_DISK_LABEL));
    }
    let (place, text) = match source::find() {
        Ok(found) => found,
        Err(error) => {
            report.source = source::Source::Defaults.to_string();
            report.problems.push(error.to_string());
            return MachineConfig::default();
        }
    };
    report.source = place.to_string();
    match MachineConfig::parse(&text) {
        Ok(config) => {
            let applied =
                Rendered { path: paths::MACHINE_CONFIG.into(), mode: 0o600, contents: text.into_bytes() };
            if let Err(error) = write(&applied) {
                report.problems.push(format!("cannot write {}: {error}", paths::MACHINE_CONFIG));
            }
            config
        }
        Err(error) => {
            report.problems.push(format!("{place}: {error}"));
            MachineConfig::default()
        }
    }
}

/// `net.core.somaxconn` → `/proc/sys/net/core/somaxconn`; as in sysctl.d(5), a `/` in a name with dots stands for
/// a dot (`net.ipv4.conf.eth0/1.forwarding`), and a name whose first separator is a `/` is taken as it is.
pub fn sysctl_path(key: &str) -> Option<std::path::PathBuf> {
    let swapped: String = match key.find(['.', '/']) {
        Some(at) if key.as_bytes()[at] == b'/' => key.to_owned(),
        _ => key
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
    };
    let plain = swapped.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    plain.then(|| Path::new("/proc/sys").join(swapped))
}

/// Writes a file with its directories. Written aside and renamed: a reader sees the old file or the new one.
/// The mode holds from the first byte on.
pub fn write(file: &Rendered) -> io::Result<()> {
    if let Some(parent) = file.path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    let mut aside = file.path.clone().into_os_string();
    aside.push(".new");
    let _ = fs::remove_file(&aside);
    let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(file.mode).open(&aside)?;
    out.write_all(&file.contents)?;
    drop(out);
    fs::rename(&aside, &file.path)
}

/// Leaves the report for `serve`.
pub fn save(report: &Report) -> io::Result<()> {
    let contents = serde_json::to_vec_pretty(report)?;
    write(&Rendered { path: REPORT.into(), mode: 0o644, contents })
}

/// The report of this boot, [`REPORT`] on a node; `None` if `config` did not run.
pub fn load(path: &Path) -> Option<Report> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn sysctl_names_become_paths_and_cannot_climb() {
        let path = |key| sysctl_path(key).map(|path| path.display().to_string());
        assert_eq!(path("net.core.somaxconn").unwrap(), "/proc/sys/net/core/somaxconn");
        assert_eq!(
            path("net.ipv4.conf.eth0/1.forwarding").unwrap(),
            "/proc/sys/net/ipv4/conf/eth0.1/forwarding"
        );
        assert_eq!(
            path("net/ipv4/conf/eth0.1/forwarding").unwrap(),
            "/proc/sys/net/ipv4/conf/eth0.1/forwarding"
        );
        for bad in ["", "a..b", "///", "/a", "a/../b", "a/./b", "a.//.b", "."] {
            assert_eq!(path(bad), None, "{bad}");
        }
    }

    #[test]
    fn files_are_replaced_whole_with_their_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/key.pem");
        for (mode, text) in [(0o644, "old and long"), (0o600, "new")] {
            write(&Rendered { path: path.clone(), mode, contents: text.into() }).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
