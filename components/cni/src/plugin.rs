//! Which plugin, and one run of it from environment and stdin to stdout and exit status.

use crate::{
    bridge, host_local, loopback, portmap,
    protocol::{
        error::{CniError, Code},
        request::{Command, Environment, Request, answer_version},
        version::SpecVersion,
    },
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
    /// Addresses from ranges, recorded in files.
    HostLocal,
    /// Host ports forwarded into the pod.
    Portmap,
}

impl Plugin {
    /// All, in the order they are linked.
    pub const ALL: [Self; 4] = [Self::Loopback, Self::Bridge, Self::HostLocal, Self::Portmap];

    /// The name in configurations, and of the link.
    pub fn name(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Bridge => "bridge",
            Self::HostLocal => "host-local",
            Self::Portmap => "portmap",
        }
    }

    /// The plugin of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|plugin| plugin.name() == name)
    }
}

/// Runs one operation. `Ok` is what to print, possibly nothing.
pub fn run(plugin: Plugin, environment: &Environment, stdin: Vec<u8>) -> Result<String, CniError> {
    if environment.command == Command::Version.name() {
        return Ok(version_document());
    }
    let request = Request::parse(environment, stdin)?;
    match request.command {
        Command::Add => {
            let result = match plugin {
                Plugin::Loopback => loopback::add(&request),
                Plugin::Bridge => bridge::add(&request),
                Plugin::HostLocal => host_local::add(&request),
                Plugin::Portmap => portmap::add(&request),
            }?;
            return Ok(result.to_json(request.version));
        }
        Command::Del => match plugin {
            Plugin::Loopback => loopback::del(&request),
            Plugin::Bridge => bridge::del(&request),
            Plugin::HostLocal => host_local::del(&request),
            Plugin::Portmap => portmap::del(&request),
        },
        Command::Check => match plugin {
            Plugin::Loopback => loopback::check(&request),
            Plugin::Bridge => bridge::check(&request),
            Plugin::HostLocal => host_local::check(&request),
            Plugin::Portmap => portmap::check(&request),
        },
        Command::Gc => match plugin {
            Plugin::Loopback => Ok(()),
            Plugin::Bridge => bridge::gc(&request),
            Plugin::HostLocal => host_local::gc(&request),
            Plugin::Portmap => portmap::gc(&request),
        },
        Command::Status => match plugin {
            Plugin::Loopback => Ok(()),
            Plugin::Bridge => bridge::status(&request),
            Plugin::HostLocal => host_local::status(&request),
            Plugin::Portmap => portmap::status(&request),
        },
        Command::Version => Ok(()),
    }?;
    Ok(String::new())
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
