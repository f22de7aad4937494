//! `tuning`: kernel parameters of the pod's network namespace and settings of its interface. Chained after the plugin
//! that makes the interface.
//!
//! What the interface was like before is kept in `<dataDir>/<container id>_<ifname>.json`, in the reference plugin's
//! form, for an interface that outlives the pod (`host-device`). The file also says the network, for GC.

use crate::{
    interface,
    netlink::{
        link::{Link, Mac},
        route::RouteSocket,
    },
    netns::NetNs,
    protocol::{
        error::{CniError, Code},
        request::{Attachment, Request},
        result::{CniResult, pretty},
    },
    sysctl,
};
use regex_lite::Regex;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, io, path::PathBuf};

const DATA_DIR: &str = "/run/cni/tuning";
const ALLOW_LIST: &str = "/etc/cni/tuning/allowlist.conf";

/// Settings as the configuration has them, and `args.cni` once more.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Settings {
    sysctl: BTreeMap<String, String>,
    mac: Option<String>,
    promisc: Option<bool>,
    mtu: Option<i64>,
    allmulti: Option<bool>,
    #[serde(rename = "txQLen")]
    queue_length: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Document {
    runtime_config: Runtime,
    args: Args,
}

/// The directory of records.
fn directory(request: &Request) -> Result<PathBuf, CniError> {
    let given: String = request.key("dataDir")?;
    Ok(if given.is_empty() { DATA_DIR.into() } else { given.into() })
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Runtime {
    mac: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    cni: Settings,
}

#[derive(Debug, PartialEq, Eq)]
struct TuningConfig {
    /// Path below `/proc/sys` and value.
    sysctl: BTreeMap<String, String>,
    state: LinkState,
    backup: PathBuf,
}

/// Settings of a link: those wanted, or those it had.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct LinkState {
    #[serde(skip_serializing_if = "String::is_empty")]
    mac: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    promisc: Option<bool>,
    #[serde(skip_serializing_if = "is_zero")]
    mtu: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    allmulti: Option<bool>,
    #[serde(rename = "txQLen", skip_serializing_if = "Option::is_none")]
    queue_length: Option<u32>,
}

/// The file: what the interface was like, and in which network.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Record {
    #[serde(skip_serializing_if = "String::is_empty")]
    network: String,
    #[serde(flatten)]
    before: LinkState,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl TuningConfig {
    fn load(request: &Request) -> Result<Self, CniError> {
        let document: Document = request.config()?;
        let mut settings: Settings = request.config()?;
        let given = document.args.cni;
        settings.sysctl.extend(given.sysctl);
        let runtime = Some(document.runtime_config.mac).filter(|mac| !mac.is_empty());
        let environment = request.arg("MAC").filter(|mac| !mac.is_empty()).map(str::to_owned);
        let mac = given.mac.or(runtime).or(environment).or(settings.mac).unwrap_or_default();
        if !mac.is_empty() {
            mac.parse::<Mac>().map_err(|e| CniError::config(format!("invalid args {mac:?} for MAC: {e}")))?;
        }
        let number = |key: &str, value: i64| {
            u32::try_from(value).map_err(|_| CniError::config(format!("`{key}` {value} is out of range")))
        };
        let ifname = &request.attachment.ifname;
        let sysctl = settings
            .sysctl
            .into_iter()
            .map(|(key, value)| Ok((parameter(&key, ifname)?, value)))
            .collect::<Result<_, CniError>>()?;
        Ok(Self {
            sysctl,
            state: LinkState {
                mac,
                // Like the reference, `false` is the same as not asked for.
                promisc: given.promisc.or(settings.promisc).filter(|on| *on),
                mtu: number("mtu", given.mtu.or(settings.mtu).unwrap_or(0))?,
                allmulti: given.allmulti.or(settings.allmulti),
                queue_length: given
                    .queue_length
                    .or(settings.queue_length)
                    .map(|length| number("txQLen", length))
                    .transpose()?,
            },
            backup: directory(request)?.join(record_name(&request.attachment)),
        })
    }
}

/// `net.ipv4.conf.IFNAME.arp_filter`, dots or slashes, as a path below `/proc/sys`.
fn parameter(key: &str, ifname: &str) -> Result<String, CniError> {
    // Like sysctl(8): the first separator says which it is, and the other is part of a name.
    let slashes = key.find(['.', '/']).is_some_and(|at| key.as_bytes()[at] == b'/');
    let parts: Vec<String> = if slashes {
        key.split('/').map(str::to_owned).collect()
    } else {
        key.split('.').map(|part| part.replace('/', ".")).collect()
    };
    let sound = parts.len() > 1
        && parts[0] == "net"
        && parts.iter().all(|part| !part.is_empty() && part != "." && part != "..");
    if !sound {
        return Err(CniError::config(format!("invalid net sysctl key: {key:?}")));
    }
    Ok(parts.join("/").replace("IFNAME", ifname))
}

/// Every key is allowed by the node's list, if it has one.
fn allowed(request: &Request) -> Result<(), CniError> {
    let list = match fs::read_to_string(ALLOW_LIST) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(CniError::io("reading", ALLOW_LIST.as_ref(), &error)),
    };
    let document: Document = request.config()?;
    let settings: Settings = request.config()?;
    let keys = settings.sysctl.keys().chain(document.args.cni.sysctl.keys());
    matches_list(&list, keys.map(String::as_str))
}

fn matches_list<'a>(list: &str, keys: impl Iterator<Item = &'a str>) -> Result<(), CniError> {
    let patterns = list
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(|line| {
            Regex::new(line).map_err(|e| CniError::config(format!("{ALLOW_LIST}: pattern {line:?}: {e}")))
        })
        .collect::<Result<Vec<_>, _>>()?;
    for key in keys {
        if !patterns.iter().any(|pattern| pattern.is_match(key)) {
            return Err(CniError::config(format!("Sysctl {key} is not allowed"))
                .details(format!("{ALLOW_LIST} lists those that are")));
        }
    }
    Ok(())
}

/// Sets everything; the result is `prevResult`, with the new hardware address.
pub fn add(request: &Request) -> Result<CniResult, CniError> {
    let config = TuningConfig::load(request)?;
    allowed(request)?;
    let mut result =
        request.previous_result()?.ok_or_else(|| CniError::config("Required prevResult missing"))?;
    let netns = NetNs::required(request.netns()?)?;
    let ifname = &request.attachment.ifname;
    netns.enter(|| {
        for (parameter, value) in &config.sysctl {
            sysctl::ensure(parameter, value)
                .map_err(|e| CniError::new(Code::Io, format!("setting {parameter} to {value:?}: {e}")))?;
        }
        if config.state == LinkState::default() {
            return Ok(());
        }
        let mut route = interface::open()?;
        let link = interface::find(&mut route, ifname)?;
        let before = current(&link, &config.state);
        save(request, &config, &before)?;
        apply(&mut route, &link, &config.state).inspect_err(|_| {
            // Half a change is none: the interface is put back as it was.
            let _ = apply(&mut route, &link, &before);
            let _ = fs::remove_file(&config.backup);
        })
    })?;
    if !config.state.mac.is_empty() {
        let sandbox = netns.path().display().to_string();
        for interface in result.interfaces.iter_mut().filter(|i| i.name == *ifname && i.sandbox == sandbox) {
            interface.mac.clone_from(&config.state.mac);
        }
    }
    Ok(result)
}

/// What `link` has, of what `wanted` is going to change.
fn current(link: &Link, wanted: &LinkState) -> LinkState {
    LinkState {
        mac: if wanted.mac.is_empty() { String::new() } else { link.mac.to_string() },
        promisc: wanted.promisc.map(|_| link.promiscuous),
        mtu: if wanted.mtu == 0 { 0 } else { link.mtu },
        allmulti: wanted.allmulti.map(|_| link.all_multicast),
        queue_length: wanted.queue_length.map(|_| link.queue_length),
    }
}

fn apply(route: &mut RouteSocket, link: &Link, state: &LinkState) -> Result<(), CniError> {
    let (index, name) = (link.index, &link.name);
    let during = |what: &str| format!("setting {what} of {name:?}");
    if let Ok(mac) = state.mac.parse::<Mac>()
        && mac != link.mac
    {
        // Without taking it down, which would cost the pod its routes.
        route.set_mac(index, mac).map_err(|e| e.during(during("the hardware address")))?;
    }
    if let Some(on) = state.promisc {
        route.set_promiscuous(index, on).map_err(|e| e.during(during("promiscuous mode")))?;
    }
    if state.mtu > 0 {
        route.set_mtu(index, state.mtu).map_err(|e| e.during(during("the MTU")))?;
    }
    if let Some(on) = state.allmulti {
        route.set_all_multicast(index, on).map_err(|e| e.during(during("all-multicast mode")))?;
    }
    if let Some(length) = state.queue_length {
        route.set_queue_length(index, length).map_err(|e| e.during(during("the transmit queue")))?;
    }
    Ok(())
}

fn save(request: &Request, config: &TuningConfig, before: &LinkState) -> Result<(), CniError> {
    let failed = |e: io::Error| CniError::io("writing", &config.backup, &e);
    if let Some(directory) = config.backup.parent() {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    let record = Record { network: request.network.clone(), before: before.clone() };
    fs::write(&config.backup, pretty(&record)).map_err(failed)
}

/// The file of an attachment in `directory`.
fn record_name(attachment: &Attachment) -> String {
    format!("{}_{}.json", attachment.container_id, attachment.ifname)
}

/// Removes files of attachments that are no more. Those that the reference plugin wrote name no network, and stay.
pub fn gc(request: &Request) -> Result<(), CniError> {
    let directory = directory(request)?;
    let keep: Vec<String> = request.valid_attachments()?.iter().map(record_name).collect();
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(CniError::io("listing", &directory, &error)),
    };
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !name.ends_with(".json") || keep.iter().any(|kept| kept == name) {
            continue;
        }
        let record = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Record>(&text).ok());
        if record.is_none_or(|record| record.network != request.network) {
            continue;
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(CniError::io("removing", &path, &error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Puts the interface back as it was, if it still is there and lets itself be put back.
pub fn del(request: &Request) -> Result<(), CniError> {
    let backup = directory(request)?.join(record_name(&request.attachment));
    let text = match fs::read(&backup) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(CniError::io("reading", &backup, &error)),
    };
    // A file cut short by a crash says nothing worth restoring.
    let before = serde_json::from_slice::<Record>(&text).unwrap_or_default().before;
    let restored = NetNs::if_present(request.netns.as_deref()).and_then(|netns| match netns {
        Some(netns) => netns.enter(|| put_back(&request.attachment.ifname, &before)),
        None => Ok(()),
    });
    // What cannot be put back now cannot be later either, and would keep the pod for ever.
    if let Err(error) = restored {
        eprintln!("tuning: {} is not as it was before: {error}", request.attachment.ifname);
    }
    match fs::remove_file(&backup) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(CniError::io("removing", &backup, &error))
        }
        _ => Ok(()),
    }
}

fn put_back(ifname: &str, before: &LinkState) -> Result<(), CniError> {
    let mut route = interface::open()?;
    let link = route.link(ifname).map_err(|e| e.during(format_args!("looking for {ifname:?}")))?;
    link.map_or(Ok(()), |link| apply(&mut route, &link, before))
}

/// Everything still is as it was set.
pub fn check(request: &Request) -> Result<(), CniError> {
    let config = TuningConfig::load(request)?;
    request.previous_result()?.ok_or_else(|| CniError::config("Required prevResult missing"))?;
    let ifname = &request.attachment.ifname;
    NetNs::required(request.netns()?)?.enter(|| {
        for (parameter, wanted) in &config.sysctl {
            let found = sysctl::read(parameter)
                .map_err(|e| CniError::new(Code::Io, format!("reading {parameter}: {e}")))?;
            // Parameters with several numbers are shown with tabs between them.
            if !found.split_whitespace().eq(wanted.split_whitespace()) {
                return Err(CniError::internal(format!(
                    "Error: Tuning configured value of {parameter} is {wanted}, current value is {found}"
                )));
            }
        }
        if config.state == LinkState::default() {
            return Ok(());
        }
        let link = interface::find(&mut interface::open()?, ifname)?;
        let mut wanted = config.state.clone();
        wanted.mac.make_ascii_lowercase();
        let found = current(&link, &wanted);
        if found == wanted {
            return Ok(());
        }
        let shown = |state: &LinkState| serde_json::to_string(state).unwrap_or_default();
        Err(CniError::internal(format!(
            "Error: Tuning configured {} of {ifname}, current is {}",
            shown(&wanted),
            shown(&found)
        )))
    })
}

pub(crate) fn read(request: &Request) -> Result<(), CniError> {
    TuningConfig::load(request).map(drop)
}

/// The configuration is good and allowed.
pub fn status(request: &Request) -> Result<(), CniError> {
    TuningConfig::load(request)?;
    allowed(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_stay_below_net() {
        for (key, path) in [
            ("net.ipv4.conf.IFNAME.arp_filter", "net/ipv4/conf/eth0.5/arp_filter"),
            ("net/ipv4/conf/IFNAME/arp_filter", "net/ipv4/conf/eth0.5/arp_filter"),
            ("net.ipv4.conf.a/b.arp_filter", "net/ipv4/conf/a.b/arp_filter"),
            ("net/ipv4/conf/a.b/arp_filter", "net/ipv4/conf/a.b/arp_filter"),
        ] {
            assert_eq!(parameter(key, "eth0.5").unwrap(), path, "{key}");
        }
        for key in ["", "net", "kernel.hostname", "net/../kernel/hostname", "net..x", "/net/x", "net.//.x"] {
            assert_eq!(parameter(key, "eth0").unwrap_err().code, Code::InvalidConfig, "{key}");
        }
    }

    #[test]
    fn the_list_allows_what_a_line_matches() {
        let list = "^net.ipv4.conf.IFNAME.[a-z_]*$\n\n  ^net.core.somaxconn$\n";
        assert!(
            matches_list(list, ["net.core.somaxconn", "net.ipv4.conf.IFNAME.arp_filter"].into_iter()).is_ok()
        );
        for (list, key) in [(list, "net.ipv4.ip_forward"), ("", "net.core.somaxconn"), ("(", "net.x")] {
            assert_eq!(
                matches_list(list, [key].into_iter()).unwrap_err().code,
                Code::InvalidConfig,
                "{list}"
            );
        }
    }
}
