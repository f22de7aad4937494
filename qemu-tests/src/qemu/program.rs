//! Finds the emulator.

use crate::error::{Error, Fault, UserError};
use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// Debian's name for the emulator of our one architecture, and the package it is in.
const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";

/// An emulator that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Absolute path.
    pub path: PathBuf,
    /// `7.2.22`.
    pub version: String,
}

/// Looks the emulator up in `PATH` and asks for its version.
pub fn locate() -> Result<Program, Error> {
    let path = find(PROGRAM, PACKAGE)?;
    let output = Command::new(&path)
        .arg("-version")
        .output()
        .map_err(Fault::io(format!("run {} -version", path.display())))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = parse_version(&text).ok_or_else(|| {
        Fault::Qemu(format!("{} -version did not say a version: {}", path.display(), text.trim()))
    })?;
    Ok(Program { path, version })
}

/// A program of the Debian package `package`, looked up in `PATH` and where daemons are, which is in root's alone.
pub(crate) fn find(program: &str, package: &'static str) -> Result<PathBuf, UserError> {
    search(program, &env::var_os("PATH").unwrap_or_default())
        .or_else(|| search(program, "/usr/sbin:/sbin".as_ref()))
        .ok_or(UserError::NoProgram { program: program.to_owned(), package })
}

fn search(name: &str, path: &std::ffi::OsStr) -> Option<PathBuf> {
    env::split_paths(path).map(|directory| directory.join(name)).find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// `QEMU emulator version 7.2.22 (Debian …)` → `7.2.22`.
fn parse_version(text: &str) -> Option<String> {
    let rest = text.split("version ").nth(1)?;
    let version: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    (!version.is_empty()).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_read_from_debians_wording() {
        let text = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright (c) 2003-2022\n";
        assert_eq!(parse_version(text).as_deref(), Some("7.2.22"));
        assert_eq!(parse_version("qemu: not found"), None);
    }

    #[test]
    fn only_executables_in_path_count() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("qemu"), "").unwrap();
        assert_eq!(search("qemu", directory.path().as_os_str()), None);
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(directory.path().join("qemu"), std::fs::Permissions::from_mode(0o755))
            .unwrap();
        assert_eq!(search("qemu", directory.path().as_os_str()), Some(directory.path().join("qemu")));
    }
}
