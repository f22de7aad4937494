//! Name, time, kernel parameters and the management API's certificates.

use super::Rendered;
use cairn_contract::machine::MachineConfig;
use std::fmt::Write;

/// CA that signs client certificates.
pub const API_CLIENT_CA: &str = "/run/cairn/api/client-ca.pem";
/// Server certificate chain.
pub const API_CERTIFICATE: &str = "/run/cairn/api/certificate.pem";
/// Server key.
pub const API_KEY: &str = "/run/cairn/api/key.pem";

pub(super) fn files(config: &MachineConfig, name: &str) -> Vec<Rendered> {
    let mut files = vec![
        Rendered::public("/etc/hostname", format!("{name}\n")),
        Rendered::public("/etc/hosts", format!("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {name}\n")),
    ];
    if !config.time.servers.is_empty() {
        let servers: Vec<_> = config.time.servers.iter().map(|server| one_line(server)).collect();
        let text = format!("[Time]\nNTP={}\n", servers.join(" "));
        files.push(Rendered::public("/run/systemd/timesyncd.conf.d/50-cairn.conf", text));
    }
    if !config.sysctl.is_empty() {
        let mut text = String::new();
        for (key, value) in &config.sysctl {
            let _ = writeln!(text, "{} = {}", one_line(key), one_line(value));
        }
        files.push(Rendered::public("/run/sysctl.d/90-cairn.conf", text));
    }
    if let Some(api) = &config.api {
        for (path, pem) in
            [(API_CLIENT_CA, &api.client_ca), (API_CERTIFICATE, &api.certificate), (API_KEY, &api.key)]
        {
            files.push(Rendered::secret(path, ended(pem)));
        }
    }
    files
}

/// A value for a line-based file: control characters would begin a new line, so they become spaces.
pub(super) fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// Text that ends in one line break.
pub(super) fn ended(text: &str) -> String {
    format!("{}\n", text.trim_end())
}
