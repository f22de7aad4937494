//! Commands with streams, attached clients and forwarded ports, with the real shim, as root.
//!
//! The daemon's half runs in the test itself: what a client's connection would carry goes through pipes in memory, save in
//! [`url`], where it goes over TCP.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod attach;
mod client;
mod commands;
mod node;
mod ports;
mod terminals;
mod url;

use cairn_contract::cri;
use std::{process::Command, time::Duration};

const BUSYBOX: &str = "/bin/busybox";
const IMAGE: &str = "cairn.local/busybox:streaming";
/// Longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a container does that is only there for commands.
const FOREVER: &str = "while :; do sleep 1; done";

/// Why a test cannot run here.
fn obstacle() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root");
    }
    let is_static =
        Command::new(BUSYBOX).arg("true").env_clear().status().is_ok_and(|status| status.success());
    (!is_static).then_some("needs a static /bin/busybox (Debian: busybox-static)")
}

fn own_pids() -> cri::NamespaceOption {
    cri::NamespaceOption { pid: cri::NamespaceMode::Container.into(), ..Default::default() }
}

fn container(name: &str, options: &cri::NamespaceOption, script: &str) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: IMAGE.into(), ..Default::default() }),
        command: vec!["sh".into(), "-c".into(), script.into()],
        log_path: format!("{name}.log"),
        linux: Some(cri::LinuxContainerConfig {
            security_context: Some(cri::LinuxContainerSecurityContext {
                seccomp: Some(cri::SecurityProfile::default()),
                namespace_options: Some(options.clone()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}
