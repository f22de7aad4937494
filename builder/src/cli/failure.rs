//! How a command ends when it does not end well.

use std::fmt::Display;
use std::process::ExitCode;

/// Why a command failed, by who has to act. Each carries the one message that is printed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Something was checked and does not hold. Exit code 1.
    #[error("{0}")]
    Checked(String),
    /// The user asked for what cannot be done. Exit code 2, as for wrong arguments.
    #[error("{0}")]
    Mistake(String),
    /// The machine did not do what was asked: disk, network, memory. Exit code 3.
    #[error("{0}")]
    Machine(String),
    /// Whoever read standard output went away, as `head` does. Exit code 0, nothing printed.
    #[error("standard output was closed")]
    OutputClosed,
}

impl Failure {
    /// A [`Failure::Checked`].
    pub fn checked(message: impl Display) -> Self {
        Self::Checked(message.to_string())
    }

    /// A [`Failure::Mistake`].
    pub fn mistake(message: impl Display) -> Self {
        Self::Mistake(message.to_string())
    }

    /// A [`Failure::Machine`].
    pub fn machine(message: impl Display) -> Self {
        Self::Machine(message.to_string())
    }

    /// A file could not be read or written: the user's mistake where it is not there, is something else, or is not
    /// theirs to touch; the machine's fault otherwise.
    pub fn file(path: &std::path::Path, doing: &str, error: &std::io::Error) -> Self {
        use std::io::ErrorKind as Kind;
        let message = format!("cannot {doing} {}: {error}", path.display());
        match error.kind() {
            Kind::NotFound
            | Kind::AlreadyExists
            | Kind::PermissionDenied
            | Kind::NotADirectory
            | Kind::IsADirectory => Self::Mistake(message),
            _ => Self::Machine(message),
        }
    }

    /// The exit code of DESIGN §7.
    pub fn code(&self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::Checked(_) => 1,
            Self::Mistake(_) => 2,
            Self::Machine(_) => 3,
        }
    }

    /// Prints the message, if there is one, and gives the exit code.
    pub(super) fn report(self) -> ExitCode {
        if self != Self::OutputClosed {
            super::output::note(&format!("cairn: {self}"));
        }
        ExitCode::from(self.code())
    }
}

impl From<crate::profile::ProfileError> for Failure {
    fn from(error: crate::profile::ProfileError) -> Self {
        if error.is_machine_fault() { Self::machine(error) } else { Self::mistake(error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Error, ErrorKind};

    #[test]
    fn codes_say_who_has_to_act() {
        assert_eq!(Failure::checked("a").code(), 1);
        assert_eq!(Failure::mistake("a").code(), 2);
        assert_eq!(Failure::machine("a").code(), 3);
        let path = std::path::Path::new("/x");
        assert_eq!(Failure::file(path, "read", &Error::from(ErrorKind::NotFound)).code(), 2);
        assert_eq!(Failure::file(path, "write", &Error::from(ErrorKind::StorageFull)).code(), 3);
    }
}
