//! DHCP for IPv4: messages as bytes (RFC 2131, options of RFC 2132, 3396 and 3442).

use super::terms::{Answer, Ask, Conversation, Identity, Span, Terms, timers};
use crate::{network::IpNetwork, protocol::result::Route};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    ops::Range,
};

const BOOT_REQUEST: u8 = 1;
const BOOT_REPLY: u8 = 2;
const ETHERNET: u8 = 1;
const BROADCAST: u16 = 0x8000;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Fixed header with the cookie.
const HEADER: usize = 240;
/// What relays and servers of BOOTP times expect at least.
const SHORTEST: usize = 300;

const XID: Range<usize> = 4..8;
const CIADDR: Range<usize> = 12..16;
const YIADDR: Range<usize> = 16..20;
const CHADDR: Range<usize> = 28..34;
const SNAME: Range<usize> = 44..108;
const FILE: Range<usize> = 108..236;

const PAD: u8 = 0;
const SUBNET_MASK: u8 = 1;
const ROUTER: u8 = 3;
const STATIC_ROUTES: u8 = 33;
const REQUESTED_ADDRESS: u8 = 50;
const LEASE_TIME: u8 = 51;
const OVERLOAD: u8 = 52;
const MESSAGE_TYPE: u8 = 53;
const SERVER: u8 = 54;
const MESSAGE: u8 = 56;
const LARGEST: u8 = 57;
const RENEWAL_TIME: u8 = 58;
const REBINDING_TIME: u8 = 59;
pub(super) const CLIENT: u8 = 61;
const CLASSLESS_ROUTES: u8 = 121;
const END: u8 = 255;

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;
const RELEASE: u8 = 7;

/// What the reference plugin assumes where the server says nothing.
const DEFAULT_LEASE: Span = Span::Seconds(3600);
const SCOPE_LINK: u8 = 253;

/// The message for `ask`.
pub fn encode(ask: Ask<'_>, identity: &Identity, conversation: Conversation) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes[..3].copy_from_slice(&[BOOT_REQUEST, ETHERNET, identity.mac.0.len() as u8]);
    bytes[XID].copy_from_slice(&conversation.id.to_be_bytes());
    let seconds = u16::try_from(conversation.elapsed.as_secs()).unwrap_or(u16::MAX);
    bytes[8..10].copy_from_slice(&seconds.to_be_bytes());
    bytes[CHADDR].copy_from_slice(&identity.mac.0);
    bytes[236..HEADER].copy_from_slice(&COOKIE);

    let has_address = matches!(ask, Ask::Renew(_) | Ask::Rebind(_) | Ask::Release(_));
    if identity.broadcast && !has_address {
        bytes[10..12].copy_from_slice(&BROADCAST.to_be_bytes());
    }
    let (kind, terms) = match ask {
        Ask::Discover(_) => (DISCOVER, None),
        Ask::Take(terms) | Ask::Renew(terms) | Ask::Rebind(terms) => (REQUEST, Some(terms)),
        Ask::Release(terms) => (RELEASE, Some(terms)),
    };
    let mut options: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    let mut client = vec![0];
    client.extend(identity.client.as_bytes());
    options.insert(CLIENT, client);
    if kind != RELEASE {
        options.insert(LARGEST, 1500u16.to_be_bytes().to_vec());
        options.extend(identity.options.iter().cloned());
    } else if let Some((_, own)) = identity.options.iter().find(|(code, _)| *code == CLIENT) {
        options.insert(CLIENT, own.clone());
    }
    let wanted = match ask {
        Ask::Discover(wanted) => wanted,
        Ask::Take(terms) => Some(terms.address.address),
        _ => None,
    };
    if let Some(IpAddr::V4(wanted)) = wanted {
        options.insert(REQUESTED_ADDRESS, wanted.octets().to_vec());
    }
    if let Some(terms) = terms {
        if let (true, IpAddr::V4(address)) = (has_address, terms.address.address) {
            bytes[CIADDR].copy_from_slice(&address.octets());
        }
        if matches!(ask, Ask::Take(_) | Ask::Release(_)) {
            options.insert(SERVER, terms.server.clone());
        }
    }
    // Nobody's but ours to say. First, because that is where servers of old look for it.
    options.remove(&MESSAGE_TYPE);
    bytes.extend([MESSAGE_TYPE, 1, kind]);
    for (code, value) in options {
        // RFC 3396: what is longer goes on in a second option of the same code.
        for piece in value.chunks(255) {
            bytes.extend([code, piece.len() as u8]);
            bytes.extend(piece);
        }
    }
    bytes.push(END);
    bytes.resize(bytes.len().max(SHORTEST), PAD);
    bytes
}

/// A server's answer in this conversation; `None` if it is anything else.
pub fn decode(bytes: &[u8], identity: &Identity, conversation: u32) -> Option<Answer> {
    let header = bytes.get(..HEADER)?;
    let ours = header[0] == BOOT_REPLY
        && header[XID] == conversation.to_be_bytes()
        && header[CHADDR] == identity.mac.0
        && header[236..] == COOKIE;
    if !ours {
        return None;
    }
    let options = Options::of(bytes);
    let kind = *options.get(MESSAGE_TYPE)?.first()?;
    if kind == NAK {
        let why = options.get(MESSAGE).filter(|text| !text.is_empty());
        let why = why.map(|text| String::from_utf8_lossy(text).into_owned());
        return Some(Answer::Refused(why.unwrap_or_else(|| "the server says no".to_owned())));
    }
    let address = Ipv4Addr::from(<[u8; 4]>::try_from(&header[YIADDR]).ok()?);
    let server = options.get(SERVER)?.clone();
    if address.is_unspecified() || address.is_multicast() || address.is_broadcast() || server.len() != 4 {
        return None;
    }
    match kind {
        OFFER => Some(Answer::Offered(options.terms(address, server).unwrap_or_else(|server| {
            // What is missing may come with the ACK; an offer only names an address and a server.
            Terms {
                address: IpNetwork { address: address.into(), prefix: 32 },
                server,
                lifetime: DEFAULT_LEASE,
                renew: DEFAULT_LEASE,
                rebind: DEFAULT_LEASE,
                gateway: None,
                routes: Vec::new(),
            }
        }))),
        ACK => Some(match options.terms(address, server) {
            Ok(terms) => Answer::Granted(terms),
            Err(_) => {
                Answer::Refused("no good subnet mask (option 1) or lease time (51) in its ACK".to_owned())
            }
        }),
        _ => None,
    }
}

/// Options by code, pieces joined.
struct Options(BTreeMap<u8, Vec<u8>>);

impl Options {
    fn of(bytes: &[u8]) -> Self {
        const IN_FILE: u8 = 1;
        const IN_SNAME: u8 = 2;
        let mut options = Self(BTreeMap::new());
        options.read(&bytes[HEADER..]);
        let overload = options.get(OVERLOAD).and_then(|o| o.first().copied()).unwrap_or(0);
        for (flag, field) in [(IN_FILE, FILE), (IN_SNAME, SNAME)] {
            if overload & flag != 0 {
                options.read(&bytes[field]);
            }
        }
        options
    }

    /// Stops at what is cut short.
    fn read(&mut self, mut bytes: &[u8]) {
        while let [code, rest @ ..] = bytes {
            match (*code, rest) {
                (PAD, _) => bytes = rest,
                (END, _) => return,
                (code, [length, rest @ ..]) if rest.len() >= usize::from(*length) => {
                    let (value, rest) = rest.split_at(usize::from(*length));
                    self.0.entry(code).or_default().extend(value);
                    bytes = rest;
                }
                _ => return,
            }
        }
    }

    fn get(&self, code: u8) -> Option<&Vec<u8>> {
        self.0.get(&code)
    }

    fn span(&self, code: u8) -> Option<Span> {
        let bytes = <[u8; 4]>::try_from(self.get(code)?.as_slice()).ok()?;
        Some(u32::from_be_bytes(bytes).into())
    }

    fn addresses(&self, code: u8) -> impl Iterator<Item = Ipv4Addr> {
        let bytes = self.get(code).map_or(&[][..], Vec::as_slice);
        bytes.chunks_exact(4).map(|four| Ipv4Addr::new(four[0], four[1], four[2], four[3]))
    }

    /// `Err` gives the server back where mask or lease time make no sense.
    fn terms(&self, address: Ipv4Addr, server: Vec<u8>) -> Result<Terms, Vec<u8>> {
        let mask = self.get(SUBNET_MASK).and_then(|mask| <[u8; 4]>::try_from(mask.as_slice()).ok());
        let mask = mask.map(u32::from_be_bytes);
        let lifetime = self.span(LEASE_TIME).unwrap_or(DEFAULT_LEASE);
        let prefix = match mask {
            Some(mask) if mask.leading_ones() + mask.trailing_zeros() == 32 => mask.leading_ones() as u8,
            _ => return Err(server),
        };
        if lifetime == Span::Seconds(0) {
            return Err(server);
        }
        let told = [self.span(RENEWAL_TIME), self.span(REBINDING_TIME)];
        let [renew, rebind] = timers(told, lifetime, lifetime, [50, 85]);
        let gateway = self.addresses(ROUTER).next();
        Ok(Terms {
            address: IpNetwork { address: address.into(), prefix },
            server,
            lifetime,
            renew,
            rebind,
            gateway: gateway.map(IpAddr::V4),
            routes: self.routes(gateway),
        })
    }

    /// RFC 3442: classless routes are all there are; else the classful ones and the default route.
    fn routes(&self, gateway: Option<Ipv4Addr>) -> Vec<Route> {
        let classless = self.get(CLASSLESS_ROUTES).and_then(|bytes| classless(bytes)).unwrap_or_default();
        if !classless.is_empty() {
            return classless;
        }
        let pairs: Vec<Ipv4Addr> = self.addresses(STATIC_ROUTES).collect();
        let mut routes: Vec<Route> = pairs
            .chunks_exact(2)
            .map(|pair| {
                let dst = IpNetwork { address: pair[0].into(), prefix: class(pair[0]) };
                Route::via(dst, Some(pair[1].into()))
            })
            .collect();
        let everything = IpNetwork { address: Ipv4Addr::UNSPECIFIED.into(), prefix: 0 };
        routes.extend(gateway.map(|gateway| Route::via(everything, Some(gateway.into()))));
        routes
    }
}

/// Prefix length, the significant bytes of the destination, the router. `None` if any of it makes no sense.
fn classless(mut bytes: &[u8]) -> Option<Vec<Route>> {
    let mut routes = Vec::new();
    while let [prefix @ 0..=32, rest @ ..] = bytes {
        let significant = usize::from(prefix.div_ceil(8));
        let mut destination = [0; 4];
        destination[..significant].copy_from_slice(rest.get(..significant)?);
        let router = <[u8; 4]>::try_from(rest.get(significant..significant + 4)?).ok()?;
        let dst = IpNetwork { address: IpAddr::from(destination), prefix: *prefix }.network();
        let mut route = Route::via(dst, Some(router.into()));
        if router == [0; 4] {
            route.scope = Some(SCOPE_LINK);
        }
        routes.push(route);
        bytes = &rest[significant + 4..];
    }
    bytes.is_empty().then_some(routes)
}

/// The prefix length that an address's class had.
fn class(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..128 => 8,
        128..192 => 16,
        _ => 24,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::link::Mac;
    use std::time::Duration;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);

    fn identity() -> Identity {
        Identity {
            mac: MAC,
            client: "c/net/eth0".into(),
            options: vec![(12, b"name".to_vec())],
            broadcast: true,
        }
    }

    fn reply(options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[0] = BOOT_REPLY;
        bytes[XID].copy_from_slice(&7u32.to_be_bytes());
        bytes[YIADDR].copy_from_slice(&[10, 0, 0, 5]);
        bytes[CHADDR].copy_from_slice(&MAC.0);
        bytes[236..].copy_from_slice(&COOKIE);
        bytes.extend(options);
        bytes
    }

    /// An ACK with server, mask and a lease of a hundred seconds, and these.
    fn granted(options: &[u8]) -> Option<Terms> {
        let mut all = vec![53, 1, ACK, 54, 4, 10, 0, 0, 1, 1, 4, 255, 255, 255, 0, 51, 4, 0, 0, 0, 100];
        all.extend(options);
        match decode(&reply(&all), &identity(), 7) {
            Some(Answer::Granted(terms)) => Some(terms),
            _ => None,
        }
    }

    fn sent(ask: Ask<'_>) -> (Vec<u8>, Options) {
        let conversation = Conversation { id: 7, elapsed: Duration::from_secs(3) };
        let bytes = encode(ask, &identity(), conversation);
        let options = Options::of(&bytes);
        (bytes, options)
    }

    #[test]
    fn each_question_says_what_the_standard_wants() {
        let terms = granted(&[]).unwrap();
        let address = vec![10, 0, 0, 5];
        for (ask, kind, ciaddr, wanted, server) in [
            (Ask::Discover(None), DISCOVER, false, false, false),
            (Ask::Discover(Some(terms.address.address)), DISCOVER, false, true, false),
            (Ask::Take(&terms), REQUEST, false, true, true),
            (Ask::Renew(&terms), REQUEST, true, false, false),
            (Ask::Rebind(&terms), REQUEST, true, false, false),
            (Ask::Release(&terms), RELEASE, true, false, true),
        ] {
            let (bytes, options) = sent(ask);
            assert!(bytes.len() >= SHORTEST && bytes[8..10] == [0, 3], "{ask:?}");
            assert_eq!(options.get(MESSAGE_TYPE), Some(&vec![kind]), "{ask:?}");
            assert_eq!(bytes[CIADDR] == address, ciaddr, "{ask:?}");
            assert_eq!(options.get(REQUESTED_ADDRESS) == Some(&address), wanted, "{ask:?}");
            assert_eq!(options.get(SERVER).is_some(), server, "{ask:?}");
            assert_eq!(bytes[10] & 0x80 != 0, !ciaddr, "broadcast: {ask:?}");
            assert_eq!(options.get(CLIENT).unwrap(), b"\0c/net/eth0", "{ask:?}");
            assert_eq!(options.get(12).is_some(), kind != RELEASE, "{ask:?}");
        }
    }

    #[test]
    fn an_option_longer_than_its_length_byte_is_continued() {
        let mut identity = identity();
        identity.options = vec![(77, vec![5; 300])];
        let bytes = encode(Ask::Discover(None), &identity, Conversation { id: 1, elapsed: Duration::ZERO });
        assert_eq!(Options::of(&bytes).get(77).unwrap().len(), 300);
    }

    #[test]
    fn terms_are_read_and_completed() {
        let terms = granted(&[3, 8, 10, 0, 0, 1, 10, 0, 0, 2]).unwrap();
        assert_eq!(terms.address.to_string(), "10.0.0.5/24");
        assert_eq!([terms.lifetime, terms.renew, terms.rebind].map(u32::from), [100, 50, 85]);
        assert_eq!(terms.gateway.unwrap().to_string(), "10.0.0.1");
        let routes = |options: &[u8]| -> Vec<String> {
            let terms = granted(options).unwrap();
            terms.routes.iter().map(|r| format!("{} {} {:?}", r.dst, r.gw.unwrap(), r.scope)).collect()
        };
        assert_eq!(routes(&[3, 4, 10, 0, 0, 1]), ["0.0.0.0/0 10.0.0.1 None"]);
        let both = [33, 8, 172, 16, 0, 0, 10, 0, 0, 9, 3, 4, 10, 0, 0, 1];
        assert_eq!(routes(&both), ["172.16.0.0/16 10.0.0.9 None", "0.0.0.0/0 10.0.0.1 None"]);
        let classless = [121, 14, 0, 10, 0, 0, 3, 20, 10, 1, 0x1f, 0, 0, 0, 0, 255, 3, 4, 10, 0, 0, 1];
        assert!(routes(&classless).len() == 1, "cut short, so the router counts");
        let classless = [121, 13, 0, 10, 0, 0, 3, 20, 10, 1, 0x1f, 0, 0, 0, 0, 3, 4, 10, 0, 0, 1];
        assert_eq!(routes(&classless), ["0.0.0.0/0 10.0.0.3 None", "10.1.16.0/20 0.0.0.0 Some(253)"]);
    }

    #[test]
    fn options_may_be_in_the_fields_for_names() {
        let mut bytes = reply(&[53, 1, ACK, 54, 4, 10, 0, 0, 1, 52, 1, 3, 255]);
        bytes[FILE][..6].copy_from_slice(&[1, 4, 255, 255, 0, 0]);
        bytes[FILE.start + 6] = END;
        bytes[SNAME][..7].copy_from_slice(&[51, 4, 0, 0, 0, 60, 255]);
        let Some(Answer::Granted(terms)) = decode(&bytes, &identity(), 7) else { panic!() };
        assert_eq!((terms.address.prefix, terms.lifetime), (16, Span::Seconds(60)));
    }

    #[test]
    fn what_is_not_for_us_or_makes_no_sense_is_nothing() {
        let good = reply(&[53, 1, OFFER, 54, 4, 10, 0, 0, 1]);
        assert!(matches!(decode(&good, &identity(), 7), Some(Answer::Offered(_))));
        assert_eq!(decode(&good, &identity(), 8), None, "another conversation");
        for (at, value) in [(0, BOOT_REQUEST), (CHADDR.start, 4), (236, 0), (YIADDR.start, 224)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(decode(&bad, &identity(), 7), None, "{at}");
        }
        assert_eq!(decode(&reply(&[53, 1, OFFER]), &identity(), 7), None, "no server");
        assert_eq!(granted(&[1, 4, 255, 0, 255, 0]), None, "a mask of two");
        assert!(matches!(
            decode(&reply(&[53, 1, ACK, 54, 4, 10, 0, 0, 1]), &identity(), 7),
            Some(Answer::Refused(_))
        ));
        let no = decode(&reply(&[53, 1, NAK, 56, 2, b'n', b'o']), &identity(), 7);
        assert_eq!(no, Some(Answer::Refused("no".into())));
        let wordless = decode(&reply(&[53, 1, NAK, 56, 0]), &identity(), 7);
        assert_eq!(wordless, Some(Answer::Refused("the server says no".into())));
    }

    proptest::proptest! {
        #[test]
        fn damaged_messages_are_read_or_refused(tail in proptest::collection::vec(proptest::num::u8::ANY, 0..400),
                                                cut in 0..640usize) {
            let mut bytes = reply(&[53, 1, ACK, 54, 4, 10, 0, 0, 1, 52, 1, 3]);
            bytes.extend(tail);
            bytes.truncate(cut);
            if let Some(Answer::Granted(terms)) = decode(&bytes, &identity(), 7) {
                proptest::prop_assert!(terms.renew <= terms.rebind && terms.rebind <= terms.lifetime);
                proptest::prop_assert!(terms.address.prefix <= 32);
            }
        }
    }
}
