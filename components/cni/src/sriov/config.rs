//! Configuration of `sriov`.

use crate::{
    netlink::{
        link::Mac,
        vf::{VfSettings, VfVlan},
    },
    protocol::{error::CniError, request::Request},
};
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Document {
    #[serde(rename = "deviceID")]
    device: String,
    mac: String,
    vlan: Option<i64>,
    #[serde(rename = "vlanQoS")]
    qos: Option<i64>,
    #[serde(rename = "vlanProto")]
    protocol: Option<String>,
    spoofchk: String,
    trust: String,
    min_tx_rate: Option<u32>,
    max_tx_rate: Option<u32>,
    link_state: String,
    #[serde(rename = "runtimeConfig")]
    runtime: Runtime,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Runtime {
    #[serde(rename = "deviceID")]
    device: String,
    mac: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct SriovConfig {
    /// PCI address of the virtual function.
    pub(super) device: String,
    pub(super) settings: VfSettings,
}

impl SriovConfig {
    /// Whether the network itself, not the runtime for each pod, names the function.
    pub(super) fn names_device(request: &Request) -> Result<bool, CniError> {
        Ok(!request.config::<Document>()?.device.is_empty())
    }

    pub(super) fn load(request: &Request) -> Result<Self, CniError> {
        let document: Document = request.config()?;
        let device = [document.runtime.device, document.device]
            .into_iter()
            .find(|d| !d.is_empty())
            .unwrap_or_default();
        if device.is_empty() {
            return Err(CniError::config("`deviceID` is missing: the PCI address of a virtual function"));
        }
        if !is_pci_address(&device) {
            return Err(CniError::config(format!(
                "`deviceID` {device:?} is not a PCI address such as 0000:03:02.1"
            )));
        }
        let macs =
            [document.runtime.mac.as_str(), request.arg("MAC").unwrap_or_default(), document.mac.as_str()];
        let mac = macs.into_iter().find(|mac| !mac.is_empty());
        let mac = mac
            .map(|mac| mac.parse::<Mac>().map_err(|e| CniError::config(format!("`mac`: {e}"))))
            .transpose()?;
        let rate = match (document.min_tx_rate, document.max_tx_rate) {
            (None, None) => None,
            (min, max) => Some((min.unwrap_or(0), max.unwrap_or(0))),
        };
        if let Some((min, max)) = rate
            && max > 0
            && min > max
        {
            return Err(CniError::config(format!("`min_tx_rate` {min} is more than `max_tx_rate` {max}")));
        }
        Ok(Self {
            device,
            settings: VfSettings {
                mac: mac.map(|mac| mac.to_string()),
                vlan: vlan(document.vlan, document.qos, document.protocol.as_deref())?,
                spoof_check: switch("spoofchk", &document.spoofchk)?,
                trust: switch("trust", &document.trust)?,
                rate,
                link_state: link_state(&document.link_state)?,
            },
        })
    }
}

/// `0000:03:02.1`: domain, bus, device, function.
fn is_pci_address(text: &str) -> bool {
    let hex = |text: &str, length: usize| text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit());
    let parts: Vec<&str> = text.split([':', '.']).collect();
    let [domain, bus, device, function] = parts[..] else { return false };
    hex(domain, 4)
        && hex(bus, 2)
        && hex(device, 2)
        && hex(function, 1)
        && text.as_bytes()[7] == b':'
        && text.as_bytes()[10] == b'.'
}

fn vlan(id: Option<i64>, qos: Option<i64>, protocol: Option<&str>) -> Result<Option<VfVlan>, CniError> {
    let Some(id) = id else {
        return match (qos, protocol) {
            (None | Some(0), None) => Ok(None),
            _ => Err(CniError::config("`vlanQoS` and `vlanProto` need a `vlan`")),
        };
    };
    let range = |key: &str, value: i64, most: u16| {
        u16::try_from(value)
            .ok()
            .filter(|v| *v <= most)
            .ok_or_else(|| CniError::config(format!("`{key}` {value} is out of range (0 to {most})")))
    };
    let protocol = match protocol.map(str::to_ascii_lowercase).as_deref() {
        None | Some("" | "802.1q") => 0x8100,
        Some("802.1ad") => 0x88a8,
        Some(other) => {
            return Err(CniError::config(format!("`vlanProto` {other:?} is neither 802.1q nor 802.1ad")));
        }
    };
    let id = range("vlan", id, 4094)?;
    let qos = range("vlanQoS", qos.unwrap_or(0), 7)? as u8;
    if id == 0 && (qos > 0 || protocol != 0x8100) {
        return Err(CniError::config("`vlanQoS` and `vlanProto` need a `vlan` other than 0"));
    }
    Ok(Some(VfVlan { id, qos, protocol }))
}

fn switch(key: &str, text: &str) -> Result<Option<bool>, CniError> {
    match text {
        "" => Ok(None),
        "on" => Ok(Some(true)),
        "off" => Ok(Some(false)),
        other => Err(CniError::config(format!("`{key}` {other:?} is neither on nor off"))),
    }
}

fn link_state(text: &str) -> Result<Option<u32>, CniError> {
    match text {
        "" => Ok(None),
        "auto" => Ok(Some(0)),
        "enable" => Ok(Some(1)),
        "disable" => Ok(Some(2)),
        other => Err(CniError::config(format!("`link_state` {other:?} is not auto, enable or disable"))),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::protocol::request::Environment;
    use serde_json::{Value, json};

    pub(in crate::sriov) fn load(settings: Value) -> Result<SriovConfig, CniError> {
        let mut config =
            json!({"cniVersion": "1.1.0", "name": "n", "type": "sriov", "deviceID": "0000:03:02.1"});
        config.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let environment =
            Environment { command: "STATUS".into(), path: "/".into(), ..Environment::default() };
        SriovConfig::load(&Request::parse(&environment, config.to_string().into_bytes()).unwrap())
    }

    #[test]
    fn settings_are_read_and_mistakes_named() {
        let config =
            load(json!({"vlan": 100, "vlanQoS": 3, "vlanProto": "802.1ad", "spoofchk": "on", "trust": "off",
            "max_tx_rate": 1000, "link_state": "enable", "runtimeConfig": {"mac": "02:00:00:00:00:09"}}))
            .unwrap();
        assert_eq!(config.settings.vlan, Some(VfVlan { id: 100, qos: 3, protocol: 0x88a8 }));
        assert_eq!((config.settings.spoof_check, config.settings.trust), (Some(true), Some(false)));
        assert_eq!((config.settings.rate, config.settings.link_state), (Some((0, 1000)), Some(1)));
        assert_eq!(load(json!({})).unwrap().settings, VfSettings::default());
        for (settings, part) in [
            (json!({"deviceID": ""}), "`deviceID` is missing"),
            (json!({"deviceID": "../../etc"}), "not a PCI address"),
            (json!({"deviceID": "0000.03:02:1"}), "not a PCI address"),
            (json!({"vlan": 4095}), "`vlan` 4095"),
            (json!({"vlan": 5, "vlanQoS": 8}), "`vlanQoS` 8"),
            (json!({"vlan": 5, "vlanProto": "isl"}), "vlanProto"),
            (json!({"vlanQoS": 1}), "need a `vlan`"),
            (json!({"spoofchk": "yes"}), "neither on nor off"),
            (json!({"link_state": "up"}), "link_state"),
            (json!({"mac": "x"}), "hardware address"),
            (json!({"min_tx_rate": 5, "max_tx_rate": 1}), "more than"),
            (json!({"max_tx_rate": -1}), "invalid value"),
        ] {
            let error = load(settings.clone()).unwrap_err();
            assert!(error.code.number() == 7 && error.message.contains(part), "{settings}: {error}");
        }
    }
}
