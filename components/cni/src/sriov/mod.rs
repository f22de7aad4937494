//! `sriov`: a virtual function of a network card, moved into the pod. Named by PCI address, which a device plugin
//! hands out; its hardware address, VLAN, trust, spoof check and rates are set through the physical function.
//!
//! What the function was like before is kept in `/var/lib/cni/sriov/<container id>_<ifname>.json` until DEL puts it
//! back. Configuration is that of the sriov-cni of the Kubernetes network plumbing group.

mod config;

use crate::{
    interface::{self, DnsFrom, WithoutIpam},
    loan,
    netlink::{route::RouteSocket, vf::VfSettings},
    netns::NetNs,
    protocol::{
        error::{CniError, Code},
        request::{Attachment, Request},
        result::{CniResult, pretty},
    },
    sysfs,
};
use config::SriovConfig;
use serde::{Deserialize, Serialize};
use std::{
    cell::OnceCell,
    fs, io,
    path::{Path, PathBuf},
};

const RECORDS: &str = "/var/lib/cni/sriov";

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
        let physical = sysfs::device(sysfs, "pci", device).join("physfn");
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
        Ok(Self { physical: sysfs::interface_of(&physical).map_err(failed)?, number })
    }
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
    let lent = OnceCell::new();
    let make = |netns: &NetNs| {
        let sysfs = Path::new(sysfs::ROOT);
        let function = Function::find(sysfs, &config.device)?;
        let own = sysfs::interface_of(&sysfs::device(sysfs, "pci", &config.device)).map_err(|why| {
            let message = format!("virtual function {} has no network interface: {why}", config.device);
            CniError::new(Code::UnsupportedField, message).details("userspace drivers are not supported here")
        })?;
        let mut route = interface::open()?;
        let before = settings(&mut route, &function)?;
        save(&path, &Record { network: request.network.clone(), function: function.clone(), before })?;
        let found = interface::find(&mut route, &own)?;
        let link = lent.get_or_init(|| found);
        let mac = config.settings.mac.as_deref().and_then(|mac| mac.parse().ok());
        // What is set through the physical function is set before: the function takes its hardware address from there.
        let outcome = set(&mut route, &function, &config.settings);
        outcome.and_then(|()| loan::lend(&mut route, link, netns, name, mac)).inspect_err(|_| {
            if let Err(failure) = restore(&path) {
                eprintln!("undoing a failed ADD: {failure}");
            }
        })
    };
    let back = |netns: &NetNs| {
        let returned = match lent.get() {
            Some(link) => loan::undo(&mut interface::open()?, link, netns, name),
            None => Ok(()),
        };
        returned.and_then(|()| restore(&path))
    };
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
    interface::del(request, |netns: &NetNs| if ours { loan::give_back(netns, name) } else { Ok(()) })?;
    restore(&path)
}

/// Interface, addresses, routes and the function's settings are as ADD left them.
pub fn check(request: &Request) -> Result<(), CniError> {
    let config = SriovConfig::load(request)?;
    interface::check(request, None)?;
    let function = Function::find(Path::new(sysfs::ROOT), &config.device)?;
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
        Function::find(Path::new(sysfs::ROOT), &config.device)
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
        assert_eq!(sysfs::interface_of(&devices.join("0000:03:02.1")).unwrap(), "ens1f0v");
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
