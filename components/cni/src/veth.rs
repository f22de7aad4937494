//! veth pairs between host and pod, and the random names and addresses that new links get.

use crate::{
    netlink::{
        link::{Link, Mac, VethPair},
        route::RouteSocket,
    },
    netns::NetNs,
    protocol::error::CniError,
    sysctl,
};
use rustix::{fd::AsFd, io::Errno};
use std::{fs::File, io::Read, path::Path};

/// Makes a veth pair, both ends down: one here, if wanted as a port of the bridge `master`, the other in the pod
/// under its final name. Returns the end here.
pub(crate) fn create(
    route: &mut RouteSocket,
    master: Option<u32>,
    netns: &NetNs,
    pod_name: &str,
    pod_mac: Option<Mac>,
    mtu: Option<u32>,
) -> Result<Link, CniError> {
    loop {
        let name = random_name("veth")?;
        let pair = VethPair {
            host_name: &name,
            master,
            peer_name: pod_name,
            peer_netns: netns.as_fd(),
            peer_mac: pod_mac,
            mtu,
        };
        match route.add_veth(&pair) {
            Ok(()) => {}
            Err(error) if error.is(Errno::EXIST) => {
                let taken = netns.enter(|| {
                    let mut pod = RouteSocket::open().map_err(|e| e.during("opening rtnetlink"))?;
                    pod.link(pod_name).map_err(|e| e.during(format_args!("looking for {pod_name:?}")))
                })?;
                if taken.is_some() {
                    return Err(CniError::internal(format!(
                        "container veth name ({pod_name:?}) already exists"
                    )));
                }
                continue;
            }
            Err(error) => {
                return Err(
                    error.during(format_args!("creating veth pair {name:?} and {pod_name:?} in the pod"))
                );
            }
        }
        // A router advertisement from a pod is not to be believed.
        let _ = sysctl::ensure(&format!("net/ipv6/conf/{name}/accept_ra"), "0");
        let link = route.link(&name).map_err(|e| e.during(format_args!("looking for {name:?}")))?;
        return link.ok_or_else(|| CniError::internal(format!("{name:?} vanished while it was set up")));
    }
}

/// `prefix` and eight random hexadecimal digits.
pub(crate) fn random_name(prefix: &str) -> Result<String, CniError> {
    Ok(format!("{prefix}{:08x}", u32::from_ne_bytes(random()?)))
}

/// A random unicast address of the locally administered space.
pub(crate) fn random_mac() -> Result<Mac, CniError> {
    let mut bytes: [u8; 6] = random()?;
    bytes[0] = bytes[0] & 0xfe | 0x02;
    Ok(Mac(bytes))
}

fn random<const N: usize>() -> Result<[u8; N], CniError> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; N];
    File::open(path)
        .and_then(|mut f| f.read_exact(&mut bytes))
        .map_err(|e| CniError::io("reading", path, &e))?;
    Ok(bytes)
}
