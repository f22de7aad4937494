//! What processes weigh, by `/proc/<pid>/smaps_rollup`.

use crate::Outcome;
use std::{fs, ops::AddAssign, path::Path};

/// Memory in MiB.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    /// Pages in memory, shared ones included (RSS).
    pub(crate) resident: f64,
    /// The same, with a page that `n` processes share as a part in `n` (PSS).
    pub(crate) proportional: f64,
}

/// Several processes.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    pub(crate) count: usize,
    pub(crate) sum: Memory,
}

impl AddAssign for Memory {
    fn add_assign(&mut self, other: Self) {
        self.resident += other.resident;
        self.proportional += other.proportional;
    }
}

pub(crate) fn of_process(pid: i32) -> Outcome<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let mib = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    match (mib("Rss:"), mib("Pss:")) {
        (Some(resident), Some(proportional)) => {
            Ok(Memory { resident: resident / 1024.0, proportional: proportional / 1024.0 })
        }
        _ => Err(format!("/proc/{pid}/smaps_rollup has no Rss and Pss").into()),
    }
}

/// The shims of a daemon, and the processes that hold its pods: all that run a program from the folder of its shims, or a
/// pause image's.
pub(crate) fn of_helpers(daemon: i32) -> Outcome<Processes> {
    let ours = fs::read_link(format!("/proc/{daemon}/exe"))?.ends_with("cairn-cri");
    let names: &[&str] = if ours { &["cairn-shim"] } else { &["containerd-shim-runc-v2", "conmon", "pause"] };
    let mut found = Processes::default();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let program = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let program = program.split(|byte| *byte == 0).next().unwrap_or_default();
        let program = String::from_utf8_lossy(program).into_owned();
        if !names.iter().any(|name| Path::new(&program).file_name() == Some(name.as_ref())) {
            continue;
        }
        found.sum += of_process(pid)?;
        found.count += 1;
    }
    Ok(found)
}
