//! What can go wrong before or beside a scenario. A scenario that fails is a result, not an error.

use std::{io, path::PathBuf};

/// Either the user's to mend or the machine's.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The user's mistake: exit code 2.
    #[error(transparent)]
    User(#[from] UserError),
    /// The machine's fault: exit code 3.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Something the user asked for cannot be done; the message says what to do instead.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// Nothing at that path.
    #[error(
        "{path}: there is no image here (give the output directory of `cairn build`, or the .raw file in it)"
    )]
    NoImage {
        /// As given.
        path: PathBuf,
    },
    /// An image without its manifest.
    #[error(
        "{path}: not found; an image is tested with the manifest.json that `cairn build` wrote beside it"
    )]
    NoManifest {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A manifest that does not parse, or of another form.
    #[error("{path}: not a manifest this version can read: {reason}")]
    BadManifest {
        /// The file.
        path: PathBuf,
        /// Parser message.
        reason: String,
    },
    /// The manifest does not name a file of that kind, or the file is not there.
    #[error("{path}: {what} is missing; build the image again")]
    MissingFile {
        /// Where it should be.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Shorter or longer than the manifest says.
    #[error(
        "{path}: is {found} bytes long, but its manifest says {wanted}: the file is truncated or of another build; build it again"
    )]
    WrongLength {
        /// The file.
        path: PathBuf,
        /// Length found.
        found: u64,
        /// Length recorded.
        wanted: u64,
    },
    /// Right length, wrong content.
    #[error(
        "{path}: SHA-256 is {found}, but its manifest says {wanted}: the file was changed after the build; build it again"
    )]
    WrongDigest {
        /// The file.
        path: PathBuf,
        /// Digest found.
        found: String,
        /// Digest recorded.
        wanted: String,
    },
    /// The UKI or the root file system cannot be taken apart.
    #[error("{path}: {reason}")]
    BadImage {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No emulator.
    #[error("{program} was not found in PATH: install the package `{package}` (apt install {package})")]
    NoProgram {
        /// Program name.
        program: String,
        /// Debian package that has it.
        package: &'static str,
    },
    /// No UEFI firmware for virtual machines.
    #[error("no UEFI firmware in {looked}: install the package `ovmf` (apt install ovmf)")]
    NoFirmware {
        /// Where it was looked for.
        looked: String,
    },
    /// `--accel kvm` on a machine where KVM does not work.
    #[error(
        "KVM was asked for but cannot be used here: {reason}; use --accel tcg or leave the choice to cairn"
    )]
    NoKvm {
        /// What the probe saw.
        reason: String,
    },
    /// A name that is no scenario.
    #[error("there is no scenario `{name}`{hint}; `cairn test --list` shows them all")]
    UnknownScenario {
        /// As given.
        name: String,
        /// `; did you mean …?` or nothing.
        hint: String,
    },
    /// A machine config file that the node would refuse.
    #[error("{path}: {reason}")]
    BadMachineConfig {
        /// The file.
        path: PathBuf,
        /// The node's own words.
        reason: String,
    },
}

/// The host let us down.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A file or process operation failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// Verb and object, `read /x/y`.
        what: String,
        /// Cause.
        source: io::Error,
    },
    /// The emulator did not start or broke off.
    #[error("QEMU: {0}")]
    Qemu(String),
    /// The monitor said no, or nothing.
    #[error("QEMU monitor: {0}")]
    Monitor(String),
    /// A server that guests use did not start, or did not do what it was told.
    #[error("{0}")]
    Server(String),
    /// Keys or certificates could not be made.
    #[error("cannot make test certificates: {0}")]
    Certificates(String),
}

impl Fault {
    /// For `map_err`: names what was being done.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
