use super::*;
use crate::netlink::link::Mac;

const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);
const OFFER: u8 = 2;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// A client for IPv4, the moment it lives in, and a server's pen.
struct Stage {
    client: Client,
    now: Moment,
}

impl Stage {
    fn new() -> Self {
        let identity = Identity { mac: MAC, client: "c".into(), options: Vec::new(), broadcast: false };
        let now = Duration::from_secs(1000);
        Self { client: Client::acquire(Family::Ipv4, identity, Patience::default(), now, 5), now }
    }

    /// Bound to 10.0.0.5 for a hundred seconds.
    fn bound() -> Self {
        let mut stage = Self::new();
        assert_eq!(stage.sent(), Some((To::Everyone, 1)));
        stage.answer(OFFER, 5);
        assert_eq!(stage.sent(), Some((To::Everyone, 3)));
        assert_eq!(stage.answer(ACK, 5), Change::Granted);
        stage
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    /// Addressee and type of the message that is to be sent now.
    fn sent(&mut self) -> Option<(To, u8)> {
        match self.client.step(self.now) {
            Step::Send(to, bytes) => Some((to, bytes[242])),
            _ => None,
        }
    }

    fn lost(&mut self) -> Option<String> {
        match self.client.step(self.now) {
            Step::Lost(why) => Some(why),
            _ => None,
        }
    }

    fn answer(&mut self, kind: u8, last: u8) -> Change {
        let mut bytes = vec![0; 240];
        bytes[0] = 2;
        bytes[4..8].copy_from_slice(&self.client.conversation.to_be_bytes());
        bytes[16..20].copy_from_slice(&[10, 0, 0, last]);
        bytes[28..34].copy_from_slice(&MAC.0);
        bytes[236..].copy_from_slice(&[99, 130, 83, 99]);
        bytes.extend([53, 1, kind, 54, 4, 10, 0, 0, 1, 1, 4, 255, 255, 255, 0, 51, 4, 0, 0, 0, 100, 255]);
        self.client.receive(&bytes, self.now)
    }
}

#[test]
fn a_lease_is_had_kept_and_given_back() {
    let mut stage = Stage::bound();
    assert_eq!(stage.client.step(stage.now), Step::Wait(stage.now + Duration::from_secs(50)));
    assert!(!stage.client.is_talking());
    stage.pass(50);
    assert_eq!(stage.sent(), Some((To::Server, 3)));
    assert_eq!(stage.sent(), None, "one message is enough for now");
    assert_eq!(stage.answer(ACK, 5), Change::Granted);
    assert_eq!(stage.client.lease().unwrap().since, stage.now);
    assert!(stage.client.release(stage.now).is_some_and(|bytes| bytes[242] == 7));
    assert_eq!(Stage::new().client.release(stage.now), None, "nothing was had");
}

#[test]
fn a_silent_server_is_asked_again_then_all_then_it_is_over() {
    let mut stage = Stage::bound();
    let mut asked = [0, 0];
    for _ in 0..99 {
        stage.pass(1);
        match stage.sent() {
            Some((To::Server, _)) => asked[0] += 1,
            Some((To::Everyone, _)) => asked[1] += 1,
            None => {}
        }
    }
    assert!((2..=6).contains(&asked[0]) && (2..=4).contains(&asked[1]), "{asked:?}");
    stage.pass(1);
    assert_eq!(stage.lost().unwrap(), "no server answers");
}

#[test]
fn a_refused_lease_is_asked_for_anew_but_no_other_address_is_taken() {
    let renewing = || {
        let mut stage = Stage::bound();
        stage.pass(50);
        assert_eq!(stage.sent(), Some((To::Server, 3)));
        stage.answer(NAK, 0);
        assert_eq!(stage.sent(), Some((To::Everyone, 1)));
        stage
    };
    let mut stage = renewing();
    stage.answer(OFFER, 5);
    assert_eq!(stage.sent(), Some((To::Everyone, 3)));
    assert_eq!(stage.answer(ACK, 5), Change::Granted);

    let mut stage = renewing();
    stage.answer(OFFER, 6);
    assert_eq!(stage.sent(), None, "not ours");
    stage.pass(10);
    assert!(stage.lost().is_some());
}

#[test]
fn another_address_for_a_renewal_is_the_end() {
    let mut stage = Stage::bound();
    stage.pass(50);
    stage.sent();
    assert_eq!(stage.answer(ACK, 6), Change::None);
    assert!(stage.lost().unwrap().contains("10.0.0.6"));
}

#[test]
fn looking_for_a_server_ends() {
    let mut stage = Stage::new();
    let mut sent = 0;
    for _ in 0..208 {
        sent += usize::from(stage.sent().is_some());
        stage.pass(1);
    }
    assert!((8..=12).contains(&sent), "{sent}");
    assert!(stage.lost().is_some());
    assert!(stage.client.lease().is_none());
}

#[test]
fn an_offer_that_is_refused_or_forgotten_makes_it_look_again() {
    let mut stage = Stage::new();
    stage.sent();
    stage.answer(OFFER, 5);
    stage.sent();
    stage.answer(NAK, 0);
    stage.pass(4);
    assert_eq!(stage.sent(), Some((To::Everyone, 1)));
    stage.answer(OFFER, 5);
    assert_eq!(stage.sent(), Some((To::Everyone, 3)));
    stage.pass(11);
    assert_eq!(stage.sent(), Some((To::Everyone, 1)));
}

#[test]
fn answers_out_of_turn_change_nothing() {
    let mut stage = Stage::new();
    stage.sent();
    assert_eq!(stage.answer(ACK, 5), Change::None);
    assert!(stage.client.lease().is_none());
    let mut stage = Stage::bound();
    stage.answer(NAK, 0);
    assert_eq!(stage.lost(), None);
}

#[test]
fn a_lease_that_was_had_before_goes_on_where_it_was() {
    let lease = Stage::bound().client.lease().unwrap().clone();
    let resumed = |seconds| {
        let identity = Identity { mac: MAC, client: "c".into(), options: Vec::new(), broadcast: false };
        let now = lease.since + Duration::from_secs(seconds);
        let client = Client::resume(Family::Ipv4, identity, Patience::default(), lease.clone(), now, 5);
        Stage { client, now }
    };
    assert_eq!(resumed(10).sent(), None);
    assert_eq!(resumed(60).sent(), Some((To::Server, 3)));
    assert_eq!(resumed(90).sent(), Some((To::Everyone, 3)));
    assert!(resumed(100).lost().is_some());
}
