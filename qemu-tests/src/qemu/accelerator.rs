//! KVM or TCG, found out by trying.
//!
//! `/dev/kvm` proves nothing: the node may exist, open and even create a virtual machine where an ordinary
//! kernel cannot run (a software hypervisor beneath us, a container without the right ioctls). So a machine is
//! really started and asked whether it runs; and the CPU must say that it virtualises.

use super::{
    arguments::{Boot, Console, MachineSpec},
    machine::Machine,
    program::Program,
};
use crate::error::{Error, UserError};
use std::{path::Path, time::Duration};

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The host's CPU.
    Kvm,
    /// QEMU's translator, with a host thread for each virtual CPU.
    Tcg,
}

/// What the user wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Choice {
    /// KVM if it works.
    #[default]
    Auto,
    /// KVM or an error.
    Kvm,
    /// TCG.
    Tcg,
}

impl std::str::FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Kvm),
            "tcg" => Ok(Self::Tcg),
            other => Err(format!("`{other}` is not an accelerator; use auto, kvm or tcg")),
        }
    }
}

impl Accelerator {
    /// Value of `-accel`.
    pub(super) const fn argument(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            // With a cache of translated code as large as QEMU's own choice, a restart takes 2.5 times as long as the
            // first boot: every write to memory that held code looks for translations to throw away. A cache this
            // small is emptied as a whole instead, and costs nothing otherwise (docs/testing.md).
            Self::Tcg => "tcg,thread=multi,tb-size=256",
        }
    }

    /// Value of `-cpu`. TCG's `max` boots faster than any named model (LAB: 16.6 s against 21.0 s).
    pub(super) const fn cpu(self) -> &'static str {
        match self {
            Self::Kvm => "host",
            Self::Tcg => "max",
        }
    }
}

/// Settles on an accelerator; `scratch` is a directory for the trial's socket and log.
pub async fn settle(choice: Choice, program: &Program, scratch: &Path) -> Result<Accelerator, Error> {
    match choice {
        Choice::Tcg => Ok(Accelerator::Tcg),
        Choice::Auto => Ok(try_kvm(program, scratch).await.map_or(Accelerator::Tcg, |()| Accelerator::Kvm)),
        Choice::Kvm => {
            let usable = try_kvm(program, scratch).await;
            usable.map(|()| Accelerator::Kvm).map_err(|reason| UserError::NoKvm { reason }.into())
        }
    }
}

/// Ok, or why not.
async fn try_kvm(program: &Program, scratch: &Path) -> Result<(), String> {
    let device = Path::new("/dev/kvm");
    std::fs::File::options()
        .read(true)
        .write(true)
        .open(device)
        .map_err(|error| format!("{}: {error}", device.display()))?;
    let flags =
        std::fs::read_to_string("/proc/cpuinfo").map_err(|error| format!("/proc/cpuinfo: {error}"))?;
    if !virtualises(&flags) {
        return Err("the CPU shows neither vmx nor svm, so /dev/kvm is a software hypervisor".to_owned());
    }
    let directory = scratch.join("kvm-probe");
    // No disk, no kernel: the machine's own firmware runs and finds nothing, which is enough to see an abort.
    let spec = MachineSpec {
        name: "cairn-kvm-probe".into(),
        accelerator: Accelerator::Kvm,
        cpus: 2,
        memory_mib: 64,
        boot: Boot::None,
        disks: vec![],
        forwards: vec![],
        wire: None,
        credentials: vec![],
        console: Console::Captured,
        monitor: directory.join("qmp"),
    };
    let mut machine =
        Machine::start(program, spec, &directory, 0).await.map_err(|error| error.to_string())?;
    tokio::time::sleep(Duration::from_millis(700)).await;
    let status = machine.monitor().status().await.map_err(|error| error.to_string())?;
    machine.kill().await;
    if status == "running" { Ok(()) } else { Err(format!("a trial machine went to state `{status}`")) }
}

fn virtualises(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .flat_map(str::split_whitespace)
        .any(|flag| flag == "vmx" || flag == "svm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_whole_words_of_the_flags_line() {
        assert!(virtualises("model name\t: x\nflags\t\t: fpu vmx sse\n"));
        assert!(!virtualises("vmx flags\t: ept\nflags\t\t: fpu svm_lock\n"));
    }
}
