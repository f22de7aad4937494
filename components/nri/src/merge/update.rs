//! Changes to containers that are there.

use super::{
    MergeError,
    owners::{Claimant, Conflict, Owners},
    resources,
};
use crate::api::{
    ChangeResponse, Container, ContainerEviction, ContainerUpdate, LinuxResources, PodSandbox,
    UpdateContainerRequest,
};

/// Updates of several plugins, one for each container.
#[derive(Debug, Default)]
pub(super) struct Updates {
    updates: Vec<ContainerUpdate>,
}

impl Updates {
    /// Takes over a plugin's updates. One that may fail and contradicts an earlier one is left out.
    pub(super) fn apply(
        &mut self,
        plugin: &str,
        updates: Vec<ContainerUpdate>,
        owners: &mut Owners,
    ) -> Result<(), Conflict> {
        for update in updates {
            let wanted = update.linux.as_ref().and_then(|linux| linux.resources.as_ref());
            let before = owners.clone();
            let who = Claimant { plugin, container: &update.container_id };
            let claimed = wanted
                .map_or_else(Vec::new, resources::set)
                .into_iter()
                .try_for_each(|(field, key)| owners.claim(who, field, key));
            match claimed {
                Ok(()) => self.add(&update.container_id, wanted, update.ignore_failure),
                Err(conflict) if update.ignore_failure => {
                    tracing::info!("an update is left out: {conflict}");
                    *owners = before;
                }
                Err(conflict) => return Err(conflict),
            }
        }
        Ok(())
    }

    fn add(&mut self, container: &str, wanted: Option<&LinuxResources>, ignore_failure: bool) {
        let at = self.updates.iter().position(|held| held.container_id == container);
        let at = at.unwrap_or_else(|| {
            self.updates.push(ContainerUpdate {
                container_id: container.to_owned(),
                linux: None,
                ignore_failure,
            });
            self.updates.len() - 1
        });
        let held = &mut self.updates[at];
        held.ignore_failure &= ignore_failure;
        if let Some(wanted) = wanted {
            let linux = held.linux.get_or_insert_default();
            resources::overlay(linux.resources.get_or_insert_default(), wanted);
        }
    }

    pub(super) fn finish(self) -> Vec<ContainerUpdate> {
        self.updates
    }
}

/// What plugins want while a container is updated or has stopped.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// Limits of the container itself, over those that were asked for.
    pub own: Option<LinuxResources>,
    /// Changes to others.
    pub update: Vec<ContainerUpdate>,
    /// Containers to stop.
    pub evict: Vec<ContainerEviction>,
}

/// An update of a container or its stop, on its way from plugin to plugin.
#[derive(Debug)]
pub struct Change {
    /// What the next plugin is shown. A stop has no resources in it.
    pub request: UpdateContainerRequest,
    updates: Updates,
    evict: Vec<ContainerEviction>,
    owners: Owners,
}

impl Change {
    /// Nothing changed yet.
    pub fn new(pod: PodSandbox, container: Container, resources: Option<LinuxResources>) -> Self {
        Self {
            request: UpdateContainerRequest {
                pod: Some(pod),
                container: Some(container),
                linux_resources: resources,
            },
            updates: Updates::default(),
            evict: Vec::new(),
            owners: Owners::default(),
        }
    }

    fn id(&self) -> String {
        self.request.container.as_ref().map(|container| container.id.clone()).unwrap_or_default()
    }

    /// Takes over what a plugin wants.
    ///
    /// # Errors
    /// When it contradicts an earlier one.
    pub fn apply(&mut self, plugin: &str, response: ChangeResponse) -> Result<(), MergeError> {
        self.updates.apply(plugin, response.update, &mut self.owners)?;
        self.evict.extend(response.evict);
        let id = self.id();
        let own = self.updates.updates.iter().find(|update| update.container_id == id);
        if let Some(own) = own.and_then(|update| update.linux.as_ref()?.resources.as_ref()) {
            resources::overlay(self.request.linux_resources.get_or_insert_default(), own);
        }
        Ok(())
    }

    /// What has come together.
    pub fn finish(self) -> Changes {
        let id = self.id();
        let (own, update): (Vec<_>, Vec<_>) =
            self.updates.finish().into_iter().partition(|update| update.container_id == id);
        let own = own.into_iter().find_map(|update| update.linux?.resources);
        Changes { own, update, evict: self.evict }
    }
}
