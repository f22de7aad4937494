//! Sandboxes: made, stopped, removed.

use super::{
    Runtime, RuntimeError, files, lock, new_id, now, refusals,
    shim_client::ShimClient,
    state::{Pod, PodPhase, PodRecord},
};
use crate::{
    cgroup::{self, Cgroup},
    network::{NetworkError, PodNetwork},
    protocol::{self, Event, Exit, PodSetup, Request, SetupOutcome},
    record,
    shim::{SOCKET, sandbox},
    spec::{OwnNamespaces, sysctl_path},
    traces,
    userns::UserNamespace,
};
use cairn_contract::cri;
use std::{collections::BTreeMap, fs, path::Path, process::Stdio, sync::Arc, time::Duration};
use tokio::{io::AsyncReadExt, process::Command, sync::mpsc, time::timeout};

/// Longest a shim may take to make its pod's namespaces.
const SETUP_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest a killed container may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(20);

impl Runtime {
    /// Makes a sandbox and starts it. On an error nothing of it is left.
    pub(super) async fn run_pod(
        &self,
        config: cri::PodSandboxConfig,
        handler: String,
    ) -> Result<String, RuntimeError> {
        let nameless = || RuntimeError::Invalid("the sandbox has no metadata".to_owned());
        let metadata = config.metadata.clone().ok_or_else(nameless)?;
        refusals::handler(&handler)?;
        refusals::pod(&config)?;
        let parent = config.linux.as_ref().map_or("", |linux| linux.cgroup_parent.as_str());
        let id = new_id();
        let cgroup = cgroup::pod_path(self.inner.config.cgroup_driver, parent, &id)
            .map_err(|error| RuntimeError::Invalid(error.to_string()))?;
        let record = PodRecord {
            id: id.clone(),
            config,
            handler,
            created_at: now(),
            phase: PodPhase::Making,
            boot: self.inner.boot.clone(),
            cgroup,
            attachments: Vec::new(),
            addresses: Vec::new(),
        };
        check_sysctls(&record)?;
        UserNamespace::of(&record.namespaces()).map_err(|error| RuntimeError::Invalid(error.to_string()))?;
        let pod = Arc::new(Pod::new(record.clone()));
        {
            let mut pods = lock(&self.inner.pods);
            if let Some(taken) =
                pods.values().find(|pod| pod.record().config.metadata.as_ref() == Some(&metadata))
            {
                return Err(RuntimeError::Exists(format!(
                    "sandbox {} is attempt {} of pod {}/{} already",
                    taken.record().id,
                    metadata.attempt,
                    metadata.namespace,
                    metadata.name
                )));
            }
            pods.insert(id.clone(), Arc::clone(&pod));
        }
        let _changing = pod.changing.lock().await;
        if let Err(error) = self.make_pod(&pod, &record).await {
            if let Err(cleanup) = self.tear_down(&pod).await {
                tracing::warn!(pod = id, "cannot clean up after a failed start: {cleanup}");
            }
            let _held = self.tell_pod_gone(&pod).await;
            self.erase_pod(&id);
            return Err(error);
        }
        self.publish(&id, &id, cri::ContainerEventType::ContainerCreatedEvent);
        self.publish(&id, &id, cri::ContainerEventType::ContainerStartedEvent);
        Ok(id)
    }

    async fn make_pod(&self, pod: &Arc<Pod>, record: &PodRecord) -> Result<(), RuntimeError> {
        let fault = |doing: &str, cause: &dyn std::fmt::Display| RuntimeError::fault(doing, cause);
        let (state, run) = (self.pod_state(&record.id), self.pod_run(&record.id));
        fs::create_dir_all(&state).map_err(|error| fault("cannot make the pod's directory", &error))?;
        super::make_private(&run, record.users().as_ref())
            .map_err(|error| fault("cannot make the pod's directory", &error))?;
        // From here on a crash leaves a record that says what to clean.
        self.save_pod(pod)?;
        files::write(&state, &record.config, record.node_network())
            .map_err(|error| fault("cannot write the pod's resolv.conf and hosts", &error))?;
        traces::step("start shim", &[], self.spawn_shim(record)).await?;
        self.connect_shim(pod).await.map_err(|error| fault("the pod's shim does not answer", &error))?;
        if !record.node_network() {
            self.connect(pod, record, &sandbox::namespace_path(&run, "net")).await.map_err(|error| {
                if error.is_mistake() {
                    RuntimeError::Invalid(error.to_string())
                } else {
                    fault("cannot connect the pod", &error)
                }
            })?;
        }
        let _held = self.hold_plugins().await;
        self.tell_pod_runs(pod).await?;
        pod.record().phase = PodPhase::Ready;
        self.save_pod(pod)
    }

    /// Connects a pod to its networks, and notes them.
    async fn connect(&self, pod: &Pod, record: &PodRecord, namespace: &Path) -> Result<(), NetworkError> {
        let namespace = namespace.display().to_string();
        let network = pod_network(record, Some(&namespace));
        let mut attachments = self.inner.networks.plan(&network)?;
        // A plugin that is killed half-way has an address taken: the record says how to give it back.
        pod.record().attachments = attachments.clone();
        self.save_pod(pod).map_err(|error| NetworkError::Record(error.to_string()))?;
        let connected = self.inner.networks.connect(&network, &mut attachments).await;
        let mut held = pod.record();
        held.addresses = attachments.first().map(|default| default.addresses()).unwrap_or_default();
        held.attachments = attachments;
        connected
    }

    /// Starts the shim and waits until it serves.
    async fn spawn_shim(&self, record: &PodRecord) -> Result<(), RuntimeError> {
        let fault = |error: &dyn std::fmt::Display| RuntimeError::fault("cannot start the pod's shim", error);
        let run = self.pod_run(&record.id);
        let setup_file = run.join("setup.json");
        record::save(&setup_file, &pod_setup(record, &run)).map_err(|error| fault(&error))?;
        let log = fs::File::create(run.join("shim.log")).map_err(|error| fault(&error))?;
        let mut shim = Command::new(&self.inner.config.shim)
            .arg("serve")
            .arg(&setup_file)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|error| fault(&format!("{}: {error}", self.inner.config.shim.display())))?;
        let stdout = shim.stdout.take();
        // Reaps it, however it ends; its end itself is seen at the socket.
        tokio::spawn(async move { drop(shim.wait().await) });
        let mut report = Vec::new();
        if let Some(mut stdout) = stdout {
            let read = timeout(SETUP_TIMEOUT, stdout.read_to_end(&mut report)).await;
            read.map_err(|_| fault(&"it was not ready in time"))?.map_err(|error| fault(&error))?;
        }
        match protocol::decode::<SetupOutcome>(&mut report) {
            Ok(Some(SetupOutcome::Ready)) => Ok(()),
            Ok(Some(SetupOutcome::Failed(reason))) => Err(fault(&reason)),
            _ => {
                let said = fs::read_to_string(run.join("shim.log")).unwrap_or_default();
                Err(fault(&format!("it ended without a word; {}", said.trim())))
            }
        }
    }

    /// Connects to a pod's shim, new or found, and follows its events.
    pub(super) async fn connect_shim(&self, pod: &Arc<Pod>) -> Result<ShimClient, RuntimeError> {
        let id = pod.record().id.clone();
        let socket = self.pod_run(&id).join(SOCKET);
        let (client, events) =
            ShimClient::connect(&socket).await.map_err(|error| RuntimeError::Fault(error.to_string()))?;
        pod.set_shim(Some(client.clone()));
        let (runtime, pod) = (self.clone(), Arc::clone(pod));
        tokio::spawn(async move { runtime.follow(&pod, events).await });
        Ok(client)
    }

    async fn follow(&self, pod: &Arc<Pod>, mut events: mpsc::UnboundedReceiver<Event>) {
        while let Some(event) = events.recv().await {
            // The others are for sessions.
            if let Event::Exited { container, exit } = event
                && let Ok(container) = self.container(&container)
            {
                self.container_ended(&container, exit);
            }
        }
        pod.set_shim(None);
        let _changing = pod.changing.lock().await;
        if pod.record().phase == PodPhase::Ready {
            let id = pod.record().id.clone();
            tracing::error!(pod = id, "the pod's shim died; its containers are killed");
            self.bury(pod).await;
        }
    }

    /// The shim of a pod is dead: kills what it held, and notes it.
    pub(super) async fn bury(&self, pod: &Arc<Pod>) {
        let record = {
            let mut record = pod.record();
            if record.phase == PodPhase::Ready {
                record.phase = PodPhase::NotReady;
            }
            record.clone()
        };
        self.release(&record).await;
        self.containers_lost(&record.id, "ShimDied", "the process that watched the container died");
        if let Err(error) = self.save_pod(pod) {
            tracing::error!(pod = record.id, "{error}");
        }
        self.publish(&record.id, &record.id, cri::ContainerEventType::ContainerStoppedEvent);
    }

    /// Notes that nobody can say how a pod's running containers ended, save for those whose exit is on disk.
    pub(super) fn containers_lost(&self, pod: &str, reason: &str, message: &str) {
        for container in self.containers_of(pod) {
            let (id, started) = {
                let record = container.record();
                if record.exit.is_some() {
                    continue;
                }
                (record.id.clone(), record.started_at != 0)
            };
            let told = record::load::<Exit>(&self.container_state(&id).join("exit.json")).ok().flatten();
            if !started && told.is_none() {
                continue;
            }
            let exit = told.unwrap_or_else(|| {
                let mut record = container.record();
                record.reason = reason.to_owned();
                record.message = message.to_owned();
                Exit { code: 255, finished_at: now(), oom_killed: false }
            });
            self.container_ended(&container, exit);
        }
    }

    /// Stops a sandbox: its containers, network and namespaces. A stopped one, or none, is fine.
    pub(super) async fn stop_pod(&self, id: &str) -> Result<(), RuntimeError> {
        let Ok(pod) = self.pod(id) else { return Ok(()) };
        let _changing = pod.changing.lock().await;
        let was_ready = pod.record().phase == PodPhase::Ready;
        self.tear_down(&pod).await?;
        if was_ready {
            let id = pod.record().id.clone();
            self.publish(&id, &id, cri::ContainerEventType::ContainerStoppedEvent);
        }
        Ok(())
    }

    /// Brings a sandbox down as far as it is up, and records it. May be called again after an error.
    pub(super) async fn tear_down(&self, pod: &Arc<Pod>) -> Result<(), RuntimeError> {
        let record = {
            let mut record = pod.record();
            record.phase = PodPhase::NotReady;
            record.clone()
        };
        // A full disk is no reason to keep a pod, whose end may be what frees it. A record that says too little makes
        // the next start do some of this again.
        let note = || {
            if let Err(error) = self.save_pod(pod) {
                tracing::warn!(pod = record.id, "{error}");
            }
        };
        note();
        if let Some(shim) = pod.shim() {
            for container in self.containers_of(&record.id) {
                let running = container.record().state() == cri::ContainerState::ContainerRunning;
                if running {
                    let id = container.record().id.clone();
                    // What the shim cannot kill now, its end and the cgroup's will.
                    let _ =
                        shim.ask(Request::Signal { container: id, signal: libc::SIGKILL, all: true }).await;
                    let mut ended = container.ended.subscribe();
                    let gone = timeout(KILL_TIMEOUT, ended.wait_for(|&ended| ended));
                    let _ = traces::step("wait for container", &[], gone).await;
                }
            }
        }
        for container in self.containers_of(&record.id) {
            if container.record().exit.is_some() {
                self.tell_container_stopped(&container).await;
            }
        }
        self.tell_pod_stops(pod).await;
        if !record.attachments.is_empty() {
            let namespace = self.network_namespace(&record);
            let network = pod_network(&record, namespace.as_deref());
            let removed = self.inner.networks.disconnect(&network, &record.attachments).await;
            removed.map_err(|error| RuntimeError::fault("cannot disconnect the pod", error))?;
        }
        if let Some(shim) = pod.shim() {
            let _ = shim.ask(Request::Shutdown).await;
            pod.set_shim(None);
        }
        self.release(&record).await;
        self.containers_lost(&record.id, "SandboxStopped", "the pod was stopped");
        pod.record().attachments.clear();
        note();
        Ok(())
    }

    /// The pod's network namespace, if it is still there.
    pub(super) fn network_namespace(&self, record: &PodRecord) -> Option<String> {
        let path = sandbox::namespace_path(&self.pod_run(&record.id), "net");
        (record.boot == self.inner.boot && sandbox::is_pinned(&path)).then(|| path.display().to_string())
    }

    /// Kills what is left in a pod's cgroup, shim included, and unmounts its namespaces.
    async fn release(&self, record: &PodRecord) {
        if record.boot != self.inner.boot {
            return; // it went with the boot it was made in
        }
        let (cgroup, run) = (Cgroup::new(&record.cgroup), self.pod_run(&record.id));
        let released = tokio::task::spawn_blocking(move || {
            let destroyed = cgroup.destroy();
            sandbox::remove(&run);
            destroyed
        });
        let released = async { released.await.unwrap_or(Ok(())) };
        if let Err(error) = traces::step("release pod", &[], released).await {
            tracing::warn!(pod = record.id, "{error}");
        }
    }

    /// Removes a sandbox with all its containers. None is fine.
    pub(super) async fn remove_pod(&self, id: &str) -> Result<(), RuntimeError> {
        let Ok(pod) = self.pod(id) else { return Ok(()) };
        let id = pod.record().id.clone();
        {
            let _changing = pod.changing.lock().await;
            self.tear_down(&pod).await?;
        }
        for container in self.containers_of(&id) {
            let container = container.record().id.clone();
            self.remove_container(&container).await?;
        }
        let _held = self.tell_pod_gone(&pod).await;
        self.publish(&id, &id, cri::ContainerEventType::ContainerDeletedEvent);
        self.erase_pod(&id);
        Ok(())
    }

    /// Forgets a sandbox that is down.
    pub(super) fn erase_pod(&self, id: &str) {
        // The record last: until then a restart finds the sandbox and can be asked again.
        for directory in [self.pod_run(id), self.pod_state(id)] {
            if let Err(error) = fs::remove_dir_all(&directory)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!("cannot remove {}: {error}", directory.display());
            }
        }
        lock(&self.inner.pods).remove(id);
    }
}

pub(super) fn pod_network<'a>(record: &'a PodRecord, namespace: Option<&'a str>) -> PodNetwork<'a> {
    PodNetwork { id: &record.id, namespace, config: &record.config }
}

/// Refuses kernel parameters that are the node's.
pub(super) fn check_sysctls(record: &PodRecord) -> Result<(), RuntimeError> {
    let own_network = !record.node_network();
    let own = OwnNamespaces { network: own_network, ipc: !record.node_ipc(), uts: own_network };
    let linux = record.config.linux.iter();
    for name in linux.flat_map(|linux| linux.sysctls.keys()) {
        sysctl_path(name, own).map_err(|error| RuntimeError::Invalid(error.to_string()))?;
    }
    Ok(())
}

/// What the shim is to make.
pub(super) fn pod_setup(record: &PodRecord, run: &Path) -> PodSetup {
    let node_network = record.node_network();
    let linux = record.config.linux.as_ref();
    let mut sysctls: BTreeMap<String, String> =
        linux.map(|linux| linux.sysctls.clone().into_iter().collect()).unwrap_or_default();
    if !node_network {
        // A pod's network is its own: no port in it is privileged, and any group may ping.
        let last = record.users().map_or(i32::MAX as u32, |users| users.gids.length - 1);
        for (name, value) in [
            ("net.ipv4.ip_unprivileged_port_start", "0".to_owned()),
            ("net.ipv4.ping_group_range", format!("0 {last}")),
        ] {
            sysctls.entry(name.to_owned()).or_insert(value);
        }
    }
    PodSetup {
        id: record.id.clone(),
        run: run.to_path_buf(),
        hostname: (!node_network).then(|| record.config.hostname.clone()),
        own_network: !node_network,
        own_ipc: !record.node_ipc(),
        shared_pid: record.namespaces().pid() == cri::NamespaceMode::Pod,
        users: record.users(),
        sysctls,
        cgroup: record.cgroup.clone(),
    }
}
