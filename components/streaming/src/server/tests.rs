//! Whole sessions: a client of our own against the server, over TCP.

use super::*;
use crate::{
    Attach, Exec, Finish, Input, Output, Stdio, TerminalSize,
    connection::{Driver, InputHandle, OutputHandle, Streams},
    spdy::headers::Headers,
};
use futures::future::BoxFuture;
use serde_json::Value;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A container that knows a few commands.
#[derive(Debug, Default)]
struct Container {
    /// Bytes that `flood` got rid of.
    flooded: AtomicUsize,
    /// Whether a command was given up.
    cancelled: AtomicBool,
}

/// Tells that it was dropped before its time.
struct Guard<'a>(&'a AtomicBool, bool);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if !self.1 {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}

impl Container {
    async fn run(&self, command: &str, mut stdio: Stdio) -> Finish {
        match command {
            "cat" => {
                let (mut stdin, mut stdout) = (stdio.stdin.take().unwrap(), stdio.stdout.take().unwrap());
                match tokio::io::copy(&mut stdin, &mut stdout).await {
                    Ok(_) => Finish::Exited(0),
                    Err(error) => Finish::Failed(error.to_string()),
                }
            }
            "both" => {
                stdio.stdout.take().unwrap().write_all(b"to out").await.unwrap();
                stdio.stderr.take().unwrap().write_all(b"to err").await.unwrap();
                Finish::Exited(3)
            }
            "sizes" => {
                let mut stdout = stdio.stdout.take().unwrap();
                while let Some(TerminalSize { columns, rows }) = stdio.resize.recv().await {
                    stdout.write_all(format!("{columns}x{rows};").as_bytes()).await.unwrap();
                    if rows == 0 {
                        break;
                    }
                }
                Finish::Exited(0)
            }
            "flood" => {
                let mut stdout = stdio.stdout.take().unwrap();
                let mut guard = Guard(&self.cancelled, false);
                while stdout.write_all(&[7; 4096]).await.is_ok() {
                    self.flooded.fetch_add(4096, Ordering::SeqCst);
                }
                guard.1 = true;
                Finish::Failed("nobody reads".to_owned())
            }
            "sleep" => {
                let _guard = Guard(&self.cancelled, false);
                std::future::pending().await
            }
            "deaf" => {
                drop(stdio.stdin.take());
                let _guard = Guard(&self.cancelled, false);
                std::future::pending().await
            }
            other => Finish::Failed(format!("{other}: not found")),
        }
    }
}

impl Runtime for Container {
    fn exec(&self, exec: Exec, stdio: Stdio) -> BoxFuture<'_, Finish> {
        Box::pin(async move { self.run(&exec.command[0], stdio).await })
    }

    fn attach(&self, _: Attach, stdio: Stdio) -> BoxFuture<'_, Finish> {
        Box::pin(self.run("cat", stdio))
    }

    fn port_forward(
        &self,
        _: String,
        port: u16,
        (mut input, mut output): (Input, Output),
    ) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            if port == 9 {
                return Err("connection refused".to_owned());
            }
            output.write_all(&port.to_be_bytes()).await.map_err(|error| error.to_string())?;
            tokio::io::copy(&mut input, &mut output).await.map_err(|error| error.to_string())?;
            Ok(())
        })
    }
}

/// A server at work.
struct Site {
    server: Server,
    container: Arc<Container>,
    stop: CancellationToken,
}

impl Site {
    fn new(idle: Duration, creation: Duration) -> Self {
        let server = Server::bind(([127, 0, 0, 1], 0).into(), idle, creation).unwrap();
        let (container, stop) = (Arc::new(Container::default()), CancellationToken::new());
        let (served, runtime, stopped) = (server.clone(), Arc::clone(&container), stop.clone());
        tokio::spawn(async move { served.serve(runtime, stopped.cancelled()).await });
        Self { server, container, stop }
    }

    fn usual() -> Self {
        Self::new(IDLE_TIMEOUT, CREATION_TIMEOUT)
    }

    /// Sends a request, and returns the connection and the head of the answer.
    async fn request(&self, url: &str, protocols: &str) -> (TcpStream, String) {
        let path = url.strip_prefix(&format!("http://{}", self.server.address())).unwrap();
        let mut io = TcpStream::connect(self.server.address()).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: node\r\nContent-Length: 0\r\nConnection: Upgrade\r\n\
             Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocols}\r\n\r\n"
        );
        io.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(io.read_u8().await.unwrap());
        }
        (io, String::from_utf8(answer).unwrap().to_ascii_lowercase())
    }

    async fn connect(&self, request: Request, protocols: &str) -> (Streams, Driver<TcpStream>) {
        let url = self.server.url(request).unwrap();
        let (io, answer) = self.request(&url, protocols).await;
        assert!(answer.starts_with("http/1.1 101 "), "{answer}");
        // Go's HTTP client takes the whole header away when there is a `close` in it.
        assert!(answer.contains("\r\nconnection: upgrade\r\n"), "{answer}");
        assert!(answer.contains("\r\nupgrade: spdy/3.1\r\n"), "{answer}");
        connect(Link::Spdy(Session::new(Role::Client)), io, None, IDLE_TIMEOUT)
    }

    async fn until(&self, what: impl Fn(&Container) -> bool) {
        let wait = async {
            while !what(&self.container) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(60), wait).await.expect("it should have come about by now");
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn exec(command: &str, tty: bool, stdin: bool) -> Request {
    Request::Exec(Exec {
        container: "c".to_owned(),
        command: vec![command.to_owned()],
        tty,
        stdin,
        stdout: true,
        stderr: !tty,
    })
}

fn open(streams: &Streams, kind: &str) -> (InputHandle, OutputHandle) {
    let (_, input, output) = streams.open(&Headers::new([("streamType", kind)]));
    (input, output)
}

async fn read_all(mut input: InputHandle) -> Vec<u8> {
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes).await.unwrap();
    bytes
}

/// The status on an error stream.
async fn read_status(input: InputHandle) -> Value {
    serde_json::from_slice(&read_all(input).await).unwrap()
}

const V4: &str = "v4.channel.k8s.io";

#[tokio::test]
async fn output_exit_code_and_ends_reach_the_client() {
    let site = Site::usual();
    let (streams, driver) = site.connect(exec("both", false, false), V4).await;
    tokio::spawn(driver);
    let (error, _e) = open(&streams, "error");
    let (out, _o) = open(&streams, "stdout");
    let (err, _r) = open(&streams, "stderr");
    assert_eq!(read_all(out).await, b"to out");
    assert_eq!(read_all(err).await, b"to err");
    let status = read_status(error).await;
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"][0]["message"], "3");
}

#[tokio::test]
async fn megabytes_go_through_both_ways_and_stdin_ends() {
    let site = Site::usual();
    let (streams, driver) = site.connect(exec("cat", false, true), V4).await;
    tokio::spawn(driver);
    let (error, _e) = open(&streams, "error");
    let (_i, mut stdin) = open(&streams, "stdin");
    let (out, _o) = open(&streams, "stdout");
    let (_err, _r) = open(&streams, "stderr");
    let sent: Vec<u8> = (0..8_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let expected = sent.clone();
    let sending = tokio::spawn(async move {
        stdin.write_all(&sent).await.unwrap();
        stdin.shutdown().await.unwrap();
        stdin // kept: it must be the shutdown that ends it
    });
    assert!(read_all(out).await == expected, "what came back is not what was sent");
    assert_eq!(read_status(error).await["status"], "Success");
    drop(sending.await.unwrap());
}

#[tokio::test]
async fn attach_and_the_sizes_of_a_terminal() {
    let site = Site::usual();
    let attach = Attach { container: "c".to_owned(), tty: false, stdin: true, stdout: true, stderr: false };
    let (streams, driver) = site.connect(Request::Attach(attach), V4).await;
    tokio::spawn(driver);
    let (error, _e) = open(&streams, "error");
    let (_i, mut stdin) = open(&streams, "stdin");
    let (out, _o) = open(&streams, "stdout");
    stdin.write_all(b"hello").await.unwrap();
    drop(stdin);
    assert_eq!(read_all(out).await, b"hello");
    assert_eq!(read_status(error).await["status"], "Success");

    let (streams, driver) = site.connect(exec("sizes", true, false), V4).await;
    tokio::spawn(driver);
    let (error, _e) = open(&streams, "error");
    let (mut out, _o) = open(&streams, "stdout");
    let (_s, mut sizes) = open(&streams, "resize");
    sizes.write_all(b"{\"Width\":80,\"Height\":24}\n{\"Wid").await.unwrap();
    let mut first = [0; 6];
    out.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"80x24;");
    sizes.write_all(b"th\":1,\"Height\":0}\n").await.unwrap();
    assert_eq!(read_all(out).await, b"1x0;");
    assert_eq!(read_status(error).await["status"], "Success");
}

#[tokio::test]
async fn old_clients_have_no_resize_stream_and_read_sentences() {
    let site = Site::usual();
    let (streams, driver) = site.connect(exec("nonsense", true, false), "channel.k8s.io").await;
    tokio::spawn(driver);
    let (error, _e) = open(&streams, "error");
    let (out, _o) = open(&streams, "stdout");
    assert_eq!(read_all(out).await, b"");
    assert_eq!(read_all(error).await, b"Internal error occurred: nonsense: not found");
}

#[tokio::test]
async fn a_slow_client_stops_the_writer_and_a_vanished_one_ends_it() {
    let site = Site::usual();
    let (streams, driver) = site.connect(exec("flood", false, false), V4).await;
    let driver = tokio::spawn(driver);
    let (_error, _e) = open(&streams, "error");
    let (mut out, _o) = open(&streams, "stdout");
    let (_err, _r) = open(&streams, "stderr");
    let mut some = [0; 1000];
    out.read_exact(&mut some).await.unwrap();
    // The kernel's buffers, the client's window and our 64 KiB fill up, and then nothing moves.
    let settled = async {
        let mut before = 0;
        loop {
            sleep(Duration::from_millis(500)).await;
            let now = site.container.flooded.load(Ordering::SeqCst);
            if now == before {
                return now;
            }
            before = now;
        }
    };
    let flooded = timeout(Duration::from_secs(60), settled).await.expect("the writer should have stopped");
    assert!(flooded < 32 << 20, "{flooded} bytes were written for a client that reads none");
    assert!(!site.container.cancelled.load(Ordering::SeqCst));
    driver.abort();
    site.until(|container| container.cancelled.load(Ordering::SeqCst)).await;
}

#[tokio::test]
async fn a_client_that_vanishes_while_its_input_is_stuck_is_noticed() {
    let site = Site::usual();
    let (streams, driver) = site.connect(exec("sleep", false, true), V4).await;
    let driver = tokio::spawn(driver);
    let (_error, _e) = open(&streams, "error");
    let (_i, mut stdin) = open(&streams, "stdin");
    let (_out, _o) = open(&streams, "stdout");
    let (_err, _r) = open(&streams, "stderr");
    // Our client keeps windows, so it fills the stream's window by itself; then it is the socket's turn.
    let chunk = vec![0; 64 << 10];
    while timeout(Duration::from_millis(500), stdin.write_all(&chunk)).await.is_ok() {}
    assert!(!site.container.cancelled.load(Ordering::SeqCst));
    driver.abort();
    site.until(|container| container.cancelled.load(Ordering::SeqCst)).await;
}

#[tokio::test]
async fn a_process_that_closes_its_input_stops_the_sender() {
    let site = Site::usual();
    let (streams, driver) = site.connect(exec("deaf", false, true), V4).await;
    tokio::spawn(driver);
    let (_error, _e) = open(&streams, "error");
    let (told, mut stdin) = open(&streams, "stdin");
    let (_out, _o) = open(&streams, "stdout");
    let (_err, _r) = open(&streams, "stderr");
    assert_eq!(timeout(Duration::from_secs(60), read_all(told)).await.unwrap(), b"");
    // What is sent nevertheless is thrown away, and does not pile up.
    let much = vec![0; 4 << 20];
    timeout(Duration::from_secs(60), stdin.write_all(&much)).await.unwrap().unwrap();
}

#[tokio::test]
async fn several_ports_at_once() {
    let site = Site::usual();
    let request = Request::PortForward(PortForward { sandbox: "s".to_owned(), ports: Vec::new() });
    let (streams, driver) = site.connect(request, "portforward.k8s.io").await;
    tokio::spawn(driver);
    let pair = |port: &'static str, id: &'static str| {
        let with = |kind| [("streamType", kind), ("port", port), ("requestID", id)];
        let (_, error, _) = streams.open(&Headers::new(with("error")));
        let (_, input, output) = streams.open(&Headers::new(with("data")));
        (error, input, output)
    };
    let (refused, _ri, _ro) = pair("9", "0");
    let (first_error, first_in, mut first_out) = pair("80", "1");
    let (second_error, second_in, mut second_out) = pair("443", "2");
    let refusal = String::from_utf8(read_all(refused).await).unwrap();
    assert_eq!(refusal, "error forwarding port 9 to pod s: connection refused");
    second_out.write_all(b"two").await.unwrap();
    first_out.write_all(b"one").await.unwrap();
    second_out.shutdown().await.unwrap();
    assert_eq!(read_all(second_in).await, [&443_u16.to_be_bytes()[..], b"two"].concat());
    first_out.shutdown().await.unwrap();
    assert_eq!(read_all(first_in).await, [&80_u16.to_be_bytes()[..], b"one"].concat());
    assert_eq!(read_all(first_error).await, b"");
    assert_eq!(read_all(second_error).await, b"");
    // And again, with a number that was used before.
    let (_, third_in, mut third_out) = pair("80", "1");
    third_out.shutdown().await.unwrap();
    assert_eq!(read_all(third_in).await, 80_u16.to_be_bytes());
}

#[tokio::test]
async fn only_granted_ports_are_forwarded() {
    let site = Site::usual();
    let request = Request::PortForward(PortForward { sandbox: "s".to_owned(), ports: vec![80] });
    let (streams, driver) = site.connect(request, "portforward.k8s.io").await;
    tokio::spawn(driver);
    let (_, mut error, _o) =
        streams.open(&Headers::new([("streamtype", "error"), ("port", "81"), ("requestid", "1")]));
    let refused = timeout(Duration::from_secs(60), error.read_u8()).await.unwrap();
    assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn urls_work_once_and_protocols_must_fit() {
    let site = Site::usual();
    let url = site.server.url(exec("both", false, false)).unwrap();
    let (_, answer) = site.request(&url, "v9.channel.k8s.io").await;
    assert!(answer.starts_with("http/1.1 403 "), "{answer}");
    assert!(answer.contains("x-accepted-stream-protocol-versions: v4.channel.k8s.io"), "{answer}");
    let (_, answer) = site.request(&url, V4).await;
    assert!(answer.starts_with("http/1.1 404 "), "{answer}");
    let url = site.server.url(exec("both", false, false)).unwrap();
    let (_, answer) = site.request(&url.replace("/exec/", "/attach/"), V4).await;
    assert!(answer.starts_with("http/1.1 404 "), "{answer}");
    assert!(site.request(&url, V4).await.1.starts_with("http/1.1 101 "));
}

#[tokio::test]
async fn a_client_that_opens_nothing_is_closed() {
    let site = Site::new(IDLE_TIMEOUT, Duration::from_millis(200));
    let (streams, driver) = site.connect(exec("sleep", false, false), V4).await;
    let (_error, _e) = open(&streams, "error");
    let end = timeout(Duration::from_secs(60), driver).await.expect("the server should have closed");
    assert_eq!(end, End::Closed);
}

#[tokio::test]
async fn a_session_on_which_nothing_moves_is_closed() {
    let site = Site::new(Duration::from_millis(300), CREATION_TIMEOUT);
    let (streams, driver) = site.connect(exec("sleep", false, false), V4).await;
    let handles = ["error", "stdout", "stderr"].map(|kind| open(&streams, kind));
    timeout(Duration::from_secs(60), driver).await.expect("the server should have closed");
    drop(handles);
    site.until(|container| container.cancelled.load(Ordering::SeqCst)).await;
}

#[tokio::test]
async fn stopping_the_server_ends_sessions() {
    let site = Site::usual();
    let (streams, driver) = site.connect(exec("sleep", false, false), V4).await;
    let driver = tokio::spawn(driver);
    let _handles = ["error", "stdout", "stderr"].map(|kind| open(&streams, kind));
    sleep(Duration::from_millis(100)).await;
    site.stop.cancel();
    timeout(Duration::from_secs(60), driver).await.expect("the session should have ended").unwrap();
}

#[tokio::test]
async fn nonsense_after_the_upgrade_ends_the_session() {
    let site = Site::usual();
    let url = site.server.url(exec("sleep", false, false)).unwrap();
    let (mut io, _) = site.request(&url, V4).await;
    io.write_all(&[0xff; 100]).await.unwrap();
    let mut rest = Vec::new();
    timeout(Duration::from_secs(60), io.read_to_end(&mut rest)).await.unwrap().ok();
    // The last frame is GOAWAY with a protocol error.
    assert!(rest.ends_with(&[0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1]), "{rest:?}");
}

impl Site {
    async fn web_socket(&self, request: Request, protocol: &str) -> (TcpStream, String) {
        let url = self.server.url(request).unwrap();
        let path = url.strip_prefix(&format!("http://{}", self.server.address())).unwrap();
        let mut io = TcpStream::connect(self.server.address()).await.unwrap();
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
        );
        io.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(io.read_u8().await.unwrap());
        }
        (io, String::from_utf8(answer).unwrap())
    }

    async fn channels(&self, request: Request, protocol: &str, codec: Codec) -> (Streams, Driver<TcpStream>) {
        let (io, answer) = self.web_socket(request, protocol).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert!(answer.contains(&format!("sec-websocket-protocol: {protocol}\r\n")), "{answer}");
        assert!(answer.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
        let link = Link::Channels(Channels::new(Role::Client, codec, 5, None));
        connect(link, io, None, IDLE_TIMEOUT)
    }
}

/// Reads a channel, whose end is the connection's.
async fn read_channel(mut input: InputHandle) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = input.read_to_end(&mut bytes).await;
    bytes
}

#[tokio::test]
async fn a_command_over_channels() {
    let site = Site::usual();
    for (protocol, codec) in
        [("v4.channel.k8s.io", Codec::Binary), ("v4.base64.channel.k8s.io", Codec::Base64)]
    {
        let (streams, driver) = site.channels(exec("both", false, false), protocol, codec).await;
        let (out, err, status) = (streams.channel(1), streams.channel(2), streams.channel(3));
        tokio::spawn(driver);
        assert_eq!(read_channel(out.0).await, b"to out");
        assert_eq!(read_channel(err.0).await, b"to err");
        let status: Value = serde_json::from_slice(&read_channel(status.0).await).unwrap();
        assert_eq!(status["details"]["causes"][0]["message"], "3");
    }
}

#[tokio::test]
async fn megabytes_over_channels_and_an_end_of_input() {
    let site = Site::usual();
    let (streams, driver) =
        site.channels(exec("cat", false, true), "v5.channel.k8s.io", Codec::BinaryWithClose).await;
    let ((_i, mut stdin), (out, _o), (status, _s)) =
        (streams.channel(0), streams.channel(1), streams.channel(3));
    tokio::spawn(driver);
    let sent: Vec<u8> = (0..8_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let expected = sent.clone();
    let sender = streams.clone();
    tokio::spawn(async move {
        stdin.write_all(&sent).await.unwrap();
        sender.with_link(|link| match link {
            Link::Channels(channels) => channels.signal_close(0),
            _ => unreachable!(),
        });
    });
    assert!(read_channel(out).await == expected, "what came back is not what was sent");
    let status: Value = serde_json::from_slice(&read_channel(status).await).unwrap();
    assert_eq!(status["status"], "Success");
}

#[tokio::test]
async fn ports_through_a_tunnel_and_over_channels() {
    let site = Site::usual();
    let request = |ports| Request::PortForward(PortForward { sandbox: "s".to_owned(), ports });
    let (io, answer) = site.web_socket(request(vec![]), "SPDY/3.1+portforward.k8s.io").await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    let link = Link::Tunnel(Socket::new(Role::Client), Session::new(Role::Client));
    let (streams, driver) = connect(link, io, None, IDLE_TIMEOUT);
    tokio::spawn(driver);
    let with = |kind| [("streamType", kind), ("port", "80"), ("requestID", "0")];
    let (_, error, _e) = streams.open(&Headers::new(with("error")));
    let (_, input, mut output) = streams.open(&Headers::new(with("data")));
    output.write_all(b"through").await.unwrap();
    output.shutdown().await.unwrap();
    assert_eq!(read_all(input).await, [&80_u16.to_be_bytes()[..], b"through"].concat());
    assert_eq!(read_all(error).await, b"");

    let (streams, driver) = site.channels(request(vec![9, 80]), "v4.channel.k8s.io", Codec::Binary).await;
    let [_refused, error, open, other] = [0, 1, 2, 3].map(|channel| streams.channel(channel));
    tokio::spawn(driver);
    let ((mut error, _), (mut input, mut output), (mut other, _)) = (error, open, other);
    let mut head = [0; 2];
    error.read_exact(&mut head).await.unwrap();
    assert_eq!(head, 9_u16.to_le_bytes());
    let expected = "error forwarding port 9 to pod s: connection refused";
    let mut refusal = vec![0; expected.len()];
    error.read_exact(&mut refusal).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&refusal), expected);
    other.read_exact(&mut head).await.unwrap();
    assert_eq!(head, 80_u16.to_le_bytes());
    output.write_all(b"by channel").await.unwrap();
    let mut all = [0; 14];
    input.read_exact(&mut all).await.unwrap();
    assert_eq!(all[..], [&80_u16.to_le_bytes()[..], &80_u16.to_be_bytes(), b"by channel"].concat());

    let (_, answer) = site.web_socket(request(vec![]), "v4.channel.k8s.io").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}
