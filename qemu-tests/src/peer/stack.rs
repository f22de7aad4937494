//! The neighbour's TCP/IP stack: echo servers that remember who came, and a client.

use super::{ECHO_PORT, Heard, Memory, NODE_ADDRESSES, PEER_V4, PEER_V6, Peer, Protocol, wire::Wire};
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    socket::{tcp, udp},
    time::Instant,
    wire::{EthernetAddress, IpAddress, IpCidr, IpEndpoint},
};
use std::{
    net::{IpAddr, SocketAddr},
    sync::{PoisonError, mpsc},
    time::Duration,
};
use tokio::sync::oneshot;

const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0xca, 0x17, 0xfe];
/// TCP connections taken at the same time.
const LISTENERS: usize = 4;
/// Bytes a socket buffers, in each direction.
const BUFFER: usize = 16 << 10;
/// The longest sleep, since a question does not wake the thread.
const NAP: Duration = Duration::from_millis(10);
/// A datagram that is not answered for this long is sent again.
const RESEND: Duration = Duration::from_secs(1);

/// Something to say to an echo server.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) protocol: Protocol,
    pub(super) to: SocketAddr,
    pub(super) text: Vec<u8>,
    pub(super) patience: Duration,
    pub(super) answer: oneshot::Sender<bool>,
}

/// A question on its way.
struct Pending {
    ask: Ask,
    handle: SocketHandle,
    since: Instant,
    said: Option<Instant>,
    got: Vec<u8>,
}

/// The stack.
pub(super) struct Stack {
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    udp: SocketHandle,
    listeners: Vec<SocketHandle>,
    pending: Vec<Pending>,
    next_port: u16,
    heard: Memory,
}

impl Stack {
    /// The neighbour's.
    pub(super) fn new(wire: Wire, heard: Memory) -> Self {
        Self { heard, ..Self::at(wire, MAC, PEER_V4.into(), PEER_V6.into()) }
    }

    /// One with these addresses, which reaches everything else through the node.
    pub(super) fn at(mut wire: Wire, mac: [u8; 6], v4: IpAddr, v6: IpAddr) -> Self {
        let config = Config::new(EthernetAddress(mac).into());
        let mut interface = Interface::new(config, &mut wire, Instant::now());
        interface.update_ip_addrs(|addresses| {
            for (address, own) in [v4, v6].into_iter().zip(NODE_ADDRESSES) {
                let prefix = own.rsplit_once('/').and_then(|(_, prefix)| prefix.parse().ok()).unwrap_or(0);
                // There is room for two.
                let _ = addresses.push(IpCidr::new(IpAddress::from(address), prefix));
            }
        });
        for ipv6 in [false, true] {
            // There is room for two.
            let _ = match Peer::node_address(ipv6) {
                IpAddr::V4(node) => interface.routes_mut().add_default_ipv4_route(node),
                IpAddr::V6(node) => interface.routes_mut().add_default_ipv6_route(node),
            };
        }
        let mut sockets = SocketSet::new(Vec::new());
        let mut echo = udp_socket();
        // A new socket can be bound to any port but 0.
        let _ = echo.bind(ECHO_PORT);
        let udp = sockets.add(echo);
        let listeners = (0..LISTENERS).map(|_| sockets.add(tcp_socket())).collect();
        let heard = Memory::default();
        Self { wire, interface, sockets, udp, listeners, pending: Vec::new(), next_port: 40_000, heard }
    }

    /// Works until nobody can ask any more.
    pub(super) fn run(mut self, asked: &mpsc::Receiver<Ask>) {
        loop {
            loop {
                match asked.try_recv() {
                    Ok(ask) => self.begin(ask),
                    Err(mpsc::TryRecvError::Empty) => break,
                    Err(mpsc::TryRecvError::Disconnected) => return,
                }
            }
            let now = Instant::now();
            self.interface.poll(now, &mut self.wire, &mut self.sockets);
            self.echo_datagrams();
            self.echo_connections();
            self.go_on(now);
            self.interface.poll(now, &mut self.wire, &mut self.sockets);
            let delay = self.interface.poll_delay(Instant::now(), &self.sockets).map(Duration::from);
            self.wire.wait(delay.unwrap_or(NAP).min(NAP));
        }
    }

    fn remember(&self, protocol: Protocol, from: IpEndpoint) {
        let from = SocketAddr::new(from.addr.into(), from.port);
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).push(Heard { protocol, from });
    }

    fn echo_datagrams(&mut self) {
        let mut heard = Vec::new();
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(self.udp);
        while let Ok((text, meta)) = socket.recv().map(|(text, meta)| (text.to_vec(), meta)) {
            heard.push(meta.endpoint);
            // What does not fit is lost, as datagrams are.
            let _ = socket.send_slice(&text, meta.endpoint);
        }
        heard.into_iter().for_each(|from| self.remember(Protocol::Udp, from));
    }

    fn echo_connections(&mut self) {
        let mut heard = Vec::new();
        for handle in &self.listeners {
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(*handle);
            if !socket.is_open() {
                // A closed socket can listen.
                let _ = socket.listen(ECHO_PORT);
            }
            while socket.can_recv() && socket.send_capacity() > socket.send_queue() {
                let room = socket.send_capacity() - socket.send_queue();
                let text = socket.recv(|bytes| {
                    let length = bytes.len().min(room);
                    (length, bytes[..length].to_vec())
                });
                let Ok(text) = text else { break };
                heard.extend(socket.remote_endpoint());
                // There was room.
                let _ = socket.send_slice(&text);
            }
            if socket.may_send() && !socket.may_recv() && socket.is_active() {
                socket.close();
            }
        }
        heard.into_iter().for_each(|from| self.remember(Protocol::Tcp, from));
    }

    fn begin(&mut self, ask: Ask) {
        self.next_port = self.next_port.checked_add(1).unwrap_or(40_000);
        let to = IpEndpoint::new(IpAddress::from(ask.to.ip()), ask.to.port());
        let handle = match ask.protocol {
            Protocol::Udp => {
                let mut socket = udp_socket();
                // A new socket can be bound.
                let _ = socket.bind(self.next_port);
                self.sockets.add(socket)
            }
            Protocol::Tcp => {
                let mut socket = tcp_socket();
                // Without a source address for it nothing comes back, and the question ends with its patience.
                let _ = socket.connect(self.interface.context(), to, self.next_port);
                self.sockets.add(socket)
            }
        };
        self.pending.push(Pending { ask, handle, since: Instant::now(), said: None, got: Vec::new() });
    }

    fn go_on(&mut self, now: Instant) {
        let mut open = Vec::new();
        for mut pending in std::mem::take(&mut self.pending) {
            match pending.ask.protocol {
                Protocol::Udp => pending.over_udp(self.sockets.get_mut(pending.handle), now),
                Protocol::Tcp => pending.over_tcp(self.sockets.get_mut(pending.handle), now),
            }
            let done = pending.got == pending.ask.text;
            if done || now - pending.since > pending.ask.patience.into() {
                if pending.ask.protocol == Protocol::Tcp {
                    // The other side sees a reset rather than wait.
                    self.sockets.get_mut::<tcp::Socket<'_>>(pending.handle).abort();
                    self.interface.poll(now, &mut self.wire, &mut self.sockets);
                }
                self.sockets.remove(pending.handle);
                // Who asked may have gone.
                let _ = pending.ask.answer.send(done);
            } else {
                open.push(pending);
            }
        }
        self.pending = open;
    }
}

impl Pending {
    fn over_udp(&mut self, socket: &mut udp::Socket<'_>, now: Instant) {
        if self.said.is_none_or(|said| now - said > RESEND.into()) {
            let to = IpEndpoint::new(IpAddress::from(self.ask.to.ip()), self.ask.to.port());
            // It is sent again.
            let _ = socket.send_slice(&self.ask.text, to);
            self.said = Some(now);
        }
        if let Ok((text, _)) = socket.recv() {
            self.got = text.to_vec();
        }
    }

    fn over_tcp(&mut self, socket: &mut tcp::Socket<'_>, now: Instant) {
        if self.said.is_none() && socket.can_send() {
            // A new connection has room for it.
            let _ = socket.send_slice(&self.ask.text);
            self.said = Some(now);
        }
        if socket.can_recv() {
            let text = socket.recv(|bytes| (bytes.len(), bytes.to_vec()));
            self.got.extend(text.unwrap_or_default());
        }
    }
}

fn udp_socket() -> udp::Socket<'static> {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 16], vec![0; BUFFER]);
    udp::Socket::new(buffer(), buffer())
}

fn tcp_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
    tcp::Socket::new(buffer(), buffer())
}
