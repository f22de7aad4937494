//! New limits for what runs.

use super::{
    Runtime, RuntimeError,
    state::{Container, PodPhase},
};
use crate::{
    cgroup::{Cgroup, Resources, layout},
    shim::launch::SPEC_FILE,
};
use cairn_contract::cri;
use serde_json::Value;
use std::{fs, io, path::Path, sync::Arc};

impl Runtime {
    /// The container that a request is for, and what it asks for, if that can be.
    pub(super) fn container_update(
        &self,
        request: &cri::UpdateContainerResourcesRequest,
    ) -> Result<(Arc<Container>, Resources), RuntimeError> {
        if request.windows.is_some() {
            return Err(RuntimeError::Invalid("windows resources do not fit a Linux container".to_owned()));
        }
        if let Some(key) = request.annotations.keys().next() {
            return Err(RuntimeError::Invalid(format!("annotation {key}: updates know no annotations")));
        }
        let update = request.linux.as_ref().map(Resources::from).unwrap_or_default();
        update.check(layout()).map_err(RuntimeError::Invalid)?;
        Ok((self.container(&request.container_id)?, update))
    }

    /// Changes the limits of a container. What is not set stays as it is.
    pub(super) fn limit_container(
        &self,
        container: &Container,
        update: &Resources,
    ) -> Result<(), RuntimeError> {
        {
            let mut record = container.record();
            let fault = |error: io::Error| RuntimeError::fault("cannot update the container", error);
            let score = (update.oom_score_adj != 0 && update.oom_score_adj != record.resources.oom_score_adj)
                .then_some(update.oom_score_adj);
            match record.state() {
                cri::ContainerState::ContainerExited => {
                    return Err(RuntimeError::State(format!("container {} has ended", record.id)));
                }
                cri::ContainerState::ContainerRunning => {
                    let cgroup = Cgroup::new(&record.cgroup);
                    update.completed_by(&record.resources).apply(&cgroup).map_err(fault)?;
                    if let Some(score) = score {
                        set_score(&cgroup, score).map_err(fault)?;
                    }
                }
                // Limits are set when it starts; the score is the process's, so it stands in its specification.
                _ => {
                    if let Some(score) = score {
                        note_score(&self.bundle(&record.id).join(SPEC_FILE), score).map_err(fault)?;
                    }
                }
            }
            record.resources.merge(update);
        }
        self.save_container(container)
    }

    /// Notes a pod's new resources and overhead. The kubelet has changed the pod's cgroup by then, and the sandbox's own
    /// below it is not limited, so there is nothing to enforce.
    pub(super) fn note_pod_resources(
        &self,
        request: &cri::UpdatePodSandboxResourcesRequest,
    ) -> Result<(), RuntimeError> {
        let pod = self.pod(&request.pod_sandbox_id)?;
        for resources in [&request.overhead, &request.resources].into_iter().flatten() {
            Resources::from(resources).check(layout()).map_err(RuntimeError::Invalid)?;
        }
        {
            let mut record = pod.record();
            if record.phase != PodPhase::Ready {
                return Err(RuntimeError::State(format!("pod sandbox {} is not ready", record.id)));
            }
            let linux = record.config.linux.get_or_insert_default();
            for (held, new) in
                [(&mut linux.overhead, &request.overhead), (&mut linux.resources, &request.resources)]
            {
                if new.is_some() {
                    held.clone_from(new);
                }
            }
        }
        self.save_pod(&pod)
    }
}

/// Gives a score to every process of a cgroup.
fn set_score(cgroup: &Cgroup, score: i64) -> io::Result<()> {
    for pid in cgroup.processes() {
        match fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string()) {
            // It may have ended meanwhile.
            Err(error)
                if error.kind() != io::ErrorKind::NotFound && error.raw_os_error() != Some(libc::ESRCH) =>
            {
                return Err(io::Error::new(error.kind(), format!("oom_score_adj {score}: {error}")));
            }
            _ => {}
        }
    }
    Ok(())
}

fn note_score(spec: &Path, score: i64) -> io::Result<()> {
    let mut document: Value = serde_json::from_slice(&fs::read(spec)?)?;
    document["process"]["oomScoreAdj"] = score.into();
    let beside = spec.with_extension("new");
    fs::write(&beside, serde_json::to_vec(&document)?)?;
    fs::rename(beside, spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_is_noted_in_the_specification() {
        let directory = tempfile::tempdir().unwrap();
        let spec = directory.path().join("spec.json");
        fs::write(&spec, r#"{"process":{"args":["a"],"oomScoreAdj":1}}"#).unwrap();
        note_score(&spec, -7).unwrap();
        let document: Value = serde_json::from_slice(&fs::read(&spec).unwrap()).unwrap();
        assert_eq!(document, serde_json::json!({"process": {"args": ["a"], "oomScoreAdj": -7}}));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
