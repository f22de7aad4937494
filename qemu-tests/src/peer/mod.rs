//! A neighbour of the node: a host in this process, on a wire of its own to the node's second network card.
//!
//! QEMU's user network takes no packet from an address that it did not give out, so it cannot show what the outside sees
//! of a pod that is not hidden behind the node. Here the other end of the wire is a datagram socket with an Ethernet frame
//! in each datagram, and a TCP/IP stack (`smoltcp`) on it: it answers ARP, neighbour solicitations and pings, echoes what
//! comes over UDP and TCP on [`ECHO_PORT`] and remembers from whom it came, and talks to the node and its pods itself.

mod stack;
mod wire;

use crate::error::Fault;
use cairn_contract::machine::Interface;
use stack::{Ask, Stack};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Duration,
};
use tokio::sync::oneshot;
use wire::Wire;

/// Hardware address of the node's card.
pub const NODE_MAC: &str = "52:54:00:ca:17:02";
/// The node's addresses on the wire, with prefix length (RFC 5737 and 3849: for documentation).
pub const NODE_ADDRESSES: [&str; 2] = ["192.0.2.2/24", "2001:db8:17::2/64"];
/// The neighbour's.
pub const PEER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The neighbour's.
pub const PEER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x17, 0, 0, 0, 0, 1);
/// Where it echoes, UDP and TCP.
pub const ECHO_PORT: u16 = 7;

/// What a machine config says of the node's card: without it, it would wait for DHCP.
pub fn node_interface() -> Interface {
    Interface {
        name: None,
        mac: Some(NODE_MAC.to_owned()),
        dhcp: false,
        addresses: NODE_ADDRESSES.map(str::to_owned).to_vec(),
        gateways: Vec::new(),
        mtu: None,
    }
}

/// UDP or TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Datagrams.
    Udp,
    /// A connection.
    Tcp,
}

impl Protocol {
    /// As the probe calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// Somebody talked to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// How.
    pub protocol: Protocol,
    /// Who, as it is seen from outside.
    pub from: SocketAddr,
}

type Memory = Arc<Mutex<Vec<Heard>>>;

/// The neighbour. It is gone when dropped.
#[derive(Debug)]
pub struct Peer {
    asks: mpsc::Sender<Ask>,
    heard: Memory,
}

impl Peer {
    /// Its address of one family.
    pub fn address(ipv6: bool) -> IpAddr {
        if ipv6 { PEER_V6.into() } else { PEER_V4.into() }
    }

    /// The node's address on the wire.
    pub fn node_address(ipv6: bool) -> IpAddr {
        let text = NODE_ADDRESSES[usize::from(ipv6)];
        let address = text.split('/').next().and_then(|address| address.parse().ok());
        address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// A neighbour at `own`, a datagram socket that is made, for a QEMU whose socket is `qemu`.
    pub fn start(own: &Path, qemu: &Path) -> Result<Self, Fault> {
        let wire = Wire::open(own, qemu).map_err(Fault::io(format!("make the wire {}", own.display())))?;
        let (asks, asked) = mpsc::channel();
        let heard = Memory::default();
        let stack = Stack::new(wire, Arc::clone(&heard));
        std::thread::Builder::new()
            .name("peer".to_owned())
            .spawn(move || stack.run(&asked))
            .map_err(Fault::io("start the thread of the node's neighbour"))?;
        Ok(Self { asks, heard })
    }

    /// Who talked to it since this was asked last.
    pub fn heard(&self) -> Vec<Heard> {
        std::mem::take(&mut self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says `text` to an echo server at `to`. True when it came back in time.
    pub async fn ask(&self, protocol: Protocol, to: SocketAddr, text: &str, patience: Duration) -> bool {
        let (answer, answered) = oneshot::channel();
        let ask = Ask { protocol, to, text: text.as_bytes().to_vec(), patience, answer };
        // Without its thread nothing comes back.
        self.asks.send(ask).is_ok() && answered.await.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two neighbours cannot meet, having one address; but one can be asked by a stack of the other side.
    #[tokio::test]
    async fn a_neighbour_answers_and_remembers() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (directory.path().join("one"), directory.path().join("other"));
        let peer = Peer::start(&one, &other).unwrap();
        let wire = Wire::open(&other, &one).unwrap();
        let (asks, asked) = mpsc::channel();
        let node = Stack::at(
            wire,
            [0x52, 0x54, 0, 0xca, 0x17, 2],
            Peer::node_address(false),
            Peer::node_address(true),
        );
        std::thread::spawn(move || node.run(&asked));
        let node = Peer { asks, heard: Memory::default() };
        for ipv6 in [false, true] {
            for protocol in [Protocol::Udp, Protocol::Tcp] {
                let to = SocketAddr::new(Peer::address(ipv6), ECHO_PORT);
                assert!(node.ask(protocol, to, "hello", Duration::from_secs(30)).await, "{protocol:?} {to}");
                let heard = peer.heard();
                assert!(
                    heard
                        .iter()
                        .any(|one| one.protocol == protocol && one.from.ip() == Peer::node_address(ipv6)),
                    "{heard:?}"
                );
                assert!(peer.heard().is_empty());
            }
        }
        let nobody = SocketAddr::new("192.0.2.99".parse().unwrap(), 7);
        assert!(!node.ask(Protocol::Udp, nobody, "hello", Duration::from_millis(200)).await);
    }
}
