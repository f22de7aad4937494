//! Connection tracking: forgetting connections whose translation is out of date
//! (linux/netfilter/nfnetlink_conntrack.h).
//!
//! UDP has no connection to break: a client that keeps sending from the same port goes on with the translation it
//! began with, to a pod that is gone or to none. So entries are removed when a port's owner changes.

use super::{
    codec::{Message, NESTED, attribute},
    nftables::Transport,
    socket::{NetlinkError, Socket},
};
use rustix::io::Errno;

const SUBSYSTEM: u16 = 1; // NFNL_SUBSYS_CTNETLINK
const IPCTNL_MSG_CT_GET: u16 = SUBSYSTEM << 8 | 1;
const IPCTNL_MSG_CT_DELETE: u16 = SUBSYSTEM << 8 | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Forgets all UDP flows that were opened to one of these ports; says how many there were. A kernel without
/// conntrack's netlink interface has none that could be seen.
pub fn forget_udp_flows(socket: &mut Socket, ipv4: bool, ports: &[u16]) -> Result<usize, NetlinkError> {
    let header = [if ipv4 { AF_INET } else { AF_INET6 }, 0, 0, 0];
    let flows = match socket.dump(&Message::new(IPCTNL_MSG_CT_GET, 0, &header)) {
        Ok(flows) => flows,
        Err(error) if error.is(Errno::OPNOTSUPP) || error.is(Errno::INVAL) => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut forgotten = 0;
    for flow in &flows {
        let Some(attributes) = flow.get(4..) else { continue };
        let Some(tuple) = attribute(attributes, CTA_TUPLE_ORIG) else { continue };
        if !opened_to(tuple, ports) {
            continue;
        }
        let mut message = Message::new(IPCTNL_MSG_CT_DELETE, 0, &header).with(CTA_TUPLE_ORIG | NESTED, tuple);
        if let Some(id) = attribute(attributes, CTA_ID) {
            message = message.with(CTA_ID, id);
        }
        match socket.execute(message) {
            Ok(()) => forgotten += 1,
            Err(error) if error.is(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(forgotten)
}

fn opened_to(tuple: &[u8], ports: &[u16]) -> bool {
    let Some(protocol) = attribute(tuple, CTA_TUPLE_PROTO) else { return false };
    let number = attribute(protocol, CTA_PROTO_NUM);
    let port =
        attribute(protocol, CTA_PROTO_DST_PORT).and_then(|p| p.try_into().ok()).map(u16::from_be_bytes);
    number == Some(&[Transport::Udp.number()]) && port.is_some_and(|port| ports.contains(&port))
}
