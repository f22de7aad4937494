//! Random servers for the DHCP client: answers that are right, late, damaged or made up, at random moments.

use crate::{Random, scramble};
use cairn_cni::{
    dhcp::{
        client::{Client, Patience, Step},
        terms::{Family, Identity},
    },
    netlink::link::Mac,
};
use std::time::Duration;

/// What DHCP for IPv4 and IPv6 have in common here: a head, then options.
fn answer(family: Family, asked: &[u8], random: &mut Random) -> Vec<u8> {
    match family {
        Family::Ipv4 => {
            let mut bytes = asked[..240].to_vec();
            bytes[0] = 2;
            bytes[16..20].copy_from_slice(&[10, 0, 0, 5 + (random.below(8) == 0) as u8]);
            let kind = *random.one(&[2, 2, 5, 5, 5, 6, 7]);
            let lease = *random.one(&[0u32, 1, 60, 3600, u32::MAX]);
            bytes.extend([53, 1, kind, 54, 4, 10, 0, 0, 1, 1, 4, 255, 255, 255, 0, 3, 4, 10, 0, 0, 1]);
            bytes.extend([51, 4]);
            bytes.extend(lease.to_be_bytes());
            for code in [58, 59] {
                bytes.extend([code, 4]);
                bytes.extend((random.next() as u32 >> random.below(32)).to_be_bytes());
            }
            bytes.extend([121, 8, 24, 192, 0, 2, 10, 0, 0, 9, 33, 8, 10, 1, 0, 0, 10, 0, 0, 9, 52, 1, 3, 255]);
            bytes
        }
        Family::Ipv6 => {
            let mut bytes = vec![*random.one(&[2, 2, 7, 7, 7, 10])];
            bytes.extend(&asked[1..4]);
            // The client's identifier comes first in what it sends: 4 and 18 bytes.
            bytes.extend(&asked[4..26]);
            bytes.extend([0, 2, 0, 3, 1, 2, 3]);
            let mut times = Vec::new();
            for _ in 0..4 {
                times.extend((random.next() as u32 >> random.below(33).min(31)).to_be_bytes());
            }
            bytes.extend([0, 3, 0, 40, 0, 0, 0, 1]);
            bytes.extend(&times[..8]);
            bytes.extend([0, 5, 0, 24]);
            bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
            bytes.extend(&times[8..]);
            bytes
        }
    }
}

/// One client's life.
pub fn live(random: &mut Random) {
    let family = *random.one(&[Family::Ipv4, Family::Ipv6]);
    let mac = Mac([2, 0, 0, 0, 0, 9]);
    let identity = Identity { mac, client: "c/net/eth0".into(), options: vec![(12, vec![b'x'; 300])], broadcast: true };
    let mut now = Duration::from_secs(random.below(1 << 20) as u64);
    let mut client = Client::acquire(family, identity, Patience::default(), now, random.next());
    for _ in 0..40 {
        match client.step(now) {
            Step::Lost(why) => {
                assert!(!why.is_empty(), "a loss says why");
                return;
            }
            Step::Wait(until) => {
                assert!(until > now, "to wait for what is past would be to wait for ever");
                now = match random.below(4) {
                    0 => now + Duration::from_millis(random.below(5000) as u64),
                    _ => until.min(now + Duration::from_secs(1 << 33)),
                };
            }
            Step::Send(_, asked) => {
                let mut bytes = answer(family, &asked, random);
                if random.below(3) == 0 {
                    scramble(&mut bytes, random);
                }
                client.receive(&bytes, now);
                if let Some(lease) = client.lease() {
                    let terms = &lease.terms;
                    assert!(terms.renew <= terms.rebind && terms.rebind <= terms.lifetime, "{terms:?}");
                }
            }
        }
    }
    client.release(now);
}
