//! A pool: a directory in which volumes are made, kept and counted.

use super::{
    parameters::{Kind, Parameters},
    quota,
    volume::{VolumeRecord, smallest},
};
use crate::{
    access::MountAccess,
    backend::Space,
    error::{During, Fault},
    filesystem::{self, Content, FsType},
    loopback,
    mount::{self, MountOptions, OptionSet, Seen, Targets},
    node::Staged,
    records::sync,
};
use cairn_contract::storage::{self, Quota};
use cairn_daemon::record;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
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
    /// Bytes promised to what is being made, by identifier.
    reserved: Mutex<BTreeMap<String, u64>>,
    /// Projects in use.
    projects: Mutex<BTreeSet<u32>>,
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
    pub(super) fn open(config: &storage::Pool) -> Result<Self, Fault> {
        if let Some(device) = &config.device {
            mount_disk(device, &config.path, config.quota)?;
        }
        for part in PARTS {
            let path = config.path.join(part);
            fs::create_dir_all(&path).during(|| format!("make {} (pool {})", path.display(), config.name))?;
        }
        let pool = Self {
            name: config.name.clone(),
            path: config.path.clone(),
            quota: config.quota,
            limit: config.limit_bytes,
            volumes: Held(Mutex::default()),
            reserved: Mutex::default(),
            projects: Mutex::default(),
        };
        pool.read_volumes()?;
        if config.quota == Quota::Enforced && !quota::is_enforced(&config.path)? {
            return Err(Fault::Precondition(format!(
                "pool {}: the file system of {} does not enforce project quotas. Mount it with prjquota (ext4 needs the \
                 features `project` and `quota`), or set quota = \"off\" and directory volumes are not held to their size",
                config.name,
                config.path.display()
            )));
        }
        Ok(pool)
    }

    fn read_volumes(&self) -> Result<(), Fault> {
        let directory = self.path.join("volumes");
        for entry in fs::read_dir(&directory).during(|| format!("read {}", directory.display()))? {
            let path = entry.during(|| format!("read {}", directory.display()))?.path().join("volume.json");
            let loaded = record::load::<VolumeRecord>(&path);
            match loaded.during(|| format!("read the record {}", path.display()))? {
                Some(held) => {
                    self.projects().extend(held.project);
                    self.volumes.insert(held.id.as_str(), held.clone());
                }
                None => tracing::warn!(path = %path.display(), "not a volume; left alone"),
            }
        }
        Ok(())
    }

    /// Removes what a crash left half-made.
    pub(super) fn recover(&self, staged: &[Staged]) -> Result<(), Fault> {
        let used: BTreeSet<&str> = staged.iter().map(|held| held.id.as_str()).collect();
        for held in self.volumes.all() {
            if held.ephemeral && !used.contains(held.id.as_str()) {
                tracing::info!(volume = %held.id, "inline volume without a pod: removed");
                self.delete(&held)?;
            }
        }
        let kept: BTreeSet<PathBuf> = self
            .volumes
            .all()
            .iter()
            .filter(|held| used.contains(held.id.as_str()))
            .map(|held| self.image(&held.id))
            .collect();
        loopback::detach_below(&self.path, |file| kept.contains(file))?;
        for part in ["new", "trash"] {
            let directory = self.path.join(part);
            for entry in fs::read_dir(&directory).during(|| format!("read {}", directory.display()))? {
                let path = entry.during(|| format!("read {}", directory.display()))?.path();
                tracing::info!(path = %path.display(), "half-made or half-removed: removed");
                remove_all(&path)?;
            }
        }
        // A quota that was changed without its record, or the other way round.
        for held in self.volumes.all() {
            match held.kind {
                Kind::Directory => self.limit_again(&held)?,
                Kind::Image => {
                    let image = self.image(&held.id);
                    if fs::metadata(&image).is_ok_and(|seen| seen.len() < held.bytes) {
                        let grown = File::options()
                            .write(true)
                            .open(&image)
                            .and_then(|file| file.set_len(held.bytes));
                        grown.during(|| format!("grow {}", image.display()))?;
                    }
                }
            }
        }
        Ok(())
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
    pub(super) fn limit_new(&self, files: &Path, bytes: u64) -> Result<Option<u32>, Fault> {
        if self.quota == Quota::Off {
            return Ok(None);
        }
        let project = {
            let mut projects = self.projects();
            let free = (FIRST_PROJECT..).find(|project| !projects.contains(project));
            let free = free.ok_or_else(|| Fault::Exhausted("there are no project ids left".to_owned()))?;
            projects.insert(free);
            free
        };
        let limited = quota::limit(files, project, bytes).and_then(|()| quota::join(files, project));
        if limited.is_err() {
            self.projects().remove(&project);
        }
        limited.map(|()| Some(project))
    }

    /// Holds a volume's directory to the size that its record says.
    pub(super) fn limit_again(&self, held: &VolumeRecord) -> Result<(), Fault> {
        match held.project {
            Some(project) if self.quota == Quota::Enforced => quota::limit(&self.path, project, held.bytes),
            _ => Ok(()),
        }
    }

    fn release(&self, project: Option<u32>) -> Result<(), Fault> {
        let Some(project) = project else { return Ok(()) };
        if self.quota == Quota::Enforced {
            quota::limit(&self.path, project, 0)?;
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
        self.volumes.all().iter().map(|held| held.bytes).sum()
    }

    /// Bytes that can still be promised: what is free, less what was promised and is not used yet.
    fn available(&self) -> Result<u64, Fault> {
        let held = rustix::fs::statvfs(&self.path).during(|| format!("measure {}", self.path.display()))?;
        let free = held.f_bavail.saturating_mul(held.f_frsize);
        let outstanding: u64 =
            self.volumes.all().iter().map(|held| held.bytes.saturating_sub(self.used(held))).sum();
        let by_disk = free.saturating_sub(outstanding);
        let by_limit = self.limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.promised()));
        Ok(by_disk.min(by_limit))
    }

    /// Bytes of a volume's promise that the disk has already given, at least. What is not known, or may be shared with
    /// another volume, counts as not given: so less is promised, never more than there is.
    fn used(&self, held: &VolumeRecord) -> u64 {
        match (held.kind, held.project) {
            _ if held.source.is_some() => 0,
            (Kind::Image, _) => fs::metadata(self.image(&held.id)).map_or(0, |seen| seen.blocks() * 512),
            (Kind::Directory, Some(project)) => quota::used(&self.path, project).unwrap_or(0),
            (Kind::Directory, None) => 0,
        }
    }

    /// Room for volumes with these parameters.
    pub(super) fn space(&self, parameters: &Parameters) -> Result<Space, Fault> {
        let being_made: u64 = self.reserved.lock().unwrap_or_else(PoisonError::into_inner).values().sum();
        let available = self.available()?.saturating_sub(being_made);
        let unit = crate::capacity::MIB;
        Ok(Space { available, largest: available / unit * unit, smallest: smallest(parameters) })
    }

    /// Adds its figures in Prometheus' text format.
    pub(super) fn render(&self, text: &mut String) {
        use std::fmt::Write;
        let (name, available) = (&self.name, self.available().unwrap_or(0));
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "# TYPE cairn_csi_pool_volumes gauge\ncairn_csi_pool_volumes{{pool=\"{name}\"}} {}\n\
             # TYPE cairn_csi_pool_promised_bytes gauge\ncairn_csi_pool_promised_bytes{{pool=\"{name}\"}} {}\n\
             # TYPE cairn_csi_pool_available_bytes gauge\ncairn_csi_pool_available_bytes{{pool=\"{name}\"}} {available}\n",
            self.volumes.all().len(),
            self.promised(),
        );
    }
}

/// Removes a directory or file with all in it; none is fine. Links in it are removed, not followed.
fn remove_all(path: &Path) -> Result<(), Fault> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            fs::remove_file(path).during(|| format!("remove {}", path.display()))
        }
        removed => removed.during(|| format!("remove {}", path.display())),
    }
}

/// Mounts a pool's own disk at its path, and makes it into XFS if nothing is on it. Mounted already is fine.
fn mount_disk(device: &Path, path: &Path, quota: Quota) -> Result<(), Fault> {
    fs::create_dir_all(path).during(|| format!("make {}", path.display()))?;
    let parent = path.parent().unwrap_or(path);
    let place = Targets::new(&[parent.to_path_buf()]).place(&path.to_string_lossy(), "the pool's path")?;
    if matches!(place.see()?, Seen::Mounted { .. }) {
        return Ok(());
    }
    let fs_type = match filesystem::look(device)? {
        Content::FileSystem(fs_type) => fs_type,
        Content::Blank => {
            tracing::info!(device = %device.display(), "the pool's disk is blank: making XFS");
            filesystem::make(device, FsType::Xfs)?;
            FsType::Xfs
        }
        content @ Content::Other(_) => {
            return Err(Fault::Precondition(format!("the pool's disk {} holds {content}", device.display())));
        }
    };
    let flags = if quota == Quota::Enforced { vec!["prjquota".to_owned()] } else { Vec::new() };
    let options = MountOptions::parse(&flags, OptionSet::POOL)?;
    place.attach(mount::of_device(device, fs_type, &options, false)?)
}
