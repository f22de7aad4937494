//! A conversation's socket in the pod's network namespace.
//!
//! For IPv4 it is a packet socket: before it has an address, a pod can send and receive by no other, and afterwards it
//! still can when the pod's own rules would not let it. The server is reached under the hardware address that its answer
//! came from, so nothing waits for ARP, not even a RELEASE just before the interface goes. For IPv6 it is a UDP socket
//! on the link-local address.

use super::terms::Family;
use crate::{
    checksum::internet_checksum,
    interface,
    netlink::{
        link::{Link, Mac},
        sys,
    },
    netns::NetNs,
    protocol::error::{CniError, Code},
    sysctl,
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6, UdpSocket},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

const ETHERTYPE_IPV4: u16 = 0x0800;
const SERVER4: u16 = 67;
const CLIENT4: u16 = 68;
const SERVER6: u16 = 547;
const CLIENT6: u16 = 546;
const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
const UDP: u8 = 17;
const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
/// No message is larger: IPv4 servers were told 1500, and IPv6 ones send what fits in a datagram of the link.
pub(super) const LARGEST: usize = 9000;

/// Where a server for IPv4 is, if not everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Server4 {
    /// Of the server, or of the relay before it.
    pub(super) mac: Mac,
    /// Its address.
    pub(super) address: Ipv4Addr,
}

/// An open socket.
#[derive(Debug)]
pub(super) enum Wire {
    /// For IPv4.
    Packets {
        /// The packet socket.
        socket: OwnedFd,
        /// Has the client's port, so that the kernel tells servers nothing about it; answers are read by the other.
        _port: Option<UdpSocket>,
        /// Index of the interface.
        interface: u32,
    },
    /// For IPv6.
    Datagrams {
        /// The UDP socket.
        socket: UdpSocket,
        /// Index of the interface.
        interface: u32,
    },
}

impl Wire {
    /// Opens one, and brings the interface up if it is down. For IPv6 that fails until the kernel is done with the
    /// link-local address.
    pub(super) fn open(family: Family, netns: &NetNs, ifname: &str) -> Result<Self, CniError> {
        netns.enter(|| {
            let mut route = interface::open()?;
            let link = interface::find(&mut route, ifname)?;
            if family == Family::Ipv6 {
                let _ = sysctl::ensure(&format!("net/ipv6/conf/{ifname}/disable_ipv6"), "0");
            }
            if !link.up {
                route
                    .set_up(link.index, true)
                    .map_err(|e| e.during(format_args!("bringing {ifname:?} up")))?;
            }
            let failed = |e: io::Error| {
                CniError::new(Code::Io, format!("opening a socket for DHCP on {ifname:?}: {e}"))
            };
            match family {
                Family::Ipv4 => packets(&link).map_err(failed),
                Family::Ipv6 => {
                    let addresses = route.addresses(link.index).map_err(|e| e.during("listing addresses"))?;
                    let own =
                        addresses.iter().filter(|a| !a.tentative).find_map(|a| match a.network.address {
                            IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(v6),
                            _ => None,
                        });
                    let own = own.ok_or_else(|| {
                        CniError::internal(format!("{ifname:?} has no IPv6 link-local address yet"))
                    })?;
                    let socket = UdpSocket::bind(SocketAddrV6::new(own, CLIENT6, 0, link.index));
                    let socket = socket.and_then(|s| s.set_nonblocking(true).map(|()| s)).map_err(failed)?;
                    Ok(Self::Datagrams { socket, interface: link.index })
                }
            }
        })
    }

    /// Sends a message: to `server`, or to all. `source` is our address, if we have one. (IPv6 has all its messages
    /// sent to all servers.)
    pub(super) fn send(
        &self,
        message: &[u8],
        source: Option<Ipv4Addr>,
        server: Option<Server4>,
    ) -> io::Result<()> {
        match self {
            Self::Datagrams { socket, interface } => {
                socket.send_to(message, SocketAddrV6::new(ALL_SERVERS, SERVER6, 0, *interface)).map(drop)
            }
            Self::Packets { socket, interface, .. } => {
                let (mac, to) = server.map_or(([0xff; 6], Ipv4Addr::BROADCAST), |s| (s.mac.0, s.address));
                let packet = datagram(source.unwrap_or(Ipv4Addr::UNSPECIFIED), to, message);
                sys::send_frame(socket.as_fd(), *interface, ETHERTYPE_IPV4, mac, &packet)
            }
        }
    }

    /// The next message that is there, and for IPv4 the hardware address it came from; `None` if there is none.
    pub(super) fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<Option<(&'b [u8], Option<Mac>)>> {
        let received = match self {
            Self::Datagrams { socket, .. } => socket.recv_from(buffer).map(|(length, _)| (length, None)),
            Self::Packets { socket, .. } => {
                sys::receive_frame(socket.as_fd(), buffer).map(|(length, from)| (length, Some(Mac(from))))
            }
        };
        let (length, from) = match received {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        let bytes = &buffer[..length];
        // What is no message is an empty one, which says nothing to anybody.
        Ok(Some(if from.is_some() { (payload(bytes).unwrap_or_default(), from) } else { (bytes, None) }))
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Packets { socket, .. } => socket.as_fd(),
            Self::Datagrams { socket, .. } => socket.as_fd(),
        }
    }
}

fn packets(link: &Link) -> io::Result<Wire> {
    let socket = sys::packet_socket()?;
    sys::only_udp_to(socket.as_fd(), CLIENT4)?;
    sys::listen_on(socket.as_fd(), link.index, ETHERTYPE_IPV4)?;
    let port = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, CLIENT4)).ok();
    Ok(Wire::Packets { socket, _port: port, interface: link.index })
}

/// An IPv4 packet with a UDP datagram from the client's port to the server's.
fn datagram(from: Ipv4Addr, to: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    const VERSION_AND_LENGTH: u8 = 0x45;
    const TIME_TO_LIVE: u8 = 64;
    let length = (UDP_HEADER + message.len()) as u16;
    let mut udp = Vec::with_capacity(length.into());
    udp.extend([CLIENT4, SERVER4, length, 0].map(u16::to_be_bytes).concat());
    udp.extend(message);
    let mut covered = [from.octets(), to.octets()].concat();
    covered.extend([0, UDP]);
    covered.extend(length.to_be_bytes());
    covered.extend(&udp);
    // Zero would say that there is none.
    let sum = Some(internet_checksum(&covered)).filter(|sum| *sum != 0).unwrap_or(0xffff);
    udp[6..8].copy_from_slice(&sum.to_be_bytes());

    let mut packet = vec![0; IP_HEADER];
    packet[0] = VERSION_AND_LENGTH;
    packet[2..4].copy_from_slice(&(IP_HEADER as u16 + length).to_be_bytes());
    (packet[8], packet[9]) = (TIME_TO_LIVE, UDP);
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    let sum = internet_checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(udp);
    packet
}

/// The UDP payload of an IPv4 packet to the client's port. Its checksum is not looked at: between two ends of a veth
/// pair it was never computed.
fn payload(packet: &[u8]) -> Option<&[u8]> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    let fragment = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x3fff;
    if packet[0] >> 4 != 4 || header < IP_HEADER || fragment != 0 || *packet.get(9)? != UDP {
        return None;
    }
    let udp = packet.get(header..total)?;
    let length = usize::from(u16::from_be_bytes([*udp.get(4)?, *udp.get(5)?]));
    (udp[2..4] == CLIENT4.to_be_bytes()).then(|| udp.get(UDP_HEADER..length))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_has_right_checksums_and_is_not_one_for_us() {
        let (from, to) = (Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(10, 0, 0, 1));
        let packet = datagram(from, to, b"odd");
        assert_eq!(packet.len(), IP_HEADER + UDP_HEADER + 3);
        assert_eq!(internet_checksum(&packet[..IP_HEADER]), 0);
        let mut covered = [&packet[12..20], &[0, UDP, 0, 11][..], &packet[IP_HEADER..]].concat();
        assert_eq!(internet_checksum(&covered), 0);
        covered[0] ^= 1;
        assert_ne!(internet_checksum(&covered), 0);
        assert_eq!(payload(&packet), None, "it goes to the server's port");
        let mut answer = packet.clone();
        answer[22..24].copy_from_slice(&CLIENT4.to_be_bytes());
        assert_eq!(payload(&answer), Some(&b"odd"[..]));
        for (at, value) in [(0, 0x65), (0, 0x41), (0, 0x4f), (9, 6), (7, 1), (3, 255), (25, 255), (25, 2)] {
            let mut bad = answer.clone();
            bad[at] = value;
            assert_eq!(payload(&bad), None, "{at} {value}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_packet_is_taken_or_not(packet in proptest::collection::vec(proptest::num::u8::ANY, 0..80)) {
            let _ = payload(&packet);
        }
    }
}
