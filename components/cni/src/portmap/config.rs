//! Configuration of `portmap`.

use crate::{
    netlink::nftables::{Field, Transport},
    network::{IpNetwork, canonical},
    protocol::{
        error::{CniError, Code},
        request::Request,
        result::CniResult,
    },
};
use serde::Deserialize;
use std::net::IpAddr;

/// What a run needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortmapConfig {
    /// Ports to forward.
    pub mappings: Vec<PortMapping>,
    /// Rewrite sources where answers would not find back otherwise.
    pub snat: bool,
    /// Rewrite every source.
    pub masquerade_all: bool,
    /// What a connection must be like to be forwarded, IPv4 and IPv6 together.
    pub conditions: Vec<Condition>,
}

/// One host port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortMapping {
    /// On this address of the host only; `None` is all.
    pub host_ip: Option<IpAddr>,
    /// For this family only, as an unspecified `hostIP` says.
    pub ipv4_only: Option<bool>,
    /// Port of the host.
    pub host_port: u16,
    /// Port of the pod.
    pub container_port: u16,
    /// Protocol.
    pub transport: Transport,
}

impl PortMapping {
    /// Whether it concerns the pod's address of that family.
    pub fn is_for(&self, ipv4: bool) -> bool {
        self.ipv4_only.is_none_or(|only| only == ipv4)
    }
}

/// The connection's source or destination is, or is not, in a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Which address.
    pub field: Field,
    /// Which network.
    pub network: IpNetwork,
    /// Is, or is not.
    pub inside: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default = "yes")]
    snat: bool,
    #[serde(default)]
    masq_all: bool,
    backend: Option<String>,
    #[serde(default, rename = "conditionsV4")]
    conditions_v4: Vec<String>,
    #[serde(default, rename = "conditionsV6")]
    conditions_v6: Vec<String>,
    mark_masq_bit: Option<i64>,
    external_set_mark_chain: Option<String>,
    #[serde(default)]
    runtime_config: Runtime,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Runtime {
    port_mappings: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    host_port: i64,
    #[serde(default)]
    container_port: i64,
    #[serde(default)]
    protocol: String,
    #[serde(default, rename = "hostIP")]
    host_ip: String,
}

fn yes() -> bool {
    true
}

impl PortmapConfig {
    /// From a request's configuration.
    pub fn load(request: &Request) -> Result<Self, CniError> {
        let document: Document = request.config()?;
        match document.backend.as_deref() {
            // What iptables would do is done by nf_tables.
            None | Some("" | "nftables" | "iptables") => {}
            Some(other) => return Err(CniError::config(format!("unrecognized backend {other:?}"))),
        }
        // Marks, one's own or another's chain that sets them, are how the iptables backend remembers what to masquerade;
        // conntrack tells us.
        if document.external_set_mark_chain.is_some() && document.mark_masq_bit.is_some() {
            return Err(CniError::config("Cannot specify externalSetMarkChain and markMasqBit"));
        }
        if document.mark_masq_bit.is_some_and(|bit| !(0..=31).contains(&bit)) {
            return Err(CniError::config("MasqMarkBit must be between 0 and 31"));
        }
        let mut conditions = parse_conditions("conditionsV4", &document.conditions_v4, true)?;
        conditions.extend(parse_conditions("conditionsV6", &document.conditions_v6, false)?);
        Ok(Self {
            mappings: document.runtime_config.port_mappings.iter().map(mapping).collect::<Result<_, _>>()?,
            snat: document.snat,
            masquerade_all: document.masq_all,
            conditions,
        })
    }
}

fn mapping(entry: &Entry) -> Result<PortMapping, CniError> {
    let port = |what: &str, number: i64| {
        let port = u16::try_from(number).ok().filter(|port| *port != 0);
        port.ok_or_else(|| CniError::config(format!("Invalid {what} port number: {number}")))
    };
    let transport = match entry.protocol.to_ascii_lowercase().as_str() {
        "tcp" | "" => Transport::Tcp,
        "udp" => Transport::Udp,
        "sctp" => Transport::Sctp,
        other => {
            return Err(CniError::config(format!("unsupported protocol {other:?}: not tcp, udp or sctp")));
        }
    };
    let host_ip = match entry.host_ip.as_str() {
        "" => None,
        text => Some(canonical(
            text.parse().map_err(|_| CniError::config(format!("hostIP {text:?} is not an IP address")))?,
        )),
    };
    Ok(PortMapping {
        host_ip: host_ip.filter(|ip| !ip.is_unspecified()),
        ipv4_only: host_ip.map(|ip| ip.is_ipv4()),
        host_port: port("host", entry.host_port)?,
        container_port: port("container", entry.container_port)?,
        transport,
    })
}

/// Address conditions in the words of iptables (`! -d 192.0.2.0/24`) or nft (`ip daddr != 192.0.2.0/24`).
fn parse_conditions(key: &str, words: &[String], ipv4: bool) -> Result<Vec<Condition>, CniError> {
    let refuse = || {
        let message = format!(
            "`{key}` {words:?} is not supported here: only source and destination networks are, \
             as in [\"!\", \"-d\", \"192.0.2.0/24\"] or [\"ip\", \"daddr\", \"!=\", \"192.0.2.0/24\"]"
        );
        CniError::new(Code::UnsupportedField, message)
    };
    let words: Vec<&str> = words.iter().flat_map(|w| w.split_whitespace()).collect();
    let mut conditions = Vec::new();
    let mut rest = &words[..];
    while !rest.is_empty() {
        let (field, inside, network, length) = match rest {
            ["!", flag @ ("-s" | "--source" | "-d" | "--destination"), network, ..] => {
                (*flag, false, *network, 3)
            }
            [flag @ ("-s" | "--source" | "-d" | "--destination"), network, ..] => (*flag, true, *network, 2),
            ["ip" | "ip6", flag @ ("saddr" | "daddr"), "!=", network, ..] => (*flag, false, *network, 4),
            ["ip" | "ip6", flag @ ("saddr" | "daddr"), "==", network, ..] => (*flag, true, *network, 4),
            ["ip" | "ip6", flag @ ("saddr" | "daddr"), network, ..] => (*flag, true, *network, 3),
            _ => return Err(refuse()),
        };
        let network = match network.parse::<IpAddr>() {
            Ok(address) => IpNetwork { address, prefix: crate::network::bits(address) },
            Err(_) => network.parse().map_err(|_| refuse())?,
        };
        if network.address.is_ipv4() != ipv4 {
            return Err(refuse());
        }
        let source = matches!(field, "-s" | "--source" | "saddr");
        let field = if source { Field::Source } else { Field::Destination };
        conditions.push(Condition { field, network, inside });
        rest = &rest[length..];
    }
    Ok(conditions)
}

/// The pod's addresses that ports are forwarded to: the first of each family on the attachment's interface.
pub fn pod_addresses(result: &CniResult, ifname: &str) -> Vec<IpNetwork> {
    let of_pod =
        |ip: &&crate::protocol::result::IpConfig| match ip.interface.and_then(|i| result.interfaces.get(i)) {
            Some(interface) => interface.name == ifname && !interface.sandbox.is_empty(),
            None => true,
        };
    let first = |ipv4: bool| {
        result
            .ips
            .iter()
            .filter(of_pod)
            .map(|ip| ip.address)
            .find(|network| network.address.is_ipv4() == ipv4)
    };
    [first(true), first(false)].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::request::Environment;
    use serde_json::{Value, json};

    fn load(settings: Value) -> Result<PortmapConfig, CniError> {
        let mut config = json!({"cniVersion": "1.0.0", "name": "pods", "type": "portmap"});
        config.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let environment = Environment {
            command: "ADD".into(),
            container_id: "c".into(),
            netns: "/n".into(),
            ifname: "eth0".into(),
            args: String::new(),
            path: "/p".into(),
            netns_override: false,
        };
        PortmapConfig::load(&Request::parse(&environment, config.to_string().into_bytes()).unwrap())
    }

    fn mapping(entry: Value) -> Result<PortMapping, CniError> {
        load(json!({"runtimeConfig": {"portMappings": [entry]}})).map(|config| config.mappings[0])
    }

    #[test]
    fn mappings_are_read_as_runtimes_write_them() {
        let all =
            mapping(json!({"hostPort": 8080, "containerPort": 80, "protocol": "TCP", "hostIP": ""})).unwrap();
        assert!(all.is_for(true) && all.is_for(false) && all.host_ip.is_none());
        let v6 =
            mapping(json!({"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "::"})).unwrap();
        assert!(!v6.is_for(true) && v6.is_for(false) && v6.host_ip.is_none());
        let one =
            mapping(json!({"hostPort": 1, "containerPort": 2, "protocol": "sctp", "hostIP": "192.0.2.1"}))
                .unwrap();
        assert_eq!((one.host_ip, one.transport), (Some("192.0.2.1".parse().unwrap()), Transport::Sctp));
    }

    #[test]
    fn conditions_in_either_language() {
        let config = load(json!({"conditionsV4": ["!", "-d", "192.0.2.0/24", "-s", "10.0.0.1"],
                                 "conditionsV6": ["ip6", "daddr", "!=", "fc00::/7"]}))
        .unwrap();
        let texts: Vec<_> =
            config.conditions.iter().map(|c| format!("{:?} {} {}", c.field, c.inside, c.network)).collect();
        assert_eq!(
            texts,
            ["Destination false 192.0.2.0/24", "Source true 10.0.0.1/32", "Destination false fc00::/7"]
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (settings, code, part) in [
            (json!({"conditionsV4": ["-m", "mark"]}), 2, "conditionsV4"),
            (json!({"conditionsV4": ["-d", "fd00::/8"]}), 2, "conditionsV4"),
            (json!({"backend": "x"}), 7, "unrecognized backend"),
            (json!({"externalSetMarkChain": "KUBE-MARK-MASQ", "markMasqBit": 5}), 7, "externalSetMarkChain"),
            (json!({"markMasqBit": 32}), 7, "between 0 and 31"),
            (json!({"runtimeConfig": {"portMappings": {}}}), 7, "invalid type"),
        ] {
            let error = load(settings.clone()).unwrap_err();
            assert!(error.message.contains(part) && error.code.number() == code, "{settings}: {error}");
        }
        for (entry, part) in [
            (json!({"hostPort": 0, "containerPort": 80}), "Invalid host port number: 0"),
            (json!({"hostPort": 80, "containerPort": 65536}), "Invalid container port number: 65536"),
            (json!({"hostPort": 80, "containerPort": 80, "protocol": "icmp"}), "icmp"),
            (json!({"hostPort": 80, "containerPort": 80, "hostIP": "nowhere"}), "nowhere"),
        ] {
            let error = mapping(entry).unwrap_err();
            assert!(error.message.contains(part), "{error}");
        }
    }
}
