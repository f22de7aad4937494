//! Errors as the runtime gets them: JSON on stdout and exit status 1.

use super::version::SpecVersion;
use serde::{Deserialize, Serialize};
use std::{fmt, io, path::Path};

/// Error codes of the specification, section "Error"; 8 and 999 as the reference implementation has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The configuration's version is not supported, or too old for the operation.
    IncompatibleVersion,
    /// A field or value that is valid but not supported here; the message names it.
    UnsupportedField,
    /// CNI_COMMAND, CNI_CONTAINERID, … missing or malformed.
    InvalidEnvironment,
    /// Reading or writing a file, or stdin, failed.
    Io,
    /// Something that should be JSON is not, or not of the right form.
    Decoding,
    /// The network configuration makes no sense.
    InvalidConfig,
    /// The network namespace cannot be used.
    InvalidNetNs,
    /// Something is in the way that will be over soon.
    TryAgainLater,
    /// STATUS: ADD would not work now.
    NotAvailable,
    /// Everything else: mostly the kernel saying no.
    Internal,
    /// A delegated plugin's own code.
    Delegated(u32),
}

impl Code {
    /// The number in the JSON.
    pub fn number(self) -> u32 {
        match self {
            Self::IncompatibleVersion => 1,
            Self::UnsupportedField => 2,
            Self::InvalidEnvironment => 4,
            Self::Io => 5,
            Self::Decoding => 6,
            Self::InvalidConfig => 7,
            Self::InvalidNetNs => 8,
            Self::TryAgainLater => 11,
            Self::NotAvailable => 50,
            Self::Internal => 999,
            Self::Delegated(number) => number,
        }
    }
}

/// One failed operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(from = "ErrorDocument", into = "ErrorDocument")]
pub struct CniError {
    /// What kind.
    pub code: Code,
    /// What, where, why; one line.
    pub message: String,
    /// More, possibly empty.
    pub details: String,
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.details.is_empty() { Ok(()) } else { write!(f, "; {}", self.details) }
    }
}

impl CniError {
    /// An error without details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: String::new() }
    }

    /// The configuration makes no sense.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidConfig, message)
    }

    /// The kernel, or what was found in it, is not as needed.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, message)
    }

    /// A file operation failed.
    pub fn io(doing: &str, path: &Path, error: &io::Error) -> Self {
        Self::new(Code::Io, format!("{doing} {}: {error}", path.display()))
    }

    /// Adds details.
    #[must_use]
    pub fn details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The JSON for stdout.
    pub fn to_json(&self, version: SpecVersion) -> String {
        let document = ErrorDocument { cni_version: Some(version.to_string()), ..self.clone().into() };
        super::result::pretty(&document)
    }

    /// What a delegated plugin printed; `None` if that is not an error document.
    pub fn from_json(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }
}

impl From<ErrorDocument> for CniError {
    fn from(document: ErrorDocument) -> Self {
        Self { code: Code::Delegated(document.code), message: document.msg, details: document.details }
    }
}

impl From<CniError> for ErrorDocument {
    fn from(error: CniError) -> Self {
        Self { cni_version: None, code: error.code.number(), msg: error.message, details: error.details }
    }
}

#[derive(Serialize, Deserialize)]
struct ErrorDocument {
    #[serde(rename = "cniVersion", skip_serializing_if = "Option::is_none", default)]
    cni_version: Option<String>,
    code: u32,
    msg: String,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    details: String,
}
