//! UDP that answers from the address it was asked at.
//!
//! A server on all addresses that leaves the choice to the kernel answers from the address that leads to the client
//! best. A client that asked another one takes no notice of it. So the kernel is asked to tell with each datagram where
//! it was sent to (ip(7) `IP_PKTINFO`, RFC 3542 section 6.2 `IPV6_RECVPKTINFO`), and told the same with the answer: the
//! control message has one shape both ways.
#![allow(unsafe_code)] // recvmsg and sendmsg with packet information, for which rustix has no words.

use std::{io, mem, net::SocketAddr, net::UdpSocket, os::fd::AsRawFd, ptr};

/// A socket whose datagrams come with the address they were sent to.
pub(crate) struct Addressed(UdpSocket);

impl Addressed {
    pub(crate) fn new(socket: UdpSocket) -> io::Result<Self> {
        // A socket of IPv6 tells it of IPv4's datagrams, too, as a mapped address.
        let (level, option) = match socket.local_addr()? {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        };
        let on: libc::c_int = 1;
        let length = mem::size_of_val(&on) as libc::socklen_t;
        // SAFETY: the value is a live integer of that length.
        let outcome =
            unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), length) };
        if outcome == 0 { Ok(Self(socket)) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits for a datagram of at most the length of `buffer` and sends it back, from the address that it was sent to.
    pub(crate) fn echo(&self, buffer: &mut [u8]) -> io::Result<()> {
        let fd = self.0.as_raw_fd();
        // SAFETY: both are plain data, for which zeros are a value.
        let (mut client, mut message) =
            unsafe { (mem::zeroed::<libc::sockaddr_storage>(), mem::zeroed::<libc::msghdr>()) };
        // Room for either kind of packet information, aligned for what CMSG_FIRSTHDR makes of it.
        let mut control = [0_u64; 8];
        let mut content = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        message.msg_name = (&raw mut client).cast();
        message.msg_namelen = mem::size_of_val(&client) as libc::socklen_t;
        message.msg_iov = &raw mut content;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = mem::size_of_val(&control) as _;
        // SAFETY: all that the message points to is live and as long as it says, here and below.
        unsafe { (*message.msg_iov).iov_len = length(libc::recvmsg(fd, &raw mut message, 0))? };
        any_interface(&message);
        // SAFETY: the kernel wrote address and control message, and shortened their lengths to what it wrote.
        let sent = length(unsafe { libc::sendmsg(fd, &raw const message, 0) }).or_else(|_| {
            // Asked at an address of many, which no answer comes from.
            (message.msg_control, message.msg_controllen) = (ptr::null_mut(), 0);
            // SAFETY: as before, without a control message.
            length(unsafe { libc::sendmsg(fd, &raw const message, 0) })
        });
        sent.map(|_| ())
    }
}

/// The way to the client is for the routes to say, not the interface that the question came by.
fn any_interface(message: &libc::msghdr) {
    // SAFETY: the control message is the kernel's, whole or none at all, since nothing else shares its room; its data
    // are of the type that its level and type say, at an address that may be unaligned.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(message);
        if header.is_null() {
            return;
        }
        let data = libc::CMSG_DATA(header);
        match ((*header).cmsg_level, (*header).cmsg_type) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let data = data.cast::<libc::in_pktinfo>();
                (&raw mut (*data).ipi_ifindex).write_unaligned(0);
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let data = data.cast::<libc::in6_pktinfo>();
                (&raw mut (*data).ipi6_ifindex).write_unaligned(0);
            }
            _ => {}
        }
    }
}

fn length(outcome: isize) -> io::Result<usize> {
    usize::try_from(outcome).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        net::IpAddr,
        process::Command,
        thread,
        time::{Duration, Instant},
    };

    /// A server bound to `server` is asked at `asked` from `client`; where the answer comes from.
    fn answered_from(server: &str, asked: &str, client: &str) -> IpAddr {
        let [asked, client]: [IpAddr; 2] = [asked, client].map(|address| address.parse().unwrap());
        let server = UdpSocket::bind(server).unwrap();
        let port = server.local_addr().unwrap().port();
        let server = Addressed::new(server).unwrap();
        let client = UdpSocket::bind((client, 0)).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client.set_broadcast(true).unwrap();
        // Asked again: an address of IPv6 has its route a moment later than it is there.
        server.0.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            client.send_to(b"hello", (asked, port)).unwrap();
            match server.echo(&mut [0; 100]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {}
                outcome => break outcome.unwrap(),
            }
        }
        let mut buffer = [0; 100];
        let (length, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"hello");
        from.ip()
    }

    #[test]
    fn the_answer_comes_from_where_the_question_went() {
        // Left to the kernel, it would come from the client's own address.
        for server in ["0.0.0.0:0", "[::]:0"] {
            for asked in ["127.0.0.2", "127.0.0.1"] {
                assert_eq!(answered_from(server, asked, "127.0.0.1").to_string(), asked, "{server}");
            }
        }
    }

    #[test]
    fn what_all_were_asked_one_answers() {
        for server in ["0.0.0.0:0", "[::]:0"] {
            assert_eq!(answered_from(server, "127.255.255.255", "127.0.0.1").to_string(), "127.0.0.1");
        }
    }

    #[test]
    fn so_it_does_with_ipv6() {
        // A thread with a network of its own: the loopback has but one address of IPv6 to ask.
        thread::spawn(|| {
            // SAFETY: only the network namespace of this thread changes, no table of descriptors.
            if let Err(error) =
                unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
            {
                return println!("skipped: no network namespace: {error}");
            }
            for words in ["link set lo up", "addr add fd00::2/128 dev lo nodad"] {
                if !Command::new("ip").args(words.split(' ')).status().is_ok_and(|status| status.success()) {
                    return println!("skipped: no `ip {words}` here");
                }
            }
            for asked in ["fd00::2", "::1"] {
                assert_eq!(answered_from("[::]:0", asked, "::1").to_string(), asked);
            }
        })
        .join()
        .unwrap();
    }
}
