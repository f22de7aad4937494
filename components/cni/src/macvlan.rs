//! `macvlan`: an interface with its own hardware address on the wire of one of the host's.

use crate::{
    interface::{self, DnsFrom, WithoutIpam},
    netlink::{
        device::{Kind, MacvlanMode},
        link::Mac,
    },
    netns::NetNs,
    parent::ParentConfig,
    protocol::{error::CniError, request::Request, result::CniResult},
};
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Document {
    mode: String,
    mac: String,
    #[serde(rename = "bcqueuelen")]
    broadcast_queue: u32,
    runtime_config: Runtime,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Runtime {
    mac: String,
}

#[derive(Debug)]
struct MacvlanConfig {
    parent: ParentConfig,
    kind: Kind,
    mac: Option<Mac>,
}

impl MacvlanConfig {
    fn load(request: &Request) -> Result<Self, CniError> {
        let document: Document = request.config()?;
        let mode = match document.mode.as_str() {
            "" => MacvlanMode::Bridge,
            name => MacvlanMode::ALL
                .into_iter()
                .find(|mode| mode.name() == name)
                .ok_or_else(|| CniError::config(format!("unknown macvlan mode: {name:?}")))?,
        };
        let macs =
            [&document.runtime_config.mac, request.arg("MAC").unwrap_or_default(), document.mac.as_str()];
        let mac = macs.into_iter().find(|mac| !mac.is_empty()).map(str::parse::<Mac>).transpose();
        Ok(Self {
            parent: request.config()?,
            kind: Kind::Macvlan {
                mode,
                broadcast_queue: Some(document.broadcast_queue).filter(|length| *length > 0),
            },
            mac: mac.map_err(|e| CniError::config(format!("`mac`: {e}")))?,
        })
    }
}

pub(crate) fn read(request: &Request) -> Result<(), CniError> {
    MacvlanConfig::load(request)?;
    interface::read(request)
}

/// Makes the interface.
pub fn add(request: &Request) -> Result<CniResult, CniError> {
    let config = MacvlanConfig::load(request)?;
    let make = |netns: &NetNs| config.parent.make(request, netns, config.kind, config.mac);
    interface::add(request, WithoutIpam::LayerTwo, DnsFrom::Configuration, make, interface::remove(request))
}

/// Removes it.
pub fn del(request: &Request) -> Result<(), CniError> {
    interface::del(request, interface::remove(request))
}

/// Interface, its mode, parent, addresses and routes are as ADD left them.
pub fn check(request: &Request) -> Result<(), CniError> {
    let config = MacvlanConfig::load(request)?;
    let link = interface::check(request, None)?;
    interface::check_kind(&link, config.kind)?;
    config.parent.check(&NetNs::required(request.netns()?)?, &link)
}
