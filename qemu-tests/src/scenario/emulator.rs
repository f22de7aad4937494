//! Telling the emulator's faults from the image's.
//!
//! Linux patches its own code while it runs: it puts a breakpoint (`int3`) over an instruction, waits until all
//! processors have seen it, and puts the new instruction there. QEMU's TCG with a thread per processor sometimes
//! still runs the translation with the breakpoint when the kernel no longer expects it: about one boot in forty
//! here, with QEMU 7.2. The kernel then dies of `Oops: int3`, which no hardware and no KVM shows, and which says
//! nothing about the image. Such a machine is thrown away and the scenario begins anew; the report counts it.

use crate::{lab::Lab, qemu::accelerator::Accelerator};
use std::path::PathBuf;

/// Machines a scenario may lose in this way. Three in a row are no accident.
pub(super) const PATIENCE: u32 = 2;

/// Whether one of the machines with these directories died of a breakpoint that only TCG leaves behind.
pub(super) fn broke(lab: &Lab, directories: &[PathBuf]) -> bool {
    let log = |directory: &PathBuf| std::fs::read(directory.join("serial.log")).unwrap_or_default();
    lab.accelerator == Accelerator::Tcg
        && directories.iter().any(|directory| is_stale_breakpoint(&String::from_utf8_lossy(&log(directory))))
}

/// The kernel's words for a breakpoint in its own code (`arch/x86/kernel/traps.c`), and its end.
fn is_stale_breakpoint(serial: &str) -> bool {
    serial.contains("Oops: int3:") && serial.contains("Kernel panic")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_breakpoint_in_the_kernel_is_the_emulators_fault() {
        let oops = "[    3.125875] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI\n";
        let panic = "[    3.128620] Kernel panic - not syncing: Fatal exception in interrupt\n";
        assert!(is_stale_breakpoint(&format!("{oops}RIP: 0010:sched_clock_cpu+0x9\n{panic}")));
        assert!(!is_stale_breakpoint(panic));
        assert!(!is_stale_breakpoint("Oops: general protection fault\nKernel panic - not syncing"));
        assert!(!is_stale_breakpoint(oops));
    }
}
