//! Calls to a daemon. They succeed, but for those that are only tried.

use super::until;
use cairn_contract::cri::{self, runtime_service_client::RuntimeServiceClient};
use tonic::{Status, transport::Channel};

pub(crate) type Client = RuntimeServiceClient<Channel>;

pub(crate) async fn try_run_pod(
    client: &mut Client,
    config: cri::PodSandboxConfig,
) -> Result<String, Status> {
    let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    client.run_pod_sandbox(request).await.map(|run| run.into_inner().pod_sandbox_id)
}

pub(crate) async fn run_pod(client: &mut Client, config: cri::PodSandboxConfig) -> String {
    try_run_pod(client, config).await.unwrap()
}

pub(crate) async fn stop_pod(client: &mut Client, pod: &str) {
    client.stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: pod.into() }).await.unwrap();
}

pub(crate) async fn remove_pod(client: &mut Client, pod: &str) {
    client.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: pod.into() }).await.unwrap();
}

/// Every pod.
pub(crate) async fn pods(client: &mut Client) -> Vec<cri::PodSandbox> {
    client.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await.unwrap().into_inner().items
}

/// Every container.
pub(crate) async fn containers(client: &mut Client) -> Vec<cri::Container> {
    client.list_containers(cri::ListContainersRequest::default()).await.unwrap().into_inner().containers
}

pub(crate) async fn try_create(
    client: &mut Client,
    pod: &str,
    config: cri::ContainerConfig,
) -> Result<String, Status> {
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: pod.into(),
        config: Some(config),
        ..Default::default()
    };
    client.create_container(request).await.map(|created| created.into_inner().container_id)
}

pub(crate) async fn create(client: &mut Client, pod: &str, config: cri::ContainerConfig) -> String {
    try_create(client, pod, config).await.unwrap()
}

pub(crate) async fn try_start(client: &mut Client, id: &str) -> Result<(), Status> {
    client.start_container(cri::StartContainerRequest { container_id: id.into() }).await.map(drop)
}

pub(crate) async fn start(client: &mut Client, id: &str) {
    try_start(client, id).await.unwrap();
}

/// Creates and starts a container.
pub(crate) async fn run(client: &mut Client, pod: &str, config: cri::ContainerConfig) -> String {
    let id = create(client, pod, config).await;
    start(client, &id).await;
    id
}

/// Stops a container, with so many seconds to end by itself.
pub(crate) async fn stop(client: &mut Client, id: &str, timeout: i64) {
    client.stop_container(cri::StopContainerRequest { container_id: id.into(), timeout }).await.unwrap();
}

pub(crate) async fn status(client: &mut Client, id: &str) -> cri::ContainerStatus {
    let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: false };
    client.container_status(request).await.unwrap().into_inner().status.unwrap()
}

/// What a verbose status tells of a container.
pub(crate) async fn info(client: &mut Client, id: &str) -> serde_json::Value {
    let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: true };
    serde_json::from_str(&client.container_status(request).await.unwrap().into_inner().info["info"]).unwrap()
}

/// A container's status once it has ended.
pub(crate) async fn ended(client: &mut Client, id: &str) -> cri::ContainerStatus {
    let end = async || {
        let status = status(client, id).await;
        (status.state() == cri::ContainerState::ContainerExited).then_some(status)
    };
    until(end, || format!("{id} does not end")).await
}

/// Runs a command in a container.
pub(crate) async fn exec(client: &mut Client, id: &str, command: &[&str]) -> cri::ExecSyncResponse {
    let cmd = command.iter().map(|&word| word.to_owned()).collect();
    let request = cri::ExecSyncRequest { container_id: id.into(), cmd, timeout: 30 };
    client.exec_sync(request).await.unwrap().into_inner()
}

/// What a script says in a container, in both ways.
pub(crate) async fn output(client: &mut Client, id: &str, script: &str) -> String {
    let result = exec(client, id, &["sh", "-c", script]).await;
    String::from_utf8(result.stdout).unwrap() + &String::from_utf8(result.stderr).unwrap()
}

/// Whether pods can have users of their own here.
pub(crate) async fn has_user_namespaces(client: &mut Client) -> bool {
    let status = client.status(cri::StatusRequest::default()).await.unwrap().into_inner();
    status.runtime_handlers[0].features.as_ref().unwrap().user_namespaces
}
