//! The wire: a datagram socket to QEMU (`-netdev dgram`) with one Ethernet frame in each datagram.

use smoltcp::{
    phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken},
    time::Instant,
};
use std::{
    io,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    time::Duration,
};

/// Ethernet's, with its header.
const MTU: usize = 1514;

/// One end.
#[derive(Debug)]
pub(super) struct Wire {
    socket: UnixDatagram,
    other: PathBuf,
    /// A frame that was waited for.
    waiting: Option<Vec<u8>>,
}

impl Wire {
    /// The end at `own`, which is made; the other end need not be there yet.
    pub(super) fn open(own: &Path, other: &Path) -> io::Result<Self> {
        match std::fs::remove_file(own) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = UnixDatagram::bind(own)?;
        Ok(Self { socket, other: other.to_owned(), waiting: None })
    }

    /// Waits until a frame comes, but no longer than this.
    pub(super) fn wait(&mut self, longest: Duration) {
        if self.waiting.is_none() {
            // A timeout of zero would be none at all.
            let timeout = longest.max(Duration::from_micros(100));
            self.waiting = self.socket.set_read_timeout(Some(timeout)).ok().and_then(|()| self.read());
        }
    }

    fn read(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 65_536];
        let length = self.socket.recv(&mut frame).ok()?;
        frame.truncate(length);
        Some(frame)
    }
}

impl Device for Wire {
    type RxToken<'a> = Frame;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Frame, Sender<'_>)> {
        let frame = self.waiting.take().or_else(|| {
            self.socket.set_nonblocking(true).ok()?;
            let frame = self.read();
            self.socket.set_nonblocking(false).ok()?;
            frame
        })?;
        Some((Frame(frame), Sender(self)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sender<'_>> {
        Some(Sender(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MTU;
        capabilities
    }
}

/// A frame that came.
pub(super) struct Frame(Vec<u8>);

impl RxToken for Frame {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, use_it: F) -> R {
        use_it(&self.0)
    }
}

/// Room for a frame to go.
pub(super) struct Sender<'a>(&'a Wire);

impl TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let result = fill(&mut frame);
        // A wire loses frames: QEMU may not be there yet, or be slow.
        let _ = self.0.socket.send_to(&frame, &self.0.other);
        result
    }
}
