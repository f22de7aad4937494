//! Checks on `[runtime]`, `[kubelet]`, `[images]` and `[security]`.

use super::{Finding, ProfileCheck, Severity};
use crate::profile::Resolved;
use crate::profile::model::{Api, Console};
use cairn_contract::paths;
use cairn_contract::runtime::CgroupDriver;
use serde_json::Value;
use std::collections::BTreeSet;

pub(super) const CHECKS: &[ProfileCheck] = &[
    ProfileCheck {
        id: "runtime.cgroup-driver",
        severity: Severity::Fatal,
        rule: "the runtime's cgroup driver is the kubelet's",
        run: cgroup_driver,
    },
    ProfileCheck {
        id: "runtime.endpoint",
        severity: Severity::Fatal,
        rule: "the kubelet talks to Cairn's runtime",
        run: endpoint,
    },
    ProfileCheck {
        id: "runtime.images",
        severity: Severity::Fatal,
        rule: "every image that the node itself names is baked in, or its registry is configured",
        run: images,
    },
    ProfileCheck {
        id: "images.names",
        severity: Severity::Fatal,
        rule: "no two images are baked in under one name, and their files exist",
        run: baked,
    },
    ProfileCheck {
        id: "kubelet.binary",
        severity: Severity::Fatal,
        rule: "the kubelet's program is given in one way and can be verified",
        run: kubelet_binary,
    },
    ProfileCheck {
        id: "kubelet.static-cpus",
        severity: Severity::Fatal,
        rule: "the static CPU manager has CPUs reserved for the system, or it refuses to start",
        run: static_cpus,
    },
    ProfileCheck {
        id: "kubelet.alpha",
        severity: Severity::Warning,
        rule: "alpha features are off (ra2.k8s.012, ra2.k8s.019)",
        run: alpha,
    },
    ProfileCheck {
        id: "kubelet.labels",
        severity: Severity::Warning,
        rule: "the node carries a label of the Anuket profiles (ra2.k8s.011)",
        run: labels,
    },
    ProfileCheck {
        id: "security.reachable",
        severity: Severity::Warning,
        rule: "a node that fails can be looked at in some way",
        run: reachable,
    },
    ProfileCheck {
        id: "security.secure-boot",
        severity: Severity::Fatal,
        rule: "the Secure Boot keys exist",
        run: secure_boot,
    },
];

fn driver_name(driver: CgroupDriver) -> &'static str {
    match driver {
        CgroupDriver::Systemd => "systemd",
        CgroupDriver::Cgroupfs => "cgroupfs",
    }
}

fn cgroup_driver(resolved: &Resolved) -> Vec<Finding> {
    let profile = &resolved.profile;
    let runtime = driver_name(profile.runtime.cgroup_driver);
    match profile.kubelet.config.get("cgroupDriver") {
        Some(kubelet) if kubelet != runtime => vec![Finding::new(
            "kubelet.config.cgroupDriver",
            format!(
                "is {kubelet}, but runtime.cgroup_driver is \"{runtime}\": the two would fight over every pod"
            ),
            "remove it; Cairn sets the kubelet's from runtime.cgroup_driver",
        )],
        _ => Vec::new(),
    }
}

fn endpoint(resolved: &Resolved) -> Vec<Finding> {
    let expected = format!("unix://{}", paths::CRI_SOCKET);
    let config = &resolved.profile.kubelet.config;
    ["containerRuntimeEndpoint", "imageServiceEndpoint"]
        .into_iter()
        .filter_map(|field| {
            let value = config.get(field).filter(|value| **value != expected.as_str())?;
            Some(Finding::new(
                format!("kubelet.config.{field}"),
                format!("is {value}, but Cairn's runtime listens on {expected}"),
                "remove it; Cairn sets it",
            ))
        })
        .collect()
}

fn images(resolved: &Resolved) -> Vec<Finding> {
    let profile = &resolved.profile;
    let Some(image) = &profile.runtime.sandbox_image else { return Vec::new() };
    let baked = profile.images.bake.iter().any(|bake| bake.name == *image);
    let registry = profile.runtime.registries.keys().any(|host| host.as_str() == image.host());
    if baked || registry {
        return Vec::new();
    }
    vec![Finding::new(
        "runtime.sandbox_image",
        format!(
            "{image} is neither baked in nor is its registry configured: a node without that registry starts no pod"
        ),
        format!(
            "add it to images.bake, or declare [runtime.registries.\"{}\"], or leave sandbox_image out",
            image.host()
        ),
    )]
}

fn baked(resolved: &Resolved) -> Vec<Finding> {
    let mut seen = BTreeSet::new();
    let mut findings = Vec::new();
    for (index, bake) in resolved.profile.images.bake.iter().enumerate() {
        if !seen.insert(&bake.name) {
            findings.push(Finding::new(
                format!("images.bake[{index}].name"),
                format!("{} is baked in twice", bake.name),
                "give each image its own name",
            ));
        }
        if let Some(path) = &bake.path {
            findings.extend(missing_file(
                resolved,
                &format!("images.bake[{index}].path"),
                path,
                "an OCI image layout",
            ));
        }
    }
    findings
}

/// A finding if the file that `key` names is not there.
fn missing_file(
    resolved: &Resolved,
    key: &str,
    path: &crate::profile::value::HostPath,
    what: &str,
) -> Option<Finding> {
    let full = resolved.host_path(path);
    (!full.exists()).then(|| {
        Finding::new(
            key,
            format!("{} does not exist", full.display()),
            format!("give the path of {what}, relative to the folder of the profile"),
        )
    })
}

fn kubelet_binary(resolved: &Resolved) -> Vec<Finding> {
    let kubelet = &resolved.profile.kubelet;
    match (&kubelet.path, &kubelet.url, &kubelet.sha256) {
        (Some(_), Some(_), _) => vec![Finding::new(
            "kubelet.url",
            "the program is given by `path` and by `url`",
            "keep one of the two",
        )],
        (None, Some(_), None) => vec![Finding::new(
            "kubelet.sha256",
            "is missing: what `url` serves could not be verified",
            "give the digest that the publisher states beside the program",
        )],
        (None, None, Some(_)) => vec![Finding::new(
            "kubelet.sha256",
            "is the digest of nothing: there is neither `path` nor `url`",
            "give one of them, or remove it",
        )],
        (Some(path), None, _) => {
            missing_file(resolved, "kubelet.path", path, "the kubelet").into_iter().collect()
        }
        _ => Vec::new(),
    }
}

fn static_cpus(resolved: &Resolved) -> Vec<Finding> {
    let kubelet = &resolved.profile.kubelet;
    let nothing = kubelet.reserved.cpu.as_str().trim_end_matches('m').bytes().all(|b| b"0.".contains(&b));
    let reserved_set = kubelet.config.contains_key("reservedSystemCPUs");
    if kubelet.cpu_manager == crate::profile::model::CpuManager::Static && nothing && !reserved_set {
        return vec![Finding::new(
            "kubelet.reserved.cpu",
            "is zero, and the static CPU manager does not start without CPUs for the system",
            "reserve some, such as \"500m\"",
        )];
    }
    Vec::new()
}

fn alpha(resolved: &Resolved) -> Vec<Finding> {
    let gates = resolved.profile.kubelet.config.get("featureGates").and_then(Value::as_object);
    match gates.and_then(|gates| gates.get("AllAlpha")) {
        Some(Value::Bool(true)) => vec![Finding::new(
            "kubelet.config.featureGates.AllAlpha",
            "turns on every alpha feature, against ra2.k8s.012",
            "name the features that are needed, or remove it",
        )],
        _ => Vec::new(),
    }
}

/// RA2 writes `anuket.io/profile/basic: true`, but a label key has at most one `/` (Kubernetes refuses the node
/// otherwise), so its implementations and its own conformance tests use this key with the profile as the value.
const RA2_LABEL: &str = "anuket.io/profile";
const RA2_PROFILES: [&str; 2] = ["basic", "network-intensive"];

fn labels(resolved: &Resolved) -> Vec<Finding> {
    let label = resolved.profile.kubelet.labels.iter().find(|(key, _)| key.as_str() == RA2_LABEL);
    let problem = match label {
        Some((_, value)) if RA2_PROFILES.contains(&value.as_str()) => return Vec::new(),
        Some((_, value)) => format!("{RA2_LABEL} is `{value}`, which is no Anuket profile"),
        None => format!("{RA2_LABEL} is missing: nobody can tell what the node is for"),
    };
    let fix = format!("set \"{RA2_LABEL}\" to one of {}", RA2_PROFILES.join(", "));
    vec![Finding::new("kubelet.labels", problem, fix)]
}

fn reachable(resolved: &Resolved) -> Vec<Finding> {
    let security = &resolved.profile.security;
    if security.console == Console::None && security.api == Api::Off {
        return vec![Finding::new(
            "security.console",
            "with console = \"none\" and api = \"off\" nobody can see why a node does not come up",
            "set console = \"status\" or api = \"mutual-tls\"",
        )];
    }
    Vec::new()
}

fn secure_boot(resolved: &Resolved) -> Vec<Finding> {
    let Some(keys) = &resolved.profile.security.secure_boot else { return Vec::new() };
    let key = missing_file(resolved, "security.secure_boot.key", &keys.key, "a private key, PEM");
    let certificate =
        missing_file(resolved, "security.secure_boot.certificate", &keys.certificate, "its certificate, PEM");
    key.into_iter().chain(certificate).collect()
}
