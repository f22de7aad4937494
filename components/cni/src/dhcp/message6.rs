//! DHCP for IPv6: messages as bytes (RFC 8415), one address (IA_NA) a conversation.

use super::terms::{Answer, Ask, Conversation, Identity, Span, Terms, timers};
use crate::network::IpNetwork;
use sha2::{Digest, Sha512};
use std::net::{IpAddr, Ipv6Addr};

const SOLICIT: u8 = 1;
const ADVERTISE: u8 = 2;
const REQUEST: u8 = 3;
const RENEW: u8 = 5;
const REBIND: u8 = 6;
const REPLY: u8 = 7;
const RELEASE: u8 = 8;

const CLIENT: u16 = 1;
const SERVER: u16 = 2;
const ADDRESSES: u16 = 3;
const ADDRESS: u16 = 5;
const ELAPSED: u16 = 8;
const STATUS: u16 = 13;

/// There is one address an interface, so one identity association; servers tell pods apart by their DUID.
const ASSOCIATION: [u8; 4] = [0, 0, 0, 1];

/// A UUID as DUID (RFC 6355), made from the attachment's name: the same after a restart of the daemon, and another
/// for every pod, whatever its hardware address.
fn duid(identity: &Identity) -> [u8; 18] {
    const DUID_UUID: [u8; 2] = [0, 4];
    const VERSION: u8 = 8; // RFC 9562: of a kind of one's own.
    let mut duid = [0; 18];
    duid[..2].copy_from_slice(&DUID_UUID);
    duid[2..].copy_from_slice(&Sha512::digest(&identity.client)[..16]);
    duid[8] = duid[8] & 0x0f | VERSION << 4;
    duid[10] = duid[10] & 0x3f | 0x80;
    duid
}

fn option(into: &mut Vec<u8>, code: u16, value: &[u8]) {
    into.extend(code.to_be_bytes());
    into.extend((value.len() as u16).to_be_bytes());
    into.extend(value);
}

/// The message for `ask`.
pub fn encode(ask: Ask<'_>, identity: &Identity, conversation: Conversation) -> Vec<u8> {
    let (kind, wanted, server) = match ask {
        Ask::Discover(wanted) => (SOLICIT, wanted, None),
        Ask::Take(terms) => (REQUEST, Some(terms.address.address), Some(&terms.server)),
        Ask::Renew(terms) => (RENEW, Some(terms.address.address), Some(&terms.server)),
        Ask::Rebind(terms) => (REBIND, Some(terms.address.address), None),
        Ask::Release(terms) => (RELEASE, Some(terms.address.address), Some(&terms.server)),
    };
    let mut bytes = vec![kind];
    bytes.extend(&conversation.id.to_be_bytes()[1..]);
    option(&mut bytes, CLIENT, &duid(identity));
    if let Some(server) = server {
        option(&mut bytes, SERVER, server);
    }
    let hundredths = u16::try_from(conversation.elapsed.as_millis() / 10).unwrap_or(u16::MAX);
    option(&mut bytes, ELAPSED, &hundredths.to_be_bytes());
    // The association, T1 and T2 being the server's to say, and the address with no wish about its lifetimes.
    let mut association = [ASSOCIATION, [0; 4], [0; 4]].concat();
    if let Some(IpAddr::V6(wanted)) = wanted {
        let mut address = wanted.octets().to_vec();
        address.extend([0; 8]);
        option(&mut association, ADDRESS, &address);
    }
    option(&mut bytes, ADDRESSES, &association);
    bytes
}

/// A server's answer in this conversation; `None` if it is anything else.
pub fn decode(bytes: &[u8], identity: &Identity, conversation: u32) -> Option<Answer> {
    let (header, body) = bytes.split_at_checked(4)?;
    let kind = header[0];
    if header[1..] != conversation.to_be_bytes()[1..] || !matches!(kind, ADVERTISE | REPLY) {
        return None;
    }
    let server = find(body, SERVER).filter(|duid| (1..=130).contains(&duid.len()))?.to_vec();
    if find(body, CLIENT)? != duid(identity) {
        return None;
    }
    if let Some(why) = refusal(body) {
        return Some(Answer::Refused(why));
    }
    let association = options(body)
        .filter(|(code, _)| *code == ADDRESSES)
        .find_map(|(_, value)| value.split_at_checked(12).filter(|(fixed, _)| fixed[..4] == ASSOCIATION));
    let Some((fixed, inner)) = association else {
        return Some(Answer::Refused("no address in its answer".to_owned()));
    };
    if let Some(why) = refusal(inner) {
        return Some(Answer::Refused(why));
    }
    let Some((address, preferred, valid)) = options(inner).find_map(address) else {
        return Some(Answer::Refused("no valid address in its answer".to_owned()));
    };
    let span = |at: usize| Some(u32::from_be_bytes(fixed.get(at..at + 4)?.try_into().ok()?).into());
    let [renew, rebind] = timers([span(4), span(8)], preferred.min(valid), valid, [50, 80]);
    let address = IpNetwork { address: address.into(), prefix: 128 };
    let terms = Terms { address, server, lifetime: valid, renew, rebind, gateway: None, routes: Vec::new() };
    Some(if kind == ADVERTISE { Answer::Offered(terms) } else { Answer::Granted(terms) })
}

/// IAADDR with a lifetime: address, preferred and valid lifetime.
fn address((code, value): (u16, &[u8])) -> Option<(Ipv6Addr, Span, Span)> {
    if code != ADDRESS || refusal(value.get(24..)?).is_some() {
        return None;
    }
    let address = Ipv6Addr::from(<[u8; 16]>::try_from(value.get(..16)?).ok()?);
    let span = |at: usize| Some(Span::from(u32::from_be_bytes(value.get(at..at + 4)?.try_into().ok()?)));
    let (preferred, valid) = (span(16)?, span(20)?);
    let good = valid != Span::Seconds(0) && !address.is_unspecified() && !address.is_multicast();
    good.then_some((address, preferred, valid))
}

/// What a status other than success says.
fn refusal(body: &[u8]) -> Option<String> {
    let status = find(body, STATUS)?;
    let code = u16::from_be_bytes(status.get(..2)?.try_into().ok()?);
    let name = match code {
        0 => return None,
        2 => "NoAddrsAvail",
        3 => "NoBinding",
        4 => "NotOnLink",
        _ => "status",
    };
    Some(format!("{name} ({code}) {}", String::from_utf8_lossy(&status[2..])).trim_end().to_owned())
}

fn find(body: &[u8], code: u16) -> Option<&[u8]> {
    options(body).find(|(found, _)| *found == code).map(|(_, value)| value)
}

/// The options in `body`; stops at what is cut short.
fn options(mut body: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [a, b, c, d, rest @ ..] = body else { return None };
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([*c, *d])))?;
        body = rest;
        Some((u16::from_be_bytes([*a, *b]), value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::link::Mac;
    use std::time::Duration;

    fn identity() -> Identity {
        let mac = Mac([2, 0, 0, 0, 0, 9]);
        Identity { mac, client: "c/net/eth0".into(), options: Vec::new(), broadcast: false }
    }

    fn leased() -> Vec<u8> {
        let mut address = "fd00::5".parse::<Ipv6Addr>().unwrap().octets().to_vec();
        address.extend([0, 0, 0, 80, 0, 0, 0, 100]);
        address
    }

    fn reply(kind: u8, association: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = vec![kind, 0, 0, 7];
        option(&mut bytes, CLIENT, &duid(&identity()));
        option(&mut bytes, SERVER, &[0, 1, 2]);
        let mut inner = [ASSOCIATION, [0; 4], [0; 4]].concat();
        for (code, value) in association {
            option(&mut inner, *code, value);
        }
        option(&mut bytes, ADDRESSES, &inner);
        bytes
    }

    #[test]
    fn answers_are_read() {
        let terms = match decode(&reply(REPLY, &[(ADDRESS, leased())]), &identity(), 7) {
            Some(Answer::Granted(terms)) => terms,
            other => panic!("{other:?}"),
        };
        assert_eq!((terms.address.to_string().as_str(), &terms.server[..]), ("fd00::5/128", &[0, 1, 2][..]));
        assert_eq!([terms.lifetime, terms.renew, terms.rebind].map(u32::from), [100, 40, 64]);
        let offer = decode(&reply(ADVERTISE, &[(ADDRESS, leased())]), &identity(), 7);
        assert!(matches!(offer, Some(Answer::Offered(_))));
    }

    #[test]
    fn refusals_say_why() {
        let full = reply(ADVERTISE, &[(STATUS, [&[0, 2][..], b"full"].concat())]);
        assert_eq!(decode(&full, &identity(), 7), Some(Answer::Refused("NoAddrsAvail (2) full".into())));
        let mut expired = leased();
        expired[20..24].copy_from_slice(&[0; 4]);
        for association in [vec![], vec![(ADDRESS, expired)], vec![(ADDRESS, vec![0; 10])]] {
            let answer = decode(&reply(REPLY, &association), &identity(), 7);
            assert!(matches!(answer, Some(Answer::Refused(_))), "{association:?}");
        }
    }

    #[test]
    fn what_is_not_for_us_is_nothing() {
        let good = reply(REPLY, &[(ADDRESS, leased())]);
        assert_eq!(decode(&good, &identity(), 8), None);
        assert_eq!(decode(&good, &Identity { client: "other".into(), ..identity() }, 7), None);
        assert_eq!(decode(&reply(RENEW, &[]), &identity(), 7), None);
        assert_eq!(decode(&good[..10], &identity(), 7), None);
    }

    #[test]
    fn each_question_says_what_the_standard_wants() {
        let Some(Answer::Granted(terms)) = decode(&reply(REPLY, &[(ADDRESS, leased())]), &identity(), 7)
        else {
            panic!()
        };
        for (ask, kind, server, address) in [
            (Ask::Discover(None), SOLICIT, false, false),
            (Ask::Take(&terms), REQUEST, true, true),
            (Ask::Renew(&terms), RENEW, true, true),
            (Ask::Rebind(&terms), REBIND, false, true),
            (Ask::Release(&terms), RELEASE, true, true),
        ] {
            let bytes =
                encode(ask, &identity(), Conversation { id: 0xff00_0007, elapsed: Duration::from_secs(1) });
            assert_eq!(bytes[..4], [kind, 0, 0, 7]);
            assert_eq!(find(&bytes[4..], SERVER).is_some(), server, "{ask:?}");
            assert_eq!(find(&bytes[4..], ELAPSED).unwrap(), [0, 100]);
            let association = find(&bytes[4..], ADDRESSES).unwrap();
            assert_eq!(find(&association[12..], ADDRESS).is_some(), address, "{ask:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn damaged_messages_are_read_or_refused(tail in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
                                                at in 0..100usize, value in proptest::num::u8::ANY) {
            let mut bytes = reply(REPLY, &[(ADDRESS, leased())]);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            bytes.extend(tail);
            if let Some(Answer::Granted(terms)) = decode(&bytes, &identity(), 7) {
                proptest::prop_assert!(terms.renew <= terms.rebind && terms.rebind <= terms.lifetime);
            }
        }
    }
}
