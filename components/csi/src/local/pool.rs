//! A pool: a directory in which volumes are made, kept and counted.

use super::{
    Marks, disk,
    parameters::{Kind, Parameters},
    quota,
    snapshot::SnapshotRecord,
    volume::{VolumeRecord, smallest},
};
use crate::{
    access::MountAccess,
    backend::Space,
    error::{During, Fault},
    filesystem,
    records::sync,
    walk,
};
use cairn_contract::storage::{self, Quota};
use cairn_daemon::record;
use serde::de::DeserializeOwned;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Parts of a pool.
const PARTS: [&str; 4] = ["volumes", "snapshots", "new", "trash"];

/// First of the projects that volumes get; the kubelet's own begin at 2^20.
const FIRST_PROJECT: u32 = 0x4341_0000;

/// A pool, open.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) quota: Quota,
    limit: Option<u64>,
    pub(super) volumes: Held<VolumeRecord>,
    pub(super) snapshots: Held<SnapshotRecord>,
    /// Directories whose record cannot be read, by name: they are left alone.
    damaged: BTreeMap<String, String>,
    /// Bytes promised to what is being made, by identifier.
    reserved: Mutex<BTreeMap<String, u64>>,
    /// Projects in use.
    projects: Mutex<BTreeSet<u32>>,
    pub(super) marks: Arc<Marks>,
}

/// Records by identifier, as they are on disk.
#[derive(Debug)]
pub(super) struct Held<T>(Mutex<BTreeMap<String, T>>);

impl<T: Clone> Held<T> {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, id: &str) -> Option<T> {
        self.lock().get(id).cloned()
    }

    pub(super) fn all(&self) -> Vec<T> {
        self.lock().values().cloned().collect()
    }

    pub(super) fn insert(&self, id: &str, value: T) {
        self.lock().insert(id.to_owned(), value);
    }

    pub(super) fn remove(&self, id: &str) {
        self.lock().remove(id);
    }
}

/// What a pool's metrics tell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figures {
    pub(super) volumes: u64,
    pub(super) snapshots: u64,
    pub(super) promised: u64,
    pub(super) available: u64,
}

/// Bytes promised to something that is being made; given back when dropped.
#[derive(Debug)]
pub(super) struct Reserved<'pool> {
    pool: &'pool Pool,
    id: String,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.pool.reserved.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Pool {
    /// Opens a pool, with its disk mounted if it has one of its own.
    ///
    /// # Errors
    /// If its disk or directory cannot be used. A record in it that cannot be read is no error: that volume is left alone.
    pub(super) fn open(config: &storage::Pool, marks: &Arc<Marks>) -> Result<Self, Fault> {
        if let Some(device) = &config.device {
            disk::mount(config, device, &marks.making)?;
        }
        for part in PARTS {
            let path = config.path.join(part);
            fs::create_dir_all(&path).during(|| format!("make {} (pool {})", path.display(), config.name))?;
        }
        // /sys names the files behind loop devices without links on the way.
        let path = config.path.canonicalize().during(|| format!("look at {}", config.path.display()))?;
        let mut pool = Self {
            name: config.name.clone(),
            path,
            quota: config.quota,
            limit: config.limit_bytes,
            volumes: Held(Mutex::default()),
            snapshots: Held(Mutex::default()),
            damaged: BTreeMap::new(),
            reserved: Mutex::default(),
            projects: Mutex::default(),
            marks: marks.clone(),
        };
        for held in pool.read::<VolumeRecord>("volumes", "volume.json")? {
            pool.projects().extend(held.project);
            pool.volumes.insert(held.id.as_str(), held.clone());
        }
        for held in pool.read::<SnapshotRecord>("snapshots", "snapshot.json")? {
            pool.snapshots.insert(held.id.as_str(), held.clone());
        }
        // The files of a volume that is left alone keep their project.
        let kept = pool.damaged.keys().map(|name| pool.path.join("volumes").join(name).join("data"));
        let kept: Vec<u32> = kept.filter_map(|files| quota::project(&files).ok()).collect();
        pool.projects().extend(kept);
        // Everything else can be served without.
        if let Err(fault) = pool.enforced() {
            tracing::error!("{fault}");
        }
        Ok(pool)
    }

    /// Refuses what needs quotas where there are none. They are switched on here if the file system only counts.
    fn enforced(&self) -> Result<(), Fault> {
        if self.quota == Quota::Off || quota::is_enforced(&self.path)? || quota::enforce(&self.path)? {
            return Ok(());
        }
        Err(Fault::Precondition(format!(
            "pool {}: the file system of {} has no project quotas, so no directory volume is made. XFS is mounted with \
             prjquota, ext4 made with the features `project` and `quota`; or set quota = \"off\", and directory volumes \
             are not held to their size",
            self.name,
            self.path.display()
        )))
    }

    /// The records of one part.
    fn read<T: DeserializeOwned>(&mut self, part: &str, record: &str) -> Result<Vec<T>, Fault> {
        let directory = self.path.join(part);
        let mut found = Vec::new();
        for entry in fs::read_dir(&directory).during(|| format!("read {}", directory.display()))? {
            let entry = entry.during(|| format!("read {}", directory.display()))?;
            let path = entry.path().join(record);
            let why = match record::load(&path) {
                Ok(Some(held)) => {
                    found.push(held);
                    continue;
                }
                Ok(None) => format!("its record {} is not there", path.display()),
                Err(error) => format!("its record {} cannot be read: {error}", path.display()),
            };
            let name = entry.file_name().to_string_lossy().into_owned();
            tracing::error!(pool = self.name, volume = name, "left alone: {why}");
            self.damaged.insert(name, why);
        }
        Ok(found)
    }

    /// What is wrong with a volume or snapshot that is left alone, by the name of its directory.
    pub(super) fn damage(&self, name: &str) -> Option<Fault> {
        let why = self.damaged.get(name)?;
        Some(Fault::Precondition(format!(
            "{name} is damaged, and its data left alone: {why}. Put the record back, or remove the directory, and start the \
             driver again"
        )))
    }

    /// Makes an image as large as its record promises.
    pub(super) fn grow_image(&self, held: &VolumeRecord) -> Result<(), Fault> {
        let image = self.image(&held.id);
        let grown = File::options().write(true).open(&image).and_then(|file| {
            if file.metadata()?.len() < held.bytes {
                file.set_len(held.bytes)?;
                file.sync_all()?;
            }
            Ok(())
        });
        grown.during(|| format!("grow {}", image.display()))
    }

    /// Refuses volumes that this pool cannot have.
    pub(super) fn accepts(&self, parameters: &Parameters) -> Result<(), Fault> {
        match (parameters.kind, parameters.fs_type) {
            (Kind::Directory, Some(wanted)) if filesystem::of(&self.path)? != Some(wanted) => {
                Err(Fault::Invalid(format!(
                    "pool {}: a directory volume has the pool's file system, not {}",
                    self.name,
                    wanted.name()
                )))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what a directory cannot be mounted with.
    pub(super) fn accepts_mount(&self, mount: &MountAccess) -> Result<(), Fault> {
        if let Some((key, _)) = mount.options.settings().next() {
            return Err(Fault::Invalid(format!(
                "a directory volume has the pool's file system: mount flag {key:?} cannot be its own"
            )));
        }
        match mount.fs_type {
            Some(wanted) if filesystem::of(&self.path)? != Some(wanted) => Err(Fault::Invalid(format!(
                "pool {}: a directory volume has the pool's file system, not {}",
                self.name,
                wanted.name()
            ))),
            _ => Ok(()),
        }
    }

    /// An empty directory to make something in.
    pub(super) fn begin(&self, name: &str) -> Result<PathBuf, Fault> {
        let path = self.path.join("new").join(name);
        remove_all(&path)?;
        fs::create_dir(&path).during(|| format!("make {}", path.display()))?;
        Ok(path)
    }

    /// Puts something that is whole in its place.
    pub(super) fn finish(&self, beside: &Path, place: &Path) -> Result<(), Fault> {
        sync(beside)?;
        fs::rename(beside, place).during(|| format!("rename {} to {}", beside.display(), place.display()))?;
        place.parent().map_or(Ok(()), sync)
    }

    /// Removes what could not be made whole.
    pub(super) fn abandon(&self, beside: &Path, project: Option<u32>) {
        if let Err(other) = remove_all(beside).and_then(|()| self.release(project)) {
            tracing::warn!("undoing a failed creation: {other}");
        }
    }

    /// Takes something out of sight, and then from the disk.
    pub(super) fn discard(&self, place: &Path, name: &str, project: Option<u32>) -> Result<(), Fault> {
        let trash = self.path.join("trash").join(name);
        remove_all(&trash)?;
        match fs::rename(place, &trash) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed.during(|| format!("rename {} to {}", place.display(), trash.display()))?,
        }
        place.parent().map_or(Ok(()), sync)?;
        remove_all(&trash)?;
        self.release(project)
    }

    fn projects(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.projects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a new directory to a size, if the pool does that; the project it got for it.
    pub(super) fn limit_new(&self, files: &Path, made: &VolumeRecord) -> Result<Option<u32>, Fault> {
        if self.quota == Quota::Off {
            return Ok(None);
        }
        self.enforced()?;
        let project = {
            let mut projects = self.projects();
            let free = (FIRST_PROJECT..).find(|project| !projects.contains(project));
            let free = free.ok_or_else(|| Fault::Exhausted("there are no project ids left".to_owned()))?;
            projects.insert(free);
            free
        };
        let limited =
            quota::limit(files, project, Some(limits(made))).and_then(|()| quota::join(files, project));
        if limited.is_err() {
            self.projects().remove(&project);
        }
        limited.map(|()| Some(project))
    }

    /// Holds a volume's directory to the size that its record says.
    pub(super) fn limit_again(&self, held: &VolumeRecord) -> Result<(), Fault> {
        match held.project {
            Some(project) if self.quota == Quota::Enforced => {
                quota::limit(&self.path, project, Some(limits(held)))
            }
            _ => Ok(()),
        }
    }

    fn release(&self, project: Option<u32>) -> Result<(), Fault> {
        let Some(project) = project else { return Ok(()) };
        if self.quota == Quota::Enforced {
            quota::limit(&self.path, project, None)?;
        }
        self.projects().remove(&project);
        Ok(())
    }

    /// Promises bytes, if there are so many.
    pub(super) fn reserve(&self, id: &str, bytes: u64) -> Result<Reserved<'_>, Fault> {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        let being_made: u64 = reserved.values().sum();
        let available = self.available()?.saturating_sub(being_made);
        if bytes > available {
            return Err(Fault::Exhausted(format!(
                "pool {} can promise {available} bytes more, not {bytes}",
                self.name
            )));
        }
        reserved.insert(id.to_owned(), bytes);
        Ok(Reserved { pool: self, id: id.to_owned() })
    }

    /// Bytes promised to what is there.
    pub(super) fn promised(&self) -> u64 {
        let volumes = self.volumes.all().iter().map(|held| held.bytes).sum::<u64>();
        volumes + self.snapshots.all().iter().map(|held| held.allocated).sum::<u64>()
    }

    /// Bytes that can still be promised: what is free, less what was promised and is not used yet.
    fn available(&self) -> Result<u64, Fault> {
        let held = rustix::fs::statvfs(&self.path).during(|| format!("measure {}", self.path.display()))?;
        let free = held.f_bavail.saturating_mul(held.f_frsize);
        let volumes = self.volumes.all();
        let volumes: u64 = volumes.iter().map(|held| held.bytes.saturating_sub(self.used(held))).sum();
        let snapshots = self.snapshots.all();
        let snapshots: u64 = snapshots.iter().map(SnapshotRecord::outstanding).sum();
        let by_disk = free.saturating_sub(volumes + snapshots);
        let by_limit = self.limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.promised()));
        Ok(by_disk.min(by_limit))
    }

    /// Bytes of a volume's promise that the disk has already given, at least. What is not known, or may be shared with
    /// another volume, counts as not given: so less is promised, never more than there is.
    fn used(&self, held: &VolumeRecord) -> u64 {
        match (held.kind, held.project) {
            _ if held.shares => 0,
            (Kind::Image, _) => fs::metadata(self.image(&held.id)).map_or(0, |seen| seen.blocks() * 512),
            (Kind::Directory, _) => self.used_by_project(held).unwrap_or(0),
        }
    }

    /// Bytes that a directory has by its quota's count, if the pool keeps one.
    pub(super) fn used_by_project(&self, held: &VolumeRecord) -> Option<u64> {
        let project = held.project.filter(|_| self.quota == Quota::Enforced)?;
        quota::used(&self.path, project).ok()
    }

    /// Room for volumes with these parameters.
    pub(super) fn space(&self, parameters: &Parameters) -> Result<Space, Fault> {
        let being_made: u64 = self.reserved.lock().unwrap_or_else(PoisonError::into_inner).values().sum();
        let available = self.available()?.saturating_sub(being_made);
        let unit = crate::capacity::MIB;
        Ok(Space { available, largest: available / unit * unit, smallest: smallest(parameters) })
    }

    pub(super) fn figures(&self) -> Figures {
        Figures {
            volumes: self.volumes.all().len() as u64,
            snapshots: self.snapshots.all().len() as u64,
            promised: self.promised(),
            available: self.available().unwrap_or(0),
        }
    }
}

/// Bytes and files that a volume may have.
fn limits(held: &VolumeRecord) -> quota::Limit {
    quota::Limit { bytes: held.bytes, files: held.files }
}

/// Removes a directory or file with all in it; none is fine.
pub(super) fn remove_all(path: &Path) -> Result<(), Fault> {
    let removed = || match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(walk::remove(File::open(parent)?, name)?),
        _ => Err(io::Error::from(io::ErrorKind::InvalidInput)),
    };
    removed().during(|| format!("remove {}", path.display()))
}
