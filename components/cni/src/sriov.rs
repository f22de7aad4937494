//! `sriov`: a virtual function of a network card, moved into the pod. Named by PCI address, which a device plugin
//! hands out; its hardware address, VLAN, trust, spoof check and rates are set through the physical function.
//!
//! What the function was like before is kept in `/var/lib/cni/sriov/<container id>_<ifname>.json` until DEL puts it
//! back. Configuration is that of the sriov-cni of the Kubernetes network plumbing group.

use crate::{
    host_device::give_back,
    interface::{self, DnsFrom, WithoutIpam},
    netlink::{
        link::{Link, Mac},
        route::RouteSocket,
        vf::{VfSettings, VfVlan},
    },
    netns::NetNs,
    protocol::{
        error::{CniError, Code},
        request::{Attachment, Request},
        result::{CniResult, pretty},
    },
};
use rustix::fd::AsFd;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

const RECORDS: &str = "/var/lib/cni/sriov";
const SYSFS: &str = "/sys";

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
struct SriovConfig {
    device: String,
    settings: VfSettings,
}

impl SriovConfig {
    fn load(request: &Request) -> Result<Self, CniError> {
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

/// A virtual function, found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Function {
    /// Its physical function's interface.
    physical: String,
    /// Its number there.
    number: u32,
}

impl Function {
    fn find(sysfs: &Path, device: &str) -> Result<Self, CniError> {
        let physical = sysfs.join("bus/pci/devices").join(device).join("physfn");
        let failed = |why: String| CniError::internal(format!("virtual function {device}: {why}"));
        if !physical.exists() {
            return Err(failed(format!(
                "{} is not there: no such device, or no virtual function",
                physical.display()
            )));
        }
        let entries = fs::read_dir(&physical).map_err(|e| failed(format!("{}: {e}", physical.display())))?;
        let number = entries.filter_map(Result::ok).find_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let number = name.strip_prefix("virtfn")?.parse().ok()?;
            let target = fs::read_link(entry.path()).ok()?;
            (target.file_name()?.to_str()? == device).then_some(number)
        });
        let number = number.ok_or_else(|| failed("its physical function does not list it".into()))?;
        Ok(Self { physical: interface_of(&physical).map_err(failed)?, number })
    }
}

/// The network interface of a PCI device.
fn interface_of(device: &Path) -> Result<String, String> {
    let directory = device.join("net");
    let mut entries = fs::read_dir(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    let first = entries.next().and_then(Result::ok).and_then(|entry| entry.file_name().into_string().ok());
    first.ok_or_else(|| format!("{}: no network interface there", directory.display()))
}

/// What DEL needs.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    network: String,
    function: Function,
    before: VfSettings,
}

fn record_name(attachment: &Attachment) -> String {
    format!("{}_{}.json", attachment.container_id, attachment.ifname)
}

fn record_path(request: &Request) -> PathBuf {
    Path::new(RECORDS).join(record_name(&request.attachment))
}

fn recorded(path: &Path) -> Result<Option<Record>, CniError> {
    match fs::read(path) {
        // A file cut short by a crash says nothing worth restoring.
        Ok(text) => Ok(serde_json::from_slice(&text).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CniError::io("reading", path, &error)),
    }
}

pub(crate) fn read(request: &Request) -> Result<(), CniError> {
    SriovConfig::load(request)?;
    interface::read(request)
}

/// Sets the function up and moves it into the pod.
pub fn add(request: &Request) -> Result<CniResult, CniError> {
    let config = SriovConfig::load(request)?;
    let name = &request.attachment.ifname;
    let path = record_path(request);
    let make = |netns: &NetNs| {
        let function = Function::find(Path::new(SYSFS), &config.device)?;
        let device = Path::new(SYSFS).join("bus/pci/devices").join(&config.device);
        let own = interface_of(&device).map_err(|why| {
            let message = format!("virtual function {} has no network interface: {why}", config.device);
            CniError::new(Code::UnsupportedField, message).details("userspace drivers are not supported here")
        })?;
        netns.enter(|| match interface::open()?.link(name) {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(CniError::internal(format!("container interface {name:?} already exists"))),
            Err(error) => Err(error.during(format_args!("looking for {name:?}"))),
        })?;
        let mut route = interface::open()?;
        let before = settings(&mut route, &function)?;
        save(&path, &Record { network: request.network.clone(), function: function.clone(), before })?;
        let link = interface::find(&mut route, &own)?;
        bring(&mut route, &config, &function, &link, netns, name).inspect_err(|_| {
            let _ = give_back(netns, name);
            let _ = restore(&path);
        })
    };
    let back = |netns: &NetNs| give_back(netns, name).and_then(|()| restore(&path));
    let mut result = interface::add(request, WithoutIpam::LayerTwo, DnsFrom::Configuration, make, back)?;
    if let Some(interface) = result.interfaces.first_mut() {
        interface.pci_id.clone_from(&config.device);
    }
    Ok(result)
}

fn physical(route: &mut RouteSocket, function: &Function) -> Result<u32, CniError> {
    interface::find(route, &function.physical).map(|link| link.index)
}

fn settings(route: &mut RouteSocket, function: &Function) -> Result<VfSettings, CniError> {
    let Function { physical: name, number } = function;
    let index = physical(route, function)?;
    route
        .vf(index, *number)
        .map_err(|e| e.during(format_args!("reading virtual function {number} of {name:?}")))?
        .ok_or_else(|| CniError::internal(format!("{name:?} has no virtual function {number}")))
}

fn set(route: &mut RouteSocket, function: &Function, settings: &VfSettings) -> Result<(), CniError> {
    let Function { physical: name, number } = function;
    if *settings == VfSettings::default() {
        return Ok(());
    }
    let index = physical(route, function)?;
    route
        .set_vf(index, *number, settings)
        .map_err(|e| e.during(format_args!("setting virtual function {number} of {name:?}")))
}

fn bring(
    route: &mut RouteSocket,
    config: &SriovConfig,
    function: &Function,
    link: &Link,
    netns: &NetNs,
    name: &str,
) -> Result<Link, CniError> {
    let during = |what: &str| format!("moving {:?} into the pod: {what}", link.name);
    route.set_up(link.index, false).map_err(|e| e.during(during("bringing it down")))?;
    set(route, function, &config.settings)?;
    if let Some(mac) = config.settings.mac.as_deref().and_then(|mac| mac.parse().ok()) {
        route.set_mac(link.index, mac).map_err(|e| e.during(during("setting its hardware address")))?;
    }
    route.set_alias(link.index, &link.name).map_err(|e| e.during(during("noting its name")))?;
    route.move_link(link.index, netns.as_fd(), name).map_err(|e| e.during(during("moving it")))?;
    netns.enter(|| {
        let mut route = interface::open()?;
        let arrived = interface::find(&mut route, name)?;
        route.set_up(arrived.index, true).map_err(|e| e.during(during("bringing it up")))?;
        Ok(arrived)
    })
}

fn save(path: &Path, record: &Record) -> Result<(), CniError> {
    let failed = |e: io::Error| CniError::io("writing", path, &e);
    fs::create_dir_all(RECORDS).map_err(failed)?;
    fs::write(path, pretty(record)).map_err(failed)
}

/// Puts the function back as a record says, and removes that.
fn restore(path: &Path) -> Result<(), CniError> {
    if let Some(record) = recorded(path)? {
        set(&mut interface::open()?, &record.function, &record.before)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CniError::io("removing", path, &error)),
        _ => Ok(()),
    }
}

/// Moves the function back and puts it back as it was. One that never came is none of ours to move.
pub fn del(request: &Request) -> Result<(), CniError> {
    let path = record_path(request);
    let ours = recorded(&path)?.is_some();
    let name = &request.attachment.ifname;
    interface::del(request, |netns: &NetNs| if ours { give_back(netns, name) } else { Ok(()) })?;
    restore(&path)
}

/// Interface, addresses, routes and the function's settings are as ADD left them.
pub fn check(request: &Request) -> Result<(), CniError> {
    let config = SriovConfig::load(request)?;
    interface::check(request, None)?;
    let function = Function::find(Path::new(SYSFS), &config.device)?;
    let found = settings(&mut interface::open()?, &function)?;
    differs(&config.settings, &found).map_or(Ok(()), |what| {
        Err(CniError::internal(format!("virtual function {}: {what} is not as configured", config.device)))
    })
}

/// What was asked for and is not so.
fn differs(wanted: &VfSettings, found: &VfSettings) -> Option<&'static str> {
    fn other<T: PartialEq>(wanted: &Option<T>, found: &Option<T>) -> bool {
        wanted.is_some() && wanted != found
    }
    [
        ("the hardware address", other(&wanted.mac, &found.mac)),
        ("the VLAN", other(&wanted.vlan, &found.vlan)),
        ("the spoof check", other(&wanted.spoof_check, &found.spoof_check)),
        ("trust", other(&wanted.trust, &found.trust)),
        ("the rate", other(&wanted.rate, &found.rate)),
        ("the link state", other(&wanted.link_state, &found.link_state)),
    ]
    .into_iter()
    .find_map(|(what, differs)| differs.then_some(what))
}

/// Puts back functions of attachments that are no more: the kernel has brought them home with their namespaces.
pub fn gc(request: &Request) -> Result<(), CniError> {
    let keep: Vec<String> = request.valid_attachments()?.iter().map(record_name).collect();
    for entry in fs::read_dir(RECORDS).into_iter().flatten().filter_map(Result::ok) {
        let path = entry.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let stale = !keep.iter().any(|kept| kept == name)
            && recorded(&path)?.is_some_and(|record| record.network == request.network);
        if stale {
            restore(&path)?;
        }
    }
    interface::gc(request)
}

/// The configuration is good, the function is there, and the IPAM plugin is well.
pub fn status(request: &Request) -> Result<(), CniError> {
    let document: Document = request.config()?;
    // Without a device of its own the network gets one with each pod.
    if !document.device.is_empty() {
        let config = SriovConfig::load(request)?;
        Function::find(Path::new(SYSFS), &config.device)
            .map_err(|e| CniError { code: Code::NotAvailable, ..e })?;
    }
    interface::status(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::request::Environment;
    use serde_json::{Value, json};
    use std::os::unix::fs::symlink;

    fn load(settings: Value) -> Result<SriovConfig, CniError> {
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

    #[test]
    fn a_function_is_found_in_sysfs() {
        let sysfs = tempfile::tempdir().unwrap();
        let devices = sysfs.path().join("bus/pci/devices");
        let physical = devices.join("0000:03:00.0");
        fs::create_dir_all(physical.join("net/ens1f0")).unwrap();
        for (number, address) in [(0, "0000:03:02.0"), (12, "0000:03:02.1")] {
            let own = devices.join(address);
            fs::create_dir_all(own.join("net/ens1f0v")).unwrap();
            symlink("../0000:03:00.0", own.join("physfn")).unwrap();
            symlink(format!("../{address}"), physical.join(format!("virtfn{number}"))).unwrap();
        }
        let found = Function::find(sysfs.path(), "0000:03:02.1").unwrap();
        assert_eq!(found, Function { physical: "ens1f0".into(), number: 12 });
        assert_eq!(interface_of(&devices.join("0000:03:02.1")).unwrap(), "ens1f0v");
        for absent in ["0000:03:00.0", "0000:09:00.0"] {
            let error = Function::find(sysfs.path(), absent).unwrap_err();
            assert!(error.message.contains("no virtual function"), "{error}");
        }
    }

    #[test]
    fn only_what_was_asked_for_is_compared() {
        let found = load(json!({"vlan": 5, "trust": "on"})).unwrap().settings;
        assert_eq!(differs(&VfSettings::default(), &found), None);
        assert_eq!(differs(&found, &found), None);
        let wanted = load(json!({"vlan": 6, "trust": "on"})).unwrap().settings;
        assert_eq!(differs(&wanted, &found), Some("the VLAN"));
    }
}
