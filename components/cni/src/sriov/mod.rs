//! `sriov`: a virtual function of a network card, moved into the pod. Named by PCI address, which a device plugin
//! hands out; its hardware address, VLAN, trust, spoof check and rates are set through the physical function.
//!
//! What the function was like before is kept in `/var/lib/cni/sriov/<container id>_<ifname>.json` until DEL puts it
//! back. Configuration is that of the sriov-cni of the Kubernetes network plumbing group.

mod config;

use crate::{
    host_device::give_back,
    interface::{self, DnsFrom, WithoutIpam},
    netlink::{link::Link, route::RouteSocket, vf::VfSettings},
    netns::NetNs,
    protocol::{
        error::{CniError, Code},
        request::{Attachment, Request},
        result::{CniResult, pretty},
    },
};
use config::SriovConfig;
use rustix::fd::AsFd;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

const RECORDS: &str = "/var/lib/cni/sriov";
const SYSFS: &str = "/sys";

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
    // Without a device of its own the network gets one with each pod.
    if SriovConfig::names_device(request)? {
        let config = SriovConfig::load(request)?;
        Function::find(Path::new(SYSFS), &config.device)
            .map_err(|e| CniError { code: Code::NotAvailable, ..e })?;
    }
    interface::status(request)
}

#[cfg(test)]
mod tests {
    use super::{config::tests::load, *};
    use serde_json::json;
    use std::os::unix::fs::symlink;

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
