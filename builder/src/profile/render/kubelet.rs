//! KubeletConfiguration, `kubelet.config.k8s.io/v1beta1`.
//!
//! Written as JSON, which every YAML reader reads. It is the image's part: `cairn-node` adds what only the
//! machine config knows (cluster DNS, CA, labels of this one node) in a drop-in folder and on the command line.

use super::File;
use crate::profile::model::{CpuManager, Profile, SeccompDefault, TopologyManager};
use cairn_contract::paths;
use cairn_contract::runtime::CgroupDriver;
use serde_json::{Map, Value, json};

/// Kernel parameters that the kubelet wants exactly so when it protects the kernel's defaults
/// (`protectKernelDefaults`).
pub(crate) const KUBELET_SYSCTLS: [(&str, &str); 6] = [
    ("kernel.keys.root_maxbytes", "25000000"),
    ("kernel.keys.root_maxkeys", "1000000"),
    ("kernel.panic", "10"),
    ("kernel.panic_on_oops", "1"),
    ("vm.overcommit_memory", "1"),
    ("vm.panic_on_oom", "0"),
];

/// The file at [`paths::KUBELET_CONFIG`].
pub(super) fn configuration(profile: &Profile) -> File {
    let kubelet = &profile.kubelet;
    let mut config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
        },
        "authorization": { "mode": "Webhook" },
        "cgroupDriver": match profile.runtime.cgroup_driver {
            CgroupDriver::Systemd => "systemd",
            CgroupDriver::Cgroupfs => "cgroupfs",
        },
        "containerRuntimeEndpoint": format!("unix://{}", paths::CRI_SOCKET),
        "cpuManagerPolicy": match kubelet.cpu_manager {
            CpuManager::None => "none",
            CpuManager::Static => "static",
        },
        "enforceNodeAllocatable": ["pods"],
        "failSwapOn": true,
        "healthzBindAddress": "127.0.0.1",
        "maxPods": kubelet.max_pods,
        "readOnlyPort": 0,
        "rotateCertificates": true,
        "seccompDefault": profile.runtime.seccomp_default == SeccompDefault::RuntimeDefault,
        "serverTLSBootstrap": true,
        "staticPodPath": "/etc/kubernetes/manifests",
        "systemReserved": {
            "cpu": kubelet.reserved.cpu.to_string(),
            // Kubernetes has no unit of one byte; a bare number is bytes.
            "memory": kubelet.reserved.memory.get().to_string(),
        },
        "topologyManagerPolicy": match kubelet.topology_manager {
            TopologyManager::None => "none",
            TopologyManager::BestEffort => "best-effort",
            TopologyManager::Restricted => "restricted",
            TopologyManager::SingleNumaNode => "single-numa-node",
        },
        "volumePluginDir": "/var/lib/kubelet/volumeplugins",
    });
    if !kubelet.taints.is_empty() {
        let taints: Vec<Value> = kubelet
            .taints
            .iter()
            .map(|taint| {
                let (key, value, effect) = taint.parts();
                json!({ "key": key, "value": value, "effect": effect })
            })
            .collect();
        config["registerWithTaints"] = taints.into();
    }
    if kubelet.hardening {
        config["eventRecordQPS"] = 5.into();
        config["podPidsLimit"] = 4096.into();
        config["protectKernelDefaults"] = true.into();
        config["streamingConnectionIdleTimeout"] = "5m".into();
        config["tlsMinVersion"] = "VersionTLS12".into();
        config["tlsCipherSuites"] = json!([
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
        ]);
    }
    if let Value::Object(below) = &mut config {
        lay_over(below, &kubelet.config);
    }
    File::json(paths::KUBELET_CONFIG, &config)
}

/// Merges objects field by field; anything else is replaced.
fn lay_over(below: &mut Map<String, Value>, above: &Map<String, Value>) {
    for (field, value) in above {
        match (below.get_mut(field), value) {
            (Some(Value::Object(below)), Value::Object(above)) => lay_over(below, above),
            _ => {
                below.insert(field.clone(), value.clone());
            }
        }
    }
}
