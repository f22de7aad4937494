//! A resolver for A and AAAA records (RFC 1035), without the C library's: that one loads plugins at run time,
//! which a static program cannot.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

const A: u16 = 1;
const AAAA: u16 = 28;
const CLASS_IN: u16 = 1;
const ATTEMPTS: usize = 2;

/// What /etc/resolv.conf says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Settings {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    dots: usize,
}

/// Why there is no address.
#[derive(Debug)]
pub(crate) enum Error {
    /// No file, no answer.
    Io(String, io::Error),
    /// No server is named.
    NoServer,
    /// The servers say that there is no such name, or none with an address.
    NotFound,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(what, error) => write!(f, "{}: {what}: {error}", crate::errno::name_of(error)),
            Self::NoServer => f.write_str("no name server in /etc/resolv.conf"),
            Self::NotFound => f.write_str("no such name"),
        }
    }
}

/// Addresses of a name: an address itself, from /etc/hosts, or from the name servers.
pub(crate) fn resolve(name: &str) -> Result<Vec<IpAddr>, Error> {
    if let Ok(address) = name.trim_matches(['[', ']']).parse() {
        return Ok(vec![address]);
    }
    let hosts = from_hosts(&fs::read_to_string("/etc/hosts").unwrap_or_default(), name);
    if !hosts.is_empty() {
        return Ok(hosts);
    }
    let path = "/etc/resolv.conf";
    let text = fs::read_to_string(path).map_err(|e| Error::Io(path.to_owned(), e))?;
    let settings = parse(&text);
    if settings.servers.is_empty() {
        return Err(Error::NoServer);
    }
    let mut last = Error::NotFound;
    for candidate in candidates(name, &settings) {
        let mut addresses = Vec::new();
        for kind in [A, AAAA] {
            match ask_any(&settings.servers, &candidate, kind) {
                Ok(found) => addresses.extend(found),
                Err(error) => last = error,
            }
        }
        if !addresses.is_empty() {
            return Ok(addresses);
        }
    }
    Err(last)
}

fn from_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let entry = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
    };
    text.lines().filter_map(entry).collect()
}

fn parse(text: &str) -> Settings {
    let mut settings = Settings { dots: 1, ..Settings::default() };
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                settings.servers.extend(words.next().and_then(|w| w.parse::<IpAddr>().ok()))
            }
            Some("search" | "domain") => settings.search = words.map(str::to_owned).collect(),
            Some("options") => {
                let dots = words.filter_map(|w| w.strip_prefix("ndots:")?.parse().ok()).next_back();
                settings.dots = dots.unwrap_or(settings.dots);
            }
            _ => {}
        }
    }
    settings
}

/// Names to ask for, in the order of resolv.conf(5).
fn candidates(name: &str, settings: &Settings) -> Vec<String> {
    if let Some(absolute) = name.strip_suffix('.') {
        return vec![absolute.to_owned()];
    }
    let mut names: Vec<String> =
        settings.search.iter().map(|domain| format!("{name}.{}", domain.trim_end_matches('.'))).collect();
    let as_it_is = if name.matches('.').count() >= settings.dots { 0 } else { names.len() };
    names.insert(as_it_is, name.to_owned());
    names
}

fn ask_any(servers: &[IpAddr], name: &str, kind: u16) -> Result<Vec<IpAddr>, Error> {
    let mut last = Error::NotFound;
    for server in servers.iter().cycle().take(servers.len() * ATTEMPTS) {
        match ask(*server, name, kind) {
            Ok(addresses) => return Ok(addresses),
            Err(error) => last = Error::Io(format!("name server {server}"), error),
        }
    }
    Err(last)
}

fn ask(server: IpAddr, name: &str, kind: u16) -> io::Result<Vec<IpAddr>> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.connect(SocketAddr::new(server, 53))?;
    // The port was chosen by the kernel, at random; that and a connected socket is guard enough for a diagnosis.
    let id = socket.local_addr()?.port() ^ kind;
    socket.send(&query(id, name, kind).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?)?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer)?;
        if let Some(addresses) = answer(&buffer[..length], id, kind) {
            return Ok(addresses);
        }
    }
}

/// None for a name that cannot be asked for.
fn query(id: u16, name: &str, kind: u16) -> Option<Vec<u8>> {
    const RECURSION_DESIRED: u16 = 0x0100;
    let mut packet = Vec::new();
    for word in [id, RECURSION_DESIRED, 1, 0, 0, 0] {
        packet.extend(word.to_be_bytes());
    }
    for label in name.split('.') {
        if label.is_empty() || label.len() > 63 {
            return None;
        }
        packet.push(label.len() as u8);
        packet.extend(label.as_bytes());
    }
    packet.push(0);
    packet.extend(kind.to_be_bytes());
    packet.extend(CLASS_IN.to_be_bytes());
    Some(packet)
}

/// Addresses in the answer, of aliases too. None if it answers something else, or nothing at all.
fn answer(packet: &[u8], id: u16, kind: u16) -> Option<Vec<IpAddr>> {
    let word = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
    if word(0)? != id || word(2)? & 0x8000 == 0 {
        return None;
    }
    let mut at = 12;
    for _ in 0..word(4)? {
        at = skip_name(packet, at)? + 4;
    }
    let mut addresses = Vec::new();
    for _ in 0..word(6)? {
        at = skip_name(packet, at)?;
        let (found, length) = (word(at)?, usize::from(word(at + 8)?));
        let data = packet.get(at + 10..at + 10 + length)?;
        if found == kind {
            let four = <[u8; 4]>::try_from(data).map(IpAddr::from);
            addresses.extend(four.or_else(|_| <[u8; 16]>::try_from(data).map(IpAddr::from)).ok());
        }
        at += 10 + length;
    }
    Some(addresses)
}

fn skip_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            // A pointer ends a name.
            length if length >= 0xc0 => return Some(at + 2),
            length => at += usize::from(length) + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_lists_are_tried_as_resolv_conf_says() {
        let settings = parse(
            "search default.svc.cluster.local cluster.local\nnameserver 10.96.0.10\nnameserver x\noptions ndots:5\n",
        );
        assert_eq!(settings.servers, ["10.96.0.10".parse::<IpAddr>().unwrap()]);
        assert_eq!(candidates("db", &settings), ["db.default.svc.cluster.local", "db.cluster.local", "db"]);
        assert_eq!(candidates("db.", &settings), ["db"]);
        assert_eq!(candidates("a.b", &parse("search s"))[0], "a.b");
    }

    #[test]
    fn answers_with_pointers_and_aliases() {
        let mut packet = query(7, "a.example", A).unwrap();
        packet[2] = 0x81;
        packet[7] = 2;
        // www CNAME, then its address; both names are pointers to the question's.
        packet.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 2, 0xc0, 12]);
        packet.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 7]);
        assert_eq!(answer(&packet, 7, A), Some(vec!["192.0.2.7".parse().unwrap()]));
        assert_eq!(answer(&packet, 8, A), None);
        for length in 0..packet.len() {
            let _ = answer(&packet[..length], 7, A);
        }
        assert!(query(1, "a..b", A).is_none());
    }

    #[test]
    fn hosts_files_count() {
        let hosts = "127.0.0.1 localhost # me\n::1\tlocalhost ip6-localhost\n#10.0.0.1 localhost\n";
        assert_eq!(from_hosts(hosts, "LocalHost").len(), 2);
        assert!(from_hosts(hosts, "me").is_empty());
    }
}
