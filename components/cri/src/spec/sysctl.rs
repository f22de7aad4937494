//! Which kernel parameters a pod may set: those that belong to a namespace of its own.
//!
//! A parameter of the node, written from inside a pod's namespaces, would change the node. So only names that the
//! kernel keeps per namespace pass, and only if the pod has that namespace to itself.

use std::path::PathBuf;

/// The namespaces a pod does not share with the node.
#[derive(Debug, Clone, Copy)]
pub struct OwnNamespaces {
    /// Network.
    pub network: bool,
    /// IPC.
    pub ipc: bool,
    /// Host and domain name.
    pub uts: bool,
}

/// A kernel parameter that a pod may not set.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SysctlError {
    /// Not a name of the form `net.core.somaxconn`.
    #[error("`{0}` is not the name of a kernel parameter, such as net.core.somaxconn")]
    Malformed(String),
    /// It has one value for the whole node.
    #[error("sysctl {0} is not namespaced: setting it for a pod would change the node")]
    NotNamespaced(String),
    /// It belongs to a namespace that the pod shares with the node.
    #[error("sysctl {name} belongs to the {namespace} namespace, which this pod shares with the node")]
    Shared {
        /// The parameter.
        name: String,
        /// The namespace's kind.
        namespace: &'static str,
    },
}

/// Parameters of the IPC namespace, besides `fs.mqueue.*`.
const IPC: [&str; 10] = [
    "kernel.auto_msgmni",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
    "kernel.shm_next_id",
];

/// Where a parameter is below `/proc`, if a pod with these namespaces may set it. Both spellings of a name are taken:
/// `net.ipv4.conf.eth0.mtu`, and `net/ipv4/conf/eth0.1/mtu` where a part has a dot in it.
pub fn sysctl_path(name: &str, own: OwnNamespaces) -> Result<PathBuf, SysctlError> {
    // The separator that comes first is the one meant, as sysctl(8) has it.
    let slashes = name.find(['.', '/']).is_some_and(|at| name[at..].starts_with('/'));
    let parts: Vec<&str> = name.split(if slashes { '/' } else { '.' }).collect();
    let odd = |part: &&str| part.is_empty() || *part == "." || *part == ".." || part.contains('\0');
    if parts.len() < 2 || parts.iter().any(odd) || !slashes && name.contains('/') {
        return Err(SysctlError::Malformed(name.to_owned()));
    }
    let dotted = parts.join(".");
    let (has, namespace) = if parts[0] == "net" {
        (own.network, "network")
    } else if dotted.starts_with("fs.mqueue.") || IPC.contains(&dotted.as_str()) {
        (own.ipc, "IPC")
    } else if dotted == "kernel.domainname" {
        (own.uts, "UTS")
    } else {
        return Err(SysctlError::NotNamespaced(name.to_owned()));
    };
    if !has {
        return Err(SysctlError::Shared { name: name.to_owned(), namespace });
    }
    Ok(["/proc", "sys"].into_iter().chain(parts).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const ALL: OwnNamespaces = OwnNamespaces { network: true, ipc: true, uts: true };

    #[test]
    fn parameters_of_own_namespaces_pass() {
        for (name, path) in [
            ("net.core.somaxconn", "/proc/sys/net/core/somaxconn"),
            ("net/ipv4/conf/eth0.1/mtu", "/proc/sys/net/ipv4/conf/eth0.1/mtu"),
            ("kernel.shm_rmid_forced", "/proc/sys/kernel/shm_rmid_forced"),
            ("fs.mqueue.msg_max", "/proc/sys/fs/mqueue/msg_max"),
            ("kernel.domainname", "/proc/sys/kernel/domainname"),
        ] {
            assert_eq!(sysctl_path(name, ALL).unwrap(), Path::new(path));
        }
    }

    #[test]
    fn the_node_is_not_changed() {
        for name in ["kernel.panic", "vm.swappiness", "kernel.core_pattern", "fs.file-max", "kernel.hostname"]
        {
            assert_eq!(sysctl_path(name, ALL), Err(SysctlError::NotNamespaced(name.into())), "{name}");
        }
        for name in ["net/../kernel/panic", "net..x", "net", "", "net.ipv4/../../kernel/panic", "net/./x"] {
            assert_eq!(sysctl_path(name, ALL), Err(SysctlError::Malformed(name.into())), "{name}");
        }
    }

    #[test]
    fn a_shared_namespace_is_the_nodes() {
        let none = OwnNamespaces { network: false, ipc: false, uts: false };
        for name in ["net.core.somaxconn", "kernel.sem", "fs.mqueue.msg_max", "kernel.domainname"] {
            assert!(matches!(sysctl_path(name, none), Err(SysctlError::Shared { .. })), "{name}");
        }
    }
}
