//! Finds UEFI firmware: OVMF without Secure Boot, and the variable store that goes with it.

use crate::error::UserError;
use std::path::{Path, PathBuf};

/// Code is mapped read-only; variables are copied for each machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firmware {
    /// Flash image with the firmware.
    pub code: PathBuf,
    /// Template of its variable store.
    pub variables: PathBuf,
}

/// Where Debian's `ovmf` puts it.
const DIRECTORY: &str = "/usr/share/OVMF";
/// The small build first, where a distribution still has it: under emulation it starts half a second sooner.
const PAIRS: [(&str, &str); 2] = [("OVMF_CODE.fd", "OVMF_VARS.fd"), ("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd")];

/// The first pair that is there.
pub fn locate() -> Result<Firmware, UserError> {
    locate_in(Path::new(DIRECTORY))
}

fn locate_in(directory: &Path) -> Result<Firmware, UserError> {
    PAIRS
        .iter()
        .map(|(code, variables)| Firmware {
            code: directory.join(code),
            variables: directory.join(variables),
        })
        .find(|firmware| firmware.code.is_file() && firmware.variables.is_file())
        .ok_or_else(|| UserError::NoFirmware { looked: directory.display().to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_code_file_is_not_enough_and_the_message_names_the_package() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("OVMF_CODE_4M.fd"), "").unwrap();
        let message = locate_in(directory.path()).unwrap_err().to_string();
        assert!(message.contains("apt install ovmf"), "{message}");
        std::fs::write(directory.path().join("OVMF_VARS_4M.fd"), "").unwrap();
        assert_eq!(locate_in(directory.path()).unwrap().variables, directory.path().join("OVMF_VARS_4M.fd"));
    }
}
