//! A unix socket that one daemon listens on, root's alone.
//!
//! Three things make it so. A lock file beside the socket, held as long as the listener lives, lets one daemon at a time
//! look and bind, whatever else the two do not share. Under the lock, who answers at the socket is somebody who knows nothing of
//! it, and keeps the socket; what does not answer is a leftover. And the socket is bound under another name and renamed
//! once its mode is right. Both names begin with a dot, which the kubelet overlooks in its plugin directories.

use crate::lock;
use futures::Stream;
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::net::{UnixListener, UnixStream};

/// Why a socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody does.
    #[error("another process listens at {}: stop it, or configure another place for this socket", .0.display())]
    InUse(PathBuf),
    /// It cannot be made.
    #[error("cannot listen at {}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A socket that nobody else listens on while this lives. The socket is removed with it.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
    // Last: whoever waits for it finds no socket.
    _lock: File,
}

/// Listens on a socket; its directory need not be there.
///
/// # Errors
/// If another does for two seconds (a daemon that was just killed does not), or the socket cannot be made.
pub async fn listen(path: &Path) -> Result<Listener, ListenError> {
    let failed = |source| ListenError::Io { path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    let lock = lock::open(&beside(path, "lock")).map_err(failed)?;
    if !lock::patiently(|| Ok(lock::take(&lock)? && !answers(path)?)).await.map_err(failed)? {
        return Err(ListenError::InUse(path.to_owned()));
    }
    let listener = bind(path).map_err(failed)?;
    Ok(Listener { listener, path: path.to_owned(), _lock: lock })
}

impl Listener {
    /// The next connection.
    ///
    /// # Errors
    /// Those of accept(2), such as that there are no more descriptors.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

/// Connections, without an end.
impl Stream for Listener {
    type Item = io::Result<UnixStream>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let accepted = ready!(self.listener.poll_accept(context));
        Poll::Ready(Some(accepted.map(|(stream, _)| stream)))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // What stays is a leftover, which the next one replaces.
        let _ = fs::remove_file(&self.path);
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    let beside = beside(path, "new");
    let _ = fs::remove_file(&beside);
    let listener = UnixListener::bind(&beside)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
    fs::rename(&beside, path)?;
    Ok(listener)
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{ending}"))
}

/// Whether somebody listens. One who is too busy to accept does, and is not waited for.
fn answers(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok(matches!(connect(&socket, &SocketAddrUnix::new(path)?), Ok(()) | Err(Errno::AGAIN)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::{FdFlags, fcntl_getfd};
    use std::os::unix::{fs::MetadataExt, net};

    struct Place {
        _directory: tempfile::TempDir,
        socket: PathBuf,
    }

    impl Place {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let socket = directory.path().join("run/x.sock");
            Self { _directory: directory, socket }
        }

        /// What is beside the socket.
        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(self.socket.parent().unwrap()).unwrap().flatten();
            let mut names: Vec<_> =
                entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        }

        /// Whether `listener` is the one who is reached at the socket.
        async fn leads_to(&self, listener: &Listener) {
            let (client, server) = tokio::join!(UnixStream::connect(&self.socket), listener.accept());
            client.unwrap();
            server.unwrap();
        }
    }

    #[tokio::test]
    async fn a_socket_is_its_owners_alone() {
        let place = Place::new();
        let listener = listen(&place.socket).await.unwrap();
        let metadata = fs::metadata(&place.socket).unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o600);
        assert_eq!(metadata.uid(), rustix::process::geteuid().as_raw());
        assert_eq!(place.names(), [".x.sock.lock", "x.sock"]);
        let lock = place.socket.with_file_name(".x.sock.lock");
        assert_eq!(fs::metadata(lock).unwrap().mode() & 0o777, 0o600);
        for flags in [fcntl_getfd(&listener.listener), fcntl_getfd(&listener._lock)] {
            assert!(flags.unwrap().contains(FdFlags::CLOEXEC));
        }
        drop(listener);
        assert_eq!(place.names(), [".x.sock.lock"]);
    }

    #[tokio::test]
    async fn a_second_listener_is_refused_until_the_first_is_gone() {
        let place = Place::new();
        let first = listen(&place.socket).await.unwrap();
        let refused = listen(&place.socket).await.unwrap_err();
        let text = format!(
            "another process listens at {}: stop it, or configure another place for this socket",
            place.socket.display()
        );
        assert_eq!(refused.to_string(), text);
        place.leads_to(&first).await;
        // Even without a socket to be seen, the place is taken.
        fs::remove_file(&place.socket).unwrap();
        assert!(matches!(listen(&place.socket).await, Err(ListenError::InUse(_))));
        drop(first);
        place.leads_to(&listen(&place.socket).await.unwrap()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_many_at_once_one_listens() {
        let place = Place::new();
        let each = (0..16).map(|_| {
            let socket = place.socket.clone();
            tokio::spawn(async move { listen(&socket).await })
        });
        let mut owners = Vec::new();
        for listened in futures::future::join_all(each).await {
            match listened.unwrap() {
                Ok(listener) => owners.push(listener),
                Err(error) => assert!(matches!(error, ListenError::InUse(_)), "{error}"),
            }
        }
        assert_eq!(owners.len(), 1);
        place.leads_to(&owners[0]).await;
    }

    #[tokio::test]
    async fn leftovers_are_replaced() {
        let place = Place::new();
        fs::create_dir(place.socket.parent().unwrap()).unwrap();
        drop(net::UnixListener::bind(&place.socket).unwrap());
        drop(net::UnixListener::bind(place.socket.with_file_name(".x.sock.new")).unwrap());
        fs::write(place.socket.with_file_name(".x.sock.lock"), "").unwrap();
        let listener = listen(&place.socket).await.unwrap();
        place.leads_to(&listener).await;
        assert_eq!(place.names(), [".x.sock.lock", "x.sock"]);
    }

    #[tokio::test]
    async fn who_knows_no_lock_keeps_the_socket() {
        let place = Place::new();
        fs::create_dir(place.socket.parent().unwrap()).unwrap();
        let other = net::UnixListener::bind(&place.socket).unwrap();
        assert!(matches!(listen(&place.socket).await, Err(ListenError::InUse(_))));
        // Those who asked are in its queue, which is full now; nobody is held up.
        rustix::net::listen(&other, 0).unwrap();
        assert!(matches!(listen(&place.socket).await, Err(ListenError::InUse(_))));
        drop(other);
        listen(&place.socket).await.unwrap();
    }

    #[tokio::test]
    async fn errors_say_where() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("file/x.sock");
        fs::write(directory.path().join("file"), "").unwrap();
        let error = listen(&socket).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot listen at {}: ", socket.display())), "{error}");
    }
}
