//! The whole way: CRI's call, its URL, and a client that speaks SPDY there.

use crate::{
    FOREVER,
    node::Node,
    support::{
        PATIENCE,
        calls::{remove_pod, run, run_pod},
        obstacle,
        pods::container,
        unless,
    },
};
use cairn_contract::cri;
use cairn_streaming::spdy::{Event, Role, Session, headers::Headers};
use std::collections::HashMap;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// A client of one command.
struct Visitor {
    socket: TcpStream,
    session: Session,
    /// What came on each stream.
    received: HashMap<u32, Vec<u8>>,
    finished: Vec<u32>,
}

impl Visitor {
    /// Goes to a URL and upgrades.
    async fn go(url: &str) -> Self {
        let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let mut socket = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST /{path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: Upgrade\r\n\
             Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(socket.read_u8().await.unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
        let (session, received) = (Session::new(Role::Client), HashMap::new());
        Self { socket, session, received, finished: Vec::new() }
    }

    fn open(&mut self, kind: &str) -> u32 {
        self.session.open(&Headers::new([("streamtype", kind)])).unwrap()
    }

    async fn flush(&mut self) {
        self.socket.write_all(self.session.output()).await.unwrap();
        self.session.advance(self.session.output().len());
    }

    /// Talks until something has come.
    async fn talk(&mut self, until: impl Fn(&Self) -> bool) {
        let mut bytes = [0; 4096];
        while !until(self) {
            self.flush().await;
            let length = timeout(PATIENCE, self.socket.read(&mut bytes)).await.unwrap().unwrap();
            assert!(length > 0, "the server closed the connection");
            let (received, finished) = (&mut self.received, &mut self.finished);
            let taken = self.session.receive(&bytes[..length], &mut |event| match event {
                Event::Data { stream, bytes } => received.entry(stream).or_default().extend_from_slice(bytes),
                Event::Finished { stream } => finished.push(stream),
                _ => {}
            });
            taken.unwrap();
        }
    }

    /// All that comes on a stream.
    async fn all(&mut self, stream: u32) -> String {
        self.talk(|visitor| visitor.finished.contains(&stream)).await;
        String::from_utf8(self.received.remove(&stream).unwrap_or_default()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_runs_a_command_at_the_url() {
    unless!(obstacle());
    let (node, mut caller) = Node::new().await;
    let pod = run_pod(&mut caller, node.pod("url")).await;
    let id = run(&mut caller, &pod, container("url", FOREVER)).await;
    let url = async |command: &str| {
        let request = cri::ExecRequest {
            container_id: id[..12].to_owned(),
            cmd: ["sh", "-c", command].map(str::to_owned).to_vec(),
            stdin: true,
            stdout: true,
            stderr: true,
            ..Default::default()
        };
        caller.clone().exec(request).await.unwrap().into_inner().url
    };

    let mut visitor = Visitor::go(&url("cat; echo oops >&2; exit 9").await).await;
    let error = visitor.open("error");
    let (stdin, stdout, stderr) = (visitor.open("stdin"), visitor.open("stdout"), visitor.open("stderr"));
    assert_eq!(visitor.session.send(stdin, b"over the wire").unwrap(), 13);
    visitor.session.finish(stdin);
    assert_eq!(visitor.all(stdout).await, "over the wire");
    assert_eq!(visitor.all(stderr).await, "oops\n");
    let status: serde_json::Value = serde_json::from_str(&visitor.all(error).await).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "9", "{status}");

    // A connection that breaks takes the command's streams with it.
    let mut visitor = Visitor::go(&url("echo here; cat; touch /left").await).await;
    let [_, _, stdout, _] = ["error", "stdin", "stdout", "stderr"].map(|kind| visitor.open(kind));
    visitor.talk(|visitor| visitor.received.contains_key(&stdout)).await;
    drop(visitor);
    let script = "until test -e /left; do sleep 0.1; done; echo left";
    assert_eq!(node.output(&id, b"", &["sh", "-c", script]).await.0, "left\n");

    remove_pod(&mut caller, &pod).await;
    assert_eq!(node.leaks(), Vec::<String>::new());
}
