//! Address ranges.

use super::{InvalidValue, string_form};
use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr, str::FromStr};

/// An address range in CIDR form, IPv4 or IPv6, with no bit set behind the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// The first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The prefix length in bits.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether this is an IPv6 range.
    pub fn is_ipv6(&self) -> bool {
        self.address.is_ipv6()
    }

    /// Whether some address is in both ranges.
    pub fn overlaps(&self, other: &Self) -> bool {
        if self.is_ipv6() != other.is_ipv6() {
            return false;
        }
        let shift = u32::from(width(self.address) - self.prefix.min(other.prefix));
        bits(self.address).checked_shr(shift).unwrap_or(0)
            == bits(other.address).checked_shr(shift).unwrap_or(0)
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv6() { 128 } else { 32 }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl FromStr for Cidr {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let invalid = || InvalidValue {
            text: text.to_owned(),
            expected: "an address range such as 10.244.0.0/16 or fd00:10:244::/64, with no bit set behind the prefix",
        };
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let prefix: u8 = prefix.parse().map_err(|_| invalid())?;
        if prefix > width(address) {
            return Err(invalid());
        }
        let host_bits =
            1_u128.checked_shl(u32::from(width(address) - prefix)).map_or(u128::MAX, |bit| bit - 1);
        if bits(address) & host_bits != 0 {
            return Err(invalid());
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

string_form!(Cidr, Some("^[0-9a-f.:]+/[0-9]{1,3}$"), "10.244.0.0/16");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_the_rest_refused() {
        for text in ["10.244.0.0/16", "0.0.0.0/0", "fd00:10:244::/64", "::/0", "192.0.2.1/32", "::1/128"] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
        }
        for text in
            ["", "10.0.0.0", "10.0.0.0/33", "10.0.0.1/8", "fd00::1/64", "::/129", "x/8", "10.0.0.0/-1"]
        {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    #[test]
    fn overlap_is_seen_within_a_family_only() {
        for (a, b, overlap) in [
            ("10.244.0.0/16", "10.244.3.0/24", true),
            ("10.244.0.0/16", "10.245.0.0/16", false),
            ("0.0.0.0/0", "192.0.2.0/24", true),
            ("fd00::/8", "fd00:1::/64", true),
            ("::/0", "0.0.0.0/0", false),
        ] {
            let (a, b): (Cidr, Cidr) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!((a.overlaps(&b), b.overlaps(&a)), (overlap, overlap), "{a} {b}");
        }
    }
}
