//! `portmap` behind `bridge`: every way to a forwarded port, and none when it is gone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // Tests, helpers included.

mod lab;

use lab::{Host, Namespace};
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketType, sockopt};
use serde_json::{Value, json};
use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::OwnedFd,
    time::Duration,
};

struct Setup {
    host: Host,
    world: Namespace,
    pod: Namespace,
    other: Namespace,
    portmap: Value,
    result: Value,
}

fn setup(settings: Value, mappings: Value) -> Setup {
    let host = Host::new();
    let world = host.neighbour();
    // The world knows no way to pods: answers come back only through the host's translation.
    let network = host.network(json!({"ipMasq": true}));
    let (pod, other) = (Namespace::new("pod"), Namespace::new("other"));
    let result = host.add(&network, &pod);
    host.add(&network, &other);
    pod.echo(80);
    let mut portmap = json!({"cniVersion": "1.0.0", "name": "pods", "type": "portmap",
                             "runtimeConfig": {"portMappings": mappings}, "prevResult": result});
    portmap.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    assert_eq!(host.add(&portmap, &pod), result, "the result is passed on");
    Setup { host, world, pod, other, portmap, result }
}

fn mapping(port: u16, protocol: &str) -> Value {
    json!({"hostPort": port, "containerPort": 80, "protocol": protocol})
}

#[test]
fn a_port_is_reached_from_everywhere_over_both_families() {
    need_lab!();
    let s = setup(json!({}), json!([mapping(8080, "tcp"), mapping(8080, "udp")]));
    for address in ["192.0.2.1", "2001:db8::1"] {
        let own = address.replace(".1", ".2").replace("::1", "::2");
        assert_eq!(s.world.tcp(address, 8080).unwrap().to_string(), own, "the source is kept");
        assert_eq!(s.world.udp(address, 8080).unwrap().to_string(), own);
        s.host.netns.tcp(address, 8080).unwrap();
        s.pod.tcp(address, 8080).unwrap();
        s.other.tcp(address, 8080).unwrap();
        s.other.udp(address, 8080).unwrap();
    }
    s.other.tcp("10.77.0.1", 8080).unwrap();
    s.host.netns.tcp("127.0.0.1", 8080).unwrap();
    assert_eq!(s.host.check(&s.portmap, &s.pod, &s.result), "");

    s.host.del(&s.portmap, &s.pod);
    s.host.del(&s.portmap, &s.pod);
    assert!(s.world.tcp("192.0.2.1", 8080).is_err());
    assert!(s.host.check(&s.portmap, &s.pod, &s.result).contains("hostports"));
}

#[test]
fn a_host_address_and_conditions_narrow_it() {
    need_lab!();
    let mut one = mapping(8081, "tcp");
    one["hostIP"] = json!("192.0.2.1");
    let mut v6 = mapping(8082, "tcp");
    v6["hostIP"] = json!("::");
    let s =
        setup(json!({"conditionsV4": ["!", "-s", "192.0.2.2/32"]}), json!([one, v6, mapping(8083, "tcp")]));
    s.other.tcp("192.0.2.1", 8081).unwrap();
    assert!(s.other.tcp("10.77.0.1", 8081).is_err());
    s.other.tcp("2001:db8::1", 8082).unwrap();
    assert!(s.other.tcp("192.0.2.1", 8082).is_err());
    s.other.tcp("192.0.2.1", 8083).unwrap();
    s.world.tcp("2001:db8::1", 8083).unwrap();
    assert!(s.world.tcp("192.0.2.1", 8083).is_err(), "its condition is not met");
}

#[test]
fn sources_are_rewritten_always_or_never() {
    need_lab!();
    let s = setup(json!({"masqAll": true}), json!([mapping(8080, "tcp")]));
    assert_eq!(s.world.tcp("192.0.2.1", 8080).unwrap().to_string(), "10.77.0.1");
    assert_eq!(s.host.check(&s.portmap, &s.pod, &s.result), "");
    let s = setup(json!({"snat": false}), json!([mapping(8080, "tcp")]));
    assert_eq!(s.world.tcp("192.0.2.1", 8080).unwrap().to_string(), "192.0.2.2");
    assert!(s.host.netns.tcp("127.0.0.1", 8080).is_err());
    assert_eq!(s.host.check(&s.portmap, &s.pod, &s.result), "");
}

#[test]
fn sctp_is_forwarded_and_answered() {
    need_lab!();
    let s = setup(json!({}), json!([mapping(8080, "sctp")]));
    assert_eq!(s.host.check(&s.portmap, &s.pod, &s.result), "");
    // No SCTP in this kernel is needed: what is on the wire is read and written raw.
    let raw = |namespace: &Namespace| {
        let socket = namespace
            .enter(|| Ok(net::socket(AddressFamily::INET, SocketType::RAW, Some(net::ipproto::SCTP))?));
        let socket = socket.unwrap();
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(Duration::from_secs(5))).unwrap();
        socket
    };
    let (client, server) = (raw(&s.world), raw(&s.pod));
    // Its port is in what is sent.
    let send = |socket: &OwnedFd, to: &str, packet: &[u8]| {
        let to = SocketAddrV4::new(to.parse().unwrap(), 0);
        net::sendto(socket, packet, SendFlags::empty(), &to).unwrap();
    };
    let receive = |socket: &OwnedFd| {
        let mut buffer = [0; 200];
        let (_, length) = net::recv(socket, &mut buffer[..], RecvFlags::empty()).unwrap();
        let header = usize::from(buffer[0] & 0xf) * 4;
        let source: [u8; 4] = buffer[12..16].try_into().unwrap();
        (Ipv4Addr::from(source).to_string(), buffer[header..length].to_vec())
    };
    send(&client, "192.0.2.1", &sctp(4000, 8080, INIT, 0));
    assert_eq!(receive(&server), ("192.0.2.2".to_owned(), sctp(4000, 80, INIT, 0)));
    send(&server, "192.0.2.2", &sctp(80, 4000, INIT_ACK, TAG));
    assert_eq!(receive(&client), ("192.0.2.1".to_owned(), sctp(8080, 4000, INIT_ACK, TAG)));
    s.host.del(&s.portmap, &s.pod);
    send(&client, "192.0.2.1", &sctp(4001, 8080, INIT, 0));
    sockopt::set_socket_timeout(&server, sockopt::Timeout::Recv, Some(Duration::from_millis(300))).unwrap();
    let heard = net::recv(&server, &mut [0; 200][..], RecvFlags::empty());
    assert!(heard.is_err(), "{heard:?}");
}

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
/// What the client wants to be called.
const TAG: u32 = 7;

/// A packet of one chunk that asks for an association, or grants it (RFC 9260, 3.1, 3.3.2 and 3.3.3).
fn sctp(from: u16, to: u16, chunk: u8, tag: u32) -> Vec<u8> {
    let mut packet = Vec::from(from.to_be_bytes());
    packet.extend(to.to_be_bytes());
    packet.extend(tag.to_be_bytes());
    packet.extend([0; 4]);
    // Its type, flags and length; the sender's own tag, window, streams out and in, first sequence number.
    packet.extend([chunk, 0, 0, 20]);
    packet.extend(TAG.to_be_bytes());
    packet.extend([0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 9]);
    let sum = crc32c(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    packet
}

/// RFC 9260, appendix A.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[test]
fn a_udp_client_that_goes_on_finds_the_new_owner() {
    need_lab!();
    let s = setup(json!({}), json!([mapping(8080, "udp")]));
    s.other.echo(80);
    let socket = s.world.enter(|| std::net::UdpSocket::bind("0.0.0.0:4000")).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
    let ask = || {
        socket.send_to(b"hello", "192.0.2.1:8080")?;
        socket.recv_from(&mut [0; 100])
    };
    ask().unwrap();
    s.host.del(&s.portmap, &s.pod);
    s.pod.ip("link set eth0 down");
    assert!(ask().is_err());
    let mut result = s.result.clone();
    result["ips"][0]["address"] = json!("10.77.0.3/24");
    result["interfaces"][2]["sandbox"] = json!(s.other.path());
    let mut portmap = s.portmap.clone();
    portmap["prevResult"] = result;
    s.host.add(&portmap, &s.other);
    ask().unwrap();
}

#[test]
fn nothing_to_forward_and_garbage() {
    need_lab!();
    let s = setup(json!({}), json!([mapping(8080, "tcp")]));
    let mut none = s.portmap.clone();
    none["runtimeConfig"] = json!({});
    assert_eq!(s.host.add(&none, &s.other), s.result);
    none.as_object_mut().unwrap().remove("prevResult");
    let error = s.host.cni("ADD", &none, "c", &s.pod.path()).unwrap_err();
    assert!(error["msg"].as_str().unwrap().contains("chained"), "{error}");
    // Rules go with the attachment even when the runtime no longer says which ports there were.
    none["cniVersion"] = json!("1.1.0");
    none["cni.dev/valid-attachments"] = json!([{"containerID": s.pod.name, "ifname": "eth0"}]);
    s.host.cni("GC", &none, "", "".as_ref()).unwrap();
    s.world.tcp("192.0.2.1", 8080).unwrap();
    none["cni.dev/valid-attachments"] = json!([]);
    s.host.cni("GC", &none, "", "".as_ref()).unwrap();
    assert!(s.world.tcp("192.0.2.1", 8080).is_err());
    s.host.cni("STATUS", &none, "", "".as_ref()).unwrap();
}
