//! `serve`: echo over TCP and UDP, or HTTP, on IPv4 and IPv6.

use super::{DONE, Failure, Options, Outcome};
use crate::datagram::Addressed;
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

/// A client that says nothing for this long is let go.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn run(words: &[&str]) -> Outcome {
    let options = Options::parse(words, &["tcp", "udp"], &["http", "sink"])?;
    options.words::<0>()?;
    let (tcp, udp) = (options.value::<u16>("tcp")?, options.value::<u16>("udp")?);
    if tcp.is_none() && udp.is_none() {
        return Err(Failure::usage("nothing to serve: give --tcp PORT or --udp PORT"));
    }
    let on_tcp = match (options.flag("http"), options.flag("sink")) {
        (true, true) => return Err(Failure::usage("--http and --sink want the same port")),
        (true, false) => answer_http,
        (false, true) => swallow,
        (false, false) => echo,
    };
    if tcp.is_none() && (options.flag("http") || options.flag("sink")) {
        return Err(Failure::usage("--http and --sink want a port: --tcp PORT"));
    }
    let tcp = tcp.map(|port| {
        bind(port, TcpListener::bind).map_err(|e| Failure::os(format_args!("tcp port {port}"), &e))
    });
    let udp = udp.map(|port| {
        let socket = bind(port, UdpSocket::bind).and_then(Addressed::new);
        socket.map_err(|e| Failure::os(format_args!("udp port {port}"), &e))
    });
    let (tcp, udp) = (tcp.transpose()?, udp.transpose()?);
    println!("ready");
    let workers = [
        tcp.map(|listener| thread::spawn(move || accept(&listener, on_tcp))),
        udp.map(|socket| thread::spawn(move || echo_datagrams(&socket))),
    ];
    for worker in workers.into_iter().flatten() {
        worker.join().map_err(|_| Failure::tried("a server thread ended"))?;
    }
    DONE
}

/// On `[::]`, which takes IPv4 too; on 0.0.0.0 where there is no IPv6.
fn bind<T>(port: u16, bind: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    match bind((Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
            bind((Ipv4Addr::UNSPECIFIED, port).into())
        }
        outcome => outcome,
    }
}

fn accept(listener: &TcpListener, serve: fn(TcpStream) -> io::Result<()>) {
    for client in listener.incoming() {
        match client {
            Ok(client) => {
                let _ = client.set_read_timeout(Some(PATIENCE));
                // Without a thread for it the connection is dropped, which the client sees.
                let _ = thread::Builder::new().stack_size(256 * 1024).spawn(move || serve(client));
            }
            // Out of descriptors, or the client was gone before we looked: a moment later it may do.
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn echo(client: TcpStream) -> io::Result<()> {
    io::copy(&mut (&client), &mut (&client)).map(|_| ())
}

/// Takes everything, and tells how many bytes it was.
fn swallow(client: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 128 * 1024];
    let mut count: u64 = 0;
    loop {
        match (&client).read(&mut buffer)? {
            0 => return write!(&client, "{count}"),
            length => count += length as u64,
        }
    }
}

fn answer_http(client: TcpStream) -> io::Result<()> {
    let mut lines = BufReader::new(client.try_clone()?.take(16 * 1024)).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or("/"));
    let (status, body) = match method {
        "GET" | "HEAD" => {
            let peer = client.peer_addr()?;
            ("200 OK", format!("host {}\npath {path}\nclient {peer}\n", super::identity::host_name()))
        }
        _ => ("405 Method Not Allowed", "only GET and HEAD\n".to_owned()),
    };
    let sent = if method == "HEAD" { "" } else { &body };
    let length = body.len();
    write!(
        &client,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{sent}"
    )
}

fn echo_datagrams(socket: &Addressed) {
    let mut buffer = [0; 65_536];
    loop {
        // Who is not reached asks again, or is gone.
        let _ = socket.echo(&mut buffer);
    }
}
