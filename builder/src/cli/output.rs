//! Printing that survives a closed pipe.

use super::Failure;
use serde::Serialize;
use std::io::{ErrorKind, Write};

/// Prints a result, a newline added if it has none at its end.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.write_all(newline.as_bytes()))
        .and_then(|()| stdout.flush())
        .map_err(|error| match error.kind() {
            ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Failure::machine(format!("cannot write to standard output: {error}")),
        })
}

/// Prints a result as JSON.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::machine(format!("cannot write the result as JSON: {error}")))?;
    print(&text)
}

/// Says something to the person, beside the result. A standard error that is gone is no reason to fail.
pub(super) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
