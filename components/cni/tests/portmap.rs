//! `portmap` behind `bridge`: every way to a forwarded port, and none when it is gone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // Tests, helpers included.

mod lab;

use lab::{Host, Namespace};
use serde_json::{Value, json};

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
