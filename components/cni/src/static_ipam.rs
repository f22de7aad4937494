//! `static`: addresses as the configuration says them.

use crate::{
    network::{IpNetwork, canonical},
    protocol::{
        error::CniError,
        request::Request,
        result::{CniResult, Dns, IpConfig, Route},
    },
};
use serde::Deserialize;
use std::net::IpAddr;

#[derive(Deserialize)]
struct Document {
    ipam: Option<Ipam>,
    #[serde(default, rename = "runtimeConfig")]
    runtime: Addresses,
    #[serde(default)]
    args: Args,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Args {
    cni: Addresses,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Addresses {
    ips: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Ipam {
    addresses: Vec<Address>,
    routes: Vec<Route>,
    dns: Dns,
}

#[derive(Deserialize)]
struct Address {
    address: String,
    #[serde(default)]
    gateway: Option<IpAddr>,
}

/// The addresses: the configuration's own and those of CNI_ARGS, replaced by those of `args`, replaced by those of
/// the `ips` capability.
fn load(request: &Request) -> Result<CniResult, CniError> {
    let document: Document = request.config()?;
    let ipam = document.ipam.ok_or_else(|| CniError::config("IPAM config missing 'ipam' key"))?;
    let mut ips = Vec::new();
    let given = [document.runtime.ips, document.args.cni.ips].into_iter().find(|ips| !ips.is_empty());
    match given {
        Some(given) => {
            for text in &given {
                ips.push(parse(text)?);
            }
        }
        None => {
            for configured in &ipam.addresses {
                ips.push(IpConfig {
                    gateway: configured.gateway.map(canonical),
                    ..parse(&configured.address)?
                });
            }
            for text in listed(request, "IP") {
                ips.push(parse(text)?);
            }
            for text in listed(request, "GATEWAY") {
                let gateway: IpAddr = text
                    .parse()
                    .map_err(|_| CniError::config(format!("CNI_ARGS: invalid gateway address: {text}")))?;
                for ip in ips.iter_mut().filter(|ip| ip.address.contains(gateway)) {
                    ip.gateway = Some(gateway);
                }
            }
        }
    }
    request.version.check_room(ips.iter().map(|ip| ip.address.address.is_ipv4()))?;
    Ok(CniResult { ips, routes: ipam.routes, dns: ipam.dns, ..CniResult::default() })
}

fn listed<'a>(request: &'a Request, key: &str) -> impl Iterator<Item = &'a str> {
    request.arg(key).unwrap_or_default().split(',').map(str::trim).filter(|text| !text.is_empty())
}

fn parse(text: &str) -> Result<IpConfig, CniError> {
    let address: IpNetwork = text.trim().parse().map_err(|_| {
        CniError::config(format!("the 'ip' field is expected to be in CIDR notation, got: '{text}'"))
    })?;
    Ok(IpConfig { version: None, interface: None, address, gateway: None })
}

pub(crate) fn read(request: &Request) -> Result<(), CniError> {
    load(request).map(drop)
}

/// The result is the configuration.
pub fn add(request: &Request) -> Result<CniResult, CniError> {
    load(request)
}

/// Nothing was kept, so nothing is to be freed.
pub fn del(_request: &Request) -> Result<(), CniError> {
    Ok(())
}

/// Every address is in `prevResult`, with its gateway.
pub fn check(request: &Request) -> Result<(), CniError> {
    let expected = load(request)?;
    let previous =
        request.previous_result()?.ok_or_else(|| CniError::config("Required prevResult missing"))?;
    for ip in &expected.ips {
        let found = previous.ips.iter().find(|found| found.address.address == ip.address.address);
        if found.is_none_or(|found| ip.gateway.is_some() && found.gateway != ip.gateway) {
            return Err(CniError::internal(format!(
                "static: Failed to match addr {} on interface {}",
                ip.address.address, request.attachment.ifname
            )));
        }
    }
    Ok(())
}

/// The configuration is good.
pub fn status(request: &Request) -> Result<(), CniError> {
    load(request).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::request::Environment;
    use serde_json::{Value, json};

    fn ips(args: &str, extra: Value, ipam: Value) -> Result<Vec<String>, CniError> {
        let mut config = json!({"cniVersion": "1.0.0", "name": "n", "type": "static", "ipam": ipam});
        config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let environment = Environment {
            command: "ADD".into(),
            container_id: "c".into(),
            netns: "/n".into(),
            ifname: "eth0".into(),
            args: args.into(),
            path: "/p".into(),
            netns_override: false,
        };
        let request = Request::parse(&environment, config.to_string().into_bytes())?;
        let shown = |ip: IpConfig| format!("{} {:?}", ip.address, ip.gateway.map(|g| g.to_string()));
        Ok(load(&request)?.ips.into_iter().map(shown).collect())
    }

    #[test]
    fn the_most_particular_source_of_addresses_wins() {
        let ipam = json!({"addresses": [{"address": "10.1.0.5/24", "gateway": "10.1.0.1"}, {"address": "fd00::5/64"}]});
        let own = ["10.1.0.5/24 Some(\"10.1.0.1\")", "fd00::5/64 None"];
        assert_eq!(ips("", json!({}), ipam.clone()).unwrap(), own);
        assert_eq!(
            ips("IP=10.2.0.5/24,fd01::5/64;GATEWAY=10.2.0.1", json!({}), json!({})).unwrap(),
            ["10.2.0.5/24 Some(\"10.2.0.1\")", "fd01::5/64 None"]
        );
        let (args, runtime) = (json!({"cni": {"ips": ["10.3.0.5/24"]}}), json!({"ips": ["10.1.0.9/24"]}));
        assert_eq!(ips("", json!({"args": args}), ipam.clone()).unwrap(), ["10.3.0.5/24 None"]);
        assert_eq!(
            ips("", json!({"args": args, "runtimeConfig": runtime}), ipam).unwrap(),
            ["10.1.0.9/24 None"]
        );
    }

    #[test]
    fn what_is_not_an_address_is_refused() {
        for (args, ipam) in [
            ("", json!({"addresses": [{"address": "10.1.0.5"}]})),
            ("IP=10.1.0.5", json!({})),
            ("GATEWAY=x", json!({})),
            ("", json!({"addresses": [{"gateway": "10.1.0.1"}]})),
        ] {
            assert_eq!(ips(args, json!({}), ipam).unwrap_err().code.number(), 7, "{args}");
        }
        assert!(ips("", json!({"ipam": null}), json!(null)).is_err());
        let two = json!({"addresses": [{"address": "10.1.0.5/24"}, {"address": "10.2.0.5/24"}]});
        let error = ips("", json!({"cniVersion": "0.2.0"}), two).unwrap_err();
        assert!(error.message.contains("more than 1 address per family"), "{error}");
    }
}
