//! Pods and containers as the kubelet asks for them.

use super::{image::IMAGE, node::Node};
use cairn_contract::cri;

/// A PID namespace for each container, and a network namespace for the pod.
pub(crate) fn own_pids() -> cri::NamespaceOption {
    cri::NamespaceOption { pid: cri::NamespaceMode::Container.into(), ..Default::default() }
}

pub(crate) fn pod_metadata(name: &str) -> cri::PodSandboxMetadata {
    cri::PodSandboxMetadata {
        name: name.into(),
        uid: format!("uid-{name}"),
        namespace: "default".into(),
        attempt: 0,
    }
}

impl Node {
    /// A pod with [`own_pids`].
    pub(crate) fn pod(&self, name: &str) -> cri::PodSandboxConfig {
        self.pod_in(name, &own_pids())
    }

    /// A pod with these namespaces.
    pub(crate) fn pod_in(&self, name: &str, options: &cri::NamespaceOption) -> cri::PodSandboxConfig {
        cri::PodSandboxConfig {
            metadata: Some(pod_metadata(name)),
            hostname: format!("host-{name}"),
            log_directory: self.path("logs").display().to_string(),
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup(),
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(options.clone()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

/// A container with [`own_pids`] that runs a script.
pub(crate) fn container(name: &str, script: &str) -> cri::ContainerConfig {
    container_in(name, &own_pids(), script)
}

/// A container with these namespaces that runs a script under the default seccomp filter.
pub(crate) fn container_in(name: &str, options: &cri::NamespaceOption, script: &str) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: IMAGE.into(), ..Default::default() }),
        command: vec!["sh".into(), "-c".into(), script.into()],
        log_path: format!("{name}.log"),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(cri::LinuxContainerResources::default()),
            security_context: Some(cri::LinuxContainerSecurityContext {
                seccomp: Some(cri::SecurityProfile::default()),
                namespace_options: Some(options.clone()),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

/// What a container may use.
pub(crate) fn resources(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerResources {
    config.linux.as_mut().unwrap().resources.as_mut().unwrap()
}

/// What a container may do.
pub(crate) fn security(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap()
}
