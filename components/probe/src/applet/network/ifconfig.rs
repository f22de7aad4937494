//! `ifconfig`: links, addresses and routes over rtnetlink (linux/rtnetlink.h).

use super::super::{DONE, Failure, Options, Outcome};
use crate::json::Json;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::{collections::BTreeMap, io, net::IpAddr};

const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST_DUMP: u16 = 0x301;
const HEADER: usize = 16;

pub(crate) fn run(words: &[&str]) -> Outcome {
    Options::parse(words, &[], &[])?.words::<0>()?;
    let failed = |e: io::Error| Failure::os("rtnetlink", &e);
    let links = dump(RTM_GETLINK, 16).map_err(failed)?;
    let addresses = dump(RTM_GETADDR, 8).map_err(failed)?;
    let routes = dump(RTM_GETROUTE, 12).map_err(failed)?;
    let names: BTreeMap<u32, String> =
        links.iter().filter_map(|l| Some((u32_at(l, 4)?, text(attribute(l, 16, 3)?)))).collect();
    let interfaces = links.iter().filter_map(|link| interface(link, &addresses)).collect();
    let routes = routes.iter().filter_map(|r| route(r, &names)).collect();
    println!(
        "{}",
        Json::Object(vec![("interfaces", Json::List(interfaces)), ("routes", Json::List(routes))]).render()
    );
    DONE
}

fn interface(link: &[u8], addresses: &[Vec<u8>]) -> Option<Json> {
    const UP: u32 = 1;
    let index = u32_at(link, 4)?;
    let own = addresses.iter().filter(|a| u32_at(a, 4) == Some(index)).filter_map(|a| {
        let ip = attribute(a, 8, 2).or_else(|| attribute(a, 8, 1)).and_then(ip)?;
        Some(Json::text(format!("{ip}/{}", a[1])))
    });
    let mac = attribute(link, 16, 1).filter(|m| !m.is_empty()).map_or(Json::Null, |mac| {
        let bytes: Vec<String> = mac.iter().map(|b| format!("{b:02x}")).collect();
        Json::text(bytes.join(":"))
    });
    let mtu = attribute(link, 16, 4).and_then(|m| u32_at(m, 0)).unwrap_or(0);
    Some(Json::Object(vec![
        ("name", Json::text(text(attribute(link, 16, 3)?))),
        ("up", Json::Bool(u32_at(link, 8)? & UP != 0)),
        ("mac", mac),
        ("mtu", Json::Number(mtu.into())),
        ("addresses", Json::List(own.collect())),
    ]))
}

/// Unicast routes of the main table.
fn route(route: &[u8], names: &BTreeMap<u32, String>) -> Option<Json> {
    const MAIN: u8 = 254;
    const UNICAST: u8 = 1;
    if route[4] != MAIN || route[7] != UNICAST {
        return None;
    }
    let any = if route[0] == 2 { "0.0.0.0" } else { "::" };
    let destination = attribute(route, 12, 1).and_then(ip).map_or(any.to_owned(), |ip| ip.to_string());
    let gateway = attribute(route, 12, 5).and_then(ip).map_or(Json::Null, Json::text);
    let device =
        attribute(route, 12, 4).and_then(|i| names.get(&u32_at(i, 0)?)).map_or(Json::Null, Json::text);
    Some(Json::Object(vec![
        ("destination", Json::text(format!("{destination}/{}", route[1]))),
        ("gateway", gateway),
        ("interface", device),
    ]))
}

/// Messages' bodies; each at least as long as its family's fixed header.
fn dump(kind: u16, fixed: usize) -> io::Result<Vec<Vec<u8>>> {
    let socket = net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let length = (HEADER + fixed) as u32;
    let mut request = length.to_ne_bytes().to_vec();
    request.extend(kind.to_ne_bytes());
    request.extend(REQUEST_DUMP.to_ne_bytes());
    request.resize(length as usize, 0);
    net::send(&socket, &request, SendFlags::empty())?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let (_, length) = net::recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        let mut rest = &buffer[..length];
        while let Some(size) =
            u32_at(rest, 0).map(|s| s as usize).filter(|s| (HEADER..=rest.len()).contains(s))
        {
            let body = &rest[HEADER..size];
            match u16::from_ne_bytes([rest[4], rest[5]]) {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => {
                    let code = u32_at(body, 0).unwrap_or(0) as i32;
                    return Err(io::Error::from_raw_os_error(-code));
                }
                _ if body.len() >= fixed => found.push(body.to_vec()),
                _ => {}
            }
            rest = &rest[size.next_multiple_of(4).min(rest.len())..];
        }
    }
}

fn attribute(message: &[u8], fixed: usize, wanted: u16) -> Option<&[u8]> {
    let mut rest = message.get(fixed..)?;
    while let Some(header) = rest.get(..4) {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = rest.get(4..length)?;
        if u16::from_ne_bytes([header[2], header[3]]) & 0x3fff == wanted {
            return Some(value);
        }
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
    None
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}
