//! Telling neighbours that an address has moved: gratuitous ARP (RFC 5227) and unsolicited neighbour
//! advertisements (RFC 4861, 7.2.6). Without them a pod that inherits an address is unreachable for those who
//! remember its last owner's hardware address.

use crate::{
    checksum::internet_checksum,
    netlink::{link::Mac, sys},
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, OwnedFd},
};

const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ICMPV6: u8 = 58;

/// Sends announcements from one interface of the network namespace it was made in.
#[derive(Debug)]
pub struct Announcer {
    socket: OwnedFd,
    interface: u32,
    mac: Mac,
}

impl Announcer {
    /// For the interface of that index and hardware address, in the calling thread's namespace.
    pub fn new(interface: u32, mac: Mac) -> io::Result<Self> {
        Ok(Self { socket: sys::packet_socket()?, interface, mac })
    }

    /// Says that `address` is at this interface.
    pub fn announce(&self, address: IpAddr) -> io::Result<()> {
        let (ethertype, to, payload) = match address {
            IpAddr::V4(v4) => (ETHERTYPE_ARP, [0xff; 6], gratuitous_arp(self.mac, v4).to_vec()),
            IpAddr::V6(v6) => {
                (ETHERTYPE_IPV6, [0x33, 0x33, 0, 0, 0, 1], neighbour_advertisement(self.mac, v6))
            }
        };
        sys::send_frame(self.socket.as_fd(), self.interface, ethertype, to, &payload)
    }
}

fn gratuitous_arp(mac: Mac, address: Ipv4Addr) -> [u8; 28] {
    let mut packet = [0; 28];
    // Ethernet, IPv4, address lengths 6 and 4, request: requests are taken up by every implementation.
    packet[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    packet[8..14].copy_from_slice(&mac.0);
    packet[14..18].copy_from_slice(&address.octets());
    packet[24..28].copy_from_slice(&address.octets());
    packet
}

fn neighbour_advertisement(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    const OVERRIDE: u8 = 0x20;
    const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
    let mut message = vec![136, 0, 0, 0, OVERRIDE, 0, 0, 0];
    message.extend(address.octets());
    message.extend([TARGET_LINK_LAYER_ADDRESS, 1]);
    message.extend(mac.0);
    let sum = icmpv6_checksum(address, ALL_NODES, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut packet = vec![0x60, 0, 0, 0, 0, message.len() as u8, ICMPV6, 255];
    packet.extend(address.octets());
    packet.extend(ALL_NODES.octets());
    packet.extend(message);
    packet
}

/// Over the pseudo header (RFC 8200, 8.1) and the message; its own field must be zero, or right.
fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let mut data = [source.octets(), destination.octets()].concat();
    data.extend((message.len() as u32).to_be_bytes());
    data.extend([0, 0, 0, ICMPV6]);
    data.extend(message);
    internet_checksum(&data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advertisement_carries_its_address_and_a_right_checksum() {
        let address: Ipv6Addr = "fd00::5".parse().unwrap();
        let packet = neighbour_advertisement(Mac([2, 0, 0, 0, 0, 9]), address);
        assert_eq!(packet.len(), 72);
        assert_eq!(packet[48..64], address.octets());
        // A message summed with its right checksum gives zero.
        assert_eq!(icmpv6_checksum(address, ALL_NODES, &packet[40..]), 0);
    }
}
