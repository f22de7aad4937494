//! Kernel modules: those every boot needs, and those the machine's devices ask for.

use crate::console::Console;
use crate::failure::Failure;
use cairn_initrd::index::{self, ModuleIndex};
use rustix::system::finit_module;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// `MODULE_INIT_COMPRESSED_FILE` of `linux/module.h`: the kernel decompresses the file itself.
const COMPRESSED: i32 = 4;

/// The index, and what was done with it so far.
pub(crate) struct Plug {
    index: ModuleIndex,
    directory: PathBuf,
    tried: Vec<bool>,
    /// Devices whose modalias was looked at, `bus/device`.
    seen: HashSet<PathBuf>,
    failures: Vec<String>,
}

impl Plug {
    /// Reads the index. A kernel with everything built in may have none.
    pub(crate) fn new() -> Result<Self, Failure> {
        let index = match fs::read_to_string(index::PATH) {
            Ok(text) => ModuleIndex::parse(&text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => ModuleIndex::default(),
            Err(error) => return Err(Failure::io("read", index::PATH)(error)),
        };
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let tried = vec![false; index.modules().len()];
        let directory = Path::new("/lib/modules").join(release);
        Ok(Self { index, directory, tried, seen: HashSet::new(), failures: Vec::new() })
    }

    /// Loads the modules that every boot needs.
    pub(crate) fn load_always(&mut self, console: &mut Console) {
        let wanted: Vec<_> = self.index.always().collect();
        self.load(wanted, console);
    }

    /// Loads what devices not seen before ask for, and goes on while that makes more devices appear (a PCI
    /// bridge driver finds a disk). Whether any new device was there.
    pub(crate) fn load_for_devices(&mut self, console: &mut Console) -> bool {
        let mut any = false;
        loop {
            let aliases = self.new_aliases();
            if aliases.is_empty() {
                return any;
            }
            any = true;
            let wanted: Vec<_> = aliases.iter().flat_map(|alias| self.index.wanted_by(alias)).collect();
            if !self.load(wanted, console) {
                return any;
            }
        }
    }

    /// Modules that could not be loaded, for the message of a boot that found no disk.
    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }

    /// Aliases of the devices on all buses. Every device that a driver can bind to is on a bus, so this sees
    /// what a walk of /sys/devices would, in a fraction of the time.
    fn new_aliases(&mut self) -> HashSet<String> {
        let mut aliases = HashSet::new();
        let Ok(buses) = fs::read_dir("/sys/bus") else { return aliases };
        for bus in buses.flatten() {
            let Ok(devices) = fs::read_dir(bus.path().join("devices")) else { continue };
            for device in devices.flatten() {
                if self.seen.insert(Path::new(&bus.file_name()).join(device.file_name()))
                    && let Ok(alias) = fs::read_to_string(device.path().join("modalias"))
                {
                    aliases.insert(alias.trim_end().to_owned());
                }
            }
        }
        aliases
    }

    /// Loads modules with all they need. Whether any was new.
    fn load(&mut self, wanted: Vec<usize>, console: &mut Console) -> bool {
        let mut any = false;
        for position in self.index.load_order(wanted) {
            if std::mem::replace(&mut self.tried[position], true) {
                continue;
            }
            any = true;
            let path = self.directory.join(&self.index.modules()[position].path);
            match insert(&path) {
                // A driver without its hardware says ENODEV; that is no fault.
                Ok(()) | Err(rustix::io::Errno::EXIST | rustix::io::Errno::NODEV) => {}
                Err(error) => {
                    let failure = format!("{}: {error}", path.display());
                    console.warn(&format!("cannot load {failure}"));
                    self.failures.push(failure);
                }
            }
        }
        any
    }
}

fn insert(path: &Path) -> rustix::io::Result<()> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, rustix::fs::Mode::empty())?;
    let compressed = path.extension().is_some_and(|extension| extension != "ko");
    finit_module(file, c"", if compressed { COMPRESSED } else { 0 })
}
