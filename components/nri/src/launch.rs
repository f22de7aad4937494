//! Plugins that the runtime starts itself: programs in a directory, with the socket as descriptor 3.
#![allow(unsafe_code)] // a child's descriptor has a number only after the fork.

use crate::plugin::Name;
use std::{
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{fs::PermissionsExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::process::{Child, Command};

/// The plugin's end of its connection.
const SOCKET: i32 = 3;

/// A program that is to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) name: Name,
    /// What the plugin is configured with.
    pub(crate) config: String,
}

/// The programs in a directory, by name; none if it is not there. What cannot be used is said in the log.
pub(crate) fn discover(plugins: &Path, configs: &Path) -> io::Result<Vec<Program>> {
    let entries = match fs::read_dir(plugins) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut programs = Vec::new();
    for entry in entries {
        let path = entry?.path();
        // A link leads to a program, too.
        let runnable = fs::metadata(&path)
            .is_ok_and(|status| status.is_file() && status.permissions().mode() & 0o111 != 0);
        if !runnable {
            continue;
        }
        match Name::of_file(&path.file_name().unwrap_or_default().to_string_lossy()) {
            Ok(name) => {
                let config = config(configs, &name)?;
                programs.push(Program { path, name, config });
            }
            Err(error) => tracing::warn!("{} is not started: {error}", path.display()),
        }
    }
    programs.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(programs)
}

/// `10-name.conf`, else `name.conf`, else nothing.
fn config(directory: &Path, name: &Name) -> io::Result<String> {
    for file in [format!("{name}.conf"), format!("{}.conf", name.base)] {
        let path = directory.join(file);
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
            read => return read,
        }
    }
    Ok(String::new())
}

impl Program {
    /// Starts it; it is killed when the child is dropped.
    pub(crate) fn start(&self) -> io::Result<(Child, tokio::net::UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let theirs = OwnedFd::from(theirs);
        let mut command = Command::new(&self.path);
        command
            .env_clear()
            .env("NRI_PLUGIN_NAME", &self.name.base)
            .env("NRI_PLUGIN_IDX", &self.name.index)
            .env("NRI_PLUGIN_SOCKET", SOCKET.to_string())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        let number = theirs.as_raw_fd();
        let place = move || {
            // SAFETY: plain system calls on a descriptor that the parent holds open over the fork.
            let placed = unsafe {
                match number {
                    SOCKET => libc::fcntl(SOCKET, libc::F_SETFD, 0),
                    number => libc::dup2(number, SOCKET),
                }
            };
            if placed < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        };
        // SAFETY: between fork and exec only `place` runs, which allocates nothing and takes no lock.
        unsafe { command.pre_exec(place) };
        let child = command.spawn()?;
        drop(theirs);
        Ok((child, tokio::net::UnixStream::from_std(ours)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn program(directory: &Path, name: &str, text: &str) {
        fs::write(directory.join(name), text).unwrap();
        fs::set_permissions(directory.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn programs_are_found_with_their_configuration() {
        let base = tempfile::tempdir().unwrap();
        let (plugins, configs) = (base.path().join("plugins"), base.path().join("conf.d"));
        assert_eq!(discover(&plugins, &configs).unwrap(), []);
        fs::create_dir_all(&plugins).unwrap();
        fs::create_dir_all(&configs).unwrap();
        program(&plugins, "20-b", "");
        program(&plugins, "10-a", "");
        program(&plugins, "no-index", "");
        fs::write(plugins.join("30-not-executable"), "").unwrap();
        fs::write(configs.join("a.conf"), "general").unwrap();
        fs::write(configs.join("b.conf"), "general").unwrap();
        fs::write(configs.join("20-b.conf"), "exact").unwrap();
        let found = discover(&plugins, &configs).unwrap();
        let found: Vec<_> =
            found.iter().map(|found| (found.name.to_string(), found.config.as_str())).collect();
        assert_eq!(found, [("10-a".to_owned(), "general"), ("20-b".to_owned(), "exact")]);
    }

    #[tokio::test]
    async fn a_program_has_its_socket_as_descriptor_three() {
        let base = tempfile::tempdir().unwrap();
        let text = "#!/bin/sh\nread word <&3\necho \"$word $NRI_PLUGIN_IDX $NRI_PLUGIN_NAME $NRI_PLUGIN_SOCKET\" >&3\n";
        program(base.path(), "07-echo", text);
        let program = discover(base.path(), base.path()).unwrap().remove(0);
        let (mut child, mut socket) = program.start().unwrap();
        socket.write_all(b"hello\n").await.unwrap();
        let mut said = String::new();
        socket.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "hello 07 echo 3\n");
        assert!(child.wait().await.unwrap().success());
    }
}
