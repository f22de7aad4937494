//! `dhcp`: leases from real servers (busybox's udhcpd, dnsmasq), had, kept, lost and given back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // Tests, helpers included.

mod lab;

use lab::{Host, Namespace, addresses, eventually};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

/// A host whose `uplink` leads to a network with a DHCP server, and the host's daemon.
struct Site {
    host: Host,
    network: Namespace,
    server: Option<Child>,
    daemon: Option<Child>,
}

impl Drop for Site {
    fn drop(&mut self) {
        for child in [&mut self.server, &mut self.daemon].into_iter().filter_map(Option::as_mut) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Site {
    fn new() -> Self {
        let host = Host::new();
        let network = Namespace::new("network");
        host.netns.ip(&format!("link add uplink type veth peer name server netns {}", network.name));
        host.netns.ip("link set uplink up");
        network.ip("addr add 10.50.0.1/24 dev server");
        network.ip("addr add fd50::1/64 dev server nodad");
        network.ip("link set server up");
        let mut site = Self { host, network, server: None, daemon: None };
        site.start_daemon();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.host.directory.path().join(name)
    }

    fn start_daemon(&mut self) {
        self.start_patient("6s");
    }

    /// A daemon that looks for a lease for so long.
    fn start_patient(&mut self, patience: &str) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cairn-cni"));
        command.args(["dhcp", "daemon", "-resendtimeout", patience, "-timeout", "2s", "-socketpath"]);
        self.daemon = Some(command.arg(self.path("dhcp.sock")).spawn().unwrap());
        let socket = self.path("dhcp.sock");
        eventually("the daemon listens", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    }

    fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// udhcpd with one address to give, for so many seconds.
    fn serve(&mut self, seconds: u32) {
        let (config, leases) = (self.path("udhcpd.conf"), self.path("udhcpd.leases"));
        let text = format!(
            "start 10.50.0.10\nend 10.50.0.10\ninterface server\noption subnet 255.255.255.0\noption router 10.50.0.1\n\
             option lease {seconds}\nmin_lease 2\nlease_file {}\npidfile {}\n",
            leases.display(),
            self.path("udhcpd.pid").display()
        );
        fs::write(&config, text).unwrap();
        if !leases.exists() {
            fs::write(&leases, "").unwrap();
        }
        let mut server = self.network.command("busybox");
        // What it offers it asks for on the link before, by ARP: for a tenth of a second, not two.
        server.args(["udhcpd", "-f", "-a", "100"]).arg(config).stderr(Stdio::null()).stdout(Stdio::null());
        self.server = Some(server.spawn().unwrap());
    }

    fn dnsmasq(&mut self) {
        let mut server = self.network.command("dnsmasq");
        server.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=0",
            "--interface=server",
            "--no-ping",
        ]);
        server.args(["--dhcp-range=10.50.0.30,10.50.0.40,2m", "--dhcp-range=fd50::30,fd50::40,64,2m"]);
        server.args(["--dhcp-option=121,192.0.2.0/24,10.50.0.9,0.0.0.0/0,10.50.0.1", "--bind-interfaces"]);
        server.arg(format!("--dhcp-leasefile={}", self.path("dnsmasq.leases").display()));
        self.server = Some(server.stderr(Stdio::null()).spawn().unwrap());
    }

    fn stop_server(&mut self) {
        let mut server = self.server.take().unwrap();
        // It keeps its leases when it is asked to end.
        let pid = server.id().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
        server.wait().unwrap();
    }

    /// A network of pods that are on the server's link themselves.
    fn config(&self, ipam: Value) -> Value {
        let mut config = json!({"cniVersion": "1.1.0", "name": "leased", "type": "macvlan", "master": "uplink",
            "ipam": {"type": "dhcp", "daemonSocketPath": self.path("dhcp.sock")}});
        lab::merge(&mut config["ipam"], ipam);
        config
    }

    fn records(&self) -> Vec<String> {
        let records = fs::read_dir(self.path("dhcp.leases")).unwrap();
        records.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap_or_default()).collect()
    }
}

fn is_up(pod: &Namespace) -> bool {
    pod.ip_json("link show eth0")[0]["flags"].as_array().unwrap().contains(&json!("UP"))
}

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--help").output().is_ok_and(|o| o.status.success());
    if !found {
        println!("skipped: no program `{program}`");
    }
    found
}

#[test]
fn a_lease_is_had_renewed_and_given_back() {
    need_lab!();
    if !has("busybox") {
        return;
    }
    let mut site = Site::new();
    site.serve(6);
    let (pod, other) = (Namespace::new("pod"), Namespace::new("other"));
    let config = site.config(json!({"priority": 70}));
    let result = site.host.add(&config, &pod);
    assert_eq!(result["ips"][0]["address"], "10.50.0.10/24");
    assert_eq!(result["ips"][0]["gateway"], "10.50.0.1");
    assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0", "gw": "10.50.0.1", "priority": 70}]));
    assert_eq!(site.host.check(&config, &pod, &result), "");
    // What runtimes do twice has the same answer.
    let mut again = config.clone();
    again["type"] = json!("dhcp");
    assert_eq!(site.host.add(&again, &pod)["ips"][0]["address"], "10.50.0.10/24");

    let first = site.records();
    eventually("the lease is renewed", || site.records() != first);
    assert!(is_up(&pod));
    // The only address is taken, until it is given back: the server hears of it although the interface goes.
    site.kill_daemon();
    site.start_patient("1500ms");
    let error = site.host.cni("ADD", &config, "other", &other.path()).unwrap_err();
    assert!(error["msg"].as_str().unwrap().contains("no lease for other/leased/eth0"), "{error}");
    assert!(!other.ip_succeeds("link show eth0"));
    site.kill_daemon();
    site.start_daemon();
    site.stop_server();
    site.serve(600);
    eventually("the lease is a long one", || {
        site.records().iter().any(|record| record.contains("\"lifetime\":600"))
    });
    site.host.del(&config, &pod);
    site.host.del(&config, &pod);
    assert_eq!(addresses(&site.host.add(&config, &other)), ["10.50.0.10"]);
    site.host.del(&config, &other);
    assert!(site.records().is_empty());
}

#[test]
fn the_next_daemon_goes_on_where_the_last_was_killed() {
    need_lab!();
    if !has("busybox") {
        return;
    }
    let mut site = Site::new();
    site.serve(600);
    let (pod, gone, other) = (Namespace::new("pod"), Namespace::new("gone"), Namespace::new("other"));
    let config = site.config(json!({}));
    let result = site.host.add(&config, &pod);
    site.kill_daemon();
    let error = site.host.cni("DEL", &config, &pod.name, &pod.path()).unwrap_err();
    assert!(error["msg"].as_str().unwrap().contains("error dialing DHCP daemon"), "{error}");
    // DEL took the interface away. What the next daemon cannot look after it drops.
    site.start_daemon();
    let mut status = config.clone();
    status["type"] = json!("dhcp");
    site.host.cni("STATUS", &status, "", "".as_ref()).unwrap();
    assert_ne!(site.host.check(&config, &pod, &result), "");
    assert!(site.records().is_empty());
    site.stop_server();
    fs::remove_file(site.path("udhcpd.leases")).unwrap();
    site.serve(600);

    let result = site.host.add(&config, &gone);
    site.kill_daemon();
    site.start_daemon();
    assert_eq!(site.host.check(&config, &gone, &result), "");
    site.host.del(&config, &gone);
    assert_eq!(addresses(&site.host.add(&config, &other)), ["10.50.0.10"], "it was given back");
    // GC gives back what no runtime knows of.
    let mut gc = config.clone();
    gc["cni.dev/valid-attachments"] = json!([]);
    site.host.cni("GC", &gc, "", "".as_ref()).unwrap();
    assert!(site.records().is_empty());
}

#[test]
fn without_a_server_a_lease_ends_and_with_one_it_goes_on() {
    need_lab!();
    if !has("busybox") {
        return;
    }
    let mut site = Site::new();
    site.serve(6);
    let pod = Namespace::new("pod");
    let config = site.config(json!({}));
    let result = site.host.add(&config, &pod);
    site.stop_server();
    // Beyond T1: it has been asked in vain.
    sleep(Duration::from_millis(3500));
    let first = site.records();
    site.serve(6);
    eventually("the server that came back is asked", || site.records() != first);
    assert!(is_up(&pod));
    site.stop_server();
    eventually("the lease has ended", || !is_up(&pod));
    assert!(site.host.check(&config, &pod, &result).contains("no lease"));
    site.host.del(&config, &pod);
}

#[test]
fn both_families_options_and_classless_routes() {
    need_lab!();
    if !has("dnsmasq") {
        return;
    }
    let mut site = Site::new();
    site.dnsmasq();
    let pod = Namespace::new("pod");
    let config = site.config(json!({"families": ["ipv4", "ipv6"],
        "provide": [{"option": "host-name", "value": "web"}], "request": [{"option": "121"}]}));
    let result = site.host.add(&config, &pod);
    let all = addresses(&result);
    assert!(all[0].starts_with("10.50.0.3") || all[0] == "10.50.0.40", "{all:?}");
    assert!(all[1].starts_with("fd50::") && result["ips"][1]["address"].as_str().unwrap().ends_with("/128"));
    let routes = json!([{"dst": "192.0.2.0/24", "gw": "10.50.0.9"}, {"dst": "0.0.0.0/0", "gw": "10.50.0.1"}]);
    assert_eq!(result["routes"], routes);
    assert!(pod.ip("route show").contains("192.0.2.0/24 via 10.50.0.9"));
    assert_eq!(site.host.check(&config, &pod, &result), "");
    let leases = fs::read_to_string(site.path("dnsmasq.leases")).unwrap();
    let client: String =
        format!("{}/leased/eth0", pod.name).bytes().map(|byte| format!(":{byte:02x}")).collect();
    assert!(leases.contains(&format!("{} web 00{client}", all[0])), "{leases}");
    assert!(leases.contains(&all[1]), "{leases}");
    site.host.del(&config, &pod);
    let leases = || fs::read_to_string(site.path("dnsmasq.leases")).unwrap();
    eventually("both are given back", || !leases().contains(&all[0]) && !leases().contains(&all[1]));
}

#[test]
fn behind_a_bridge_there_is_a_lease_too() {
    need_lab!();
    if !has("busybox") {
        return;
    }
    let mut site = Site::new();
    site.serve(600);
    site.host.netns.ip("link add cni9 type bridge");
    site.host.netns.ip("link set uplink master cni9");
    site.host.netns.ip("link set cni9 up");
    let (pod, other) = (Namespace::new("pod"), Namespace::new("other"));
    let mut config = site.config(json!({}));
    lab::merge(&mut config, json!({"type": "bridge", "bridge": "cni9"}));
    let result = site.host.add(&config, &pod);
    assert_eq!(addresses(&result), ["10.50.0.10"]);
    site.network.echo(80);
    pod.tcp("10.50.0.1", 80).unwrap();
    assert_eq!(site.host.check(&config, &pod, &result), "");
    site.host.del(&config, &pod);
    assert_eq!(addresses(&site.host.add(&config, &other)), ["10.50.0.10"], "it was given back");
}

#[test]
fn nobody_keeps_a_lease_that_nobody_wants() {
    need_lab!();
    if !has("busybox") {
        return;
    }
    let mut site = Site::new();
    site.kill_daemon();
    site.start_patient("1500ms");
    let pod = Namespace::new("pod");
    pod.ip("link add eth0 type veth peer name far");
    let mut config = site.config(json!({}));
    config["type"] = json!("dhcp");
    let error = site.host.cni("ADD", &config, "c1", &pod.path()).unwrap_err();
    assert!(error["msg"].as_str().unwrap().contains("no server answers"), "{error}");
    // What makes no sense is refused before anybody is asked, and is no reason to keep the pod.
    let mut wrong = config.clone();
    wrong["ipam"]["provide"] = json!([{"option": "no-such-option", "value": "x"}]);
    let error = site.host.cni("ADD", &wrong, "c1", &pod.path()).unwrap_err();
    assert!(error["code"] == 7 && error["msg"].as_str().unwrap().contains("no-such-option"), "{error}");
    site.host.cni("DEL", &wrong, "c1", &pod.path()).unwrap();
    let nowhere = Path::new("/run/netns/cairn-there-is-none");
    assert_eq!(site.host.cni("ADD", &config, "c1", nowhere).unwrap_err()["code"], 8);
    site.host.cni("DEL", &config, "c1", nowhere).unwrap();
    // The plugin is killed while it waits: the daemon stops looking, and a new ADD may begin at once.
    let mut killed = Command::new("timeout");
    killed.args(["-s", "KILL", "0.5"]).arg(env!("CARGO_BIN_EXE_cairn-cni")).arg("dhcp");
    killed.envs([
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c2"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/n"),
    ]);
    let mut killed = killed.env("CNI_NETNS", pod.path()).stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut killed.stdin.take().unwrap(), config.to_string().as_bytes()).unwrap();
    assert!(!killed.wait().unwrap().success());
    let error = site.host.cni("ADD", &config, "c2", &pod.path()).unwrap_err();
    assert!(error["msg"].as_str().unwrap().contains("no server answers"), "{error}");
    site.kill_daemon();
    let error = site.host.cni("STATUS", &config, "", "".as_ref()).unwrap_err();
    assert_eq!(error["code"], 50);
}
