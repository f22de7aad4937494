//! `dhcp`: addresses from the DHCP servers of the network that a pod's interface is on.
//!
//! A lease outlives the run that got it: it has to be renewed, and given back. So there is a daemon, `cairn-cni dhcp
//! daemon`, one process with one thread for all leases of the node, and the plugin only asks it. Configuration and
//! results are the reference plugin's; what is between plugin and daemon is not, so they have to be of one kind.
//!
//! - [`config`]: what the network configuration says.
//! - `call`: from the plugin to the daemon.
//! - [`daemon`]: the daemon: its arguments, its leases, its records on disk.
//! - [`client`]: the life of a lease, free of clocks and sockets.
//! - [`terms`]: what clients and servers say, in words of both families; [`message4`] and [`message6`] as bytes. A crate
//!   for these (`dhcproto`) would bring some seventy others, for a dozen options.
//! - `wire`: the sockets.

mod call;
pub mod client;
pub mod config;
pub mod daemon;
pub mod message4;
pub mod message6;
pub mod terms;
mod wire;

use crate::protocol::{
    error::{CniError, Code},
    request::Request,
    result::CniResult,
};
use call::Call;
use config::DhcpConfig;

pub(crate) fn read(request: &Request) -> Result<(), CniError> {
    DhcpConfig::load(request).map(drop)
}

fn ask(request: &Request) -> Result<CniResult, CniError> {
    Call::of(request)?.send(&config::socket(request)?)
}

/// Gets a lease of each family that is configured.
pub fn add(request: &Request) -> Result<CniResult, CniError> {
    read(request)?;
    ask(request)
}

/// Gives the leases back.
pub fn del(request: &Request) -> Result<(), CniError> {
    ask(request).map(drop)
}

/// The daemon has the leases.
pub fn check(request: &Request) -> Result<(), CniError> {
    ask(request).map(drop)
}

/// Gives back what no valid attachment holds.
pub fn gc(request: &Request) -> Result<(), CniError> {
    request.valid_attachments()?;
    ask(request).map(drop)
}

/// The configuration is good and the daemon answers.
pub fn status(request: &Request) -> Result<(), CniError> {
    let well = read(request).and_then(|()| ask(request).map(drop));
    well.map_err(|error| CniError { code: Code::NotAvailable, ..error })
}
