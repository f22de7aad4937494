//! The daemon as systemd meets it: ready, alive, stopping.

#![allow(clippy::unwrap_used)]

mod support;

use cairn_contract::cri;
use std::os::unix::net::UnixDatagram;
use support::{
    calls::{remove_pod, run, run_pod, status},
    node::Node,
    obstacle,
    pods::container,
    unless,
};

/// The next message to systemd that contains `text`.
fn told(systemd: &UnixDatagram, text: &str) {
    let mut buffer = [0; 4096];
    loop {
        let length = systemd.recv(&mut buffer).unwrap_or_else(|error| panic!("no {text}: {error}"));
        if String::from_utf8_lossy(&buffer[..length]).contains(text) {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn systemd_hears_that_the_daemon_lives_and_stops() {
    unless!(obstacle());
    let mut node = Node::new();
    let socket = node.path("systemd");
    let systemd = UnixDatagram::bind(&socket).unwrap();
    systemd.set_read_timeout(Some(support::PATIENCE)).unwrap();
    node.environment = vec![
        ("NOTIFY_SOCKET".into(), socket.display().to_string()),
        ("WATCHDOG_USEC".into(), "400000".into()),
    ];
    let mut client = node.start().await;
    tokio::task::block_in_place(|| {
        told(&systemd, "READY=1");
        told(&systemd, "WATCHDOG=1");
    });
    let pod = run_pod(&mut client, node.pod("a")).await;
    let id = run(&mut client, &pod, container("runs", "sleep 1000")).await;
    tokio::task::block_in_place(|| told(&systemd, "WATCHDOG=1"));

    // A kubelet that listens to events does not hold the daemon up, and what runs, runs on.
    let mut events = client.get_container_events(cri::GetEventsRequest {}).await.unwrap().into_inner();
    let ended = tokio::task::block_in_place(|| node.terminate());
    assert!(ended.success(), "{ended}: {}", node.log());
    while let Ok(Some(_)) = events.message().await {}
    tokio::task::block_in_place(|| told(&systemd, "STOPPING=1"));
    assert!(!node.path("cri.sock").exists());
    let mut client = node.start().await;
    assert_eq!(status(&mut client, &id).await.state(), cri::ContainerState::ContainerRunning);
    remove_pod(&mut client, &pod).await;
    assert_eq!(node.leaks(), Vec::<String>::new());
}
