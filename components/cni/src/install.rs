//! `cairn-cni install DIR`: one symbolic link per plugin, to the running program.

use crate::plugin::Plugin;
use std::{
    io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// The links could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct InstallError {
    path: PathBuf,
    source: io::Error,
}

/// Makes `directory` and in it `loopback`, `bridge`, … pointing at the running program. A link or file of that
/// name is replaced atomically, so a runtime never finds a plugin missing.
pub fn install(directory: &Path) -> Result<(), InstallError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| InstallError { path, source }
    };
    let program = std::env::current_exe().map_err(at(Path::new("/proc/self/exe")))?;
    std::fs::create_dir_all(directory).map_err(at(directory))?;
    for plugin in Plugin::ALL {
        let link = directory.join(plugin.name());
        let fresh = directory.join(format!(".{}.{}", plugin.name(), std::process::id()));
        let _ = std::fs::remove_file(&fresh);
        symlink(&program, &fresh).map_err(at(&fresh))?;
        std::fs::rename(&fresh, &link).map_err(at(&link))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_every_link_and_replaces_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let bin = directory.path().join("opt/cni/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::write(bin.join("bridge"), "an older plugin").unwrap();
        install(&bin).unwrap();
        install(&bin).unwrap();
        let mut names: Vec<_> = std::fs::read_dir(&bin).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        let mut expected = Plugin::ALL.map(Plugin::name);
        expected.sort();
        assert_eq!(names, expected);
        assert_eq!(std::fs::read_link(bin.join("bridge")).unwrap(), std::env::current_exe().unwrap());
    }
}
