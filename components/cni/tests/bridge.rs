//! `bridge` with `host-local`, in namespaces: what pods can reach, what CHECK sees, what DEL leaves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // Tests, helpers included.

mod lab;

use lab::{Host, Namespace, addresses};
use serde_json::{Value, json};

#[test]
fn two_pods_reach_each_other_and_the_host_over_both_families() {
    need_lab!();
    let host = Host::new();
    let network = host.network(json!({}));
    let (one, two) = (Namespace::new("one"), Namespace::new("two"));
    host.add(&network, &one);
    let result = host.add(&network, &two);
    assert_eq!(addresses(&result), ["10.77.0.3", "fd77::3"]);
    two.echo(80);
    host.netns.echo(81);
    for (pod, gateway, own) in [("10.77.0.3", "10.77.0.1", "10.77.0.2"), ("fd77::3", "fd77::1", "fd77::2")] {
        assert_eq!(one.tcp(pod, 80).unwrap().to_string(), own);
        assert_eq!(one.udp(pod, 80).unwrap().to_string(), own);
        assert_eq!(one.tcp(gateway, 81).unwrap().to_string(), own);
        assert_eq!(host.netns.tcp(pod, 80).unwrap().to_string(), gateway);
    }
}

#[test]
fn masquerading_hides_pods_from_the_world_but_not_from_each_other() {
    need_lab!();
    let host = Host::new();
    let world = host.neighbour();
    world.echo(80);
    let pod = Namespace::new("pod");
    let network = host.network(json!({"ipMasq": true}));
    let result = host.add(&network, &pod);
    assert_eq!(pod.tcp("192.0.2.2", 80).unwrap().to_string(), "192.0.2.1");
    assert_eq!(pod.udp("2001:db8::2", 80).unwrap().to_string(), "2001:db8::1");
    assert_eq!(host.check(&network, &pod, &result), "");
    if !host.netns.command("nft").arg("--version").output().is_ok_and(|o| o.status.success()) {
        println!("skipped in part: no `nft` program to take a rule away with");
        return;
    }
    let flushed =
        host.netns.command("nft").args(["flush", "chain", "inet", "cairn_cni", "masquerading"]).status();
    assert!(flushed.unwrap().success());
    assert!(host.check(&network, &pod, &result).contains("2 of 2 missing"));
    // Without the rules the world would have to know the way to the pod.
    assert!(pod.tcp("192.0.2.2", 80).is_err());
    host.del(&network, &pod);
}

#[test]
fn check_sees_every_difference() {
    need_lab!();
    let host = Host::new();
    let network = host.network(json!({}));
    let pod = Namespace::new("pod");
    let result = host.add(&network, &pod);
    assert_eq!(host.check(&network, &pod, &result), "");
    let mut other = result.clone();
    other["interfaces"][2]["mac"] = json!("02:00:00:00:00:01");
    assert!(host.check(&network, &pod, &other).contains("02:00:00:00:00:01"));
    assert!(host.check(&host.network(json!({"hairpinMode": false})), &pod, &result).contains("hairpin"));
    let (port, pod_ip) = (result["interfaces"][1]["name"].as_str().unwrap(), "10.77.0.2/24");
    for (namespace, breaking, mending, part) in [
        (&pod, "route del default", "route add default via 10.77.0.1", "0.0.0.0/0"),
        (&pod, "route replace default dev eth0", "route replace default via 10.77.0.1", "0.0.0.0/0"),
        (&pod, "addr del fd77::2/64 dev eth0", "addr add fd77::2/64 dev eth0 nodad", "fd77::2/64"),
        (
            &host.netns,
            &*format!("link set {port} nomaster"),
            &*format!("link set {port} master cni0"),
            "not a port",
        ),
        (&host.netns, &*format!("link set {port} down"), &*format!("link set {port} up"), "down"),
    ] {
        namespace.ip(breaking);
        let message = host.check(&network, &pod, &result);
        assert!(message.contains(part), "{breaking}: {message:?}");
        namespace.ip(mending);
    }
    // A port that comes back to the bridge has lost its settings.
    assert!(host.check(&network, &pod, &result).contains("hairpin"));
    pod.ip(&format!("addr del {pod_ip} dev eth0"));
    assert!(host.check(&network, &pod, &result).contains(pod_ip));
    let reservation = host.directory.path().join("networks/pods/10.77.0.2");
    std::fs::write(reservation, "somebody else\r\neth0").unwrap();
    assert!(host.check(&network, &pod, &result).contains("10.77.0.2 is not reserved"));
}

#[test]
fn del_may_be_repeated_and_finds_half_made_states() {
    need_lab!();
    let host = Host::new();
    let network = host.network(json!({"ipMasq": true}));
    let pod = Namespace::new("pod");
    host.del(&network, &pod);
    host.add(&network, &pod);
    assert_eq!(host.reservations(), ["10.77.0.2", "fd77::2"]);
    host.del(&network, &pod);
    host.del(&network, &pod);
    assert!(host.reservations().is_empty());
    assert!(!pod.ip_succeeds("link show eth0"));
    // The interface is gone, the rest is not.
    host.add(&network, &pod);
    pod.ip("link del eth0");
    host.del(&network, &pod);
    assert!(host.reservations().is_empty());
    // The namespace is gone; then it is unknown; then its path is a plain file.
    let path = pod.path();
    let id = pod.name.clone();
    host.add(&network, &pod);
    drop(pod);
    host.cni("DEL", &network, &id, &path).unwrap();
    assert!(host.reservations().is_empty());
    host.cni("DEL", &network, &id, "".as_ref()).unwrap();
    host.cni("DEL", &network, &id, "/etc/hostname".as_ref()).unwrap();
}

#[test]
fn a_failed_add_leaves_nothing_and_says_why() {
    need_lab!();
    let host = Host::new();
    let links = |host: &Host| host.netns.ip_json("link show type veth").as_array().unwrap().len();
    let code = |outcome: Result<Value, Value>| {
        let error = outcome.unwrap_err();
        (error["code"].as_u64().unwrap(), error["msg"].as_str().unwrap().to_owned())
    };
    let pod = Namespace::new("pod");
    // No address left in the second set: the first is given back.
    let full = json!({"ipam": {"ranges": [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd77::/126", "rangeEnd": "fd77::1"}]]}});
    let (number, message) = code(host.cni("ADD", &host.network(full), "c1", &pod.path()));
    assert!(number == 999 && message.contains("range 1: no IP addresses available"), "{number} {message}");
    assert_eq!((links(&host), host.reservations().len()), (0, 0));
    // The pod has an interface of that name.
    let network = host.network(json!({}));
    pod.ip("link add eth0 type veth peer name eth1");
    let (number, message) = code(host.cni("ADD", &network, "c1", &pod.path()));
    assert!(number == 999 && message.contains("already exists"), "{number} {message}");
    assert_eq!((links(&host), host.reservations().len()), (0, 0));
    pod.ip("link del eth0");
    // The bridge has another address, then one may be replaced.
    host.netns.ip("addr add 10.99.0.1/16 dev cni0");
    let (number, message) = code(host.cni("ADD", &network, "c1", &pod.path()));
    assert!(number == 999 && message.contains("already has an IP address"), "{number} {message}");
    assert_eq!((links(&host), host.reservations().len()), (0, 0));
    host.add(&host.network(json!({"forceAddress": true})), &pod);
    // Twice the same attachment.
    let (_, message) = code(host.cni("ADD", &network, &pod.name, &pod.path()));
    assert!(message.contains("already exists"), "{message}");
    assert_eq!(host.reservations().len(), 2, "the first ADD's addresses are untouched");
    // No such namespace; and the host's own.
    assert_eq!(code(host.cni("ADD", &network, "c2", "/run/netns/nothing".as_ref())).0, 8);
    assert_eq!(code(host.cni("ADD", &network, "c2", &host.netns.path())).0, 8);
    // A bridge that is none; an IPAM plugin that is not there.
    let message = code(host.cni("ADD", &host.network(json!({"bridge": "lo"})), "c2", &pod.path())).1;
    assert!(message.contains("not a bridge"), "{message}");
    let message =
        code(host.cni("ADD", &host.network(json!({"ipam": {"type": "nothing"}})), "c2", &pod.path())).1;
    assert!(message.contains("failed to find plugin"), "{message}");
}

#[test]
fn thirty_two_pods_at_once() {
    need_lab!();
    let host = Host::new();
    let network = host.network(json!({"ipMasq": true}));
    let pods: Vec<Namespace> = (0..32).map(|n| Namespace::new(&format!("p{n}"))).collect();
    let add = |pod| host.add(&network, pod);
    let results: Vec<Value> = std::thread::scope(|scope| {
        let workers: Vec<_> = pods.iter().map(|pod| scope.spawn(move || add(pod))).collect();
        workers.into_iter().map(|w| w.join().unwrap()).collect()
    });
    let mut all: Vec<String> = results.iter().flat_map(addresses).collect();
    all.sort();
    all.dedup();
    assert_eq!((all.len(), host.reservations()), (64, all));
    for (pod, result) in pods.iter().zip(&results) {
        assert_eq!(host.check(&network, pod, result), "");
    }
    let del = |pod| host.del(&network, pod);
    std::thread::scope(|scope| {
        for pod in &pods {
            scope.spawn(move || del(pod));
        }
    });
    assert!(host.reservations().is_empty());
    assert!(host.netns.ip_json("link show type veth").as_array().unwrap().is_empty());
}

#[test]
fn garbage_collection_keeps_what_is_valid() {
    need_lab!();
    let host = Host::new();
    let network = host.network(json!({"cniVersion": "1.1.0", "ipMasq": true}));
    let (keep, lose) = (Namespace::new("keep"), Namespace::new("lose"));
    let result = host.add(&network, &keep);
    let lost = host.add(&network, &lose);
    let mut gc = network.clone();
    gc["cni.dev/valid-attachments"] = json!([{"containerID": keep.name, "ifname": "eth0"}]);
    host.cni("GC", &gc, "", "".as_ref()).unwrap();
    assert_eq!(host.reservations(), ["10.77.0.2", "fd77::2"]);
    assert_eq!(host.check(&network, &keep, &result), "");
    assert_ne!(host.check(&network, &lose, &lost), "");
    host.cni("STATUS", &network, "", "".as_ref()).unwrap();
    let error = host.cni(
        "STATUS",
        &host.network(json!({"cniVersion": "1.1.0", "ipam": {"type": "x"}})),
        "",
        "".as_ref(),
    );
    assert_eq!(error.unwrap_err()["code"], 50);
}

#[test]
fn settings_of_the_pods_interface() {
    need_lab!();
    let host = Host::new();
    let pod = Namespace::new("pod");
    let network = host.network(json!({
        "mtu": 1400, "enabledad": true, "runtimeConfig": {"mac": "02:11:22:33:44:55", "ips": ["10.77.0.42/24"]},
        "dns": {"nameservers": ["192.0.2.53"]},
        "ipam": {"routes": [{"dst": "198.51.100.0/24"}, {"dst": "203.0.113.0/24", "gw": "10.77.0.7"}]}
    }));
    let result = host.add(&network, &pod);
    assert_eq!(addresses(&result), ["10.77.0.42", "fd77::2"]);
    assert_eq!(result["interfaces"][2]["mac"], "02:11:22:33:44:55");
    assert_eq!(result["dns"], json!({"nameservers": ["192.0.2.53"]}));
    assert_eq!(host.check(&network, &pod, &result), "");
    let link = &pod.ip_json("link show eth0")[0];
    assert_eq!((&link["mtu"], &link["address"]), (&json!(1400), &json!("02:11:22:33:44:55")));
    let routes = pod.ip("route");
    assert!(
        routes.contains("198.51.100.0/24 via 10.77.0.1") && routes.contains("203.0.113.0/24 via 10.77.0.7")
    );
}

#[test]
fn layer_two_only_and_loopback() {
    need_lab!();
    let host = Host::new();
    let pod = Namespace::new("pod");
    let mut network = host.network(json!({}));
    network.as_object_mut().unwrap().remove("ipam");
    let result = host.add(&network, &pod);
    assert!(result.get("ips").is_none() && result["interfaces"].as_array().unwrap().len() == 3);
    assert_eq!(host.check(&network, &pod, &result), "");
    host.del(&network, &pod);

    let loopback = json!({"cniVersion": "1.0.0", "name": "lo", "type": "loopback"});
    pod.ip("link set lo down");
    let result = host.add(&loopback, &pod);
    assert_eq!(addresses(&result), ["127.0.0.1", "::1"]);
    assert_eq!(host.check(&loopback, &pod, &result), "");
    host.del(&loopback, &pod);
    assert!(host.check(&loopback, &pod, &result).contains("down"));
}

#[test]
fn another_ipam_plugin_is_asked_as_the_specification_says() {
    need_lab!();
    let host = Host::new();
    let pod = Namespace::new("pod");
    let ipam = host.directory.path().join("bin/other-ipam");
    let script = format!(
        "#!/bin/sh\ncat > {0}/stdin.$CNI_COMMAND\necho $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME >> {0}/calls\n\
         [ -e {0}/fail ] && {{ echo '{{\"cniVersion\":\"1.0.0\",\"code\":11,\"msg\":\"later\"}}'; exit 1; }}\n\
         [ $CNI_COMMAND = ADD ] && echo '{{\"cniVersion\":\"1.0.0\",\"ips\":[{{\"address\":\"10.78.0.9/24\"}}]}}'\nexit 0\n",
        host.directory.path().display()
    );
    std::fs::write(&ipam, script).unwrap();
    std::fs::set_permissions(&ipam, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let network = host.network(json!({"ipam": {"type": "other-ipam"}}));
    let result = host.add(&network, &pod);
    assert_eq!(result["ips"], json!([{"interface": 2, "address": "10.78.0.9/24", "gateway": "10.78.0.1"}]));
    assert_eq!(host.check(&network, &pod, &result), "");
    host.del(&network, &pod);
    let read = |name: &str| std::fs::read_to_string(host.directory.path().join(name)).unwrap();
    let line = |command| format!("{command} {} eth0\n", pod.name);
    assert_eq!(read("calls"), [line("ADD"), line("CHECK"), line("DEL")].concat());
    assert_eq!(serde_json::from_str::<Value>(&read("stdin.ADD")).unwrap(), network);
    std::fs::write(host.directory.path().join("fail"), "").unwrap();
    let error = host.cni("ADD", &network, &pod.name, &pod.path()).unwrap_err();
    assert_eq!((&error["code"], &error["msg"]), (&json!(11), &json!("later")));
}
