//! What a client says to servers and what they say to it, in words that both families share.

use crate::{netlink::link::Mac, network::IpNetwork, protocol::result::Route};
use serde::{Deserialize, Serialize};
use std::{net::IpAddr, time::Duration};

/// Which protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// DHCP for IPv4 (RFC 2131).
    Ipv4,
    /// DHCP for IPv6 (RFC 8415).
    Ipv6,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Hardware address of the pod's interface.
    pub mac: Mac,
    /// `<container id>/<network>/<interface>`, as the reference plugin says it; at most 254 bytes.
    pub client: String,
    /// Options that the configuration adds to every message for IPv4.
    pub options: Vec<(u8, Vec<u8>)>,
    /// For IPv4: ask for answers by broadcast.
    pub broadcast: bool,
}

/// One conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conversation {
    /// Transaction id: IPv6 uses its lower 24 bits.
    pub id: u32,
    /// Since it began.
    pub elapsed: Duration,
}

/// What the client says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask<'a> {
    /// Who has an address for me, this one if possible? DISCOVER, Solicit.
    Discover(Option<IpAddr>),
    /// I take this offer. REQUEST, Request.
    Take(&'a Terms),
    /// May I keep it? To the server that gave it: REQUEST, Renew.
    Renew(&'a Terms),
    /// May I keep it? To any server: REQUEST, Rebind.
    Rebind(&'a Terms),
    /// I do not need it any more. RELEASE, Release.
    Release(&'a Terms),
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// OFFER, Advertise.
    Offered(Terms),
    /// ACK, Reply.
    Granted(Terms),
    /// NAK, or a Reply with a status that is not success; why.
    Refused(String),
}

/// An address, and on which terms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// The address. A server for IPv6 gives no prefix; then it is 128.
    pub address: IpNetwork,
    /// What names the server: its address for IPv4, its DUID for IPv6.
    pub server: Vec<u8>,
    /// Until it ends.
    pub lifetime: Span,
    /// Until this server is to be asked again (T1).
    pub renew: Span,
    /// Until any server is to be asked (T2).
    pub rebind: Span,
    /// First router.
    pub gateway: Option<IpAddr>,
    /// Routes.
    pub routes: Vec<Route>,
}

/// A time as servers say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "u32", into = "u32")]
pub enum Span {
    /// Seconds.
    Seconds(u32),
    /// For ever.
    Infinite,
}

impl From<u32> for Span {
    fn from(seconds: u32) -> Self {
        if seconds == u32::MAX { Self::Infinite } else { Self::Seconds(seconds) }
    }
}

impl From<Span> for u32 {
    fn from(span: Span) -> Self {
        match span {
            Span::Seconds(seconds) => seconds,
            Span::Infinite => u32::MAX,
        }
    }
}

impl Span {
    /// That part of it, in per cent.
    pub fn part(self, percent: u32) -> Self {
        match self {
            Self::Seconds(seconds) => Self::Seconds((u64::from(seconds) * u64::from(percent) / 100) as u32),
            Self::Infinite => Self::Infinite,
        }
    }
}

/// T1 and T2 as told, or these parts of `of` where what was told is nothing or makes no sense.
pub(super) fn timers(told: [Option<Span>; 2], of: Span, lifetime: Span, percent: [u32; 2]) -> [Span; 2] {
    let told = told.map(|span| span.filter(|span| *span != Span::Seconds(0)));
    let rebind = told[1].filter(|rebind| *rebind <= lifetime).unwrap_or_else(|| of.part(percent[1]));
    let renew = told[0].filter(|renew| *renew <= rebind).unwrap_or_else(|| of.part(percent[0]).min(rebind));
    [renew, rebind]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_that_make_no_sense_are_not_believed() {
        let told = |renew, rebind| {
            timers([Some(Span::from(renew)), Some(Span::from(rebind))], 100.into(), 100.into(), [50, 85])
                .map(u32::from)
        };
        assert_eq!(told(10, 20), [10, 20]);
        assert_eq!(told(0, 0), [50, 85]);
        assert_eq!(told(90, 80), [50, 80]);
        assert_eq!(told(90, 40), [40, 40]);
        assert_eq!(told(10, 200), [10, 85]);
        assert_eq!(told(u32::MAX, u32::MAX), [50, 85]);
        let infinite = Span::Infinite;
        assert_eq!(timers([None, None], infinite, infinite, [50, 85]), [infinite, infinite]);
    }
}
