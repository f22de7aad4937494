//! Registry hosts in containerd's form: `<host>/hosts.toml`, with the CA beside it.
//!
//! Credentials go to the registry itself and never to its mirrors, which may be someone else's.

use super::Rendered;
use super::system::ended;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cairn_contract::{machine::Registry, paths};
use std::collections::BTreeMap;
use std::fmt::Write;

pub(super) fn files(registries: &BTreeMap<String, Registry>) -> Vec<Rendered> {
    let mut files = Vec::new();
    for (host, registry) in registries {
        // The host becomes a directory name; anything that is no host is left out.
        if !is_host(host) {
            continue;
        }
        let directory = format!("{}/{host}", paths::CERTS_D);
        let ca = registry.ca.as_ref().map(|pem| Rendered::public(format!("{directory}/ca.pem"), ended(pem)));
        let ca_path = ca.as_ref().map(|file| file.path.display().to_string());
        let text = hosts_toml(host, registry, ca_path.as_deref());
        files.extend(ca);
        files.push(Rendered::secret(format!("{directory}/hosts.toml"), text));
    }
    files
}

fn hosts_toml(host: &str, registry: &Registry, ca: Option<&str>) -> String {
    // Image names say docker.io, but the registry answers elsewhere.
    let server = if host == "docker.io" { "registry-1.docker.io" } else { host };
    let mut text = format!("server = {}\n", quoted(&format!("https://{server}")));
    let trust = |text: &mut String| {
        if let Some(path) = ca {
            let _ = writeln!(text, "ca = {}", quoted(path));
        }
        if registry.insecure {
            text.push_str("skip_verify = true\n");
        }
    };
    trust(&mut text);
    if let Some(password) = &registry.password {
        let user = registry.username.as_deref().unwrap_or_default();
        let credentials = STANDARD.encode(format!("{user}:{password}"));
        let _ = write!(text, "\n[header]\nauthorization = {}\n", quoted(&format!("Basic {credentials}")));
    }
    for mirror in &registry.mirrors {
        let _ = write!(text, "\n[host.{}]\ncapabilities = [\"pull\", \"resolve\"]\n", quoted(mirror));
        trust(&mut text);
    }
    text
}

fn is_host(host: &str) -> bool {
    !host.starts_with('.')
        && !host.is_empty()
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b))
}

/// A basic string of TOML, on one line whatever is in it (JSON's escapes are a subset of TOML's).
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
