//! `bandwidth`: limits on what the pod receives and sends. Chained after a plugin that makes a veth pair.
//!
//! What the pod receives is what the host's end sends: a token bucket there. What the pod sends is received by the
//! host's end, where nothing can wait; so it is sent through an `ifb` link of its own that has the bucket. Its alias
//! says whose it is, for GC.

use crate::{
    interface,
    netlink::{
        device::{Kind, NewLink},
        link::Link,
        route::RouteSocket,
        traffic::TokenBucket,
    },
    netns::NetNs,
    protocol::{
        error::CniError,
        request::Request,
        result::{CniResult, Interface},
    },
    ruleset::{Owner, prefix},
};
use rustix::io::Errno;
use serde::Deserialize;
use sha2::{Digest, Sha512};

/// How long a packet may wait at the given rate, in milliseconds: the reference plugin's choice.
const LATENCY: u64 = 25;
/// What the aliases of our `ifb` links begin with.
const ALIAS: &str = "cairn-cni ";

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Document {
    runtime_config: Runtime,
    #[serde(flatten)]
    own: Limits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Runtime {
    bandwidth: Option<Limits>,
}

/// Bits a second, and bits at once; 0 and `None` are without limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Limits {
    ingress_rate: Option<u64>,
    ingress_burst: Option<u64>,
    egress_rate: Option<u64>,
    egress_burst: Option<u64>,
}

/// What the pod may receive and send; `None` is without limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Buckets {
    received: Option<TokenBucket>,
    sent: Option<TokenBucket>,
}

impl Buckets {
    fn load(request: &Request) -> Result<Self, CniError> {
        let Document { own, runtime_config } = request.config()?;
        // The network's own limits are for all of its pods, whatever a pod asks for: one of them, and the runtime's
        // do not count.
        let given = if own == Limits::default() { runtime_config.bandwidth.unwrap_or_default() } else { own };
        Ok(Self {
            received: bucket(given.ingress_rate, given.ingress_burst)?,
            sent: bucket(given.egress_rate, given.egress_burst)?,
        })
    }

    fn any(self) -> bool {
        self.received.is_some() || self.sent.is_some()
    }
}

fn bucket(rate: Option<u64>, burst: Option<u64>) -> Result<Option<TokenBucket>, CniError> {
    let too_small = "a rate and a burst must be at least 8 bits";
    let message = match (rate.unwrap_or(0), burst.unwrap_or(0)) {
        (0, 0) => return Ok(None),
        (_, 0) => "if rate is set, burst must also be set",
        (0, _) => "if burst is set, rate must also be set",
        (..8, _) | (_, ..8) => too_small,
        (rate, burst) => match u32::try_from(burst / 8) {
            Ok(burst) if burst < u32::MAX => {
                let rate = rate / 8;
                let waiting = rate.saturating_mul(LATENCY) / 1000;
                let limit = u32::try_from(waiting.saturating_add(burst.into())).unwrap_or(u32::MAX);
                return Ok(Some(TokenBucket { rate, burst, limit }));
            }
            _ => "burst cannot be more than 4GB",
        },
    };
    Err(CniError::config(message))
}

/// Name of the attachment's `ifb` link: the reference plugin's, so that either removes what the other made.
fn ifb_name(request: &Request) -> String {
    let digest = Sha512::digest(format!("{}{}", request.network, request.attachment.container_id));
    let digits: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("bwp{digits}")
}

/// The host's end of the pod's veth, which must be in the previous result.
fn host_end(request: &Request, route: &mut RouteSocket, previous: &CniResult) -> Result<Link, CniError> {
    let ifname = &request.attachment.ifname;
    let pod =
        NetNs::required(request.netns()?)?.enter(|| interface::find(&mut interface::open()?, ifname))?;
    let peer = pod
        .peer
        .filter(|_| pod.kind == "veth")
        .ok_or_else(|| CniError::internal(format!("container interface {ifname} has no veth peer")))?;
    let end = route.link_by_index(peer).map_err(|e| e.during(format_args!("veth peer of {ifname}")))?;
    if previous.interfaces.iter().any(|i| i.sandbox.is_empty() && i.name == end.name) {
        return Ok(end);
    }
    Err(CniError::internal("no veth peer of container interface found in host ns"))
}

/// Sets the limits; the result gets the `ifb` link, if one was needed.
pub fn add(request: &Request) -> Result<CniResult, CniError> {
    let buckets = Buckets::load(request)?;
    let mut result =
        request.previous_result()?.ok_or_else(|| CniError::config("must be called as chained plugin"))?;
    if !buckets.any() {
        return Ok(result);
    }
    let mut route = interface::open()?;
    let host = host_end(request, &mut route, &result)?;
    let name = &host.name;
    if let Some(bucket) = buckets.received {
        route
            .add_token_bucket(host.index, bucket)
            .map_err(|e| e.during(format_args!("create qdisc tbf on {name:?}")))?;
    }
    if let Some(bucket) = buckets.sent {
        let ifb = ifb_name(request);
        let new = NewLink {
            name: &ifb,
            kind: Kind::Ifb,
            parent: None,
            netns: None,
            mtu: Some(host.mtu),
            mac: None,
        };
        // One of that name that is there already was made by another ADD, and may be in use.
        route.add_link(&new).map_err(|e| e.during(format_args!("adding link {ifb:?} (ifb)")))?;
        let link = match hold_up(request, &mut route, &host, &ifb, bucket) {
            Ok(link) => link,
            Err(error) => {
                let _ = remove(&mut route, &ifb);
                return Err(error);
            }
        };
        result.interfaces.push(Interface {
            name: link.name,
            mac: link.mac.to_string(),
            ..Interface::default()
        });
    }
    Ok(result)
}

fn hold_up(
    request: &Request,
    route: &mut RouteSocket,
    host: &Link,
    ifb: &str,
    bucket: TokenBucket,
) -> Result<Link, CniError> {
    let link = interface::find(route, ifb)?;
    let alias = alias(&Owner::new(&request.network, &request.attachment));
    route.set_alias(link.index, &alias).map_err(|e| e.during(format_args!("noting whose {ifb:?} is")))?;
    route.set_up(link.index, true).map_err(|e| e.during(format_args!("bringing {ifb:?} up")))?;
    route
        .redirect_received(host.index, link.index)
        .map_err(|e| e.during(format_args!("sending what {:?} receives through {ifb:?}", host.name)))?;
    route
        .add_token_bucket(link.index, bucket)
        .map_err(|e| e.during(format_args!("create qdisc tbf on {ifb:?}")))?;
    Ok(link)
}

fn remove(route: &mut RouteSocket, name: &str) -> Result<(), CniError> {
    let Some(link) = route.link(name).map_err(|e| e.during(format_args!("looking for {name:?}")))? else {
        return Ok(());
    };
    match route.part_with_link(link.index) {
        Err(error) if error.is(Errno::NODEV) => Ok(()),
        outcome => outcome.map_err(|e| e.during(format_args!("removing {name:?}"))),
    }
}

/// Removes the `ifb` link. The bucket on the veth goes with that.
pub fn del(request: &Request) -> Result<(), CniError> {
    remove(&mut interface::open()?, &ifb_name(request))
}

/// What the alias of an `ifb` link says.
fn alias(owner: &Owner) -> String {
    format!("{ALIAS}{}", owner.comment())
}

/// Removes the `ifb` links of attachments that are no more.
pub fn gc(request: &Request) -> Result<(), CniError> {
    let valid = request.valid_attachments()?;
    let keep: Vec<String> = valid.iter().map(|a| alias(&Owner::new(&request.network, a))).collect();
    let ours = format!("{ALIAS}{}", prefix(&request.network));
    let mut route = interface::open()?;
    let links = route.links().map_err(|e| e.during("listing links"))?;
    for link in links.iter().filter(|l| l.kind == "ifb" && l.alias.starts_with(&ours)) {
        if !keep.contains(&link.alias) {
            remove(&mut route, &link.name)?;
        }
    }
    Ok(())
}

/// The buckets are there, as configured.
pub fn check(request: &Request) -> Result<(), CniError> {
    let buckets = Buckets::load(request)?;
    let previous =
        request.previous_result()?.ok_or_else(|| CniError::config("must be called as a chained plugin"))?;
    if !buckets.any() {
        return Ok(());
    }
    let mut route = interface::open()?;
    let host = host_end(request, &mut route, &previous)?;
    if let Some(bucket) = buckets.received {
        compare(&mut route, &host, bucket)?;
    }
    if let Some(bucket) = buckets.sent {
        let ifb = interface::find(&mut route, &ifb_name(request))?;
        compare(&mut route, &ifb, bucket)?;
    }
    Ok(())
}

fn compare(route: &mut RouteSocket, link: &Link, wanted: TokenBucket) -> Result<(), CniError> {
    let name = &link.name;
    let found = route
        .token_bucket(link.index)
        .map_err(|e| e.during(format_args!("looking at qdiscs of {name:?}")))?;
    match found {
        Some(found) if found.is(wanted) => Ok(()),
        Some(found) => Err(CniError::internal(format!(
            "qdisc tbf on {name} has rate {}, limit {} and a burst of {}, not {}, {} and {}",
            found.rate,
            found.limit,
            found.burst(),
            wanted.rate,
            wanted.limit,
            wanted.burst
        ))),
        None => Err(CniError::internal(format!("Failed to find qdisc tbf on {name}"))),
    }
}

pub(crate) fn read(request: &Request) -> Result<(), CniError> {
    Buckets::load(request).map(drop)
}

/// The configuration is good.
pub fn status(request: &Request) -> Result<(), CniError> {
    Buckets::load(request).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_burst_come_together_and_fit() {
        let expected = TokenBucket { rate: 12_500_000, burst: 1_000_000, limit: 1_312_500 };
        let bucket = |rate, burst| bucket(Some(rate), Some(burst));
        assert_eq!(bucket(100_000_000, 8_000_000).unwrap(), Some(expected));
        assert_eq!(bucket(0, 0).unwrap(), None);
        // A rate of more than 4 GiB a second, whose queue does not fit in 32 bits either.
        assert_eq!(bucket(u64::MAX, 8000).unwrap().unwrap().limit, u32::MAX);
        for (rate, burst) in [(8000, 0), (0, 8000), (7, 8000), (8000, 7), (8000, u64::MAX)] {
            assert!(bucket(rate, burst).is_err(), "{rate} {burst}");
        }
    }
}
