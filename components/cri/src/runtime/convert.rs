//! Records as CRI messages, and the filters of CRI's lists.

use super::{
    image_volumes,
    state::{ContainerRecord, PodPhase, PodRecord},
};
use cairn_contract::cri;
use std::collections::HashMap;

/// The sandbox's state in CRI's terms.
pub(super) fn pod_state(record: &PodRecord) -> cri::PodSandboxState {
    if record.phase == PodPhase::Ready {
        cri::PodSandboxState::SandboxReady
    } else {
        cri::PodSandboxState::SandboxNotready
    }
}

pub(super) fn pod_item(record: &PodRecord) -> cri::PodSandbox {
    cri::PodSandbox {
        id: record.id.clone(),
        metadata: record.config.metadata.clone(),
        state: pod_state(record).into(),
        created_at: record.created_at,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        runtime_handler: record.handler.clone(),
    }
}

pub(super) fn pod_status(record: &PodRecord) -> cri::PodSandboxStatus {
    let mut addresses = record.addresses.iter().map(ToString::to_string);
    cri::PodSandboxStatus {
        id: record.id.clone(),
        metadata: record.config.metadata.clone(),
        state: pod_state(record).into(),
        created_at: record.created_at,
        network: Some(cri::PodSandboxNetworkStatus {
            ip: addresses.next().unwrap_or_default(),
            additional_ips: addresses.map(|ip| cri::PodIp { ip }).collect(),
        }),
        linux: Some(cri::LinuxPodSandboxStatus {
            namespaces: Some(cri::Namespace { options: Some(record.namespaces()) }),
        }),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        runtime_handler: record.handler.clone(),
    }
}

pub(super) fn container_item(record: &ContainerRecord) -> cri::Container {
    cri::Container {
        id: record.id.clone(),
        pod_sandbox_id: record.sandbox.clone(),
        metadata: record.config.metadata.clone(),
        image: record.config.image.clone(),
        image_ref: record.image_ref.clone(),
        state: record.state().into(),
        created_at: record.created_at,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        image_id: record.image_id.clone(),
    }
}

pub(super) fn container_status(record: &ContainerRecord) -> cri::ContainerStatus {
    let exit = record.exit.as_ref();
    let reason = match exit {
        _ if !record.reason.is_empty() => record.reason.clone(),
        Some(exit) if exit.oom_killed => "OOMKilled".to_owned(),
        Some(exit) if exit.code == 0 => "Completed".to_owned(),
        Some(_) => "Error".to_owned(),
        None => String::new(),
    };
    let (uid, gid, groups) = &record.user;
    cri::ContainerStatus {
        id: record.id.clone(),
        metadata: record.config.metadata.clone(),
        state: record.state().into(),
        created_at: record.created_at,
        started_at: record.started_at,
        finished_at: exit.map_or(0, |exit| exit.finished_at),
        exit_code: exit.map_or(0, |exit| exit.code),
        image: image(record),
        image_ref: record.image_ref.clone(),
        reason,
        message: record.message.clone(),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        mounts: mounts(record),
        log_path: record.log.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        resources: Some(cri::ContainerResources { linux: Some((&record.resources).into()), windows: None }),
        image_id: record.image_id.clone(),
        user: Some(cri::ContainerUser {
            linux: Some(cri::LinuxContainerUser {
                uid: i64::from(*uid),
                gid: i64::from(*gid),
                supplemental_groups: groups.iter().copied().map(i64::from).collect(),
            }),
        }),
        stop_signal: record.config.stop_signal,
    }
}

/// The image as people know it: the kubelet creates containers by an image's id, and shows this in the pod's status.
fn image(record: &ContainerRecord) -> Option<cri::ImageSpec> {
    let mut spec = record.config.image.clone()?;
    if !record.image_name.is_empty() {
        spec.image.clone_from(&record.image_name);
    }
    Some(spec)
}

/// Every selected label is there with its value.
pub(super) fn labels_match(labels: &HashMap<String, String>, selector: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

pub(super) fn pod_matches(record: &PodRecord, filter: Option<&cri::PodSandboxFilter>) -> bool {
    filter.is_none_or(|filter| {
        record.id.starts_with(&filter.id)
            && filter.state.as_ref().is_none_or(|wanted| wanted.state() == pod_state(record))
            && labels_match(&record.config.labels, &filter.label_selector)
    })
}

pub(super) fn container_matches(record: &ContainerRecord, filter: Option<&cri::ContainerFilter>) -> bool {
    filter.is_none_or(|filter| {
        record.id.starts_with(&filter.id)
            && record.sandbox.starts_with(&filter.pod_sandbox_id)
            && filter.state.as_ref().is_none_or(|wanted| wanted.state() == record.state())
            && labels_match(&record.config.labels, &filter.label_selector)
    })
}

/// A container's mounts as asked for; those of images say by id which image it is.
fn mounts(record: &ContainerRecord) -> Vec<cri::Mount> {
    let mut all = record.config.mounts.clone();
    let images = all.iter_mut().filter(|mount| image_volumes::wanted(mount).is_some());
    for (mount, id) in images.zip(&record.volumes) {
        if let Some(image) = &mut mount.image {
            image.image_ref.clone_from(id);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cgroup::Resources, protocol::Exit};

    fn record() -> ContainerRecord {
        ContainerRecord {
            id: "abcdef".into(),
            sandbox: "123456".into(),
            config: cri::ContainerConfig {
                labels: HashMap::from([("app".to_owned(), "web".to_owned())]),
                ..Default::default()
            },
            created_at: 1,
            started_at: 0,
            pid: 0,
            exit: None,
            reason: String::new(),
            message: String::new(),
            image_id: String::new(),
            volumes: Vec::new(),
            image_ref: String::new(),
            image_name: String::new(),
            stop_signal: 15,
            log: None,
            cgroup: "/x".into(),
            resources: Resources::default(),
            user: (0, 0, vec![]),
            shares_pids: false,
        }
    }

    #[test]
    fn filters_are_conjunctions() {
        let matches = |filter: cri::ContainerFilter| container_matches(&record(), Some(&filter));
        let label = |value: &str| HashMap::from([("app".to_owned(), value.to_owned())]);
        assert!(container_matches(&record(), None));
        assert!(matches(cri::ContainerFilter {
            id: "abc".into(),
            label_selector: label("web"),
            ..Default::default()
        }));
        assert!(!matches(cri::ContainerFilter {
            id: "abc".into(),
            label_selector: label("db"),
            ..Default::default()
        }));
        assert!(!matches(cri::ContainerFilter { pod_sandbox_id: "9".into(), ..Default::default() }));
        let running = cri::ContainerStateValue { state: cri::ContainerState::ContainerRunning.into() };
        assert!(!matches(cri::ContainerFilter { state: Some(running), ..Default::default() }));
    }

    #[test]
    fn an_end_has_a_reason() {
        let reason = |code, oom_killed| {
            let exit = Some(Exit { code, finished_at: 9, oom_killed });
            container_status(&ContainerRecord { started_at: 5, exit, ..record() }).reason
        };
        assert_eq!(
            (reason(0, false), reason(3, false), reason(137, true)),
            ("Completed".to_owned(), "Error".to_owned(), "OOMKilled".to_owned())
        );
        assert_eq!(container_status(&record()).reason, "");
    }

    #[test]
    fn an_image_has_the_name_that_people_know() {
        let image = |name: &str| {
            let spec = cri::ImageSpec { image: "sha256:1".into(), ..Default::default() };
            let config = cri::ContainerConfig { image: Some(spec), ..record().config };
            let record = ContainerRecord { config, image_name: name.into(), ..record() };
            (container_status(&record).image.unwrap().image, container_item(&record).image.unwrap().image)
        };
        assert_eq!(image("r.example/a:1"), ("r.example/a:1".to_owned(), "sha256:1".to_owned()));
        assert_eq!(image(""), ("sha256:1".to_owned(), "sha256:1".to_owned()));
    }

    #[test]
    fn records_survive_json() {
        let text = serde_json::to_string(&record()).unwrap();
        let back: ContainerRecord = serde_json::from_str(&text).unwrap();
        assert_eq!(back.config, record().config);
    }
}
