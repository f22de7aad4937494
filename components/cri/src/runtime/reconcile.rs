//! Taking up what is there when the daemon starts.
//!
//! Of each record on disk one of three things is true. The node was rebooted since: nothing of it runs. Its shim
//! answers: what the shim says is right. Its shim is gone: what it held is killed, and how it ended is not known,
//! save where an exit file says so. Half-made sandboxes and containers, which no one was told of, are removed.

use super::{
    Runtime, RuntimeError, lock, now,
    pods::pod_network,
    state::{Container, ContainerRecord, Pod, PodPhase, PodRecord},
};
use crate::{
    cgroup::Cgroup,
    network::NetworkError,
    protocol::{ContainerState, Exit, PodSetup, Reply, Request},
    record,
    shim::sandbox,
};
use cairn_contract::cri;
use serde::de::DeserializeOwned;
use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

impl Runtime {
    /// Brings memory, disk and the living shims to agree.
    pub(super) async fn reconcile(&self) -> Result<(), RuntimeError> {
        let fault = |error: io::Error| RuntimeError::fault("cannot read the runtime's state", error);
        let config = &self.inner.config;
        for directory in [
            config.state.join("pods"),
            config.state.join("containers"),
            config.run.join("pods"),
            config.run.join("containers"),
        ] {
            fs::create_dir_all(directory).map_err(fault)?;
        }
        // Root of a pod's user namespace goes through these to what is its own.
        for directory in [config.run.clone(), config.run.join("pods"), config.run.join("containers")] {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o711)).map_err(fault)?;
        }
        for (id, record) in records::<PodRecord>(&config.state.join("pods")).map_err(fault)? {
            match record {
                Some(record) => drop(lock(&self.inner.pods).insert(id, Arc::new(Pod::new(record)))),
                None => self.discard_pod(&id).await,
            }
        }
        for (id, record) in records::<ContainerRecord>(&config.state.join("containers")).map_err(fault)? {
            match record {
                Some(record) if lock(&self.inner.pods).contains_key(&record.sandbox) => {
                    self.adopt(id, record)
                }
                _ => self.discard_container(&id),
            }
        }
        self.remove_strays().await.map_err(fault)?;
        for pod in self.all_pods() {
            self.take_up(&pod).await;
        }
        Ok(())
    }

    fn adopt(&self, id: String, record: ContainerRecord) {
        let images = &self.inner.images;
        let held = [&record.image_id].into_iter().chain(&record.volumes);
        let holds = held.filter_map(|id| images.hold(&*images.resolve(id)?)).collect();
        lock(&self.inner.containers).insert(id, Arc::new(Container::new(record, holds)));
    }

    /// Ends and removes a sandbox whose record is not there or cannot be read, by what its shim was told.
    async fn discard_pod(&self, id: &str) {
        let run = self.pod_run(id);
        if let Ok(Some(setup)) = record::load::<PodSetup>(&run.join("setup.json")) {
            let destroyed = tokio::task::spawn_blocking(move || Cgroup::new(setup.cgroup).destroy()).await;
            if let Ok(Err(error)) = destroyed {
                tracing::warn!(pod = id, "{error}");
            }
        }
        sandbox::remove(&run);
        self.erase_pod(id);
    }

    fn discard_container(&self, id: &str) {
        if let Err(error) = self.erase_container(id) {
            tracing::warn!(container = id, "cannot remove a half-made container: {error}");
        }
    }

    /// Run directories without a record.
    async fn remove_strays(&self) -> io::Result<()> {
        let run = &self.inner.config.run;
        for id in names(&run.join("containers"))? {
            if !lock(&self.inner.containers).contains_key(&id) {
                self.discard_container(&id);
            }
        }
        for id in names(&run.join("pods"))? {
            if !lock(&self.inner.pods).contains_key(&id) {
                self.discard_pod(&id).await;
            }
        }
        Ok(())
    }

    async fn take_up(&self, pod: &Arc<Pod>) {
        let record = pod.record().clone();
        match record.phase {
            PodPhase::Making => {
                tracing::warn!(pod = record.id, "removing a half-made pod sandbox");
                self.end_strays(&record).await;
                // A shim that was being started is found through its cgroup.
                let _ = self.connect_shim(pod).await;
                if let Err(error) = self.tear_down(pod).await {
                    tracing::warn!(pod = record.id, "{error}");
                }
                self.erase_pod(&record.id);
            }
            _ if record.boot != self.inner.boot => {
                pod.record().phase = PodPhase::NotReady;
                self.containers_lost(
                    &record.id,
                    "NodeRebooted",
                    "the node was rebooted while the container ran",
                );
                if let Err(error) = self.save_pod(pod) {
                    tracing::warn!(pod = record.id, "{error}");
                }
            }
            PodPhase::NotReady => {
                self.end_strays(&record).await;
                // The daemon died while it stopped the pod: what runs says how it is, and the stop goes on.
                let living = self.inspect(pod).await;
                if let Ok(states) = &living {
                    self.agree(&record.id, states);
                }
                if living.is_err() && record.attachments.is_empty() {
                    self.containers_lost(&record.id, "SandboxStopped", "the pod was stopped");
                } else if let Err(error) = self.tear_down(pod).await {
                    tracing::warn!(pod = record.id, "{error}"); // asked to stop or remove it, the kubelet gets it too
                }
            }
            PodPhase::Ready => {
                // A shim that dies now is noticed when the records say what it held.
                let _changing = pod.changing.lock().await;
                match self.inspect(pod).await {
                    Ok(states) => self.agree(&record.id, &states),
                    Err(error) => {
                        tracing::warn!(pod = record.id, "the pod's shim is gone: {error}");
                        self.bury(pod).await;
                    }
                }
            }
        }
    }

    /// Plugins that the daemon before this one was running for a pod must not go on while it is disconnected.
    async fn end_strays(&self, record: &PodRecord) {
        if record.attachments.is_empty() || record.boot != self.inner.boot {
            return;
        }
        let (runtime, id) = (self.clone(), record.id.clone());
        // It only fails when the runtime is shutting down.
        let _ = tokio::task::spawn_blocking(move || runtime.inner.networks.end_strays(&id)).await;
    }

    /// Once everything is taken up: what networks hold for no pod is given back, and pods that are not as their networks made
    /// them are told of in the log.
    pub(super) async fn review_networks(&self) {
        let valid = || {
            let attached = |pod: Arc<Pod>| {
                let record = pod.record();
                (record.id.clone(), record.attachments.clone())
            };
            self.all_pods().into_iter().map(attached).collect()
        };
        self.inner.networks.collect_garbage(valid).await;
        for pod in self.all_pods() {
            for (interface, state) in self.check_network(&pod).await {
                if let Err(error) = state {
                    tracing::warn!(pod = pod.record().id, interface, "the pod's network is damaged: {error}");
                }
            }
        }
    }

    /// Asks the plugins whether a pod's interfaces are as they made them. Nothing while the pod is being changed.
    pub(super) async fn check_network(&self, pod: &Pod) -> Vec<(String, Result<(), NetworkError>)> {
        let Ok(_changing) = pod.changing.try_lock() else { return Vec::new() };
        let record = pod.record().clone();
        let namespace = self.network_namespace(&record);
        if record.phase != PodPhase::Ready || namespace.is_none() {
            return Vec::new();
        }
        self.inner.networks.check(&pod_network(&record, namespace.as_deref()), &record.attachments).await
    }

    async fn inspect(&self, pod: &Arc<Pod>) -> Result<Vec<ContainerState>, RuntimeError> {
        let shim = self.connect_shim(pod).await?;
        match shim.ask(Request::Inspect).await {
            Ok(Reply::State { containers, .. }) => Ok(containers),
            Ok(_) => Err(RuntimeError::Fault("it answered something else".to_owned())),
            Err(error) => Err(RuntimeError::Fault(error.to_string())),
        }
    }

    /// Makes the records say what the shim says.
    fn agree(&self, pod: &str, states: &[ContainerState]) {
        for container in self.containers_of(pod) {
            let (id, state) = {
                let record = container.record();
                (record.id.clone(), record.state())
            };
            match states.iter().find(|held| held.id == id) {
                Some(ContainerState { pid, exit, .. }) => {
                    {
                        let mut record = container.record();
                        record.pid = *pid;
                        if record.started_at == 0 {
                            record.started_at = now(); // the daemon died between the start and its record
                        }
                    }
                    if let Err(error) = self.save_container(&container) {
                        tracing::warn!(container = id, "{error}");
                    }
                    if let Some(exit) = exit {
                        self.container_ended(&container, exit.clone());
                    }
                }
                None if state == cri::ContainerState::ContainerRunning => {
                    let told = record::load(&self.container_state(&id).join("exit.json")).ok().flatten();
                    let exit = told.unwrap_or(Exit { code: 255, finished_at: now(), oom_killed: false });
                    self.container_ended(&container, exit);
                }
                None => {}
            }
        }
    }
}

/// Directories in a directory, by name; a file there is nobody's of ours.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// The record in each subdirectory; `None` where there is none, or one that cannot be read.
fn records<T: DeserializeOwned>(directory: &Path) -> io::Result<Vec<(String, Option<T>)>> {
    let read = |name: String| {
        let path: PathBuf = directory.join(&name).join("record.json");
        let record = record::load(&path).unwrap_or_else(|error| {
            tracing::error!("{} is damaged and is dropped: {error}", path.display());
            None
        });
        (name, record)
    };
    Ok(names(directory)?.into_iter().map(read).collect())
}
