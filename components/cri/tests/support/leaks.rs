//! What exists on the machine on behalf of a node's pods, and its removal after a test that failed.

use super::node::Node;
use cairn_cri::cgroup::Cgroup;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

/// A process of a node's: it has the node's directory in its arguments, or is in one of the node's cgroups.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    /// Its arguments; none when it has ended and nobody has asked how.
    pub(crate) line: String,
}

pub(super) fn processes(base: &Path) -> Vec<Process> {
    let base = base.to_str().unwrap();
    let ours = |entry: fs::DirEntry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let cgroups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        (line.contains(base) || cgroups.contains(base)).then_some(Process { pid, line })
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(ours).collect()
}

impl Node {
    /// Mounts, cgroups, processes, addresses, links and files.
    pub(crate) fn leaks(&self) -> Vec<String> {
        let base = self.base().to_str().unwrap();
        let mut found: Vec<String> = self.processes().iter().map(|process| format!("{process:?}")).collect();
        // Where the mounts are, and what of theirs is mounted elsewhere. A test may give the state a disk of its own.
        let state = self.config.state.to_str();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let ours = |line: &&str| line.contains(base) && line.split(' ').nth(4) != state;
        found.extend(mounts.lines().filter(ours).map(|line| format!("mount {line}")));
        let below = format!("{}/", self.cgroup());
        let cgroups = walkdir::WalkDir::new("/sys/fs/cgroup").into_iter().flatten();
        found.extend(
            cgroups
                .filter(|entry| entry.file_type().is_dir() && entry.path().to_string_lossy().contains(&below))
                .map(|entry| format!("cgroup {}", entry.path().display())),
        );
        found.extend(self.taken().iter().map(|address| format!("address {address}")));
        let ports = Path::new("/sys/class/net").join(self.bridge()).join("brif");
        found.extend(entries(&ports).map(|port| format!("link {port}")));
        for directory in ["state/pods", "state/containers", "r/pods", "r/containers", "state/images/ingest"] {
            found.extend(entries(&self.path(directory)).map(|name| format!("{directory}/{name}")));
        }
        found
    }

    /// Only after a failed test is there more to do here than to remove the empty parent cgroup and the bridge.
    pub(super) fn clean(&self) {
        for process in self.processes() {
            let _ = kill_process(process.pid, Signal::KILL);
        }
        let _ = Cgroup::new(self.cgroup()).destroy();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for place in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
            if Path::new(place).starts_with(self.base()) {
                cairn_cri::idmap::detach(Path::new(place));
            }
        }
        if Path::new("/sys/class/net").join(self.bridge()).exists() {
            let _ = Command::new("ip").args(["link", "del", &self.bridge()]).stderr(Stdio::null()).status();
        }
    }
}

/// Names in a directory; none if there is no such.
fn entries(directory: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}
