//! File capabilities, which maintainer scripts set with `setcap`: the profile names them as text
//! (`cap_net_raw=ep`), the image carries them as the `security.capability` attribute
//! (`struct vfs_cap_data`, revision 2, include/uapi/linux/capability.h).

use super::Node;
use std::collections::BTreeMap;

const XATTR: &[u8] = b"security.capability";
const REVISION_2: u32 = 0x0200_0000;
const EFFECTIVE: u32 = 1;

/// Capability names by number, as the kernel header has them.
const NAMES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

/// A capability text or path that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CapabilityError {
    /// The text is not `cap_name[,cap_name…]=flags`.
    #[error("`{0}` is not of the form cap_net_raw,cap_net_admin=ep (flags: e, i, p)")]
    Syntax(String),
    /// No such capability.
    #[error("`{0}` is not a Linux capability")]
    Unknown(String),
    /// The path is not a regular file of the image.
    #[error("capabilities are declared for `{0}`, which is not a file in the image")]
    NoFile(String),
}

/// The attribute's 20 bytes for a text such as `cap_net_raw,cap_net_admin=ep`.
///
/// # Errors
/// A malformed text or an unknown name.
pub fn encode(text: &str) -> Result<Vec<u8>, CapabilityError> {
    let syntax = || CapabilityError::Syntax(text.to_owned());
    let (names, flags) = text.split_once(['=', '+']).ok_or_else(syntax)?;
    if flags.is_empty() || flags.chars().any(|c| !"eip".contains(c)) {
        return Err(syntax());
    }
    let mut bits = 0_u64;
    for name in names.split(',') {
        let bare = name.strip_prefix("cap_").ok_or_else(syntax)?;
        let number =
            NAMES.iter().position(|n| *n == bare).ok_or_else(|| CapabilityError::Unknown(name.into()))?;
        bits |= 1 << number;
    }
    let set = |flag| if flags.contains(flag) { bits } else { 0 };
    let magic = REVISION_2 | if flags.contains('e') { EFFECTIVE } else { 0 };
    let (permitted, inheritable) = (set('p'), set('i'));
    let mut bytes = magic.to_le_bytes().to_vec();
    for shift in [0, 32] {
        for set in [permitted, inheritable] {
            bytes.extend_from_slice(&((set >> shift) as u32).to_le_bytes());
        }
    }
    Ok(bytes)
}

/// Gives each file of `declared` (path → text) its capabilities.
///
/// # Errors
/// A text that is wrong, or a path that is not a file.
pub fn apply(root: &mut Node, declared: &BTreeMap<String, String>) -> Result<(), CapabilityError> {
    for (path, text) in declared {
        let value = encode(text)?;
        let node = root.get_mut(path).filter(|n| n.content().is_some());
        let node = node.ok_or_else(|| CapabilityError::NoFile(path.clone()))?;
        node.meta.xattrs.insert(XATTR.to_vec(), value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attribute_is_what_setcap_writes() {
        // setcap cap_net_raw+ep file; getfattr -e hex -n security.capability file
        assert_eq!(
            hex::encode(encode("cap_net_raw=ep").unwrap()),
            "0100000200200000000000000000000000000000"
        );
        assert_eq!(
            hex::encode(encode("cap_bpf,cap_chown=ip").unwrap()),
            "0000000201000000010000008000000080000000"
        );
    }

    #[test]
    fn wrong_texts_are_told_apart() {
        assert!(matches!(encode("net_raw=ep"), Err(CapabilityError::Syntax(_))));
        assert!(matches!(encode("cap_net_raw"), Err(CapabilityError::Syntax(_))));
        assert!(matches!(encode("cap_fly=ep"), Err(CapabilityError::Unknown(_))));
    }
}
