//! A pod that could not be connected.

use super::{config::ConfigError, invoke::PluginError};
use std::path::PathBuf;

/// Why a network cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// There is no network to connect pods to.
    #[error("no CNI network is configured in {}: put a conflist there, or let a network add-on do so", .0.display())]
    NotConfigured(PathBuf),
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A plugin failed.
    #[error("network `{network}` ({interface}): {source}")]
    Plugin {
        /// Name of the network.
        network: String,
        /// Interface in the pod; empty when it is about the whole network.
        interface: String,
        /// What failed.
        source: PluginError,
    },
    /// The plugins gave the pod no address.
    #[error("network `{0}` gave the pod no address: the default network needs a plugin with `ipam`")]
    NoAddress(String),
    /// An annotation of the pod cannot be followed: its author's mistake.
    #[error("annotation `{annotation}`: {reason}")]
    Annotation {
        /// Its key.
        annotation: &'static str,
        /// What is wrong, and the fix.
        reason: String,
    },
    /// A network that an annotation asked for did not connect the pod.
    #[error("annotation `{annotation}`: {source}")]
    Asked {
        /// Its key.
        annotation: &'static str,
        /// What happened.
        source: Box<NetworkError>,
    },
    /// What the pod is to be connected to cannot be recorded.
    #[error("{0}")]
    Record(String),
    /// The kernel refused a default route that an annotation asked for.
    #[error("network `{network}` ({interface}): default-route: {reason}")]
    DefaultRoute {
        /// Name of the network.
        network: String,
        /// Interface in the pod.
        interface: String,
        /// Why.
        reason: String,
    },
}

impl NetworkError {
    /// Whoever wrote the pod can mend it, and nobody else.
    pub fn is_mistake(&self) -> bool {
        matches!(self, Self::Annotation { .. })
    }
}
