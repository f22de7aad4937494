//! rtnetlink: traffic control (linux/pkt_sched.h, pkt_cls.h, tc_act/tc_mirred.h): a token bucket on what a link sends,
//! and a way to send what it receives through another link, where a bucket can hold it up.

use super::{
    codec::{CREATE, EXCLUSIVE, Message, attribute, read_text, read_u32},
    route::RouteSocket,
    socket::NetlinkError,
};

const RTM_NEWQDISC: u16 = 36;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TC_H_ROOT: u32 = 0xffff_ffff;
const TC_H_INGRESS: u32 = 0xffff_fff1;
const INGRESS_HANDLE: u32 = 0xffff_0000;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;

/// A token bucket: what a link may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    /// Bytes a second, in the long run.
    pub rate: u64,
    /// Bytes at once.
    pub burst: u32,
    /// Bytes that wait for tokens before more are dropped, the burst included.
    pub limit: u32,
}

/// A token bucket as the kernel shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedBucket {
    /// Bytes a second.
    pub rate: u64,
    /// Bytes that wait, the burst included.
    pub limit: u32,
    /// How long the burst takes at that rate, in ticks; what does not fit is cut off above.
    ticks: u32,
}

/// `PSCHED_SHIFT`: a tick of queues is 64 ns.
const TICK: u128 = 64;
const SECOND: u128 = 1_000_000_000;

impl ListedBucket {
    /// Bytes at once, rounded.
    pub fn burst(&self) -> u64 {
        (u128::from(self.rate) * u128::from(self.ticks) * TICK / SECOND) as u64
    }

    /// Whether this is what became of `wanted`. The burst is kept as a time, which the reference plugin rounds to
    /// microseconds, and the kernel to what its multiplication yields.
    pub fn is(&self, wanted: TokenBucket) -> bool {
        let ticks = u128::from(wanted.burst) * SECOND / u128::from(wanted.rate.max(1)) / TICK;
        let off = self.ticks.wrapping_sub(ticks as u32) as i32;
        let rounding = 1000 / TICK + 1 + ticks / (1 << 16);
        (self.rate, self.limit) == (wanted.rate, wanted.limit) && u128::from(off.unsigned_abs()) <= rounding
    }
}

type Result<T> = std::result::Result<T, NetlinkError>;

/// `struct tcmsg`
fn header(link: u32, handle: u32, parent: u32, info: u32) -> [u8; 20] {
    let mut header = [0; 20];
    for (at, value) in [(4, link), (8, handle), (12, parent), (16, info)] {
        header[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    header
}

impl RouteSocket {
    /// Makes a token bucket the root queue of a link.
    pub fn add_token_bucket(&mut self, link: u32, bucket: TokenBucket) -> Result<()> {
        const HANDLE: u32 = 1 << 16; // 1:0
        let message = Message::new(RTM_NEWQDISC, CREATE | EXCLUSIVE, &header(link, HANDLE, TC_H_ROOT, 0));
        self.0.execute(message.with_text(TCA_KIND, "tbf").nest(TCA_OPTIONS, |options| {
            let options = options.with(TCA_TBF_PARMS, &parameters(bucket));
            let options = if u32::try_from(bucket.rate).is_err() {
                options.with(TCA_TBF_RATE64, &bucket.rate.to_ne_bytes())
            } else {
                options
            };
            options.with_u32(TCA_TBF_BURST, bucket.burst)
        }))
    }

    /// The token bucket at the root of a link, if there is one.
    pub fn token_bucket(&mut self, link: u32) -> Result<Option<ListedBucket>> {
        let answers = self.0.dump(&Message::new(RTM_GETQDISC, 0, &header(link, 0, 0, 0)))?;
        Ok(answers.iter().find_map(|answer| {
            let index = read_u32(answer.get(4..)?)?;
            let parent = read_u32(answer.get(12..)?)?;
            let attributes = answer.get(20..)?;
            if index != link || parent != TC_H_ROOT || read_text(attribute(attributes, TCA_KIND)?) != "tbf" {
                return None;
            }
            let options = attribute(attributes, TCA_OPTIONS)?;
            let parameters = attribute(options, TCA_TBF_PARMS)?;
            let rate = match attribute(options, TCA_TBF_RATE64) {
                Some(rate) => u64::from_ne_bytes(rate.try_into().ok()?),
                None => read_u32(parameters.get(8..)?)?.into(),
            };
            let (limit, ticks) = (read_u32(parameters.get(24..)?)?, read_u32(parameters.get(28..)?)?);
            Some(ListedBucket { rate, limit, ticks })
        }))
    }

    /// Sends all that `link` receives out of `through`, which passes it back to where it was.
    pub fn redirect_received(&mut self, link: u32, through: u32) -> Result<()> {
        let ingress =
            Message::new(RTM_NEWQDISC, CREATE | EXCLUSIVE, &header(link, INGRESS_HANDLE, TC_H_INGRESS, 0));
        self.0.execute(ingress.with_text(TCA_KIND, "ingress"))?;

        const TCA_U32_CLASSID: u16 = 1;
        const TCA_U32_SEL: u16 = 5;
        const TCA_U32_ACT: u16 = 7;
        const TCA_ACT_KIND: u16 = 1;
        const TCA_ACT_OPTIONS: u16 = 2;
        const TCA_MIRRED_PARMS: u16 = 2;
        const PRIORITY: u32 = 1;
        const ETH_P_ALL: u16 = 3;
        let info = PRIORITY << 16 | u32::from(ETH_P_ALL.to_be());
        let filter = Message::new(RTM_NEWTFILTER, CREATE | EXCLUSIVE, &header(link, 0, INGRESS_HANDLE, info));
        self.0.execute(filter.with_text(TCA_KIND, "u32").nest(TCA_OPTIONS, |options| {
            options.with_u32(TCA_U32_CLASSID, 1 << 16 | 1).with(TCA_U32_SEL, &everything()).nest(
                TCA_U32_ACT,
                |actions| {
                    actions.nest(1, |action| {
                        action.with_text(TCA_ACT_KIND, "mirred").nest(TCA_ACT_OPTIONS, |options| {
                            options.with(TCA_MIRRED_PARMS, &redirection(through))
                        })
                    })
                },
            )
        }))
    }
}

/// `struct tc_tbf_qopt`: rate, peak rate, limit, bucket, mtu. The bucket's size is given in bytes elsewhere.
fn parameters(bucket: TokenBucket) -> [u8; 36] {
    const TC_LINKLAYER_ETHERNET: u8 = 1;
    let mut parameters = [0; 36];
    parameters[1] = TC_LINKLAYER_ETHERNET;
    let rate = u32::try_from(bucket.rate).unwrap_or(u32::MAX);
    parameters[8..12].copy_from_slice(&rate.to_ne_bytes());
    parameters[24..28].copy_from_slice(&bucket.limit.to_ne_bytes());
    parameters
}

/// `struct tc_u32_sel` with one key that matches whatever comes.
fn everything() -> [u8; 32] {
    const TC_U32_TERMINAL: u8 = 1;
    let mut selector = [0; 32];
    selector[0] = TC_U32_TERMINAL;
    selector[2] = 1; // one key, all zeros
    selector
}

/// `struct tc_mirred`
fn redirection(to: u32) -> [u8; 28] {
    const TC_ACT_STOLEN: u32 = 4;
    const TCA_EGRESS_REDIR: u32 = 1;
    let mut mirred = [0; 28];
    for (at, value) in [(8, TC_ACT_STOLEN), (20, TCA_EGRESS_REDIR), (24, to)] {
        mirred[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    mirred
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_the_same_within_what_is_rounded() {
        let wanted = TokenBucket { rate: 12_500_000, burst: 1_000_000, limit: 1_312_500 };
        // 80 ms.
        let listed = ListedBucket { rate: 12_500_000, limit: 1_312_500, ticks: 1_250_000 };
        assert!(listed.is(wanted) && listed.burst() == 1_000_000);
        assert!(ListedBucket { ticks: 1_250_016, ..listed }.is(wanted));
        for other in [
            ListedBucket { ticks: 1_251_000, ..listed },
            ListedBucket { rate: 12_500_001, ..listed },
            ListedBucket { limit: 1_312_501, ..listed },
        ] {
            assert!(!other.is(wanted), "{other:?}");
        }
        // 1000 s, of which the kernel shows the lower half.
        let slow = TokenBucket { rate: 1000, burst: 1_000_000, limit: 1_000_025 };
        let ticks = (1000 * SECOND / TICK) as u32;
        assert!(ListedBucket { rate: 1000, limit: 1_000_025, ticks }.is(slow));
    }
}
