//! All plugins: asked one after the other.

use crate::{
    api::{
        ChangeResponse, Container, CreateContainerResponse, Empty, Event, LinuxResources, PluginInstance,
        PodRequest, PodSandbox, UpdatePodSandboxRequest, ValidateContainerAdjustmentRequest,
        ValidateContainerAdjustmentResponse,
    },
    connection::CallError,
    merge::{Change, Changes, Created, Creation, MergeError},
    plugin::{News, Plugin},
};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::sync::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Why plugins do not let something happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NriError {
    /// A plugin says no.
    #[error("NRI plugin {plugin} fails {method}: {error}")]
    Plugin {
        /// Index and name.
        plugin: String,
        /// What it was asked.
        method: &'static str,
        /// Its answer.
        error: CallError,
    },
    /// Plugins contradict each other.
    #[error("NRI: {0}")]
    Merge(#[from] MergeError),
    /// A plugin judges what others want, and rejects it.
    #[error("NRI plugin {plugin} rejects the adjustments of the container: {reason}")]
    Rejected {
        /// Index and name.
        plugin: String,
        /// Why.
        reason: String,
    },
}

/// The plugins of a runtime. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Plugins {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Read while something is between the plugins' knowing of it and the inventory's, written while a plugin comes.
    gate: RwLock<()>,
    /// By name. Held while they are asked, so that they see one thing after the other.
    plugins: Mutex<Vec<Arc<Plugin>>>,
    /// Plugins that are there or just coming.
    count: AtomicUsize,
}

/// Keeps plugins from coming in while something is not yet part of the inventory, or not any more. To be taken
/// once in a row: who holds one must not wait for another.
#[derive(Debug)]
pub struct Held<'a> {
    _gate: RwLockReadGuard<'a, ()>,
}

/// Nobody holds anything while this is there; see [`Held`].
pub(crate) struct Coming<'a> {
    _gate: RwLockWriteGuard<'a, ()>,
    plugins: &'a Plugins,
    stays: bool,
}

impl Coming<'_> {
    /// The plugin is one from now on.
    pub(crate) async fn admit(mut self, plugin: Arc<Plugin>) {
        let mut all = self.plugins.inner.plugins.lock().await;
        let at = all.partition_point(|held| held.name <= plugin.name);
        all.insert(at, plugin);
        self.stays = true;
    }
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        if !self.stays {
            self.plugins.inner.count.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Plugins {
    /// Whether there is a plugin, or one is just coming. If not, there is no need to describe anything to anybody. What
    /// has happened before this says no is in the inventory of whoever comes.
    pub fn are_there(&self) -> bool {
        self.inner.count.load(Ordering::SeqCst) > 0
    }

    /// Holds off plugins that would come in; see [`Held`].
    pub async fn hold(&self) -> Held<'_> {
        Held { _gate: self.inner.gate.read().await }
    }

    /// Waits until nothing is in between.
    pub(crate) async fn coming(&self) -> Coming<'_> {
        // First: from here on nobody leaves out to tell what the inventory might already have.
        self.inner.count.fetch_add(1, Ordering::SeqCst);
        Coming { _gate: self.inner.gate.write().await, plugins: self, stays: false }
    }

    /// Forgets a plugin that is gone.
    pub(crate) async fn forget(&self, plugin: &Arc<Plugin>) {
        let mut all = self.inner.plugins.lock().await;
        let before = all.len();
        all.retain(|held| !Arc::ptr_eq(held, plugin));
        self.inner.count.fetch_sub(before - all.len(), Ordering::SeqCst);
    }

    /// Tells plugins of a pod: RunPodSandbox, PostUpdatePodSandbox, StopPodSandbox, RemovePodSandbox.
    ///
    /// # Errors
    /// The first plugin's that objects; those after it are not told.
    pub async fn tell_pod(&self, event: Event, pod: PodSandbox) -> Result<(), NriError> {
        let request = PodRequest { pod: Some(pod) };
        let Some(pod) = &request.pod else { return Ok(()) };
        for plugin in self.inner.plugins.lock().await.iter() {
            let told = plugin.tell(event, &request, &News { pod, container: None }).await;
            told.map_err(|error| objection(plugin, event, error))?;
        }
        Ok(())
    }

    /// Tells plugins that a pod's resources are to be changed.
    ///
    /// # Errors
    /// The first plugin's that objects.
    pub async fn update_pod(&self, request: &UpdatePodSandboxRequest) -> Result<(), NriError> {
        let event = Event::UpdatePodSandbox;
        for plugin in self.inner.plugins.lock().await.iter() {
            let told = plugin.ask::<Empty>(event, request).await;
            told.map_err(|error| objection(plugin, event, error))?;
        }
        Ok(())
    }

    /// Tells plugins of a container: PostCreateContainer, StartContainer, PostStartContainer, PostUpdateContainer,
    /// RemoveContainer.
    ///
    /// # Errors
    /// The first plugin's that objects.
    pub async fn tell_container(
        &self,
        event: Event,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), NriError> {
        let request = crate::api::ContainerRequest { pod: Some(pod), container: Some(container) };
        let (Some(pod), container) = (&request.pod, request.container.as_ref()) else { return Ok(()) };
        for plugin in self.inner.plugins.lock().await.iter() {
            let told = plugin.tell(event, &request, &News { pod, container }).await;
            told.map_err(|error| objection(plugin, event, error))?;
        }
        Ok(())
    }

    /// Asks plugins how a container is to be made.
    ///
    /// # Errors
    /// A plugin that objects, plugins that contradict each other, or one that rejects what the others want.
    pub async fn create_container(&self, pod: PodSandbox, container: Container) -> Result<Created, NriError> {
        let event = Event::CreateContainer;
        let plugins = self.inner.plugins.lock().await;
        let judges: Vec<_> =
            plugins.iter().filter(|plugin| plugin.wants(Event::ValidateContainerAdjustment)).collect();
        let pristine = (!judges.is_empty()).then(|| (pod.clone(), container.clone()));
        let mut creation = Creation::new(pod, container);
        for plugin in plugins.iter() {
            let asked = plugin.ask::<CreateContainerResponse>(event, &creation.request).await;
            if let Some(response) = asked.map_err(|error| objection(plugin, event, error))? {
                creation.apply(&plugin.name.to_string(), response)?;
            }
        }
        let owners = creation.owners().message();
        let created = creation.finish();
        if let Some((pod, container)) = pristine {
            let request = ValidateContainerAdjustmentRequest {
                pod: Some(pod),
                container: Some(container),
                adjust: Some(created.adjust.clone()),
                update: created.update.clone(),
                owners: Some(owners),
                plugins: plugins
                    .iter()
                    .map(|plugin| PluginInstance {
                        name: plugin.name.base.clone(),
                        index: plugin.name.index.clone(),
                    })
                    .collect(),
            };
            for judge in judges {
                validate(judge, &request).await?;
            }
        }
        Ok(created)
    }

    /// Asks plugins how a container is to be updated.
    ///
    /// # Errors
    /// A plugin that objects, or plugins that contradict each other.
    pub async fn update_container(
        &self,
        pod: PodSandbox,
        container: Container,
        resources: LinuxResources,
    ) -> Result<Changes, NriError> {
        self.change(Event::UpdateContainer, Change::new(pod, container, Some(resources))).await
    }

    /// Tells plugins that a container has stopped; what they want of others then.
    ///
    /// # Errors
    /// A plugin that objects, or plugins that contradict each other.
    pub async fn stop_container(&self, pod: PodSandbox, container: Container) -> Result<Changes, NriError> {
        self.change(Event::StopContainer, Change::new(pod, container, None)).await
    }

    async fn change(&self, event: Event, mut change: Change) -> Result<Changes, NriError> {
        for plugin in self.inner.plugins.lock().await.iter() {
            let asked = plugin.ask::<ChangeResponse>(event, &change.request).await;
            if let Some(response) = asked.map_err(|error| objection(plugin, event, error))? {
                change.apply(&plugin.name.to_string(), response)?;
            }
        }
        Ok(change.finish())
    }

    /// Says good-bye to all.
    pub async fn shut_down(&self) {
        for plugin in self.inner.plugins.lock().await.drain(..) {
            plugin.shut_down().await;
        }
    }
}

fn objection(plugin: &Plugin, event: Event, error: CallError) -> NriError {
    NriError::Plugin { plugin: plugin.name.to_string(), method: event.method(), error }
}

/// A judge that cannot be asked has not agreed.
async fn validate(judge: &Plugin, request: &ValidateContainerAdjustmentRequest) -> Result<(), NriError> {
    let rejected =
        |reason: &str| Err(NriError::Rejected { plugin: judge.name.to_string(), reason: reason.to_owned() });
    let event = Event::ValidateContainerAdjustment;
    match judge.ask::<ValidateContainerAdjustmentResponse>(event, request).await {
        Ok(Some(verdict)) if verdict.reject => rejected(&verdict.reason),
        Ok(Some(_)) => Ok(()),
        Ok(None) => rejected("it went away instead of agreeing"),
        Err(error) => Err(objection(judge, event, error)),
    }
}
