//! An address with its prefix length, and the arithmetic on it that plugins need.

use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// `192.0.2.7/24`, `2001:db8::7/64`: an address and the length of its network's prefix. Host bits may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IpNetwork {
    /// The address, host bits included.
    pub address: IpAddr,
    /// Prefix length in bits, at most [`bits`] of the address.
    pub prefix: u8,
}

/// Text that is not an address with a prefix length.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not an address with a prefix length, such as 192.0.2.0/24 or 2001:db8::/64")]
pub struct InvalidNetwork(String);

impl IpNetwork {
    /// Everything of the family of `like`: `0.0.0.0/0` or `::/0`.
    pub fn everything(like: IpAddr) -> Self {
        let address =
            if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        Self { address, prefix: 0 }
    }

    /// The network itself, host bits cleared.
    pub fn network(&self) -> Self {
        Self {
            address: from_number(to_number(self.address) & self.mask(), self.address),
            prefix: self.prefix,
        }
    }

    /// The highest address of the network: the broadcast address for IPv4.
    pub fn last(&self) -> IpAddr {
        let width = u128::MAX >> (128 - u32::from(bits(self.address)));
        from_number(to_number(self.address) | (width & !self.mask()), self.address)
    }

    /// Whether `address` is of this family and in this network.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && (to_number(address) ^ to_number(self.address)) & self.mask() == 0
    }

    /// The prefix as ones, right-aligned to the family's width.
    fn mask(&self) -> u128 {
        let width = u32::from(bits(self.address));
        let host = width - u32::from(self.prefix).min(width);
        let ones = u128::MAX >> (128 - width);
        if host >= 128 { 0 } else { ones & (u128::MAX << host) }
    }

    /// The prefix as mask bytes, 4 or 16 of them.
    pub fn mask_bytes(&self) -> Vec<u8> {
        octets(from_number(self.mask(), self.address))
    }
}

/// 32 or 128.
pub fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The 4 or 16 bytes in network order.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// From 4 or 16 bytes in network order.
pub fn from_octets(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(four));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// The address after this one; the highest address is followed by the lowest.
pub fn next(address: IpAddr) -> IpAddr {
    from_number(to_number(address).wrapping_add(1), address)
}

/// IPv4-mapped IPv6 addresses as what they are: IPv4.
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn to_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Truncates to the width of `like`'s family.
fn from_number(number: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from_bits(number as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(number).into(),
    }
}

impl FromStr for IpNetwork {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let invalid = || InvalidNetwork(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        if !prefix.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid());
        }
        let prefix: u8 = prefix.parse().map_err(|_| invalid())?;
        if prefix > bits(address) {
            return Err(invalid());
        }
        Ok(Self { address, prefix })
    }
}

impl TryFrom<String> for IpNetwork {
    type Error = InvalidNetwork;

    fn try_from(text: String) -> Result<Self, InvalidNetwork> {
        text.parse()
    }
}

impl From<IpNetwork> for String {
    fn from(network: IpNetwork) -> Self {
        network.to_string()
    }
}

impl fmt::Display for IpNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    #[test]
    fn arithmetic_holds_at_the_edges_of_both_families() {
        for (text, first, last) in [
            ("10.1.2.3/16", "10.1.0.0", "10.1.255.255"),
            ("10.1.2.3/32", "10.1.2.3", "10.1.2.3"),
            ("10.1.2.3/0", "0.0.0.0", "255.255.255.255"),
            ("fd00:1::5/64", "fd00:1::", "fd00:1::ffff:ffff:ffff:ffff"),
            ("fd00::5/128", "fd00::5", "fd00::5"),
            ("fd00::5/0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ] {
            let network = network(text);
            assert_eq!(network.network().address.to_string(), first, "{text}");
            assert_eq!(network.last().to_string(), last, "{text}");
            assert!(
                network.contains(network.last()) && network.contains(network.network().address),
                "{text}"
            );
        }
        assert!(!network("10.1.0.0/16").contains("10.2.0.0".parse().unwrap()));
        assert!(!network("0.0.0.0/0").contains("::".parse().unwrap()));
        assert_eq!(next("10.0.255.255".parse().unwrap()).to_string(), "10.1.0.0");
        assert_eq!(next("255.255.255.255".parse().unwrap()).to_string(), "0.0.0.0");
        assert_eq!(network("10.0.0.0/20").mask_bytes(), [255, 255, 240, 0]);
    }

    #[test]
    fn refuses_what_is_not_a_prefixed_address() {
        for text in [
            "",
            "10.0.0.1",
            "10.0.0.1/",
            "10.0.0.1/33",
            "10.0.0.1/+8",
            "::1/129",
            "x/8",
            "10.0.0/8",
            "::/1/1",
        ] {
            assert!(text.parse::<IpNetwork>().is_err(), "{text}");
        }
    }
}
