//! The life of a lease: what is said to whom, and when. No clock and no socket here, so every turn of it can be tested.
//!
//! ```text
//!            offer             granted            T1              T2
//! Selecting ───────> Requesting ───────> Bound ──────> Renewing ──────> Rebinding ──> lost
//!     ^                  │                 ^   granted    │                 │     at its end
//!     └──────────────────┘                 └──────────────┴─────────────────┘
//!           refused
//! ```
//!
//! A pod cannot change its address. So a lease that is refused when it is to be renewed is asked for anew, the same
//! address and no other, and only as long as one request may take; then it is lost.

use super::terms::{Answer, Ask, Conversation, Family, Identity, Span, Terms};
use super::{message4, message6};
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// Since the machine was started (CLOCK_BOOTTIME).
pub type Moment = Duration;

/// The pause after the first message.
const FIRST: Duration = Duration::from_millis(500);
/// Pauses between those that follow, up to this one.
const FAST: (Duration, u32) = (Duration::from_secs(2), 4);
/// The pause after those; it doubles each time (RFC 2131, 4.1).
const SLOW: Duration = Duration::from_secs(4);
/// RFC 2131, 4.4.5: half of what is left, and no less than this; but short leases have not that much.
const SHORTEST_PAUSE: Duration = Duration::from_secs(60);
const SHORTEST_PAUSE_PART: u32 = 20;
const SECOND: Duration = Duration::from_secs(1);

/// How patient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// One request: after this an offer is dropped and servers are looked for anew.
    pub request: Duration,
    /// The longest pause between two messages.
    pub pause: Duration,
    /// All of it.
    pub total: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { request: seconds(10), pause: seconds(62), total: seconds(208) }
    }
}

/// A lease, and when it was granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Terms.
    pub terms: Terms,
    /// When.
    pub since: Moment,
}

impl Lease {
    fn at(&self, span: Span) -> Moment {
        match span {
            Span::Seconds(seconds) => self.since.saturating_add(Duration::from_secs(seconds.into())),
            Span::Infinite => Moment::MAX,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// Until `ends`.
    Selecting {
        ends: Moment,
    },
    /// An offer is taken; if it is not granted until `until`, others are looked for, until `ends`.
    Requesting {
        offer: Terms,
        until: Moment,
        ends: Moment,
    },
    Bound,
    Renewing,
    Rebinding,
    Lost,
}

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// Every server on the link.
    Everyone,
    /// The one that gave the lease.
    Server,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing before that moment.
    Wait(Moment),
    /// This is to be sent.
    Send(To, Vec<u8>),
    /// There is no lease, or none any more; why.
    Lost(String),
}

/// What an answer has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing that others need to know.
    None,
    /// There is a lease, or it was prolonged.
    Granted,
}

/// One lease being had.
#[derive(Debug)]
pub struct Client {
    family: Family,
    identity: Identity,
    patience: Patience,
    phase: Phase,
    lease: Option<Lease>,
    conversation: u32,
    began: Moment,
    sent: u32,
    next: Moment,
    refusal: Option<String>,
    random: Random,
}

impl Client {
    /// Looks for a server. `seed` is chance: conversations of different clients must differ.
    pub fn acquire(family: Family, identity: Identity, patience: Patience, now: Moment, seed: u64) -> Self {
        let mut client = Self::with(family, identity, patience, now, seed);
        client.select(now, now + patience.total);
        client
    }

    /// Takes up a lease that was had before.
    pub fn resume(
        family: Family,
        identity: Identity,
        patience: Patience,
        lease: Lease,
        now: Moment,
        seed: u64,
    ) -> Self {
        let mut client = Self::with(family, identity, patience, now, seed);
        client.bind(lease);
        client
    }

    fn with(family: Family, identity: Identity, patience: Patience, now: Moment, seed: u64) -> Self {
        Self {
            family,
            identity,
            patience,
            phase: Phase::Lost,
            lease: None,
            conversation: 0,
            began: now,
            sent: 0,
            next: now,
            refusal: None,
            random: Random(seed | 1),
        }
    }

    /// Which protocol.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Who asks.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The lease, if there is one.
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// Whether answers are awaited.
    pub fn is_talking(&self) -> bool {
        !matches!(self.phase, Phase::Bound | Phase::Lost)
    }

    /// What is to be done now.
    pub fn step(&mut self, now: Moment) -> Step {
        self.turn(now);
        if let Phase::Lost = self.phase {
            return Step::Lost(self.refusal.take().unwrap_or_else(|| "no server answers".to_owned()));
        }
        if now < self.next || self.phase == Phase::Bound {
            return Step::Wait(self.next.min(self.deadline()));
        }
        let conversation = Conversation { id: self.conversation, elapsed: now.saturating_sub(self.began) };
        let leased = self.lease.as_ref().map(|lease| &lease.terms);
        let (to, ask) = match (&self.phase, leased) {
            (Phase::Selecting { .. }, leased) => {
                (To::Everyone, Ask::Discover(leased.map(|terms| terms.address.address)))
            }
            (Phase::Requesting { offer, .. }, _) => (To::Everyone, Ask::Take(offer)),
            (Phase::Renewing, Some(terms)) => (To::Server, Ask::Renew(terms)),
            (Phase::Rebinding, Some(terms)) => (To::Everyone, Ask::Rebind(terms)),
            _ => return Step::Wait(self.deadline()),
        };
        let message = self.encode(ask, conversation);
        self.sent += 1;
        self.next = now + self.pause(now);
        Step::Send(to, message)
    }

    /// The last message could not be sent: it is tried again soon.
    pub fn not_sent(&mut self, now: Moment) {
        self.sent = self.sent.saturating_sub(1);
        self.next = now + Duration::from_millis(200);
    }

    /// Takes what came in.
    pub fn receive(&mut self, bytes: &[u8], now: Moment) -> Change {
        let answer = match self.family {
            Family::Ipv4 => message4::decode(bytes, &self.identity, self.conversation),
            Family::Ipv6 => message6::decode(bytes, &self.identity, self.conversation),
        };
        let leased = self.lease.as_ref().map(|lease| lease.terms.address.address);
        let acceptable = |terms: &Terms| leased.is_none_or(|leased| leased == terms.address.address);
        match (answer, &self.phase) {
            (Some(Answer::Offered(terms)), Phase::Selecting { ends }) if acceptable(&terms) => {
                let until = now + self.patience.request;
                self.phase = Phase::Requesting { offer: terms, until, ends: *ends };
                (self.sent, self.next) = (0, now);
            }
            (Some(Answer::Granted(terms)), Phase::Requesting { .. } | Phase::Renewing | Phase::Rebinding) => {
                if acceptable(&terms) {
                    self.bind(Lease { terms, since: now });
                    return Change::Granted;
                }
                self.refusal = Some(format!("the server gives another address, {}", terms.address));
                self.phase = Phase::Lost;
            }
            // Others may have an address.
            (Some(Answer::Refused(why)), Phase::Selecting { .. }) => self.refusal = Some(why),
            (Some(Answer::Refused(why)), Phase::Requesting { ends, .. }) => {
                let ends = *ends;
                self.refusal = Some(why);
                self.select(now, ends);
                self.next = now + self.random.about(FAST.0);
            }
            (Some(Answer::Refused(why)), Phase::Renewing | Phase::Rebinding) => {
                self.refusal = Some(why);
                self.select(now, now + self.patience.request);
            }
            _ => {}
        }
        Change::None
    }

    /// Gives the lease back: the message that says so, if there is a lease. Nothing follows it.
    pub fn release(&mut self, now: Moment) -> Option<Vec<u8>> {
        self.phase = Phase::Lost;
        self.talk(now);
        let conversation = Conversation { id: self.conversation, elapsed: Duration::ZERO };
        self.lease.as_ref().map(|lease| self.encode(Ask::Release(&lease.terms), conversation))
    }

    fn encode(&self, ask: Ask<'_>, conversation: Conversation) -> Vec<u8> {
        match self.family {
            Family::Ipv4 => message4::encode(ask, &self.identity, conversation),
            Family::Ipv6 => message6::encode(ask, &self.identity, conversation),
        }
    }

    /// Goes on to what time has made of the phase.
    fn turn(&mut self, now: Moment) {
        if now >= self.end() {
            let why = self.refusal.take().unwrap_or_else(|| "no server answers".to_owned());
            self.refusal = Some(why);
            self.phase = Phase::Lost;
            return;
        }
        match (&self.phase, &self.lease) {
            (Phase::Requesting { until, ends, .. }, _) if now >= *until => {
                let ends = *ends;
                self.select(now, ends);
            }
            (Phase::Bound | Phase::Renewing, Some(lease)) if now >= lease.at(lease.terms.rebind) => {
                self.phase = Phase::Rebinding;
                self.talk(now);
            }
            (Phase::Bound, Some(lease)) if now >= lease.at(lease.terms.renew) => {
                self.phase = Phase::Renewing;
                self.talk(now);
            }
            _ => {}
        }
    }

    /// When all is over, unless something changes.
    fn end(&self) -> Moment {
        let expiry = self.lease.as_ref().map_or(Moment::MAX, |lease| lease.at(lease.terms.lifetime));
        match &self.phase {
            Phase::Selecting { ends } | Phase::Requesting { ends, .. } => expiry.min(*ends),
            _ => expiry,
        }
    }

    /// When the phase ends.
    fn deadline(&self) -> Moment {
        match (&self.phase, &self.lease) {
            (Phase::Requesting { until, .. }, _) => self.end().min(*until),
            (Phase::Bound, Some(lease)) => lease.at(lease.terms.renew),
            (Phase::Renewing, Some(lease)) => lease.at(lease.terms.rebind),
            _ => self.end(),
        }
    }

    fn pause(&mut self, now: Moment) -> Duration {
        if matches!(self.phase, Phase::Renewing | Phase::Rebinding) {
            let lifetime = self
                .lease
                .as_ref()
                .map_or(Duration::ZERO, |lease| lease.at(lease.terms.lifetime).saturating_sub(lease.since));
            let shortest = SHORTEST_PAUSE.min(lifetime / SHORTEST_PAUSE_PART).max(SECOND);
            return (self.deadline().saturating_sub(now) / 2).max(shortest);
        }
        let pause = match self.sent {
            // Often the first message was too early: the other end of the link was not up yet.
            1 => return FIRST,
            sent if sent <= FAST.1 => FAST.0,
            sent => SLOW.saturating_mul(1 << (sent - FAST.1 - 1).min(10)),
        };
        self.random.about(pause.min(self.patience.pause))
    }

    fn select(&mut self, now: Moment, ends: Moment) {
        self.phase = Phase::Selecting { ends };
        self.talk(now);
    }

    /// Begins a conversation.
    fn talk(&mut self, now: Moment) {
        self.conversation = self.random.next() as u32;
        (self.began, self.sent, self.next) = (now, 0, now);
    }

    fn bind(&mut self, lease: Lease) {
        self.phase = Phase::Bound;
        self.next = lease.at(lease.terms.renew);
        self.lease = Some(lease);
        self.refusal = None;
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::Ipv4 => "IPv4",
            Family::Ipv6 => "IPv6",
        };
        write!(f, "{} {family}", self.identity.client)
    }
}

/// Marsaglia's xorshift: it only has to keep clients from speaking all at once.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A second more or less.
    fn about(&mut self, pause: Duration) -> Duration {
        (pause + Duration::from_millis(self.next() % 2000)).saturating_sub(SECOND)
    }
}

#[cfg(test)]
mod tests;
