//! What can end a boot, and the end itself.

use cairn_contract::console::INITRD_FAILED;
use cairn_initrd::{cmdline::CommandLineError, devmapper::BadName, index::IndexError, verity::VerityError};
use std::{error::Error, io, io::Write, path::Path, path::PathBuf, time::Duration};

/// How long the cause stays on the screen.
const REBOOT_AFTER: Duration = Duration::from_secs(5);

/// Why the boot cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command line is wrong: a mistake of whoever wrote it.
    #[error(transparent)]
    CommandLine(#[from] CommandLineError),
    /// The initramfs was built wrong.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The partitions contradict the root hash.
    #[error("cannot verify {partition}")]
    Verity {
        /// Kernel name of the hash partition.
        partition: String,
        /// What is wrong.
        source: VerityError,
    },
    /// A partition did not appear in time.
    #[error("{0}")]
    Missing(String),
    /// A name too long for the device mapper.
    #[error(transparent)]
    Name(#[from] BadName),
    /// The system failed us.
    #[error("cannot {action} {path}")]
    Io {
        /// Verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// How the kernel put it.
        source: io::Error,
    },
}

impl Failure {
    /// Wraps an error of the operating system: `.map_err(Failure::io("mount", path))`.
    pub(crate) fn io<E: Into<io::Error>>(
        action: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { action, path, source: source.into() }
    }

    /// The message and its causes, on one line.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        text
    }
}

/// Prints the cause and reboots. Everything is best effort: there is nobody left to report a failure to.
pub(crate) fn end_boot(cause: &str) -> ! {
    let line = format!("{INITRD_FAILED} {}", cause.replace('\n', " "));
    let wait = REBOOT_AFTER.as_secs();
    match std::fs::OpenOptions::new().write(true).open("/dev/console") {
        Ok(mut console) => drop(write!(console, "\r\n{line}\r\ncairn-initrd: rebooting in {wait} s\r\n")),
        Err(_) => eprintln!("{line}"),
    }
    std::thread::sleep(REBOOT_AFTER);
    rustix::fs::sync();
    let _ = rustix::system::reboot(rustix::system::RebootCommand::Restart);
    // A kernel that refuses to reboot panics when its init exits.
    std::process::exit(1)
}
