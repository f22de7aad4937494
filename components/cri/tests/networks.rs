//! Pods on several networks, over gRPC, against the real daemon and shim and the reference CNI plugins, as root.
//!
//! No containers: the pod's network namespace is looked at from outside.

#![allow(clippy::unwrap_used)]

mod support;

use cairn_contract::cri;
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    process::{Command, Output},
    time::Duration,
};
use support::{
    calls::{Client, pods, remove_pod, run_pod, try_run_pod},
    network::PLUGINS,
    node::Node,
    unless, until,
};
use tonic::Code;

const ANNOTATION: &str = "k8s.v1.cni.cncf.io/networks";

/// Why a test cannot run here.
fn obstacle() -> Option<&'static str> {
    if !Path::new(PLUGINS).join("ptp").exists() {
        return Some("needs the reference CNI plugins in /usr/lib/cni (Debian: containernetworking-plugins)");
    }
    let tool = |name: &str| Command::new(name).arg("-V").output().is_ok();
    if !tool("ip") || !tool("nsenter") {
        return Some("needs ip and nsenter (Debian: iproute2, util-linux)");
    }
    support::obstacle()
}

/// A node whose default network connects the node and a pod.
fn node(subnet: &str) -> Node {
    let node = Node::without_network();
    node.network("net.d", "main", ptp(), &[subnet]);
    node
}

fn ptp() -> Value {
    json!({ "type": "ptp" })
}

/// A pod that asks for networks.
fn asking(node: &Node, name: &str, networks: &str) -> cri::PodSandboxConfig {
    let mut config = node.pod(name);
    config.annotations.insert(ANNOTATION.to_owned(), networks.to_owned());
    config
}

/// Runs `ip` inside a pod.
fn ip(node: &Node, pod: &str, words: &[&str]) -> Output {
    let namespace = node.path(&format!("r/pods/{pod}/ns/net"));
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", namespace.display())).args(["ip", "-j"]).args(words);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    output
}

/// What `ip` says inside a pod.
fn shown(node: &Node, pod: &str, words: &[&str]) -> Value {
    serde_json::from_slice(&ip(node, pod, words).stdout).unwrap()
}

/// A pod's addresses, and what a verbose status tells of its networks.
async fn status(client: &mut Client, pod: &str) -> (Vec<String>, Value, Value) {
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: pod.into(), verbose: true };
    let status = client.pod_sandbox_status(request).await.unwrap().into_inner();
    let network = status.status.unwrap().network.unwrap();
    let addresses = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|ip| ip.ip));
    let parsed = |key: &str| serde_json::from_str::<Value>(&status.info[key]).unwrap();
    (addresses.collect(), parsed("networkStatus"), parsed("info")["networkCheck"].clone())
}

/// Routes of the host into the networks of one test: there is one for each link of a pod.
fn routes_to(prefix: &str) -> Vec<String> {
    let output = Command::new("ip").args(["-j", "route"]).output().unwrap();
    let routes: Value = serde_json::from_slice(&output.stdout).unwrap();
    let destinations =
        routes.as_array().unwrap().iter().map(|route| route["dst"].as_str().unwrap().to_owned());
    destinations.filter(|destination| destination.starts_with(prefix)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_has_the_networks_it_asks_for_and_leaves_nothing() {
    unless!(obstacle());
    let mut node = node("10.199.20.0/24");
    for (index, name) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        node.network("networks.d", name, ptp(), &[&format!("10.199.{}.0/24", 21 + index)]);
    }
    let mut client = node.start().await;
    let asked = json!([{ "name": "a", "interface": "data0", "ips": ["10.199.21.77"] }, { "name": "b" }, { "name": "c" },
        { "name": "d", "default-route": ["10.199.24.1"] }, { "name": "e" }]);
    let pod = run_pod(&mut client, asking(&node, "many", &asked.to_string())).await;

    let (addresses, told, checked) = status(&mut client, &pod).await;
    assert!(
        addresses.len() == 1 && addresses[0].starts_with("10.199.20."),
        "only the default network's: {addresses:?}"
    );
    let interfaces: Vec<&str> =
        told.as_array().unwrap().iter().map(|one| one["interface"].as_str().unwrap()).collect();
    assert_eq!(interfaces, ["eth0", "data0", "net2", "net3", "net4", "net5"]);
    assert_eq!(told[1]["ips"], json!(["10.199.21.77"]));
    assert_eq!(told[1]["name"], "default/a");
    let links_inside = shown(&node, &pod, &["link"]);
    let names: Vec<&str> =
        links_inside.as_array().unwrap().iter().map(|one| one["ifname"].as_str().unwrap()).collect();
    assert!(interfaces.iter().all(|name| names.contains(name)), "{names:?}");
    let routes = shown(&node, &pod, &["route", "show", "default"]);
    assert_eq!(routes.as_array().unwrap().len(), 1, "{routes}");
    assert_eq!((&routes[0]["dev"], &routes[0]["gateway"]), (&json!("net4"), &json!("10.199.24.1")));
    assert_eq!(checked.as_object().unwrap().len(), 6);
    // The reference's ptp compares routes only by their destination.
    assert!(checked.as_object().unwrap().values().all(|state| state == "OK"), "{checked}");
    assert_eq!(node.taken().len(), 6, "{:?}", node.taken());
    assert_eq!(routes_to("10.199.2").len(), 6);

    // Somebody damages an interface: the next daemon says so, and removal works all the same.
    ip(&node, &pod, &["link", "delete", "data0"]);
    node.kill();
    let mut client = node.start().await;
    // The new daemon looks at the pod by itself, and tells nothing meanwhile.
    let looked = async || Some(status(&mut client, &pod).await.2).filter(|checked| *checked != json!({}));
    let checked = until(looked, || format!("nobody looks at the pod: {}", node.log())).await;
    assert!(checked["data0"].as_str().unwrap().contains("ptp"), "{checked}");
    assert_eq!(checked["eth0"], "OK");
    remove_pod(&mut client, &pod).await;
    assert_eq!(node.taken(), Vec::<String>::new());
    assert_eq!(routes_to("10.199.2"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_fails_undoes_the_pod_and_mistakes_are_the_pods() {
    unless!(obstacle());
    let mut node = node("10.199.30.0/24");
    let broken = json!({ "type": "macvlan", "master": "nowhere0" });
    node.network("networks.d", "broken", broken, &["10.199.31.0/24"]);
    let mut client = node.start().await;
    let error = try_run_pod(&mut client, asking(&node, "wrong", "absent")).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    for part in [ANNOTATION, "default/absent", "there are: broken"] {
        assert!(error.message().contains(part), "{error}");
    }
    let error = try_run_pod(&mut client, asking(&node, "broken", "broken")).await.unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    for part in [ANNOTATION, "default/broken", "net1", "macvlan", "Link not found"] {
        assert!(error.message().contains(part), "{error}");
    }
    assert_eq!(node.taken(), Vec::<String>::new());
    assert_eq!(pods(&mut client).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_is_killed_while_a_plugin_runs_leaves_nothing() {
    unless!(obstacle());
    let mut node = node("10.199.40.0/24");
    // A plugin that is slow to take an address, and would take it when the daemon is long gone.
    let [begun, go] = ["begun", "go"].map(|name| node.path(name));
    let slow = format!(
        "#!/bin/sh\nif [ \"$CNI_COMMAND\" = ADD ]; then touch {}; until [ -e {} ]; do sleep 0.1; done; fi\n\
         exec {PLUGINS}/ptp\n",
        begun.display(),
        go.display()
    );
    node.program("bin/slow", &slow);
    node.network("networks.d", "late", json!({ "type": "slow" }), &["10.199.41.0/24"]);
    let mut client = node.start().await;
    let half = asking(&node, "half", "late");
    let running = tokio::spawn(async move { try_run_pod(&mut client, half).await });
    until(async || begun.exists().then_some(()), || format!("the plugin was not run: {}", node.log())).await;
    assert_eq!(node.taken().len(), 1, "the default network's");
    node.kill();
    assert!(running.await.unwrap().is_err());

    let mut client = node.start().await;
    assert!(node.log().contains("killing a plugin"), "{}", node.log());
    assert_eq!(pods(&mut client).await, []);
    assert_eq!(node.leaks(), Vec::<String>::new(), "nor does the plugin run");
    // It would take its address by now.
    fs::write(&go, "").unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(node.leaks(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_pods_have_the_kubelets_range() {
    unless!(obstacle());
    let mut node = node("10.199.50.0/24");
    let mut client = node.start().await;
    let tell = |range: &str| cri::UpdateRuntimeConfigRequest {
        runtime_config: Some(cri::RuntimeConfig {
            network_config: Some(cri::NetworkConfig { pod_cidr: range.to_owned() }),
        }),
    };
    let old = run_pod(&mut client, node.pod("old")).await;
    let refused = client.update_runtime_config(tell("10.199.51.0")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    client.update_runtime_config(tell("10.199.51.0/24")).await.unwrap();
    let new = run_pod(&mut client, node.pod("new")).await;
    node.kill();
    let mut client = node.start().await;
    let later = run_pod(&mut client, node.pod("later")).await;
    for (pod, subnet) in [(&old, "10.199.50."), (&new, "10.199.51."), (&later, "10.199.51.")] {
        let (addresses, ..) = status(&mut client, pod).await;
        assert!(addresses.len() == 1 && addresses[0].starts_with(subnet), "{addresses:?}");
    }
    for pod in [old, new, later] {
        remove_pod(&mut client, &pod).await;
    }
    assert_eq!(node.taken(), Vec::<String>::new());
}
