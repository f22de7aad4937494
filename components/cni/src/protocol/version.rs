//! Versions of the specification.

use super::error::CniError;
use std::fmt;

/// A version this program speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpecVersion {
    /// One address of each family.
    V0_1_0,
    /// Name resolution.
    V0_2_0,
    /// Lists of interfaces and addresses.
    V0_3_0,
    /// The same, with an erratum.
    V0_3_1,
    /// CHECK, `prevResult` on DEL.
    V0_4_0,
    /// No more `version` in addresses.
    V1_0_0,
    /// GC, STATUS; MTU of interfaces, attributes of routes.
    V1_1_0,
}

impl SpecVersion {
    /// All, oldest first.
    pub const ALL: [Self; 7] =
        [Self::V0_1_0, Self::V0_2_0, Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// The newest.
    pub const CURRENT: Self = Self::V1_1_0;

    /// `1.1.0` and so on.
    pub fn name(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.name() == name)
    }

    /// Whether a result has room for addresses of these families, `true` being IPv4.
    pub fn check_room(self, are_ipv4: impl Iterator<Item = bool>) -> Result<(), CniError> {
        let (ipv4, ipv6): (Vec<bool>, Vec<bool>) = are_ipv4.partition(|ipv4| *ipv4);
        if self >= Self::V0_3_0 || (ipv4.len() <= 1 && ipv6.len() <= 1) {
            return Ok(());
        }
        Err(CniError::config(format!("CNI version {self} does not support more than 1 address per family")))
    }

    /// All names, for VERSION and for messages.
    pub fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(|version| version.name()).collect()
    }
}

impl fmt::Display for SpecVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
