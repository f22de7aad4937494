//! The scenarios, one file each. Their order here is the order of the report.

mod api_roles;
mod apparmor;
mod bandwidth;
mod cni_reference;
mod cold_boot;
mod container_baked;
mod container_pulled;
mod csi_sanity;
mod daemon_killed;
mod device_denied;
mod dual_stack;
mod exec_logs;
mod firmware_boot;
mod flipped_byte;
mod image_layers;
mod immutable;
mod limits;
mod limits_bite;
mod memory_limit;
mod natless_pods;
mod network_addon;
mod network_cut;
mod open_ports;
mod pod_network;
mod pod_range;
mod port_map;
mod pull_faults;
mod reboot_pod;
mod seccomp_denied;
mod second_boot;
mod six_interfaces;
mod stats;
mod user_namespace;
mod volume_encrypted;
mod volume_image;
mod volume_iscsi;
mod volume_killed;
mod volume_local;
mod volume_nfs;
mod volume_pool;
mod volume_reboot;
mod volume_snapshot;

use crate::scenario::Scenario;

/// Every scenario.
pub static ALL: &[&Scenario] = &[
    &cold_boot::SCENARIO,
    &dual_stack::SCENARIO,
    &api_roles::SCENARIO,
    &open_ports::SCENARIO,
    &immutable::SCENARIO,
    &container_baked::SCENARIO,
    &container_pulled::SCENARIO,
    &image_layers::SCENARIO,
    &pull_faults::SCENARIO,
    &exec_logs::SCENARIO,
    &pod_network::SCENARIO,
    &port_map::SCENARIO,
    &cni_reference::SCENARIO,
    &six_interfaces::SCENARIO,
    &natless_pods::SCENARIO,
    &bandwidth::SCENARIO,
    &pod_range::SCENARIO,
    &network_addon::SCENARIO,
    &limits::SCENARIO,
    &limits_bite::SCENARIO,
    &memory_limit::SCENARIO,
    &device_denied::SCENARIO,
    &seccomp_denied::SCENARIO,
    &user_namespace::SCENARIO,
    &apparmor::SCENARIO,
    &stats::SCENARIO,
    &daemon_killed::SCENARIO,
    &volume_local::SCENARIO,
    &volume_image::SCENARIO,
    &volume_snapshot::SCENARIO,
    &volume_encrypted::SCENARIO,
    &volume_nfs::SCENARIO,
    &volume_iscsi::SCENARIO,
    &volume_killed::SCENARIO,
    &network_cut::SCENARIO,
    &csi_sanity::SCENARIO,
    &second_boot::SCENARIO,
    &reboot_pod::SCENARIO,
    &volume_reboot::SCENARIO,
    &volume_pool::SCENARIO,
    &firmware_boot::SCENARIO,
    &flipped_byte::SUPERBLOCK,
    &flipped_byte::DATA,
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_are_unique_kebab_case_and_every_scenario_proves_something() {
        let ids: BTreeSet<_> = ALL.iter().map(|scenario| scenario.id).collect();
        assert_eq!(ids.len(), ALL.len());
        for scenario in ALL {
            assert!(scenario.id.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{}", scenario.id);
            assert!(!scenario.requirements.is_empty(), "{}", scenario.id);
            assert!(scenario.budget > 0, "{}", scenario.id);
        }
    }
}
