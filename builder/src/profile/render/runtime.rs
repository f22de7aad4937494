//! Configuration of `cairn-cri`, and of the registries it pulls from.

use super::File;
use crate::profile::model::{Profile, Registry};
use cairn_contract::paths;
use cairn_contract::runtime::RuntimeConfig;
use std::fmt::Write as _;

/// The file at [`paths::CRI_CONFIG`].
pub(super) fn configuration(profile: &Profile) -> Result<File, toml::ser::Error> {
    let runtime = &profile.runtime;
    let config = RuntimeConfig {
        cgroup_driver: runtime.cgroup_driver,
        max_parallel_layers: runtime.max_parallel_layers.into(),
        pull_progress_timeout_seconds: runtime.pull_progress_timeout_seconds.into(),
        metrics_address: runtime.metrics_address,
        tracing_endpoint: runtime.tracing_endpoint,
        tracing_sampling_rate_per_million: runtime.tracing_sampling_rate_per_million,
        ..RuntimeConfig::default()
    };
    Ok(File::text(paths::CRI_CONFIG, toml::to_string(&config)?))
}

/// `hosts.toml` for each registry that the profile speaks of, in containerd's form.
pub(super) fn registries(profile: &Profile) -> Vec<File> {
    let registries = profile.runtime.registries.iter();
    registries
        .map(|(host, registry)| {
            File::text(format!("{}/{host}/hosts.toml", paths::CERTS_D), hosts(host.as_str(), registry))
        })
        .collect()
}

fn hosts(host: &str, registry: &Registry) -> String {
    let mut text = format!("server = \"https://{host}\"\n");
    if registry.insecure {
        text.push_str("skip_verify = true\n");
    }
    for mirror in &registry.mirrors {
        let _ = write!(text, "\n[host.\"{mirror}\"]\ncapabilities = [\"pull\", \"resolve\"]\n");
        if registry.insecure {
            text.push_str("skip_verify = true\n");
        }
    }
    text
}
