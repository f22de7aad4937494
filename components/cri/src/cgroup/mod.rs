//! Control groups: where a pod's are, what they limit, what they say.
//!
//! A pod's cgroup is a directory below the parent that the kubelet names, and each container has one below that:
//!
//! ```text
//! /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice     kubelet's
//!     cairn-<sandbox id>/                                                       ours
//!         shim/  pause/  <container id>/
//! ```
//!
//! With both drivers the runtime makes its directories itself. The systemd driver differs in how the parent is
//! written: a slice name, which [`expand_slice`] turns into systemd's path. systemd owns the slice; below it the
//! level `cairn-<id>` has controllers enabled in its own `cgroup.subtree_control`, so that the kernel refuses
//! (EBUSY) to take them away when systemd recomputes the slice. Cgroup v2 and the hybrid v1 layout are supported.

mod detail;
pub mod devices;
mod resources;
mod stats;

pub use detail::{Detail, DeviceIo};
pub use resources::Resources;
pub use stats::{Pressure, Stats};

use cairn_contract::runtime::CgroupDriver;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::OnceLock,
    thread,
    time::Duration,
};

/// Where cgroup file systems are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// How the node's cgroups are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One cgroup v2 hierarchy.
    Unified,
    /// A hierarchy per controller (cgroup v1), perhaps with an empty v2 one beside.
    PerController,
}

/// The node's layout, looked up once.
pub fn layout() -> Layout {
    static LAYOUT: OnceLock<Layout> = OnceLock::new();
    *LAYOUT.get_or_init(|| {
        if Path::new(ROOT).join("cgroup.controllers").exists() {
            Layout::Unified
        } else {
            Layout::PerController
        }
    })
}

/// A parent that is neither a path nor a slice name.
#[derive(Debug, thiserror::Error)]
#[error("cgroup parent `{parent}` does not fit the {driver:?} driver: expected {expected}")]
pub struct InvalidParent {
    parent: String,
    driver: CgroupDriver,
    expected: &'static str,
}

/// systemd's path of a slice: `a-b.slice` is `/a.slice/a-b.slice`; `-.slice` is `/`.
pub fn expand_slice(name: &str) -> Option<PathBuf> {
    let stem = name.strip_suffix(".slice")?;
    let mut path = PathBuf::from("/");
    if stem == "-" {
        return Some(path);
    }
    if stem.split('-').any(str::is_empty) || stem.contains('/') {
        return None;
    }
    let dashes = stem.match_indices('-').map(|(at, _)| at);
    for end in dashes.chain([stem.len()]) {
        path.push(format!("{}.slice", &stem[..end]));
    }
    Some(path)
}

/// The cgroup of a pod, absolute within the hierarchy. An empty parent means the runtime's own default.
pub fn pod_path(driver: CgroupDriver, parent: &str, sandbox: &str) -> Result<PathBuf, InvalidParent> {
    let invalid = |expected| InvalidParent { parent: parent.to_owned(), driver, expected };
    let parent = match driver {
        CgroupDriver::Systemd if parent.is_empty() => PathBuf::from("/cairn.slice"),
        CgroupDriver::Systemd => {
            let name = parent.rsplit('/').next().unwrap_or(parent);
            expand_slice(name).ok_or_else(|| invalid("a slice name such as kubepods-pod1.slice"))?
        }
        CgroupDriver::Cgroupfs if parent.is_empty() => PathBuf::from("/cairn"),
        CgroupDriver::Cgroupfs if parent.split('/').any(|part| part == "..") => {
            return Err(invalid("a path without `..`"));
        }
        CgroupDriver::Cgroupfs if parent.ends_with(".slice") => {
            return Err(invalid("a path such as /kubepods/pod1; is the kubelet's cgroupDriver `systemd`?"));
        }
        CgroupDriver::Cgroupfs => Path::new("/").join(parent),
    };
    Ok(parent.join(format!("cairn-{sandbox}")))
}

/// One control group, in every hierarchy that has it.
#[derive(Debug, Clone)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// The cgroup at `path`, absolute within the hierarchy; it need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Its directory in the hierarchy of `controller` (the only hierarchy, on cgroup v2).
    pub fn directory(&self, controller: &str) -> PathBuf {
        let relative = self.path.strip_prefix("/").unwrap_or(&self.path);
        match layout() {
            Layout::Unified => Path::new(ROOT).join(relative),
            Layout::PerController => Path::new(ROOT).join(controller).join(relative),
        }
    }

    /// A file of it; `None` when there is no such file.
    pub fn read(&self, controller: &str, file: &str) -> Option<String> {
        fs::read_to_string(self.directory(controller).join(file)).ok()
    }

    /// Sets a file of it.
    pub fn write(&self, controller: &str, file: &str, value: &str) -> io::Result<()> {
        let path = self.directory(controller).join(file);
        fs::write(&path, value).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot write `{value}` to {}: {error}", path.display()))
        })
    }

    /// Makes it and what is above it, on cgroup v2 with every controller enabled for its children.
    pub fn create(&self) -> io::Result<()> {
        if layout() == Layout::PerController {
            return self.directories().iter().try_for_each(|directory| make_per_controller(directory));
        }
        let mut directory = PathBuf::from(ROOT);
        let controllers = fs::read_to_string(directory.join("cgroup.controllers"))?;
        let parts = self.path.strip_prefix("/").unwrap_or(&self.path);
        for part in [Path::new("")].into_iter().chain(parts.iter().map(Path::new)) {
            directory.push(part);
            match fs::create_dir(&directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            for controller in controllers.split_whitespace() {
                // A controller that cannot be enabled here is missed only if a limit needs it, and says so then.
                let _ = fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
        Ok(())
    }

    /// Makes it a leaf and moves a process into it.
    pub fn adopt(&self, pid: i32) -> io::Result<()> {
        for directory in self.directories() {
            match layout() {
                Layout::Unified => fs::create_dir_all(&directory)?,
                Layout::PerController => make_per_controller(&directory)?,
            }
            fs::write(directory.join("cgroup.procs"), pid.to_string())?;
        }
        Ok(())
    }

    /// Kills every process in it and below it.
    pub fn kill(&self) {
        for directory in self.directories() {
            if fs::write(directory.join("cgroup.kill"), "1").is_ok() {
                continue;
            }
            for directory in descendants(&directory) {
                let Ok(processes) = fs::read_to_string(directory.join("cgroup.procs")) else { continue };
                for pid in
                    processes.lines().filter_map(|line| rustix::process::Pid::from_raw(line.parse().ok()?))
                {
                    // Gone already is what was wanted.
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
        }
    }

    /// Kills what runs in it and removes it with everything below; absent is fine.
    pub fn destroy(&self) -> io::Result<()> {
        let mut last = Ok(());
        for attempt in 0..50 {
            let directories: Vec<PathBuf> = self.directories().iter().flat_map(|d| descendants(d)).collect();
            if directories.is_empty() {
                return Ok(());
            }
            self.kill();
            if attempt > 0 {
                thread::sleep(Duration::from_millis(10)); // a killed process leaves its cgroup a moment later
            }
            for directory in directories {
                last = match fs::remove_dir(&directory) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io::Error::new(
                        error.kind(),
                        format!("cannot remove cgroup {}: {error}", directory.display()),
                    )),
                    _ => last,
                };
            }
        }
        if self.directories().iter().any(|directory| directory.exists()) { last } else { Ok(()) }
    }

    /// Processes the kernel killed in it for want of memory, since it was made.
    pub fn oom_kills(&self) -> u64 {
        let text = match layout() {
            Layout::Unified => self.read("memory", "memory.events"),
            Layout::PerController => self.read("memory", "memory.oom_control"),
        };
        text.and_then(|text| field(&text, "oom_kill")).unwrap_or(0)
    }

    /// Its directory in each hierarchy.
    fn directories(&self) -> Vec<PathBuf> {
        if layout() == Layout::Unified {
            return vec![self.directory("")];
        }
        let relative = self.path.strip_prefix("/").unwrap_or(&self.path);
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        mounts
            .lines()
            .filter_map(|line| {
                let mut words = line.split(' ').skip(1);
                let (place, kind) = (words.next()?, words.next()?);
                (kind == "cgroup").then(|| Path::new(place).join(relative))
            })
            .collect()
    }
}

/// Makes a cgroup v1 directory and those above it. A new cpuset is empty and takes no process (ENOSPC): each gets
/// what the one above has.
fn make_per_controller(directory: &Path) -> io::Result<()> {
    let files = ["cpuset.cpus", "cpuset.mems"];
    let empty = |file: &str| fs::read_to_string(directory.join(file)).is_ok_and(|set| set.trim().is_empty());
    if directory == Path::new(ROOT) || directory.exists() && !files.into_iter().any(empty) {
        return Ok(());
    }
    let Some(above) = directory.parent() else { return Ok(()) };
    make_per_controller(above)?;
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for file in files {
        if let Ok(set) = fs::read_to_string(above.join(file)) {
            fs::write(directory.join(file), set.trim())?;
        }
    }
    Ok(())
}

/// A directory and those below it, deepest first; none when it does not exist.
fn descendants(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let below = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut all: Vec<PathBuf> = below.flat_map(|entry| descendants(&entry.path())).collect();
    all.push(directory.to_path_buf());
    all
}

/// The number after `name` in a file of `name value` lines.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_expand_as_systemd_nests_them() {
        for (name, path) in [
            ("kubepods.slice", "/kubepods.slice"),
            (
                "kubepods-burstable-podab_cd.slice",
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podab_cd.slice",
            ),
            ("-.slice", "/"),
        ] {
            assert_eq!(expand_slice(name).unwrap(), Path::new(path));
        }
        for bad in ["kubepods", "a--b.slice", "-a.slice", "a/b.slice"] {
            assert_eq!(expand_slice(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_parent_of_the_other_driver_is_refused() {
        let path = |driver, parent| pod_path(driver, parent, "x").map(|path| path.display().to_string());
        assert_eq!(path(CgroupDriver::Cgroupfs, "/kubepods/pod1").unwrap(), "/kubepods/pod1/cairn-x");
        assert_eq!(path(CgroupDriver::Systemd, "/a.slice/a-b.slice").unwrap(), "/a.slice/a-b.slice/cairn-x");
        assert!(
            path(CgroupDriver::Cgroupfs, "kubepods.slice").unwrap_err().to_string().contains("cgroupDriver")
        );
        assert!(path(CgroupDriver::Systemd, "/kubepods/pod1").is_err());
        assert!(path(CgroupDriver::Cgroupfs, "/a/../..").is_err());
    }

    #[test]
    fn fields_match_whole_names() {
        let text = "oom 3\noom_kill 2\noom_group_kill 9\n";
        assert_eq!(field(text, "oom_kill"), Some(2));
        assert_eq!(field(text, "missing"), None);
    }
}
