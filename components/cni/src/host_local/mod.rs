//! `host-local`: addresses from ranges, recorded in files on this host.
//!
//! One range set per address wanted: a pod gets one address from each, so dual stack is two sets. Within a set,
//! addresses go round in turn, so that one just released stays unused for as long as possible.

pub mod config;
pub mod range;
mod resolv_conf;
pub mod store;

use crate::protocol::{
    error::{CniError, Code},
    request::Request,
    result::{CniResult, IpConfig},
};
use config::IpamConfig;
use range::RangeSet;
use std::net::IpAddr;
use store::{LockedStore, Store};

pub(crate) fn read(request: &Request) -> Result<(), CniError> {
    IpamConfig::load(request).map(drop)
}

/// Reserves one address from each range set.
pub fn add(request: &Request) -> Result<CniResult, CniError> {
    let config = IpamConfig::load(request)?;
    let dns = match &config.resolv_conf {
        Some(path) => resolv_conf::read(path).map_err(|e| CniError::io("reading", path, &e))?,
        None => Default::default(),
    };
    let store = Store::open(&config.directory)?.lock()?;
    let mut requested = config.requested.clone();
    let mut result = CniResult { dns, routes: config.routes.clone(), ..CniResult::default() };
    let mut reserved = Vec::new();
    let outcome = config.sets.iter().enumerate().try_for_each(|(index, set)| {
        let wanted = requested.iter().position(|ip| set.contains(*ip)).map(|at| requested.remove(at));
        let ip = allocate(&store, request, set, index, wanted).map_err(|e| CniError {
            message: format!("failed to allocate for range {index}: {}", e.message),
            ..e
        })?;
        reserved.push(ip.address.address);
        result.ips.push(ip);
        Ok(())
    });
    let outcome = outcome.and_then(|()| {
        if requested.is_empty() {
            return Ok(());
        }
        let rest: Vec<String> = requested.iter().map(IpAddr::to_string).collect();
        Err(CniError::internal(format!("failed to allocate all requested IPs: {}", rest.join(" "))))
    });
    if let Err(error) = outcome {
        // Only what this run reserved: an earlier ADD's address may be in use.
        for address in reserved {
            store.release(address)?;
        }
        return Err(error);
    }
    Ok(result)
}

/// Frees every address of the attachment.
pub fn del(request: &Request) -> Result<(), CniError> {
    Ok(Store::open(&config::directory(request)?)?.lock()?.release_all(&request.attachment)?)
}

/// The attachment has an address; and those of `prevResult` in our ranges are its own.
pub fn check(request: &Request) -> Result<(), CniError> {
    let config = IpamConfig::load(request)?;
    let held = Store::open(&config.directory)?.lock()?.held_by(&request.attachment)?;
    let id = &request.attachment.container_id;
    if held.is_empty() {
        return Err(CniError::internal(format!(
            "host-local: Failed to find address added by container {id}"
        )));
    }
    let previous = request.previous_result()?.unwrap_or_default();
    for ip in previous.ips.iter().map(|ip| ip.address.address) {
        if config.sets.iter().any(|set| set.contains(ip)) && !held.contains(&ip) {
            return Err(CniError::internal(format!("host-local: {ip} is not reserved for container {id}")));
        }
    }
    Ok(())
}

/// Frees what no valid attachment holds.
pub fn gc(request: &Request) -> Result<(), CniError> {
    let valid = request.valid_attachments()?;
    Ok(Store::open(&config::directory(request)?)?.lock()?.retain(&valid)?)
}

/// The configuration is good and its directory can be written. A full range is no failure of the node: pods end.
pub fn status(request: &Request) -> Result<(), CniError> {
    let config = IpamConfig::load(request)?;
    Store::open(&config.directory)
        .and_then(Store::lock)
        .map(|_| ())
        .map_err(|e| CniError::new(Code::NotAvailable, e.to_string()))
}

fn allocate(
    store: &LockedStore,
    request: &Request,
    set: &RangeSet,
    index: usize,
    wanted: Option<IpAddr>,
) -> Result<IpConfig, CniError> {
    let attachment = &request.attachment;
    let found = match wanted {
        Some(ip) => {
            let range =
                set.range_of(ip).ok_or_else(|| CniError::internal(format!("{ip} not in range set {set}")))?;
            if range.gateway == ip {
                return Err(CniError::internal(format!("requested ip {ip} is subnet's gateway")));
            }
            if !store.reserve(ip, attachment, index)? {
                let message = format!("requested IP address {ip} is not available in range set {set}");
                return Err(CniError::internal(message));
            }
            Some((ip, range))
        }
        None => {
            if let Some(ip) = store.held_by(attachment)?.into_iter().find(|ip| set.contains(*ip)) {
                let id = &attachment.container_id;
                let message = format!("{ip} has been allocated to {id}, duplicate allocation is not allowed");
                return Err(CniError::internal(message));
            }
            let taken = store.taken()?;
            let free = set.after(store.last_reserved(index)).find(|(ip, _)| !taken.contains(ip));
            match free {
                Some((ip, range)) if store.reserve(ip, attachment, index)? => Some((ip, range)),
                _ => None,
            }
        }
    };
    let (ip, range) =
        found.ok_or_else(|| CniError::internal(format!("no IP addresses available in range set: {set}")))?;
    let address = crate::network::IpNetwork { address: ip, prefix: range.subnet.prefix };
    Ok(IpConfig { version: None, interface: None, address, gateway: Some(range.gateway) })
}
