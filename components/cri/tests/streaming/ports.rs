//! Forwarded ports.

use crate::{
    node::Node,
    support::{
        PATIENCE,
        calls::{remove_pod, run_pod},
        obstacle, unless,
    },
};
use cairn_streaming::Runtime as _;
use std::{fs, net::TcpListener, os::fd::AsFd, path::Path};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    time::timeout,
};

/// Serves one connection in a network namespace: what comes goes back.
fn echo_in(namespace: &Path, address: &'static str) {
    let (tell, told) = std::sync::mpsc::channel();
    let namespace = fs::File::open(namespace).unwrap();
    std::thread::spawn(move || {
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind)).unwrap();
        let listener = TcpListener::bind(address).unwrap();
        tell.send(()).unwrap();
        let (mut socket, _) = listener.accept().unwrap();
        std::io::copy(&mut socket.try_clone().unwrap(), &mut socket).unwrap();
    });
    told.recv().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_are_forwarded_into_the_pod() {
    unless!(obstacle());
    let (node, mut caller) = Node::new().await;
    let pod = run_pod(&mut caller, node.pod("ports")).await;
    let namespace = cairn_cri::shim::sandbox::namespace_path(&node.path("r/pods").join(&pod), "net");
    // Both listen where nobody outside the pod can reach them.
    for address in ["127.0.0.1:7007", "[::1]:7008"] {
        echo_in(&namespace, address);
    }
    for port in [7007, 7008] {
        let (client, daemon) = duplex(1 << 10);
        let (input, output) = tokio::io::split(daemon);
        let (runtime, sandbox) = (node.runtime.clone(), pod.clone());
        let forwarding = tokio::spawn(async move {
            runtime.port_forward(sandbox, port, (Box::new(input), Box::new(output))).await
        });
        let (mut reader, mut writer) = tokio::io::split(client);
        let many: Vec<u8> = (0..500_000_u32).map(|at| (at % 253) as u8).collect();
        let sent = many.clone();
        let sending = tokio::spawn(async move {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
        });
        let mut back = Vec::new();
        timeout(PATIENCE, reader.read_to_end(&mut back)).await.unwrap().unwrap();
        assert!(back == many, "port {port}: {} bytes", back.len());
        sending.await.unwrap();
        assert_eq!(timeout(PATIENCE, forwarding).await.unwrap().unwrap(), Ok(()));
    }
    let (_client, daemon) = duplex(64);
    let (input, output) = tokio::io::split(daemon);
    let refused =
        node.runtime.port_forward(pod.clone(), 7009, (Box::new(input), Box::new(output))).await.unwrap_err();
    assert!(refused.contains("localhost:7009") && refused.contains("connection refused"), "{refused}");
    let (_client, daemon) = duplex(64);
    let (input, output) = tokio::io::split(daemon);
    let missing =
        node.runtime.port_forward("none".into(), 1, (Box::new(input), Box::new(output))).await.unwrap_err();
    assert!(missing.contains("not found"), "{missing}");
    remove_pod(&mut caller, &pod).await;
    assert_eq!(node.leaks(), Vec::<String>::new());
}
