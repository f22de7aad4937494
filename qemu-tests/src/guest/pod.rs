//! Pods and containers, as a kubelet makes them, but readable.

use super::{CALL, Guest, LONG_CALL, image_spec};
use crate::{image::root::Probe, scenario::Stop};
use cairn_contract::cri;
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::time::sleep;

/// Makes uids different within a run; the runtime keys pods by name, namespace, uid and attempt.
static NEXT: AtomicU64 = AtomicU64::new(1);
/// The namespace of all pods here.
pub const NAMESPACE: &str = "cairn-test";

/// A pod to be made.
#[derive(Debug, Clone)]
pub struct PodBuilder {
    guest: Guest,
    config: cri::PodSandboxConfig,
}

/// A pod that was made.
#[derive(Debug, Clone)]
pub struct Pod {
    guest: Guest,
    /// Sandbox id.
    pub id: String,
    config: cri::PodSandboxConfig,
}

/// A container to be made.
#[derive(Debug, Clone)]
pub struct ContainerBuilder {
    pod: Pod,
    config: cri::ContainerConfig,
}

/// A container that was made.
#[derive(Debug, Clone)]
pub struct Container {
    pub(super) guest: Guest,
    /// Container id.
    pub id: String,
    /// Its log on the node.
    pub log: String,
}

/// What an exec gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Exit code.
    pub code: i32,
}

impl Output {
    /// Standard output of a command that has to succeed.
    pub fn success(self) -> Result<String, Stop> {
        if self.code == 0 {
            Ok(self.stdout)
        } else {
            Err(Stop::failed(format!("exit code {}: {}{}", self.code, self.stdout, self.stderr)))
        }
    }
}

impl Guest {
    /// A pod with its own network, on the default CNI network.
    pub fn pod(&self, name: &str) -> PodBuilder {
        let uid = format!(
            "{:08x}-0000-4000-8000-{:012x}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        PodBuilder {
            guest: self.clone(),
            config: cri::PodSandboxConfig {
                log_directory: format!("/var/log/pods/{NAMESPACE}_{name}_{uid}"),
                hostname: name.to_owned(),
                metadata: Some(cri::PodSandboxMetadata {
                    name: name.to_owned(),
                    uid,
                    namespace: NAMESPACE.to_owned(),
                    attempt: 0,
                }),
                linux: Some(cri::LinuxPodSandboxConfig {
                    security_context: Some(cri::LinuxSandboxSecurityContext {
                        namespace_options: Some(cri::NamespaceOption::default()),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            },
        }
    }

    /// A pod with one container of the probe that waits, and a directory of the node at `/volume` in it.
    pub async fn pod_with(&self, name: &str, probe: &Probe, path: &str) -> Result<(Pod, Container), Stop> {
        let pod = self.pod(name).run().await?;
        let container = pod.container("main", &probe.reference).args(["pause"]).mount(path, "/volume");
        let container = container.start().await?;
        Ok((pod, container))
    }

    /// A pod's state.
    pub async fn pod_status(&self, id: &str) -> Result<cri::PodSandboxStatus, Stop> {
        let mut client = self.runtime();
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let status = self
            .call("PodSandboxStatus", CALL, async move { client.pod_sandbox_status(request).await })
            .await?;
        status.status.ok_or_else(|| Stop::failed("PodSandboxStatus answered without a status"))
    }
}

impl PodBuilder {
    /// Forwards a port of the node to one of the pod, TCP and UDP.
    pub fn port(mut self, host: u16, container: u16) -> Self {
        for protocol in [cri::Protocol::Tcp, cri::Protocol::Udp] {
            self.config.port_mappings.push(cri::PortMapping {
                protocol: protocol.into(),
                container_port: container.into(),
                host_port: host.into(),
                host_ip: String::new(),
            });
        }
        self
    }

    /// An annotation.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.config.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Shares the node's network and process ids, and may run privileged containers.
    pub fn on_host(mut self) -> Self {
        self.config.hostname.clear();
        if let Some(context) = self.config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
            context.privileged = true;
            context.namespace_options = Some(host_namespaces());
        }
        self
    }

    /// Has users of its own: its ids from 0 are the node's from `first`, so many.
    pub fn own_users(mut self, first: u32, length: u32) -> Self {
        let ids = vec![cri::IdMapping { host_id: first, container_id: 0, length }];
        if let Some(context) = self.config.linux.as_mut().and_then(|linux| linux.security_context.as_mut())
            && let Some(options) = &mut context.namespace_options
        {
            options.userns_options = Some(cri::UserNamespace {
                mode: cri::NamespaceMode::Pod.into(),
                uids: ids.clone(),
                gids: ids,
            });
        }
        self
    }

    /// Makes it.
    pub async fn run(self) -> Result<Pod, Stop> {
        let mut client = self.guest.runtime();
        let request =
            cri::RunPodSandboxRequest { config: Some(self.config.clone()), runtime_handler: String::new() };
        let made = async move { client.run_pod_sandbox(request).await };
        let made = self.guest.call("RunPodSandbox", LONG_CALL, made).await?;
        Ok(Pod { guest: self.guest, id: made.pod_sandbox_id, config: self.config })
    }
}

impl Pod {
    /// The pod's state.
    pub async fn status(&self) -> Result<cri::PodSandboxStatus, Stop> {
        self.guest.pod_status(&self.id).await
    }

    /// Its addresses, the primary one first.
    pub async fn addresses(&self) -> Result<Vec<IpAddr>, Stop> {
        let network = self.status().await?.network.unwrap_or_default();
        let all = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|ip| ip.ip));
        all.map(|ip| ip.parse().map_err(|_| Stop::failed(format!("pod address `{ip}` is no IP address"))))
            .collect()
    }

    /// Its address of one family.
    pub async fn address(&self, ipv6: bool) -> Result<IpAddr, Stop> {
        let addresses = self.addresses().await?;
        let found = addresses.iter().find(|address| address.is_ipv6() == ipv6);
        found.copied().ok_or_else(|| {
            Stop::failed(format!(
                "the pod has no {} address, only {addresses:?}",
                if ipv6 { "IPv6" } else { "IPv4" }
            ))
        })
    }

    /// A container in it.
    pub fn container(&self, name: &str, image: &str) -> ContainerBuilder {
        ContainerBuilder {
            pod: self.clone(),
            config: cri::ContainerConfig {
                metadata: Some(cri::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
                image: Some(image_spec(image)),
                log_path: format!("{name}/0.log"),
                linux: Some(cri::LinuxContainerConfig {
                    resources: Some(cri::LinuxContainerResources::default()),
                    security_context: Some(cri::LinuxContainerSecurityContext {
                        namespace_options: self.namespaces(),
                        ..Default::default()
                    }),
                }),
                ..Default::default()
            },
        }
    }

    /// The runtime's own details of it, by name.
    pub(super) async fn details(&self) -> Result<HashMap<String, String>, Stop> {
        let mut client = self.guest.runtime();
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: self.id.clone(), verbose: true };
        let status = async move { client.pod_sandbox_status(request).await };
        Ok(self.guest.call("PodSandboxStatus(verbose)", LONG_CALL, status).await?.info)
    }

    fn namespaces(&self) -> Option<cri::NamespaceOption> {
        self.config.linux.as_ref()?.security_context.as_ref()?.namespace_options.clone()
    }

    /// What it uses.
    pub async fn stats(&self) -> Result<cri::PodSandboxStats, Stop> {
        let mut client = self.guest.runtime();
        let request = cri::PodSandboxStatsRequest { pod_sandbox_id: self.id.clone() };
        let stats = async move { client.pod_sandbox_stats(request).await };
        let stats = self.guest.call("PodSandboxStats", CALL, stats).await?;
        stats.stats.ok_or_else(|| Stop::failed("PodSandboxStats answered without stats"))
    }

    /// Stops it with its containers.
    pub async fn stop(&self) -> Result<(), Stop> {
        self.guest.stop_pod(&self.id).await
    }

    /// Stops and removes it.
    pub async fn remove(&self) -> Result<(), Stop> {
        self.guest.stop_pod(&self.id).await?;
        self.guest.remove_pod(&self.id).await
    }
}

impl ContainerBuilder {
    /// Arguments after the image's entry point.
    pub fn args<const N: usize>(mut self, args: [&str; N]) -> Self {
        self.config.args = args.map(str::to_owned).to_vec();
        self
    }

    /// An environment variable.
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.config.envs.push(cri::KeyValue { key: key.to_owned(), value: value.as_bytes().to_vec() });
        self
    }

    /// A directory of the node in the container.
    pub fn mount(mut self, host: &str, container: &str) -> Self {
        self.config.mounts.push(cri::Mount {
            host_path: host.to_owned(),
            container_path: container.to_owned(),
            ..Default::default()
        });
        self
    }

    /// A directory of the node in the container; what is mounted below it on one side is mounted on the other.
    pub fn mount_shared(mut self, host: &str, container: &str) -> Self {
        self.config.mounts.push(cri::Mount {
            host_path: host.to_owned(),
            container_path: container.to_owned(),
            propagation: cri::MountPropagation::PropagationBidirectional.into(),
            ..Default::default()
        });
        self
    }

    /// A directory of the node in the container, its owners those of the pod's own users.
    pub fn mount_mapped(mut self, host: &str, container: &str) -> Self {
        let users = self.pod.namespaces().and_then(|options| options.userns_options).unwrap_or_default();
        self.config.mounts.push(cri::Mount {
            host_path: host.to_owned(),
            container_path: container.to_owned(),
            uid_mappings: users.uids,
            gid_mappings: users.gids,
            ..Default::default()
        });
        self
    }

    /// A device of the node.
    pub fn device(mut self, host: &str, container: &str, permissions: &str) -> Self {
        self.config.devices.push(cri::Device {
            host_path: host.to_owned(),
            container_path: container.to_owned(),
            permissions: permissions.to_owned(),
        });
        self
    }

    /// Profiles, users and the rest of its security.
    pub fn security(mut self, change: impl FnOnce(&mut cri::LinuxContainerSecurityContext)) -> Self {
        if let Some(context) = self.config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
            change(context);
        }
        self
    }

    /// All capabilities, all devices.
    pub fn privileged(mut self) -> Self {
        if let Some(context) = self.config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
            context.privileged = true;
        }
        self
    }

    /// Limits.
    pub fn resources(mut self, resources: cri::LinuxContainerResources) -> Self {
        if let Some(linux) = &mut self.config.linux {
            linux.resources = Some(resources);
        }
        self
    }

    /// Makes it, without starting it.
    pub async fn create(self) -> Result<Container, Stop> {
        let guest = self.pod.guest.clone();
        let log = format!("{}/{}", self.pod.config.log_directory, self.config.log_path);
        let mut client = guest.runtime();
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: self.pod.id,
            config: Some(self.config),
            sandbox_config: Some(self.pod.config),
        };
        let made = async move { client.create_container(request).await };
        let made = guest.call("CreateContainer", LONG_CALL, made).await?;
        Ok(Container { guest, id: made.container_id, log })
    }

    /// Makes and starts it.
    pub async fn start(self) -> Result<Container, Stop> {
        let container = self.create().await?;
        container.start().await?;
        Ok(container)
    }
}

impl Container {
    /// Starts it.
    pub async fn start(&self) -> Result<(), Stop> {
        let mut client = self.guest.runtime();
        let request = cri::StartContainerRequest { container_id: self.id.clone() };
        let started = async move { client.start_container(request).await };
        self.guest.call("StartContainer", LONG_CALL, started).await.map(drop)
    }

    /// Its state.
    pub async fn status(&self) -> Result<cri::ContainerStatus, Stop> {
        Ok(self.verbose_status(false).await?.status.unwrap_or_default())
    }

    /// Its state, with the runtime's own details in `info`.
    pub async fn verbose_status(&self, verbose: bool) -> Result<cri::ContainerStatusResponse, Stop> {
        let mut client = self.guest.runtime();
        let request = cri::ContainerStatusRequest { container_id: self.id.clone(), verbose };
        let status = async move { client.container_status(request).await };
        self.guest.call("ContainerStatus", CALL, status).await
    }

    /// Runs a command in it.
    pub async fn exec<S: AsRef<str>>(&self, command: &[S]) -> Result<Output, Stop> {
        let mut client = self.guest.runtime();
        let command: Vec<String> = command.iter().map(|word| word.as_ref().to_owned()).collect();
        let what = format!("ExecSync({})", command.join(" "));
        let timeout = self.guest.pace().scale(CALL).as_secs();
        let request = cri::ExecSyncRequest {
            container_id: self.id.clone(),
            cmd: command,
            timeout: i64::try_from(timeout).unwrap_or(i64::MAX),
        };
        let ran = async move { client.exec_sync(request).await };
        let ran = self.guest.call(&what, LONG_CALL, ran).await?;
        Ok(Output {
            stdout: String::from_utf8_lossy(&ran.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&ran.stderr).into_owned(),
            code: ran.exit_code,
        })
    }

    /// Waits until it has exited, and returns its last state.
    pub async fn exited(&self) -> Result<cri::ContainerStatus, Stop> {
        let deadline = self.guest.pace().deadline(Duration::from_secs(30));
        loop {
            let status = self.status().await?;
            if status.state() == cri::ContainerState::ContainerExited {
                return Ok(status);
            }
            if !deadline.is_open() {
                return Err(Stop::failed(format!(
                    "the container did not exit; its state is {:?}",
                    status.state()
                )));
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// What it uses.
    pub async fn stats(&self) -> Result<cri::ContainerStats, Stop> {
        let mut client = self.guest.runtime();
        let request = cri::ContainerStatsRequest { container_id: self.id.clone() };
        let stats = async move { client.container_stats(request).await };
        let stats = self.guest.call("ContainerStats", CALL, stats).await?;
        stats.stats.ok_or_else(|| Stop::failed("ContainerStats answered without stats"))
    }

    /// Asks it to stop, and kills it after `grace` seconds.
    pub async fn stop(&self, grace: i64) -> Result<(), Stop> {
        let mut client = self.guest.runtime();
        let request = cri::StopContainerRequest { container_id: self.id.clone(), timeout: grace };
        let stopped = async move { client.stop_container(request).await };
        self.guest.call("StopContainer", LONG_CALL, stopped).await.map(drop)
    }

    /// Removes it.
    pub async fn remove(&self) -> Result<(), Stop> {
        let mut client = self.guest.runtime();
        let request = cri::RemoveContainerRequest { container_id: self.id.clone() };
        let removed = async move { client.remove_container(request).await };
        self.guest.call("RemoveContainer", LONG_CALL, removed).await.map(drop)
    }
}

fn host_namespaces() -> cri::NamespaceOption {
    cri::NamespaceOption {
        network: cri::NamespaceMode::Node.into(),
        pid: cri::NamespaceMode::Node.into(),
        ipc: cri::NamespaceMode::Node.into(),
        ..Default::default()
    }
}
