//! The life of an attachment that is one interface in the pod: make it, ask the IPAM plugin, give it its addresses;
//! and undo all of that. `macvlan`, `ipvlan`, `vlan`, `dummy`, `tap` and `host-device` differ in how the interface
//! comes to be, and share the rest.

use crate::{
    delegate::Ipam,
    netlink::{device::Kind, link::Link, route::RouteSocket},
    netns::NetNs,
    pod::{self, Detection},
    protocol::{
        error::{CniError, Code},
        request::{Command, Request},
        result::{CniResult, Dns, Interface},
    },
};
use serde::Deserialize;

/// Settings that all these plugins have.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Shared {
    ipam: IpamType,
    dns: Dns,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct IpamType {
    #[serde(rename = "type")]
    kind: String,
}

/// What a plugin does with a configuration that names no IPAM plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WithoutIpam {
    /// An error.
    Refuse,
    /// The interface is brought up, and has no addresses.
    LayerTwo,
    /// It gets the addresses of the plugin before it in the chain.
    FromPrevious,
}

/// Where the name resolution in the result comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DnsFrom {
    /// Always this plugin's configuration, also if that is empty.
    Configuration,
    /// The IPAM plugin.
    Ipam,
}

impl IpamType {
    /// The plugin, if one is named.
    fn find(&self, request: &Request) -> Result<Option<Ipam>, CniError> {
        match self.kind.as_str() {
            "" => Ok(None),
            kind => Ipam::find(kind, request).map(Some),
        }
    }
}

impl Shared {
    /// The IPAM plugin, if one is named.
    pub(crate) fn ipam(&self, request: &Request) -> Result<Option<Ipam>, CniError> {
        self.ipam.find(request)
    }

    /// This plugin's own name resolution.
    pub(crate) fn dns(&self) -> &Dns {
        &self.dns
    }
}

/// The `mtu` of a configuration; `None` is the kernel's.
pub(crate) fn mtu(given: i64) -> Result<Option<u32>, CniError> {
    if given == 0 {
        return Ok(None);
    }
    let mtu = u32::try_from(given).ok().filter(|mtu| (68..=65_535).contains(mtu));
    mtu.map(Some).ok_or_else(|| {
        CniError::config(format!("invalid mtu {given} (must be between 68 and 65535, or 0 for the kernel's)"))
    })
}

pub(crate) fn read(request: &Request) -> Result<(), CniError> {
    request.config::<Shared>().map(drop)
}

/// ADD. `make` makes the interface in the pod, `unmake` removes it again if something later fails.
pub(crate) fn add(
    request: &Request,
    without_ipam: WithoutIpam,
    dns_from: DnsFrom,
    make: impl FnOnce(&NetNs) -> Result<Link, CniError>,
    unmake: impl FnOnce(&NetNs) -> Result<(), CniError>,
) -> Result<CniResult, CniError> {
    let shared: Shared = request.config()?;
    let ipam = shared.ipam(request)?;
    let previous = request.previous_result()?.filter(|result| !result.ips.is_empty());
    match (without_ipam, &ipam, &previous) {
        (_, Some(_), _) | (WithoutIpam::LayerTwo, ..) | (WithoutIpam::FromPrevious, _, Some(_)) => {}
        _ => return Err(CniError::config("`ipam` is missing: this plugin needs one")),
    }
    let netns = NetNs::required(request.netns()?)?;
    let link = make(&netns)?;
    let given = match &ipam {
        Some(ipam) => ipam.add(request).map(Some),
        None => Ok(previous.filter(|_| without_ipam == WithoutIpam::FromPrevious)),
    };
    let outcome = given.and_then(|given| finish(request, &netns, &link, given));
    match outcome {
        Ok(mut result) => {
            if dns_from == DnsFrom::Configuration {
                result.dns = shared.dns;
            }
            Ok(result)
        }
        Err(error) => {
            if let Err(failure) = Ipam::del(Ok(ipam), request, || unmake(&netns)) {
                eprintln!("undoing a failed ADD: {failure}");
            }
            Err(error)
        }
    }
}

/// ADD of a device that no interface of the pod is made of: its addresses, if there is an IPAM plugin, are reserved for
/// whatever program in the pod drives it.
pub(crate) fn reserve(request: &Request) -> Result<CniResult, CniError> {
    let shared: Shared = request.config()?;
    let netns = NetNs::required(request.netns()?)?;
    let ipam = shared.ipam(request)?;
    let mut result = match &ipam {
        Some(ipam) => CniResult { dns: shared.dns, ..addressed(ipam.add(request)?)? },
        None => CniResult::default(),
    };
    result.interfaces = vec![Interface {
        name: request.attachment.ifname.clone(),
        sandbox: netns.path().display().to_string(),
        ..Interface::default()
    }];
    Ok(result)
}

/// CHECK of what [`reserve`] did.
pub(crate) fn check_reserved(request: &Request) -> Result<(), CniError> {
    let shared: Shared = request.config()?;
    request.previous_result()?.ok_or_else(|| CniError::config("Required prevResult missing"))?;
    shared.ipam(request)?.map_or(Ok(()), |ipam| ipam.run(Command::Check, request))
}

/// An IPAM plugin's result, its addresses on the one interface that there is.
fn addressed(mut result: CniResult) -> Result<CniResult, CniError> {
    if result.ips.is_empty() {
        return Err(CniError::internal("IPAM plugin returned missing IP config"));
    }
    for ip in &mut result.ips {
        ip.interface = Some(0);
    }
    Ok(result)
}

fn finish(
    request: &Request,
    netns: &NetNs,
    link: &Link,
    given: Option<CniResult>,
) -> Result<CniResult, CniError> {
    let ifname = &request.attachment.ifname;
    let sandbox = netns.path().display().to_string();
    let interface = |link: &Link| Interface {
        name: ifname.clone(),
        mac: link.mac.to_string(),
        sandbox,
        ..Interface::default()
    };
    let Some(given) = given else {
        let pod = pod::bring_up(netns, ifname, false)?;
        return Ok(CniResult { interfaces: vec![interface(&pod.link)], ..CniResult::default() });
    };
    let mut result = addressed(given)?;
    // On a wire with others any of them may have the address: the kernel looks, unless it was told not to.
    let mut pod = pod::configure(netns, ifname, &result, Detection::AsTheKernelHasIt)?;
    pod.announce(netns, &result.ips);
    result.interfaces = vec![interface(link)];
    Ok(result)
}

/// DEL of interface and addresses.
pub(crate) fn del(
    request: &Request,
    unmake: impl FnOnce(&NetNs) -> Result<(), CniError>,
) -> Result<(), CniError> {
    let ipam: IpamType = request.key("ipam")?;
    let netns = NetNs::if_present(request.netns.as_deref())?;
    Ipam::del(ipam.find(request), request, || netns.map_or(Ok(()), |netns| unmake(&netns)))
}

/// Removes the pod's interface.
pub(crate) fn remove(request: &Request) -> impl FnOnce(&NetNs) -> Result<(), CniError> {
    let name = request.attachment.ifname.clone();
    move |netns| pod::remove(netns, &name)
}

/// CHECK: the interface is as `prevResult` says, and of this `kind` unless that is `None`. Returns it.
pub(crate) fn check(request: &Request, kind: Option<&str>) -> Result<Link, CniError> {
    let shared: Shared = request.config()?;
    let previous =
        request.previous_result()?.ok_or_else(|| CniError::config("Required prevResult missing"))?;
    if let Some(ipam) = shared.ipam(request)? {
        ipam.run(Command::Check, request)?;
    }
    let netns = NetNs::required(request.netns()?)?;
    let ifname = &request.attachment.ifname;
    let sandbox = netns.path().display().to_string();
    let ours = previous.interfaces.iter().position(|i| i.name == *ifname && i.sandbox == sandbox);
    let ours = ours.ok_or_else(|| {
        CniError::config(format!("prevResult has no interface {ifname} in sandbox {sandbox}"))
    })?;
    let mut expected = previous.clone();
    expected.ips.retain(|ip| ip.interface.is_none_or(|index| index == ours));
    let link = pod::check(&netns, ifname, &expected)?;
    if let Some(kind) = kind
        && link.kind != kind
    {
        return Err(CniError::internal(format!("Interface {ifname} is a {:?}, not a {kind}", link.kind)));
    }
    same_mac(&previous.interfaces[ours], &link)?;
    Ok(link)
}

/// The link is what `kind` makes.
pub(crate) fn check_kind(link: &Link, kind: Kind) -> Result<(), CniError> {
    if kind.is_of(link) {
        return Ok(());
    }
    let found = link.details.map_or_else(|| format!("{:?}", link.kind), |found| found.to_string());
    Err(CniError::internal(format!("Interface {} is a {found}, not a {kind}", link.name)))
}

/// The link has the hardware address that the result says, if it says one.
pub(crate) fn same_mac(reported: &Interface, found: &Link) -> Result<(), CniError> {
    if reported.mac.is_empty() || reported.mac.eq_ignore_ascii_case(&found.mac.to_string()) {
        return Ok(());
    }
    let Interface { name, mac, .. } = reported;
    Err(CniError::internal(format!("Interface {name} Mac {mac} doesn't match current {}", found.mac)))
}

/// GC: interfaces go with their namespaces; what is left is the IPAM plugin's.
pub(crate) fn gc(request: &Request) -> Result<(), CniError> {
    let ipam: IpamType = request.key("ipam")?;
    ipam.find(request)?.map_or(Ok(()), |ipam| ipam.run(Command::Gc, request))
}

/// STATUS: the IPAM plugin's.
pub(crate) fn status(request: &Request) -> Result<(), CniError> {
    let shared: Shared = request.config()?;
    shared
        .ipam(request)
        .map_err(|e| CniError { code: Code::NotAvailable, ..e })?
        .map_or(Ok(()), |ipam| ipam.run(Command::Status, request))
}

/// Finds the pod's interface, from inside.
pub(crate) fn find(route: &mut RouteSocket, name: &str) -> Result<Link, CniError> {
    route
        .link(name)
        .map_err(|e| e.during(format_args!("looking for {name:?}")))?
        .ok_or_else(|| CniError::internal(format!("Link not found: {name:?}")))
}

/// rtnetlink in the calling thread's namespace.
pub(crate) fn open() -> Result<RouteSocket, CniError> {
    RouteSocket::open().map_err(|e| e.during("opening rtnetlink"))
}
