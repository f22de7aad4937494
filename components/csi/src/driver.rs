//! One CSI driver: a backend, the node's records, and the locks. The services translate its calls to and from gRPC.

use crate::{
    backend::Backend,
    error::{During, Fault},
    filesystem::Unfinished,
    id::VolumeId,
    locks::Locks,
    mount::{Place, Targets},
    node::{Published, Staged},
    records::Records,
};
use cairn_contract::storage::StorageConfig;
use std::{fs, io, path::Path, sync::Arc};
use tokio::sync::Semaphore;
use tonic::Status;

/// Of the program's threads for what blocks (64, see `main.rs`), so many are for each of the three drivers.
const TURNS: usize = 20;

/// A driver, ready to serve.
pub struct Driver {
    pub(crate) backend: Box<dyn Backend>,
    /// The node's name in the cluster.
    pub(crate) node: String,
    pub(crate) targets: Targets,
    pub(crate) locks: Locks,
    pub(crate) staged: Records<Staged>,
    pub(crate) published: Records<Published>,
    /// Calls that may block at the same time, so that a driver whose server is away leaves threads to the others.
    pub(crate) turns: Arc<Semaphore>,
    /// Volumes on which a file system is being made.
    pub(crate) formatting: Records<VolumeId>,
    /// The disks of those, for this boot.
    pub(crate) unfinished: Records<Unfinished>,
    /// Disks on which the header of an encrypted volume is being made, likewise.
    pub(crate) headers: Records<Unfinished>,
}

impl Driver {
    /// Opens the records and undoes what a crash left half-made.
    ///
    /// # Errors
    /// If the records cannot be read, or the backend cannot serve.
    pub fn open(config: &StorageConfig, node: &str, backend: Box<dyn Backend>) -> Result<Arc<Self>, Fault> {
        let name = backend.kind().name();
        let run = config.run.join(name);
        let driver = Self {
            node: node.to_owned(),
            targets: Targets::new(&config.target_roots),
            locks: Locks::default(),
            turns: Arc::new(Semaphore::new(TURNS)),
            staged: Records::open(run.join("staged"))?,
            published: Records::open(run.join("published"))?,
            formatting: Records::open(config.state.join(name).join("formatting"))?,
            unfinished: Records::open(run.join("unfinished"))?,
            headers: Records::open(run.join("headers"))?,
            backend,
        };
        if is_another_boot(&run)? {
            driver.forget_the_boot_before()?;
        }
        driver.recover()?;
        Ok(Arc::new(driver))
    }

    /// The place that a record names.
    pub(crate) fn recorded(&self, path: &Path) -> Result<Place, Fault> {
        self.targets.place(&path.to_string_lossy(), "the recorded path")
    }

    /// Key of the label that says which node a volume is on.
    pub(crate) fn topology_key(&self) -> String {
        format!("topology.{}/node", self.backend.kind().driver())
    }
}

/// Writes the drivers' figures in Prometheus' text format.
pub fn render(drivers: &[Arc<Driver>], text: &mut String) {
    use std::fmt::Write;
    type Count = fn(&Driver) -> usize;
    let metrics: [(&str, Count); 2] = [
        ("cairn_csi_staged_volumes", |driver| driver.staged.count()),
        ("cairn_csi_published_volumes", |driver| driver.published.count()),
    ];
    for (metric, value) in metrics {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# TYPE {metric} gauge");
        for driver in drivers {
            let _ =
                writeln!(text, "{metric}{{driver=\"{}\"}} {}", driver.backend.kind().driver(), value(driver));
        }
    }
    drivers.iter().for_each(|driver| driver.backend.render(text));
}

/// Does blocking work with the volumes and names in `keys` locked, to its end even if the client goes away: half a change
/// is worse than one nobody waits for.
pub(crate) async fn call<T: Send + 'static>(
    driver: &Arc<Driver>,
    keys: Vec<String>,
    work: impl FnOnce(&Driver) -> Result<T, Fault> + Send + 'static,
) -> Result<T, Status> {
    let held = driver.locks.take(keys)?;
    let driver = Arc::clone(driver);
    let turn = Arc::clone(&driver.turns).acquire_owned().await;
    let turn = turn.map_err(|error| Status::unavailable(format!("the driver ends: {error}")))?;
    let done = tokio::task::spawn_blocking(move || {
        let result = work(&driver);
        drop((held, turn));
        if let Err(fault @ Fault::Io { .. }) = &result {
            tracing::error!(driver = driver.backend.kind().driver(), "{fault}");
        }
        result
    });
    match done.await {
        Ok(result) => Ok(result?),
        Err(error) => Err(Status::internal(format!("the call failed inside the driver: {error}"))),
    }
}

/// The run directory usually is not there after a reboot; where it is, its records are of mounts that are gone.
fn is_another_boot(run: &Path) -> Result<bool, Fault> {
    let now =
        fs::read_to_string("/proc/sys/kernel/random/boot_id").during(|| "read the boot's id".to_owned())?;
    let path = run.join("boot");
    let before = match fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).during(|| format!("read {}", path.display())),
    };
    if before.as_deref() == Some(now.as_str()) {
        return Ok(false);
    }
    cairn_daemon::record::save_bytes(&path, now.as_bytes()).during(|| format!("write {}", path.display()))?;
    Ok(before.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        access::Access,
        backend::{Attachment, Features, Source},
        mount::OptionSet,
    };
    use cairn_contract::storage::BackendKind;
    use std::{sync::mpsc, time::Duration};

    struct Nothing;

    impl Backend for Nothing {
        fn kind(&self) -> BackendKind {
            BackendKind::Nfs
        }
        fn features(&self) -> Features {
            let options = OptionSet::NFS;
            Features { controller: &[], node: &[], groups: false, topology: false, options, ephemeral: false }
        }
        fn accepts(&self, _: &Access) -> Result<(), Fault> {
            Ok(())
        }
        fn attach(&self, _: &Attachment<'_>) -> Result<Source, Fault> {
            Err(Fault::NotFound("nothing".to_owned()))
        }
        fn detach(&self, _: &Staged) -> Result<(), Fault> {
            Ok(())
        }
    }

    #[test]
    fn a_driver_that_waits_leaves_threads_to_others() {
        let directory = tempfile::tempdir().unwrap();
        let driver = |name: &str| {
            let (state, run) =
                (directory.path().join(name).join("state"), directory.path().join(name).join("run"));
            let config = StorageConfig { state, run, ..StorageConfig::default() };
            Driver::open(&config, "node", Box::new(Nothing)).unwrap()
        };
        let (waiting, other) = (driver("waiting"), driver("other"));
        let threads = 3 * TURNS;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(threads)
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut servers = Vec::new();
            for _ in 0..threads {
                let (answer, server) = mpsc::channel::<()>();
                servers.push(answer);
                let waiting = Arc::clone(&waiting);
                tokio::spawn(
                    async move { call(&waiting, Vec::new(), move |_| Ok(server.recv().is_ok())).await },
                );
            }
            tokio::task::yield_now().await;
            let answer = call(&other, Vec::new(), |_| Ok("served"));
            let answer = tokio::time::timeout(Duration::from_secs(60), answer).await;
            assert_eq!(answer.unwrap().unwrap(), "served");
            drop(servers);
        });
    }
}
