//! A pod between a gateway that is named and a router that advertises itself.

use super::*;
use cairn_cni::{netns::NetNs, protocol::error::CniError};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with, sockopt};
use std::{
    net::{Ipv6Addr, SocketAddrV6},
    path::Path,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A named network namespace, gone when dropped.
struct Namespace(String);

impl Namespace {
    fn new(role: &str) -> Result<Self, String> {
        let namespace = Self(format!("cairn-{}-{role}", std::process::id()));
        ip(&format!("netns add {}", namespace.0)).map(|()| namespace)
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.0)
    }

    fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        NetNs::open(&self.path()).unwrap().enter(|| Ok::<_, CniError>(work())).unwrap()
    }

    /// Next hops of the default routes through links, with the links' names.
    fn default_routes(&self) -> Vec<(String, IpAddr)> {
        self.enter(|| {
            let mut socket = RouteSocket::open().unwrap();
            let mut found = Vec::new();
            for route in socket.routes().unwrap() {
                if let (0, Some(link), Some(gateway)) = (route.dst.prefix, route.link, route.gateway) {
                    found.push((socket.link_by_index(link).unwrap().name, gateway));
                }
            }
            found
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&format!("netns del {}", self.0));
    }
}

fn ip(words: &str) -> Result<(), String> {
    let output =
        Command::new("ip").args(words.split(' ')).output().map_err(|error| format!("ip: {error}"))?;
    let failed = || format!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim());
    output.status.success().then_some(()).ok_or_else(failed)
}

/// A pod with `eth0` and, where the router is, `net1`; or why there is none here.
fn stage() -> Result<(Namespace, Namespace), String> {
    let (pod, router) = (Namespace::new("pod")?, Namespace::new("router")?);
    for (link, far) in [("eth0", "gateway"), ("net1", "wire")] {
        ip(&format!("-n {} link add {link} type veth peer name {far} netns {}", pod.0, router.0))?;
    }
    // The router need not wait for its address.
    router.enter(|| sysctl::ensure("net/ipv6/conf/wire/accept_dad", "0")).map_err(|e| e.to_string())?;
    for (namespace, link) in [(&pod, "eth0"), (&pod, "net1"), (&router, "gateway"), (&router, "wire")] {
        ip(&format!("-n {} link set {link} up", namespace.0))?;
    }
    ip(&format!("-n {} addr add 192.0.2.2/24 dev eth0", pod.0))?;
    ip(&format!("-n {} addr add 2001:db8::2/64 dev eth0 nodad", pod.0))?;
    Ok((pod, router))
}

/// Advertises the router until the pod has taken the advertisement in: then it has the retransmission time that is in it.
fn advertise(router: &Namespace, pod: &Namespace, retransmit_ms: u32) {
    let taken = || pod.enter(|| sysctl::read("net/ipv6/neigh/net1/retrans_time_ms")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while taken() != retransmit_ms.to_string() {
        // The router's own address may be a moment late.
        let sent = router.enter(|| send_advertisement(retransmit_ms));
        assert!(Instant::now() < deadline, "no advertisement is taken: {sent:?}");
        sleep(Duration::from_millis(20));
    }
}

/// RFC 4861, 4.2: a router for half an hour. The kernel does the checksum.
fn send_advertisement(retransmit_ms: u32) -> io::Result<()> {
    const ROUTER_ADVERTISEMENT: u8 = 134;
    let mut message = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, 64, 0];
    message.extend(1800_u16.to_be_bytes());
    message.extend([0; 4]);
    message.extend(retransmit_ms.to_be_bytes());
    let socket =
        socket_with(AddressFamily::INET6, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::ICMPV6))?;
    sockopt::set_ipv6_multicast_hops(&socket, 255)?;
    let wire = RouteSocket::open().and_then(|mut socket| socket.link("wire")).map_err(io::Error::other)?;
    let to = SocketAddrV6::new(ALL_NODES, 0, 0, wire.ok_or(io::ErrorKind::NotFound)?.index);
    sendto(&socket, &message, SendFlags::empty(), &to)?;
    Ok(())
}

#[tokio::test]
async fn an_advertised_default_route_gives_way_to_a_named_one() {
    let (pod, router) = match stage() {
        Ok(stage) => stage,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let through = |link: &str| {
        let routes = pod.default_routes().into_iter();
        routes.filter(|one| one.0 == link).map(|one| one.1.to_string()).collect::<Vec<_>>()
    };
    advertise(&router, &pod, 2000);
    let advertised = through("net1");
    assert_eq!(advertised.len(), 1, "an advertisement makes a default route: {advertised:?}");

    let move_to = |gateway: &str| move_to(pod.path(), "eth0".to_owned(), vec![gateway.parse().unwrap()]);
    move_to("192.0.2.1").await.unwrap();
    assert_eq!(
        (through("eth0"), through("net1")),
        (vec!["192.0.2.1".to_owned()], advertised),
        "the other family"
    );

    move_to("2001:db8::1").await.unwrap();
    advertise(&router, &pod, 3000);
    assert_eq!(through("eth0"), ["192.0.2.1", "2001:db8::1"]);
    assert_eq!(through("net1"), [""; 0]);
}
