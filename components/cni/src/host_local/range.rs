//! Ranges of addresses, and the order they are handed out in.

use crate::network::{IpNetwork, bits, canonical, next};
use serde::Deserialize;
use std::{fmt, net::IpAddr};

/// A range as configured.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RangeConfig {
    /// Network; host bits must be zero.
    pub subnet: IpNetwork,
    /// First address, inclusive; default the second of the network.
    #[serde(default)]
    pub range_start: Option<IpAddr>,
    /// Last address, inclusive; default the last that is not the broadcast address.
    #[serde(default)]
    pub range_end: Option<IpAddr>,
    /// Never handed out; default the second of the network.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
}

/// A range, checked and complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Network.
    pub subnet: IpNetwork,
    /// First address.
    pub start: IpAddr,
    /// Last address.
    pub end: IpAddr,
    /// Never handed out.
    pub gateway: IpAddr,
}

/// A range that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Fewer than four addresses.
    #[error("Network {0} too small to allocate from")]
    TooSmall(IpNetwork),
    /// `subnet` is not a network address.
    #[error("Network has host bits set. For a subnet mask of length {} the network address is {}", .0.prefix, .0.address)]
    HostBits(IpNetwork),
    /// `rangeStart` or `rangeEnd` elsewhere.
    #[error("{0} {1} not in network {2}")]
    Outside(&'static str, IpAddr, IpNetwork),
    /// End before start.
    #[error("RangeStart {0} is after RangeEnd {1}")]
    Reversed(IpAddr, IpAddr),
    /// `gateway` of the other family.
    #[error("gateway {0} and network {1} are of different families")]
    GatewayFamily(IpAddr, IpNetwork),
    /// Nothing in a set.
    #[error("empty range set")]
    Empty,
    /// IPv4 and IPv6 in one set.
    #[error("mixed address families")]
    Mixed,
    /// Two ranges of a set share addresses.
    #[error("subnets {0} and {1} overlap")]
    Overlap(Box<Range>, Box<Range>),
}

impl Range {
    /// Checks and completes.
    pub fn new(config: &RangeConfig) -> Result<Self, RangeError> {
        let subnet = config.subnet;
        if subnet.prefix > bits(subnet.address) - 2 {
            return Err(RangeError::TooSmall(subnet));
        }
        if subnet != subnet.network() {
            return Err(RangeError::HostBits(subnet.network()));
        }
        let second = next(subnet.address);
        let gateway = config.gateway.map_or(second, canonical);
        if gateway.is_ipv4() != subnet.address.is_ipv4() {
            return Err(RangeError::GatewayFamily(gateway, subnet));
        }
        let inside = |what, address: Option<IpAddr>, default| match address.map(canonical) {
            Some(address) if !subnet.contains(address) => Err(RangeError::Outside(what, address, subnet)),
            given => Ok(given.unwrap_or(default)),
        };
        let last = match subnet.last() {
            IpAddr::V4(v4) => std::net::Ipv4Addr::from_bits(v4.to_bits() - 1).into(),
            v6 => v6,
        };
        let start = inside("RangeStart", config.range_start, second)?;
        let end = inside("RangeEnd", config.range_end, last)?;
        if start > end {
            return Err(RangeError::Reversed(start, end));
        }
        Ok(Self { subnet, start, end, gateway })
    }

    /// Whether the address is from start to end.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.start.is_ipv4() && (self.start..=self.end).contains(&address)
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.start) || other.contains(self.start)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.start, self.end)
    }
}

/// Ranges of one family that one address is taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeSet(Vec<Range>);

impl RangeSet {
    /// Checks and completes.
    pub fn new(configs: &[RangeConfig]) -> Result<Self, RangeError> {
        let ranges: Vec<Range> = configs.iter().map(Range::new).collect::<Result<_, _>>()?;
        let first = ranges.first().ok_or(RangeError::Empty)?;
        if ranges.iter().any(|range| range.start.is_ipv4() != first.start.is_ipv4()) {
            return Err(RangeError::Mixed);
        }
        for (index, range) in ranges.iter().enumerate() {
            if let Some(other) = ranges[index + 1..].iter().find(|other| range.overlaps(other)) {
                return Err(RangeError::Overlap(Box::new(*range), Box::new(*other)));
            }
        }
        Ok(Self(ranges))
    }

    /// Whether its addresses are IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.0[0].start.is_ipv4()
    }

    /// The range that an address is in.
    pub fn range_of(&self, address: IpAddr) -> Option<&Range> {
        self.0.iter().find(|range| range.contains(address))
    }

    /// Whether the address is in any range.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.range_of(address).is_some()
    }

    /// Whether the two share addresses.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().any(|range| other.0.iter().any(|o| range.overlaps(o)))
    }

    /// Every address once but no gateway, beginning after `last`, and at the very start if that is not in here.
    pub fn after(&self, last: Option<IpAddr>) -> impl Iterator<Item = (IpAddr, &Range)> {
        let position = last.and_then(|last| Some((self.0.iter().position(|r| r.contains(last))?, last)));
        let (first, begin) = match position {
            Some((index, last)) => self.following(index, last),
            None => (0, self.0[0].start),
        };
        let mut upcoming = Some((first, begin));
        std::iter::from_fn(move || {
            let (index, address) = upcoming?;
            upcoming = Some(self.following(index, address)).filter(|(_, address)| *address != begin);
            Some((address, &self.0[index]))
        })
        .filter(|(address, range)| *address != range.gateway)
    }

    fn following(&self, index: usize, address: IpAddr) -> (usize, IpAddr) {
        if address != self.0[index].end {
            return (index, next(address));
        }
        let index = (index + 1) % self.0.len();
        (index, self.0[index].start)
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{range}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> RangeConfig {
        let mut words = text.split(' ');
        let subnet = words.next().unwrap().parse().unwrap();
        let mut address = || words.next().filter(|w| *w != "-").map(|w| w.parse().unwrap());
        RangeConfig { subnet, range_start: address(), range_end: address(), gateway: address() }
    }

    fn set(texts: &[&str]) -> Result<RangeSet, RangeError> {
        RangeSet::new(&texts.iter().map(|text| config(text)).collect::<Vec<_>>())
    }

    fn order(set: &RangeSet, last: Option<&str>) -> String {
        let all: Vec<_> = set.after(last.map(|l| l.parse().unwrap())).map(|(ip, _)| ip.to_string()).collect();
        all.join(" ")
    }

    #[test]
    fn defaults_leave_out_network_broadcast_and_gateway() {
        let v4 = Range::new(&config("10.1.0.0/16")).unwrap();
        assert_eq!(
            (v4.to_string(), v4.gateway.to_string()),
            ("10.1.0.1-10.1.255.254".into(), "10.1.0.1".into())
        );
        let v6 = Range::new(&config("fd00::/64")).unwrap();
        assert_eq!(v6.to_string(), "fd00::1-fd00::ffff:ffff:ffff:ffff");
        assert_eq!(
            order(&set(&["10.0.0.0/29"]).unwrap(), None),
            "10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6"
        );
    }

    #[test]
    fn ranges_that_make_no_sense_are_told() {
        for (text, part) in [
            ("10.1.0.0/31", "too small"),
            ("fd00::/127", "too small"),
            ("10.1.0.5/24", "host bits set"),
            ("10.1.0.0/24 10.2.0.1", "RangeStart 10.2.0.1 not in network"),
            ("10.1.0.0/24 - fd00::1", "RangeEnd"),
            ("10.1.0.0/24 10.1.0.9 10.1.0.2", "after"),
            ("10.1.0.0/24 - - fd00::1", "families"),
        ] {
            let message = Range::new(&config(text)).unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
        assert_eq!(set(&[]).unwrap_err(), RangeError::Empty);
        assert_eq!(set(&["10.1.0.0/24", "fd00::/64"]).unwrap_err(), RangeError::Mixed);
        assert!(set(&["10.1.0.0/24", "10.1.0.128/25"]).unwrap_err().to_string().contains("overlap"));
        assert!(set(&["10.1.0.0/24"]).unwrap().overlaps(&set(&["10.0.0.0/8"]).unwrap()));
    }

    #[test]
    fn addresses_go_round_through_all_ranges() {
        let set = set(&["10.0.0.0/24 10.0.0.9 10.0.0.10", "10.0.1.0/24 10.0.1.1 10.0.1.3"]).unwrap();
        assert_eq!(order(&set, None), "10.0.0.9 10.0.0.10 10.0.1.2 10.0.1.3");
        assert_eq!(order(&set, Some("10.0.0.10")), "10.0.1.2 10.0.1.3 10.0.0.9 10.0.0.10");
        assert_eq!(order(&set, Some("10.0.1.3")), "10.0.0.9 10.0.0.10 10.0.1.2 10.0.1.3");
        assert_eq!(order(&set, Some("192.0.2.1")), order(&set, None));
    }

    proptest::proptest! {
        #[test]
        fn every_address_comes_once_wherever_one_begins(prefix in 24u8..=29, from in 0u32..256) {
            let set = set(&[&format!("10.9.8.0/{prefix}")]).unwrap();
            let last = IpAddr::from((0x0a09_0800u32 + from).to_be_bytes());
            let mut seen: Vec<IpAddr> = set.after(Some(last)).map(|(ip, _)| ip).collect();
            let count = seen.len();
            seen.sort();
            seen.dedup();
            proptest::prop_assert_eq!(seen.len(), count);
            proptest::prop_assert_eq!(count, (1 << (32 - prefix)) - 3);
        }
    }
}
