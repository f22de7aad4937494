//! Which capabilities a container's process has.

use cairn_contract::cri;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

/// What a container has if nothing else is said; the set that container images expect.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Every capability, by number.
const ALL: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A capability that a container cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum CapabilityError {
    /// There is none of this name.
    #[error("`{0}` is not a Linux capability")]
    Unknown(String),
    /// The runtime does not have it itself: the kernel is older, or the node is itself confined.
    #[error("capability `{0}` cannot be given: this node's runtime does not have it")]
    Lacking(String),
}

/// Bounding, permitted and effective sets, and the ambient and inheritable ones, of a container.
pub(super) fn resolve(
    wanted: Option<&cri::Capability>,
    privileged: bool,
) -> Result<(Capabilities, Capabilities), CapabilityError> {
    let none = cri::Capability::default();
    let wanted = wanted.unwrap_or(&none);
    let is_all = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
    let held: Capabilities = available().collect();
    let mut set: Capabilities = if privileged || is_all(&wanted.add_capabilities) {
        held.clone()
    } else if is_all(&wanted.drop_capabilities) {
        Capabilities::new()
    } else {
        DEFAULT.iter().filter_map(|name| parse(name).ok()).collect()
    };
    if !privileged {
        for name in wanted.drop_capabilities.iter().filter(|name| !name.eq_ignore_ascii_case("ALL")) {
            set.remove(&parse(name)?);
        }
        for name in wanted.add_capabilities.iter().filter(|name| !name.eq_ignore_ascii_case("ALL")) {
            set.insert(given(name, &held)?);
        }
    }
    let mut ambient = Capabilities::new();
    for name in &wanted.add_ambient_capabilities {
        let capability = given(name, &held)?;
        set.insert(capability);
        ambient.insert(capability);
    }
    Ok((set, ambient))
}

/// The sets as OCI wants them.
pub(super) fn sets(set: Capabilities, ambient: Capabilities) -> LinuxCapabilities {
    let mut capabilities = LinuxCapabilities::default();
    let inheritable = ambient.clone();
    capabilities
        .set_bounding(Some(set.clone()))
        .set_permitted(Some(set.clone()))
        .set_effective(Some(set))
        .set_inheritable(Some(inheritable))
        .set_ambient(Some(ambient));
    capabilities
}

/// All that the runtime itself has, and so can give: on a node all that the kernel has, in a machine that is
/// itself confined fewer.
fn available() -> impl Iterator<Item = Capability> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held = permitted(&status).unwrap_or(u64::MAX);
    ALL.iter()
        .enumerate()
        .filter(move |(bit, _)| held >> bit & 1 == 1)
        .filter_map(|(_, name)| parse(name).ok())
}

/// `CapPrm` of `/proc/<pid>/status`, a bit for each capability.
fn permitted(status: &str) -> Option<u64> {
    let digits = status.lines().find_map(|line| line.strip_prefix("CapPrm:"))?;
    u64::from_str_radix(digits.trim(), 16).ok()
}

/// A capability asked for by name, which is `held`.
fn given(name: &str, held: &Capabilities) -> Result<Capability, CapabilityError> {
    let capability = parse(name)?;
    held.contains(&capability).then_some(capability).ok_or_else(|| CapabilityError::Lacking(name.to_owned()))
}

fn parse(name: &str) -> Result<Capability, CapabilityError> {
    let upper = name.to_ascii_uppercase();
    let upper = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    serde_json::from_value(serde_json::Value::String(upper))
        .map_err(|_| CapabilityError::Unknown(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(add: &[&str], drop: &[&str]) -> cri::Capability {
        let own = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        cri::Capability {
            add_capabilities: own(add),
            drop_capabilities: own(drop),
            add_ambient_capabilities: Vec::new(),
        }
    }

    #[test]
    fn every_name_is_known() {
        assert_eq!(ALL.iter().chain(&DEFAULT).filter(|name| parse(name).is_err()).count(), 0);
    }

    #[test]
    fn adding_and_dropping_follow_kubernetes() {
        let set = |add: &[&str], drop: &[&str]| resolve(Some(&wanted(add, drop)), false).unwrap().0;
        assert_eq!(set(&[], &[]).len(), DEFAULT.len());
        assert_eq!(set(&["NET_BIND_SERVICE"], &["ALL"]), Capabilities::from([Capability::NetBindService]));
        assert!(!set(&["ALL"], &["cap_sys_admin"]).contains(&Capability::SysAdmin));
        assert!(resolve(Some(&wanted(&["NOPE"], &[])), false).is_err());
    }

    #[test]
    fn what_the_runtime_lacks_is_refused() {
        let held = Capabilities::from([Capability::NetRaw]);
        assert!(matches!(given("NET_RAW", &held), Ok(Capability::NetRaw)));
        assert!(matches!(given("CAP_SYS_BOOT", &held), Err(CapabilityError::Lacking(_))));
        assert!(matches!(given("NOPE", &held), Err(CapabilityError::Unknown(_))));
    }

    #[test]
    fn all_means_all_that_the_runtime_has() {
        let status = "Name:\tx\nCapInh:\t0000000000000000\nCapPrm:\t000001fffeffffff\nCapEff:\t0\n";
        assert_eq!(permitted(status), Some(0x1ff_feff_ffff));
        assert_eq!(permitted("nothing"), None);
        let held = permitted(&std::fs::read_to_string("/proc/self/status").unwrap()).unwrap();
        assert_eq!(resolve(None, true).unwrap().0.len(), (held & 0x1ff_ffff_ffff).count_ones() as usize);
    }
}
