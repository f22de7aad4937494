//! `dhcp`: each side's plugin and daemon, and the same server for both.

use super::{Case, Need, RECENT, Running, Stage};
use crate::lab::eventually;
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Command, Stdio},
};

pub(super) fn leases() -> Vec<Case> {
    let needs = [Need::Plugin("dhcp"), Need::Program("dnsmasq"), Need::Kind("macvlan")];
    [(json!({}), None), (json!({"request": [{"option": "121"}]}), None), (json!({"priority": 70}), Some(RECENT))]
        .into_iter()
        .map(|(settings, recent)| {
            let case = Case::new("leases", format!("dhcp {settings}"), move |host| {
                let mut network = json!({"cniVersion": "1.0.0", "name": "pods", "type": "macvlan", "master": "uplink",
                    "ipam": {"type": "dhcp", "daemonSocketPath": host.directory.path().join("dhcp.sock")}});
                crate::lab::merge(&mut network["ipam"], settings.clone());
                vec![network]
            });
            case.needs(&needs).needs(recent.as_slice()).prepared(served).effect(held)
        })
        .collect()
}

fn records(stage: &Stage) -> PathBuf {
    stage.host.directory.path().join("dnsmasq.leases")
}

/// The neighbour has one address to give, and the host a daemon that asks for it.
fn served(stage: &Stage) -> Vec<Running> {
    let world = stage.world.as_ref().unwrap();
    let mut server = world.command("dnsmasq");
    server.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--port=0",
        "--interface=eth0",
        "--bind-interfaces",
    ]);
    server.args(["--no-ping", "--dhcp-range=192.0.2.30,192.0.2.30,10m", "--dhcp-option=3,192.0.2.2"]);
    server.args(["--dhcp-option=6,192.0.2.53", "--dhcp-option=15,example.org"]);
    server.args(["--dhcp-option=121,198.51.100.0/24,192.0.2.9,0.0.0.0/0,192.0.2.2"]);
    server.arg(format!("--dhcp-leasefile={}", records(stage).display())).stderr(Stdio::null());
    let socket = stage.host.directory.path().join("dhcp.sock");
    let mut daemon = Command::new(stage.host.plugin("dhcp"));
    daemon.args(["daemon", "-socketpath"]).arg(&socket).stderr(Stdio::null());
    let running = [server, daemon].map(|mut program| Running(program.spawn().unwrap()));
    eventually("the daemon listens", || UnixStream::connect(&socket).is_ok());
    // On port 67: the reference's client may never get over a first question that nobody hears.
    let ports = || world.enter(|| fs::read_to_string("/proc/thread-self/net/udp")).unwrap();
    eventually("the server listens", || ports().contains(":0043 "));
    running.into()
}

/// Whether the server knows of a lease, while there is one. It hears of the end of ours a moment after DEL; that of
/// 1.9.1 says so in its log, and dnsmasq hears nothing.
fn held(stage: &Stage) -> Value {
    let known = || fs::read_to_string(records(stage)).is_ok_and(|text| text.contains("192.0.2.30"));
    if stage.pod.ip("link show").contains("eth0") {
        return json!(known());
    }
    if stage.host.is_ours() {
        eventually("the lease is given back", || !known());
    }
    json!([])
}
