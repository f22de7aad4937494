//! RuntimeService of CRI: each call unpacked, passed on, and its result packed.

use super::{Runtime, RuntimeError, convert, metrics, pages::pages, refusals};
use crate::{network::RangeError, traces};
use cairn_contract::{
    cri::{self, runtime_service_server::RuntimeService},
    runtime::CgroupDriver,
};
use futures::StreamExt;
use std::{collections::HashMap, future::Future, time::Duration};
use tokio_stream::wrappers::BroadcastStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, codegen::BoxStream};

type Answer<T> = Result<Response<T>, Status>;

/// The service.
#[derive(Debug, Clone)]
pub struct RuntimeServer {
    runtime: Runtime,
    streaming: cairn_streaming::Server,
    stopping: CancellationToken,
}

impl RuntimeServer {
    /// Serves `runtime`; for what is streamed, clients are sent to `streaming`. Streams of events, which have no end of
    /// their own, end when it is `stopping`.
    pub fn new(runtime: Runtime, streaming: cairn_streaming::Server, stopping: CancellationToken) -> Self {
        Self { runtime, streaming, stopping }
    }

    /// Where a client gets what it asked for.
    fn url(&self, request: cairn_streaming::Request) -> Result<String, Status> {
        self.streaming.url(request).map_err(|error| Status::resource_exhausted(error.to_string()))
    }
}

/// Runs a change to its end even if the client goes away: half a change is worse than one nobody waits for.
async fn whole<T: Send + 'static>(
    change: impl Future<Output = Result<T, RuntimeError>> + Send + 'static,
) -> Result<T, Status> {
    match tokio::spawn(traces::carried(change)).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(Status::internal(format!("the request failed inside the runtime: {error}"))),
    }
}

fn seconds(count: i64) -> Result<Duration, Status> {
    refusals::timeout(count)?;
    Ok(Duration::from_secs(count.unsigned_abs()))
}

fn missing(what: &str) -> Status {
    Status::invalid_argument(format!("the request has no {what}"))
}

/// Says of the call's span which pod it is about, by the names of the semantic conventions.
fn note_pod(metadata: Option<&cri::PodSandboxMetadata>) {
    let Some(metadata) = metadata else { return };
    traces::note("k8s.namespace.name", &metadata.namespace);
    traces::note("k8s.pod.name", &metadata.name);
    traces::note("k8s.pod.uid", &metadata.uid);
}

/// The same of a container that is to be.
fn note_container(pod: &str, config: &cri::ContainerConfig) {
    traces::note(traces::SANDBOX, &pod);
    if let Some(metadata) = &config.metadata {
        traces::note("k8s.container.name", &metadata.name);
    }
    if let Some(image) = &config.image {
        traces::note(traces::IMAGE, &image.image);
    }
}

#[tonic::async_trait]
impl RuntimeService for RuntimeServer {
    async fn version(&self, _: Request<cri::VersionRequest>) -> Answer<cri::VersionResponse> {
        Ok(Response::new(cri::VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "cairn".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        }))
    }

    async fn status(&self, request: Request<cri::StatusRequest>) -> Answer<cri::StatusResponse> {
        let condition = |kind: &str, problem: Option<(&str, String)>| cri::RuntimeCondition {
            r#type: kind.to_owned(),
            status: problem.is_none(),
            reason: problem.as_ref().map(|(reason, _)| (*reason).to_owned()).unwrap_or_default(),
            message: problem.map(|(_, message)| message).unwrap_or_default(),
        };
        let network = self.runtime.inner.networks.ready().await.err();
        let network = network.map(|error| ("NetworkPluginNotReady", error.to_string()));
        let info = if request.into_inner().verbose {
            self.runtime.status_info(network.as_ref())
        } else {
            HashMap::new()
        };
        Ok(Response::new(cri::StatusResponse {
            status: Some(cri::RuntimeStatus {
                conditions: vec![condition("RuntimeReady", None), condition("NetworkReady", network)],
            }),
            info,
            runtime_handlers: self.runtime.handlers().await,
            features: Some(cri::RuntimeFeatures {
                supplemental_groups_policy: true,
                // The node's network belongs to the node's users.
                user_namespaces_host_network: false,
                mount_options: true,
            }),
        }))
    }

    async fn runtime_config(
        &self,
        _: Request<cri::RuntimeConfigRequest>,
    ) -> Answer<cri::RuntimeConfigResponse> {
        let driver = match self.runtime.inner.config.cgroup_driver {
            CgroupDriver::Systemd => cri::CgroupDriver::Systemd,
            CgroupDriver::Cgroupfs => cri::CgroupDriver::Cgroupfs,
        };
        let linux = Some(cri::LinuxRuntimeConfiguration { cgroup_driver: driver.into() });
        Ok(Response::new(cri::RuntimeConfigResponse { linux }))
    }

    async fn update_runtime_config(
        &self,
        request: Request<cri::UpdateRuntimeConfigRequest>,
    ) -> Answer<cri::UpdateRuntimeConfigResponse> {
        let network = request.into_inner().runtime_config.and_then(|config| config.network_config);
        let ranges = network.map(|network| network.pod_cidr).unwrap_or_default();
        self.runtime.inner.networks.set_pod_ranges(&ranges).map_err(|error| match error {
            RangeError::Invalid(..) => Status::invalid_argument(error.to_string()),
            RangeError::Record(_) => Status::internal(error.to_string()),
        })?;
        Ok(Response::new(cri::UpdateRuntimeConfigResponse {}))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<cri::RunPodSandboxRequest>,
    ) -> Answer<cri::RunPodSandboxResponse> {
        let request = request.into_inner();
        let config = request.config.ok_or_else(|| missing("config"))?;
        note_pod(config.metadata.as_ref());
        let runtime = self.runtime.clone();
        let pod_sandbox_id =
            whole(async move { runtime.run_pod(config, request.runtime_handler).await }).await?;
        traces::note(traces::SANDBOX, &pod_sandbox_id);
        Ok(Response::new(cri::RunPodSandboxResponse { pod_sandbox_id }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<cri::StopPodSandboxRequest>,
    ) -> Answer<cri::StopPodSandboxResponse> {
        let (runtime, id) = (self.runtime.clone(), request.into_inner().pod_sandbox_id);
        traces::note(traces::SANDBOX, &id);
        whole(async move { runtime.stop_pod(&id).await }).await?;
        Ok(Response::new(cri::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Answer<cri::RemovePodSandboxResponse> {
        let (runtime, id) = (self.runtime.clone(), request.into_inner().pod_sandbox_id);
        traces::note(traces::SANDBOX, &id);
        whole(async move { runtime.remove_pod(&id).await }).await?;
        Ok(Response::new(cri::RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<cri::PodSandboxStatusRequest>,
    ) -> Answer<cri::PodSandboxStatusResponse> {
        let request = request.into_inner();
        traces::note(traces::SANDBOX, &request.pod_sandbox_id);
        let pod = self.runtime.pod(&request.pod_sandbox_id)?;
        let record = pod.record().clone();
        let info = if request.verbose { self.runtime.pod_info(&pod).await } else { HashMap::new() };
        let containers = self.runtime.containers_of(&record.id);
        Ok(Response::new(cri::PodSandboxStatusResponse {
            status: Some(convert::pod_status(&record)),
            info,
            containers_statuses: containers
                .iter()
                .map(|held| convert::container_status(&held.record()))
                .collect(),
            timestamp: super::now(),
        }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Answer<cri::ListPodSandboxResponse> {
        let items = self.runtime.list_pods(request.into_inner().filter.as_ref());
        Ok(Response::new(cri::ListPodSandboxResponse { items }))
    }

    async fn create_container(
        &self,
        request: Request<cri::CreateContainerRequest>,
    ) -> Answer<cri::CreateContainerResponse> {
        let request = request.into_inner();
        let config = request.config.ok_or_else(|| missing("config"))?;
        let (runtime, pod) = (self.runtime.clone(), request.pod_sandbox_id);
        note_container(&pod, &config);
        let container_id = whole(async move { runtime.create_container(&pod, config).await }).await?;
        traces::note(traces::CONTAINER, &container_id);
        Ok(Response::new(cri::CreateContainerResponse { container_id }))
    }

    async fn start_container(
        &self,
        request: Request<cri::StartContainerRequest>,
    ) -> Answer<cri::StartContainerResponse> {
        let (runtime, id) = (self.runtime.clone(), request.into_inner().container_id);
        traces::note(traces::CONTAINER, &id);
        whole(async move { runtime.start_container(&id).await }).await?;
        Ok(Response::new(cri::StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<cri::StopContainerRequest>,
    ) -> Answer<cri::StopContainerResponse> {
        let (runtime, request) = (self.runtime.clone(), request.into_inner());
        traces::note(traces::CONTAINER, &request.container_id);
        let grace = seconds(request.timeout)?;
        whole(async move { runtime.stop_container(&request.container_id, grace).await }).await?;
        Ok(Response::new(cri::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<cri::RemoveContainerRequest>,
    ) -> Answer<cri::RemoveContainerResponse> {
        let (runtime, id) = (self.runtime.clone(), request.into_inner().container_id);
        traces::note(traces::CONTAINER, &id);
        whole(async move { runtime.remove_container(&id).await }).await?;
        Ok(Response::new(cri::RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<cri::ListContainersRequest>,
    ) -> Answer<cri::ListContainersResponse> {
        let containers = self.runtime.list_containers(request.into_inner().filter.as_ref());
        Ok(Response::new(cri::ListContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Answer<cri::ContainerStatusResponse> {
        let request = request.into_inner();
        traces::note(traces::CONTAINER, &request.container_id);
        let container = self.runtime.container(&request.container_id)?;
        let record = container.record().clone();
        let info = if request.verbose { self.runtime.container_info(&record) } else { HashMap::new() };
        Ok(Response::new(cri::ContainerStatusResponse {
            status: Some(convert::container_status(&record)),
            info,
        }))
    }

    async fn update_container_resources(
        &self,
        request: Request<cri::UpdateContainerResourcesRequest>,
    ) -> Answer<cri::UpdateContainerResourcesResponse> {
        let (runtime, request) = (self.runtime.clone(), request.into_inner());
        traces::note(traces::CONTAINER, &request.container_id);
        whole(async move { runtime.update_container(&request).await }).await?;
        Ok(Response::new(cri::UpdateContainerResourcesResponse {}))
    }

    async fn reopen_container_log(
        &self,
        request: Request<cri::ReopenContainerLogRequest>,
    ) -> Answer<cri::ReopenContainerLogResponse> {
        let id = request.into_inner().container_id;
        traces::note(traces::CONTAINER, &id);
        self.runtime.reopen_log(&id).await?;
        Ok(Response::new(cri::ReopenContainerLogResponse {}))
    }

    async fn exec_sync(&self, request: Request<cri::ExecSyncRequest>) -> Answer<cri::ExecSyncResponse> {
        let request = request.into_inner();
        traces::note(traces::CONTAINER, &request.container_id);
        let limit = seconds(request.timeout)?;
        let result = self.runtime.exec_sync(&request.container_id, request.cmd, limit).await?;
        Ok(Response::new(result))
    }

    async fn exec(&self, request: Request<cri::ExecRequest>) -> Answer<cri::ExecResponse> {
        traces::note(traces::CONTAINER, &request.get_ref().container_id);
        let request = self.runtime.prepare_exec(request.into_inner())?;
        Ok(Response::new(cri::ExecResponse { url: self.url(request)? }))
    }

    async fn attach(&self, request: Request<cri::AttachRequest>) -> Answer<cri::AttachResponse> {
        traces::note(traces::CONTAINER, &request.get_ref().container_id);
        let request = self.runtime.prepare_attach(&request.into_inner())?;
        Ok(Response::new(cri::AttachResponse { url: self.url(request)? }))
    }

    async fn port_forward(
        &self,
        request: Request<cri::PortForwardRequest>,
    ) -> Answer<cri::PortForwardResponse> {
        traces::note(traces::SANDBOX, &request.get_ref().pod_sandbox_id);
        let request = self.runtime.prepare_port_forward(&request.into_inner())?;
        Ok(Response::new(cri::PortForwardResponse { url: self.url(request)? }))
    }

    async fn container_stats(
        &self,
        request: Request<cri::ContainerStatsRequest>,
    ) -> Answer<cri::ContainerStatsResponse> {
        let id = request.into_inner().container_id;
        traces::note(traces::CONTAINER, &id);
        let stats = self.runtime.container_stats(&id).await?;
        Ok(Response::new(cri::ContainerStatsResponse { stats: Some(stats) }))
    }

    async fn list_container_stats(
        &self,
        request: Request<cri::ListContainerStatsRequest>,
    ) -> Answer<cri::ListContainerStatsResponse> {
        let stats = self.runtime.list_container_stats(request.into_inner().filter).await?;
        Ok(Response::new(cri::ListContainerStatsResponse { stats }))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<cri::PodSandboxStatsRequest>,
    ) -> Answer<cri::PodSandboxStatsResponse> {
        let id = request.into_inner().pod_sandbox_id;
        traces::note(traces::SANDBOX, &id);
        let stats = self.runtime.pod_stats(&id).await?;
        Ok(Response::new(cri::PodSandboxStatsResponse { stats: Some(stats) }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<cri::ListPodSandboxStatsRequest>,
    ) -> Answer<cri::ListPodSandboxStatsResponse> {
        let stats = self.runtime.list_pod_stats(request.into_inner().filter).await?;
        Ok(Response::new(cri::ListPodSandboxStatsResponse { stats }))
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<cri::StreamPodSandboxesRequest>,
    ) -> Answer<BoxStream<cri::StreamPodSandboxesResponse>> {
        let all = self.runtime.list_pods(request.into_inner().filter.as_ref());
        Ok(pages(all, |pod_sandboxes| cri::StreamPodSandboxesResponse { pod_sandboxes }))
    }

    async fn stream_containers(
        &self,
        request: Request<cri::StreamContainersRequest>,
    ) -> Answer<BoxStream<cri::StreamContainersResponse>> {
        let all = self.runtime.list_containers(request.into_inner().filter.as_ref());
        Ok(pages(all, |containers| cri::StreamContainersResponse { containers }))
    }

    async fn stream_container_stats(
        &self,
        request: Request<cri::StreamContainerStatsRequest>,
    ) -> Answer<BoxStream<cri::StreamContainerStatsResponse>> {
        let all = self.runtime.list_container_stats(request.into_inner().filter).await?;
        Ok(pages(all, |container_stats| cri::StreamContainerStatsResponse { container_stats }))
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<cri::StreamPodSandboxStatsRequest>,
    ) -> Answer<BoxStream<cri::StreamPodSandboxStatsResponse>> {
        let all = self.runtime.list_pod_stats(request.into_inner().filter).await?;
        Ok(pages(all, |pod_sandbox_stats| cri::StreamPodSandboxStatsResponse { pod_sandbox_stats }))
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<cri::StreamPodSandboxMetricsRequest>,
    ) -> Answer<BoxStream<cri::StreamPodSandboxMetricsResponse>> {
        let all = self.runtime.pod_metrics().await?;
        Ok(pages(all, |pod_sandbox_metrics| cri::StreamPodSandboxMetricsResponse { pod_sandbox_metrics }))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<cri::ListMetricDescriptorsRequest>,
    ) -> Answer<cri::ListMetricDescriptorsResponse> {
        Ok(Response::new(cri::ListMetricDescriptorsResponse { descriptors: metrics::descriptors() }))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<cri::ListPodSandboxMetricsRequest>,
    ) -> Answer<cri::ListPodSandboxMetricsResponse> {
        let pod_metrics = self.runtime.pod_metrics().await?;
        Ok(Response::new(cri::ListPodSandboxMetricsResponse { pod_metrics }))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<cri::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<cri::UpdatePodSandboxResourcesResponse> {
        let (runtime, request) = (self.runtime.clone(), request.into_inner());
        traces::note(traces::SANDBOX, &request.pod_sandbox_id);
        whole(async move { runtime.update_pod(&request).await }).await?;
        Ok(Response::new(cri::UpdatePodSandboxResourcesResponse {}))
    }

    async fn get_container_events(
        &self,
        _: Request<cri::GetEventsRequest>,
    ) -> Answer<BoxStream<cri::ContainerEventResponse>> {
        // A subscriber too slow for the backlog misses events, as CRI allows: it lists from time to time.
        let events = BroadcastStream::new(self.runtime.inner.events.subscribe());
        let events = events.filter_map(|event| async { event.ok().map(Ok) });
        Ok(Response::new(Box::pin(events.take_until(self.stopping.clone().cancelled_owned()))))
    }
}
