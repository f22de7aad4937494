//! `firewall`: what is forwarded to and from pods. Chained after a plugin that gives the pod its addresses.
//!
//! A pod may send anywhere, and receives what belongs to connections that are known. That is said by two rules per
//! address, which matter where something else forbids what it does not know: the operator's own rules in the chain
//! `admin`, which come first, and the `ingressPolicy`:
//!
//! - `open`: nothing is forbidden.
//! - `same-bridge`: pods of this bridge and of other bridges that say so, too, cannot reach each other.
//! - `isolated`: nor can pods of this bridge reach each other. Frames that the bridge switches are seen by these rules
//!   only where br_netfilter shows them.

use crate::{
    netlink::nftables::{Chain, Direction, Field, Rule},
    network::{IpNetwork, bits},
    protocol::{
        error::{CniError, Code},
        request::Request,
        result::CniResult,
    },
    ruleset::{FORWARDED, ISOLATED, ISOLATION, Owner, Ruleset},
};
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Document {
    backend: String,
    iptables_admin_chain_name: String,
    ingress_policy: String,
}

/// Who may reach the pods of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IngressPolicy {
    Open,
    SameBridge,
    Isolated,
}

const OF_BRIDGE: [Chain; 2] = [ISOLATION, ISOLATED];

fn load(request: &Request) -> Result<IngressPolicy, CniError> {
    let document: Document = request.config()?;
    let unsupported = |message: &str| Err(CniError::new(Code::UnsupportedField, message));
    match document.backend.as_str() {
        // What iptables would do is done by nf_tables.
        "" | "nftables" | "iptables" => {}
        "firewalld" => {
            return unsupported("`backend` firewalld is not supported here; leave it out, or say nftables");
        }
        other => return Err(CniError::config(format!("unrecognized backend {other:?}"))),
    }
    if !matches!(document.iptables_admin_chain_name.as_str(), "" | "CNI-ADMIN") {
        return unsupported(
            "`iptablesAdminChainName` names a chain of iptables, which is not used here; the operator's rules go to \
             the chain `admin` of the table `inet cairn_cni`",
        );
    }
    match document.ingress_policy.as_str() {
        "" | "open" => Ok(IngressPolicy::Open),
        "same-bridge" => Ok(IngressPolicy::SameBridge),
        "isolated" => Ok(IngressPolicy::Isolated),
        other => Err(CniError::config(format!(
            "unknown ingress policy: {other:?} (open, same-bridge or isolated)"
        ))),
    }
}

pub(crate) fn read(request: &Request) -> Result<(), CniError> {
    load(request).map(drop)
}

/// Rules of the pod, and those of its bridge.
struct Wanted {
    pod: Vec<(Chain, Rule)>,
    bridge: Option<(Owner, Vec<(Chain, Rule)>)>,
}

impl Wanted {
    fn new(request: &Request, policy: IngressPolicy, result: &CniResult) -> Result<Self, CniError> {
        let pod = result.ips.iter().flat_map(|ip| {
            let address = ip.address.address;
            let only = IpNetwork { address, prefix: bits(address) };
            let to = Rule::new().address(Field::Destination, only, true).of_known_connection().accept();
            let from = Rule::new().address(Field::Source, only, true).accept();
            [(FORWARDED, to), (FORWARDED, from)]
        });
        let bridge = match policy {
            IngressPolicy::Open => None,
            _ => {
                let bridge =
                    result.interfaces.first().map(|i| i.name.as_str()).filter(|name| !name.is_empty());
                let bridge = bridge.ok_or_else(|| {
                    CniError::config(
                        "`ingressPolicy` needs the name of the bridge: prevResult has no interface; chain \"firewall\" \
                         after \"bridge\"",
                    )
                })?;
                Some((Owner::of_bridge(&request.network, bridge), of_bridge(bridge, policy)))
            }
        };
        Ok(Self { pod: pod.collect(), bridge })
    }
}

fn of_bridge(bridge: &str, policy: IngressPolicy) -> Vec<(Chain, Rule)> {
    let from = || Rule::new().interface(Direction::In, bridge, true);
    let mut rules = Vec::new();
    if policy == IngressPolicy::Isolated {
        rules.push((ISOLATION, from().interface(Direction::Out, bridge, true).discard()));
    }
    rules.push((ISOLATION, from().interface(Direction::Out, bridge, false).jump(ISOLATED)));
    rules.push((ISOLATED, Rule::new().interface(Direction::Out, bridge, true).discard()));
    rules
}

fn owner(request: &Request) -> Owner {
    Owner::new(&request.network, &request.attachment)
}

/// Writes the rules; passes the previous result on.
pub fn add(request: &Request) -> Result<CniResult, CniError> {
    let policy = load(request)?;
    let previous = request
        .previous_result()?
        .ok_or_else(|| CniError::config("missing prevResult from earlier plugin"))?;
    let wanted = Wanted::new(request, policy, &previous)?;
    let mut ruleset = Ruleset::open()?;
    // The pod's first: a DEL of the bridge's last pod that runs now must see that there is another, or be over.
    ruleset.replace(&[FORWARDED], &owner(request), &wanted.pod)?;
    if let Some((bridge, rules)) = &wanted.bridge
        && let Err(error) = ruleset.replace(&OF_BRIDGE, bridge, rules)
    {
        let _ = ruleset.remove(&[FORWARDED], &owner(request));
        return Err(error);
    }
    Ok(previous)
}

/// Removes the rules of the pod, and with the network's last pod those of its bridges.
pub fn del(request: &Request) -> Result<(), CniError> {
    let mut ruleset = Ruleset::open()?;
    ruleset.remove(&[FORWARDED], &owner(request))?;
    forget_bridges(request, &mut ruleset)
}

fn forget_bridges(request: &Request, ruleset: &mut Ruleset) -> Result<(), CniError> {
    ruleset.remove_unused(&OF_BRIDGE, &request.network, FORWARDED)
}

/// The rules are exactly those that ADD would make.
pub fn check(request: &Request) -> Result<(), CniError> {
    let policy = load(request)?;
    let previous = request
        .previous_result()?
        .ok_or_else(|| CniError::config("missing prevResult from earlier plugin"))?;
    let wanted = Wanted::new(request, policy, &previous)?;
    let mut ruleset = Ruleset::open()?;
    ruleset.check(&[FORWARDED], &owner(request), &wanted.pod)?;
    wanted.bridge.map_or(Ok(()), |(bridge, rules)| ruleset.check(&OF_BRIDGE, &bridge, &rules))
}

/// Removes rules of attachments that are no more.
pub fn gc(request: &Request) -> Result<(), CniError> {
    let mut ruleset = Ruleset::open()?;
    ruleset.retain(&[FORWARDED], &request.network, &request.valid_attachments()?)?;
    forget_bridges(request, &mut ruleset)
}

/// The configuration is good and nf_tables does what the rules need.
pub fn status(request: &Request) -> Result<(), CniError> {
    load(request)?;
    Ruleset::open()?.probe(&[FORWARDED]).map_err(|e| CniError { code: Code::NotAvailable, ..e })
}
