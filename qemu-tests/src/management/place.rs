//! Where a node is, as people write it.

use cairn_contract::paths::MANAGEMENT_PORT;
use rustls::pki_types::ServerName;
use std::{fmt, net::Ipv6Addr, str::FromStr};

/// Host and port. Text form: `HOST`, `HOST:PORT`, `::1` or `[::1]:PORT`; the port is 50443 if none is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// IP address, without brackets, or DNS name.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Name that the node's certificate must be for; none means `host`.
    pub server_name: Option<String>,
}

/// The text names no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not HOST or HOST:PORT, such as node-1.example, 192.0.2.7:50443 or [2001:db8::7]:50443")]
pub struct InvalidPlace(String);

impl Place {
    /// Reached by the name or address that its certificate is for.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port, server_name: None }
    }

    /// The same place, whose certificate is for `name`.
    pub fn named(self, name: Option<String>) -> Self {
        Self { server_name: name, ..self }
    }

    /// What the node's certificate must be for.
    pub fn certificate_name(&self) -> &str {
        self.server_name.as_deref().unwrap_or(&self.host)
    }
}

impl FromStr for Place {
    type Err = InvalidPlace;

    fn from_str(text: &str) -> Result<Self, InvalidPlace> {
        let invalid = || InvalidPlace(text.to_owned());
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or_else(invalid)?;
                let port =
                    if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or_else(invalid)?) };
                (host.parse::<Ipv6Addr>().is_ok().then_some(host).ok_or_else(invalid)?, port)
            }
            None if text.parse::<Ipv6Addr>().is_ok() => (text, None),
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        // TLS has the last word on what a host may be called.
        ServerName::try_from(host).map_err(|_| invalid())?;
        let port = match port {
            None => MANAGEMENT_PORT,
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(invalid)?,
        };
        Ok(Self::new(host, port))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_people_write_them() {
        for (text, host, port, shown) in [
            ("node-1", "node-1", 50443, "node-1:50443"),
            ("node-1.example:8443", "node-1.example", 8443, "node-1.example:8443"),
            ("192.0.2.7", "192.0.2.7", 50443, "192.0.2.7:50443"),
            ("2001:db8::7", "2001:db8::7", 50443, "[2001:db8::7]:50443"),
            ("[2001:db8::7]", "2001:db8::7", 50443, "[2001:db8::7]:50443"),
            ("[::1]:1", "::1", 1, "[::1]:1"),
        ] {
            let place: Place = text.parse().unwrap();
            assert_eq!((place.host.as_str(), place.port), (host, port), "{text}");
            assert_eq!(place.to_string(), shown);
            assert_eq!(place.certificate_name(), host);
        }
    }

    #[test]
    fn what_names_no_place_is_refused() {
        for text in
            ["", ":1", "a:", "a:0", "a:70000", "a:x", "a b", "[::1", "[::1]1", "[a]:1", "https://a", "::1:"]
        {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }
}
