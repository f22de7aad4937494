//! Boot assessment: taking the counter off the name of the UKI that was booted.
//!
//! systemd-boot counts the tries of an entry in its file name (`cairn_2+3.efi`, then `cairn_2+2-1.efi`) and
//! prefers entries that have tries left. A boot that is good loses its counter; one that never gets there runs
//! out of tries, and the other slot is booted. This is the Boot Loader Specification's automatic boot assessment;
//! the variable names are those of the Boot Loader Interface.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The vendor GUID of the Boot Loader Interface.
const VENDOR: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
const VARIABLES: &str = "/sys/firmware/efi/efivars";
const MOUNT_POINT: &str = "/run/cairn/esp";

/// How the boot stood, and stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The firmware is no UEFI, or the boot loader counts nothing: there is nothing to bless.
    NotCounted,
    /// Blessed before.
    Already,
    /// The entry has this name now.
    Blessed(String),
}

/// The boot cannot be marked as good.
#[derive(Debug, thiserror::Error)]
pub enum BlessError {
    /// A variable of the boot loader is not what the Boot Loader Interface says.
    #[error("the boot loader's variable {0} is not readable UTF-16")]
    Variable(&'static str),
    /// The path of the entry has no counter in it.
    #[error("the boot loader counts {0}, which has no counter in its name")]
    NoCounter(String),
    /// The ESP.
    #[error("cannot {verb} {path}", path = path.display())]
    Esp {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Marks the running boot as good.
///
/// # Errors
/// [`BlessError`]; the counter is as it was.
pub fn bless() -> Result<Outcome, BlessError> {
    let Some(counted) = variable("LoaderBootCountPath")? else { return Ok(Outcome::NotCounted) };
    let Some(partition) = variable("LoaderDevicePartUUID")? else { return Ok(Outcome::NotCounted) };
    let counted = counted.replace('\\', "/");
    let good = without_counter(&counted).ok_or_else(|| BlessError::NoCounter(counted.clone()))?;
    let device = PathBuf::from(format!("/dev/disk/by-partuuid/{}", partition.to_lowercase()));
    let esp = Mounted::new(&device)?;
    esp.rename(counted.trim_start_matches('/'), good.trim_start_matches('/'))
}

/// A string variable; `None` if there is none. efivarfs puts four bytes of attributes before the value.
fn variable(name: &'static str) -> Result<Option<String>, BlessError> {
    match fs::read(format!("{VARIABLES}/{name}-{VENDOR}")) {
        Ok(bytes) => utf16(bytes.get(4..).unwrap_or_default()).map(Some).ok_or(BlessError::Variable(name)),
        Err(_) => Ok(None),
    }
}

fn utf16(bytes: &[u8]) -> Option<String> {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let end = units.iter().position(|unit| *unit == 0).unwrap_or(units.len());
    String::from_utf16(&units[..end]).ok().filter(|text| !text.is_empty())
}

/// `/EFI/Linux/cairn_2+2-1.efi` → `/EFI/Linux/cairn_2.efi`.
fn without_counter(path: &str) -> Option<String> {
    let (stem, extension) = path.rsplit_once('.')?;
    let (name, counter) = stem.rsplit_once('+')?;
    let mut numbers = counter.splitn(2, '-');
    let counted = numbers.all(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()));
    counted.then(|| format!("{name}.{extension}"))
}

/// The ESP, mounted for as long as this lives.
struct Mounted(PathBuf);

impl Mounted {
    fn new(device: &Path) -> Result<Self, BlessError> {
        let failed = |source: io::Error| BlessError::Esp { verb: "mount", path: device.to_owned(), source };
        fs::create_dir_all(MOUNT_POINT).map_err(failed)?;
        let flags = rustix::mount::MountFlags::NOSUID
            | rustix::mount::MountFlags::NODEV
            | rustix::mount::MountFlags::NOEXEC;
        rustix::mount::mount(device, MOUNT_POINT, "vfat", flags, None)
            .map_err(|errno| failed(errno.into()))?;
        Ok(Self(MOUNT_POINT.into()))
    }

    fn rename(&self, counted: &str, good: &str) -> Result<Outcome, BlessError> {
        let (from, to) = (self.0.join(counted), self.0.join(good));
        match fs::rename(&from, &to) {
            Ok(()) => {}
            // Renamed by an earlier run of this boot; the variable stays as the boot loader set it.
            Err(error) if error.kind() == io::ErrorKind::NotFound && to.exists() => {
                return Ok(Outcome::Already);
            }
            Err(source) => return Err(BlessError::Esp { verb: "rename", path: from, source }),
        }
        // FAT has no journal: the name is safe when the directory is.
        if let Some(directory) = to.parent() {
            let synced = File::open(directory).and_then(|directory| directory.sync_all());
            synced.map_err(|source| BlessError::Esp { verb: "sync", path: directory.to_owned(), source })?;
        }
        Ok(Outcome::Blessed(good.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_come_off_names_that_have_one() {
        for (counted, good) in [
            ("/EFI/Linux/cairn_2+3.efi", Some("/EFI/Linux/cairn_2.efi")),
            ("/EFI/Linux/cairn_0.1.0+2-1.efi", Some("/EFI/Linux/cairn_0.1.0.efi")),
            ("/EFI/Linux/cairn_1+build+0-3.efi", Some("/EFI/Linux/cairn_1+build.efi")),
            ("/EFI/Linux/cairn_2.efi", None),
            ("/EFI/Linux/cairn_2+x.efi", None),
            ("/EFI/Linux/cairn_2+1-.efi", None),
            ("cairn+3", None),
        ] {
            assert_eq!(without_counter(counted).as_deref(), good, "{counted}");
        }
    }

    #[test]
    fn variables_are_utf16_with_an_end() {
        let bytes: Vec<u8> = "\\EFI\\a+1.efi\0junk".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(utf16(&bytes).unwrap(), "\\EFI\\a+1.efi");
        assert_eq!(utf16(&[]), None);
        assert_eq!(utf16(&0xd800_u16.to_le_bytes()), None);
    }

    #[test]
    fn a_second_blessing_changes_nothing() {
        let esp = tempfile::tempdir().unwrap();
        fs::create_dir_all(esp.path().join("EFI/Linux")).unwrap();
        fs::write(esp.path().join("EFI/Linux/cairn_1+2-1.efi"), "uki").unwrap();
        let mounted = std::mem::ManuallyDrop::new(Mounted(esp.path().to_owned()));
        let rename = || mounted.rename("EFI/Linux/cairn_1+2-1.efi", "EFI/Linux/cairn_1.efi").unwrap();
        assert_eq!(rename(), Outcome::Blessed("EFI/Linux/cairn_1.efi".into()));
        assert_eq!(rename(), Outcome::Already);
        assert_eq!(fs::read(esp.path().join("EFI/Linux/cairn_1.efi")).unwrap(), b"uki");
    }
}
