//! Where a machine config comes from: the first place that has one counts.

use crate::volume;
use cairn_contract::paths::{MACHINE_CREDENTIAL, MACHINE_DISK_LABEL};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

const MOUNT_POINT: &str = "/run/cairn/config-disk";
/// Far beyond any real document; a bigger file is a mistake, not a config.
const MAX_BYTES: u64 = 4 << 20;

/// A place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// systemd credential, imported from SMBIOS or fw_cfg.
    Credential(PathBuf),
    /// A file on a labelled volume.
    Disk(PathBuf, &'static str),
    /// `machine.toml` on the EFI system partition.
    Esp(PathBuf),
    /// None of them: every default.
    Defaults,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Credential(path) => write!(f, "credential {}", path.display()),
            Self::Disk(device, file) => write!(f, "{file} on {}", device.display()),
            Self::Esp(device) => write!(f, "machine.toml on the ESP {}", device.display()),
            Self::Defaults => f.write_str("built-in defaults"),
        }
    }
}

/// A place that has a config which cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the machine config from {place}: {cause}")]
pub struct UnreadableSource {
    /// Which place.
    pub place: String,
    /// Why.
    pub cause: io::Error,
}

/// Finds the config and reads it. No place at all gives [`Source::Defaults`] and an empty document.
pub fn find() -> Result<(Source, String), UnreadableSource> {
    for path in [
        format!("/run/credentials/@system/{MACHINE_CREDENTIAL}"),
        format!("/sys/firmware/qemu_fw_cfg/by_name/opt/io.systemd.credentials/{MACHINE_CREDENTIAL}/raw"),
    ] {
        let source = Source::Credential(path.into());
        let Source::Credential(path) = &source else { continue };
        if let Some(text) = read(path, &source)? {
            return Ok((source, text));
        }
    }
    for (device, found) in volume::scan() {
        let file = match found.label.as_str() {
            MACHINE_DISK_LABEL => "machine.toml",
            "CIDATA" | "cidata" => "user-data",
            _ => continue,
        };
        let source = Source::Disk(device.clone(), file);
        if let Some(text) = read_from_volume(&device, found.kind.file_system(), file, &source)? {
            return Ok((source, text));
        }
    }
    for device in volume::efi_partitions() {
        let source = Source::Esp(device.clone());
        if let Some(text) = read_from_volume(&device, "vfat", "machine.toml", &source)? {
            return Ok((source, text));
        }
    }
    Ok((Source::Defaults, String::new()))
}

/// The value of `cairn.machine=` on the kernel command line, a place this version does not support.
pub fn unsupported_url(command_line: &str) -> Option<&str> {
    command_line.split_whitespace().find_map(|word| word.strip_prefix("cairn.machine="))
}

fn read_from_volume(
    device: &Path,
    kind: &str,
    file: &str,
    source: &Source,
) -> Result<Option<String>, UnreadableSource> {
    let fail = |cause: io::Error| UnreadableSource { place: source.to_string(), cause };
    fs::create_dir_all(MOUNT_POINT).map_err(fail)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(device, MOUNT_POINT, kind, flags, None).map_err(|error| fail(error.into()))?;
    let text = read(&Path::new(MOUNT_POINT).join(file), source);
    let _ = unmount(MOUNT_POINT, UnmountFlags::DETACH);
    text
}

/// The text at `path`; `None` if nothing is there.
fn read(path: &Path, source: &Source) -> Result<Option<String>, UnreadableSource> {
    let bounded = || -> io::Result<Option<String>> {
        let found = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found?,
        };
        if found.len() > MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 4 MiB"));
        }
        fs::read_to_string(path).map(Some)
    };
    bounded().map_err(|cause| UnreadableSource { place: source.to_string(), cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_is_not_an_error_but_binary_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("machine.toml");
        let source = Source::Credential(path.clone());
        assert_eq!(read(&path, &source).unwrap(), None);
        fs::write(&path, "[node]\n").unwrap();
        assert_eq!(read(&path, &source).unwrap().unwrap(), "[node]\n");
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(read(&path, &source).unwrap_err().to_string().contains("machine.toml"));
    }

    #[test]
    fn a_url_is_seen() {
        assert_eq!(unsupported_url("quiet cairn.machine=http://x/y z"), Some("http://x/y"));
        assert_eq!(unsupported_url("quiet"), None);
    }
}
