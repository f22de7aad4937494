//! Kernel parameters below `/proc/sys/net`. They belong to the calling thread's network namespace.

use std::{fs, io, path::PathBuf};

/// Path of a parameter given with slashes (`net/ipv4/ip_forward`), since interface names may hold dots.
fn path(parameter: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(parameter)
}

/// The value, without its newline.
pub fn read(parameter: &str) -> io::Result<String> {
    Ok(fs::read_to_string(path(parameter))?.trim_end().to_owned())
}

/// Writes `value` unless it is there already: some parameters do much work on every write.
pub fn ensure(parameter: &str, value: &str) -> io::Result<()> {
    if read(parameter)? == value {
        return Ok(());
    }
    fs::write(path(parameter), value)
}
