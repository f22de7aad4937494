//! cryptsetup(8), which knows LUKS2. Passphrases go in through a pipe.

use crate::{
    error::Fault,
    id::VolumeId,
    program::{self, Ended},
};
use std::{path::Path, process::Command, time::Duration};

/// Making a passphrase slow to guess takes seconds on a slow machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// What it costs to try a passphrase: a second here, and no more memory than a small node has to spare. The default
/// would take up to 1 GiB.
const COST: [&str; 8] =
    ["--pbkdf", "argon2id", "--pbkdf-memory", "65536", "--pbkdf-parallel", "1", "--iter-time", "1000"];

/// Exit codes (cryptsetup(8), "RETURN VALUES").
const NO_PERMISSION: i32 = 2;
const WRONG_DEVICE: i32 = 4;
const BUSY: i32 = 5;

/// What a LUKS2 header says of its volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// Its label.
    pub(super) label: String,
}

/// Why a passphrase did not do.
#[derive(Debug)]
pub(super) enum KeyFault {
    /// It is the wrong one.
    Wrong,
    /// Something else.
    Other(Fault),
}

impl KeyFault {
    /// As the fault of a call about a volume.
    pub(super) fn of(self, id: &VolumeId) -> Fault {
        match self {
            Self::Wrong => Fault::Denied(format!("the passphrase does not open the encrypted volume {id}")),
            Self::Other(fault) => fault,
        }
    }
}

/// Makes a header, and with it a new key, on a device that holds nothing.
pub(super) fn format(device: &Path, passphrase: &str, label: &str) -> Result<(), Fault> {
    let mut command = command("luksFormat", &["--type", "luks2", "--key-file", "-", "--label", label]);
    command.args(COST).arg(device);
    run(&mut command, passphrase)?.success().map(drop)
}

/// The header of a device; `None` if it has none.
pub(super) fn header(device: &Path) -> Result<Option<Header>, Fault> {
    let mut command = command("luksDump", &[]);
    let ended = run(command.arg(device), "")?;
    match ended.status.code() {
        Some(0) => Ok(parse(&ended.output)),
        Some(1 | WRONG_DEVICE) => Ok(None),
        _ => Err(ended.fault()),
    }
}

/// Opens a device as `/dev/mapper/<name>`.
pub(super) fn open(device: &Path, name: &str, passphrase: &str) -> Result<(), KeyFault> {
    let mut command = command("open", &["--type", "luks2", "--key-file", "-"]);
    with_key(command.arg(device).arg(name), passphrase)
}

/// Makes an open device as large as the one below.
pub(super) fn resize(name: &str, passphrase: &str) -> Result<(), KeyFault> {
    with_key(&mut command("resize", &["--key-file", "-", name]), passphrase)
}

/// Gives a header another label.
pub(super) fn relabel(device: &Path, label: &str) -> Result<(), Fault> {
    run(command("config", &["--label", label]).arg(device), "")?.success().map(drop)
}

/// Closes an open device.
pub(super) fn close(name: &str) -> Result<(), Fault> {
    let ended = run(&mut command("close", &[name]), "")?;
    match ended.status.code() {
        // Gone already.
        Some(0 | WRONG_DEVICE) => Ok(()),
        Some(BUSY) => Err(Fault::Precondition(format!("the decrypted device {name} is in use"))),
        _ => Err(ended.fault()),
    }
}

fn command(action: &str, words: &[&str]) -> Command {
    let mut command = Command::new("cryptsetup");
    command.args(["--batch-mode", action]).args(words);
    command
}

fn run(command: &mut Command, passphrase: &str) -> Result<Ended, Fault> {
    program::run(command, passphrase.as_bytes(), PATIENCE)
}

fn with_key(command: &mut Command, passphrase: &str) -> Result<(), KeyFault> {
    let ended = run(command, passphrase).map_err(KeyFault::Other)?;
    match ended.status.code() {
        Some(0) => Ok(()),
        Some(NO_PERMISSION) => Err(KeyFault::Wrong),
        _ => Err(KeyFault::Other(ended.fault())),
    }
}

/// luksDump's text, of version 2 only.
fn parse(dump: &str) -> Option<Header> {
    let value = |key: &str| dump.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    if value("Version:") != Some("2") {
        return None;
    }
    value("Label:").map(|label| Header { label: label.to_owned() })
}

/// Whether a passphrase opens a device; needs no device mapper.
#[cfg(test)]
pub(super) fn check(device: &Path, passphrase: &str) -> Result<(), KeyFault> {
    with_key(command("open", &["--test-passphrase", "--key-file", "-"]).arg(device), passphrase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read() {
        let dump = "LUKS header information\nVersion:       \t2\nEpoch:         \t3\nLabel:         \tcairn-new\nSubsystem:     \t(no subsystem)\n";
        assert_eq!(parse(dump), Some(Header { label: "cairn-new".into() }));
        assert_eq!(parse("Version:       \t1\nLabel: x\n"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn headers_are_made_and_found_and_keys_are_in_no_command_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(super::super::OVERHEAD + (1 << 20)).unwrap();
        match format(file.path(), "a secret\n", "cairn-new") {
            Err(fault) if fault.to_string().contains("cannot be started") => {
                println!("skipped: {fault}");
                return;
            }
            made => made.unwrap(),
        }
        assert_eq!(header(file.path()).unwrap(), Some(Header { label: "cairn-new".into() }));
        relabel(file.path(), "cairn").unwrap();
        assert_eq!(header(file.path()).unwrap(), Some(Header { label: "cairn".into() }));
        assert!(check(file.path(), "a secret\n").is_ok());
        assert!(matches!(check(file.path(), "a secret"), Err(KeyFault::Wrong)));
        let blank = tempfile::NamedTempFile::new().unwrap();
        blank.as_file().set_len(1 << 20).unwrap();
        assert_eq!(header(blank.path()).unwrap(), None);
    }
}
