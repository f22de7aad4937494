//! Applets that ask the network.

use super::{DONE, Failure, Options, Outcome, number, seconds};
use crate::{dns, errno};
use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    process::ExitCode,
    time::{Duration, Instant},
};

mod ifconfig;

pub(super) use ifconfig::run as ifconfig;

/// A network that takes or brings nothing for this long is broken.
const POUR_PATIENCE: Duration = Duration::from_secs(30);

/// UDP loses things; a datagram not answered for this long is sent again.
const RESEND: Duration = Duration::from_millis(500);

pub(super) fn dial(words: &[&str]) -> Outcome {
    let options = Options::parse(words, &["timeout"], &[])?;
    let [protocol, address, port, text] = options.words()?;
    let timeout = options.timeout(5.0)?;
    let address: IpAddr = number("ADDRESS", address.trim_matches(['[', ']']))?;
    let peer = SocketAddr::new(address, number("PORT", port)?);
    let start = Instant::now();
    let answer = match protocol {
        "tcp" => dial_tcp(peer, text.as_bytes(), timeout),
        "udp" => dial_udp(peer, text.as_bytes(), timeout),
        other => return Err(Failure::usage(format!("`{other}` is neither tcp nor udp"))),
    };
    let answer = answer.map_err(|e| Failure::os(format_args!("{protocol} {peer}"), &e))?;
    if answer != text.as_bytes() {
        let got = String::from_utf8_lossy(&answer);
        return Err(Failure::tried(format!("{protocol} {peer}: sent {text:?}, got {got:?}")));
    }
    println!("{protocol} {peer} {:.1} ms", start.elapsed().as_secs_f64() * 1000.0);
    DONE
}

fn dial_tcp(peer: SocketAddr, text: &[u8], timeout: Duration) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + timeout;
    let mut stream = TcpStream::connect_timeout(&peer, timeout)?;
    stream.set_write_timeout(Some(timeout))?;
    stream.write_all(text)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while answer.len() < text.len() {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut buffer)? {
            0 => break,
            length => answer.extend_from_slice(&buffer[..length]),
        }
    }
    Ok(answer)
}

fn dial_udp(peer: SocketAddr, text: &[u8], timeout: Duration) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + timeout;
    let any: IpAddr =
        if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(peer)?;
    let mut buffer = vec![0; 65_536];
    loop {
        socket.send(text)?;
        socket.set_read_timeout(Some(left(deadline)?.min(RESEND)))?;
        match socket.recv(&mut buffer) {
            Ok(length) => return Ok(buffer[..length].to_vec()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Sends as fast as the network takes it. What counts is what arrived, and when the last of it did.
pub(super) fn pour(words: &[&str]) -> Outcome {
    let [address, port, time] = Options::parse(words, &[], &[])?.words()?;
    let peer = SocketAddr::new(number("ADDRESS", address.trim_matches(['[', ']']))?, number("PORT", port)?);
    let time = seconds(number("SECONDS", time)?)?;
    let (bytes, taken) = pour_into(peer, time).map_err(|e| Failure::os(format_args!("tcp {peer}"), &e))?;
    let rate = bytes as f64 * 8.0 / 1e6 / taken.as_secs_f64();
    println!(
        "{{\"bytes\":{bytes},\"seconds\":{:.3},\"megabits_per_second\":{rate:.2}}}",
        taken.as_secs_f64()
    );
    DONE
}

fn pour_into(peer: SocketAddr, time: Duration) -> io::Result<(u64, Duration)> {
    let mut stream = TcpStream::connect_timeout(&peer, POUR_PATIENCE)?;
    stream.set_write_timeout(Some(POUR_PATIENCE))?;
    stream.set_read_timeout(Some(POUR_PATIENCE))?;
    let chunk = vec![0; 128 * 1024];
    let start = Instant::now();
    while start.elapsed() < time {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut count = String::new();
    stream.read_to_string(&mut count)?;
    let taken = start.elapsed();
    let count = count.parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not a sink"))?;
    Ok((count, taken))
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)) } else { Ok(left) }
}

pub(super) fn resolve(words: &[&str]) -> Outcome {
    let [name] = Options::parse(words, &[], &[])?.words()?;
    for address in dns::resolve(name).map_err(|e| Failure::tried(format!("{name}: {e}")))? {
        println!("{address}");
    }
    DONE
}

pub(super) fn http(words: &[&str]) -> Outcome {
    let options = Options::parse(words, &["timeout"], &[])?;
    let ["get", url] = options.words()? else { return Err(Failure::usage("the only method is `get`")) };
    let url =
        Url::parse(url).ok_or_else(|| Failure::usage(format!("`{url}` is not http://HOST[:PORT]/PATH")))?;
    let addresses = dns::resolve(&url.host).map_err(|e| Failure::tried(format!("{}: {e}", url.host)))?;
    let timeout = options.timeout(10.0)?;
    let mut last = None;
    for address in addresses {
        match fetch(&url, SocketAddr::new(address, url.port), timeout) {
            Ok(response) => {
                println!("{}", response.status);
                let mut out = io::stdout().lock();
                out.write_all(&response.body)
                    .and_then(|()| out.flush())
                    .map_err(|e| Failure::os("stdout", &e))?;
                return Ok(if response.status < 400 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            Err(error) => {
                last = Some(format!("{}: {address} port {}: {error}", errno::name_of(&error), url.port))
            }
        }
    }
    Err(Failure::tried(last.unwrap_or_else(|| "no address".to_owned())))
}

#[derive(Debug, PartialEq, Eq)]
struct Url {
    host: String,
    port: u16,
    path: String,
}

impl Url {
    fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("http://")?;
        let end = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        // The last colon separates a port, unless it is one of a bracketed IPv6 address.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
            _ => (authority, 80),
        };
        let path = if path.is_empty() { "/" } else { path };
        (!host.is_empty()).then(|| Self { host: host.to_owned(), port, path: path.to_owned() })
    }
}

struct Response {
    status: u16,
    body: Vec<u8>,
}

fn fetch(url: &Url, peer: SocketAddr, timeout: Duration) -> io::Result<Response> {
    let deadline = Instant::now() + timeout;
    let mut stream = TcpStream::connect_timeout(&peer, timeout)?;
    let Url { host, port, path } = url;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: cairn-probe\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    )?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut buffer)? {
            0 => break,
            length => bytes.extend_from_slice(&buffer[..length]),
        }
        // A server may keep the connection open in spite of our wish.
        if let Some(response) = parse_response(&bytes, false) {
            return Ok(response);
        }
    }
    parse_response(&bytes, true)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an HTTP response"))
}

/// None while the response is not complete; at the `end` of the connection, what came is all there is.
fn parse_response(bytes: &[u8], end: bool) -> Option<Response> {
    let head_end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let body = &bytes[head_end + 4..];
    let mut lines = head.split("\r\n");
    let mut status_line = lines.next()?.split(' ');
    status_line.next().filter(|version| version.starts_with("HTTP/1."))?;
    let status = status_line.next()?.parse().ok()?;
    let header = |name: &str| {
        lines
            .clone()
            .filter_map(|l| l.split_once(':'))
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.trim())
    };
    if header("Transfer-Encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        return chunks(body).map(|body| Response { status, body });
    }
    let length = header("Content-Length").and_then(|l| l.parse::<usize>().ok());
    match length {
        Some(length) if body.len() >= length => Some(Response { status, body: body[..length].to_vec() }),
        None if end => Some(Response { status, body: body.to_vec() }),
        _ => None,
    }
}

fn chunks(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = bytes.windows(2).position(|w| w == b"\r\n")?;
        let size = std::str::from_utf8(&bytes[..line]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        bytes = &bytes[line + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(bytes.get(..size)?);
        bytes = bytes.get(size.checked_add(2)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let url = |text: &str| Url::parse(text).map(|u| format!("{} {} {}", u.host, u.port, u.path));
        assert_eq!(url("http://a").as_deref(), Some("a 80 /"));
        assert_eq!(url("http://a:8080/b?c=d").as_deref(), Some("a 8080 /b?c=d"));
        assert_eq!(url("http://[fd00::1]/x").as_deref(), Some("[fd00::1] 80 /x"));
        assert_eq!(url("http://[fd00::1]:81").as_deref(), Some("[fd00::1] 81 /"));
        for bad in ["https://a", "http://", "http://a:b/", "a"] {
            assert_eq!(url(bad), None, "{bad}");
        }
    }

    #[test]
    fn responses_of_all_three_framings() {
        let parse = |text: &str, end| {
            parse_response(text.as_bytes(), end).map(|r| (r.status, String::from_utf8(r.body).unwrap()))
        };
        assert_eq!(
            parse("HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nhi", false),
            Some((404, "hi".into()))
        );
        assert_eq!(parse("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi", true).map(|r| r.0), None);
        assert_eq!(parse("HTTP/1.0 200 OK\r\n\r\nhi", true), Some((200, "hi".into())));
        let chunked =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n1\r\nd\r\n0\r\n\r\n";
        assert_eq!(parse(chunked, false), Some((200, "abcd".into())));
        assert_eq!(parse(&chunked[..chunked.len() - 8], true), None);
        assert_eq!(parse("SSH-2.0-x\r\n\r\n", true), None);
    }
}
