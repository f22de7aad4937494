//! What a scenario is.
//!
//! A scenario is one small file in [`crate::scenarios`]: what it shows, which requirements that proves, what it
//! needs, and a function that reads as prose. It ends well, or with a [`Stop`]: failed (the image is at fault),
//! skipped (it cannot be tried here, with the reason) or broken (the harness or the host is at fault). The three
//! are kept apart to the last line of the report.

mod context;
mod emulator;
mod runner;

pub use context::{Context, Figure, Step};
pub(crate) use runner::run_all;

use crate::error::{Error, Fault, UserError};
use futures::future::BoxFuture;

/// Where a scenario runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// On the machine that scenarios share, which it leaves as it found it.
    Shared,
    /// On the shared machine, but it reboots it: after all that do not.
    SharedReboot,
    /// On machines of its own, which it starts.
    Own,
}

/// One thing that is shown of an image.
pub struct Scenario {
    /// Kebab-case, stable: pipelines select by it.
    pub id: &'static str,
    /// What is shown, as a statement.
    pub title: &'static str,
    /// Requirement ids it proves (docs: the reference architecture's numbering).
    pub requirements: &'static [&'static str],
    /// Where it runs.
    pub needs: Needs,
    /// Multiple of the usual time budget.
    pub budget: u32,
    /// The scenario itself.
    pub run: for<'c> fn(&'c mut Context<'_>) -> BoxFuture<'c, Result<(), Stop>>,
}

/// Why a scenario ended early.
#[derive(Debug)]
pub enum Stop {
    /// The image did not do what it should.
    Failed(String),
    /// It cannot be tried here.
    Skipped(String),
    /// The harness could not do its part.
    Broken(Error),
}

impl Stop {
    /// The image did not do what it should.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    /// The same end, with what was being tried in front.
    pub fn while_trying(self, what: &str) -> Self {
        match self {
            Self::Failed(message) => Self::Failed(format!("{what}: {message}")),
            other => other,
        }
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Broken(fault.into())
    }
}

impl From<UserError> for Stop {
    fn from(error: UserError) -> Self {
        // Something is not installed: the rest can be tried all the same.
        match error {
            UserError::NoFirmware { .. } | UserError::NoProgram { .. } => Self::Skipped(error.to_string()),
            other => Self::Broken(other.into()),
        }
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        match error {
            Error::User(error) => error.into(),
            Error::Fault(fault) => fault.into(),
        }
    }
}

/// Fails unless `condition`, with what was expected and what was there.
pub(crate) fn check(condition: bool, message: impl FnOnce() -> String) -> Result<(), Stop> {
    if condition { Ok(()) } else { Err(Stop::Failed(message())) }
}

/// Fails unless the two are equal.
pub(crate) fn check_equal<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: &T,
    wanted: &T,
) -> Result<(), Stop> {
    check(found == wanted, || format!("{what} is {found:?}, expected {wanted:?}"))
}
