//! What must hold of recorded attachments, whoever wrote them; see [`crate::runtime::fuzzing`].

use super::{Attachment, network_status};

/// What the daemon takes from them: configurations for plugins, addresses, the status annotation, routes. The result tells what
/// was in them.
pub(crate) fn attachments(all: &[Attachment]) -> u64 {
    let mut outcome = 0;
    assert_eq!(network_status(all).as_array().map(Vec::len), Some(all.len()));
    for attachment in all {
        for plugin in &attachment.plugins {
            let config = attachment.plugin_config(plugin, true);
            assert!(!config.contains_key("capabilities") && config["name"] == attachment.name.as_str());
            outcome |= u64::from(config.contains_key("runtimeConfig"))
                | u64::from(config.contains_key("prevResult")) << 1;
        }
        let result = attachment.parsed();
        outcome |= u64::from(attachment.granted().is_ok()) << 2
            | u64::from(attachment.own_interface(&result).is_some()) << 3
            | u64::from(attachment.own_ips(&result).count() < result.ips.len()) << 4;
        let Some(selection) = &attachment.selection else { continue };
        let mut moved = attachment.clone();
        moved.note_default_routes(&selection.default_route, Some(&selection.default_route));
        assert_eq!(moved.addresses(), attachment.addresses(), "a route is no address");
        outcome |= u64::from(moved.result != attachment.result) << 5;
    }
    outcome
}
