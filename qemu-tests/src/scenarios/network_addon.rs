//! A cluster's own network: an add-on installs itself on the node, as Cilium, Calico or flannel do, and leaves again.

use crate::{
    guest::{host::Host, pod::Pod},
    lab::{ADDON_PLUGIN, TestImage},
    scenario::{Context, Needs, Scenario, Stop, check, check_equal},
};
use cairn_contract::paths;
use serde_json::json;
use std::net::IpAddr;

pub(super) static SCENARIO: Scenario = Scenario {
    id: "network-addon",
    title: "a network add-on finds what it needs, installs a plugin and a network, and its removal gives the image's back",
    requirements: &["ra2.ntw.002", "ra2.ntw.010"],
    needs: Needs::Shared,
    budget: 2,
    run: |context| Box::pin(run(context)),
};

/// Its name sorts before the image's own, as those of add-ons do (`05-cilium`, `10-calico`).
const CONFLIST: &str = "05-addon.conflist";
const PLUGIN: &str = "addon";
/// The add-on's pods have these, and the image's own have not.
const SUBNET: &str = "10.246.0.0/24";
/// Mounts that add-ons rely on, with their types: programs and maps of eBPF, control groups of version 2.
const MOUNTS: [(&str, &str); 2] = [("/sys/fs/bpf", "bpf"), ("/sys/fs/cgroup", "cgroup2")];

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    let guest = context.guest()?;
    let lab = context.lab();
    let probe = &lab.probe;
    let program = probe.program();

    context.step("the mounts that add-ons rely on are there, and shared");
    let host = Host::look(&guest, probe).await?;
    let mounts = host.read("/proc/1/mountinfo").await?;
    for (place, kind) in MOUNTS {
        check(mounted(&mounts, place, kind), || format!("{place} is no {kind}:\n{mounts}"))?;
    }
    check(mounts.lines().any(|line| line.contains(" / / ") && line.contains(" shared:")), || {
        format!("mounts below / are not shared with pods:\n{mounts}")
    })?;
    let release = host.read("/proc/sys/kernel/osrelease").await?;
    host.read(&format!("/lib/modules/{}/modules.dep", release.trim())).await?;

    context.step("the add-on's pod installs a plugin and a network");
    let image = guest.pull(&lab.pullable(TestImage::Addon), None).await?;
    let addon = guest.pod("addon").on_host().run().await?;
    let container = addon.container("main", &image).args(["pause"]).privileged();
    let container = container
        .mount(paths::CNI_BIN, "/bin-dir")
        .mount(paths::CNI_CONF, "/net-dir")
        .mount("/run", "/run-dir");
    let container = container.start().await?;
    let say = async |words: &[&str]| container.exec(&[&[program.as_str()], words].concat()).await?.success();
    say(&["install", ADDON_PLUGIN, &format!("/bin-dir/{PLUGIN}")]).await?;
    let network = json!({ "cniVersion": "1.0.0", "name": "addon", "plugins": [
        { "type": PLUGIN, "ipam": { "type": "host-local", "ranges": [[{ "subnet": SUBNET }]], "routes": [{ "dst": "0.0.0.0/0" }] } }
    ] });
    say(&["write", &format!("/net-dir/{CONFLIST}"), &network.to_string()]).await?;
    // iptables' lock is a file that every program of the node takes.
    say(&["write", "/run-dir/xtables.lock", ""]).await?;

    context.step("new pods are on it");
    guest.runtime_ready().await?;
    let on_addon = guest.pod("on-addon").run().await?;
    check(of_addon(&on_addon).await?, || "the pod is not on the add-on's network".to_owned())?;
    let inside = on_addon.container("main", &probe.reference).args(["pause"]).start().await?;
    inside.until_ok(&[program.as_str(), "ping", "10.246.0.1"]).await?;

    context.step("the add-on is removed, after its pods");
    on_addon.remove().await?;
    say(&["rm", &format!("/net-dir/{CONFLIST}")]).await?;
    say(&["rm", &format!("/bin-dir/{PLUGIN}")]).await?;
    guest.runtime_ready().await?;
    let back = guest.pod("back").run().await?;
    check(!of_addon(&back).await?, || "the pod is still on the add-on's network".to_owned())?;
    check_equal("the number of the pod's addresses", &back.addresses().await?.len(), &2)?;

    context.step("remove the pods");
    for pod in [back, addon] {
        pod.remove().await?;
    }
    guest.remove_image(&lab.pullable(TestImage::Addon)).await?;
    host.leave().await
}

async fn of_addon(pod: &Pod) -> Result<bool, Stop> {
    let addresses = pod.addresses().await?;
    Ok(addresses.iter().any(|address| matches!(address, IpAddr::V4(v4) if v4.octets()[..3] == [10, 246, 0])))
}

/// `mountinfo` has a mount of this type there: the fifth word is the place, the first after the dash the type.
fn mounted(mounts: &str, place: &str, kind: &str) -> bool {
    mounts.lines().any(|line| {
        let mut words = line.split(' ');
        let at = words.nth(4);
        at == Some(place) && words.skip_while(|word| *word != "-").nth(1) == Some(kind)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_place_and_type() {
        let line = "34 24 0:29 / /sys/fs/bpf rw,nosuid shared:11 - bpf bpf rw,mode=700";
        assert!(mounted(line, "/sys/fs/bpf", "bpf"));
        assert!(!mounted(line, "/sys/fs/bpf", "tmpfs") && !mounted(line, "/sys/fs", "bpf"));
    }
}
