//! The boot health check: one pod, made and torn down, proves that this boot can run pods.

use crate::cri::Cri;
use cairn_contract::cri::*;
use std::collections::HashMap;
use std::time::{Duration, Instant};

const NAME: &str = "cairn-boot-check";
const LABEL: &str = "cairn.boot-check";
const LOGS: &str = "/run/cairn/boot-check";
/// The image the builder bakes in for this.
const PROBE_IMAGE: &str = "cairn.local/probe:";
/// Longest wait for one call, and for the container to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a sandbox, and in it a container of the probe image if the node has it. Tears everything down.
/// Gives a sentence on what was done, or on what failed.
pub async fn run(cri: &Cri, uid: &str) -> Result<String, String> {
    sweep(cri).await;
    let start = Instant::now();
    let config = sandbox(uid);
    let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
    let mut runtime = cri.runtime.clone();
    let sandbox = call("RunPodSandbox", runtime.run_pod_sandbox(request)).await?.pod_sandbox_id;
    let container = container(cri, &sandbox, config).await;
    let removed = remove(cri, &sandbox).await;
    let _ = std::fs::remove_dir_all(LOGS);
    let done = container?;
    removed?;
    Ok(format!("{done} in {} ms", start.elapsed().as_millis()))
}

async fn container(cri: &Cri, sandbox: &str, sandbox_config: PodSandboxConfig) -> Result<String, String> {
    let mut runtime = cri.runtime.clone();
    let images =
        call("ListImages", cri.images.clone().list_images(ListImagesRequest { filter: None })).await?.images;
    let tag = images.iter().flat_map(|image| &image.repo_tags).find(|tag| tag.starts_with(PROBE_IMAGE));
    let Some(tag) = tag else { return Ok("a sandbox was made and torn down (no probe image)".to_owned()) };
    let config = ContainerConfig {
        metadata: Some(ContainerMetadata { name: "probe".into(), attempt: 0 }),
        image: Some(ImageSpec { image: tag.clone(), ..Default::default() }),
        args: vec!["echo".into(), "ready".into()],
        log_path: "probe.log".into(),
        linux: Some(LinuxContainerConfig::default()),
        ..Default::default()
    };
    let request = CreateContainerRequest {
        pod_sandbox_id: sandbox.to_owned(),
        config: Some(config),
        sandbox_config: Some(sandbox_config),
    };
    let id = call("CreateContainer", runtime.create_container(request)).await?.container_id;
    call("StartContainer", runtime.start_container(StartContainerRequest { container_id: id.clone() }))
        .await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let request = ContainerStatusRequest { container_id: id.clone(), verbose: false };
        let status =
            call("ContainerStatus", runtime.container_status(request)).await?.status.unwrap_or_default();
        match status.state() {
            ContainerState::ContainerExited if status.exit_code == 0 => {
                return Ok("a pod ran and was torn down".to_owned());
            }
            ContainerState::ContainerExited => {
                return Err(format!(
                    "the probe container ended with code {}: {} {}",
                    status.exit_code, status.reason, status.message
                ));
            }
            _ if Instant::now() >= deadline => {
                return Err(format!("the probe container did not end within {} s", PATIENCE.as_secs()));
            }
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Removes what an interrupted check left behind.
async fn sweep(cri: &Cri) {
    let label_selector = HashMap::from([(LABEL.to_owned(), String::new())]);
    let request =
        ListPodSandboxRequest { filter: Some(PodSandboxFilter { label_selector, ..Default::default() }) };
    if let Ok(found) = call("ListPodSandbox", cri.runtime.clone().list_pod_sandbox(request)).await {
        for sandbox in found.items {
            let _ = remove(cri, &sandbox.id).await;
        }
    }
}

async fn remove(cri: &Cri, sandbox: &str) -> Result<(), String> {
    let mut runtime = cri.runtime.clone();
    let pod_sandbox_id = sandbox.to_owned();
    call(
        "StopPodSandbox",
        runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() }),
    )
    .await?;
    call("RemovePodSandbox", runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id })).await?;
    Ok(())
}

fn sandbox(uid: &str) -> PodSandboxConfig {
    // As the kubelet does for an ordinary pod: own network and IPC for the pod, own PIDs for a container.
    let namespaces = NamespaceOption { pid: NamespaceMode::Container.into(), ..Default::default() };
    let security_context =
        LinuxSandboxSecurityContext { namespace_options: Some(namespaces), ..Default::default() };
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: NAME.into(),
            uid: uid.into(),
            namespace: "cairn-system".into(),
            attempt: 0,
        }),
        hostname: NAME.into(),
        log_directory: LOGS.into(),
        labels: HashMap::from([(LABEL.to_owned(), String::new())]),
        linux: Some(LinuxPodSandboxConfig { security_context: Some(security_context), ..Default::default() }),
        ..Default::default()
    }
}

async fn call<T>(
    name: &str,
    answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(format!("{name} failed: {} ({:?})", status.message(), status.code())),
        Err(_) => Err(format!("{name} took longer than {} s", PATIENCE.as_secs())),
    }
}
