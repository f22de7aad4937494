//! Which protocol is spoken after the upgrade.
//!
//! A SPDY client lists what it speaks in `X-Stream-Protocol-Version`, best first, and is told what was chosen under the same name, or what it
//! could have chosen in `X-Accepted-Stream-Protocol-Versions` with status 403. A WebSocket client does the same with
//! `Sec-WebSocket-Protocol`, and one that lists nothing speaks the first of all versions.

use crate::websocket::Codec;
use http::{HeaderMap, HeaderName, Method, StatusCode, header};

/// The header of both sides' choices.
pub(crate) const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// What the server would have taken.
pub(crate) const ACCEPTED_VERSIONS: HeaderName =
    HeaderName::from_static("x-accepted-stream-protocol-versions");
/// The protocol in `Upgrade`.
pub(crate) const SPDY: &str = "SPDY/3.1";
/// The other.
pub(crate) const WEBSOCKET: &str = "websocket";

/// How exec and attach use their streams. Later versions add to earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CommandVersion {
    /// Streams by type, an error message on the error stream.
    V1,
    /// Input that ends without ending the connection.
    V2,
    /// Terminal sizes.
    V3,
    /// Status and exit code as JSON on the error stream.
    V4,
}

/// Those spoken over SPDY, best first.
pub(crate) const COMMAND_VERSIONS: [(&str, CommandVersion); 4] = [
    ("v4.channel.k8s.io", CommandVersion::V4),
    ("v3.channel.k8s.io", CommandVersion::V3),
    ("v2.channel.k8s.io", CommandVersion::V2),
    ("channel.k8s.io", CommandVersion::V1),
];
/// The one way to forward ports over SPDY.
pub(crate) const PORT_FORWARD_VERSIONS: [(&str, ()); 1] = [("portforward.k8s.io", ())];

/// Those spoken over WebSocket, best first.
pub(crate) const COMMAND_CHANNELS: [(&str, (CommandVersion, Codec)); 5] = [
    ("v5.channel.k8s.io", (CommandVersion::V4, Codec::BinaryWithClose)),
    ("v4.channel.k8s.io", (CommandVersion::V4, Codec::Binary)),
    ("v4.base64.channel.k8s.io", (CommandVersion::V4, Codec::Base64)),
    ("channel.k8s.io", (CommandVersion::V1, Codec::Binary)),
    ("base64.channel.k8s.io", (CommandVersion::V1, Codec::Base64)),
];
/// The ways to forward ports over WebSocket: SPDY inside (None), or channels.
pub(crate) const PORT_FORWARD_CHANNELS: [(&str, Option<Codec>); 3] = [
    ("SPDY/3.1+portforward.k8s.io", None),
    ("v4.channel.k8s.io", Some(Codec::Binary)),
    ("v4.base64.channel.k8s.io", Some(Codec::Base64)),
];

/// Why a request cannot be upgraded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("streaming wants GET or POST")]
    Method,
    #[error("no upgrade to {SPDY} or websocket was asked for")]
    NoUpgrade,
    #[error("the header {PROTOCOL_VERSION} is missing")]
    NoVersion,
    #[error("the request is no WebSocket handshake of version 13")]
    Handshake,
    #[error("forwarding ports by channels needs ports that were asked for beforehand, and at most 127")]
    NoPorts,
    #[error("none of the protocols asked for ({asked}) is spoken here ({})", .spoken.join(", "))]
    Versions { asked: String, spoken: Vec<&'static str> },
}

impl Refusal {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoUpgrade | Self::NoVersion | Self::Handshake | Self::NoPorts => StatusCode::BAD_REQUEST,
            Self::Versions { .. } => StatusCode::FORBIDDEN,
        }
    }
}

/// What the connection is upgraded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upgrade {
    /// SPDY/3.1.
    Spdy,
    /// WebSocket.
    WebSocket,
}

/// Which upgrade is asked for.
pub(crate) fn upgrade(method: &Method, headers: &HeaderMap) -> Result<Upgrade, Refusal> {
    if method != Method::GET && method != Method::POST {
        return Err(Refusal::Method);
    }
    let asks = tokens(headers, &header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    let to =
        |protocol: &str| tokens(headers, &header::UPGRADE).any(|token| token.eq_ignore_ascii_case(protocol));
    if asks && to(SPDY) {
        Ok(Upgrade::Spdy)
    } else if asks && to(WEBSOCKET) {
        Ok(Upgrade::WebSocket)
    } else {
        Err(Refusal::NoUpgrade)
    }
}

/// The first of the client's protocols that is spoken here.
pub(crate) fn version<V: Copy>(
    headers: &HeaderMap,
    name: &HeaderName,
    spoken: &[(&'static str, V)],
) -> Result<(&'static str, V), Refusal> {
    let mut asked = tokens(headers, name).peekable();
    if asked.peek().is_none() {
        return Err(Refusal::NoVersion);
    }
    asked.find_map(|token| spoken.iter().find(|(name, _)| *name == token)).copied().ok_or_else(|| {
        Refusal::Versions {
            asked: tokens(headers, name).collect::<Vec<_>>().join(", "),
            spoken: spoken.iter().map(|(name, _)| *name).collect(),
        }
    })
}

/// The values of a header that may come several times and holds lists.
pub(crate) fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(&HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| ((*name).clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn an_upgrade_needs_both_headers_and_a_fit_method() {
        let both = headers(&[(&header::CONNECTION, "keep-alive, Upgrade"), (&header::UPGRADE, "SPDY/3.1")]);
        assert_eq!(upgrade(&Method::POST, &both), Ok(Upgrade::Spdy));
        assert_eq!(upgrade(&Method::GET, &both), Ok(Upgrade::Spdy));
        assert_eq!(upgrade(&Method::PUT, &both), Err(Refusal::Method));
        let one = headers(&[(&header::UPGRADE, "SPDY/3.1")]);
        assert_eq!(upgrade(&Method::POST, &one), Err(Refusal::NoUpgrade));
        let other = headers(&[(&header::CONNECTION, "Upgrade"), (&header::UPGRADE, "h2c")]);
        assert_eq!(upgrade(&Method::POST, &other), Err(Refusal::NoUpgrade));
    }

    #[test]
    fn the_clients_order_decides() {
        let mut lists = headers(&[(&PROTOCOL_VERSION, "v9.channel.k8s.io")]);
        lists.append(&PROTOCOL_VERSION, HeaderValue::from_static("v4.channel.k8s.io"));
        let chosen = version(&lists, &PROTOCOL_VERSION, &COMMAND_VERSIONS);
        assert_eq!(chosen, Ok(("v4.channel.k8s.io", CommandVersion::V4)));
        let lists = headers(&[(&PROTOCOL_VERSION, "v9.channel.k8s.io, v2.channel.k8s.io,v4.channel.k8s.io")]);
        let chosen = version(&lists, &PROTOCOL_VERSION, &COMMAND_VERSIONS);
        assert_eq!(chosen, Ok(("v2.channel.k8s.io", CommandVersion::V2)));
    }

    #[test]
    fn a_client_without_a_common_protocol_hears_ours() {
        let lists = headers(&[(&PROTOCOL_VERSION, "v9.channel.k8s.io")]);
        let refusal = version(&lists, &PROTOCOL_VERSION, &PORT_FORWARD_VERSIONS).unwrap_err();
        assert_eq!(refusal.status(), StatusCode::FORBIDDEN);
        assert!(refusal.to_string().contains("portforward.k8s.io"), "{refusal}");
        let refusal = version(&HeaderMap::new(), &PROTOCOL_VERSION, &PORT_FORWARD_VERSIONS).unwrap_err();
        assert_eq!(refusal.status(), StatusCode::BAD_REQUEST);
    }
}
