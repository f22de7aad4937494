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
//! becomes [`FINISHED`]. So what a crash leaves is either blank, or says that it is not finished, and nothing that could
//! be data is ever made anew.

mod cryptsetup;
mod mapping;

use crate::{
    backend::Texts,
    capacity::MIB,
    error::Fault,
    filesystem::{self, Content},
    id::{Secrets, VolumeId},
};
use cryptsetup::Header;
use mapping::Mapping;
use std::path::PathBuf;

/// The context's key, and the StorageClass's parameter.
pub const PARAMETER: &str = "encryption";
/// Its one value.
const LUKS2: &str = "luks2";
/// The secret that has the passphrase, by the name that other drivers have for it.
const PASSPHRASE: &str = "encryptionPassphrase";
/// Bytes of a device that LUKS2 keeps for itself (cryptsetup's default: two headers and the area of the key slots).
pub const OVERHEAD: u64 = 16 * MIB;

/// Label of a volume whose decrypted device has not been made blank.
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

/// The device to use in the place of `device`: itself, unless encryption is asked for.
///
/// # Errors
/// [`Fault::Denied`] without the right key; [`Fault::Precondition`] if the device holds something else.
pub fn open(id: &VolumeId, context: &Texts, secrets: &Secrets, device: PathBuf) -> Result<PathBuf, Fault> {
    if !is_wanted(context)? {
        return Ok(device);
    }
    let passphrase = passphrase(secrets, "stage")?;
    let mapping = Mapping::of(id);
    if let Some(open) = mapping.open_on(&device)? {
        return Ok(open);
    }
    let header = match filesystem::look(&device)? {
        Content::Blank => {
            cryptsetup::format(&device, passphrase, UNFINISHED)?;
            Header { label: UNFINISHED.to_owned() }
        }
        _ => cryptsetup::header(&device)?.ok_or_else(|| {
            Fault::Precondition(format!(
                "{id} is to be encrypted, and {} holds something that is not: it is left alone",
                device.display()
            ))
        })?,
    };
    cryptsetup::open(&device, mapping.name(), passphrase).map_err(|fault| fault.of(id))?;
    let open = mapping.open_on(&device)?.ok_or_else(|| {
        Fault::Unavailable(format!("{id}: cryptsetup opened it, and there is no decrypted device"))
    })?;
    if header.label == UNFINISHED {
        filesystem::blank(&open)?;
        cryptsetup::relabel(&device, FINISHED)?;
    }
    Ok(open)
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

    #[test]
    fn what_asks_for_nothing_is_passed_through() {
        let id = VolumeId::parse("a").unwrap();
        let device = PathBuf::from("/dev/null");
        assert_eq!(open(&id, &Texts::new(), &Secrets::default(), device.clone()).unwrap(), device);
        grow(&id, &Texts::new(), &Secrets::default()).unwrap();
        assert!(matches!(is_wanted(&texts("rot13")), Err(Fault::Invalid(_))));
    }

    #[test]
    fn without_a_key_nothing_is_touched() {
        let id = VolumeId::parse("a").unwrap();
        let device = tempfile::NamedTempFile::new().unwrap();
        let refused = open(&id, &texts("luks2"), &Secrets::default(), device.path().into()).unwrap_err();
        assert!(matches!(&refused, Fault::Denied(text) if text.contains(PASSPHRASE)), "{refused}");
        let empty = Secrets::from([(PASSPHRASE.to_owned(), String::new())]);
        assert!(matches!(grow(&id, &texts("luks2"), &empty), Err(Fault::Denied(_))));
        assert_eq!(device.as_file().metadata().unwrap().len(), 0);
    }
}
