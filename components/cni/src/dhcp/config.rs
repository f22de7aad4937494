//! Configuration of `dhcp`.

use super::{message4, terms::Family};
use crate::protocol::{error::CniError, request::Request};
use serde::Deserialize;
use std::path::PathBuf;

/// Where the daemon listens, if nothing else is said.
pub const DEFAULT_SOCKET: &str = "/run/cni/dhcp.sock";

const SUBNET_MASK: u8 = 1;
const ROUTERS: u8 = 3;
const PARAMETER_REQUEST_LIST: u8 = 55;

/// What a run needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhcpConfig {
    /// The daemon's socket.
    pub socket: PathBuf,
    /// Protocols to get an address by, each once.
    pub families: Vec<Family>,
    /// Options that every message for IPv4 has.
    pub options: Vec<(u8, Vec<u8>)>,
    /// Metric of the routes; `None` for the kernel's.
    pub priority: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Document {
    ipam: Ipam,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Ipam {
    provide: Vec<Provided>,
    request: Vec<Requested>,
    priority: i64,
    families: Option<Vec<Family>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Provided {
    option: String,
    value: String,
    from_arg: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Requested {
    option: String,
    skip_default: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Socket {
    #[serde(rename = "daemonSocketPath")]
    path: String,
}

/// The daemon's socket: all that operations other than ADD need to know.
pub fn socket(request: &Request) -> Result<PathBuf, CniError> {
    let given = request.key::<Socket>("ipam")?.path;
    Ok(if given.is_empty() { DEFAULT_SOCKET.into() } else { given.into() })
}

impl DhcpConfig {
    /// From a request's configuration and its environment.
    pub fn load(request: &Request) -> Result<Self, CniError> {
        let Document { ipam } = request.config()?;
        let mut options = Vec::new();
        for provided in &ipam.provide {
            let code = code(&provided.option)?;
            let argument = request.args.iter().find(|(key, _)| *key == provided.from_arg);
            let given = Some(&provided.value).filter(|value| !value.is_empty());
            // The runtime's argument has the last word.
            let Some(value) = argument.map(|(_, value)| value).or(given) else { continue };
            if value.len() > 255 {
                return Err(CniError::config(format!(
                    "value too long for option {:?}: more than 255 bytes",
                    provided.option
                )));
            }
            set(&mut options, code, value.as_bytes().to_vec());
        }
        let mut wanted = Vec::new();
        for requested in ipam.request.iter().filter(|requested| !requested.option.is_empty()) {
            wanted.push(code(&requested.option)?);
        }
        if !ipam.request.iter().any(|requested| requested.skip_default) {
            wanted.extend(
                [ROUTERS, SUBNET_MASK].iter().filter(|code| !wanted.contains(code)).collect::<Vec<_>>(),
            );
        }
        if !wanted.is_empty() {
            set(&mut options, PARAMETER_REQUEST_LIST, wanted);
        }
        let priority = u32::try_from(ipam.priority)
            .map_err(|_| CniError::config(format!("`priority` {} is no metric of a route", ipam.priority)))?;
        let mut families = ipam.families.unwrap_or_else(|| vec![Family::Ipv4]);
        families.sort();
        families.dedup();
        if families.is_empty() {
            return Err(CniError::config("`families` is empty: name ipv4, ipv6 or both, or leave it out"));
        }
        Ok(Self {
            socket: socket(request)?,
            families,
            options,
            priority: Some(priority).filter(|priority| *priority != 0),
        })
    }
}

fn set(options: &mut Vec<(u8, Vec<u8>)>, code: u8, value: Vec<u8>) {
    options.retain(|(other, _)| *other != code);
    options.push((code, value));
}

/// The number of an option given by name or number. Those that make a message what it is are not anybody's to set.
fn code(option: &str) -> Result<u8, CniError> {
    const PAD: u8 = 0;
    const END: u8 = 255;
    let code = match option {
        "dhcp-client-identifier" => message4::CLIENT,
        "subnet-mask" => SUBNET_MASK,
        "routers" => ROUTERS,
        "host-name" => 12,
        "user-class" => 77,
        "vendor-class-identifier" => 60,
        number => number.parse().map_err(|_| {
            CniError::config(format!(
                "can not parse option {option:?}: neither a name that is known nor a number"
            ))
        })?,
    };
    if matches!(code, PAD | END) {
        return Err(CniError::config(format!("option {code} is not an option but what is between them")));
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::request::Environment;
    use serde_json::{Value, json};

    fn load(args: &str, ipam: Value) -> Result<DhcpConfig, CniError> {
        let config = json!({"cniVersion": "1.0.0", "name": "pods", "type": "x", "ipam": ipam});
        let environment = Environment {
            command: "ADD".into(),
            container_id: "c".into(),
            netns: "/n".into(),
            ifname: "eth0".into(),
            args: args.into(),
            path: "/p".into(),
            netns_override: false,
        };
        DhcpConfig::load(&Request::parse(&environment, config.to_string().into_bytes()).unwrap())
    }

    #[test]
    fn defaults_are_the_references() {
        let config = load("", json!({"type": "dhcp"})).unwrap();
        assert_eq!(config.socket, PathBuf::from(DEFAULT_SOCKET));
        assert_eq!(config.families, [Family::Ipv4]);
        assert_eq!(config.options, [(PARAMETER_REQUEST_LIST, vec![ROUTERS, SUBNET_MASK])]);
        assert_eq!(config.priority, None);
    }

    #[test]
    fn options_are_provided_and_requested() {
        let config = load(
            "IgnoreUnknown=1;K8S_POD_NAME=web",
            json!({"daemonSocketPath": "/s", "priority": 5, "families": ["ipv6", "ipv4", "ipv6"],
                "provide": [{"option": "host-name", "value": "x", "fromArg": "K8S_POD_NAME"},
                            {"option": "60", "value": "cairn"}, {"option": "77", "fromArg": "NOT_THERE"}],
                "request": [{"option": "121"}, {"option": "3"}]}),
        )
        .unwrap();
        assert_eq!(config.families, [Family::Ipv4, Family::Ipv6]);
        assert_eq!((config.priority, config.socket.to_str()), (Some(5), Some("/s")));
        let expected = [(12, b"web".to_vec()), (60, b"cairn".to_vec()), (55, vec![121, 3, 1])];
        assert_eq!(config.options, expected);
        let none = load("", json!({"request": [{"skipDefault": true}]})).unwrap();
        assert!(none.options.is_empty());
    }

    #[test]
    fn mistakes_are_named() {
        for (ipam, part) in [
            (json!({"provide": [{"option": "hostname", "value": "x"}]}), "hostname"),
            (json!({"provide": [{"option": "12", "value": "x".repeat(256)}]}), "too long"),
            (json!({"request": [{"option": "256"}]}), "256"),
            (json!({"request": [{"option": "0"}]}), "option 0"),
            (json!({"priority": -1}), "priority"),
            (json!({"families": []}), "families"),
            (json!({"families": ["ipx"]}), "ipx"),
        ] {
            let error = load("", ipam.clone()).unwrap_err();
            assert!(error.message.contains(part) && error.code.number() == 7, "{ipam}: {error}");
        }
    }
}
