//! A pod's port on the node's address: from outside, from the node and from another pod.

use crate::{
    node::PUBLISHED_PORT,
    peer::{Peer, Protocol},
    scenario::{Context, Needs, Scenario, Stop, check},
};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

pub(super) static SCENARIO: Scenario = Scenario {
    id: "port-map",
    title: "a host port leads into the pod, TCP and UDP, IPv4 and IPv6, and is closed with it",
    requirements: &["ra2.ntw.002", "ra2.ntw.013"],
    needs: Needs::Shared,
    budget: 2,
    run: |context| Box::pin(run(context)),
};

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    let guest = context.guest()?;
    let probe = &context.lab().probe;
    let program = probe.program();
    let port = context.node()?.port(PUBLISHED_PORT)?;
    let patience = guest.pace().scale(Duration::from_secs(3));

    context.step("nothing answers yet");
    check(conversation(port, patience).await.is_err(), || {
        "the host port answers before there is a pod".to_owned()
    })?;

    context.step("run a pod that publishes a port");
    let pod = guest.pod("published").port(PUBLISHED_PORT, 8080).run().await?;
    pod.container("main", &probe.reference).args(["serve", "--tcp", "8080", "--udp", "8080"]).start().await?;
    let other = guest.pod("neighbour").run().await?;
    let in_pod = other.container("main", &probe.reference).args(["pause"]).start().await?;
    let host = guest.pod("on-node").on_host().run().await?;
    let on_node = host.container("main", &probe.reference).args(["pause"]).start().await?;

    context.step("reach it from outside");
    let deadline = guest.pace().deadline(Duration::from_secs(10));
    loop {
        match conversation(port, patience).await {
            Ok(()) => break,
            Err(error) => check(deadline.is_open(), || format!("the pod cannot be reached: {error}"))?,
        }
        sleep(Duration::from_millis(300)).await;
    }

    for ipv6 in [false, true] {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let node = SocketAddr::new(Peer::node_address(ipv6), PUBLISHED_PORT);
            context.step(format!("{} to {node}, from a neighbour of the node", protocol.name()));
            let reached =
                context.node()?.peer()?.ask(protocol, node, "GET / HTTP/1.0\r\n\r\n", 2 * patience).await;
            check(reached, || format!("{} {node} does not lead into the pod", protocol.name()))?;
            context.step(format!("{} to {node}, from the node itself and from another pod", protocol.name()));
            for from in [&on_node, &in_pod] {
                let (ip, port) = (node.ip().to_string(), PUBLISHED_PORT.to_string());
                from.until_ok(&[&program, "dial", protocol.name(), &ip, &port, "hello"]).await?;
            }
        }
    }

    context.step("remove the pod");
    for pod in [pod, other, host] {
        pod.remove().await?;
    }
    check(conversation(port, patience).await.is_err(), || {
        "the host port answers after the pod is gone".to_owned()
    })
}

/// Says something and wants an answer: QEMU accepts connections that the guest then refuses.
async fn conversation(port: u16, patience: Duration) -> io::Result<()> {
    let talk = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut answer = [0; 16];
        match stream.read(&mut answer).await? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            _ => Ok(()),
        }
    };
    timeout(patience, talk).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
