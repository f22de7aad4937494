//! Drop-ins for units and repart.d definitions that `rootfs/` brings: where a profile changes what they say.

use super::File;
use crate::profile::model::{Api, Console, Profile};

/// One drop-in for each unit that the profile has something to say to.
pub(super) fn files(profile: &Profile) -> Vec<File> {
    let mut files = vec![state(profile)];
    files.extend(kubelet(profile));
    files.extend(node(profile));
    files
}

/// The state partition's smallest size (repart.d(5)).
fn state(profile: &Profile) -> File {
    let text = format!("[Partition]\nSizeMinBytes={}\n", profile.disk.state_minimum.get());
    File::text("/usr/lib/repart.d/50-state.conf.d/50-profile.conf", text)
}

/// Labels are the one thing about a node that the kubelet takes on its command line only. Its unit has
/// `$PROFILE_ARGS` there; repeated `--node-labels`, the machine config's among them, add up.
fn kubelet(profile: &Profile) -> Option<File> {
    let labels: Vec<String> =
        profile.kubelet.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    (!labels.is_empty()).then(|| {
        let text = format!("[Service]\nEnvironment=PROFILE_ARGS=--node-labels={}\n", labels.join(","));
        File::text("/usr/lib/systemd/system/kubelet.service.d/50-profile.conf", text)
    })
}

/// `cairn-node` reads these two; both unset mean the default.
fn node(profile: &Profile) -> Option<File> {
    let mut lines = String::new();
    if profile.security.api == Api::Off {
        lines.push_str("Environment=CAIRN_API=off\n");
    }
    if profile.security.console == Console::None {
        lines.push_str("Environment=CAIRN_CONSOLE=none\n");
    }
    (!lines.is_empty()).then(|| {
        File::text(
            "/usr/lib/systemd/system/cairn-node.service.d/50-profile.conf",
            format!("[Service]\n{lines}"),
        )
    })
}
