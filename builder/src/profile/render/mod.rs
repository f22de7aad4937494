//! From a profile to files of the image: pure functions, a file's path and bytes out, nothing read or written.
//!
//! Whatever a daemon on the node is configured with comes from here, so that one profile key has one place where
//! it takes effect.

mod accounts;
mod kernel;
mod kubelet;
mod network;
mod runtime;
mod storage;
mod units;

pub use kernel::kernel_command_line;
pub(crate) use kubelet::KUBELET_SYSCTLS;

use super::model::Profile;

/// A file that the image gets. Owner and group are root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Absolute path in the image.
    pub path: String,
    /// Permission bits.
    pub mode: u16,
    /// Contents.
    pub bytes: Vec<u8>,
}

impl File {
    fn text(path: impl Into<String>, text: String) -> Self {
        Self { path: path.into(), mode: 0o644, bytes: text.into_bytes() }
    }

    /// JSON with a newline at the end. `serde_json`'s maps are ordered by key, so the bytes are always the same.
    fn json(path: impl Into<String>, value: &serde_json::Value) -> Self {
        Self::text(path, format!("{value:#}\n"))
    }
}

/// Every file that a profile gives rise to, ordered by path.
///
/// # Errors
/// A value that cannot be written in its file's format; none that passed the profile's types is known.
pub fn files(profile: &Profile) -> Result<Vec<File>, toml::ser::Error> {
    let mut files = vec![kubelet::configuration(profile), runtime::configuration(profile)?];
    files.extend(kernel::files(profile));
    files.extend(storage::configuration(profile)?);
    files.extend(runtime::registries(profile));
    files.extend(network::files(profile));
    files.extend(accounts::files(profile));
    files.extend(units::files(profile));
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

#[cfg(test)]
mod tests;
