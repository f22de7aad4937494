//! A netlink socket: requests, dumps and nf_tables batches.

use super::{
    codec::{ACK, DUMP, Message, attribute, messages, read_text, read_u32},
    nftables::Generation,
    sys,
};
use crate::protocol::error::CniError;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType},
};
use std::{
    fmt, io,
    os::fd::{AsFd, OwnedFd},
};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
/// `NLMSGERR_ATTR_MSG`: the kernel's explanation.
const EXPLANATION: u16 = 1;
/// Dumps come in pieces of at most 32 KiB (`netlink_dump`), single answers are far smaller.
const BUFFER: usize = 64 * 1024;
/// A dump interrupted by a change is inconsistent and asked again, this often.
const DUMP_ATTEMPTS: usize = 10;

/// A request that failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket did not work.
    #[error("netlink socket: {0}")]
    Socket(#[from] Errno),
    /// The kernel said no; `explanation` is its own words, if it had any.
    #[error("{}{}", errno, Explained(explanation))]
    Refused {
        /// Which error.
        errno: Errno,
        /// Its words.
        explanation: Option<String>,
    },
    /// The kernel's answer is not as its headers promise.
    #[error("netlink: unexpected answer from the kernel")]
    Malformed,
}

struct Explained<'a>(&'a Option<String>);

impl fmt::Display for Explained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |words| write!(f, " ({words})"))
    }
}

impl NetlinkError {
    /// Whether the kernel refused with this error.
    pub fn is(&self, wanted: Errno) -> bool {
        matches!(self, Self::Refused { errno, .. } if *errno == wanted)
    }

    /// As a plugin's error: what was being done, and why it failed.
    pub fn during(&self, what: impl fmt::Display) -> CniError {
        CniError::internal(format!("{what}: {self}"))
    }
}

/// Which part of the kernel.
#[derive(Debug, Clone, Copy)]
pub enum Family {
    /// `NETLINK_ROUTE`: links, addresses, routes.
    Route,
    /// `NETLINK_NETFILTER`: nf_tables, conntrack.
    Netfilter,
}

/// An answer's fixed header and attributes, after the netlink header.
pub type Answer = Vec<u8>;

/// A socket in the network namespace it was opened in.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens one in the calling thread's network namespace.
    pub fn open(family: Family) -> Result<Self, NetlinkError> {
        let protocol = match family {
            Family::Route => None,
            Family::Netfilter => Some(net::netlink::NETFILTER),
        };
        let fd = net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK, libc::NETLINK_GET_STRICT_CHK] {
            // Kernels without it just go on without.
            let _ = sys::set_option(fd.as_fd(), option, 1);
        }
        Ok(Self { fd, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Sends a request and waits until it is done.
    pub fn execute(&mut self, message: Message) -> Result<(), NetlinkError> {
        self.exchange(message, ACK).map(|_| ())
    }

    /// Sends a request for one object.
    pub fn get(&mut self, message: Message) -> Result<Answer, NetlinkError> {
        self.exchange(message, ACK)?.into_iter().next().ok_or(NetlinkError::Malformed)
    }

    /// Sends a request for all objects.
    pub fn dump(&mut self, message: &Message) -> Result<Vec<Answer>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            match self.exchange(message.clone(), DUMP) {
                Err(NetlinkError::Refused { errno: Errno::INTR, .. }) => {}
                outcome => return outcome,
            }
        }
        Err(NetlinkError::Refused { errno: Errno::INTR, explanation: Some("the dump kept changing".into()) })
    }

    /// Has a child process send a request whose effect the kernel tells `group` of long before it answers. Returns when
    /// `shows` says of a message's type and body that this is it, or with the answer; `None` if neither came in time.
    pub(super) fn execute_apart(
        &mut self,
        message: Message,
        group: i32,
        shows: impl Fn(u16, &[u8]) -> bool,
        patience: Timespec,
    ) -> Result<Option<()>, NetlinkError> {
        let errno = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        sys::set_option(self.fd.as_fd(), libc::NETLINK_ADD_MEMBERSHIP, group).map_err(errno)?;
        self.sequence += 1;
        let sequence = self.sequence;
        sys::send_from_child(self.fd.as_fd(), &message.finish(sequence, ACK)).map_err(errno)?;
        loop {
            let mut wait = [PollFd::new(&self.fd, PollFlags::IN)];
            match poll(&mut wait, Some(&patience)) {
                Ok(0) => return Ok(None),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let length = match net::recv(&self.fd, self.buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
                Ok((_, length)) => length,
                // Others make more changes than the socket can hold: the answer is still to come.
                Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS) => continue,
                Err(error) => return Err(error.into()),
            };
            for received in messages(&self.buffer[..length]) {
                if received.kind == NLMSG_ERROR && received.sequence == sequence {
                    return outcome(received.flags, received.body).map(Some);
                }
                if shows(received.kind, received.body) {
                    return Ok(Some(()));
                }
            }
        }
    }

    fn exchange(&mut self, message: Message, flags: u16) -> Result<Vec<Answer>, NetlinkError> {
        self.sequence += 1;
        let sequence = self.sequence;
        net::send(&self.fd, &message.finish(sequence, flags), SendFlags::empty())?;
        let mut answers = Vec::new();
        let mut interrupted = false;
        loop {
            let (_, length) = rustix::io::retry_on_intr(|| {
                net::recv(&self.fd, self.buffer.as_mut_slice(), RecvFlags::empty())
            })?;
            for received in messages(&self.buffer[..length]).filter(|r| r.sequence == sequence) {
                interrupted |= received.flags & NLM_F_DUMP_INTR != 0;
                match received.kind {
                    NLMSG_ERROR => return outcome(received.flags, received.body).map(|()| answers),
                    NLMSG_DONE if interrupted => {
                        return Err(NetlinkError::Refused { errno: Errno::INTR, explanation: None });
                    }
                    NLMSG_DONE => return done(received.body).map(|()| answers),
                    _ => answers.push(received.body.to_vec()),
                }
            }
        }
    }

    /// Sends nf_tables messages as one transaction: all of them happen, or none. None does when a `generation` is given
    /// that is not the present one (ERESTART).
    pub fn transaction(
        &mut self,
        batch: Vec<Message>,
        generation: Option<Generation>,
    ) -> Result<(), NetlinkError> {
        let first = self.sequence + 1;
        let mut bytes = Vec::new();
        let count = batch.len();
        bytes.extend(super::nftables::batch_begin(generation).finish(first, 0));
        for (sequence, message) in (first + 1..).zip(batch) {
            bytes.extend(message.finish(sequence, ACK));
        }
        let last = first + count as u32 + 1;
        bytes.extend(super::nftables::batch_end().finish(last, 0));
        self.sequence = last;
        net::send(&self.fd, &bytes, SendFlags::empty())?;
        // The kernel has answered by the time send returns: one acknowledgement or error per message, and an
        // error for the batch itself (with the sequence number of its begin) when the commit failed.
        let mut acknowledged = 0;
        let mut failure = None;
        loop {
            let received = net::recv(&self.fd, self.buffer.as_mut_slice(), RecvFlags::DONTWAIT);
            let length = match received {
                Ok((_, length)) => length,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            };
            for received in messages(&self.buffer[..length]) {
                if received.kind != NLMSG_ERROR || !(first..=last).contains(&received.sequence) {
                    continue;
                }
                match outcome(received.flags, received.body) {
                    Ok(()) => acknowledged += 1,
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
        }
        match failure {
            Some(error) => Err(error),
            None if acknowledged < count => Err(NetlinkError::Malformed),
            None => Ok(()),
        }
    }
}

/// `struct nlmsgerr`: the error, then the request's header (and the request, unless capped), then explanations.
fn outcome(flags: u16, body: &[u8]) -> Result<(), NetlinkError> {
    let code = read_u32(body).ok_or(NetlinkError::Malformed)? as i32;
    if code == 0 {
        return Ok(());
    }
    let request = body.get(4..).and_then(read_u32).unwrap_or(0) as usize;
    let quoted = if flags & NLM_F_CAPPED != 0 { super::codec::HEADER } else { request };
    let explanation = (flags & NLM_F_ACK_TLVS != 0)
        .then(|| body.get(4 + quoted..).and_then(|tlvs| attribute(tlvs, EXPLANATION)).map(read_text))
        .flatten();
    Err(NetlinkError::Refused { errno: Errno::from_raw_os_error(-code), explanation })
}

/// The end of a dump carries an error number, too.
fn done(body: &[u8]) -> Result<(), NetlinkError> {
    match read_u32(body).unwrap_or(0) as i32 {
        code if code < 0 => {
            Err(NetlinkError::Refused { errno: Errno::from_raw_os_error(-code), explanation: None })
        }
        _ => Ok(()),
    }
}
