//! systemd's watchdog: while the daemon can serve, it says so; when it no longer does, systemd replaces it. Containers
//! run on meanwhile.
//!
//! To serve means that the socket takes a connection, that the HTTP/2 server behind it answers, and that what the
//! runtime knows can be looked at. A thread of its own sees to it: one that does not wait for those it watches, and
//! whose silence, should it hang at a lock that is never released, is what is to be told.

use crate::runtime::Runtime;
use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// What a client of HTTP/2 begins with, and an empty SETTINGS frame (RFC 9113 sections 3.4 and 6.5).
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Length of a frame's header, and where its type is.
const HEADER: usize = 9;
const TYPE: usize = 3;
const SETTINGS: u8 = 4;

/// Tells systemd at least twice per `interval` that `runtime` can serve at `socket`, as long as it can.
///
/// # Errors
/// When no thread can be started.
pub fn keep(interval: Duration, runtime: Runtime, socket: PathBuf) -> io::Result<()> {
    let watch = move || {
        loop {
            match answers(&socket, interval / 4) {
                Ok(()) => {
                    let (pods, containers) = runtime.count();
                    tracing::trace!(pods, containers, "alive");
                    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]) {
                        tracing::warn!("cannot tell systemd that the runtime is alive: {error}");
                    }
                }
                Err(error) => tracing::error!("the runtime does not answer at {}: {error}", socket.display()),
            }
            thread::sleep(interval / 4);
        }
    };
    thread::Builder::new().name("watchdog".to_owned()).stack_size(128 << 10).spawn(watch).map(drop)
}

/// Whether an HTTP/2 server answers at `socket`.
fn answers(socket: &Path, patience: Duration) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(GREETING)?;
    let mut header = [0; HEADER];
    stream.read_exact(&mut header)?;
    match header[TYPE] {
        SETTINGS => Ok(()),
        other => Err(io::Error::other(format!("it begins with a frame of type {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn silence_and_nonsense_are_no_answer() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let patience = Duration::from_millis(50);
        assert!(answers(&socket, patience).is_err(), "nobody listens");
        let listener = UnixListener::bind(&socket).unwrap();
        assert!(answers(&socket, patience).is_err(), "nobody answers");
        let server = thread::spawn(move || {
            let _first = listener.accept().unwrap();
            for kind in [SETTINGS, 7] {
                let (mut stream, _) = listener.accept().unwrap();
                stream.read_exact(&mut vec![0; GREETING.len()]).unwrap();
                stream.write_all(&[0, 0, 0, kind, 0, 0, 0, 0, 0]).unwrap();
            }
        });
        let patience = Duration::from_secs(30);
        assert!(answers(&socket, patience).is_ok());
        assert!(answers(&socket, patience).unwrap_err().to_string().contains("type 7"));
        server.join().unwrap();
    }
}
