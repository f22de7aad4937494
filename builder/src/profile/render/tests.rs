use super::*;
use crate::profile::Resolved;
use serde_json::Value;

fn profile(text: &str) -> Profile {
    Resolved::from_text("test", &format!("name = 'test'\n{text}"))
        .unwrap_or_else(|error| panic!("{error}"))
        .profile
}

fn file(profile: &Profile, path: &str) -> Option<String> {
    let files = files(profile).unwrap();
    files.into_iter().find(|file| file.path == path).map(|file| String::from_utf8(file.bytes).unwrap())
}

fn json(profile: &Profile, path: &str) -> Value {
    serde_json::from_str(&file(profile, path).unwrap()).unwrap()
}

#[test]
fn the_runtime_reads_what_is_rendered() {
    let profile = profile(
        "[runtime]\ncgroup_driver = 'cgroupfs'\nmax_parallel_layers = 5\ntracing_endpoint = '127.0.0.1:4317'\ntracing_sampling_rate_per_million = 10\nmetrics_address = '[::1]:10099'\n[runtime.registries.'r.example:5000']\nmirrors = ['http://10.0.2.2:5000']\ninsecure = true",
    );
    let config: cairn_contract::runtime::RuntimeConfig =
        toml::from_str(&file(&profile, "/etc/cairn/cri.toml").unwrap()).unwrap();
    assert_eq!(config.max_parallel_layers, 5);
    assert_eq!(config.tracing_endpoint, "127.0.0.1:4317".parse().ok());
    assert_eq!(u32::from(config.tracing_sampling_rate_per_million), 10);
    assert_eq!(config.metrics_address, "[::1]:10099".parse().ok());
    assert_eq!(config.cgroup_driver, cairn_contract::runtime::CgroupDriver::Cgroupfs);
    let hosts: toml::Table =
        toml::from_str(&file(&profile, "/etc/cairn/certs.d/r.example:5000/hosts.toml").unwrap()).unwrap();
    assert_eq!(hosts["host"]["http://10.0.2.2:5000"]["skip_verify"].as_bool(), Some(true));
    assert_eq!(hosts["server"].as_str(), Some("https://r.example:5000"));
}

#[test]
fn the_kubelet_agrees_with_the_runtime() {
    let profile = profile(
        "[runtime]\ncgroup_driver = 'cgroupfs'\nseccomp_default = 'unconfined'\n[kubelet]\ntaints = ['a=b:NoSchedule']\ncpu_manager = 'static'\ntopology_manager = 'single-numa-node'\n[kubelet.config]\npodPidsLimit = 99\nauthentication.webhook.cacheTTL = '1m'",
    );
    let config = json(&profile, "/etc/kubernetes/kubelet.yaml");
    assert_eq!(config["cgroupDriver"], "cgroupfs");
    assert_eq!(config["containerRuntimeEndpoint"], "unix:///run/cairn/cri.sock");
    assert_eq!(config["seccompDefault"], false);
    assert_eq!(config["registerWithTaints"][0]["effect"], "NoSchedule");
    assert_eq!(config["topologyManagerPolicy"], "single-numa-node");
    assert_eq!(config["podPidsLimit"], 99, "kubelet.config wins");
    assert_eq!(config["authentication"]["webhook"]["cacheTTL"], "1m");
    assert_eq!(config["authentication"]["webhook"]["enabled"], true, "objects are merged");
}

#[test]
fn hardening_brings_the_parameters_the_kubelet_insists_on() {
    let path = "/usr/lib/sysctl.d/60-cairn.conf";
    let hard = file(&profile("[kernel.sysctl]\n'net.ipv4.ip_forward' = true"), path).unwrap();
    assert!(
        hard.contains("vm.overcommit_memory = 1\n") && hard.contains("net.ipv4.ip_forward = 1\n"),
        "{hard}"
    );
    assert_eq!(file(&profile("[kubelet]\nhardening = false"), path), None);
}

#[test]
fn a_dual_stack_network_has_a_range_set_a_family() {
    let profile = profile(
        "[network]\npod_cidrs = ['10.88.0.0/16', 'fd00:88::/64']\nmtu = 1400\n[network.networks.storage]\ntype = 'macvlan'\nconfig = { master = 'eth1' }\nchain = [{ type = 'tuning', promisc = true }]",
    );
    let list = json(&profile, "/etc/cni/net.d/10-cairn.conflist");
    let bridge = &list["plugins"][0];
    assert_eq!((&bridge["type"], &bridge["mtu"]), (&"bridge".into(), &1400.into()));
    assert_eq!(bridge["ipam"]["ranges"][1][0]["subnet"], "fd00:88::/64");
    assert_eq!(bridge["ipam"]["routes"][1]["dst"], "::/0");
    assert_eq!(list["plugins"][1]["type"], "portmap");
    assert_eq!(list["plugins"][2]["type"], "bandwidth");
    assert_eq!(bridge["capabilities"]["ipRanges"], true);
    let extra = json(&profile, "/etc/cni/networks.d/storage.conflist");
    assert_eq!(extra["plugins"][1]["promisc"], true);
    assert_eq!(
        (&extra["plugins"][0]["type"], &extra["plugins"][0]["master"]),
        (&"macvlan".into(), &"eth1".into())
    );
}

#[test]
fn no_range_no_default_network() {
    assert_eq!(file(&profile(""), "/etc/cni/net.d/10-cairn.conflist"), None);
}

#[test]
fn the_command_line_has_what_other_keys_ask_for() {
    let profile = profile(
        "[kernel]\ncmdline = ['quiet']\nhugepages = [{ size = '2 MiB', count = 8 }, { size = '1 GiB', count = 1 }]\nisolated_cpus = '2-3'\n[security]\nconsole = 'none'",
    );
    let line = kernel_command_line(&profile).join(" ");
    assert_eq!(
        line,
        "quiet hugepagesz=2M hugepages=8 hugepagesz=1024M hugepages=1 isolcpus=managed_irq,domain,2-3 nohz_full=2-3 rcu_nocbs=2-3 console=null quiet systemd.show_status=no"
    );
}

#[test]
fn users_become_sysusers_lines() {
    let profile = profile(
        "[users.iscsi]\nuid = 300\ndescription = 'iSCSI'\n[groups.iscsi]\ngid = 300\n[groups.disk]\ngid = 6\nmembers = ['iscsi']",
    );
    let text = file(&profile, "/usr/lib/sysusers.d/00-cairn-profile.conf").unwrap();
    assert!(text.contains("u iscsi 300:iscsi \"iSCSI\" /nonexistent /usr/sbin/nologin\n"), "{text}");
    assert!(text.contains("g disk 6 -\n") && text.contains("m iscsi disk\n"), "{text}");
}

#[test]
fn modules_are_loaded_at_boot() {
    let profile = profile("[kernel]\nmodules = ['overlay', 'br_netfilter']");
    assert_eq!(file(&profile, "/usr/lib/modules-load.d/cairn.conf").unwrap(), "overlay\nbr_netfilter\n");
}

#[test]
fn units_are_told_what_differs() {
    let kubelet = "/usr/lib/systemd/system/kubelet.service.d/50-profile.conf";
    let node = "/usr/lib/systemd/system/cairn-node.service.d/50-profile.conf";
    let plain = profile("");
    assert_eq!((file(&plain, kubelet), file(&plain, node)), (None, None));
    let state = file(&plain, "/usr/lib/repart.d/50-state.conf.d/50-profile.conf").unwrap();
    assert_eq!(state, "[Partition]\nSizeMinBytes=536870912\n");
    let told = profile(
        "[kubelet.labels]\n'anuket.io/profile' = 'basic'\nzone = 'a'\n[security]\napi = 'off'\nconsole = 'none'",
    );
    assert_eq!(
        file(&told, kubelet).unwrap(),
        "[Service]\nEnvironment=PROFILE_ARGS=--node-labels=anuket.io/profile=basic,zone=a\n"
    );
    assert_eq!(
        file(&told, node).unwrap(),
        "[Service]\nEnvironment=CAIRN_API=off\nEnvironment=CAIRN_CONSOLE=none\n"
    );
}

#[test]
fn the_storage_driver_serves_what_is_on() {
    use cairn_contract::storage::{BackendKind, StorageConfig};
    let path = "/etc/cairn/csi.toml";
    assert_eq!(file(&profile(""), path), None);
    let text = file(&profile("[storage]\nlocal = true\niscsi = true"), path).unwrap();
    let config: StorageConfig = toml::from_str(&text).unwrap();
    assert_eq!(config.backends, [BackendKind::Local, BackendKind::Iscsi]);
    assert_eq!(config, StorageConfig { backends: config.backends.clone(), ..StorageConfig::default() });
}

#[test]
fn the_storage_driver_is_told_its_pools_and_its_address() {
    let text = "[storage]\nlocal = true\nmetrics_address = '127.0.0.1:10098'\n[[storage.pools]]\nname = 'fast'\n\
                device = '/dev/disk/by-id/virtio-fast'\nlimit_bytes = 1073741824\n[[storage.pools]]\nname = 'state'";
    let text = file(&profile(text), "/etc/cairn/csi.toml").unwrap();
    let config: cairn_contract::storage::StorageConfig = toml::from_str(&text).unwrap();
    assert_eq!(config.metrics_address, "127.0.0.1:10098".parse().ok());
    assert_eq!(config.pools[0].name, "fast");
    assert_eq!(config.pools[0].limit_bytes, Some(1 << 30));
    assert_eq!(config.pools[1], cairn_contract::storage::Pool::in_state());
}
