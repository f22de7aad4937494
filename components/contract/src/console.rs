//! Lines that the node prints on its console and that people and the harness look for.
//!
//! Each is printed once per boot, at the start of a line. They exist for an operator at a serial console;
//! the harness reads no more than the operator can.

/// By the initrd, right before it hands over to systemd.
pub const SWITCH_ROOT: &str = "cairn-initrd: switching to the verified root";
/// By the initrd, when the boot cannot go on; the cause follows on the same line.
pub const INITRD_FAILED: &str = "cairn-initrd: FATAL:";
/// By `cairn-node`, when the CRI runtime reports itself and its network ready.
pub const RUNTIME_READY: &str = "cairn: runtime ready";
/// By `cairn-node`, when every required check is good.
pub const NODE_READY: &str = "cairn: node ready";
