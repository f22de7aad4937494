//! Configuration of `bridge`.

use crate::{
    interface, masquerade,
    netlink::link::Mac,
    protocol::{error::CniError, request::Request, result::Dns},
};
use serde::Deserialize;
use std::collections::BTreeSet;

/// What a run needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeConfig {
    /// Name of the bridge.
    pub bridge: String,
    /// Give the bridge the pods' gateway addresses.
    pub is_gateway: bool,
    /// And route everything there.
    pub is_default_gateway: bool,
    /// Replace an address of the bridge that is in the way.
    pub force_address: bool,
    /// Masquerade what pods send out of their network.
    pub masquerade: bool,
    /// Of bridge and veth; `None` for the kernel's.
    pub mtu: Option<u32>,
    /// Pods may reach themselves through the bridge.
    pub hairpin: bool,
    /// Bridge interface is promiscuous.
    pub promiscuous: bool,
    /// Native VLAN of the port, 1 to 4094.
    pub vlan: Option<u16>,
    /// Tagged VLANs of the port.
    pub trunk: BTreeSet<u16>,
    /// Keep VLAN 1 on the port, untagged. The reference's documentation calls that the default; what it does (1.9.1) is not to.
    pub preserve_default_vlan: bool,
    /// Ports of pods cannot reach each other.
    pub isolated: bool,
    /// Drop what the pod sends under another hardware address than its own.
    pub check_source: bool,
    /// Wait for IPv6 duplicate address detection.
    pub detect_duplicates: bool,
    /// Leave the pod's interface down.
    pub leave_down: bool,
    /// Hardware address of the pod's interface.
    pub mac: Option<Mac>,
    /// IPAM plugin; `None` is layer 2 only.
    pub ipam: Option<String>,
    /// Replaces the IPAM plugin's.
    pub dns: Dns,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Document {
    bridge: String,
    is_gateway: bool,
    is_default_gateway: bool,
    force_address: bool,
    ip_masq: bool,
    ip_masq_backend: String,
    mtu: i64,
    hairpin_mode: bool,
    promisc_mode: bool,
    vlan: i64,
    vlan_trunk: Vec<Trunk>,
    preserve_default_vlan: bool,
    port_isolation: bool,
    #[serde(rename = "macspoofchk")]
    mac_spoof_check: bool,
    #[serde(rename = "enabledad")]
    enable_dad: bool,
    disable_container_interface: bool,
    ipam: Ipam,
    dns: Dns,
    args: Args,
    runtime_config: MacArgument,
}

impl Default for Document {
    fn default() -> Self {
        Self {
            bridge: "cni0".to_owned(),
            is_gateway: false,
            is_default_gateway: false,
            force_address: false,
            ip_masq: false,
            ip_masq_backend: String::new(),
            mtu: 0,
            hairpin_mode: false,
            promisc_mode: false,
            vlan: 0,
            vlan_trunk: Vec::new(),
            // As in the reference, where absent means false although its documentation says true.
            preserve_default_vlan: false,
            port_isolation: false,
            mac_spoof_check: false,
            enable_dad: false,
            disable_container_interface: false,
            ipam: Ipam::default(),
            dns: Dns::default(),
            args: Args::default(),
            runtime_config: MacArgument::default(),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Ipam {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Args {
    cni: MacArgument,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct MacArgument {
    mac: String,
}

#[derive(Deserialize)]
struct Trunk {
    #[serde(rename = "minID")]
    min: Option<i64>,
    #[serde(rename = "maxID")]
    max: Option<i64>,
    id: Option<i64>,
}

impl BridgeConfig {
    /// From a request's configuration, its environment and the runtime's capability arguments.
    pub fn load(request: &Request) -> Result<Self, CniError> {
        let document: Document = request.config()?;
        let invalid = |message: &str| Err(CniError::config(message));
        masquerade::check_backend(&document.ip_masq_backend)?;
        if document.hairpin_mode && document.promisc_mode {
            return invalid("cannot set hairpin mode and promiscuous mode at the same time");
        }
        if document.disable_container_interface && !document.ipam.kind.is_empty() {
            return invalid("cannot use IPAM when DisableContainerInterface flag is set");
        }
        let name = &document.bridge;
        if name.is_empty()
            || name.len() > 15
            || name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
        {
            return Err(CniError::config(format!(
                "`bridge` {name:?} is not an interface name of at most 15 characters"
            )));
        }
        let vlan = vlan_id(document.vlan, 0).ok_or_else(|| {
            CniError::config(format!("invalid VLAN ID {} (must be between 0 and 4094)", document.vlan))
        })?;
        let mtu = interface::mtu(document.mtu)?;
        // The runtime's capability argument has the last word, then the configuration's `args`, then CNI_ARGS.
        let macs = [
            document.runtime_config.mac.as_str(),
            document.args.cni.mac.as_str(),
            request.arg("MAC").unwrap_or_default(),
        ];
        let mac = macs.into_iter().find(|mac| !mac.is_empty()).map(str::parse::<Mac>).transpose();
        Ok(Self {
            bridge: document.bridge,
            is_gateway: document.is_gateway || document.is_default_gateway,
            is_default_gateway: document.is_default_gateway,
            force_address: document.force_address,
            masquerade: document.ip_masq,
            mtu,
            hairpin: document.hairpin_mode,
            promiscuous: document.promisc_mode,
            vlan: Some(vlan).filter(|vlan| *vlan != 0),
            trunk: trunk(&document.vlan_trunk)?,
            preserve_default_vlan: document.preserve_default_vlan,
            isolated: document.port_isolation,
            check_source: document.mac_spoof_check,
            detect_duplicates: document.enable_dad,
            leave_down: document.disable_container_interface,
            mac: mac.map_err(|e| CniError::config(format!("`mac`: {e}")))?,
            ipam: Some(document.ipam.kind).filter(|kind| !kind.is_empty()),
            dns: document.dns,
        })
    }

    /// Whether the bridge tells VLANs apart.
    pub fn vlan_filtering(&self) -> bool {
        self.vlan.is_some() || !self.trunk.is_empty()
    }
}

fn vlan_id(number: i64, lowest: u16) -> Option<u16> {
    u16::try_from(number).ok().filter(|id| (lowest..=4094).contains(id))
}

fn trunk(items: &[Trunk]) -> Result<BTreeSet<u16>, CniError> {
    let checked = |key: &str, number: i64| {
        vlan_id(number, 1).ok_or_else(|| {
            CniError::config(format!("incorrect trunk {key} parameter {number} (must be 1 to 4094)"))
        })
    };
    let mut vlans = BTreeSet::new();
    for item in items {
        match (item.min, item.max) {
            (Some(min), Some(max)) if max < min => {
                return Err(CniError::config("minID is greater than maxID in trunk parameter"));
            }
            (Some(min), Some(max)) => vlans.extend(checked("minID", min)?..=checked("maxID", max)?),
            (None, None) => {}
            _ => {
                return Err(CniError::config(
                    "minID and maxID should be configured simultaneously, one is missing",
                ));
            }
        }
        if let Some(id) = item.id {
            vlans.insert(checked("id", id)?);
        }
    }
    Ok(vlans)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::request::Environment;
    use serde_json::{Value, json};

    fn load(args: &str, settings: Value) -> Result<BridgeConfig, CniError> {
        let mut config = json!({"cniVersion": "1.0.0", "name": "pods", "type": "bridge"});
        config.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let environment = Environment {
            command: "ADD".into(),
            container_id: "c".into(),
            netns: "/n".into(),
            ifname: "eth0".into(),
            args: args.into(),
            path: "/p".into(),
            netns_override: false,
        };
        BridgeConfig::load(&Request::parse(&environment, config.to_string().into_bytes()).unwrap())
    }

    #[test]
    fn defaults_are_the_references() {
        let config = load("", json!({})).unwrap();
        assert_eq!(
            (config.bridge.as_str(), config.mtu, config.ipam, config.vlan),
            ("cni0", None, None, None)
        );
        assert!(load("", json!({"isDefaultGateway": true})).unwrap().is_gateway);
        assert_eq!(load("", json!({"mtu": 0, "vlan": 0, "ipam": {}})).unwrap().vlan, None);
    }

    #[test]
    fn the_runtimes_hardware_address_wins() {
        let (args, capability) =
            (json!({"cni": {"mac": "02:00:00:00:00:01"}}), json!({"mac": "02:00:00:00:00:03"}));
        let mac = |args: &str, settings| load(args, settings).unwrap().mac.unwrap().to_string();
        assert_eq!(mac("", json!({"args": args})), "02:00:00:00:00:01");
        assert_eq!(mac("MAC=02:00:00:00:00:02", json!({"args": args})), "02:00:00:00:00:01");
        assert_eq!(mac("MAC=02:00:00:00:00:02", json!({})), "02:00:00:00:00:02");
        assert_eq!(
            mac("MAC=02:00:00:00:00:02", json!({"args": args, "runtimeConfig": capability})),
            "02:00:00:00:00:03"
        );
    }

    #[test]
    fn trunks_are_sets_of_ids_and_ranges() {
        let config =
            load("", json!({"vlanTrunk": [{"minID": 10, "maxID": 12}, {"id": 100}, {"id": 11}]})).unwrap();
        assert_eq!(config.trunk.into_iter().collect::<Vec<_>>(), [10, 11, 12, 100]);
    }

    #[test]
    fn mistakes_are_named() {
        for (settings, code, part) in [
            (json!({"vlan": 4095}), 7, "invalid VLAN ID 4095"),
            (json!({"vlan": -1}), 7, "invalid VLAN ID -1"),
            (json!({"mtu": -5}), 7, "invalid mtu"),
            (json!({"bridge": "a/b"}), 7, "a/b"),
            (json!({"isGateway": "yes"}), 7, "invalid type"),
            (json!({"hairpinMode": true, "promiscMode": true}), 7, "hairpin"),
            (json!({"ipMasqBackend": "pf"}), 7, "pf"),
            (json!({"macspoofchk": 1}), 7, "invalid type"),
            (json!({"vlanTrunk": [{"minID": 5}]}), 7, "minID and maxID"),
            (json!({"vlanTrunk": [{"minID": 5, "maxID": 4}]}), 7, "greater"),
            (json!({"vlanTrunk": [{"id": 0}]}), 7, "id parameter 0"),
            (json!({"runtimeConfig": {"mac": "x"}}), 7, "hardware address"),
            (json!({"disableContainerInterface": true, "ipam": {"type": "x"}}), 7, "IPAM"),
        ] {
            let error = load("", settings.clone()).unwrap_err();
            assert!(error.message.contains(part) && error.code.number() == code, "{settings}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_setting_is_taken_or_refused(key in "isGateway|mtu|vlan|vlanTrunk|bridge|ipam|args|runtimeConfig|dns",
                                           number in proptest::num::i64::ANY, text in ".{0,20}", which in 0..5) {
            let value = match which {
                0 => json!(number),
                1 => json!(text),
                2 => json!([{ "id": number, "minID": number, "maxID": number }]),
                3 => json!({ "mac": text, "type": text, "cni": { "mac": text } }),
                _ => json!(number % 2 == 0),
            };
            if let Ok(config) = load("", json!({ key: value })) {
                proptest::prop_assert!(config.vlan.is_none_or(|v| (1..=4094).contains(&v)));
                proptest::prop_assert!(!config.bridge.is_empty() && config.bridge.len() <= 15);
                proptest::prop_assert!(config.trunk.iter().all(|v| (1..=4094).contains(v)));
            }
        }
    }
}
