//! NRI: plugins are told of pods and containers, and may change them.
//!
//! Each pod and container remembers what plugins were told of it ([`Told`]), so that each thing is told once, whoever notices
//! it. From before plugins are told of something until it is listed (or not any more), a hold keeps others from
//! coming in; see [`cairn_nri`]. A hold is taken before a [`Told`], and while one is held, nothing is waited for that may
//! itself wait for a hold: so not for a pod's or container's `changing`.

mod describe;

use super::{
    Runtime, RuntimeError,
    state::{Container, ContainerRecord, Pod, PodPhase, PodRecord, Told},
};
use crate::{
    cgroup::Resources,
    spec::{self, Draft, OwnNamespaces, Surroundings, limits_of},
    traces,
};
use cairn_contract::cri;
use cairn_nri::{
    Held, Host, NriError, ServeError, Settings,
    api::{self, ContainerEviction, ContainerUpdate, Event, PodSandbox, UpdatePodSandboxRequest},
    merge::Changes,
};
use oci_spec::runtime::Spec;
use std::time::Duration;

/// The runtime, as plugins need it.
#[derive(Debug, Clone)]
struct NriHost(Runtime);

impl Runtime {
    /// Starts NRI plugins and lets others connect, unless the configuration says otherwise. Another runtime that serves them
    /// at the same socket keeps them.
    ///
    /// # Errors
    /// When the socket cannot be had, or the plugins cannot be read.
    pub async fn serve_nri(&self) -> Result<(), ServeError> {
        let config = &self.inner.config;
        if !config.nri {
            return Ok(());
        }
        let settings = Settings {
            socket: Some(config.nri_socket.clone()),
            plugins: config.nri_plugins.clone(),
            configs: config.nri_config.clone(),
            registration_timeout: Duration::from_secs(config.nri_registration_timeout_seconds),
            request_timeout: Duration::from_secs(config.nri_request_timeout_seconds),
            runtime_name: "cairn".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        match self.inner.nri.serve(settings, NriHost(self.clone())).await {
            Err(error @ ServeError::InUse(_)) => {
                tracing::warn!("{error}, so there are no NRI plugins here (nri, nri_socket)");
                Ok(())
            }
            result => result,
        }
    }

    /// Says good-bye to NRI plugins.
    pub async fn shut_down_nri(&self) {
        self.inner.nri.shut_down().await;
    }

    /// Keeps NRI plugins from coming in; see the module's documentation.
    pub(super) async fn hold_plugins(&self) -> Held<'_> {
        self.inner.nri.hold().await
    }

    fn pod_of_record(&self, record: &ContainerRecord) -> PodSandbox {
        match self.pod(&record.sandbox) {
            Ok(pod) => self.describe_pod(&pod.record().clone()),
            Err(_) => PodSandbox { id: record.sandbox.clone(), ..PodSandbox::default() },
        }
    }

    /// A pod is there: asked under a hold that lasts until it is ready.
    pub(super) async fn tell_pod_runs(&self, pod: &Pod) -> Result<(), RuntimeError> {
        *pod.told.lock().await = Told::There;
        if !self.inner.nri.are_there() {
            return Ok(());
        }
        let record = pod.record().clone();
        let told = self.inner.nri.tell_pod(Event::RunPodSandbox, self.describe_pod(&record));
        traces::step("NRI RunPodSandbox", &[], told).await.map_err(refused)
    }

    /// A pod's containers have stopped and its network and namespaces are still there.
    pub(super) async fn tell_pod_stops(&self, pod: &Pod) {
        let _held = self.hold_plugins().await;
        let mut told = pod.told.lock().await;
        if *told == Told::There {
            *told = Told::Stopped;
            self.tell_pod(Event::StopPodSandbox, pod).await;
        }
    }

    /// A pod is gone; the hold is to last until it is not listed any more.
    pub(super) async fn tell_pod_gone(&self, pod: &Pod) -> Held<'_> {
        let held = self.hold_plugins().await;
        let mut told = pod.told.lock().await;
        if *told == Told::Stopped {
            *told = Told::Gone;
            self.tell_pod(Event::RemovePodSandbox, pod).await;
        }
        held
    }

    /// What plugins object to now comes too late.
    async fn tell_pod(&self, event: Event, pod: &Pod) {
        if self.inner.nri.are_there() {
            let record = pod.record().clone();
            let described = self.describe_pod(&record);
            note(self.inner.nri.tell_pod(event, described).await);
        }
    }

    /// Asks plugins how a container is to be made, and makes their changes. `CDI` devices that they add are in what `generate`
    /// is given. Under a hold that lasts until the container is listed.
    pub(super) async fn ask_plugins(
        &self,
        id: &str,
        pod: &PodRecord,
        config: &cri::ContainerConfig,
        draft: &mut Draft,
        generate: impl Fn(&[String]) -> Result<Spec, RuntimeError> + Send,
    ) -> Result<(), RuntimeError> {
        if !self.inner.nri.are_there() {
            return Ok(());
        }
        let described = describe::draft(id, &pod.id, config, &draft.resources, &draft.spec);
        let asked = self.inner.nri.create_container(self.describe_pod(pod), described);
        let created = traces::step("NRI CreateContainer", &[], asked).await.map_err(refused)?;
        self.make_changes(Changes { own: None, update: created.update, evict: created.evict });
        let devices: Vec<String> =
            created.adjust.cdi_devices.iter().map(|device| device.name.clone()).collect();
        if !devices.is_empty() {
            draft.spec = generate(&devices)?;
        }
        let own_network = !pod.node_network();
        let surroundings = Surroundings {
            own: OwnNamespaces { network: own_network, ipc: !pod.node_ipc(), uts: own_network },
            users: pod.users().is_some(),
            layout: crate::cgroup::layout(),
        };
        draft
            .adjust(&created.adjust, &surroundings)
            .map_err(|error: spec::SpecError| RuntimeError::Invalid(error.to_string()))
    }

    /// A container that plugins were asked about has not come into being after all.
    pub(super) async fn tell_container_undone(
        &self,
        id: &str,
        pod: &PodRecord,
        config: &cri::ContainerConfig,
    ) {
        if !self.inner.nri.are_there() {
            return;
        }
        let pod = self.describe_pod(pod);
        let resources = Resources::default();
        let described = describe::draft(id, &pod.id, config, &resources, &Spec::default());
        note(self.inner.nri.stop_container(pod.clone(), described.clone()).await.map(drop));
        note(self.inner.nri.tell_container(Event::RemoveContainer, pod, described).await);
    }

    /// Tells plugins of a container that they know.
    ///
    /// # Errors
    /// What one of them objects.
    pub(super) async fn tell_container(
        &self,
        event: Event,
        container: &Container,
    ) -> Result<(), RuntimeError> {
        if !self.inner.nri.are_there() {
            return Ok(());
        }
        let record = container.record().clone();
        let (pod, described) = (self.pod_of_record(&record), self.describe_container(&record));
        let told = self.inner.nri.tell_container(event, pod, described);
        traces::step("NRI event", &[("nri.event", &event.as_str_name())], told).await.map_err(refused)
    }

    /// [`Runtime::tell_container`], when what plugins object comes too late.
    pub(super) async fn tell_container_after(&self, event: Event, container: &Container) {
        if let Err(error) = self.tell_container(event, container).await {
            tracing::warn!("{error}");
        }
    }

    /// A container has ended. Plugins are told by and by, or at the latest when it or its pod is removed.
    pub(super) fn tell_container_ended(&self, id: &str, container: &Container) {
        // While it is locked, nobody comes in and counts on being told.
        if let Ok(mut told) = container.told.try_lock()
            && !self.inner.nri.are_there()
        {
            *told = Told::Stopped;
            return;
        }
        let (runtime, id) = (self.clone(), id.to_owned());
        tokio::spawn(async move {
            if let Ok(container) = runtime.container(&id) {
                runtime.tell_container_stopped(&container).await;
            }
        });
    }

    /// A container has stopped, or never started and is to go.
    pub(super) async fn tell_container_stopped(&self, container: &Container) {
        let _held = self.hold_plugins().await;
        let mut told = container.told.lock().await;
        if *told != Told::There {
            return;
        }
        *told = Told::Stopped;
        if !self.inner.nri.are_there() {
            return;
        }
        let record = container.record().clone();
        let (pod, described) = (self.pod_of_record(&record), self.describe_container(&record));
        match self.inner.nri.stop_container(pod, described).await {
            Ok(changes) => self.make_changes(changes),
            Err(error) => tracing::warn!("{error}"),
        }
    }

    /// What is to be told of a container once its files are gone.
    pub(super) fn obituary(&self, container: &Container) -> Option<(PodSandbox, api::Container)> {
        self.inner.nri.are_there().then(|| {
            let record = container.record().clone();
            (self.pod_of_record(&record), self.describe_container(&record))
        })
    }

    /// A container is gone; the hold is to last until it is not listed any more.
    pub(super) async fn tell_container_gone(
        &self,
        container: &Container,
        obituary: Option<(PodSandbox, api::Container)>,
    ) -> Held<'_> {
        let held = self.hold_plugins().await;
        let mut told = container.told.lock().await;
        if *told != Told::Gone && self.inner.nri.are_there() {
            let told_now = match obituary.or_else(|| self.obituary(container)) {
                Some((pod, described)) => {
                    self.inner.nri.tell_container(Event::RemoveContainer, pod, described).await
                }
                None => Ok(()),
            };
            note(told_now);
        }
        *told = Told::Gone;
        held
    }

    /// Changes the limits of a container, as asked for and as plugins have it.
    pub(super) async fn update_container(
        &self,
        request: &cri::UpdateContainerResourcesRequest,
    ) -> Result<(), RuntimeError> {
        let (container, mut update) = self.container_update(request)?;
        if !self.inner.nri.are_there() {
            return self.limit_container(&container, &update);
        }
        let _held = self.hold_plugins().await;
        let record = container.record().clone();
        let (pod, described) = (self.pod_of_record(&record), self.describe_container(&record));
        let asked = self.inner.nri.update_container(pod, described, describe::limits(&update)).await;
        let mut changes = asked.map_err(refused)?;
        if let Some(own) = changes.own.take() {
            update.merge(&limits_of(&own).map_err(RuntimeError::Invalid)?);
        }
        self.make_changes(changes);
        self.limit_container(&container, &update)?;
        self.tell_container_after(Event::PostUpdateContainer, &container).await;
        Ok(())
    }

    /// Notes a pod's new resources and overhead, if plugins agree.
    pub(super) async fn update_pod(
        &self,
        request: &cri::UpdatePodSandboxResourcesRequest,
    ) -> Result<(), RuntimeError> {
        if !self.inner.nri.are_there() {
            return self.note_pod_resources(request);
        }
        let _held = self.hold_plugins().await;
        let pod = self.pod(&request.pod_sandbox_id)?;
        let limits = |given: &Option<cri::LinuxContainerResources>| {
            given.as_ref().map(|given| describe::limits(&Resources::from(given)))
        };
        let record = pod.record().clone();
        let update = UpdatePodSandboxRequest {
            pod: Some(self.describe_pod(&record)),
            overhead_linux_resources: limits(&request.overhead),
            linux_resources: limits(&request.resources),
        };
        self.inner.nri.update_pod(&update).await.map_err(refused)?;
        self.note_pod_resources(request)?;
        self.tell_pod(Event::PostUpdatePodSandbox, &pod).await;
        Ok(())
    }

    /// Makes the changes to other containers that plugins want; what fails is in the log.
    fn make_changes(&self, changes: Changes) {
        self.update_others(changes.update);
        NriHost(self.clone()).evict(changes.evict);
    }

    /// The updates that failed and were not allowed to.
    fn update_others(&self, updates: Vec<ContainerUpdate>) -> Vec<ContainerUpdate> {
        let mut failed = Vec::new();
        for update in updates {
            // A container that is gone needs no update.
            let Ok(container) = self.container(&update.container_id) else { continue };
            let limits = update.linux.as_ref().and_then(|linux| linux.resources.as_ref());
            let limits = limits.map(limits_of).transpose().map_err(RuntimeError::Invalid);
            let done = limits.and_then(|limits| {
                let limits = limits.unwrap_or_default();
                limits.check(crate::cgroup::layout()).map_err(RuntimeError::Invalid)?;
                self.limit_container(&container, &limits)
            });
            if let Err(error) = done {
                tracing::warn!(container = update.container_id, "NRI update: {error}");
                if !update.ignore_failure {
                    failed.push(update);
                }
            }
        }
        failed
    }
}

impl Host for NriHost {
    async fn inventory(&self) -> (Vec<PodSandbox>, Vec<api::Container>) {
        let mut pods = Vec::new();
        for pod in self.0.all_pods() {
            let record = pod.record().clone();
            if record.phase != PodPhase::Making {
                pods.push(self.0.describe_pod(&record));
            }
        }
        let mut containers = Vec::new();
        for container in self.0.all_containers() {
            if *container.told.lock().await == Told::There {
                let record = container.record().clone();
                containers.push(self.0.describe_container(&record));
            }
        }
        (pods, containers)
    }

    async fn update(&self, updates: Vec<ContainerUpdate>) -> Vec<ContainerUpdate> {
        self.0.update_others(updates)
    }

    fn evict(&self, evictions: Vec<ContainerEviction>) {
        for eviction in evictions {
            let runtime = self.0.clone();
            tokio::spawn(async move {
                let id = eviction.container_id;
                tracing::info!(container = id, "evicted by an NRI plugin: {}", eviction.reason);
                if let Err(error) = runtime.stop_container(&id, Duration::ZERO).await {
                    tracing::warn!(container = id, "cannot evict: {error}");
                }
            });
        }
    }
}

fn refused(error: NriError) -> RuntimeError {
    RuntimeError::Fault(error.to_string())
}

fn note(result: Result<(), NriError>) {
    if let Err(error) = result {
        tracing::warn!("{error}");
    }
}
