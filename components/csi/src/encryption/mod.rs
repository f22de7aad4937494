//! Encryption at rest: LUKS2 between a volume's device and what is on it.
//!
//! A volume is encrypted if its context says `encryption = luks2`; a backend puts the StorageClass's parameter of that name
//! there. The driver calls [`open`] with a freshly attached device, before anything looks at what is on it, [`close`] after
//! everything is unmounted and before the device goes, and [`grow`] when the device has become larger.
//! Each may be called again after a crash in the middle of it.
//!
//! Not there yet: volumes that ask for it are refused.

use crate::{
    backend::Texts,
    error::Fault,
    id::{Secrets, VolumeId},
};
use std::path::PathBuf;

/// The context's key, and the StorageClass's parameter.
pub const PARAMETER: &str = "encryption";

/// The device to use in the place of `device`: itself, unless encryption is asked for.
///
/// # Errors
/// [`Fault::Denied`] without the right key.
pub fn open(id: &VolumeId, context: &Texts, secrets: &Secrets, device: PathBuf) -> Result<PathBuf, Fault> {
    let _ = secrets;
    match context.get(PARAMETER) {
        None => Ok(device),
        Some(_) => Err(Fault::Invalid(format!("{id}: this build cannot encrypt volumes"))),
    }
}

/// Takes the decrypted device away; none is fine.
///
/// # Errors
/// If it is in use.
pub fn close(id: &VolumeId, context: &Texts) -> Result<(), Fault> {
    let _ = (id, context);
    Ok(())
}

/// Makes the decrypted device as large as the one below.
///
/// # Errors
/// If that fails.
pub fn grow(id: &VolumeId, context: &Texts) -> Result<(), Fault> {
    let _ = (id, context);
    Ok(())
}
