//! Pods and containers as NRI plugins see them.

use crate::{
    cgroup::Resources,
    runtime::{
        Runtime,
        state::{ContainerRecord, PodRecord},
    },
    shim::{launch::SPEC_FILE, sandbox},
};
use cairn_contract::cri;
use cairn_nri::api::{
    CdiDevice, Container, ContainerState, Hook, Hooks, HugepageLimit, Image, LinuxContainer, LinuxCpu,
    LinuxDevice, LinuxIoPriority, LinuxMemory, LinuxNamespace, LinuxPids, LinuxPodSandbox, LinuxResources,
    Mount, OptionalFileMode, OptionalInt, OptionalInt64, OptionalUInt32, OptionalUInt64, PodSandbox,
    PosixRlimit, SecurityProfile, User,
};
use oci_spec::runtime::{self as oci, Spec};
use serde::Serialize;
use std::path::Path;

impl Runtime {
    pub(super) fn describe_pod(&self, record: &PodRecord) -> PodSandbox {
        let metadata = record.config.metadata.clone().unwrap_or_default();
        let linux = record.config.linux.clone().unwrap_or_default();
        let run = self.pod_run(&record.id);
        let namespaces = ["user", "net", "uts", "ipc", "pid"].into_iter().filter_map(|name| {
            let path = sandbox::namespace_path(&run, name);
            let kind = if name == "net" { "network" } else { name };
            sandbox::is_pinned(&path)
                .then(|| LinuxNamespace { r#type: kind.to_owned(), path: path.display().to_string() })
        });
        let resources = |given: &Option<cri::LinuxContainerResources>| {
            given.as_ref().map(|given| limits(&Resources::from(given)))
        };
        PodSandbox {
            id: record.id.clone(),
            name: metadata.name,
            uid: metadata.uid,
            namespace: metadata.namespace,
            labels: record.config.labels.clone().into_iter().collect(),
            annotations: record.config.annotations.clone().into_iter().collect(),
            runtime_handler: record.handler.clone(),
            linux: Some(LinuxPodSandbox {
                pod_overhead: resources(&linux.overhead),
                pod_resources: resources(&linux.resources),
                cgroup_parent: linux.cgroup_parent,
                cgroups_path: record.cgroup.display().to_string(),
                namespaces: namespaces.collect(),
                resources: None,
            }),
            // There is no process that stands for the pod.
            pid: 0,
            ips: record.addresses.iter().map(ToString::to_string).collect(),
        }
    }

    /// A container with the configuration it was made with, as long as that is there.
    pub(super) fn describe_container(&self, record: &ContainerRecord) -> Container {
        let mut described = from_record(record);
        if let Ok(spec) = Spec::load(self.bundle(&record.id).join(SPEC_FILE)) {
            add_spec(&mut described, &spec);
        }
        described
    }
}

fn from_record(record: &ContainerRecord) -> Container {
    let status = crate::runtime::convert::container_status(record);
    let state = match record.state() {
        cri::ContainerState::ContainerCreated => ContainerState::ContainerCreated,
        cri::ContainerState::ContainerRunning => ContainerState::ContainerRunning,
        _ => ContainerState::ContainerStopped,
    };
    let (uid, gid, groups) = record.user.clone();
    Container {
        state: state.into(),
        pid: u32::try_from(record.pid).unwrap_or(0),
        created_at: record.created_at,
        started_at: record.started_at,
        finished_at: status.finished_at,
        exit_code: status.exit_code,
        status_reason: status.reason,
        status_message: status.message,
        user: Some(User { uid, gid, additional_gids: groups }),
        image: Some(Image {
            name: record.config.image.as_ref().map(name_of_image).unwrap_or_default(),
            digest: record.image_ref.rsplit('@').next().unwrap_or_default().to_owned(),
            config_digest: record.image_id.clone(),
        }),
        ..from_request(&record.id, &record.sandbox, &record.config, &record.resources)
    }
}

fn name_of_image(image: &cri::ImageSpec) -> String {
    let wanted =
        if image.user_specified_image.is_empty() { &image.image } else { &image.user_specified_image };
    wanted.clone()
}

/// A container that is being made: what was asked for, and its configuration so far.
pub(super) fn draft(
    id: &str,
    pod: &str,
    config: &cri::ContainerConfig,
    resources: &Resources,
    spec: &Spec,
) -> Container {
    let image = config.image.as_ref().map(name_of_image).unwrap_or_default();
    let mut described = Container {
        image: Some(Image { name: image, ..Image::default() }),
        ..from_request(id, pod, config, resources)
    };
    add_spec(&mut described, spec);
    described
}

fn from_request(id: &str, pod: &str, config: &cri::ContainerConfig, resources: &Resources) -> Container {
    let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let profile = security.and_then(|security| security.seccomp.as_ref());
    Container {
        id: id.to_owned(),
        pod_sandbox_id: pod.to_owned(),
        name: config.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default(),
        state: ContainerState::ContainerUnknown.into(),
        labels: config.labels.clone().into_iter().collect(),
        annotations: config.annotations.clone().into_iter().collect(),
        cdi_devices: config
            .cdi_devices
            .iter()
            .map(|device| CdiDevice { name: device.name.clone() })
            .collect(),
        linux: Some(LinuxContainer {
            resources: Some(limits(resources)),
            oom_score_adj: (resources.oom_score_adj != 0)
                .then_some(OptionalInt { value: resources.oom_score_adj }),
            seccomp_profile: profile.map(|profile| SecurityProfile {
                profile_type: profile.profile_type,
                localhost_ref: profile.localhost_ref.clone(),
            }),
            ..LinuxContainer::default()
        }),
        ..Container::default()
    }
}

/// OCI's enumerations are told by their names in JSON.
fn name(of: impl Serialize) -> String {
    serde_json::to_value(of).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn add_spec(described: &mut Container, spec: &Spec) {
    described.annotations.extend(spec.annotations().clone().unwrap_or_default());
    described.mounts = spec.mounts().iter().flatten().map(mount).collect();
    described.hooks = spec.hooks().as_ref().map(hooks);
    if let Some(process) = spec.process() {
        described.args = process.args().clone().unwrap_or_default();
        described.env = process.env().clone().unwrap_or_default();
        let user = process.user();
        described.user = Some(User {
            uid: user.uid(),
            gid: user.gid(),
            additional_gids: user.additional_gids().clone().unwrap_or_default(),
        });
        let limit = |limit: &oci::PosixRlimit| PosixRlimit {
            r#type: name(limit.typ()),
            hard: limit.hard(),
            soft: limit.soft(),
        };
        described.rlimits = process.rlimits().iter().flatten().map(limit).collect();
    }
    let (Some(linux), Some(held)) = (spec.linux(), described.linux.as_mut()) else { return };
    held.namespaces = linux
        .namespaces()
        .iter()
        .flatten()
        .map(|namespace| LinuxNamespace {
            r#type: name(namespace.typ()),
            path: shown(namespace.path().as_deref()),
        })
        .collect();
    held.devices = linux.devices().iter().flatten().map(device).collect();
    held.cgroups_path = shown(linux.cgroups_path().as_deref());
    held.sysctl = linux.sysctl().clone().unwrap_or_default().into_iter().collect();
    let priority = spec.process().as_ref().and_then(|process| process.io_priority().as_ref());
    held.io_priority = priority.map(|priority| LinuxIoPriority {
        class: cairn_nri::api::IoPrioClass::from_str_name(&name(priority.class())).unwrap_or_default().into(),
        priority: i32::try_from(priority.priority()).unwrap_or(0),
    });
}

fn shown(path: Option<&Path>) -> String {
    path.map(|path| path.display().to_string()).unwrap_or_default()
}

fn mount(mount: &oci::Mount) -> Mount {
    Mount {
        destination: mount.destination().display().to_string(),
        r#type: mount.typ().clone().unwrap_or_default(),
        source: shown(mount.source().as_deref()),
        options: mount.options().clone().unwrap_or_default(),
    }
}

#[allow(deprecated)] // see `spec::adjust`
fn hooks(hooks: &oci::Hooks) -> Hooks {
    let list = |hooks: &Option<Vec<oci::Hook>>| hooks.iter().flatten().map(hook).collect();
    Hooks {
        prestart: list(hooks.prestart()),
        create_runtime: list(hooks.create_runtime()),
        create_container: list(hooks.create_container()),
        start_container: list(hooks.start_container()),
        poststart: list(hooks.poststart()),
        poststop: list(hooks.poststop()),
    }
}

fn hook(hook: &oci::Hook) -> Hook {
    Hook {
        path: hook.path().display().to_string(),
        args: hook.args().clone().unwrap_or_default(),
        env: hook.env().clone().unwrap_or_default(),
        timeout: hook.timeout().map(|value| OptionalInt { value }),
    }
}

fn device(device: &oci::LinuxDevice) -> LinuxDevice {
    LinuxDevice {
        path: device.path().display().to_string(),
        r#type: name(device.typ()),
        major: device.major(),
        minor: device.minor(),
        file_mode: device.file_mode().map(|value| OptionalFileMode { value }),
        uid: device.uid().map(|value| OptionalUInt32 { value }),
        gid: device.gid().map(|value| OptionalUInt32 { value }),
    }
}

/// The runtime's limits as NRI's: what is not limited is not told.
pub(super) fn limits(held: &Resources) -> LinuxResources {
    let signed = |value: i64| (value != 0).then_some(OptionalInt64 { value });
    let unsigned = |value: i64| {
        u64::try_from(value).ok().filter(|&value| value != 0).map(|value| OptionalUInt64 { value })
    };
    LinuxResources {
        memory: Some(LinuxMemory {
            limit: signed(held.memory_limit),
            swap: signed(held.memory_swap_limit),
            reservation: signed(held.memory_reservation),
            ..LinuxMemory::default()
        }),
        cpu: Some(LinuxCpu {
            shares: unsigned(held.cpu_shares),
            quota: signed(held.cpu_quota),
            period: unsigned(held.cpu_period),
            cpus: held.cpuset_cpus.clone(),
            mems: held.cpuset_mems.clone(),
            ..LinuxCpu::default()
        }),
        hugepage_limits: held
            .hugepages
            .iter()
            .map(|(size, &limit)| HugepageLimit { page_size: size.clone(), limit })
            .collect(),
        unified: held.unified.clone(),
        pids: (held.pids_limit != 0).then_some(LinuxPids { limit: held.pids_limit }),
        ..LinuxResources::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::limits_of;

    #[test]
    fn limits_are_the_same_there_and_back() {
        let held = Resources {
            cpu_period: 100_000,
            cpu_quota: -1,
            cpu_shares: 512,
            memory_limit: 64 << 20,
            memory_swap_limit: 96 << 20,
            memory_reservation: 1 << 20,
            pids_limit: 9,
            cpuset_cpus: "0-1".into(),
            cpuset_mems: "0".into(),
            hugepages: [("2MB".to_owned(), 0)].into(),
            unified: [("memory.high".to_owned(), "1".to_owned())].into(),
            oom_score_adj: 0,
        };
        assert_eq!(limits_of(&limits(&held)).unwrap(), held);
        assert_eq!(limits_of(&limits(&Resources::default())).unwrap(), Resources::default());
    }

    #[test]
    fn a_container_is_told_with_its_configuration() {
        let spec: Spec = serde_json::from_value(serde_json::json!({
            "ociVersion": "1.2.0",
            "process": {
                "args": ["a"], "env": ["X=1"], "cwd": "/", "user": { "uid": 1, "gid": 2 },
                "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 2, "soft": 1 }],
                "ioPriority": { "class": "IOPRIO_CLASS_IDLE", "priority": 0 }
            },
            "mounts": [{ "destination": "/d", "type": "bind", "source": "/s", "options": ["ro"] }],
            "linux": {
                "namespaces": [{ "type": "network", "path": "/n" }, { "type": "mount" }],
                "devices": [{ "path": "/dev/x", "type": "c", "major": 1, "minor": 3 }]
            }
        }))
        .unwrap();
        let config = cri::ContainerConfig {
            annotations: [("k".to_owned(), "v".to_owned())].into(),
            ..Default::default()
        };
        let told = draft("c", "p", &config, &Resources::default(), &spec);
        assert_eq!(
            (told.args.as_slice(), told.env.as_slice()),
            (&["a".to_owned()][..], &["X=1".to_owned()][..])
        );
        assert_eq!((told.annotations["k"].as_str(), told.user.unwrap().gid), ("v", 2));
        assert_eq!(told.rlimits[0].r#type, "RLIMIT_NOFILE");
        assert_eq!(
            (told.mounts[0].r#type.as_str(), told.mounts[0].options.as_slice()),
            ("bind", &["ro".to_owned()][..])
        );
        let linux = told.linux.unwrap();
        let kinds: Vec<&str> = linux.namespaces.iter().map(|namespace| namespace.r#type.as_str()).collect();
        assert_eq!((kinds.as_slice(), linux.namespaces[0].path.as_str()), (&["network", "mount"][..], "/n"));
        assert_eq!((linux.devices[0].r#type.as_str(), linux.devices[0].minor), ("c", 3));
        assert_eq!(linux.io_priority.unwrap().class().as_str_name(), "IOPRIO_CLASS_IDLE");
    }
}
