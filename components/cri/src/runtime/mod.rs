//! The daemon's half of the runtime: sandboxes, containers and their records.
//!
//! The shims hold what runs, the disk holds what must not be forgotten, and the daemon's memory is a copy of both
//! that [`Runtime::open`] can make anew at any time. So the order of things is always: do it, record it, answer.
//!
//! ```text
//! <state>/pods/<id>/          record.json, resolv.conf, hostname, hosts
//! <state>/containers/<id>/    record.json, exit.json (written by the shim), upper/, work/
//! <run>/pods/<id>/            setup.json, shim.sock, shim.log, ns/, shm/, lib/ (libcontainer's)
//! <run>/containers/<id>/      spec.json, config.json, rootfs/ (the mounted snapshot)
//! ```

mod containers;
mod convert;
mod error;
mod features;
mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod image_volumes;
mod inspect;
mod life;
mod measure;
mod metrics;
mod nri;
mod pages;
mod pods;
mod reconcile;
mod refusals;
mod service;
mod shim_client;
mod signals;
mod state;
mod streaming;
mod update;

pub use error::RuntimeError;
pub use service::RuntimeServer;

use crate::{
    image::ImageService,
    network::Networks,
    protocol::Exit,
    record,
    shim::sandbox::namespace_path,
    snapshot::{Owners, Snapshot},
    userns::UserNamespace,
};
use cairn_contract::{cri, runtime::RuntimeConfig};
use jiff::Timestamp;
use state::{Container, ContainerRecord, Pod};
use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{OnceCell, broadcast};

/// Events kept for a subscriber that is slow; one that falls further behind loses the oldest.
const EVENT_BACKLOG: usize = 1024;

/// The runtime. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: RuntimeConfig,
    images: ImageService,
    networks: Networks,
    nri: cairn_nri::Plugins,
    boot: String,
    pods: Mutex<HashMap<String, Arc<Pod>>>,
    containers: Mutex<HashMap<String, Arc<Container>>>,
    user_namespaces: OnceCell<bool>,
    events: broadcast::Sender<cri::ContainerEventResponse>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Nanoseconds since 1970.
fn now() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// 64 random hexadecimal digits.
fn new_id() -> String {
    format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple())
}

impl Runtime {
    /// The runtime with what its state directory and the living shims say; see [`reconcile`].
    ///
    /// # Errors
    /// When the state directory cannot be read or made.
    pub async fn open(config: RuntimeConfig, images: ImageService) -> Result<Self, RuntimeError> {
        let boot =
            std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let networks = Networks::new(&config);
        let runtime = Self {
            inner: Arc::new(Inner {
                config,
                images,
                networks,
                nri: cairn_nri::Plugins::default(),
                boot,
                pods: Mutex::default(),
                containers: Mutex::default(),
                user_namespaces: OnceCell::new(),
                events: broadcast::Sender::new(EVENT_BACKLOG),
            }),
        };
        runtime.reconcile().await?;
        let review = runtime.clone();
        tokio::spawn(async move { review.review_networks().await });
        Ok(runtime)
    }

    /// How many sandboxes and containers there are; each is looked at.
    pub(crate) fn count(&self) -> (usize, usize) {
        let pods = self.all_pods().iter().filter(|pod| !pod.record().id.is_empty()).count();
        let containers = self.all_containers();
        (pods, containers.iter().filter(|container| !container.record().id.is_empty()).count())
    }

    fn pod_state(&self, id: &str) -> PathBuf {
        self.inner.config.state.join("pods").join(id)
    }

    fn pod_run(&self, id: &str) -> PathBuf {
        self.inner.config.run.join("pods").join(id)
    }

    fn container_state(&self, id: &str) -> PathBuf {
        self.inner.config.state.join("containers").join(id)
    }

    fn bundle(&self, id: &str) -> PathBuf {
        self.inner.config.run.join("containers").join(id)
    }

    fn snapshot(&self, id: &str) -> Snapshot {
        Snapshot::new(self.container_state(id), self.bundle(id).join("rootfs"))
    }

    /// Whose the files of a pod's containers are, if not the node's users'.
    fn owners(&self, pod: &state::PodRecord) -> Option<Owners> {
        let namespace = namespace_path(&self.pod_run(&pod.id), "user");
        pod.users().map(|users| Owners { users, namespace })
    }

    /// The sandbox with this id, or the only one whose id starts so.
    fn pod(&self, id: &str) -> Result<Arc<Pod>, RuntimeError> {
        find(&lock(&self.inner.pods), id).ok_or_else(|| RuntimeError::NotFound(format!("pod sandbox `{id}`")))
    }

    /// The container with this id, or the only one whose id starts so.
    fn container(&self, id: &str) -> Result<Arc<Container>, RuntimeError> {
        find(&lock(&self.inner.containers), id)
            .ok_or_else(|| RuntimeError::NotFound(format!("container `{id}`")))
    }

    fn all_pods(&self) -> Vec<Arc<Pod>> {
        lock(&self.inner.pods).values().cloned().collect()
    }

    fn all_containers(&self) -> Vec<Arc<Container>> {
        lock(&self.inner.containers).values().cloned().collect()
    }

    /// The containers of a sandbox.
    fn containers_of(&self, pod: &str) -> Vec<Arc<Container>> {
        self.all_containers().into_iter().filter(|container| container.record().sandbox == pod).collect()
    }

    /// Writes what a sandbox's record says now. Writers take turns: the last to write knows the latest.
    fn save_pod(&self, pod: &Pod) -> Result<(), RuntimeError> {
        let _turn = lock(&pod.saving);
        let record = pod.record().clone();
        record::save(&self.pod_state(&record.id).join("record.json"), &record)
            .map_err(|error| RuntimeError::fault("cannot record the pod sandbox", error))
    }

    /// Writes what a container's record says now. Writers take turns: a container's start and its end are noted
    /// by two tasks, and the end must not be overwritten.
    fn save_container(&self, container: &Container) -> Result<(), RuntimeError> {
        let _turn = lock(&container.saving);
        let record = container.record().clone();
        self.write_container(&record)
    }

    fn write_container(&self, record: &ContainerRecord) -> Result<(), RuntimeError> {
        record::save(&self.container_state(&record.id).join("record.json"), record)
            .map_err(|error| RuntimeError::fault("cannot record the container", error))
    }

    /// Notes that a container ended, once.
    fn container_ended(&self, container: &Container, exit: Exit) {
        let record = {
            let mut record = container.record();
            if record.exit.is_some() {
                return;
            }
            record.exit = Some(exit);
            record.clone()
        };
        if let Err(error) = self.save_container(container) {
            tracing::error!(container = record.id, "{error}");
        }
        container.ended.send_replace(true);
        self.tell_container_ended(&record.id, container);
        self.publish(&record.id, &record.sandbox, cri::ContainerEventType::ContainerStoppedEvent);
    }

    /// Tells subscribers that something happened to a container or, with its own id, to a sandbox.
    fn publish(&self, id: &str, sandbox: &str, kind: cri::ContainerEventType) {
        if self.inner.events.receiver_count() == 0 {
            return;
        }
        let pod = self.pod(sandbox).ok();
        let event = cri::ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind.into(),
            created_at: now(),
            pod_sandbox_status: pod.map(|pod| convert::pod_status(&pod.record())),
            containers_statuses: self
                .containers_of(sandbox)
                .iter()
                .map(|container| convert::container_status(&container.record()))
                .collect(),
        };
        // The last subscriber may just have left.
        let _ = self.inner.events.send(event);
    }
}

/// Makes a directory that is root's alone, or with a user namespace also a way for that namespace's root.
fn make_private(directory: &Path, users: Option<&UserNamespace>) -> io::Result<()> {
    let mode = if users.is_some() { 0o710 } else { 0o700 };
    fs::create_dir_all(directory)?;
    chown(directory, None, users.map(|users| users.root().1))?;
    fs::set_permissions(directory, fs::Permissions::from_mode(mode))
}

/// The entry with this key, or the only one whose key starts so.
fn find<T>(map: &HashMap<String, Arc<T>>, id: &str) -> Option<Arc<T>> {
    if let Some(found) = map.get(id) {
        return Some(Arc::clone(found));
    }
    let mut matching = map.iter().filter(|(key, _)| !id.is_empty() && key.starts_with(id));
    let first = matching.next()?;
    matching.next().is_none().then(|| Arc::clone(first.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_may_be_shortened_while_unambiguous() {
        let map = HashMap::from([("aab".to_owned(), Arc::new(1)), ("abc".to_owned(), Arc::new(2))]);
        assert_eq!(find(&map, "ab").as_deref(), Some(&2));
        assert_eq!(find(&map, "a"), None);
        assert_eq!(find(&map, ""), None);
        assert_eq!(new_id().len(), 64);
    }
}
