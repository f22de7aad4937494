//! A way to a TCP server that can be taken away and given back.
//!
//! Shut, it breaks the connections that go through it and takes no new ones, as a switch without power does for one
//! of several ways to a target.

use crate::error::Fault;
use std::net::{Ipv4Addr, SocketAddrV4};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// Listens on a port of 127.0.0.1 and passes bytes on.
#[derive(Debug)]
pub struct Gate {
    port: u16,
    open: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Gate {
    /// An open gate to `port` of 127.0.0.1.
    pub async fn to(port: u16) -> Result<Self, Fault> {
        let fault = || Fault::io("listen on 127.0.0.1");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(fault())?;
        let own = listener.local_addr().map_err(fault())?.port();
        let (open, state) = watch::channel(true);
        let target = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A connection to a shut gate is dropped, which the other side sees as broken.
                if *state.borrow() {
                    tokio::spawn(pass(stream, target, state.clone()));
                }
            }
        });
        Ok(Self { port: own, open, accepting })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Breaks all connections, and every new one, until it is opened.
    pub fn shut(&self) {
        self.open.send_replace(false);
    }

    /// Takes connections again.
    pub fn open(&self) {
        self.open.send_replace(true);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.shut();
        self.accepting.abort();
    }
}

async fn pass(mut stream: TcpStream, target: SocketAddrV4, mut state: watch::Receiver<bool>) {
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    // Small requests and answers, each waited for.
    let _ = (stream.set_nodelay(true), server.set_nodelay(true));
    tokio::select! {
        _ = copy_bidirectional(&mut stream, &mut server) => {}
        _ = state.wait_for(|open| !open) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn echo_server() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        port
    }

    async fn echoes(stream: &mut TcpStream) -> bool {
        let mut answer = [0; 2];
        stream.write_all(b"hi").await.is_ok() && stream.read_exact(&mut answer).await.is_ok()
    }

    #[tokio::test]
    async fn a_shut_gate_breaks_what_goes_through_it_and_an_open_one_does_not() {
        let gate = Gate::to(echo_server().await).await.unwrap();
        let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, gate.port()));
        let mut before = connect().await.unwrap();
        assert!(echoes(&mut before).await);
        gate.shut();
        assert_eq!(before.read(&mut [0; 1]).await.unwrap_or(0), 0);
        assert!(!echoes(&mut connect().await.unwrap()).await);
        gate.open();
        assert!(echoes(&mut connect().await.unwrap()).await);
    }
}
