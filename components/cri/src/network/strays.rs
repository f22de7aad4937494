//! Plugins that a daemon before this one started and did not see the end of.
//!
//! A daemon that is killed leaves its plugins running, and an ADD that finishes after the DEL that was to undo it
//! leaves what it made. Every process of a plugin has the sandbox's id, which is random, in its environment.

use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    time::{Duration, Instant},
};

/// Longest a killed process may take to be gone, and how often it is looked for.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(10);

/// Kills what still runs for a sandbox, and waits until it is gone. Not while this daemon runs plugins for it.
pub(super) fn end(container: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = find(container);
        if found.is_empty() || Instant::now() > deadline {
            return;
        }
        for process in found {
            tracing::warn!(
                pod = container,
                pid = process.as_raw_pid(),
                "killing a plugin of a daemon before this one"
            );
            // It may just have ended by itself.
            let _ = kill_process(process, Signal::KILL);
        }
        std::thread::sleep(PAUSE);
    }
}

fn find(container: &str) -> Vec<Pid> {
    let wanted = format!("CNI_CONTAINERID={container}");
    let process = |entry: fs::DirEntry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        // Empty for a process that is being taken down.
        let environment = fs::read(entry.path().join("environ")).ok()?;
        environment.split(|&byte| byte == 0).any(|variable| variable == wanted.as_bytes()).then_some(pid)
    };
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(process).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn what_runs_for_a_sandbox_is_ended_and_nothing_else() {
        let id = format!("stray-{}", std::process::id());
        let start = |container: &str| {
            Command::new("sleep").arg("1000").env("CNI_CONTAINERID", container).spawn().unwrap()
        };
        let (mut one, mut other) = (start(&id), start(&format!("{id}x")));
        let deadline = Instant::now() + Duration::from_secs(20);
        while find(&id).is_empty() {
            assert!(Instant::now() < deadline, "the process has not got its environment");
        }
        let reaper = std::thread::spawn(move || one.wait().unwrap());
        end(&id);
        assert!(!reaper.join().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
