//! A pod's user namespace: which of the node's users its containers' users are.
//!
//! The kubelet gives each such pod a range of ids that no one else has. Root in the pod is the range's first id on
//! the node: nobody in particular. CRI allows lists of ranges, runtimes and kubelet use one that begins at 0.

use cairn_contract::cri;
use serde::{Deserialize, Serialize};

/// Container ids `0..length` are the node's `host..host + length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The node's id of the container's 0.
    pub host: u32,
    /// How many.
    pub length: u32,
}

/// The ranges of a pod's user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// Users.
    pub uids: IdRange,
    /// Groups.
    pub gids: IdRange,
}

/// A user namespace that cannot be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UsernsError {
    /// Neither the pod's nor the node's.
    #[error("user namespace mode {0} is not possible: it is POD or NODE")]
    Mode(&'static str),
    /// Not one range.
    #[error("a user namespace has one range of {kind}, but {count} are given")]
    Ranges {
        /// `user ids` or `group ids`.
        kind: &'static str,
        /// How many were given.
        count: usize,
    },
    /// Root is not in it.
    #[error("the range of {0} does not begin at the container's 0, and a container needs root mapped")]
    NoRoot(&'static str),
    /// Empty, or beyond the last id.
    #[error("the range of {kind} from {host} with length {length} is empty or has more ids than there are")]
    Extent {
        /// `user ids` or `group ids`.
        kind: &'static str,
        /// First id on the node.
        host: u32,
        /// Length.
        length: u32,
    },
    /// A namespace of the node's, over which the pod's root has no power.
    #[error("a pod with a user namespace cannot share the node's {0} namespace")]
    SharesNode(&'static str),
}

impl IdRange {
    /// The one range of CRI's list.
    pub fn of(mappings: &[cri::IdMapping], kind: &'static str) -> Result<Self, UsernsError> {
        let [mapping] = mappings else {
            return Err(UsernsError::Ranges { kind, count: mappings.len() });
        };
        if mapping.container_id != 0 {
            return Err(UsernsError::NoRoot(kind));
        }
        let (host, length) = (mapping.host_id, mapping.length);
        // The last id of all means "none".
        if length == 0 || host.checked_add(length).is_none() {
            return Err(UsernsError::Extent { kind, host, length });
        }
        Ok(Self { host, length })
    }

    /// The node's id for a container's.
    pub fn to_host(self, id: u32) -> Option<u32> {
        (id < self.length).then(|| self.host + id)
    }

    /// The line for `/proc/<pid>/uid_map` (user_namespaces(7)).
    pub fn line(self) -> String {
        format!("0 {} {}\n", self.host, self.length)
    }
}

impl UserNamespace {
    /// What a pod, or a container in it, asks for; `None` is the node's.
    pub fn of(options: &cri::NamespaceOption) -> Result<Option<Self>, UsernsError> {
        let Some(wanted) = &options.userns_options else { return Ok(None) };
        match wanted.mode() {
            cri::NamespaceMode::Node if wanted.uids.is_empty() && wanted.gids.is_empty() => return Ok(None),
            cri::NamespaceMode::Node => {
                return Err(UsernsError::Ranges {
                    kind: "ids (none, with the node's user namespace)",
                    count: wanted.uids.len() + wanted.gids.len(),
                });
            }
            cri::NamespaceMode::Container => return Err(UsernsError::Mode("CONTAINER")),
            cri::NamespaceMode::Target => return Err(UsernsError::Mode("TARGET")),
            cri::NamespaceMode::Pod => {}
        }
        for (mode, name) in [(options.network(), "network"), (options.pid(), "PID"), (options.ipc(), "IPC")] {
            if mode == cri::NamespaceMode::Node {
                return Err(UsernsError::SharesNode(name));
            }
        }
        Ok(Some(Self {
            uids: IdRange::of(&wanted.uids, "user ids")?,
            gids: IdRange::of(&wanted.gids, "group ids")?,
        }))
    }

    /// The node's user and group that are root in the pod.
    pub fn root(&self) -> (u32, u32) {
        (self.uids.host, self.gids.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(mode: cri::NamespaceMode, ranges: &[(u32, u32, u32)]) -> cri::NamespaceOption {
        let mappings: Vec<_> = ranges
            .iter()
            .map(|&(container_id, host_id, length)| cri::IdMapping { host_id, container_id, length })
            .collect();
        cri::NamespaceOption {
            userns_options: Some(cri::UserNamespace {
                mode: mode.into(),
                uids: mappings.clone(),
                gids: mappings,
            }),
            ..Default::default()
        }
    }

    #[test]
    fn one_range_from_root_up() {
        use cri::NamespaceMode::{Node, Pod};
        let users = UserNamespace::of(&options(Pod, &[(0, 65536, 65536)])).unwrap().unwrap();
        assert_eq!(users.root(), (65536, 65536));
        assert_eq!(users.uids.to_host(65535), Some(131_071));
        assert_eq!(users.uids.to_host(65536), None);
        assert_eq!(users.uids.line(), "0 65536 65536\n");
        assert_eq!(UserNamespace::of(&options(Node, &[])), Ok(None));
        assert_eq!(UserNamespace::of(&cri::NamespaceOption::default()), Ok(None));
    }

    #[test]
    fn what_the_kubelet_would_refuse_is_refused() {
        use cri::NamespaceMode::{Container, Node, Pod, Target};
        let good = [(0, 65536, 65536)];
        for (mode, ranges) in [
            (Pod, &[][..]),
            (Pod, &[(0, 1, 5), (5, 9, 1)]),
            (Pod, &[(1, 65536, 65536)]),
            (Pod, &[(0, 65536, 0)]),
            (Pod, &[(0, u32::MAX - 4, 6)]),
            (Node, &good),
            (Container, &good),
            (Target, &good),
        ] {
            assert!(UserNamespace::of(&options(mode, ranges)).is_err(), "{mode:?} {ranges:?}");
        }
        for change in [
            |options: &mut cri::NamespaceOption| options.set_network(Node),
            |options: &mut cri::NamespaceOption| options.set_pid(Node),
            |options: &mut cri::NamespaceOption| options.set_ipc(Node),
        ] {
            let mut options = options(Pod, &good);
            change(&mut options);
            assert!(matches!(UserNamespace::of(&options), Err(UsernsError::SharesNode(_))));
        }
    }
}
