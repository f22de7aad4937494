//! Which plugin, and one run of it from environment and stdin to stdout and exit status.

use crate::{
    bandwidth, bridge, dhcp, dummy, firewall, host_device, host_local, interface, ipvlan, loopback, macvlan,
    netns::NetNs,
    portmap,
    protocol::{
        error::{CniError, Code},
        request::{Command, Environment, Request, answer_version},
        result::CniResult,
        version::SpecVersion,
    },
    ptp, sbr, sriov, static_ipam, tap, tuning, vlan, vrf,
};
use std::{
    io::{self, Read, Write},
    process::ExitCode,
};

/// The plugins in this binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugin {
    /// Brings `lo` up.
    Loopback,
    /// veth pair into a bridge.
    Bridge,
    /// veth pair, routed.
    Ptp,
    /// Own hardware address on a host interface.
    Macvlan,
    /// Own network address on a host interface.
    Ipvlan,
    /// One VLAN of a host interface.
    Vlan,
    /// A host interface itself.
    HostDevice,
    /// An interface that leads nowhere.
    Dummy,
    /// An interface whose frames a program reads.
    Tap,
    /// Addresses from ranges, recorded in files.
    HostLocal,
    /// Addresses from the configuration.
    Static,
    /// Addresses from DHCP servers.
    Dhcp,
    /// Host ports forwarded into the pod.
    Portmap,
    /// Limits on what the pod receives and sends.
    Bandwidth,
    /// Kernel parameters and settings of the interface.
    Tuning,
    /// What is forwarded to and from the pod.
    Firewall,
    /// Routes by source address.
    Sbr,
    /// A routing domain of its own.
    Vrf,
    /// A virtual function of a network card.
    Sriov,
}

/// What a plugin does for each command.
pub(crate) struct Operations {
    pub(crate) add: fn(&Request) -> Result<CniResult, CniError>,
    pub(crate) del: Operation,
    pub(crate) check: Operation,
    pub(crate) gc: Operation,
    pub(crate) status: Operation,
    /// Reads the configuration and does nothing.
    pub(crate) read: Operation,
}

pub(crate) type Operation = fn(&Request) -> Result<(), CniError>;

impl Plugin {
    /// All, in the order they are linked.
    pub const ALL: [Self; 19] = [
        Self::Loopback,
        Self::Bridge,
        Self::Ptp,
        Self::Macvlan,
        Self::Ipvlan,
        Self::Vlan,
        Self::HostDevice,
        Self::Dummy,
        Self::Tap,
        Self::HostLocal,
        Self::Static,
        Self::Dhcp,
        Self::Portmap,
        Self::Bandwidth,
        Self::Tuning,
        Self::Firewall,
        Self::Sbr,
        Self::Vrf,
        Self::Sriov,
    ];

    /// The name in configurations, and of the link.
    pub fn name(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Bridge => "bridge",
            Self::Ptp => "ptp",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
            Self::Vlan => "vlan",
            Self::HostDevice => "host-device",
            Self::Dummy => "dummy",
            Self::Tap => "tap",
            Self::HostLocal => "host-local",
            Self::Static => "static",
            Self::Dhcp => "dhcp",
            Self::Portmap => "portmap",
            Self::Bandwidth => "bandwidth",
            Self::Tuning => "tuning",
            Self::Firewall => "firewall",
            Self::Sbr => "sbr",
            Self::Vrf => "vrf",
            Self::Sriov => "sriov",
        }
    }

    /// The plugin of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|plugin| plugin.name() == name)
    }

    /// ADD, by a plugin on its own or for another.
    pub(crate) fn add(self, request: &Request) -> Result<CniResult, CniError> {
        if let Some(known) = self.arguments() {
            request.check_args(known)?;
        }
        (self.operations().add)(request)
    }

    /// What `CNI_ARGS` may have; `None` for those that do not look, or take anything.
    fn arguments(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Bridge | Self::Macvlan | Self::Tap | Self::Tuning => Some(&["MAC"]),
            Self::HostLocal => Some(&["IP"]),
            Self::Static => Some(&["IP", "GATEWAY"]),
            _ => None,
        }
    }

    pub(crate) fn operations(self) -> Operations {
        fn nothing(_: &Request) -> Result<(), CniError> {
            Ok(())
        }
        macro_rules! operations {
            ($module:ident) => {
                operations!($module, $module::gc, $module::status)
            };
            ($module:ident, $gc:expr, $status:expr) => {
                Operations {
                    add: $module::add,
                    del: $module::del,
                    check: $module::check,
                    gc: $gc,
                    status: $status,
                    read: $module::read,
                }
            };
        }
        match self {
            Self::Loopback => operations!(loopback, nothing, nothing),
            Self::Bridge => operations!(bridge),
            Self::Ptp => operations!(ptp),
            Self::Macvlan => operations!(macvlan, interface::gc, interface::status),
            Self::Ipvlan => operations!(ipvlan, interface::gc, interface::status),
            Self::Vlan => operations!(vlan, interface::gc, interface::status),
            Self::HostDevice => operations!(host_device, interface::gc, interface::status),
            Self::Dummy => operations!(dummy, interface::gc, interface::status),
            Self::Tap => operations!(tap, interface::gc, tap::status),
            Self::HostLocal => operations!(host_local),
            Self::Static => operations!(static_ipam, nothing, static_ipam::status),
            Self::Dhcp => operations!(dhcp),
            Self::Portmap => operations!(portmap),
            Self::Bandwidth => operations!(bandwidth),
            Self::Tuning => operations!(tuning),
            Self::Firewall => operations!(firewall),
            Self::Sbr => operations!(sbr),
            Self::Vrf => operations!(vrf),
            Self::Sriov => operations!(sriov),
        }
    }
}

/// Reads a request and its configuration as the operation would, and does nothing: for those who check configurations,
/// and for the fuzzer.
pub fn read(plugin: Plugin, environment: &Environment, stdin: Vec<u8>) -> Result<Request, CniError> {
    let request = Request::parse(environment, stdin)?;
    (plugin.operations().read)(&request)?;
    request.previous_result()?;
    Ok(request)
}

/// Runs one operation. `Ok` is what to print, possibly nothing.
pub fn run(plugin: Plugin, environment: &Environment, stdin: Vec<u8>) -> Result<String, CniError> {
    if environment.command == Command::Version.name() {
        return Ok(version_document());
    }
    let mut request = Request::parse(environment, stdin)?;
    if !environment.netns_override {
        keep_out_of_our_own(&mut request)?;
    }
    let operations = plugin.operations();
    match request.command {
        Command::Add => return Ok(plugin.add(&request)?.to_json(request.version)),
        Command::Del => (operations.del)(&request),
        Command::Check => (operations.check)(&request),
        Command::Gc => (operations.gc)(&request),
        Command::Status => (operations.status)(&request),
        Command::Version => Ok(()),
    }?;
    Ok(String::new())
}

/// A path that leads to the network namespace we are in is no pod's: where it names a process, that has ended and another
/// has its number. ADD refuses it; for DEL the pod's namespace is gone. (The reference looks when the work is done.)
fn keep_out_of_our_own(request: &mut Request) -> Result<(), CniError> {
    let Some(given) = request.netns.as_deref().and_then(|path| NetNs::open(path).ok()) else { return Ok(()) };
    let own = NetNs::required("/proc/thread-self/ns/net".as_ref())?;
    match request.command {
        Command::Add if given.is_same_as(&own) => {
            let message = "plugin's netns and netns from CNI_NETNS should not be the same";
            Err(CniError::new(Code::InvalidNetNs, message))
        }
        Command::Del if given.is_same_as(&own) => {
            request.netns = None;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The process's whole life: 0 and the result, or 1 and the error document.
pub fn main(plugin: Plugin) -> ExitCode {
    let environment = Environment::of_process();
    if environment.command.is_empty() {
        // Started by a person: say what this is, as the reference plugins do.
        eprintln!(
            "CNI plugin {} (cairn-cni {})\nCNI protocol versions supported: {}",
            plugin.name(),
            env!("CARGO_PKG_VERSION"),
            SpecVersion::names().join(", ")
        );
        return ExitCode::SUCCESS;
    }
    let mut stdin = Vec::new();
    let outcome = match io::stdin().lock().read_to_end(&mut stdin) {
        Ok(_) => run(plugin, &environment, stdin.clone()),
        Err(error) => Err(CniError::new(Code::Io, format!("error reading from stdin: {error}"))),
    };
    let (text, status) = match outcome {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(error) => (error.to_json(answer_version(&stdin)), ExitCode::FAILURE),
    };
    if !text.is_empty() && writeln!(io::stdout(), "{text}").is_err() {
        return ExitCode::FAILURE;
    }
    status
}

fn version_document() -> String {
    crate::protocol::result::pretty(&serde_json::json!({
        "cniVersion": SpecVersion::CURRENT.name(),
        "supportedVersions": SpecVersion::names(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_nobody_knows_are_refused_by_add_alone() {
        let directory = tempfile::tempdir().unwrap();
        let config = serde_json::json!({"cniVersion": "1.0.0", "name": "n", "type": "host-local",
            "ipam": {"dataDir": directory.path(), "ranges": [[{"subnet": "10.1.0.0/24"}]]}});
        let code = |command: &str, args: &str| {
            let environment = Environment {
                command: command.into(),
                container_id: "c".into(),
                netns: "/run/netns/cairn-nowhere".into(),
                ifname: "eth0".into(),
                args: args.into(),
                path: "/p".into(),
                netns_override: false,
            };
            run(Plugin::HostLocal, &environment, config.to_string().into_bytes()).map_err(|e| e.code.number())
        };
        for wrong in ["FOO=bar", "MAC=02:00:00:00:00:01", "FOO=bar;IgnoreUnknown=0", "IgnoreUnknown=x", "FOO"]
        {
            assert_eq!(code("ADD", wrong), Err(4), "{wrong}");
        }
        for good in ["", "IP=10.1.0.7", "ip=10.1.0.8;IgnoreUnknown=false", "FOO=bar;IgnoreUnknown=1"] {
            assert!(code("ADD", good).is_ok(), "{good}");
            assert_eq!(code("DEL", "FOO=bar"), Ok(String::new()));
        }
    }
}
