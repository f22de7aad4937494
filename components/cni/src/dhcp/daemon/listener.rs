//! The daemon's socket: one that systemd has opened (sd_listen_fds(3)), or one of its own.

use crate::{
    netlink::sys,
    protocol::error::{CniError, Code},
};
use std::{
    fs, io,
    os::unix::{
        fs::DirBuilderExt,
        net::{UnixListener, UnixStream},
    },
    path::Path,
};

const FIRST_PASSED: i32 = 3;

pub(super) fn open(path: &Path) -> Result<UnixListener, CniError> {
    let variable = |name| std::env::var(name).ok();
    let ours = variable("LISTEN_PID").is_some_and(|pid| pid == std::process::id().to_string());
    match variable("LISTEN_FDS").filter(|_| ours).as_deref() {
        None | Some("0") => own(path),
        Some("1") => sys::inherited(FIRST_PASSED)
            .map(UnixListener::from)
            .map_err(|e| CniError::new(Code::Io, format!("the socket that systemd has opened: {e}"))),
        Some(count) => {
            Err(CniError::config(format!("{count} sockets are passed to the daemon; it wants one")))
        }
    }
}

/// A socket that a killed daemon has left is replaced; one that somebody listens on is not.
fn own(path: &Path) -> Result<UnixListener, CniError> {
    let failed = |doing: &'static str| move |e: io::Error| CniError::io(doing, path, &e);
    if let Some(directory) = path.parent() {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|e| CniError::io("creating", directory, &e))?;
    }
    match UnixStream::connect(path) {
        Ok(_) => {
            let why = "another daemon listens there; `-socketpath` names another socket";
            return Err(CniError::new(Code::Io, format!("{}: {why}", path.display())));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(_) => fs::remove_file(path).map_err(failed("removing"))?,
    }
    UnixListener::bind(path).map_err(failed("listening on"))
}
