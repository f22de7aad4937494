//! Where a pod's default route goes, if an annotation says so (network CRD de-facto standard, `default-route`).
//!
//! No plugin does it: each knows only its own interface. So the runtime enters the pod's network namespace, on a thread
//! that ends there.
//!
//! A pod whose IPv6 default route is named gets no other one from router advertisements, which any network may carry that
//! it is on. Addresses it still takes from them, as pods do everywhere: plugins leave that to the kernel.

use cairn_cni::{
    netlink::{
        route::{NewRoute, RouteSocket},
        socket::NetlinkError,
    },
    network::IpNetwork,
    sysctl,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::{self, File},
    io,
    net::IpAddr,
    os::fd::AsFd,
    path::PathBuf,
};
use tokio::sync::oneshot;

/// Stack of the thread that enters the namespace, bytes.
const STACK: usize = 256 << 10;

/// Makes `gateways`, on `interface`, the only default next hops of their families.
///
/// # Errors
/// What the kernel refused, in words.
pub(super) async fn move_to(
    namespace: PathBuf,
    interface: String,
    gateways: Vec<IpAddr>,
) -> Result<(), String> {
    let (tell, told) = oneshot::channel();
    let work = move || {
        let entered = File::open(&namespace).and_then(|namespace| {
            Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
        });
        let moved = entered
            .map_err(|error| format!("cannot enter {}: {error}", namespace.display()))
            .and_then(|()| replace(&interface, &gateways));
        // Who asked may have gone.
        let _ = tell.send(moved);
    };
    let thread = std::thread::Builder::new().name("netns".to_owned()).stack_size(STACK).spawn(work);
    thread.map_err(|error| format!("cannot start a thread: {error}"))?;
    told.await.map_err(|_| "the thread in the pod's network namespace ended".to_owned())?
}

fn replace(interface: &str, gateways: &[IpAddr]) -> Result<(), String> {
    let failed = |what: String| move |error: NetlinkError| format!("{what}: {error}");
    let mut socket = RouteSocket::open().map_err(failed("cannot ask the kernel".to_owned()))?;
    let link = socket.link(interface).map_err(failed(format!("cannot find {interface}")))?;
    let link = link.ok_or_else(|| format!("the pod has no interface {interface}"))?.index;
    // First, so that no route comes once those that came are removed.
    if gateways.iter().any(IpAddr::is_ipv6) {
        take_none_advertised()
            .map_err(|error| format!("cannot keep default routes of router advertisements out: {error}"))?;
    }
    for route in socket.routes().map_err(failed("cannot list routes".to_owned()))? {
        let same_family = |gateway: &IpAddr| gateway.is_ipv4() == route.dst.address.is_ipv4();
        // Without link or next hop it is the kernel's own, `unreachable default` of IPv6.
        let ours = route.is_main() && route.dst.prefix == 0 && route.link.is_some();
        if ours && gateways.iter().any(same_family) {
            socket
                .delete_route(&route)
                .map_err(failed("cannot remove the pod's default route".to_owned()))?;
        }
    }
    for gateway in gateways {
        let route = NewRoute {
            dst: IpNetwork::everything(*gateway),
            gateway: Some(*gateway),
            link,
            table: None,
            priority: None,
            scope: None,
            source: None,
            mtu: None,
            advmss: None,
        };
        let what = format!(
            "cannot make {gateway} on {interface} the default next hop; is it in a range of that network?"
        );
        socket.add_route(&route).map_err(failed(what))?;
    }
    Ok(())
}

/// Has no interface, of now or later, take a default route from router advertisements (RFC 4861, 6.3.4; the kernel's
/// ip-sysctl, `accept_ra_defrtr`).
fn take_none_advertised() -> io::Result<()> {
    for interface in fs::read_dir("/proc/sys/net/ipv6/conf")? {
        let name = interface?.file_name();
        let parameter = format!("net/ipv6/conf/{}/accept_ra_defrtr", name.to_string_lossy());
        match sysctl::ensure(&parameter, "0") {
            // Gone meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => {
                outcome.map_err(|error| io::Error::other(format!("/proc/sys/{parameter}: {error}")))?
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
