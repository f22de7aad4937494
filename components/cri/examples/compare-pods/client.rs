//! A runtime as the kubelet sees it: one connection, the calls of a pod's life.

use crate::Outcome;
use cairn_contract::cri::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ExecSyncRequest, ImageSpec,
    LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, PullImageRequest, RemoveContainerRequest,
    RemoveImageRequest, RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest,
    StopContainerRequest, StopPodSandboxRequest, image_service_client::ImageServiceClient,
    runtime_service_client::RuntimeServiceClient,
};
use hyper_util::rt::TokioIo;
use std::{
    os::unix::net::UnixStream as Blocking,
    time::{Duration, Instant},
};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// The steps of a life that are timed.
pub(crate) const STEPS: [&str; 6] = ["sandbox", "create", "start", "exec", "stop", "remove"];

/// A daemon to measure.
pub(crate) struct Runtime {
    pub(crate) name: &'static str,
    /// Its process.
    pub(crate) daemon: i32,
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

/// A pod with its container.
pub(crate) struct Pod {
    sandbox: String,
    container: String,
}

impl Runtime {
    pub(crate) async fn connect(name: &'static str, socket: &str) -> Outcome<Self> {
        let peer = rustix::net::sockopt::socket_peercred(Blocking::connect(socket)?)?;
        let path = socket.to_owned();
        let channel = Endpoint::from_static("http://runtime")
            .connect_with_connector(tower::service_fn(move |_| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            }))
            .await?;
        Ok(Self {
            name,
            daemon: peer.pid.as_raw_nonzero().get(),
            runtime: RuntimeServiceClient::new(channel.clone()),
            images: ImageServiceClient::new(channel),
        })
    }

    pub(crate) async fn pull(&self, image: &str) -> Outcome<()> {
        self.images
            .clone()
            .pull_image(PullImageRequest { image: Some(spec(image)), ..Default::default() })
            .await?;
        Ok(())
    }

    pub(crate) async fn forget(&self, image: &str) -> Outcome<()> {
        self.images.clone().remove_image(RemoveImageRequest { image: Some(spec(image)) }).await?;
        Ok(())
    }

    /// A pod's whole life; the time of each of [`STEPS`].
    pub(crate) async fn life(&self, image: &str, name: &str) -> Outcome<[Duration; STEPS.len()]> {
        let mut runtime = self.runtime.clone();
        let mut clock = Instant::now();
        let mut lap = || std::mem::replace(&mut clock, Instant::now()).elapsed();
        let config = sandbox(name);
        let sandbox = self.run(&config).await?;
        let ran = lap();
        let container = self.create(&sandbox, &config, image).await?;
        let created = lap();
        runtime.start_container(StartContainerRequest { container_id: container.clone() }).await?;
        let started = lap();
        let exec =
            ExecSyncRequest { container_id: container.clone(), cmd: vec!["true".to_owned()], timeout: 60 };
        let answer = runtime.exec_sync(exec).await?.into_inner();
        if answer.exit_code != 0 {
            return Err(format!("{}: `true` exits with {}", self.name, answer.exit_code).into());
        }
        let executed = lap();
        let pod = Pod { sandbox, container };
        self.stop(&pod).await?;
        let stopped = lap();
        self.delete(&pod).await?;
        Ok([ran, created, started, executed, stopped, lap()])
    }

    /// A pod with a running container.
    pub(crate) async fn start(&self, image: &str, name: &str) -> Outcome<Pod> {
        let config = sandbox(name);
        let sandbox = self.run(&config).await?;
        let container = self.create(&sandbox, &config, image).await?;
        self.runtime
            .clone()
            .start_container(StartContainerRequest { container_id: container.clone() })
            .await?;
        Ok(Pod { sandbox, container })
    }

    pub(crate) async fn remove(&self, pod: &Pod) -> Outcome<()> {
        self.stop(pod).await?;
        self.delete(pod).await
    }

    async fn run(&self, config: &PodSandboxConfig) -> Outcome<String> {
        let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        Ok(self.runtime.clone().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    }

    async fn create(&self, sandbox: &str, config: &PodSandboxConfig, image: &str) -> Outcome<String> {
        let container = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "main".to_owned(), attempt: 0 }),
            image: Some(spec(image)),
            command: ["sleep", "3600"].map(str::to_owned).into(),
            log_path: "main.log".to_owned(),
            ..Default::default()
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(container),
            sandbox_config: Some(config.clone()),
        };
        Ok(self.runtime.clone().create_container(request).await?.into_inner().container_id)
    }

    /// Stops the container at once, as `sleep` heeds no other signal, and the pod.
    async fn stop(&self, pod: &Pod) -> Outcome<()> {
        let mut runtime = self.runtime.clone();
        runtime
            .stop_container(StopContainerRequest { container_id: pod.container.clone(), timeout: 0 })
            .await?;
        runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod.sandbox.clone() }).await?;
        Ok(())
    }

    async fn delete(&self, pod: &Pod) -> Outcome<()> {
        let mut runtime = self.runtime.clone();
        runtime.remove_container(RemoveContainerRequest { container_id: pod.container.clone() }).await?;
        runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod.sandbox.clone() }).await?;
        Ok(())
    }
}

fn spec(image: &str) -> ImageSpec {
    ImageSpec { image: image.to_owned(), ..Default::default() }
}

fn sandbox(name: &str) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.to_owned(),
            uid: name.to_owned(),
            namespace: "compare".to_owned(),
            attempt: 0,
        }),
        log_directory: format!("/var/log/compare/{name}"),
        linux: Some(LinuxPodSandboxConfig { cgroup_parent: "/compare".to_owned(), ..Default::default() }),
        ..Default::default()
    }
}
