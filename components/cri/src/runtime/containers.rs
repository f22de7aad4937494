//! Containers: created, started, stopped, removed; commands in them.

use super::{
    Runtime, RuntimeError, image_volumes, lock, new_id, now, refusals, signals,
    state::{Container, ContainerRecord, Pod, PodPhase, PodRecord},
};
use crate::{
    cgroup::{Cgroup, Resources, layout},
    idmap,
    image::{Image, Reference},
    protocol::{ExecSync, Exit, Reply, Request, Start},
    record,
    shim::{launch::SPEC_FILE, sandbox::namespace_path, stage},
    spec::{self, Draft, PidNamespace},
    traces,
    userns::UserNamespace,
};
use cairn_contract::cri;
use cairn_nri::api::Event;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::time::timeout;

/// Longest a killed container may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(20);
/// Exit code of a container whose program could not be run.
const START_FAILED: i32 = 128;

impl Runtime {
    /// Creates a container in a sandbox. On an error nothing of it is left.
    pub(super) async fn create_container(
        &self,
        pod: &str,
        config: cri::ContainerConfig,
    ) -> Result<String, RuntimeError> {
        let pod = self.pod(pod)?;
        // Not waited for: its id is known to no one but NRI plugins, which hold it up.
        if pod.record().phase == PodPhase::Making {
            return Err(RuntimeError::State("the pod sandbox is still being made".to_owned()));
        }
        let _changing = pod.changing.lock().await;
        let sandbox = pod.record().clone();
        if sandbox.phase != PodPhase::Ready {
            return Err(RuntimeError::State(format!("pod sandbox {} is not ready", sandbox.id)));
        }
        let metadata = config.metadata.clone();
        if metadata.is_none() {
            return Err(RuntimeError::Invalid("the container has no metadata".to_owned()));
        }
        refusals::container(&config, &sandbox)?;
        if let Some(taken) = self
            .containers_of(&sandbox.id)
            .iter()
            .find(|container| container.record().config.metadata == metadata)
        {
            let taken = taken.record().id.clone();
            return Err(RuntimeError::Exists(format!("container {taken} has this name and attempt already")));
        }
        let wanted = config.image.as_ref().map_or("", |image| image.image.as_str());
        let images = &self.inner.images;
        let missing = || RuntimeError::NotFound(format!("image `{wanted}`"));
        let image = images.resolve(wanted).ok_or_else(missing)?;
        let hold = images.hold(&image).ok_or_else(missing)?;
        let (volumes, mut holds): (Vec<_>, Vec<_>) = self.hold_volumes(&config)?.into_iter().unzip();
        holds.push(hold);
        let id = new_id();
        let _held = self.hold_plugins().await;
        let mut asked = false;
        match self.prepare_container(&id, &sandbox, &config, &image, &volumes, &mut asked).await {
            Ok(record) => {
                let container = Arc::new(Container::new(record, holds));
                lock(&self.inner.containers).insert(id.clone(), Arc::clone(&container));
                self.publish(&id, &sandbox.id, cri::ContainerEventType::ContainerCreatedEvent);
                self.tell_container_after(Event::PostCreateContainer, &container).await;
                Ok(id)
            }
            Err(error) => {
                if asked {
                    self.tell_container_undone(&id, &sandbox, &config).await;
                }
                if let Err(cleanup) = self.erase_container(&id) {
                    tracing::warn!(container = id, "cannot clean up after a failed creation: {cleanup}");
                }
                Err(error)
            }
        }
    }

    /// Mounts, decides and records; `asked` is set once NRI plugins may know of it.
    async fn prepare_container(
        &self,
        id: &str,
        sandbox: &PodRecord,
        config: &cri::ContainerConfig,
        image: &Image,
        volumes: &[Arc<Image>],
        asked: &mut bool,
    ) -> Result<ContainerRecord, RuntimeError> {
        let fault = |error: std::io::Error| RuntimeError::fault("cannot create the container", error);
        let bundle = self.bundle(id);
        let owners = self.owners(sandbox);
        super::make_private(&bundle, owners.as_ref().map(|owners| &owners.users)).map_err(fault)?;
        fs::create_dir_all(self.container_state(id)).map_err(fault)?;
        let snapshot = self.snapshot(id);
        let layers = self.inner.images.layers(image);
        let mount = || snapshot.mount(&layers, owners.as_ref());
        traces::step_at_once("mount snapshot", &[("layers", &layers.len())], mount).map_err(fault)?;
        let resolved = self.mount_volumes(&bundle, config, volumes, owners.as_ref())?;

        let linux = config.linux.as_ref();
        let resources =
            linux.and_then(|linux| linux.resources.as_ref()).map(Resources::from).unwrap_or_default();
        resources.check(layout()).map_err(RuntimeError::Invalid)?;
        let options = linux
            .and_then(|linux| linux.security_context.as_ref())
            .and_then(|security| security.namespace_options.clone())
            .unwrap_or_default();
        check_users(&options, sandbox)?;
        let pid = self.pid_namespace(&options, sandbox)?;
        let shares_pids = pid != PidNamespace::Own;
        let cgroup = sandbox.cgroup.join(id);
        let (rootfs, pod_run, pod_state) =
            (bundle.join("rootfs"), self.pod_run(&sandbox.id), self.pod_state(&sandbox.id));
        let generate = |plugin_devices: &[String]| {
            let input = spec::Input {
                config: &resolved,
                sandbox: &sandbox.config,
                image: &image.config,
                rootfs: &rootfs,
                pod_run: &pod_run,
                pod_state: &pod_state,
                cgroup: &cgroup,
                pid: pid.clone(),
                node_network: sandbox.node_network(),
                node_ipc: sandbox.node_ipc(),
                users: sandbox.users(),
                plugin_devices,
            };
            spec::generate(&input).map_err(|error| RuntimeError::Invalid(error.to_string()))
        };
        let (spec, user) = generate(&[])?;
        let mut draft = Draft { spec, resources, shares_pids };
        *asked = true;
        let again = |devices: &[String]| generate(devices).map(|(spec, _)| spec);
        self.ask_plugins(id, sandbox, config, &mut draft, again).await?;
        let Draft { spec, resources, shares_pids } = draft;
        if let Some(process) = spec.process() {
            snapshot.make_directory(process.cwd(), owners.as_ref()).map_err(fault)?;
        }
        let text = serde_json::to_vec(&spec).map_err(|error| RuntimeError::Fault(error.to_string()))?;
        fs::write(bundle.join(SPEC_FILE), text).map_err(fault)?;

        let log = (!config.log_path.is_empty())
            .then(|| Path::new(&sandbox.config.log_directory).join(&config.log_path));
        if let Some(directory) = log.as_deref().and_then(Path::parent) {
            fs::create_dir_all(directory).map_err(fault)?;
        }
        let mut record = ContainerRecord {
            id: id.to_owned(),
            sandbox: sandbox.id.clone(),
            config: config.clone(),
            created_at: now(),
            started_at: 0,
            pid: 0,
            exit: None,
            reason: String::new(),
            message: String::new(),
            image_id: image.id.to_string(),
            volumes: volumes.iter().map(|image| image.id.to_string()).collect(),
            image_ref: image.repo_digests.first().cloned().unwrap_or_else(|| image.id.to_string()),
            image_name: image_name(config, image),
            stop_signal: signals::to_stop(config, &image.config),
            log,
            cgroup,
            resources,
            user: (0, 0, Vec::new()),
            shares_pids,
        };
        record.set_user(user);
        self.write_container(&record)?;
        Ok(record)
    }

    fn pid_namespace(
        &self,
        options: &cri::NamespaceOption,
        sandbox: &PodRecord,
    ) -> Result<PidNamespace, RuntimeError> {
        Ok(match options.pid() {
            cri::NamespaceMode::Container => PidNamespace::Own,
            cri::NamespaceMode::Node => PidNamespace::Node,
            // A pod whose sandbox was not asked to share has no namespace to join.
            cri::NamespaceMode::Pod if sandbox.namespaces().pid() != cri::NamespaceMode::Pod => {
                PidNamespace::Own
            }
            cri::NamespaceMode::Pod => {
                PidNamespace::Joined(namespace_path(&self.pod_run(&sandbox.id), "pid"))
            }
            cri::NamespaceMode::Target => {
                let target = self.container(&options.target_id)?;
                let target = target.record();
                if target.sandbox != sandbox.id || target.state() != cri::ContainerState::ContainerRunning {
                    return Err(RuntimeError::State(format!(
                        "target container {} is not running in this pod",
                        target.id
                    )));
                }
                PidNamespace::Joined(PathBuf::from(format!("/proc/{}/ns/pid", target.pid)))
            }
        })
    }

    /// The pod of a container.
    fn pod_of(&self, container: &Container) -> Result<Arc<Pod>, RuntimeError> {
        let sandbox = container.record().sandbox.clone();
        self.pod(&sandbox)
    }

    /// Asks the shim of a container's pod, and sorts its refusals.
    async fn ask(&self, container: &Container, request: Request) -> Result<Reply, RuntimeError> {
        let shim = self.pod_of(container)?.shim();
        let shim = shim.ok_or_else(|| RuntimeError::State("the pod is not running".to_owned()))?;
        let reply = match request {
            // It takes as long as the command takes, which has its own limit.
            Request::ExecSync(_) => shim.ask_patiently(request).await,
            request => shim.ask(request).await,
        };
        match reply.map_err(|error| RuntimeError::Fault(error.to_string()))? {
            Reply::Failed(reason) => Err(RuntimeError::Fault(reason)),
            Reply::NotFound => Err(RuntimeError::State("the container is not running".to_owned())),
            reply => Ok(reply),
        }
    }

    /// Starts a created container.
    pub(super) async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        let container = self.container(id)?;
        let _changing = container.changing.lock().await;
        let record = container.record().clone();
        if record.state() != cri::ContainerState::ContainerCreated {
            return Err(RuntimeError::State(format!("container {} was started before", record.id)));
        }
        let held = self.hold_plugins().await;
        let started_at = now();
        let request = Request::Start(Box::new(Start {
            container: record.id.clone(),
            bundle: self.bundle(&record.id),
            log: record.log.clone(),
            terminal: record.config.tty,
            stdin: record.config.stdin,
            stdin_once: record.config.stdin_once,
            exit_file: self.container_state(&record.id).join("exit.json"),
            cgroup: record.cgroup.clone(),
            resources: record.resources.clone(),
            kill_rest: record.shares_pids,
        }));
        let started = match self.tell_container(Event::StartContainer, &container).await {
            Ok(()) => self.ask(&container, request).await,
            Err(error) => Err(error),
        };
        match started {
            Ok(Reply::Started { pid }) => {
                {
                    let mut record = container.record();
                    record.pid = pid;
                    record.started_at = started_at;
                }
                // It runs, whether that can be written down or not; the shim will say so to the next daemon.
                if let Err(error) = self.save_container(&container) {
                    tracing::error!(container = record.id, "{error}");
                }
                self.publish(&record.id, &record.sandbox, cri::ContainerEventType::ContainerStartedEvent);
                self.tell_container_after(Event::PostStartContainer, &container).await;
                drop(held);
                // It may have ended before it was noted as started; then the event came too early to count.
                self.take_early_exit(&container);
                // So may its pod: who brought that down did not count this container among those that ran.
                let pod = self.pod_of(&container)?;
                if pod.record().phase != PodPhase::Ready {
                    let _down = pod.changing.lock().await;
                    self.containers_lost(&record.sandbox, "SandboxStopped", "the pod ended meanwhile");
                }
                Ok(())
            }
            Ok(_) => Err(RuntimeError::Fault("the pod's shim answered something else".to_owned())),
            Err(error) => {
                {
                    let mut record = container.record();
                    record.started_at = started_at;
                    record.reason = "StartError".to_owned();
                    record.message = error.to_string();
                }
                let exit = Exit { code: START_FAILED, finished_at: now(), oom_killed: false };
                self.container_ended(&container, exit);
                Err(RuntimeError::Fault(format!("cannot start container: {error}")))
            }
        }
    }

    fn take_early_exit(&self, container: &Container) {
        let id = container.record().id.clone();
        if let Ok(Some(exit)) = record::load::<Exit>(&self.container_state(&id).join("exit.json")) {
            self.container_ended(container, exit);
        }
    }

    /// Asks a container to end, waits, and kills it. One that is not running, or none, is fine.
    pub(super) async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        let _changing = container.changing.lock().await;
        self.end_container(&container, grace).await?;
        if container.record().exit.is_some() {
            self.tell_container_stopped(&container).await;
        }
        Ok(())
    }

    async fn end_container(&self, container: &Container, grace: Duration) -> Result<(), RuntimeError> {
        let record = container.record().clone();
        if record.state() != cri::ContainerState::ContainerRunning {
            return Ok(());
        }
        let mut ended = container.ended.subscribe();
        let signal = |signal, all| Request::Signal { container: record.id.clone(), signal, all };
        if !grace.is_zero() {
            self.ask(container, signal(record.stop_signal, false)).await?;
            let end = timeout(grace, ended.wait_for(|&ended| ended));
            if traces::step("wait for container", &[], end).await.is_ok() {
                return Ok(());
            }
        }
        self.ask(container, signal(libc::SIGKILL, true)).await?;
        let gone = timeout(KILL_TIMEOUT, ended.wait_for(|&ended| ended));
        traces::step("wait for container", &[], gone).await.map(drop).map_err(|_| {
            RuntimeError::Deadline(format!(
                "container {} was killed but does not end; it may wait on a disk",
                record.id
            ))
        })
    }

    /// Removes a container, by force if it runs. None is fine.
    pub(super) async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        let _changing = container.changing.lock().await;
        self.end_container(&container, Duration::ZERO).await?;
        self.tell_container_stopped(&container).await;
        let obituary = self.obituary(&container);
        let (id, sandbox, cgroup) = {
            let record = container.record();
            (record.id.clone(), record.sandbox.clone(), record.cgroup.clone())
        };
        // A shim that never knew it, or is gone, has nothing to forget.
        let _ = self.ask(&container, Request::Forget { container: id.clone() }).await;
        let runtime = self.clone();
        let erased = {
            let id = id.clone();
            tokio::task::spawn_blocking(move || {
                let _ = Cgroup::new(cgroup).destroy();
                runtime.erase_container(&id)
            })
        };
        let erased = async {
            let fault = |error| RuntimeError::fault("cannot remove the container's files", error);
            erased.await.map_err(|error| RuntimeError::Fault(error.to_string()))?.map_err(fault)
        };
        traces::step("remove container's files", &[], erased).await?;
        lock(&container.holds).clear();
        let held = self.tell_container_gone(&container, obituary).await;
        lock(&self.inner.containers).remove(&id);
        drop(held);
        self.publish(&id, &sandbox, cri::ContainerEventType::ContainerDeletedEvent);
        Ok(())
    }

    /// Removes a container's mounts and files.
    pub(super) fn erase_container(&self, id: &str) -> std::io::Result<()> {
        let snapshot = self.snapshot(id);
        snapshot.unmount();
        for directory in [stage::DIRECTORY, image_volumes::DIRECTORY] {
            idmap::detach_all(&self.bundle(id).join(directory));
        }
        // The bundle first: its record still tells a restart to come back here.
        match fs::remove_dir_all(self.bundle(id)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        snapshot.remove()
    }

    /// Runs a command in a container and waits for it. A timeout of zero is none.
    pub(super) async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        limit: Duration,
    ) -> Result<cri::ExecSyncResponse, RuntimeError> {
        let container = self.container(id)?;
        if command.is_empty() {
            return Err(RuntimeError::Invalid("there is no command to run".to_owned()));
        }
        let id = {
            let record = container.record();
            if record.state() != cri::ContainerState::ContainerRunning {
                return Err(RuntimeError::State(format!("container {} is not running", record.id)));
            }
            record.id.clone()
        };
        let timeout_ms = (!limit.is_zero()).then(|| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        match self.ask(&container, Request::ExecSync(ExecSync { container: id, command, timeout_ms })).await?
        {
            Reply::Executed { code, stdout, stderr } => {
                Ok(cri::ExecSyncResponse { stdout, stderr, exit_code: code })
            }
            Reply::TimedOut => Err(RuntimeError::Deadline(format!(
                "command timed out: it ran longer than {} s",
                limit.as_secs()
            ))),
            _ => Err(RuntimeError::Fault("the pod's shim answered something else".to_owned())),
        }
    }

    /// Follows a renamed log file.
    pub(super) async fn reopen_log(&self, id: &str) -> Result<(), RuntimeError> {
        let container = self.container(id)?;
        let id = container.record().id.clone();
        self.ask(&container, Request::ReopenLog { container: id }).await.map(drop)
    }
}

/// The tag that the pod's author used, else one that the image has, else nothing.
fn image_name(config: &cri::ContainerConfig, image: &Image) -> String {
    let asked = config.image.as_ref().map_or("", |image| image.user_specified_image.as_str());
    let asked = asked.parse::<Reference>().map(|reference| reference.to_string()).unwrap_or_default();
    let tags = &image.repo_tags;
    tags.iter().find(|tag| **tag == asked).or(tags.first()).cloned().unwrap_or_default()
}

/// A container's users are its pod's; one that says nothing takes them over.
fn check_users(options: &cri::NamespaceOption, sandbox: &PodRecord) -> Result<(), RuntimeError> {
    let invalid = |text: String| Err(RuntimeError::Invalid(text));
    let wanted = match UserNamespace::of(options) {
        Ok(wanted) => wanted,
        Err(error) => return invalid(error.to_string()),
    };
    let users = sandbox.users();
    if options.userns_options.is_some() && wanted != users {
        return invalid("the container's user namespace is not its pod's".to_owned());
    }
    if users.is_some() && options.pid() == cri::NamespaceMode::Node {
        return invalid("a pod with a user namespace cannot share the node's PID namespace".to_owned());
    }
    Ok(())
}
