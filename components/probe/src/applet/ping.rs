//! `ping`: one ICMP echo (RFC 792, RFC 4443).
//!
//! Through a ping socket where `net.ipv4.ping_group_range` lets us, as it does in pods, and else through a raw one.

use super::{DONE, Failure, Options, Outcome, number};
use rustix::{
    io::Errno,
    net::{
        self, AddressFamily, RecvFlags, SendFlags, SocketAddrAny, SocketFlags, SocketType, ipproto,
        sockopt::{Timeout, set_socket_timeout},
    },
};
use std::{
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

const PAYLOAD: &[u8] = b"cairn-probe echo";
/// An echo not answered for this long is sent again.
const RESEND: Duration = Duration::from_millis(500);

pub(super) fn run(words: &[&str]) -> Outcome {
    let options = Options::parse(words, &["timeout"], &[])?;
    let [address] = options.words()?;
    let address: IpAddr = number("ADDRESS", address.trim_matches(['[', ']']))?;
    let deadline = Instant::now() + options.timeout(5.0)?;
    let failed = |e: Errno| Failure::os(format_args!("ping {address}"), &e.into());
    let (socket, raw) = open(address.is_ipv4()).map_err(failed)?;
    let identity = std::process::id() as u16;
    for sequence in 1u16.. {
        let start = Instant::now();
        let request = echo_request(address.is_ipv4(), identity, sequence);
        net::sendto(&socket, &request, SendFlags::empty(), &SocketAddr::new(address, 0)).map_err(failed)?;
        while let Some(left) =
            (start + RESEND).min(deadline).checked_duration_since(Instant::now()).filter(|l| !l.is_zero())
        {
            set_socket_timeout(&socket, Timeout::Recv, Some(left)).map_err(failed)?;
            let mut buffer = [0; 2048];
            let (length, sender) = match net::recvfrom(&socket, buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((_, length, sender)) => (length, sender),
                Err(Errno::AGAIN | Errno::INTR) => continue,
                Err(error) => return Err(failed(error)),
            };
            let strip = raw && address.is_ipv4();
            let expected = raw.then_some(identity);
            if is_from(sender, address) && is_reply(&buffer[..length], strip, expected, sequence) {
                println!("{address} {:.1} ms", start.elapsed().as_secs_f64() * 1000.0);
                return DONE;
            }
        }
        if Instant::now() >= deadline {
            break;
        }
    }
    Err(Failure::tried(format!("ETIMEDOUT: ping {address}: no answer")))
}

fn open(ipv4: bool) -> Result<(OwnedFd, bool), Errno> {
    let (family, protocol) =
        if ipv4 { (AddressFamily::INET, ipproto::ICMP) } else { (AddressFamily::INET6, ipproto::ICMPV6) };
    let socket = |kind| net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(protocol));
    match socket(SocketType::DGRAM) {
        Ok(socket) => Ok((socket, false)),
        Err(Errno::ACCESS | Errno::PERM) => socket(SocketType::RAW).map(|socket| (socket, true)),
        Err(error) => Err(error),
    }
}

fn echo_request(ipv4: bool, identity: u16, sequence: u16) -> Vec<u8> {
    let mut packet = vec![if ipv4 { 8 } else { 128 }, 0, 0, 0];
    packet.extend(identity.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.extend(PAYLOAD);
    // The kernel fills in the sum of ICMPv6, which covers addresses we do not know.
    if ipv4 {
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// A raw IPv4 socket delivers the IP header, too. Ping sockets choose the identity themselves.
fn is_reply(packet: &[u8], ip_header: bool, identity: Option<u16>, sequence: u16) -> bool {
    let skip = if ip_header { packet.first().map_or(0, |b| usize::from(b & 0x0f) * 4) } else { 0 };
    let Some([kind, 0, _, _, i0, i1, s0, s1, payload @ ..]) = packet.get(skip..) else { return false };
    matches!(kind, 0 | 129)
        && identity.is_none_or(|id| id.to_be_bytes() == [*i0, *i1])
        && sequence.to_be_bytes() == [*s0, *s1]
        && payload == PAYLOAD
}

fn is_from(sender: Option<SocketAddrAny>, address: IpAddr) -> bool {
    sender.and_then(|s| SocketAddr::try_from(s).ok()).is_some_and(|s| s.ip() == address)
}

fn checksum(data: &[u8]) -> u16 {
    let mut sum: u32 =
        data.chunks(2).map(|p| u32::from(p[0]) << 8 | u32::from(*p.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_sums_to_zero_and_its_reply_is_known() {
        let mut packet = echo_request(true, 0x1234, 7);
        assert_eq!(checksum(&packet), 0);
        assert!(!is_reply(&packet, false, None, 7), "a request is no reply");
        packet[0] = 0;
        assert!(is_reply(&packet, false, Some(0x1234), 7) && is_reply(&packet, false, None, 7));
        assert!(!is_reply(&packet, false, Some(1), 7) && !is_reply(&packet, false, None, 8));
        let with_header = [&[0x45u8][..], &[0; 19], &packet].concat();
        assert!(is_reply(&with_header, true, Some(0x1234), 7));
        assert!(!is_reply(&with_header[..22], true, None, 7));
    }
}
