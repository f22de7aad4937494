//! HTTP clients, one for each way of connecting, so that connections are shared between pulls.

use super::super::hosts::{self, Endpoint, Tls};
use reqwest::{Certificate, Client, Identity, redirect};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// How long a connection may take to come about, unless `dial_timeout` says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Where distributions keep the certificates of public authorities.
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";
/// More clients than this come from certificates that were replaced, again and again: all are made anew.
const MAX_CLIENTS: usize = 64;

/// A way of connecting.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Way {
    tls: Tls,
    dial_timeout: Duration,
    /// Past the proxy that the environment names.
    direct: bool,
}

#[derive(Debug, Default)]
pub(super) struct Clients(Mutex<HashMap<Way, Client>>);

impl Clients {
    pub(super) fn get(&self, endpoint: &Endpoint) -> reqwest::Result<Client> {
        let way = Way {
            tls: endpoint.tls.clone(),
            dial_timeout: endpoint.dial_timeout.unwrap_or(CONNECT_TIMEOUT),
            // As Go's programs have it: a proxy does not reach this machine's loopback.
            direct: hosts::is_loopback(&endpoint.host),
        };
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&way) {
            return Ok(client.clone());
        }
        let client = build(&way)?;
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.insert(way, client.clone());
        Ok(client)
    }
}

fn build(way: &Way) -> reqwest::Result<Client> {
    let mut roots = Vec::new();
    // A node without public authorities is fine: it has mirrors with their own.
    if let Ok(bundle) = std::fs::read(SYSTEM_CA) {
        roots.extend(Certificate::from_pem_bundle(&bundle)?);
    }
    for pem in &way.tls.ca {
        roots.extend(Certificate::from_pem_bundle(pem)?);
    }
    let mut builder = Client::builder()
        .user_agent(concat!("cairn-cri/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(way.dial_timeout)
        // Followed by hand: what a registry may see, the host it points to may not.
        .redirect(redirect::Policy::none())
        .tls_certs_only(roots)
        .tls_danger_accept_invalid_certs(way.tls.skip_verify)
        .http2_adaptive_window(true);
    if way.direct {
        builder = builder.no_proxy();
    }
    if let Some(pem) = &way.tls.identity {
        builder = builder.identity(Identity::from_pem(pem)?);
    }
    builder.build()
}
