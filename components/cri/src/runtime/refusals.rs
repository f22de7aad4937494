//! What a pod or a container may not ask for.
//!
//! Protobuf is lenient: a value that this version does not know becomes the default one, and a field that nobody looks
//! at is no error. A kubelet that asks for something and does not get it must be told, so what would be lost
//! in silence is refused here, before anything is made. The crafts refuse the rest: [`crate::spec`] users, devices and
//! profiles, [`crate::cgroup`] limits, [`crate::userns`] ranges, [`crate::network`] ports.

use super::{RuntimeError, image_volumes, state::PodRecord};
use cairn_contract::cri::{
    self, MountPropagation, NamespaceMode, Protocol, Signal, SupplementalGroupsPolicy,
    security_profile::ProfileType,
};
use std::{fmt::Display, path::Path};

/// The longest host name the kernel takes.
const HOSTNAME_LIMIT: usize = 64;
/// Where the kernel says whether SELinux is on.
const SELINUX: &str = "/sys/fs/selinux/enforce";

type Checked = Result<(), RuntimeError>;

fn refuse(reason: impl Display) -> Checked {
    Err(RuntimeError::Invalid(reason.to_string()))
}

/// A value of an enumeration, if this version knows it.
fn known<E: TryFrom<i32>>(field: &str, value: i32) -> Result<E, RuntimeError> {
    let unknown =
        |_| RuntimeError::Invalid(format!("{field}: this version of the runtime does not know {value}"));
    E::try_from(value).map_err(unknown)
}

/// A runtime handler other than the default one.
pub(super) fn handler(name: &str) -> Checked {
    match name {
        "" => Ok(()),
        name => refuse(format!("no runtime handler `{name}`: this runtime has only the default one")),
    }
}

/// A duration in seconds that is none.
pub(super) fn timeout(seconds: i64) -> Checked {
    match seconds {
        0.. => Ok(()),
        _ => refuse(format!("a timeout of {seconds} s")),
    }
}

/// What a sandbox may not ask for.
pub(super) fn pod(config: &cri::PodSandboxConfig) -> Checked {
    if config.windows.is_some() {
        return refuse("this is a Linux node: it cannot run a Windows pod");
    }
    if config.hostname.len() > HOSTNAME_LIMIT {
        return refuse(format!("the host name is longer than {HOSTNAME_LIMIT} characters"));
    }
    for mapping in &config.port_mappings {
        known::<Protocol>("port_mappings.protocol", mapping.protocol)?;
    }
    let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let Some(security) = security else { return Ok(()) };
    known::<SupplementalGroupsPolicy>("supplemental_groups_policy", security.supplemental_groups_policy)?;
    for (field, profile) in [("seccomp", &security.seccomp), ("apparmor", &security.apparmor)] {
        known::<ProfileType>(field, profile.as_ref().map_or(0, |profile| profile.profile_type))?;
    }
    let options = security.namespace_options.clone().unwrap_or_default();
    for (name, mode) in [("network", options.network), ("ipc", options.ipc)] {
        match known(name, mode)? {
            NamespaceMode::Pod | NamespaceMode::Node => {}
            mode => {
                return refuse(format!("{name} namespace of a pod: {} is not possible", mode.as_str_name()));
            }
        }
    }
    if known::<NamespaceMode>("pid", options.pid)? == NamespaceMode::Target {
        return refuse("pid namespace of a pod: only a container can have a TARGET");
    }
    users(&options)
}

fn users(options: &cri::NamespaceOption) -> Checked {
    let mode = options.userns_options.as_ref().map_or(0, |users| users.mode);
    known::<NamespaceMode>("userns_options.mode", mode).map(drop)
}

/// What a container of `sandbox` may not ask for.
pub(super) fn container(config: &cri::ContainerConfig, sandbox: &PodRecord) -> Checked {
    known::<Signal>("stop_signal", config.stop_signal)?;
    if let Some(image) = &config.image {
        handler(&image.runtime_handler)?;
    }
    for variable in &config.envs {
        let odd = |reason| refuse(format!("environment variable `{}`: {reason}", variable.key));
        if variable.key.is_empty() || variable.key.contains(['=', '\0']) {
            return odd("a name has at least a character, and none of them is `=`");
        }
        match std::str::from_utf8(&variable.value) {
            Err(_) => return odd("the value is not UTF-8, which an OCI configuration cannot hold"),
            Ok(value) if value.contains('\0') => return odd("the value contains a NUL"),
            Ok(_) => {}
        }
    }
    config.mounts.iter().try_for_each(mount)?;
    let Some(linux) = &config.linux else { return Ok(()) };
    linux.security_context.as_ref().map_or(Ok(()), |security| confinement(security, sandbox))
}

fn mount(mount: &cri::Mount) -> Checked {
    let odd = |reason: &str| refuse(format!("mount on {}: {reason}", mount.container_path));
    known::<MountPropagation>("propagation", mount.propagation)?;
    match image_volumes::wanted(mount) {
        Some(image) => {
            handler(&image.runtime_handler)?;
            if !mount.host_path.is_empty() {
                return odd("it is of a host path or of an image, not of both");
            }
            if mount.propagation() != MountPropagation::PropagationPrivate {
                return odd("no mounts travel to or from an image");
            }
            if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
                return odd("an image has the pod's users already; its owners cannot be mapped once more");
            }
        }
        None if !mount.image_sub_path.is_empty() => return odd("image_sub_path needs an image"),
        None => {}
    }
    if mount.selinux_relabel && Path::new(SELINUX).exists() {
        return odd("SELinux labels are not supported by this runtime, and SELinux is enabled on this node");
    }
    Ok(())
}

fn confinement(security: &cri::LinuxContainerSecurityContext, sandbox: &PodRecord) -> Checked {
    known::<SupplementalGroupsPolicy>("supplemental_groups_policy", security.supplemental_groups_policy)?;
    for (field, profile) in [("seccomp", &security.seccomp), ("apparmor", &security.apparmor)] {
        known::<ProfileType>(field, profile.as_ref().map_or(0, |profile| profile.profile_type))?;
    }
    if security.privileged && !sandbox.may_be_privileged() {
        return refuse("a privileged container needs a sandbox whose security context is privileged, too");
    }
    let options = security.namespace_options.clone().unwrap_or_default();
    known::<NamespaceMode>("pid", options.pid)?;
    users(&options)?;
    // POD is what the pod has, be it the node's.
    for (name, mode, node) in
        [("network", options.network, sandbox.node_network()), ("ipc", options.ipc, sandbox.node_ipc())]
    {
        match known(name, mode)? {
            NamespaceMode::Pod => {}
            NamespaceMode::Node if node => {}
            NamespaceMode::Node => {
                return refuse(format!(
                    "{name} namespace: the container wants the node's, but its pod has one of its own"
                ));
            }
            mode => {
                return refuse(format!(
                    "{name} namespace of a container: {} is not possible",
                    mode.as_str_name()
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::state::PodPhase;

    fn sandbox(options: cri::NamespaceOption) -> PodRecord {
        PodRecord {
            id: "a".into(),
            config: cri::PodSandboxConfig {
                linux: Some(cri::LinuxPodSandboxConfig {
                    security_context: Some(cri::LinuxSandboxSecurityContext {
                        namespace_options: Some(options),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            },
            handler: String::new(),
            created_at: 0,
            phase: PodPhase::Ready,
            boot: String::new(),
            cgroup: "/a".into(),
            attachments: Vec::new(),
            addresses: Vec::new(),
        }
    }

    fn said(checked: Checked) -> String {
        checked.expect_err("it is refused").to_string()
    }

    #[test]
    fn a_pod_is_told_what_it_cannot_have() {
        let options = |options| sandbox(options).config;
        let (node, container, target) =
            (NamespaceMode::Node, NamespaceMode::Container, NamespaceMode::Target);
        assert!(pod(&cri::PodSandboxConfig::default()).is_ok());
        assert!(
            pod(&options(cri::NamespaceOption {
                network: node.into(),
                pid: container.into(),
                ..Default::default()
            }))
            .is_ok()
        );
        let windows = cri::PodSandboxConfig { windows: Some(Default::default()), ..Default::default() };
        let port = cri::PortMapping { protocol: 9, ..Default::default() };
        let ports = cri::PodSandboxConfig { port_mappings: vec![port], ..Default::default() };
        let mut policy = options(Default::default());
        let security = policy.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        security.supplemental_groups_policy = 7;
        let users = cri::UserNamespace { mode: 8, ..Default::default() };
        for (config, word) in [
            (windows, "Windows"),
            (cri::PodSandboxConfig { hostname: "h".repeat(65), ..Default::default() }, "64"),
            (ports, "protocol"),
            (policy, "supplemental_groups_policy"),
            (options(cri::NamespaceOption { network: container.into(), ..Default::default() }), "network"),
            (options(cri::NamespaceOption { ipc: target.into(), ..Default::default() }), "ipc"),
            (options(cri::NamespaceOption { pid: target.into(), ..Default::default() }), "TARGET"),
            (options(cri::NamespaceOption { pid: 5, ..Default::default() }), "does not know 5"),
            (
                options(cri::NamespaceOption { userns_options: Some(users), ..Default::default() }),
                "userns_options",
            ),
        ] {
            let said = said(pod(&config));
            assert!(said.contains(word), "{word}: {said}");
        }
    }

    #[test]
    fn a_container_is_told_what_it_cannot_have() {
        let own = sandbox(cri::NamespaceOption::default());
        let plain = cri::ContainerConfig::default;
        let env = |key: &str, value: &[u8]| cri::ContainerConfig {
            envs: vec![cri::KeyValue { key: key.into(), value: value.to_vec() }],
            ..plain()
        };
        let mounted = |mount| cri::ContainerConfig { mounts: vec![mount], ..plain() };
        let image = || Some(cri::ImageSpec { image: "i".into(), ..Default::default() });
        let secured = |security_context| cri::ContainerConfig {
            linux: Some(cri::LinuxContainerConfig {
                security_context: Some(security_context),
                ..Default::default()
            }),
            ..plain()
        };
        let spaces = |options| {
            secured(cri::LinuxContainerSecurityContext {
                namespace_options: Some(options),
                ..Default::default()
            })
        };
        let other =
            cri::ImageSpec { image: "i".into(), runtime_handler: "kata".into(), ..Default::default() };
        assert!(container(&env("A", "é=".as_bytes()), &own).is_ok());
        assert!(
            container(&mounted(cri::Mount { image: image(), readonly: true, ..Default::default() }), &own)
                .is_ok()
        );
        for (config, word) in [
            (cri::ContainerConfig { stop_signal: 999, ..plain() }, "stop_signal"),
            (cri::ContainerConfig { image: Some(other.clone()), ..plain() }, "kata"),
            (env("A", b"\xff"), "UTF-8"),
            (env("A", b"a\0"), "NUL"),
            (env("A=B", b""), "A=B"),
            (env("", b""), "name"),
            (mounted(cri::Mount { propagation: 3, ..Default::default() }), "propagation"),
            (
                mounted(cri::Mount { image: image(), host_path: "/a".into(), ..Default::default() }),
                "not of both",
            ),
            (mounted(cri::Mount { image: image(), propagation: 1, ..Default::default() }), "travel"),
            (
                mounted(cri::Mount {
                    image: image(),
                    uid_mappings: vec![Default::default()],
                    ..Default::default()
                }),
                "owners",
            ),
            (mounted(cri::Mount { image: Some(other), ..Default::default() }), "kata"),
            (mounted(cri::Mount { image_sub_path: "a".into(), ..Default::default() }), "image_sub_path"),
            (
                secured(cri::LinuxContainerSecurityContext { privileged: true, ..Default::default() }),
                "privileged",
            ),
            (
                secured(cri::LinuxContainerSecurityContext {
                    seccomp: Some(cri::SecurityProfile { profile_type: 4, ..Default::default() }),
                    ..Default::default()
                }),
                "seccomp",
            ),
            (
                spaces(cri::NamespaceOption { network: NamespaceMode::Node.into(), ..Default::default() }),
                "its pod has one",
            ),
            (
                spaces(cri::NamespaceOption { ipc: NamespaceMode::Container.into(), ..Default::default() }),
                "CONTAINER",
            ),
            (spaces(cri::NamespaceOption { pid: 4, ..Default::default() }), "pid"),
        ] {
            let said = said(container(&config, &own));
            assert!(said.contains(word), "{word}: {said}");
        }
        let node = cri::NamespaceOption { network: NamespaceMode::Node.into(), ..Default::default() };
        let of_node = sandbox(node.clone());
        assert!(container(&spaces(node), &of_node).is_ok());
        assert!(container(&spaces(Default::default()), &of_node).is_ok(), "POD is what the pod has");
        let mut privileged = sandbox(Default::default());
        privileged.config.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
        let config = secured(cri::LinuxContainerSecurityContext { privileged: true, ..Default::default() });
        assert!(container(&config, &privileged).is_ok());
    }

    #[test]
    fn other_values_that_mean_nothing() {
        assert!(handler("").is_ok() && said(handler("kata")).contains("`kata`"));
        assert!(timeout(0).is_ok() && timeout(-1).is_err());
    }
}
