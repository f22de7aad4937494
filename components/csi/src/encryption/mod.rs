//! Encryption at rest: LUKS2 between a volume's device and what is on it.
//!
//! A volume is encrypted if its context says `encryption = luks2`; a backend puts the StorageClass's parameter of that name
//! there. The driver calls [`open`] with a freshly attached device, before anything looks at what is on it, [`close`] after
//! everything is unmounted and before the device goes, and [`grow`] when the device has become larger.
//! Each may be called again after a crash in the middle of it.
//!
//! The passphrase is the cluster's: it comes with the call, goes to cryptsetup through a pipe and is nowhere else. The
//! volume's own key is in the kernel while the volume is open.
//!
//! **A new volume.** A blank device gets a LUKS header with the label [`UNFINISHED`], is opened, and the decrypted device's ends
//! are made zeros, so that it is blank, too, and not the noise that never written blocks decrypt to. Then the label
//! becomes [`FINISHED`], and only then is anything made on it. cryptsetup writes a header first, and seconds later the slot
//! with the key: who is killed in between leaves one that nothing opens. So a header that says that it is not finished
//! is made anew, since nothing was ever behind it. Half a header says nothing; where the same disk has been here
//! since it was found blank ([`Unfinished`]), it is made blank again by [`clear`].

mod cryptsetup;
mod mapping;

use crate::{
    backend::Texts,
    capacity::MIB,
    error::Fault,
    filesystem::{self, Content, Unfinished},
    id::{Secrets, VolumeId},
    records::Records,
};
use mapping::Mapping;
use std::path::{Path, PathBuf};

/// The context's key, and the StorageClass's parameter.
pub const PARAMETER: &str = "encryption";
/// Its one value.
const LUKS2: &str = "luks2";
/// The secret that has the passphrase, by the name that other drivers have for it.
const PASSPHRASE: &str = "encryptionPassphrase";
/// Bytes of a device that LUKS2 keeps for itself (cryptsetup's default: two headers and the area of the key slots).
pub const OVERHEAD: u64 = 16 * MIB;

/// Label of a volume whose decrypted device has not been made blank: nothing is in it.
const UNFINISHED: &str = "cairn-new";
/// Label of every other.
const FINISHED: &str = "cairn";

/// Whether a context or parameters ask for encryption.
///
/// # Errors
/// [`Fault::Invalid`] for a kind that there is not.
pub fn is_wanted(texts: &Texts) -> Result<bool, Fault> {
    match texts.get(PARAMETER).map(String::as_str) {
        None | Some("") => Ok(false),
        Some(LUKS2) => Ok(true),
        Some(other) => Err(Fault::Invalid(format!("{PARAMETER} {other:?} is not {LUKS2}"))),
    }
}

/// The device to use in the place of `device`: itself, unless encryption is asked for. While a header is made, its disk is in
/// `making`.
///
/// # Errors
/// [`Fault::Denied`] without the right key; [`Fault::Precondition`] if the device holds something else.
pub fn open(
    id: &VolumeId,
    context: &Texts,
    secrets: &Secrets,
    device: PathBuf,
    making: &Records<Unfinished>,
) -> Result<PathBuf, Fault> {
    if !is_wanted(context)? {
        return Ok(device);
    }
    let passphrase = passphrase(secrets, "stage")?;
    let mapping = Mapping::of(id);
    if let Some(open) = mapping.open_on(&device)? {
        return Ok(open);
    }
    let state = prepare(id, &device, passphrase, making)?;
    cryptsetup::open(&device, mapping.name(), passphrase).map_err(|fault| fault.of(id))?;
    let open = mapping.open_on(&device)?.ok_or_else(|| {
        Fault::Unavailable(format!("{id}: cryptsetup opened it, and there is no decrypted device"))
    })?;
    if state == State::New {
        filesystem::blank(&open)?;
        cryptsetup::relabel(&device, FINISHED)?;
        making.remove(&id.file_name())?;
    }
    Ok(open)
}

/// How far a volume had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has a header, and what is behind it is not blank yet.
    New,
    /// There may be data behind its header.
    Finished,
}

/// Makes a header if there is none, or none that anything was ever behind.
fn prepare(
    id: &VolumeId,
    device: &Path,
    passphrase: &str,
    making: &Records<Unfinished>,
) -> Result<State, Fault> {
    let is_new = match filesystem::look(device)? {
        Content::Blank => true,
        _ => {
            let header = cryptsetup::header(device)?.ok_or_else(|| {
                Fault::Precondition(format!(
                    "{id} is to be encrypted, and {} holds something that is not: it is left alone. If its header was \
                     being made when the node lost power, nothing was in it: wipe it (zeros over its first 16 MiB) and \
                     it is made again",
                    device.display()
                ))
            })?;
            header.label == UNFINISHED
        }
    };
    if !is_new {
        return Ok(State::Finished);
    }
    if let Some(disk) = Unfinished::on(device) {
        making.put(&id.file_name(), disk)?;
    }
    cryptsetup::format(device, passphrase, UNFINISHED)?;
    Ok(State::New)
}

/// Makes a disk blank again whose header was being made, while it is still the same. Its decrypted device is closed by then.
///
/// # Errors
/// If it cannot be read or written, as while cryptsetup still has it.
pub fn clear(id: &VolumeId, making: &Records<Unfinished>) -> Result<(), Fault> {
    let key = id.file_name();
    let Some(disk) = making.get(&key) else { return Ok(()) };
    if disk.clear_header()? {
        tracing::info!(volume = %id, "the making of its LUKS header was cut short, and is begun anew when it is staged");
    }
    making.remove(&key)
}

/// Takes the decrypted device away; none is fine.
///
/// # Errors
/// If it is in use.
pub fn close(id: &VolumeId, _: &Texts) -> Result<(), Fault> {
    let mapping = Mapping::of(id);
    match mapping.device()? {
        None => Ok(()),
        Some(_) => cryptsetup::close(mapping.name()),
    }
}

/// Makes the decrypted device as large as the one below.
///
/// # Errors
/// [`Fault::Denied`] without the right key: the kernel does not give back the one it has.
pub fn grow(id: &VolumeId, context: &Texts, secrets: &Secrets) -> Result<(), Fault> {
    if !is_wanted(context)? {
        return Ok(());
    }
    let passphrase = passphrase(secrets, "expand")?;
    cryptsetup::resize(Mapping::of(id).name(), passphrase).map_err(|fault| fault.of(id))
}

/// `call` names the secret that a StorageClass has for it: `csi.storage.k8s.io/node-stage-secret-name` and so on.
fn passphrase<'s>(secrets: &'s Secrets, call: &str) -> Result<&'s str, Fault> {
    secrets.get(PASSPHRASE).filter(|text| !text.is_empty()).ok_or_else(|| {
        Fault::Denied(format!(
            "the volume is encrypted, and the call's secrets have no {PASSPHRASE} \
             (csi.storage.k8s.io/node-{call}-secret-name of the StorageClass)"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(value: &str) -> Texts {
        Texts::from([(PARAMETER.to_owned(), value.to_owned())])
    }

    fn nothing() -> (tempfile::TempDir, Records<Unfinished>) {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::open(directory.path()).unwrap();
        (directory, records)
    }

    #[test]
    fn what_asks_for_nothing_is_passed_through() {
        let id = VolumeId::parse("a").unwrap();
        let device = PathBuf::from("/dev/null");
        let making = nothing().1;
        assert_eq!(open(&id, &Texts::new(), &Secrets::default(), device.clone(), &making).unwrap(), device);
        grow(&id, &Texts::new(), &Secrets::default()).unwrap();
        assert!(matches!(is_wanted(&texts("rot13")), Err(Fault::Invalid(_))));
    }

    #[test]
    fn without_a_key_nothing_is_touched() {
        let id = VolumeId::parse("a").unwrap();
        let device = tempfile::NamedTempFile::new().unwrap();
        let making = nothing().1;
        let refused =
            open(&id, &texts("luks2"), &Secrets::default(), device.path().into(), &making).unwrap_err();
        assert!(matches!(&refused, Fault::Denied(text) if text.contains(PASSPHRASE)), "{refused}");
        let empty = Secrets::from([(PASSPHRASE.to_owned(), String::new())]);
        assert!(matches!(grow(&id, &texts("luks2"), &empty), Err(Fault::Denied(_))));
        assert_eq!(device.as_file().metadata().unwrap().len(), 0);
    }

    /// cryptsetup, killed between the header and the slot with the key; `None` without cryptsetup.
    fn killed_format(device: &Path) -> Option<()> {
        use std::{
            io::Write,
            process::{Command, Stdio},
        };
        let mut format = Command::new("cryptsetup")
            .args(["--batch-mode", "luksFormat", "--type", "luks2", "--key-file", "-", "--label", UNFINISHED])
            // Enough for the kill to come in time.
            .args(["--pbkdf", "pbkdf2", "--iter-time", "20000"])
            .arg(device)
            .stdin(Stdio::piped())
            .spawn()
            .ok()?;
        format.stdin.take().unwrap().write_all(b"secret").unwrap();
        while cryptsetup::header(device).unwrap().is_none() {
            assert!(format.try_wait().unwrap().is_none(), "it ended without a header");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        format.kill().unwrap();
        format.wait().unwrap();
        Some(())
    }

    #[test]
    fn a_header_that_was_cut_short_is_made_anew_and_no_other() {
        let id = VolumeId::parse("a").unwrap();
        let (_directory, making) = nothing();
        let device = tempfile::NamedTempFile::new().unwrap();
        device.as_file().set_len(OVERHEAD + (1 << 20)).unwrap();
        if killed_format(device.path()).is_none() {
            println!("skipped: needs cryptsetup");
            return;
        }
        assert!(cryptsetup::check(device.path(), "secret").is_err(), "it has no key");
        for passphrase in ["secret", "another"] {
            assert_eq!(prepare(&id, device.path(), passphrase, &making).unwrap(), State::New);
            cryptsetup::check(device.path(), passphrase).unwrap();
        }
        cryptsetup::relabel(device.path(), FINISHED).unwrap();
        assert_eq!(prepare(&id, device.path(), "secret", &making).unwrap(), State::Finished);
        cryptsetup::check(device.path(), "another").unwrap();
        std::fs::write(device.path(), [0x5a; 1 << 20]).unwrap();
        let refused = prepare(&id, device.path(), "secret", &making).unwrap_err().to_string();
        assert!(refused.contains("left alone"), "{refused}");
    }
}
