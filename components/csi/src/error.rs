//! What can go wrong, in gRPC's terms: the caller's mistakes and the machine's faults are different variants.

use std::io;
use tonic::Status;

/// Why a call fails. The codes are those the specification gives to each call's error conditions.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The request makes no sense, whatever the state: INVALID_ARGUMENT.
    #[error("{0}")]
    Invalid(String),
    /// No such volume, snapshot, pool or path: NOT_FOUND.
    #[error("{0}")]
    NotFound(String),
    /// It is there already, and different: ALREADY_EXISTS.
    #[error("{0}")]
    AlreadyExists(String),
    /// Not in this state: FAILED_PRECONDITION.
    #[error("{0}")]
    Precondition(String),
    /// A size that cannot be had: OUT_OF_RANGE.
    #[error("{0}")]
    OutOfRange(String),
    /// No room: RESOURCE_EXHAUSTED.
    #[error("{0}")]
    Exhausted(String),
    /// Another call works on the same volume: ABORTED. The caller asks again later.
    #[error("{0}")]
    Busy(String),
    /// A list's token is not one that was given out, or what it stood for is gone: ABORTED, too. The caller begins anew.
    #[error("{0}")]
    StaleToken(String),
    /// A server does not answer: UNAVAILABLE.
    #[error("{0}")]
    Unavailable(String),
    /// A secret is missing or wrong: UNAUTHENTICATED.
    #[error("{0}")]
    Denied(String),
    /// This driver does not do that: UNIMPLEMENTED.
    #[error("{0}")]
    Unsupported(String),
    /// The machine's fault: INTERNAL, or RESOURCE_EXHAUSTED when it is a full disk.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, and on what.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let text = fault.to_string();
        match fault {
            Fault::Invalid(_) => Self::invalid_argument(text),
            Fault::NotFound(_) => Self::not_found(text),
            Fault::AlreadyExists(_) => Self::already_exists(text),
            Fault::Precondition(_) => Self::failed_precondition(text),
            Fault::OutOfRange(_) => Self::out_of_range(text),
            Fault::Exhausted(_) => Self::resource_exhausted(text),
            Fault::Busy(_) | Fault::StaleToken(_) => Self::aborted(text),
            Fault::Unavailable(_) => Self::unavailable(text),
            Fault::Denied(_) => Self::unauthenticated(text),
            Fault::Unsupported(_) => Self::unimplemented(text),
            Fault::Io { source, .. }
                if matches!(
                    source.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
                ) =>
            {
                Self::resource_exhausted(text)
            }
            Fault::Io { .. } => Self::internal(text),
        }
    }
}

/// Says what was being done when the machine failed.
pub trait During<T> {
    /// The error becomes [`Fault::Io`]; `what` says what was tried, and on what.
    ///
    /// # Errors
    /// If there was one.
    fn during(self, what: impl FnOnce() -> String) -> Result<T, Fault>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, Fault> {
        self.map_err(|error| Fault::Io { what: what(), source: error.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn a_full_disk_is_not_a_broken_one() {
        let status = |errno: rustix::io::Errno| {
            Status::from(Err::<(), _>(errno).during(|| "write /x".to_owned()).unwrap_err())
        };
        assert_eq!(status(rustix::io::Errno::NOSPC).code(), Code::ResourceExhausted);
        assert_eq!(status(rustix::io::Errno::DQUOT).code(), Code::ResourceExhausted);
        let broken = status(rustix::io::Errno::IO);
        assert_eq!(broken.code(), Code::Internal);
        assert!(broken.message().starts_with("write /x: "));
    }
}
