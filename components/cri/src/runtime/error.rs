//! What can go wrong with a request, and the gRPC code the kubelet judges it by.

use tonic::Status;

/// A request that was not done.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No such sandbox, container or image.
    #[error("{0} not found")]
    NotFound(String),
    /// The request makes no sense or asks for what this runtime does not do.
    #[error("{0}")]
    Invalid(String),
    /// It is taken already.
    #[error("{0}")]
    Exists(String),
    /// Not in this state.
    #[error("{0}")]
    State(String),
    /// It took longer than allowed.
    #[error("{0}")]
    Deadline(String),
    /// The node's fault: a disk, a plugin, the kernel.
    #[error("{0}")]
    Fault(String),
}

impl RuntimeError {
    /// A fault: what was being done, and why it failed.
    pub(super) fn fault(doing: &str, cause: impl std::fmt::Display) -> Self {
        Self::Fault(format!("{doing}: {cause}"))
    }
}

impl From<RuntimeError> for Status {
    fn from(error: RuntimeError) -> Self {
        let text = error.to_string();
        match error {
            RuntimeError::NotFound(_) => Status::not_found(text),
            RuntimeError::Invalid(_) => Status::invalid_argument(text),
            RuntimeError::Exists(_) => Status::already_exists(text),
            RuntimeError::State(_) => Status::failed_precondition(text),
            RuntimeError::Deadline(_) => Status::deadline_exceeded(text),
            RuntimeError::Fault(_) => Status::internal(text),
        }
    }
}
